"""HMMU, hierarchical minimum margin uncertainty (paper section 3.2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hpal_cli.errors import UsageError
from hpal_cli.score.pointwise import Scores, margin
from hpal_cli.voxels import group_voxels, voxel_coordinates

LEVELS = (0.1, 0.5, 1.0)
"""Voxel edges in metres (paper section 4.2)."""


@dataclass(frozen=True)
class Hierarchy:
    """Voxel edges v_i in metres and their weights w_i, one each."""

    levels: tuple[float, ...] = LEVELS
    weights: tuple[float, ...] = (0.1, 0.01, 0.001)

    def __post_init__(self) -> None:
        if len(self.levels) != len(self.weights):
            raise UsageError(
                "--weights",
                f"{len(self.weights)} weights for {len(self.levels)} levels",
                "give one weight a level",
            )
        if any(not 0 <= w < float("inf") for w in self.weights):
            raise UsageError("--weights", "a weight is below zero or infinite", "give weights like 0.1,0.01,0.001")


def default_weights(levels: Sequence[float]) -> tuple[float, ...]:
    """0.1, 0.01, 0.001, ...: a tenth of the weight for each coarser level."""
    return tuple(float(f"1e-{n + 1}") for n in range(len(levels)))


def level_margin(prob: NDArray[np.floating], xyz: NDArray[np.floating], edge: float) -> Scores:
    """(N,) U^i: the margin of the mean distribution of each point's voxel of this edge (Eq. 2, 3).

    prob: (N, C); xyz: (N, 3) in the unit of `edge`. All points count in the means. Sums are float64.
    """
    inverse, count = group_voxels(voxel_coordinates(xyz, edge))
    sums = [np.bincount(inverse, weights=column, minlength=len(count)) for column in prob.T.astype(np.float64)]
    return margin(np.stack(sums, axis=1) / count[:, None])[inverse]


def uncertainty(
    prob: NDArray[np.floating], xyz: NDArray[np.floating], hierarchy: Hierarchy, unit: float = 1.0
) -> Scores:
    """(N,) v = U_x + sum_i w_i U^i (Eq. 4); the smallest are labelled first.

    unit: metres in one unit of xyz.
    """
    total = margin(prob)
    for edge, weight in zip(hierarchy.levels, hierarchy.weights, strict=True):
        total += weight * level_margin(prob, xyz, edge / unit)
    return total


def hmmu(
    prob: NDArray[np.floating],
    xyz: NDArray[np.floating],
    hierarchy: Hierarchy | None = None,
    unit: float = 1.0,
) -> Scores:
    """(N,) `1 - v / (1 + sum w)`, in [0, 1], larger = label first."""
    hierarchy = hierarchy or Hierarchy()
    # Rounding may leave [0, 1] by a bit.
    return np.clip(1 - uncertainty(prob, xyz, hierarchy, unit) / (1 + sum(hierarchy.weights)), 0, 1)
