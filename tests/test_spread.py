"""hpal spread: random walks by a dense solve, what it must never do, and what is said of input that it cannot use."""

from __future__ import annotations

import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import plyfile
import pytest
import zarr
from conftest import run_hpal, tree
from synthetic_scenes import (
    BOARD,
    CLASSES,
    FLOOR,
    STEP,
    TABLE,
    WALL,
    Campaign,
    Noted,
    Room,
    answers,
    certain,
    first_of_each,
    room,
    rooms,
    synthetic_scenes,
)

from hpal_cli.errors import HpalError, UsageError
from hpal_cli.evaluation.evaluate import evaluate
from hpal_cli.export.files import export
from hpal_cli.history import call
from hpal_cli.info import describe
from hpal_cli.labels.store import LabelStore
from hpal_cli.predictions.store import PredictionStore
from hpal_cli.spreading.random_walk import LEAK_RATE, PRIOR_POINTS, random_walk, reachable
from hpal_cli.spreading.spread import (
    answers_by_superpoint,
    fit_prior,
    known_superpoints,
    pool_predictions,
    spread,
    spread_scene,
)
from hpal_cli.superpoints.build import Superpoints, build
from hpal_cli.superpoints.graph import Graph
from hpal_cli.superpoints.store import open_superpoints

SCALE = STEP / 0.04


# ---------------------------------------------------------------- random walks


def random_walk_graph(seed: int, count: int = 40, parts: int = 1) -> tuple[Graph, np.ndarray]:
    """Superpoints in `parts` groups that do not touch each other; and their sizes."""
    rng = np.random.default_rng(seed)
    group = np.arange(count) % parts
    pair = np.array([(a, b) for a in range(count) for b in range(a + 1, count) if group[a] == group[b]])
    pair = pair[rng.random(len(pair)) < 0.3]
    weight = np.exp(rng.normal(-2, 4, len(pair))) + 1e-9
    return Graph(pair.astype(np.int32), np.ones(len(pair), np.int32), weight), rng.integers(1, 900, count)


def dense(
    graph: Graph,
    size: np.ndarray,
    answered: np.ndarray,
    answer: np.ndarray,
    prior: np.ndarray | None = None,
    strength: float = 1.0,
) -> np.ndarray:
    """The same equation with whole matrices."""
    count = len(size)
    w = np.zeros((count, count))
    w[tuple(graph.pair.T)] = graph.weight
    w += w.T
    pull = np.zeros(count) if prior is None else strength * size / 60
    system = np.diag(w.sum(axis=1) + 1e-3 + pull) - w
    free = np.setdiff1d(np.arange(count), answered)
    right = w[np.ix_(free, answered)] @ answer
    if prior is not None:
        right += pull[free, None] * prior[free]
    found = np.zeros((count, answer.shape[1]))
    found[answered] = answer
    found[free] = np.linalg.solve(system[np.ix_(free, free)], right)
    return found


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("strength", [None, 1.0, 10.0, 1e-3, 1e6])
def test_the_walk_is_the_solution_of_its_equation(seed: int, strength: float | None) -> None:
    assert (LEAK_RATE, PRIOR_POINTS) == (1e-3, 60)
    graph, size = random_walk_graph(seed)
    rng = np.random.default_rng(seed)
    answered = np.sort(rng.choice(40, 6, replace=False))
    answer = np.eye(5)[rng.integers(5, size=6)]
    answer[0] = [0.5, 0.5, 0, 0, 0]
    prior = None if strength is None else rng.dirichlet(np.ones(5), 40)
    found = random_walk(graph, size, answered, answer, prior, 1.0 if strength is None else strength)
    np.testing.assert_allclose(found, dense(graph, size, answered, answer, prior, strength or 1.0), atol=1e-6)
    np.testing.assert_array_equal(found[answered], answer)
    assert (found >= 0).all()
    assert (found.sum(axis=1) < 1 + 1e-6).all()


def test_a_walk_without_edges_or_without_answers() -> None:
    nothing = Graph(np.zeros((0, 2), np.int32), np.zeros(0, np.int32), np.zeros(0))
    size, prior = np.array([3, 4, 5]), np.eye(3)
    found = random_walk(nothing, size, np.array([1]), np.array([[0.0, 0, 1]]))
    assert found.tolist() == [[0, 0, 0], [0, 0, 1], [0, 0, 0]]
    # No answer: the prior, less the share of walks that end without an answer.
    alone = random_walk(nothing, size, np.zeros(0, np.int64), np.zeros((0, 3)), prior, 10.0)
    np.testing.assert_allclose(alone, prior * (10 * size / 60 / (10 * size / 60 + 1e-3))[:, None], rtol=1e-6)
    one = random_walk(nothing, np.array([7]), np.array([0]), np.array([[0.25, 0.75]]))
    assert one.tolist() == [[0.25, 0.75]]


def test_what_is_connected_is_reached() -> None:
    graph, _ = random_walk_graph(1, 40, parts=4)
    found = reachable(graph, 41, np.array([2, 7]))
    group = np.arange(41) % 4
    # All but two of them that touch nothing.
    assert np.flatnonzero(~found[np.isin(group, [2, 3])]).tolist() == [9, 18]
    assert not found[np.isin(group, [0, 1])].any()
    assert not reachable(graph, 41, np.zeros(0, np.int64)).any()


# ---------------------------------------------------------------- one scene


@pytest.fixture(scope="module")
def superpoints() -> tuple[Room, Superpoints]:
    one = room()
    return one, build(one.points, scale=SCALE)


def test_answers_are_counted_by_superpoint() -> None:
    of = np.array([0, 0, 0, 1, 1, 2, 3])
    index, label = np.array([0, 1, 2, 3, 4, 6]), np.array([1, 1, 0, -1, 2, -1])
    answered, share = answers_by_superpoint(of, index, label, 3)
    assert answered.tolist() == [0, 1]
    np.testing.assert_allclose(share, [[1 / 3, 2 / 3, 0], [0, 0, 1]])
    answered, share = answers_by_superpoint(of, index[:0], label[:0], 3)
    assert (len(answered), share.shape) == (0, (0, 3))


def test_nothing_beyond_reach_gets_a_label(superpoints: tuple[Room, Superpoints]) -> None:
    """The table touches nothing: an answer on the floor says nothing of it, and one on it nothing of the rest."""
    one, found = superpoints
    table = np.unique(found.superpoint[one.label == TABLE])
    floor = int(np.flatnonzero(one.label == FLOOR)[0])
    said = spread_scene(found, np.array([floor]), np.array([FLOOR]), 4)
    assert not said.known[table].any()
    assert not said.prob[table].any()
    np.testing.assert_allclose(said.full[table], 0.25)
    other = np.setdiff1d(np.arange(len(found)), table)
    assert said.known[other].all()
    np.testing.assert_allclose(said.full.sum(axis=1), 1)
    # With a prior everything is known.
    prior = np.tile([0.1, 0.2, 0.7, 0.0], (len(found), 1))
    with_prior = spread_scene(found, np.array([floor]), np.array([FLOOR]), 4, prior)
    assert with_prior.known.all()
    assert with_prior.prob[table].argmax(axis=1).tolist() == [TABLE] * len(table)


def test_unsure_never_spreads(superpoints: tuple[Room, Superpoints]) -> None:
    one, found = superpoints
    floor, wall = (int(np.flatnonzero(one.label == which)[0]) for which in (FLOOR, WALL))
    without = spread_scene(found, np.array([floor]), np.array([FLOOR]), 4)
    withit = spread_scene(found, np.array([floor, wall]), np.array([FLOOR, -1]), 4)
    np.testing.assert_array_equal(withit.prob, without.prob)
    np.testing.assert_array_equal(withit.known, without.known)
    # Beside an answer in the same superpoint it takes nothing away.
    near = int(np.flatnonzero(found.superpoint == found.superpoint[floor])[1])
    beside = spread_scene(found, np.array([floor, near]), np.array([FLOOR, -1]), 4)
    np.testing.assert_array_equal(beside.prob, without.prob)
    nothing = spread_scene(found, np.array([wall]), np.array([-1]), 4)
    assert not nothing.known.any()


def test_the_prior_weighs_more_where_there_is_no_answer(superpoints: tuple[Room, Superpoints]) -> None:
    one, found = superpoints
    rng = np.random.default_rng(0)
    prior = rng.dirichlet(np.ones(4), len(found))
    none = np.zeros(0, np.int64)
    answered, answer = none, np.zeros((0, 4))
    expected = dense(found.graph, found.size, answered, answer, prior, 10.0)
    np.testing.assert_allclose(spread_scene(found, none, none, 4, prior).prob, expected, atol=1e-6)
    floor = np.flatnonzero(one.label == FLOOR)[:1]
    at = found.superpoint[floor].astype(np.int64)
    for strength, weight in ((None, 1.0), (3.0, 3.0)):
        expected = dense(found.graph, found.size, at, np.eye(4)[[FLOOR]], prior, weight)
        said = spread_scene(found, floor, np.array([FLOOR]), 4, prior, strength)
        np.testing.assert_allclose(said.prob, expected, atol=1e-6)


def test_alike_learns_from_the_answered_superpoints_alone(superpoints: tuple[Room, Superpoints]) -> None:
    one, found = superpoints
    index, label = np.array(first_of_each(one)).T
    trees = fit_prior([(found, index, label)], 4, seed=3)
    assert trees is not None
    said = trees(found.feature)
    answered, answer = answers_by_superpoint(found.superpoint, index, label, 4)
    # A leaf holds one superpoint: what was learned is known.
    np.testing.assert_array_equal(said[answered].argmax(axis=1), answer.argmax(axis=1))
    again = fit_prior([(found, index[::-1], label[::-1])], 4, seed=3, threads=2)
    assert again is not None
    np.testing.assert_array_equal(again(found.feature), said)
    assert fit_prior([(found, index, np.full(4, -1))], 4) is None


# ---------------------------------------------------------------- whole stores


@pytest.fixture(scope="module")
def campaign(tmp_path_factory: pytest.TempPathFactory) -> Campaign:
    return Campaign(tmp_path_factory.mktemp("spread"))


def test_an_answer_is_never_overruled(campaign: Campaign, tmp_path: Path) -> None:
    """This holds for two answers in the same superpoint, and against a model that is sure of another class."""
    of = open_superpoints(campaign.store).partition(campaign.store.table[0])
    here = np.flatnonzero(of == np.bincount(of).argmax())[:3]
    given = [(int(here[0]), TABLE), (int(here[1]), BOARD), (int(here[2]), BOARD)]
    labels = answers(tmp_path / "labels.zarr", campaign.store, {"a": [*given, (int(here[2]), WALL)]})
    model = certain(campaign.store, tmp_path / "model.zarr", FLOOR)
    for name, options in (("alone", {}), ("both", {"predictions": [model], "alike": True, "strength": 1e3})):
        found = campaign.spread(tmp_path / f"{name}.zarr", labels, **options)
        scene = campaign.store.table[0]
        # Of the same point the latest counts.
        assert found.predicted(scene)[here].tolist() == [TABLE, BOARD, WALL]
        assert found.probabilities(scene)[here].tolist() == np.eye(4)[[TABLE, BOARD, WALL]].tolist()
        assert found.labelled(scene).tolist() == sorted(here.tolist())
        others = np.setdiff1d(np.flatnonzero(of == of[here[0]]), here)
        np.testing.assert_allclose(
            found.probabilities(scene)[others], [[0, 1 / 3, 1 / 3, 1 / 3]] * len(others), atol=1e-3
        )


def test_scenes_without_answers_are_left_out(campaign: Campaign, tmp_path: Path) -> None:
    done = {scene.name: known for scene, known in spread(campaign.labels, campaign.store, tmp_path / "s.zarr")}
    assert done == {"a": True, "b": False, "c": False, "d": False}
    found = PredictionStore(tmp_path / "s.zarr")
    assert [scene.name for scene in found.table if found.has(scene)] == ["a"]
    describe(found.path, check=True)


def test_a_model_or_likeness_speaks_for_scenes_without_answers(campaign: Campaign, tmp_path: Path) -> None:
    like = campaign.spread(tmp_path / "like.zarr", alike=True)
    for scene, one in zip(campaign.store.table, campaign.rooms, strict=True):
        assert (like.predicted(scene) == one.label).mean() > 0.85, scene.name
        assert (like.predicted(scene) >= 0).all()
    model = certain(campaign.store, tmp_path / "model.zarr", BOARD, only=("b",))
    given = campaign.spread(tmp_path / "given.zarr", predictions=[model])
    assert [scene.name for scene in given.table if given.has(scene)] == ["a", "b"]
    assert (given.predicted(campaign.store.table[1]) == BOARD).all()
    # Two models that are equally sure of different classes.
    other = certain(campaign.store, tmp_path / "other.zarr", WALL)
    both = campaign.spread(tmp_path / "both.zarr", predictions=[model, other])
    b = campaign.store.table[1]
    np.testing.assert_allclose(both.probabilities(b)[:, [WALL, BOARD]], 0.5, atol=0.01)
    assert both.has(campaign.store.table[3])


def test_points_of_no_class_are_shown_as_such(campaign: Campaign, tmp_path: Path) -> None:
    """`pred` is -1, nothing counts them as found, and files show them as unlabelled."""
    floor = int(np.flatnonzero(campaign.rooms[0].label == FLOOR)[0])
    labels = answers(tmp_path / "labels.zarr", campaign.store, {"a": [(floor, FLOOR)]})
    found = campaign.spread(tmp_path / "s.zarr", labels)
    scene = campaign.store.table[0]
    of, pred = open_superpoints(campaign.store).partition(scene), found.predicted(scene)
    table = campaign.rooms[0].label == TABLE
    lost = np.isin(of, np.unique(of[table]))
    assert pred.dtype == np.int16
    assert (pred[lost] == -1).all()
    np.testing.assert_allclose(found.probabilities(scene)[lost], 0.25)
    # Where float16 cannot tell what is left of an answer from nothing, nothing is known.
    prob = found.probabilities(scene)
    even = (prob == prob[:, :1]).all(axis=1)
    np.testing.assert_array_equal(pred == -1, even)
    assert (pred[~even] == FLOOR).all()
    facts = describe(found.path, check=True).facts
    assert facts["points_without_class"] == even.sum()
    # Every one of them is missed.
    metrics = evaluate(found, campaign.store, split="train", scenes=["a"]).grid
    truth = campaign.rooms[0].label
    assert metrics.without_class == even.sum()
    assert metrics.points == len(truth)
    assert metrics.accuracy == pytest.approx((pred == truth).mean())
    iou = [((pred == c) & (truth == c)).sum() / ((pred == c) | (truth == c)).sum() for c in range(4)]
    assert metrics.miou == pytest.approx(np.mean(iou))
    # Files.
    for options in ({}, {"original": campaign.store.path}):
        for form in ("ply", "las", "csv"):
            export(found.path, tmp_path / f"{form}{len(options)}", form, **options)  # type: ignore[arg-type]
        cloud = plyfile.PlyData.read(str(tmp_path / f"ply{len(options)}" / "a.ply"))["vertex"].data
        shown = cloud["scalar_class"]
        np.testing.assert_array_equal(shown, pred)
        grey = np.column_stack([cloud[c] for c in ("red", "green", "blue")])[even]
        assert (grey == 128).all()
        import laspy

        codes = np.asarray(laspy.read(tmp_path / f"las{len(options)}" / "a.las").classification)
        np.testing.assert_array_equal(codes, np.where(pred < 0, 1, pred + 64))


def test_benchmarks_are_told_nothing_of_points_of_no_class(campaign: Campaign, tmp_path: Path) -> None:
    one = replace(campaign.rooms[0], name="scene0000_00")
    store = synthetic_scenes(tmp_path / "s.zarr", [one])
    floor = int(np.flatnonzero(one.label == FLOOR)[0])
    labels = answers(tmp_path / "labels.zarr", store, {one.name: [(floor, FLOOR)]})
    for _ in spread(labels, store, tmp_path / "spread.zarr"):
        pass
    export(tmp_path / "spread.zarr", tmp_path / "out", "scannet", original=store.path)
    pred = PredictionStore(tmp_path / "spread.zarr").predicted(store.table[0])
    codes = np.loadtxt(tmp_path / "out" / "scene0000_00.txt", dtype=int)
    assert (pred < 0).any()
    np.testing.assert_array_equal(codes, np.where(pred < 0, 0, FLOOR))


def test_answers_outside_the_train_split_are_there_to_measure(campaign: Campaign, tmp_path: Path) -> None:
    labels = answers(
        tmp_path / "labels.zarr",
        campaign.store,
        {"a": first_of_each(campaign.rooms[0]), "d": first_of_each(campaign.rooms[3])},
    )
    noted = Noted()
    found = campaign.spread(tmp_path / "s.zarr", labels, monitor=noted)
    assert noted.said == ["4 answers for scenes outside the train split: not spread"]
    assert not found.has(campaign.store.table[3])
    same = campaign.spread(tmp_path / "like.zarr", labels, alike=True)
    only = answers(tmp_path / "only.zarr", campaign.store, {"a": first_of_each(campaign.rooms[0])})
    expected = campaign.spread(tmp_path / "expected.zarr", only, alike=True)
    for scene in campaign.store.table:
        np.testing.assert_array_equal(same.probabilities(scene), expected.probabilities(scene))
    assert len(same.labelled(campaign.store.table[3])) == 0


def test_the_same_bytes_for_any_jobs(campaign: Campaign, tmp_path: Path) -> None:
    model = certain(campaign.store, tmp_path / "model.zarr", WALL)
    options = {"predictions": [model], "alike": True, "seed": 4}
    one = campaign.spread(tmp_path / "one.zarr", **options)
    two = campaign.spread(tmp_path / "two.zarr", jobs=2, **options)
    assert tree(one.path) == tree(two.path)
    assert tree(campaign.spread(tmp_path / "seed.zarr", **{**options, "seed": 5}).path) != tree(one.path)


def test_it_says_what_it_was_spread_from(campaign: Campaign, tmp_path: Path) -> None:
    model = certain(campaign.store, tmp_path / "model.zarr", WALL)
    plain = campaign.spread(tmp_path / "plain.zarr")
    assert plain.spread_from is not None
    assert dict(describe(plain.path).lines())["spread from"] == str(campaign.labels.path)
    both = campaign.spread(tmp_path / "both.zarr", alike=True, predictions=[model], history=[call("spread", "x")])
    lines = dict(describe(both.path).lines())
    assert lines["spread from"] == f"{campaign.labels.path}, with surfaces that look alike and {model.path}"
    assert both.spread_from is not None
    assert both.spread_from["answers"] == plain.spread_from["answers"]
    assert [entry.program for entry in both.history] == ["hpal spread"]
    assert "spread from" not in dict(describe(model.path).lines())
    assert describe(model.path).facts["spread_from"] is None


def test_what_it_knows_comes_back_by_superpoint(campaign: Campaign, tmp_path: Path) -> None:
    found = campaign.spread(tmp_path / "s.zarr")
    scene = campaign.store.table[0]
    superpoints = open_superpoints(campaign.store).read(scene)
    index, label = np.array(first_of_each(campaign.rooms[0])).T
    exact = spread_scene(superpoints, index, label, 4)
    back = known_superpoints(found, scene, superpoints.superpoint, len(superpoints))
    assert not back[~exact.known].any()
    # What is known without the chance of knowing nothing: an even row is worth nothing, a certain one all.
    expected = exact.prob - exact.prob.min(axis=1, keepdims=True)
    np.testing.assert_allclose(back[exact.known], expected[exact.known], atol=0.01)
    np.testing.assert_array_equal(back[exact.known].argmax(axis=1), exact.prob[exact.known].argmax(axis=1))


def test_the_pool_of_models_is_their_geometric_mean() -> None:
    sure, torn = np.array([[0.9, 0.09, 0.01], [0.2, 0.2, 0.0]]), np.array([[0.1, 0.45, 0.45], [0.0, 0.2, 0.2]])
    found = pool_predictions([sure, torn, torn])
    for row in range(2):
        each = [math.prod(p[row, k] + 1e-4 for p in (sure, torn, torn)) ** (1 / 3) for k in range(3)]
        total = (sure[row].sum() + 2 * torn[row].sum()) / 3
        np.testing.assert_allclose(found[row], [total * e / sum(each) for e in each])
    assert found[0].argmax() == 1
    # One model stays what it is, and a class that one excludes is none of the pool.
    assert pool_predictions([sure]) is sure
    assert found[1, 1] > 0.35


def test_models_are_put_together_where_nobody_answered(campaign: Campaign, tmp_path: Path) -> None:
    models = [certain(campaign.store, tmp_path / f"{which}.zarr", which) for which in (WALL, BOARD)]
    for _ in spread(None, campaign.store, tmp_path / "both.zarr", predictions=models):
        pass
    both = PredictionStore(tmp_path / "both.zarr")
    for scene in campaign.store.table:
        np.testing.assert_allclose(both.probabilities(scene)[:, [WALL, BOARD]], 0.5, atol=0.01)
        assert len(both.labelled(scene)) == 0
    said = dict(describe(both.path, check=True).lines())
    assert said["spread from"] == f"{models[0].path} and {models[1].path}"
    for like in (False, True):
        with pytest.raises(
            UsageError, match="--predictions: is missing, and without labels there is nothing else to spread; give"
        ):
            list(spread(None, campaign.store, tmp_path / "x.zarr", alike=like))


# ---------------------------------------------------------------- bad input


def test_labels_of_other_scenes_or_classes(campaign: Campaign, tmp_path: Path) -> None:
    other = synthetic_scenes(tmp_path / "other.zarr", rooms(2))
    labels = answers(tmp_path / "labels.zarr", other, {"a": first_of_each(room())})
    with pytest.raises(
        HpalError, match=r"labels\.zarr: holds labels of other scenes than .*rooms\.zarr; give the labels made"
    ):
        campaign.spread(tmp_path / "x.zarr", labels)
    named = synthetic_scenes(tmp_path / "named.zarr", campaign.rooms, classes=["ground", *CLASSES[1:]])
    labels = answers(tmp_path / "named-labels.zarr", named, {"a": first_of_each(room())})
    with pytest.raises(HpalError, match="has other classes than"):
        campaign.spread(tmp_path / "x.zarr", labels)
    with pytest.raises(
        HpalError, match=r"model\.zarr: belongs to other scenes or classes than .*; predict these scenes"
    ):
        campaign.spread(tmp_path / "x.zarr", predictions=[certain(other, tmp_path / "model.zarr", 0)])
    assert not (tmp_path / "x.zarr").exists()


def test_no_answer_at_all(campaign: Campaign, tmp_path: Path) -> None:
    empty = LabelStore.create(tmp_path / "empty.zarr", campaign.store.classes, campaign.store.table)
    unsure = answers(tmp_path / "unsure.zarr", campaign.store, {"a": [(3, -1)]})
    val = answers(tmp_path / "val.zarr", campaign.store, {"d": [(3, 0)]})
    for labels in (empty, unsure, val):
        for like in (False, True):
            with pytest.raises(HpalError, match="holds no answer of a train scene to spread; answer some points with"):
                campaign.spread(tmp_path / "x.zarr", labels, alike=like)
    assert not (tmp_path / "x.zarr").exists()
    # A model says something of every scene all the same.
    model = certain(campaign.store, tmp_path / "model.zarr", WALL)
    found = campaign.spread(tmp_path / "x.zarr", empty, predictions=[model], alike=True)
    assert all((found.predicted(scene) == WALL).all() for scene in campaign.store.table)


def test_no_answer_of_the_chosen_scenes(campaign: Campaign, tmp_path: Path) -> None:
    with pytest.raises(HpalError, match="none of these scenes has an answer; choose others, or give --predictions or"):
        campaign.spread(tmp_path / "x.zarr", scenes=["b"])
    assert not (tmp_path / "x.zarr").exists()


def test_predictions_that_are_none(campaign: Campaign, tmp_path: Path) -> None:
    model = certain(campaign.store, tmp_path / "model.zarr", WALL)
    array = zarr.open_group(str(model.path), mode="r+")["scenes/b/prob"]
    array[7, 1] = np.nan  # type: ignore[index]
    for jobs in (1, 2):
        with pytest.raises(HpalError, match=r"model\.zarr: scene b: 1 rows of prob are no probabilities .*row 7"):
            campaign.spread(tmp_path / "x.zarr", predictions=[model], jobs=jobs)
    assert not (tmp_path / "x.zarr").exists()


@pytest.mark.parametrize("like", [False, True])
def test_answers_of_one_class_only(campaign: Campaign, tmp_path: Path, like: bool) -> None:
    floor = int(np.flatnonzero(campaign.rooms[0].label == FLOOR)[0])
    labels = answers(tmp_path / "labels.zarr", campaign.store, {"a": [(floor, FLOOR), (floor + 1, -1)]})
    noted = Noted()
    found = campaign.spread(tmp_path / "s.zarr", labels, alike=like, monitor=noted)
    assert noted.said == ["every answer is floor, so no point can get another class: label points of other classes too"]
    for scene in campaign.store.table:
        if found.has(scene):
            assert set(np.unique(found.predicted(scene)).tolist()) <= {-1, FLOOR}
    assert all(found.has(scene) for scene in campaign.store.table) == like


def test_fewer_answers_than_classes(campaign: Campaign, tmp_path: Path) -> None:
    two = answers(tmp_path / "labels.zarr", campaign.store, {"a": first_of_each(campaign.rooms[0], (FLOOR, BOARD))})
    noted = Noted()
    found = campaign.spread(tmp_path / "s.zarr", two, alike=True, monitor=noted)
    assert noted.said == ["no answer yet for 2 of 4 classes: wall, table"]
    assert {int(n) for s in campaign.store.table for n in np.unique(found.predicted(s))} == {FLOOR, BOARD}


def test_a_table_of_one_class(tmp_path: Path) -> None:
    one = replace(room(), label=np.zeros(len(room().xyz), int))
    store = synthetic_scenes(tmp_path / "s.zarr", [one], classes=["thing"])
    labels = answers(tmp_path / "labels.zarr", store, {"a": [(0, 0)]})
    for _ in spread(labels, store, tmp_path / "x.zarr"):
        pass
    found = PredictionStore(tmp_path / "x.zarr")
    assert set(np.unique(found.predicted(store.table[0])).tolist()) == {-1, 0}
    assert (found.probabilities(store.table[0]) == 1).all()


@pytest.mark.parametrize("strength", [0, -1, float("nan"), float("inf"), 1e30])
def test_strengths_that_mean_nothing(campaign: Campaign, tmp_path: Path, strength: float) -> None:
    with pytest.raises(UsageError, match=r"--strength: .* is not between 0 and 1e\+06; give a number like 1"):
        campaign.spread(tmp_path / "x.zarr", strength=strength)


@pytest.mark.parametrize("made", ["plane", "two points", "one point", "one colour"])
def test_scenes_of_every_kind_are_spread_over(tmp_path: Path, made: str) -> None:
    usual = room()
    odd = {
        "plane": Room("a", usual.xyz * [1, 1, 0], np.zeros(len(usual.xyz), int)),
        "two points": Room("a", np.array([[0, 0, 0], [0.1, 0, 0]]), np.array([0, 1])),
        "one point": Room("a", np.zeros((1, 3)), np.array([0])),
        "one colour": replace(usual, rgb=np.full((len(usual.xyz), 3), 9, np.uint8)),
    }[made]
    store = synthetic_scenes(tmp_path / "s.zarr", [odd])
    labels = answers(tmp_path / "labels.zarr", store, {"a": [(0, int(odd.label[0]))]})
    for like in (False, True):
        for _ in spread(labels, store, tmp_path / f"{like}.zarr", alike=like):
            pass
        found = PredictionStore(tmp_path / f"{like}.zarr")
        assert found.predicted(store.table[0])[0] == odd.label[0]
        describe(found.path, check=True)


def test_a_store_that_is_there_stays(campaign: Campaign, tmp_path: Path) -> None:
    first = campaign.spread(tmp_path / "s.zarr")
    with pytest.raises(HpalError, match="exists already"):
        campaign.spread(tmp_path / "s.zarr", alike=True)
    campaign.spread(tmp_path / "s.zarr", alike=True, overwrite=True)
    assert all(PredictionStore(first.path).has(scene) for scene in campaign.store.table)
    shutil.copytree(campaign.labels.path, tmp_path / "l.zarr")
    with pytest.raises(HpalError, match="is not a predictions store, and is not replaced by one"):
        campaign.spread(tmp_path / "l.zarr", overwrite=True)


# ---------------------------------------------------------------- the command


def test_the_command(campaign: Campaign, tmp_path: Path) -> None:
    for name in ("rooms.zarr", "rooms.superpoints.zarr", "labels.zarr"):
        shutil.copytree(campaign.folder / name, tmp_path / name)
    done = run_hpal("spread", "labels.zarr", "rooms.zarr", "-o", "s.zarr", cwd=tmp_path)
    assert (done.rc, done.out) == (0, b"")
    assert done.err.splitlines() == [
        "3 scenes without any answer, such as b: left out, since nothing is known of them; add --alike or "
        "--predictions to include them",
        "s.zarr: 1 scene; next: hpal score s.zarr --per superpoint | hpal select",
    ]
    for options, told in (([], True), (["--per", "superpoint"], False), (["--strategy", "random"], False)):
        done = run_hpal("score", "s.zarr", *options, "-o", "scores.ply", "--overwrite", cwd=tmp_path)
        assert done.rc == 0, done.err
        assert ("--per superpoint asks about each superpoint once" in done.err) == told
    given = ("labels.zarr", "rooms.zarr", "--alike", "--predictions", "s.zarr")
    done = run_hpal("spread", *given, "-o", "all.zarr", "--jobs", 2, "--no-history", cwd=tmp_path)
    assert done.rc == 0, done.err
    found = PredictionStore(tmp_path / "all.zarr")
    assert found.history == []
    expected = campaign.spread(
        tmp_path / "expected.zarr", alike=True, predictions=[PredictionStore(tmp_path / "s.zarr")], history=None
    )
    for scene in campaign.store.table:
        np.testing.assert_array_equal(found.probabilities(scene), expected.probabilities(scene))
