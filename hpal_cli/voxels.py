"""Voxels: finds the cell that each point lies in, and the points that share a cell, in C where it can be compiled."""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hpal_cli import compiled

FEW = 4096
"""Up to so many points the C library is not used: to sort them takes less than a millisecond."""

MOST_CELLS = 1 << 28
"""Most cells in a bounding box for which voxels.c is used; it needs a bit for each, 32 MB in all."""


def voxel_coordinates(xyz: NDArray[np.floating], edge: float) -> NDArray[np.int64]:
    """(N, 3) cells `floor(xyz / edge)`, in float64 whatever the input."""
    return np.floor(np.asarray(xyz, np.float64) / edge).astype(np.int64)


def group_voxels(voxel: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Groups points by voxel. voxel: (N, 3) of each point. Returns (N,) the number of each point's voxel, and (M,) the
    number of points in each voxel.

    Voxels are numbered in the order of their coordinates (x, then y, then z).
    """
    if not len(voxel):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    native = _library() if len(voxel) > FEW else "few points"
    if isinstance(native, str):
        low, high = voxel.min(axis=0), voxel.max(axis=0)
    else:
        voxel = np.ascontiguousarray(voxel, np.int64)
        low, high = np.empty((2, 3), np.int64)
        native.hpal_extent(voxel.ctypes.data, len(voxel), low.ctypes.data, high.ctypes.data)
    extent = high - low + 1
    cells = float(np.prod(extent.astype(np.float64)))
    if not isinstance(native, str) and cells <= MOST_CELLS:
        words = -(-int(extent.prod()) // 64)
        bits, before = np.zeros(words, np.uint64), np.empty(words, np.int64)
        group = np.empty(len(voxel), np.int64)
        found = native.hpal_group(
            voxel.ctypes.data, len(voxel), low.ctypes.data, extent.ctypes.data,
            bits.ctypes.data, before.ctypes.data, words, group.ctypes.data,
        )  # fmt: skip
        return group, np.bincount(group, minlength=found)
    # To sort one integer per voxel is several times faster than to sort three; no scan has 2^62 cells.
    if cells < 2.0**62:
        key = ((voxel[:, 0] - low[0]) * extent[1] + (voxel[:, 1] - low[1])) * extent[2] + (voxel[:, 2] - low[2])
        _, inverse, count = np.unique(key, return_inverse=True, return_counts=True)
    else:
        _, inverse, count = np.unique(voxel, axis=0, return_inverse=True, return_counts=True)
    return inverse.reshape(-1), count


def missing() -> str | None:
    """Why the compiled library cannot be used here, None if it can."""
    return compiled.reason(_library())


@compiled.library_or_reason
def _library() -> ctypes.CDLL:
    pointer, long = ctypes.c_void_p, ctypes.c_int64
    library = compiled.load(Path(__file__).with_name("voxels.c"))
    library.hpal_extent.argtypes, library.hpal_extent.restype = [pointer, long, pointer, pointer], None
    library.hpal_group.argtypes = [pointer, long, *[pointer] * 4, long, pointer]
    library.hpal_group.restype = long
    return library
