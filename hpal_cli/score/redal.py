"""ReDAL (Wu et al., ICCV 2021) scores whole regions by entropy, colour discontinuity and curvature, and makes the
choice diverse by clustering their features."""

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
"""Weights of colour discontinuity and curvature that the paper gives for indoor scenes."""

MAX_COLOR_DIFFERENCE = 0.1
CLUSTERS = 400
DECAY = 0.95


def measure(
    prob: NDArray[np.floating],
    xyz: NDArray[np.floating],
    rgb: NDArray[np.uint8] | None,
    feat: NDArray[np.floating],
    labelled: NDArray[np.integer],
    region: NDArray[np.int32],
) -> Regions:
    """The regions of one scene. Their value and feature are means over all their points, answered ones included.

    prob: (N, C); xyz: (N, 3), in any unit; rgb: (N, 3) or None; feat: (N, F); labelled: (L,) rows with an answer;
    region: (N,) superpoint of each point, 0 to R - 1. The regions of the paper are VCCS supervoxels.
    """
    points = np.bincount(region)
    value = point_value(prob, xyz, rgb)
    return Regions(
        region=region,
        points=points,
        unanswered=np.bincount(region[~answered_mask(len(region), labelled)], minlength=len(points)),
        value=np.bincount(region, weights=value) / points,
        feature=(sums(region, len(points), feat) / points[:, None]).astype(np.float32),
    )


def point_value(
    prob: NDArray[np.floating], xyz: NDArray[np.floating], rgb: NDArray[np.uint8] | None
) -> NDArray[np.float64]:
    """(N,) H + 0.1 g + 0.05 k, or without colour H + 0.05 k.

    H is `mean_entropy`. g and k are computed from the 50 nearest other points, or from all others if there are fewer: g
    is the mean difference of colour (0 to 1) to them, at most 0.1, and k is their `curvature`.
    """
    value = mean_entropy(prob)
    points = np.asarray(xyz, np.float64)
    for rows, near in neighbours(points, NEIGHBOURS):
        value[rows] += CURVATURE_WEIGHT * curvature(points[near])
        if rgb is not None:
            away = np.abs(rgb[near].astype(np.int16) - rgb[rows, None]).mean(axis=(1, 2)) / 255
            value[rows] += COLOR_WEIGHT * np.minimum(MAX_COLOR_DIFFERENCE, away)
    return value


def mean_entropy(prob: NDArray[np.floating]) -> NDArray[np.float64]:
    """(N,) the mean over the classes of -p log2 p, with 0 log 0 = 0."""
    found = np.zeros(len(prob))
    for start in range(0, len(prob), BLOCK):
        # The float16 probabilities of another program may be slightly above 1, and would give a negative entropy.
        p = np.minimum(prob[start : start + BLOCK].astype(np.float64), 1)
        found[start : start + BLOCK] = -(p * np.log2(p, out=np.zeros_like(p), where=p > 0)).mean(axis=1)
    return found


def curvature(near: NDArray[np.float64]) -> NDArray[np.float64]:
    """(B,) the smallest eigenvalue of the covariance of each of B sets of points (B, K, 3), divided by the sum of its
    eigenvalues; 0 if all points of a set coincide."""
    eigenvalues = np.maximum(np.linalg.eigvalsh(covariance(near)), 0)
    total = eigenvalues.sum(axis=1)
    return np.divide(eigenvalues[:, 0], total, out=np.zeros(len(total)), where=total > 0)


def rank_regions(scenes: Sequence[Regions], seed: int = 0) -> list[NDArray[np.float64]]:
    """For each scene (R_s,) float64 scores in [0, 1], larger = label first, 0 for regions without unanswered points.

    The features of the open regions of all scenes are clustered. From the highest value down (on a tie by scene, then
    region), each region's value is multiplied by the weight of its cluster, which begins at 1 and is multiplied by 0.95
    after each of its regions. The regions are ranked by these products: the k-th of K, counted from 0, scores 1 - k /
    K.
    """
    has_unanswered = np.concatenate([s.has_unanswered for s in scenes]) if scenes else np.zeros(0, bool)
    rows = np.flatnonzero(has_unanswered)
    if not len(rows):
        return in_order(scenes, rows)
    value = np.concatenate([s.value for s in scenes])[rows]
    cluster = clusters(np.concatenate([s.feature for s in scenes])[rows], CLUSTERS, seed)
    order = np.argsort(-value, kind="stable")
    weight = np.ones(cluster.max() + 1)
    weighted = np.zeros(len(rows))
    for row in order:
        weighted[row] = value[row] * weight[cluster[row]]
        weight[cluster[row]] *= DECAY
    return in_order(scenes, rows[order[np.argsort(-weighted[order], kind="stable")]])


def clusters(feature: NDArray[np.floating], count: int, seed: int) -> NDArray[np.int32]:
    """(K,) the cluster of each row by `kmeans`: `count` clusters, fewer if there are fewer different rows.

    feature: (K, F). The clusters do not depend on the order of the rows.
    """
    rows, inverse, times = np.unique(feature.astype(np.float64), axis=0, return_inverse=True, return_counts=True)
    _, found = kmeans(rows, times.astype(np.float64), count, np.random.default_rng(seed))
    return found[inverse.reshape(-1)]
