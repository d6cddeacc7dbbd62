"""What every reader returns: where a raw scene lies, and its points in blocks."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hpal_cli.classes import ClassTable


@dataclass(frozen=True)
class Source:
    """A scene that was found but not read yet.

    `name` is relative to the folder that was searched, with `/` between folders and no suffix
    (`Area_6/office_1`); `path` is what the reader opens; `beside` are files that belong to it where they exist;
    `suffix` is what a result of it is called, where that is not the path's.
    """

    name: str
    path: Path
    beside: tuple[Path, ...] = ()
    suffix: str | None = None


@dataclass(frozen=True)
class Options:
    """What a person says of the files, for the readers that need it.

    columns: what the columns of text mean, in order; `-` for one to leave out. None: look at the file.
    classes: the class table that was given, for formats with several kinds of numbers; None if none was.
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
    carried: columns that go with the original points alone, since their mean over a cell says nothing.
    notes: what a person should be told about the file (repairs, points dropped).
    unit: metres in one unit of xyz, where the file knows it.
    las_header: an empty LAS file with the header and the records of the one that was read (first block only).
    rows: (N,) which of the file's points these are, where some were left out; None for all of them.
    given: the file's points up to the end of this block, those left out too; `readers.blocks` counts them.
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
        """All that there is besides xyz, by name."""
        own = {"rgb": self.rgb, "label": self.label}
        return {**{n: v for n, v in own.items() if v is not None}, **self.attributes, **self.carried}

    def take(self, keep: NDArray[np.integer]) -> Cloud:
        """Some of the points, by their places in this block (K,); `rows` stays None where it is."""
        return replace(
            self,
            xyz=self.xyz[keep],
            rgb=None if self.rgb is None else self.rgb[keep],
            label=None if self.label is None else self.label[keep],
            attributes={name: values[keep] for name, values in self.attributes.items()},
            carried={name: values[keep] for name, values in self.carried.items()},
            rows=None if self.rows is None else self.rows[keep],
        )
