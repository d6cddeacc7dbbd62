"""NumPy: `.npy` and `.npz` files, and the folders of Pointcept, one for each scene (`coord.npy`, `color.npy`, ...)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpal_cli import archives
from hpal_cli.classes import ClassTable
from hpal_cli.errors import HpalError
from hpal_cli.readers import columns, files
from hpal_cli.readers.cloud import Cloud, Options, Source
from hpal_cli.readers.number_table import ROWS
from hpal_cli.wording import first_line

NAME = "numpy"
CLASSES: ClassTable | None = None

_POSITIONS = ("coord", "coords", "xyz", "points")
_COLOURS = ("color", "colors", "colour", "colours", "rgb")
_LABELS = ("segment", "segment20", "label", "labels", "semantic", "semantics", "class", "classification")
_COORD = "coord.npy"
_NORMALS = {"normal": ("nx", "ny", "nz"), "normals": ("nx", "ny", "nz")}
_CARRIED = ("instance", "segment200")
"""Arrays of identifiers, whose mean over a grid cell has no meaning."""


def find(root: Path, options: Options) -> list[Source]:
    """Each `.npy` or `.npz` file, and each folder with a `coord.npy`, is one scene."""
    loose = files.loose_files(root, {".npy", ".npz"})
    if root.is_file():
        return loose
    folders = {source.path.parent for source in loose if source.path.name == _COORD}
    scenes = [source for source in loose if source.path.parent not in folders]
    for folder in folders:
        name = folder.relative_to(root).as_posix() if folder != root else folder.absolute().name
        scenes.append(Source(name, folder))
    return files.in_order(scenes)


def count(source: Source) -> int | None:
    """The number of rows in the header of the first array; None for `.npz`."""
    path = source.path / _COORD if source.path.is_dir() else source.path
    if path.suffix.lower() != ".npy":
        return None
    try:
        return len(_load(path))
    except (OSError, TypeError, HpalError):
        return None


def read(source: Source, options: Options) -> Iterator[Cloud]:
    """The points of a scene, a million at a time, from a matrix of 3, 4, 6 or 7 columns, from an array with named
    columns, or from arrays named by their key or file.

    Pointcept's `normal` becomes nx, ny, nz; `instance` is kept for the original points only; if labels have several
    columns, the first is taken.

    Raises:
        HpalError: an array does not hold numbers, there are no positions, or arrays have different lengths.
    """
    path = source.path
    if path.is_dir():
        yield from _blocks({file.stem: _load(file) for file in sorted(path.glob("*.npy"))}, path)
    elif path.suffix.lower() == ".npz":
        yield from _blocks(_load_all(path), path)
    else:
        for first in _firsts(_load(path)):
            # The file is mapped anew for each block, because pages that were read count as memory of the process as
            # long as the mapping exists.
            array: Any = _load(path)
            if not array.ndim:
                raise HpalError(path, "holds a single number", "save an array with a row for each point")
            rows = array[first : first + ROWS]
            if array.dtype.names:
                yield columns.cloud({name: rows[name] for name in array.dtype.names}, path, first)
            else:
                yield columns.matrix(rows, path, first)


def _firsts(array: NDArray[np.generic]) -> range:
    """The rows at which blocks begin; an empty array is one block."""
    return range(0, max(1, len(array) if array.ndim else 1), ROWS)


def _load(path: Path) -> NDArray[np.generic]:
    with _named(path):
        # If the header promises more than the file holds, mapping it fails before memory is allocated.
        return _numbers(np.load(path, mmap_mode="r", allow_pickle=False), path.name, path)


def _load_all(path: Path) -> dict[str, NDArray[np.generic]]:
    with _named(path):
        with archives.opened(path) as archive:
            for member in archive.infolist():
                archives.check_shape(archive, member)
        with np.load(path, allow_pickle=False) as arrays:
            return {key: _numbers(arrays[key], key, path) for key in arrays.files}


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    """Turns the errors of NumPy, zipfile and zlib for a damaged file into an `HpalError` with one line that names
    it."""
    try:
        yield
    except (HpalError, OSError):
        raise
    # The header is parsed as Python: the errors have no narrower class in common.
    except Exception as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> HpalError:
    problem = f"cannot be read as a NumPy file ({first_line(error)})"
    return HpalError(path, problem, "save it again with numpy.save or numpy.savez")


def _numbers(array: NDArray[np.generic], what: str, path: Path) -> NDArray[np.generic]:
    fields = array.dtype.fields
    types = [field[0] for field in fields.values()] if fields else [array.dtype]
    if any(dtype.kind not in "biuf" for dtype in types):
        raise HpalError(path, f"{what} holds {array.dtype}, not numbers", "save arrays of numbers")
    return array


def _blocks(arrays: Mapping[str, NDArray[np.generic]], path: Path) -> Iterator[Cloud]:
    arrays = _stacked(_stacked(arrays, _POSITIONS, [columns.AXES]), _COLOURS, columns.COLOURS)
    position = _first(_POSITIONS, arrays)
    if position is None:
        raise HpalError(
            path,
            f"has no positions among its arrays ({', '.join(arrays)})",
            f"name them {' or '.join(_POSITIONS)}, or x, y and z",
        )
    count = len(arrays[position]) if arrays[position].ndim else 0
    colour, label = _first(_COLOURS, arrays), _first(_LABELS, arrays)
    if colour is not None and (arrays[colour].ndim != 2 or arrays[colour].shape[1] != 3):
        raise HpalError(
            path, f"{colour} has the shape {arrays[colour].shape}, expected (N, 3)", "save red, green, blue"
        )
    for name in (colour, label):
        if name is not None and arrays[name].shape[:1] != (count,):
            problem = (
                f"has {count} points, but {len(arrays[name])} values of {name}"
                if arrays[name].ndim
                else (f"has {count} points, but one value of {name}")
            )
            raise HpalError(path, problem, "give one value for each point")
    others, notes = {}, []
    for name in (n for n in arrays if n not in (position, colour, label)):
        if arrays[name].ndim in (1, 2) and len(arrays[name]) == count:
            others[name] = arrays[name]
        else:
            notes.append(f"{name} has the shape {arrays[name].shape}: not one value a point, left out")
    if label is not None and arrays[label].ndim == 2 and arrays[label].shape[1] > 1:
        notes.append(f"{label} has {arrays[label].shape[1]} columns: the first is read as the label")
    for first in _firsts(arrays[position]):
        rows = slice(first, first + ROWS)
        cloud = columns.matrix(arrays[position][rows], path, first)
        if colour is not None:
            cloud.rgb = columns.native(arrays[colour][rows])
        if label is not None:
            values = arrays[label][rows]
            cloud.label = columns.labels(values if values.ndim == 1 else values[:, 0], path, first)
        for name, array in others.items():
            put = cloud.carried if name in _CARRIED else cloud.attributes
            put |= {part: columns.native(values) for part, values in _parts(name, array[rows])}
        cloud.notes, notes = notes, []
        yield cloud


def _stacked(
    arrays: Mapping[str, NDArray[np.generic]], names: Sequence[str], triples: Iterable[Sequence[str]]
) -> Mapping[str, NDArray[np.generic]]:
    """The arrays, of which three may be joined: if no array has one of `names`, but the three arrays of one of
    `triples` are there, such as x, y and z, they become the columns of an array with the first of `names`."""
    named = {name.casefold(): name for name in arrays}
    for triple in triples:
        if _first(names, arrays) is None and all(part in named for part in triple):
            parts = {named[part]: arrays[named[part]] for part in triple}
            if len({values.shape for values in parts.values()}) == 1 and all(v.ndim == 1 for v in parts.values()):
                others = {name: values for name, values in arrays.items() if name not in parts}
                return {names[0]: np.column_stack(list(parts.values())), **others}
    return arrays


def _parts(name: str, values: NDArray[np.generic]) -> Iterator[tuple[str, NDArray[np.generic]]]:
    """The columns of an array (N,) or (N, K) with their names: those of `normal` are nx, ny, nz, those of others
    `name_0`, `name_1`, ..."""
    if values.ndim == 1:
        yield name, values
        return
    width = values.shape[1]
    names = _NORMALS[name] if width == 3 and name in _NORMALS else [f"{name}_{n}" for n in range(width)]
    yield from zip([name] if width == 1 else names, values.T, strict=True)


def _first(names: Iterable[str], arrays: Mapping[str, object]) -> str | None:
    return next((name for name in names if name in arrays), None)
