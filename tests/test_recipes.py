"""docs/recipes: each row of the paper's tables has a script that runs that row, and the loop goes on where it stopped.
So does the study.

Most tests put a `hpal` on the PATH that only writes down how it is called; the last ones run campaigns for real.
"""

from __future__ import annotations

import csv
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import plyfile
import pytest
from conftest import VAL, environment, put_program, put_quick_hpal

from hpal_cli.evaluation.evaluate import evaluate
from hpal_cli.info import describe
from hpal_cli.labels.store import LabelStore, answers_digest
from hpal_cli.predictions.store import PredictionStore
from hpal_cli.scenes.store import SceneStore
from hpal_cli.stream.points import PointReader
from hpal_cli.superpoints.store import SuperpointStore, superpoints_path

RECIPES = Path(__file__).parents[1] / "docs" / "recipes"
SCRIPTS = sorted(RECIPES.glob("*.sh"))

VARIABLES, STUDY_VARIABLES = (
    re.findall(r"^#   ([A-Z_]+)=", (RECIPES / f"{name}.sh").read_text(encoding="utf-8"), re.MULTILINE)
    for name in ("loop", "study")
)

Options = dict[str, str]


class Row(NamedTuple):
    """What the paper's table says of a row: how points are chosen, whether the teacher helps, and the mIoU."""

    strategy: str
    levels: str = ""
    weights: str = ""
    fds: tuple[str, str] | None = None
    teacher: bool = False
    miou: str = ""
    budget: str = "0.02%"

    @property
    def score(self) -> Options:
        voxels = {"--levels": self.levels, "--weights": self.weights, "--hierarchy": "flat"} if self.levels else {}
        budget = {"--budget": self.budget} if self.strategy == "ssdr" else {}
        return {"--strategy": self.strategy, **voxels, **budget}

    @property
    def select(self) -> Options:
        fds = {"--no-fds": ""} if self.fds is None else {"--fds-r": self.fds[0], "--fds-tau": self.fds[1]}
        return {"--budget": self.budget, **fds}


THREE = ("10,50,100", "0.1,0.01,0.001")
BEST = ("0.2", "0.8")
ROWS = {
    "table2-redal": Row("redal", budget="3.745%", miou="57.3"),
    "table2-ssdr": Row("ssdr", budget="2.92%", miou="58.3"),
    "table2-random": Row("random", miou="54.7"),
    "table2-entropy": Row("entropy", miou="48.2"),
    "table2-lc": Row("lc", miou="53.3"),
    "table2-mmu": Row("mmu", miou="55.5"),
    "table2-hmmu-fds": Row("hmmu", *THREE, BEST, miou="59.3"),
    "table5-mmu": Row("mmu", miou="55.51"),
    "table5-hmmu": Row("hmmu", *THREE, miou="57.65"),
    "table5-mmu-fds": Row("mmu", fds=BEST, miou="56.68"),
    "table5-random-ts": Row("random", teacher=True, miou="57.01"),
    "table5-hmmu-fds": Row("hmmu", *THREE, BEST, miou="59.29"),
    "table5-hmmu-fds-ts": Row("hmmu", *THREE, BEST, teacher=True, miou="62.26"),
    "table6-pl": Row("mmu", fds=BEST, miou="56.68"),
    "table6-pl-vl1": Row("hmmu", "10", "0.1", BEST, miou="57.03"),
    "table6-pl-vl2": Row("hmmu", "50", "0.01", BEST, miou="57.43"),
    "table6-pl-vl3": Row("hmmu", "100", "0.001", BEST, miou="58.03"),
    "table6-pl-vl12": Row("hmmu", "10,50", "0.1,0.01", BEST, miou="58.21"),
    "table6-pl-vl123": Row("hmmu", *THREE, BEST, miou="59.29"),
    "table6-pl-vl1234-w0.001": Row("hmmu", "10,50,100,200", "0.1,0.01,0.001,0.001", BEST, miou="57.71"),
    "table6-pl-vl1234-w0.0001": Row("hmmu", "10,50,100,200", "0.1,0.01,0.001,0.0001", BEST, miou="59.19"),
    "table7-r20-tau0.8": Row("hmmu", *THREE, ("0.2", "0.8"), miou="59.29"),
    "table7-r20-tau0.9": Row("hmmu", *THREE, ("0.2", "0.9"), miou="58.79"),
    "table7-r40-tau0.8": Row("hmmu", *THREE, ("0.4", "0.8"), miou="57.79"),
    "table7-r40-tau0.9": Row("hmmu", *THREE, ("0.4", "0.9"), miou="59.13"),
    "table7-r50-tau0.95": Row("hmmu", *THREE, ("0.5", "0.95"), miou="57.82"),
}

# What a shell may have left about: none of it may change a row. A Slurm array must not make `score` leave scenes out.
LEFTOVERS = {
    "STRATEGY": "lc", "LEVELS": "7", "WEIGHTS": "7", "FDS": "on", "FDS_R": "9", "FDS_TAU": "0.1", "TEACHER": "on",
    "NAME": "x", "SLURM_ARRAY_TASK_ID": "1", "SLURM_ARRAY_TASK_COUNT": "2",
}  # fmt: skip

FAKE = """\
#!/usr/bin/env bash
words=$(printf '%s\\t' "$@")
[[ $1 != spread || -z ${SLURM_ARRAY_TASK_ID:-} ]] || exit 1
if [[ $1 == select && $(cat) != scores ]]; then exit 1; fi
if [[ -n ${DIES_AT:-} && $* == $DIES_AT ]]; then exit 130; fi
printf '%s\\n' "$words" >>"$CALLS"
if [[ $1 == score ]]; then echo scores; fi
measured='{"grid": {"miou": 0.5, "accuracy": 0.6, "iou": {"a": 0.5}}, "labelled": {"points": 7}}'
if [[ $1 == eval ]]; then echo "$measured"; fi
if [[ $1 == info ]]; then echo '{"scenes": {"val": 1}, "table": [{"class": "a", "train": 40000}]}'; fi
if [[ " $* " == *' --cost '* ]]; then echo "${COST:-cost: 10 clicks, 10 points labelled, 0.016 m2}" >&2; fi
while [[ $# -gt 0 && $1 != -o ]]; do shift; done
case ${2:-} in
  '') ;;
  *.zarr) mkdir -p "$2" ;;
  *) touch "$2" ;;
esac
"""


class Bench:
    """A folder with `hpal` first on its PATH, where scripts run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.calls_file = folder / "calls"

    def run(
        self, script: str, *words: str, rc: int | None = 0, timeout: float = 120, **variables: str | int
    ) -> subprocess.CompletedProcess[str]:
        """`bash SCRIPT WORDS`; the words are `DATA RESULTS` unless given; rc None: it fails."""
        with self.start(script, *words, **variables) as process:
            out, err = process.communicate(timeout=timeout)
        assert process.returncode == rc if rc is not None else process.returncode, err
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def start(self, script: str, *words: str, **variables: str | int) -> subprocess.Popen[str]:
        self.calls_file.write_text("")
        path = os.pathsep.join([str(self.folder / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]])
        ours = {name: value for name, value in environment().items() if name not in (*VARIABLES, *STUDY_VARIABLES)}
        given = {name: str(value) for name, value in variables.items()}
        return subprocess.Popen(
            ["bash", str(RECIPES / f"{script}.sh"), *(words or ("raw", "results"))],
            cwd=self.folder,
            env={**ours, "PATH": path, "CALLS": str(self.calls_file), **given},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    @property
    def calls(self) -> list[list[str]]:
        """The words of every command that the last run ended, without `hpal`."""
        return [line.split("\t")[:-1] for line in self.calls_file.read_text().splitlines()]

    def of(self, command: str) -> list[list[str]]:
        return [words[1:] for words in self.calls if words[0] == command]


def options(words: list[str]) -> Options:
    """The options among the words of a call; one without a value has ''."""
    found: Options = {}
    for word, after in zip(words, [*words[1:], "-"]):
        if word.startswith("-"):
            assert word not in found, words
            found[word] = "" if after.startswith("-") else after
    return found


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    put_program(tmp_path, FAKE)
    return Bench(tmp_path)


# ---------------------------------------------------------------- the rows


def test_each_row_of_the_tables_has_one_script() -> None:
    assert sorted(p.stem for p in SCRIPTS if p.name.startswith("table")) == sorted(ROWS)
    # Table 2 has eight rows; two are ReDAL, on two networks, of which hpal has one.
    assert Counter(name[:6] for name in ROWS) == {"table2": 8 - 1, "table5": 6, "table6": 8, "table7": 5}
    assert [p.stem for p in SCRIPTS if not p.name.startswith("table")] == [
        "few_labels", "loop", "rounds", "study", "summary",
    ]  # fmt: skip


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: p.stem)
def test_bash_can_read_it(script: Path) -> None:
    subprocess.run(["bash", "-n", script], check=True)
    # rounds.sh is there to be sourced.
    assert os.access(script, os.X_OK) == (script.stem != "rounds")


def test_a_sample_of_rooms_names_its_own_to_validate_on(bench: Bench) -> None:
    (bench.folder / "sample").mkdir()
    (bench.folder / "sample" / "val_rooms.txt").write_text("Area_6/office_1\n")
    bench.run("table5-mmu", "sample", "results")
    (words,) = bench.of("prep")
    assert options(words[1:])["--val"] == "@sample/val_rooms.txt"
    bench.run("table5-mmu", "sample", "others", VAL="Area_6/*")
    (words,) = bench.of("prep")
    assert options(words[1:])["--val"] == "Area_6/*"


@pytest.mark.parametrize("name", ROWS)
def test_a_script_runs_its_row(bench: Bench, name: str) -> None:
    row = ROWS[name]
    done = bench.run(name, **LEFTOVERS)
    assert done.stdout.splitlines()[1:] == [f"{n:5}                7   50.00" for n in range(1, 6)]
    assert bench.of("prep") == [["raw", "-o", "results/scenes.zarr", "--val", "Area_5/*", "--jobs", "1"]]

    first, *scores = bench.of("score")
    whole = {"--shard": "1/1", "--jobs": "1"}
    assert first[0] == "../../scenes.zarr"
    assert options(first) == {"--strategy": "random", "--seed": "0", **whole}
    assert [words[0] for words in scores] == [f"preds-{n}.zarr" for n in range(1, 5)]
    assert [options(words) for words in scores] == [{**row.score, **whole, "--seed": f"{n}000"} for n in range(1, 5)]
    first, *selections = map(options, bench.of("select"))
    assert first == {"--budget": "0.02%/scene", "--no-fds": "", "-o": "round-0.ply"}
    assert selections == [{**row.select, "-o": f"round-{n}.ply"} for n in range(1, 5)]
    asked = [[f"round-{n}.ply", "--oracle", "../../scenes.zarr", "-o", "labels.zarr"] for n in range(5)]
    assert bench.of("label") == asked

    supervised = {} if row.teacher else {"--supervised-only": ""}
    same = {"--labels": "labels.zarr", "--preset": "s3dis", "--seed": "0", "--resume": "", **supervised}
    assert [options(words) for words in bench.of("train")] == [
        {**same, "-o": f"model-{n}.pt", **({"--init": f"model-{n - 1}.pt"} if n > 1 else {})} for n in range(1, 6)
    ]
    assert bench.of("predict") == [[f"model-{n}.pt", "../../scenes.zarr", "-o", f"preds-{n}.zarr"] for n in range(1, 6)]
    assert bench.of("eval") == [
        [f"preds-{n}.zarr", "--truth", "../../scenes.zarr", "--split", "val", "--json"] for n in range(1, 6)
    ]
    assert (bench.folder / "results" / name / "seed-0" / "labels.zarr").is_dir()


def test_region_rows_ask_for_the_tables_share_in_all() -> None:
    for name, percent in (("table2-redal", 15), ("table2-ssdr", 11.7)):
        assert 0.02 + 4 * float(ROWS[name].budget.rstrip("%")) == pytest.approx(percent)


def test_scripts_and_readme_say_what_the_paper_reports() -> None:
    for name, row in ROWS.items():
        comment = (RECIPES / f"{name}.sh").read_text(encoding="utf-8").splitlines()[1]
        assert comment.startswith(f"# Table {name[5]}, ")
        assert comment.endswith(f": {row.miou} mIoU in the paper.")
    page = (RECIPES / "README.md").read_text(encoding="utf-8")
    lines = re.findall(r"^\| \[(\S+)\.sh\]\((\S+)\.sh\) \| Table (\d): .* \| ([\d.]+) \|$", page, re.MULTILINE)
    assert lines == [(name, name, name[5], row.miou) for name, row in ROWS.items()]
    assert f"--array=0-{3 * len(ROWS) - 1}\n" in page


# ---------------------------------------------------------------- the loop


def test_scannet_has_budgets_and_a_preset_of_its_own(bench: Bench) -> None:
    bench.run("loop", "scans", "out", DATASET="scannet")
    assert options(bench.of("prep")[0])["--val"] == "@scans/scannetv2_val.txt"
    assert [options(words)["--budget"] for words in bench.of("select")] == 5 * ["4/scene"]
    assert {options(words)["--preset"] for words in bench.of("train")} == {"scannet"}
    # By itself the loop is the whole method.
    method = ROWS["table5-hmmu-fds-ts"]
    assert method.score.items() <= options(bench.of("score")[1]).items()
    assert options(bench.of("select")[1]).items() >= {"--fds-r": "0.2", "--fds-tau": "0.8"}.items()
    assert not any("--supervised-only" in words for words in bench.of("train"))


def test_the_head_of_the_loop_lists_every_variable() -> None:
    code = (RECIPES / "loop.sh").read_text(encoding="utf-8")
    assert len(VARIABLES) == len(set(VARIABLES))
    assert set(re.findall(r"\{([A-Z_]+):=", code)) == set(VARIABLES)


def test_variables_reach_the_commands(bench: Bench) -> None:
    small = {"PRESET": "small", "STEPS": 30, "TRAIN_OPTIONS": "--batch 1 --no-elastic", "SEED": 2}
    own = {"VAL": "Area_1/a,Area_1/b", "FIRST": "3", "BUDGET": "50/scene", "ROUNDS": 2, "JOBS": 4, "CONTEXT": "on"}
    bench.run("table2-ssdr", **small, **own)
    assert options(bench.of("prep")[0]).items() >= {"--val": "Area_1/a,Area_1/b", "--jobs": "4"}.items()
    first, second = map(options, bench.of("select"))
    assert first["--budget"] == "3"
    assert second["--budget"] == options(bench.of("score")[1])["--budget"] == "50/scene"
    assert second["--context"] == "context-1"
    wanted = {"--preset": "small", "--steps": "30", "--batch": "1", "--no-elastic": "", "--seed": "2"}
    assert [options(words).items() >= wanted.items() for words in bench.of("train")] == [True, True]
    assert [options(words)["--seed"] for words in bench.of("score")] == ["2", "1002"]
    assert (bench.folder / "results" / "table2-ssdr" / "seed-2" / "table.txt").exists()
    bench.run("table5-hmmu", HIERARCHY="nested")
    assert {options(words).get("--hierarchy") for words in bench.of("score")[1:]} == {"nested"}


def test_every_command_is_printed_as_it_can_be_typed(bench: Bench) -> None:
    done = bench.run("loop", "my rooms", "results", VAL="Area_1/*")
    typed = [shlex.split(line[2:]) for line in done.stderr.splitlines() if line.startswith("$ ")]
    assert typed.pop(1) == ["cd", "results/campaign/seed-0"]
    commands: list[list[str]] = []
    for words in typed:
        commands.append([])
        for word in words:
            if word == "|":
                commands.append([])
            elif word == ">":
                break
            else:
                commands[-1].append(word)
    assert Counter(map(tuple, commands)) == Counter(("hpal", *words) for words in bench.calls)


@pytest.mark.parametrize(
    "point",
    [
        "prep *", "score ../../scenes*", "select * round-0.ply", "label round-0*", "train *model-1.pt*",
        "predict *-3.pt*", "eval preds-2*", "score preds-2*", "select * round-4.ply", "label round-4*",
        "train *-o model-5.pt*",
    ],
)  # fmt: skip
def test_a_campaign_that_died_goes_on(bench: Bench, tmp_path: Path, point: str) -> None:
    (tmp_path / "whole").mkdir()
    put_program(tmp_path / "whole", FAKE)
    whole = Bench(tmp_path / "whole")
    whole.run("table2-redal")
    bench.run("table2-redal", rc=None, DIES_AT=point)
    before = bench.calls
    bench.run("table2-redal")
    # Both commands of a pipe run again, and answers that are there are not added again.
    twice = [words for words in before if words in bench.calls]
    assert {words[0] for words in twice} <= {"label", "score"}
    assert len(twice) <= 1
    once = [*before, *bench.calls]
    for words in twice:
        once.remove(words)
    assert sorted(once) == sorted(whole.calls)
    bench.run("table2-redal")
    assert bench.calls == []


def test_more_rounds_go_on_from_fewer(bench: Bench) -> None:
    bench.run("table5-mmu-fds", ROUNDS=2)
    assert len(bench.of("train")) == 2
    bench.run("table5-mmu-fds", ROUNDS=3)
    assert [words[0] for words in bench.of("score")] == ["preds-2.zarr"]
    assert [options(words)["--init"] for words in bench.of("train")] == ["model-2.pt"]


def test_other_settings_are_refused_and_other_seeds_are_apart(bench: Bench) -> None:
    bench.run("table5-hmmu", ROUNDS=2)
    done = bench.run("table5-hmmu", rc=2, ROUNDS=2, HIERARCHY="nested")
    assert "< HIERARCHY=flat\n---\n> HIERARCHY=nested\n" in done.stderr
    assert "begun with other settings" in done.stderr
    assert bench.calls == []
    bench.run("table5-hmmu", ROUNDS=2, SEED=1)
    assert bench.of("prep") == []
    assert len(bench.of("train")) == 2


def test_predictions_can_go_when_nobody_needs_them(bench: Bench) -> None:
    folder = bench.folder / "results" / "table2-mmu" / "seed-0"
    bench.run("table2-mmu", ROUNDS=3, KEEP_PREDS="off")
    assert [p.name for p in folder.glob("preds-*")] == ["preds-3.zarr"]
    bench.run("table2-mmu", ROUNDS=3, KEEP_PREDS="off")
    assert bench.calls == []
    bench.run("table2-mmu", ROUNDS=4, KEEP_PREDS="off")
    assert [words[0] for words in bench.of("predict")] == ["model-4.pt"]


@pytest.mark.parametrize(
    ("words", "variables", "message"),
    [
        (["raw"], {}, "call it as: bash loop.sh DATA RESULTS"),
        (["raw", "out"], {"FDS": "yes"}, "FDS=yes is neither on nor off"),
        (["raw", "out"], {"DATASET": "kitti"}, "DATASET=kitti is neither s3dis nor scannet"),
    ],
)
def test_what_it_cannot_run_it_refuses(bench: Bench, words: list[str], variables: dict[str, str], message: str) -> None:
    assert message in bench.run("loop", *words, rc=2, **variables).stderr
    assert bench.calls == []


def test_two_that_start_at_once_share_a_store(bench: Bench) -> None:
    """The second to finish `prep` is refused by it, for the store is there."""
    command = bench.folder / "bin" / "hpal"
    refused = 'if [[ $1 == prep ]]; then mkdir -p "$4"; exit 1; fi\n'
    command.write_text(FAKE.replace("words=", refused + "words=", 1), encoding="utf-8")
    bench.run("table2-random", ROUNDS=1)
    assert len(bench.of("train")) == 1
    command.write_text(FAKE.replace("words=", "[[ $1 == prep ]] && exit 3\nwords=", 1), encoding="utf-8")
    bench.run("table2-random", "raw", "elsewhere", rc=1, ROUNDS=1)
    assert bench.calls == []


def test_summary_is_over_the_seeds(bench: Bench) -> None:
    for name, mious in (("a", (50.0, 53.0, 56.0)), ("b", (60.5,)), ("unfinished", ())):
        for seed, miou in enumerate(mious):
            folder = bench.folder / name / f"seed-{seed}"
            folder.mkdir(parents=True)
            (folder / "table.txt").write_text(f"round  labelled points  mIoU %\n 1 1 99\n 2 {10 * seed} {miou}\n")
        (bench.folder / name).mkdir(exist_ok=True)
    lines = [line.split() for line in bench.run("summary", ".").stdout.splitlines()]
    assert lines[1:] == [["a", "3", "10", "53.00", "3.00"], ["b", "1", "0", "60.50", "-"]]


# ---------------------------------------------------------------- the study

SCORES: dict[str, Options] = {
    "hmmu": {},
    "hmmu-nested": {"--hierarchy": "nested"},
    **{strategy: {"--strategy": strategy} for strategy in ("mmu", "lc", "entropy", "random")},
}


def study_rows() -> Iterator[tuple[str, Options, Options, Options]]:
    """Name, and what `score` gets in the first round, `score` and `select` later, beside seed and budget."""
    diverse, none = {"--strategy": "diverse"}, {"--no-fds": ""}
    for strategy, options in SCORES.items():
        for per, unit in (("point", {}), ("superpoint", {"--per": "superpoint"})):
            yield f"{strategy}.{per}", diverse, {**options, **unit}, none
            yield f"{strategy}+fds.{per}", diverse, {**options, **unit}, {"--fds-r": "20cm", "--fds-tau": "0.8"}
    at_random = {"--strategy": "random"}
    yield "all-random.point", at_random, at_random, none
    yield "redal.region", diverse, {"--strategy": "redal"}, none
    for row in ("ssdr-clicks", "ssdr-area"):
        yield f"{row}.region", diverse, {"--strategy": "ssdr"}, none


def without(words: Options, *names: str) -> Options:
    return {name: value for name, value in words.items() if name not in names}


def test_the_study_runs_each_strategy_as_its_name_says(bench: Bench) -> None:
    bench.run("study", SEEDS="3", ROUNDS=1, WORKERS=1, SLURM_ARRAY_TASK_ID="1", SLURM_ARRAY_TASK_COUNT="2")
    first, *calls = bench.calls
    assert first == ["prep", "raw", "-o", "results/scenes.zarr", "-q"]
    found = {}
    for words in calls:
        where = re.search(r"results/rows/([^/]+)/40/seed-3", " ".join(words))
        if where:
            found.setdefault(where.group(1), []).append(words)
    asked = [words for words in calls if words[0] in ("score", "select")]
    order = [row for row in found if row != "all.point"]
    rows = {name: options for name, *options in study_rows()}
    assert sorted(order) == sorted(rows)
    assert order[:2] == ["hmmu.superpoint", "hmmu.point"]
    for number, name in enumerate(order):
        first_score, score, select = rows[name]
        firsts, selected, later, selected_later = map(options, asked[4 * number : 4 * number + 4])
        assert without(firsts, "--budget") == {**first_score, "--seed": "3", "-q": ""}, name
        assert selected == {"--budget": "10", "--no-fds": "", "-q": ""}, name
        assert without(later, "--budget") == {**score, "--seed": "1003", "-q": ""}, name
        # Ten of 40 are answered; SSDR is asked for 50 points a click.
        budget = str(1500 if name == "ssdr-clicks.region" else 30)
        assert selected_later == {**select, "--budget": budget, "-q": ""}, name
        assert ("--budget" in firsts) == (name != "all-random.point"), name
        assert later.get("--budget") == (budget if name.startswith("ssdr") else None), name
    ours = {"--labels": "results/rows/mmu.point/40/seed-3/labels.zarr"}
    trained = [options(words) for words in bench.of("train")]
    forest = {"--model": "forest", "--seed": "3", "-q": ""}
    spread = {"--spread": "results/rows/mmu.point/40/seed-3/spread.zarr"}
    assert {**ours, **spread, **forest} in [without(words, "-o") for words in trained]
    assert {"--labels": "all", **forest} in [without(words, "-o") for words in trained]
    lines = study_table(bench.folder / "results")
    assert Counter(line["model"] for line in lines) == {"spread": 2 * len(rows), "forest": len(rows) + 1}
    assert {line["clicks"] for line in lines if line["round"] == "1"} == {"20"}
    assert {line["area"] for line in lines if line["round"] == "1"} == {"0.032"}
    assert bench.folder.joinpath("results", "curves.png").read_bytes().startswith(b"\x89PNG")


def study_table(results: Path) -> list[dict[str, str]]:
    """study.csv without the minutes, which no two runs share."""
    with (results / "study.csv").open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    assert list(lines[0]) == [
        "strategy", "per", "model", "seed", "budget", "round", "points", "clicks", "area", "mIoU", "accuracy",
        "label mIoU", "per class", "minutes",
    ]  # fmt: skip
    assert all(float(line.pop("minutes")) >= 0 for line in lines)
    return lines


def test_the_networks_of_the_study_learn_with_and_without_a_teacher(bench: Bench) -> None:
    models = {
        "network": {"--preset": "few"},
        "network-teacher": {"--preset": "few", "--teacher-after": "0.5"},
        "network-points": {"--preset": "small", "--supervised-only": ""},
        "network-points-teacher": {"--preset": "small"},
    }
    small = {"SEEDS": "0", "ROUNDS": 1, "WORKERS": 1, "MODELS": " ".join(models), "STEPS": 9}
    bench.run("study", **small, ROWS="mmu.point all.point")
    *asked, every = [without(options(words), "-o", "-q", "--seed", "--labels") for words in bench.of("train")]
    spread = {"--spread": "results/rows/mmu.point/40/seed-0/spread.zarr"}
    assert asked == [
        {**words, "--steps": "9", **({} if "points" in name else spread)} for name, words in models.items()
    ]
    assert every == {"--preset": "few", "--steps": "9"}
    # Another model learns from the same answers.
    bench.run("study", **{**small, "MODELS": "forest"}, ROWS="mmu.point all.point")
    assert Counter(words[0] for words in bench.calls) == {
        "superpoints": 1,
        "info": 1,
        "train": 2,
        "predict": 2,
        "eval": 2,
    }


def test_regions_are_bought_by_what_they_cost(bench: Bench) -> None:
    def budgets(row: str, cost: str) -> list[str]:
        bench.run(
            "study", "raw", row, ROWS=row, SEEDS="0", ROUNDS=3, WORKERS=1, ANSWERS="100", COST=cost, MODELS="forest"
        )
        return [options(words)["--budget"] for words in bench.of("select")]

    two = "cost: 2 clicks, 20 points labelled, 0.032 m2"
    # 98 clicks are left for three rounds, at 50 points each; then a click took 1633 / 2 points, then 40825 / 4.
    assert budgets("ssdr-clicks.region", two) == ["10", "1633", "39192", "959387"]
    assert budgets("ssdr-area.region", two) == ["10", "26", "30", "40"]
    assert budgets("redal.region", "cost: 900 clicks, 900 points labelled, 1.44 m2") == ["10"]


def test_the_head_of_the_study_lists_every_variable() -> None:
    code = (RECIPES / "study.sh").read_text(encoding="utf-8")
    assert sorted(STUDY_VARIABLES) == sorted(set(re.findall(r"\{([A-Z]+):=", code)))


@pytest.mark.parametrize(
    ("words", "variables", "message"),
    [
        (["raw"], {}, "call it as: bash study.sh ROOMS RESULTS"),
        (["raw", "out"], {"ROWS": "hmmu.point hmmu"}, "ROWS: hmmu is no row"),
        (["raw", "out"], {"MODELS": "tree"}, "MODELS: tree is no model"),
    ],
)
def test_what_the_study_cannot_run_it_refuses(
    bench: Bench, words: list[str], variables: dict[str, str], message: str
) -> None:
    assert message in bench.run("study", *words, rc=2, **variables).stderr
    assert bench.calls == []


def test_a_study_of_other_settings_is_refused(bench: Bench) -> None:
    small: dict[str, Any] = {"ROWS": "mmu.point", "SEEDS": "0", "WORKERS": 1}
    bench.run("study", **small, ROUNDS=1)
    done = bench.run("study", rc=2, **small, ROUNDS=2)
    assert "< ROUNDS=1\n---\n> ROUNDS=2\n" in done.stderr
    bench.run("study", **small, ROUNDS=1)
    assert [words[0] for words in bench.calls] == ["superpoints", "info"]


def test_a_campaign_that_fails_is_said_and_run_again(bench: Bench) -> None:
    small: dict[str, Any] = {"ROWS": "mmu.point lc.point", "SEEDS": "0 1", "WORKERS": 2, "ROUNDS": 1}
    done = bench.run("study", rc=1, **small, DIES_AT="spread *lc.point/40/seed-1*")
    assert done.stderr.splitlines()[-1] == (
        "study.sh: lc.point, 40 answers, seed 1: not done; the same call again does it"
    )
    assert {line["strategy"] + line["seed"] for line in study_table(bench.folder / "results")} == {
        "mmu0",
        "mmu1",
        "lc0",
    }
    bench.run("study", **small)
    assert len(bench.of("label")) == 2
    assert len(study_table(bench.folder / "results")) == 12
    assert not list((bench.folder / "results").rglob("*.unfinished-*"))


# ---------------------------------------------------------------- for real


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """A bench whose `hpal` is the real one."""
    bench = Bench(tmp_path_factory.mktemp("recipes"))
    put_quick_hpal(bench.folder)
    return bench


TINY = {"PRESET": "small", "STEPS": 2, "ROUNDS": 2, "TRAIN_OPTIONS": "--voxel 20cm --batch 1"}


def check_campaign(bench: Bench, script: str, data: Path, name: str, **variables: str | int) -> Path:
    """Runs a campaign of two rounds twice. Its folder."""
    done = bench.run(script, str(data), f"out-{data.name}", **TINY, **variables)
    folder = bench.folder / f"out-{data.name}" / name / "seed-0"
    table = [line.split() for line in done.stdout.splitlines()]
    assert table[0] == ["round", "labelled", "points", "mIoU", "%"]
    # An "unsure" answer is no labelled point.
    counts = [int((batch.rows["label"] >= 0).sum()) for batch in LabelStore(folder / "labels.zarr").batches()]
    assert len(counts) == 2
    assert min(counts) > 0
    for n, (number, labelled, miou) in enumerate(table[1:], 1):
        result = json.loads((folder / f"eval-{n}.json").read_text())
        assert result["split"] == "val"
        assert (int(number), int(labelled)) == (n, sum(counts[:n]))
        assert float(miou) == pytest.approx(100 * result["grid"]["miou"], abs=0.006)
    again = bench.run(script, str(data), f"out-{data.name}", **TINY, **variables)
    assert again.stdout == done.stdout
    assert "$ hpal" not in again.stderr
    return folder


def picks(path: Path) -> np.ndarray:
    with path.open("rb") as file:
        return PointReader(file, path).read()


def strategy_of(path: Path) -> str:
    with path.open("rb") as file:
        return (PointReader(file, path).header.strategy or "").split()[0]


@pytest.mark.parametrize(
    ("script", "strategy"), [("table5-hmmu-fds-ts", "hmmu"), ("table2-redal", "redal"), ("table2-ssdr", "ssdr")]
)
def test_a_campaign_for_real(real: Bench, office: Path, script: str, strategy: str) -> None:
    folder = check_campaign(real, script, office, script, VAL=VAL, FIRST="1%/scene", BUDGET="2%", CONTEXT="on")
    assert strategy_of(folder / "round-1.ply") == strategy
    assert list((folder / "context-1").rglob("*.png"))
    before, after = picks(folder / "round-0.ply"), picks(folder / "round-1.ply")
    assert len(after) >= 2 * len(before) - 2
    pairs = [set(zip(p["scene"].tolist(), p["index"].tolist())) for p in (before, after)]
    assert not pairs[0] & pairs[1]
    assert ("region" in (after.dtype.names or ())) == (strategy != "hmmu")
    metrics = [json.loads(line) for line in (folder / "model-1.pt.metrics.jsonl").read_text().splitlines()]
    assert metrics


def test_a_campaign_on_scans_laid_out_as_scannets(real: Bench, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    data = tmp_path / "scans"
    for n in range(3):
        base = data / f"scene000{n}_00" / f"scene000{n}_00_vh_clean_2"
        base.parent.mkdir(parents=True)
        xyz, label = rng.uniform(0, 3, (300, 3)).astype("f4"), rng.integers(1, 40, 300)
        xyz[:150, 2] = 0
        mesh = np.zeros(300, [(a, "f4") for a in "xyz"] + [(c, "u1") for c in ("red", "green", "blue")])
        truth = np.zeros(300, [*mesh.dtype.descr, ("label", "u2")])
        for rows, suffix in ((mesh, ".ply"), (truth, ".labels.ply")):
            rows["x"], rows["y"], rows["z"] = xyz.T
            if suffix == ".labels.ply":
                rows["label"] = np.where(xyz[:, 2] == 0, 2, label)
            plyfile.PlyData([plyfile.PlyElement.describe(rows, "vertex")]).write(str(base) + suffix)
    (data / "scannetv2_val.txt").write_text("scene0002_00\n")
    folder = check_campaign(real, "loop", data, "campaign", DATASET="scannet")
    assert Counter(picks(folder / "round-0.ply")["scene"].tolist()) == {0: 4, 1: 4}
    assert Counter(picks(folder / "round-1.ply")["scene"].tolist()) == {0: 4, 1: 4}


def test_a_study_that_was_killed_ends_as_if_it_had_not_been(real: Bench, scenes: Path) -> None:
    small: dict[str, Any] = {"ROWS": "random.point hmmu.superpoint", "SEEDS": "0", "ROUNDS": 1, "ANSWERS": "30"}
    results = real.folder / "study"
    first, second = (results / "rows" / row / "30" for row in small["ROWS"].split())
    with real.start("study", str(scenes), "study", **small, WORKERS=1) as process:
        while not list(second.glob("*.unfinished-*/rounds.csv")):
            assert process.poll() is None, process.communicate()
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 130
    assert not (second / "seed-0").exists()
    whole = {path: path.stat().st_mtime_ns for path in first.rglob("*")}

    real.run("study", str(scenes), "study", **small, WORKERS=1)
    assert {path: path.stat().st_mtime_ns for path in first.rglob("*")} == whole
    assert [path.name for path in second.iterdir()] == ["seed-0"]
    after_a_kill = study_table(results)
    assert [(line["strategy"], line["model"], line["points"]) for line in after_a_kill] == [
        (strategy, model, points)
        for strategy in ("hmmu", "random")
        for model, points in (("spread", "23"), ("spread", "30"), ("forest", "30"))
    ]
    shutil.rmtree(second)
    real.run("study", str(scenes), "study", **small, WORKERS=1)
    assert study_table(results) == after_a_kill


# ---------------------------------------------------------------- few labels


def test_a_campaign_of_few_labels(real: Bench, scenes: Path, other_scenes: Path, tmp_path: Path) -> None:
    """From no answer to a class for every point of these scenes and of others, by trees and by a network."""
    shutil.copytree(scenes, tmp_path / "scenes.zarr")
    shutil.copytree(other_scenes, tmp_path / "other.zarr")
    out = tmp_path / "out"
    words = (str(tmp_path / "scenes.zarr"), str(out), "--answers", "48", "--seed", "3", "--also")
    run = real.run("few_labels", *words, str(tmp_path / "other.zarr"), "--network", "0.01", timeout=600)
    store, labels = SceneStore(tmp_path / "scenes.zarr"), LabelStore(out / "labels.zarr")
    given = [len(batch.rows) for batch in labels.batches()]
    assert sum(given) == 48
    assert given[0] == 36
    assert len(given) == 5
    # Every answer is for a superpoint of its own, of a scene to learn from.
    superpoints = SuperpointStore(superpoints_path(store.path))
    asked = {
        (int(row["scene"]), int(superpoints.partition(store.table[int(row["scene"])])[row["index"]]))
        for row in labels.latest()
    }
    assert len(asked) == 48
    assert {store.table[scene].split for scene, _ in asked} == {"train"}
    # What it prints is what eval says of the stores that it leaves.
    table = list(csv.DictReader((out / "results.csv").open()))
    assert [row["round"] for row in table] == [*(f"round {n}" for n in range(5)), "models"]
    assert [int(row["answers"]) for row in table] == [*np.cumsum(given).tolist(), 48]
    for row, name, split in ((table[4], "spread", "train"), (table[5], "preds", "val")):
        found = evaluate(PredictionStore(out / f"{name}.zarr"), store, split=split)
        assert row["split"] == split
        assert float(row["miou"]) == pytest.approx(found.grid.miou, abs=1e-5)
        line = next(line for line in run.stdout.splitlines() if line.startswith(row["round"]))
        assert f"mIoU {found.grid.miou:.3f}" in line
    assert float(table[4]["miou"]) > float(table[0]["miou"])
    for name, of in (("spread", store), ("preds", store), ("also", SceneStore(tmp_path / "other.zarr"))):
        description = describe(out / f"{name}.zarr", check=True)
        assert description.facts["predicted_scenes"] == len(of.table), name
        assert description.facts["points_without_class"] == 0
    answered = answers_digest(labels.latest())
    assert PredictionStore(out / "spread.zarr").spread_from["answers"] == answered  # type: ignore[index]
    models = PredictionStore(out / "preds.zarr").spread_from
    assert models is not None
    assert [Path(path).name for path in models["predictions"]] == [
        "preds-forest.zarr",
        "preds-network-1.zarr",
        "preds-network-2.zarr",
    ]
    # Trees alone: nothing of a network, and nothing of other scenes.
    trees = tmp_path / "trees"
    real.run("few_labels", words[0], str(trees), "--answers", "6", "--rounds", "1", timeout=600)
    assert len(LabelStore(trees / "labels.zarr").latest()) == 6
    assert not list(trees.glob("also*"))
    assert not list(trees.glob("*network*"))
    assert PredictionStore(trees / "preds.zarr").spread_from is None
    for wrong in (("only",), (*words[:2], "--answers"), (*words[:2], "--nothing", "1")):
        done = real.run("few_labels", *wrong, rc=2)
        assert "few_labels.sh SCENES OUT" in done.stderr
