"""Reads raw clouds and writes a scenes store."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import zarr

from hpal_cli import readers
from hpal_cli.classes import IGNORE, ClassTable, SemanticClass, palette
from hpal_cli.errors import HpalError, UsageError
from hpal_cli.history import Entry, to_json
from hpal_cli.lengths import format_length, rounded_length
from hpal_cli.parallel import map_in_order
from hpal_cli.progress import Monitor, Silent, Task
from hpal_cli.readers import Reader
from hpal_cli.readers.cloud import Cloud, Options, Source
from hpal_cli.readers.remote import looked_for
from hpal_cli.scene_table import SceneInfo, SceneTable, outer_names
from hpal_cli.scenes import class_tables
from hpal_cli.scenes.raw import RawFile, RawScene
from hpal_cli.scenes.scale import ROOM_FORMATS, ROOM_GRID, as_attribute, fitting_grid
from hpal_cli.scenes.spacing import Measured, measured_spacing
from hpal_cli.scenes.splits import splits
from hpal_cli.scenes.tiles import Tiles
from hpal_cli.scenes.unfinished import DoneScene, Unfinished, has_finished_scenes, settings_of, signature
from hpal_cli.scenes.write import write_scene
from hpal_cli.shard import Shard
from hpal_cli.store import envelope, parts
from hpal_cli.store.files import resumable_write
from hpal_cli.store.remote import RemoteFile, RemotePath
from hpal_cli.store.tasks import BUFFERS, Place, beside
from hpal_cli.wording import Repeated

if TYPE_CHECKING:
    from hpal_cli.parallel import Cluster

MANY_POINTS_PER_CELL = 500
"""Mean number of points in a cell above which the user is warned: the grid, or its unit, is probably a mistake."""

LARGE_SPACING = 5.0
"""Metres between points above which the user is warned: the unit of the coordinates is probably a mistake."""

BYTES = 40
"""Bytes per point that are assumed if a reader cannot tell the number of points; used for the progress bar only."""


@dataclass(frozen=True)
class _Job:
    """What all scenes of one call have in common. place: where they are written."""

    reader: str
    options: Options
    strict: bool
    place: Place
    grid: float | None
    unit: float | None
    classes: ClassTable


@dataclass(frozen=True)
class _Work:
    """One scene to write, with all that a process of its own needs to do it. raw: the points, if the scene is a tile,
    whose points have been read already."""

    job: _Job
    name: str
    sources: tuple[Source, ...]
    raw: RawScene | None = None

    @property
    def signature(self) -> str:
        files: list[Path | RemoteFile] = []
        for source in self.sources:
            files += source.objects or (source.path, *source.beside)
        return signature(files)


def prepare(
    root: Path,
    out: Path,
    *,
    format: str | None = None,
    columns: Sequence[str] | None = None,
    scene_per: str | float = "file",
    grid: float | str | None = "default",
    scale: float | None = None,
    val: Sequence[str] = (),
    test: Sequence[str] = (),
    classes: ClassTable | None = None,
    unit: float | None = None,
    strict: bool = False,
    overwrite: bool = False,
    resume: bool = False,
    keep_going: bool = False,
    jobs: int | Cluster = 1,
    shard: Shard | None = None,
    history: Sequence[Entry] = (),
    monitor: Monitor | None = None,
) -> SceneTable:
    """Reads every scene under `root` and writes them to the scenes store `out`.

    Args:
        format: the name of a reader; by default the reader is found from the files.
        columns: what the columns of text mean (`readers.cloud.Options`).
        scene_per: `file`; `folder`, so that all files of a folder are one scene; or the edge of square tiles in metres.
        grid: edge of a cell in metres, None for no subsampling, `default` for the edge that suits the scale.
        scale: edge in metres of the grid that suits the scenes (0.04 for a room): the default lengths of all later
            commands are multiplied by `scale` / 0.04. None: 0.04 for `ROOM_FORMATS`, for other formats what fits the
            distances between the points, which are measured on some of the scenes.
        val, test: patterns of names, or `@file`, of the scenes that go to these splits; the others go to `train`.
        classes: the class table; by default that of the format, or one made of the class numbers that occur.
        unit: metres in one unit of the coordinates; by default what the files say, else 1.
        strict: refuse points whose coordinates are not finite, instead of leaving them out.
        resume: continue what an interrupted call with the same settings has begun on a disk.
        keep_going: leave out scenes that cannot be read, and raise only after the store is written.
        shard: the part of the scenes that is read; `out` is there once all parts are (`store.parts`), and the table
            that is returned is that of the part.
        jobs: number of processes that read scenes, or the cluster that reads them; the store is the same with any.

    Raises:
        HpalError: there is nothing to read, a scene cannot be read, scenes have different units, or a class is not in
            the table.
        UsageError: a pattern matches no scene.
    """
    monitor = monitor or Silent()
    remote = isinstance(out, RemotePath)
    if remote and resume:
        raise UsageError("--resume", f"is for a store on a disk: nothing unfinished stays at {out}", "leave it out")
    options = Options(None if columns is None else tuple(columns), classes)
    with looked_for(root) as scans:
        reader, sources = readers.find(scans.path, format, options)
        if columns is not None and reader is not readers.text:
            raise UsageError("--columns", f"is for text, and {root} is read as {reader.NAME}", "leave it out")
        if format is None and (others := readers.passed_over(scans.path, reader, sources, options)):
            monitor.note(others)
        sources = scans.sources(sources)
    names = _grouped(root, sources, scene_per)
    if shard is not None and isinstance(scene_per, float):
        raise UsageError("--shard", "is not for tiles, which are known only when every file is read", "leave it out")
    if isinstance(scene_per, float) and remote and not isinstance(jobs, int):
        problem = "cannot write tiles to object storage: their points are collected on a disk beside the store"
        raise UsageError("--scheduler", problem, "write to a disk that all workers share, or use --jobs")
    mine = parts.of(shard, list(names))

    def assign_splits(every: Sequence[str]) -> dict[str, str]:
        _refuse_nested(root, every)
        return splits(every, val, test, monitor)

    # Mistakes in names and patterns are reported before the points are read, which can take hours; those of tiles only
    # afterwards, because the names of tiles depend on the points.
    split = {} if isinstance(scene_per, float) else assign_splits(list(names))
    attributes: dict[str, object] = {}
    with contextlib.ExitStack() as writing:
        target = writing.enter_context(parts.written(out, shard, overwrite=overwrite, monitor=monitor))
        place = None
        if not remote:
            place = resumable_write(target, overwrite=overwrite, resume=resume, worth_keeping=has_finished_scenes)
        store = envelope.create(target, "scenes", attributes, overwrite=overwrite, place=place)
        group, partial = writing.enter_context(store)
        tasks = writing.enter_context(beside(target, jobs))
        # An interrupted call has measured, and its files are not read again.
        measured = None if scale is not None else settings_of(partial).get("measured") if resume else None
        found = None
        if scale is None and not isinstance(measured, float):
            found = measured_spacing(reader, sources, options, unit, monitor)
            measured = ROOM_GRID if found is None or reader.NAME in ROOM_FORMATS else fitting_grid(*found)
        fits = scale or measured or ROOM_GRID
        edge = grid if grid != "default" else None if fits == ROOM_GRID and reader.NAME == "scannet" else fits
        assert not isinstance(edge, str)
        if scale is None and fits != ROOM_GRID and edge is not None:
            # On a grid that is wider than the one that fits, points lie as far apart as that grid says.
            fits = max(fits, edge)
        times = None if fits == ROOM_GRID else fits / ROOM_GRID
        table = classes or reader.CLASSES or _classes_found(reader, sources, options, strict, keep_going, monitor)
        job = _Job(reader.NAME, options, strict, tasks.place(target, partial), edge, unit, table)
        settings = {
            "format": reader.NAME,
            "columns": None if columns is None else list(columns),
            "scene-per": scene_per,
            "grid": edge,
            "scale": times,
            "measured": measured,
            "unit": unit,
            "class table": table.reading(),
            "strict": strict,
        }
        record = Unfinished(partial, settings, resume=resume)
        done: dict[str, DoneScene] = {}
        failed: dict[str, HpalError] = {}
        repeated = Repeated()

        def fail(name: str, error: HpalError) -> None:
            if not keep_going:
                raise error
            failed[name] = error
            monitor.warn(f"{name} is left out: {error}")

        try:
            if isinstance(scene_per, float):
                work = _tiled(job, sources, scene_per, fail, repeated, monitor)
                split = assign_splits([one.name for one in work])
            else:
                work = [_Work(job, name, names[name]) for name in mine]
            for one in work:
                known = record.find(one.name, one.signature)
                if known is not None:
                    done[one.name] = known
            if done:
                monitor.note(f"{len(done):,} of {len(work):,} scenes are done already")
            todo = [one for one in work if one.name not in done]
            for one in todo:
                # A process that was killed may have written a part of it.
                shutil.rmtree(partial / "scenes" / one.name, ignore_errors=True)
            for one, result in _each(todo, jobs, monitor):
                if isinstance(result, HpalError):
                    fail(one.name, result)
                else:
                    # The spacing is reported only when a first scene is written, since a store without scenes has none.
                    if found is not None:
                        _tell_spacing(found, measured or ROOM_GRID, monitor)
                        found = None
                    job.place.finish(group, one.name)
                    record.add(one.name, one.signature, result)
                    done[one.name] = result
                    _tell(one.name, result, edge, repeated, monitor)
            for text in repeated.rest():
                monitor.warn(text)
            if not done:
                raise HpalError(root, "none of its scenes can be read", "see the warnings above")
            units = _one_unit(root, done)
        except BaseException:
            if not remote and has_finished_scenes(partial):
                monitor.note("the scenes that are done are kept; the same command with --resume goes on")
            raise
        infos = [replace(done[name].info, number=n, split=split[name]) for n, name in enumerate(sorted(done))]
        scene_table = SceneTable(infos)
        attributes.update(
            id=scene_table.id,
            classes=table.to_json(),
            grid=edge,
            **as_attribute(times),
            unit=units,
            format=reader.NAME,
            scenes=scene_table.to_json(),
            history=to_json(history),
        )
        record.end()
    if failed:
        what = f"{len(sources)} files" if isinstance(scene_per, float) else f"{len(mine)} scenes"
        problem = f"{len(failed)} of {what} could not be read, and are not in it"
        raise HpalError(out, f"{problem}: {', '.join(failed)}", "repair these files, and run `hpal prep` again")
    return scene_table


def _tell_spacing(found: Measured, fits: float, monitor: Monitor) -> None:
    what = "the lengths of a room fit" if fits == ROOM_GRID else f"a grid of {format_length(fits)} fits"
    where = f" in an object of {rounded_length(found.edge)}" if fits < ROOM_GRID else ""
    monitor.note(f"points lie {rounded_length(found.spacing)} apart{where}: {what}")
    if found.spacing > LARGE_SPACING:
        monitor.warn("that is far: if the coordinates are in a smaller unit than metres, say so with --unit")


def _grouped(root: Path, sources: Sequence[Source], scene_per: str | float) -> dict[str, tuple[Source, ...]]:
    """The files of each scene, by its name, sorted. For tiles, each file counts as a scene: which tiles there are is
    known only after the files have been read."""
    groups: dict[str, list[Source]] = {}
    for source in sources:
        name = source.name
        if scene_per == "folder":
            # Files that lie directly in the given folder are a scene with the name of that folder.
            name = source.name.rpartition("/")[0] or readers.safe_name(root.absolute().name)
        groups.setdefault(name, []).append(source)
    return {name: tuple(groups[name]) for name in sorted(groups)}


def _tiled(
    job: _Job,
    sources: Sequence[Source],
    metres: float,
    fail: Callable[[str, HpalError], None],
    told: Repeated,
    monitor: Monitor,
) -> list[_Work]:
    """Reads all files, and distributes their points to tiles."""
    tiles = Tiles(metres, job.unit, job.place.folder / BUFFERS)
    reader = _reader(job.reader)
    with monitor.task("reading points", sum(_expected(reader, source) for source in sources)) as task:
        for source in sources:
            blocks = readers.blocks(reader, source, job.options, strict=job.strict)
            file = _file(source)
            try:
                tiles.add_file(file, _counted(blocks, _expected(reader, source), task))
            except HpalError as error:
                fail(source.name, error)
                continue
            for note in file.notes:
                if told.first(source.name, note):
                    monitor.warn(f"{source.name}: {note}")
            file.notes.clear()
    return [_Work(job, name, tuple(sources), tiles.scenes[name]) for name in sorted(tiles.scenes)]


def _each(
    todo: Sequence[_Work], jobs: int | Cluster, monitor: Monitor
) -> Iterator[tuple[_Work, DoneScene | HpalError]]:
    """Writes the scenes and yields each with its result, in order; for a scene that cannot be read this is the
    error."""
    tiles = any(one.raw is not None for one in todo)
    expected = [1 if tiles else sum(_expected(_reader(one.job.reader), s) for s in one.sources) for one in todo]
    with monitor.task("writing tiles" if tiles else "reading points", sum(expected)) as task:
        here = isinstance(jobs, int) and (jobs == 1 or len(todo) < 2)
        attempt = partial(_attempt, task=None if tiles else task) if here else _attempt
        with contextlib.closing(map_in_order(attempt, todo, 1 if here else jobs)) as results:
            for one, points, result in zip(todo, expected, results, strict=True):
                if one.raw is not None:
                    one.raw.buffer.close()
                task.advance(0 if here and not tiles else points, _status(one, result))
                yield one, result


def _status(work: _Work, result: DoneScene | HpalError) -> str:
    if isinstance(result, HpalError):
        return f"{work.name}  failed"
    return f"{work.name}  {result.info.points:,} of {result.info.original:,} points"


def _attempt(work: _Work, task: Task | None = None) -> DoneScene | HpalError:
    try:
        return _prepare_scene(work, task)
    except HpalError as error:
        return error


def _prepare_scene(work: _Work, task: Task | None) -> DoneScene:
    """Reads one scene, unless it is a tile, whose points have been read already, and writes its group.

    Raises:
        HpalError: the scene cannot be read.
    """
    return work.job.place.write(work.name, partial(_write_scene, work, task))


def _write_scene(work: _Work, task: Task | None, root: zarr.Group, folder: Path) -> DoneScene:
    job = work.job
    raw = work.raw or _gather(work, folder / "raw", task)
    metres = job.unit or raw.unit()
    too_wide = raw.check_span(metres)
    edge = None if job.grid is None else job.grid / metres
    ids = partial(job.classes.from_codes, las=job.reader == readers.las.NAME)
    group = root.require_group(f"scenes/{work.name}")
    points, original, fingerprint = write_scene(group, raw, ids, edge, folder)
    return DoneScene(
        SceneInfo(0, work.name, points, original, "train", fingerprint),
        metres,
        (*raw.notes, *([too_wide] if too_wide else [])),
    )


def _gather(work: _Work, folder: Path, task: Task | None) -> RawScene:
    reader, raw = _reader(work.job.reader), RawScene(folder)
    for source in work.sources:
        file = _file(source)
        blocks = readers.blocks(reader, source, work.job.options, strict=work.job.strict)
        for cloud in blocks if task is None else _counted(blocks, _expected(reader, source), task):
            raw.add(cloud, file.update(cloud), file)
        file.check()
    return raw


def _file(source: Source) -> RawFile:
    suffix = source.suffix
    if suffix is None:
        is_file = source.objects[0].path == source.path if source.objects else source.path.is_file()
        suffix = source.path.suffix if is_file else ""
    return RawFile(source.path, readers.safe_name(source.name + suffix))


def _counted(blocks: Iterator[Cloud], expected: int, task: Task) -> Iterator[Cloud]:
    """Passes the blocks on, and advances the progress bar with each; at the end it has advanced by `expected`."""
    for cloud in blocks:
        step = min(len(cloud.xyz), expected)
        expected -= step
        task.advance(step)
        yield cloud
    task.advance(expected)


def _expected(reader: Reader, source: Source) -> int:
    if source.objects:
        return sum(file.size for file in source.objects) // BYTES
    count = reader.count(source)
    if count is None:
        files = source.path.rglob("*") if source.path.is_dir() else [source.path]
        count = sum(file.stat().st_size for file in files) // BYTES
    return count


def _reader(name: str) -> Reader:
    # A job holds the name of its reader, because a module cannot be sent to another process.
    (reader,) = (reader for reader in readers.READERS if name == reader.NAME)
    return reader


def _tell(name: str, done: DoneScene, grid: float | None, told: Repeated, monitor: Monitor) -> None:
    for text in done.notes:
        if told.first(name, text):
            monitor.warn(f"{name}: {text}")
    if grid is not None and done.info.original > MANY_POINTS_PER_CELL * done.info.points:
        size = format_length(grid)
        monitor.warn(f"{name}: {done.info.original:,} points became {done.info.points:,} on a grid of {size}")


def _one_unit(root: Path, done: Mapping[str, DoneScene]) -> float:
    """Metres in one unit of the coordinates of all scenes.

    Raises:
        HpalError: the scenes have different units.
    """
    units = {done[name].unit: name for name in sorted(done, reverse=True)}
    if len(units) > 1:
        (a, scene_a), (b, scene_b) = sorted(units.items(), key=lambda item: item[1])[:2]
        problem = f"{scene_a} has units of {a:g} m and {scene_b} of {b:g} m"
        raise HpalError(root, problem, "prepare them apart, or give the right unit with --unit")
    return next(iter(units))


def _refuse_nested(root: Path, names: Sequence[str]) -> None:
    """Refuses scenes within scenes: a scene is a group of the store, and a scene inside of it could have the name of
    one of its arrays."""
    every = set(names)
    for name in sorted(every):
        for outer in outer_names(name):
            if outer in every:
                raise HpalError(root, f"scene {name} lies inside scene {outer}", "rename one of them")


def _classes_found(
    reader: Reader, sources: Sequence[Source], options: Options, strict: bool, keep_going: bool, monitor: Monitor
) -> ClassTable:
    """Makes a class table of the class numbers that occur in the files, for formats without a table of their own.

    Raises:
        HpalError: no file has labels, or a file cannot be read.
    """
    codes: set[int] = set()
    with monitor.task("looking for classes", sum(_expected(reader, source) for source in sources)) as task:
        for source in sources:
            # A file that cannot be read is reported when its scene is to be written.
            with contextlib.suppress(HpalError) if keep_going else contextlib.nullcontext():
                blocks = readers.blocks(reader, source, options, strict=strict)
                for cloud in _counted(blocks, _expected(reader, source), task):
                    if cloud.label is not None:
                        codes.update(np.unique(cloud.label).tolist())
    codes.discard(IGNORE)
    if not codes:
        raise HpalError(
            sources[0].path.parent if len(sources) > 1 else sources[0].path,
            "holds no labels, so its classes are unknown",
            "name them in a file and give it with --classes classes.json",
        )
    known = {c.code: c for c in class_tables.ASPRS} if reader is readers.las else {}
    classes = []
    for n, code in enumerate(sorted(codes)):
        given = known.get(code, SemanticClass(n, f"class_{code}", palette(n), (code,)))
        classes.append(replace(given, id=n, codes=(code,), las_codes=()))
    names = ", ".join(c.name for c in classes)
    monitor.note(f"classes made of the numbers found: {names} (--classes names them otherwise)")
    return ClassTable(classes)
