"""Stores that several calls write: the parts put together are the store that one call writes."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import GRID, VAL, Done, environment, put_hpal, tree
from synthetic_scenes import Campaign, Noted

from hpal_cli.classes import ClassTable
from hpal_cli.errors import HpalError, UsageError
from hpal_cli.history import Entry
from hpal_cli.predictions.store import PredictionStore
from hpal_cli.scenes.prepare import prepare
from hpal_cli.scenes.store import SceneStore
from hpal_cli.shard import Shard
from hpal_cli.spreading.spread import spread
from hpal_cli.store import parts

CLUSTER = Path(__file__).parents[1] / "docs" / "cluster.md"


def hidden(folder: Path) -> list[str]:
    """What is left of the work on parts: the parts, their locks and whatever was being written."""
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("."))


@pytest.mark.parametrize("count", [1, 2, 3])
def test_parts_of_scenes_are_the_scenes(office: Path, scenes: Path, tmp_path: Path, count: int) -> None:
    out, told = tmp_path / "scenes.zarr", Noted()
    for n in range(count, 0, -1):
        assert not out.exists()
        prepare(office, out, val=[VAL], grid=GRID, shard=Shard(n, count), monitor=told)
    assert told.said[-1] == f"part 1 of {count} is written; all are there, and {out} is complete"
    prepare(office, tmp_path / "whole.zarr", val=[VAL], grid=GRID)
    assert tree(out) == tree(tmp_path / "whole.zarr")
    SceneStore(out).check()
    assert hidden(tmp_path) == []


def test_parts_of_predictions_are_the_predictions(tmp_path: Path) -> None:
    campaign = Campaign(tmp_path)

    def write(out: Path, shard: Shard | None = None) -> None:
        for _ in spread(campaign.labels, campaign.store, out, shard=shard):
            pass

    write(tmp_path / "whole.zarr")
    # b and d have no answer, so nothing is known of them: two of the parts hold no scene.
    for n in (2, 4, 1, 3):
        write(tmp_path / "parts.zarr", Shard(n, 4))
    assert tree(tmp_path / "parts.zarr") == tree(tmp_path / "whole.zarr")
    PredictionStore(tmp_path / "parts.zarr").check()
    assert hidden(tmp_path) == []


def test_names_in_folders(office: Path, tmp_path: Path) -> None:
    for room in sorted((office / "Area_1").iterdir())[:2]:
        cloud = next(room.rglob("*.txt"))
        folder = tmp_path / "raw" / "north" / room.name
        folder.mkdir(parents=True)
        (folder / "cloud.txt").write_text("".join(cloud.read_text().splitlines(keepends=True)[:200]))
    classes = ClassTable.from_names(["anything"])
    for n in (1, 2):
        prepare(tmp_path / "raw", tmp_path / "x.zarr", grid=GRID, classes=classes, shard=Shard(n, 2))
    prepare(tmp_path / "raw", tmp_path / "y.zarr", grid=GRID, classes=classes)
    assert [scene.name.count("/") for scene in SceneStore(tmp_path / "x.zarr").table] == [2, 2]
    assert tree(tmp_path / "x.zarr") == tree(tmp_path / "y.zarr")


def test_parts_that_do_not_belong_together(office: Path, tmp_path: Path) -> None:
    out = tmp_path / "scenes.zarr"
    prepare(office, out, val=[VAL], grid=GRID, shard=Shard(1, 2))
    with pytest.raises(HpalError, match=r"2-of-2\.part: its grid differs from that of \.scenes\.zarr\.1-of-2\.part"):
        prepare(office, out, val=[VAL], grid=2 * GRID, shard=Shard(2, 2))
    assert not out.exists()
    with pytest.raises(HpalError, match=r"2-of-2\.part: exists already"):
        prepare(office, out, val=[VAL], grid=GRID, shard=Shard(2, 2))
    prepare(office, out, val=[VAL], grid=GRID, shard=Shard(2, 2), overwrite=True)
    assert len(SceneStore(out).table) == 3
    with pytest.raises(HpalError, match=r"scenes\.zarr: exists already"):
        prepare(office, out, val=[VAL], grid=GRID, shard=Shard(1, 2))
    assert hidden(tmp_path) == []


def test_parts_by_another_version(office: Path, tmp_path: Path) -> None:
    def entry(version: str, shard: str) -> list[Entry]:
        return [Entry("hpal prep", version, ("raw", f"--shard={shard}"), None)]

    prepare(office, tmp_path / "x.zarr", grid=GRID, shard=Shard(1, 2), history=entry("0.1.0", "1/2"))
    with pytest.raises(HpalError, match=r"was made by another command than \.x\.zarr\.1-of-2\.part"):
        prepare(office, tmp_path / "x.zarr", grid=GRID, shard=Shard(2, 2), history=entry("0.2.0", "2/2"))


def test_parts_may_be_made_with_other_processes(office: Path, tmp_path: Path) -> None:
    def entry(*options: str) -> list[Entry]:
        return [Entry("hpal prep", "0.1.0", ("raw", "--grid", "15cm", *options), None)]

    for n, options in enumerate(
        [("--shard", "1/3"), ("--shard=2/3", "--jobs", "2", "-q"), ("--resume", "--shard=3/3")]
    ):
        prepare(office, tmp_path / "x.zarr", grid=GRID, shard=Shard(n + 1, 3), history=entry(*options))
    assert SceneStore(tmp_path / "x.zarr").history[0].args == ("raw", "--grid", "15cm")


def test_a_part_that_lacks_a_scene(office: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.zarr"
    prepare(office, out, grid=GRID, shard=Shard(1, 2))
    part = parts.part_path(out, Shard(1, 2))
    name = next(iter(SceneStore(part).table)).name
    shutil.rmtree(part / "scenes" / name)
    with pytest.raises(HpalError, match=f"lacks the scene {name}"):
        prepare(office, out, grid=GRID, shard=Shard(2, 2))
    assert not out.exists()


def test_what_cannot_be_divided(office: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="4 parts are too many for 3 scenes"):
        prepare(office, tmp_path / "x.zarr", grid=GRID, shard=Shard(1, 4))
    with pytest.raises(UsageError, match="is not for tiles"):
        prepare(office, tmp_path / "x.zarr", grid=GRID, scene_per=5.0, shard=Shard(1, 2))


def test_another_call_has_put_the_parts_together(tmp_path: Path) -> None:
    out = tmp_path / "x.zarr"
    assert parts.join(out, 2, overwrite=False) == parts.Progress(0, 2, False)
    out.mkdir()
    (out / "zarr.json").write_text(json.dumps({"attributes": {"hpal": {"complete": True}}}))
    assert parts.join(out, 2, overwrite=False) == parts.Progress(2, 2, True)


def test_another_disk_without_hard_links(office: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link = os.link

    def refuse(source: str, target: str, **options: object) -> None:
        # Within a folder, Zarr tries it for itself.
        if Path(source).parent != Path(target).parent:
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))
        link(source, target)

    monkeypatch.setattr(os, "link", refuse)
    for n in (1, 2):
        prepare(office, tmp_path / "x.zarr", grid=GRID, shard=Shard(n, 2))
    monkeypatch.undo()
    prepare(office, tmp_path / "y.zarr", grid=GRID)
    assert tree(tmp_path / "x.zarr") == tree(tmp_path / "y.zarr")


def test_all_parts_at_once_from_the_command_line(office: Path, scenes: Path, tmp_path: Path) -> None:
    put_hpal(tmp_path)
    (tmp_path / "scans").symlink_to(office)
    prep = f"hpal prep scans -o scenes.zarr --val '{VAL}' --grid 15cm --shard"
    script = (
        "pids=(); for part in 1 2 3; do " + prep + " $part/3 & pids+=($!); done; for p in ${pids[@]}; do wait $p; done"
    )
    said = bash(script, tmp_path).stderr
    assert [f"part {n} of 3 is written" in said for n in (1, 2, 3)] == [True] * 3
    assert said.count("all are there, and scenes.zarr is complete") >= 1
    assert SceneStore(tmp_path / "scenes.zarr").table.id == SceneStore(scenes).table.id
    assert hidden(tmp_path) == []


def test_pictures_and_clouds_wait_for_the_whole_store(hpal: Callable[..., Done], tmp_path: Path) -> None:
    draw = "look at the whole store with `hpal view` or `hpal eval --pictures` when all parts are there"
    for call, option, remedy in (
        (("predict", "model.pt"), "--pictures", draw),
        (("predict", "model.pt"), "--ply", "run `hpal export` when all parts are there"),
        (("spread", "labels.zarr"), "--pictures", draw),
    ):
        done = hpal(*call, "scenes.zarr", "-o", "x.zarr", "--shard", "1/2", option, "folder", cwd=tmp_path)
        assert (done.rc, done.out) == (2, b"")
        assert f"{option}: is for all scenes at once, not for a shard; {remedy}" in done.err
    assert list(tmp_path.iterdir()) == []


def blocks(word: str) -> str:
    """The only block of commands of the page that holds `word`."""
    (found,) = (code for code in re.findall(r"```bash\n(.*?)```", CLUSTER.read_text(), re.DOTALL) if word in code)
    return found


def bash(script: str, folder: Path, **variables: object) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(folder / "bin"), os.environ["PATH"]])
    env = {**environment(), "PATH": path, **{name: str(value) for name, value in variables.items()}}
    words = ["bash", "-euo", "pipefail", "-c", script]
    return subprocess.run(words, cwd=folder, env=env, capture_output=True, text=True, check=True, timeout=300)


def test_the_page_of_the_cluster(office: Path, tmp_path: Path, hpal: Callable[..., Done]) -> None:
    put_hpal(tmp_path)
    (tmp_path / "scans").symlink_to(office)
    bash(blocks("for part in"), tmp_path)

    def run(*words: object) -> Done:
        done = hpal(*words, cwd=tmp_path)
        assert done.rc == 0, done.err
        return done

    run("score", "scenes.zarr", "--strategy", "random", "-o", "s.ply")
    run("select", "s.ply", "--budget", 30, "-o", "p.ply")
    run("label", "p.ply", "--oracle", "scenes.zarr", "-o", "labels.zarr")
    for part in (1, 2):
        run("spread", "labels.zarr", "scenes.zarr", "-o", "spread.zarr", "--shard", f"{part}/2")
    learn = ("--labels", "labels.zarr", "--spread", "spread.zarr", "--model", "forest", "-o", "model.pt")
    run("train", "scenes.zarr", *learn)
    for n in (1, 2):
        bash(blocks('hpal predict model.pt scenes.zarr -o preds.zarr --shard "$'), tmp_path, **slurm(n))
    for n in (1, 2):
        bash(blocks("hpal score preds.zarr -o"), tmp_path, **slurm(n))
    bash(blocks("hpal select scores-"), tmp_path)
    assert (tmp_path / "picks.ply").exists()
    assert b"--shard" not in run("info", "--check", "preds.zarr").out
    (tmp_path / "preds.zarr").rename(tmp_path / "first.zarr")
    # As many parts as the page has would need as many scenes.
    script = blocks("JOB_COMPLETION_INDEX").replace("/16", "/2")
    for n in (0, 1):
        bash(script, tmp_path, JOB_COMPLETION_INDEX=n)
    assert scenes_of(tmp_path / "preds.zarr") == scenes_of(tmp_path / "first.zarr")


def slurm(task: int) -> dict[str, object]:
    return {
        "SLURM_ARRAY_TASK_ID": task,
        "SLURM_ARRAY_TASK_COUNT": 2,
        "SLURM_ARRAY_TASK_MIN": 1,
        "SLURM_ARRAY_TASK_STEP": 1,
    }


def scenes_of(store: Path) -> dict[str, bytes]:
    return {name: data for name, data in tree(store).items() if name.startswith("scenes/")}
