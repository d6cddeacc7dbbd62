"""Points as PLY, LAS or CSV, with fields named so that viewers load and keep them (docs/viewers.md)."""

from __future__ import annotations

import csv
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hpal_cli.errors import HpalError
from hpal_cli.store.files import replace_when_whole
from hpal_cli.stream.viewer_names import PREFIX, QUALITY

FORMATS = ("ply", "las", "csv")

FIRST_USER_CLASS = 64
"""ASPRS gives 0 and 1 the meaning "not classified", and 2 .. 63 meanings of its own."""


@dataclass
class ViewerCloud:
    """N points to look at: position (N, 3) float64, rgb (N, 3) uint8, named scalar fields (N,), and which field,
    if any, holds class ids."""

    position: NDArray[np.float64]
    rgb: NDArray[np.uint8] | None
    fields: dict[str, NDArray[np.generic]] = field(default_factory=dict)
    class_field: str | None = None
    comments: tuple[str, ...] = ()


def scene_path(folder: Path, scene: str, suffix: str) -> Path:
    """`folder/Area_1/office_1.ply`, its folder made.

    Raises:
        HpalError: `folder` is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise HpalError(folder, "is a file, and a folder is wanted", "give another name")
    path = folder / f"{scene}.{suffix}"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def write(cloud: ViewerCloud, path: Path, *, overwrite: bool) -> None:
    """Writes by the suffix of `path`: .ply, .las, .laz or .csv.

    Raises:
        HpalError: another suffix, or a file that exists and is not to be overwritten.
    """
    writers = {".ply": write_ply, ".las": write_las, ".laz": write_las, ".csv": write_csv}
    if path.suffix not in writers:
        raise HpalError(path, "is no format that can be written", "choose .ply, .las, .laz or .csv")
    with replace_when_whole(path, overwrite=overwrite) as partial:
        # laspy compresses by the name it is given.
        named = partial.with_name(partial.name + path.suffix)
        try:
            writers[path.suffix](cloud, named)
            named.rename(partial)
        finally:
            named.unlink(missing_ok=True)


def write_ply(cloud: ViewerCloud, path: Path) -> None:
    """Binary little-endian PLY: x y z double, red green blue, then `scalar_<name>` fields."""
    import plyfile

    columns = [("x", "<f8"), ("y", "<f8"), ("z", "<f8")]
    if cloud.rgb is not None:
        columns += [("red", "u1"), ("green", "u1"), ("blue", "u1")]
    columns += [(PREFIX + n, _ply_type(v)) for n, v in cloud.fields.items()]
    quality = cloud.fields.get("uncertainty", cloud.fields.get("score"))
    if quality is not None:
        # The one number that MeshLab shows.
        columns.append((QUALITY, "<f4"))
    rows = np.zeros(len(cloud.position), columns)
    if quality is not None:
        rows[QUALITY] = quality
    rows["x"], rows["y"], rows["z"] = cloud.position.T
    if cloud.rgb is not None:
        rows["red"], rows["green"], rows["blue"] = cloud.rgb.T
    for name, values in cloud.fields.items():
        rows[PREFIX + name] = values
    element = plyfile.PlyElement.describe(rows, "vertex")
    plyfile.PlyData([element], byte_order="<", comments=list(cloud.comments)).write(str(path))


def write_las(cloud: ViewerCloud, path: Path) -> None:
    """LAS 1.4, point format 7: classification from the class field (ids + 64), the other fields as extra bytes."""
    import laspy

    header = laspy.LasHeader(version="1.4", point_format=7)
    low = cloud.position.min(axis=0) if len(cloud.position) else np.zeros(3)
    header.offsets = np.floor(low)
    header.scales = np.full(3, 0.0001)
    standard = set(header.point_format.standard_dimension_names)
    for name, values in cloud.fields.items():
        if name != cloud.class_field and name not in standard:
            header.add_extra_dim(laspy.ExtraBytesParams(name=name, type=values.dtype))
    las = laspy.LasData(header)
    las.x, las.y, las.z = cloud.position.T
    if cloud.rgb is not None:
        las.red, las.green, las.blue = cloud.rgb.T.astype(np.uint16) * 257
    for name, values in cloud.fields.items():
        if name == cloud.class_field:
            ids = np.asarray(values, np.int64)
            if ids.max(initial=0) + FIRST_USER_CLASS > 255:
                raise HpalError(path, "has more than 192 classes, which LAS cannot number", "export to PLY")
            las.classification = np.where(ids >= 0, ids + FIRST_USER_CLASS, 1).astype(np.uint8)
        elif name in standard:
            # The grid averages what came as whole numbers.
            las[name] = np.rint(values).astype(las[name].dtype)
        else:
            las[name] = values
    las.write(str(path))


def write_csv(cloud: ViewerCloud, path: Path) -> None:
    """Comma separated, one header line: x, y, z, red, green, blue, then the fields by name."""
    names = ["x", "y", "z", *(["red", "green", "blue"] if cloud.rgb is not None else []), *cloud.fields]
    columns = [*cloud.position.T, *(cloud.rgb.T if cloud.rgb is not None else []), *cloud.fields.values()]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(names)
        writer.writerows(zip(*(column.tolist() for column in columns), strict=True))


def _ply_type(values: NDArray[np.generic]) -> str:
    kind = values.dtype
    if kind.kind == "b":
        return "u1"
    if kind.kind in "iu":
        # PLY has no 64-bit integers: a double keeps them to 2^53.
        return "<f8" if kind.itemsize == 8 else kind.newbyteorder("<").str
    return "<f8" if kind == np.float64 else "<f4"
