"""How fast `hpal score` and `hpal select` are, each against other ways in the same run.

    python benchmarks/selection.py [hmmu] [fds] [pipe] [--rounds 5] [--scenes 204] [--points 13000000] [--folder DIR]
                                   [--device cuda]

`hmmu` scores points in memory, on one core and on all, beside what one would write with NumPy (`np.unique`, then
`np.bincount` for each class, at every level) and beside the algorithm of the released code (a loop over the voxels).
`fds` selects 1 % of 200,000 points in a scene so crowded that most candidates are suppressed, beside a loop over all
picks for each candidate. `pipe` makes a predictions store with 96 features a point and runs `hpal score | hpal select`
on it, beside reading the same chunks with nothing done; it needs 2 GB of disk and the command `hpal`.
Without names, all three.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hpal_cli.budget import Budget
from hpal_cli.classes import ClassTable
from hpal_cli.parallel import cores
from hpal_cli.predictions.store import PredictionStore, write_scene
from hpal_cli.scene_table import SceneInfo, SceneTable
from hpal_cli.scenes.store import Points
from hpal_cli.score.hmmu import Hierarchy, hmmu, missing
from hpal_cli.score.scorer import score
from hpal_cli.selection.fds import Suppression, greedy_select
from hpal_cli.selection.selector import select
from hpal_cli.store import envelope
from hpal_cli.store.envelope import RowReader
from hpal_cli.stream.points import PointReader

CLASSES, FEATURES, GRID, HEIGHT = 13, 96, 0.04, 3.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", help="hmmu, fds, pipe; all of them if left out")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--scenes", type=int, default=204)
    parser.add_argument("--points", type=int, default=13_000_000)
    parser.add_argument("--folder", type=Path, help="where the store is made; a folder that is removed if left out")
    parser.add_argument("--make", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--trace", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--device", help="also HMMU on this device, with what it reads there already: cuda")
    args = parser.parse_args()
    if args.make:
        make_store(args.make, args.scenes, args.points)
        return
    if args.trace:
        print(json.dumps(chunks_of_features(args.trace)))
        return
    what = args.what or ["hmmu", "fds", "pipe"]
    print(f"{cores()} cores; compiled: {missing() or 'yes'}")
    if "hmmu" in what:
        measure_hmmu(args.rounds, args.device)
    if "fds" in what:
        measure_fds(args.rounds)
    if "pipe" in what:
        if args.folder:
            measure_pipe(args.folder, args.scenes, args.points, args.rounds)
        else:
            with tempfile.TemporaryDirectory() as folder:
                measure_pipe(Path(folder), args.scenes, args.points, args.rounds)


def some_room(points: int, seed: int) -> tuple[NDArray[np.float32], NDArray[np.float16], NDArray[np.float16]]:
    """A room of so many points on its floor, walls and boxes: xyz, prob and feat, which change with the place."""
    rng = np.random.default_rng(seed)
    # As many cells of the grid as there are points, on horizontal and vertical faces.
    side = max(2.0, np.sqrt(points * GRID**2 / 3))
    xyz = rng.uniform(0, [side, side, HEIGHT], (points, 3))
    face = rng.integers(0, 3, points)
    xyz[np.arange(points), face] = np.round(xyz[np.arange(points), face])
    waves = rng.normal(0, 1.5, (3, 24)), rng.uniform(0, 6, 24)
    mix = rng.normal(0, 1, (24, FEATURES))
    feat = np.empty((points, FEATURES), np.float16)
    prob = np.empty((points, CLASSES), np.float16)
    head = rng.normal(0, 0.35, (FEATURES, CLASSES))
    for start in range(0, points, 1 << 16):
        here = slice(start, start + (1 << 16))
        field = np.sin(xyz[here] @ waves[0] + waves[1]) @ mix
        field = np.maximum(field + rng.normal(0, 0.3, field.shape), 0)
        logits = field @ head
        power = np.exp(logits - logits.max(axis=1, keepdims=True))
        feat[here], prob[here] = field, power / power.sum(axis=1, keepdims=True)
    return xyz.astype(np.float32), prob, feat


def seconds(work: Callable[[], object], rounds: int) -> float:
    """The median; one call before does not count."""
    work()
    taken = []
    for _ in range(rounds):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return float(np.median(taken))


# ---------------------------------------------------------------- HMMU


def measure_hmmu(rounds: int, device: str | None) -> None:
    xyz, prob, _ = some_room(1_000_000, 0)
    print("\nHMMU, 3 levels, 13 classes, in memory      points   seconds   M points/s   times as fast")
    small = slice(0, 20_000)
    loops = seconds(lambda: released_scores(prob[small], xyz[small]), 1)
    obvious = seconds(lambda: obvious_hmmu(prob, xyz), max(1, rounds // 2))
    line("a loop over the voxels", 20_000, loops, loops / 20_000 / (obvious / 1e6))
    line("NumPy: unique, bincount", len(xyz), obvious, 1.0)
    for threads in sorted({1, cores()}):
        taken = seconds(partial(hmmu, prob, xyz, threads=threads), rounds)
        line(f"hpal, {threads} thread{'s' * (threads > 1)}", len(xyz), taken, taken / obvious)
    assert np.abs(hmmu(prob, xyz) - obvious_hmmu(prob, xyz)).max() < 1e-12
    if device:
        on_device(prob, xyz, device, rounds, obvious)
    for points in (5_000_000, 20_000_000):
        xyz, prob, _ = some_room(points, 1)
        for threads in sorted({1, cores()}):
            taken = seconds(partial(hmmu, prob, xyz, threads=threads), max(1, rounds // 2))
            line(f"hpal, {threads} thread{'s' * (threads > 1)}", points, taken, taken / points / (obvious / 1e6))
        if device:
            on_device(prob, xyz, device, rounds, obvious * points / 1e6)


def on_device(prob: NDArray, xyz: NDArray, device: str, rounds: int, obvious: float) -> None:
    import torch

    from hpal_cli.score.hmmu_torch import measure_tensors

    there = torch.from_numpy(prob).to(device), torch.from_numpy(xyz).to(device)

    def once() -> float:
        return float(measure_tensors(*there, Hierarchy())[0][-1])

    taken = seconds(once, rounds)
    line(f"hpal, {device}", len(xyz), taken, taken / obvious)


def line(name: str, points: int, taken: float, share: float) -> None:
    print(f"{name:36} {points:12,} {taken:9.3f} {points / taken / 1e6:12.2f} {1 / share:15.2f}", flush=True)


def obvious_hmmu(prob: NDArray[np.float16], xyz: NDArray[np.float32]) -> NDArray[np.float64]:
    """What one would write with NumPy."""
    p, at = prob.astype(np.float64), xyz.astype(np.float64)
    hierarchy = Hierarchy()
    total = top_gap(p)
    for edge, weight in zip(hierarchy.levels, hierarchy.weights, strict=True):
        cell = np.floor(at / edge).astype(np.int64)
        cell -= cell.min(axis=0)
        extent = cell.max(axis=0) + 1
        key = (cell[:, 0] * extent[1] + cell[:, 1]) * extent[2] + cell[:, 2]
        _, inverse, count = np.unique(key, return_inverse=True, return_counts=True)
        sums = np.stack([np.bincount(inverse, p[:, c], len(count)) for c in range(p.shape[1])], axis=1)
        total += weight * top_gap(sums / count[:, None])[inverse]
    return 1 - total / hierarchy.largest


def top_gap(p: NDArray[np.float64]) -> NDArray[np.float64]:
    two = np.partition(p, -2, axis=1)[:, -2:]
    return two[:, 1] - two[:, 0]


def released_scores(prob: NDArray[np.float16], xyz: NDArray[np.float32]) -> NDArray[np.float64]:
    """The released algorithm: voxels of voxels, the nearest barycentre, and for each voxel a search in all points."""
    from scipy.spatial import cKDTree

    mean, at = prob.astype(np.float64), xyz.astype(np.float64)
    gaps, homes = [top_gap(mean)], []
    for edge in Hierarchy().levels:
        _, inverse, count = np.unique(
            np.floor(at / edge).astype(np.int64), axis=0, return_inverse=True, return_counts=True
        )
        centre = np.stack([np.bincount(inverse.ravel(), axis) for axis in at.T], axis=1) / count[:, None]
        home = cKDTree(centre).query(at)[1]
        found = np.full((len(centre), prob.shape[1]), np.nan)
        for voxel in range(len(centre)):
            members = mean[home == voxel]
            members = members[~np.isnan(members).any(axis=1)]
            if len(members):
                found[voxel] = members.mean(axis=0)
        gaps.append(top_gap(found))
        homes.append(home)
        mean, at = found, centre
    for level in reversed(range(len(homes))):
        gaps[level] = gaps[level] + 0.1 * gaps[level + 1][homes[level]]
    return gaps[0]


# ---------------------------------------------------------------- FDS


def measure_fds(rounds: int) -> None:
    points, picks = 200_000, 2_000
    rng = np.random.default_rng(2)
    # Two kinds of features in so small a room that hardly more picks fit: nearly all candidates are walked through.
    xyz = rng.uniform(0, [2.4, 2.4, 2.1], (points, 3))
    kind = rng.integers(0, 2, points)
    feat = (np.abs(rng.normal(0, 1, (2, FEATURES)))[kind] + 0.1 * rng.random((points, FEATURES))).astype(np.float16)
    score = rng.random(points).astype(np.float32)
    row = np.arange(points)
    found = greedy_select(score, row, xyz, picks, Suppression(), lambda rows: feat[rows])
    visited, dropped = len(found.order), int((~found.chosen).sum())
    print(
        f"\nFDS, {points:,} points, {len(found.picks):,} picks, {visited:,} candidates visited, {dropped:,} suppressed"
    )
    taken = seconds(lambda: greedy_select(score, row, xyz, picks, Suppression(), lambda rows: feat[rows]), rounds)
    loops = seconds(lambda: released_picks(score, xyz, feat, picks), 1)
    np.testing.assert_array_equal(found.picks, released_picks(score, xyz, feat, picks))
    print(f"{'a loop over all picks':36} {loops:9.3f} s {1.0:9.2f} times as fast")
    print(f"{'hpal':36} {taken:9.3f} s {loops / taken:9.2f}", flush=True)


def released_picks(score: NDArray, xyz: NDArray, feat: NDArray, most: int) -> list[int]:
    """Each candidate asks all picks, one after the other."""
    picks: list[int] = []
    for n in np.argsort(-score, kind="stable"):
        if len(picks) == most:
            break
        mine = feat[n].astype(np.float64)
        for other in picks:
            difference = xyz[n] - xyz[other]
            if np.sqrt(difference @ difference) < 0.2:
                theirs = feat[other].astype(np.float64)
                if mine @ theirs > 0.8 * np.sqrt((mine @ mine) * (theirs @ theirs)):
                    break
        else:
            picks.append(int(n))
    return picks


# ---------------------------------------------------------------- the pipe


def measure_pipe(folder: Path, scenes: int, points: int, rounds: int) -> None:
    store = folder / f"predictions-{scenes}-{points}.zarr"
    if not store.exists():
        # In another process: the peak memory of a child counts from that of its parent.
        sizes = ["--scenes", str(scenes), "--points", str(points)]
        subprocess.run([sys.executable, __file__, "--make", str(store), *sizes], check=True)
    hpal = shutil.which("hpal") or str(Path(sys.executable).with_name("hpal"))
    score, select = [hpal, "score", str(store)], [hpal, "select", "--budget", "0.02%", "-o", str(folder / "picks.ply")]
    print(f"\nhpal score | hpal select --budget 0.02 %, {scenes} scenes, {points:,} points, {FEATURES} features")
    traced = subprocess.run([sys.executable, __file__, "--trace", str(store)], check=True, stdout=subprocess.PIPE)
    print(f"features: {len(json.loads(traced.stdout))} chunks read")
    print(f"{'':12} {'seconds':>8} {'MiB score':>10} {'MiB select':>11} {'seconds to read the same':>25} {'share':>7}")
    for _ in range(rounds):
        reading = read_all(store, traced.stdout.decode())
        taken, peaks = run_pipe(score, select)
        print(
            f"{'':12} {taken:8.2f} {peaks[0]:10.0f} {peaks[1]:11.0f} {reading:25.2f} {reading / taken:7.0%}", flush=True
        )


def run_pipe(score: list[str], select: list[str]) -> tuple[float, list[float]]:
    """Seconds, and the peak resident memory of each process in MiB."""
    start = time.perf_counter()
    first = subprocess.Popen([*score, "-q"], stdout=subprocess.PIPE)
    second = subprocess.Popen([*select, "-q", "--overwrite"], stdin=first.stdout)
    assert first.stdout is not None
    first.stdout.close()
    peaks = []
    for process in (first, second):
        _, status, usage = os.wait4(process.pid, 0)
        assert status == 0
        peaks.append(usage.ru_maxrss / 1024)
    return time.perf_counter() - start, peaks


def chunks_of_features(store: Path) -> list[tuple[str, int]]:
    """The chunks of features that `hpal select` reads after `hpal score`."""
    read: list[tuple[str, int]] = []
    whole = RowReader.read_chunk

    def noted(self: RowReader, number: int) -> NDArray:
        read.append((self.name, number))
        return whole(self, number)

    RowReader.read_chunk = noted  # type: ignore[method-assign]
    with tempfile.TemporaryFile() as file:
        score(store, lambda _: file)
        file.seek(0)
        reader = PointReader(file, "scores")
        predictions = PredictionStore(store)
        select([reader], budget=Budget.parse("0.02%"), suppression=Suppression(), predictions=predictions)
    return read


def read_all(store: Path, chunks: str) -> float:
    """Seconds to read what both commands read, in two processes, with nothing done."""
    program = "import sys; sys.path.insert(0, sys.argv[1]); import selection; selection.read(*sys.argv[2:])"
    call = [sys.executable, "-c", program, str(Path(__file__).parent), str(store)]
    start = time.perf_counter()
    halves = [
        subprocess.Popen([*call, "xyz,prob,labelled", "[]"]),
        subprocess.Popen([*call, "pred", chunks]),
    ]
    assert all(process.wait() == 0 for process in halves)
    return time.perf_counter() - start


def read(path: str, columns: str, chunks: str) -> None:
    import zarr

    root = zarr.open_group(path, mode="r")
    for scene in root.attrs["hpal"]["scenes"]:  # type: ignore[union-attr, index, call-overload]
        for column in columns.split(","):
            root[f"scenes/{scene['name']}/{column}"][...]  # type: ignore[index]
    for name, number in json.loads(chunks):
        rows = root[name].chunks[0]  # type: ignore[union-attr]
        root[name][number * rows : (number + 1) * rows]  # type: ignore[index]


def make_store(path: Path, scenes: int, points: int) -> None:
    """Rooms of different sizes, as S3DIS has them."""
    rng = np.random.default_rng(3)
    share = rng.lognormal(0, 0.5, scenes)
    sizes = np.maximum((points * share / share.sum()).astype(int), 1000)
    sizes[0] += points - sizes.sum()
    names = [f"Area_{n % 6 + 1}/room_{n:03d}" for n in range(scenes)]
    offset = np.zeros(3)
    infos = []
    for number, (name, size) in enumerate(sorted(zip(names, sizes.tolist(), strict=True))):
        # No fingerprint: nothing here has the scenes to compare it with.
        infos.append(SceneInfo(number, name, size, size, "train", "0" * 16))
    table, classes = SceneTable(infos), ClassTable.from_names([f"class_{n}" for n in range(CLASSES)])
    attributes = {
        "id": table.id,
        "classes": classes.to_json(),
        "unit": 1.0,
        "scenes": table.to_json(),
        "history": [],
    }
    with envelope.create(path, "predictions", attributes, overwrite=False) as (root, _):
        for info in infos:
            xyz, prob, feat = some_room(info.points, info.number)
            write_scene(root, info, Points(xyz, offset), prob, feat, np.zeros(0, np.int64))


if __name__ == "__main__":
    main()
