"""Writes files beside their final names and renames them when they are complete, so that a reader never sees a part of
one."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from hpal_cli import system
from hpal_cli.errors import HpalError

_OURS = re.compile(r"\.(.+)\.[0-9a-f]{8}\.(partial|replaced)(\.lock)?")
"""What is written, what was replaced and is being removed, and the file that is locked meanwhile."""

SYNCED_AT_ONCE = 16
"""Files that the disk is asked to keep at the same time."""


@contextlib.contextmanager
def atomic_write(path: Path, *, overwrite: bool, folder: bool = False) -> Iterator[Path]:
    """Yields a name beside `path` to write to; renames it to `path` at the end.

    On any error the unfinished work is removed and what stood at `path` stays as it was. What killed writers of `path`
    left is removed first.
    folder: it is one. Otherwise an empty file is there already, to be written to and not to be replaced.

    Raises:
        HpalError: `path` exists and `overwrite` is not set, its folder is missing, or the disk refuses.
    """
    with contextlib.suppress(OSError):
        _sweep(path, once=not folder)
    require_absent(path, overwrite=overwrite, folder=folder)
    if is_special(path):
        # A device or a named pipe is written to, not replaced.
        yield path
        return
    try:
        with _claimed(path, "partial", folder=folder) as partial:
            yield partial
            # Somebody else may have made it meanwhile.
            require_absent(path, overwrite=overwrite, folder=folder)
            _swap(partial, path, overwrite=overwrite)
    except OSError as error:
        raise HpalError(
            path, f"cannot be written ({error.strerror or error})", "check the disk and try again"
        ) from error


@contextlib.contextmanager
def unfinished_folder(path: Path) -> Iterator[Path]:
    """Yields a name beside `path` for a folder of its own to write; what is there at the end is removed.

    While the block runs, a file beside it is locked: what writers of `path` left whose lock nobody holds is removed
    first. (The folder itself cannot be the lock: a lock on a folder is not seen through NFS.)
    """
    _sweep(path)
    with _claimed(path, "partial", folder=True) as partial:
        yield partial


@contextlib.contextmanager
def _claimed(path: Path, ending: str, *, folder: bool) -> Iterator[Path]:
    """A name beside `path` that nobody else uses, whose lock says so; what has it at the end is removed.

    The lock is a file beside it or, where a file is to be written, the file itself: files come by the thousand.
    It is given back however the process ends.
    """
    name, lock, held = _claim(path, ending, folder)
    try:
        yield name
    except BaseException:
        # Zarr's threads do not stop when one of them fails: what they still write makes the folder anew.
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
            # No locks on this file system: nobody removes a file that cannot be locked, nor a folder without one.
            if folder:
                _remove(lock)
            return name, lock, held
        # A sweep came between: it has removed the file, or is about to.
        os.close(held)


_listed: dict[Path, dict[str, list[str]]] = {}
"""What was left in a folder by name of the output, when this process first wrote a file there."""


def _sweep(path: Path, *, once: bool = False) -> None:
    """Removes what killed writers of `path` left; brings back what stood there if they took it away.

    once: look into the folder only the first time.

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
            # Its lock decides; a folder without one may be written by somebody who has no locks.
            continue
        # What is not ours to open or to lock, or is gone meanwhile, is not ours to remove.
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
    """As `atomic_write`, for a folder that takes long: if the block fails and the work is `worth_keeping`, it
    stays beside `path`, and with `resume` the next call yields it again.

    Raises:
        HpalError: as `atomic_write`; another process is writing it.
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
            # Given back by the system however the process ends.
            free = system.lock(held)
        except OSError:
            free = False
        if not free:
            os.close(held)
            raise HpalError(path, "is being written by another process", "wait for it, or name another")
        try:
            # What is not worth keeping may be the store that was replaced when the process was killed.
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
    except OSError as error:
        raise HpalError(
            path, f"cannot be written ({error.strerror or error})", "check the disk and try again"
        ) from error


def require_absent(path: Path, *, overwrite: bool, folder: bool = False) -> None:
    """folder: one may be replaced.

    Raises:
        HpalError: `path` exists and may not be replaced, or its folder is missing.
    """
    if overwrite and not folder and path.is_dir():
        raise HpalError(path, "is a folder", "give the name of a file")
    if os.path.lexists(path) and not overwrite and not is_special(path):
        raise HpalError(path, "exists already", "give --overwrite to replace it, or another name")
    if not path.parent.is_dir():
        raise HpalError(path, "its folder does not exist", f"make it first: mkdir -p {path.parent}")


@contextlib.contextmanager
def remove_new_on_error(paths: Sequence[Path], *, overwrite: bool) -> Iterator[None]:
    """For files that are written one by one inside the block: if it fails, those that were not there before go again.

    Raises:
        HpalError: as `require_absent`, for any of them.
    """
    for path in paths:
        require_absent(path, overwrite=overwrite)
    new = [path for path in paths if not path.exists()]
    try:
        yield
    except BaseException:
        for path in new:
            path.unlink(missing_ok=True)
        raise


def is_special(path: Path) -> bool:
    """Whether something is there that is neither a file nor a folder: /dev/null, a named pipe."""
    return path.exists() and not path.is_file() and not path.is_dir()


def inside(folder: Path, name: str) -> Path:
    """`folder/name`, for a name with slashes that came from a file.

    Raises:
        HpalError: that would be another place than below `folder`.
    """
    path = folder / name
    below = os.path.relpath(os.path.abspath(path), os.path.abspath(folder))
    if "\0" in name or os.path.isabs(name) or below.split(os.sep)[0] in (os.curdir, os.pardir):
        raise HpalError(folder, f"a file called {name!r} would not be in it", "do not trust where that name came from")
    return path


def sync(folder: Path, *, below: bool = True) -> None:
    """Waits until a folder would survive a power cut, with everything `below` it or with the names that it holds alone.

    Raises:
        OSError: the disk refuses.
    """
    if not below:
        _flush(folder)
        return
    paths = [*folder.rglob("*"), folder]
    # Side by side, for a disk takes many at once in little more than the time of one.
    with ThreadPoolExecutor(min(len(paths), SYNCED_AT_ONCE)) as pool:
        for _ in pool.map(_flush, paths):
            pass


def _flush(path: Path) -> None:
    held = os.open(path, os.O_RDONLY)
    try:
        os.fsync(held)
    except OSError as error:
        # Some network file systems cannot do it for folders.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(held)


def _swap(partial: Path, path: Path, *, overwrite: bool) -> None:
    if not (partial.is_dir() and overwrite and os.path.lexists(path)):
        os.replace(partial, path)
        return
    # A folder cannot be renamed over a full one.
    with _claimed(path, "replaced", folder=True) as aside:
        if system.exchange(partial, path):
            os.rename(partial, aside)
            return
        # The old one steps aside, and comes back if need be; if the process is killed here, the next one brings it.
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
