"""prep: raw clouds to a scenes store."""

from __future__ import annotations

import base64
import fnmatch
import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import zarr
from numpy.typing import NDArray

from hpal_cli import readers
from hpal_cli.errors import HpalError, UsageError
from hpal_cli.history import Entry, to_json
from hpal_cli.lengths import format_length
from hpal_cli.parallel import map_in_order
from hpal_cli.progress import Monitor, Silent
from hpal_cli.readers import Reader
from hpal_cli.readers.cloud import Cloud, Source
from hpal_cli.scenes.classes import IGNORE, ClassTable
from hpal_cli.scenes.grid import subsample
from hpal_cli.scenes.store import Points, write_points
from hpal_cli.scenes.table import SceneInfo, SceneTable, fingerprint
from hpal_cli.store import envelope

DEFAULT_GRID = 0.04
"""Metres; ScanNet comes at about 2 cm and stays as it is (docs/method.md)."""

MANY = 500
"""Points in a cell, on average, from which a grid's unit is more likely a slip."""


def prepare(
    root: Path,
    out: Path,
    *,
    format: str | None = None,
    grid: float | str | None = "default",
    val: Sequence[str] = (),
    test: Sequence[str] = (),
    classes: ClassTable | None = None,
    unit: float | None = None,
    overwrite: bool = False,
    jobs: int = 1,
    history: Sequence[Entry] = (),
    monitor: Monitor | None = None,
) -> SceneTable:
    """Reads every scene under `root` and writes them to the scenes store `out`.

    Args:
        grid: cell edge in metres, None for no subsampling, `default` for what suits the format.
        val, test: patterns of scene names that go to these splits; the others are `train`.
        classes: the class table; without it the format's own, or one made of the numbers found.
        unit: metres in one unit of the coordinates; without it what the files say, else 1.

    Raises:
        HpalError: nothing to read, a scene that cannot be read, units that differ, a class outside the table.
        UsageError: a pattern that matches no scene.
    """
    monitor = monitor or Silent()
    reader, sources = readers.find(root, format)
    _refuse_nested(root, sources)
    split = _splits([s.name for s in sources], val, test)
    sources = sorted(sources, key=lambda s: s.name)
    table = classes or reader.CLASSES
    edge = (None if reader.NAME == "scannet" else DEFAULT_GRID) if grid == "default" else grid
    assert not isinstance(edge, str)
    if table is None:
        table = _classes_found(reader, sources, monitor)
    attributes: dict[str, object] = {}
    infos: list[SceneInfo] = []
    units: dict[float, str] = {}
    with envelope.create(out, "scenes", attributes, overwrite=overwrite) as (_, partial):
        work = [(reader.NAME, source, str(partial), edge, unit, table) for source in sources]
        with monitor.task("reading", len(sources)) as task:
            for number, (info, scene_unit, notes) in enumerate(map_in_order(_prepare_scene, work, jobs)):
                infos.append(replace(info, number=number, split=split[info.name]))
                units.setdefault(scene_unit, info.name)
                for text in notes:
                    monitor.warn(f"{info.name}: {text}")
                if edge is not None and info.original > MANY * info.points:
                    size = format_length(edge)
                    monitor.warn(f"{info.name}: {info.original:,} points became {info.points:,} on a grid of {size}")
                task.advance(1, f"{info.name}  {info.points:,} of {info.original:,} points")
        if len(units) > 1:
            (a, scene_a), (b, scene_b) = list(units.items())[:2]
            problem = f"{scene_a} has units of {a:g} m and {scene_b} of {b:g} m"
            raise HpalError(root, problem, "prepare them apart, or say what is right with --unit")
        scene_table = SceneTable(infos)
        attributes.update(
            id=scene_table.id,
            classes=table.to_json(),
            grid=edge,
            unit=next(iter(units)),
            format=reader.NAME,
            scenes=scene_table.to_json(),
            history=to_json(history),
        )
    return scene_table


def to_grid(
    cloud: Cloud, table: ClassTable, edge: float | None, subject: object
) -> tuple[Points, Points, NDArray[np.int64]]:
    """A raw cloud as (grid points, original points, row of each original point's grid point (N,)).

    `edge` is in the cloud's unit; None keeps every point. The offset is the lowest corner, rounded down to whole
    units, so that cells of a scene and cells of the world coincide wherever the edge divides one unit.

    Raises:
        HpalError: a label outside the table.
    """
    offset = np.floor(cloud.xyz.min(axis=0))
    relative = cloud.xyz - offset
    label = None if cloud.label is None else table.from_codes(cloud.label, subject)
    exact = relative.astype(np.float32)
    # Large georeferenced tiles outgrow float32; a hundredth of a millimetre is what the originals may lose.
    keep = exact if np.abs(exact - relative).max() <= 1e-5 else relative
    rgb = None if cloud.rgb is None else cloud.rgb.astype(np.uint8)
    original = Points(keep, offset, rgb, label, {**cloud.attributes, **cloud.carried})
    if edge is None:
        return Points(exact, offset, rgb, label, cloud.attributes), original, np.arange(len(exact))
    cells = subsample(relative, rgb, label, cloud.attributes, edge)
    points = Points(cells.xyz.astype(np.float32), offset, cells.rgb, cells.label, cells.attributes)
    return points, original, cells.inverse


def _prepare_scene(
    work: tuple[str, Source, str, float | None, float | None, ClassTable],
) -> tuple[SceneInfo, float, list[str]]:
    """Reads one scene and writes its group: a process of its own may do it."""
    reader_name, source, store, grid, unit, table = work
    (reader,) = (r for r in readers.READERS if reader_name == r.NAME)
    cloud = readers.read(reader, source)
    metres = unit or cloud.unit or 1.0
    points, original, inverse = to_grid(cloud, table, None if grid is None else grid / metres, source.path)
    group = zarr.open_group(store, mode="a", zarr_format=3).require_group(f"scenes/{source.name}")
    group.attrs["offset"] = points.offset.tolist()
    write_points(group, points)
    below = group.create_group("original")
    if cloud.las_header is not None:
        below.attrs["las_header"] = base64.b64encode(cloud.las_header).decode("ascii")
    write_points(below, original)
    envelope.write_array(below, "inverse", inverse.astype(np.int64))
    xyz = np.asarray(points.xyz, np.float32)
    info = SceneInfo(0, source.name, len(xyz), len(original.xyz), "train", fingerprint(points.offset, xyz))
    return info, metres, cloud.notes


def _refuse_nested(root: Path, sources: Sequence[Source]) -> None:
    """A scene is a group of the store, and cannot hold another: the other's name could be one of its arrays'."""
    names = {source.name for source in sources}
    for name in sorted(names):
        for outer in itertools.accumulate(name.split("/")[:-1], "{}/{}".format):
            if outer in names:
                raise HpalError(root, f"scene {name} lies inside scene {outer}", "rename one of them")


def _splits(names: Sequence[str], val: Sequence[str], test: Sequence[str]) -> dict[str, str]:
    split = dict.fromkeys(names, "train")
    for option, patterns in (("val", val), ("test", test)):
        for pattern in patterns:
            matching = [name for name in names if fnmatch.fnmatchcase(name, pattern)]
            if not matching:
                some = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
                raise UsageError(f"--{option}", f"{pattern!r} matches no scene", f"the scenes are {some}")
            for name in matching:
                if split[name] not in ("train", option):
                    raise UsageError(f"--{option}", f"{name} is in --val and in --test", "let the patterns not overlap")
                split[name] = option
    return split


def _classes_found(reader: Reader, sources: Sequence[Source], monitor: Monitor) -> ClassTable:
    """A table of the class numbers that occur, for formats that have none of their own."""
    codes: set[int] = set()
    with monitor.task("looking for classes", len(sources)) as task:
        for source in sources:
            cloud = readers.read(reader, source)
            if cloud.label is not None:
                codes.update(np.unique(cloud.label).tolist())
            task.advance(1, source.name)
    codes.discard(IGNORE)
    if not codes:
        raise HpalError(
            sources[0].path.parent if len(sources) > 1 else sources[0].path,
            "holds no labels, so its classes are unknown",
            "name them in a file and give it with --classes classes.json",
        )
    rows = [{"id": n, "name": f"class_{code}", "code": code} for n, code in enumerate(sorted(codes))]
    monitor.note(f"classes made of the numbers found: {', '.join(str(r['name']) for r in rows)} (--classes names them)")
    return ClassTable.from_json(rows)
