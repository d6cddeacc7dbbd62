"""Scores a superpoint at a time, the first round by likeness, and what select makes of both."""

from __future__ import annotations

import hashlib
import io
import re
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from conftest import MadeScene, run_hpal, synthetic_predictions
from synthetic_scenes import (
    BOARD,
    STEP,
    TABLE,
    Campaign,
    Room,
    answers,
    face,
    first_of_each,
    room,
    rooms,
    synthetic_scenes,
)

from hpal_cli.budget import Budget
from hpal_cli.errors import HpalError, UsageError
from hpal_cli.labels.store import LabelStore
from hpal_cli.predictions.store import PredictionStore, write_scene
from hpal_cli.scenes.store import SceneStore
from hpal_cli.score import pointwise
from hpal_cli.score.diverse import diverse
from hpal_cli.score.hmmu import Hierarchy
from hpal_cli.score.kmeans import kmeans
from hpal_cli.score.scorer import ScoreSettings, Strategy, score
from hpal_cli.score.superpoints import SuperpointValue, unanswered_superpoints
from hpal_cli.selection.fds import Suppression
from hpal_cli.selection.selector import Selection, select
from hpal_cli.shard import Shard
from hpal_cli.store import envelope
from hpal_cli.stream.points import PointReader, write_points
from hpal_cli.superpoints.store import open_superpoints

SCALE = STEP / 0.04
BY_POINT = (Strategy.HMMU, Strategy.MMU, Strategy.LC, Strategy.ENTROPY)


def scored(path: Path, plan: ScoreSettings, **options: Any) -> bytes:
    out = io.BytesIO()
    score(path, lambda _: out, plan, history=None, **options)
    return out.getvalue()


def rows_of(data: bytes) -> np.ndarray:
    return PointReader(io.BytesIO(data), "test").read()


def selected(*streams: bytes, budget: str = "5", store: PredictionStore | None = None, **options: Any) -> Selection:
    readers = [PointReader(io.BytesIO(data), f"stream {n}") for n, data in enumerate(streams)]
    options = {"suppression": None, **options}
    return select(readers, budget=Budget.parse(budget), predictions=store, **options)


def exact_rooms() -> list[MadeScene]:
    """Probabilities that every machine computes alike: whole numbers by their sum."""
    made = []
    for n, (name, count) in enumerate((("a", 700), ("b", 300))):
        rng = np.random.default_rng(n)
        xyz = rng.integers(0, 2500, (count, 3)) / 1000
        parts = rng.integers(1, 40, (count, 3))
        prob = parts / parts.sum(axis=1, keepdims=True)
        made.append(MadeScene(name, xyz, parts.astype(float), [3, 40], (0.0, 0.0, 0.0), prob))
    return made


BEFORE = {
    "54ea45cd3ed1194d": ScoreSettings(),
    "09be67556583bb5a": ScoreSettings(hierarchy=Hierarchy(nested=True)),
    "46d18e43da82d4a0": ScoreSettings(Strategy.MMU),
    "ab4afcd2cb05b94d": ScoreSettings(Strategy.LC),
    "0ffce9ca8ab9124b": ScoreSettings(Strategy.RANDOM, seed=3),
}
"""Of the streams that version 8d675a2, which knew no superpoints, wrote for `exact_rooms`."""


@pytest.mark.parametrize("digest", BEFORE)
def test_scores_by_point_are_what_they_were_to_the_byte(tmp_path: Path, digest: str) -> None:
    path = synthetic_predictions(tmp_path / "p.zarr", exact_rooms())
    head, _, body = scored(path, BEFORE[digest]).partition(b"end_header\n")
    lines = [line for line in head.decode().splitlines() if not line.startswith(("comment source", "comment hpal"))]
    assert hashlib.sha256("\n".join(lines).encode() + body).hexdigest()[:16] == digest


# ---------------------------------------------------------------- a superpoint at a time


class Predicted:
    """Rooms with a model's say of them: sure of most, torn at the board of room b. The model knows of two answers."""

    def __init__(self, folder: Path, *, superpoints: bool = True) -> None:
        self.rooms = rooms(4)
        self.store = synthetic_scenes(folder / "rooms.zarr", self.rooms)
        self.superpoints = open_superpoints(self.store, jobs=1)
        self.path = folder / "preds.zarr"
        attributes = {
            "id": self.store.table.id,
            "classes": self.store.classes.to_json(),
            "unit": 1.0,
            "grid": STEP,
            "scenes": self.store.table.to_json(),
            "history": [],
        }
        rng = np.random.default_rng(1)
        with envelope.create(self.path, "predictions", attributes, overwrite=False) as (root, _):
            for scene, one in zip(self.store.table, self.rooms, strict=True):
                prob = np.eye(4)[one.label] * 8 + rng.random((len(one.label), 4))
                if scene.name == "b":
                    prob[one.label == BOARD] = [0, 1.0, 0.1, 0.9]
                prob /= prob.sum(axis=1, keepdims=True)
                here = self.superpoints.partition(scene) if superpoints else None
                labelled = np.array([5, 700]) if scene.name == "a" else np.zeros(0, np.int64)
                feat = rng.random((4, 6))[one.label] + 0.1
                write_scene(root, scene, self.store.points(scene), prob, feat, labelled, superpoint=here)
        self.predictions = PredictionStore(self.path)


@pytest.fixture(scope="module")
def predicted(tmp_path_factory: pytest.TempPathFactory) -> Predicted:
    return Predicted(tmp_path_factory.mktemp("scored"))


def by_superpoint(strategy: Strategy = Strategy.HMMU, **options: Any) -> ScoreSettings:
    return ScoreSettings(strategy, per_superpoint=True, **options)


@pytest.mark.parametrize("strategy", BY_POINT)
def test_what_a_superpoint_is_worth_by_a_plain_reading(predicted: Predicted, strategy: Strategy) -> None:
    """Its points' mean score, by the root of their number, by how rare the classes are that they may be."""
    train = [scene for scene in predicted.store.table if scene.split == "train"]
    prob = {scene.number: predicted.predictions.probabilities(scene).astype(float) for scene in train}
    of = {scene.number: predicted.superpoints.partition(scene) for scene in train}
    points = sum(len(p) for p in prob.values())
    share = sum(p.sum(axis=0) for p in prob.values()) / points
    rarity = [max(s, 0.003) ** -0.25 for s in share]
    largest = max(np.bincount(parts).max() for parts in of.values())

    # Scores of all points: nobody has answered.
    flat = io.BytesIO()
    bare = predicted.path.parent / f"bare-{strategy}.zarr"
    shutil.copytree(predicted.path, bare)
    root = zarr.open_group(str(bare), mode="r+")
    del root["scenes/a/labelled"]
    score(bare, lambda _: flat, ScoreSettings(strategy), history=None)
    point = rows_of(flat.getvalue())

    expected = {}
    for scene in train:
        alone = point[point["scene"] == scene.number]
        assert alone["index"].tolist() == list(range(scene.points))
        for number in range(of[scene.number].max() + 1):
            rows = np.flatnonzero(of[scene.number] == number)
            mean = float(np.mean(alone["score"][rows].astype(float)))
            rare = float(np.mean([sum(p * r for p, r in zip(prob[scene.number][row], rarity)) for row in rows]))
            most = np.sqrt(largest) * max(rarity)
            expected[scene.number, number] = mean * np.sqrt(len(rows)) * rare / most
    found = rows_of(scored(bare, by_superpoint(strategy)))
    assert [(int(r["scene"]), int(r["superpoint"])) for r in np.sort(found, order=("scene", "superpoint"))] == sorted(
        expected
    )
    for row in found:
        assert row["score"] == pytest.approx(expected[int(row["scene"]), int(row["superpoint"])], rel=2e-3)
    assert found["score"].min() >= 0
    assert found["score"].max() <= 1


def test_the_shares_of_a_superpoint_sum_to_its_score(predicted: Predicted, tmp_path: Path) -> None:
    import plyfile

    levels = Hierarchy((0.1, 0.5), (0.3, 0.2))
    scored(predicted.path, by_superpoint(hierarchy=levels), ply=tmp_path)
    cloud = plyfile.PlyData.read(str(tmp_path / "a.ply"))["vertex"].data
    shares = [cloud[f"scalar_share_{name}"] for name in ("point", "10cm", "50cm")]
    assert min(share.max() for share in shares) > 0.001
    np.testing.assert_allclose(sum(shares), cloud["scalar_score"], atol=1e-6)


def test_each_superpoint_is_asked_about_once_in_its_middle(predicted: Predicted, tmp_path: Path) -> None:
    rows = rows_of(scored(predicted.path, by_superpoint()))
    for scene in predicted.store.table:
        if scene.split != "train":
            assert scene.number not in rows["scene"]
            continue
        here, found = rows[rows["scene"] == scene.number], predicted.superpoints.read(scene)
        answered = found.superpoint[[5, 700]] if scene.name == "a" else []
        free = np.setdiff1d(np.arange(len(found)), answered)
        assert sorted(here["superpoint"].tolist()) == free.tolist()
        np.testing.assert_array_equal(here["index"], np.sort(found.medoid[free]))
        np.testing.assert_array_equal(found.superpoint[here["index"]], here["superpoint"])
    # Those that a labels store has an answer for are left out too, "unsure" as well.
    scene = predicted.store.table[1]
    asked = predicted.superpoints.partition(scene)
    labels = answers(tmp_path / "l.zarr", predicted.store, {"b": [(9, 0), (400, -1)]})
    fewer = rows_of(scored(predicted.path, by_superpoint(), labels=labels))
    gone = {(1, int(n)) for n in asked[[9, 400]]}
    assert {(int(r["scene"]), int(r["superpoint"])) for r in rows} - gone == {
        (int(r["scene"]), int(r["superpoint"])) for r in fewer
    }


def test_the_torn_board_is_asked_about_first(predicted: Predicted) -> None:
    """This holds if superpoints are scored. Scored point by point, the board is not among the first hundred."""
    found = selected(scored(predicted.path, by_superpoint()), budget="1", store=predicted.predictions)
    scene, row = int(found.rows["scene"][0]), int(found.rows["index"][0])
    assert (predicted.store.table[scene].name, predicted.rooms[scene].label[row]) == ("b", BOARD)


def test_the_same_bytes_for_any_jobs_and_the_same_picks_from_parts(predicted: Predicted) -> None:
    one = scored(predicted.path, by_superpoint())
    assert scored(predicted.path, by_superpoint(), jobs=2) == one
    for parts in (2, 5):
        pieces = [scored(predicted.path, by_superpoint(), shard=Shard(n + 1, parts)) for n in range(parts)]
        for streams in (pieces, pieces[::-1]):
            merged = selected(*streams, budget="7", store=predicted.predictions)
            whole = selected(one, budget="7", store=predicted.predictions)
            assert merged.rows.tobytes() == whole.rows.tobytes()
            assert merged.header == whole.header
    reader = PointReader(io.BytesIO(one), "test")
    assert reader.header.strategy == "hmmu flat 0.1,0.5,1 0.1,0.01,0.001 per superpoint"
    with pytest.raises(HpalError, match="strategy differs"):
        selected(one, scored(predicted.path, ScoreSettings(), scenes=["b"]), store=predicted.predictions)


def test_predictions_without_superpoints_get_those_of_their_scenes(predicted: Predicted, tmp_path: Path) -> None:
    bare = Predicted(tmp_path, superpoints=False)
    assert bare.predictions.superpoints(bare.store.table[0]) is None
    np.testing.assert_array_equal(
        rows_of(scored(bare.path, by_superpoint())), rows_of(scored(predicted.path, by_superpoint()))
    )


def test_alike_picks_suppress_each_other_as_ever(predicted: Predicted) -> None:
    data = scored(predicted.path, by_superpoint())
    without = selected(data, budget="40", store=predicted.predictions)
    wide = selected(data, budget="40", store=predicted.predictions, suppression=Suppression(2.0, 0.5))
    assert len(wide.rows) < len(without.rows)
    assert sum(scene.suppressed for scene in wide.scenes) > 0


def test_probabilities_that_are_none(predicted: Predicted, tmp_path: Path) -> None:
    shutil.copytree(predicted.path, tmp_path / "p.zarr")
    array = zarr.open_group(str(tmp_path / "p.zarr"), mode="r+")["scenes/b/prob"]
    array[7, 1] = np.nan  # type: ignore[index]
    for strategy in BY_POINT:
        with pytest.raises(HpalError, match="scene b: 1 rows of prob are no probabilities"):
            scored(tmp_path / "p.zarr", by_superpoint(strategy))


@pytest.mark.parametrize("bad", [-1, 10_000])
def test_superpoints_that_are_none(predicted: Predicted, tmp_path: Path, bad: int) -> None:
    shutil.copytree(predicted.path, tmp_path / "p.zarr")
    array = zarr.open_group(str(tmp_path / "p.zarr"), mode="r+")["scenes/b/superpoint"]
    array[7] = bad  # type: ignore[index]
    with pytest.raises(HpalError, match="scene b: superpoint is not one number a point, from 0 on; write it again"):
        scored(tmp_path / "p.zarr", by_superpoint())


def test_regions_are_no_superpoints(predicted: Predicted) -> None:
    for strategy in (Strategy.REDAL, Strategy.SSDR):
        with pytest.raises(UsageError, match=f"--per: {strategy} always asks about whole superpoints; leave --per out"):
            scored(predicted.path, by_superpoint(strategy))


@pytest.mark.parametrize("strategy", [Strategy.REDAL, Strategy.SSDR])
def test_regions_are_the_superpoints(predicted: Predicted, strategy: Strategy) -> None:
    """All points of a superpoint are candidates, by its number in the scene and with one score."""
    rows = rows_of(scored(predicted.path, ScoreSettings(strategy)))
    scene = predicted.store.table.choose("train")[0]
    mine, of = rows[rows["scene"] == scene.number], predicted.superpoints.partition(scene)
    np.testing.assert_array_equal(mine["region"], of[mine["index"]])
    assert len(mine) > len(np.unique(of)) > 5
    for region in np.unique(mine["region"]):
        assert len(np.unique(mine["score"][mine["region"] == region])) == 1


# ---------------------------------------------------------------- at random


def test_a_draw_finds_a_superpoint_as_often_as_a_point_would() -> None:
    """The first, and the second after it, by their points: as one point after the other drawn from a bag."""
    size = np.array([1, 2, 5, 12])
    of = np.repeat(np.arange(4), size)
    worth = SuperpointValue(None, 12, uniform=True)
    first, second = Counter(), Counter()
    draws = 4000
    for seed in range(draws):
        order = np.argsort(-worth(pointwise.random(len(of), seed, 0), None, of))
        first[int(order[0])] += 1
        second[int(order[1])] += 1
    chance = size / 20
    for n in range(4):
        assert first[n] / draws == pytest.approx(chance[n], abs=0.025)
        expected = sum(chance[m] * size[n] / (20 - size[m]) for m in range(4) if m != n)
        assert second[n] / draws == pytest.approx(expected, abs=0.025)


def test_random_superpoints_of_scenes_and_of_predictions(predicted: Predicted) -> None:
    plan = by_superpoint(Strategy.RANDOM, seed=5)
    from_scenes, from_predictions = (rows_of(scored(path, plan)) for path in (predicted.store.path, predicted.path))
    assert len(from_scenes) == len(from_predictions) + 2
    key = ("scene", "superpoint", "index", "score")
    assert set(map(tuple, from_predictions[list(key)].tolist())) < set(map(tuple, from_scenes[list(key)].tolist()))
    assert ((from_scenes["score"] >= 0) & (from_scenes["score"] <= 1)).all()
    other = rows_of(scored(predicted.store.path, by_superpoint(Strategy.RANDOM, seed=6)))
    assert (other["score"] != from_scenes["score"]).all()


# ---------------------------------------------------------------- what stands for others first


def test_kmeans_is_a_fixed_point_of_lloyds_algorithm() -> None:
    rng = np.random.default_rng(0)
    middle = rng.normal(0, 10, (6, 4))
    rows = np.concatenate([one + rng.normal(0, 0.5, (50, 4)) for one in middle])
    weight = rng.integers(1, 50, 300).astype(float)
    centres, home = kmeans(rows, weight, 6, np.random.default_rng(1))
    away = np.linalg.norm(rows[:, None] - centres, axis=2)
    np.testing.assert_array_equal(home, away.argmin(axis=1))
    for n in range(6):
        np.testing.assert_allclose(centres[n], np.average(rows[home == n], axis=0, weights=weight[home == n]))
    again = kmeans(rows, weight, 6, np.random.default_rng(1))
    np.testing.assert_array_equal(again[0], centres)
    # Well apart, they are found.
    assert sorted(Counter(home.tolist()).values()) == [50] * 6


def test_kmeans_makes_no_more_clusters_than_there_are_different_rows() -> None:
    rows = np.repeat(np.eye(3), 5, axis=0)
    centres, home = kmeans(rows, np.ones(15), 10, np.random.default_rng(0))
    assert len(centres) == 3
    np.testing.assert_array_equal(centres[home], rows)
    one, _ = kmeans(np.zeros((4, 2)), np.ones(4), 3, np.random.default_rng(0))
    assert one.tolist() == [[0, 0]]


def likeness_of(seed: int, count: int = 200) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, 20)), np.linspace(2, 0.5, 20), rng.integers(1, 500, count)


def test_the_first_picks_stand_for_the_clusters() -> None:
    rows, deviation, size = likeness_of(3)
    (found,) = diverse([rows], deviation, [size], [np.ones(200, bool)], 12, seed=1)
    scaled = rows[:, :16] * (deviation[:16] / 2)
    centres, home = kmeans(scaled, size.astype(float), 12, np.random.default_rng(1))
    weight = np.bincount(home, size, minlength=12)
    nearest = np.linalg.norm(scaled[:, None] - centres, axis=2).argmin(axis=0)
    assert len(set(nearest.tolist())) == 12
    order = np.argsort(-found)
    assert order[:12].tolist() == nearest[np.argsort(-weight)].tolist()
    # One place for each, so that every budget has picks of its own; and all are there.
    assert len(np.unique(found)) == 200
    assert found.min() > 0
    assert found.max() == 1
    # What comes after is spread out too: no cluster is left before all have a second.
    later = Counter(home[order[12:36]].tolist())
    assert len(later) >= 9


def test_what_is_answered_is_not_asked_again() -> None:
    rows, deviation, size = likeness_of(4)
    free = np.random.default_rng(0).random(200) < 0.5
    parts = [slice(0, 80), slice(80, 200)]
    found = diverse([rows[p] for p in parts], deviation, [size[p] for p in parts], [free[p] for p in parts], 9)
    assert [len(one) for one in found] == [80, 120]
    together = np.concatenate(found)
    assert not together[~free].any()
    assert (together[free] > 0).all()
    nothing = diverse([rows], deviation, [size], [np.zeros(200, bool)], 9)
    assert not nothing[0].any()
    # More answers than superpoints, and superpoints that are all alike.
    few = diverse([rows[:3]], deviation, [size[:3]], [np.ones(3, bool)], 50)
    assert sorted(few[0].tolist()) == pytest.approx([1 / 3, 2 / 3, 1])
    same = diverse([np.zeros((5, 20))], np.zeros(20), [np.array([1, 5, 3, 4, 2])], [np.ones(5, bool)], 2)
    assert len(np.unique(same[0])) == 5


def first_round(path: Path, budget: str = "12", **options: Any) -> bytes:
    plan = by_superpoint(Strategy.DIVERSE, budget=Budget.parse(budget))
    return scored(path, replace(plan, **options.pop("plan", {})), **options)


def test_a_first_round(predicted: Predicted, tmp_path: Path) -> None:
    data = first_round(predicted.store.path)
    rows = rows_of(data)
    assert first_round(predicted.store.path, jobs=2) == data
    assert first_round(predicted.store.path, plan={"seed": 1}) != data
    assert PointReader(io.BytesIO(data), "test").header.strategy == "diverse 12 seed 0 per superpoint"
    train = [scene for scene in predicted.store.table if scene.split == "train"]
    assert len(rows) == sum(len(predicted.superpoints.read(scene)) for scene in train)
    assert len(np.unique(rows["score"])) == len(rows)
    for row in rows:
        found = predicted.superpoints.read(predicted.store.table[int(row["scene"])])
        assert row["index"] == found.medoid[row["superpoint"]]
    # One in each kind of surface, in whichever room.
    picks = selected(data, budget="12").rows
    kinds = {int(predicted.rooms[int(r["scene"])].label[int(r["index"])]) for r in picks}
    assert kinds == {0, 1, TABLE, BOARD}
    # A smaller budget is the beginning of the same list.
    fewer = selected(data, budget="3").rows
    assert fewer["index"].tolist() == picks["index"][:3].tolist()
    # A superpoint with an answer is left out.
    name = predicted.store.table[int(picks["scene"][0])].name
    labels = answers(tmp_path / "l.zarr", predicted.store, {name: [(int(picks["index"][0]), 0)]})
    fewer = rows_of(first_round(predicted.store.path, labels=labels))
    assert len(fewer) == len(rows) - 1


def test_what_a_first_round_cannot_be_made_of(predicted: Predicted) -> None:
    with pytest.raises(HpalError, match=r"preds\.zarr: is no scenes store, which the strategy diverse needs; give the"):
        first_round(predicted.path)
    with pytest.raises(UsageError, match="--shard: diverse compares the superpoints of all scenes; score them in one"):
        first_round(predicted.store.path, shard=Shard(1, 2))
    with pytest.raises(HpalError, match=r"is a scenes store, and mmu needs predictions; .*--strategy diverse for a"):
        scored(predicted.store.path, by_superpoint(Strategy.MMU))


@pytest.mark.parametrize("made", ["plane", "two points", "one point", "one colour"])
def test_odd_scenes_have_a_first_round(tmp_path: Path, made: str) -> None:
    usual = room()
    odd = {
        "plane": Room("a", face((0, 0, 0), (2, 0, 0), (0, 2, 0)), np.zeros(625, int)),
        "two points": Room("a", np.array([[0, 0, 0], [0.1, 0, 0]]), np.array([0, 1])),
        "one point": Room("a", np.zeros((1, 3)), np.array([0])),
        "one colour": replace(usual, rgb=np.full((len(usual.xyz), 3), 9, np.uint8)),
    }[made]
    store = synthetic_scenes(tmp_path / "s.zarr", [odd])
    found = selected(first_round(store.path), budget="8")
    assert len(found.rows) == min(8, len(open_superpoints(store).read(store.table[0])))
    assert found.exhausted == (made != "one colour")


# ---------------------------------------------------------------- select


def test_select_never_takes_two_of_a_superpoint(predicted: Predicted) -> None:
    """Of a foreign scorer's stream, which has every point: the best of each, and none where another was answered."""
    data = scored(predicted.path, by_superpoint())
    header = PointReader(io.BytesIO(data), "test").header
    rng = np.random.default_rng(0)
    parts = []
    for scene in predicted.store.table:
        if scene.split == "train":
            rows = np.zeros(scene.points, header.dtype)
            rows["scene"], rows["index"] = scene.number, np.arange(scene.points)
            rows["superpoint"] = predicted.superpoints.partition(scene)
            rows["score"] = rng.integers(0, 50, scene.points) / 50
            parts.append(rows)
    every = np.concatenate(parts)
    out = io.BytesIO()
    write_points(out, replace(header, count=len(every)), every)
    best: dict[tuple[int, int], tuple[float, int]] = {}
    for row in every:
        key = int(row["scene"]), int(row["superpoint"])
        this = -float(row["score"]), int(row["index"])
        best[key] = min(best.get(key, this), this)
    a = predicted.superpoints.partition(predicted.store.table[0])
    for gone in a[[5, 700]].tolist():
        del best[0, gone]
    found = selected(out.getvalue(), budget="1000", store=predicted.predictions)
    assert {(int(r["scene"]), int(r["index"])) for r in found.rows} == {(s, row) for (s, _), (_, row) in best.items()}
    assert found.exhausted
    # A later answer, to another point of a superpoint that is streamed.
    target = rows_of(data)[-1]
    scene = predicted.store.table[int(target["scene"])]
    of = predicted.superpoints.partition(scene)
    other = int(np.setdiff1d(np.flatnonzero(of == target["superpoint"]), [target["index"]])[0])
    with_answer = answers(predicted.path.parent / "later.zarr", predicted.store, {scene.name: [(other, 0)]})
    usual = selected(data, budget="1000", store=predicted.predictions)
    later = selected(data, budget="1000", store=predicted.predictions, labels=with_answer)
    gone = {(int(r["scene"]), int(r["index"])) for r in usual.rows} - {
        (int(r["scene"]), int(r["index"])) for r in later.rows
    }
    assert gone == {(scene.number, int(target["index"]))}


def test_a_superpoint_without_a_free_point() -> None:
    of = np.array([0, 0, 1, 2, 2])
    assert unanswered_superpoints(of, np.array([], int)).tolist() == [0, 1, 2]
    assert unanswered_superpoints(of, np.array([4, 2])).tolist() == [0]
    assert unanswered_superpoints(of, np.arange(5)).tolist() == []


# ---------------------------------------------------------------- commands


def test_commands(predicted: Predicted, tmp_path: Path) -> None:
    for name in ("rooms.zarr", "rooms.superpoints.zarr", "preds.zarr"):
        shutil.copytree(predicted.path.parent / name, tmp_path / name)
    first = run_hpal("score", "rooms.zarr", "--strategy", "diverse", "--budget", 8, cwd=tmp_path)
    assert first.rc == 0
    assert re.search("scoring .* superpoints of 3 scenes", first.err), first.err
    # Another budget than it was scored for is said; so is a pool with fewer superpoints than answers.
    picks = run_hpal("select", "--budget", 1000, stdin=first.out, cwd=tmp_path)
    assert picks.rc == 0
    assert "warning: the points were scored for --budget 8, and diverse planned for that many picks" in picks.err
    superpoints = len(rows_of(first.out))
    assert re.search(f"exhausted: {superpoints} of 1,000, no superpoint is left", picks.err), picks.err
    same = run_hpal("select", "--budget", 8, stdin=first.out, cwd=tmp_path)
    assert "warning" not in same.err
    assert "exhausted:" not in same.err
    done = run_hpal("label", "--oracle", "rooms.zarr", "-o", "labels.zarr", stdin=same.out, cwd=tmp_path)
    assert done.rc == 0
    assert len(LabelStore(tmp_path / "labels.zarr").latest()) == 8
    again = run_hpal("score", "preds.zarr", "--per", "superpoint", "--labels", "labels.zarr", cwd=tmp_path)
    assert again.rc == 0
    taken = {
        (int(r["scene"]), int(predicted.superpoints.partition(predicted.store.table[int(r["scene"])])[r["index"]]))
        for r in LabelStore(tmp_path / "labels.zarr").latest()
    }
    assert not taken & {(int(r["scene"]), int(r["superpoint"])) for r in rows_of(again.out)}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("score preds.zarr --per room", "--per: 'room' is unknown; choose from point, superpoint"),
        (
            "score preds.zarr --per superpoint --strategy redal",
            "--per: redal always asks about whole superpoints; leave --per out",
        ),
        ("score rooms.zarr --strategy diverse --shard 1/2", "--shard: diverse compares"),
        ("score rooms.zarr --strategy diverse --levels 10", "--strategy: diverse has no voxels"),
        ("score preds.zarr --budget 5 --per superpoint", "--budget: has no meaning for hmmu; give it to `hpal select`"),
        ("score preds.zarr --strategy diverse", "preds.zarr: is no scenes store"),
    ],
)
def test_bad_calls_get_one_line(predicted: Predicted, words: str, message: str) -> None:
    done = run_hpal(*words.split(), cwd=predicted.path.parent)
    assert done.rc in (1, 2)
    assert done.out == b""
    assert done.err.startswith(f"hpal score: {message}"), done.err
    assert done.err.count("\n") == 1


def test_a_campaign_in_python(tmp_path: Path) -> None:
    """A first round by likeness, then rounds on what was spread: every answer is another superpoint."""
    campaign = Campaign(tmp_path)
    labels = LabelStore.create(tmp_path / "new.zarr", campaign.store.classes, campaign.store.table)
    asked: set[tuple[int, int]] = set()
    store: SceneStore | PredictionStore = campaign.store
    for number in range(3):
        data = first_round(campaign.store.path, "4") if number == 0 else scored(store.path, by_superpoint())
        found = selected(data, budget="4", store=store if isinstance(store, PredictionStore) else None)
        for row in found.rows:
            key = int(row["scene"]), int(row["superpoint"])
            assert key not in asked
            asked.add(key)
        given = {
            scene.name: [
                (int(r["index"]), int(campaign.rooms[scene.number].label[int(r["index"])]))
                for r in found.rows
                if r["scene"] == scene.number
            ]
            for scene in campaign.store.table
        }
        labels = answers(labels.path, campaign.store, {name: pairs for name, pairs in given.items() if pairs})
        store = campaign.spread(tmp_path / f"spread-{number}.zarr", labels, alike=True)
    assert len(asked) == 12
    right = np.concatenate(
        [store.predicted(s) == campaign.rooms[s.number].label for s in campaign.store.table if s.split == "train"]
    )
    assert right.mean() > 0.9
    assert first_of_each(campaign.rooms[0])[TABLE][1] == TABLE
