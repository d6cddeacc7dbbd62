"""train --model forest: from scenes and the labels of some of their points."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hpal_cli.errors import HpalError
from hpal_cli.forest.learn import FOLDS, STAGES, Example, learn
from hpal_cli.forest.model import Forest
from hpal_cli.history import Entry
from hpal_cli.label.store import LabelStore
from hpal_cli.parallel import cores
from hpal_cli.predictions.store import PredictionStore
from hpal_cli.progress import Monitor, Silent
from hpal_cli.scenes.store import SceneStore
from hpal_cli.scenes.table import SceneInfo
from hpal_cli.spread.spread import alike, answers_digest, known_superpoints, require_spread_of, spread_scene
from hpal_cli.superpoints.build import Superpoints
from hpal_cli.superpoints.description import sum_by
from hpal_cli.superpoints.store import open_superpoints


def train_forest(
    store: SceneStore,
    labels: LabelStore | None,
    *,
    spread: PredictionStore | None = None,
    old_spread: bool = False,
    seed: int = 0,
    stages: int = STAGES,
    history: Sequence[Entry] = (),
    monitor: Monitor | None = None,
) -> Forest:
    """A forest that has learned from the train split of `store`.

    Args:
        labels: the answered points, or None to use every label of the store (fully supervised).
        spread: those answers, spread by `hpal spread`; None: they are spread here, by likeness too.
        old_spread: take a spread of other answers all the same.

    Raises:
        HpalError: labels that do not fit the scenes, a spread of other answers, or nothing to learn from.
    """
    monitor = monitor or Silent()
    train = store.table.choose("train")
    classes = len(store.classes)
    superpoints = open_superpoints(store, history=history, monitor=monitor)
    scenes = [superpoints.read(scene) for scene in train]
    answered: dict[str, NDArray[np.int64]] = {}
    digest, labelled = "all", 0
    if labels is None:
        targets = [_truth(store, scene, one, classes) for scene, one in zip(train, scenes, strict=True)]
        labelled = sum(int((np.asarray(store.labels(s)) >= 0).sum()) for s in train if store.labels(s) is not None)
    else:
        labels.require_scenes(store.table.id, store.path)
        labels.check()
        latest = labels.latest()
        digest = answers_digest(latest)
        given = {s.number: latest[latest["scene"] == s.number] for s in store.table}
        answered = {s.name: given[s.number]["index"].astype(np.int64) for s in store.table if len(given[s.number])}
        rows = [given[s.number] for s in train]
        labelled = sum(int((one["label"] >= 0).sum()) for one in rows)
        if not labelled:
            raise HpalError(
                labels.path, "holds no label of a train scene", "answer some points with `hpal label` first"
            )
        if spread is None:
            pairs = [(one["index"].astype(np.int64), one["label"].astype(np.int32)) for one in rows]
            trees = alike(
                [(s, *pair) for s, pair in zip(scenes, pairs, strict=True)], classes, seed=seed, threads=cores()
            )
            assert trees is not None
            targets = [
                spread_scene(s, *pair, classes, trees(s.feature)).prob for s, pair in zip(scenes, pairs, strict=True)
            ]
        else:
            if not old_spread:
                require_spread_of(spread, labels)
            targets = [
                known_superpoints(spread, scene, one.of, len(one))
                if spread.has(scene)
                else np.zeros((len(one), classes))
                for scene, one in zip(train, scenes, strict=True)
            ]
    if not any(target.any() for target in targets):
        subject = store.path if labels is None else labels.path
        raise HpalError(subject, "holds no label of a train scene", "label some points with `hpal label`")
    examples = [Example(one, target) for one, target in zip(scenes, targets, strict=True) if target.any()]
    with monitor.task("training", stages + (stages - 1) * FOLDS) as task:
        found = learn(examples, stages=stages, seed=seed, threads=cores(), task=task)
    return Forest(
        stages=found,
        likeness=superpoints.likeness(),
        classes=store.classes,
        columns=scenes[0].feature.shape[1],
        scale=superpoints.scale,
        scenes=store.table.id,
        labels=digest,
        labelled=labelled,
        seed=seed,
        answered=answered,
        all_labelled=labels is None,
        history=list(history),
    )


def _truth(store: SceneStore, scene: SceneInfo, superpoints: Superpoints, classes: int) -> NDArray[np.float64]:
    """(S, C) the share of each class among the points of a superpoint."""
    label = store.labels(scene)
    if label is None:
        return np.zeros((len(superpoints), classes))
    known = label >= 0
    one_hot = np.eye(classes)[label[known]]
    return sum_by(superpoints.of[known], one_hot, len(superpoints)) / superpoints.size[:, None]
