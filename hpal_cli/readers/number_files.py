"""Parses many text files of numbers at once, in several threads: S3DIS has dozens of them for each room.

The files are divided into parts of whole lines (`numbers.c`). A thread that has no parts left takes half of those that
another thread has left, so that all threads have work until the end.
"""

from __future__ import annotations

import contextlib
import os
from array import array
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hpal_cli.parallel import cores
from hpal_cli.readers import number_table

_PART = 1 << 17  # bytes of text in a part: few enough to stay in the processor's cache until they are parsed
_MIN_PARTS = 4  # fewest parts per thread, because to wake a thread takes as long as to parse a part


class TextFile(NamedTuple):
    """A file to parse."""

    path: str
    size: int
    """Bytes of the file."""
    number: int
    """A number that is returned for each line of the file."""


class Rows(NamedTuple):
    """The lines of one or several consecutive files."""

    doubles: NDArray[np.float64]
    """(N, D) the first columns."""
    bytes: NDArray[np.uint8]
    """(N, B) the other columns."""
    numbers: NDArray[np.int64]
    """(N,) the `number` of each line's file."""


def read(files: Sequence[TextFile], doubles: int, bytes: int = 0, *, finite: bool = False) -> list[Rows | TextFile]:
    """Parses files whose lines hold `doubles` numbers followed by `bytes` integers from 0 to 255.

    finite: refuse NaN and infinity.

    Returns:
        The lines of the files, in order. In place of a file that cannot be opened or parsed this way there is its
        `TextFile`; if nothing can be compiled here, this holds for all files. The caller has to read these otherwise.
    """
    if isinstance(number_table.library(), str):
        return list(files)
    work = _Work(files, doubles, bytes, finite)
    others = []
    # If no further thread can be started, this one parses all parts.
    with contextlib.suppress(RuntimeError):
        for thread in range(1, work.threads):
            others.append(_pool().submit(work.run, thread))
    work.run(0)
    for other in others:
        other.result()
    return work.results()


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max(1, cores() - 1), "hpal-text")


# A forked process does not have the threads of its parent, and needs a pool of its own.
os.register_at_fork(after_in_child=_pool.cache_clear)


class _Work:
    """The memory that the threads share. Its arrays hold the structs of numbers.c, one after the other."""

    def __init__(self, files: Sequence[TextFile], doubles: int, bytes: int, finite: bool) -> None:
        self._files = files
        paths = [os.fsencode(file.path) + b"\0" for file in files]
        self._paths = array("b", b"".join(paths))
        path, _ = self._paths.buffer_info()
        width, most, count = doubles + bytes, 0, 0
        self._parts = array("q")
        self._ends: list[int] = []  # for each file the number of the part after its last one
        for file, name in zip(files, paths, strict=True):
            for begin in range(0, file.size, _PART):
                end = min(begin + _PART, file.size)
                rows = (end - begin) // (2 * width) + 1
                self._parts.extend((path, begin, end, file.number, rows, most, 0))
                most += rows
                count += 1
            path += len(name)
            self._ends.append(count)
        self.threads = max(1, min(cores(), count // _MIN_PARTS))
        self._spans = array("q", [count << 32] + [0] * (self.threads - 1))
        # Space for the most lines that the files can hold. The system provides only the memory that is written to.
        self._rows = Rows(np.empty((most, doubles)), np.empty((most, bytes), np.uint8), np.empty(most, np.int64))
        doubles_at, bytes_at, numbers_at = (column.ctypes.data for column in self._rows)
        self._columns = array("q")
        for n in range(doubles):
            self._columns.extend((doubles_at + 8 * n, doubles, 0))
        for n in range(bytes):
            self._columns.extend((bytes_at + n, bytes, 1))
        parts_at, spans_at, columns_at = (one.buffer_info()[0] for one in (self._parts, self._spans, self._columns))
        self._shared = array("q", (parts_at, spans_at, self.threads, finite, width, columns_at, numbers_at))

    def run(self, thread: int) -> None:
        """The work of one thread: it parses parts until there are none left."""
        library = number_table.library()
        assert not isinstance(library, str)
        library.parse_parts(self._shared.buffer_info()[0], thread, _PART)

    def results(self) -> list[Rows | TextFile]:
        # Files that could not be parsed, and ranges [first, last + 1] of the rows of the other files.
        found: list[TextFile | list[int]] = []
        # For each part its first row, and the number of its rows, which is -1 if it could not be parsed.
        firsts, counts = self._parts[5::7], self._parts[6::7]
        begin = 0
        for file, end in zip(self._files, self._ends, strict=True):
            if begin < end and min(counts[begin:end]) < 0:
                found.append(file)
                begin = end
            for first, count in zip(firsts[begin:end], counts[begin:end], strict=True):
                if found and isinstance(last := found[-1], list) and last[1] == first:
                    last[1] += count
                else:
                    found.append([first, first + count])
            begin = end
        doubles, bytes, numbers = self._rows
        spans = (slice(*one) if isinstance(one, list) else one for one in found)
        return [Rows(doubles[s], bytes[s], numbers[s]) if isinstance(s, slice) else s for s in spans]
