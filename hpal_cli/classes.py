"""The class table: which classes there are, their names and colours."""

from __future__ import annotations

import itertools
import json
import re
import tomllib
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hpal_cli.errors import HpalError
from hpal_cli.wording import counted

IGNORE = -1
"""The ignore index: a point with no label, or with one outside the task."""

UNSURE = "unsure"
"""What a person answers who cannot tell; -1 in labels. No class can be called so."""

MAX_CLASSES = 1024

_SHOWN = 8
"""Numbers in a message."""

NOT_CLASSIFIED = (0, 1)
"""LAS codes that mean "not classified"; a class with one could not be read back."""


@dataclass(frozen=True)
class SemanticClass:
    """One class. `id` is its row in the table and its column in the probabilities; `codes` are the numbers that source
    files use for it (NYU ids, say); `las_codes` those in LAS files, 2 to 255, where it was given any."""

    id: int
    name: str
    color: tuple[int, int, int]
    codes: tuple[int, ...]
    las_codes: tuple[int, ...] = ()

    @property
    def code(self) -> int | None:
        """The first of its codes, which is written where one has to be; None without."""
        return self.codes[0] if self.codes else None

    @property
    def las(self) -> int | None:
        """As `code`, for LAS files."""
        return self.las_codes[0] if self.las_codes else None


class Numbers(NamedTuple):
    """Numbers of source files that stand for no class."""

    codes: tuple[int, ...] = ()
    las_codes: tuple[int, ...] = ()


_NONE = Numbers()


class ClassTable:
    """The classes of a store, in id order: ids are 0 .. C-1 without gaps.

    What a table says beyond its classes is for reading clouds alone, and goes into no store: `ignored` numbers are -1,
    and `rest` is what all others are that no class has, the id of a class or -1. `file` is where it was read from.
    """

    def __init__(
        self,
        classes: Iterable[SemanticClass],
        subject: object = "class table",
        *,
        ignored: Numbers = _NONE,
        rest: int | None = None,
        file: Path | None = None,
        where: Mapping[int, str] | None = None,
    ) -> None:
        """where: what messages call the class of an id, and the row of what is ignored (-1).

        Raises:
            HpalError: ids with gaps, names or numbers that are not one class's alone, or numbers that cannot be.
        """
        self._rows = tuple(classes)
        self.ignored, self.rest, self.file = ignored, rest, file
        remedy = "number the classes 0, 1, 2, ... and give each its own name"
        if not 1 <= len(self._rows) <= MAX_CLASSES:
            raise HpalError(subject, f"{len(self._rows)} classes, expected 1 to {MAX_CLASSES}", remedy)
        called = {c.id: f"class {c.id}" for c in self._rows} | {IGNORE: "what is ignored"} | dict(where or {})
        for row, semantic in enumerate(self._rows):
            if semantic.id != row:
                problem = f"{called[semantic.id]} ({semantic.name!r}) has id {semantic.id}, expected {row}"
                raise HpalError(subject, problem, remedy)
        _require_names(self.names, subject, called)
        kinds = [
            ("code", {c.id: c.codes for c in self._rows} | {IGNORE: ignored.codes}),
            ("LAS code", {c.id: c.las_codes for c in self._rows} | {IGNORE: ignored.las_codes}),
        ]
        for what, numbers in kinds:
            owner: dict[int, int] = {}
            for n, number in ((n, number) for n, own in numbers.items() for number in own):
                _require_number(number, what, n, called, subject)
                if number in owner:
                    both = f"{called[n]} and {called[owner[number]]}" if n != owner[number] else f"{called[n]} twice"
                    raise HpalError(subject, f"{both}: the {what} {number}", "give each number to one class")
                owner[number] = n

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

    def numbers(self, *, las: bool = False) -> dict[int, int]:
        """The numbers of source files, and the id of each, -1 for those to ignore.

        las: the numbers of LAS files, where any class has some. A class without has its codes there, but not where
        all codes are ids: of those nobody said that they are LAS's, where 2 is the ground.
        """
        rows = [*((c.id, c.codes, c.las_codes) for c in self._rows), (IGNORE, *self.ignored)]
        las = las and any(c.las_codes for c in self._rows)
        typed = any(c.codes != (c.id,) for c in self._rows)
        found: dict[int, int] = {}
        for n, codes, las_codes in rows:
            own = las_codes or (codes if typed or n == IGNORE else ()) if las else codes
            for number in own:
                found.setdefault(number, n)
        if las:  # what was said of LAS files counts
            found |= {number: n for n, _, las_codes in rows for number in las_codes}
        return found

    def from_codes(self, codes: NDArray[np.integer], subject: object, *, las: bool = False) -> NDArray[np.int32]:
        """Source numbers (N,) as ids (N,) int32; -1 stays -1. las: as in `numbers`.

        Raises:
            HpalError: a number that no class has, and no class takes the rest.
        """
        numbers = {**self.numbers(las=las), IGNORE: IGNORE}
        known = np.array(sorted(numbers), np.int64)
        ids = np.array([numbers[number] for number in known.tolist()], np.int32)
        at = np.minimum(np.searchsorted(known, codes), len(known) - 1)
        missing = known[at] != codes
        if missing.any() and self.rest is None:
            key = '"las"' if las and any(c.las_codes for c in self._rows) else '"code"'
            remedy = f'add it to the {key} of a class in {self.file}, or to a row with "id": -1 to ignore it'
            if self.file is None:
                remedy = 'give another with --classes: a name, or a file, in which a row with "id": -1 ignores numbers'
            absent = np.unique(np.asarray(codes)[missing]).tolist()
            shown = ", ".join(map(str, absent[:_SHOWN])) + ", ..." * (len(absent) > _SHOWN)
            which = f"class number {shown} is" if len(absent) == 1 else f"class numbers {shown} are"
            problem = f"{which} not in the table of {len(self)} classes ({counted(int(missing.sum()), 'point')})"
            raise HpalError(subject, problem, remedy)
        return np.where(missing, np.int32(IGNORE if self.rest is None else self.rest), ids[at])

    def to_json(self) -> list[dict[str, Any]]:
        """The rows of a store (docs/formats.md 1.4)."""
        taken = {number for c in self._rows for number in c.codes}
        rows = []
        for c in self._rows:
            code = c.code
            if code is None:
                # Readers that know no `codes` want one that no other class has.
                code = next(n for n in itertools.chain([c.id], itertools.count(MAX_CLASSES)) if n not in taken)
                taken.add(code)
            row: dict[str, Any] = {"id": c.id, "name": c.name, "color": list(c.color), "code": code}
            if len(c.codes) != 1:
                row["codes"] = list(c.codes)
            if c.las is not None:
                row["las"] = c.las
            if len(c.las_codes) > 1:
                row["las_codes"] = list(c.las_codes)
            rows.append(row)
        return rows

    def reading(self) -> list[Any]:
        """All that decides which class a number becomes, as JSON."""
        return [self.to_json(), list(map(list, self.ignored)), self.rest]

    @classmethod
    def from_json(cls, rows: Iterable[Mapping[str, Any]], subject: object = "class table") -> ClassTable:
        """Rows of {id, name, color?, code?, codes?, las?, las_codes?}, as a store has them; a missing colour is taken
        from a palette, a missing code is the id.

        Raises:
            HpalError: a row without id or name, or values of another type or out of range.
        """
        classes = []
        for n, row in enumerate(rows):
            where = f"row {n + 1} of the class table"
            with _refused(subject, where):
                number, name = _whole(row["id"]), str(row["name"])
                codes = _wholes(row.get("codes", row.get("code", number)))
                las = _wholes(row.get("las_codes", row.get("las")))
                color = _color(row, n)
            classes.append(SemanticClass(number, name, color, codes, las))
        return cls(sorted(classes, key=lambda c: c.id), subject)

    @classmethod
    def from_names(cls, names: Iterable[str]) -> ClassTable:
        return cls(SemanticClass(n, name, palette(n), (n,)) for n, name in enumerate(names))

    @classmethod
    def from_file(cls, path: Path) -> ClassTable:
        """A JSON list of classes, or a TOML file with a `[[classes]]` table each; the same members in both.

        `name`; `id`, or the rows are numbered in their order; `color`; `code` and `las`, each a number or a list of
        numbers, the first of which is written where one has to be. `code` may be "rest", for all numbers that no other
        row has. A row with the id -1 needs no name: its numbers are ignored. Where no class has a `code`, ids are the
        codes; where one has, a class without has no number in the files.

        Raises:
            HpalError: the file is missing, not JSON/TOML, or holds no classes; the row is named.
        """
        toml = path.suffix.lower() == ".toml"
        try:
            text = path.read_text(encoding="utf-8-sig")
            data = tomllib.loads(text) if toml else json.loads(text)
        except OSError as error:
            raise HpalError(path, f"cannot be read ({error.strerror or error})", "check the name") from error
        except (ValueError, RecursionError) as error:
            remedy = f"repair that place, or give a .json or .toml file (this is read as {'TOML' if toml else 'JSON'})"
            raise HpalError(path, f"cannot be read as a class table ({error})", remedy) from error
        rows = data.get("classes") if isinstance(data, dict) else data
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise HpalError(path, "holds no list of classes", 'write [{"id": 0, "name": "wall"}, ...]')
        return _from_rows(rows, path)


_MEMBERS = ("id", "name", "color", "colour", "code", "codes", "las", "las_codes")
_REST = "rest"
_EXAMPLE = 'write each class as {"id": 0, "name": "wall", "color": [174, 199, 232], "code": [1, 8]}'


def _from_rows(rows: Sequence[Mapping[str, Any]], path: Path) -> ClassTable:
    """Raises:
    HpalError: as `ClassTable.from_file`.
    """
    numbered = any(row.get("id", IGNORE) != IGNORE for row in rows)
    coded = any(row.get("codes", row.get("code", _REST)) != _REST and row.get("id") != IGNORE for row in rows)
    classes: list[SemanticClass] = []
    where: dict[int, str] = {}
    ignored, rest = Numbers(), None
    for n, row in enumerate(rows):
        place = f"row {n + 1}"
        unknown = [key for key in row if key not in _MEMBERS]
        if unknown:
            raise HpalError(path, f"{place} has {unknown[0]!r}, which is unknown", f"known are {', '.join(_MEMBERS)}")
        with _refused(path, place):
            number = _whole(row["id"]) if numbered or "id" in row else len(classes)
            if number < IGNORE:
                raise ValueError(f"the id {number} is neither a class's nor {IGNORE}")
            given = _one_or_several(row, "code", "codes")
            takes_rest = given == _REST
            codes = () if takes_rest else _wholes(given)
            las = _wholes(_one_or_several(row, "las", "las_codes"))
            name = "" if number == IGNORE else _name(row["name"])
            color = _color(row, max(number, 0))
        if takes_rest:
            if rest is not None:
                raise HpalError(path, f"{place} and {where[rest]} both take the rest", "leave it to one of them")
            rest = number
        if number == IGNORE:
            if not (codes or las or takes_rest):
                raise HpalError(path, f"{place} names no number to ignore", 'give it a "code" or a "las"')
            ignored = Numbers(ignored.codes + codes, ignored.las_codes + las)
            where.setdefault(IGNORE, place)
            continue
        if number in where:
            problem = f"{place} and {where[number]} have the same id {number}"
            raise HpalError(path, problem, "number the classes 0, 1, 2, ...")
        where[number] = place
        if not coded:
            codes = (number,)
        classes.append(SemanticClass(number, name, color, codes, las))
    classes.sort(key=lambda c: c.id)
    return ClassTable(classes, path, ignored=ignored, rest=rest, file=path, where=where)


@contextmanager
def _refused(subject: object, place: str) -> Iterator[None]:
    """Raises:
    HpalError: for what is wrong with the members of a row.
    """
    try:
        yield
    except KeyError as error:
        raise HpalError(subject, f"{place} has no {error.args[0]}", _EXAMPLE) from error
    except (TypeError, ValueError, AttributeError, OverflowError) as error:
        raise HpalError(subject, f"{place} cannot be read: {error}", _EXAMPLE) from error


def _color(row: Mapping[str, Any], n: int) -> tuple[int, int, int]:
    """Raises:
    ValueError: no three bytes.
    """
    given = row.get("color", row.get("colour"))
    if given is None:
        return palette(n)
    if not isinstance(given, (list, tuple)) or len(given) != 3 or not all(0 <= _whole(v) <= 255 for v in given):
        raise ValueError(f"the colour {given!r} is not three numbers from 0 to 255")
    red, green, blue = map(_whole, given)
    return red, green, blue


def _one_or_several(row: Mapping[str, Any], one: str, several: str) -> Any:
    """What a row says under either name.

    Raises:
        ValueError: it says different things under both.
    """
    numbers = row.get(several)
    # A store's row without a number has an empty list, and one that no file has.
    if one in row and numbers and not (isinstance(numbers, list) and numbers[0] == row[one]):
        raise ValueError(f"its {one!r} is not the first of its {several!r}")
    return row.get(several, row.get(one))


def _name(value: Any) -> str:
    """Raises:
    ValueError: no text and no number.
    """
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise ValueError(f"{value!r} is no name")
    return str(value)


def _wholes(value: Any) -> tuple[int, ...]:
    """A number, a list of numbers, or None.

    Raises:
        ValueError: anything else.
    """
    if value is None:
        return ()
    return tuple(map(_whole, value)) if isinstance(value, (list, tuple)) else (_whole(value),)


def _require_number(number: int, what: str, n: int, called: Mapping[int, str], subject: object) -> None:
    """Raises:
    HpalError: a number that no point of a class can have.
    """
    if what == "LAS code":
        if not 0 <= number <= 255:
            problem = f"{called[n]}: the LAS code {number} is not 0..255"
            raise HpalError(subject, problem, "give the ASPRS number, such as 6 for buildings")
        if number in NOT_CLASSIFIED:
            problem = f"{called[n]}: the LAS code {number} means that a point is not classified"
            raise HpalError(subject, problem, "leave it out; for a class, give another, such as one from 64 on")
    elif number == IGNORE:
        problem = f"{called[n]}: the code {IGNORE} means that a point has no label"
        raise HpalError(subject, problem, "leave it out: such points are ignored anyway")
    elif abs(number) >= 1 << 63:
        raise HpalError(subject, f"{called[n]}: no file has the code {number}", "give the number in the files")


def _require_names(names: list[str], subject: object, called: Mapping[int, str]) -> None:
    """Raises:
    HpalError: a name that a person could not answer with, or that could be taken for another class.
    """
    seen: dict[str, int] = {}
    for row, name in enumerate(names):
        folded, here = _folded(name), called[row]
        remedy = "give each class a name of its own"
        if not folded:
            raise HpalError(subject, f"{here} has an empty name", remedy)
        if any(unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") for letter in name):
            raise HpalError(subject, f"{here}: the name {name!r} has control characters", remedy)
        if folded == UNSURE:
            raise HpalError(subject, f"{here} is called {name!r}, as the answer of who cannot tell", remedy)
        if folded in seen:
            other = names[seen[folded]]
            case = "" if other == name else f" ({other!r}; case makes no difference)"
            problem = f"{here} and {called[seen[folded]]} share the name {name!r}{case}"
            raise HpalError(subject, problem, remedy)
        number = _number(folded)
        if number is not None and number != row and number < len(names):
            raise HpalError(subject, f"{here} is called {name!r}, which is the id of another class", remedy)
        seen[folded] = row


def _folded(name: str) -> str:
    """What is compared: answers may have any case, and space around them."""
    return name.strip().casefold()


def _whole(value: Any) -> int:
    """Raises:
    ValueError: 0.7, true, infinity, or no number.
    """
    if isinstance(value, str) and value.casefold() == _REST:
        raise ValueError(f'all other numbers are written as "code": "{_REST}", not as {value!r} here')
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not float(value).is_integer():
        raise ValueError(f"{value!r} is no whole number")
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
