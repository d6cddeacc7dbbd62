"""Compiles the C sources of this package with the C compiler of this computer when they are first used, and keeps the
result for later runs.

So the code uses the vector instructions of this processor without a wheel for each kind of processor. Every caller has
a slower way for computers without a compiler, and tells the person which of the two is used.
"""

from __future__ import annotations

import atexit
import ctypes
import hashlib
import os
import platform
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

from hpal_cli import system

# Without fused multiply-add instructions, a product is rounded before it is added, as in NumPy.
FLAGS = (
    *("-O3", "-march=native", "-fPIC", "-std=gnu11", "-ffp-contract=off"),
    # No code here checks for floating-point exceptions, and without them `floor` is a single instruction.
    *("-fno-trapping-math", "-fno-math-errno"),
)
_HEADERS = Path(__file__).parent


class NotCompiled(Exception):
    """There is no compiled library on this computer; the message says why."""


def library_or_reason(make: Callable[[], ctypes.CDLL]) -> Callable[[], ctypes.CDLL | str]:
    """A decorator for a function that loads a library and declares its functions. The result returns the library, or
    the reason in words if there is none, and calls the function only once."""

    @cache
    def found() -> ctypes.CDLL | str:
        try:
            return make()
        except (NotCompiled, AttributeError) as error:
            return str(error)

    return found


def reason(library: ctypes.CDLL | str) -> str | None:
    """Why a library that `library_or_reason` returned cannot be used, None if it can."""
    return library if isinstance(library, str) else None


def load(source: Path, *, flags: Sequence[str] = FLAGS, link: Sequence[str] = (), version: str = "") -> ctypes.CDLL:
    """The shared library of a C source. It is compiled unless this source was compiled before with the same compiler,
    processor and `version`.

    flags: of the compiler; link: further arguments for the linker; version: of a library that the source depends on.

    Raises:
        NotCompiled: `HPAL_NATIVE` is 0, there is no compiler, the system is not Linux, or compiling failed.
    """
    if os.environ.get("HPAL_NATIVE") == "0":
        raise NotCompiled("HPAL_NATIVE is 0")
    if platform.system() != "Linux":
        raise NotCompiled(f"not built on {platform.system()}")
    program = _program()
    if program is None:
        raise NotCompiled("there is no C compiler (gcc)")
    headers = [header.read_bytes() for folder in (_HEADERS, source.parent) for header in sorted(folder.glob("*.h"))]
    try:
        what = (source.read_bytes(), headers, flags, _version(program), link, version, _processor())
        digest = hashlib.sha256("\0".join(map(repr, what)).encode()).hexdigest()[:16]
        target = _cache_folder() / f"{source.stem}-{digest}.so"
        if not _is_ours(target):
            _compile(program, source, target, flags, link)
        return ctypes.CDLL(str(target))
    except OSError as error:
        raise NotCompiled(str(error)) from error


def compiler() -> str | None:
    """The first line that the compiler prints for `--version`; None if there is no compiler."""
    found = _program()
    if found is None:
        return None
    try:
        printed = subprocess.run([found, "--version"], capture_output=True, text=True, check=False).stdout
    except OSError:
        return None
    return next(iter(printed.splitlines()), None)


def _program() -> str | None:
    return shutil.which(os.environ.get("CC", "gcc"))


def _compile(program: str, source: Path, target: Path, flags: Sequence[str], link: Sequence[str]) -> None:
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        made = Path(scratch) / target.name
        # Linking is a step of its own, so that a flag such as -fopenmp adds no library: `link` names them.
        compiled = Path(scratch) / "compiled.o"
        steps = [
            [program, *flags, f"-I{_HEADERS}", "-c", str(source), "-o", str(compiled)],
            [program, "-shared", str(compiled), *link, "-o", str(made)],
        ]
        for step in steps:
            done = subprocess.run(step, capture_output=True, text=True, check=False)
            if done.returncode:
                lines = done.stderr.strip().splitlines() or [f"exit {done.returncode}"]
                raise NotCompiled(f"{Path(program).name} failed ({lines[0][:120]})")
        # Whatever the umask is, other users must not be able to write to it (see `_is_ours`).
        made.chmod(0o700)
        made.replace(target)


def _is_ours(path: Path) -> bool:
    """Whether a file belongs to this user and only this user can write to it, since its code will be run."""
    try:
        about = path.lstat()
    except FileNotFoundError:
        return False
    return stat.S_ISREG(about.st_mode) and about.st_uid == os.getuid() and not about.st_mode & 0o022


def _version(program: str) -> tuple[str, int, int]:
    """Identifies a compiler: it changes if another one is installed at the same path."""
    path = os.path.realpath(program)
    about = os.stat(path)
    return path, about.st_size, about.st_mtime_ns


def _processor() -> str:
    """Identifies the processor, on which -march=native depends, since several computers may share a home folder."""
    about = {line for line in system.processor_lines() if line.startswith(("model name", "flags", "Features"))}
    return "\n".join(sorted(about)) or platform.processor()


@cache
def _cache_folder() -> Path:
    """A folder for compiled libraries that only this user can write to, since their code will be run.

    Raises:
        OSError: there is no such folder, and none can be created.
    """
    try:
        given = Path(os.environ.get("XDG_CACHE_HOME", ""))
        folder = (given if given.is_absolute() else Path.home() / ".cache") / "hpal"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        about = folder.stat()
        if about.st_uid == os.getuid() and not about.st_mode & 0o022 and os.access(folder, os.W_OK):
            return folder
    except (OSError, RuntimeError):
        # Path.home raises a RuntimeError if there is no home folder.
        pass
    made = Path(tempfile.mkdtemp(prefix="hpal-"))
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return made
