"""SSDR-AL (Shao et al., MM 2022) scores superpoints by their uncertainty, the balance of classes, and how much they
differ from each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hpal_cli.score.regions import BLOCK, Regions, answered_mask, in_order, sums

SAMPLE = 64
"""Points of a superpoint, at most, with which its shape is compared."""

_CLOUDS = 64
"""Superpoints that one is compared with at a time, so that their distances stay in the processor's cache."""


@dataclass(frozen=True, eq=False)
class Superpoints(Regions):
    """The regions of one scene with what SSDR-AL compares them by. `value` is U, and `feature` is the mean over the
    points of the majority class.
    majority: (R,) int32 majority class c*; answered: (R,) int32 majority class of the points with an answer, -1 if
    there are none; centre: (R, 3) centre of the bounding box in metres; cloud: (K, 3) float32 sampled points of all
    regions, in metres relative to the centre of their region; start: (R + 1,) first row of each region in `cloud`.
    """

    majority: NDArray[np.int32]
    answered: NDArray[np.int32]
    centre: NDArray[np.float64]
    start: NDArray[np.int64]
    cloud: NDArray[np.float32]


def measure(
    prob: NDArray[np.floating],
    xyz: NDArray[np.floating],
    feat: NDArray[np.floating],
    labelled: NDArray[np.integer],
    region: NDArray[np.int32],
    unit: float = 1.0,
) -> Superpoints:
    """The superpoints of one scene. The superpoints of the paper are those of cut-pursuit.

    U is the sum of p2 / p1 over the points whose predicted class is the majority class c* (on a tie the lowest id),
    minus the sum over the other points; points with an answer are included. The class of an answered point is its
    predicted one, because predictions contain no answers, and a strategy must not see true labels.

    prob: (N, C); xyz: (N, 3) in units of `unit` metres; feat: (N, F); labelled: (L,) rows with an answer; region: (N,)
    superpoint of each point, 0 to R - 1.
    """
    metres = np.asarray(xyz, np.float64) * unit
    points = np.bincount(region)
    answered = answered_mask(len(region), labelled)
    guess = prob.argmax(axis=1) if len(prob) else np.zeros(0, np.int64)
    majority = _majority(region, guess, len(points), prob.shape[1])
    typical = guess == majority[region]
    answered_class = _majority(region[answered], guess[answered], len(points), prob.shape[1])
    unanswered = np.bincount(region[~answered], minlength=len(points))
    ratio = second_to_best(prob)
    agreeing = np.bincount(region[typical], minlength=len(points))
    feature = sums(np.where(typical, region, -1), len(points), feat) / agreeing[:, None]
    centre, start, cloud = _shapes(metres, region, points)
    return Superpoints(
        region=region,
        points=points,
        unanswered=unanswered,
        value=np.bincount(region, weights=np.where(typical, ratio, -ratio)).astype(np.float64),
        feature=feature.astype(np.float32),
        majority=majority,
        answered=np.where(unanswered < points, answered_class, -1).astype(np.int32),
        centre=centre,
        start=start,
        cloud=cloud,
    )


def second_to_best(prob: NDArray[np.floating]) -> NDArray[np.float64]:
    """(N,) p2 / p1 of each point, the second largest probability divided by the largest; 0 if there is one class."""
    found = np.zeros(len(prob))
    if prob.shape[1] < 2:
        return found
    for start in range(0, len(prob), BLOCK):
        p = np.partition(prob[start : start + BLOCK].astype(np.float64), -2, axis=1)
        np.divide(p[:, -2], p[:, -1], out=found[start : start + BLOCK], where=p[:, -1] > 0)
    return found


def rank_regions(scenes: Sequence[Superpoints], *, budget_points: int) -> list[NDArray[np.float64]]:
    """For each scene (R_s,) float64 scores in [0, 1], larger = label first, 0 for regions without unanswered points.

    The regions that are chosen for a budget of `budget_points` unanswered points score above 1/2, other open regions at
    most 1/2, both by rank. They are chosen in three steps:

    1. Open regions are ordered by U exp(-w), on a tie by scene, then region. w is the share of the region's class c* in
       a list that has the c* of each open region and the majority class of the answers of each region with answers.
    2. Whole regions are taken in this order until their unanswered points reach the budget. That gives the number n_s
       of regions for each scene.
    3. The first 2 n_s open regions of each scene are its candidates, of which `diverse` picks n_s.
    The picks of all scenes are ordered by k / n_s, where k counts the picks of a scene, so that any first part of the
    list has about the same share of each scene's picks. Ties, and the regions that are not chosen, are in the order of
    step 1.
    """
    if not scenes:
        return []
    scene_of_region = np.repeat(np.arange(len(scenes)), [len(s.points) for s in scenes])
    first = np.searchsorted(scene_of_region, np.arange(len(scenes)))
    score = balanced(scenes)
    rows = np.flatnonzero(np.concatenate([s.has_unanswered for s in scenes]))
    order = rows[np.argsort(-score[rows], kind="stable")]
    unanswered = np.concatenate([s.unanswered for s in scenes])[order]
    regions_taken = 0 if budget_points <= 0 else 1 + int(np.searchsorted(np.cumsum(unanswered), budget_points))
    quota = np.bincount(scene_of_region[order[:regions_taken]], minlength=len(scenes))
    place = np.full(len(scene_of_region), np.inf)
    for number, (scene, count) in enumerate(zip(scenes, quota)):
        candidates = order[scene_of_region[order] == number][: 2 * count]
        picks = candidates[diverse(scene, candidates - first[number], count)]
        place[picks] = np.arange(len(picks)) / max(1, count)
    order = order[np.argsort(place[order], kind="stable")]
    chosen = np.isfinite(place[order])
    return [
        (best + (best > 0) + rest) / 2
        for best, rest in zip(in_order(scenes, order[chosen]), in_order(scenes, order[~chosen]))
    ]


def balanced(scenes: Sequence[Superpoints]) -> NDArray[np.float64]:
    """(R,) U exp(-w) of the regions of all scenes, one scene after the other, with w as in `rank_regions`."""
    majority = np.concatenate([s.majority for s in scenes])
    answered = np.concatenate([s.answered for s in scenes])
    has_unanswered = np.concatenate([s.has_unanswered for s in scenes])
    known = np.append(majority[has_unanswered], answered[answered >= 0])
    count = np.bincount(known, minlength=int(majority.max(initial=0)) + 1)
    share = count / max(1, len(known))
    return np.concatenate([s.value for s in scenes]) * np.exp(-share[majority])


def diverse(scene: Superpoints, candidates: NDArray[np.integer], count: int) -> NDArray[np.int64]:
    """(count,) indices into `candidates` (K,), which are regions of one scene: the first, then always the one that is
    farthest from all picks (on a tie the earlier candidate).

    Distances are Euclidean between the rows of F = V + A V with A = (S - I) D^-1 + I, where V (K, F) are the features,
    S is `similarity`, and D is the diagonal matrix of the row sums of S - I. So the row of a region is twice its own
    feature plus a sum of the features of its neighbours, each divided by the neighbour's similarity to all others. If a
    row sum is 0, D^-1 is taken as 0.
    """
    if not count:
        return np.zeros(0, np.int64)
    alike = similarity(scene, candidates)
    np.fill_diagonal(alike, 0)
    degree = alike.sum(axis=1)
    # A division, because 1 / degree would be infinite for regions hundreds of metres apart.
    alike = np.divide(alike, degree, out=np.zeros_like(alike), where=degree > 0)
    own = scene.feature[candidates].astype(np.float64)
    rows = own + (alike @ own + own)
    picks = [0]
    away = np.full(len(candidates), np.inf)
    while len(picks) < min(count, len(candidates)):
        away = np.minimum(away, ((rows - rows[picks[-1]]) ** 2).sum(axis=1))
        # Otherwise a pick could be chosen again if all other candidates coincide with picks.
        away[picks[-1]] = -1
        picks.append(int(away.argmax()))
    return np.array(picks, np.int64)


def similarity(scene: Superpoints, regions: NDArray[np.integer]) -> NDArray[np.float64]:
    """(K, K) S_ij = exp(-d), where d is the distance in metres of the centres of the bounding boxes plus the Chamfer
    distance of the two clouds relative to their centres.

    The Chamfer distance is the mean distance of i's points to the nearest point of j, plus the same from j to i.
    """
    from scipy.spatial.distance import cdist

    clouds = [scene.cloud[scene.start[r] : scene.start[r + 1]].astype(np.float64) for r in regions]
    away = cdist(scene.centre[regions], scene.centre[regions])
    size = np.array([len(c) for c in clouds], np.int64)
    # S is symmetric, so i is compared only with the regions after it.
    for i, cloud in enumerate(clouds):
        for j in range(i + 1, len(clouds), _CLOUDS):
            block = slice(j, j + _CLOUDS)
            first = np.cumsum(size[block]) - size[block]
            square = cdist(cloud, np.concatenate(clouds[block]), "sqeuclidean")
            forth = np.sqrt(np.minimum.reduceat(square, first, axis=1)).mean(axis=0)
            back = np.add.reduceat(np.sqrt(square.min(axis=0)), first) / size[block]
            away[i, block] += forth + back
            away[block, i] = away[i, block]
    return np.exp(-away)


def _majority(region: NDArray[np.integer], guess: NDArray[np.integer], regions: int, classes: int) -> NDArray[np.int32]:
    """(regions,) the most frequent class among the points of each region; of equally frequent ones the lowest, and
    class 0 for a region without points."""
    key = region.astype(np.int64) * classes + guess
    count = np.bincount(key, minlength=regions * classes).reshape(regions, classes)
    return count.argmax(axis=1).astype(np.int32) if regions else np.zeros(0, np.int32)


def _shapes(
    metres: NDArray[np.float64], region: NDArray[np.int32], points: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.float32]]:
    """`centre`, `start` and `cloud` of Superpoints. The cloud has at most SAMPLE points of each region, at even steps
    among its rows."""
    first = np.cumsum(points) - points
    order = np.argsort(region, kind="stable")
    if not len(points):
        return np.zeros((0, 3)), np.zeros(1, np.int64), np.zeros((0, 3), np.float32)
    low, high = (f.reduceat(metres[order], first) for f in (np.minimum, np.maximum))
    centre = (low + high) / 2
    size = np.minimum(points, SAMPLE)
    start = np.append(0, np.cumsum(size))
    sampled = np.repeat(np.arange(len(points)), size)
    step = np.arange(len(sampled)) - start[sampled]
    rows = order[first[sampled] + step * points[sampled] // size[sampled]]
    return centre, start, (metres[rows] - centre[sampled]).astype(np.float32)
