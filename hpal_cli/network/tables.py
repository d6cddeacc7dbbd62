"""Where the voxels of a batch are, on a GPU: keys and tables are made there, and the host is asked for one answer.

The voxels, strides and offsets are those of geometry.py. Keys are, too, but for one thing: a coarser voxel is named by
its lowest corner in voxels of stride 1, so its key is a bitwise "and" of the key of each of its voxels.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor, nn

from hpal_cli.errors import HpalError
from hpal_cli.network import fused_norm
from hpal_cli.network import implicit_gemm as gemm
from hpal_cli.network.geometry import BIAS, BITS, LEVELS, LIMIT, pack, too_wide

HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


@lru_cache
def _masks(device: torch.device) -> tuple[Tensor, tuple[Tensor, ...]]:
    """(LEVELS - 1, 1) what makes a key of stride 1 that of its voxel at each coarser stride; and its rows."""
    low = 1 | 1 << BITS | 1 << 2 * BITS
    masks = torch.tensor([[~(low * ((1 << level) - 1))] for level in range(1, LEVELS)], device=device)
    return masks, masks.unbind()


@lru_cache
def _shifts(device: torch.device, level: int, *, cube: bool) -> Tensor:
    """From a voxel's key to the lowest of each column of its neighbours, or of its cell; x is fastest."""
    steps = range(-1, 2) if cube else range(2)
    shift = [((x << 2 * BITS) + (y << BITS) + steps[0]) << level for y in steps for x in steps]
    return torch.tensor(shift, device=device)


class Halves:
    """Kernels of a network in half precision, in memory that each pass writes anew: all of them by one call."""

    def __init__(self) -> None:
        self._copies: list[Tensor] = []

    def of(self, kernels: Sequence[Tensor], dtype: torch.dtype) -> list[Tensor]:
        """Copies of this type. Always made: calls of `_foreach` change weights without a sign of it."""
        if not self._copies or self._copies[0].dtype != dtype or self._copies[0].device != kernels[0].device:
            self._copies = [torch.empty_like(kernel, dtype=dtype) for kernel in kernels]
        with torch.no_grad():
            torch._foreach_copy_(self._copies, list(kernels))
        return self._copies


class TableGeometry:
    """The voxels of a batch at all strides, as `Geometry`, for the kernels of implicit_gemm.py and fused_norm.py."""

    fused = True

    def __init__(self, voxel: Tensor, *, precision: str = "fp32") -> None:
        """voxel: (M, 4) int64, unique rows of (scene in the batch, x, y, z); precision: of backend.PRECISIONS. In bf16
        and fp16 what lies between the layers is of that type, too.

        Raises:
            HpalError: a scene wider than 65,000 voxels, more than 32,767 scenes, or a voxel given twice.
        """
        self._ending: gemm.Ending | None = None
        self._weights: dict[int, Tensor] = {}
        self.room: fused_norm.Room | None = None
        """Memory of the pass that is under way, in training."""
        self._half, self._tf32 = HALF.get(precision), precision == "tf32"
        device, scene, xyz = voxel.device, voxel[:, 0], voxel[:, 1:]
        low = torch.div(xyz.amin(0), BIAS, rounding_mode="floor") * BIAS
        xyz = xyz - low + BIAS
        key, self._order = torch.sort(pack(scene, xyz))
        masks, mask_of = _masks(device)
        coarse, _ = torch.sort(key & masks, dim=1)
        begins = torch.zeros_like(coarse)
        torch.ne(coarse[:, 1:], coarse[:, :-1], out=begins[:, 1:])
        row = begins.cumsum(1)
        coarse.scatter_(1, row, coarse.clone())
        twice = (key[1:] == key[:-1]).sum()
        # The one number that the host waits for: how many voxels there are at each stride.
        answers = torch.cat([torch.stack([xyz.amax(), scene.amax(), twice]), row[:, -1] + 1])
        widest, scenes, double, *counts = answers.tolist()
        if widest >= LIMIT or scenes >= 1 << 15:
            raise too_wide(xyz)
        if double:
            raise HpalError("batch", "holds a voxel twice", "group the points by voxel first")
        self._keys = [key, *(row[:count] for row, count in zip(coarse.unbind(), counts))]
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
                *(gemm.Search(key, parent, level, mask=mask_of[level]) for level, (key, parent) in pairs),
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
        return (features if self._half is None else features.to(self._half))[self._order]

    def leave(self, features: Tensor) -> Tensor:
        """(M, C) in the network's order and type -> the order of the input voxels, float32 where it was a half."""
        features = torch.empty_like(features).index_copy_(0, self._order, features)
        return features if self._half is None else features.float()

    def begin(self, kernels: Sequence[Tensor], halves: Halves, norms: Sequence[nn.BatchNorm1d]) -> None:
        """Makes in a few calls for all layers of a pass what would be some for each: kernels in half precision, and the
        room of the norms (none without gradients)."""
        if self._half is not None:
            self._weights = dict(zip(map(id, kernels), halves.of(kernels, self._half)))
        self.room = fused_norm.Room(norms) if norms else None

    def ending(self, ending: gemm.Ending) -> TableGeometry:
        """The same, but its convolutions end with batch norm, addition and ReLU; for a pass without gradients."""
        geometry = copy.copy(self)
        geometry._ending = ending
        return geometry

    def pointwise(self, features: Tensor, kernel: Tensor) -> Tensor:
        """As `Geometry.pointwise`."""
        out = features @ kernel.to(features.dtype)
        return out if self._ending is None else fused_norm.normalise(out, self._ending)

    def cube(self, features: Tensor, kernel: Tensor, level: int) -> Tensor:
        """As `Geometry.cube`."""
        table = self._cubes[level]
        return self._convolve(features, kernel, table, table, flipped=True)

    def down(self, features: Tensor, kernel: Tensor, level: int) -> Tensor:
        """As `Geometry.down`."""
        return self._convolve(features, kernel, self._children[level], self._parents[level])

    def up(self, features: Tensor, kernel: Tensor, level: int) -> Tensor:
        """As `Geometry.up`."""
        return self._convolve(features, kernel, self._parents[level - 1], self._children[level - 1])

    def _convolve(
        self, features: Tensor, kernel: Tensor, forth: gemm.Table, back: gemm.Table, *, flipped: bool = False
    ) -> Tensor:
        return gemm.convolve(
            features, kernel, forth, back, flipped=flipped, tf32=self._tf32, ending=self._ending,
            weight=self._weights.get(id(kernel)),
        )  # fmt: skip
