"""PLY: reads the `vertex` element of any PLY file; faces and other elements are ignored."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from hpal_cli.classes import ClassTable
from hpal_cli.errors import HpalError
from hpal_cli.readers import columns, files, number_table
from hpal_cli.readers.cloud import Cloud, Options, Source
from hpal_cli.wording import first_line

NAME = "ply"
CLASSES: ClassTable | None = None

_TYPES = {
    "char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4", "float": "f4",
    "double": "f8", "int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2", "int32": "i4", "uint32": "u4",
    "float32": "f4", "float64": "f8",
}  # fmt: skip
_ORDERS = {"ascii": "=", "binary_little_endian": "<", "binary_big_endian": ">"}
_MAX_HEADER = 1 << 20
_REMEDY = "write the file again as PLY"


@dataclass
class _Element:
    """An element of a PLY file. types: NumPy type of each scalar property; lists: for each property that is a list, the
    NumPy type of its length."""

    name: str
    count: int
    types: dict[str, str] = field(default_factory=dict)
    lists: dict[str, str] = field(default_factory=dict)


@dataclass
class Header:
    """The header of a PLY file. encoding: a key of `_ORDERS`; size, lines: bytes and lines of the header itself."""

    encoding: str
    elements: list[_Element]
    size: int
    lines: int

    @property
    def vertices(self) -> _Element | None:
        return next((element for element in self.elements if element.name == "vertex"), None)


def find(root: Path, options: Options) -> list[Source]:
    """Each `.ply` file is one scene."""
    return files.loose_files(root, {".ply"})


def count(source: Source) -> int | None:
    """The number of vertices in the header."""
    try:
        element = _header(source.path).vertices
    except (OSError, HpalError):
        return None
    return None if element is None else element.count


def read(source: Source, options: Options) -> Iterator[Cloud]:
    """The vertices, a million at a time. Positions, colours and labels are recognised by the names of the properties;
    all others become attributes.

    Raises:
        HpalError: the file is no PLY, has no x, y or z, or has fewer bytes than the header promises.
    """
    first, held, repairs = 0, None, number_table.Repairs()
    for block in blocks(source.path, repairs):
        if held is not None:
            yield held
        held = columns.cloud(block, source.path, first)
        first += len(held.xyz)
    if held is not None:
        held.notes += repairs.notes
        yield held


def vertices(path: Path) -> dict[str, NDArray[np.generic]]:
    """The scalar properties of the N vertices in the order of the file, each (N,).

    Raises:
        HpalError: as for `read`.
    """
    parts = list(blocks(path))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def blocks(path: Path, repairs: number_table.Repairs | None = None) -> Iterator[dict[str, NDArray[np.generic]]]:
    """The same as `vertices`, in blocks of a million, at least one. repairs: counts what was skipped in a text file.

    Raises:
        HpalError: as for `read`.
    """
    header = _header(path)
    element = header.vertices
    if element is None:
        raise HpalError(path, "has no vertex element", _REMEDY)
    missing = columns.missing_axes(element.types)
    if missing:
        raise HpalError(path, f"the vertices have no {', '.join(missing)}", "write points with x, y and z")
    check_counts(header, path.stat().st_size - header.size, path)
    before = header.elements[: header.elements.index(element)]
    if element.lists or any(other.lists for other in before):
        yield _through_plyfile(path, element)
    elif element.count == 0:
        yield {name: np.empty(0, kind) for name, kind in element.types.items()}
    elif header.encoding == "ascii":
        yield from _ascii(path, header, element, sum(other.count for other in before), repairs)
    else:
        yield from _binary(path, header, element, sum(other.count * _size(other) for other in before))


def _ascii(
    path: Path, header: Header, element: _Element, skip: int, repairs: number_table.Repairs | None
) -> Iterator[dict[str, NDArray[np.generic]]]:
    given = 0
    with path.open("rb") as text:
        text.seek(header.size)
        start = header.size + sum(len(line) for line, _ in zip(text, range(skip), strict=False))
    with path.open("rb", buffering=0) as file:
        file.seek(start)
        width, first = len(element.types), header.lines + skip + 1
        for values in number_table.blocks(file, width, path, first, most=element.count, repairs=repairs):
            given += len(values)
            yield {name: _cast(values[:, n], kind, name, path) for n, (name, kind) in enumerate(element.types.items())}
    if given < element.count:
        raise HpalError(path, f"holds {given} of its {element.count} points", "fetch the file again")


def _binary(path: Path, header: Header, element: _Element, skip: int) -> Iterator[dict[str, NDArray[np.generic]]]:
    order = _ORDERS[header.encoding]
    row_type = np.dtype([(name, order + kind) for name, kind in element.types.items()])
    with path.open("rb") as file:
        file.seek(header.size + skip)
        for first in range(0, element.count, number_table.ROWS):
            packed = np.fromfile(file, row_type, min(number_table.ROWS, element.count - first))
            yield {name: packed[name] for name in element.types}


def _size(element: _Element) -> int:
    """Bytes of a row; if it has lists, the fewest that it can have."""
    return sum(np.dtype(kind).itemsize for kind in (*element.types.values(), *element.lists.values()))


def _cast(values: NDArray[np.float64], kind: str, name: str, path: Path) -> NDArray[np.generic]:
    dtype = np.dtype(kind)
    if dtype.kind != "f":
        limits = np.iinfo(dtype)
        if not ((values >= limits.min) & (values <= limits.max) & (values == np.rint(values))).all():
            raise HpalError(path, f"property {name} holds values that are no {dtype}", _REMEDY)
    return values.astype(dtype)


def _header(path: Path) -> Header:
    with path.open("rb") as file:
        return read_header(file, path)


def read_header(file: IO[bytes], subject: object) -> Header:
    """Reads the header at the beginning of a file, up to its end.

    Raises:
        HpalError: the file is no PLY, or a line of the header cannot be understood.
    """
    encoding = ""
    elements: list[_Element] = []
    if file.readline(64).strip() != b"ply":
        raise HpalError(subject, "is not a PLY file", "check the file, or give its --format")
    number = 1
    while file.tell() < _MAX_HEADER:
        number += 1
        words = _decoded(file.readline(_MAX_HEADER)).split()
        try:
            match words:
                case ["end_header"] if encoding:
                    return Header(encoding, elements, file.tell(), number)
                case ["format", word, *_] if word in _ORDERS:
                    encoding = word
                case ["comment" | "obj_info", *_]:
                    pass
                case ["element", name, count] if int(count) >= 0:
                    elements.append(_Element(name, int(count)))
                case ["property", "list", length, kind, name]:
                    elements[-1].lists[name] = _TYPES[length]
                    _TYPES[kind]
                case ["property", kind, name] if name not in elements[-1].types:
                    elements[-1].types[name] = _TYPES[kind]
                case _:
                    break
        except (ValueError, KeyError, IndexError):
            break
    raise HpalError(subject, f"line {number} of the PLY header cannot be understood", _REMEDY)


def _decoded(line: bytes) -> str:
    try:
        return line.decode()
    except UnicodeDecodeError:
        return line.decode("latin-1")


def check_counts(header: Header, held: int, subject: object, remedy: str = "fetch the file again") -> None:
    """Checks the counts in a header before memory is allocated for them. held: bytes after the header.

    Raises:
        HpalError: the header promises more rows than these bytes can hold.
    """
    slack = 1 if header.encoding == "ascii" else 0  # the last line need not end
    needed = 0
    for element in header.elements:
        if header.encoding == "ascii":
            row = 2 * (len(element.types) + len(element.lists))  # a digit and a separator for each number
        else:
            row = _size(element)
        needed += element.count * row
    if needed > held + slack:
        promised = ", ".join(f"{element.count} {element.name}" for element in header.elements)
        raise HpalError(
            subject,
            f"the header promises {promised} rows, more than its {held} bytes can hold",
            remedy,
        )


def _through_plyfile(path: Path, element: _Element) -> dict[str, NDArray[np.generic]]:
    """Reads the vertices with plyfile, for files in which rows differ in length because there are lists among or before
    the vertices."""
    import plyfile

    with plyfile_errors(path):
        rows = plyfile.PlyData.read(str(path))["vertex"]
        return {name: np.array(rows[name]) for name in element.types}


@contextmanager
def plyfile_errors(subject: object) -> Iterator[None]:
    """Turns the errors of plyfile for a damaged file into an `HpalError` with one line that names it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (HpalError, OSError, MemoryError):
        raise
    # plyfile also lets errors of NumPy through, for example for a list of -1 numbers.
    except Exception as error:
        raise HpalError(subject, f"cannot be read as PLY ({first_line(error)})", _REMEDY) from error
