"""ReDAL (Wu et al., ICCV 2021): whole regions, by entropy, colour discontinuity and curvature, spread by clusters."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hpal_cli.score.kmeans import kmeans
from hpal_cli.score.regions import (
    BLOCK,
    Regions,
    answered_mask,
    in_order,
    neighbours,
    sums,
)
from hpal_cli.superpoints.surface import covariance

NEIGHBOURS = 50
COLOR_WEIGHT = 0.1
CURVATURE_WEIGHT = 0.05
"""Indoor weights."""

COLOR_LIMIT = 0.1
CLUSTERS = 400
DECAY = 0.95


def measure(
    prob: NDArray[np.floating],
    xyz: NDArray[np.floating],
    rgb: NDArray[np.uint8] | None,
    feat: NDArray[np.floating],
    labelled: NDArray[np.integer],
    of: NDArray[np.int32],
) -> Regions:
    """The regions of one scene; value and feature are the means over all their points, answered ones included.

    prob: (N, C); xyz: (N, 3), of any unit; rgb: (N, 3) or None; feat: (N, F); labelled: rows with an answer; of: (N,)
    superpoint of each point, 0 to R - 1. The paper's regions are VCCS supervoxels.
    """
    points = np.bincount(of)
    value = point_value(prob, xyz, rgb)
    return Regions(
        of=of,
        points=points,
        unanswered=np.bincount(of[~answered_mask(len(of), labelled)], minlength=len(points)),
        value=np.bincount(of, weights=value) / points,
        feature=(sums(of, len(points), feat) / points[:, None]).astype(np.float32),
    )


def point_value(
    prob: NDArray[np.floating], xyz: NDArray[np.floating], rgb: NDArray[np.uint8] | None
) -> NDArray[np.float64]:
    """(N,) H + 0.1 g + 0.05 k, and without colour H + 0.05 k.

    H: `mean_entropy`; g, k: of the 50 nearest other points, or of all there are. g is the mean difference to them over
    r, g and b (0 to 1), at most 0.1; k is l_min / (l_1 + l_2 + l_3) of their covariance, 0 where they coincide.
    """
    value = mean_entropy(prob)
    points = np.asarray(xyz, np.float64)
    for rows, near in neighbours(points, NEIGHBOURS):
        value[rows] += CURVATURE_WEIGHT * curvature(points[near])
        if rgb is not None:
            away = np.abs(rgb[near].astype(np.int16) - rgb[rows, None]).mean(axis=(1, 2)) / 255
            value[rows] += COLOR_WEIGHT * np.minimum(COLOR_LIMIT, away)
    return value


def mean_entropy(prob: NDArray[np.floating]) -> NDArray[np.float64]:
    """(N,) the mean over the classes of -p log2 p, with 0 log 0 = 0."""
    found = np.zeros(len(prob))
    for start in range(0, len(prob), BLOCK):
        # A foreign float16 softmax may exceed 1 by a bit, and the entropy would be negative.
        p = np.minimum(prob[start : start + BLOCK].astype(np.float64), 1)
        found[start : start + BLOCK] = -(p * np.log2(p, out=np.zeros_like(p), where=p > 0)).mean(axis=1)
    return found


def curvature(near: NDArray[np.float64]) -> NDArray[np.float64]:
    """(B,) l_min / (l_1 + l_2 + l_3) of the covariance of each of B sets of points (B, K, 3)."""
    eigenvalues = np.maximum(np.linalg.eigvalsh(covariance(near)), 0)
    total = eigenvalues.sum(axis=1)
    return np.divide(eigenvalues[:, 0], total, out=np.zeros(len(total)), where=total > 0)


def rank_regions(scenes: Sequence[Regions], seed: int = 0) -> list[NDArray[np.float64]]:
    """For each scene (R_s,) float64 scores in [0, 1], larger = label first, 0 for regions with nothing left to ask.

    The features of the open regions of all scenes are clustered. Regions are walked from the highest value down (ties:
    scene, then region), each times the weight of its cluster, which is 1 at first and 0.95 of itself after every visit.
    They are ranked by the outcome (ties: as walked): the k-th of K, counted from 0, scores 1 - k / K.
    """
    open_ = np.concatenate([s.open for s in scenes]) if scenes else np.zeros(0, bool)
    rows = np.flatnonzero(open_)
    if not len(rows):
        return in_order(scenes, rows)
    value = np.concatenate([s.value for s in scenes])[rows]
    cluster = clusters(np.concatenate([s.feature for s in scenes])[rows], CLUSTERS, seed)
    walked = np.argsort(-value, kind="stable")
    weight = np.ones(cluster.max() + 1)
    outcome = np.zeros(len(rows))
    for row in walked:
        outcome[row] = value[row] * weight[cluster[row]]
        weight[cluster[row]] *= DECAY
    return in_order(scenes, rows[walked[np.argsort(-outcome[walked], kind="stable")]])


def clusters(feature: NDArray[np.floating], count: int, seed: int) -> NDArray[np.int32]:
    """(K,) cluster of each row by k-means; at most `count`, and no more than there are different rows.

    feature: (K, F). Starts by k-means++ (Arthur and Vassilvitskii 2007). Depends on the rows, not on their order.
    """
    rows, inverse, times = np.unique(feature.astype(np.float64), axis=0, return_inverse=True, return_counts=True)
    _, found = kmeans(rows, times.astype(np.float64), count, np.random.default_rng(seed))
    return found[inverse.reshape(-1)]
