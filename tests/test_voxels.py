"""Points by voxel: what is compiled and NumPy give the same numbers."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from hpal_cli import voxels
from hpal_cli.errors import HpalError
from hpal_cli.voxels import (
    MAX_CELLS,
    MIN_POINTS_COMPILED,
    bounds,
    float32_cells,
    group_positions,
    group_voxels,
    write_first_of_each,
)

CLOUDS = {
    "a room": np.random.default_rng(0).integers([-90, -70, 0], [90, 70, 60], (2 * MIN_POINTS_COMPILED, 3)),
    "one cell": np.full((MIN_POINTS_COMPILED + 1, 3), -7),
    "a row far from 0": np.column_stack(
        [np.arange(MIN_POINTS_COMPILED + 63)[::-1], *np.full((2, MIN_POINTS_COMPILED + 63), 1 << 40)]
    ),
    "too wide for bits": np.random.default_rng(1).integers(0, MAX_CELLS, (MIN_POINTS_COMPILED + 5, 3)),
    "turned": np.random.default_rng(2).integers(0, 30, (3, 2 * MIN_POINTS_COMPILED)).T,
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


POSITIONS = {
    "a room": np.random.default_rng(0).normal(0, [3, 2, 1], (2 * MIN_POINTS_COMPILED + 5, 3)),
    "one place": np.full((MIN_POINTS_COMPILED + 1, 3), -0.7),
    "on the edges of cells": np.random.default_rng(1).integers(-40, 40, (2 * MIN_POINTS_COMPILED, 3)) * 0.05,
    "far from 0": np.random.default_rng(2).normal(7e4, 1, (MIN_POINTS_COMPILED + 3, 3)),
    "too far for bits": np.random.default_rng(3).normal(0, 1e7, (MIN_POINTS_COMPILED + 1, 3)),
    "turned": np.random.default_rng(4).normal(0, 1, (3, 2 * MIN_POINTS_COMPILED)).T,
}


@pytest.mark.parametrize("xyz", POSITIONS.values(), ids=POSITIONS.keys())
@pytest.mark.parametrize("columns", [0, 4])
def test_first_points_are_compiled_or_not(
    xyz: NDArray[np.float64], columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if isinstance(voxels._library(), str):
        pytest.skip(voxels._library())
    xyz32 = xyz.astype(np.float32)
    more = np.random.default_rng(5).random((len(xyz), columns)).astype(np.float32) if columns else None

    def found() -> list[NDArray[np.generic]]:
        group, count = group_positions(xyz32, 0.05)
        features, voxel = np.zeros((count, columns + 3), np.float32), np.zeros((count, 4), np.int32)
        write_first_of_each(group, xyz32, more, 0.05, 3, features, voxel)
        return [*bounds(xyz32), group, features, voxel]

    compiled = found()
    monkeypatch.setattr(voxels, "_library", lambda: "left out")
    for ours, theirs in zip(compiled, found(), strict=True):
        assert ours.dtype == theirs.dtype
        assert ours.tobytes() == theirs.tobytes()
    group, features, voxel = compiled[2:]
    _, first = np.unique(group, return_index=True)
    np.testing.assert_array_equal(features[:, columns:], xyz32[first])
    np.testing.assert_array_equal(voxel[:, 1:], float32_cells(xyz32, 0.05)[first])
    np.testing.assert_array_equal(voxel[group, 1:], float32_cells(xyz32, 0.05))
    assert (voxel[:, 0] == 3).all()
    if more is not None:
        np.testing.assert_array_equal(features[:, :columns], more[first])


def test_bounds_of_what_is_not_a_number_are_none() -> None:
    xyz = np.random.default_rng(6).random((2 * MIN_POINTS_COMPILED, 3)).astype(np.float32)
    xyz[MIN_POINTS_COMPILED + 7, 1] = np.nan
    for end, wanted in zip(bounds(xyz), (xyz.min(axis=0), xyz.max(axis=0)), strict=True):
        np.testing.assert_array_equal(end, wanted)
        assert np.isnan(end).tolist() == [False, True, False]


@pytest.mark.parametrize("points", [5, 2 * MIN_POINTS_COMPILED])
def test_cells_that_are_too_far_apart_for_64_bits(points: int) -> None:
    cell = np.random.default_rng(8).integers(0, 2, (points, 3))
    cell[3] = [-(2**63), 2**62, 0]
    cell[4] = [2**62, -(2**63), 1]
    group, count = group_voxels(cell)
    _, expected, number = np.unique(cell, axis=0, return_inverse=True, return_counts=True)
    np.testing.assert_array_equal(group, expected.reshape(-1))
    np.testing.assert_array_equal(count, number)


@pytest.mark.parametrize("points", [5, 2 * MIN_POINTS_COMPILED])
def test_a_cell_that_32_bits_do_not_hold_is_refused(points: int) -> None:
    xyz = np.zeros((points, 3), np.float32)
    xyz[3, 1] = -2e8
    with pytest.raises(HpalError, match="voxel 4000000000, more than 32 bits"):
        group_positions(xyz, 0.05)
