"""Grid subsampling: all points in one cubic cell are replaced by one point (docs/method.md)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hpal_cli.classes import IGNORE
from hpal_cli.voxels import group_voxels, voxel_coordinates


@dataclass
class GridPoints:
    """M grid points. xyz: (M, 3); rgb: (M, 3) or None; label: (M,) or None; attributes: each (M,); inverse: (N,) for
    each of the N points that were subsampled, the row of its grid point."""

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
    """Replaces the N points in each cell by one, with the mean position, the mean of the colours and attributes, and
    the most frequent label.

    xyz: (N, 3); rgb: (N, 3) or None; label: (N,) or None; attributes: each (N,); grid: edge of a cell, in the unit of
    xyz. Cells are `floor(xyz / grid)`; the result is in the order of the cells (x, then y, then z), whatever the order
    of the input. Points without a label are not counted; of equally frequent labels the smallest is taken.
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
    # Of several values written to a cell the last one stays: the most frequent label comes last, and of equally
    # frequent ones the smallest.
    order = np.lexsort((-voted, count))
    result[cell[order]] = voted[order]
    return result
