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
"""Metres (paper section 4.2)."""

SIMILARITY = 0.8

FeatureRows = Callable[[NDArray[np.int64]], NDArray[np.floating]]
"""Rows of a scene (K,) -> their features (K, F): asked only where a decision needs them."""


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


@dataclass(frozen=True)
class Suppressors:
    """Points that suppress as picks do, from the beginning: row (L,) and xyz (L, 3)."""

    row: NDArray[np.int64]
    xyz: NDArray[np.float64]


@dataclass
class GreedySelection:
    """What became of the candidates of one scene.

    order: (V,) those that were visited, best first; chosen: (V,) whether each was chosen (else it was suppressed);
    exhausted: whether all were visited, and more would have been chosen.
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
    """The greedy answer for the N candidates of one scene: highest score first, ties by the smallest row.

    score, row: (N,); xyz: (N, 3) in units of `unit` metres; suppression None: no candidate is dropped, and neither
    features nor suppressors are asked for. limit: stop after so many picks.

    Raises:
        UsageError: features that are no function, where some are asked for.
    """
    order = np.lexsort((row, -score.astype(np.float64)))
    if suppression is None:
        order = order[:limit]
        return GreedySelection(order, np.ones(len(order), bool), len(order) == len(score) < limit)
    if not callable(features):
        # An array may go unnoticed: features are fetched only where two candidates are near each other.
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
    """Candidates in the order of their scores, then the suppressors: row and xyz; how many are candidates."""

    row: NDArray[np.int64]
    xyz: NDArray[np.float64]
    count: int
    limit: int
    suppression: Suppression
    radius: float
    features: FeatureRows


# ---------------------------------------------------------------- with NumPy alone


def _select_by_numpy(candidates: _Candidates) -> NDArray[np.uint8]:
    """A verdict for each candidate, 0 for those not visited. A pick strikes out its neighbours at once, which leaves
    the same picks as asking each candidate about all picks before it."""
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
    """(K,) whether cos(mine, theirs) > similarity (Eq. 6), in float64; a zero feature is like nothing.

    mine: (F,); theirs: (K, F).
    """
    square = (theirs * theirs).sum(axis=1) * (mine * mine).sum()
    # Without the division, equal features have a cosine of exactly 1, and zero ones are never above.
    return (theirs @ mine > similarity * np.sqrt(square)) & (square > 0)


# ---------------------------------------------------------------- compiled (greedy.c)

_GROWTH, _BLOCK = 8, 1 << 16
"""One candidate's features are fetched at first, then those of 8 times as many, up to so many at once."""

_MANY = 512
"""From so many on a fetch touches most chunks, so that what else is missing costs next to nothing."""

_KNOWN, _WANTED, _FETCHED = 1, 2, 3
"""Of a pick's feature, in greedy.c."""


class _State(ctypes.Structure):
    """`greedy_select` of greedy.c."""

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
    """As `_select_by_numpy`, but each candidate asks the picks near it: features are fetched where two points are that
    near."""
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
        # A hair wider than the radius: rounding in the division must not put a neighbour two cells away.
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
        wanted = np.flatnonzero(missing if len(places) >= _MANY else known[: state.picks] == _WANTED)
        fetched = candidates.features(candidates.row[np.concatenate([places, pick[wanted]])]).astype(np.float64)
        if pick_feature is None:
            # Left to the system until it is written to: most walks end long before their limit.
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
