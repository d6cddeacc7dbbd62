"""What each store looks like: its points as clouds for a viewer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hpal_cli.errors import HpalError
from hpal_cli.export.writers import ViewerCloud
from hpal_cli.label.store import LabelStore
from hpal_cli.predictions.store import PredictionStore
from hpal_cli.scenes.classes import ClassTable
from hpal_cli.scenes.store import SceneStore
from hpal_cli.scenes.table import SceneInfo
from hpal_cli.score.pointwise import margin
from hpal_cli.store.envelope import kind_of

UNLABELLED_COLOR = (128, 128, 128)


def class_colors(
    classes: ClassTable, label: NDArray[np.integer], none: tuple[int, int, int] = UNLABELLED_COLOR
) -> NDArray[np.uint8]:
    """(N,) ids -> (N, 3); `none` for no class."""
    table = np.vstack([classes.colors, [none]]).astype(np.uint8)
    return table[np.where(label >= 0, label, len(classes))]


def original_prediction(
    store: SceneStore, scene: SceneInfo, pred: NDArray[np.integer], prob: NDArray[np.floating]
) -> ViewerCloud:
    """The original points of a scene in their original order, coloured by predicted class.

    pred: (N,) and prob: (N, C) of the grid points; every original point has those of its grid point.
    Fields: class (id), confidence (p1), uncertainty (1 - margin), and the attributes the cloud came with.
    """
    points, inverse = store.original(scene)
    fields: dict[str, NDArray[np.generic]] = {
        "class": pred[inverse].astype(np.int32),
        "confidence": prob.max(axis=1)[inverse].astype(np.float32),
        "uncertainty": (1 - margin(prob))[inverse].astype(np.float32),
    }
    fields.update({name: values for name, values in points.attributes.items() if name not in fields})
    rgb = class_colors(store.classes, pred[inverse])
    return ViewerCloud(points.position, rgb, fields, "class", class_comments(store.classes))


def clouds(
    path: Path, split: str = "all", globs: tuple[str, ...] = (), *, color: str = "auto"
) -> Iterator[tuple[str, ViewerCloud]]:
    """(scene name, cloud) for every scene of a scenes, predictions or labels store.

    color: `rgb` as scanned, `class`, or `auto` (class for predictions and labels, rgb for scenes that have it).

    Raises:
        HpalError: no store of these kinds.
    """
    kind = kind_of(path)
    if kind == "predictions":
        yield from _predictions(PredictionStore(path), split, globs, color)
    elif kind == "labels":
        yield from _labels(LabelStore(path))
    elif path.exists() and kind != "scenes":
        raise HpalError(path, "is not an hpal store", "give a scenes, predictions or labels store")
    else:
        # Also says what is wrong with it.
        yield from _scenes(SceneStore(path), split, globs, color)


def _scenes(store: SceneStore, split: str, globs: tuple[str, ...], color: str) -> Iterator[tuple[str, ViewerCloud]]:
    for scene in store.table.choose(split, globs):
        points = store.points(scene, label=True)
        fields = identity(scene, np.arange(scene.points))
        rgb = points.rgb
        if points.label is not None:
            fields["class"] = points.label
            if color == "class" or (color == "auto" and rgb is None):
                rgb = class_colors(store.classes, points.label)
        fields.update({n: v for n, v in points.attributes.items() if n not in fields})
        yield (
            scene.name,
            ViewerCloud(
                points.position, rgb, fields, "class" if "class" in fields else None, class_comments(store.classes)
            ),
        )


def _predictions(
    store: PredictionStore, split: str, globs: tuple[str, ...], color: str
) -> Iterator[tuple[str, ViewerCloud]]:
    for scene in store.choose(split, globs):
        points = store.points(scene)
        prob, pred = store.probabilities(scene), store.predicted(scene).astype(np.int32)
        answered = np.zeros(scene.points, np.uint8)
        answered[store.labelled(scene)] = 1
        fields = {
            **identity(scene, np.arange(scene.points)),
            "class": pred,
            "confidence": prob.max(axis=1).astype(np.float32),
            "uncertainty": (1 - margin(prob)).astype(np.float32),
            "answered": answered,
        }
        rgb = points.rgb if color == "rgb" and points.rgb is not None else class_colors(store.classes, pred)
        yield scene.name, ViewerCloud(points.position, rgb, fields, "class", class_comments(store.classes))


def _labels(store: LabelStore) -> Iterator[tuple[str, ViewerCloud]]:
    answers = store.latest()
    if not len(answers):
        raise HpalError(store.path, "holds no answers yet", "give some with `hpal label`")
    for scene in store.table:
        mine = answers[answers["scene"] == scene.number]
        if len(mine):
            fields = {
                **identity(scene, mine["index"]),
                "class": mine["label"].astype(np.int32),
                "round": mine["round"].astype(np.int32),
            }
            position = np.column_stack([mine["x"], mine["y"], mine["z"]])
            yield (
                scene.name,
                ViewerCloud(
                    position,
                    class_colors(store.classes, mine["label"]),
                    fields,
                    "class",
                    class_comments(store.classes),
                ),
            )


def identity(scene: SceneInfo, rows: NDArray[np.integer]) -> dict[str, NDArray[np.generic]]:
    """What a point comes back by, however a viewer merges and reorders."""
    return {"scene": np.full(len(rows), scene.number, np.int32), "index": rows.astype(np.int32)}


def class_comments(classes: ClassTable) -> tuple[str, ...]:
    """The class table as comments of a file."""
    return tuple(f"class {c.id} {c.name}" for c in classes)
