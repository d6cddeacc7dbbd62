"""Writes LAS files: new ones for any cloud, and files that were read, with a class for every point and all else
unchanged."""

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

LONGEST_NAME = 32
"""Bytes, of an extra dimension's name."""

MILLIMETRE = 1e-3

_FINEST = 1e-5
"""Steps of a new file, in its unit: what prep keeps of a position at least."""

_STEPS = (1 << 31) - 1

_WIDER = {0: 6, 1: 6, 2: 7, 3: 7, 4: 9, 5: 10}
"""The point formats whose classes have 5 bits, and what holds all of them with 8."""

_WAVEFORMS = (4, 5, 9, 10)
"""The point formats with the place of a waveform. lazrs 0.8 compresses those of 9 and 10 wrongly, without a word, and
4 and 5 may have to become these."""

_POINT_FORMAT = 104
"""The byte of a header, with the two highest bits for LAZ."""

_NO_FIELDS = ("X", "Y", "Z", "red", "green", "blue", "classification", "scan_angle")
"""Dimensions that no field of the same name is for: they come from elsewhere, or have a unit of their own."""

_RANK = 0.006
"""Degrees in a step of `scan_angle`, which the wider formats have for the whole degrees of `scan_angle_rank`."""

_OFF = 0.26
"""Of a step: prep keeps positions to a quarter of one, so what lies further off is not the file's."""


def codes(classes: ClassTable, *, own: bool) -> NDArray[np.int64]:
    """(C,) the classes' numbers in LAS files: `las` where the table has it, else `code` if the scenes came from LAS
    (`own`) and these can be LAS's, else id + 64 or, if that is taken, the next. A table with a code 0 or 1 is not
    numbered as LAS files are: there they mean "not classified"."""
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
    """Whether all fields of this LAS file come back from LAZ as they were."""
    return template[_POINT_FORMAT] & 0x3F not in _WAVEFORMS


def snapped(template: bytes, position: NDArray[np.float64], subject: object) -> tuple[NDArray[np.float64], float]:
    """Positions (N, 3) on the steps of the LAS file that they came from, just as any reader computes them; and the
    smallest of these steps.

    Raises:
        HpalError: the template is no LAS header.
    """
    header, _ = _opened(template, subject)
    scales, offsets = np.array(header.scales), np.array(header.offsets)
    return np.rint((position - offsets) / scales) * scales + offsets, float(scales.min())


def write_new(
    blocks: Blocks, file: IO[bytes], subject: Path, *, compress: bool, written: Callable[[int], None]
) -> None:
    """LAS 1.4, point format 7: fields that LAS knows in their place if they fit, the others as extra bytes.

    Steps are 0.00001 units, or for large clouds as fine as 32 bits allow.

    Raises:
        HpalError: a class number beyond 255, or a cloud so large that a step would be more than a millimetre.
    """
    import laspy

    header = laspy.LasHeader(version="1.4", point_format=7)
    # These formats are to say that their coordinate system is WKT, even where there is none: PDAL complains else.
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
                    # The grid averages what came as whole numbers, and bit fields take no floats.
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
    """The LAS file that the points were read from, with `classification` by the field `class`, and all fields as extra
    bytes.

    Version, scales, offsets, records, identifiers and every other dimension stay as they were; the point format too,
    unless its classes have 5 bits and the table needs more. What the file has under a field's name already becomes
    `original_<name>`, and so does `classification` where a point had a class.

    Args:
        template: an empty LAS file with the header and the records.
        compress: write LAZ.
        blocks: points with all columns that were read, and (N,) fields of theirs.
        table: (C,) class id -> LAS class; None: `classification` stays as it was, too.
        colors: (C + 1, 3) of the classes and of none, then the file's own go to `scan_r`, `scan_g` and `scan_b`; None:
            the colours stay.

    Raises:
        HpalError: a class number beyond 255, positions or columns that are not this file's, or colours for a point
            format that has none.
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
            _place(rows, header, points.position, subject, tolerance=_OFF)
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
    # laspy has no date of zero.
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
    """Its header, and the records after the points, without those of a COPC.

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
    """What the file gets besides its own dimensions."""
    # Ids are below 1024: four bytes a point for each would be a fifth of a small point format.
    added = {name: v.astype(np.int16) if name in ("class", "truth") else v for name, v in fields.items()}
    if classed and points.label is not None:
        added["original_classification"] = _column(points, "classification", subject)
    if colored:
        added |= {f"scan_{channel[0]}": _column(points, channel, subject) for channel in ("red", "green", "blue")}
    own = {column for stored in columns.values() for column in stored}
    return added | {name: values for name, values in points.attributes.items() if name not in own}


def _add(header: Any, columns: dict[str, list[str]], added: Mapping[str, NDArray[Any]]) -> dict[str, str]:
    """Extra bytes for `added`; what the file has under such a name is renamed, in `columns` too. Returns the names."""
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
    """The place of the record that describes the extra bytes."""
    kinds = [type(record).__name__ for record in header.vlrs]
    return kinds.index("ExtraBytesVlr") if "ExtraBytesVlr" in kinds else None


def _describe_extra(header: Any, described: list[Any], place: int | None) -> None:
    """The record of the extra bytes as it is to be in the file: first what was `described` already, at its `place`.

    laspy describes all of them anew, forgets what it does not use itself, and takes the first point's value of a
    block for its least and greatest: of these the record tells nothing.
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
    # As plain bytes: laspy leaves those alone.
    plain = laspy.VLR("LASF_Spec", 4, "Extra Bytes Record", b"".join(bytes(row) for row in rows))
    header.vlrs.insert(at if place is None else place, plain)


def _widen(header: Any, evlrs: Any) -> None:
    """The header of the same file in the point format whose classes have 8 bits: LAS 1.4."""
    import laspy

    extra = list(header.point_format.extra_dimensions)
    wider = laspy.PointFormat(_WIDER[header.point_format.id])
    wider.dimensions.extend(extra)
    # Not through the setters: they describe the extra bytes anew.
    header._version = max(header.version, laspy.header.Version(1, 4))
    header._point_format = wider
    # These formats are to have their coordinate system as WKT; without the bit, readers go by the GeoTIFF records.
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
        raise HpalError(subject, f"the scenes store has no {name}, which its LAS header promises", "prep again")
    return points.attributes[name]


def _place(
    rows: Any, header: Any, position: NDArray[np.float64], subject: Path, *, tolerance: float | None = None
) -> None:
    """Sets X, Y and Z.

    tolerance: of a step, for points that were read from such a file.

    Raises:
        HpalError: positions that are out of the header's range, or not on its steps.
    """
    steps = (position - header.offsets) / header.scales
    whole = np.rint(steps)
    if np.abs(whole).max(initial=0) > _STEPS or (
        tolerance is not None and np.abs(steps - whole).max(initial=0) > tolerance
    ):
        scale = " x ".join(f"{s:g}" for s in header.scales)
        raise HpalError(subject, f"its positions are not those of its LAS header (steps of {scale})", "write PLY")
    rows.array["X"], rows.array["Y"], rows.array["Z"] = whole.T


def require_classes(table: NDArray[np.int64], subject: object) -> None:
    """Raises:
    HpalError: a LAS class beyond 255.
    """
    if int(table.max(initial=0)) > 255 or int(table.min(initial=0)) < 0:
        raise HpalError(
            subject,
            f"LAS numbers classes 0 to 255, and one would get {int(table.max())}",
            "write PLY, or give each class its `las` number in the file for --classes",
        )


def _classification(ids: NDArray[np.int64], table: NDArray[np.int64], subject: Path) -> NDArray[np.uint8]:
    """Class ids (N,), -1 for none, as LAS classes.

    Raises:
        HpalError: one beyond 255.
    """
    require_classes(table, subject)
    return np.append(table, UNCLASSIFIED)[np.where(ids >= 0, ids, len(table))].astype(np.uint8)


def _step(span: float, unit: float, subject: Path) -> float:
    """The finest power of ten that takes the cloud."""
    millimetre = MILLIMETRE / unit
    step = min(_FINEST, 10.0 ** np.floor(np.log10(millimetre)))
    while span / step > _STEPS:
        step *= 10
    if step > millimetre * (1 + 1e-9):
        raise HpalError(subject, f"is {span:g} units long, too much for LAS to keep the millimetre", "write PLY")
    return float(step)


def _holds(dimension: Any, values: NDArray[np.generic]) -> bool:
    """Whether a standard dimension takes these numbers as they are."""
    if dimension.dtype is not None and dimension.dtype.kind == "f":
        return bool(np.can_cast(values.dtype, dimension.dtype))
    if not values.size:
        return True
    return bool((values == np.rint(values)).all() and values.min() >= dimension.min and values.max() <= dimension.max)


def _extra_type(kind: np.dtype[Any]) -> np.dtype[Any]:
    """What LAS has for numbers of this type."""
    if kind.kind == "b":
        return np.dtype(np.uint8)
    return np.dtype(np.float32) if kind == np.float16 else kind.newbyteorder("<")


def _free_name(name: str, taken: set[str]) -> str:
    """`name`, cut to what LAS takes, with a number where that is given away; adds it to `taken`."""
    short, n = _cut(name, LONGEST_NAME), 1
    while short in taken:
        n += 1
        short = f"{_cut(name, LONGEST_NAME - len(str(n)) - 1)}_{n}"
    taken.add(short)
    return short


def _cut(name: str, size: int) -> str:
    return name.encode()[:size].decode(errors="ignore")


def _stored_names(point_format: Any) -> dict[str, list[str]]:
    """Dimension -> the scene's columns that hold it: under safe names, an array's elements apart."""
    shown: dict[str, str] = {}
    carried: dict[str, str] = {}
    for dimension in point_format.dimensions:
        if dimension.name not in ("X", "Y", "Z"):
            home = carried if dimension.is_standard and dimension.name not in SHOWN else shown
            several = dimension.num_elements > 1
            for n in range(dimension.num_elements):
                home[f"{dimension.name}_{n}" if several else dimension.name] = dimension.name
    for columns in (shown, carried):
        readers.rename_safely(columns, {**shown, **carried})
    names: dict[str, list[str]] = {}
    for column, dimension in {**shown, **carried}.items():
        names.setdefault(dimension, []).append(column)
    return names
