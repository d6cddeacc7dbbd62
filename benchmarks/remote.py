"""Measures `score | select` on predictions on object storage against the same predictions on a disk:

    python benchmarks/remote.py [--scenes 40] [--points 60000] [--repeats 3] [--delay 0]

The object storage is a local server that speaks S3 (moto), in a process of its own that shares the cores with hpal.
Prints the requests of each kind that a scene takes, and the seconds of both, taken in turns. --delay: milliseconds that
the server waits before each answer, as a network would.
"""

from __future__ import annotations

import argparse
import collections
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

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


def score_and_select(store: object, out: Path) -> float:
    """Seconds of `hpal score STORE | hpal select`, which writes the points to `out`."""
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
    return time.monotonic() - begin


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--scenes", type=int, default=40)
    parser.add_argument("--points", type=int, default=60_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--delay", type=float, default=0.0)
    given = parser.parse_args()
    spawn = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as place, spawn.Manager() as manager:
        folder, port, counts = Path(place), manager.Queue(), manager.dict()
        server = spawn.Process(target=serve, args=(port, counts, given.delay / 1000), daemon=True)
        server.start()
        address = f"http://127.0.0.1:{port.get()}"
        about = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "us-east-1"}
        os.environ.update({"AWS_ENDPOINT_URL": address, **about})
        urllib.request.urlopen(urllib.request.Request(f"{address}/bench", method="PUT")).close()

        def requests(what: str) -> None:
            each = collections.Counter(dict(counts))
            counts.clear()
            print(f"{what}: " + ", ".join(f"{n / given.scenes:.1f} {kind}" for kind, n in sorted(each.items())))

        stores = {"disk": folder / "preds.zarr", "s3": located("s3://bench/preds.zarr")}
        for store in stores.values():
            begin = time.monotonic()
            make(store, given.scenes, given.points)
            print(f"written in {time.monotonic() - begin:.1f} s: {store}")
        requests("requests a scene to write")
        seconds: dict[str, list[float]] = {name: [] for name in stores}
        for turn in range(given.repeats):
            for name, store in stores.items():
                seconds[name].append(score_and_select(store, folder / f"{name}.ply"))
            if not turn:
                requests("requests a scene of score | select")
        for name, took in seconds.items():
            print(f"{name}: {', '.join(f'{one:.2f}' for one in took)} s")
        print(f"ratio of the medians: {statistics.median(seconds['s3']) / statistics.median(seconds['disk']):.2f}")
        server.terminate()


if __name__ == "__main__":
    main()
