"""Replacing what stands at a name: at no moment is it gone, and what killed writers left goes with the next one."""

from __future__ import annotations

import errno
import fcntl
import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from hpal_cli import system
from hpal_cli.errors import HpalError
from hpal_cli.store import files
from hpal_cli.store.files import atomic_write, inside, resumable_write


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def write(path: Path, text: str, *, overwrite: bool = True) -> None:
    with atomic_write(path, overwrite=overwrite, folder=True) as partial:
        partial.mkdir()
        (partial / "text").write_text(text)


def read(path: Path) -> str:
    return (path / "text").read_text()


def killed(work: Callable[[], None]) -> None:
    """Runs it in a process that must end by being killed."""

    def run() -> None:
        work()
        os._exit(7)

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL


def kill_me(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def needs_exchange(folder: Path) -> None:
    for name in ("a", "b"):
        (folder / name).mkdir()
    there = system.exchange(folder / "a", folder / "b")
    for name in ("a", "b"):
        (folder / name).rmdir()
    if not there:
        pytest.skip("no RENAME_EXCHANGE here")


def test_the_output_is_never_gone(tmp_path: Path) -> None:
    """Another process looks at it all the time while it is replaced again and again."""
    needs_exchange(tmp_path)
    path = tmp_path / "s.zarr"
    write(path, "0")
    context = multiprocessing.get_context("fork")
    over, looks = context.Event(), context.Value("q", 0)

    def look() -> None:
        while not over.is_set():
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
            os.close(descriptor)
            looks.value += 1

    watcher = context.Process(target=look)
    watcher.start()
    for n in range(1, 150):
        write(path, str(n))
    over.set()
    watcher.join(60)
    assert watcher.exitcode == 0, "it was gone for a moment"
    assert looks.value > 100
    assert read(path) == "149"
    assert names(tmp_path) == ["s.zarr"]


@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_around_the_exchange(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str) -> None:
    needs_exchange(tmp_path)
    path = tmp_path / "s.zarr"
    write(path, "old")
    exchange = system.exchange

    def late(one: Path, other: Path) -> bool:
        done = when == "after" and exchange(one, other)
        kill_me()
        return done

    with monkeypatch.context() as patched:
        patched.setattr(system, "exchange", late)
        killed(lambda: write(path, "new"))
    assert read(path) == ("new" if when == "after" else "old")
    assert len(names(tmp_path)) > 1
    write(path, "newer")
    assert read(path) == "newer"
    assert names(tmp_path) == ["s.zarr"]


@pytest.mark.parametrize("renames", [1, 2])
@pytest.mark.parametrize("overwrite", [True, False])
def test_where_names_cannot_be_exchanged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, renames: int, overwrite: bool
) -> None:
    """Killed after the first of the two renames nothing is at the name: the next writer brings the old one back."""
    path = tmp_path / "s.zarr"
    monkeypatch.setattr(system, "exchange", lambda one, other: False)
    write(path, "old")
    rename, calls = os.rename, []

    def counted(one: Path, other: Path) -> None:
        rename(one, other)
        calls.append(other)
        if len(calls) == renames:
            kill_me()

    with monkeypatch.context() as patched:
        patched.setattr(os, "rename", counted)
        killed(lambda: write(path, "new"))
    assert path.exists() == (renames == 2)
    if overwrite:
        write(path, "newer")
        assert read(path) == "newer"
    else:
        with pytest.raises(HpalError, match="exists already"):
            write(path, "newer", overwrite=False)
        assert read(path) == ("old" if renames == 1 else "new")
    assert names(tmp_path) == ["s.zarr"]


def test_a_rename_that_fails_brings_the_old_one_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "s.zarr"
    monkeypatch.setattr(system, "exchange", lambda one, other: False)
    write(path, "old")
    rename = os.rename

    def refuse(one: Path, other: Path) -> None:
        if str(one).endswith(".partial"):
            raise OSError(errno.EIO, "a bad disk")
        rename(one, other)

    monkeypatch.setattr(os, "rename", refuse)
    with pytest.raises(HpalError, match="a bad disk"):
        write(path, "new")
    assert read(path) == "old"
    assert names(tmp_path) == ["s.zarr"]


def test_what_earlier_versions_left(tmp_path: Path) -> None:
    """They took the old store away without a lock. Another name's is not touched."""
    for name in (".s.zarr.0123abcd.replaced", ".t.zarr.0123abcd.replaced"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "text").write_text("old")
    with pytest.raises(HpalError, match="exists already"):
        write(tmp_path / "s.zarr", "new", overwrite=False)
    assert read(tmp_path / "s.zarr") == "old"
    (tmp_path / ".s.zarr.76543210.replaced").mkdir()
    write(tmp_path / "s.zarr", "new")
    assert names(tmp_path) == [".t.zarr.0123abcd.replaced", "s.zarr"]


def write_file(path: Path, work: Callable[[], None] = lambda: None) -> None:
    with atomic_write(path, overwrite=True) as partial, partial.open("wb") as file:
        file.write(b"new")
        file.flush()
        work()


def test_what_killed_writers_of_a_file_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a.ply", "b.ply", "a.ply"):
        monkeypatch.setattr(files, "_listed", {})
        killed(lambda name=name: write_file(tmp_path / name, kill_me))
    left = names(tmp_path)
    assert [name[:6] for name in left] == [".a.ply", ".b.ply"], "the second writer of a.ply took what the first left"
    write_file(tmp_path / "a.ply")
    assert names(tmp_path) == [left[1], "a.ply"]
    write_file(tmp_path / "b.ply")
    assert names(tmp_path) == ["a.ply", "b.ply"]


def test_a_file_that_is_being_written_is_not_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.ply"

    def meanwhile() -> None:
        monkeypatch.setattr(files, "_listed", {})
        write_file(path)
        assert len(names(tmp_path)) == 2

    write_file(path, meanwhile)
    assert names(tmp_path) == ["a.ply"]


def test_files_where_there_are_no_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    killed(lambda: write_file(tmp_path / "a.ply", kill_me))
    before = names(tmp_path)

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOTSUP, "not here")

    monkeypatch.setattr(fcntl, "flock", refuse)
    write_file(tmp_path / "a.ply")
    assert names(tmp_path) == [*before, "a.ply"], "nobody can tell whether it is being written"


def test_a_folder_is_looked_into_once_for_many_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looks, listdir = [], os.listdir
    monkeypatch.setattr(os, "listdir", lambda folder: looks.append(folder) or listdir(folder))
    for n in range(20):
        write_file(tmp_path / f"{n}.ply")
    assert len(looks) == 1
    assert len(names(tmp_path)) == 20


@pytest.mark.parametrize("resume", [True, False])
def test_long_work_that_was_killed_after_the_exchange(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, resume: bool
) -> None:
    """At the name of the unfinished work there is then the old store, which no call can resume."""
    needs_exchange(tmp_path)
    path = tmp_path / "s.zarr"
    write(path, "old")

    def work(text: str) -> None:
        how = {"overwrite": True, "resume": resume, "worth_keeping": lambda folder: (folder / "record").exists()}
        with resumable_write(path, **how) as partial:  # type: ignore[arg-type]
            assert list(partial.iterdir()) == []
            (partial / "record").touch()
            (partial / "text").write_text(text)
            (partial / "record").unlink()

    exchange = system.exchange
    with monkeypatch.context() as patched:
        patched.setattr(system, "exchange", lambda one, other: exchange(one, other) and kill_me())
        killed(lambda: work("new"))
    assert read(path) == "new"
    work("newer")
    assert read(path) == "newer"
    assert names(tmp_path) == ["s.zarr"]


@pytest.mark.parametrize("name", ["../x", "/x", "a/../../x", ".", "", "a/..", "a\0b"])
def test_names_that_lead_outside(tmp_path: Path, name: str) -> None:
    with pytest.raises(HpalError, match="would not be in it"):
        inside(tmp_path / "out", name)


@pytest.mark.parametrize("name", ["a", "a/b.ply", "..a/b..", "...ply"])
def test_names_that_stay_inside(tmp_path: Path, name: str) -> None:
    assert inside(tmp_path / "out", name) == tmp_path / "out" / name
