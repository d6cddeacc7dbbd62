"""What other programs are given: every point, every field, under names and types that they keep."""

from __future__ import annotations

from pathlib import Path

import laspy
import numpy as np
import plyfile

from hpal_cli.export.clouds import original_prediction
from hpal_cli.export.top_view import top_view
from hpal_cli.export.writers import FIRST_USER_CLASS, ViewerCloud, write
from hpal_cli.scenes.classes import ClassTable
from hpal_cli.scenes.prepare import prepare
from hpal_cli.scenes.store import SceneStore


def some_cloud() -> ViewerCloud:
    rng = np.random.default_rng(0)
    return ViewerCloud(
        np.add(rng.uniform(0, 50, (40, 3)), [900_000, 6_500_000, 100]),
        rng.integers(0, 256, (40, 3)).astype(np.uint8),
        {
            "class": rng.integers(-1, 5, 40).astype(np.int32),
            "intensity": rng.integers(0, 60_000, 40).astype(np.uint16),
            "uncertainty": rng.random(40).astype(np.float32),
            "gps": rng.random(40) * 1e8,
            "big": np.full(40, 3_000_000_000, np.uint32),
            "huge": np.full(40, 2**40, np.int64),
        },
        "class",
    )


def test_ply_keeps_positions_and_every_number(tmp_path: Path) -> None:
    cloud = some_cloud()
    write(cloud, tmp_path / "a.ply", overwrite=False)
    vertex = plyfile.PlyData.read(tmp_path / "a.ply")["vertex"]
    np.testing.assert_array_equal(np.column_stack([vertex["x"], vertex["y"], vertex["z"]]), cloud.position)
    for name, values in cloud.fields.items():
        np.testing.assert_array_equal(vertex[f"scalar_{name}"], values)
    np.testing.assert_array_equal(vertex["quality"], cloud.fields["uncertainty"])


def test_las_puts_fields_where_las_has_a_place_for_them(tmp_path: Path) -> None:
    cloud = some_cloud()
    del cloud.fields["huge"]
    for name in ("a.las", "a.laz"):
        write(cloud, tmp_path / name, overwrite=False)
        las = laspy.read(tmp_path / name)
        np.testing.assert_allclose(np.column_stack([las.x, las.y, las.z]), cloud.position, atol=1e-4)
        np.testing.assert_array_equal(las.intensity, cloud.fields["intensity"])
        np.testing.assert_array_equal(las.red, cloud.rgb[:, 0].astype(np.uint16) * 257)
        ids = cloud.fields["class"]
        np.testing.assert_array_equal(las.classification, np.where(ids >= 0, ids + FIRST_USER_CLASS, 1))
        np.testing.assert_array_equal(las["uncertainty"], cloud.fields["uncertainty"])


def test_a_prediction_goes_back_to_every_original_point(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    xyz = rng.uniform(0, 1, (3000, 3))
    intensity = rng.integers(0, 1000, 3000)
    (tmp_path / "raw").mkdir()
    np.savetxt(
        tmp_path / "raw" / "a.csv",
        np.column_stack([xyz, rng.integers(0, 256, (3000, 3)), intensity, xyz[:, 0] > 0.5]),
        delimiter=",",
        header="x,y,z,r,g,b,intensity,label",
        comments="",
        fmt=["%.5f"] * 3 + ["%d"] * 5,
    )
    prepare(
        tmp_path / "raw",
        tmp_path / "s.zarr",
        grid=0.2,
        classes=ClassTable.from_json([{"id": n, "name": f"c{n}"} for n in range(2)]),
    )
    store = SceneStore(tmp_path / "s.zarr")
    (scene,) = store.table
    prob = rng.dirichlet([1, 1], scene.points)
    pred = prob.argmax(1)
    cloud = original_prediction(store, scene, pred, prob)
    np.testing.assert_allclose(cloud.position, xyz, atol=2e-5)
    np.testing.assert_array_equal(cloud.fields["intensity"], intensity)
    cell = np.floor(np.round(xyz, 5) / 0.2).astype(int)
    centre = np.floor(store.points(scene).xyz / 0.2).astype(int)
    row = {tuple(c): n for n, c in enumerate(centre)}
    expected = [pred[row[tuple(c)]] for c in cell]
    np.testing.assert_array_equal(cloud.fields["class"], expected)
    assert {tuple(c) for c in cloud.rgb} <= {tuple(c) for c in store.classes.colors}


def test_top_view_shows_the_highest_point_below_the_cut() -> None:
    position = np.array([[0, 0, 0], [0, 0, 0.5], [0, 0, 1.0], [0.9, 0.9, 0.2]])
    rgb = np.array([[1, 0, 0], [2, 0, 0], [3, 0, 0], [4, 0, 0]], np.uint8)
    image = top_view(position, rgb, pixel=0.5, below=0.75)
    assert image.shape == (2, 2, 3)
    assert image[1, 0, 0] == 2
    assert image[0, 1, 0] == 4
    assert image[0, 0].tolist() == [255, 255, 255]
