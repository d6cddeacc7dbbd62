"""Detects that a viewer rounded the index of a point, by comparing its position with that of the point of this
index."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

DIGITS = 6
"""Digits that some viewers write of a number in a text file."""

FLOAT32_EPSILON = 2.0**-23
"""Relative error of a 32-bit float."""

FLOAT32_EXACT = 2**24
"""A 32-bit float is exact for whole numbers below this."""


def looks_rounded(
    index: NDArray[np.integer], given: NDArray[np.floating], known: NDArray[np.float64], near: float
) -> NDArray[np.bool_]:
    """(K,) whether `index` (K,) looks rounded and the point does not lie at the point of that index.

    given: (K, 3) positions in the file, NaN where it has none; known: (K, 3) positions of the points `index`; near: how
    far apart they may be, in their unit. A viewer may have shifted all positions by the same vector.
    """
    power = 10 ** np.maximum(np.floor(np.log10(np.maximum(index, 1))).astype(np.int64) + 1 - DIGITS, 0)
    long, short = power > 1, index % power == 0
    # One in ten long numbers ends in a zero by chance. If all of them do, the file has six digits of each number.
    suspect = (index >= FLOAT32_EXACT) | (long & bool(short[long].all()))
    if not suspect.any():
        return suspect
    off = given - known
    if len(off) > 1:
        off = off - np.nanmedian(off, axis=0) if np.isfinite(off).any(axis=0).all() else off
    # The comparison is False for NaN.
    return suspect & (np.abs(off).max(axis=1) > near + FLOAT32_EPSILON * np.abs(known).max(axis=1))
