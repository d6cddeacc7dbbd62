"""Numbers that viewers round are noticed where they would become another point's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import fake_predictions

from hpal_cli.classes import ClassTable
from hpal_cli.errors import HpalError
from hpal_cli.label.answers import import_answers
from hpal_cli.label.oracle import answer
from hpal_cli.label.rounding import looks_rounded
from hpal_cli.scenes.prepare import prepare
from hpal_cli.scenes.store import SceneStore

COUNT = 1_100_000


def test_only_rounded_numbers_of_other_points_are_told() -> None:
    rng = np.random.default_rng(0)
    index = np.array([12, 1_234_567, 1_345_678, 20_000_001, 999_999])
    known = rng.random((5, 3)) * 50
    shift = np.array([1000.0, -5.0, 3.0])
    assert not looks_rounded(index, known, known, 0.02).any()
    assert not looks_rounded(index, known + shift, known, 0.02).any()
    assert not looks_rounded(index[:2], rng.random((2, 3)) * 50, known[:2], 0.02).any()
    text = np.array([12, 1_234_570, 1_345_680, 20_000_000, 999_999])
    elsewhere = known + rng.random((5, 3))
    elsewhere[[0, 4]] = known[[0, 4]]
    assert looks_rounded(text, elsewhere + shift, known + 0, 0.02).tolist() == [False, True, True, True, False]
    assert not looks_rounded(text, known + shift, known, 0.02).any()
    assert not looks_rounded(text, np.full((5, 3), np.nan), known, 0.02).any()
    floats = np.array([2**24 + 2, 5])
    assert looks_rounded(floats, known[:2] + np.array([[3, 0, 0], [0, 0, 0]]), known[:2], 0.02)[0]


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> SceneStore:
    """One scene with more points than six digits can number."""
    folder = tmp_path_factory.mktemp("large")
    side = np.arange(1050)
    x, y = np.meshgrid(side, side)
    xyz = np.column_stack([x.reshape(-1) * 0.05, y.reshape(-1) * 0.05, np.zeros(len(side) ** 2)])[:COUNT]
    np.save(folder / "a.npy", np.column_stack([xyz, np.zeros((len(xyz), 3)), np.arange(len(xyz)) % 2]))
    prepare(folder / "a.npy", folder / "s.zarr", grid=None, classes=ClassTable.from_names(["a", "b"]))
    fake_predictions(folder / "s.zarr", folder / "p.zarr", features=None)
    return SceneStore(folder / "s.zarr")


def test_an_ascii_cloud_with_six_digits_is_refused(large: SceneStore, tmp_path: Path) -> None:
    true = np.array([17, 1_000_003, 1_054_321])
    points = large.points(large.table[0]).position
    for index, wrong in ((true, False), (np.array([17, 1_000_000, 1_054_320]), True)):
        rows = "".join(
            f"{x:.6g} {y:.6g} {z:.6g} 0 {i} 1\n" for (x, y, z), i in zip(points[true], index.tolist(), strict=True)
        )
        path = tmp_path / "a.ply"
        path.write_text(
            "ply\nformat ascii 1.0\nelement vertex 3\nproperty double x\nproperty double y\nproperty double z\n"
            f"property float scalar_scene\nproperty float scalar_index\nproperty float scalar_class\nend_header\n{rows}"
        )
        asked = np.zeros(3, [("scene", "i4"), ("index", "i4"), ("x", "f8"), ("y", "f8"), ("z", "f8")])
        asked["index"], (asked["x"], asked["y"], asked["z"]) = index, points[true].T
        if wrong:
            with pytest.raises(HpalError, match=r"point 1 has an index that a viewer rounded"):
                import_answers(path, large)
            with pytest.raises(HpalError, match="the index 1000000 in a was rounded"):
                answer(large, asked, "selection")
        else:
            taken = import_answers(path, large)
            assert taken.rows["index"].tolist() == index.tolist()
            np.testing.assert_array_equal(np.column_stack([taken.rows[axis] for axis in "xyz"]), points[true])
            assert answer(large, asked, "selection")["label"].tolist() == (true % 2).tolist()
