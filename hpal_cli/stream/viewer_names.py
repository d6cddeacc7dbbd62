"""Renames columns for viewers and back: CloudCompare only keeps fields that are called `scalar_<name>`."""

from __future__ import annotations

from collections import Counter

import numpy as np

from hpal_cli.errors import HpalError
from hpal_cli.stream.rows import Rows

PREFIX = "scalar_"

QUALITY = "quality"

_GEOMETRY = ("x", "y", "z", "red", "green", "blue")


def for_viewers(rows: Rows) -> Rows:
    """The rows with each column that is neither position nor colour renamed to `scalar_<name>`. The score is also
    repeated as `quality`, the only number that MeshLab shows."""
    names = [n for n in rows.dtype.names or () if n != QUALITY]
    columns = [(n if n in _GEOMETRY or n.startswith(PREFIX) else PREFIX + n, rows.dtype[n]) for n in names]
    if "score" in names:
        names.append("score")
        columns.append((QUALITY, np.dtype("<f4")))
    wider = np.zeros(len(rows), columns)
    for old, (new, _) in zip(names, columns, strict=True):
        wider[new] = rows[old]
    return wider


def from_viewers(dtype: np.dtype[np.void]) -> np.dtype[np.void]:
    """The columns with the prefix `scalar_` removed, whether in upper or lower case."""
    names = dtype.names or ()
    bare = [n[len(PREFIX) :] if n.lower().startswith(PREFIX) else n for n in names]
    times = Counter(bare)
    columns = [(b if times[b] == 1 else n, dtype[n]) for n, b in zip(names, bare, strict=True)]
    return np.dtype(columns)


def whole_numbers(rows: Rows, names: tuple[str, ...], subject: object) -> Rows:
    """`rows` with the columns `names` as int32, since some viewers write integers as floats.

    Raises:
        HpalError: a value is no whole number.
    """
    floats = [n for n in names if n in (rows.dtype.names or ()) and rows.dtype[n].kind == "f"]
    if not floats:
        return rows
    for name in floats:
        bad = ~(np.isfinite(rows[name]) & (rows[name] == np.rint(rows[name])) & (np.abs(rows[name]) < 2**31))
        if bad.any():
            raise HpalError(
                subject,
                f"{int(bad.sum())} values of {name} are no whole numbers",
                "give the points as hpal wrote them",
            )
    return rows.astype([(n, "<i4" if n in floats else rows.dtype[n]) for n in rows.dtype.names or ()])
