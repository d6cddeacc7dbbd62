"""Sparse convolution: for each kernel offset, rows are read, multiplied by that offset's matrix, and added up.

On a CPU one compiled pass does it (native.py); elsewhere, and in other precisions, three torch calls an offset do.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hpal_cli.network import native


class Pair(NamedTuple):
    """Rows that one kernel offset brings together: (P,) source rows, (P,) target rows, both ascending."""

    source: Tensor
    target: Tensor


class KernelMap:
    """One pair for each kernel offset; None is the identity (the centre of a cube: every row meets itself)."""

    def __init__(self, pairs: Sequence[Pair | None]) -> None:
        self.pairs = tuple(pairs)
        self._turned: KernelMap | None = None

    @property
    def turned(self) -> KernelMap:
        """Sources and targets swapped: the map of the transposed convolution."""
        if self._turned is None:
            self._turned = KernelMap([None if pair is None else Pair(pair.target, pair.source) for pair in self.pairs])
            self._turned._turned = self
        return self._turned

    @cached_property
    def table(self) -> Tensor:
        """(K, 3) addresses of sources and targets, and their number, for native.py; the identity's number is -1."""
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

    features (N, C_in), kernel (K, C_in, C_out), K pairs -> (rows, C_out). Only the input and the kernel are kept for
    the backward pass; the index lists are shared by all layers of a stride. half: the factors of every product are
    rounded to bfloat16; sums stay in the features' type.
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
            to_features = _multiply(gradient, kernel.transpose(1, 2), ctx.pairs.turned, len(features), ctx.half)
        if wanted_kernel:
            to_kernel = _outer(features, gradient, kernel, ctx.pairs, ctx.half)
        return to_features, to_kernel, None, None, None


def _rounded(x: Tensor, half: bool) -> Tensor:
    """The factors of a product: rounded to bfloat16 if wanted; a CPU that cannot multiply that goes on in float32."""
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
        # No row occurs twice in a list, so the sum's order is the offsets' order: the same bits on every run.
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
