"""Readers: raw clouds in, one module a format, all with the same two functions."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import numpy as np

from hpal_cli.errors import HpalError, UsageError
from hpal_cli.readers import las, numpy_files, ply, s3dis, scannet, text
from hpal_cli.readers.cloud import Cloud, Source
from hpal_cli.scenes.classes import ClassTable


class Reader(Protocol):
    """What each module of `READERS` offers; a further format is a further such module."""

    NAME: str
    """What `--format` calls it."""

    CLASSES: ClassTable | None
    """The classes that come with the format."""

    def find(self, root: Path) -> list[Source]:
        """Scenes under a folder, or in one file, without reading clouds; [] where there are none."""

    def read(self, source: Source) -> Cloud:
        """One scene; HpalError where the file is at fault."""


READERS: tuple[Reader, ...] = (s3dis, scannet, las, ply, text, numpy_files)
"""In the order of looking: layouts that name themselves come before loose files."""

_LOOKED_FOR = (
    "Area_*/room/Annotations/*.txt, *_vh_clean_2.ply, .las/.laz, .ply, .xyz/.txt/.csv/.pts/.asc with points, .npy/.npz"
)
_OWN_ARRAYS = {"xyz", "rgb", "label", "original"}


def find(root: Path, format: str | None = None) -> tuple[Reader, list[Source]]:
    """The first reader that finds scenes under `root` (or the named one), and its scenes by safe name.

    Raises:
        UsageError: no such format.
        HpalError: no such folder, nothing in it to read, or two scenes of one name.
    """
    names = [reader.NAME for reader in READERS]
    if format is not None and format not in names:
        raise UsageError("--format", f"there is no format {format!r}", f"choose one of {', '.join(names)}")
    if not root.exists():
        raise HpalError(root, "does not exist", "check the path")
    for reader in READERS:
        if format in (None, reader.NAME) and (sources := reader.find(root)):
            return reader, _named_once(root, sources)
    if root.is_dir() and not any(root.iterdir()):
        raise HpalError(root, f"is an empty folder; looked for {_LOOKED_FOR}", "give the folder of the scans")
    what = "scans" if format is None else f"{format} scans"
    raise HpalError(root, f"holds no {what}; looked for {_LOOKED_FOR}", "check the path and --format")


def read(reader: Reader, source: Source) -> Cloud:
    """One scene, checked: at least one point, finite positions, columns of one length.

    Attributes get safe names, apart from those of a store's own arrays.

    Raises:
        HpalError: the file cannot be read, or a check failed.
    """
    try:
        cloud = reader.read(source)
    except OSError as error:
        raise HpalError(source.path, f"cannot be read ({error.strerror or error})", "check the file") from error
    check(cloud, source)
    attributes: dict[str, np.ndarray] = {}
    for name, values in cloud.attributes.items():
        name = safe_name(name.replace("/", "_"))
        while name in _OWN_ARRAYS or name in attributes:
            name += "_"
        attributes[name] = values
    cloud.attributes = attributes
    return cloud


def check(cloud: Cloud, source: Source) -> None:
    """Raises:
    HpalError: no points, positions that are not finite, or columns of different lengths.
    """
    count = len(cloud.xyz)
    if count == 0:
        raise HpalError(source.path, "has no points", "remove it from the folder, or fetch it again")
    columns = {"rgb": cloud.rgb, "label": cloud.label, **cloud.attributes}
    for name, values in columns.items():
        if values is not None and len(values) != count:
            raise HpalError(
                source.path,
                f"has {count} points, but {len(values)} values of {name}",
                "give one value a point",
            )
    bad = ~np.isfinite(cloud.xyz).all(axis=1)
    if bad.any():
        problem = f"{int(bad.sum())} of {count} points have NaN or infinite coordinates"
        raise HpalError(source.path, f"{problem}, first point {int(bad.argmax())}", "remove those points")


def safe_name(name: str) -> str:
    """A scene's name that can neither leave a folder nor need quoting: `a b/../c` is `a_b/__/c`."""
    segments = []
    for segment in name.split("/"):
        segment = re.sub(r"[^A-Za-z0-9._-]", "_", segment)
        if set(segment) == {"."}:
            segment = "_" * len(segment)
        if segment:
            segments.append(segment)
    return "/".join(segments) or "_"


def _named_once(root: Path, sources: list[Source]) -> list[Source]:
    paths: dict[str, Path] = {}
    for source in sources:
        name = safe_name(source.name)
        if name in paths:
            raise HpalError(
                root,
                f"two scenes are called {name!r} ({paths[name]} and {source.path})",
                "rename one of them",
            )
        paths[name] = source.path
    by_path = [replace(source, name=safe_name(source.name)) for source in sources]
    return sorted(by_path, key=lambda source: source.name)
