"""What every reader returns: the place of a raw scene, and its points in blocks."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hpal_cli.classes import ClassTable
from hpal_cli.store.remote import RemoteFile


@dataclass(frozen=True)
class Source:
    """A scene that was found but not read yet.

    name: relative to the folder that was searched, with `/` between folders and without suffix (`Area_6/office_1`);
    path: what the reader opens; beside: further files that belong to the scene, if they exist; suffix: of the
    files that are written for the scene; None: the suffix of `path`; objects: all that is read for the scene, if it is
    on object storage.
    """

    name: str
    path: Path
    beside: tuple[Path, ...] = ()
    suffix: str | None = None
    objects: tuple[RemoteFile, ...] = ()


@dataclass(frozen=True)
class Options:
    """What the user says about the files, for the readers that need it.

    columns: what the columns of text mean, in order; `-` for a column to leave out. None: the file tells it.
    classes: the class table that was given, for formats that number classes in several ways; None if none was given.
    """

    columns: tuple[str, ...] | None = None
    classes: ClassTable | None = None


@dataclass
class Cloud:
    """A block of N raw points, in file order: a whole cloud, or the next part of one.

    All blocks of a cloud have the same columns of the same types.

    xyz: (N, 3) float64, in the file's own coordinates and unit.
    rgb: (N, 3) as the file has them (bytes, 16 bits, fractions of 1), or None.
    label: (N,) int64 as the file numbers its classes, -1 for unlabelled; or None.
    attributes: further columns by name, each (N,), any numeric type.
    carried: columns that only the original points keep, because their mean over a grid cell has no meaning.
    notes: what to tell the user about the file (repairs, points left out).
    unit: metres in one unit of xyz; None if the file does not say.
    las_header: an empty LAS file with the header and the records of the one that was read (first block only).
    rows: (N,) the points' rows in the file, if points before the end of this block were left out; else None.
    given: number of points of the file up to the end of this block, including those left out; set by `readers.blocks`.
    """

    xyz: NDArray[np.float64]
    rgb: NDArray[np.generic] | None = None
    label: NDArray[np.int64] | None = None
    attributes: dict[str, NDArray[np.generic]] = field(default_factory=dict)
    carried: dict[str, NDArray[np.generic]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    unit: float | None = None
    las_header: bytes | None = None
    rows: NDArray[np.int64] | None = None
    given: int = 0

    @property
    def columns(self) -> dict[str, NDArray[np.generic]]:
        """All columns besides xyz, by name."""
        own = {"rgb": self.rgb, "label": self.label}
        return {**{n: v for n, v in own.items() if v is not None}, **self.attributes, **self.carried}

    def take(self, keep: NDArray[np.integer]) -> Cloud:
        """Some of the points. keep: (K,) their rows in this block. If `rows` is None it stays None."""
        return replace(
            self,
            xyz=self.xyz[keep],
            rgb=None if self.rgb is None else self.rgb[keep],
            label=None if self.label is None else self.label[keep],
            attributes={name: values[keep] for name, values in self.attributes.items()},
            carried={name: values[keep] for name, values in self.carried.items()},
            rows=None if self.rows is None else self.rows[keep],
        )
