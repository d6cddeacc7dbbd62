"""The graph of superpoints: which of them touch, and how easily a label passes from one to the other."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hpal_cli.superpoints.segmentation import angle_cosine, color_step, off_plane
from hpal_cli.superpoints.surface import Surface, rowwise

CONTACTS = 16
"""Nearest points with which a point makes contact."""

ANGLE, COLOR, COLOR_STEP, OFF_PLANE, MAIN_ANGLE = 0.34, 0.145, 0.44, 0.0153, 1.44
"""What halves a weight 1.44 times: the angle term at the contact, the distance of the mean colours, the colour step at
the contact, metres off the plane at the contact, the angle term of the main normals."""


@dataclass(frozen=True, eq=False)
class Contacts:
    """Pairs of neighbouring points that belong to different parts, added up in E rows of `number` (E,) pairs each: the
    points i, j (E,) of the first of them, and the sums over them of 1 - |cos| of the normals, the step of the colours
    and the distance off the plane (E,)."""

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
    """Of the points `rows` with those of their 16 nearest that belong to another part.

    Pairs between the same two superpoints are added up, so that what is kept grows with the superpoints and not with
    the points of a scene.

    part: (N,) the superpoint of each point; points that have none yet have a number of their own, below 0.
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
    """E pairs of superpoints that touch: pair (E, 2), a < b, sorted; contact (E,) neighbouring points between them;
    weight (E,) above 0, with which a random walk passes."""

    pair: NDArray[np.int32]
    contact: NDArray[np.int32]
    weight: NDArray[np.float64]


def graph(
    of: NDArray[np.integer],
    found: Contacts,
    color: NDArray[np.float64] | None,
    main_normal: NDArray[np.float64],
) -> Graph:
    """weight = sqrt(m) exp(-(a / .34 + C / .145 + c / .44 + o / .0153 + A / 1.44)), with m the number of contacts; a, c
    and o the means of angle, colour step and distance off the plane over them; C the distance of the mean colours and A
    the angle term of the main normals of the two superpoints.

    of: (N,) superpoint of each point; color: (S, K) mean colours or None; main_normal: (S, 3).
    """
    count = len(main_normal)
    key, _, row, _ = _pairs(of[found.i], of[found.j], count)
    a, b = key // max(1, count), key % max(1, count)
    contact = np.bincount(row, found.number, minlength=len(key))

    def mean(total: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.bincount(row, total, minlength=len(key)) / contact

    cost = mean(found.angle) / ANGLE + mean(found.color) / COLOR_STEP + mean(found.plane) / OFF_PLANE
    cost += (1 - np.minimum(np.abs(rowwise(main_normal[a], main_normal[b])), 1)) / MAIN_ANGLE
    if color is not None:
        cost += color_step(color, a, b) / COLOR
    # Not below 1e-9, so that nothing that touches is out of reach.
    weight = np.sqrt(contact) * np.exp(-cost) + 1e-9
    return Graph(np.column_stack([a, b]).astype(np.int32), contact.astype(np.int32), weight)
