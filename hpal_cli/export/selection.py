"""Draws the selected points in their scenes: a PLY and a PNG for each scene."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hpal_cli.export.context import context_cloud, overview
from hpal_cli.labels.store import by_scene
from hpal_cli.predictions.store import PredictionStore
from hpal_cli.progress import Monitor, Silent
from hpal_cli.scenes.store import SceneStore
from hpal_cli.selection.selector import Selection
from hpal_cli.store.files import atomic_write, remove_new_on_error
from hpal_cli.writers.cloud import scene_path, write


def write_context(
    selection: Selection,
    store: PredictionStore | SceneStore,
    folder: Path,
    *,
    radius: float | None = None,
    overwrite: bool = False,
    monitor: Monitor | None = None,
) -> int:
    """Writes `folder/<scene>.ply` and `.png` for each scene with picks; returns the number of these scenes.

    radius: of FDS, in metres; it is drawn to scale.

    Raises:
        HpalError: a file exists and `overwrite` is not given.
    """
    monitor = monitor or Silent()
    chosen = by_scene(selection.rows)
    scenes = [store.table[number] for number in chosen]
    paths = {s.number: (scene_path(folder, s.name, "ply"), scene_path(folder, s.name, "png")) for s in scenes}
    files = [path for pair in paths.values() for path in pair]
    with remove_new_on_error(files, overwrite=overwrite), monitor.task("drawing", len(scenes)) as task:
        for scene in scenes:
            picks = chosen[scene.number]
            points = store.points(scene)
            index, rank = picks["index"], picks["rank"]
            guess = store.predicted(scene)[index].astype(np.int64) if isinstance(store, PredictionStore) else None
            cloud, picture = paths[scene.number]
            write(
                context_cloud(points, index, rank, picks["score"], guess, store.classes, scene),
                cloud,
                overwrite=overwrite,
            )
            with atomic_write(picture, overwrite=overwrite) as partial:
                overview(
                    points, index, rank, guess, store.classes, partial, title=scene.name, unit=store.unit, radius=radius
                )
            task.advance(1, scene.name)
    return len(scenes)
