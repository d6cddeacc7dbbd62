"""PTX, a text format of Leica's programs: scans one after the other, each in a frame of its own."""

from __future__ import annotations

from collections.abc import Iterator
from io import FileIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hpal_cli.classes import ClassTable
from hpal_cli.errors import HpalError
from hpal_cli.readers import files, number_table
from hpal_cli.readers.cloud import Cloud, Options, Source

NAME = "ptx"
CLASSES: ClassTable | None = None

_HEADER = (1, 1, 3, 3, 3, 3, 4, 4, 4, 4)
"""How many numbers each line of a header has: the columns and rows of the scan, the scanner's position and axes, and
the matrix that transforms the points."""

_BARE, _COLOURED = 4, 7
_REMEDY = "export the scans again"


class _Scan(NamedTuple):
    matrix: NDArray[np.float64]
    """(4, 4) transformation to the common frame: row vector (x, y, z, 1) @ matrix."""
    points: int
    at: int
    """Byte at which the points begin."""
    line: int
    width: int


def find(root: Path, options: Options) -> list[Source]:
    """Each `.ptx` file is one scene, however many scans it holds."""
    return files.loose_files(root, {".ptx"})


def count(source: Source) -> int | None:
    """The number of points in the headers of the scans."""
    try:
        return sum(scan.points for scan in _scans(source.path))
    except (OSError, HpalError):
        return None


def read(source: Source, options: Options) -> Iterator[Cloud]:
    """The points of all scans in the order of the file, a million at a time, in the common frame of the scans. Colours
    are kept if all scans have them. Points 0 0 0, which stand for rays that hit nothing, are left out.

    Raises:
        HpalError: a header cannot be understood, a scan has fewer points than its header promises, or a line is no
        point.
    """
    path = source.path
    scans = _scans(path)
    coloured = sum(scan.width == _COLOURED for scan in scans)
    notes = []
    if 0 < coloured < len(scans):
        notes.append(f"colours left out: only {coloured} of {len(scans)} scans have them")
    given = dropped = 0
    held: Cloud | None = None
    repairs = number_table.Repairs()
    with path.open("rb", buffering=0) as file:
        for number, scan in enumerate(scans, 1):
            file.seek(scan.at)
            found = 0
            for values in number_table.blocks(file, scan.width, path, scan.line, most=scan.points, repairs=repairs):
                found += len(values)
                hit = values[:, :3].any(axis=1)
                dropped += len(values) - int(hit.sum())
                if held is not None:
                    yield held
                kept = values[hit]
                # Positions that become infinite are left out later, like all that are not finite.
                with np.errstate(over="ignore", invalid="ignore"):
                    held = Cloud(kept[:, :3] @ scan.matrix[:3, :3] + scan.matrix[3, :3])
                held.attributes["intensity"] = kept[:, 3].astype(np.float32)
                if coloured == len(scans):
                    held.rgb = np.ascontiguousarray(kept[:, 4:])
            given += found
            if found < scan.points:
                problem = f"scan {number} holds {found:,} of its {scan.points:,} points"
                raise HpalError(path, problem, "fetch the file again")
    if held is not None:
        if dropped:
            notes.append(f"left out {dropped:,} of {given:,} points, where the scanner hit nothing")
        held.notes = [*repairs.notes, *notes]
        yield held


def _scans(path: Path) -> list[_Scan]:
    """Reads the headers of all scans, and skips their points.

    Raises:
        HpalError: a header cannot be understood.
    """
    scans: list[_Scan] = []
    line = 1
    with path.open("rb", buffering=0) as file:
        while True:
            found = _header(file, path, line)
            if found is None:
                break
            matrix, points, line = found
            at = file.tell()
            width = len(file.readline(1 << 12).split()) if points else _BARE
            if width not in (_BARE, _COLOURED):
                problem = f"line {line} has {width} columns, expected 4 (x y z intensity) or 7 (and red green blue)"
                raise HpalError(path, problem, _REMEDY)
            scans.append(_Scan(matrix, points, at, line, width))
            file.seek(at)
            if not number_table.skip_lines(file, points):
                break
            line += points
    if not scans:
        raise HpalError(path, "holds no scan", _REMEDY)
    return scans


def _header(file: FileIO, path: Path, line: int) -> tuple[NDArray[np.float64], int, int] | None:
    """The matrix of the next header, its number of points, and the number of the line after it; None at the end of the
    file."""
    rows: list[list[float]] = []
    while len(rows) < len(_HEADER):
        text = file.readline(1 << 12)
        if not text and not rows:
            return None
        words = text.split()
        if words or rows:
            try:
                rows.append([float(word) for word in words])
            except ValueError:
                rows.append([])
            if len(rows[-1]) != _HEADER[len(rows) - 1]:
                raise HpalError(path, f"line {line} is not what a PTX header has there", _REMEDY)
        line += 1
    sizes, matrix = (rows[0][0], rows[1][0]), np.array(rows[6:])
    if not all(size >= 0 and size.is_integer() for size in sizes) or not np.isfinite(matrix).all():
        raise HpalError(path, f"the header before line {line} has impossible numbers", _REMEDY)
    return matrix, int(sizes[0]) * int(sizes[1]), line
