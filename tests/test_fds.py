"""Selection against a plain reading of method.md, "FDS", in exact arithmetic, candidate by candidate."""

from __future__ import annotations

import io
from dataclasses import dataclass, field, replace
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from conftest import MadeScene, synthetic_predictions

from hpal_cli.budget import Budget
from hpal_cli.errors import HpalError, UsageError
from hpal_cli.predictions.store import PredictionStore
from hpal_cli.selection.fds import Suppression, greedy_select, missing
from hpal_cli.selection.selector import Selection, select
from hpal_cli.store import envelope
from hpal_cli.store.envelope import RowReader
from hpal_cli.stream.header import Header, PoolScene
from hpal_cli.stream.points import PointReader, point_dtype, write_points

STEP = 16
"""Coordinates are whole sixteenths of the unit and features small whole numbers: every comparison can be exact."""

Pick = tuple[str, int]


@dataclass
class Cloud:
    """A scene in whole numbers: place (N, 3) in sixteenths, feat (N, F), score (N,)."""

    name: str
    place: np.ndarray
    feat: np.ndarray
    score: np.ndarray
    labelled: list[int] = field(default_factory=list)


def random_cloud(name: str, points: int, seed: int) -> Cloud:
    """Crowded, with double points, zero features, parallel features and few different scores."""
    rng = np.random.default_rng(seed)
    place = rng.integers(-8, 9, (points, 3))
    place[: points // 6] = place[rng.integers(points, size=points // 6)]
    feat = rng.integers(0, 4, (points, 4)) * rng.choice([1, 1, 1, -1], (points, 1))
    feat[rng.random(points) < 0.15] = 0
    feat[rng.random(points) < 0.2] = (4, 3, 0, 0)
    feat[rng.random(points) < 0.1] = (1, 0, 0, 0)
    feat[rng.random(points) < 0.1] *= 3
    score = rng.integers(0, 12, points) / 16
    labelled = np.sort(rng.choice(points, points // 10, replace=False)).tolist()
    return Cloud(name, place, feat, score, labelled)


def suppressed(a: Cloud, i: int, j: int, radius: Fraction, tau: Fraction) -> bool:
    """`|x_i - x_j| < r` and `cos(f_i, f_j) > tau`, both strict, in whole numbers."""
    squared = sum(int(d) ** 2 for d in a.place[i] - a.place[j])
    if not Fraction(squared, STEP * STEP) < radius * radius:
        return False
    dot = sum(int(u) * int(v) for u, v in zip(a.feat[i], a.feat[j], strict=True))
    lengths = sum(int(u) ** 2 for u in a.feat[i]) * sum(int(v) ** 2 for v in a.feat[j])
    if lengths == 0:
        return False
    # dot > tau * sqrt(lengths), without the root.
    left, right = dot * abs(dot), tau * abs(tau) * lengths
    return left > right


def plain_select(
    clouds: list[Cloud],
    *,
    radius: Fraction | None,
    tau: Fraction,
    budget: int | None = None,
    each: dict[str, int] | None = None,
    suppress_labelled: bool = False,
) -> list[Pick]:
    """budget: over all scenes; each: for every scene. radius None: nothing is suppressed."""
    candidates = [(-a.score[n], a.name, n, a) for a in clouds for n in range(len(a.place)) if n not in set(a.labelled)]
    chosen: list[Pick] = []
    for _, name, n, a in sorted(candidates, key=lambda c: c[:3]):
        if budget is not None and len(chosen) == budget:
            break
        if each is not None and sum(scene == name for scene, _ in chosen) == each[name]:
            continue
        others = [m for scene, m in chosen if scene == name]
        if suppress_labelled:
            others += a.labelled
        if radius is not None and any(suppressed(a, n, m, radius, tau) for m in others):
            continue
        chosen.append((name, n))
    return chosen


def stored(clouds: list[Cloud], path: Path, *, at: float = 0.0, unit: float = 1.0) -> PredictionStore:
    made = [
        MadeScene(a.name, a.place / STEP, a.feat.astype(np.float64), a.labelled, (at, 4 * at, 0.0))
        for a in sorted(clouds, key=lambda a: a.name)
    ]
    return PredictionStore(synthetic_predictions(path, made, unit=unit))


def stream(clouds: list[Cloud], store: PredictionStore, *, labelled_too: bool = False, seed: int = 0) -> bytes:
    """Scored points as a foreign program may send them: scenes and rows in any order."""
    rng = np.random.default_rng(seed)
    parts = []
    for at in rng.permutation(len(clouds)):
        a = clouds[at]
        scene = store.table.by_name[a.name]
        keep = [n for n in rng.permutation(len(a.place)) if labelled_too or n not in a.labelled]
        rows = np.zeros(len(keep), point_dtype(color=False))
        rows["x"], rows["y"], rows["z"] = store.points(scene).position[keep].T
        rows["scene"], rows["index"], rows["score"] = scene.number, keep, a.score[keep]
        parts.append(rows)
    pool = tuple(PoolScene.from_info(s) for s in store.table)
    head = Header("scores", str(store.path), store.table.id, store.unit, 4, pool)
    return packed(head, np.concatenate(parts))


def packed(head: Header, rows: np.ndarray) -> bytes:
    out = io.BytesIO()
    write_points(out, head, rows)
    return out.getvalue()


def picks(found: Selection, store: PredictionStore) -> list[Pick]:
    return [(store.table[int(row["scene"])].name, int(row["index"])) for row in found.rows]


def run(data: bytes, budget: str, suppression: Suppression | None, store: PredictionStore | None, **more) -> Selection:
    reader = PointReader(io.BytesIO(data), "test")
    return select([reader], budget=Budget.parse(budget), suppression=suppression, predictions=store, **more)


@pytest.fixture(scope="module")
def rooms(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Cloud], PredictionStore]:
    clouds = [random_cloud(name, n, n) for name, n in (("b/2", 90), ("a", 60), ("b/10", 110), ("c", 5))]
    return clouds, stored(clouds, tmp_path_factory.mktemp("fds") / "p.zarr")


@pytest.fixture(params=["compiled", "numpy"])
def both_ways(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The selection of greedy.c, and the one for machines without a compiler."""
    if request.param == "numpy":
        monkeypatch.setattr("hpal_cli.selection.fds._library", lambda: "not here")
    elif missing() is not None:
        pytest.skip(f"no compiled walk: {missing()}")


@pytest.mark.usefixtures("both_ways")
@pytest.mark.parametrize("budget", [1, 7, 40, 100_000])
@pytest.mark.parametrize("radius", ["0.0625", "0.2", "0.25", "0.5", "40"])
@pytest.mark.parametrize("tau", ["0.8", "0", "0.99", "1", "-0.5", "-1"])
def test_fds_is_the_greedy_answer(rooms: tuple, budget: int, radius: str, tau: str) -> None:
    """Distances of exactly 0.0625, 0.25 and 0.5 and cosines of exactly 0.8, 0, 1 occur: neither suppresses."""
    clouds, store = rooms
    expected = plain_select(clouds, radius=Fraction(radius), tau=Fraction(tau), budget=budget)
    data = stream(clouds, store, labelled_too=budget == 40, seed=budget)
    found = run(data, str(budget), Suppression(float(radius), float(tau)), store)
    assert picks(found, store) == expected
    assert found.rows["rank"].tolist() == list(range(1, len(expected) + 1))
    assert found.exhausted == (len(expected) < budget)
    if (radius, tau, budget) == ("0.5", "0.8", 100_000):
        # The case must bite: some are dropped, and some are kept that one of the two conditions alone would drop.
        near_only = plain_select(clouds, radius=Fraction(radius), tau=Fraction(-2), budget=budget)
        like_only = plain_select(clouds, radius=Fraction(99), tau=Fraction(tau), budget=budget)
        free = sum(len(a.place) - len(a.labelled) for a in clouds)
        assert max(len(near_only), len(like_only)) < len(expected) < free


@pytest.mark.usefixtures("both_ways")
@pytest.mark.parametrize("tau", ["0.8", "0.3"])
@pytest.mark.parametrize("budget", [15, 100_000])
def test_suppress_labelled(rooms: tuple, tau: str, budget: int) -> None:
    clouds, store = rooms
    options = {"radius": Fraction("0.25"), "tau": Fraction(tau), "budget": budget}
    expected = plain_select(clouds, suppress_labelled=True, **options)
    if budget == 100_000:
        assert expected != plain_select(clouds, **options)
    suppression = Suppression(0.25, float(tau))
    found = run(stream(clouds, store), str(budget), suppression, store, suppress_labelled=True)
    assert picks(found, store) == expected


@pytest.mark.parametrize("most", [1, 4, 1000])
@pytest.mark.parametrize("budget", [3, 12, 1000])
def test_max_per_scene(rooms: tuple, most: int, budget: int) -> None:
    clouds, store = rooms
    each = {a.name: most for a in clouds}
    expected = plain_select(clouds, radius=Fraction("0.25"), tau=Fraction("0.8"), budget=budget, each=each)
    found = run(stream(clouds, store), str(budget), Suppression(0.25, 0.8), store, max_per_scene=most)
    assert picks(found, store) == expected


def test_budget_for_each_scene(rooms: tuple) -> None:
    clouds, store = rooms
    options = {"radius": Fraction("0.25"), "tau": Fraction("0.8")}
    expected = plain_select(clouds, each={a.name: 6 for a in clouds}, **options)
    found = run(stream(clouds, store), "6/scene", Suppression(0.25, 0.8), store)
    assert picks(found, store) == expected
    # Shares are of all points of the scene, labelled ones too, and at least one: 9, 6, 11 and 1.
    expected = plain_select(clouds, each={"b/2": 9, "a": 6, "b/10": 11, "c": 1}, **options)
    found = run(stream(clouds, store), "10%/scene", Suppression(0.25, 0.8), store)
    assert picks(found, store) == expected


def test_share_of_the_pool(rooms: tuple) -> None:
    """10 % of 265 points, though fewer are streamed."""
    clouds, store = rooms
    found = run(stream(clouds, store), "10%", None, store)
    assert found.pool == 265
    assert len(found.rows) == 26
    assert len(run(stream(clouds, store), "0.001%", None, store).rows) == 1


@pytest.mark.parametrize("budget", [1, 9, 100_000])
def test_without_fds_the_top_of_the_list(rooms: tuple, budget: int) -> None:
    clouds, store = rooms
    expected = plain_select(clouds, radius=None, tau=Fraction(0), budget=budget)
    assert picks(run(stream(clouds, store), str(budget), None, store), store) == expected


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("tau", [0.8, 0.95, -1.0])
def test_both_walks_agree_on_real_numbers(seed: int, tau: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """float16 features that no exact arithmetic was made for; long enough for several fetches of features."""
    rng = np.random.default_rng(seed)
    points = 12_000
    xyz = rng.uniform(0, 1.5, (points, 3)) + np.array([900_000, 6_700_000, 0])
    feat = (np.abs(rng.normal(0, 1, (5, 96)))[rng.integers(0, 5, points)] + 0.2 * rng.random((points, 96))).astype("f2")
    feat[rng.random(points) < 0.05] = 0
    score = rng.integers(0, 500, points).astype(np.float32)
    row = rng.permutation(points)
    results = []
    for library in (None, lambda: "not here"):
        with monkeypatch.context() as context:
            if library is not None:
                context.setattr("hpal_cli.selection.fds._library", library)
            for limit in (50, points):
                found = greedy_select(score, row, xyz, limit, Suppression(0.2, tau), lambda rows: feat[rows])
                results.append((found.order.tolist(), found.chosen.tolist(), found.exhausted))
    assert results[:2] == results[2:]
    assert len(results[1][0]) == points
    assert 100 < sum(results[1][1]) < points


def plain_tally(clouds: list[Cloud], picks: list[Pick], budget: int, full: bool) -> dict[str, tuple[int, int, int]]:
    """visited, suppressed and chosen of each scene, by a selection that looks at all scenes' candidates together."""
    order = sorted((-a.score[n], a.name, n) for a in clouds for n in range(len(a.place)) if n not in set(a.labelled))
    names = [(name, n) for _, name, n in order]
    last = names.index(picks[-1]) + 1 if full else len(names)
    visited = names[:last]
    found = {}
    for a in clouds:
        mine = [n for name, n in visited if name == a.name]
        chosen = sum(name == a.name for name, _ in picks)
        found[a.name] = (len(mine), len(mine) - chosen, chosen)
    return found


@pytest.mark.usefixtures("both_ways")
@pytest.mark.parametrize("budget", [1, 7, 25, 40, 60, 100_000])
@pytest.mark.parametrize("seed", [0, 3])
def test_what_the_summary_says(rooms: tuple, budget: int, seed: int) -> None:
    """The selection of a scene may go further than the merged one: that is not counted, whatever order scenes come
    in."""
    clouds, store = rooms
    picks_expected = plain_select(clouds, radius=Fraction("0.25"), tau=Fraction("0.8"), budget=budget)
    expected = plain_tally(clouds, picks_expected, budget, len(picks_expected) == budget)
    found = run(stream(clouds, store, seed=seed), str(budget), Suppression(0.25, 0.8), store)
    assert picks(found, store) == picks_expected
    assert {r.name: (r.visited, r.suppressed, r.chosen) for r in found.scenes} == expected
    assert [r.exhausted for r in found.scenes] == [budget == 100_000] * 4
    # Every point of these rooms is predicted to be of class 0.
    totals = tuple(sum(e[n] for e in expected.values()) for n in range(3))
    assert [(c.name, c.visited, c.suppressed, c.chosen) for c in found.classes] == [("wall", *totals)]


@pytest.mark.parametrize("budget", [1, 25, 60, 100_000])
def test_many_picks_are_merged_now_and_then(rooms: tuple, budget: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hpal_cli.selection.selector._SORTED_EACH_TIME", 0)
    clouds, store = rooms
    expected = plain_select(clouds, radius=Fraction("0.25"), tau=Fraction("0.8"), budget=budget)
    found = run(stream(clouds, store, seed=1), str(budget), Suppression(0.25, 0.8), store)
    assert picks(found, store) == expected
    tally = plain_tally(clouds, expected, budget, len(expected) == budget)
    assert {r.name: (r.visited, r.suppressed, r.chosen) for r in found.scenes} == tally


def test_classes_in_the_summary(tmp_path: Path) -> None:
    a = random_cloud("a", 90, 5)
    a.labelled = []
    prob = np.eye(3)[np.arange(90) % 3]
    made = MadeScene("a", a.place / STEP, a.feat.astype(np.float64), prob=prob)
    store = PredictionStore(synthetic_predictions(tmp_path / "p.zarr", [made]))
    found = run(stream([a], store), "20", Suppression(0.25, 0.8), store)
    for number, report in enumerate(found.classes):
        assert report.chosen == (found.rows["index"] % 3 == number).sum()
        assert report.visited == report.chosen + report.suppressed
    assert sum(c.visited for c in found.classes) == found.scenes[0].visited
    assert [c.name for c in found.classes] == ["wall", "floor", "chair"]


def test_features_are_read_where_a_decision_needs_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of 10 rows; the only two candidates near one another lie in the chunks 2 and 7."""
    monkeypatch.setattr(envelope, "CHUNK_ROWS", 10)
    place = np.arange(100)[:, None] * np.array([[32, 0, 0]])
    place[75] = place[25]
    a = Cloud("a", place, np.ones((100, 4), np.int64), np.linspace(1, 0, 100))
    far = Cloud("b", np.arange(50)[:, None] * np.array([[32, 0, 0]]), np.ones((50, 4), np.int64), np.full(50, 0.5))
    store = stored([a, far], tmp_path / "p.zarr")
    read: list[tuple[str, int]] = []
    whole = RowReader.read_chunk

    def noted(self: RowReader, number: int) -> np.ndarray:
        read.append((self.name, number))
        return whole(self, number)

    monkeypatch.setattr(RowReader, "read_chunk", noted)
    found = run(stream([a, far], store), "1000", Suppression(0.2, 0.8), store)
    assert len(found.rows) == 149
    if missing() is None:
        assert sorted(read) == [("scenes/a/feat", 2), ("scenes/a/feat", 7)]
    read.clear()
    # Only the first 40 candidates of the first scene are asked for: nothing is near anything.
    assert len(run(stream([a, far], store), "40", Suppression(0.2, 0.8), store).rows) == 40
    assert not read


def test_features_that_are_no_numbers(tmp_path: Path) -> None:
    a = random_cloud("a", 60, 5)
    feat = a.feat.astype(np.float64)
    feat[7] = np.nan
    made = MadeScene("a", a.place / STEP, feat)
    store = PredictionStore(synthetic_predictions(tmp_path / "p.zarr", [made]))
    with pytest.raises(HpalError, match=r"scene a: 1 of \d+ rows of feat hold NaN.*--no-fds"):
        run(stream([a], store), "60", Suppression(0.5, 0.8), store)


def test_predictions_without_features(tmp_path: Path, rooms: tuple) -> None:
    a = random_cloud("a", 60, 5)
    made = MadeScene("a", a.place / STEP, np.zeros((60, 0)))
    store = PredictionStore(synthetic_predictions(tmp_path / "p.zarr", [made]))
    data = stream([a], store)
    with pytest.raises(HpalError, match=r"no features.*--no-fds"):
        run(data, "5", Suppression(), store)
    assert len(run(data, "5", None, store).rows) == 5


def test_order_of_the_stream_does_not_matter(rooms: tuple) -> None:
    clouds, store = rooms
    every = {run(stream(clouds, store, seed=n), "30", Suppression(0.25, 0.8), store).rows.tobytes() for n in range(5)}
    assert len(every) == 1


def test_labelled_points_are_never_picked(rooms: tuple) -> None:
    """A foreign scorer that streams labelled points, and scores them highest, gets none of them."""
    clouds, store = rooms
    loud = [Cloud(a.name, a.place, a.feat, a.score.copy(), a.labelled) for a in clouds]
    for a in loud:
        a.score[a.labelled] = 5
    for suppression in (None, Suppression(0.25, 0.8)):
        found = run(stream(loud, store, labelled_too=True), "100000", suppression, store)
        labelled = {(a.name, n) for a in clouds for n in a.labelled}
        assert labelled
        assert not labelled & set(picks(found, store))
    expected = plain_select(clouds, radius=Fraction("0.25"), tau=Fraction("0.8"), budget=20)
    found = run(stream(loud, store, labelled_too=True), "20", Suppression(0.25, 0.8), store)
    assert picks(found, store) == expected


@pytest.mark.usefixtures("both_ways")
@pytest.mark.parametrize("at", [900_000.0, -4_500_000.0])
def test_far_from_the_origin(tmp_path: Path, at: float) -> None:
    """Georeferenced coordinates: a float32 sum would round every distance here away."""
    clouds = [random_cloud("x", 120, 7), random_cloud("y", 80, 8)]
    store = stored(clouds, tmp_path / "p.zarr", at=at)
    expected = plain_select(clouds, radius=Fraction("0.25"), tau=Fraction("0.8"), budget=500)
    found = run(stream(clouds, store), "500", Suppression(0.25, 0.8), store)
    assert picks(found, store) == expected
    np.testing.assert_array_equal(found.rows["x"] - at, np.rint((found.rows["x"] - at) * STEP) / STEP)


def test_radius_is_metres_in_a_cloud_in_feet(tmp_path: Path) -> None:
    clouds = [random_cloud("x", 120, 9)]
    store = stored(clouds, tmp_path / "p.zarr", unit=0.3048)
    expected = plain_select(clouds, radius=Fraction("0.25"), tau=Fraction("0.8"), budget=500)
    found = run(stream(clouds, store), "500", Suppression(0.25 * 0.3048, 0.8), store)
    assert picks(found, store) == expected


def test_suppression_does_not_cross_scenes(tmp_path: Path) -> None:
    """The same spot and the same feature in two scenes: both are picked."""
    twin = np.zeros((1, 3), np.int64)
    clouds = [Cloud(name, twin, np.ones((1, 4), np.int64), np.array([0.5])) for name in ("a", "b")]
    store = stored(clouds, tmp_path / "p.zarr")
    assert len(run(stream(clouds, store), "10", Suppression(1.0, 0.0), store).rows) == 2


def test_only_picks_suppress(tmp_path: Path) -> None:
    """In a chain of alike points 0.19 apart, the second is suppressed, and so does not suppress the third."""
    chain = np.array([[0, 0, 0], [3, 0, 0], [6, 0, 0], [9, 0, 0]])
    clouds = [Cloud("a", chain, np.ones((4, 4), np.int64), np.array([0.9, 0.8, 0.7, 0.6]))]
    store = stored(clouds, tmp_path / "p.zarr")
    assert run(stream(clouds, store), "10", Suppression(0.2, 0.8), store).rows["index"].tolist() == [0, 2]


def test_a_zero_feature_neither_suppresses_nor_is_suppressed(tmp_path: Path) -> None:
    feat = np.array([[0, 0], [0, 0], [1, 1], [1, 1]])
    clouds = [Cloud("a", np.zeros((4, 3), np.int64), feat, np.array([0.9, 0.8, 0.7, 0.6]))]
    store = stored(clouds, tmp_path / "p.zarr")
    for tau in (0.8, 0.0, -1.0):
        found = run(stream(clouds, store), "10", Suppression(0.2, tau), store)
        assert found.rows["index"].tolist() == [0, 1, 2], tau


def test_a_budget_beyond_the_candidates_is_a_result(rooms: tuple) -> None:
    clouds, store = rooms
    found = run(stream(clouds, store), "100%", Suppression(100.0, -1.0), store)
    assert found.exhausted
    assert 0 < len(found.rows) < found.budget == 265
    assert all(report.exhausted for report in found.scenes)


def test_nothing_to_choose_from(rooms: tuple) -> None:
    """Every candidate is labelled already: an empty selection, not a crash."""
    _, store = rooms
    pool = tuple(PoolScene.from_info(s) for s in store.table)
    head = Header("scores", str(store.path), store.table.id, 1.0, 4, pool)
    found = run(packed(head, np.zeros(0, point_dtype(color=False))), "5", Suppression(), store)
    assert len(found.rows) == 0
    assert found.exhausted
    assert "rank" in found.rows.dtype.names


# ---------------------------------------------------------------- streams that are refused


def rows_of(scores: list, index: list[int], scene: list[int] | None = None, kind: str = "<f4") -> np.ndarray:
    columns = [(n, kind if n == "score" else point_dtype(color=False)[n].str) for n in point_dtype(color=False).names]
    rows = np.zeros(len(index), columns)
    rows["x"], rows["index"], rows["score"] = np.arange(len(index)), index, scores
    rows["scene"] = scene or 0
    return rows


HEAD = Header("scores", pool=(PoolScene(0, "a", 9), PoolScene(1, "b", 9)))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_scores_must_be_numbers(bad: float) -> None:
    with pytest.raises(HpalError, match="scene a: 1 scores are no numbers"):
        run(packed(HEAD, rows_of([0.5, bad, 0.2], [0, 1, 2])), "1", None, None)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_points_have_a_place(bad: float) -> None:
    rows = rows_of([0.5, 0.4, 0.2], [0, 1, 2])
    rows["y"][1] = bad
    with pytest.raises(HpalError, match="scene a: 1 points have no finite position"):
        run(packed(HEAD, rows), "1", None, None)


@pytest.mark.parametrize("unit", ["0", "-1", "nan", "inf", "metre"])
def test_a_unit_is_above_zero(unit: str) -> None:
    data = packed(replace(HEAD, unit=1.0), rows_of([0.5], [0]))
    with pytest.raises(HpalError, match="unit"):
        run(data.replace(b"comment unit 1.0", f"comment unit {unit}".encode()), "1", None, None)


def test_a_point_must_not_come_twice() -> None:
    with pytest.raises(HpalError, match="scene a: a point comes twice"):
        run(packed(HEAD, rows_of([0.5, 0.4, 0.2], [3, 1, 3])), "1", None, None)


def test_a_scene_must_come_in_one_piece() -> None:
    with pytest.raises(HpalError, match="scene 0 are not together"):
        run(packed(HEAD, rows_of([0.5, 0.4, 0.2], [0, 1, 2], [0, 1, 0])), "1", None, None)


@pytest.mark.parametrize("index", [-1, 9])
def test_a_point_must_be_in_its_scene(index: int) -> None:
    with pytest.raises(HpalError, match=f"no point {index}"):
        run(packed(HEAD, rows_of([0.5, 0.4], [0, index])), "1", None, None)


def test_scores_of_other_scenes(rooms: tuple, tmp_path: Path) -> None:
    clouds, store = rooms
    other = stored([random_cloud("a", 60, 999)], tmp_path / "p.zarr")
    with pytest.raises(HpalError, match="other scenes"):
        run(stream(clouds, store), "1", Suppression(), other)


@pytest.mark.parametrize("kind", ["u1", "<i4", "<u4", "<f8"])
def test_scores_of_any_number_type(kind: str) -> None:
    """A foreign scorer may write ranks as bytes: 0 is still the lowest."""
    found = run(packed(HEAD, rows_of([0, 200, 3], [0, 1, 2], kind=kind)), "3", None, None)
    assert found.rows["index"].tolist() == [1, 2, 0]


# ---------------------------------------------------------------- options


@pytest.mark.parametrize(
    ("text", "points", "count"),
    [
        ("0.02%", 100_000, 20),
        ("0.02%", 12_400, 2),
        ("0.02%", 13_000, 3),
        ("0.02 %", 100, 1),
        ("100%", 37, 37),
        ("2600", 5, 2600),
        (" 20 / scene ", 1000, 20),
        (".5%/scene", 1000, 5),
        ("0.7%", 1000, 7),
        ("1.0", 10, 1),
    ],
)
def test_budgets(text: str, points: int, count: int) -> None:
    budget = Budget.parse(text)
    assert budget.count(points) == count
    assert budget.per_scene == ("scene" in text)
    assert budget.percent == ("%" in text)
    assert isinstance(budget.amount, Decimal)
    assert Budget.parse(str(budget)) == budget


@pytest.mark.parametrize(
    "text", ["", "0", "0%", "-5", "101%", "2.5", "ten", "5/room", "%", "5%%", "1e3", "nan", "inf%"]
)
def test_what_is_no_budget(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        Budget.parse(text)
    assert caught.value.subject == "--budget"


@pytest.mark.parametrize(
    ("radius", "tau"), [(0, 0.8), (-1, 0.8), (np.nan, 0.8), (np.inf, 0.8), (0.2, 1.01), (0.2, -2), (0.2, np.nan)]
)
def test_what_is_no_suppression(radius: float, tau: float) -> None:
    with pytest.raises(UsageError):
        Suppression(radius, tau)
