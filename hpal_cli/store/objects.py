"""Stores on object storage, where nothing can be renamed or locked (docs/formats.md section 1.8)."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import threading
import time
import uuid
from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import zarr
from zarr.storage import ObjectStore

from hpal_cli.errors import HpalError
from hpal_cli.scene_table import outer_names
from hpal_cli.store.plain import read_metadata
from hpal_cli.store.remote import (
    RemotePath,
    already_exists,
    in_flight,
    no_bucket,
    reached,
    require_bucket,
    require_listing,
    require_writable,
)

if TYPE_CHECKING:
    from zarr.abc.store import ByteRequest
    from zarr.core.buffer import Buffer, BufferPrototype

RENEWED, STALE = 60.0, 300.0
"""Seconds between two heartbeats of a writer, and seconds without a heartbeat after which the writer counts as dead."""


# Without a parameter: in Zarr 3.1.0 the class takes none.
class Objects(ObjectStore):
    """The objects below `path` as Zarr reads them. It keeps the metadata of arrays and groups that were asked for."""

    def __init__(self, path: RemotePath) -> None:
        super().__init__(path.objects, read_only=True)
        self.path = path
        self._metadata: dict[str, dict[str, Any]] = {}

    def _at(self, key: str) -> str:
        return f"{self.path.key}/{key}".strip("/")

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        with reached(self.path):
            return await super().get(self._at(key), prototype, byte_range)

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        return [await self.get(key, prototype, one) for key, one in key_ranges]

    async def exists(self, key: str) -> bool:
        with reached(self.path):
            return await super().exists(self._at(key))

    async def getsize(self, key: str) -> int:
        with reached(self.path):
            return await super().getsize(self._at(key))

    async def getsize_prefix(self, prefix: str) -> int:
        with reached(self.path):
            return await super().getsize_prefix(self._at(prefix))

    def list(self) -> AsyncGenerator[str, None]:
        return self.list_prefix("")

    async def list_prefix(self, prefix: str) -> AsyncGenerator[str, None]:
        require_listing(self.path)
        with reached(self.path):
            async for key in super().list_prefix(self._at(prefix)):
                yield key.removeprefix(self.path.key).lstrip("/")

    async def list_dir(self, prefix: str) -> AsyncGenerator[str, None]:
        require_listing(self.path)
        with reached(self.path):
            async for name in super().list_dir(self._at(prefix)):
                yield name

    def metadata(self, name: str) -> dict[str, Any]:
        """The `zarr.json` of an array or a group, which never changes in a complete store.

        Raises:
            NotPlain: it does not exist, or is no JSON object.
        """
        if name not in self._metadata:
            if len(self._metadata) >= _MAX_METADATA:
                self._metadata.clear()
            self._metadata[name] = read_metadata(self.path / name)
        return self._metadata[name]

    def knows(self, name: str) -> bool:
        """Whether the `zarr.json` of an array or a group has been read."""
        return name in self._metadata


_MAX_METADATA = 1 << 14
"""Arrays and groups whose metadata is kept, at most."""


def open_group(path: RemotePath) -> zarr.Group:
    """The root group of a store, for reading."""
    # A web server cannot be asked for the names of arrays, which consolidated metadata has, if somebody added it.
    return zarr.open_group(Objects(path), mode="r", zarr_format=3, use_consolidated=None if path.read_only else False)


def send(folder: Path, path: RemotePath, name: str = "") -> None:
    """Moves the files below `folder / name` to the same names below `path`, but not the `zarr.json` of `folder`."""
    files = [file for file in (folder / name).rglob("*") if file.is_file() and file != folder / "zarr.json"]

    def put(file: Path) -> None:
        with reached(path):
            path.objects.put(f"{path.key}/{file.relative_to(folder).as_posix()}", file)
        file.unlink()

    in_flight(put, files)


def put(path: RemotePath, data: bytes) -> None:
    """Writes an object."""
    with reached(path):
        path.objects.put(path.key, data)


class InPlace:
    """A writer of a store. The store's `zarr.json`, with `complete: false`, says that the store is being written: it is
    written again every `RENEWED` seconds, and a writer that has not done this for `STALE` seconds counts as dead."""

    def __init__(self, path: RemotePath, about: dict[str, Any]) -> None:
        """about: `spec` and `kind`."""
        require_writable(path)
        if not path.key:
            # What is replaced is removed with everything in it.
            raise HpalError(path, "is a whole bucket", f"name a store in it, like {path}/store.zarr")
        self.path = path
        self._key = f"{path.key}/zarr.json"
        self._writer = uuid.uuid4().hex
        attributes = {**about, "complete": False, "writer": self._writer}
        metadata = {"attributes": {"hpal": attributes}, "zarr_format": 3, "node_type": "group"}
        self._sign = json.dumps(metadata, indent=2).encode()
        self._version: dict[str, str] = {}
        self._lost = False
        self._ended = threading.Event()
        self._renewing = threading.Thread(target=self._renew, daemon=True)

    def begin(self, *, overwrite: bool) -> None:
        """Takes the name, and removes what was there.

        Raises:
            HpalError: a complete store is there and `overwrite` is not set, or another process is writing one.
        """
        current = self._current()
        if current is None:
            if self.path.exists():
                raise already_exists(self.path)
            self._put("create", self._sign)
        else:
            attributes, version, changed = current
            if attributes.get("complete") is True:
                if not overwrite:
                    raise already_exists(self.path)
            elif (age := self._age(changed)) < STALE:
                problem = f"is being written by another process, which gave a sign of life {age:.0f} s ago"
                remedy = f"wait for it, or name another; one that died is replaced {STALE:.0f} s after its last sign"
                raise HpalError(self.path, problem, remedy)
            self._put(version, self._sign)
        self._remove_others()
        self._renewing.start()

    def end(self, root: bytes) -> None:
        """Makes the store complete. root: its `zarr.json`.

        Raises:
            HpalError: another writer has taken the store over, because this one seemed to be dead.
        """
        self._stop()
        self._look()
        if self._lost:
            raise self._taken_over()
        self._put(self._version, root)

    def give_up(self) -> None:
        """Removes what was written, unless another process is writing the store now."""
        self._stop()
        with contextlib.suppress(HpalError):
            self._look()
            if not self._lost:
                self._remove_others()
                with reached(self.path):
                    self.path.objects.delete(self._key)

    def _stop(self) -> None:
        self._ended.set()
        if self._renewing.is_alive():
            self._renewing.join()

    def _renew(self) -> None:
        while not self._ended.wait(RENEWED):
            # After an error the next attempt may succeed. Whether another writer took over is asked again at the end.
            with contextlib.suppress(HpalError):
                self._look()
                if self._lost:
                    return
                self._put(self._version, self._sign)

    def _look(self) -> None:
        """Finds out whether this writer still has the store, and the version of its `zarr.json`."""
        current = self._current()
        if current is None or current[0].get("writer") != self._writer:
            self._lost = True
        else:
            self._version = current[1]

    def _current(self) -> tuple[dict[str, Any], dict[str, str], Any] | None:
        """The `hpal` attribute of what is there, its version, and when it was written."""
        with reached(self.path):
            try:
                found = self.path.objects.get(self._key)
                text = bytes(found.bytes())
            except FileNotFoundError as error:
                require_bucket(self.path, error)
                return None
        try:
            attributes = json.loads(text)["attributes"]["hpal"]
        except (ValueError, KeyError, TypeError, RecursionError):
            raise already_exists(self.path) from None
        return attributes, _version(found.meta), found.meta["last_modified"]

    def _age(self, changed: Any) -> float:
        """Seconds since `changed` by the clock of the object store, which may differ from that of this computer."""
        probe = f"{self._key}.{self._writer}"
        with reached(self.path):
            self.path.objects.put(probe, b"")
            now = self.path.objects.head(probe)["last_modified"]
            self.path.objects.delete(probe)
        return float((now - changed).total_seconds())

    def _put(self, mode: Any, text: bytes) -> None:
        """mode: `create`, or the version that is replaced."""
        from obstore.exceptions import AlreadyExistsError, NotSupportedError, PreconditionError

        with reached(self.path):
            try:
                try:
                    put = self.path.objects.put(self._key, text, mode=mode)
                except NotSupportedError:
                    # Two writers at once are then noticed only when one of them ends.
                    put = self.path.objects.put(self._key, text)
            except (AlreadyExistsError, PreconditionError) as error:
                current = self._current()
                if current is not None and current[0] == json.loads(text)["attributes"]["hpal"]:
                    # This writer's own put arrived, but the answer to it was lost, and it was sent again.
                    self._version = current[1]
                    return
                if mode == "create" or not self._version:
                    problem, remedy = "is being written by another process", "wait for it, or name another"
                    raise HpalError(self.path, problem, remedy) from error
                raise self._taken_over() from error
            except FileNotFoundError as error:
                raise no_bucket(self.path) from error
        self._version = _version(put)

    def _taken_over(self) -> HpalError:
        # What is there now is the other writer's, and must not be removed.
        self._lost = True
        problem = f"was taken over by another writer, since this one gave no sign of life for {STALE:.0f} s"
        return HpalError(self.path, problem, "wait for the other, and write again")

    def _remove_others(self) -> None:
        """Removes everything but the root's `zarr.json`."""
        remove_below(self.path, but=self._key)


def _version(found: Any) -> dict[str, str]:
    return {name: found[name] for name in ("e_tag", "version") if found[name] is not None}


@contextlib.contextmanager
def in_place(path: RemotePath, about: dict[str, Any], *, overwrite: bool) -> Iterator[InPlace]:
    """A writer that has begun, and must `end` in the block. If the block fails, what it wrote is removed."""
    writer = InPlace(path, about)
    writer.begin(overwrite=overwrite)
    try:
        yield writer
    except BaseException:
        writer.give_up()
        raise


@contextlib.contextmanager
def kept_alive(path: RemotePath, ending: str) -> Iterator[RemotePath]:
    """Yields a new temporary folder beside `path`, with the name `.NAME.<8 hex digits>.<ending>`. It is removed at the
    end of the block. Such folders of earlier writers of `path` that were killed are removed first.

    An object in the folder is written again every `RENEWED` seconds. A folder in which nothing was written for `STALE`
    seconds is one of a writer that was killed.
    """
    folder = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.{ending}")
    heartbeat, ended = folder / _HEARTBEAT, threading.Event()

    def renew() -> None:
        while not ended.wait(RENEWED):
            # After an error the next attempt may succeed.
            with contextlib.suppress(HpalError):
                put(heartbeat, b"")

    put(heartbeat, b"")
    renewing = threading.Thread(target=renew, daemon=True)
    renewing.start()
    try:
        _sweep(path, ending, heartbeat)
        yield folder
    finally:
        ended.set()
        renewing.join()
        # If the object store cannot be reached any more, the error of the block is reported, and not this one.
        with contextlib.suppress(HpalError):
            remove_below(folder)


_HEARTBEAT = "alive"
"""Name of the object in such a folder that is written again and again, as a sign that the writer is alive."""


def put_in_kept(path: RemotePath, data: bytes) -> None:
    """Writes an object into a folder of `kept_alive`.

    Raises:
        FileNotFoundError: the folder is gone. The object would make a new one, which nobody removes.
    """
    if not path.with_name(_HEARTBEAT).is_file():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    put(path, data)


def _sweep(path: RemotePath, ending: str, heartbeat: RemotePath) -> None:
    """Removes the temporary folders of dead writers of `path`. heartbeat: an object that was written just now. By its
    time the ages of the others are known, whatever the clock of this computer says."""
    ours = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]{{8}}\.{ending}")
    left = [one for one in path.parent.iterdir() if ours.fullmatch(one.name) and one != heartbeat.parent]
    if not left:
        return
    with reached(path):
        now = path.objects.head(heartbeat.key)["last_modified"]
        for folder in left:
            written = [one["last_modified"] for batch in path.objects.list(f"{folder.key}/") for one in batch]
            if all((now - when).total_seconds() >= STALE for when in written):
                remove_below(folder)


BATCH_TIMEOUT = 30.0
"""Seconds that another writer waits for a batch of answers to be complete, from its first object to its last."""


_VOID = {"attributes": {"void": True}, "zarr_format": 3, "node_type": "group"}
"""The metadata that another writer gives a batch whose own writer seems to be dead."""


def add_batch(folder: Path, name: RemotePath) -> bool:
    """Writes a batch of answers, which is in a local folder, to `name`. The batch counts once its `zarr.json` is there,
    which is written last. Returns False if another writer has taken the name.

    Raises:
        HpalError: the object store has no conditional puts, or cannot be reached.
    """
    # Every batch has this object, so the writer that puts it first has the name.
    claim, last = folder / "scene" / "zarr.json", folder / "zarr.json"
    others = [path for path in folder.rglob("*") if path.is_file() and path not in (claim, last)]

    def put(file: Path) -> bool:
        return _put_new(name, f"{name.key}/{file.relative_to(folder).as_posix()}", file.read_bytes())

    # If the answer to a put is lost, it is sent again and refused. By the writer's name it is known as its own then.
    signed = {**json.loads(claim.read_bytes()), "attributes": {"writer": uuid.uuid4().hex}}
    claim.write_text(json.dumps(signed, indent=2))
    if not put(claim) and (name / "scene" / "zarr.json").read_bytes() != claim.read_bytes():
        _wait_for(name)
        return False
    if put(claim):
        problem = "overwrites an object in spite of If-None-Match, so that two who answer at once could lose answers"
        raise HpalError(name.parent.parent, problem, "keep the labels on a disk, or in a store that does not")
    in_flight(put, others)
    return put(last) or json.loads((name / "zarr.json").read_bytes()) == json.loads(last.read_bytes())


def _wait_for(name: RemotePath) -> None:
    """Waits until the batch that another writer has begun is complete. After `BATCH_TIMEOUT` seconds an empty batch is
    put in its place, and its writer, if it lives, takes another name."""
    marker = name / "zarr.json"
    until = time.monotonic() + BATCH_TIMEOUT
    while not marker.exists():
        if time.monotonic() > until:
            _put_new(name, marker.key, json.dumps(_VOID).encode())
            return
        time.sleep(0.05)


def _put_new(name: RemotePath, key: str, data: bytes) -> bool:
    """Writes an object unless it exists already. Returns whether it was written.

    Raises:
        HpalError: the object store has no conditional puts, or cannot be reached.
    """
    from obstore.exceptions import AlreadyExistsError, NotSupportedError, PreconditionError

    with reached(name):
        try:
            name.objects.put(key, data, mode="create")
        except (AlreadyExistsError, PreconditionError):
            return False
        except NotSupportedError as error:
            problem = "cannot refuse an object that is there (If-None-Match), so that two who answer could lose answers"
            raise HpalError(name.parent.parent, problem, "keep the labels on a disk") from error
    return True


def copy_scenes(source: RemotePath, target: RemotePath, names: Sequence[str]) -> None:
    """Copies the groups of scenes from a store to another one in its bucket. The object store copies them itself."""
    groups = {above for name in names for above in ("scenes", *outer_names(f"scenes/{name}"))}
    keys = [f"{group}/zarr.json" for group in sorted(groups)]
    with reached(source):
        for name in names:
            for batch in source.objects.list(f"{source.key}/scenes/{name}/", chunk_size=1000):
                keys += [one["path"].removeprefix(f"{source.key}/") for one in batch]

    def copy(key: str) -> None:
        with reached(source), contextlib.suppress(FileNotFoundError):
            source.objects.copy(f"{source.key}/{key}", f"{target.key}/{key}")

    in_flight(copy, keys)


def remove(path: RemotePath) -> None:
    """Removes a store, and first the `zarr.json` that makes it one."""
    with reached(path):
        path.objects.delete(f"{path.key}/zarr.json")
    remove_below(path)


def remove_below(path: RemotePath, *, but: str = "") -> None:
    """Removes all objects below `path`, except the one called `but`."""
    with reached(path):
        for batch in path.objects.list(f"{path.key}/", chunk_size=1000):
            keys = [one["path"] for one in batch if one["path"] != but]
            if keys:
                path.objects.delete(keys)
