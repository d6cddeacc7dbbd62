"""Parses a text table of numbers into arrays, or names the line that is wrong.

The text is parsed piece by piece by `numbers.c`. A piece that `numbers.c` cannot parse is given to NumPy. If NumPy
cannot parse it either, its lines are checked one by one for the error message.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hpal_cli import compiled
from hpal_cli.errors import HpalError
from hpal_cli.wording import counted

REMEDY = "repair or remove that line, or fetch the file again"
ROWS = 1 << 20
"""Rows in a block."""

_PIECE = 1 << 18  # bytes of text in a piece: few enough to stay in the processor's cache until they are parsed
_MAX_LINE = 1 << 26  # bytes of a line, at most
_MARGIN = 64
_END = b"\n" * _MARGIN
_number, _pointer = ctypes.c_int64, ctypes.c_void_p


_CONTROL = bytes(b for b in (*range(32), 127) if b not in b"\t\n\r")
_CONTROL_AS_BLANKS = bytes.maketrans(_CONTROL, b" " * len(_CONTROL))
_QUOTED = re.compile(rb'"([^"\n]*)"')


_WITH_COMMA = re.compile(r"[+-]?\d+(?:,\d+)?(?:e[+-]?\d+)?", re.IGNORECASE)
_MIN_NUMBERS = 3
"""Numbers in a line, at least."""


class Style(NamedTuple):
    """How the numbers of a line are written: what separates them (besides blanks), and whether they have decimal
    commas."""

    separator: str
    decimal_comma: bool


def split(line: str) -> tuple[list[str], Style]:
    """The words of a line, and the style of its table. A comma is a decimal point if semicolons separate the words, if
    it is in quotes, or if blanks separate the words and each of them has one comma at most."""
    line = unquoted(line.encode("latin-1")).decode("latin-1")
    separator = next((one for one in ";," if one in line), " ")
    if separator == ",":
        words = line.split()
        if len(words) >= _MIN_NUMBERS and all(map(_WITH_COMMA.fullmatch, words)):
            return words, Style(" ", True)
    if separator == " ":
        return line.split(), Style(" ", False)
    return [word.strip() for word in line.split(separator)], Style(separator, separator == ";")


@dataclass
class Repairs:
    """Counts what was skipped in a file whose numbers could still be read."""

    control_bytes: int = 0
    as_blanks: int = 0
    """How many of these control bytes were in the place of a blank."""

    @property
    def notes(self) -> list[str]:
        """A note for the user on what was skipped, or none."""
        if not self.control_bytes:
            return []
        blanks = f" ({self.as_blanks:,} in the place of a blank)" if self.as_blanks else ""
        return [f"read past {counted(self.control_bytes, 'control byte')}{blanks}"]


class _Column(ctypes.Structure):
    _fields_ = [("to", _pointer), ("step", _number), ("bytes", _number)]


def load(flags: Sequence[str] = compiled.FLAGS) -> ctypes.CDLL:
    """Loads `numbers.c`, compiled with these flags.

    Raises:
        NotCompiled: it cannot be compiled here.
    """
    found = compiled.load(Path(__file__).with_name("numbers.c"), flags=flags)
    found.parse_numbers.restype = found.count_lines.restype = _number
    found.parse_numbers.argtypes = [_pointer, _number, ctypes.c_char, ctypes.c_int, _number, _pointer, _number]
    found.count_lines.argtypes = [_pointer, _number]
    found.parse_parts.restype = None
    found.parse_parts.argtypes = [_pointer, _number, _number]
    return found


library = compiled.library_or_reason(load)
"""Returns the library of `numbers.c`, or the reason in words why there is none and NumPy parses everything."""


def missing() -> str | None:
    """Why the compiled parser cannot be used here, None if it can."""
    return compiled.reason(library())


class Lines:
    """Reads a file in pieces of whole lines, into one buffer that is filled again and again.

    separator: what is between numbers besides blanks: `,` or `;`. With `;`, and with `decimal_comma`, a comma is a
    decimal point.
    """

    def __init__(self, separator: str = " ", *, decimal_comma: bool = False) -> None:
        self._separator = separator
        self._table = bytes.maketrans(b",", b".") if decimal_comma or separator == ";" else None
        self._quoted = False
        self._use(bytearray(_PIECE + 2 * _MARGIN))
        self._size = 0
        self.number = 1
        """The number in the file, from 1, of the first line of the piece."""

    def _use(self, buffer: bytearray) -> None:
        self._buffer = buffer
        self._at = ctypes.addressof(ctypes.c_char.from_buffer(buffer)) + _MARGIN

    def pieces(self, file: FileIO, path: Path, number: int = 1, most: int | None = None) -> Iterator[None]:
        """Iterates over the pieces of the rest of a file. file: opened without a buffer; number: of its next line;
        most: how many lines belong to the table, None for all that follow.

        Raises:
            HpalError: a line is longer than `_MAX_LINE`.
        """
        self.number = number
        rest = b""
        while True:
            space = len(self._buffer) - 2 * _MARGIN
            self._buffer[_MARGIN : _MARGIN + len(rest)] = rest
            end, came = _MARGIN + len(rest), 0
            with memoryview(self._buffer) as view:
                while end < _MARGIN + space and (came := file.readinto(view[end : _MARGIN + space]) or 0):
                    end += came
            last = not came
            cut = end if last else self._buffer.rfind(b"\n", _MARGIN, end) + 1
            if cut == 0:
                if 2 * space > _MAX_LINE:
                    raise HpalError(path, f"line {self.number} has no end", REMEDY)
                rest = bytes(self._buffer[_MARGIN:end])
                self._use(bytearray(2 * space + 2 * _MARGIN))
                continue
            rest = bytes(self._buffer[cut:end])
            self._use_first(cut - _MARGIN)
            lines = self.count()
            if most is not None and lines >= most:
                last = True
                newlines = np.flatnonzero(np.frombuffer(self._buffer, np.uint8, self._size, _MARGIN) == ord("\n"))
                self._use_first(int(newlines[most - 1]) + 1 if most else 0)
            yield
            if last:
                return
            self.number += lines
            most = None if most is None else most - lines

    def _use_first(self, size: int) -> None:
        cut = _MARGIN + size
        if self._quoted:
            self._buffer[_MARGIN:cut] = unquoted(bytes(self._buffer[_MARGIN:cut]))
        if self._table:
            self._buffer[_MARGIN:cut] = self._buffer[_MARGIN:cut].translate(self._table)
        self._buffer[cut : cut + _MARGIN] = _END
        self._size = size

    def unquote(self) -> bool:
        """Removes the quotes around numbers from this piece and the following ones. Returns whether there are any."""
        if self._quoted or self._buffer.find(b'"', _MARGIN, _MARGIN + self._size) < 0:
            return False
        self._quoted = True
        self._use_first(self._size)
        return True

    def __bytes__(self) -> bytes:
        """The piece, with blanks between the numbers."""
        return bytes(self._buffer[_MARGIN : _MARGIN + self._size]).replace(self._separator.encode(), b" ")

    def filled(self, columns: int, blank: Collection[int]) -> bytes:
        """The same as bytes(), with `nan` in the empty cells of the columns `blank`. columns: of each line."""
        separator = self._separator.encode()
        if not separator.strip():
            return bytes(self)
        lines = bytes(self._buffer[_MARGIN : _MARGIN + self._size]).split(b"\n")
        for n, line in enumerate(lines):
            cells = line.split(separator)
            if len(cells) == columns + 1 and not cells[-1].strip():
                cells.pop()
            empty = [at for at, cell in enumerate(cells) if not cell.strip()]
            if empty and len(cells) == columns and len(empty) < columns and all(at in blank for at in empty):
                for at in empty:
                    cells[at] = b"nan"
                lines[n] = separator.join(cells)
        return b"\n".join(lines).replace(separator, b" ")

    def count(self) -> int:
        """The number of newlines in the piece."""
        found = library()
        if isinstance(found, str):
            return self._buffer.count(b"\n", _MARGIN, _MARGIN + self._size)
        return int(found.count_lines(self._at, self._size))

    def into(self, columns: Sequence[NDArray[np.generic]], finite: bool = False) -> int | None:
        """Parses the piece into the first rows of these columns, float64 or uint8. Returns the number of rows; or None,
        if the piece cannot be parsed this way or nothing can be compiled here. Then the contents of the columns must
        not be used."""
        found = library()
        if isinstance(found, str):
            return None
        given, capacity = _columns(columns), min(map(len, columns))
        rows = found.parse_numbers(
            self._at, self._size, self._separator.encode(), finite, len(columns), ctypes.byref(given), capacity
        )
        return None if rows < 0 else int(rows)


def _columns(columns: Sequence[NDArray[np.generic]]) -> ctypes.Array[_Column]:
    return (_Column * len(columns))(
        *(_Column(c.ctypes.data, c.strides[0] // c.itemsize, c.dtype == np.uint8) for c in columns)
    )


def skip_lines(file: FileIO, count: int) -> bool:
    """Skips `count` lines of a file that is opened without a buffer. Returns whether it has that many."""
    while count:
        start = file.tell()
        piece = file.read(_PIECE)
        if not piece:
            return False
        lines = piece.count(b"\n")
        if lines >= count:
            newlines = np.flatnonzero(np.frombuffer(piece, np.uint8) == ord("\n"))
            file.seek(start + int(newlines[count - 1]) + 1)
            return True
        count -= lines
    return True


def unquoted(text: bytes) -> bytes:
    """The text with a blank for each quote around a cell and a point for each comma between quotes; its length stays
    the same."""
    return _QUOTED.sub(lambda cell: b" " + cell[1].replace(b",", b".") + b" ", text)


def blocks(
    file: FileIO,
    columns: int,
    path: Path,
    first_line: int = 1,
    separator: str = " ",
    most: int | None = None,
    *,
    decimal_comma: bool = False,
    blank: Collection[int] = (),
    repairs: Repairs | None = None,
) -> Iterator[NDArray[np.float64]]:
    """Parses the rest of a file, lines of `columns` numbers, into blocks (N, columns) float64, with N at most `ROWS`.

    Empty lines are skipped, and numbers may be in quotes. file: opened without a buffer; first_line: number of its next
    line; most: number of lines that belong to the table, None for all; blank: columns in which an empty cell is NaN;
    repairs: counts what was skipped.

    Raises:
        HpalError: a line has another number of columns, or a cell is no number.
    """
    lines = Lines(separator, decimal_comma=decimal_comma)
    block, filled = np.empty((ROWS, columns)), 0
    for _ in lines.pieces(file, path, first_line, most):
        needed = lines.count() + 1
        if filled + needed > len(block):
            if filled:
                yield block[:filled]
            # A very long line makes a piece larger than the others.
            block, filled = np.empty((max(ROWS, needed), columns)), 0
        rows = lines.into(list(block[filled:].T))
        if rows is None and lines.unquote():
            rows = lines.into(list(block[filled:].T))
        if rows is None:
            values = parse(lines.filled(columns, blank), columns, path, lines.number, repairs=repairs)
            rows = len(values)
            block[filled : filled + rows] = values
        filled += rows
        while filled > ROWS:
            yield block[:ROWS]
            block, filled = block[ROWS:], filled - ROWS
    if filled:
        yield block[:filled]


def parse(
    data: bytes,
    columns: int,
    path: Path,
    first_line: int = 1,
    finite: bool = False,
    repairs: Repairs | None = None,
) -> NDArray[np.float64]:
    """Parses lines of `columns` numbers, separated by blanks, into (N, columns) float64. Empty lines are skipped.

    first_line: number in the file of the first line of `data`; finite: refuse NaN and infinity. Control bytes are
    removed, or replaced by blanks in lines that would else have too few columns; repairs: counts them.

    Raises:
        HpalError: a line has another number of columns, or a cell is no number.
    """
    data = _without_control_bytes(data, columns, repairs or Repairs())
    if not data.strip():
        return np.empty((0, columns))
    lines = data.decode("latin-1").split("\n")
    try:
        values = np.loadtxt(lines, dtype=np.float64, comments=None, ndmin=2)
    except ValueError:
        values = np.empty((0, 0))
    if values.shape[1] != columns or (finite and not np.isfinite(values).all()):
        raise _fault(lines, columns, path, first_line, finite)
    return values


def _without_control_bytes(data: bytes, columns: int, repairs: Repairs) -> bytes:
    clean = data.translate(None, _CONTROL)
    if len(clean) == len(data):
        return data
    repairs.control_bytes += len(data) - len(clean)
    # A line that has the right number of columns without its control bytes stays so: blanks could only add columns.
    mended = clean.split(b"\n")
    for n, line in enumerate(data.split(b"\n")):
        if len(line) == len(mended[n]) or not 0 < len(mended[n].split()) < columns:
            continue
        spaced = line.translate(_CONTROL_AS_BLANKS)
        if len(spaced.split()) == columns:
            repairs.as_blanks += len(line) - len(mended[n])
            mended[n] = spaced
    return b"\n".join(mended)


def _fault(lines: list[str], columns: int, path: Path, first_line: int, finite: bool) -> HpalError:
    for number, line in enumerate(lines, first_line):
        words = line.split()
        if words and len(words) != columns:
            return HpalError(path, f"line {number} has {len(words)} columns, expected {columns}", REMEDY)
        for word in words:
            try:
                value = float(word)
            except ValueError:
                return HpalError(path, f"line {number}: {word[:20]!a} is not a number", REMEDY)
            if finite and not np.isfinite(value):
                return HpalError(path, f"line {number}: {word[:20]!a} is not a finite number", REMEDY)
    return HpalError(path, "holds text that is no table of numbers", REMEDY)
