"""Creates, opens and reads stores. Every store is a Zarr v3 folder with an attribute `hpal` at its root
(docs/formats.md section 1)."""

from __future__ import annotations

import contextlib
import functools
import json
import math
import os
import tempfile
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zarr
import zarr.codecs
import zarr.storage
from numcodecs import blosc
from numpy.typing import NDArray

from hpal_cli.errors import HpalError
from hpal_cli.parallel.cluster import current_run
from hpal_cli.specification import check_specification
from hpal_cli.store.files import atomic_write
from hpal_cli.store.plain import NotPlain, PlainArray, crc32c, group_attributes, read_metadata
from hpal_cli.store.remote import RemotePath, begin_reading, for_each
from hpal_cli.wording import first_line

SPEC = 1
"""The version of the specification that this program writes, and the newest that it reads."""

CHUNK_ROWS = 1 << 16

_REMEDY = "restore a copy, or write it again"

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
    """Yields the root group of a new store and the folder in which it is written. The store appears at `path` when the
    block ends without an error. `attributes` are written at the end of the block, so the block may add to them.
    The folder is on a disk; for a store on object storage it is a temporary one, from which the files are moved.
    place: yields the folder to write in; without it, the folder is removed if the block fails.

    Raises:
        HpalError: `path` exists and may not be replaced, or it is a store of another kind.
    """
    if path.exists() and overwrite and kind_of(path) != kind:
        raise HpalError(path, f"is not a {kind} store, and is not replaced by one", "give another name with -o")
    if isinstance(path, RemotePath):
        from hpal_cli.store.objects import in_place, send

        with (
            tempfile.TemporaryDirectory(prefix="hpal-") as scratch,
            in_place(path, {"spec": SPEC, "kind": kind}, overwrite=overwrite) as writer,
        ):
            folder = Path(scratch)
            root = zarr.open_group(scratch, mode="a", zarr_format=3)
            yield root, folder
            write_attributes(root, {"hpal": {"spec": SPEC, "kind": kind, **attributes, "complete": True}})
            send(folder, path)
            writer.end((folder / "zarr.json").read_bytes())
        return
    with place or atomic_write(path, overwrite=overwrite, folder=True) as partial:
        root = zarr.open_group(str(partial), mode="a", zarr_format=3)
        yield root, partial
        write_attributes(root, {"hpal": {"spec": SPEC, "kind": kind, **attributes, "complete": True}})


def scene_written(path: Path, folder: Path, name: str) -> None:
    """To be called when the scene `name` of the store `path`, which is being written in `folder`, has been written: if
    the store is on object storage, the scene is moved there at once, so that the disk has to hold only one scene."""
    if isinstance(path, RemotePath):
        from hpal_cli.store.objects import send

        send(folder, path, f"scenes/{name}")


def attributes_of(path: Path) -> dict[str, Any] | None:
    """The attribute `hpal` of a store, read without Zarr; None if there is no hpal store at `path`."""
    try:
        metadata = json.loads((path / "zarr.json").read_text(encoding="utf-8"))
        attributes = metadata["attributes"]["hpal"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return attributes if isinstance(attributes, dict) else None


def kind_of(path: Path) -> str | None:
    """`scenes`, `superpoints`, `predictions` or `labels`; None if there is no hpal store at `path`."""
    kind = (attributes_of(path) or {}).get("kind")
    return kind if isinstance(kind, str) else None


def open_store(path: Path, *kinds: str) -> tuple[zarr.Group, dict[str, Any]]:
    """Opens a store for reading. Returns the root group and its attribute `hpal`.

    Raises:
        HpalError: there is no hpal store of one of these kinds, it is not complete, or its specification is newer.
    """
    wanted = " or ".join(kinds)
    makers = " or ".join(MADE_BY[kind] for kind in kinds)
    attributes = attributes_of(path)
    if attributes is None:
        if not path.exists():
            raise HpalError(path, "does not exist", f"make it with `{makers}`, or check the name")
        raise HpalError(path, "is not an hpal store", f"give a {wanted} store made by `{makers}`")
    check_specification(path, attributes.get("spec"), SPEC)
    kind = attributes.get("kind")
    if kind not in kinds:
        raise HpalError(path, f"is a {kind} store, expected {wanted}", f"give the output of `{makers}`")
    if attributes.get("complete") is not True:
        raise HpalError(path, "is not complete (its writer did not finish)", f"run `{makers}` again")
    try:
        if isinstance(path, RemotePath):
            from hpal_cli.store.objects import open_group

            return open_group(path), attributes
        return zarr.open_group(str(path), mode="r", use_consolidated=False), attributes
    except HpalError:
        raise
    except Exception as error:  # Zarr raises many kinds of errors
        raise HpalError(path, f"its zarr.json is damaged ({first_line(error)})", _REMEDY) from error


def reopened(kind: Callable[..., Any], path: Path, scenes: str, *further: Any) -> Any:
    """Opens a store that another process has opened, once in this process. further: what `kind` needs besides the path.

    Raises:
        HpalError: it belongs to other scenes than when the other process opened it.
    """
    return _reopened(kind, path, scenes, current_run(), *further)


@functools.lru_cache(maxsize=16)
def _reopened(kind: Callable[..., Any], path: Path, scenes: str, run: str, *further: Any) -> Any:
    store = kind(path, *further)
    if store.table.id != scenes:
        raise HpalError(path, "was replaced while it was read", "run the command again")
    return store


CHECKSUM = "hpal_crc32"
"""The attribute that has the checksum of a group's other attributes (docs/formats.md section 1.1)."""


def write_attributes(group: zarr.Group, attributes: Mapping[str, Any]) -> None:
    """Adds attributes to a group, and a checksum of all that it then has."""
    group.attrs.update(_with_checksum({**group.attrs.asdict(), **attributes}))


def _with_checksum(attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {**attributes, CHECKSUM: _checksum(_as_written(json.dumps(attributes)))}


def _as_written(text: str | bytes) -> dict[str, Any]:
    """Parses a JSON object and keeps each number as the text that is written there, since programs write equal numbers
    differently."""
    parsed: dict[str, Any] = json.loads(text, parse_float=str, parse_int=str, parse_constant=str)
    return parsed


def _checksum(attributes: Mapping[str, Any]) -> str:
    others = {name: value for name, value in attributes.items() if name != CHECKSUM}
    text = json.dumps(others, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return f"{zlib.crc32(text.encode('utf-8', 'surrogatepass')):08x}"


def _require_unaltered(path: Path, where: str) -> None:
    """Compares the attributes of the group `where` with their checksum, if it has one.

    Raises:
        HpalError: they differ from what was written, or cannot be read.
    """
    name = f"{where}/zarr.json".lstrip("/")
    with _damage(path, name):
        attributes = _as_written((path / name).read_bytes()).get("attributes", {})
        altered = CHECKSUM in attributes and attributes[CHECKSUM] != _checksum(attributes)
    if altered:
        remedy = f"restore a copy; if they were changed on purpose, remove {CHECKSUM} from them"
        raise HpalError(path, f"the attributes in its {name} were altered after they were written", remedy)


def write_array(group: zarr.Group, name: str, values: NDArray[np.generic]) -> None:
    """Writes values (N, ...) as an array whose chunks have whole rows, are compressed, and have a checksum each."""
    values = np.ascontiguousarray(values)
    array = create_array(group, name, values.shape, values.dtype)
    if values.size:
        array[...] = values


def write_group(folder: Path, attributes: dict[str, Any], columns: Mapping[str, NDArray[np.generic]]) -> None:
    """Creates a group at `folder`, with attributes, and arrays as `write_array` writes them.

    The files have the bytes that Zarr would write. For small arrays they are written without it, since Zarr hands each
    of them from one thread to another and back several times, for which a person waits who answers on a busy machine.
    """
    folder.mkdir()
    _write_json(folder, {**_metadata_of_group(), "attributes": _with_checksum(attributes)})
    for name, values in columns.items():
        if crc32c is None or len(values) > CHUNK_ROWS:
            write_array(zarr.open_group(str(folder), mode="r+", zarr_format=3), name, values)
            continue
        metadata = json.loads(_metadata_of_array(values.dtype, values.shape[1:]))
        rows = max(1, len(values))
        metadata["shape"] = list(values.shape)
        metadata["chunk_grid"]["configuration"]["chunk_shape"] = [rows, *values.shape[1:]]
        (folder / name).mkdir()
        _write_json(folder / name, metadata)
        if values.size:
            data = np.ascontiguousarray(values, values.dtype.newbyteorder("<"))
            packed = blosc.compress(data, b"zstd", 1, blosc.SHUFFLE)
            chunk = folder / name / "c" / "/".join("0" * values.ndim)
            chunk.parent.mkdir(parents=True)
            chunk.write_bytes(packed + crc32c(packed).to_bytes(4, "little"))


def _write_json(folder: Path, metadata: dict[str, Any]) -> None:
    (folder / "zarr.json").write_bytes(json.dumps(metadata, indent=2).encode())


@functools.cache
def _metadata_of_group() -> dict[str, Any]:
    """The metadata that Zarr writes for a group without attributes."""
    written: dict[str, Any] = {}
    zarr.create_group(zarr.storage.MemoryStore(written), zarr_format=3)
    metadata: dict[str, Any] = json.loads(written["zarr.json"].to_bytes())
    return metadata


@functools.cache
def _metadata_of_array(dtype: np.dtype[Any], columns: tuple[int, ...]) -> bytes:
    """The metadata that Zarr writes for an array with one row of such columns."""
    written: dict[str, Any] = {}
    create_array(zarr.create_group(zarr.storage.MemoryStore(written), zarr_format=3), "one", (1, *columns), dtype)
    return bytes(written["one/zarr.json"].to_bytes())


def create_array(group: zarr.Group, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> zarr.Array:
    """Creates an array like that of `write_array`, which the caller then fills in blocks of `CHUNK_ROWS` rows."""
    # The shuffle puts bytes of equal significance side by side. Coordinates and probabilities are then compressed to
    # half the size, in little time.
    codec = zarr.codecs.BloscCodec(typesize=dtype.itemsize, cname="zstd", clevel=1, shuffle="shuffle")
    return group.create_array(
        name,
        shape=shape,
        dtype=dtype,
        chunks=(max(1, min(CHUNK_ROWS, shape[0])), *shape[1:]),
        # Blosc has no checksum, so without this one a flipped bit would only change a number.
        compressors=[codec, zarr.codecs.Crc32cCodec()],
        config={"write_empty_chunks": True},
    )


def read_array(group: zarr.Group, name: str, path: Path) -> NDArray[Any]:
    """The whole array `name` of a group.

    Raises:
        HpalError: the array or a chunk of it is missing, or a chunk cannot be decoded.
    """
    with contextlib.suppress(NotPlain):
        plain = PlainArray(path / _where(group, name), _metadata(group, name, path))
        return plain.block(0, plain.shape[0])
    array = _whole(group, name, path)
    return _read(array, path, slice(None))


def read_arrays(group: zarr.Group, names: Sequence[str], path: Path) -> list[NDArray[Any]]:
    """The whole arrays `names` of a group. From object storage they are read at the same time.

    Raises:
        HpalError: as `read_array`.
    """
    return for_each(path, lambda name: read_array(group, name, path), names)


_MAX_ROWS_AHEAD = 4 * CHUNK_ROWS
"""Rows up to which arrays are read ahead. Larger ones have enough chunks that are read at the same time."""


def read_ahead(root: zarr.Group, name: str, path: Path, *, dims: int = 0, rows: int = 0) -> None:
    """Begins to read an array or a group that is needed soon, if the store is on object storage.

    dims, rows: the number of dimensions and of rows of the array; 0 for a group.
    """
    if not isinstance(path, RemotePath) or rows > _MAX_ROWS_AHEAD:
        return
    from hpal_cli.store.objects import Objects

    assert isinstance(root.store, Objects)
    metadata = () if root.store.knows(name) else ("zarr.json",)
    chunks = (f"c/{n}{'/0' * (dims - 1)}" for n in range(-(-rows // CHUNK_ROWS)))
    begin_reading([path / name / one for one in (*metadata, *chunks)])


MAX_CACHED_BYTES = 1 << 27
"""Bytes of chunks that a `RowReader` keeps in memory, at most."""


class RowReader:
    """Reads single rows of an array (N, F). It reads the chunks that have them, and keeps the latest chunks."""

    def __init__(self, group: zarr.Group, name: str, path: Path) -> None:
        """Raises:
        HpalError: the array or a chunk of it is missing. Of some arrays a missing chunk is noticed only when it is
            read.
        """
        self.name, self._path, self._group = name, path, group
        self._plain: PlainArray | None = None
        self._array: zarr.Array | None = None
        try:
            self._plain = PlainArray(path / _where(group, name), _metadata(group, name, path))
            self.shape, self._dtype, self._rows = self._plain.shape, self._plain.dtype, self._plain.rows
        except NotPlain:
            array = self._array = _whole(group, name, path)
            self.shape, self._dtype = array.shape, array.dtype
            self._rows = array.chunks[0] if self.shape else 1
        self.row_bytes = self._dtype.itemsize * math.prod(self.shape[1:])
        self._chunks: OrderedDict[int, NDArray[Any]] = OrderedDict()

    def __call__(self, rows: NDArray[np.integer]) -> NDArray[Any]:
        """(K,) rows -> (K, F).

        Raises:
            HpalError: a chunk cannot be decoded.
        """
        out = np.empty((len(rows), *self.shape[1:]), self._dtype)
        chunk = rows // self._rows
        for number in np.unique(chunk):
            inside = chunk == number
            out[inside] = self._chunk(int(number))[rows[inside] - number * self._rows]
        return out

    def _chunk(self, number: int) -> NDArray[Any]:
        if number not in self._chunks:
            self._chunks[number] = self.read_chunk(number)
            while len(self._chunks) > 1 and sum(c.nbytes for c in self._chunks.values()) > MAX_CACHED_BYTES:
                self._chunks.popitem(last=False)
        self._chunks.move_to_end(number)
        return self._chunks[number]

    def read_chunk(self, number: int) -> NDArray[Any]:
        """Reads the rows of one chunk from the disk.

        Raises:
            HpalError: the chunk is missing or cannot be decoded.
        """
        return self.block(number * self._rows, (number + 1) * self._rows)

    def block(self, start: int, stop: int) -> NDArray[Any]:
        """Reads the rows from `start` up to `stop` from the disk, without keeping them.

        Raises:
            HpalError: a chunk is missing, or cannot be decoded.
        """
        if self._plain is not None:
            with contextlib.suppress(NotPlain):
                return self._plain.block(start, stop)
        if self._array is None:
            self._array = _whole(self._group, self.name, self._path)
        return _read(self._array, self._path, slice(start, stop))


def check_store(root: zarr.Group, path: Path, *, without: Sequence[str] = ()) -> None:
    """Reads every chunk of every array of a store, also of arrays that its tables do not mention, and compares the
    attributes of every group with their checksum. without: groups whose arrays are not read.

    Raises:
        HpalError: a chunk, or the metadata of an array or a group, is missing, damaged or altered.
    """
    _require_unaltered(path, "")
    nodes: list[tuple[str, object]] = []
    if isinstance(path, RemotePath):
        with _damage(path, ""):
            nodes += root.members(max_depth=None)
    else:
        # `members` does not say which file it cannot read, and passes over some of them.
        for file in sorted(path.glob("*/**/zarr.json")):
            name = file.parent.relative_to(path).as_posix()
            node = find(root, name, path)
            if node is None:
                raise HpalError(path, f"its {name} is missing or damaged (its zarr.json cannot be read)", _REMEDY)
            nodes.append((name, node))
    for name in (name for name, node in nodes if isinstance(node, zarr.Group)):
        _require_unaltered(path, name)
    for name in (name for name, node in nodes if isinstance(node, zarr.Array)):
        if any(name.startswith(f"{group}/") for group in without):
            continue
        read = RowReader(root, name, path)
        rows = read.shape[0] if read.shape else 0
        step = max(1, MAX_CACHED_BYTES // max(1, read.row_bytes))
        for start in range(0, rows, step):
            read.block(start, min(start + step, rows))


MAX_UNCHECKED_BYTES = 1 << 28
"""Bytes of an array up to which the size of its chunks on the disk is not checked."""

MAX_COMPRESSION = 1 << 16
"""More than the ratio by which Blosc can compress, even if all bytes are the same."""


def _whole(group: zarr.Group, name: str, path: Path) -> zarr.Array:
    """Opens the array `name` and checks that all of its chunks are there.

    Raises:
        HpalError: the array or a chunk is missing, or the chunks are too small for the array's shape.
    """
    node = find(group, name, path)
    with _damage(path, _where(group, name)):
        if not isinstance(node, zarr.Array):
            raise TypeError("it does not exist" if node is None else "it is a group")
        if node.dtype.kind not in "biuf":
            raise TypeError(f"it holds {node.dtype}, not numbers")
        if isinstance(path, RemotePath) and path.read_only:
            # A web server cannot be asked which chunks it has.
            return node
        # Zarr reads a missing chunk as zeros, which would be taken for data.
        if node.size and node.nchunks_initialized < node.nchunks:
            raise ValueError("a chunk is gone")
        if node.nbytes > MAX_UNCHECKED_BYTES and node.nbytes > MAX_COMPRESSION * node.nbytes_stored():
            raise ValueError(f"it promises {node.nbytes:,} bytes, which its chunks cannot hold")
        return node


def find(group: zarr.Group, name: str, path: Path) -> zarr.Array | zarr.Group | None:
    """The array or group `name` of a group; None if there is none.

    Raises:
        HpalError: its metadata cannot be read.
    """
    with _damage(path, _where(group, name)):
        return group.get(name)


def has(group: zarr.Group, name: str, path: Path) -> bool:
    """Whether a group has an array or group `name`.

    Raises:
        HpalError: its folder cannot be looked into.
    """
    if isinstance(path, RemotePath):
        try:
            return bool(_metadata(group, name, path))
        except NotPlain:
            return False
    with _damage(path, _where(group, name)):
        return (path / _where(group, name) / "zarr.json").is_file()


def _metadata(group: zarr.Group, name: str, path: Path) -> dict[str, Any]:
    """The `zarr.json` of the array or group `name` of a group.

    Raises:
        NotPlain: it does not exist, or is no JSON object.
        HpalError: the object store cannot be reached.
    """
    where = _where(group, name)
    if isinstance(path, RemotePath):
        from hpal_cli.store.objects import Objects

        assert isinstance(group.store, Objects)
        return group.store.metadata(where)
    return read_metadata(path / where)


def read_attributes(group: zarr.Group, name: str, path: Path) -> dict[str, Any]:
    """The attributes of the group `name` of a group.

    Raises:
        HpalError: it does not exist, or its metadata cannot be read.
    """
    with contextlib.suppress(NotPlain):
        return group_attributes(_metadata(group, name, path))
    return read_group(group, name, path)[1]


def read_group(group: zarr.Group, name: str, path: Path) -> tuple[zarr.Group, dict[str, Any]]:
    """The group `name` of a group, and its attributes.

    Raises:
        HpalError: the group is missing, or its metadata cannot be read.
    """
    node = find(group, name, path)
    if not isinstance(node, zarr.Group):
        raise HpalError(path, f"its group {_where(group, name)} is missing or damaged", _REMEDY)
    with _damage(path, _where(group, name)):
        return node, dict(node.attrs)


def array_names(root: zarr.Group, name: str, path: Path) -> list[str]:
    """The names of the arrays of the group `name`, sorted.

    Raises:
        HpalError: the group does not exist, or its metadata cannot be read.
    """
    if not (isinstance(path, RemotePath) and path.read_only):
        with contextlib.suppress(NotPlain, OSError):
            group_attributes(_metadata(root, name, path))
            folder = path / _where(root, name)
            if isinstance(path, RemotePath):
                below = [entry.name for entry in folder.iterdir() if has(root, f"{name}/{entry.name}", path)]
            else:
                below = [entry.name for entry in os.scandir(folder) if entry.is_dir()]
            return sorted(n for n in below if _metadata(root, f"{name}/{n}", path).get("node_type") == "array")
    group, _ = read_group(root, name, path)
    with _damage(path, group.path):
        return sorted(group.array_keys())


def _where(group: zarr.Group, name: str) -> str:
    return f"{group.path}/{name}".strip("/")


def _read(array: zarr.Array, path: Path, rows: slice) -> NDArray[Any]:
    try:
        return np.asarray(array[rows])
    except (HpalError, MemoryError):
        raise
    except Exception as error:  # Zarr and its codecs raise many kinds of errors
        chunk, why = _bad_chunk(array, rows) or ("", error)
        where = "/".join(part for part in (array.path, chunk) if part)
        raise HpalError(path, f"its array {where} is damaged ({first_line(why)})", _REMEDY) from error


def _bad_chunk(array: zarr.Array, rows: slice) -> tuple[str, Exception] | None:
    """The name of the first chunk that cannot be read, and the error; None if all can be read."""
    begin, end, _ = rows.indices(array.shape[0])
    chunk = array.shards or array.chunks
    height = chunk[0]
    for number in range(begin // height, -(-end // height)):
        try:
            array[number * height : (number + 1) * height]
        except Exception as error:
            key = array.metadata.encode_chunk_key((number, *(0 for _ in array.shape[1:])))
            # If a chunk does not have all columns, it is not known which of a row of chunks is damaged.
            return (key if chunk[1:] == array.shape[1:] else ""), error
    return None


@contextlib.contextmanager
def _damage(path: Path, where: str) -> Iterator[None]:
    """Turns the errors that Zarr raises for damaged metadata into an HpalError that names the array or group."""
    try:
        yield
    except (HpalError, MemoryError):
        raise
    except Exception as error:  # Zarr raises many kinds of errors
        raise HpalError(
            path, f"its {where or 'metadata'} is missing or damaged ({first_line(error)})", _REMEDY
        ) from error
