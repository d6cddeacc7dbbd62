"""Readers of whole data sets and of scanners' formats, options, and what lies beside what is read."""

from __future__ import annotations

import json
import math
import os
import resource
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import run_hpal
from test_readers import HEAD, RGB, XYZ, names, read, save, scannet_scene, shared, write, write_las, write_ply

from hpal_cli import readers
from hpal_cli.classes import ClassTable
from hpal_cli.errors import HpalError, UsageError
from hpal_cli.readers import e57, las, number_files, number_table, numpy_files, ply, s3dis, scannet, semantickitti, text
from hpal_cli.readers.cloud import Cloud, Options, Source
from hpal_cli.scenes import class_tables
from hpal_cli.scenes.prepare import prepare
from hpal_cli.scenes.store import SceneStore

# ---------------------------------------------------------------- what is found


def note_of(root: Path, format: str | None = None) -> str | None:
    reader, sources = readers.find(root, format)
    return readers.passed_over(root, reader, sources)


def test_what_is_passed_over_is_told(tmp_path: Path) -> None:
    write_las(tmp_path / "a.las")
    assert note_of(tmp_path) is None
    for name in ("b.ply", "sub/c.ply"):
        write_ply(tmp_path / name)
    assert note_of(tmp_path) == "read as las; passed over 2 .ply files (--format ply reads those)"
    write(tmp_path / "d.xyz", "1 2 3\n")
    write(tmp_path / "readme.txt", "hello\n")
    assert note_of(tmp_path, "ply") == (
        "read as ply; passed over 1 .las file (--format las reads it), 1 .xyz file (--format text reads it)"
    )
    assert note_of(tmp_path / "a.las") is None


def test_tables_whose_columns_have_no_names_are_told_of(tmp_path: Path) -> None:
    """As STPLS3D has them, with eight columns: a folder of them held no scans, and one of them among others was passed
    over without a word."""
    write(tmp_path / "a.txt", "1.5,2.5,3.5,10,20,30,4,-100\n")
    write(tmp_path / "readme.txt", "hello\n")
    with pytest.raises(HpalError, match=r"a\.txt: has 8 columns, and nothing says what they are; .*--columns x,y,z"):
        readers.find(tmp_path)
    eight = Options(("x", "y", "z", "r", "g", "b", "label", "-"))
    assert [source.name for source in readers.find(tmp_path, None, eight)[1]] == ["a"]
    write(tmp_path / "b.xyz", "1 2 3\n")
    told = "read as text; passed over a.txt, whose 8 columns have no names (--columns names them)"
    assert note_of(tmp_path) == told
    write(tmp_path / "c.txt", "1 2 3 4 5\n")
    assert note_of(tmp_path) == told.replace(" (", ", and 1 more such (")


def test_what_lies_in_a_scenes_folder_is_not_passed_over(tmp_path: Path) -> None:
    write(tmp_path / "s3dis" / "Area_1" / "office_1" / "Annotations" / "wall_1.txt", "1 2 3 4 5 6\n")
    write(tmp_path / "s3dis" / "Area_1" / "office_1" / "office_1.txt", "1 2 3 4 5 6\n")
    assert readers.find(tmp_path / "s3dis")[0] is s3dis
    assert note_of(tmp_path / "s3dis") is None
    scannet_scene(tmp_path / "scannet", codes=np.array([1, 2, 3], "u2"))
    assert readers.find(tmp_path / "scannet")[0] is scannet
    assert note_of(tmp_path / "scannet") is None
    save(tmp_path / "pointcept" / "train" / "a" / "coord.npy", XYZ)
    write(tmp_path / "pointcept" / "train" / "a" / "x.xyz", "1 2 3\n")
    assert note_of(tmp_path / "pointcept") == "read as text; passed over 1 folder (--format numpy reads it)"
    assert note_of(tmp_path / "pointcept", "numpy") is None


def test_names_stay_apart_and_plain(tmp_path: Path) -> None:
    for name in ("Büro", "Buro", "Bäro", "会議", "会長"):
        write(tmp_path / f"{name}.xyz", "1 2 3\n")
    found = names(tmp_path)
    assert len(set(found)) == 5
    assert {"Buro", "Baro"} <= set(found)
    assert all(readers.safe_name(name) == name and name.isascii() for name in found), found
    assert found == names(tmp_path), "the same names the next time"


def test_two_files_that_claim_one_name_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "sub" / "a.xyz", "1 2 3\n")
    write(tmp_path / "sub" / "a.txt", "1 2 3\n")
    with pytest.raises(HpalError, match=r"two scenes are called 'sub/a'"):
        readers.find(tmp_path)


CLASSES = json.dumps([{"id": 0, "name": "a"}, {"id": 1, "name": "b"}])


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_a_file_name_that_is_no_text_is_prepared_and_printed(tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path / "scans")
    os.mkdir(folder)
    with open(folder + b"/B\xfcro.xyz", "wb") as file:
        file.write(b"0 0 0\n0 0 1\n0 1 0\n1 0 0\n")
    classes = write(tmp_path / "classes.json", CLASSES)
    done = run_hpal("prep", tmp_path / "scans", "-o", tmp_path / "out.zarr", "--classes", classes)
    assert done.rc == 0, done.err
    assert (tmp_path / "out.zarr" / "scenes" / "B_ro").is_dir()
    with open(folder + b"/B\xfcro.xyz", "wb") as file:
        file.write(b"0 0 0\n0 0\n")
    done = run_hpal("prep", tmp_path / "scans", "-o", tmp_path / "no.zarr", "--classes", classes)
    assert done.rc == 1
    assert "line 2 has 2 columns, expected 3" in done.err
    assert "Traceback" not in done.err


# ---------------------------------------------------------------- options


def with_columns(path: Path, *wanted: str) -> Cloud:
    options = Options(columns=wanted)
    reader, (source,) = readers.find(path, None, options)
    return readers.read(reader, source, options)


def test_columns_name_what_is_in_text(tmp_path: Path) -> None:
    write(tmp_path / "a.txt", "9 1 2 3 200 100 0 4 0.5\n" * 2)
    assert names_of(tmp_path) == []
    cloud = with_columns(tmp_path, "-", "x", "y", "z", "r", "g", "b", "label", "height")
    assert cloud.xyz.tolist() == [[1, 2, 3]] * 2
    assert cloud.rgb is not None
    assert cloud.rgb.tolist() == [[200, 100, 0]] * 2
    assert cloud.label is not None
    assert cloud.label.tolist() == [4, 4]
    assert {name: values.tolist() for name, values in cloud.attributes.items()} == {"height": [0.5, 0.5]}


def names_of(root: Path) -> list[str]:
    return [source.name for source in text.find(root, Options())]


def test_columns_go_before_a_header(tmp_path: Path) -> None:
    write(tmp_path / "a.csv", "east;north;up;x\n1,5;2;3;4\n")
    assert with_columns(tmp_path, "X", "y", "z", "-").xyz.tolist() == [[1.5, 2, 3]]
    assert with_columns(tmp_path, "-", "x", "y", "z").xyz.tolist() == [[2, 3, 4]]
    write(tmp_path / "a.csv", "only three names\n1 2 3 4\n")
    assert with_columns(tmp_path, "x", "y", "z", "-").xyz.tolist() == [[1, 2, 3]]


@pytest.mark.parametrize(
    ("wanted", "kind", "message"),
    [
        ("x y z", HpalError, r"a\.txt: has 4 columns, and --columns names 3"),
        ("x y z - -", HpalError, r"a\.txt: has 4 columns, and --columns names 5"),
        ("x y - -", UsageError, "--columns: there is no z among them"),
        ("x y z X", UsageError, "--columns: 'x' is named twice"),
    ],
)
def test_columns_that_do_not_fit(tmp_path: Path, wanted: str, kind: type[HpalError], message: str) -> None:
    write(tmp_path / "a.txt", "1 2 3 4\n")
    with pytest.raises(kind, match=message):
        with_columns(tmp_path, *wanted.split())


# ---------------------------------------------------------------- blocks


def make(kind: str, folder: Path, count: int) -> Path:
    """`count` points with a colour, a label and an attribute, as a file of that kind."""
    steps = np.arange(count)
    fields = {
        **{axis: steps + n / 4 for n, axis in enumerate("xyz")},
        **dict.fromkeys(("red", "green", "blue"), (steps % 7).astype("u1")),
        "label": (steps % 3).astype("i4"),
        "w": steps * 0.5,
    }
    if kind in ("ascii", "<", ">"):
        return write_ply(folder / "a.ply", fields, **({"text": True} if kind == "ascii" else {"byte_order": kind}))
    if kind == "csv":
        lines = [",".join(fields), *(",".join(map(str, row)) for row in zip(*fields.values(), strict=True))]
        return write(folder / "a.csv", "\n".join(lines))
    if kind == "npy":
        rows = np.empty(count, [(name, values.dtype) for name, values in fields.items()])
        for name, values in fields.items():
            rows[name] = values
        return save(folder / "a.npy", rows)
    save(folder / "s" / "coord.npy", np.column_stack([fields[axis] for axis in "xyz"]))
    save(folder / "s" / "color.npy", np.column_stack([fields["red"]] * 3))
    save(folder / "s" / "segment.npy", fields["label"][:, None])
    save(folder / "s" / "w.npy", fields["w"])
    return folder / "s"


@pytest.mark.parametrize("kind", ["ascii", "<", ">", "csv", "npy", "folder"])
def test_blocks_join_to_the_whole_cloud(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(number_table, "ROWS", 100)
    monkeypatch.setattr(numpy_files, "ROWS", 100)
    monkeypatch.setattr(number_table, "_PIECE", 256)
    path = make(kind, tmp_path, 450)
    reader, (source,) = readers.find(path)
    parts = list(reader.read(source, Options()))
    assert len(parts) >= 5
    assert max(len(part.xyz) for part in parts) <= 100
    kinds = {tuple((name, values.dtype.str) for name, values in part.columns.items()) for part in parts}
    assert len(kinds) == 1, "all blocks have the same columns of the same types"
    cloud = readers.read(reader, source)
    steps = np.arange(450)
    np.testing.assert_array_equal(cloud.xyz, np.column_stack([steps, steps + 0.25, steps + 0.5]))
    assert cloud.rgb is not None
    np.testing.assert_array_equal(cloud.rgb, np.column_stack([steps % 7] * 3))
    np.testing.assert_array_equal(cloud.label, steps % 3)
    np.testing.assert_array_equal(cloud.attributes["w"], steps * 0.5)
    assert abs((reader.count(source) or 0) - 450) < 60


def test_a_wrong_label_is_found_in_any_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(number_table, "ROWS", 10)
    monkeypatch.setattr(number_table, "_PIECE", 32)
    write(tmp_path / "a.csv", "x,y,z,label\n" + "1,2,3,4\n" * 25 + "1,2,3,0.5\n")
    with pytest.raises(HpalError, match=r"label 0\.5 at point 25 is no whole number"):
        read(tmp_path)


# ---------------------------------------------------------------- PLY


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_ply_names_that_are_not_ascii(tmp_path: Path, encoding: str) -> None:
    head = (
        "ply\ncomment gemessen im Büro\nformat ascii 1.0\nobj_info Höhe\nelement vertex 1\nproperty float x\n"
        "property float y\nproperty float scalar_Höhe\nproperty float z\nend_header\n1 2 3 4\n"
    )
    cloud = read(write(tmp_path / "a.ply", head.encode(encoding)))
    assert cloud.xyz.tolist() == [[1, 2, 4]]
    assert {name: values.tolist() for name, values in cloud.attributes.items()} == {"scalar_Hohe": [3]}


@pytest.mark.parametrize("form", [b"ascii", b"binary_little_endian"])
def test_ply_elements_before_the_vertices(tmp_path: Path, form: bytes) -> None:
    head = (
        b"ply\nformat " + form + b" 1.0\nelement camera 2\nproperty uchar a\nproperty int b\nelement vertex 2\n"
        b"property float x\nproperty float y\nproperty float z\nelement face 1\n"
        b"property list uchar int vertex_indices\nend_header\n"
    )
    if form == b"ascii":
        body = b"1 2\n3 4\n1 2 3\n4 5 6\n3 0 1 0\n"
    else:
        body = b"\1\2\0\0\0" * 2 + np.arange(1, 7, dtype="<f4").tobytes() + b"\3" + np.zeros(3, "<i4").tobytes()
    assert read(write(tmp_path / "a.ply", head + body)).xyz.tolist() == [[1, 2, 3], [4, 5, 6]]


LISTS = HEAD.replace(b"property float z", b"property float z\nproperty list uchar int w")
LIES = [HEAD % (b"binary_little_endian", 10**12), HEAD % (b"ascii", 10**12), LISTS % (b"ascii", 10**12)]
LIES += [LISTS % (b"binary_big_endian", 10**12), (HEAD % (b"ascii", 1)).replace(b"end_h", b"element face 999999999999\n"
         b"property list uchar int vertex_indices\nend_h")]  # fmt: skip


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc to read the memory of a process from")
def test_ply_that_promises_too_much_costs_no_memory(tmp_path: Path) -> None:
    for n, lie in enumerate(LIES):
        write(tmp_path / f"{n}.ply", lie + b"1 2 3\n" * 4)
    code = (
        "import pathlib, sys\nfrom hpal_cli import readers\nfrom hpal_cli.errors import HpalError\n"
        "reader, sources = readers.find(pathlib.Path(sys.argv[1]))\n"
        "for source in sources:\n    try:\n        readers.read(reader, source)\n        print('read')\n"
        "    except HpalError as error:\n        print(error)\n"
        # Not getrusage: a process that was started by a large one counts that one's memory as its own.
        "print(pathlib.Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0])"
    )
    root = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code, tmp_path], cwd=root, capture_output=True, text=True, check=True)
    *messages, kilobytes = done.stdout.splitlines()
    assert len(messages) == len(LIES)
    assert all("the header promises" in message for message in messages), messages
    assert int(kilobytes) < 300_000


# ---------------------------------------------------------------- ScanNet from segments

TSV = "id\traw_category\tcategory\tnyu40id\n1\twall\twall\t1\n2\toffice chair\tchair\t5\n3\tbox\tbox\t29\n4\tdust\t\t\n"


def with_segments(root: Path, groups: object = None, segments: object = None) -> Path:
    scene = scannet_scene(root)
    if groups is None:
        groups = [{"id": 0, "label": "office chair", "segments": [7]}, {"id": 1, "label": "box", "segments": [9]}]
    write(scene / "scene0000_00.aggregation.json", json.dumps({"segGroups": groups}))
    given = {"segIndices": [7, 8, 9] if segments is None else segments}
    write(scene / "scene0000_00_vh_clean_2.0.010000.segs.json", json.dumps(given))
    return scene


@pytest.mark.parametrize("place", [".", "scans", "scans/scene0000_00"])
def test_scannet_from_segments(tmp_path: Path, place: str) -> None:
    with_segments(tmp_path / "set")
    write(tmp_path / "set" / place / "scannetv2-labels.combined.tsv", TSV)
    cloud = read(tmp_path / "set" / "scans")
    assert cloud.label is not None
    assert scannet.CLASSES is not None
    assert scannet.CLASSES.from_codes(cloud.label, "f").tolist() == [4, -1, -1]
    assert cloud.carried["instance"].tolist() == [0, -1, 1]


def test_scannet_by_its_own_numbers(tmp_path: Path) -> None:
    """What ScanNet200 calls 10 is NYU's 5; 13, `person` of no class here, is none of them."""
    scene = with_segments(tmp_path)
    scannet_scene(tmp_path, codes=np.array([5, 5, 29], "u2"))
    table = TSV.replace("2\toffice chair", "10\toffice chair").replace("3\tbox", "12\tbox")
    write(tmp_path / "scannetv2-labels.combined.tsv", table)
    reader, (source,) = readers.find(tmp_path)
    classes = class_tables.class_table("scannet200")
    cloud = readers.read(reader, source, Options(classes=classes))
    assert cloud.label is not None
    assert cloud.label.tolist() == [10, -1, -1]
    assert classes.names[classes.from_codes(cloud.label, "f")[0]] == "office chair"
    assert cloud.carried["instance"].tolist() == [0, -1, 1]
    nyu = readers.read(reader, source, Options(classes=class_tables.class_table("nyu40")))
    assert nyu.label is not None
    assert nyu.label.tolist() == [5, 5, 29]
    (scene / "scene0000_00.aggregation.json").unlink()
    with pytest.raises(HpalError, match=r"aggregation\.json: is missing, and .* NYU's 40 classes alone; fetch it too"):
        readers.read(reader, source, Options(classes=classes))


def test_scannet200_through_prep(tmp_path: Path) -> None:
    with_segments(tmp_path / "set")
    table = TSV.replace("2\toffice chair", "10\toffice chair").replace("3\tbox", "26\tbox")
    write(tmp_path / "set/scannetv2-labels.combined.tsv", table)
    prepare(tmp_path / "set", tmp_path / "s.zarr", classes=class_tables.class_table("scannet200"))
    store = SceneStore(tmp_path / "s.zarr")
    label = store.labels(store.table[0])
    assert label is not None
    assert sorted(store.classes.names[n] if n >= 0 else "-" for n in label) == ["-", "box", "office chair"]


def test_scannet_prefers_the_labels_that_are_made(tmp_path: Path) -> None:
    with_segments(tmp_path)
    scannet_scene(tmp_path, codes=np.array([1, 2, 3], "u2"))
    cloud = read(tmp_path)
    assert cloud.label is not None
    assert cloud.label.tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("groups", "segments", "message"),
    [
        (None, [1, 2], r"segs\.json: has 2 segIndices, but .*_vh_clean_2\.ply has 3 vertices"),
        (None, [1, 2, "x"], r"segs\.json: segIndices: not a list of whole numbers"),
        (None, [[1], [2, 3]], r"segs\.json: segIndices: not a list of whole numbers"),
        ([{"label": "wall"}], None, r"aggregation\.json: object 0 has no label or no segments"),
        ([{"segments": []}], None, r"aggregation\.json: object 0 has no label"),
        ([{"label": "wall", "segments": [0.5]}], None, r"aggregation\.json: segments of object 0: not a list"),
        ("wall", None, r"aggregation\.json: object 0 has no label"),
    ],
)
def test_scannet_refuses_segments(tmp_path: Path, groups: object, segments: object, message: str) -> None:
    with_segments(tmp_path, groups, segments)
    write(tmp_path / "scannetv2-labels.combined.tsv", TSV)
    with pytest.raises(HpalError, match=message):
        read(tmp_path)


def test_scannet_says_what_is_missing(tmp_path: Path) -> None:
    scene = with_segments(tmp_path)
    with pytest.raises(
        HpalError, match=r"need the data set's scannetv2-labels\.combined\.tsv.*; copy it to .*--label_map"
    ):
        read(tmp_path)
    write(tmp_path / "scannetv2-labels.combined.tsv", "id\tname\n")
    write(tmp_path / "scannetv2-labels.combined.tsv", "id\tname\n1\twall\n")
    with pytest.raises(HpalError, match="no columns raw_category and nyu40id"):
        read(tmp_path)
    (scene / "scene0000_00_vh_clean_2.0.010000.segs.json").unlink()
    with pytest.raises(HpalError, match=r"segs\.json: is missing beside scene0000_00\.aggregation\.json"):
        read(tmp_path)
    write(scene / "scene0000_00.aggregation.json", "{")
    write(scene / "scene0000_00_vh_clean_2.0.010000.segs.json", "[]")
    with pytest.raises(HpalError, match=r"segs\.json: cannot be read as JSON with segIndices"):
        read(tmp_path)


# ---------------------------------------------------------------- SemanticKITTI


def sweep(root: Path, points: int = 3, labels: list[int] | None = None, name: str = "08/velodyne/000001") -> Path:
    path = root / "sequences" / f"{name}.bin"
    write(path, (np.arange(4 * points) / 4).astype("<f4").tobytes())
    if labels is not None:
        beside = path.parents[1] / "labels" if path.parent.name == "velodyne" else path.parent
        write(beside / f"{path.stem}.label", np.array(labels, "<u4").tobytes())
    return path


def test_semantickitti(tmp_path: Path) -> None:
    sweep(tmp_path, labels=[10, 252 | 5 << 16, 99])
    sweep(tmp_path, name="11/velodyne/000000")
    write(tmp_path / "sequences" / "08" / "times.txt", "0.0\n0.1\n")
    reader, sources = readers.find(tmp_path)
    assert reader is semantickitti
    assert [source.name for source in sources] == ["08/000001", "11/000000"]
    assert names(tmp_path / "sequences" / "08") == ["08/000001"]
    assert note_of(tmp_path) is None
    cloud, test = (readers.read(reader, source) for source in sources)
    assert cloud.xyz.tolist() == [[0, 0.25, 0.5], [1, 1.25, 1.5], [2, 2.25, 2.5]]
    assert cloud.attributes["intensity"].tolist() == [0.75, 1.75, 2.75]
    assert cloud.label is not None
    assert cloud.label.tolist() == [10, 252, 99]
    assert cloud.carried["instance"].tolist() == [0, 5, 0]
    assert semantickitti.CLASSES is not None
    assert semantickitti.CLASSES.from_codes(cloud.label, "f").tolist() == [0, 0, -1]
    assert (test.label, test.carried) == (None, {})
    assert semantickitti.count(sources[0]) == 3


def test_semantickitti_classes() -> None:
    assert semantickitti.CLASSES is not None
    assert " ".join(semantickitti.CLASSES.names) == (
        "car bicycle motorcycle truck other-vehicle person bicyclist motorcyclist road parking sidewalk other-ground "
        "building fence vegetation trunk terrain pole traffic-sign"
    )
    # Every number of the data set has its place: moving things and rare ones with those that they are counted as.
    raw = [0, 1, 10, 11, 13, 15, 16, 18, 20, 30, 31, 32, 40, 44, 48, 49, 50, 51, 52, 60, 70, 71, 72, 80, 81, 99]
    raw += range(252, 260)
    as_counted = [-1, -1, 0, 1, 4, 2, 4, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, -1, 8, 14, 15, 16, 17, 18, -1]
    as_counted += [0, 6, 5, 7, 4, 4, 3, 4]
    assert semantickitti.CLASSES.from_codes(np.array(raw), "f").tolist() == as_counted
    assert [c.code for c in semantickitti.CLASSES][:4] == [10, 11, 15, 18], "what stands is what is written"


def test_a_class_that_semantickitti_has_not_is_refused(tmp_path: Path) -> None:
    sweep(tmp_path, labels=[10, 12, 12])
    done = run_hpal("prep", tmp_path, "-o", tmp_path / "s.zarr")
    assert done.rc == 1
    assert "000001.bin: class number 12 is not in the table of 19 classes (2 points)" in done.err


def test_semanticposs_by_its_own_table(tmp_path: Path) -> None:
    """The same layout, with other numbers: 10 is a sign here, and a car there."""
    sweep(tmp_path, points=5, labels=[4, 5, 10, 22, 0], name="03/velodyne/000001")
    done = run_hpal("prep", tmp_path, "-o", tmp_path / "s.zarr", "--classes", "semanticposs")
    assert done.rc == 0, done.err
    store = SceneStore(tmp_path / "s.zarr")
    points, _ = store.original(store.table[0], label=True)
    assert points.label is not None
    named = [store.classes[n].name if n >= 0 else None for n in points.label]
    assert named == ["people", "people", "traffic sign", "ground", None]
    done = run_hpal("prep", tmp_path, "-o", tmp_path / "t.zarr")
    assert (
        "class numbers 4, 5, 22 are not in the table of 19 classes (3 points); give another with --classes" in done.err
    )


def test_lone_bin_files(tmp_path: Path) -> None:
    path = sweep(tmp_path, labels=[40, 0, 81], name="drive/scan")
    assert names(tmp_path / "sequences") == ["drive/scan"]
    assert names(path) == ["scan"]
    cloud = read(path)
    assert cloud.label is not None
    assert cloud.label.tolist() == [40, 0, 81]
    write_ply(path.with_name("b.ply"))
    assert readers.find(tmp_path)[0] is ply


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([10, 10], r"000001\.label: has 8 bytes, not 4 for each of the 3 points of 000001\.bin"),
    ],
)
def test_semantickitti_refuses(tmp_path: Path, labels: list[int], message: str) -> None:
    sweep(tmp_path, labels=labels)
    with pytest.raises(HpalError, match=message):
        read(tmp_path)
    path = sweep(tmp_path / "cut")
    write(path, path.read_bytes()[:-1])
    with pytest.raises(HpalError, match=r"000001\.bin: has 47 bytes, not 16 for each point"):
        read(path)


@pytest.mark.parametrize("width", [3, 4, 5, 6, 7, 8])
def test_bins_with_another_number_of_numbers(tmp_path: Path, width: int) -> None:
    """mmdetection3d writes Waymo's frames as `velodyne/*.bin`, too, with elongation and time besides."""
    rng = np.random.default_rng(width)
    # As many as make a file that has whole points of any width.
    rows = rng.uniform(-70, 70, (1680, width)).astype("<f4")
    rows[:, 2] /= 20
    rows[:, 3:] = rng.uniform(0, 1, (1680, width - 3))
    path = write(tmp_path / "training" / "velodyne" / "0000000.bin", rows.tobytes())
    cloud = read(tmp_path)
    np.testing.assert_array_equal(cloud.xyz, rows[:, :3])
    expected = {"intensity" if n == 3 else f"column_{n}": rows[:, n] for n in range(3, width)}
    assert list(cloud.attributes) == list(expected)
    for name, values in expected.items():
        np.testing.assert_array_equal(cloud.attributes[name], values)
    more = "" if width == 3 else f" intensity and {width - 4} more"
    told = f"has {width} numbers for each point: read as x y z{more}"
    names_classes = "; its classes are taken for SemanticKITTI's (--classes names others)"
    assert cloud.notes == ([told + names_classes] if width != 4 else [])
    reader, (source,) = readers.find(tmp_path)
    given = readers.read(reader, source, Options(classes=ClassTable.from_names(["car", "other"])))
    assert given.notes == ([told] if width != 4 else [])
    if width == 4:
        # What is left may be whole points of another width.
        for left in (1679.75, 1679, 1678.5, 1677.75):
            path.write_bytes(rows.tobytes()[: int(left * 16)])
            if left == 1679:
                assert len(read(tmp_path).xyz) == 1679
            else:
                with pytest.raises(HpalError, match="not 16 for each point"):
                    read(tmp_path)


def test_time_stamps_do_not_hide_the_columns(tmp_path: Path) -> None:
    """mmdetection3d gives every point of a frame the same time, in microseconds."""
    rng = np.random.default_rng(0)
    rows = np.column_stack([rng.normal(0, 20, (4000, 3)), rng.lognormal(0, 3, 4000), rng.uniform(0, 1, 4000)])
    rows = np.column_stack([rows, np.full(4000, 1.5e15)]).astype("<f4")
    write(tmp_path / "training" / "velodyne" / "0000000.bin", rows.tobytes())
    np.testing.assert_array_equal(read(tmp_path).xyz, rows[:, :3])


# ---------------------------------------------------------------- Pointcept


def test_pointcept_as_it_is_written(tmp_path: Path) -> None:
    """What its scripts for ScanNet and S3DIS save: labels as (N,) or (N, 1), a normal, an instance."""
    count = len(XYZ)
    for scene, shape in (("val/scene0000_00", (count,)), ("Area_1/hall_1", (count, 1))):
        folder = tmp_path / scene
        save(folder / "coord.npy", XYZ.astype(np.float32))
        save(folder / "color.npy", RGB)
        save(folder / "normal.npy", np.tile(np.float32([0, 0.6, 0.8]), (count, 1)))
        label = "segment20" if len(shape) == 1 else "segment"
        save(folder / f"{label}.npy", (np.arange(count) % 4 - 1).astype(np.int16).reshape(shape))
        save(folder / "instance.npy", np.arange(count).astype(np.int16).reshape(shape))
    save(tmp_path / "val" / "scene0000_00" / "segment200.npy", np.arange(count))
    reader, sources = readers.find(tmp_path)
    assert reader is numpy_files
    assert [source.name for source in sources] == ["Area_1/hall_1", "val/scene0000_00"]
    for source in sources:
        cloud = readers.read(reader, source)
        np.testing.assert_array_equal(cloud.label, np.arange(count) % 4 - 1)
        assert {name: float(values[0]) for name, values in cloud.attributes.items()} == {
            "nx": 0,
            "ny": pytest.approx(0.6),
            "nz": pytest.approx(0.8),
        }
        np.testing.assert_array_equal(cloud.carried["instance"], np.arange(count))
        assert cloud.notes == []
    assert "segment200" in cloud.carried


def test_pointcept_labels_in_several_columns(tmp_path: Path) -> None:
    save(tmp_path / "s" / "coord.npy", XYZ)
    save(tmp_path / "s" / "segment.npy", np.column_stack([np.arange(50), np.full(50, 7)]))
    cloud = read(tmp_path)
    np.testing.assert_array_equal(cloud.label, np.arange(50))
    assert "segment has 2 columns: the first is read as the label" in cloud.notes[0]


# ---------------------------------------------------------------- E57


def write_e57(path: Path, *scans: dict[str, np.ndarray], **how: object) -> Path:
    pye57 = pytest.importorskip("pye57", reason="E57 is tested where pye57 is installed (pip install 'hpal[e57]')")
    path.parent.mkdir(parents=True, exist_ok=True)
    with pye57.E57(str(path), mode="w") as file:
        for scan in scans:
            file.write_scan_raw(scan, **how)
    return path


def scan(count: int = 5, **more: np.ndarray) -> dict[str, np.ndarray]:
    return {f"cartesian{axis}": np.arange(count) * (n + 1.0) for n, axis in enumerate("XYZ")} | more


COLOURED = {name: np.full(5, n, "u1") for n, name in enumerate(("colorRed", "colorGreen", "colorBlue"), 7)}


def test_e57_of_positions_that_are_not_finite() -> None:
    """NumPy's warnings about them do not reach the terminal; `readers.read` leaves such points out and counts them."""
    header = SimpleNamespace(has_pose=lambda: True, rotation_matrix=np.eye(3), translation=[1, 2, 3])
    points = np.array([[1.0, 1, 1], [np.inf, 1, 1], [np.nan, 1, 1]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        moved = e57._common_frame(points, header)
        turned = e57._from_spherical(points[:, ::-1])
    assert moved[0].tolist() == [2, 3, 4]
    assert not np.isfinite(moved[1:]).all(axis=1).any()
    assert np.isfinite(turned).all(axis=1).tolist() == [True, False, False]


def test_e57_in_the_common_frame(tmp_path: Path) -> None:
    state = np.array([0, 1, 0, 0, 2], "i1")
    path = write_e57(
        tmp_path / "a.e57",
        scan(**COLOURED, intensity=np.linspace(0, 1, 5, dtype="f4"), cartesianInvalidState=state),
        scan(**COLOURED, intensity=np.linspace(0, 1, 5, dtype="f4")),
        rotation=np.array([0.5**0.5, 0, 0, 0.5**0.5]),
        translation=np.array([100.0, 0, 0]),
    )
    reader, (source,) = readers.find(tmp_path)
    assert reader is e57
    assert e57.count(source) == 10
    cloud = readers.read(reader, source)
    expected = [[100 - 2 * n, n, 3 * n] for n in (0, 2, 3, 0, 1, 2, 3, 4)]
    np.testing.assert_allclose(cloud.xyz, expected, atol=1e-12)
    assert cloud.rgb is not None
    assert cloud.rgb.tolist() == [[7, 8, 9]] * 8
    assert cloud.attributes["intensity"].tolist() == [0, 0.5, 0.75, 0, 0.25, 0.5, 0.75, 1]
    assert cloud.unit == 1
    assert cloud.notes == ["left out 2 of 10 points, which the scanner marked as invalid"]
    assert read(path).xyz.shape == (8, 3)


def test_e57_with_columns_in_some_scans_only(tmp_path: Path) -> None:
    write_e57(tmp_path / "a.e57", scan(**COLOURED), scan())
    cloud = read(tmp_path)
    assert len(cloud.xyz) == 10
    assert cloud.rgb is None
    assert cloud.notes == ["colours left out: only 1 of 2 scans have them"]


def test_e57_that_cannot_be_read(tmp_path: Path) -> None:
    whole = write_e57(tmp_path / "whole.e57", scan()).read_bytes()
    for n, bad in enumerate((b"", b"junk", whole[:900], whole[:1500], whole.replace(b"cartesianX", b"cartesianQ"))):
        with pytest.raises(HpalError, match=rf"bad{n}\.e57: cannot be read as E57"):
            read(write(tmp_path / f"bad{n}.e57", bad))


def test_e57_from_angles() -> None:
    found = e57._from_spherical(np.array([[2, 0, 0], [2, np.pi / 2, 0], [2, 1, np.pi / 2]]))
    np.testing.assert_allclose(found, [[2, 0, 0], [0, 2, 0], [0, 0, 2]], atol=1e-12)


def test_e57_without_pye57_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pye57", None)
    with pytest.raises(HpalError, match=r"a\.e57: E57 needs pye57, which is not installed; pip install 'hpal\[e57\]'"):
        read(write(tmp_path / "a.e57", b"x"))


# ---------------------------------------------------------------- LAZ whose sizes lie


def test_laz_sizes_are_not_believed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    whole = write_las(tmp_path / "whole.laz", count=120_000).read_bytes()
    start = int.from_bytes(whole[96:100], "little")
    row = int.from_bytes(whole[105:107], "little")
    table = int.from_bytes(whole[start : start + 8], "little")
    assert len(read(tmp_path / "whole.laz").xyz) == 120_000
    layers = start + 8 + row + 4
    cases = [(layers + 4 * n, b"\xff\xff\xff\xfe") for n in range(9)] + [(start + 8 + row, bytes(4))]
    cases += [(table + 8 + n, b"\xff\xff\xff") for n in range(0, len(whole) - table - 11, 3)]
    for at, put in cases:
        bad = bytearray(whole)
        bad[at : at + len(put)] = put
        with pytest.raises(HpalError, match=r"bad\.laz: .*(promise|cannot be read)"):
            read(write(tmp_path / "bad.laz", bytes(bad)))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 3_000_000
    assert capfd.readouterr().err == "", "the decompressor wrote to the terminal"


def test_las_texts_in_another_encoding(tmp_path: Path) -> None:
    whole = bytearray(write_las(tmp_path / "a.las", wkt="x").read_bytes())
    whole[26:30] = b"B\xfcro"
    cloud = read(write(tmp_path / "a.las", bytes(whole)))
    assert cloud.las_header is not None
    assert cloud.las_header[26:30] == b"B\xfcro"


# ---------------------------------------------------------------- clouds without points, points twice


@pytest.mark.parametrize("kind", ["ascii", "<", "csv", "npy", "folder", "las", "laz", "kitti", "e57"])
def test_clouds_without_points_are_refused(tmp_path: Path, kind: str) -> None:
    if kind in ("las", "laz"):
        write_las(tmp_path / f"a.{kind}", count=0)
    elif kind == "kitti":
        sweep(tmp_path, points=0, labels=[])
    elif kind == "e57":
        pye57 = pytest.importorskip("pye57", reason="E57 is tested where pye57 is installed (pip install 'hpal[e57]')")
        with pye57.E57(str(tmp_path / "a.e57"), mode="w"):
            pass
    root = tmp_path if kind in ("las", "laz", "kitti", "e57") else make(kind, tmp_path, 0)
    with pytest.raises(HpalError, match=r"has no points|holds no lines of numbers"):
        read(root)


def test_points_given_twice_stay(tmp_path: Path) -> None:
    assert read(write(tmp_path / "a.xyz", "1 2 3\n" * 5)).xyz.tolist() == [[1, 2, 3]] * 5


def test_labels_outside_the_table_are_named(tmp_path: Path) -> None:
    write(tmp_path / "scans" / "a.csv", "x,y,z,label\n1,2,3,0\n1,2,4,5\n")
    classes = write(tmp_path / "classes.json", CLASSES)
    done = run_hpal("prep", tmp_path / "scans", "-o", tmp_path / "out.zarr", "--classes", classes)
    assert done.rc == 1
    assert (
        'a.csv: class number 5 is not in the table of 2 classes (1 point); add it to the "code" of a class in'
        in done.err
    )
    assert 'classes.json, or to a row with "id": -1 to ignore it' in done.err
    assert not (tmp_path / "out.zarr").exists()


# ---------------------------------------------------------------- the class table


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([{"id": 0, "name": "a"}, {"id": 0, "name": "b"}], "row 2 and row 1 have the same id 0"),
        ([{"id": 0, "name": "a"}, {"id": 2, "name": "b"}], r"row 2 \('b'\) has id 2, expected 1"),
        ([{"id": 0, "name": "a"}, {"id": 1, "name": "a"}], "row 2 and row 1 share the name 'a'"),
        ([{"id": 0, "name": "a", "code": 7}, {"id": 1, "name": "b", "code": 7}], "row 2 and row 1: the code 7"),
        ([{"id": 0, "name": "a", "las": 6}, {"id": 1, "name": "b", "las": 6}], "row 2 and row 1: the LAS code 6"),
        ([{"id": 0, "name": "a", "las": 256}], r"row 1: the LAS code (256|-1) is not 0\.\.255"),
        ([{"id": 0, "name": "a", "las": -1}], r"row 1: the LAS code (256|-1) is not 0\.\.255"),
        ([{"id": 0, "name": "a", "las": "wall"}], "row 1 cannot be read: "),
        ([], "0 classes, expected 1"),
        (
            [{"id": 0, "name": "Wall"}, {"id": 1, "name": "wall "}],
            "row 2 and row 1 share the name 'wall ' .'Wall'; case",
        ),
        ([{"id": 0, "name": "STRASSE"}, {"id": 1, "name": "straße"}], "row 2 and row 1 share the name 'straße'"),
        ([{"id": 0, "name": "Unsure"}], "row 1 is called 'Unsure'"),
        ([{"id": 0, "name": "1"}, {"id": 1, "name": "a"}], "row 1 is called '1', which is the id of another class"),
        ([{"id": 0, "name": " "}], "row 1 has an empty name"),
        ([{"id": 0, "name": "a\tb"}], r"row 1: the name 'a\\tb' has control characters"),
        ([{"id": 0, "name": "a\x1b[1m"}], r"row 1: the name 'a\\x1b\[1m' has control characters"),
        ([{"id": 0.7, "name": "a"}], "row 1 cannot be read: 0.7 is no whole number"),
        ([{"id": True, "name": "a"}], "row 1 cannot be read: True is no whole number"),
        ([{"id": math.inf, "name": "a"}], "row 1 cannot be read: inf is no whole number"),
        ([{"id": 0, "name": "a", "code": math.inf}], "row 1 cannot be read: "),
        ([{"id": 0, "name": "a", "color": [0, 0, math.inf]}], "row 1 cannot be read: "),
        ([{"id": 0, "name": "a", "las": 0}], "row 1: the LAS code 0 means that a point is not classified"),
        ([{"id": 0, "name": "a", "las": 1}], "row 1: the LAS code 1 means that a point is not classified"),
        ({"classes": "a"}, "holds no list of classes"),
    ],
)
def test_class_tables_that_are_refused(tmp_path: Path, content: object, message: str) -> None:
    with pytest.raises(HpalError, match=rf"c\.json: {message}"):
        ClassTable.from_file(write(tmp_path / "c.json", json.dumps(content)))


def test_class_tables_that_are_read(tmp_path: Path) -> None:
    """Numbers as names, if they are their own ids or no ids."""
    rows = [{"id": 0.0, "name": "0"}, {"id": 1, "name": "2019"}, {"id": 2, "name": "mur porteur", "las": 255}]
    table = ClassTable.from_file(write(tmp_path / "c.json", json.dumps(rows)))
    assert [table.id_of(name) for name in ("0", "2019", "1", "Mur porteur ", "2.0", "3")] == [0, 1, 1, 2, 2, None]


def test_a_class_table_that_is_not_utf8(tmp_path: Path) -> None:
    good = '[{"id": 0, "name": "Tür"}]'
    assert ClassTable.from_file(write(tmp_path / "c.json", good)).names == ["Tür"]
    for name in ("c.json", "c.toml"):
        with pytest.raises(HpalError, match=rf"{name}: cannot be read as a class table"):
            ClassTable.from_file(write(tmp_path / name, good.encode("latin-1")))


def test_las_codes_of_classes() -> None:
    rows = [
        {"id": 0, "name": "ground", "las": 2},
        {"id": 1, "name": "building", "las": 6},
        {"id": 2, "name": "sofa", "code": 9},
    ]
    table = ClassTable.from_json(rows)
    assert [c.las for c in table] == [2, 6, None]
    assert ClassTable.from_json(table.to_json()) == table
    assert ["las" in row for row in table.to_json()] == [True, True, False]
    assert table.from_codes(np.array([0, 1, 9]), "f").tolist() == [0, 1, 2]
    assert table.from_codes(np.array([2, 6, 9, -1]), "f", las=True).tolist() == [0, 1, 2, -1]
    plain = ClassTable.from_names(["a", "b"])
    assert plain.numbers(las=True) == plain.numbers() == {0: 0, 1: 1}


def test_real_tiles_one_by_one() -> None:
    for path in sorted(shared("ign_lidar").glob("*.laz")):
        assert len(read(path).xyz) == las.count(Source("a", path))


def test_s3dis_in_several_threads_and_in_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "Area_1" / "hall_1" / "Annotations"
    for n in range(7):
        text = "".join(f"{n} {row} 0.5 1 2 {n}\n" for row in range(100 * n))
        write(folder / f"wall_{n}.txt", text.replace("0.5", "0\x10.5", 1) if n == 3 else text)
    monkeypatch.setattr(number_files, "_PART", 500)
    clouds = []
    for threads in (1, 3):
        monkeypatch.setattr(number_files, "cores", lambda threads=threads: threads)
        clouds.append(read(tmp_path))
    expected = [n for n in range(7) for _ in range(100 * n)]
    for cloud in clouds:
        assert cloud.xyz[:, 0].tolist() == cloud.rgb[:, 2].tolist() == expected
        assert cloud.xyz[:, 1].tolist() == [row for n in range(7) for row in range(100 * n)]
        assert cloud.notes == ["wall_3.txt: read past 1 control byte"]


def test_s3dis_tells_what_is_no_file(tmp_path: Path) -> None:
    folder = tmp_path / "Area_1" / "hall_1" / "Annotations"
    write(folder / "wall_1.txt", "1 2 3 4 5 6\n")
    os.mkfifo(folder / "chair_1.txt")
    with pytest.raises(HpalError, match=r"chair_1\.txt: is no file"):
        read(tmp_path)
    (folder / "chair_1.txt").unlink()
    (folder / "chair_1.txt").symlink_to(folder / "nowhere")
    with pytest.raises(HpalError, match="cannot be read"):
        read(tmp_path)
    done = run_hpal("prep", tmp_path, "-o", tmp_path / "s.zarr")
    assert done.rc == 1
    assert "hall_1: cannot be read (No such file" in done.err
