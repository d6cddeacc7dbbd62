"""Finds two directions from which a point of a cloud can be seen, and what is seen from there."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hpal_cli.export.splats import NO_POINT, eye_dome, splats

TURN = 20
"""Degrees between the directions that are tried, around the vertical."""

TILTS = (12, 28, 45, 62, 80, -12, -28, -45)
"""Degrees above the horizon that are tried; from below for what hangs or stands out."""

USUAL, UNDER_ROOF = 28, -24
"""Of these, what people are used to: from where they stand, and for what is near the ceiling."""

APART = 60
"""Degrees between the two views, at least."""

SURFACE = 2
"""Distances between points within which another point before one is taken for the same surface."""


@dataclass(frozen=True)
class View:
    """An orthographic camera. toward: (3,) unit vector from the point to the camera; right, up: (3,) of the picture;
    near: what is nearer to the camera than that, counted from the point, is cut away."""

    toward: NDArray[np.float64]
    right: NDArray[np.float64]
    up: NDArray[np.float64]
    near: float


def two_views(
    local: NDArray[np.floating], *, step: float, reach: float, floor: float, top: float, roof: bool
) -> tuple[View, View]:
    """The two best views of the origin of `local` (N, 3), all in metres, at least `APART` degrees apart.

    step: how far points lie apart; reach: what is to be seen around the point; floor, top: z of the scene's lowest and
    highest point; roof: whether that is a ceiling. A view is the better the freer the way to the camera is for the
    point and for what is around it, the more it faces the surface, and the nearer it is to how people look. It is not
    taken from outside of the scene if it can be helped: walls seen from behind hide the room.
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
    # Rounding must not take a direction that is as far away as asked for.
    apart = toward @ toward[first] <= np.cos(np.radians(APART)) + 1e-9
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
    """(pixels, pixels, 3): the points (N, 3) around the origin, as discs, the nearest on top, on white.

    Points farther from the origin than `reach` are left out where they are nearer to the camera: they would hide it.
    rgb: (N, 3); half: what the picture shows to each side of its middle; step: how far points lie apart.
    """
    xyz = np.asarray(local, np.float64)
    pixel = 2 * half / pixels
    column, row, depth = xyz @ view.right, -(xyz @ view.up), xyz @ view.toward
    distance = np.linalg.norm(xyz, axis=1)
    edge = half + step
    shown = (np.abs(column) < edge) & (np.abs(row) < edge) & (depth < view.near)
    seen = np.flatnonzero(shown & ((depth < 0) | (distance < reach)))
    # Its neighbours on a slanted surface would cover the point itself; they are no obstacle to `_free` either.
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
    turn, tilt = np.meshgrid(np.radians(np.arange(0, 360, TURN)), np.radians(TILTS))
    flat = np.cos(tilt)
    return np.column_stack([(flat * np.cos(turn)).ravel(), (flat * np.sin(turn)).ravel(), np.sin(tilt).ravel()])


def _view(toward: NDArray[np.float64], free: float) -> View:
    right = np.cross([0.0, 0.0, 1.0], toward)
    right /= np.linalg.norm(right)
    return View(toward, right, np.cross(toward, right), max(free, 1e-9))


def _free(xyz: NDArray[np.float64], toward: NDArray[np.float64], step: float, most: float) -> float:
    """How far it is from the origin to the first point that hides it, at most `most`."""
    along = xyz @ toward
    aside = np.linalg.norm(xyz - along[:, None] * toward, axis=1)
    # A point of the same surface is no obstacle.
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
    """Whether the camera is above something that was scanned, and below the roof if there is one."""
    under = np.abs(xyz[:, :2] - camera[:2]).max(axis=1) < max(3 * step, 0.1)
    return bool((xyz[under, 2] < camera[2]).any()) and floor < camera[2] and (not roof or camera[2] < top - 0.1)


def _normal(xyz: NDArray[np.float64], step: float) -> NDArray[np.float64]:
    """Across the surface through the origin; zeros where there is none."""
    close = xyz[np.linalg.norm(xyz, axis=1) < max(0.12, 3 * step)]
    if len(close) < 4:
        return np.zeros(3)
    return np.linalg.eigh(np.cov(close.T))[1][:, 0]
