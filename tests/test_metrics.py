"""Metrics against scikit-learn, and one evaluation that can be done by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import plyfile
import pytest
import zarr
from conftest import Done
from sklearn import metrics as sk

from hpal_cli.classes import ClassTable
from hpal_cli.errors import HpalError
from hpal_cli.evaluation.evaluate import evaluate
from hpal_cli.evaluation.metrics import Metrics, confusion_matrix
from hpal_cli.evaluation.sample import evaluate_sample
from hpal_cli.history import Entry
from hpal_cli.labels.store import ANSWER, LabelStore
from hpal_cli.predictions.store import PredictionStore, write_scene
from hpal_cli.scenes.prepare import prepare
from hpal_cli.scenes.store import SceneStore
from hpal_cli.store import envelope


@pytest.mark.parametrize("classes", [2, 5, 13, 20])
@pytest.mark.parametrize("seed", range(3))
def test_against_scikit_learn(classes: int, seed: int) -> None:
    rng = np.random.default_rng([classes, seed])
    truth = rng.integers(0, classes, 400)
    predicted = np.where(rng.random(400) < 0.6, truth, rng.integers(0, classes, 400))
    found = Metrics.from_confusion(confusion_matrix(truth, predicted, classes))
    every = np.arange(classes)
    np.testing.assert_array_equal(found.confusion, sk.confusion_matrix(truth, predicted, labels=every))
    np.testing.assert_allclose(found.iou, sk.jaccard_score(truth, predicted, labels=every, average=None))
    assert found.miou == pytest.approx(sk.jaccard_score(truth, predicted, labels=every, average="macro"))
    assert found.accuracy == pytest.approx(sk.accuracy_score(truth, predicted))
    assert found.class_accuracy == pytest.approx(sk.balanced_accuracy_score(truth, predicted))
    assert found.points == 400


def test_rows_are_the_truth() -> None:
    found = confusion_matrix(np.array([0, 0, 0]), np.array([1, 1, 0]), 2)
    assert found.tolist() == [[1, 2], [0, 0]]


def test_absent_classes_are_left_out() -> None:
    """A class in neither truth nor prediction is no part of the mean. A class that is only predicted counts as 0."""
    truth, predicted = np.array([0, 0, 1, 1]), np.array([0, 0, 1, 3])
    found = Metrics.from_confusion(confusion_matrix(truth, predicted, 6))
    np.testing.assert_array_equal(np.isnan(found.iou), [False, False, True, False, True, True])
    present = [0, 1, 3]
    np.testing.assert_allclose(found.iou[present], [1, 0.5, 0])
    assert found.miou == pytest.approx(0.5)
    assert found.miou == pytest.approx(sk.jaccard_score(truth, predicted, labels=present, average="macro"))
    # Recall has no meaning for a class that does not occur.
    assert found.class_accuracy == pytest.approx(0.75)


def test_ignored_points_do_not_count() -> None:
    rng = np.random.default_rng(1)
    truth, predicted = rng.integers(-1, 4, 300), rng.integers(0, 4, 300)
    counted = truth >= 0
    assert 0 < counted.sum() < 300
    found = confusion_matrix(truth.astype(np.int32), predicted.astype(np.uint8), 4)
    np.testing.assert_array_equal(found, sk.confusion_matrix(truth[counted], predicted[counted], labels=range(4)))


def test_small_types_do_not_overflow() -> None:
    """uint8 predictions and 200 classes: 150 * 200 does not fit a byte."""
    found = confusion_matrix(np.array([150], np.int16), np.array([199], np.uint8), 200)
    assert found[150, 199] == 1
    assert found.sum() == 1


def test_nothing_to_compare() -> None:
    found = Metrics.from_confusion(confusion_matrix(np.full(3, -1), np.zeros(3, np.uint8), 4))
    assert found.points == 0
    assert np.isnan([found.miou, found.accuracy, found.class_accuracy]).all()


def test_a_class_outside_the_table() -> None:
    for truth, predicted in (([4], [0]), ([0], [4])):
        with pytest.raises(ValueError, match="outside"):
            confusion_matrix(np.array(truth), np.array(predicted), 4)


# ---------------------------------------------------------------- a case for pen and paper

CLASSES = ClassTable.from_names(["wall", "floor", "chair", "board"])


@pytest.fixture
def by_hand(tmp_path: Path) -> tuple[Path, Path, Path]:
    """One room of three 1 m cells for `val`, and one of four points on their own for `train`.

    Cell A holds wall, wall, floor (so: wall); B chair; C an unlabelled point and floor (so: floor).
    Predicted are A wall, B floor, C floor.
    """
    points = [
        *[(0.1, 0.5, 0.5, 0), (0.2, 0.5, 0.5, 0), (0.3, 0.5, 0.5, 1)],
        (1.5, 0.5, 0.5, 2),
        *[(2.1, 0.5, 0.5, -1), (2.9, 0.5, 0.5, 1)],
    ]
    rooms = {"room": points, "train": [(n + 0.5, 0.5, 0.5, 0) for n in range(4)]}
    for name, rows in rooms.items():
        kind = [("x", "f8"), ("y", "f8"), ("z", "f8"), ("label", "i4")]
        vertex = plyfile.PlyElement.describe(np.array(rows, kind), "vertex")
        (tmp_path / "scans").mkdir(exist_ok=True)
        plyfile.PlyData([vertex]).write(str(tmp_path / "scans" / f"{name}.ply"))
    scenes, preds, labels = (tmp_path / f"{name}.zarr" for name in ("scenes", "preds", "labels"))
    table = prepare(tmp_path / "scans", scenes, grid=1.0, val=["room"], classes=CLASSES)
    assert [(s.name, s.points, s.original) for s in table] == [("room", 3, 6), ("train", 4, 4)]
    store = SceneStore(scenes)
    attributes = {"id": table.id, "classes": CLASSES.to_json(), "unit": 1.0, "scenes": table.to_json(), "history": []}
    with envelope.create(preds, "predictions", attributes, overwrite=False) as (root, _):
        for scene in table:
            prob = np.eye(4)[[0, 1, 1] if scene.name == "room" else [0, 0, 0, 0]]
            write_scene(
                root, scene, store.points(scene), prob, None, np.arange(3) if scene.name == "train" else np.arange(0)
            )
    answers = np.zeros(3, ANSWER)
    answers["scene"], answers["index"], answers["label"] = 1, [0, 1, 2], [0, 3, -1]
    LabelStore.create(labels, CLASSES, table).append(answers, "hand", Entry("test", "0", ()))
    return scenes, preds, labels


def test_evaluation_by_hand(by_hand: tuple[Path, Path, Path]) -> None:
    scenes, preds, labels = by_hand
    found = evaluate(PredictionStore(preds), SceneStore(scenes), labels=LabelStore(labels))
    assert found.scenes == ["room"]
    # Grid points: wall as wall, chair as floor, floor as floor.
    assert found.grid.confusion.tolist() == [[1, 0, 0, 0], [0, 1, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0]]
    np.testing.assert_allclose(found.grid.iou, [1, 1 / 2, 0, np.nan])
    assert found.grid.miou == pytest.approx(1 / 2)
    assert found.grid.accuracy == pytest.approx(2 / 3)
    # Original points have their grid point's class: 2 walls and 1 floor right, 1 floor as wall, 1 chair as floor.
    assert found.original.confusion.tolist() == [[2, 0, 0, 0], [1, 1, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0]]
    np.testing.assert_allclose(found.original.iou, [2 / 3, 1 / 3, 0, np.nan])
    assert found.original.miou == pytest.approx(1 / 3)
    assert found.original.accuracy == pytest.approx(3 / 5)
    # Two labels and one "unsure": 2 of the 4 train points, 2 of all 7.
    assert found.labelled.points == 2
    assert found.labelled.of_train == pytest.approx(2 / 4)
    assert found.labelled.of_train_and_val == pytest.approx(2 / 7)


def test_eval_says_so(by_hand: tuple[Path, Path, Path], hpal: Callable[..., Done]) -> None:
    scenes, preds, labels = by_hand
    done = hpal("eval", preds, "--truth", scenes, "--labels", labels, "--json")
    assert done.rc == 0, done.err
    found = json.loads(done.out)
    assert found["grid"]["miou"] == pytest.approx(0.5)
    assert found["original"]["iou"] == {"wall": 0.666667, "floor": 0.333333, "chair": 0.0, "board": None}
    assert found["labelled"]["percent_of_train"] == pytest.approx(50)
    assert found["labelled"]["percent_of_train_and_val"] == pytest.approx(200 / 7, abs=1e-5)
    text = hpal("eval", preds, "--truth", scenes, "--labels", labels).out.decode()
    assert "50.0000 % of train" in text
    assert "28.5714 % of train + val" in text
    assert "mIoU      50.00 %   original 33.33 %" in text
    assert "labelled  2 points: " in text
    one = LabelStore.create(scenes.with_name("one.zarr"), CLASSES, SceneStore(scenes).table)
    answer = np.zeros(1, ANSWER)
    answer["scene"] = 1
    one.append(answer, "hand", Entry("test", "0", ()))
    assert "labelled  1 point: " in hpal("eval", preds, "--truth", scenes, "--labels", one.path).out.decode()


@pytest.mark.parametrize("typed", ["--labels labels.zarr", "--labels=labels.zarr"])
def test_unsure_is_no_label_where_the_labels_of_the_training_are_there(
    by_hand: tuple[Path, Path, Path], typed: str, hpal: Callable[..., Done]
) -> None:
    """The predictions alone know of three answers, not which of them is "unsure"."""
    scenes, preds, labels = by_hand

    def found() -> tuple[int, bool]:
        labelled = evaluate(PredictionStore(preds), SceneStore(scenes)).labelled
        return labelled.points, labelled.with_unsure

    assert found() == (3, True)
    root = zarr.open_group(str(preds), mode="a")
    about = dict(root.attrs["hpal"])
    about["history"] = [Entry("hpal train", "1", ("scenes.zarr", *typed.split(), "-o", "m.pt")).to_json()]
    root.attrs["hpal"] = about
    assert found() == (2, False), "beside the predictions"
    assert "unsure" not in hpal("eval", preds, "--truth", scenes).out.decode()
    more = np.zeros(1, ANSWER)
    more["scene"], more["index"], more["label"] = 1, [3], [1]
    LabelStore(labels).append(more, "hand", Entry("test", "0", ()))
    assert found() == (2, False), "what came later was not learned from"
    labels.rename(labels.with_name("away.zarr"))
    assert found() == (3, True)
    assert "--labels STORE leaves them out" in hpal("eval", preds, "--truth", scenes).out.decode()


@pytest.fixture
def asked_about(by_hand: tuple[Path, Path, Path]) -> tuple[PredictionStore, SceneStore, LabelStore]:
    """The scenes and predictions of `by_hand`, with answers in `room`: chair for B, and "unsure" for C."""
    scenes, preds, _ = by_hand
    store = SceneStore(scenes)
    rows = np.zeros(2, ANSWER)
    rows["scene"], rows["index"], rows["label"] = store.table.by_name["room"].number, [1, 2], [2, -1]
    labels = LabelStore.create(scenes.with_name("room.zarr"), CLASSES, store.table)
    labels.append(rows, "hand", Entry("test", "0", ()))
    return PredictionStore(preds), store, labels


def test_answers_left_out_by_hand(asked_about: tuple[PredictionStore, SceneStore, LabelStore]) -> None:
    preds, scenes, labels = asked_about
    found = evaluate(preds, scenes, labels=labels, without_answers=True)
    # A alone is left of the grid points, and of the original ones those of its cell.
    assert found.left_out == 2
    assert found.grid.confusion.tolist() == [[1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert found.original.confusion.tolist() == [[2, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert (found.grid.points, found.original.points) == (1, 3)
    every = evaluate(preds, scenes, labels=labels)
    assert (every.left_out, every.grid.points, every.original.points) == (None, 3, 5)


def test_answers_that_the_predictions_know_are_left_out(by_hand: tuple[Path, Path, Path]) -> None:
    """Three of the four points of `train`, without any labels store; with one, they are still left out."""
    preds, scenes = PredictionStore(by_hand[1]), SceneStore(by_hand[0])
    for labels in (None, LabelStore(by_hand[2])):
        found = evaluate(preds, scenes, labels=labels, split="train", without_answers=True)
        assert (found.left_out, found.grid.points, found.original.points) == (3, 1, 1)
        assert found.grid.accuracy == 1


def test_eval_without_answers(by_hand: tuple[Path, Path, Path], hpal: Callable[..., Done]) -> None:
    scenes, preds, labels = by_hand
    text = hpal("eval", preds, "--truth", scenes, "--split", "train", "--without-answers").out.decode()
    assert "train: 1 scene, 1 grid point" in text
    assert "without   3 answered points\n" in text
    found = json.loads(hpal("eval", preds, "--truth", scenes, "--json", "--without-answers").out)
    assert (found["answers_left_out"], found["grid"]["points"]) == (0, 3)
    assert json.loads(hpal("eval", preds, "--truth", scenes, "--json").out)["answers_left_out"] is None
    refused = hpal("eval", preds, "--truth", labels, "--without-answers")
    assert refused.rc == 2
    assert "--without-answers" in refused.err


def test_every_point_answered_leaves_nothing_to_measure(
    by_hand: tuple[Path, Path, Path], hpal: Callable[..., Done]
) -> None:
    scenes, preds, _ = by_hand
    store = SceneStore(scenes)
    rows = np.zeros(4, ANSWER)
    rows["scene"], rows["index"] = store.table.by_name["train"].number, range(4)
    LabelStore.create(scenes.with_name("all.zarr"), CLASSES, store.table).append(rows, "hand", Entry("test", "0", ()))
    done = hpal(
        "eval", preds, "--truth", scenes, "--labels", scenes.with_name("all.zarr"), "--split", "train",
        "--without-answers",
    )  # fmt: skip
    assert done.rc == 1
    assert "every point" in done.err
    assert "--without-answers" in done.err


@pytest.fixture
def answered(by_hand: tuple[Path, Path, Path]) -> tuple[Path, Path]:
    """Predictions, and answers for the three points of `room` (wall, chair, unsure) and for `train`, three of
    which the network has learned from."""
    scenes, preds, _ = by_hand
    path = scenes.with_name("answers.zarr")
    rows = np.zeros(7, ANSWER)
    numbers = {scene.name: scene.number for scene in SceneStore(scenes).table}
    rows["scene"] = [numbers["room"]] * 3 + [numbers["train"]] * 4
    rows["index"], rows["label"] = [0, 1, 2, 0, 1, 2, 3], [0, 2, -1, 0, 0, 0, 1]
    LabelStore.create(path, CLASSES, SceneStore(scenes).table).append(rows, "hand", Entry("test", "0", ()))
    return preds, path


def test_evaluation_at_answers_by_hand(answered: tuple[Path, Path]) -> None:
    preds, answers = (PredictionStore(answered[0]), LabelStore(answered[1]))
    found = evaluate_sample(preds, answers)
    # Wall as wall, chair as floor; of the others only the last one counts: floor as wall.
    assert found.metrics.confusion.tolist() == [[1, 0, 0, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0]]
    assert (found.metrics.points, found.learned_from, found.unsure) == (3, 3, 1)
    # Wilson: (p + z^2 / 2n -+ z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n).
    z, n, p = 1.959963985, 3, 1 / 3
    middle, half = p + z * z / (2 * n), z * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    expected = [(middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n)]
    np.testing.assert_allclose(found.accuracy_interval, expected, rtol=1e-8)
    room = evaluate_sample(preds, answers, split="val")
    assert (room.scenes, room.metrics.points, room.metrics.accuracy, room.learned_from) == (["room"], 2, 0.5, 0)


def test_eval_takes_answers_for_the_truth(answered: tuple[Path, Path], hpal: Callable[..., Done]) -> None:
    preds, answers = answered
    done = hpal("eval", preds, "--truth", answers, "--figures", preds.with_name("figures"))
    assert done.rc == 0, done.err
    assert "3 answers left out, since the network has learned from them" in done.err
    text = done.out.decode()
    assert (
        "all: 3 answers in 2 of 2 scenes, 1 more unsure\naccuracy  33.33 %: of all points 6.15 to 79.23 %, with 95 %"
        in text
    )
    assert {path.name for path in preds.with_name("figures").iterdir()} == {"confusion.png", "iou.png"}
    found = json.loads(hpal("eval", preds, "--truth", answers, "--split", "val", "--json").out)
    assert found["scenes"] == ["room"]
    assert found["answers"]["accuracy"] == 0.5
    assert found["answers"]["unsure"] == 1
    assert found["answers"]["scenes"] == ["room"]
    assert len(found["answers"]["accuracy_interval"]) == 2
    refused = hpal("eval", preds, "--truth", answers, "--labels", answers)
    assert refused.rc == 2
    assert "--labels" in refused.err


def test_figures_are_drawn_both_or_none(answered: tuple[Path, Path], hpal: Callable[..., Done], tmp_path: Path) -> None:
    preds, answers = answered
    folder = tmp_path / "new" / "figures"
    folder.mkdir(parents=True)
    (folder / "iou.png").write_text("mine")
    done = hpal("eval", preds, "--truth", answers, "--figures", folder)
    assert done.rc == 1
    assert f"{folder}/iou.png: exists already; give --overwrite" in done.err
    assert [path.name for path in folder.iterdir()] == ["iou.png"]
    assert (folder / "iou.png").read_text() == "mine"


def test_answers_that_were_learned_from_measure_nothing(
    answered: tuple[Path, Path], by_hand: tuple[Path, Path, Path], other_scenes: Path
) -> None:
    preds = PredictionStore(answered[0])
    with pytest.raises(HpalError, match=r"no answers that the network has not learned from.*drawn at random"):
        evaluate_sample(preds, LabelStore(by_hand[2]), split="train")
    with pytest.raises(HpalError, match="holds no answers in these scenes"):
        evaluate_sample(preds, LabelStore(by_hand[2]), split="val")
    other = SceneStore(other_scenes)
    elsewhere = LabelStore.create(answered[1].with_name("b.zarr"), other.classes, other.table)
    with pytest.raises(HpalError, match="other scenes"):
        evaluate_sample(preds, elsewhere)


@pytest.mark.parametrize("pred", [[0, 1, 4], [0, 1], [0, 1, 1, 1]])
def test_pred_must_fit_the_scene(by_hand: tuple[Path, Path, Path], pred: list[int]) -> None:
    """A foreign store with a class too many, or rows of something else: not a number in a table."""
    scenes, preds, _ = by_hand
    group = zarr.open_group(str(preds), mode="a")["scenes/room"]
    assert isinstance(group, zarr.Group)
    del group["pred"]
    envelope.write_array(group, "pred", np.array(pred, np.uint8))
    with pytest.raises(HpalError, match=r"room.*pred"):
        evaluate(PredictionStore(preds), SceneStore(scenes))


def test_other_scenes_cannot_be_the_truth(predictions: Path, other_scenes: Path) -> None:
    with pytest.raises(HpalError, match="other scenes"):
        evaluate(PredictionStore(predictions), SceneStore(other_scenes))
