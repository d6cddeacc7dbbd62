"""Batch norm, addition and ReLU on a GPU, in Triton: two launches forward and two backward for the three of them.

Statistics are those of the voxels of this process. Rows are divided into shares whose number follows from the shapes; a
share's mean and squared deviations are merged block by block (Chan, Golub and LeVeque 1979), and every program of the
second launch adds up all shares, in their order, before it writes its rows. So the same step gives the same bits.

Importing this module imports Triton. TRITON_INTERPRET=1 (before the import) runs the kernels on CPU tensors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor, nn

from hpal_cli.network.implicit_gemm import Ending, sums_of

ROWS = 64
"""Rows that a program reads at once."""

SHARES = 64
"""Shares of the rows whose sums are kept, at most: every program of the second launch reads all of them."""

PROGRAMS = 256
"""Programs that write rows, at most, for each group of columns."""


@triton.jit
def _columns(WIDTH: tl.constexpr, WIDE: tl.constexpr):
    column = tl.program_id(1) * WIDE + tl.arange(0, WIDE)
    return column, column < WIDTH


@triton.jit
def _block(start, last, column, real, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    """(BLOCK, WIDE) where the entries of some rows from `start` on lie, and which of them are before row `last`."""
    row = start + tl.arange(0, BLOCK)
    return row.to(tl.int64)[:, None] * WIDTH + column[None, :], (row < last)[:, None] & real[None, :]


@triton.jit
def _shares(part, column, real, shares, WIDTH: tl.constexpr, SHARES: tl.constexpr):
    """(SHARES, WIDE) the two sums of all shares, 0 behind the last, and (SHARES,) their numbers."""
    share = tl.arange(0, SHARES)
    there = (share < shares)[:, None] & real[None, :]
    at = part + share[:, None] * (2 * WIDTH) + column[None, :]
    return tl.load(at, mask=there, other=0.0), tl.load(at + WIDTH, mask=there, other=0.0), share


@triton.jit
def _kept(kept_mean, kept_factor, weight, bias, column, real):
    """For these columns the mean and the factor, and what multiplies and is added to x less the mean."""
    factor = tl.load(kept_factor + column, mask=real, other=0.0)
    scale = factor * tl.load(weight + column, mask=real, other=0.0)
    return (
        tl.load(kept_mean + column, mask=real, other=0.0),
        factor,
        scale,
        tl.load(bias + column, mask=real, other=0.0),
    )


@triton.jit
def _slope_of(
    slope, out, at, inside, centred, scale, shift, RECTIFIED: tl.constexpr, SHORTCUT: tl.constexpr, SUMS: tl.constexpr
):
    """The slope behind the ReLU, before it. Without a shortcut x says whether the ReLU let it pass."""
    value = tl.load(slope + at, mask=inside, other=0.0).to(SUMS)
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
    """part[s] = mean, and sum of squared deviations from it, of the s-th `each` rows."""
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

    TRAINING: mean and variance are those of `part`; kept: the mean and the factor 1 / sqrt(variance + EPS).
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
        centred = tl.load(x + at, mask=inside, other=0.0).to(SUMS) - mean[None, :]
        value = centred * scale[None, :] + shift[None, :]
        if SHORTCUT:
            value += tl.load(shortcut + at, mask=inside, other=0.0).to(SUMS)
        if RECTIFIED:
            value = tl.where(value < 0, 0.0, value)
        tl.store(out + at, value.to(out.dtype.element_ty), mask=inside)
    if TRAINING:  # noqa: SIM102
        # One program of each group of columns keeps the statistics; no other reads what it writes here.
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
def _slopes_kernel(
    x, out, slope, kept_mean, kept_factor, weight, bias, part, rows, each,
    WIDTH: tl.constexpr, BLOCK: tl.constexpr, WIDE: tl.constexpr, SUMS: tl.constexpr,
    SHORTCUT: tl.constexpr, RECTIFIED: tl.constexpr,
):  # fmt: skip
    """part[s] = sums of the slope, and of the slope times the normalised x, of the s-th `each` rows."""
    column, real = _columns(WIDTH, WIDE)
    mean, factor, scale, shift = _kept(kept_mean, kept_factor, weight, bias, column, real)
    first = tl.program_id(0) * each
    last = tl.minimum(first + each, rows)
    one = tl.zeros((WIDE,), SUMS)
    other = tl.zeros((WIDE,), SUMS)
    for start in range(first, last, BLOCK):
        at, inside = _block(start, last, column, real, WIDTH, BLOCK)
        centred = tl.load(x + at, mask=inside, other=0.0).to(SUMS) - mean[None, :]
        value = _slope_of(slope, out, at, inside, centred, scale, shift, RECTIFIED, SHORTCUT, SUMS)
        normal = centred * factor[None, :]
        one += tl.sum(value, axis=0)
        other += tl.sum(value * normal, axis=0)
    to = part + tl.program_id(0) * (2 * WIDTH) + column
    tl.store(to, one, mask=real)
    tl.store(to + WIDTH, other, mask=real)


@triton.jit(do_not_specialize=["rows", "each", "shares"])
def _gradient_kernel(
    x, out, slope, kept_mean, kept_factor, weight, bias, part, to_x, to_shortcut, to_weight, to_bias,
    rows, each, shares,
    WIDTH: tl.constexpr, BLOCK: tl.constexpr, WIDE: tl.constexpr, SHARES: tl.constexpr, SUMS: tl.constexpr,
    SHORTCUT: tl.constexpr, RECTIFIED: tl.constexpr,
):  # fmt: skip
    """to_x = weight factor (slope - mean of the slope - normalised x times mean of their product) for `each` rows."""
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
        value = _slope_of(slope, out, at, inside, centred, scale, shift, RECTIFIED, SHORTCUT, SUMS)
        if RECTIFIED and SHORTCUT:
            tl.store(to_shortcut + at, value.to(to_shortcut.dtype.element_ty), mask=inside)
        normal = centred * factor[None, :]
        value = scale[None, :] * (value - one[None, :] - normal * other[None, :])
        tl.store(to_x + at, value.to(to_x.dtype.element_ty), mask=inside)


def normalise(x: Tensor, ending: Ending) -> Tensor:
    """(M, C) by the running statistics, in evaluation: what `implicit_gemm.multiply` does behind a convolution."""
    out = torch.empty_like(x)
    if len(x):
        _normalise(x, ending, out)
    return out


class Room:
    """Memory of one pass through a network, made in a few calls for all of its layers: for each norm its mean, its
    factor and the gradients of its weight and its bias, all (C,), and for all of them one place for sums of shares.

    Layers follow one another on one stream, so each may write where the one before it has finished reading.
    """

    def __init__(self, norms: Sequence[nn.BatchNorm1d]) -> None:
        weight = norms[0].weight
        widths = [len(bn.weight) for bn in norms]
        rows = weight.new_empty(4, sum(widths)).unbind()
        self._of = dict(zip(norms, zip(*(row.split(widths) for row in rows))))
        self.part = weight.new_empty(SHARES * 2 * max(widths))
        """Where sums of shares lie between two launches."""

    def take(self, bn: nn.BatchNorm1d) -> tuple[Tensor, ...]:
        """Mean, factor, and the gradients of weight and bias: for a norm's first call, since later ones need others."""
        return self._of.pop(bn, None) or tuple(torch.empty_like(bn.weight) for _ in range(4))


def normalise_batch(
    x: Tensor, bn: nn.BatchNorm1d, shortcut: Tensor | None, *, rectified: bool, room: Room | None = None
) -> Tensor:
    """`relu(bn(x) + shortcut)` in training, and bn's running statistics as torch keeps them.

    x, shortcut: (M, C), M > 1 (one row has no variance); room: that of the pass; the sums of bfloat16 and float16 are
    float32. Repeats to the bit, and so does its backward pass.
    """
    assert len(x) > 1
    return _Normalised.apply(x, bn.weight, bn.bias, shortcut, bn, rectified, room or Room([bn]))


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
        room: Room,
    ) -> Tensor:
        x = x.contiguous()
        out, each = torch.empty_like(x), _each(len(x), SHARES)
        mean, factor, *ctx.to_parameters = room.take(bn)
        with torch.cuda.device_of(x):
            _statistics_kernel[_grid(x, each)](x, room.part, len(x), each, **_shape(x), num_warps=4)
        shortcut = None if shortcut is None else shortcut.contiguous()
        _normalise(x, Ending.of(bn, shortcut, rectified=rectified), out, (room.part, mean, factor), each, bn.momentum)
        ctx.save_for_backward(x, weight, bias)
        ctx.kept, ctx.room = (mean, factor), room
        ctx.rectified, ctx.shortcut = rectified, shortcut is not None
        # Not the output itself, which would keep this node, and so itself, alive.
        ctx.out = out.detach() if rectified and ctx.shortcut else None
        return out

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias = ctx.saved_tensors
        slope, to_x = slopes[0].contiguous(), torch.empty_like(x)
        # Given away, so that autograd keeps them as they are instead of copies.
        (to_weight, to_bias), ctx.to_parameters = ctx.to_parameters or (None, None), None
        if to_weight is None:
            to_weight, to_bias = torch.empty_like(weight), torch.empty_like(weight)
        # Without a ReLU the shortcut's slope is the slope itself.
        own = ctx.shortcut and ctx.rectified
        to_shortcut = torch.empty_like(x) if own else slope if ctx.shortcut else None
        part, each, to_write = ctx.room.part, _each(len(x), SHARES), _each(len(x), PROGRAMS)
        shares = triton.cdiv(len(x), each)
        with torch.cuda.device_of(x):
            given = (x, ctx.out if own else x, slope, *ctx.kept, weight, bias, part)
            what = {"SHORTCUT": ctx.shortcut, "RECTIFIED": ctx.rectified, **_shape(x)}
            _slopes_kernel[_grid(x, each)](*given, len(x), each, **what, num_warps=4)
            _gradient_kernel[_grid(x, to_write)](
                *given, to_x, to_shortcut if own else to_x, to_weight, to_bias, len(x), to_write, shares,
                SHARES=triton.next_power_of_2(shares), **what, num_warps=4,
            )  # fmt: skip
        return to_x, to_weight, to_bias, to_shortcut, None, None, None


def _normalise(
    x: Tensor,
    ending: Ending,
    out: Tensor,
    batch: tuple[Tensor, Tensor, Tensor] | None = None,
    each: int = 1,
    momentum: float | None = None,
) -> None:
    """batch: in training, the sums of the shares, of `each` rows, and where the mean and the factor are kept."""
    shares, to_write = 1 if batch is None else triton.cdiv(len(x), each), _each(len(x), PROGRAMS)
    with torch.cuda.device_of(x):
        _normalise_kernel[_grid(x, to_write)](
            x, *(batch or (x, x, x)), ending.mean, ending.variance, ending.weight, ending.bias,
            x if ending.shortcut is None else ending.shortcut, out, len(x), to_write, shares, each,
            SHARES=triton.next_power_of_2(shares), EPS=ending.eps, MOMENTUM=momentum or 0.0, TRAINING=batch is not None,
            SHORTCUT=ending.shortcut is not None, RECTIFIED=ending.rectified, **_shape(x), num_warps=4,
        )  # fmt: skip


def _each(rows: int, programs: int) -> int:
    """Rows of a program, of at most so many: a function of the shape alone, so that the order of a sum is, too."""
    return triton.cdiv(triton.cdiv(rows, programs), ROWS) * ROWS


def _wide(width: int) -> int:
    """Columns of a program: a power of 2 that divides them, so that none computes for nothing."""
    return max(16, min(64, width & -width))


def _grid(x: Tensor, each: int) -> tuple[int, int]:
    return triton.cdiv(len(x), each), triton.cdiv(x.shape[1], _wide(x.shape[1]))


def _shape(x: Tensor) -> dict[str, Any]:
    return {"WIDTH": x.shape[1], "BLOCK": ROWS, "WIDE": _wide(x.shape[1]), "SUMS": sums_of(x.dtype)}
