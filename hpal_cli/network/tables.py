"""The coordinates of the voxels of a batch, and the tables of their neighbours, computed on a GPU. The host waits for
the GPU only once.
Voxels, strides, offsets and keys are those of geometry.py, except that the key of a coarser voxel is that of its lowest
corner in voxels of stride 1. So it is the bitwise "and" of a mask and the key of any of its voxels.
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
from hpal_cli.network.geometry import BIAS, BITS, LEVELS, MAX_COORDINATE, pack, too_wide

HALF_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@lru_cache
def _masks(device: torch.device) -> tuple[Tensor, tuple[Tensor, ...]]:
    """(LEVELS - 1, 1) for each coarser stride the mask that turns a key of stride 1 into the key of its coarser voxel;
    and the same as a tuple of (1,)."""
    low = 1 | 1 << BITS | 1 << 2 * BITS
    masks = torch.tensor([[~(low * ((1 << level) - 1))] for level in range(1, LEVELS)], device=device)
    return masks, masks.unbind()


@lru_cache
def _shifts(device: torch.device, level: int, *, cube: bool) -> Tensor:
    """The differences of keys from a voxel to the lowest voxel of each column of its neighbours (cube), or of its cell;
    x is the fastest axis."""
    steps = range(-1, 2) if cube else range(2)
    shift = [((x << 2 * BITS) + (y << BITS) + steps[0]) << level for y in steps for x in steps]
    return torch.tensor(shift, device=device)


class HalfKernels:
    """The kernels of a network in half precision. Each pass overwrites the same memory, for all kernels by one call."""

    def __init__(self) -> None:
        self._copies: list[Tensor] = []

    def cast(self, kernels: Sequence[Tensor], dtype: torch.dtype) -> list[Tensor]:
        """Copies of the kernels in a data type. They are always made again, since calls of `_foreach` change weights
        without a new version number."""
        if not self._copies or self._copies[0].dtype != dtype or self._copies[0].device != kernels[0].device:
            self._copies = [torch.empty_like(kernel, dtype=dtype) for kernel in kernels]
        with torch.no_grad():
            torch._foreach_copy_(self._copies, list(kernels))
        return self._copies


class TableGeometry:
    """The voxels of a batch at all strides, with the interface of `Geometry`, for implicit_gemm.py and
    fused_norm.py."""

    fused = True

    def __init__(self, voxel: Tensor, *, precision: str = "fp32") -> None:
        """voxel: (M, 4) int64, unique rows of (scene in the batch, x, y, z); precision: one of backend.PRECISIONS. With
        bf16 and fp16 the features between the layers have that type too.

        Raises:
            HpalError: a scene is wider than 65,000 voxels, there are more than 32,767 scenes, or a voxel comes twice.
        """
        self._epilogue: gemm.Epilogue | None = None
        self._weights: dict[int, Tensor] = {}
        self.buffers: fused_norm.NormBuffers | None = None
        """The memory of the norms in the current pass, in training."""
        self._half, self._tf32 = HALF_TYPES.get(precision), precision == "tf32"
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
        # The host waits here, and only here, for the numbers of voxels at each stride.
        answers = torch.cat([torch.stack([xyz.amax(), scene.amax(), twice]), row[:, -1] + 1])
        widest, scenes, double, *counts = answers.tolist()
        if widest >= MAX_COORDINATE or scenes >= 1 << 15:
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

    def permute(self, features: Tensor) -> Tensor:
        """(M, C) in the order of the input voxels -> in the network's order and type."""
        return (features if self._half is None else features.to(self._half))[self._order]

    def unpermute(self, features: Tensor) -> Tensor:
        """(M, C) in the network's order and type -> in the order of the input voxels, as float32 if the type was a
        16-bit one."""
        features = torch.empty_like(features).index_copy_(0, self._order, features)
        return features if self._half is None else features.float()

    def begin(self, kernels: Sequence[Tensor], half_kernels: HalfKernels, norms: Sequence[nn.BatchNorm1d]) -> None:
        """Prepares a pass through a network, in a few calls for all layers: the kernels in half precision, and the
        memory of the norms (none without gradients)."""
        if self._half is not None:
            self._weights = dict(zip(map(id, kernels), half_kernels.cast(kernels, self._half)))
        self.buffers = fused_norm.NormBuffers(norms) if norms else None

    def with_epilogue(self, epilogue: gemm.Epilogue) -> TableGeometry:
        """The same geometry, but its convolutions apply an epilogue. Only for a pass without gradients."""
        geometry = copy.copy(self)
        geometry._epilogue = epilogue
        return geometry

    def apply_epilogue(self, features: Tensor) -> Tensor:
        """(M, C) the result of a 1x1x1 convolution, to which the epilogue is applied if there is one. The other
        convolutions do that themselves."""
        return features if self._epilogue is None else fused_norm.normalise(features, self._epilogue)

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
        self,
        features: Tensor,
        kernel: Tensor,
        forward_table: gemm.Table,
        backward_table: gemm.Table,
        *,
        flipped: bool = False,
    ) -> Tensor:
        return gemm.convolve(
            features, kernel, forward_table, backward_table, flipped=flipped, tf32=self._tf32, epilogue=self._epilogue,
            weight=self._weights.get(id(kernel)),
        )  # fmt: skip
