"""Writes any store as files, one for each scene."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from hpal_cli.errors import HpalError, UsageError
from hpal_cli.export import benchmarks
from hpal_cli.export.clouds import answers_cloud, prediction_cloud, scene_cloud
from hpal_cli.export.originals import Originals, Part
from hpal_cli.labels.store import LabelStore, by_scene
from hpal_cli.parallel import map_in_order
from hpal_cli.predictions.store import PredictionStore
from hpal_cli.progress import Monitor, Silent
from hpal_cli.readers.las import COPC
from hpal_cli.scene_table import SceneInfo
from hpal_cli.scenes.store import SceneStore, SourceFile
from hpal_cli.store.envelope import kind_of
from hpal_cli.store.files import remove_new_on_error
from hpal_cli.store.tasks import Tasks, beside
from hpal_cli.writers import cloud, las
from hpal_cli.writers.cloud import ViewerCloud, reserve_paths, write_blocks

if TYPE_CHECKING:
    from hpal_cli.parallel import Cluster

FORMATS = (*cloud.FORMATS, *benchmarks.FORMATS)

COLORS = ("auto", "class", "rgb")


@dataclass(frozen=True)
class Exported:
    """The files that were written, and how many points they have in all."""

    paths: list[Path]
    points: int


@dataclass(frozen=True)
class _File:
    """A file to write. write: called with its path, whether a file there is replaced, and a function to which it
    reports numbers of written points."""

    name: str
    points: int
    write: Callable[[Path, bool, Callable[[int], None]], None]


def export(
    path: Path,
    folder: Path,
    format: str = "ply",
    *,
    original: Path | None = None,
    color: str = "auto",
    split: str = "all",
    scenes: Sequence[str] = (),
    uncompressed: bool = False,
    overwrite: bool = False,
    jobs: int | Cluster = 1,
    monitor: Monitor | None = None,
) -> Exported:
    """Writes every scene of a scenes, predictions or labels store to `folder/<scene>.<format>`.

    Args:
        path: the store; folder: where the files are written.
        format: ply, las, laz or csv; for predictions with `original` also scannet or semantickitti.
        original: the scenes store to which the store belongs: its original points are written instead of the grid
            points, each with the result of its grid point.
        color: `class`, `rgb` as scanned, or `auto`: class for predictions and answers, rgb for scenes; at original
            points, class for a PLY of predictions, else rgb.
        split, scenes: which scenes, by split and patterns of names.
        jobs: number of processes, or a cluster, that write; the files are the same with any.
        uncompressed: with `original` and the format las, also write LAS for files that were LAZ, which else stay LAZ.

    Raises:
        UsageError: a format or colour is unknown, or has no meaning for this store or with `original`.
        HpalError: there is no such store, a file exists and `overwrite` is not given, or the format cannot hold the
            points. No file is left then.
    """
    for option, value, known in (("--format", format, FORMATS), ("--color", color, COLORS)):
        if value not in known:
            raise UsageError(option, f"{value!r} is unknown", f"choose from {', '.join(known)}")
    if not path.exists():
        raise HpalError(path, "does not exist", "check the name")
    kind = kind_of(path)
    if kind not in ("scenes", "predictions", "labels"):
        what = "is not an hpal store" if kind is None else f"is a {kind} store, which has nothing to show"
        raise HpalError(path, what, "give a scenes, predictions or labels store")
    if kind == "labels":
        for option, given in (("--scenes", scenes), ("--original", original), ("--split", split != "all")):
            if given:
                raise UsageError(option, "has no meaning for a labels store", "leave it out")
    if format in benchmarks.FORMATS:
        if kind != "predictions":
            raise UsageError("--format", f"{format} is for predictions, and {path} holds {kind}", "give predictions")
        if original is None:
            raise UsageError(
                "--format", f"{format} is for predictions at original points", "add --original with the scenes store"
            )
        if color != "auto":
            raise UsageError("--color", f"has no meaning for {format}", "leave it out")
    if uncompressed and (original is None or format != "las"):
        raise UsageError("--uncompressed", "is for --format las with --original", "leave it out")
    if original is not None:
        store = SceneStore(original)
        points_store: PredictionStore | SceneStore = (
            PredictionStore(path) if kind == "predictions" else SceneStore(path)
        )
        return export_originals(
            store,
            points_store,
            points_store.choose(split, scenes),
            folder,
            format,
            color=color,
            uncompressed=uncompressed,
            overwrite=overwrite,
            jobs=jobs,
            monitor=monitor,
        )
    if kind == "predictions":
        predictions = PredictionStore(path)
        files = [
            _grid(scene.name, scene.points, format, partial(prediction_cloud, predictions, scene, color))
            for scene in predictions.choose(split, scenes)
        ]
    elif kind == "labels":
        labels = LabelStore(path)
        latest = labels.latest()
        if not len(latest):
            raise HpalError(path, "holds no answers yet", "give some with `hpal label`")
        rows_of = by_scene(latest)
        answers = [(scene, rows_of[scene.number]) for scene in labels.table if scene.number in rows_of]
        files = [
            _grid(scene.name, len(rows), format, partial(answers_cloud, labels, scene, rows)) for scene, rows in answers
        ]
    else:
        # Opening it also reports what is wrong with a store of another kind.
        made = SceneStore(path)
        files = [
            _grid(scene.name, scene.points, format, partial(scene_cloud, made, scene, color))
            for scene in made.choose(split, scenes)
        ]
    # Answers are few, and the tasks of a cluster hold no arrays.
    return _write(files, folder, overwrite, 1 if kind == "labels" else jobs, monitor or Silent())


def export_originals(
    store: SceneStore,
    points_store: PredictionStore | SceneStore,
    scenes: Sequence[SceneInfo],
    folder: Path,
    format: str,
    *,
    color: str = "auto",
    uncompressed: bool = False,
    overwrite: bool = False,
    jobs: int | Cluster = 1,
    monitor: Monitor | None = None,
) -> Exported:
    """Writes the original points of these scenes of `store`, with the predictions of `points_store`, or, if that is a
    scenes store, as they were read. There is one file for each scene; but if a scene was read from several files or
    from a part of one, there is one for each file that was read. With the format las, files that were LAZ stay LAZ,
    unless `uncompressed` is set.

    Raises:
        HpalError: `points_store` belongs to other scenes, a file exists and `overwrite` is not given, or the format
            cannot hold the points.
    """
    if store.table.id != points_store.table.id:
        raise HpalError(
            points_store.path, f"belongs to other scenes than {store.path}", "give the scenes that it was made from"
        )
    predictions = points_store if isinstance(points_store, PredictionStore) else None
    files = []
    for name, originals in _originals(store, predictions, scenes).items():
        if format in benchmarks.FORMATS:
            path = benchmarks.file_name(name, format, store.path)
        else:
            path = f"{name}.{originals.suffix(format, uncompressed=uncompressed)}"
        files.append(_File(path, originals.points, partial(_write_original, originals, format, color)))
    return _write(files, folder, overwrite, jobs, monitor or Silent())


@contextlib.contextmanager
def reserve_originals(
    store: SceneStore,
    scenes: Sequence[SceneInfo],
    folder: Path,
    format: str,
    *,
    color: str,
    uncompressed: bool = False,
    overwrite: bool,
) -> Iterator[None]:
    """For a prediction that `export_originals` will write after the block: checks before the block all that it would
    refuse. If the block fails, a folder that was made for the files is removed.

    Raises:
        HpalError: a file exists and `overwrite` is not given, or the format cannot hold the classes or colours.
    """
    originals = _originals(store, None, scenes)
    names = {name: f"{name}.{one.suffix(format, uncompressed=uncompressed)}" for name, one in originals.items()}
    if format in ("las", "laz"):
        las.require_classes(las.codes(store.classes, own=store.format == "las"), folder)
        for name, one in originals.items():
            if color == "class" and one.file.las_header is not None:
                las.require_colours(one.file.las_header, folder / names[name])
    with reserve_paths(folder, list(names.values()), overwrite=overwrite):
        yield


def _originals(
    store: SceneStore, predictions: PredictionStore | None, scenes: Sequence[SceneInfo]
) -> dict[str, Originals]:
    """The files to write, by name: one for each scene; or, if a scene was read from several files or shares one with
    another scene, one for each file that was read."""
    parts: dict[str, list[tuple[SourceFile, Part]]] = {}
    whole = True
    for scene in scenes:
        files = store.files(scene)
        whole &= len(files) < 2
        for file, (start, stop) in zip(files, store.rows_of_files(scene), strict=True):
            parts.setdefault(file.name, []).append((file, Part(scene, start, stop)))
    if whole and all(len(found) == 1 for found in parts.values()):
        made = {}
        for scene in scenes:
            (file,) = store.files(scene) or [SourceFile(scene.name, scene.original)]
            made[scene.name] = Originals(store, predictions, file, (Part(scene, 0, scene.original),))
        return made
    return {
        str(PurePosixPath(name).with_suffix("")).removesuffix(COPC): Originals(
            store, predictions, found[0][0], tuple(part for _, part in found)
        )
        for name, found in parts.items()
    }


def _write_original(
    originals: Originals, format: str, color: str, path: Path, overwrite: bool, written: Callable[[int], None]
) -> None:
    if format in benchmarks.FORMATS:
        benchmarks.write(originals, path, format, overwrite=overwrite, written=written)
    else:
        originals.write(path, color, overwrite=overwrite, written=written)


def _grid(name: str, points: int, format: str, make: Callable[[], ViewerCloud]) -> _File:
    return _File(f"{name}.{format}", points, partial(_write_grid, make, points))


def _write_grid(
    make: Callable[[], ViewerCloud], points: int, path: Path, overwrite: bool, written: Callable[[int], None]
) -> None:
    cloud = make()
    write_blocks(lambda: iter([cloud]), points, path, overwrite=overwrite, written=written)


def _write(files: Sequence[_File], folder: Path, overwrite: bool, jobs: int | Cluster, monitor: Monitor) -> Exported:
    points = sum(file.points for file in files)
    with (
        reserve_paths(folder, [file.name for file in files], overwrite=overwrite) as paths,
        remove_new_on_error(paths, overwrite=overwrite),
        beside(folder, jobs) as tasks,
        monitor.task("writing", points) as task,
    ):
        if jobs == 1:
            for file, path in zip(files, paths, strict=True):
                file.write(path, overwrite, partial(task.advance, status=file.name))
        else:
            work = [_Work(file, path, overwrite, tasks) for file, path in zip(files, paths, strict=True)]
            with contextlib.closing(map_in_order(_write_file, work, jobs)) as results:
                for file, _ in zip(files, results, strict=True):
                    task.advance(file.points, file.name)
    return Exported(paths, points)


@dataclass(frozen=True)
class _Work:
    """One file to write, as a task for a worker process."""

    file: _File
    path: Path
    overwrite: bool
    tasks: Tasks


def _write_file(work: _Work) -> None:
    def write(again: bool) -> None:
        work.file.write(work.path, work.overwrite or again, lambda points: None)

    work.tasks.once(work.path, write)
