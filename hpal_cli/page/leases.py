"""Records which person is answering which query now, in files that all servers of a labels store share."""

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

LEASE_SECONDS = 300.0
"""Seconds for which a lease is valid. A page renews the lease of the query that it shows; if it does not, another
person is asked."""

_LOCK_TIMEOUT = 2.0
"""Seconds that a server waits for the lock of the folder, which another server usually holds for a millisecond."""

Point = tuple[int, int]


class Leases:
    """The leases of queries, each of which is a point (scene, index). A client that holds the lease of a query is the
    only one that is asked.

    Each server writes its leases into a file of its own in the folder `.<name>.held` beside the store, and locks this
    file as long as it runs. So the leases of a server that was killed are void at once, and another server removes its
    file. A server takes leases only while it has the lock of the folder, so two servers never lease the same query. On
    a file system without locks, leases only end by time, and two servers that ask in the same millisecond may lease the
    same query. Only one thread may call the methods at a time.
    """

    def __init__(self, store: Path) -> None:
        self._folder = store.with_name(f".{store.name}.held")
        self._own: dict[Point, tuple[str, float]] = {}
        self._others: dict[Point, float] = {}
        self._held = -1
        self._file = self._folder / f"{uuid.uuid4().hex}.json"
        # Under the lock of the folder, so that no other server finds the file before it is locked.
        with self._alone(), contextlib.suppress(OSError):
            self._held = os.open(self._file, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
            system.lock(self._held)

    def close(self) -> None:
        """Releases all leases of this server."""
        self._own.clear()
        if self._held < 0:
            return
        with self._alone(), contextlib.suppress(OSError):
            self._file.unlink()
            os.close(self._held)
            self._held = -1
            # The last server removes the folder.
            if os.listdir(self._folder) == ["lock"]:
                (self._folder / "lock").unlink()
                self._folder.rmdir()

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[None]:
        """Within the block, the leases of all servers are known, and no other server takes any. At its end, the leases
        that were taken are written, so that other servers see them."""
        with self._alone():
            self._others = self._read()
            before = dict(self._own)
            yield
            if self._own != before:
                self._write()

    def holder(self, point: Point) -> str | None:
        """The client of this server that holds a query, "" if another server's client does, None if nobody does."""
        now = time.time()
        client, until = self._own.get(point, ("", 0.0))
        if until > now:
            return client
        return "" if self._others.get(point, 0.0) > now else None

    def take(self, point: Point, client: str) -> bool:
        """Takes or renews the lease of a query. False if another client holds it."""
        if self.holder(point) not in (None, client):
            return False
        self._own[point] = client, time.time() + LEASE_SECONDS
        return True

    def give(self, point: Point, client: str) -> None:
        """Gives the lease of a query to a client, also if another client of this server holds it."""
        self._own[point] = client, time.time() + LEASE_SECONDS

    def free(self, client: str) -> None:
        """Releases all leases of a client."""
        self._own = {point: lease for point, lease in self._own.items() if lease[0] != client}

    def held_by_others(self, client: str) -> set[Point]:
        """All queries that other clients hold."""
        return {point for point in {*self._own, *self._others} if self.holder(point) not in (None, client)}

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        lock = self._lock_folder()
        try:
            yield
        finally:
            if lock >= 0:
                os.close(lock)

    def _lock_folder(self) -> int:
        """Locks the folder. Returns the descriptor of the locked file, or -1 if the file system has no locks or another
        server holds the lock for too long, since a server that was suspended must not block all others."""
        path, end = self._folder / "lock", time.monotonic() + _LOCK_TIMEOUT
        while time.monotonic() < end:
            try:
                self._folder.mkdir(exist_ok=True)
                lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
            except FileNotFoundError:
                # Another server ended meanwhile and removed the folder.
                continue
            except OSError:
                return -1
            try:
                if system.lock(lock) and os.path.samestat(os.fstat(lock), os.stat(path)):
                    return lock
            except FileNotFoundError:
                pass
            except OSError:
                os.close(lock)
                return -1
            os.close(lock)
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
            # A file that cannot be read is skipped.
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
