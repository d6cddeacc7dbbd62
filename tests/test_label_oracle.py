"""An oracle that errs, and what its answers cost."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import Done

from hpal_cli.errors import UsageError
from hpal_cli.label.cost import Cost
from hpal_cli.label.oracle import parse_noise, with_noise
from hpal_cli.label.regions import answer_superpoints
from hpal_cli.labels.store import ANSWER, LabelStore
from hpal_cli.scenes.store import SceneStore

Hpal = Callable[..., Done]

COUNT = 60_000


@pytest.fixture(scope="module")
def points() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(label, scene, index) of many points."""
    rng = np.random.default_rng(0)
    return (
        rng.integers(-1, 5, COUNT).astype(np.int32),
        np.repeat(np.arange(6), COUNT // 6),
        np.tile(np.arange(COUNT // 6), 6),
    )


def noisy(points: tuple[np.ndarray, np.ndarray, np.ndarray], share: float = 0.05, seed: int = 0) -> np.ndarray:
    return with_noise(*points, share=share, classes=5, seed=seed)


def test_noise_flips_its_share_to_any_other_class(points: tuple[np.ndarray, ...]) -> None:
    label = points[0]
    found = noisy(points)
    wrong = found != label
    known = label >= 0
    assert not wrong[~known].any(), "unsure stays unsure"
    assert wrong[known].mean() == pytest.approx(0.05, abs=0.005)
    step = (found[wrong] - label[wrong]) % 5
    assert np.bincount(step, minlength=5)[1:] / wrong.sum() == pytest.approx(0.25, abs=0.04)
    assert found.min() >= -1
    assert found.max() == 4
    for scene in range(6):
        here = known & (points[1] == scene)
        assert wrong[here].mean() == pytest.approx(0.05, abs=0.01), "in every scene as often"
    by_scene = wrong.reshape(6, -1)
    assert (by_scene[0] & by_scene[1]).mean() < 0.01, "but not for the same rows"


def test_noise_depends_on_the_point_and_the_seed_alone(points: tuple[np.ndarray, ...]) -> None:
    every = noisy(points)
    some = np.random.default_rng(1).permutation(COUNT)[:500]
    np.testing.assert_array_equal(noisy(tuple(column[some] for column in points)), every[some])
    assert (noisy(points, seed=1) != every).mean() > 0.05
    np.testing.assert_array_equal(noisy(points, share=0), points[0])
    # More noise keeps what was wrong with less.
    wrong = every != points[0]
    assert (noisy(points, share=0.2)[wrong] == every[wrong]).all()
    assert (noisy(points, share=1)[points[0] >= 0] != points[0][points[0] >= 0]).all()


def test_shares() -> None:
    assert parse_noise("5%") == parse_noise("0.05") == parse_noise(" 5 %".replace(" %", "%")) == 0.05
    assert parse_noise("0") == 0
    for text in ("5", "-1%", "101%", "nan", "much", ""):
        with pytest.raises(UsageError, match="no share"):
            parse_noise(text)
    with pytest.raises(UsageError, match="another class"):
        with_noise(*(np.zeros(1, np.int32),) * 3, share=0.1, classes=1, seed=0)


def test_a_click_speaks_with_one_voice() -> None:
    region = np.array([0] * 10 + [1] * 14)
    guess = np.array([0] * 10 + [0] * 6 + [1] * 8)
    truth = np.array([2] * 10 + [3] * 6 + [4] * 8)
    found = answer_superpoints(region, guess, truth)
    assert found.clicks == 4
    index = np.arange(24)[::-1]
    assert index[found.representative(index)].tolist() == [14] * 10 + [8] * 6 + [0] * 8


def test_cost_counts_cells_once() -> None:
    rows = np.zeros(4, ANSWER)
    rows["index"], rows["label"] = [1, 1, 2, 3], [0, 2, 1, -1]
    cost = Cost.from_answers(rows, 3, 0.1)
    assert (cost.clicks, cost.points) == (3, 2)
    assert cost.area == pytest.approx(0.02)
    assert str(cost) == "cost: 3 clicks, 2 points labelled, 0.02 m2"
    assert "area unknown" in str(Cost.from_answers(rows, 1, None))


def test_a_noisy_oracle_says_so(scenes: Path, tmp_path: Path, hpal: Hpal) -> None:
    picked = hpal(
        "select", "--budget", "200", "--no-fds", "-q", stdin=hpal("score", scenes, "--strategy", "random").out
    ).out
    call = ("label", "--oracle", scenes, "--noise", "10%", "--seed", "3", "--cost")
    done = hpal(*call, "-o", "l.zarr", stdin=picked, cwd=tmp_path)
    assert done.rc == 0, done.err
    labels, store = LabelStore(tmp_path / "l.zarr"), SceneStore(scenes)
    (batch,) = labels.batches()
    assert batch.source == f"oracle {scenes}, noise 10%"
    assert batch.entry.seed == 3
    truth = np.array([store.labels(store.table[int(r["scene"])])[r["index"]] for r in batch.rows])  # type: ignore[index]
    wrong = int((truth != batch.rows["label"]).sum())
    assert 8 < wrong < 36
    assert f"{wrong} answers made wrong on purpose" in done.err
    sure = int((batch.rows["label"] >= 0).sum())
    area = re.search(r"cost: 200 clicks, (\d+) points labelled, ([\d.]+) m2", done.err)
    assert area is not None
    assert int(area[1]) == sure
    assert float(area[2]) == pytest.approx(sure * 0.15**2, rel=1e-3)
    # The same, whatever else is asked along with it.
    few = hpal(
        "select", "--budget", "20", "--no-fds", "-q", stdin=hpal("score", scenes, "--strategy", "random").out
    ).out
    assert hpal(*call, "-o", "few.zarr", stdin=few, cwd=tmp_path).rc == 0
    known = {(int(r["scene"]), int(r["index"])): int(r["label"]) for r in batch.rows}
    rows = LabelStore(tmp_path / "few.zarr").latest()
    assert len(rows) == 20
    assert all(known[int(r["scene"]), int(r["index"])] == r["label"] for r in rows)
    for wrong_call in (("--table", "q.csv", "--noise", "5%"), ("--oracle", scenes, "--noise", "5")):
        assert hpal("label", *wrong_call, "-o", "x.zarr", stdin=picked, cwd=tmp_path).rc == 2
