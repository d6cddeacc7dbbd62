"""Scores whole superpoints: what the answer for all points of one is worth (docs/method.md, "Scores of
superpoints")."""

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
"""Exponent of a class's share: a class that is 16 times as rare is worth twice as much."""

LEAST_SHARE = 0.003
"""Share of a class below which it counts as no rarer."""


@dataclass(frozen=True, eq=False)
class SuperpointValue:
    """What turns the scores of a superpoint's points into its own.

    rarity: (C,) share^-0.25 of each class in the pool, None where nothing is predicted; largest: points of the largest
    superpoint of the pool; uniform: the scores are draws from U(0,1) and not a measure of uncertainty.
    """

    rarity: NDArray[np.float64] | None
    largest: int
    uniform: bool = False

    @classmethod
    def of(
        cls, store: PredictionStore | SceneStore, pool: Sequence[SceneInfo], strategy: str, largest: int
    ) -> SuperpointValue:
        """share: the mean probability of each class over all points of the pool."""
        if strategy == "random" or not isinstance(store, PredictionStore):
            return cls(None, largest, uniform=True)
        total = sum(store.probabilities(scene).sum(axis=0, dtype=np.float64) for scene in pool)
        share = np.asarray(total) / max(float(np.sum(total)), 1e-12)
        return cls(np.maximum(share, LEAST_SHARE) ** -RARITY, largest)

    def __call__(
        self, scores: Scores, prob: NDArray[np.floating] | None, of: NDArray[np.integer]
    ) -> NDArray[np.float64]:
        """(S,) in [0, 1]: the mean score of the points, times sqrt(points), times the rarity of the classes that they
        may be, by the largest that this can be.

        scores: (N,) of the points; prob: (N, C); of: (N,) superpoint of each.

        A draw is not averaged: u^(1 / points) of the first point's u makes a superpoint come first with a chance in
        proportion to its points, as a point drawn at random finds it (Efraimidis and Spirakis 2006).
        """
        size = np.bincount(of)
        if self.uniform:
            first = np.unique(of, return_index=True)[1]
            return np.asarray(scores, np.float64)[first] ** (1 / size)
        assert prob is not None
        assert self.rarity is not None
        dear = prob.astype(np.float32) @ self.rarity.astype(np.float32)
        mean = np.bincount(of, scores) / size
        rare = np.bincount(of, dear) / size
        most = np.sqrt(self.largest) * float(self.rarity.max())
        return np.clip(mean * np.sqrt(size) * rare / most, 0, 1)


def unanswered_superpoints(of: NDArray[np.integer], taken: NDArray[np.integer]) -> NDArray[np.int64]:
    """The superpoints, ascending, none of whose points is among the rows `taken`: each is asked about once."""
    free = np.ones(int(of.max()) + 1 if len(of) else 0, bool)
    free[of[taken]] = False
    return np.flatnonzero(free)
