"""Orders queries as a short tour, so that the view of a person who answers them moves little from one to the next."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

MAX_NEAREST_NEIGHBOUR = 5_000
"""Queries in a scene up to which a nearest-neighbour tour is made, which takes time that grows with their square."""

MAX_TWO_OPT = 1_000
"""Queries in a scene up to which 2-opt then shortens the tour, which needs a table of all distances."""

MAX_TWO_OPT_PASSES = 40
"""Passes of 2-opt over the tour, at most."""


def short_tour(xyz: NDArray[np.floating]) -> NDArray[np.int64]:
    """(Q, 3) positions -> (Q,) rows in the order of a short tour that begins at the corner of least x and y.

    It is a nearest-neighbour tour that 2-opt then shortens. For more than `MAX_NEAREST_NEIGHBOUR` positions it runs
    along strips in y, up one strip and down the next.
    """
    place = np.asarray(xyz, np.float64).reshape(-1, 3)
    if len(place) < 3:
        return np.lexsort((place[:, 2], place[:, 1], place[:, 0]))
    if len(place) > MAX_NEAREST_NEIGHBOUR:
        return _strip_tour(place)
    order = _nearest_neighbour_tour(place)
    return _two_opt(place, order) if len(place) <= MAX_TWO_OPT else order


def _nearest_neighbour_tour(place: NDArray[np.float64]) -> NDArray[np.int64]:
    # On a tie the first row is next. Sorting the rows by position makes the tour independent of their order.
    rows = np.lexsort((place[:, 2], place[:, 1], place[:, 0]))
    left = place[rows]
    corner = left[:, :2].min(axis=0)
    at = int(((left[:, :2] - corner) ** 2).sum(axis=1).argmin())
    order = []
    while len(rows):
        order.append(rows[at])
        here = left[at]
        rows, left = np.delete(rows, at), np.delete(left, at, axis=0)
        if len(rows):
            at = int(((left - here) ** 2).sum(axis=1).argmin())
    return np.array(order, np.int64)


def _two_opt(place: NDArray[np.float64], order: NDArray[np.int64]) -> NDArray[np.int64]:
    """2-opt: reverses parts of the tour as long as that makes it shorter. The first query stays the first."""
    way = place[order]
    far = np.linalg.norm(way[:, None] - way[None], axis=2)
    turn = np.arange(len(order))
    for _ in range(MAX_TWO_OPT_PASSES):
        shorter = False
        for i in range(len(turn) - 2):
            a, b, ends = turn[i], turn[i + 1], turn[i + 2 :]
            after = turn[i + 3 :]
            gain = far[a, b] - far[a, ends]
            gain[:-1] += far[ends[:-1], after] - far[b, after]
            best = int(gain.argmax())
            if gain[best] > 1e-9:
                turn[i + 1 : i + 3 + best] = turn[i + 1 : i + 3 + best][::-1]
                shorter = True
        if not shorter:
            break
    return order[turn]


def _strip_tour(place: NDArray[np.float64]) -> NDArray[np.int64]:
    low = place.min(axis=0)
    size = np.maximum(place.max(axis=0) - low, 1e-9)
    # The width of a strip is chosen such that the tour moves about as far across it as along it between two queries.
    width = max(float(np.sqrt(3 * size[0] * size[1] / len(place))), size[0] / len(place))
    strip = ((place[:, 0] - low[0]) / width).astype(np.int64)
    along = np.where(strip % 2 == 0, place[:, 1], -place[:, 1])
    return np.lexsort((place[:, 2], place[:, 0], along, strip))
