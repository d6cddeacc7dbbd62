"""The envelope of every hpal store: a Zarr v3 folder with one `hpal` attribute at its root.

docs/formats.md is the specification; this module is where its section 1 lives.
"""

from __future__ import annotations

import contextlib
import json
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import zarr
import zarr.codecs
from numpy.typing import NDArray

from hpal_cli.errors import HpalError
from hpal_cli.store.files import replace_when_whole

SPEC = 1
"""The version of the specification that this program writes, and the newest that it reads."""

CHUNK_ROWS = 1 << 16

MADE_BY = {
    "scenes": "hpal prep",
    "predictions": "hpal predict",
    "labels": "hpal label",
    "superpoints": "hpal superpoints",
}


@contextlib.contextmanager
def create(
    path: Path,
    kind: str,
    attributes: dict[str, Any],
    *,
    overwrite: bool,
    place: contextlib.AbstractContextManager[Path] | None = None,
) -> Iterator[tuple[zarr.Group, Path]]:
    """Yields the root group of a new store and where it is written; it appears at `path` when the block ends well.

    `attributes` may still be filled inside the block: it is written at the end.
    place: where it is written, if not in a folder that goes away when the block fails.
    """
    if path.exists() and overwrite and kind_of(path) != kind:
        raise HpalError(path, f"is not a {kind} store, and is not replaced by one", "give another name with -o")
    with place or replace_when_whole(path, overwrite=overwrite, folder=True) as partial:
        root = zarr.open_group(str(partial), mode="a", zarr_format=3)
        yield root, partial
        root.attrs["hpal"] = {"spec": SPEC, "kind": kind, **attributes, "complete": True}


def attributes_of(path: Path) -> dict[str, Any] | None:
    """The `hpal` attribute of a store, without opening it as Zarr; None if this is no hpal store."""
    try:
        metadata = json.loads((path / "zarr.json").read_text(encoding="utf-8"))
        attributes = metadata["attributes"]["hpal"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return attributes if isinstance(attributes, dict) else None


def kind_of(path: Path) -> str | None:
    """`scenes`, `superpoints`, `predictions` or `labels`; None if this is no hpal store."""
    kind = (attributes_of(path) or {}).get("kind")
    return kind if isinstance(kind, str) else None


def open_store(path: Path, *kinds: str) -> tuple[zarr.Group, dict[str, Any]]:
    """The root group (read only) and its `hpal` attribute.

    Raises:
        HpalError: nothing there, no hpal store, not one of `kinds`, unfinished, or of a newer specification.
    """
    wanted = " or ".join(kinds)
    makers = " or ".join(MADE_BY[kind] for kind in kinds)
    if not path.exists():
        raise HpalError(path, "does not exist", f"make it with `{makers}`, or check the name")
    attributes = attributes_of(path)
    if attributes is None:
        raise HpalError(path, "is not an hpal store", f"give a {wanted} store made by `{makers}`")
    spec = attributes.get("spec")
    if not isinstance(spec, int) or spec > SPEC:
        raise HpalError(
            path, f"is written to specification {spec}, this hpal reads up to {SPEC}", "install a newer hpal"
        )
    kind = attributes.get("kind")
    if kind not in kinds:
        raise HpalError(path, f"is a {kind} store, expected {wanted}", f"give the output of `{makers}`")
    if attributes.get("complete") is not True:
        raise HpalError(path, "is not complete (its writer did not finish)", f"run `{makers}` again")
    return zarr.open_group(str(path), mode="r", use_consolidated=False), attributes


def write_array(group: zarr.Group, name: str, values: NDArray[np.generic]) -> None:
    """(N, ...) as one array: chunks of whole rows, compressed, missing chunks never left out."""
    values = np.ascontiguousarray(values)
    array = create_array(group, name, values.shape, values.dtype)
    if values.size:
        array[...] = values


def create_array(group: zarr.Group, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> zarr.Array:
    """An array that `write_array` would make, to be filled by blocks of `CHUNK_ROWS` rows: all of them, in full."""
    # Bytes of like weight side by side: halves coordinates and probabilities, and costs next to no time.
    codec = zarr.codecs.BloscCodec(
        typesize=dtype.itemsize, cname="zstd", clevel=1, shuffle=zarr.codecs.BloscShuffle.shuffle
    )
    return group.create_array(
        name,
        shape=shape,
        dtype=dtype,
        chunks=(max(1, min(CHUNK_ROWS, shape[0])), *shape[1:]),
        compressors=codec,
        config={"write_empty_chunks": True},
    )


def read_array(group: zarr.Group, name: str, path: Path) -> NDArray[Any]:
    """The whole array `name` of a group.

    Raises:
        HpalError: it is missing, or a chunk of it is, or one cannot be decoded.
    """
    with _damage(path, group, name):
        return np.asarray(_whole(group, name, path)[...])


KEPT = 1 << 27
"""Bytes of chunks that a `RowReader` keeps."""


class RowReader:
    """Rows of an array (N, F), read by the chunks that hold them; the latest chunks are kept."""

    def __init__(self, group: zarr.Group, name: str, path: Path) -> None:
        """Raises:
        HpalError: it is missing, or a chunk of it is.
        """
        self._group, self.name, self._path = group, name, path
        with _damage(path, group, name):
            self._array = _whole(group, name, path)
        self.shape = self._array.shape
        self._rows = self._array.chunks[0]
        self._chunks: OrderedDict[int, NDArray[Any]] = OrderedDict()

    def __call__(self, rows: NDArray[np.integer]) -> NDArray[Any]:
        """(K,) rows -> (K, F).

        Raises:
            HpalError: a chunk cannot be decoded.
        """
        out = np.empty((len(rows), *self.shape[1:]), self._array.dtype)
        home = rows // self._rows
        for number in np.unique(home):
            here = home == number
            out[here] = self._chunk(int(number))[rows[here] - number * self._rows]
        return out

    def _chunk(self, number: int) -> NDArray[Any]:
        if number not in self._chunks:
            self._chunks[number] = self.read_chunk(number)
            while len(self._chunks) > 1 and sum(c.nbytes for c in self._chunks.values()) > KEPT:
                self._chunks.popitem(last=False)
        self._chunks.move_to_end(number)
        return self._chunks[number]

    def read_chunk(self, number: int) -> NDArray[Any]:
        """The rows of one chunk, from the disk.

        Raises:
            HpalError: it cannot be decoded.
        """
        return self.block(number * self._rows, (number + 1) * self._rows)

    def block(self, start: int, stop: int) -> NDArray[Any]:
        """The rows from `start` up to `stop`, from the disk; they are not kept.

        Raises:
            HpalError: a chunk cannot be decoded.
        """
        with _damage(self._path, self._group, self.name):
            return np.asarray(self._array[start:stop])


def _whole(group: zarr.Group, name: str, path: Path) -> zarr.Array:
    """The array `name`, if all of its chunks are there."""
    node = find(group, name, path)
    if not isinstance(node, zarr.Array):
        raise TypeError("it is not there" if node is None else "it is a group")
    # Zarr reads a chunk that is gone as zeros, which would pass for data.
    if node.size and node.nchunks_initialized < node.nchunks:
        raise ValueError("a chunk is gone")
    return node


def find(group: zarr.Group, name: str, path: Path) -> zarr.Array | zarr.Group | None:
    """The array or group `name` of a group, None if there is none.

    Raises:
        HpalError: its metadata cannot be read.
    """
    with _damage(path, group, name):
        return group.get(name)


@contextlib.contextmanager
def _damage(path: Path, group: zarr.Group, name: str) -> Iterator[None]:
    """What Zarr raises at a damaged store, as an error that names the array."""
    try:
        yield
    except (KeyError, TypeError, ValueError, RuntimeError, OSError) as error:
        where = f"{group.path}/{name}".strip("/")
        raise HpalError(path, f"its array {where} is missing or damaged ({error})", "write it again") from error
