"""Measures predictions by the answers of a person for points drawn at random, if no scan has labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hpal_cli.classes import ClassTable
from hpal_cli.errors import HpalError
from hpal_cli.evaluation.metrics import Metrics, confusion_matrix, unpredicted
from hpal_cli.labels.store import LabelStore, by_scene
from hpal_cli.predictions.store import PredictionStore
from hpal_cli.progress import Monitor, Silent
from hpal_cli.wording import counted

CONFIDENCE = 0.95


@dataclass
class Sample:
    """The metrics of predictions at the answered points of some scenes.

    answered: names of the scenes with answers that were counted; learned_from: number of answers that were left out,
    since the model learned from them; unsure: number of answers without a class.
    """

    classes: ClassTable
    split: str
    scenes: list[str]
    answered: list[str]
    metrics: Metrics
    learned_from: int
    unsure: int

    @property
    def accuracy_interval(self) -> tuple[float, float]:
        """The bounds, 0 to 1, between which the accuracy at all points is with a confidence of `CONFIDENCE`, by
        Wilson's score interval (1927)."""
        from scipy.stats import binomtest

        right = int(np.trace(self.metrics.confusion))
        found = binomtest(right, self.metrics.points).proportion_ci(CONFIDENCE, method="wilson")
        return float(found.low), float(found.high)

    def to_json(self) -> dict[str, Any]:
        return {
            "split": self.split,
            "scenes": self.scenes,
            "classes": self.classes.names,
            "answers": {
                **self.metrics.to_json(self.classes),
                "accuracy_interval": [round(bound, 6) for bound in self.accuracy_interval],
                "confidence": CONFIDENCE,
                "scenes": self.answered,
                "learned_from": self.learned_from,
                "unsure": self.unsure,
            },
        }


def evaluate_sample(
    predictions: PredictionStore,
    answers: LabelStore,
    *,
    split: str = "all",
    scenes: Sequence[str] = (),
    monitor: Monitor | None = None,
) -> Sample:
    """Evaluates predictions at the answered points of the scenes of a split. The result holds for all points only if
    the answered ones were drawn at random. Answers that the model has learned from are left out.

    Raises:
        HpalError: the stores are of different scenes or classes, or no answer is left.
    """
    monitor = monitor or Silent()
    answers.require_scenes(predictions.table.id, predictions.path)
    if predictions.classes.names != answers.classes.names:
        raise HpalError(answers.path, f"has other classes than {predictions.path}", "give the answers for these scenes")
    chosen = predictions.choose(split, scenes)
    latest = answers.latest()
    rows_of = by_scene(latest)
    count = len(predictions.classes)
    confusion, unknown = np.zeros((count, count), np.int64), np.zeros(count, np.int64)
    learned = unsure = given = 0
    answered = []
    for scene in chosen:
        rows = rows_of.get(scene.number)
        if rows is None:
            continue
        given += len(rows)
        sure = rows["label"] >= 0
        known = np.isin(rows["index"], predictions.labelled(scene)) & sure
        unsure += int((~sure).sum())
        learned += int(known.sum())
        rows = rows[sure & ~known]
        answered += [scene.name] if len(rows) else []
        predicted = predictions.predicted(scene)[rows["index"]]
        confusion += confusion_matrix(rows["label"], predicted, count)
        unknown += unpredicted(rows["label"], predicted, count)
    remedy = "answer for points drawn at random: `hpal score --strategy random`, `hpal select --no-fds`, `hpal label`"
    if not confusion.any() and not unknown.any():
        what = "no answers" if not given else "no answers that the network has not learned from"
        raise HpalError(answers.path, f"holds {what} in these scenes", remedy)
    if learned:
        monitor.warn(f"{counted(learned, 'answer')} left out, since the network has learned from them")
    if len(latest) > given:
        monitor.note(f"{counted(len(latest) - given, 'answer')} in other scenes left out")
    names = [scene.name for scene in chosen]
    return Sample(
        predictions.classes, split, names, answered, Metrics.from_confusion(confusion, unknown), learned, unsure
    )
