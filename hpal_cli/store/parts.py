"""A store that several calls write: each writes a part of the scenes, and the one that ends last puts the parts
together (docs/formats.md section 1.7)."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from hpal_cli import system
from hpal_cli.errors import HpalError, UsageError
from hpal_cli.history import from_json, to_json
from hpal_cli.progress import Monitor
from hpal_cli.scene_table import SceneInfo, SceneTable
from hpal_cli.shard import Shard
from hpal_cli.store import envelope
from hpal_cli.store.files import require_absent
from hpal_cli.store.remote import RemotePath
from hpal_cli.wording import counted

Item = TypeVar("Item")

_OWN = ("id", "scenes", "history", "part")
"""The root members in which parts of one store may differ."""

_WITH_VALUE = ("--shard", "--jobs", "--scheduler", "--device", "--color", "--progress")
_FLAGS = ("--resume", "--overwrite", "--keep-going", "-q", "--quiet", "-v", "--verbose")
"""Options that change how a part is made, and not what is in it."""

_REMEDY = "remove that part, and run its task again with the options of the others"


@dataclass(frozen=True)
class Progress:
    """How many of the parts of a store are there, and whether the store is, because this call or another one has put
    them together."""

    have: int
    parts: int
    joined: bool


@contextlib.contextmanager
def written(out: Path, shard: Shard | None, *, overwrite: bool, monitor: Monitor) -> Iterator[Path]:
    """Yields where a store is to be written: at `out` or, if only a part of it is, beside it. When the block ends well
    and all parts are there, they become the store `out`.

    Raises:
        HpalError: `out` exists and may not be replaced, or the parts do not belong together.
    """
    if shard is None:
        yield out
        return
    require_absent(out, overwrite=overwrite, folder=True)
    yield part_path(out, shard)
    progress = join(out, shard.parts, overwrite=overwrite)
    whole = f"all are there, and {out} is complete" if progress.joined else f"{progress.have} so far"
    monitor.note(f"part {shard.part} of {shard.parts} is written; {whole}")


def part_path(path: Path, shard: Shard) -> Path:
    """Where a part of the store `path` is written: beside it."""
    return path.with_name(f".{path.name}.{shard.part}-of-{shard.parts}.part")


def of(shard: Shard | None, scenes: Sequence[Item]) -> list[Item]:
    """The scenes of a part; all of them for None.

    Raises:
        UsageError: there are more parts than scenes, so that some would hold none.
    """
    if shard is None:
        return list(scenes)
    if shard.parts > len(scenes):
        there = counted(len(scenes), "scene")
        raise UsageError("--shard", f"{shard.parts} parts are too many for {there}", "give fewer parts")
    return shard.of(scenes)


def attribute(shard: Shard | None, scenes: Sequence[SceneInfo]) -> dict[str, list[str]]:
    """The root member by which a part of predictions says which scenes it holds."""
    return {} if shard is None else {"part": [scene.name for scene in scenes]}


def join(path: Path, parts: int, *, overwrite: bool) -> Progress:
    """Puts the parts of the store `path` together, if all of them are complete, and removes them.

    Scenes are merged by name. No array is read: on a disk the files of the parts get a second name in the new store,
    and on object storage the store copies them itself.

    Raises:
        HpalError: the parts do not belong together, or `path` exists and may not be replaced.
    """
    places = [part_path(path, Shard(n, parts)) for n in range(1, parts + 1)]
    with _lock(path) as lock:
        found = [about for place in places if (about := envelope.attributes_of(place)) is not None]
        found = [about for about in found if about.get("complete") is True]
        if len(found) < parts:
            # Another task may have put them together while this one waited for the lock.
            joined = not found and envelope.attributes_of(path) is not None
            return Progress(parts if joined else len(found), parts, joined)
        kind, attributes, held = _merged(found, places)
        try:
            with envelope.create(path, kind, attributes, overwrite=overwrite) as (root, folder):
                for place, names in zip(places, held, strict=True):
                    if isinstance(path, RemotePath) and isinstance(place, RemotePath):
                        from hpal_cli.store.objects import copy_scenes

                        copy_scenes(place, path, names)
                    else:
                        _link_scenes(place, folder, names)
                root.require_group("scenes")
        except HpalError:
            about = envelope.attributes_of(path)
            if not isinstance(path, RemotePath) or about is None:
                raise
            # There are no locks on object storage: another call puts the same parts together, or has done so.
            return Progress(parts, parts, about.get("complete") is True)
        for place in places:
            _remove(place)
        if lock is not None:
            # A call that waits for the lock then finds no parts, and a complete store.
            lock.unlink(missing_ok=True)
    return Progress(parts, parts, True)


def _merged(found: list[dict[str, Any]], places: list[Path]) -> tuple[str, dict[str, Any], list[list[str]]]:
    """The kind and the root members of the whole store, and the names of the scenes of each part.

    Raises:
        HpalError: the parts were made with different options, or from different scenes.
    """
    first = found[0]
    history = _history_without_shard(first)
    for about, place in zip(found, places, strict=True):
        for name in sorted({*first, *about} - set(_OWN)):
            if about.get(name) != first.get(name):
                raise HpalError(place, f"its {name} differs from that of {places[0].name}", _REMEDY)
        if _history_without_shard(about) != history:
            raise HpalError(place, f"was made by another command than {places[0].name}", _REMEDY)
    tables = [SceneTable.from_json(about["scenes"]) for about in found]
    held = [_names(table, about) for table, about in zip(tables, found, strict=True)]
    attributes = {name: value for name, value in first.items() if name not in ("spec", "kind", "complete", "part")}
    if first["kind"] == "scenes":
        every = sorted((info for table in tables for info in table), key=lambda info: info.name)
        whole = SceneTable([replace(info, number=n) for n, info in enumerate(every)])
        if len(whole.by_name) < len(whole):
            raise HpalError(places[0], "has a scene that another part has too", _REMEDY)
        attributes |= {"id": whole.id, "scenes": whole.to_json()}
    else:
        for about, place in zip(found, places, strict=True):
            if about.get("id") != first.get("id"):
                raise HpalError(place, f"belongs to other scenes than {places[0].name}", _REMEDY)
    return str(first["kind"]), {**attributes, "history": history}, held


def _names(table: SceneTable, about: Mapping[str, Any]) -> list[str]:
    """The names of the scenes of a part. A part of predictions has the table of all scenes, and `part` says which of
    them are its own. Only names of the table become paths."""
    own = None if "part" not in about else set(about["part"])
    return [info.name for info in table if own is None or info.name in own]


def _history_without_shard(about: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The history of a part without the options in which the commands of the parts may differ."""
    entries = []
    for entry in from_json(about.get("history", [])):
        args: list[str] = []
        given = iter(entry.args)
        for arg in given:
            if arg in _WITH_VALUE:
                next(given, None)
            elif arg not in _FLAGS and not arg.startswith(tuple(f"{name}=" for name in _WITH_VALUE)):
                args.append(arg)
        entries.append(replace(entry, args=tuple(args)))
    return to_json(entries)


def _link_scenes(place: Path, folder: Path, names: list[str]) -> None:
    """Raises:
    HpalError: a scene of the part is missing.
    """
    for name in names:
        source, target = place / "scenes" / name, folder / "scenes" / name
        if not source.is_dir():
            raise HpalError(place, f"lacks the scene {name}", _REMEDY)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(source, target, copy_function=_link)
        # The groups above a scene `a/b/c`.
        for above in target.relative_to(folder).parents:
            metadata = folder / above / "zarr.json"
            if above != Path() and not metadata.exists():
                shutil.copy(place / above / "zarr.json", metadata)


def _link(source: str, target: str) -> None:
    """A second name for a file, or a copy where the file system has no second names. Parts never change once they are
    complete."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _remove(place: Path) -> None:
    if isinstance(place, RemotePath):
        from hpal_cli.store.objects import remove

        remove(place)
    else:
        shutil.rmtree(place, ignore_errors=True)


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[Path | None]:
    """While the block runs, no other process is in such a block for the same store, unless the disk has no locks.
    Yields the file that is locked; None on object storage, which has no locks, but lets only one process write a
    store."""
    if isinstance(path, RemotePath):
        yield None
        return
    lock = path.with_name(f".{path.name}.parts.lock")
    held = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        with contextlib.suppress(OSError):
            while not system.lock(held):
                time.sleep(0.05)
        yield lock
    finally:
        os.close(held)
