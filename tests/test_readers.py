"""The readers: what is in the file comes back, and what is wrong with a file is one line that names it."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import laspy
import numpy as np
import plyfile
import pytest
from conftest import Done

from hpal_cli import readers
from hpal_cli.errors import HpalError, UsageError
from hpal_cli.readers import columns, las, number_table, numpy_files, ply, s3dis, scannet, text
from hpal_cli.readers.cloud import Cloud, Options, Source
from hpal_cli.readers.colours import ColourRange

DATA = Path(os.environ.get("HPAL_TEST_DATA", Path(__file__).parents[1] / ".." / "shared" / "data"))


def shared(name: str) -> Path:
    path = DATA / name
    if not path.exists():
        pytest.skip(f"{path} is not here (set HPAL_TEST_DATA)")
    return path


def read(path: Path, format: str | None = None) -> Cloud:
    """The one scene at `path`, through the front door."""
    reader, sources = readers.find(path, format)
    assert len(sources) == 1, sources
    return readers.read(reader, sources[0])


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def names(root: Path, format: str | None = None) -> list[str]:
    return [source.name for source in readers.find(root, format)[1]]


# ---------------------------------------------------------------- finding


def test_find_says_what_it_looked_for(tmp_path: Path) -> None:
    with pytest.raises(HpalError, match=r"absent: does not exist"):
        readers.find(tmp_path / "absent")
    with pytest.raises(HpalError, match=r"empty folder; looked for .*Annotations"):
        readers.find(tmp_path)
    write(tmp_path / "notes.docx", "x")
    with pytest.raises(HpalError, match=r"holds no scans; looked for .*\.ply"):
        readers.find(tmp_path)
    with pytest.raises(HpalError, match="holds no las scans"):
        readers.find(tmp_path, "las")


def test_unknown_format_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="s3dis, scannet, nuscenes, las, ply, pcd, e57, ptx, semantickitti, text"):
        readers.find(tmp_path, "obj")


def test_format_chooses_and_default_prefers(tmp_path: Path) -> None:
    write_ply(tmp_path / "b.ply")
    write_ply(tmp_path / "sub" / "a.PLY")
    write_ply(tmp_path / "._b.ply")
    write(tmp_path / "c.xyz", "1 2 3\n")
    assert readers.find(tmp_path)[0] is ply
    assert names(tmp_path) == ["b", "sub/a"]
    assert names(tmp_path, "text") == ["c"]
    assert names(tmp_path / "b.ply") == ["b"]


def test_one_name_twice_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "a.xyz", "1 2 3\n")
    write(tmp_path / "a.csv", "1,2,3\n")
    with pytest.raises(HpalError, match=r"two scenes are called 'a' .*a\.csv.*a\.xyz"):
        readers.find(tmp_path)


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("Area_6/office_1", "Area_6/office_1"),
        ("a b\\ü\udcff.x-1", "a_b_u_.x-1"),
        ("/etc/../x//./y", "etc/__/x/_/y"),
        ("", "_"),
        ("..", "__"),
    ],
)
def test_safe_name(name: str, safe: str) -> None:
    assert readers.safe_name(name) == safe


def test_unsafe_file_names_become_safe_scenes(tmp_path: Path) -> None:
    write(tmp_path / "my scan (1).xyz", "1 2 3\n")
    assert names(tmp_path) == ["my_scan__1_"]


def test_import_is_light() -> None:
    code = "import sys, hpal_cli.readers; sys.exit('laspy' in sys.modules or 'plyfile' in sys.modules)"
    root = Path(__file__).parents[1]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0


# ---------------------------------------------------------------- common checks


class Given:
    """A reader of clouds that are there already."""

    NAME = "given"
    CLASSES = None

    def __init__(self, *clouds: Cloud) -> None:
        self.clouds = clouds

    def find(self, root: Path, options: Options) -> list[Source]:
        return [Source("a", root)]

    def count(self, source: Source) -> int | None:
        return None

    def read(self, source: Source, options: Options) -> Iterator[Cloud]:
        yield from self.clouds


def checked(*clouds: Cloud, strict: bool = False) -> Cloud:
    return readers.read(Given(*clouds), Source("a", Path("a.ply")), strict=strict)


def test_checks() -> None:
    xyz = np.zeros((3, 3))
    checked(Cloud(xyz, np.zeros((3, 3), np.uint8), np.zeros(3, np.int64), {"i": np.zeros(3)}))
    for nothing in ((), (Cloud(np.empty((0, 3))),)):
        with pytest.raises(HpalError, match=r"a\.ply: has no points"):
            checked(*nothing)
    for wrong in (
        Cloud(xyz, np.zeros((2, 3), np.uint8)),
        Cloud(xyz, label=np.zeros(2, np.int64)),
        Cloud(xyz, attributes={"i": np.zeros(2)}),
        Cloud(xyz, carried={"t": np.zeros(2)}),
    ):
        with pytest.raises(HpalError, match="3 points, but 2 values"):
            checked(wrong)


def test_points_without_a_finite_position_are_left_out_and_counted() -> None:
    whole, holed = np.arange(6.0).reshape(2, 3), np.arange(9.0).reshape(3, 3)
    holed[1, 2], holed[2, 0] = np.nan, np.inf
    blocks = (
        Cloud(whole, np.full((2, 3), 9, np.uint8), np.array([1, 2]), {"i": np.array([1.0, 2.0])}),
        Cloud(holed, np.full((3, 3), 9, np.uint8), np.array([3, 4, 5]), {"i": np.array([3.0, 4.0, 5.0])}),
    )
    cloud = checked(*blocks)
    assert cloud.xyz.tolist() == [[0, 1, 2], [3, 4, 5], [0, 1, 2]]
    assert cloud.label is not None
    assert cloud.label.tolist() == [1, 2, 3]
    assert cloud.attributes["i"].tolist() == [1, 2, 3]
    assert cloud.rows is not None
    assert cloud.rows.tolist() == [0, 1, 2]
    assert cloud.notes == ["left out 2 of 5 points, whose coordinates are NaN or infinite"]
    with pytest.raises(HpalError, match="point 3 has NaN or infinite coordinates"):
        checked(*blocks, strict=True)
    with pytest.raises(HpalError, match="no point with finite coordinates"):
        checked(Cloud(holed[1:]))


def test_attributes_cannot_take_a_stores_own_names(tmp_path: Path) -> None:
    cloud = read(write(tmp_path / "a.csv", "x,y,z,rgb,../up,label,class\n1,2,3,4,5,6,7\n"))
    assert sorted(cloud.attributes) == [".._up", "class", "rgb_"]
    assert cloud.label is not None
    assert cloud.label.tolist() == [6]


def test_a_vanished_file_is_named(tmp_path: Path) -> None:
    for reader in readers.READERS:
        gone = tmp_path / f"gone.{reader.NAME}"
        with pytest.raises(HpalError, match="gone"):
            readers.read(reader, Source("gone", gone))


# ---------------------------------------------------------------- columns


def test_colours_of_every_type() -> None:
    def one(values: np.ndarray) -> list[int]:
        seen = ColourRange()
        seen.update(np.column_stack([values] * 3))
        seen.check("f")
        return seen.to_bytes(np.column_stack([values] * 3))[:, 0].tolist()

    assert one(np.array([0, 1, 255], np.uint8)) == [0, 1, 255]
    assert one(np.array([0, 1], np.uint8)) == [0, 1]
    assert one(np.array([0, 200], np.uint16)) == [0, 200]
    assert one(np.array([0, 51456, 200 * 257, 65535], np.uint16)) == [0, 201, 200, 255]
    assert one(np.array([0, 0.5, 1], np.float32)) == [0, 128, 255]
    assert one(np.array([0.0, 128.0, 255.0])) == [0, 128, 255]
    for bad in (np.array([-1.0]), np.array([np.nan]), np.array([70000])):
        with pytest.raises(HpalError, match="f: colours from"):
            one(bad)
    hole = ColourRange()
    for green in (0, np.nan, 0):
        hole.update(np.array([[0, green, 0]]))
    with pytest.raises(HpalError, match="colours from"):
        hole.check("f")


def test_labels_must_be_whole() -> None:
    assert columns.labels(np.array([3.0, np.nan, -1.0], np.float32), Path("f")).tolist() == [3, -1, -1]
    with pytest.raises(HpalError, match=r"label 1\.5 at point 1"):
        columns.labels(np.array([1.0, 1.5]), Path("f"))
    with pytest.raises(HpalError, match="label inf"):
        columns.labels(np.array([np.inf]), Path("f"))


# ---------------------------------------------------------------- S3DIS

ROOM = "Area_2/hall_1"


def s3dis_room(root: Path, room: str = ROOM, **objects: str | bytes) -> Path:
    for name, content in (objects or {"wall_1": "1 2 3 4 5 6\n", "floor_1": "7 8 9 1 2 3\n"}).items():
        write(root / room / "Annotations" / f"{name}.txt", content)
    return root / room


def test_s3dis_names_from_any_level(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    room = s3dis_room(tmp_path / "set")
    s3dis_room(tmp_path / "set", "Area_1/office_1")
    for root in (tmp_path, tmp_path / "set"):
        assert readers.find(root)[0] is s3dis
        assert names(root) == ["Area_1/office_1", ROOM]
    assert names(room.parent) == [ROOM]
    assert names(room) == [ROOM]
    monkeypatch.chdir(room)
    assert names(Path(".")) == [ROOM]
    monkeypatch.chdir(room.parent)
    assert names(Path("hall_1")) == [ROOM]
    assert names(s3dis_room(tmp_path, "alone")) == ["alone"]


def test_s3dis_reads_objects_in_order(tmp_path: Path) -> None:
    room = s3dis_room(
        tmp_path,
        wall_1="-1.5 2.25 3e0 4 5 6\n1 2 3 255.000000 0 1\r\n",
        stairs_1="7 8 9 0 1 1",
        board_12="1 1 1 1 1 1\n",
    )
    write(room / "Annotations" / "._wall_1.txt", b"\0\1\2")
    write(room / "Annotations" / ".DS_Store", b"\0")
    cloud = read(room)
    assert cloud.xyz.tolist() == [[1, 1, 1], [7, 8, 9], [-1.5, 2.25, 3], [1, 2, 3]]
    assert cloud.rgb is not None
    assert cloud.rgb.dtype == np.uint8
    assert cloud.rgb.tolist() == [[1, 1, 1], [0, 1, 1], [4, 5, 6], [255, 0, 1]]
    assert cloud.label is not None
    assert cloud.label.tolist() == [11, 12, 2, 2]
    assert cloud.notes == []


def test_s3dis_classes() -> None:
    assert s3dis.CLASSES is not None
    assert " ".join(s3dis.CLASSES.names) == (
        "ceiling floor wall beam column window door table chair sofa bookcase board clutter"
    )


@pytest.mark.parametrize(
    ("text", "xyz", "rgb", "note"),
    [
        # What the original Area_5/hallway_6/ceiling_1 has in line 180389: a byte in the place of a blank.
        (b"1 2 3 184 185\x00187\n", [1, 2, 3], [184, 185, 187], "1 control byte (1 in the place of a blank)"),
        # What two more of the original files have: one inside a number.
        (b"103.0\x100000 2 3 4 5 6\n", [103, 2, 3], [4, 5, 6], "1 control byte"),
        (b"1 -9.1\x160 3 4 5 6\n", [1, -9.1, 3], [4, 5, 6], "1 control byte"),
        (b"1\x002\x003\x004 5\x7f6\r\n", [1, 2, 3], [4, 5, 6], "4 control bytes (4 in the place of a blank)"),
        (b"1 2 3 4 5\x00\x1f 6\x00", [1, 2, 3], [4, 5, 6], "3 control bytes"),
        (b"1\x00\x002 3 4 5 6", [1, 2, 3], [4, 5, 6], "2 control bytes (2 in the place of a blank)"),
        (b"\x00\x00\n1 2 3 4 5 6\n\x00\x00", [1, 2, 3], [4, 5, 6], "4 control bytes"),
    ],
)
def test_s3dis_takes_a_control_byte_for_a_blank_where_the_row_is_short(
    tmp_path: Path, text: bytes, xyz: list[float], rgb: list[int], note: str
) -> None:
    line = b"0 0 0 9 9 9\n"
    cloud = read(s3dis_room(tmp_path, floor_1=line, wall_1=line * 3 + text, wall_2=line))
    assert cloud.xyz.tolist() == [[0, 0, 0]] * 4 + [xyz, [0, 0, 0]]
    assert cloud.rgb is not None
    assert cloud.rgb.tolist() == [[9, 9, 9]] * 4 + [rgb, [9, 9, 9]]
    assert cloud.notes == [f"wall_1.txt: read past {note}"]


def test_a_control_byte_in_any_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(number_table, "_PIECE", 32)
    lines = b"1 2 3\n" * 40 + b"4\x005 6\n" + b"1 2 3\n" * 40 + b"7.\x015 8 9\n"
    header = b"ply\nformat ascii 1.0\nelement vertex 82\n%send_header\n" % b"".join(
        b"property float %c\n" % axis for axis in b"xyz"
    )
    for path in (write(tmp_path / "a.xyz", lines), write(tmp_path / "a.ply", header + lines)):
        cloud = read(path)
        assert cloud.xyz[[40, 81]].tolist() == [[4, 5, 6], [7.5, 8, 9]]
        assert cloud.notes == ["read past 2 control bytes (1 in the place of a blank)"]
    with pytest.raises(HpalError, match="line 1 has 4 columns, expected 6"):
        read(s3dis_room(tmp_path, wall_1=b"1\x01.5 2 3 4\n"))


@pytest.mark.parametrize(
    ("objects", "message"),
    [
        ({"wall_1": "1 2 3 4 5 6\n\n1 2 3 4\n"}, r"wall_1\.txt: line 3 has 4 columns, expected 6"),
        ({"wall_1": "1 2 3 4 5 6 7\n" * 6}, r"wall_1\.txt: line 1 has 7 columns"),
        ({"wall_1": "1 2 3\n4 5 6\n"}, r"wall_1\.txt: line 1 has 3 columns"),
        ({"wall_1": "1 2 3 4 5 6\n1 2 x3 4 5 6\n"}, r"wall_1\.txt: line 2: 'x3' is not a number"),
        ({"wall_1": "1 2 3 4 5 6\n1 2 nan 4 5 6\n"}, r"wall_1\.txt: line 2: 'nan' is not a finite number"),
        ({"wall_1": b"1 2 3 4 5 6\n1 2 \xff 4 5 6\n"}, r"wall_1\.txt: line 2: '\\xff' is not"),
        ({"wall_1": "1 2 3 4 5 256\n"}, r"wall_1\.txt: has colours outside"),
        ({"lamp_1": "1 2 3 4 5 6\n"}, r"lamp_1\.txt: 'lamp' is no S3DIS class"),
        ({"wall_1": "", "floor_1": "\n"}, "has no points"),
    ],
)
def test_s3dis_refuses(tmp_path: Path, objects: dict[str, str | bytes], message: str) -> None:
    with pytest.raises(HpalError, match=message):
        read(s3dis_room(tmp_path, **objects))


def test_s3dis_refuses_an_empty_room(tmp_path: Path) -> None:
    (tmp_path / ROOM / "Annotations").mkdir(parents=True)
    with pytest.raises(HpalError, match="Annotations: holds no object files"):
        read(tmp_path)


def test_s3dis_shared_rooms_whole() -> None:
    root = shared("s3dis")
    reader, sources = readers.find(root)
    assert reader is s3dis
    assert len(sources) >= 1
    for source in sources:
        lines = sum(p.read_bytes().count(b"\n") for p in (source.path / "Annotations").glob("*.txt"))
        cloud = readers.read(reader, source)
        assert len(cloud.xyz) == lines, source.name
        assert cloud.notes == []


def test_s3dis_shared_room_is_what_loadtxt_reads_and_no_slower() -> None:
    room = shared("s3dis/Area_6/office_1")
    paths = sorted((room / "Annotations").glob("*.txt"))
    read_time = loadtxt_time = np.inf
    for _ in range(3):
        begin = time.perf_counter()
        cloud = readers.read(s3dis, Source("r", room))
        middle = time.perf_counter()
        expected = np.concatenate([np.loadtxt(path) for path in paths])
        read_time = min(read_time, middle - begin)
        loadtxt_time = min(loadtxt_time, time.perf_counter() - middle)
    assert cloud.rgb is not None
    np.testing.assert_array_equal(np.column_stack([cloud.xyz, cloud.rgb]), expected)
    assert read_time < 3 * loadtxt_time


# ---------------------------------------------------------------- PLY

RNG = np.random.default_rng(0)
XYZ = RNG.normal(size=(50, 3)) * 1e6
RGB = RNG.integers(0, 256, (50, 3)).astype(np.uint8)
LABEL = RNG.integers(-1, 40, 50)


def write_ply(path: Path, fields: dict[str, np.ndarray] | None = None, faces: bool = True, **how: object) -> Path:
    """Properties in the order given; `how` goes to PlyData (text, byte_order)."""
    if fields is None:
        fields = {
            "label": LABEL.astype("i2"), "z": XYZ[:, 2], "blue": RGB[:, 2], "x": XYZ[:, 0],
            "quality": XYZ[:, 0] % 1, "green": RGB[:, 1], "y": XYZ[:, 1], "red": RGB[:, 0],
        }  # fmt: skip
    count = len(next(iter(fields.values())))
    rows = np.empty(count, [(name, column.dtype) for name, column in fields.items()])
    for name, column in fields.items():
        rows[name] = column
    elements = [plyfile.PlyElement.describe(rows, "vertex")]
    if faces:
        face = np.array([([0, 1, 2],), ([3, 4, 5, 6],)], [("vertex_indices", object)])
        elements.append(plyfile.PlyElement.describe(face, "face", {"vertex_indices": "u1"}, {"vertex_indices": "i4"}))
    path.parent.mkdir(parents=True, exist_ok=True)
    plyfile.PlyData(elements, comments=["made up"], **how).write(str(path))
    return path


@pytest.mark.parametrize("how", [{"text": True}, {"byte_order": "<"}, {"byte_order": ">"}])
@pytest.mark.parametrize("faces", [True, False])
def test_ply_round_trip(tmp_path: Path, how: dict[str, object], faces: bool) -> None:
    cloud = read(write_ply(tmp_path / "a.ply", faces=faces, **how))
    if "text" in how:
        np.testing.assert_allclose(cloud.xyz, XYZ, rtol=1e-15)
    else:
        np.testing.assert_array_equal(cloud.xyz, XYZ)
        np.testing.assert_array_equal(cloud.attributes["quality"], XYZ[:, 0] % 1)
    np.testing.assert_array_equal(cloud.rgb, RGB)
    np.testing.assert_array_equal(cloud.label, LABEL)
    assert cloud.xyz.dtype == np.float64
    assert cloud.label is not None
    assert cloud.label.dtype == np.int64
    assert list(cloud.attributes) == ["quality"]
    assert all(values.dtype.isnative for values in cloud.attributes.values())


def xyz_and(**fields: np.ndarray) -> dict[str, np.ndarray]:
    return {axis: np.arange(3, dtype="f4") for axis in "xyz"} | fields


@pytest.mark.parametrize("kind", ["i1", "u1", "i2", "u2", "i4", "u4", "f4", "f8"])
@pytest.mark.parametrize("text_form", [True, False])
def test_ply_coordinates_of_any_type(tmp_path: Path, kind: str, text_form: bool) -> None:
    path = write_ply(tmp_path / "a.ply", {a: np.array([1, 2, 100], kind) for a in "zyx"}, text=text_form)
    assert read(path).xyz.tolist() == [[1, 1, 1], [2, 2, 2], [100, 100, 100]]


@pytest.mark.parametrize("text_form", [True, False])
@pytest.mark.parametrize(
    ("triple", "values"),
    [
        ("red green blue", np.array([0, 128, 255], "u2")),
        ("r g b", np.array([0, 32896, 65535], "u2")),
        ("diffuse_red diffuse_green diffuse_blue", np.array([0, 0.5, 1], "f4")),
        ("Red Green Blue", np.array([0, 128, 255], "u1")),
    ],
)
def test_ply_colours(tmp_path: Path, triple: str, values: np.ndarray, text_form: bool) -> None:
    path = write_ply(tmp_path / "a.ply", xyz_and(**dict.fromkeys(triple.split(), values)), text=text_form)
    cloud = read(path)
    assert cloud.rgb is not None
    assert cloud.rgb.tolist() == [[0] * 3, [128] * 3, [255] * 3]
    assert cloud.attributes == {}


@pytest.mark.parametrize("name", ["label", "Class", "classification", "scalar_class", "scalar_Classification"])
def test_ply_label_names(tmp_path: Path, name: str) -> None:
    cloud = read(write_ply(tmp_path / "a.ply", xyz_and(**{name: np.array([2, np.nan, 7], "f4")})))
    assert cloud.label is not None
    assert cloud.label.tolist() == [2, -1, 7]
    assert cloud.attributes == {}


def test_ply_without_extras(tmp_path: Path) -> None:
    cloud = read(write_ply(tmp_path / "a.ply", xyz_and()))
    assert (cloud.rgb, cloud.label, cloud.attributes) == (None, None, {})


HEAD = b"ply\nformat %s 1.0\nelement vertex %d\nproperty float x\nproperty float y\nproperty float z\nend_header\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"plyx\n", "is not a PLY file"),
        (b"", "is not a PLY file"),
        (b"ply\nformat ascii 1.0\nelement vertex many\n", "line 3 of the PLY header"),
        (b"ply\nformat ascii 1.0\nelement vertex 1\nproperty quad x\n", "line 4 of the PLY header"),
        (b"ply\nformat ascii 1.0\nelement vertex 1\n", "line 4 of the PLY header"),
        (b"ply\nformat ascii 1.0\nelement face 0\nend_header\n", "no vertex element"),
        (
            b"ply\nformat ascii 1.0\nelement vertex 1\nproperty float x\nend_header\n1\n",
            "the vertices have no y, z",
        ),
        (HEAD % (b"binary_little_endian", 10**12) + b"\0" * 24, "promises 1000000000000 vertex rows"),
        (HEAD % (b"ascii", 10**12) + b"1 2 3\n", "promises 1000000000000 vertex rows"),
        (HEAD % (b"binary_little_endian", 3) + b"\0" * 35, "promises 3 vertex rows"),
        (HEAD % (b"ascii", 3) + b"1.000000 2.000000 3.000000\n4.00 5.00 6.00\n", "holds 2 of its 3 points"),
        (HEAD % (b"ascii", 2) + b"1 2 3\n1 2 3 4\n", "line 9 has 4 columns, expected 3"),
        (HEAD % (b"ascii", 1) + b"1 2 nan\n", "has no point with finite coordinates"),
        (HEAD % (b"ascii", 0), "has no points"),
    ],
)
def test_ply_refuses(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(HpalError, match=rf"a\.ply: .*{message}"):
        read(write(tmp_path / "a.ply", content))


def test_ply_refuses_fractional_labels(tmp_path: Path) -> None:
    with pytest.raises(HpalError, match=r"label 0\.5"):
        read(write_ply(tmp_path / "a.ply", xyz_and(label=np.array([1, 0.5, 2], "f4"))))


def test_ply_with_lists_in_the_way(tmp_path: Path) -> None:
    head = (
        b"ply\nformat binary_big_endian 1.0\nelement face %d\nproperty list uchar int vertex_indices\n"
        b"element vertex 2\nproperty double x\nproperty list uchar float w\n"
        b"property double y\nproperty double z\n"
        b"end_header\n"
    )
    rows = struct.pack(">dBfdd", 1, 1, 9, 2, 3) + struct.pack(">dBdd", 4, 0, 5, 6)
    faces = struct.pack(">Biii", 3, 0, 1, 0)
    assert read(write(tmp_path / "a.ply", head % 1 + faces + rows)).xyz.tolist() == [[1, 2, 3], [4, 5, 6]]
    with pytest.raises(HpalError, match=r"b\.ply: "):
        read(write(tmp_path / "b.ply", head % 1 + faces + rows[:-4]))
    with pytest.raises(HpalError, match="promises 1000000000000 face"):
        read(write(tmp_path / "c.ply", head % 10**12 + faces + rows))


# ---------------------------------------------------------------- ScanNet


def scannet_scene(root: Path, name: str = "scene0000_00", codes: np.ndarray | None = None) -> Path:
    grey = np.array([9, 9, 9], "u1")
    base = root / "scans" / name / f"{name}_vh_clean_2"
    write_ply(base.with_suffix(".ply"), xyz_and(red=grey, green=grey, blue=grey, alpha=grey))
    if codes is not None:
        write_ply(base.with_suffix(".labels.ply"), {a: np.zeros(len(codes), "f4") for a in "xyz"} | {"label": codes})
    return base.parent


def test_scannet(tmp_path: Path) -> None:
    scannet_scene(tmp_path, "scene0001_00")
    scene = scannet_scene(tmp_path, codes=np.array([39, 40, 0], "u2"))
    reader, sources = readers.find(tmp_path)
    assert reader is scannet
    assert [source.name for source in sources] == ["scene0000_00", "scene0001_00"]
    cloud, bare = (readers.read(reader, source) for source in sources)
    assert cloud.label is not None
    assert cloud.label.tolist() == [39, 40, -1]
    assert cloud.rgb is not None
    assert cloud.attributes == {}
    assert bare.label is None
    assert names(scene) == names(scene / "scene0000_00_vh_clean_2.ply") == ["scene0000_00"]
    assert scannet.CLASSES is not None
    assert scannet.CLASSES.from_codes(cloud.label, "f").tolist() == [19, -1, -1]
    assert [c.code for c in scannet.CLASSES] == [*range(1, 13), 14, 16, 24, 28, 33, 34, 36, 39]


def test_scannet_refuses_unequal_files(tmp_path: Path) -> None:
    scene = scannet_scene(tmp_path, codes=np.array([1, 2], "u2"))
    with pytest.raises(HpalError, match=r"labels\.ply: has 2 vertices, but .* has 3"):
        read(scene)


# ---------------------------------------------------------------- LAS

UTM = (
    'COMPD_CS["both",PROJCS["utm",GEOGCS["g",DATUM["d",SPHEROID["s",6378137,298.25]],UNIT["degree",0.0174532925]],'
    'PARAMETER["false_easting",500000],UNIT["{}",{}]],VERT_CS["v",VERT_DATUM["d",2005],UNIT["fathom",1.8288]]]'
)


def write_las(
    path: Path,
    codes: list[int] | None = None,
    widen: int = 257,
    wkt: str | None = None,
    count: int = 3,
    point: int = 7,
) -> Path:
    header = laspy.LasHeader(version="1.4", point_format=point)
    header.scales, header.offsets = [0.001] * 3, [700000.0, 6600000.0, 0.0]
    header.add_extra_dim(laspy.ExtraBytesParams("height", "f4"))
    header.add_extra_dim(laspy.ExtraBytesParams("normal", "3f4"))
    if wkt is not None:
        header.vlrs.append(laspy.vlrs.known.WktCoordinateSystemVlr(wkt))
    data = laspy.LasData(header)
    steps = np.arange(count)
    data.x, data.y, data.z = 770500.123 + steps * 0.001, 6277550.457 + steps * 0.001, steps * 0.5
    data.intensity = steps + 7
    if point == 7:
        for name in ("red", "green", "blue"):
            data[name] = (steps % 200 * widen).astype(np.uint16)
    data.classification = np.resize(codes or [0], count).astype(np.uint8)
    data.return_number = np.ones(count, np.uint8)
    data.height = steps * 0.25
    data.normal = np.tile([0, 0, 1], (count, 1))
    path.parent.mkdir(parents=True, exist_ok=True)
    data.write(str(path))
    return path


@pytest.mark.parametrize("suffix", ["las", "laz"])
@pytest.mark.parametrize("widen", [1, 256, 257])
def test_las_round_trip(tmp_path: Path, suffix: str, widen: int) -> None:
    cloud = read(write_las(tmp_path / f"a.{suffix}", [2, 1, 0], widen))
    steps = np.arange(3)
    np.testing.assert_allclose(cloud.xyz[:, 0], 770500.123 + steps * 0.001, rtol=0, atol=1e-8)
    np.testing.assert_allclose(cloud.xyz[:, 1], 6277550.457 + steps * 0.001, rtol=0, atol=1e-8)
    assert cloud.rgb is not None
    assert cloud.rgb.tolist() == [[0] * 3, [1] * 3, [2] * 3]
    assert cloud.label is not None
    assert cloud.label.tolist() == [2, -1, -1]
    assert cloud.attributes["intensity"].tolist() == [7, 8, 9]
    assert cloud.attributes["return_number"].tolist() == [1, 1, 1]
    assert cloud.attributes["height"].tolist() == [0, 0.25, 0.5]
    assert cloud.attributes["normal_2"].tolist() == [1, 1, 1]
    assert cloud.unit is None


def test_las_never_classified_or_coloured(tmp_path: Path) -> None:
    cloud = read(write_las(tmp_path / "a.las", [0, 1], widen=0))
    assert cloud.label is None
    assert cloud.rgb is None
    assert "colours are all zero" in cloud.notes[0]
    assert read(write_las(tmp_path / "b.las", point=6)).rgb is None


@pytest.mark.parametrize(
    ("wkt", "unit"),
    [
        (UTM.format("metre", 1), 1.0),
        (UTM.format("US survey foot", "0.304800609601219"), 1200 / 3937),
        (UTM.format("foot", 0.3048), 0.3048),
        ('GEOGCS["WGS 84",UNIT["degree",0.0174532925199433]]', None),
        ('LOCAL_CS["site",UNIT["foot",0.3048]]', 0.3048),
        (
            'PROJCRS["p",BASEGEOGCRS["b",ELLIPSOID["e",6378137,298,LENGTHUNIT["metre",1]]],CONVERSION["c",PARAMETER['
            '"x",0,LENGTHUNIT["metre",1]]],CS[Cartesian,2],AXIS["e",east],LENGTHUNIT["foot",0.3048]]',
            0.3048,
        ),
        ("", None),
    ],
)
def test_las_unit_from_wkt(tmp_path: Path, wkt: str, unit: float | None) -> None:
    found = read(write_las(tmp_path / "a.las", wkt=wkt)).unit
    assert found == (None if unit is None else pytest.approx(unit, rel=1e-9))


def test_las_unit_from_geokeys() -> None:
    assert las.unit_of_geokeys([(1024, 1), (3076, 9001)]) == 1
    assert las.unit_of_geokeys([(3076, 9002)]) == 0.3048
    assert las.unit_of_geokeys([(3076, 9003)]) == pytest.approx(0.3048006096)
    assert las.unit_of_geokeys([(3076, 32767)]) is None
    assert las.unit_of_geokeys([]) is None


@pytest.mark.parametrize("suffix", ["las", "laz"])
def test_las_truncated_or_garbled_is_one_error(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"whole.{suffix}"
    whole = write_las(path, count=2000).read_bytes()
    for n, keep in enumerate((0, 50, 300, 700, len(whole) // 2)):
        with pytest.raises(HpalError, match=rf"cut{n}\.{suffix}: .+; "):
            read(write(tmp_path / f"cut{n}.{suffix}", whole[:keep]))
    # Garbled files are read in another process, which must not die of any of them.
    rng = np.random.default_rng(1)
    for n in range(40):
        bad = bytearray(whole)
        for at in rng.integers(0, len(whole) if n % 2 else 900, 20):
            bad[at] = rng.integers(256)
        write(tmp_path / "bad" / f"bad{n}.{suffix}", bytes(bad))
    root = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", READ_ALL, tmp_path / "bad"],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 40
    # Garbled points of an uncompressed file are points still.
    assert sum(line != "read" for line in lines) >= 10


READ_ALL = """
import pathlib, resource, sys
resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
from hpal_cli import readers
from hpal_cli.errors import HpalError
reader, sources = readers.find(pathlib.Path(sys.argv[1]))
for source in sources:
    try:
        readers.read(reader, source)
        print("read")
    except HpalError as error:
        assert source.path.name in str(error)
        print(error)
"""


def test_las_promising_too_much_is_refused_before_memory(tmp_path: Path) -> None:
    whole = bytearray(write_las(tmp_path / "a.las").read_bytes())
    whole[247:255] = struct.pack("<Q", 10**12)
    with pytest.raises(HpalError, match="holds 3 of the 1000000000000 points"):
        read(write(tmp_path / "a.las", bytes(whole)))


def test_las_panic_is_caught_but_not_an_interrupt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_las(tmp_path / "a.las")

    class PanicException(BaseException):
        pass

    def fail(error: type[BaseException]) -> None:
        def opened(*_: object) -> None:
            raise error("stop\nsecond line")

        monkeypatch.setattr(laspy, "open", opened)

    fail(PanicException)
    with pytest.raises(HpalError, match=r"a\.las: cannot be read as LAS/LAZ \(stop\)"):
        read(path)
    for passing in (KeyboardInterrupt, SystemExit):
        fail(passing)
        with pytest.raises(passing):
            read(path)


@pytest.mark.parametrize("name", ["corrupt_header.laz", "corrupt_laszip.laz"])
def test_las_shared_corrupt_files(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(HpalError, match=name):
        read(shared("las") / name)
    assert capfd.readouterr().err == "", "the decompressor wrote to the terminal"


@pytest.mark.parametrize(
    ("name", "unit"), [("autzen_trim.laz", 0.3048), ("sample_c.las", None), ("warsaw_small.las", None)]
)
def test_las_shared_files_keep_their_precision(name: str, unit: float | None) -> None:
    path = shared("las") / name
    assert_exact(path, read(path))
    assert read(path).unit == (None if unit is None else pytest.approx(unit, rel=1e-4))


def test_las_shared_lambert93_keeps_the_millimetre() -> None:
    reader, sources = readers.find(shared("ign_lidar"))
    assert reader is las
    for source in sources:
        cloud = readers.read(reader, source)
        assert_exact(source.path, cloud)
        assert cloud.unit == 1
        assert cloud.xyz[:, 0].min() > 7e5


def assert_exact(path: Path, cloud: Cloud) -> None:
    raw = laspy.read(path)
    for axis, name in enumerate("XYZ"):
        expected = np.asarray(raw[name], np.float64) * raw.header.scales[axis] + raw.header.offsets[axis]
        np.testing.assert_allclose(cloud.xyz[:, axis], expected, rtol=0, atol=1e-6)


# ---------------------------------------------------------------- text


@pytest.mark.parametrize(
    ("name", "content", "xyz", "rgb", "label", "attributes"),
    [
        ("a.xyz", "1 2 3\n\n4\t5  6", [[1, 2, 3], [4, 5, 6]], None, None, {}),
        ("a.txt", "1 2 3 9\n", [[1, 2, 3]], None, None, {"intensity": [9]}),
        ("a.txt", "1,2,3,4,5,6\n", [[1, 2, 3]], [[4, 5, 6]], None, {}),
        ("a.asc", "1 2 3 4 5 6 7\r\n", [[1, 2, 3]], [[4, 5, 6]], [7], {}),
        ("a.csv", "1,5;2,5;3,5\n", [[1.5, 2.5, 3.5]], None, None, {}),
        ("a.csv", '"Z","X","y",Label,w\n3, 1,2,-1,.5\n', [[1, 2, 3]], None, None, {"w": [0.5]}),
        ("a.csv", "\ufeffx;y;z\n1.0;2.0;3.0\n", [[1, 2, 3]], None, None, {}),
        ("a.csv", "x y z r g b class\n1 2 3 0 .5 1 nan\n", [[1, 2, 3]], [[0, 128, 255]], None, {}),
        ("a.asc", "//X Y Z Classification\n2\n1 2 3 4\n5 6 7 8\n", [[1, 2, 3], [5, 6, 7]], None, [4, 8], {}),
        ("a.xyz", "# made up\n// hand\n1 2 3\n", [[1, 2, 3]], None, None, {}),
        ("a.pts", "1\n1 2 3 -9 4 5 6\n", [[1, 2, 3]], [[4, 5, 6]], None, {"intensity": [-9]}),
        ("a.xyz", "1 2 3\r4 5 6\r", [[1, 2, 3], [4, 5, 6]], None, None, {}),
        ("a.csv", "x,y,z,label\r1,2,3,\r4,5,6,7\r", [[1, 2, 3], [4, 5, 6]], None, [-1, 7], {}),
        ("a.csv", "x,y,z,label\r\n1,2,3,7\r\n1,2,4,\r\n", [[1, 2, 3], [1, 2, 4]], None, [7, -1], {}),
        ("a.csv", "x;label;y;z;\n1;;2,5;3;\n4;7;5;6;\n", [[1, 2.5, 3], [4, 5, 6]], None, [-1, 7], {}),
        ("a.csv", "x,y,z\n1,2,3,\n", [[1, 2, 3]], None, None, {}),
        ("a.txt", "1,2,3,\n4,5,6,\n", [[1, 2, 3], [4, 5, 6]], None, None, {}),
        ("a.txt", "1,5 2,5 -3\n4 5,25 6e1\n", [[1.5, 2.5, -3], [4, 5.25, 60]], None, None, {}),
        ("a.txt", "x\ty\tz\n1,5\t2,5\t3,5\n", [[1.5, 2.5, 3.5]], None, None, {}),
        ("a.csv", '"x","y","z"\n"1.0","2.0","-3.5"\n', [[1, 2, -3.5]], None, None, {}),
        ("a.csv", '"1";"2,5";"3"\n4;5;6\n', [[1, 2.5, 3], [4, 5, 6]], None, None, {}),
        ("a.csv", '"1,5","2,5","3,5"\n', [[1.5, 2.5, 3.5]], None, None, {}),
        ("a.csv", '1,2,3\n4,"5", "6"\n', [[1, 2, 3], [4, 5, 6]], None, None, {}),
        ("a.csv", 'x,y,z,label,w\n"1","2","3","","7"\n', [[1, 2, 3]], None, None, {"w": [7]}),
        ("a.txt", '"1" "2" "3"\n', [[1, 2, 3]], None, None, {}),
        (
            "a.asc",
            "//X;Y;Z;Rf;Gf;Bf;Intensity\n2\n1;2;3;0;0.5;1;7\n4;5;6;0.25;0;0;8\n",
            [[1, 2, 3], [4, 5, 6]],
            [[0, 128, 255], [64, 0, 0]],
            None,
            {"Intensity": [7, 8]},
        ),
        ("a.asc", "//X,Y,Z,R,G,B\n1\n1,2,3,4,5,6\n", [[1, 2, 3]], [[4, 5, 6]], None, {}),
        (
            "a.txt",
            "//X Y Z R G B Nx Ny Nz scalar_Classification\n1\n1 2 3 4 5 6 0 0 1 2\n",
            [[1, 2, 3]],
            [[4, 5, 6]],
            [2],
            {"Nx": [0], "Ny": [0], "Nz": [1]},
        ),
        ("a.xyz", "770500.123 6277550.457 -1e-3\n", [[770500.123, 6277550.457, -0.001]], None, None, {}),
    ],
)
def test_text(
    tmp_path: Path, name: str, content: str, xyz: list, rgb: list | None, label: list | None, attributes: dict
) -> None:
    write(tmp_path / name, content)
    assert readers.find(tmp_path)[0] is text
    cloud = read(tmp_path)
    assert cloud.xyz.tolist() == xyz
    assert (None if cloud.rgb is None else cloud.rgb.tolist()) == rgb
    assert (None if cloud.label is None else cloud.label.tolist()) == label
    assert {key: values.tolist() for key, values in cloud.attributes.items()} == attributes
    assert cloud.notes == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "holds no lines of numbers"),
        ("hello\nworld\n", "holds no lines of numbers"),
        ("# c\n1 2 3\n4 5\n", "line 3 has 2 columns, expected 3"),
        ("x,y,z\n1,2,3\n1,,3\n", "line 3 has 2 columns"),
        ('x,y,z\n"1","2","3"\n"1","","3"\n', "line 3 has 2 columns"),
        ('x,y,z\n"1","2","3"\n"1","2,345.6","3"\n', r"line 3: '2\.345\.6' is not a number"),
        ("1 2 3\n1,5 2,5 3\n", "line 2: '1,5' is not a number"),
        ("1 2 3\n1 2 oops\n", "line 2: 'oops' is not a number"),
        ("x,y,z,label\n1,2,3,wall\n", "line 2: 'wall' is not a number; give class numbers"),
        ("1 2 3 wall\n1 2 3 wall\n", "line 1: 'wall' is not a number; give class numbers"),
        ("x,y,z,w\n1,2,3,oops\n", "line 2: 'oops' is not a number; repair"),
        ("x,y,z,r,g,b\n1,2,3,4,5,6\n1,2,3,4,,6\n", "line 3 has 5 columns"),
        ("1 2 3 4 5\n", ".*known only for 3, 4, 6 or 7 columns"),
        ("x y w\n1 2 3\n", "has no z among its columns"),
        ("x y z w\n1 2 3\n", "names 4 columns and has 3"),
        ("x y z w w\n1 2 3 4 5\n", "names a column twice"),
        ("1 2 3 0.1 -0.9 0.4\n", r"colours from -0\.9 to 0\.4"),
        ("1 2 3 4 5 6 0.5\n", r"label 0\.5"),
    ],
)
def test_text_refuses(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(HpalError, match=rf"a\.txt: {message}"):
        read(write(tmp_path / "a.txt", content))


def test_an_empty_cell_of_another_column_is_nan(tmp_path: Path) -> None:
    cloud = read(write(tmp_path / "a.csv", "x,y,z,w,label\n1,2,3,5,1\n1,2,3, ,2\n"))
    np.testing.assert_array_equal(cloud.attributes["w"], [5, np.nan])


def test_a_broken_table_in_a_folder_is_refused_and_a_text_passed_over(tmp_path: Path) -> None:
    write(tmp_path / "a.csv", "x,y,z\n1,2,3\n")
    write(tmp_path / "notes.txt", "station height\n1 2 3\n")
    write(tmp_path / "readme.txt", "scanned on a Monday\n")
    assert names(tmp_path) == ["a"]
    for broken in ("x,y,z\n1,2\n", "\n# x y z\nX Y Z Z\n1 2 3 4\n"):
        write(tmp_path / "b.csv", broken)
        assert names(tmp_path) == ["a", "b"]


def test_text_passes_over_readmes_in_folders(tmp_path: Path) -> None:
    write(tmp_path / "readme.txt", "Scans of 3 rooms\n")
    write(tmp_path / "rooms.txt", "12\n13\n")
    write(tmp_path / "a.xyz", "1 2 3\n")
    assert names(tmp_path) == ["a"]


def test_text_notes_a_wrong_count(tmp_path: Path) -> None:
    assert "promises 5 points, the file holds 1" in read(write(tmp_path / "a.pts", "5\n1 2 3\n")).notes[0]


def test_text_notes_a_comment_that_does_not_fit(tmp_path: Path) -> None:
    (note,) = read(write(tmp_path / "a.txt", "//X Y Z Point number\n1\n1 2 3 4\n")).notes
    assert note == (
        "the comment in line 1 names 5 columns, and there are 4: the columns are recognised by their number "
        "(--columns names them)"
    )


@pytest.mark.parametrize(
    ("names", "colours", "note"),
    [
        ("x y z red greeb blue", True, "its column 'greeb' is read as green"),
        ("x y z Red Gren bleu", True, "its column 'Gren' is read as green, its column 'bleu' is read as blue"),
        ("rde green blue x y z", True, "its column 'rde' is read as red"),
        ("diffuse_red diffuse_green difuse_blue x y z", True, "its column 'difuse_blue' is read as diffuse_blue"),
        (
            "x y z red blue w",
            False,
            "has red and blue, but no green (x, y, z, red, blue, w): read without colour",
        ),
        (
            "red x greeb y blue z",
            False,
            "has red and blue, but no green (red, x, greeb, y, blue, z): read without colour",
        ),
        ("x y z r g w", False, "has r and g, but no b (x, y, z, r, g, w): read without colour"),
        ("x y z r e w", False, None),
        ("x y z lable v w", False, "its column 'lable' is read as a further column; call it label if it holds classes"),
        ("x y z label lable w", False, None),
    ],
)
def test_colours_are_not_lost_without_a_word(tmp_path: Path, names: str, colours: bool, note: str | None) -> None:
    values = {name: np.arange(1, 4, dtype="u1") + n for n, name in enumerate(names.split())}
    lines = [",".join(values), *(",".join(map(str, row)) for row in zip(*values.values(), strict=True))]
    first = next(n for n, name in enumerate(values) if name not in "xyz")
    for path in (
        write_ply(tmp_path / "a.ply", values),
        write_ply(tmp_path / "b.ply", values, faces=False, text=True),
        write(tmp_path / "a.csv", "\n".join(lines)),
    ):
        cloud = read(path)
        assert cloud.notes == ([] if note is None else [note])
        expected = [[n + first, n + first + 1, n + first + 2] for n in (1, 2, 3)]
        assert (None if cloud.rgb is None else cloud.rgb.tolist()) == (expected if colours else None)


def test_a_channel_of_another_type_is_no_channel(tmp_path: Path) -> None:
    values = {name: np.arange(3, dtype="f4" if name == "greek" else "u1") for name in (*"xyz", "red", "greek", "blue")}
    cloud = read(write_ply(tmp_path / "a.ply", values))
    assert cloud.rgb is None
    assert "no green" in cloud.notes[0]


def test_columns_are_for_text(tmp_path: Path, hpal: Callable[..., Done]) -> None:
    np.save(tmp_path / "a.npy", np.arange(9.0).reshape(3, 3))
    done = hpal("prep", "a.npy", "-o", "s.zarr", "--columns", "x,y,z", cwd=tmp_path)
    assert done.rc == 2
    assert "--columns: is for text, and a.npy is read as numpy; leave it out" in done.err


# ---------------------------------------------------------------- NumPy


def save(path: Path, array: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, array)
    return path


def test_npy_by_count(tmp_path: Path) -> None:
    rows = np.arange(14, dtype=np.float32).reshape(2, 7)
    assert read(save(tmp_path / "a.npy", rows[:, :3])).xyz.tolist() == rows[:, :3].tolist()
    six, seven = (read(save(tmp_path / f"{n}.npy", rows[:, :n])) for n in (6, 7))
    assert six.rgb is not None
    assert six.rgb.tolist() == rows[:, 3:6].tolist()
    assert six.label is None
    assert seven.label is not None
    assert seven.label.tolist() == [6, 13]


def test_npy_structured(tmp_path: Path) -> None:
    rows = np.array([(1, 5, 3, 2)], [("x", ">f4"), ("Class", "u1"), ("z", "f8"), ("y", "i4")])
    cloud = read(save(tmp_path / "a.npy", rows))
    assert cloud.xyz.tolist() == [[1, 2, 3]]
    assert cloud.label is not None
    assert cloud.label.tolist() == [5]


@pytest.mark.parametrize("keys", ["coord color segment", "xyz rgb label", "points colors labels"])
def test_npz(tmp_path: Path, keys: str) -> None:
    coord, color, label = keys.split()
    arrays = {
        coord: XYZ,
        color: RGB / 255,
        label: LABEL[:, None],
        "normal": XYZ,
        "time": LABEL,
        "pose": np.eye(4),
    }
    np.savez(tmp_path / "a.npz", **arrays)
    cloud = read(tmp_path)
    np.testing.assert_array_equal(cloud.xyz, XYZ)
    np.testing.assert_array_equal(cloud.rgb, RGB)
    np.testing.assert_array_equal(cloud.label, LABEL)
    assert sorted(cloud.attributes) == ["nx", "ny", "nz", "time"]
    assert "pose" in cloud.notes[0]


@pytest.mark.parametrize("segment", ["segment", "segment20"])
def test_pointcept_folders(tmp_path: Path, segment: str) -> None:
    for scene in ("train/s1", "val/s2"):
        save(tmp_path / scene / "coord.npy", XYZ.astype(np.float32))
        save(tmp_path / scene / "color.npy", RGB)
        save(tmp_path / scene / f"{segment}.npy", LABEL)
    assert readers.find(tmp_path)[0] is numpy_files
    assert names(tmp_path) == ["train/s1", "val/s2"]
    assert names(tmp_path / "train" / "s1") == ["s1"]
    cloud = read(tmp_path / "val")
    np.testing.assert_array_equal(cloud.rgb, RGB)
    np.testing.assert_array_equal(cloud.label, LABEL)
    assert cloud.attributes == {}


def test_numpy_refuses(tmp_path: Path) -> None:
    whole = save(tmp_path / "w.npy", XYZ).read_bytes()
    cases = [
        (write(tmp_path / "a.npy", whole[:-8]), "cannot be read as a NumPy file"),
        (write(tmp_path / "b.npy", b"junk"), "cannot be read as a NumPy file"),
        (write(tmp_path / "b.npz", b"PK junk"), "cannot be read as a NumPy file"),
        (save(tmp_path / "c.npy", XYZ[:, :2]), r"has the shape \(50, 2\)"),
        (save(tmp_path / "d.npy", np.array([["a", "b", "c"]])), "not numbers"),
        (save(tmp_path / "e.npy", np.empty((0, 3))), "has no points"),
    ]
    objects = np.empty((1, 3), object)
    cases.append((save(tmp_path / "f.npy", objects), "cannot be read as a NumPy file"))
    np.savez(tmp_path / "g.npz", other=XYZ)
    cases.append((tmp_path / "g.npz", r"has no positions among its arrays \(other\)"))
    np.savez(tmp_path / "h.npz", xyz=XYZ, label=LABEL[:5])
    cases.append((tmp_path / "h.npz", "has 50 points, but 5 values of label"))
    np.savez(tmp_path / "i.npz", xyz=XYZ, rgb=RGB[:, :2])
    cases.append((tmp_path / "i.npz", r"rgb has the shape \(50, 2\)"))
    for path, message in cases:
        with pytest.raises(HpalError, match=rf"{path.name}: .*{message}"):
            read(path)


def test_npy_that_promises_too_much_is_refused_before_memory(tmp_path: Path) -> None:
    whole = save(tmp_path / "a.npy", XYZ).read_bytes()
    lie = whole.replace(b"(50, 3), }" + b" " * 11, b"(1000000000000, 3), }", 1)
    assert len(lie) == len(whole)
    assert lie != whole
    with pytest.raises(HpalError, match="cannot be read as a NumPy file"):
        read(write(tmp_path / "a.npy", lie))
