"""NumPy: `.npy` and `.npz` files, and Pointcept's folder a scene (`coord.npy`, `color.npy`, ...)."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpal_cli.errors import HpalError
from hpal_cli.readers import columns, files
from hpal_cli.readers.cloud import Cloud, Options, Source
from hpal_cli.scenes.classes import ClassTable

NAME = "numpy"
CLASSES: ClassTable | None = None

_POSITIONS = ("coord", "coords", "xyz", "points")
_COLOURS = ("color", "colors", "colour", "colours", "rgb")
_LABELS = ("segment", "segment20", "label", "labels", "semantic", "semantics", "class", "classification")
_COORD = "coord.npy"


def find(root: Path, options: Options) -> list[Source]:
    """One scene a `.npy` or `.npz` file, or a folder with a `coord.npy`."""
    loose = files.loose(root, {".npy", ".npz"})
    if root.is_file():
        return loose
    folders = {source.path.parent for source in loose if source.path.name == _COORD}
    scenes = [source for source in loose if source.path.parent not in folders]
    for folder in folders:
        name = folder.relative_to(root).as_posix() if folder != root else folder.absolute().name
        scenes.append(Source(name, folder))
    return files.in_order(scenes)


def count(source: Source) -> int | None:
    """As the header of the first array says."""
    path = source.path / _COORD if source.path.is_dir() else source.path
    if path.suffix.lower() != ".npy":
        return None
    try:
        return int(np.load(path, mmap_mode="r", allow_pickle=False).shape[0])
    except (OSError, ValueError, EOFError, IndexError):
        return None


def read(source: Source, options: Options) -> Iterator[Cloud]:
    """A matrix of 3, 4, 6 or 7 columns, named columns, or arrays named by key or by file.

    Raises:
        HpalError: not an array of numbers, no positions, or arrays of different lengths.
    """
    path = source.path
    if path.is_dir():
        yield _arrays({file.stem: _load(file) for file in sorted(path.glob("*.npy"))}, path)
    elif path.suffix.lower() == ".npz":
        yield _arrays(_load_all(path), path)
    else:
        array: Any = _load(path)
        if array.dtype.names:
            yield columns.cloud({name: array[name] for name in array.dtype.names}, path)
        else:
            yield columns.matrix(array, path)


def _load(path: Path) -> NDArray[np.generic]:
    try:
        # Mapping refuses a header that promises more than the file holds before memory is asked for.
        return _numbers(np.load(path, mmap_mode="r", allow_pickle=False), path.name, path)
    except (ValueError, EOFError) as error:
        raise _unreadable(path, error) from error


def _load_all(path: Path) -> dict[str, NDArray[np.generic]]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {key: _numbers(archive[key], key, path) for key in archive.files}
    except (ValueError, EOFError, zipfile.BadZipFile, MemoryError, AttributeError, TypeError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> HpalError:
    why = (str(error).splitlines() or [type(error).__name__])[0]
    return HpalError(path, f"cannot be read as a NumPy file ({why})", "save it again with numpy.save or numpy.savez")


def _numbers(array: NDArray[np.generic], what: str, path: Path) -> NDArray[np.generic]:
    fields = array.dtype.fields
    types = [field[0] for field in fields.values()] if fields else [array.dtype]
    if any(dtype.kind not in "biuf" for dtype in types):
        raise HpalError(path, f"{what} holds {array.dtype}, not numbers", "save arrays of numbers")
    return array


def _arrays(arrays: Mapping[str, NDArray[np.generic]], path: Path) -> Cloud:
    position = _first(_POSITIONS, arrays)
    if position is None:
        raise HpalError(
            path,
            f"has no positions among its arrays ({', '.join(arrays)})",
            f"name them {' or '.join(_POSITIONS)}",
        )
    cloud = columns.matrix(arrays[position], path)
    used = {position}
    colour = _first(_COLOURS, arrays)
    if colour is not None:
        values = arrays[colour]
        if values.ndim != 2 or values.shape[1] != 3:
            raise HpalError(path, f"{colour} has the shape {values.shape}, expected (N, 3)", "save red, green, blue")
        cloud.rgb = columns.native(values)
        used.add(colour)
    label = _first(_LABELS, arrays)
    if label is not None:
        cloud.label = columns.labels(arrays[label].reshape(-1), path)
        used.add(label)
    for name in (n for n in arrays if n not in used):
        values = arrays[name]
        if values.ndim == 2 and values.shape[0] == len(cloud.xyz):
            many = values.shape[1] > 1
            for n in range(values.shape[1]):
                cloud.attributes[f"{name}_{n}" if many else name] = columns.native(values[:, n])
        elif values.shape == (len(cloud.xyz),):
            cloud.attributes[name] = columns.native(values)
        else:
            cloud.notes.append(f"{name} has the shape {values.shape}: not one value a point, left out")
    return cloud


def _first(names: Iterable[str], arrays: Mapping[str, object]) -> str | None:
    return next((name for name in names if name in arrays), None)
