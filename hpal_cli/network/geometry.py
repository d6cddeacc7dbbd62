"""The coordinates of the voxels of a batch at every stride, and the kernel maps between them.

A voxel is a 64-bit key, and keys are sorted. The key of a neighbour is the key plus a constant. A kernel map has two
lists of rows for each kernel offset, and all layers of a stride share it. The order of kernel offsets is that of
MinkowskiEngine, in which the first spatial axis is the fastest: `k = (dx+1) + 3 (dy+1) + 9 (dz+1)` and, for kernels of
size 2, `k = rx + 2 ry + 4 rz`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from hpal_cli.errors import HpalError
from hpal_cli.network import native
from hpal_cli.network.convolution import KernelMap, Pair, sparse_matmul

LEVELS = 5
"""Number of strides: 1, 2, 4, 8 and 16."""

BITS = 16
BIAS = 1 << (LEVELS - 1)
"""Added to coordinates in keys. It is a multiple of the largest stride, so that halving a biased coordinate halves the
true one, and large enough that the neighbour below is not negative at the last level."""

MAX_COORDINATE = (1 << BITS) - 2 * BIAS
"""Biased coordinates at stride 1 must be below this, so that those of their neighbours also fit into `BITS` bits."""


@dataclass(frozen=True)
class _Level:
    """The M voxels of one stride. key: (M,) sorted; cube: the map of a 3x3x3 kernel."""

    key: Tensor
    cube: KernelMap


class Geometry:
    """The voxels of a batch at all strides. Rows of features at stride 1 are in the order of the input voxels."""

    fused = False

    def __init__(self, voxel: Tensor, *, half: bool = False) -> None:
        """voxel: (M, 4) int64, unique rows of (scene in the batch, x, y, z); half: whether factors of products are
        rounded to bfloat16.

        Raises:
            HpalError: a scene is wider than 65,000 voxels, there are more than 32,767 scenes, or a voxel comes twice.
        """
        xyz = voxel[:, 1:]
        low = torch.div(xyz.amin(0), BIAS, rounding_mode="floor") * BIAS
        xyz = xyz - low + BIAS
        if int(xyz.max()) >= MAX_COORDINATE or int(voxel[:, 0].max()) >= 1 << 15:
            raise too_wide(xyz)
        self._half = half
        key = pack(voxel[:, 0], xyz)
        sorted_key, order = torch.sort(key)
        if bool((sorted_key[1:] == sorted_key[:-1]).any()):
            raise HpalError("batch", "holds a voxel twice", "group the points by voxel first")
        self.order = order
        """(M,) the input row of each sorted row. In the network, features are in the order of the sorted keys, so that
        neighbours are near each other in memory."""
        self._levels = [_Level(sorted_key, _cube_map(sorted_key))]
        self._strided: list[KernelMap] = []
        for _ in range(LEVELS - 1):
            parent, pairs = _next_stride(self._levels[-1].key)
            self._levels.append(_Level(parent, _cube_map(parent)))
            self._strided.append(pairs)

    def sizes(self) -> list[int]:
        """The number of voxels at each stride."""
        return [len(level.key) for level in self._levels]

    def permute(self, features: Tensor) -> Tensor:
        """(M, C) in the order of the input voxels -> in the network's order."""
        return features[self.order]

    def unpermute(self, features: Tensor) -> Tensor:
        """(M, C) in the network's order -> in the order of the input voxels."""
        return torch.empty_like(features).index_copy_(0, self.order, features)

    def cube(self, features: Tensor, kernel: Tensor, level: int) -> Tensor:
        """3x3x3 convolution at stride 2^level: `out[u] = sum_k W[k]^T x[u + off_k]`; kernel (27, C_in, C_out)."""
        return self._matmul(features, kernel, self._levels[level].cube, level)

    def down(self, features: Tensor, kernel: Tensor, level: int) -> Tensor:
        """2x2x2 convolution of stride 2, from stride 2^level to the next; kernel (8, C_in, C_out)."""
        return self._matmul(features, kernel, self._strided[level], level + 1)

    def up(self, features: Tensor, kernel: Tensor, level: int) -> Tensor:
        """Transposed 2x2x2 convolution of stride 2, from stride 2^level to the one before; kernel (8, C_in, C_out)."""
        return self._matmul(features, kernel, self._strided[level - 1].transposed, level - 1)

    def _matmul(self, features: Tensor, kernel: Tensor, pairs: KernelMap, level: int) -> Tensor:
        return sparse_matmul(features, kernel, pairs, len(self._levels[level].key), half=self._half)


def too_wide(xyz: Tensor) -> HpalError:
    """The error for a batch that is too wide; xyz: (M, 3) its voxels, counted from BIAS."""
    extent = (xyz.amax(0) - BIAS + 1).tolist()
    return HpalError(
        "batch", f"spans {extent} voxels, more than {MAX_COORDINATE}", "train with a larger --voxel, or cut the scene"
    )


def pack(scene: Tensor, xyz: Tensor) -> Tensor:
    """(M,) int64 keys of voxels: scene (M,) and xyz (M, 3). Sorting by key sorts by scene, x, y and z."""
    x, y, z = xyz.unbind(1)
    return (scene << 3 * BITS) | (x << 2 * BITS) | (y << BITS) | z


def _cube_map(key: Tensor) -> KernelMap:
    """The map of a 3x3x3 kernel. Only half of the offsets are searched for: those of the other half have the same pairs
    with sources and targets exchanged."""
    maps: list[Pair | None] = [None] * 27
    shifts = [((k % 3 - 1) << 2 * BITS) + ((k // 3 % 3 - 1) << BITS) + (k // 9 - 1) for k in range(13)]
    for k, (source, target) in enumerate(native.kernel_pairs(key, shifts) or search(key, shifts)):
        maps[k] = Pair(source, target)
        maps[26 - k] = Pair(target, source)
    return KernelMap(maps)


def search(key: Tensor, shifts: list[int]) -> Iterator[tuple[Tensor, Tensor]]:
    """The same as `native.kernel_pairs`, by torch, for any device."""
    for shift in shifts:
        wanted = key + shift
        at = torch.searchsorted(key, wanted).clamp_(max=len(key) - 1)
        target = torch.nonzero(key[at] == wanted).squeeze(1)
        yield at[target], target


def _next_stride(key: Tensor) -> tuple[Tensor, KernelMap]:
    """The keys of the next stride, and the map of a 2x2x2 kernel of stride 2 from the finer rows to the coarser
    ones."""
    mask = (1 << BITS) - 1
    scene = key >> 3 * BITS
    x, y, z = (key >> 2 * BITS) & mask, (key >> BITS) & mask, key & mask
    coarse = (scene << 3 * BITS) | ((x >> 1) << 2 * BITS) | ((y >> 1) << BITS) | (z >> 1)
    parent, row = torch.unique(coarse, sorted=True, return_inverse=True)
    corner = (x & 1) + 2 * (y & 1) + 4 * (z & 1)
    pairs = []
    for k in range(8):
        fine = torch.nonzero(corner == k).squeeze(1)
        pairs.append(Pair(fine, row[fine]))
    return parent, KernelMap(pairs)
