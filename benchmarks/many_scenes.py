"""Measures commands on a store of thousands of tiny scenes, to see what each scene costs whatever its size:

    python benchmarks/many_scenes.py [--scenes 20000] [--points 64] [--folder DIR]

Prints one row for each command: wall-clock seconds, processor seconds, and the peak memory of the largest process.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from hpal_cli.classes import ClassTable
from hpal_cli.predictions.store import write_scene
from hpal_cli.scene_table import SceneInfo, SceneTable, fingerprint
from hpal_cli.scenes.store import Points
from hpal_cli.store import envelope

CLASSES, FEATURES = 13, 16


def make(path: Path, scenes: int, points: int) -> None:
    """Writes predictions of identical scenes: all scenes but the first are hard links to the files of the first."""
    rng = np.random.default_rng(0)
    xyz = rng.random((points, 3)).astype(np.float32) * 3
    print_ = fingerprint(np.zeros(3), xyz)
    names = [f"tile_{n // 100:04d}/part_{n % 100:02d}" for n in range(scenes)]
    table = SceneTable([SceneInfo(n, name, points, points, "train", print_) for n, name in enumerate(sorted(names))])
    about = {
        "id": table.id,
        "classes": ClassTable.from_names([f"c{n}" for n in range(CLASSES)]).to_json(),
        "unit": 1.0,
        "grid": 0.04,
        "scenes": table.to_json(),
        "history": [],
    }
    prob = rng.dirichlet(np.full(CLASSES, 0.3), points)
    feat = rng.random((points, FEATURES))
    cloud = Points(xyz, np.zeros(3), rng.integers(0, 256, (points, 3)).astype(np.uint8))
    with envelope.create(path, "predictions", about, overwrite=False) as (root, folder):
        write_scene(root, table[0], cloud, prob, feat, np.array([0, 1], np.int64))
        first = folder / "scenes" / table[0].name
        for scene in list(table)[1:]:
            place = folder / "scenes" / scene.name
            if not place.parent.exists():
                root.require_group(f"scenes/{scene.name}".rpartition("/")[0])
            shutil.copytree(first, place, copy_function=os.link)


def run(name: str, *words: object) -> None:
    """Runs a command in a process of its own, which the system reports time and memory of."""
    with tempfile.TemporaryFile() as said:
        begin = time.monotonic()
        call = [sys.executable, "-m", "hpal_cli", *map(str, words)]
        process = subprocess.Popen(call, stdout=subprocess.DEVNULL, stderr=said)
        _, status, used = os.wait4(process.pid, 0)
        seconds = time.monotonic() - begin
        said.seek(0)
        if status:
            sys.exit(said.read().decode())
    processor = used.ru_utime + used.ru_stime
    print(f"| {name} | {seconds:.1f} s | {processor:.1f} s | {used.ru_maxrss / 1024:.0f} MiB |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--scenes", type=int, default=20_000)
    parser.add_argument("--points", type=int, default=64)
    parser.add_argument("--folder", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as place:
        folder = Path(place)
        store, scores = folder / "preds.zarr", folder / "scores.ply"
        begin = time.monotonic()
        make(store, given.scenes, given.points)
        print(f"{given.scenes:,} scenes of {given.points} points, made in {time.monotonic() - begin:.0f} s")
        print("| command | time | processor time | memory |\n|---|---|---|---|")
        run("open", "score", store, "--scenes", "tile_0000/part_00", "--strategy", "random", "-o", folder / "one.ply")
        run("info", "info", store)
        run("score, HMMU", "score", store, "--levels", "10,50,100", "-o", scores)
        run("score, HMMU, --jobs 2", "score", store, "--levels", "10,50,100", "--jobs", 2, "-o", folder / "two.ply")
        run("select, FDS", "select", scores, "--budget", "0.02%", "-o", folder / "picks.ply")


if __name__ == "__main__":
    main()
