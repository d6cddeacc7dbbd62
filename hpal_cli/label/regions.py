"""Lets an oracle answer for the regions of SSDR-AL, click by click. (The regions of ReDAL are answered point by
point.)"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hpal_cli.errors import HpalError
from hpal_cli.stream.rows import GUESS, REGION, Rows

PURITY = 0.9
PART_POINTS = 5


class Answered(NamedTuple):
    """mask: (K,) which of the asked points have an answer; label: (K,) int32, -1 for unsure and where there is none;
    home: (K,) number of the region or part that a point was answered with; clicks: what it took."""

    mask: NDArray[np.bool_]
    label: NDArray[np.int32]
    home: NDArray[np.int64]
    clicks: int

    def speaker(self, index: NDArray[np.integer]) -> NDArray[np.int64]:
        """(K,) for each point the one, of those answered with it, that has the lowest of `index` (K,)."""
        order = np.lexsort((index, self.home))
        first = order[np.unique(self.home[order], return_index=True)[1]]
        return first[np.unique(self.home, return_inverse=True)[1].reshape(-1)]


def by_regions(asked: Rows, truth: NDArray[np.integer], strategy: str | None) -> Answered | None:
    """The answers to points that `--strategy ssdr` chose, truth (K,) being the label of each; None for the points of
    another strategy, each of which is asked about by itself.

    asked: (K,) with `scene`, `region` and `guess`.

    Raises:
        HpalError: points of this strategy without their regions.
    """
    if strategy is None or strategy.split()[0] != "ssdr":
        return None
    missing = {REGION, GUESS} - set(asked.dtype.names or ())
    if missing:
        raise HpalError(
            "selection", f"was scored by ssdr, but has no property {min(missing)}", "give the output of `hpal select`"
        )
    number = np.unique(np.column_stack([asked["scene"], asked[REGION]]), axis=0, return_inverse=True)[1]
    return answer_superpoints(number.reshape(-1), asked[GUESS], truth)


def answer_superpoints(region: NDArray[np.integer], guess: NDArray[np.integer], truth: NDArray[np.integer]) -> Answered:
    """SSDR-AL: one click for a region; if it is mixed, one more for each of its pure parts.

    Purity is the share of the most frequent true label among the asked points. From 0.9 on, all points of the region
    get that label. Other regions are split by predicted class: each part of more than 5 points whose purity is 0.9 or
    more costs a click and gets its most frequent label. The points of the other parts have no answer.

    region: (K,) one number a region over all scenes; guess: (K,) predicted class; truth: (K,) class, -1 for none, which
    counts as a class of its own ("unsure").
    """
    if not len(region):
        return Answered(np.zeros(0, bool), np.zeros(0, np.int32), np.zeros(0, np.int64), 0)
    of, share, _, label = _most_frequent(region, truth)
    whole = share[of] >= PURITY
    mask, found, home = whole.copy(), np.where(whole, label[of], -1), of.astype(np.int64)
    clicks = len(share)
    rest = np.flatnonzero(~whole)
    if len(rest):
        split = np.unique(np.column_stack([region[rest], guess[rest]]), axis=0, return_inverse=True)[1].reshape(-1)
        part, share, size, label = _most_frequent(split, truth[rest])
        pure = (share >= PURITY) & (size > PART_POINTS)
        clicks += int(pure.sum())
        mask[rest] = pure[part]
        found[rest] = np.where(pure, label, -1)[part]
        home[rest] = of.max() + 1 + part
    return Answered(mask, found.astype(np.int32), home, clicks)


def _most_frequent(
    group: NDArray[np.integer], truth: NDArray[np.integer]
) -> tuple[NDArray[np.integer], NDArray[np.float64], NDArray[np.int64], NDArray[np.integer]]:
    """The group of each point (K,), numbered from 0; and for each group the share of its most frequent label, its
    points, and this label (the lowest on a tie, which no pure group has)."""
    home = np.unique(group, return_inverse=True)[1]
    values, code = np.unique(truth, return_inverse=True)
    count = np.zeros((home.max() + 1, len(values)), np.int64)
    np.add.at(count, (home, code), 1)
    size = count.sum(axis=1)
    return home, count.max(axis=1) / size, size, values[count.argmax(axis=1)]
