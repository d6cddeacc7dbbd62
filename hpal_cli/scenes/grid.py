"""Grid subsampling: the points of a cubic cell become one (docs/method.md)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hpal_cli.classes import IGNORE
from hpal_cli.voxels import group_voxels, voxel_coordinates


@dataclass
class GridPoints:
    """M points on a grid and, for each of the N points they stand for, its row among them (N,) int64."""

    xyz: NDArray[np.float64]
    rgb: NDArray[np.uint8] | None
    label: NDArray[np.int32] | None
    attributes: dict[str, NDArray[np.generic]]
    inverse: NDArray[np.int64]


def subsample(
    xyz: NDArray[np.float64],
    rgb: NDArray[np.uint8] | None,
    label: NDArray[np.int32] | None,
    attributes: dict[str, NDArray[np.generic]],
    grid: float,
) -> GridPoints:
    """Barycentre of xyz, mean of the rest, majority label of every cell of edge `grid` (xyz's unit).

    Cells are `floor(xyz / grid)`; the result is in cell order (x, then y, then z), whatever the input's order.
    Unlabelled points do not vote; of equally many labels the smallest wins.
    """
    inverse, count = group_voxels(voxel_coordinates(xyz, grid))
    cells = len(count)

    def mean(values: NDArray[np.generic]) -> NDArray[np.float64]:
        columns = values.reshape(len(values), -1).astype(np.float64)
        sums = [np.bincount(inverse, weights=column, minlength=cells) for column in columns.T]
        return np.stack(sums, axis=1) / count[:, None]

    return GridPoints(
        xyz=mean(xyz),
        rgb=None if rgb is None else np.rint(mean(rgb)).astype(np.uint8),
        label=None if label is None else _majority(label, inverse, cells),
        attributes={name: mean(values)[:, 0].astype(np.float32) for name, values in attributes.items()},
        inverse=inverse,
    )


def _majority(label: NDArray[np.int32], inverse: NDArray[np.int64], cells: int) -> NDArray[np.int32]:
    voting = label >= 0
    result = np.full(cells, IGNORE, np.int32)
    if not voting.any():
        return result
    classes = int(label.max()) + 1
    votes, count = np.unique(inverse[voting] * classes + label[voting], return_counts=True)
    cell, voted = votes // classes, votes % classes
    # Last written wins: most votes last, and among equals the smallest label.
    order = np.lexsort((-voted, count))
    result[cell[order]] = voted[order]
    return result
