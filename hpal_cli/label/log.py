"""Lists the rounds of a labels store, and what became of each answer."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hpal_cli.labels.store import ANSWER, Batch, LabelStore, same_as_next


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

    def to_json(self) -> list[dict[str, Any]]:
        """The batches; `round` is None for one that only asks."""
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
        """Every answer ever given to the store; `label` is the name of a class, None for "unsure"."""
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
