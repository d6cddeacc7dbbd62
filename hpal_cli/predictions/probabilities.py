"""Checks that rows are probabilities: no entry is negative or NaN, and each row sums to about 1."""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hpal_cli import compiled

SUM_TOLERANCE = 0.02
"""How far a sum may be from 1, which leaves room for the rounding errors of float16 in a thousand classes."""

_AT_ONCE = 1 << 16


def bad_rows(prob: NDArray[np.floating]) -> tuple[int, int]:
    """The number of rows of `prob` (N, C) that are no probabilities, and the first such row (0 if there is none)."""
    library = _library()
    # NumPy takes a second longer for ten million points, which is not worth a message.
    if not isinstance(library, str) and prob.dtype == np.float16 and prob.dtype.isnative:
        prob, first = np.ascontiguousarray(prob), ctypes.c_int64(0)
        slack = int(SUM_TOLERANCE * (1 << 24))
        return library.hpal_bad_rows(prob.ctypes.data, *prob.shape, slack, ctypes.byref(first)), first.value
    bad, at = 0, 0
    for start in range(0, len(prob), _AT_ONCE):
        block = prob[start : start + _AT_ONCE]
        with np.errstate(invalid="ignore", over="ignore"):
            good = (np.abs(block.sum(axis=1, dtype=np.float64) - 1) < SUM_TOLERANCE) & (block >= 0).all(axis=1)
        if not good.all():
            at = at if bad else start + int(np.argmin(good))
            bad += int((~good).sum())
    return bad, at


def missing() -> str | None:
    """Why the compiled check cannot be used here, None if it can."""
    return compiled.reason(_library())


@compiled.library_or_reason
def _library() -> ctypes.CDLL:
    library = compiled.load(Path(__file__).with_suffix(".c"))
    library.hpal_bad_rows.argtypes = [
        *(ctypes.c_void_p, ctypes.c_int64, ctypes.c_int),
        *(ctypes.c_int64, ctypes.POINTER(ctypes.c_int64)),
    ]
    library.hpal_bad_rows.restype = ctypes.c_int64
    return library
