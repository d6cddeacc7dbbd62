"""Writes points as PLY, LAS or CSV, in blocks, with names of fields that viewers load and keep (docs/viewers.md)."""

from __future__ import annotations

import contextlib
import csv
import io
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from hpal_cli.csv_cells import safe_cell
from hpal_cli.errors import HpalError
from hpal_cli.scene_table import SceneInfo
from hpal_cli.store.envelope import kind_of
from hpal_cli.store.files import atomic_write, folders_for, inside, require_absent, require_all_absent
from hpal_cli.store.remote import RemotePath
from hpal_cli.stream.viewer_names import PREFIX, QUALITY
from hpal_cli.writers import las

FORMATS = ("ply", "las", "laz", "csv")

NORMALS = ("nx", "ny", "nz")
"""Names of fields that viewers read as normals."""

_EXACT = 1 << 53
"""Up to this number, a double holds all whole numbers exactly."""

_PLY_TYPES = {
    "i1": "char", "u1": "uchar", "i2": "short", "u2": "ushort", "i4": "int", "u4": "uint",
    "f4": "float", "f8": "double",
}  # fmt: skip


@dataclass
class ViewerCloud:
    """N points to look at, or a block of a larger cloud, all of whose blocks have the same columns.

    position: (N, 3) float64; rgb: (N, 3) uint8 or None; fields: scalar fields by name, each (N,); class_field: name of
    the field with class ids, if there is one; comments: lines for formats that have comments; las_codes: (C,) class
    number in LAS files of each class, None for id + 64; texts: columns of words, each (N,), for CSV; unit: metres in
    one unit of the positions; digits: number of decimals of the positions in text.
    """

    position: NDArray[np.float64]
    rgb: NDArray[np.uint8] | None
    fields: dict[str, NDArray[np.generic]] = field(default_factory=dict)
    class_field: str | None = None
    comments: tuple[str, ...] = ()
    las_codes: NDArray[np.int64] | None = None
    texts: dict[str, Sequence[str]] = field(default_factory=dict)
    unit: float = 1.0
    digits: int = 6


Blocks = Callable[[], Iterator[ViewerCloud]]
"""Each call starts a new pass over the blocks of a cloud, at least one: LAS needs a pass over all of them before it
writes."""


def identity(scene: SceneInfo, rows: NDArray[np.integer]) -> dict[str, NDArray[np.generic]]:
    """The fields `scene` and `index` of points, by which they are found again in a file that a viewer has merged with
    others or reordered. rows: (N,) rows of the scene's grid points."""
    return {"scene": np.full(len(rows), scene.number, np.int32), "index": rows.astype(np.int32)}


def scene_path(folder: Path, scene: str, suffix: str) -> Path:
    """The path of a scene's file, such as `folder/Area_1/office_1.ply`.

    Raises:
        HpalError: `folder` is a file, or the scene's name would lead out of it.
    """
    _require_folder(folder)
    return inside(folder, f"{scene}.{suffix}")


@contextlib.contextmanager
def reserve_paths(folder: Path, names: Sequence[str], *, overwrite: bool) -> Iterator[list[Path]]:
    """Gives the path `folder/<name>` for every name, after checking that all of them may be written, and creates their
    folders. If the block fails, folders that were created for it and are empty are removed.

    Raises:
        HpalError: a file exists and `overwrite` is not given, or `folder` is a file or a store.
    """
    _require_folder(folder)
    if kind_of(folder) is not None:
        raise HpalError(folder, "is an hpal store, and a folder for files is wanted", "give another name")
    paths = [inside(folder, name) for name in names]
    if isinstance(folder, RemotePath):
        require_all_absent(paths, overwrite=overwrite)
        yield paths
        return
    for path in paths:
        if os.path.lexists(path):
            require_absent(path, overwrite=overwrite)
    with folders_for(paths):
        yield paths


def write(cloud: ViewerCloud, path: Path, *, overwrite: bool) -> None:
    """Writes a cloud that is given as one block; see `write_blocks`."""
    write_blocks(lambda: iter([cloud]), len(cloud.position), path, overwrite=overwrite)


def write_blocks(
    blocks: Blocks,
    count: int,
    path: Path,
    *,
    overwrite: bool,
    written: Callable[[int], None] = lambda points: None,
) -> None:
    """Writes `count` points in the format of the suffix of `path`: .ply, .las, .laz or .csv.

    written: called after each block with its number of points.

    Raises:
        HpalError: the suffix is another one, the file exists and `overwrite` is not given, or the format cannot hold
            the numbers.
    """
    if path.suffix not in (".ply", ".las", ".laz", ".csv"):
        raise HpalError(path, "is no format that can be written", "choose .ply, .las, .laz or .csv")
    with atomic_write(path, overwrite=overwrite) as partial, partial.open("wb") as file:
        if path.suffix == ".ply":
            _write_ply(blocks(), count, file, path, written)
        elif path.suffix == ".csv":
            _write_csv(blocks(), file, written)
        else:
            las.write_new(blocks, file, path, compress=path.suffix == ".laz", written=written)


def _write_ply(
    blocks: Iterator[ViewerCloud], count: int, file: IO[bytes], path: Path, written: Callable[[int], None]
) -> None:
    """Binary little-endian PLY: x y z double, red green blue, normals, then `scalar_<name>` fields."""
    begun = False
    for cloud in blocks:
        columns: dict[str, NDArray[Any]] = {axis: cloud.position[:, n] for n, axis in enumerate("xyz")}
        if cloud.rgb is not None:
            columns |= {channel: cloud.rgb[:, n] for n, channel in enumerate(("red", "green", "blue"))}
        normals = NORMALS if all(name in cloud.fields for name in NORMALS) else ()
        for name, values in cloud.fields.items():
            # A blank or a line break in a name would change the meaning of the header.
            plain = "".join(letter if letter.isprintable() and not letter.isspace() else "_" for letter in name)
            wanted = plain if name in normals or plain.startswith(PREFIX) else PREFIX + plain
            while wanted in columns:
                wanted += "_"
            columns[wanted] = _ply_values(values, name, path)
        quality = cloud.fields.get("uncertainty", cloud.fields.get("score"))
        if quality is not None:
            # MeshLab shows this property only.
            columns[QUALITY] = quality.astype(np.float32)
        rows = np.empty(len(cloud.position), [(n, v.dtype.newbyteorder("<")) for n, v in columns.items()])
        if not begun:
            lines = [
                "ply",
                "format binary_little_endian 1.0",
                *(f"comment {' '.join(text.split())}" for text in cloud.comments),
                f"element vertex {count}",
                *(f"property {_PLY_TYPES[v.dtype.str[1:]]} {n}" for n, v in columns.items()),
                "end_header",
            ]
            file.write(("\n".join(lines) + "\n").encode())
            begun = True
        for name, values in columns.items():
            rows[name] = values
        file.write(rows.data)
        written(len(rows))


def _ply_values(values: NDArray[np.generic], name: str, path: Path) -> NDArray[np.generic]:
    """Converts a field to a type that PLY has.

    Raises:
        HpalError: the field has integers that a double cannot hold.
    """
    kind = values.dtype
    if kind.kind == "b":
        return values.astype(np.uint8)
    if kind.kind in "iu" and kind.itemsize == 8:
        if values.size and (int(values.max()) > _EXACT or int(values.min()) < -_EXACT):
            raise HpalError(
                path,
                f"the field {name} has whole numbers beyond 2^53, which PLY cannot hold",
                "write CSV (--format csv)",
            )
        return values.astype(np.float64)
    # Open3D ignores fields of other types than uchar, int, float and double.
    if kind in (np.int8, np.int16, np.uint16):
        return values.astype(np.int32)
    if kind == np.uint32:
        return values.astype(np.float64)
    if kind.kind in "iu" or kind in (np.float32, np.float64):
        return values
    return values.astype(np.float32)


def _write_csv(blocks: Iterator[ViewerCloud], file: IO[bytes], written: Callable[[int], None]) -> None:
    """Writes CSV: a header line, and columns x, y, z, red, green, blue and the fields, separated by commas; lines end
    in LF. Texts that a spreadsheet would take for a formula are marked (`safe_cell`)."""
    text = io.TextIOWrapper(file, encoding="utf-8", newline="")
    writer = csv.writer(text, lineterminator="\n")
    begun = False
    for cloud in blocks:
        if not begun:
            colours = ["red", "green", "blue"] if cloud.rgb is not None else []
            writer.writerow(["x", "y", "z", *colours, *map(safe_cell, (*cloud.fields, *cloud.texts))])
            begun = True
        position = np.round(cloud.position, cloud.digits)
        columns = [*position.T, *(cloud.rgb.T if cloud.rgb is not None else []), *cloud.fields.values()]
        words = [_csv_values(column) for column in columns]
        texts = ([safe_cell(text) for text in column] for column in cloud.texts.values())
        writer.writerows(zip(*words, *texts, strict=True))
        written(len(cloud.position))
    text.flush()
    text.detach()


def _csv_values(column: NDArray[Any]) -> list[Any]:
    # NumPy writes as few digits as a float of 4 bytes needs to be read back; Python would write those of a double.
    return (column.astype(str) if column.dtype in (np.float32, np.float16) else column).tolist()


def _require_folder(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise HpalError(folder, "is a file, and a folder is wanted", "give another name")
