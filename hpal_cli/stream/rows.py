"""The rows of a stream in memory."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[Any]
"""A structured array: one record a point, one field a PLY property."""

REGION, GUESS = "region", "guess"
"""Columns of a regional strategy: the number of a point's region in its scene, and its predicted class."""

SUPERPOINT = "superpoint"
"""Column of a stream that asks a superpoint at a time: the number of the point's superpoint in its scene."""


def with_column(rows: Rows, name: str, values: NDArray[np.integer]) -> Rows:
    """`rows` with an int32 column at the end, in place of one of that name."""
    names = [n for n in rows.dtype.names or () if n != name]
    wider = np.zeros(len(rows), [*((n, rows.dtype[n]) for n in names), (name, "<i4")])
    for n in names:
        wider[n] = rows[n]
    wider[name] = values
    return wider


def picked_rows(rows: Rows) -> Rows:
    """Those that were picked: a cloud that shows them among the points around gives these rank 0."""
    return rows[rows["rank"] > 0] if "rank" in (rows.dtype.names or ()) else rows
