"""Divides the points of a scene into superpoints by graph segmentation (docs/method.md, "Superpoints")."""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hpal_cli import compiled
from hpal_cli.superpoints.surface import Surface, rowwise

EDGES = 8
"""Number of nearest points to which a point has an edge."""

PLANE = 15.0
"""Cost of an edge for each metre off the tangent plane; a right angle between normals costs 1."""

K = 0.35
"""A smaller K gives smaller superpoints. In rooms of 32,000 points, 0.35 gives about 750 superpoints, and 96 % of the
points have the majority class of their superpoint. 0.25 gives few more superpoints, since most of them then have no
more points than MIN_POINTS."""

MIN_POINTS = 8
"""Points of the smallest superpoint; only one without any neighbour can be smaller."""


def segment(xyz: NDArray[np.float64], color: NDArray[np.float64] | None, surface: Surface) -> NDArray[np.int32]:
    """(N,) superpoint of each point, 0 to S - 1, numbered in the order of their first points.

    Each point has an edge to its 8 nearest points. An edge costs

        (1 - |n_i n_j|) + |c_i - c_j| + 15 max(|n_i (x_j - x_i)|, |n_j (x_j - x_i)|)

    The last term separates a board, a window or a door from the wall that it is on. Edges are visited in the order of
    their costs. Two components are merged if the edge between them costs no more than, for each of the two, its
    costliest inner edge plus K / its points (Felzenszwalb and Huttenlocher, IJCV 2004). Then components of fewer than 8
    points are merged with the neighbour to which they have the cheapest edge.

    xyz: (N, 3) metres divided by the scale of the scene; color: (N, K) in [0, 1], smoothed, or None.
    """
    pairs = _edges(surface.near)
    cost = 1 - angle_cosine(surface.normal, *pairs.T) + PLANE * off_plane(xyz, surface.normal, *pairs.T)
    if color is not None:
        cost += color_step(color, *pairs.T)
    order = np.argsort(cost, kind="stable")
    roots = components(len(xyz), pairs[order], cost[order], K, MIN_POINTS)
    _, first, inverse = np.unique(roots, return_index=True, return_inverse=True)
    rank = np.empty(len(first), np.int32)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[inverse.reshape(-1)]


def angle_cosine(normal: NDArray[np.float64], i: NDArray[np.integer], j: NDArray[np.integer]) -> NDArray[np.float64]:
    """(E,) |n_i n_j|, at most 1, of the normals (N, 3) of E pairs of points."""
    return np.minimum(np.abs(rowwise(normal[i], normal[j])), 1)


def color_step(color: NDArray[np.float64], i: NDArray[np.integer], j: NDArray[np.integer]) -> NDArray[np.float64]:
    """(E,) the Euclidean distances |c_i - c_j| of the colours (N, K) of E pairs of points."""
    step = color[i] - color[j]
    return np.sqrt(rowwise(step, step))


def off_plane(
    xyz: NDArray[np.float64], normal: NDArray[np.float64], i: NDArray[np.integer], j: NDArray[np.integer]
) -> NDArray[np.float64]:
    """(E,) the larger of the two distances of E pairs of points from each other's tangent planes. It is large at a step
    between parallel surfaces, and small on a smooth surface."""
    away = xyz[j] - xyz[i]
    return np.maximum(np.abs(rowwise(away, normal[i])), np.abs(rowwise(away, normal[j])))


def _edges(near: NDArray[np.int64]) -> NDArray[np.int32]:
    """(E, 2) each pair of neighbours once, i < j."""
    few = near[:, 1 : EDGES + 1].astype(np.int32)
    i = np.repeat(np.arange(len(few), dtype=np.int32), few.shape[1])
    j = few.reshape(-1)
    # If each of two points is among the nearest of the other, the pair is kept once, in ascending order.
    mutual = (few[j] == i[:, None]).any(axis=1)
    keep = (i < j) | ((i > j) & ~mutual)
    i, j = i[keep], j[keep]
    return np.column_stack([np.minimum(i, j), np.maximum(i, j)])


def components(
    points: int, pairs: NDArray[np.int32], cost: NDArray[np.float64], k: float, least: int
) -> NDArray[np.int32]:
    """(points,) the root of the component of each point. pairs: (E, 2) in the order of their costs (E,); k: as `K`;
    least: as `MIN_POINTS`."""
    library = _library()
    if isinstance(library, str):
        return _components(points, pairs, cost, k, least)
    pairs, cost = np.ascontiguousarray(pairs), np.ascontiguousarray(cost)
    parent, size, limit = np.empty(points, np.int32), np.empty(points, np.int32), np.empty(points)
    library.hpal_segment(
        points, len(pairs), pairs.ctypes.data, cost.ctypes.data, k, least,
        parent.ctypes.data, size.ctypes.data, limit.ctypes.data,
    )  # fmt: skip
    return parent


def _components(
    points: int, pairs: NDArray[np.int32], cost: NDArray[np.float64], k: float, least: int
) -> NDArray[np.int32]:
    """The same result as `hpal_segment` of segmentation.c, some fifty times slower."""
    parent, size, limit = list(range(points)), [1] * points, [k] * points

    def root(a: int) -> int:
        while parent[a] != a:
            parent[a] = parent[parent[a]]
            a = parent[a]
        return a

    for first in (True, False):
        for (i, j), edge_cost in zip(pairs.tolist(), cost.tolist(), strict=True):
            a, b = root(i), root(j)
            if a == b:
                continue
            join = edge_cost <= min(limit[a], limit[b]) if first else min(size[a], size[b]) < least
            if not join:
                continue
            if size[a] < size[b]:
                a, b = b, a
            parent[b] = a
            size[a] += size[b]
            limit[a] = edge_cost + k / size[a]
    return np.array([root(n) for n in range(points)], np.int32)


def missing() -> str | None:
    """Why the compiled components cannot be used here, None if they can."""
    return compiled.reason(_library())


@compiled.library_or_reason
def _library() -> ctypes.CDLL:
    pointer, long = ctypes.c_void_p, ctypes.c_int64
    library = compiled.load(Path(__file__).with_name("segmentation.c"))
    library.hpal_segment.argtypes = [
        *(long, long, pointer, pointer, ctypes.c_double, long),
        *(pointer, pointer, pointer),
    ]
    library.hpal_segment.restype = None
    return library
