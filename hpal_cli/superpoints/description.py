"""Describes superpoints by their shape, position, colour and surroundings. Labels are not used.

All lengths are in metres divided by the scale of the scene (`build.scale_of`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hpal_cli.superpoints.around import column_totals, relief_totals, without_gaps
from hpal_cli.superpoints.graph import Graph
from hpal_cli.superpoints.surface import Surface, blocks, nearest, pairs_within, principal_axes, rowwise, sum_by
from hpal_cli.voxels import first_of_each, group_voxels, voxel_coordinates

COARSE, COARSE_NEIGHBOURS = 0.08, 32
"""The coarse shape around a point: points are thinned to cells of the edge COARSE, in metres, and the COARSE_NEIGHBOURS
nearest of those that are left give the shape."""

CELL = 0.1
"""Edge in metres of the cells that are counted in the columns about a superpoint."""

COLUMNS = (0.4, 1.0)
"""Radii in metres of the two vertical columns about a superpoint."""

HALO = 1.6
"""Metres around a tile within which points are needed to describe the superpoints in it."""

_HEIGHTS = (0.1, 0.5, 0.8, 1.2, 1.8, 2.3)
"""Bounds, in metres above the ground, between the seven ranges of height in which a column's cells are counted."""


@dataclass(frozen=True, eq=False)
class Frame:
    """The properties of a scene that its superpoints are compared with.

    axes: (2, 2) rotation in the horizontal plane after which most walls are parallel to x or y; color: (4,) mean of
    `color_features`; low, high: (2,) bounds of the rotated scene in x and y, and top its height, all only for rooms.
    """

    axes: NDArray[np.float64]
    color: NDArray[np.float64]
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
    """The frame of a scene. xyz, color: (N, 3); ground: (N,) height of the ground below each point; normal: (M, 3)
    normals from which the axes are computed; indoor: whether the scene is a room."""
    axes = wall_axes(normal)
    seen = color_features(color, len(xyz)).mean(axis=0)
    if not indoor:
        return Frame(axes, seen)
    low, high = np.percentile(xyz[:, :2] @ axes, [0.5, 99.5], axis=0)
    return Frame(axes, seen, low, high, float(np.percentile(xyz[:, 2] - ground, 99.5)))


GROUND_CELL, GROUND_WINDOW = 0.5, 17
"""Edge in metres of the horizontal cells with which the ground is found, and the width in cells of the opening."""


def ground_height(xyz: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N,) the height of the ground below each point: the lowest heights of horizontal cells after a morphological
    opening (erosion, then dilation), which removes what stands on the ground and follows a slope.

    xyz: (N, 3).
    """
    from scipy.ndimage import maximum_filter, minimum_filter

    cell = np.column_stack(
        [without_gaps(one, 2 * GROUND_WINDOW) for one in voxel_coordinates(xyz[:, :2], GROUND_CELL).T]
    )
    shape = cell.max(axis=0) + 1
    key = cell[:, 0] * shape[1] + cell[:, 1]
    # Sorted by cell, then height. The lowest twentieth of a cell's points is skipped, as it may be noise.
    order = np.lexsort((xyz[:, 2], key))
    start = np.flatnonzero(np.r_[True, np.diff(key[order]) != 0])
    count = np.diff(np.append(start, len(key)))
    lowest = np.full(int(shape.prod()), np.inf)
    lowest[key[order][start]] = xyz[order[start + count // 20], 2]
    eroded = minimum_filter(lowest.reshape(shape), GROUND_WINDOW, mode="nearest")
    # A cell without a point in the window is infinite after the erosion, and must not raise others in the dilation.
    opened = maximum_filter(np.where(np.isfinite(eroded), eroded, -np.inf), GROUND_WINDOW, mode="nearest")
    found: NDArray[np.float64] = opened.reshape(-1)[key]
    return found


def color_features(color: NDArray[np.float64] | None, count: int) -> NDArray[np.float64]:
    """(N, 4) brightness, red minus green, yellow minus blue, and saturation; zeros if there is no colour."""
    if color is None:
        return np.zeros((count, 4))
    red, green, blue = color.T
    # Column by column, since NumPy is slow at adding up or comparing three numbers at a time.
    most, least = np.maximum(np.maximum(red, green), blue), np.minimum(np.minimum(red, green), blue)
    return np.column_stack([(red + green + blue) / 3, red - green, (red + green) / 2 - blue, most - least])


def point_columns(
    xyz: NDArray[np.float64], color: NDArray[np.float64] | None, surface: Surface, threads: int
) -> NDArray[np.float64]:
    """(N, 13) properties of each point: |n_z|, surface variation, the four of `color_features`, the standard deviation
    of the brightness around it, and the distance of its last neighbour; then, of the coarse shape around it, linearity,
    planarity, scattering, |z| of the normal, and |z| of the main direction.
    xyz: (N, 3); color: (N, 3) in [0, 1] or None; surface: of the N points.
    """
    seen = color_features(color, len(xyz))
    texture = np.empty(len(xyz))
    for rows in blocks(len(xyz)):
        texture[rows] = seen[surface.near[rows], 0].std(axis=1)
    cell, count = group_voxels(voxel_coordinates(xyz, COARSE))
    thin = np.sort(first_of_each(cell, len(count)))
    _, near = nearest(xyz[thin], xyz[thin], COARSE_NEIGHBOURS, threads)
    square, axes = principal_axes(xyz[thin], near)
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
    # A point has the coarse shape of the first point of its cell.
    home = np.empty(cell.max() + 1, np.int64)
    home[cell[thin]] = np.arange(len(thin))
    return np.column_stack(
        [
            np.abs(surface.normal[:, 2]),
            surface.surface_variation,
            seen,
            texture,
            surface.distance[:, -1],
            coarse[home[cell]],
        ]
    )


def describe_own(
    superpoint: NDArray[np.integer],
    size: NDArray[np.int64],
    xyz: NDArray[np.float64],
    columns: NDArray[np.float64],
    ground: NDArray[np.float64],
    frame: Frame,
) -> NDArray[np.float64]:
    """(S, 34), or (S, 39) in a room: the properties of each superpoint that follow from its own points.

    superpoint: (N,) superpoint of each point; size: (S,) points of each; xyz: (N, 3); columns: (N, 13) of
    `point_columns`; ground: (N,).
    """
    count = len(size)
    mean = sum_by(superpoint, columns, count) / size[:, None]
    square = sum_by(superpoint, columns[:, :8] ** 2, count) / size[:, None]
    deviation = np.sqrt(np.maximum(square - mean[:, :8] ** 2, 0))
    turned = np.column_stack([xyz[:, :2] @ frame.axes, xyz[:, 2] - ground])
    low, high = np.full((count, 3), np.inf), np.full((count, 3), -np.inf)
    np.minimum.at(low, superpoint, turned)
    np.maximum.at(high, superpoint, turned)
    middle = sum_by(superpoint, turned, count) / size[:, None]
    extent = high - low
    plan = np.sort(extent[:, :2], axis=1)
    # The density of the points in the bounding box, seen from above and from the side; 1 is about that of a plane on a
    # grid of 4 cm.
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
        mean[:, 2:6] - frame.color,
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
"""Columns of `describe_own` that are averaged over touching superpoints: shape, colour, heights, extents and size."""

_HEIGHT, _POINTS = 23, 27
"""Columns of `describe_own`: the mean height above the ground, and the logarithm of the number of points."""


def describe_around(own: NDArray[np.float64], size: NDArray[np.int64], graph: Graph) -> NDArray[np.float64]:
    """(S, 57) properties of the superpoints that touch each superpoint: the 14 `CORE` columns, averaged over all of
    them, over those that are higher and over those that are lower, then the `CORE` columns of the largest (its own if
    none touches), and the number of them.
    own: (S, 34 or 39) of `describe_own`; size: (S,) points of each.
    """
    from scipy.sparse import csr_array

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


def describe_columns(
    xyz: NDArray[np.float64], height: NDArray[np.float64], columns: NDArray[np.float64], centre: NDArray[np.float64]
) -> NDArray[np.float64]:
    """(S, 32) the occupied cells in the columns of 0.4 m and of 1 m about each centre. For each column: the share of
    its cells in each of seven ranges of height, the share close to the centre in height, five mean properties of those
    (normal and colour), the height of the highest cell, the share above the centre, and the cells per square metre.

    xyz: (N, 3); height: (N,) above the ground; columns: (N, 13) of `point_columns`; centre: (S, 4) x, y, z and height
    above the ground.
    """
    cell, count = group_voxels(voxel_coordinates(xyz, CELL))
    place = sum_by(cell, np.column_stack([xyz, height]), len(count)) / count[:, None]
    seen = sum_by(cell, columns[:, [0, 2, 3, 4, 6]], len(count)) / count[:, None]
    found = []
    for radius in COLUMNS:
        total = column_totals(place, seen, centre, radius, _HEIGHTS, CELL)
        cells, beside = np.maximum(total[:, 15:], 1), np.maximum(total[:, 7:8], 1)
        found += [
            total[:, :8] / cells,
            total[:, 8:13] / beside,
            total[:, 13:14],
            total[:, 14:15] / cells,
            total[:, 15:] / radius**2,
        ]
    return np.column_stack(found)


RELIEF = (0.7, 1.5)
"""Radii in metres around a superpoint within which parallel surfaces are searched."""

_STEPS = (-0.3, -0.1, -0.04, -0.015, 0.015, 0.04, 0.1, 0.3)
"""Bounds, in metres behind (negative) or in front of the plane of a superpoint, of the nine ranges in which parallel
surfaces are counted."""

_PARALLEL = 0.9
"""Cosine of two normals above which surfaces count as parallel."""

OPEN_CELL, OPEN_RADIUS = 0.5, 3.0
"""The front of a surface is the side of the mean of the occupied cells around it; edge of these cells and radius, in
metres."""


def occupied(xyz: NDArray[np.float64]) -> NDArray[np.float64]:
    """(M, 3) the mean position of the points in each occupied cell of the edge `OPEN_CELL`."""
    cell, count = group_voxels(voxel_coordinates(xyz, OPEN_CELL))
    return sum_by(cell, xyz, len(count)) / count[:, None]


def describe_relief(
    xyz: NDArray[np.float64],
    normal: NDArray[np.float64],
    superpoint: NDArray[np.integer],
    size: NDArray[np.int64],
    inside: NDArray[np.int64],
    medoid: NDArray[np.int64],
    cells: NDArray[np.float64],
) -> NDArray[np.float64]:
    """(S, 28) the position of each superpoint relative to the parallel surfaces around it. It separates a board, which
    is slightly in front of its wall, from a window, which is in it, and a column, which is far in front of it.

    For each of two radii: the share of the parallel surfaces in each of nine ranges from behind the superpoint's plane
    to in front of it; then the share of all surfaces that are parallel, that are well in front, and that are behind.
    After both: the standard deviations of the superpoint's points along their three principal axes, the smallest first,
    and |z| of the normal of its plane. The front is the side on which the rest of the scene is.

    xyz, normal: (N, 3); superpoint: (M,) superpoint of each of the points `inside` (M,); size: (S,) points of each;
    medoid: (S,) rows; cells: `occupied` of the whole scene.
    """
    from scipy.spatial import cKDTree

    count = len(size)
    own = xyz[inside]
    centre = sum_by(superpoint, own, count) / size[:, None]
    away = own - centre[superpoint]
    spread = sum_by(superpoint, (away[:, :, None] * away[:, None, :]).reshape(-1, 9), count) / size[:, None]
    square, axes = np.linalg.eigh(spread.reshape(-1, 3, 3))
    plane = axes[:, :, 0]
    a, b = pairs_within(cKDTree(cells), centre, OPEN_RADIUS)
    middle = sum_by(a, cells[b], count) / np.maximum(np.bincount(a, minlength=count), 1)[:, None]
    plane = plane * np.where(rowwise(middle - centre, plane) < 0, -1, 1)[:, None]
    cell, points = group_voxels(voxel_coordinates(xyz, CELL))
    place = sum_by(cell, xyz, len(points)) / points[:, None]
    # The normal of a cell is that of its first point.
    facing = normal[first_of_each(cell, len(points))]
    found = []
    for radius in RELIEF:
        total = relief_totals(place, facing, xyz[medoid], centre, plane, radius, _STEPS, _PARALLEL)
        beside = total[:, :9].sum(axis=1, keepdims=True)
        around = np.maximum(total[:, 9:10], 1)
        found += [total[:, :9] / np.maximum(beside, 1), beside / around, total[:, 10:] / around]
    return np.column_stack([*found, np.sqrt(np.maximum(square, 0)), np.abs(plane[:, 2])])


def main_normals(
    superpoint: NDArray[np.integer], normal: NDArray[np.float64], size: NDArray[np.int64]
) -> NDArray[np.float64]:
    """(S, 3) the main direction of the normals (N, 3) of each superpoint, whatever their signs."""
    products = (normal[:, :, None] * normal[:, None, :]).reshape(-1, 9)
    spread = sum_by(superpoint, products, len(size)) / size[:, None]
    main: NDArray[np.float64] = np.linalg.eigh(spread.reshape(-1, 3, 3))[1][:, :, 2]
    return main


def wall_axes(normal: NDArray[np.float64]) -> NDArray[np.float64]:
    """(2, 2) the rotation in the horizontal plane after which most vertical surfaces are parallel to x or y. It is the
    mean direction of their normals modulo a right angle; normal: (M, 3)."""
    upright = normal[np.abs(normal[:, 2]) < 0.2]
    turn = float(np.angle(np.exp(4j * np.arctan2(upright[:, 1], upright[:, 0])).mean())) / 4 if len(upright) else 0.0
    return np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
