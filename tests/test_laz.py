"""LAZ stays LAZ; COPC and EPT are read as the clouds that they are."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import laspy
import numpy as np
import pytest
from conftest import fake_predictions, run_hpal
from laspy.vlrs.vlrlist import VLRList
from test_export_las import HIGH, LOW, assert_same_file, assert_same_points, some_las
from test_readers import names, read, shared, write

from hpal_cli import readers
from hpal_cli.errors import HpalError, UsageError
from hpal_cli.export.files import export
from hpal_cli.readers import las
from hpal_cli.readers.cloud import Source
from hpal_cli.scenes.prepare import prepare
from hpal_cli.scenes.store import SceneStore
from hpal_cli.training.presets import PRESETS
from hpal_cli.training.train import train

FORMATS = [0, 1, 2, 3, 6, 7, 8]
WAVEFORMS = [4, 5, 9, 10]
ANGLES = ("scan_angle_rank", "scan_angle")
"""Of which the wider formats have another one."""


def some_laz(path: Path, point_format: int = 6, *, copc: bool = False) -> Path:
    """What `some_las` makes, compressed; with the records of a COPC, which say where its bytes are."""
    file = laspy.read(some_las(path.with_suffix(".tmp.las"), point_format))
    if copc:
        file.header.vlrs.insert(0, laspy.VLR("copc", 1, "info", bytes(160)))
        file.evlrs = VLRList([*file.evlrs, laspy.VLR("copc", 1000, "hierarchy", bytes(32))])
    file.write(str(path), do_compress=True)
    path.with_suffix(".tmp.las").unlink()
    return path


def is_compressed(path: Path) -> bool:
    with laspy.open(path) as reader:
        return bool(reader.header.are_points_compressed)


@pytest.mark.parametrize("point_format", FORMATS)
@pytest.mark.parametrize("predict", [True, False])
def test_laz_stays_laz(tmp_path: Path, point_format: int, predict: bool) -> None:
    raw = some_laz(tmp_path / "a.laz", point_format)
    prepare(raw, tmp_path / "s.zarr", grid=100.0, classes=LOW)
    of = fake_predictions(tmp_path / "s.zarr", tmp_path / "p.zarr", features=None) if predict else tmp_path / "s.zarr"
    made = {}
    for folder, format, uncompressed in (("as", "las", False), ("plain", "las", True), ("laz", "laz", False)):
        (made[folder],) = export(
            of, tmp_path / folder, format, original=tmp_path / "s.zarr", uncompressed=uncompressed
        ).paths
    assert [path.suffix for path in made.values()] == [".laz", ".las", ".laz"]
    assert [is_compressed(path) for path in made.values()] == [True, False, True]
    assert made["as"].read_bytes() == made["laz"].read_bytes()
    assert made["as"].stat().st_size < made["plain"].stat().st_size
    before, after, plain = laspy.read(raw), laspy.read(made["as"]), laspy.read(made["plain"])
    assert_same_points(before, after, but=("classification", "class", "label"))
    for name in plain.point_format.dimension_names:
        np.testing.assert_array_equal(np.asarray(plain[name]), np.asarray(after[name]), name)
    assert [record.record_data_bytes() for record in after.evlrs] == [r.record_data_bytes() for r in before.evlrs]


@pytest.mark.parametrize("point_format", WAVEFORMS)
def test_waveform_fields_are_not_spoilt(tmp_path: Path, point_format: int) -> None:
    """lazrs compresses those of formats 9 and 10 wrongly, and a table with large numbers makes 4 and 5 such ones."""
    raw = some_laz(tmp_path / "a.laz", point_format)
    assert bool(read(raw).notes) == (point_format in (9, 10))
    prepare(raw, tmp_path / "s.zarr", grid=100.0, classes=HIGH)
    fake_predictions(tmp_path / "s.zarr", tmp_path / "p.zarr", features=None)
    (path,) = export(tmp_path / "p.zarr", tmp_path / "out", "las", original=tmp_path / "s.zarr").paths
    assert path.name == "a.las"
    assert_same_points(laspy.read(raw), laspy.read(path), but=("classification", "class", "label", *ANGLES))
    with pytest.raises(
        HpalError, match=r"a\.laz: LAZ would spoil the waveform fields of its points; write las instead"
    ):
        export(tmp_path / "p.zarr", tmp_path / "laz", "laz", original=tmp_path / "s.zarr")
    assert not (tmp_path / "laz").exists()


def test_las_and_ply_get_compressed_only_where_asked(tmp_path: Path) -> None:
    some_las(tmp_path / "a.las", 6)
    prepare(tmp_path / "a.las", tmp_path / "s.zarr", grid=100.0, classes=LOW)
    for format, suffix in (("las", ".las"), ("laz", ".laz")):
        (path,) = export(tmp_path / "s.zarr", tmp_path / format, format, original=tmp_path / "s.zarr").paths
        assert path.suffix == suffix
        assert is_compressed(path) == (suffix == ".laz")
    (path,) = export(tmp_path / "s.zarr", tmp_path / "grid", "laz").paths
    assert path.name == "a.laz"
    assert is_compressed(path)
    for original, format in ((None, "las"), (tmp_path / "s.zarr", "laz")):
        with pytest.raises(UsageError, match="--uncompressed: is for --format las with --original"):
            export(tmp_path / "s.zarr", tmp_path / "no", format, original=original, uncompressed=True)


def test_two_strips_of_one_scene_each_in_its_own_form(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    some_laz(tmp_path / "raw" / "a.laz")
    some_las(tmp_path / "raw" / "b.las", 6)
    prepare(tmp_path / "raw", tmp_path / "s.zarr", grid=100.0, scene_per="folder", classes=LOW)
    paths = export(tmp_path / "s.zarr", tmp_path / "out", "las", original=tmp_path / "s.zarr").paths
    assert sorted(path.name for path in paths) == ["a.laz", "b.las"]


def test_predict_and_export_by_command(tmp_path: Path) -> None:
    some_laz(tmp_path / "a.laz")
    prepare(tmp_path / "a.laz", tmp_path / "s.zarr", grid=100.0, classes=LOW)
    settings = replace(PRESETS["small"], voxel=400.0, steps=1, batch=1)
    train(SceneStore(tmp_path / "s.zarr"), None, settings).save(tmp_path / "m.pt", overwrite=False)
    call = ("predict", "m.pt", "s.zarr", "--device", "cpu", "-q")
    for more, name in (((), "a.laz"), (("--uncompressed",), "a.las")):
        done = run_hpal(*call, "-o", f"{name}.zarr", "--las", f"of-{name}", *more, cwd=tmp_path)
        assert done.rc == 0, done.err
        assert [path.name for path in (tmp_path / f"of-{name}").iterdir()] == [name]
        done = run_hpal(
            "export",
            f"{name}.zarr",
            "--original",
            "s.zarr",
            "--format",
            "las",
            "-o",
            f"again-{name}",
            *more,
            cwd=tmp_path,
        )
        assert done.rc == 0, done.err
        assert (tmp_path / f"again-{name}" / name).read_bytes() == (tmp_path / f"of-{name}" / name).read_bytes()
    done = run_hpal(*call, "-o", "x.zarr", "--las", "of-a.laz", cwd=tmp_path)
    assert done.rc == 1
    assert "of-a.laz/a.laz: exists" in done.err
    done = run_hpal(*call, "-o", "x.zarr", "--uncompressed", cwd=tmp_path)
    assert done.rc == 2
    assert "--uncompressed: has no meaning without --las" in done.err


def test_copc_is_read_and_comes_back_as_laz(tmp_path: Path) -> None:
    raw = some_laz(tmp_path / "a.copc.laz", copc=True)
    assert names(raw) == names(tmp_path) == ["a"]
    prepare(raw, tmp_path / "s.zarr", grid=100.0, classes=LOW)
    (path,) = export(tmp_path / "s.zarr", tmp_path / "out", "las", original=tmp_path / "s.zarr").paths
    assert path.name == "a.laz"
    before, after = laspy.read(raw), laspy.read(path)
    assert len(before.header.vlrs) > 1
    assert_same_points(before, after, but=("class", "label"))
    assert not [record for record in (*after.header.vlrs, *after.evlrs) if record.user_id == "copc"]
    assert [record.user_id for record in after.evlrs] == ["somebody"]


def an_ept(folder: Path, **about: object) -> list[Path]:
    """Three nodes, of 400 points each."""
    nodes = [folder / "ept-data" / f"{key}.laz" for key in ("0-0-0-0", "1-0-0-0", "1-1-0-1")]
    (folder / "ept-data").mkdir(parents=True)
    for n, node in enumerate(nodes):
        some_laz(node)
        file = laspy.read(node)
        file.X = np.asarray(file.X) + n
        file.write(str(node), do_compress=True)
    srs = {"wkt": 'PROJCS["a",GEOGCS["b",UNIT["degree",0.0174]],UNIT["US survey foot",0.3048006]]'}
    said = {"points": 1200, "dataType": "laszip", "version": "1.0.0", "srs": srs, **about}
    write(folder / "ept.json", json.dumps(said))
    write(folder / "ept-hierarchy" / "0-0-0-0.json", "{}")
    return nodes


def test_an_ept_is_one_scene(tmp_path: Path) -> None:
    nodes = an_ept(tmp_path / "town" / "ept")
    some_laz(tmp_path / "town" / "b.laz")
    assert names(tmp_path) == ["town/b", "town/ept"]
    for root in (tmp_path / "town" / "ept", tmp_path / "town" / "ept" / "ept.json"):
        reader, (source,) = readers.find(root)
        assert (reader, source.name) == (las, "ept")
        assert reader.count(source) == 1200
        assert readers.passed_over(root, reader, [source]) is None
    assert readers.passed_over(tmp_path, *readers.find(tmp_path)) is None
    cloud = readers.read(*[reader, source])
    expected = np.concatenate([readers.read(las, Source("n", node)).xyz for node in nodes])
    np.testing.assert_array_equal(cloud.xyz, expected)
    assert cloud.unit == 1.0, "as the nodes say"
    prepare(tmp_path / "town" / "ept", tmp_path / "s.zarr", grid=100.0, classes=LOW)
    (path,) = export(tmp_path / "s.zarr", tmp_path / "out", "las", original=tmp_path / "s.zarr").paths
    assert path.name == "ept.laz"
    after = laspy.read(path)
    np.testing.assert_array_equal(np.asarray(after.x), expected[:, 0])
    done = run_hpal("prep", tmp_path / "town" / "ept", "-o", tmp_path / "t.zarr", "-q")
    assert done.rc == 0, done.err


def test_the_unit_of_an_ept_where_its_nodes_have_none(tmp_path: Path) -> None:
    for node in an_ept(tmp_path / "ept"):
        file = laspy.read(node)
        file.header.vlrs.clear()
        file.write(str(node), do_compress=True)
    assert read(tmp_path / "ept").unit == pytest.approx(0.3048006)


@pytest.mark.parametrize(
    ("about", "message"),
    [
        ({"dataType": "binary"}, "holds points as binary, and only laszip is read"),
        ({"points": 1300}, "promises 1,300 points, and the files in ept-data hold 1,200"),
        ({"points": None}, "cannot be read as an EPT"),
        ({"srs": 3}, "cannot be read as an EPT"),
    ],
)
def test_an_ept_that_is_not_whole(tmp_path: Path, about: dict[str, object], message: str) -> None:
    an_ept(tmp_path / "ept", **about)
    with pytest.raises(HpalError, match=rf"ept\.json: {message}"):
        read(tmp_path / "ept")


def test_shared_tiles_stay_laz(tmp_path: Path) -> None:
    tile = shared("ign_lidar/test_data_77055_627755_LA93_IGN69.laz")
    prepare(tile, tmp_path / "s.zarr", grid=1.0)
    fake_predictions(tmp_path / "s.zarr", tmp_path / "p.zarr", features=None)
    (path,) = export(tmp_path / "p.zarr", tmp_path / "out", "las", original=tmp_path / "s.zarr").paths
    assert path.suffix == ".laz"
    assert path.stat().st_size < 3 * tile.stat().st_size
    assert_same_file(tile, path)
