"""Voxels: finds the cell that each point lies in, and the points that share a cell, in C where it can be compiled."""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hpal_cli import compiled
from hpal_cli.errors import HpalError

MIN_POINTS_COMPILED = 4096
"""Up to so many points the C library is not used: to sort them takes less than a millisecond."""

MAX_CELLS = 1 << 28
"""Most cells in a bounding box for which voxels.c is used; it needs a bit for each, 64 MB in all with the counts."""


def voxel_coordinates(xyz: NDArray[np.floating], edge: float) -> NDArray[np.int64]:
    """(N, 3) cells `floor(xyz / edge)`, in float64 whatever the input."""
    return np.floor(np.asarray(xyz, np.float64) / edge).astype(np.int64)


def float32_cells(xyz: NDArray[np.float32], edge: float) -> NDArray[np.int64]:
    """(N, 3) cells `floor(xyz / edge)`, in float32: the voxels of the network."""
    return np.floor(xyz / np.float32(edge)).astype(np.int64)


def bounds(xyz: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The lowest and the highest of each column of (N, 3) numbers, N > 0, (3,) each; NaN where not all are numbers."""
    native = _library_for(len(xyz))
    if not isinstance(native, str):
        xyz = np.ascontiguousarray(xyz, np.float32)
        low, high = np.empty((2, 3), np.float32)
        if native.hpal_bounds(xyz.ctypes.data, len(xyz), low.ctypes.data, high.ctypes.data):
            return low, high
    return xyz.min(axis=0), xyz.max(axis=0)


def group_voxels(voxel: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Groups points by voxel. voxel: (N, 3) of each point. Returns (N,) the number of each point's voxel, and (M,) the
    number of points in each voxel.

    Voxels are numbered in the order of their coordinates (x, then y, then z).
    """
    if not len(voxel):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    native = _library_for(len(voxel))
    if isinstance(native, str):
        low, high = voxel.min(axis=0), voxel.max(axis=0)
    else:
        voxel = np.ascontiguousarray(voxel, np.int64)
        low, high = np.empty((2, 3), np.int64)
        native.hpal_extent(voxel.ctypes.data, len(voxel), low.ctypes.data, high.ctypes.data)
    # In float64: with coordinates that no scan has, int64 would wrap round.
    cells = float(np.prod(high.astype(np.float64) - low.astype(np.float64) + 1))
    if cells >= 2.0**62:
        _, inverse, count = np.unique(voxel, axis=0, return_inverse=True, return_counts=True)
        return inverse.reshape(-1), count
    extent = high - low + 1
    if not isinstance(native, str) and cells <= MAX_CELLS:
        box = _Box(low, extent)
        group = np.empty(len(voxel), np.int64)
        found = native.hpal_group(voxel.ctypes.data, len(voxel), *box.pointers, group.ctypes.data)
        return group, np.bincount(group, minlength=found)
    # To sort one integer per voxel is several times faster than to sort three.
    key = ((voxel[:, 0] - low[0]) * extent[1] + (voxel[:, 1] - low[1])) * extent[2] + (voxel[:, 2] - low[2])
    _, inverse, count = np.unique(key, return_inverse=True, return_counts=True)
    return inverse.reshape(-1), count


def group_positions(xyz: NDArray[np.float32], edge: float) -> tuple[NDArray[np.int64], int]:
    """Points by voxel of `float32_cells`: the row of each point's voxel (N,), and the number of voxels.

    Raises:
        HpalError: a cell that 32 bits do not hold.
    """
    native = _library_for(len(xyz))
    if not isinstance(native, str):
        xyz = np.ascontiguousarray(xyz, np.float32)
        # Rounding is monotonic, so the outermost points lie in the outermost cells.
        reach = np.floor(np.stack(bounds(xyz)) / np.float32(edge)).astype(np.float64)
        if (np.abs(reach) < 2.0**31).all() and float(np.prod(reach[1] - reach[0] + 1)) <= MAX_CELLS:
            low, high = reach.astype(np.int64)
            box = _Box(low, high - low + 1)
            group = np.empty(len(xyz), np.int64)
            found = native.hpal_group_positions(xyz.ctypes.data, len(xyz), edge, *box.pointers, group.ctypes.data)
            return group, found
    cell = float32_cells(xyz, edge)
    reach = max(-int(cell.min(initial=0)), int(cell.max(initial=0)))
    if reach >= 1 << 31:
        problem = f"reaches voxel {reach}, more than 32 bits hold"
        raise HpalError("batch", problem, "use larger voxels, or cut the scene")
    group, count = group_voxels(cell)
    return group, len(count)


def first_of_each(group: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """(count,) the first row of each of `count` groups, of which each has some."""
    first = np.empty(count, np.int64)
    # Of several that are written to one place the last stays.
    first[group[::-1]] = np.arange(len(group) - 1, -1, -1)
    return first


def write_first_of_each(
    group: NDArray[np.int64],
    xyz: NDArray[np.float32],
    columns: NDArray[np.float32] | None,
    edge: float,
    scene: int,
    features: NDArray[np.float32],
    voxel: NDArray[np.int32],
) -> None:
    """Fills the network's input for one scene of a batch from the first point of each of M voxels.

    group: (N,) the voxel of each point, from `group_positions`; xyz: (N, 3); columns: (N, F) or None; edge: of the
    voxels, in the unit of xyz; scene: its number in the batch. Writes the point's columns and position into features
    (M, F + 3), and the number of the scene and the point's cell into voxel (M, 4).

    Raises:
        ValueError: the arrays do not have the same numbers of rows or columns.
    """
    native = _library_for(len(xyz))
    if isinstance(native, str):
        first = first_of_each(group, len(voxel))
        features[:, -3:] = xyz[first]
        if columns is not None:
            features[:, :-3] = columns[first]
        voxel[:, 0], voxel[:, 1:] = scene, float32_cells(xyz[first], edge)
        return
    xyz = np.ascontiguousarray(xyz, np.float32)
    first = np.empty(len(voxel), np.int64)
    columns = np.empty((len(xyz), 0), np.float32) if columns is None else np.ascontiguousarray(columns, np.float32)
    if not len(group) == len(xyz) == len(columns) or features.shape != (len(voxel), columns.shape[1] + 3):
        raise ValueError("points and voxels do not have the same number of rows")
    native.hpal_first_of_each(
        xyz.ctypes.data, columns.ctypes.data, columns.shape[1], len(xyz), edge, scene,
        group.ctypes.data, len(voxel), first.ctypes.data, features.ctypes.data, voxel.ctypes.data,
    )  # fmt: skip


class _Box:
    """The bounding box of some cells and the scratch arrays of voxels.c. low, extent: (3,) the first cell and the
    number of cells along each axis."""

    def __init__(self, low: NDArray[np.int64], extent: NDArray[np.int64]) -> None:
        words = -(-int(extent.prod()) // 64)
        self._arrays = low, extent, np.zeros(words, np.uint64), np.empty(words, np.int64)
        self.pointers = (*(array.ctypes.data for array in self._arrays), words)


def _library_for(points: int) -> ctypes.CDLL | str:
    return _library() if points > MIN_POINTS_COMPILED else "few points"


def missing() -> str | None:
    """Why the compiled library cannot be used here, None if it can."""
    return compiled.reason(_library())


@compiled.library_or_reason
def _library() -> ctypes.CDLL:
    pointer, long = ctypes.c_void_p, ctypes.c_int64
    library = compiled.load(Path(__file__).with_name("voxels.c"))
    library.hpal_extent.argtypes, library.hpal_extent.restype = [pointer, long, pointer, pointer], None
    library.hpal_bounds.argtypes, library.hpal_bounds.restype = [pointer, long, pointer, pointer], ctypes.c_int
    library.hpal_group.argtypes = [pointer, long, *[pointer] * 4, long, pointer]
    library.hpal_group.restype = long
    library.hpal_group_positions.argtypes = [pointer, long, ctypes.c_float, *[pointer] * 4, long, pointer]
    library.hpal_group_positions.restype = long
    library.hpal_first_of_each.argtypes = [
        pointer,
        pointer,
        long,
        long,
        ctypes.c_float,
        long,
        pointer,
        long,
        *[pointer] * 3,
    ]
    library.hpal_first_of_each.restype = None
    return library
