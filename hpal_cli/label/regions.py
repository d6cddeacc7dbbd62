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
    """The answers to K asked points. mask: (K,) which of them have an answer; label: (K,) int32, -1 for unsure and for
    points without an answer; group: (K,) number of the region or part of a region that a point was answered with;
    clicks: number of clicks."""

    mask: NDArray[np.bool_]
    label: NDArray[np.int32]
    group: NDArray[np.int64]
    clicks: int

    def representative(self, index: NDArray[np.integer]) -> NDArray[np.int64]:
        """(K,) for each point, the row of the point of its group whose `index` (K,) is lowest."""
        order = np.lexsort((index, self.group))
        first = order[np.unique(self.group[order], return_index=True)[1]]
        return first[np.unique(self.group, return_inverse=True)[1].reshape(-1)]


def by_regions(asked: Rows, truth: NDArray[np.integer], strategy: str | None) -> Answered | None:
    """The oracle's answers to K points that `--strategy ssdr` chose. None for the points of any other strategy, since
    each of these is asked about by itself.

    asked: (K,) records with `scene`, `region` and `guess`; truth: (K,) their true labels.

    Raises:
        HpalError: the points lack the column `region` or `guess`.
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
    """The answers of SSDR-AL: one click for each region, and one more for each pure part of a mixed region.

    Purity is the share of the most frequent true label among the asked points. From 0.9 on, all points of the region
    get that label. Other regions are split by predicted class: each part of more than 5 points whose purity is 0.9 or
    more costs a click and gets its most frequent label. The points of the other parts have no answer.

    region: (K,) one number a region over all scenes; guess: (K,) predicted class; truth: (K,) class, -1 for none, which
    counts as a class of its own ("unsure").
    """
    if not len(region):
        return Answered(np.zeros(0, bool), np.zeros(0, np.int32), np.zeros(0, np.int64), 0)
    group_of_row, share, _, label = _most_frequent(region, truth)
    whole = share[group_of_row] >= PURITY
    mask, found, group = whole.copy(), np.where(whole, label[group_of_row], -1), group_of_row.astype(np.int64)
    clicks = len(share)
    rest = np.flatnonzero(~whole)
    if len(rest):
        split = np.unique(np.column_stack([region[rest], guess[rest]]), axis=0, return_inverse=True)[1].reshape(-1)
        part, share, size, label = _most_frequent(split, truth[rest])
        pure = (share >= PURITY) & (size > PART_POINTS)
        clicks += int(pure.sum())
        mask[rest] = pure[part]
        found[rest] = np.where(pure, label, -1)[part]
        group[rest] = group_of_row.max() + 1 + part
    return Answered(mask, found.astype(np.int32), group, clicks)


def _most_frequent(
    group: NDArray[np.integer], truth: NDArray[np.integer]
) -> tuple[NDArray[np.integer], NDArray[np.float64], NDArray[np.int64], NDArray[np.integer]]:
    """The group of each point (K,), numbered from 0; and for each of the G groups the share of its most frequent label,
    its number of points, and this label, which is the lowest on a tie."""
    number = np.unique(group, return_inverse=True)[1]
    values, code = np.unique(truth, return_inverse=True)
    count = np.zeros((number.max() + 1, len(values)), np.int64)
    np.add.at(count, (number, code), 1)
    size = count.sum(axis=1)
    return number, count.max(axis=1) / size, size, values[count.argmax(axis=1)]
