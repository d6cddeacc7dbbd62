"""Training: what acts on the loss, what repeats, what resumes, and that it learns."""

from __future__ import annotations

import json
import resource
import signal
import subprocess
import sys
import time
import warnings
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import cut_at, environment, run_hpal
from test_fuzz import with_member
from torch.nn import functional

from hpal_cli.demo.office import CLASSES, make_room
from hpal_cli.errors import HpalError, UsageError
from hpal_cli.history import call
from hpal_cli.inference.predict import predict_points
from hpal_cli.inference.scene_voxels import SceneInput
from hpal_cli.label.oracle import answer
from hpal_cli.labels.store import ANSWER, LabelStore
from hpal_cli.network.backend import Backend, choose
from hpal_cli.network.geometry import Geometry
from hpal_cli.network.inputs import scene_origin, voxelise
from hpal_cli.network.minkunet import SIZES, MinkUNet
from hpal_cli.scenes.prepare import prepare
from hpal_cli.scenes.store import SceneStore
from hpal_cli.training import augment as training_augment
from hpal_cli.training.augment import augment_color, augment_position, elastic
from hpal_cli.training.batches import NO_CLASS, UNKNOWN, BatchDataset, _label_of_each, crop
from hpal_cli.training.checkpoint import load
from hpal_cli.training.labels import known_labels
from hpal_cli.training.losses import class_weights, objective, update_ema
from hpal_cli.training.prefetch import DeviceBatch
from hpal_cli.training.presets import PRESETS
from hpal_cli.training.schedule import learning_rate
from hpal_cli.training.train import _Run, train

TINY = replace(PRESETS["small"], voxel=0.12, steps=6, batch=2, max_voxels=2000, period=6)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> SceneStore:
    folder = tmp_path_factory.mktemp("rooms")
    for number in range(3):
        room = make_room(number, points=2000)
        (folder / "raw").mkdir(exist_ok=True)
        columns = np.column_stack([room.xyz, room.rgb, room.label])
        np.savetxt(folder / "raw" / f"room_{number}.txt", columns, fmt="%.3f " * 3 + "%d %d %d %d")
    from hpal_cli.classes import ClassTable

    table = ClassTable.from_names(CLASSES)
    prepare(folder / "raw", folder / "scenes.zarr", val=["room_2"], classes=table, scale=0.04)
    return SceneStore(folder / "scenes.zarr")


@pytest.fixture
def labels(store: SceneStore, tmp_path: Path) -> LabelStore:
    labels = LabelStore.create(tmp_path / "labels.zarr", store.classes, store.table)
    asked = np.zeros(40, ANSWER)
    asked["scene"] = np.repeat([0, 1], 20)
    asked["index"] = np.tile(np.arange(20) * 40, 2)
    labels.append(answer(store, asked, "test"), "test", call("label"))
    return labels


def test_a_labelled_point_acts_wherever_it_lies_in_its_voxel() -> None:
    xyz = np.array([[0, 0, 0], [0.01, 0, 0], [0.02, 0, 0], [0.5, 0.5, 0.5]], np.float32)
    inputs = voxelise([(xyz, None)], 0.1)
    assert inputs.inverse.tolist() == [0, 0, 0, 1]
    logits = torch.zeros(2, 3, requires_grad=True)
    # The label sits on the third point of the first voxel, not on the one that feeds the network.
    label = torch.tensor([-1, -1, 2, -1])
    loss = objective(logits[inputs.inverse], None, label, TINY)
    loss.total.backward()
    assert logits.grad is not None
    assert logits.grad[0].tolist() == pytest.approx([1 / 3, 1 / 3, -2 / 3])
    assert logits.grad[1].tolist() == [0, 0, 0]


def test_an_unsure_answer_teaches_nothing(store: SceneStore, tmp_path: Path) -> None:
    """The point is learned from neither as a label nor by a pseudo-label of the teacher."""
    student = torch.zeros(3, 2, requires_grad=True)
    sure = torch.tensor([[9.0, 0.0]] * 3)
    for consistency in ("none", "kl"):
        settings = replace(TINY, consistency=consistency)
        loss = objective(student, sure, torch.tensor([NO_CLASS, UNKNOWN, 1]), settings).total
        (gradient,) = torch.autograd.grad(loss, student)
        assert gradient[0].abs().sum() == 0
        assert gradient[1].abs().sum() > 0

    labels = LabelStore.create(tmp_path / "labels.zarr", store.classes, store.table)
    asked = np.zeros(2, ANSWER)
    asked["index"], asked["label"] = [3, 8], [-1, 4]
    labels.append(asked, "test", call("label"))
    known, answered = known_labels(store, labels)
    settings = replace(TINY, max_voxels=0, batch=1)
    batches = BatchDataset(store, [store.table[0]], known, settings, color=True, seed=0)
    assert batches[0].label[[3, 8, 9]].tolist() == [NO_CLASS, 4, UNKNOWN]
    assert answered["room_0"].tolist() == [3, 8]


def test_objective_is_the_two_means_of_the_paper() -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(50, 4), 3 * torch.randn(50, 4)
    label = torch.full((50,), -1)
    label[:7] = torch.arange(7) % 4
    found = objective(student, teacher, label, TINY)
    probability = teacher.softmax(1)
    rows = [i for i in range(7, 50) if probability[i].max() >= 0.75]
    by_hand = -sum(student[i].log_softmax(0)[label[i]] for i in range(7)) / 7
    by_hand = by_hand - sum(student[i].log_softmax(0)[probability[i].argmax()] for i in rows) / len(rows)
    assert float(found.total) == pytest.approx(float(by_hand), rel=1e-5)
    assert int(found.labelled) == 7
    assert float(found.confident) == pytest.approx(len(rows) / 43)

    both = objective(student, teacher, label, replace(TINY, consistency="kl"))
    kl = functional.kl_div(teacher.log_softmax(1), student.log_softmax(1), log_target=True, reduction="batchmean")
    assert float(both.total - found.total) == pytest.approx(float(kl), rel=1e-4)


def test_without_confident_points_the_second_term_is_zero_and_without_any_all_is() -> None:
    student, unsure = torch.randn(5, 3, requires_grad=True), torch.zeros(5, 3)
    label = torch.tensor([1, -1, -1, -1, -1])
    alone = objective(student, None, label, TINY).total
    both = objective(student, unsure, label, TINY).total
    assert float(alone) == float(both)
    nothing = objective(student, unsure, torch.full((5,), -1), TINY).total
    (gradient,) = torch.autograd.grad(nothing, student)
    assert float(nothing) == 0
    assert gradient.abs().sum() == 0


def test_class_weights_are_a_weighted_mean_and_mean_one_over_the_labels() -> None:
    counts = torch.tensor([900, 100, 0])
    weight = class_weights(counts, 0.5)
    assert float((weight * counts).sum() / 1000) == pytest.approx(1)
    assert float(weight[1] / weight[0]) == pytest.approx(3)
    assert weight[2] == 0
    student, label = torch.randn(10, 3), torch.arange(10) % 2
    ours = objective(student, None, label, TINY, weight=weight).total
    assert float(ours) == pytest.approx(float(functional.cross_entropy(student, label, weight=weight)), rel=1e-5)


def test_the_teacher_keeps_its_share_of_everything() -> None:
    student, teacher = MinkUNet(3, 2, SIZES["small"]), MinkUNet(3, 2, SIZES["small"])
    student.stem[1].bn.running_mean.fill_(2.0)
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    update_ema(teacher, student, 0.955)
    for name, value in teacher.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value, 0.955 * before[name] + 0.045 * student.state_dict()[name])
    assert teacher.stem[1].bn.running_mean[0] == pytest.approx(0.09)


def test_augmentation_keeps_every_point_and_turns_about_the_origin() -> None:
    rng = np.random.default_rng(0)
    xyz = (rng.random((3000, 3)).astype(np.float32) - np.float32([0.5, 0.5, 0])) * np.float32([6, 4, 3])
    turned = augment_position(xyz, rng, distort=False)
    assert turned.shape == xyz.shape
    far = np.linalg.norm(turned, axis=1) / np.linalg.norm(xyz, axis=1)
    assert far.min() > 0.89
    assert far.max() < 1.11
    assert augment_position(np.zeros((1, 3), np.float32), rng, distort=False).tolist() == [[0, 0, 0]]
    # A crop turns as it would have turned with its room.
    whole = augment_position(xyz, np.random.default_rng(5), distort=False)
    np.testing.assert_allclose(augment_position(xyz[7:90], np.random.default_rng(5), distort=False), whole[7:90])
    near = np.linalg.norm(xyz - xyz[0], axis=1) < 0.3
    distorted = augment_position(xyz, rng)
    # Neighbours stay neighbours: rows still belong to the same points.
    assert np.median(np.linalg.norm(distorted[near] - distorted[0], axis=1)) < 0.6
    color = augment_color(rng.random((3000, 3)).astype(np.float32), rng)
    assert color.min() >= 0
    assert color.max() <= 1


def test_a_turned_room_has_the_same_origin() -> None:
    """What failed once: counted from a corner, x and y of a turned room were spread otherwise than in prediction."""
    xyz = np.random.default_rng(0).random((500, 3)) * [6, 4, 3] + [900_000, 6_000_000, 40]
    here = scene_origin(xyz, 1.0)
    quarter = scene_origin(xyz @ np.array([[0, 1, 0], [-1, 0, 0], [0, 0, 1]]), 1.0)
    np.testing.assert_allclose(quarter, here @ np.float32([[0, 1, 0], [-1, 0, 0], [0, 0, 1]]), atol=1e-5)
    assert here[:, 2].min() == 0
    np.testing.assert_allclose(here[:, :2].min(axis=0), -here[:, :2].max(axis=0), atol=1e-5)


def test_a_stray_point_does_not_make_the_lattice_of_the_distortion_huge() -> None:
    xyz = np.random.default_rng(1).random((500, 3)).astype(np.float32)
    xyz[7] = [3000, 2000, 1000]
    moved = elastic(xyz, 0.2, 0.4, np.random.default_rng(2)) - xyz
    assert 0 < np.abs(moved).max() < 4
    assert np.isfinite(moved).all()


def test_elastic_is_smooth_and_moves_points() -> None:
    rng = np.random.default_rng(1)
    grid = np.stack(np.meshgrid(*[np.arange(0, 4, 0.1)] * 3, indexing="ij"), -1).reshape(-1, 3).astype(np.float32)
    moved = elastic(grid, 0.8, 1.6, rng) - grid
    assert 0.05 < moved.std() < 0.5
    step = np.diff(moved.reshape(40, 40, 40, 3), axis=0)
    assert np.abs(step).max() < 0.5 * np.abs(moved).max()


@pytest.mark.parametrize("points", [1, 50, 5000])
def test_augmentation_is_the_same_bits_without_a_compiler(points: int, monkeypatch: pytest.MonkeyPatch) -> None:
    if isinstance(training_augment._library(), str):
        pytest.skip(training_augment._library())
    given = np.random.default_rng(points)
    xyz = (given.random((points, 3)) * [9, 7, 3] - [4, 3, 0]).astype(np.float32)
    rgb = given.random((points, 3)).astype(np.float32)

    def augmented() -> list[bytes]:
        # Of some seeds colours are stretched, of some they have no noise.
        colors = [augment_color(rgb, np.random.default_rng(seed)) for seed in range(40)]
        return [one.tobytes() for one in (augment_position(xyz, np.random.default_rng(3)), *colors)]

    compiled = augmented()
    monkeypatch.setattr(training_augment, "_library", lambda: "left out")
    assert compiled == augmented()
    assert compiled[0] != xyz.tobytes()


def test_colours_are_stretched_shifted_noisy_and_cut_off() -> None:
    """By the formula, in the order of the random numbers; each of the three is left out for some seeds."""
    rgb, ways = np.random.default_rng(0).random((300, 3)).astype(np.float32) * np.float32(0.6), set()
    for seed in range(60):
        rng, wanted = np.random.default_rng(seed), rgb.astype(np.float64)
        if stretched := rng.random() < 0.2:
            blend = rng.random()
            low, high = wanted.min(axis=0), wanted.max(axis=0)
            wanted = (1 - blend) * wanted + blend * (wanted - low) / (high - low)
        if shifted := rng.random() < 0.95:
            wanted = wanted + rng.uniform(-0.1, 0.1, 3)
        if noisy := rng.random() < 0.95:
            wanted = wanted + 0.05 * rng.standard_normal(rgb.shape, np.float32)
        np.testing.assert_allclose(augment_color(rgb, np.random.default_rng(seed)), np.clip(wanted, 0, 1), atol=1e-6)
        ways.add((stretched, shifted, noisy))
    assert {(True, True, True), (False, True, True), (False, False, True), (False, True, False)} <= ways


def test_crop_is_the_nearest_in_plan_around_a_labelled_point() -> None:
    rng = np.random.default_rng(2)
    xyz = rng.random((5000, 3)).astype(np.float32) * 10
    labelled = np.array([17])
    distance = np.linalg.norm(xyz[:, :2] - xyz[17, :2], axis=1)
    for voxel in (0.001, 0.8):
        rows = crop(xyz, labelled, 100, voxel, rng)
        assert (np.diff(rows) > 0).all()
        assert set(rows) == set(np.argsort(distance)[: len(rows)])
        cells = {tuple(cell) for cell in np.floor(xyz[rows] / np.float32(voxel)).astype(int)}
        assert len(cells) == 100
        following = np.argsort(distance)[len(rows)]
        assert tuple(np.floor(xyz[following] / np.float32(voxel)).astype(int)) not in cells
    assert len(crop(xyz, labelled, 100, 0.001, rng)) == 100
    assert crop(xyz, labelled, 0, 0.1, rng).tolist() == list(range(5000))
    assert crop(xyz, labelled, 4000, 5.0, rng).tolist() == list(range(5000))


def test_labels_of_points() -> None:
    labels = _label_of_each(6, np.array([1, 5, 2]), np.array([3, 4, -1], np.int32))
    assert labels.tolist() == [UNKNOWN, 3, NO_CLASS, UNKNOWN, UNKNOWN, 4]


def test_the_schedule_ends_low_and_restarts() -> None:
    full = PRESETS["s3dis"]
    assert learning_rate(full, 0) == 0.1
    assert learning_rate(full, 4_999) < 1e-6
    assert learning_rate(full, 5_000) == 0.1
    assert learning_rate(full, full.steps - 1) < 1e-6
    once = replace(PRESETS["small"], steps=6_000)
    assert learning_rate(once, 3_000) == pytest.approx(0.5 * once.lr)
    odd = replace(full, steps=12_345)
    assert learning_rate(odd, odd.steps - 1) < 1e-5
    scannet = PRESETS["scannet"]
    assert learning_rate(scannet, 15_000) == pytest.approx(0.1 * 0.5**0.9)
    assert learning_rate(scannet, scannet.steps - 1) < 1e-4


def test_batches_repeat_visit_every_scene_and_match_rows(store: SceneStore, labels: LabelStore) -> None:
    known, answered = known_labels(store, labels)
    assert set(answered) == {"room_0", "room_1"}
    scenes = store.table.choose("train")
    settings = replace(TINY, max_voxels=0)
    first = BatchDataset(store, scenes, known, settings, color=True, seed=3)
    again = BatchDataset(store, scenes, known, settings, color=True, seed=3)
    for step in (5, 0):
        a, b = first[step], again[step]
        assert sorted(a.scenes) == ["room_0", "room_1"]
        assert torch.equal(a.student.features, b.student.features)
        assert torch.equal(a.label, b.label)
        assert a.teacher is not None
        assert len(a.teacher.inverse) == len(a.student.inverse) == len(a.label)
        assert int((a.label >= 0).sum()) == sum(len(rows) for rows, _ in known.values())
    assert not torch.equal(first[0].student.features, first[1].student.features)


def test_the_same_seed_gives_the_same_weights_and_another_does_not(store: SceneStore, labels: LabelStore) -> None:
    one = train(store, labels, TINY, seed=1)
    two = train(store, labels, TINY, seed=1)
    other = train(store, labels, TINY, seed=2)
    assert all(torch.equal(value, two.student[name]) for name, value in one.student.items())
    assert not torch.equal(one.student["classifier.weight"], other.student["classifier.weight"])


def test_a_run_that_was_cut_resumes_to_the_same_bits(
    store: SceneStore, labels: LabelStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(store, labels, TINY, run=tmp_path / "whole.pt", save_every=2)
    assert load(tmp_path / "whole.pt").step == 6
    with cut_at(5):
        train(store, labels, TINY, run=tmp_path / "cut.pt", save_every=2)
    assert (tmp_path / "cut.pt.unfinished").exists()
    with pytest.raises(HpalError, match="other seed"):
        train(store, labels, TINY, seed=9, run=tmp_path / "cut.pt", resume=True)
    with pytest.raises(HpalError, match="--resume"):
        train(store, labels, TINY, run=tmp_path / "cut.pt")
    more = np.zeros(1, ANSWER)
    more["index"], more["label"] = 7, 1
    other = LabelStore.create(tmp_path / "other.zarr", store.classes, store.table)
    other.append(more, "test", call("label"))
    with pytest.raises(HpalError, match="other labels"):
        train(store, other, TINY, run=tmp_path / "cut.pt", resume=True)
    resumed = train(store, labels, TINY, run=tmp_path / "cut.pt", resume=True)
    assert all(torch.equal(value, resumed.student[name]) for name, value in whole.student.items())
    assert not (tmp_path / "cut.pt.unfinished").exists()
    # The same bytes, whatever the file is called and however often the run was cut.
    assert (tmp_path / "whole.pt").read_bytes() == (tmp_path / "cut.pt").read_bytes()
    metrics = [(tmp_path / f"{name}.pt.metrics.jsonl").read_text() for name in ("whole", "cut")]
    assert metrics[0] == metrics[1]
    assert json.loads(metrics[0].splitlines()[-1])["step"] == 6


# Of a CPU: it computes in float32, and only the loss is scaled as in fp16. A power of 2 changes no bit.
AS_FP16 = Backend("torch", "", Geometry, "fp16")


def test_a_scaled_loss_gives_the_same_weights(store: SceneStore, labels: LabelStore) -> None:
    plain, scaled = train(store, labels, TINY), train(store, labels, TINY, backend=AS_FP16)
    assert all(torch.equal(value, scaled.student[name]) for name, value in plain.student.items())
    with pytest.raises(UsageError, match="fp16 is for a GPU"):
        choose("auto", torch.device("cpu"), "fp16")


def test_a_step_whose_gradient_overflows_moves_nothing_and_its_scale_is_resumed(
    store: SceneStore, labels: LabelStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stepped, learn = _Run._stepped, _Run._step
    seen: list[tuple[int, bool, bool, float]] = []

    def overflowing(self: _Run) -> bool:
        before = [p.detach().clone() for p in self.student.parameters()]
        if self.step == 2:
            grad = next(self.student.parameters()).grad
            assert grad is not None
            grad.view(-1)[3] = float("inf")
        done = stepped(self)
        same = all(torch.equal(a, b) for a, b in zip(before, self.student.parameters()))
        seen.append((self.step, done, same, self.scaler.get_scale()))
        return done

    def watched(self: _Run, ready: DeviceBatch, rate: float) -> object:
        averages = [network for network in (self.teacher, self.average) if network is not None]
        before = [value.clone() for network in averages for value in network.state_dict().values()]
        loss = learn(self, ready, rate)
        after = [value for network in averages for value in network.state_dict().values()]
        assert all(torch.equal(a, b) for a, b in zip(before, after)) == (self.step == 2)
        return loss

    monkeypatch.setattr(_Run, "_stepped", overflowing)
    monkeypatch.setattr(_Run, "_step", watched)
    settings = replace(TINY, average=True)
    whole = train(store, labels, settings, run=tmp_path / "whole.pt", save_every=2, backend=AS_FP16)
    assert seen == [(n, n != 2, n == 2, 65536.0 if n < 2 else 32768.0) for n in range(6)]
    with cut_at(5):
        train(store, labels, settings, run=tmp_path / "cut.pt", save_every=2, backend=AS_FP16)
    seen.clear()
    resumed = train(store, labels, settings, run=tmp_path / "cut.pt", resume=True, backend=AS_FP16)
    assert seen
    assert {scale for *_, scale in seen} == {32768.0}
    assert all(torch.equal(value, resumed.student[name]) for name, value in whole.student.items())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_waits_for_the_step_and_saves_it(
    store: SceneStore, labels: LabelStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    whole = train(store, labels, TINY, run=tmp_path / "whole.pt")
    learn = _Run._step

    def struck(self: _Run, ready: DeviceBatch, rate: float) -> object:
        if self.step == 2:
            signal.raise_signal(number)
        return learn(self, ready, rate)

    def end(signum: int, frame: object) -> None:
        raise SystemExit(128 + signum)

    usual = {n: signal.signal(n, end) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        monkeypatch.setattr(_Run, "_step", struck)
        with pytest.raises(SystemExit):
            train(store, labels, TINY, run=tmp_path / "struck.pt")
        assert signal.getsignal(number) is end
    finally:
        for n, handler in usual.items():
            signal.signal(n, handler)
    assert load(tmp_path / "struck.pt.unfinished").step == 3
    assert not (tmp_path / "struck.pt").exists()
    monkeypatch.setattr(_Run, "_step", learn)
    resumed = train(store, labels, TINY, run=tmp_path / "struck.pt", resume=True)
    assert all(torch.equal(value, resumed.student[name]) for name, value in whole.student.items())


def test_it_learns(store: SceneStore) -> None:
    settings = replace(TINY, steps=80, teacher=False, max_voxels=0, lr=0.01)
    model = train(store, None, settings)
    network, scene = model.network(), store.table.by_name["room_0"]
    done = predict_points(network, SceneInput(store.points(scene), settings.voxel), device=torch.device("cpu"))
    truth = store.labels(scene)
    assert truth is not None
    most_common = np.bincount(truth[truth >= 0]).max() / (truth >= 0).sum()
    accuracy = (done.prob.argmax(1) == truth)[truth >= 0].mean()
    assert accuracy > max(0.65, most_common + 0.2)


def test_a_scene_far_from_the_origin_is_the_same_to_the_network(store: SceneStore) -> None:
    torch.manual_seed(0)
    network = MinkUNet(6, 13, SIZES["small"]).eval()
    points = store.points(store.table[0])
    here = predict_points(network, SceneInput(points, 0.1), device=torch.device("cpu"))
    points.xyz = points.xyz + 512.0
    there = predict_points(network, SceneInput(points, 0.1), device=torch.device("cpu"))
    # Exact but for points on the border of a voxel, which rounding may push over.
    assert (here.prob.argmax(1) == there.prob.argmax(1)).mean() > 0.98
    in_feet = scene_origin(points.xyz, 0.3048)
    np.testing.assert_allclose(np.ptp(in_feet, axis=0), 0.3048 * np.ptp(points.xyz, axis=0), rtol=1e-5)


def test_a_cloud_of_one_voxel_a_stride_can_be_trained_on(store: SceneStore, labels: LabelStore) -> None:
    model = train(store, labels, replace(TINY, voxel=3.0, batch=1))
    assert all(torch.isfinite(value).all() for value in model.student.values() if value.is_floating_point())


def test_init_must_fit_and_carries_the_weights(store: SceneStore, labels: LabelStore) -> None:
    before = train(store, labels, TINY)
    frozen = train(store, labels, replace(TINY, lr=0.0, steps=1), init=before)
    assert torch.equal(frozen.student["classifier.weight"], before.student["classifier.weight"])
    with pytest.raises(UsageError, match="size"):
        train(store, labels, replace(TINY, size="full"), init=before)
    with pytest.raises(UsageError, match="voxel"):
        train(store, labels, replace(TINY, voxel=0.2), init=before)


def test_a_loss_that_is_not_finite_names_step_scenes_and_the_last_state(
    store: SceneStore, labels: LabelStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = train(store, labels, replace(TINY, steps=1))
    before.student["classifier.weight"].fill_(float("nan"))
    with pytest.raises(HpalError, match=r"step 1: the loss is nan on room_\d, room_\d \(no state was saved before"):
        train(store, labels, replace(TINY, steps=3), init=before)
    learn = _Run._step

    def spoil(self: _Run, ready: DeviceBatch, rate: float) -> object:
        if self.step == 4:
            ready.student.features.fill_(float("inf"))
        return learn(self, ready, rate)

    monkeypatch.setattr(_Run, "_step", spoil)
    with pytest.raises(HpalError, match=r"step 5: the loss is nan on .* \(the state before is in .*run.pt.unfinished"):
        train(store, labels, TINY, run=tmp_path / "run.pt", save_every=2)
    saved = load(tmp_path / "run.pt.unfinished")
    assert saved.step == 4
    assert all(torch.isfinite(value).all() for value in saved.student.values() if value.is_floating_point())


def test_a_killed_run_resumes_to_the_same_bytes(scenes: Path, tmp_path: Path) -> None:
    """kill -9 in the middle: nothing of the process gets a chance to tidy up."""
    small = ("--labels", "all", "--voxel", "0.15", "--max-voxels", "3000", "--steps", "40", "--save-every", "5")
    whole = run_hpal("train", scenes, *small, "-o", tmp_path / "whole.pt")
    assert whole.rc == 0, whole.err
    run = tmp_path / "killed.pt"
    call = [sys.executable, "-m", "hpal_cli", "train", str(scenes), *small, "-o", str(run)]
    process = subprocess.Popen(call, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    unfinished = tmp_path / "killed.pt.unfinished"
    deadline = time.monotonic() + 120
    while not unfinished.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert unfinished.exists()
    assert not run.exists(), "it was over before it could be killed"
    assert 5 <= load(unfinished).step < 40
    resumed = run_hpal("train", scenes, *small, "-o", run, "--resume")
    assert resumed.rc == 0, resumed.err
    assert "continuing after step" in resumed.err
    first, second = load(tmp_path / "whole.pt"), load(run)
    assert all(torch.equal(value, second.student[name]) for name, value in first.student.items())
    assert not unfinished.exists()


def test_a_full_disk_leaves_the_state_before(store: SceneStore, labels: LabelStore, tmp_path: Path) -> None:
    """The system refuses to write more than so many bytes, as a full disk does."""
    run = tmp_path / "run.pt"
    state = tmp_path / "run.pt.unfinished"
    learn, limits = _Run._step, resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(self: _Run, ready: DeviceBatch, rate: float) -> object:
        if self.step == 3:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, limits[1]))
        return learn(self, ready, rate)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_Run, "_step", fill)
        try:
            with pytest.raises(HpalError, match=r"cannot be written .*; check the disk"):
                train(store, labels, TINY, run=run, save_every=2)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert load(state).step == 2
    assert sorted(path.name for path in tmp_path.glob("*run*")) == ["run.pt.metrics.jsonl", "run.pt.unfinished"]
    resumed = train(store, labels, TINY, run=run, save_every=2, resume=True)
    whole = train(store, labels, TINY)
    assert all(torch.equal(value, resumed.student[name]) for name, value in whole.student.items())


@pytest.mark.parametrize(
    "damage",
    [b"", b"\x80\x02.", b"\x80\x02\x86.", b"\x80\x02a.", b"\x80\x02}}s.", b"\x80\x02K\x01e.", b"\x80\xe9K\x01."],
)
def test_a_checkpoint_whose_pickle_is_damaged_is_refused(
    store: SceneStore, labels: LabelStore, tmp_path: Path, damage: bytes
) -> None:
    """The checksum of the archive's member is right, so torch's unpickler meets what no writer writes."""
    path = tmp_path / "model.pt"
    train(store, labels, replace(TINY, steps=1), run=path)
    with zipfile.ZipFile(path) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith("data.pkl")]
    path.write_bytes(with_member(path.read_bytes(), name, damage))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(HpalError, match="is not a whole hpal checkpoint"):
            load(path)


def test_an_altered_checkpoint_is_an_error_wherever_it_was_altered(
    store: SceneStore, labels: LabelStore, tmp_path: Path
) -> None:
    train(store, labels, replace(TINY, steps=1), run=tmp_path / "model.pt")
    data = (tmp_path / "model.pt").read_bytes()
    good = load(tmp_path / "model.pt")
    rng = np.random.default_rng(0)
    refused = 0
    places = [*rng.integers(0, len(data), 60), *range(0, 60, 7), *(len(data) - rng.integers(1, 3000, 25))]
    for place in places:
        spoilt = bytearray(data)
        spoilt[place] ^= 1 << int(rng.integers(8))
        (tmp_path / "spoilt.pt").write_bytes(spoilt)
        try:
            back = load(tmp_path / "spoilt.pt")
        except HpalError:
            refused += 1
            continue
        # A byte that nobody reads (padding, a date) may change.
        assert back.settings == good.settings
        assert all(torch.equal(value, back.student[name]) for name, value in good.student.items())
    assert refused > 50


def test_checkpoints_come_back_and_never_run_code(store: SceneStore, labels: LabelStore, tmp_path: Path) -> None:
    model = train(store, labels, TINY)
    model.save(tmp_path / "model.pt", overwrite=False)
    back = load(tmp_path / "model.pt")
    assert back.settings == TINY
    assert back.classes == store.classes
    assert back.scenes == store.table.id
    assert all(torch.equal(value, back.student[name]) for name, value in model.student.items())
    assert {name: rows.tolist() for name, rows in back.answered.items()} == {
        name: rows.tolist() for name, rows in model.answered.items()
    }
    data = (tmp_path / "model.pt").read_bytes()
    (tmp_path / "short.pt").write_bytes(data[: len(data) // 2])
    (tmp_path / "text.pt").write_text("not a checkpoint")
    torch.save({"weights": torch.zeros(3)}, tmp_path / "foreign.pt")
    marker = tmp_path / "ran"

    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (Path(marker),)  # type: ignore[return-value]

    torch.save({"hpal": "{}", "student": Bomb()}, tmp_path / "bomb.pt")
    for name in ("short", "text", "foreign", "bomb", "missing"):
        with pytest.raises(HpalError, match="hpal train"):
            load(tmp_path / f"{name}.pt")
    assert not marker.exists()
