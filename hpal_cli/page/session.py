"""Hands out queries to several people, and takes back their answers into one labels store."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hpal_cli.history import Entry
from hpal_cli.label.queries import Query
from hpal_cli.labels.store import ANSWER, Batch, LabelStore, latest_of
from hpal_cli.page.leases import Leases

MAX_ANSWER_SECONDS = 3600.0
"""Seconds for one answer, at most: who took longer was away."""


@dataclass(frozen=True)
class GivenAnswer:
    """What a person answered: label, -1 for unsure; round: of the labels store."""

    label: int
    round: int


class Session:
    """Queries by their place in the tour, 0 to Q - 1, and the answers to them. Every call may come from any thread.

    A query is done when it has as many people's answers as it needs: one, or two if it is among the `overlap` that is
    asked twice. One that somebody holds is given to nobody else.
    """

    def __init__(
        self,
        queries: Sequence[Query],
        labels: LabelStore,
        entry: Entry,
        *,
        overlap: float = 0.0,
    ) -> None:
        """overlap: share of the queries, 0 to 1, that two people are asked."""
        self.queries, self.labels, self._entry = list(queries), labels, entry
        self._lock = threading.RLock()
        self._leases = Leases(labels.path)
        self._skipped: dict[str, dict[int, int]] = {}
        self._needs = [1 + _drawn(query, overlap) for query in self.queries]
        self._place = {(query.scene, query.index): n for n, query in enumerate(self.queries)}
        self._seen = -1
        self._by: list[dict[str, GivenAnswer]] = []
        self._batches: list[Batch] = []
        self._latest: NDArray[np.void] | None = None
        self.changes = 0
        """How often the answers changed, so that a page knows whether its picture of them is old."""
        self.refresh()

    def close(self) -> None:
        """Gives back what is held."""
        with self._lock:
            self._leases.close()

    def refresh(self) -> None:
        """Looks for answers that others gave, be it with another program."""
        with self._lock:
            batches = self.labels.batches()
            if len(batches) == self._seen:
                return
            new = batches[max(self._seen, 0) :]
            by = list(self._by)
            if not 0 <= self._seen < len(batches) or any(batch.undoes for batch in new):
                # Who takes a batch back, or has another store, changes what was read before.
                new, by = batches, [{} for _ in self.queries]
            for batch in new:
                if not batch.stands:
                    continue
                for scene, index, label in batch.rows[["scene", "index", "label"]].tolist():
                    place = self._place.get((scene, index))
                    if place is not None:
                        # The newest is the last, whoever it is by.
                        others = {source: given for source, given in by[place].items() if source != batch.source}
                        by[place] = {**others, batch.source: GivenAnswer(label, batch.round)}
            self._by, self._seen = by, len(batches)
            self._batches, self._latest = batches, None
            self.changes += 1

    def answer_to(self, number: int, name: str | None = None) -> GivenAnswer | None:
        """The answer that counts; with a name, that person's own."""
        given = self._by[number]
        if name is not None:
            return given.get(name)
        return next(reversed(given.values()), None)

    @property
    def overlaps(self) -> bool:
        """Whether two people are asked some of the queries."""
        return max(self._needs, default=1) > 1

    def needs(self, number: int) -> int:
        """From how many people a query needs an answer."""
        return self._needs[number]

    def done(self, number: int) -> bool:
        return len(self._by[number]) >= self._needs[number]

    def counts(self) -> tuple[int, int]:
        """Queries that are done, and all."""
        return sum(map(self.done, range(len(self.queries)))), len(self.queries)

    def next(self, client: str, name: str, *, after: int = -1) -> int | None:
        """The next query for a client, which then holds it: the first from `after` on, then from the start, that is not
        done, that nobody else holds and that this person has not answered. Skipped ones come last. None: there is
        none."""
        with self._lock, self._leases.turn():
            self.refresh()
            self._leases.free(client)
            for number in self._order(client, after):
                if self._open_to(number, name) and self._leases.take(self._point(number), client):
                    return number
            return None

    def ahead(self, client: str, name: str, *, after: int) -> int | None:
        """The query that `next` will most likely give once `after` is answered, for who wants to prepare it."""
        with self._lock:
            held = self._leases.held_by_others(client)
            for number in self._order(client, after):
                if number != after and self._open_to(number, name) and self._point(number) not in held:
                    return number
            return None

    def hold(self, number: int, client: str) -> bool:
        """Says that a client still looks at a query; False: somebody else holds it."""
        with self._lock, self._leases.turn():
            return self._leases.take(self._point(number), client)

    def held_by_others(self, client: str) -> int:
        """Open queries that others look at just now."""
        with self._lock:
            places = [self._place.get(point) for point in self._leases.held_by_others(client)]
            return sum(number is not None and not self.done(number) for number in places)

    def answer(self, client: str, name: str, number: int, label: int, seconds: float | None) -> Batch:
        """Writes an answer to the labels store; when this returns, it is on the disk.

        Raises:
            HpalError: no such class, or the disk refuses.
        """
        query = self.queries[number]
        rows = np.zeros(len(query.points), ANSWER)
        rows["scene"], rows["index"], rows["label"] = query.scene, query.points, label
        rows["x"] = rows["y"] = rows["z"] = np.nan
        own = int(np.flatnonzero(query.points == query.index)[0])
        rows["x"][own], rows["y"][own], rows["z"][own] = query.position
        # The point that was shown is the first row: it stands for the answer.
        rows[[0, own]] = rows[[own, 0]]
        took = None if seconds is None else round(float(min(max(seconds, 0.0), MAX_ANSWER_SECONDS)), 2)
        with self._lock:
            batch = self.labels.append(rows, name, self._entry, seconds=took)
            self._skipped.get(client, {}).pop(number, None)
            self.refresh()
            return batch

    def skip(self, client: str, number: int) -> None:
        """Puts a query behind the others, for this client."""
        with self._lock:
            skipped = self._skipped.setdefault(client, {})
            skipped[number] = max(skipped.values(), default=0) + 1

    def undo(self, client: str, name: str) -> int | None:
        """Takes the last answer of a person back, and lets the client hold its query again; None: there is none."""
        with self._lock:
            self.refresh()
            last, number = -1, None
            for n, given in enumerate(self._by):
                if name in given and given[name].round > last:
                    last, number = given[name].round, n
            if number is None:
                return None
            self.labels.undo(last, name, self._entry)
            with self._leases.turn():
                self._leases.free(client)
                self._leases.give(self._point(number), client)
            self.refresh()
            return number

    def answers_of(self, scene: int) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """(A,) points of a scene with an answer that counts, and their labels, -1 for unsure."""
        with self._lock:
            self.refresh()
            # All answers are put in order once for each change, not for each scene that is asked about.
            if self._latest is None:
                self._latest = latest_of(self._batches)
            latest = self._latest
        begin, end = np.searchsorted(latest["scene"], [scene, scene + 1])
        here = latest[begin:end]
        return here["index"].astype(np.int64), here["label"].astype(np.int32)

    def _order(self, client: str, after: int) -> list[int]:
        """All queries, the one behind `after` first and those that were skipped last."""
        skipped, count = self._skipped.get(client, {}), len(self.queries)
        return sorted(range(count), key=lambda n: (skipped.get(n, 0), (n - after - 1) % count))

    def _open_to(self, number: int, name: str) -> bool:
        return not self.done(number) and name not in self._by[number]

    def _point(self, number: int) -> tuple[int, int]:
        query = self.queries[number]
        return query.scene, query.index


def _drawn(query: Query, share: float) -> bool:
    """Whether a query is among those asked twice: the same ones whoever serves them, and however often."""
    digest = hashlib.sha256(f"{query.scene} {query.index}".encode()).digest()
    return int.from_bytes(digest[:4], "big") < share * 2**32
