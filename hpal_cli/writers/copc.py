"""Writes a COPC whose octree is known: laspy reads such files and does not write them."""

from __future__ import annotations

import io
import shutil
import struct
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from hpal_cli.readers.copc import EVLRS, EVLRS_AT, HEADER, HIERARCHY, INFO, POINT_FORMATS, RECORD, ROOT_PAGE, USER

_POINTS = 96
"""The byte of the header from which on it says where the points begin, how many VLRs there are, and the format and the
length of a point."""

_COMPRESSED = 0x80
"""The bit in the byte with the point format that says that the points are LAZ."""

_IN_ONE_GO = 1 << 20
"""Points that are compressed by several threads at once."""


def compress(plain: BinaryIO, info: bytes, nodes: NDArray[np.void], file: BinaryIO) -> None:
    """Writes the LAS 1.4 file `plain`, which is not compressed, to `file` as a COPC.

    Args:
        plain: its points are those of the nodes, one node after another; its point format is 6, 7 or 8.
        info: the data of the COPC info VLR of a file with the same octree.
        nodes: `readers.copc.NODE`, each with its number of points; their places in the file are set here.
    """
    import lazrs

    plain.seek(0)
    header = bytearray(plain.read(HEADER))
    start, records, point_format, row = struct.unpack_from("<IIBH", header, _POINTS)
    laz = lazrs.LazVlr.new_for_compression(
        point_format, row - POINT_FORMATS[point_format], use_variable_size_chunks=True
    )
    own = [_record(USER, INFO, info), _record("laszip encoded", 22204, laz.record_data())]
    begin = start + sum(map(len, own))
    struct.pack_into("<IIB", header, _POINTS, begin, records + len(own), point_format | _COMPRESSED)
    file.write(header + b"".join(own) + plain.read(start - HEADER))

    compressor = lazrs.ParLasZipCompressor(file, laz)
    waiting: list[NDArray[np.uint8]] = []
    for points in nodes["points"][nodes["points"] > 0].tolist():
        waiting.append(np.frombuffer(plain.read(points * row), np.uint8))
        if sum(map(len, waiting)) >= _IN_ONE_GO * row:
            compressor.compress_chunks(waiting)
            waiting = []
    compressor.compress_chunks(waiting)
    compressor.done()

    file.seek(begin)
    placed = nodes.copy()
    placed["offset"] = placed["bytes"] = 0
    filled = placed["points"] > 0
    placed["bytes"][filled] = [size for _, size in lazrs.read_chunk_table(file, laz)]
    # The first chunk follows the 8 bytes that say where the chunk table is.
    placed["offset"][filled] = begin + 8 + np.cumsum(placed["bytes"][filled]) - placed["bytes"][filled]

    evlrs_at = file.seek(0, io.SEEK_END)
    evlrs, count = struct.unpack_from(EVLRS, header, EVLRS_AT)
    if count:
        plain.seek(evlrs)
        shutil.copyfileobj(plain, file)
    file.write(_extended_record(USER, HIERARCHY, placed.tobytes()))
    page = struct.pack("<QQ", file.tell() - placed.nbytes, placed.nbytes)
    file.seek(EVLRS_AT)
    file.write(struct.pack(EVLRS, evlrs_at, count + 1))
    file.seek(HEADER + RECORD + ROOT_PAGE.start)
    file.write(page)


def _record(user: str, number: int, data: bytes) -> bytes:
    return struct.pack("<2x16sHH32x", user.encode(), number, len(data)) + data


def _extended_record(user: str, number: int, data: bytes) -> bytes:
    return struct.pack("<2x16sHQ32x", user.encode(), number, len(data)) + data
