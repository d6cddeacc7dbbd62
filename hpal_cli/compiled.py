"""C sources of this package, compiled by the machine's own C compiler at first use and kept for the next.

So a loop has the vectors that this processor has, and no wheel has to be built for each. Who calls it has another way
for machines without a compiler, and says which one is used.
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

# No fused multiply-add: a product that is rounded before it is added is the one that NumPy computes.
FLAGS = (
    *("-O3", "-march=native", "-fPIC", "-std=gnu11", "-ffp-contract=off"),
    # Nobody asks for floating-point exceptions; `floor` becomes one instruction.
    *("-fno-trapping-math", "-fno-math-errno"),
)
_HEADERS = Path(__file__).parent


class NotCompiled(Exception):
    """Why there is no compiled library here."""


def library_or_reason(make: Callable[[], ctypes.CDLL]) -> Callable[[], ctypes.CDLL | str]:
    """For a function that loads a library and declares what it holds: the library, or in words why there is none. It
    is called once."""

    @cache
    def found() -> ctypes.CDLL | str:
        try:
            return make()
        except (NotCompiled, AttributeError) as error:
            return str(error)

    return found


def reason(library: ctypes.CDLL | str) -> str | None:
    """Why what `library_or_reason` found cannot be used, None if it can."""
    return library if isinstance(library, str) else None


def load(source: Path, *, flags: Sequence[str] = FLAGS, link: Sequence[str] = (), version: str = "") -> ctypes.CDLL:
    """The shared library of a C source; compiled if this source, compiler, processor and `version` are new.

    flags: how it is compiled; link: further arguments for linking.

    Raises:
        NotCompiled: `HPAL_NATIVE=0`, no compiler, another system than Linux, or a source that does not compile here.
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
    """What compiles: the first line of its `--version`; None where there is no compiler."""
    found = _program()
    if found is None:
        return None
    try:
        said = subprocess.run([found, "--version"], capture_output=True, text=True, check=False).stdout
    except OSError:
        return None
    return next(iter(said.splitlines()), None)


def _program() -> str | None:
    return shutil.which(os.environ.get("CC", "gcc"))


def _compile(program: str, source: Path, target: Path, flags: Sequence[str], link: Sequence[str]) -> None:
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        made = Path(scratch) / target.name
        # In two steps: what a flag like -fopenmp would add in linking is left to `link`.
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
        # Whatever the umask: what others can write to is not taken for ours.
        made.chmod(0o700)
        made.replace(target)


def _is_ours(path: Path) -> bool:
    """Whether this is a file of this user that nobody else can write to: what lies in it is run."""
    try:
        about = path.lstat()
    except FileNotFoundError:
        return False
    return stat.S_ISREG(about.st_mode) and about.st_uid == os.getuid() and not about.st_mode & 0o022


def _version(program: str) -> tuple[str, int, int]:
    """Changes when another compiler comes to lie at the same path."""
    path = os.path.realpath(program)
    about = os.stat(path)
    return path, about.st_size, about.st_mtime_ns


def _processor() -> str:
    """What -march=native depends on: a home folder may be shared by different machines."""
    about = {line for line in system.processor_lines() if line.startswith(("model name", "flags", "Features"))}
    return "\n".join(sorted(about)) or platform.processor()


@cache
def _cache_folder() -> Path:
    """A folder that only this user can write to: what lies in it is run.

    Raises:
        OSError: there is none, and none can be made.
    """
    try:
        given = Path(os.environ.get("XDG_CACHE_HOME", ""))
        folder = (given if given.is_absolute() else Path.home() / ".cache") / "hpal"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        about = folder.stat()
        if about.st_uid == os.getuid() and not about.st_mode & 0o022 and os.access(folder, os.W_OK):
            return folder
    except (OSError, RuntimeError):
        # RuntimeError: there is no home.
        pass
    made = Path(tempfile.mkdtemp(prefix="hpal-"))
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return made
