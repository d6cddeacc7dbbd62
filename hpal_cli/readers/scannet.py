"""ScanNet v2: `<scene>_vh_clean_2.ply`, with files of labels beside it if the labels are public.

The labels are read from `<scene>_vh_clean_2.labels.ply`, or from the files from which ScanNet made that file:
`<scene>.aggregation.json` (objects as lists of segments), `<scene>_vh_clean_2.0.010000.segs.json` (the segment of each
vertex) and the data set's table of categories. The table has both NYU's and ScanNet's own numbers of categories;
ScanNet's are used if the class table has a number above 40, which is the highest of NYU's.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpal_cli.classes import IGNORE, ClassTable, Numbers, SemanticClass
from hpal_cli.errors import HpalError
from hpal_cli.readers import columns, ply
from hpal_cli.readers.cloud import Cloud, Options, Source
from hpal_cli.readers.files import in_order, walk_files

NAME = "scannet"
_SUFFIX = "_vh_clean_2.ply"
_SEGMENTS = "_vh_clean_2.0.010000.segs.json"
_OBJECTS = ".aggregation.json"
_CATEGORIES = "scannetv2-labels.combined.tsv"
_PARENT_FOLDERS = 4
"""Number of folders in which the table of categories is looked for: that of the scene, `scans`, that of the data set,
and the one above."""

_REMEDY = "fetch the scene again"
# The 20 classes of the benchmark, by their numbers among the 40 NYU classes.
_NYU = {
    1: ("wall", (174, 199, 232)),
    2: ("floor", (152, 223, 138)),
    3: ("cabinet", (31, 119, 180)),
    4: ("bed", (255, 187, 120)),
    5: ("chair", (188, 189, 34)),
    6: ("sofa", (140, 86, 75)),
    7: ("table", (255, 152, 150)),
    8: ("door", (214, 39, 40)),
    9: ("window", (197, 176, 213)),
    10: ("bookshelf", (148, 103, 189)),
    11: ("picture", (196, 156, 148)),
    12: ("counter", (23, 190, 207)),
    14: ("desk", (247, 182, 210)),
    16: ("curtain", (219, 219, 141)),
    24: ("refrigerator", (255, 127, 14)),
    28: ("shower curtain", (158, 218, 229)),
    33: ("toilet", (44, 160, 44)),
    34: ("sink", (112, 128, 144)),
    36: ("bathtub", (227, 119, 194)),
    39: ("otherfurniture", (82, 84, 163)),
}
_NYU_CLASSES = 40
_OTHERS = tuple(n for n in range(1, _NYU_CLASSES + 1) if n not in _NYU)
"""Numbers of the NYU classes that the benchmark ignores."""

CLASSES: ClassTable | None = ClassTable(
    (SemanticClass(n, name, colour, (code,)) for n, (code, (name, colour)) in enumerate(_NYU.items())),
    ignored=Numbers(_OTHERS),
)


def find(root: Path, options: Options) -> list[Source]:
    """Each cleaned mesh, in any folder under `root`, is one scene; its name does not include the folders."""
    paths = [root] if root.is_file() else walk_files(root)
    return in_order(Source(p.name.removesuffix(_SUFFIX), p, _labels(p)) for p in paths if p.name.endswith(_SUFFIX))


def _labels(path: Path) -> tuple[Path, Path, Path]:
    """The paths of the labels of a mesh, whether they exist or not: the mesh with labels, the objects, the segments."""
    stem = path.name.removesuffix(_SUFFIX)
    names = (path.name.removesuffix(".ply") + ".labels.ply", stem + _OBJECTS, stem + _SEGMENTS)
    labels, objects, segments = (path.with_name(name) for name in names)
    return labels, objects, segments


def count(source: Source) -> int | None:
    """The number of vertices in the header of the mesh."""
    return ply.count(source)


def read(source: Source, options: Options) -> Iterator[Cloud]:
    """The vertices of the mesh, with NYU's numbers from 1 to 40 as labels, -1 for others; without files of labels the
    cloud has no labels.

    If `options.classes` has a number above 40, as ScanNet200 does, the labels are ScanNet's own numbers, -1 for those
    without a class. They are read from the objects and segments, because the mesh with labels has NYU's numbers.

    Raises:
        HpalError: a file is damaged or missing, or the files have different numbers of vertices.
    """
    path = source.path
    cloud = columns.cloud(ply.vertices(path), path)
    cloud.attributes.pop("alpha", None)  # always opaque
    cloud.unit = 1.0
    count = len(cloud.xyz)
    labels, objects, _ = _labels(path)
    wanted = [code for c in options.classes or () for code in c.codes]
    own = max(wanted, default=0) > _NYU_CLASSES
    numbers = None
    if labels.is_file() and not own:
        numbers = _from_ply(labels, path, count)
    elif objects.is_file():
        numbers, cloud.carried["instance"] = _from_objects(objects, path, count, "id" if own else "nyu40id")
    elif labels.is_file():
        problem = f"is missing, and {labels.name} has numbers of NYU's {_NYU_CLASSES} classes alone"
        raise HpalError(objects, problem, "fetch it too, or give --classes scannet20")
    if numbers is not None:
        known = np.isin(numbers, wanted) if own else (numbers >= 1) & (numbers <= _NYU_CLASSES)
        cloud.label = np.where(known, numbers, IGNORE)
    yield cloud


def _from_ply(labels: Path, path: Path, count: int) -> NDArray[np.int64]:
    numbers = ply.vertices(labels).get("label")
    if numbers is None:
        raise HpalError(labels, "the vertices have no label", _REMEDY)
    if len(numbers) != count:
        problem = f"has {len(numbers)} vertices, but {path.name} has {count}"
        raise HpalError(labels, problem, "fetch both files of the scene again")
    return columns.labels(numbers, labels)


def _from_objects(objects: Path, path: Path, count: int, column: str) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """(N,) the number of each vertex's category, 0 outside of all objects, and (N,) the number of its object, -1
    outside of all objects. column: that of the data set's table with the numbers of the categories."""
    segments = _labels(path)[2]
    if not segments.is_file():
        raise HpalError(segments, f"is missing beside {objects.name}", _REMEDY)
    of_vertex = _whole_numbers(_json(segments, "segIndices"), segments, "segIndices")
    if len(of_vertex) != count:
        problem = f"has {len(of_vertex)} segIndices, but {path.name} has {count} vertices"
        raise HpalError(segments, problem, "fetch both files of the scene again")
    numbered = _numbers_of_categories(path, column)
    numbers, instances = np.zeros(count, np.int64), np.full(count, -1, np.int32)
    groups = _json(objects, "segGroups")
    for place, group in enumerate(groups if isinstance(groups, list) else [groups]):
        if not (isinstance(group, dict) and isinstance(group.get("label"), str) and "segments" in group):
            raise HpalError(objects, f"object {place} has no label or no segments", _REMEDY)
        own = np.isin(of_vertex, _whole_numbers(group["segments"], objects, f"segments of object {place}"))
        numbers[own] = numbered.get(group["label"], 0)
        instances[own] = place
    return numbers, instances


def _json(path: Path, key: str) -> Any:
    try:
        return json.loads(path.read_bytes())[key]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        problem = f"has no {key}" if isinstance(error, KeyError) else f"cannot be read as JSON with {key} ({error})"
        raise HpalError(path, problem, _REMEDY) from error


def _whole_numbers(values: Any, path: Path, what: str) -> NDArray[np.int64]:
    try:
        array = np.array(values)
        if array.ndim == 1 and (array.dtype.kind in "iu" or not array.size):
            return array.astype(np.int64)
    except ValueError:
        pass
    raise HpalError(path, f"{what}: not a list of whole numbers", _REMEDY)


def _numbers_of_categories(path: Path, column: str) -> dict[str, int]:
    folders = list(path.absolute().parents[:_PARENT_FOLDERS])
    for folder in folders:
        if (folder / _CATEGORIES).is_file():
            return _table(folder / _CATEGORIES, column)
    raise HpalError(
        path,
        f"its labels need the data set's {_CATEGORIES}, which is neither beside it nor in the folders above",
        f"copy it to {folders[-2]} (ScanNet's download script fetches it with --label_map)",
    )


@cache
def _table(path: Path, column: str) -> dict[str, int]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return {row["raw_category"]: int(row[column] or 0) for row in csv.DictReader(file, delimiter="\t")}
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise HpalError(
            path, f"has no columns raw_category and {column} that can be read ({error!r})", _REMEDY
        ) from error
