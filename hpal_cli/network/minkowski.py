"""The voxels of a batch in MinkowskiEngine: its coordinate maps and its convolution, under the interface of `Geometry`.

Importing this module imports MinkowskiEngine, so only `backend.choose` does it. Kernel shapes and their order are the
same in both (geometry.py), and so is the state of a network.
"""

from __future__ import annotations

import collections
import collections.abc
import contextlib
import warnings
from collections.abc import Iterator

import torch
from torch import Tensor

from hpal_cli.errors import HpalError
from hpal_cli.network.geometry import LEVELS


@contextlib.contextmanager
def _as_it_was_in_python_3_9() -> Iterator[None]:
    """MinkowskiEngine 0.5.4 imports `collections.Sequence`, which Python 3.10 took away. It also warns on every import
    that it was built without CUDA: `backend.choose` says so where it matters."""
    collections.Sequence = collections.abc.Sequence  # type: ignore[attr-defined]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        del collections.Sequence  # type: ignore[attr-defined]


with _as_it_was_in_python_3_9():
    import MinkowskiEngine as me
    from MinkowskiEngineBackend._C import ConvolutionMode

BUILT_WITH_CUDA: bool = me.is_cuda_available()

_CUBE = me.KernelGenerator(kernel_size=3, dimension=3)
_CELL = me.KernelGenerator(kernel_size=2, stride=2, dimension=3)


class MinkowskiGeometry:
    """The voxels of a batch at all strides. Rows of features at stride 1 are in the order of the input voxels."""

    fused = False

    def __init__(self, voxel: Tensor) -> None:
        """voxel: (M, 4) int64, unique rows of (scene in the batch, x, y, z).

        Raises:
            HpalError: a voxel beyond 32 bits, or given twice.
        """
        number = voxel.to(torch.int32).contiguous()
        if not torch.equal(number.long(), voxel):
            raise HpalError(
                "batch",
                f"reaches voxel {int(voxel.abs().max())}, more than 32 bits hold",
                "train with a larger --voxel, or cut the scene",
            )
        # Each manager sets the number of OpenMP threads, torch's included: to what torch has.
        self._manager = me.CoordinateManager(
            D=3,
            num_threads=torch.get_num_threads(),
            coordinate_map_type=me.CoordinateMapType.CUDA if voxel.is_cuda else me.CoordinateMapType.CPU,
        )
        key, (self._first, self._inverse) = self._manager.insert_and_map(number)
        if self._manager.size(key) < len(voxel):
            raise HpalError("batch", "holds a voxel twice", "group the points by voxel first")
        if not len(self._first):
            # So the engine says on CUDA that no voxel came twice and the order is the given one.
            self._first = self._inverse = torch.arange(len(voxel), device=voxel.device)
        self._keys = [key]
        for _ in range(LEVELS - 1):
            self._keys.append(self._manager.stride(self._keys[-1], 2))

    def sizes(self) -> list[int]:
        """The number of voxels at each stride."""
        return [self._manager.size(key) for key in self._keys]

    def enter(self, features: Tensor) -> Tensor:
        """(M, C) in the order of the input voxels -> the network's order, which on CUDA is any order."""
        return features[self._first]

    def leave(self, features: Tensor) -> Tensor:
        """(M, C) in the network's order -> the order of the input voxels."""
        return features[self._inverse]

    def pointwise(self, features: Tensor, kernel: Tensor) -> Tensor:
        """1x1x1 convolution, kernel (C_in, C_out): a matrix product."""
        return features @ kernel.to(features.dtype)

    def cube(self, features: Tensor, kernel: Tensor, level: int) -> Tensor:
        """3x3x3 convolution at stride 2^level: `out[u] = sum_k W[k]^T x[u + off_k]`; kernel (27, C_in, C_out)."""
        return self._apply(me.MinkowskiConvolutionFunction, features, kernel, _CUBE, level, level)

    def down(self, features: Tensor, kernel: Tensor, level: int) -> Tensor:
        """2x2x2 convolution of stride 2, from `level` to `level + 1`; kernel (8, C_in, C_out)."""
        return self._apply(me.MinkowskiConvolutionFunction, features, kernel, _CELL, level, level + 1)

    def up(self, features: Tensor, kernel: Tensor, level: int) -> Tensor:
        """Its transpose, from `level` to `level - 1`; kernel (8, C_in, C_out)."""
        return self._apply(me.MinkowskiConvolutionTransposeFunction, features, kernel, _CELL, level, level - 1)

    def _apply(
        self,
        function: type[torch.autograd.Function],
        features: Tensor,
        kernel: Tensor,
        shape: me.KernelGenerator,
        source: int,
        target: int,
    ) -> Tensor:
        mode = ConvolutionMode.DEFAULT
        return function.apply(features, kernel, shape, mode, self._keys[source], self._keys[target], self._manager)
