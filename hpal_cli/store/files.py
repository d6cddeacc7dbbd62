"""Writes files and folders under temporary names and renames them when they are complete, so that a reader never sees
an incomplete one."""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from hpal_cli import system
from hpal_cli.errors import HpalError
from hpal_cli.store.remote import RemotePath, already_exists, for_each, is_unfinished, require_writable, uploaded

Out = TypeVar("Out")

_OURS = re.compile(r"\.(.+)\.[0-9a-f]{8}\.(partial|replaced)(\.lock)?")
"""Temporary names: of what is being written, of what was replaced and is being removed, and of their lock files."""

SYNCED_AT_ONCE = 16
"""Files that are synced to the disk at the same time."""


@contextlib.contextmanager
def atomic_write(path: Path, *, overwrite: bool, folder: bool = False) -> Iterator[Path]:
    """Yields a temporary path beside `path` to write to, and renames it to `path` at the end.

    On any error the temporary file is removed and `path` stays as it was. Temporary files of earlier writers of `path`
    that were killed are removed first.
    folder: whether to write a folder. Otherwise the temporary path is an empty file already, which must be written to
    and not replaced, because it is locked.

    Raises:
        HpalError: `path` exists and `overwrite` is not set, its folder is missing, or it cannot be written.
    """
    if isinstance(path, RemotePath):
        # An object appears whole; stores are written by `objects.in_place`.
        require_absent(path, overwrite=overwrite)
        with uploaded(path, overwrite=overwrite) as local:
            yield local
        return
    with contextlib.suppress(OSError):
        _sweep(path, once=not folder)
    require_absent(path, overwrite=overwrite, folder=folder)
    try:
        if is_special(path):
            # A device or a named pipe is written to, not replaced.
            yield path
            return
        with _claimed(path, "partial", folder=folder) as partial:
            yield partial
            # Another process may have created it meanwhile.
            require_absent(path, overwrite=overwrite, folder=folder)
            _swap(partial, path, overwrite=overwrite)
    except BrokenPipeError:
        # The reader of a named pipe, or of this command's messages, has ended. The disk is not at fault.
        raise
    except OSError as error:
        raise HpalError(
            path, f"cannot be written ({error.strerror or error})", "check the disk and try again"
        ) from error


@contextlib.contextmanager
def unfinished_folder(path: Path) -> Iterator[Path]:
    """Yields the path of a temporary folder beside `path`. The folder is removed at the end of the block.

    While the block runs, it holds a lock on a file beside the folder. Temporary folders of earlier writers of `path`
    whose lock is free are removed first. (The lock is not on the folder itself, since NFS does not share such locks.)
    """
    _sweep(path)
    with _claimed(path, "partial", folder=True) as partial:
        yield partial


@contextlib.contextmanager
def _claimed(path: Path, ending: str, *, folder: bool) -> Iterator[Path]:
    """Yields a new temporary path beside `path`, and removes what is there at the end of the block.

    Meanwhile it holds a lock, which tells other processes that the path is in use and which ends with this process. The
    lock for a folder is on a file beside it. That for a file is on the file itself, since a command may write thousands
    of files.
    """
    name, lock, held = _claim(path, ending, folder)
    try:
        yield name
    except BaseException:
        # If one of Zarr's threads fails, the others go on, and may create the folder again after it was removed.
        for _ in range(10 if folder else 0):
            _remove(name)
            time.sleep(0.02)
        raise
    finally:
        _remove(name)
        _remove(lock)
        os.close(held)


def _claim(path: Path, ending: str, folder: bool) -> tuple[Path, Path, int]:
    while True:
        name = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.{ending}")
        lock = name.with_name(f"{name.name}.lock") if folder else name
        held = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            if system.lock(held) and lock.exists():
                return name, lock, held
        except OSError:
            # This file system has no locks. Other processes then remove neither this file nor this folder.
            if folder:
                _remove(lock)
            return name, lock, held
        # Another process has taken the lock first to remove the file, so a new name is needed.
        os.close(held)


_listed: dict[Path, dict[str, list[str]]] = {}
"""For each folder in which this process has written, the temporary files that were there at first, by the output's
name."""


def _sweep(path: Path, *, once: bool = False) -> None:
    """Removes the temporary files of writers of `path` that were killed. If such a writer had already moved the old
    output away, it is moved back.

    once: list the folder only for the first file that is written to it.

    Raises:
        OSError: there is no such folder.
    """
    if once and path.parent in _listed:
        left = _listed[path.parent].pop(path.name, [])
    else:
        found: dict[str, list[str]] = {}
        for name in os.listdir(path.parent):
            if match := _OURS.fullmatch(name):
                found.setdefault(match[1], []).append(name)
        left = found.pop(path.name, [])
        if once:
            _listed[path.parent] = found
    for name in sorted(left):
        one = path.with_name(name)
        if f"{name}.lock" in left or (name.endswith(".partial") and one.is_dir()):
            # The lock file of this folder decides. A folder without a lock file may be in use on a system without
            # locks.
            continue
        # A file that cannot be opened or locked, or that is gone meanwhile, is skipped.
        with contextlib.suppress(OSError):
            held = os.open(one, os.O_RDONLY if one.is_dir() else os.O_RDWR)
            try:
                if system.lock(held):
                    what = one.with_suffix("") if one.suffix == ".lock" else one
                    if what.suffix == ".replaced" and not os.path.lexists(path):
                        os.rename(what, path)
                    _remove(what)
                    _remove(one)
            finally:
                os.close(held)


@contextlib.contextmanager
def resumable_write(
    path: Path, *, overwrite: bool, resume: bool, worth_keeping: Callable[[Path], bool]
) -> Iterator[Path]:
    """As `atomic_write`, for a folder that takes long to write. If the block fails and the unfinished folder is
    `worth_keeping`, it stays beside `path`, and a later call with `resume` yields it again.

    Raises:
        HpalError: as `atomic_write`, or another process is writing `path`.
    """
    with contextlib.suppress(OSError):
        _sweep(path)
    require_absent(path, overwrite=overwrite, folder=True)
    partial = path.with_name(f".{path.name}.partial")
    whole = False
    try:
        partial.mkdir(exist_ok=True)
        held = os.open(partial, os.O_RDONLY)
        try:
            # The system releases the lock however the process ends.
            free = system.lock(held)
        except OSError:
            free = False
        if not free:
            os.close(held)
            raise HpalError(path, "is being written by another process", "wait for it, or name another")
        try:
            # A folder that is not worth keeping may be a replaced store, if a process was killed while it was removed.
            if not (resume and worth_keeping(partial)):
                for left in partial.iterdir():
                    _remove(left)
            yield partial
            require_absent(path, overwrite=overwrite, folder=True)
            _swap(partial, path, overwrite=overwrite)
            whole = True
        finally:
            if not whole and not worth_keeping(partial):
                _remove(partial)
            os.close(held)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise HpalError(
            path, f"cannot be written ({error.strerror or error})", "check the disk and try again"
        ) from error


def require_absent(path: Path, *, overwrite: bool, folder: bool = False) -> None:
    """Checks that `path` can be written. folder: whether a folder at `path` may be replaced.

    Raises:
        HpalError: `path` exists and may not be replaced, or the folder that it is in is missing.
    """
    if folder and is_special(path):
        raise HpalError(path, "is a device or a pipe, and a folder is wanted", "give another name")
    if overwrite and not folder and path.is_dir():
        raise HpalError(path, "is a folder", "give the name of a file")
    if isinstance(path, RemotePath):
        require_writable(path)
        # Whether the writer of an unfinished store is dead is found out when the store is begun.
        if not overwrite and path.exists() and not is_unfinished(path):
            raise already_exists(path)
        return
    if os.path.lexists(path) and not overwrite and not is_special(path):
        raise already_exists(path)
    if not path.parent.is_dir():
        raise HpalError(path, "its folder does not exist", f"make it first: mkdir -p {path.parent}")


def _for_each(function: Callable[[Path], Out], paths: Sequence[Path]) -> list[Out]:
    return for_each(paths[0], function, paths) if paths else []


def require_all_absent(paths: Sequence[Path], *, overwrite: bool) -> None:
    """Checks that all of these files can be written. On object storage they are asked for at the same time.

    Raises:
        HpalError: as `require_absent`, for any of the files.
    """
    _for_each(functools.partial(require_absent, overwrite=overwrite), paths)


@contextlib.contextmanager
def folders_for(paths: Sequence[Path]) -> Iterator[None]:
    """Creates the folders of `paths`. If the block fails, those that were created for it and are empty are removed. On
    object storage there are no folders.

    Raises:
        HpalError: a folder cannot be created.
    """
    local = [path for path in paths if not isinstance(path, RemotePath)]
    above = {folder for path in local for folder in path.parents if not os.path.exists(folder)}
    made = sorted(above, key=lambda folder: len(folder.parts), reverse=True)
    try:
        for parent in {path.parent for path in local}:
            try:
                parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise HpalError(parent, f"cannot be made ({error.strerror})", "give another name") from error
        yield
    except BaseException:
        for new in made:
            with contextlib.suppress(OSError):
                new.rmdir()
        raise


@contextlib.contextmanager
def remove_new_on_error(paths: Sequence[Path], *, overwrite: bool) -> Iterator[None]:
    """Creates the folders of `paths`. If the block fails, the files and folders of `paths` that did not exist before
    are removed.

    Raises:
        HpalError: as `require_absent`, for any of the files, or as `folders_for`.
    """
    with folders_for(paths):
        require_all_absent(paths, overwrite=overwrite)
        there = _for_each(lambda path: path.exists(), paths)
        new = [path for path, exists in zip(paths, there, strict=True) if not exists]
        try:
            yield
        except BaseException:
            for path in new:
                path.unlink(missing_ok=True)
            raise


def is_special(path: Path) -> bool:
    """Whether `path` is neither a file nor a folder but, for example, /dev/null or a named pipe."""
    return path.exists() and not path.is_file() and not path.is_dir()


def inside(folder: Path, name: str) -> Path:
    """The path `folder/name`, for a name from a file, which may have slashes.

    Raises:
        HpalError: the path would not be below `folder`.
    """
    if "\0" in name or os.path.isabs(name) or os.path.normpath(name).split(os.sep)[0] in (os.curdir, os.pardir):
        raise HpalError(folder, f"a file called {name!r} would not be in it", "do not trust the source of that name")
    return folder / name


def sync(folder: Path, *, below: bool = True) -> None:
    """Writes a folder to the disk so that it survives a power cut. below: with all files and folders in it, and not
    only its list of names. On object storage nothing is left to do: an object that was put is kept.

    Raises:
        OSError: the disk reports an error.
    """
    if isinstance(folder, RemotePath):
        return
    if not below:
        _flush(folder)
        return
    # In parallel, since a disk syncs many files in little more time than one.
    for _ in _syncing().map(_flush, [*folder.rglob("*"), folder]):
        pass


@functools.cache
def _syncing() -> ThreadPoolExecutor:
    """The threads that sync files. They stay, since on a busy machine a thread takes as long to start as a file to
    sync."""
    return ThreadPoolExecutor(SYNCED_AT_ONCE, thread_name_prefix="sync")


if hasattr(os, "register_at_fork"):
    # A forked process has none of the threads.
    os.register_at_fork(after_in_child=_syncing.cache_clear)


def _flush(path: Path) -> None:
    held = os.open(path, os.O_RDONLY)
    try:
        os.fsync(held)
    except OSError as error:
        # Some network file systems cannot sync folders.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(held)


def _swap(partial: Path, path: Path, *, overwrite: bool) -> None:
    if not (partial.is_dir() and overwrite and os.path.lexists(path)):
        os.replace(partial, path)
        return
    # A folder cannot be renamed to the name of a folder that is not empty.
    with _claimed(path, "replaced", folder=True) as aside:
        if system.exchange(partial, path):
            os.rename(partial, aside)
            return
        # The old folder is moved away, and moved back on an error. If the process is killed here, the next writer of
        # `path` moves it back.
        os.rename(path, aside)
        try:
            os.rename(partial, path)
        except OSError:
            os.rename(aside, path)
            raise


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
