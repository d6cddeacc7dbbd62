"""Scores whole superpoints by how much a model would learn from one answer for all their points (docs/method.md,
"Scores of superpoints")."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hpal_cli.predictions.store import PredictionStore
from hpal_cli.score.pointwise import Scores

if TYPE_CHECKING:
    from hpal_cli.scene_table import SceneInfo
    from hpal_cli.scenes.store import SceneStore

RARITY = 0.25
"""Exponent of the rarity of a class: if it is 16 times as rare, its superpoints score twice as high."""

MIN_SHARE = 0.003
"""Least share of a class in the computation of its rarity."""


@dataclass(frozen=True, eq=False)
class SuperpointValue:
    """Computes the scores of superpoints from those of their points.

    rarity: share^-0.25 of each class in the pool, None if there are no predictions; largest: number of points of
    the largest superpoint of the pool; uniform: the scores of points are draws from U(0, 1), not uncertainties.
    """

    rarity: tuple[float, ...] | None
    largest: int
    uniform: bool = False

    @classmethod
    def from_pool(
        cls, store: PredictionStore | SceneStore, pool: Sequence[SceneInfo], strategy: str, largest: int
    ) -> SuperpointValue:
        """For the scenes of a pool. The share of a class is its mean probability over all points of the pool."""
        if strategy == "random" or not isinstance(store, PredictionStore):
            return cls(None, largest, uniform=True)
        total = sum(store.probabilities(scene).sum(axis=0, dtype=np.float64) for scene in pool)
        share = np.asarray(total) / max(float(np.sum(total)), 1e-12)
        return cls(tuple((np.maximum(share, MIN_SHARE) ** -RARITY).tolist()), largest)

    def __call__(
        self, scores: Scores, prob: NDArray[np.floating] | None, superpoint: NDArray[np.integer]
    ) -> NDArray[np.float64]:
        """(S,) in [0, 1]: the mean score of the points, times the square root of their number, times the mean rarity of
        their classes (weighted by probability), divided by the largest possible value of this product.

        scores: (N,) of the points; prob: (N, C); superpoint: (N,) superpoint of each point.
        Random draws are not averaged: the score is u^(1 / n), with n the number of points and u the draw of the first
        point. So a superpoint comes first with a probability in proportion to its number of points, as if a point had
        been drawn at random (Efraimidis and Spirakis 2006).
        """
        size = np.bincount(superpoint)
        if self.uniform:
            first = np.unique(superpoint, return_index=True)[1]
            return np.asarray(scores, np.float64)[first] ** (1 / size)
        assert prob is not None
        assert self.rarity is not None
        rarity = prob.astype(np.float32) @ np.array(self.rarity, np.float32)
        mean = np.bincount(superpoint, scores) / size
        rare = np.bincount(superpoint, rarity) / size
        most = np.sqrt(self.largest) * max(self.rarity)
        return np.clip(mean * np.sqrt(size) * rare / most, 0, 1)


def unanswered_superpoints(superpoint: NDArray[np.integer], answered: NDArray[np.integer]) -> NDArray[np.int64]:
    """The superpoints (ascending) without a point among the rows `answered` (T,), since one answer is for all of their
    points."""
    free = np.ones(int(superpoint.max()) + 1 if len(superpoint) else 0, bool)
    free[superpoint[answered]] = False
    return np.flatnonzero(free)
