"""Compares predictions with the labels of a scenes store, and counts how many points were labelled for them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hpal_cli.classes import ClassTable
from hpal_cli.errors import HpalError
from hpal_cli.evaluation.metrics import Metrics, confusion_matrix, unpredicted
from hpal_cli.labels.store import ANSWER, LabelStore, by_scene
from hpal_cli.parallel import map_in_order
from hpal_cli.predictions.store import PredictionStore
from hpal_cli.progress import Monitor, Silent
from hpal_cli.scene_table import SceneInfo
from hpal_cli.scenes.provenance import find_source_store
from hpal_cli.scenes.store import SceneStore

if TYPE_CHECKING:
    from hpal_cli.parallel import Cluster


@dataclass
class Labelled:
    """How many points of the train split were labelled.

    train: all points of that split, of which the released code gives the share; train_and_val: all points of the train
    and val splits, of which the paper gives the share; with_unsure: whether `points` may include "unsure" answers.
    Predictions record those like other answers, and without a labels store nothing distinguishes them.
    """

    points: int
    train: int
    train_and_val: int
    with_unsure: bool = False

    @property
    def of_train(self) -> float:
        return self.points / self.train if self.train else 0.0

    @property
    def of_train_and_val(self) -> float:
        return self.points / self.train_and_val if self.train_and_val else 0.0


@dataclass
class Evaluation:
    """How well predictions agree with the truth, over all scenes of a split together.

    `grid` and `original` hold the measures at the grid points and at the points as they were read: `iou` (C,), `miou`,
    `accuracy` and `class_accuracy`, from 0 to 1, and the `confusion` matrix (C, C), with true classes as rows.
    `labelled` counts the labelled points. `left_out` is the number of answered grid points that were not compared; None
    if answered points were compared too.
    """

    classes: ClassTable
    split: str
    scenes: list[str]
    grid: Metrics
    original: Metrics
    labelled: Labelled
    left_out: int | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "split": self.split,
            "scenes": self.scenes,
            "classes": self.classes.names,
            "grid": self.grid.to_json(self.classes),
            "original": self.original.to_json(self.classes),
            "answers_left_out": self.left_out,
            "labelled": {
                "points": self.labelled.points,
                "with_unsure": self.labelled.with_unsure,
                "train_points": self.labelled.train,
                "train_and_val_points": self.labelled.train_and_val,
                "percent_of_train": round(100 * self.labelled.of_train, 6),
                "percent_of_train_and_val": round(100 * self.labelled.of_train_and_val, 6),
            },
        }


def evaluate(
    predictions: PredictionStore,
    truth: SceneStore,
    *,
    labels: LabelStore | None = None,
    split: str = "val",
    scenes: Sequence[str] = (),
    without_answers: bool = False,
    jobs: int | Cluster = 1,
    monitor: Monitor | None = None,
) -> Evaluation:
    """Evaluates predictions by a confusion matrix that is summed over all scenes of a split (docs/method.md, Metrics).
    An original point has the predicted class of its grid point.

    labels: the store whose labelled points are counted; without it, the labelled points in the predictions are counted,
    except "unsure" ones if the labels store that the model learned from still exists. without_answers: leave out the
    grid points that have an answer in `predictions` or `labels`, also "unsure", and the original points in their cells.
    jobs: number of processes, or a cluster; the result does not depend on it.

    Raises:
        HpalError: the stores are of different scenes or classes, a scene has no labels, or no point is left.
    """
    monitor = monitor or Silent()
    if predictions.table.id != truth.table.id:
        raise HpalError(
            truth.path, f"holds other scenes than {predictions.path}", "give the scenes that were predicted"
        )
    if predictions.classes.names != truth.classes.names:
        raise HpalError(truth.path, f"has other classes than {predictions.path}", "give the scenes that were predicted")
    if labels is not None:
        labels = labels.as_of_now()
        labels.require_scenes(truth.table.id, truth.path)
    wanted = truth.table.choose(split, scenes)
    chosen = [scene for scene in wanted if predictions.has(scene)]
    if not chosen:
        raise HpalError(predictions.path, f"holds no scene of split {split}", "predict these scenes first")
    if len(chosen) < len(wanted):
        monitor.warn(
            f"only {len(chosen)} of {len(wanted)} {split} scenes were predicted: the figures are of these alone"
        )
    count = len(truth.classes)
    grid = np.zeros((count, count), np.int64)
    original = np.zeros_like(grid)
    unknown = np.zeros((2, count), np.int64)
    left_out = 0 if without_answers else None
    work = [_Work(predictions, truth, labels, without_answers, scene) for scene in chosen]
    with monitor.task("evaluating", len(chosen)) as task, closing(map_in_order(_compare, work, jobs)) as results:
        for scene, found in zip(chosen, results, strict=True):
            grid += found.grid
            original += found.original
            unknown += found.unknown
            if left_out is not None:
                left_out += found.left_out
            task.advance(1, scene.name)
    if left_out and not (grid.any() or unknown[0].any()):
        raise HpalError(
            predictions.path,
            f"has an answer for every point of split {split} that has a true label",
            "leave out --without-answers, or give another --split",
        )
    return Evaluation(
        truth.classes,
        split,
        [s.name for s in chosen],
        Metrics.from_confusion(grid, unknown[0]),
        Metrics.from_confusion(original, unknown[1]),
        _labelled(predictions, labels),
        left_out,
    )


@dataclass(frozen=True)
class _Work:
    """One scene to evaluate, as a task for a worker process."""

    predictions: PredictionStore
    truth: SceneStore
    labels: LabelStore | None
    without_answers: bool
    scene: SceneInfo


class _Found(NamedTuple):
    """What was counted in a scene: grid, original: (C, C) confusion matrices; unknown: (2, C) points that nothing is
    known of; left_out: number of answered grid points that were not counted."""

    grid: NDArray[np.int64]
    original: NDArray[np.int64]
    unknown: NDArray[np.int64]
    left_out: int


def _compare(work: _Work) -> _Found:
    predictions, truth, scene = work.predictions, work.truth, work.scene
    label = truth.labels(scene)
    points, inverse = truth.original(scene, label=True)
    if label is None or points.label is None:
        raise HpalError(
            truth.path,
            f"scene {scene.name} has no labels to compare with",
            "choose others with --scenes",
        )
    pred, count = predictions.predicted(scene), len(truth.classes)
    kept = np.ones(len(pred), bool)
    if work.without_answers:
        kept[predictions.labelled(scene)] = False
        if work.labels is not None:
            kept[work.labels.answered(truth.table.id, truth.path).get(scene.number, [])] = False
    pairs = (label[kept], pred[kept]), (points.label[kept[inverse]], pred[inverse][kept[inverse]])
    return _Found(
        confusion_matrix(*pairs[0], count),
        confusion_matrix(*pairs[1], count),
        np.array([unpredicted(*pairs[0], count), unpredicted(*pairs[1], count)]),
        int((~kept).sum()),
    )


def _labelled(predictions: PredictionStore, labels: LabelStore | None) -> Labelled:
    table = predictions.table
    train = [scene for scene in table if scene.split == "train"]
    with_unsure = False
    if labels is not None:
        latest = labels.latest()
        points = int(((latest["label"] >= 0) & np.isin(latest["scene"], [s.number for s in train])).sum())
    else:
        trained = _trained_with(predictions)
        nothing = np.zeros(0, ANSWER)
        rows_of = by_scene(nothing if trained is None else trained.latest())
        points = 0
        for scene in train:
            rows = predictions.labelled(scene) if predictions.has(scene) else np.zeros(0, np.int64)
            answers = rows_of.get(scene.number, nothing)
            points += len(rows) - int(np.isin(rows, answers["index"][answers["label"] < 0]).sum())
            with_unsure |= not np.isin(rows, answers["index"]).all()
    size = {split: sum(s.points for s in table if s.split == split) for split in ("train", "val")}
    return Labelled(points, size["train"], size["train"] + size["val"], with_unsure)


def _trained_with(predictions: PredictionStore) -> LabelStore | None:
    """The labels store that the last training or spreading used, if it still exists."""
    last = [entry for entry in predictions.history if entry.program in ("hpal train", "hpal spread")][-1:]
    found = find_source_store(last, "labels", predictions.table.id, predictions.path.parent)
    return None if found is None else LabelStore(found)
