"""The table that a person fills in: its order, its columns, one row a region."""

from __future__ import annotations

import csv
import time
from collections.abc import Callable
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from conftest import Done

from hpal_cli.label.queries import expand_to_regions, queries
from hpal_cli.label.tour import MAX_NEAREST_NEIGHBOUR, _nearest_neighbour_tour, short_tour

Hpal = Callable[..., Done]


def length(place: np.ndarray, order: np.ndarray) -> float:
    return float(np.linalg.norm(np.diff(place[order], axis=0), axis=1).sum())


@pytest.mark.parametrize("count", [0, 1, 2, 3, 40, 1200, MAX_NEAREST_NEIGHBOUR + 500])
def test_a_walk_visits_every_query_once(count: int) -> None:
    place = np.random.default_rng(count).random((count, 3))
    assert sorted(short_tour(place)) == list(range(count))


def test_a_walk_is_nearly_the_shortest_from_its_corner() -> None:
    for seed in range(20):
        place = np.random.default_rng(seed).random((7, 3))
        order = short_tour(place)
        corner = place[:, :2].min(axis=0)
        assert order[0] == ((place[:, :2] - corner) ** 2).sum(axis=1).argmin()
        best = min(length(place, np.array([order[0], *rest])) for rest in permutations(set(range(7)) - {order[0]}))
        assert length(place, order) < 1.2 * best


def test_a_walk_does_not_depend_on_the_order_that_it_is_given() -> None:
    place = np.random.default_rng(0).integers(0, 4, (60, 3)).astype(float) + np.arange(60)[:, None] * 1e-6
    mixed = np.random.default_rng(1).permutation(60)
    np.testing.assert_array_equal(place[short_tour(place)], place[mixed][short_tour(place[mixed])])


def test_a_walk_turns_round_what_crosses() -> None:
    rooms = [np.random.default_rng(seed).random((60, 3)) * [8, 6, 0] for seed in range(10)]
    nearest = [length(place, _nearest_neighbour_tour(place)) for place in rooms]
    walked = [length(place, short_tour(place)) for place in rooms]
    assert all(w <= n for w, n in zip(walked, nearest, strict=True))
    assert sum(walked) < 0.93 * sum(nearest)


def test_many_queries_are_walked_in_seconds() -> None:
    place = np.random.default_rng(0).random((200_000, 3)) * [50, 30, 3]
    begin = time.monotonic()
    order = short_tour(place)
    assert time.monotonic() - begin < 5
    assert length(place, order) < 0.3 * length(place, np.arange(len(place)))


ASKED = np.dtype([("x", "f8"), ("y", "f8"), ("z", "f8"), ("scene", "i4"), ("index", "i4"), ("region", "f4")])


def test_a_region_is_asked_about_once_in_its_middle() -> None:
    asked = np.zeros(7, ASKED)
    asked["x"] = [0, 1, 2.1, 10, 11, 12.1, 5]
    asked["scene"] = [0, 0, 0, 0, 0, 0, 1]
    asked["index"] = [10, 11, 12, 20, 21, 22, 11]
    asked["region"] = [4, 4, 4, 2, 2, 2, 4]
    found = queries(asked)
    assert [(q.scene, q.index, q.number, sorted(q.points)) for q in found] == [
        (0, 11, 1, [10, 11, 12]),
        (0, 21, 2, [20, 21, 22]),
        (1, 11, 1, [11]),
    ]
    # Scene 1 has a region 4 too, which has no answer; of two answers to one region its own points keep theirs.
    answer, point = expand_to_regions(asked, np.array([0, 0, 0]), np.array([11, 21, 22]))
    assert list(zip(answer, asked["index"][point], strict=True)) == [
        (0, 10),
        (0, 11),
        (0, 12),
        (2, 20),
        (1, 21),
        (2, 22),
    ]


def rows_of(table: Path) -> list[dict[str, str]]:
    with table.open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_table_walks_through_each_room(predictions: Path, tmp_path: Path, hpal: Hpal) -> None:
    picked = hpal("select", "--budget", "40", "--no-fds", "-q", stdin=hpal("score", predictions, "-q").out).out
    assert hpal("label", "--table", "q.csv", stdin=picked, cwd=tmp_path).rc == 0
    text = (tmp_path / "q.csv").read_bytes()
    assert b"\r" not in text
    assert text.splitlines()[0].endswith(b",label")
    rows = rows_of(tmp_path / "q.csv")
    assert len(rows) == 40
    names = [row["scene"] for row in rows]
    assert names == sorted(names)
    for name in set(names):
        place = np.array([[float(row[axis]) for axis in "xyz"] for row in rows if row["scene"] == name])
        ranks = np.argsort([int(row["rank"]) for row in rows if row["scene"] == name])
        assert length(place, np.arange(len(place))) < 0.8 * length(place, ranks)
    assert all(row["predicted"] and row["second"] and 0 < float(row["confidence"]) < 1 for row in rows)


def test_regions_go_round(predictions: Path, tmp_path: Path, hpal: Hpal) -> None:
    """A row a region; with the selection an answer is one to all of the region's points."""
    from hpal_cli.labels.store import LabelStore
    from hpal_cli.stream.points import PointReader

    scored = hpal("score", predictions, "--strategy", "redal", "-q").out
    assert hpal("select", "--budget", "150", "-o", "s.ply", "-q", stdin=scored, cwd=tmp_path).rc == 0
    with (tmp_path / "s.ply").open("rb") as file:
        asked = PointReader(file, "s.ply").read()
    done = hpal("label", "s.ply", "--table", "q.csv", "--source", predictions, cwd=tmp_path)
    assert done.rc == 0, done.err
    lines = (tmp_path / "q.csv").read_text().splitlines()
    assert lines[0].endswith("points,label")
    regions = len(np.unique(asked[["scene", "region"]]))
    assert f"one for each region of {len(asked)} points" in done.err
    assert len(lines) == regions + 1 < len(asked)
    (tmp_path / "q.csv").write_text("\n".join([lines[0], *(line + "floor" for line in lines[1:])]))
    alone = hpal("label", "--from", "q.csv", "--source", predictions, "-o", "one.zarr", cwd=tmp_path)
    assert "give the selection too" in alone.err
    assert len(LabelStore(tmp_path / "one.zarr").latest()) == regions
    done = hpal("label", "s.ply", "--from", "q.csv", "--source", predictions, "-o", "l.zarr", "--cost", cwd=tmp_path)
    assert done.rc == 0, done.err
    answers = LabelStore(tmp_path / "l.zarr").latest()
    assert set(answers["label"]) == {1}
    expected = np.sort(asked[["scene", "index", "x", "z"]], order=["scene", "index"])
    for name in ("scene", "index", "x", "z"):
        np.testing.assert_array_equal(answers[name], expected[name])
    area = len(asked) * 0.15**2
    assert f"cost: {regions} clicks, {len(asked)} points labelled, {area:.4g} m2" in done.err
