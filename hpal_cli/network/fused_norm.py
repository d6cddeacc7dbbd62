"""Batch norm, addition and ReLU together on a GPU, in Triton, with two launches forward and two backward.
The statistics are those of the voxels of this process. The rows are divided into shares whose number depends only on
the shapes. The first launch computes the mean and the squared deviations of each share, which it merges block by block
(Chan, Golub and LeVeque 1979). In the second, every program adds up all shares in their order before it writes its
rows. So the same step always gives the same bits.

Importing this module imports Triton. TRITON_INTERPRET=1 (before the import) runs the kernels on CPU tensors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor, nn

from hpal_cli.network.implicit_gemm import Epilogue, norm_and_relu, sums_of

ROWS = 64
"""Rows that a program reads at a time."""

MAX_SHARES = 64
"""Number of shares, at most, since every program of the second launch reads the sums of all of them."""

MAX_PROGRAMS = 256
"""Number of programs that write rows, at most, for each group of columns."""


@triton.jit
def _columns(WIDTH: tl.constexpr, WIDE: tl.constexpr):
    column = tl.program_id(1) * WIDE + tl.arange(0, WIDE)
    return column, column < WIDTH


@triton.jit
def _block(start, last, column, real, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    """(BLOCK, WIDE) the offsets of the entries of the rows from `start` on, and whether each is before row `last`."""
    row = start + tl.arange(0, BLOCK)
    return row.to(tl.int64)[:, None] * WIDTH + column[None, :], (row < last)[:, None] & real[None, :]


@triton.jit
def _shares(part, column, real, shares, WIDTH: tl.constexpr, SHARES: tl.constexpr):
    """(SHARES, WIDE) the two sums of each share, 0 after the last share, and (SHARES,) the numbers of the shares."""
    share = tl.arange(0, SHARES)
    there = (share < shares)[:, None] & real[None, :]
    at = part + share[:, None] * (2 * WIDTH) + column[None, :]
    return tl.load(at, mask=there, other=0.0), tl.load(at + WIDTH, mask=there, other=0.0), share


@triton.jit
def _kept(kept_mean, kept_factor, weight, bias, column, real):
    """For these columns the mean, the factor 1 / sqrt(variance + EPS), and the scale and the shift of (x - mean)."""
    factor = tl.load(kept_factor + column, mask=real, other=0.0)
    scale = factor * tl.load(weight + column, mask=real, other=0.0)
    return (
        tl.load(kept_mean + column, mask=real, other=0.0),
        factor,
        scale,
        tl.load(bias + column, mask=real, other=0.0),
    )


@triton.jit
def _upstream_gradient(
    upstream,
    out,
    at,
    inside,
    centred,
    scale,
    shift,
    RECTIFIED: tl.constexpr,
    SHORTCUT: tl.constexpr,
    SUMS: tl.constexpr,
):
    """The gradient before the ReLU, from `upstream`, which is the gradient after it. Without a shortcut, the sign of
    the ReLU's input follows from x, else from `out`."""
    value = tl.load(upstream + at, mask=inside, other=0.0).to(SUMS)
    if RECTIFIED:
        if SHORTCUT:
            stopped = tl.load(out + at, mask=inside, other=0.0).to(SUMS) <= 0
        else:
            stopped = centred * scale[None, :] + shift[None, :] <= 0
        value = tl.where(stopped, 0.0, value)
    return value


@triton.jit(do_not_specialize=["rows", "each"])
def _statistics_kernel(
    x, part, rows, each, WIDTH: tl.constexpr, BLOCK: tl.constexpr, WIDE: tl.constexpr, SUMS: tl.constexpr
):
    """part[s] = the mean, and the sum of squared deviations from it, of share s, which has `each` rows."""
    column, real = _columns(WIDTH, WIDE)
    first = tl.program_id(0) * each
    last = tl.minimum(first + each, rows)
    mean = tl.zeros((WIDE,), SUMS)
    squares = tl.zeros((WIDE,), SUMS)
    for start in range(first, last, BLOCK):
        at, inside = _block(start, last, column, real, WIDTH, BLOCK)
        value = tl.load(x + at, mask=inside, other=0.0).to(SUMS)
        before = (start - first).to(SUMS)
        count = tl.minimum(last - start, BLOCK).to(SUMS)
        here = tl.sum(value, axis=0) / count
        off = tl.where(inside, value - here[None, :], 0.0)
        change = here - mean
        mean += change * (count / (before + count))
        squares += tl.sum(off * off, axis=0) + change * change * (before * count / (before + count))
    to = part + tl.program_id(0) * (2 * WIDTH) + column
    tl.store(to, mean, mask=real)
    tl.store(to + WIDTH, squares, mask=real)


@triton.jit(do_not_specialize=["rows", "each", "shares", "share_rows"])
def _normalise_kernel(
    x, part, kept_mean, kept_factor, running_mean, running_variance, weight, bias, shortcut, out,
    rows, each, shares, share_rows,
    WIDTH: tl.constexpr, BLOCK: tl.constexpr, WIDE: tl.constexpr, SHARES: tl.constexpr, SUMS: tl.constexpr,
    EPS: tl.constexpr, MOMENTUM: tl.constexpr, TRAINING: tl.constexpr, SHORTCUT: tl.constexpr,
    RECTIFIED: tl.constexpr,
):  # fmt: skip
    """out = relu((x - mean) / sqrt(variance + EPS) weight + bias + shortcut) for `each` rows.

    TRAINING: mean and variance are computed from `part`. kept_mean and kept_factor then get the mean and the factor
    1 / sqrt(variance + EPS) for the backward pass, and the running statistics are updated.
    """
    column, real = _columns(WIDTH, WIDE)
    if TRAINING:
        means, squares, share = _shares(part, column, real, shares, WIDTH, SHARES)
        count = tl.where(share < shares, tl.minimum(rows - share * share_rows, share_rows), 0).to(SUMS)[:, None]
        whole = rows.to(SUMS)
        mean = tl.sum(means * count, axis=0) / whole
        off = tl.where(count > 0, means - mean[None, :], 0.0)
        deviation = tl.sum(squares + off * off * count, axis=0)
        factor = 1 / tl.sqrt(deviation / whole + tl.full((), EPS, SUMS))
    else:
        mean = tl.load(running_mean + column, mask=real, other=0.0).to(SUMS)
        variance = tl.load(running_variance + column, mask=real, other=0.0).to(SUMS)
        factor = 1 / tl.sqrt(variance + tl.full((), EPS, SUMS))
    scale = factor * tl.load(weight + column, mask=real, other=0.0)
    shift = tl.load(bias + column, mask=real, other=0.0)
    first = tl.program_id(0) * each
    last = tl.minimum(first + each, rows)
    for start in range(first, last, BLOCK):
        at, inside = _block(start, last, column, real, WIDTH, BLOCK)
        value = tl.load(x + at, mask=inside, other=0.0).to(SUMS)
        value = norm_and_relu(value, mean, scale, shift, shortcut, at, inside, SHORTCUT, RECTIFIED, SUMS)
        tl.store(out + at, value.to(out.dtype.element_ty), mask=inside)
    if TRAINING:  # noqa: SIM102
        # One program of each group of columns writes the statistics; no other program reads them.
        if tl.program_id(0) == 0:
            tl.store(kept_mean + column, mean, mask=real)
            tl.store(kept_factor + column, factor, mask=real)
            old = tl.load(running_mean + column, mask=real, other=0.0)
            share_of_new = tl.full((), MOMENTUM, SUMS)
            tl.store(running_mean + column, old + share_of_new * (mean - old), mask=real)
            old = tl.load(running_variance + column, mask=real, other=0.0)
            unbiased = deviation / (whole - 1)
            tl.store(running_variance + column, old + share_of_new * (unbiased - old), mask=real)


@triton.jit(do_not_specialize=["rows", "each"])
def _gradient_sums_kernel(
    x, out, upstream, kept_mean, kept_factor, weight, bias, part, rows, each,
    WIDTH: tl.constexpr, BLOCK: tl.constexpr, WIDE: tl.constexpr, SUMS: tl.constexpr,
    SHORTCUT: tl.constexpr, RECTIFIED: tl.constexpr,
):  # fmt: skip
    """part[s] = the sums over share s, which has `each` rows, of the gradient g before the ReLU, and of g times the
    normalised x."""
    column, real = _columns(WIDTH, WIDE)
    mean, factor, scale, shift = _kept(kept_mean, kept_factor, weight, bias, column, real)
    first = tl.program_id(0) * each
    last = tl.minimum(first + each, rows)
    one = tl.zeros((WIDE,), SUMS)
    other = tl.zeros((WIDE,), SUMS)
    for start in range(first, last, BLOCK):
        at, inside = _block(start, last, column, real, WIDTH, BLOCK)
        centred = tl.load(x + at, mask=inside, other=0.0).to(SUMS) - mean[None, :]
        value = _upstream_gradient(upstream, out, at, inside, centred, scale, shift, RECTIFIED, SHORTCUT, SUMS)
        normal = centred * factor[None, :]
        one += tl.sum(value, axis=0)
        other += tl.sum(value * normal, axis=0)
    to = part + tl.program_id(0) * (2 * WIDTH) + column
    tl.store(to, one, mask=real)
    tl.store(to + WIDTH, other, mask=real)


@triton.jit(do_not_specialize=["rows", "each", "shares"])
def _gradient_kernel(
    x, out, upstream, kept_mean, kept_factor, weight, bias, part, to_x, to_shortcut, to_weight, to_bias,
    rows, each, shares,
    WIDTH: tl.constexpr, BLOCK: tl.constexpr, WIDE: tl.constexpr, SHARES: tl.constexpr, SUMS: tl.constexpr,
    SHORTCUT: tl.constexpr, RECTIFIED: tl.constexpr,
):  # fmt: skip
    """to_x = weight factor (g - mean(g) - n mean(g n)) for `each` rows, where g is the gradient before the ReLU and n
    the normalised x."""
    column, real = _columns(WIDTH, WIDE)
    mean, factor, scale, shift = _kept(kept_mean, kept_factor, weight, bias, column, real)
    ones, others, _ = _shares(part, column, real, shares, WIDTH, SHARES)
    one, other = tl.sum(ones, axis=0), tl.sum(others, axis=0)
    if tl.program_id(0) == 0:
        tl.store(to_bias + column, one, mask=real)
        tl.store(to_weight + column, other, mask=real)
    whole = rows.to(SUMS)
    one, other = one / whole, other / whole
    first = tl.program_id(0) * each
    last = tl.minimum(first + each, rows)
    for start in range(first, last, BLOCK):
        at, inside = _block(start, last, column, real, WIDTH, BLOCK)
        centred = tl.load(x + at, mask=inside, other=0.0).to(SUMS) - mean[None, :]
        value = _upstream_gradient(upstream, out, at, inside, centred, scale, shift, RECTIFIED, SHORTCUT, SUMS)
        if RECTIFIED and SHORTCUT:
            tl.store(to_shortcut + at, value.to(to_shortcut.dtype.element_ty), mask=inside)
        normal = centred * factor[None, :]
        value = scale[None, :] * (value - one[None, :] - normal * other[None, :])
        tl.store(to_x + at, value.to(to_x.dtype.element_ty), mask=inside)


def normalise(x: Tensor, epilogue: Epilogue) -> Tensor:
    """(M, C) the epilogue of x (M, C), as `implicit_gemm.multiply` applies it to the result of a convolution."""
    out = torch.empty_like(x)
    if len(x):
        _normalise(x, epilogue, out)
    return out


class NormBuffers:
    """The memory for the norms in one pass through a network, which a few calls allocate for all layers: for each norm
    its mean, its factor and the gradients of its weight and bias, (C,) each, and for all norms together one buffer for
    the sums of shares. They can share it since the layers run one after the other on one stream.
    """

    def __init__(self, norms: Sequence[nn.BatchNorm1d]) -> None:
        weight = norms[0].weight
        widths = [len(bn.weight) for bn in norms]
        rows = weight.new_empty(4, sum(widths)).unbind()
        self._of = dict(zip(norms, zip(*(row.split(widths) for row in rows))))
        self.part = weight.new_empty(MAX_SHARES * 2 * max(widths))
        """The sums of shares between two launches."""

    def take(self, bn: nn.BatchNorm1d) -> tuple[Tensor, ...]:
        """The memory (C,) for the mean, the factor, and the gradients of weight and bias of a norm. Only the first call
        for a norm returns memory of this pass, since a later call must not overwrite it."""
        return self._of.pop(bn, None) or tuple(torch.empty_like(bn.weight) for _ in range(4))


def normalise_batch(
    x: Tensor, bn: nn.BatchNorm1d, shortcut: Tensor | None, *, rectified: bool, buffers: NormBuffers | None = None
) -> Tensor:
    """(M, C) `relu(bn(x) + shortcut)` in training; updates bn's running statistics as torch does.

    x, shortcut: (M, C) with M > 1, as one row has no variance; buffers: of the pass. Sums of bfloat16 and float16 are
    float32. The result and the gradients repeat to the bit.
    """
    assert len(x) > 1
    return _Normalised.apply(x, bn.weight, bn.bias, shortcut, bn, rectified, buffers or NormBuffers([bn]))


class _Normalised(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        shortcut: Tensor | None,
        bn: nn.BatchNorm1d,
        rectified: bool,
        buffers: NormBuffers,
    ) -> Tensor:
        x = x.contiguous()
        out, each = torch.empty_like(x), _each(len(x), MAX_SHARES)
        mean, factor, *ctx.to_parameters = buffers.take(bn)
        with torch.cuda.device_of(x):
            _statistics_kernel[_grid(x, each)](x, buffers.part, len(x), each, **_shape(x), num_warps=4)
        shortcut = None if shortcut is None else shortcut.contiguous()
        _normalise(
            x,
            Epilogue.from_batch_norm(bn, shortcut, rectified=rectified),
            out,
            (buffers.part, mean, factor),
            each,
            bn.momentum,
        )
        ctx.save_for_backward(x, weight, bias)
        ctx.kept, ctx.buffers = (mean, factor), buffers
        ctx.rectified, ctx.shortcut = rectified, shortcut is not None
        # Detached, since the output itself refers to this node, and the two would keep each other in memory.
        ctx.out = out.detach() if rectified and ctx.shortcut else None
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias = ctx.saved_tensors
        upstream, to_x = gradients[0].contiguous(), torch.empty_like(x)
        # No reference to them is kept, so that autograd takes them as they are and does not copy them.
        (to_weight, to_bias), ctx.to_parameters = ctx.to_parameters or (None, None), None
        if to_weight is None:
            to_weight, to_bias = torch.empty_like(weight), torch.empty_like(weight)
        # Without a ReLU, the gradient of the shortcut is the upstream gradient itself.
        own = ctx.shortcut and ctx.rectified
        to_shortcut = torch.empty_like(x) if own else upstream if ctx.shortcut else None
        part, each, to_write = ctx.buffers.part, _each(len(x), MAX_SHARES), _each(len(x), MAX_PROGRAMS)
        shares = triton.cdiv(len(x), each)
        with torch.cuda.device_of(x):
            given = (x, ctx.out if own else x, upstream, *ctx.kept, weight, bias, part)
            what = {"SHORTCUT": ctx.shortcut, "RECTIFIED": ctx.rectified, **_shape(x)}
            _gradient_sums_kernel[_grid(x, each)](*given, len(x), each, **what, num_warps=4)
            _gradient_kernel[_grid(x, to_write)](
                *given, to_x, to_shortcut if own else to_x, to_weight, to_bias, len(x), to_write, shares,
                SHARES=triton.next_power_of_2(shares), **what, num_warps=4,
            )  # fmt: skip
        return to_x, to_weight, to_bias, to_shortcut, None, None, None


def _normalise(
    x: Tensor,
    epilogue: Epilogue,
    out: Tensor,
    batch: tuple[Tensor, Tensor, Tensor] | None = None,
    each: int = 1,
    momentum: float | None = None,
) -> None:
    """Writes the epilogue of x to `out`. batch: in training, the sums of the shares, which have `each` rows, and the
    memory for the mean and the factor."""
    shares, to_write = 1 if batch is None else triton.cdiv(len(x), each), _each(len(x), MAX_PROGRAMS)
    with torch.cuda.device_of(x):
        _normalise_kernel[_grid(x, to_write)](
            x, *(batch or (x, x, x)), epilogue.mean, epilogue.variance, epilogue.weight, epilogue.bias,
            x if epilogue.shortcut is None else epilogue.shortcut, out, len(x), to_write, shares, each,
            SHARES=triton.next_power_of_2(shares), EPS=epilogue.eps, MOMENTUM=momentum or 0.0,
            TRAINING=batch is not None, SHORTCUT=epilogue.shortcut is not None, RECTIFIED=epilogue.rectified,
            **_shape(x), num_warps=4,
        )  # fmt: skip


def _each(rows: int, programs: int) -> int:
    """Rows of a program if there are at most `programs`. The number depends only on the shape, so the order of the sums
    does too."""
    return triton.cdiv(triton.cdiv(rows, programs), ROWS) * ROWS


def _wide(width: int) -> int:
    """Columns of a program: a power of 2 that divides the width, so that no column is computed in vain."""
    return max(16, min(64, width & -width))


def _grid(x: Tensor, each: int) -> tuple[int, int]:
    return triton.cdiv(len(x), each), triton.cdiv(x.shape[1], _wide(x.shape[1]))


def _shape(x: Tensor) -> dict[str, Any]:
    return {"WIDTH": x.shape[1], "BLOCK": ROWS, "WIDE": _wide(x.shape[1]), "SUMS": sums_of(x.dtype)}
