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
    """E pairs of neighbouring points: the rows i, j (E,), and between them 1 - |cos| of the normals, the step of the
    colours and the distance off the plane (E,)."""

    i: NDArray[np.int64]
    j: NDArray[np.int64]
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

    part: (N,) a number for the superpoint of each point; points that have none yet have one of their own.
    """
    few = surface.near[rows, : CONTACTS + 1]
    i, j = np.repeat(rows, few.shape[1]), few.reshape(-1)
    other = part[i] != part[j]
    i, j = i[other], j[other]
    return Contacts(
        i,
        j,
        1 - angle_cosine(surface.normal, i, j),
        np.zeros(len(i)) if color is None else color_step(color, i, j),
        off_plane(xyz, surface.normal, i, j),
    )


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
    first, second = of[found.i].astype(np.int64), of[found.j].astype(np.int64)
    key, inverse, contact = np.unique(
        np.minimum(first, second) * count + np.maximum(first, second), return_inverse=True, return_counts=True
    )
    inverse = inverse.reshape(-1)
    a, b = key // max(1, count), key % max(1, count)

    def mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.bincount(inverse, values, minlength=len(key)) / contact

    cost = mean(found.angle) / ANGLE + mean(found.color) / COLOR_STEP + mean(found.plane) / OFF_PLANE
    cost += (1 - np.minimum(np.abs(rowwise(main_normal[a], main_normal[b])), 1)) / MAIN_ANGLE
    if color is not None:
        cost += color_step(color, a, b) / COLOR
    # Not below 1e-9, so that nothing that touches is out of reach.
    weight = np.sqrt(contact) * np.exp(-cost) + 1e-9
    return Graph(np.column_stack([a, b]).astype(np.int32), contact.astype(np.int32), weight)
