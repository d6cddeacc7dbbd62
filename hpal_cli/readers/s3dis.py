"""S3DIS: a folder a room, with one text file an object, `Area_6/office_1/Annotations/chair_1.txt`."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hpal_cli.errors import HpalError
from hpal_cli.parallel import cores
from hpal_cli.readers import number_table
from hpal_cli.readers.cloud import Cloud, Options, Source
from hpal_cli.readers.files import in_order
from hpal_cli.scenes.classes import ClassTable, SemanticClass

NAME = "s3dis"
LINE = 29
_SHORTEST_LINE = 12
_THREADS = 2
"""A room has too few points for more."""

_COLOURS = {
    "ceiling": (0, 255, 0),
    "floor": (0, 0, 255),
    "wall": (0, 255, 255),
    "beam": (255, 255, 0),
    "column": (255, 0, 255),
    "window": (100, 100, 255),
    "door": (200, 200, 100),
    "table": (170, 120, 200),
    "chair": (255, 0, 0),
    "sofa": (200, 100, 100),
    "bookcase": (10, 200, 100),
    "board": (200, 200, 200),
    "clutter": (50, 50, 50),
}
CLASSES: ClassTable | None = ClassTable(
    SemanticClass(n, name, colour, n) for n, (name, colour) in enumerate(_COLOURS.items())
)
_IDS = {name: n for n, name in enumerate(_COLOURS)}
_IDS["stairs"] = _IDS["clutter"]

# Area_5/hallway_6 has one of these inside a number.
_CONTROL = bytes(b for b in (*range(32), 127) if b not in b"\t\n\r")


def find(root: Path, options: Options) -> list[Source]:
    """Rooms: folders with an `Annotations` folder, at most three levels down.

    A name begins with the area's own folder, wherever the search began.
    """
    rooms = {path.parent for stars in range(4) for path in root.glob("*/" * stars + "Annotations") if path.is_dir()}
    return in_order(Source(_name(room, root), room) for room in rooms)


def _name(room: Path, root: Path) -> str:
    parts = Path(os.path.abspath(room)).parts
    areas = [n for n, part in enumerate(parts[:-1]) if re.fullmatch(r"Area_\w+", part)]
    if areas:
        return "/".join(parts[areas[-1] :])
    return room.name if room == root else room.relative_to(root).as_posix()


def count(source: Source) -> int:
    """From the size of the files: a line has some 29 bytes."""
    return sum(path.stat().st_size for path in (source.path / "Annotations").glob("*.txt")) // LINE


def read(source: Source, options: Options) -> Iterator[Cloud]:
    """All objects of a room, in the order of their file names, in a block a thread.

    Raises:
        HpalError: no objects, an unknown class, or a line that is not `x y z r g b`.
    """
    folder = source.path / "Annotations"
    with os.scandir(folder) as entries:
        files = sorted((entry.name, entry.stat().st_size) for entry in entries if _is_object(entry.name))
    if not files:
        raise HpalError(folder, "holds no object files", "fetch the room again")
    for name, _ in files:
        if _class_of(name) not in _IDS:
            raise HpalError(
                folder / name,
                f"{_class_of(name)!r} is no S3DIS class",
                f"name the file <class>_<number>.txt, with one of {', '.join(_IDS)}",
            )
    first, *others = _shares(files, min(_THREADS, cores()))
    waiting = [_pool().submit(_objects, folder, share) for share in others]
    yield _objects(folder, first)
    for share in waiting:
        yield share.result()


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_THREADS - 1)


def _is_object(name: str) -> bool:
    return name.endswith(".txt") and not name.startswith(".")


def _class_of(name: str) -> str:
    return name.removesuffix(".txt").rpartition("_")[0]


def _shares(files: Sequence[tuple[str, int]], count: int) -> list[list[tuple[str, int]]]:
    """Files in their order, in up to `count` lists of about as many bytes."""
    whole = sum(size for _, size in files)
    shares: list[list[tuple[str, int]]] = [[] for _ in range(count)]
    before = 0
    for name, size in files:
        shares[min(count - 1, (2 * before + size) * count // (2 * whole or 1))].append((name, size))
        before += size
    return [share for share in shares if share]


def _objects(folder: Path, files: Sequence[tuple[str, int]]) -> Cloud:
    # The shortest line has 12 bytes; memory that no line fills is never touched.
    most = sum(size // _SHORTEST_LINE + 1 for _, size in files)
    xyz, rgb = np.empty((most, 3)), np.empty((most, 3), np.uint8)
    columns = [*xyz.T, *rgb.T]
    paths = [f"{folder}{os.sep}{name}" for name, _ in files]
    counts: list[int] = []
    notes: list[str] = []
    filled = 0
    while len(counts) < len(files):
        counts += number_table.files_into(paths[len(counts) :], [column[filled:] for column in columns], finite=True)
        filled = sum(counts)
        if len(counts) < len(files):
            values = _closely(Path(paths[len(counts)]), notes)
            rows = slice(filled, filled + len(values))
            xyz[rows], rgb[rows] = values[:, :3], np.rint(values[:, 3:])
            counts.append(len(values))
            filled += len(values)
    label = np.repeat(np.array([_IDS[_class_of(name)] for name, _ in files], np.int64), counts)
    return Cloud(xyz[:filled], rgb[:filled], label, notes=notes, unit=1.0)


def _closely(path: Path, notes: list[str]) -> NDArray[np.float64]:
    """A file that is not quite as it should be, as (N, 6).

    Raises:
        HpalError: it is still not so without its control bytes.
    """
    data = path.read_bytes()
    clean = data.translate(None, _CONTROL)
    if len(clean) < len(data):
        notes.append(f"{path.name}: read past {len(data) - len(clean)} control byte(s)")
    values = number_table.parse(clean, 6, path, finite=True)
    if len(values) and not (values[:, 3:].min() >= 0 and values[:, 3:].max() <= 255):
        raise HpalError(path, "has colours outside 0..255", "fetch the file again")
    return values
