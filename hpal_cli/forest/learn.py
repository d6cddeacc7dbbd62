"""Trains the forest by auto-context (Tu and Bai, PAMI 2010): each stage of trees also sees what the stage before
predicts for the surroundings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hpal_cli.forest.boosting import boost, probabilities
from hpal_cli.forest.surroundings import Surroundings
from hpal_cli.progress import Silent, Task
from hpal_cli.superpoints.build import Superpoints
from hpal_cli.trees import Trees, fit

STAGES, TREES, FOLDS, FOLD_TREES = 3, 200, 5, 60
COLUMNS = 0.1
LEAST = 2
BALANCE, BOOSTED_BALANCE = 0.3, 1.0
LEAST_SHARE = 0.003


@dataclass(frozen=True, eq=False)
class Example:
    """A scene to learn from. target: (S, C) class probabilities of its superpoints, rows that sum to 1 or less."""

    superpoints: Superpoints
    target: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Stages:
    """What has been learned: the extremely randomised trees of each stage, and boosted trees that see what the last
    of them see."""

    trees: list[Trees]
    boosted: Trees


def learn(
    scenes: Sequence[Example],
    *,
    stages: int = STAGES,
    trees: int = TREES,
    fold_trees: int = FOLD_TREES,
    columns: float = COLUMNS,
    least: int = LEAST,
    balance: float = BALANCE,
    seed: int = 0,
    threads: int = 1,
    task: Task | None = None,
) -> Stages:
    """Trees of several stages, and boosted ones.

    A superpoint teaches the class of its largest probability p, with the weight p sqrt(points). Stage 0 sees the
    description. Stage n sees besides what stage n - 1 says of the superpoint and, in the mean, of its surroundings.
    For the scenes learned from that must come from trees that have not seen the scene, or else the second stage learns
    to copy: they are shared out into `FOLDS` folds (blocks in plan of few scenes), each predicted by the trees of the
    others. Boosted trees see what the last stage sees, and to them all classes weigh the same. They err elsewhere than
    trees that are drawn at random, and so their mean is better than both.
    """
    task = task or Silent()
    label = np.concatenate([one.target.argmax(axis=1) for one in scenes])
    weight = np.concatenate([one.target.max(axis=1) * np.sqrt(one.superpoints.size) for one in scenes])
    classes = scenes[0].target.shape[1]
    around = [Surroundings(one.superpoints) for one in scenes]
    ends = np.cumsum([0, *(len(one.superpoints) for one in scenes)])
    fold = folds([one.superpoints for one in scenes])
    own = np.concatenate([one.superpoints.feature for one in scenes])
    # A class weighs by share^-balance: one that is rare would else be lost to the one that it looks like.
    mass = np.bincount(label, weight, minlength=classes)
    share = np.maximum(mass / max(mass.sum(), 1e-12), LEAST_SHARE)[label]
    boosted_weight = weight * share**-BOOSTED_BALANCE
    weight = weight * share**-balance
    taught = weight > 0
    seen, found = own, []

    def learned(rows: NDArray[np.bool_], number: int, stage: int) -> Trees:
        kept = np.flatnonzero(rows & taught)
        return fit(
            seen[kept], label[kept], weight[kept], classes,
            trees=number, columns=columns, least=least, seed=seed + stage, threads=threads,
        )  # fmt: skip

    for stage in range(stages):
        found.append(learned(taught, trees, stage))
        task.advance(1, f"stage {stage + 1} of {stages}")
        if stage == stages - 1:
            break
        said = np.zeros((len(own), classes))
        for number in np.unique(fold):
            inside = fold == number
            if (taught & ~inside).any():
                said[inside] = learned(~inside, fold_trees, stage)(seen[inside])
            task.advance(1, f"stage {stage + 1} of {stages}, fold {number + 1}")
        seen = np.concatenate(
            [
                with_context(one.superpoints.feature, said[start:end], surroundings)
                for one, surroundings, start, end in zip(scenes, around, ends[:-1], ends[1:], strict=True)
            ]
        )
    boosted = boost(seen[taught], label[taught], boosted_weight[taught], classes, seed=seed, threads=threads)
    task.advance(1, "boosted trees")
    return Stages(found, boosted)


def with_context(feature: NDArray[np.float32], said: NDArray[np.float64], around: Surroundings) -> NDArray[np.float32]:
    """(S, F + 11 C) what a later stage sees of a scene; said: (S, C) by the stage before it."""
    return np.column_stack([feature, said.astype(np.float32), around(said)])


def apply(stages: Stages, superpoints: Superpoints) -> NDArray[np.float64]:
    """(S, C) class probabilities: half the mean of the stages after the first, or of the first alone, and half the
    boosted trees."""
    around = Surroundings(superpoints) if len(stages.trees) > 1 else None
    seen = superpoints.feature
    said = [stages.trees[0](seen)]
    for trees in stages.trees[1:]:
        assert around is not None
        seen = with_context(superpoints.feature, said[-1], around)
        said.append(trees(seen))
    later = said[1:] or said
    return (sum(later[1:], later[0]) / len(later) + probabilities(stages.boosted, seen)) / 2


def folds(scenes: Sequence[Superpoints]) -> NDArray[np.int64]:
    """(all superpoints,) fold of each, 0 to `FOLDS` - 1: scene by scene in turn. Fewer scenes than folds are cut in
    plan into as many blocks as make up for it."""
    blocks = 1
    while blocks * len(scenes) < FOLDS:
        blocks *= 2
    number, found = 0, []
    for one in scenes:
        fold = np.empty(len(one), np.int64)
        for rows in _halves(one.centre[:, :2].astype(np.float64), np.arange(len(one)), blocks):
            fold[rows] = number % FOLDS
            number += 1
        found.append(fold)
    return np.concatenate(found)


def _halves(plan: NDArray[np.float64], rows: NDArray[np.int64], parts: int) -> Iterator[NDArray[np.int64]]:
    """`parts`, a power of two, of about equally many rows, cut across the longer side each time."""
    if parts == 1 or len(rows) < 2:
        yield rows
        return
    axis = int(np.argmax(np.ptp(plan[rows], axis=0)))
    order = rows[np.argsort(plan[rows, axis], kind="stable")]
    half = len(order) // 2
    yield from _halves(plan, order[:half], parts // 2)
    yield from _halves(plan, order[half:], parts // 2)
