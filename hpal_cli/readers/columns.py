"""Recognises by its name or its position what a column holds, and reads labels of any numeric type."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from difflib import SequenceMatcher
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hpal_cli.errors import HpalError
from hpal_cli.readers.cloud import Cloud

AXES = ("x", "y", "z")
COLOURS = (
    ("red", "green", "blue"),
    ("r", "g", "b"),
    ("diffuse_red", "diffuse_green", "diffuse_blue"),
    ("rf", "gf", "bf"),  # CloudCompare's fractions of 1
)
LABELS = (
    *("label", "class", "classification", "scalar_class", "scalar_label", "scalar_classification"),
    *("labels", "scalar_labels", "semantic", "scalar_semantic", "semantic_label", "scalar_semantic_label"),
    *("semantic_class", "scalar_semantic_class", "class_id", "scalar_class_id", "sem_label"),
)
BY_COUNT = {
    3: ("x", "y", "z"),
    4: ("x", "y", "z", "intensity"),
    6: ("x", "y", "z", "red", "green", "blue"),
    7: ("x", "y", "z", "red", "green", "blue", "label"),
}
"""Meaning of columns without names, by their number. A fourth column is intensity even if it holds whole numbers, as
scanners write it; taken for labels, intensities would give hundreds of classes."""

_MAX_SHORT = 2
"""Names of up to so many letters are not compared with misspelt ones, because too many would be similar."""
_CLOSE_COLOUR, _CLOSE_LABEL = 0.6, 0.75
"""`SequenceMatcher.ratio` from which a name is taken to be misspelt: `greeb` and `green` have 0.8, `bleu` and `blue`
0.75, `lable` and `label` 0.8."""


def missing_axes(names: Iterable[str]) -> list[str]:
    """Which of x, y and z are not among the names, in upper or lower case."""
    folded = {name.casefold() for name in names}
    return [axis for axis in AXES if axis not in folded]


def cloud(columns: Mapping[str, NDArray[np.generic]], path: Path, first: int = 0) -> Cloud:
    """Makes a cloud of named columns, each (N,): position, colour, label, and attributes from all others.

    Names are matched in upper and lower case. Of several label columns the one that comes first in `LABELS` is taken. A
    colour channel whose name is misspelt is recognised if it stands at its position beside the others. first: row of
    the first point in the file; notes on misspelt names come with row 0 only.

    Raises:
        HpalError: x, y or z is missing, or colours or labels have a type that cannot be read.
    """
    missing = missing_axes(columns)
    if missing:
        raise HpalError(
            path,
            f"has no {', '.join(missing)} among its columns ({', '.join(columns)})",
            "name the columns x y z",
        )
    # If a file has both "x" and "X", the exact name is taken.
    name_of = {name.casefold(): name for name in columns} | {name: name for name in columns}
    used = [name_of[axis] for axis in AXES]
    # A signalling NaN, which damaged files may hold, becomes a plain one; its point is left out later, with a note.
    with np.errstate(invalid="ignore"):
        made = Cloud(np.column_stack([np.asarray(columns[name], np.float64) for name in used]))
    channels, note = _channels(columns, name_of)
    if channels:
        made.rgb = np.column_stack([columns[name] for name in channels])
        used += channels
    notes = [note]
    label = next((name_of[wanted] for wanted in LABELS if wanted in name_of), None)
    if label is not None:
        made.label = labels(columns[label], path, first)
        used.append(label)
    else:
        notes.append(_like_a_label(name for name in columns if name not in used))
    made.attributes = {name: native(column) for name, column in columns.items() if name not in used}
    made.notes = [note for note in notes if note and first == 0]
    return made


def _channels(
    columns: Mapping[str, NDArray[np.generic]], name_of: Mapping[str, str]
) -> tuple[Sequence[str], str | None]:
    """The names of the columns of red, green and blue, () if there are none; and a note if names are nearly these."""
    for triple in COLOURS:
        if all(part in name_of for part in triple):
            return [name_of[part] for part in triple], None
    names = list(columns)
    for triple in COLOURS:
        here = [part for part in triple if part in name_of]
        short = len(triple[0]) <= _MAX_SHORT
        if len(here) < 1 + short:
            continue
        for n in range(len(names) - 2) if not short else ():
            found = names[n : n + 3]
            folded = [name.casefold() for name in found]
            alike = all(_ratio(*pair) >= _CLOSE_COLOUR for pair in zip(folded, triple, strict=True))
            if alike and set(folded) & set(triple) and len({columns[name].dtype for name in found}) == 1:
                wrong = [(name, part) for name, part in zip(found, triple, strict=True) if name.casefold() != part]
                return found, ", ".join(f"its column {name!r} is read as {part}" for name, part in wrong)
        absent = " and no ".join(part for part in triple if part not in name_of)
        return (), f"has {' and '.join(here)}, but no {absent} ({', '.join(names)}): read without colour"
    return (), None


def _like_a_label(names: Iterable[str]) -> str | None:
    for name in names:
        bare = name.casefold().removeprefix("scalar_")
        if any(_ratio(bare, wanted) >= _CLOSE_LABEL for wanted in ("label", "class", "classification")):
            return f"its column {name!r} is read as a further column; call it label if it holds classes"
    return None


def _ratio(a: str, b: str) -> float:
    return SequenceMatcher(None, a, b).ratio()


def matrix(values: NDArray[np.generic], path: Path, first: int = 0) -> Cloud:
    """Makes a cloud of columns (N, C) without names, by their number (`BY_COUNT`). first: as for `cloud`.

    Raises:
        HpalError: another number of columns, or colours or labels have a type that cannot be read.
    """
    count = values.shape[1] if values.ndim == 2 else 0
    if count not in BY_COUNT:
        raise HpalError(
            path,
            f"has the shape {values.shape}, and the meaning is known only for 3, 4, 6 or 7 columns",
            "name the columns (x y z red green blue label ...), in the file or with --columns",
        )
    return cloud({name: values[:, n] for n, name in enumerate(BY_COUNT[count])}, path, first)


def labels(values: NDArray[np.generic], path: Path, first: int = 0) -> NDArray[np.int64]:
    """Class numbers (N,) of any numeric type -> (N,) int64; NaN becomes -1, unlabelled. first: as for `cloud`.

    Raises:
        HpalError: a number is a fraction or infinite, or the column holds text.
    """
    if np.issubdtype(values.dtype, np.integer) or values.dtype == np.bool_:
        return values.astype(np.int64)
    remedy = "write class numbers as whole numbers (-1 or NaN for unlabelled)"
    if not np.issubdtype(values.dtype, np.floating):
        raise HpalError(path, f"labels of type {values.dtype}", remedy)
    numbers = np.where(np.isnan(values), -1.0, values.astype(np.float64))
    wrong = ~np.isfinite(numbers) | (numbers != np.rint(numbers)) | (np.abs(numbers) >= 2.0**63)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise HpalError(path, f"label {numbers[row]:g} at point {first + row} is no whole number", remedy)
    return numbers.astype(np.int64)


def native(values: NDArray[np.generic]) -> NDArray[np.generic]:
    """The same numbers, contiguous and in this machine's byte order."""
    return np.ascontiguousarray(values, values.dtype.newbyteorder("="))
