"""Training for few labels: soft labels, superpoints as inputs, averaged weights, runs by the clock, turned and smoothed
predictions."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Done, cut_at, prediction_attributes
from torch import Tensor, nn

from hpal_cli.errors import HpalError, UsageError
from hpal_cli.history import call
from hpal_cli.inference.predict import predict, predict_large, predict_points
from hpal_cli.inference.scene_voxels import SceneInput
from hpal_cli.info import describe
from hpal_cli.label.oracle import answer
from hpal_cli.labels.store import ANSWER, LabelStore
from hpal_cli.network.geometry import Geometry
from hpal_cli.network.inputs import concatenated, rotated, scene_origin, unit_color, voxelise
from hpal_cli.network.superpoint_inputs import SHIFT, SuperpointColumns, SuperpointInputs, augment
from hpal_cli.predictions.store import PredictionStore, write_scene
from hpal_cli.scenes.prepare import prepare
from hpal_cli.scenes.store import Points, SceneStore
from hpal_cli.store import envelope
from hpal_cli.superpoints.store import open_superpoints
from hpal_cli.training import train as train_module
from hpal_cli.training.batches import NO_CLASS, UNKNOWN, BatchDataset, SoftLabels
from hpal_cli.training.checkpoint import Checkpoint, load
from hpal_cli.training.labels import MIN_SHARE, Spread, known_labels, soft_labels, with_minimum_share
from hpal_cli.training.losses import class_weights, objective, update_ema
from hpal_cli.training.prefetch import DeviceBatch
from hpal_cli.training.presets import PRESETS
from hpal_cli.training.schedule import RunProgress, learning_rate_at
from hpal_cli.training.train import _Run, train

CPU = torch.device("cpu")
FEW = replace(PRESETS["few"], voxel=0.12, steps=6, max_voxels=1500)
POINTS = replace(FEW, inputs="points")


@pytest.fixture(scope="module")
def store(scenes: Path) -> SceneStore:
    return SceneStore(scenes)


@pytest.fixture(scope="module")
def labels(store: SceneStore, tmp_path_factory: pytest.TempPathFactory) -> LabelStore:
    """Answers for the train scenes, one of them unsure."""
    labels = LabelStore.create(tmp_path_factory.mktemp("labels") / "labels.zarr", store.classes, store.table)
    asked = np.zeros(30, ANSWER)
    for part, scene in zip(np.split(asked, [15]), store.table.choose("train"), strict=True):
        part["scene"], part["index"] = scene.number, np.arange(15) * 50
    given = answer(store, asked, "test")
    given["label"][3] = -1
    labels.append(given, "test", call("label"))
    return labels


def write_spread(
    path: Path, store: SceneStore, labels: LabelStore, prob: Callable[[np.ndarray], np.ndarray], split: str = "train"
) -> PredictionStore:
    """A store as `hpal spread` writes it: `prob` makes (N, C) of the true classes (N,)."""
    attributes = prediction_attributes(store)
    answered = labels.answered(store.table.id, store.path)
    with envelope.create(path, "predictions", attributes, overwrite=False) as (root, _):
        for scene in store.table.choose(split):
            truth = store.labels(scene)
            assert truth is not None
            rows = answered.get(scene.number, np.zeros(0, np.int64))
            write_scene(root, scene, store.points(scene), prob(truth), None, rows)
    return PredictionStore(path)


def mostly_right(truth: np.ndarray) -> np.ndarray:
    """Gives the true class the probability 0.9. Nothing is known of points without one, and of every fifth point."""
    prob = np.full((len(truth), 13), 0.1 / 12)
    prob[np.arange(len(truth)), truth] = 0.9
    prob[truth < 0] = prob[::5] = 1 / 13
    return prob


@pytest.fixture(scope="module")
def spread(store: SceneStore, labels: LabelStore, tmp_path_factory: pytest.TempPathFactory) -> PredictionStore:
    return write_spread(tmp_path_factory.mktemp("spread") / "spread.zarr", store, labels, mostly_right)


def same(one: Checkpoint, other: Checkpoint) -> bool:
    return all(torch.equal(value, other.student[name]) for name, value in one.student.items())


# Soft labels


def test_an_even_row_teaches_nothing_and_a_certain_one_weighs_1() -> None:
    prob = np.array([[1 / 13] * 13, [1.0] + 12 * [0.0], [0.6, 0.4] + 11 * [0.0], [0.5] + 12 * [0.5 / 12]])
    for kind in (np.float16, np.float32):
        target, weight = soft_labels(prob.astype(kind))
        assert weight[0] == 0
        assert not target[0].any()
        np.testing.assert_allclose(weight[1:], [1, 0.6, 0.5 - 0.5 / 12], atol=2e-3)
        np.testing.assert_allclose(target[1:].sum(axis=1), 1, atol=1e-5)
        np.testing.assert_allclose(target[2, :2], [0.6, 0.4], atol=1e-3)
        # What a walk did not reach is spread evenly over the classes: no label smoothing.
        assert target[3].tolist() == [1.0] + 12 * [0.0]


def test_the_soft_loss_is_a_weighted_mean_over_all_points() -> None:
    torch.manual_seed(0)
    student = torch.randn(20, 4, requires_grad=True)
    target, weight = torch.rand(20, 4).softmax(1), torch.rand(20)
    weight[:5] = 0
    label = torch.full((20,), UNKNOWN)
    of_class = torch.tensor([1.0, 2.0, 0.5, 0.0])
    for classes in (None, of_class):
        found = objective(student, None, label, POINTS, soft=SoftLabels(target, weight), weight=classes).total
        k = torch.ones(4) if classes is None else classes
        over = [float(weight[i] * (target[i] @ k)) for i in range(20)]
        by_hand = -sum(over[i] * float((target[i] * student[i].log_softmax(0)).sum()) for i in range(20)) / sum(over)
        assert float(found.detach()) == pytest.approx(by_hand, rel=1e-5)
        (gradient,) = torch.autograd.grad(found, student)
        assert not gradient[:5].any()
        assert gradient[5:].any(dim=1).all()
    # Nothing known at all is a loss of 0, not of NaN.
    nothing = objective(student, None, label, POINTS, soft=SoftLabels(target, torch.zeros(20)))
    assert float(nothing.total.detach()) == 0


def test_hard_labels_in_soft_form_are_the_same_loss() -> None:
    student, label = torch.randn(30, 5), torch.arange(30) % 5
    soft = SoftLabels(nn.functional.one_hot(label, 5).float(), torch.ones(30))
    weight = class_weights(torch.tensor([5, 4, 3, 2, 1]), 0.3)
    hard = objective(student, None, label, POINTS, weight=weight).total
    assert float(objective(student, None, label, POINTS, soft=soft, weight=weight).total) == pytest.approx(float(hard))


def test_answers_take_the_place_of_what_was_spread(
    store: SceneStore, labels: LabelStore, spread: PredictionStore
) -> None:
    known, answered = known_labels(store, labels)
    learned = Spread(spread, store, labels, known, answered)
    scene = store.table.choose("train")[0]
    rows, ids = known[scene.name]
    truth, prob = store.labels(scene), learned.probabilities(scene)
    assert truth is not None
    keep = np.sort(np.unique(np.concatenate([rows, [1, 5, 10, 15]])))
    target, weight = learned.soft_labels(scene, prob, keep)
    at = np.searchsorted(keep, rows)
    assert weight[at].tolist() == (ids >= 0).tolist()
    assert (ids < 0).sum() == 1
    assert target[at[ids >= 0]].argmax(1).tolist() == ids[ids >= 0].tolist()
    assert set(target[at[ids >= 0]].ravel().tolist()) == {0.0, 1.0}
    # The others as they were spread: every fifth is not known.
    assert weight[keep == 5] == 0
    assert 0.8 < float(weight[keep == 1][0]) < 0.9
    likely = learned.likely_class(scene, prob)
    assert likely[rows].tolist() == ids.tolist()
    assert likely[5] == -1
    assert learned.classes[scene.name].tolist() == np.isin(np.arange(13), likely).tolist()
    everything = [
        learned.soft_labels(s, learned.probabilities(s), np.arange(s.points)) for s in store.table.choose("train")
    ]
    np.testing.assert_allclose(learned.mass, sum(w @ t for t, w in everything), rtol=1e-5)
    assert learned.points == sum(int((w > 0).sum()) for _, w in everything)


def test_a_spread_that_does_not_fit_is_refused(
    store: SceneStore, labels: LabelStore, spread: PredictionStore, other_scenes: Path, tmp_path: Path
) -> None:
    def against(other: SceneStore, answers: LabelStore, predictions: PredictionStore) -> None:
        Spread(predictions, other, answers, *known_labels(other, answers))

    elsewhere = SceneStore(other_scenes)
    foreign = LabelStore.create(tmp_path / "foreign.zarr", elsewhere.classes, elsewhere.table)
    one = np.zeros(1, ANSWER)
    one["scene"], one["label"] = elsewhere.table.choose("train")[0].number, 2
    foreign.append(one, "test", call("label"))
    with pytest.raises(HpalError, match=r"belongs to other scenes or classes than .*; make it from these: hpal spread"):
        against(elsewhere, foreign, spread)
    # An answer that came after it was made.
    more = LabelStore.create(tmp_path / "more.zarr", store.classes, store.table)
    more.append(labels.latest(), "test", call("label"))
    against(store, more, spread)
    one["scene"], one["index"] = store.table.choose("train")[0].number, 7
    more.append(one, "test", call("label"))
    with pytest.raises(HpalError, match=r"made from other answers than .*more.zarr holds now; make it again: hpal"):
        against(store, more, spread)
    Spread(spread, store, more, *known_labels(store, more), old=True)
    val = write_spread(tmp_path / "val.zarr", store, labels, mostly_right, split="val")
    with pytest.raises(HpalError, match="none of the train scenes"):
        against(store, labels, val)
    with pytest.raises(UsageError, match="--spread: is of no use"):
        train(store, None, POINTS, spread=spread)


def test_a_scene_that_was_not_spread_to_teaches_by_its_answers(
    store: SceneStore, labels: LabelStore, tmp_path: Path
) -> None:
    train_scenes = store.table.choose("train")
    first = write_spread(tmp_path / "one.zarr", store, labels, mostly_right, split="train")
    import shutil

    shutil.rmtree(first.path / "scenes" / train_scenes[1].name)
    learned = Spread(PredictionStore(first.path), store, labels, *known_labels(store, labels))
    target, weight = learned.soft_labels(
        train_scenes[1], learned.probabilities(train_scenes[1]), np.arange(train_scenes[1].points)
    )
    assert np.flatnonzero(weight).tolist() == known_labels(store, labels)[0][train_scenes[1].name][0].tolist()
    assert np.isfinite(target).all()


def test_batches_hold_soft_labels_and_the_teacher_teaches_the_unanswered(
    store: SceneStore, labels: LabelStore, spread: PredictionStore
) -> None:
    known, answered = known_labels(store, labels)
    learned = Spread(spread, store, labels, known, answered)
    scene = store.table.choose("train")[0]
    settings = replace(POINTS, max_voxels=0, batch=1, teacher=True, even_crops=0.0)
    batch = BatchDataset(store, [scene], known, settings, color=True, seed=0, spread=learned)[0]
    assert batch.soft is not None
    assert batch.soft.target.shape == (scene.points, 13)
    assert batch.labelled == int((batch.soft.weight > 0).sum()) > 0.7 * scene.points
    rows, ids = known[scene.name]
    assert batch.label[rows].tolist() == np.where(ids < 0, NO_CLASS, ids).tolist()
    student = torch.zeros(scene.points, 13, requires_grad=True)
    sure = torch.nn.functional.one_hot(torch.full((scene.points,), 4), 13) * 9.0
    both = objective(student, sure, batch.label, settings, soft=batch.soft)
    assert float(both.confident) == 1
    (gradient,) = torch.autograd.grad(both.total, student)
    # "Unsure" is taught by neither, what was not reached by the teacher alone.
    assert not gradient[rows[ids < 0]].any()
    assert gradient[5].any()


# Balance


def test_class_weights_are_a_power_of_the_share() -> None:
    counts = torch.tensor([800, 200, 0])
    for power in (0.3, 0.5, 1.0):
        weight = class_weights(counts, power)
        assert float(weight[1] / weight[0]) == pytest.approx(4**power)
        assert float((weight * counts).sum() / 1000) == pytest.approx(1)
        assert weight[2] == 0
    # To the bit what it was before powers.
    before = torch.where(counts > 0, counts.clamp(min=1).double().rsqrt(), 0)
    assert torch.equal(class_weights(counts, 0.5), (before * counts.sum() / (before * counts).sum()).float())
    mass = with_minimum_share(np.array([1e6, 3.0, 0.0]))
    assert mass.tolist() == [1e6, pytest.approx(MIN_SHARE * 1e6, rel=1e-4), 0]


def test_even_crops_are_around_every_class_alike(
    store: SceneStore, labels: LabelStore, spread: PredictionStore
) -> None:
    known, answered = known_labels(store, labels)
    learned = Spread(spread, store, labels, known, answered)
    chosen = store.table.choose("train")
    for source in (learned, None):
        shares = {}
        for even in (0.0, 1.0):
            settings = replace(POINTS, max_voxels=60, batch=1, even_crops=even, voxel=0.05)
            batches = BatchDataset(store, chosen, known, settings, color=True, seed=0, spread=source)
            there = np.zeros(13)
            for step in range(60):
                batch = batches[step]
                found = batch.label if batch.soft is None else batch.soft.target.argmax(1)[batch.soft.weight > 0]
                there[np.unique(found[found >= 0].numpy())] += 1
            shares[even] = there
        present = shares[1.0] > 0
        rare = present & (shares[0.0] < 6)
        assert rare.any()
        assert shares[1.0][rare].sum() > 1.5 * shares[0.0][rare].sum()
    # Where no share is asked for nothing is drawn for it: the batches of other presets stay as they were.
    plain = BatchDataset(store, chosen, known, replace(POINTS, even_crops=0.0), color=True, seed=0)
    before = BatchDataset(
        store, chosen, known, replace(PRESETS["small"], voxel=0.12, max_voxels=1500), color=True, seed=0
    )
    assert torch.equal(plain[3].student.features, before[3].student.features)


# Superpoints as inputs


def test_columns_of_superpoints_reach_their_voxels(store: SceneStore, labels: LabelStore) -> None:
    chosen, read = store.table.choose("train"), open_superpoints(store).read
    inputs = SuperpointInputs.from_store(store, chosen, read)
    scene = chosen[0]
    superpoints = read(scene)
    columns = inputs.columns(store, scene, superpoints)
    assert len(inputs.names) == columns.value.shape[1] == 32
    assert columns(np.array([4, 2])).tolist() == columns.value[superpoints.superpoint[[4, 2]]].tolist()
    settings = replace(FEW, max_voxels=0, batch=1, teacher=True, even_crops=0.0)
    known, _ = known_labels(store, labels)
    batch = BatchDataset(store, [scene], known, settings, color=True, seed=0, further=lambda _, __: columns)[0]
    assert batch.teacher is not None
    assert batch.teacher.features.shape[1] == 3 + 32 + 3
    first = np.unique(batch.teacher.inverse.numpy(), return_index=True)[1]
    np.testing.assert_array_equal(batch.teacher.features[:, 3:35].numpy(), columns(first))
    # The student: one shift for all voxels, or a blank column.
    first = np.unique(batch.student.inverse.numpy(), return_index=True)[1]
    shown, true = batch.student.features[:, 3:35].numpy(), columns(first)
    blank = ~shown.any(axis=0)
    assert 0 < blank.sum() < 12
    shift = (shown - true)[:, ~blank]
    assert np.ptp(shift, axis=0).max() < 1e-5
    assert 0.05 < shift[0].std() < 0.4


def test_augmentation_of_columns_is_as_strong_as_it_says() -> None:
    rng = np.random.default_rng(0)
    drawn = np.stack([augment(np.full((1, 32), 5, np.float32), rng)[0] for _ in range(300)])
    assert drawn.dtype == np.float32
    assert np.mean(drawn == 0) == pytest.approx(0.1, abs=0.01)
    assert drawn[drawn != 0].std() == pytest.approx(SHIFT, rel=0.05)


def test_the_checkpoint_holds_what_prediction_needs(
    store: SceneStore, labels: LabelStore, spread: PredictionStore, tmp_path: Path
) -> None:
    model = train(store, labels, FEW, spread=spread, run=tmp_path / "few.pt")
    back = load(tmp_path / "few.pt")
    assert back.channels == ("red", "green", "blue", *(f"likeness_{n}" for n in range(1, 33)), "x", "y", "z")
    assert back.settings == FEW
    assert back.spread == model.spread > 1000
    assert back.superpoints is not None
    assert back.superpoints.appearance == "colour"
    assert model.superpoints is not None
    feature = open_superpoints(store).read(store.table.choose("val")[0]).feature
    assert np.array_equal(back.superpoints.likeness(feature), model.superpoints.likeness(feature))
    content = torch.load(tmp_path / "few.pt", weights_only=True)
    assert all(isinstance(table, Tensor) for table in content["likeness"].values())
    shown = dict(describe(tmp_path / "few.pt").lines())
    assert shown["channels"] == "red green blue likeness_1 to likeness_32 x y z"
    assert shown["spread to points"] == f"{model.spread:,}"
    done = list(predict(back, store, tmp_path / "preds.zarr", turns=2, smooth=True))
    assert len(done) == len(store.table)
    predictions = PredictionStore(tmp_path / "preds.zarr")
    scene = store.table.choose("val")[0]
    of, prob = open_superpoints(store).read(scene).superpoint, predictions.probabilities(scene).astype(np.float64)
    inputs = model.superpoints.columns(store, scene, open_superpoints(store).read(scene))
    given = SceneInput(store.points(scene), FEW.voxel, further=inputs, unit=store.unit)
    alone = predict_points(model.network(), given, turns=2, device=CPU)
    np.testing.assert_allclose(prob, alone.smoothed(of).prob, atol=2e-3)
    assert np.abs(prob - alone.prob).max() > 0.01
    # All labels, no spread.
    whole = train(store, None, replace(FEW, steps=2))
    assert whole.superpoints is not None
    assert whole.spread == 0


def test_scenes_of_other_superpoints_are_refused(store: SceneStore, office: Path, tmp_path: Path) -> None:
    model = train(store, None, replace(FEW, steps=1))
    # As finely as a room is scanned; the others are as coarse as a street.
    prepare(office, tmp_path / "fine.zarr", grid=0.05)
    with pytest.raises(HpalError, match=r"superpoints of \d+ numbers each, and the model needs \d+: .* scale;"):
        list(predict(model, SceneStore(tmp_path / "fine.zarr"), tmp_path / "preds.zarr"))
    assert not (tmp_path / "preds.zarr").exists()
    rng = np.random.default_rng(0)
    (tmp_path / "grey").mkdir()
    np.savetxt(tmp_path / "grey" / "a.xyz", rng.random((500, 3)) * 4)
    prepare(tmp_path / "grey", tmp_path / "grey.zarr", grid=0.15, classes=store.classes)
    with pytest.raises(HpalError, match="has no colour, which the model needs"):
        list(predict(model, SceneStore(tmp_path / "grey.zarr"), tmp_path / "preds.zarr"))
    plain = replace(model, color=False)
    with pytest.raises(HpalError, match="has nothing beside its positions, and the model's scenes had colour"):
        list(predict(plain, SceneStore(tmp_path / "grey.zarr"), tmp_path / "preds.zarr"))


def test_init_brings_its_tables_with_it(store: SceneStore, labels: LabelStore) -> None:
    before = train(store, None, replace(FEW, steps=1))
    assert before.superpoints is not None
    moved = replace(
        before.superpoints,
        likeness=replace(before.superpoints.likeness, deviation=2 * before.superpoints.likeness.deviation),
    )
    after = train(store, labels, replace(FEW, steps=1, lr=0.0), init=replace(before, superpoints=moved))
    assert after.superpoints is not None
    assert np.array_equal(after.superpoints.likeness.deviation, moved.likeness.deviation)
    assert after.labels != train(store, labels, replace(FEW, steps=1, lr=0.0), init=before).labels
    with pytest.raises(UsageError, match="--init: its inputs is superpoints, this run's is points"):
        train(store, labels, POINTS, init=before)


def test_checkpoints_of_before_still_load(store: SceneStore, labels: LabelStore, tmp_path: Path) -> None:
    model = train(store, labels, replace(POINTS, steps=1, class_weights=0.5), run=tmp_path / "new.pt")
    content = torch.load(tmp_path / "new.pt", weights_only=True)
    meta = json.loads(content["hpal"])
    assert meta["spec"] == 2
    meta["spec"] = 1
    for name in ("inputs", "minutes", "even_crops", "teacher_after", "average"):
        del meta["settings"][name]
    del meta["spread"], meta["appearance"], content["likeness"]
    for named, power in (("sqrt", 0.5), ("none", 0.0)):
        meta["settings"]["class_weights"] = named
        content["hpal"] = json.dumps(meta)
        torch.save(content, tmp_path / "old.pt")
        old = load(tmp_path / "old.pt")
        assert old.settings.class_weights == power
        assert old.settings.inputs == "points"
        assert old.superpoints is None
        assert same(old, model)


# The run


def test_a_run_of_all_options_resumes_to_the_same_bytes(
    store: SceneStore, labels: LabelStore, spread: PredictionStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = replace(FEW, teacher=True, teacher_after=0.5)
    train(store, labels, settings, spread=spread, run=tmp_path / "whole.pt", save_every=2)
    with cut_at(5):
        train(store, labels, settings, spread=spread, run=tmp_path / "cut.pt", save_every=2)
    assert load(tmp_path / "cut.pt.unfinished").step == 4
    other = write_spread(tmp_path / "other.zarr", store, labels, lambda truth: mostly_right(np.maximum(truth, 1)))
    with pytest.raises(HpalError, match="other labels"):
        train(store, labels, settings, spread=other, run=tmp_path / "cut.pt", resume=True)
    with pytest.raises(HpalError, match="other labels"):
        train(store, labels, settings, run=tmp_path / "cut.pt", resume=True)
    train(store, labels, settings, spread=spread, run=tmp_path / "cut.pt", resume=True)
    assert (tmp_path / "whole.pt").read_bytes() == (tmp_path / "cut.pt").read_bytes()


def test_the_average_is_what_is_saved(
    store: SceneStore, labels: LabelStore, spread: PredictionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    learn, steps = _Run._step, []

    def listen(self: _Run, ready: DeviceBatch, rate: float) -> object:
        done = learn(self, ready, rate)
        steps.append({name: value.clone() for name, value in self.student.state_dict().items()})
        return done

    monkeypatch.setattr(_Run, "_step", listen)
    model = train(store, labels, POINTS, spread=spread)
    assert len(steps) == 6
    torch.manual_seed(0)
    average = train(store, labels, replace(POINTS, lr=0.0, steps=1, average=False, weight_decay=0.0), spread=spread)
    network = average.network()
    # The weights that training starts from, and batch norm as it starts.
    fresh = network.state_dict() | {
        name: torch.zeros_like(value) if name.endswith("mean") else torch.ones_like(value)
        for name, value in network.state_dict().items()
        if name.endswith(("running_mean", "running_var"))
    }
    network.load_state_dict(fresh)
    follower = average.network()
    for count, state in enumerate(steps[:6], 1):
        follower.load_state_dict(state)
        update_ema(network, follower, min(0.99, count / (count + 10)))
    for name, value in network.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value, model.student[name], rtol=1e-4, atol=1e-6)
    plain = train(store, labels, replace(POINTS, average=False), spread=spread)
    assert torch.equal(plain.student["classifier.weight"], steps[5]["classifier.weight"])
    assert not same(plain, model)


def test_the_teacher_waits_for_its_time(
    store: SceneStore, labels: LabelStore, spread: PredictionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    objective_ = train_module.objective

    def listen(*args: object, **names: object) -> object:
        asked.append(args[1] is not None)
        return objective_(*args, **names)  # type: ignore[arg-type]

    monkeypatch.setattr(train_module, "objective", listen)
    train(store, labels, replace(POINTS, teacher=True, teacher_after=0.5), spread=spread)
    assert asked == 3 * [False] + 3 * [True]


class Listening:
    """A monitor that keeps what it is told."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.done = self.total = 0

    def __enter__(self) -> Listening:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def task(self, what: str, total: int) -> Listening:
        self.total = total
        return self

    def advance(self, amount: int = 1, status: str = "") -> None:
        self.done += amount

    def note(self, text: str) -> None:
        self.notes.append(text)

    warn = note


def test_a_run_ends_by_the_clock(
    store: SceneStore, labels: LabelStore, spread: PredictionStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock that each step moves on by two seconds."""
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    learn, rates = _Run._step, []

    def slow(self: _Run, ready: DeviceBatch, rate: float) -> object:
        nonlocal now
        now += 2.0
        rates.append(rate)
        return learn(self, ready, rate)

    monkeypatch.setattr(_Run, "_step", slow)
    timed, heard = replace(POINTS, minutes=1.0), Listening()
    model = train(store, labels, timed, spread=spread, monitor=heard)
    assert model.step == 30
    assert (heard.done, heard.total) == (60, 60)
    assert [note for note in heard.notes if "steps in 1 minutes" in note] == heard.notes
    assert heard.notes[0].startswith("about 30 steps")
    assert rates[0] == timed.lr
    assert rates == sorted(rates, reverse=True)
    assert rates[15] == pytest.approx(timed.lr / 2)
    # Interrupted after 40 seconds, it has 20 left, however long it lay.
    monkeypatch.setattr(_Run, "_step", lambda self, ready, rate: stop(self, ready, rate))

    def stop(self: _Run, ready: DeviceBatch, rate: float) -> object:
        if self.step == 20:
            raise KeyboardInterrupt
        return slow(self, ready, rate)

    with pytest.raises(KeyboardInterrupt):
        train(store, labels, timed, spread=spread, run=tmp_path / "timed.pt", save_every=1)
    now += 9000.0
    monkeypatch.setattr(_Run, "_step", slow)
    resumed = train(store, labels, timed, spread=spread, run=tmp_path / "timed.pt", resume=True)
    assert 30 <= resumed.step <= 31


def test_the_pace_of_steps_is_that_of_the_schedule() -> None:
    pace = RunProgress(POINTS, 0.0)
    assert (pace.total, pace.share(3, 77.0), pace.reached(3)) == (6, 0.5, 3)
    assert pace.rate(0, 0.9) == POINTS.lr
    assert learning_rate_at(replace(POINTS, schedule="polynomial"), 0.5) == pytest.approx(POINTS.lr * 0.5**0.9)
    assert learning_rate_at(POINTS, 1.0) == pytest.approx(0)


# Prediction


class Plan(nn.Module):
    """Says how far along x a voxel lies, so that every turn says something else."""

    def forward(self, features: Tensor, geometry: Geometry) -> tuple[Tensor, Tensor]:
        logits = torch.stack([features[:, -3], torch.zeros(len(features))], dim=1)
        return logits, features


def some_points() -> Points:
    rng = np.random.default_rng(1)
    xyz = (rng.random((4000, 3)) * [9, 5, 2]).astype(np.float32)
    return Points(xyz, np.zeros(3), rng.integers(0, 256, (4000, 3)).astype(np.uint8))


def test_turned_predictions_are_the_mean_over_the_turns() -> None:
    points, network = some_points(), Plan()
    of = np.arange(4000, dtype=np.int32) % 50
    columns = SuperpointColumns(of, np.random.default_rng(0).random((50, 4)).astype(np.float32))
    scene = SceneInput(points, 0.2, further=columns)
    found = predict_points(network, scene, turns=3, device=CPU)  # type: ignore[arg-type]
    total = np.zeros((4000, 2))
    for turn in range(3):
        xyz = rotated(scene_origin(points.xyz, 1.0), 2 * np.pi * turn / 3)
        inputs = voxelise([(xyz, concatenated(unit_color(points.rgb), columns(slice(None))))], 0.2)
        total += network(inputs.features, None)[0].softmax(1)[inputs.inverse].numpy()  # type: ignore[arg-type]
    np.testing.assert_allclose(found.prob, total / 3, atol=1e-6)
    once = predict_points(network, scene, device=CPU)  # type: ignore[arg-type]
    assert np.array_equal(found.feat, once.feat)
    assert found.feat.shape[1] == 3 + 4 + 3
    assert np.abs(found.prob - once.prob).max() > 0.3
    with pytest.raises(UsageError, match="--turns"):
        predict_points(network, SceneInput(points, 0.2), turns=0, device=CPU)  # type: ignore[arg-type]


def test_a_turned_scene_in_tiles_is_what_it_is_as_a_whole(tmp_path: Path) -> None:
    points, network = some_points(), Plan()
    columns = SuperpointColumns(
        np.arange(4000, dtype=np.int32), np.random.default_rng(0).random((4000, 2)).astype(np.float32)
    )
    scene, given = SceneInput(points, 0.05, further=columns), {"turns": 4, "device": CPU}
    whole = predict_points(network, scene, **given)  # type: ignore[arg-type]
    with predict_large(network, scene, max_voxels=1500, folder=tmp_path, **given) as done:  # type: ignore[arg-type]
        np.testing.assert_allclose(done.prob, whole.prob, atol=1e-5)
        np.testing.assert_allclose(done.feat, whole.feat, atol=5e-3)


def test_smoothing_is_half_of_the_mean_of_each_part(monkeypatch: pytest.MonkeyPatch) -> None:
    from hpal_cli.predictions import prediction

    # Parts go across the blocks in which points are read.
    monkeypatch.setattr(prediction, "CHUNK_ROWS", 700)
    of = np.random.default_rng(3).integers(0, 40, 4000).astype(np.int32)
    for turns in (1, 2):
        found = predict_points(Plan(), SceneInput(some_points(), 0.2), turns=turns, device=CPU)  # type: ignore[arg-type]
        smooth = found.smoothed(of)
        mean = np.stack([found.prob[of == part].mean(axis=0) for part in range(40)])
        np.testing.assert_allclose(smooth.prob, (found.prob + mean[of]) / 2, atol=1e-6)
        assert np.array_equal(smooth.feat, found.feat)


# At the command line


def test_the_commands_do_all_of_it(
    hpal: Callable[..., Done], scenes: Path, labels: LabelStore, spread: PredictionStore, tmp_path: Path
) -> None:
    tiny = ("--voxel", "15cm", "--max-voxels", "1000")
    model, preds = tmp_path / "few.pt", tmp_path / "preds.zarr"
    done = hpal("train", scenes, "--labels", labels.path, "--spread", spread.path, "-o", model, *tiny, "--steps", 3)
    assert done.rc == 0, done.err
    assert "few preset, small network, 3 steps on cpu" in done.err
    assert "minkowski" not in done.err
    assert " points, spread from 29 labelled points; next: hpal predict" in done.err
    assert load(model).settings.average
    done = hpal("predict", model, scenes, "-o", preds, "--turns", 2, "--smooth")
    assert done.rc == 0, done.err
    assert PredictionStore(preds).feature_count(SceneStore(scenes).table[0]) == 96
    done = hpal("info", model)
    assert "likeness_1 to likeness_32" in done.out.decode()
    timed = ("--labels", "all", "--inputs", "superpoints", "--class-weights", "0.3", "--minutes", "0.02")
    done = hpal("train", scenes, *timed, "-o", tmp_path / "timed.pt", *tiny)
    assert done.rc == 0, done.err
    assert "small preset, small network, 0.02 minutes on cpu" in done.err
    assert "does not repeat to the bit" in done.err


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (
            ("--preset", "few"),
            "--preset few: learns from spread answers, and --spread is missing; make",
        ),
        (("--steps", "5", "--minutes", "2"), "--minutes: ends the training after a time"),
        (("--supervised-only", "--teacher-after", "0.5"), "--teacher-after: is for the teacher"),
        (("--class-weights", "-1"), "--class-weights: '-1' is unknown; choose from none, sqrt"),
        (("--inputs", "label"), "--inputs: label holds what the network shall learn; leave it out"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    hpal: Callable[..., Done], scenes: Path, labels: LabelStore, tmp_path: Path, options: tuple[str, ...], problem: str
) -> None:
    done = hpal("train", scenes, "--labels", labels.path, "-o", tmp_path / "model.pt", *options)
    assert done.rc == 2
    assert problem in done.err
    assert done.err.count("\n") == 1


def test_a_spread_brings_its_preset_and_drops_the_teacher(hpal: Callable[..., Done]) -> None:
    def shown(*options: str) -> dict[str, str]:
        done = hpal("train", *options, "--show")
        assert done.rc == 0, done.err
        return dict(line.split(maxsplit=1) for line in done.out.decode().splitlines())

    few = shown("--device", "cpu", "--spread", "x.zarr")
    assert few == shown("--preset", "few")
    assert (few["inputs"], few["class_weights"], few["even_crops"].split()[0], few["average"], few["teacher"]) == (
        "superpoints", "0.3", "0.3", "True", "False",
    )  # fmt: skip
    assert shown("--preset", "small", "--spread", "x.zarr")["teacher"] == "False"
    late = shown("--preset", "few", "--teacher-after", "0.5")
    assert (late["teacher"], late["teacher_after"].split()[0]) == ("True", "0.5")
    assert shown("--class-weights", "none", "--preset", "few")["class_weights"] == "0.0"
