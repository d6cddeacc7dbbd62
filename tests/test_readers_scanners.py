"""What scanners and data sets write besides: PTX, PTS, nuScenes, and tables of points whose names are their own."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import run_hpal
from test_readers import names, read, write, write_ply

from hpal_cli import readers
from hpal_cli.errors import HpalError
from hpal_cli.readers import number_table, nuscenes, ptx
from hpal_cli.readers.cloud import Source
from hpal_cli.scenes.store import SceneStore

# ---------------------------------------------------------------- PTX

# A quarter turn about z, and 100, 200, 300 further.
MATRIX = "0 1 0 0\n-1 0 0 0\n0 0 1 0\n100 200 300 1\n"
IDENTITY = "1 0 0 0\n0 1 0 0\n0 0 1 0\n0 0 0 1\n"


def scan(columns: int, rows: int, points: str, matrix: str = IDENTITY) -> str:
    return f"{columns}\n{rows}\n0 0 0\n1 0 0\n0 1 0\n0 0 1\n{matrix}{points}"


def test_ptx(tmp_path: Path) -> None:
    first = scan(2, 1, "1 2 3 0.5 255 128 0\n0 0 0 0.5 0 0 0\n", MATRIX)
    second = scan(1, 2, "4 5 6 0.25 1 2 3\r\n7 8 9 1 4 5 6\r\n")
    write(tmp_path / "sub" / "a.PTX", first + second)
    reader, (source,) = readers.find(tmp_path)
    assert (reader, source.name) == (ptx, "sub/a")
    assert ptx.count(source) == 4
    cloud = readers.read(reader, source)
    assert cloud.xyz.tolist() == [[98, 201, 303], [4, 5, 6], [7, 8, 9]]
    assert cloud.rgb is not None
    assert cloud.rgb.tolist() == [[255, 128, 0], [1, 2, 3], [4, 5, 6]]
    assert cloud.attributes["intensity"].tolist() == [0.5, 0.25, 1]
    assert cloud.notes == ["left out 1 of 4 points, where the scanner hit nothing"]


def test_ptx_without_colour_or_with_some(tmp_path: Path) -> None:
    bare, coloured = scan(1, 1, "1 2 3 0.5\n"), scan(1, 1, "1 2 3 0.5 1 2 3\n")
    cloud = read(write(tmp_path / "a.ptx", bare + "\n" + bare))
    assert (cloud.rgb, cloud.notes) == (None, [])
    cloud = read(write(tmp_path / "a.ptx", bare + coloured))
    assert cloud.rgb is None
    assert cloud.xyz.tolist() == [[1, 2, 3]] * 2
    assert cloud.notes == ["colours left out: only 1 of 2 scans have them"]


def test_ptx_in_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(number_table, "ROWS", 100)
    monkeypatch.setattr(number_table, "_PIECE", 256)
    parts = ["".join(f"{n + k} 1 2 0.5\n" for n in range(1, 226)) for k in (0, 1000)]
    cloud = read(write(tmp_path / "a.ptx", scan(15, 15, parts[0]) + scan(225, 1, parts[1])))
    assert cloud.xyz[:, 0].tolist() == [*range(1, 226), *range(1001, 1226)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "holds no scan"),
        ("hello\n", "line 1 is not what a PTX header has there"),
        ("2\n1\n0 0 0\n1 0\n", "line 4 is not what a PTX header has there"),
        ("2\n1\n0 0 0\n", "line 4 is not what a PTX header has there"),
        (scan(1, -1, "1 2 3 4\n"), "the header before line 11 has impossible numbers"),
        (scan(1, 1, "1 2 3 4\n", IDENTITY.replace("0 0 0 1", "0 0 nan 1")), "has impossible numbers"),
        (scan(1, 1, "1 2 3\n"), r"line 11 has 3 columns, expected 4 \(x y z intensity\) or 7"),
        (scan(2, 1, "1 2 3 4\n"), "scan 1 holds 1 of its 2 points"),
        (scan(1, 1, "1 2 3 4\n") + scan(10**6, 10**6, "1 2 3 4\n"), "scan 2 holds 1 of its 1,000,000,000,000 points"),
        (scan(2, 1, "1 2 3 4\n1 x 3 4\n"), "line 12: 'x' is not a number"),
        (scan(1, 1, "1 2 3 4\n") + scan(2, 1, "1 2 3 4\n1 2 3\n"), "line 23 has 3 columns, expected 4"),
    ],
)
def test_ptx_that_is_damaged(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(HpalError, match=rf"a\.ptx: .*{message}"):
        read(write(tmp_path / "a.ptx", content))


# ---------------------------------------------------------------- PTS


@pytest.mark.parametrize(
    ("content", "xyz", "note"),
    [
        ("2\n1 2 3 -9 4 5 6\n4 5 6 0 1 1 1\n1\n7 8 9 5 2 2 2\n", [[1, 2, 3], [4, 5, 6], [7, 8, 9]], None),
        ("1\r\n1 2 3 -9 4 5 6\r\n\r\n1\r\n7 8 9 5 2 2 2\r\n", [[1, 2, 3], [7, 8, 9]], None),
        (
            "1\n1 2 3 -9 4 5 6\n3\n7 8 9 5 2 2 2\n",
            [[1, 2, 3], [7, 8, 9]],
            "2 lines of counts promise 4 points, the file holds 2",
        ),
        (
            "1\n1 2 3 -9 4 5 6\n7 8 9 5 2 2 2\n",
            [[1, 2, 3], [7, 8, 9]],
            "the first line promises 1 points, the file holds 2",
        ),
    ],
)
def test_pts_of_several_clouds(tmp_path: Path, content: str, xyz: list, note: str | None) -> None:
    cloud = read(write(tmp_path / "a.pts", content))
    assert cloud.xyz.tolist() == xyz
    assert cloud.rgb is not None
    assert cloud.attributes["intensity"][0] == -9
    assert cloud.notes == ([] if note is None else [note])


def test_a_line_of_a_second_cloud_is_named(tmp_path: Path) -> None:
    with pytest.raises(HpalError, match=r"a\.pts: line 5: 'x' is not a number"):
        read(write(tmp_path / "a.pts", "1\n1 2 3 4\n2\n1 2 3 4\n1 x 3 4\n"))
    with pytest.raises(HpalError, match=r"a\.xyz: line 4 has 1 columns, expected 3"):
        read(write(tmp_path / "a.xyz", "1\n1 2 3\n4 5 6\n1\n1 2 3\n"))


@pytest.mark.parametrize("blank", ["\x0b", "\x1c", "\x85", "\xa0"])
def test_blanks_around_the_number_of_points_of_a_second_cloud(tmp_path: Path, blank: str) -> None:
    """All of these but the first are stripped from text as blanks, but not from bytes."""
    for between in (f"1{blank}\n", f"{blank}1\n", f"{blank}\n1\n"):
        path = tmp_path / "a.pts"
        path.write_text(f"1\n1 2 3 4\n{between}5 6 7 8\n", encoding="latin-1")
        assert read(path).xyz.tolist() == [[1, 2, 3], [5, 6, 7]]


def test_a_number_of_points_that_is_longer_than_python_reads(tmp_path: Path) -> None:
    """Python refuses numbers of more than 4,300 digits."""
    digits = "9" * 5000
    with pytest.raises(HpalError, match=r"a\.pts: line 2 has 4 columns, expected 1"):
        read(write(tmp_path / "a.pts", f"{digits}\n1 2 3 4\n"))
    with pytest.raises(HpalError, match=r"a\.pts: line 3 has 1 columns, expected 4"):
        read(write(tmp_path / "a.pts", f"1\n1 2 3 4\n{digits}\n1 2 3 4\n"))


def test_positions_of_ptx_that_become_infinite_are_left_out(tmp_path: Path) -> None:
    head = "2\n1\n0 0 0\n1 0 0\n0 1 0\n0 0 1\n1e300 0 0 0\n0 1 0 0\n0 0 1 0\n0 0 0 1\n"
    cloud = read(write(tmp_path / "a.ptx", f"{head}1e300 -1e300 1e300 0.5\n1e-300 2 3 0.5\n"))
    assert cloud.xyz.tolist() == [[1, 2, 3]]
    assert cloud.notes == ["left out 1 of 2 points, whose coordinates are NaN or infinite"]


# ---------------------------------------------------------------- nuScenes

SAMPLE = "n015__LIDAR_TOP__1532402927647951"


def a_data_set(root: Path, labels: list[int] | None, *, tables: bool = True, points: int = 3) -> Path:
    values = np.arange(5 * points, dtype="<f4").reshape(points, 5)
    path = write(root / "samples" / "LIDAR_TOP" / f"{SAMPLE}.pcd.bin", values.tobytes())
    write(root / "sweeps" / "LIDAR_TOP" / "between.pcd.bin", values.tobytes())
    if labels is not None:
        write(root / "lidarseg" / "v1.0-mini" / "t1_lidarseg.bin", np.array(labels, "u1").tobytes())
    if tables:
        records = [
            {"token": "t0", "filename": "samples/CAM_BACK/x.jpg", "height": 900},
            {"token": "t1", "filename": f"samples/LIDAR_TOP/{SAMPLE}.pcd.bin"},
            {"token": "t2", "filename": "sweeps/LIDAR_TOP/between.pcd.bin"},
        ]
        write(root / "v1.0-mini" / "sample_data.json", json.dumps(records, indent=0))
        rows = [{"token": "t1", "sample_data_token": "t1", "filename": "lidarseg/v1.0-mini/t1_lidarseg.bin"}]
        write(root / "v1.0-mini" / "lidarseg.json", json.dumps(rows))
    return path


def test_nuscenes(tmp_path: Path) -> None:
    path = a_data_set(tmp_path / "nu", [17, 31, 24])
    reader, sources = readers.find(tmp_path)
    assert reader is nuscenes
    assert [source.name for source in sources] == [SAMPLE]
    assert names(path) == [SAMPLE]
    assert readers.passed_over(tmp_path, reader, sources) is None, "labels are no clouds"
    cloud = readers.read(reader, sources[0])
    assert cloud.xyz.tolist() == [[0, 1, 2], [5, 6, 7], [10, 11, 12]]
    assert cloud.attributes["intensity"].tolist() == [3, 8, 13]
    assert cloud.carried["ring"].tolist() == [4, 9, 14]
    assert cloud.label is not None
    assert cloud.label.tolist() == [17, 31, 24]
    assert nuscenes.count(sources[0]) == 3
    done = run_hpal("prep", tmp_path / "nu", "-o", tmp_path / "s.zarr")
    assert done.rc == 0, done.err
    store = SceneStore(tmp_path / "s.zarr")
    points, _ = store.original(store.table[0], label=True)
    assert points.label is not None
    assert [store.classes[n].name if n >= 0 else None for n in points.label] == ["car", None, "driveable_surface"]


def test_nuscenes_without_labels(tmp_path: Path) -> None:
    a_data_set(tmp_path, None, tables=False)
    assert read(tmp_path).label is None


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda root: (root / "lidarseg/v1.0-mini/t1_lidarseg.bin").write_bytes(b"1"), "has 1 bytes, not one for each"),
        (lambda root: (root / "lidarseg/v1.0-mini/t1_lidarseg.bin").unlink(), "cannot be read"),
        (lambda root: (root / "v1.0-mini/lidarseg.json").write_text("[{}]"), r"lidarseg\.json: cannot be read with"),
        (lambda root: (root / "v1.0-mini/sample_data.json").unlink(), r"sample_data\.json: cannot be read"),
        (
            lambda root: (root / "samples/LIDAR_TOP" / f"{SAMPLE}.pcd.bin").write_bytes(b"1" * 16),
            "has 16 bytes, not 20 for each point",
        ),
    ],
)
def test_nuscenes_that_is_damaged(tmp_path: Path, break_it: object, message: str) -> None:
    a_data_set(tmp_path, [17, 31, 24])
    break_it(tmp_path)  # type: ignore[operator]
    with pytest.raises(HpalError, match=message):
        read(tmp_path)


# ---------------------------------------------------------------- tables of points


def test_toronto_3d_as_it_is(tmp_path: Path) -> None:
    """Its PLY has map coordinates, and its fields by CloudCompare's names."""
    values = {
        "x": np.array([627285.1, 627285.2]), "y": np.array([4841948.0, 4841949.0]), "z": np.array([40.0, 41.0]),
        "red": np.array([1, 2], "u1"), "green": np.array([3, 4], "u1"), "blue": np.array([5, 6], "u1"),
        "scalar_Intensity": np.array([7, 8], "f4"), "scalar_GPSTime": np.array([9, 10], "f8"),
        "scalar_ScanAngleRank": np.array([0, 1], "f4"), "scalar_Label": np.array([0, 8], "f4"),
    }  # fmt: skip
    cloud = read(write_ply(tmp_path / "L001.ply", values, faces=False))
    assert cloud.xyz[:, 0].tolist() == [627285.1, 627285.2]
    assert cloud.rgb is not None
    assert cloud.label is not None
    assert cloud.label.tolist() == [0, 8]
    assert list(cloud.attributes) == ["scalar_Intensity", "scalar_GPSTime", "scalar_ScanAngleRank"]


def test_stpls3d_with_columns_that_are_named(tmp_path: Path) -> None:
    """Eight columns, which do not explain themselves."""
    write(tmp_path / "a.txt", "1.5,2.5,3.5,10,20,30,4,-100\n2.5,2.5,3.5,11,21,31,2,7\n")
    classes = write(tmp_path / "c.json", '[{"name": "a", "code": 4}, {"name": "b", "code": 2}]')
    done = run_hpal("prep", tmp_path / "a.txt", "-o", tmp_path / "s.zarr", "--classes", classes)
    assert done.rc == 1
    assert "--columns" in done.err
    call = ("prep", tmp_path / "a.txt", "-o", tmp_path / "s.zarr", "--classes", classes)
    done = run_hpal(*call, "--columns", "x,y,z,r,g,b,label,-")
    assert done.rc == 0, done.err
    store = SceneStore(tmp_path / "s.zarr")
    points, _ = store.original(store.table[0], label=True)
    assert points.label is not None
    assert points.label.tolist() == [0, 1]
    assert points.rgb is not None
    assert points.rgb.tolist() == [[10, 20, 30], [11, 21, 31]]


def test_a_frame_as_npz(tmp_path: Path) -> None:
    frame = {"points": np.eye(3, dtype="f4"), "labels": np.array([1, 2, 3], "i4"), "elongation": np.zeros(3, "f4")}
    np.savez(tmp_path / "frame_0.npz", **frame)
    cloud = read(tmp_path)
    assert cloud.xyz.tolist() == np.eye(3).tolist()
    assert cloud.label is not None
    assert cloud.label.tolist() == [1, 2, 3]
    assert list(cloud.attributes) == ["elongation"]


@pytest.mark.parametrize("kind", ["npz", "npz with colours in one array"])
def test_one_array_for_each_column(tmp_path: Path, kind: str) -> None:
    frame = {"X": np.arange(3.0), "y": np.ones(3), "z": np.zeros(3), "intensity": np.arange(3), "label": np.arange(3)}
    colours = np.arange(9, dtype="u1").reshape(3, 3)
    channels = {"r": colours[:, 0], "g": colours[:, 1], "b": colours[:, 2]}
    np.savez(tmp_path / "a.npz", **frame, **(channels if kind == "npz" else {"rgb": colours}))
    cloud = read(tmp_path)
    assert cloud.xyz.tolist() == [[0, 1, 0], [1, 1, 0], [2, 1, 0]]
    assert cloud.rgb is not None
    assert cloud.rgb.tolist() == colours.tolist()
    assert cloud.label is not None
    assert cloud.label.tolist() == [0, 1, 2]
    assert list(cloud.attributes) == ["intensity"]
    assert cloud.notes == []
    np.savez(tmp_path / "a.npz", **{**frame, "z": np.zeros(2)})
    with pytest.raises(HpalError, match=r"has no positions among its arrays .* or points, or x, y and z"):
        read(tmp_path)


def test_sources_of_two_data_sets_do_not_meet(tmp_path: Path) -> None:
    """A `.pcd.bin` of 20 bytes a point would be read as sweeps of 16."""
    path = a_data_set(tmp_path, [17, 31, 24, 0], points=4)
    assert path.stat().st_size % 16 == 0
    from hpal_cli.readers import semantickitti
    from hpal_cli.readers.cloud import Options

    assert semantickitti.find(tmp_path, Options()) == []
    assert nuscenes.count(Source("absent", tmp_path / "absent")) is None
