"""The original points of scenes: all of them, in their order, with every column, as PLY, CSV and benchmarks' files."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import laspy
import numpy as np
import plyfile
import pytest
import zarr
from conftest import Done, fake_predictions, tree

from hpal_cli.classes import ClassTable
from hpal_cli.errors import HpalError, UsageError
from hpal_cli.export.files import export
from hpal_cli.labels.store import LabelStore
from hpal_cli.predictions.store import PredictionStore
from hpal_cli.scenes import store as store_module
from hpal_cli.scenes.prepare import prepare
from hpal_cli.scenes.store import SceneStore
from hpal_cli.store import envelope
from hpal_cli.training.presets import PRESETS
from hpal_cli.training.train import train

N = 3000
GRID = 2.0
CLASSES = ClassTable.from_json([{"id": n, "name": f"c{n}", "code": 10 * n + 1} for n in range(3)])


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several blocks a scene, the last one shorter."""
    monkeypatch.setattr(store_module, "BLOCK", 700)


def some_columns(count: int = N) -> dict[str, np.ndarray]:
    """A Lambert-93 scan in millimetres, with normals, and fields as another viewer named them."""
    rng = np.random.default_rng(3)
    xyz = np.round(np.add(rng.uniform(0, 20, (count, 3)), [652_345.678, 6_861_234.567, 35.9]), 3)
    return {
        **{axis: xyz[:, n] for n, axis in enumerate("xyz")},
        **{channel: rng.integers(0, 256, count).astype(np.uint8) for channel in ("red", "green", "blue")},
        **{axis: rng.normal(size=count).astype(np.float32) for axis in ("nx", "ny", "nz")},
        "intensity": rng.integers(0, 60_000, count).astype(np.uint16),
        "scalar_curvature": rng.random(count).astype(np.float32),
        "gps_time": rng.random(count) * 1e9,
        "signed": rng.integers(-100, 100, count).astype(np.int8),
        "confidence": rng.random(count).astype(np.float32),
        "label": CLASSES_CODES[rng.integers(-1, 3, count)].astype(np.int32),
    }


CLASSES_CODES = np.array([1, 11, 21, -1])


def write_raw(path: Path, columns: dict[str, np.ndarray]) -> Path:
    rows = np.zeros(len(columns["x"]), [(name, values.dtype) for name, values in columns.items()])
    for name, values in columns.items():
        rows[name] = values
    path.parent.mkdir(parents=True, exist_ok=True)
    plyfile.PlyData([plyfile.PlyElement.describe(rows, "vertex")]).write(str(path))
    return path


def prepared(folder: Path, columns: dict[str, np.ndarray]) -> tuple[Path, Path]:
    """Paths of the scenes store of one PLY and of predictions on it."""
    prepare(write_raw(folder / "raw" / "a.ply", columns), folder / "s.zarr", grid=GRID, classes=CLASSES)
    return folder / "s.zarr", fake_predictions(folder / "s.zarr", folder / "p.zarr", features=None)


def answers(scenes: Path, predictions: Path, columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What every original point must get, found by its own cell and not by the store's inverse."""
    store, predicted = SceneStore(scenes), PredictionStore(predictions)
    (scene,) = store.table
    points = store.points(scene)
    cell = {tuple(c): n for n, c in enumerate(np.floor(points.xyz / GRID).astype(int).tolist())}
    xyz = np.column_stack([columns[axis] for axis in "xyz"]) - points.offset
    row = np.array([cell[tuple(c)] for c in np.floor(xyz / GRID).astype(int).tolist()])
    prob = predicted.probabilities(scene)
    two = np.sort(prob.astype(float), axis=1)[:, -2:]
    return {
        "class": predicted.predicted(scene)[row],
        "confidence": prob.max(axis=1).astype(np.float32)[row],
        "uncertainty": (1 - (two[:, 1] - two[:, 0])).astype(np.float32)[row],
    }


def read(path: Path) -> np.ndarray:
    return plyfile.PlyData.read(str(path))["vertex"].data


@pytest.mark.usefixtures("small_blocks")
def test_ply_has_every_point_and_every_column(tmp_path: Path) -> None:
    raw = some_columns()
    scenes, predictions = prepared(tmp_path, raw)
    done = export(predictions, tmp_path / "out", original=scenes)
    assert (done.paths, done.points) == ([tmp_path / "out" / "a.ply"], N)
    rows = read(done.paths[0])
    assert len(rows) == N
    for axis in "xyz":
        np.testing.assert_allclose(rows[axis], raw[axis], rtol=0, atol=1e-5)
    expected = answers(scenes, predictions, raw)
    assert len(np.unique(expected["class"])) > 1
    for name, values in expected.items():
        np.testing.assert_array_equal(rows[f"scalar_{name}"], values, name)
    np.testing.assert_array_equal(rows["quality"], expected["uncertainty"])
    np.testing.assert_array_equal(
        np.column_stack([rows["red"], rows["green"], rows["blue"]]), CLASSES.colors[expected["class"]]
    )
    kept = {
        "red": "scalar_scan_r", "green": "scalar_scan_g", "blue": "scalar_scan_b",
        "nx": "nx", "ny": "ny", "nz": "nz", "intensity": "scalar_intensity", "scalar_curvature": "scalar_curvature",
        "gps_time": "scalar_gps_time", "signed": "scalar_signed", "confidence": "scalar_original_confidence",
    }  # fmt: skip
    for name, wanted in kept.items():
        # Open3D leaves columns of other types out.
        assert rows[wanted].dtype in (raw[name].dtype, np.int32, np.float64), name
        assert rows[wanted].dtype in (np.uint8, np.int32, np.float32, np.float64), name
        np.testing.assert_array_equal(rows[wanted], raw[name], name)
    ids = {1: 0, 11: 1, 21: 2, -1: -1}
    assert rows["scalar_truth"].tolist() == [ids[c] for c in raw["label"].tolist()]
    own = {"x", "y", "z", "red", "green", "blue", "quality", "scalar_class", "scalar_confidence", "scalar_uncertainty"}
    assert set(rows.dtype.names or ()) == own | {*kept.values(), "scalar_truth"}


def test_ply_in_the_scanned_colours(tmp_path: Path) -> None:
    raw = some_columns()
    scenes, predictions = prepared(tmp_path, raw)
    rows = read(export(predictions, tmp_path / "out", original=scenes, color="rgb").paths[0])
    for channel in ("red", "green", "blue"):
        np.testing.assert_array_equal(rows[channel], raw[channel])
    assert not [name for name in rows.dtype.names or () if "scan_" in name]
    for channel in ("red", "green", "blue"):
        del raw[channel]
    scenes, predictions = prepared(tmp_path / "grey", raw)
    rows = read(export(predictions, tmp_path / "grey" / "out", original=scenes, color="rgb").paths[0])
    np.testing.assert_array_equal(rows["red"], CLASSES.colors[rows["scalar_class"]][:, 0])


@pytest.mark.usefixtures("small_blocks")
def test_a_lambert93_scan_comes_through_prep_again_to_the_millimetre(tmp_path: Path) -> None:
    raw = some_columns()
    del raw["confidence"]
    scenes, _ = prepared(tmp_path, raw)
    (path,) = export(scenes, tmp_path / "out", original=scenes).paths
    again = tmp_path / "again.zarr"
    names = ClassTable.from_names(CLASSES.names)
    prepare(path, again, grid=GRID, classes=names)
    (one, inverse), (two, inverse_again) = (
        store.original(store.table[0], label=True) for store in (SceneStore(scenes), SceneStore(again))
    )
    np.testing.assert_allclose(two.position, np.column_stack([raw[a] for a in "xyz"]), rtol=0, atol=2e-5)
    assert np.abs(np.round(two.position, 3) - np.column_stack([raw[a] for a in "xyz"])).max() < 1e-8
    np.testing.assert_array_equal(two.rgb, one.rgb)
    np.testing.assert_array_equal(two.label, one.label)
    np.testing.assert_array_equal(inverse, inverse_again)
    for name, values in one.attributes.items():
        found = two.attributes[name if name in (*("nx", "ny", "nz"), "scalar_curvature") else f"scalar_{name}"]
        np.testing.assert_array_equal(found, values, name)


@pytest.mark.usefixtures("small_blocks")
def test_csv_and_las_say_the_same(tmp_path: Path) -> None:
    import laspy

    raw = some_columns(1500)
    scenes, predictions = prepared(tmp_path, raw)
    expected = answers(scenes, predictions, raw)
    (path,) = export(predictions, tmp_path / "out", "csv", original=scenes).paths
    assert b"\r" not in path.read_bytes()
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    for name in ("red", "intensity", "signed", "scalar_curvature"):
        np.testing.assert_array_equal(np.array([r[name] for r in rows]).astype(raw[name].dtype), raw[name], name)
    (path,) = export(predictions, tmp_path / "out", "las", original=scenes).paths
    las = laspy.read(path)
    np.testing.assert_array_equal(np.asarray(las.classification), expected["class"] + 64)
    np.testing.assert_array_equal(las.red, raw["red"].astype(np.uint16) * 257)
    for name, column in (("intensity", "intensity"), ("gps_time", "gps_time"), ("signed", "signed"), ("nx", "nx")):
        np.testing.assert_array_equal(las[name], raw[column], name)
    np.testing.assert_allclose(np.asarray(las.xyz)[:, 1], raw["y"], rtol=0, atol=2e-5)
    for name, values in expected.items():
        if name != "class":
            np.testing.assert_array_equal(las[name], values)
            np.testing.assert_array_equal(np.array([r[name] for r in rows]).astype("f4"), values, name)


@pytest.mark.parametrize("step", [0.01, 1e-8])
def test_csv_has_no_digits_that_mean_nothing(step: float, tmp_path: Path) -> None:
    header = laspy.LasHeader(point_format=6)
    header.scales, header.offsets = np.full(3, step), [0, 6_277_548 * (step > 1e-3), 0]
    las = laspy.LasData(header)
    las.X, las.Y, las.Z = np.array([[1, 3], [85, 85], [0, 7]], np.int32)
    las.write(tmp_path / "a.las")
    prepare(tmp_path / "a.las", tmp_path / "s.zarr", grid=None, classes=CLASSES)
    (path,) = export(tmp_path / "s.zarr", tmp_path / "out", "csv", original=tmp_path / "s.zarr").paths
    found = [line.split(",")[1] for line in path.read_text().splitlines()[1:]]
    assert found == (["6277548.85"] * 2 if step > 1e-3 else ["8.5e-07"] * 2)
    raw = {axis: np.array([1.1, 5.3], np.float32) for axis in "xyz"}
    prepare(write_raw(tmp_path / "b.ply", raw), tmp_path / "t.zarr", grid=None, classes=CLASSES)
    (path,) = export(tmp_path / "t.zarr", tmp_path / "out", "csv", original=tmp_path / "t.zarr").paths
    assert path.read_text().splitlines()[1:] == ["1.1,1.1,1.1", "5.3,5.3,5.3"]


def test_predict_writes_the_very_files(tmp_path: Path, hpal: Callable[..., Done]) -> None:
    scenes, _ = prepared(tmp_path, some_columns(500))
    settings = replace(PRESETS["small"], voxel=4.0, steps=1, batch=1)
    train(SceneStore(scenes), None, settings).save(tmp_path / "m.pt", overwrite=False)
    for color in ("auto", "rgb"):
        done = hpal(
            "predict", "m.pt", "s.zarr", "-o", f"{color}.zarr", "--ply", f"{color}/ply", "--las", f"{color}/las",
            "--color", color, "--device", "cpu", cwd=tmp_path,
        )  # fmt: skip
        assert done.rc == 0, done
        assert f"{color}/las/: 1 LAS file, 500 original points" in done.err
        for format in ("ply", "las"):
            again = hpal(
                "export", f"{color}.zarr", "--original", "s.zarr", "--format", format, "--color", color,
                "-o", f"{color}-again/{format}", cwd=tmp_path,
            )  # fmt: skip
            assert again.rc == 0, again
        assert tree(tmp_path / color) == tree(tmp_path / f"{color}-again")
    before = tree(tmp_path)
    done = hpal("predict", "m.pt", "s.zarr", "-o", "x.zarr", "--las", "y", "--ply", "auto/ply", cwd=tmp_path)
    assert done.rc == 1
    assert "auto/ply/a.ply" in done.err
    assert tree(tmp_path) == before, "a file in the way is found before anything is computed"
    for words in (
        ("--color", "pink", "--ply", "z"), ("--color", "class"), ("--ply", "x.zarr"), ("--las", "x.zarr/las"),
        ("--las", "s.zarr"),
    ):  # fmt: skip
        assert hpal("predict", "m.pt", "s.zarr", "-o", "x.zarr", *words, cwd=tmp_path).rc == 2
    assert tree(tmp_path) == before


def test_predict_refuses_what_a_format_cannot_hold_before_it_starts(tmp_path: Path, hpal: Callable[..., Done]) -> None:
    def model_of(raw: Path, classes: ClassTable) -> None:
        prepare(raw, tmp_path / "s.zarr", grid=GRID, classes=classes, overwrite=True)
        settings = replace(PRESETS["small"], voxel=4.0, steps=1, batch=1)
        train(SceneStore(tmp_path / "s.zarr"), None, settings).save(tmp_path / "m.pt", overwrite=True)

    def refused(*words: str) -> str:
        before = sorted(tmp_path.rglob("*"))
        done = hpal("predict", "m.pt", "s.zarr", "-o", "x.zarr", "--las", "new/las", *words, cwd=tmp_path)
        assert done.rc == 1
        assert sorted(tmp_path.rglob("*")) == before, "neither a store nor a folder"
        return done.err

    las = laspy.LasData(laspy.LasHeader(point_format=6))
    las.x, las.y, las.z = np.random.default_rng(0).random((3, 500)) * 20
    las.classification = np.arange(500) % 3 + 2
    las.write(tmp_path / "b.las")
    model_of(tmp_path / "b.las", ClassTable.from_json([{"id": n, "name": f"c{n}", "code": n + 2} for n in range(3)]))
    assert "has no colours; leave --color class out" in refused("--color", "class")
    many = ClassTable.from_json([{"id": n, "name": f"c{n}", "code": 10 * n + 1} for n in range(200)])
    model_of(write_raw(tmp_path / "a.ply", some_columns(500)), many)
    assert "new/las: LAS numbers classes 0 to 255, and one would get 263" in refused()


def test_an_export_that_fails_leaves_no_folder(tmp_path: Path) -> None:
    columns = some_columns(500)
    columns["label"] = np.zeros(500, np.int32)
    many = ClassTable.from_json([{"id": n, "name": f"c{n}"} for n in range(200)])
    prepare(write_raw(tmp_path / "a.ply", columns), tmp_path / "s.zarr", grid=GRID, classes=many)
    for original in (None, tmp_path / "s.zarr"):
        with pytest.raises(HpalError, match="LAS numbers classes"):
            export(tmp_path / "s.zarr", tmp_path / "new" / "las", "las", original=original)
        assert not (tmp_path / "new").exists()


def original(scenes: Path, name: str) -> zarr.Group:
    """To be written to."""
    return zarr.open_group(str(scenes / "scenes" / name / "original"), mode="a")


def store_of(folder: Path, names: list[str], dropped: int = 0, files: object = None) -> tuple[Path, Path]:
    """Scenes of these names; of each, the first `dropped` points of the file were left out."""
    for name in names:
        raw = some_columns(1500)
        del raw["confidence"]
        write_raw(folder / "raw" / f"{name}.ply", raw)
    prepare(folder / "raw", folder / "s.zarr", grid=GRID, classes=CLASSES)
    for name in names:
        group = original(folder / "s.zarr", name)
        if dropped:
            envelope.write_array(group, "source_row", np.arange(1500) + dropped)
        group.attrs.pop("files", None)
        if files is not None:
            group.attrs["files"] = files
    return folder / "s.zarr", fake_predictions(folder / "s.zarr", folder / "p.zarr", features=None)


def codes_of(scenes: Path, predictions: Path, number: int = 0) -> list[int]:
    store, predicted = SceneStore(scenes), PredictionStore(predictions)
    scene = store.table[number]
    pred = predicted.predicted(scene)[store.original(scene)[1]]
    return [CLASSES[int(c)].code for c in pred]


@pytest.mark.usefixtures("small_blocks")
def test_scannet_wants_a_number_a_line(tmp_path: Path) -> None:
    scenes, predictions = store_of(tmp_path, ["scene0707_00", "scene0708_01"])
    done = export(predictions, tmp_path / "out", "scannet", original=scenes)
    assert [path.name for path in done.paths] == ["scene0707_00.txt", "scene0708_01.txt"]
    for number, path in enumerate(done.paths):
        assert path.read_bytes() == "".join(f"{c}\n" for c in codes_of(scenes, predictions, number)).encode()


@pytest.mark.usefixtures("small_blocks")
def test_semantickitti_wants_four_bytes_a_point(tmp_path: Path) -> None:
    scenes, predictions = store_of(tmp_path, ["11/000000", "11/000001"])
    done = export(predictions, tmp_path / "out", "semantickitti", original=scenes)
    folder = tmp_path / "out" / "sequences" / "11" / "predictions"
    assert done.paths == [folder / "000000.label", folder / "000001.label"]
    for number, path in enumerate(done.paths):
        assert np.fromfile(path, "<u4").tolist() == codes_of(scenes, predictions, number)


@pytest.mark.usefixtures("small_blocks")
def test_one_is_singular_and_benchmarks_have_their_names(tmp_path: Path, hpal: Callable[..., Done]) -> None:
    write_raw(tmp_path / "raw" / "08" / "000123.ply", some_columns(500))
    done = hpal("prep", "raw", "-o", "s.zarr", "--grid", "2m", cwd=tmp_path)
    assert "s.zarr: 1 scene (1 train), 500 points -> " in done.err
    fake_predictions(tmp_path / "s.zarr", tmp_path / "p.zarr", features=None)
    done = hpal("export", "p.zarr", "--original", "s.zarr", "--format", "semantickitti", "-o", "out", cwd=tmp_path)
    assert "out/: 1 SemanticKITTI file, 500 original points" in done.err, done


@pytest.mark.usefixtures("small_blocks")
def test_points_that_were_left_out_are_unlabelled_in_a_benchmarks_file(tmp_path: Path) -> None:
    files = [{"name": "000000.bin", "points": 1510}]
    scenes, predictions = store_of(tmp_path, ["11/000000"], 7, files)
    (path,) = export(predictions, tmp_path / "out", "semantickitti", original=scenes).paths
    assert np.fromfile(path, "<u4").tolist() == [0] * 7 + codes_of(scenes, predictions) + [0] * 3


@pytest.mark.parametrize(
    ("name", "dropped", "files", "words"),
    [
        ("room", 0, None, "scene room is not one of semantickitti's, which are named like 08/000123"),
        ("11/000000", 7, [], "has more points of"),
        ("11/000000", 7, [{"name": "a", "points": 1506}], "has more points of"),
        (
            "11/000000",
            0,
            [{"name": "a", "points": 1}, {"name": "b", "points": 2}],
            "the store does not say from which file each point was read",
        ),
        ("11/000000", 0, ["a"], "files cannot be read"),
    ],
)
def test_scenes_that_a_benchmark_has_not_are_refused(
    name: str, dropped: int, files: object, words: str, tmp_path: Path
) -> None:
    scenes, predictions = store_of(tmp_path, [name], dropped, files)
    with pytest.raises(HpalError, match=words):
        export(predictions, tmp_path / "out", "semantickitti", original=scenes)
    assert not [p for p in (tmp_path / "out").rglob("*") if p.is_file()]


def test_a_scene_that_fails_leaves_no_files_of_the_others(tmp_path: Path) -> None:
    scenes, predictions = store_of(tmp_path, ["11/000000", "11/000001"])
    original(scenes, "11/000001").attrs["files"] = 3
    with pytest.raises(HpalError, match="scene 11/000001: files cannot be read"):
        export(predictions, tmp_path / "out", "semantickitti", original=scenes)
    assert not [p for p in (tmp_path / "out").rglob("*") if p.is_file()]


def test_what_does_not_go_together_is_wrong_usage(scenes: Path, predictions: Path, tmp_path: Path) -> None:
    store = SceneStore(scenes)
    labels = LabelStore.create(tmp_path / "labels.zarr", store.classes, store.table).path
    for path, options, words in (
        (predictions, {"format": "scannet"}, "add --original"),
        (scenes, {"format": "semantickitti", "original": scenes}, "is for predictions, and .* holds scenes"),
        (labels, {"format": "scannet"}, "is for predictions, and .* holds labels"),
        (predictions, {"format": "scannet", "original": scenes, "color": "rgb"}, "--color"),
        (labels, {"original": scenes}, "--original"),
        (labels, {"scenes": ["*"]}, "--scenes"),
        (labels, {"split": "val"}, "--split"),
        (predictions, {"format": "stl"}, "--format"),
        (predictions, {"color": "pink"}, "--color"),
    ):
        with pytest.raises(UsageError, match=words):
            export(path, tmp_path / "out", **options)  # type: ignore[arg-type]
    for options in ({}, {"format": "scannet", "original": scenes}):
        with pytest.raises(HpalError, match=r"none\.zarr: does not exist; check the name"):
            export(tmp_path / "none.zarr", tmp_path / "out", **options)  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


def test_predictions_of_other_scenes_are_refused(predictions: Path, other_scenes: Path, tmp_path: Path) -> None:
    with pytest.raises(HpalError, match="belongs to other scenes"):
        export(predictions, tmp_path / "out", original=other_scenes)


def test_a_damaged_store_is_named(tmp_path: Path) -> None:
    scenes, predictions = prepared(tmp_path, some_columns(500))
    group = original(scenes, "a")
    kept = group["inverse"][:]
    for inverse, words in ((kept[:-1], "inverse has 499 rows, expected 500"), (kept + 10**6, "inverse names a row")):
        del group["inverse"]
        envelope.write_array(group, "inverse", inverse)
        with pytest.raises(HpalError, match=words):
            export(predictions, tmp_path / "out", original=scenes)
