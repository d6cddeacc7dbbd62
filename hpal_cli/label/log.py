"""What happened to a labels store: its rounds, and what became of each answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hpal_cli.label.store import ANSWER, Batch, LabelStore, same_as_next


class Logged(NamedTuple):
    """One batch. changed: answers that took the place of an earlier one; counting: answers that count today."""

    batch: Batch
    unsure: int
    changed: int
    counting: int


@dataclass(frozen=True)
class Log:
    """batches: oldest first; rows: (N,) records of `ANSWER`, every answer ever given in the order they came; counts:
    (N,) which of them count today."""

    batches: list[Logged]
    rows: NDArray[np.void]
    counts: NDArray[np.bool_]


def read_log(store: LabelStore) -> Log:
    """All of a store. An answer that was undone neither counts nor takes the place of another."""
    batches = store.batches()
    rows = np.concatenate([np.zeros(0, ANSWER), *(batch.rows for batch in batches)])
    home = np.repeat(np.arange(len(batches)), [len(batch.rows) for batch in batches])
    stands = np.array([batch.stands for batch in batches], bool)[home]
    order = np.flatnonzero(stands)
    order = order[np.lexsort((order, rows["index"][order], rows["scene"][order]))]
    replaced = same_as_next(rows[order])
    counts, changed = np.zeros(len(rows), bool), np.zeros(len(rows), bool)
    counts[order[~replaced]] = True
    changed[order[1:][replaced[:-1]]] = True

    def sums(which: NDArray[np.bool_]) -> list[int]:
        return np.bincount(home[which], minlength=len(batches)).tolist()

    columns = zip(batches, sums(rows["label"] < 0), sums(changed), sums(counts), strict=True)
    return Log([Logged(*row) for row in columns], rows, counts)
