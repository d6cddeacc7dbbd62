"""Estimates the surface around each point: nearest neighbours, normal and curvature."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

NEIGHBOURS = 24
"""Nearest points, the point itself among them, that give a normal."""


@dataclass(frozen=True, eq=False)
class Surface:
    """near: (N, K) rows of the nearest points, ascending in distance, the point itself among them; distance: (N, K);
    normal: (N, 3) of length 1, its sign arbitrary; curvature: (N,) l_min / (l_1 + l_2 + l_3), 0 on a plane."""

    near: NDArray[np.int64]
    distance: NDArray[np.float64]
    normal: NDArray[np.float64]
    curvature: NDArray[np.float64]


def surface(xyz: NDArray[np.float64], *, threads: int = 1) -> Surface:
    """Of N points, by the covariance of the `NEIGHBOURS` nearest (or of all, where there are fewer).

    threads: that look for neighbours, which changes no bit.
    """
    distance, near = nearest(xyz, xyz, NEIGHBOURS, threads)
    values, vectors = principal_axes(xyz[near])
    total = values.sum(axis=1)
    curvature = np.divide(values[:, 0], total, out=np.zeros(len(xyz)), where=total > 0)
    return Surface(near, distance, vectors[:, :, 0], curvature)


def nearest(
    points: NDArray[np.float64], of: NDArray[np.float64], count: int, threads: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """(M, K) distances and rows of the `count` points nearest to each of `of` (M, 3), or of all if there are fewer."""
    count = min(count, len(points))
    distance, near = cKDTree(points).query(of, count, workers=threads)
    return distance.reshape(-1, count), near.reshape(-1, count)


def rowwise(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """(E,) the products of the rows of a and b, (E, K) each."""
    products: NDArray[np.float64] = np.einsum("ij,ij->i", a, b)
    return products


def covariance(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """(B, 3, 3) of B sets of K points (B, K, 3)."""
    # Counted from the first one, coincident points give exact zeros, not rounding that looks like a shape.
    away = points - points[:, :1]
    away -= away.mean(axis=1, keepdims=True)
    return away.transpose(0, 2, 1) @ away / points.shape[1]


def principal_axes(points: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(B, 3) eigenvalues, ascending and never below 0, and (B, 3, 3) eigenvectors in columns of the covariances of B
    sets of points (B, K, 3)."""
    values, vectors = np.linalg.eigh(covariance(points))
    return np.maximum(values, 0), vectors
