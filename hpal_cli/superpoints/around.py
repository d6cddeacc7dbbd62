"""Adds up what lies within a radius of each superpoint: the cells in a vertical column, and the surfaces in a sphere.

It is compiled, because the pairs of a superpoint and a cell near it are most of the numbers that a description needs.
NumPy does the same where there is no compiler, to the same bits.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hpal_cli import compiled
from hpal_cli.superpoints.surface import pairs_within, sum_by

_REACH = 2
"""Buckets in which the places are sorted have an edge of radius / _REACH. Smaller ones fit a sphere better, larger ones
are fewer."""

_GAP = 2 * _REACH
"""Number of buckets to which a longer gap along an axis is shortened. It is more than a search reaches."""

_BLOCK = 1 << 9
"""Superpoints whose pairs NumPy holds in memory at a time."""


def column_totals(
    place: NDArray[np.float64],
    value: NDArray[np.float64],
    centre: NDArray[np.float64],
    radius: float,
    bounds: tuple[float, ...],
    above: float,
) -> NDArray[np.float64]:
    """(S, 16) about the places within `radius` metres of each centre, seen from above: how many are in each of seven
    ranges of height between the 6 `bounds`; how many are less than the radius above or below the centre, and the five
    sums of their values; the height of the highest, at least 0; how many are more than `above` metres above the centre;
    how many there are.

    place: (M, 4) x, y, z and height above the ground; value: (M, 5); centre: (S, 4) as place.
    """
    total = np.zeros((len(centre), 16))
    order, start, stop = _runs(place[:, :2], centre[:, :2], radius)
    place, value, centre = (np.ascontiguousarray(rows) for rows in (place[order], value[order], centre))
    library, limits = _library(), np.array(bounds)
    if not isinstance(library, str):
        library.hpal_columns(
            *(_at(place), _at(value), _at(centre), _at(start), _at(stop), *start.shape),
            *(radius, _at(limits), above, _at(total)),
        )
        return total
    for rows, home, near in _pairs(place[:, :2], centre[:, :2], radius):
        found, count = total[rows], len(total[rows])
        level = np.searchsorted(limits, place[near, 3], side="right")
        found[:, :7] = np.bincount(home * 7 + level, minlength=count * 7).reshape(count, 7)
        up = place[near, 2] - centre[rows][home, 2]
        close = np.abs(up) < radius
        found[:, 7] = np.bincount(home[close], minlength=count)
        found[:, 8:13] = sum_by(home[close], value[near[close]], count)
        np.maximum.at(found[:, 13], home, place[near, 3])
        found[:, 14] = np.bincount(home[up > above], minlength=count)
        found[:, 15] = np.bincount(home, minlength=count)
    return total


def relief_totals(
    place: NDArray[np.float64],
    facing: NDArray[np.float64],
    around: NDArray[np.float64],
    centre: NDArray[np.float64],
    plane: NDArray[np.float64],
    radius: float,
    bounds: tuple[float, ...],
    parallel: float,
) -> NDArray[np.float64]:
    """(S, 12) about the places within `radius` metres of each of the positions `around`, which are compared with the
    plane in the same row. How many of the places that are parallel to the plane lie in each of nine ranges, between the
    8 `bounds`, from behind the plane to in front of it; how many places there are; how many of them are in front of the
    last bound; how many are behind the second bound.

    place, facing: (M, 3) positions and unit normals; around, centre, plane: (S, 3), where the plane is given by a
    position on it and its unit normal, which points to the front; parallel: cosine of two normals above which surfaces
    count as parallel.
    """
    total = np.zeros((len(centre), 12))
    order, start, stop = _runs(place, around, radius)
    place, facing, around, centre, plane = (
        np.ascontiguousarray(rows) for rows in (place[order], facing[order], around, centre, plane)
    )
    library, limits = _library(), np.array(bounds)
    if not isinstance(library, str):
        library.hpal_relief(
            *(_at(place), _at(facing), _at(around), _at(centre), _at(plane), _at(start), _at(stop), *start.shape),
            *(radius, _at(limits), parallel, _at(total)),
        )
        return total
    for rows, home, near in _pairs(place, around, radius):
        found, count, front = total[rows], len(total[rows]), plane[rows][home]
        step = ((place[near] - centre[rows][home]) * front).sum(axis=1)
        beside = np.abs((facing[near] * front).sum(axis=1)) > parallel
        where = home[beside] * 9 + np.searchsorted(limits, step[beside])
        found[:, :9] = np.bincount(where, minlength=count * 9).reshape(count, 9)
        found[:, 9] = np.bincount(home, minlength=count)
        found[:, 10] = np.bincount(home[step > limits[-1]], minlength=count)
        found[:, 11] = np.bincount(home[step < limits[1]], minlength=count)
    return total


def _runs(
    places: NDArray[np.float64], centres: NDArray[np.float64], radius: float
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """The order (M,) in which the places (M, D) are sorted by bucket. Then a row of buckets is a run of places, and all
    places within the radius of a centre are in R runs. Also returned for each of the centres (S, D): the first place of
    each run (S, R), and the place after its last one (S, R)."""
    both = np.floor(np.concatenate([places, centres]) / (radius / _REACH)).astype(np.int64)
    bucket = np.column_stack([without_gaps(one, _GAP) for one in both.T]) + _REACH
    shape = bucket.max(axis=0, initial=0) + _REACH + 1
    weight = np.append(np.cumprod(shape[:0:-1])[::-1], 1)
    key = bucket @ weight
    order = np.argsort(key[: len(places)], kind="stable")
    beside = [np.dot((*step, 0), weight) for step in product(range(-_REACH, _REACH + 1), repeat=len(shape) - 1)]
    middle = key[len(places) :, None] + np.array(beside)
    there = key[order]
    return order, there.searchsorted(middle - _REACH), there.searchsorted(middle + _REACH, side="right")


def without_gaps(cell: NDArray[np.int64], longest: int) -> NDArray[np.int64]:
    """(N,) the cells along one axis, counted from the first, with gaps shortened to `longest` cells. So a point a
    hundred kilometres away neither fills the memory with empty cells nor makes their numbers overflow."""
    there, home = np.unique(cell, return_inverse=True)
    at = np.concatenate([[0], np.cumsum(np.minimum(np.diff(there), longest))])
    found: NDArray[np.int64] = at[home.reshape(-1)]
    return found


def _pairs(
    places: NDArray[np.float64], centres: NDArray[np.float64], radius: float
) -> Iterator[tuple[slice, NDArray[np.int64], NDArray[np.int64]]]:
    """For one block of centres after the other, its rows, and all pairs of a centre, counted from the first of the
    block, and a place within the radius. The pairs are sorted by centre and place, the order in which the compiled code
    adds."""
    from scipy.spatial import cKDTree

    tree = cKDTree(places)
    for first in range(0, len(centres), _BLOCK):
        rows = slice(first, first + _BLOCK)
        home, near = pairs_within(tree, centres[rows], radius)
        order = np.lexsort((near, home))
        yield rows, home[order], near[order]


def _at(rows: NDArray[np.float64] | NDArray[np.int64]) -> int:
    return rows.ctypes.data


def missing() -> str | None:
    """Why the compiled sums cannot be used here, None if they can."""
    return compiled.reason(_library())


@compiled.library_or_reason
def _library() -> ctypes.CDLL:
    pointer, long, real = ctypes.c_void_p, ctypes.c_int64, ctypes.c_double
    library = compiled.load(Path(__file__).with_name("around.c"))
    library.hpal_columns.argtypes = [*[pointer] * 5, long, long, real, pointer, real, pointer]
    library.hpal_relief.argtypes = [*[pointer] * 7, long, long, real, pointer, real, pointer]
    library.hpal_columns.restype = library.hpal_relief.restype = None
    return library
