"""Gives queries to several people, and writes their answers into one labels store."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from hpal_cli.history import Entry
from hpal_cli.label.queries import Query
from hpal_cli.labels.store import ANSWER, Batch, LabelStore, latest_of
from hpal_cli.page.leases import Leases

MAX_ANSWER_SECONDS = 3600.0
"""The time of an answer is recorded as at most this many seconds, since a person who takes longer was away."""

PREPARED = 3
"""Queries that are prepared in advance. With only one, a person who answers fast would wait for the next."""


@dataclass(frozen=True)
class GivenAnswer:
    """The answer of a person. label: id of the class, -1 for unsure; round: of the answer in the labels store."""

    label: int
    round: int


class Session:
    """Q queries, numbered 0 to Q - 1 in the order of the tour, and their answers. Any thread may call any method.

    A query is done when enough people have answered it: one, or two if it is among the share that is asked twice. While
    a client holds a query, no other client is asked.
    """

    def __init__(
        self,
        queries: Sequence[Query],
        labels: LabelStore,
        entry: Entry,
        *,
        overlap: float = 0.0,
    ) -> None:
        """entry: the history entry that each answer is recorded with; overlap: share of the queries, 0 to 1, that two
        people are asked."""
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
        """How often the answers changed, from which a page sees whether what it shows is out of date."""
        self.refresh()

    def close(self) -> None:
        """Releases the queries that are held."""
        with self._lock:
            self._leases.close()

    def refresh(self) -> None:
        """Reads the answers that were added to the store since the last call, also by other programs."""
        with self._lock:
            batches = self.labels.batches()
            if len(batches) == self._seen:
                return
            new = batches[max(self._seen, 0) :]
            by = list(self._by)
            if not 0 <= self._seen < len(batches) or any(batch.undoes for batch in new):
                # If a batch was undone or the store was replaced, what was read before is out of date.
                new, by = batches, [{} for _ in self.queries]
            for batch in new:
                if not batch.stands:
                    continue
                for scene, index, label in batch.rows[["scene", "index", "label"]].tolist():
                    place = self._place.get((scene, index))
                    if place is not None:
                        # The newest answer comes last, whoever gave it.
                        others = {source: given for source, given in by[place].items() if source != batch.source}
                        by[place] = {**others, batch.source: GivenAnswer(label, batch.round)}
            self._by, self._seen = by, len(batches)
            self._batches, self._latest = batches, None
            self.changes += 1

    def answer_to(self, number: int, name: str | None = None) -> GivenAnswer | None:
        """The latest answer to a query; None if there is none. name: only the answer of this person counts."""
        given = self._by[number]
        if name is not None:
            return given.get(name)
        return next(reversed(given.values()), None)

    @property
    def overlaps(self) -> bool:
        """Whether some of the queries are asked twice."""
        return max(self._needs, default=1) > 1

    def people_needed(self, number: int) -> int:
        """How many people must answer a query."""
        return self._needs[number]

    def done(self, number: int) -> bool:
        return len(self._by[number]) >= self._needs[number]

    def counts(self) -> tuple[int, int]:
        """The number of queries that are done, and of all queries."""
        return sum(map(self.done, range(len(self.queries)))), len(self.queries)

    def next(self, client: str, name: str, *, after: int = -1) -> int | None:
        """The next query for a client, which then holds it; None if there is none. It is the first one after `after`,
        or else from the start, that is not done, that no other client holds, and that this person has not answered.
        Queries that the client skipped come last."""
        with self._lock, self._leases.exclusive():
            self.refresh()
            self._leases.free(client)
            for number in self._order(client, after):
                if self._open_to(number, name) and self._leases.take(self._point(number), client):
                    return number
            return None

    def likely_next(self, client: str, name: str, *, after: int) -> list[int]:
        """At most `PREPARED` queries, which `next` will most likely return one after another once `after` is answered,
        so that they can be prepared."""
        with self._lock:
            held = self._leases.held_by_others(client)
            order = (n for n in self._order(client, after) if n != after and self._open_to(n, name))
            return list(islice((n for n in order if self._point(n) not in held), PREPARED))

    def hold(self, number: int, client: str) -> bool:
        """Takes or renews the lease of a query for the client that shows it. False if another client holds it."""
        with self._lock, self._leases.exclusive():
            return self._leases.take(self._point(number), client)

    def held_by_others(self, client: str) -> int:
        """The number of queries, not done, that other clients hold now."""
        with self._lock:
            numbers = [self._place.get(point) for point in self._leases.held_by_others(client)]
            return sum(number is not None and not self.done(number) for number in numbers)

    def answer(self, client: str, name: str, number: int, label: int, seconds: float | None) -> Batch:
        """Writes an answer to the labels store. When this returns, the answer is on the disk.

        Raises:
            HpalError: there is no such class, or the store cannot be written.
        """
        query = self.queries[number]
        rows = np.zeros(len(query.points), ANSWER)
        rows["scene"], rows["index"], rows["label"] = query.scene, query.points, label
        rows["x"] = rows["y"] = rows["z"] = np.nan
        own = int(np.flatnonzero(query.points == query.index)[0])
        rows["x"][own], rows["y"][own], rows["z"][own] = query.position
        # The first row of an answer must be the point that was shown.
        rows[[0, own]] = rows[[own, 0]]
        took = None if seconds is None else round(float(min(max(seconds, 0.0), MAX_ANSWER_SECONDS)), 2)
        with self._lock:
            batch = self.labels.append(rows, name, self._entry, seconds=took)
            self._skipped.get(client, {}).pop(number, None)
            self.refresh()
            return batch

    def skip(self, client: str, number: int) -> None:
        """Moves a query behind all others for this client."""
        with self._lock:
            skipped = self._skipped.setdefault(client, {})
            skipped[number] = max(skipped.values(), default=0) + 1

    def undo(self, client: str, name: str) -> int | None:
        """Withdraws the last answer of a person. The client then holds its query, which is returned; None if this
        person has given no answer."""
        with self._lock:
            self.refresh()
            last, number = -1, None
            for n, given in enumerate(self._by):
                if name in given and given[name].round > last:
                    last, number = given[name].round, n
            if number is None:
                return None
            self.labels.undo(last, name, self._entry)
            with self._leases.exclusive():
                self._leases.free(client)
                self._leases.give(self._point(number), client)
            self.refresh()
            return number

    def answers_of(self, scene: int) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """(A,) the rows of a scene's points with an answer that counts, and (A,) their labels, -1 for unsure."""
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
        """All queries in order, beginning with the one after `after`; those that the client skipped come last."""
        skipped, count = self._skipped.get(client, {}), len(self.queries)
        return sorted(range(count), key=lambda n: (skipped.get(n, 0), (n - after - 1) % count))

    def _open_to(self, number: int, name: str) -> bool:
        return not self.done(number) and name not in self._by[number]

    def _point(self, number: int) -> tuple[int, int]:
        query = self.queries[number]
        return query.scene, query.index


def _drawn(query: Query, share: float) -> bool:
    """Whether a query is asked twice. The choice depends only on the query, so that it is the same on every server."""
    digest = hashlib.sha256(f"{query.scene} {query.index}".encode()).digest()
    return int.from_bytes(digest[:4], "big") < share * 2**32
