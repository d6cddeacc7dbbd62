"""S3DIS: a folder for each room, with a text file for each object, `Area_6/office_1/Annotations/chair_1.txt`."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from hpal_cli.classes import ClassTable, SemanticClass
from hpal_cli.errors import HpalError
from hpal_cli.readers import number_files, number_table
from hpal_cli.readers.cloud import Cloud, Options, Source
from hpal_cli.readers.files import in_order
from hpal_cli.readers.number_files import TextFile

NAME = "s3dis"
LINE = 29

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
    SemanticClass(n, name, colour, (n,)) for n, (name, colour) in enumerate(_COLOURS.items())
)
_IDS = {name: n for n, name in enumerate(_COLOURS)}
_IDS["stairs"] = _IDS["clutter"]


def find(root: Path, options: Options) -> list[Source]:
    """The rooms: folders with an `Annotations` folder, at most three levels below `root`. The name of a room begins
    with the folder of its area, even if `root` is that folder or one within it."""
    rooms = {path.parent for stars in range(4) for path in root.glob("*/" * stars + "Annotations") if path.is_dir()}
    return in_order(Source(_name(room, root), room) for room in rooms)


def _name(folder: Path, root: Path) -> str:
    parts = Path(os.path.abspath(folder)).parts
    areas = [n for n, part in enumerate(parts[:-1]) if re.fullmatch(r"Area_\w+", part)]
    if areas:
        return "/".join(parts[areas[-1] :])
    return folder.name if folder == root else folder.relative_to(root).as_posix()


def count(source: Source) -> int:
    """About how many points there are, from the size of the files: a line has about `LINE` bytes."""
    paths = (source.path / "Annotations").glob("*.txt")
    return sum(path.stat().st_size for path in paths if path.is_file()) // LINE


def read(source: Source, options: Options) -> Iterator[Cloud]:
    """The points of all objects of a room, in the order of their file names.

    Raises:
        HpalError: there are no objects, a class is unknown, or a line is not `x y z r g b`.
    """
    folder = f"{source.path}{os.sep}Annotations"
    names = sorted(filter(_is_object, os.listdir(folder)))
    if not names:
        raise HpalError(Path(folder), "holds no object files", "fetch the room again")
    files = []
    for name in names:
        path, what = f"{folder}{os.sep}{name}", _class_of(name)
        if what not in _IDS:
            remedy = f"name the file <class>_<number>.txt, with one of {', '.join(_IDS)}"
            raise HpalError(Path(path), f"{what!r} is no S3DIS class", remedy)
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise HpalError(Path(path), "is no file", "remove it, or fetch the room again")
        files.append(TextFile(path, status.st_size, _IDS[what]))
    for found in number_files.read(files, 3, 3, finite=True):
        if isinstance(found, TextFile):
            yield _read_with_repairs(Path(found.path), found.number)
        else:
            yield Cloud(found.doubles, found.bytes, found.numbers, unit=1.0)


def _is_object(name: str) -> bool:
    return name.endswith(".txt") and not name.startswith(".")


def _class_of(name: str) -> str:
    return name.removesuffix(".txt").rpartition("_")[0]


def _read_with_repairs(path: Path, label: int) -> Cloud:
    """Reads a file that the fast parser refuses, with repairs: in Area_5/hallway_6, for example, there is a control
    byte in place of a blank.

    Raises:
        HpalError: a line cannot be read even with repairs.
    """
    repairs = number_table.Repairs()
    values = number_table.parse(path.read_bytes(), 6, path, finite=True, repairs=repairs)
    if len(values) and not (values[:, 3:].min() >= 0 and values[:, 3:].max() <= 255):
        raise HpalError(path, "has colours outside 0..255", "fetch the file again")
    rgb, labels = np.rint(values[:, 3:]).astype(np.uint8), np.full(len(values), label, np.int64)
    notes = [f"{path.name}: {note}" for note in repairs.notes]
    return Cloud(np.ascontiguousarray(values[:, :3]), rgb, labels, notes=notes, unit=1.0)
