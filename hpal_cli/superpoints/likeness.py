"""Reduces the description of a superpoint to a few numbers, so that superpoints that look alike have a small
distance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

COMPONENTS = 32
LEVELS = 256
"""Quantiles of each column from which ranks are computed."""


@dataclass(frozen=True, eq=False)
class Likeness:
    """The principal components of the ranks of descriptions. Ranks are used because they depend neither on the unit nor
    on the skewness of a column.
    quantile: (LEVELS, F) of each column; middle: (F,) mean rank; axis: (F, K) principal axes, that of the largest
    deviation first; deviation: (K,) standard deviation along each.
    """

    quantile: NDArray[np.float32]
    middle: NDArray[np.float64]
    axis: NDArray[np.float64]
    deviation: NDArray[np.float64]

    @classmethod
    def fit(cls, features: Sequence[NDArray[np.floating]], components: int = COMPONENTS) -> Likeness:
        """Computes the components from the descriptions (S, F) of the superpoints of some scenes."""
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
        """(S, F) descriptions -> (S, K) components, scaled to deviation 1 over the superpoints that they were computed
        from. A component that did not vary there is 0."""
        along = (_ranks(self.quantile, feature) - self.middle) @ self.axis
        # A deviation below a millionth of the largest is only rounding.
        real = self.deviation > 1e-6 * max(float(self.deviation.max(initial=0)), 1e-9)
        return np.divide(along, self.deviation, out=np.zeros_like(along), where=real).astype(np.float32)

    def fits(self, columns: int) -> bool:
        """Whether these are consistent tables of finite numbers, for descriptions of `columns` columns."""
        tables = (self.quantile, self.middle, self.axis, self.deviation)
        if any(table.dtype.kind != "f" or not np.isfinite(table).all() for table in tables) or self.axis.ndim != 2:
            return False
        wanted = [(len(self.quantile), columns), (columns,), (columns, self.axis.shape[1]), (self.axis.shape[1],)]
        return [table.shape for table in tables] == wanted and len(self.quantile) > 0


def _ranks(quantile: NDArray[np.float32], feature: NDArray[np.floating]) -> NDArray[np.float64]:
    """(S, F) the rank of each entry among the quantiles of its column, scaled to -1 to 1; the mean rank among ties."""
    columns = []
    for levels, values in zip(quantile.T, np.asarray(feature, np.float32).T, strict=True):
        below = np.searchsorted(levels, values, side="left") + np.searchsorted(levels, values, side="right")
        columns.append(below / len(levels) - 1)
    return np.stack(columns, axis=1)
