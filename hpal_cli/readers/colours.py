"""Colours of any numeric type as bytes. Which type it is shows only in a whole cloud: 16 bits may hold bytes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hpal_cli.errors import HpalError

DARK = 1024
"""Of 65535."""


class ColourRange:
    """The lowest and the highest channel of a cloud's blocks, and what follows for all of them."""

    def __init__(self) -> None:
        self._low, self._top = np.inf, -np.inf
        self._floating = False

    def see(self, rgb: NDArray[np.generic]) -> None:
        """rgb: (N, 3) of the next block."""
        if len(rgb):
            # min and max hand NaN on; Python's own would drop it.
            self._low = float(np.minimum(self._low, rgb.min()))
            self._top = float(np.maximum(self._top, rgb.max()))
            self._floating |= bool(np.issubdtype(rgb.dtype, np.floating))

    @property
    def black(self) -> bool:
        """Whether no channel of any point is above zero: a format with colours, never coloured."""
        return self._top == 0

    @property
    def doubtful(self) -> bool:
        """Whether a channel is a little above 255: of bytes with a slip, or of dark pictures in 16 bits."""
        return 255 < self._top < DARK

    def check(self, subject: object) -> None:
        """Raises:
        HpalError: negative, not finite, or larger than the type's convention allows.
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
        """(N, 3) of any block -> (N, 3) uint8."""
        if self._floating and self._top <= 1:
            return np.rint(np.asarray(rgb, np.float64) * 255).astype(np.uint8)
        if rgb.dtype == np.uint8:
            return np.asarray(rgb, np.uint8)
        if self._top <= 255:
            return np.rint(rgb).astype(np.uint8)
        # Exact for both habits of widening a byte, v * 256 and v * 257.
        return (rgb.astype(np.int64) >> 8).astype(np.uint8)
