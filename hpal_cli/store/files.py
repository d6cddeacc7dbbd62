"""Writing beside the name and renaming when whole: a reader sees all of a file, or none of it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from hpal_cli.errors import HpalError


@contextlib.contextmanager
def replace_when_whole(path: Path, *, overwrite: bool, folder: bool = False) -> Iterator[Path]:
    """Yields a name beside `path` to write to; renames it to `path` at the end.

    On any error the unfinished work is removed and what stood at `path` stays as it was.
    folder: it is one, so what a killed writer left of it may be large, and goes (`unfinished_folder`).

    Raises:
        HpalError: `path` exists and `overwrite` is not set, its folder is missing, or the disk refuses.
    """
    require_free(path, overwrite=overwrite, folder=folder)
    if is_special(path):
        # A device or a named pipe is written to, not replaced.
        yield path
        return
    try:
        with unfinished_folder(path) if folder else _unfinished_file(path) as partial:
            yield partial
            # Somebody else may have made it meanwhile.
            require_free(path, overwrite=overwrite, folder=folder)
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
    partial, lock, held = _claim(path)
    try:
        yield partial
    finally:
        _remove(partial)
        _remove(lock)
        os.close(held)


@contextlib.contextmanager
def _unfinished_file(path: Path) -> Iterator[Path]:
    # Files come by the thousand in one folder: no lock for each, and no looking for leftovers.
    partial = _unfinished_name(path)
    try:
        yield partial
    finally:
        _remove(partial)


def _unfinished_name(path: Path) -> Path:
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.partial")


def _claim(path: Path) -> tuple[Path, Path, int]:
    """A name to write to, the file that says so, and its descriptor: the lock, given back however the process ends."""
    while True:
        partial = _unfinished_name(path)
        lock = partial.with_name(f"{partial.name}.lock")
        held = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            if _locks(held) and lock.exists():
                return partial, lock, held
        except OSError:
            # No locks on this file system: without the file, nobody can take what is written for a leftover.
            _remove(lock)
            return partial, lock, held
        # A sweep came between: it has removed the file, or is about to.
        os.close(held)


def _sweep(path: Path) -> None:
    lock_of_path = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]{{8}}\.partial\.lock")
    for lock in [one for one in path.parent.iterdir() if lock_of_path.fullmatch(one.name)]:
        # What is not ours to open or to lock, or is gone meanwhile, is not ours to remove.
        with contextlib.suppress(OSError):
            held = os.open(lock, os.O_RDWR)
            try:
                if _locks(held):
                    _remove(lock.with_suffix(""))
                    _remove(lock)
            finally:
                os.close(held)


def _locks(held: int) -> bool:
    """Whether nobody else holds the lock.

    Raises:
        OSError: the file system has no locks.
    """
    try:
        # A descriptor that a forked process shares keeps the lock: it may go on writing.
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextlib.contextmanager
def go_on(path: Path, *, overwrite: bool, resume: bool, worth_keeping: Callable[[Path], bool]) -> Iterator[Path]:
    """As `replace_when_whole`, for a folder that takes long: if the block fails and the work is `worth_keeping`, it
    stays beside `path`, and with `resume` the next call yields it again.

    Raises:
        HpalError: as `replace_when_whole`; another process is writing it.
    """
    require_free(path, overwrite=overwrite, folder=True)
    partial = path.with_name(f".{path.name}.partial")
    whole = False
    try:
        partial.mkdir(exist_ok=True)
        held = os.open(partial, os.O_RDONLY)
        try:
            # Given back by the system however the process ends.
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(held)
            raise HpalError(path, "is being written by another process", "wait for it, or name another") from None
        try:
            if not resume:
                for left in partial.iterdir():
                    _remove(left)
            yield partial
            require_free(path, overwrite=overwrite, folder=True)
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


def require_free(path: Path, *, overwrite: bool, folder: bool = False) -> None:
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
def new_files(paths: Sequence[Path], *, overwrite: bool) -> Iterator[None]:
    """For files that are written one by one inside the block: if it fails, those that were not there before go again.

    Raises:
        HpalError: as `require_free`, for any of them.
    """
    for path in paths:
        require_free(path, overwrite=overwrite)
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


def _swap(partial: Path, path: Path, *, overwrite: bool) -> None:
    if partial.is_dir() and overwrite and os.path.lexists(path):
        # A folder cannot be renamed over a full one: the old one steps aside, and comes back if need be.
        aside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.replaced")
        os.rename(path, aside)
        try:
            os.rename(partial, path)
        except OSError:
            os.rename(aside, path)
            raise
        _remove(aside)
    else:
        os.replace(partial, path)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
