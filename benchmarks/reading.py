"""How fast text is read: the rooms of S3DIS by `hpal prep`'s reader, beside `numpy.loadtxt` on the same files.

    python benchmarks/reading.py S3DIS_FOLDER [--rounds 9] [--libraries]

Each round reads every room in each of the ways, one after the other, so that all meet the same machine; times are of
the wall. The files are read once before, so that they come from memory and not from a disk. `--libraries` adds the CSV
readers of pyarrow, polars and pandas, whichever are installed, with the files of a room joined. Every way must give the
same doubles.
"""

from __future__ import annotations

import argparse
import io
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hpal_cli.parallel import cores
from hpal_cli.readers import number_table, s3dis
from hpal_cli.readers.cloud import Options, Source

NAMES = list("xyzrgb")
Way = Callable[[Source], NDArray[np.float64]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--libraries", action="store_true")
    args = parser.parse_args()
    rooms = s3dis.find(args.folder, Options())
    paths = [path for room in rooms for path in files(room)]
    size = sum(len(path.read_bytes()) for path in paths)
    parser_used = number_table.library()
    print(f"{len(rooms)} rooms, {len(paths)} files, {size / 1e6:.1f} MB; {cores()} cores; numpy {np.__version__}")
    print("parser: NumPy, since " + parser_used if isinstance(parser_used, str) else "parser: compiled")
    ways: dict[str, Way] = {"numpy.loadtxt": by_loadtxt, "hpal's reader": by_hpal}
    if args.libraries:
        ways |= libraries()
    expected = [by_loadtxt(room) for room in rooms]
    for name, way in ways.items():
        for room, numbers in zip(rooms, expected, strict=True):
            if not np.array_equal(way(room).view(np.int64), numbers.view(np.int64)):
                print(f"{name} reads other doubles in {room.name}")
                break
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(args.rounds):
        for name, way in ways.items():
            begin = time.perf_counter()
            for room in rooms:
                read_only(room) if way is by_hpal else way(room)
            times[name].append(time.perf_counter() - begin)
    for name, seconds in times.items():
        ratios = [base / own for base, own in zip(times["numpy.loadtxt"], seconds, strict=True)]
        print(
            f"{name:14} {statistics.median(seconds) * 1e3:7.1f} ms (best {min(seconds) * 1e3:.1f}), "
            f"{size / statistics.median(seconds) / 1e6:5.0f} MB/s, "
            f"{statistics.median(ratios):5.1f} times numpy.loadtxt ({min(ratios):.1f} to {max(ratios):.1f})"
        )


def files(room: Source) -> list[Path]:
    return sorted((room.path / "Annotations").glob("[!.]*.txt"))


def read_only(room: Source) -> int:
    """As `prep` does it: block by block, none of them kept."""
    return sum(len(block.xyz) for block in s3dis.read(room, Options()))


def by_hpal(room: Source) -> NDArray[np.float64]:
    return np.concatenate([np.column_stack([block.xyz, block.rgb]) for block in s3dis.read(room, Options())])


def by_loadtxt(room: Source) -> NDArray[np.float64]:
    return np.concatenate([np.loadtxt(path, ndmin=2) for path in files(room)])


def libraries() -> dict[str, Way]:
    def joined(room: Source) -> bytes:
        return b"".join(path.read_bytes() for path in files(room))

    found: dict[str, Way] = {}
    try:
        import pyarrow
        from pyarrow import csv

        types = pyarrow.schema([(name, pyarrow.float64()) for name in NAMES])

        def by_pyarrow(room: Source) -> NDArray[np.float64]:
            table = csv.read_csv(
                pyarrow.py_buffer(joined(room)),
                read_options=csv.ReadOptions(column_names=NAMES),
                parse_options=csv.ParseOptions(delimiter=" ", quote_char=False),
                convert_options=csv.ConvertOptions(column_types=types),
            )
            return np.column_stack([table.column(name).to_numpy() for name in NAMES])

        found[f"pyarrow {pyarrow.__version__}"] = by_pyarrow
    except ImportError:
        pass
    try:
        import polars

        schema = dict.fromkeys(NAMES, polars.Float64)

        def by_polars(room: Source) -> NDArray[np.float64]:
            data = io.BytesIO(joined(room))
            table = polars.read_csv(data, has_header=False, separator=" ", schema=schema, quote_char=None)
            return np.ascontiguousarray(table.to_numpy())

        found[f"polars {polars.__version__}"] = by_polars
    except ImportError:
        pass
    try:
        import pandas

        def by_pandas(room: Source) -> NDArray[np.float64]:
            table = pandas.read_csv(io.BytesIO(joined(room)), header=None, sep=" ", dtype=np.float64, quoting=3)
            return np.ascontiguousarray(table.to_numpy())

        found[f"pandas {pandas.__version__}"] = by_pandas
    except ImportError:
        pass
    return found


if __name__ == "__main__":
    main()
