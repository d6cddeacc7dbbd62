"""Which queries somebody looks at just now: beside the answers, for all servers of one labels store."""

from __future__ import annotations

import contextlib
import json
import os
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hpal_cli import system

HELD = 300.0
"""Seconds without a sign of life after which a query is given to somebody else."""

_PATIENCE = 2.0
"""Seconds that a server waits for another one, which takes a millisecond."""

Point = tuple[int, int]


class Leases:
    """Who holds which query, a point (scene, index).

    Each server writes its own file in the folder `.<name>.held` beside the store. It is locked as long as the server
    runs: the leases of one that was killed are void at once, and its file is removed. While a server looks and takes,
    it has the lock of the folder, so that two never give the same query. On a file system without locks, leases end by
    time alone, and two servers that ask in the same millisecond may give the same query. Calls must not come from two
    threads at once.
    """

    def __init__(self, store: Path) -> None:
        self._folder = store.with_name(f".{store.name}.held")
        self._own: dict[Point, tuple[str, float]] = {}
        self._others: dict[Point, float] = {}
        self._held = -1
        self._file = self._folder / f"{uuid.uuid4().hex}.json"
        # Nobody must find the file before it is locked.
        with self._alone(), contextlib.suppress(OSError):
            self._held = os.open(self._file, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
            system.lock(self._held)

    def close(self) -> None:
        """Gives all back."""
        self._own.clear()
        if self._held < 0:
            return
        with self._alone(), contextlib.suppress(OSError):
            self._file.unlink()
            os.close(self._held)
            self._held = -1
            # The last one to end leaves nothing.
            if os.listdir(self._folder) == ["lock"]:
                (self._folder / "lock").unlink()
                self._folder.rmdir()

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """The block sees the leases of all servers, and what it takes is seen by them from its end on."""
        with self._alone():
            self._others = self._read()
            before = dict(self._own)
            yield
            if self._own != before:
                self._write()

    def holder(self, point: Point) -> str | None:
        """The client of this server that holds a query; "" for one of another server, None if nobody does."""
        now = time.time()
        client, until = self._own.get(point, ("", 0.0))
        if until > now:
            return client
        return "" if self._others.get(point, 0.0) > now else None

    def take(self, point: Point, client: str) -> bool:
        """Whether a client holds a query now; False: somebody else does."""
        if self.holder(point) not in (None, client):
            return False
        self._own[point] = client, time.time() + HELD
        return True

    def give(self, point: Point, client: str) -> None:
        """Takes a query from whoever has it here, for a client who must have it."""
        self._own[point] = client, time.time() + HELD

    def free(self, client: str) -> None:
        """Gives back all that a client holds."""
        self._own = {point: lease for point, lease in self._own.items() if lease[0] != client}

    def held_by_others(self, client: str) -> set[Point]:
        """All queries that others hold."""
        return {point for point in {*self._own, *self._others} if self.holder(point) not in (None, client)}

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        gate = self._gate()
        try:
            yield
        finally:
            if gate >= 0:
                os.close(gate)

    def _gate(self) -> int:
        """The file whose lock this server has now; -1 where there are no locks, or another server does not give it
        back: one that was stopped in its turn must not stop all."""
        path, end = self._folder / "lock", time.monotonic() + _PATIENCE
        while time.monotonic() < end:
            try:
                self._folder.mkdir(exist_ok=True)
                gate = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
            except FileNotFoundError:
                # Another server, which ended, took the folder away meanwhile.
                continue
            except OSError:
                return -1
            try:
                if system.lock(gate) and os.path.samestat(os.fstat(gate), os.stat(path)):
                    return gate
            except FileNotFoundError:
                pass
            except OSError:
                os.close(gate)
                return -1
            os.close(gate)
            time.sleep(0.002)
        return -1

    def _read(self) -> dict[Point, float]:
        found: dict[Point, float] = {}
        try:
            names = [name for name in os.listdir(self._folder) if name.endswith(".json") and name != self._file.name]
        except OSError:
            return found
        for name in names:
            path = self._folder / name
            # What cannot be read says nothing.
            with contextlib.suppress(OSError, ValueError, TypeError):
                other = os.open(path, os.O_RDWR if os.access(path, os.W_OK) else os.O_RDONLY)
                try:
                    if _is_free(other):
                        path.unlink()
                        continue
                    rows: Any = json.loads(os.read(other, 1 << 20) or b"[]")
                    found |= {(int(scene), int(index)): float(until) for scene, index, until in rows}
                finally:
                    os.close(other)
        return found

    def _write(self) -> None:
        now = time.time()
        self._own = {point: lease for point, lease in self._own.items() if lease[1] > now}
        text = json.dumps([[*point, until] for point, (_, until) in self._own.items()]).encode()
        with contextlib.suppress(OSError):
            os.pwrite(self._held, text, 0)
            os.ftruncate(self._held, len(text))


def _is_free(held: int) -> bool:
    try:
        return system.lock(held)
    except OSError:
        return False
