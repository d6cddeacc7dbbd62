"""The compiled products of sparse.c: built by the machine's own C compiler at first use, kept for the next.

Without a compiler (or with `HPAL_NATIVE=0`) convolution.py computes the same with torch alone, two to three times
slower; `missing()` says why.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

_SOURCE = Path(__file__).with_name("sparse.c")
_FLAGS = ("-O3", "-march=native", "-fopenmp", "-fPIC", "-std=gnu11")
_pointer, _int, _long = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64


class _Missing(Exception):
    """Why there are no compiled products here."""


def missing() -> str | None:
    """Why the compiled products cannot be used here, None if they can."""
    found = _library()
    return found if isinstance(found, str) else None


def serves(features: Tensor, kernel: Tensor) -> bool:
    """Whether `multiply` and `outer` take these: float32 on the CPU, outputs that fill whole vectors."""
    if features.device.type != "cpu" or features.dtype != torch.float32 or kernel.dtype != torch.float32:
        return False
    library = _library()
    return not isinstance(library, str) and kernel.shape[2] % library.hpal_lanes() == 0


def serves_half(kernel: Tensor) -> bool:
    """Whether both also multiply bfloat16 themselves: the processor can, and so many inputs and outputs fit."""
    _, inputs, outputs = kernel.shape
    return bool(_call().hpal_has_half()) and inputs % 8 == 0 and outputs <= 512


def multiply(features: Tensor, kernel: Tensor, table: Tensor, rows: int, *, half: bool = False) -> Tensor:
    """`out[target_k] += features[source_k] @ kernel[k]` over all offsets k; table: KernelMap.table.

    half: the factors are rounded to bfloat16 (ask `serves_half` first).
    """
    volume, inputs, outputs = kernel.shape
    out = features.new_empty(rows, outputs)
    if half:
        features = features.bfloat16()
        # Two inputs of an output side by side, as the processor multiplies them.
        kernel = kernel.bfloat16().reshape(volume, inputs // 2, 2, outputs).transpose(2, 3)
    features, kernel = features.contiguous(), kernel.contiguous()
    _call().hpal_multiply(
        features.data_ptr(), kernel.data_ptr(), out.data_ptr(), table.data_ptr(),
        volume, rows, inputs, outputs, half, torch.get_num_threads(),
    )  # fmt: skip
    return out


def outer(features: Tensor, gradient: Tensor, table: Tensor, *, half: bool = False) -> Tensor:
    """The kernel's gradient: `features[source_k].T @ gradient[target_k]` for every offset k; half as in `multiply`."""
    volume, inputs, outputs = len(table), features.shape[1], gradient.shape[1]
    out = features.new_empty(volume, inputs, outputs)
    if half:
        features, gradient = features.bfloat16(), gradient.bfloat16()
    features, gradient = features.contiguous(), gradient.contiguous()
    _call().hpal_outer(
        features.data_ptr(), gradient.data_ptr(), out.data_ptr(), table.data_ptr(),
        volume, len(gradient), inputs, outputs, half, torch.get_num_threads(),
    )  # fmt: skip
    return out


def _call() -> ctypes.CDLL:
    library = _library()
    assert not isinstance(library, str), "ask serves() first"
    return library


@cache
def _library() -> ctypes.CDLL | str:
    if os.environ.get("HPAL_NATIVE") == "0":
        return "HPAL_NATIVE is 0"
    try:
        library = ctypes.CDLL(str(_build()))
        library.hpal_lanes.argtypes, library.hpal_lanes.restype = [], _int
        library.hpal_has_half.argtypes, library.hpal_has_half.restype = [], _int
        library.hpal_multiply.argtypes = [_pointer] * 4 + [_int, _long, _int, _int, _int, _int]
        library.hpal_multiply.restype = None
        library.hpal_outer.argtypes = [_pointer] * 4 + [_int, _long, _int, _int, _int, _int]
        library.hpal_outer.restype = None
    except (_Missing, OSError, AttributeError) as error:
        return str(error)
    return library


def _build() -> Path:
    """The shared library for this source, compiler, torch and processor; compiled if it is not there yet."""
    if platform.system() != "Linux":
        raise _Missing(f"not built on {platform.system()}")
    compiler = shutil.which(os.environ.get("CC", "gcc"))
    if compiler is None:
        raise _Missing("there is no C compiler (gcc)")
    # The thread pool must be torch's own: two pools would spin against each other on the same cores.
    openmp = sorted(path for folder in _torch_folders() for path in folder.glob("libgomp*.so*"))
    if not openmp:
        raise _Missing("torch has no libgomp to share")
    what = (_SOURCE.read_bytes(), " ".join(_FLAGS), compiler, str(openmp[0]), torch.__version__, _processor())
    digest = hashlib.sha256("\0".join(map(str, what)).encode()).hexdigest()[:16]
    folder = _cache_folder()
    target = folder / f"sparse-{digest}.so"
    if target.exists():
        return target
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        made = Path(scratch) / "sparse.so"
        # Linked without -fopenmp, which would add the compiler's own libgomp.
        compiled = Path(scratch) / "sparse.o"
        steps = [
            [compiler, *_FLAGS, "-c", str(_SOURCE), "-o", str(compiled)],
            [compiler, "-shared", str(compiled), str(openmp[0]), "-o", str(made)],
        ]
        for step in steps:
            done = subprocess.run(step, capture_output=True, text=True, check=False)
            if done.returncode:
                lines = done.stderr.strip().splitlines() or [f"exit {done.returncode}"]
                raise _Missing(f"{Path(compiler).name} failed ({lines[0][:120]})")
        made.replace(target)
    return target


def _torch_folders() -> list[Path]:
    package = Path(torch.__file__).parent
    return [package / "lib", package.with_name("torch.libs")]


def _processor() -> str:
    """What -march=native depends on: a home folder may be shared by different machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return "\n".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))


def _cache_folder() -> Path:
    """A folder that only this user can write to: what lies in it is run."""
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = root / "hpal"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if folder.stat().st_uid == os.getuid() and os.access(folder, os.W_OK):
            return folder
    except (OSError, RuntimeError):
        pass
    return Path(tempfile.mkdtemp(prefix="hpal-"))
