"""The first stages on real S3DIS rooms, where they are at hand (HPAL_TEST_DATA, or `shared/data` beside the clone)."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from conftest import fake_predictions
from reference_implementations import compare

from hpal_cli.scenes.prepare import prepare
from hpal_cli.scenes.store import SceneStore

DATA = Path(os.environ.get("HPAL_TEST_DATA", Path(__file__).parents[2] / "shared" / "data")) / "s3dis"

pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason=f"no S3DIS rooms at {DATA} (it may not be passed on)")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> SceneStore:
    path = tmp_path_factory.mktemp("s3dis") / "scenes.zarr"
    prepare(DATA, path, val=(DATA / "val_rooms.txt").read_text().split())
    return SceneStore(path)


def test_every_room_and_every_line_is_there(store: SceneStore) -> None:
    assert len(store.table) == 28
    assert {s.name for s in store.table.choose("val")} == set((DATA / "val_rooms.txt").read_text().split())
    for scene in store.table.choose("val"):
        lines = sum(p.read_bytes().count(b"\n") for p in (DATA / scene.name / "Annotations").glob("*.txt"))
        assert abs(scene.original - lines) <= len(list((DATA / scene.name / "Annotations").glob("*.txt")))


def test_the_grid_stands_for_the_room(store: SceneStore) -> None:
    scene = store.table.by_name["Area_6/office_3"]
    points = store.points(scene, label=True)
    original, inverse = store.original(scene, label=True)
    assert points.label is not None
    assert original.label is not None
    # An original point lies in its grid point's cell, so within a cell's diagonal of it.
    distance = np.linalg.norm(original.xyz - points.xyz[inverse], axis=1)
    assert distance.max() < 0.04 * np.sqrt(3)
    assert (points.label[inverse] == original.label).mean() > 0.97
    assert original.position.min(axis=0) == pytest.approx(np.floor(original.position.min(axis=0)), abs=1)


@pytest.mark.parametrize(("budget", "radius", "tau"), [(300, 0.2, 0.8), (1500, 0.4, 0.5)])
def test_scores_and_picks_are_the_equations(
    store: SceneStore, tmp_path: Path, budget: int, radius: float, tau: float
) -> None:
    """HMMU within 1e-6 of a reading point by point, FDS the picks of a reading candidate by candidate."""
    predictions = fake_predictions(store.path, tmp_path / "p.zarr", seed=budget, features=96)
    names = sorted(["Area_6/copyRoom_1", "Area_6/office_5", "Area_6/hallway_3", "Area_6/pantry_1"])
    assert compare(predictions, names, budget, radius, tau) > 20
