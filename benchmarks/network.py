"""Backends and precisions of the full network against MinkowskiEngine: seconds as ratios of one run, and peak memory.

    python benchmarks/network.py [--voxels 20000,80000] [--threads 2] [--rounds 5] [--device cpu]

Voxels are those of made offices. Coordinate maps are part of what is timed. Peak memory is that of a process of its
own, which does nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# Debian's OpenBLAS takes a processor newer than itself for one of 2004, which would halve MinkowskiEngine's speed.
if "avx512f" in Path("/proc/cpuinfo").read_text():
    os.environ.setdefault("OPENBLAS_CORETYPE", "SKYLAKEX")

import numpy as np
import torch
from torch import Tensor

from hpal_cli.demo.office import make_room
from hpal_cli.errors import UsageError
from hpal_cli.network.backend import Backend, choose
from hpal_cli.network.device import full_precision
from hpal_cli.network.inputs import NetworkInput, scene_origin, unit_color, voxelise
from hpal_cli.network.minkunet import SIZES, MinkUNet

VARIANTS = (("minkowski", "fp32"), ("torch", "fp32"), ("torch", "bf16"))
WORK = ("training", "inference")


def some_input(count: int) -> NetworkInput:
    """The first `count` voxels, in plan, of a row of made offices."""
    clouds: list[np.ndarray] = []
    colors: list[np.ndarray] = []
    number = 0
    while True:
        room = make_room(number, points=150_000)
        xyz = room.xyz - room.xyz.min(axis=0) + np.array([12.0 * number, 0, 0])
        clouds.append(xyz)
        colors.append(room.rgb)
        inputs = voxelise([(scene_origin(np.concatenate(clouds), 1.0), unit_color(np.concatenate(colors)))], 0.05)
        if len(inputs.voxel) >= count:
            keep = torch.argsort(inputs.voxel[:, 1], stable=True)[:count]
            return NetworkInput(inputs.features[keep], inputs.voxel[keep], torch.arange(count))
        number += 1


def work_of(backend: Backend, what: str, inputs: NetworkInput, device: torch.device) -> Callable[[], Tensor]:
    torch.manual_seed(0)
    network = MinkUNet(6, 13, SIZES["full"]).to(device).train(what == "training")
    inputs = inputs.to(device)

    def train() -> Tensor:
        network.zero_grad(set_to_none=True)
        logits, _ = network(inputs.features, backend.geometry(inputs.voxel))
        loss = logits.square().mean()
        loss.backward()
        return loss.detach()

    @torch.no_grad()
    def predict() -> Tensor:
        return network(inputs.features, backend.geometry(inputs.voxel))[0]

    return train if what == "training" else predict


def seconds(run: Callable[[], Tensor], device: torch.device) -> float:
    begin = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - begin


def peak_of(variant: tuple[str, str], what: str, count: int, threads: int) -> int:
    """MB that a process of its own takes at most for two rounds."""
    call = [sys.executable, __file__, "--alone", *variant, what, "--voxels", str(count), "--threads", str(threads)]
    done = subprocess.run(call, capture_output=True, text=True, check=True)
    return int(done.stdout.split()[-1])


def peak_of_this() -> int:
    """MB that were resident at most."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) // 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--voxels", default="20000,80000")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--alone", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    counts = [int(count) for count in args.voxels.split(",")]
    if args.alone:
        name, precision, what = args.alone
        run = work_of(choose(name, device, precision), what, some_input(counts[0]), device)
        # Linux: 5 sets the peak back to what is resident now.
        Path("/proc/self/clear_refs").write_text("5")
        run()
        run()
        print(peak_of_this())
        return
    backends: dict[tuple[str, str], Backend] = {}
    for variant in VARIANTS:
        try:
            backends[variant] = choose(variant[0], device, variant[1])
        except UsageError as error:
            print(f"{' '.join(variant)} is left out: {error}", file=sys.stderr)
    print(f"torch {torch.__version__}, {device}, {args.threads} threads, {args.rounds} rounds, medians")
    rows = []
    for count in counts:
        inputs = some_input(count)
        for what in WORK:
            runs = {variant: work_of(backend, what, inputs, device) for variant, backend in backends.items()}
            taken: dict[tuple[str, str], list[float]] = {variant: [] for variant in runs}
            with full_precision():
                for round_ in range(args.rounds + 1):
                    for variant, run in runs.items():
                        spent = seconds(run, device)
                        if round_:
                            taken[variant].append(spent)
            first = np.median(next(iter(taken.values())))
            for variant, times in taken.items():
                peak = peak_of(variant, what, count, args.threads) if device.type == "cpu" else 0
                middle = float(np.median(times))
                rows.append(
                    {"voxels": count, "work": what, "variant": " ".join(variant), "seconds": middle, "MB": peak}
                )
                print(
                    f"{count:>7} voxels  {what:<9}  {' '.join(variant):<15} {middle:7.3f} s"
                    f"  {first / middle:5.2f} x  {count / middle:>9,.0f} voxels/s  {peak:>6} MB",
                    flush=True,
                )
    print(json.dumps(rows), file=sys.stderr)


if __name__ == "__main__":
    main()
