"""A cloud from above, as an image: the quickest look at a room."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hpal_cli.export.splats import NOBODY, eye_dome, splats

BELOW = 0.75
"""Share of a room's height that is shown: a ceiling would hide all else."""


def top_view(
    position: NDArray[np.floating],
    rgb: NDArray[np.uint8],
    *,
    pixel: float,
    step: float,
    below: float = BELOW,
    shaded: bool = False,
) -> NDArray[np.uint8]:
    """(H, W, 3): the points from above, the highest on top, y up; white where there is none.

    position: (N, 3); rgb: (N, 3); pixel: its edge, and step: how far points lie apart, in the unit of position;
    shaded: what is beside something higher is darker.
    """
    low, high = position.min(axis=0), position.max(axis=0)
    shown = np.flatnonzero(position[:, 2] <= cut_height(position, below))
    width, height = (((high - low)[:2]) / pixel).astype(int) + 1
    column, row = ((position[shown, :2] - low[:2]) / pixel).T
    z = position[shown, 2]
    owner = splats(height - 1 - np.floor(row), column, z, shape=(height, width), pixel=pixel, step=step)
    full = owner != NOBODY
    image = np.full((height, width, 3), 255, np.uint8)
    image[full] = rgb[shown][owner[full]]
    if shaded:
        light = eye_dome(np.append(z, low[2])[owner], max(width, height) * pixel / 2)
        image[full] = np.rint(image[full] * light[full][:, None])
    return image


def cut_height(position: NDArray[np.floating], below: float = BELOW) -> float:
    """The z above which `top_view` shows nothing, of (N, 3) positions."""
    low, high = position[:, 2].min(), position[:, 2].max()
    # Rounding must not take the highest point from a view that cuts nothing.
    return float(high if below >= 1 else low + below * (high - low))


def roofed(position: NDArray[np.floating], below: float = BELOW) -> bool:
    """Whether most of the ground plan of (N, 3) positions has points both above and below the cut: a room with its
    ceiling has; a hill, or a room that was scanned without one, would lose its top and gain nothing."""
    low, high = position.min(axis=0), position.max(axis=0)
    # Coarse, so that each cell of a small or thinly scanned room has points of its floor and its ceiling.
    cells = 16
    edge = max(float((high - low)[:2].max()) / cells, np.finfo(np.float32).tiny)
    column, row = ((position[:, :2] - low[:2]) / edge).astype(int).T
    above = position[:, 2] > cut_height(position, below)
    has = np.zeros((2, (cells + 1) ** 2), bool)
    has[above.astype(int), row * (cells + 1) + column] = True
    return bool(2 * has.all(axis=0).sum() > has.any(axis=0).sum())


def side_by_side(
    views: Sequence[tuple[str, NDArray[np.uint8]]], path: Path, legend: Sequence[tuple[str, tuple[int, int, int]]] = ()
) -> None:
    """Images with their titles in one row, and under them the names of the colours, as PNG."""
    from matplotlib.patches import Patch

    from hpal_cli.evaluate.figures import figure_of, save

    height, width = views[0][1].shape[:2]
    each = 3.4
    figure, axes = figure_of(each * len(views), each * height / width + 1.0, columns=len(views))
    for place, (title, image) in zip(axes, views, strict=True):
        place.imshow(image, interpolation="nearest")
        place.set_title(title, fontsize=10)
        place.set_axis_off()
    if legend:
        patches = [Patch(color="#{:02x}{:02x}{:02x}".format(*color), label=name) for name, color in legend]
        rows = -(-len(patches) // 7)
        columns = -(-len(patches) // rows)
        figure.legend(handles=patches, loc="outside lower center", ncols=columns, frameon=False, fontsize=8)
    save(figure, path)
