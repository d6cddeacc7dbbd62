"""Finds the points within a fixed radius of a position, by sorting them into cells as large as the radius."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


class RadiusSearch:
    """An index of positions `xyz` (N, 3) for many searches with the same radius, in the same unit."""

    def __init__(self, xyz: NDArray[np.float64], radius: float) -> None:
        self._xyz = xyz
        self._radius = radius
        # Slightly more than the radius, so that rounding in the division never puts a neighbour two cells away.
        self._edge = radius * (1 + 1e-9)
        self._low = xyz.min(axis=0) if len(xyz) else np.zeros(3)
        cell = self._cell(xyz)
        self._extent = cell.max(axis=0) + 3 if len(xyz) else np.full(3, 3)
        key = self._key(cell)
        self._order = np.argsort(key, kind="stable")
        self._sorted = key[self._order]
        columns = np.array([(dx, dy) for dx in (-1, 0, 1) for dy in (-1, 0, 1)])
        self._around = (columns[:, 0] * self._extent[1] + columns[:, 1]) * self._extent[2]

    def within(self, position: NDArray[np.float64]) -> NDArray[np.int64]:
        """(K,) the rows with `|x - position| < radius` (strict); position: (3,)."""
        centre = self._key(self._cell(position[None]))[0]
        # Cell numbers run along z first, so the 27 cells around a position are nine runs of three numbers.
        start = np.searchsorted(self._sorted, centre + self._around - 1)
        stop = np.searchsorted(self._sorted, centre + self._around + 1, side="right")
        near = np.concatenate([self._order[a:b] for a, b in zip(start, stop, strict=True)])
        difference = self._xyz[near] - position
        return near[np.sqrt((difference * difference).sum(axis=1)) < self._radius]

    def _cell(self, xyz: NDArray[np.float64]) -> NDArray[np.int64]:
        return np.floor((xyz - self._low) / self._edge).astype(np.int64)

    def _key(self, cell: NDArray[np.int64]) -> NDArray[np.int64]:
        x, y, z = cell.T + 1
        return (x * self._extent[1] + y) * self._extent[2] + z
