"""What the tests share: a tiny office, its scenes store, predictions that nobody trained, and `hpal` in a process."""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import os
import pty
import select
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

# Triton looks at this when its own library is imported, which torch's optimizers do: so before all tests, not in those
# of the kernels. What only a GPU shows is in benchmarks/gpu.sh.
os.environ["TRITON_INTERPRET"] = "1"

from hpal_cli.classes import ClassTable
from hpal_cli.demo.office import make_office
from hpal_cli.predictions.store import write_scene
from hpal_cli.scene_table import SceneInfo, SceneTable, fingerprint
from hpal_cli.scenes.metadata import metadata_of
from hpal_cli.scenes.prepare import prepare
from hpal_cli.scenes.store import Points, SceneStore
from hpal_cli.store import envelope

VAL = "Area_2/*"
GRID = 0.15
FEATURES = 12


class Done(NamedTuple):
    """How a command ended."""

    rc: int
    out: bytes
    err: str


def environment() -> dict[str, str]:
    """A shell without the colours, terminal sizes and completion variables of whoever runs the tests, and without the
    interpreter of Triton's kernels."""
    not_kept = ("_HPAL", "COMP_", "FORCE_COLOR", "PYTEST", "TRITON")
    keep = {k: v for k, v in os.environ.items() if not k.startswith(not_kept)}
    return {**keep, "NO_COLOR": "1", "COLUMNS": "200", "PYTHONUNBUFFERED": "", "OMP_NUM_THREADS": "1"}


def put_program(folder: Path, text: str) -> Path:
    """`folder/bin/hpal`, for scripts and other programs to find on their PATH."""
    program = folder / "bin" / "hpal"
    program.parent.mkdir()
    program.write_text(text, encoding="utf-8")
    program.chmod(0o755)
    return program


def put_hpal(folder: Path) -> Path:
    """A program that is `python -m hpal_cli`."""
    root = Path(__file__).parents[1]
    return put_program(folder, f'#!/bin/sh\nPYTHONPATH="{root}" exec "{sys.executable}" -m hpal_cli "$@"\n')


def at_a_terminal(words: Sequence[str], cwd: Path, env: dict[str, str]) -> Done:
    """A program whose stdin, stdout and stderr are a pseudo-terminal; `out` is all that appeared on it."""
    master, slave = pty.openpty()
    process = subprocess.Popen(words, stdin=slave, stdout=slave, stderr=slave, cwd=cwd, env=env, start_new_session=True)
    os.close(slave)
    seen, end = b"", time.monotonic() + 300
    while time.monotonic() < end:
        ready, _, _ = select.select([master], [], [], 0.2)
        if ready:
            try:
                part = os.read(master, 1 << 16)
            except OSError:  # the last one at the terminal has left
                break
            if not part:
                break
            seen += part
        elif process.poll() is not None:
            break
    os.close(master)
    return Done(process.wait(timeout=10), seen, "")


@contextlib.contextmanager
def cut_at(step: int) -> Iterator[None]:
    """Within the block, a training is interrupted at that step. It is an error if none was."""
    from hpal_cli.training.train import _Run

    learn = _Run._step

    def cut(self: _Run, ready: Any, rate: float) -> object:
        if self.step == step:
            raise KeyboardInterrupt
        return learn(self, ready, rate)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_Run, "_step", cut)
        with pytest.raises(KeyboardInterrupt):
            yield


@functools.cache
def fork_server() -> str:
    """The address of a server that starts `hpal` in a moment (fork_server.py), as long as this process lives."""
    tests = Path(__file__).parent
    address = f"{tempfile.mkdtemp(prefix='hpal-')}/socket"
    server = subprocess.Popen(
        [sys.executable, str(tests / "fork_server.py"), address],
        env={**environment(), "PYTHONPATH": str(tests.parent)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert server.stdout is not None
    assert server.stdin is not None
    assert server.stdout.readline() == b"\n", "the server does not start"
    atexit.register(server.stdin.close)
    return address


class Call:
    """`hpal WORDS`, begun in a process that was forked from one that has imported the libraries, which is most of the
    time of a short command. It leads a process group."""

    def __init__(self, words: Sequence[object], cwd: Path, env: dict[str, str], streams: Sequence[int]) -> None:
        self._server = socket.socket(socket.AF_UNIX)
        self._server.connect(fork_server())
        request = json.dumps([[str(word) for word in words], str(cwd), env])
        socket.send_fds(self._server, [f"{request}\n".encode()], streams)
        self._answers = self._server.makefile()
        self.pid = int(self._answers.readline())

    def wait(self, seconds: float = 120) -> int:
        """Waits for the end of the call; returns its status, -9 if it was killed."""
        self._server.settimeout(seconds)
        with self._server, self._answers:
            return int(self._answers.readline())

    def hang_up(self) -> None:
        """Kills the whole process group of the call."""
        self._answers.close()
        self._server.close()


CLIENT = """\
#!{python} -IS
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    request = json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)])
    socket.send_fds(server, [request.encode() + b"\\n"], [0, 1, 2])
    status = int(server.makefile().read().split()[1])
sys.exit(status if status >= 0 else 128 - status)
"""


def put_quick_hpal(folder: Path) -> Path:
    """As `put_hpal`, but begun like a `Call`: for scripts of many commands, where no signal is sent."""
    return put_program(folder, CLIENT.format(python=sys.executable, address=fork_server()))


def run_hpal(*args: object, stdin: bytes | None = None, cwd: Path | None = None) -> Done:
    """`hpal ARGS` as a `Call`; stdin None: /dev/null. `run_fresh` starts from nothing."""
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        given.write(stdin or b"")
        given.seek(0)
        with open(os.devnull, "rb") as nothing:
            streams = [(nothing if stdin is None else given).fileno(), out.fileno(), err.fileno()]
            rc = Call(args, cwd or Path.cwd(), environment(), streams).wait()
        out.seek(0)
        err.seek(0)
        return Done(rc, out.read(), err.read().decode())


def run_fresh(*args: object, cwd: Path | None = None, env: dict[str, str] | None = None) -> Done:
    """`python -m hpal_cli ARGS`, stdin /dev/null."""
    done = subprocess.run(
        [sys.executable, "-m", "hpal_cli", *map(str, args)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        cwd=cwd,
        env={**environment(), **(env or {})},
        timeout=120,
        check=False,
    )
    return Done(done.returncode, done.stdout, done.stderr.decode())


@pytest.fixture(scope="session")
def hpal() -> Callable[..., Done]:
    return run_hpal


@pytest.fixture(scope="session")
def office(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three rooms in the layout of S3DIS, two to train on and one to validate on."""
    folder = tmp_path_factory.mktemp("office") / "office"
    make_office(folder, rooms=3, seed=0, points=1500)
    return folder


@pytest.fixture(scope="session")
def scenes(office: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("scenes") / "scenes.zarr"
    prepare(office, path, val=[VAL], grid=GRID)
    return path


@pytest.fixture(scope="session")
def other_scenes(office: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same rooms on another grid: other points under the same names, so row numbers of one store mean nothing in
    the other."""
    path = tmp_path_factory.mktemp("scenes") / "other.zarr"
    prepare(office, path, val=[VAL], grid=0.3)
    return path


def softmax(logits: np.ndarray) -> np.ndarray:
    power = np.exp(logits - logits.max(axis=1, keepdims=True))
    return power / power.sum(axis=1, keepdims=True)


def prediction_attributes(store: SceneStore) -> dict[str, Any]:
    """The root members of predictions of these scenes that nobody made."""
    return {**metadata_of(store), "scenes": store.table.to_json(), "history": []}


def fake_predictions(
    scenes: Path, path: Path, *, seed: int = 0, features: int | None = FEATURES, labelled: int = 5
) -> Path:
    """What a network that learned nothing would have said: random probabilities, and features in a few directions."""
    store = SceneStore(scenes)
    rng = np.random.default_rng(seed)
    attributes = prediction_attributes(store)
    with envelope.create(path, "predictions", attributes, overwrite=False) as (root, _):
        for scene in store.table:
            prob = softmax(rng.normal(0, 3, (scene.points, len(store.classes))))
            feat = None
            if features:
                directions = rng.random((4, features))
                feat = directions[rng.integers(4, size=scene.points)] + 0.3 * rng.random((scene.points, features))
            rows = np.sort(rng.choice(scene.points, labelled, replace=False))
            write_scene(root, scene, store.points(scene), prob, feat, rows)
    return path


@pytest.fixture(scope="session")
def predictions(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fake_predictions(scenes, tmp_path_factory.mktemp("predictions") / "preds.zarr")


class MadeScene(NamedTuple):
    """A scene for a store of synthetic points: xyz (N, 3) relative to offset, feat (N, F)."""

    name: str
    xyz: np.ndarray
    feat: np.ndarray
    labelled: Sequence[int] = ()
    offset: tuple[float, float, float] = (0.0, 0.0, 0.0)
    prob: np.ndarray | None = None


def synthetic_predictions(path: Path, made: Sequence[MadeScene], *, unit: float = 1.0) -> Path:
    """A predictions store of exactly these scenes, numbered in the order given."""
    classes = ClassTable.from_names(["wall", "floor", "chair"])
    infos = []
    for number, scene in enumerate(made):
        xyz = np.asarray(scene.xyz, np.float32).reshape(-1, 3)
        print_ = fingerprint(np.array(scene.offset), xyz)
        infos.append(SceneInfo(number, scene.name, len(xyz), len(xyz), "train", print_))
    table = SceneTable(infos)
    attributes = {
        "id": table.id,
        "classes": classes.to_json(),
        "unit": unit,
        "scenes": table.to_json(),
        "history": [],
    }
    with envelope.create(path, "predictions", attributes, overwrite=False) as (root, _):
        for info, scene in zip(infos, made, strict=True):
            prob = scene.prob if scene.prob is not None else np.tile([0.5, 0.25, 0.25], (info.points, 1))
            points = Points(np.asarray(scene.xyz, np.float32).reshape(-1, 3), np.array(scene.offset, np.float64))
            rows = np.array(scene.labelled, np.int64)
            write_scene(root, info, points, np.asarray(prob), np.asarray(scene.feat), rows)
    return path


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, by relative name."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
