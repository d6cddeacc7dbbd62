"""Writes scenes in tasks that may run in other processes and on other computers, and may run twice.

If a worker of a cluster dies, another one gets its tasks, also those whose results nobody has taken yet. Therefore a
scene is written under the name of an attempt, its result is recorded, and then it gets its own name in one step. A
second attempt that finds both writes nothing. Whatever attempts leave lies beside the output, and is removed when the
command ends.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import pickle
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import zarr

from hpal_cli.errors import HpalError
from hpal_cli.parallel.cluster import packed, unpacked
from hpal_cli.scene_table import outer_names
from hpal_cli.store import envelope
from hpal_cli.store.files import unfinished_folder
from hpal_cli.store.remote import RemotePath

if TYPE_CHECKING:
    from hpal_cli.parallel import Cluster

Value = TypeVar("Value")
Out = TypeVar("Out")


class Shared(Generic[Value]):
    """A value that all tasks of a command need. Where tasks are sent to other processes, each process reads it once
    from a file, whose path is all that a task carries."""

    def __init__(self, value: Value, file: Path | None) -> None:
        """file: None if no task leaves this process."""
        self.value = value
        self._file = file
        if file is not None:
            put_file(file, packed(value))

    def __reduce__(self) -> tuple[Any, ...]:
        assert self._file is not None
        return _read_shared, (self._file,)


@functools.lru_cache(maxsize=2)
def _read_shared(file: Path) -> Shared[Any]:
    # The cache is never out of date, since no two values are written to a file of the same name.
    found: Shared[Any] = Shared(unpacked(file.read_bytes()), None)
    found._file = file
    return found


@dataclass(frozen=True)
class Tasks:
    """Where tasks work on the output of a command.

    folder: for what they leave to one another, on a disk that all of them see, or on object storage; None if all run in
    this process. again: whether a task may run twice, which happens only on a cluster.
    """

    folder: Path | None
    again: bool = False

    def shared(self, value: Value) -> Shared[Value]:
        """The value for all tasks."""
        return Shared(value, None if self.folder is None else self.folder / uuid.uuid4().hex)

    def once(self, path: Path, write: Callable[[bool], None]) -> None:
        """Calls `write`, which writes the file `path` in one step, unless an earlier attempt has done it.

        write: is told whether it may replace the file, which an earlier attempt may have written before it could record
        that.

        Raises:
            FileNotFoundError: the command has ended. A file that was not there before is removed again.
        """
        if self.folder is None or not self.again:
            write(False)
            return
        record = self.record(str(path))
        if record.is_file():
            return
        begun = record.with_suffix(".begun")
        again, new = begun.is_file(), not path.exists()
        put_file(begun, b"")
        write(again)
        try:
            put_file(record, b"")
        except FileNotFoundError:
            if new:
                path.unlink(missing_ok=True)
            raise

    def place(self, store: Path, folder: Path) -> Place:
        """Where the scenes of a store are written. folder: the one that `envelope.create` yields."""
        # For object storage it is a folder of this computer alone, and a task has one of its own.
        return Place(store, store if self.again and isinstance(store, RemotePath) else folder, self)

    def record(self, name: str) -> Path:
        """The file for the result of a task that has written `name`."""
        assert self.folder is not None
        return self.folder / f"{hashlib.sha256(name.encode()).hexdigest()[:32]}.done"


@contextlib.contextmanager
def beside(output: Path, jobs: int | Cluster) -> Iterator[Tasks]:
    """Yields what tasks need that work on `output`, a store or a folder of files. It is removed when the block ends."""
    if isinstance(jobs, int):
        if jobs == 1:
            yield Tasks(None)
            return
        with tempfile.TemporaryDirectory(prefix="hpal-") as folder:
            yield Tasks(Path(folder))
    elif isinstance(output, RemotePath):
        from hpal_cli.store.objects import kept_alive

        with kept_alive(output, "tasks") as made:
            yield Tasks(made, again=True)
    else:
        with unfinished_folder(Path(os.path.abspath(output))) as made:
            made.mkdir()
            yield Tasks(made, again=True)


@dataclass(frozen=True)
class Place:
    """Where tasks write the scenes of a store (`Tasks.place`)."""

    store: Path
    folder: Path
    tasks: Tasks

    def write(self, name: str, write: Callable[[zarr.Group, Path], Out]) -> Out:
        """Writes the scene `name`, and returns what `write` returns. `write` is given the root group that the scene is
        to be written to, and a folder for what does not fit into memory. If `write` writes nothing, it returns None."""
        if not self.tasks.again:
            buffers = self.folder / BUFFERS / name
            try:
                result = write(_root(self.folder), buffers)
            except HpalError:
                shutil.rmtree(self.folder / "scenes" / name, ignore_errors=True)
                raise
            finally:
                shutil.rmtree(buffers, ignore_errors=True)
            if result is not None:
                envelope.scene_written(self.store, self.folder, name)
            return result
        record, target = self.tasks.record(name), self.folder / "scenes" / name
        with contextlib.suppress(FileNotFoundError):
            result = pickle.loads(record.read_bytes())
            if result is None or isinstance(self.store, RemotePath) or target.exists():
                return result
        return self._write_remote(name, write) if isinstance(self.store, RemotePath) else self._write_local(name, write)

    def _write_local(self, name: str, write: Callable[[zarr.Group, Path], Out]) -> Out:
        assert self.tasks.folder is not None
        attempt, target = self.tasks.folder / uuid.uuid4().hex, self.folder / "scenes" / name
        # Not with the folders above it: if these are gone, the command has ended, and nobody waits for the result.
        attempt.mkdir()
        try:
            result = write(_root(attempt), attempt / BUFFERS)
            put_file(self.tasks.record(name), pickle.dumps(result))
            if result is not None:
                for above in reversed(target.relative_to(self.folder).parents[:-1]):
                    (self.folder / above).mkdir(exist_ok=True)
                try:
                    os.rename(attempt / "scenes" / name, target)
                except OSError:
                    # Another attempt was faster, whose scene has the same bytes.
                    if not target.exists():
                        raise
            return result
        finally:
            shutil.rmtree(attempt, ignore_errors=True)

    def _write_remote(self, name: str, write: Callable[[zarr.Group, Path], Out]) -> Out:
        from hpal_cli.store.objects import remove_below

        assert isinstance(self.store, RemotePath)
        with tempfile.TemporaryDirectory(prefix="hpal-") as scratch:
            result = write(_root(Path(scratch)), Path(scratch) / BUFFERS)
            if result is not None:
                # What an attempt that died has put already is put again, with the same bytes.
                envelope.scene_written(self.store, Path(scratch), name)
        try:
            put_file(self.tasks.record(name), pickle.dumps(result))
        except FileNotFoundError:
            # A store that its writer has given up would otherwise begin again with this scene.
            if result is not None and not (self.store / "zarr.json").exists():
                remove_below(self.store / "scenes" / name)
            raise
        return result

    def finish(self, root: zarr.Group, name: str) -> None:
        """To be called in the process that writes the store, when the scene `name` is there: writes the groups above
        it, which are of no single task."""
        if self.tasks.again:
            for above in ("scenes", *(f"scenes/{outer}" for outer in outer_names(name))):
                root.require_group(above)


BUFFERS = "buffers"
"""The name of the folder for columns that do not fit into memory (`scenes.column_buffer`)."""


def _root(folder: Path) -> zarr.Group:
    return zarr.open_group(str(folder), mode="a", zarr_format=3)


def put_file(file: Path, data: bytes) -> None:
    """Writes a small file in one step. If the folder that it is in is gone, nobody needs the file any more.

    Raises:
        FileNotFoundError: the folder is gone.
    """
    if isinstance(file, RemotePath):
        from hpal_cli.store.objects import put_in_kept

        put_in_kept(file, data)
        return
    unfinished = file.with_name(uuid.uuid4().hex)
    unfinished.write_bytes(data)
    os.replace(unfinished, file)
