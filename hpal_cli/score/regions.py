"""Regions of a scene: how points are grouped, and what the region strategies (ReDAL, SSDR-AL) keep of each group."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import connected_components, dijkstra
from scipy.spatial import cKDTree

from hpal_cli.voxels import group_voxels, voxel_coordinates

BLOCK = 1 << 14
"""Points whose neighbours are held at a time."""

COLOR_WEIGHT = 0.5
SPATIAL_WEIGHT = 0.5

GEOMETRY_NEIGHBOURS = 45

LEAST = 5
"""Points of the smallest superpoint."""


@dataclass(frozen=True, eq=False)
class Regions:
    """The R regions of one scene of N points, without anything of the size N x features.

    of: (N,) int32 region of each point; points: (R,) int64 its points; unanswered: (R,) int64 those without an answer;
    value: (R,) float64 what its label is worth before scenes are compared; feature: (R, F) float32.
    """

    of: NDArray[np.int32]
    points: NDArray[np.int64]
    unanswered: NDArray[np.int64]
    value: NDArray[np.float64]
    feature: NDArray[np.float32]

    @property
    def open(self) -> NDArray[np.bool_]:
        """(R,) regions with something left to ask; the others are never ranked."""
        return self.unanswered > 0


def supervoxels(
    xyz: NDArray[np.floating], rgb: NDArray[np.uint8] | None, *, voxel: float = 0.1, seed: float = 1.0
) -> NDArray[np.int32]:
    """(N,) region of each point, 0 to R - 1: a stand-in for VCCS (Papon et al., CVPR 2013).

    Occupied voxels with their 26 neighbours form a graph. One voxel of each occupied seed cell, the one nearest to the
    cell's centre, is a seed. Every voxel goes to the seed with the cheapest path to it, where a step costs
    `0.5 |x_i - x_j| / seed + 0.5 |rgb_i - rgb_j|` (means of the voxels, colour in [0, 1]). So a region is connected.
    VCCS adds up the same two terms, but compares with the centre of the supervoxel, not along a path. A connected part
    without a seed is a region. The partition does not depend on the order of the points.

    xyz: (N, 3) metres; rgb: (N, 3) or None; voxel, seed: edges in metres. Where points are sparse the voxel grows to
    twice the median distance to the nearest point, but not beyond `seed`: below that, neighbours on a surface are in
    voxels that do not touch.
    """
    order = _canonical(xyz, rgb)
    points = np.asarray(xyz, np.float64)[order]
    look = np.zeros((len(order), 0)) if rgb is None else COLOR_WEIGHT / 255 * rgb[order].astype(np.float64)
    of = np.zeros(len(order), np.int32)
    of[order] = _grow(points, look, voxel, seed, least=1)
    return of


def superpoints(
    xyz: NDArray[np.floating],
    rgb: NDArray[np.uint8] | None,
    *,
    voxel: float = 0.05,
    seed: float = 0.4,
    least: int = LEAST,
) -> NDArray[np.int32]:
    """(N,) region of each point, 0 to R - 1: a stand-in for the superpoints of SSDR-AL.

    These come from l0 cut-pursuit (Landrieu and Obozinski 2017), for which no kept library for Python exists. What
    is kept of it is what it looks at: linearity, planarity, scattering and verticality (doubled) of the 45 nearest
    neighbours, and rgb. They take the place of the colour in the path cost of `supervoxels`, on finer voxels and seeds,
    so borders lie where shape or colour change. Other than cut-pursuit's, superpoints do not grow on even surfaces:
    the seeds bound their size. One of fewer than `least` points joins the neighbour with the cheapest step to it, if
    it has any.

    Arguments as in `supervoxels`.
    """
    order = _canonical(xyz, rgb)
    points = np.asarray(xyz, np.float64)[order]
    look = geometry(points)
    if rgb is not None:
        look = np.hstack([look, rgb[order] / 255])
    of = np.zeros(len(order), np.int32)
    of[order] = _grow(points, look, voxel, seed, least)
    return of


def geometry(xyz: NDArray[np.floating], count: int = GEOMETRY_NEIGHBOURS) -> NDArray[np.float64]:
    """(N, 4) linearity, planarity, scattering and twice the verticality of each point's neighbours.

    With the deviations s1 >= s2 >= s3 along the principal axes: (s1 - s2) / s1, (s2 - s3) / s1, s3 / s1 (Demantke et
    al. 2011), and 1 - |n_z| of the normal n, which is 0 on a floor and 1 on a wall. Zeros where neighbours coincide.
    """
    points = np.asarray(xyz, np.float64)
    found = np.zeros((len(xyz), 4))
    for rows, near in neighbours(points, count):
        square, axes = np.linalg.eigh(covariance(points[near]))
        s3, s2, s1 = np.sqrt(np.maximum(square, 0)).T
        flat = np.column_stack([s1 - s2, s2 - s3, s3, 2 * s1 * (1 - np.abs(axes[:, 2, 0]))])
        np.divide(flat, s1[:, None], out=found[rows], where=s1[:, None] > 0)
    return found


def neighbours(xyz: NDArray[np.floating], count: int) -> Iterator[tuple[slice, NDArray[np.int64]]]:
    """The `count` nearest other points of each of N points, or all N - 1 if there are fewer, by blocks of rows.

    Yields rows, and (len(rows), count) row numbers. A point without any other has no block.
    """
    count = min(count, len(xyz) - 1)
    if count < 1:
        return
    tree = cKDTree(xyz)
    for start in range(0, len(xyz), BLOCK):
        rows = slice(start, min(start + BLOCK, len(xyz)))
        near = tree.query(xyz[rows], count + 1)[1]
        other = near != np.arange(rows.start, rows.stop)[:, None]
        # Among enough coincident points a point need not be on its own list: then the last one goes.
        other[other.all(axis=1), -1] = False
        yield rows, near[other].reshape(-1, count)


def covariance(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """(B, 3, 3) of B sets of K points (B, K, 3)."""
    # Counted from the first one, coincident points give exact zeros, not rounding that looks like a shape.
    away = points - points[:, :1]
    away -= away.mean(axis=1, keepdims=True)
    return away.transpose(0, 2, 1) @ away / points.shape[1]


def sums(of: NDArray[np.integer], count: int, columns: NDArray[np.floating]) -> NDArray[np.float64]:
    """(count, F) sums over the points of each region; columns: (N, F). A point of region -1 belongs to none."""
    total = np.zeros((count, columns.shape[1]))
    for start in range(0, len(of), 4 * BLOCK):
        home = of[start : start + 4 * BLOCK]
        inside = np.flatnonzero(home >= 0)
        member = csr_array((np.ones(len(inside)), (home[inside], inside)), shape=(count, len(home)))
        total += member @ columns[start : start + 4 * BLOCK].astype(np.float64)
    return total


def answered_mask(points: int, labelled: NDArray[np.integer]) -> NDArray[np.bool_]:
    """(points,) whether a point is among the rows `labelled`."""
    mask = np.zeros(points, bool)
    mask[labelled] = True
    return mask


def in_order(scenes: Sequence[Regions], order: NDArray[np.integer]) -> list[NDArray[np.float64]]:
    """A score for every region of every scene: 1 for the first of `order`, falling by 1 / len(order); 0 for the rest.

    order: (K,) places of regions in the list of all scenes' regions one after the other.

    Ranks and not values: a stream's score is a float32, in which values that are near each other become equal and the
    points of their regions mix. Ranks of up to 2^23 regions stay apart.
    """
    flat = np.zeros(sum(len(s.points) for s in scenes))
    flat[order] = 1 - np.arange(len(order)) / max(1, len(order))
    return split(scenes, flat)


def split(scenes: Sequence[Regions], flat: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """Values of all scenes' regions one after the other, by scene."""
    return np.split(flat, np.cumsum([len(s.points) for s in scenes])[:-1]) if scenes else []


def _canonical(xyz: NDArray[np.floating], rgb: NDArray[np.uint8] | None) -> NDArray[np.int64]:
    """An order of the points that does not depend on the one they came in."""
    colors = () if rgb is None else tuple(rgb.T)
    return np.lexsort((*colors, xyz[:, 2], xyz[:, 1], xyz[:, 0]))


def _grow(
    xyz: NDArray[np.float64], look: NDArray[np.float64], voxel: float, seed: float, least: int
) -> NDArray[np.integer]:
    """(N,) regions of points in canonical order; look: (N, K) what a path's cost adds up besides its length."""
    if not len(xyz):
        return np.zeros(0, np.int32)
    voxel = max(voxel, min(2 * _spacing(xyz), seed))
    grid = voxel_coordinates(xyz, voxel)
    inverse, count = group_voxels(grid)
    cells = np.zeros((len(count), 3), np.int64)
    cells[inverse] = grid
    middle = sums(inverse, len(count), xyz) / count[:, None]
    mean_look = sums(inverse, len(count), look) / count[:, None]

    # A Chebyshev distance of 1 between cells is the 26-neighbourhood; 1.5 is out of reach of rounding.
    edges = cKDTree(cells - cells.min(axis=0)).query_pairs(1.5, p=np.inf, output_type="ndarray")
    a, b = edges.T
    cost = SPATIAL_WEIGHT / seed * np.linalg.norm(middle[a] - middle[b], axis=1)
    cost += np.linalg.norm(mean_look[a] - mean_look[b], axis=1)
    graph = coo_array((np.tile(cost, 2), (np.append(a, b), np.append(b, a))), shape=2 * (len(count),)).tocsr()
    *_, source = dijkstra(graph, indices=_seeds(middle, seed), min_only=True, return_predecessors=True)
    part = connected_components(graph, directed=False)[1]
    region = np.unique(np.where(source >= 0, source, len(count) + part), return_inverse=True)[1]
    return _absorb(region, count, edges, cost, least)[inverse]


def _spacing(xyz: NDArray[np.float64]) -> float:
    """The median distance of a point to its nearest neighbour."""
    return float(np.median(cKDTree(xyz).query(xyz, 2)[0][:, 1])) if len(xyz) > 1 else 0.0


def _seeds(xyz: NDArray[np.float64], edge: float) -> NDArray[np.int64]:
    """For each occupied cell of this edge, the row nearest to its centre; on a tie the lower row."""
    cell = voxel_coordinates(xyz, edge)
    home, count = group_voxels(cell)
    order = np.lexsort((np.linalg.norm(xyz - (cell + 0.5) * edge, axis=1), home))
    return order[np.cumsum(count) - count]


def _absorb(
    region: NDArray[np.integer],
    points: NDArray[np.int64],
    edges: NDArray[np.integer],
    cost: NDArray[np.float64],
    least: int,
) -> NDArray[np.integer]:
    """(M,) regions of M voxels after each of fewer than `least` points has joined its cheapest neighbour.

    points: (M,) points of the voxels; edges, cost: (E, 2), (E,) steps between voxels.
    """
    while True:
        size = np.bincount(region, weights=points)
        ends = region[np.vstack([edges, edges[:, ::-1]])]
        leaving = (ends[:, 0] != ends[:, 1]) & (size[ends[:, 0]] < least)
        if not leaving.any():
            return region
        small, other = ends[leaving].T
        order = np.lexsort((other, np.tile(cost, 2)[leaving], small))
        first = order[np.unique(small[order], return_index=True)[1]]
        link = coo_array((np.ones(len(first)), (small[first], other[first])), shape=2 * (len(size),))
        region = connected_components(link, directed=False)[1][region]
