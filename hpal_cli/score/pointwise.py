"""Strategies that score each point by itself: probabilities (N, C) -> scores (N,), float64 in [0, 1]."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.float64]


def margin(prob: NDArray[np.floating]) -> Scores:
    """(N,) `p1 - p2`, the gap between the two largest entries of each row (paper Eq. 1, 3); small = uncertain."""
    if prob.shape[1] < 2:
        return np.ones(len(prob))
    best = np.array(prob[:, 0], np.float64)
    second = np.full(len(prob), -np.inf)
    # Column by column with two running maxima, which is faster than sorting each row.
    for column in prob.T[1:]:
        column = column.astype(np.float64)
        np.maximum(second, np.minimum(best, column), out=second)
        np.maximum(best, column, out=best)
    return best - second


def minimum_margin(prob: NDArray[np.floating]) -> Scores:
    """(N,) MMU, minimum margin uncertainty: 1 - (p1 - p2)."""
    return 1 - margin(prob)


def least_confidence(prob: NDArray[np.floating]) -> Scores:
    """(N,) LC, least confidence: 1 - p1."""
    return 1 - prob.max(axis=1, initial=0).astype(np.float64)


def entropy(prob: NDArray[np.floating]) -> Scores:
    """(N,) the entropy H of each row divided by ln C, its largest value, with 0 ln 0 = 0."""
    if prob.shape[1] < 2:
        return np.zeros(len(prob))
    p = prob.astype(np.float64)
    logs = np.log(p, out=np.zeros_like(p), where=p > 0)
    # The clip is needed because rows of float16 sum to 1 only roughly.
    return np.clip(-(p * logs).sum(axis=1) / np.log(prob.shape[1]), 0, 1)


def random(points: int, seed: int, scene: int) -> Scores:
    """(points,) draws from U(0, 1). Each scene number has its own random stream, so the order of scenes does not
    matter."""
    return np.random.default_rng([seed, scene]).random(points)
