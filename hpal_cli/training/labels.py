"""The labels that a model learns from: answers, and the probabilities that were spread from them (docs/method.md)."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from hpal_cli.errors import HpalError
from hpal_cli.labels.store import LabelStore, answers_digest, by_scene
from hpal_cli.predictions.store import PredictionStore
from hpal_cli.scene_table import SceneInfo
from hpal_cli.scenes.store import SceneStore

SceneLabels = tuple[NDArray[np.int64], NDArray[np.int32]]
"""The known labels of a scene: rows (L,) and class ids (L,), where -1 is known to be no class (unsure or ignored)."""

NO_LABELS: SceneLabels = (np.zeros(0, np.int64), np.zeros(0, np.int32))

MIN_WEIGHT = 1e-3
"""Weights below this are set to 0, since they may only be rounding errors of float16."""

MIN_SHARE = 1e-4
"""Least share of a class in the computation of its weight, so that a few doubtful points do not outweigh all others."""

_BLOCK = 1 << 18
"""Points that are processed at a time."""


def known_labels(
    store: SceneStore, labels: LabelStore | None
) -> tuple[dict[str, SceneLabels], dict[str, NDArray[np.int64]]]:
    """The known labels of each train scene, and the rows in any scene that were answered. Both include unsure answers
    (-1), which must not enter a loss.

    Without a labels store, every label of the train split is known, and no point counts as answered.

    Raises:
        HpalError: the labels are of other scenes, name a row or class that does not exist, or none is in the train
            split.
    """
    if labels is None:
        known = {}
        for scene in store.table.choose("train"):
            truth = store.labels(scene)
            if truth is not None and (truth >= 0).any():
                known[scene.name] = (np.arange(scene.points), truth)
        if not known:
            raise HpalError(store.path, "its train scenes hold no labels", "label some points with `hpal label`")
        return known, {}
    labels.require_scenes(store.table.id, store.path)
    answers = by_scene(labels.latest())
    known, answered = {}, {}
    for scene in store.table:
        mine = answers.get(scene.number)
        if mine is None:
            continue
        index, label = mine["index"].astype(np.int64), mine["label"].astype(np.int32)
        if index.min() < 0 or index.max() >= scene.points or label.max() >= len(store.classes):
            raise HpalError(
                labels.path,
                f"points outside scene {scene.name} or its classes",
                "check it with `hpal info --check`",
            )
        answered[scene.name] = index
        if scene.split == "train":
            known[scene.name] = (index, label)
    if not any((ids >= 0).any() for _, ids in known.values()):
        raise HpalError(labels.path, "holds no label of a train scene", "answer some points with `hpal label` first")
    return known, answered


def restrict_labels(
    keep: NDArray[np.int64], rows: NDArray[np.int64], ids: NDArray[np.int32]
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Restricts the labels of a scene to some of its points. keep: (K,) ascending rows of these points; rows, ids: (L,)
    the rows that have labels, and the labels. Returns, for the M labels whose row is in `keep`, the place of the row in
    `keep` (M,), and the label (M,)."""
    if len(keep) and keep[-1] == len(keep) - 1:
        # These are the first rows, most often all, so nothing has to be searched for.
        inside, at = rows < len(keep), rows
    else:
        at = np.searchsorted(keep, rows)
        inside = at < len(keep)
        inside[inside] = keep[at[inside]] == rows[inside]
    return (at, ids) if inside.all() else (at[inside], ids[inside])


def soft_labels(prob: NDArray[np.floating]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Turns class probabilities (K, C) into training targets (K, C), rows that sum to 1, and their weights (K,), 0 to
    1.

    The part that all classes have in common carries no information, so the smallest entry of a row is subtracted from
    it. The largest remaining entry is the weight: 0 if all probabilities are equal, 1 if one is 1. A row of weight 0
    has a target of zeros.
    """
    target = prob.astype(np.float32)
    target -= target.min(axis=1, keepdims=True)
    weight: NDArray[np.float32] = target.max(axis=1)
    weight[weight < MIN_WEIGHT] = 0
    target[weight == 0] = 0
    target /= np.maximum(target.sum(axis=1, keepdims=True), np.float32(1e-9))
    return target, weight


def require_spread_of(
    predictions: PredictionStore,
    store: SceneStore,
    labels: LabelStore,
    answered: Mapping[str, NDArray[np.int64]],
    *,
    old: bool = False,
) -> None:
    """Checks that predictions can be learned from together with a labels store. answered: of `known_labels`; old:
    accept predictions that were made from other answers than those in the store now.

    Raises:
        HpalError: the predictions are of other scenes or classes, have none of the train scenes, or were made from
            other answers. `hpal spread` records a digest of the answers; for other predictions, the rows that have an
            answer are compared.
    """
    path = predictions.path
    made = predictions.spread_from or {"predictions": [], "alike": False}
    models = [word for model in made["predictions"] for word in ("--predictions", model)]
    words = ["hpal", "spread", labels.path, store.path, *models, *(["--alike"] if made["alike"] else []), "-o", path]
    again = f"{shlex.join(map(str, words))} --overwrite"
    remedy = f"make it from these: {again}"
    if predictions.table.id != store.table.id or predictions.classes.names != store.classes.names:
        raise HpalError(path, f"belongs to other scenes or classes than {store.path}", remedy)
    train = store.table.choose("train")
    if not any(predictions.has(scene) for scene in train):
        raise HpalError(path, "holds none of the train scenes", remedy)
    if old:
        return
    if predictions.spread_from is not None:
        same = predictions.spread_from["answers"] == answers_digest(labels.latest())
    else:
        same = not any(
            len(np.setxor1d(predictions.labelled(scene), answered.get(scene.name, NO_LABELS[0])))
            for scene in train
            if predictions.has(scene)
        )
    if not same:
        raise HpalError(
            path,
            f"was made from other answers than {labels.path} holds now",
            f"make it again: {again}; or give --old-spread to learn from it all the same",
        )


class Spread:
    """The soft labels of the points of the train scenes, from spread answers or a model, and from the answers
    themselves.

    mass: (C,) the sum of the weights of all points, by class; points: number of points with a weight above 0; classes:
    from each train scene to (C,) bool, whether it is the most likely class of some point; digest: of the probabilities.
    """

    def __init__(
        self,
        predictions: PredictionStore,
        store: SceneStore,
        labels: LabelStore,
        known: Mapping[str, SceneLabels],
        answered: Mapping[str, NDArray[np.int64]],
        *,
        old: bool = False,
    ) -> None:
        """Reads all probabilities once. known, answered: of `known_labels`; old: as for `require_spread_of`.

        Raises:
            HpalError: as `require_spread_of`.
        """
        require_spread_of(predictions, store, labels, answered, old=old)
        train = store.table.choose("train")
        self._predictions, self._known = predictions, known
        digest = hashlib.sha256()
        self.mass, self.points = np.zeros(len(store.classes)), 0
        self.classes: dict[str, NDArray[np.bool_]] = {}
        for scene in train:
            prob = self.probabilities(scene)
            digest.update(scene.name.encode() + prob.astype("<f2").tobytes())
            occurs = np.zeros(len(store.classes), bool)
            for _, target, weight in self._blocks(scene, prob):
                self.mass += weight @ target
                self.points += int((weight > 0).sum())
                occurs[target[weight > 0].argmax(axis=1)] = True
            self.classes[scene.name] = occurs
        self.digest = digest.hexdigest()

    def probabilities(self, scene: SceneInfo) -> NDArray[np.float16]:
        """(N, C) the stored probabilities of a scene; zeros for a scene that is not in the store."""
        if self._predictions.has(scene):
            return self._predictions.probabilities(scene)
        return np.zeros((scene.points, len(self._predictions.classes)), np.float16)

    def soft_labels(
        self, scene: SceneInfo, prob: NDArray[np.float16], keep: NDArray[np.int64]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The targets (K, C) and weights (K,) of the rows `keep` (K,), which must be ascending, as the function
        `soft_labels` computes them. prob: (N, C) the `probabilities` of the scene.
        A point with an answer has its class as the target with the weight 1, or the weight 0 if it is "unsure".
        """
        target, weight = soft_labels(prob[keep])
        rows, ids = self._known.get(scene.name, NO_LABELS)
        at, ids = restrict_labels(keep, rows, ids)
        target[at] = 0
        target[at[ids >= 0], ids[ids >= 0]] = 1
        weight[at] = ids >= 0
        return target, weight

    def likely_class(self, scene: SceneInfo, prob: NDArray[np.float16]) -> NDArray[np.int32]:
        """(N,) the most likely class of each point, -1 if nothing is known of it."""
        found = np.empty(len(prob), np.int32)
        for keep, target, weight in self._blocks(scene, prob):
            found[keep] = np.where(weight > 0, target.argmax(axis=1), -1)
        return found

    def _blocks(
        self, scene: SceneInfo, prob: NDArray[np.float16]
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.float32]]]:
        for start in range(0, len(prob), _BLOCK):
            keep = np.arange(start, min(start + _BLOCK, len(prob)))
            yield keep, *self.soft_labels(scene, prob, keep)


def with_minimum_share(mass: NDArray[np.float64]) -> NDArray[np.float64]:
    """(C,) the masses of the classes, raised to at least `MIN_SHARE` of their sum, except those that are 0."""
    return np.where(mass > 0, np.maximum(mass, MIN_SHARE * mass.sum()), 0)
