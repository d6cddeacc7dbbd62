"""LAZ stays LAZ, COPC stays COPC; an EPT is read as the cloud that it is."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import laspy
import numpy as np
import pytest
from conftest import fake_predictions, run_hpal
from laspy.copc import Bounds
from laspy.vlrs.vlrlist import VLRList
from test_export_las import HIGH, LOW, N, assert_same_file, assert_same_header, assert_same_points, some_las
from test_readers import names, read, shared, write

from hpal_cli import readers
from hpal_cli.errors import HpalError, UsageError
from hpal_cli.export.files import export
from hpal_cli.readers import copc, las
from hpal_cli.readers.cloud import Source
from hpal_cli.scenes.prepare import prepare
from hpal_cli.scenes.store import SceneStore
from hpal_cli.training.presets import PRESETS
from hpal_cli.training.train import train
from hpal_cli.writers.copc import compress

FORMATS = [0, 1, 2, 3, 6, 7, 8]
WAVEFORMS = [4, 5, 9, 10]
ANGLES = ("scan_angle_rank", "scan_angle")
"""Of which the wider formats have another one."""


def some_laz(path: Path, point_format: int = 6, *, copc: bool = False) -> Path:
    """What `some_las` makes, compressed; with records of a COPC, which say nothing true."""
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


def a_copc(path: Path) -> Path:
    """What `some_las` makes, with 100 points in the root of an octree and the others in those of its octants."""
    file = laspy.read(some_las(path.with_suffix(".tmp.las"), 6))
    centre, halfsize = file.header.offsets, 600.0
    assert np.abs(np.column_stack([file.x, file.y, file.z]) - centre).max() < halfsize
    octant = ((np.column_stack([file.X, file.Y, file.Z]) >= 0) * [1, 2, 4]).sum(axis=1)
    octant[:100] = -1
    order = np.argsort(octant, kind="stable")
    file.points = file.points[order]
    file.write(path.with_suffix(".tmp.las"))
    nodes = np.zeros(10, copc.NODE)
    nodes["key"][1:9] = [(1, n & 1, n >> 1 & 1, n >> 2) for n in range(8)]
    nodes["points"][:9] = np.bincount(octant + 1)
    nodes["key"][9] = 2, 0, 0, 0  # without points
    info = struct.pack("<5d2Q2d", *centre, halfsize, 10.0, 0, 0, file.gps_time.min(), file.gps_time.max()) + bytes(88)
    with path.with_suffix(".tmp.las").open("rb") as plain, path.open("w+b") as made:
        compress(plain, info, nodes, made)
    path.with_suffix(".tmp.las").unlink()
    return path


def octree_of(path: Path) -> dict[tuple[int, ...], np.ndarray]:
    """The points of each level and each octant, as a reader of COPC finds them."""
    found = {}
    with laspy.CopcReader.open(path) as reader:
        middle = reader.copc_info.center
        for level in range(3):
            found[level,] = reader.query(level=level)
        for n in range(8):
            side = np.array([n & 1, n >> 1 & 1, n >> 2])
            low, high = middle + 600 * (side - 1), middle + 600 * side
            found[1, n] = reader.query(Bounds(low, high), level=1)
        found[()] = reader.query()
    return {key: np.column_stack([points.X, points.Y, points.Z]) for key, points in found.items()}


def test_copc_stays_copc(tmp_path: Path) -> None:
    raw = a_copc(tmp_path / "a.copc.laz")
    assert names(raw) == names(tmp_path) == ["a"]
    assert not read(raw).notes
    expected = octree_of(raw)
    assert len(expected[0,]) == 100
    assert len(expected[1,]) == len(expected[()]) - 100 == 300
    assert all(0 < len(expected[1, n]) < 100 for n in range(8))
    prepare(raw, tmp_path / "s.zarr", grid=100.0, classes=LOW)
    fake_predictions(tmp_path / "s.zarr", tmp_path / "p.zarr", features=None)
    for of in ("s.zarr", "p.zarr"):
        for format in ("las", "laz"):
            out = tmp_path / of[0] / format
            (path,) = export(tmp_path / of, out, format, original=tmp_path / "s.zarr").paths
            assert path.name == "a.copc.laz"
            before, after = laspy.read(raw), laspy.read(path)
            assert_same_points(before, after, but=("class", "label", "classification"))
            for header in (before.header, after.header):
                assert type(header.vlrs.pop(0)).__name__ == "CopcInfoVlr"
            assert_same_header(before.header, after.header)
            assert [r.user_id for r in after.evlrs] == ["somebody", "copc"]
            assert after.evlrs[0].record_data_bytes() == before.evlrs[0].record_data_bytes()
            found = octree_of(path)
            for key, points in expected.items():
                np.testing.assert_array_equal(found[key], points, str(key))
    with laspy.CopcReader.open(path) as reader:
        np.testing.assert_array_equal(reader.query()["class"], after["class"])
    (path,) = export(tmp_path / "s.zarr", tmp_path, "las", original=tmp_path / "s.zarr", uncompressed=True).paths
    assert path.name == "a.las"
    assert not is_compressed(path)
    assert not [
        record for record in (*laspy.read(path).header.vlrs, *laspy.read(path).evlrs) if record.user_id == "copc"
    ]


def test_a_part_of_a_copc_has_its_octree(tmp_path: Path) -> None:
    raw = a_copc(tmp_path / "a.copc.laz")
    prepare(raw, tmp_path / "s.zarr", grid=100.0, scene_per=200.0, classes=LOW)
    store = SceneStore(tmp_path / "s.zarr")
    assert len(store.table) > 1
    (path,) = export(tmp_path / "s.zarr", tmp_path / "all", "las", original=tmp_path / "s.zarr").paths
    assert path.name == "a.copc.laz"
    assert_same_points(laspy.read(raw), laspy.read(path), but=("class", "label"))
    some = next(iter(store.table)).name
    (path,) = export(tmp_path / "s.zarr", tmp_path / "one", "las", original=tmp_path / "s.zarr", scenes=[some]).paths
    rows = laspy.read(path)["source_row"]
    assert 0 < len(rows) < N
    whole = laspy.read(raw)
    in_order = np.column_stack([whole.X, whole.Y, whole.Z])
    found = octree_of(path)
    np.testing.assert_array_equal(found[0,], in_order[rows[rows < 100]])
    assert len(found[()]) == len(rows)


def test_an_octree_that_is_not_the_files_own_is_left_out(tmp_path: Path) -> None:
    """Programs that write the points anew and copy all records leave such an octree."""
    raw = some_laz(tmp_path / "a.copc.laz", copc=True)
    prepare(raw, tmp_path / "s.zarr", grid=100.0, classes=LOW)
    assert read(raw).notes == ["its octree is not that of its points: results are written as plain LAZ"]
    (path,) = export(tmp_path / "s.zarr", tmp_path / "out", "las", original=tmp_path / "s.zarr").paths
    assert path.name == "a.laz"
    before, after = laspy.read(raw), laspy.read(path)
    assert len(before.header.vlrs) > 1
    assert_same_points(before, after, but=("class", "label"))
    assert not [record for record in (*after.header.vlrs, *after.evlrs) if record.user_id == "copc"]
    assert [record.user_id for record in after.evlrs] == ["somebody"]


def damaged(path: Path, change: Callable[[np.ndarray], None]) -> Path:
    """The COPC, with its list of nodes changed."""
    data = bytearray(path.read_bytes())
    start, size = struct.unpack_from("<QQ", data, 375 + 54 + copc.ROOT_PAGE.start)
    nodes = np.frombuffer(bytes(data[start : start + size]), copc.NODE).copy()
    change(nodes)
    data[start : start + size] = nodes.tobytes()
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("field", "value"),
    [("points", 7), ("points", -1), ("points", -5), ("offset", 2**63), ("offset", 0)],
    ids=["count", "a page that is its own", "negative", "far away", "another order"],
)
def test_a_damaged_octree_is_no_error(tmp_path: Path, field: str, value: int) -> None:
    raw = a_copc(tmp_path / "a.copc.laz")

    def change(nodes: np.ndarray) -> None:
        nodes[field][3] = value

    before = laspy.read(raw)
    cloud = read(damaged(raw, change))
    assert len(cloud.xyz) == len(before.points)
    assert cloud.notes == ["its octree is not that of its points: results are written as plain LAZ"]
    assert cloud.las_header is not None
    assert copc.info(cloud.las_header) is None


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
