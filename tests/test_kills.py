"""Nothing is lost: every command that writes is killed (kill -9 of its process group) at moments drawn at random.

After each kill what stood at the output is whole, or the new one is, and `info --check` agrees. At the end the same
command, typed once more and without cleaning up, makes what it makes undisturbed, and leaves nothing else.

`HPAL_KILLS=45` kills each quick command so many times, and those that draw or train a quarter as often: 1,000 kills in
all. Without it a few dozen are enough to notice what is grossly wrong. With it each test prints how many it did.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from conftest import VAL, Call, environment, fake_predictions, run_hpal, tree

from hpal_cli.classes import ClassTable
from hpal_cli.demo.office import make_office
from hpal_cli.errors import HpalError
from hpal_cli.history import Entry
from hpal_cli.info import describe
from hpal_cli.labels.store import ANSWER, LabelStore
from hpal_cli.scene_table import SceneInfo, SceneTable
from hpal_cli.scenes.prepare import prepare
from hpal_cli.scenes.store import SceneStore

BY = Entry("test", "0", ())
KILLS = int(os.environ.get("HPAL_KILLS", "0"))
LONG = 60 if KILLS else 3
"""Seconds that labellers are killed for."""

EPOCH = "1700000000"
SUPERPOINTS = "scenes.superpoints.zarr"


class Case(NamedTuple):
    """A command, its output, what stands there before (None: nothing), and how often it is killed if nobody says.

    An output called `out` is a folder of files, each of which is the old one or the new one.
    """

    args: tuple[str, ...]
    out: str
    old: str | None
    kills: int = 3


CASES = {
    "prep anew": Case(("prep", "office", "-o", "new.zarr", "--grid", "15cm"), "new.zarr", None),
    "prep over": Case(("prep", "office", "-o", "o.zarr", "--grid", "15cm", "--overwrite"), "o.zarr", "scenes.zarr"),
    "prep on": Case(("prep", "office", "-o", "n.zarr", "--grid", "15cm", "--resume"), "n.zarr", None),
    "train": Case(
        ("train", "scenes.zarr", "--labels", "all", "--supervised-only", "--steps", "1", "--batch", "1", "--max-voxels",
         "400", "-o", "m.pt", "--resume", "--overwrite"), "m.pt", "model.pt", 2),
    "predict": Case(("predict", "model.pt", "scenes.zarr", "-o", "p.zarr", "--overwrite"), "p.zarr", "preds.zarr", 4),
    "score": Case(("score", "preds.zarr", "-o", "s.ply", "--overwrite"), "s.ply", "scores.ply"),
    "select": Case(
        ("select", "scores.ply", "--budget", "9", "-o", "c.ply", "--overwrite"), "c.ply", "selection.ply"),
    "label table": Case(("label", "selection.ply", "--table", "q.csv", "--overwrite"), "q.csv", None),
    "label page": Case(("label", "selection.ply", "--html", "q.html", "--overwrite"), "q.html", None),
    "label clips": Case(("label", "selection.ply", "--clips", "out", "--overwrite"), "out", None),
    "superpoints": Case(("superpoints", "scenes.zarr", "--overwrite"), SUPERPOINTS, SUPERPOINTS),
    "spread": Case(("spread", "labels.zarr", "scenes.zarr", "-o", "p.zarr", "--overwrite"), "p.zarr", "preds.zarr"),
    "forest": Case(
        ("train", "scenes.zarr", "--labels", "all", "--model", "forest", "-o", "f.pt", "--overwrite"),
        "f.pt", "model.pt"),
    "select context": Case(
        ("select", "scores.ply", "--budget", "9", "-o", "c.ply", "--context", "out", "--overwrite"), "out", None),
    "pictures": Case(
        ("eval", "preds.zarr", "--truth", "scenes.zarr", "--pictures", "out", "--overwrite"), "out", None),
    "predict files": Case(
        ("predict", "forest.pt", "scenes.zarr", "-o", "q.zarr", "--ply", "out/ply", "--las", "out/las", "--pictures",
         "out/png", "--scenes", "*/office_1", "--overwrite"), "out", None),
    "forest predict": Case(
        ("predict", "forest.pt", "scenes.zarr", "-o", "p.zarr", "--overwrite"), "p.zarr", "preds.zarr"),
    "score clouds": Case(("score", "preds.zarr", "-o", "s.ply", "--ply", "out", "--overwrite"), "out", None),
    "score superpoints": Case(
        ("score", "preds.zarr", "--per", "superpoint", "-o", "s.ply", "--overwrite"), "s.ply", "scores.ply"),
    "superpoints for spread": Case(
        ("spread", "labels.zarr", "scenes.zarr", "-o", "q.zarr", "--overwrite"), SUPERPOINTS, None),
    "spread pictures": Case(
        ("spread", "labels.zarr", "scenes.zarr", "-o", "q.zarr", "--pictures", "out", "--scenes", "*/office_1",
         "--overwrite"), "out", None),
    "figures": Case(("eval", "preds.zarr", "--truth", "scenes.zarr", "--figures", "out", "--overwrite"), "out", None),
    "export": Case(("export", "scenes.zarr", "-o", "out", "--overwrite"), "out", "clouds"),
    "export las": Case(("export", "scenes.zarr", "--format", "laz", "-o", "out", "--overwrite"), "out", None),
    "export csv": Case(("export", "scenes.zarr", "--format", "csv", "-o", "out", "--overwrite"), "out", None),
    "originals": Case(
        ("export", "preds.zarr", "--original", "scenes.zarr", "-o", "out", "--overwrite"), "out", None),
}  # fmt: skip


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the commands read, and an older one of each output."""
    folder = tmp_path_factory.mktemp("inputs")
    make_office(folder / "office", rooms=3, seed=0, points=900)
    prepare(folder / "office", folder / "scenes.zarr", val=[VAL], grid=0.15)
    fake_predictions(folder / "scenes.zarr", folder / "preds.zarr")
    for args in (
        (*CASES["train"].args[:9], "-o", "model.pt"),
        ("score", "preds.zarr", "-o", "scores.ply"),
        ("select", "scores.ply", "--budget", "5", "-o", "selection.ply"),
        ("export", "scenes.zarr", "-o", "clouds", "--color", "class"),
        ("label", "selection.ply", "--oracle", "scenes.zarr", "-o", "labels.zarr"),
        ("superpoints", "scenes.zarr"),
        ("train", "scenes.zarr", "--labels", "all", "--model", "forest", "-o", "forest.pt"),
        ("label", "selection.ply", "--table", "answered.csv"),
    ):  # fmt: skip
        done = run_hpal(*args, "-q", cwd=folder)
        assert done.rc == 0, done.err
    # The same answer for all.
    table, label = folder / "answered.csv", SceneStore(folder / "scenes.zarr").classes.names[0]
    head, *lines = table.read_text().splitlines()
    assert head.endswith(",label")
    table.write_text("\n".join([head, *(line + label for line in lines)]))
    return folder


def start(args: tuple[str, ...], cwd: Path) -> Call:
    env = {**environment(), "SOURCE_DATE_EPOCH": EPOCH}
    with open(os.devnull, "r+b") as nothing:
        return Call([*args, "-q"], cwd, env, [nothing.fileno()] * 3)


def finish(args: tuple[str, ...], cwd: Path) -> float:
    """Waits until the command ends without an error; returns the seconds that it took."""
    begin = time.monotonic()
    assert start(args, cwd).wait() == 0, args
    return time.monotonic() - begin


def kill_after(args: tuple[str, ...], cwd: Path, seconds: float) -> bool:
    """Kills the command after a time; returns whether it was killed before it ended."""
    call = start(args, cwd)
    time.sleep(seconds)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(call.pid, signal.SIGKILL)
    status = call.wait()
    assert status in (0, -signal.SIGKILL), (args, status)
    return status != 0


def content(path: Path) -> dict[str, str] | None:
    """A hash of every file, by name; None where nothing is."""
    if not os.path.lexists(path):
        return None
    data = tree(path) if path.is_dir() else {"": path.read_bytes()}
    return {name: hashlib.sha256(bytes_).hexdigest() for name, bytes_ in data.items()}


def differing(one: dict[str, str] | None, other: dict[str, str]) -> list[str]:
    return sorted(name for name, _ in set((one or {}).items()) ^ set(other.items()))


def copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target)
    else:
        shutil.copyfile(source, target)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def check(path: Path) -> None:
    """As `info --check`; tables and exported clouds are none of its files."""
    if path.suffix in (".zarr", ".pt") or path.name in ("s.ply", "c.ply"):
        describe(path, check=True)


SLOW = ("label clips", "forest", "pictures", "predict files", "spread pictures", "forest predict", "figures")
"""Commands of some seconds: a quarter of the kills."""
ALIKE = ("spread", "superpoints for spread", "score clouds")
"""Commands that write as others do."""
QUICK = [name for name in CASES if KILLS or name not in SLOW + ALIKE]


ANSWERING = {
    "oracle": ("label", "selection.ply", "--oracle", "scenes.zarr", "-o", "l.zarr"),
    "table": ("label", "--from", "answered.csv", "--source", "scenes.zarr", "-o", "l.zarr"),
    "undo": ("label", "--undo", "0", "l.zarr"),
}


@pytest.mark.parametrize("name", QUICK)
def test_the_old_one_or_the_new_one(inputs: Path, tmp_path: Path, name: str) -> None:
    case = CASES[name]
    work = tmp_path / "work"
    work.mkdir()
    for path in inputs.iterdir():
        (work / path.name).symlink_to(path)
    out = work / case.out

    def put_old() -> None:
        if out.is_dir() and not out.is_symlink():
            shutil.rmtree(out)
        out.unlink(missing_ok=True)
        if case.old is not None:
            copy(inputs / case.old, out)

    put_old()
    old = content(out)
    whole = finish(case.args, work)
    new = content(out)
    assert new is not None
    assert new != old, "else the test shows nothing"
    after = names(work)
    rng = random.Random(name)
    killed, moments = 0, max(KILLS // 4, 3) if KILLS and name in SLOW else KILLS or case.kills
    for factor in (1.05, 0.7, 0.4, 0.2):
        for n in range(moments):
            put_old()
            # Uniform, one in each of equal parts, in any order.
            killed += kill_after(case.args, work, whole * factor * ((n * 7 + 3) % moments + rng.random()) / moments)
            now = content(out)
            if case.out == "out":
                whole_files = {name: hash_ for name, hash_ in (now or {}).items() if not name.endswith(".partial")}
                assert set(old or {}) <= set(whole_files) <= set(new)
                assert all(hash_ in (new[name], (old or {}).get(name)) for name, hash_ in whole_files.items())
            else:
                assert now in (old, new), f"killed, and what is there is neither whole: {differing(now, new)}"
            if now is not None:
                check(out)
        # On a busy machine the first call may have taken much longer than those that are to be killed.
        if killed >= moments // 3:
            break
    assert killed >= moments // 3
    print(f"KILLS {name}: {killed} of {moments} before it ended")
    put_old()
    finish(case.args, work)
    assert content(out) == new, differing(content(out), new)
    assert names(work) == after, "leftovers"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    call = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(call, capture_output=True, check=False).returncode != 0:
        pytest.skip("a small tmpfs cannot be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.parametrize("free", [0, 12])
@pytest.mark.parametrize("name", [*QUICK, "oracle", "table"])
def test_a_full_disk(inputs: Path, small_disk: Path, name: str, free: int) -> None:
    """With no byte free, and with some kilobytes: one line, nothing half-written, and what was there stays."""
    args, out = (ANSWERING[name], "l.zarr") if name in ANSWERING else (CASES[name].args, CASES[name].out)
    for path in inputs.iterdir():
        if path.name != out:
            (small_disk / path.name).symlink_to(path)
    (small_disk / "filler").write_bytes(bytes((64 - free) << 10))
    before = names(small_disk)
    done = run_hpal(*args, "-q", cwd=small_disk)
    if done.rc == 0:
        # A table of answers, and what is chosen, are that small.
        assert (free, name) in ((12, "label table"), (12, "select"), (12, "score superpoints"))
        check(small_disk / out)
        return
    assert done.rc == 1, done
    (line,) = done.err.splitlines()
    assert "No space left on device" in line
    left = names(small_disk) - before
    if name.startswith("prep"):
        # Scenes that were whole are kept for --resume.
        left -= {f".{out}.partial"}
    if name == "train":
        # What was measured before it failed.
        left -= {"m.pt.metrics.jsonl"}
    if "l.zarr" in left:
        # There was room for a store, and not for answers: it is whole, and has none.
        describe(small_disk / "l.zarr", check=True)
        assert LabelStore(small_disk / "l.zarr").batches() == []
        left -= {"l.zarr"}
    if "out" in left:
        # Files that were whole before the disk was full may stay, and nothing else.
        assert not [path for path in (small_disk / "out").rglob("*") if path.name.startswith(".")]
        assert name != "export" or not any((small_disk / "out").rglob("*.*")), "no cloud, whole or not"
        left -= {"out"}
    assert left == set()


@pytest.mark.parametrize(("way", "begun"), [("oracle", True), ("oracle", False), ("table", False), ("undo", True)])
def test_answers(inputs: Path, tmp_path: Path, way: str, begun: bool) -> None:
    """A killed `label` has added its answers, or withdrawn a round, or has not; there may be no store yet."""
    work = tmp_path / "work"
    work.mkdir()
    for path in inputs.iterdir():
        (work / path.name).symlink_to(path)
    made, path = SceneStore(inputs / "scenes.zarr"), work / "l.zarr"

    def begin() -> None:
        shutil.rmtree(path, ignore_errors=True)
        if way == "undo":
            finish(ANSWERING["oracle"], work)
        elif begun:
            LabelStore.create(path, made.classes, made.table)

    def latest() -> list[tuple[int, ...]]:
        return [tuple(row)[:3] for row in LabelStore(path).latest()[["scene", "index", "label"]].tolist()]

    begin()
    whole = finish(ANSWERING[way], work)
    full = latest()
    assert len(full) == (0 if way == "undo" else 5)
    rng = random.Random(1)
    killed, moments = 0, KILLS or 5
    for n in range(moments):
        if way == "undo" or not begun:
            begin()
        before = len(LabelStore(path).batches()) if path.exists() else 0
        killed += kill_after(ANSWERING[way], work, whole * 1.05 * (n % 5 + rng.random()) / 5)
        if path.exists():
            describe(path, check=True)
            batches = LabelStore(path).batches()
            assert len(batches) - before in (0, 1)
            assert len(latest()) == (5 if way == "undo" and len(batches) == before else len(full) * bool(batches))
    print(f"KILLS label {way}: {killed} of {moments} before it ended")
    if way == "undo":
        begin()
    finish(ANSWERING[way], work)
    assert latest() == full
    assert {name for name in names(work) if name.startswith(".")} == set()


ROOM = 1000
"""Points that one labeller may answer for until it is killed."""


def _label(path: Path, first: int, log: int) -> None:
    store = LabelStore(path)
    for index in range(first, first + ROOM):
        rows = np.zeros(1, ANSWER)
        rows["index"] = index
        store.append(rows, f"labeller {first}", BY)
        os.write(log, f"{index}\n".encode())


def test_four_labellers_of_one_store(tmp_path: Path) -> None:
    """Killed at random and started again: what was acknowledged is there once, and nothing is there twice."""
    path = tmp_path / "l.zarr"
    table = SceneTable([SceneInfo(0, "room", 10**7, 10**7, "train", "0" * 16)])
    LabelStore.create(path, ClassTable.from_names(["wall", "floor"]), table)
    log = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    context, rng = multiprocessing.get_context("fork"), random.Random(0)
    workers: dict[int, multiprocessing.process.BaseProcess] = {}
    begin, turns = time.monotonic(), 0

    def acknowledged() -> list[int]:
        return [int(line) for line in (tmp_path / "log").read_text().splitlines()]

    while time.monotonic() - begin < LONG or turns < 8 or len(acknowledged()) < 8:
        assert time.monotonic() - begin < 60 + LONG
        for who in range(4):
            if who not in workers:
                workers[who] = context.Process(target=_label, args=(path, turns * ROOM, log))
                workers[who].start()
                turns += 1
        time.sleep(rng.uniform(0.02, 0.3))
        one = workers.pop(rng.randrange(4))
        one.kill()
        one.join()
    for one in workers.values():
        one.kill()
        one.join()
    os.close(log)
    describe(path, check=True)
    rows = [int(row["index"]) for batch in LabelStore(path).batches() for row in batch.rows]
    assert len(set(rows)) == len(rows)
    assert set(acknowledged()) <= set(rows)
    assert len(set(rows) - set(acknowledged())) <= turns, "a killed labeller leaves one answer unacknowledged at most"
    LabelStore(path).append(np.zeros(1, ANSWER), "after", BY)
    assert names(tmp_path) == {"l.zarr", "log"}
    print(f"{turns} labellers, {len(acknowledged())} answers acknowledged, {len(rows)} stored")


def test_answers_are_on_the_disk_before_they_are_acknowledged(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power cut takes what was not synced: all files of a batch are, before its rename, and its name, after it."""
    made = SceneStore(inputs / "scenes.zarr")
    store = LabelStore.create(tmp_path / "l.zarr", made.classes, made.table)
    happened: list[tuple[str, str]] = []
    fsync, rename = os.fsync, os.rename

    def synced(held: int) -> None:
        happened.append(("sync", os.readlink(f"/proc/self/fd/{held}")))
        fsync(held)

    def renamed(one: Path, other: Path) -> None:
        there = [str(path) for path in (one, *Path(one).rglob("*"))]
        assert set(there) <= {path for what, path in happened if what == "sync"}
        rename(one, other)
        happened.append(("rename", str(other)))

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "rename", renamed)
    store.append(np.zeros(1, ANSWER), "x", BY)
    assert happened[-2:] == [("rename", str(store.path / "answers/000000")), ("sync", str(store.path / "answers"))]
    assert len(happened) > 10


@pytest.mark.parametrize("failing", ["file", "answers"])
def test_a_disk_that_cannot_sync(inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str) -> None:
    """Folders of some network file systems cannot, which is no error; a bad disk is one, and no answer comes twice."""
    made = SceneStore(inputs / "scenes.zarr")
    store = LabelStore.create(tmp_path / "l.zarr", made.classes, made.table)
    fsync = os.fsync

    def refuse(number: int, ending: str) -> Callable[[int], None]:
        def refused(held: int) -> None:
            if os.readlink(f"/proc/self/fd/{held}").endswith(ending):
                raise OSError(number, os.strerror(number))
            fsync(held)

        return refused

    monkeypatch.setattr(os, "fsync", refuse(errno.EINVAL, ""))
    store.append(np.zeros(1, ANSWER), "x", BY)
    monkeypatch.setattr(os, "fsync", refuse(errno.EIO, "zarr.json" if failing == "file" else "answers"))
    with pytest.raises(HpalError, match="cannot be written" if failing == "file" else "does not say that they will"):
        store.append(np.zeros(1, ANSWER), "x", BY)
    assert len(LabelStore(store.path).batches()) == (1 if failing == "file" else 2)
    assert names(tmp_path) == {"l.zarr"}
