"""LAS, LAZ, COPC and folders of EPT. They are read by laspy; its errors become an `HpalError` of one line."""

from __future__ import annotations

import copy
import io
import json
import re
import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from hpal_cli.classes import IGNORE, ClassTable
from hpal_cli.errors import HpalError
from hpal_cli.readers import copc, files
from hpal_cli.readers.cloud import Cloud, Options, Source
from hpal_cli.readers.columns import native
from hpal_cli.wording import first_line

NAME = "las"
CLASSES: ClassTable | None = None

COPC = ".copc"
_EPT = "ept.json"

CHUNK = 1 << 20
UNCLASSIFIED = (0, 1)
"""The class numbers that mean "created, never classified" and "unclassified" in the specification of ASPRS."""

_METRES = {9001: 1.0, 9002: 0.3048, 9003: 1200 / 3937}
_LINEAR_UNITS_KEY = 3076
_CHUNKED = (2, 3)
_LAYERED = 3
_LAYERS = {10: 9, 11: 1, 12: 2, 13: 1}  # by kind of item: point, colours, colours and infrared, waveform
_WAVEFORM_LAYERS = (9, 10)
"""Point formats whose waveform fields lazrs 0.8 does not give back as they were compressed."""
_EXTRA_BYTES = 14  # a layer for each byte
_ANY_CHUNK_SIZE = 0xFFFFFFFF
_LARGE_CHUNK = 1 << 20
"""A chunk of more points than this is refused if the file has fewer points than the chunk. The decompressor allocates a
whole chunk, and if it cannot, the process ends."""

IDENTIFIERS = slice(26, 94)
"""The bytes of a LAS header that hold system, software, day and year."""

SHOWN = ("intensity", "return_number", "number_of_returns")
"""Dimensions whose mean over a grid cell has a meaning. The others are kept for the original points only."""

_ERRORS = "surrogateescape"
"""How texts of a header are decoded: bytes that are not in the encoding of the header are written as they were read."""

_REMEDY = "fetch the file again, or repair it with a LAS tool"


def find(root: Path, options: Options) -> list[Source]:
    """Each `.las` or `.laz` file is one scene, and so is each folder with an `ept.json`, whatever number of files it
    has."""
    tops = [root] if root.name == _EPT else [root / _EPT, *root.rglob(_EPT)] if root.is_dir() else []
    octrees = {path.parent: path for path in tops if path.is_file()}
    loose = [
        replace(source, name=source.name.removesuffix(COPC))
        for source in files.loose_files(root, {".las", ".laz"})
        if octrees.keys().isdisjoint(source.path.parents)
    ]
    return files.in_order([*loose, *(_octree(folder, path, root) for folder, path in octrees.items())])


def _octree(folder: Path, path: Path, root: Path) -> Source:
    inside = root.is_dir() and folder != root
    name = folder.relative_to(root).as_posix() if inside else folder.absolute().name
    return Source(name, path, tuple(sorted((folder / "ept-data").glob("*.laz"))), ".laz")


def count(source: Source) -> int | None:
    """The number of points in the header."""
    try:
        if source.path.name == _EPT:
            return _described(source.path)[0]
        head = _head(source.path, 255)
    except (OSError, HpalError):
        return None
    if head[:4] != b"LASF" or len(head) < 255:
        return None
    return _integer(head[247:255], "<Q") if head[24:26] >= b"\x01\x04" else _integer(head[107:111], "<I")


def read(source: Source, options: Options) -> Iterator[Cloud]:
    """The points, a million at a time. xyz are computed in float64, so that no precision of the file is lost. Classes 0
    and 1 become -1.

    All dimensions are kept, the colours and classes also as they are in the file (for the original points only), and so
    are the header and its records.

    Raises:
        HpalError: anything is wrong with the file; also a panic of the decompressor is raised as this error.
    """
    if source.path.name == _EPT:
        yield from _read_octree(source)
    else:
        yield from _read_file(source.path)


def _read_file(path: Path) -> Iterator[Cloud]:
    with opened(path) as reader:
        header = reader.header
        seen = 0
        prelude: bytes | None = _empty_file(reader, path)
        for chunk in reader.chunk_iterator(CHUNK):
            seen += len(chunk)
            cloud = _cloud(header, chunk)
            if prelude is not None and header.are_points_compressed and header.point_format.id in _WAVEFORM_LAYERS:
                cloud.notes.append("the fields of its waveforms may be wrong: lazrs has an error there")
            if prelude is not None and copc.info(prelude) is None and copc.info(_head(path, copc.INFO_END)) is not None:
                cloud.notes.append("its octree is not that of its points: results are written as plain LAZ")
            cloud.las_header, prelude = prelude, None
            yield cloud
        if seen != header.point_count:
            raise HpalError(path, f"holds {seen} of the {header.point_count} points it promises", _REMEDY)


def _read_octree(source: Source) -> Iterator[Cloud]:
    """The points of all nodes of an EPT, in the order of the nodes' names. The header is that of the first node."""
    expected, unit = _described(source.path)
    first, given = True, 0
    for node in source.beside:
        for cloud in _read_file(node):
            cloud.las_header = cloud.las_header if first else None
            cloud.unit = cloud.unit if cloud.unit is not None else unit
            first = False
            given += len(cloud.xyz)
            yield cloud
    if given != expected:
        problem = f"promises {expected:,} points, and the files in ept-data hold {given:,}"
        raise HpalError(source.path, problem, "fetch the whole folder again")


def _described(path: Path) -> tuple[int, float | None]:
    """Reads an ept.json: the number of points, and metres in one unit, None if it does not say.

    Raises:
        HpalError: it is damaged, or the points are not LAZ.
    """
    try:
        about = json.loads(path.read_bytes())
        points, kind = int(about["points"]), about["dataType"]
        wkt = about.get("srs", {}).get("wkt")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise HpalError(path, f"cannot be read as an EPT ({error!r})", "fetch the whole folder again") from error
    if kind != "laszip":
        raise HpalError(path, f"holds points as {kind}, and only laszip is read", "convert it to LAZ with PDAL")
    return points, unit_of_wkt(wkt) if isinstance(wkt, str) else None


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """Opens a file with laspy's reader, after checking the header and the chunks, on which the decompressor relies.

    Raises:
        HpalError: anything is wrong with the file; errors within the block, too, become this error.
    """
    with _named(path):
        check_records(_head(path, copc.HEADER), path.stat().st_size, path)
        import laspy

        with laspy.open(path) as reader:
            _check_size(path, reader.header)
            yield reader


def _empty_file(reader: Any, path: Path) -> bytes:
    """The file's header and records, with no points, as LAS. The records that make a COPC are left out, since they say
    where its bytes are. Only the info VLR and one list of all nodes are written in their place, if the octree is that
    of the points."""
    import laspy
    from laspy.vlrs.vlrlist import VLRList

    header = copy.deepcopy(reader.header)
    info, nodes = _octree_of(header, path)
    header.vlrs[:] = [record for record in header.vlrs if record.user_id != copc.USER]
    evlrs = [record for record in reader.evlrs or () if record.user_id != copc.USER]
    if nodes is not None:
        header.vlrs.insert(0, laspy.VLR(copc.USER, copc.INFO, "", info))
        evlrs.append(laspy.VLR(copc.USER, copc.HIERARCHY, "", nodes.tobytes()))
    buffer = io.BytesIO()
    how = {"do_compress": False, "closefd": False, "encoding_errors": _ERRORS}
    with laspy.open(buffer, mode="w", header=header, **how) as writer:
        if evlrs:
            writer.write_evlrs(VLRList(evlrs))
    made = bytearray(buffer.getvalue())
    # laspy takes a date of zero for today.
    made[IDENTIFIERS] = _head(path, IDENTIFIERS.stop)[IDENTIFIERS]
    return bytes(made)


def _head(path: Path, size: int) -> bytes:
    with path.open("rb") as file:
        return file.read(size)


def _octree_of(header: Any, path: Path) -> tuple[bytes, NDArray[np.void] | None]:
    """The data of a COPC's info VLR, and its nodes. The nodes are None if the file is no COPC, or if they are not those
    of its points."""
    import lazrs

    info = copc.info(_head(path, copc.INFO_END))
    with path.open("rb") as file:
        laz = next((vlr.record_data_bytes() for vlr in header.vlrs if vlr.user_id == "laszip encoded"), None)
        if info is None or laz is None or header.point_format.id not in copc.POINT_FORMATS:
            return b"", None
        file.seek(header.offset_to_point_data)
        chunks = [points for points, _ in lazrs.read_chunk_table(file, lazrs.LazVlr(laz)) or ()]
        return info, copc.nodes(file, path.stat().st_size, info, chunks)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Turns all errors within the block into an `HpalError` that names the file."""
    try:
        yield
    except (HpalError, OSError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    # A panic of the decompressor, which is written in Rust, is not an Exception.
    except BaseException as error:
        raise HpalError(path, f"cannot be read as LAS/LAZ ({first_line(error)})", _REMEDY) from error


def check_records(head: bytes, size: int, path: object) -> None:
    """Refuses impossible numbers of header records, for which laspy would make empty records without end.

    head: the first `copc.HEADER` bytes of a file of `size` bytes; path: for messages.

    Raises:
        HpalError: the file is no LAS file, or too small for its number of records.
    """
    if head[:4] != b"LASF" or len(head) < 227:
        raise HpalError(path, "is not a LAS or LAZ file", _REMEDY)
    header_size, start, records = struct.unpack_from("<HII", head, 94)
    if not header_size + copc.RECORD * records <= start <= size:
        raise HpalError(path, f"the header promises {records} records before byte {start}, of {size}", _REMEDY)
    if head[24:26] >= b"\x01\x04" and len(head) >= 247:
        extended_start, extended = struct.unpack_from(copc.EVLRS, head, copc.EVLRS_AT)
        if extended and extended_start + copc.EXTENDED_RECORD * extended > size:
            raise HpalError(path, f"the header promises {extended} records after the points", _REMEDY)


def _check_size(path: Path, header: Any) -> None:
    """Checks that the file can hold its points, before memory is allocated for them and before the decompressor could
    panic or abort.

    Raises:
        HpalError: the file is too small, or its compression is damaged or unknown.
    """
    size, start, row = path.stat().st_size, header.offset_to_point_data, header.point_format.size
    if not header.are_points_compressed:
        if start + header.point_count * row > size:
            held = max(0, size - start) // row
            raise HpalError(path, f"holds {held} of the {header.point_count} points it promises", _REMEDY)
        return
    record = next((vlr.record_data_bytes() for vlr in header.vlrs if vlr.user_id == "laszip encoded"), b"")
    compressor, chunk_size = _integer(record[:2], "<H"), _integer(record[12:16], "<I")
    if compressor not in _CHUNKED:
        raise HpalError(path, f"is compressed in a way that cannot be read (LAZ compressor {compressor})", _REMEDY)
    if chunk_size != _ANY_CHUNK_SIZE and chunk_size > max(header.point_count, _LARGE_CHUNK):
        raise HpalError(path, f"the LAZ header asks for chunks of {chunk_size} points", _REMEDY)
    items = list(struct.iter_unpack("<HHH", record[34 : 34 + 6 * _integer(record[32:34], "<H")]))
    if sum(size for _, size, _ in items) != row:
        raise HpalError(path, f"the LAZ header describes no points of {row} bytes", _REMEDY)
    end, lengths = size, None
    with path.open("rb") as file:
        file.seek(start)
        table = _integer(file.read(8), "<q")
        if table == -1:  # written to a pipe: the position comes last
            file.seek(max(start, size - 8))
            table = _integer(file.read(8), "<q")
        if start + 8 <= table <= size - 8:
            end = table
            file.seek(table + 4)
            chunks = _integer(file.read(4), "<I")
            # Each chunk begins with a whole point.
            if chunks * row > table - start:
                raise HpalError(path, f"the LAZ chunk table promises {chunks} chunks, more than fit", _REMEDY)
            lengths = _chunk_lengths(path, file, start, table, record)
        elif chunk_size == _ANY_CHUNK_SIZE:
            raise HpalError(path, "the LAZ chunk table is missing, and the chunks differ in size", _REMEDY)
        if compressor == _LAYERED:
            layers = sum(size if kind == _EXTRA_BYTES else _LAYERS.get(kind, 0) for kind, size, _ in items)
            _check_layers(path, file, (start + 8, end), header, layers, lengths)


def _chunk_lengths(path: Path, file: BinaryIO, start: int, table: int, record: bytes) -> list[int]:
    """The bytes of each chunk, from the chunk table."""
    import lazrs

    file.seek(start)
    lengths = [length for _, length in lazrs.read_chunk_table(file, lazrs.LazVlr(record)) or ()]
    if any(not 0 <= length <= table for length in lengths) or sum(lengths) > table - start - 8:
        raise HpalError(path, "the LAZ chunk table promises more bytes than there are", _REMEDY)
    return lengths


def _check_layers(
    path: Path, file: BinaryIO, span: tuple[int, int], header: Any, layers: int, lengths: list[int] | None
) -> None:
    """Checks the lengths of the layers at the beginning of each chunk, because the decompressor allocates as much
    memory as they say."""
    row, points, (at, end) = header.point_format.size, 0, span
    expected = iter(lengths or ())
    while points < header.point_count:
        file.seek(at + row)
        head = file.read(4 * (1 + layers))
        if len(head) < 4 * (1 + layers):
            raise HpalError(path, f"holds {points} of the {header.point_count} points it promises", _REMEDY)
        count, *sizes = struct.unpack(f"<{1 + layers}I", head)
        length = row + len(head) + sum(sizes)
        at += length
        if at > end or count == 0 or next(expected, length) != length:
            raise HpalError(path, f"the LAZ chunk from point {points} promises other bytes than there are", _REMEDY)
        points += count


def _integer(data: bytes, kind: str) -> int:
    return int(struct.unpack(kind, data)[0]) if len(data) == struct.calcsize(kind) else 0


def _cloud(header: Any, chunk: Any) -> Cloud:
    names = list(header.point_format.dimension_names)
    with np.errstate(over="ignore", invalid="ignore"):  # such points are left out later
        xyz = np.column_stack([np.asarray(chunk[axis], np.float64) for axis in "xyz"])
    made = Cloud(xyz, unit=_unit(header))
    if {"red", "green", "blue"} <= set(names):
        made.rgb = np.column_stack([np.asarray(chunk[name]) for name in ("red", "green", "blue")])
    codes = np.asarray(chunk["classification"]).astype(np.int64)
    made.label = np.where(np.isin(codes, UNCLASSIFIED), IGNORE, codes)
    shown = {*SHOWN, *header.point_format.extra_dimension_names}
    for name in names:
        if name in ("X", "Y", "Z"):
            continue
        values = np.asarray(chunk[name])
        several = {f"{name}_{n}": values[:, n] for n in range(values.shape[1])} if values.ndim > 1 else {name: values}
        columns = made.attributes if name in shown else made.carried
        columns |= {name: native(column) for name, column in several.items()}
    return made


def _unit(header: Any) -> float | None:
    """Metres in one unit of x and y, from the coordinate system of the file; None if that does not say."""
    records = [*header.vlrs, *(header.evlrs or ())]
    for record in records:
        text = getattr(record, "string", None)
        if isinstance(text, str) and (unit := unit_of_wkt(text)) is not None:
            return unit
    for record in records:
        unit = unit_of_geokeys((key.id, key.value_offset) for key in getattr(record, "geo_keys", ()))
        if unit is not None:
            return unit
    return None


def unit_of_wkt(text: str) -> float | None:
    """Metres in one unit of a projected (or local) system in WKT 1 or 2; None for degrees."""
    begin = re.search(r"\b(?:PROJCS|PROJCRS|PROJECTEDCRS|LOCAL_CS|ENGCRS)\s*[\[(]", text)
    if begin is None:
        return None
    # The text of the horizontal system ends at its closing bracket: the unit of the vertical one must not be taken.
    depth, quoted, end = 0, False, len(text)
    for n in range(begin.start(), len(text)):
        if text[n] == '"':
            quoted = not quoted
        elif not quoted and text[n] in "[(":
            depth += 1
        elif not quoted and text[n] in "])":
            depth -= 1
            if depth == 0:
                end = n
                break
    # The units of the ellipsoid and of the parameters come first, that of the system itself is the last.
    units = re.findall(
        r'\b(?:LENGTH)?UNIT\s*[\[(]\s*"([^"]*)"\s*,\s*([0-9.]+(?:[eE][+-]?\d+)?)', text[begin.start() : end]
    )
    if not units or "degree" in units[-1][0].casefold():
        return None
    metres = float(units[-1][1])
    return metres if metres > 0 else None


def unit_of_geokeys(keys: Iterable[tuple[int, int]]) -> float | None:
    """Metres in one unit, from (key, value) pairs of a GeoTIFF key directory."""
    return next((_METRES.get(value) for key, value in keys if key == _LINEAR_UNITS_KEY), None)
