"""The three stores: what goes in comes out, whole or not at all, and the selection side never sees a ground truth."""

from __future__ import annotations

import errno
import fcntl
import json
import multiprocessing
import os
import re
import shutil
import signal
from collections import defaultdict
from collections.abc import Callable
from multiprocessing.synchronize import Barrier
from pathlib import Path

import numpy as np
import pytest
import zarr
from conftest import GRID, VAL, Done, fake_predictions, tree

from hpal_cli import readers
from hpal_cli.classes import ClassTable
from hpal_cli.errors import HpalError
from hpal_cli.history import Entry
from hpal_cli.info import describe
from hpal_cli.labels.store import ANSWER, LabelStore, by_scene
from hpal_cli.predictions.store import PredictionStore, write_scene
from hpal_cli.scenes.grid import subsample
from hpal_cli.scenes.prepare import prepare
from hpal_cli.scenes.store import Points, SceneStore
from hpal_cli.store import envelope

BY = Entry("test", "0", ())


# ---------------------------------------------------------------- grid subsampling


def plain_grid(xyz: np.ndarray, rgb: np.ndarray, label: np.ndarray, edge: float) -> list[tuple]:
    """method.md, "Rounds", step 1, by a dict: (members, barycentre, mean colour, majority label) by cell order."""
    cells: dict[tuple, list[int]] = defaultdict(list)
    for n, point in enumerate(xyz):
        cells[tuple(int(np.floor(c / edge)) for c in point)].append(n)
    result = []
    for key in sorted(cells):
        members = cells[key]
        votes: dict[int, int] = defaultdict(int)
        for n in members:
            if label[n] >= 0:
                votes[int(label[n])] += 1
        most = min((c for c in votes if votes[c] == max(votes.values())), default=-1)
        centre = [sum(float(xyz[n][axis]) for n in members) / len(members) for axis in range(3)]
        color = [sum(int(rgb[n][band]) for n in members) / len(members) for band in range(3)]
        result.append((members, centre, color, most))
    return result


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("edge", [0.25, 0.5, 3.0])
def test_subsample_is_the_plain_reading(seed: int, edge: float) -> None:
    rng = np.random.default_rng(seed)
    xyz = rng.integers(-16, 16, (200, 3)) / 16  # many points on borders, some double
    rgb = rng.integers(0, 256, (200, 3)).astype(np.uint8)
    label = rng.integers(-1, 3, 200).astype(np.int32)
    if seed == 3:
        label[:] = -1
    found = subsample(xyz, rgb, label, {"height": xyz[:, 2]}, edge)
    plain = plain_grid(xyz, rgb, label, edge)
    assert len(found.xyz) == len(plain)
    for n, (members, centre, color, most) in enumerate(plain):
        assert np.flatnonzero(found.inverse == n).tolist() == members
        np.testing.assert_allclose(found.xyz[n], centre, atol=1e-12)
        assert (np.abs(found.rgb[n] - np.array(color)) <= 0.5 + 1e-9).all()
        assert found.label[n] == most
        assert found.attributes["height"][n] == pytest.approx(centre[2], abs=1e-6)


def test_ties_go_to_the_smallest_label_and_the_unlabelled_do_not_vote() -> None:
    xyz = np.zeros((7, 3))
    for labels, most in (
        ([5, 5, 2, 2, -1, -1, -1], 2),
        ([2, 2, 5, 5, -1, 0, 0], 0),
        ([9, 9, 1, -1, -1, -1, -1], 9),
        ([-1] * 7, -1),
    ):
        assert subsample(xyz, None, np.array(labels, np.int32), {}, 1.0).label.tolist() == [most]


def test_every_original_point_keeps_its_grid_point(office: Path, scenes: Path) -> None:
    """In the store: the raw points come back in order, and each lies in the cell of the grid point it names."""
    store = SceneStore(scenes)
    reader, sources = readers.find(office)
    raw = {s.name: readers.read(reader, s) for s in sources}
    assert sorted(raw) == [s.name for s in store.table]
    for scene in store.table:
        points = store.points(scene, label=True)
        original, inverse = store.original(scene, label=True)
        cloud = raw[scene.name]
        assert len(inverse) == scene.original == len(cloud.xyz)
        np.testing.assert_allclose(original.position, cloud.xyz, atol=2e-5)
        np.testing.assert_array_equal(original.rgb, cloud.rgb)
        np.testing.assert_array_equal(original.label, cloud.label)
        assert set(inverse.tolist()) == set(range(scene.points)), "a grid point that stands for nothing"
        relative = cloud.xyz - points.offset
        members, centres, _, labels = zip(*plain_grid(relative, cloud.rgb, cloud.label, GRID), strict=True)
        np.testing.assert_allclose(points.xyz, centres, atol=1e-5)
        np.testing.assert_array_equal(points.label, labels)
        for n, mine in enumerate(members):
            assert (inverse[mine] == n).all()


def test_scenes_keep_far_coordinates(tmp_path: Path) -> None:
    """Georeferenced: xyz is float32 relative to a float64 offset, and positions are right to 0.01 mm."""
    rng = np.random.default_rng(0)
    xyz = rng.uniform(0, 30, (500, 3)) + np.array([691_234.5, 5_334_567.25, 519.125])
    (tmp_path / "scans").mkdir()
    np.savez(tmp_path / "scans" / "tile.npz", xyz=xyz, label=rng.integers(0, 3, 500))
    prepare(tmp_path / "scans", tmp_path / "s.zarr", grid=None)
    store = SceneStore(tmp_path / "s.zarr")
    points = store.points(store.table[0])
    assert points.xyz.dtype == np.float32
    assert points.offset.dtype == np.float64
    np.testing.assert_allclose(points.position, xyz, rtol=0, atol=1e-5)
    np.testing.assert_allclose(store.original(store.table[0])[0].position, xyz, rtol=0, atol=1e-5)


def test_splits_and_tables(scenes: Path) -> None:
    store = SceneStore(scenes)
    assert [s.number for s in store.table] == [0, 1, 2]
    assert [s.name for s in store.table] == sorted(s.name for s in store.table)
    assert {s.name.split("/")[0]: s.split for s in store.table} == {"Area_1": "train", "Area_2": "val"}
    assert len(store.classes) == 13
    assert store.grid == GRID


# ---------------------------------------------------------------- the same bytes


def test_the_same_store_from_any_folder_order_and_jobs(office: Path, scenes: Path, tmp_path: Path) -> None:
    """Folders made in another order are listed in another order by the disk; processes finish in any order."""
    copy = tmp_path / "office"
    for path in sorted((p for p in office.rglob("*.txt")), reverse=True):
        target = copy / path.relative_to(office)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    table = prepare(copy, tmp_path / "s.zarr", val=[VAL], grid=GRID, jobs=2)
    assert table.id == SceneStore(scenes).table.id
    assert tree(tmp_path / "s.zarr") == tree(scenes)


def test_ids_tell_scenes_apart(scenes: Path, other_scenes: Path) -> None:
    assert SceneStore(scenes).table.id != SceneStore(other_scenes).table.id


# ---------------------------------------------------------------- predictions


@pytest.mark.parametrize("features", [None, 96])
def test_predictions_round_trip(scenes: Path, tmp_path: Path, features: int | None) -> None:
    store = SceneStore(scenes)
    scene = store.table[1]
    points = store.points(scene)
    rng = np.random.default_rng(0)
    prob = rng.dirichlet(np.ones(13), scene.points)
    feat = None if features is None else rng.normal(0, 50, (scene.points, features))
    if feat is not None:
        feat[0, 0] = 1e6  # beyond float16: must stay a number
    attributes = {"classes": store.classes.to_json(), "unit": 1.0, "scenes": store.table.to_json(), "history": []}
    with envelope.create(tmp_path / "p.zarr", "predictions", attributes, overwrite=False) as (root, _):
        write_scene(root, scene, points, prob, feat, np.array([3, 8]))
    back = PredictionStore(tmp_path / "p.zarr")
    assert [s.name for s in back.choose("all")] == [scene.name], "only this scene was predicted"
    np.testing.assert_array_equal(back.probabilities(scene), prob.astype(np.float16))
    assert back.predicted(scene).tolist() == prob.argmax(1).tolist()
    assert back.labelled(scene).tolist() == [3, 8]
    np.testing.assert_array_equal(back.points(scene).position, points.position)
    np.testing.assert_array_equal(back.points(scene).rgb, points.rgb)
    if feat is None:
        with pytest.raises(HpalError, match="no features"):
            back.features(scene)
    else:
        every = np.arange(scene.points)
        assert back.features(scene)(every).dtype == np.float16
        np.testing.assert_array_equal(back.features(scene)(every), np.clip(feat, -65504, 65504).astype(np.float16))
    with pytest.raises(HpalError, match="was not predicted"):
        back.points(store.table[0])


@pytest.fixture(scope="module")
def trained(scenes: Path, tmp_path_factory: pytest.TempPathFactory, hpal: Callable[..., Done]) -> Path:
    """A folder in which the commands themselves made labels.zarr, model.pt and preds.zarr from scenes.zarr."""
    folder = tmp_path_factory.mktemp("loop")
    shutil.copytree(scenes, folder / "scenes.zarr")
    scored = hpal("score", "scenes.zarr", "--strategy", "random", "-q", cwd=folder)
    chosen = hpal("select", "--budget", "40", "-q", stdin=scored.out, cwd=folder)
    for args, stdin in (
        (("label", "--oracle", "scenes.zarr", "-o", "labels.zarr"), chosen.out),
        (("train", "scenes.zarr", "--labels", "labels.zarr", "-o", "model.pt", "--steps", "1", "--batch", "1"), None),
        (("predict", "model.pt", "scenes.zarr", "-o", "preds.zarr"), None),
    ):
        done = hpal(*args, stdin=stdin, cwd=folder)
        assert done.rc == 0, done.err
    return folder


def columns_of(group: zarr.Group) -> list[tuple[str, np.ndarray]]:
    found = []
    for name, node in group.members(max_depth=None):
        if isinstance(node, zarr.Array):
            values = np.asarray(node[...])
            columns = values.reshape(len(values), int(np.prod(values.shape[1:])))
            found += [(name, column) for column in columns.T]
    return found


def test_predictions_hold_no_ground_truth(trained: Path) -> None:
    """Nothing in the store of the real `hpal predict` is the labels, under whatever name: no array, no column of one,
    no attribute; and the labels that the oracle revealed are not in it either."""
    truth = SceneStore(trained / "scenes.zarr")
    root = zarr.open_group(str(trained / "preds.zarr"), mode="r")
    columns = columns_of(root)
    assert {name.split("/")[-1] for name, _ in columns} == {"xyz", "rgb", "prob", "feat", "pred", "labelled"}
    assert "label" not in "".join(path for path in tree(trained / "preds.zarr")).replace("labelled", "")
    compared = 0
    for scene in truth.table:
        grid, (original, _) = truth.labels(scene), truth.original(scene, label=True)
        for label in (grid, original.label):
            for name, column in columns:
                if len(column) == len(label):
                    compared += 1
                    # Even shifted, as an index from 1 would be.
                    agree = max(np.mean(column.astype(float) - shift == label) for shift in (-1, 0, 1))
                    assert agree < 0.9, f"{name} of {scene.name}"
    assert compared > 100
    answers = LabelStore(trained / "labels.zarr").latest()
    for scene in truth.table:
        mine = answers[answers["scene"] == scene.number]
        stored = PredictionStore(trained / "preds.zarr").labelled(scene)
        assert stored.tolist() == mine["index"].tolist(), "which points were answered is known, what they are is not"
    text = json.dumps({name: dict(node.attrs) for name, node in root.members(max_depth=None)})
    assert len(text) < 2000, "attributes as large as data"


def test_the_selection_side_needs_no_scenes(trained: Path, hpal: Callable[..., Done], tmp_path: Path) -> None:
    """`score` and `select` do their work where the predictions are all there is."""
    shutil.copytree(trained / "preds.zarr", tmp_path / "preds.zarr")
    assert [p.name for p in tmp_path.iterdir()] == ["preds.zarr"]
    for strategy in ("hmmu", "entropy"):
        scored = hpal("score", "preds.zarr", "--strategy", strategy, cwd=tmp_path)
        assert scored.rc == 0, scored.err
        chosen = hpal("select", "--budget", "5", "--fds-r", "0.2", stdin=scored.out, cwd=tmp_path)
        assert chosen.rc == 0, chosen.err
        assert b"element vertex 5\n" in chosen.out


def test_unsure_points_are_known_to_the_predictions(trained: Path, hpal: Callable[..., Done], tmp_path: Path) -> None:
    """Unsure is an answer too: never trained on, and never asked again."""
    for name in ("scenes.zarr", "labels.zarr"):
        shutil.copytree(trained / name, tmp_path / name)
    store = LabelStore(tmp_path / "labels.zarr")
    free = next(n for n in range(50) if n not in store.latest()[store.latest()["scene"] == 0]["index"])
    store.append(answers(0, [free], [-1]), "person", BY)
    train = ("train", "scenes.zarr", "--labels", "labels.zarr", "-o", "m.pt", "--steps", "1", "--batch", "1")
    assert hpal(*train, cwd=tmp_path).rc == 0
    assert hpal("predict", "m.pt", "scenes.zarr", "-o", "p.zarr", cwd=tmp_path).rc == 0
    predictions = PredictionStore(tmp_path / "p.zarr")
    assert free in predictions.labelled(predictions.table[0])


# ---------------------------------------------------------------- whole or not there


class Crash(Exception):
    pass


def crash_while_writing(path: Path, *, overwrite: bool) -> None:
    there = path.exists()
    with envelope.create(path, "scenes", {}, overwrite=overwrite) as (root, _):
        envelope.write_array(root, "xyz", np.zeros((5, 3)))
        assert path.exists() == there, "a reader could see it half-written"
        raise Crash


def test_a_writer_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(Crash):
        crash_while_writing(tmp_path / "s.zarr", overwrite=False)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_overwrite_leaves_the_old_one(scenes: Path, tmp_path: Path) -> None:
    shutil.copytree(scenes, tmp_path / "s.zarr")
    with pytest.raises(Crash):
        crash_while_writing(tmp_path / "s.zarr", overwrite=True)
    assert tree(tmp_path / "s.zarr") == tree(scenes)
    assert [p.name for p in tmp_path.iterdir()] == ["s.zarr"]


def test_overwrite(scenes: Path, office: Path, tmp_path: Path) -> None:
    shutil.copytree(scenes, tmp_path / "s.zarr")
    with pytest.raises(HpalError, match=r"s\.zarr: exists already; give --overwrite"):
        prepare(office, tmp_path / "s.zarr", grid=0.3)
    assert tree(tmp_path / "s.zarr") == tree(scenes)
    table = prepare(office, tmp_path / "s.zarr", grid=0.3, overwrite=True)
    assert SceneStore(tmp_path / "s.zarr").table.id == table.id != SceneStore(scenes).table.id
    assert [p.name for p in tmp_path.iterdir()] == ["s.zarr"]


def test_overwrite_does_not_delete_what_is_no_store(office: Path, tmp_path: Path) -> None:
    """`hpal prep scans -o scans --overwrite` must not take the scans: only a store is replaced by a store."""
    shutil.copytree(office, tmp_path / "scans")
    before = tree(tmp_path)
    with pytest.raises(HpalError):
        prepare(tmp_path / "scans", tmp_path / "scans", grid=0.3, overwrite=True)
    assert tree(tmp_path) == before


def test_a_store_that_appeared_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    """Two writers of one new name: the second to finish must not delete what the first one made."""
    path = tmp_path / "s.zarr"
    slow = envelope.create(path, "scenes", {"by": "slow"}, overwrite=False)
    slow.__enter__()
    with envelope.create(path, "scenes", {"by": "fast"}, overwrite=False):
        pass
    with pytest.raises(HpalError, match="exists already"):
        slow.__exit__(None, None, None)
    assert (envelope.attributes_of(path) or {})["by"] == "fast"
    assert [p.name for p in tmp_path.iterdir()] == ["s.zarr"]


def refused(path: Path, *open_with: Callable[[Path], object], match: str) -> None:
    for opener in open_with or (SceneStore, PredictionStore, LabelStore):
        with pytest.raises(HpalError, match=match) as caught:
            opener(path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


def edit_root(path: Path, **change: object) -> Path:
    metadata = json.loads((path / "zarr.json").read_text())
    metadata["attributes"]["hpal"].update(change)
    for key in [k for k, v in change.items() if v is None]:
        del metadata["attributes"]["hpal"][key]
    (path / "zarr.json").write_text(json.dumps(metadata))
    return path


def test_stores_that_are_refused(scenes: Path, predictions: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(scenes, tmp_path / "copy.zarr"))
    refused(tmp_path / "absent.zarr", match="does not exist")
    refused(scenes, PredictionStore, LabelStore, match="is a scenes store, expected")
    refused(predictions, SceneStore, LabelStore, match="is a predictions store, expected")
    refused(edit_root(copy, complete=False), SceneStore, match="not complete")
    refused(edit_root(copy, complete=None), SceneStore, match="not complete")
    refused(edit_root(copy, complete=True, spec=2), SceneStore, match="specification 2.*newer hpal")
    for spec in ("1", True, 0, -1, None, 1.0):
        refused(edit_root(copy, spec=spec), SceneStore, match="specification is .*, which is no version; make it again")
    refused(edit_root(copy, spec=1, classes=None), SceneStore, match="damaged")
    refused(edit_root(copy, classes=[], scenes="?"), SceneStore, match="class")
    (copy / "zarr.json").write_text("{")
    refused(copy, match="not an hpal store")
    (tmp_path / "folder").mkdir()
    refused(tmp_path / "folder", match="not an hpal store")
    (tmp_path / "file").write_text("x")
    refused(tmp_path / "file", match="not an hpal store")
    zarr.open_group(str(tmp_path / "other.zarr"), mode="w")
    refused(tmp_path / "other.zarr", match="not an hpal store")


def chunk_of(store: Path, array: str) -> Path:
    found = [p for p in (store / array / "c").rglob("*") if p.is_file()]
    assert len(found) == 1, found
    return found[0]


@pytest.mark.parametrize("damage", ["cut", "garbage", "gone", "metadata", "array gone"])
@pytest.mark.parametrize("array", ["xyz", "prob", "feat", "pred"])
def test_damage_is_noticed(predictions: Path, tmp_path: Path, damage: str, array: str) -> None:
    """Zarr reads a chunk that is not there as zeros: that must not pass for data."""
    copy = Path(shutil.copytree(predictions, tmp_path / "p.zarr"))
    name = f"scenes/{PredictionStore(copy).table[0].name}/{array}"
    chunk = chunk_of(copy, name)
    if damage == "cut":
        chunk.write_bytes(chunk.read_bytes()[:-20])
    elif damage == "garbage":
        chunk.write_bytes(bytes(range(256)))
    elif damage == "gone":
        chunk.unlink()
    elif damage == "metadata":
        (copy / name / "zarr.json").write_text("{")
    else:
        shutil.rmtree(copy / name)
    read = {
        "xyz": PredictionStore.points,
        "prob": PredictionStore.probabilities,
        "feat": lambda store, scene: store.features(scene)(np.arange(scene.points)),
        "pred": PredictionStore.predicted,
    }[array]
    store = PredictionStore(copy)
    with pytest.raises(HpalError) as caught:
        read(store, store.table[0])
    assert str(copy) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_damage_through_the_commands(predictions: Path, hpal: Callable[..., Done], tmp_path: Path) -> None:
    copy = Path(shutil.copytree(predictions, tmp_path / "p.zarr"))
    chunk = chunk_of(copy, f"scenes/{PredictionStore(copy).table[1].name}/prob")
    chunk.write_bytes(chunk.read_bytes()[:50])
    for args in (("score", "p.zarr", "-q", "-o", "s.ply"), ("info", "p.zarr", "--check")):
        done = hpal(*args, cwd=tmp_path)
        assert done.rc == 1, done
        assert len(done.err.splitlines()) == 1, done.err
        assert "p.zarr" in done.err
        assert b"consistent" not in done.out
    assert [p.name for p in tmp_path.iterdir()] == ["p.zarr"]


def test_info_checks(scenes: Path, predictions: Path, tmp_path: Path) -> None:
    """`--check` passes what is whole, and finds one moved point."""
    name = SceneStore(scenes).table[2].name
    for number, store in enumerate((scenes, predictions)):
        describe(store, check=True)
        copy = Path(shutil.copytree(store, tmp_path / f"{number}.zarr"))
        array = zarr.open_group(str(copy), mode="a")[f"scenes/{name}/xyz"]
        assert isinstance(array, zarr.Array)
        array[7, 0] = 99.0
        describe(copy)
        with pytest.raises(HpalError, match=name):
            describe(copy, check=True)


# ---------------------------------------------------------------- what killed writers leave


def _killed(path: Path) -> None:
    with envelope.create(path, "predictions", {}, overwrite=True) as (root, _):
        envelope.write_array(root, "a", np.zeros(9))
        os.kill(os.getpid(), signal.SIGKILL)


def kill_a_writer_of(path: Path) -> None:
    process = multiprocessing.get_context("fork").Process(target=_killed, args=(path,))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_next_writer_removes_it(tmp_path: Path) -> None:
    for name in ("p.zarr", "p.zarr", "p.zarr.old", "other.zarr"):
        kill_a_writer_of(tmp_path / name)
    assert len(names(tmp_path)) == 3 * 2, "the second writer of p.zarr took what the first left"
    # Without a lock there is no knowing that nobody writes it: another program may, or a prep that can be gone on with.
    for name in (".p.zarr.0123abcd.partial", ".p.zarr.partial"):
        (tmp_path / name).mkdir()
    before = names(tmp_path)
    with envelope.create(tmp_path / "p.zarr", "predictions", {}, overwrite=False):
        pass
    gone = set(before) - set(names(tmp_path))
    assert len(gone) == 2
    assert all(re.fullmatch(r"\.p\.zarr\.[0-9a-f]{8}\.partial(\.lock)?", name) for name in gone)


def test_what_is_being_written_is_not_removed(tmp_path: Path) -> None:
    with envelope.create(tmp_path / "p.zarr", "predictions", {"by": "slow"}, overwrite=True):
        with envelope.create(tmp_path / "p.zarr", "predictions", {"by": "quick"}, overwrite=True):
            assert len(names(tmp_path)) == 2 * 2
        assert envelope.open_store(tmp_path / "p.zarr", "predictions")[1]["by"] == "quick"
    assert envelope.open_store(tmp_path / "p.zarr", "predictions")[1]["by"] == "slow"
    assert names(tmp_path) == ["p.zarr"]


def test_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without locks nobody can tell what is still being written, so all unfinished files stay."""
    kill_a_writer_of(tmp_path / "p.zarr")
    before = names(tmp_path)

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOTSUP, "not here")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with envelope.create(tmp_path / "p.zarr", "predictions", {}, overwrite=False):
        (mine,) = set(names(tmp_path)) - set(before)
        assert mine.endswith(".partial")
    assert set(names(tmp_path)) == {*before, "p.zarr"}


@pytest.mark.parametrize("done", [False, True])
def test_a_sweep_between_making_the_lock_and_taking_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, done: bool
) -> None:
    """The writer takes another name, since the sweep removes the file of the first one, or has removed it."""
    flock, swept = fcntl.flock, []

    def late(held: int, how: int) -> None:
        if not swept:
            (lock,) = tmp_path.glob(".*.lock")
            swept.append(lock.with_suffix("").name)
            other = os.open(lock, os.O_RDWR)
            flock(other, how)
            if done:
                lock.unlink()
                os.close(other)
        flock(held, how)

    monkeypatch.setattr(fcntl, "flock", late)
    with envelope.create(tmp_path / "p.zarr", "predictions", {}, overwrite=False) as (_, partial):
        assert partial.name != swept[0]
        assert f"{partial.name}.lock" in names(tmp_path)


# ---------------------------------------------------------------- labels


def answers(scene: int, index: list[int], label: list[int]) -> np.ndarray:
    rows = np.zeros(len(index), ANSWER)
    rows["scene"], rows["index"], rows["label"] = scene, index, label
    rows["x"], rows["y"], rows["z"] = 1.5, -2.25, 900_000.125
    return rows


@pytest.fixture
def labels(scenes: Path, tmp_path: Path) -> LabelStore:
    store = SceneStore(scenes)
    return LabelStore.create(tmp_path / "l.zarr", store.classes, store.table)


def as_tuples(rows: np.ndarray) -> list[tuple[int, int, int, int]]:
    return [(int(r["scene"]), int(r["index"]), int(r["label"]), int(r["round"])) for r in rows]


def test_labels_grow(labels: LabelStore) -> None:
    assert len(labels.latest()) == 0
    labels.append(answers(1, [5, 3], [2, 0]), "oracle x", BY)
    first = tree(labels.path)
    labels.append(answers(0, [7, 8], [1, -1]), "person", Entry("hpal label", "1", ("--from", "q.csv"), None))
    labels.append(answers(1, [5], [4]), "person", BY)
    # Append only: not a byte of what was there is touched.
    assert {name: data for name, data in tree(labels.path).items() if name in first} == first
    again = LabelStore(labels.path)
    assert as_tuples(again.latest()) == [(0, 7, 1, 1), (0, 8, -1, 1), (1, 3, 0, 0), (1, 5, 4, 2)]
    batches = again.batches()
    assert [(b.round, b.source, len(b.rows)) for b in batches] == [
        (0, "oracle x", 2),
        (1, "person", 2),
        (2, "person", 1),
    ]
    assert as_tuples(batches[0].rows) == [(1, 5, 2, 0), (1, 3, 0, 0)], "the earlier answer stays"
    assert batches[1].entry.args == ("--from", "q.csv")
    assert all(b.time > 1.6e9 for b in batches)
    np.testing.assert_array_equal(batches[0].rows["z"], 900_000.125)


def test_an_answer_can_be_taken_back(labels: LabelStore) -> None:
    labels.append(answers(0, [1, 2], [3, 3]), "a", BY)
    labels.append(answers(0, [1], [-1]), "a", BY)
    assert as_tuples(labels.latest()) == [(0, 1, -1, 1), (0, 2, 3, 0)]
    # Twice in one batch: the later row is the later answer.
    labels.append(answers(0, [9, 9], [1, 5]), "a", BY)
    assert as_tuples(labels.latest())[-1] == (0, 9, 5, 2)


def test_eleven_rounds_stay_in_order(labels: LabelStore) -> None:
    for n in range(12):
        labels.append(answers(0, [4], [n]), f"round {n}", BY)
    assert as_tuples(labels.latest()) == [(0, 4, 11, 11)]
    assert [b.round for b in LabelStore(labels.path).batches()] == list(range(12))


@pytest.mark.parametrize(
    ("scene", "index", "label", "message"),
    [
        (3, 0, 0, "no scene 3"),
        (-1, 0, 0, "no scene -1"),
        (0, -1, 0, "no point -1"),
        (0, 10**6, 0, "no point 1000000"),
        (0, 0, 13, "class number 13 is not in the table of 13"),
        (0, 0, -2, "class number -2"),
    ],
)
def test_answers_that_are_refused(labels: LabelStore, scene: int, index: int, label: int, message: str) -> None:
    before = tree(labels.path)
    rows = np.concatenate([answers(0, [1], [1]), answers(scene, [index], [label])])
    with pytest.raises(HpalError, match=message):
        labels.append(rows, "x", BY)
    assert tree(labels.path) == before, "nothing at all is added"


def _append_at(folder: str, scenes: str, who: int, turns: int, barrier: Barrier) -> None:
    store = SceneStore(Path(scenes))
    try:
        for n in range(turns):
            path = Path(folder) / ("shared.zarr" if (Path(folder) / "shared.zarr").exists() else f"new{n}.zarr")
            barrier.wait(30)
            mine = LabelStore.at(path, store.classes, store.table, unit=1.0, subject="test")
            mine.append(answers(who, [n], [who + 1]), f"process {who}", BY)
    except BaseException:
        barrier.abort()
        raise


def append_together(folder: Path, scenes: Path, turns: int) -> list[int | None]:
    """Two processes that add an answer each, at the same moment, `turns` times; their exit codes."""
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(2)
    workers = [
        context.Process(target=_append_at, args=(str(folder), str(scenes), who, turns, barrier)) for who in range(2)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert not list(folder.rglob(".*")), "leftovers"
    return [worker.exitcode for worker in workers]


def test_two_who_append_at_once_lose_nothing(scenes: Path, tmp_path: Path) -> None:
    store = SceneStore(scenes)
    LabelStore.create(tmp_path / "shared.zarr", store.classes, store.table)
    assert append_together(tmp_path, scenes, 8) == [0, 0]
    found = LabelStore(tmp_path / "shared.zarr")
    assert [row[:3] for row in as_tuples(found.latest())] == [(who, n, who + 1) for who in range(2) for n in range(8)]


def test_two_who_begin_a_store_at_once_lose_nothing(scenes: Path, tmp_path: Path) -> None:
    """`xargs -P` over a first round: both find no store, and both answers must be in the one that comes of it."""
    assert append_together(tmp_path, scenes, 8) == [0, 0]
    for n in range(8):
        found = LabelStore(tmp_path / f"new{n}.zarr")
        assert [row[:3] for row in as_tuples(found.latest())] == [(0, n, 1), (1, n, 2)], f"turn {n}"


def test_other_classes_are_refused(labels: LabelStore, scenes: Path) -> None:
    with pytest.raises(HpalError, match="other classes"):
        LabelStore.at(labels.path, ClassTable.from_names(["a"]), SceneStore(scenes).table, unit=1.0, subject="x")


def test_labels_of_other_scenes_are_refused(
    scenes: Path, other_scenes: Path, predictions: Path, hpal: Callable[..., Done], tmp_path: Path
) -> None:
    """By train, label and eval; the same names and classes do not help: the row numbers mean other points."""
    store = SceneStore(other_scenes)
    LabelStore.create(tmp_path / "l.zarr", store.classes, store.table).append(answers(0, [1], [1]), "x", BY)
    before = tree(tmp_path)
    scored = hpal("score", scenes, "--strategy", "random").out
    chosen = hpal("select", "--budget", "3", stdin=scored).out
    for args, stdin in (
        (("train", scenes, "--labels", "l.zarr", "-o", "m.pt", "--steps", "1"), None),
        (("label", "--oracle", scenes, "-o", "l.zarr"), chosen),
        (("label", "--oracle", other_scenes, "-o", "l.zarr"), chosen),
        (("eval", predictions, "--truth", scenes, "--labels", "l.zarr"), None),
    ):
        done = hpal(*args, stdin=stdin, cwd=tmp_path)
        assert done.rc == 1, done
        assert "other scenes" in done.err.splitlines()[-1]
        assert "Traceback" not in done.err
    assert tree(tmp_path) == before


def test_the_oracle_reveals_only_what_was_asked(scenes: Path, hpal: Callable[..., Done], tmp_path: Path) -> None:
    scored = hpal("score", scenes, "--strategy", "random").out
    chosen = hpal("select", "--budget", "25", "--no-fds", stdin=scored).out
    assert hpal("label", "--oracle", scenes, "-o", "l.zarr", stdin=chosen, cwd=tmp_path).rc == 0
    store, labels = SceneStore(scenes), LabelStore(tmp_path / "l.zarr")
    rows = labels.latest()
    assert len(rows) == 25
    for row in rows:
        scene = store.table[int(row["scene"])]
        assert row["label"] == store.labels(scene)[row["index"]]
        np.testing.assert_allclose([row[a] for a in "xyz"], store.points(scene).position[row["index"]])
    stored = columns_of(zarr.open_group(str(tmp_path / "l.zarr"), mode="r"))
    assert {len(column) for _, column in stored} == {25}


def test_points_object_has_no_label_unless_asked(scenes: Path) -> None:
    store = SceneStore(scenes)
    assert store.points(store.table[0]).label is None
    assert isinstance(store.points(store.table[0], label=True), Points)
    assert store.points(store.table[0], label=True).label is not None


def test_fake_predictions_are_whole(scenes: Path, tmp_path: Path, hpal: Callable[..., Done]) -> None:
    """A foreign network's output, without features: it scores, and FDS says what is missing."""
    fake_predictions(scenes, tmp_path / "p.zarr", features=None)
    scored = hpal("score", "p.zarr", cwd=tmp_path)
    assert scored.rc == 0
    done = hpal("select", "--budget", "3", "--fds-r", "0.2", stdin=scored.out, cwd=tmp_path)
    assert (done.rc, done.out) == (1, b"")
    assert "--no-fds" in done.err
    done = hpal("select", "--budget", "3", "--no-fds", stdin=scored.out, cwd=tmp_path)
    assert done.rc == 0, done.err


def test_rows_by_scene_are_those_of_each_scene_in_their_order() -> None:
    rows = np.zeros(200, ANSWER)
    rows["scene"], rows["index"] = np.random.default_rng(0).integers(0, 40, 200) * 3, np.arange(200)
    found = by_scene(rows)
    assert sorted(found) == np.unique(rows["scene"]).tolist()
    for number, mine in found.items():
        np.testing.assert_array_equal(mine, rows[rows["scene"] == number])
    assert by_scene(rows[:0]) == {}


@pytest.mark.parametrize("count", [0, 1, 60, envelope.CHUNK_ROWS + 1])
def test_a_group_written_without_zarr_has_the_bytes_that_zarr_writes(count: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(count)
    columns = {
        "scene": rng.integers(0, 9, count).astype("<i4"),
        "index": rng.integers(0, 1 << 40, count),
        "xyz": rng.random((count, 3)),
        "score": np.full(count, np.nan, "<f4"),
    }
    attributes = {"round": 3, "source": "Ä", "time": 1.5, "history": [{"seed": None}]}
    envelope.write_group(tmp_path / "here", attributes, columns)
    group = zarr.open_group(str(tmp_path / "zarr"), mode="w-", zarr_format=3)
    envelope.write_attributes(group, attributes)
    for name, values in columns.items():
        envelope.write_array(group, name, values)
    assert tree(tmp_path / "here") == tree(tmp_path / "zarr")
    read = zarr.open_group(str(tmp_path / "here"), mode="r")
    assert {name: read.attrs[name] for name in attributes} == attributes
    for name, values in columns.items():
        np.testing.assert_array_equal(read[name][...], values)
