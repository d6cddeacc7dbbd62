"""Describes superpoints without any label: by shape, place, colour and surroundings."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter, minimum_filter
from scipy.sparse import csr_array
from scipy.spatial import cKDTree

from hpal_cli.superpoints.graph import Graph
from hpal_cli.superpoints.surface import Surface, nearest, principal_axes, rowwise
from hpal_cli.voxels import group_voxels, voxel_coordinates

COARSE, COARSE_NEIGHBOURS = 0.08, 32
"""Cell edge in metres to which points are thinned; how many of those left give the coarse shape around a point."""

CELL = 0.1
"""Edge in metres of the cells that columns count."""

COLUMNS = (0.4, 1.0)
"""Radii in metres of the columns about a superpoint."""

HALO = 1.6
"""Metres around a tile from which points are needed to describe what is in it."""

_SHELVES = (-np.inf, 0.1, 0.5, 0.8, 1.2, 1.8, 2.3, np.inf)
"""Metres above the ground between which a column's cells are counted."""


@dataclass(frozen=True, eq=False)
class Frame:
    """What a superpoint is measured against; lengths in metres of the scene's scale.

    axes: (2, 2) turn in plan after which most walls lie along x and y; look: (4,) the scene's mean colour; low, high:
    (2,) the turned scene's ends in plan and top its upper end, in a room; None elsewhere, where they mean nothing.
    """

    axes: NDArray[np.float64]
    look: NDArray[np.float64]
    low: NDArray[np.float64] | None = None
    high: NDArray[np.float64] | None = None
    top: float = 0.0


def frame(
    xyz: NDArray[np.float64],
    color: NDArray[np.float64] | None,
    ground: NDArray[np.float64],
    normal: NDArray[np.float64],
    *,
    indoor: bool,
) -> Frame:
    """Of a scene of N points; normal: (M, 3) of those that the axes are taken from."""
    axes = wall_axes(normal)
    seen = color_features(color, len(xyz)).mean(axis=0)
    if not indoor:
        return Frame(axes, seen)
    low, high = np.percentile(xyz[:, :2] @ axes, [0.5, 99.5], axis=0)
    return Frame(axes, seen, low, high, float(np.percentile(xyz[:, 2] - ground, 99.5)))


GROUND_CELL, GROUND_WINDOW = 0.5, 17
"""Edge in metres of the plan cells of the ground, and how many cells wide the opening is that finds it."""


def ground_height(xyz: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N,) the ground below each point: the lowest heights of plan cells, opened (eroded, then dilated), so that what
    stands on the ground is not part of it and a slope is followed.

    xyz: (N, 3) metres of the scene's scale.
    """
    cell = np.column_stack([_without_gaps(one) for one in voxel_coordinates(xyz[:, :2], GROUND_CELL).T])
    shape = cell.max(axis=0) + 1
    key = cell[:, 0] * shape[1] + cell[:, 1]
    # Sorted by cell, then height: the twentieth part of a cell's points may be noise below the ground.
    order = np.lexsort((xyz[:, 2], key))
    start = np.flatnonzero(np.r_[True, np.diff(key[order]) != 0])
    count = np.diff(np.append(start, len(key)))
    lowest = np.full(int(shape.prod()), np.inf)
    lowest[key[order][start]] = xyz[order[start + count // 20], 2]
    eroded = minimum_filter(lowest.reshape(shape), GROUND_WINDOW, mode="nearest")
    # A cell out of reach of any point has no height, and must not lift the others.
    opened = maximum_filter(np.where(np.isfinite(eroded), eroded, -np.inf), GROUND_WINDOW, mode="nearest")
    found: NDArray[np.float64] = opened.reshape(-1)[key]
    return found


def _without_gaps(cell: NDArray[np.int64]) -> NDArray[np.int64]:
    """Cells along one axis, counted from the first, no two neighbours further apart than the opening reaches: one point
    a hundred kilometres away must not fill the memory with cells between."""
    there, home = np.unique(cell, return_inverse=True)
    place = np.concatenate([[0], np.cumsum(np.minimum(np.diff(there), 2 * GROUND_WINDOW))])
    found: NDArray[np.int64] = place[home.reshape(-1)]
    return found


def color_features(color: NDArray[np.float64] | None, count: int) -> NDArray[np.float64]:
    """(N, 4) brightness, red less green, yellow less blue, saturation; zeros where there is no colour."""
    if color is None:
        return np.zeros((count, 4))
    red, green, blue = color.T
    return np.column_stack([color.mean(axis=1), red - green, (red + green) / 2 - blue, np.ptp(color, axis=1)])


def point_columns(
    xyz: NDArray[np.float64], color: NDArray[np.float64] | None, surface: Surface, threads: int
) -> NDArray[np.float64]:
    """(N, 13): |n_z|, curvature, the four of `color_features`, deviation of the brightness nearby, distance of the last
    neighbour, and of the points thinned to 8 cm linearity, planarity, scattering, |n_z| and |z| of the main
    direction."""
    seen = color_features(color, len(xyz))
    cell, _ = group_voxels(voxel_coordinates(xyz, COARSE))
    thin = np.sort(np.unique(cell, return_index=True)[1])
    _, near = nearest(xyz[thin], xyz[thin], COARSE_NEIGHBOURS, threads)
    square, axes = principal_axes(xyz[thin][near])
    small, middle, large = np.sqrt(square).T + 1e-6
    coarse = np.column_stack(
        [
            (large - middle) / large,
            (middle - small) / large,
            small / large,
            np.abs(axes[:, 2, 0]),
            np.abs(axes[:, 2, 2]),
        ]
    )
    # A point has the coarse shape of the one that stands for its cell.
    home = np.empty(cell.max() + 1, np.int64)
    home[cell[thin]] = np.arange(len(thin))
    return np.column_stack(
        [
            np.abs(surface.normal[:, 2]),
            surface.curvature,
            seen,
            seen[:, 0][surface.near].std(axis=1),
            surface.distance[:, -1],
            coarse[home[cell]],
        ]
    )


def sum_by(of: NDArray[np.integer], values: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """(count, F) sums of the rows of values (N, F) that have each number."""
    return np.stack([np.bincount(of, column, minlength=count) for column in values.T], axis=1)


def describe_own(
    of: NDArray[np.integer],
    size: NDArray[np.int64],
    xyz: NDArray[np.float64],
    columns: NDArray[np.float64],
    ground: NDArray[np.float64],
    frame: Frame,
) -> NDArray[np.float64]:
    """(S, 34), or (S, 39) in a room: what the points of each superpoint say of it.

    of: (N,); size: (S,) points of each; xyz: (N, 3); columns: (N, 13) of `point_columns`; ground: (N,).
    """
    count = len(size)
    mean = sum_by(of, columns, count) / size[:, None]
    square = sum_by(of, columns[:, :8] ** 2, count) / size[:, None]
    deviation = np.sqrt(np.maximum(square - mean[:, :8] ** 2, 0))
    turned = np.column_stack([xyz[:, :2] @ frame.axes, xyz[:, 2] - ground])
    low, high = np.full((count, 3), np.inf), np.full((count, 3), -np.inf)
    np.minimum.at(low, of, turned)
    np.maximum.at(high, of, turned)
    middle = sum_by(of, turned, count) / size[:, None]
    extent = high - low
    plan = np.sort(extent[:, :2], axis=1)
    # Points a square centimetre of the bounding box, from above and from the side, as a grid of 4 cm has them.
    fill = [
        size / np.maximum(plan.prod(axis=1), 1e-3) / 600,
        size / np.maximum(plan[:, 1] * extent[:, 2], 1e-3) / 600,
    ]
    own = [
        mean,
        deviation,
        low[:, 2:],
        high[:, 2:],
        middle[:, 2:],
        plan,
        extent[:, 2:],
        np.log(size)[:, None],
        np.column_stack(fill),
        mean[:, 2:6] - frame.look,
    ]
    if frame.low is not None and frame.high is not None:
        to_end = np.minimum(np.abs(middle[:, :2] - frame.low), np.abs(frame.high - middle[:, :2]))
        outer = np.minimum((low[:, :2] - frame.low).min(axis=1), (frame.high - high[:, :2]).min(axis=1))
        own += [
            frame.top - high[:, 2:],
            np.sort(to_end, axis=1),
            outer[:, None],
            np.full((count, 1), frame.top),
        ]
    return np.column_stack(own)


CORE = (0, 1, 2, 3, 4, 5, 11, 12, 21, 22, 24, 25, 26, 27)
"""Columns of `describe_own` that are averaged over the superpoints around: shape, colour, heights, extents, size."""

_HEIGHT, _POINTS = 23, 27
"""Columns of `describe_own`: mean height above the ground, logarithm of the number of points."""


def describe_around(own: NDArray[np.float64], size: NDArray[np.int64], graph: Graph) -> NDArray[np.float64]:
    """(S, 4 x 14 + 1) means of the `CORE` columns over the superpoints that touch, over those of them that are higher
    and that are lower, those of the largest that touches (its own, if none does), and how many touch."""
    count = len(own)
    a, b = np.concatenate([graph.pair, graph.pair[:, ::-1]]).T
    contact = np.tile(graph.contact, 2).astype(np.float64)
    core, height = own[:, list(CORE)], own[:, _HEIGHT]

    def mean(kept: NDArray[np.bool_]) -> NDArray[np.float64]:
        weights = csr_array((contact[kept], (a[kept], b[kept])), shape=(count, count))
        total: NDArray[np.float64] = weights @ np.ones(count)
        return (weights @ core) / np.maximum(total, 1e-9)[:, None]

    above = height[b] > height[a]
    largest = np.arange(count)
    order = np.lexsort((b, -size[b] * contact, a))
    first = order[np.unique(a[order], return_index=True)[1]]
    largest[a[first]] = b[first]
    touching = np.bincount(a, minlength=count).astype(np.float64)
    return np.column_stack([mean(np.ones(len(a), bool)), mean(above), mean(~above), core[largest], touching])


_COLUMN_BLOCK = 1 << 12
"""Superpoints whose columns are held at a time."""


def describe_columns(
    xyz: NDArray[np.float64], height: NDArray[np.float64], columns: NDArray[np.float64], centre: NDArray[np.float64]
) -> NDArray[np.float64]:
    """(S, 32) what is in the column of 0.4 m and in that of 1 m about each centre: the share of occupied cells between
    seven heights, near in height, and above; the highest; how many a square metre; mean colour of those near in height.

    xyz: (N, 3); height: (N,) above the ground; columns: (N, 13); centre: (S, 4) x, y, z and height above the ground.
    """
    cell, count = group_voxels(voxel_coordinates(xyz, CELL))
    place = sum_by(cell, np.column_stack([xyz, height]), len(count)) / count[:, None]
    seen = sum_by(cell, columns[:, [0, 2, 3, 4, 6]], len(count)) / count[:, None]
    tree = cKDTree(place[:, :2])
    found = np.zeros((len(centre), 16 * len(COLUMNS)))
    for n, radius in enumerate(COLUMNS):
        for start in range(0, len(centre), _COLUMN_BLOCK):
            rows = slice(start, min(start + _COLUMN_BLOCK, len(centre)))
            found[rows, 16 * n : 16 * (n + 1)] = _column(tree, place, seen, centre[rows], radius)
    return found


def _column(
    tree: cKDTree,
    place: NDArray[np.float64],
    seen: NDArray[np.float64],
    centre: NDArray[np.float64],
    radius: float,
) -> NDArray[np.float64]:
    home, near = pairs_within(tree, centre[:, :2], radius)
    count = np.bincount(home, minlength=len(centre))
    total, rows = np.maximum(count, 1), len(centre)
    found = np.zeros((rows, 16))
    shelf = np.searchsorted(_SHELVES[1:-1], place[near, 3], side="right")
    found[:, :7] = np.bincount(home * 7 + shelf, minlength=rows * 7).reshape(rows, 7) / total[:, None]
    up = place[near, 2] - centre[home, 2]
    close = np.abs(up) < radius
    beside = np.bincount(home[close], minlength=rows)
    found[:, 7] = beside / total
    found[:, 8:13] = sum_by(home[close], seen[near[close]], rows) / np.maximum(beside, 1)[:, None]
    np.maximum.at(found[:, 13], home, place[near, 3])
    found[:, 14] = np.bincount(home[up > CELL], minlength=rows) / total
    found[:, 15] = count / radius**2
    return found


RELIEF = (0.7, 1.5)
"""Radii in metres around a superpoint in which parallel surface is looked for."""

_STEPS = (-0.3, -0.1, -0.04, -0.015, 0.015, 0.04, 0.1, 0.3)
"""Metres behind (below 0) or before the plane of a superpoint between which parallel surface is counted."""

_PARALLEL = 0.9
"""Cosine of two normals above which surfaces count as parallel."""

OPEN_CELL, OPEN_RADIUS = 0.5, 3.0
"""Edge in metres of the cells whose mean within this radius tells to which side of a surface the scene lies."""


def occupied(xyz: NDArray[np.float64]) -> NDArray[np.float64]:
    """(M, 3) mean position of the points of each cell of `OPEN_CELL`."""
    cell, count = group_voxels(voxel_coordinates(xyz, OPEN_CELL))
    return sum_by(cell, xyz, len(count)) / count[:, None]


def describe_relief(
    xyz: NDArray[np.float64],
    normal: NDArray[np.float64],
    of: NDArray[np.integer],
    size: NDArray[np.int64],
    inside: NDArray[np.int64],
    medoid: NDArray[np.int64],
    cells: NDArray[np.float64],
) -> NDArray[np.float64]:
    """(S, 28) how each superpoint lies to the parallel surface around it: a board is before its wall, a window in it, a
    column well before it.

    For two radii: the share of the parallel surface in each of nine steps from behind its plane to before it; the share
    of all surface that is parallel, that is well before it, and that is behind it. Then the three deviations of its
    points, the smallest first, and |z| of the normal of its plane. Before is the side to which the scene lies.

    xyz, normal: (N, 3); inside: (M,) rows of the points of superpoints `of` (M,), size (S,); medoid: (S,) rows; cells:
    `occupied` of the whole scene.
    """
    count = len(size)
    own = xyz[inside]
    centre = sum_by(of, own, count) / size[:, None]
    away = own - centre[of]
    spread = sum_by(of, (away[:, :, None] * away[:, None, :]).reshape(-1, 9), count) / size[:, None]
    square, axes = np.linalg.eigh(spread.reshape(-1, 3, 3))
    plane = axes[:, :, 0]
    a, b = pairs_within(cKDTree(cells), centre, OPEN_RADIUS)
    middle = sum_by(a, cells[b], count) / np.maximum(np.bincount(a, minlength=count), 1)[:, None]
    plane = plane * np.where(rowwise(middle - centre, plane) < 0, -1, 1)[:, None]
    cell, points = group_voxels(voxel_coordinates(xyz, CELL))
    place = sum_by(cell, xyz, len(points)) / points[:, None]
    # The normal of a cell is that of its first point.
    facing, tree = normal[np.unique(cell, return_index=True)[1]], cKDTree(place)
    found = []
    for radius in RELIEF:
        a, b = pairs_within(tree, xyz[medoid], radius)
        around = np.maximum(np.bincount(a, minlength=count), 1)
        step = rowwise(place[b] - centre[a], plane[a])
        parallel = np.abs(rowwise(facing[b], plane[a])) > _PARALLEL
        steps = len(_STEPS) + 1
        where = a[parallel] * steps + np.searchsorted(_STEPS, step[parallel])
        beside = np.bincount(a[parallel], minlength=count)
        found += [
            np.bincount(where, minlength=count * steps).reshape(count, steps) / np.maximum(beside, 1)[:, None],
            (beside / around)[:, None],
            (np.bincount(a, step > _STEPS[-1], minlength=count) / around)[:, None],
            (np.bincount(a, step < _STEPS[1], minlength=count) / around)[:, None],
        ]
    return np.column_stack([*found, np.sqrt(np.maximum(square, 0)), np.abs(plane[:, 2])])


def pairs_within(
    tree: cKDTree, centres: NDArray[np.float64], radius: float
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of `centres`, and with each of a point of the tree within `radius` of it; in no particular order."""
    # As an array: lists of numbers would take longer to make than the search.
    pairs = cKDTree(centres).sparse_distance_matrix(tree, radius, output_type="ndarray")
    return pairs["i"].astype(np.int64), pairs["j"].astype(np.int64)


def main_normals(of: NDArray[np.integer], normal: NDArray[np.float64], size: NDArray[np.int64]) -> NDArray[np.float64]:
    """(S, 3) the direction that the normals of each superpoint share, whatever their signs."""
    products = (normal[:, :, None] * normal[:, None, :]).reshape(-1, 9)
    spread = sum_by(of, products, len(size)) / size[:, None]
    main: NDArray[np.float64] = np.linalg.eigh(spread.reshape(-1, 3, 3))[1][:, :, 2]
    return main


def wall_axes(normal: NDArray[np.float64]) -> NDArray[np.float64]:
    """(2, 2) turn in plan after which most upright surfaces lie along x and y: their normals' mean direction, a right
    angle making no difference."""
    upright = normal[np.abs(normal[:, 2]) < 0.2]
    turn = float(np.angle(np.exp(4j * np.arctan2(upright[:, 1], upright[:, 0])).mean())) / 4 if len(upright) else 0.0
    return np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
