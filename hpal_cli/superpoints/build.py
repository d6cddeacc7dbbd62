"""Finds and describes the superpoints of a scene of any size. A scene of more than `MAX_TILE_POINTS` points is divided
into tiles, which bounds the memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from hpal_cli.scenes.scale import MAX_ROOM_SCALE, ROOM_GRID
from hpal_cli.scenes.store import Points
from hpal_cli.superpoints import description as d
from hpal_cli.superpoints.graph import Contacts, Graph, contacts, graph
from hpal_cli.superpoints.segmentation import segment
from hpal_cli.superpoints.surface import Surface, sum_by, surface

MAX_TILE_POINTS = 1 << 19
"""Points of a tile, at most."""

SMOOTHED = 8
"""Number of nearest points over which the colour of a point is averaged before colours are compared."""


@dataclass(frozen=True, eq=False)
class Superpoints:
    """The S superpoints of a scene of N points.

    superpoint: (N,) int32 superpoint of each point; size: (S,) int64 number of points; medoid: (S,) int64 row of the
    point nearest to the mean position; centre: (S, 3) float32 mean position in metres divided by the scale of the
    scene; feature: (S, F) float32 description; graph: the pairs of superpoints that touch.
    """

    superpoint: NDArray[np.int32]
    size: NDArray[np.int64]
    medoid: NDArray[np.int64]
    centre: NDArray[np.float32]
    feature: NDArray[np.float32]
    graph: Graph

    def __len__(self) -> int:
        return len(self.size)


def scale_of(xyz: NDArray[np.floating], grid: float | None, unit: float) -> float:
    """The scale of a scene: how many times wider its grid is than that of a room. Positions are divided
    by it before anything is measured. It is at least 1, because a room that is scanned more finely is no smaller.
    xyz: (N, 3) in units of `unit` metres; grid: metres, or None to use the median distance of points to their nearest
    neighbours.
    """
    if grid is None:
        from scipy.spatial import cKDTree

        sample = np.asarray(xyz, np.float64)
        if len(sample) < 2:
            return 1.0
        rows = np.linspace(0, len(sample) - 1, min(len(sample), 10_000)).astype(np.int64)
        grid = float(np.median(cKDTree(sample).query(sample[rows], 2)[0][:, 1])) * unit
    return max(1.0, grid / ROOM_GRID)


def appearance(points: Points) -> NDArray[np.float64] | None:
    """(N, 3) in [0, 1]: the colours of the points, or else their intensity as grey, with white from the 99th percentile
    on. None if the points have neither."""
    if points.rgb is not None:
        return points.rgb / 255.0
    intensity = points.attributes.get("intensity")
    if intensity is None or not len(intensity):
        return None
    grey = np.nan_to_num(np.asarray(intensity, np.float64))
    white = float(np.percentile(grey, 99))
    return None if white <= 0 else np.repeat(np.clip(grey / white, 0, 1)[:, None], 3, axis=1)


def partition(points: Points, *, scale: float, unit: float = 1.0, threads: int = 1) -> NDArray[np.int32]:
    """(N,) the superpoint of each point, as `build` finds them. Faster than `build`, since nothing is described."""
    xyz = np.asarray(points.xyz, np.float64) * (unit / scale)
    color = appearance(points)
    superpoint, count = np.empty(len(xyz), np.int32), 0
    for tile in _tiles(xyz):
        part, _ = _segment(xyz, color, tile, surface(xyz[tile.near], threads=threads))
        superpoint[tile.rows] = part + count
        count += int(part.max()) + 1
    return superpoint


def build(points: Points, *, scale: float, unit: float = 1.0, threads: int = 1) -> Superpoints:
    """Finds and describes the superpoints of a scene.

    scale: of `scale_of`; unit: metres in one unit of xyz; threads: number of threads that search for neighbours, on
    which the result does not depend.
    """
    xyz = np.asarray(points.xyz, np.float64) * (unit / scale)
    color, ground, cells = appearance(points), d.ground_height(xyz), d.occupied(xyz)
    superpoint, count, parts = np.empty(len(xyz), np.int32), 0, []
    indoor = scale <= MAX_ROOM_SCALE
    for tile in _tiles(xyz):
        around = surface(xyz[tile.near], threads=threads)
        part, smooth = _segment(xyz, color, tile, around)
        parts.append(_describe(xyz, color, smooth, ground, tile, around, part, cells, threads, indoor=indoor))
        superpoint[tile.rows] = part + count
        count += int(part.max()) + 1
    size = np.bincount(superpoint, minlength=count)
    own = np.concatenate([one.own for one in parts])
    joined = graph(
        superpoint,
        Contacts(*(np.concatenate([getattr(one.contacts, f.name) for one in parts]) for f in fields(Contacts))),
        None if color is None else np.concatenate([one.color for one in parts if one.color is not None]),
        np.concatenate([one.main_normal for one in parts]),
    )
    columns = np.concatenate([one.columns for one in parts])
    feature = np.column_stack([own, columns, d.describe_around(own, size, joined)]).astype(np.float32)
    centre = (sum_by(superpoint, xyz, count) / size[:, None]).astype(np.float32)
    return Superpoints(superpoint, size, medoids(superpoint, xyz), centre, feature, joined)


def medoids(group: NDArray[np.integer], xyz: NDArray[np.floating]) -> NDArray[np.int64]:
    """(S,) for each superpoint the row of its point that is nearest to its mean position, on a tie the first.

    group: (N,) 0 to S - 1; xyz: (N, 3).
    """
    places = np.asarray(xyz, np.float64)
    size = np.bincount(group)
    away = ((places - (sum_by(group, places, len(size)) / np.maximum(size, 1)[:, None])[group]) ** 2).sum(axis=1)
    order = np.lexsort((away, group))
    found: NDArray[np.int64] = order[np.cumsum(size) - size]
    return found


@dataclass(frozen=True, eq=False)
class _Tile:
    """A rectangular part of a scene, seen from above. rows: (M,) its points, ascending; near: (M',) its points and
    those around it, ascending; inside: (M,) indices of `rows` in `near`."""

    rows: NDArray[np.int64]
    near: NDArray[np.int64]
    inside: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class _Described:
    """The description of the superpoints of a tile, a row for each. contacts: pairs of neighbouring points, given by
    their rows in the scene, that belong to different superpoints or tiles."""

    own: NDArray[np.float64]
    columns: NDArray[np.float64]
    main_normal: NDArray[np.float64]
    color: NDArray[np.float64] | None
    contacts: Contacts


def _tiles(xyz: NDArray[np.float64]) -> Iterator[_Tile]:
    """Halves the scene across its longer horizontal side, then each half, until no tile has more than
    `MAX_TILE_POINTS` points."""
    waiting = [np.arange(len(xyz))]
    while waiting:
        rows = waiting.pop()
        if len(rows) == len(xyz) <= MAX_TILE_POINTS:
            yield _Tile(rows, rows, rows)
        elif len(rows) <= MAX_TILE_POINTS:
            plan = xyz[:, :2]
            low, high = plan[rows].min(axis=0) - d.HALO, plan[rows].max(axis=0) + d.HALO
            near = np.flatnonzero(((plan >= low) & (plan <= high)).all(axis=1))
            yield _Tile(rows, near, np.searchsorted(near, rows))
        else:
            axis = int(np.argmax(np.ptp(xyz[rows, :2], axis=0)))
            order = np.argsort(xyz[rows, axis], kind="stable")
            half = len(rows) // 2
            waiting += [np.sort(rows[order[half:]]), np.sort(rows[order[:half]])]


def _within(around: Surface, tile: _Tile) -> Surface:
    """The surface of a tile's own points. A neighbour in another tile is replaced by the point itself, which makes no
    edge, so that a superpoint ends at the border of its tile."""
    if tile.rows is tile.near:
        return around
    place = np.full(len(tile.near), -1, np.int64)
    place[tile.inside] = np.arange(len(tile.inside))
    near = place[around.near[tile.inside]]
    near = np.where(near < 0, np.arange(len(near))[:, None], near)
    return Surface(
        near, around.distance[tile.inside], around.normal[tile.inside], around.surface_variation[tile.inside]
    )


def _smooth(color: NDArray[np.float64] | None, around: Surface) -> NDArray[np.float64] | None:
    return None if color is None else color[around.near[:, :SMOOTHED]].mean(axis=1)


def _segment(
    xyz: NDArray[np.float64], color: NDArray[np.float64] | None, tile: _Tile, around: Surface
) -> tuple[NDArray[np.int32], NDArray[np.float64] | None]:
    """(M,) the superpoints of a tile's points, numbered from 0, and the smoothed colours (M', 3) of all points
    `near`."""
    smooth = _smooth(None if color is None else color[tile.near], around)
    mine = None if smooth is None else smooth[tile.inside]
    return segment(xyz[tile.rows], mine, _within(around, tile)), smooth


def _describe(
    xyz: NDArray[np.float64],
    color: NDArray[np.float64] | None,
    smooth: NDArray[np.float64] | None,
    ground: NDArray[np.float64],
    tile: _Tile,
    around: Surface,
    superpoint: NDArray[np.int32],
    cells: NDArray[np.float64],
    threads: int,
    *,
    indoor: bool,
) -> _Described:
    near, inside = tile.near, tile.inside
    places, seen = xyz[near], None if color is None else color[near]
    size = np.bincount(superpoint)
    columns = d.point_columns(places, seen, around, threads)
    medoid = inside[medoids(superpoint, places[inside])]
    height = places[:, 2] - ground[near]
    # The superpoints around the tile are not known, so each point there counts as a part of its own.
    part = -1 - np.arange(len(near))
    part[inside] = superpoint
    found = contacts(places, smooth, around, part, inside)
    frame = d.frame(xyz, color, ground, around.normal[inside], indoor=indoor)
    return _Described(
        d.describe_own(superpoint, size, places[inside], columns[inside], ground[tile.rows], frame),
        np.column_stack(
            [
                d.describe_columns(places, height, columns, np.column_stack([places[medoid], height[medoid]])),
                d.describe_relief(places, around.normal, superpoint, size, inside, medoid, cells),
            ]
        ),
        d.main_normals(superpoint, around.normal[inside], size),
        None if seen is None else sum_by(superpoint, seen[inside], len(size)) / size[:, None],
        replace(found, i=near[found.i], j=near[found.j]),
    )
