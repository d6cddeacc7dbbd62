"""Arrays as this program writes them, read from a disk without Zarr.

What Zarr does to open an array does not depend on its size, and is most of the work for a store with thousands of small
scenes. Whatever is not exactly as `envelope.create_array` writes it, or is damaged, is left to Zarr, which reads it or
says what is wrong.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from numcodecs import blosc
from numpy.typing import NDArray

from hpal_cli.store.remote import RemotePath, in_flight

try:
    from google_crc32c import value as crc32c
except ImportError:  # an earlier Zarr came with another module of checksums
    crc32c = None

_TYPES = frozenset(
    ("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64")
)

_KEY_ENCODING = {"name": "default", "configuration": {"separator": "/"}}

_MEMBERS = {
    "zarr_format",
    "node_type",
    "shape",
    "data_type",
    "chunk_grid",
    "chunk_key_encoding",
    "fill_value",
    "codecs",
}
_HARMLESS = {"attributes", "dimension_names", "storage_transformers"}

MAX_BYTES = 1 << 28
"""Bytes of a chunk, and of an array that is read at once. More is left to Zarr, since a damaged shape could ask for any
amount of memory."""


class NotPlain(Exception):
    """This array or group must be read with Zarr."""


class PlainArray:
    """An array in chunks of whole rows."""

    def __init__(self, folder: Path, metadata: dict[str, Any]) -> None:
        """folder: the array's own; metadata: its `zarr.json`.

        Raises:
            NotPlain: it is not as this program writes it.
        """
        if crc32c is None:
            raise NotPlain
        try:
            shape, dtype = metadata["shape"], metadata["data_type"]
            grid, codecs = metadata["chunk_grid"], metadata["codecs"]
            chunk = grid["configuration"]["chunk_shape"]
            names = [codec["name"] for codec in codecs]
            order = codecs[0].get("configuration", {}).get("endian", "little")
            plain = (
                metadata["node_type"] == "array"
                and metadata["zarr_format"] == 3
                and set(metadata) <= _MEMBERS | _HARMLESS
                and not metadata.get("storage_transformers")
                and dtype in _TYPES
                and names == ["bytes", "blosc", "crc32c"]
                and order == "little"
                and grid["name"] == "regular"
                and metadata["chunk_key_encoding"] == _KEY_ENCODING
                and len(shape) == len(chunk) > 0
                and shape[1:] == chunk[1:]
                and all(isinstance(edge, int) and not isinstance(edge, bool) and edge >= 0 for edge in shape)
                and all(isinstance(edge, int) and not isinstance(edge, bool) and edge > 0 for edge in chunk)
            )
        except (KeyError, TypeError, AttributeError, IndexError):
            plain = False
        if not plain:
            raise NotPlain
        self.shape = tuple(shape)
        self.dtype = np.dtype(dtype).newbyteorder("<")
        self.rows = chunk[0]
        self._chunk_bytes = math.prod(chunk) * self.dtype.itemsize
        if self._chunk_bytes > MAX_BYTES:
            raise NotPlain
        self._folder = folder / "c"
        self._tail = "/0" * (len(shape) - 1)

    def block(self, start: int, stop: int) -> NDArray[Any]:
        """The rows from `start` up to `stop`.

        Raises:
            NotPlain: a chunk is missing or damaged, or that is too much at once.
        """
        start, stop, _ = slice(start, stop).indices(self.shape[0])
        if max(0, stop - start) * math.prod(self.shape[1:]) * self.dtype.itemsize > MAX_BYTES:
            raise NotPlain
        if stop <= start:
            return np.empty((0, *self.shape[1:]), self.dtype)
        numbers = range(start // self.rows, -(-stop // self.rows))
        remote = isinstance(self._folder, RemotePath)
        pieces = []
        for number, chunk in zip(numbers, (in_flight if remote else map)(self._chunk, numbers), strict=True):
            first = number * self.rows
            pieces.append(chunk[max(0, start - first) : stop - first])
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

    def _chunk(self, number: int) -> NDArray[Any]:
        try:
            data = (self._folder / f"{number}{self._tail}").read_bytes()
        except OSError as error:
            raise NotPlain from error
        packed = memoryview(data)[:-4]
        if len(data) < 20 or crc32c(bytes(packed)) != int.from_bytes(data[-4:], "little"):
            raise NotPlain
        # Blosc trusts the sizes in the header of a chunk, so they are compared with the expected ones.
        sizes = int.from_bytes(packed[4:8], "little"), int.from_bytes(packed[12:16], "little")
        if sizes != (self._chunk_bytes, len(packed)):
            raise NotPlain
        whole = np.empty((self.rows, *self.shape[1:]), self.dtype)
        try:
            blosc.decompress(packed, whole)
        except (RuntimeError, ValueError) as error:
            raise NotPlain from error
        return whole[: min(self.rows, self.shape[0] - number * self.rows)]


def read_metadata(folder: Path) -> dict[str, Any]:
    """The `zarr.json` of an array or a group.

    Raises:
        NotPlain: it does not exist, or is no JSON object.
    """
    try:
        metadata = json.loads((folder / "zarr.json").read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise NotPlain from error
    if not isinstance(metadata, dict):
        raise NotPlain
    return metadata


def group_attributes(metadata: dict[str, Any]) -> dict[str, Any]:
    """The attributes of a group. metadata: its `zarr.json`.

    Raises:
        NotPlain: it is no group, or one with more than attributes.
    """
    attributes = metadata.get("attributes", {})
    plain = (
        metadata.get("zarr_format") == 3
        and metadata.get("node_type") == "group"
        and set(metadata) <= {"zarr_format", "node_type", "attributes", "consolidated_metadata"}
        and isinstance(attributes, dict)
    )
    if not plain:
        raise NotPlain
    return attributes
