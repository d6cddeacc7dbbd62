"""Scenes larger than the network is given at once: tiles, their seams, and the memory that they take."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Done, environment, tree
from torch import Tensor, nn

from hpal_cli.classes import ClassTable
from hpal_cli.demo.office import CLASSES, make_room
from hpal_cli.errors import HpalError
from hpal_cli.inference import scene_voxels
from hpal_cli.inference import tiles as tiles_module
from hpal_cli.inference.blend import Blend
from hpal_cli.inference.predict import predict, predict_large, predict_points
from hpal_cli.inference.scene_voxels import SceneInput, SceneVoxels, rows_of
from hpal_cli.inference.tiles import MARGIN, MAX_VOXELS, MIN_SIDE, RAMP, Tile, cut
from hpal_cli.network import inputs
from hpal_cli.network.geometry import Geometry
from hpal_cli.network.inputs import scene_origin, unit_color, voxelise
from hpal_cli.network.minkunet import SIZES, MinkUNet
from hpal_cli.predictions.prediction import Prediction
from hpal_cli.predictions.store import PredictionStore
from hpal_cli.scenes.prepare import prepare
from hpal_cli.scenes.store import Points, SceneStore
from hpal_cli.training.presets import PRESETS
from hpal_cli.training.train import train

VOXEL = 0.1
CPU = torch.device("cpu")


def a_floor(seed: int = 0, points: int = 60_000, size: tuple[float, float] = (30.0, 18.0)) -> Points:
    """An L of points in no order, several to a voxel, that begins below zero."""
    rng = np.random.default_rng(seed)
    xyz = rng.uniform([-12, 3, -0.5], [-12 + size[0], 3 + size[1], 0.0], (points, 3))
    xyz = xyz[(xyz[:, 0] < 0) | (xyz[:, 1] < 9)]
    rgb = rng.integers(0, 256, (len(xyz), 3)).astype(np.uint8)
    return Points(xyz.astype(np.float32), np.array([5.0, 6.0, 7.0]), rgb)


class Echo(nn.Module):
    """Answers with what it is given of each voxel, so tiles must give exactly what the whole scene does."""

    def forward(self, features: Tensor, geometry: Geometry) -> tuple[Tensor, Tensor]:
        return features, features


class Count(nn.Module):
    """Answers every voxel of the n-th batch with n."""

    def __init__(self) -> None:
        super().__init__()
        self.batches = 0

    def forward(self, features: Tensor, geometry: Geometry) -> tuple[Tensor, Tensor]:
        self.batches += 1
        return features, torch.full((len(features), 1), float(self.batches))


def whole_and_tiled(
    network: nn.Module, points: Points, most: int, folder: Path, voxel: float = VOXEL
) -> tuple[Prediction, tuple[np.ndarray, np.ndarray]]:
    scene = SceneInput(points, voxel)
    whole = predict_points(network, scene, device=CPU)  # type: ignore[arg-type]
    with predict_large(network, scene, device=CPU, max_voxels=most, folder=folder) as done:  # type: ignore[arg-type]
        return whole, (done.prob, done.feat)


@pytest.mark.parametrize("unit", [1.0, 0.3048])
@pytest.mark.parametrize("color", [True, False])
@pytest.mark.parametrize("shift", [0.0, -77.7])
def test_the_voxels_of_a_large_scene_are_those_of_the_whole(
    unit: float, color: bool, shift: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = a_floor()
    # Wherever the network's origin is: voxels below zero, or not.
    origin_of = inputs.origin_of
    for module in (inputs, scene_voxels):
        monkeypatch.setattr(module, "origin_of", lambda xyz: origin_of(xyz) + shift)
    rgb = unit_color(points.rgb) if color else None
    expected = voxelise([(scene_origin(points.xyz, unit), rgb)], VOXEL)
    voxels = SceneVoxels(SceneInput(points, VOXEL, unit=unit, color=color))
    found = voxels.inputs(np.arange(len(voxels)))
    assert len(voxels) < 0.95 * len(points.xyz)
    assert torch.equal(found.features, expected.features)
    assert torch.equal(found.voxel, expected.voxel.long())
    assert voxels.inverse.tolist() == expected.inverse.tolist()
    assert voxels.extent == tuple((expected.voxel[:, 1:].amax(0) - expected.voxel[:, 1:].amin(0) + 1).tolist())


def test_rectangles_hold_what_lies_in_them() -> None:
    voxels = SceneVoxels(SceneInput(a_floor(), VOXEL))
    cell = voxels.cell(np.arange(len(voxels)))
    for low, high in (((0, 0), (300, 180)), ((-40, 17), (55, 90)), ((100, 50), (101, 51)), ((299, 0), (999, 999))):
        inside = ((cell[:, :2] >= low) & (cell[:, :2] < high)).all(axis=1)
        assert rows_of(voxels.runs(low, high)).tolist() == np.flatnonzero(inside).tolist()
        assert voxels.count(low, high) == inside.sum()


@pytest.mark.parametrize("most", [60_000, 30_000, 15_000])
def test_tiles_are_small_enough_and_share_every_voxel_out(most: int) -> None:
    voxels = SceneVoxels(SceneInput(a_floor(points=150_000, size=(60.0, 30.0)), VOXEL))
    tiles = cut(voxels, most)
    assert len(tiles) > len(voxels) / most
    assert max(tile.count(voxels) for tile in tiles) <= most
    total = np.zeros(len(voxels))
    for tile in tiles:
        rows = rows_of(voxels.runs(*tile.with_margin()))
        cell, weight = voxels.cell(rows), tile.weight(voxels.cell(rows))
        assert weight.min() >= 0
        core = ((cell[:, :2] >= tile.low) & (cell[:, :2] < tile.high)).all(axis=1)
        assert weight[core].min() > 0.25
        # Whatever counts has surroundings, except where the scene ends.
        edge = (cell[:, :2] < np.array(tile.low) - RAMP) | (cell[:, :2] >= np.array(tile.high) + RAMP)
        assert not weight[edge.any(axis=1)].any()
        total[rows] += weight
    np.testing.assert_allclose(total, 1, atol=1e-6)


def test_weights_fall_in_a_line_across_a_cut() -> None:
    left, right = Tile((0, 0), (400, 50), (400, 50)).halves(0, 200)
    across = np.stack([np.arange(200 - 2 * RAMP, 200 + 2 * RAMP), np.full(4 * RAMP, 20)], axis=1)
    falling = left.weight(across)
    inside = falling[(falling > 0) & (falling < 1)]
    assert len(inside) == 2 * RAMP
    np.testing.assert_allclose(np.diff(inside), -1 / (2 * RAMP), atol=1e-6)
    np.testing.assert_allclose(falling + right.weight(across), 1, atol=1e-6)
    assert left.weight(np.array([[0, 0], [0, 49]])).tolist() == [1, 1]
    # Opposite ramps of a tile never meet, or its weights would not sum to 1 with its neighbours'.
    assert 2 * RAMP <= MIN_SIDE
    assert RAMP < MARGIN


def test_tiles_answer_as_the_whole_scene_does(tmp_path: Path) -> None:
    """Every point has an answer, made of its own voxel's first point, with the whole scene's origin."""
    points = a_floor(points=200_000)
    whole, (prob, feat) = whole_and_tiled(Echo(), points, 9_000, tmp_path)
    assert len(feat) == len(points.xyz)
    np.testing.assert_allclose(prob, whole.prob, atol=1e-5)
    # float16 in the sums.
    np.testing.assert_allclose(feat, whole.feat, rtol=2e-3, atol=1e-3)
    assert np.ptp(whole.feat[:, 3]) > 29


def test_a_seam_goes_from_one_tile_to_the_other(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    xyz = np.column_stack([rng.uniform(0, 30, 40_000), rng.uniform(0, 2, 40_000), np.zeros(40_000)])
    points = Points(xyz.astype(np.float32), np.zeros(3), np.zeros((len(xyz), 3), np.uint8))
    network = Count()
    scene = SceneInput(points, VOXEL)
    with predict_large(network, scene, device=CPU, max_voxels=5_000, folder=tmp_path) as done:  # type: ignore[arg-type]
        said = done.feat[:, 0]
    assert network.batches == 2
    order = np.argsort(scene_origin(points.xyz, 1.0)[:, 0])
    along = said[order]
    assert set(along[:15_000]) == {1.0}
    assert set(along[-15_000:]) == {2.0}
    assert np.diff(along).min() >= 0
    assert len(np.unique(along)) == 2 * RAMP + 2


def test_sums_are_of_their_voxels_in_any_order(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    with (tmp_path / "sums").open("w+b") as file:
        blend = Blend(file, 50)
        expected = np.zeros((50, 3))
        for rows in (np.arange(0, 30), np.array([5, 6, 20, 40, 41, 49])):
            weight, prob, feat = rng.random(len(rows)), rng.random((len(rows), 3)), rng.random((len(rows), 4))
            blend.add(rows, weight.astype("f4"), prob.astype("f4"), feat.astype("f4"))
            expected[rows] += weight[:, None] * prob
        wanted = np.array([49, 0, 5, 5, 20, 33])
        prob, feat = blend.take(wanted)
        np.testing.assert_allclose(prob, expected[wanted], atol=1e-6)
        assert feat.shape == (6, 4)
        ones, huge = np.ones(1, "f4"), np.full((1, 4), 1e30, "f4")
        blend.add(np.array([33]), ones, np.ones((1, 3), "f4"), huge)
        blend.add(np.array([33]), ones, np.ones((1, 3), "f4"), huge)
        assert blend.take(np.array([33]))[1].tolist() == [[65504] * 4]


def test_a_scene_that_fits_is_predicted_whole(tmp_path: Path) -> None:
    points = a_floor(points=30_000, size=(12.0, 10.0))
    torch.manual_seed(0)
    network = MinkUNet(6, 5, SIZES["small"]).eval()
    count = len(SceneVoxels(SceneInput(points, VOXEL)))
    assert count < len(points.xyz)
    # 0 and many do not count voxels, `count` does.
    for most in (0, MAX_VOXELS, count):
        whole, (prob, feat) = whole_and_tiled(network, points, most, tmp_path)
        assert np.array_equal(whole.prob, prob)
        assert np.array_equal(whole.feat, feat)
    whole, (prob, _) = whole_and_tiled(network, points, count - 1, tmp_path)
    assert not np.array_equal(whole.prob, prob)


def test_a_scene_wider_than_the_networks_geometry_is_cut(tmp_path: Path) -> None:
    cluster = np.random.default_rng(0).uniform(0, 3, (500, 3))
    xyz = np.concatenate([cluster, cluster + np.array([9_000, 0, 0])])
    points = Points(xyz.astype(np.float32), np.zeros(3), np.zeros((len(xyz), 3), np.uint8))
    with pytest.raises(HpalError, match="spans"):
        predict_points(Echo(), SceneInput(points, VOXEL), device=CPU)  # type: ignore[arg-type]
    with predict_large(Echo(), SceneInput(points, VOXEL), device=CPU, folder=tmp_path) as done:  # type: ignore[arg-type]
        expected = voxelise([(scene_origin(points.xyz, 1.0), unit_color(points.rgb))], VOXEL)
        np.testing.assert_allclose(done.prob, expected.features.softmax(1)[expected.inverse], atol=1e-5)
    # Beyond 2^62 voxels.
    far = replace(points, xyz=points.xyz * np.float32(1e9))
    with pytest.raises(HpalError, match=r"hall: spans .* voxels"):
        SceneVoxels(SceneInput(far, VOXEL, name="hall"))


class Log:
    """A monitor that keeps the warnings."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        self.warnings.append(text)


def test_a_column_denser_than_the_limit_is_kept_in_one_piece_and_said(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    points = Points(rng.uniform(0, 2, (5_000, 3)).astype(np.float32), np.zeros(3), np.zeros((5_000, 3), np.uint8))
    log = Log()
    scene, arguments = SceneInput(points, VOXEL, name="shaft"), {"device": CPU, "folder": tmp_path, "monitor": log}
    with predict_large(Echo(), scene, max_voxels=100, **arguments) as done:  # type: ignore[arg-type]
        assert len(done.prob) == 5_000
    (warning,) = log.warnings
    assert "shaft: a tile has" in warning
    assert "--max-voxels 100" in warning


@pytest.fixture(scope="module")
def floor(tmp_path_factory: pytest.TempPathFactory) -> SceneStore:
    """Four synthetic rooms, wall to wall, as one scene."""
    folder = tmp_path_factory.mktemp("floor")
    parts, end = [], 0.0
    for number in range(4):
        room = make_room(number, points=12_000)
        xyz = room.xyz - room.xyz.min(axis=0) + [end, 0, 0]
        end = float(xyz[:, 0].max())
        parts.append(np.column_stack([xyz, room.rgb, room.label]))
    np.save(folder / "floor.npy", np.concatenate(parts))
    prepare(folder / "floor.npy", folder / "scenes.zarr", grid=0.06, classes=ClassTable.from_names(CLASSES))
    return SceneStore(folder / "scenes.zarr")


@pytest.fixture(scope="module")
def model(floor: SceneStore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What little a network learns of the floor in 30 steps."""
    settings = replace(PRESETS["small"], voxel=0.07, steps=30, max_voxels=4_000, teacher=False)
    path = tmp_path_factory.mktemp("model") / "model.pt"
    train(floor, None, settings).save(path, overwrite=False)
    return path


def test_tiles_agree_with_the_whole_on_a_made_floor(
    floor: SceneStore, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hpal_cli.training.checkpoint import load

    network, points = load(model).network(), floor.points(floor.table[0])
    count = len(SceneVoxels(SceneInput(points, 0.07)))
    whole, (prob, feat) = whole_and_tiled(network, points, count // 2, tmp_path, 0.07)
    said = whole.prob.argmax(axis=1)
    assert (np.bincount(said) > 100).sum() >= 3
    assert (said == prob.argmax(axis=1)).mean() >= 0.995
    cosine = (whole.feat * feat).sum(1) / np.linalg.norm(whole.feat, axis=1) / np.linalg.norm(feat, axis=1)
    assert np.quantile(cosine, 0.01) > 0.99
    # The margin is what makes them agree.
    error = np.abs(whole.prob - prob).max()
    monkeypatch.setattr(tiles_module, "MARGIN", 1)
    monkeypatch.setattr(tiles_module, "RAMP", 1)
    _, (without, _) = whole_and_tiled(network, points, count // 2, tmp_path, 0.07)
    assert np.abs(whole.prob - without).max() > 3 * error


Hpal = Callable[..., Done]


def test_the_command_tiles_and_leaves_only_the_store(
    floor: SceneStore, model: Path, tmp_path: Path, hpal: Hpal
) -> None:
    for name, *options in (
        ("whole", "--max-voxels", 0, "--ply", "whole-ply"),
        ("usual",),
        ("tiled", "--max-voxels", 15_000, "--ply", "tiled-ply"),
    ):
        done = hpal("predict", model, floor.path, "-o", f"{name}.zarr", *options, cwd=tmp_path)
        assert done.rc == 0, done.err
    assert sorted(os.listdir(tmp_path)) == ["tiled-ply", "tiled.zarr", "usual.zarr", "whole-ply", "whole.zarr"]
    whole, usual, tiled = (tree(tmp_path / f"{name}.zarr") for name in ("whole", "usual", "tiled"))
    assert list(whole) == list(tiled)
    # The root holds the call, in the history.
    assert all(whole[name] == usual[name] for name in whole if name != "zarr.json")
    assert any(whole[name] != tiled[name] for name in whole if "prob" in name)
    stores = [PredictionStore(tmp_path / f"{name}.zarr") for name in ("whole", "tiled")]
    pred = [store.predicted(floor.table[0]) for store in stores]
    assert (pred[0] == pred[1]).mean() >= 0.995
    stores[1].probabilities(floor.table[0])
    assert stores[1].features(floor.table[0])(np.arange(floor.table[0].points)).shape == (floor.table[0].points, 96)
    whole_ply, tiled_ply = (next((tmp_path / f"{name}-ply").rglob("*.ply")) for name in ("whole", "tiled"))
    assert tiled_ply.stat().st_size == whole_ply.stat().st_size
    assert hpal("info", "--check", tmp_path / "tiled.zarr").rc == 0


def test_without_features_tiles_have_none(floor: SceneStore, model: Path, tmp_path: Path, hpal: Hpal) -> None:
    out = tmp_path / "p.zarr"
    done = hpal("predict", model, floor.path, "-o", out, "--max-voxels", 15_000, "--no-features")
    assert done.rc == 0, done.err
    assert PredictionStore(out).feature_count(floor.table[0]) == 0


def test_a_failure_in_a_later_tile_leaves_nothing(
    floor: SceneStore, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hpal_cli.training.checkpoint import load

    seen: list[set[str]] = []
    forward = MinkUNet.forward

    def breaks(self: MinkUNet, features: Tensor, geometry: Geometry) -> tuple[Tensor, Tensor]:
        logits, feat = forward(self, features, geometry)
        seen.append({path.name for path in tmp_path.rglob("*") if path.is_file()})
        return (logits, feat) if len(seen) < 2 else (logits * float("nan"), feat)

    monkeypatch.setattr(MinkUNet, "forward", breaks)
    with pytest.raises(HpalError, match=r"^floor: the network's prediction is not finite"):
        list(predict(load(model), floor, tmp_path / "p.zarr", max_voxels=15_000))
    assert len(seen) == 2
    # What is kept meanwhile has no name, so not even a killed process leaves it; the rest is the unfinished store's.
    assert {name for name in seen[1] if not name.endswith(".partial.lock")} <= {"zarr.json"}
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("value", ["-1", "many", "1.5"])
def test_a_bad_limit_is_refused_in_one_line(value: str, hpal: Hpal) -> None:
    done = hpal("predict", "model.pt", "scenes.zarr", "-o", "p.zarr", "--max-voxels", value)
    assert done.rc == 2
    assert "Invalid value for '--max-voxels'" in done.err
    assert len(done.err.strip().splitlines()) == 1


def test_the_help_says_the_default(hpal: Hpal) -> None:
    assert f"[{MAX_VOXELS:,}]" in " ".join(hpal("predict", "--help").out.decode().split())


_PEAK = """
import sys
from pathlib import Path
import numpy as np
import torch
from hpal_cli.network.backend import Backend
from hpal_cli.inference.predict import predict_large
from hpal_cli.inference.scene_voxels import SceneInput
from hpal_cli.predictions.store import write_scene_blocks
from hpal_cli.scenes.store import Points
from hpal_cli.scene_table import SceneInfo
from hpal_cli.store import envelope

def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM"))

class Wide(torch.nn.Module):
    def forward(self, features, geometry):
        return features, features.repeat(1, 16)

def work(points, out):
    rng = np.random.default_rng(0)
    xyz = (rng.random((points, 3), np.float32) * np.float32([60, points / 25_000, 1])).astype(np.float32)
    cloud = Points(xyz, np.zeros(3), np.zeros((points, 3), np.uint8))
    info = SceneInfo(0, "s", points, points, "train", "")
    with envelope.create(out, "predictions", {}, overwrite=False) as (root, folder):
        cpu, none = torch.device("cpu"), Backend("none", "a test", lambda voxel: None)
        with predict_large(
            Wide(), SceneInput(cloud, 0.1), device=cpu, backend=none, max_voxels=100_000, folder=folder
        ) as done:
            write_scene_blocks(root, info, cloud, done.blocks(), np.zeros(0, np.int64))

out = Path(sys.argv[1])
work(100_000, out / "small.zarr")
before = peak()
work(800_000, out / "large.zarr")
print(peak() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_features_of_a_large_scene_are_never_all_in_memory(tmp_path: Path) -> None:
    call = [sys.executable, "-c", _PEAK, str(tmp_path)]
    done = subprocess.run(call, env=environment(), capture_output=True, text=True, check=True)
    # 800,000 times 96 float32 are 307 MB, float16 half of that.
    assert int(done.stdout) < 200e6
