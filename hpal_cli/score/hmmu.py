"""HMMU, hierarchical minimum margin uncertainty (paper section 3.2)."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hpal_cli import compiled
from hpal_cli.errors import UsageError
from hpal_cli.parallel import cores
from hpal_cli.score.pointwise import Scores, margin
from hpal_cli.voxels import group_voxels, voxel_coordinates

LEVELS = (0.1, 0.5, 1.0)
"""Voxel edges in metres (paper section 4.2)."""


@dataclass(frozen=True)
class Hierarchy:
    """The edges v_i of the voxels in metres and their weights w_i, one for each level.

    nested: whether a level averages over the voxels of the finer level, as the released code does (hmmu_nested.py),
    and not over points, as the paper says.

    Raises:
        UsageError: a level is not positive, a weight is negative, their numbers differ, or nested levels do not grow.
    """

    levels: tuple[float, ...] = LEVELS
    weights: tuple[float, ...] = (0.1, 0.01, 0.001)
    nested: bool = False

    def __post_init__(self) -> None:
        if len(self.levels) != len(self.weights):
            raise UsageError(
                "--weights",
                f"{len(self.weights)} weights for {len(self.levels)} levels",
                "give one weight for each level",
            )
        if any(not 0 < edge < float("inf") for edge in self.levels):
            raise UsageError("--levels", "a level is not above zero", "give lengths like 10,50,100 (centimetres)")
        if any(not 0 <= w < float("inf") for w in self.weights):
            raise UsageError("--weights", "a weight is below zero or infinite", "give weights like 0.1,0.01,0.001")
        if self.nested and list(self.levels) != sorted(set(self.levels)):
            raise UsageError(
                "--hierarchy", "the levels of a nested hierarchy must grow", "give each level once, the finest first"
            )

    @property
    def largest(self) -> float:
        """The largest possible v: 1 + sum w."""
        return 1 + sum(self.weights)


def default_weights(levels: Sequence[float]) -> tuple[float, ...]:
    """The weights 0.1, 0.01, 0.001, ...: each level has a tenth of the weight of the finer one."""
    return tuple(float(f"1e-{n + 1}") for n in range(len(levels)))


def hmmu(
    prob: NDArray[np.floating],
    xyz: NDArray[np.floating],
    hierarchy: Hierarchy | None = None,
    unit: float = 1.0,
    *,
    threads: int | None = None,
) -> Scores:
    """(N,) scores `1 - v / (1 + sum w)` in [0, 1], larger = label first. The arguments are those of `measure`."""
    hierarchy = hierarchy or Hierarchy()
    return measure(prob, xyz, hierarchy, unit, threads=threads).score(hierarchy)


@dataclass
class HmmuResult:
    """The result of HMMU. margin_sum: (N,) v = U_x + sum_i w_i U^i (Eq. 4); points of small v are labelled first;
    voxels: (levels,) number of voxels of each level; margins: (1 + levels, N) U_x and each U^i, or None."""

    margin_sum: Scores
    voxels: NDArray[np.int64]
    margins: NDArray[np.float32] | None = None

    def score(self, hierarchy: Hierarchy) -> Scores:
        """(N,) `1 - v / (1 + sum w)`."""
        # Rounding may lead slightly outside [0, 1].
        return np.clip(1 - self.margin_sum / hierarchy.largest, 0, 1)

    def shares(self, hierarchy: Hierarchy) -> NDArray[np.float32]:
        """(1 + levels, N) the parts of the score that come from the point itself and from each level: `w (1 - U) /
        (1 + sum w)`, with w = 1 for the point. Their sum is the score. The result must have margins."""
        assert self.margins is not None
        return (1 - self.margins) * (np.array([1, *hierarchy.weights], np.float32) / hierarchy.largest)[:, None]


def measure(
    prob: NDArray[np.floating],
    xyz: NDArray[np.floating],
    hierarchy: Hierarchy,
    unit: float = 1.0,
    *,
    threads: int | None = None,
    margins: bool = False,
) -> HmmuResult:
    """Computes HMMU for the N points of a scene (Eq. 1 to 4).

    prob: (N, C) class probabilities; xyz: (N, 3); unit: metres in one unit of xyz; threads: number of threads, on which
    the result does not depend, None for one on each core; margins: whether to return U_x and each U^i too.
    """
    threads = cores() if threads is None else threads
    total, levels = _point_margins(prob, threads), len(hierarchy.levels)
    found = HmmuResult(total, np.zeros(levels, np.int64), np.empty((1 + levels, len(total)), "f4") if margins else None)
    if found.margins is not None:
        found.margins[0] = total
    edges = [edge / unit for edge in hierarchy.levels]
    if hierarchy.nested:
        # Imported here, since only nested levels need scipy, which takes long to load.
        from hpal_cli.score.hmmu_nested import nested_margins

        for n, (margin_of, voxels) in enumerate(nested_margins(prob, xyz, edges, threads)):
            total += hierarchy.weights[n] * margin_of
            found.voxels[n] = voxels
            if found.margins is not None:
                found.margins[1 + n] = margin_of
        return found
    for chain in chains(hierarchy.levels):
        part = HmmuResult(total, np.zeros(len(chain), np.int64))
        if found.margins is not None:
            part.margins = np.empty((len(chain), len(total)), np.float32)
        _add_chain(part, prob, xyz, [edges[n] for n in chain], [hierarchy.weights[n] for n in chain], threads)
        found.voxels[chain] = part.voxels
        if found.margins is not None:
            found.margins[[1 + n for n in chain]] = part.margins
    return found


def chains(levels: Sequence[float]) -> list[list[int]]:
    """Groups levels whose voxels can be computed together, as lists of indices into `levels`, the finest level first.
    In a group, each edge is a whole multiple of the one before, so its voxels consist of whole finer voxels."""
    found: list[list[int]] = []
    for n in sorted(range(len(levels)), key=lambda n: levels[n]):
        for chain in found:
            ratio = levels[n] / levels[chain[-1]]
            if round(ratio) < 2**20 and abs(ratio - round(ratio)) < 1e-9 * ratio:
                chain.append(n)
                break
        else:
            found.append([n])
    return found


def level_margin(prob: NDArray[np.floating], xyz: NDArray[np.floating], edge: float) -> tuple[Scores, int]:
    """The margin U^i (N,) of the mean distribution in the voxel of each point (Eq. 2, 3), and the number of voxels.

    prob: (N, C); xyz: (N, 3) in the unit of `edge`, of all points of the scene. Sums are in float64, in which sums of
    float16 are exact.
    """
    inverse, count = group_voxels(voxel_coordinates(xyz, edge))
    if prob.shape[1] < 2:
        return np.ones(len(prob)), len(count)
    sums = [np.bincount(inverse, weights=column, minlength=len(count)) for column in prob.T.astype(np.float64)]
    return (margin(np.stack(sums, axis=1)) / count)[inverse], len(count)


# ---------------------------------------------------------------- compiled (hmmu.c), and the same by NumPy


def missing() -> str | None:
    """Why the compiled sums of hmmu.c cannot be used here, None if they can."""
    return compiled.reason(_library())


def _library_for(prob: NDArray[np.floating]) -> ctypes.CDLL | None:
    """The compiled sums, or None if they cannot be used for these probabilities, which must be float16."""
    library = _library()
    fits = prob.dtype == np.float16 and prob.dtype.isnative and prob.shape[1] > 1
    return library if fits and not isinstance(library, str) else None


def _point_margins(prob: NDArray[np.floating], threads: int) -> Scores:
    library = _library_for(prob)
    if library is None:
        return margin(prob)
    prob = np.ascontiguousarray(prob)
    total = np.empty(len(prob))
    library.hpal_margins(prob.ctypes.data, *prob.shape, total.ctypes.data, threads)
    return total


_NO_MEMORY = 3


def _add_chain(
    found: HmmuResult,
    prob: NDArray[np.floating],
    xyz: NDArray[np.floating],
    edges: list[float],
    weights: list[float],
    threads: int,
) -> None:
    """Adds w_i U^i to the sum of the margins for the levels of a chain, and sets their voxels and margins in `found`,
    which has a row for each of them."""
    library = _library_for(prob)
    if library is not None:
        prob = np.ascontiguousarray(prob)
        kept = xyz.dtype in (np.float32, np.float64) and xyz.dtype.isnative
        xyz = np.ascontiguousarray(xyz if kept else xyz.astype(np.float64))
        lengths, factors = np.array(edges), np.array(weights, np.float64)
        status = library.hpal_chain(
            prob.ctypes.data, xyz.ctypes.data, xyz.dtype == np.float64, *prob.shape, lengths.ctypes.data,
            factors.ctypes.data, len(edges), found.margin_sum.ctypes.data,
            None if found.margins is None else found.margins.ctypes.data, found.voxels.ctypes.data, threads,
        )  # fmt: skip
        if status == 0:
            return
        if status == _NO_MEMORY:
            raise MemoryError
    for n, (edge, weight) in enumerate(zip(edges, weights, strict=True)):
        if library is not None and len(edges) > 1:
            # The levels must be computed one by one: either rounding has put a point into another coarse cell than its
            # fine cell, or the cells are too many for the keys of hmmu.c.
            margins = None if found.margins is None else found.margins[n : n + 1]
            one = HmmuResult(found.margin_sum, found.voxels[n : n + 1], margins)
            _add_chain(one, prob, xyz, [edge], [weight], threads)
            continue
        margin_of, found.voxels[n] = level_margin(prob, xyz, edge)
        found.margin_sum += weight * margin_of
        if found.margins is not None:
            found.margins[n] = margin_of


@compiled.library_or_reason
def _library() -> ctypes.CDLL:
    pointer, whole, long = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64
    library = compiled.load(Path(__file__).with_name("hmmu.c"), link=["-pthread", "-lm"])
    library.hpal_margins.argtypes = [pointer, long, whole, pointer, whole]
    library.hpal_margins.restype = None
    library.hpal_chain.argtypes = [
        *(pointer, pointer, whole, long, whole, pointer, pointer, whole),
        *(pointer, pointer, pointer, whole),
    ]
    library.hpal_chain.restype = whole
    return library
