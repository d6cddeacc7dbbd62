"""The best accuracy that is possible if all points of a superpoint have the same label."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from hpal_cli.evaluation.metrics import Metrics, confusion_matrix


def superpoint_bound(scenes: Iterable[tuple[NDArray[np.integer], NDArray[np.integer]]], classes: int) -> Metrics:
    """The metrics of labels that give every point the most frequent true class of its superpoint, on a tie the lowest
    id.

    scenes: for each scene the superpoint of each point (N,) and its true class (N,), -1 for none.
    """
    confusion = np.zeros((classes, classes), np.int64)
    for superpoint, truth in scenes:
        count = int(superpoint.max(initial=-1)) + 1
        known = truth >= 0
        votes = np.bincount(superpoint[known].astype(np.int64) * classes + truth[known], minlength=count * classes)
        confusion += confusion_matrix(truth, votes.reshape(count, classes).argmax(axis=1)[superpoint], classes)
    return Metrics.from_confusion(confusion)
