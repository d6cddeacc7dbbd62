"""Scale: how far apart points lie, what that sets, and that all lengths of later commands follow."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Done, tree
from plyfile import PlyData
from synthetic_scenes import CLASSES, Noted, Room, answers, first_of_each, room, synthetic_scenes

from hpal_cli.classes import ClassTable
from hpal_cli.errors import HpalError
from hpal_cli.export.clips import write_clips
from hpal_cli.inference.predict import predict
from hpal_cli.label.queries import Query
from hpal_cli.predictions.store import PredictionStore
from hpal_cli.scenes import spacing
from hpal_cli.scenes.prepare import prepare
from hpal_cli.scenes.scale import fitting_grid
from hpal_cli.scenes.spacing import point_spacing
from hpal_cli.scenes.store import SceneStore
from hpal_cli.score.scorer import default_levels
from hpal_cli.spreading.spread import spread
from hpal_cli.store.envelope import attributes_of
from hpal_cli.superpoints.store import open_superpoints, superpoints_path
from hpal_cli.training.checkpoint import load
from hpal_cli.training.presets import PRESETS, preset_of
from hpal_cli.training.train import train

Hpal = Callable[..., Done]

TIMES = 8.0
"""A power of two: then what is divided by it again keeps every bit."""


def ground(spacing: float, count: int = 4000, seed: int = 0) -> np.ndarray:
    """(N, 3) points of a level, at random, one to each square of this edge on average."""
    rng = np.random.default_rng(seed)
    xyz = rng.random((count, 3)) * spacing * np.sqrt(count)
    xyz[:, 2] = 0
    return xyz


def scans(folder: Path, *clouds: np.ndarray) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for n, xyz in enumerate(clouds):
        np.savetxt(folder / f"{n}.xyz", xyz, fmt="%.4f")
    return folder


def said(path: Path) -> object:
    return (attributes_of(path) or {}).get("scale")


# How far apart points lie


@pytest.mark.parametrize("apart", [0.01, 0.25, 3.0])
def test_spacing_is_the_edge_of_a_points_own_square(apart: float) -> None:
    side = np.arange(64) * apart
    lattice = np.stack([*np.meshgrid(side, side), np.zeros((64, 64))], axis=-1).reshape(-1, 3)
    assert point_spacing([lattice]) == pytest.approx(apart, rel=0.12)
    assert point_spacing([ground(apart)]) == pytest.approx(apart, rel=0.06)


def test_spacing_is_of_all_blocks_together(monkeypatch: pytest.MonkeyPatch) -> None:
    xyz = ground(0.5, 3000)
    whole = point_spacing([xyz])
    assert whole is not None
    assert point_spacing(np.array_split(xyz, 7)) == whole
    # A second scan of the same place, long after the first: the points of both together lie closer.
    monkeypatch.setattr(spacing, "PIECE_POINTS", 1000)
    far, again = ground(0.5, 3000, seed=1) + np.array([5000, 0, 0]), ground(0.5, 3000, seed=2)
    assert point_spacing([xyz, far]) == pytest.approx(0.5, rel=0.06)
    assert point_spacing([xyz, far, again]) == pytest.approx(0.5 / np.sqrt(2), rel=0.06)
    # Far into a file nothing changes any more, and the rest is not read.
    monkeypatch.setattr(spacing, "MIN_POINTS_READ", 4000)
    assert point_spacing([xyz, far, again]) == pytest.approx(0.5, rel=0.06)


def test_nothing_is_said_of_few_points_and_of_one_place() -> None:
    assert point_spacing([]) is None
    assert point_spacing([ground(0.5, 99)]) is None
    assert point_spacing([np.zeros((500, 3))]) is None
    assert point_spacing([np.repeat(ground(0.5, 1000), 2, axis=0)]) == pytest.approx(0.35, rel=0.1)


def test_grids_that_fit() -> None:
    fits = {None: 0.04, 0.003: 0.04, 0.08: 0.04, 0.081: 0.1, 0.2: 0.2, 0.3: 0.2, 0.4: 0.5, 0.66: 0.5, 0.9: 1, 12: 10}
    assert {spacing: fitting_grid(spacing) for spacing in fits} == fits
    objects = {(0.0005, 0.2): 0.001, (0.002, 0.2): 0.002, (0.002, 1.4): 0.005, (0.002, 2.0): 0.04, (0.1, 1.9): 0.04}
    assert {(spacing, edge): fitting_grid(spacing, edge) for spacing, edge in objects} == objects


# prep


def test_the_spacing_decides_and_is_told(hpal: Hpal, tmp_path: Path) -> None:
    table = tmp_path / "classes.json"
    table.write_text(json.dumps([{"name": name} for name in CLASSES]))
    wide = scans(tmp_path / "wide", *(ground(0.3, seed=n) for n in range(5)))
    done = hpal("prep", wide, "-o", tmp_path / "wide.zarr", "--classes", table)
    assert done.rc == 0, done.err
    assert "points lie 30cm apart: a grid of 20cm fits" in done.err
    assert "lengths of scale 5: voxel 25cm, levels 50cm,2.5m,5m, FDS radius 1m, pictures of 5m" in done.err
    store = SceneStore(tmp_path / "wide.zarr")
    assert (store.grid, store.scale) == (0.2, 5.0)
    assert "scale            5" in hpal("info", tmp_path / "wide.zarr").out.decode()
    assert json.loads(hpal("info", tmp_path / "wide.zarr", "--json").out)["scale"] == 5
    dense = scans(tmp_path / "dense", ground(0.02, 20_000))
    done = hpal("prep", dense, "-o", tmp_path / "dense.zarr", "--classes", table)
    assert "points lie 2cm apart: the lengths of a room fit" in done.err
    assert "lengths of a room: voxel 5cm, levels 10cm,50cm,1m, FDS radius 20cm, pictures of 1m" in done.err
    assert SceneStore(tmp_path / "dense.zarr").grid == 0.04
    assert said(tmp_path / "dense.zarr") is None
    assert "scale" not in hpal("info", tmp_path / "dense.zarr").out.decode()


@pytest.mark.parametrize(
    ("options", "grid", "scale"),
    [
        ({"grid": 0.5}, 0.5, 12.5),
        ({"grid": 0.1}, 0.1, 5.0),
        ({"grid": None}, None, 5.0),
        ({"scale": 0.04}, 0.04, None),
        ({"scale": 0.1}, 0.1, 2.5),
        ({"scale": 0.5, "grid": 0.3}, 0.3, 12.5),
        ({"scale": 0.02}, 0.02, 0.5),
        ({"unit": 0.001}, 2e-4, 0.005),
        ({"unit": 2.0}, 0.5, 12.5),
    ],
)
def test_what_is_given_stays(options: dict, grid: float | None, scale: float | None, tmp_path: Path) -> None:
    classes = ClassTable.from_names(list(CLASSES))
    prepare(scans(tmp_path / "raw", ground(0.3)), tmp_path / "s.zarr", classes=classes, **options)
    store = SceneStore(tmp_path / "s.zarr")
    assert (store.grid, store.scale) == (grid, scale)


def test_names_and_lengths_of_scales(hpal: Hpal, tmp_path: Path) -> None:
    table = tmp_path / "classes.json"
    table.write_text(json.dumps([{"name": name} for name in CLASSES]))
    raw = scans(tmp_path / "raw", ground(0.02))
    for text, scale in (("room", None), ("street", 2.5), ("airborne", 12.5), ("20cm", 5.0), ("4cm", None)):
        out = tmp_path / f"{text}.zarr"
        done = hpal("prep", raw, "-o", out, "--classes", table, "--scale", text)
        assert done.rc == 0, done.err
        assert said(out) == scale
        assert "apart" not in done.err
    wrong = hpal("prep", raw, "-o", tmp_path / "s.zarr", "--classes", table, "--scale", "valley")
    assert wrong.rc == 2
    assert "--scale: 'valley' is not a length" in wrong.err


def test_an_object_is_no_room(hpal: Hpal, tmp_path: Path) -> None:
    """Of a scan in millimetres a grid of 4 cm would leave a few dozen points."""
    table = tmp_path / "classes.json"
    table.write_text(json.dumps([{"name": name} for name in CLASSES]))
    object_ = ground(1.0, 40_000)
    raw = scans(tmp_path / "raw", object_, object_ + 1e5)
    done = hpal("prep", raw, "-o", tmp_path / "s.zarr", "--classes", table, "--unit", "mm")
    assert done.rc == 0, done.err
    assert "points lie 0.98mm apart in an object of 20cm: a grid of 1mm fits" in done.err
    assert "lengths of scale 0.025: voxel 1.25mm, levels 2.5mm,1.25cm,2.5cm, FDS radius 5mm" in done.err
    store = SceneStore(tmp_path / "s.zarr")
    assert (store.grid, store.scale) == (0.001, 0.025)
    # One scene as high as a room, and they are rooms: what is measured last counts as much as what is first.
    scans(raw, object_, ground(1.0, 40_000) * 12)
    done = hpal("prep", raw, "-o", tmp_path / "t.zarr", "--classes", table, "--unit", "mm")
    assert "the lengths of a room fit" in done.err
    assert said(tmp_path / "t.zarr") is None


def test_the_papers_rooms_stay_however_sparse(office: Path, tmp_path: Path) -> None:
    """The office comes in the layout of S3DIS, and its few points lie far apart."""
    noted = Noted()
    prepare(office, tmp_path / "s.zarr", monitor=noted)
    assert any("the lengths of a room fit" in text for text in noted.said)
    assert SceneStore(tmp_path / "s.zarr").grid == 0.04
    assert said(tmp_path / "s.zarr") is None


def test_jobs_and_a_file_that_cannot_be_read_change_nothing(tmp_path: Path) -> None:
    raw = scans(tmp_path / "raw", *(ground(0.3, 1000, seed=n) for n in range(4)))
    (raw / "9.xyz").write_text("1 2 3\n1 2\n")
    classes = ClassTable.from_names(list(CLASSES))
    stores = []
    for jobs in (1, 3):
        with pytest.raises(HpalError, match="1 of 5 scenes could not be read"):
            prepare(raw, tmp_path / f"{jobs}.zarr", classes=classes, keep_going=True, jobs=jobs)
        stores.append(tree(tmp_path / f"{jobs}.zarr"))
    assert stores[0] == stores[1]
    assert said(tmp_path / "1.zarr") == 5


def test_points_far_apart_may_be_another_unit(tmp_path: Path) -> None:
    noted = Noted()
    classes = ClassTable.from_names(list(CLASSES))
    prepare(scans(tmp_path / "raw", ground(30.0)), tmp_path / "s.zarr", classes=classes, monitor=noted)
    assert any("say so with --unit" in text for text in noted.said)


def test_a_scale_that_is_none(tmp_path: Path) -> None:
    synthetic_scenes(tmp_path / "s.zarr", [room()])
    meta = json.loads((tmp_path / "s.zarr/zarr.json").read_text())
    for value in (0, -1, "wide", True):
        meta["attributes"]["hpal"]["scale"] = value
        (tmp_path / "s.zarr/zarr.json").write_text(json.dumps(meta))
        with pytest.raises(HpalError, match=r"its root member scale is .*, and no number above zero"):
            SceneStore(tmp_path / "s.zarr")


# What follows


class Pair:
    """A room, and the same many times as large with that as its scale: whatever is done to both comes to the same."""

    def __init__(self, folder: Path) -> None:
        small = [room("a", 0), room("b", 1), room("c", 2, split="val")]
        large = [replace(one, xyz=np.asarray(one.xyz, np.float32) * np.float32(TIMES)) for one in small]
        self.one = synthetic_scenes(folder / "one.zarr", small, grid=0.04)
        self.many = synthetic_scenes(folder / "many.zarr", large, grid=0.04 * TIMES, scale=TIMES)
        self.rooms: list[Room] = small


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return Pair(tmp_path_factory.mktemp("pair"))


def test_superpoints_are_the_same_in_both(pair: Pair) -> None:
    one, many = open_superpoints(pair.one), open_superpoints(pair.many)
    assert (one.scale, many.scale) == (1, TIMES)
    for scene, other in zip(pair.one.table, pair.many.table, strict=True):
        np.testing.assert_array_equal(one.partition(scene), many.partition(other))
        np.testing.assert_array_equal(one.read(scene).centre, many.read(other).centre)


def test_superpoints_of_another_scale_are_made_anew(tmp_path: Path) -> None:
    first = synthetic_scenes(tmp_path / "s.zarr", [room()], grid=None, scale=2.0)
    assert open_superpoints(first).scale == 2
    attributes = json.loads((tmp_path / "s.zarr/zarr.json").read_text())
    attributes["attributes"]["hpal"]["scale"] = 3.0
    (tmp_path / "s.zarr/zarr.json").write_text(json.dumps(attributes))
    assert open_superpoints(SceneStore(tmp_path / "s.zarr")).scale == 3
    before = tree(superpoints_path(tmp_path / "s.zarr"))
    open_superpoints(SceneStore(tmp_path / "s.zarr"))
    assert tree(superpoints_path(tmp_path / "s.zarr")) == before


def test_the_network_learns_the_same_from_both(pair: Pair, tmp_path: Path) -> None:
    """Elastic distortion, crops, voxels and positions all are in metres of a room."""
    settings = replace(PRESETS["small"], voxel=0.125, steps=3, max_voxels=1200, elastic=True)
    models = []
    for store, voxel in ((pair.one, 0.125), (pair.many, 0.125 * TIMES)):
        run = tmp_path / f"{store.path.stem}.pt"
        models.append(train(store, None, replace(settings, voxel=voxel), run=run))
        list(predict(load(run), store, tmp_path / f"{store.path.stem}.preds.zarr"))
    one, many = models
    assert (one.scale, many.scale) == (1, TIMES)
    for name, value in one.student.items():
        assert torch.equal(value, many.student[name]), name
    a, b = (PredictionStore(tmp_path / f"{name}.preds.zarr") for name in ("one", "many"))
    assert (a.scale, b.scale) == (None, TIMES)
    for scene, other in zip(a.table, b.table, strict=True):
        np.testing.assert_array_equal(a.probabilities(scene), b.probabilities(other))
    # The bytes of a room's checkpoint are as they were before there was a scale.
    for name, spec, there in (("one", 2, False), ("many", 3, True)):
        content = torch.load(tmp_path / f"{name}.pt", weights_only=True)
        meta = json.loads(content["hpal"])
        assert (meta["spec"], "scale" in meta, "columns" in meta) == (spec, there, False)
    assert load(tmp_path / "many.pt").scale == TIMES
    again = train(pair.one, None, replace(settings, steps=1), init=replace(many, settings=settings))
    assert again.scale == TIMES


def test_scores_picks_and_pictures_are_the_same_of_both(pair: Pair, hpal: Hpal, tmp_path: Path) -> None:
    picked, pictures = [], []
    for store in (pair.one, pair.many):
        folder = tmp_path / store.path.stem
        folder.mkdir()
        labels = answers(folder / "l.zarr", store, {"a": first_of_each(pair.rooms[0])})
        list(spread(labels, store, folder / "sp.zarr"))
        kept = PredictionStore(folder / "sp.zarr")
        assert kept.scale == store.scale
        # What was spread has no features: those of a network that has seen one step.
        settings = replace(PRESETS["small"], voxel=0.125 * (store.scale or 1), steps=1, max_voxels=1200)
        model = train(store, labels, settings)
        list(predict(model, store, folder / "preds.zarr"))
        (folder / "scores.ply").write_bytes(hpal("score", folder / "preds.zarr", "--no-history").out)
        done = hpal("select", folder / "scores.ply", "--budget", 20, "-o", folder / "picks.ply", cwd=folder)
        assert done.rc == 0, done.err
        again = hpal("select", folder / "scores.ply", "--budget", 20, "--fds-r", f"{0.2 * (store.scale or 1)}m")
        assert again.rc == 0, again.err
        done = hpal("label", folder / "picks.ply", "--table", folder / "t.csv", "--clips", folder / "clips")
        assert done.rc == 0, done.err
        rows = (folder / "t.csv").read_text().splitlines()
        picked.append([line.split(",")[:2] for line in rows])
        pictures.append({path.name for path in (folder / "clips").rglob("*.png")})
    assert picked[0] == picked[1]
    assert pictures[0] == pictures[1]
    assert default_levels(tmp_path / "many/preds.zarr", per_superpoint=False) == (0.8, 4.0, 8.0)
    assert default_levels(tmp_path / "one/preds.zarr", per_superpoint=False) == (0.1, 0.5, 1.0)


def test_a_clip_shows_as_much_of_both(pair: Pair, tmp_path: Path) -> None:
    clouds = []
    for store in (pair.one, pair.many):
        query = Query(0, 7, store.points(store.table[0]).position[7], 1, np.array([7]), None, None, None)
        write_clips([query], store, tmp_path / store.path.stem)
        (ply,) = (tmp_path / store.path.stem).rglob("*.ply")
        clouds.append(PlyData.read(ply)["vertex"])
    one, many = clouds
    assert len(one) == len(many)
    for axis in "xyz":
        np.testing.assert_allclose(one[axis] * TIMES, many[axis], atol=1e-5)
    np.testing.assert_array_equal(one["red"], many["red"])


# What is typed, and what `--init` brings


def test_the_voxel_follows_the_scale_unless_it_is_typed(pair: Pair, hpal: Hpal) -> None:
    def voxel(*args: object) -> str:
        done = hpal("train", *args, "--show", "--device", "cpu")
        assert done.rc == 0, done.err
        return next(line.split()[1] for line in done.out.decode().splitlines() if line.startswith("voxel"))

    assert (voxel(), voxel(pair.one.path), voxel(pair.many.path)) == ("0.05", "0.05", "0.4")
    assert voxel(pair.many.path, "--voxel", "30cm") == "0.3"
    assert voxel(pair.many.path, "--preset", "scannet") == "0.16"


def test_init_brings_preset_size_and_voxel(pair: Pair, hpal: Hpal, tmp_path: Path) -> None:
    settings = replace(PRESETS["s3dis"], size="small", voxel=0.3, steps=1, max_voxels=600, batch=1)
    train(pair.one, None, settings, run=tmp_path / "m.pt")
    assert preset_of(settings) == "s3dis"
    assert all(preset_of(preset) == name for name, preset in PRESETS.items())

    def shown(*args: object) -> dict[str, str]:
        done = hpal("train", pair.many.path, "--init", tmp_path / "m.pt", "--show", "--device", "cpu", *args)
        assert done.rc == 0, done.err
        return dict(line.split(None, 1) for line in done.out.decode().splitlines())

    brought = shown()
    assert (brought["size"], brought["voxel"], brought["optimizer"]) == ("small", "0.3 m", "sgd")
    # Values of the preset that the first run had its own of are the preset's again.
    assert brought["steps"] == "60000"
    typed = shown("--preset", "few", "--voxel", "1m", "--size", "full")
    assert (typed["size"], typed["voxel"], typed["optimizer"], typed["inputs"]) == ("full", "1.0 m", "adamw", "points")
    done = hpal(
        "train", pair.one.path, "--labels", "all", "--init", tmp_path / "m.pt", "-o", tmp_path / "n.pt", "--steps", 1,
        "--batch", 1, "--max-voxels", 600, "--device", "cpu",
    )  # fmt: skip
    assert done.rc == 0, done.err
    assert "s3dis preset, small network" in done.err
    assert load(tmp_path / "n.pt").settings.voxel == 0.3


# Levels that make no sense


def test_levels_that_are_too_short_are_told_which_fit(pair: Pair, hpal: Hpal, tmp_path: Path) -> None:
    made = [
        Room(name, ground(0.3, 2000, seed=n), np.zeros(2000, int)) for n, name in enumerate(("east", "north", "west"))
    ]
    store = synthetic_scenes(tmp_path / "s.zarr", made, grid=None)
    labels = answers(tmp_path / "l.zarr", store, {one.name: [(0, 0)] for one in made})
    list(spread(labels, store, tmp_path / "sp.zarr"))
    done = hpal("score", tmp_path / "sp.zarr", "--levels", "10,50,100")
    assert done.rc == 0, done.err
    (warning,) = (line for line in done.err.splitlines() if "warning" in line)
    assert "east and 2 scenes more: level 10cm holds 1.0 points a voxel, fewer than two" in warning
    assert "apart; --levels 50,250,500 fit them" in warning
    assert not any("warning" in line for line in hpal("score", tmp_path / "sp.zarr", "--levels", "50").err.split())
    done = hpal("score", tmp_path / "sp.zarr", "--levels", "1m,100m")
    assert "level 100m is larger than the scene" in done.err
    assert "give shorter --levels" in done.err
    done = hpal("score", tmp_path / "sp.zarr", "--levels", "100m", "--scenes", "east")
    assert "east: level 100m is larger" in done.err
    assert "a bare level is in centimetres; if the scene is larger, prepare it again with its --unit" in done.err
