"""Colours for heights, for scans that have no colours of their own."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

STOPS = ((70, 95, 165), (60, 170, 160), (250, 225, 90))
"""From low over the middle to high: blue, green, yellow."""


def height_colors(z: NDArray[np.floating], low: float | None = None, high: float | None = None) -> NDArray[np.uint8]:
    """(N,) heights -> (N, 3), between `low` and `high`; by default what 2 % of the points lie below, and above."""
    if low is None or high is None:
        low, high = np.percentile(z, [2, 98])
    share = np.clip((z - low) / (high - low), 0, 1) if high > low else np.full(len(z), 0.5)
    stops = np.array(STOPS, np.float64)
    return np.rint(
        np.stack([np.interp(share, np.linspace(0, 1, len(stops)), channel) for channel in stops.T], axis=1)
    ).astype(np.uint8)
