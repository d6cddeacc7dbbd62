"""Trains the forest by auto-context (Tu and Bai, PAMI 2010): each stage of trees also gets the predictions of the stage
before for the surroundings of a superpoint."""

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
"""Stages, trees in each of them, folds for the predictions between stages, and trees for each fold."""
COLUMNS = 0.1
"""Share of the columns that a split chooses from."""
MIN_SAMPLES_LEAF = 2
"""Superpoints in the smallest leaf."""
BALANCE, BOOSTED_BALANCE = 0.3, 1.0
"""A class has the weight share^-BALANCE, or share^-BOOSTED_BALANCE in the boosted trees."""
MIN_SHARE = 0.003
"""Least share of a class in the computation of its weight."""
MAX_SUPERPOINTS = 60_000
"""Superpoints that the trees are trained on at most; of more, a sample is drawn (`_sample`)."""


@dataclass(frozen=True, eq=False)
class Example:
    """A scene to learn from. target: (S, C) class probabilities of its superpoints; each row sums to 1 or less."""

    superpoints: Superpoints
    target: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Stages:
    """The trained model. trees: the extremely randomised trees of each stage; boosted: boosted trees with the same
    inputs as the last stage."""

    trees: list[Trees]
    boosted: Trees


def learn(
    scenes: Sequence[Example],
    *,
    stages: int = STAGES,
    trees: int = TREES,
    fold_trees: int = FOLD_TREES,
    max_features: float = COLUMNS,
    min_samples_leaf: int = MIN_SAMPLES_LEAF,
    balance: float = BALANCE,
    seed: int = 0,
    threads: int = 1,
    task: Task | None = None,
) -> Stages:
    """Trains the stages and the boosted trees.
    The label of a superpoint is the class of its largest probability p, and its weight is p sqrt(points). The input of
    stage 0 is the description of a superpoint. Later stages also get the predictions of the stage before for the
    superpoint and its `Surroundings`. Those predictions must come from trees that were trained without the scene, since
    the next stage would otherwise learn to copy them. So the scenes (or, if they are few, blocks of them) are divided
    into `FOLDS` folds, and each fold is predicted by trees that were trained on the others. The boosted trees have the
    inputs of the last stage, and all classes have the same weight in them. They make other errors than the randomised
    trees, so the mean of both is better than either. Of more than `MAX_SUPERPOINTS`, a sample is drawn, since the time
    would otherwise grow with the scenes: all trees are trained on the same sample, but the folds are predicted in full.

    Args:
        scenes: the scenes to learn from.
        max_features, min_samples_leaf: as for `trees.fit`; balance: as `BALANCE`.
        threads: number of threads, on which the result does not depend.
    """
    task = task or Silent()
    label = np.concatenate([one.target.argmax(axis=1) for one in scenes])
    weight = np.concatenate([one.target.max(axis=1) * np.sqrt(one.superpoints.size) for one in scenes])
    classes = scenes[0].target.shape[1]
    around = [Surroundings(one.superpoints) for one in scenes]
    ends = np.cumsum([0, *(len(one.superpoints) for one in scenes)])
    fold = folds([one.superpoints for one in scenes])
    own = np.concatenate([one.superpoints.feature for one in scenes])
    # Without the weight share^-balance, a rare class would be predicted as a frequent one that looks like it.
    mass = np.bincount(label, weight, minlength=classes)
    share = np.maximum(mass / max(mass.sum(), 1e-12), MIN_SHARE)[label]
    sampled = _sample(label, weight > 0, MAX_SUPERPOINTS, seed)
    sampled_mass = np.bincount(label, weight * sampled, minlength=classes)
    # The superpoints of a sample stand for those of their class that are left out. Without a sample, this is a factor
    # of exactly 1.
    weight = weight * (mass / np.where(sampled_mass > 0, sampled_mass, 1))[label]
    boosted_weight = weight * share**-BOOSTED_BALANCE
    weight = weight * share**-balance
    seen, found = own, []

    def learned(rows: NDArray[np.bool_], number: int, stage: int) -> Trees:
        kept = np.flatnonzero(rows & sampled)
        return fit(
            seen[kept], label[kept], weight[kept], classes,
            trees=number, max_features=max_features, min_samples_leaf=min_samples_leaf,
            seed=seed + stage, threads=threads,
        )  # fmt: skip

    for stage in range(stages):
        found.append(learned(sampled, trees, stage))
        task.advance(1, f"stage {stage + 1} of {stages}")
        if stage == stages - 1:
            break
        predicted = np.zeros((len(own), classes))
        for number in np.unique(fold):
            inside = fold == number
            if (sampled & ~inside).any():
                predicted[inside] = learned(~inside, fold_trees, stage)(seen[inside])
            task.advance(1, f"stage {stage + 1} of {stages}, fold {number + 1}")
        seen = np.concatenate(
            [
                with_context(one.superpoints.feature, predicted[start:end], surroundings)
                for one, surroundings, start, end in zip(scenes, around, ends[:-1], ends[1:], strict=True)
            ]
        )
    boosted = boost(seen[sampled], label[sampled], boosted_weight[sampled], classes, seed=seed, threads=threads)
    task.advance(1, "boosted trees")
    return Stages(found, boosted)


def _sample(label: NDArray[np.integer], labelled: NDArray[np.bool_], size: int, seed: int) -> NDArray[np.bool_]:
    """(S,) at most `size` of the superpoints that are `labelled` (S,). More are drawn at random, without replacement. A
    superpoint is drawn with the weight n^-1/2, where n is the number of those of its class, so that rare classes keep a
    larger share of theirs. Keys e / weight are drawn, where e is exponentially distributed, and the smallest ones win
    (Efraimidis and Spirakis, Information Processing Letters 2006)."""
    rows = np.flatnonzero(labelled)
    if len(rows) <= size:
        return labelled
    count = np.bincount(label[rows])[label[rows]]
    key = np.random.default_rng(seed).exponential(size=len(rows)) * np.sqrt(count)
    kept = np.zeros(len(labelled), bool)
    kept[rows[np.argsort(key, kind="stable")[:size]]] = True
    return kept


def with_context(
    feature: NDArray[np.float32], predicted: NDArray[np.float64], around: Surroundings
) -> NDArray[np.float32]:
    """(S, F + 11 C) the inputs of a later stage: the description (S, F), the probabilities `predicted` (S, C) by the
    stage before, and their means over the surroundings (S, 10 C)."""
    return np.column_stack([feature, predicted.astype(np.float32), around(predicted)])


def apply(stages: Stages, superpoints: Superpoints) -> NDArray[np.float64]:
    """(S, C) the class probabilities of the superpoints of a scene: the mean of the stages after the first (or of the
    first, if it is the only one), averaged with the boosted trees."""
    around = Surroundings(superpoints) if len(stages.trees) > 1 else None
    seen = superpoints.feature
    predicted = [stages.trees[0](seen)]
    for trees in stages.trees[1:]:
        assert around is not None
        seen = with_context(superpoints.feature, predicted[-1], around)
        predicted.append(trees(seen))
    later = predicted[1:] or predicted
    return (sum(later[1:], later[0]) / len(later) + probabilities(stages.boosted, seen)) / 2


def folds(scenes: Sequence[Superpoints]) -> NDArray[np.int64]:
    """(all superpoints,) the fold of each superpoint, 0 to `FOLDS` - 1. Scenes are assigned to the folds in turn. If
    there are fewer scenes than folds, each scene is divided into blocks (seen from above), which are assigned
    instead."""
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
    """Divides rows into `parts` blocks of about equally many, by halving across the longer side each time. plan: (S, 2)
    x and y; parts: a power of two."""
    if parts == 1 or len(rows) < 2:
        yield rows
        return
    axis = int(np.argmax(np.ptp(plan[rows], axis=0)))
    order = rows[np.argsort(plan[rows, axis], kind="stable")]
    half = len(order) // 2
    yield from _halves(plan, order[:half], parts // 2)
    yield from _halves(plan, order[half:], parts // 2)
