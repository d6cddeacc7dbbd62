"""The parts of gpu.sh: versions, compiled, right, step, batch, training. Each prints its numbers as they come."""

from __future__ import annotations

import contextlib
import itertools
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from network import Pass, several
from torch import Tensor

from hpal_cli.demo.office import make_office
from hpal_cli.errors import UsageError
from hpal_cli.network.backend import choose
from hpal_cli.network.device import full_precision
from hpal_cli.network.geometry import Geometry
from hpal_cli.scenes.prepare import prepare
from hpal_cli.scenes.store import SceneStore
from hpal_cli.training.batches import BatchDataset
from hpal_cli.training.labels import known_labels
from hpal_cli.training.prefetch import default_workers, prefetch_batches
from hpal_cli.training.presets import PRESETS
from hpal_cli.training.train import train

DEVICE = torch.device(os.environ.get("HPAL_GPU_DEVICE", "cuda"))
ON_CARD = DEVICE.type == "cuda"
SIZE = "full" if ON_CARD else "small"
"""Of the network: on a CPU only the script is tried."""


def say(*words: object) -> None:
    print(*words, flush=True)


@contextlib.contextmanager
def going_on(what: str) -> Iterator[None]:
    """Says that something failed, and goes on with the next."""
    try:
        yield
    except Exception as error:
        say(f"{what} failed: {type(error).__name__}: {str(error)[:400]}")


def versions() -> None:
    say(
        "torch",
        torch.__version__,
        "CUDA",
        torch.version.cuda,
        "Python",
        sys.version.split()[0],
        "NumPy",
        np.__version__,
    )
    if ON_CARD:
        say(torch.cuda.get_device_name(), torch.cuda.get_device_capability(), "cores", os.cpu_count())
    for name in ("triton", "MinkowskiEngine", "spconv"):
        try:
            say(name, __import__(name).__version__)
        except Exception as error:
            say(name, "is not there:", error)
    say(choose("auto", DEVICE), "|", choose("auto", DEVICE, "bf16"))


def offered(*precisions: str) -> list[str]:
    """Those of them that can be had here; says which cannot."""
    found = []
    for name in precisions:
        try:
            choose("torch", DEVICE, name)
            found.append(name)
        except UsageError as error:
            say(f"{name} is left out: {error}")
    return found


def compiled() -> None:
    """Seconds until a process has taken its first step, with nothing compiled before; all precisions at once."""
    begin = time.perf_counter()
    precisions = ["fp64", *offered("fp32", "tf32", "bf16", "fp16")]
    running = {name: subprocess.Popen([sys.executable, __file__, "first_step", name]) for name in precisions}
    for name, process in running.items():
        rc = process.wait()
        say(f"{name}: {'done' if rc == 0 else f'FAILED with {rc}'} after {time.perf_counter() - begin:.0f} s at most")


def first_step() -> None:
    name = sys.argv[2]
    dtype, precision = (torch.float64, "fp32") if name == "fp64" else (torch.float32, name)
    one = Pass(choose("torch", DEVICE, precision).geometry, several(2, 500), DEVICE, dtype, SIZE)
    one.training()
    one.inference()
    wait()


def off(ours: Tensor, exact: Tensor) -> float:
    return float((ours.double().cpu() - exact).norm() / exact.norm())


def right() -> None:
    """The whole network on the card against float64 on the CPU, in training and in inference, and the same twice."""
    inputs = several(2, 15_000 if ON_CARD else 200)

    def passed(one: Pass) -> tuple[Tensor, Tensor, Tensor]:
        return one.training(), one.gradients(), one.inference()

    exact = passed(Pass(Geometry, inputs, torch.device("cpu"), torch.float64, SIZE))
    for dtype, precision in (
        (torch.float64, "fp32"), *((torch.float32, name) for name in offered("fp32", "tf32", "bf16", "fp16")),
    ):  # fmt: skip
        with going_on(f"{dtype} {precision}"):
            geometry = choose("torch", DEVICE, precision).geometry
            found, again = (passed(Pass(geometry, inputs, DEVICE, dtype, SIZE)) for _ in range(2))
            same = all(torch.equal(a, b) for a, b in zip(found, again))
            classes = (found[0].argmax(1).cpu() == exact[0].argmax(1)).double().mean()
            logits, gradients, inferred = (f"{off(a, b):.2g}" for a, b in zip(found, exact))
            say(
                f"{dtype} {precision}: logits {logits}, gradients {gradients}, logits in inference {inferred}, "
                f"same class {float(classes):.4f}, same bits twice: {same}"
            )


def step() -> None:
    """Launches and waits of one step, and where its time goes, for each half precision there is."""
    from torch.profiler import ProfilerActivity, profile

    counts = (60_000, 200_000) if ON_CARD else (300,)
    for precision, count in itertools.product(offered("bf16", "fp16"), counts):
        with going_on(f"{precision} {4 * count} voxels"):
            one = Pass(choose("torch", DEVICE, precision).geometry, several(4, count), DEVICE, size=SIZE)
            for _ in range(3):
                one.training()
            wait()
            activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * ON_CARD
            with profile(activities=activities) as found:
                one.training()
                wait()
            events = found.key_averages()
            wanted = ("cudaLaunchKernel", "cuLaunchKernel", "cuLaunchKernelEx", "cudaLaunchKernelExC",
                      "cudaMemcpyAsync", "cudaStreamSynchronize", "cudaDeviceSynchronize", "aten::nonzero",
                      "aten::item")  # fmt: skip
            say(precision, 4 * count, "voxels:", {event.key: event.count for event in events if event.key in wanted})
            time_on_card = sum(getattr(event, "self_device_time_total", 0) for event in events) / 1000
            say(f"time on the card: {time_on_card:.1f} ms")
            by = "self_cuda_time_total" if ON_CARD else "self_cpu_time_total"
            say(events.table(sort_by=by, row_limit=15, max_name_column_width=50))


def wait() -> None:
    if ON_CARD:
        torch.cuda.synchronize()


def synthetic_store(folder: Path, rooms: int) -> SceneStore:
    make_office(folder / "office", rooms=rooms, points=150_000 if ON_CARD else 3_000)
    prepare(folder / "office", folder / "scenes.zarr")
    return SceneStore(folder / "scenes.zarr")


def batch() -> None:
    """Seconds of one batch of `s3dis` with a teacher: by this process alone, and by one worker until it is here."""
    with tempfile.TemporaryDirectory() as folder:
        store = synthetic_store(Path(folder), 4)
        known, _ = known_labels(store, None)
        batches = BatchDataset(store, store.table.choose("train"), known, PRESETS["s3dis"], color=True, seed=0)
        batches[0]
        for number in range(1, 6):
            begin, of_this = time.perf_counter(), time.process_time()
            one = batches[number]
            wall, of_this = time.perf_counter() - begin, time.process_time() - of_this
            voxels = len(one.student.voxel)
            say(
                f"{voxels} voxels of {len(one.label)} points: {1000 * wall:.0f} ms, {1000 * of_this:.0f} ms of a core; "
                f"at that rate 4 x 60,000 voxels: {1000 * wall * 240_000 / voxels:.0f} ms"
            )
        count = 20 if ON_CARD else 4
        # Maps are a step's time, not a batch's.
        geometry = Geometry(torch.zeros(1, 4, dtype=torch.int64))
        loaded = prefetch_batches(batches, range(count), DEVICE, lambda _: geometry, workers=1)
        # The first wait until the worker has started and has read the scenes.
        for _ in range(2):
            next(loaded)
        begin = time.perf_counter()
        for _ in range(2, count):
            next(loaded)
        each = (time.perf_counter() - begin) / (count - 2)
        say(f"by one worker, until it is on the device: {1000 * each:.0f} ms a batch")
        # Which ends the worker.
        assert not list(loaded)


def training() -> None:
    """Milliseconds a step of `s3dis` with its teacher, by precision and number of workers."""
    with tempfile.TemporaryDirectory() as folder:
        store = synthetic_store(Path(folder), 9)
        first, steps = (5, 60) if ON_CARD else (1, 1)
        settings = PRESETS["s3dis"] if ON_CARD else replace(PRESETS["small"], voxel=0.15)
        usual = default_workers(DEVICE)
        runs = [(precision, usual) for precision in offered("bf16", "fp16")] + [("bf16", 2)]
        for precision, workers in runs:
            taken = []
            with going_on(f"{precision}, {workers} workers"):
                # The first run loads and compiles what the others find there.
                for count in (first, first, first + steps):
                    begin = time.perf_counter()
                    train(
                        store, None, replace(settings, steps=count), device=DEVICE, workers=workers,
                        backend=choose("auto", DEVICE, precision),
                    )  # fmt: skip
                    taken.append(time.perf_counter() - begin)
                # What the last two both had to do first, starting the workers above all, is not a step's.
                each = (taken[2] - taken[1]) / steps
                hours = each * 60_000 / 3600
                say(f"{precision}, {workers} workers: {1000 * each:.0f} ms a step; 60,000 steps are {hours:.1f} h")


PARTS = (versions, compiled, first_step, right, step, batch, training)

if __name__ == "__main__":
    with full_precision():
        {part.__name__: part for part in PARTS}[sys.argv[1]]()
