"""Trains a forest on scenes of which some points have labels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hpal_cli.errors import HpalError, UsageError
from hpal_cli.forest.learn import FOLDS, STAGES, Example, learn
from hpal_cli.forest.model import Forest
from hpal_cli.history import Entry
from hpal_cli.labels.store import LabelStore, answers_digest
from hpal_cli.parallel import cores
from hpal_cli.predictions.store import PredictionStore
from hpal_cli.progress import Monitor, Silent
from hpal_cli.scenes.store import SceneStore
from hpal_cli.spreading.spread import fit_prior, known_superpoints, report_missing_classes, spread_scene
from hpal_cli.superpoints.appearance import appearance_of, require_appearance
from hpal_cli.superpoints.build import Superpoints
from hpal_cli.superpoints.store import open_superpoints
from hpal_cli.superpoints.surface import sum_by
from hpal_cli.training.labels import NO_LABELS, known_labels, require_spread_of


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
    """Trains a forest on the train split of `store`.

    Args:
        labels: the answered points; None: every label of the store (fully supervised).
        spread: the predictions store that `hpal spread` made of these answers; None: they are spread here, as with
            `--alike`.
        old_spread: whether a spread of other answers than those of `labels` is accepted.

    Raises:
        HpalError: the labels do not fit the scenes, the spread store was made from other answers, or there is nothing
            to learn from.
    """
    monitor = monitor or Silent()
    train = store.table.choose("train")
    classes = len(store.classes)
    appearance = appearance_of(store, train[0])
    remedy = "use scenes that have the same"
    require_appearance(store, train, appearance, f"scene {train[0].name} has {appearance}", remedy)
    # The arguments are checked before the superpoints are computed, which may take minutes.
    if spread is not None and labels is None:
        raise UsageError(
            "--spread",
            "is of no use with `--labels all`, since every point with a label has it already",
            "leave it out, or give a labels store",
        )
    known, answered = known_labels(store, labels)
    if spread is not None and labels is not None:
        require_spread_of(spread, store, labels, answered, old=old_spread)
    superpoints = open_superpoints(store, history=history, monitor=monitor)
    scenes = [superpoints.read(scene) for scene in train]
    labelled = sum(int((ids >= 0).sum()) for _, ids in known.values())
    given = [known.get(scene.name, NO_LABELS) for scene in train]
    if labels is None:
        targets = [_shares(one, *rows, classes) for one, rows in zip(scenes, given, strict=True)]
    elif spread is None:
        report_missing_classes(labels, np.concatenate([ids for _, ids in given]), monitor)
        trees = fit_prior(
            [(one, *rows) for one, rows in zip(scenes, given, strict=True)], classes, seed=seed, threads=cores()
        )
        targets = [
            spread_scene(one, *rows, classes, None if trees is None else trees(one.feature)).prob
            for one, rows in zip(scenes, given, strict=True)
        ]
    else:
        targets = [
            known_superpoints(spread, scene, one.superpoint, len(one))
            if spread.has(scene)
            else np.zeros((len(one), classes))
            for scene, one in zip(train, scenes, strict=True)
        ]
    if not any(target.any() for target in targets):
        subject = store.path if labels is None else labels.path
        raise HpalError(subject, "holds no label of a train scene", "label some points with `hpal label`")
    examples = [Example(one, target) for one, target in zip(scenes, targets, strict=True) if target.any()]
    with monitor.task("training", stages + (stages - 1) * FOLDS + 1) as task:
        found = learn(examples, stages=stages, seed=seed, threads=cores(), task=task)
    return Forest(
        stages=found,
        likeness=superpoints.likeness(),
        classes=store.classes,
        columns=scenes[0].feature.shape[1],
        scale=superpoints.scale,
        appearance=appearance,
        scenes=store.table.id,
        labels="all" if labels is None else answers_digest(labels.latest()),
        labelled=labelled,
        seed=seed,
        answered=answered,
        all_labelled=labels is None,
        history=list(history),
    )


def _shares(
    superpoints: Superpoints, index: NDArray[np.int64], label: NDArray[np.integer], classes: int
) -> NDArray[np.float64]:
    """(S, C) the share of each class among the points of each superpoint. index, label: (A,) rows and classes of the
    points with an answer, -1 for unsure."""
    sure = label >= 0
    one_hot = np.eye(classes)[label[sure]]
    return sum_by(superpoints.superpoint[index[sure]], one_hot, len(superpoints)) / superpoints.size[:, None]
