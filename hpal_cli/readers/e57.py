"""E57, the format of terrestrial laser scanners. It is read by pye57, if that is installed (`hpal[e57]`)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpal_cli.classes import ClassTable
from hpal_cli.errors import HpalError
from hpal_cli.readers import files
from hpal_cli.readers.cloud import Cloud, Options, Source
from hpal_cli.wording import first_line

NAME = "e57"
CLASSES: ClassTable | None = None

_CHUNK = 1 << 20
_CARTESIAN = ("cartesianX", "cartesianY", "cartesianZ")
_SPHERICAL = ("sphericalRange", "sphericalAzimuth", "sphericalElevation")
_COLOURS = ("colorRed", "colorGreen", "colorBlue")
_INTENSITY = ("intensity",)
_INVALID = ("cartesianInvalidState", "sphericalInvalidState")
_TYPES: dict[str, type[np.generic]] = {
    **dict.fromkeys(_COLOURS, np.uint16),
    **dict.fromkeys(_INTENSITY, np.float32),
    **dict.fromkeys(_INVALID, np.int8),
}
_REMEDY = "export the scans again"


def find(root: Path, options: Options) -> list[Source]:
    """Each `.e57` file is one scene, however many scans it holds."""
    return files.loose_files(root, {".e57"})


def count(source: Source) -> int | None:
    """The number of points in the headers of the scans; None without pye57."""
    try:
        import pye57

        with pye57.E57(str(source.path)) as file:
            return sum(file.get_header(n).point_count for n in range(file.scan_count))
    except Exception:
        return None


def read(source: Source, options: Options) -> Iterator[Cloud]:
    """The points of all scans in the order of the file, a million at a time, in the common frame of the scans and in
    metres, which the format prescribes. Colours and intensity are kept if all scans have them. Points that the scanner
    has marked as invalid are left out.

    Raises:
        HpalError: pye57 is not installed or cannot read the file, or a scan has no positions.
    """
    path = source.path
    try:
        import pye57
    except ImportError as error:
        raise HpalError(path, "E57 needs pye57, which is not installed", "pip install 'hpal[e57]'") from error
    if not path.is_file():
        raise HpalError(path, "does not exist", "check the path")
    try:
        with pye57.E57(str(path)) as file:
            yield from _scans(file, path)
    except (HpalError, OSError):
        raise
    except Exception as error:  # libE57's errors have no common class but this
        raise HpalError(path, f"cannot be read as E57 ({first_line(error)})", _REMEDY) from error


def _scans(file: Any, path: Path) -> Iterator[Cloud]:
    headers = [file.get_header(n) for n in range(file.scan_count)]
    headers = [header for header in headers if header.point_count]
    fields = [set(header.point_fields) for header in headers]
    kept: list[str] = []
    notes = []
    for what, names in (("colours", _COLOURS), ("intensity", _INTENSITY)):
        having = sum(given.issuperset(names) for given in fields)
        if having == len(fields):
            kept += names
        elif having:
            notes.append(f"{what} left out: only {having} of {len(fields)} scans have them")
    dropped = given = 0
    held: Cloud | None = None
    for header, own in zip(headers, fields, strict=True):
        positions = next((triple for triple in (_CARTESIAN, _SPHERICAL) if own.issuperset(triple)), None)
        if positions is None:
            raise HpalError(path, f"a scan has no positions among its fields ({', '.join(sorted(own))})", _REMEDY)
        invalid = _INVALID[positions is _SPHERICAL]
        for columns in _chunks(file, header, [*positions, *kept, *({invalid} & own)]):
            xyz = np.column_stack([columns[name] for name in positions])
            xyz = _common_frame(_from_spherical(xyz) if positions is _SPHERICAL else xyz, header)
            keep = columns[invalid] == 0 if invalid in columns else np.ones(len(xyz), bool)
            given += len(xyz)
            dropped += len(xyz) - int(keep.sum())
            if held is not None:
                yield held
            held = Cloud(xyz[keep], unit=1.0)
            if _COLOURS[0] in kept:
                held.rgb = np.column_stack([columns[name][keep] for name in _COLOURS])
            held.attributes = {name: columns[name][keep] for name in _INTENSITY if name in kept}
    if held is not None:
        if dropped:
            notes.append(f"left out {dropped:,} of {given:,} points, which the scanner marked as invalid")
        held.notes = notes
        yield held


def _chunks(file: Any, header: Any, names: list[str]) -> Iterator[dict[str, NDArray[np.generic]]]:
    from pye57 import libe57

    size = min(_CHUNK, header.point_count)
    buffers, arrays = libe57.VectorSourceDestBuffer(), {}
    for name in names:
        arrays[name] = np.empty(size, _TYPES.get(name, np.float64))
        # The two last arguments convert types, and turn scaled integers into the numbers that they stand for.
        buffers.append(libe57.SourceDestBuffer(file.image_file, name, arrays[name], size, True, True))
    reader = header.points.reader(buffers)
    try:
        while got := reader.read():
            yield {name: array[:got].copy() for name, array in arrays.items()}
    finally:
        reader.close()


def _from_spherical(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N, 3) range, azimuth and elevation, in metres and radians -> (N, 3) x, y, z in metres."""
    distance, azimuth, elevation = points.T
    with np.errstate(over="ignore", invalid="ignore"):  # points that are not finite are left out later
        flat = distance * np.cos(elevation)
        return np.column_stack([flat * np.cos(azimuth), flat * np.sin(azimuth), distance * np.sin(elevation)])


def _common_frame(xyz: NDArray[np.float64], header: Any) -> NDArray[np.float64]:
    if not header.has_pose():
        return xyz
    with np.errstate(over="ignore", invalid="ignore"):  # points that are not finite are left out later
        return xyz @ np.asarray(header.rotation_matrix).T + np.asarray(header.translation, np.float64)
