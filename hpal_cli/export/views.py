"""Finds two directions from which a point of a cloud can be seen, and what is seen from there."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hpal_cli.export.splats import NO_POINT, eye_dome, splats

AZIMUTH_STEP = 20
"""Degrees between the directions that are tried, around the vertical."""

TILTS = (12, 28, 45, 62, 80, -12, -28, -45)
"""Degrees above the horizon that are tried; the negative ones look from below at what hangs or stands out."""

USUAL, UNDER_ROOF = 28, -24
"""The tilts that people are used to: looking down from where they stand, and looking up at what is near the ceiling."""

MIN_ANGLE = 60
"""Least angle between the two views, in degrees."""

SURFACE = 2
"""A point that lies before another by less than this multiple of the distance between points is taken to be part of the
same surface, and does not hide it."""


@dataclass(frozen=True)
class View:
    """An orthographic camera. toward: (3,) unit vector from the point to the camera; right, up: (3,) unit vectors of
    the picture; near: points that lie this far from the point towards the camera, or farther, are cut away."""

    toward: NDArray[np.float64]
    right: NDArray[np.float64]
    up: NDArray[np.float64]
    near: float


def two_views(
    local: NDArray[np.floating], *, step: float, reach: float, floor: float, top: float, roof: bool
) -> tuple[View, View]:
    """The two best views of the origin of `local` (N, 3), at least `MIN_ANGLE` degrees apart; all lengths in metres.

    step: distance between neighbouring points; reach: radius around the point that is to be seen; floor, top: z of the
    scene's lowest and highest point; roof: whether the highest is a ceiling. A view is good if nothing hides the point
    and its surroundings, if it faces the surface, and if its tilt is one that people are used to. Views from outside of
    the scene are avoided, because walls seen from behind hide the room.
    """
    xyz = np.asarray(local, np.float64)
    toward = _directions()
    near = xyz[(np.abs(xyz) < 1.5 * reach).all(axis=1)]
    free = np.array([_free(near, d, step, reach) for d in toward])
    shown = np.array([_shown(near, d, step, reach) for d in toward])
    inside = np.array([_inside(near, d * 0.6 * reach, step, floor, top, roof) for d in toward])
    facing = np.abs(toward @ _normal(near, step))
    tilt = np.degrees(np.arcsin(toward[:, 2]))
    usual = 1 - np.abs(tilt - (UNDER_ROOF if roof and top < 0.8 * reach else USUAL)) / 60
    value = 3 * free / reach + 2 * inside + 3 * shown + 0.8 * np.minimum(facing, 0.7) / 0.7 + 1.5 * usual
    first = int(value.argmax())
    # Rounding must not exclude a direction that is exactly `MIN_ANGLE` degrees away.
    apart = toward @ toward[first] <= np.cos(np.radians(MIN_ANGLE)) + 1e-9
    second = int(np.where(apart, value, -np.inf).argmax())
    return _view(toward[first], free[first]), _view(toward[second], free[second])


def draw(
    local: NDArray[np.floating],
    rgb: NDArray[np.uint8],
    view: View,
    *,
    reach: float,
    half: float,
    pixels: int,
    step: float,
) -> NDArray[np.uint8]:
    """(pixels, pixels, 3) picture of the points `local` (N, 3) around the origin, as discs on white, the nearest on
    top.

    Points farther from the origin than `reach` are left out if they are nearer to the camera than the origin, because
    they would hide it. rgb: (N, 3); half: extent that the picture shows on each side of its middle; step: distance
    between neighbouring points; both in the unit of `local`.
    """
    xyz = np.asarray(local, np.float64)
    pixel = 2 * half / pixels
    column, row, depth = xyz @ view.right, -(xyz @ view.up), xyz @ view.toward
    distance = np.linalg.norm(xyz, axis=1)
    edge = half + step
    shown = (np.abs(column) < edge) & (np.abs(row) < edge) & (depth < view.near)
    seen = np.flatnonzero(shown & ((depth < 0) | (distance < reach)))
    # On a slanted surface the neighbours of the point itself would cover it, so it is drawn as far before them as
    # `_free` ignores obstacles.
    depth[distance == 0] += SURFACE * step
    owner = splats(
        row[seen] / pixel + pixels / 2,
        column[seen] / pixel + pixels / 2,
        depth[seen],
        shape=(pixels, pixels),
        pixel=pixel,
        step=step,
        kept=int(np.append(np.flatnonzero(distance[seen] == 0), NO_POINT)[0]),
    )
    full = owner != NO_POINT
    image = np.full((pixels, pixels, 3), 255.0)
    image[full] = rgb[seen][owner[full]]
    far = np.append(depth[seen], depth[seen].min(initial=0.0) - half)[owner]
    image[full] *= eye_dome(far, half)[full][:, None]
    return np.rint(image).astype(np.uint8)


def _directions() -> NDArray[np.float64]:
    turn, tilt = np.meshgrid(np.radians(np.arange(0, 360, AZIMUTH_STEP)), np.radians(TILTS))
    flat = np.cos(tilt)
    return np.column_stack([(flat * np.cos(turn)).ravel(), (flat * np.sin(turn)).ravel(), np.sin(tilt).ravel()])


def _view(toward: NDArray[np.float64], free: float) -> View:
    right = np.cross([0.0, 0.0, 1.0], toward)
    right /= np.linalg.norm(right)
    return View(toward, right, np.cross(toward, right), max(free, 1e-9))


def _free(xyz: NDArray[np.float64], toward: NDArray[np.float64], step: float, most: float) -> float:
    """Distance from the origin to the first point that hides it from the direction `toward`, at most `most`."""
    along = xyz @ toward
    aside = np.linalg.norm(xyz - along[:, None] * toward, axis=1)
    # Points of the same surface do not hide it.
    blocking = along[(along > SURFACE * step) & (aside < 1.2 * step + 0.1 * along)]
    return float(min(most, blocking.min(initial=np.inf) - step))


def _shown(xyz: NDArray[np.float64], toward: NDArray[np.float64], step: float, reach: float) -> float:
    """The share of the points within half of `reach` of the origin that nothing before them hides."""
    view = _view(toward, 1.0)
    cell = 2.5 * step
    column, row = np.floor(np.stack([xyz @ view.right, xyz @ view.up]) / cell).astype(np.int64)
    along = xyz @ toward
    low = column.min(), row.min()
    wide = int(column.max() - low[0]) + 1
    key = (row - low[1]) * wide + (column - low[0])
    front = np.full(int(key.max()) + 1, -np.inf)
    distance = np.linalg.norm(xyz, axis=1)
    drawn = (along < 0) | (distance < reach)
    np.maximum.at(front, key[drawn], along[drawn])
    close = distance < reach / 2
    return float((along[close] > front[key[close]] - 3 * cell).mean())


def _inside(
    xyz: NDArray[np.float64], camera: NDArray[np.float64], step: float, floor: float, top: float, roof: bool
) -> bool:
    """Whether the camera is above something that was scanned, and below the ceiling if there is one."""
    under = np.abs(xyz[:, :2] - camera[:2]).max(axis=1) < max(3 * step, 0.1)
    return bool((xyz[under, 2] < camera[2]).any()) and floor < camera[2] and (not roof or camera[2] < top - 0.1)


def _normal(xyz: NDArray[np.float64], step: float) -> NDArray[np.float64]:
    """(3,) normal of the surface through the origin; zeros if there are too few points to know it."""
    close = xyz[np.linalg.norm(xyz, axis=1) < max(0.12, 3 * step)]
    if len(close) < 4:
        return np.zeros(3)
    return np.linalg.eigh(np.cov(close.T))[1][:, 0]
