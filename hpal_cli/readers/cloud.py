"""What every reader hands on: where a raw scene lies, and the cloud in it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Source:
    """A scene that was found but not read yet.

    `name` is relative to the folder that was searched, with `/` between folders and no suffix
    (`Area_6/office_1`); `path` is what the reader opens.
    """

    name: str
    path: Path


@dataclass
class Cloud:
    """A raw cloud of N points, in file order.

    xyz: (N, 3) float64, in the file's own coordinates and unit.
    rgb: (N, 3) uint8, or None.
    label: (N,) int64 as the file numbers its classes, -1 for unlabelled; or None.
    attributes: further columns by name, each (N,), any numeric type.
    notes: what a person should be told about the file (repairs, points dropped).
    unit: metres in one unit of xyz, where the file knows it.
    """

    xyz: NDArray[np.float64]
    rgb: NDArray[np.uint8] | None = None
    label: NDArray[np.int64] | None = None
    attributes: dict[str, NDArray[np.generic]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    unit: float | None = None
