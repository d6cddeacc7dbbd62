"""Points by voxel: the compiled bits and NumPy's sort give the same numbers."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from hpal_cli import voxels
from hpal_cli.voxels import FEW, MOST_CELLS, group_voxels

CLOUDS = {
    "a room": np.random.default_rng(0).integers([-90, -70, 0], [90, 70, 60], (2 * FEW, 3)),
    "one cell": np.full((FEW + 1, 3), -7),
    "a row far from 0": np.column_stack([np.arange(FEW + 63)[::-1], *np.full((2, FEW + 63), 1 << 40)]),
    "too wide for bits": np.random.default_rng(1).integers(0, MOST_CELLS, (FEW + 5, 3)),
    "turned": np.random.default_rng(2).integers(0, 30, (3, 2 * FEW)).T,
}


@pytest.mark.parametrize("cell", CLOUDS.values(), ids=CLOUDS.keys())
def test_compiled_or_not(cell: NDArray[np.int64], monkeypatch: pytest.MonkeyPatch) -> None:
    if isinstance(voxels._library(), str):
        pytest.skip(voxels._library())
    found = group_voxels(cell)
    monkeypatch.setattr(voxels, "_library", lambda: "left out")
    for ours, theirs in zip(found, group_voxels(cell), strict=True):
        assert ours.dtype == theirs.dtype == np.int64
        np.testing.assert_array_equal(ours, theirs)
    _, group, count = np.unique(cell, axis=0, return_inverse=True, return_counts=True)
    np.testing.assert_array_equal(found[0], group.reshape(-1))
    np.testing.assert_array_equal(found[1], count)
