"""`hpal info`: numbers for programs, and the same in words for people."""

from __future__ import annotations

import json
import platform
import re
import shutil
import subprocess
import tomllib
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import GRID, fake_predictions, run_hpal
from test_label_log import answers

from hpal_cli import __version__
from hpal_cli.history import Entry
from hpal_cli.info import describe
from hpal_cli.labels.store import QUERY, LabelStore
from hpal_cli.scenes.store import SceneStore

BY = Entry("test", "0", ())


def info(path: Path) -> dict[str, Any]:
    """What the command prints, without the classes, the history and what every report has."""
    done = run_hpal("info", path, "--json")
    assert (done.rc, done.err) == (0, "")
    found = json.loads(done.out)
    found.pop("classes", None)
    assert found.pop("hpal")["error"] is None
    assert all(entry["program"] for entry in found.pop("history"))
    return found


def lines(path: Path) -> list[str]:
    done = run_hpal("info", path)
    assert (done.rc, done.err) == (0, "")
    return done.out.decode().splitlines()


def test_the_installation() -> None:
    """It has all that a report of a fault needs, among it every dependency and every C source."""
    found = info(Path("--version"))
    root = Path(__file__).parents[1]
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    used = [extras[name] for name in ("minkowski", "e57", "remote", "dask")]
    named = [re.split(r"[\[=>]", one)[0] for one in sum(used, project["dependencies"])]
    libraries = found.pop("libraries")
    assert set(named) <= set(libraries)
    assert libraries["numpy"] == np.__version__
    assert libraries["torch"] == version("torch")
    sources = {path.relative_to(root / "hpal_cli").as_posix() for path in (root / "hpal_cli").rglob("*.c")}
    kernels = found.pop("table")
    assert {kernel["kernel"] for kernel in kernels} == sources
    for kernel in kernels:
        assert (kernel["flags"] is None) != (kernel["not used"] is None)
    assert found.pop("kind") == "installation"
    assert found.pop("version") == __version__
    assert found.pop("python").startswith(platform.python_version())
    assert found.pop("cores") >= 1
    assert set(found.pop("backends")) == {"auto", "torch", "minkowski"}
    assert set(found) == {"system", "processor", "memory", "gpus", "cuda", "compiler"}


def test_the_installation_for_a_person(tmp_path: Path) -> None:
    done = run_hpal("info", "--version")
    assert (done.rc, done.err) == (0, "")
    said = {line.split("  ")[1] for line in done.out.decode().splitlines() if line.startswith("  ")}
    assert {"version", "python", "numpy", "zarr", "numcodecs", "backend torch", "cores"} <= said
    assert b"-march=native" in done.out or b"not used" in done.out
    done = run_hpal("info", "--version", tmp_path)
    assert (done.rc, done.err) == (2, "hpal info: --version: describes no file; leave out the file and --check\n")


@pytest.mark.parametrize("argument", [(), ("-",)])
def test_a_stream_through_a_pipe(predictions: Path, tmp_path: Path, argument: tuple[str, ...]) -> None:
    scored = run_hpal("score", predictions, "-q", "-o", tmp_path / "scores.ply")
    assert scored.rc == 0
    stream = (tmp_path / "scores.ply").read_bytes()
    done = run_hpal("info", *argument, "--json", stdin=stream)
    assert (done.rc, done.err) == (0, "")
    assert done.out == run_hpal("info", tmp_path / "scores.ply", "--json").out
    assert run_hpal("info", *argument, stdin=stream).out.startswith(b"stdin: scores\n")


def test_scenes(scenes: Path) -> None:
    store = SceneStore(scenes)
    splits = [scene.split for scene in store.table]
    found = info(scenes)
    table = found.pop("table")
    points = sum(scene.points for scene in store.table)
    assert found == {
        "kind": "scenes",
        "scenes": {"total": 3, "train": 2, "val": 1, "test": 0},
        "points": points,
        "id": store.table.id,
        "original_points": sum(scene.original for scene in store.table),
        "grid": GRID,
        "scale": None,
        "unit": 1,
        "format": "s3dis",
    }
    assert [row["class"] for row in table] == [*store.classes.names, None]
    for split in ("train", "val", "test"):
        labels = [store.labels(scene) for scene, of in zip(store.table, splits, strict=True) if of == split]
        counts = np.bincount(np.concatenate([np.zeros(0, int), *labels]) + 1, minlength=len(table))  # type: ignore[list-item]
        assert [row[split] for row in table] == [*counts[1:], counts[0]]
    said = lines(scenes)
    assert "  scenes           3 (2 train, 1 val)" in said
    assert f"  points           {points:,}" in said
    assert "  classes          13" in said
    assert "  grid             15cm" in said
    assert "  unit             1 m" in said
    assert ["class", "train", "val"] in [line.split() for line in said], "no column for a split without a scene"
    (wall,) = (row for row in table if row["class"] == "wall")
    assert ["wall", f"{wall['train']:,}", f"{wall['val']:,}"] in [line.split() for line in said]
    assert "(none)" in [line.split()[0] for line in said if line]


def test_predictions(predictions: Path, scenes: Path, tmp_path: Path) -> None:
    found = info(predictions)
    assert found["scenes"] == {"total": 3, "train": 2, "val": 1, "test": 0}
    assert [found[key] for key in ("predicted_scenes", "features", "answered_points")] == [3, 12, 15]
    assert sum(row["predicted"] for row in found["table"]) == found["points"]
    assert info(fake_predictions(scenes, tmp_path / "bare.zarr", features=None))["features"] == 0


def test_labels(scenes: Path, tmp_path: Path) -> None:
    made = SceneStore(scenes)
    labels = LabelStore.create(tmp_path / "l.zarr", made.classes, made.table)
    assert "  open queries     none known" in lines(labels.path)
    labels.ask(np.array([(0, 1), (0, 2)], QUERY), "table q.csv", BY)
    labels.append(answers(0, [1, 4], [2, 2]), "a", BY)
    labels.append(answers(0, [1, 3], [5, -1]), "b", BY)
    labels.append(answers(1, [1], [0]), "a", BY)
    labels.undo(2, "c", BY)
    found = info(labels.path)
    table = {row["class"]: row["labelled"] for row in found.pop("table")}
    assert found.pop("rounds") == [
        {"round": 0, "source": "a", "answers": 2, "counting": 1, "undoes": [], "undone": False},
        {"round": 1, "source": "b", "answers": 2, "counting": 2, "undoes": [], "undone": False},
        {"round": 2, "source": "a", "answers": 1, "counting": 0, "undoes": [], "undone": True},
        {"round": 3, "source": "c", "answers": 0, "counting": 0, "undoes": [2], "undone": False},
    ]
    assert found == {
        "kind": "labels",
        "scenes": {"total": 3, "train": 2, "val": 1, "test": 0},
        "points": sum(scene.points for scene in made.table),
        "id": made.table.id,
        "labelled_points": 2,
        "answers_given": 5,
        "queries": {"asked": 2, "open": 1},
        "people": [],
        "agreement": [],
    }
    assert {name: count for name, count in table.items() if count} == {"wall": 1, "window": 1, None: 1}
    said = lines(labels.path)
    # The same command five times, as one line.
    assert [line for line in said if line.startswith("  test")] == ["  test   [0]  (5 times)"]
    assert said[5:15] == [
        "  labelled points  2",
        "  answers given    5",
        "  open queries     1 of 2",
        "  round 0          2 answers from a",
        "  round 1          2 answers from b",
        "  round 2          1 answer from a, undone",
        "  round 3          undoes round 2",
        "  from a           1 answer that count",
        "  from b           2 answers that count",
        "",
    ]
    assert ["(unsure)", "1"] in [line.split() for line in said]
    labels.undo(3, "c", BY)
    assert "  round 3          undoes round 2, undone itself" in lines(labels.path)


def test_streams(predictions: Path, scenes: Path, tmp_path: Path) -> None:
    for args in (
        ("score", predictions, "--shard", "1/1", "-o", "scores.ply"),
        ("score", predictions, "--shard", "2/2", "--split", "all", "-o", "part.ply"),
        ("select", "scores.ply", "--budget", "4", "--no-fds", "-o", "selection.ply"),
        ("label", "selection.ply", "--oracle", scenes, "-o", "labelled.ply"),
    ):
        assert run_hpal(*args, "-q", cwd=tmp_path).rc == 0
    pool = [scene for scene in SceneStore(scenes).table if scene.split == "train"]
    rows = {"scores": sum(scene.points for scene in pool) - 10, "selection": 4, "labelled": 4}
    for kind, count in rows.items():
        found = info(tmp_path / f"{kind}.ply")
        assert found["kind"] == kind
        assert found["points"] == count
        assert found["properties"][:3] == ["x", "y", "z"]
        assert found["source"] == str(predictions)
        assert found["pool"] == {"scenes": 2, "points": sum(scene.points for scene in pool)}
        assert found["scored_by"].split()[0] == "hmmu"
        assert found["part"] is None
        names = {scene.name: scene.number for scene in pool}
        assert all(names[row["scene"]] == row["number"] for row in found["table"])
        assert sum(row["points"] for row in found["table"]) == count
    assert info(tmp_path / "part.ply")["part"] == {"number": 2, "of": 2}
    said = lines(tmp_path / "part.ply")
    assert "  part        2 of 2" in said
    assert any(line.startswith("  properties  x, y, z, ") for line in said)
    assert not any("part" in line.split() for line in lines(tmp_path / "scores.ply"))


def test_a_checkpoint(scenes: Path, tmp_path: Path) -> None:
    model = tmp_path / "m.pt"
    done = run_hpal("train", scenes, "--labels", "all", "--supervised-only", "--steps", 1, "-o", model, "-q")
    assert done.rc == 0, done.err
    found = describe(model).to_json()
    assert found["classes"] == SceneStore(scenes).classes.names
    del found["classes"], found["history"]
    assert found.pop("parameters") > 10**6
    assert found == {
        "kind": "checkpoint",
        "network": "small",
        "channels": ["red", "green", "blue", "x", "y", "z"],
        "voxel": 0.05,
        "scale": None,
        "steps": 1,
        "teacher": False,
        "labelled_points": sum(scene.points for scene in SceneStore(scenes).table if scene.split == "train"),
        "spread_to_points": 0,
        "table": [],
    }
    said = lines(model)
    assert "  channels         red green blue x y z" in said
    assert "  voxel            5cm" in said
    assert "  teacher          no" in said
    assert any(line.startswith("  classes          ceiling, floor, wall, ") for line in said)


@pytest.mark.skipif(shutil.which("jq") is None, reason="there is no jq")
def test_jq_as_in_the_documents(scenes: Path) -> None:
    """The expressions that docs/commands.md shows give a number each."""
    text = (Path(__file__).parents[1] / "docs" / "commands.md").read_text(encoding="utf-8")
    calls = [line.split("'")[1] for line in text.splitlines() if line.startswith("hpal info scenes.zarr --json | jq '")]
    assert calls
    found = run_hpal("info", scenes, "--json").out
    for expression in calls:
        done = subprocess.run(["jq", expression], input=found, capture_output=True, check=True)
        assert int(done.stdout) > 0, expression
