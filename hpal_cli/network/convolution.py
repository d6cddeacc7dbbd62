"""Sparse convolution: for each kernel offset, rows are read, multiplied by that offset's matrix, and added up.

On a CPU, compiled code does that in one pass (native.py). On other devices and in other precisions, there are three
torch calls for each offset.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hpal_cli.network import native


class Pair(NamedTuple):
    """The rows that one kernel offset connects: source rows (P,) and target rows (P,), both ascending."""

    source: Tensor
    target: Tensor


class KernelMap:
    """The pairs of rows of each kernel offset. None stands for the identity: at the centre of a 3x3x3 kernel, every row
    is connected with itself."""

    def __init__(self, pairs: Sequence[Pair | None]) -> None:
        self.pairs = tuple(pairs)
        self._transposed: KernelMap | None = None

    @property
    def transposed(self) -> KernelMap:
        """The map of the transposed convolution, which has sources and targets exchanged."""
        if self._transposed is None:
            self._transposed = KernelMap(
                [None if pair is None else Pair(pair.target, pair.source) for pair in self.pairs]
            )
            self._transposed._transposed = self
        return self._transposed

    @cached_property
    def table(self) -> Tensor:
        """(K, 3) for native.py: the memory addresses of the sources and targets of each offset, and their number, which
        is -1 for the identity."""
        rows = []
        for pair in self.pairs:
            if pair is None:
                rows.append((0, 0, -1))
            else:
                assert pair.source.is_contiguous()
                assert pair.target.is_contiguous()
                rows.append((pair.source.data_ptr(), pair.target.data_ptr(), len(pair.source)))
        return torch.tensor(rows, dtype=torch.int64, device="cpu")


def sparse_matmul(features: Tensor, kernel: Tensor, pairs: KernelMap, rows: int, *, half: bool = False) -> Tensor:
    """`out[target_k] += features[source_k] @ kernel[k]` over all offsets k.

    features (N, C_in), kernel (K, C_in, C_out), K pairs -> (rows, C_out). The backward pass keeps only the features and
    the kernel; all layers of a stride share the pairs. half: whether the factors of every product are rounded to
    bfloat16; sums have the type of the features.
    """
    return _SparseMatmul.apply(features, kernel, pairs, rows, half)


class _SparseMatmul(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, kernel: Tensor, pairs: KernelMap, rows: int, half: bool) -> Tensor:
        ctx.save_for_backward(features, kernel)
        ctx.pairs, ctx.half = pairs, half
        return _multiply(features, kernel, pairs, rows, half)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        (gradient,) = gradients
        features, kernel = ctx.saved_tensors
        wanted_features, wanted_kernel = ctx.needs_input_grad[:2]
        to_features = to_kernel = None
        if wanted_features:
            to_features = _multiply(gradient, kernel.transpose(1, 2), ctx.pairs.transposed, len(features), ctx.half)
        if wanted_kernel:
            to_kernel = _outer(features, gradient, kernel, ctx.pairs, ctx.half)
        return to_features, to_kernel, None, None, None


def _rounded(x: Tensor, half: bool) -> Tensor:
    """The factors of a product, rounded to bfloat16 if `half`. On a CPU they are float32 again after the rounding,
    since not every CPU multiplies bfloat16."""
    if not half:
        return x
    return x.bfloat16().to(x.dtype) if x.device.type == "cpu" else x.bfloat16()


def _multiply(features: Tensor, kernel: Tensor, pairs: KernelMap, rows: int, half: bool) -> Tensor:
    dtype = features.dtype
    if half and native.supports_half(features, kernel):
        return native.multiply(features, kernel, pairs.table, rows, half=True)
    features, kernel = _rounded(features, half), _rounded(kernel, half)
    if native.supports(features, kernel):
        return native.multiply(features, kernel, pairs.table, rows)
    out = features.new_zeros(rows, kernel.shape[2], dtype=dtype)
    for k, pair in enumerate(pairs.pairs):
        # No target occurs twice for an offset, so sums are in the order of the offsets, and every run gives the same
        # bits.
        if pair is None:
            out += features @ kernel[k]
        elif len(pair.source):
            out.index_add_(0, pair.target, (features.index_select(0, pair.source) @ kernel[k]).to(dtype))
    return out


def _outer(features: Tensor, gradient: Tensor, kernel: Tensor, pairs: KernelMap, half: bool) -> Tensor:
    dtype = features.dtype
    if half and native.supports_half(gradient, kernel):
        return native.outer(features, gradient, pairs.table, half=True)
    features, gradient = _rounded(features, half), _rounded(gradient, half)
    if native.supports(gradient, kernel):
        return native.outer(features, gradient, pairs.table)
    out = torch.zeros_like(kernel)
    for k, pair in enumerate(pairs.pairs):
        if pair is None:
            out[k] = features.t() @ gradient
        elif len(pair.source):
            left, right = features.index_select(0, pair.source), gradient.index_select(0, pair.target)
            out[k] = (left.t() @ right).to(dtype)
    return out
