"""HMMU as the code released with the paper computes it: voxels of voxels (`--hierarchy nested`).

The voxels of level i group the barycentres of level i-1; level 0 are the points. Each barycentre belongs to the nearest
barycentre of the next level, which need not be the one of its own cell. The distribution of a voxel is the unweighted
mean of the distributions that belong to it. The U^i of a point is that of the voxel to which it belongs at level i.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from hpal_cli.score.pointwise import Scores, margin
from hpal_cli.superpoints.surface import sum_by
from hpal_cli.voxels import group_voxels, voxel_coordinates


def nested_margins(
    prob: NDArray[np.floating], xyz: NDArray[np.floating], edges: Sequence[float], threads: int
) -> Iterator[tuple[Scores, int]]:
    """For each edge in turn, U^i (N,) and the number of voxels. prob: (N, C); xyz: (N, 3) in the unit of the edges."""
    mean, place = prob.astype(np.float64), np.asarray(xyz, np.float64)
    voxel_of_point = np.arange(len(prob))
    for edge in edges:
        inverse, count = group_voxels(voxel_coordinates(place, edge))
        barycentre = sum_by(inverse, place, len(count)) / count[:, None]
        nearest = _nearest(barycentre, place, threads)
        # A barycentre that is the nearest of none has no distribution, and is left out at the next level.
        real = ~np.isnan(mean[:, 0])
        members = np.bincount(nearest[real], minlength=len(count))[:, None]
        sums = sum_by(nearest[real], mean[real], len(count))
        mean = np.divide(sums, members, out=np.full(sums.shape, np.nan), where=members > 0)
        place, voxel_of_point = barycentre, nearest[voxel_of_point]
        yield margin(mean)[voxel_of_point], len(count)


def _nearest(centres: NDArray[np.float64], points: NDArray[np.float64], threads: int) -> NDArray[np.int64]:
    """(K,) the row of the centre that is nearest to each point; of several that are equally near, the first."""
    from scipy.spatial import cKDTree

    if not len(points):
        return np.zeros(0, np.int64)
    tree = cKDTree(centres)
    distance, found = tree.query(points, k=min(2, len(centres)), workers=threads)
    if len(centres) == 1:
        return np.zeros(len(points), np.int64)
    tied = np.flatnonzero(distance[:, 0] == distance[:, 1])
    nearest = found[:, 0].astype(np.int64)
    for row in tied:
        # Which of several equally near centres the tree returns is not defined.
        around = np.array(tree.query_ball_point(points[row], distance[row, 0] * (1 + 1e-9)))
        apart = ((centres[around] - points[row]) ** 2).sum(axis=1)
        nearest[row] = around[apart == apart.min()].min()
    return nearest
