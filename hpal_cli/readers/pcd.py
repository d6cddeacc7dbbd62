"""PCD, the format of the Point Cloud Library: ASCII, binary and binary_compressed."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hpal_cli.classes import ClassTable
from hpal_cli.errors import HpalError
from hpal_cli.readers import columns, files, number_table
from hpal_cli.readers.cloud import Cloud, Options, Source

NAME = "pcd"
CLASSES: ClassTable | None = None

_KINDS = {"F": "f", "I": "i", "U": "u"}
_PACKED = ("rgb", "rgba")
_PADDING = "_"
_NORMALS = {"normal_x": "nx", "normal_y": "ny", "normal_z": "nz"}
_NO_POSE = [0, 0, 0, 1, 0, 0, 0]
_MAX_HEADER = _FIRST_LINE = 1 << 16
_BEGINNINGS = ("VERSION", "FIELDS", "COLUMNS")
"""The words with which a header begins, if it does not begin with a comment."""

_REMEDY = "write the file again as PCD"


class _Field(NamedTuple):
    name: str
    dtype: np.dtype[np.generic]
    """The type of one value, little-endian."""
    width: int


class _Header(NamedTuple):
    fields: list[_Field]
    points: int
    pose: list[float]
    data: str
    size: int
    """Bytes before the data."""
    lines: int

    @property
    def row(self) -> int:
        """Bytes of a point."""
        return sum(field.dtype.itemsize * field.width for field in self.fields)


def find(root: Path, options: Options) -> list[Source]:
    """Each `.pcd` file is one scene."""
    return files.loose_files(root, {".pcd"})


def count(source: Source) -> int | None:
    """The number of points in the header."""
    try:
        return _header(source.path).points
    except (OSError, HpalError):
        return None


def read(source: Source, options: Options) -> Iterator[Cloud]:
    """The points, a million at a time. `rgb` and `rgba` are unpacked, and a field of several values becomes `name_0`,
    `name_1`, ... The pose of the sensor (VIEWPOINT) is mentioned in a note, but not applied.

    Raises:
        HpalError: not a PCD, no x, y or z, fewer points than the header promises, or compressed data that is damaged.
    """
    path = source.path
    header = _header(path)
    notes: list[str] = []
    if header.pose != _NO_POSE:
        pose = " ".join(f"{value:g}" for value in header.pose)
        notes.append(f"its VIEWPOINT is {pose}: not applied, the points stay where they are written")
    blocks = {"ascii": _ascii, "binary": _binary, "binary_compressed": _compressed}[header.data]
    first = 0
    for block in blocks(path, header, notes):
        cloud = columns.cloud(_named(block, header), path, first)
        first += len(cloud.xyz)
        cloud.notes, notes[:] = [*cloud.notes, *notes], []
        yield cloud


def _header(path: Path) -> _Header:
    """Reads the header.

    Raises:
        HpalError: the header cannot be understood, or promises more than the file holds.
    """
    said: dict[str, list[str]] = {}
    number = 0
    with path.open("rb") as file:
        while file.tell() < _MAX_HEADER and "DATA" not in said:
            number += 1
            line = file.readline(_MAX_HEADER)
            words = line.decode("latin-1").split()
            if not line:
                break
            if not words or words[0].startswith("#"):
                continue
            if not said and words[0].upper() not in _BEGINNINGS:
                break
            said[words[0].upper()] = words[1:]
        start = file.tell()
    if "DATA" not in said:
        raise HpalError(path, "is not a PCD file: it has no header that ends with DATA", "check the file")
    try:
        names = said.get("FIELDS") or said["COLUMNS"]
        sizes, kinds = said["SIZE"], said["TYPE"]
        counts = said.get("COUNT") or ["1"] * len(names)
        fields = [
            _Field(name, np.dtype(f"<{_KINDS[kind]}{int(size)}"), int(many))
            for name, size, kind, many in zip(names, sizes, kinds, counts, strict=True)
        ]
        points = int(said["POINTS"][0]) if "POINTS" in said else int(said["WIDTH"][0]) * int(said["HEIGHT"][0])
        pose = [float(word) for word in said.get("VIEWPOINT", ())] or [*map(float, _NO_POSE)]
        (data,) = said["DATA"]
        if points < 0 or any(field.width < 1 for field in fields) or data.lower() not in _ENCODINGS:
            raise ValueError
    except (KeyError, ValueError, TypeError, IndexError) as error:
        raise HpalError(path, f"the PCD header ({number} lines) cannot be understood", _REMEDY) from error
    header = _Header(fields, points, pose, data.lower(), start, number)
    missing = columns.missing_axes(field.name for field in fields if field.width == 1)
    if missing:
        raise HpalError(path, f"the points have no {', '.join(missing)}", "write points with x, y and z")
    held, needed = path.stat().st_size - start, header.row * points
    if header.data == "ascii":
        needed = 2 * sum(field.width for field in fields) * points - 1
    if header.data != "binary_compressed" and needed > held:
        problem = f"the header promises {points} points, more than its {held} bytes can hold"
        raise HpalError(path, problem, "fetch the file again")
    return header


_ENCODINGS = ("ascii", "binary", "binary_compressed")
_Block = dict[str, NDArray[np.generic]]
"""Columns by field, each (N,) or (N, width)."""


def _ascii(path: Path, header: _Header, notes: list[str]) -> Iterator[_Block]:
    given, repairs = 0, number_table.Repairs()
    width = sum(field.width for field in header.fields)
    with path.open("rb", buffering=0) as file:
        file.seek(header.size)
        # Some programs part the numbers with commas, which the library itself does not read.
        style = number_table.split(file.read(_FIRST_LINE).partition(b"\n")[0].decode("latin-1"))[1]
        file.seek(header.size)
        for values in number_table.blocks(
            file,
            width,
            path,
            header.lines + 1,
            style.separator,
            header.points,
            decimal_comma=style.decimal_comma,
            repairs=repairs,
        ):
            given += len(values)
            if given == header.points:
                notes += repairs.notes
            block, at = {}, 0
            for n, field in enumerate(header.fields):
                block[f"{n}"] = _cast(values[:, at : at + field.width], field, path)
                at += field.width
            yield block
    if given < header.points:
        raise HpalError(path, f"holds {given} of its {header.points} points", "fetch the file again")


def _cast(values: NDArray[np.float64], field: _Field, path: Path) -> NDArray[np.generic]:
    if field.name in _PACKED and field.dtype.kind == "f":
        # The value is either the number that the packed bytes make, or the float with the same bits, which is below
        # 1e-37.
        whole = np.where(values >= 1, values, 0).astype(np.uint32)
        bits = np.nan_to_num(values).astype(np.float32).view(np.uint32)
        return np.where(values >= 1, whole, bits)
    if field.dtype.kind == "f":
        return values.astype(field.dtype)
    limits = np.iinfo(field.dtype.str)
    if not ((values >= limits.min) & (values <= limits.max) & (values == np.rint(values))).all():
        raise HpalError(path, f"field {field.name} holds values that are no {field.dtype.name}", _REMEDY)
    return values.astype(field.dtype)


def _binary(path: Path, header: _Header, notes: list[str]) -> Iterator[_Block]:
    row = np.dtype([(f"{n}", field.dtype, (field.width,)) for n, field in enumerate(header.fields)])
    with path.open("rb") as file:
        file.seek(header.size)
        for first in range(0, max(1, header.points), number_table.ROWS):
            rows = np.fromfile(file, row, min(number_table.ROWS, header.points - first))
            yield {name: rows[name] for name in row.names or ()}


def _compressed(path: Path, header: _Header, notes: list[str]) -> Iterator[_Block]:
    """Reads binary_compressed data, in which all values of a field follow one another, and all fields are compressed
    together."""
    with path.open("rb") as file:
        file.seek(header.size)
        lengths = file.read(8)
        packed, whole = struct.unpack("<II", lengths) if len(lengths) == 8 else (0, 0)
        if whole != header.row * header.points:
            problem = (
                f"the header promises {header.points} points of {header.row} bytes, the compressed data {whole} bytes"
            )
            raise HpalError(path, problem, "fetch the file again")
        data = file.read(packed)
    if len(data) < packed:
        raise HpalError(path, f"holds {len(data)} of its {packed} compressed bytes", "fetch the file again")
    try:
        plain = decompressed(data, whole)
    except ValueError as error:
        raise HpalError(path, f"its compressed data is damaged ({error})", "fetch the file again") from error
    block, at = {}, 0
    for n, field in enumerate(header.fields):
        values = np.frombuffer(plain, field.dtype, header.points * field.width, at)
        block[f"{n}"] = values.reshape(header.points, field.width)
        at += values.nbytes
    for first in range(0, max(1, header.points), number_table.ROWS):
        yield {name: values[first : first + number_table.ROWS] for name, values in block.items()}


def decompressed(data: bytes, size: int) -> bytearray:
    """Decompresses LZF: runs of up to 32 plain bytes, and copies of up to 264 bytes from at most 8 KiB before.

    Raises:
        ValueError: the result does not have `size` bytes.
    """
    # A byte of LZF gives at most 88 bytes.
    if size > 88 * len(data):
        raise ValueError(f"{len(data)} bytes cannot become {size}")
    out = bytearray()
    at, end = 0, len(data)
    while at < end:
        control = data[at]
        at += 1
        if control < 32:
            out += data[at : at + control + 1]
            at += control + 1
            continue
        length = control >> 5
        try:
            if length == 7:
                length += data[at]
                at += 1
            start = len(out) - ((control & 31) << 8) - data[at] - 1
        except IndexError:
            raise ValueError("it ends within a copy") from None
        at += 1
        length += 2
        if start < 0:
            raise ValueError("it copies from before the beginning")
        piece = out[start : start + length]
        if len(piece) < length:
            # The copy overlaps its own output, so its piece repeats.
            piece = (piece * (length // len(piece) + 1))[:length]
        out += piece
    if len(out) != size or at > end:
        raise ValueError(f"it comes to {len(out)} bytes, expected {size}")
    return out


def _named(block: _Block, header: _Header) -> _Block:
    """The columns by the names of their fields, with colours unpacked, and without padding."""
    named: _Block = {}
    for field, values in zip(header.fields, block.values(), strict=True):
        if field.name == _PADDING:
            continue
        if field.name in _PACKED and field.width == 1 and field.dtype.itemsize == 4:
            bits = np.ascontiguousarray(values).view(np.uint32).reshape(-1)
            named |= {name: (bits >> n & 0xFF).astype(np.uint8) for name, n in (("red", 16), ("green", 8), ("blue", 0))}
        elif field.width == 1:
            named[_NORMALS.get(field.name, field.name)] = values.reshape(-1)
        else:
            named |= {f"{field.name}_{n}": values[:, n] for n in range(field.width)}
    return named
