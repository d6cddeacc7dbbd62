"""The rows of a stream in memory."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[Any]
"""A structured array with a record for each point and a field for each PLY property."""

REGION, GUESS = "region", "guess"
"""Columns of the strategies that score regions: the number of a point's region in its scene, and its predicted
class."""

SUPERPOINT = "superpoint"
"""Column of a stream whose candidates are superpoints: the number of the point's superpoint in its scene."""


def with_column(rows: Rows, name: str, values: NDArray[np.integer]) -> Rows:
    """`rows` (N,) with the int32 column `values` (N,) at the end. It replaces a column of the same name."""
    names = [n for n in rows.dtype.names or () if n != name]
    wider = np.zeros(len(rows), [*((n, rows.dtype[n]) for n in names), (name, "<i4")])
    for n in names:
        wider[n] = rows[n]
    wider[name] = values
    return wider


def picked_rows(rows: Rows) -> Rows:
    """The rows that were selected. A cloud that also has the points around them gives those rank 0."""
    return rows[rows["rank"] > 0] if "rank" in (rows.dtype.names or ()) else rows
