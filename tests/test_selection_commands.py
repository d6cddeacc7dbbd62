"""`hpal score`, `hpal select`, `hpal label` as a shell sees them: parts, regions, pictures, what the summary says."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import plyfile
import pytest
from conftest import Done, environment, run_fresh, run_hpal

from hpal_cli.labels.store import LabelStore
from hpal_cli.predictions.store import PredictionStore
from hpal_cli.scenes.store import SceneStore


def ok(*args: object, **options: object) -> Done:
    done = run_hpal(*args, **options)  # type: ignore[arg-type]
    assert done.rc == 0, done.err
    return done


def rows_of(path: Path) -> np.ndarray:
    return plyfile.PlyData.read(str(path))["vertex"].data


def test_a_slurm_array_scores_its_part_and_select_merges_them(predictions: Path, tmp_path: Path) -> None:
    for task in (10, 12):
        numbers = {"ID": task, "COUNT": 2, "MIN": 10, "STEP": 2}
        env = {f"SLURM_ARRAY_TASK_{name}": str(value) for name, value in numbers.items()}
        done = run_fresh(
            "score", predictions, "--split", "all", "--no-history", "-o", f"{task}.ply", cwd=tmp_path, env=env
        )
        assert done.rc == 0, done.err
        assert f"(part {task // 2 - 4} of 2)" in done.err
    ok("score", predictions, "--split", "all", "--no-history", "-o", "whole.ply", cwd=tmp_path)
    parts = ok("select", "12.ply", "10.ply", "--budget", "2%", "--no-history", cwd=tmp_path)
    whole = ok("select", "whole.ply", "--budget", "2%", "--no-history", cwd=tmp_path)
    assert parts.out == whole.out
    said = ok("info", "10.ply", cwd=tmp_path).out.decode()
    assert re.search(r"part +1 of 2", said)
    assert re.search(r"scored by +hmmu flat 0\.1,0\.5,1 0\.1,0\.01,0\.001", said)
    lost = run_hpal("select", "10.ply", cwd=tmp_path)
    assert lost.rc == 1
    assert "one of 2 parts" in lost.err
    # Said out loud, a task of an array scores everything.
    env = {"SLURM_ARRAY_TASK_ID": "1", "SLURM_ARRAY_TASK_COUNT": "4"}
    done = run_fresh(
        "score", predictions, "--split", "all", "--no-history", "--shard", "1/1", "-o", "all.ply", cwd=tmp_path, env=env
    )
    assert done.rc == 0, done.err
    assert (tmp_path / "all.ply").read_bytes() == (tmp_path / "whole.ply").read_bytes()


@pytest.mark.skipif(shutil.which("script") is None, reason="there is no `script` to make a terminal with")
def test_parts_at_a_terminal_have_names_of_their_own(predictions: Path, tmp_path: Path) -> None:
    """The command to type next, which hpal prints, names all parts."""
    import shlex
    import sys

    for n in (1, 2):
        call = shlex.join([sys.executable, "-m", "hpal_cli", "score", str(predictions), "--shard", f"{n}/2"])
        done = subprocess.run(
            ["script", "-qec", call, "/dev/null"], cwd=tmp_path, env=environment(), capture_output=True, timeout=60
        )
        assert done.returncode == 0, done.stdout
        assert b"next: hpal select scores-*-of-2.ply" in done.stdout
    assert sorted(p.name for p in tmp_path.iterdir()) == ["scores-1-of-2.ply", "scores-2-of-2.ply"]
    ok("select", "scores-1-of-2.ply", "scores-2-of-2.ply", "-o", "p.ply", cwd=tmp_path)


def test_ssdr_is_told_another_budget_than_it_was_scored_for(predictions: Path) -> None:
    scores = ok("score", predictions, "--strategy", "ssdr", "--budget", "3%").out
    assert "scored for --budget 3%" in ok("select", "--budget", "9%", stdin=scores).err
    same = ok("select", "--budget", "3%", stdin=scores).err
    assert "scored for" not in same
    assert re.search(r"selected \d+ points of \d+ regions", same)
    assert "scored for" not in ok("select", "--budget", "3.00 %", stdin=scores).err
    for words in (b"strategy ssdr", b"strategy"):
        assert "scored for" not in ok("select", "--budget", "3%", stdin=scores.replace(b"strategy ssdr 3%", words)).err


def test_a_radius_of_another_unit_is_warned_about(predictions: Path) -> None:
    scores = ok("score", predictions).out
    assert "--fds-r 20m is a large radius" in ok("select", "--fds-r", "20", "--budget", "5", stdin=scores).err
    assert "large radius" not in ok("select", "--fds-r", "20cm", "--budget", "5", stdin=scores).err


def test_the_summary_counts_candidates_by_scene_and_class(predictions: Path) -> None:
    scores = ok("score", predictions).out
    done = ok("select", "--budget", "40", "--fds-r", "1", "--fds-tau", "0.5", stdin=scores)
    said = re.search(r"selected (\d+) points .*; ([\d,]+) candidates visited, ([\d,]+) suppressed", done.err)
    assert said is not None, done.err
    picked, visited, suppressed = (int(n.replace(",", "")) for n in said.groups())
    assert (picked, visited) == (40, 40 + suppressed)
    assert suppressed > 0
    store = PredictionStore(predictions)
    for names, columns in (
        ([s.name for s in store.table.choose("train")], 4),
        (store.classes.names, 3),
    ):
        found = {}
        for line in done.err.splitlines():
            words = line.split()
            if words and words[0] in names:
                found[words[0]] = [int(w.replace(",", "")) for w in words[1:4]]
                assert len(words) <= columns + 1
        assert np.array(list(found.values())).sum(axis=0).tolist() == [visited, suppressed, picked]


def test_exhaustion_is_a_result(predictions: Path) -> None:
    scores = ok("score", predictions).out
    done = ok("select", "--budget", "50%", "--fds-r", "2", "--fds-tau=-1", stdin=scores)
    assert re.search(r"exhausted: \d+ of 1,\d+, every other candidate looks like a pick near it", done.err)
    assert len([line for line in done.err.splitlines() if line.startswith("Area_1/") and line.endswith("yes")]) == 2
    few = ok("select", "--budget", "50%", "--no-fds", "--max-per-scene", "3", stdin=scores)
    assert re.search(r"exhausted: 6 of 1,\d+, with at most 3 a scene", few.err)
    little = ok("select", "--budget", "100%", "--no-fds", stdin=scores)
    assert re.search(r"exhausted: 2,99\d of 3,\d+, there are no more candidates", little.err)


def test_rooms_and_picks_to_look_at(predictions: Path, tmp_path: Path) -> None:
    ok("score", predictions, "--levels", "20,1m", "--ply", "rooms", "-o", "s.ply", cwd=tmp_path)
    scene = PredictionStore(predictions).table.choose("train")[0]
    room = rows_of(tmp_path / "rooms" / f"{scene.name}.ply")
    assert {"scalar_share_point", "scalar_share_20cm", "scalar_share_1m", "scalar_score"} <= set(room.dtype.names)
    again = run_hpal("score", predictions, "--ply", "rooms", "-o", "t.ply", cwd=tmp_path)
    assert again.rc == 1
    assert "exists already" in again.err
    assert not (tmp_path / "t.ply").exists()
    ok("select", "s.ply", "--budget", "30", "--context", "picks", "-o", "p.ply", cwd=tmp_path)
    picks = rows_of(tmp_path / "p.ply")
    here = picks[picks["scalar_scene"] == scene.number]
    assert len(here)
    context = rows_of(tmp_path / "picks" / f"{scene.name}.ply")
    assert len(context) == scene.points
    assert sorted(context["scalar_rank"][context["scalar_rank"] > 0]) == sorted(here["scalar_rank"])
    assert (tmp_path / "picks" / f"{scene.name}.png").stat().st_size > 10_000


def test_a_context_cloud_is_labelled_at_its_picks_only(scenes: Path, predictions: Path, tmp_path: Path) -> None:
    ok("score", predictions, "-o", "s.ply", cwd=tmp_path)
    ok("select", "s.ply", "--budget", "30", "--context", "picks", "-o", "p.ply", cwd=tmp_path)
    scene = PredictionStore(predictions).table.choose("train")[0]
    ok("label", f"picks/{scene.name}.ply", "--oracle", scenes, "-o", "labels.zarr", cwd=tmp_path)
    picks = rows_of(tmp_path / "p.ply")
    answers = LabelStore(tmp_path / "labels.zarr").latest()
    assert answers["index"].tolist() == sorted(picks["scalar_index"][picks["scalar_scene"] == scene.number].tolist())
    ok("label", f"picks/{scene.name}.ply", "--table", "q.csv", "--source", predictions, cwd=tmp_path)
    assert len((tmp_path / "q.csv").read_text().splitlines()) == 1 + len(answers)


def test_picks_of_a_first_round_in_their_rooms(scenes: Path, tmp_path: Path) -> None:
    """Nothing is predicted yet: the picks have a colour of their own."""
    scores = ok("score", scenes, "--strategy", "random").out
    done = ok("select", "--budget", "20", "--context", "picks", stdin=scores, cwd=tmp_path)
    assert "predicted class" not in done.err
    assert len(list((tmp_path / "picks").rglob("*.png"))) == 2


def test_regions_from_score_to_label(scenes: Path, predictions: Path, tmp_path: Path) -> None:
    truth = SceneStore(scenes)
    for strategy in ("redal", "ssdr"):
        ok("score", predictions, "--strategy", strategy, "-o", f"{strategy}.ply", cwd=tmp_path)
        ok("select", f"{strategy}.ply", "--budget", "100", "-o", f"{strategy}-picks.ply", cwd=tmp_path)
        asked = rows_of(tmp_path / f"{strategy}-picks.ply")
        assert len(asked) >= 100
        done = ok("label", f"{strategy}-picks.ply", "--oracle", scenes, "-o", f"{strategy}.zarr", cwd=tmp_path)
        answers = LabelStore(tmp_path / f"{strategy}.zarr").latest()
        right = np.array([truth.labels(truth.table[int(a["scene"])])[a["index"]] for a in answers])  # type: ignore[index]
        if strategy == "redal":
            assert len(answers) == len(asked)
            assert (answers["label"] == right).all()
            assert "clicks" not in done.err
        else:
            clicks, answered, points = re.search(r"(\d+) clicks answer ([\d,]+) of ([\d,]+) points", done.err).groups()  # type: ignore[union-attr]
            assert int(answered) == len(answers) <= int(points) == len(asked)
            assert int(clicks) >= len(np.unique(asked[["scalar_scene", "scalar_region"]]))
            # A click stands for its region, also where a tenth of it is of another class.
            assert (answers["label"] == right).mean() > 0.9


def test_without_a_compiler_the_same_bytes_and_it_is_said(predictions: Path, tmp_path: Path) -> None:
    ok("score", predictions, "-o", "s.ply", cwd=tmp_path)
    env = {"HPAL_NATIVE": "0"}
    slow = run_fresh("score", predictions, "-o", "t.ply", cwd=tmp_path, env=env)
    assert slow.rc == 0, slow.err
    assert "HPAL_NATIVE is 0: hmmu by NumPy alone" in slow.err
    one, other = ((tmp_path / name).read_bytes().split(b"end_header\n", 1)[1] for name in ("s.ply", "t.ply"))
    assert one == other
    picks = [run_fresh("select", "s.ply", "--budget", "50", "--no-history", cwd=tmp_path, env=e) for e in (env, {})]
    assert "FDS by NumPy alone" in picks[0].err
    assert picks[0].out == picks[1].out != b""


def test_cuda_is_refused_where_there_is_none(predictions: Path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("CUDA is here")
    done = run_hpal("score", predictions, "--device", "cuda", "-o", "x.ply")
    assert done.rc != 0
    assert "cuda" in done.err.lower()
    assert len(done.err.splitlines()) == 1
    assert not Path("x.ply").exists()
    assert (
        ok("score", predictions, "--device", "auto", "--no-history").out == ok("score", predictions, "--no-history").out
    )
