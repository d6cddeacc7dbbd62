"""Cuts a scene that is too large for the network into overlapping tiles, seen from above, and blends their predictions
(docs/method.md, "Scenes of any size")."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hpal_cli.inference.scene_voxels import SceneVoxels

MAX_VOXELS = 400_000
"""Voxels of a tile, its surroundings included."""

MARGIN = 32
"""Voxels that a tile sees beyond a cut."""

RAMP = 8
"""Voxels on either side of a cut in which the weight goes from one tile to the other. What is further from its tile's
core than that is there to be seen, and its answer is not used."""

SHORTEST = MARGIN
"""Voxels: a tile's core is never cut to less, or it would be all margin. At least two ramps long."""

WIDEST = 60_000
"""Voxels along a side, whatever their number: the network's geometry ends at 65,000."""

Plan = tuple[int, int]
"""(x, y) in voxels."""


@dataclass(frozen=True)
class Tile:
    """The voxels of low <= (x, y) < high, its core, and what is seen around it; extent: of the whole scene."""

    low: Plan
    high: Plan
    extent: Plan

    def seen(self) -> tuple[Plan, Plan]:
        """(low, high) of the core and its margin."""
        low, high = self.low, self.high
        return (low[0] - MARGIN, low[1] - MARGIN), (high[0] + MARGIN, high[1] + MARGIN)

    def count(self, voxels: SceneVoxels) -> int:
        """Voxels that it sees."""
        return voxels.count(*self.seen())

    def weight(self, cell: NDArray[np.int64]) -> NDArray[np.float32]:
        """(K, 2 or 3) voxels -> (K,) their weight in this tile: 1 inside, linear across a cut, 0 beyond.

        Over all tiles the weights of a voxel sum to 1.
        """
        weight = np.ones(len(cell))
        for axis in (0, 1):
            centre = cell[:, axis] + 0.5
            # The scene's own border is no cut.
            if self.low[axis] > 0:
                weight *= np.clip((centre - self.low[axis] + RAMP) / (2 * RAMP), 0, 1)
            if self.high[axis] < self.extent[axis]:
                weight *= np.clip((self.high[axis] + RAMP - centre) / (2 * RAMP), 0, 1)
        return weight.astype(np.float32)

    def side(self, axis: int) -> int:
        return self.high[axis] - self.low[axis]

    def halves(self, axis: int, at: int) -> tuple[Tile, Tile]:
        """Both parts of a cut across `axis`."""
        high, low = list(self.high), list(self.low)
        high[axis] = low[axis] = at
        return Tile(self.low, (high[0], high[1]), self.extent), Tile((low[0], low[1]), self.high, self.extent)


def cut(voxels: SceneVoxels, most: int) -> list[Tile]:
    """Tiles that see at most `most` voxels each, as far as `SHORTEST` allows; one tile if the scene fits.

    A tile that is too large is cut across its longer side, into halves of equally many voxels.
    """
    extent = voxels.extent[:2]
    done: list[Tile] = []
    todo = [Tile((0, 0), extent, extent)]
    while todo:
        tile = todo.pop()
        axis = 0 if tile.side(0) >= tile.side(1) else 1
        fits = tile.side(axis) <= WIDEST and tile.count(voxels) <= most
        if fits or tile.side(axis) < 2 * SHORTEST:
            done.append(tile)
        else:
            todo += reversed(tile.halves(axis, _middle(voxels, tile, axis)))
    return [tile for tile in done if tile.count(voxels)]


def _middle(voxels: SceneVoxels, tile: Tile, axis: int) -> int:
    """Where to cut: half the voxels lie on either side, as far as neither side gets too short."""
    if tile.side(axis) > WIDEST:
        # Mostly empty: halves of the voxels could leave all of the width on one side.
        return (tile.low[axis] + tile.high[axis]) // 2
    first, last = tile.low[axis] + SHORTEST, tile.high[axis] - SHORTEST
    half = voxels.count(tile.low, tile.high) // 2
    while first < last:
        at = (first + last) // 2
        below, _ = tile.halves(axis, at)
        if voxels.count(below.low, below.high) < half:
            first = at + 1
        else:
            last = at
    return first
