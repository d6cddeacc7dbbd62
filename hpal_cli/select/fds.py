"""FDS, feature-distance suppression (paper section 3.3): no two picks that are near each other and look alike."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hpal_cli.errors import UsageError
from hpal_cli.select.neighbours import Neighbours

RADIUS = 0.2
"""Metres (paper section 4.2)."""

SIMILARITY = 0.8

FeatureRows = Callable[[NDArray[np.int64]], NDArray[np.floating]]
"""Candidate numbers (K,) -> their features (K, F): asked only where a decision needs them."""


@dataclass(frozen=True)
class Suppression:
    """r, in metres, and tau: a candidate within r of a pick (strict), of cosine above tau (strict), is dropped."""

    radius: float = RADIUS
    similarity: float = SIMILARITY

    def __post_init__(self) -> None:
        if not -1 <= self.similarity <= 1:
            raise UsageError("--fds-tau", f"{self.similarity:g} is no cosine", "give a value from -1 to 1, like 0.8")
        if not 0 < self.radius < float("inf"):
            raise UsageError(
                "--fds-r", f"{self.radius:g} is not above zero", "give a positive length, like 0.2 (metres)"
            )


@dataclass
class Walk:
    """What became of the candidates of one scene: those chosen, in order; how many were looked at; how many of
    these were dropped; whether all were."""

    chosen: NDArray[np.int64]
    visited: int
    suppressed: int
    exhausted: bool


def walk(
    score: NDArray[np.floating],
    tie: NDArray[np.integer],
    xyz: NDArray[np.float64],
    features: FeatureRows | None,
    limit: int,
    suppression: Suppression | None,
    unit: float = 1.0,
    *,
    least: float = -np.inf,
    blocked: NDArray[np.bool_] | None = None,
) -> Walk:
    """The greedy answer for the N candidates of one scene: highest score first, ties by smallest `tie`.

    score, tie: (N,); xyz: (N, 3) in units of `unit` metres; suppression None: no candidate is dropped.
    limit: stop after so many; least: stop below this score; blocked: (N,) candidates that are dropped from the start.

    A pick strikes out its neighbours at once, which leaves the same picks as asking each candidate about all picks
    before it, and asks only about those near a pick.
    """
    order = np.lexsort((tie, -score.astype(np.float64)))
    struck = np.zeros(len(score), bool) if blocked is None else blocked.copy()
    neighbours = Neighbours(xyz, suppression.radius / unit) if suppression and len(xyz) else None
    chosen: list[int] = []
    visited = 0
    for candidate in order:
        if len(chosen) == limit or score[candidate] < least:
            break
        visited += 1
        if struck[candidate]:
            continue
        chosen.append(int(candidate))
        if neighbours is not None and suppression is not None and features is not None:
            near = neighbours.within(xyz[candidate])
            near = near[~struck[near]]
            if len(near) > 1:
                struck[near[alike(features, int(candidate), near, suppression.similarity)]] = True
    return Walk(np.array(chosen, np.int64), visited, visited - len(chosen), visited == len(order))


def alike(features: FeatureRows, one: int, others: NDArray[np.int64], similarity: float) -> NDArray[np.bool_]:
    """(K,) whether cos(f_one, f_other) > similarity (Eq. 6), in float64; a zero feature is like nothing."""
    rows = features(np.append(others, one)).astype(np.float64)
    mine, theirs = rows[-1], rows[:-1]
    return is_alike(mine, theirs, similarity)


def is_alike(mine: NDArray[np.float64], theirs: NDArray[np.float64], similarity: float) -> NDArray[np.bool_]:
    """mine (F,), theirs (K, F) -> (K,)."""
    square = (theirs * theirs).sum(axis=1) * (mine * mine).sum()
    # Without the division, equal features have a cosine of exactly 1, and zero ones are never above.
    return (theirs @ mine > similarity * np.sqrt(square)) & (square > 0)
