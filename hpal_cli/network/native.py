"""The compiled products of sparse.c: built by the machine's own C compiler at first use, kept for the next.

Without a compiler (or with `HPAL_NATIVE=0`) convolution.py computes the same with torch alone, two to three times
slower; `missing()` says why.
"""

from __future__ import annotations

import ctypes
from pathlib import Path

import torch
from torch import Tensor

from hpal_cli.compiled import NotCompiled, library_or_reason, load

_SOURCE = Path(__file__).with_name("sparse.c")
_FLAGS = ("-O3", "-march=native", "-fopenmp", "-fPIC", "-std=gnu11")
_pointer, _int, _long = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64


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


@library_or_reason
def _library() -> ctypes.CDLL:
    # The thread pool must be torch's own: two pools would spin against each other on the same cores.
    openmp = sorted(path for folder in _torch_folders() for path in folder.glob("libgomp*.so*"))
    if not openmp:
        raise NotCompiled("torch has no libgomp to share")
    library = load(_SOURCE, flags=_FLAGS, link=[str(openmp[0])], version=torch.__version__)
    library.hpal_lanes.argtypes, library.hpal_lanes.restype = [], _int
    library.hpal_has_half.argtypes, library.hpal_has_half.restype = [], _int
    library.hpal_multiply.argtypes = [_pointer] * 4 + [_int, _long, _int, _int, _int, _int]
    library.hpal_multiply.restype = None
    library.hpal_outer.argtypes = [_pointer] * 4 + [_int, _long, _int, _int, _int, _int]
    library.hpal_outer.restype = None
    return library


def _torch_folders() -> list[Path]:
    package = Path(torch.__file__).parent
    return [package / "lib", package.with_name("torch.libs")]
