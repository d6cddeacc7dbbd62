"""Predicts class probabilities for every point of some scenes, with a forest."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import zarr
from numpy.typing import NDArray

from hpal_cli.errors import HpalError
from hpal_cli.forest.learn import apply
from hpal_cli.forest.model import Forest
from hpal_cli.history import Entry, to_json
from hpal_cli.parallel import default_jobs, map_in_order
from hpal_cli.predictions.store import write_scene_blocks
from hpal_cli.progress import Monitor, Silent
from hpal_cli.scene_table import SceneInfo
from hpal_cli.scenes.metadata import metadata_of
from hpal_cli.scenes.store import SceneStore
from hpal_cli.shard import Shard
from hpal_cli.store import envelope, parts
from hpal_cli.store.tasks import Place, Shared, beside
from hpal_cli.superpoints.appearance import require_appearance
from hpal_cli.superpoints.build import Superpoints
from hpal_cli.superpoints.store import SuperpointStore, open_superpoints

if TYPE_CHECKING:
    from hpal_cli.parallel import Cluster


def predict_forest(
    forest: Forest,
    store: SceneStore,
    out: Path,
    *,
    scenes: Sequence[SceneInfo] | None = None,
    features: bool = True,
    shard: Shard | None = None,
    jobs: int | Cluster | None = None,
    overwrite: bool = False,
    history: Sequence[Entry] = (),
    monitor: Monitor | None = None,
) -> Iterator[SceneInfo]:
    """Predicts scenes with a forest and writes the predictions store `out`. Yields each scene when it is written. The
    store is complete when the iteration ends. The features are the 32 numbers that describe a superpoint
    (docs/method.md, "Superpoints").

    shard: the part of the scenes that is predicted; `out` is there when all parts are (`store.parts`). jobs: number of
    processes, or the cluster that predicts; None: several processes if that saves time.

    Raises:
        HpalError: the classes or the scale of the forest are not those of the scenes.
    """
    monitor = monitor or Silent()
    chosen = parts.of(shard, scenes if scenes is not None else store.table.choose("all"))
    if forest.classes.names != store.classes.names:
        raise HpalError(
            store.path,
            f"has the classes {', '.join(store.classes.names)}; the model knows {', '.join(forest.classes.names)}",
            "use a model trained on these classes",
        )
    had = f"the model's scenes had {forest.appearance}"
    require_appearance(store, chosen, forest.appearance, had, "use scenes that have the same")
    superpoints = open_superpoints(store, jobs=jobs, history=history, monitor=monitor)
    attributes = {
        **metadata_of(store),
        "scenes": store.table.to_json(),
        "history": to_json(history),
        **parts.attribute(shard, chosen),
    }
    if jobs is None:
        jobs = min(default_jobs(), len(chosen)) if sum(scene.points for scene in chosen) > _WORTH_PROCESSES else 1
    with (
        parts.written(out, shard, overwrite=overwrite, monitor=monitor) as place,
        envelope.create(place, "predictions", attributes, overwrite=overwrite) as (root, folder),
        beside(place, jobs) as tasks,
        monitor.task("predicting", len(chosen)) as task,
    ):
        shared = tasks.shared(_Shared(forest, store, superpoints, features))
        work = [_Work(shared, tasks.place(place, folder), scene) for scene in chosen]
        with contextlib.closing(map_in_order(_predict_scene, work, jobs)) as results:
            for scene, _ in zip(chosen, results, strict=True):
                work[0].place.finish(root, scene.name)
                task.advance(1, f"{scene.name}  {scene.points:,} points")
                yield scene


_WORTH_PROCESSES = 5_000_000
"""Points from which on several processes save more time than it takes to start them."""


@dataclass(frozen=True)
class _Shared:
    """What all tasks need. features: whether they are written."""

    forest: Forest
    store: SceneStore
    superpoints: SuperpointStore
    features: bool


@dataclass(frozen=True)
class _Work:
    """One scene to predict, as a task for a worker process."""

    shared: Shared[_Shared]
    place: Place
    scene: SceneInfo


def _predict_scene(work: _Work) -> bool:
    return work.place.write(work.scene.name, partial(_write_prediction, work.shared.value, work.scene))


def _write_prediction(work: _Shared, scene: SceneInfo, root: zarr.Group, _: Path) -> bool:
    forest, superpoints = work.forest, work.superpoints.read(scene)
    require_columns(forest, superpoints, work.superpoints)
    prob = apply(forest.stages, superpoints).astype(np.float16)
    feat = forest.likeness(superpoints.feature).astype(np.float16)
    superpoint = superpoints.superpoint
    blocks = (
        (prob[part], feat[part] if work.features else None)
        for part in np.split(superpoint, range(envelope.CHUNK_ROWS, len(superpoint), envelope.CHUNK_ROWS))
    )
    rows = _answered(forest, work.store, scene)
    write_scene_blocks(root, scene, work.store.points(scene), blocks, rows, superpoint=superpoint)
    return True


def _answered(forest: Forest, store: SceneStore, scene: SceneInfo) -> NDArray[np.int64]:
    """The rows that the forest has learned from, if it did so on these scenes.

    Raises:
        HpalError: the scene lacks one of the rows.
    """
    if forest.scenes != store.table.id:
        return np.zeros(0, np.int64)
    if forest.all_labelled and scene.split == "train":
        return np.arange(scene.points)
    rows = np.unique(forest.answered.get(scene.name, np.zeros(0, np.int64)))
    if len(rows) and not 0 <= rows[0] <= rows[-1] < scene.points:
        raise HpalError("model", f"has answers for points that scene {scene.name} lacks", "train again")
    return rows


def require_columns(forest: Forest, superpoints: Superpoints, store: SuperpointStore) -> None:
    """Raises:
    HpalError: the superpoints are described by other columns than those that the forest has learned from.
    """
    if superpoints.feature.shape[1] != forest.columns:
        raise HpalError(
            store.path,
            f"describes scenes of scale {store.scale:g}, and the model has learned from scale {forest.scale:g}",
            "train on scenes of the same kind: rooms and landscapes are described differently",
        )
