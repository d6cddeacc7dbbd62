"""The octree of a COPC file: which points lie in which of its nodes.

A COPC is a LAZ file whose chunks are the nodes of an octree, with a record for the cube of its root and one for the
nodes (https://copc.io, version 1.0).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

USER = "copc"
INFO, HIERARCHY = 1, 1000
"""Record IDs of the COPC info VLR and of the hierarchy EVLR."""

POINT_FORMATS = {6: 30, 7: 36, 8: 38}
"""The point formats that a COPC may have, with the bytes of a point that has no extra bytes."""

HEADER = 375
"""Bytes of the header; the first record begins right after it."""

RECORD = 54
"""Bytes of the header of a VLR."""

EXTENDED_RECORD = 60
"""Bytes of the header of an EVLR."""

EVLRS_AT, EVLRS = 235, "<QI"
"""Where in the header two numbers stand, and their types: the byte at which the records after the points (EVLRs) begin,
and how many they are."""

INFO_END = HEADER + RECORD + 160
ROOT_PAGE = slice(40, 56)
"""The part of the info VLR's data that says at which byte of the file the list of nodes begins, and how many bytes it
has."""

NODE = np.dtype([("key", "<i4", 4), ("offset", "<u8"), ("bytes", "<i4"), ("points", "<i4")])
"""A node as a file lists it: depth, x, y, z; where its chunk begins and how long that is; how many points it has."""

_PAGE = -1
"""What an entry has in place of its number of points if it is no node, but says where a further list of nodes is."""


def info(head: bytes) -> bytes | None:
    """The data of the COPC info VLR, from the first `INFO_END` bytes of a file; None if the file is no COPC."""
    user, number, size = struct.unpack_from("<2x16sHH", head.ljust(INFO_END, b"\0"), HEADER)
    its = (user.rstrip(b"\0").decode("ascii", "replace"), number, size) == (USER, INFO, INFO_END - HEADER - RECORD)
    return head[HEADER + RECORD : INFO_END] if its and len(head) >= INFO_END else None


def stored_nodes(template: bytes) -> NDArray[np.void]:
    """The nodes (`NODE`) in the LAS file without points that a scenes store keeps of a COPC.

    Raises:
        ValueError: it has none.
    """
    try:
        at, records = struct.unpack_from(EVLRS, template, EVLRS_AT)
        for _ in range(records):
            user, number, size = struct.unpack_from("<2x16sHQ", template, at)
            data = template[at + EXTENDED_RECORD : at + EXTENDED_RECORD + size]
            if (user.rstrip(b"\0"), number) == (USER.encode(), HIERARCHY):
                return np.frombuffer(data, NODE)
            at += EXTENDED_RECORD + size
    except (struct.error, OverflowError) as error:
        raise ValueError(str(error)) from error
    raise ValueError("there are no nodes")


def nodes(file: BinaryIO, size: int, info: bytes, chunks: Sequence[int]) -> NDArray[np.void] | None:
    """All nodes (`NODE`), in the order of their points in the file; None if the list of nodes is damaged, or does not
    fit the chunks.

    Args:
        size: of the file, in bytes.
        info: the data of its COPC info VLR.
        chunks: the number of points in each of its chunks.
    """
    pages, found, seen = [struct.unpack("<QQ", info[ROOT_PAGE])], [], 0
    while pages:
        start, length = pages.pop()
        seen += length
        if length <= 0 or length % NODE.itemsize or start + length > size or seen > size:
            return None
        file.seek(start)
        listed = np.frombuffer(file.read(length), NODE)
        further = listed["points"] == _PAGE
        pages += [(int(node["offset"]), int(node["bytes"])) for node in listed[further]]
        found.append(listed[~further])
    every = np.concatenate(found)
    every = every[np.argsort(every["offset"], kind="stable")]
    return every if every["points"][every["points"] != 0].tolist() == list(chunks) else None
