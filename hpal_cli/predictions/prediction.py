"""What a network says of a scene: held by voxel, given by point."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from hpal_cli.store.envelope import CHUNK_ROWS


class Answers(Protocol):
    """Probabilities and features of M voxels."""

    def take(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Those of K of them: (K, C) and (K, F)."""


@dataclass
class InMemory:
    """The answers of M voxels: prob (M, C), feat (M, F)."""

    prob: NDArray[np.float32]
    feat: NDArray[np.float32]

    def take(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        return self.prob[rows], self.feat[rows]


class Prediction:
    """What a network says of N points. The points of a voxel share its answer, and are given it when asked for: 96
    features a point can outgrow memory."""

    def __init__(self, voxels: Answers, inverse: NDArray[np.int64]) -> None:
        """inverse: (N,) the row of every point's voxel."""
        self._voxels = voxels
        self._inverse = inverse

    def __len__(self) -> int:
        return len(self._inverse)

    @property
    def prob(self) -> NDArray[np.float32]:
        """(N, C)."""
        return self._column(0)

    @property
    def feat(self) -> NDArray[np.float32]:
        """(N, F)."""
        return self._column(1)

    def blocks(self) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32]]]:
        """(prob, feat) of `CHUNK_ROWS` points at a time."""
        for start in range(0, len(self), CHUNK_ROWS):
            yield self._voxels.take(self._inverse[start : start + CHUNK_ROWS])

    def _column(self, which: int) -> NDArray[np.float32]:
        values, done = np.zeros((0, 0), np.float32), 0
        for block in self.blocks():
            if not done:
                values = np.empty((len(self), block[which].shape[1]), np.float32)
            values[done : done + len(block[which])] = block[which]
            done += len(block[which])
        return values
