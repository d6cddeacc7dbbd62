"""Colours points by their height, for scans that have no colours of their own."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

STOPS = ((70, 95, 165), (60, 170, 160), (250, 225, 90))
"""The colours of low, middle and high points: blue, green, yellow."""


def height_colors(z: NDArray[np.floating], low: float | None = None, high: float | None = None) -> NDArray[np.uint8]:
    """(N,) heights -> (N, 3) uint8 colours, from the first of `STOPS` at `low` to the last at `high`; by default these
    are the 2 % and 98 % quantiles of the heights."""
    if low is None or high is None:
        low, high = np.percentile(z, [2, 98])
    share = np.clip((z - low) / (high - low), 0, 1) if high > low else np.full(len(z), 0.5)
    stops = np.array(STOPS, np.float64)
    return np.rint(
        np.stack([np.interp(share, np.linspace(0, 1, len(stops)), channel) for channel in stops.T], axis=1)
    ).astype(np.uint8)
