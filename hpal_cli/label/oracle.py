"""An oracle: a scenes store with ground truth that answers for the points it is asked about, and no others."""

from __future__ import annotations

import numpy as np

from hpal_cli.errors import HpalError
from hpal_cli.label.store import ANSWER
from hpal_cli.scenes.store import SceneStore
from hpal_cli.stream.rows import Rows


def answer(store: SceneStore, asked: Rows, subject: object) -> Rows:
    """The labels of the asked points: (N,) records of `ANSWER`; -1 ("unsure") where the truth is to be ignored.

    asked: records with `scene` and `index`.

    Raises:
        HpalError: a scene without labels, or a scene or row that the store does not have.
    """
    answers = np.zeros(len(asked), ANSWER)
    answers["scene"], answers["index"] = asked["scene"], asked["index"]
    for number in np.unique(asked["scene"]):
        if not 0 <= number < len(store.table):
            raise HpalError(
                subject, f"asks about scene {number}, which {store.path} does not have", "use matching files"
            )
        scene = store.table[int(number)]
        here = asked["scene"] == number
        index = asked["index"][here]
        if index.min() < 0 or index.max() >= scene.points:
            raise HpalError(subject, f"asks about a point outside scene {scene.name}", "use matching files")
        truth = store.labels(scene)
        if truth is None:
            raise HpalError(store.path, f"scene {scene.name} has no labels to answer from", "use `hpal label --table`")
        answers["label"][here] = truth[index]
        position = store.points(scene).position[index]
        answers["x"][here], answers["y"][here], answers["z"][here] = position.T
    return answers
