"""What every strategy of `hpal score` promises, one test for all of them; and the parts of a job array."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import zarr
from conftest import MadeScene, softmax, synthetic_predictions
from reference_implementations import compare

from hpal_cli.budget import Budget
from hpal_cli.errors import HpalError, UsageError
from hpal_cli.export.selection import write_context
from hpal_cli.label.regions import by_regions
from hpal_cli.predictions.probabilities import bad_rows
from hpal_cli.predictions.store import PredictionStore
from hpal_cli.progress import Silent
from hpal_cli.score.hmmu import Hierarchy, hmmu, missing
from hpal_cli.score.scorer import REGIONAL, ScoreSettings, Strategy, score
from hpal_cli.selection.fds import Suppression
from hpal_cli.selection.selector import Selection, select
from hpal_cli.shard import Shard
from hpal_cli.stream.points import PointReader, write_points

# `diverse` looks at scenes and not at predictions: tests/test_score_superpoints.py.
PLANS = [
    *(ScoreSettings(strategy) for strategy in Strategy if strategy is not Strategy.DIVERSE),
    ScoreSettings(hierarchy=Hierarchy(nested=True)),
    ScoreSettings(Strategy.SSDR, budget=Budget.parse("20/scene")),
]
ON_PROBABILITIES = [plan for plan in PLANS if plan.strategy is not Strategy.RANDOM]
DENSE = (0.0, 0.0, 0.0)


def named(plan: ScoreSettings) -> str:
    return f"{plan.strategy}{' nested' if plan.hierarchy.nested else ''} {plan.budget.amount}"


def synthetic_rooms() -> list[MadeScene]:
    """Two rooms, a scene of one point, one where all is labelled, and one far from the origin."""
    rng = np.random.default_rng(7)
    rooms = []
    for name, points, labelled, offset in (
        ("a", 900, [3, 4, 500], DENSE),
        ("b/1", 400, [], DENSE),
        ("b/2", 1, [], DENSE),
        ("c", 6, list(range(6)), DENSE),
        ("d", 300, [299], (900_000.0, 6_700_000.0, 0.0)),
    ):
        xyz = rng.uniform(0, 2.5, (points, 3))
        feat = np.abs(rng.normal(0, 1, (points, 6)))
        feat[: points // 10] = 0
        rooms.append(MadeScene(name, xyz, feat, labelled, offset, softmax(rng.normal(0, 2, (points, 3)))))
    return rooms


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthetic_predictions(tmp_path_factory.mktemp("strategies") / "p.zarr", synthetic_rooms())


def scored(path: Path, plan: ScoreSettings, **options: object) -> bytes:
    out = io.BytesIO()
    score(path, lambda _: out, plan, **options)  # type: ignore[arg-type]
    return out.getvalue()


def rows_of(data: bytes) -> np.ndarray:
    return PointReader(io.BytesIO(data), "test").read()


@pytest.mark.parametrize("plan", PLANS, ids=named)
def test_conformance(store: Path, plan: ScoreSettings) -> None:
    """Every unlabelled point once, in order, no labelled one, scores in [0, 1], the same bytes for any jobs."""
    data = scored(store, plan)
    rows = rows_of(data)
    expected = [
        (number, n)
        for number, room in enumerate(synthetic_rooms())
        for n in range(len(room.xyz))
        if n not in room.labelled
    ]
    assert list(zip(rows["scene"].tolist(), rows["index"].tolist())) == expected
    assert rows["score"].min() >= 0
    assert rows["score"].max() <= 1
    assert len(np.unique(rows["score"])) > (5 if plan.strategy in REGIONAL else 800)
    assert data == scored(store, plan)
    assert data == scored(store, plan, jobs=2)


@pytest.mark.parametrize("plan", PLANS, ids=named)
def test_a_scene_does_not_depend_on_its_place_in_the_store(store: Path, plan: ScoreSettings) -> None:
    """What is scored alone has the rank it has among others: wholly, where a strategy looks at one scene at a time."""
    every = rows_of(scored(store, plan))
    alone = rows_of(scored(store, plan, scenes=["d"]))
    among = every[every["scene"] == 4]
    if plan.strategy in REGIONAL:
        np.testing.assert_array_equal(alone["region"], among["region"])
    else:
        np.testing.assert_array_equal(alone, among)


@pytest.mark.parametrize("plan", ON_PROBABILITIES, ids=named)
def test_larger_is_asked_first(tmp_path: Path, plan: ScoreSettings) -> None:
    """One corner of a room torn between two classes, the rest sure: the corner is chosen."""
    rng = np.random.default_rng(2)
    # Two clumps that no voxel and no region joins.
    xyz = np.concatenate([rng.uniform(0, 0.3, (40, 3)), rng.uniform(0, 0.3, (160, 3)) + 5])
    torn, sure = [0.49, 0.48, 0.03], [0.96, 0.02, 0.02]
    prob = np.array([torn] * 40 + [sure] * 160)
    made = MadeScene("s", xyz, np.abs(rng.normal(0, 1, (200, 4))), prob=prob)
    rows = rows_of(scored(synthetic_predictions(tmp_path / "p.zarr", [made]), plan))
    assert rows["score"][:40].min() > rows["score"][40:].max()


@pytest.mark.parametrize("plan", ON_PROBABILITIES, ids=named)
@pytest.mark.parametrize("bad", [np.nan, -0.25, 2.0])
def test_no_probabilities_no_scores(tmp_path: Path, plan: ScoreSettings, bad: float) -> None:
    rooms = synthetic_rooms()
    prob = rooms[1].prob
    assert prob is not None
    prob[[7, 9], 1] = bad
    path = synthetic_predictions(tmp_path / "p.zarr", rooms)
    with pytest.raises(HpalError, match=r"scene b/1: 2 rows of prob .*row 7"):
        scored(path, plan)


@pytest.mark.parametrize("strategy", REGIONAL)
def test_regions_need_features(tmp_path: Path, strategy: Strategy) -> None:
    made = MadeScene("s", np.random.default_rng(0).random((30, 3)), np.zeros((30, 0)))
    with pytest.raises(HpalError, match="scene s has no features"):
        scored(synthetic_predictions(tmp_path / "p.zarr", [made]), ScoreSettings(strategy))


# ---------------------------------------------------------------- whole regions


def selected(data: bytes, budget: str, store: Path | None, **options: object) -> Selection:
    predictions = None if store is None else PredictionStore(store)
    reader = PointReader(io.BytesIO(data), "test")
    return select([reader], budget=Budget.parse(budget), suppression=None, predictions=predictions, **options)  # type: ignore[arg-type]


def best_regions(rows: np.ndarray, budget: int) -> list[tuple[int, int]]:
    """One region after the other, the best first, whole, until there are enough points."""
    regions: dict[tuple[int, int], list] = {}
    for row in rows:
        regions.setdefault((int(row["scene"]), int(row["region"])), []).append(row)
    picks: list[tuple[int, int]] = []
    for key in sorted(regions, key=lambda k: (-float(regions[k][0]["score"]), k)):
        if len(picks) >= budget:
            break
        picks += sorted((key[0], int(row["index"])) for row in regions[key])
    return picks


@pytest.mark.parametrize("strategy", REGIONAL)
@pytest.mark.parametrize("budget", [1, 60, 400, 10_000])
def test_regions_are_taken_whole(store: Path, strategy: Strategy, budget: int) -> None:
    data = scored(store, ScoreSettings(strategy))
    rows = rows_of(data)
    found = selected(data, str(budget), store)
    picks = list(zip(found.rows["scene"].tolist(), found.rows["index"].tolist()))
    assert picks == best_regions(rows, budget)
    assert found.rows["rank"].tolist() == list(range(1, len(picks) + 1))
    assert found.exhausted == (budget == 10_000)
    if budget == 400:
        assert len(np.unique(found.rows[["scene", "region"]])) > 2
    # The same from the scenes the other way round, as a foreign program may send them.
    reader = PointReader(io.BytesIO(data), "test")
    turned = io.BytesIO()
    parts = [rows[rows["scene"] == n] for n in np.unique(rows["scene"])[::-1]]
    write_points(turned, reader.header, np.concatenate(parts))
    assert selected(turned.getvalue(), str(budget), store).rows.tobytes() == found.rows.tobytes()


def test_regions_of_each_scene(store: Path) -> None:
    data = scored(store, ScoreSettings(Strategy.REDAL))
    rows = rows_of(data)
    found = selected(data, "50/scene", store)
    expected = {pick for n in np.unique(rows["scene"]) for pick in best_regions(rows[rows["scene"] == n], 50)}
    assert set(zip(found.rows["scene"].tolist(), found.rows["index"].tolist())) == expected


def test_a_region_has_one_score(store: Path) -> None:
    data = scored(store, ScoreSettings(Strategy.REDAL))
    rows = rows_of(data)
    rows["score"][0] = 0.123
    torn = io.BytesIO()
    write_points(torn, PointReader(io.BytesIO(data), "test").header, rows)
    with pytest.raises(HpalError, match="points of a region have different scores"):
        selected(torn.getvalue(), "20", store)


def test_fds_does_not_go_with_regions(store: Path) -> None:
    reader = PointReader(io.BytesIO(scored(store, ScoreSettings(Strategy.SSDR))), "test")
    with pytest.raises(HpalError, match=r"regions.*--no-fds"):
        select(
            [reader],
            budget=Budget.parse("20"),
            suppression=Suppression(),
            predictions=PredictionStore(store),
        )


def test_regions_are_not_cut_at_a_number_a_scene(store: Path) -> None:
    with pytest.raises(HpalError, match=r"selected whole.*--max-per-scene"):
        selected(scored(store, ScoreSettings(Strategy.REDAL)), "20", store, max_per_scene=3)


def test_regions_of_ssdr_are_answered_by_the_click(store: Path) -> None:
    """Two scenes have a region 0 each: they are two regions."""
    rows = selected(scored(store, ScoreSettings(Strategy.SSDR)), "100000", store).rows
    truth = rows["scene"] % 3
    found = by_regions(rows, truth, "ssdr")
    assert found is not None
    assert found.mask.all()
    np.testing.assert_array_equal(found.label, truth)
    assert found.clicks == len(np.unique(rows[["scene", "region"]]))
    assert by_regions(rows, truth, "redal") is None
    assert by_regions(rows, truth, str(ScoreSettings(Strategy.SSDR))) is not None
    with pytest.raises(HpalError, match="no property"):
        by_regions(rows[["scene", "index"]], truth, "ssdr")


# ---------------------------------------------------------------- parts of a job array

POINT_PLANS = [plan for plan in PLANS if plan.strategy not in REGIONAL]


@pytest.mark.parametrize("plan", POINT_PLANS, ids=named)
@pytest.mark.parametrize("parts", [2, 3, 7])
def test_parts_are_selected_from_as_one(store: Path, plan: ScoreSettings, parts: int) -> None:
    """Also with more parts than scenes: the last ones are empty."""
    pieces = [scored(store, plan, shard=Shard(n + 1, parts)) for n in range(parts)]

    def selection(streams: list[bytes], suppression: Suppression | None) -> Selection:
        readers = [PointReader(io.BytesIO(data), f"part {n}") for n, data in enumerate(streams)]
        predictions = PredictionStore(store)
        return select(readers, budget=Budget.parse("3%"), suppression=suppression, predictions=predictions)

    for suppression in (None, Suppression(0.5, 0.5)):
        one = selection([scored(store, plan)], suppression)
        assert len(one.rows) == 48
        for order in (pieces, pieces[::-1]):
            merged = selection(order, suppression)
            assert merged.rows.tobytes() == one.rows.tobytes()
            assert merged.header == one.header
            assert merged.scenes == one.scenes
            assert merged.classes == one.classes


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([(2, 3)], "one of 3 parts; here is 2; give the scores of all 3"),
        ([(1, 3), (3, 3)], "one of 3 parts; here are 1, 3"),
        ([(1, 2), (1, 2)], "here are 1, 1"),
        ([(1, 2), (2, 3)], "is one of"),
        ([(1, 2), None], "is one of 2 parts"),
    ],
)
def test_a_missing_part_is_noticed(store: Path, parts: list, message: str) -> None:
    pieces = [scored(store, ScoreSettings(), shard=None if part is None else Shard(*part)) for part in parts]
    readers = [PointReader(io.BytesIO(piece), f"part {n}") for n, piece in enumerate(pieces)]
    with pytest.raises(HpalError, match=message):
        select(readers, budget=Budget.parse("10"), suppression=None)


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (ScoreSettings(), ScoreSettings(hierarchy=Hierarchy((0.1, 0.5, 1.0), (0.1, 0.01, 0.002))), "strategy differs"),
        (ScoreSettings(), ScoreSettings(hierarchy=Hierarchy((0.1, 0.5), (0.1, 0.01))), "strategy differs"),
        (ScoreSettings(), ScoreSettings(hierarchy=Hierarchy(nested=True)), "strategy differs"),
        (ScoreSettings(Strategy.RANDOM), ScoreSettings(Strategy.RANDOM, seed=1), "strategy differs"),
    ],
)
def test_parts_of_other_settings(store: Path, first: ScoreSettings, second: ScoreSettings, message: str) -> None:
    pieces = [scored(store, first, shard=Shard(1, 2)), scored(store, second, shard=Shard(2, 2))]
    readers = [PointReader(io.BytesIO(piece), "test") for piece in pieces]
    with pytest.raises(HpalError, match=message):
        select(readers, budget=Budget.parse("10"), suppression=None)


def test_parts_of_other_pools(store: Path) -> None:
    pieces = [
        scored(store, ScoreSettings(), shard=Shard(1, 2)),
        scored(store, ScoreSettings(), shard=Shard(2, 2), scenes=["a", "b/1"]),
    ]
    readers = [PointReader(io.BytesIO(piece), "test") for piece in pieces]
    with pytest.raises(HpalError, match="parts of 3 and 1 scenes"):
        select(readers, budget=Budget.parse("10"), suppression=None)


def test_streams_that_do_not_belong_together(store: Path, predictions: Path) -> None:
    one = scored(store, ScoreSettings(), scenes=["a"])
    for other, message in (
        (scored(store, ScoreSettings(Strategy.MMU), scenes=["d"]), "its strategy differs"),
        (scored(predictions, ScoreSettings()), "its scenes differs|its source differs"),
        (scored(store, ScoreSettings(), scenes=["a", "d"]), "scene a comes in two streams"),
    ):
        readers = [PointReader(io.BytesIO(data), "test") for data in (one, other)]
        with pytest.raises(HpalError, match=message):
            select(readers, budget=Budget.parse("10"), suppression=None)
    readers = [PointReader(io.BytesIO(data), "test") for data in (one, scored(store, ScoreSettings(), scenes=["d"]))]
    assert len(select(readers, budget=Budget.parse("10"), suppression=None).rows) == 10


@pytest.mark.parametrize("strategy", REGIONAL)
def test_regions_are_compared_in_one_run(store: Path, strategy: Strategy) -> None:
    with pytest.raises(UsageError, match="--shard"):
        scored(store, ScoreSettings(strategy), shard=Shard(1, 2))


@pytest.mark.parametrize("text", ["0/4", "5/4", "1", "a/b", "1/0", "-1/4", "1/4/5", ""])
def test_what_is_no_part(text: str) -> None:
    with pytest.raises(UsageError, match="--shard"):
        Shard.parse(text)


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        ((), (1, 1)),
        (("3", None, None, None), (1, 1)),
        (("0", "4", None, None), (1, 4)),
        (("3", "4", "0", "1"), (4, 4)),
        (("1", "4", "1", "1"), (1, 4)),
        (("4", "4", "1", "1"), (4, 4)),
        (("12", "3", "10", "2"), (2, 3)),
        (("4", "4", "0", "1"), None),
        (("11", "3", "10", "2"), None),
        (("x", "4", None, None), None),
    ],
)
def test_task_of_a_slurm_array(numbers: tuple, expected: tuple | None) -> None:
    names = ("ID", "COUNT", "MIN", "STEP")
    environment = {f"SLURM_ARRAY_TASK_{n}": v for n, v in zip(names, numbers) if v is not None}
    if expected is None:
        with pytest.raises(UsageError, match="--shard"):
            Shard.from_array_task(environment)
    else:
        assert Shard.from_array_task(environment) == Shard(*expected)


# ---------------------------------------------------------------- to look at


def test_context_of_the_picks(store: Path, tmp_path: Path) -> None:
    import plyfile

    found = selected(scored(store, ScoreSettings()), "30", store)
    assert write_context(found, PredictionStore(store), tmp_path, radius=0.2) == len(np.unique(found.rows["scene"]))
    room = plyfile.PlyData.read(str(tmp_path / "a.ply"))["vertex"].data
    assert len(room) == 900
    here = found.rows[found.rows["scene"] == 0]
    np.testing.assert_array_equal(room["scalar_rank"][here["index"]], here["rank"])
    assert (room["scalar_rank"] > 0).sum() == len(here)
    assert (tmp_path / "a.png").read_bytes()[:4] == b"\x89PNG"
    assert not (tmp_path / "c.ply").exists()
    with pytest.raises(HpalError, match="exists already"):
        write_context(found, PredictionStore(store), tmp_path)
    write_context(found, PredictionStore(store), tmp_path, overwrite=True)


def test_score_writes_each_room_coloured(store: Path, tmp_path: Path) -> None:
    import plyfile

    data = scored(store, ScoreSettings(), ply=tmp_path)
    rows = rows_of(data)
    room = plyfile.PlyData.read(str(tmp_path / "a.ply"))["vertex"].data
    assert len(room) == 900
    here = rows[rows["scene"] == 0]
    np.testing.assert_allclose(room["scalar_score"][here["index"]], here["score"], atol=1e-7)
    shares = [room[f"scalar_share_{name}"] for name in ("point", "10cm", "50cm", "1m")]
    np.testing.assert_allclose(sum(shares), room["scalar_score"], atol=1e-6)
    with pytest.raises(HpalError, match="exists already"):
        scored(store, ScoreSettings(), ply=tmp_path)
    assert scored(store, ScoreSettings(), ply=tmp_path, overwrite=True, jobs=2) == data
    scored(store, ScoreSettings(Strategy.ENTROPY), ply=tmp_path, overwrite=True)


def test_a_level_given_twice_has_two_shares(store: Path, tmp_path: Path) -> None:
    import plyfile

    scored(store, ScoreSettings(hierarchy=Hierarchy((0.1, 0.1), (0.3, 0.2))), ply=tmp_path)
    room = plyfile.PlyData.read(str(tmp_path / "a.ply"))["vertex"].data
    shares = [room[name] for name in room.dtype.names if name.startswith("scalar_share_")]
    assert len(shares) == 3
    np.testing.assert_allclose(sum(shares), room["scalar_score"], atol=1e-6)


def test_rooms_of_a_run_that_failed_are_not_left(tmp_path: Path) -> None:
    rooms = synthetic_rooms()
    assert rooms[4].prob is not None
    rooms[4].prob[5] = np.nan
    path = synthetic_predictions(tmp_path / "p.zarr", rooms)
    (tmp_path / "u").mkdir()
    (tmp_path / "u" / "a.ply").write_text("mine")
    with pytest.raises(HpalError, match="exists already"):
        scored(path, ScoreSettings(), ply=tmp_path / "u")
    with pytest.raises(HpalError, match="scene d: 1 rows"):
        scored(path, ScoreSettings(), ply=tmp_path / "u", overwrite=True)
    assert [p.name for p in (tmp_path / "u").rglob("*") if p.is_file()] == ["a.ply"]


def test_other_number_types_are_scored_alike(tmp_path: Path) -> None:
    """float32 probabilities are taken too, and it is said that this is the slow way."""
    rooms = synthetic_rooms()[:2]
    path = synthetic_predictions(tmp_path / "p.zarr", rooms)
    root = zarr.open_group(str(path), mode="r+")
    exact = {}
    for room in rooms:
        half = root[f"scenes/{room.name}/prob"][...]  # type: ignore[index]
        exact[room.name] = half
        del root[f"scenes/{room.name}/prob"]
        root.create_array(f"scenes/{room.name}/prob", data=half.astype(np.float32))
    said: list[str] = []

    class Noted(Silent):
        def note(self, text: str) -> None:
            said.append(text)

    rows = rows_of(scored(path, ScoreSettings(), monitor=Noted()))
    for number, room in enumerate(rooms):
        here = rows[rows["scene"] == number]
        np.testing.assert_allclose(
            here["score"], hmmu(exact[room.name], room.xyz.astype("f4"))[here["index"]], atol=1e-6
        )
    if missing() is None:
        assert len(said) == 1
        assert "float32 probabilities" in said[0]


@pytest.mark.parametrize(("budget", "radius", "tau"), [(200, 0.6, 0.9), (100_000, 0.6, 0.9)])
def test_scores_and_picks_of_made_rooms_are_the_equations(
    predictions: Path, budget: int, radius: float, tau: float
) -> None:
    names = sorted(s.name for s in PredictionStore(predictions).table)
    suppressed = compare(predictions, names, budget, radius, tau)
    assert suppressed > (1000 if budget == 100_000 else 5)


def test_bad_rows_are_the_same_with_and_without_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also at the borders: sums a step of float16 within and beyond 0.02, -0, a single class, the very last row."""
    for classes in (1, 2, 13, 16, 17):
        prob = np.zeros((60, classes), np.float16)
        prob[:, 0] = 1
        steps = np.arange(-24, 25)
        prob[5:54, 0] = 1 + steps * np.where(steps < 0, 2.0**-11, 2.0**-10)
        prob[0, -1] = np.nan
        prob[1, -1] = -np.inf
        prob[2, 0] = -1
        prob[3, :] *= -0.0
        prob[59, -1] = 3
        if classes > 1:
            prob[4, 1:] = -0.0
        found = [bad_rows(prob), bad_rows(prob[4:5]), bad_rows(prob[::2]), bad_rows(prob[:0])]
        with monkeypatch.context() as context:
            context.setattr("hpal_cli.predictions.probabilities._library", lambda: "not here")
            assert found == [bad_rows(prob), bad_rows(prob[4:5]), bad_rows(prob[::2]), bad_rows(prob[:0])]
        plain = [not ((row >= 0).all() and abs(float(row.astype(np.float64).sum()) - 1) < 0.02) for row in prob]
        assert found[0] == (sum(plain), plain.index(True))
        assert 6 < sum(plain) < 40
