"""How much memory `hpal predict` takes for a scene of 20 million points, and how long.

    python benchmarks/predict_20m.py [--points N] [--size small|full] [--folder DIR] [-- options of hpal predict]

Makes a floor of furnished rooms, 8 m x 8 m each, with one point in a cell of 4 cm, and a network with random weights,
in a folder of its own that is removed at the end; needs 10 GB of disk. Prints the peak resident memory of the whole
`hpal predict` process, and looks whether every point got an answer.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

ROOM, HEIGHT, GRID = 8.0, 3.0, 0.04
CLASSES = 13


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=20_000_000)
    parser.add_argument("--size", default="small", help="network size: small or full")
    parser.add_argument(
        "--folder", type=Path, help="on a disk with 10 GB free; the system's folder for such if left out"
    )
    parser.add_argument("--step", choices=("make", "check"), help=argparse.SUPPRESS)
    parser.add_argument("predict", nargs="*", help="options of hpal predict, after --")
    args = parser.parse_args()
    if args.step == "make":
        make(args.folder, args.points, args.size)
    elif args.step == "check":
        check(args.folder)
    else:
        with tempfile.TemporaryDirectory(dir=args.folder) as folder:
            measure(Path(folder), args.points, args.size, args.predict)


def measure(folder: Path, points: int, size: str, options: list[str]) -> None:
    """This process stays small: a child's peak counts from that of the process that it was forked from."""
    again = [sys.executable, __file__, "--folder", str(folder)]
    made = subprocess.run(
        [*again, "--step", "make", "--points", str(points), "--size", size],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    voxels = int(made.stdout)
    print(f"{points:,} points in {voxels:,} voxels, {size} network", flush=True)
    call = [
        "predict",
        str(folder / "model.pt"),
        str(folder / "scenes.zarr"),
        "-o",
        str(folder / "preds.zarr"),
        *options,
    ]
    began = time.monotonic()
    child = subprocess.Popen([sys.executable, "-m", "hpal_cli", *call])
    _, status, usage = os.wait4(child.pid, 0)
    seconds = time.monotonic() - began
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        sys.exit(f"hpal predict ended with {child.returncode}")
    peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    print(f"peak resident memory {peak / 2**30:.2f} GiB, {seconds:.0f} s, {voxels / seconds:,.0f} voxels/s", flush=True)
    subprocess.run([*again, "--step", "check"], check=True)


def make(folder: Path, points: int, size: str) -> None:
    """Writes scenes.zarr and model.pt, and prints how many voxels the network will see."""
    from dataclasses import replace

    import numpy as np
    import torch

    from hpal_cli.classes import ClassTable
    from hpal_cli.inference.scene_voxels import SceneInput, SceneVoxels
    from hpal_cli.network.minkunet import SIZES, MinkUNet
    from hpal_cli.scene_table import SceneInfo, SceneTable, fingerprint
    from hpal_cli.scenes.store import Points
    from hpal_cli.store import envelope
    from hpal_cli.training.checkpoint import Checkpoint
    from hpal_cli.training.presets import PRESETS

    xyz, rgb = np.empty((points, 3), np.float32), np.empty((points, 3), np.uint8)
    done = 0
    for room, colors in rooms(points):
        take = min(len(room), points - done)
        xyz[done : done + take], rgb[done : done + take] = room[:take], colors[:take]
        done += take
        if done == points:
            break
    classes = ClassTable.from_names([f"class {n}" for n in range(CLASSES)])
    offset = np.zeros(3)
    scene = Points(xyz, offset, rgb)
    table = SceneTable([SceneInfo(0, "floor", points, points, "train", fingerprint(offset, xyz))])
    attributes = {
        "id": table.id,
        "classes": classes.to_json(),
        "grid": GRID,
        "unit": 1.0,
        "format": "made",
        "scenes": table.to_json(),
        "history": [],
    }
    with envelope.create(folder / "scenes.zarr", "scenes", attributes, overwrite=False) as (root, _):
        group = root.require_group("scenes/floor")
        group.attrs["offset"] = offset.tolist()
        for part in (group, group.create_group("original")):
            envelope.write_array(part, "xyz", xyz)
            envelope.write_array(part, "rgb", rgb)
        envelope.write_array(group["original"], "inverse", np.arange(points))

    torch.manual_seed(0)
    settings = replace(PRESETS["small"], size=size)
    student = MinkUNet(6, CLASSES, SIZES[size]).state_dict()
    Checkpoint(settings, classes, True, table.id, 0, 0, "", 0, student, {}).save(folder / "model.pt", overwrite=False)
    print(len(SceneVoxels(SceneInput(scene, settings.voxel))))


def rooms(points: int) -> Iterator[tuple]:
    """(xyz (K, 3) metres, rgb (K, 3) bytes) of one room after the other, on a square floor that holds `points`."""
    import numpy as np

    rng = np.random.default_rng(0)
    side = int(ROOM / GRID)
    flat = np.argwhere(np.ones((side, side))) * GRID
    wall = np.argwhere(np.ones((side, int(HEIGHT / GRID)))) * GRID
    box = np.argwhere(np.ones((int(1.0 / GRID),) * 2)) * GRID
    across = int(np.ceil(np.sqrt(points / 75_000)))
    for n in range(10**9):
        corner = np.array([n % across * ROOM, n // across * ROOM, 0])
        parts = [
            np.insert(flat, 2, 0, axis=1),
            np.insert(flat, 2, HEIGHT, axis=1),
            np.insert(wall, 0, 0, axis=1),
            np.insert(wall, 1, 0, axis=1),
        ]
        for place in rng.uniform(0.5, ROOM - 1.5, (8, 2)):
            at = np.array([*place, 0])
            parts += [np.insert(box, axis, 0.75, axis=1) + at for axis in range(3)]
        kind = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
        room = np.concatenate(parts) + rng.uniform(0, GRID, (len(kind), 3))
        base = rng.integers(0, 256, (len(parts), 3))
        colors = np.clip(base[kind] + rng.normal(0, 10, room.shape), 0, 255).astype(np.uint8)
        order = rng.permutation(len(room))
        yield (room + corner).astype(np.float32)[order], colors[order]


def check(folder: Path) -> None:
    """Raises an error unless every point has probabilities, features and a class."""
    import numpy as np
    import zarr

    group = zarr.open_group(str(folder / "preds.zarr"), mode="r")["scenes/floor"]
    points = group["xyz"].shape[0]
    classes = np.zeros(CLASSES, np.int64)
    for start in range(0, points, 1 << 16):
        rows = slice(start, start + (1 << 16))
        assert np.abs(group["prob"][rows].sum(axis=1, dtype=np.float32) - 1).max() < 0.01
        if "feat" in group:
            assert (group["feat"][rows] > 0).any(axis=1).all()
        classes += np.bincount(group["pred"][rows], minlength=CLASSES)
    print(f"all {points:,} points have an answer; points by class: {classes.tolist()}")


if __name__ == "__main__":
    main()
