"""No point is asked about twice, whoever scores it and whatever the answer was."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import Done, fake_predictions

from hpal_cli.errors import HpalError
from hpal_cli.labels.store import LabelStore
from hpal_cli.store.envelope import attributes_of
from hpal_cli.stream.points import PointReader

Hpal = Callable[..., Done]


def asked(stream: bytes) -> set[tuple[int, int]]:
    rows = PointReader(io.BytesIO(stream), "test").read()
    return set(zip(rows["scene"].tolist(), rows["index"].tolist(), strict=True))


@pytest.mark.parametrize("strategy", ["random", "hmmu"])
def test_answers_given_since_training_are_left_out(
    strategy: str, scenes: Path, predictions: Path, tmp_path: Path, hpal: Hpal
) -> None:
    source = scenes if strategy == "random" else predictions
    labels = tmp_path / "labels.zarr"
    everything = hpal("score", source, "--strategy", strategy, "-q").out
    first = hpal("select", "--budget", "40", "--no-fds", "-q", stdin=everything).out
    assert hpal("label", "--oracle", scenes, "-o", labels, "-q", stdin=first).rc == 0
    fresh = hpal("score", source, "--strategy", strategy, "--labels", labels, "-q").out
    assert asked(fresh) == asked(everything) - asked(first)
    # The same from a stream that does not know of the answers.
    second = hpal("select", "--budget", "40", "--no-fds", "--labels", labels, "-q", stdin=everything).out
    assert len(asked(second)) == 40
    assert not asked(second) & asked(first)
    again = hpal("label", "--oracle", scenes, "-o", labels, stdin=first)
    assert "40 of these points were answered before" in again.err
    assert [len(batch.rows) for batch in LabelStore(labels).batches()] == [40]


def test_unsure_is_an_answer(scenes: Path, predictions: Path, tmp_path: Path, hpal: Hpal) -> None:
    labels, table = tmp_path / "labels.zarr", tmp_path / "queries.csv"
    picked = hpal("score", predictions, "-q").out
    picked = hpal("select", "--budget", "6", "-q", stdin=picked).out
    assert hpal("label", "--table", table, stdin=picked).rc == 0
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["predicted"] for row in rows} <= set(attributes_of_names(predictions))
    for row, label in zip(rows, ["unsure", "wall", "3", "", "Unsure", ""], strict=True):
        row["label"] = label
    # As a European spreadsheet saves it.
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys(), delimiter=";")
        writer.writeheader()
        writer.writerows(rows)
    taken = hpal("label", "--from", table, "--source", predictions, "-o", labels)
    assert taken.rc == 0, taken.err
    assert "4 answers (2 unsure)" in taken.err
    assert "2 rows" in taken.err
    answers = LabelStore(labels).latest()
    assert sorted(answers["label"].tolist()) == [-1, -1, 2, 3]
    left = hpal("score", predictions, "--labels", labels, "-q").out
    assert not asked(left) & set(zip(answers["scene"].tolist(), answers["index"].tolist(), strict=True))
    over = hpal("label", "--table", table, "--overwrite", stdin=picked)
    assert over.rc == 1
    assert "holds 4 answers" in over.err
    # The same table once more is no new round.
    assert "known already" in hpal("label", "--from", table, "-o", labels).err
    assert len(LabelStore(labels).batches()) == 1


def attributes_of_names(store: Path) -> list[str]:
    attributes = attributes_of(store)
    assert attributes is not None
    return [row["name"] for row in attributes["classes"]]


def test_guesses_of_other_predictions_are_refused(
    predictions: Path, other_scenes: Path, tmp_path: Path, hpal: Hpal
) -> None:
    other = fake_predictions(other_scenes, tmp_path / "other.zarr")
    picks = hpal("select", "-q", stdin=hpal("score", predictions, "-q").out).out
    done = hpal("label", "--table", tmp_path / "q.csv", "--source", other, stdin=picks)
    assert done.rc == 1
    assert "other scenes" in done.err
    assert not (tmp_path / "q.csv").exists()


def test_two_streams_in_one_are_no_stream(predictions: Path, hpal: Hpal) -> None:
    one = hpal("score", predictions, "-q", "--no-history").out
    with pytest.raises(HpalError, match="goes on after"):
        PointReader(io.BytesIO(one + one), "test").read()
    assert b"history" not in one[: one.index(b"end_header")]
    assert len(PointReader(io.BytesIO(one), "test").read()) > 0
    assert np.isfinite(PointReader(io.BytesIO(one), "test").read()["score"]).all()
