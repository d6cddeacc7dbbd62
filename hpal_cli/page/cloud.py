"""Orders the points of a scene in tiles for drawing. Any first part of a tile shows it evenly thinned."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from hpal_cli.export.top_view import BELOW, cut_height, roofed
from hpal_cli.lengths import nearest_round
from hpal_cli.scenes.store import Points

TILE_POINTS = 1 << 16
"""Points of a tile, on average: a draw call each."""

ROOM_STEP, GROWTH = 0.04, 1.6
"""Around a query 1 m must be seen in a room on a grid of 4 cm, and 20 m where points lie 25 cm apart, from the air: who
scans from afar scans larger things."""

_SAMPLE = 20_000


@dataclass(frozen=True)
class Column:
    """What points can be coloured by. kind: `rgb` (N, 3) bytes, `class` (N,) ids of the class table, -1 for none, or
    `number` (N,)."""

    name: str
    kind: str
    read: Callable[[], NDArray[np.generic]]


@dataclass(frozen=True)
class Tile:
    """Points `first` to `first + count` in the order of drawing; low, high: (3,) metres."""

    first: int
    count: int
    low: NDArray[np.float32]
    high: NDArray[np.float32]


class DrawnCloud:
    """N points of a scene, drawn in `order` (N,) of their rows: tile by tile, within a tile shuffled, so that the first
    k points of each tile are the scene with fewer points.

    xyz: (N, 3) float32 metres in that order, relative to the scene's offset; step: metres between points; reach: metres
    to be seen around a query; floor, top, cut: z of the lowest and the highest point, and above which a view from above
    shows nothing.
    """

    def __init__(self, points: Points, columns: Sequence[Column] = (), *, unit: float = 1.0, grid: float | None = None):
        """unit: metres in one unit of `points`; grid: metres between points, None if that is not known."""
        xyz = np.asarray(points.xyz, np.float32)
        self.order, firsts = _order(xyz)
        self.xyz = xyz[self.order]
        if unit != 1.0:
            self.xyz *= np.float32(unit)
        ends = np.append(firsts[1:], len(xyz))
        self.tiles = [
            Tile(int(a), int(b - a), self.xyz[a:b].min(axis=0), self.xyz[a:b].max(axis=0))
            for a, b in zip(firsts, ends, strict=True)
        ]
        self.unit, self.offset = unit, points.offset
        self.columns = {column.name: column for column in columns}
        self._read: dict[str, NDArray[np.generic]] = {}
        some = self.xyz[:: 1 + len(xyz) // _SAMPLE].astype(np.float64)
        self.step = max(grid or 0.0, self._spacing(), 1e-4)
        self.reach = nearest_round(float(np.clip((self.step / ROOM_STEP) ** GROWTH, 0.2, 100)))
        self.floor, self.top = float(self.xyz[:, 2].min()), float(self.xyz[:, 2].max())
        self.roof = roofed(some)
        self.cut = cut_height(some, BELOW) if self.roof else self.top

    def __len__(self) -> int:
        return len(self.xyz)

    @cached_property
    def place_of(self) -> NDArray[np.int32]:
        """(N,) where each row is drawn: the inverse of `order`."""
        place = np.empty(len(self), np.int32)
        place[self.order] = np.arange(len(self), dtype=np.int32)
        return place

    def column(self, name: str) -> NDArray[np.generic]:
        """(N, ...) the values of a column in the order of drawing; `xyz` and `index`, the row of each point, among
        them.

        Raises:
            KeyError: no such column.
        """
        if name == "xyz":
            return self.xyz
        if name == "index":
            return self.order
        if name not in self._read:
            column = self.columns[name]
            values = column.read()[self.order]
            as_type = {"rgb": np.uint8, "class": np.int16, "number": np.float32}[column.kind]
            self._read[name] = np.ascontiguousarray(values, as_type)
        return self._read[name]

    def around(self, place: NDArray[np.floating], reach: float) -> NDArray[np.float64]:
        """(M, 3) positions within `reach` of a place (3,) along each axis, all in metres."""
        parts = [
            self.xyz[tile.first : tile.first + tile.count]
            for tile in self.tiles
            if (tile.low <= place + reach).all() and (tile.high >= place - reach).all()
        ]
        near = [part[(np.abs(part - place) <= reach).all(axis=1)] for part in parts]
        return np.concatenate([np.zeros((0, 3), np.float32), *near]).astype(np.float64)

    def ground(self, place: NDArray[np.floating]) -> float:
        """z of the lowest surface around a place (3,): of what lies within three reaches beside it."""
        reach = 3 * self.reach
        low = [self.floor]
        for tile in self.tiles:
            if (tile.low[:2] <= place[:2] + reach).all() and (tile.high[:2] >= place[:2] - reach).all():
                part = self.xyz[tile.first : tile.first + min(tile.count, _SAMPLE)]
                close = part[(np.abs(part[:, :2] - place[:2]) <= reach).all(axis=1), 2]
                if len(close) > 20:
                    low.append(float(np.percentile(close, 1)))
        return min(low[1:], default=low[0])

    def _spacing(self) -> float:
        """The median distance to the nearest other point, of the points of the fullest tile."""
        tile = max(self.tiles, key=lambda tile: tile.count)
        part = self.xyz[tile.first : tile.first + tile.count].astype(np.float64)
        if len(part) < 2:
            return 0.05
        # A shuffled part as a whole, or its points would lie farther apart than they do.
        middle = np.median(part, axis=0)
        near = part[np.argsort(np.abs(part - middle).max(axis=1), kind="stable")[:_SAMPLE]]
        return float(np.median(cKDTree(near).query(near[:2000], 2)[0][:, 1]))


def _order(xyz: NDArray[np.float32]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """(N,) rows tile by tile, shuffled within each; (T,) where the tiles begin."""
    count = len(xyz)
    low, high = xyz[:, :2].min(axis=0), xyz[:, :2].max(axis=0)
    size = np.maximum((high - low).astype(np.float64), 1e-6)
    wanted = max(1, min(30_000, -(-count // TILE_POINTS)))
    edge = np.sqrt(size[0] * size[1] / wanted) if wanted > 1 else float(size.max())
    across, along = (np.clip(np.ceil(size / max(edge, size.max() / 200)), 1, 250)).astype(int)
    column = np.minimum(((xyz[:, 0] - low[0]) / size[0] * across).astype(np.uint16), across - 1)
    row = np.minimum(((xyz[:, 1] - low[1]) / size[1] * along).astype(np.uint16), along - 1)
    shuffled = np.random.default_rng(0).permutation(count).astype(np.int32)
    # Numbers of 16 bits are sorted by their digits, in the time of a few passes.
    tile = (row * np.uint16(across) + column).astype(np.uint16)[shuffled]
    order = shuffled[np.argsort(tile, kind="stable")]
    counts = np.bincount(tile)
    firsts = np.concatenate([[0], np.cumsum(counts)[:-1]])[counts > 0]
    return order, firsts.astype(np.int64)
