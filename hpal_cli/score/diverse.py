"""The strategy for the first answers, before there is a model: chooses superpoints that represent many others that look
like them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hpal_cli.score.kmeans import ITERATIONS, kmeans

COMPONENTS = 16
"""Components of the likeness that superpoints are compared by; each counts with its deviation."""

MAX_ROWS = 100_000
"""Superpoints that clusters are learned from; of more, a draw."""


def diverse(
    likeness: Sequence[NDArray[np.floating]],
    deviation: NDArray[np.floating],
    size: Sequence[NDArray[np.int64]],
    free: Sequence[NDArray[np.bool_]],
    budget: int,
    seed: int = 0,
) -> list[NDArray[np.float64]]:
    """For each scene (S,) scores in [0, 1], larger = ask first, 0 for superpoints that are not free.

    k-means over the superpoints of all scenes, each with the weight of its points, makes `budget` clusters. The free
    superpoint nearest to each centre comes first, those of large clusters before those of small ones. Then as many
    clusters again are made, and as many again, each time twice as many, so that a larger budget is spread out too.

    likeness: (S, K) of each scene, of deviation 1; deviation: (K,) what they had; size: (S,) points.
    """
    count = [len(one) for one in size]
    free_all, points = np.concatenate(free), np.concatenate(size).astype(np.float64)
    scale = deviation[:COMPONENTS] / max(float(deviation.max(initial=0)), 1e-12)
    rows = np.concatenate(likeness)[:, :COMPONENTS].astype(np.float64) * scale
    rng = np.random.default_rng(seed)
    chosen = np.zeros(0, np.int64)
    clusters, left = max(1, budget), free_all.copy()
    while left.any() and (not len(chosen) or clusters <= _GENERATIONS * budget):
        sample = np.arange(len(rows)) if len(rows) <= MAX_ROWS else np.sort(rng.choice(len(rows), MAX_ROWS, False))
        centres, home = kmeans(rows[sample], points[sample], clusters, rng, _ROUGH if len(chosen) else ITERATIONS)
        weight = np.bincount(home, points[sample], minlength=len(centres))
        picks = _nearest(rows, centres, left)
        order = np.lexsort((picks, -weight))
        _, first = np.unique(picks[order], return_index=True)
        picks = picks[order][np.sort(first)]
        chosen = np.concatenate([chosen, picks])
        left[picks] = False
        clusters *= 2
    # What is left has no cluster of its own: large ones first.
    rest = np.flatnonzero(left)
    chosen = np.concatenate([chosen, rest[np.lexsort((rest, -points[rest]))]])
    score = np.zeros(len(rows))
    score[chosen] = 1 - np.arange(len(chosen)) / max(1, len(chosen))
    return np.split(score, np.cumsum(count)[:-1])


_GENERATIONS, _ROUGH = 4, 10
"""Times the budget up to which clusters are made; iterations for those that only a larger budget than said needs."""


def _nearest(rows: NDArray[np.float64], centres: NDArray[np.float64], left: NDArray[np.bool_]) -> NDArray[np.int64]:
    """(K',) for each centre the nearest row that is left, without centres that find none."""
    from scipy.spatial import cKDTree

    free = np.flatnonzero(left)
    found: NDArray[np.int64] = free[cKDTree(rows[free]).query(centres)[1]]
    return found
