"""What hpal asks of the operating system that not every one has: locks on files, names that change places, signals,
and what the machine is.

All of it is POSIX but `exchange`, which is Linux's and has another way beside it. No other module asks.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
from collections.abc import Callable
from functools import cache
from pathlib import Path

try:
    import fcntl
except ImportError:
    fcntl = None  # type: ignore[assignment]

ENDING: tuple[signal.Signals, ...] = tuple(
    getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)
)
"""The signals by which a process is asked to end, besides that of Ctrl-C."""


def lock(held: int) -> bool:
    """Whether nobody else holds the lock of an open file, which is this process's then, until it ends or closes it.

    A descriptor that a forked process shares keeps the lock: it may go on writing.

    Raises:
        OSError: the system or the file system has no locks.
    """
    if fcntl is None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def exchange(one: Path, other: Path) -> bool:
    """Whether two names have changed places in one step: Linux can, on most file systems."""
    rename = _renameat2()
    return rename is not None and rename(_HERE, os.fsencode(one), _HERE, os.fsencode(other), _RENAME_EXCHANGE) == 0


def processor_lines() -> list[str]:
    """What Linux says of its processors, one line a property; nothing on other systems."""
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []


def memory() -> int | None:
    """Bytes of this machine, None where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


_HERE, _RENAME_EXCHANGE = -100, 2


@cache
def _renameat2() -> Callable[[int, bytes, int, bytes, int], int] | None:
    try:
        call = ctypes.CDLL(None).renameat2
    except (OSError, AttributeError, TypeError):
        # Another system than Linux, or an old one.
        return None
    call.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint]
    call.restype = ctypes.c_int
    return call
