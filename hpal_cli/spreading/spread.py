"""Computes class probabilities for every point from the answers for a few."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import zarr
from numpy.typing import NDArray

from hpal_cli.errors import HpalError, UsageError
from hpal_cli.history import Entry, to_json
from hpal_cli.labels.store import ANSWER, LabelStore, answers_digest, by_scene
from hpal_cli.parallel import cores, map_in_order
from hpal_cli.predictions.store import PredictionStore, write_scene
from hpal_cli.progress import Monitor, Silent
from hpal_cli.scene_table import SceneInfo
from hpal_cli.scenes.metadata import metadata_of
from hpal_cli.scenes.store import SceneStore
from hpal_cli.shard import Shard
from hpal_cli.spreading.random_walk import random_walk, reachable
from hpal_cli.store import envelope, parts
from hpal_cli.store.tasks import Place, Shared, beside
from hpal_cli.superpoints.build import Superpoints
from hpal_cli.superpoints.likeness import Likeness
from hpal_cli.superpoints.store import SuperpointStore, open_superpoints
from hpal_cli.superpoints.surface import sum_by
from hpal_cli.trees import Trees, fit
from hpal_cli.wording import counted

if TYPE_CHECKING:
    from hpal_cli.parallel import Cluster

STRENGTH, STRENGTH_UNANSWERED = 1.0, 10.0
"""Default strength of the prior in a scene with answers, and in a scene without any, in which the random walk only
smooths the prior."""

MIN_PROBABILITY = 1e-4
"""Added to each probability of a model when several models are pooled, so that none can exclude a class completely."""

_MAX_STRENGTH = 1e6
"""Strength above which answers nearby would have no effect."""

PRIOR_TREES, PRIOR_COLUMNS = 150, 0.3
"""Trees of `fit_prior`, and share of the columns that a split chooses from."""


@dataclass(frozen=True, eq=False)
class SpreadResult:
    """The class probabilities of the S superpoints of a scene after the answers were spread.

    prob: (S, C) class probabilities. A row may sum to less than 1; the rest is the probability that no answer is
    reached.
    known: (S,) whether anything is known of the superpoint.
    """

    prob: NDArray[np.float64]
    known: NDArray[np.bool_]

    @property
    def full(self) -> NDArray[np.float64]:
        """(S, C) probabilities whose rows sum to 1: the rest of each row is divided equally among all classes."""
        missing = np.maximum(1 - self.prob.sum(axis=1, keepdims=True), 0)
        full = self.prob + missing / self.prob.shape[1]
        return full / full.sum(axis=1, keepdims=True)


def answers_by_superpoint(
    superpoint: NDArray[np.integer], index: NDArray[np.int64], label: NDArray[np.integer], classes: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The superpoints (K,) that have an answer, and the share of each class among their answers (K, C).

    superpoint: (N,) superpoint of each point; index, label: (A,) rows and class ids of the answers. Unsure answers (-1)
    are left out.
    """
    sure = label >= 0
    where, which = superpoint[index[sure]], label[sure]
    answered, place = np.unique(where, return_inverse=True)
    counts = np.bincount(place.reshape(-1) * classes + which, minlength=len(answered) * classes)
    counts = counts.reshape(len(answered), classes).astype(np.float64)
    return answered.astype(np.int64), counts / counts.sum(axis=1, keepdims=True)


def spread_scene(
    superpoints: Superpoints,
    index: NDArray[np.int64],
    label: NDArray[np.integer],
    classes: int,
    prior: NDArray[np.float64] | None = None,
    strength: float | None = None,
) -> SpreadResult:
    """Spreads the answers of one scene by random walks (docs/method.md, "Spreading answers").

    index, label: (A,) rows and class ids of the answers, -1 for unsure; prior: (S, C) the class probabilities that
    models predict; strength: the weight of the prior, None for 1 in a scene with answers and 10 in one without.
    """
    answered, answer = answers_by_superpoint(superpoints.superpoint, index, label, classes)
    if strength is None:
        strength = STRENGTH if len(answered) else STRENGTH_UNANSWERED
    prob = random_walk(superpoints.graph, superpoints.size, answered, answer, prior, strength)
    known = (
        reachable(superpoints.graph, len(superpoints), answered) if prior is None else np.ones(len(superpoints), bool)
    )
    prob[~known] = 0
    return SpreadResult(prob, known)


def pool_predictions(predictions: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """(S, C) the pooled probabilities of several models: the geometric mean, which is the logarithmic opinion pool
    (Genest and Zidek, Statistical Science 1986). Unlike with an arithmetic mean, a class that one model excludes is
    unlikely even if another model predicts it. The probabilities of a single model stay as they are.

    predictions: (S, C) each, whose rows sum to 1 or less; the row sums of the result are the means of theirs.
    `MIN_PROBABILITY` is added to each probability, so that no single model can exclude a class completely.
    """
    if len(predictions) == 1:
        return predictions[0]
    pooled = np.exp(sum(np.log(prob + MIN_PROBABILITY) for prob in predictions) / len(predictions))
    sums = sum(prob.sum(axis=1, keepdims=True) for prob in predictions) / len(predictions)
    found: NDArray[np.float64] = pooled * (sums / pooled.sum(axis=1, keepdims=True))
    return found


def fit_prior(
    scenes: Sequence[tuple[Superpoints, NDArray[np.int64], NDArray[np.integer]]],
    classes: int,
    *,
    seed: int = 0,
    threads: int = 1,
) -> Trees | None:
    """Trains trees that predict the class of a superpoint from its description, on the answered superpoints of all
    scenes. Their predictions are a prior for the random walks. Returns None if there is no answer.

    scenes: for each scene its superpoints, and the rows and class ids (A,) of its answers. A superpoint has the weight
    sqrt(points).
    """
    rows, labels, weights = [], [], []
    for superpoints, index, label in scenes:
        answered, answer = answers_by_superpoint(superpoints.superpoint, index, label, classes)
        rows.append(superpoints.feature[answered])
        labels.append(answer.argmax(axis=1))
        weights.append(np.sqrt(superpoints.size[answered]))
    if not any(map(len, labels)):
        return None
    return fit(
        np.concatenate(rows), np.concatenate(labels), np.concatenate(weights), classes,
        trees=PRIOR_TREES, max_features=PRIOR_COLUMNS, seed=seed, threads=threads,
    )  # fmt: skip


def report_missing_classes(labels: LabelStore, given: NDArray[np.integer], monitor: Monitor) -> None:
    """Reports which classes are missing among the answers `given` (A,), since no point can get one of them."""
    answered = np.bincount(given[given >= 0], minlength=len(labels.classes)) > 0
    missing = [one.name for one in labels.classes if not answered[one.id]]
    if missing and answered.sum() == 1:
        only = labels.classes[int(answered.argmax())].name
        monitor.warn(f"every answer is {only}, so no point can get another class: label points of other classes too")
    elif missing:
        monitor.note(f"no answer yet for {len(missing)} of {len(answered)} classes: {', '.join(missing)}")


def known_superpoints(
    spread: PredictionStore, scene: SceneInfo, superpoint: NDArray[np.integer], count: int
) -> NDArray[np.float64]:
    """(count, C) the mean probabilities of each superpoint in a store of spread answers, less the smallest entry of
    each row, since a part that all classes share carries no information. If all entries of a row are equal, it becomes
    0. superpoint: (N,) superpoint of each point; count: number of superpoints."""
    size = np.bincount(superpoint, minlength=count)
    prob = sum_by(superpoint, spread.probabilities(scene).astype(np.float64), count) / size[:, None]
    return prob - prob.min(axis=1, keepdims=True)


def spread(
    labels: LabelStore | None,
    store: SceneStore,
    out: Path,
    *,
    predictions: Sequence[PredictionStore] = (),
    alike: bool = False,
    strength: float | None = None,
    split: str | None = "all",
    scenes: Sequence[str] = (),
    seed: int = 0,
    jobs: int | Cluster = 1,
    shard: Shard | None = None,
    overwrite: bool = False,
    history: Sequence[Entry] | None = (),
    monitor: Monitor | None = None,
) -> Iterator[tuple[SceneInfo, bool]]:
    """Spreads the answers and writes the predictions store `out`. Yields each scene when it is written, and whether
    anything is known of it. The store is complete when the iteration ends.

    labels: the answers; None to only pool and smooth the predictions of models. predictions: stores of models, which
    are pooled to the prior (`pool_predictions`); alike: whether trees that are trained on the answered superpoints
    (`fit_prior`) are pooled as one more model; strength: of the prior, as for `spread_scene`; split, scenes: which
    scenes are written; shard: the part of them that is written, and `out` is there once all parts are (`store.parts`).
    Only answers in the train split are used; the others are for evaluation.

    Raises:
        HpalError: the labels or predictions are of other scenes or classes, or there is nothing to spread.
        UsageError: the strength is out of range, or there are neither labels nor predictions.
    """
    monitor = monitor or Silent()
    latest = np.zeros(0, ANSWER)
    if labels is not None:
        labels.require_scenes(store.table.id, store.path)
        if labels.classes.names != store.classes.names:
            raise HpalError(labels.path, f"has other classes than {store.path}", "give the scenes that were labelled")
        labels.check()
        latest = labels.latest()
    for one in predictions:
        if one.table.id != store.table.id or one.classes.names != store.classes.names:
            raise HpalError(one.path, f"belongs to other scenes or classes than {store.path}", "predict these scenes")
    if strength is not None and not 0 < strength <= _MAX_STRENGTH:
        raise UsageError("--strength", f"{strength:g} is not between 0 and {_MAX_STRENGTH:g}", "give a number like 1")
    chosen = parts.of(shard, store.choose(split, scenes))
    train = [scene for scene in store.table if scene.split == "train"]
    every, empty = by_scene(latest), latest[:0]
    given = {scene.number: every.get(scene.number, empty) for scene in train}
    sure = sum(int((rows["label"] >= 0).sum()) for rows in given.values())
    if not sure and not predictions:
        if labels is None:
            problem = "is missing, and without labels there is nothing else to spread"
            raise UsageError("--predictions", problem, "give a predictions store")
        raise HpalError(
            labels.path, "holds no answer of a train scene to spread", "answer some points with `hpal label` first"
        )
    outside = len(latest) - sum(map(len, given.values()))
    if outside:
        monitor.warn(f"{counted(outside, 'answer')} for scenes outside the train split: not spread")
    if labels is not None and sure and not predictions:
        report_missing_classes(labels, np.concatenate([rows["label"] for rows in given.values()]), monitor)
    superpoints = open_superpoints(store, jobs=None if jobs == 1 else jobs, history=history or (), monitor=monitor)
    trees = None
    if alike:
        learned = ((superpoints.read(s), *_index_and_label(given[s.number])) for s in train if len(given[s.number]))
        trees = fit_prior(list(learned), len(store.classes), seed=seed, threads=cores())
    digest = answers_digest(latest)
    attributes = {
        **metadata_of(store),
        "scenes": store.table.to_json(),
        "spread": {
            "labels": None if labels is None else str(labels.path),
            "answers": digest,
            "predictions": [str(one.path) for one in predictions],
            "alike": alike,
            "strength": strength,
        },
        "history": to_json([*store.history, *(history or ())] if history is not None else []),
    }
    likeness = superpoints.likeness()
    done: list[SceneInfo] = []
    with (
        parts.written(out, shard, overwrite=overwrite, monitor=monitor) as place,
        envelope.create(place, "predictions", attributes, overwrite=overwrite) as (root, folder),
        beside(place, jobs) as tasks,
        monitor.task("spreading", len(chosen)) as task,
    ):
        shared = tasks.shared(
            _Shared(store, superpoints, given, len(store.classes), trees, predictions, strength, likeness)
        )
        work = [_Work(shared, tasks.place(place, folder), scene) for scene in chosen]
        with contextlib.closing(map_in_order(_spread_scene, work, jobs)) as results:
            for scene, found in zip(chosen, results, strict=True):
                if found:
                    work[0].place.finish(root, scene.name)
                    done.append(scene)
                task.advance(1, scene.name)
                yield scene, found is not None
        if not done and shard is None:
            raise HpalError(
                store.path, "none of these scenes has an answer", "choose others, or give --predictions or --alike"
            )
        attributes.update(parts.attribute(shard, done))


@dataclass(frozen=True)
class _Shared:
    """What all tasks need. given: by scene number the answers (A,), as records of `ANSWER`."""

    store: SceneStore
    superpoints: SuperpointStore
    given: dict[int, NDArray[np.void]]
    classes: int
    trees: Trees | None
    predictions: Sequence[PredictionStore]
    strength: float | None
    likeness: Likeness


@dataclass(frozen=True)
class _Work:
    """One scene, as a task for a worker process."""

    shared: Shared[_Shared]
    place: Place
    scene: SceneInfo


def _spread_scene(work: _Work) -> bool | None:
    """Writes a scene. Returns None, and writes nothing, if nothing is known of it."""
    return work.place.write(work.scene.name, partial(_write_spread, work.shared.value, work.scene))


def _write_spread(work: _Shared, scene: SceneInfo, root: zarr.Group, _: Path) -> bool | None:
    superpoints = work.superpoints.read(scene)
    index, label = _index_and_label(work.given.get(scene.number, np.zeros(0, ANSWER)))
    priors = [] if work.trees is None else [work.trees(superpoints.feature)]
    for one in work.predictions:
        if one.has(scene):
            prob = one.probabilities(scene).astype(np.float64)
            priors.append(sum_by(superpoints.superpoint, prob, len(superpoints)) / superpoints.size[:, None])
    if not priors and not (label >= 0).any():
        return None
    prior = pool_predictions(priors) if priors else None
    found = spread_scene(superpoints, index, label, work.classes, prior, work.strength)
    superpoint = superpoints.superpoint
    full = found.full.astype(np.float16)
    # If the effect of an answer far away is lost in the rounding to float16, nothing is known of the superpoint either.
    even = (full == full[:, :1]).all(axis=1) & (work.classes > 1)
    point, unknown = full[superpoint], (even | ~found.known)[superpoint]
    # An answered point has its own answer, whatever the other answers in its superpoint are.
    sure = label >= 0
    point[index[sure]] = np.eye(work.classes, dtype=np.float16)[label[sure]]
    unknown[index[sure]] = False
    feat = work.likeness(superpoints.feature).astype(np.float16)[superpoint]
    rows = np.sort(index)
    write_scene(root, scene, work.store.points(scene), point, feat, rows, superpoint=superpoint, unknown=unknown)
    return True


def _index_and_label(answers: NDArray[np.void]) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    return answers["index"].astype(np.int64), answers["label"].astype(np.int32)
