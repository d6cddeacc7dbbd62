"""HMMU by torch, for a GPU. The sums and the order of operations are those of hmmu.c, so that float16 probabilities
give the same bits."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hpal_cli.errors import UsageError
from hpal_cli.score.hmmu import Hierarchy, HmmuResult, chains


def measure_on(
    device: torch.device,
    prob: NDArray[np.floating],
    xyz: NDArray[np.floating],
    hierarchy: Hierarchy,
    unit: float = 1.0,
    *,
    margins: bool = False,
) -> HmmuResult:
    """`hmmu.measure` of prob (N, C) and xyz (N, 3), computed on a device.

    Raises:
        UsageError: the hierarchy is nested, or the scene has too many cells to number them in 63 bits.
    """
    if hierarchy.nested:
        raise UsageError("--device", "a nested hierarchy is computed on the CPU", "leave --device out")
    total, voxels, levels = measure_tensors(
        torch.from_numpy(np.ascontiguousarray(prob)).to(device),
        torch.from_numpy(np.ascontiguousarray(xyz)).to(device),
        hierarchy,
        unit,
    )
    kept = torch.stack(levels).float().cpu().numpy() if margins else None
    return HmmuResult(total.cpu().numpy(), np.array(voxels, np.int64), kept)


def measure_tensors(
    prob: Tensor, xyz: Tensor, hierarchy: Hierarchy, unit: float = 1.0
) -> tuple[Tensor, list[int], list[Tensor]]:
    """v (N,), the number of voxels of each level, and U_x and each U^i (N,), on the device of prob (N, C) and xyz
    (N, 3)."""
    prob, xyz = prob.double(), xyz.double()
    point = _margin(prob)
    total, voxels = point.clone(), [0] * len(hierarchy.levels)
    margins = [point] * (1 + len(hierarchy.levels))
    for chain in chains(hierarchy.levels) if len(prob) else ():
        edges = [hierarchy.levels[n] / unit for n in chain]
        keys = _nested_keys(xyz, edges)
        parts = [(chain, keys)] if keys else [([n], _nested_keys(xyz, [e])) for n, e in zip(chain, edges, strict=True)]
        for levels, keys in parts:
            _add_levels(prob, levels, keys, hierarchy, total, voxels, margins)
    return total, voxels, margins


def _add_levels(
    prob: Tensor,
    levels: list[int],
    keys: list[Tensor],
    hierarchy: Hierarchy,
    total: Tensor,
    voxels: list[int],
    margins: list[Tensor],
) -> None:
    """Adds the levels of a chain to `total`, `voxels` and `margins`. The sums of the finest level are over points,
    those of each other level over the voxels of the level before."""
    order = torch.argsort(keys[0])
    sums, counts = prob[order], prob.new_ones(len(prob))
    first: Tensor | None = None
    for n, key in zip(levels, keys, strict=True):
        key = key[order]
        begins = torch.cat([torch.ones_like(key[:1], dtype=torch.bool), key[1:] != key[:-1]])
        group = begins.cumsum(0) - 1
        # The first point of each voxel in the sorted order, at which a voxel of the finer level begins too.
        below, first = group if first is None else group[first], begins.nonzero()[:, 0]
        sums = sums.new_zeros(len(first), sums.shape[1]).index_add_(0, below, sums)
        counts = counts.new_zeros(len(first)).index_add_(0, below, counts)
        margins[n + 1] = torch.empty_like(total)
        margins[n + 1][order] = (_margin(sums) / counts)[group]
        total += hierarchy.weights[n] * margins[n + 1]
        voxels[n] = len(first)


def _nested_keys(xyz: Tensor, edges: list[float]) -> list[Tensor]:
    """For each level, (N,) the number of the voxel of each point, such that sorting by the numbers of the finest level
    sorts by those of all levels. The list is empty if rounding has put a point into another coarse cell than its fine
    cell."""
    cells = [torch.floor(xyz / edge) for edge in edges]
    low = cells[-1].amin(0)
    extent = cells[-1].amax(0) - low + 1
    size = float(extent.prod())
    key = _linear(cells[-1] - low, extent)
    keys = [key]
    for level in range(len(edges) - 2, -1, -1):
        fine, coarse, ratio = cells[level], cells[level + 1], round(edges[level + 1] / edges[level])
        inner = fine - ratio * coarse
        if bool(((inner < 0) | (inner >= ratio)).any()):
            return []
        size *= ratio**3
        key = key * ratio**3 + _linear(inner, torch.full_like(extent, ratio))
        keys.insert(0, key)
    if size >= 2.0**63:
        if len(edges) > 1:
            return []
        raise UsageError("--device", "the scene has too many voxels for it", "leave --device out")
    return keys


def _linear(cell: Tensor, extent: Tensor) -> Tensor:
    """(N, 3) whole numbers below extent (3,) -> (N,) int64."""
    cell, extent = cell.long(), extent.long()
    return (cell[:, 0] * extent[1] + cell[:, 1]) * extent[2] + cell[:, 2]


def _margin(values: Tensor) -> Tensor:
    """(N,) the largest of each row less the second largest."""
    if values.shape[1] < 2:
        return values.new_ones(len(values))
    best, at = values.max(dim=1)
    return best - values.scatter(1, at[:, None], -torch.inf).amax(dim=1)
