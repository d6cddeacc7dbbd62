"""Sparse convolution as one small matrix product for each kernel offset: gather rows, multiply, add rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Pair(NamedTuple):
    """Rows that one kernel offset brings together: (P,) source rows, (P,) target rows, no row twice in either."""

    source: Tensor
    target: Tensor


Map = Sequence[Pair | None]
"""One pair for each kernel offset; None is the identity (the centre of a cube: every row meets itself)."""


def sparse_matmul(features: Tensor, kernel: Tensor, pairs: Map, rows: int) -> Tensor:
    """`out[target_k] += features[source_k] @ kernel[k]` over all offsets k.

    features (N, C_in), kernel (K, C_in, C_out), K pairs -> (rows, C_out). Only the input and the kernel are kept for
    the backward pass; the index lists are shared by all layers of a stride.
    """
    return _SparseMatmul.apply(features, kernel, pairs, rows)


class _SparseMatmul(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, kernel: Tensor, pairs: Map, rows: int) -> Tensor:
        ctx.save_for_backward(features, kernel)
        ctx.pairs = pairs
        return _accumulate(features, kernel, pairs, rows)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        (gradient,) = gradients
        features, kernel = ctx.saved_tensors
        gradient = gradient.contiguous()
        wanted_features, wanted_kernel = ctx.needs_input_grad[:2]
        to_features = to_kernel = None
        if wanted_features:
            turned = [None if pair is None else Pair(pair.target, pair.source) for pair in ctx.pairs]
            to_features = _accumulate(gradient, kernel.transpose(1, 2), turned, len(features))
        if wanted_kernel:
            to_kernel = torch.zeros_like(kernel)
            for k, pair in enumerate(ctx.pairs):
                if pair is None:
                    torch.mm(features.t(), gradient, out=to_kernel[k])
                elif len(pair.source):
                    torch.mm(features[pair.source].t(), gradient[pair.target], out=to_kernel[k])
        return to_features, to_kernel, None, None


def _accumulate(features: Tensor, kernel: Tensor, pairs: Map, rows: int) -> Tensor:
    identity = [k for k, pair in enumerate(pairs) if pair is None]
    out = features @ kernel[identity[0]] if identity else features.new_zeros(rows, kernel.shape[2])
    for k, pair in enumerate(pairs):
        # No row occurs twice in a list, so the sum's order is the offsets' order: the same bits on every run.
        if pair is not None and len(pair.source):
            out.index_add_(0, pair.target, features[pair.source] @ kernel[k])
    return out
