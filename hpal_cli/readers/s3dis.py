"""S3DIS: a folder a room, with one text file an object, `Area_6/office_1/Annotations/chair_1.txt`."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from hpal_cli.errors import HpalError
from hpal_cli.readers import number_table
from hpal_cli.readers.cloud import Cloud, Options, Source
from hpal_cli.readers.files import in_order
from hpal_cli.scenes.classes import ClassTable, SemanticClass

NAME = "s3dis"
LINE = 35
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
    """From the size of the files: a line has some 35 bytes."""
    return sum(path.stat().st_size for path in (source.path / "Annotations").glob("*.txt")) // LINE


def read(source: Source, options: Options) -> Iterator[Cloud]:
    """All objects of a room, in the order of their file names, in one block.

    Raises:
        HpalError: no objects, an unknown class, or a line that is not `x y z r g b`.
    """
    folder = source.path / "Annotations"
    paths = sorted(path for path in folder.glob("*.txt") if not path.name.startswith("."))
    if not paths:
        raise HpalError(folder, "holds no object files", "fetch the room again")
    parts, labels, notes = [], [], []
    for path in paths:
        name = path.stem.rpartition("_")[0]
        if name not in _IDS:
            raise HpalError(
                path,
                f"{name!r} is no S3DIS class",
                f"name the file <class>_<number>.txt, with one of {', '.join(_IDS)}",
            )
        data = path.read_bytes()
        clean = data.translate(None, _CONTROL)
        if len(clean) < len(data):
            notes.append(f"{path.name}: read past {len(data) - len(clean)} control byte(s)")
        values = number_table.parse(clean, 6, path, finite=True)
        if len(values) and not (values[:, 3:].min() >= 0 and values[:, 3:].max() <= 255):
            raise HpalError(path, "has colours outside 0..255", "fetch the file again")
        parts.append(values)
        labels.append(np.full(len(values), _IDS[name], np.int64))
    room = np.concatenate(parts)
    rgb = np.rint(room[:, 3:]).astype(np.uint8)
    yield Cloud(np.ascontiguousarray(room[:, :3]), rgb, np.concatenate(labels), notes=notes, unit=1.0)
