"""The strategy `diverse`, for the first answers, before there is a model. It chooses superpoints that look like many
others."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hpal_cli.score.kmeans import MAX_ITERATIONS, kmeans

COMPONENTS = 16
"""Principal components by which superpoints are compared. Each keeps its own standard deviation, so the first ones
count most."""

MAX_ROWS = 100_000
"""Superpoints that clusters are computed from. If there are more, a random sample of this many is taken."""


def diverse(
    likeness: Sequence[NDArray[np.floating]],
    deviation: NDArray[np.floating],
    size: Sequence[NDArray[np.int64]],
    free: Sequence[NDArray[np.bool_]],
    budget: int,
    seed: int = 0,
) -> list[NDArray[np.float64]]:
    """For each scene (S,) scores in [0, 1], larger = label first, 0 for superpoints that are not free.

    k-means divides the superpoints of all scenes, weighted by their number of points, into `budget` clusters. The free
    superpoint nearest to each centre gets a high score, and the higher, the more points its cluster has. All
    superpoints are then clustered again, each time into twice as many clusters, and of those that have no score yet the
    nearest to each centre gets the next highest. So the order is diverse for a larger budget too.

    likeness: (S, K) principal components of each scene's superpoints, scaled to deviation 1; deviation: (K,) of these
    components before the scaling; size: (S,) points of each superpoint; free: (S,) whether it may be chosen.
    """
    count = [len(one) for one in size]
    free_all, points = np.concatenate(free), np.concatenate(size).astype(np.float64)
    scale = deviation[:COMPONENTS] / max(float(deviation.max(initial=0)), 1e-12)
    rows = np.concatenate(likeness)[:, :COMPONENTS].astype(np.float64) * scale
    rng = np.random.default_rng(seed)
    chosen = np.zeros(0, np.int64)
    clusters, left = max(1, budget), free_all.copy()
    while left.any() and (not len(chosen) or clusters <= _MAX_MULTIPLE * budget):
        sample = np.arange(len(rows)) if len(rows) <= MAX_ROWS else np.sort(rng.choice(len(rows), MAX_ROWS, False))
        iterations = _FEWER_ITERATIONS if len(chosen) else MAX_ITERATIONS
        centres, cluster = kmeans(rows[sample], points[sample], clusters, rng, iterations)
        weight = np.bincount(cluster, points[sample], minlength=len(centres))
        picks = _nearest(rows, centres, left)
        order = np.lexsort((picks, -weight))
        _, first = np.unique(picks[order], return_index=True)
        picks = picks[order][np.sort(first)]
        chosen = np.concatenate([chosen, picks])
        left[picks] = False
        clusters *= 2
    # The rest are ordered by size, the largest first.
    rest = np.flatnonzero(left)
    chosen = np.concatenate([chosen, rest[np.lexsort((rest, -points[rest]))]])
    score = np.zeros(len(rows))
    score[chosen] = 1 - np.arange(len(chosen)) / max(1, len(chosen))
    return np.split(score, np.cumsum(count)[:-1])


_MAX_MULTIPLE, _FEWER_ITERATIONS = 4, 10
"""The number of clusters is doubled until it is `_MAX_MULTIPLE` times the budget. Few callers need the later
clusterings, so they have at most `_FEWER_ITERATIONS` iterations."""


def _nearest(rows: NDArray[np.float64], centres: NDArray[np.float64], left: NDArray[np.bool_]) -> NDArray[np.int64]:
    """(K,) for each centre (K, F) the nearest of the rows (S, F) that are `left` (S,)."""
    from scipy.spatial import cKDTree

    free = np.flatnonzero(left)
    found: NDArray[np.int64] = free[cKDTree(rows[free]).query(centres)[1]]
    return found
