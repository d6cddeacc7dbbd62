"""What the strategies that ask about regions (ReDAL, SSDR-AL) keep of each region, which is a superpoint."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.spatial import cKDTree

BLOCK = 1 << 14
"""Points whose neighbours are held at a time."""


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
