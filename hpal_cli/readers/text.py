"""Text: xyz, txt, csv, pts and asc files with one point in each line, with or without a line of column names."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpal_cli.classes import ClassTable
from hpal_cli.errors import HpalError, UsageError
from hpal_cli.readers import columns, files, number_table
from hpal_cli.readers.cloud import Cloud, Options, Source

NAME = "text"
CLASSES: ClassTable | None = None

SUFFIXES = {".xyz", ".txt", ".csv", ".pts", ".asc"}
_PTS = ("x", "y", "z", "intensity", "red", "green", "blue")
LEFT_OUT = "-"
"""The name in `options.columns` of a column that is not read."""

HEAD = 1 << 16
"""Bytes at the beginning of a file from which its layout is recognised."""
_COUNT = re.compile(r"[0-9]{1,18}")
"""A number of points. Python refuses to read a number of thousands of digits."""
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?|[+-]?(?:nan|inf)", re.IGNORECASE)


class _File(FileIO):
    """A text file, opened without a buffer. If its lines end in CR alone, CR is replaced by LF."""

    _only_cr = False

    def head(self) -> bytes:
        """The beginning of the file. It must be read before anything else."""
        head = self.read(HEAD) or b""
        self._only_cr = b"\r" in head and b"\n" not in head
        return head.replace(b"\r", b"\n") if self._only_cr else head

    def readinto(self, buffer: Any) -> int | None:
        count = super().readinto(buffer)
        if self._only_cr and count:
            view = memoryview(buffer)[:count]
            view[:] = bytes(view).replace(b"\r", b"\n")
        return count


@dataclass
class _Layout:
    """How a table is laid out. skip: number of lines before the first point; columns: their number; names: of the
    columns, empty if no line names them; promised: number of points that a `.pts` file gives at its beginning; doubt: a
    note for the user."""

    skip: int
    columns: int
    names: list[str]
    style: number_table.Style
    promised: int | None
    doubt: str | None = None


def find(root: Path, options: Options) -> list[Source]:
    """Each file is one scene. A file that is found in a folder must begin like a table of points, unlike a readme."""
    sources = files.loose_files(root, SUFFIXES)
    return sources if root.is_file() else [source for source in sources if _looks_like_points(source.path, options)]


def unnamed(root: Path, options: Options) -> list[tuple[Path, int]]:
    """The files in the folder `root` that are tables of numbers, but cannot be read as points, because nothing says
    what their columns are; each with the number of its columns."""
    found = []
    for source in files.loose_files(root, SUFFIXES):
        try:
            with _File(source.path) as file:
                layout = _layout(file.head(), source.path, options)
        except (OSError, HpalError):
            continue
        if (
            layout
            and not layout.names
            and layout.columns > len(columns.AXES)
            and layout.columns not in columns.BY_COUNT
        ):
            found.append((source.path, layout.columns))
    return found


def count(source: Source) -> int | None:
    """About how many points there are, from the size of the file and of its first lines."""
    try:
        with _File(source.path) as file:
            head = file.head()
            lines = head.count(b"\n") or 1
            return lines * source.path.stat().st_size // len(head) if head else 0
    except OSError:
        return None


def read(source: Source, options: Options) -> Iterator[Cloud]:
    """The points, a million lines at a time. Columns are separated by blanks, commas or semicolons, and numbers may be
    in quotes.

    A comma is a decimal point if columns are separated by semicolons, if the number is in quotes, or if columns are
    separated by blanks and no number has more than one comma.

    The meaning of the columns is given by `options.columns`, or else by a header line, which may be a `#` or `//`
    comment, or else by their number: 3 are x y z; 4 also have intensity; 6 have red green blue; 7 also have a label, or
    in `.pts` files intensity red green blue. With commas or semicolons, a cell that is no position or colour may be
    empty, which is read as NaN (for a label as unlabelled), and a line may end with a separator.

    Raises:
        HpalError: the file is no table, a line is broken, or the meaning of the columns is not known.
        UsageError: `options.columns` lacks x, y or z, or names a column twice.
    """
    path = source.path
    with _File(path) as file:
        head = file.head()
        layout = _layout(head, path, options)
        if layout is None:
            raise HpalError(path, "holds no lines of numbers", "give lines of x y z, or check the file")
        names = _names(layout, path, options)
        start = 0
        for _ in range(layout.skip):
            start = head.find(b"\n", start) + 1
        file.seek(start)
        given, held = 0, None
        blank = _may_be_blank(names, layout)
        style, repairs = layout.style, number_table.Repairs()
        parts = _parts(file, start, layout, path)
        for at, line, most in parts:
            file.seek(at)
            for values in number_table.blocks(
                file,
                layout.columns,
                path,
                line,
                style.separator,
                most,
                decimal_comma=style.decimal_comma,
                blank=blank,
                repairs=repairs,
            ):
                if held is not None:
                    yield held
                held = _cloud(values, names, path, given)
                given += len(values)
    if held is not None:
        held.notes += [*repairs.notes, *([layout.doubt] if layout.doubt else [])]
        promised = sum(most or 0 for _, _, most in parts) or layout.promised
        if promised is not None and promised != given:
            lines = "the first line promises" if len(parts) == 1 else f"{len(parts)} lines of counts promise"
            held.notes.append(f"{lines} {promised} points, the file holds {given}")
        yield held


def _parts(file: _File, start: int, layout: _Layout, path: Path) -> list[tuple[int, int, int | None]]:
    """For each cloud in the file the byte and the line at which its points begin, and the number of their lines, None
    for all lines that follow. A `.pts` file may hold several clouds, each after a line with its number of points."""
    whole: list[tuple[int, int, int | None]] = [(start, layout.skip + 1, None)]
    if layout.promised is None or path.suffix.lower() != ".pts":
        return whole
    parts: list[tuple[int, int, int | None]] = []
    at, line, promised = start, layout.skip + 1, layout.promised
    while True:
        file.seek(at)
        parts.append((at, line, promised))
        all_there = number_table.skip_lines(file, promised)
        line += promised
        # strip() takes more characters for blanks in text than in bytes, and more than int() does.
        while all_there and (text := file.readline().decode("latin-1")):
            line += 1
            if text.strip():
                break
        else:
            # If there is only one cloud, all its lines are read, whatever number the file says; a note mentions a wrong
            # number.
            return parts if len(parts) > 1 else whole
        if not _COUNT.fullmatch(text.strip()):
            return whole
        at, promised = file.tell(), int(text.strip())


def _cloud(values: NDArray[np.float64], names: Sequence[str], path: Path, first: int) -> Cloud:
    if not names:
        return columns.matrix(values, path, first)
    named = {name: values[:, n] for n, name in enumerate(names) if name != LEFT_OUT}
    return columns.cloud(named, path, first)


def _may_be_blank(names: Sequence[str], layout: _Layout) -> set[int]:
    """The columns in which an empty cell becomes NaN: all but those of positions and colours."""
    needed = {*columns.AXES, *(part for triple in columns.COLOURS for part in triple)}
    names = names or columns.BY_COUNT.get(layout.columns, ())
    return {n for n, name in enumerate(names) if name.casefold() not in needed}


def _names(layout: _Layout, path: Path, options: Options) -> Sequence[str]:
    if options.columns is None:
        is_pts = path.suffix.lower() == ".pts" and layout.columns == len(_PTS)
        return layout.names or (_PTS if is_pts else ())
    kept = [name.casefold() for name in options.columns if name != LEFT_OUT]
    missing = columns.missing_axes(kept)
    if missing:
        raise UsageError("--columns", f"there is no {', '.join(missing)} among them", "name x, y and z")
    twice = sorted({name for name in kept if kept.count(name) > 1})
    if twice:
        raise UsageError("--columns", f"{twice[0]!r} is named twice", "name every column once, or leave it out with -")
    if len(options.columns) != layout.columns:
        raise HpalError(
            path,
            f"has {layout.columns} columns, and --columns names {len(options.columns)}",
            "name every column once; - leaves one out",
        )
    return options.columns


def _looks_like_points(path: Path, options: Options) -> bool:
    try:
        with _File(path) as file:
            head = file.head()
    except OSError:
        return False
    try:
        layout = _layout(head, path, options)
    except HpalError:
        # A broken file that names its columns is meant as a table: it is read, so that an error names the fault. Any
        # other text that happens to have numbers is not read.
        first = head.decode("latin-1").lstrip("\xef\xbb\xbf \t\r\n").partition("\n")[0]
        return not columns.missing_axes(number_table.split(first.lstrip("#/ ").strip())[0])
    if layout is None:
        return False
    if options.columns is not None:
        return True
    return not columns.missing_axes(layout.names) if layout.names else layout.columns in columns.BY_COUNT


def _layout(head: bytes, path: Path, options: Options) -> _Layout | None:
    """The layout of a table, from its first lines; None if none of them is a line of numbers."""
    named: list[str] = []
    comment: list[str] = []
    commented = 0
    promised: int | None = None
    for number, raw in enumerate(head.decode("latin-1").split("\n")):
        line = raw.removeprefix("\xef\xbb\xbf").strip()
        if not line:
            continue
        if line.startswith(("#", "//")):
            words = number_table.split(line.lstrip("#/ "))[0]
            if not columns.missing_axes(words):
                comment, commented = words, number + 1
            continue
        words, style = number_table.split(line)
        if not words:
            # Quotes with nothing in them.
            continue
        names = options.columns or named
        if not words[-1] and len(words) > max(1, len(names)):
            # A separator at the end of every line.
            words.pop()
        odd = [n for n, word in enumerate(words) if word and not _is_number(word, style)]
        if odd or not any(words):
            numbers = len(words) > len(columns.AXES) and odd and odd[0] >= len(columns.AXES)
            if numbers or (named and len(named) == len(words) and not columns.missing_axes(named)):
                raise _no_number(words, odd, names, number + 1, path)
            if named:
                return None
            named = words
        elif len(words) == 1 and promised is None and _COUNT.fullmatch(words[0]):
            promised = int(words[0])
        elif options.columns is not None:
            return _Layout(number, len(words), [], style, promised)
        else:
            names = named or (comment if len(comment) == len(words) else [])
            doubt = None
            if comment and not names:
                doubt = (
                    f"the comment in line {commented} names {len(comment)} columns, and there are {len(words)}: "
                    "the columns are recognised by their number (--columns names them)"
                )
            if named and len(named) != len(words):
                raise HpalError(path, f"names {len(named)} columns and has {len(words)}", "name every column once")
            if len({name.casefold() for name in names}) < len(names):
                raise HpalError(path, "names a column twice", "name every column once")
            return _Layout(number, len(words), names, style, promised, doubt)
    return None


def _no_number(words: list[str], odd: list[int], names: Sequence[str], line: int, path: Path) -> HpalError:
    at = odd[0] if odd else 0
    label = names[at].casefold() in columns.LABELS if len(names) == len(words) else at == len(words) - 1
    remedy = "give class numbers" if label else number_table.REMEDY
    return HpalError(path, f"line {line}: {words[at][:20]!a} is not a number", remedy)


def _is_number(word: str, style: number_table.Style) -> bool:
    return _NUMBER.fullmatch(word.replace(",", ".") if style.decimal_comma else word) is not None
