"""Collects the points of a scene block by block from its files, before they are put on a grid."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hpal_cli import readers
from hpal_cli.classes import IGNORE
from hpal_cli.errors import HpalError
from hpal_cli.readers.cloud import Cloud
from hpal_cli.readers.colours import ColourRange
from hpal_cli.scenes.column_buffer import ColumnBuffer, Columns
from hpal_cli.wording import Repeated

MAX_SPAN = 1e9
"""Units that a scene may span, at most: in millimetres this is 1,000 km."""

MAX_ROUNDING = 0.005
"""Metres: the user is warned if grid points, which are stored in 32 bits, are rounded by more than this."""


@dataclass
class RawFile:
    """What is known of one file after all of it was read. points: how many it has, including those that were left out;
    unit: metres in one unit of its coordinates, None if it does not say; notes: what to tell the user; columns: names
    of its columns."""

    path: Path
    name: str
    points: int = 0
    unit: float | None = None
    las_header: bytes | None = None
    colours: ColourRange = field(default_factory=ColourRange)
    notes: list[str] = field(default_factory=list)
    columns: list[str] = field(default_factory=list)

    def update(self, cloud: Cloud) -> NDArray[np.int64]:
        """Records what the next block tells about the file; returns (N,) the rows of the block's points in the file."""
        first = self.points
        self.points = cloud.given
        self.columns = list(cloud.columns)
        self.unit = cloud.unit if self.unit is None else self.unit
        self.las_header = cloud.las_header if self.las_header is None else self.las_header
        if cloud.rgb is not None:
            self.colours.update(cloud.rgb)
        self.notes += cloud.notes
        return np.arange(first, cloud.given) if cloud.rows is None else cloud.rows

    def check(self) -> None:
        """Checks the colours after the whole file was read, and notes what is unusual about them.

        Raises:
            HpalError: the colours are in no range that is known.
        """
        self.colours.check(self.path)
        if self.colours.doubtful:
            self.notes.append("its colours go a little beyond 255: they are read as colours of 16 bits")
        if self.colours.black:
            self.notes.append(readers.BLACK)


class _Mark(NamedTuple):
    rows: int
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    labelled: bool
    files: int
    attributes: list[str]
    columns: list[str]


class RawScene:
    """The points of one scene, from one file or several, with all columns that occur in any of the files.

    The buffer holds xyz (N, 3) float64, rgb (N, 3) float32, label (N,) int64 as the files number classes, source_file
    (N,) int32, source_row (N,) int64, and the further columns under their own names.
    """

    def __init__(self, folder: Path, *, kept: int | None = None) -> None:
        """folder: where the buffer puts its files; kept: bytes that it keeps in memory."""
        self.buffer = ColumnBuffer(folder) if kept is None else ColumnBuffer(folder, kept)
        self.files: list[RawFile] = []
        self.attributes: list[str] = []
        self.low = np.full(3, np.inf)
        self.high = np.full(3, -np.inf)
        self.labelled = False
        self._one_sided: set[str] = set()
        self._numbers: dict[Path, int] = {}

    def __len__(self) -> int:
        return len(self.buffer)

    def add(self, cloud: Cloud, rows: NDArray[np.int64], file: RawFile) -> None:
        """Adds N points of a file. rows: (N,) their rows in the file.

        Raises:
            HpalError: a column has another type than in the files before.
        """
        if not len(rows):
            return
        number = self._numbers.setdefault(file.path, len(self.files))
        if number == len(self.files):
            self.files.append(file)
        columns: Columns = {"xyz": cloud.xyz, **cloud.columns}
        if cloud.rgb is not None:
            columns["rgb"] = cloud.rgb.astype(np.float32)
        columns["source_file"] = np.full(len(rows), number, np.int32)
        columns["source_row"] = rows
        if len(self.buffer):
            self._agree(columns, file)
        self.attributes += [name for name in cloud.attributes if name not in self.attributes]
        self.buffer.append(columns)
        self.low = np.minimum(self.low, cloud.xyz.min(axis=0))
        self.high = np.maximum(self.high, cloud.xyz.max(axis=0))
        self.labelled |= cloud.label is not None and bool((cloud.label >= 0).any())

    def savepoint(self) -> _Mark:
        """The present state, for `rollback`."""
        return _Mark(
            len(self.buffer),
            self.low,
            self.high,
            self.labelled,
            len(self.files),
            list(self.attributes),
            self.buffer.names,
        )

    def rollback(self, mark: _Mark) -> None:
        """Removes all that was added since the savepoint `mark`."""
        self.buffer.cut(mark.rows)
        for name in set(self.buffer.names) - set(mark.columns):
            self.buffer.drop(name)
        self.low, self.high, self.labelled, self.attributes = mark.low, mark.high, mark.labelled, mark.attributes
        for file in self.files[mark.files :]:
            del self._numbers[file.path]
        del self.files[mark.files :]

    def _agree(self, columns: Columns, file: RawFile) -> None:
        """Makes the columns of the next points and those of the buffer the same. Where a file does not have a column,
        its points get -1 for labels, NaN for floating-point numbers, and 0 for integers and colours.

        Raises:
            HpalError: a column has another type than in the files before.
        """
        known = self.buffer.read(0, 0)
        for name, like in known.items():
            if name not in columns:
                columns[name] = np.full((len(columns["xyz"]), *like.shape[1:]), _fill(name, like), like.dtype)
                self._one_sided.add(name)
            elif like.dtype != columns[name].dtype:
                first = self.files[0].path
                problem = f"has {name} as {columns[name].dtype}, and {first.name} as {like.dtype}"
                raise HpalError(file.path, problem, "prepare the two as scenes of their own")
        for name in [name for name in columns if name not in known]:
            self.buffer.widen(name, columns[name], _fill(name, columns[name]))
            self._one_sided.add(name)

    @property
    def notes(self) -> list[str]:
        """What to tell the user: the notes of the files, with the name of the file if there are several, and which
        columns only some of the files have."""
        several = len(self.files) > 1
        repeated = Repeated()
        notes = [
            f"{file.path.name}: {note}" if several else note
            for file in self.files
            for note in file.notes
            if repeated.first(file.path.name, note)
        ]
        notes += repeated.rest()
        if self._one_sided:
            notes.append(f"not all of its files have {', '.join(sorted(self._one_sided))}: the others got empty values")
        return notes

    def check_span(self, metres: float) -> str | None:
        """A warning if the scene is too wide for grid points in 32 bits, else None. metres: in one unit.

        Raises:
            HpalError: the scene spans more than `MAX_SPAN` units, which no scan does.
        """
        span = float((self.high - self.low).max())
        if not span < MAX_SPAN:
            path = self.files[0].path
            raise HpalError(path, f"its points span {span:g} units", "check its columns, or for stray points")
        error = float(np.spacing(np.float32(span))) / 2 * metres
        if error <= MAX_ROUNDING:
            return None
        return f"spans {span:,.0f} units, so its grid points are off by up to {error:.2g} m: are there stray points?"

    def unit(self) -> float:
        """Metres in one unit: what the files say, else 1.

        Raises:
            HpalError: the files say different things.
        """
        known = {file.unit or 1.0: file.path for file in self.files}
        if len(known) > 1:
            (a, path_a), (b, path_b) = list(known.items())[:2]
            problem = f"has units of {b:g} m, and {path_a.name} of {a:g} m"
            raise HpalError(path_b, problem, "give the right unit with --unit")
        return next(iter(known))


def _fill(name: str, like: NDArray[Any]) -> object:
    if name == "label":
        return IGNORE
    # 0 is black for colours.
    return np.nan if like.dtype.kind == "f" and name != "rgb" else 0
