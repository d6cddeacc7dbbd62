"""Finds the files under a folder, for formats in which each file is a scene, and names the scenes."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from hpal_cli.readers.cloud import Source


def walk_files(root: Path) -> Iterator[Path]:
    """The files under a folder, sorted, without hidden files (`._x.ply`) and files in hidden folders."""
    for path in sorted(root.rglob("*")):
        if not any(part.startswith(".") for part in path.relative_to(root).parts) and path.is_file():
            yield path


def loose_files(root: Path, suffixes: Collection[str]) -> list[Source]:
    """One scene for each file with one of the suffixes. If `root` is a file, the scene has the name of the file without
    its suffix, else its path below `root` without the suffix."""
    if root.is_file():
        return [Source(root.stem, root)] if root.suffix.lower() in suffixes else []
    return in_order(
        Source(path.relative_to(root).with_suffix("").as_posix(), path)
        for path in walk_files(root)
        if path.suffix.lower() in suffixes
    )


def count_records(source: Source, size: int) -> int | None:
    """The number of points of a file that has nothing but a record of `size` bytes for each; None if there is no such
    file."""
    try:
        return source.path.stat().st_size // size
    except OSError:
        return None


def in_order(sources: Iterable[Source]) -> list[Source]:
    return sorted(sources, key=lambda source: (source.name, str(source.path)))
