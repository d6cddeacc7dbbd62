"""The demo at a tiny size: the loop through real commands, and what it leaves behind."""

from __future__ import annotations

import json
import re
from pathlib import Path

import plyfile
import pytest
from conftest import run_fresh

from hpal_cli.demo.office import make_room

TINY = ["--rooms", "3", "--points", "1200", "--rounds", "2", "--steps", "3"]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    folder = tmp_path_factory.mktemp("demo")
    done = run_fresh("demo", "-o", "campaign", *TINY, cwd=folder)
    assert done.rc == 0, done.err
    return folder / "campaign", done.out.decode(), done.err


def test_the_table_tells_of_each_round(demo: tuple[Path, str, str]) -> None:
    folder, out, _ = demo
    rows = re.findall(r"^(\d)\s+([\d,]+)\s+([\d.]+)\s+([\d.]+)\s*$", out, re.M)
    assert [row[0] for row in rows] == ["1", "2"]
    for number, labelled, share, miou in rows:
        result = json.loads((folder / f"eval-{number}.json").read_text())
        assert int(labelled.replace(",", "")) == result["labelled"]["points"]
        assert float(share) == pytest.approx(result["labelled"]["percent_of_train"], abs=6e-4)
        assert float(miou) == pytest.approx(100 * result["grid"]["miou"], abs=0.06)
    first, second = (int(row[1].replace(",", "")) for row in rows)
    assert second == 2 * first


def test_it_prints_commands_that_run_as_printed(demo: tuple[Path, str, str]) -> None:
    folder, _, err = demo
    typed = re.findall(r"^\$ (.+)$", err, re.M)
    stages = [re.findall(r"hpal (\w+)", line) for line in typed]
    loop = [["train"], ["predict"], ["eval"], ["score", "select", "label"]]
    assert stages == [["prep"], ["score", "select", "label"], *loop, *loop[:3]]
    evaluation = next(line for line in typed if line.startswith("hpal eval"))
    words = evaluation.split(">")[0].split()[1:]
    assert run_fresh(*words, cwd=folder).out == (folder / "eval-1.json").read_bytes()


def test_it_leaves_pictures_and_clouds_to_open(demo: tuple[Path, str, str]) -> None:
    folder, _, err = demo
    for picture in ("learning-curve.png", "figures/confusion.png", "figures/iou.png"):
        assert (folder / picture).read_bytes().startswith(b"\x89PNG")
        assert (folder / picture).stat().st_size > 5000
    clouds = sorted((folder / "result").rglob("*.ply"))
    assert len(clouds) == 3
    room = make_room(0, points=1200)
    cloud = plyfile.PlyData.read(folder / "result" / "Area_1" / f"{room.name}.ply")["vertex"]
    assert cloud.count == len(room.xyz)
    picks = plyfile.PlyData.read(folder / "round-1.ply")["vertex"]
    assert picks.count > 0
    pictures = sorted((folder / "picks-1").rglob("*.png"))
    assert len(pictures) == len(set(picks["scene"])) == len(list((folder / "picks-1").rglob("*.ply")))
    assert pictures[0].read_bytes().startswith(b"\x89PNG")
    assert "hpal train scenes.zarr --labels labels.zarr -o model-3.pt --init model-2.pt" in err


def test_it_does_not_run_over_what_is_there(demo: tuple[Path, str, str], tmp_path: Path) -> None:
    folder, _, _ = demo
    again = run_fresh("demo", "-o", str(folder), *TINY, cwd=tmp_path)
    assert again.rc == 1
    assert "--overwrite" in again.err
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    other = run_fresh("demo", "-o", "mine", "--overwrite", *TINY, cwd=tmp_path)
    assert other.rc == 1
    assert (tmp_path / "mine" / "thesis.txt").exists()
