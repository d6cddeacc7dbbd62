"""Sparse convolution on a GPU by one launch for all offsets of a kernel, in Triton, which is part of torch for CUDA.

For each block of target rows, a program reads the source rows of each offset, multiplies them by that offset's matrix
on tensor cores and adds up in float32 ("implicit GEMM"), without writing anything between offsets. Target rows are
sorted by the set of offsets that they have, so that a block has few offsets and skips the others. No sum uses atomic
additions, so the same step always gives the same bits.

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

MAX_COLUMNS = 128
"""Columns of one accumulator, at most."""

# Entries of a table are counted in 32 bits, which is enough for 79 million voxels, more than fit into any GPU.

PROGRAMS = 1024
"""Approximate number of programs that compute the gradient of a kernel: several for each multiprocessor of a large
GPU."""


@triton.jit
def _first_not_below(key, count, wanted, steps):
    """For each number in `wanted`, the first index in the ascending list `key` whose number is not below it, by binary
    search. count: numbers in `key`; steps: of the search."""
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
    """table[k, row] = the index of `target[row] + shift[c] + STRIDE z` in `key`, or -1, for k = c + COLUMNS z.

    Voxels of a column are side by side in `key`, so one search for each column is enough. code[first + row] gets a bit
    for each k that was found, and the number of the table.
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
    """table[k, row] = the index of `target[row] & mask` in `key` if k is the corner of that cell in which the row is,
    else -1."""
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
    """Sorts the columns of `raw` by `order[first:]`, whose numbers begin with `first`, and lists the offsets of each
    block."""
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
    """Lists, ascending, the blocks that have an offset. There is a program for each offset."""
    k = tl.program_id(0)
    done = tl.zeros((), tl.int32)
    for start in range(0, blocks, BLOCK):
        block = start + tl.arange(0, BLOCK)
        here = tl.load(there + k * blocks + block, mask=block < blocks, other=0)
        tl.store(block_of + k * blocks + done + tl.cumsum(here, axis=0) - 1, block, mask=here != 0)
        done += tl.sum(here, axis=0)
    tl.store(count + k, done)


@triton.jit
def norm_and_relu(
    x, mean, scale, shift, shortcut, at, inside, SHORTCUT: tl.constexpr, RECTIFIED: tl.constexpr, SUMS: tl.constexpr
):
    """relu((x - mean) scale + shift + shortcut) for a block of rows. mean, scale, shift: of its columns; at, inside:
    the entries of the block in `shortcut`, and which of them exist."""
    value = (x - mean[None, :]) * scale[None, :] + shift[None, :]
    if SHORTCUT:
        value += tl.load(shortcut + at, mask=inside, other=0.0).to(SUMS)
    if RECTIFIED:
        value = tl.where(value < 0, 0.0, value)
    return value


@triton.jit
def _apply_epilogue(
    sums, shortcut, inside, column, mean, variance, gain, bias,
    OUTPUTS: tl.constexpr, EPS: tl.constexpr, SHORTCUT: tl.constexpr, RECTIFIED: tl.constexpr, SUMS: tl.constexpr,
):  # fmt: skip
    """relu((sums - mean) / sqrt(variance + EPS) gain + bias + shortcut) for these columns."""
    real = column < OUTPUTS
    spread = tl.load(variance + column, mask=real, other=1.0).to(SUMS) + tl.full((), EPS, SUMS)
    scale = tl.load(gain + column, mask=real, other=0.0) / tl.sqrt(spread)
    middle, shift = tl.load(mean + column, mask=real, other=0.0), tl.load(bias + column, mask=real, other=0.0)
    there = inside & real[None, :]
    return norm_and_relu(sums, middle, scale, shift, shortcut, column[None, :], there, SHORTCUT, RECTIFIED, SUMS)


@triton.jit(do_not_specialize=["blocks"])
def _multiply_kernel(
    x, weight, out, table, row_of, offset, count, blocks, mean, variance, gain, bias, shortcut,
    VOLUME: tl.constexpr, INPUTS: tl.constexpr, OUTPUTS: tl.constexpr, TRANSPOSED: tl.constexpr, FLIPPED: tl.constexpr,
    BLOCK: tl.constexpr, DEPTH: tl.constexpr, WIDE: tl.constexpr, REST: tl.constexpr,
    PRECISION: tl.constexpr, FACTORS: tl.constexpr, SUMS: tl.constexpr,
    NORM: tl.constexpr, EPS: tl.constexpr, SHORTCUT: tl.constexpr, RECTIFIED: tl.constexpr,
):  # fmt: skip
    """out[row] = sum over offsets k of x[table[k, row]] @ weight[k], for a block of rows and WIDE + REST columns.

    TRANSPOSED: weight[k] is (OUTPUTS, INPUTS); FLIPPED: offset k takes the matrix VOLUME - 1 - k; NORM: whether the
    epilogue is applied.
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
    DOWN: tl.constexpr = 1 if TRANSPOSED else OUTPUTS
    ACROSS: tl.constexpr = INPUTS if TRANSPOSED else 1
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
        sums = _apply_epilogue(
            sums, add, inside, wide, mean, variance, gain, bias, OUTPUTS, EPS, SHORTCUT, RECTIFIED, SUMS
        )
        if REST:
            more = _apply_epilogue(
                more, add, inside, rest, mean, variance, gain, bias, OUTPUTS, EPS, SHORTCUT, RECTIFIED, SUMS
            )
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
    """part[s, k] = the sum of x[table[k, row]]^T gradient[row] over share s of the rows."""
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
    """The source row that each of K = `volume` offsets connects with each of M = `rows` target rows. The target rows
    are sorted into B blocks of ROWS columns.

    All tensors are flat int32, and some are longer than needed. source: (K, B ROWS), -1 for none; row_of: (B ROWS,) the
    target row of each column, -1 after the last; offset: (B, K) the offsets that a block has, of which only the first
    `count` (B,) are valid; there: (K, B) 1 if the block has the offset; block_of: (K, B) the blocks that have an
    offset, of which only the first `blocks_with` (K,) are valid. `blocks_by_offset` computes the last two.
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
        """Computes and returns `block_of` and `blocks_with`, which only a backward pass needs."""
        with torch.cuda.device_of(self.there):
            _blocks_kernel[(self.volume,)](self.there, self.block_of, self.blocks_with, self.blocks, BLOCK=1024)
        return self.block_of, self.blocks_with


def blocks_of(rows: int) -> int:
    return -(-rows // ROWS)


@dataclass(frozen=True)
class Search:
    """The search that finds one table. target: (M,) int64 keys of the target rows; key: (N,) int64, ascending, keys of
    the source rows; level: of the finer stride.

    shift: (C,) int64, the difference from a target's key to the lowest key of each column of `deep` voxels, where
    k = c + C z; or None if the source rows are the cells that the targets are in, whose key is the target's key "and"
    `mask` (1,), and k is the corner of the cell.
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
"""Numbers of 32 bits in a cache line."""

CODE_BITS = 27
"""Bits of a code that tell which offsets a target has. The bits above them are the number of the table."""


def tables(searches: Sequence[Search], bits: int) -> list[Table]:
    """The tables of at most 16 searches. They are made together, with a single allocation and a single sort. bits: of a
    coordinate in a key."""
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
    """Flat int32 tensors of these sizes in one allocation. Each begins at a cache line, which makes Triton's accesses
    faster."""
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
    forward_table: Table,
    backward_table: Table,
    *,
    flipped: bool = False,
    tf32: bool = False,
    epilogue: Epilogue | None = None,
    weight: Tensor | None = None,
) -> Tensor:
    """`out[row] = sum_k features[forward_table[k, row]] @ kernel[k]`.

    features (N, C_in), kernel (K, C_in, C_out) -> (M, C_out). Factors and the result have the type of the features.
    Sums of bfloat16 and float16 are float32, and so is the gradient of the kernel. backward_table: from targets to
    sources, with the same offsets; with `flipped`, both are the same table, in which offset k stands for K - 1 - k
    backward; tf32: whether float32 factors may be rounded to 10 bits; epilogue: for a pass without gradients; weight:
    the kernel in the type of the features, if it is already there.
    """
    features = features.contiguous()
    weight = kernel.detach().to(features.dtype).contiguous() if weight is None else weight
    if epilogue is not None:
        assert not torch.is_grad_enabled()
        return multiply(features, weight, forward_table, tf32=tf32, epilogue=epilogue)
    return _Convolution.apply(features, kernel, weight, forward_table, backward_table, flipped, tf32)


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        features: Tensor,
        kernel: Tensor,
        weight: Tensor,
        forward_table: Table,
        backward_table: Table,
        flipped: bool,
        tf32: bool,
    ) -> Tensor:
        ctx.save_for_backward(features, weight)
        ctx.forward_table, ctx.backward_table, ctx.flipped, ctx.tf32 = forward_table, backward_table, flipped, tf32
        return multiply(features, weight, forward_table, tf32=tf32)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        features, weight = ctx.saved_tensors
        gradient = gradients[0].contiguous()
        to_features = to_kernel = None
        if ctx.needs_input_grad[0]:
            to_features = multiply(
                gradient, weight, ctx.backward_table, transposed=True, flipped=ctx.flipped, tf32=ctx.tf32
            )
        if ctx.needs_input_grad[1]:
            to_kernel = outer(features, gradient, ctx.forward_table, tf32=ctx.tf32)
        return to_features, to_kernel, None, None, None, None, None


@dataclass(frozen=True)
class Epilogue:
    """The operations after a convolution in evaluation: batch norm with the running statistics mean, variance, weight
    and bias (C,), then the addition of `shortcut` (M, C) if it is not None, and a ReLU if `rectified`.
    """

    mean: Tensor
    variance: Tensor
    weight: Tensor
    bias: Tensor
    eps: float
    shortcut: Tensor | None
    rectified: bool

    @classmethod
    def from_batch_norm(cls, bn: nn.BatchNorm1d, shortcut: Tensor | None, *, rectified: bool) -> Epilogue:
        """The epilogue of a batch norm with its running statistics."""
        assert bn.running_mean is not None
        assert bn.running_var is not None
        return cls(bn.running_mean, bn.running_var, bn.weight, bn.bias, bn.eps, shortcut, rectified)


def multiply(
    x: Tensor,
    weight: Tensor,
    table: Table,
    *,
    transposed: bool = False,
    flipped: bool = False,
    tf32: bool = False,
    epilogue: Epilogue | None = None,
) -> Tensor:
    """(M, C_out) `out[row] = sum_k x[table[k, row]] @ weight[k]`, of the type of x (N, C_in). transposed: `weight[k]^T`
    instead; flipped: `weight[K - 1 - k]` instead; epilogue: is applied to the sums before they are written."""
    volume = len(weight)
    inputs, outputs = weight.shape[:0:-1] if transposed else weight.shape[1:]
    out = x.new_empty(table.rows, outputs)
    wide, rest = _columns(outputs)
    shortcut = None if epilogue is None else epilogue.shortcut
    norm = (x, x, x, x) if epilogue is None else (epilogue.mean, epilogue.variance, epilogue.weight, epilogue.bias)
    if table.rows:
        with torch.cuda.device_of(x):
            _multiply_kernel[(table.blocks, triton.cdiv(outputs, wide + rest))](
                x, weight, out, table.source, table.row_of, table.offset, table.count, table.blocks,
                *norm, x if shortcut is None else shortcut,
                VOLUME=volume, INPUTS=inputs, OUTPUTS=outputs, TRANSPOSED=transposed, FLIPPED=flipped,
                BLOCK=ROWS, DEPTH=_depth(inputs, x.dtype), WIDE=wide, REST=rest,
                PRECISION=_precision(tf32), FACTORS=_factors(x.dtype), SUMS=sums_of(x.dtype),
                NORM=epilogue is not None, EPS=0.0 if epilogue is None else epilogue.eps, SHORTCUT=shortcut is not None,
                RECTIFIED=epilogue is not None and epilogue.rectified,
                num_warps=4, num_stages=3,
            )  # fmt: skip
    return out


def outer(x: Tensor, gradient: Tensor, table: Table, *, tf32: bool = False) -> Tensor:
    """(K, C_in, C_out) float32: the sum over rows of `x[table[k, row]]^T gradient[row]`, from x (N, C_in) and gradient
    (M, C_out)."""
    volume, inputs, outputs = table.volume, x.shape[1], gradient.shape[1]
    high, (wide, rest) = _high(inputs), _columns(outputs)
    tiles = triton.cdiv(inputs, high) * triton.cdiv(outputs, wide + rest)
    blocks = table.blocks
    # The number of shares depends only on the shapes, and so does the order of the sums.
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
    """The columns of a program as two powers of 2. 96 columns are 64 and 32, since 128 would compute 32 in vain."""
    if outputs > MAX_COLUMNS and outputs != 192:
        return MAX_COLUMNS, 0
    wide = max(16, 1 << min(outputs, MAX_COLUMNS).bit_length() - 1)
    return wide, max(16, triton.next_power_of_2(outputs - wide)) if outputs > wide else 0


def _depth(inputs: int, dtype: torch.dtype) -> int:
    """Channels that are multiplied at a time: as many as fill a cache line, if there are enough."""
    return 16 if inputs <= 16 else 64 if inputs % 64 == 0 and dtype.itemsize == 2 else 32


def _high(inputs: int) -> int:
    return 16 if inputs <= 16 else 64 if inputs % 64 == 0 else 32


def _precision(tf32: bool) -> str:
    return "tf32" if tf32 else "ieee"


def _factors(dtype: torch.dtype) -> tl.dtype:
    # Triton's interpreter uses NumPy, which has no bfloat16. In float32 the products are the same.
    half = tl.float32 if isinstance(_multiply_kernel, InterpretedFunction) else tl.bfloat16
    return {torch.bfloat16: half, torch.float16: tl.float16, torch.float64: tl.float64}.get(dtype, tl.float32)


def sums_of(dtype: torch.dtype) -> tl.dtype:
    return tl.float64 if dtype == torch.float64 else tl.float32
