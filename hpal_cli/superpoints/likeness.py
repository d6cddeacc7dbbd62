"""Reduces the description of superpoints to a few numbers that are comparable over all scenes, by which superpoints
look alike or not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

COMPONENTS = 32
LEVELS = 256
"""Quantiles that a rank is read from."""


@dataclass(frozen=True, eq=False)
class Likeness:
    """The principal components of the ranks of descriptions.

    A rank does not care in what unit, or how skewed, a column of the description is. quantile: (LEVELS, F) of each
    column; middle: (F,) mean rank; axis: (F, K) principal axes, the first the longest; deviation: (K,) along each.
    """

    quantile: NDArray[np.float32]
    middle: NDArray[np.float64]
    axis: NDArray[np.float64]
    deviation: NDArray[np.float64]

    @classmethod
    def of(cls, features: Sequence[NDArray[np.floating]], components: int = COMPONENTS) -> Likeness:
        """Learned from the superpoints of some scenes, (S, F) each; fewer components where there are fewer rows."""
        every = np.concatenate(features)
        quantile = np.quantile(every, np.linspace(0, 1, LEVELS), axis=0, method="nearest").astype(np.float32)
        ranks = _ranks(quantile, every)
        middle = ranks.mean(axis=0)
        away = ranks - middle
        values, vectors = np.linalg.eigh(away.T @ away / len(every))
        axis = vectors[:, ::-1][:, :components]
        # The sign of an eigenvector is arbitrary; its largest entry is made positive.
        axis = axis * np.sign(axis[np.abs(axis).argmax(axis=0), np.arange(axis.shape[1])])
        return cls(quantile, middle, axis, np.sqrt(np.maximum(values[::-1][:components], 0)))

    def __call__(self, feature: NDArray[np.floating]) -> NDArray[np.float32]:
        """(S, F) -> (S, K), of deviation 1 over what this was learned from; a component without any is 0."""
        along = (_ranks(self.quantile, feature) - self.middle) @ self.axis
        # A part in a million of the largest is rounding, not a difference.
        real = self.deviation > 1e-6 * max(float(self.deviation.max(initial=0)), 1e-9)
        return np.divide(along, self.deviation, out=np.zeros_like(along), where=real).astype(np.float32)

    def fits(self, columns: int) -> bool:
        """Whether these are tables of finite numbers for descriptions of so many columns."""
        tables = (self.quantile, self.middle, self.axis, self.deviation)
        if any(table.dtype.kind != "f" or not np.isfinite(table).all() for table in tables) or self.axis.ndim != 2:
            return False
        wanted = [(len(self.quantile), columns), (columns,), (columns, self.axis.shape[1]), (self.axis.shape[1],)]
        return [table.shape for table in tables] == wanted and len(self.quantile) > 0


def _ranks(quantile: NDArray[np.float32], feature: NDArray[np.floating]) -> NDArray[np.float64]:
    """(S, F) the place of each entry among the quantiles of its column, -1 to 1; between equal ones the middle."""
    columns = []
    for levels, values in zip(quantile.T, np.asarray(feature, np.float32).T, strict=True):
        below = np.searchsorted(levels, values, side="left") + np.searchsorted(levels, values, side="right")
        columns.append(below / len(levels) - 1)
    return np.stack(columns, axis=1)
