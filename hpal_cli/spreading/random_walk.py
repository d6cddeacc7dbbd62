"""Random walks on the graph of superpoints: the probability that a walker from each superpoint first meets an answer of
each class (Grady, PAMI 2006)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hpal_cli.superpoints.graph import Graph

if TYPE_CHECKING:
    from scipy.sparse import csr_array

LEAK_RATE = 1e-3
"""Rate at which a walk ends without an answer, in the unit of the graph's weights. So superpoints far from any answer
stay unsure."""

PRIOR_POINTS = 60.0
"""Number of points of a superpoint whose prior has the same weight as an edge of weight 1."""

TOLERANCE = 1e-8
"""Ratio of the norms of the residual and of the right-hand side at which the solution is accurate enough."""


def random_walk(
    graph: Graph,
    size: NDArray[np.int64],
    answered: NDArray[np.int64],
    answer: NDArray[np.float64],
    prior: NDArray[np.float64] | None = None,
    strength: float = 1.0,
) -> NDArray[np.float64]:
    """(S, C) class probabilities of each superpoint. A row sums to less than 1, by the share of walks that end without
    an answer.

    The superpoints `answered` (K,) have the probabilities `answer` (K, C). Those of the others solve

        (L + leak + V) p = V q,   V = strength * size / 60
    where L = D - W is the Laplacian of the graph, q is the prior (S, C) of a model, and V is 0 without a prior. The
    weight of the prior grows with the size (S,) of a superpoint, since a large one, such as a ceiling, has many edges
    along its border.
    """
    from scipy.sparse import coo_array

    count, classes = len(size), answer.shape[1]
    found = np.zeros((count, classes))
    found[answered] = answer
    free = np.ones(count, bool)
    free[answered] = False
    a, b = graph.pair.T
    weights = coo_array(
        (np.tile(graph.weight, 2), (np.concatenate([a, b]), np.concatenate([b, a]))), shape=(count, count)
    ).tocsr()
    pull = np.zeros(count) if prior is None else strength * size / PRIOR_POINTS
    right = (weights @ found)[free]
    if prior is not None:
        right += pull[free, None] * prior[free]
    diagonal = np.asarray(weights.sum(axis=1)).reshape(-1) + LEAK_RATE + pull
    inner = weights[free][:, free]
    found[free] = np.clip(_conjugate_gradient(diagonal[free], inner, right), 0, 1)
    return found


def reachable(graph: Graph, count: int, answered: NDArray[np.int64]) -> NDArray[np.bool_]:
    """(count,) whether each superpoint is connected, directly or through others, with one of `answered` (K,)."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    a, b = graph.pair.T
    part = connected_components(coo_array((np.ones(len(a)), (a, b)), shape=(count, count)), directed=False)[1]
    return np.isin(part, part[answered])


def _conjugate_gradient(
    diagonal: NDArray[np.float64], weights: csr_array, right: NDArray[np.float64]
) -> NDArray[np.float64]:
    """(M, C) the solution x of (diag - W) x = right, for all columns at once, by conjugate gradients with the diagonal
    as preconditioner. The matrix is symmetric and diagonally dominant, so it is positive definite. diagonal: (M,);
    weights: (M, M); right: (M, C)."""
    from scipy.sparse import diags_array

    scale = diags_array(1 / np.sqrt(diagonal))
    matrix = scale @ weights @ scale
    half = np.sqrt(diagonal)[:, None]
    target = right / half
    x, residual = np.zeros_like(target), target.copy()
    direction = residual.copy()
    square = (residual**2).sum(axis=0)
    goal = TOLERANCE**2 * square
    while (open_ := square > goal).any():
        moved = direction - matrix @ direction
        along = (direction * moved).sum(axis=0)
        step = np.divide(square, along, out=np.zeros_like(square), where=open_ & (along > 0))
        x += step * direction
        residual -= step * moved
        before, square = square, (residual**2).sum(axis=0)
        direction = residual + np.divide(square, before, out=np.zeros_like(square), where=before > 0) * direction
    return x / half
