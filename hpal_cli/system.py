"""All calls that not every operating system has: locks on files, exchanging two names, signals, and what the user and
the computer are.

All of them are POSIX except `exchange`, which only Linux has and whose callers have another way.
"""

from __future__ import annotations

import ctypes
import errno
import getpass
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
"""The signals that ask a process to end, besides the one of Ctrl-C."""


def lock(held: int) -> bool:
    """Tries to lock an open file, given by its descriptor. Returns False if another process has locked it. The lock
    ends when the descriptor is closed or the process ends.
    If a forked process shares the descriptor, the lock lasts until that process ends too, since it may go on writing.

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
    """Exchanges the names of two files or folders in one step. Returns False if the system cannot do that; Linux can,
    on most file systems."""
    rename = _renameat2()
    return rename is not None and rename(_HERE, os.fsencode(one), _HERE, os.fsencode(other), _RENAME_EXCHANGE) == 0


def name_user() -> None:
    """Gives the user a name, in the environment variable LOGNAME, if the system knows none. In a container, a process
    often has the user number of somebody outside, who is in no list of users there. Python's `getpass.getuser` would
    fail then, and with it optimisers of torch before 2.13."""
    try:
        getpass.getuser()
    except (KeyError, ImportError, OSError):
        os.environ["LOGNAME"] = f"uid_{os.getuid()}" if hasattr(os, "getuid") else "unknown"


def processor_lines() -> list[str]:
    """The lines of /proc/cpuinfo, in which Linux describes its processors; none on other systems."""
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []


def memory() -> int | None:
    """The memory of this computer in bytes, None if the system does not tell."""
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
        # The system is not Linux, or is an old one.
        return None
    call.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint]
    call.restype = ctypes.c_int
    return call
