"""The compiled parts of sparse convolution on a CPU (pairs.c, sparse.c and sparse_bf16.c; see hpal_cli/compiled.py).

Without a compiler, or with `HPAL_NATIVE=0`, convolution.py computes the same by torch, two to three times slower.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from hpal_cli.compiled import NotCompiled, library_or_reason, load, reason

FLAGS = ("-O3", "-march=native", "-fopenmp", "-fPIC", "-std=gnu11")
_HERE = Path(__file__).parent
_pointer, _int, _long = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64


def missing() -> str | None:
    """Why the compiled products cannot be used here, None if they can."""
    return reason(_float_library())


def missing_half() -> str | None:
    """Why the compiled products of bfloat16 cannot be used here, None if they can."""
    return reason(_half_library())


def missing_pairs() -> str | None:
    """Why the compiled search for neighbours cannot be used here, None if it can."""
    return reason(_pairs_library())


def supports(features: Tensor, kernel: Tensor) -> bool:
    """Whether `multiply` and `outer` can be used: features and kernel are float32 on the CPU, and the number of outputs
    is a multiple of the vector length."""
    if features.device.type != "cpu" or features.dtype != torch.float32 or kernel.dtype != torch.float32:
        return False
    library = _float_library()
    return not isinstance(library, str) and kernel.shape[2] % library.hpal_lanes() == 0


def supports_half(features: Tensor, kernel: Tensor) -> bool:
    """Whether `multiply` and `outer` can be used with `half`: the processor multiplies bfloat16, and the numbers of
    channels are multiples of 16 up to 512."""
    if not supports(features, kernel) or isinstance(_half_library(), str):
        return False
    return all(width % 16 == 0 and width <= 512 for width in kernel.shape[1:])


def multiply(features: Tensor, kernel: Tensor, table: Tensor, rows: int, *, half: bool = False) -> Tensor:
    """`out[target_k] += features[source_k] @ kernel[k]` over all offsets k: features (N, C_in), kernel (K, C_in, C_out)
    -> (rows, C_out); table: of `KernelMap`.

    half: whether the factors are rounded to bfloat16, which needs `supports_half`.
    """
    library = _loaded(_half_library() if half else _float_library())
    volume, inputs, outputs = kernel.shape
    out = features.new_empty(rows, outputs)
    threads = torch.get_num_threads()
    if half:
        features, kernel = features.bfloat16(), _packed(library, kernel, threads)
    features, kernel = features.contiguous(), kernel.contiguous()
    library.hpal_multiply(
        features.data_ptr(), kernel.data_ptr(), out.data_ptr(), table.data_ptr(),
        volume, rows, inputs, outputs, threads,
    )  # fmt: skip
    return out


def outer(features: Tensor, gradient: Tensor, table: Tensor, *, half: bool = False) -> Tensor:
    """(K, C_in, C_out) the gradient of the kernel: `features[source_k].T @ gradient[target_k]` for every offset k, from
    features (N, C_in) and gradient (rows, C_out); half: as in `multiply`."""
    library = _loaded(_half_library() if half else _float_library())
    volume, inputs, outputs = len(table), features.shape[1], gradient.shape[1]
    out = features.new_empty(volume, inputs, outputs)
    if half:
        features, gradient = features.bfloat16(), gradient.bfloat16()
    features, gradient = features.contiguous(), gradient.contiguous()
    library.hpal_outer(
        features.data_ptr(), gradient.data_ptr(), out.data_ptr(), table.data_ptr(),
        volume, len(gradient), inputs, outputs, torch.get_num_threads(),
    )  # fmt: skip
    return out


def kernel_pairs(key: Tensor, shifts: list[int]) -> list[tuple[Tensor, Tensor]] | None:
    """For each shift the rows `(source, target)` with `key[source] == key[target] + shift`, ascending. None if the
    compiled code cannot be used.

    key: (M,) int64, ascending and without duplicates.
    """
    library = _pairs_library()
    if isinstance(library, str) or key.device.type != "cpu":
        return None
    key, shift = key.contiguous(), torch.tensor(shifts, device=key.device)
    source, target = key.new_empty(2, len(shifts), len(key))
    found = torch.empty_like(shift)
    library.hpal_pairs(
        key.data_ptr(), len(key), shift.data_ptr(), len(shift),
        source.data_ptr(), target.data_ptr(), found.data_ptr(), torch.get_num_threads(),
    )  # fmt: skip
    # Copies, so that the memory that was not needed is freed.
    return [(source[s, :n].clone(), target[s, :n].clone()) for s, n in enumerate(found.tolist())]


def _packed(library: ctypes.CDLL, kernel: Tensor, threads: int) -> Tensor:
    """The kernel in bfloat16, in the order in which sparse_bf16.c reads it."""
    volume, inputs, outputs = kernel.shape
    transposed = kernel.transpose(1, 2).is_contiguous()
    kernel = kernel if transposed else kernel.contiguous()
    # The inputs are padded to a multiple of 32.
    packed = kernel.new_empty(volume * outputs * -(-inputs // 32) * 32, dtype=torch.bfloat16)
    library.hpal_pack(kernel.data_ptr(), packed.data_ptr(), volume, inputs, outputs, transposed, threads)
    return packed


def _loaded(library: ctypes.CDLL | str) -> ctypes.CDLL:
    assert not isinstance(library, str), "ask supports() first"
    return library


@library_or_reason
def _pairs_library() -> ctypes.CDLL:
    library = _load("pairs.c")
    library.hpal_pairs.argtypes = [_pointer, _long, _pointer, _int, _pointer, _pointer, _pointer, _int]
    library.hpal_pairs.restype = None
    return library


@library_or_reason
def _float_library() -> ctypes.CDLL:
    library = _load("sparse.c")
    library.hpal_lanes.argtypes, library.hpal_lanes.restype = [], _int
    _declare_products(library)
    return library


@library_or_reason
def _half_library() -> ctypes.CDLL:
    return half_library()


def half_library(flags: Sequence[str] = FLAGS) -> ctypes.CDLL:
    """The library of sparse_bf16.c, compiled with these flags.

    Raises:
        NotCompiled: there is no compiler, or the processor does not multiply bfloat16.
    """
    library = _load("sparse_bf16.c", flags)
    if not library.hpal_has_bf16():
        raise NotCompiled("this processor does not multiply bfloat16")
    library.hpal_pack.argtypes = [_pointer] * 2 + [_int] * 5
    library.hpal_pack.restype = None
    _declare_products(library)
    return library


def _declare_products(library: ctypes.CDLL) -> None:
    for product in (library.hpal_multiply, library.hpal_outer):
        product.argtypes = [_pointer] * 4 + [_int, _long, _int, _int, _int]
        product.restype = None


def _load(source: str, flags: Sequence[str] = FLAGS) -> ctypes.CDLL:
    # The library must use torch's own thread pool, since two pools would compete for the same cores.
    openmp = sorted(path for folder in _torch_folders() for path in folder.glob("libgomp*.so*"))
    if not openmp:
        raise NotCompiled("torch has no libgomp to share")
    return load(_HERE / source, flags=flags, link=[str(openmp[0])], version=torch.__version__)


def _torch_folders() -> list[Path]:
    package = Path(torch.__file__).parent
    return [package / "lib", package.with_name("torch.libs")]
