"""Stores, streams and checkpoints on object storage: against a local server that speaks S3, and in memory."""

from __future__ import annotations

import http.client
import json
import os
import pickle
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import laspy
import numpy as np
import pytest
import torch
import zarr
from conftest import GRID, VAL, Done, fake_predictions
from s3_server import s3_server, use_new_bucket
from synthetic_scenes import answers, certain, first_of_each, rooms, synthetic_scenes

from hpal_cli.classes import ClassTable
from hpal_cli.errors import HpalError
from hpal_cli.history import Entry
from hpal_cli.info import describe
from hpal_cli.labels.store import ANSWER, LabelStore
from hpal_cli.predictions.store import PredictionStore
from hpal_cli.scenes.prepare import prepare
from hpal_cli.scenes.store import SceneStore
from hpal_cli.score.scorer import ScoreSettings, Strategy, score
from hpal_cli.store import envelope, objects, remote
from hpal_cli.store.files import atomic_write, require_absent
from hpal_cli.store.remote import RemotePath, located
from hpal_cli.store.tasks import put_file
from hpal_cli.stream.points import PointReader
from hpal_cli.training.prefetch import DeviceBatch
from hpal_cli.training.presets import PRESETS
from hpal_cli.training.train import _Run, train

pytest.importorskip("obstore", reason="obstore is not installed: pip install 'hpal[remote]'")

BY = Entry("test", "0", ())


def address(text: str) -> RemotePath:
    path = located(text)
    assert isinstance(path, RemotePath)
    return path


@pytest.fixture
def memory() -> RemotePath:
    """A folder in this process's memory that nobody else uses."""
    return address(f"memory://tests/{uuid.uuid4().hex}")


# ---------------------------------------------------------------- addresses


@pytest.mark.parametrize(
    ("typed", "scheme", "bucket", "key"),
    [
        ("s3://b/a/c.zarr", "s3", "b", "a/c.zarr"),
        ("gs://b/c.pt", "gs", "b", "c.pt"),
        ("az://b/c", "az", "b", "c"),
        ("https://host:1/x/y.ply", "https", "host:1", "x/y.ply"),
        ("memory://b/x", "memory", "b", "x"),
        ("s3://b", "s3", "b", ""),
    ],
)
def test_what_a_person_types_is_an_address(typed: str, scheme: str, bucket: str, key: str) -> None:
    # Typer makes a Path of it first, and with that one slash of two.
    for given in (typed, Path(typed), located(typed)):
        path = located(given)
        assert isinstance(path, RemotePath)
        assert (path.scheme, path.parts[1], path.key, str(path)) == (scheme, bucket, key, typed)


@pytest.mark.parametrize("typed", ["a.zarr", "/s3:/b", "s3", "S3/x", "-", "x/s3://b", "ftp://b/x"])
def test_other_paths_stay_what_they_are(typed: str) -> None:
    assert type(located(typed)) is type(Path())


def test_a_path_of_an_address_has_names_like_any() -> None:
    path = address("s3://b/a/scenes.zarr")
    assert str(path.parent) == "s3://b/a"
    assert str(path.with_name("x.zarr")) == "s3://b/a/x.zarr"
    assert (path.name, path.stem, path.suffix) == ("scenes.zarr", "scenes", ".zarr")


@pytest.mark.parametrize("use", [os.listdir, os.path.exists, np.load, lambda p: p.stat(), lambda p: p.rename("y")])
def test_what_needs_a_disk_says_so(use: Callable[[RemotePath], object]) -> None:
    with pytest.raises(HpalError, match=r"s3://b/x: is on object storage.*copy it"):
        use(address("s3://b/x"))


# ---------------------------------------------------------------- stores in memory


def test_scenes_and_predictions_are_those_of_a_disk(office: Path, scenes: Path, memory: RemotePath) -> None:
    prepare(office, memory / "scenes.zarr", val=[VAL], grid=GRID)
    fake_predictions(scenes, memory / "preds.zarr")
    there, here = SceneStore(memory / "scenes.zarr"), SceneStore(scenes)
    assert there.table.id == here.table.id
    for scene in here.table:
        for of in ("points", "original"):
            one, other = (getattr(store, of)(scene, label=True) for store in (there, here))
            one, other = (found[0] if of == "original" else found for found in (one, other))
            np.testing.assert_array_equal(one.xyz, other.xyz)
            np.testing.assert_array_equal(one.label, other.label)
            np.testing.assert_array_equal(one.rgb, other.rgb)
    there.check()
    PredictionStore(memory / "preds.zarr").check()
    assert describe(memory / "preds.zarr", check=True).kind == "predictions"


def test_readers_refuse_until_everything_is_written(memory: RemotePath) -> None:
    store = synthetic_scenes(memory / "scenes.zarr", rooms(2))
    with envelope.create(memory / "p.zarr", "predictions", {"scenes": []}, overwrite=False) as (root, _):
        envelope.write_array(root, "x", np.arange(3))
        with pytest.raises(HpalError, match="is not complete"):
            PredictionStore(memory / "p.zarr")
    assert envelope.attributes_of(memory / "p.zarr") == {
        "spec": 1, "kind": "predictions", "scenes": [], "complete": True,
    }  # fmt: skip
    assert len(store.table) == 2


def write_twice(root: zarr.Group) -> None:
    """Writes an array twice, which fails at the second time."""
    for _ in range(2):
        envelope.write_array(root, "x", np.arange(3))


def test_what_fails_leaves_nothing(memory: RemotePath) -> None:
    path = memory / "p.zarr"
    with pytest.raises(ValueError, match="x"), envelope.create(path, "predictions", {}, overwrite=False) as (root, _):
        write_twice(root)
    assert not path.exists()
    assert not list(memory.objects.list(f"{path.key}/"))


def test_a_store_is_replaced_only_if_asked(memory: RemotePath) -> None:
    path = memory / "scenes.zarr"
    synthetic_scenes(path, rooms(3))
    with pytest.raises(HpalError, match="exists already; give --overwrite"):
        synthetic_scenes(path, rooms(2))
    with envelope.create(path, "scenes", {}, overwrite=True):
        pass
    # What the old one had is gone.
    assert [one["path"] for batch in memory.objects.list(f"{path.key}/") for one in batch] == [f"{path.key}/zarr.json"]
    with (
        pytest.raises(HpalError, match="is not a predictions store"),
        envelope.create(path, "predictions", {}, overwrite=True),
    ):
        pass


def test_a_writer_that_lives_is_not_disturbed(memory: RemotePath) -> None:
    path = memory / "p.zarr"
    with envelope.create(path, "predictions", {}, overwrite=False) as (root, _):
        envelope.write_array(root, "x", np.arange(3))
        for overwrite in (False, True):
            with (
                pytest.raises(
                    HpalError, match="is being written by another process, which gave a sign of life 0 s ago"
                ),
                envelope.create(path, "predictions", {}, overwrite=overwrite),
            ):
                pass
    np.testing.assert_array_equal(envelope.open_store(path, "predictions")[0]["x"][:], np.arange(3))


def test_a_dead_writers_store_is_replaced(memory: RemotePath, monkeypatch: pytest.MonkeyPatch) -> None:
    path = memory / "p.zarr"
    dead = objects.InPlace(path, {"spec": 1, "kind": "predictions"})
    dead.begin(overwrite=False)
    memory.objects.put(f"{path.key}/left/c/0", b"x")
    monkeypatch.setattr(objects, "STALE", 0.0)
    with envelope.create(path, "predictions", {}, overwrite=False) as (root, _):
        envelope.write_array(root, "x", np.arange(3))
    assert not (path / "left").exists()
    # It was only suspended, and must not believe that the store is its own.
    with pytest.raises(HpalError, match="was taken over by another writer"):
        dead.end(b"{}")
    dead.give_up()
    envelope.check_store(envelope.open_store(path, "predictions")[0], path)


def test_a_bucket_is_no_store() -> None:
    with (
        pytest.raises(HpalError, match="is a whole bucket"),
        envelope.create(address("memory://tests"), "predictions", {}, overwrite=False),
    ):
        pass


def test_a_writer_gives_signs_of_life(memory: RemotePath, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "RENEWED", 0.02)
    path = memory / "p.zarr"
    writer = objects.InPlace(path, {"spec": 1, "kind": "predictions"})
    writer.begin(overwrite=False)
    first = memory.objects.head(f"{path.key}/zarr.json")["last_modified"]
    until = time.monotonic() + 5
    while memory.objects.head(f"{path.key}/zarr.json")["last_modified"] == first:
        assert time.monotonic() < until
        time.sleep(0.01)
    root = {"attributes": {"hpal": {"kind": "predictions", "complete": True}}}
    writer.end(json.dumps(root).encode())
    assert envelope.attributes_of(path) == root["attributes"]["hpal"]


def test_a_chunk_that_is_gone_is_no_zeros(memory: RemotePath) -> None:
    store = synthetic_scenes(memory / "scenes.zarr", rooms(2))
    memory.objects.delete(f"{store.path.key}/scenes/a/xyz/c/0/0")
    with pytest.raises(HpalError, match=r"scenes\.zarr: its scenes/a/xyz is missing or damaged \(a chunk is gone\)"):
        SceneStore(store.path).points(store.table[0])


def test_a_file_appears_whole_or_not_at_all(memory: RemotePath) -> None:
    path = memory / "x.ply"
    with pytest.raises(FileExistsError), atomic_write(path, overwrite=False) as partial:
        partial.mkdir()
    assert not path.exists()
    with atomic_write(path, overwrite=False) as partial:
        partial.write_bytes(b"whole" * 1000)
    assert path.read_bytes() == b"whole" * 1000
    with pytest.raises(HpalError, match="exists already"), atomic_write(path, overwrite=False):
        pass
    # Somebody else was quicker.
    other = memory / "y.ply"
    with pytest.raises(HpalError, match="exists already"), atomic_write(other, overwrite=False):
        memory.objects.put(other.key, b"theirs")
    assert other.read_bytes() == b"theirs"


def test_each_object_is_read_once_and_ahead(
    memory: RemotePath, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = synthetic_scenes(tmp_path / "scenes.zarr", rooms(3))
    read: Counter[tuple[str, bool]] = Counter()
    now = RemotePath._read_now

    def counted(path: RemotePath) -> bytes:
        read[path.key, threading.current_thread().name.startswith("read-ahead")] += 1
        return now(path)

    monkeypatch.setattr(RemotePath, "_read_now", counted)
    streams = []
    for place in (tmp_path, memory):
        preds = certain(store, place / "preds.zarr", 1)
        read.clear()
        with (tmp_path / "s.ply").open("w+b") as file:
            score(preds.path, lambda _, file=file: file, ScoreSettings(Strategy.MMU), split="all")  # type: ignore[misc]
            file.seek(0)
            streams.append(PointReader(file, tmp_path / "s.ply").read())
    np.testing.assert_array_equal(*streams)
    times: Counter[str] = Counter()
    for (key, _), count in read.items():
        times[key.rpartition("preds.zarr/")[2]] += count
    assert {count for name, count in times.items() if name.startswith("scenes/")} == {1}
    ahead = {key.rpartition("preds.zarr/")[2] for key, where in read if where}
    assert {f"scenes/{name}/prob/c/0/0" for name in "bc"} <= ahead
    assert "scenes/a/prob/c/0/0" not in ahead


def test_an_error_of_what_is_read_ahead_is_told_when_it_is_needed(memory: RemotePath) -> None:
    path = memory / "x"
    remote.begin_reading([path])
    with pytest.raises(FileNotFoundError):
        path.read_bytes()
    memory.objects.put(path.key, b"now")
    assert path.read_bytes() == b"now"
    remote.begin_reading([memory / f"{n}" for n in range(2 * remote._MAX_BEGUN)])
    assert len(remote._begun) == remote._MAX_BEGUN


# ---------------------------------------------------------------- labels


def one(index: int, label: int = 0) -> np.ndarray:
    row = np.zeros(1, ANSWER)
    row["index"], row["label"] = index, label
    return row


def test_many_writers_lose_no_answer(memory: RemotePath) -> None:
    store = synthetic_scenes(memory / "scenes.zarr", rooms(2))
    path = memory / "labels.zarr"

    def add(index: int) -> None:
        LabelStore.at(path, store.classes, store.table, unit=1.0, subject="x").append(one(index), "test", BY)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(add, range(24)))
    labels = LabelStore(path)
    assert labels.latest()["index"].tolist() == list(range(24))
    assert sorted(batch.round for batch in labels.batches()) == list(range(24))
    labels.undo(23, "test", BY)
    assert len(LabelStore(path).latest()) == 23


def test_a_batch_counts_when_all_of_it_is_there(memory: RemotePath, monkeypatch: pytest.MonkeyPatch) -> None:
    store = synthetic_scenes(memory / "scenes.zarr", rooms(2))
    labels = answers(memory / "labels.zarr", store, {"a": [(0, 1)]})
    # A writer died after its first objects.
    key = f"{labels.path.key}/answers/000001/scene/zarr.json"
    memory.objects.copy(key.replace("000001", "000000"), key)
    assert len(labels.batches()) == 1
    monkeypatch.setattr(objects, "BATCH_TIMEOUT", 0.0)
    batch = labels.append(one(7), "test", BY)
    assert (batch.round, len(labels.batches())) == (1, 2)
    again = LabelStore(labels.path)
    assert again.latest()["index"].tolist() == [0, 7]
    assert (labels.path / "answers" / "000002").is_dir()
    again.check()
    # It was only slow: its number is taken, and what it adds comes behind.
    assert not objects._put_new(labels.path / "answers" / "000001", f"{labels.path.key}/answers/000001/zarr.json", b"x")


def test_a_store_that_overwrites_is_refused(memory: RemotePath, monkeypatch: pytest.MonkeyPatch) -> None:
    from obstore.store import MemoryStore

    store = synthetic_scenes(memory / "scenes.zarr", rooms(2))
    labels = LabelStore.create(memory / "labels.zarr", store.classes, store.table)
    put = MemoryStore.put
    monkeypatch.setattr(MemoryStore, "put", lambda bucket, key, data, mode=None: put(bucket, key, data))
    with pytest.raises(HpalError, match=r"labels.zarr: overwrites an object in spite of If-None-Match"):
        labels.append(one(0), "test", BY)


# ---------------------------------------------------------------- a web server


@pytest.fixture
def web(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *args: object) -> None:
            super().__init__(*args, directory=str(tmp_path))  # type: ignore[arg-type]

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", tmp_path
        server.shutdown()


def test_predictions_are_read_from_a_web_server(web: tuple[str, Path], hpal: Callable[..., Done]) -> None:
    url, folder = web
    store = synthetic_scenes(folder / "scenes.zarr", rooms(2))
    certain(store, folder / "preds.zarr", 1)
    here, there = folder / "here.ply", folder / "there.ply"
    for source, out in ((folder / "preds.zarr", here), (f"{url}/preds.zarr", there)):
        done = hpal("score", source, "--levels", "10", "-o", out)
        assert done.rc == 0, done.err
    assert rows(here).tobytes() == rows(there).tobytes()
    done = hpal("select", f"{url}/there.ply", "--budget", 3, "--no-fds", "-o", folder / "picks.ply")
    assert done.rc == 0, done.err
    done = hpal("score", f"{url}/none.zarr")
    assert (done.rc, done.err.count("\n")) == (1, 1)
    assert "does not exist" in done.err
    for args in (
        ("score", f"{url}/scenes.zarr", "--strategy", "random"),
        ("score", f"{url}/preds.zarr", "-o", f"{url}/x.ply"),
    ):
        done = hpal(*args)
        assert (done.rc, done.err.count("\n")) == (1, 1), done.err
        assert "a web server" in done.err
    zarr.consolidate_metadata(str(folder / "scenes.zarr"), zarr_format=3)
    done = hpal("score", f"{url}/scenes.zarr", "--strategy", "random", "-o", folder / "random.ply")
    assert done.rc == 0, done.err


def test_a_scan_is_read_from_a_web_server(web: tuple[str, Path], hpal: Callable[..., Done]) -> None:
    url, folder = web
    table_of_points(folder / "scan.xyz", 0)
    (folder / "classes.json").write_text('[{"name": "any"}]')
    for n, source in enumerate((folder / "scan.xyz", f"{url}/scan.xyz")):
        done = hpal("prep", source, "-o", folder / f"{n}.zarr", "--classes", f"{url}/classes.json", "--grid", "50cm")
        assert done.rc == 0, done.err
    here, there = (SceneStore(folder / f"{n}.zarr") for n in range(2))
    assert list(here.table) == list(there.table)
    np.testing.assert_array_equal(here.points(here.table[0]).xyz, there.points(there.table[0]).xyz)


# ---------------------------------------------------------------- a server that speaks S3


def rows(path: Path) -> np.ndarray:
    with path.open("rb") as file:
        return PointReader(file, path).read()


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """Its address."""
    with s3_server() as found:
        yield found


@pytest.fixture
def s3(server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[RemotePath]:
    """A bucket of its own."""
    name = f"b{uuid.uuid4().hex[:12]}"
    use_new_bucket(server, name, monkeypatch)
    remote.bucket.cache_clear()
    yield address(f"s3://{name}")
    remote.bucket.cache_clear()


def test_a_round_of_the_loop(s3: RemotePath, office: Path, tmp_path: Path, hpal: Callable[..., Done]) -> None:
    """Every command on s3:// gives what it gives on a disk."""
    places = {"here": tmp_path, "there": s3}

    def both(*words: str) -> None:
        for place in places.values():
            done = hpal(*(word.format(place) if "{}" in word else word for word in words))
            assert done.rc == 0, done.err

    both("prep", str(office), "-o", "{}/scenes.zarr", "--val", VAL, "--grid", str(GRID), "--jobs", "2")
    both("score", "{}/scenes.zarr", "--strategy", "diverse", "--budget", "9", "-o", "{}/s0.ply", "--jobs", "2")
    both("select", "{}/s0.ply", "--budget", "9", "-o", "{}/p0.ply")
    both("label", "{}/p0.ply", "--oracle", "{}/scenes.zarr", "-o", "{}/labels.zarr")
    both("spread", "{}/labels.zarr", "{}/scenes.zarr", "--alike", "-o", "{}/spread.zarr")
    both(
        *("train", "{}/scenes.zarr", "--labels", "{}/labels.zarr", "--spread", "{}/spread.zarr"),
        *("--model", "forest", "-o", "{}/m.pt"),
    )
    both("predict", "{}/m.pt", "{}/scenes.zarr", "-o", "{}/preds.zarr")
    both("score", "{}/preds.zarr", "--levels", "30,60", "-o", "{}/s1.ply")
    both("select", "{}/s1.ply", "--budget", "5", "-o", "{}/p1.ply")
    both("label", "{}/p1.ply", "--oracle", "{}/scenes.zarr", "-o", "{}/labels.zarr")
    both("eval", "{}/preds.zarr", "--truth", "{}/scenes.zarr", "--labels", "{}/labels.zarr", "--json")
    both("info", "--check", "{}/preds.zarr")

    for name in ("s0.ply", "p0.ply", "s1.ply", "p1.ply"):
        here, there = (rows(place / name) for place in places.values())
        np.testing.assert_array_equal(here, there)
    for name in ("preds.zarr", "spread.zarr"):
        here, there = (PredictionStore(place / name) for place in places.values())
        for scene in here.table:
            np.testing.assert_array_equal(here.probabilities(scene), there.probabilities(scene))
    here, there = (LabelStore(place / "labels.zarr") for place in places.values())
    np.testing.assert_array_equal(here.latest(), there.latest())
    assert [batch.round for batch in there.batches()] == [0, 1]
    for name in ("scenes", "scenes.superpoints", "spread", "preds"):
        require_same_bytes(tmp_path / f"{name}.zarr", s3 / f"{name}.zarr")


def test_folders_of_files_are_those_of_a_disk(
    s3: RemotePath, scenes: Path, tmp_path: Path, hpal: Callable[..., Done]
) -> None:
    """Pictures and exports have the same bytes there, and an export that fails leaves none."""
    fake_predictions(scenes, tmp_path / "preds.zarr")
    preds = tmp_path / "preds.zarr"
    for place in (tmp_path, s3):
        for args in (
            ("score", preds, "--levels", "30", "--ply", place / "scored", "-o", place / "s.ply"),
            ("select", place / "s.ply", "--budget", "4", "--context", place / "context", "-o", place / "p.ply"),
            ("label", place / "p.ply", "--table", place / "q.csv", "--clips", place / "clips"),
            ("label", place / "p.ply", "--html", place / "page.html", "--source", scenes),
            ("export", preds, "-o", place / "grid", "--format", "laz"),
            ("export", preds, "-o", place / "whole", "--format", "csv", "--original", scenes),
            ("eval", preds, "--truth", scenes, "--pictures", place / "pictures", "--figures", place / "plots"),
        ):
            done = hpal(*args)
            assert done.rc == 0, done.err
    for folder in ("scored", "context", "clips", "grid", "whole", "pictures", "plots"):
        assert list((tmp_path / folder).rglob("*.*")), folder
        require_same_bytes(tmp_path / folder, s3 / folder)
    assert f"{s3}/clips/" in (s3 / "q.csv").read_text()
    assert (s3 / "page.html").read_bytes().startswith(b"<!doctype html>")
    # A file that is there is neither replaced nor removed, and no other is left.
    (s3 / "grid").objects.delete(next(path.key for path in below(s3 / "grid")))
    there = [path.key for path in below(s3 / "grid")]
    (line,) = lines(hpal("export", preds, "-o", s3 / "grid", "--format", "laz"))
    assert "exists already; give --overwrite" in line
    assert [path.key for path in below(s3 / "grid")] == there
    done = hpal("export", preds, "-o", s3 / "grid", "--format", "laz", "--overwrite")
    assert done.rc == 0, done.err
    require_same_bytes(tmp_path / "grid", s3 / "grid")


def put_folder(here: Path, there: RemotePath) -> None:
    for file in here.rglob("*"):
        if file.is_file():
            (there / file.relative_to(here)).objects.put((there / file.relative_to(here)).key, file)


def table_of_points(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savetxt(path, np.random.default_rng(seed).integers(0, 9, (200, 3)), fmt="%d")


def text_files(folder: Path) -> Path:
    for n in range(3):
        table_of_points(folder / f"survey/tile {n}.xyz", n)
    (folder / "survey/readme.txt").write_text("These are three tiles.\n")
    (folder / "survey/.hidden.xyz").write_text("no numbers\n")
    return folder / "survey"


def sweeps(folder: Path) -> Path:
    """Sweeps whose labels are outside of the folder that is given."""
    rng = np.random.default_rng(0)
    for name in ("velodyne", "labels"):
        (folder / "sequences/08" / name).mkdir(parents=True)
    for n in range(2):
        rng.random((60, 4)).astype("<f4").tofile(folder / f"sequences/08/velodyne/{n:06d}.bin")
    rng.choice([40, 48, 50], 60).astype("<u4").tofile(folder / "sequences/08/labels/000001.label")
    return folder / "sequences/08/velodyne"


def tiles(folder: Path) -> Path:
    for n in range(2):
        las = laspy.create(point_format=0)
        las.xyz = np.random.default_rng(n).random((300, 3)) * 9
        folder.mkdir(exist_ok=True)
        las.write(str(folder / f"tile_{n}.laz"))
    return folder


def one_table(folder: Path) -> Path:
    table_of_points(folder / "a/one.csv", 0)
    return folder / "a/one.csv"


@pytest.mark.parametrize("make", [text_files, sweeps, tiles, one_table])
@pytest.mark.parametrize("scene_per", ["file", 5.0])
def test_scans_are_read_as_from_a_disk(
    make: Callable[[Path], Path],
    scene_per: str | float,
    memory: RemotePath,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    root = make(tmp_path / "raw")
    put_folder(tmp_path / "raw", memory / "raw")
    classes = None if make is sweeps else ClassTable.from_names(["any"])
    there = memory / "raw" / root.relative_to(tmp_path / "raw")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    tables = [
        prepare(place, tmp_path / f"{n}.zarr", classes=classes, scene_per=scene_per, grid=0.5)
        for n, place in enumerate((root, there))
    ]
    assert list(tables[0]) == list(tables[1])
    here, again = tmp_path / "0.zarr", tmp_path / "1.zarr"
    for file in here.rglob("*"):
        if file.is_file() and file != here / "zarr.json":
            assert (again / file.relative_to(here)).read_bytes() == file.read_bytes(), file
    assert not list(scratch.iterdir())


def test_scans_of_a_bucket_become_a_store_there(
    s3: RemotePath, office: Path, scenes: Path, tmp_path: Path, hpal: Callable[..., Done]
) -> None:
    put_folder(office, s3 / "scans" / office.name)
    args = ("--val", VAL, "--grid", GRID)
    done = hpal("prep", s3 / "scans" / office.name, "-o", s3 / "scenes.zarr", *args, "--jobs", "2")
    assert done.rc == 0, done.err
    require_same_bytes(scenes, s3 / "scenes.zarr")
    # An interrupted call goes on with the scenes whose objects are the same.
    room = next(path for path in below(s3 / "scans") if path.suffix == ".txt" and "Annotations" in path.parts)
    room.objects.put(room.key, b"0 0 0 1 2\n")
    (line,) = lines(hpal("prep", s3 / "scans" / office.name, "-o", tmp_path / "x.zarr", *args))[-1:]
    assert str(room) in line
    assert "hpal-" not in line
    (line,) = lines(hpal("prep", s3 / "nothing", "-o", tmp_path / "x.zarr"))
    assert f"{s3}/nothing: does not exist" in line


def test_what_needs_a_disk_is_refused(s3: RemotePath, scenes: Path, tmp_path: Path, hpal: Callable[..., Done]) -> None:
    assert hpal("score", scenes, "--strategy", "random", "-o", tmp_path / "s.ply").rc == 0
    assert hpal("select", tmp_path / "s.ply", "--budget", "2", "-o", tmp_path / "p.ply").rc == 0
    (line,) = lines(hpal("label", tmp_path / "p.ply", "--serve", "--source", scenes, "-o", s3 / "labels.zarr"))
    assert line.endswith("name a labels store on a disk, or answer with --html and then --from")
    (line,) = lines(hpal("demo", "-o", s3 / "demo"))
    assert line.endswith("name a local folder with -o")
    assert not list(s3.iterdir())


def test_a_part_of_nuscenes_is_refused(memory: RemotePath, tmp_path: Path) -> None:
    """The labels of such a part would be missing."""
    key = f"{memory.key}/set/samples/LIDAR_TOP/a.pcd.bin"
    memory.objects.put(key, b"\0" * 200)
    with pytest.raises(HpalError, match=r"give the whole of it: memory://tests/.*/set$"):
        prepare(memory / "set/samples", tmp_path / "x.zarr")


def below(folder: RemotePath) -> list[RemotePath]:
    return [file.path for file in remote.objects_below(folder)]


def require_same_bytes(here: Path, there: RemotePath) -> None:
    """Compares all files but the root's `zarr.json`, whose history has the names of the stores."""
    names = {file.relative_to(here).as_posix(): file for file in here.rglob("*") if file.is_file()}
    found = [
        one["path"].removeprefix(f"{there.key}/") for batch in there.objects.list(f"{there.key}/") for one in batch
    ]
    assert sorted(found) == sorted(names)
    for name, file in names.items():
        if name != "zarr.json":
            assert (there / name).read_bytes() == file.read_bytes(), name


def test_parts_are_put_together(s3: RemotePath, office: Path, scenes: Path, hpal: Callable[..., Done]) -> None:
    for part in (2, 1):
        done = hpal(
            *("prep", office, "-o", s3 / "scenes.zarr", "--val", VAL, "--grid", GRID, "--shard", f"{part}/2"),
            *("--jobs", "1"),
        )
        assert done.rc == 0, done.err
    require_same_bytes(scenes, s3 / "scenes.zarr")
    assert [path.name for path in s3.iterdir()] == ["scenes.zarr"]
    assert SceneStore(s3 / "scenes.zarr").table.id == SceneStore(scenes).table.id


def test_two_commands_add_to_one_labels_store(
    s3: RemotePath, scenes: Path, tmp_path: Path, hpal: Callable[..., Done]
) -> None:
    picks = []
    for seed in ("1", "2"):
        score = hpal("score", scenes, "--strategy", "random", "--seed", seed, "-o", tmp_path / f"s{seed}.ply")
        assert score.rc == 0, score.err
        done = hpal("select", tmp_path / f"s{seed}.ply", "--budget", "4", "-o", s3 / f"p{seed}.ply")
        assert done.rc == 0, done.err
        picks.append(rows(s3 / f"p{seed}.ply"))

    def label(seed: str) -> Done:
        return hpal("label", s3 / f"p{seed}.ply", "--oracle", scenes, "-o", s3 / "labels.zarr")

    with ThreadPoolExecutor(2) as pool:
        for done in pool.map(label, ("1", "2")):
            assert done.rc == 0, done.err
    labels = LabelStore(s3 / "labels.zarr")
    assert [batch.round for batch in labels.batches()] == [0, 1]
    given = {(int(row["scene"]), int(row["index"])) for row in labels.latest()}
    assert given == {(int(row["scene"]), int(row["index"])) for chosen in picks for row in chosen}


def lines(done: Done) -> list[str]:
    assert done.rc == 1, done.err
    return done.err.splitlines()


def test_a_bucket_that_is_gone(s3: RemotePath, hpal: Callable[..., Done], scenes: Path) -> None:
    for args in (
        ("score", "s3://gone-bucket/preds.zarr"),
        ("info", "s3://gone-bucket/preds.zarr"),
        ("label", "--oracle", scenes, "s3://gone-bucket/p.ply", "-o", "labels.zarr"),
        ("score", scenes, "--strategy", "random", "-o", "s3://gone-bucket/x.ply"),
    ):
        (line,) = lines(hpal(*args))
        assert "there is no bucket gone-bucket" in line


def test_a_store_that_is_not_there(s3: RemotePath, hpal: Callable[..., Done]) -> None:
    (line,) = lines(hpal("score", s3 / "none.zarr"))
    assert line.startswith(f"hpal score: {s3}/none.zarr: does not exist")


class Answering(BaseHTTPRequestHandler):
    """Always the same: a status, and a body that says so; 0: nothing, for long."""

    status = 500

    def _answer(self) -> None:
        if not self.status:
            time.sleep(30)
            return
        code = {403: "AccessDenied", 500: "InternalError", 503: "SlowDown"}[self.status]
        body = f"<?xml version='1.0'?><Error><Code>{code}</Code></Error>".encode()
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = _answer

    def log_message(self, *args: object) -> None:
        pass


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (403, "access is refused (403 Forbidden"),
        (500, "the object store does not do what it is asked (500 Internal Server Error"),
        (503, "the object store does not do what it is asked (503 Service Unavailable"),
        (0, "the object store does not do what it is asked"),
    ],
)
def test_a_server_that_does_not_serve(
    status: int, said: str, scenes: Path, hpal: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(variable, "wrong")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("HPAL_REMOTE_PATIENCE", "2")
    handler = type("Handler", (Answering,), {"status": status})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        server.block_on_close = False
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        for args in (("score", "s3://b/p.zarr"), ("score", scenes, "--strategy", "random", "-o", "s3://b/x.ply")):
            begin = time.monotonic()
            (line,) = lines(hpal(*args))
            assert time.monotonic() - begin < 15
            assert said in line
            assert "s3://b/" in line
        server.shutdown()


@pytest.fixture
def flaky(server: str, s3: RemotePath, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, int]]:
    """Between hpal and the server: every answer takes 20 ms, and every tenth is an error 500, before or after the
    server has done what it was asked. Yields how many of each there were."""
    seen = {"asked": 0, "refused": 0}
    host = server.removeprefix("http://")

    class Front(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _pass_on(self) -> None:
            seen["asked"] += 1
            time.sleep(0.02)
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            status, headers, data = 500, [], b"<Error><Code>InternalError</Code></Error>"
            wrong = seen["asked"] % 10 == 0
            if not wrong or seen["asked"] % 20 == 0:
                behind = http.client.HTTPConnection(host)
                behind.request(self.command, self.path, body, dict(self.headers))
                answer = behind.getresponse()
                if not wrong:
                    status, headers, data = answer.status, answer.getheaders(), answer.read()
                behind.close()
            seen["refused"] += wrong
            self.send_response(status)
            for name, value in headers:
                if name.lower() not in ("content-length", "transfer-encoding", "connection", "date", "server"):
                    self.send_header(name, value)
            length = dict(headers).get("Content-Length") if self.command == "HEAD" else None
            self.send_header("Content-Length", length or str(len(data)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = _pass_on

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Front) as front:
        front.daemon_threads = True
        front.block_on_close = False
        threading.Thread(target=front.serve_forever, daemon=True).start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{front.server_port}")
        remote.bucket.cache_clear()
        yield seen
        front.shutdown()


def test_a_slow_server_that_often_fails_is_asked_again(s3: RemotePath, flaky: dict[str, int], tmp_path: Path) -> None:
    made = rooms(2)
    for place in (tmp_path, s3):
        store = synthetic_scenes(place / "scenes.zarr", made)
        certain(store, place / "preds.zarr", 1)
        labels = answers(place / "labels.zarr", store, {"a": first_of_each(made[0])})
        assert len(labels.latest()) == len(first_of_each(made[0]))
    for name in ("scenes", "preds"):
        require_same_bytes(tmp_path / f"{name}.zarr", s3 / f"{name}.zarr")
    SceneStore(s3 / "scenes.zarr").check()
    assert flaky["refused"] > 10


def test_a_server_that_is_not_there(hpal: Callable[..., Done], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    monkeypatch.setenv("HPAL_REMOTE_PATIENCE", "2")
    (line,) = lines(hpal("score", "s3://b/p.zarr"))
    assert "check the address and the network" in line


def test_a_network_is_trained_to_an_object(s3: RemotePath, scenes: Path, tmp_path: Path) -> None:
    """Its state and its metrics lie there too, so a run that was cut can be resumed on any computer."""
    settings = replace(PRESETS["small"], voxel=0.3, steps=4, batch=1, max_voxels=500, period=4)
    whole = train(SceneStore(scenes), None, settings, run=tmp_path / "m.pt")
    run, learn = s3 / "m.pt", _Run._step

    def cut(self: _Run, ready: DeviceBatch, rate: float) -> object:
        if self.step == 3:
            raise HpalError("step 4", "is not reached", "resume")
        return learn(self, ready, rate)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_Run, "_step", cut)
        with pytest.raises(HpalError, match="is not reached"):
            train(SceneStore(scenes), None, settings, run=run, save_every=2)
    state = s3 / "m.pt.unfinished"
    assert state.exists()
    assert not run.exists()
    with pytest.raises(HpalError, match="--resume"):
        train(SceneStore(scenes), None, settings, run=run)
    resumed = train(SceneStore(scenes), None, settings, run=run, resume=True)
    assert all(torch.equal(value, resumed.student[name]) for name, value in whole.student.items())
    assert run.read_bytes() == (tmp_path / "m.pt").read_bytes()
    assert (s3 / "m.pt.metrics.jsonl").read_text() == (tmp_path / "m.pt.metrics.jsonl").read_text()
    assert not state.exists()
    state.unlink(missing_ok=True)
    with pytest.raises(FileNotFoundError):
        state.unlink()
    with pytest.raises(HpalError, match="cannot be written"):
        train(SceneStore(scenes), None, settings, run=located("https://example.org/m.pt"))


def test_an_unfinished_prep_is_not_gone_on_with(s3: RemotePath, office: Path, hpal: Callable[..., Done]) -> None:
    done = hpal("prep", office, "-o", s3 / "x.zarr", "--resume")
    assert (done.rc, done.err.count("\n")) == (2, 1)
    assert "--resume" in done.err


DIES = """
import os, signal, sys
import numpy as np
from hpal_cli.store import envelope
from hpal_cli.store.remote import located

path = located(sys.argv[1])
with envelope.create(path, "predictions", {}, overwrite=False) as (root, folder):
    envelope.write_array(root.require_group("scenes/a"), "xyz", np.zeros((9, 3), np.float32))
    envelope.scene_written(path, folder, "a")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_writers_store_is_refused_and_replaced(
    s3: RemotePath, tmp_path: Path, hpal: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = s3 / "p.zarr"
    program = [sys.executable, "-c", DIES, str(path)]
    assert subprocess.run(program, env={**os.environ, "TMPDIR": str(tmp_path)}).returncode == -signal.SIGKILL
    (line,) = lines(hpal("score", path))
    assert "is not complete" in line
    made = rooms(2)
    store = synthetic_scenes(tmp_path / "scenes.zarr", made)
    with pytest.raises(HpalError, match="is being written by another process, which gave a sign of life"):
        certain(store, path, 1)
    require_absent(path, overwrite=False, folder=True)
    monkeypatch.setattr(objects, "STALE", 0.0)
    certain(store, path, 1)
    with pytest.raises(HpalError, match="exists already"):
        require_absent(path, overwrite=False, folder=True)
    certain(store, tmp_path / "p.zarr", 1)
    require_same_bytes(tmp_path / "p.zarr", path)


def test_folders_of_killed_commands_are_removed(memory: RemotePath, monkeypatch: pytest.MonkeyPatch) -> None:
    out = memory / "x.zarr"
    dead, other = (memory / f".{name}.0123abcd.tasks" for name in ("x.zarr", "x.zarr.x.zarr"))
    for folder in (dead, other):
        objects.put(folder / "alive", b"")
        objects.put(folder / "1.done", b"")
    with objects.kept_alive(out, "tasks") as made:
        put_file(made / "2.done", b"x")
        # Perhaps it still works: its last sign of life is not old.
        assert dead.exists()
        monkeypatch.setattr(objects, "STALE", 0.0)
        with objects.kept_alive(memory / "y.zarr", "tasks"):
            assert made.exists()
    assert not made.exists()
    with pytest.raises(FileNotFoundError):
        put_file(made / "late.done", b"x")
    assert not made.exists()
    with objects.kept_alive(out, "tasks"):
        assert not dead.exists()
    assert [path.name for path in memory.iterdir()] == [other.name]


def test_a_writer_of_tasks_gives_signs_of_life(memory: RemotePath, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "RENEWED", 0.02)
    with objects.kept_alive(memory / "x.zarr", "tasks") as made:
        key = (made / "alive").key
        first, until = memory.objects.head(key)["last_modified"], time.monotonic() + 5
        while memory.objects.head(key)["last_modified"] == first:
            assert time.monotonic() < until
            time.sleep(0.01)


def test_without_the_extra(memory: RemotePath, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("obstore", "obstore.exceptions"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(HpalError, match=r"needs obstore, which is not installed; pip install 'hpal\[remote\]'"):
        memory.exists()


def test_wrong_credentials_are_named(
    s3: RemotePath, hpal: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(variable)
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.delenv("HPAL_REMOTE_PATIENCE")
    began = time.monotonic()
    (line,) = lines(hpal("score", s3 / "p.zarr"))
    assert re.search(r"score: s3://\w+: needs credentials, and none are set; set AWS_ACCESS_KEY_ID, AWS_SECRET_", line)
    assert time.monotonic() - began < 20


def test_a_path_in_memory_stays_in_its_process() -> None:
    with pytest.raises(HpalError, match="is in the memory of one process"):
        pickle.dumps(address("memory://b/x"))
    assert pickle.loads(pickle.dumps(address("s3://b/x"))) == address("s3://b/x")


def test_threads_that_are_first_to_need_obstore_wait_until_all_of_it_is_there(tmp_path: Path) -> None:
    """While one thread imports the package, its module of errors can be there before its functions."""
    package = tmp_path / "obstore"
    package.mkdir()
    (package / "__init__.py").write_text("from . import exceptions\nimport time\ntime.sleep(1)\nput = None\n")
    errors = "BaseError", "PermissionDeniedError", "UnauthenticatedError"
    (package / "exceptions.py").write_text("".join(f"class {name}(Exception): ...\n" for name in errors))
    program = """
import sys, threading
from hpal_cli.store.remote import located, reached

def use():
    with reached(located("memory://bucket/name")):
        whole.append(hasattr(sys.modules["obstore"], "put"))

whole, threads = [], [threading.Thread(target=use) for _ in range(2)]
threads[0].start()
while "obstore.exceptions" not in sys.modules:
    pass
threads[1].start()
for thread in threads:
    thread.join()
assert whole == [True, True], whole
"""
    place = os.pathsep.join([str(tmp_path), str(Path(__file__).parents[1])])
    done = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": place}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
