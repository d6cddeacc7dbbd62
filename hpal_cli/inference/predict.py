"""Predicts class probabilities and features for every point of some scenes, with a trained network."""

from __future__ import annotations

import contextlib
import math
import tempfile
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import zarr
from numpy.typing import NDArray

from hpal_cli.errors import HpalError, UsageError
from hpal_cli.history import Entry, to_json
from hpal_cli.inference.blend import Blend
from hpal_cli.inference.scene_voxels import SceneInput, SceneVoxels, rows_of
from hpal_cli.inference.tiles import MAX_SIDE, MAX_VOXELS, MIN_SIDE, cut
from hpal_cli.network.backend import Backend, choose
from hpal_cli.network.device import choose as choose_device
from hpal_cli.network.device import full_precision
from hpal_cli.network.inputs import NetworkInput, concatenated, rotated, scene_origin, unit_color, voxelise
from hpal_cli.network.minkunet import MinkUNet
from hpal_cli.network.point_inputs import ExtraColumnsReader
from hpal_cli.parallel import map_in_order
from hpal_cli.predictions.prediction import InMemoryOutputs, Prediction, VoxelOutputs
from hpal_cli.predictions.store import write_scene_blocks
from hpal_cli.progress import Monitor, Silent, Task, WarningCollector
from hpal_cli.scene_table import SceneInfo
from hpal_cli.scenes.metadata import metadata_of
from hpal_cli.scenes.store import SceneStore
from hpal_cli.shard import Shard
from hpal_cli.store import envelope, parts
from hpal_cli.store.tasks import Place, Shared, beside
from hpal_cli.superpoints.store import SuperpointStore, open_superpoints
from hpal_cli.training.checkpoint import Checkpoint

if TYPE_CHECKING:
    from hpal_cli.parallel import Cluster


def predict_points(
    network: MinkUNet, scene: SceneInput, *, turns: int = 1, device: torch.device, backend: Backend | None = None
) -> Prediction:
    """Predicts one whole scene with a network in evaluation mode. All points of a voxel get the same prediction.

    Args:
        turns: how often the scene is predicted, each time rotated by a further equal angle about its middle; the first
            time it is not rotated. The probabilities are the mean over the turns, the features those of the first.
        backend: the library that computes the convolutions; None: what `auto` chooses.

    Raises:
        HpalError: a prediction is not finite.
        UsageError: there is less than one turn.
    """
    backend = backend or choose("auto", device)
    points, further = scene.points, scene.further
    xyz = scene_origin(points.xyz, scene.unit)
    color = unit_color(points.rgb) if scene.color else None
    columns = concatenated(color, None if further is None else further(slice(None)))
    outputs = []
    for angle in _angles(turns):
        inputs = voxelise([(rotated(xyz, angle), columns)], scene.voxel)
        outputs.append((predict_voxels(network, inputs, device, backend, scene.name), inputs.inverse.numpy()))
    return Prediction(*outputs[0], *outputs[1:])


@contextlib.contextmanager
def predict_large(
    network: MinkUNet,
    scene: SceneInput,
    *,
    turns: int = 1,
    device: torch.device,
    backend: Backend | None = None,
    max_voxels: int = MAX_VOXELS,
    features: bool = True,
    folder: Path,
    task: Task | None = None,
    monitor: Monitor | None = None,
) -> Iterator[Prediction]:
    """Predicts a scene of any size. A scene of at most `max_voxels` voxels is predicted by `predict_points`, a larger
    one in tiles. With 0, every scene is predicted as a whole.

    Args:
        features: whether features are wanted; without them, a scene in tiles has none.
        folder: a folder on a disk with room for the predictions of a large scene: for each voxel, 2 bytes for each
            feature, and 4 bytes for each class and turn. They are removed when the block ends, after which the
            prediction cannot be read.

    Raises:
        HpalError: a prediction is not finite.
        UsageError: there is less than one turn.
    """
    monitor = monitor or Silent()
    task = task or Silent()
    backend = backend or choose("auto", device)
    xyz = scene.points.xyz
    # Every voxel has a point, so the voxels of a small scene need not be counted. A rotated scene is at most as wide as
    # its diagonal.
    plan = np.ptp(xyz[:, :2], axis=0)
    narrow = (plan.max() if turns == 1 else np.hypot(*plan)) * scene.unit / scene.voxel < MAX_SIDE
    if not max_voxels or (len(xyz) <= max_voxels and narrow):
        yield predict_points(network, scene, turns=turns, device=device, backend=backend)
        return
    with contextlib.ExitStack() as files:
        outputs: list[tuple[VoxelOutputs, NDArray[np.int64]]] = []
        for turn, angle in enumerate(_angles(turns)):
            voxels = SceneVoxels(scene, angle)
            tiles = cut(voxels, max_voxels)
            largest = max(tile.count(voxels) for tile in tiles)
            if largest > max_voxels and not turn:
                problem = f"a tile has {largest:,} voxels, more than --max-voxels {max_voxels:,}"
                monitor.warn(
                    f"{scene.name}: {problem}: it is not cut to less than {MIN_SIDE} voxels and their surroundings"
                )
            if len(tiles) == 1:
                whole = voxels.inputs(np.arange(len(voxels)))
                outputs.append((predict_voxels(network, whole, device, backend, scene.name), voxels.inverse))
                continue
            # Without a name, so that the system removes it however the process ends.
            blend = Blend(files.enter_context(tempfile.TemporaryFile(dir=folder)), len(voxels))
            for n, tile in enumerate(tiles, 1):
                rows = rows_of(voxels.runs(*tile.with_margin()))
                found = predict_voxels(network, voxels.inputs(rows), device, backend, scene.name)
                weight = tile.weight(voxels.cell(rows))
                used = weight > 0
                feat = found.feat if features and not turn else found.feat[:, :0]
                blend.add(rows[used], weight[used], found.prob[used], feat[used])
                again = f" of turn {turn + 1}" if turn else ""
                task.advance(0, f"{scene.name}  tile {n} of {len(tiles)}{again}")
            outputs.append((blend, voxels.inverse))
        yield Prediction(*outputs[0], *outputs[1:])


def _angles(turns: int) -> list[float]:
    """The angles of the turns in radians, beginning with 0.

    Raises:
        UsageError: there is less than one turn.
    """
    if turns < 1:
        raise UsageError("--turns", f"{turns} is not above zero", "give 1 or more")
    return [2 * math.pi * turn / turns for turn in range(turns)]


@torch.no_grad()
def predict_voxels(
    network: MinkUNet, inputs: NetworkInput, device: torch.device, backend: Backend, name: str
) -> InMemoryOutputs:
    """Predicts the voxels of a batch. name: of the scene, for messages.

    Raises:
        HpalError: a prediction is not finite.
    """
    inputs = inputs.to(device)
    logits, features = network(inputs.features, backend.geometry(inputs.voxel))
    prob = logits.softmax(1).cpu().numpy()
    if not np.isfinite(prob).all():
        raise HpalError(name, "the network's prediction is not finite", "train again with a lower --lr")
    return InMemoryOutputs(prob, features.cpu().numpy())


def predict(
    checkpoint: Checkpoint,
    store: SceneStore,
    out: Path,
    *,
    scenes: Sequence[SceneInfo] | None = None,
    device: torch.device | None = None,
    backend: Backend | None = None,
    features: bool = True,
    turns: int = 1,
    smooth: bool = False,
    max_voxels: int = MAX_VOXELS,
    shard: Shard | None = None,
    overwrite: bool = False,
    history: Sequence[Entry] = (),
    monitor: Monitor | None = None,
) -> Iterator[tuple[SceneInfo, NDArray[np.integer], Prediction]]:
    """Predicts scenes and writes the predictions store `out`. Yields each scene when it is written: (scene, predicted
    classes (N,), prediction). The store is complete when the iteration ends. The prediction can be asked for
    probabilities until the next scene is yielded.

    Args:
        turns: as for `predict_points`.
        smooth: whether the probabilities of a point are averaged with their mean over its superpoint.
        max_voxels: a scene of more voxels is predicted in tiles of about this many; 0: never.
        shard: the part of the scenes that is predicted; `out` is there when all parts are (`store.parts`).

    Raises:
        HpalError: the classes, channels or superpoints of the checkpoint are not those of the scenes.
    """
    monitor = monitor or Silent()
    chosen = parts.of(shard, scenes if scenes is not None else store.table.choose("all"))
    attributes = _attributes(checkpoint, store, chosen, shard, history, monitor)
    superpoints = _superpoints(checkpoint, store, smooth, 1, monitor)
    options = PredictOptions(features, turns, smooth, max_voxels)
    predictor = _Predictor(checkpoint, store, superpoints, options, device or torch.device("cpu"), backend)
    with (
        parts.written(out, shard, overwrite=overwrite, monitor=monitor) as place,
        envelope.create(place, "predictions", attributes, overwrite=overwrite) as (root, folder),
        full_precision(),
        monitor.task("predicting", len(chosen)) as task,
    ):
        for scene in chosen:
            with predictor(scene, root, folder, task, monitor) as (pred, done):
                envelope.scene_written(place, folder, scene.name)
                task.advance(1, f"{scene.name}  {scene.points:,} points")
                yield scene, pred, done


def predict_on(
    cluster: Cluster,
    checkpoint: Checkpoint,
    store: SceneStore,
    out: Path,
    *,
    scenes: Sequence[SceneInfo] | None = None,
    device: str = "auto",
    backend: str = "auto",
    precision: str = "fp32",
    features: bool = True,
    turns: int = 1,
    smooth: bool = False,
    max_voxels: int = MAX_VOXELS,
    shard: Shard | None = None,
    overwrite: bool = False,
    history: Sequence[Entry] = (),
    monitor: Monitor | None = None,
) -> Iterator[SceneInfo]:
    """Predicts as `predict` does, on the workers of a cluster: on those that offer the resource `GPU`, if any do.
    Yields each scene when it is written.

    device, backend, precision: names, from which each worker chooses (`device.choose`, `backend.choose`).

    Raises:
        HpalError: as `predict`, or a worker has not the device.
    """
    monitor = monitor or Silent()
    chosen = parts.of(shard, scenes if scenes is not None else store.table.choose("all"))
    attributes = _attributes(checkpoint, store, chosen, shard, history, monitor)
    superpoints = _superpoints(checkpoint, store, smooth, cluster, monitor)
    options = PredictOptions(features, turns, smooth, max_voxels)
    workers = cluster if device == "cpu" else cluster.on_gpus()
    with (
        parts.written(out, shard, overwrite=overwrite, monitor=monitor) as place,
        envelope.create(place, "predictions", attributes, overwrite=overwrite) as (root, folder),
        beside(place, cluster) as tasks,
        monitor.task("predicting", len(chosen)) as task,
    ):
        shared = tasks.shared(_Shared(checkpoint, store, superpoints, options, device, backend, precision))
        work = [_Work(shared, tasks.place(place, folder), scene) for scene in chosen]
        with contextlib.closing(map_in_order(_predict_scene, work, workers)) as results:
            for scene, warnings in zip(chosen, results, strict=True):
                work[0].place.finish(root, scene.name)
                for text in warnings:
                    monitor.warn(text)
                task.advance(1, f"{scene.name}  {scene.points:,} points")
                yield scene


def _attributes(
    checkpoint: Checkpoint,
    store: SceneStore,
    chosen: Sequence[SceneInfo],
    shard: Shard | None,
    history: Sequence[Entry],
    monitor: Monitor,
) -> dict[str, Any]:
    """The attributes of the predictions.

    Raises:
        HpalError: the checkpoint does not fit the scenes.
    """
    check_fits(checkpoint, store, chosen)
    if checkpoint.scale != (store.scale or 1.0):
        known, theirs = f"{checkpoint.scale:g}", f"{store.scale or 1.0:g}"
        monitor.warn(f"{store.path} has scenes of scale {theirs}, and the model has learned from scale {known}")
    return {
        **metadata_of(store),
        "voxel": checkpoint.settings.voxel,
        "scenes": store.table.to_json(),
        "history": to_json(history),
        **parts.attribute(shard, chosen),
    }


def _superpoints(
    checkpoint: Checkpoint, store: SceneStore, smooth: bool, jobs: int | Cluster, monitor: Monitor
) -> SuperpointStore | None:
    """The superpoints of the scenes, if they are needed."""
    if not smooth and checkpoint.superpoints is None:
        return None
    return open_superpoints(store, jobs=None if jobs == 1 else jobs, monitor=monitor)


@dataclass(frozen=True)
class PredictOptions:
    """How scenes are predicted; see `predict`."""

    features: bool
    turns: int
    smooth: bool
    max_voxels: int


class _Predictor:
    """A network that is ready to predict the scenes of a store."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        store: SceneStore,
        superpoints: SuperpointStore | None,
        options: PredictOptions,
        device: torch.device,
        backend: Backend | None,
    ) -> None:
        self._network = checkpoint.network().to(device)
        self._checkpoint, self._store, self._superpoints = checkpoint, store, superpoints
        self._options, self._device, self._backend = options, device, backend
        self._further_of = ExtraColumnsReader(store, checkpoint.columns, checkpoint.superpoints, None, checkpoint.scale)

    @contextlib.contextmanager
    def __call__(
        self, scene: SceneInfo, root: zarr.Group, folder: Path, task: Task, monitor: Monitor
    ) -> Iterator[tuple[NDArray[np.integer], Prediction]]:
        """Writes a scene. Yields the predicted classes (N,) and the prediction, which can be asked for probabilities
        until the block ends. folder: for the tiles of a large scene."""
        checkpoint, store, options = self._checkpoint, self._store, self._options
        points = store.points(scene)
        superpoints = None if self._superpoints is None else self._superpoints.read(scene)
        given = SceneInput(
            points,
            checkpoint.settings.voxel / checkpoint.scale,
            unit=store.unit / checkpoint.scale,
            color=checkpoint.color,
            further=self._further_of(scene, points, superpoints),
            name=scene.name,
        )
        with predict_large(
            self._network,
            given,
            turns=options.turns,
            device=self._device,
            backend=self._backend,
            max_voxels=options.max_voxels,
            features=options.features,
            folder=folder,
            task=task,
            monitor=monitor,
        ) as done:
            if options.smooth and superpoints is not None:
                done = done.smoothed(superpoints.superpoint)
            pred = write_scene_blocks(
                root,
                scene,
                points,
                ((prob, feat if options.features else None) for prob, feat in done.blocks()),
                _labelled(checkpoint, scene, checkpoint.scenes == store.table.id),
            )
            yield pred, done


@dataclass(frozen=True)
class _Shared:
    """What all tasks need."""

    checkpoint: Checkpoint
    store: SceneStore
    superpoints: SuperpointStore | None
    options: PredictOptions
    device: str
    backend: str
    precision: str

    @cached_property
    def predictor(self) -> _Predictor:
        device = choose_device(self.device)
        chosen = choose(self.backend, device, self.precision)
        return _Predictor(self.checkpoint, self.store, self.superpoints, self.options, device, chosen)


@dataclass(frozen=True)
class _Work:
    """One scene to predict, as a task for a worker."""

    shared: Shared[_Shared]
    place: Place
    scene: SceneInfo


_one_at_a_time = threading.Lock()
"""Held during a prediction. A worker may run several tasks in threads, but one prediction already takes all memory and
all cores that the worker has."""


def _predict_scene(work: _Work) -> list[str]:
    """Writes a scene. Returns the warnings."""
    with _one_at_a_time:
        return work.place.write(work.scene.name, partial(_write_prediction, work.shared.value, work.scene))


def _write_prediction(work: _Shared, scene: SceneInfo, root: zarr.Group, folder: Path) -> list[str]:
    folder.mkdir(parents=True, exist_ok=True)
    collector = WarningCollector()
    with full_precision(), work.predictor(scene, root, folder, Silent(), collector):
        return collector.warnings


def check_fits(checkpoint: Checkpoint, store: SceneStore, scenes: Sequence[SceneInfo]) -> None:
    """Raises:
    HpalError: the model has other classes than the scenes, or a scene lacks a column or the appearance that the model
        needs.
    """
    if checkpoint.classes.names != store.classes.names:
        raise HpalError(
            store.path,
            f"has the classes {', '.join(store.classes.names)}; the model knows {', '.join(checkpoint.classes.names)}",
            "use a model trained on these classes",
        )
    if checkpoint.color:
        for scene in scenes:
            if not store.has_color(scene):
                raise HpalError(
                    store.path,
                    f"scene {scene.name} has no colour, which the model needs",
                    "use a model that was trained without colour",
                )
    if checkpoint.columns is not None:
        checkpoint.columns.require(store, scenes)
    if checkpoint.superpoints is not None:
        checkpoint.superpoints.require(store, scenes)


def _labelled(checkpoint: Checkpoint, scene: SceneInfo, same_scenes: bool) -> NDArray[np.int64]:
    if not same_scenes:
        return np.zeros(0, np.int64)
    if checkpoint.all_labelled and scene.split == "train":
        return np.arange(scene.points)
    return np.sort(checkpoint.answered.get(scene.name, np.zeros(0, np.int64)))
