"""A LAS file that went in comes out as it was, with a class for every point."""

from __future__ import annotations

import base64
import contextlib
import datetime
import uuid
from collections.abc import Iterator
from pathlib import Path

import laspy
import numpy as np
import plyfile
import pytest
import zarr
from conftest import fake_predictions
from laspy.vlrs.known import WktCoordinateSystemVlr
from laspy.vlrs.vlrlist import VLRList
from test_readers import shared

from hpal_cli.classes import ClassTable
from hpal_cli.errors import HpalError
from hpal_cli.export.files import export
from hpal_cli.predictions.store import PredictionStore
from hpal_cli.progress import Silent
from hpal_cli.scenes import store as store_module
from hpal_cli.scenes.prepare import prepare
from hpal_cli.scenes.store import SceneStore
from hpal_cli.store import envelope

ADDED = {"class", "confidence", "uncertainty"}
WIDER = {0: 6, 1: 6, 2: 7, 3: 7, 4: 9, 5: 10}
LOW = ClassTable.from_json([{"id": n, "name": f"c{n}", "code": code} for n, code in enumerate((2, 5, 6, 31))])
HIGH = ClassTable.from_json([{"id": n, "name": f"c{n}", "code": code} for n, code in enumerate((2, 5, 6, 64))])
N = 400


def some_las(path: Path, point_format: int, *, most: int = 2**64 - 1) -> Path:
    """Every dimension of the format full of numbers, and everything in the header that a person may have put there."""
    rng = np.random.default_rng(point_format)
    header = laspy.LasHeader(version="1.4", point_format=point_format)
    header.scales, header.offsets = [0.001, 0.01, 0.0025], [700_000.5, 6_600_000, -3.25]
    header.uuid = uuid.UUID(int=77)
    header.system_identifier, header.generating_software = "scanner 3", "somebody's own"
    header.creation_date, header.file_source_id = datetime.date(2019, 5, 4), 9
    header.global_encoding.value = 1
    header.vlrs.append(laspy.VLR("somebody", 12, "a record", b"of their own"))
    header.add_extra_dims(
        [
            laspy.ExtraBytesParams("amplitude", "f4"),
            laspy.ExtraBytesParams("class", "u1", "of another program"),
            laspy.ExtraBytesParams("my range", "i4", scales=[0.001], offsets=[5.0]),
            laspy.ExtraBytesParams("label", "3u2"),
            laspy.ExtraBytesParams("huge", "u8", no_data=[7]),
        ]
    )
    header.vlrs.append(WktCoordinateSystemVlr('LOCAL_CS["ours",UNIT["metre",1]]'))
    las = laspy.LasData(header)
    las.X, las.Y, las.Z = rng.integers(-50_000, 50_000, (3, N))
    for dimension in header.point_format.dimensions:
        if dimension.name in ("X", "Y", "Z"):
            continue
        if dimension.kind == laspy.point.dims.DimensionKind.BitField:
            las[dimension.name] = rng.integers(0, dimension.max + 1, N)
        elif dimension.dtype.base.kind == "f":
            las[dimension.name] = rng.normal(0, 1000, N)
        else:
            of = np.iinfo(dimension.dtype.base)
            las.points.array[dimension.name] = rng.integers(
                of.min,
                min(of.max, most),
                las.points.array[dimension.name].shape,
                dtype=dimension.dtype.base,
                endpoint=True,
            )
    las.classification = rng.choice([0, 1, 2, 5, 6], N)
    las.evlrs = VLRList([laspy.VLR("somebody", 13, "a long one", bytes(range(256)) * 300)])
    las.write(path)
    return path


def there_and_back(
    raw: Path, folder: Path, classes: ClassTable | None, *, grid: float = 100.0, predict: bool = True
) -> Path:
    """The path of the LAS that comes out; `folder/p.zarr` and `folder/s.zarr` are on the way."""
    prepare(raw, folder / "s.zarr", grid=grid, classes=classes)
    of = fake_predictions(folder / "s.zarr", folder / "p.zarr", features=None) if predict else folder / "s.zarr"
    (path,) = export(of, folder / "out", "las", original=folder / "s.zarr").paths
    return path


def assert_same_points(before: laspy.LasData, after: laspy.LasData, *, but: tuple[str, ...] = ()) -> None:
    for name in before.point_format.dimension_names:
        if name not in but:
            np.testing.assert_array_equal(raw(before, name), raw(after, name), name)
    counts = np.bincount(np.asarray(before.return_number), minlength=16)[1:16]
    np.testing.assert_array_equal(after.header.number_of_points_by_return, counts)


def raw(las: laspy.LasData, name: str) -> np.ndarray:
    """The stored numbers, not what scales make of them."""
    return las.points.array[name] if name in las.points.array.dtype.names else np.asarray(las[name])


def assert_same_header(before: laspy.LasHeader, after: laspy.LasHeader) -> None:
    for name in ("uuid", "system_identifier", "generating_software", "creation_date", "file_source_id"):
        assert getattr(after, name) == getattr(before, name), name
    assert after.global_encoding.value == before.global_encoding.value
    for name in ("scales", "offsets"):
        np.testing.assert_array_equal(getattr(after, name), getattr(before, name), name)
    for name in ("mins", "maxs"):
        # Some programs take them from positions of 32 bits.
        np.testing.assert_allclose(getattr(after, name), getattr(before, name), rtol=0, atol=1e-4, err_msg=name)
    old, new = (
        [(v.user_id, v.record_id, v.description, v.record_data_bytes()) for v in header.vlrs]
        for header in (before, after)
    )
    own = ("LASF_Spec", 4)
    assert [r for r in new if r[:2] != own] == [r for r in old if r[:2] != own]
    if own in [r[:2] for r in old]:
        assert [r[:2] for r in new] == [r[:2] for r in old]


@pytest.mark.parametrize("point_format", range(11))
def test_every_number_of_a_las_file_comes_out_again(
    point_format: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "BLOCK", 150)
    path = there_and_back(some_las(tmp_path / "a.las", point_format), tmp_path, LOW)
    before, after = laspy.read(tmp_path / "a.las"), laspy.read(path)
    assert after.header.point_format.id == point_format
    assert after.header.version == before.header.version
    assert_same_header(before.header, after.header)
    assert [v.record_data_bytes() for v in after.evlrs] == [v.record_data_bytes() for v in before.evlrs]
    assert_same_points(before, after, but=("classification", "class"))
    np.testing.assert_array_equal(after["original_class"], before["class"])
    np.testing.assert_array_equal(after["original_classification"], np.asarray(before.classification))
    assert_answers(tmp_path, after, LOW)


def assert_answers(folder: Path, las: laspy.LasData, classes: ClassTable) -> None:
    """`class`, `classification`, `confidence` and `truth` are those of each point's grid point."""
    scenes, predictions = SceneStore(folder / "s.zarr"), PredictionStore(folder / "p.zarr")
    (scene,) = scenes.table
    points, inverse = scenes.original(scene, label=True)
    pred = predictions.predicted(scene)[inverse]
    assert len(np.unique(pred)) > 1
    assert scene.points < N / 2
    np.testing.assert_array_equal(las["class"], pred)
    np.testing.assert_array_equal(np.asarray(las.classification), np.array([c.code for c in classes])[pred])
    np.testing.assert_array_equal(las["confidence"], predictions.probabilities(scene).max(1).astype("f4")[inverse])
    np.testing.assert_array_equal(las["truth"], points.label)


@pytest.mark.parametrize("point_format", WIDER)
def test_classes_beyond_five_bits_take_the_next_point_format(point_format: int, tmp_path: Path) -> None:
    path = there_and_back(some_las(tmp_path / "a.las", point_format), tmp_path, HIGH)
    before, after = laspy.read(tmp_path / "a.las"), laspy.read(path)
    assert after.header.point_format.id == WIDER[point_format]
    assert str(after.header.version) == "1.4"
    # WKT is what these formats have their coordinate system in.
    assert (before.header.global_encoding.value, after.header.global_encoding.value) == (1, 17)
    after.header.global_encoding.value = 1
    assert_same_header(before.header, after.header)
    names = ("classification", "class", "scan_angle_rank")
    for name in before.point_format.dimension_names:
        if name not in names and name not in ("synthetic", "key_point", "withheld"):
            np.testing.assert_array_equal(raw(before, name), raw(after, name), name)
    for name in ("synthetic", "key_point", "withheld"):
        np.testing.assert_array_equal(np.asarray(before[name]), np.asarray(after[name]), name)
    np.testing.assert_allclose(after.scan_angle * 0.006, before.scan_angle_rank, rtol=0, atol=0.003)
    assert_answers(tmp_path, after, HIGH)


@pytest.mark.parametrize("point_format", [3, 7])
def test_scenes_come_out_as_they_were_read(point_format: int, tmp_path: Path) -> None:
    path = there_and_back(some_las(tmp_path / "a.las", point_format), tmp_path, HIGH, predict=False)
    before, after = laspy.read(tmp_path / "a.las"), laspy.read(path)
    assert after.header.point_format.id == point_format
    assert_same_header(before.header, after.header)
    assert_same_points(before, after, but=("class",))
    np.testing.assert_array_equal(after["original_class"], before["class"])
    codes = np.asarray(before.classification)
    ids = {0: -1, 1: -1, 2: 0, 5: 1, 6: 2}
    assert after["class"].tolist() == [ids[c] for c in codes.tolist()]


def test_the_file_is_what_a_reader_of_bytes_finds(tmp_path: Path) -> None:
    """The extra bytes are described in order, with the scale and the no-data value of the old ones, and no least or
    greatest values, which laspy gets wrong."""
    path = there_and_back(some_las(tmp_path / "a.las", 7), tmp_path, LOW)
    (record,) = (v for v in laspy.read(path).header.vlrs if type(v).__name__ == "ExtraBytesVlr")
    rows = {row.format_name(): row for row in record.extra_bytes_structs}
    assert list(rows) == [
        "amplitude", "original_class", "my range", "label", "huge",
        "class", "confidence", "uncertainty", "truth", "original_classification",
    ]  # fmt: skip
    assert rows["my range"].scale[0] == 0.001
    assert rows["my range"].offset[0] == 5.0
    assert rows["huge"].no_data[0] == 7
    assert rows["original_class"].description == b"of another program"
    assert not any(row.min_is_relevant() or row.max_is_relevant() for row in rows.values())
    head = path.read_bytes()
    start, size = int.from_bytes(head[96:100], "little"), int.from_bytes(head[105:107], "little")
    evlr = int.from_bytes(head[235:243], "little")
    assert evlr == start + N * size
    assert int.from_bytes(head[247:255], "little") == N


def test_a_file_without_labels_or_header_fields_of_its_own(tmp_path: Path) -> None:
    """Nothing was classified: no original classes, no truth; and the class table's LAS codes are used."""
    las = laspy.LasData(laspy.LasHeader(version="1.2", point_format=1))
    las.header.scales = [0.01] * 3
    las.x, las.y, las.z = np.random.default_rng(0).uniform(0, 30, (3, 200))
    las.write(tmp_path / "a.las")
    classes = ClassTable.from_json([{"id": 0, "name": "a", "las": 3}, {"id": 1, "name": "b", "code": 17}])
    path = there_and_back(tmp_path / "a.las", tmp_path, classes, grid=5.0)
    after = laspy.read(path)
    assert set(after.point_format.extra_dimension_names) == ADDED
    assert str(after.header.version) == "1.2"
    assert set(np.asarray(after.classification).tolist()) == {3, 17}
    assert_same_points(laspy.read(tmp_path / "a.las"), after, but=("classification",))


class Counting(Silent):
    """Adds up the numbers of points that it is told."""

    def __init__(self) -> None:
        self.total = self.done = 0

    @contextlib.contextmanager
    def task(self, what: str, total: int) -> Iterator[Counting]:
        self.total += total
        yield self

    def advance(self, amount: int = 1, status: str = "") -> None:
        self.done += amount


@pytest.mark.parametrize("format", ["ply", "las", "csv"])
def test_progress_counts_points(format: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "BLOCK", 150)
    there_and_back(some_las(tmp_path / "a.las", 6, most=2**53), tmp_path, LOW)
    for original, points in ((tmp_path / "s.zarr", N), (None, SceneStore(tmp_path / "s.zarr").table[0].points)):
        monitor = Counting()
        folder = tmp_path / ("grid" if original is None else "original")
        done = export(tmp_path / "p.zarr", folder, format, original=original, monitor=monitor)
        assert (done.points, monitor.total, monitor.done) == (points, points, points)


def test_what_the_header_knows_nothing_of_is_kept_too(tmp_path: Path) -> None:
    """Rows of the files that points came from; a day that was never filled in, a name in another alphabet."""
    raw_path = some_las(tmp_path / "a.las", 1)
    data = bytearray(raw_path.read_bytes())
    data[26:58], data[90:94] = "Сканер".encode("cp1251").ljust(32, b"\0"), bytes(4)
    raw_path.write_bytes(data)
    prepare(raw_path, tmp_path / "s.zarr", grid=5.0, classes=LOW)
    group = zarr.open_group(str(tmp_path / "s.zarr" / "scenes" / "a" / "original"), mode="a")
    envelope.write_array(group, "source_row", np.arange(N) * 2)
    (path,) = export(tmp_path / "s.zarr", tmp_path / "out", "las", original=tmp_path / "s.zarr").paths
    assert path.read_bytes()[26:94] == bytes(data[26:94])
    assert laspy.read(path)["source_row"].tolist() == list(range(0, 2 * N, 2))
    assert_same_points(laspy.read(raw_path), laspy.read(path), but=("class",))


def change_header(folder: Path, at: slice, to: bytes) -> None:
    """Bytes of the header that the scenes store kept."""
    group = zarr.open_group(str(folder / "s.zarr" / "scenes" / "a" / "original"), mode="a")
    (file,) = group.attrs["files"]
    header = bytearray(base64.b64decode(str(file["las_header"])))
    header[at] = to
    group.attrs["files"] = [{**file, "las_header": base64.b64encode(header).decode()}]


def test_class_colours_replace_the_scanned_ones_only_if_asked(tmp_path: Path) -> None:
    there_and_back(some_las(tmp_path / "a.las", 7), tmp_path, LOW)
    (path,) = export(tmp_path / "p.zarr", tmp_path / "c", "las", original=tmp_path / "s.zarr", color="class").paths
    before, after = laspy.read(tmp_path / "a.las"), laspy.read(path)
    for old, new, channel in (("red", "scan_r", 0), ("green", "scan_g", 1), ("blue", "scan_b", 2)):
        np.testing.assert_array_equal(after[new], before[old])
        np.testing.assert_array_equal(after[old], LOW.colors[after["class"]][:, channel].astype(np.uint16) * 257)
    las = laspy.LasData(laspy.LasHeader(point_format=6))
    las.x = las.y = las.z = np.arange(99.0)
    las.write(tmp_path / "b.las")
    other = tmp_path / "other"
    other.mkdir()
    there_and_back(tmp_path / "b.las", other, LOW, grid=5.0)
    with pytest.raises(HpalError, match="no colours"):
        export(other / "p.zarr", other / "c", "las", original=other / "s.zarr", color="class")
    assert [p for p in (other / "c").rglob("*") if p.is_file()] == []


VIEWERS_TYPES = (np.uint8, np.int32, np.float32, np.float64)
"""Open3D leaves columns of other types out."""


@pytest.mark.parametrize("color", ["class", "rgb"])
def test_ply_of_a_las_file_has_its_positions_and_all_its_numbers(color: str, tmp_path: Path) -> None:
    there_and_back(some_las(tmp_path / "a.las", 8, most=2**53), tmp_path, LOW)
    (path,) = export(tmp_path / "p.zarr", tmp_path / "ply", original=tmp_path / "s.zarr", color=color).paths
    las, rows = laspy.read(tmp_path / "a.las"), plyfile.PlyData.read(str(path))["vertex"].data
    for axis in "xyz":
        np.testing.assert_array_equal(rows[axis], np.asarray(las[axis]))
    for name, wanted in (
        ("red", "scan_r"), ("green", "scan_g"), ("blue", "scan_b"), ("nir", "nir"), ("gps_time", "gps_time"),
        ("classification", "original_classification"), ("class", "original_class"), ("amplitude", "amplitude"),
    ):  # fmt: skip
        np.testing.assert_array_equal(rows[f"scalar_{wanted}"], np.asarray(las[name]), name)
        assert rows[f"scalar_{wanted}"].dtype in VIEWERS_TYPES
    np.testing.assert_array_equal(rows["scalar_my_range"], np.asarray(las["my range"]))
    np.testing.assert_array_equal(rows["scalar_label_1"], las["label"][:, 1])
    expected = LOW.colors[rows["scalar_class"]][:, 0] if color == "class" else np.asarray(las.red) >> 8
    np.testing.assert_array_equal(rows["red"], expected)


def test_positions_that_are_not_the_headers_are_refused(tmp_path: Path) -> None:
    there_and_back(some_las(tmp_path / "a.las", 6), tmp_path, LOW)
    change_header(tmp_path, slice(131, 139), np.float64(0.0017).tobytes())
    with pytest.raises(HpalError, match=r"steps of 0\.0017 x 0\.01 x 0\.0025"):
        export(tmp_path / "p.zarr", tmp_path / "again", "las", original=tmp_path / "s.zarr")
    change_header(tmp_path, slice(0, 4), b"LOST")
    for format in ("las", "ply"):
        with pytest.raises(HpalError, match=r"LAS header cannot be read"):
            export(tmp_path / "p.zarr", tmp_path / "again", format, original=tmp_path / "s.zarr")


def test_a_column_that_the_header_promises_is_missed(tmp_path: Path) -> None:
    there_and_back(some_las(tmp_path / "a.las", 6), tmp_path, LOW)
    group = zarr.open_group(str(tmp_path / "s.zarr" / "scenes" / "a" / "original"), mode="a")
    for name in ("gps_time", "classification"):
        del group[name]
        with pytest.raises(HpalError, match=f"no {name}, which its LAS header promises"):
            export(tmp_path / "p.zarr", tmp_path / "again", "las", original=tmp_path / "s.zarr")


@pytest.mark.parametrize("name", ["autzen_trim.laz", "sample_c.las", "warsaw_small.las"])
def test_shared_files(name: str, tmp_path: Path) -> None:
    raw_path = shared("las") / name
    path = there_and_back(raw_path, tmp_path, None, grid=5.0)
    assert_same_file(raw_path, path)


def test_shared_lambert93_tiles(tmp_path: Path) -> None:
    folder = shared("ign_lidar")
    prepare(folder, tmp_path / "s.zarr", grid=1.0)
    fake_predictions(tmp_path / "s.zarr", tmp_path / "p.zarr", features=None)
    paths = export(tmp_path / "p.zarr", tmp_path / "out", "las", original=tmp_path / "s.zarr").paths
    assert len(paths) == 4
    for path in paths:
        assert_same_file(folder / f"{path.stem}.laz", path)


def assert_same_file(raw_path: Path, path: Path) -> None:
    before, after = laspy.read(raw_path), laspy.read(path)
    assert after.header.point_format.id == before.header.point_format.id
    assert after.header.version == before.header.version
    assert_same_header(before.header, after.header)
    assert_same_points(before, after, but=("classification",))
    np.testing.assert_array_equal(after["original_classification"], np.asarray(before.classification))


@pytest.mark.parametrize("scene_per", ["folder", 200.0])
@pytest.mark.parametrize("lost", [False, True])
def test_every_file_comes_back_whatever_scenes_its_points_went_to(
    scene_per: str | float, lost: bool, tmp_path: Path
) -> None:
    """Files of other steps and offsets, in one folder or cut into tiles, come out each as it went in."""
    for n, name in enumerate(("a", "deep/b")):
        (tmp_path / "raw" / name).parent.mkdir(parents=True, exist_ok=True)
        las = laspy.read(some_las(tmp_path / "raw" / f"{name}.las", 6))
        las.x = np.asarray(las.x) + 20 * n
        if n:
            las.change_scaling([0.001, 0.003, 0.01], [700_000 + 1 / 3, 6_600_000, 0])
        las.write(str(tmp_path / "raw" / f"{name}.las"))
    prepare(tmp_path / "raw", tmp_path / "s.zarr", grid=2.0, scene_per=scene_per, classes=LOW)
    store = SceneStore(tmp_path / "s.zarr")
    assert len(store.table) == 2 if scene_per == "folder" else len(store.table) > 4
    of = fake_predictions(tmp_path / "s.zarr", tmp_path / "p.zarr", features=None)
    scenes = [scene.name for scene in store.table][: 4 if lost else None]
    done = export(of, tmp_path / "out", "las", original=tmp_path / "s.zarr", scenes=scenes)
    if scene_per == "folder":
        assert [path.relative_to(tmp_path / "out").as_posix() for path in done.paths] == ["deep.las", "raw.las"]
        return
    predictions = PredictionStore(of)
    names = {path.relative_to(tmp_path / "out").as_posix() for path in done.paths}
    assert names == {"a.las", "deep/b.las"}
    for name in names:
        before, after = laspy.read(tmp_path / "raw" / name), laspy.read(tmp_path / "out" / name)
        expected = np.full(len(before.points), -1)
        for scene in scenes:
            info = store.table.by_name[scene]
            points, inverse = store.original(info)
            files = [file.name for file in store.files(info)]
            mine = np.array([files[n] == name for n in points.attributes["source_file"]])
            rows = points.attributes["source_row"][mine]
            expected[rows] = predictions.predicted(info)[inverse][mine]
        there = expected >= 0
        assert there.all() != lost
        before.points = before.points[there]
        assert_same_points(before, after, but=("classification", "class"))
        np.testing.assert_array_equal(after["original_class"], before["class"])
        np.testing.assert_array_equal(after["class"], expected[there])
        assert list(after.header.scales) == list(before.header.scales)
        assert list(after.header.offsets) == list(before.header.offsets)
        if lost:
            np.testing.assert_array_equal(after["source_row"], np.flatnonzero(there))
        else:
            assert "source_row" not in after.point_format.extra_dimension_names


def test_a_table_with_las_codes_of_its_own(tmp_path: Path) -> None:
    """Classes are read and written by these codes, and the store keeps the numbers that the person gave."""
    las = laspy.create(point_format=6, file_version="1.4")
    las.x, las.y, las.z = np.random.default_rng(0).random((3, 60)) * 9
    las.classification = np.repeat([2, 6, 1], 20)
    las.write(str(tmp_path / "a.las"))
    rows = [{"id": 0, "name": "building", "code": 30, "las": 6}, {"id": 1, "name": "ground", "code": 40, "las": 2}]
    prepare(tmp_path / "a.las", tmp_path / "s.zarr", grid=None, classes=ClassTable.from_json(rows))
    store = SceneStore(tmp_path / "s.zarr")
    labels = store.labels(store.table[0])
    assert labels is not None
    assert labels.tolist() == [1] * 20 + [0] * 20 + [-1] * 20
    assert store.classes == ClassTable.from_json(rows)
    of = fake_predictions(tmp_path / "s.zarr", tmp_path / "p.zarr", features=None)
    (path,) = export(of, tmp_path / "out", "las", original=tmp_path / "s.zarr").paths
    predictions = PredictionStore(of)
    wanted = np.array([6, 2])[predictions.predicted(predictions.table[0])]
    np.testing.assert_array_equal(laspy.read(path).classification, wanted)


def test_a_table_that_numbers_from_zero_is_not_that_of_las(tmp_path: Path) -> None:
    """In LAS, 0 and 1 mean "not classified", which would be wrong for points whose class was predicted."""
    las = laspy.create(point_format=6, file_version="1.4")
    las.x, las.y, las.z = np.random.default_rng(0).random((3, 60)) * 9
    las.write(str(tmp_path / "a.las"))
    prepare(tmp_path / "a.las", tmp_path / "s.zarr", grid=None, classes=ClassTable.from_names(["wall", "floor"]))
    of = fake_predictions(tmp_path / "s.zarr", tmp_path / "p.zarr", features=None)
    (path,) = export(of, tmp_path / "out", "las", original=tmp_path / "s.zarr").paths
    predictions = PredictionStore(of)
    np.testing.assert_array_equal(laspy.read(path).classification, 64 + predictions.predicted(predictions.table[0]))
