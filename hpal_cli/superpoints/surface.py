"""Estimates the surface around each point: nearest neighbours, normal and surface variation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from scipy.spatial import cKDTree

NEIGHBOURS = 24
"""Number of nearest points, the point itself among them, from which its normal is computed."""


@dataclass(frozen=True, eq=False)
class Surface:
    """The surface around each of N points. near: (N, K) rows of the nearest points in the order of their distances, the
    point itself among them; distance: (N, K); normal: (N, 3) unit vectors of arbitrary sign; surface_variation: (N,)
    l_min / (l_1 + l_2 + l_3) with the eigenvalues l of the covariance, 0 on a plane."""

    near: NDArray[np.int64]
    distance: NDArray[np.float64]
    normal: NDArray[np.float64]
    surface_variation: NDArray[np.float64]


def surface(xyz: NDArray[np.float64], *, threads: int = 1) -> Surface:
    """Estimates the surface around the points (N, 3) from the covariance of the `NEIGHBOURS` nearest points of each.

    threads: number of threads that search for neighbours, on which the result does not depend.
    """
    distance, near = nearest(xyz, xyz, NEIGHBOURS, threads)
    values, vectors = principal_axes(xyz, near)
    total = values.sum(axis=1)
    surface_variation = np.divide(values[:, 0], total, out=np.zeros(len(xyz)), where=total > 0)
    return Surface(near, distance, vectors[:, :, 0], surface_variation)


def nearest(
    points: NDArray[np.float64], queries: NDArray[np.float64], count: int, threads: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """(M, K) the distances and the rows of those `count` points (N, 3) that are nearest to each of `queries` (M, 3), or
    of all points if there are fewer."""
    from scipy.spatial import cKDTree

    count = min(count, len(points))
    distance, near = cKDTree(points).query(queries, count, workers=threads)
    return distance.reshape(-1, count), near.reshape(-1, count)


def pairs_within(
    tree: cKDTree, centres: NDArray[np.float64], radius: float
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The pairs of a row of `centres` (S, 2 or 3) and a row of the tree's points that are within `radius` of each
    other, as two arrays (E,) in no particular order."""
    from scipy.spatial import cKDTree

    # As an array, since making lists would take longer than the search.
    pairs = cKDTree(centres).sparse_distance_matrix(tree, radius, output_type="ndarray")
    return pairs["i"].astype(np.int64), pairs["j"].astype(np.int64)


def sum_by(group: NDArray[np.integer], values: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """(count, F) the sums of those rows of `values` (N, F) that have the same number in `group` (N,)."""
    return np.stack([np.bincount(group, column, minlength=count) for column in values.T], axis=1)


def rowwise(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """(E,) the scalar products of the rows of a and b, (E, K) each."""
    products: NDArray[np.float64] = np.einsum("ij,ij->i", a, b)
    return products


def covariance(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """(B, 3, 3) the covariance matrices of B sets of K points (B, K, 3)."""
    # Relative to the first point, so that coincident points give exact zeros and no rounding errors.
    away = points - points[:, :1]
    away -= away.mean(axis=1, keepdims=True)
    return away.transpose(0, 2, 1) @ away / points.shape[1]


def principal_axes(
    xyz: NDArray[np.float64], near: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The eigenvalues (B, 3), ascending and at least 0, and the eigenvectors (B, 3, 3), in columns, of the covariance
    matrices of B sets of K of the points xyz (N, 3), whose rows are `near` (B, K)."""
    matrices = np.empty((len(near), 3, 3))
    for rows in blocks(len(near)):
        matrices[rows] = covariance(xyz[near[rows]])
    values, vectors = np.linalg.eigh(matrices)
    return np.maximum(values, 0), vectors


_BLOCK = 1 << 11


def blocks(count: int) -> Iterator[slice]:
    """Slices of `count` rows, each so short that what is computed from it stays in the processor's cache."""
    for start in range(0, count, _BLOCK):
        yield slice(start, start + _BLOCK)
