"""Selects whole regions, for the strategies that score regions (redal, ssdr): all candidates of a region or none."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hpal_cli.errors import HpalError
from hpal_cli.selection.fds import GreedySelection
from hpal_cli.stream.rows import REGION, Rows


def select_regions(rows: Rows, limit: int, subject: object) -> GreedySelection:
    """The candidates of one scene, the best region first (ties: the lowest number), each whole, until there are
    `limit` points or more.

    Raises:
        HpalError: points of one region with different scores.
    """
    order = best_first(rows)
    if len(_ends(rows[order])) != len(np.unique(rows[REGION])):
        raise HpalError(subject, "the points of a region have different scores", "give each region one score")
    stop = cut(rows[order], limit)
    return GreedySelection(order[:stop], np.ones(stop, bool), stop == len(rows) < limit)


def best_first(rows: Rows) -> NDArray[np.int64]:
    """(N,) best first: by score, then scene, then region, then index."""
    return np.lexsort((rows["index"], rows[REGION], rows["scene"], -rows["score"].astype(np.float64)))


def cut(rows: Rows, limit: int) -> int:
    """How many of the rows, best first, are taken: whole regions until there are `limit` points or more."""
    ends = _ends(rows)
    at = int(np.searchsorted(ends, limit))
    return int(ends[at]) if at < len(ends) else len(rows)


def _ends(rows: Rows) -> NDArray[np.int64]:
    """Where each region ends, in rows that are sorted by region."""
    if not len(rows):
        return np.zeros(0, np.int64)
    change = (rows["scene"][1:] != rows["scene"][:-1]) | (rows[REGION][1:] != rows[REGION][:-1])
    return np.append(np.flatnonzero(change) + 1, len(rows))
