"""Where the voxels of a batch are, on a GPU: keys and tables are made there, and the host is asked for one answer.

The voxels, strides and offsets are those of geometry.py. Keys are, too, but for one thing: a coarser voxel is named by
its lowest corner in voxels of stride 1, so its key is a bitwise "and" of the key of each of its voxels.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from hpal_cli.errors import HpalError
from hpal_cli.network import implicit_gemm as gemm
from hpal_cli.network.geometry import BIAS, BITS, LEVELS, LIMIT, pack, too_wide


@lru_cache
def _masks(device: torch.device) -> Tensor:
    """(LEVELS - 1, 1) what makes a key of stride 1 that of its voxel at each coarser stride."""
    low = 1 | 1 << BITS | 1 << 2 * BITS
    return torch.tensor([[~(low * ((1 << level) - 1))] for level in range(1, LEVELS)], device=device)


@lru_cache
def _shifts(device: torch.device, level: int, *, cube: bool) -> Tensor:
    """From a voxel's key to the lowest of each column of its neighbours, or of its cell; x is fastest."""
    steps = range(-1, 2) if cube else range(2)
    shift = [((x << 2 * BITS) + (y << BITS) + steps[0]) << level for y in steps for x in steps]
    return torch.tensor(shift, device=device)


class TableGeometry:
    """The voxels of a batch at all strides, as `Geometry`, for the kernels of implicit_gemm.py."""

    def __init__(self, voxel: Tensor, *, precision: str = "fp32") -> None:
        """voxel: (M, 4) int64, unique rows of (scene in the batch, x, y, z); precision: of backend.PRECISIONS. In bf16
        what lies between the layers is bfloat16, too.

        Raises:
            HpalError: a scene wider than 65,000 voxels, more than 32,767 scenes, or a voxel given twice.
        """
        self._half, self._tf32 = precision == "bf16", precision == "tf32"
        device, xyz = voxel.device, voxel[:, 1:]
        low = torch.div(xyz.amin(0), BIAS, rounding_mode="floor") * BIAS
        xyz = xyz - low + BIAS
        key, self._order = torch.sort(pack(voxel[:, 0], xyz))
        masks = _masks(device)
        coarse, _ = torch.sort(key & masks, dim=1)
        begins = torch.zeros_like(coarse)
        torch.ne(coarse[:, 1:], coarse[:, :-1], out=begins[:, 1:])
        row = begins.cumsum(1)
        coarse.scatter_(1, row, coarse.clone())
        twice = (key[1:] == key[:-1]).sum()
        # The one number that the host waits for: how many voxels there are at each stride.
        answers = torch.cat([torch.stack([xyz.amax(), voxel[:, 0].amax(), twice]), row[:, -1] + 1])
        widest, scenes, double, *counts = answers.tolist()
        if widest >= LIMIT or scenes >= 1 << 15:
            raise too_wide(xyz)
        if double:
            raise HpalError("batch", "holds a voxel twice", "group the points by voxel first")
        self._keys = [key, *(coarse[n, :count] for n, count in enumerate(counts))]
        pairs = list(enumerate(zip(self._keys, self._keys[1:])))
        found = gemm.tables(
            [
                *(
                    gemm.Search(key, key, level, _shifts(device, level, cube=True), 3)
                    for level, key in enumerate(self._keys)
                ),
                *(
                    gemm.Search(parent, key, level, _shifts(device, level, cube=False), 2)
                    for level, (key, parent) in pairs
                ),
                *(gemm.Search(key, parent, level, mask=masks[level]) for level, (key, parent) in pairs),
            ],
            BITS,
        )
        self._cubes, self._children = found[:LEVELS], found[LEVELS : 2 * LEVELS - 1]
        self._parents = found[2 * LEVELS - 1 :]

    def sizes(self) -> list[int]:
        """The number of voxels at each stride."""
        return [len(key) for key in self._keys]

    def enter(self, features: Tensor) -> Tensor:
        """(M, C) in the order of the input voxels -> the network's order and type."""
        return (features.bfloat16() if self._half else features)[self._order]

    def leave(self, features: Tensor) -> Tensor:
        """(M, C) in the network's order and type -> the order of the input voxels, float32 where it was bfloat16."""
        features = torch.empty_like(features).index_copy_(0, self._order, features)
        return features.float() if self._half else features

    def cube(self, features: Tensor, kernel: Tensor, level: int) -> Tensor:
        """As `Geometry.cube`."""
        table = self._cubes[level]
        return gemm.convolve(features, kernel, table, table, flipped=True, tf32=self._tf32)

    def down(self, features: Tensor, kernel: Tensor, level: int) -> Tensor:
        """As `Geometry.down`."""
        return gemm.convolve(features, kernel, self._children[level], self._parents[level], tf32=self._tf32)

    def up(self, features: Tensor, kernel: Tensor, level: int) -> Tensor:
        """As `Geometry.up`."""
        return gemm.convolve(features, kernel, self._parents[level - 1], self._children[level - 1], tf32=self._tf32)
