"""The demo, smaller: the loop through real commands, what it shows, and what it leaves behind."""

from __future__ import annotations

import json
import re
from pathlib import Path

import plyfile
import pytest
from conftest import run_fresh
from test_docs import bash

from hpal_cli.demo.office import make_room
from hpal_cli.labels.store import LabelStore

SMALL = ["--rooms", "5", "--points", "20000", "--answers", "92", "--rounds", "2"]
ANSWERS = (46, 23, 23)
"""Of each round."""

ROW = r"^(\d|forest)\s+([\d,]+)\s+([\d.]+)(?:\s+([\d.]+))?\s+([\d.]+)\s*$"
"""Of the table: round, answers, percent, mIoU of the answered rooms (none of the forest), mIoU of the others."""


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    folder = tmp_path_factory.mktemp("demo")
    done = run_fresh("demo", "-o", "campaign", *SMALL, cwd=folder)
    assert done.rc == 0, done.err
    return folder / "campaign", done.out.decode(), done.err


def test_the_table_tells_of_each_round(demo: tuple[Path, str, str]) -> None:
    folder, out, _ = demo
    rows = re.findall(ROW, out, re.M)
    assert [row[0] for row in rows] == ["0", "1", "2", "forest"]
    for number, answers, share, answered_rooms, new_rooms in rows:
        new = json.loads((folder / f"new-rooms-{number}.json").read_text())
        assert float(new_rooms) == pytest.approx(100 * new["grid"]["miou"], abs=0.06)
        assert float(share) == pytest.approx(new["labelled"]["percent_of_train"], abs=6e-4)
        assert int(answers) == new["labelled"]["points"]
        if number == "forest":
            assert answered_rooms == ""
            continue
        answered = json.loads((folder / f"answered-rooms-{number}.json").read_text())
        assert float(answered_rooms) == pytest.approx(100 * answered["grid"]["miou"], abs=0.06)
        assert answered["split"] == "train"
        assert answered["answers_left_out"] == int(answers)
    assert [row[1] for row in rows] == ["46", "69", "92", "92"]


def test_it_prints_commands_that_run_as_printed(demo: tuple[Path, str, str]) -> None:
    folder, _, err = demo
    typed = re.findall(r"^\$ (.+)$", err, re.M)
    stages = [re.findall(r"hpal (\w+)", line) for line in typed]
    question = [["score", "select", "label"], ["spread"], ["eval"], ["eval"]]
    model = [["train"], ["predict"], ["eval"], ["export"], ["export"]]
    assert stages == [["prep"], *(3 * question), *model]
    evaluation = next(line for line in typed if line.startswith("hpal eval"))
    words = evaluation.split(">")[0].split()[1:]
    assert run_fresh(*words, cwd=folder).out == (folder / "answered-rooms-0.json").read_bytes()


def test_one_more_round_by_hand_as_it_says(demo: tuple[Path, str, str]) -> None:
    folder, _, err = demo
    by_hand = re.findall(r"^  (hpal .+)$", err, re.M)
    assert [re.findall(r"hpal (\w+)", line) for line in by_hand] == [["score", "select", "label"], ["spread"], ["eval"]]
    printed = bash("\n".join(by_hand), folder).stdout
    assert len(LabelStore(folder / "labels.zarr").latest()) > sum(ANSWERS)
    assert "answered points" in printed


def test_few_answers_label_most_of_the_rooms(demo: tuple[Path, str, str]) -> None:
    """What the demo is there to show."""
    rows = re.findall(ROW, demo[1], re.M)
    answered, new = ([float(row[n]) for row in rows[:-1]] for n in (3, 4))
    assert answered == sorted(answered)
    assert answered[-1] > answered[0] + 5
    assert answered[-1] > 60
    # The forest reaches more than the network's campaign came to on twice as many rooms.
    assert float(rows[-1][4]) > 34
    assert new[-1] > 25


def test_it_leaves_pictures_and_clouds_to_open(demo: tuple[Path, str, str]) -> None:
    folder, _, err = demo
    for picture in (
        "learning-curve.png",
        "answered-room.png",
        "new-room.png",
        "figures/confusion.png",
        "figures/iou.png",
    ):
        assert (folder / picture).read_bytes().startswith(b"\x89PNG")
        assert (folder / picture).stat().st_size > 5000
    clouds = sorted((folder / "result").rglob("*.ply"))
    assert len(clouds) == 5
    room = make_room(0, points=20_000)
    cloud = plyfile.PlyData.read(folder / "result" / "Area_1" / f"{room.name}.ply")["vertex"]
    assert cloud.count == len(room.xyz)
    for number in range(3):
        picks = plyfile.PlyData.read(folder / f"round-{number}.ply")["vertex"]
        assert picks.count == ANSWERS[number]
        pictures = sorted((folder / f"picks-{number}").rglob("*.png"))
        clouds = sorted((folder / f"picks-{number}").rglob("*.ply"))
        assert len(pictures) == len(set(picks["scene"])) == len(clouds)
        assert pictures[0].read_bytes().startswith(b"\x89PNG")
    assert "picks-0/*/*.png" in err


def test_it_does_not_run_over_what_is_there(demo: tuple[Path, str, str], tmp_path: Path) -> None:
    folder, _, _ = demo
    again = run_fresh("demo", "-o", str(folder), *SMALL, cwd=tmp_path)
    assert again.rc == 1
    assert "--overwrite" in again.err
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    other = run_fresh("demo", "-o", "mine", "--overwrite", *SMALL, cwd=tmp_path)
    assert other.rc == 1
    assert (tmp_path / "mine" / "thesis.txt").exists()
