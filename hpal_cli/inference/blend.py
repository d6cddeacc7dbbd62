"""Adds up the weighted predictions of several tiles for each voxel. The sums are in a file, since the features of a
large scene do not fit into memory."""

from __future__ import annotations

from typing import IO

import numpy as np
from numpy.typing import NDArray

MAX_FLOAT16 = 65504
"""The largest float16."""


class Blend:
    """The weighted sums of probabilities (M, C) float32 and features (M, F) float16 of M voxels, all zero at first."""

    def __init__(self, file: IO[bytes], voxels: int) -> None:
        """file: an empty file, open for writing and reading; voxels: M."""
        self._file = file
        self._voxels = voxels
        self._row: np.dtype[np.void] | None = None

    def add(
        self,
        rows: NDArray[np.int64],
        weight: NDArray[np.float32],
        prob: NDArray[np.float32],
        feat: NDArray[np.float32],
    ) -> None:
        """Adds weight (K,) times prob (K, C) and feat (K, F) to the sums of the voxels `rows` (K,), which must be
        ascending and different."""
        if self._row is None:
            self._row = np.dtype([("prob", "<f4", prob.shape[1:]), ("feat", "<f2", feat.shape[1:])])
            # Parts of the file that are not written read as zeros.
            self._file.truncate(self._voxels * self._row.itemsize)
        runs = _runs(rows)
        sums = self._read(runs)
        sums["prob"] += weight[:, None] * prob
        # A feature beyond the range of float16 would become infinite, and cosines with it NaN.
        feat = sums["feat"] + weight[:, None] * np.clip(feat, -MAX_FLOAT16, MAX_FLOAT16)
        sums["feat"] = np.clip(feat, -MAX_FLOAT16, MAX_FLOAT16)
        done = 0
        for start, stop in runs:
            self._file.seek(start * self._row.itemsize)
            self._file.write(sums[done : done + stop - start].tobytes())
            done += stop - start

    def take(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The sums (K, C) and (K, F) of the voxels `rows` (K,), in any order and possibly repeated."""
        wanted, place = np.unique(rows, return_inverse=True)
        sums = self._read(_runs(wanted))[place]
        return sums["prob"], sums["feat"].astype(np.float32)

    def _read(self, runs: list[list[int]]) -> NDArray[np.void]:
        # The file is read, not memory-mapped, since the pages of a map would count as memory of this process.
        assert self._row is not None
        parts = []
        for start, stop in runs:
            self._file.seek(start * self._row.itemsize)
            parts.append(self._file.read((stop - start) * self._row.itemsize))
        return np.frombuffer(bytearray().join(parts), self._row)


def _runs(rows: NDArray[np.int64]) -> list[list[int]]:
    """Ascending rows (K,) as ranges [start, stop]."""
    breaks = np.flatnonzero(np.diff(rows) != 1) + 1
    starts = np.concatenate([rows[:1], rows[breaks]])
    stops = np.concatenate([rows[breaks - 1], rows[-1:]]) + 1
    return np.stack([starts, stops], axis=1).tolist()
