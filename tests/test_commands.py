"""The manners of the commands, from outside: what a shell and a person at a terminal see."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import plyfile
import pytest
from conftest import environment, fake_predictions, run_fresh, run_hpal, tree
from typer.main import get_group

import hpal_cli
from hpal_cli.commands.app import COMPLETE, _called
from hpal_cli.history import Entry
from hpal_cli.labels.store import ANSWER, LabelStore
from hpal_cli.scenes.store import SceneStore

ROOT = Path(hpal_cli.__file__).parent
COMMANDS = (
    "prep",
    "train",
    "predict",
    "score",
    "select",
    "label",
    "spread",
    "eval",
    "superpoints",
    "info",
    "view",
    "export",
    "demo",
)
HEAVY = {
    *("torch", "MinkowskiEngine", "zarr", "numpy", "plyfile", "laspy", "matplotlib", "rich", "scipy", "sklearn"),
    "distributed",
}


# ---------------------------------------------------------------- what bad input gets


def write_ply(path: Path, **columns: list) -> None:
    rows = np.zeros(len(next(iter(columns.values()))), [(n, "f8" if n in "xyz" else "i4") for n in columns])
    for name, values in columns.items():
        rows[name] = values
    plyfile.PlyData([plyfile.PlyElement.describe(rows, "vertex")]).write(str(path))


@pytest.fixture(scope="module")
def bench(
    office: Path, scenes: Path, other_scenes: Path, predictions: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A folder with everything that the table below refers to."""
    folder = tmp_path_factory.mktemp("bench")
    shutil.copytree(scenes, folder / "scenes.zarr")
    shutil.copytree(predictions, folder / "preds.zarr")
    shutil.copytree(office, folder / "office")
    (folder / "empty").mkdir()
    (folder / "text.txt").write_text("not a cloud\n")
    spot = [0.0, 1.0, 2.0]
    write_ply(folder / "flat.ply", x=spot, y=spot, label=[0, 1, 1])
    write_ply(folder / "nan.ply", x=spot, y=[0, np.nan, 1], z=spot, label=[0, 1, 1])
    write_ply(folder / "inf.ply", x=spot, y=[0, np.inf, 1], z=spot, label=[0, 1, 1])
    write_ply(folder / "labelled.ply", x=spot, y=spot, z=spot, label=[0, 1, 7])
    (folder / "two.json").write_text('[{"id": 0, "name": "wall"}, {"id": 1, "name": "floor"}]')
    (folder / "gap.json").write_text('[{"id": 0, "name": "wall"}, {"id": 2, "name": "floor"}]')
    other = SceneStore(other_scenes)
    rows = np.zeros(1, ANSWER)
    LabelStore.create(folder / "other.zarr", other.classes, other.table).append(rows, "test", Entry("test", "0", ()))
    fake_predictions(scenes, folder / "bare.zarr", features=None)
    for name, args in (
        ("scores.ply", ("score", "preds.zarr")),
        ("random.ply", ("score", "scenes.zarr", "--strategy", "random")),
        ("bare.ply", ("score", "bare.zarr")),
        ("part.ply", ("score", "preds.zarr", "--shard", "2/2")),
        ("regions.ply", ("score", "preds.zarr", "--strategy", "redal")),
    ):
        assert run_hpal(*args, "-o", name, cwd=folder).rc == 0
    chosen = run_hpal("select", "scores.ply", "--budget", "3", "-o", "selection.ply", cwd=folder)
    assert chosen.rc == 0, chosen.err
    return folder


BAD = [
    # the call, the exit status, words that the one line must have
    ("prep absent -o x.zarr", 1, "absent"),
    ("prep empty -o x.zarr", 1, "empty"),
    ("prep text.txt -o x.zarr", 1, "text.txt"),
    ("prep flat.ply -o x.zarr", 1, r"flat\.ply.* z"),
    ("prep nan.ply -o x.zarr --strict", 1, r"nan\.ply.*NaN"),
    ("prep inf.ply -o x.zarr --strict", 1, r"inf\.ply.*infinite"),
    ("prep labelled.ply --classes two.json -o x.zarr", 1, r"labelled\.ply.*class number 7 .*table of 2"),
    ("prep office --classes two.json -o x.zarr", 1, "class numbers .*table of 2"),
    ("prep office --classes gap.json -o x.zarr", 1, r"gap\.json.*floor.*id 2"),
    ("prep office --classes absent.json -o x.zarr", 1, r"absent\.json"),
    ("prep office --val nothing -o x.zarr", 2, "--val.*nothing"),
    ("prep office --val @absent.txt -o x.zarr", 2, r"--val.*absent\.txt"),
    ("prep office --grid ten -o x.zarr", 2, "--grid.*ten"),
    ("prep office --unit parsec -o x.zarr", 2, "--unit.*parsec"),
    ("prep office --format dwg -o x.zarr", 2, "--format.*dwg"),
    ("prep office --jobs 0 -o x.zarr", 2, "--jobs"),
    ("prep office -o scenes.zarr", 1, r"scenes\.zarr: exists already.*--overwrite"),
    ("prep office -o no/where/x.zarr", 1, "no/where.*folder"),
    ("prep office", 2, "output"),
    ("score absent.zarr", 1, r"absent\.zarr: does not exist"),
    ("score empty", 1, "empty: is not an hpal store"),
    ("score selection.ply", 1, r"selection\.ply: is not an hpal store"),
    ("score scenes.zarr", 1, r"scenes\.zarr: is a scenes store.*--strategy diverse for a first"),
    ("score scenes.zarr --strategy mmu", 1, r"scenes\.zarr: is a scenes store.*--strategy diverse for a first"),
    ("score other.zarr", 1, r"other\.zarr: is a labels store, expected predictions"),
    ("score preds.zarr --strategy best", 2, "--strategy.*best.*hmmu"),
    ("score preds.zarr --levels 0", 2, "--levels.*above zero"),
    ("score preds.zarr --levels ten", 2, "--levels.*'ten'"),
    ("score preds.zarr --levels 10,-5", 2, "--levels.*'-5'"),
    ("score preds.zarr --levels 1e-20", 2, "--levels.*1e-20.*no length in a scan"),
    ("score preds.zarr --levels 1e300m", 2, "--levels.*no length in a scan"),
    ("score preds.zarr --weights 1,2", 2, "--weights.*2 weights for 3 levels"),
    ("score preds.zarr --weights a,b,c", 2, "--weights"),
    ("score preds.zarr --weights inf,1,1", 2, "--weights"),
    ("score preds.zarr --split nope", 2, "--split.*nope"),
    ("score preds.zarr --scenes nope*", 2, r"--scenes.*nope\*"),
    ("score preds.zarr --seed -1", 2, "--seed"),
    ("score preds.zarr -o scores.ply", 1, r"scores\.ply: exists already.*--overwrite"),
    ("score preds.zarr --frobnicate", 2, "--frobnicate"),
    ("score preds.zarr --hierarchy deep", 2, "--hierarchy.*deep.*flat, nested"),
    ("score preds.zarr --hierarchy nested --levels 50,10", 2, "--hierarchy.*must grow"),
    ("score preds.zarr --shard 5/4", 2, "--shard.*5/4"),
    ("score preds.zarr --shard 1/2 --strategy redal", 2, "--shard.*redal"),
    ("score preds.zarr --strategy mmu --levels 10", 2, "--strategy.*mmu has no voxels"),
    ("score preds.zarr --budget 1%", 2, "--budget.*hpal select"),
    ("score preds.zarr --device gpu", 2, "--device.*gpu"),
    ("score bare.zarr --strategy redal", 1, r"bare\.zarr.*no features.*"),
    ("score", 2, "STORE"),
    ("select absent.ply", 1, r"absent\.ply"),
    ("select empty", 1, "empty.*folder"),
    ("select text.txt", 1, r"text\.txt.*not a PLY"),
    ("select flat.ply --budget 1 --no-fds", 1, r"flat\.ply.*no property"),
    ("select scores.ply --budget nonsense", 2, "--budget.*nonsense"),
    ("select scores.ply --budget 0", 2, "--budget"),
    ("select scores.ply --budget 0.02", 2, "--budget.*0.02%"),
    ("select scores.ply --budget 200%", 2, "--budget.*more than all points"),
    ("select scores.ply --overwrite -o scores.ply", 2, r"-o: scores\.ply is the input"),
    ("select scores.ply --context text.txt -o x.ply", 1, r"text\.txt: is a file, and a folder"),
    ("score preds.zarr --ply text.txt -o x.ply", 1, r"text\.txt: is a file, and a folder"),
    ("label scores.ply --oracle scenes.zarr -o x.zarr", 1, r"scores\.ply: holds scores, not a selection.*hpal select"),
    ("label scores.ply --table x.csv", 1, r"scores\.ply: holds scores, not a selection.*hpal select"),
    ("label selection.ply --table selection.ply --overwrite", 2, r"--table: selection\.ply is the input"),
    ("select scores.ply --fds-tau 2", 2, "--fds-tau.*2"),
    ("select scores.ply --fds-r 0", 2, "--fds-r"),
    ("select scores.ply --fds-r far", 2, "--fds-r.*far"),
    ("select scores.ply --no-fds --fds-r 0.2", 2, "--no-fds"),
    ("select scores.ply --fds-r -0.2", 2, "--fds-r.*-0.2.*above zero"),
    ("select bare.ply", 1, r"bare\.zarr.*no features.*--no-fds"),
    ("select scores.ply scores.ply", 1, r"scores\.ply: scene .* comes in two streams"),
    ("select scores.ply part.ply", 1, r"part\.ply: is one of 2 parts"),
    ("select part.ply", 1, r"part\.ply: is one of 2 parts; here is 2; .*--shard 1/1"),
    ("select scores.ply random.ply", 1, r"random\.ply: its source differs"),
    ("select regions.ply --fds-r 0.2", 2, "FDS.*regions"),
    ("select regions.ply --max-per-scene 5", 1, r"regions\.ply.*whole.*--max-per-scene"),
    ("select scores.ply --max-per-scene 0", 2, "--max-per-scene"),
    ("select scores.ply --source absent.zarr", 1, r"absent\.zarr"),
    ("select scores.ply --source scenes.zarr", 1, r"scenes\.zarr: is a scenes store"),
    ("select random.ply --fds-r 0.2", 1, r"random\.ply.*no features.*--no-fds"),
    ("select scores.ply -o selection.ply", 1, r"selection\.ply: exists already"),
    ("label selection.ply", 2, "--oracle"),
    ("label selection.ply --oracle scenes.zarr --table x.csv -o x.zarr", 2, "--oracle and --table"),
    ("label selection.ply --oracle absent.zarr -o x.zarr", 1, r"absent\.zarr"),
    ("label selection.ply --oracle preds.zarr -o x.zarr", 1, r"preds\.zarr: is a predictions store, expected scenes"),
    ("label selection.ply --oracle scenes.zarr -o other.zarr", 1, r"other\.zarr.*other scenes"),
    ("label selection.ply --oracle scenes.zarr -o preds.zarr", 1, r"preds\.zarr: is a predictions store"),
    ("label flat.ply --oracle scenes.zarr -o x.zarr", 1, r"flat\.ply.*no property"),
    ("label --from absent.csv -o x.zarr --source scenes.zarr", 1, r"absent\.csv"),
    ("label --from text.txt -o x.zarr --source scenes.zarr", 1, r"text\.txt.*no column"),
    ("label --from text.txt -o x.zarr", 2, "--source"),
    ("train scenes.zarr --labels other.zarr -o x.pt --steps 1 -q", 1, r"other\.zarr.*other scenes"),
    ("train scenes.zarr -o x.pt", 2, "--labels"),
    ("train preds.zarr --labels all -o x.pt", 1, r"preds\.zarr: is a predictions store"),
    ("train scenes.zarr --labels all -o selection.ply", 1, r"selection\.ply: exists already"),
    (
        "train scenes.zarr --labels all -o preds.zarr --overwrite",
        1,
        r"preds\.zarr: is a folder; give the name of a file",
    ),
    ("score preds.zarr -o scenes.zarr --overwrite", 1, r"scenes\.zarr: is a folder; give the name of a file"),
    ("train scenes.zarr --labels all --preset huge -o x.pt", 2, "--preset.*huge"),
    ("predict absent.pt scenes.zarr -o x.zarr", 1, r"absent\.pt"),
    ("predict text.txt scenes.zarr -o x.zarr", 1, r"text\.txt"),
    ("eval preds.zarr --truth absent.zarr", 1, r"absent\.zarr"),
    ("eval preds.zarr --truth preds.zarr", 1, r"preds\.zarr: is a predictions store"),
    ("eval preds.zarr --truth scenes.zarr --labels other.zarr", 1, r"other\.zarr.*other scenes"),
    ("eval preds.zarr", 2, "--truth"),
    ("info absent", 1, "absent: does not exist"),
    ("info text.txt", 1, r"text\.txt"),
    ("info empty", 1, "empty"),
    ("train scenes.zarr --labels other.zarr --model forest -o x.pt", 1, r"other\.zarr.*other scenes than scenes\.zarr"),
    ("train scenes.zarr --labels all --model trees -o x.pt", 2, "--model.*trees.*network, forest"),
    ("score scenes.zarr --strategy diverse --shard 1/2", 2, "--shard.*diverse.*superpoints"),
    ("score preds.zarr --strategy diverse", 1, r"preds\.zarr: is no scenes store.*hpal prep"),
    ("score absent.zarr --strategy diverse", 1, r"absent\.zarr: does not exist; make it with `hpal prep`"),
    ("score absent.zarr --strategy random", 1, r"absent\.zarr: does not exist; make it with `hpal prep`"),
    ("score absent.zarr", 1, r"absent\.zarr: does not exist; make it with `hpal predict`"),
    ("score preds.zarr --per room", 2, "--per.*room.*superpoint"),
    (
        "spread other.zarr scenes.zarr -o x.zarr",
        1,
        r"other\.zarr.*other scenes than scenes\.zarr; give the labels made",
    ),
    ("spread absent.zarr scenes.zarr -o x.zarr", 1, r"absent\.zarr: does not exist"),
    ("spread scenes.zarr scenes.zarr -o x.zarr", 1, r"scenes\.zarr: is a scenes store, expected labels"),
    ("spread none scenes.zarr -o x.zarr", 2, "--predictions: is missing"),
    ("spread other.zarr", 2, "SCENES"),
    ("superpoints absent.zarr", 1, r"absent\.zarr: does not exist"),
    ("superpoints preds.zarr", 1, r"preds\.zarr: is a predictions store, expected scenes"),
    ("export absent.zarr -o x", 1, r"absent\.zarr"),
    ("export preds.zarr -o x --format stl", 2, "--format.*stl"),
    ("export preds.zarr -o x --split nope", 2, "--split.*nope"),
    ("frobnicate", 2, "frobnicate"),
    ("--frobnicate", 2, "--frobnicate"),
]


def state(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and time of the last change of everything below a folder: cheaper than what is in it, for 130 calls."""
    return {str(path): (path.lstat().st_size, path.lstat().st_mtime_ns) for path in folder.rglob("*")}


@pytest.mark.parametrize(("call", "status", "words"), BAD, ids=[call for call, _, _ in BAD])
def test_bad_input_gets_one_line(bench: Path, call: str, status: int, words: str) -> None:
    before = state(bench)
    done = run_hpal(*call.split(), cwd=bench)
    assert done.rc == status, done
    assert done.out == b""
    lines = done.err.splitlines()
    assert len(lines) == 1, done.err
    name = call.split()[0]
    assert lines[0].startswith(f"hpal {name}: " if name in COMMANDS else "hpal: "), lines[0]
    assert re.search(words, lines[0]), lines[0]
    # What is wrong; what to do.
    assert ";" in lines[0] or "(see `hpal" in lines[0]
    assert "please report" not in lines[0], "an error that nobody foresaw"
    assert state(bench) == before, "something was written"


def test_label_refuses_a_table_with_a_wrong_answer(bench: Path, tmp_path: Path) -> None:
    """If one row is wrong, no row of the table is taken."""
    table = tmp_path / "answers.csv"
    scene = SceneStore(bench / "scenes.zarr").table[0].name
    good = f"{scene},3,0,0,0,1,0.5,wall,floor,0.5,wall\n"
    header = "scene,index,x,y,z,rank,score,predicted,second,confidence,label\n"
    for bad, words in (
        (f"{scene},4,0,0,0,1,0.5,,,,elephant\n", "row 3.*elephant"),
        (f"{scene},4,0,0,0,1,0.5,,,,99\n", "row 3.*99"),
        ("nowhere,4,0,0,0,1,0.5,,,,wall\n", "row 3.*nowhere"),
        (f"{scene},-4,0,0,0,1,0.5,,,,wall\n", "row 3.*-4"),
        (f"{scene},99999999,0,0,0,1,0.5,,,,wall\n", "row 3.*99999999"),
        (f"{scene},four,0,0,0,1,0.5,,,,wall\n", "row 3.*four"),
        (f"{scene},inf,0,0,0,1,0.5,,,,wall\n", "row 3.*inf"),
        (f"{scene},4.5,0,0,0,1,0.5,,,,wall\n", r"row 3.*4\.5"),
    ):
        table.write_text(header + good + bad)
        done = run_hpal(
            "label", "--from", "answers.csv", "--source", bench / "scenes.zarr", "-o", "x.zarr", cwd=tmp_path
        )
        assert done.rc == 1, (bad, done)
        assert re.search(words, done.err), done.err
        assert len(done.err.splitlines()) == 1, done.err
        assert not (tmp_path / "x.zarr").exists()


# ---------------------------------------------------------------- what goes where


def test_stdout_is_data_and_quiet_is_quiet(bench: Path) -> None:
    scored = run_hpal("score", "preds.zarr", "-q", cwd=bench)
    assert (scored.rc, scored.err) == (0, "")
    assert scored.out.startswith(b"ply\n")
    # The stream ends with its last row: header and rows are all there is.
    head, body = scored.out.split(b"end_header\n", 1)
    count = int(re.search(rb"element vertex (\d+)", head).group(1))  # type: ignore[union-attr]
    assert len(body) == count * (3 * 8 + 3 + 4 + 4 + 4)
    loud = run_hpal("score", "preds.zarr", "-v", cwd=bench)
    assert loud.err
    assert loud.out.split(b"end_header\n", 1)[1] == body
    chosen = run_hpal("select", "--budget", "4", "-q", stdin=scored.out, cwd=bench)
    assert (chosen.rc, chosen.err) == (0, "")
    assert (
        run_hpal("select", "-", "--budget", "4", "-q", stdin=scored.out, cwd=bench).out.split(b"end_header\n")[1]
        == (chosen.out.split(b"end_header\n")[1])
    )
    found = run_hpal("eval", "preds.zarr", "--truth", "scenes.zarr", "--json", "-q", cwd=bench)
    assert (found.rc, found.err) == (0, "")
    assert 0 <= json.loads(found.out)["grid"]["miou"] < 0.5
    assert json.loads(run_hpal("info", "preds.zarr", "--json", cwd=bench).out)["kind"] == "predictions"


def test_files_instead_of_stdout(bench: Path, tmp_path: Path) -> None:
    """`-o` names the output; what is for a person goes to stderr, and nothing to stdout."""
    for args in (
        ("prep", bench / "office", "-o", "s.zarr", "--grid", "30cm"),
        ("score", bench / "preds.zarr", "-o", "a.ply"),
        ("select", "a.ply", "--budget", "5", "-o", "b.ply"),
        ("label", "b.ply", "--oracle", bench / "scenes.zarr", "-o", "l.zarr"),
        ("label", "b.ply", "--table", "q.csv"),
        ("export", bench / "preds.zarr", "-o", "clouds"),
    ):
        done = run_hpal(*args, cwd=tmp_path)
        assert done.rc == 0, done
        assert done.out == b""
        assert done.err.strip()
        assert "Traceback" not in done.err
    assert (tmp_path / "q.csv").read_text().count("\n") == 6
    assert len(list((tmp_path / "clouds").rglob("*.ply"))) == 3
    names = plyfile.PlyData.read(str(tmp_path / "b.ply"))["vertex"].data.dtype.names
    assert {"x", "y", "z", "red", "quality", "scalar_index", "scalar_scene", "scalar_score", "scalar_rank"} <= set(
        names
    )
    # The same answers once more are no new round, and no error; an existing output elsewhere is kept.
    assert run_hpal("label", "b.ply", "--oracle", bench / "scenes.zarr", "-o", "l.zarr", cwd=tmp_path).rc == 0
    assert len(LabelStore(tmp_path / "l.zarr").batches()) == 1
    for args in (
        ("select", "a.ply", "--budget", "9", "-o", "b.ply"),
        ("label", "b.ply", "--table", "q.csv"),
        ("export", bench / "preds.zarr", "-o", "clouds"),
    ):
        before = tree(tmp_path)
        done = run_hpal(*args, cwd=tmp_path)
        assert done.rc == 1, done
        assert "--overwrite" in done.err
        assert tree(tmp_path) == before
        assert run_hpal(*args, "--overwrite", cwd=tmp_path).rc == 0
    assert len(plyfile.PlyData.read(str(tmp_path / "b.ply"))["vertex"].data) == 9
    assert (tmp_path / "q.csv").read_text().count("\n") == 10


def test_a_table_goes_round(bench: Path, tmp_path: Path) -> None:
    """--table, a person's answers, --from: class names and `unsure` arrive, blanks do not."""
    assert run_hpal("label", bench / "selection.ply", "--table", "q.csv", cwd=tmp_path).rc == 0
    lines = (tmp_path / "q.csv").read_text().splitlines()
    assert len(lines) == 4
    assert all(line.endswith(",") for line in lines[1:])
    filled = [lines[0], lines[1] + "Chair", lines[2] + "unsure", lines[3]]
    (tmp_path / "q.csv").write_text("\n".join(filled) + "\n")
    done = run_hpal("label", "--from", "q.csv", "--source", bench / "preds.zarr", "-o", "l.zarr", cwd=tmp_path)
    assert done.rc == 0, done.err
    rows = LabelStore(tmp_path / "l.zarr").latest()
    store = SceneStore(bench / "scenes.zarr")
    asked = {(line.split(",")[0], int(line.split(",")[1])): line for line in filled[1:3]}
    found = {(store.table[int(r["scene"])].name, int(r["index"])): int(r["label"]) for r in rows}
    assert found.keys() == asked.keys()
    assert sorted(found.values()) == [-1, store.classes.names.index("chair")]


def test_history_names_the_calls(bench: Path) -> None:
    scored = run_hpal("score", "preds.zarr", "--strategy", "random", "--seed", "7", cwd=bench)
    chosen = run_hpal("select", "--budget", "3", "--no-fds", stdin=scored.out, cwd=bench)
    lines = [line for line in chosen.out.split(b"end_header")[0].decode().splitlines() if "comment history" in line]
    entries = [json.loads(line.removeprefix("comment history ")) for line in lines]
    assert [e["program"] for e in entries[-2:]] == ["hpal score", "hpal select"]
    assert entries[-2]["args"] == ["preds.zarr", "--strategy", "random", "--seed", "7"]
    assert [e["seed"] for e in entries[-2:]] == [7, None]
    hidden = run_hpal("score", "preds.zarr", "--no-history", cwd=bench).out
    assert b"comment history" not in hidden.split(b"end_header")[0]


def test_lists_are_spelled_either_way(bench: Path) -> None:
    together = run_hpal("score", "preds.zarr", "--no-history", "--levels", "10,0.5m", cwd=bench).out
    apart = run_hpal("score", "preds.zarr", "--no-history", "--levels", "100mm", "--levels", "50", cwd=bench).out
    assert together == apart
    assert together != run_hpal("score", "preds.zarr", "--no-history", cwd=bench).out


def test_absurd_levels_are_warned_of(bench: Path) -> None:
    for levels in ("10,100m", "0.1"):
        done = run_hpal("score", "preds.zarr", "--levels", levels, cwd=bench)
        assert done.rc == 0
        assert "warning" in done.err, levels
    assert "warning" not in run_hpal("score", "preds.zarr", "--levels", "1m", cwd=bench).err


# ---------------------------------------------------------------- pipes and signals


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted(bench: Path, tmp_path: Path, number: int, status: int) -> None:
    """A command is interrupted while it waits for the rest of its input. It leaves nothing of its output."""
    data = (bench / "scores.ply").read_bytes()
    process = subprocess.Popen(
        [sys.executable, "-m", "hpal_cli", "select", "--no-fds", "--budget", "3", "-o", "x.ply"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=tmp_path,
        env=environment(),
        # A runner in the background may have had the signal ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert process.stdin is not None
    process.stdin.write(data[:-1])
    process.stdin.flush()
    wait_until_idle(process.pid)
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert process.returncode == status, err
    assert out == b""
    assert err.decode().splitlines() in ([], ["hpal select: interrupted"]), err.decode()
    assert list(tmp_path.iterdir()) == []


def test_interrupted_while_it_loads() -> None:
    code = """
import sys
class Loading:
    def find_spec(self, name, *rest):
        if name == "typer":
            raise KeyboardInterrupt
sys.meta_path.insert(0, Loading())
from hpal_cli.__main__ import main
main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment(), check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, b"", b"hpal: interrupted\n")


def wait_until_idle(pid: int) -> None:
    """Waits until a process has used no processor time for 0.6 s, since it then waits for input."""
    used, since, end = None, time.monotonic(), time.monotonic() + 30
    while time.monotonic() < end:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split() if os.path.exists("/proc") else []
        now = tuple(fields[11:13]) if fields else None
        if now is None:
            time.sleep(5)
            return
        if now != used:
            used, since = now, time.monotonic()
        elif time.monotonic() - since > 0.6 and sum(map(int, now)) > 20:
            return
        time.sleep(0.05)


# ---------------------------------------------------------------- help


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_each_command(command: str) -> None:
    for flag in ("--help", "-h"):
        done = run_hpal(command, flag)
        assert (done.rc, done.err) == (0, "")
        assert done.out.startswith(f"Usage: hpal {command} ".encode())


def test_help_lists_every_command() -> None:
    text = run_fresh("--help").out.decode()
    listed = [line.split()[0] for line in text.split("Commands:")[1].splitlines() if re.match(r"  \w", line)]
    assert tuple(listed[: len(COMMANDS)]) == COMMANDS
    assert run_hpal("--version").out.decode().strip() == f"hpal {hpal_cli.__version__}"


@pytest.mark.parametrize(
    ("words", "built"),
    [
        (["info", "select"], ("info",)),
        (["select", "--help"], ("select",)),
        (["--help"], COMMANDS),
        (["--version", "info"], COMMANDS),
        (["frobnicate", "info"], COMMANDS),
        ([], COMMANDS),
    ],
)
def test_only_the_called_command_is_built(
    words: list[str], built: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["hpal", *words])
    assert tuple(get_group(_called()).commands) == built
    # Completions are about all of them.
    monkeypatch.setenv(COMPLETE, "complete_bash")
    assert tuple(get_group(_called()).commands) == COMMANDS


def imported(*args: str, **env: str) -> set[str]:
    """The top-level names that `hpal ARGS` imports."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "hpal_cli", *args],
        capture_output=True, text=True, env={**environment(), **env}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-500:]
    names = {line.rsplit("|", 1)[1].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert "typer" in names
    return {name.split(".")[0] for name in names}


@pytest.mark.parametrize("args", [("--help",), ("score", "--help"), ("train", "-h"), ("--version",)])
def test_help_imports_nothing_heavy(args: tuple) -> None:
    assert not imported(*args) & HEAVY


@pytest.mark.skipif("HPAL_TEST_TIMING" not in os.environ, reason="HPAL_TEST_TIMING is not set")
def test_help_is_quick() -> None:
    """0.15 s, doubled for a machine that runs other tests too; the best of five."""
    times = []
    for _ in range(5):
        start = time.perf_counter()
        assert run_fresh("--help").rc == 0
        times.append(time.perf_counter() - start)
    assert min(times) < 0.3, times


# ---------------------------------------------------------------- who imports whom


def imports_of(path: Path, *, anywhere: bool) -> set[str]:
    """Dotted names that a module imports: at module level, or anywhere in it. TYPE_CHECKING blocks do not run."""
    tree_ = ast.parse(path.read_text())
    package = ["hpal_cli", *path.relative_to(ROOT).parts[:-1]]
    found: set[str] = set()

    def visit(nodes: list[ast.stmt]) -> None:
        for node in nodes:
            if isinstance(node, ast.Import):
                found.update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                base = package[: len(package) - node.level + 1] if node.level else []
                module = ".".join([*base, *([node.module] if node.module else [])])
                found.update({module, *(f"{module}.{alias.name}" for alias in node.names)})
            elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
                visit(node.orelse)
            elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not anywhere:
                continue
            else:
                visit(
                    [child for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt | ast.ExceptHandler)]
                )  # type: ignore[list-item]

    visit(tree_.body)
    return found


MODULES = sorted(ROOT.rglob("*.py"))


def test_the_library_never_imports_the_commands() -> None:
    library = [p for p in MODULES if p.relative_to(ROOT).parts[0] not in ("commands", "__main__.py")]
    assert len(library) > 40
    for path in library:
        assert not any(name.startswith("hpal_cli.commands") for name in imports_of(path, anywhere=True)), path
        assert "typer" not in imports_of(path, anywhere=True), path


def test_the_command_layer_imports_nothing_heavy_at_module_level() -> None:
    layer = [p for p in MODULES if p.relative_to(ROOT).parts[0] in ("commands", "__main__.py", "__init__.py")]
    assert len(layer) > 12
    for path in layer:
        names = {name.split(".")[0] for name in imports_of(path, anywhere=False)}
        assert not names & HEAVY, path


def test_no_module_loads_scipy_before_it_computes_with_it() -> None:
    """Loading scipy takes a third of a second, also in each process of --jobs, and many calls do not need it."""
    for path in MODULES:
        names = {name.split(".")[0] for name in imports_of(path, anywhere=False)}
        assert not names & {"scipy", "sklearn"}, path


def shown(*args: str) -> dict[str, str]:
    done = run_hpal("train", *args, "--show")
    assert done.rc == 0, done.err
    return dict(line.split(maxsplit=1) for line in done.out.decode().splitlines())


def test_every_value_of_a_preset_is_shown_and_has_its_option() -> None:
    from dataclasses import asdict

    from hpal_cli.training.presets import PRESETS

    given = {
        "size": "small", "voxel": "7cm", "steps": "7", "batch": "3", "max_voxels": "11", "optimizer": "adamw",
        "lr": "0.3", "momentum": "0.4", "dampening": "0.2", "weight_decay": "0.6", "schedule": "polynomial",
        "period": "9", "power": "1.5", "class_weights": "sqrt", "dropout": "0.25", "teacher": None, "keep": "0.8",
        "confidence": "0.9", "consistency": "kl", "elastic": None, "inputs": "superpoints", "minutes": "5.0",
        "even_crops": "0.2", "teacher_after": "0.4", "average": None,
    }  # fmt: skip
    for name, preset in PRESETS.items():
        values = shown("--preset", name)
        assert list(values) == list(asdict(preset)) == list(given)
        for key, value in asdict(preset).items():
            assert values[key].split()[0] == str(value)
    assert shown("--preset", "s3dis")["voxel"] == "0.05 m"
    before = shown("--preset", "s3dis")
    for key, value in given.items():
        flags = {"teacher": ("--supervised-only",), "elastic": ("--no-elastic",), "average": ("--average",)}
        after = shown("--preset", "s3dis", *flags.get(key, (f"--{key.replace('_', '-')}", str(value))))
        assert after[key] != before[key], key
        assert {other: text for other, text in after.items() if other != key} == {
            other: text for other, text in before.items() if other != key
        }
    for option in ("--preset", "--size", "--optimizer", "--schedule", "--class-weights", "--consistency"):
        done = run_hpal("train", option, "nonsense", "--show")
        assert done.rc == 2
        assert f"{option}: 'nonsense' is unknown; choose from " in done.err
    assert run_hpal("train", "--precision", "fp8", "x", "--labels", "all", "-o", "y").err.count("\n") == 1


def test_label_says_once_who_speaks() -> None:
    done = run_hpal("label")
    assert done.rc == 2
    assert done.err == (
        "hpal label: what to do: is missing; "
        "choose one: --serve, --html FILE, --oracle STORE, --table FILE, --clips DIR, --from FILE, --log or "
        "--undo ROUND\n"
    )
    done = run_hpal("label", "x.ply", "--table", "a.csv", "--oracle", "s.zarr")
    assert done.rc == 2
    assert done.err.startswith("hpal label: --oracle and --table: do not go together; choose one: ")
