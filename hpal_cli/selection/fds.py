"""FDS, feature-distance suppression (paper section 3.3): no two picks that are near each other and look alike."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hpal_cli import compiled
from hpal_cli.errors import UsageError
from hpal_cli.selection.radius_search import RadiusSearch

RADIUS = 0.2
"""Radius r in metres (paper section 4.2)."""

SIMILARITY = 0.8
"""Cosine tau (paper section 4.2)."""

FeatureRows = Callable[[NDArray[np.int64]], NDArray[np.floating]]
"""A function from rows of a scene (K,) to their features (K, F). It is called only for points whose features decide."""


@dataclass(frozen=True)
class Suppression:
    """The settings of FDS: a candidate less than `radius` metres (r) from a pick is suppressed if the cosine of their
    features is above `similarity` (tau). Both comparisons are strict.

    Raises:
        UsageError: the radius is not positive, or the similarity is not from -1 to 1.
    """

    radius: float = RADIUS
    similarity: float = SIMILARITY

    def __post_init__(self) -> None:
        if not -1 <= self.similarity <= 1:
            raise UsageError("--fds-tau", f"{self.similarity:g} is no cosine", "give a value from -1 to 1, like 0.8")
        if not 0 < self.radius < float("inf"):
            raise UsageError(
                "--fds-r", f"{self.radius:g} is not above zero", "give a positive length, like 0.2 (metres)"
            )


@dataclass(frozen=True)
class Suppressors:
    """L points that suppress candidates from the beginning, as picks do: row (L,) and xyz (L, 3)."""

    row: NDArray[np.int64]
    xyz: NDArray[np.float64]


@dataclass
class GreedySelection:
    """The result of a selection in one scene.

    order: (V,) the candidates that were visited, best first; chosen: (V,) whether each was chosen, else it was
    suppressed; exhausted: whether all candidates were visited before the limit was reached.
    """

    order: NDArray[np.int64]
    chosen: NDArray[np.bool_]
    exhausted: bool

    @property
    def picks(self) -> NDArray[np.int64]:
        """The candidates that were chosen, best first."""
        return self.order[self.chosen]


def greedy_select(
    score: NDArray[np.floating],
    row: NDArray[np.integer],
    xyz: NDArray[np.float64],
    limit: int,
    suppression: Suppression | None = None,
    features: FeatureRows | None = None,
    *,
    unit: float = 1.0,
    suppressors: Suppressors | None = None,
) -> GreedySelection:
    """Selects greedily among the N candidates of one scene: the highest score first, on a tie the smallest row.

    score, row: (N,); xyz: (N, 3) in units of `unit` metres; limit: number of picks, at most; suppression: None to
    suppress no candidate, in which case features and suppressors are not used; features: a function that is given rows.

    Raises:
        UsageError: `features` is needed and is no function.
    """
    order = np.lexsort((row, -score.astype(np.float64)))
    if suppression is None:
        order = order[:limit]
        return GreedySelection(order, np.ones(len(order), bool), len(order) == len(score) < limit)
    if not callable(features):
        # Checked first, since features are read only if two candidates are near each other.
        given = "is missing" if features is None else f"is {type(features).__name__}, not a function"
        raise UsageError("features", given, "give a function of rows, like `lambda rows: features[rows]`")
    none = Suppressors(np.zeros(0, np.int64), np.zeros((0, 3)))
    candidates = _Candidates(
        np.concatenate([row[order], (suppressors or none).row]).astype(np.int64),
        np.concatenate([xyz[order], (suppressors or none).xyz]),
        len(order),
        min(limit, len(order)),
        suppression,
        suppression.radius / unit,
        features,
    )
    library = _library()
    verdict = _select_by_numpy(candidates) if isinstance(library, str) else _select_compiled(candidates, library)
    visited = np.flatnonzero(verdict)
    chosen = verdict[visited] == _CHOSEN
    return GreedySelection(order[visited], chosen, len(visited) == len(score) and int(chosen.sum()) < limit)


_CHOSEN, _SUPPRESSED = 1, 2


@dataclass(frozen=True)
class _Candidates:
    """row (N + L,) and xyz (N + L, 3) of the candidates, best first, and after them of the suppressors; count: N;
    limit: picks at most; radius: in the unit of xyz."""

    row: NDArray[np.int64]
    xyz: NDArray[np.float64]
    count: int
    limit: int
    suppression: Suppression
    radius: float
    features: FeatureRows


# ---------------------------------------------------------------- with NumPy alone


def _select_by_numpy(candidates: _Candidates) -> NDArray[np.uint8]:
    """(N,) the verdict on each candidate: chosen, suppressed, or 0 for those that were not visited. Each pick
    suppresses its neighbours at once. The picks are the same as if each candidate were compared with all earlier
    picks."""
    count = candidates.count
    verdict, suppressed = np.zeros(count, np.uint8), np.zeros(count, bool)
    neighbours = RadiusSearch(candidates.xyz[:count], candidates.radius)

    def suppress_around(place: int) -> None:
        near = neighbours.within(candidates.xyz[place])
        near = near[~suppressed[near] & (near != place)]
        if len(near):
            feature = candidates.features(candidates.row[np.append(near, place)]).astype(np.float64)
            suppressed[near[is_similar(feature[-1], feature[:-1], candidates.suppression.similarity)]] = True

    for place in range(count, len(candidates.row)):
        suppress_around(place)
    picks = 0
    for place in range(count):
        if picks == candidates.limit:
            break
        verdict[place] = _SUPPRESSED if suppressed[place] else _CHOSEN
        if not suppressed[place]:
            picks += 1
            suppress_around(place)
    return verdict


def is_similar(mine: NDArray[np.float64], theirs: NDArray[np.float64], similarity: float) -> NDArray[np.bool_]:
    """(K,) whether cos(mine, theirs) > similarity (Eq. 6), in float64. A feature of zeros is similar to none.

    mine: (F,); theirs: (K, F).
    """
    square = (theirs * theirs).sum(axis=1) * (mine * mine).sum()
    # Without a division, the cosine of equal features is exactly 1, and features of zeros need no special case.
    return (theirs @ mine > similarity * np.sqrt(square)) & (square > 0)


# ---------------------------------------------------------------- compiled (greedy.c)

_GROWTH, _BLOCK = 8, 1 << 16
"""The features of one candidate are read first, then each time those of _GROWTH times as many, but at most _BLOCK."""

_READ_ALL_FROM = 512
"""Candidates from which on a read needs most chunks of the store, so that reading all missing features costs little."""

_KNOWN, _WANTED, _FETCHED = 1, 2, 3
"""States of the feature of a pick in greedy.c."""


class _State(ctypes.Structure):
    """The struct `greedy_select` of greedy.c."""

    _fields_ = (
        ("count", ctypes.c_int64),
        ("xyz", ctypes.c_void_p),
        ("verdict", ctypes.c_void_p),
        ("feature", ctypes.c_void_p),
        ("first", ctypes.c_int64),
        ("loaded", ctypes.c_int64),
        ("width", ctypes.c_int64),
        ("radius", ctypes.c_double),
        ("similarity", ctypes.c_double),
        ("edge", ctypes.c_double),
        ("low", ctypes.c_double * 3),
        ("limit", ctypes.c_int64),
        ("pick", ctypes.c_void_p),
        ("pick_feature", ctypes.c_void_p),
        ("pick_square", ctypes.c_void_p),
        ("pick_state", ctypes.c_void_p),
        ("head", ctypes.c_void_p),
        ("next", ctypes.c_void_p),
        ("mask", ctypes.c_int64),
        ("at", ctypes.c_int64),
        ("picks", ctypes.c_int64),
    )


def _select_compiled(candidates: _Candidates, library: ctypes.CDLL) -> NDArray[np.uint8]:
    """The same result as that of `_select_by_numpy`. Here each candidate is compared with the picks near it, and
    features are read only for candidates that have such a pick."""
    count, suppressors = candidates.count, len(candidates.row) - candidates.count
    verdict = np.zeros(count, np.uint8)
    if not count:
        return verdict
    xyz = np.ascontiguousarray(candidates.xyz)
    most = candidates.limit + suppressors
    pick, following = np.zeros(most, np.int64), np.zeros(most, np.int32)
    known, square = np.zeros(most, np.uint8), np.zeros(most)
    head = np.full(1 << max(6, int(2 * most).bit_length()), -1, np.int32)
    state = _State(
        count=count,
        xyz=xyz.ctypes.data,
        verdict=verdict.ctypes.data,
        radius=candidates.radius,
        similarity=candidates.suppression.similarity,
        # Slightly more than the radius, so that rounding in the division never puts a neighbour two cells away.
        edge=candidates.radius * (1 + 1e-9),
        low=tuple(xyz.min(axis=0)),
        limit=most,
        pick=pick.ctypes.data,
        pick_square=square.ctypes.data,
        pick_state=known.ctypes.data,
        head=head.ctypes.data,
        next=following.ctypes.data,
        mask=len(head) - 1,
    )
    library.hpal_add_suppressors(ctypes.byref(state), suppressors)
    pick_feature: NDArray[np.float64] | None = None
    block = 1
    while library.hpal_greedy_select(ctypes.byref(state)):
        here = state.first <= state.at < state.first + state.loaded
        places = np.arange(state.at, state.at if here else min(state.at + block, count))
        missing = known[: state.picks] != _KNOWN
        wanted = np.flatnonzero(missing if len(places) >= _READ_ALL_FROM else known[: state.picks] == _WANTED)
        fetched = candidates.features(candidates.row[np.concatenate([places, pick[wanted]])]).astype(np.float64)
        wide = fetched.shape[1:] if pick_feature is None else pick_feature.shape[1:]
        if fetched.ndim != 2 or fetched.shape != (len(places) + len(wanted), *wide):
            raise UsageError(
                "features",
                f"of {len(places) + len(wanted)} points have the shape {fetched.shape}",
                "return one row for each point",
            )
        if pick_feature is None:
            # np.empty takes memory only where it is written to, and most selections end long before their limit.
            pick_feature = np.empty((most, fetched.shape[1]))
            state.width, state.pick_feature = fetched.shape[1], pick_feature.ctypes.data
        pick_feature[wanted], known[wanted] = fetched[len(places) :], _FETCHED
        if not here:
            feature = np.ascontiguousarray(fetched[: len(places)])
            state.feature, state.first, state.loaded = feature.ctypes.data, state.at, len(places)
            block = min(_GROWTH * block, _BLOCK)
    return verdict


@compiled.library_or_reason
def _library() -> ctypes.CDLL:
    library = compiled.load(Path(__file__).with_name("greedy.c"), link=["-lm"])
    library.hpal_add_suppressors.argtypes, library.hpal_add_suppressors.restype = (
        [ctypes.c_void_p, ctypes.c_int64],
        None,
    )
    library.hpal_greedy_select.argtypes, library.hpal_greedy_select.restype = [ctypes.c_void_p], ctypes.c_int
    return library


def missing() -> str | None:
    """Why the compiled selection cannot be used here, None if it can."""
    return compiled.reason(_library())
