"""MinkowskiEngine's coordinate maps and convolutions, under the interface of `Geometry`.

Importing this module imports MinkowskiEngine, so only `backend.choose` imports it. Kernels have the same shapes and
order as in geometry.py, so a trained network works with both.
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
def _python_3_9_collections() -> Iterator[None]:
    """Within the block there is `collections.Sequence`, which MinkowskiEngine 0.5.4 imports and Python 3.10 removed.
    Warnings are off, since the engine warns on every import that it was built without CUDA; `backend.choose` reports
    that if it matters."""
    collections.Sequence = collections.abc.Sequence  # type: ignore[attr-defined]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        del collections.Sequence  # type: ignore[attr-defined]


with _python_3_9_collections():
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
            HpalError: a coordinate does not fit into 32 bits, or a voxel comes twice.
        """
        number = voxel.to(torch.int32).contiguous()
        if not torch.equal(number.long(), voxel):
            raise HpalError(
                "batch",
                f"reaches voxel {int(voxel.abs().max())}, more than 32 bits hold",
                "train with a larger --voxel, or cut the scene",
            )
        # A manager sets the number of OpenMP threads for torch too, so it is given torch's own number.
        self._manager = me.CoordinateManager(
            D=3,
            num_threads=torch.get_num_threads(),
            coordinate_map_type=me.CoordinateMapType.CUDA if voxel.is_cuda else me.CoordinateMapType.CPU,
        )
        key, (self._first, self._inverse) = self._manager.insert_and_map(number)
        if self._manager.size(key) < len(voxel):
            raise HpalError("batch", "holds a voxel twice", "group the points by voxel first")
        if not len(self._first):
            # On CUDA, empty maps mean that no voxel came twice and that the order is unchanged.
            self._first = self._inverse = torch.arange(len(voxel), device=voxel.device)
        self._keys = [key]
        for _ in range(LEVELS - 1):
            self._keys.append(self._manager.stride(self._keys[-1], 2))

    def sizes(self) -> list[int]:
        """The number of voxels at each stride."""
        return [self._manager.size(key) for key in self._keys]

    def permute(self, features: Tensor) -> Tensor:
        """(M, C) in the order of the input voxels -> in the network's order, which on CUDA can be any order."""
        return features[self._first]

    def unpermute(self, features: Tensor) -> Tensor:
        """(M, C) in the network's order -> in the order of the input voxels."""
        return features[self._inverse]

    def cube(self, features: Tensor, kernel: Tensor, level: int) -> Tensor:
        """3x3x3 convolution at stride 2^level: `out[u] = sum_k W[k]^T x[u + off_k]`; kernel (27, C_in, C_out)."""
        return self._apply(me.MinkowskiConvolutionFunction, features, kernel, _CUBE, level, level)

    def down(self, features: Tensor, kernel: Tensor, level: int) -> Tensor:
        """2x2x2 convolution of stride 2, from stride 2^level to the next; kernel (8, C_in, C_out)."""
        return self._apply(me.MinkowskiConvolutionFunction, features, kernel, _CELL, level, level + 1)

    def up(self, features: Tensor, kernel: Tensor, level: int) -> Tensor:
        """Transposed 2x2x2 convolution of stride 2, from stride 2^level to the one before; kernel (8, C_in, C_out)."""
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
