"""Backends and precisions of a network side by side: seconds, as ratios of the first, and peak memory.

    python benchmarks/network.py [--voxels 20000,80000] [--scenes 1] [--threads 2] [--rounds 5] [--device cpu]
        [--size full] [--variants minkowski:fp32,torch:fp32,torch:bf16] [--json FILE]

Voxels are those of synthetic offices, `--voxels` of each of `--scenes`. Coordinate maps are part of what is timed. On a
CPU peak memory is that of a process of its own, which does nothing else; on CUDA it is what torch allocated, time is
between two events of the stream, and rounds before the first that counts warm up.
"""

from __future__ import annotations

import argparse
import itertools
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
from hpal_cli.network.backend import AnyGeometry, Backend, choose
from hpal_cli.network.device import full_precision
from hpal_cli.network.inputs import NetworkInput, scene_origin, unit_color, voxelise
from hpal_cli.network.minkunet import SIZES, MinkUNet

VARIANTS = "minkowski:fp32,torch:fp32,torch:bf16"
WORK = ("training", "inference")
WARM_UP = {"cpu": 1, "cuda": 3}


def some_input(count: int) -> NetworkInput:
    """The first `count` voxels, in plan, of a row of synthetic offices."""
    clouds: list[np.ndarray] = []
    colors: list[np.ndarray] = []
    number = 0
    while True:
        # A few voxels need no whole scan.
        room = make_room(number, points=min(150_000, 40 * count))
        xyz = room.xyz - room.xyz.min(axis=0) + np.array([12.0 * number, 0, 0])
        clouds.append(xyz)
        colors.append(room.rgb)
        inputs = voxelise([(scene_origin(np.concatenate(clouds), 1.0), unit_color(np.concatenate(colors)))], 0.05)
        if len(inputs.voxel) >= count:
            keep = torch.argsort(inputs.voxel[:, 1], stable=True)[:count]
            return NetworkInput(inputs.features[keep], inputs.voxel[keep], torch.arange(count))
        number += 1


def several(scenes: int, count: int) -> NetworkInput:
    """As many scenes of `count` voxels, one behind the other along an axis of its own, in one batch."""
    one = some_input(count)
    voxels = []
    for n in range(scenes):
        voxel = one.voxel.clone()
        voxel[:, 0] = n
        voxel[:, 1 + n % 3] += n
        voxels.append(voxel)
    return NetworkInput(one.features.repeat(scenes, 1), torch.cat(voxels), torch.arange(scenes * count))


SCALE = 65536.0
"""Of the loss, as `hpal train` begins in fp16; a power of 2, which changes no bit elsewhere."""


class Pass:
    """A network on a device, the paper's unless another size is named, with weights that are the same each time, and
    what it is given."""

    def __init__(
        self, geometry: Callable[[Tensor], AnyGeometry], inputs: NetworkInput, device: torch.device,
        dtype: torch.dtype = torch.float32, size: str = "full",
    ) -> None:  # fmt: skip
        torch.manual_seed(0)
        self.network = MinkUNet(6, 13, SIZES[size]).to(device, dtype)
        inputs = inputs.to(device)
        self._features, self._voxel, self._geometry = inputs.features.to(dtype), inputs.voxel, geometry

    def training(self) -> Tensor:
        """Maps, forward and backward: the logits; gradients are those of SCALE times a loss."""
        self.network.train().zero_grad(set_to_none=True)
        logits, _ = self.network(self._features, self._geometry(self._voxel))
        (logits.square().mean() * SCALE).backward()
        return logits.detach()

    @torch.no_grad()
    def inference(self) -> Tensor:
        """Maps and forward: the logits."""
        return self.network.eval()(self._features, self._geometry(self._voxel))[0]

    def gradients(self) -> Tensor:
        return torch.cat([p.grad.flatten() / SCALE for p in self.network.parameters() if p.grad is not None])


def seconds(run: Callable[[], Tensor], device: torch.device) -> float:
    if device.type == "cuda":
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        run()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / 1000
    before = time.perf_counter()
    run()
    return time.perf_counter() - before


def peak_on_card(run: Callable[[], Tensor], device: torch.device) -> int:
    """MB that torch allocates at most, where nothing else is alive."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    run()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) >> 20


def peak_of(variant: tuple[str, str], what: str, count: int, args: argparse.Namespace) -> int:
    """MB that a process of its own takes at most for two rounds."""
    call = [sys.executable, __file__, "--alone", *variant, what, "--voxels", str(count), "--size", args.size]
    call += ["--scenes", str(args.scenes), "--threads", str(args.threads)]
    done = subprocess.run(call, capture_output=True, text=True, check=True)
    return int(done.stdout.split()[-1])


def peak_of_this() -> int:
    """MB that were resident at most."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) // 1024


def timed(
    runs: dict[tuple[str, str], Callable[[], Tensor]], device: torch.device, rounds: int
) -> dict[tuple[str, str], list[float]]:
    """Seconds of each, by turns. One that fails is said and left out: the others are still worth their numbers."""
    taken: dict[tuple[str, str], list[float]] = {}
    for round_ in range(rounds + WARM_UP[device.type]):
        for variant, run in list(runs.items()):
            try:
                spent = seconds(run, device)
            except Exception as error:
                print(f"{' '.join(variant)} failed: {str(error)[:300]}", flush=True)
                del runs[variant]
                taken.pop(variant, None)
                continue
            if round_ >= WARM_UP[device.type]:
                taken.setdefault(variant, []).append(spent)
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--voxels", default="20000,80000")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--scenes", type=int, default=1)
    parser.add_argument("--size", choices=list(SIZES), default="full")
    parser.add_argument("--variants", default=VARIANTS, help="backend:precision, separated by commas")
    parser.add_argument("--json", type=Path, help="append each number to this file as it comes, a line each")
    parser.add_argument("--alone", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    counts = [int(count) for count in args.voxels.split(",")]
    if args.alone:
        name, precision, what = args.alone
        geometry = choose(name, device, precision).geometry
        run = getattr(Pass(geometry, several(args.scenes, counts[0]), device, size=args.size), what)
        # Linux: 5 sets the peak back to what is resident now.
        Path("/proc/self/clear_refs").write_text("5")
        run()
        run()
        print(peak_of_this())
        return
    backends: dict[tuple[str, str], Backend] = {}
    for name, _, precision in (text.partition(":") for text in args.variants.split(",")):
        variant = (name, precision)
        try:
            backends[variant] = choose(variant[0], device, variant[1])
        except UsageError as error:
            print(f"{' '.join(variant)} is left out: {error}", file=sys.stderr)
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{args.threads} threads"
    print(f"torch {torch.__version__}, {device}, {card}, {args.size} network, {args.rounds} rounds, medians")
    for variant, backend in backends.items():
        print(f"{' '.join(variant)}: {backend}", flush=True)
    # On a CPU by turns, since other programs come and go; on a GPU one by one, so that each is alone in its memory and
    # its numbers are there at once.
    turns = [[variant] for variant in backends] if device.type == "cuda" else [list(backends)]
    for count, what in itertools.product(counts, WORK):
        inputs, first = several(args.scenes, count), None
        for variants in turns:
            passes = {v: Pass(backends[v].geometry, inputs, device, size=args.size) for v in variants}
            with full_precision():
                taken = timed({v: getattr(one, what) for v, one in passes.items()}, device, args.rounds)
                for variant, times in taken.items():
                    try:
                        if device.type == "cuda":
                            peak = peak_on_card(getattr(passes[variant], what), device)
                        else:
                            peak = peak_of(variant, what, count, args)
                    except Exception as error:
                        print(f"{' '.join(variant)}: its memory is not known: {str(error)[:300]}", flush=True)
                        peak = None
                    middle, voxels = float(np.median(times)), args.scenes * count
                    first = first or middle
                    row = {"voxels": voxels, "work": what, "variant": " ".join(variant), "seconds": middle, "MB": peak}
                    row |= {"least": min(times), "most": max(times), "scenes": args.scenes, "device": card}
                    if args.json:
                        with args.json.open("a") as file:
                            print(json.dumps(row | {"size": args.size}), file=file)
                    print(
                        f"{voxels:>7} voxels  {what:<9}  {' '.join(variant):<15} {middle:7.4f} s"
                        f"  {first / middle:5.2f} x  {voxels / middle:>10,.0f} voxels/s  {peak or '?':>6} MB",
                        flush=True,
                    )
            # Before the next ones are made.
            passes.clear()


if __name__ == "__main__":
    main()
