"""Adds up what several tiles predict for a voxel, weighted and on disk, since the features of a large scene exceed the
memory."""

from __future__ import annotations

from typing import IO

import numpy as np
from numpy.typing import NDArray

LARGEST = 65504
"""The largest float16."""


class Blend:
    """Sums over M voxels of probabilities (C, float32) and features (F, float16), all zero at first.

    They lie in a file, by voxel.
    """

    def __init__(self, file: IO[bytes], voxels: int) -> None:
        """file: empty, to write and read."""
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
        """Adds weight (K,) times prob (K, C) and feat (K, F) to the voxels `rows`, ascending, none twice."""
        if self._row is None:
            self._row = np.dtype([("prob", "<f4", prob.shape[1:]), ("feat", "<f2", feat.shape[1:])])
            # What was not written reads as zeros.
            self._file.truncate(self._voxels * self._row.itemsize)
        runs = _runs(rows)
        sums = self._read(runs)
        sums["prob"] += weight[:, None] * prob
        # Beyond float16 a feature would become inf, and its direction NaN.
        feat = sums["feat"] + weight[:, None] * np.clip(feat, -LARGEST, LARGEST)
        sums["feat"] = np.clip(feat, -LARGEST, LARGEST)
        done = 0
        for start, stop in runs:
            self._file.seek(start * self._row.itemsize)
            self._file.write(sums[done : done + stop - start].tobytes())
            done += stop - start

    def take(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The sums of K voxels, in any order, repeated or not: (K, C) and (K, F)."""
        wanted, place = np.unique(rows, return_inverse=True)
        sums = self._read(_runs(wanted))[place]
        return sums["prob"], sums["feat"].astype(np.float32)

    def _read(self, runs: list[list[int]]) -> NDArray[np.void]:
        # Run by run, since the pages of a memory map count as the process's own.
        assert self._row is not None
        parts = []
        for start, stop in runs:
            self._file.seek(start * self._row.itemsize)
            parts.append(self._file.read((stop - start) * self._row.itemsize))
        return np.frombuffer(bytearray().join(parts), self._row)


def _runs(rows: NDArray[np.int64]) -> list[list[int]]:
    """Ascending rows as ranges (start, stop)."""
    breaks = np.flatnonzero(np.diff(rows) != 1) + 1
    starts = np.concatenate([rows[:1], rows[breaks]])
    stops = np.concatenate([rows[breaks - 1], rows[-1:]]) + 1
    return np.stack([starts, stops], axis=1).tolist()
