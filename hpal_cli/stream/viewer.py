"""The same points under the names that viewers keep: CloudCompare loads and saves fields called `scalar_<name>`."""

from __future__ import annotations

import numpy as np

from hpal_cli.errors import HpalError
from hpal_cli.stream.rows import Rows

PREFIX = "scalar_"

_GEOMETRY = ("x", "y", "z", "red", "green", "blue")


def for_viewers(rows: Rows) -> Rows:
    """Every property that is neither position nor colour as `scalar_<name>`."""
    names = rows.dtype.names or ()
    return _renamed(rows, [n if n in _GEOMETRY or n.startswith(PREFIX) else PREFIX + n for n in names])


def from_viewers(dtype: np.dtype[np.void]) -> np.dtype[np.void]:
    """The columns under our own names again, whatever the case a viewer gave the prefix."""
    names = dtype.names or ()
    bare = [n[len(PREFIX) :] if n.lower().startswith(PREFIX) else n for n in names]
    columns = [(b if bare.count(b) == 1 else n, dtype[n]) for n, b in zip(names, bare, strict=True)]
    return np.dtype(columns)


def whole_numbers(rows: Rows, names: tuple[str, ...], subject: object) -> Rows:
    """`rows` with these columns as int32: viewers hand integers back as floats.

    Raises:
        HpalError: a value that is no whole number.
    """
    floats = [n for n in names if n in (rows.dtype.names or ()) and rows.dtype[n].kind == "f"]
    if not floats:
        return rows
    for name in floats:
        bad = ~(np.isfinite(rows[name]) & (rows[name] == np.rint(rows[name])))
        if bad.any():
            raise HpalError(
                subject,
                f"{int(bad.sum())} values of {name} are no whole numbers",
                "give the points as hpal wrote them",
            )
    return rows.astype([(n, "<i4" if n in floats else rows.dtype[n]) for n in rows.dtype.names or ()])


def _renamed(rows: Rows, names: list[str]) -> Rows:
    return rows.view(np.dtype([(new, rows.dtype[old]) for new, old in zip(names, rows.dtype.names or (), strict=True)]))
