"""Whether a point that came back by its number lies where the point of that number does."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

SINGLE, SIX_DIGITS = 2.0**-23, 1e-5
"""What 32-bit floats, and text with six digits, may move a coordinate by, as a share of it."""

ROUNDED_FROM = 10**6
"""Six digits hold whole numbers below this; larger ones come back rounded, and would be another point's."""


def misplaced(
    given: NDArray[np.floating], known: NDArray[np.float64], index: NDArray[np.integer], near: float
) -> NDArray[np.bool_]:
    """(K,) which points are not the ones that their numbers name.

    given: (K, 3) positions as a viewer gave them back, NaN where it gave none; known: (K, 3) those of the points
    `index` (K,); near: what is no difference in any case, in their unit.
    """
    off = np.abs(given - known).max(axis=1)
    share = np.where(index < ROUNDED_FROM, SIX_DIGITS, SINGLE)
    # False for NaN.
    return off > near + share * np.abs(known).max(axis=1)
