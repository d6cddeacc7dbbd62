"""Draws predictions, one picture per scene: the scene as scanned and as predicted, and, if the truth is known, also the
truth and where the prediction differs from it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hpal_cli.classes import IGNORE, ClassTable
from hpal_cli.errors import HpalError
from hpal_cli.export.clouds import class_colors
from hpal_cli.export.scene_picture import Color, Layer, height_layer, scene_picture
from hpal_cli.export.scene_views import framed
from hpal_cli.parallel import map_in_order
from hpal_cli.predictions.store import PredictionStore
from hpal_cli.progress import Monitor, Silent
from hpal_cli.scene_table import SceneInfo
from hpal_cli.scenes.store import SceneStore
from hpal_cli.store.files import atomic_write, remove_new_on_error
from hpal_cli.store.tasks import Tasks, beside
from hpal_cli.writers.cloud import reserve_paths

if TYPE_CHECKING:
    from hpal_cli.parallel import Cluster

NO_CLASS: Color = (246, 236, 200)
RIGHT: Color = (206, 212, 217)
WRONG: Color = (220, 20, 60)


@contextlib.contextmanager
def reserve_pictures(scenes: Sequence[SceneInfo], folder: Path, *, overwrite: bool) -> Iterator[list[Path]]:
    """Gives the paths that `write_pictures` will write, `folder/<scene>.png`, after checking now all that it would
    refuse. If the block fails, a folder that was made for it is removed.

    Raises:
        HpalError: a file exists and `overwrite` is not given, or `folder` is a file or a store.
    """
    with reserve_paths(folder, [f"{scene.name}.png" for scene in scenes], overwrite=overwrite) as paths:
        yield paths


def write_pictures(
    predictions: PredictionStore,
    scenes: Sequence[SceneInfo],
    folder: Path,
    *,
    truth: SceneStore | None = None,
    jobs: int | Cluster = 1,
    overwrite: bool = False,
    monitor: Monitor | None = None,
) -> list[Path]:
    """Writes `folder/<scene>.png` for each scene: from above and from a corner, as scanned (by height if the scene has
    no colour) and by predicted class; with `truth` also by true class, and where the two classes differ.

    jobs: number of processes that draw, or the cluster that does; the files are the same with any.
    Returns the paths, in the order of `scenes`.

    Raises:
        HpalError: a scene was not predicted, `truth` has other scenes, or a file exists and `overwrite` is not given.
    """
    monitor = monitor or Silent()
    if truth is not None and truth.table.id != predictions.table.id:
        raise HpalError(
            truth.path, f"holds other scenes than {predictions.path}", "give the scenes that were predicted"
        )
    with (
        reserve_pictures(scenes, folder, overwrite=overwrite) as paths,
        remove_new_on_error(paths, overwrite=overwrite),
        beside(folder, jobs) as tasks,
        monitor.task("drawing", len(scenes)) as task,
    ):
        draw = partial(_draw, predictions, truth, overwrite, tasks)
        work = list(zip(scenes, paths, strict=True))
        with contextlib.closing(map_in_order(draw, work, jobs)) as results:
            for scene, _ in zip(scenes, results, strict=True):
                task.advance(1, scene.name)
    return paths


def draw_scene(
    store: PredictionStore, info: SceneInfo, layers: Sequence[Layer], path: Path, *, overwrite: bool = False
) -> None:
    """Writes one picture of a scene of `store`: as scanned (by height if the scene has no colour), and in the colours
    of each layer.

    Raises:
        HpalError: the scene was not predicted, or the file exists and `overwrite` is not given.
    """
    scene = framed(partial(store.xyz_blocks, info), info.points, unit=store.unit, grid=store.grid)
    colored = store.has_color(info)
    scanned = Layer("as scanned", store.color_rows(info)) if colored else height_layer(scene, store.unit)
    with atomic_write(path, overwrite=overwrite) as unfinished:
        scene_picture(scene, [scanned, *layers], unfinished, title=info.name, unit=store.unit)


def class_layer(title: str, classes: ClassTable, label: NDArray[np.integer], none: str = "no label") -> Layer:
    """A layer that colours points by class. label: (N,) class ids, -1 for points without a class, which the legend
    calls `none`. The legend has the classes that occur, the most frequent first."""
    known = label[label != IGNORE]
    count = np.bincount(known, minlength=len(classes))
    legend = [(classes[n].name, classes[n].color) for n in np.argsort(-count, kind="stable").tolist() if count[n]]
    legend += [(none, NO_CLASS)] if len(known) < len(label) else []
    return Layer(title, lambda rows: class_colors(classes, label[rows], NO_CLASS), legend)


def error_layer(truth: NDArray[np.integer], predicted: NDArray[np.integer]) -> Layer:
    """A layer that shows where the predicted class ids (N,) differ from the true ones (N,), which are -1 for points
    without a label."""
    kind = np.where(truth == IGNORE, 2, (truth != predicted).astype(np.int8)).astype(np.int8)
    count = np.bincount(kind, minlength=3)
    known = count[0] + count[1]
    title = f"errors: {100 * count[1] / known:.1f} % of the points" if known else "errors: no point has a label"
    keys = [("right", RIGHT), ("wrong", WRONG), ("no label", NO_CLASS)]
    colors = np.array([color for _, color in keys], np.uint8)
    legend = [key for key, here in zip(keys, count, strict=True) if here]
    return Layer(title, lambda rows: colors[kind[rows]], legend)


def _draw(
    store: PredictionStore, truth: SceneStore | None, overwrite: bool, tasks: Tasks, job: tuple[SceneInfo, Path]
) -> None:
    info, path = job
    predicted = store.predicted(info)
    layers = [class_layer("predicted", store.classes, predicted, "nothing known")]
    label = None if truth is None else truth.labels(info)
    if label is not None:
        layers = [class_layer("truth", store.classes, label), *layers, error_layer(label, predicted)]
    tasks.once(path, lambda again: draw_scene(store, info, layers, path, overwrite=overwrite or again))
