"""What other programs are given: every point, every field, under names and types that they keep."""

from __future__ import annotations

from pathlib import Path

import laspy
import numpy as np
import plyfile
import pytest

from hpal_cli.errors import HpalError
from hpal_cli.export.files import export
from hpal_cli.export.top_view import top_view
from hpal_cli.history import Entry
from hpal_cli.labels.store import ANSWER, LabelStore
from hpal_cli.predictions.store import PredictionStore
from hpal_cli.scenes.store import SceneStore
from hpal_cli.writers.cloud import ViewerCloud, write, write_blocks
from hpal_cli.writers.las import FIRST_USER_CLASS


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
    for name in ("a.las", "a.laz"):
        write(cloud, tmp_path / name, overwrite=False)
        las = laspy.read(tmp_path / name)
        np.testing.assert_allclose(np.column_stack([las.x, las.y, las.z]), cloud.position, rtol=0, atol=5.1e-6)
        np.testing.assert_array_equal(las.intensity, cloud.fields["intensity"])
        np.testing.assert_array_equal(las.red, cloud.rgb[:, 0].astype(np.uint16) * 257)
        ids = cloud.fields["class"]
        np.testing.assert_array_equal(las.classification, np.where(ids >= 0, ids + FIRST_USER_CLASS, 1))
        for field in ("uncertainty", "huge", "gps"):
            np.testing.assert_array_equal(las[field], cloud.fields[field])


def test_las_loses_nothing_that_its_own_dimensions_cannot_hold(tmp_path: Path) -> None:
    """Fractions are no intensities of 16 bits, degrees no scan angles, and names end after 32 bytes."""
    cloud = ViewerCloud(
        np.zeros((3, 3)),
        None,
        {
            "intensity": np.array([0.25, 0.5, 1.0]),
            "scan_angle": np.array([12.0, 13.0, 14.0]),
            "user_data": np.array([300, 1, 2]),
            "point_source_id": np.array([3.0, 1.0, 2.0]),
            "number_of_returns": np.array([15, 1, 2], np.uint8),
            "a" * 40: np.arange(3),
            "a" * 41: np.arange(3, 6),
            "X": np.arange(3) + 0.5,
            "flag": np.array([True, False, True]),
        },
    )
    write(cloud, tmp_path / "a.las", overwrite=False)
    las = laspy.read(tmp_path / "a.las")
    assert las["intensity_2"].tolist() == [0.25, 0.5, 1]
    assert las["scan_angle_2"].tolist() == [12, 13, 14]
    assert las["user_data_2"].tolist() == [300, 1, 2]
    assert las["point_source_id"].tolist() == [3, 1, 2]
    assert np.asarray(las["number_of_returns"]).tolist() == [15, 1, 2]
    assert las["a" * 32].tolist() == [0, 1, 2]
    assert las["a" * 30 + "_2"].tolist() == [3, 4, 5]
    assert las["X_2"].tolist() == [0.5, 1.5, 2.5]
    assert las["flag"].tolist() == [1, 0, 1]
    assert not np.asarray(las.intensity).any()


@pytest.mark.parametrize(
    ("span", "unit", "step"), [(50, 1, 1e-5), (30_000, 1, 1e-4), (3e6, 0.001, 1e-2), (3e6, 1, None)]
)
def test_las_keeps_the_millimetre_or_says_so(tmp_path: Path, span: float, unit: float, step: float | None) -> None:
    cloud = ViewerCloud(np.array([[0.5, 0, 0], [span, 0, 0]]), None, unit=unit)
    if step is None:
        with pytest.raises(HpalError, match="millimetre"):
            write(cloud, tmp_path / "a.las", overwrite=False)
        assert list(tmp_path.iterdir()) == []
    else:
        write(cloud, tmp_path / "a.las", overwrite=False)
        assert laspy.open(tmp_path / "a.las").header.scales == pytest.approx(step)


def test_a_format_that_cannot_hold_a_number_refuses_it(tmp_path: Path) -> None:
    cloud = ViewerCloud(np.zeros((1, 3)), None, {"id": np.array([2**53 + 1])})
    with pytest.raises(HpalError, match=r"^\S*/a\.ply: the field id .*2\^53"):
        write(cloud, tmp_path / "a.ply", overwrite=False)
    classes = ViewerCloud(np.zeros((1, 3)), None, {"class": np.array([192])}, "class")
    with pytest.raises(HpalError, match=r"^\S*/a\.las: .*256"):
        write(classes, tmp_path / "a.las", overwrite=False)
    assert list(tmp_path.iterdir()) == []


def test_blocks_make_the_same_file_as_one_piece(tmp_path: Path) -> None:
    whole = some_cloud()

    def part(rows: slice) -> ViewerCloud:
        fields = {name: values[rows] for name, values in whole.fields.items()}
        return ViewerCloud(whole.position[rows], whole.rgb[rows], fields, "class")

    for suffix in ("ply", "las", "csv"):
        told: list[int] = []
        one, many = tmp_path / f"one.{suffix}", tmp_path / f"many.{suffix}"
        write(whole, one, overwrite=False)
        write_blocks(
            lambda: (part(slice(n, n + 13)) for n in range(0, 40, 13)), 40, many, overwrite=False, written=told.append
        )
        assert one.read_bytes() == many.read_bytes(), suffix
        assert told == [13, 13, 13, 1]


def test_csv_has_short_numbers_and_plain_line_ends(tmp_path: Path) -> None:
    cloud = ViewerCloud(
        np.array([[652_000.123, 0, 1]]), None, {"p": np.array([0.9], np.float32)}, texts={"name": ["a, b"]}
    )
    write(cloud, tmp_path / "a.csv", overwrite=False)
    assert (tmp_path / "a.csv").read_bytes() == b'x,y,z,p,name\n652000.123,0.0,1.0,0.9,"a, b"\n'


def test_answers_have_the_names_of_their_classes(scenes: Path, tmp_path: Path) -> None:
    store = SceneStore(scenes)
    labels = LabelStore.create(tmp_path / "labels.zarr", store.classes, store.table)
    rows = np.zeros(3, ANSWER)
    rows["index"], rows["label"] = [4, 5, 6], [2, -1, 0]
    labels.append(rows, "test", Entry("test", "1", [], None))
    export(labels.path, tmp_path / "out", "csv")
    lines = [line.split(",") for line in (tmp_path / "out" / f"{store.table[0].name}.csv").read_text().splitlines()]
    at = {name: lines[0].index(name) for name in ("index", "class", "name")}
    assert [[line[n] for n in at.values()] for line in lines[1:]] == [
        ["4", "2", "wall"],
        ["5", "-1", "unsure"],
        ["6", "0", "ceiling"],
    ]


def test_one_file_that_is_there_already_stops_all_of_them(predictions: Path, tmp_path: Path) -> None:
    last = PredictionStore(predictions).table[-1].name
    taken = tmp_path / "out" / f"{last}.ply"
    taken.parent.mkdir(parents=True)
    taken.write_text("mine")
    with pytest.raises(HpalError, match="exists already"):
        export(predictions, tmp_path / "out")
    assert [p for p in (tmp_path / "out").rglob("*") if p.is_file()] == [taken]
    assert not (tmp_path / "out" / "Area_1").exists()
    assert taken.read_text() == "mine"
    assert len(export(predictions, tmp_path / "out", overwrite=True).paths) == 3


def test_nothing_is_written_into_a_store(predictions: Path, tmp_path: Path) -> None:
    with pytest.raises(HpalError, match="is an hpal store"):
        export(predictions, predictions)


def test_top_view_shows_the_highest_point_below_the_cut() -> None:
    position = np.array([[0, 0, 0], [0, 0, 0.5], [0, 0, 1.0], [0.9, 0.9, 0.2]])
    rgb = np.array([[1, 0, 0], [2, 0, 0], [3, 0, 0], [4, 0, 0]], np.uint8)
    image = top_view(position, rgb, pixel=0.5, step=0.0, below=0.75)
    assert image.shape == (2, 2, 3)
    assert image[1, 0, 0] == 2
    assert image[0, 1, 0] == 4
    assert image[0, 0].tolist() == [255, 255, 255]
