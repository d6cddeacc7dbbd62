"""What programs are told: `--json` and `--progress json` keep to the schemas of docs/schemas, whatever happens."""

from __future__ import annotations

import csv
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import environment, put_quick_hpal, run_hpal
from jsonschema import Draft202012Validator
from referencing import Registry, Resource

from hpal_cli.commands.app import app
from hpal_cli.commands.console import Console
from hpal_cli.commands.reports import PROGRESS_SECONDS
from hpal_cli.labels.store import LabelStore

DOCS = Path(__file__).parents[1] / "docs"
SCHEMAS = {path.name: json.loads(path.read_text()) for path in sorted((DOCS / "schemas").glob("*.json"))}
REGISTRY: Registry = Registry().with_resources((name, Resource.from_contents(one)) for name, one in SCHEMAS.items())


def validator(name: str) -> Draft202012Validator:
    Draft202012Validator.check_schema(SCHEMAS[name])
    return Draft202012Validator(SCHEMAS[name], registry=REGISTRY)


REPORT, EVENT = validator("report.schema.json"), validator("progress.schema.json")


def told(folder: Path, call: str, rc: int = 0) -> dict[str, Any]:
    """The report of a call, which is all of its stdout and fits the schema."""
    done = run_hpal(*shlex.split(call), "--json", cwd=folder)
    assert done.rc == rc, done
    found = json.loads(done.out)
    REPORT.validate(found)
    assert found["hpal"]["status"] == rc
    assert found["hpal"]["command"] == call.split()[0]
    if rc:
        message = found["hpal"]["error"]["message"]
        assert done.err == f"hpal {call.split()[0]}: {message}\n"
    return found


@pytest.fixture(scope="module")
def bench(scenes: Path, predictions: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reports")
    shutil.copytree(scenes, folder / "scenes.zarr")
    shutil.copytree(predictions, folder / "preds.zarr")
    assert run_hpal("score", "preds.zarr", "-q", "-o", "scores.ply", cwd=folder).rc == 0
    return folder


def answer_first(table: Path, word: str) -> None:
    """A person answers the first query of a table."""
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    rows[0]["label"] = word
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)


def test_a_round_in_reports(bench: Path) -> None:
    """Every command with --json says in numbers what it did."""
    picked = told(bench, "select scores.ply --budget 6 -o picks.ply")
    assert (picked["output"], picked["selected"], picked["budget"], picked["exhausted"]) == ("picks.ply", 6, 6, False)
    assert sum(scene["chosen"] for scene in picked["scenes"]) == 6
    assert sum(one["chosen"] for one in picked["classes"]) == 6
    given = told(bench, "label picks.ply --oracle scenes.zarr -o labels.zarr")
    assert (given["done"], given["labels"], given["round"], given["answers"]) == ("answers", "labels.zarr", 0, 6)
    assert given["labelled_points"] == (LabelStore(bench / "labels.zarr").latest()["label"] >= 0).sum()
    assert given["cost"]["clicks"] == 6
    again = told(bench, "label picks.ply --oracle scenes.zarr -o labels.zarr")
    assert (again["round"], again["answers"], again["known_before"]) == (None, 0, 6)
    assert "were answered before" in again["hpal"]["warnings"][0]
    assert told(bench, "label picks.ply --oracle scenes.zarr -o labelled.ply")["output"] == "labelled.ply"
    asked = told(bench, "label picks.ply --table queries.csv --clips clips")
    assert (asked["table"], asked["clips"], asked["queries"], asked["points"]) == ("queries.csv", "clips", 6, 6)
    page = told(bench, "label picks.ply --html page.html")
    assert (page["done"], page["page"], page["queries"], page["points"]) == ("page", "page.html", 6, 6)
    (bench / "blank.csv").write_bytes((bench / "queries.csv").read_bytes())
    answer_first(bench / "queries.csv", "unsure")
    assert told(bench, "label --from queries.csv -o labels.zarr")["unsure"] == 1
    none = told(bench, "label --from blank.csv --source preds.zarr -o new.zarr")
    assert (none["round"], none["answers"], none["labelled_points"]) == (None, 0, 0)
    assert not (bench / "new.zarr").exists()
    undone = told(bench, "label --undo 1 labels.zarr")
    assert (undone["done"], undone["undoes"], undone["round"], undone["labelled_points"]) == ("undo", 1, 2, 6)
    log = told(bench, "label --log labels.zarr -v")
    assert [(b["round"], b["answers"], b["undone"]) for b in log["batches"]] == [
        (0, 6, False),
        (1, 1, True),
        (2, 0, False),
    ]
    assert [a["counts"] for a in log["answers"]] == [True] * 6 + [False]
    assert "answers" not in told(bench, "label --log labels.zarr")
    spread = told(bench, "spread labels.zarr scenes.zarr -o spread.zarr")
    assert spread["output"] == "spread.zarr"
    assert len(spread["scenes"]) + len(spread["left_out"]) == 3
    assert told(bench, "eval spread.zarr --truth scenes.zarr --split train")["grid"]["points"] > 0
    assert told(bench, "eval preds.zarr --truth labels.zarr")["answers"]["points"] == 6
    for file in ("scenes.zarr", "preds.zarr", "labels.zarr", "scenes.superpoints.zarr", "scores.ply", "picks.ply"):
        assert told(bench, f"info {file} --check")["kind"]


@pytest.mark.parametrize(
    ("call", "rc", "subject"),
    [
        ("info absent.zarr", 1, "absent.zarr"),
        ("eval preds.zarr --truth absent.zarr", 1, "absent.zarr"),
        ("eval preds.zarr", 2, None),
        ("select scores.ply --budget nonsense -o x.ply", 2, "--budget"),
        ("select scores.ply --budget 3", 2, "--json"),
        ("select absent.ply --budget 3 -o x.ply", 1, "absent.ply"),
        ("label scores.ply --oracle scenes.zarr", 2, "--json"),
        ("label scores.ply", 2, "what to do"),
        ("label scores.ply --serve -o labels.zarr", 2, "--json"),
        ("spread absent.zarr scenes.zarr -o x.zarr", 1, "absent.zarr"),
        ("info scenes.zarr --frobnicate", 2, None),
    ],
)
def test_failures_are_reports_too(bench: Path, call: str, rc: int, subject: str | None) -> None:
    found = told(bench, call, rc)
    error = found["hpal"]["error"]
    assert error["subject"] == subject
    assert error["problem"]
    assert (error["remedy"] is None) == (subject is None)


def test_a_report_that_cannot_be_written_is_said(bench: Path) -> None:
    script = f'"{sys.executable}" -m hpal_cli info scenes.zarr --json > /dev/full'
    done = subprocess.run(["bash", "-c", script], cwd=bench, env=environment(), capture_output=True, check=False)
    assert done.returncode == 1
    assert done.stderr == b"hpal info: output: No space left on device; check the disk and the name\n"


# ---------------------------------------------------------------- events


def events(err: str) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in err.splitlines()]
    for event in found:
        EVENT.validate(event)
    return found


def test_progress_for_programs(bench: Path, tmp_path: Path) -> None:
    """`--progress` may stand anywhere. It is no part of the history, so the output has the same bytes."""
    plain = run_hpal("score", "preds.zarr", "--levels", "1,10", cwd=bench)
    for words in (
        ("--progress", "json", "score", "preds.zarr", "--levels", "1,10"),
        ("score", "preds.zarr", "--levels", "1,10", "--progress=json"),
    ):
        done = run_hpal(*words, cwd=bench)
        assert (done.rc, done.out) == (0, plain.out)
        found = events(done.err)
        assert {event["command"] for event in found} == {"score"}
        steps = [event for event in found if event["event"] == "progress"]
        assert steps[0]["done"] == 0
        assert steps[-1]["done"] == steps[-1]["total"] > 0
        assert "warning" in [event["event"] for event in found]
        assert (found[-1]["event"], found[-1]["status"], found[-1]["error"]) == ("end", 0, None)
    quiet = run_hpal("score", "preds.zarr", "-q", "--progress", "json", cwd=bench)
    assert [event["event"] for event in events(quiet.err)] == ["end"]
    summary = run_hpal("select", "scores.ply", "--budget", "3", "--progress", "json", "-o", tmp_path / "x", cwd=bench)
    assert summary.out == b""
    assert "predicted class" in [e["headers"][0] for e in events(summary.err) if e["event"] == "table"]


def test_progress_tells_of_failures(bench: Path) -> None:
    (end,) = events(run_hpal("info", "absent.zarr", "--progress", "json", cwd=bench).err)
    assert (end["event"], end["status"], end["error"]["subject"]) == ("end", 1, "absent.zarr")
    # A message that nobody reads is no fault of the output that was being written.
    call = f'"{sys.executable}" -m hpal_cli score preds.zarr -o new.ply --progress json'
    script = f"{call} 2>&1 | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", script], cwd=bench, env=environment(), capture_output=True, check=False)
    assert done.returncode == 141
    assert not (bench / "new.ply").exists()
    (end,) = events(run_hpal("frobnicate", "--progress", "json", cwd=bench).err)
    assert (end["command"], end["status"]) == (None, 2)
    done = run_hpal("info", "scenes.zarr", "--progress", "bars", cwd=bench)
    assert done.rc == 2
    assert done.err == "hpal info: --progress: 'bars' is unknown; choose from auto, json\n"
    script = f'"{sys.executable}" -m hpal_cli score preds.zarr --progress json | head -c 100 > /dev/null'
    done = subprocess.run(["bash", "-c", script], cwd=bench, env=environment(), capture_output=True, check=False)
    assert events(done.stderr.decode())[-1]["status"] == 141


def test_steps_are_told_at_most_ten_times_a_second(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Console, "as_events", True)
    clock = iter(n / 128 for n in range(1000))
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    with Console("train").task("training", 95) as task:
        for step in range(95):
            task.advance(1, f"step {step}")
    steps = [event["done"] for event in events(capsys.readouterr().err)]
    assert PROGRESS_SECONDS == 0.1
    assert steps == [*range(0, 92, 13), 95]


# ---------------------------------------------------------------- the workflow

SNAKEFILE = DOCS / "recipes" / "Snakefile"


def test_the_workflow_calls_what_there_is() -> None:
    """Every option of its calls is one of the command's."""
    import typer.main

    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    text = "\n".join(line for line in SNAKEFILE.read_text().splitlines() if not line.startswith("#"))
    shell = re.sub(r'"\s*\n\s*"', "", text)
    calls = re.findall(r"\bhpal (\w+)([^|;\"]*)", shell)
    assert [name for name, _ in calls] == [
        *("prep", "superpoints", "score", "select", "score", "select", "label", "spread", "spread", "eval"),
        *("train", "predict", "eval"),
    ]
    for name, words in calls:
        options = {option for parameter in commands[name].params for option in parameter.opts}
        assert {word for word in words.split() if re.match("-{1,2}[a-z]", word)} <= options, (name, words)


@pytest.mark.skipif(shutil.which("snakemake") is None, reason="there is no snakemake")
def test_the_workflow_runs(office: Path, tmp_path: Path) -> None:
    env = {**environment(), "PATH": f"{put_quick_hpal(tmp_path).parent}:{os.environ['PATH']}"}
    config = [f"data={office}", "val=Area_2/*", "budget=8", "rounds=1", "grid=15cm"]
    call = [
        "snakemake",
        "-s",
        str(SNAKEFILE),
        "--cores",
        "1",
        "--directory",
        str(tmp_path / "out"),
        "--config",
        *config,
    ]
    done = subprocess.run(call, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    measured = json.loads((tmp_path / "out" / "eval.json").read_text())
    REPORT.validate(measured)
    assert 0 < measured["grid"]["miou"] < 1
    assert len(LabelStore(tmp_path / "out" / "labels-1.zarr").batches()) == 2
    again = subprocess.run([*call, "--dry-run"], env=env, capture_output=True, text=True, check=False)
    assert "Nothing to be done" in again.stdout + again.stderr
