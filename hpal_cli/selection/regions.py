"""Selects whole regions, for the strategies that score regions (redal, ssdr): all points of a region or none."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hpal_cli.errors import HpalError
from hpal_cli.selection.fds import GreedySelection
from hpal_cli.stream.rows import REGION, Rows


def select_regions(rows: Rows, limit: int, subject: object) -> GreedySelection:
    """Selects whole regions of one scene, the one of the highest score first and on a tie the one of the lowest number,
    until they have `limit` points or more. rows: (N,) records with score, scene, region and index.

    Raises:
        HpalError: the points of a region have different scores.
    """
    order = best_first(rows)
    if len(_ends(rows[order])) != len(np.unique(rows[REGION])):
        raise HpalError(subject, "the points of a region have different scores", "give each region one score")
    stop = cut(rows[order], limit)
    return GreedySelection(order[:stop], np.ones(stop, bool), stop == len(rows) < limit)


def best_first(rows: Rows) -> NDArray[np.int64]:
    """(N,) the order of rows (N,) by score, the highest first, then by scene, region and index."""
    return np.lexsort((rows["index"], rows[REGION], rows["scene"], -rows["score"].astype(np.float64)))


def cut(rows: Rows, limit: int) -> int:
    """How many rows are selected if rows (N,) are ordered best first: whole regions, until they have `limit` points or
    more."""
    ends = _ends(rows)
    at = int(np.searchsorted(ends, limit))
    return int(ends[at]) if at < len(ends) else len(rows)


def _ends(rows: Rows) -> NDArray[np.int64]:
    """(R,) the row after the last of each region, for rows that are sorted by region."""
    if not len(rows):
        return np.zeros(0, np.int64)
    change = (rows["scene"][1:] != rows["scene"][:-1]) | (rows[REGION][1:] != rows[REGION][:-1])
    return np.append(np.flatnonzero(change) + 1, len(rows))
