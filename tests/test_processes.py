"""Several processes that train one network: what they learn is what one process learns from the same batches."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import cut_at, environment

from hpal_cli.errors import HpalError, UsageError
from hpal_cli.network.backend import choose
from hpal_cli.scenes.store import SceneStore
from hpal_cli.training.batches import Batch, BatchDataset
from hpal_cli.training.checkpoint import load
from hpal_cli.training.distributed import local_device, rank_and_world_size
from hpal_cli.training.labels import known_labels
from hpal_cli.training.prefetch import prefetch_batches
from hpal_cli.training.presets import PRESETS
from hpal_cli.training.train import train

CPU = torch.device("cpu")

# Records the loss of every step of the run that the arguments describe; one file, written by the first process.
RECORD = """
import json, os, sys
from pathlib import Path
from hpal_cli.commands.app import main
from hpal_cli.training import train as module

losses = []
learn = module._Run._step

def recorded(self, ready, rate):
    loss = learn(self, ready, rate)
    losses.append(self._losses[-1][2].item())
    return loss

module._Run._step = recorded
out = Path(sys.argv.pop(1))
try:
    main()
finally:
    if os.environ.get("RANK", "0") == "0":
        out.write_text(json.dumps(losses))
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start(folder: Path, name: str, scenes: Path, world: int, *more: str) -> subprocess.CompletedProcess[str]:
    """`hpal train` in `world` processes, as `torchrun` starts them."""
    program = folder / "record.py"
    program.write_text(RECORD)
    call = [sys.executable]
    if world > 1:
        call += ["-m", "torch.distributed.run", "--nproc-per-node", str(world), "--master-port", str(free_port())]
    options = ["--labels", "all", "--voxel", "0.15", "--max-voxels", "6000", "--steps", "8", "--optimizer", "sgd"]
    call += [str(program), str(folder / f"{name}.json"), "train", str(scenes), "-o", str(folder / f"{name}.pt")]
    return subprocess.run(
        [*call, *options, "--batch", "4", "--lr", "0.005", *more],
        capture_output=True, text=True, cwd=folder, env={**environment(), "OMP_NUM_THREADS": "1"}, timeout=300,
    )  # fmt: skip


@pytest.mark.parametrize("more", [("--supervised-only",), ("--consistency", "kl", "--confidence", "0.3")])
def test_two_processes_learn_what_one_does(scenes: Path, tmp_path: Path, more: tuple[str, ...]) -> None:
    one = start(tmp_path, "one", scenes, 1, *more)
    assert one.returncode == 0, one.stderr
    two = start(tmp_path, "two", scenes, 2, *more)
    assert two.returncode == 0, two.stderr
    ours, theirs = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("one", "two"))
    assert len(ours) == len(theirs) == 8
    np.testing.assert_allclose(theirs, ours, rtol=1e-5, atol=1e-5)
    assert ours[0] != ours[-1]
    first, second = (load(tmp_path / f"{name}.pt") for name in ("one", "two"))
    for name, value in first.student.items():
        if value.is_floating_point():
            torch.testing.assert_close(second.student[name], value, rtol=1e-3, atol=1e-4)
        else:
            assert torch.equal(second.student[name], value), name
    # One of them speaks and writes.
    assert two.stderr.count("steps on cpu") == 1
    assert two.stdout == ""
    assert sorted(path.name for path in tmp_path.glob("two*")) == ["two.json", "two.pt", "two.pt.metrics.jsonl"]


def test_more_processes_than_scenes_in_a_step_are_refused(scenes: Path, tmp_path: Path) -> None:
    done = start(tmp_path, "few", scenes, 2, "--batch", "1")
    assert done.returncode != 0
    assert "--batch: 1 scenes for 2 processes; give at least one scene for each process" in done.stderr
    assert not (tmp_path / "few.pt").exists()


def test_ranks_share_the_scenes_of_a_batch(scenes: Path) -> None:
    store = SceneStore(scenes)
    settings = replace(PRESETS["small"], batch=4, max_voxels=2000, voxel=0.15)
    known, _ = known_labels(store, None)

    def part(rank: int, world: int) -> BatchDataset:
        chosen = store.table.choose("train")
        return BatchDataset(store, chosen, known, settings, color=True, seed=1, rank=rank, world_size=world)

    whole, parts = part(0, 1)[3], [part(rank, 3)[3] for rank in range(3)]
    assert [len(batch.scenes) for batch in parts] == [2, 1, 1]
    assert sorted(whole.scenes) == sorted(name for batch in parts for name in batch.scenes)
    assert whole.labelled == sum(batch.labelled for batch in parts)
    first = parts[1].student.features
    begin = int((whole.student.voxel[:, 0] == 0).sum())
    assert torch.equal(whole.student.features[begin : begin + len(first)], first)


def test_what_torchrun_says_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    assert rank_and_world_size() == (0, 1)
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="torchrun"):
        rank_and_world_size()
    monkeypatch.setenv("RANK", "first")
    with pytest.raises(UsageError, match="torchrun"):
        rank_and_world_size()
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert local_device(torch.device("cuda")) == torch.device("cuda", 1)
    assert local_device(torch.device("cuda", 0)) == torch.device("cuda", 0)
    assert local_device(CPU) == CPU


def test_batches_made_ready_are_those_of_the_steps(scenes: Path) -> None:
    store = SceneStore(scenes)
    settings = replace(PRESETS["small"], batch=2, max_voxels=2000, voxel=0.15)
    known, _ = known_labels(store, None)
    batches = BatchDataset(store, store.table.choose("train"), known, settings, color=True, seed=1)
    ready = list(prefetch_batches(batches, range(3, 6), CPU, choose("auto", CPU).geometry))
    assert len(ready) == 3
    for step, one in zip(range(3, 6), ready, strict=True):
        batch = batches[step]
        assert one.scenes == batch.scenes
        assert one.labelled == batch.labelled == len(batch.label)
        assert torch.equal(one.student.features, batch.student.features)
        assert one.student.geometry.sizes()[0] == len(batch.student.voxel)
        assert one.teacher is not None


@pytest.mark.parametrize("inputs", ["points", "superpoints"])
def test_any_number_of_workers_makes_the_same_model(scenes: Path, tmp_path: Path, inputs: str) -> None:
    """Models, also those of resumed runs, are equal to the byte, since a batch depends only on seed and step."""
    settings = replace(
        PRESETS["small"], batch=2, max_voxels=1500, voxel=0.15, steps=4, elastic=True, inputs=inputs
    )  # fmt: skip
    store = SceneStore(scenes)
    for workers in (0, 2):
        train(store, None, settings, workers=workers, run=tmp_path / f"{workers}.pt")
    assert (tmp_path / "0.pt").read_bytes() == (tmp_path / "2.pt").read_bytes()


def test_a_run_with_workers_that_was_cut_resumes_to_the_same_bytes(scenes: Path, tmp_path: Path) -> None:
    settings = replace(PRESETS["small"], batch=2, max_voxels=1500, voxel=0.15, steps=5)
    store = SceneStore(scenes)
    train(store, None, settings, run=tmp_path / "whole.pt")
    with cut_at(2):
        train(store, None, settings, workers=2, run=tmp_path / "cut.pt", save_every=2)
    train(store, None, settings, workers=1, run=tmp_path / "cut.pt", resume=True)
    assert (tmp_path / "whole.pt").read_bytes() == (tmp_path / "cut.pt").read_bytes()


def test_an_error_in_a_worker_is_the_same_line() -> None:
    for workers in (0, 1):
        with pytest.raises(HpalError, match=r"room: is broken; read it again"):
            list(prefetch_batches(_Broken(), range(2), CPU, choose("auto", CPU).geometry, workers=workers))  # type: ignore[arg-type]


class _Broken:
    def __getitem__(self, step: int) -> Batch:
        raise HpalError("room", "is broken", "read it again")


def test_a_step_without_labels_is_skipped_and_counted(scenes: Path, tmp_path: Path) -> None:
    """Scenes that nobody has labelled come up too: no step is made of them, and no NaN."""
    from hpal_cli.history import call
    from hpal_cli.labels.store import ANSWER, LabelStore

    store = SceneStore(scenes)
    labels = LabelStore.create(tmp_path / "labels.zarr", store.classes, store.table)
    asked = np.zeros(3, ANSWER)
    asked["scene"], asked["index"] = store.table.choose("train")[0].number, [1, 2, 3]
    labels.append(asked, "test", call("label"))
    said: list[str] = []

    class Listening:
        def __getattr__(self, name: str) -> object:
            from hpal_cli.progress import Silent

            return said.append if name == "warn" else getattr(Silent(), name)

    settings = replace(PRESETS["small"], batch=1, max_voxels=1500, voxel=0.15, steps=8, period=0)
    model = train(store, labels, settings, monitor=Listening())  # type: ignore[arg-type]
    count = len(store.table.choose("train"))
    assert count > 1
    skipped = sum(1 for step in range(8) if BatchDataset(
        store, store.table.choose("train"), known_labels(store, labels)[0], settings, color=True, seed=0
    )[step].labelled == 0)  # fmt: skip
    assert 0 < skipped < 8
    assert said == [f"{skipped} of 8 batches held no labelled point and were skipped"]
    assert all(torch.isfinite(value).all() for value in model.student.values() if value.is_floating_point())
