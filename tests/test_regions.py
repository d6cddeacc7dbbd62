"""Region strategies against plain readings of their formulas: loops over points and regions, in float64."""

from __future__ import annotations

import itertools
import math
import pickle
from collections import Counter, defaultdict
from types import ModuleType

import numpy as np
import pytest
from conftest import softmax

from hpal_cli.label.regions import answer_superpoints
from hpal_cli.score import redal, ssdr
from hpal_cli.score.regions import Regions, neighbours
from hpal_cli.score.ssdr import Superpoints

FEET = 0.3048


def room(points: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A floor, a wall and a box, in float32 metres, with colours of their own and a few coincident points."""
    rng = np.random.default_rng(seed)
    u = rng.random((points, 3)) * [3, 2, 2]
    part = rng.integers(3, size=points)
    u[part == 0, 2] = 0
    u[part == 1, 0] = 0
    u[part == 2] = [1.2, 0.7, 0.4] + u[part == 2] * 0.15
    u += rng.normal(0, 0.002, u.shape)
    colors = np.array([[200, 190, 180], [90, 120, 150], [160, 60, 20]])[part] + rng.integers(-20, 20, (points, 3))
    twins = rng.integers(points, size=points // 20)
    u[: len(twins)] = u[twins]
    return u.astype(np.float32), colors.astype(np.uint8)


def said(points: int, seed: int, classes: int = 5, features: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """float16 probabilities with some zeros and ties, and float16 features."""
    rng = np.random.default_rng(seed)
    prob = softmax(rng.normal(0, 2, (points, classes)))
    prob[: points // 10] = np.eye(classes)[rng.integers(classes, size=points // 10)]
    prob[points // 10 : points // 5] = 1 / classes
    return prob.astype(np.float16), rng.normal(0, 1, (points, features)).astype(np.float16)


def cells(xyz: np.ndarray, edge: float = 0.5) -> np.ndarray:
    """(N,) a region for each cell of this edge."""
    corner = np.floor(xyz.astype(np.float64) / edge)
    return np.unique(corner, axis=0, return_inverse=True)[1].reshape(-1).astype(np.int32)


def test_neighbours_are_others() -> None:
    """A point is not its own neighbour, even if more points coincide with it than neighbours are asked for."""
    xyz = np.concatenate([np.zeros((30, 3)), np.random.default_rng(0).random((300, 3))])
    near = np.concatenate([n for _, n in neighbours(xyz, 10)])
    assert near.shape == (330, 10)
    for row, others in enumerate(near):
        assert row not in others
        assert len(set(others.tolist())) == 10
        away = np.linalg.norm(xyz - xyz[row], axis=1)
        away[row] = np.inf
        np.testing.assert_allclose(np.sort(away[others]), np.sort(away)[:10])


# ---------------------------------------------------------------- ReDAL


def plain_value(prob: np.ndarray, xyz: np.ndarray, rgb: np.ndarray | None) -> np.ndarray:
    prob, xyz = prob.astype(np.float64), xyz.astype(np.float64)
    value = np.zeros(len(xyz))
    for n in range(len(xyz)):
        value[n] = sum(-p * math.log2(p) for p in prob[n] if p > 0) / prob.shape[1]
        others = sorted((m for m in range(len(xyz)) if m != n), key=lambda m: math.dist(xyz[n], xyz[m]))[:50]
        if not others:
            continue
        near = xyz[others] - sum(xyz[m] for m in others) / len(others)
        eigenvalues = np.linalg.eigvalsh(sum(np.outer(d, d) for d in near) / len(others))
        if len(set(map(tuple, xyz[others]))) > 1:
            value[n] += 0.05 * eigenvalues[0] / eigenvalues.sum()
        if rgb is not None:
            gaps = [abs(int(rgb[m][c]) - int(rgb[n][c])) / 255 for m in others for c in range(3)]
            value[n] += 0.1 * min(0.1, sum(gaps) / len(gaps))
    return value


@pytest.mark.parametrize("colored", [True, False])
@pytest.mark.parametrize("count", [0, 1, 2, 5, 51, 52, 150])
def test_redal_point_value_is_the_formula(count: int, colored: bool) -> None:
    rng = np.random.default_rng(count)
    xyz = rng.random((count, 3)).astype(np.float32)
    if 0 < count <= 51:
        # Doubles are all on the list, so there is no choice among them.
        xyz[: count // 3] = xyz[count // 2]
    prob = softmax(rng.normal(0, 3, (count, 4))).astype(np.float16)
    prob[: count // 2] = [1, 0, 0, 0]
    # Colours within 60 levels: some mean differences are over the limit of 0.1 and some are not.
    rgb = (rng.integers(0, 60, (count, 3)) * rng.integers(0, 2, (count, 1))).astype(np.uint8) if colored else None
    np.testing.assert_allclose(redal.point_value(prob, xyz, rgb), plain_value(prob, xyz, rgb), atol=1e-9)


def test_color_discontinuity_is_capped_but_not_cut_off() -> None:
    xyz, prob = np.random.default_rng(0).random((10, 3)), np.eye(2)[[0] * 10]
    bare = redal.point_value(prob, xyz, None)
    for step, expected in ((10, 10 / 255), (200, 0.1)):
        rgb = np.zeros((10, 3), np.uint8)
        rgb[0] = step
        np.testing.assert_allclose((redal.point_value(prob, xyz, rgb) - bare)[0], 0.1 * expected)


def test_curvature_where_neighbours_coincide() -> None:
    """60 points in one place far from the origin: no shape, not the shape of rounding."""
    xyz = np.full((60, 3), 1234.567)
    prob = np.eye(2)[[0] * 60]
    np.testing.assert_array_equal(redal.point_value(prob, xyz, None), np.zeros(60))
    places = np.random.default_rng(0).random((300, 1, 3)) * 1000
    np.testing.assert_array_equal(redal.curvature(np.repeat(places, 50, axis=1)), np.zeros(300))


def test_entropy_of_entries_above_one() -> None:
    assert redal.mean_entropy(np.array([[1.01, 0.0]])).tolist() == [0]


@pytest.mark.parametrize("colored", [True, False])
def test_redal_measure_is_means_over_regions(colored: bool) -> None:
    xyz, rgb = room(700, 5)
    rgb = rgb if colored else None
    prob, feat = said(700, 5)
    of = cells(xyz)
    closed = np.flatnonzero(of == 1)
    labelled = np.concatenate([[3, 699, 3], closed])
    found = redal.measure(prob, xyz, rgb, feat, labelled, of)
    np.testing.assert_array_equal(found.region, of)
    value = redal.point_value(prob, xyz, rgb)
    for region in range(of.max() + 1):
        rows = [n for n in range(700) if of[n] == region]
        assert found.points[region] == len(rows)
        assert found.unanswered[region] == len(set(rows) - set(labelled.tolist()))
        np.testing.assert_allclose(found.value[region], sum(value[n] for n in rows) / len(rows), rtol=1e-12)
        mean = sum(feat[n].astype(np.float64) for n in rows) / len(rows)
        np.testing.assert_allclose(found.feature[region], mean, atol=1e-6)
    assert not found.has_unanswered[1]
    assert found.has_unanswered.sum() == len(found.points) - 1


def regions(value: list[float], feature: np.ndarray, unanswered: list[int] | None = None) -> Regions:
    count = len(value)
    return Regions(
        region=np.arange(count, dtype=np.int32),
        points=np.full(count, 9),
        unanswered=np.array(unanswered or [9] * count),
        value=np.array(value, np.float64),
        feature=np.asarray(feature, np.float32),
    )


def ranking(scores: list[np.ndarray]) -> list[tuple[int, int]]:
    """(scene, region) from the first to the last, those with score 0 left out."""
    flat = [(-v, s, r) for s, scene in enumerate(scores) for r, v in enumerate(scene) if v > 0]
    return [(s, r) for _, s, r in sorted(flat)]


def plain_redal(scenes: list[Regions], cluster: list[list[int]]) -> list[tuple[int, int]]:
    ordered = [(s, r) for s, scene in enumerate(scenes) for r in range(len(scene.points)) if scene.unanswered[r]]
    ordered.sort(key=lambda place: -scenes[place[0]].value[place[1]])
    weight = defaultdict(lambda: 1.0)
    outcome = {}
    for s, r in ordered:
        outcome[s, r] = scenes[s].value[r] * weight[cluster[s][r]]
        weight[cluster[s][r]] *= 0.95
    return sorted(ordered, key=lambda place: -outcome[place])


def groups(seed: int, clusters: int = 6) -> tuple[list[Regions], list[list[int]]]:
    """Three scenes whose regions have features in groups far from each other, and the group of each region."""
    rng = np.random.default_rng(seed)
    centres = 100 * rng.normal(0, 1, (clusters, 8))
    scenes, cluster = [], []
    for count in (20, 0, 35):
        home = np.append(np.arange(min(count, clusters)), rng.integers(clusters, size=max(0, count - clusters)))
        open_ = rng.integers(0, 3, count)
        open_[:clusters] = 1
        scenes.append(
            regions(
                (0.4 + 0.05 * rng.random(count)).tolist(),
                centres[home] + 0.1 * rng.random((count, 8)),
                open_.tolist(),
            )
        )
        cluster.append(home.tolist())
    return scenes, cluster


@pytest.mark.parametrize("seed", range(5))
def test_redal_rank_regions_is_the_plain_loop(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redal, "CLUSTERS", 6)
    scenes, cluster = groups(seed)
    scores = redal.rank_regions(scenes, seed)
    expected = plain_redal(scenes, cluster)
    assert ranking(scores) == expected
    by_value = sorted(expected, key=lambda place: -scenes[place[0]].value[place[1]])
    assert expected != by_value
    flat = np.concatenate(scores)
    k = len(expected)
    np.testing.assert_allclose(np.sort(flat)[::-1][:k], 1 - np.arange(k) / k)
    assert (flat[np.concatenate([~s.has_unanswered for s in scenes])] == 0).all()


def test_redal_rank_regions_repeats_in_any_order_of_scenes() -> None:
    rng = np.random.default_rng(0)
    scenes = [regions(rng.random(300).tolist(), rng.random((300, 8))) for _ in range(3)]
    scores = redal.rank_regions(scenes)
    for one, two in zip(scores, redal.rank_regions(scenes)):
        np.testing.assert_array_equal(one, two)
    turned = redal.rank_regions([scenes[2], scenes[0], scenes[1]])
    for one, two in zip([scores[2], scores[0], scores[1]], turned):
        np.testing.assert_array_equal(one, two)
    assert any((one != two).any() for one, two in zip(scores, redal.rank_regions(scenes, seed=1)))


def test_redal_ties_are_by_scene_and_region() -> None:
    """Equal values: at first by scene and region; the second of a cluster then falls behind the first of the other."""
    one, other = np.zeros(3), np.full(3, 9.0)
    scenes = [regions([0.5, 0.5], np.array([one, one])), regions([0.5, 0.5], np.array([other, one]))]
    assert ranking(redal.rank_regions(scenes)) == [(0, 0), (1, 0), (0, 1), (1, 1)]


@pytest.mark.parametrize("features", [0, 4])
def test_features_of_zeros_are_one_cluster(features: int) -> None:
    """All regions are in one cluster, so each visit lowers the weight: 0.51 * 0.95 is less than 0.5 * 1."""
    scene = regions([0.52, 0.51, 0.3, 0.0], np.zeros((4, features)))
    assert ranking(redal.rank_regions([scene])) == [(0, 0), (0, 1), (0, 2), (0, 3)]
    assert redal.clusters(scene.feature, 400, 0).tolist() == [0] * 4


def test_fewer_regions_than_clusters_lose_nothing() -> None:
    rng = np.random.default_rng(0)
    value = rng.random(30)
    feature = rng.random((30, 5))
    assert len(set(redal.clusters(feature, 400, 0).tolist())) == 30
    order = [r for _, r in ranking(redal.rank_regions([regions(value.tolist(), feature)]))]
    assert order == np.argsort(-value).tolist()


def test_k_means_is_no_worse_than_another() -> None:
    from sklearn.cluster import KMeans

    rng = np.random.default_rng(0)
    feature = rng.normal(0, 1, (600, 6)) + rng.normal(0, 3, (12, 6))[rng.integers(12, size=600)]
    found = redal.clusters(feature, 20, 0)
    assert set(found.tolist()) == set(range(20))

    def inertia(label: np.ndarray) -> float:
        return sum(((feature[label == c] - feature[label == c].mean(axis=0)) ** 2).sum() for c in range(20))

    other = KMeans(20, n_init=1, random_state=0).fit(feature).labels_
    assert inertia(found) < 1.1 * inertia(other)
    mixed = rng.permutation(600)
    np.testing.assert_array_equal(redal.clusters(feature[mixed], 20, 0), found[mixed])


def test_k_means_counts_equal_rows() -> None:
    """It ends where each row is nearest to the mean of its cluster, with every row in the mean."""
    feature = np.repeat(np.random.default_rng(0).random((40, 2)), np.arange(40) ** 2 // 8 + 1, axis=0)
    found = redal.clusters(feature, 5, 0)
    centres = np.array([feature[found == c].mean(axis=0) for c in range(5)])
    nearest = np.linalg.norm(feature[:, None] - centres, axis=2).argmin(axis=1)
    np.testing.assert_array_equal(found, nearest)


def test_no_open_region_no_rank() -> None:
    scores = redal.rank_regions([regions([0.5], np.ones((1, 2)), [0])])
    assert [s.tolist() for s in scores] == [[0]]
    assert redal.rank_regions([]) == []


# ---------------------------------------------------------------- SSDR-AL


def plain_majority(classes: list[int]) -> int:
    count = Counter(classes)
    return min(c for c in count if count[c] == max(count.values()))


def test_ssdr_measure_is_the_formula() -> None:
    xyz, _ = room(900, 7)
    prob, feat = said(900, 7, classes=3)
    of = cells(xyz, 0.3)
    labelled = np.concatenate([[0, 5, 700], np.flatnonzero(of == 2)])
    found = ssdr.measure(prob, xyz, feat, labelled, of)
    np.testing.assert_array_equal(found.region, of)
    p = prob.astype(np.float64)
    ties = 0
    for region in range(of.max() + 1):
        rows = [n for n in range(900) if of[n] == region]
        guess = [min(c for c in range(3) if p[n][c] == max(p[n])) for n in rows]
        best = plain_majority(guess)
        ties += Counter(Counter(guess).values())[max(Counter(guess).values())] > 1
        assert found.majority[region] == best
        ratio = [sorted(p[n])[-2] / sorted(p[n])[-1] for n in rows]
        expected = sum(u if g == best else -u for u, g in zip(ratio, guess))
        np.testing.assert_allclose(found.value[region], expected, atol=1e-9)
        typical = [feat[n].astype(np.float64) for n, g in zip(rows, guess) if g == best]
        np.testing.assert_allclose(found.feature[region], sum(typical) / len(typical), atol=1e-6)
        spoken = [g for n, g in zip(rows, guess) if n in labelled]
        assert found.answered[region] == (plain_majority(spoken) if spoken else -1)
        assert found.unanswered[region] == len(set(rows) - set(labelled.tolist()))
        here = xyz[rows].astype(np.float64)
        np.testing.assert_allclose(found.centre[region], (here.min(axis=0) + here.max(axis=0)) / 2)
        cloud = found.cloud[found.start[region] : found.start[region + 1]] + found.centre[region]
        assert len(cloud) == min(len(rows), 64)
        assert {tuple(np.round(c, 4)) for c in cloud} <= {tuple(np.round(c, 4)) for c in here}
        if len(rows) <= 64:
            assert len({tuple(np.round(c, 4)) for c in cloud}) == len({tuple(np.round(c, 4)) for c in here})
    assert ties
    assert not found.has_unanswered[2]
    assert found.start[-1] == len(found.cloud)


def test_large_superpoints_keep_a_sample_of_all_their_rows() -> None:
    xyz = np.random.default_rng(0).random((1000, 3)) * 0.05 + 0.1
    prob, feat = said(1000, 0)
    found = ssdr.measure(prob, xyz, feat, np.zeros(0, np.int64), np.zeros(1000, np.int32))
    assert len(found.points) == 1
    assert found.cloud.shape == (64, 3)
    rows = [int(np.abs(xyz - (c + found.centre[0])).sum(axis=1).argmin()) for c in found.cloud]
    assert len(set(rows)) == 64
    assert rows == sorted(rows)
    assert rows[0] == 0
    assert rows[-1] > 950


def test_second_to_best() -> None:
    prob = np.array([[0.5, 0.5, 0], [0.6, 0.1, 0.3], [0, 1, 0]])
    np.testing.assert_allclose(ssdr.second_to_best(prob), [1, 0.5, 0])
    assert ssdr.second_to_best(np.ones((2, 1))).tolist() == [0, 0]


def made(seed: int, count: int, classes: int = 3, extent: float = 3.0) -> Superpoints:
    """A scene of `count` small superpoints, some closed, some answered in part."""
    rng = np.random.default_rng(seed)
    points = rng.integers(5, 30, count)
    unanswered = np.array([rng.choice([0, p - 2, p, p]) for p in points], np.int64).reshape(-1)
    answered = np.where(unanswered < points, rng.integers(classes, size=count), -1)
    start = np.append(0, np.cumsum(rng.integers(3, 8, count)))
    return Superpoints(
        region=np.repeat(np.arange(count, dtype=np.int32), points),
        points=points,
        unanswered=unanswered,
        value=rng.normal(3, 4, count),
        feature=rng.normal(0, 1, (count, 4)).astype(np.float32),
        majority=rng.integers(classes, size=count).astype(np.int32),
        answered=answered.astype(np.int32),
        centre=rng.random((count, 3)) * extent,
        start=start,
        cloud=rng.normal(0, 0.2, (start[-1], 3)).astype(np.float32),
    )


def plain_picks(scene: Superpoints, candidates: list[int], count: int) -> list[int]:
    """Farthest points of F = V + A V, A = (S - I) D^-1 + I."""
    k = len(candidates)
    cloud = [scene.cloud[scene.start[r] : scene.start[r + 1]].astype(np.float64) for r in candidates]
    s = np.zeros((k, k))
    for i, j in itertools.product(range(k), repeat=2):
        there = sum(min(math.dist(a, b) for b in cloud[j]) for a in cloud[i]) / len(cloud[i])
        back = sum(min(math.dist(a, b) for a in cloud[i]) for b in cloud[j]) / len(cloud[j])
        s[i, j] = math.exp(-(math.dist(scene.centre[candidates[i]], scene.centre[candidates[j]]) + there + back))
    rest = s - np.eye(k)
    inverse = np.diag([1 / d if d > 0 else 0 for d in rest.sum(axis=1)])
    a = rest @ inverse + np.eye(k)
    v = scene.feature[candidates].astype(np.float64)
    f = v + a @ v
    picks = [0]
    while len(picks) < count:
        left = [i for i in range(k) if i not in picks]
        picks.append(max(left, key=lambda i: (min(math.dist(f[i], f[j]) for j in picks), -i)))
    return [candidates[i] for i in picks]


def plain_ssdr(scenes: list[Superpoints], budget: int) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """The chosen regions and the others, each from the first to the last."""
    open_ = [(s, r) for s, scene in enumerate(scenes) for r in range(len(scene.points)) if scene.unanswered[r]]
    known = [scenes[s].majority[r] for s, r in open_]
    known += [c for scene in scenes for c in scene.answered if c >= 0]
    share = {c: n / len(known) for c, n in Counter(known).items()}
    score = {(s, r): scenes[s].value[r] * math.exp(-share[scenes[s].majority[r]]) for s, r in open_}
    ordered = sorted(open_, key=lambda place: -score[place])
    quota, spent = Counter(), 0
    for s, r in ordered:
        if spent >= budget:
            break
        spent += scenes[s].unanswered[r]
        quota[s] += 1
    chosen = []
    for s, n in quota.items():
        candidates = [r for t, r in ordered if t == s][: 2 * n]
        chosen += [(k / n, -score[s, r], (s, r)) for k, r in enumerate(plain_picks(scenes[s], candidates, n))]
    first = [place for *_, place in sorted(chosen)]
    return first, [place for place in ordered if place not in first]


@pytest.mark.parametrize("budget", [0, 1, 60, 150, 400, 10**9])
@pytest.mark.parametrize("seed", range(3))
def test_ssdr_rank_regions_is_the_formula(seed: int, budget: int) -> None:
    scenes = [made(seed, 14), made(seed + 10, 0), made(seed + 20, 23), made(seed + 30, 1)]
    scores = ssdr.rank_regions(scenes, budget_points=budget)
    chosen, others = plain_ssdr(scenes, budget)
    assert ranking(scores) == chosen + others
    flat = np.concatenate(scores)
    assert (flat > 0.5).sum() == len(chosen)
    assert (flat[np.concatenate([~s.has_unanswered for s in scenes])] == 0).all()
    assert flat.max() <= 1
    assert [len(s) for s in scores] == [14, 0, 23, 1]
    assert len(set(flat[flat > 0].astype(np.float32).tolist())) == (flat > 0).sum()
    # The order of step 1 alone would have chosen others.
    if budget == 150:
        assert set(ranking(ssdr.rank_regions(scenes, budget_points=0))[: len(chosen)]) != set(chosen)


def test_ssdr_similarity_over_more_clouds_than_a_block() -> None:
    scene = made(0, 150)
    found = ssdr.similarity(scene, np.arange(150))
    np.testing.assert_allclose(np.diag(found), 1)
    np.testing.assert_array_equal(found, found.T)
    for i, j in ((0, 1), (3, 149), (140, 60), (64, 65), (0, 64), (0, 65)):
        a, b = (scene.cloud[scene.start[r] : scene.start[r + 1]].astype(np.float64) for r in (i, j))
        gaps = np.array([[math.dist(p, q) for q in b] for p in a])
        chamfer = gaps.min(axis=1).mean() + gaps.min(axis=0).mean()
        expected = math.exp(-(math.dist(scene.centre[i], scene.centre[j]) + chamfer))
        np.testing.assert_allclose(found[i, j], expected, rtol=1e-9)


def test_ssdr_rank_regions_repeats_in_any_order_of_scenes() -> None:
    scenes = [made(1, 30), made(2, 40), made(3, 20)]
    scores = ssdr.rank_regions(scenes, budget_points=200)
    for one, two in zip(scores, ssdr.rank_regions(scenes, budget_points=200)):
        np.testing.assert_array_equal(one, two)
    turned = ssdr.rank_regions([scenes[1], scenes[2], scenes[0]], budget_points=200)
    for one, two in zip([scores[1], scores[2], scores[0]], turned):
        np.testing.assert_array_equal(one, two)


def test_ssdr_ties_zero_features_and_regions_that_are_far() -> None:
    """Nothing tells the regions apart and S underflows: the order of step 1 is left, no NaN and no region twice."""
    scene = made(0, 12)
    scene.value[:], scene.feature[:], scene.majority[:] = 1, 0, 0
    scene.unanswered[:] = scene.points
    scene.centre[:] = np.arange(12)[:, None] * 412.0
    scores = ssdr.rank_regions([scene], budget_points=int(scene.points[:5].sum()))
    assert ranking(scores) == [(0, r) for r in range(12)]
    assert (scores[0] > 0.5).sum() == 5


def test_no_scene_no_open_superpoint() -> None:
    assert ssdr.rank_regions([], budget_points=10) == []
    scene = made(0, 5)
    scene.unanswered[:] = 0
    assert ssdr.rank_regions([scene], budget_points=10)[0].tolist() == [0] * 5


# ---------------------------------------------------------------- both


def measured(strategy: ModuleType, xyz: np.ndarray, features: int = 6, labelled: int = 0) -> Regions:
    prob, feat = said(len(xyz), 8, features=features)
    rgb = () if strategy is ssdr else (np.zeros((len(xyz), 3), np.uint8),)
    found: Regions = strategy.measure(prob, xyz, *rgb, feat, np.arange(labelled), cells(xyz))
    return found


def test_shapes_are_in_metres() -> None:
    xyz, _ = room(1200, 8)
    prob, feat = said(1200, 8)
    of, none = cells(xyz), np.zeros(0, np.int64)
    metres = ssdr.measure(prob, xyz, feat, none, of)
    feet = ssdr.measure(prob, xyz.astype(np.float64) / FEET, feat, none, of, FEET)
    np.testing.assert_allclose(feet.centre, metres.centre, atol=1e-6)
    np.testing.assert_allclose(feet.cloud, metres.cloud, atol=1e-5)


@pytest.mark.parametrize("strategy", [redal, ssdr])
@pytest.mark.parametrize("count", [0, 1, 2])
def test_scenes_of_next_to_no_points(strategy: ModuleType, count: int) -> None:
    found = measured(strategy, np.arange(6).reshape(2, 3)[:count].astype(np.float32))
    assert found.points.tolist() == [1] * count
    assert np.isfinite(found.value).all()
    assert found.feature.shape == (count, 6)
    budget = {"budget_points": 1} if strategy is ssdr else {}
    scores = strategy.rank_regions([found], **budget)
    assert scores[0].shape == (count,)
    assert (scores[0] > 0).all()


@pytest.mark.parametrize("strategy", [redal, ssdr])
def test_measure_repeats_and_pickles_small(strategy: ModuleType) -> None:
    xyz, _ = room(5000, 9)
    found = measured(strategy, xyz, features=96, labelled=20)
    data = pickle.dumps(found)
    assert len(data) < 5000 * 96 * 2 / 2
    again = measured(strategy, xyz, features=96, labelled=20)
    for name, value in vars(pickle.loads(data)).items():
        np.testing.assert_array_equal(value, getattr(again, name), err_msg=name)


# ---------------------------------------------------------------- answers


def asked(*groups: tuple[int, int, int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(region, guess, truth, how often) -> the three columns."""
    rows = [(r, g, t) for r, g, t, times in groups for _ in range(times)]
    return tuple(np.array(column, np.int64) for column in zip(*rows))


@pytest.mark.parametrize(
    ("groups", "label", "clicks"),
    [
        # 9 of 10 are pure enough, also for the tenth; what was predicted does not matter.
        ([(0, 0, 4, 5), (0, 1, 4, 4), (0, 1, 3, 1)], [4] * 10, 1),
        # 8 of 9 are not: the part of 1 has 5 points, the other 4, both too small.
        ([(0, 0, 4, 4), (0, 1, 4, 4), (0, 1, 3, 1)], [None] * 9, 1),
        # Parts of 6: pure, mixed, pure by nine tenths of ten.
        (
            [(0, 0, 4, 6), (0, 1, 2, 3), (0, 1, 3, 3), (0, 2, 1, 9), (0, 2, 0, 1)],
            [4] * 6 + [None] * 6 + [1] * 10,
            3,
        ),
        # Exactly 5 points are too few, however pure.
        ([(0, 0, 4, 5), (0, 1, 3, 6)], [None] * 5 + [3] * 6, 2),
        # Ignored truth is a class of its own: it makes a region pure, and mixed.
        ([(0, 0, -1, 10)], [-1] * 10, 1),
        ([(0, 0, -1, 5), (0, 0, 2, 5)], [None] * 10, 1),
        ([(0, 0, -1, 6), (0, 1, 2, 6)], [-1] * 6 + [2] * 6, 3),
        # Regions are for themselves: the same classes in two of them do not mix, numbers may be any.
        ([(7, 0, 1, 3), (-2, 0, 2, 3)], [1] * 3 + [2] * 3, 2),
        ([(7, 0, 1, 6), (7, 1, 2, 6), (9, 0, 5, 1)], [1] * 6 + [2] * 6 + [5], 4),
        (
            [(7, 0, 1, 6), (7, 1, 2, 6), (9, 0, 3, 6), (9, 1, 4, 6)],
            [1] * 6 + [2] * 6 + [3] * 6 + [4] * 6,
            6,
        ),
    ],
)
def test_ssdr_purity(groups: list, label: list, clicks: int) -> None:
    columns = asked(*groups)
    mixed = np.random.default_rng(0).permutation(len(label))
    found = answer_superpoints(*(c[mixed] for c in columns))
    expected = [label[n] for n in mixed]
    assert found.clicks == clicks
    assert found.mask.tolist() == [x is not None for x in expected]
    assert found.label.tolist() == [-1 if x is None else x for x in expected]
    assert found.label.dtype == np.int32


def test_nothing_asked_nothing_clicked() -> None:
    none = np.zeros(0, np.int64)
    found = answer_superpoints(none, none, none)
    assert found.clicks == 0
    assert len(found.mask) == len(found.label) == 0
