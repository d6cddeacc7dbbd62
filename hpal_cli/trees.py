"""Extremely randomised trees (Geurts et al., Machine Learning 2006). scikit-learn grows them; they are stored and
applied as plain arrays, in C where it can be compiled."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpal_cli import compiled
from hpal_cli.errors import HpalError
from hpal_cli.predictions.probabilities import bad_rows


def _probable(leaf: NDArray[np.float16]) -> bool:
    return not bad_rows(leaf)[0]


@dataclass(frozen=True, eq=False)
class Trees:
    """T trees over F columns and C classes, with M nodes and L leaves in all.

    root: (T,) first node of each tree; column: (M,) int16 column that a node compares, -1 in a leaf; threshold: (M,)
    float32; child: (M, 2) next node if the column is at most the threshold, and if it is larger; the first child of a
    leaf is its row of `leaf`; leaf: (L, C) float16 class probabilities, or the terms of a sum if the trees are boosted.
    """

    root: NDArray[np.int32]
    column: NDArray[np.int16]
    threshold: NDArray[np.float32]
    child: NDArray[np.int32]
    leaf: NDArray[np.float16]

    def __call__(self, rows: NDArray[np.float32]) -> NDArray[np.float64]:
        """(S, F) rows -> (S, C) the mean of the trees' probabilities."""
        return self.total(rows) / max(1, len(self.root))

    def total(self, rows: NDArray[np.float32]) -> NDArray[np.float64]:
        """(S, F) -> (S, C) the sum of the leaves in which each row ends, added in the order of the trees, so that the
        bits do not vary.

        Raises:
            ValueError: the trees split on columns that the rows do not have.
        """
        if self.column.max(initial=-1) >= rows.shape[1]:
            raise ValueError(f"rows of {rows.shape[1]} columns, and the trees split on {self.column.max() + 1}")
        total = np.zeros((len(rows), self.leaf.shape[1]))
        library = _library()
        if isinstance(library, str):
            for root in self.root:
                total += self.leaf[self._leaves(rows, root)]
            return total
        rows, leaf = np.ascontiguousarray(rows, np.float32), np.empty(len(rows), np.int32)
        nodes = [np.ascontiguousarray(part) for part in (self.column, self.threshold, self.child)]
        pointers = [part.ctypes.data for part in (*nodes, leaf)]
        for root in self.root.tolist():
            library.hpal_leaves(rows.ctypes.data, *rows.shape, root, *pointers)
            total += self.leaf[leaf]
        return total

    def _leaves(self, rows: NDArray[np.float32], root: np.int32) -> NDArray[np.int32]:
        """(S,) the row of `leaf` in which each row ends; slow, for machines without a compiler."""
        at = np.full(len(rows), root, np.int32)
        moving = np.arange(len(rows))
        while len(moving):
            node = at[moving]
            column = self.column[node]
            inner = column >= 0
            moving, node, column = moving[inner], node[inner], column[inner]
            right = rows[moving, column] > self.threshold[node]
            at[moving] = self.child[node, right.astype(np.int8)]
        return self.child[at, 0]

    def check(
        self, columns: int, classes: int, subject: object, *, leaf: Callable[[NDArray[np.float16]], bool] = _probable
    ) -> None:
        """Checks trees that were read from a file. leaf: whether the values of the leaves are valid.

        Raises:
            HpalError: the arrays do not fit each other or these numbers of columns and classes, a path through the
                trees would not end in a leaf, or the value of a leaf is not valid.
        """
        if not (self._shaped(classes) and self._ends(columns) and leaf(self.leaf)):
            raise HpalError(subject, "its trees do not fit together", "train it again")

    def _shaped(self, classes: int) -> bool:
        """Whether the types, dimensions and lengths of the arrays are those that the class describes."""
        nodes = len(self.column) if self.column.ndim == 1 else -1
        wanted = {
            "root": (np.int32, (self.root.size,)),
            "column": (np.int16, (nodes,)),
            "threshold": (np.float32, (nodes,)),
            "child": (np.int32, (nodes, 2)),
            "leaf": (np.float16, (len(self.leaf) if self.leaf.ndim else -1, classes)),
        }
        return all(
            getattr(self, name).dtype == kind and getattr(self, name).shape == shape
            for name, (kind, shape) in wanted.items()
        )

    def _ends(self, columns: int) -> bool:
        """Whether every path from a root ends in a row of `leaf`. It must end if the number of each child is larger
        than that of its parent."""
        nodes, inner = len(self.column), self.column >= 0
        ahead = self.child[inner] > np.flatnonzero(inner)[:, None]
        ends = self.child[~inner, 0]
        return bool(
            len(self.root)
            and ((self.root >= 0) & (self.root < nodes)).all()
            and (self.column < columns).all()
            and not np.isnan(self.threshold).any()
            and ahead.all()
            and (self.child[inner] < nodes).all()
            and ((ends >= 0) & (ends < len(self.leaf))).all()
        )


def fit(
    rows: NDArray[np.float32],
    label: NDArray[np.integer],
    weight: NDArray[np.float64],
    classes: int,
    *,
    trees: int,
    max_features: float,
    min_samples_leaf: int = 1,
    seed: int = 0,
    threads: int = 1,
) -> Trees:
    """Trains trees that predict `label` (S,) from `rows` (S, F).

    weight: (S,) of each row; classes: C; trees: T; max_features: share of the columns, 0 to 1, that each split chooses
    from; min_samples_leaf: rows in the smallest leaf; threads: number of threads, on which the result does not depend.
    """
    from sklearn.tree import ExtraTreeClassifier

    rows, known = np.ascontiguousarray(rows, np.float32), np.unique(label)

    def grown(tree_seed: int) -> tuple[Any, NDArray[np.float64]]:
        grower = ExtraTreeClassifier(
            max_features=max_features, min_samples_leaf=min_samples_leaf, random_state=tree_seed
        )
        tree = grower.fit(rows, label, sample_weight=weight, check_input=False).tree_
        value = tree.value[tree.children_left < 0, 0]
        leaf = np.zeros((len(value), classes))
        leaf[:, known] = value / np.maximum(value.sum(axis=1, keepdims=True), 1e-12)
        return tree, leaf

    # The trees are those of ExtraTreesClassifier. Its own loop takes longer than small trees take to grow, since
    # it copies a model for each of them, and waits for its threads in steps of 10 ms.
    seeds = np.random.RandomState(seed).randint(2**31 - 1, size=trees).tolist()
    with ThreadPoolExecutor(threads) as pool:
        return packed(list(pool.map(grown, seeds)))


SINGLE_LEAF = SimpleNamespace(
    children_left=np.array([-1]), children_right=np.array([-1]), feature=np.array([0]), threshold=np.zeros(1)
)
"""A tree of one leaf, in the form in which scikit-learn has its trees."""


def packed(trees: Sequence[tuple[Any, NDArray[np.float64]]]) -> Trees:
    """Packs trees of scikit-learn. trees: pairs of a `sklearn.tree._tree.Tree` or `SINGLE_LEAF` and the values (L, C)
    of its leaves in the order of their nodes."""
    roots, parts, leaves, nodes, done = [], [], [], 0, 0
    for tree, leaf in trees:
        is_leaf = tree.children_left < 0
        child = np.column_stack([tree.children_left, tree.children_right]) + nodes
        child[is_leaf, 0] = done + np.arange(len(leaf))
        child[is_leaf, 1] = 0
        # A float32 entry is at most a float64 threshold exactly if it is at most that threshold rounded down.
        threshold = tree.threshold.astype(np.float32)
        threshold = np.where(threshold > tree.threshold, np.nextafter(threshold, np.float32(-np.inf)), threshold)
        column = np.where(is_leaf, -1, tree.feature).astype(np.int16)
        parts.append((column, threshold, child.astype(np.int32)))
        leaves.append(leaf.astype(np.float16))
        roots.append(nodes)
        nodes, done = nodes + len(column), done + len(leaf)
    column, threshold, child = (np.concatenate(part) for part in zip(*parts, strict=True))
    return Trees(np.array(roots, np.int32), column, threshold, child, np.concatenate(leaves))


def missing() -> str | None:
    """Why the compiled library cannot be used here, None if it can."""
    return compiled.reason(_library())


@compiled.library_or_reason
def _library() -> ctypes.CDLL:
    library = compiled.load(Path(__file__).with_suffix(".c"))
    library.hpal_leaves.argtypes = [
        *(ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_int32),
        *(ctypes.c_void_p,) * 4,
    ]
    library.hpal_leaves.restype = None
    return library
