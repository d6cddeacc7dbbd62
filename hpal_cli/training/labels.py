"""The labels that training learns from: answers, and what was spread from them (docs/method.md)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from hpal_cli.errors import HpalError
from hpal_cli.labels.store import LabelStore, answers_digest, by_scene
from hpal_cli.predictions.store import PredictionStore
from hpal_cli.scene_table import SceneInfo
from hpal_cli.scenes.store import SceneStore

SceneLabels = tuple[NDArray[np.int64], NDArray[np.int32]]
"""(rows (L,), class ids (L,)): what is known of a scene; -1 is known to be no class."""

NO_LABELS: SceneLabels = (np.zeros(0, np.int64), np.zeros(0, np.int32))

MIN_WEIGHT = 1e-3
"""Below it a point teaches nothing: what rounding to float16 leaves is no knowledge."""

MIN_SHARE = 1e-4
"""A class of a smaller share weighs as one of this share: a few doubtful points must not outweigh all others."""

_BLOCK = 1 << 18
"""Points that are worked on at a time."""


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
    """answered: what `known_labels` says of the labels store; old: other answers than it holds now are no error.

    Raises:
        HpalError: the predictions are of other scenes or classes, have none of the train scenes, or were made from
            other answers than those of `labels` now. `hpal spread` notes which they were; of other predictions the rows
            that have an answer are compared.
    """
    path = predictions.path
    remedy = f"make it from these: hpal spread {labels.path} {store.path} -o {path}"
    if predictions.table.id != store.table.id or predictions.classes.names != store.classes.names:
        raise HpalError(path, f"is of other scenes or classes than {store.path}", remedy)
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
            f"make it again: hpal spread {labels.path} {store.path} -o {path} --overwrite; or give "
            "--old-spread to learn from it all the same",
        )


class Spread:
    """What `hpal spread`, or a model, says of the points of the train scenes, beside the answers to some of them.

    mass: (C,) the sum of the weights of all points, by class; points: how many teach; classes: train scene -> (C,)
    bool, those that some point most likely is; digest: the same for the same probabilities.
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
        """Reads it all once. known, answered: what `known_labels` says of the labels store; old: it may have been made
        from other answers.

        Raises:
            HpalError: it is of other scenes or classes, has none of the train scenes, or was made from other answers.
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
            there = np.zeros(len(store.classes), bool)
            for _, target, weight in self._blocks(scene, prob):
                self.mass += weight @ target
                self.points += int((weight > 0).sum())
                there[target[weight > 0].argmax(axis=1)] = True
            self.classes[scene.name] = there
        self.digest = digest.hexdigest()

    def probabilities(self, scene: SceneInfo) -> NDArray[np.float16]:
        """(N, C) as stored; zeros for a scene that is not in the store."""
        if self._predictions.has(scene):
            return self._predictions.probabilities(scene)
        return np.zeros((scene.points, len(self._predictions.classes)), np.float16)

    def soft_labels(
        self, scene: SceneInfo, prob: NDArray[np.float16], keep: NDArray[np.int64]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """As the function of this name, for the rows `keep` (K,), ascending; prob: the scene's `probabilities`.

        An answer takes the place of what was spread, with weight 1; "unsure" weighs 0.
        """
        target, weight = soft_labels(prob[keep])
        rows, ids = self._known.get(scene.name, NO_LABELS)
        at = np.searchsorted(keep, rows)
        inside = at < len(keep)
        inside[inside] = keep[at[inside]] == rows[inside]
        at, ids = at[inside], ids[inside]
        target[at] = 0
        target[at[ids >= 0], ids[ids >= 0]] = 1
        weight[at] = ids >= 0
        return target, weight

    def likely_class(self, scene: SceneInfo, prob: NDArray[np.float16]) -> NDArray[np.int32]:
        """(N,) the class that each point most likely is, -1 where that is not known at all."""
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
    """(C,) masses of the classes, none of those that are there below `MIN_SHARE` of the sum."""
    return np.where(mass > 0, np.maximum(mass, MIN_SHARE * mass.sum()), 0)
