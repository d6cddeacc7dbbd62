"""The calls of the loop, for Python: what `import hpal_cli as hpal` offers (docs/library.md).

A store may be given as its path or as the opened store. A call that writes a store returns it opened. Arguments are
checked before the work begins, and a wrong one raises an `HpalError` or a `UsageError` whose message is one line.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hpal_cli import __version__
from hpal_cli.budget import Budget
from hpal_cli.classes import ClassTable
from hpal_cli.errors import HpalError, UsageError
from hpal_cli.evaluation.evaluate import Evaluation
from hpal_cli.evaluation.evaluate import evaluate as _evaluate
from hpal_cli.history import Entry
from hpal_cli.labels.store import ANSWER, LabelStore
from hpal_cli.predictions.probabilities import bad_rows
from hpal_cli.predictions.store import PredictionStore
from hpal_cli.progress import Monitor
from hpal_cli.scenes.store import SceneStore
from hpal_cli.score.hmmu import LEVELS, Hierarchy, default_weights, measure
from hpal_cli.selection.fds import RADIUS, SIMILARITY, FeatureRows, Suppression, greedy_select
from hpal_cli.spreading.spread import spread as _spread
from hpal_cli.store.remote import located

if TYPE_CHECKING:
    from hpal_cli.forest.model import Forest
    from hpal_cli.parallel import Cluster
    from hpal_cli.training.checkpoint import Checkpoint

PathLike = str | os.PathLike[str]

CALLS = (
    "prepare",
    "open_scenes",
    "open_predictions",
    "open_labels",
    "add_answers",
    "spread",
    "train",
    "predict",
    "hmmu",
    "select",
    "evaluate",
    "connect",
)
TYPES = ("SceneStore", "PredictionStore", "LabelStore", "Evaluation", "HpalError", "UsageError")
"""The calls and types that docs/library.md lists, in this order."""


# ---------------------------------------------------------------- stores


def prepare(
    raw: PathLike,
    out: PathLike,
    *,
    format: str | None = None,
    grid: float | str | None = "default",
    val: Sequence[str] = (),
    test: Sequence[str] = (),
    classes: ClassTable | None = None,
    unit: float | None = None,
    overwrite: bool = False,
    jobs: int | Cluster = 1,
    monitor: Monitor | None = None,
) -> SceneStore:
    """Reads every cloud under `raw`, thins it to one point for each cell of a grid, and writes the scenes store `out`,
    as `hpal prep` does. All other calls start from this store.

    Args:
        raw: a file, or a folder of files.
        format: the format of the files, such as `"s3dis"` or `"las"`; None: it is recognised from the files.
        grid: the edge of a cell in metres; None: every point is kept; `"default"`: an edge that is derived from how
            far apart the points lie.
        val: patterns of scene names for the val split, such as `"Area_5/*"`. Scenes that neither `val` nor `test`
            names are for training.
        test: patterns of scene names for the test split.
        classes: the class table; None: the format's own, or one made of the numbers that the files hold.
        unit: metres in one unit of the coordinates, such as 0.001 for millimetres; None: what the files say, and 1
            if they say nothing.
        overwrite: whether a store at `out` is replaced. Without it, such a store is an error.
        jobs: number of processes that read, or a cluster (`connect`). The result does not depend on it.
        monitor: receives progress and warnings; None: they are not shown.

    Returns:
        The store, opened.

    Raises:
        HpalError: there is nothing to read, a file cannot be read, or `out` exists.
        UsageError: a pattern matches no scene.
    """
    # Imported here, since readers load libraries that no other call needs.
    from hpal_cli.scenes.prepare import prepare as prepare_scenes

    prepare_scenes(
        _path("raw", raw),
        _path("out", out),
        format=format,
        grid=grid,
        val=_names("val", val),
        test=_names("test", test),
        classes=classes,
        unit=unit,
        overwrite=overwrite,
        jobs=jobs,
        history=[_entry("prepare", raw, out)],
        monitor=monitor,
    )
    return open_scenes(out)


def open_scenes(path: PathLike) -> SceneStore:
    """Opens the scenes store at `path`. Points are read only when a method is called that returns them.

    Raises:
        HpalError: there is no complete scenes store of a version that hpal reads.
    """
    return SceneStore(_path("path", path))


def open_predictions(path: PathLike) -> PredictionStore:
    """Opens the predictions store at `path`, which `predict` or `spread` wrote.

    Raises:
        HpalError: there is no complete predictions store of a version that hpal reads.
    """
    return PredictionStore(_path("path", path))


def open_labels(path: PathLike) -> LabelStore:
    """Opens the labels store at `path`, which `add_answers` or `hpal label` wrote.

    Raises:
        HpalError: there is no labels store of a version that hpal reads.
    """
    return LabelStore(_path("path", path))


def add_answers(
    labels: PathLike,
    scenes: SceneStore | PathLike,
    answers: Mapping[str, tuple[ArrayLike, ArrayLike]],
    *,
    source: str = "python",
) -> LabelStore:
    """Adds the answers of one round to the labels store `labels`, and creates the store if there is none.

    A later answer for the same point replaces the earlier one, which is kept in the history of the store.

    Args:
        labels: the path of the labels store.
        scenes: the scenes store whose points were answered.
        answers: for each scene name two arrays of K whole numbers: the rows of the answered grid points, and the class
            ids of the answers. The class id -1 says "unsure": the point is not asked about again, and nothing is
            learned from it.
        source: who or what answered; it is recorded with the answers.

    Returns:
        The labels store, opened.

    Raises:
        HpalError: a scene name, row or class id does not exist, or `labels` belongs to other scenes. No answer is added
            then.
        UsageError: rows and class ids are of unequal length, or there is no answer at all.
    """
    store = _scenes(scenes)
    found = []
    for name, (rows, ids) in answers.items():
        if name not in store.table.by_name:
            raise HpalError(store.path, f"has no scene {name!r}", "give names like those of its table")
        scene = store.table.by_name[name]
        index, label = _integers("rows", rows), _integers("class ids", ids)
        _require_equal("class ids", len(label), "rows", len(index))
        if len(index) and not 0 <= index.min() <= index.max() < scene.points:
            problem = f"row {index.max() if index.min() >= 0 else index.min()} is not in scene {name}"
            raise HpalError(store.path, problem, f"give rows from 0 to {scene.points - 1}")
        if len(label) and not -1 <= label.min() <= label.max() < len(store.classes):
            problem = f"has classes 0 to {len(store.classes) - 1}, and an answer for {name} is none of them"
            raise HpalError(store.path, problem, "give class ids of its table, or -1 for unsure")
        if len(index) == 0:
            continue
        here = np.zeros(len(index), ANSWER)
        here["scene"], here["index"], here["label"] = scene.number, index, label
        here["x"], here["y"], here["z"] = store.points(scene).position[index].T
        found.append(here)
    if not found:
        raise UsageError("answers", "is empty", 'give rows and class ids by scene name, like {"room": ([7], [2])}')
    path = _path("labels", labels)
    kept = LabelStore.at(path, store.classes, store.table, unit=store.unit, subject=store.path)
    kept.append(np.concatenate(found), source, _entry("add_answers", path, store.path))
    return kept


# ---------------------------------------------------------------- from answers to predictions


def spread(
    labels: LabelStore | PathLike | None,
    scenes: SceneStore | PathLike,
    out: PathLike,
    *,
    predictions: Sequence[PredictionStore | PathLike] = (),
    alike: bool = False,
    strength: float | None = None,
    split: str = "all",
    seed: int = 0,
    jobs: int | Cluster = 1,
    overwrite: bool = False,
    monitor: Monitor | None = None,
) -> PredictionStore:
    """Spreads the answers for a few points over the surfaces around them, as `hpal spread` does, and writes class
    probabilities for every point to the predictions store `out`. The method is hpal's own (docs/method.md, "Spreading
    answers").

    Args:
        labels: the labels store; None: there are no answers, and the geometric mean of the `predictions` is smoothed.
        scenes: the scenes store whose points were answered.
        predictions: a list of predictions stores of models for these scenes. Their geometric mean decides where no
            answer is near.
        alike: whether an answer also counts for surfaces in any scene that look like the answered one. For this, trees
            are trained on the answered surfaces, which takes a second.
        strength: the weight of `predictions` and `alike` against the answers nearby; None: 1, and 10 in a scene without
            an answer. Raise it if answers spread too far.
        split: the split whose scenes are written: train, val, test or all.
        seed: the seed of the trees that `alike` trains.
        jobs: number of processes that work on scenes in parallel, or a cluster (`connect`). The result does not depend
            on it.
        overwrite: whether a store at `out` is replaced. Without it, such a store is an error.
        monitor: receives progress and warnings; None: they are not shown.

    Returns:
        The predictions store, opened.

    Raises:
        HpalError: the stores are of different scenes or classes, there is nothing to spread, or `out` exists.
        UsageError: `predictions` is a single store and not a list.
    """
    store, path = _scenes(scenes), _path("out", out)
    if isinstance(predictions, PredictionStore | str | os.PathLike):
        raise UsageError("predictions", "is one store", "give a list of stores, like [store]")
    answered = None if labels is None else _labels(labels)
    for _ in _spread(
        answered,
        store,
        path,
        predictions=[_predictions(one) for one in predictions],
        alike=alike,
        strength=strength,
        split=split,
        seed=seed,
        jobs=jobs,
        overwrite=overwrite,
        history=[_entry("spread", path, seed=seed if alike else None)],
        monitor=monitor,
    ):
        pass
    return open_predictions(path)


def train(
    scenes: SceneStore | PathLike,
    labels: LabelStore | PathLike,
    out: PathLike,
    *,
    model: Literal["network", "forest"] = "network",
    spread: PredictionStore | PathLike | None = None,
    preset: str | None = None,
    init: Checkpoint | PathLike | None = None,
    device: str = "auto",
    backend: str = "auto",
    precision: str = "fp32",
    workers: int = 0,
    seed: int = 0,
    overwrite: bool = False,
    monitor: Monitor | None = None,
    **values: Any,
) -> Checkpoint | Forest:
    """Trains a model on the train split of `scenes`, as `hpal train` does, saves it as the file `out` and returns it.

    The network is MinkowskiNet, a student with a teacher (paper section 3.4; docs/method.md, "Teacher and student").

    Args:
        scenes: the scenes store.
        labels: the labels store; `"all"`: every label that the scenes came with (fully supervised).
        out: the path of the checkpoint to write. The metrics of a network are written beside it.
        model: `"network"`, or `"forest"`, which is trees on superpoints and trained within a minute.
        spread: the predictions store that `spread` made of the same labels. The model then learns from all its points,
            not only from the answered ones.
        preset: named values for the network: `"s3dis"`, `"scannet"`, `"small"` or `"few"`; None: the preset of `init`;
            without `init`, s3dis with CUDA, few with `spread`, and small otherwise.
        init: a checkpoint; the network starts from the weights of its student.
        device: where the network is computed: `"auto"`, `"cpu"`, `"cuda"` or `"cuda:N"`.
        backend: the library that computes the network's convolutions: `"auto"`, `"torch"` or `"minkowski"`.
        precision: the number format of the network's convolutions: `"fp32"` or `"bf16"`, and on a GPU `"tf32"` or
            `"fp16"`.
        workers: number of processes that prepare the network's batches. With 0, a GPU waits for its batches; 8 keep it
            busy. The result does not depend on it.
        seed: the seed of all random draws.
        overwrite: whether a file at `out` is replaced. Without it, such a file is an error.
        monitor: receives progress and warnings; None: they are not shown.
        values: further arguments replace single values of the preset, such as `steps=500` or `voxel=0.1` (metres).
            `hpal train --show` prints their names.

    Returns:
        The trained model, which `predict` takes.

    Raises:
        HpalError: `labels` or `spread` belongs to other scenes, there is nothing to learn from, or `out` exists.
        UsageError: a value does not exist, or a forest was given a value that is for the network.
    """
    from hpal_cli.store.files import require_absent

    store, path = _scenes(scenes), _path("out", out)
    answers = None if isinstance(labels, str) and labels == "all" else _labels(labels)
    spread_from = None if spread is None else _predictions(spread)
    entry = _entry("train", store.path, path, seed=seed)
    require_absent(path, overwrite=overwrite)
    if model == "forest":
        from hpal_cli.forest.train import train_forest

        if network_only := [*(["preset"] if preset else []), *(["init"] if init is not None else []), *values]:
            raise UsageError(network_only[0], "is for the network", 'leave it out with model="forest"')
        history = [*store.history, entry]
        forest = train_forest(store, answers, spread=spread_from, seed=seed, history=history, monitor=monitor)
        forest.save(path, overwrite=overwrite)
        return forest
    if model != "network":
        raise UsageError("model", f"{model!r} is unknown", "choose from network, forest")

    from hpal_cli.network.backend import choose as choose_backend
    from hpal_cli.network.device import choose as choose_device
    from hpal_cli.training.checkpoint import Checkpoint, load
    from hpal_cli.training.distributed import local_device
    from hpal_cli.training.presets import default_preset, settings_of, teacher_of
    from hpal_cli.training.train import train as train_network

    chosen = local_device(choose_device(device))
    start = init if init is None or isinstance(init, Checkpoint) else load(_path("init", init))
    init_settings = None if start is None else start.settings
    name = preset or default_preset(cuda=chosen.type == "cuda", spread=spread is not None, init=init_settings)
    if name == "few" and spread_from is None and answers is not None:
        raise UsageError("preset", "few learns from spread answers, and `spread` is missing", "call `spread` first")
    values = {"teacher": teacher_of(values.get("teacher_after"), spread=spread_from is not None), **values}
    return train_network(
        store,
        answers,
        settings_of(name, values, init=init_settings, scale=store.scale),
        spread=spread_from,
        init=start,
        device=chosen,
        backend=choose_backend(backend, chosen, precision),
        workers=workers,
        seed=seed,
        run=path,
        overwrite=overwrite,
        history=[*(store.history if start is None else start.history), entry],
        monitor=monitor,
    )


def predict(
    model: Checkpoint | Forest | PathLike,
    scenes: SceneStore | PathLike,
    out: PathLike,
    *,
    split: str = "all",
    names: Sequence[str] = (),
    features: bool = True,
    device: str = "auto",
    backend: str = "auto",
    precision: str = "fp32",
    jobs: Cluster | None = None,
    overwrite: bool = False,
    monitor: Monitor | None = None,
) -> PredictionStore:
    """Predicts class probabilities and features of every point, as `hpal predict` does, and writes them to the
    predictions store `out`. The work is done when the call returns.

    Args:
        model: what `train` returned, or the path of its file.
        scenes: the scenes store.
        split: the split whose scenes are predicted: train, val, test or all.
        names: a list of patterns of scene names, such as `["Area_1/*"]`; empty: all scenes of the split.
        features: whether the features are written too. `select` needs them to skip points that look alike.
        device: as for `train`.
        backend: as for `train`.
        precision: as for `train`.
        jobs: the cluster that predicts (`connect`); None: this computer. The workers choose device and backend.
        overwrite: whether a store at `out` is replaced. Without it, such a store is an error.
        monitor: receives progress and warnings; None: they are not shown.

    Returns:
        The predictions store, opened.

    Raises:
        HpalError: the model has other classes than the scenes or needs a column that they lack, or `out` exists.
    """
    from hpal_cli.forest.model import Forest, is_forest
    from hpal_cli.forest.model import load as load_forest
    from hpal_cli.forest.predict import predict_forest

    store, path = _scenes(scenes), _path("out", out)
    chosen = store.table.choose(split, _names("names", names))
    entry = _entry("predict", store.path, path)
    if isinstance(model, str | os.PathLike) and is_forest(_path("model", model)):
        model = load_forest(_path("model", model))
    written: Iterator[object]
    if isinstance(model, Forest):
        written = predict_forest(
            model,
            store,
            path,
            scenes=chosen,
            features=features,
            jobs=jobs,
            overwrite=overwrite,
            history=[*model.history, entry],
            monitor=monitor,
        )
    else:
        from hpal_cli.inference.predict import predict as predict_network
        from hpal_cli.inference.predict import predict_on
        from hpal_cli.network.backend import choose as choose_backend
        from hpal_cli.network.device import choose as choose_device
        from hpal_cli.training.checkpoint import Checkpoint, load

        network = model if isinstance(model, Checkpoint) else load(_path("model", model))
        history = [*network.history, entry]
        if jobs is not None:
            written = predict_on(
                jobs,
                network,
                store,
                path,
                scenes=chosen,
                device=device,
                backend=backend,
                precision=precision,
                features=features,
                overwrite=overwrite,
                history=history,
                monitor=monitor,
            )
        else:
            where = choose_device(device)
            written = predict_network(
                network,
                store,
                path,
                scenes=chosen,
                device=where,
                backend=choose_backend(backend, where, precision),
                features=features,
                overwrite=overwrite,
                history=history,
                monitor=monitor,
            )
    for _ in written:
        pass
    return open_predictions(path)


# ---------------------------------------------------------------- from predictions to questions


def hmmu(
    prob: ArrayLike,
    xyz: ArrayLike,
    *,
    levels: Sequence[float] = LEVELS,
    weights: Sequence[float] | None = None,
    unit: float = 1.0,
) -> NDArray[np.float64]:
    """Scores the N points of one scene by hierarchical minimum margin uncertainty, HMMU (paper section 3.2, equations 1
    to 4; docs/method.md, "HMMU").

    Args:
        prob: (N, C) class probabilities. Each row is the softmax of a point; logits and logarithms are refused.
        xyz: (N, 3) positions.
        levels: the edges of the voxels in metres, one for each level.
        weights: the weight of each level in the score; None: 0.1, 0.01, 0.001, ...
        unit: metres in one unit of `xyz`, such as 0.001 if the positions are in millimetres.

    Returns:
        (N,) scores from 0 to 1. The larger the score, the more a model would learn from the label of the point.

    Raises:
        UsageError: a row of `prob` is not made of probabilities that sum to 1, a position is not finite, the arrays are
            of unequal length, or a level or weight is not above zero.
    """
    rows, position = _probabilities(prob), _positions(xyz)
    _require_equal("xyz", len(position), "prob", len(rows))
    _require_unit(unit)
    hierarchy = Hierarchy(tuple(levels), default_weights(levels) if weights is None else tuple(weights))
    if not len(rows):
        return np.zeros(0)
    return measure(rows, position, hierarchy, unit).score(hierarchy)


def select(
    score: ArrayLike,
    xyz: ArrayLike,
    features: ArrayLike | FeatureRows | None,
    budget: int | str,
    *,
    radius: float = RADIUS,
    similarity: float = SIMILARITY,
    unit: float = 1.0,
    scene: ArrayLike | None = None,
    answered: ArrayLike = (),
) -> NDArray[np.int64]:
    """Chooses points to ask about: the highest scores, without a point that lies near a better one and looks like it
    (feature-distance suppression, FDS: paper section 3.3, equations 5 and 6; docs/method.md, "FDS"). Of points with
    equal scores, the one with the smaller scene number comes first, then the one in the smaller row.

    Args:
        score: (N,) the score of each point, such as `hmmu` returns. The largest are chosen first.
        xyz: (N, 3) positions.
        features: (N, F) features of the points; or a function that is given rows (K,) and returns their features
            (K, F), such as `predictions.features(scene)`, which reads only the rows that are needed; None: no point is
            suppressed.
        budget: how many points to choose: a number, or a share of all N such as `"0.02%"`.
        radius: the distance in metres within which a chosen point suppresses others that look like it.
        similarity: the cosine of the features of two points, from -1 to 1, above which they look alike.
        unit: metres in one unit of `xyz`, such as 0.001 if the positions are in millimetres.
        scene: (N,) the scene number of each point, if there are several scenes; points of different scenes never
            suppress each other. None: all points are of one scene.
        answered: rows that have an answer already. They are never chosen.

    Returns:
        (K,) the rows of the chosen points, the best first.

    Raises:
        UsageError: the arrays are of unequal length, a value is not finite, or the budget, radius or similarity is
            outside its range.
    """
    value, position = _array("score", score, 1), _positions(xyz)
    _require_equal("xyz", len(position), "score", len(value))
    _require_finite("score", value)
    _require_unit(unit)
    suppression = None if features is None else Suppression(radius, similarity)
    fetch = None if features is None else _features(features, len(value))
    parsed = Budget.parse(str(budget))
    if parsed.per_scene:
        raise UsageError("budget", f"{budget!r} is for each scene", "select from one scene at a time, or give a number")
    limit = parsed.count(len(value)) if len(value) else 0
    number = np.zeros(len(value), np.int64) if scene is None else _integers("scene", scene)
    _require_equal("scene", len(number), "score", len(value))
    done = _integers("answered", answered)
    if len(done) and not 0 <= done.min() <= done.max() < len(value):
        raise UsageError(
            "answered", f"names a row that does not exist: there are {len(value)} points", "give rows of `score`"
        )
    free = np.ones(len(value), bool)
    free[done] = False
    picks = [np.zeros(0, np.int64)]
    able = np.flatnonzero(free)
    able = able[np.argsort(number[able], kind="stable")]
    for rows in np.split(able, np.flatnonzero(np.diff(number[able])) + 1) if len(able) else ():
        found = greedy_select(value[rows], rows, position[rows], limit, suppression, fetch, unit=unit)
        picks.append(rows[found.picks])
    together = np.concatenate(picks)
    order = np.lexsort((together, number[together], -value[together].astype(np.float64)))
    return together[order][:limit]


def evaluate(
    predictions: PredictionStore | PathLike,
    truth: SceneStore | PathLike,
    *,
    labels: LabelStore | PathLike | None = None,
    split: str = "val",
    names: Sequence[str] = (),
    without_answers: bool = False,
    jobs: int | Cluster = 1,
    monitor: Monitor | None = None,
) -> Evaluation:
    """Compares predictions with the truth, as `hpal eval` does.

    `evaluate(...).grid.miou` is the mean intersection over union of the classes at the grid points, from 0 to 1;
    `evaluate(...).original.miou` is the same at the points as they were read.

    Args:
        predictions: the predictions store that `predict` or `spread` wrote.
        truth: the scenes store, which must have labels.
        labels: the labels store whose points are counted as labelled in the result; None: the points that the
            predictions record as labelled.
        split: the split that is compared: train, val, test or all.
        names: a list of patterns of scene names; empty: all scenes of the split.
        without_answers: whether answered points are left out. Their classes are known, so they do not measure the
            predictions.
        jobs: number of processes that work on scenes in parallel, or a cluster (`connect`). The result does not depend
            on it.
        monitor: receives progress and warnings; None: they are not shown.

    Returns:
        The measures over all scenes that were compared.

    Raises:
        HpalError: the stores are of different scenes or classes, a scene has no labels, or no point is left to compare.
    """
    return _evaluate(
        _predictions(predictions),
        _scenes(truth),
        labels=None if labels is None else _labels(labels),
        split=split,
        scenes=_names("names", names),
        without_answers=without_answers,
        jobs=jobs,
        monitor=monitor,
    )


# ---------------------------------------------------------------- other computers


def connect(scheduler: str, *, monitor: Monitor | None = None) -> AbstractContextManager[Cluster]:
    """Connects to a Dask cluster for the length of a `with` block, as `--scheduler` does (docs/cluster.md, "Dask").
    `prepare`, `spread`, `predict` and `evaluate` take it as their `jobs`, and its workers then do their work.

    Args:
        scheduler: the address of its scheduler, such as `"tcp://host:8786"`; `"file:scheduler.json"`: the file that the
            scheduler has written; `"local:8"`: a scheduler and 8 workers are started on this computer, and end with the
            block. For this, a script needs `if __name__ == "__main__"`.
        monitor: is told if there are no workers yet; None: nobody is.

    Returns:
        A context manager, which gives the cluster.

    Raises:
        HpalError: no scheduler answers within 10 s, or a worker has another version of hpal.
        UsageError: this is no address, or Dask is not installed.
    """
    from hpal_cli.parallel.cluster import connect as connect_to

    return connect_to(scheduler, monitor)


# ---------------------------------------------------------------- arguments


def _entry(name: str, *args: object, seed: int | None = None) -> Entry:
    """The history entry of a call."""
    return Entry(f"hpal_cli.{name}", __version__, tuple(str(one) for one in args), seed)


def _path(name: str, given: object) -> Path:
    if not isinstance(given, str | os.PathLike):
        raise UsageError(name, f"is {_kind(given)}, not a path", "give a str or a Path")
    return located(given)


def _scenes(given: SceneStore | PathLike) -> SceneStore:
    return given if isinstance(given, SceneStore) else SceneStore(_path("scenes", given))


def _predictions(given: PredictionStore | PathLike) -> PredictionStore:
    return given if isinstance(given, PredictionStore) else PredictionStore(_path("predictions", given))


def _labels(given: LabelStore | PathLike) -> LabelStore:
    return given if isinstance(given, LabelStore) else LabelStore(_path("labels", given))


def _names(name: str, given: Sequence[str]) -> Sequence[str]:
    if isinstance(given, str):
        # A str is a sequence too, and each of its letters would be taken as a pattern.
        raise UsageError(name, f"is the text {given!r}", f"give a list of patterns, like [{given!r}]")
    return given


def _kind(given: object) -> str:
    return f"of type {type(given).__name__}"


def _array(name: str, given: ArrayLike, dimensions: int) -> NDArray[np.floating]:
    """The given numbers as an array of this many dimensions. Floats keep their precision; other numbers become float64.

    Raises:
        UsageError: the numbers are no such array.
    """
    if callable(given):
        raise UsageError(name, "is a function", "give an array")
    try:
        array = np.asarray(given)
        array = array if array.dtype.kind == "f" else array.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise UsageError(name, f"is no array of numbers ({' '.join(str(error).split())})", "give an array") from error
    if array.ndim != dimensions:
        shape = {1: "(N,)", 2: "(N, columns)"}[dimensions]
        raise UsageError(name, f"has the shape {array.shape}", f"give an array of the shape {shape}")
    return array


def _integers(name: str, given: ArrayLike) -> NDArray[np.int64]:
    array = np.asarray(given)
    if array.size == 0 and array.ndim == 1:
        return np.zeros(0, np.int64)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise UsageError(name, f"is no list of whole numbers ({array.dtype}, shape {array.shape})", "give one, (K,)")
    return array.astype(np.int64)


def _require_finite(name: str, array: NDArray[np.floating]) -> None:
    bad = ~np.isfinite(array)
    if bad.any():
        raise UsageError(name, f"{int(bad.sum())} of its numbers are not finite", "leave these points out first")


def _require_equal(name: str, count: int, other: str, expected: int) -> None:
    if count != expected:
        raise UsageError(name, f"has {count} rows, and {other} has {expected}", "give both one row for each point")


def _require_unit(unit: float) -> None:
    if not 0 < unit < float("inf"):
        raise UsageError("unit", f"{unit:g} is not above zero", "give metres in one unit, like 1.0 or 0.3048")


def _positions(xyz: ArrayLike) -> NDArray[np.float64]:
    position = _array("xyz", xyz, 2).astype(np.float64)
    if position.shape[1] != 3:
        raise UsageError("xyz", f"has {position.shape[1]} columns", "give x, y and z")
    _require_finite("xyz", position)
    return position


def _probabilities(prob: ArrayLike) -> NDArray[np.floating]:
    rows = _array("prob", prob, 2)
    if rows.shape[1] == 0:
        raise UsageError("prob", "has no columns", "give one column for each class")
    if (rows < 0).any():
        problem = "holds numbers below zero, so they are logarithms or logits"
        raise UsageError("prob", problem, "give probabilities: exp of logarithms, softmax of logits")
    bad, first = bad_rows(rows)
    if bad:
        problem = f"{bad} of {len(rows)} rows do not sum to 1 (first: row {first}, {rows[first].sum():g})"
        raise UsageError("prob", problem, "give the softmax of each point")
    return rows


def _features(given: ArrayLike | FeatureRows, count: int) -> FeatureRows:
    if callable(given):
        return given
    array = _array("features", given, 2)
    _require_equal("features", len(array), "score", count)
    _require_finite("features", array)
    return lambda rows: array[rows]
