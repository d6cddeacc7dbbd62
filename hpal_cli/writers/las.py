"""Writes LAS files: new ones for any cloud, and copies of files that were read, with a class for every point and
everything else unchanged."""

from __future__ import annotations

import contextlib
import io
import itertools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hpal_cli import readers
from hpal_cli.classes import ClassTable
from hpal_cli.errors import HpalError
from hpal_cli.readers import copc
from hpal_cli.readers.las import IDENTIFIERS, SHOWN, check_records
from hpal_cli.scenes.store import Points

if TYPE_CHECKING:
    from hpal_cli.writers.cloud import Blocks

FIRST_USER_CLASS = 64
"""ASPRS gives 0 and 1 the meaning "not classified", and 2 .. 63 meanings of its own."""

UNCLASSIFIED = 1

MAX_NAME_BYTES = 32
"""Bytes in the name of an extra dimension, at most."""

MILLIMETRE = 1e-3

_SCALE_FACTOR = 1e-5
"""Scale factor of a new file, in its unit, unless the cloud is too large for it: `hpal prep` keeps positions at least
this accurately."""

_STEPS = (1 << 31) - 1

_WIDER = {0: 6, 1: 6, 2: 7, 3: 7, 4: 9, 5: 10}
"""Point formats whose classes have 5 bits -> the point format with the same dimensions whose classes have 8 bits."""

_WAVEFORMS = (4, 5, 9, 10)
"""Point formats with waveforms. lazrs 0.8 compresses those of 9 and 10 wrongly, without an error, and files of 4 and 5
may have to be written as 9 or 10."""

_POINT_FORMAT = 104
"""The byte of a header with the point format, whose two highest bits are set in LAZ files."""

_NO_FIELDS = ("X", "Y", "Z", "red", "green", "blue", "classification", "scan_angle")
"""Dimensions that are not filled from a field of the same name: they have another source, or a unit of their own."""

_RANK = 0.006
"""Degrees in one unit of `scan_angle`, which formats with 8-bit classes have instead of `scan_angle_rank` in whole
degrees."""

_TOLERANCE = 0.26
"""Largest distance of a position from a multiple of the scale factor, as a share of the scale factor. `hpal prep` keeps
positions to a quarter of it, so a position that is farther away is not from this file."""


def codes(classes: ClassTable, *, own: bool) -> NDArray[np.int64]:
    """(C,) the number of each class in LAS files: `las` if the table has it; else `code`, if the scenes came from LAS
    (`own`) and the codes can be LAS numbers; else id + 64, or the next number that is free. Codes of a table that has 0
    or 1 among them are not used, because in LAS files these mean "not classified"."""
    read = classes.numbers(las=True)
    own = own and read.keys().isdisjoint(readers.las.UNCLASSIFIED)
    given = {c.id: c.las for c in classes if c.las is not None}
    if own:
        given |= {c.id: c.code for c in classes if c.las is None and c.code is not None and read.get(c.code) == c.id}
    free = (number for number in itertools.count(FIRST_USER_CLASS + len(classes)) if number not in given.values())
    for c in classes:
        if c.id not in given:
            usual = c.id + FIRST_USER_CLASS
            given[c.id] = next(free) if usual in given.values() else usual
    return np.array([given[c.id] for c in classes], np.int64)


def compressible(template: bytes) -> bool:
    """Whether LAZ keeps all fields of this LAS file as they are. template: an empty LAS file with its header and
    records."""
    return template[_POINT_FORMAT] & 0x3F not in _WAVEFORMS


def snapped(template: bytes, position: NDArray[np.float64], subject: object) -> tuple[NDArray[np.float64], float]:
    """(N, 3) the positions rounded to multiples of the scale factors of the LAS file that they came from, with the same
    bits as any reader computes; and the smallest of the scale factors.

    Raises:
        HpalError: the template is no LAS header.
    """
    header, _ = _opened(template, subject)
    scales, offsets = np.array(header.scales), np.array(header.offsets)
    return np.rint((position - offsets) / scales) * scales + offsets, float(scales.min())


def write_new(
    blocks: Blocks, file: IO[bytes], subject: Path, *, compress: bool, written: Callable[[int], None]
) -> None:
    """Writes LAS 1.4, point format 7. Fields that are dimensions of this format are written as these if their numbers
    fit, all others as extra bytes. Scale factors are 0.00001 units, or for large clouds as small as 32 bits allow.

    Raises:
        HpalError: a class number is above 255, or the cloud is so large that the scale factor would be more than a
            millimetre.
    """
    import laspy

    header = laspy.LasHeader(version="1.4", point_format=7)
    # The specification requires this bit for these formats. Without it PDAL complains, even if there is no coordinate
    # system.
    header.global_encoding.wkt = True
    standard = {d.name: d for d in header.point_format.dimensions if d.name not in _NO_FIELDS}
    low, high = np.full(3, np.inf), np.full(3, -np.inf)
    kinds: dict[str, np.dtype[Any]] = {}
    fits: dict[str, bool] = {}
    unit = 1.0
    for cloud in blocks():
        unit = cloud.unit
        if len(cloud.position):
            low, high = np.minimum(low, cloud.position.min(axis=0)), np.maximum(high, cloud.position.max(axis=0))
        for name, values in cloud.fields.items():
            if name != cloud.class_field:
                kinds[name] = values.dtype
                fits[name] = fits.get(name, True) and name in standard and _holds(standard[name], values)
    if not np.isfinite(low).all():
        low = high = np.zeros(3)
    header.offsets = np.floor(low)
    header.scales = np.full(3, _step(float((high - header.offsets).max()), unit, subject))
    taken = {d.name for d in header.point_format.dimensions}
    extra: dict[str, str] = {}
    for name, kind in kinds.items():
        if not fits[name]:
            extra[name] = _free_name(name, taken)
            header.add_extra_dim(laspy.ExtraBytesParams(name=extra[name], type=_extra_type(kind)))
    _describe_extra(header, [], None)
    with laspy.open(file, mode="w", header=header, do_compress=compress, closefd=False) as writer:
        for cloud in blocks():
            rows = laspy.ScaleAwarePointRecord.zeros(len(cloud.position), header=header)
            _place(rows, header, cloud.position, subject)
            if cloud.rgb is not None:
                rows["red"], rows["green"], rows["blue"] = cloud.rgb.T.astype(np.uint16) * 257
            for name, values in cloud.fields.items():
                if name == cloud.class_field:
                    ids = np.asarray(values, np.int64)
                    table = cloud.las_codes
                    if table is None:
                        table = np.arange(ids.max(initial=0) + 1) + FIRST_USER_CLASS
                    rows["classification"] = _classification(ids, table, subject)
                elif name in extra:
                    rows[extra[name]] = values
                else:
                    # The grid turns integers into means, which are floats, and bit fields accept no floats.
                    rows[name] = values.astype(rows[name].dtype)
            writer.write_points(rows)
            written(len(rows))


def write_like(
    template: bytes,
    blocks: Iterator[tuple[Points, Mapping[str, NDArray[Any]]]],
    file: IO[bytes],
    subject: Path,
    *,
    compress: bool,
    table: NDArray[np.int64] | None,
    colors: NDArray[np.uint8] | None,
    written: Callable[[int], None],
) -> None:
    """Writes the LAS file from which the points were read, with `classification` set from the field `class`, and with
    all fields as extra bytes.

    Version, scale factors, offsets, records, identifiers and all other dimensions stay as they were, and so does the
    point format, unless its classes have 5 bits and the table needs more. A dimension that has the name of a field
    becomes `original_<name>`, and so does `classification` if a point had a class.

    Args:
        template: an empty LAS file with the header and the records.
        blocks: pairs of points with all columns that were read, and of fields, each (N,).
        compress: write LAZ.
        table: (C,) LAS class of each class id; None: `classification` stays as it was.
        colors: (C + 1, 3) colours of the classes and of points without a class; the colours of the file are then kept
            as `scan_r`, `scan_g` and `scan_b`. None: the colours stay.

    Raises:
        HpalError: a class number is above 255, positions or columns are not those of the file, or colours are given and
            the point format has none.
    """
    import laspy

    if compress and not compressible(template):
        raise HpalError(subject, "LAZ would spoil the waveform fields of its points", "write las instead")
    header, evlrs = _opened(template, subject)
    columns = _stored_names(header.point_format)
    if colors is not None:
        _require_colours(columns, subject)
    if table is not None and int(table.max()) > 31 and header.point_format.id in _WIDER:
        _widen(header, evlrs)
    names: dict[str, str] = {}
    with contextlib.ExitStack() as stack:
        writer = None
        for points, fields in blocks:
            ids = np.asarray(fields["class"], np.int64) if "class" in fields else np.full(len(points.xyz), -1)
            added = _added(points, fields, columns, colors is not None, table is not None, subject)
            if writer is None:
                names = _add(header, columns, added)
                made = laspy.open(
                    file, mode="w", header=header, do_compress=compress, closefd=False, encoding_errors="ignore"
                )
                writer = stack.enter_context(made)
            rows = laspy.ScaleAwarePointRecord.zeros(len(ids), header=header)
            _place(rows, header, points.position, subject, tolerance=_TOLERANCE)
            for name, stored in columns.items():
                _put(rows, name, [_column(points, column, subject) for column in stored])
            for name, values in added.items():
                rows.array[names[name]] = values
            if table is not None:
                rows["classification"] = _classification(ids, table, subject)
            if colors is not None:
                rows["red"], rows["green"], rows["blue"] = colors[ids].T.astype(np.uint16) * 257
            writer.write_points(rows)
            written(len(rows))
        if writer is not None and evlrs:
            writer.write_evlrs(evlrs)
    # laspy cannot write an empty date, so the identifiers are copied as bytes.
    file.seek(IDENTIFIERS.start)
    file.write(template[IDENTIFIERS])


def require_colours(template: bytes, subject: object) -> None:
    """Raises:
    HpalError: the point format of this LAS header has none.
    """
    _require_colours(_stored_names(_opened(template, subject)[0].point_format), subject)


def _require_colours(columns: Mapping[str, list[str]], subject: object) -> None:
    if "red" not in columns:
        raise HpalError(subject, "its point format has no colours", "leave --color class out")


def _opened(template: bytes, subject: object) -> tuple[Any, Any]:
    """The header of the template and its records after the points, both without the records of a COPC.

    Raises:
        HpalError: it is no LAS header.
    """
    import laspy
    from laspy.vlrs.vlrlist import VLRList

    try:
        check_records(template[:375], len(template), subject)
        with laspy.open(io.BytesIO(template)) as reader:
            scales = np.array(reader.header.scales)
            if not (np.isfinite(scales) & (scales > 0)).all():
                raise ValueError(f"its steps are {', '.join(map(str, scales))}")
            header, evlrs = reader.header, reader.evlrs
            header.vlrs[:] = [record for record in header.vlrs if record.user_id != copc.USER]
            return header, evlrs and VLRList(record for record in evlrs if record.user_id != copc.USER)
    # laspy raises whatever its parts do.
    except Exception as error:
        why = error.problem if isinstance(error, HpalError) else error
        raise HpalError(subject, f"its LAS header cannot be read ({why})", "run `hpal prep` again") from error


def _added(
    points: Points,
    fields: Mapping[str, NDArray[Any]],
    columns: Mapping[str, list[str]],
    colored: bool,
    classed: bool,
    subject: Path,
) -> dict[str, NDArray[Any]]:
    """The columns (N,) that the file gets in addition to its own dimensions."""
    # Two bytes are enough for ids, which are below 1024; four would be a fifth of the bytes of a small point format.
    added = {name: v.astype(np.int16) if name in ("class", "truth") else v for name, v in fields.items()}
    if classed and points.label is not None:
        added["original_classification"] = _column(points, "classification", subject)
    if colored:
        added |= {f"scan_{channel[0]}": _column(points, channel, subject) for channel in ("red", "green", "blue")}
    own = {column for stored in columns.values() for column in stored}
    return added | {name: values for name, values in points.attributes.items() if name not in own}


def _add(header: Any, columns: dict[str, list[str]], added: Mapping[str, NDArray[Any]]) -> dict[str, str]:
    """Adds extra bytes to the header for the columns `added`. Dimensions that have such a name already are renamed, in
    `columns` too. Returns the names of the extra bytes by the names in `added`."""
    import laspy

    dimensions = header.point_format.dimensions
    taken = {d.name for d in dimensions}
    at = _extra_record(header)
    described = [] if at is None else header.vlrs[at].extra_bytes_structs
    for n, dimension in enumerate(dimensions):
        if not dimension.is_standard and dimension.name in added:
            new = _free_name(f"original_{dimension.name}", taken)
            for record in described:
                if record.format_name() == dimension.name:
                    record.name = new.encode()
            columns[new] = columns.pop(dimension.name)
            dimensions[n] = dimension._replace(name=new)
            taken.discard(dimension.name)
    names = {name: _free_name(name, taken) for name in added}
    if names:
        header.add_extra_dims(
            [laspy.ExtraBytesParams(name=names[n], type=_extra_type(v.dtype)) for n, v in added.items()]
        )
    _describe_extra(header, described, at)
    return names


def _extra_record(header: Any) -> int | None:
    """The index of the record that describes the extra bytes, None if there is none."""
    kinds = [type(record).__name__ for record in header.vlrs]
    return kinds.index("ExtraBytesVlr") if "ExtraBytesVlr" in kinds else None


def _describe_extra(header: Any, described: list[Any], place: int | None) -> None:
    """Replaces the record of the extra bytes that laspy has made. The new record begins with the entries `described`,
    as they were read, and is at the index `place`, or at laspy's if that is None.

    laspy describes all extra bytes anew and drops what it does not use itself. It also takes the value of the first
    point of a block for the minimum and maximum, so the new record has neither.
    """
    import laspy

    at = _extra_record(header)
    if at is None:
        return
    record = header.vlrs.pop(at)
    rows = [*described, *record.extra_bytes_structs[len(described) :]]
    for row in rows:
        if row.data_type:
            row.options &= ~(row.MIN_BIT_MASK | row.MAX_BIT_MASK)
            row._min, row._max = type(row._min)(), type(row._max)()
    # A record of plain bytes is not changed by laspy.
    plain = laspy.VLR("LASF_Spec", 4, "Extra Bytes Record", b"".join(bytes(row) for row in rows))
    header.vlrs.insert(at if place is None else place, plain)


def _widen(header: Any, evlrs: Any) -> None:
    """Changes the header to LAS 1.4 and to the point format with the same dimensions whose classes have 8 bits."""
    import laspy

    extra = list(header.point_format.extra_dimensions)
    wider = laspy.PointFormat(_WIDER[header.point_format.id])
    wider.dimensions.extend(extra)
    # The setters of laspy are avoided, because they describe the extra bytes anew.
    header._version = max(header.version, laspy.header.Version(1, 4))
    header._point_format = wider
    # In these formats the coordinate system must be WKT. Without this bit, readers use the GeoTIFF records.
    if any(type(record).__name__ == "WktCoordinateSystemVlr" for record in (*header.vlrs, *(evlrs or ()))):
        header.global_encoding.wkt = True


def _put(rows: Any, name: str, stored: list[NDArray[Any]]) -> None:
    """Sets a dimension to the numbers that were read from it."""
    if name == "scan_angle_rank" and name not in rows.point_format.dimension_names:
        rows.array["scan_angle"] = np.rint(stored[0] / _RANK)
        return
    dimension = rows.point_format.dimension_by_name(name)
    if len(stored) > 1 or dimension.is_scaled:
        values = np.column_stack(stored)
        if dimension.is_scaled:
            values = np.rint((values - dimension.offsets) / dimension.scales)
        rows.array[name] = values.reshape(rows.array[name].shape)
    else:
        rows[name] = stored[0]


def _column(points: Points, name: str, subject: Path) -> NDArray[Any]:
    if name not in points.attributes:
        raise HpalError(
            subject, f"the scenes store has no {name}, which its LAS header promises", "run `hpal prep` again"
        )
    return points.attributes[name]


def _place(
    rows: Any, header: Any, position: NDArray[np.float64], subject: Path, *, tolerance: float | None = None
) -> None:
    """Sets X, Y and Z of the rows from their positions (N, 3).

    tolerance: largest distance of a position from a multiple of the scale factor, as a share of the scale factor; None
    for any, as in new files.

    Raises:
        HpalError: a position is out of the range of the header, or beyond the tolerance.
    """
    steps = (position - header.offsets) / header.scales
    whole = np.rint(steps)
    if np.abs(whole).max(initial=0) > _STEPS or (
        tolerance is not None and np.abs(steps - whole).max(initial=0) > tolerance
    ):
        scale = " x ".join(f"{s:g}" for s in header.scales)
        raise HpalError(
            subject, f"its positions are not those of its LAS header (steps of {scale})", "write PLY (--format ply)"
        )
    rows.array["X"], rows.array["Y"], rows.array["Z"] = whole.T


def require_classes(table: NDArray[np.int64], subject: object) -> None:
    """Raises:
    HpalError: a LAS class beyond 255.
    """
    if int(table.max(initial=0)) > 255 or int(table.min(initial=0)) < 0:
        raise HpalError(
            subject,
            f"LAS numbers classes 0 to 255, and one would get {int(table.max())}",
            "write PLY (--format ply), or give each class its `las` number in the file for --classes",
        )


def _classification(ids: NDArray[np.int64], table: NDArray[np.int64], subject: Path) -> NDArray[np.uint8]:
    """(N,) class ids, -1 for none -> (N,) LAS classes. table: (C,) LAS class of each class id.

    Raises:
        HpalError: a LAS class is above 255.
    """
    require_classes(table, subject)
    return np.append(table, UNCLASSIFIED)[np.where(ids >= 0, ids, len(table))].astype(np.uint8)


def _step(span: float, unit: float, subject: Path) -> float:
    """The scale factor of a new file: the smallest power of ten with which 32 bits are enough for the cloud. span: its
    longest edge; unit: metres in one unit.

    Raises:
        HpalError: it would be more than a millimetre.
    """
    millimetre = MILLIMETRE / unit
    step = min(_SCALE_FACTOR, 10.0 ** np.floor(np.log10(millimetre)))
    while span / step > _STEPS:
        step *= 10
    if step > millimetre * (1 + 1e-9):
        raise HpalError(
            subject, f"is {span:g} units long, too much for LAS to keep millimetres", "write PLY (--format ply)"
        )
    return float(step)


def _holds(dimension: Any, values: NDArray[np.generic]) -> bool:
    """Whether a standard dimension can hold these numbers without changing them."""
    if dimension.dtype is not None and dimension.dtype.kind == "f":
        return bool(np.can_cast(values.dtype, dimension.dtype))
    if not values.size:
        return True
    return bool((values == np.rint(values)).all() and values.min() >= dimension.min and values.max() <= dimension.max)


def _extra_type(kind: np.dtype[Any]) -> np.dtype[Any]:
    """The type that LAS has for numbers of this type."""
    if kind.kind == "b":
        return np.dtype(np.uint8)
    return np.dtype(np.float32) if kind == np.float16 else kind.newbyteorder("<")


def _free_name(name: str, taken: set[str]) -> str:
    """Makes a name for extra bytes: `name`, cut to the length that LAS allows, with a number if that name is taken. The
    result is added to `taken`."""
    short, n = _cut(name, MAX_NAME_BYTES), 1
    while short in taken:
        n += 1
        short = f"{_cut(name, MAX_NAME_BYTES - len(str(n)) - 1)}_{n}"
    taken.add(short)
    return short


def _cut(name: str, size: int) -> str:
    return name.encode()[:size].decode(errors="ignore")


def _stored_names(point_format: Any) -> dict[str, list[str]]:
    """The dimensions of a point format -> the columns of the scene that hold each: one column for each element of an
    array, all under safe names."""
    displayed: dict[str, str] = {}
    carried: dict[str, str] = {}
    for dimension in point_format.dimensions:
        if dimension.name not in ("X", "Y", "Z"):
            group = carried if dimension.is_standard and dimension.name not in SHOWN else displayed
            several = dimension.num_elements > 1
            for n in range(dimension.num_elements):
                group[f"{dimension.name}_{n}" if several else dimension.name] = dimension.name
    for columns in (displayed, carried):
        readers.rename_safely(columns, {**displayed, **carried})
    names: dict[str, list[str]] = {}
    for column, dimension in {**displayed, **carried}.items():
        names.setdefault(dimension, []).append(column)
    return names
