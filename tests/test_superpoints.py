"""Superpoints: the segmentation by its definition, scenes of every kind, and the store beside the scenes."""

from __future__ import annotations

import itertools
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import zarr
from conftest import run_hpal, tree
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components, minimum_spanning_tree
from synthetic_scenes import BOARD, FLOOR, STEP, TABLE, Noted, Room, face, room, rooms, synthetic_scenes

from hpal_cli.errors import HpalError
from hpal_cli.evaluation.bound import superpoint_bound
from hpal_cli.info import describe
from hpal_cli.scenes.scale import MAX_ROOM_SCALE, ROOM_GRID
from hpal_cli.scenes.store import Points, SceneStore
from hpal_cli.superpoints import around as surroundings
from hpal_cli.superpoints import build as building
from hpal_cli.superpoints import segmentation
from hpal_cli.superpoints import store as storing
from hpal_cli.superpoints.appearance import appearance_of, require_appearance
from hpal_cli.superpoints.around import column_totals, relief_totals
from hpal_cli.superpoints.build import Superpoints, appearance, build, medoids, partition, scale_of
from hpal_cli.superpoints.description import HALO
from hpal_cli.superpoints.likeness import Likeness
from hpal_cli.superpoints.segmentation import components, segment
from hpal_cli.superpoints.store import SuperpointStore, make_superpoints, open_superpoints, scenes_of, superpoints_path
from hpal_cli.superpoints.surface import surface

SCALE = STEP / ROOM_GRID


def built(one: Room, **options: float) -> Superpoints:
    return build(one.points, **{"scale": SCALE, **options})  # type: ignore[arg-type]


# ---------------------------------------------------------------- the segmentation


COLUMNS = built(room()).feature.shape[1]


def random_graph(seed: int, points: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """Edges in ascending order of cost, no two of the same."""
    rng = np.random.default_rng(seed)
    pairs = np.array([p for p in itertools.combinations(range(points), 2) if rng.random() < 0.1], np.int32)
    cost = np.sort(rng.exponential(1, len(pairs)))
    return pairs[rng.permutation(len(pairs))], cost


def inner(members: np.ndarray, pairs: np.ndarray, cost: np.ndarray) -> float:
    """Int(C): the dearest edge of the component's minimum spanning tree; 0 of a single point."""
    inside = np.isin(pairs, members).all(axis=1)
    size = int(pairs.max()) + 1
    spanning = minimum_spanning_tree(coo_array((cost[inside], pairs[inside].T), shape=(size, size)).tocsr())
    return float(spanning.data.max(initial=0))


def plain_components(points: int, pairs: np.ndarray, cost: np.ndarray, k: float, least: int) -> list[set[int]]:
    """As the paper has it: sets, and for every edge the dearest edge of both spanning trees, found anew."""
    home = [{n} for n in range(points)]
    for first in (True, False):
        for (i, j), dear in zip(pairs.tolist(), cost.tolist(), strict=True):
            a, b = home[i], home[j]
            if a is b:
                continue
            if first:
                reach = [inner(np.array(sorted(c)), pairs, cost) + k / len(c) for c in (a, b)]
                join = dear <= min(reach)
            else:
                join = min(len(a), len(b)) < least
            if join:
                joined = a | b
                for n in joined:
                    home[n] = joined
    return sorted({id(c): c for c in home}.values(), key=min)


def sets_of(parts: np.ndarray) -> list[set[int]]:
    return sorted((set(np.flatnonzero(parts == n).tolist()) for n in np.unique(parts)), key=min)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("k", "least"), [(0.7, 0), (0.7, 8), (3.0, 4), (0.0, 0)])
def test_components_are_those_of_the_paper(seed: int, k: float, least: int) -> None:
    pairs, cost = random_graph(seed)
    expected = plain_components(60, pairs, cost, k, least)
    assert sets_of(components(60, pairs, cost, k, least)) == expected
    if (k, least) == (0.7, 0):
        assert 5 < len(expected) < 50


@pytest.mark.parametrize("seed", range(4))
def test_no_two_components_should_have_been_one(seed: int) -> None:
    """Felzenszwalb's condition: the cheapest edge between two costs more than one of them can take."""
    pairs, cost = random_graph(seed, 120)
    found = components(120, pairs, cost, 0.9, 0)
    reach = {
        root: inner(np.flatnonzero(found == root), pairs, cost) + 0.9 / int((found == root).sum())
        for root in np.unique(found).tolist()
    }
    between: dict[tuple[int, int], float] = {}
    for (i, j), dear in zip(found[pairs].tolist(), cost.tolist(), strict=True):
        if i != j:
            between.setdefault((min(i, j), max(i, j)), dear)
    assert len(between) > 10
    assert all(dear > min(reach[a], reach[b]) for (a, b), dear in between.items())


@pytest.mark.parametrize("color", [True, False])
def test_compiled_and_plain_code_agree_in_every_bit(color: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if segmentation.missing():
        pytest.skip(str(segmentation.missing()))
    one = room()
    xyz = one.xyz / SCALE
    around = surface(xyz)
    seen = appearance(one.points) if color else None
    compiled = segment(xyz, seen, around)
    rng = np.random.default_rng(1)
    pairs = rng.integers(0, 400, (3000, 2)).astype(np.int32)
    # Many edges of the same cost: their order decides.
    cost = np.sort(rng.integers(0, 5, 3000) / 4)
    some = [components(400, pairs, cost, k, least) for k in (0.1, 0.7, 40) for least in (0, 8, 500)]
    monkeypatch.setattr(segmentation, "_library", lambda: "not here")
    np.testing.assert_array_equal(segment(xyz, seen, around), compiled)
    again = [components(400, pairs, cost, k, least) for k in (0.1, 0.7, 40) for least in (0, 8, 500)]
    assert [roots.tolist() for roots in again] == [roots.tolist() for roots in some]


def _unit(rng: np.random.Generator, count: int) -> np.ndarray:
    vectors = rng.normal(size=(count, 3))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.mark.parametrize("far", [False, True], ids=["together", "one place far away"])
@pytest.mark.parametrize("compiled", [True, False], ids=["compiled", "NumPy"])
def test_what_lies_around_a_superpoint_is_counted_by_the_definition(
    compiled: bool, far: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not compiled:
        monkeypatch.setattr(surroundings, "_library", lambda: "not here")
    elif surroundings.missing():
        pytest.skip(str(surroundings.missing()))
    rng = np.random.default_rng(7)
    place = np.column_stack([rng.uniform(-2, 2, (900, 3)), rng.uniform(0, 3, 900)])
    if far:
        place[5, :3] = 1e12, -1e12, 1e12
    value, normal = rng.random((900, 5)), _unit(rng, 900)
    # One centre in each of the places, and one that has nothing near it.
    centre = np.concatenate([place[:40], [[50, 50, 50, 1]]])
    low, mid, high = (0.1, 0.5, 0.8, 1.2, 1.8, 2.3), 0.1, (-0.3, -0.1, -0.04, -0.015, 0.015, 0.04, 0.1, 0.3)
    total = column_totals(place, value, centre, 0.7, low, mid)
    for row, (x, y, z, _) in zip(total, centre, strict=True):
        near = np.hypot(place[:, 0] - x, place[:, 1] - y) <= 0.7
        up, height = place[near, 2] - z, place[near, 3]
        close = np.abs(up) < 0.7
        ranges = np.histogram(height, [-np.inf, *low, np.inf])[0]
        np.testing.assert_array_equal(row[:8], [*ranges, close.sum()])
        np.testing.assert_allclose(row[8:13], value[near][close].sum(axis=0))
        assert row[13:].tolist() == [height.max(initial=0), (up > mid).sum(), near.sum()]
    plane, middle = _unit(rng, 41), centre[:, :3] + rng.normal(0, 0.1, (41, 3))
    total = relief_totals(place[:, :3], normal, centre[:, :3], middle, plane, 1.1, high, 0.6)
    for row, one, point, front in zip(total, centre, middle, plane, strict=True):
        near = np.linalg.norm(place[:, :3] - one[:3], axis=1) <= 1.1
        step, parallel = (place[near, :3] - point) @ front, np.abs(normal[near] @ front) > 0.6
        ranges = np.histogram(step[parallel], [-np.inf, *high, np.inf])[0]
        np.testing.assert_array_equal(row, [*ranges, near.sum(), (step > 0.3).sum(), (step < -0.1).sum()])
    assert total[-1, 9] == 0
    assert total[0, 9] > 20


def test_compiled_and_plain_descriptions_agree_in_every_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    if surroundings.missing():
        pytest.skip(str(surroundings.missing()))
    one = room()
    monkeypatch.setattr(surroundings, "_BLOCK", 7)
    compiled = build(one.points, scale=SCALE)
    monkeypatch.setattr(surroundings, "_library", lambda: "not here")
    np.testing.assert_array_equal(build(one.points, scale=SCALE).feature, compiled.feature)


def test_edges_cost_what_the_equation_says() -> None:
    """Each of the 8 nearest, each pair once; every term of the cost, point by point."""
    rng = np.random.default_rng(3)
    xyz, color = rng.random((40, 3)), rng.random((40, 3))
    around = surface(xyz)
    away = np.linalg.norm(xyz[:, None] - xyz, axis=2)
    expected = {}
    for i in range(40):
        for j in np.argsort(away[i])[1:9].tolist():
            n, step = around.normal, xyz[j] - xyz[i]
            cost = 1 - abs(n[i] @ n[j]) + np.linalg.norm(color[i] - color[j])
            expected[min(i, j), max(i, j)] = cost + 15 * max(abs(n[i] @ step), abs(n[j] @ step))
    seen = {}

    def noted(points: int, pairs: np.ndarray, cost: np.ndarray, k: float, least: int) -> np.ndarray:
        seen.update(zip(map(tuple, pairs.tolist()), cost.tolist(), strict=True))
        assert (np.diff(cost) >= 0).all()
        return np.zeros(points, np.int32)

    with pytest.MonkeyPatch.context() as context:
        context.setattr(segmentation, "components", noted)
        segment(xyz, color, around)
    assert seen.keys() == expected.keys()
    np.testing.assert_allclose([seen[pair] for pair in expected], list(expected.values()), atol=1e-12)


def test_superpoints_are_connected_numbered_and_large_enough() -> None:
    one = room()
    of = built(one).superpoint
    around = surface(one.xyz / SCALE)
    i, j = np.repeat(np.arange(len(of)), 8), around.near[:, 1:9].reshape(-1)
    same = of[i] == of[j]
    links = coo_array((np.ones(same.sum()), (i[same], j[same])), shape=(len(of), len(of)))
    count, part = connected_components(links, directed=False)
    assert count == of.max() + 1
    np.testing.assert_array_equal(np.unique(np.column_stack([of, part]), axis=0)[:, 0], np.arange(count))
    # In the order of their first points.
    assert (np.diff(np.unique(of, return_index=True)[1]) > 0).all()
    assert np.bincount(of).min() >= segmentation.MIN_POINTS


def test_surfaces_of_a_room_are_told_apart() -> None:
    """The board stands 4 cm before the wall, and is of another colour: neither is needed for the other."""
    for one in (room(seed=1), replace(room(seed=1), rgb=None), flat_board()):
        of = built(one).superpoint
        main = np.bincount(of[one.label == BOARD]).argmax()
        assert (one.label[of == main] == BOARD).mean() > 0.95
        table = np.unique(of[one.label == TABLE])
        assert (one.label[np.isin(of, table)] == TABLE).mean() > 0.95


def flat_board() -> Room:
    """The board painted on the wall."""
    one = room(seed=1)
    xyz = one.xyz.copy()
    xyz[one.label == BOARD, 1] -= 0.04
    # The wall behind it is not seen.
    x, y, z = xyz.T
    hidden = (one.label != BOARD) & (y < 0.05) & (x > 0.55) & (x < 1.65) & (z > 0.55) & (z < 1.25)
    assert one.rgb is not None
    return Room("a", xyz[~hidden], one.label[~hidden], one.rgb[~hidden])


# ---------------------------------------------------------------- what is said of them


def test_a_superpoint_is_asked_about_in_its_middle() -> None:
    rng = np.random.default_rng(0)
    xyz, of = rng.random((90, 3)), rng.permutation(np.repeat(np.arange(9), 10))
    for number, row in enumerate(medoids(of, xyz)):
        here = np.flatnonzero(of == number)
        away = np.linalg.norm(xyz[here] - xyz[here].mean(axis=0), axis=1)
        assert row == here[away.argmin()]
    # As near as each other: the first.
    assert medoids(np.zeros(4, int), np.array([[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0]])).tolist() == [0]


def test_sizes_centres_and_the_graph_are_of_these_points() -> None:
    one = room()
    found = built(one)
    xyz = one.xyz / SCALE
    np.testing.assert_array_equal(found.size, np.bincount(found.superpoint))
    for number in range(len(found)):
        np.testing.assert_allclose(found.centre[number], xyz[found.superpoint == number].mean(axis=0), atol=1e-5)
    # Who is among the 16 nearest of whom.
    near = surface(xyz).near[:, :17]
    touching: dict[tuple[int, int], int] = {}
    for i, row in enumerate(near):
        for j in row.tolist():
            a, b = sorted((int(found.superpoint[i]), int(found.superpoint[j])))
            if a != b:
                touching[a, b] = touching.get((a, b), 0) + 1
    graph = found.graph
    assert dict(zip(map(tuple, graph.pair.tolist()), graph.contact.tolist(), strict=True)) == touching
    assert list(touching) != sorted(touching)
    assert [tuple(p) for p in graph.pair.tolist()] == sorted(touching)
    assert (graph.weight > 0).all()
    # A step in the wall lets less through than a wall that is cut in two.
    assert len(found.feature) == len(found)
    assert np.isfinite(found.feature).all()


# ---------------------------------------------------------------- scenes of every kind


def colorless(one: Room) -> Room:
    return replace(one, rgb=None)


def grey(one: Room) -> Room:
    assert one.rgb is not None
    return replace(one, rgb=None, attributes={"intensity": one.rgb[:, 0].astype(np.uint16) * 40})


def painted(one: Room) -> Room:
    return replace(one, rgb=np.full((len(one.xyz), 3), 77, np.uint8))


def few(count: int, *, same: bool = False) -> Room:
    xyz = np.zeros((count, 3)) + ([5, 5, 5] if same else np.arange(count)[:, None] * [0.1, 0, 0])
    return Room("a", xyz, np.zeros(count, int), np.full((count, 3), 9, np.uint8))


ODD = {
    "no colour": colorless(room()),
    "intensity": grey(room()),
    "intensity of zero": replace(room(), rgb=None, attributes={"intensity": np.zeros(len(room().xyz))}),
    "intensity with NaN": replace(
        room(), rgb=None, attributes={"intensity": np.where(room().xyz[:, 0] > 1, np.nan, 3)}
    ),
    "one colour": painted(room()),
    "a plane": Room("a", face((0, 0, 0), (2, 0, 0), (0, 2, 0)), np.zeros(625, int)),
    "an upright plane": Room("a", face((0, 0, 0), (2, 0, 0), (0, 0, 2)), np.zeros(625, int)),
    "a line": few(50),
    "one point": few(1),
    "two points": few(2),
    "seven points": few(7),
    "coincident points": few(40, same=True),
    "everything twice": Room("a", np.repeat(room().xyz, 2, axis=0), np.repeat(room().label, 2)),
    "a point far away": replace(room(), xyz=np.concatenate([room().xyz[:-1], [[-5e5, -5.4e6, 50]]])),
}


@pytest.mark.parametrize("scale", [1.0, SCALE, 12.5])
@pytest.mark.parametrize("name", ODD)
def test_scenes_of_every_kind(name: str, scale: float) -> None:
    one = ODD[name]
    found = build(one.points, scale=scale)
    assert found.superpoint.dtype == np.int32
    assert np.bincount(found.superpoint).all()
    np.testing.assert_array_equal(found.superpoint[found.medoid], np.arange(len(found)))
    for values in (found.feature, found.centre, found.graph.weight):
        assert np.isfinite(values).all()
    # What assumes a room is left out where the scale says street.
    assert found.feature.shape[1] == COLUMNS - (5 if scale > MAX_ROOM_SCALE else 0)
    np.testing.assert_array_equal(partition(one.points, scale=scale), found.superpoint)
    if "plane" in name:
        # A plane has no edge inside.
        assert len(found) == 1
    if "points" in name:
        assert len(found) == 1
    Likeness.fit([found.feature])(found.feature)


def test_one_color_is_no_color() -> None:
    """A scan that is one colour, or as dark as intensity can be, is cut as one without."""
    plain = built(colorless(room())).superpoint
    np.testing.assert_array_equal(built(painted(room())).superpoint, plain)
    np.testing.assert_array_equal(built(ODD["intensity of zero"]).superpoint, plain)


def test_intensity_stands_for_color() -> None:
    one = flat_board()
    bright = np.where(one.label == BOARD, 60, 2000).astype(np.uint16)
    seen = built(replace(one, rgb=None, attributes={"intensity": bright})).superpoint
    board = np.bincount(seen[one.label == BOARD]).argmax()
    assert (one.label[seen == board] == BOARD).mean() > 0.95
    unseen = built(colorless(one)).superpoint
    board = np.bincount(unseen[one.label == BOARD]).argmax()
    assert (one.label[unseen == board] == BOARD).mean() < 0.5
    # Its 99th percentile and what is above are white: one bright reflector does not make the rest black.
    dazzled = appearance(replace(one, rgb=None, attributes={"intensity": np.append(bright[1:], 65535)}).points)
    assert dazzled is not None
    assert dazzled.max() == 1
    assert np.median(dazzled) > 0.9


@pytest.mark.parametrize(("factor", "unit", "scale"), [(1 / 0.3048, 0.3048, 1), (1000, 0.001, 1), (6.25, 1, 6.25)])
def test_neither_unit_nor_scale_changes_what_is_seen(factor: float, unit: float, scale: float) -> None:
    one = room()
    usual = built(one)
    other = build(replace(one, xyz=one.xyz * factor).points, scale=SCALE * scale, unit=unit)
    np.testing.assert_array_equal(other.superpoint, usual.superpoint)
    np.testing.assert_allclose(other.centre, usual.centre, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(other.graph.pair, usual.graph.pair)
    if scale == 1:
        np.testing.assert_allclose(other.feature, usual.feature, rtol=1e-4, atol=1e-4)
    else:
        assert other.feature.shape[1] == COLUMNS - 5


def test_the_scale_is_the_grids_or_else_the_points() -> None:
    nothing = np.zeros((0, 3))
    assert scale_of(nothing, 0.04, 1) == scale_of(nothing, 0.02, 1) == 1
    assert scale_of(nothing, 0.5, 1) == pytest.approx(12.5)
    grid = face((0, 0, 0), (3, 0, 0), (0, 3, 0), 0.12)
    assert scale_of(grid, None, 1) == pytest.approx(3)
    assert scale_of(grid * 1000, None, 0.001) == pytest.approx(3)
    assert scale_of(grid[:1], None, 1) == scale_of(np.zeros((9, 3)), None, 1) == scale_of(nothing, None, 1) == 1


def test_a_store_without_scenes_is_told(tmp_path: Path) -> None:
    synthetic_scenes(tmp_path / "none.zarr", [])
    done = run_hpal("superpoints", tmp_path / "none.zarr")
    assert done.rc == 1
    assert "none.zarr: has no scenes; run `hpal prep` on a folder that holds some" in done.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["none.zarr"]


# ---------------------------------------------------------------- tiles


def street(blocks: int = 5) -> Room:
    """Tables in a row on a floor of 12 m, a few centimetres off the beat of any cut."""
    rng = np.random.default_rng(5)
    parts = [(FLOOR, face((0, 0, 0), (12, 0, 0), (0, 2, 0)))]
    for n in range(blocks):
        parts.append((TABLE, face((0.7 + 2.4 * n, 0.5, 0.7), (0.8, 0, 0), (0, 0.8, 0))))
    xyz = np.concatenate([points for _, points in parts])
    label = np.repeat([which for which, _ in parts], [len(points) for _, points in parts])
    order = rng.permutation(len(xyz))
    return Room("street", xyz[order] + rng.normal(0, 0.004, xyz.shape), label[order])


def test_tiles_change_nothing_but_at_their_borders(monkeypatch: pytest.MonkeyPatch) -> None:
    one = street()
    whole = built(one)
    monkeypatch.setattr(building, "MAX_TILE_POINTS", len(one.xyz) // 3)
    tiles = list(building._tiles(one.points.xyz / SCALE))
    assert len(tiles) == 4
    assert np.array_equal(np.sort(np.concatenate([tile.rows for tile in tiles])), np.arange(len(one.xyz)))
    cut = built(one)
    np.testing.assert_array_equal(partition(one.points, scale=SCALE), cut.superpoint)
    home = np.empty(len(one.xyz), int)
    for n, tile in enumerate(tiles):
        home[tile.rows] = n
        assert len(tile.rows) <= len(one.xyz) // 3
        # All that is within the halo is there, so that a surface at a border is what it is in the middle.
        low, high = (one.xyz[tile.rows, :2] / SCALE).min(axis=0), (one.xyz[tile.rows, :2] / SCALE).max(axis=0)
        inside = ((one.xyz[:, :2] / SCALE >= low - HALO) & (one.xyz[:, :2] / SCALE <= high + HALO)).all(axis=1)
        np.testing.assert_array_equal(tile.near, np.flatnonzero(inside))
    # No superpoint is in two tiles; the five tables, which no cut meets, are the same ones, described alike.
    assert all(len(np.unique(home[cut.superpoint == n])) == 1 for n in range(len(cut)))
    same = 0
    for table in np.unique(whole.superpoint[one.label == TABLE]).tolist():
        rows = np.flatnonzero(whole.superpoint == table)
        if len(np.unique(home[rows])) > 1:
            continue
        (there,) = np.unique(cut.superpoint[rows]).tolist()
        np.testing.assert_array_equal(np.flatnonzero(cut.superpoint == there), rows)
        np.testing.assert_allclose(cut.feature[there], whole.feature[table], rtol=1e-4, atol=1e-3)
        assert cut.medoid[there] == whole.medoid[table]
        same += 1
    assert same >= 3
    # The pieces of the floor touch across the cuts.
    floor, uncut = np.unique(cut.superpoint[one.label == FLOOR]), np.unique(whole.superpoint[one.label == FLOOR])
    assert (cut.size[floor] >= 100).sum() >= 4 > (whole.size[uncut] >= 100).sum()
    joined = cut.graph.pair[np.isin(cut.graph.pair, floor).all(axis=1)]
    links = coo_array((np.ones(len(joined)), joined.T), shape=(len(cut), len(cut)))
    assert len(np.unique(connected_components(links, directed=False)[1][floor])) == 1


def test_a_tile_of_coincident_points_is_cut_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(building, "MAX_TILE_POINTS", 10)
    found = build(few(40, same=True).points, scale=1)
    assert found.size.sum() == 40
    np.testing.assert_array_equal(found.superpoint[found.medoid], np.arange(len(found)))


# ---------------------------------------------------------------- likeness


def test_likeness_is_the_principal_components_of_ranks() -> None:
    rng = np.random.default_rng(0)
    base = rng.normal(size=(600, 3))
    feature = np.column_stack([base @ rng.normal(size=(3, 8)), np.zeros(600), rng.normal(size=600)])
    like = Likeness.fit([feature[:200], feature[200:]])
    seen = like(feature)
    assert seen.shape == (600, 10)
    # Each component has deviation 1 over what it was learned from, and none speaks of another.
    spread = seen.astype(np.float64).T @ seen / 600
    real = like.deviation > 1e-6 * like.deviation[0]
    assert 3 < real.sum() < 10
    np.testing.assert_allclose(spread[np.ix_(real, real)], np.eye(int(real.sum())), atol=1e-3)
    assert not seen[:, ~real].any()
    assert (np.diff(like.deviation) <= 1e-12).all()
    # A rank does not care how skewed a column is, or in what unit.
    skewed = feature.copy()
    skewed[:, :8] = np.exp(skewed[:, :8] * 0.5)
    np.testing.assert_allclose(Likeness.fit([skewed])(skewed), seen, atol=0.05)


def test_likeness_of_a_single_superpoint() -> None:
    like = Likeness.fit([np.array([[1.0, 2.0, 3.0]])])
    assert not like(np.array([[1.0, 2.0, 3.0]])).any()
    assert np.isfinite(like(np.array([[9.0, -2.0, 3.0]]))).all()


# ---------------------------------------------------------------- the store


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> SceneStore:
    folder = tmp_path_factory.mktemp("superpoints")
    store = synthetic_scenes(folder / "rooms.zarr", rooms())
    make_superpoints(store, superpoints_path(store.path), jobs=1)
    return store


def test_the_store_holds_what_was_built(scenes: SceneStore) -> None:
    found = open_superpoints(scenes)
    assert found.path == scenes.path.with_name("rooms.superpoints.zarr") == superpoints_path(scenes.path)
    assert scenes_of(found.path) == scenes.path
    assert scenes_of(scenes.path) is None
    assert scenes_of(Path("a/x.superpoints.y.superpoints.zarr")) is None
    assert (found.table.id, found.scale, found.method) == (scenes.table.id, SCALE, storing.METHOD)
    for scene in scenes.table:
        here, expected = found.read(scene), build(scenes.points(scene), scale=SCALE)
        for name in ("superpoint", "size", "medoid", "centre", "feature"):
            np.testing.assert_array_equal(getattr(here, name), getattr(expected, name))
        for name in ("pair", "contact", "weight"):
            np.testing.assert_array_equal(getattr(here.graph, name), getattr(expected.graph, name))
        np.testing.assert_array_equal(found.partition(scene), expected.superpoint)
    # Learned from the train scenes alone.
    described = [found.read(scene).feature for scene in scenes.table if scene.split == "train"]
    np.testing.assert_array_equal(found.likeness().axis, Likeness.fit(described).axis)


def test_the_same_bytes_for_any_jobs_and_threads(scenes: SceneStore, tmp_path: Path) -> None:
    made = make_superpoints(scenes, tmp_path / "two.zarr", jobs=2)
    assert tree(made.path) == tree(superpoints_path(scenes.path))
    one = room()
    threads = build(one.points, scale=SCALE, threads=2)
    np.testing.assert_array_equal(threads.feature, built(one).feature)


def test_it_is_made_once_and_again_for_other_scenes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = synthetic_scenes(tmp_path / "s.zarr", [room()])
    first = tree(open_superpoints(store, jobs=1).path)
    with monkeypatch.context() as context:
        context.setattr(storing, "build", lambda *_, **__: pytest.fail("made again"))
        assert tree(open_superpoints(store, jobs=1).path) == first
    # Other scenes under the same name.
    shutil.rmtree(store.path)
    other = synthetic_scenes(tmp_path / "s.zarr", [room(seed=3)])
    again = open_superpoints(other, jobs=1)
    assert again.table.id == other.table.id != store.table.id
    # Another version of the method.
    root = zarr.open_group(str(again.path), mode="r+")
    root.attrs["hpal"] = {**root.attrs["hpal"], "method": 0}  # type: ignore[dict-item]
    assert open_superpoints(other, jobs=1).method == storing.METHOD
    # What was not finished.
    root.attrs["hpal"] = {**root.attrs["hpal"], "complete": False}  # type: ignore[dict-item]
    open_superpoints(other, jobs=1).read(other.table[0])


def test_nothing_else_is_written_over(tmp_path: Path) -> None:
    store = synthetic_scenes(tmp_path / "s.zarr", [few(20)])
    synthetic_scenes(superpoints_path(store.path), [few(20)])
    before = tree(superpoints_path(store.path))
    with pytest.raises(
        HpalError, match=r"s\.superpoints\.zarr: has the name that the superpoints store needs; move it away"
    ):
        open_superpoints(store, jobs=1)
    assert tree(superpoints_path(store.path)) == before
    shutil.rmtree(superpoints_path(store.path))
    superpoints_path(store.path).write_text("mine")
    with pytest.raises(HpalError, match="the name that the superpoints store needs"):
        open_superpoints(store, jobs=1)


def test_where_nothing_can_be_written_they_are_made_for_the_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = synthetic_scenes(tmp_path / "s.zarr", [room()])
    monkeypatch.setattr(storing, "may_write", lambda folder: False)
    noted = Noted()
    found = open_superpoints(store, jobs=1, monitor=noted)
    assert len(found.read(store.table[0])) > 3
    assert noted.said == [f"{tmp_path} cannot be written to: the superpoints are not kept for the next command"]
    assert [path.name for path in tmp_path.iterdir()] == ["s.zarr"]
    kept = found.path.parent
    assert kept.exists()
    found.folder.cleanup()  # type: ignore[union-attr]
    assert not kept.exists()


def altered(store: SceneStore, tmp_path: Path, name: str, change: object) -> SuperpointStore:
    """The superpoints of a store with the array `name` of its first scene changed."""
    copy = tmp_path / "altered.superpoints.zarr"
    shutil.copytree(superpoints_path(store.path), copy)
    group = zarr.open_group(str(copy), mode="r+")
    path = name if "/" in name else f"scenes/{store.table[0].name}/{name}"
    values = change(group[path][...])  # type: ignore[operator, index]
    home, _, last = path.rpartition("/")
    del group[path]
    group[home].create_array(last, data=values, config={"write_empty_chunks": True})  # type: ignore[union-attr]
    return SuperpointStore(copy)


def first_set(value: float) -> object:
    def change(values: np.ndarray) -> np.ndarray:
        values.reshape(-1)[0] = value
        return values

    return change


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("of", lambda v: v[:-1]),
        ("of", first_set(-1)),
        ("of", first_set(10_000)),
        ("of", lambda v: v.astype(np.float32)),
        ("size", lambda v: v[:-1]),
        ("pair", lambda v: v + 10_000),
        ("pair", lambda v: v[:, :1]),
        ("centre", lambda v: v[:, :2]),
        ("weight", lambda v: v[1:]),
    ],
)
def test_what_does_not_fit_together_is_not_read(scenes: SceneStore, tmp_path: Path, name: str, change: object) -> None:
    store = altered(scenes, tmp_path, name, change)
    with pytest.raises(
        HpalError, match="scene a: its superpoints do not fit together; remove the store; the next command"
    ):
        store.read(scenes.table[0])


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("size", lambda v: v + 1),
        ("medoid", lambda v: v[::-1].copy()),
        ("medoid", first_set(10**6)),
        ("feature", first_set(np.nan)),
        ("centre", first_set(np.inf)),
        ("pair", lambda v: v[:, ::-1].copy()),
        ("pair", lambda v: v[::-1].copy()),
        ("weight", first_set(0)),
        ("weight", first_set(np.nan)),
        ("contact", first_set(0)),
        ("likeness/axis", lambda v: v[1:]),
        ("likeness/quantile", first_set(np.nan)),
    ],
)
def test_check_finds_what_contradicts_itself(scenes: SceneStore, tmp_path: Path, name: str, change: object) -> None:
    describe(superpoints_path(scenes.path), check=True)
    store = altered(scenes, tmp_path, name, change)
    with pytest.raises(HpalError, match="scene a: its superpoints do not fit together"):
        describe(store.path, check=True)


def test_a_lost_chunk_is_noticed(scenes: SceneStore, tmp_path: Path) -> None:
    copy = tmp_path / "x.superpoints.zarr"
    shutil.copytree(superpoints_path(scenes.path), copy)
    (copy / "scenes" / "b" / "of" / "c" / "0").unlink()
    with pytest.raises(HpalError, match="scenes/b/of is missing or damaged"):
        describe(copy)


def test_info_tells_the_bound_of_labels_by_superpoint(scenes: SceneStore, tmp_path: Path) -> None:
    found = describe(superpoints_path(scenes.path), check=True)
    assert (found.kind, found.facts["columns"], found.facts["scale"]) == ("superpoints", COLUMNS, SCALE)
    store = open_superpoints(scenes)
    assert found.facts["superpoints"] == sum(len(store.read(scene)) for scene in scenes.table)
    right = union = 0
    hits, sums = np.zeros(4), np.zeros(4)
    for scene in scenes.table:
        of, label = store.partition(scene), scenes.labels(scene)
        assert label is not None
        for n in range(of.max() + 1):
            here = np.bincount(label[of == n], minlength=4)
            right += here.max()
            hits[here.argmax()] += here.max()
            sums[here.argmax()] += here.sum()
            sums += here
            union += here.sum()
    assert found.facts["bound"]["accuracy"] == pytest.approx(right / union, abs=1e-6)
    assert found.facts["bound"]["miou"] == pytest.approx((hits / (sums - hits)).mean(), abs=1e-6)
    assert found.facts["bound"]["accuracy"] > 0.9
    # Without the scenes it is not known.
    shutil.copytree(superpoints_path(scenes.path), tmp_path / "x.superpoints.zarr")
    alone = describe(tmp_path / "x.superpoints.zarr")
    assert alone.facts["bound"] is None
    assert "bound" not in dict(alone.lines())


def test_the_bound_leaves_out_what_has_no_label() -> None:
    of, truth = np.array([0, 0, 0, 1, 1, 2]), np.array([0, 1, 1, -1, -1, 0])
    found = superpoint_bound([(of, truth)], 2)
    assert found.confusion.tolist() == [[1, 1], [0, 2]]


def test_scenes_that_differ_in_what_they_have_are_not_compared(tmp_path: Path) -> None:
    store = synthetic_scenes(
        tmp_path / "s.zarr", [few(9), replace(grey(few(9)), name="b"), replace(few(9), name="c", rgb=None)]
    )
    assert [appearance_of(store, scene) for scene in store.table] == ["colour", "intensity", "nothing"]
    require_appearance(store, store.table[:1], "colour", "why", "remedy")
    with pytest.raises(HpalError, match=r"scene b has intensity beside its positions, and why: .*; remedy"):
        require_appearance(store, list(store.table), "colour", "why", "remedy")


# ---------------------------------------------------------------- the command


def test_the_command(scenes: SceneStore, tmp_path: Path) -> None:
    store = synthetic_scenes(tmp_path / "s.zarr", rooms())
    done = run_hpal("superpoints", "s.zarr", "--jobs", 1, cwd=tmp_path)
    assert (done.rc, done.out) == (0, b"")
    assert "s.superpoints.zarr: " in done.err
    assert "superpoints in 3 scenes, " in done.err
    found = SuperpointStore(superpoints_path(store.path))
    assert [entry.program for entry in found.history] == ["hpal superpoints"]
    assert found.partition(store.table[0]).tolist() == open_superpoints(scenes).partition(store.table[0]).tolist()
    told = json.loads(run_hpal("info", "s.superpoints.zarr", "--json", cwd=tmp_path).out)
    assert (told["kind"], told["id"]) == ("superpoints", store.table.id)
    said = run_hpal("info", "--check", "s.superpoints.zarr", cwd=tmp_path)
    assert said.rc == 0, said.err
    assert re.search("bound.*mIoU 0.*accuracy 0", said.out.decode())


def test_points_without_anything_beside_them() -> None:
    points = Points(room().xyz, np.zeros(3))
    assert appearance(points) is None
    assert len(build(points, scale=SCALE)) > 3
