"""Turns the points of each kind of store into clouds for a viewer."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpal_cli.classes import ClassTable
from hpal_cli.label.spreadsheet import UNSURE
from hpal_cli.labels.store import LabelStore
from hpal_cli.predictions.store import PredictionStore
from hpal_cli.scene_table import SceneInfo
from hpal_cli.scenes.store import SceneStore
from hpal_cli.score.pointwise import margin
from hpal_cli.writers import las
from hpal_cli.writers.cloud import ViewerCloud, identity

UNLABELLED_COLOR = (128, 128, 128)


def class_colors(
    classes: ClassTable, label: NDArray[np.integer], none: tuple[int, int, int] = UNLABELLED_COLOR
) -> NDArray[np.uint8]:
    """(N,) class ids -> (N, 3) uint8 colours of the classes; points without a class (-1) get the colour `none`."""
    table = np.vstack([classes.colors, [none]]).astype(np.uint8)
    return table[np.where(label >= 0, label, len(classes))]


def predicted(store: PredictionStore, scene: SceneInfo) -> dict[str, NDArray[Any]]:
    """What was predicted for the N grid points of a scene, each (N,): `class` (ids), `confidence` (the highest
    probability), `uncertainty` (1 - margin, the margin being the highest probability minus the second highest).

    Raises:
        HpalError: the scene was not predicted, or its numbers are no probabilities.
    """
    prob = store.probabilities(scene)
    return {
        "class": store.predicted(scene).astype(np.int32),
        "confidence": prob.max(axis=1).astype(np.float32),
        "uncertainty": (1 - margin(prob)).astype(np.float32),
    }


def scene_cloud(store: SceneStore, scene: SceneInfo, color: str = "auto") -> ViewerCloud:
    """The grid points of a scene, with the fields scene, index, class (the label, if the scene has labels), and the
    scene's attributes.

    color: `rgb` as scanned, `class`, or `auto`: rgb if the scene has colours, else class.
    """
    points = store.points(scene, label=True)
    fields = identity(scene, np.arange(scene.points))
    rgb = points.rgb
    if points.label is not None:
        fields["class"] = points.label
        if color == "class" or (color == "auto" and rgb is None):
            rgb = class_colors(store.classes, points.label)
    fields.update({n: v for n, v in points.attributes.items() if n not in fields})
    return ViewerCloud(
        points.position,
        rgb,
        fields,
        "class" if "class" in fields else None,
        class_comments(store.classes),
        las.codes(store.classes, own=store.format == "las"),
        unit=store.unit,
    )


def prediction_cloud(store: PredictionStore, scene: SceneInfo, color: str = "auto") -> ViewerCloud:
    """The grid points of a predicted scene, with the fields scene, index, class, confidence, uncertainty, answered (0
    or 1).

    color: `rgb` as scanned, if the scene has colours; else, and with `auto` or `class`, by class.

    Raises:
        HpalError: the scene was not predicted, or its numbers are no probabilities.
    """
    points = store.points(scene)
    answered = np.zeros(scene.points, np.uint8)
    answered[store.labelled(scene)] = 1
    fields = {**identity(scene, np.arange(scene.points)), **predicted(store, scene), "answered": answered}
    rgb = points.rgb if color == "rgb" and points.rgb is not None else class_colors(store.classes, fields["class"])
    return ViewerCloud(
        points.position,
        rgb,
        fields,
        "class",
        class_comments(store.classes),
        las.codes(store.classes, own=False),
        unit=store.unit,
    )


def answers_cloud(store: LabelStore, scene: SceneInfo, answers: NDArray[np.void]) -> ViewerCloud:
    """The answers of one scene (rows of `LabelStore.latest`) as points, with the fields scene, index, class, round, and
    the class's name."""
    label = answers["label"].astype(np.int32)
    fields: dict[str, NDArray[np.generic]] = {
        **identity(scene, answers["index"]),
        "class": label,
        "round": answers["round"].astype(np.int32),
    }
    names = [*store.classes.names, UNSURE]
    return ViewerCloud(
        np.column_stack([answers["x"], answers["y"], answers["z"]]),
        class_colors(store.classes, label),
        fields,
        "class",
        class_comments(store.classes),
        las.codes(store.classes, own=False),
        {"name": [names[n] for n in label]},
        unit=store.unit,
    )


def class_comments(classes: ClassTable) -> tuple[str, ...]:
    """The class table as comments of a file."""
    return tuple(f"class {c.id} {c.name}" for c in classes)
