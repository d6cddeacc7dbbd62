"""Detects that a viewer rounded the number of a point, by comparing its position with that of the point of this
number."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

DIGITS = 6
"""Of a number in the text that some viewers save."""

SINGLE = 2.0**-23
"""What a 32-bit float may be off by, as a share."""

EXACT = 2**24
"""A 32-bit float holds the whole numbers below this."""


def looks_rounded(
    index: NDArray[np.integer], given: NDArray[np.floating], known: NDArray[np.float64], near: float
) -> NDArray[np.bool_]:
    """(K,) which of the numbers `index` (K,) look rounded, while the point lies elsewhere than the one of that number.

    given: (K, 3) positions in the file, NaN where it has none; known: (K, 3) those of the points `index`. A viewer may
    have shifted all of them; near: what else is no difference, in their unit.
    """
    power = 10 ** np.maximum(np.floor(np.log10(np.maximum(index, 1))).astype(np.int64) + 1 - DIGITS, 0)
    long, short = power > 1, index % power == 0
    # By chance one in ten long numbers ends in a zero; all of them do in a file of six digits.
    suspect = (index >= EXACT) | (long & bool(short[long].all()))
    if not suspect.any():
        return suspect
    off = given - known
    if len(off) > 1:
        off = off - np.nanmedian(off, axis=0) if np.isfinite(off).any(axis=0).all() else off
    # False for NaN.
    return suspect & (np.abs(off).max(axis=1) > near + SINGLE * np.abs(known).max(axis=1))
