"""Finds and counts the voxels of a large scene in little memory."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from hpal_cli.errors import HpalError
from hpal_cli.network.inputs import (
    NetworkInput,
    channels,
    concatenated,
    metres_from,
    origin_of,
    rotated,
    unit_color,
)
from hpal_cli.network.point_inputs import ExtraColumns
from hpal_cli.scenes.store import Points
from hpal_cli.voxels import float32_cells

BLOCK = 1 << 20
"""Points that are processed at a time."""


@dataclass(frozen=True, eq=False)
class SceneInput:
    """A scene to predict. voxel: edge of the network's voxels in metres; unit: metres in one unit of the points'
    coordinates; color: whether the network gets the colours; further: the columns that it gets beside position and
    colour; name: for messages."""

    points: Points
    voxel: float
    unit: float = 1.0
    color: bool = True
    further: ExtraColumns | None = None
    name: str = "scene"


class SceneVoxels:
    """The M voxels of a scene's N points, sorted by x, then y, then z, which begin at 0.

    extent: number of voxels along x, y and z; inverse: (N,) the voxel row of every point. The order of the rows, and
    the inputs of the network for each, are those of `voxelise` for the whole scene.
    """

    def __init__(self, scene: SceneInput, angle: float = 0.0) -> None:
        """angle: radians by which the scene is rotated about its middle.

        Raises:
            HpalError: the scene is so wide that its voxels cannot be numbered in 62 bits.
        """
        points, voxel = scene.points, scene.voxel
        self._points, self._voxel, self._unit, self._color = points, voxel, scene.unit, scene.color
        self._further, self._angle = scene.further, angle
        self._origin = origin_of(points.xyz)
        corners = np.stack(self._extent())
        self._low, last = float32_cells(corners, voxel)
        extent = (last - self._low + 1).tolist()
        self.extent: tuple[int, int, int] = (extent[0], extent[1], extent[2])
        if float(np.prod(np.array(self.extent, np.float64))) >= 2.0**62:
            spans = " x ".join(f"{n:,}" for n in self.extent)
            raise HpalError(scene.name, f"spans {spans} voxels", "remove the points far from all others")
        key = np.empty(len(points.xyz), np.int64)
        for start in range(0, len(key), BLOCK):
            cell = self._cells(points.xyz[start : start + BLOCK]) - self._low
            key[start : start + BLOCK] = (cell[:, 0] * self.extent[1] + cell[:, 1]) * self.extent[2] + cell[:, 2]
        # A stable sort, so that the first point of a voxel is the first in the scene.
        order = np.argsort(key, kind="stable")
        key = key[order]
        begins = np.ones(len(key), bool)
        np.not_equal(key[1:], key[:-1], out=begins[1:])
        self._key = key[begins]
        self._first = order[begins]
        np.cumsum(begins, out=key)
        key -= 1
        self.inverse = np.empty_like(key)
        self.inverse[order] = key

    def __len__(self) -> int:
        return len(self._key)

    def runs(self, low: tuple[int, int], high: tuple[int, int]) -> NDArray[np.int64]:
        """(R, 2) the ranges of rows, ascending, with the voxels of low <= (x, y) < high."""
        column = np.arange(max(low[0], 0), min(high[0], self.extent[0])) * self.extent[1]
        y = np.clip([low[1], high[1]], 0, self.extent[1])
        return np.searchsorted(self._key, (column[:, None] + y) * self.extent[2])

    def count(self, low: tuple[int, int], high: tuple[int, int]) -> int:
        """The number of voxels with low <= (x, y) < high."""
        runs = self.runs(low, high)
        return int((runs[:, 1] - runs[:, 0]).sum())

    def cell(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """(K, 3) the coordinates of the voxels `rows` (K,), which begin at 0."""
        rest, z = np.divmod(self._key[rows], self.extent[2])
        x, y = np.divmod(rest, self.extent[1])
        return np.stack([x, y, z], axis=1)

    def inputs(self, rows: NDArray[np.int64]) -> NetworkInput:
        """The voxels `rows` (K,) as a batch, in this order. Its `inverse` is 0 to K - 1, a row for each voxel."""
        first = self._first[rows]
        rgb = self._points.rgb
        color = unit_color(rgb[first]) if self._color and rgb is not None else None
        columns = concatenated(color, None if self._further is None else self._further(first))
        voxel = np.column_stack([np.zeros(len(rows), np.int64), self.cell(rows) + self._low])
        values = channels(self._metres(self._points.xyz[first]), columns)
        return NetworkInput(torch.from_numpy(values), torch.from_numpy(voxel), torch.arange(len(rows)))

    def _metres(self, xyz: NDArray[np.floating]) -> NDArray[np.float32]:
        return rotated(metres_from(self._origin, xyz, self._unit), self._angle)

    def _extent(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The lowest and the highest x, y and z (3,) of the turned scene, in metres."""
        xyz = self._points.xyz
        if not self._angle:
            return self._metres(xyz.min(axis=0, keepdims=True))[0], self._metres(xyz.max(axis=0, keepdims=True))[0]
        blocks = (self._metres(xyz[start : start + BLOCK]) for start in range(0, len(xyz), BLOCK))
        ends = np.array([(one.min(axis=0), one.max(axis=0)) for one in blocks])
        return ends[:, 0].min(axis=0), ends[:, 1].max(axis=0)

    def _cells(self, xyz: NDArray[np.floating]) -> NDArray[np.int64]:
        return float32_cells(self._metres(xyz), self._voxel)


def rows_of(runs: NDArray[np.int64]) -> NDArray[np.int64]:
    """(R, 2) ranges of rows -> (K,) all rows in them."""
    lengths = runs[:, 1] - runs[:, 0]
    ends = np.cumsum(lengths)
    return np.arange(ends[-1] if len(ends) else 0) + np.repeat(runs[:, 0] - ends + lengths, lengths)
