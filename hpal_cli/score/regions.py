"""What the strategies that score regions (ReDAL, SSDR-AL) have in common. A region is a superpoint."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BLOCK = 1 << 14
"""Points whose neighbours are in memory at a time."""


@dataclass(frozen=True, eq=False)
class Regions:
    """The R regions of one scene of N points. It has nothing of the size N x F, so that many scenes fit into memory.

    region: (N,) int32 region of each point; points: (R,) int64 number of points of each region; unanswered: (R,) int64
    number of those without an answer; value: (R,) float64 how much a model would learn from the region, before regions
    are compared with each other; feature: (R, F) float32.
    """

    region: NDArray[np.int32]
    points: NDArray[np.int64]
    unanswered: NDArray[np.int64]
    value: NDArray[np.float64]
    feature: NDArray[np.float32]

    @property
    def has_unanswered(self) -> NDArray[np.bool_]:
        """(R,) whether a region has points without an answer. Only these regions are ranked."""
        return self.unanswered > 0


def neighbours(xyz: NDArray[np.floating], count: int) -> Iterator[tuple[slice, NDArray[np.int64]]]:
    """The `count` nearest other points of each of N points (N, 3), or all N - 1 if there are fewer, in blocks.

    Yields the rows of a block as a slice, and the rows of their neighbours (len(block), count). A scene of one point
    has no block.
    """
    from scipy.spatial import cKDTree

    count = min(count, len(xyz) - 1)
    if count < 1:
        return
    tree = cKDTree(xyz)
    for start in range(0, len(xyz), BLOCK):
        rows = slice(start, min(start + BLOCK, len(xyz)))
        near = tree.query(xyz[rows], count + 1)[1]
        other = near != np.arange(rows.start, rows.stop)[:, None]
        # If many points coincide, a point may be missing among its own nearest ones; then the farthest is dropped.
        other[other.all(axis=1), -1] = False
        yield rows, near[other].reshape(-1, count)


def sums(region: NDArray[np.integer], count: int, columns: NDArray[np.floating]) -> NDArray[np.float64]:
    """(count, F) the sums of the rows of `columns` (N, F) over each region; region: (N,) regions, -1 for no region."""
    from scipy.sparse import csr_array

    total = np.zeros((count, columns.shape[1]))
    for start in range(0, len(region), 4 * BLOCK):
        regions = region[start : start + 4 * BLOCK]
        inside = np.flatnonzero(regions >= 0)
        member = csr_array((np.ones(len(inside)), (regions[inside], inside)), shape=(count, len(regions)))
        total += member @ columns[start : start + 4 * BLOCK].astype(np.float64)
    return total


def answered_mask(points: int, labelled: NDArray[np.integer]) -> NDArray[np.bool_]:
    """(points,) whether a point is among the rows `labelled`."""
    mask = np.zeros(points, bool)
    mask[labelled] = True
    return mask


def in_order(scenes: Sequence[Regions], order: NDArray[np.integer]) -> list[NDArray[np.float64]]:
    """For each scene (R_s,) scores by rank: 1 for the first of `order`, then falling by 1 / K; 0 for the other regions.

    order: (K,) indices into the regions of all scenes, one scene after the other.
    The scores are ranks because a stream stores scores as float32. Values that are close would become equal there, and
    the points of their regions would mix, while the ranks of up to 2^23 regions stay different.
    """
    flat = np.zeros(sum(len(s.points) for s in scenes))
    flat[order] = 1 - np.arange(len(order)) / max(1, len(order))
    return split(scenes, flat)


def split(scenes: Sequence[Regions], flat: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """Divides the values of all scenes' regions, one scene after the other, into one array (R_s,) for each scene."""
    return np.split(flat, np.cumsum([len(s.points) for s in scenes])[:-1]) if scenes else []
