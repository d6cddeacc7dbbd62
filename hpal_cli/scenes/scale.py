"""The scale of scenes, by which default lengths are multiplied (docs/method.md, "Scale")."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from hpal_cli.errors import HpalError
from hpal_cli.lengths import nearest_round
from hpal_cli.store.envelope import attributes_of

ROOM_GRID = 0.04
"""Metres between the points of a scene of scale 1: S3DIS as `hpal prep` reads it."""

NAMED = {"room": ROOM_GRID, "street": 0.1, "airborne": 0.5}
"""Metres between the grid points of scenes of each kind."""

MAX_ROOM_SCALE = 2.0
"""Scale up to which a scene is a room: with walls around it and a ceiling."""

ROOM_FORMATS = ("s3dis", "scannet")
"""Data sets of rooms: they have scale 1, however far apart the points of a scene may lie."""


MIN_ROOM_EDGE = 2.0
"""Metres: a scene is an object if no edge of its bounding box is as long as this, since a room is higher."""

CELLS_ALONG = 200
"""Cells of the grid along the longest edge of an object, as many as along a room of 8 m."""


def fitting_grid(spacing: float | None, edge: float = math.inf) -> float:
    """The grid in metres for points that lie `spacing` metres apart.

    It is `ROOM_GRID` for a spacing of None or of at most `MAX_ROOM_SCALE` * `ROOM_GRID`, and else the round length (10
    cm, 20 cm, 50 cm, 1 m, ...) whose ratio to the spacing is nearest to 1. edge: metres, the longest edge of the
    bounding box of a scene; an object gets the round length nearest to the larger of the spacing and a `CELLS_ALONG`th
    of the edge, at most `ROOM_GRID`.
    """
    if spacing is None:
        return ROOM_GRID
    if edge < MIN_ROOM_EDGE:
        return min(ROOM_GRID, nearest_round(max(spacing, edge / CELLS_ALONG)))
    return ROOM_GRID if spacing <= MAX_ROOM_SCALE * ROOM_GRID else nearest_round(spacing)


def stored_scale(attributes: dict[str, Any] | None, path: Path) -> float | None:
    """The root member `scale` of a store (docs/formats.md section 2.1); None for a room's.

    Raises:
        HpalError: it is no number above zero.
    """
    value = (attributes or {}).get("scale")
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise HpalError(path, f"its root member scale is {value!r}, and no number above zero", "write the store again")
    return float(value)


def scale_at(path: Path) -> float | None:
    """`stored_scale` of the store at `path`; None also if there is no store."""
    return stored_scale(attributes_of(path), path)


def as_attribute(scale: float | None) -> dict[str, float]:
    """The root member by which a store records the scale of its scenes; none if they are rooms (None)."""
    return {} if scale is None else {"scale": scale}
