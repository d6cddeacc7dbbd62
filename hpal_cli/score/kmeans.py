"""k-means that gives the same clusters for the same rows, whatever the number of threads."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

MAX_ITERATIONS = 100


def kmeans(
    rows: NDArray[np.float64],
    weight: NDArray[np.float64],
    count: int,
    rng: np.random.Generator,
    iterations: int = MAX_ITERATIONS,
) -> tuple[NDArray[np.float64], NDArray[np.int32]]:
    """Centres (K, F) and the cluster of each row (N,), by Lloyd's algorithm from a k-means++ start (Arthur and
    Vassilvitskii 2007).

    rows: (N, F); weight: (N,) of each row in the means; count: number of clusters, fewer if there are fewer different
    rows; iterations: at most.
    """
    from scipy.cluster.vq import vq

    centres = rows[_plus_plus(rows, weight, count, rng)]
    found = np.zeros(len(rows), np.int32)
    for _ in range(iterations if len(centres) > 1 else 0):
        before, found = found, vq(rows, centres)[0]
        if np.array_equal(before, found):
            break
        size = np.bincount(found, weights=weight, minlength=len(centres))
        total = np.stack([np.bincount(found, weight * column, minlength=len(centres)) for column in rows.T], axis=1)
        # A cluster that lost all its rows keeps its centre.
        full = size > 0
        centres[full] = total[full] / size[full, None]
    return centres, found


def _plus_plus(
    rows: NDArray[np.float64], weight: NDArray[np.float64], count: int, rng: np.random.Generator
) -> list[int]:
    """Draws at most `count` rows, each with a probability in proportion to its weight times its squared distance to the
    nearest row that was drawn before."""
    chance = weight.copy()
    away = np.full(len(rows), np.inf)
    chosen: list[int] = []
    while len(chosen) < count and chance.any():
        up_to = np.cumsum(chance)
        chosen.append(int(np.searchsorted(up_to, rng.random() * up_to[-1], side="right")))
        away = np.minimum(away, ((rows - rows[chosen[-1]]) ** 2).sum(axis=1))
        chance = away * weight
    return chosen
