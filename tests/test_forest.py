"""The forest: trees that are plain arrays, learning from rooms that are held out, a checkpoint that cannot run code."""

from __future__ import annotations

import copy
import io
import json
import pickle
import re
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import run_hpal
from synthetic_scenes import (
    BOARD,
    CLASSES,
    FLOOR,
    STEP,
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
from hpal_cli.forest import learn as learning
from hpal_cli.forest.boosting import L2_REGULARIZATION, LEARNING_RATE, ROWS, boost, check, probabilities
from hpal_cli.forest.learn import FOLDS, Example, apply, folds, learn, with_context
from hpal_cli.forest.model import Forest, is_forest, load
from hpal_cli.forest.predict import predict_forest
from hpal_cli.forest.surroundings import Surroundings
from hpal_cli.forest.train import train_forest
from hpal_cli.history import call
from hpal_cli.info import describe
from hpal_cli.labels.store import LabelStore
from hpal_cli.predictions.store import PredictionStore
from hpal_cli.superpoints.build import Superpoints, build
from hpal_cli.superpoints.graph import Graph
from hpal_cli.superpoints.store import open_superpoints
from hpal_cli.trees import Trees, fit, missing

SCALE = STEP / 0.04
WEIGHTINGS = 10
"""Sets of superpoints whose means `Surroundings` returns (docs/method.md, "The forest")."""

# ---------------------------------------------------------------- trees


def data(seed: int = 0, count: int = 300) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows whose columns have few values, so that many lie on a threshold or beside it; labels 1, 3 and 4 of five."""
    rng = np.random.default_rng(seed)
    rows = np.column_stack([rng.normal(size=(count, 3)), rng.integers(0, 3, (count, 3)) / 3]).astype(np.float32)
    label = np.array([1, 3, 4])[(rows[:, 0] > 0).astype(int) + (rows[:, 3] > 0.5)]
    return rows, label, rng.random(count) + 0.1


@pytest.mark.parametrize("seed", range(3))
def test_trees_say_what_scikit_learn_says(seed: int) -> None:
    from sklearn.ensemble import ExtraTreesClassifier

    rows, label, weight = data(seed)
    model = ExtraTreesClassifier(30, max_features=0.5, min_samples_leaf=2, random_state=seed)
    expected = model.fit(rows, label, sample_weight=weight).predict_proba(rows)
    trees = fit(rows, label, weight, 5, trees=30, max_features=0.5, min_samples_leaf=2, seed=seed)
    trees.check(6, 5, "test")
    said = trees(rows)
    np.testing.assert_allclose(said[:, [1, 3, 4]], expected, atol=2e-3)
    assert not said[:, [0, 2]].any()
    # Also of rows that it has not seen, on thresholds and a step beside them.
    edge = np.tile(trees.threshold[trees.column >= 0][:200, None], 6)
    for new in (edge, np.nextafter(edge, np.float32(9)), np.nextafter(edge, np.float32(-9)), data(seed + 9)[0]):
        np.testing.assert_allclose(trees(new)[:, [1, 3, 4]], model.predict_proba(new), atol=2e-3)


def test_trees_say_the_same_without_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, label, weight = data()
    trees = fit(rows, label, weight, 5, trees=30, max_features=0.5)
    assert missing() is None
    # Entries that equal a threshold, and NaN, decide between two children.
    new = np.concatenate([rows, np.tile(trees.threshold[trees.column >= 0][:200, None], rows.shape[1])])
    new[::7, 0] = np.nan
    compiled = trees.total(new)
    # Columns and rows that do not lie beside each other in memory.
    np.testing.assert_array_equal(trees.total(np.asfortranarray(new)[::-1])[::-1], compiled)
    assert trees.total(new[:0]).shape == (0, 5)
    with pytest.raises(ValueError, match="2 columns, and the trees split on 6"):
        trees.total(new[:, :2])
    monkeypatch.setattr("hpal_cli.trees._library", lambda: "no compiler")
    np.testing.assert_array_equal(trees.total(new), compiled)


def test_trees_do_not_depend_on_threads() -> None:
    rows, label, weight = data()
    one, two = (fit(rows, label, weight, 5, trees=10, max_features=0.5, threads=threads) for threads in (1, 2))
    for column in fields(Trees):
        np.testing.assert_array_equal(getattr(one, column.name), getattr(two, column.name))
    other = fit(rows, label, weight, 5, trees=10, max_features=0.5, seed=1)
    assert len(other.column) != len(one.column) or (other.column != one.column).any()


def test_trees_of_one_class_and_of_one_row() -> None:
    rows, label, weight = data()
    only = fit(rows, np.full(len(rows), 2), weight, 5, trees=3, max_features=0.5)
    assert only(rows).tolist() == np.eye(5)[[2] * len(rows)].tolist()
    single = fit(rows[:1], label[:1], weight[:1], 5, trees=3, max_features=0.5, min_samples_leaf=2)
    single.check(6, 5, "test")
    assert single(rows).argmax(axis=1).tolist() == [label[0]] * len(rows)
    assert single(rows[:0]).shape == (0, 5)


# ---------------------------------------------------------------- boosting


@pytest.mark.parametrize("seed", range(2))
def test_boosted_trees_lower_the_loss_of_rows_that_they_have_not_seen(seed: int) -> None:
    rows, label, weight = data(seed)
    new, wanted, new_weight = data(seed + 5)
    losses = []
    for rounds in (0, 10, 40, 120):
        boosted = boost(rows, label, weight, 5, rounds=rounds, seed=seed)
        check(boosted, 6, 5, "test")
        said = probabilities(boosted, new)
        np.testing.assert_allclose(said.sum(axis=1), 1)
        assert not said[:, [0, 2]].any()
        losses.append(-np.average(np.log(said[np.arange(len(new)), wanted]), weights=new_weight))
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.5 * losses[0]
    assert (said.argmax(axis=1) == wanted).mean() > 0.9


def test_the_first_boosted_tree_is_the_share_of_the_classes() -> None:
    rows, label, weight = data()
    none = boost(rows, label, weight, 5, rounds=0)
    share = np.bincount(label, weight, minlength=5) / weight.sum()
    np.testing.assert_allclose(probabilities(none, rows), np.tile(share, (len(rows), 1)), rtol=2e-3)


def test_one_newton_step_by_a_plain_reading() -> None:
    """The leaf that a row ends in says what the formula says of the rows in it."""
    rows, label, weight = data()
    boosted = boost(rows, label, weight, 5, rounds=1)
    known = np.unique(label)
    assert len(boosted.root) == 1 + len(known)
    weight = weight / weight.mean()
    share = np.bincount(label, weight, minlength=5) / weight.sum()
    drawn = np.random.default_rng(0).random(len(rows)) < ROWS
    for tree, one in enumerate(known, start=1):
        alone = replace(boosted, root=boosted.root[tree : tree + 1])
        value = alone.total(rows)
        assert not np.delete(value, one, axis=1).any()
        step = (label == one) - share[one]
        curve = np.full(len(rows), share[one] * (1 - share[one]))
        for leaf in np.unique(value[:, one]):
            inside = drawn & (value[:, one] == leaf)
            expected = (
                LEARNING_RATE * (weight * step)[inside].sum() / ((weight * curve)[inside].sum() + L2_REGULARIZATION)
            )
            assert leaf == pytest.approx(expected, rel=2e-3, abs=1e-6)


def test_boosted_trees_do_not_depend_on_threads() -> None:
    rows, label, weight = data()
    one, two = (boost(rows, label, weight, 5, rounds=8, threads=threads) for threads in (1, 2))
    for column in fields(Trees):
        np.testing.assert_array_equal(getattr(one, column.name), getattr(two, column.name))
    other = boost(rows, label, weight, 5, rounds=8, seed=1)
    assert len(other.column) != len(one.column) or (other.column != one.column).any()


def test_boosted_trees_of_one_class_and_of_one_row() -> None:
    rows, label, weight = data()
    only = boost(rows, np.full(len(rows), 2), weight, 5)
    check(only, 6, 5, "test")
    assert probabilities(only, rows).tolist() == np.eye(5)[[2] * len(rows)].tolist()
    single = boost(rows[:1], label[:1], weight[:1], 5)
    check(single, 6, 5, "test")
    assert probabilities(single, rows).argmax(axis=1).tolist() == [label[0]] * len(rows)
    equal = boost(np.zeros((6, 3), np.float32), np.array([0, 1] * 3), np.ones(6), 2)
    np.testing.assert_allclose(probabilities(equal, np.ones((1, 3), np.float32)), 0.5, atol=0.2)


# ---------------------------------------------------------------- context and folds


def test_means_over_the_surroundings_by_a_plain_reading() -> None:
    rng = np.random.default_rng(1)
    count = 30
    centre = (rng.random((count, 3)) * [3, 3, 2]).astype(np.float32)
    size = rng.integers(1, 99, count)
    pair = np.array([(a, b) for a in range(count) for b in range(a + 1, count) if rng.random() < 0.1])
    graph = Graph(pair.astype(np.int32), rng.integers(1, 9, len(pair)).astype(np.int32), rng.random(len(pair)) + 0.1)
    made = Superpoints(
        np.arange(count, dtype=np.int32), size, np.arange(count), centre, np.zeros((count, 2), "f4"), graph
    )
    values = rng.random((count, 4))
    found = Surroundings(made)(values)
    assert found.shape == (count, 4 * WEIGHTINGS)
    found = found.reshape(count, WEIGHTINGS, 4)

    touching = np.zeros((count, count))
    strong = np.zeros((count, count))
    for (a, b), contact, weight in zip(pair, graph.contact, graph.weight, strict=True):
        touching[a, b] = touching[b, a] = contact
        strong[a, b] = strong[b, a] = weight
    c = centre.astype(np.float64)
    higher = c[None, :, 2] > c[:, None, 2]
    away = np.linalg.norm(c[:, None] - c, axis=2)
    plan = np.linalg.norm(c[:, None, :2] - c[:, :2], axis=2)
    other = ~np.eye(count, dtype=bool)

    def gauss(distance: np.ndarray, radius: float) -> np.ndarray:
        return np.where(other & (distance < 2.5 * radius), np.exp(-((distance / radius) ** 2)), 0) * size

    def mean(weights: np.ndarray) -> np.ndarray:
        total = weights.sum(axis=1, keepdims=True)
        return np.divide(weights @ values, total, out=np.zeros_like(values), where=total > 0)

    direct = mean(touching)
    total = touching.sum(axis=1, keepdims=True)
    expected = [
        direct,
        mean(touching * higher),
        mean(touching * ~higher),
        mean(gauss(away, 0.7)),
        mean(gauss(away, 1.5)),
        mean(gauss(plan, 0.4) * higher),
        mean(gauss(plan, 0.4) * ~higher),
        mean(strong),
        np.divide(touching @ direct, total, out=np.zeros_like(values), where=total > 0),
        np.tile(size @ values / size.sum(), (count, 1)),
    ]
    for n, part in enumerate(expected):
        np.testing.assert_allclose(found[:, n], part, atol=1e-5, err_msg=str(n))


def described(*made: Room) -> list[Superpoints]:
    return [build(one.points, scale=SCALE) for one in made]


def test_many_scenes_are_folds_by_scene_and_few_by_blocks() -> None:
    many = described(*rooms(7))
    found = np.split(folds(many), np.cumsum([len(one) for one in many])[:-1])
    assert [np.unique(fold).tolist() for fold in found] == [[n % FOLDS] for n in range(7)]
    for count in (1, 2, 4):
        few = many[:count]
        found = np.split(folds(few), np.cumsum([len(one) for one in few])[:-1])
        numbers = np.concatenate(found)
        assert set(numbers.tolist()) == set(range(FOLDS))
        for one, fold in zip(few, found, strict=True):
            # As many superpoints in each block, and a cut between any two blocks of a scene.
            blocks = [one.centre[fold == n, :2] for n in np.unique(fold)]
            assert len(blocks) > 1
            if len(blocks) == 2:
                low, high = sorted(blocks, key=lambda b: b.min(axis=0).tolist())
                assert any(low[:, axis].max() <= high[:, axis].min() for axis in range(2))
                assert abs(len(low) - len(high)) <= 1
    single = [replace(many[0], superpoint=many[0].superpoint[:1], size=many[0].size[:1], centre=many[0].centre[:1])]
    assert folds(single).tolist() == [0]


def test_what_a_stage_is_told_comes_from_trees_that_have_not_seen_the_scene(monkeypatch: pytest.MonkeyPatch) -> None:
    made = [room(chr(97 + n), n) for n in range(6)]
    found = described(*made)
    target = []
    for one, superpoints in zip(made, found, strict=True):
        votes = np.zeros((len(superpoints), 4))
        np.add.at(votes, superpoints.superpoint, np.eye(4)[one.label])
        target.append(votes / superpoints.size[:, None])
    seen: list[np.ndarray] = []
    usual = learning.fit

    def noted(rows: np.ndarray, label: np.ndarray, *rest: Any, **options: Any) -> Trees:
        seen.append(rows)
        return usual(rows, label, *rest, **options)

    monkeypatch.setattr(learning, "fit", noted)
    examples = [Example(s, t) for s, t in zip(found, target, strict=True)]
    stages = learn(examples, stages=2, trees=20, fold_trees=8, seed=1)
    monkeypatch.undo()
    width = found[0].feature.shape[1]
    # Stage 1, its five folds, stage 2.
    assert len(seen) == 1 + FOLDS + 1
    everything = np.concatenate([one.feature for one in found])
    np.testing.assert_array_equal(seen[0], everything)
    for number, rows in enumerate(seen[1:6]):
        others = [one.feature for n, one in enumerate(found) if n % FOLDS != number]
        np.testing.assert_array_equal(rows, np.concatenate(others))
    assert seen[6].shape == (len(everything), width + 4 * (WEIGHTINGS + 1))
    # What the second stage saw of the first scene is what the trees of the others say of it.
    held_out = seen[6][: len(found[0]), width : width + 4]
    assert np.abs(held_out - stages.trees[0](found[0].feature)).max() > 0.02
    # It is applied to what the first stage itself says.
    said = stages.trees[0](found[0].feature)
    context = with_context(found[0].feature, said, Surroundings(found[0]))
    boosted = probabilities(stages.boosted, context)
    np.testing.assert_array_equal(apply(stages, found[0]), (stages.trees[1](context) + boosted) / 2)
    one = learn(examples, stages=1, trees=20, seed=1)
    expected = (one.trees[0](found[0].feature) + probabilities(one.boosted, found[0].feature)) / 2
    np.testing.assert_array_equal(apply(one, found[0]), expected)
    # What has no label teaches nothing.
    blank = [Example(examples[0].superpoints, np.zeros_like(examples[0].target)), *examples[1:]]
    without, only = (learn(scenes, stages=1, trees=5, seed=2) for scenes in (blank, examples[1:]))
    np.testing.assert_array_equal(without.trees[0].threshold, only.trees[0].threshold)


def test_of_many_superpoints_a_sample_is_learned_from(monkeypatch: pytest.MonkeyPatch) -> None:
    found = described(*rooms(6))
    rng = np.random.default_rng(3)
    # Class 2 has a tenth of the superpoints, class 1 a third; every tenth superpoint has no label.
    target = []
    for superpoints in found:
        label = rng.choice(3, len(superpoints), p=[0.57, 0.33, 0.1])
        target.append(np.eye(4)[label] * (rng.random(len(superpoints)) < 0.9)[:, None])
    examples = [Example(s, t) for s, t in zip(found, target, strict=True)]
    calls: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    usual = learning.fit

    def noted(rows: np.ndarray, label: np.ndarray, weight: np.ndarray, *rest: Any, **options: Any) -> Trees:
        calls.append((rows, label, weight))
        return usual(rows, label, weight, *rest, **options)

    monkeypatch.setattr(learning, "fit", noted)
    learn(examples, stages=2, trees=2, fold_trees=2, seed=1)
    whole, calls[:] = list(calls), []
    size = len(whole[0][0]) // 3
    monkeypatch.setattr(learning, "MAX_SUPERPOINTS", size)
    learn(examples, stages=2, trees=2, fold_trees=2, seed=1)
    assert len(np.unique(calls[0][0], axis=0)) == size
    known = {row.tobytes() for row in whole[0][0]}
    assert all(row.tobytes() in known for row in calls[0][0])
    for (_, label, weight), (_, everyone, weights) in zip(calls[::6], whole[::6], strict=True):
        np.testing.assert_allclose(np.bincount(label, weight), np.bincount(everyone, weights))
    # Each fold is left out of the same sample; and the sample follows the seed.
    assert sum(len(rows) for rows, _, _ in calls[1:6]) == 4 * size
    first = calls[0][0]
    for seed, same in ((1, True), (2, False)):
        calls.clear()
        learn(examples, stages=1, trees=2, seed=seed)
        assert np.array_equal(calls[0][0], first) == same


def test_a_sample_keeps_more_of_rare_classes() -> None:
    count = np.array([90_000, 0, 10_000, 100])
    label = np.repeat(np.arange(4), count)
    labelled = np.random.default_rng(0).permutation(len(label)) < 80_000
    of = np.bincount(label[labelled], minlength=4)
    kept = learning._sample(label, labelled, 4_000, seed=5)
    assert kept.sum() == 4_000
    assert not (kept & ~labelled).any()
    drawn = np.bincount(label[kept], minlength=4)
    # A superpoint is kept if its key is at most t, with the probability 1 - exp(-t weight), for the t that keeps 4,000.
    weight = np.divide(1, np.sqrt(of), out=np.zeros(4), where=of > 0)
    expected = of * (1 - np.exp(-weight * np.linspace(0, 50, 50_001)[:, None]))
    expected = expected[np.argmin(np.abs(expected.sum(axis=1) - 4_000))]
    assert (np.abs(drawn - expected) <= 4 * np.sqrt(expected)).all()
    everything = learning._sample(label, labelled, 80_000, seed=5)
    assert everything is labelled


# ---------------------------------------------------------------- training and prediction


@pytest.fixture(scope="module")
def campaign(tmp_path_factory: pytest.TempPathFactory) -> Campaign:
    return Campaign(tmp_path_factory.mktemp("forest"))


@pytest.fixture(scope="module")
def forest(campaign: Campaign) -> Forest:
    return train_forest(campaign.store, campaign.labels, history=[call("train", "x")])


@pytest.fixture(scope="module")
def checkpoint(forest: Forest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint") / "forest.pt"
    forest.save(path, overwrite=False)
    return path


def predicted(forest: Forest, campaign: Campaign, out: Path, **options: Any) -> PredictionStore:
    for _ in predict_forest(forest, campaign.store, out, **options):
        pass
    return PredictionStore(out)


def test_a_forest_finds_what_it_was_shown(campaign: Campaign, forest: Forest, tmp_path: Path) -> None:
    """Four answers in one room of three; a fourth is to validate on."""
    assert (len(forest.stages.trees), forest.labelled, forest.scenes) == (3, 4, campaign.store.table.id)
    assert {name: rows.tolist() for name, rows in forest.answered.items()} == {
        "a": sorted(row for row, _ in first_of_each(campaign.rooms[0])),
        "c": [5],
    }
    found = predicted(forest, campaign, tmp_path / "p.zarr")
    assert evaluate(found, campaign.store).grid.accuracy > 0.85
    assert evaluate(found, campaign.store, split="train").grid.accuracy > 0.85
    superpoints = open_superpoints(campaign.store)
    for scene in campaign.store.table:
        here = superpoints.read(scene)
        expected = apply(forest.stages, here).astype(np.float16)[here.superpoint]
        np.testing.assert_array_equal(found.probabilities(scene), expected)
        np.testing.assert_array_equal(found.superpoints(scene), here.superpoint)
        # Never asked again, "unsure" neither.
        assert found.labelled(scene).tolist() == forest.answered.get(scene.name, np.zeros(0)).tolist()
        rows = np.arange(scene.points)
        feat = superpoints.likeness()(here.feature).astype(np.float16)[here.superpoint]
        np.testing.assert_array_equal(found.features(scene)(rows), feat)
    bare = predicted(forest, campaign, tmp_path / "bare.zarr", features=False, scenes=campaign.store.table[:1])
    assert bare.feature_count(campaign.store.table[0]) == 0
    assert [scene.name for scene in bare.table if bare.has(scene)] == ["a"]
    describe(found.path, check=True)


def test_processes_change_nothing(
    campaign: Campaign, forest: Forest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hpal_cli.forest import predict as module

    one = predicted(forest, campaign, tmp_path / "one.zarr")
    monkeypatch.setattr(module, "_WORTH_PROCESSES", 0)
    monkeypatch.setattr(module, "default_jobs", lambda: 2)
    two = predicted(forest, campaign, tmp_path / "two.zarr")
    for scene in campaign.store.table:
        np.testing.assert_array_equal(one.probabilities(scene), two.probabilities(scene))


def test_other_scenes_know_no_answers(campaign: Campaign, forest: Forest, tmp_path: Path) -> None:
    other = synthetic_scenes(tmp_path / "s.zarr", [room("a", 8)])
    for _ in predict_forest(forest, other, tmp_path / "p.zarr"):
        pass
    found = PredictionStore(tmp_path / "p.zarr")
    assert len(found.labelled(other.table[0])) == 0
    assert evaluate(found, other, split="train").grid.accuracy > 0.85


def test_all_labels(campaign: Campaign, tmp_path: Path) -> None:
    full = train_forest(campaign.store, None)
    assert (full.labels, full.all_labelled, full.answered) == ("all", True, {})
    train = [scene for scene in campaign.store.table if scene.split == "train"]
    assert full.labelled == sum(scene.points for scene in train)
    found = predicted(full, campaign, tmp_path / "p.zarr")
    assert evaluate(found, campaign.store).grid.accuracy > 0.9
    for scene in campaign.store.table:
        expected = np.arange(scene.points) if scene.split == "train" else np.zeros(0)
        np.testing.assert_array_equal(found.labelled(scene), expected)
    with pytest.raises(UsageError, match="--spread: is of no use with `--labels all`"):
        train_forest(campaign.store, None, spread=campaign.spread(tmp_path / "s.zarr"))
    bare = synthetic_scenes(tmp_path / "bare.zarr", rooms(2), labels=False)
    with pytest.raises(HpalError, match="train scenes hold no labels"):
        train_forest(bare, None)


def test_it_repeats_to_the_byte_and_follows_its_seed(campaign: Campaign, checkpoint: Path, tmp_path: Path) -> None:
    again = train_forest(campaign.store, campaign.labels, history=[call("train", "x")])
    again.save(tmp_path / "again.pt", overwrite=False)
    assert (tmp_path / "again.pt").read_bytes() == checkpoint.read_bytes()
    train_forest(campaign.store, campaign.labels, seed=1).save(tmp_path / "other.pt", overwrite=False)
    assert (tmp_path / "other.pt").read_bytes() != checkpoint.read_bytes()


def test_from_a_spread_or_from_answers(campaign: Campaign, forest: Forest, tmp_path: Path) -> None:
    """A forest trained on the store of `hpal spread --alike` predicts mostly the same classes as one without that
    store, for which the training spreads the answers itself."""
    found = campaign.spread(tmp_path / "s.zarr", alike=True)
    told = train_forest(campaign.store, campaign.labels, spread=found)
    for scene in campaign.store.table:
        superpoints = open_superpoints(campaign.store).read(scene)
        one, other = (apply(made.stages, superpoints).argmax(axis=1) for made in (forest, told))
        assert (one == other).mean() > 0.8
    assert told.labelled == forest.labelled


@pytest.mark.parametrize(("made", "least"), [("alone", 0.85), ("two points", 0.5), ("plane", 0.3)])
def test_a_scene_alone(tmp_path: Path, made: str, least: float) -> None:
    usual = room()
    odd = {
        "alone": usual,
        "two points": Room("a", np.array([[0, 0, 0], [0.1, 0, 0]]), np.array([0, 1])),
        "plane": Room("a", usual.xyz * [1, 1, 0], usual.label),
    }[made]
    store = synthetic_scenes(tmp_path / "s.zarr", [odd])
    given = first_of_each(odd, sorted(set(odd.label.tolist())))
    labels = answers(tmp_path / "l.zarr", store, {"a": given})
    forest = train_forest(store, labels)
    for _ in predict_forest(forest, store, tmp_path / "p.zarr"):
        pass
    assert (PredictionStore(tmp_path / "p.zarr").predicted(store.table[0]) == odd.label).mean() >= least


# ---------------------------------------------------------------- bad input of training


def test_labels_it_cannot_learn_from(campaign: Campaign, tmp_path: Path) -> None:
    other = synthetic_scenes(tmp_path / "other.zarr", rooms(2))
    foreign = answers(tmp_path / "foreign.zarr", other, {"a": first_of_each(room())})
    with pytest.raises(HpalError, match=r"foreign\.zarr: holds labels of other scenes than .*rooms\.zarr"):
        train_forest(campaign.store, foreign)
    empty = LabelStore.create(tmp_path / "empty.zarr", campaign.store.classes, campaign.store.table)
    unsure = answers(tmp_path / "unsure.zarr", campaign.store, {"a": [(3, -1)], "d": [(4, 0)]})
    for labels in (empty, unsure):
        with pytest.raises(HpalError, match="holds no label of a train scene; answer some points with `hpal label`"):
            train_forest(campaign.store, labels)


def test_one_class_only_and_fewer_answers_than_classes(campaign: Campaign, tmp_path: Path) -> None:
    one = answers(tmp_path / "one.zarr", campaign.store, {"a": [(5, int(campaign.rooms[0].label[5]))]})
    noted = Noted()
    forest = train_forest(campaign.store, one, monitor=noted)
    name = CLASSES[campaign.rooms[0].label[5]]
    assert noted.said == [
        f"every answer is {name}, so no point can get another class: label points of other classes too"
    ]
    found = predicted(forest, campaign, tmp_path / "one-p.zarr")
    assert set(found.predicted(campaign.store.table[3]).tolist()) == {int(campaign.rooms[0].label[5])}
    two = answers(tmp_path / "two.zarr", campaign.store, {"a": first_of_each(campaign.rooms[0], (FLOOR, BOARD))})
    noted = Noted()
    found = predicted(train_forest(campaign.store, two, monitor=noted), campaign, tmp_path / "two-p.zarr")
    assert noted.said == ["no answer yet for 2 of 4 classes: wall, table"]
    assert set(found.predicted(campaign.store.table[3]).tolist()) == {FLOOR, BOARD}


def test_a_spread_that_does_not_fit(campaign: Campaign, tmp_path: Path) -> None:
    fitting = campaign.spread(tmp_path / "s.zarr")
    more = answers(tmp_path / "more.zarr", campaign.store, {"a": first_of_each(campaign.rooms[0]), "c": [(5, -1)]})
    train_forest(campaign.store, more, spread=fitting)
    more = answers(tmp_path / "more.zarr", campaign.store, {"b": [(7, 0)]})
    with pytest.raises(HpalError, match=r"s\.zarr: was made from other answers than .*more\.zarr holds now; .*--old"):
        train_forest(campaign.store, more, spread=fitting)
    train_forest(campaign.store, more, spread=fitting, old_spread=True)
    other = synthetic_scenes(tmp_path / "other.zarr", rooms(2))
    foreign = certain(other, tmp_path / "foreign.zarr", WALL)
    for old in (False, True):
        with pytest.raises(HpalError, match=r"foreign\.zarr: belongs to other scenes or classes than .*; make it from"):
            train_forest(campaign.store, more, spread=foreign, old_spread=old)
    val = certain(campaign.store, tmp_path / "val.zarr", WALL, only=("d",))
    with pytest.raises(HpalError, match="holds none of the train scenes"):
        train_forest(campaign.store, more, spread=val, old_spread=True)


def test_scenes_of_another_kind_are_refused(campaign: Campaign, forest: Forest, tmp_path: Path) -> None:
    far = synthetic_scenes(tmp_path / "far.zarr", [room()], grid=0.25)
    with pytest.raises(HpalError, match=r"describes scenes of scale 6\.25, and the model has learned from scale 2"):
        list(predict_forest(forest, far, tmp_path / "p.zarr"))
    grey = synthetic_scenes(tmp_path / "grey.zarr", [replace(room(), rgb=None)])
    with pytest.raises(HpalError, match="scene a has nothing beside its positions, and the model's scenes had colour"):
        list(predict_forest(forest, grey, tmp_path / "p.zarr"))
    named = synthetic_scenes(tmp_path / "named.zarr", [room()], classes=["ground", *CLASSES[1:]])
    with pytest.raises(HpalError, match="has the classes ground, wall, table, board; the model knows floor, wall"):
        list(predict_forest(forest, named, tmp_path / "p.zarr"))
    assert not (tmp_path / "p.zarr").exists()
    mixed = synthetic_scenes(tmp_path / "mixed.zarr", [room("a"), replace(room("b"), rgb=None)])
    labels = answers(tmp_path / "l.zarr", mixed, {"a": first_of_each(room())})
    with pytest.raises(HpalError, match="scene b has nothing beside its positions, and scene a has colour"):
        train_forest(mixed, labels)
    # As far apart as the scenes it has learned from, whatever the unit; other descriptions of the same kind pass.
    feet = synthetic_scenes(tmp_path / "feet.zarr", [replace(room(), xyz=room().xyz / 0.3048)], unit=0.3048)
    for _ in predict_forest(forest, feet, tmp_path / "p.zarr"):
        pass
    assert (PredictionStore(tmp_path / "p.zarr").predicted(feet.table[0]) == room().label).mean() > 0.85


# ---------------------------------------------------------------- the checkpoint


def every(forest: Forest) -> list[Trees]:
    return [*forest.stages.trees, forest.stages.boosted]


def test_a_checkpoint_comes_back_as_it_was(forest: Forest, checkpoint: Path, tmp_path: Path) -> None:
    assert is_forest(checkpoint)
    back = load(checkpoint)
    for stage, before in zip(every(back), every(forest), strict=True):
        for column in fields(Trees):
            np.testing.assert_array_equal(getattr(stage, column.name), getattr(before, column.name))
            assert getattr(stage, column.name).dtype == getattr(before, column.name).dtype
    for column in fields(forest.likeness):
        np.testing.assert_array_equal(getattr(back.likeness, column.name), getattr(forest.likeness, column.name))
    for name in ("classes", "columns", "scale", "appearance", "scenes", "labels", "labelled", "seed", "all_labelled"):
        one, other = getattr(back, name), getattr(forest, name)
        assert (one.to_json() == other.to_json()) if name == "classes" else (one == other), name
    assert back.answered.keys() == forest.answered.keys()
    assert back.history == forest.history
    back.save(tmp_path / "again.pt", overwrite=False)
    assert (tmp_path / "again.pt").read_bytes() == checkpoint.read_bytes()
    with pytest.raises(HpalError, match="exists already"):
        back.save(checkpoint, overwrite=False)


def test_nothing_in_it_is_a_pickle(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object, **__: object) -> None:
        pytest.fail("unpickled")

    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, never)
    load(checkpoint)
    with zipfile.ZipFile(checkpoint) as archive:
        for name in archive.namelist():
            assert archive.getinfo(name).date_time == (1980, 1, 1, 0, 0, 0)
            if name != "hpal.json":
                array = np.load(io.BytesIO(archive.read(name)), allow_pickle=False)
                assert array.dtype.kind in "if"


Change = Callable[[dict[str, Any], dict[str, np.ndarray]], object]


def rewritten(checkpoint: Path, out: Path, change: Change) -> Path:
    """The checkpoint with its JSON or arrays changed, and whole by every checksum."""
    with zipfile.ZipFile(checkpoint) as archive:
        meta = json.loads(archive.read("hpal.json"))
        arrays = {n[:-4]: np.load(io.BytesIO(archive.read(n))) for n in archive.namelist() if n.endswith(".npy")}
    changed = change(meta, arrays)
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("hpal.json", json.dumps(meta if not isinstance(changed, list) else changed))
        for name, array in arrays.items():
            buffer = io.BytesIO()
            np.save(buffer, array, allow_pickle=True)
            archive.writestr(f"{name}.npy", buffer.getvalue())
    return out


def set_first(name: str, value: float, row: int = 0) -> Change:
    def change(_: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        arrays[name].reshape(-1)[row] = value

    return change


def made(name: str, make: Callable[[np.ndarray], np.ndarray]) -> Change:
    def change(_: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        arrays[name] = make(arrays[name])

    return change


def with_row(values: np.ndarray, row: int, value: float) -> np.ndarray:
    values = values.copy()
    values[row] = value
    return values


def said(**values: object) -> Change:
    return lambda meta, _: meta.update(values)


HOSTILE = {
    "a child that is its own parent": set_first("stage0/child", 0),
    "a child beyond the last node": set_first("stage0/child", 10**8),
    "a child below zero": set_first("stage0/child", -5),
    "a root beyond the last node": set_first("stage0/root", 10**8),
    "a root below zero": set_first("stage0/root", -1),
    "no root": made("stage0/root", lambda v: v[:0]),
    "roots in two dimensions": made("stage0/root", lambda v: v[:, None]),
    "a column that is not there": set_first("stage0/column", 10_000),
    "columns as numbers with a point": made("stage0/column", lambda v: v.astype(np.float32)),
    "columns in two dimensions": made("stage0/column", lambda v: v[:, None]),
    "one column fewer": made("stage0/column", lambda v: v[1:]),
    "a threshold that is no number": set_first("stage1/threshold", np.nan),
    "one threshold fewer": made("stage1/threshold", lambda v: v[1:]),
    "children of one": made("stage0/child", lambda v: v[:, :1]),
    "children as numbers with a point": made("stage0/child", lambda v: v.astype(np.float64)),
    "a single number": made("stage0/leaf", lambda v: v[0, 0]),
    "leaves of another number of classes": made("stage0/leaf", lambda v: v[:, 1:]),
    "no leaf": made("stage0/leaf", lambda v: v[:0]),
    "a leaf that is no number": set_first("stage2/leaf", np.nan),
    "a leaf below zero": set_first("stage2/leaf", -1),
    "a leaf above one": set_first("stage2/leaf", 4),
    "a boosted leaf that is no number": set_first("boosted/leaf", np.nan, 30),
    "a boosted leaf without end": set_first("boosted/leaf", -np.inf, 30),
    "no class that boosted trees can find": made("boosted/leaf", lambda v: with_row(v, 0, -np.inf)),
    "a boosted child that is its own parent": made("boosted/child", lambda v: with_row(v, 1, 1)),
    "boosted trees of fewer columns": made("boosted/column", lambda v: np.where(v < 0, v, 32_000).astype(v.dtype)),
    "leaves as text": made("stage2/leaf", lambda v: v.astype("U8")),
    "a second stage like the first": lambda _, a: a.update(
        {f"stage0/{f.name}": a[f"stage1/{f.name}"] for f in fields(Trees)}
    ),
    "objects": made("stage0/root", lambda v: np.array([print], object)),
    "axes of another length": made("likeness/axis", lambda v: v[1:]),
    "axes that are no numbers": set_first("likeness/axis", np.inf),
    "deviations of another length": made("likeness/deviation", lambda v: v[1:]),
    "no quantile": made("likeness/quantile", lambda v: v[:0]),
    "answered rows with a point": made("answered/0", lambda v: v.astype(np.float64)),
    "answered rows in two dimensions": made("answered/0", lambda v: v[:, None]),
    "no stage": said(stages=0),
    "a billion stages": said(stages=10**9),
    "stages as text": said(stages="many"),
    "columns below zero": said(columns=-1),
    "a scale of nothing": said(scale=0),
    "a scale that is no number": said(scale=float("nan")),
    "endless": said(scale=float("inf"), columns=float("inf")),
    "no classes": said(classes=[]),
    "classes as text": said(classes="wall"),
    "history as text": said(history="long"),
    "more answered scenes than arrays": said(answered=["a", "b", "c", "d"]),
    "a list": lambda meta, _: [meta],
    "a newer version": said(spec=3),
    "an older version": said(spec=1),
    "a version that is none": said(spec="1"),
    "too few members": lambda meta, _: meta.pop("scale") and None,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_altered_arrays_are_refused(checkpoint: Path, tmp_path: Path, name: str) -> None:
    path = rewritten(checkpoint, tmp_path / "forest.pt", HOSTILE[name])
    assert is_forest(path)
    with pytest.raises(HpalError, match=r"forest\.pt: [^\n]*; [^\n]*$") as caught:
        load(path)
    if name == "a newer version":
        assert "is written to specification 3, this hpal reads up to 2; install a newer hpal" in str(caught.value)
    if name == "an older version":
        assert "is written to specification 1, this hpal reads 2; train it again" in str(caught.value)
    rewritten(checkpoint, tmp_path / "same.pt", lambda *_: None)
    load(tmp_path / "same.pt")


def test_whatever_is_not_refused_can_be_followed_to_its_end(forest: Forest) -> None:
    """Arrays with random entries: following those that pass the check ends, in probabilities."""
    rng = np.random.default_rng(0)
    good, passed = forest.stages.trees[0], 0
    rows = rng.normal(size=(20, forest.columns)).astype(np.float32)
    for _ in range(300):
        trees = copy.deepcopy(good)
        name = rng.choice([column.name for column in fields(Trees)])
        values = getattr(trees, name)
        at = tuple(rng.integers(0, n) for n in values.shape)
        values[at] = rng.integers(-3, 3 * len(good.column)) % 30_000 if rng.random() < 0.5 else values[at] + 1
        try:
            trees.check(forest.columns, 4, "test")
        except HpalError:
            continue
        passed += 1
        found = trees(rows)
        assert (found >= 0).all()
        np.testing.assert_allclose(found.sum(axis=1), 1, atol=0.02)
    assert 20 < passed < 280


def test_a_shape_of_a_billion_rows_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    path = tmp_path / "forest.pt"
    shutil.copy(checkpoint, path)
    with zipfile.ZipFile(checkpoint) as archive:
        names = archive.namelist()
        content = {name: archive.read(name) for name in names}
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "<i4", "fortran_order": False, "shape": (10**14,)})
    content["stage0/root.npy"] = head.getvalue() + b"\0" * 64
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, content[name])
    with pytest.raises(HpalError, match="is not a whole hpal forest"):
        load(path)


def test_a_checkpoint_cut_short_or_flipped_is_refused(forest: Forest, checkpoint: Path, tmp_path: Path) -> None:
    whole = checkpoint.read_bytes()
    rng = np.random.default_rng(0)
    path = tmp_path / "cut.pt"
    for length in (0, 1, 4, 100, len(whole) // 2, len(whole) - 30, len(whole) - 1):
        path.write_bytes(whole[:length])
        assert not is_forest(path)
        with pytest.raises(HpalError, match="is not a whole hpal forest"):
            load(path)
    same = 0
    for place in rng.integers(0, len(whole), 60).tolist():
        flipped = bytearray(whole)
        flipped[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(flipped)
        try:
            back = load(path)
        except HpalError:
            continue
        # A bit that says nothing, such as a date.
        same += 1
        for stage, before in zip(every(back), every(forest), strict=True):
            np.testing.assert_array_equal(stage.leaf, before.leaf)
    assert same < 5


def test_answers_of_rows_that_are_not_there(campaign: Campaign, forest: Forest, tmp_path: Path) -> None:
    for row in (-1, 10**9):
        bad = replace(forest, answered={"a": np.array([row], np.int64)})
        with pytest.raises(HpalError, match="has answers for points that scene a lacks"):
            predicted(bad, campaign, tmp_path / "p.zarr")


def test_info_describes_it(checkpoint: Path, forest: Forest, tmp_path: Path) -> None:
    found = describe(checkpoint, check=True)
    assert found.kind == "forest"
    assert found.facts["classes"] == list(CLASSES)
    assert found.facts["labelled_points"] == 4
    assert found.facts["stages"] == 3
    assert found.facts["trees"] == sum(len(stage.root) for stage in every(forest))
    assert [entry.program for entry in found.history] == ["hpal train"]
    assert dict(found.lines())["scale"] == "2"
    (tmp_path / "cut.pt").write_bytes(checkpoint.read_bytes()[:-30])
    with pytest.raises(HpalError, match=r"cut\.pt: is not a whole hpal checkpoint"):
        describe(tmp_path / "cut.pt")


# ---------------------------------------------------------------- commands


def test_the_loop_by_commands(campaign: Campaign, tmp_path: Path) -> None:
    """Trees in the place of the network: predict, eval, score, select, label, spread, and train on what came of it."""
    for name in ("rooms.zarr", "rooms.superpoints.zarr", "labels.zarr"):
        shutil.copytree(campaign.folder / name, tmp_path / name)

    def hpal(*words: str, stdin: bytes | None = None) -> Any:
        done = run_hpal(*words, stdin=stdin, cwd=tmp_path)
        assert done.rc == 0, done.err
        return done

    train = ("train", "rooms.zarr", "--labels", "labels.zarr", "--model", "forest")
    done = hpal(*train, "-o", "forest.pt")
    assert "forest.pt: a forest of 3 stages, from 4 labelled points; next: hpal predict" in done.err
    hpal("predict", "forest.pt", "rooms.zarr", "-o", "preds.zarr", "--ply", "result")
    assert sorted(path.name for path in (tmp_path / "result").iterdir()) == ["a.ply", "b.ply", "c.ply", "d.ply"]
    assert "whole and consistent" in hpal("info", "--check", "preds.zarr").out.decode()
    assert "whole and consistent" in hpal("info", "--check", "forest.pt").out.decode()
    assert json.loads(hpal("info", "--json", "forest.pt").out)["kind"] == "forest"
    measured = json.loads(hpal("eval", "preds.zarr", "--truth", "rooms.zarr", "--json").out)
    assert measured["grid"]["accuracy"] > 0.85
    for per in ("point", "superpoint"):
        scores = hpal("score", "preds.zarr", "--per", per).out
        picks = hpal("select", "--budget", "6", stdin=scores).out
        hpal("label", "--oracle", "rooms.zarr", "-o", "labels.zarr", stdin=picks)
    hpal("spread", "labels.zarr", "rooms.zarr", "--predictions", "preds.zarr", "-o", "spread.zarr")
    done = hpal(*train, "--spread", "spread.zarr", "-o", "again.pt", "-q")
    assert done.err == ""
    assert load(tmp_path / "again.pt").labelled > 8


TRAIN = "train rooms.zarr -o x.pt --labels"


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (f"{TRAIN} labels.zarr --model trees", 2, "--model: 'trees' is unknown; choose from network, forest"),
        (f"{TRAIN} labels.zarr --model forest --steps 5", 2, "--steps: is for the network; leave it out with --model"),
        (f"{TRAIN} labels.zarr --model forest --lr 0.1", 2, "--lr: is for the network"),
        (f"{TRAIN} labels.zarr --model forest --no-average", 2, "--average: is for the network"),
        (f"{TRAIN} labels.zarr --model forest --supervised-only", 2, "--supervised-only: is for the network"),
        (f"{TRAIN} labels.zarr --model forest --backend torch", 2, "--backend: is for the network"),
        (f"{TRAIN} labels.zarr --model forest --old-spread", 2, "--old-spread: has no meaning without --spread"),
        (
            f"{TRAIN} labels.zarr --init forest.pt",
            2,
            r"--init: forest\.pt is a forest, and a network can only start",
        ),
        (f"{TRAIN} empty.zarr --model forest", 1, r"empty\.zarr: holds no label of a train scene"),
        (f"{TRAIN} all --model forest --spread p.zarr", 2, "--spread: is of no use with `--labels all`"),
        (
            "predict forest.pt rooms.zarr -o x.zarr --turns 2",
            2,
            r"--turns: is for the network, and forest\.pt is",
        ),
        ("predict forest.pt rooms.zarr -o x.zarr --smooth", 2, "--smooth: is for the network"),
        ("predict forest.pt rooms.zarr -o x.zarr --max-voxels 9", 2, "--max-voxels: is for the network"),
        ("predict cut.pt rooms.zarr -o x.zarr", 1, r"cut\.pt: is not a whole hpal checkpoint"),
        ("predict loop.pt rooms.zarr -o x.zarr", 1, r"loop\.pt: its trees do not fit together; train it again"),
        ("info loop.pt", 1, r"loop\.pt: its trees do not fit together; train it again"),
    ],
)
def test_bad_calls_get_one_line(
    campaign: Campaign, checkpoint: Path, tmp_path: Path, words: str, status: int, message: str
) -> None:
    for name in ("rooms.zarr", "labels.zarr"):
        (tmp_path / name).symlink_to(campaign.folder / name)
    shutil.copy(checkpoint, tmp_path / "forest.pt")
    (tmp_path / "cut.pt").write_bytes(checkpoint.read_bytes()[:-40])
    rewritten(checkpoint, tmp_path / "loop.pt", HOSTILE["a child that is its own parent"])
    LabelStore.create(tmp_path / "empty.zarr", campaign.store.classes, campaign.store.table)
    certain(campaign.store, tmp_path / "p.zarr", WALL)
    done = run_hpal(*words.split(), cwd=tmp_path)
    assert (done.rc, done.out) == (status, b""), done.err
    assert re.fullmatch(rf"hpal \w+: {message}[^\n]*\n", done.err), done.err
    assert "; " in done.err
    assert not list(tmp_path.glob("x.*"))
