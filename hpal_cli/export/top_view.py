"""Draws a cloud from above."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hpal_cli.export.splats import NO_POINT, eye_dome, splats

SHOWN_HEIGHT = 0.75
"""Share of a room's height that is shown: the ceiling would hide everything else."""

STOREY, FLAT = 6.0, 0.03
"""Metres above which a scene is higher than a storey; and the largest distance of a flat ceiling from its median
height, as a share of the scene's height."""


def top_view(
    position: NDArray[np.floating],
    rgb: NDArray[np.uint8],
    *,
    pixel: float,
    step: float,
    below: float = SHOWN_HEIGHT,
    shaded: bool = False,
) -> NDArray[np.uint8]:
    """(H, W, 3) picture of the points from above, the highest on top, y upwards, white where there is no point.

    position: (N, 3); rgb: (N, 3); pixel: edge of a pixel, and step: distance between neighbouring points, both in the
    unit of `position`; below: share of the height that is shown; shaded: pixels beside something higher are darker.
    """
    low, high = position.min(axis=0), position.max(axis=0)
    shown = np.flatnonzero(position[:, 2] <= cut_height(position, below))
    width, height = (((high - low)[:2]) / pixel).astype(int) + 1
    column, row = ((position[shown, :2] - low[:2]) / pixel).T
    z = position[shown, 2]
    owner = splats(height - 1 - np.floor(row), column, z, shape=(height, width), pixel=pixel, step=step)
    full = owner != NO_POINT
    image = np.full((height, width, 3), 255, np.uint8)
    image[full] = rgb[shown][owner[full]]
    if shaded:
        light = eye_dome(np.append(z, low[2])[owner], max(width, height) * pixel / 2)
        image[full] = np.rint(image[full] * light[full][:, None])
    return image


def cut_height(position: NDArray[np.floating], below: float = SHOWN_HEIGHT) -> float:
    """The z above which `top_view` shows nothing of the (N, 3) positions. below: share of the height that is shown."""
    low, high = position[:, 2].min(), position[:, 2].max()
    # If nothing is to be cut, rounding must not cut the highest point.
    return float(high if below >= 1 else low + below * (high - low))


def roofed(position: NDArray[np.floating], *, unit: float = 1.0) -> bool:
    """Whether the (N, 3) positions have a ceiling that hides the rest from above: whether most of the ground plan has
    points both above and below the cut. A hill, or a room that was scanned without its ceiling, has not, and a cut
    would only take its top away.

    unit: metres in one unit of the positions. In scenes higher than `STOREY` only what is flat counts as a ceiling,
    which the crowns of trees are not.
    """
    low, high = position.min(axis=0), position.max(axis=0)
    # Cells so coarse that each has points of its floor and its ceiling, but not so coarse that one has points of a
    # house's roof and of the street.
    cells = int(np.clip(np.sqrt(len(position) / 30), 16, 64))
    edge = max(float((high - low)[:2].max()) / cells, np.finfo(np.float32).tiny)
    column, row = ((position[:, :2] - low[:2]) / edge).astype(int).T
    cell = row * (cells + 1) + column
    cut = cut_height(position)
    top, bottom = np.full((cells + 1) ** 2, -np.inf), np.full((cells + 1) ** 2, np.inf)
    np.maximum.at(top, cell, position[:, 2])
    np.minimum.at(bottom, cell, position[:, 2])
    has_points = np.isfinite(top)
    ceiling = (top > cut) & (bottom <= cut)
    if (high - low)[2] * unit > STOREY and ceiling.any():
        ceiling &= np.abs(top - np.median(top[ceiling])) < FLAT * (high - low)[2]
    return bool(2 * ceiling.sum() > has_points.sum())
