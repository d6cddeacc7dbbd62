"""Finds and counts the voxels of a scene that is too large for the network, in little memory."""

from __future__ import annotations

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
"""Points that are worked on at a time."""


class SceneVoxels:
    """The M voxels of a scene's N points, sorted by x, then y, then z, which are counted from the lowest.

    extent: voxels along x, y and z; inverse: (N,) the voxel row of every point. The rows, and what the network is given
    of each, are those of `voxelise` on the whole scene.
    """

    def __init__(
        self,
        points: Points,
        voxel: float,
        *,
        unit: float,
        color: bool,
        further: ExtraColumns | None = None,
        angle: float = 0.0,
        name: str = "scene",
    ) -> None:
        """voxel: metres; unit: metres in one unit of the points' coordinates; further: columns; angle: by
        which the scene is turned about its middle; name: the scene's, for messages.

        Raises:
            HpalError: a scene so wide that its voxels have no 62-bit number.
        """
        self._points, self._voxel, self._unit, self._color = points, voxel, unit, color
        self._further, self._angle = further, angle
        self._origin = origin_of(points.xyz)
        corners = np.stack(self._extent())
        self._low, last = float32_cells(corners, voxel)
        extent = (last - self._low + 1).tolist()
        self.extent: tuple[int, int, int] = (extent[0], extent[1], extent[2])
        if float(np.prod(np.array(self.extent, np.float64))) >= 2.0**62:
            spans = " x ".join(f"{n:,}" for n in self.extent)
            raise HpalError(name, f"spans {spans} voxels", "remove the points far from all others")
        key = np.empty(len(points.xyz), np.int64)
        for start in range(0, len(key), BLOCK):
            cell = self._cells(points.xyz[start : start + BLOCK]) - self._low
            key[start : start + BLOCK] = (cell[:, 0] * self.extent[1] + cell[:, 1]) * self.extent[2] + cell[:, 2]
        # Stable, so that the first of a voxel's points is the first in the scene.
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
        """(R, 2) ranges of rows, ascending, that hold the voxels of low <= (x, y) < high."""
        column = np.arange(max(low[0], 0), min(high[0], self.extent[0])) * self.extent[1]
        y = np.clip([low[1], high[1]], 0, self.extent[1])
        return np.searchsorted(self._key, (column[:, None] + y) * self.extent[2])

    def count(self, low: tuple[int, int], high: tuple[int, int]) -> int:
        """Voxels of low <= (x, y) < high."""
        runs = self.runs(low, high)
        return int((runs[:, 1] - runs[:, 0]).sum())

    def cell(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """(K, 3) coordinates, of the lowest 0."""
        rest, z = np.divmod(self._key[rows], self.extent[2])
        x, y = np.divmod(rest, self.extent[1])
        return np.stack([x, y, z], axis=1)

    def inputs(self, rows: NDArray[np.int64]) -> NetworkInput:
        """These voxels as a batch, in this order; each stands for itself, so `inverse` is 0, 1, 2, ..."""
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
        """The lowest and the highest x, y and z in metres of the scene as it is turned."""
        xyz = self._points.xyz
        if not self._angle:
            return self._metres(xyz.min(axis=0, keepdims=True))[0], self._metres(xyz.max(axis=0, keepdims=True))[0]
        blocks = (self._metres(xyz[start : start + BLOCK]) for start in range(0, len(xyz), BLOCK))
        ends = np.array([(one.min(axis=0), one.max(axis=0)) for one in blocks])
        return ends[:, 0].min(axis=0), ends[:, 1].max(axis=0)

    def _cells(self, xyz: NDArray[np.floating]) -> NDArray[np.int64]:
        return float32_cells(self._metres(xyz), self._voxel)


def rows_of(runs: NDArray[np.int64]) -> NDArray[np.int64]:
    """(R, 2) ranges -> every row in them, (K,)."""
    lengths = runs[:, 1] - runs[:, 0]
    ends = np.cumsum(lengths)
    return np.arange(ends[-1] if len(ends) else 0) + np.repeat(runs[:, 0] - ends + lengths, lengths)
