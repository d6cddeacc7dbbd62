"""Divides the points of a scene into tiles for drawing. The points of a tile are shuffled, so that any first part of
them shows the whole tile with fewer points."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from hpal_cli.export.top_view import SHOWN_HEIGHT, cut_height, roofed
from hpal_cli.lengths import nearest_round
from hpal_cli.scenes.store import Points

TILE_POINTS = 1 << 16
"""Points of a tile, on average. The page draws each tile by one call."""

ROOM_STEP, GROWTH = 0.04, 1.6
"""How many metres around a query are shown: (distance between points / ROOM_STEP) to the power of GROWTH, rounded. In a
room, whose points are ROOM_STEP metres apart, this is 1 m, and in airborne scans with points 25 cm apart it is 20 m."""

COARSE = 300_000
"""Points of the coarse level of a large scene."""

_SAMPLE = 20_000


@dataclass(frozen=True)
class Column:
    """A column by which points can be coloured. kind: `rgb` for (N, 3) bytes, `class` for (N,) ids of the class table
    with -1 for none, or `number` for (N,) numbers; read: returns the values."""

    name: str
    kind: str
    read: Callable[[], NDArray[np.generic]]


@dataclass(frozen=True)
class Tile:
    """The points `first` to `first + count` in the order of drawing; low, high: (3,) their bounds in metres."""

    first: int
    count: int
    low: NDArray[np.float32]
    high: NDArray[np.float32]

    def is_near(self, place: NDArray[np.floating], reach: float) -> bool:
        """Whether a point of the tile may be within `reach` metres of a place (3,) along each axis."""
        return bool((self.low <= place + reach).all() and (self.high >= place - reach).all())


@dataclass(frozen=True, eq=False)
class Source:
    """The data from which a cloud is drawn. unit: metres in one unit of `points`; grid: metres between grid points,
    None if that is not known."""

    points: Points
    columns: Sequence[Column] = ()
    unit: float = 1.0
    grid: float | None = None


class DrawnCloud:
    """N points of a scene in the order of drawing: tile by tile, and shuffled within each tile.

    order: (N,) rows of the points in that order; xyz: (N, 3) float32 metres in that order, relative to the scene's
    offset; total: points of the scene, which is N unless this is a coarse level; step: metres between neighbouring
    points; reach: metres that are shown around a query; floor, top: z of the lowest and the highest point; cut: z above
    which a view from above shows no points; roof: whether the scene has a ceiling.
    """

    def __init__(self, source: Source, *, coarse: bool = False):
        """coarse: take only `COARSE` points, sampled evenly from all, which is much faster."""
        every = np.asarray(source.points.xyz, np.float32)
        unit = np.float32(source.unit)
        self.total, self.whole = len(every), not coarse
        rng = np.random.default_rng(0)
        rows = np.sort(rng.integers(0, len(every), COARSE)) if len(every) > COARSE else np.arange(len(every))
        sample = every[rows]
        self._every: NDArray[np.float32] | None = None
        if coarse:
            self._every = every
            order, firsts = _order(sample, rng)
            self.order = rows[order].astype(np.int32)
        else:
            self.order, firsts = _order(every, rng)
        self.xyz = every[self.order]
        if source.unit != 1.0:
            self.xyz *= unit
        ends = np.append(firsts[1:], len(self.xyz))
        self.tiles = [
            Tile(int(a), int(b - a), self.xyz[a:b].min(axis=0), self.xyz[a:b].max(axis=0))
            for a, b in zip(firsts, ends, strict=True)
        ]
        self.unit, self.offset = source.unit, source.points.offset
        self.columns = {column.name: column for column in source.columns}
        self._read: dict[str, NDArray[np.generic]] = {}
        # A page changes from the coarse level to the whole scene, so all that follows must be the same for both.
        spacing = _spacing(every, sample) * source.unit
        self.step = max(source.grid or 0.0, spacing, 1e-4)
        self.reach = nearest_round(float(np.clip((self.step / ROOM_STEP) ** GROWTH, 0.2, 100)))
        self.floor, self.top = (float(edge(every[:, 2]) * unit) for edge in (np.min, np.max))
        some = sample[:: 1 + len(sample) // _SAMPLE].astype(np.float64) * source.unit
        self.roof = roofed(some)
        self.cut = cut_height(some, SHOWN_HEIGHT) if self.roof else self.top

    def __len__(self) -> int:
        return len(self.xyz)

    @cached_property
    def place_of(self) -> NDArray[np.int32]:
        """(total,) the index of each row in the order of drawing, the inverse of `order`; -1 for rows that a coarse
        level lacks."""
        place = np.full(self.total, -1, np.int32)
        place[self.order] = np.arange(len(self), dtype=np.int32)
        return place

    def column(self, name: str) -> NDArray[np.generic]:
        """(N, ...) the values of a column in the order of drawing. Beside the columns of the source there are `xyz` and
        `index`, the row of each point.

        Raises:
            KeyError: there is no such column.
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
        """(M, 3) the positions within `reach` of a place (3,) along each axis, in metres. They are those of all points
        of the scene, also if this is a coarse level."""
        every = self._every
        if every is not None:
            return _within(every, place / self.unit, reach / self.unit).astype(np.float64) * self.unit
        parts = [self.xyz[tile.first : tile.first + tile.count] for tile in self.tiles if tile.is_near(place, reach)]
        return np.concatenate([np.zeros((0, 3)), *(_within(part, place, reach) for part in parts)])

    def release(self) -> None:
        """Frees the points that a coarse level does not draw, once the whole scene has been read."""
        self._every = None

    def ground(self, place: NDArray[np.floating]) -> float:
        """The z of the lowest surface within three times `reach` around a place (3,), in metres."""
        reach = 3 * self.reach
        low = [self.floor]
        for tile in self.tiles:
            if (tile.low[:2] <= place[:2] + reach).all() and (tile.high[:2] >= place[:2] - reach).all():
                part = self.xyz[tile.first : tile.first + min(tile.count, _SAMPLE)]
                close = part[(np.abs(part[:, :2] - place[:2]) <= reach).all(axis=1), 2]
                if len(close) > 20:
                    low.append(float(np.percentile(close, 1)))
        return min(low[1:], default=low[0])


def _within(xyz: NDArray[np.float32], place: NDArray[np.floating], reach: float) -> NDArray[np.float32]:
    """(M, 3) those of the positions (N, 3) that are within `reach` of a place (3,) along each axis."""
    for axis in range(3):
        xyz = xyz[np.abs(xyz[:, axis] - np.float32(place[axis])) <= reach]
    return xyz


def _spacing(xyz: NDArray[np.float32], sample: NDArray[np.float32]) -> float:
    """The median distance to the nearest other point, for the points (N, 3) around the middle. sample: (M, 3) some of
    the points, from which the middle is computed."""
    from scipy.spatial import cKDTree

    if len(xyz) < 2:
        return 0.05
    middle = sample[np.abs(sample - np.median(sample, axis=0)).max(axis=1).argmin()]
    # The radius has about 20,000 points within it. All of them are needed, as fewer would seem to be farther apart.
    away = np.abs(sample - middle).max(axis=1)
    count = min(len(sample), max(50, _SAMPLE * len(sample) // len(xyz)))
    near = _within(xyz, middle, float(np.partition(away, count - 1)[count - 1])).astype(np.float64)
    order = np.argsort(np.abs(near - middle).max(axis=1), kind="stable")
    return float(np.median(cKDTree(near).query(near[order[:2000]], 2)[0][:, 1]))


def _order(xyz: NDArray[np.float32], rng: np.random.Generator) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """(N,) the rows of the positions (N, 3) tile by tile, shuffled within each tile; (T,) the first index of each
    tile."""
    low, high = xyz[:, :2].min(axis=0), xyz[:, :2].max(axis=0)
    size = np.maximum((high - low).astype(np.float64), 1e-6)
    wanted = max(1, min(30_000, -(-len(xyz) // TILE_POINTS)))
    edge = np.sqrt(size[0] * size[1] / wanted) if wanted > 1 else float(size.max())
    cells = np.clip(np.ceil(size / max(edge, size.max() / 200)), 1, 250).astype(int)
    column, row = (
        np.minimum((xyz[:, axis] - low[axis]) * np.float32(cells[axis] / size[axis]), cells[axis] - 1).astype(np.uint16)
        for axis in range(2)
    )
    tile = row * np.uint16(cells[0]) + column
    # For 16-bit numbers NumPy uses a radix sort, which takes only a few passes.
    order = np.argsort(tile, kind="stable").astype(np.int32)
    counts = np.bincount(tile)
    counts = counts[counts > 0]
    firsts = np.cumsum(counts) - counts
    for first, count in zip(firsts.tolist(), counts.tolist(), strict=True):
        rng.shuffle(order[first : first + count])
    return order, firsts.astype(np.int64)
