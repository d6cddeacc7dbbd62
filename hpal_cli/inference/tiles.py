"""Cuts a scene that is too large for the network into overlapping tiles, seen from above, and blends their predictions
(docs/method.md, "Scenes of any size")."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hpal_cli.inference.scene_voxels import SceneVoxels

MAX_VOXELS = 400_000
"""Voxels of a tile with its margin, at most."""

MARGIN = 32
"""Width in voxels of the margin around a tile's core, which the network sees too."""

RAMP = 8
"""Voxels on either side of a cut within which the weight passes from one tile to the other. Predictions further out in
the margin are not used."""

MIN_SIDE = MARGIN
"""Least side of a tile's core in voxels, so that its margin does not become larger than the core. It must be at least
two ramps."""

MAX_SIDE = 60_000
"""Largest side of a tile's core in voxels, since the network's coordinates end at about 65,000."""

Plan = tuple[int, int]
"""A position seen from above: (x, y) in voxels."""


@dataclass(frozen=True)
class Tile:
    """A tile, whose core consists of the voxels with low <= (x, y) < high. extent: that of the whole scene."""

    low: Plan
    high: Plan
    extent: Plan

    def with_margin(self) -> tuple[Plan, Plan]:
        """The bounds (low, high) of the core with its margin, which is what the network gets."""
        low, high = self.low, self.high
        return (low[0] - MARGIN, low[1] - MARGIN), (high[0] + MARGIN, high[1] + MARGIN)

    def count(self, voxels: SceneVoxels) -> int:
        """The number of voxels in the core and its margin."""
        return voxels.count(*self.with_margin())

    def weight(self, cell: NDArray[np.int64]) -> NDArray[np.float32]:
        """(K, 2 or 3) voxels -> (K,) their weights in this tile: 1 inside, linear across a cut, 0 outside.

        The weights of a voxel in all tiles sum to 1.
        """
        weight = np.ones(len(cell))
        for axis in (0, 1):
            centre = cell[:, axis] + 0.5
            # At the border of the scene there is no cut.
            if self.low[axis] > 0:
                weight *= np.clip((centre - self.low[axis] + RAMP) / (2 * RAMP), 0, 1)
            if self.high[axis] < self.extent[axis]:
                weight *= np.clip((self.high[axis] + RAMP - centre) / (2 * RAMP), 0, 1)
        return weight.astype(np.float32)

    def side(self, axis: int) -> int:
        return self.high[axis] - self.low[axis]

    def halves(self, axis: int, at: int) -> tuple[Tile, Tile]:
        """The two tiles that result from a cut at the coordinate `at` of `axis`."""
        high, low = list(self.high), list(self.low)
        high[axis] = low[axis] = at
        return Tile(self.low, (high[0], high[1]), self.extent), Tile((low[0], low[1]), self.high, self.extent)


def cut(voxels: SceneVoxels, most: int) -> list[Tile]:
    """Divides a scene into tiles of at most `most` voxels each, margins included, as far as `MIN_SIDE` permits. A scene
    that is small enough is one tile. A tile that is too large is cut across its longer side, into two tiles with about
    the same number of voxels.
    """
    extent = voxels.extent[:2]
    done: list[Tile] = []
    todo = [Tile((0, 0), extent, extent)]
    while todo:
        tile = todo.pop()
        axis = 0 if tile.side(0) >= tile.side(1) else 1
        fits = tile.side(axis) <= MAX_SIDE and tile.count(voxels) <= most
        if fits or tile.side(axis) < 2 * MIN_SIDE:
            done.append(tile)
        else:
            todo += reversed(tile.halves(axis, _middle(voxels, tile, axis)))
    return [tile for tile in done if tile.count(voxels)]


def _middle(voxels: SceneVoxels, tile: Tile, axis: int) -> int:
    """The coordinate to cut at, such that each part has half of the voxels, unless a part would become too short."""
    if tile.side(axis) > MAX_SIDE:
        # Such a wide tile is mostly empty, and parts of equally many voxels might not become narrower.
        return (tile.low[axis] + tile.high[axis]) // 2
    first, last = tile.low[axis] + MIN_SIDE, tile.high[axis] - MIN_SIDE
    half = voxels.count(tile.low, tile.high) // 2
    while first < last:
        at = (first + last) // 2
        below, _ = tile.halves(axis, at)
        if voxels.count(below.low, below.high) < half:
            first = at + 1
        else:
            last = at
    return first
