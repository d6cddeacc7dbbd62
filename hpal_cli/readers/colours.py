"""Converts colours of any numeric type to bytes. Their range is known only after the whole cloud was read, because a
column of 16 bits may hold colours of 8 bits."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hpal_cli.errors import HpalError

DARK = 1024
"""Colours of 16 bits (up to 65535) whose highest channel is below this number may also be bytes with an error."""


class ColourRange:
    """The lowest and the highest value of all channels in the blocks of a cloud, from which follows how all of them are
    converted."""

    def __init__(self) -> None:
        self._low, self._top = np.inf, -np.inf
        self._floating = False

    def update(self, rgb: NDArray[np.generic]) -> None:
        """Takes the colours rgb (N, 3) of the next block into account."""
        if len(rgb):
            # NumPy's minimum and maximum keep NaN, which Python's own would lose.
            self._low = float(np.minimum(self._low, rgb.min()))
            self._top = float(np.maximum(self._top, rgb.max()))
            self._floating |= bool(np.issubdtype(rgb.dtype, np.floating))

    @property
    def black(self) -> bool:
        """Whether all channels of all points are zero, as in files that have columns for colours but no colours."""
        return self._top == 0

    @property
    def doubtful(self) -> bool:
        """Whether the highest channel is a little above 255: bytes with an error, or dark colours of 16 bits."""
        return 255 < self._top < DARK

    def check(self, subject: object) -> None:
        """Requires that the colours are in a range that is known.

        Raises:
            HpalError: a channel is negative, not finite, or above 65535.
        """
        if self._top == -np.inf:
            return
        if not (self._low >= 0 and self._top <= 65535):  # false for NaN too
            raise HpalError(
                subject,
                f"colours from {self._low:g} to {self._top:g}",
                "give colours as 0..255, 0..65535 or 0..1, or rename the columns if they are something else",
            )

    def to_bytes(self, rgb: NDArray[np.generic]) -> NDArray[np.uint8]:
        """The colours (N, 3) of a block -> (N, 3) uint8. All blocks must have been seen before."""
        if self._floating and self._top <= 1:
            return np.rint(np.asarray(rgb, np.float64) * 255).astype(np.uint8)
        if rgb.dtype == np.uint8:
            return np.asarray(rgb, np.uint8)
        if self._top <= 255:
            return np.rint(rgb).astype(np.uint8)
        # Exact whether bytes were widened to 16 bits by v * 256 or by v * 257.
        return (rgb.astype(np.int64) >> 8).astype(np.uint8)
