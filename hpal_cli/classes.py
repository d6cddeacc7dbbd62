"""The class table: the classes of a store, with their names, their colours and their numbers in source files."""

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
"""The ignore index: the label of a point without a label, or whose label is not one of the classes."""

UNSURE = "unsure"
"""The answer of a person who does not know the class, stored as the label -1. No class can have this name."""

MAX_CLASSES = 1024

_MAX_SHOWN = 8
"""How many numbers a message lists, at most."""

NOT_CLASSIFIED = (0, 1)
"""LAS codes that mean "not classified". A class cannot have them, since its points could not be read back."""


@dataclass(frozen=True)
class SemanticClass:
    """One class. id: its row in the table and its column in probabilities; color: red, green, blue, 0 to 255; codes:
    its numbers in source files, such as NYU ids; las_codes: its numbers in LAS files, 2 to 255, if they are given."""

    id: int
    name: str
    color: tuple[int, int, int]
    codes: tuple[int, ...]
    las_codes: tuple[int, ...] = ()

    @property
    def code(self) -> int | None:
        """The first of its codes, which is the one that files are written with; None if it has no code."""
        return self.codes[0] if self.codes else None

    @property
    def las(self) -> int | None:
        """The first of its LAS codes; None if it has none."""
        return self.las_codes[0] if self.las_codes else None


class Numbers(NamedTuple):
    """Numbers in source files, and in LAS files, that stand for no class."""

    codes: tuple[int, ...] = ()
    las_codes: tuple[int, ...] = ()


_NONE = Numbers()


class ClassTable:
    """The C classes of a store in the order of their ids, which are 0 to C - 1.

    Three attributes are only used to read clouds, and are not stored. ignored: numbers that become the label -1; rest:
    the label of all numbers that neither a class nor `ignored` has, None if there may be no such numbers; file: the
    file that the table was read from, for messages.
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
        """where: for messages, the name of the place where each id was given, and -1 for the ignored numbers.

        Raises:
            HpalError: the ids have gaps, two classes share a name or a number, or a number is not allowed.
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
        """The id of the class that an answer names, which is a class name in any case, or an id (also written as 1.0).
        None if it names no class."""
        folded = {_folded(c.name): c.id for c in self._rows}
        if _folded(text) in folded:
            return folded[_folded(text)]
        number = _number(text.strip())
        return number if number is not None and number < len(self) else None

    def numbers(self, *, las: bool = False) -> dict[int, int]:
        """A mapping from the numbers in source files to class ids, with -1 for numbers to ignore.

        las: the numbers in LAS files, if any class has LAS codes. A class without LAS codes then has its codes there
        too, unless all codes of the table equal the ids: such codes are probably not meant for LAS files, in which 2,
        for example, is the ground.
        """
        rows = [*((c.id, c.codes, c.las_codes) for c in self._rows), (IGNORE, *self.ignored)]
        las = las and any(c.las_codes for c in self._rows)
        typed = any(c.codes != (c.id,) for c in self._rows)
        found: dict[int, int] = {}
        for n, codes, las_codes in rows:
            own = las_codes or (codes if typed or n == IGNORE else ()) if las else codes
            for number in own:
                found.setdefault(number, n)
        if las:  # LAS codes have precedence over codes
            found |= {number: n for n, _, las_codes in rows for number in las_codes}
        return found

    def from_codes(self, codes: NDArray[np.integer], subject: object, *, las: bool = False) -> NDArray[np.int32]:
        """Numbers in source files (N,) as class ids (N,) int32; -1 stays -1. las: as for `numbers`.

        Raises:
            HpalError: no class has one of the numbers, and `rest` is None.
        """
        numbers = {**self.numbers(las=las), IGNORE: IGNORE}
        known = np.array(sorted(numbers), np.int64)
        ids = np.array([numbers[number] for number in known.tolist()], np.int32)
        at = np.minimum(np.searchsorted(known, codes), len(known) - 1)
        missing = known[at] != codes
        if missing.any() and self.rest is None:
            absent = np.unique(np.asarray(codes)[missing]).tolist()
            key = '"las"' if las and any(c.las_codes for c in self._rows) else '"code"'
            those = "it" if len(absent) == 1 else "them"
            remedy = f'add {those} to the {key} of a class in {self.file}, or to a row with "id": -1 to ignore {those}'
            if self.file is None:
                remedy = 'give another with --classes: a name, or a file, in which a row with "id": -1 ignores numbers'
                # LAS has no table of its own, so this one was asked for by name.
                remedy = f"leave --classes out, which makes classes of all numbers, or {remedy}" if las else remedy
            shown = ", ".join(map(str, absent[:_MAX_SHOWN])) + ", ..." * (len(absent) > _MAX_SHOWN)
            which = f"class number {shown} is" if len(absent) == 1 else f"class numbers {shown} are"
            problem = f"{which} not in the table of {len(self)} classes ({counted(int(missing.sum()), 'point')})"
            raise HpalError(subject, problem, remedy)
        return np.where(missing, np.int32(IGNORE if self.rest is None else self.rest), ids[at])

    def to_json(self) -> list[dict[str, Any]]:
        """The rows of the class table in a store (docs/formats.md section 1.4)."""
        taken = {number for c in self._rows for number in c.codes}
        rows = []
        for c in self._rows:
            code = c.code
            if code is None:
                # Programs that do not read `codes` need a `code`, and it must not be that of another class.
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
        """All that decides which class a number in a source file becomes, as JSON."""
        return [self.to_json(), list(map(list, self.ignored)), self.rest]

    @classmethod
    def from_json(cls, rows: Iterable[Mapping[str, Any]], subject: object = "class table") -> ClassTable:
        """The class table of rows {id, name, color?, code?, codes?, las?, las_codes?}, as a store has them. A missing
        colour is taken from a palette, and a missing code is the id.

        Raises:
            HpalError: a row has no id or name, or a value has another type or is out of range.
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
        """Reads a JSON file with a list of classes, or a TOML file with a table `[[classes]]` for each.
        The members of a class are `name`; `id`, without which the rows are numbered in their order; `color`; `code` and
        `las`, which are a number or a list of numbers each, the first of which is used to write files. One `code` may
        be "rest", which stands for all numbers that no other row has. The numbers of a row with the id -1 are ignored.
        If no class has a `code`, the ids are the codes. If some have one, the others have no number in the files.

        Raises:
            HpalError: the file is missing, is no JSON or TOML, or has no valid classes. The message names the row.
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
    """The class table of the rows of a file. Raises the errors of `ClassTable.from_file`."""
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
                raise HpalError(
                    path, f"{place} and {where[rest]} both stand for the rest", "give that code to one of them"
                )
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
    """Turns an error in the members of a row, which the block reads, into an HpalError that names the row.

    Raises:
        HpalError: the block raised such an error.
    """
    try:
        yield
    except KeyError as error:
        raise HpalError(subject, f"{place} has no {error.args[0]}", _EXAMPLE) from error
    except (TypeError, ValueError, AttributeError, OverflowError) as error:
        raise HpalError(subject, f"{place} cannot be read: {error}", _EXAMPLE) from error


def _color(row: Mapping[str, Any], n: int) -> tuple[int, int, int]:
    """The colour of a row, or of the palette if it has none.

    Raises:
        ValueError: the colour is not three numbers from 0 to 255.
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
    # In a store, a class without a number has an empty list, and a `code` that no file has (`to_json`).
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
    """The whole numbers in a value that is a number, a list of numbers, or None.

    Raises:
        ValueError: the value is something else.
    """
    if value is None:
        return ()
    return tuple(map(_whole, value)) if isinstance(value, (list, tuple)) else (_whole(value),)


def _require_number(number: int, what: str, n: int, called: Mapping[int, str], subject: object) -> None:
    """Raises:
    HpalError: a class cannot have this number.
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
    HpalError: a name is empty or not printable, or it could be taken for another class or for "unsure".
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
            raise HpalError(subject, f"{here} is called {name!r}, which is the answer of a person in doubt", remedy)
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
    """A name as it is compared, since answers may be in any case and have spaces around them."""
    return name.strip().casefold()


def _whole(value: Any) -> int:
    """Raises:
    ValueError: the value is no whole number, such as 0.7, true or infinity.
    """
    if isinstance(value, str) and value.casefold() == _REST:
        raise ValueError(f'all other numbers are written as "code": "{_REST}", not as {value!r} here')
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not float(value).is_integer():
        raise ValueError(f"{value!r} is no whole number")
    return int(value)


def _number(text: str) -> int | None:
    """The number in a text, or None. 1.0 counts as 1, since pandas writes it so in a column with blank cells."""
    return int(text.partition(".")[0]) if re.fullmatch(r"\d{1,9}(\.0+)?", text) else None


def palette(n: int) -> tuple[int, int, int]:
    """The n-th colour of an endless palette whose hues are a golden angle apart, alternating in lightness."""
    hue = (n * 137.50776405) % 360 / 60
    high, low = (225, 75) if n % 2 == 0 else (165, 30)
    x = int(low + (high - low) * (1 - abs(hue % 2 - 1)))
    return [(high, x, low), (x, high, low), (low, high, x), (low, x, high), (x, low, high), (high, low, x)][int(hue)]
