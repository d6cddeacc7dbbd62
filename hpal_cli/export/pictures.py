"""Draws predictions, one picture for each scene: as scanned, as predicted, and, if the truth is known, the truth and
where the two differ."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

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
from hpal_cli.writers.cloud import reserve_paths

NO_CLASS: Color = (246, 236, 200)
RIGHT: Color = (206, 212, 217)
WRONG: Color = (220, 20, 60)


@contextlib.contextmanager
def reserve_pictures(scenes: Sequence[SceneInfo], folder: Path, *, overwrite: bool) -> Iterator[list[Path]]:
    """The paths that `write_pictures` will write, `folder/<scene>.png`; what it would refuse is refused now. A folder
    that was made goes away again if the block fails.

    Raises:
        HpalError: a file that exists, or `folder` is a file or a store.
    """
    with reserve_paths(folder, [f"{scene.name}.png" for scene in scenes], overwrite=overwrite) as paths:
        yield paths


def write_pictures(
    predictions: PredictionStore,
    scenes: Sequence[SceneInfo],
    folder: Path,
    *,
    truth: SceneStore | None = None,
    jobs: int = 1,
    overwrite: bool = False,
    monitor: Monitor | None = None,
) -> list[Path]:
    """`folder/<scene>.png` for each of the scenes: from above and from a corner, as scanned (by height where there is
    no colour) and by predicted class; with `truth` also by that, and where the two differ.

    jobs: processes to draw with; the files are the same with any number.

    Raises:
        HpalError: a scene that was not predicted, `truth` of other scenes, or a file that exists.
    """
    monitor = monitor or Silent()
    if truth is not None and truth.table.id != predictions.table.id:
        raise HpalError(
            truth.path, f"holds other scenes than {predictions.path}", "give the scenes that were predicted"
        )
    with (
        reserve_pictures(scenes, folder, overwrite=overwrite) as paths,
        remove_new_on_error(paths, overwrite=overwrite),
        monitor.task("drawing", len(scenes)) as task,
    ):
        draw = partial(_draw, predictions, truth, overwrite)
        for scene, _ in zip(scenes, map_in_order(draw, list(zip(scenes, paths, strict=True)), jobs), strict=True):
            task.advance(1, scene.name)
    return paths


def draw_scene(
    store: PredictionStore, info: SceneInfo, layers: Sequence[Layer], path: Path, *, overwrite: bool = False
) -> None:
    """One picture of a scene of `store`: as scanned (by height where there is no colour), and in the layers' colours.

    Raises:
        HpalError: the scene was not predicted, or the file exists.
    """
    scene = framed(partial(store.xyz_blocks, info), info.points, unit=store.unit, grid=store.grid)
    colored = store.has_color(info)
    scanned = Layer("as scanned", store.color_rows(info)) if colored else height_layer(scene, store.unit)
    with atomic_write(path, overwrite=overwrite) as unfinished:
        scene_picture(scene, [scanned, *layers], unfinished, title=info.name, unit=store.unit)


def class_layer(title: str, classes: ClassTable, label: NDArray[np.integer], none: str = "no label") -> Layer:
    """By class: (N,) ids, -1 for `none`. The legend has the classes that occur, the most frequent first."""
    known = label[label != IGNORE]
    count = np.bincount(known, minlength=len(classes))
    legend = [(classes[n].name, classes[n].color) for n in np.argsort(-count, kind="stable").tolist() if count[n]]
    legend += [(none, NO_CLASS)] if len(known) < len(label) else []
    return Layer(title, lambda rows: class_colors(classes, label[rows], NO_CLASS), legend)


def error_layer(truth: NDArray[np.integer], said: NDArray[np.integer]) -> Layer:
    """Where (N,) predicted ids are not the true ones; -1 in `truth` for points without a label."""
    kind = np.where(truth == IGNORE, 2, (truth != said).astype(np.int8)).astype(np.int8)
    count = np.bincount(kind, minlength=3)
    known = count[0] + count[1]
    title = f"errors: {100 * count[1] / known:.1f} % of the points" if known else "errors: no point has a label"
    keys = [("right", RIGHT), ("wrong", WRONG), ("no label", NO_CLASS)]
    colors = np.array([color for _, color in keys], np.uint8)
    legend = [key for key, here in zip(keys, count, strict=True) if here]
    return Layer(title, lambda rows: colors[kind[rows]], legend)


def _draw(store: PredictionStore, truth: SceneStore | None, overwrite: bool, job: tuple[SceneInfo, Path]) -> None:
    info, path = job
    said = store.predicted(info)
    layers = [class_layer("predicted", store.classes, said, "nothing known")]
    label = None if truth is None else truth.labels(info)
    if label is not None:
        layers = [class_layer("truth", store.classes, label), *layers, error_layer(label, said)]
    draw_scene(store, info, layers, path, overwrite=overwrite)
