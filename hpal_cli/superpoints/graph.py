"""The graph of superpoints: which of them touch, and with which weight a label spreads from one to the other."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hpal_cli.superpoints.segmentation import angle_cosine, color_step, off_plane
from hpal_cli.superpoints.surface import Surface, rowwise

CONTACTS = 16
"""Number of nearest points with which a point can have a contact."""

ANGLE, COLOR, COLOR_STEP, OFF_PLANE, MAIN_ANGLE = 0.34, 0.145, 0.44, 0.0153, 1.44
"""The increase of each term by which the weight of `graph` falls to 1 / e: the angle term at the contact, the distance
of the mean colours, the colour step at the contact, the metres off the plane at the contact, and the angle term of the
main normals."""


@dataclass(frozen=True, eq=False)
class Contacts:
    """Pairs of neighbouring points of different parts, added up in E rows. i, j: (E,) the points of the first pair of
    each row; number: (E,) how many pairs; angle: (E,) sum over them of 1 - |cos| of their normals; color: (E,) of the
    distance of their colours; plane: (E,) of their distance off each other's plane (`off_plane`)."""

    i: NDArray[np.int64]
    j: NDArray[np.int64]
    number: NDArray[np.int64]
    angle: NDArray[np.float64]
    color: NDArray[np.float64]
    plane: NDArray[np.float64]


def contacts(
    xyz: NDArray[np.float64],
    color: NDArray[np.float64] | None,
    surface: Surface,
    part: NDArray[np.integer],
    rows: NDArray[np.int64],
) -> Contacts:
    """The contacts of the points `rows` with those of their 16 nearest points that belong to another part.

    The contacts between the same two superpoints are one row, so that memory grows with the superpoints, not with the
    points.

    xyz: (N, 3); color: (N, K) or None; part: (N,) the number of the superpoint of each point, or a number of its own,
    below 0, for a point whose superpoint is not known.
    """
    few = surface.near[rows, : CONTACTS + 1]
    i, j = np.repeat(rows, few.shape[1]), few.reshape(-1)
    other = part[i] != part[j]
    i, j = i[other], j[other]
    values = (
        1 - angle_cosine(surface.normal, i, j),
        np.zeros(len(i)) if color is None else color_step(color, i, j),
        off_plane(xyz, surface.normal, i, j),
    )
    known = (part[i] >= 0) & (part[j] >= 0)
    _, first, row, number = _pairs(part[i[known]], part[j[known]], len(xyz))
    return Contacts(
        np.concatenate([i[known][first], i[~known]]),
        np.concatenate([j[known][first], j[~known]]),
        np.concatenate([number, np.ones(int((~known).sum()), np.int64)]),
        *(np.concatenate([np.bincount(row, one[known], minlength=len(number)), one[~known]]) for one in values),
    )


def _pairs(
    a: NDArray[np.integer], b: NDArray[np.integer], count: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """The different pairs among (E,) pairs of numbers below `count`, in either order: a key for each, which is
    min * count + max, ascending; where it stands first; for each of the E which pair it is; how often each occurs."""
    low, high = np.minimum(a, b).astype(np.int64), np.maximum(a, b).astype(np.int64)
    key, first, row, number = np.unique(low * count + high, return_index=True, return_inverse=True, return_counts=True)
    return key, first, row.reshape(-1), number


@dataclass(frozen=True, eq=False)
class Graph:
    """E pairs of superpoints that touch. pair: (E, 2) ascending, sorted; contact: (E,) number of contacts between them;
    weight: (E,) positive edge weights of the random walk that spreads labels."""

    pair: NDArray[np.int32]
    contact: NDArray[np.int32]
    weight: NDArray[np.float64]


def graph(
    superpoint: NDArray[np.integer],
    found: Contacts,
    color: NDArray[np.float64] | None,
    main_normal: NDArray[np.float64],
) -> Graph:
    """The graph of S superpoints. The weight of an edge is
    sqrt(m) exp(-(a / .34 + C / .145 + c / .44 + o / .0153 + A / 1.44)), where m is the number of contacts, a, c and o
    are the means of their angle terms, colour distances and distances off the plane, C is the distance of the mean
    colours, and A is the angle term of the main normals of the two superpoints.

    superpoint: (N,) superpoint of each point; color: (S, K) mean colours or None; main_normal: (S, 3).
    """
    count = len(main_normal)
    key, _, row, _ = _pairs(superpoint[found.i], superpoint[found.j], count)
    a, b = key // max(1, count), key % max(1, count)
    contact = np.bincount(row, found.number, minlength=len(key))

    def mean(total: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.bincount(row, total, minlength=len(key)) / contact

    cost = mean(found.angle) / ANGLE + mean(found.color) / COLOR_STEP + mean(found.plane) / OFF_PLANE
    cost += (1 - np.minimum(np.abs(rowwise(main_normal[a], main_normal[b])), 1)) / MAIN_ANGLE
    if color is not None:
        cost += color_step(color, a, b) / COLOR
    # At least 1e-9, so that a label can spread between any two superpoints that touch.
    weight = np.sqrt(contact) * np.exp(-cost) + 1e-9
    return Graph(np.column_stack([a, b]).astype(np.int32), contact.astype(np.int32), weight)
