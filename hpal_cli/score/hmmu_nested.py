"""HMMU as the code released with the paper computes it: voxels of voxels (`--hierarchy nested`).

Level i's voxels come from the barycentres of level i-1 (level 0: the points). A barycentre belongs to the nearest one
of the next level, which need not be that of its cell; the distribution of a voxel is the unweighted mean of those that
belong to it. A point's U^i is that of the voxel it comes to in i such steps.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from hpal_cli.score.pointwise import Scores, margin
from hpal_cli.voxels import group_voxels, voxel_coordinates


def nested_margins(
    prob: NDArray[np.floating], xyz: NDArray[np.floating], edges: Sequence[float], threads: int
) -> Iterator[tuple[Scores, int]]:
    """(N,) U^i and the number of voxels for each edge in turn. prob: (N, C); xyz: (N, 3) in the unit of the edges."""
    mean, place = prob.astype(np.float64), np.asarray(xyz, np.float64)
    home = np.arange(len(prob))
    for edge in edges:
        inverse, count = group_voxels(voxel_coordinates(place, edge))
        barycentre = _sums(inverse, place, len(count)) / count[:, None]
        nearest = _nearest(barycentre, place, threads)
        # A barycentre that is nearest to none has no distribution, and is no part of one further up.
        real = ~np.isnan(mean[:, 0])
        members = np.bincount(nearest[real], minlength=len(count))[:, None]
        sums = _sums(nearest[real], mean[real], len(count))
        mean = np.divide(sums, members, out=np.full(sums.shape, np.nan), where=members > 0)
        place, home = barycentre, nearest[home]
        yield margin(mean)[home], len(count)


def _sums(group: NDArray[np.int64], values: NDArray[np.float64], groups: int) -> NDArray[np.float64]:
    """The sums (groups, F) of the rows (K, F) of each group."""
    return np.stack([np.bincount(group, weights=column, minlength=groups) for column in values.T], axis=1)


def _nearest(centres: NDArray[np.float64], places: NDArray[np.float64], threads: int) -> NDArray[np.int64]:
    """(K,) the nearest of the centres for each place; if several are equally near, the first of them."""
    from scipy.spatial import cKDTree

    if not len(places):
        return np.zeros(0, np.int64)
    tree = cKDTree(centres)
    distance, found = tree.query(places, k=min(2, len(centres)), workers=threads)
    if len(centres) == 1:
        return np.zeros(len(places), np.int64)
    tied = np.flatnonzero(distance[:, 0] == distance[:, 1])
    nearest = found[:, 0].astype(np.int64)
    for row in tied:
        # The tree does not say which of several it gives.
        around = np.array(tree.query_ball_point(places[row], distance[row, 0] * (1 + 1e-9)))
        apart = ((centres[around] - places[row]) ** 2).sum(axis=1)
        nearest[row] = around[apart == apart.min()].min()
    return nearest
