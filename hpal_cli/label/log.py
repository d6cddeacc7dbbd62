"""Lists the rounds of a labels store, and which answers count today."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hpal_cli.labels.store import ANSWER, Batch, LabelStore, same_as_next


class Logged(NamedTuple):
    """One batch and its counts. changed: answers that replaced an earlier one; counting: answers that count today."""

    batch: Batch
    unsure: int
    changed: int
    counting: int


@dataclass(frozen=True)
class Log:
    """All that a labels store records. batches: the oldest first; rows: (N,) records of `ANSWER`, every answer in the
    order in which they were given; counts: (N,) whether each of them counts today."""

    batches: list[Logged]
    rows: NDArray[np.void]
    counts: NDArray[np.bool_]

    def to_json(self) -> list[dict[str, Any]]:
        """A member for each batch. `round` is None for a batch that only records which points were asked about."""
        return [
            {
                "round": batch.round if len(batch.rows) or batch.undoes else None,
                "time": utc(batch.time),
                "source": batch.source,
                "answers": len(batch.rows),
                "unsure": unsure,
                "changed": changed,
                "counting": counting,
                "asked": len(batch.asked),
                "undoes": list(batch.undoes),
                "undone": not batch.stands,
            }
            for batch, unsure, changed, counting in self.batches
        ]

    def answers_to_json(self, store: LabelStore) -> list[dict[str, Any]]:
        """A member for each answer that was ever given; `label` is the name of a class, None for "unsure"."""
        return [
            {
                "round": int(row["round"]),
                "scene": store.table[int(row["scene"])].name,
                "index": int(row["index"]),
                "label": store.classes[int(row["label"])].name if row["label"] >= 0 else None,
                "counts": bool(counts),
            }
            for row, counts in zip(self.rows, self.counts, strict=True)
        ]


def utc(seconds: float) -> str:
    """Seconds since 1970 as ISO 8601: `2024-05-01T12:00:00Z`."""
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def read_log(store: LabelStore) -> Log:
    """Reads the log of a store. An answer that was undone does not count, and replaces no other answer."""
    batches = store.batches()
    rows = np.concatenate([np.zeros(0, ANSWER), *(batch.rows for batch in batches)])
    batch_of_row = np.repeat(np.arange(len(batches)), [len(batch.rows) for batch in batches])
    stands = np.array([batch.stands for batch in batches], bool)[batch_of_row]
    order = np.flatnonzero(stands)
    order = order[np.lexsort((order, rows["index"][order], rows["scene"][order]))]
    replaced = same_as_next(rows[order])
    counts, changed = np.zeros(len(rows), bool), np.zeros(len(rows), bool)
    counts[order[~replaced]] = True
    changed[order[1:][replaced[:-1]]] = True

    def sums(which: NDArray[np.bool_]) -> list[int]:
        return np.bincount(batch_of_row[which], minlength=len(batches)).tolist()

    columns = zip(batches, sums(rows["label"] < 0), sums(changed), sums(counts), strict=True)
    return Log([Logged(*row) for row in columns], rows, counts)
