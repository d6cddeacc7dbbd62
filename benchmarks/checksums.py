"""What the checksum of every chunk costs: a scene of predictions written and read with and without it.

    python benchmarks/checksums.py

Both ways take turns in each round, after one that does not count. Processor seconds of the whole process, since they
depend less than the clock on what else runs; the folder is in memory, or another with TMPDIR.
"""

from __future__ import annotations

import shutil
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import zarr
import zarr.codecs

from hpal_cli.store import envelope

POINTS, CLASSES, FEATURES, ROUNDS = 1_000_000, 13, 96, 9


def columns() -> dict[str, np.ndarray]:
    """Of a synthetic room: positions on faces, probabilities that are near 0 or 1, features as after a rectifier."""
    rng = np.random.default_rng(0)
    xyz = (rng.random((POINTS, 3)) * (8, 6, 3)).astype("f4")
    xyz[np.arange(POINTS), rng.integers(3, size=POINTS)] = 0
    power = np.exp(rng.normal(0, 4, (POINTS, CLASSES)).astype("f4"))
    prob = (power / power.sum(axis=1, keepdims=True)).astype("f2")
    feat = np.maximum(rng.normal(0, 1, (POINTS, FEATURES)), 0).astype("f2")
    return {"xyz": xyz, "rgb": rng.integers(90, 200, (POINTS, 3)).astype("u1"), "prob": prob, "feat": feat}


def without(group: zarr.Group, name: str, shape: tuple[int, ...], dtype: np.dtype) -> zarr.Array:
    """As `envelope.create_array` was before it had a checksum."""
    codec = zarr.codecs.BloscCodec(typesize=dtype.itemsize, cname="zstd", clevel=1, shuffle="shuffle")
    chunks = (min(envelope.CHUNK_ROWS, shape[0]), *shape[1:])
    config = {"write_empty_chunks": True}
    return group.create_array(name, shape=shape, dtype=dtype, chunks=chunks, compressors=codec, config=config)


def main() -> None:
    arrays, folder = columns(), Path(tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
    ways = {"with": envelope.create_array, "without": without}
    taken: dict[tuple[str, str], list[float]] = {(what, way): [] for what in ("write", "read") for way in ways}
    size = {}
    try:
        for n in range(ROUNDS + 1):
            for way in ways if n % 2 else reversed(ways):
                store = folder / way
                shutil.rmtree(store, ignore_errors=True)
                group = zarr.open_group(str(store), mode="w", zarr_format=3)
                begin = time.process_time()
                for name, values in arrays.items():
                    ways[way](group, name, values.shape, values.dtype)[...] = values
                middle = time.process_time()
                for name in arrays:
                    envelope.read_array(group, name, store)
                if n:
                    taken["write", way].append(middle - begin)
                    taken["read", way].append(time.process_time() - middle)
                size[way] = sum(path.stat().st_size for path in store.rglob("*") if path.is_file())
    finally:
        shutil.rmtree(folder)
    unpacked = sum(values.nbytes for values in arrays.values())
    print(f"{POINTS:,} points, {unpacked / 1e6:.0f} MB unpacked, {ROUNDS} rounds, median processor seconds")
    for what in ("write", "read"):
        a, b = (statistics.median(taken[what, way]) for way in ways)
        ratios = sorted(x / y for x, y in zip(taken[what, "with"], taken[what, "without"], strict=True))
        print(
            f"{what:5} with {a:.3f}  without {b:.3f}  ratio {a / b:.3f}  (rounds {ratios[0]:.3f} to {ratios[-1]:.3f})"
        )
    print(f"bytes with {size['with']:,}  without {size['without']:,}  ratio {size['with'] / size['without']:.6f}")


if __name__ == "__main__":
    main()
