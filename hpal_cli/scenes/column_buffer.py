"""Keeps columns of points in the order in which they arrive: in memory while they are few, else in files."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

BLOCK = 1 << 20
"""Rows that are read at once: a whole number of chunks of a store."""

MAX_BUFFER_BYTES = 1 << 27
"""Bytes that one buffer keeps in memory, at most."""

Columns = dict[str, NDArray[Any]]


class ColumnBuffer:
    """N rows of named columns, each (N,) or (N, k). All parts that are appended have the same columns, of the same
    types."""

    def __init__(self, folder: Path, kept: int = MAX_BUFFER_BYTES) -> None:
        """folder: for the files; it is made once the columns take more than `kept` bytes, and `close` removes it."""
        self._folder, self._kept = folder, kept
        self._parts: list[Columns] = []
        self._like: Columns = {}
        self._rows = self._bytes = 0
        self._on_disk = False

    def __len__(self) -> int:
        return self._rows

    @property
    def names(self) -> list[str]:
        return list(self._like)

    def append(self, columns: Mapping[str, NDArray[Any]]) -> None:
        """Adds rows, given by all columns that the buffer has.

        Raises:
            OSError: the disk is full.
        """
        if not self._like:
            self._like = {name: values[:0].copy() for name, values in columns.items()}
        part = {name: np.ascontiguousarray(columns[name]) for name in self._like}
        self._rows += _rows(part)
        self._bytes += sum(values.nbytes for values in part.values())
        self._parts.append(part)
        if self._on_disk or self._bytes > self._kept:
            self._spill()

    def widen(self, name: str, like: NDArray[Any], fill: object) -> None:
        """Adds a column with the type and width of `like`; the rows that the buffer has already get the value
        `fill`."""
        self._like[name] = like[:0].copy()
        for part in self._parts:
            part[name] = np.full((_rows(part), *like.shape[1:]), fill, like.dtype)
        if self._on_disk:
            block = np.full((min(BLOCK, self._rows), *like.shape[1:]), fill, like.dtype)
            with (self._folder / _file(name)).open("wb") as file:
                for start in range(0, self._rows, BLOCK):
                    file.write(block[: self._rows - start].data)

    def drop(self, name: str) -> None:
        """Removes a column."""
        del self._like[name]
        for part in self._parts:
            del part[name]
        (self._folder / _file(name)).unlink(missing_ok=True)

    def cut(self, rows: int) -> None:
        """Removes all rows but the first `rows`."""
        if self._on_disk:
            for name, like in self._like.items():
                os.truncate(self._folder / _file(name), rows * int(np.prod(like.shape[1:])) * like.dtype.itemsize)
        else:
            whole = self.read(0, rows)
            self._parts = [whole] if rows else []
        self._rows = rows

    def read(self, start: int, stop: int, names: Sequence[str] | None = None) -> Columns:
        """Rows `start` to `stop` (excluded) of all columns, or of those that `names` gives."""
        chosen = self.names if names is None else names
        if not self._on_disk:
            if len(self._parts) > 1:
                self._parts = [{n: np.concatenate([part[n] for part in self._parts]) for n in self._like}]
            whole = self._parts[0] if self._parts else self._like
            return {name: whole[name][start:stop] for name in chosen}
        columns: Columns = {}
        for name in chosen:
            like = self._like[name]
            width = int(np.prod(like.shape[1:]))
            flat = np.fromfile(
                self._folder / _file(name),
                like.dtype,
                (stop - start) * width,
                offset=start * width * like.dtype.itemsize,
            )
            columns[name] = flat.reshape(stop - start, *like.shape[1:])
        return columns

    def blocks(self, names: Sequence[str] | None = None, rows: int = BLOCK) -> Iterator[Columns]:
        """All rows, in blocks of `rows`; see `read`."""
        for start in range(0, self._rows, rows):
            yield self.read(start, min(start + rows, self._rows), names)

    def close(self) -> None:
        """Frees memory and disk."""
        self._parts = []
        shutil.rmtree(self._folder, ignore_errors=True)

    def _spill(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        for name in self._like:
            # The file is opened anew for each part, because there may be more buffers than a process may have open
            # files.
            with (self._folder / _file(name)).open("ab") as file:
                for part in self._parts:
                    file.write(part[name].data)
        self._parts, self._on_disk = [], True


def _rows(part: Columns) -> int:
    return len(next(iter(part.values())))


def _file(name: str) -> str:
    # The name of a column may be longer than that of a file can be, and may have characters that a file name cannot
    # have.
    return name.encode().hex()[:200]
