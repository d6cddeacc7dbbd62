"""What hpal prints as `next:` is typed as it stands, and does what it says."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import tempfile
from pathlib import Path

import pytest
from conftest import Done, at_a_terminal, environment, put_quick_hpal
from synthetic_scenes import Campaign, certain, rooms, synthetic_scenes

from hpal_cli.history import Entry
from hpal_cli.labels.store import LabelStore
from hpal_cli.predictions.store import PredictionStore
from hpal_cli.scenes.provenance import find_source_store
from hpal_cli.scenes.store import SceneStore

QUICK = "--preset small --voxel 20cm --steps 2 --batch 1 --device cpu --max-voxels 2000"


def terminal(script: str, cwd: Path) -> Done:
    """A bash script at a terminal, to which `hpal` is known."""
    with tempfile.TemporaryDirectory() as folder:
        path = f"{put_quick_hpal(Path(folder)).parent}:{os.environ['PATH']}"
        return at_a_terminal(["bash", "-c", script], cwd, {**environment(), "TERM": "xterm", "PATH": path})


def ok(script: str, folder: Path) -> str:
    """What appeared on the terminal, each line whole."""
    done = terminal(f"stty cols 400; {script}", folder)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", done.out.decode()).replace("\r", "\n")
    assert done.rc == 0, f"{script}\n{text}"
    return text


def following(text: str) -> str:
    (line,) = re.findall(r"next: (.*)", text)
    return line.strip()


@pytest.fixture
def folder(scenes: Path, tmp_path: Path) -> Path:
    """A folder with blanks in its name, which holds a store with blanks in its name."""
    home = tmp_path / "my work"
    home.mkdir()
    shutil.copytree(scenes, home / "the scenes.zarr")
    return home


def fill_in(table: Path, answer: str) -> None:
    with table.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        row["label"] = answer
    with table.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def test_two_rounds_of_nothing_but_what_is_said(folder: Path) -> None:
    step = following(ok("hpal score 'the scenes.zarr' --strategy random", folder))
    assert step == "hpal select scores.ply"
    step = following(ok(f"{step} --budget 3/scene", folder))
    oracle, person = re.fullmatch(r"(.*)  \(a person answers: (.*)\)", step).groups()
    assert oracle == "hpal label selection.ply --oracle 'the scenes.zarr' -o labels.zarr"
    # What the page does is tested in tests/test_page_server.py; a table is for those who have no browser.
    assert person == "hpal label selection.ply --serve -o labels.zarr"
    ok(oracle, folder)
    assert len(LabelStore(folder / "labels.zarr").latest()) == 6
    step = following(ok("hpal label selection.ply --table queries.csv", folder))
    assert step == "hpal label --from queries.csv --source 'the scenes.zarr' -o labels.zarr"
    fill_in(folder / "queries.csv", "wall")
    assert "labels.zarr: round 1, " in ok(step, folder)
    # A network, and what it says next.
    text = ok(f"hpal train 'the scenes.zarr' --labels labels.zarr -o model-1.pt {QUICK}", folder)
    step = following(text)
    assert step == "hpal predict model-1.pt 'the scenes.zarr' -o preds-1.zarr"
    ok(f"{step} --device cpu", folder)
    text = ok("hpal score preds-1.zarr | hpal select --budget 4", folder)
    assert "selection-2.ply: open it in" in text
    step = following(text)
    oracle, person = re.fullmatch(r"(.*)  \(a person answers: (.*)\)", step).groups()
    assert oracle == "hpal label selection-2.ply --oracle 'the scenes.zarr' -o labels.zarr"
    assert person == "hpal label selection-2.ply --serve -o labels.zarr"
    step = following(ok("hpal label selection-2.ply --table queries-2.csv", folder))
    assert step == "hpal label --from queries-2.csv --source preds-1.zarr -o labels.zarr"
    fill_in(folder / "queries-2.csv", "floor")
    assert "4 answers" in ok(step, folder)
    undone = re.search(r"to take that back: (.*)", ok("hpal label --undo 1 labels.zarr", folder))
    assert undone is not None
    assert "undoes round 3" in ok(undone[1].strip(), folder)
    # The same name again, and one that says nothing of a number.
    text = ok(f"hpal train 'the scenes.zarr' --labels labels.zarr -o model-1.pt --overwrite {QUICK}", folder)
    assert following(text) == "hpal predict model-1.pt 'the scenes.zarr' -o preds-1-2.zarr"
    text = ok(f"hpal train 'the scenes.zarr' --labels labels.zarr -o mine.pt {QUICK}", folder)
    assert following(text) == "hpal predict mine.pt 'the scenes.zarr' -o preds.zarr"


def test_rounds_with_superpoints(tmp_path: Path) -> None:
    """Each answer is for a superpoint, answers are spread after each round, and a forest is trained at the end."""
    synthetic_scenes(tmp_path / "my rooms.zarr", rooms())
    step = following(ok("hpal superpoints 'my rooms.zarr' --jobs 1", tmp_path))
    assert step == "hpal score 'my rooms.zarr' --strategy diverse | hpal select"
    # What both are told is one number.
    step = following(ok(f"{step.replace(' |', ' --budget 6 |')} --budget 6", tmp_path))
    oracle, person = re.fullmatch(r"(.*)  \(a person answers: (.*)\)", step).groups()
    assert oracle == "hpal label selection.ply --oracle 'my rooms.zarr' -o labels.zarr"
    assert person == "hpal label selection.ply --serve -o labels.zarr"
    step = following(ok("hpal label selection.ply --table queries.csv", tmp_path))
    assert step == "hpal label --from queries.csv --source 'my rooms.zarr' -o labels.zarr"
    assert "6 answers" in ok(oracle, tmp_path)
    step = following(ok("hpal spread labels.zarr 'my rooms.zarr' --alike -o 'the spread.zarr'", tmp_path))
    assert step == "hpal score 'the spread.zarr' --per superpoint | hpal select"
    step = following(ok(f"{step} --budget 4", tmp_path))
    oracle, person = re.fullmatch(r"(.*)  \(a person answers: (.*)\)", step).groups()
    assert oracle == "hpal label selection-2.ply --oracle 'my rooms.zarr' -o labels.zarr"
    assert person == "hpal label selection-2.ply --serve -o labels.zarr"
    step = following(ok("hpal label selection-2.ply --table queries-2.csv", tmp_path))
    assert step == "hpal label --from queries-2.csv --source 'the spread.zarr' -o labels.zarr"
    fill_in(tmp_path / "queries-2.csv", "unsure")
    ok(step, tmp_path)
    assert len(LabelStore(tmp_path / "labels.zarr").latest()) == 10
    learn = "hpal train 'my rooms.zarr' --labels labels.zarr --model forest"
    refused = terminal(f"stty cols 400; {learn} --spread 'the spread.zarr' -o model-2.pt", tmp_path)
    (again,) = re.findall(r"make it again: (.*); or give", refused.out.decode())
    assert again == "hpal spread labels.zarr 'my rooms.zarr' --alike -o 'the spread.zarr' --overwrite"
    ok(again, tmp_path)
    # What is told of the share that was labelled leaves out the unsure ones, of a spread and of a forest from it.
    assert _labelled("the spread.zarr", tmp_path) == 6
    step = following(ok(f"{learn} --spread 'the spread.zarr' -o model-2.pt", tmp_path))
    assert step == "hpal predict model-2.pt 'my rooms.zarr' -o preds-2.zarr"
    ok(step, tmp_path)
    assert _labelled("preds-2.zarr", tmp_path) == 6
    step = following(ok(f"{learn} -o forest.pt", tmp_path))
    assert step == "hpal predict forest.pt 'my rooms.zarr' -o preds.zarr"
    ok(step, tmp_path)
    assert following(ok(f"{learn} -o forest.pt --overwrite", tmp_path)).endswith(" -o preds-3.zarr")
    assert following(ok("hpal score preds.zarr --per superpoint", tmp_path)) == "hpal select scores.ply"


def test_a_network_from_a_spread_says_what_is_next(tmp_path: Path) -> None:
    campaign = Campaign(tmp_path)
    campaign.spread(tmp_path / "s.zarr")
    (tmp_path / "preds.zarr").mkdir()
    quick = "--steps 1 --batch 1 --voxel 20cm --max-voxels 500 --device cpu"
    text = ok(f"hpal train rooms.zarr --labels labels.zarr --spread s.zarr -o few.pt {quick}", tmp_path)
    assert "few preset" in text
    step = following(text)
    assert step == "hpal predict few.pt rooms.zarr -o preds-2.zarr"
    ok(f"{step} --device cpu", tmp_path)


def test_scenes_that_nobody_asks_about_have_no_next(tmp_path: Path) -> None:
    """`hpal score` asks about the train split."""
    campaign = Campaign(tmp_path)
    certain(campaign.store, tmp_path / "p.zarr", 0)
    text = ok("hpal spread labels.zarr rooms.zarr --predictions p.zarr --split val -o s.zarr", tmp_path)
    assert "s.zarr: 1 scene" in text
    assert "next:" not in text
    home = tmp_path / "val"
    home.mkdir()
    synthetic_scenes(home / "rooms.zarr", rooms(count=1, val=1))
    text = ok("hpal superpoints rooms.zarr --jobs 1", home)
    assert "rooms.superpoints.zarr: " in text
    assert "next:" not in text


def _labelled(predictions: str, folder: Path) -> int:
    done = ok(f"hpal eval '{predictions}' --truth 'my rooms.zarr' --split all --json -q", folder)
    return json.loads(done[done.index("{") : done.rindex("}") + 1])["labelled"]["points"]


def test_answers_that_measure_are_kept_apart(predictions: Path, folder: Path) -> None:
    """Drawn at random from predictions, they are a test of these; trained on, they would measure nothing."""
    shutil.copytree(predictions, folder / "preds.zarr")
    ok("hpal score preds.zarr --strategy random --seed 1 | hpal select --no-fds --budget 6 -o check.ply", folder)
    text = ok("hpal label check.ply --table check.csv", folder)
    step = following(text)
    assert step == "hpal label --from check.csv --source preds.zarr -o check.zarr"
    measure = re.search(r"unless a model learns from them: (.*)", text)
    assert measure is not None
    assert measure[1].strip() == "hpal eval preds.zarr --truth check.zarr"
    fill_in(folder / "check.csv", "wall")
    ok(step, folder)
    assert "6 answers in" in ok(measure[1], folder)
    text = ok("hpal label check.ply --table more.csv -o labels.zarr", folder)
    assert following(text) == "hpal label --from more.csv --source preds.zarr -o labels.zarr"
    assert "measure" not in text, "the person has said where they go"


def test_regions_want_their_selection(predictions: Path, folder: Path) -> None:
    shutil.copytree(predictions, folder / "preds.zarr")
    step = following(ok("hpal score preds.zarr --strategy redal | hpal select --budget 40", folder))
    assert step == "hpal label selection.ply --table queries.csv", "nobody knows of the scenes"
    step = following(ok(step, folder))
    assert step == "hpal label selection.ply --from queries.csv --source preds.zarr -o labels.zarr"
    fill_in(folder / "queries.csv", "wall")
    ok(step, folder)


def test_scenes_without_labels_have_no_oracle(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("".join(f"{n},{n % 7},0\n" for n in range(40)))
    (tmp_path / "c.json").write_text('[{"name": "a"}, {"name": "b"}]')
    ok("hpal prep a.csv -o scenes.zarr --classes c.json", tmp_path)
    text = ok("hpal score scenes.zarr --strategy random | hpal select --budget 3", tmp_path)
    assert following(text) == "hpal label selection.ply --serve -o labels.zarr"


def test_parts_are_no_names_that_step_aside(predictions: Path, tmp_path: Path) -> None:
    for n in (1, 2):
        text = ok(f"hpal score '{predictions}' --shard {n}/2", tmp_path)
    step = following(text).removesuffix("  (when all are there)")
    again = terminal(f"hpal score '{predictions}' --shard 2/2", tmp_path)
    assert again.rc == 1
    assert "scores-2-of-2.ply: exists already" in again.out.decode()
    ok(step, tmp_path)


def test_stores_behind(scenes: Path, other_scenes: Path, predictions: Path, tmp_path: Path) -> None:
    shutil.copytree(predictions, tmp_path / "p.zarr")
    same = PredictionStore(predictions).table.id
    history = [
        Entry("hpal prep", "1", ("raw", "-o", str(scenes))),
        Entry("hpal prep", "1", ("raw", f"--output={other_scenes}")),
        Entry("hpal score", "1", ("p.zarr", "", "-", "--levels", "10")),
    ]
    assert find_source_store(history, "scenes", same) == scenes
    assert find_source_store(history, "scenes", None) == other_scenes, "the newest, whatever it is about"
    assert find_source_store(history, "scenes", SceneStore(other_scenes).table.id) == other_scenes
    assert find_source_store(history, "labels", same) is None
    assert find_source_store(history, "predictions", same) is None
    assert find_source_store(history, "predictions", same, tmp_path) == tmp_path / "p.zarr"
