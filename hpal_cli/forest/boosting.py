"""Gradient boosting (Friedman, Annals of Statistics 2001) of extremely randomised trees, on the classes' log-odds."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpal_cli.trees import SINGLE_LEAF, Trees, packed

ROUNDS, LEARNING_RATE = 60, 0.06
"""Number of rounds, and learning rate."""
MAX_LEAVES, MIN_SAMPLES_LEAF = 15, 5
"""Leaves of a tree at most, and rows in a leaf at least."""
COLUMNS, ROWS = 0.1, 0.5
"""Share of the columns that a split chooses from, and share of the rows that a round draws."""
L2_REGULARIZATION = 0.5
"""Added to the second derivative of a leaf, which would be near 0 for rows whose class is nearly certain."""


def boost(
    rows: NDArray[np.float32],
    label: NDArray[np.integer],
    weight: NDArray[np.float64],
    classes: int,
    *,
    rounds: int = ROUNDS,
    seed: int = 0,
    threads: int = 1,
) -> Trees:
    """Trains boosted trees. `probabilities` applies them: the softmax of the sum of the trees' leaves.

    The first tree is a single leaf with the logarithm of each class's share of the weight, which is -inf for a class
    without rows. Each round then adds one tree for each class by Newton's method. The loss is
    -sum_i w_i log p_i,label, where p is the softmax of the sum so far. Its negative derivative for a row is
    g = 1[label] - p, and its second derivative is h = p (1 - p). The tree is a regression of g / h with the weight w h
    on a share `ROWS` of the rows, and the value of a leaf is
    `LEARNING_RATE` * (sum of w g) / (sum of w h + `L2_REGULARIZATION`).

    Args:
        rows: (S, F); label: (S,) class of each row; weight: (S,) positive weights.
        classes: C, the number of classes; those without rows get the probability 0.
        threads: number of threads, on which the result does not depend.
    """
    known, label = np.unique(label, return_inverse=True)
    weight = weight / weight.mean()
    one_hot = np.eye(len(known))[label]
    share = weight @ one_hot / weight.sum()
    first = np.full((1, classes), -np.inf)
    first[0, known] = np.log(share)
    found: list[tuple[Any, NDArray[np.float64]]] = [(SINGLE_LEAF, first)]
    total = np.tile(np.log(share), (len(rows), 1))
    rng = np.random.default_rng(seed)
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(rounds if len(known) > 1 else 0):
            prob = _softmax(total)
            step = one_hot - prob
            curve = np.maximum(prob * (1 - prob), 1e-6)
            some = np.flatnonzero(rng.random(len(rows)) < ROWS)
            if not len(some):
                continue
            fitted = pool.map(
                partial(_tree, rows, np.ascontiguousarray(rows[some]), some, weight),
                step.T,
                curve.T,
                rng.integers(2**31, size=len(known)).tolist(),
            )
            for column, (tree, value, end) in enumerate(fitted):
                leaf = np.zeros((len(value), classes))
                leaf[:, known[column]] = value
                found.append((tree, leaf))
                total[:, column] += value[end]
    return packed(found)


def _tree(
    rows: NDArray[np.float32],
    features: NDArray[np.float32],
    sample: NDArray[np.int64],
    weight: NDArray[np.float64],
    step: NDArray[np.float64],
    curve: NDArray[np.float64],
    seed: int,
) -> tuple[Any, NDArray[np.float64], NDArray[np.int64]]:
    """Trains a regression tree on the rows `sample` (K,), whose columns are `features` (K, F). Returns the tree, the
    value of each leaf (L,), and the leaf of each of the rows (S,)."""
    from sklearn.tree import ExtraTreeRegressor

    tree = (
        ExtraTreeRegressor(
            max_leaf_nodes=MAX_LEAVES,
            max_features=COLUMNS,
            min_samples_leaf=min(MIN_SAMPLES_LEAF, len(sample)),
            random_state=seed,
        )
        .fit(features, (step / curve)[sample], sample_weight=(weight * curve)[sample], check_input=False)
        .tree_
    )
    end = tree.apply(rows)
    up = np.bincount(end[sample], (weight * step)[sample], minlength=tree.node_count)
    down = np.bincount(end[sample], (weight * curve)[sample], minlength=tree.node_count)
    value = LEARNING_RATE * up / (down + L2_REGULARIZATION)
    leaf = np.flatnonzero(tree.children_left < 0)
    # Rounded to float16, in which it is stored, so that later rounds correct the rounding errors of earlier ones.
    return tree, value[leaf].astype(np.float16).astype(np.float64), np.searchsorted(leaf, end)


def probabilities(boosted: Trees, rows: NDArray[np.float32]) -> NDArray[np.float64]:
    """(S, F) rows -> (S, C) class probabilities: the softmax of the sum of the trees' leaves."""
    return _softmax(boosted.total(rows))


def _softmax(total: NDArray[np.float64]) -> NDArray[np.float64]:
    up = np.exp(total - total.max(axis=1, keepdims=True))
    return up / up.sum(axis=1, keepdims=True)


def check(boosted: Trees, columns: int, classes: int, subject: object) -> None:
    """Checks boosted trees that were read from a file.

    Raises:
        HpalError: as `Trees.check`; the values of the leaves must be finite numbers, except in the first tree.
    """
    boosted.check(columns, classes, subject, leaf=_finite)


def _finite(leaf: NDArray[np.float16]) -> bool:
    """Whether the values of the leaves are valid: only the first leaf may have -inf, and not for every class, so that
    each sum has a finite entry and none is NaN."""
    return bool(np.isfinite(leaf[1:]).all() and np.isfinite(leaf[0]).any() and (leaf[0] < np.inf).all())
