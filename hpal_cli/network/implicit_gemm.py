"""Sparse convolution on a GPU: one launch for all offsets of a kernel, in Triton, which ships with torch for CUDA.

For each block of target rows a kernel reads the source rows that an offset brings to them, multiplies them by that
offset's matrix on tensor cores and adds up in float32 ("implicit GEMM"); nothing is written between offsets. Targets
are taken in the order of which offsets they have, so that a block has few, and the others are skipped. No sum is made
by atomic additions: the same step gives the same bits.

Importing this module imports Triton. TRITON_INTERPRET=1 (before the import) runs the kernels on CPU tensors.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor, nn
from triton.runtime.interpreter import InterpretedFunction

ROWS = 64
"""Target rows of a block."""

WIDEST = 128
"""Columns of one accumulator."""

# Places in a table are counted in 32 bits: 79 million voxels, more than any GPU's memory is enough for.

PROGRAMS = 1024
"""Programs that the gradient of a kernel is shared out to, about: several for each multiprocessor of a large GPU."""


@triton.jit
def _first_not_below(key, count, wanted, steps):
    """For each wanted number the first place in `key`, ascending, whose number is not below it; count: how many."""
    low = tl.zeros(wanted.shape, tl.int32)
    high = low + count
    for _ in range(steps):
        middle = (low + high) // 2
        open_ = low < high
        below = open_ & (tl.load(key + middle, mask=open_, other=0) < wanted)
        low = tl.where(below, middle + 1, low)
        high = tl.where(open_ & (below == 0), middle, high)
    return low


@triton.jit(do_not_specialize=["key", "count", "target", "targets", "first", "number", "steps"])
def _neighbours_kernel(
    key, count, target, targets, shift, table, code, first, number, steps,
    COLUMNS: tl.constexpr, DEEP: tl.constexpr, STRIDE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """table[k, row] = place of `target[row] + shift[c] + STRIDE z` in `key`, or -1, for k = c + COLUMNS z.

    Voxels above one another lie side by side in `key`, so a search a column is enough. code[first + row]: which k were
    found, and the table's number.
    """
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = row < targets
    start = tl.load(target + row, mask=inside, other=0)
    found = tl.zeros((BLOCK,), tl.int32)
    for column in range(COLUMNS):
        wanted = start + tl.load(shift + column)
        at = _first_not_below(key, count, wanted, steps)
        for z in range(DEEP):
            there = inside & (at < count)
            here = there & (tl.load(key + at, mask=there, other=0) == wanted + STRIDE * z)
            k = column + COLUMNS * z
            tl.store(table + k * targets + row, tl.where(here, at, -1), mask=inside)
            found = found | (here.to(tl.int32) << k)
            at = at + here.to(tl.int32)
    tl.store(code + first + row, found | number, mask=inside)


@triton.jit(do_not_specialize=["key", "count", "target", "targets", "mask", "level", "first", "number", "steps"])
def _parents_kernel(
    key, count, target, targets, mask, level, table, code, first, number, steps, BITS: tl.constexpr, BLOCK: tl.constexpr
):
    """table[k, row] = place of `target[row] & mask` in `key` where k is the row's corner of that cell, -1 elsewhere."""
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = row < targets
    start = tl.load(target + row, mask=inside, other=0)
    at = _first_not_below(key, count, start & tl.load(mask), steps)
    x, y, z = (start >> (2 * BITS + level)) & 1, (start >> (BITS + level)) & 1, (start >> level) & 1
    corner = (x + 2 * y + 4 * z).to(tl.int32)
    for k in range(8):
        tl.store(table + k * targets + row, tl.where(corner == k, at, -1), mask=inside)
    one = tl.zeros((BLOCK,), tl.int32) + 1
    tl.store(code + first + row, (one << corner) | number, mask=inside)


@triton.jit(do_not_specialize=["first", "targets", "blocks"])
def _plan_kernel(
    raw, order, first, table, row_of, offset, count, there, targets, blocks,
    VOLUME: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Columns of `raw` in the order of `order[first:]`, which counts from -first, and each block's offsets."""
    block = tl.program_id(0)
    column = block * BLOCK + tl.arange(0, BLOCK)
    inside = column < targets
    row = (tl.load(order + first + column, mask=inside, other=first) - first).to(tl.int32)
    tl.store(row_of + column, tl.where(inside, row, -1))
    k = tl.arange(0, WIDTH)
    real = k < VOLUME
    source = tl.load(raw + k[:, None] * targets + row[None, :], mask=real[:, None] & inside[None, :], other=-1)
    tl.store(table + k[:, None] * (blocks * BLOCK) + column[None, :], source, mask=real[:, None])
    some = (tl.max(source, axis=1) >= 0).to(tl.int32)
    place = tl.cumsum(some, axis=0) - 1
    tl.store(offset + block * VOLUME + place, k, mask=some != 0)
    tl.store(count + block, tl.sum(some, axis=0))
    tl.store(there + k * blocks + block, some, mask=real)


@triton.jit(do_not_specialize=["blocks"])
def _blocks_kernel(there, block_of, count, blocks, BLOCK: tl.constexpr):
    """The blocks that have an offset, ascending: one program an offset."""
    k = tl.program_id(0)
    done = tl.zeros((), tl.int32)
    for start in range(0, blocks, BLOCK):
        block = start + tl.arange(0, BLOCK)
        here = tl.load(there + k * blocks + block, mask=block < blocks, other=0)
        tl.store(block_of + k * blocks + done + tl.cumsum(here, axis=0) - 1, block, mask=here != 0)
        done += tl.sum(here, axis=0)
    tl.store(count + k, done)


@triton.jit
def _ended(
    sums, add, inside, column, mean, variance, gain, bias,
    OUTPUTS: tl.constexpr, EPS: tl.constexpr, SHORTCUT: tl.constexpr, RECTIFIED: tl.constexpr, SUMS: tl.constexpr,
):  # fmt: skip
    """relu((sums - mean) / sqrt(variance + EPS) gain + bias + shortcut) for these columns."""
    real = column < OUTPUTS
    spread = tl.load(variance + column, mask=real, other=1.0).to(SUMS) + tl.full((), EPS, SUMS)
    scale = tl.load(gain + column, mask=real, other=0.0) / tl.sqrt(spread)
    middle = tl.load(mean + column, mask=real, other=0.0)
    sums = (sums - middle[None, :]) * scale[None, :] + tl.load(bias + column, mask=real, other=0.0)[None, :]
    if SHORTCUT:
        sums += tl.load(add + column[None, :], mask=inside & real[None, :], other=0.0).to(SUMS)
    if RECTIFIED:
        sums = tl.where(sums < 0, 0.0, sums)
    return sums


@triton.jit(do_not_specialize=["blocks"])
def _multiply_kernel(
    x, weight, out, table, row_of, offset, count, blocks, mean, variance, gain, bias, shortcut,
    VOLUME: tl.constexpr, INPUTS: tl.constexpr, OUTPUTS: tl.constexpr, TURNED: tl.constexpr, FLIPPED: tl.constexpr,
    BLOCK: tl.constexpr, DEPTH: tl.constexpr, WIDE: tl.constexpr, REST: tl.constexpr,
    PRECISION: tl.constexpr, FACTORS: tl.constexpr, SUMS: tl.constexpr,
    NORM: tl.constexpr, EPS: tl.constexpr, SHORTCUT: tl.constexpr, RECTIFIED: tl.constexpr,
):  # fmt: skip
    """out[row] = sum over offsets k of x[table[k, row]] @ weight[k], for a block of rows and WIDE + REST columns.

    TURNED: weight[k] is (OUTPUTS, INPUTS); FLIPPED: the last offset takes the first matrix. NORM: `_ended` follows.
    """
    block = tl.program_id(0)
    first = tl.program_id(1) * (WIDE + REST)
    column = block * BLOCK + tl.arange(0, BLOCK)
    row = tl.load(row_of + column)
    wide = first + tl.arange(0, WIDE)
    sums = tl.zeros((BLOCK, WIDE), SUMS)
    if REST:
        rest = first + WIDE + tl.arange(0, REST)
        more = tl.zeros((BLOCK, REST), SUMS)
    CHUNKS: tl.constexpr = (INPUTS + DEPTH - 1) // DEPTH
    DOWN: tl.constexpr = 1 if TURNED else OUTPUTS
    ACROSS: tl.constexpr = INPUTS if TURNED else 1
    for step in range(tl.load(count + block) * CHUNKS):
        k = tl.load(offset + block * VOLUME + step // CHUNKS)
        channel = step % CHUNKS * DEPTH + tl.arange(0, DEPTH)
        source = tl.load(table + k * blocks * BLOCK + column)
        left = tl.load(
            x + source.to(tl.int64)[:, None] * INPUTS + channel[None, :],
            mask=(source >= 0)[:, None] & (channel < INPUTS)[None, :],
            other=0.0,
        )
        if FLIPPED:
            k = VOLUME - 1 - k
        matrix = weight + k * (INPUTS * OUTPUTS) + channel[:, None] * DOWN
        real = (channel < INPUTS)[:, None]
        right = tl.load(matrix + wide[None, :] * ACROSS, mask=real & (wide < OUTPUTS)[None, :], other=0.0)
        sums = tl.dot(left.to(FACTORS), right.to(FACTORS), sums, input_precision=PRECISION, out_dtype=SUMS)
        if REST:
            right = tl.load(matrix + rest[None, :] * ACROSS, mask=real & (rest < OUTPUTS)[None, :], other=0.0)
            more = tl.dot(left.to(FACTORS), right.to(FACTORS), more, input_precision=PRECISION, out_dtype=SUMS)
    line = row.to(tl.int64)[:, None] * OUTPUTS
    to, add = out + line, shortcut + line
    inside = (row >= 0)[:, None]
    if NORM:
        sums = _ended(sums, add, inside, wide, mean, variance, gain, bias, OUTPUTS, EPS, SHORTCUT, RECTIFIED, SUMS)
        if REST:
            more = _ended(more, add, inside, rest, mean, variance, gain, bias, OUTPUTS, EPS, SHORTCUT, RECTIFIED, SUMS)
    tl.store(to + wide[None, :], sums.to(out.dtype.element_ty), mask=inside & (wide < OUTPUTS)[None, :])
    if REST:
        tl.store(to + rest[None, :], more.to(out.dtype.element_ty), mask=inside & (rest < OUTPUTS)[None, :])


@triton.jit(do_not_specialize=["blocks"])
def _outer_kernel(
    x, gradient, part, table, row_of, block_of, count, blocks,
    VOLUME: tl.constexpr, INPUTS: tl.constexpr, OUTPUTS: tl.constexpr,
    BLOCK: tl.constexpr, HIGH: tl.constexpr, WIDE: tl.constexpr, REST: tl.constexpr,
    PRECISION: tl.constexpr, FACTORS: tl.constexpr, SUMS: tl.constexpr,
):  # fmt: skip
    """part[s, k] = sum over the s-th share of the rows of x[table[k, row]]^T gradient[row]."""
    ACROSS: tl.constexpr = (OUTPUTS + WIDE + REST - 1) // (WIDE + REST)
    tile, k, share = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    left = tile // ACROSS * HIGH + tl.arange(0, HIGH)
    first = tile % ACROSS * (WIDE + REST)
    wide = first + tl.arange(0, WIDE)
    sums = tl.zeros((HIGH, WIDE), SUMS)
    if REST:
        rest = first + WIDE + tl.arange(0, REST)
        more = tl.zeros((HIGH, REST), SUMS)
    here = tl.load(count + k)
    for n in range(here * share // tl.num_programs(2), here * (share + 1) // tl.num_programs(2)):
        block = tl.load(block_of + k * blocks + n)
        column = block * BLOCK + tl.arange(0, BLOCK)
        source = tl.load(table + k * blocks * BLOCK + column)
        row = tl.load(row_of + column)
        real = (source >= 0)[:, None]
        one = tl.load(
            x + source.to(tl.int64)[:, None] * INPUTS + left[None, :], mask=real & (left < INPUTS)[None, :], other=0.0
        )
        one = tl.trans(one).to(FACTORS)
        from_ = gradient + row.to(tl.int64)[:, None] * OUTPUTS
        other = tl.load(from_ + wide[None, :], mask=real & (wide < OUTPUTS)[None, :], other=0.0)
        sums = tl.dot(one, other.to(FACTORS), sums, input_precision=PRECISION, out_dtype=SUMS)
        if REST:
            other = tl.load(from_ + rest[None, :], mask=real & (rest < OUTPUTS)[None, :], other=0.0)
            more = tl.dot(one, other.to(FACTORS), more, input_precision=PRECISION, out_dtype=SUMS)
    to = part + ((share.to(tl.int64) * VOLUME + k) * INPUTS + left)[:, None] * OUTPUTS
    inside = (left < INPUTS)[:, None]
    tl.store(to + wide[None, :], sums, mask=inside & (wide < OUTPUTS)[None, :])
    if REST:
        tl.store(to + rest[None, :], more, mask=inside & (rest < OUTPUTS)[None, :])


@dataclass(frozen=True)
class Table:
    """Which source row each of `volume` = K offsets brings to each of `rows` = M target rows, in B blocks of ROWS.

    All are flat int32, some longer than they need be. source: (K, B ROWS), -1 for none; row_of: (B ROWS,) target row of
    each column, -1 behind the last; offset: (B, K) the offsets that a block has, of which the first `count` (B,) count;
    there: (K, B) 1 where it has them; block_of: (K, B) the blocks that have an offset, of which the first `blocks_with`
    (K,) count, once `blocks_by_offset` was asked for them.
    """

    volume: int
    rows: int
    source: Tensor
    row_of: Tensor
    offset: Tensor
    count: Tensor
    there: Tensor
    block_of: Tensor
    blocks_with: Tensor

    @property
    def blocks(self) -> int:
        return blocks_of(self.rows)

    @cached_property
    def blocks_by_offset(self) -> tuple[Tensor, Tensor]:
        """`block_of` and `blocks_with`, which only a backward pass wants."""
        with torch.cuda.device_of(self.there):
            _blocks_kernel[(self.volume,)](self.there, self.block_of, self.blocks_with, self.blocks, BLOCK=1024)
        return self.block_of, self.blocks_with


def blocks_of(rows: int) -> int:
    return -(-rows // ROWS)


@dataclass(frozen=True)
class Search:
    """How one table is found. target: (M,) int64 keys; key: (N,) int64, ascending, those of the source rows.

    shift: (C,) int64, from a target's key to the lowest of each column of `deep` voxels, so that offset k = c + C z;
    or None: source rows are the cells that targets lie in, by their key "and" `mask` (1,), at the offset of the corner.
    level: that of the lower stride.
    """

    target: Tensor
    key: Tensor
    level: int
    shift: Tensor | None = None
    deep: int = 1
    mask: Tensor | None = None

    @property
    def volume(self) -> int:
        return 8 if self.shift is None else len(self.shift) * self.deep


LINE = 32
"""Numbers of 32 bits in a line of memory."""

CODE_BITS = 27
"""Bits of a code that say which offsets a target has; those above say of which table it is."""


def tables(searches: Sequence[Search], bits: int) -> list[Table]:
    """The tables of at most 16 searches, made together: one piece of memory, one sort; bits: of a key's coordinate."""
    sizes: list[int] = []
    for search in searches:
        volume, blocks = search.volume, blocks_of(len(search.target))
        columns = blocks * ROWS
        sizes += [volume * columns, columns, volume * blocks, blocks, volume * blocks, volume * blocks, volume]
    kept = _pieces(sizes, searches[0].key)
    found = [Table(search.volume, len(search.target), *kept[7 * n : 7 * n + 7]) for n, search in enumerate(searches)]
    raws = _pieces([table.volume * table.rows for table in found], searches[0].key)
    code = raws[0].new_empty(sum(table.rows for table in found))
    firsts = [0, *itertools.accumulate(table.rows for table in found)]
    with torch.cuda.device_of(code):
        for n, search in enumerate(searches):
            _search(search, raws[n], code, firsts[n], n << CODE_BITS, bits)
        _, order = torch.sort(code, stable=True)
        for table, raw, first in zip(found, raws, firsts):
            if table.rows:
                _plan_kernel[(table.blocks,)](
                    raw, order, first, table.source, table.row_of, table.offset, table.count, table.there,
                    table.rows, table.blocks,
                    VOLUME=table.volume, WIDTH=triton.next_power_of_2(table.volume), BLOCK=ROWS,
                )  # fmt: skip
    return found


def _pieces(sizes: Sequence[int], like: Tensor) -> Sequence[Tensor]:
    """Flat int32 tensors of one piece of memory. Each begins with a line of memory, as Triton likes its pointers."""
    whole = [-(-size // LINE) * LINE for size in sizes]
    return like.new_empty(sum(whole), dtype=torch.int32).split(whole)


def _search(search: Search, raw: Tensor, code: Tensor, first: int, number: int, bits: int) -> None:
    rows, count, block = len(search.target), len(search.key), 128
    if not rows:
        return
    grid = (triton.cdiv(rows, block),)
    steps = count.bit_length()
    if search.shift is None:
        _parents_kernel[grid](
            search.key, count, search.target, rows, search.mask, search.level, raw, code, first, number, steps,
            BITS=bits, BLOCK=block,
        )  # fmt: skip
    else:
        _neighbours_kernel[grid](
            search.key, count, search.target, rows, search.shift, raw, code, first, number, steps,
            COLUMNS=len(search.shift), DEEP=search.deep, STRIDE=1 << search.level, BLOCK=block,
        )  # fmt: skip


def convolve(
    features: Tensor,
    kernel: Tensor,
    forth: Table,
    back: Table,
    *,
    flipped: bool = False,
    tf32: bool = False,
    ending: Ending | None = None,
    weight: Tensor | None = None,
) -> Tensor:
    """`out[row] = sum_k features[forth[k, row]] @ kernel[k]`.

    features (N, C_in), kernel (K, C_in, C_out) -> (M, C_out). Factors have the type of the features, sums of bfloat16
    and float16 are float32, and so is the kernel's gradient; the result is of the features' type again. back: the table
    from targets to sources, whose offset k is `forth`'s k, or with `flipped` (forth and back are one table) its
    K - 1 - k; tf32: float32 factors may be rounded to 10 bits; ending: without gradients, what follows;
    weight: the kernel in the features' type, if somebody has it.
    """
    features = features.contiguous()
    weight = kernel.detach().to(features.dtype).contiguous() if weight is None else weight
    if ending is not None:
        assert not torch.is_grad_enabled()
        return multiply(features, weight, forth, tf32=tf32, ending=ending)
    return _Convolution.apply(features, kernel, weight, forth, back, flipped, tf32)


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        features: Tensor,
        kernel: Tensor,
        weight: Tensor,
        forth: Table,
        back: Table,
        flipped: bool,
        tf32: bool,
    ) -> Tensor:
        ctx.save_for_backward(features, weight)
        ctx.forth, ctx.back, ctx.flipped, ctx.tf32 = forth, back, flipped, tf32
        return multiply(features, weight, forth, tf32=tf32)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        features, weight = ctx.saved_tensors
        gradient = gradients[0].contiguous()
        to_features = to_kernel = None
        if ctx.needs_input_grad[0]:
            to_features = multiply(gradient, weight, ctx.back, turned=True, flipped=ctx.flipped, tf32=ctx.tf32)
        if ctx.needs_input_grad[1]:
            to_kernel = outer(features, gradient, ctx.forth, tf32=ctx.tf32)
        return to_features, to_kernel, None, None, None, None, None


@dataclass(frozen=True)
class Ending:
    """What follows a convolution in evaluation: batch norm by running statistics, all (C,), an addition, a ReLU.

    shortcut: (M, C), None for none; rectified: whether a ReLU comes last.
    """

    mean: Tensor
    variance: Tensor
    weight: Tensor
    bias: Tensor
    eps: float
    shortcut: Tensor | None
    rectified: bool

    @classmethod
    def of(cls, bn: nn.BatchNorm1d, shortcut: Tensor | None, *, rectified: bool) -> Ending:
        assert bn.running_mean is not None
        assert bn.running_var is not None
        return cls(bn.running_mean, bn.running_var, bn.weight, bn.bias, bn.eps, shortcut, rectified)


def multiply(
    x: Tensor,
    weight: Tensor,
    table: Table,
    *,
    turned: bool = False,
    flipped: bool = False,
    tf32: bool = False,
    ending: Ending | None = None,
) -> Tensor:
    """`out[row] = sum_k x[table[k, row]] @ weight[k]`, of x's type; turned: `weight[k]^T`; flipped: `weight[K-1-k]`;
    ending: what is done to the sums before they are written."""
    volume = len(weight)
    inputs, outputs = weight.shape[:0:-1] if turned else weight.shape[1:]
    out = x.new_empty(table.rows, outputs)
    wide, rest = _columns(outputs)
    shortcut = None if ending is None else ending.shortcut
    norm = (x, x, x, x) if ending is None else (ending.mean, ending.variance, ending.weight, ending.bias)
    if table.rows:
        with torch.cuda.device_of(x):
            _multiply_kernel[(table.blocks, triton.cdiv(outputs, wide + rest))](
                x, weight, out, table.source, table.row_of, table.offset, table.count, table.blocks,
                *norm, x if shortcut is None else shortcut,
                VOLUME=volume, INPUTS=inputs, OUTPUTS=outputs, TURNED=turned, FLIPPED=flipped,
                BLOCK=ROWS, DEPTH=_depth(inputs, x.dtype), WIDE=wide, REST=rest,
                PRECISION=_precision(tf32), FACTORS=_factors(x.dtype), SUMS=sums_of(x.dtype),
                NORM=ending is not None, EPS=0.0 if ending is None else ending.eps, SHORTCUT=shortcut is not None,
                RECTIFIED=ending is not None and ending.rectified,
                num_warps=4, num_stages=3,
            )  # fmt: skip
    return out


def outer(x: Tensor, gradient: Tensor, table: Table, *, tf32: bool = False) -> Tensor:
    """(K, C_in, C_out) float32: `sum over rows of x[table[k, row]]^T gradient[row]`."""
    volume, inputs, outputs = table.volume, x.shape[1], gradient.shape[1]
    high, (wide, rest) = _high(inputs), _columns(outputs)
    tiles = triton.cdiv(inputs, high) * triton.cdiv(outputs, wide + rest)
    blocks = table.blocks
    # A function of the shapes alone, so that the order of the sum is, too.
    shares = max(1, min(PROGRAMS // (volume * tiles), triton.cdiv(blocks, 4)))
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    part = x.new_empty((shares, volume, inputs, outputs) if shares > 1 else (volume, inputs, outputs), dtype=dtype)
    block_of, count = table.blocks_by_offset
    with torch.cuda.device_of(x):
        _outer_kernel[(tiles, volume, shares)](
            x, gradient, part, table.source, table.row_of, block_of, count, blocks,
            VOLUME=volume, INPUTS=inputs, OUTPUTS=outputs,
            BLOCK=ROWS, HIGH=high, WIDE=wide, REST=rest,
            PRECISION=_precision(tf32), FACTORS=_factors(x.dtype), SUMS=sums_of(x.dtype),
            num_warps=4, num_stages=3,
        )  # fmt: skip
    return part.sum(0) if shares > 1 else part


def _columns(outputs: int) -> tuple[int, int]:
    """Columns of a program, as two powers of 2: 96 are 64 and 32, since 128 would compute 32 for nothing."""
    if outputs > WIDEST and outputs != 192:
        return WIDEST, 0
    wide = max(16, 1 << min(outputs, WIDEST).bit_length() - 1)
    return wide, max(16, triton.next_power_of_2(outputs - wide)) if outputs > wide else 0


def _depth(inputs: int, dtype: torch.dtype) -> int:
    """Channels that are multiplied at once: one line of memory, where they fill it."""
    return 16 if inputs <= 16 else 64 if inputs % 64 == 0 and dtype.itemsize == 2 else 32


def _high(inputs: int) -> int:
    return 16 if inputs <= 16 else 64 if inputs % 64 == 0 else 32


def _precision(tf32: bool) -> str:
    return "tf32" if tf32 else "ieee"


def _factors(dtype: torch.dtype) -> tl.dtype:
    # The interpreter, which is NumPy, does not multiply bfloat16; as float32 the products are the same.
    half = tl.float32 if isinstance(_multiply_kernel, InterpretedFunction) else tl.bfloat16
    return {torch.bfloat16: half, torch.float16: tl.float16, torch.float64: tl.float64}.get(dtype, tl.float32)


def sums_of(dtype: torch.dtype) -> tl.dtype:
    return tl.float64 if dtype == torch.float64 else tl.float32
