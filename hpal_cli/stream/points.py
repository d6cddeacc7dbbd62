"""Reads and writes the rows of a point stream."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import replace
from typing import IO

import numpy as np

from hpal_cli.errors import HpalError
from hpal_cli.stream.header import Header, parse, read_text
from hpal_cli.stream.rows import Rows
from hpal_cli.stream.viewer_names import from_viewers, whole_numbers

BLOCK_ROWS = 1 << 16

MAX_BLOCK_BYTES = 1 << 26
"""Bytes of a block, at most, since a header may promise rows of a million columns."""


def point_dtype(*, color: bool, extra: tuple[tuple[str, str], ...] = ()) -> np.dtype[np.void]:
    """The columns of a stream (docs/formats.md section 5): x, y, z, the colour if there is one, scene, index, score,
    and the columns `extra`, which are (name, type) each."""
    columns = [("x", "<f8"), ("y", "<f8"), ("z", "<f8")]
    if color:
        columns += [("red", "u1"), ("green", "u1"), ("blue", "u1")]
    return np.dtype([*columns, ("scene", "<i4"), ("index", "<i4"), ("score", "<f4"), *extra])


class PointReader:
    """Reads a stream: the header when it is opened, and then the rows in blocks."""

    def __init__(self, stream: IO[bytes], subject: object) -> None:
        """Raises:
        HpalError: the stream is no PLY, or its header cannot be read.
        """
        self.subject = subject
        self._stream = stream
        raw = read_text(stream, subject)
        header = parse(raw, subject)
        self._raw_dtype = header.dtype
        self._alone = sum(line.startswith("element ") for line in raw.lines) == 1
        self._whole: Rows | None = None
        if not raw.plain:
            self._whole = _through_plyfile(raw.text, stream, subject)
            self._raw_dtype = self._whole.dtype
        self._named = from_viewers(self._raw_dtype)
        # The columns under their own names and types, which a viewer may have changed.
        clean = self._clean(np.zeros(0, self._raw_dtype)).dtype
        self.header = replace(header, dtype=clean)

    def blocks(self, rows: int = BLOCK_ROWS) -> Iterator[Rows]:
        """Yields all rows in the order of the stream, at most `rows` at a time.

        Raises:
            HpalError: the stream has fewer or more rows than its header promises.
        """
        if self._whole is not None:
            for start in range(0, len(self._whole), rows):
                yield self._clean(self._whole[start : start + rows])
            return
        size, done = self._raw_dtype.itemsize, 0
        rows = max(1, min(rows, MAX_BLOCK_BYTES // max(1, size)))
        while done < self.header.count:
            wanted = min(rows, self.header.count - done)
            data = _read_exactly(self._stream, wanted * size)
            if len(data) < wanted * size:
                raise HpalError(
                    self.subject,
                    f"ends after {done + len(data) // size:,} of {self.header.count:,} points: "
                    "the command before it died early",
                    "nothing was written; look at that command's message and run it again",
                )
            yield self._clean(np.frombuffer(data, self._raw_dtype))
            done += wanted
        if self._alone and self._stream.read(1):
            raise HpalError(
                self.subject,
                f"goes on after the {done:,} points that its header promises",
                "give one stream at a time",
            )

    def _clean(self, rows: Rows) -> Rows:
        return whole_numbers(rows.view(self._named), ("scene", "index", "rank"), self.subject)

    def by_scene(self) -> Iterator[tuple[int, Rows]]:
        """Yields the number and all rows of one scene after the other. Scenes may come in any order, but the rows of a
        scene must be together.

        Raises:
            HpalError: the rows of a scene are not together, or the stream ends early.
        """
        pieces: list[Rows] = []
        current: int | None = None
        seen: set[int] = set()
        for block in self.blocks():
            cuts = np.flatnonzero(np.diff(block["scene"])) + 1
            for piece in np.split(block, cuts):
                if not len(piece):
                    continue
                scene = int(piece["scene"][0])
                if scene != current:
                    if current is not None:
                        yield current, np.concatenate(pieces)
                        seen.add(current)
                    if scene in seen:
                        raise HpalError(
                            self.subject,
                            f"the points of scene {scene} are not together",
                            "sort them by scene",
                        )
                    current, pieces = scene, []
                pieces.append(piece)
        if current is not None:
            yield current, np.concatenate(pieces)

    def read(self) -> Rows:
        """All rows in one array. Raises the errors of `blocks`."""
        blocks = list(self.blocks())
        return np.concatenate(blocks) if blocks else np.zeros(0, self.header.dtype)


class PointWriter:
    """Writes a stream. The header, which has the number of rows, is written first, and `close` checks the number."""

    def __init__(self, stream: IO[bytes], header: Header) -> None:
        self._stream = stream
        self._left = header.count
        stream.write(header.encode())

    def write(self, rows: Rows) -> None:
        """Writes further rows (N,), which have the columns of the header."""
        self._left -= len(rows)
        self._stream.write(np.ascontiguousarray(rows).tobytes())

    def close(self) -> None:
        """Ends the stream.

        Raises:
            RuntimeError: the number of rows is not that of the header.
        """
        if self._left:
            raise RuntimeError(f"the header promised {self._left:+,} more points than were written")
        self._stream.flush()


def write_points(stream: IO[bytes], header: Header, rows: Rows) -> None:
    """Writes a whole stream. The columns and the number of rows in the header are replaced by those of `rows`."""
    writer = PointWriter(stream, replace(header, dtype=rows.dtype, count=len(rows)))
    writer.write(rows)
    writer.close()


def _read_exactly(stream: IO[bytes], size: int) -> bytes:
    # Reading from a pipe may return fewer bytes than asked for. Only an empty result means that it has ended.
    parts, left = [], size
    while left and (part := stream.read(left)):
        parts.append(part)
        left -= len(part)
    return b"".join(parts)


class _Bytes(io.BytesIO):
    """A file for plyfile. A damaged list of -1 numbers is an error here, while plyfile would read the rest of the
    file."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or size < 0:
            raise ValueError("a list of less than nothing")
        return super().read(size)


def _through_plyfile(text: bytes, stream: IO[bytes], subject: object) -> Rows:
    """Reads all rows by plyfile, if the stream is not binary little-endian PLY or has lists."""
    import plyfile

    from hpal_cli.readers.ply import check_counts, plyfile_errors, read_header

    body = stream.read()
    remedy = "the command before it died early, or wrote another count than rows: run it again"
    check_counts(read_header(io.BytesIO(text), subject), len(body), subject, remedy)
    with plyfile_errors(subject):
        vertex = plyfile.PlyData.read(_Bytes(text + body))["vertex"]
    scalars = [p.name for p in vertex.properties if not isinstance(p, plyfile.PlyListProperty)]
    rows = np.zeros(vertex.count, [(name, vertex[name].dtype.newbyteorder("<")) for name in scalars])
    for name in scalars:
        rows[name] = vertex[name]
    return rows
