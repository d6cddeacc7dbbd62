"""Class tables as people write them: several numbers for a class, numbers to ignore, the rest, tables by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import laspy
import numpy as np
import pytest
from conftest import run_hpal
from test_docs import DOCS, files_of
from test_readers import shared, write

from hpal_cli.classes import ClassTable, SemanticClass
from hpal_cli.errors import HpalError
from hpal_cli.readers import s3dis, scannet, semantickitti
from hpal_cli.scenes.class_tables import TABLES, class_table
from hpal_cli.scenes.store import SceneStore
from hpal_cli.writers import las

LAS_NUMBERS = (1, 2, 3, 4, 5, 6, 7, 64)


def toml(rows: list[dict[str, Any]]) -> str:
    lines = []
    for row in rows:
        lines.append("[[classes]]")
        lines += [f"{key} = {json.dumps(value)}" for key, value in row.items()]
    return "\n".join(lines)


def table_of(folder: Path, rows: list[dict[str, Any]]) -> ClassTable:
    """From JSON and from TOML, which say the same."""
    as_json = ClassTable.from_file(write(folder / "c.json", json.dumps(rows)))
    as_toml = ClassTable.from_file(write(folder / "c.toml", toml(rows)))
    in_object = ClassTable.from_file(write(folder / "o.json", json.dumps({"classes": rows})))
    assert as_json.reading() == as_toml.reading() == in_object.reading()
    return as_json


def ids(table: ClassTable, *codes: int, las: bool = False) -> list[int]:
    return table.from_codes(np.array(codes), "f", las=las).tolist()


def test_several_numbers_for_a_class_and_some_to_ignore(tmp_path: Path) -> None:
    rows = [
        {"id": 0, "name": "ground", "las": 2},
        {"id": 1, "name": "vegetation", "las": [3, 4, 5]},
        {"id": 2, "name": "building", "las": 6},
        {"id": -1, "las": [7, 64]},
    ]
    table = table_of(tmp_path, rows)
    assert table.names == ["ground", "vegetation", "building"]
    assert ids(table, 2, 3, 4, 5, 6, 7, 64, -1, las=True) == [0, 1, 1, 1, 2, -1, -1, -1]
    assert ids(table, 0, 1, 2, -1) == [0, 1, 2, -1], "in other files, ids are the codes"
    assert las.codes(table, own=True).tolist() == las.codes(table, own=False).tolist() == [2, 3, 6]
    with pytest.raises(HpalError) as caught:
        ids(table, 2, 9, 9, las=True)
    assert str(caught.value) == (
        f'f: class number 9 is not in the table of 3 classes (2 points); add it to the "las" of a class in '
        f'{tmp_path / "c.json"}, or to a row with "id": -1 to ignore it'
    )


def test_codes_of_other_files(tmp_path: Path) -> None:
    rows = [
        {"name": "low", "code": [1, 20]},
        {"id": -1, "name": "nothing", "code": [0, 255]},
        {"name": "high", "code": 7},
        {"name": "by answers alone"},
    ]
    table = table_of(tmp_path, rows)
    assert [(c.id, c.name, c.codes) for c in table] == [
        (0, "low", (1, 20)),
        (1, "high", (7,)),
        (2, "by answers alone", ()),
    ]
    assert ids(table, 1, 20, 7, 0, 255) == [0, 0, 1, -1, -1]
    assert ids(table, 1, 20, 7, las=True) == [0, 0, 1], "no class has a `las`"
    with pytest.raises(HpalError, match="class number 2 is not in the table of 3 classes"):
        ids(table, 2)


@pytest.mark.parametrize("number", [2, -1])
def test_the_rest(tmp_path: Path, number: int) -> None:
    rows = [
        {"id": 0, "name": "ground", "las": 2},
        {"id": 1, "name": "building", "las": 6},
        {"id": -1, "las": 7},
        {"id": number, "name": "other", "code": "rest"},
    ]
    table = table_of(tmp_path, rows)
    assert ids(table, *LAS_NUMBERS[1:], las=True) == [0, number, number, number, 1, -1, number]
    assert ids(table, -1, las=True) == [-1], "a point without a label has none"
    assert ids(table, 0, 1, 5) == [0, 1, number]


def test_a_class_without_a_las_number_takes_none(tmp_path: Path) -> None:
    """The id of such a class was once taken for its LAS number: `other`, with the id 2, got all points of the
    ground."""
    rows = [
        {"id": 0, "name": "building", "las": 6},
        {"id": 1, "name": "vegetation", "las": 5},
        {"id": 2, "name": "other"},
    ]
    table = table_of(tmp_path, rows)
    assert ids(table, 6, 5, las=True) == [0, 1]
    with pytest.raises(HpalError, match="class number 2 is not in the table"):
        ids(table, 2, las=True)
    assert las.codes(table, own=True).tolist() == las.codes(table, own=False).tolist() == [6, 5, 66]
    stored = ClassTable.from_json(table.to_json())
    assert stored == table
    assert stored.numbers(las=True) == {6: 0, 5: 1}
    rows[0]["las"] = 2
    assert ids(table_of(tmp_path, rows), 2, 5, las=True) == [0, 1], "no word of a code that nobody typed"


def test_a_number_that_a_las_file_has_already_is_not_made_up() -> None:
    table = ClassTable([SemanticClass(0, "a", (0, 0, 0), (0,), (65,)), SemanticClass(1, "b", (0, 0, 0), (1,))])
    assert las.codes(table, own=False).tolist() == [65, 66]


def test_a_code_that_was_typed_counts_in_las_files_too(tmp_path: Path) -> None:
    rows = [{"name": "a", "las": 6}, {"name": "b", "code": 9}, {"name": "c", "code": 6}]
    table = table_of(tmp_path, rows)
    assert ids(table, 6, 9, las=True) == [0, 1], "`las` goes first"
    assert ids(table, 6, 9) == [2, 1]


def test_the_store_keeps_all_numbers_and_old_readers_find_one(tmp_path: Path) -> None:
    rows = [
        {"name": "a", "code": [1, 0]},
        {"name": "b", "code": [5, 9], "las": [3, 4]},
        {"name": "c"},
        {"name": "d", "las": 6},
    ]
    table = table_of(tmp_path, rows)
    stored = table.to_json()
    assert ClassTable.from_json(stored) == table
    assert [(row["code"], row.get("codes"), row.get("las"), row.get("las_codes")) for row in stored] == [
        (1, [1, 0], None, None),
        (5, [5, 9], 3, [3, 4]),
        (2, [], None, None),
        (3, [], 6, None),
    ]
    assert ClassTable.from_file(write(tmp_path / "again.json", json.dumps(stored))) == table
    clash = table_of(tmp_path, [{"name": "a", "code": 1}, {"name": "b"}])
    assert [row["code"] for row in clash.to_json()] == [1, 1024], "each code once"


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"id": 0, "name": "a"}, {"name": "b"}], "row 2 has no id"),
        ([{"id": 0}], "row 1 has no name"),
        ([{"id": -2, "name": "a"}], "row 1 cannot be read: the id -2 is neither a class's nor -1"),
        ([{"name": "a"}, {"id": -1}], "row 2 names no number to ignore"),
        ([{"name": "a", "lass": 2}], "row 1 has 'lass', which is unknown; known are id, name"),
        ([{"name": "a", "code": "other"}], "row 1 cannot be read: 'other' is no whole number"),
        ([{"name": "a", "code": [1, "2"]}], "row 1 cannot be read: '2' is no whole number"),
        ([{"name": "a", "las": {"a": 2}}], "row 1 cannot be read"),
        ([{"name": "a", "code": [1, 1]}], "row 1 twice: the code 1"),
        ([{"name": "a", "las": [2, 3]}, {"name": "b", "las": [6, 3]}], "row 2 and row 1: the LAS code 3"),
        ([{"name": "a", "las": 2}, {"id": -1, "las": 2}], "row 2 and row 1: the LAS code 2"),
        ([{"name": "a", "code": 2}, {"id": -1, "code": [3, 2]}], "row 2 and row 1: the code 2"),
        ([{"name": "a"}, {"id": -1, "las": 1}], "row 2: the LAS code 1 means that a point is not classified"),
        ([{"name": "a", "code": -1}], "row 1: the code -1 means that a point has no label"),
        ([{"name": "a", "code": 10**30}], "row 1: no file has the code"),
        (
            [{"name": "a", "code": "rest"}, {"id": -1, "code": "rest"}],
            "row 2 and row 1 both stand for the rest",
        ),
        ([{"name": "a", "color": [1, 2]}], r"row 1 cannot be read: the colour \[1, 2\] is not three numbers"),
        ([{"name": "a", "color": "red"}], "row 1 cannot be read: the colour 'red' is not three numbers"),
        ([{"name": "a", "color": [0, 0, 256]}], r"row 1 cannot be read: the colour \[0, 0, 256\] is not"),
        ([{"id": -1, "code": 1}], "0 classes, expected 1"),
        ([{"name": ["a"]}], r"row 1 cannot be read: \['a'\] is no name"),
        ([{"name": "a", "las": 2}, {"name": "b", "las": "rest"}], 'row 2 .* as "code": "rest", not as \'rest\' here'),
        ([{"name": "a", "code": "Rest"}], 'row 1 .* as "code": "rest", not as \'Rest\' here'),
        ([{"name": "a", "las": 2, "las_codes": [3]}], "row 1 .*: its 'las' is not the first of its 'las_codes'"),
        ([{"name": "a", "code": 2, "codes": [3, 2]}], "row 1 .*: its 'code' is not the first of its 'codes'"),
    ],
)
def test_what_is_wrong_is_told_by_file_and_row(tmp_path: Path, rows: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(HpalError, match=rf"c\.json: {message}"):
        ClassTable.from_file(write(tmp_path / "c.json", json.dumps(rows)))
    if "las" not in rows[0] or not isinstance(rows[0]["las"], dict):
        with pytest.raises(HpalError, match=rf"c\.toml: {message}"):
            ClassTable.from_file(write(tmp_path / "c.toml", toml(rows)))


def test_tables_by_name() -> None:
    assert list(TABLES) == [
        "asprs",
        "s3dis",
        "scannet20",
        "nyu40",
        "scannet200",
        "semantickitti",
        "semanticposs",
        "nuscenes",
    ]
    asprs = class_table("ASPRS")
    assert class_table("aspras") is asprs
    assert ids(asprs, 2, 3, 5, 6, 9, 17, las=True) == [0, 1, 3, 4, 7, 15]
    assert las.codes(asprs, own=False).tolist() == list(range(2, 23))
    assert class_table("s3dis") is s3dis.CLASSES
    assert class_table("scannet20") is scannet.CLASSES
    assert ids(class_table("scannet20"), 1, 39, 40, 13) == [0, 19, -1, -1]
    with pytest.raises(
        HpalError, match=r"class number 0 is not in the table of 20 classes .*give another with --classes"
    ):
        ids(class_table("scannet20"), 0)
    nyu = class_table("nyu40")
    assert len(nyu) == 40
    assert all(nyu.names[c.code - 1] == c.name for c in class_table("scannet20") if c.code is not None)
    assert ids(nyu, 1, 40) == [0, 39]
    many = class_table("scannet200")
    assert len(many) == 200
    assert ids(many, 1, 2, 3, 6, 1156, 1191) == [0, 1, 2, 5, 171, 199]
    assert [many.names[n] for n in (0, 12, 59, 199)] == ["wall", "sink", "board", "mattress"]
    with pytest.raises(HpalError, match=r"class numbers 0, 12 are not in the table of 200 classes"):
        ids(many, 0, 12)
    kitti = class_table("semantickitti")
    assert kitti is semantickitti.CLASSES
    assert ids(kitti, 10, 252, 60, 0, 99, 81) == [0, 0, 8, -1, -1, 18]
    assert ids(class_table("nuscenes"), 0, 9, 16, 17, 30, 31) == [-1, 0, 2, 3, 15, -1]
    assert ids(class_table("nuScenes"), *range(32)).count(-1) == 12
    assert ids(class_table("semanticposs"), 4, 5, 12, 22, 0) == [0, 0, 5, 12, -1]
    for table in TABLES.values():
        assert ClassTable.from_json(table.to_json()) == table
    with pytest.raises(HpalError, match=r"nyu41: is neither a file nor a class table that is known by name \(asprs,"):
        class_table("nyu41")
    with pytest.raises(HpalError, match=r"absent\.json: cannot be read \(No such file or directory\); check the name"):
        class_table("absent.json")


def test_broken_json_and_a_class_without_a_name(tmp_path: Path) -> None:
    broken = write(tmp_path / "c.json", '[{"name": "ground", "las": 2},]')
    with pytest.raises(HpalError, match=r"line 1 column \d+ .*; repair that place, or .* read as JSON"):
        ClassTable.from_file(broken)
    with pytest.raises(HpalError, match=r"row 1 cannot be read: None is no name"):
        ClassTable.from_file(write(tmp_path / "c.json", '[{"name": null, "las": 2}]'))
    both = write(tmp_path / "c.json", '[{"name": 2019, "las": 2, "las_codes": [2, 3]}]')
    assert [(c.name, c.las_codes) for c in ClassTable.from_file(both)] == [("2019", (2, 3))]


def test_the_tables_of_the_page(tmp_path: Path) -> None:
    tables = []
    for name, text in files_of(DOCS / "reading.md").items():
        tables.append(ClassTable.from_file(write(tmp_path / name, text)))
    assert len(tables) == 2
    assert tables[0].reading() == tables[1].reading()
    assert ids(tables[0], *LAS_NUMBERS[1:], las=True) == [0, 1, 1, 1, 2, -1, 3]


def write_tile(path: Path, numbers: tuple[int, ...] = LAS_NUMBERS) -> Path:
    file = laspy.LasData(laspy.LasHeader(version="1.4", point_format=6))
    file.header.scales = [0.01] * 3
    file.x = file.y = np.arange(len(numbers), dtype=float)
    file.z = np.zeros(len(numbers))
    file.classification = np.array(numbers, "u1")
    file.write(path)
    return path


def labels(store: Path) -> list[int]:
    opened = SceneStore(store)
    found = opened.original(opened.table[0], label=True)[0].label
    assert found is not None
    return found.tolist()


def test_prep_with_tables(tmp_path: Path) -> None:
    write_tile(tmp_path / "a.las")
    rows = [
        {"name": "ground", "las": 2},
        {"name": "vegetation", "las": [3, 4, 5]},
        {"name": "other", "code": "rest"},
        {"id": -1, "las": 7},
    ]
    write(tmp_path / "classes.toml", toml(rows))
    done = run_hpal("prep", "a.las", "-o", "s.zarr", "--classes", "classes.toml", cwd=tmp_path)
    assert done.rc == 0, done.err
    assert labels(tmp_path / "s.zarr") == [-1, 0, 1, 1, 1, 2, -1, 2]
    store = SceneStore(tmp_path / "s.zarr")
    assert [c.las_codes for c in store.classes] == [(2,), (3, 4, 5), ()]
    # What is read differs, so the work of another table is no beginning.
    rows[3]["las"] = 64
    assert (
        ClassTable.from_file(write(tmp_path / "b.toml", toml(rows))).reading() != table_of(tmp_path, rows[:3]).reading()
    )
    done = run_hpal("prep", "a.las", "-o", "t.zarr", "--classes", "asprs", cwd=tmp_path)
    assert done.rc == 1
    assert "a.las: class number 64 is not in the table of 21 classes (1 point)" in done.err


def test_las_without_a_table_gets_the_names_of_asprs(tmp_path: Path) -> None:
    write_tile(tmp_path / "a.las")
    done = run_hpal("prep", "a.las", "-o", "s.zarr", cwd=tmp_path)
    assert done.rc == 0, done.err
    named = "ground, low vegetation, medium vegetation, high vegetation, building, low noise, class_64"
    assert f"classes made of the numbers found: {named} (--classes names them otherwise)" in done.err
    store = SceneStore(tmp_path / "s.zarr")
    assert store.classes.names == named.split(", ")
    assert las.codes(store.classes, own=True).tolist() == list(LAS_NUMBERS[1:])
    write(tmp_path / "b.csv", "x,y,z,label\n0,0,0,2\n1,1,1,3\n")
    done = run_hpal("prep", "b.csv", "-o", "t.zarr", cwd=tmp_path)
    assert done.rc == 0, done.err
    assert SceneStore(tmp_path / "t.zarr").classes.names == ["class_2", "class_3"], "no LAS file: nobody knows"


def test_a_number_of_the_owner_beside_asprs(tmp_path: Path) -> None:
    """Owners number classes of their own from 64 on, as IGN does; the remedy works for them as it is typed."""
    write_tile(tmp_path / "a.las")
    done = run_hpal("prep", "a.las", "-o", "s.zarr", "--classes", "asprs", cwd=tmp_path)
    assert done.rc == 1
    assert "class number 64 is not in the table of 21 classes" in done.err
    assert "leave --classes out, which makes classes of all numbers, or give another with --classes" in done.err


def test_shared_tiles_by_name(tmp_path: Path) -> None:
    tile = shared("ign_lidar/test_data_77055_627755_LA93_IGN69.laz")
    rows = [
        {"name": "ground", "las": 2},
        {"name": "vegetation", "las": [3, 4, 5]},
        {"name": "building", "las": 6},
        {"name": "other", "code": "rest"},
    ]
    classes = write(tmp_path / "classes.toml", toml(rows))
    done = run_hpal("prep", tile, "-o", tmp_path / "s.zarr", "--classes", classes, "--grid", "50cm")
    assert done.rc == 0, done.err
    found, numbers = labels(tmp_path / "s.zarr"), np.asarray(laspy.read(tile).classification)
    expected = np.full(256, 3)
    expected[[0, 1]], expected[2], expected[3:6], expected[6] = -1, 0, 1, 2
    np.testing.assert_array_equal(found, expected[numbers])
