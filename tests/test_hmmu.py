"""Scores against a plain reading of method.md, "HMMU": one point at a time, in float64."""

from __future__ import annotations

import io
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import MadeScene, softmax, synthetic_predictions

from hpal_cli.errors import HpalError, UsageError
from hpal_cli.score import pointwise
from hpal_cli.score.hmmu import Hierarchy, HmmuResult, default_weights, hmmu, measure, missing
from hpal_cli.score.hmmu_torch import measure_on
from hpal_cli.score.scorer import ScoreSettings, Strategy, score
from hpal_cli.stream.points import PointReader


def top_two(p: np.ndarray) -> float:
    first, second = sorted((float(v) for v in p), reverse=True)[:2]
    return first - second


def plain_hmmu(prob: np.ndarray, xyz: np.ndarray, levels: tuple, weights: tuple, unit: float = 1.0) -> np.ndarray:
    """Eq. 1-4 as they stand, for one point after the other."""
    prob, xyz = prob.astype(np.float64), xyz.astype(np.float64)
    v = np.zeros(len(prob))
    for n in range(len(prob)):
        v[n] = top_two(prob[n])
        for level, weight in zip(levels, weights, strict=True):
            edge = level / unit
            home = [math.floor(c / edge) for c in xyz[n]]
            mates = [m for m in range(len(prob)) if [math.floor(c / edge) for c in xyz[m]] == home]
            v[n] += weight * top_two(sum(prob[m] for m in mates) / len(mates))
    return 1 - v / (1 + sum(weights))


def cloud(points: int, seed: int) -> np.ndarray:
    """Two metres around the origin, with doubles and with points that lie on the voxels' borders."""
    rng = np.random.default_rng(seed)
    xyz = rng.uniform(-1, 1, (points, 3))
    on_border = rng.random((points, 3)) < 0.2
    xyz[on_border] = np.round(xyz[on_border], 1)
    xyz[rng.random((points, 3)) < 0.1] = 0.5
    twins = rng.integers(points, size=points // 5)
    xyz[: len(twins)] = xyz[twins]
    return xyz


@pytest.mark.parametrize("classes", [2, 3, 7, 13, 20])
@pytest.mark.parametrize(
    ("levels", "weights"),
    [((0.1, 0.5, 1.0), (0.1, 0.01, 0.001)), ((0.3,), (2.0,)), ((0.25, 0.07), (0.5, 0.0)), ((), ())],
)
def test_hmmu_is_the_equations(classes: int, levels: tuple, weights: tuple) -> None:
    rng = np.random.default_rng(classes)
    xyz = cloud(70, classes)
    prob = softmax(rng.normal(0, 2, (70, classes)))
    prob[:5] = prob[5]
    found = hmmu(prob, xyz, Hierarchy(levels, weights))
    np.testing.assert_allclose(found, plain_hmmu(prob, xyz, levels, weights), rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_hmmu_of_stored_types(dtype: type) -> None:
    """float16 probabilities and float32 positions are what a store hands over; the arithmetic is not to be theirs."""
    prob = softmax(np.random.default_rng(1).normal(0, 2, (80, 13))).astype(dtype)
    xyz = cloud(80, 2).astype(np.float32)
    expected = plain_hmmu(prob, xyz, (0.1, 0.5, 1.0), (0.1, 0.01, 0.001))
    np.testing.assert_allclose(hmmu(prob, xyz), expected, rtol=0, atol=1e-6)


def test_hmmu_does_not_lose_small_means_in_float16() -> None:
    """5 000 points in one voxel: a float16 sum would stop growing at 2 048."""
    prob = np.tile(np.array([0.5, 0.4, 0.1], np.float16), (5000, 1))
    found = hmmu(prob, np.full((5000, 3), 0.01), Hierarchy((1.0,), (1.0,)))
    gap = float(np.float16(0.5)) - float(np.float16(0.4))
    np.testing.assert_allclose(found, 1 - gap, atol=1e-6)


def test_voxel_borders_belong_to_the_upper_cell() -> None:
    """floor, not truncation or rounding: -0.01 and 0.01 are apart, 0.5 begins a cell."""
    prob = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
    xyz = np.array([[-0.01, 0, 0], [0.01, 0, 0], [0.49, 0, 0], [0.5, 0, 0]])
    # Cells of 0.5: {-0.01}, {0.01, 0.49} which disagree, {0.5}.
    np.testing.assert_allclose(hmmu(prob, xyz, Hierarchy((0.5,), (1.0,))), [0, 0.5, 0.5, 0])


def test_one_point_and_none() -> None:
    one = hmmu(np.array([[0.7, 0.2, 0.1]]), np.array([[-3.0, 0.0, 9.0]]))
    np.testing.assert_allclose(one, 0.5)
    assert hmmu(np.zeros((0, 4)), np.zeros((0, 3))).shape == (0,)


def test_labelled_points_take_part_in_the_means() -> None:
    """The confident neighbour settles the voxel, whether or not it is a candidate itself."""
    hesitant, sure = [0.5, 0.5], [1.0, 0.0]
    xyz = np.zeros((2, 3))
    together = hmmu(np.array([hesitant, sure]), xyz, Hierarchy((1.0,), (1.0,)))
    alone = hmmu(np.array([hesitant]), xyz[:1], Hierarchy((1.0,), (1.0,)))
    assert alone[0] == pytest.approx(1.0)
    assert together[0] == pytest.approx(0.75)


def test_feet() -> None:
    """Levels are metres; a cloud in feet has its edges turned into feet, not its scores changed."""
    metres = cloud(60, 5)
    prob = softmax(np.random.default_rng(5).normal(0, 2, (60, 5)))
    levels, weights = (0.33, 0.77), (0.1, 0.01)
    in_metres = hmmu(prob, metres, Hierarchy(levels, weights))
    in_feet = hmmu(prob, metres / 0.3048, Hierarchy(levels, weights), unit=0.3048)
    np.testing.assert_allclose(in_feet, in_metres, atol=1e-12)
    assert not np.allclose(hmmu(prob, metres / 0.3048, Hierarchy(levels, weights)), in_metres)


def test_store_in_feet(tmp_path: Path) -> None:
    """The unit comes from the store: two points 0.5 ft apart share a 0.2 m voxel, 0.5 m apart they do not."""
    made = MadeScene("s", [[0.1, 0.1, 0.1], [0.6, 0.1, 0.1]], np.ones((2, 2)), prob=np.array([[1, 0, 0], [0, 1, 0]]))
    shared, apart = [], []
    for unit, scores in ((0.3048, shared), (1.0, apart)):
        path = synthetic_predictions(tmp_path / f"{unit}.zarr", [made], unit=unit)
        out = io.BytesIO()
        score(path, lambda _, out=out: out, ScoreSettings(hierarchy=Hierarchy((0.2,), (1.0,))))
        rows = PointReader(io.BytesIO(out.getvalue()), "s").read()
        scores += rows["score"].tolist()
    assert shared == pytest.approx([0.5, 0.5])
    assert apart == pytest.approx([0.0, 0.0])


# ---------------------------------------------------------------- the same bits in every way


def clouds() -> list[tuple[np.ndarray, np.ndarray]]:
    """float16 rows at places of every kind: borders, twins, negative, far away, in a line, one point, none."""
    rng = np.random.default_rng(11)
    places = [
        cloud(3000, 1),
        cloud(500, 2).astype(np.float32),
        rng.integers(-40, 40, (2000, 3)) * 0.05,
        rng.uniform(0, 30, (5000, 3)) + np.array([900_000, 6_700_000, 100]),
        np.outer(rng.uniform(0, 100, 400), [1, 0, 0]),
        np.zeros((7, 3)),
        np.array([[-3.0, 0.0, 9.0]]),
        np.zeros((0, 3)),
    ]
    found = []
    for n, xyz in enumerate(places):
        prob = softmax(rng.normal(0, 3, (len(xyz), (2, 13, 16, 17, 40)[n % 5]))).astype(np.float16)
        prob[::3] = prob[:1]
        found.append((prob, xyz))
    return found


HIERARCHIES = [
    Hierarchy(),
    Hierarchy((1.0, 0.1, 0.5), (0.001, 0.1, 0.01)),
    Hierarchy((0.1, 0.25, 0.5, 0.07), (0.1, 0.2, 0.3, 0.4)),
    Hierarchy((0.3, 0.6, 0.9, 0.9), (0.3, 0.7, 0.1, 1.3)),
    Hierarchy((0.001, 1000.0), (1.0, 1.0)),
    Hierarchy((), ()),
]


def same(one: HmmuResult, other: HmmuResult) -> None:
    np.testing.assert_array_equal(one.margin_sum, other.margin_sum)
    np.testing.assert_array_equal(one.voxels, other.voxels)
    np.testing.assert_array_equal(one.margins, other.margins)


@pytest.mark.skipif(missing() is not None, reason=f"no compiled sums: {missing()}")
@pytest.mark.parametrize("hierarchy", HIERARCHIES, ids=lambda h: str(h.levels))
def test_compiled_numpy_and_torch_agree_to_the_bit(hierarchy: Hierarchy, monkeypatch: pytest.MonkeyPatch) -> None:
    for prob, xyz in clouds():
        for unit in (1.0, 0.3048):
            compiled = measure(prob, xyz, hierarchy, unit, threads=1, margins=True)
            for threads in (2, 5):
                same(compiled, measure(prob, xyz, hierarchy, unit, threads=threads, margins=True))
            with monkeypatch.context() as context:
                context.setattr("hpal_cli.score.hmmu._library", lambda: "not here")
                same(compiled, measure(prob, xyz, hierarchy, unit, margins=True))
            same(compiled, measure_on(torch.device("cpu"), prob, xyz, hierarchy, unit, margins=True))


def test_order_of_points_does_not_matter() -> None:
    for prob, xyz in clouds():
        order = np.random.default_rng(1).permutation(len(xyz))
        np.testing.assert_array_equal(hmmu(prob[order], xyz[order]), hmmu(prob, xyz)[order])


def test_cells_that_rounding_takes_out_of_one_another() -> None:
    """Just below a border of the coarse level, the division by the fine edge may round up to the border."""
    fine, coarse = 0.7, 2.1
    border = np.arange(1, 4000) * coarse
    near = np.concatenate([border, np.nextafter(border, 0), np.nextafter(border, 9e9)])
    inner, outer = np.floor(near / fine), np.floor(near / coarse)
    assert ((inner < 3 * outer) | (inner >= 3 * outer + 3)).any(), "the case must bite"
    xyz = np.column_stack([near, np.zeros_like(near), np.zeros_like(near)])
    prob = softmax(np.random.default_rng(0).normal(0, 2, (len(near), 5))).astype(np.float16)
    levels, weights = (fine, coarse), (0.5, 0.25)
    v = top_gaps(prob)
    for level, weight in zip(levels, weights, strict=True):
        home = np.floor(near / level)
        for cell in np.unique(home):
            v[home == cell] += weight * top_two(prob[home == cell].astype(np.float64).mean(axis=0))
    np.testing.assert_allclose(hmmu(prob, xyz, Hierarchy(levels, weights)), 1 - v / 1.75, rtol=0, atol=1e-9)


def top_gaps(prob: np.ndarray) -> np.ndarray:
    return np.array([top_two(row) for row in prob.astype(np.float64)])


def test_shares_sum_to_the_score() -> None:
    prob, xyz = clouds()[0]
    for hierarchy in HIERARCHIES:
        measured = measure(prob, xyz, hierarchy, margins=True)
        parts = measured.shares(hierarchy)
        assert parts.shape == (1 + len(hierarchy.levels), len(prob))
        np.testing.assert_allclose(parts.sum(axis=0), measured.score(hierarchy), atol=1e-6)
        # The point's own share is 1 - U_x, by its weight among all.
        np.testing.assert_allclose(parts[0] * hierarchy.largest, 1 - top_gaps(prob), atol=1e-6)


def test_georeferenced_scene_scores_like_the_same_scene_at_the_origin(tmp_path: Path) -> None:
    """Lambert-93: positions are kept relative to a float64 offset, so nothing is lost at 900 km."""
    xyz = np.random.default_rng(3).uniform(0, 4, (300, 3)).astype(np.float32)
    prob = softmax(np.random.default_rng(4).normal(0, 2, (300, 3)))
    scores = []
    for name, offset in (("near", (0.0, 0.0, 0.0)), ("far", (900_000.0, 6_700_000.0, 50.0))):
        made = MadeScene("s", xyz, np.ones((300, 2)), offset=offset, prob=prob)
        rows = rows_by_scene(stream_of(synthetic_predictions(tmp_path / f"{name}.zarr", [made])))["s"]
        scores.append(rows["score"])
        position = np.column_stack([rows[a] for a in "xyz"])
        np.testing.assert_array_equal(position, xyz.astype(np.float64) + offset)
    np.testing.assert_array_equal(*scores)
    np.testing.assert_allclose(
        scores[0], plain_hmmu(prob.astype(np.float16), xyz, (0.1, 0.5, 1.0), (0.1, 0.01, 0.001)), atol=1e-6
    )


# ---------------------------------------------------------------- the released reading


def plain_nested(prob: np.ndarray, xyz: np.ndarray, levels: tuple, weights: tuple) -> np.ndarray:
    """method.md, "HMMU", nested: voxels of voxels, one after the other, and each in the nearest barycentre."""
    mean = [list(map(float, row)) for row in prob]
    at = [tuple(map(float, row)) for row in xyz]
    home = list(range(len(prob)))
    v = np.array([top_two(np.array(row)) for row in mean])
    for level, weight in zip(levels, weights, strict=True):
        cells: dict[tuple, list[int]] = {}
        for n, place in enumerate(at):
            cells.setdefault(tuple(math.floor(c / level) for c in place), []).append(n)
        centre = [tuple(sum(at[m][a] for m in cells[c]) / len(cells[c]) for a in range(3)) for c in sorted(cells)]
        nearest = [min(range(len(centre)), key=lambda c: (math.dist(place, centre[c]), c)) for place in at]
        found: list[list[float] | None] = []
        for c in range(len(centre)):
            members = [mean[n] for n in range(len(at)) if nearest[n] == c and mean[n] is not None]
            found.append([sum(m[k] for m in members) / len(members) for k in range(prob.shape[1])] if members else None)
        home = [nearest[h] for h in home]
        v += weight * np.array([top_two(np.array(found[h])) for h in home])
        mean, at = found, centre
    return 1 - v / (1 + sum(weights))


@pytest.mark.parametrize("seed", range(4))
def test_nested_is_voxels_of_voxels(seed: int) -> None:
    rng = np.random.default_rng(seed)
    xyz = rng.uniform(-1, 1, (250, 3)) * [1, 1, 0.3]
    xyz[:20] = xyz[20:40]
    prob = softmax(rng.normal(0, 2, (250, 5))).astype(np.float16)
    levels, weights = ((0.1, 0.5, 1.0), (0.1, 0.01, 0.001)) if seed % 2 else ((0.2, 0.3), (0.7, 0.4))
    found = hmmu(prob, xyz, Hierarchy(levels, weights, nested=True))
    np.testing.assert_allclose(found, plain_nested(prob, xyz, levels, weights), rtol=0, atol=1e-9)
    assert np.abs(found - hmmu(prob, xyz, Hierarchy(levels, weights))).max() > 1e-3, "the two readings differ"


def test_nested_ties_go_to_the_first_voxel() -> None:
    """Points in the middle between two and four barycentres, as on a lattice."""
    xyz = np.array([[0, 0, 0], [0, 1, 0], [1, 0, 0], [1, 1, 0], [0.5, 0, 0], [0.5, 0.5, 0], [0.25, 0.25, 0.0]])
    prob = softmax(np.random.default_rng(5).normal(0, 2, (7, 4))).astype(np.float16)
    for levels in ((0.25,), (0.5, 1.0), (0.25, 3.0)):
        weights = (0.5,) * len(levels)
        found = hmmu(prob, xyz, Hierarchy(levels, weights, nested=True))
        np.testing.assert_allclose(found, plain_nested(prob, xyz, levels, weights), rtol=0, atol=1e-12)


def test_nested_levels_must_grow() -> None:
    for levels in ((0.5, 0.1), (0.1, 0.1)):
        with pytest.raises(UsageError, match="must grow"):
            Hierarchy(levels, (1.0, 1.0), nested=True)
    one = hmmu(np.array([[0.7, 0.2, 0.1]]), np.zeros((1, 3)), Hierarchy(nested=True))
    np.testing.assert_allclose(one, 0.5)
    assert hmmu(np.zeros((0, 4)), np.zeros((0, 3)), Hierarchy(nested=True)).shape == (0,)


# ---------------------------------------------------------------- the other strategies


@pytest.mark.parametrize("classes", [2, 5, 20])
def test_pointwise_formulas(classes: int) -> None:
    prob = softmax(np.random.default_rng(classes).normal(0, 3, (50, classes))).astype(np.float16)
    prob[0] = np.eye(classes, dtype=np.float16)[0]
    prob[1] = np.float16(1 / classes)
    p = prob.astype(np.float64)
    descending = -np.sort(-p, axis=1)
    np.testing.assert_allclose(pointwise.minimum_margin(prob), 1 - (descending[:, 0] - descending[:, 1]), atol=1e-9)
    np.testing.assert_allclose(pointwise.least_confidence(prob), 1 - descending[:, 0], atol=1e-9)
    plain = [-sum(v * math.log(v) for v in row if v > 0) / math.log(classes) for row in p]
    np.testing.assert_allclose(pointwise.entropy(prob), np.clip(plain, 0, 1), atol=1e-9)


def every_strategy(prob: np.ndarray, xyz: np.ndarray) -> dict[str, np.ndarray]:
    return {
        "hmmu": hmmu(prob, xyz),
        "hmmu, heavy": hmmu(prob, xyz, Hierarchy((0.1, 0.2, 0.3, 0.7), (0.3, 0.7, 0.1, 1.3))),
        "mmu": pointwise.minimum_margin(prob),
        "lc": pointwise.least_confidence(prob),
        "entropy": pointwise.entropy(prob),
    }


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_scores_are_in_0_1(dtype: type) -> None:
    """Rounding leads outside of this range neither for the surest point nor for the least sure one."""
    rng = np.random.default_rng(3)
    sharp = np.vstack([np.eye(13), np.full((1, 13), 1 / 13), softmax(rng.normal(0, 40, (200, 13)))]).astype(dtype)
    xyz = rng.uniform(-5, 5, (len(sharp), 3))
    for name, scores in every_strategy(sharp, xyz).items():
        assert scores.min() >= 0, name
        assert scores.max() <= 1, name


@pytest.mark.parametrize(
    "weights", [(0.1,), (0.1, 0.01, 0.001), (0.3, 0.7, 0.1), (0.58, 0.3, 0.67), (1 / 3, 0.1, 1e-9)]
)
def test_a_certain_point_scores_no_less_than_zero(weights: tuple) -> None:
    """1 - v / (1 + sum w) with v = 1 + sum w, added up in another order, must not come out as -2e-16."""
    levels = tuple(0.1 * (n + 1) for n in range(len(weights)))
    found = hmmu(np.eye(4), np.arange(12.0).reshape(4, 3), Hierarchy(levels, weights))
    assert ((found >= 0) & (found < 1e-12)).all(), found


def test_larger_is_more_uncertain() -> None:
    steps = np.linspace(0, 0.75, 20)
    prob = np.column_stack([1 - steps, steps / 3, steps / 3, steps / 3])
    xyz = np.arange(60.0).reshape(20, 3)
    for name, scores in every_strategy(prob, xyz).items():
        assert (np.diff(scores) > 0).all(), name


def test_weights_fit_levels() -> None:
    with pytest.raises(UsageError, match="2 weights for 3 levels"):
        Hierarchy((0.1, 0.5, 1.0), (0.1, 0.01))
    for weight in (-0.1, math.nan, math.inf):
        with pytest.raises(UsageError):
            Hierarchy((0.1,), (weight,))
    assert default_weights((0.1, 0.5, 1.0, 2.0)) == (0.1, 0.01, 0.001, 0.0001)


# ---------------------------------------------------------------- streams of scores


def stream_of(path: Path, **options: object) -> bytes:
    out = io.BytesIO()
    plan = ScoreSettings(**{n: options.pop(n) for n in ("strategy", "seed", "hierarchy") if n in options})  # type: ignore[arg-type]
    score(path, lambda _: out, plan, **options)  # type: ignore[arg-type]
    return out.getvalue()


def rows_by_scene(data: bytes) -> dict[str, np.ndarray]:
    reader = PointReader(io.BytesIO(data), "test")
    names = {s.number: s.name for s in reader.header.pool}
    return {names[number]: rows for number, rows in reader.by_scene()}


def test_random_repeats(scenes: Path, predictions: Path) -> None:
    first = stream_of(scenes, strategy=Strategy.RANDOM, seed=4)
    assert first == stream_of(scenes, strategy=Strategy.RANDOM, seed=4)
    assert first != stream_of(scenes, strategy=Strategy.RANDOM, seed=5)
    values = np.concatenate([rows["score"] for rows in rows_by_scene(first).values()])
    # 3 000 draws of U(0, 1): the mean and the quarters are where they belong.
    assert abs(values.mean() - 0.5) < 0.03
    assert (np.abs(np.histogram(values, 4, (0, 1))[0] / len(values) - 0.25) < 0.03).all()


def test_random_depends_on_the_scene_alone(scenes: Path) -> None:
    """Scored alone or among others, a scene gets the same draws, and no two scenes get the same ones."""
    everything = rows_by_scene(stream_of(scenes, strategy=Strategy.RANDOM, split="all"))
    assert len(everything) == 3
    for name, rows in everything.items():
        alone = rows_by_scene(stream_of(scenes, strategy=Strategy.RANDOM, split="all", scenes=[name]))
        np.testing.assert_array_equal(alone[name]["score"], rows["score"])
    a, b = list(everything.values())[:2]
    n = min(len(a), len(b))
    assert (a["score"][:n] != b["score"][:n]).mean() > 0.99


def test_labelled_points_are_no_candidates(tmp_path: Path) -> None:
    xyz = np.random.default_rng(0).random((20, 3))
    prob = softmax(np.random.default_rng(1).normal(0, 2, (20, 3)))
    labelled = [0, 7, 19]
    path = synthetic_predictions(tmp_path / "p.zarr", [MadeScene("s", xyz, np.ones((20, 2)), labelled, prob=prob)])
    for strategy in set(Strategy) - {Strategy.DIVERSE}:
        rows = rows_by_scene(stream_of(path, strategy=strategy))["s"]
        assert rows["index"].tolist() == [n for n in range(20) if n not in labelled], strategy
    stored = prob.astype(np.float16)
    # The means are over all 20 points; only the rows of the labelled ones are left out.
    expected = plain_hmmu(stored, xyz.astype(np.float32), (0.1, 0.5, 1.0), (0.1, 0.01, 0.001))
    rows = rows_by_scene(stream_of(path))["s"]
    np.testing.assert_allclose(rows["score"], np.delete(expected, labelled), atol=1e-6)
    np.testing.assert_array_equal(np.column_stack([rows[a] for a in "xyz"]), np.delete(xyz.astype("f4"), labelled, 0))


def test_pool_counts_every_point(predictions: Path) -> None:
    """Budgets are shares of the pool, and labelled points belong to it."""
    reader = PointReader(io.BytesIO(stream_of(predictions)), "test")
    assert sum(s.points for s in reader.header.pool) == reader.header.count + 2 * 5


@pytest.mark.parametrize("bad", [np.nan, -0.1, 2.0])
def test_no_probabilities_no_scores(tmp_path: Path, bad: float) -> None:
    prob = np.tile([0.5, 0.3, 0.2], (6, 1))
    prob[4, 1] = bad
    path = synthetic_predictions(tmp_path / "p.zarr", [MadeScene("s", np.zeros((6, 3)), np.ones((6, 2)), prob=prob)])
    with pytest.raises(HpalError, match=r"1 rows of prob .*row 4"):
        stream_of(path)
