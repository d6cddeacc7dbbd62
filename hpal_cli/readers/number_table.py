"""A table of numbers in text: to one array, or to the line at fault."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hpal_cli.errors import HpalError

REMEDY = "repair or remove that line, or fetch the file again"


def parse(data: bytes, columns: int, path: Path, first_line: int = 1, finite: bool = False) -> NDArray[np.float64]:
    """Lines of `columns` numbers between blanks, as (N, columns) float64; empty lines are passed over.

    `first_line` is the file's own number of the first line of `data`; `finite` refuses NaN and infinity.

    Raises:
        HpalError: a line with another number of columns, or with something that is no such number.
    """
    if not data.strip():
        return np.empty((0, columns))
    lines = data.decode("latin-1").split("\n")
    try:
        values = np.loadtxt(lines, dtype=np.float64, comments=None, ndmin=2)
    except ValueError:
        values = np.empty((0, 0))
    if values.shape[1] != columns or (finite and not np.isfinite(values).all()):
        raise _fault(lines, columns, path, first_line, finite)
    return values


def _fault(lines: list[str], columns: int, path: Path, first_line: int, finite: bool) -> HpalError:
    for number, line in enumerate(lines, first_line):
        words = line.split()
        if words and len(words) != columns:
            return HpalError(path, f"line {number} has {len(words)} columns, expected {columns}", REMEDY)
        for word in words:
            try:
                value = float(word)
            except ValueError:
                return HpalError(path, f"line {number}: {word[:20]!a} is not a number", REMEDY)
            if finite and not np.isfinite(value):
                return HpalError(path, f"line {number}: {word[:20]!a} is not a finite number", REMEDY)
    return HpalError(path, "holds text that is no table of numbers", REMEDY)
