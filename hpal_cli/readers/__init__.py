"""Readers of raw clouds: one module for each format, all with the same three functions."""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Container, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from hpal_cli.classes import ClassTable
from hpal_cli.errors import HpalError, UsageError
from hpal_cli.readers import e57, las, numpy_files, nuscenes, pcd, ply, ptx, s3dis, scannet, semantickitti, text
from hpal_cli.readers.cloud import Cloud, Options, Source
from hpal_cli.readers.colours import ColourRange
from hpal_cli.readers.remote import fetched

Value = TypeVar("Value")


class Reader(Protocol):
    """What each module of `READERS` offers. To support a further format, add such a module."""

    NAME: str
    """The name of the format for `--format`."""

    CLASSES: ClassTable | None
    """The class table of the format; None if it has none of its own."""

    def find(self, root: Path, options: Options) -> list[Source]:
        """The scenes under a folder, or in one file, found without reading points; [] if there are none."""

    def count(self, source: Source) -> int | None:
        """About how many points a scene has, from a header or the size of the file; None if unknown. It is used for the
        progress bar only, because it may be wrong."""

    def read(self, source: Source, options: Options) -> Iterator[Cloud]:
        """The points of one scene, block by block.

        Raises:
            HpalError: the file is damaged or not of this format.
        """


READERS: tuple[Reader, ...] = (s3dis, scannet, nuscenes, las, ply, pcd, e57, ptx, semantickitti, text, numpy_files)
"""The readers in the order in which they are tried: folder layouts that are recognised by their names come before
single files."""

_LOOKED_FOR = (
    "Area_*/room/Annotations/*.txt, *_vh_clean_2.ply, .pcd.bin, .las/.laz, ept.json, .ply, .pcd, .e57, .ptx, "
    "velodyne/*.bin, .xyz/.txt/.csv/.pts/.asc with points, .npy/.npz"
)
_OWN_ARRAYS = {"xyz", "rgb", "label", "original", "inverse", "source_file", "source_row"}
_EVERYTHING = Options()

_NAME_COLUMNS = "name them from left to right, such as --columns x,y,z,r,g,b,label,-"

BLACK = "the colours are all zero: read as a cloud without colour"


def find(root: Path, format: str | None = None, options: Options = _EVERYTHING) -> tuple[Reader, list[Source]]:
    """The first reader that finds scenes under `root` (or the reader of `format`), and its scenes with safe names,
    sorted.

    Raises:
        UsageError: there is no such format.
        HpalError: there is no such folder, it holds nothing to read, or two scenes have the same name.
    """
    names = [reader.NAME for reader in READERS]
    if format is not None and format not in names:
        raise UsageError("--format", f"there is no format {format!r}", f"choose one of {', '.join(names)}")
    if not root.exists():
        raise HpalError(root, "does not exist", "check the path")
    for reader in READERS:
        if format in (None, reader.NAME) and (sources := reader.find(root, options)):
            return reader, _with_unique_names(root, sources)
    if root.is_dir() and not any(root.iterdir()):
        raise HpalError(root, f"is an empty folder; looked for {_LOOKED_FOR}", "give the folder of the scans")
    if format in (None, text.NAME) and options.columns is None and (tables := text.unnamed(root, options)):
        path, columns = tables[0]
        raise HpalError(path, f"has {columns} columns, and nothing says what they are", _NAME_COLUMNS)
    what = "scans" if format is None else f"{format} scans"
    raise HpalError(root, f"holds no {what}; looked for {_LOOKED_FOR}", "check the path and --format")


def passed_over(root: Path, reader: Reader, sources: list[Source], options: Options = _EVERYTHING) -> str | None:
    """A note on the scans of other formats under `root`, which are not read; None if there are none.

    sources: what `find` found for `reader`. Files in the folder of a scene are taken to belong to that scene.
    """
    folders = {source.path if source.path.is_dir() else source.path.parent for source in sources}
    if reader not in (s3dis, scannet):
        folders = {source.path for source in sources}
    own = {os.path.abspath(folder) for folder in folders}
    others = []
    for other in READERS if root.is_dir() else ():
        if other is reader:
            continue
        paths = [source.path for source in other.find(root, options)]
        paths = [path for path in paths if own.isdisjoint(map(os.path.abspath, (path, *path.parents)))]
        if paths:
            kinds = Counter("folder" if path.is_dir() else f"{path.suffix.lower()} file" for path in paths)
            names = " and ".join(f"{count} {kind}{'s' * (count > 1)}" for kind, count in sorted(kinds.items()))
            others.append(f"{names} (--format {other.NAME} reads {'it' if len(paths) == 1 else 'those'})")
    if reader is text and root.is_dir() and options.columns is None and (tables := text.unnamed(root, options)):
        path, columns = tables[0]
        more = f", and {len(tables) - 1} more such" if len(tables) > 1 else ""
        others.append(f"{path.name}, whose {columns} columns have no names{more} (--columns names them)")
    return f"read as {reader.NAME}; passed over {', '.join(others)}" if others else None


def blocks(reader: Reader, source: Source, options: Options = _EVERYTHING, *, strict: bool = False) -> Iterator[Cloud]:
    """The points of one scene, block by block, after checks: all columns have the same length, positions are finite,
    and there is at least one point.

    Attributes get names that are safe and differ from those of a store's own arrays. Points whose position is NaN or
    infinite are left out, and the last block has a note of how many.

    Raises:
        HpalError: the file cannot be read or fails a check; or, with `strict`, a position is not finite.
    """
    given = dropped = 0
    last: Cloud | None = None
    try:
        with fetched(source) as here:
            for cloud in reader.read(here, options):
                if last is not None:
                    yield last
                _check_lengths(cloud, source)
                for columns in (cloud.attributes, cloud.carried):
                    rename_safely(columns, cloud.columns)
                good = _finite(cloud.xyz)
                count = len(cloud.xyz)
                if strict and not good.all():
                    problem = f"point {given + int(good.argmin())} has NaN or infinite coordinates"
                    raise HpalError(source.path, problem, "remove such points, or leave --strict out")
                dropped += count - int(good.sum())
                last = cloud
                if dropped:
                    keep = np.flatnonzero(good)
                    last = replace(cloud.take(keep), rows=given + keep)
                given += count
                last.given = given
    except OSError as error:
        raise HpalError(source.path, f"cannot be read ({error.strerror or error})", "check the file") from error
    if last is None or given == 0:
        raise HpalError(source.path, "has no points", "remove it from the folder, or fetch it again")
    if dropped == given:
        raise HpalError(source.path, "has no point with finite coordinates", "fetch it again")
    if dropped:
        last.notes.append(f"left out {dropped:,} of {given:,} points, whose coordinates are NaN or infinite")
    yield last


def read(reader: Reader, source: Source, options: Options = _EVERYTHING, *, strict: bool = False) -> Cloud:
    """The same as `blocks`, but all points at once, with colours as bytes.

    Raises:
        HpalError: as for `blocks`, or the colours are in no range that is known.
    """
    parts = list(blocks(reader, source, options, strict=strict))
    colours = ColourRange()
    for part in parts:
        if part.rgb is not None:
            colours.update(part.rgb)
    colours.check(source.path)
    if colours.black:
        parts[-1].notes.append(BLACK)

    def joined(columns: list[np.ndarray]) -> np.ndarray:
        return np.concatenate(columns) if len(columns) > 1 else columns[0]

    def joined_or_none(columns: list[np.ndarray | None]) -> np.ndarray | None:
        arrays = [column for column in columns if column is not None]
        return joined(arrays) if len(arrays) == len(parts) else None

    rgb, label = joined_or_none([part.rgb for part in parts]), joined_or_none([part.label for part in parts])
    rows = [part.rows for part in parts]
    if any(given is not None for given in rows):
        # Only the blocks before the first point that was left out have no rows.
        starts = np.cumsum([0, *(len(part.xyz) for part in parts)])
        rows = [
            np.arange(start, start + len(part.xyz)) if given is None else given
            for start, part, given in zip(starts, parts, rows, strict=False)
        ]
    first = parts[0]
    return replace(
        first,
        xyz=joined([part.xyz for part in parts]),
        # Colours that are all zero, and labels that are all -1, mean that there are none.
        rgb=None if rgb is None or colours.black else colours.to_bytes(rgb),
        label=None if label is None or (label < 0).all() else label,
        attributes={name: joined([part.attributes[name] for part in parts]) for name in first.attributes},
        carried={name: joined([part.carried[name] for part in parts]) for name in first.carried},
        notes=[note for part in parts for note in part.notes],
        rows=joined_or_none(rows),
    )


def _finite(xyz: NDArray[np.float64]) -> NDArray[np.bool_]:
    """(N,) whether each point has a finite position. xyz: (N, 3)."""
    # If the sum is finite, all terms are; to compute it takes a tenth of the time of a test of each number.
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(xyz.sum()):
            return np.ones(len(xyz), np.bool_)
    return np.asarray(np.isfinite(xyz).all(axis=1))


def _check_lengths(cloud: Cloud, source: Source) -> None:
    """Requires that all columns have the same length.

    Raises:
        HpalError: they do not.
    """
    count = len(cloud.xyz)
    for name, values in cloud.columns.items():
        if len(values) != count:
            raise HpalError(
                source.path,
                f"has {count} points, but {len(values)} values of {name}",
                "give one value for each point",
            )


def rename_safely(columns: dict[str, Value], taken: Container[str]) -> None:
    """Renames columns, in place and in the same order, so that they can be arrays of a store beside its own ones and
    beside those in `taken`."""
    for name in list(columns):
        safe = safe_name(name.replace("/", "_"))
        while safe in _OWN_ARRAYS or (safe != name and (safe in columns or safe in taken)):
            safe += "_"
        columns[safe] = columns.pop(name)


def safe_name(name: str) -> str:
    """A name in ASCII that stays within its folder and needs no quotes in a shell: `a b/../Büro` -> `a_b/__/Buro`."""
    segments = []
    for segment in name.split("/"):
        plain = "".join(c for c in unicodedata.normalize("NFKD", segment) if not unicodedata.combining(c))
        segment = re.sub(r"[^A-Za-z0-9._-]", "_", plain)
        if set(segment) == {"."}:
            segment = "_" * len(segment)
        if segment == "zarr.json":
            segment += "_"  # a store's own file
        if segment:
            segments.append(segment)
    return "/".join(segments) or "_"


def _with_unique_names(root: Path, sources: list[Source]) -> list[Source]:
    """The sources with safe names, sorted by them. If different names give the same safe name, digits of a hash are
    appended.

    Raises:
        HpalError: two sources have the same name.
    """
    paths: dict[str, Path] = {}
    for source in sources:
        if source.name in paths:
            raise HpalError(
                root,
                f"two scenes are called {safe_name(source.name)!r} ({paths[source.name]} and {source.path})",
                "rename one of them",
            )
        paths[source.name] = source.path
    safe = Counter(safe_name(name) for name in paths)
    named = []
    for source in sources:
        name = safe_name(source.name)
        if safe[name] > 1 and name != source.name:
            name += "-" + hashlib.sha256(source.name.encode("utf-8", "surrogateescape")).hexdigest()[:6]
        named.append(replace(source, name=name))
    return sorted(named, key=lambda source: source.name)
