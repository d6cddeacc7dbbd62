"""prep as a whole: scenes of one file or many, large or small, in one go or in several."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import GRID, Done, environment, tree
from conftest import run_hpal as hpal

from hpal_cli.classes import ClassTable
from hpal_cli.errors import HpalError, UsageError
from hpal_cli.export.files import export
from hpal_cli.progress import Silent
from hpal_cli.readers import number_table, text
from hpal_cli.readers.cloud import Cloud, Options, Source
from hpal_cli.scenes import column_buffer, write
from hpal_cli.scenes.column_buffer import ColumnBuffer, Columns
from hpal_cli.scenes.prepare import prepare
from hpal_cli.scenes.store import SceneStore, SourceFile
from hpal_cli.store.envelope import CHECKSUM

CLASSES = ClassTable.from_names(["a", "b", "c"])


def table(path: Path, xyz: np.ndarray, label: np.ndarray | None = None, **more: np.ndarray) -> Path:
    """A csv with a header."""
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = {"x": xyz[:, 0], "y": xyz[:, 1], "z": xyz[:, 2], **({} if label is None else {"label": label}), **more}
    rows = zip(*(column.tolist() for column in columns.values()), strict=True)
    path.write_text(",".join(columns) + "\n" + "".join(",".join(map(repr, row)) + "\n" for row in rows))
    return path


def cloud(seed: int, count: int = 300, size: float = 4.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.random((count, 3)) * size, rng.integers(0, 3, count)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four clouds in two folders."""
    for n, name in enumerate(("east/one", "east/two", "west/one", "west/two")):
        xyz, label = cloud(n)
        table(tmp_path / "raw" / f"{name}.csv", xyz, label, intensity=xyz[:, 0] * 2)
    return tmp_path / "raw"


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the scenes that were read, one after the other."""
    names: list[str] = []
    read = text.read

    def counting(source: Source, options: Options) -> Iterator[Cloud]:
        names.append(source.name)
        yield from read(source, options)

    monkeypatch.setattr(text, "read", counting)
    return names


# ---------------------------------------------------------------- what does not fit memory


@pytest.mark.parametrize("kept", [0, 1 << 10, 1 << 30])
def test_a_column_buffer_returns_what_was_appended(tmp_path: Path, kept: int) -> None:
    rng = np.random.default_rng(0)
    parts = [
        {"xyz": rng.random((n, 3)), "a" * 300: rng.integers(0, 9, n).astype(np.int16), "z": np.arange(n)}
        for n in (5, 0, 40, 1, 30)
    ]
    whole = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    some = ColumnBuffer(tmp_path / "s", kept)
    for part in parts[:3]:
        some.append(part)
    some.drop("z")
    for part in parts[3:]:
        some.append(part)
    assert len(some) == 76
    assert (tmp_path / "s").exists() == (kept < 1 << 20)
    blocks = list(some.blocks(rows=7))
    assert [len(block["xyz"]) for block in blocks] == [7] * 10 + [6]
    for name in ("xyz", "a" * 300):
        values = np.concatenate([block[name] for block in blocks])
        assert values.dtype == whole[name].dtype
        np.testing.assert_array_equal(values, whole[name])
    assert list(some.read(3, 9, ["xyz"])) == ["xyz"]
    some.close()
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("grid", [None, 0.05, 0.5, 100.0])
def test_a_cloud_too_large_for_memory_gives_the_same_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, grid: float | None
) -> None:
    xyz, label = cloud(1, 5000)
    xyz[0] = [1e5, 0, 0]  # far out: most of the cuts still have to fall among the others
    xyz[1:9] = xyz[9:17]
    rgb = {name: np.random.default_rng(2).integers(0, 256, 5000) for name in ("red", "green", "blue")}
    table(tmp_path / "raw" / "a.csv", xyz, label, w=xyz[:, 1], **rgb)
    prepare(tmp_path / "raw", tmp_path / "one.zarr", grid=grid, classes=CLASSES)
    dealt = []
    append = ColumnBuffer.append

    def counting(self: ColumnBuffer, part: Columns) -> None:
        dealt.append(self._folder.name)
        append(self, part)

    monkeypatch.setattr(ColumnBuffer, "append", counting)
    monkeypatch.setattr(column_buffer, "MAX_BUFFER_BYTES", 0)
    monkeypatch.setattr(write, "MAX_BUFFER_BYTES", 0)
    monkeypatch.setattr(write, "SAMPLE", 3)
    monkeypatch.setattr(write.write_scene, "__kwdefaults__", {"slab": 700})
    prepare(tmp_path / "raw", tmp_path / "many.zarr", grid=grid, classes=CLASSES)
    slabs = {name for name in dealt if name.startswith("slab-")}
    assert len(slabs) == {None: 0, 0.05: 8, 0.5: 7, 100.0: 1}[grid]
    assert tree(tmp_path / "one.zarr") == tree(tmp_path / "many.zarr")


# ---------------------------------------------------------------- scenes of several files, and of parts of files


def test_a_folder_is_a_scene(folder: Path, tmp_path: Path) -> None:
    prepare(folder, tmp_path / "s.zarr", scene_per="folder", grid=0.1, classes=CLASSES)
    store = SceneStore(tmp_path / "s.zarr")
    assert [scene.name for scene in store.table] == ["east", "west"]
    points, inverse = store.original(store.table[1], label=True)
    expected = np.concatenate([cloud(2)[0], cloud(3)[0]])
    np.testing.assert_allclose(points.position, expected, atol=1e-6)
    np.testing.assert_array_equal(points.label, np.concatenate([cloud(2)[1], cloud(3)[1]]))
    np.testing.assert_array_equal(points.attributes["source_file"], np.repeat([0, 1], 300))
    np.testing.assert_array_equal(points.attributes["source_row"], np.tile(np.arange(300), 2))
    grid = store.points(store.table[1])
    np.testing.assert_array_equal(
        np.floor(grid.xyz[inverse].astype(float) / 0.1 + 1e-4), np.floor((expected - points.offset) / 0.1 + 1e-4)
    )
    assert "source_row" not in grid.attributes


def test_loose_files_of_the_folder_that_was_given(folder: Path, tmp_path: Path) -> None:
    prepare(folder / "east", tmp_path / "s.zarr", scene_per="folder", classes=CLASSES)
    assert [(s.name, s.original) for s in SceneStore(tmp_path / "s.zarr").table] == [("east", 600)]


@pytest.mark.parametrize("kept", [0, 1 << 30])
def test_files_of_a_scene_that_differ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: int) -> None:
    """Columns that only one of the files has are kept, with empty values for the points of the others."""
    monkeypatch.setattr(column_buffer.ColumnBuffer.__init__, "__defaults__", (kept,))
    xyz, label = cloud(0)
    red = {name: np.full(300, n) for n, name in enumerate(("red", "green", "blue"), 1)}
    table(tmp_path / "raw" / "a.csv", xyz, None, u=xyz[:, 0], v=xyz[:, 1])
    table(tmp_path / "raw" / "b.csv", xyz, label, v=xyz[:, 2], w=xyz[:, 1], **red)
    table(tmp_path / "raw" / "c.csv", xyz, None, w=xyz[:, 0])
    notes: list[str] = []
    monkeypatch.setattr(Silent, "warn", lambda self, text: notes.append(text))
    prepare(tmp_path / "raw", tmp_path / "s.zarr", scene_per="folder", classes=CLASSES)
    assert notes == ["raw: not all of its files have label, rgb, u, v, w: the others got empty values"]
    store = SceneStore(tmp_path / "s.zarr")
    points, _ = store.original(store.table[0], label=True)
    nothing = np.full(300, np.nan)
    np.testing.assert_array_equal(points.attributes["u"], np.concatenate([xyz[:, 0], nothing, nothing]))
    np.testing.assert_array_equal(points.attributes["v"], np.concatenate([xyz[:, 1], xyz[:, 2], nothing]))
    np.testing.assert_array_equal(points.attributes["w"], np.concatenate([nothing, xyz[:, 1], xyz[:, 0]]))
    np.testing.assert_array_equal(points.label, np.concatenate([[-1] * 300, label, [-1] * 300]))
    np.testing.assert_array_equal(points.rgb, np.repeat([[0, 0, 0], [1, 2, 3], [0, 0, 0]], 300, axis=0))
    export(tmp_path / "s.zarr", tmp_path / "out", "csv", original=tmp_path / "s.zarr")
    heads = {name: (tmp_path / f"out/{name}.csv").read_text().split("\n")[0].split(",") for name in "abc"}
    assert heads == {
        "a": ["x", "y", "z", "u", "v"],
        "b": ["x", "y", "z", "red", "green", "blue", "class", "v", "w"],
        "c": ["x", "y", "z", "w"],
    }


def test_the_file_at_fault_is_named(tmp_path: Path) -> None:
    xyz, label = cloud(0)
    table(tmp_path / "raw" / "a.csv", xyz, label)
    table(tmp_path / "raw" / "b.csv", xyz, label + 7)
    with pytest.raises(HpalError, match=r"b\.csv: class number"):
        prepare(tmp_path / "raw", tmp_path / "s.zarr", scene_per="folder", classes=CLASSES)


@pytest.mark.parametrize("first", [True, False])
def test_a_file_that_fails_leaves_nothing_in_tiles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: bool
) -> None:
    """Neither points nor columns of the file stay, however many blocks of it were read."""
    monkeypatch.setattr(number_table, "ROWS", 100)
    monkeypatch.setattr(number_table, "_PIECE", 1 << 11)
    good, bad = ("b", "a") if first else ("a", "b")
    xyz, label = cloud(0, 400, 10.0)
    table(tmp_path / "raw" / f"{good}.csv", xyz, label)
    table(tmp_path / "raw" / f"{bad}.csv", *cloud(1, 400, 10.0), more=xyz[:, 0])
    with (tmp_path / "raw" / f"{bad}.csv").open("a") as file:
        file.write("1,2\n")
    with pytest.raises(HpalError, match=f"1 of 2 files could not be read, and are not in it: {bad};"):
        prepare(tmp_path / "raw", tmp_path / "s.zarr", scene_per=4.0, classes=CLASSES, keep_going=True)
    (tmp_path / "raw" / f"{bad}.csv").unlink()
    prepare(tmp_path / "raw", tmp_path / "alone.zarr", scene_per=4.0, classes=CLASSES)
    assert tree(tmp_path / "s.zarr") == tree(tmp_path / "alone.zarr")


def test_labels_that_come_later_are_noticed(tmp_path: Path) -> None:
    """A label file beside a scene is part of it, even if it was not there at the first call."""
    folder = tmp_path / "sequences/00"
    (folder / "velodyne").mkdir(parents=True)
    for n in range(2):
        np.random.default_rng(n).random((50, 4)).astype("<f4").tofile(folder / f"velodyne/{n:06d}.bin")
    whole = (folder / "velodyne/000001.bin").read_bytes()
    (folder / "velodyne/000001.bin").write_bytes(whole[:-3])
    with pytest.raises(HpalError):
        prepare(tmp_path / "sequences", tmp_path / "s.zarr")
    (folder / "velodyne/000001.bin").write_bytes(whole)
    (folder / "labels").mkdir()
    np.full(50, 40, "<u4").tofile(folder / "labels/000000.label")
    prepare(tmp_path / "sequences", tmp_path / "s.zarr", resume=True)
    store = SceneStore(tmp_path / "s.zarr")
    labels = store.labels(store.table.by_name["00/000000"])
    assert labels is not None
    assert (labels >= 0).all()


def test_a_name_that_a_store_has_for_itself(tmp_path: Path) -> None:
    xyz, label = cloud(0)
    table(tmp_path / "raw" / "zarr.json.csv", xyz, label)
    prepare(tmp_path / "raw", tmp_path / "s.zarr", classes=CLASSES)
    assert [scene.name for scene in SceneStore(tmp_path / "s.zarr").table] == ["zarr.json_"]


def test_colours_a_little_beyond_bytes_are_told(tmp_path: Path) -> None:
    xyz, label = cloud(0)
    table(tmp_path / "raw" / "a.csv", xyz, label, red=np.arange(300) % 257, green=label, blue=label)
    done = hpal("prep", tmp_path / "raw", "-o", tmp_path / "s.zarr")
    assert "its colours go a little beyond 255: they are read as colours of 16 bits" in done.err


def test_black_colours_are_told(tmp_path: Path) -> None:
    xyz, label = cloud(0)
    table(tmp_path / "raw" / "a.csv", xyz, label, red=label * 0, green=label * 0, blue=label * 0)
    done = hpal("prep", tmp_path / "raw", "-o", tmp_path / "s.zarr")
    assert "the colours are all zero: read as a cloud without colour" in done.err
    assert not SceneStore(tmp_path / "s.zarr").has_color(SceneStore(tmp_path / "s.zarr").table[0])


@pytest.mark.parametrize("unit", [None, 0.3048])
def test_tiles_gather_the_points_of_all_files(tmp_path: Path, unit: float | None) -> None:
    clouds = [cloud(n, 400, 10.0) for n in range(3)]
    for n, (xyz, label) in enumerate(clouds):
        xyz -= [5, 5, 0]
        xyz += [2.5 * n, 0, 0]
        table(tmp_path / "raw" / f"{n}.csv", xyz, label)
    prepare(tmp_path / "raw", tmp_path / "s.zarr", scene_per=4.0, grid=None, classes=CLASSES, unit=unit)
    store = SceneStore(tmp_path / "s.zarr")
    seen: set[tuple[int, int]] = set()
    edge = 4.0 / (unit or 1.0)
    files = sorted((tmp_path / "raw").iterdir())
    for scene in store.table:
        points, _ = store.original(scene, label=True)
        low = np.floor(points.position[:, :2] / edge + 1e-9)
        assert len(np.unique(low, axis=0)) == 1
        x, y = (f"{value:.3f}".rstrip("0").rstrip(".") for value in low[0] * edge)
        assert scene.name == f"x{x}_y{y}"
        names = [file.name for file in store.files(scene)]
        for n, (xyz, label) in enumerate(clouds):
            here = np.array([names[f] == files[n].name for f in points.attributes["source_file"]], bool)
            rows = points.attributes["source_row"][here]
            np.testing.assert_allclose(points.position[here], xyz[rows], atol=1e-5)
            np.testing.assert_array_equal(points.label[here], label[rows])
            assert not seen & {(n, int(row)) for row in rows}
            seen |= {(n, int(row)) for row in rows}
    assert len(seen) == 1200


def test_scene_per_says_what_it_takes(folder: Path, tmp_path: Path) -> None:
    for wrong in ("room", "tile", "tile:", "tile:-3m", "tile:5parsec"):
        done = hpal("prep", folder, "-o", tmp_path / "s.zarr", "--scene-per", wrong)
        assert done.rc == 2
        assert "--scene-per" in done.err
    done = hpal("prep", folder, "-o", tmp_path / "s.zarr", "--scene-per", "tile:2m", "--val", "x2_*")
    assert done.rc == 0, done.err
    assert "2 val" in done.err


# ---------------------------------------------------------------- interrupted, and gone on with


def test_what_is_done_is_not_read_again(folder: Path, tmp_path: Path, reads: list[str]) -> None:
    out = tmp_path / "s.zarr"
    prepare(folder, tmp_path / "whole.zarr", grid=GRID, classes=CLASSES)
    good = (folder / "west/one.csv").read_bytes()
    (folder / "west/one.csv").write_bytes(good[:-5] + b"\n1,2\n")
    reads.clear()
    with pytest.raises(HpalError, match="west/one"):
        prepare(folder, out, grid=GRID, classes=CLASSES)
    # The spacing of the first, the middle and the last is measured; `west/one` cannot be read then either.
    assert reads == ["east/one", "west/one", "west/two", "east/one", "east/two", "west/one"]
    assert not out.exists()
    (folder / "west/one.csv").write_bytes(good)
    reads.clear()
    prepare(folder, out, grid=GRID, classes=CLASSES, resume=True)
    assert reads == ["west/one", "west/two"]
    assert tree(out) == tree(tmp_path / "whole.zarr")
    assert [path.name for path in tmp_path.iterdir() if "partial" in path.name] == []


def test_a_file_that_changed_is_read_again(folder: Path, tmp_path: Path, reads: list[str]) -> None:
    out = tmp_path / "s.zarr"
    (folder / "west/two.csv").write_text("x,y,z\n1,2,3\n1,2\n")
    with pytest.raises(HpalError):
        prepare(folder, out, classes=CLASSES)
    xyz, label = cloud(9)
    table(folder / "east/two.csv", xyz, label)
    table(folder / "west/two.csv", xyz, label)
    reads.clear()
    prepare(folder, out, classes=CLASSES, resume=True)
    assert reads == ["east/two", "west/two"]
    store = SceneStore(out)
    np.testing.assert_allclose(store.original(store.table.by_name["east/two"])[0].position, xyz, atol=1e-6)


def test_other_settings_begin_anew_or_are_refused(folder: Path, tmp_path: Path, reads: list[str]) -> None:
    out = tmp_path / "s.zarr"
    good = (folder / "west/two.csv").read_bytes()
    (folder / "west/two.csv").write_text("x,y,z\n1,2,3\n1,2\n")
    with pytest.raises(HpalError):
        prepare(folder, out, grid=0.1, classes=CLASSES)
    (folder / "west/two.csv").write_bytes(good)
    with pytest.raises(HpalError, match="--resume: the unfinished store was begun with another grid; leave it out"):
        prepare(folder, out, grid=0.2, classes=CLASSES, resume=True)
    reads.clear()
    prepare(folder, out, grid=0.2, classes=CLASSES)
    assert len(reads) == 3 + 4
    reads.clear()
    prepare(folder, out, grid=0.2, scale=0.5, classes=CLASSES, overwrite=True)
    assert len(reads) == 4
    prepare(folder, out, grid=0.2, classes=CLASSES, overwrite=True)
    prepare(folder, tmp_path / "whole.zarr", grid=0.2, classes=CLASSES)
    assert tree(out) == tree(tmp_path / "whole.zarr")


def test_killed_in_the_middle(folder: Path, tmp_path: Path) -> None:
    """The worst end there is: no handler runs, a scene is half written, a line of the record is torn."""
    out = tmp_path / "s.zarr"
    for n in range(40):
        table(folder / f"more/{n:02d}.csv", *cloud(n, 2000))
    call = [sys.executable, "-m", "hpal_cli", "prep", folder, "-o", out, "--resume", "--grid", "0.2"]
    process = subprocess.Popen(list(map(str, call)), env=environment(), stderr=subprocess.PIPE)
    record = tmp_path / ".s.zarr.partial" / "prep.jsonl"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (record.exists() and record.read_bytes().count(b"\n") > 5):
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert not out.exists()
    with record.open("a") as file:
        file.write('{"scene": "ha')
    # Zarr writes beside the name too.
    for name in ("", "scenes/", "scenes/more/00/"):
        (record.parent / f"{name}zarr.{'0' * 32}.partial").write_text('{"att')
    done = hpal(*call[3:])
    assert done.rc == 0, done.err
    assert "of 44 scenes are done already" in done.err
    assert hpal("info", "--check", out).rc == 0
    prepare(folder, tmp_path / "whole.zarr", grid=0.2)
    assert without_history(out) == without_history(tmp_path / "whole.zarr")


def without_history(store: Path) -> dict[str, bytes]:
    files = tree(store)
    about = json.loads(files["zarr.json"])
    del about["attributes"]["hpal"]["history"], about["attributes"][CHECKSUM]
    return {**files, "zarr.json": json.dumps(about).encode()}


def _hold(root: Path, out: Path, begun: Callable[[], None], release: Callable[[], None]) -> None:
    def read(source: Source, options: Options) -> Iterator[Cloud]:
        begun()
        release()
        yield Cloud(np.zeros((1, 3)))

    text.read = read  # type: ignore[assignment]
    prepare(root, out, classes=CLASSES)


def test_two_at_once(folder: Path, tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    begun, release = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(folder / "east", tmp_path / "s.zarr", begun.set, release.wait))
    other.start()
    assert begun.wait(60)
    try:
        with pytest.raises(HpalError, match=r"s\.zarr: is being written by another process"):
            prepare(folder, tmp_path / "s.zarr", classes=CLASSES)
    finally:
        release.set()
        other.join()
    assert other.exitcode == 0
    assert len(SceneStore(tmp_path / "s.zarr").table) == 2


# ---------------------------------------------------------------- scenes that cannot be read


def test_keep_going_leaves_them_out_and_says_so(folder: Path, tmp_path: Path) -> None:
    (folder / "east/two.csv").write_text("x,y,z\n1,2,3\n1,2\n")
    (folder / "west/two.csv").write_text("x,y,z,label\n1,2,3,77\n")
    call = ("prep", folder, "-o", tmp_path / "s.zarr", "--val", "*/two", "--classes", classes_file(tmp_path))
    stopped = hpal(*call)
    assert stopped.rc == 1
    assert "two.csv: line 3 has 2 columns" in stopped.err
    assert not (tmp_path / "s.zarr").exists()
    done = hpal(*call, "--keep-going")
    assert done.rc == 1
    assert "east/two is left out" in done.err
    assert "class number 77 is not in the table" in done.err
    assert "2 of 4 scenes could not be read, and are not in it: east/two, west/two" in done.err
    assert [scene.name for scene in SceneStore(tmp_path / "s.zarr").table] == ["east/one", "west/one"]
    assert hpal("info", "--check", tmp_path / "s.zarr").rc == 0
    again = hpal(*call, "--keep-going", "--jobs", 2, "--overwrite")
    assert again.rc == 1
    assert "2 of 4 scenes could not be read" in again.err


def test_nothing_that_can_be_read(folder: Path, tmp_path: Path) -> None:
    for path in folder.rglob("*.csv"):
        path.write_text("x,y,z\n1,2,3\n1,2\n")
    done = hpal("prep", folder, "-o", tmp_path / "s.zarr", "--keep-going", "--classes", classes_file(tmp_path))
    assert done.rc == 1
    assert "none of its scenes can be read" in done.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["classes.json", "raw"]


def classes_file(folder: Path) -> Path:
    path = folder / "classes.json"
    path.write_text('[{"id": 0, "name": "a"}, {"id": 1, "name": "b"}, {"id": 2, "name": "c"}]')
    return path


def test_points_without_a_position(tmp_path: Path) -> None:
    xyz, label = cloud(0, 20)
    xyz[3, 1], xyz[7, 2] = np.nan, np.inf
    table(tmp_path / "raw" / "a.csv", xyz, label)
    strict = hpal("prep", tmp_path / "raw", "-o", tmp_path / "s.zarr", "--strict")
    assert strict.rc == 1
    assert "a.csv: point 3 has NaN or infinite coordinates" in strict.err
    done = hpal("prep", tmp_path / "raw", "-o", tmp_path / "s.zarr")
    assert done.rc == 0, done.err
    assert "warning: a: left out 2 of 20 points, whose coordinates are NaN or infinite" in done.err
    store = SceneStore(tmp_path / "s.zarr")
    points, _ = store.original(store.table[0])
    rows = [n for n in range(20) if n not in (3, 7)]
    np.testing.assert_array_equal(points.attributes["source_row"], rows)
    np.testing.assert_allclose(points.position, xyz[rows], atol=1e-6)
    assert store.files(store.table[0]) == [SourceFile("a.csv", 20)]


# ---------------------------------------------------------------- splits


def test_splits_from_the_lists_of_others(folder: Path, tmp_path: Path) -> None:
    listed = tmp_path / "val.txt"
    listed.write_text("# official\neast/one\nnorth/one\n\nwest/two\n")
    done = hpal("prep", folder, "-o", tmp_path / "s.zarr", "--val", f"@{listed}", "--test", "west/o*")
    assert done.rc == 0, done.err
    assert f"--val @{listed}: 1 of its 3 scenes are not here" in done.err
    assert [s.split for s in SceneStore(tmp_path / "s.zarr").table] == ["val", "train", "test", "val"]
    listed.write_text("north/one\n")
    none = hpal("prep", folder, "-o", tmp_path / "t.zarr", "--val", f"@{listed}")
    assert none.rc == 2
    assert "matches no scene" in none.err
    gone = hpal("prep", folder, "-o", tmp_path / "t.zarr", "--val", "@nowhere.txt")
    assert gone.rc == 2
    assert "nowhere.txt cannot be read" in gone.err
    with pytest.raises(UsageError, match="east/one is in --val and in --test"):
        prepare(folder, tmp_path / "t.zarr", val=["east/*"], test=["*/one"], classes=CLASSES)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--val", "*"), "--val"),
        (("--test", "*"), "--test"),
        (("--val", "east/*", "--test", "west/*"), "--val and --test"),
        (("--scene-per", "tile:2m", "--val", "*"), "--val"),
        (("--val", "*/one"), None),
        ((), None),
    ],
)
def test_no_scene_left_to_train_on_is_a_warning(
    folder: Path, tmp_path: Path, options: tuple[str, ...], named: str | None
) -> None:
    done = hpal("prep", folder, "-o", tmp_path / "s.zarr", *options)
    assert done.rc == 0, done.err
    warnings = [line for line in done.err.splitlines() if "to train on" in line]
    problem, remedy = "no scene is left to train on", f"let {named} match fewer, unless you only predict or test"
    assert warnings == ([f"hpal prep: warning: {problem}; {remedy}"] if named else [])


# ---------------------------------------------------------------- georeferenced


def test_lambert_93_comes_back_to_the_millimetre(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    xyz = np.round(rng.random((500, 3)) * [400, 400, 30] + [770500, 6277550, 88], 3)
    table(tmp_path / "raw" / "a.csv", xyz)
    prepare(tmp_path / "raw", tmp_path / "s.zarr", classes=CLASSES, grid=0.04)
    store = SceneStore(tmp_path / "s.zarr")
    points, inverse = store.original(store.table[0])
    np.testing.assert_array_equal(np.round(points.position, 3), xyz)
    assert np.abs(points.position - xyz).max() < 1e-5
    assert np.abs(store.points(store.table[0]).position[inverse] - xyz).max() < 0.04 * np.sqrt(3)


def test_two_files_that_claim_one_name(tmp_path: Path) -> None:
    xyz, label = cloud(0)
    table(tmp_path / "raw" / "a.csv", xyz, label)
    table(tmp_path / "raw" / "a.txt", xyz, label)
    done: Done = hpal("prep", tmp_path / "raw", "-o", tmp_path / "s.zarr")
    assert done.rc == 1
    assert "two scenes are called 'a'" in done.err


def test_coordinates_far_out(tmp_path: Path) -> None:
    xyz, label = cloud(0)
    for far, rc, words in ((1e5, 0, None), (2e6, 0, "spans 2,000,000 units, so its"), (1e300, 1, "span 1e+300 units")):
        xyz[0, 0] = far
        table(tmp_path / "raw" / "a.csv", xyz, label)
        done = hpal("prep", tmp_path / "raw", "-o", tmp_path / "s.zarr", "--overwrite")
        assert done.rc == rc, done.err
        assert words is None or words in done.err
        assert "spans" in done.err or words is None or rc
        assert "RuntimeWarning" not in done.err


@pytest.mark.parametrize("scene_per", ["file", "folder", "tile:50m"])
def test_what_holds_of_many_files_is_told_once(tmp_path: Path, hpal: Callable[..., Done], scene_per: str) -> None:
    for n in range(6):
        (tmp_path / "raw").mkdir(exist_ok=True)
        (tmp_path / "raw" / f"t{n}.csv").write_text(f"x,y,z,r,g,b\n0,0,{n},0,0,0\n1,1,{n},0,0,0\n")
    done = hpal(
        "prep",
        tmp_path / "raw",
        "-o",
        tmp_path / "s.zarr",
        "--scene-per",
        scene_per,
        "--classes",
        classes_file(tmp_path),
    )
    assert done.rc == 0, done.err
    ending = {"file": "", "folder": ".csv", "tile:50m": ""}[scene_per]
    names = ", ".join(f"t{n}{ending}" for n in (1, 2, 3))
    of = "raw: " if scene_per == "folder" else ""
    told = [line.partition("warning: ")[2] for line in done.err.splitlines() if "all zero" in line]
    text = "the colours are all zero: read as a cloud without colour"
    assert told == [f"{of}t0{ending}: {text}", f"{of}also {names} and 2 more: {text}"]
