"""Further inputs of the network: columns of the scans, and the height above ground."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr
from conftest import Done
from synthetic_scenes import Room, room, synthetic_scenes

from hpal_cli.errors import HpalError, UsageError
from hpal_cli.inference.predict import predict, predict_large, predict_points
from hpal_cli.inference.scene_voxels import SceneInput
from hpal_cli.info import describe
from hpal_cli.network.point_inputs import MAX_MAGNITUDE, ExtraColumnsReader, InputSpec, PointInputs
from hpal_cli.predictions.store import PredictionStore
from hpal_cli.scenes.store import SceneStore
from hpal_cli.training.batches import BatchDataset
from hpal_cli.training.checkpoint import load
from hpal_cli.training.labels import known_labels
from hpal_cli.training.presets import PRESETS
from hpal_cli.training.train import train

Hpal = Callable[..., Done]

CPU = torch.device("cpu")
SMALL = replace(PRESETS["small"], voxel=0.12, steps=3, max_voxels=1500, teacher=False)
NAMES = "x,y,z,intensity,echo,height"


def with_columns(one: Room, seed: int = 0) -> Room:
    """Without colour; the intensity alone tells what a point is, and `echo` is whole numbers."""
    rng = np.random.default_rng(seed)
    intensity = 100.0 * one.label + rng.normal(0, 5, len(one.label))
    echo = rng.integers(1, 4, len(one.label)).astype(np.uint8)
    return replace(one, rgb=None, attributes={"intensity": intensity.astype(np.float32), "echo": echo})


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> SceneStore:
    made = [with_columns(room(name, n, split=s), n) for n, (name, s) in enumerate((("a", "train"), ("b", "val")))]
    return synthetic_scenes(tmp_path_factory.mktemp("inputs") / "s.zarr", made)


# What is wanted


def test_names_say_what_is_wanted() -> None:
    assert InputSpec.parse("points") == InputSpec(None, (), False)
    assert InputSpec.parse("superpoints") == InputSpec(None, (), True)
    assert InputSpec.parse("superpoints, intensity") == InputSpec(None, ("intensity",), True)
    assert InputSpec.parse("x,y,z,rgb,height,nir") == InputSpec(True, ("height", "nir"), False)
    assert InputSpec.parse("x,y,z") == InputSpec(False, (), False)
    for wrong, why in (
        ("", "holds an empty name"),
        ("x,,y", "holds an empty name"),
        ("rgb,intensity,rgb", "names rgb twice"),
        ("x,y,z,label", "label holds what the network shall learn"),
        ("classification", "classification holds what the network shall learn"),
    ):
        with pytest.raises(UsageError, match=why):
            InputSpec.parse(wrong)


# What a column comes to


def test_a_column_is_normalised_by_what_is_usual(tmp_path: Path) -> None:
    one = room()
    count = len(one.xyz)
    usual = np.random.default_rng(0).uniform(1000, 3000, count)
    usual[:: count // 20] = 1e7
    usual[7] = np.nan
    flat = np.full(count, 4.0)
    rare = np.where(np.arange(count) % 100 == 0, 2.0, 1.0)
    columns = {"usual": usual, "flat": flat, "rare": rare, "nothing": np.full(count, np.nan)}
    made = synthetic_scenes(tmp_path / "s.zarr", [replace(one, attributes=columns)])
    scene = made.table[0]
    inputs = PointInputs.from_store(made, [scene], list(columns), 1.0)
    assert inputs.middle[0] == pytest.approx(2000, rel=0.1)
    assert inputs.spread[1:].tolist() == [1, pytest.approx(rare.std()), 1]
    value = inputs.columns(made, scene, made.points(scene), 1.0)(slice(None))
    assert value.dtype == np.float32
    assert np.abs(np.median(value, axis=0)).max() == 0
    assert value[0, 0] == value[:, 0].max() == MAX_MAGNITUDE
    assert value[7, 0] == 0
    assert not value[:, [1, 3]].any()
    assert value[0, 2] == MAX_MAGNITUDE
    back = PointInputs.from_json(json.loads(json.dumps(inputs.to_json())))
    assert back.names == inputs.names
    assert np.array_equal(back.middle, inputs.middle)
    assert np.array_equal(back.spread, inputs.spread)


def test_what_only_original_points_have_is_their_mean(store: SceneStore, tmp_path: Path) -> None:
    shutil.copytree(store.path, tmp_path / "s.zarr")
    root = zarr.open_group(tmp_path / "s.zarr", mode="a")
    group = root["scenes/a/original"]
    scene = store.table[0]
    # Two original points each for the first three grid points, and none for the last three.
    inverse = np.arange(scene.points)
    inverse[-3:] = [0, 1, 2]
    group["inverse"][:] = inverse
    group.create_array("nir", data=np.arange(scene.points, dtype="u2"), config={"write_empty_chunks": True})
    changed = SceneStore(tmp_path / "s.zarr")
    nir = changed.column(scene, "nir")
    assert nir[:4].tolist() == [(scene.points - 3) / 2, (1 + scene.points - 2) / 2, (2 + scene.points - 1) / 2, 3]
    assert nir[-3:].tolist() == [0, 0, 0]
    assert changed.scalars(scene) == ["echo", "intensity", "nir"]
    assert changed.has_scalar(scene, "nir")
    for name in ("label", "rgb", "xyz", "nothing"):
        assert not changed.has_scalar(scene, name)
        with pytest.raises(HpalError, match=rf"scene a has no column {name}; it has echo, intensity, nir"):
            changed.column(scene, name)


@pytest.mark.parametrize(("unit", "scale"), [(1.0, 1.0), (0.001, 1.0), (1.0, 4.0)])
def test_height_is_above_the_ground(unit: float, scale: float, tmp_path: Path) -> None:
    side = np.arange(0, 20, 0.25)
    level = np.stack([*np.meshgrid(side, side), np.zeros((80, 80))], axis=-1).reshape(-1, 3)
    # A slope, and a roof of 3 m in its middle.
    level[:, 2] = 0.1 * level[:, 0]
    roof = level[(np.abs(level[:, :2] - 10) < 2).all(axis=1)] + [0, 0, 3]
    xyz = np.concatenate([level, roof]) * scale / unit
    made = synthetic_scenes(tmp_path / "s.zarr", [Room("a", xyz, np.zeros(len(xyz), int))], unit=unit, scale=scale)
    scene = made.table[0]
    inputs = PointInputs(("height",), np.zeros(1), np.ones(1))
    height = inputs.columns(made, scene, made.points(scene), scale)(slice(None))[:, 0]
    assert np.abs(height[: len(level)]).max() < 0.6
    assert height[len(level) :] == pytest.approx(3, abs=0.5)


# From the scenes to the answer


def test_columns_reach_their_voxels(store: SceneStore) -> None:
    chosen = store.table.choose("train")
    inputs = PointInputs.from_store(store, chosen, ("intensity", "echo"), 1.0)
    scene, points = chosen[0], store.points(chosen[0])
    columns = ExtraColumnsReader(store, inputs, None, None, 1.0)(scene, points)
    assert columns is not None
    settings = replace(SMALL, max_voxels=0, batch=1, teacher=True)
    known, _ = known_labels(store, None)
    batch = BatchDataset(store, [scene], known, settings, color=False, seed=0, further=lambda _, __: columns)[0]
    assert batch.teacher is not None
    first = np.unique(batch.teacher.inverse.numpy(), return_index=True)[1]
    np.testing.assert_array_equal(batch.teacher.features[:, :2].numpy(), columns(first))
    assert batch.teacher.features.shape[1] == 2 + 3


def test_the_network_learns_what_the_column_tells(tmp_path: Path) -> None:
    """Points at random, of classes at random: their intensity alone tells which."""
    rng = np.random.default_rng(0)
    clouds = [
        Room(n, rng.random((1500, 3)) * 3, rng.integers(0, 2, 1500), split=s) for n, s in (("a", "train"), ("b", "val"))
    ]
    store = synthetic_scenes(tmp_path / "s.zarr", [with_columns(one) for one in clouds], grid=None)
    right = {}
    scene = store.table.choose("val")[0]
    truth = store.labels(scene)
    for name, inputs in (("without", "x,y,z"), ("with", NAMES)):
        model = train(store, None, replace(SMALL, inputs=inputs, steps=40), run=tmp_path / f"{name}.pt")
        list(predict(load(tmp_path / f"{name}.pt"), store, tmp_path / f"{name}.zarr"))
        right[name] = (PredictionStore(tmp_path / f"{name}.zarr").predicted(scene) == truth).mean()
        assert model.channels == (() if name == "without" else ("intensity", "echo", "height")) + ("x", "y", "z")
    assert right["with"] > 0.9
    assert right["without"] < 0.7


def test_the_checkpoint_holds_them(store: SceneStore, tmp_path: Path) -> None:
    model = train(store, None, replace(SMALL, inputs=NAMES), run=tmp_path / "m.pt")
    back = load(tmp_path / "m.pt")
    assert back.columns is not None
    assert model.columns is not None
    assert back.columns.to_json() == model.columns.to_json()
    content = torch.load(tmp_path / "m.pt", weights_only=True)
    meta = json.loads(content["hpal"])
    assert meta["spec"] == 3
    assert meta["channels"] == ["intensity", "echo", "height", "x", "y", "z"]
    assert dict(describe(tmp_path / "m.pt").lines())["channels"] == "intensity echo height x y z"
    meta["columns"][0]["spread"] = 0
    torch.save({**content, "hpal": json.dumps(meta)}, tmp_path / "bad.pt")
    with pytest.raises(HpalError, match=r"bad\.pt"):
        load(tmp_path / "bad.pt")
    # Where a run is gone on with, the tables are those of before.
    other = replace(back, columns=replace(back.columns, middle=back.columns.middle + 1))
    again = train(store, None, replace(SMALL, inputs=NAMES, lr=0.0), init=other)
    assert again.columns is not None
    assert np.array_equal(again.columns.middle, other.columns.middle)
    assert again.labels != train(store, None, replace(SMALL, inputs=NAMES, lr=0.0), init=back).labels
    with pytest.raises(UsageError, match=r"--init: its inputs is x,y,z,intensity,echo,height, this run's is points"):
        train(store, None, SMALL, init=back)


def test_with_superpoints_too_and_the_same_to_the_bit_each_time(store: SceneStore, tmp_path: Path) -> None:
    settings = replace(SMALL, inputs="superpoints,height")
    models = [train(store, None, settings, run=tmp_path / f"{n}.pt") for n in range(2)]
    assert models[0].channels[:2] == ("height", "likeness_1")
    assert (tmp_path / "0.pt").read_bytes() == (tmp_path / "1.pt").read_bytes()
    list(predict(load(tmp_path / "0.pt"), store, tmp_path / "p.zarr", turns=2, smooth=True))
    assert PredictionStore(tmp_path / "p.zarr").table.id == store.table.id


def test_tiles_see_the_same_columns(store: SceneStore, tmp_path: Path) -> None:
    model = train(store, None, replace(SMALL, inputs=NAMES))
    scene = store.table[0]
    points = store.points(scene)
    columns = ExtraColumnsReader(store, model.columns, None, None, 1.0)(scene, points)
    network = model.network()
    scene = SceneInput(points, 0.12, color=False, further=columns)
    whole = predict_points(network, scene, device=CPU)
    with predict_large(network, scene, device=CPU, max_voxels=len(points.xyz) // 2, folder=tmp_path) as tiled:
        assert np.abs(tiled.prob - whole.prob).max() < 0.05


# What is refused


def test_a_scene_that_lacks_one_is_refused(store: SceneStore, tmp_path: Path) -> None:
    bare = synthetic_scenes(tmp_path / "bare.zarr", [replace(room("a"), rgb=None), room("b", 1, split="val")])
    with pytest.raises(HpalError, match=r"scene a has no column intensity, which --inputs names; it has height; leave"):
        train(bare, None, replace(SMALL, inputs=NAMES))
    with pytest.raises(HpalError, match="scene a has no colour, which --inputs names; leave rgb out of it"):
        train(bare, None, replace(SMALL, inputs="x,y,z,rgb"))
    model = train(store, None, replace(SMALL, inputs=NAMES))
    with pytest.raises(HpalError, match=r"scene a has no column intensity, which the model needs; it has height"):
        list(predict(model, bare, tmp_path / "p.zarr"))
    assert not (tmp_path / "p.zarr").exists()
    with pytest.raises(
        HpalError, match=r"scene a has no column intensity, which the model needs; .*; give scenes that"
    ):
        train(bare, None, replace(SMALL, inputs=NAMES), init=model)


def test_from_the_command_line(store: SceneStore, hpal: Hpal, tmp_path: Path) -> None:
    few = ("--labels", "all", "--device", "cpu", "--steps", 1, "--voxel", "12cm", "--max-voxels", 800)
    done = hpal("train", store.path, *few, "-o", tmp_path / "m.pt", "--inputs", "x,y,z,intensity,height")
    assert done.rc == 0, done.err
    done = hpal("predict", tmp_path / "m.pt", store.path, "-o", tmp_path / "p.zarr", "--device", "cpu")
    assert done.rc == 0, done.err
    # The next round takes the same.
    done = hpal(
        "train", store.path, *few[:-4], "-o", tmp_path / "n.pt", "--init", tmp_path / "m.pt", "--max-voxels", 800
    )
    assert done.rc == 0, done.err
    assert load(tmp_path / "n.pt").settings.inputs == "x,y,z,intensity,height"
    for inputs, rc, why in (
        ("x,y,z,albedo", 1, "scene a has no column albedo, which --inputs names; it has echo, intensity, height"),
        ("x,y,z,label", 2, "--inputs: label holds what the network shall learn; leave it out"),
    ):
        done = hpal("train", store.path, *few, "-o", tmp_path / "wrong.pt", "--inputs", inputs)
        assert (done.rc, why in done.err) == (rc, True), done.err
        assert not (tmp_path / "wrong.pt").exists()
