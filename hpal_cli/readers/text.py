"""Text: one point a line, in xyz, txt, csv, pts and asc files, with or without a line of column names."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hpal_cli.errors import HpalError
from hpal_cli.readers import columns, files, number_table
from hpal_cli.readers.cloud import Cloud, Options, Source
from hpal_cli.scenes.classes import ClassTable

NAME = "text"
CLASSES: ClassTable | None = None

SUFFIXES = {".xyz", ".txt", ".csv", ".pts", ".asc"}
_PTS = ("x", "y", "z", "intensity", "red", "green", "blue")
_HEAD = 1 << 16
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?|[+-]?(?:nan|inf)", re.IGNORECASE)


@dataclass
class _Layout:
    """`skip` lines come before the first point; `names` is empty where no line names the columns;
    `promised` is the count that a `.pts` file begins with."""

    skip: int
    columns: int
    names: list[str]
    separator: str
    promised: int | None


def find(root: Path, options: Options) -> list[Source]:
    """One scene a file; a file found in a folder must begin like a table of points (not like a readme)."""
    sources = files.loose(root, SUFFIXES)
    return sources if root.is_file() else [source for source in sources if _looks_like_points(source.path)]


def count(source: Source) -> int | None:
    """None: a line has 20 bytes, or 80."""
    return None


def read(source: Source, options: Options) -> Iterator[Cloud]:
    """Columns between blanks, commas or semicolons (then a comma is a decimal point).

    Names come from a header line, which may be a `#` or `//` comment. Without one, by count: 3 x y z;
    4 with intensity; 6 with red green blue; 7 with a label besides; in `.pts` 7 is intensity red green blue.

    Raises:
        HpalError: no table, a broken line, columns that neither names nor count explain.
    """
    path = source.path
    data = path.read_bytes()
    layout = _layout(data[:_HEAD], path)
    if layout is None:
        raise HpalError(path, "holds no lines of numbers", "give lines of x y z, or check the file")
    start = 0
    for _ in range(layout.skip):
        start = data.find(b"\n", start) + 1
    body = data[start:]
    if layout.separator == ";":
        body = body.replace(b",", b".").replace(b";", b" ")
    elif layout.separator == ",":
        body = body.replace(b",", b" ")
    values = number_table.parse(body, layout.columns, path, layout.skip + 1)
    names = layout.names
    if not names and path.suffix.lower() == ".pts" and layout.columns == len(_PTS):
        names = list(_PTS)
    if names:
        cloud = columns.cloud({name: values[:, n] for n, name in enumerate(names)}, path)
    else:
        cloud = columns.matrix(values, path)
    if layout.promised is not None and layout.promised != len(values):
        cloud.notes.append(f"the first line promises {layout.promised} points, the file holds {len(values)}")
    yield cloud


def _looks_like_points(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            layout = _layout(file.read(_HEAD), path)
    except (OSError, HpalError):
        return False
    if layout is None:
        return False
    return not columns.missing_axes(layout.names) if layout.names else layout.columns in columns.BY_COUNT


def _layout(head: bytes, path: Path) -> _Layout | None:
    """What the first lines say; None where no line of numbers is among them."""
    named: list[str] = []
    comment: list[str] = []
    promised: int | None = None
    for number, raw in enumerate(head.decode("latin-1").split("\n")):
        line = raw.removeprefix("\xef\xbb\xbf").strip()
        if not line:
            continue
        if line.startswith(("#", "//")):
            words = _split(line.lstrip("#/ "))[0]
            if not columns.missing_axes(words):
                comment = words
            continue
        words, separator = _split(line)
        if not all(_is_number(word, separator) for word in words):
            if named:
                return None
            named = words
        elif len(words) == 1 and promised is None and words[0].isdecimal():
            promised = int(words[0])
        else:
            names = named or (comment if len(comment) == len(words) else [])
            if named and len(named) != len(words):
                raise HpalError(path, f"names {len(named)} columns and has {len(words)}", "name every column once")
            if len({name.casefold() for name in names}) < len(names):
                raise HpalError(path, "names a column twice", "name every column once")
            return _Layout(number, len(words), names, separator, promised)
    return None


def _split(line: str) -> tuple[list[str], str]:
    for separator in ";,":
        if separator in line:
            return [word.strip().strip('"') for word in line.split(separator)], separator
    return [word.strip('"') for word in line.split()], " "


def _is_number(word: str, separator: str) -> bool:
    word = word.replace(",", ".") if separator == ";" else word
    return _NUMBER.fullmatch(word) is not None
