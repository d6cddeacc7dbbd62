"""The rows of a stream in memory."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

Rows = NDArray[Any]
"""A structured array: one record a point, one field a PLY property."""
