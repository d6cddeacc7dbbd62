"""The predictions of a network for a scene, which are kept for each voxel and copied to the points when they are
read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from hpal_cli.store.envelope import CHUNK_ROWS


class VoxelOutputs(Protocol):
    """The probabilities and features of M voxels."""

    def take(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The probabilities (K, C) and features (K, F) of the voxels `rows` (K,)."""


@dataclass
class InMemoryOutputs:
    """The probabilities (M, C) and features (M, F) of M voxels, in memory."""

    prob: NDArray[np.float32]
    feat: NDArray[np.float32]

    def take(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        return self.prob[rows], self.feat[rows]


class Prediction:
    """The predictions for N points. All points of a voxel have the same prediction, which is only copied to the points
    when it is read, since 96 features for each point may not fit into memory."""

    def __init__(
        self, voxels: VoxelOutputs, inverse: NDArray[np.int64], *more: tuple[VoxelOutputs, NDArray[np.int64]]
    ) -> None:
        """inverse: (N,) the voxel row of every point; more: further outputs for the same points, each with its voxel
        rows (N,). The probabilities are the mean of all outputs, the features are those of the first."""
        self._voxels = voxels
        self._inverse = inverse
        self._more = more
        self._part: tuple[NDArray[np.int32], NDArray[np.float32]] | None = None

    def __len__(self) -> int:
        return len(self._inverse)

    @property
    def prob(self) -> NDArray[np.float32]:
        """(N, C) the class probabilities of all points."""
        return self._column(0)

    @property
    def feat(self) -> NDArray[np.float32]:
        """(N, F) the features of all points."""
        return self._column(1)

    def smoothed(self, group: NDArray[np.int32]) -> Prediction:
        """The same predictions with smoothed probabilities: the average of a point's own and of the mean over its part.
        With the mean alone, all points of a part would have the same class, even if a part crosses a border.

        group: (N,) the part of each point, such as its superpoint, 0 to S - 1.
        """
        sums, done = np.zeros((0, 0)), 0
        for prob, _ in self.blocks():
            if not done:
                sums = np.zeros((int(group.max()) + 1, prob.shape[1]))
            mine = group[done : done + len(prob)]
            order = np.argsort(mine, kind="stable")
            parts, start = np.unique(mine[order], return_index=True)
            sums[parts] += np.add.reduceat(prob[order].astype(np.float64), start)
            done += len(prob)
        mean = sums / np.maximum(np.bincount(group, minlength=len(sums)), 1)[:, None]
        smoothed = Prediction(self._voxels, self._inverse, *self._more)
        smoothed._part = (group, mean.astype(np.float32))
        return smoothed

    def blocks(self) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32]]]:
        """Yields the probabilities (B, C) and features (B, F) of `CHUNK_ROWS` points at a time."""
        for start in range(0, len(self), CHUNK_ROWS):
            rows = slice(start, start + CHUNK_ROWS)
            prob, feat = self._voxels.take(self._inverse[rows])
            if self._more:
                others = [voxels.take(inverse[rows])[0] for voxels, inverse in self._more]
                prob = np.mean([prob, *others], axis=0)
            if self._part is not None:
                group, mean = self._part
                prob = ((prob + mean[group[rows]]) / 2).astype(np.float32)
            yield prob, feat

    def _column(self, which: int) -> NDArray[np.float32]:
        values, done = np.zeros((0, 0), np.float32), 0
        for block in self.blocks():
            if not done:
                values = np.empty((len(self), block[which].shape[1]), np.float32)
            values[done : done + len(block[which])] = block[which]
            done += len(block[which])
        return values
