"""Describes the surroundings of a superpoint by weighted means over other superpoints of its scene."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hpal_cli.superpoints.build import Superpoints
from hpal_cli.superpoints.surface import pairs_within

if TYPE_CHECKING:
    from scipy.sparse import csr_array

NEAR, COLUMN = (0.7, 1.5), 0.4
"""Metres (divided by the scale) at which a Gaussian weight has fallen to 1/e: NEAR in space, for two radii, and COLUMN
in the horizontal plane, for superpoints that are above or below."""

CUTOFF = 2.5
"""Multiple of these lengths beyond which a weight is taken as 0."""

_BLOCK, _MAX_CACHED = 1 << 12, 1 << 14
"""Superpoints whose surroundings are computed at a time; and superpoints of a scene up to which all surroundings stay
in memory for the next call."""


class Surroundings:
    """The surroundings of the S superpoints of a scene."""

    def __init__(self, superpoints: Superpoints) -> None:
        from scipy.spatial import cKDTree

        self._centre = np.asarray(superpoints.centre, np.float64)
        self._size = superpoints.size.astype(np.float64)
        graph = superpoints.graph
        a, b = np.concatenate([graph.pair, graph.pair[:, ::-1]]).T
        above = self._centre[b, 2] > self._centre[a, 2]
        contact = np.tile(graph.contact, 2).astype(np.float64)
        everywhere = np.ones(len(a), bool)
        self._touching = [
            self._weights(a, b, contact, everywhere),
            self._weights(a, b, contact, above),
            self._weights(a, b, contact, ~above),
            self._weights(a, b, np.tile(graph.weight, 2), everywhere),
        ]
        self._tree, self._plan = cKDTree(self._centre), cKDTree(self._centre[:, :2])
        self._blocks = list(self._find()) if len(self._size) <= _MAX_CACHED else None

    def __call__(self, values: NDArray[np.float64]) -> NDArray[np.float32]:
        """(S, C) values -> (S, 10 C) their weighted means over ten sets of superpoints: those that touch, those of them
        that are above and that are below, those within two radii, those in the column above and below, those that touch
        by the graph's weights, those two steps away, and all. Zeros if a set is empty."""
        touching, above, below, strong = (weights @ values for weights in self._touching)
        around = [np.concatenate(part) for part in zip(*self._means(values), strict=True)]
        mean = (self._size @ values / self._size.sum())[None].repeat(len(values), axis=0)
        return np.concatenate(
            [touching, above, below, *around, strong, self._touching[0] @ touching, mean], axis=1
        ).astype(np.float32)

    def _means(self, values: NDArray[np.float64]) -> Iterator[tuple[NDArray[np.float64], ...]]:
        for block in self._find() if self._blocks is None else self._blocks:
            yield tuple(weights @ values for weights in block)

    def _find(self) -> Iterator[tuple[csr_array, ...]]:
        """For one block of B superpoints after the other, four weight matrices (B, S) with normalised rows: near for
        two radii, in the column above, and in the column below."""
        for start in range(0, len(self._size), _BLOCK):
            rows = np.arange(start, min(start + _BLOCK, len(self._size)))
            a, b = pairs_within(self._tree, self._centre[rows], CUTOFF * max(NEAR))
            square = ((self._centre[rows[a]] - self._centre[b]) ** 2).sum(axis=1)
            other = rows[a] != b
            near = [
                self._weights(
                    a, b, np.exp(-square / radius**2) * self._size[b], other & (square < (CUTOFF * radius) ** 2), rows
                )
                for radius in NEAR
            ]
            a, b = pairs_within(self._plan, self._centre[rows, :2], CUTOFF * COLUMN)
            square = ((self._centre[rows[a], :2] - self._centre[b, :2]) ** 2).sum(axis=1)
            other, above = rows[a] != b, self._centre[b, 2] > self._centre[rows[a], 2]
            weight = np.exp(-square / COLUMN**2) * self._size[b]
            column = [self._weights(a, b, weight, other & side, rows) for side in (above, ~above)]
            yield (*near, *column)

    def _weights(
        self,
        a: NDArray[np.integer],
        b: NDArray[np.integer],
        weight: NDArray[np.float64],
        kept: NDArray[np.bool_],
        rows: NDArray[np.int64] | None = None,
    ) -> csr_array:
        """The weight matrix (len(rows), S) with entries `weight` at (a, b), where `kept`. Each row is normalised to the
        sum 1; a row without entries stays 0."""
        from scipy.sparse import coo_array

        count = len(self._size) if rows is None else len(rows)
        a, b, weight = a[kept], b[kept], weight[kept]
        total = np.bincount(a, weight, minlength=count)
        return coo_array((weight / np.maximum(total, 1e-12)[a], (a, b)), shape=(count, len(self._size))).tocsr()
