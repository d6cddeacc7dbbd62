"""The parts of gpu.sh: versions, compiled, right, step, batch, training. Each prints its numbers as they come."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from network import several
from torch import Tensor

from hpal_cli.classes import ClassTable
from hpal_cli.demo.office import CLASSES, make_room
from hpal_cli.network.backend import choose
from hpal_cli.network.device import full_precision
from hpal_cli.network.geometry import Geometry
from hpal_cli.network.minkunet import SIZES, MinkUNet
from hpal_cli.scenes.prepare import prepare
from hpal_cli.scenes.store import SceneStore
from hpal_cli.training.ahead import usual_workers
from hpal_cli.training.batches import Batches
from hpal_cli.training.labels import known_labels
from hpal_cli.training.presets import PRESETS
from hpal_cli.training.train import train

DEVICE = torch.device(os.environ.get("HPAL_GPU_DEVICE", "cuda"))
ON_CARD = DEVICE.type == "cuda"


def say(*words: object) -> None:
    print(*words, flush=True)


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


def compiled() -> None:
    """Seconds until a process has taken its first step, with nothing compiled before; all precisions at once."""
    precisions = ("fp64", "fp32", "tf32", "bf16") if ON_CARD else ("fp32",)
    begin = time.perf_counter()
    running = {name: subprocess.Popen([sys.executable, __file__, "first_step", name]) for name in precisions}
    for name, process in running.items():
        rc = process.wait()
        say(f"{name}: {'done' if rc == 0 else f'FAILED with {rc}'} after {time.perf_counter() - begin:.0f} s at most")


def first_step() -> None:
    name = sys.argv[2]
    dtype, precision = (torch.float64, "fp32") if name == "fp64" else (torch.float32, name)
    inputs = several(2, 500).to(DEVICE)
    network = MinkUNet(6, 13, SIZES["full"]).to(DEVICE, dtype).train()
    logits, _ = network(inputs.features.to(dtype), choose("torch", DEVICE, precision).geometry(inputs.voxel))
    logits.square().mean().backward()
    if ON_CARD:
        torch.cuda.synchronize()


def off(ours: Tensor, exact: Tensor) -> float:
    return float((ours.double().cpu() - exact).norm() / exact.norm())


def right() -> None:
    """The whole network on the card against float64 on the CPU, and the same step twice."""
    inputs = several(2, 15_000 if ON_CARD else 200)
    label = inputs.voxel[:, 1] % 13

    def passed(device: torch.device, dtype: torch.dtype, geometry: Callable[[Tensor], object]) -> tuple[Tensor, Tensor]:
        torch.manual_seed(0)
        network = MinkUNet(6, 13, SIZES["full"]).to(device, dtype).train()
        logits, _ = network(inputs.features.to(device, dtype), geometry(inputs.voxel.to(device)))
        torch.nn.functional.cross_entropy(logits, label.to(device)).backward()
        return logits.detach(), torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])

    exact = passed(torch.device("cpu"), torch.float64, Geometry)
    for dtype, precision in (
        (torch.float64, "fp32"), (torch.float32, "fp32"), (torch.float32, "tf32"), (torch.float32, "bf16"),
    ):  # fmt: skip
        try:
            geometry = choose("torch", DEVICE, precision).geometry
            found, again = (passed(DEVICE, dtype, geometry) for _ in range(2))
            same = all(torch.equal(a, b) for a, b in zip(found, again))
            classes = (found[0].argmax(1).cpu() == exact[0].argmax(1)).double().mean()
            say(
                f"{dtype} {precision}: logits {off(found[0], exact[0]):.2g}, gradients {off(found[1], exact[1]):.2g}, "
                f"same class {float(classes):.4f}, same bits twice: {same}"
            )
        except Exception as error:
            say(f"{dtype} {precision} failed: {type(error).__name__}: {str(error)[:400]}")


def step() -> None:
    """Launches and waits of one step of bf16, and where its time goes."""
    from torch.profiler import ProfilerActivity, profile

    for count in (60_000, 200_000) if ON_CARD else (300,):
        inputs = several(4, count).to(DEVICE)
        geometry = choose("torch", DEVICE, "bf16").geometry
        network = MinkUNet(6, 13, SIZES["full"]).to(DEVICE).train()

        def once(network: MinkUNet = network, inputs: object = inputs, geometry: Callable = geometry) -> None:
            network.zero_grad(set_to_none=True)
            logits, _ = network(inputs.features, geometry(inputs.voxel))
            logits.square().mean().backward()

        for _ in range(3):
            once()
        activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * ON_CARD
        with profile(activities=activities) as found:
            once()
            if ON_CARD:
                torch.cuda.synchronize()
        events = found.key_averages()
        wanted = ("cudaLaunchKernel", "cuLaunchKernel", "cuLaunchKernelEx", "cudaLaunchKernelExC", "cudaMemcpyAsync",
                  "cudaStreamSynchronize", "cudaDeviceSynchronize", "aten::nonzero", "aten::item")  # fmt: skip
        say(4 * count, "voxels:", {event.key: event.count for event in events if event.key in wanted})
        time_on_card = sum(getattr(event, "self_device_time_total", 0) for event in events) / 1000
        say(f"time on the card: {time_on_card:.1f} ms")
        by = "self_cuda_time_total" if ON_CARD else "self_cpu_time_total"
        say(events.table(sort_by=by, row_limit=15, max_name_column_width=50))


def made_store(folder: Path, rooms: int, points: int) -> SceneStore:
    (folder / "raw").mkdir()
    for number in range(rooms):
        room = make_room(number, points=points)
        np.savetxt(
            folder / "raw" / f"room_{number}.txt",
            np.column_stack([room.xyz, room.rgb, room.label]),
            fmt="%.3f %.3f %.3f %d %d %d %d",
        )
    prepare(folder / "raw", folder / "scenes.zarr", val=[f"room_{rooms - 1}"], classes=ClassTable.from_names(CLASSES))
    return SceneStore(folder / "scenes.zarr")


def batch() -> None:
    """Seconds of one batch of `s3dis` with a teacher, by one process."""
    with tempfile.TemporaryDirectory() as folder:
        store = made_store(Path(folder), 5, 150_000 if ON_CARD else 3_000)
        known, _ = known_labels(store, None)
        batches = Batches(store, store.table.choose("train"), known, PRESETS["s3dis"], color=True, seed=0)
        batches[0]
        for number in range(1, 4):
            begin = time.perf_counter()
            one = batches[number]
            say(f"{len(one.student.voxel)} voxels of {len(one.label)} points: {time.perf_counter() - begin:.3f} s")


def training() -> None:
    """Milliseconds a step of `s3dis` with its teacher, by number of workers; the same loss for all of them."""
    with tempfile.TemporaryDirectory() as folder:
        store = made_store(Path(folder), 9, 150_000 if ON_CARD else 3_000)
        steps = 60 if ON_CARD else 2
        settings = PRESETS["s3dis"] if ON_CARD else replace(PRESETS["small"], voxel=0.15)
        for precision in ("bf16", "fp32"):
            for workers in (usual_workers(DEVICE), 2) if ON_CARD else (0, 1):
                taken = []
                for count in (5, 5 + steps):
                    begin = time.perf_counter()
                    train(
                        store, None, replace(settings, steps=count), device=DEVICE, workers=workers,
                        backend=choose("auto", DEVICE, precision),
                    )  # fmt: skip
                    taken.append(time.perf_counter() - begin)
                # What both had to do first, starting the workers above all, is not a step's.
                each = (taken[1] - taken[0]) / steps
                hours = each * 60_000 / 3600
                say(f"{precision}, {workers} workers: {1000 * each:.0f} ms a step; 60,000 steps are {hours:.1f} h")


PARTS = (versions, compiled, first_step, right, step, batch, training)

if __name__ == "__main__":
    with full_precision():
        {part.__name__: part for part in PARTS}[sys.argv[1]]()
