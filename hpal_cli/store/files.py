"""Writing beside the name and renaming when whole: a reader sees all of a file, or none of it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from hpal_cli.errors import HpalError


@contextlib.contextmanager
def replace_when_whole(path: Path, *, overwrite: bool) -> Iterator[Path]:
    """Yields a name beside `path` to write to (a file or a folder); renames it to `path` at the end.

    On any error the unfinished work is removed and what stood at `path` stays as it was.

    Raises:
        HpalError: `path` exists and `overwrite` is not set, its folder is missing, or the disk refuses.
    """
    require_free(path, overwrite=overwrite)
    if is_special(path):
        # A device or a named pipe is written to, not replaced.
        yield path
        return
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        yield partial
        # Somebody else may have made it meanwhile.
        require_free(path, overwrite=overwrite)
        _swap(partial, path, overwrite=overwrite)
    except OSError as error:
        raise HpalError(
            path, f"cannot be written ({error.strerror or error})", "check the disk and try again"
        ) from error
    finally:
        _remove(partial)


@contextlib.contextmanager
def go_on(path: Path, *, overwrite: bool, resume: bool, worth_keeping: Callable[[Path], bool]) -> Iterator[Path]:
    """As `replace_when_whole`, for a folder that takes long: if the block fails and the work is `worth_keeping`, it
    stays beside `path`, and with `resume` the next call yields it again.

    Raises:
        HpalError: as `replace_when_whole`; another process is writing it.
    """
    require_free(path, overwrite=overwrite)
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
            require_free(path, overwrite=overwrite)
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


def require_free(path: Path, *, overwrite: bool) -> None:
    """Raises:
    HpalError: `path` exists and may not be replaced, or its folder is missing.
    """
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
