"""The class table: which classes there are, their names and colours."""

from __future__ import annotations

import json
import re
import tomllib
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpal_cli.errors import HpalError

IGNORE = -1
"""The ignore index: a point with no label, or with one outside the task."""

UNSURE = "unsure"
"""What a person answers who cannot tell; -1 in labels. No class can be called so."""

MAX_CLASSES = 1024

NOT_CLASSIFIED = (0, 1)
"""LAS codes that mean "not classified"; a class with one could not be read back."""


@dataclass(frozen=True)
class SemanticClass:
    """One class. `id` is its row in the table and its column in the probabilities; `code` is the
    number that source files use for it (NYU id, ASPRS code), where that differs from `id`; `las` is the
    number that it gets in LAS files, 0 to 255, where it was given one."""

    id: int
    name: str
    color: tuple[int, int, int]
    code: int
    las: int | None = None


class ClassTable:
    """The classes of a store, in id order: ids are 0 .. C-1 without gaps."""

    def __init__(self, classes: Iterable[SemanticClass], subject: object = "class table") -> None:
        self._rows = tuple(classes)
        remedy = "number the classes 0, 1, 2, ... and give each its own name"
        if not 1 <= len(self._rows) <= MAX_CLASSES:
            raise HpalError(subject, f"{len(self._rows)} classes, expected 1 to {MAX_CLASSES}", remedy)
        ids = [c.id for c in self._rows]
        double = next((n for n in ids if ids.count(n) > 1), None)
        if double is not None:
            raise HpalError(subject, f"two classes have id {double}", remedy)
        for row, semantic in enumerate(self._rows):
            if semantic.id != row:
                raise HpalError(subject, f"class {semantic.name!r} has id {semantic.id}, expected {row}", remedy)
        _require_names(self.names, subject)
        las = [c.las for c in self._rows if c.las is not None]
        if not all(0 <= number <= 255 for number in las):
            raise HpalError(subject, "a LAS code is not 0..255", "give the ASPRS number, such as 6 for buildings")
        taken = next((number for number in las if number in NOT_CLASSIFIED), None)
        if taken is not None:
            problem = f"a LAS code is {taken}, which means that a point is not classified"
            raise HpalError(subject, problem, "give another, such as one from 64 on")
        columns = (("code", [c.code for c in self._rows]), ("LAS code", las))
        for what, values in columns:
            shared = {v for v in values if values.count(v) > 1}
            if shared:
                raise HpalError(subject, f"two classes share the {what} {min(shared)}", remedy)

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[SemanticClass]:
        return iter(self._rows)

    def __getitem__(self, row: int) -> SemanticClass:
        return self._rows[row]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ClassTable) and self._rows == other._rows

    def __hash__(self) -> int:
        return hash(self._rows)

    @property
    def names(self) -> list[str]:
        return [c.name for c in self._rows]

    @property
    def colors(self) -> NDArray[np.uint8]:
        """(C, 3) red, green, blue."""
        return np.array([c.color for c in self._rows], np.uint8).reshape(-1, 3)

    def id_of(self, text: str) -> int | None:
        """The id that a person's answer names (a class name, any case, or an id, be it written 1.0), or None."""
        folded = {_folded(c.name): c.id for c in self._rows}
        if _folded(text) in folded:
            return folded[_folded(text)]
        number = _number(text.strip())
        return number if number is not None and number < len(self) else None

    def for_las(self) -> ClassTable:
        """The same table with each class's LAS code as its `code`, for labels that come from LAS files.

        Raises:
            HpalError: some classes have a LAS code, and the code of another class is one of these.
        """
        if all(c.las is None for c in self._rows):
            return self
        return ClassTable(replace(c, code=c.code if c.las is None else c.las) for c in self._rows)

    def from_codes(self, codes: NDArray[np.integer], subject: object) -> NDArray[np.int32]:
        """Source numbers (N,) as ids (N,) int32; -1 stays -1.

        Raises:
            HpalError: a number that no class has.
        """
        known = np.array([IGNORE, *(c.code for c in self._rows)], np.int64)
        ids = np.array([IGNORE, *(c.id for c in self._rows)], np.int32)
        order = np.argsort(known)
        at = np.minimum(np.searchsorted(known[order], codes), len(known) - 1)
        missing = known[order][at] != codes
        if missing.any():
            raise HpalError(
                subject,
                f"class number {int(np.asarray(codes)[missing][0])} is not in the table of {len(self)} classes "
                f"({int(missing.sum())} points)",
                "add it to the file given with --classes (use -1 for points to ignore)",
            )
        return ids[order][at]

    def to_json(self) -> list[dict[str, Any]]:
        return [
            {"id": c.id, "name": c.name, "color": list(c.color), "code": c.code}
            | ({} if c.las is None else {"las": c.las})
            for c in self._rows
        ]

    @classmethod
    def from_json(cls, rows: Iterable[Mapping[str, Any]], subject: object = "class table") -> ClassTable:
        """Rows of {id, name, color?, code?, las?}; a missing colour is taken from a palette.

        Raises:
            HpalError: a row without id or name, or values of another type or out of range.
        """
        classes = []
        for n, row in enumerate(rows):
            try:
                number, name = _whole(row["id"]), str(row["name"])
                red, green, blue = (_whole(v) for v in row.get("color", row.get("colour", palette(n))))
                code = _whole(row.get("code", number))
                las = None if row.get("las") is None else _whole(row["las"])
            except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
                raise HpalError(
                    subject,
                    f"row {n + 1} of the class table cannot be read ({error!r})",
                    'write each class as {"id": 0, "name": "wall", "color": [174, 199, 232]}',
                ) from error
            if not all(0 <= v <= 255 for v in (red, green, blue)):
                raise HpalError(subject, f"the colour of {name!r} is not 0..255", "give red, green, blue as bytes")
            classes.append(SemanticClass(number, name, (red, green, blue), code, las))
        return cls(sorted(classes, key=lambda c: c.id), subject)

    @classmethod
    def from_names(cls, names: Iterable[str]) -> ClassTable:
        return cls(SemanticClass(n, name, palette(n), n) for n, name in enumerate(names))

    @classmethod
    def from_file(cls, path: Path) -> ClassTable:
        """A JSON list, or a TOML file with a `[[classes]]` table each.

        Raises:
            HpalError: the file is missing, not JSON/TOML, or holds no classes.
        """
        try:
            text = path.read_text(encoding="utf-8")
            data = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
        except (OSError, ValueError, RecursionError) as error:
            raise HpalError(path, f"cannot be read as a class table ({error})", "give a .json or .toml file") from error
        rows = data.get("classes") if isinstance(data, dict) else data
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise HpalError(path, "holds no list of classes", 'write [{"id": 0, "name": "wall"}, ...]')
        return cls.from_json(rows, path)


def _require_names(names: list[str], subject: object) -> None:
    """Raises:
    HpalError: a name that a person could not answer with, or that could be taken for another class.
    """
    seen: dict[str, str] = {}
    for row, name in enumerate(names):
        folded = _folded(name)
        remedy = "give each class a name of its own"
        if not folded:
            raise HpalError(subject, f"class {row} has an empty name", remedy)
        if any(unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") for letter in name):
            raise HpalError(subject, f"the name {name!r} has control characters", remedy)
        if folded == UNSURE:
            raise HpalError(subject, f"a class is called {name!r}, as the answer of who cannot tell", remedy)
        if folded in seen:
            other = "" if seen[folded] == name else f" ({seen[folded]!r}; case makes no difference)"
            raise HpalError(subject, f"two classes share the name {name!r}{other}", remedy)
        number = _number(folded)
        if number is not None and number != row and number < len(names):
            raise HpalError(subject, f"class {row} is called {name!r}, which is the id of another class", remedy)
        seen[folded] = name


def _folded(name: str) -> str:
    """What is compared: answers may have any case, and space around them."""
    return name.strip().casefold()


def _whole(value: Any) -> int:
    """Raises:
    ValueError: 0.7, true, infinity, or no number.
    """
    if isinstance(value, bool) or (isinstance(value, float) and not value.is_integer()):
        raise ValueError(f"{value} is no whole number")
    return int(value)


def _number(text: str) -> int | None:
    """The number that digits stand for; pandas writes 1.0 for a 1 where other rows are blank."""
    return int(text.partition(".")[0]) if re.fullmatch(r"\d{1,9}(\.0+)?", text) else None


def palette(n: int) -> tuple[int, int, int]:
    """The n-th of an endless row of well-spread colours: golden-angle hues, two lightnesses."""
    hue = (n * 137.50776405) % 360 / 60
    high, low = (225, 75) if n % 2 == 0 else (165, 30)
    x = int(low + (high - low) * (1 - abs(hue % 2 - 1)))
    return [(high, x, low), (x, high, low), (low, high, x), (low, x, high), (x, low, high), (high, low, x)][int(hue)]
