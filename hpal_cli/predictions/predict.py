"""predict: what a trained network says of every point of some scenes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from hpal_cli.errors import HpalError
from hpal_cli.history import Entry, to_json
from hpal_cli.network.backend import Backend, choose
from hpal_cli.network.device import full_precision
from hpal_cli.network.inputs import scene_origin, unit_color, voxelise
from hpal_cli.network.minkunet import MinkUNet
from hpal_cli.predictions.store import write_scene
from hpal_cli.progress import Monitor, Silent
from hpal_cli.scenes.store import Points, SceneStore
from hpal_cli.scenes.table import SceneInfo
from hpal_cli.store import envelope
from hpal_cli.training.checkpoint import Checkpoint


@dataclass
class Prediction:
    """Of N points: probabilities (N, C) float32, features (N, F) float32."""

    prob: NDArray[np.float32]
    feat: NDArray[np.float32]


@torch.no_grad()
def predict_points(
    network: MinkUNet,
    points: Points,
    voxel: float,
    *,
    unit: float = 1.0,
    color: bool = True,
    device: torch.device,
    backend: Backend | None = None,
) -> Prediction:
    """A network in evaluation mode on one whole scene, not augmented; the points of a voxel share its answer.

    backend: whose convolution to use, None for what `auto` takes.
    """
    backend = backend or choose("auto", device)
    xyz = scene_origin(points.xyz, unit)
    rgb = unit_color(points.rgb) if color else None
    inputs = voxelise([(xyz, rgb)], voxel).to(device)
    logits, features = network(inputs.features, backend.geometry(inputs.voxel))
    row = inputs.inverse
    return Prediction(logits.softmax(1)[row].cpu().numpy(), features[row].cpu().numpy())


def predict(
    checkpoint: Checkpoint,
    store: SceneStore,
    out: Path,
    *,
    scenes: Sequence[SceneInfo] | None = None,
    device: torch.device | None = None,
    backend: Backend | None = None,
    features: bool = True,
    overwrite: bool = False,
    history: Sequence[Entry] = (),
    monitor: Monitor | None = None,
) -> Iterator[tuple[SceneInfo, NDArray[np.integer], Prediction]]:
    """Writes the predictions store `out`, and yields each scene as it is done: (scene, pred (N,), prediction).

    The store is whole when the iteration ends.

    Raises:
        HpalError: the checkpoint's classes or channels are not the scenes'.
    """
    monitor = monitor or Silent()
    device = device or torch.device("cpu")
    chosen = list(scenes) if scenes is not None else store.table.choose("all")
    check_fits(checkpoint, store, chosen)
    network = checkpoint.network().to(device)
    attributes = {
        "id": store.table.id,
        "classes": store.classes.to_json(),
        "unit": store.unit,
        "grid": store.grid,
        "voxel": checkpoint.settings.voxel,
        "scenes": store.table.to_json(),
        "history": to_json(history),
    }
    same_scenes = checkpoint.scenes == store.table.id
    with (
        envelope.create(out, "predictions", attributes, overwrite=overwrite) as (root, _),
        full_precision(),
        monitor.task("predicting", len(chosen)) as task,
    ):
        for scene in chosen:
            points = store.points(scene)
            done = predict_points(
                network,
                points,
                checkpoint.settings.voxel,
                unit=store.unit,
                color=checkpoint.color,
                device=device,
                backend=backend,
            )
            if not np.isfinite(done.prob).all():
                raise HpalError(scene.name, "the network's answer is not finite", "train again with a lower --lr")
            pred = write_scene(
                root,
                scene,
                points,
                done.prob,
                done.feat if features else None,
                _labelled(checkpoint, scene, same_scenes),
            )
            task.advance(1, f"{scene.name}  {scene.points:,} points")
            yield scene, pred, done


def check_fits(checkpoint: Checkpoint, store: SceneStore, scenes: Sequence[SceneInfo]) -> None:
    """Raises:
    HpalError: other classes, or colours that the network needs and a scene lacks.
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
                    "train on scenes without",
                )


def _labelled(checkpoint: Checkpoint, scene: SceneInfo, same_scenes: bool) -> NDArray[np.int64]:
    if not same_scenes:
        return np.zeros(0, np.int64)
    if checkpoint.all_labelled and scene.split == "train":
        return np.arange(scene.points)
    return np.sort(checkpoint.answered.get(scene.name, np.zeros(0, np.int64)))
