"""SemanticKITTI: `sequences/NN/velodyne/NNNNNN.bin`, with `NN/labels/NNNNNN.label` where labels are public.

SemanticPOSS has the same layout and other numbers: `--classes semanticposs`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hpal_cli.classes import IGNORE, ClassTable, Numbers, SemanticClass
from hpal_cli.errors import HpalError
from hpal_cli.readers import files, nuscenes
from hpal_cli.readers.cloud import Cloud, Options, Source

NAME = "semantickitti"

# The benchmark's 19 of the classes in the files, by number.
_CLASSES = {
    10: ("car", (100, 150, 245)),
    11: ("bicycle", (100, 230, 245)),
    15: ("motorcycle", (30, 60, 150)),
    18: ("truck", (80, 30, 180)),
    20: ("other-vehicle", (0, 0, 255)),
    30: ("person", (255, 30, 30)),
    31: ("bicyclist", (255, 40, 200)),
    32: ("motorcyclist", (150, 30, 90)),
    40: ("road", (255, 0, 255)),
    44: ("parking", (255, 150, 255)),
    48: ("sidewalk", (75, 0, 75)),
    49: ("other-ground", (175, 0, 75)),
    50: ("building", (255, 200, 0)),
    51: ("fence", (255, 120, 50)),
    70: ("vegetation", (0, 175, 0)),
    71: ("trunk", (135, 60, 0)),
    72: ("terrain", (150, 240, 80)),
    80: ("pole", (255, 240, 150)),
    81: ("traffic-sign", (255, 0, 0)),
}
# Numbers that the benchmark counts as another class: moving things as standing ones, lane marking as road.
_COUNTS_AS = {
    13: 20, 16: 20, 60: 40, 252: 10, 253: 31, 254: 30, 255: 32, 256: 20, 257: 20, 258: 18, 259: 20,
    # unlabelled, outlier, other structure, other object
    0: IGNORE, 1: IGNORE, 52: IGNORE, 99: IGNORE,
}  # fmt: skip
CLASSES: ClassTable | None = ClassTable(
    (
        SemanticClass(n, name, colour, (code, *(number for number, counts in _COUNTS_AS.items() if counts == code)))
        for n, (code, (name, colour)) in enumerate(_CLASSES.items())
    ),
    ignored=Numbers(tuple(number for number, counts in _COUNTS_AS.items() if counts == IGNORE)),
)

_LIDARSEG = "_lidarseg.bin"
_NUMBERS = 4
"""Numbers of a point: x y z remission."""

_POINT = 4 * _NUMBERS
_OTHER_WIDTHS = (3, 5, 6, 7, 8)
"""How many numbers other programs write for each point in `.bin` files; mmdetection3d writes 6 for Waymo."""

_MIN_POINTS, _MIN_DIFFERENCE, _MIN_DISTANCE = 100, 0.2, 1e-3
"""Fewest points of a file whose rows may be read as another width than `_NUMBERS`; by how much the `_spread` of that
width must be smaller; and the least distance from the median that `_spread` distinguishes from 0."""

_REMEDY = "fetch the scan again"


def find(root: Path, options: Options) -> list[Source]:
    """Each `.bin` file is one scene. In the layout of the data set its name is `NN/NNNNNN`, else its path without the
    suffix."""
    return files.in_order(
        Source(_name(source.path) or source.name, source.path, _labels(source.path))
        for source in files.loose_files(root, {".bin"})
        if not source.path.name.endswith(nuscenes.SUFFIX) and not source.path.name.endswith(_LIDARSEG)
    )


def _labels(path: Path) -> tuple[Path, ...]:
    """The paths at which the labels of a sweep may be: in the layout of the data set, or beside the sweep."""
    layout = (path.parents[1] / "labels" / f"{path.stem}.label",) if path.parent.name == "velodyne" else ()
    return (*layout, path.with_suffix(".label"))


def _name(path: Path) -> str | None:
    path = path.absolute()
    return f"{path.parents[1].name}/{path.stem}" if path.parent.name == "velodyne" else None


def count(source: Source) -> int | None:
    """The number of points, from the size of the file."""
    return files.count_records(source, _POINT)


def read(source: Source, options: Options) -> Iterator[Cloud]:
    """One sweep, with the numbers of the files as labels; None without a label file. Remission is `intensity`.

    Raises:
        HpalError: files of impossible sizes.
    """
    path = source.path
    points = _rows(path)
    cloud = Cloud(points[:, :3].astype(np.float64), unit=1.0)
    cloud.attributes = {
        "intensity" if n == _NUMBERS - 1 else f"column_{n}": points[:, n].astype(np.float32)
        for n in range(3, points.shape[1])
    }
    if points.shape[1] != _NUMBERS:
        more = f" intensity and {points.shape[1] - _NUMBERS} more" if points.shape[1] > _NUMBERS else ""
        note = f"has {points.shape[1]} numbers for each point: read as x y z{more}"
        # SemanticKITTI's own files have four, so these are of another data set, which has other classes.
        note += "" if options.classes else "; its classes are taken for SemanticKITTI's (--classes names others)"
        cloud.notes.append(note)
    labels = next((labels for labels in _labels(path) if labels.is_file()), None)
    if labels is not None:
        if labels.stat().st_size != 4 * len(points):
            problem = f"has {labels.stat().st_size} bytes, not 4 for each of the {len(points)} points of {path.name}"
            raise HpalError(labels, problem, "fetch both files of the scan again")
        numbers = np.fromfile(labels, "<u4")
        cloud.label = (numbers & 0xFFFF).astype(np.int64)
        cloud.carried["instance"] = (numbers >> 16).astype(np.uint16)
    yield cloud


def _rows(path: Path) -> NDArray[np.float32]:
    """The numbers of a file as rows (N, 4), or as rows of one of `_OTHER_WIDTHS` if the numbers in each column then
    differ clearly less (`_spread`). If several widths give such columns, the smallest is taken, since the others are
    multiples of it.

    Raises:
        HpalError: the size is not that of whole points.
    """
    size, numbers = path.stat().st_size, np.fromfile(path, "<f4")
    width = _NUMBERS
    others = [w for w in _OTHER_WIDTHS if size % (4 * w) == 0 and size >= 4 * w * _MIN_POINTS]
    if others:
        spread = {width: _spread(numbers, width) for width in (_NUMBERS, *others)}
        width = next(width for width, its in spread.items() if its <= min(spread.values()) + _MIN_DIFFERENCE)
    if size % (4 * width):
        raise HpalError(path, f"has {size} bytes, not {_POINT} for each point", _REMEDY)
    return numbers.reshape(-1, width)


def _spread(numbers: NDArray[np.float32], width: int) -> float:
    """How much the numbers in a column differ if rows have this width: the mean over the columns of the logarithm of
    the mean distance from the median. In rows of a wrong width, columns mix metres with numbers from 0 to 1, and differ
    more."""
    columns = (np.nan_to_num(numbers[n::width].astype(np.float64)) for n in range(width))
    apart = [np.abs(column - np.median(column)).mean() for column in columns]
    return float(np.mean(np.log(np.maximum(apart, _MIN_DISTANCE))))
