"""Segmentation metrics, computed from a confusion matrix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpal_cli.classes import ClassTable


def confusion_matrix(truth: NDArray[np.integer], predicted: NDArray[np.integer], classes: int) -> NDArray[np.int64]:
    """(C, C) number of points by true class (row) and predicted class (column), of truth (N,) and predicted (N,).
    Points whose true class is negative (the ignore index) are not counted, nor points without a predicted class (-1),
    which `unpredicted` counts.

    Raises:
        ValueError: a class number is C or more.
    """
    counted = (truth >= 0) & (predicted >= 0)
    pairs = truth[counted].astype(np.int64) * classes + predicted[counted]
    if pairs.size and (truth.max() >= classes or predicted.max() >= classes):
        raise ValueError(f"a class number is outside 0 .. {classes - 1}")
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)


def unpredicted(truth: NDArray[np.integer], predicted: NDArray[np.integer], classes: int) -> NDArray[np.int64]:
    """(C,) number of points of each true class without a predicted class (-1)."""
    return np.bincount(truth[(truth >= 0) & (predicted < 0)], minlength=classes)


@dataclass(frozen=True)
class Metrics:
    """The metrics of a confusion matrix (C, C).

    iou: (C,) TP / (TP + FP + FN), NaN for a class that neither the truth nor the predictions have; miou: its mean over
    the other classes; accuracy: share of points whose predicted class is right; class_accuracy: mean recall of the
    classes that the truth has; points: number of points; without_class: points without a predicted class, which count
    as wrong.
    """

    confusion: NDArray[np.int64]
    iou: NDArray[np.float64]
    miou: float
    accuracy: float
    class_accuracy: float
    points: int
    without_class: int = 0

    @classmethod
    def from_confusion(cls, confusion: NDArray[np.int64], missed: NDArray[np.int64] | None = None) -> Metrics:
        """confusion: (C, C) of `confusion_matrix`; missed: (C,) of `unpredicted`, None if all points have a class."""
        hit = np.diag(confusion).astype(np.float64)
        true, predicted = confusion.sum(axis=1), confusion.sum(axis=0)
        if missed is not None:
            true = true + missed
        points = int(true.sum())
        with np.errstate(invalid="ignore", divide="ignore"):
            iou = hit / (true + predicted - hit)
            recall = hit / true
        return cls(
            confusion,
            iou,
            float(np.nanmean(iou)) if points else float("nan"),
            float(hit.sum() / points) if points else float("nan"),
            float(np.nanmean(recall)) if points else float("nan"),
            points,
            0 if missed is None else int(missed.sum()),
        )

    def to_json(self, classes: ClassTable) -> dict[str, Any]:
        """The metrics as members of a JSON object; numbers have six decimals, and unknown ones are null."""

        def number(value: float) -> float | None:
            return None if np.isnan(value) else round(float(value), 6)

        return {
            "miou": number(self.miou),
            "accuracy": number(self.accuracy),
            "class_accuracy": number(self.class_accuracy),
            "iou": {c.name: number(self.iou[c.id]) for c in classes},
            "points": self.points,
            "without_class": self.without_class,
            "confusion": self.confusion.tolist(),
        }
