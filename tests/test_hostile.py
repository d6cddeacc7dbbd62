"""Files that mean harm, or are damaged: nothing is written outside the output, no memory is asked for on the word of a
header, nothing steers a terminal or a spreadsheet, and what is wrong is said in one line."""

from __future__ import annotations

import base64
import csv
import io
import itertools
import json
import random
import resource
import shutil
import time
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import plyfile
import pytest
import torch
import zarr
from conftest import fake_predictions, run_hpal, tree

from hpal_cli import readers
from hpal_cli.classes import ClassTable
from hpal_cli.csv_cells import plain_cell, safe_cell
from hpal_cli.errors import HpalError
from hpal_cli.export.files import export
from hpal_cli.forest.model import load as load_forest
from hpal_cli.history import Entry
from hpal_cli.info import describe
from hpal_cli.label.answers import open_scenes
from hpal_cli.label.labelcloud import read_folder
from hpal_cli.label.queries import queries
from hpal_cli.label.spreadsheet import read_table, write_queries
from hpal_cli.labels.store import ANSWER, LabelStore
from hpal_cli.network.minkunet import SIZES, MinkUNet
from hpal_cli.predictions.store import PredictionStore
from hpal_cli.scene_table import SceneTable, require_scene_name
from hpal_cli.scenes.store import SceneStore
from hpal_cli.scenes.unfinished import Unfinished
from hpal_cli.stream.points import PointReader
from hpal_cli.training import checkpoint
from hpal_cli.training.presets import PRESETS
from hpal_cli.wording import printable
from hpal_cli.writers.cloud import reserve_paths, scene_path

BY = Entry("test", "0", ())


@pytest.fixture(scope="module")
def labels(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = SceneStore(scenes)
    path = tmp_path_factory.mktemp("labels") / "l.zarr"
    store = LabelStore.create(path, made.classes, made.table)
    rows = np.zeros(2, ANSWER)
    rows["index"] = 3, 4
    store.append(rows, "x", BY)
    return path


@pytest.fixture
def stores(scenes: Path, predictions: Path, labels: Path) -> list[Path]:
    return [scenes, predictions, labels]


def one_line(work: Callable[[], object]) -> str:
    with pytest.raises(HpalError) as caught:
        work()
    text = str(caught.value)
    assert "\n" not in text
    return text


# ---------------------------------------------------------------- names that become paths


def renamed(store: Path, copy: Path, name: str) -> Path:
    """A copy whose first scene has another name in the table."""
    shutil.copytree(store, copy)
    metadata = json.loads((copy / "zarr.json").read_text())
    metadata["attributes"]["hpal"]["scenes"][0]["name"] = name
    (copy / "zarr.json").write_text(json.dumps(metadata))
    return copy


BAD_NAMES = [
    "../../x",
    "/x",
    "a/../../b",
    "..",
    ".",
    "",
    "a//b",
    "a b",
    "a\x1b[2J",
    "a\n",
    "a/",
    "Büro",
    "a/...",
    "a\\b",
]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_scene_whose_name_is_no_name(stores: list[Path], tmp_path: Path, name: str) -> None:
    for store in stores:
        copy = renamed(store, tmp_path / store.name, name)
        assert "no name of a scene" in one_line(lambda copy=copy: open_scenes(copy))


@pytest.mark.parametrize("name", ["a", "Area_1/office-1", "..a/b..", "a.b", "-"])
def test_names_of_scenes(name: str) -> None:
    assert require_scene_name(name) == name


def test_a_table_that_cannot_be(scenes: Path) -> None:
    rows = SceneStore(scenes).table.to_json()
    for change in (
        {"name": rows[1]["name"] + "/x"},
        {"split": "all"},
        {"points": -1},
        {"original": -5},
        {"number": 7},
        {"name": rows[1]["name"]},
        {"points": 10**30},
        {"points": float("inf")},
        {"points": "12"},
        {"original": True},
        {"name": None},
        {"name": 5},
        {"fingerprint": None},
    ):
        with pytest.raises(ValueError, match="scene"):
            SceneTable.from_json([{**rows[0], **change}, *rows[1:]])


def test_commands_that_write_a_file_a_scene(scenes: Path, predictions: Path, tmp_path: Path) -> None:
    """If a scene's name leads out of the output folder, each of these commands writes nothing at all."""
    work = tmp_path / "a" / "b"
    work.mkdir(parents=True)
    scored = run_hpal("score", predictions, "-q").out
    chosen = run_hpal("select", "--budget", "4", "--no-fds", "-q", stdin=scored).out
    for store, name in ((scenes, "s.zarr"), (predictions, "p.zarr")):
        renamed(store, work / name, "../../x")
    before = tree(tmp_path)
    for args, stdin in (
        (("export", "s.zarr", "-o", "out"), None),
        (("export", "p.zarr", "-o", "out"), None),
        (("score", "p.zarr", "--ply", "out", "-o", "x.ply"), None),
        (("select", "--budget", "4", "--no-fds", "--source", "p.zarr", "--context", "out", "-o", "x.ply"), scored),
        (("label", "--source", "p.zarr", "--clips", "out", "--table", "x.csv"), chosen),
    ):
        done = run_hpal(*args, stdin=stdin, cwd=work)
        assert done.rc == 1, (args, done)
        assert "no name of a scene" in done.err.splitlines()[-1], done.err
        assert tree(tmp_path) == before, args


def test_a_path_is_proved_to_be_inside(tmp_path: Path) -> None:
    """Even if a name got through: the functions that make the paths look themselves."""
    folder = tmp_path / "out"
    for name in ("../x", "/x", "a/../../x"):
        assert "would not be in it" in one_line(lambda name=name: scene_path(folder, name, "ply"))

        def write(name: str = name) -> None:
            with reserve_paths(folder, ["ok.ply", name], overwrite=True):
                pytest.fail("a path outside")

        assert "would not be in it" in one_line(write)
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_the_originals_whose_name_leads_out(scenes: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(scenes, tmp_path / "s.zarr"))
    first = SceneStore(copy).table[0]
    where = copy / "scenes" / first.name / "original" / "zarr.json"
    metadata = json.loads(where.read_text())
    metadata["attributes"]["files"][0]["name"] = "../../outside.txt"
    where.write_text(json.dumps(metadata))
    assert "no name of a scene" in one_line(lambda: export(copy, tmp_path / "out", original=copy))
    assert not (tmp_path / "out").exists()


def test_a_scene_of_a_stream(predictions: Path) -> None:
    scored = run_hpal("score", predictions, "-q").out
    name = PredictionStore(predictions).table[0].name.encode()
    hostile = scored.replace(b" " + name + b"\n", b" ../\x1b[31mx\n", 1)
    assert hostile != scored
    done = run_hpal("select", "--budget", "1", "--no-fds", stdin=hostile)
    assert (done.rc, done.out) == (1, b"")
    assert "no name of a scene" in done.err
    assert "\x1b" not in done.err


# ---------------------------------------------------------------- damaged metadata of arrays and groups


@pytest.mark.parametrize("damage", ["", "{", "[1]", '{"zarr_format": 3, "node_type": "group", "attributes": 5}'])
def test_a_damaged_inner_zarr_json(stores: list[Path], tmp_path: Path, damage: str) -> None:
    """Of every array and group of one scene and one batch: `info --check` says it in one line with the names of the
    store and of the array or group."""
    for store in stores:
        copy = Path(shutil.copytree(store, tmp_path / store.name))
        table = open_scenes(copy).table
        inner = [p for p in copy.rglob("zarr.json") if p.parent != copy]
        others = tuple(f"/scenes/{scene.name}/" for scene in table[1:])
        inner = [p for p in inner if not any(other in p.as_posix() for other in others)]
        assert len(inner) > 3
        for path in inner:
            whole = path.read_bytes()
            path.write_text(damage)
            text = one_line(lambda copy=copy: describe(copy, check=True))
            assert str(copy) in text
            assert path.parent.relative_to(copy).as_posix() in text
            path.write_bytes(whole)
        describe(copy, check=True)


@pytest.mark.parametrize("value", [None, [], [1, 2], ["x", 1, 2], [float("nan"), 0, 0], {"a": 1}])
def test_a_damaged_offset(scenes: Path, predictions: Path, tmp_path: Path, value: object) -> None:
    for store in (scenes, predictions):
        copy = Path(shutil.copytree(store, tmp_path / store.name))
        opened = open_scenes(copy)
        where = copy / "scenes" / opened.table[0].name / "zarr.json"
        metadata = json.loads(where.read_text())
        metadata["attributes"]["offset"] = value
        where.write_text(json.dumps(metadata))
        again = open_scenes(copy)
        assert "offset is missing or damaged" in one_line(lambda s=again: s.points(s.table[0]))  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "change", [{"round": "x"}, {"time": None}, {"history": []}, {"history": [5]}, {"undoes": ["a"]}, {"undoes": 5}]
)
def test_damaged_attributes_of_a_batch(labels: Path, tmp_path: Path, change: dict[str, object]) -> None:
    copy = Path(shutil.copytree(labels, tmp_path / "l.zarr"))
    where = copy / "answers" / "000000" / "zarr.json"
    metadata = json.loads(where.read_text())
    metadata["attributes"].update(change)
    where.write_text(json.dumps(metadata))
    assert "answers/000000 are damaged" in one_line(lambda: LabelStore(copy).latest())


# ---------------------------------------------------------------- what a header promises


def test_an_array_that_promises_more_than_its_chunks_hold(predictions: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(predictions, tmp_path / "p.zarr"))
    name = PredictionStore(copy).table[0].name
    where = copy / "scenes" / name / "xyz" / "zarr.json"
    metadata = json.loads(where.read_text())
    metadata["shape"] = metadata["chunk_grid"]["configuration"]["chunk_shape"] = [10**11, 3]
    where.write_text(json.dumps(metadata))
    store = PredictionStore(copy)
    text = one_line(lambda: store.points(store.table[0]))
    assert "promises 1,200,000,000,000 bytes" in text
    assert f"scenes/{name}/xyz" in text


def stream(form: str, count: int, body: bytes, properties: str = "", more: str = "") -> bytes:
    columns = properties or (
        "property double x\nproperty double y\nproperty double z\n"
        "property int scene\nproperty int index\nproperty float score\n"
    )
    return f"ply\nformat {form} 1.0\nelement vertex {count}\n{columns}{more}end_header\n".encode() + body


@pytest.mark.parametrize("form", ["ascii", "binary_big_endian", "binary_little_endian"])
@pytest.mark.parametrize("count", [10**12, 10**30])
def test_a_stream_that_promises_too_much(form: str, count: int) -> None:
    body = b"1 2 3 0 1 0.5\n" * 3
    for data in (
        stream(form, count, body),
        stream(form, 1, body, more=f"element face {count}\nproperty int a\n") if "little" not in form else b"ply\n",
    ):
        text = one_line(lambda data=data: PointReader(io.BytesIO(data), "s").read())
        assert any(word in text for word in ("promises", "ends after", "does not end"))
        assert "memory" not in text


def test_a_stream_through_the_command_that_promises_too_much() -> None:
    done = run_hpal("select", "--budget", "1", "--no-fds", stdin=stream("ascii", 10**12, b"1 2 3 0 1 0.5\n"))
    assert done.rc == 1
    assert "promises 1000000000000 vertex rows, more than its 14 bytes can hold" in done.err


def test_a_stream_of_ten_thousand_columns() -> None:
    """A block of 65,536 of its rows would be 5 GB."""
    columns = "".join(f"property double a{n}\n" for n in range(10_000))
    data = stream("binary_little_endian", 10**7, bytes(100), columns)
    tracemalloc.start()
    try:
        assert "ends after 0 of" in one_line(lambda: PointReader(io.BytesIO(data), "s").read())
        assert tracemalloc.get_traced_memory()[1] < 1 << 28
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("form", ["ascii", "binary_little_endian"])
def test_points_without_properties(form: str) -> None:
    header = f"ply\nformat {form} 1.0\nelement vertex 5\nend_header\n"
    assert "has none" in one_line(lambda: PointReader(io.BytesIO(header.encode()), "s"))


def read(path: Path) -> None:
    reader, (source,) = readers.find(path)
    reader.count(source)
    readers.read(reader, source)


def test_an_archive_that_would_fill_the_memory(tmp_path: Path) -> None:
    """An archive of 128 KB holds 128 MB of zeros, which NumPy would read."""
    path = tmp_path / "bomb.npz"
    header = io.BytesIO()
    shape = (1 << 24, 1)
    np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": shape})
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("xyz.npy", "w", force_zip64=True) as file,
    ):
        file.write(header.getvalue())
        for _ in range(1 << 7):
            file.write(bytes(1 << 20))
    assert path.stat().st_size < 1 << 18
    tracemalloc.start()
    try:
        text = one_line(lambda: read(path))
        assert tracemalloc.get_traced_memory()[1] < 1 << 24
    finally:
        tracemalloc.stop()
    assert "which no whole file does" in text


def test_an_array_of_an_archive_that_promises_more_than_it_holds(tmp_path: Path) -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (10**12, 3)})
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("xyz.npy", header.getvalue() + bytes(48))
    assert "promises 1000000000000 x 3 numbers" in one_line(lambda: read(tmp_path / "x.npz"))


def test_packed_scans_are_still_read(tmp_path: Path) -> None:
    xyz = np.random.default_rng(0).random((1000, 3)).round(3)
    np.savez_compressed(tmp_path / "a.npz", xyz=xyz, label=np.zeros(1000, int))
    reader, (source,) = readers.find(tmp_path / "a.npz")
    np.testing.assert_array_equal(readers.read(reader, source).xyz, xyz)


def test_a_network_that_is_not_what_it_says(tmp_path: Path) -> None:
    """Right checksums, and what a person who means harm can write: rows that are no rows, numbers that share one place
    in the file, and so many inputs that their network would take all memory."""
    classes = ClassTable.from_json([{"id": n, "name": name} for n, name in enumerate("ab")])
    settings = PRESETS["small"]
    network = MinkUNet(6, 2, SIZES["small"])
    whole = checkpoint.Checkpoint(
        settings, classes, True, "s", 1, 0, "d", 1, network.state_dict(), {"a": np.arange(3)}, history=[BY]
    )
    whole.save(tmp_path / "m.pt", overwrite=False)
    checkpoint.load(tmp_path / "m.pt")
    content = torch.load(tmp_path / "m.pt", weights_only=True)
    meta = json.loads(content["hpal"])
    one = torch.zeros(1, dtype=torch.int64)
    columns = [{"name": f"c{n}", "middle": 0.0, "spread": 1.0} for n in range(10**5)]
    shared = {name: torch.zeros(()).expand(weight.shape) for name, weight in content["student"].items()}
    for change, said in (
        ({"answered": {"a": one.expand(10**12)}}, "rows are whole numbers"),
        ({"answered": {"a": torch.zeros(3)}}, "rows are whole numbers"),
        ({"hpal": json.dumps({**meta, "spec": 3, "columns": columns})}, "network with 100006 inputs"),
        ({"student": shared}, "weights promise more than it holds"),
        ({"student": {}}, "weights are not those"),
        ({"hpal": json.dumps({**meta, "spec": True})}, "specification is True, which is no version; make it again"),
        ({"hpal": json.dumps({**meta, "spec": -3})}, "specification is -3, which is no version; make it again"),
        ({"hpal": json.dumps({**meta, "spec": 4})}, "specification 4, this hpal reads up to 3; install a newer hpal"),
    ):
        torch.save({**content, **change}, tmp_path / "bad.pt")
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        assert said in one_line(lambda: checkpoint.load(tmp_path / "bad.pt"))
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 19, "kilobytes"


def test_a_checkpoint_that_promises_more_than_it_holds(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "m.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("m/data.pkl", bytes(1 << 22))
    assert "it promises 4,194,304 bytes" in one_line(lambda: checkpoint.load(tmp_path / "m.pt"))


def test_a_forest_that_would_fill_the_memory(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "m.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("hpal.json", bytes(1 << 27))
    tracemalloc.start()
    try:
        text = one_line(lambda: load_forest(tmp_path / "m.pt"))
        assert tracemalloc.get_traced_memory()[1] < 1 << 24
    finally:
        tracemalloc.stop()
    assert "which no whole file does" in text


@pytest.mark.parametrize(
    ("at", "change"), [(8, b"\x00\x08"), (10, b"\x0e\x00"), (6, b"\xff\xff"), (42, b"\xff\xff\xff\x7f")]
)
def test_a_model_with_a_directory_that_is_damaged(tmp_path: Path, at: int, change: bytes) -> None:
    """In the last entry of the directory: a name that is said to be UTF-8, LZMA, a version of the future, a place
    after the end."""
    path = tmp_path / "m.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("hpal.json", b"{}" * 400)
        archive.writestr("x.npy", b"12")
    data = bytearray(path.read_bytes())
    entry = data.rindex(b"PK\x01\x02")
    data[entry + at : entry + at + len(change)] = change
    data[entry + 46] = 0xFF
    path.write_bytes(data)
    for read_model in (describe, load_forest, checkpoint.load):
        assert "is not a whole hpal" in one_line(lambda read_model=read_model: read_model(path))


# ---------------------------------------------------------------- damaged files, one line each


def altered(path: Path, change: Callable[[bytearray], None]) -> Path:
    data = bytearray(path.read_bytes())
    change(data)
    path.write_bytes(data)
    return path


def member_start(path: Path) -> int:
    with zipfile.ZipFile(path) as archive:
        (member,) = archive.infolist()
    return member.header_offset + 30 + len(member.filename) + 20


def test_archives_that_are_damaged(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"

    def garbage(data: bytearray) -> None:
        # Beyond the array's header, in the packed numbers.
        data[member_start(path) + 150 : member_start(path) + 190] = bytes(range(100, 140))

    def method(data: bytearray) -> None:
        central = data.rindex(b"PK\x01\x02")
        data[8:10] = data[central + 10 : central + 12] = b"\x5a\x00"

    def secret(data: bytearray) -> None:
        central = data.rindex(b"PK\x01\x02")
        data[6] |= 1
        data[central + 8] |= 1

    for change in (garbage, method, secret):
        np.savez_compressed(path, xyz=np.random.default_rng(0).random((500, 3)))
        assert "cannot be read as a NumPy file" in one_line(lambda c=change: read(altered(path, c)))


@pytest.mark.parametrize(
    "header", [b"{'descr': '<f8', 'fortran_order': (", b'{\'descr\': """', b"(" * 90, b"\xff" * 20]
)
def test_a_header_that_is_no_python(tmp_path: Path, header: bytes) -> None:
    path = tmp_path / "a.npy"
    np.save(path, np.zeros((4, 3)))

    def change(data: bytearray) -> None:
        data[10 : 10 + len(header)] = header

    assert "cannot be read as a NumPy file" in one_line(lambda: read(altered(path, change)))


@pytest.mark.parametrize("text", [True, False])
def test_a_list_of_less_than_nothing(tmp_path: Path, text: bool) -> None:
    rows = np.zeros(1, [("x", "f4"), ("y", "f4"), ("z", "f4"), ("q", "O")])
    rows["q"][0] = np.array([7], "i4")
    element = plyfile.PlyElement.describe(rows, "vertex", len_types={"q": "i4"})
    path = tmp_path / "a.ply"
    plyfile.PlyData([element], text=text, byte_order="=" if text else "<").write(str(path))
    count = b" 1 7" if text else (1).to_bytes(4, "little") + (7).to_bytes(4, "little")
    minus = b" -1 7" if text else (-1).to_bytes(4, "little", signed=True) + (7).to_bytes(4, "little")
    path.write_bytes(path.read_bytes().replace(count, minus))
    assert "cannot be read as PLY" in one_line(lambda: read(path))
    assert "cannot be read as PLY" in one_line(lambda: PointReader(io.BytesIO(path.read_bytes()), "s"))


@pytest.mark.parametrize("seed", range(4))
def test_files_damaged_at_random(tmp_path: Path, seed: int) -> None:
    """Each damaged file is read, or refused in one line."""
    rng, numbers = random.Random(seed), np.random.default_rng(seed)
    xyz = numbers.random((60, 3))
    np.savez_compressed(tmp_path / "a.npz", xyz=xyz, label=numbers.integers(0, 3, 60))
    np.save(tmp_path / "b.npy", xyz)
    rows = np.zeros(20, [("x", "f4"), ("y", "f4"), ("z", "f4"), ("q", "O")])
    for row in range(20):
        rows["q"][row] = np.arange(3, dtype="i4")
    for number, (text, order) in enumerate(((True, "="), (False, "<"), (False, ">"))):
        element = plyfile.PlyElement.describe(rows, "vertex", len_types={"q": "i4"})
        plyfile.PlyData([element], text=text, byte_order=order).write(str(tmp_path / f"{number}.ply"))
    files = sorted(tmp_path.iterdir())
    refused: list[str] = []
    for n in range(120):
        source = files[n % len(files)]
        data = bytearray(source.read_bytes())
        for _ in range(rng.choice([1, 1, 3])):
            at = rng.randrange(len(data))
            if rng.random() < 0.7:
                data[at] ^= 1 << rng.randrange(8)
            else:
                del data[at : at + rng.randrange(1, 20)]
        path = tmp_path / f"damaged{source.suffix}"
        path.write_bytes(data)
        try:
            read(path)
        except HpalError as error:
            refused.append(str(error))
    assert len(refused) > 20
    assert not any("\n" in text for text in refused)


def test_json_that_is_too_deep(predictions: Path, tmp_path: Path) -> None:
    deep = "[" * 100_000
    for suffix in (".json", ".toml"):
        table = tmp_path / f"classes{suffix}"
        table.write_text(deep if suffix == ".json" else f"classes = {deep}")
        assert "cannot be read as a class table" in one_line(lambda table=table: ClassTable.from_file(table))
    copy = Path(shutil.copytree(predictions, tmp_path / "p.zarr"))
    (copy / "zarr.json").write_text(deep)
    assert "is not an hpal store" in one_line(lambda: PredictionStore(copy))
    header = f"ply\nformat ascii 1.0\ncomment hpal 1 scores\ncomment history {deep}\nelement vertex 0\nend_header\n"
    assert "cannot be read (RecursionError" in one_line(lambda: PointReader(io.BytesIO(header.encode()), "s"))
    project = tmp_path / "project" / "labels"
    project.mkdir(parents=True)
    (project / "_classes.json").write_text(deep)
    store = PredictionStore(predictions)
    assert "cannot be read" in one_line(lambda: read_folder(project, store.classes, store.table))


INFO = '{"number": 0, "name": "%s", "points": 1, "original": 1, "split": "train", "fingerprint": "x"}'
RECORD = '{"scene": "%s", "signature": "s", "info": ' + INFO + ', "unit": 1.0, "notes": []}'


@pytest.mark.parametrize(
    "line",
    [
        *("{", "[]", '{"scene": "a"}', '{"scene": 1, "signature": 2, "info": {"x": 1}}'),
        *(RECORD % ("../a", "../a"), RECORD % ("a", "b"), "[" * 100_000),
    ],
)
def test_a_damaged_record_of_an_unfinished_store(tmp_path: Path, line: str) -> None:
    settings = {"grid": 1}
    record = tmp_path / "prep.jsonl"
    Unfinished(tmp_path, settings, resume=False)
    whole = record.read_text() + RECORD % ("a", "a") + "\n"
    record.write_text(whole)
    assert Unfinished(tmp_path, settings, resume=True).find("a", "s") is not None
    record.write_text('{"settings": [1]}\n')
    assert "is damaged" in one_line(lambda: Unfinished(tmp_path, settings, resume=True))
    record.write_text(whole + line + "\n")
    assert "is damaged" in one_line(lambda: Unfinished(tmp_path, settings, resume=True))


# ---------------------------------------------------------------- what a person is shown


def test_shown() -> None:
    assert printable("Büro 3, 椅子, שלום") == "Büro 3, 椅子, שלום"
    assert (
        printable("a\x1b[2J\r\n\x07\x9b31m\u202egnp.\ud800\u2028") == r"a\x1b[2J\r\n\x07\x9b31m\u202egnp.\ud800\u2028"
    )


def test_streams_that_would_steer_a_terminal(predictions: Path, tmp_path: Path) -> None:
    scored = run_hpal("score", predictions, "-q").out
    hostile = scored.replace(b"comment strategy hmmu", b"comment strategy \x1b]0;x\x07hmmu \xc2\x9b31m", 1)
    hostile = hostile.replace(b'comment source "', b'comment source "\\u001b[2J', 1)
    path = tmp_path / "a\x1b[31mb.ply"
    path.write_bytes(hostile)
    for args, data in (
        (("info", path), None),
        (("info",), hostile),
        (("select", path, "--budget", "1"), None),
        (("info", tmp_path / "absent\x1b[31m"), None),
        (("select", "\x1b[31m"), None),
    ):
        done = run_hpal(*args, stdin=data, cwd=tmp_path)
        assert "\x1b" not in done.err
        assert "\x9b" not in done.err
        if args[0] == "info":
            assert not {b"\x1b", b"\x07"} & {bytes([b]) for b in done.out}
            assert b"\xc2\x9b" not in done.out


def test_names_that_look_like_markup(scenes: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(scenes, tmp_path / "s.zarr"))
    metadata = json.loads((copy / "zarr.json").read_text())
    table = metadata["attributes"]["hpal"]["classes"]
    table[0]["name"], table[1]["name"], table[2]["name"] = "[red]a[/red]", "[/]", "b\u202ec"
    (copy / "zarr.json").write_text(json.dumps(metadata))
    done = run_hpal("info", copy)
    assert done.rc == 0, done.err
    first = [line.split()[0] for line in done.out.decode().splitlines() if line]
    assert {"[red]a[/red]", "[/]", r"b\u202ec"} <= set(first)


def test_names_without_an_end(scenes: Path, tmp_path: Path) -> None:
    """The line says what is at fault and what to do, and does not flood the terminal."""
    for name in ("a" * 10**6, "\u202e" * 10**5):
        copy = renamed(scenes, tmp_path / "s.zarr", name)
        done = run_hpal("export", copy, "-o", tmp_path / "out")
        assert done.rc == 1
        assert done.err.startswith(f"hpal export: {tmp_path}")
        assert len(done.err) < 2100
        assert "; " in done.err[-1000:]
        shutil.rmtree(copy)


def test_what_fails_in_the_middle_leaves_nothing(scenes: Path, predictions: Path, tmp_path: Path) -> None:
    """Neither empty folders nor an empty file of metrics are left. A model that stays keeps its metrics."""
    scored = run_hpal("score", predictions, "-q").out
    (tmp_path / "c.ply").write_bytes(run_hpal("select", "--budget", "4", "--no-fds", "-q", stdin=scored).out)
    for store, name in ((scenes, "s.zarr"), (predictions, "p.zarr")):
        copy = Path(shutil.copytree(store, tmp_path / name))
        metadata = json.loads((copy / "zarr.json").read_text())
        for scene in metadata["attributes"]["hpal"]["scenes"]:
            scene["points"] = 10**12
        (copy / "zarr.json").write_text(json.dumps(metadata))
    for name in ("m.pt", "m.pt.metrics.jsonl"):
        (tmp_path / name).write_text('{"step": 10}\n')
    learn = ("train", "s.zarr", "--labels", "all", "--steps", "1")
    before = sorted(tmp_path.rglob("*")), tree(tmp_path)
    for args in (
        ("label", "c.ply", "--clips", "out", "--source", "p.zarr"),
        ("select", "--budget", "4", "--no-fds", "--source", "p.zarr", "--context", "out/a", "-o", "x.ply"),
        ("score", "p.zarr", "--strategy", "lc", "--ply", "out/b", "-o", "x.ply"),
        (*learn, "-o", "new.pt"),
        (*learn, "-o", "m.pt", "--overwrite"),
    ):
        done = run_hpal(*args, stdin=scored, cwd=tmp_path)
        assert done.rc == 1, (args, done)
        assert (sorted(tmp_path.rglob("*")), tree(tmp_path)) == before, args


# ---------------------------------------------------------------- cells


def test_cells_come_back() -> None:
    letters = "'=+-@a1.\t"
    for length in range(5):
        for text in map("".join, itertools.product(letters, repeat=length)):
            cell = safe_cell(text)
            assert plain_cell(cell) == text
            if cell[:1] in ("=", "+", "-", "@", "\t"):
                assert cell == text
                float(text)
    for number in ("-1", "+2.5", "-.5e-3", "12", "-1.e5"):
        assert safe_cell(number) == number


FORMULAS = ["=cmd|' /C calc'!A0", "+1+1", "-2+3", "@SUM(1)", "'=x", "chair", "-5"]


def test_formulas_in_tables(tmp_path: Path) -> None:
    """As classes of predictions: the table of queries has none, and a label copied from it means the same class."""
    classes = ClassTable.from_names([*FORMULAS[:-1], "minus"])
    scans = tmp_path / "scans"
    scans.mkdir()
    xyz = np.random.default_rng(0).random((80, 3))
    np.savez(scans / "-2+3.npz", xyz=xyz)
    (tmp_path / "classes.json").write_text(json.dumps(classes.to_json()))
    done = run_hpal("prep", scans, "-o", "s.zarr", "--classes", "classes.json", "--grid", "none", cwd=tmp_path)
    assert done.rc == 0, done.err
    fake_predictions(tmp_path / "s.zarr", tmp_path / "p.zarr")
    store = PredictionStore(tmp_path / "p.zarr")
    asked = np.zeros(60, [("scene", "<i4"), ("index", "<i4"), ("x", "<f8"), ("y", "<f8"), ("z", "<f8")])
    asked["index"] = np.arange(60)
    found = queries(asked, store)
    names = {scene.number: scene.name for scene in store.table}
    table = tmp_path / "q.csv"
    write_queries(found, names, table, clips=["=HYPERLINK(1).png"] * 60)
    with table.open(newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    for line in lines:
        for cell in line.values():
            if cell[:1] in ("=", "+", "-", "@"):
                float(cell)
        line["label"] = line["predicted"]
    with table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(lines[0]))
        writer.writeheader()
        writer.writerows(lines)
    answers = read_table(table, store.classes, store.table)
    assert [classes.names[n] for n in answers.label] == [query.guess.first for query in found if query.guess]
    assert len({*answers.label.tolist()}) == len(classes)
    assert answers.scene is not None
    assert set(answers.scene.tolist()) == {0}
    labels = LabelStore.create(tmp_path / "l.zarr", store.classes, store.table)
    rows = np.zeros(len(classes), ANSWER)
    rows["index"] = rows["label"] = np.arange(len(classes))
    labels.append(rows, "x", BY)
    (written,) = export(labels.path, tmp_path / "out", "csv").paths
    with written.open(newline="", encoding="utf-8") as file:
        assert [plain_cell(line["name"]) for line in csv.DictReader(file)] == classes.names
    assert "\n=" not in written.read_text()
    assert ",=" not in written.read_text()


def test_arrays_whose_names_would_break_a_header(scenes: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(scenes, tmp_path / "s.zarr"))
    store = SceneStore(copy)
    for scene in store.table:
        group = zarr.open_group(str(copy), mode="a")[f"scenes/{scene.name}"]
        assert isinstance(group, zarr.Group)
        for name in ("a b", "=c", "x\nelement face 5"):
            group.create_array(name, data=np.arange(scene.points, dtype="f4"))
    for path in export(copy, tmp_path / "ply").paths:
        assert {"scalar_a_b", "scalar_x_element_face_5"} <= {
            p.name for p in plyfile.PlyData.read(path)["vertex"].properties
        }
    for path in export(copy, tmp_path / "csv", "csv").paths:
        with path.open(newline="", encoding="utf-8") as file:
            assert {"a b", "'=c"} <= set(next(csv.reader(file)))


@pytest.mark.parametrize(
    "change", [{"grid": "x"}, {"grid": -1}, {"grid": True}, {"unit": 0}, {"unit": "1"}, {"unit": float("inf")}]
)
def test_root_attributes_that_are_no_lengths(
    scenes: Path, predictions: Path, tmp_path: Path, change: dict[str, object]
) -> None:
    for store in (scenes, predictions):
        copy = Path(shutil.copytree(store, tmp_path / store.name))
        metadata = json.loads((copy / "zarr.json").read_text())
        metadata["attributes"]["hpal"].update(change)
        (copy / "zarr.json").write_text(json.dumps(metadata))
        assert "no length" in one_line(lambda copy=copy: open_scenes(copy))


@pytest.mark.parametrize("change", ["empty", "records", "late records", "no steps"])
def test_a_kept_las_header_that_lies(tmp_path: Path, change: str) -> None:
    """Who writes the file again must not wait for four thousand million records."""
    laspy = pytest.importorskip("laspy")
    made = laspy.LasData(laspy.LasHeader(version="1.4", point_format=6))
    made.x, made.y, made.z = np.random.default_rng(0).random((3, 40))
    made.write(str(tmp_path / "a.las"))
    (tmp_path / "classes.json").write_text('[{"id": 0, "name": "a"}]')
    args = ("prep", "a.las", "-o", "s.zarr", "--classes", "classes.json", "--grid", "none")
    done = run_hpal(*args, cwd=tmp_path)
    assert done.rc == 0, done.err
    store = tmp_path / "s.zarr"
    where = store / "scenes" / "a" / "original" / "zarr.json"
    metadata = json.loads(where.read_text())
    file = metadata["attributes"]["files"][0]
    header = bytearray(base64.b64decode(file["las_header"]))
    if change == "empty":
        header.clear()
    elif change == "records":
        header[100:104] = b"\xff" * 4
    elif change == "late records":
        header[243:247] = b"\xff" * 4
    else:
        header[131:155] = bytes(24)
    file["las_header"] = base64.b64encode(header).decode()
    where.write_text(json.dumps(metadata))
    begin = time.monotonic()
    for form in ("las", "ply"):
        text = one_line(lambda form=form: export(store, tmp_path / "out", form, original=store))
        assert "LAS" in text or "records" in text, text
    assert time.monotonic() - begin < 20
