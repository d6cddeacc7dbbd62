"""A labels store over time: undoing, open queries, the log, and two who write at once."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import Done, tree

from hpal_cli.errors import HpalError
from hpal_cli.history import Entry
from hpal_cli.info import describe
from hpal_cli.label.log import read_log
from hpal_cli.labels.store import ANSWER, QUERY, LabelStore
from hpal_cli.scenes.store import SceneStore
from hpal_cli.store import envelope

Hpal = Callable[..., Done]

BY = Entry("test", "0", ())


def answers(scene: int, index: list[int], label: list[int]) -> np.ndarray:
    rows = np.zeros(len(index), ANSWER)
    rows["scene"], rows["index"], rows["label"] = scene, index, label
    return rows


@pytest.fixture
def labels(scenes: Path, tmp_path: Path) -> LabelStore:
    store = SceneStore(scenes)
    return LabelStore.create(tmp_path / "l.zarr", store.classes, store.table)


def latest(labels: LabelStore) -> list[tuple[int, int, int]]:
    return [(int(r["index"]), int(r["label"]), int(r["round"])) for r in LabelStore(labels.path).latest()]


def test_a_round_is_undone_and_comes_back(labels: LabelStore) -> None:
    labels.append(answers(0, [1, 2], [3, 4]), "a", BY)
    labels.append(answers(0, [2, 3], [5, -1]), "b", BY)
    before = tree(labels.path)
    assert labels.undo(1, "person", BY).round == 2
    assert latest(labels) == [(1, 3, 0), (2, 4, 0)]
    assert {name: data for name, data in tree(labels.path).items() if name in before} == before
    assert [(b.round, b.stands) for b in labels.batches()] == [(0, True), (1, False), (2, True)]
    # What comes after is not touched, whatever its round.
    labels.append(answers(0, [3], [6]), "c", BY)
    assert latest(labels) == [(1, 3, 0), (2, 4, 0), (3, 6, 3)]
    labels.undo(2, "person", BY)
    assert latest(labels) == [(1, 3, 0), (2, 5, 1), (3, 6, 3)]
    # And undone anew; the undoing of an undoing is undone like any other.
    labels.undo(4, "person", BY)
    assert latest(labels) == [(1, 3, 0), (2, 4, 0), (3, 6, 3)]
    assert labels.answered(labels.table.id, "x")[0].tolist() == [1, 2, 3]


def test_an_undone_answer_may_be_given_again(labels: LabelStore) -> None:
    rows = answers(0, [1], [3])
    labels.append(rows, "a", BY)
    assert labels.append_new(rows, "a", BY) is None
    labels.undo(0, "person", BY)
    assert labels.append_new(rows, "a", BY) is not None
    assert latest(labels) == [(1, 3, 2)]


def test_an_answer_is_no_repeat_if_another_writer_changed_it_meanwhile(
    labels: LabelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels.append(answers(0, [1], [3]), "a", BY)
    rename, others = os.rename, [answers(0, [1, 3], [4, 5])]

    def after_another(old: Path, new: Path) -> None:
        if others:
            LabelStore(labels.path).append(others.pop(), "b", BY)
        rename(old, new)

    monkeypatch.setattr("hpal_cli.labels.store.os.rename", after_another)
    batch = labels.append_new(answers(0, [1, 2, 3], [3, 6, 5]), "c", BY)
    assert batch is not None
    assert batch.round == 2
    assert batch.rows["index"].tolist() == [1, 2], "the answer to 3 is known by now"
    assert latest(labels) == [(1, 3, 2), (2, 6, 2), (3, 5, 1)]
    assert labels.append_new(answers(0, [1, 3], [3, 5]), "c", BY) is None
    assert len(labels.batches()) == 3


def test_what_cannot_be_undone(labels: LabelStore) -> None:
    labels.ask(np.array([(0, 1)], QUERY), "q", BY)
    with pytest.raises(HpalError, match="no round 0; choose one of its rounds: none yet"):
        labels.undo(0, "person", BY)
    labels.append(answers(0, [1], [3]), "a", BY)
    labels.append(answers(0, [1], [4]), "a", BY)
    before = tree(labels.path)
    with pytest.raises(HpalError, match="no round 7; choose one of its rounds: 0, 1"):
        labels.undo(7, "person", BY)
    assert tree(labels.path) == before
    labels.undo(1, "person", BY)
    with pytest.raises(HpalError, match="undone already"):
        labels.undo(1, "person", BY)


def test_a_round_is_undone_once_if_two_undo_it(labels: LabelStore, monkeypatch: pytest.MonkeyPatch) -> None:
    labels.append(answers(0, [1], [3]), "a", BY)
    rename, others = os.rename, ["another"]

    def after_another(old: Path, new: Path) -> None:
        if others:
            LabelStore(labels.path).undo(0, others.pop(), BY)
        rename(old, new)

    monkeypatch.setattr("hpal_cli.labels.store.os.rename", after_another)
    with pytest.raises(HpalError, match="round 0 is undone already"):
        labels.undo(0, "late", BY)
    assert [batch.source for batch in labels.batches()] == ["a", "another"]


def test_asking_is_no_round(labels: LabelStore) -> None:
    asked = np.array([(0, 1), (0, 2), (1, 5)], QUERY)
    assert labels.ask(asked, "table q.csv", BY).round == -1
    assert labels.append(answers(0, [2], [3]), "a", BY).round == 0
    assert labels.ask(asked[:1], "table q.csv", BY).round == 0
    assert labels.append(answers(0, [9], [-1]), "a", BY).round == 1
    assert len(labels.asked()) == 3
    assert labels.unanswered().tolist() == [(0, 1), (1, 5)]
    labels.append(answers(0, [1], [-1]), "a", BY)
    assert labels.unanswered().tolist() == [(1, 5)]
    # An answer that does not count leaves its query open.
    labels.undo(0, "person", BY)
    assert labels.unanswered().tolist() == [(0, 2), (1, 5)]
    assert describe(labels.path, check=True).facts["queries"] == {"asked": 3, "open": 2}
    with pytest.raises(HpalError, match="no point 1000000"):
        labels.ask(np.array([(0, 10**6)], QUERY), "q", BY)


def test_a_store_of_before_is_read(labels: LabelStore) -> None:
    """Without `undoes`, `open_scene` and `open_index`, as the first version wrote it."""
    labels.append(answers(0, [1], [3]), "a", BY)
    about = json.loads((labels.path / "answers" / "000000" / "zarr.json").read_text())
    assert set(about["attributes"]) == {"round", "source", "time", "history", envelope.CHECKSUM}
    assert {p.name for p in (labels.path / "answers" / "000000").iterdir()} == {
        "zarr.json",
        "scene",
        "index",
        "label",
        "xyz",
    }


def test_the_log_counts(labels: LabelStore, hpal: Hpal) -> None:
    labels.ask(np.array([(0, 1), (0, 2)], QUERY), "table q.csv", BY)
    labels.append(answers(0, [1, 2, 3], [3, -1, 4]), "table q.csv", BY)
    labels.append(answers(0, [1, 2], [5, 6]), "a person", BY)
    labels.append(answers(1, [8], [1]), "oops", BY)
    labels.undo(2, "hpal label --undo", BY)
    log = read_log(labels)
    assert [logged[1:] for logged in log.batches] == [(0, 0, 0), (1, 0, 1), (0, 2, 2), (0, 0, 0), (0, 0, 0)]
    assert log.counts.tolist() == [False, False, True, True, True, False]
    done = hpal("label", "--log", labels.path)
    assert done.rc == 0, done.err
    assert done.err == ""
    lines = done.out.decode().splitlines()[2:]
    assert [line.split()[0] for line in lines] == ["-", "0", "1", "2", "3"]
    assert all("T" in line.split()[1] and line.split()[1].endswith("Z") for line in lines)
    assert "asks 2" in lines[0]
    assert "undone" in lines[3]
    assert "undoes 2" in lines[4]
    every = hpal("label", "--log", "-o", labels.path, "-v").out.decode()
    listed = [line.split("\t") for line in every.split("\n\n")[1].splitlines()]
    assert listed[0] == ["round", "scene", "index", "label", "counts"]
    assert listed[2] == ["0", labels.table[0].name, "2", "unsure", "no"]
    assert [line[-1] for line in listed[1:]] == ["no", "no", "yes", "yes", "yes", "no"]


def test_every_way_is_named_if_none_is_given(hpal: Hpal) -> None:
    done = hpal("label", "s.ply")
    assert done.rc == 2
    for way in ("--oracle", "--table", "--clips", "--from", "--log", "--undo"):
        assert done.err.count(way) == 1, "in what to do"


def test_undo_is_a_command(labels: LabelStore, hpal: Hpal) -> None:
    labels.append(answers(0, [1, 2], [3, 4]), "a", BY)
    done = hpal("label", "--undo", "0", labels.path)
    assert done.rc == 0, done.err
    assert done.out == b""
    assert "round 1 undoes round 0; 0 labelled points left" in done.err
    assert latest(labels) == []
    wrong = hpal("label", "--undo", "9", labels.path)
    assert wrong.rc == 1
    assert wrong.err == f"hpal label: {labels.path}: has no round 9; choose one of its rounds: 0, 1\n"
    assert hpal("label", "--undo", "1", labels.path, "-o", labels.path).rc == 2
    assert hpal("label", "--log").rc == 2
    assert hpal("label", "--log", "--undo", "1", labels.path).rc == 2


def _write(path: str, who: int, turns: int) -> None:
    labels = LabelStore(Path(path))
    for n in range(turns):
        batch = labels.append(answers(who, [n, 100], [n % 5, n % 5]), f"process {who}", BY)
        if n % 10 == 9:
            labels.undo(batch.round, f"process {who}", BY)


def test_two_processes_that_never_wait_lose_nothing(labels: LabelStore) -> None:
    turns = 40
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_write, args=(str(labels.path), who, turns)) for who in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        # Each answer waits for the disk.
        worker.join(300)
    assert [worker.exitcode for worker in workers] == [0, 0]
    batches = labels.batches()
    assert len(batches) == 2 * (turns + turns // 10)
    assert len({batch.round for batch in batches}) == len(batches)
    for who in range(2):
        mine = [batch for batch in batches if batch.source == f"process {who}"]
        given = [int(batch.rows["index"][0]) for batch in mine if len(batch.rows)]
        assert given == list(range(turns)), "in order, each once"
        assert [int(b.rows["index"][0]) for b in mine if not b.stands] == [9, 19, 29, 39]
    assert len(labels.latest()) == 2 * (turns - turns // 10 + 1)
    assert not list(labels.path.parent.rglob(".*.partial"))


def _append_but(labels: LabelStore, at_the_end: Callable[[], object]) -> None:
    rename = os.rename

    def late(old: Path, new: Path) -> None:
        at_the_end()
        rename(old, new)

    os.rename = late
    labels.append(answers(0, [1], [3]), "late", BY)


def test_what_a_killed_writer_left_goes_and_what_is_being_written_stays(labels: LabelStore) -> None:
    context = multiprocessing.get_context("fork")
    killed = context.Process(target=_append_but, args=(labels, lambda: os.kill(os.getpid(), signal.SIGKILL)))
    killed.start()
    killed.join(60)
    assert killed.exitcode == -signal.SIGKILL
    folder = labels.path.parent
    dead = {path.name for path in folder.glob(".l.zarr.*.partial")}
    assert len(dead) == 1

    begun, release = context.Event(), context.Event()
    slow = context.Process(target=_append_but, args=(labels, lambda: (begun.set(), release.wait(60))))
    slow.start()
    assert begun.wait(60)
    written = {path.name for path in folder.glob(".l.zarr.*.partial")}
    assert len(written) == 1
    assert not written & dead
    labels.append(answers(0, [2], [4]), "quick", BY)
    assert {path.name for path in folder.glob(".l.zarr.*.partial")} == written
    release.set()
    slow.join(60)
    assert slow.exitcode == 0
    assert [batch.source for batch in labels.batches()] == ["quick", "late"]
    assert [path.name for path in folder.iterdir()] == ["l.zarr"]
