"""Draws points as discs on a raster and closes the gaps between them, so that a surface looks closed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

NO_POINT = -1
"""Value of a pixel that shows no point."""

DISC = 0.6
"""Radius of a point's disc, as a multiple of the distance between points: on an even surface the discs just meet."""

MAX_GAP = 2.0
"""Widest gap that is closed, as a multiple of the distance between points. On a grid, points of neighbouring cells lie
up to two edges apart, and here and there a cell is empty."""

MAX_DEPTH_STEP = 2.4
"""A point that lies this multiple of the distance between points behind its surroundings is not part of their surface:
it is seen through a gap in it."""


MAX_POINTS_ALONG = 800
"""The distance between points is taken to be at least the longer side of the scene divided by this number."""


def splats(
    row: NDArray[np.floating],
    column: NDArray[np.floating],
    depth: NDArray[np.floating],
    *,
    shape: tuple[int, int],
    pixel: float,
    step: float,
    kept: int = NO_POINT,
) -> NDArray[np.int64]:
    """An array of `shape`: the number of the point that each pixel shows, or `NO_POINT`.

    row, column: (N,) places in pixels; depth: (N,) larger is nearer; pixel: edge of a pixel, and step: distance between
    neighbouring points, both in the unit of `depth`; kept: a point that is never covered as part of a gap, however deep
    it lies between others.
    Pixels in gaps up to `MAX_GAP` wide get the point of the nearest pixel outside of the gap. Gaps are found by a
    closing of the depths, so that outlines, wires and legs stay as thin as their discs.
    """
    order = np.argsort(depth, kind="stable")
    at = np.floor(np.stack([row[order], column[order]])).astype(np.int64)
    owner = _painted(order, at, round(DISC * step / pixel), shape)
    gap = round(MAX_GAP * step / pixel)
    if gap < 1 or not len(depth):
        return owner
    from scipy.ndimage import distance_transform_edt, grey_closing

    behind = np.append(depth, -np.inf).astype(np.float64)[owner]
    hole = grey_closing(behind, size=gap + 1) > behind + MAX_DEPTH_STEP * step
    if kept != NO_POINT:
        hole &= owner != kept
    if hole.any():
        nearest = distance_transform_edt(hole, return_distances=False, return_indices=True)
        owner = owner[tuple(nearest)]
    return owner


def spacing(xy: NDArray[np.float64], span: float) -> float:
    """Distance between neighbouring points on the ground, from their positions xy (N, 2): the edge of the smallest
    cells of which few between others are empty. span: longer side of the scene, in the same unit."""
    low = xy.min(axis=0)
    edge, coarsest = span / MAX_POINTS_ALONG, span / 40
    if not (xy > low).any():
        return edge

    def covered(edge: float) -> float:
        columns = int(span / edge) + 2
        column, row = ((xy - low) / edge).astype(int).T
        has = np.zeros(columns * columns, bool)
        has[row * columns + column] = True
        return float(has.sum()) * edge * edge

    # If points lie farther apart than the edge, cells of twice the edge cover more ground.
    while edge < coarsest and covered(edge) < 0.8 * covered(2 * edge):
        edge *= 1.2
    return edge


def eye_dome(depth: NDArray[np.float64], half: float) -> NDArray[np.float64]:
    """(H, W) factors for the colours: 1 on even ground, less where neighbouring pixels are nearer to the camera
    (eye-dome lighting, Boucheny 2009), so that shapes are seen even without colours. depth: (H, W) larger is nearer;
    half: half of the extent that the picture shows, in the unit of `depth`."""
    shade, nearer = np.zeros_like(depth), np.empty_like(depth)
    for reach, weight in ((1, 1.0), (3, 0.6)):
        padded = np.pad(depth, reach, mode="edge")
        height, width = depth.shape
        for y, x in ((0, 1), (0, -1), (1, 0), (-1, 0), (1, 1), (-1, -1), (1, -1), (-1, 1)):
            start = (reach + y * reach, reach + x * reach)
            other = padded[start[0] : start[0] + height, start[1] : start[1] + width]
            # In place: new arrays of this size would take longer than the arithmetic.
            np.subtract(other, depth, out=nearer)
            nearer /= half
            nearer -= 0.02
            np.clip(nearer, 0, 0.25, out=nearer)
            nearer *= weight
            shade += nearer
    return np.maximum(np.exp(-1.1 * shade), 0.45)


def _painted(points: NDArray[np.int64], at: NDArray[np.int64], size: int, shape: tuple[int, int]) -> NDArray[np.int64]:
    """An array of `shape`: the point whose disc each pixel shows, or `NO_POINT`. points: (N,) numbers, the nearest
    last; at: (2, N) their rows and columns; size: radius of their discs in pixels."""
    # The discs are drawn on a larger image, whose rim, wide enough for a disc, is cut off at the end.
    height, width = shape
    rim = 2 * size + 1
    wide = width + 2 * rim
    inside = (at >= -size).all(axis=0) & (at[0] < height + size) & (at[1] < width + size)
    points, middle = points[inside], (at[0, inside] + rim) * wide + at[1, inside] + rim
    # If several points are written to a pixel, the last one stays, and only its disc is drawn.
    owner = np.full((height + 2 * rim) * wide, NO_POINT, np.int64)
    owner[middle] = np.arange(len(middle))
    seen = np.sort(owner[owner != NO_POINT])
    y, x = np.mgrid[-size : size + 1, -size : size + 1]
    disc = (y * wide + x)[y**2 + x**2 <= size * (size + 0.5)]
    owner[(middle[seen, None] + disc).reshape(-1)] = np.repeat(seen, len(disc))
    return np.append(points, NO_POINT)[owner.reshape(-1, wide)[rim : rim + height, rim : rim + width]]
