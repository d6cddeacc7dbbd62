"""Renders a scene from above and from a corner: finds the point that each pixel shows. Points are read in blocks, so
that memory does not grow with their number."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property, reduce

import numpy as np
from numpy.typing import NDArray

from hpal_cli.export.splats import MAX_POINTS_ALONG, NO_POINT, eye_dome, spacing, splats
from hpal_cli.export.top_view import SHOWN_HEIGHT, cut_height, roofed

Blocks = Callable[[], Iterator[NDArray[np.floating]]]
"""Each call starts a new pass over the positions of a scene: blocks (B, 3) in the order of its rows."""

SAMPLE = 200_000
"""About so many points, evenly spread over the rows, decide what part of a scene is shown and from which corner."""

STRAY, BEYOND = 0.001, 0.15
"""The box between the quantiles `STRAY` and 1 - `STRAY` of each coordinate, enlarged on each side by the share `BEYOND`
of its edge, is the most that is shown. Points outside of it, such as birds or what a scanner sees through a window, are
left out: they would make the scene small in the picture."""

TILT, TURN = 38, 30
"""Degrees: how far the camera at the corner is above the horizon, and how far it is turned from the scene's shorter
axis. A small turn shows the longer axis at nearly its full length."""

TURN_RATIO = 1.25
"""A scene that is longer along y than along x by this factor is turned, so that y points to the right."""

SUPERSAMPLING = 2
"""Along each axis, so many pixels are rendered for each one that is shown: their mean has smooth edges."""

NEAREST, MAX_STEP_RATIO = 5000, 4
"""The median distance to the nearest other point is measured at about `NEAREST` points; points are taken to lie apart
at most `MAX_STEP_RATIO` times this distance."""

SLICES, MIN_WALL_SLICES = 8, 5
"""The height up to the cut is divided into `SLICES`; a cell of the ground plan with points in at least
`MIN_WALL_SLICES` of them is taken for a wall."""

SUN = np.array([-0.5, 0.6, 0.8]) / np.linalg.norm([-0.5, 0.6, 0.8])
"""Direction from which light falls, in the axes of the picture: from the upper left."""


@dataclass(frozen=True)
class Scene:
    """A scene of `count` points and what part of it is drawn; all lengths in the unit of its positions.

    low, high: (3,) corners of the box that is drawn; cut: z above which nothing is shown; step: distance between
    neighbouring points; roof: whether a ceiling is cut away; outside: number of points outside of the box; sample:
    (S, 3) some of the points within.
    """

    blocks: Blocks
    count: int
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    cut: float
    step: float
    roof: bool
    outside: int
    sample: NDArray[np.float64]

    @property
    def lies_down(self) -> bool:
        """Whether `from_above` shows y to the right, and x downwards."""
        width, height = (self.high - self.low)[:2]
        return bool(height > TURN_RATIO * width)


@dataclass(frozen=True)
class Image:
    """A rendered view. rows: (H, W) the row of the scene that each rendered pixel shows, or `NO_POINT`; light: (H, W)
    its brightness in 0..1; pixel: edge of a pixel that is shown (`SUPERSAMPLING` rendered ones), in the unit of the
    scene."""

    rows: NDArray[np.int64]
    light: NDArray[np.float64]
    pixel: float

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in pixels that are shown."""
        return self.rows.shape[0] // SUPERSAMPLING, self.rows.shape[1] // SUPERSAMPLING

    @cached_property
    def _visible_rows(self) -> tuple[NDArray[np.int64], NDArray[np.intp]]:
        """(K,) the rows that are shown, ascending, and for each pixel that shows a row its place among these."""
        visible, place = np.unique(self.rows[self.rows != NO_POINT], return_inverse=True)
        return visible, place.reshape(-1)

    def colored(self, colors: Callable[[NDArray[np.int64]], NDArray[np.uint8]]) -> NDArray[np.uint8]:
        """(h, w, 3) the view in colours, on white. colors: (K,) rows, ascending -> (K, 3)."""
        visible, place = self._visible_rows
        at = np.flatnonzero(self.rows != NO_POINT)
        light, wanted = self.light.reshape(-1)[at], colors(visible)
        shown, steps = np.empty((*self.shape, 3), np.uint8), range(SUPERSAMPLING)
        # One channel after the other, since NumPy is slow where the last axis is short.
        for channel in range(3):
            fine = np.full(self.rows.size, 255.0, np.float32)
            fine[at] = wanted[:, channel][place] * light
            image = fine.reshape(self.rows.shape)
            parts = (image[y::SUPERSAMPLING, x::SUPERSAMPLING] for y in steps for x in steps)
            shown[..., channel] = np.rint(reduce(np.add, parts) / SUPERSAMPLING**2)
        return shown


@dataclass(frozen=True)
class _Camera:
    """An orthographic camera. right, up, toward: (3,) unit vectors of the picture and towards the camera; corner: (2,)
    the least coordinates (along right and up) that are seen, and size: (2,) the extent, in the unit of the scene; near:
    tells which of (B, 3) positions are left out because they hide what is behind them, or None."""

    right: NDArray[np.float64]
    up: NDArray[np.float64]
    toward: NDArray[np.float64]
    corner: NDArray[np.float64]
    size: NDArray[np.float64]
    near: Callable[[NDArray[np.float64]], NDArray[np.bool_]] | None = None


def framed(blocks: Blocks, count: int, *, unit: float, grid: float | None = None) -> Scene:
    """Decides what part of a scene of `count` points, at least one, is drawn. unit: metres in one unit of their
    positions; grid: least distance between points in metres, None if that is not known."""
    every, done = 1 + count // SAMPLE, 0
    least, most = np.full(3, np.inf), np.full(3, -np.inf)
    some = []
    for xyz in blocks():
        least, most = np.minimum(least, xyz.min(axis=0)), np.maximum(most, xyz.max(axis=0))
        some.append(np.asarray(xyz[-done % every :: every], np.float64))
        done += len(xyz)
    sample = np.concatenate(some)
    edges = np.quantile(sample, [STRAY, 1 - STRAY], axis=0)
    rim = BEYOND * (edges[1] - edges[0])
    low, high = np.maximum(least, edges[0] - rim), np.minimum(most, edges[1] + rim)
    outside = 0
    if (low > least).any() or (high < most).any():
        least, most, outside = np.full(3, np.inf), np.full(3, -np.inf), count
        for block in blocks():
            near = block[_within(block, low, high)]
            least = np.minimum(least, near.min(axis=0, initial=np.inf))
            most = np.maximum(most, near.max(axis=0, initial=-np.inf))
            outside -= len(near)
        low, high = least, most
        sample = sample[_within(sample, low, high)]
    roof = roofed(sample, unit=unit)
    cut = cut_height(sample, SHOWN_HEIGHT) if roof else float(high[2])
    scene = Scene(blocks, count, low, high, cut, (grid or 0.0) / unit, roof, outside, sample)
    # The points of a scan can lie farther apart than the grid says.
    return replace(scene, step=max(scene.step, _step(scene)))


def from_above(scene: Scene, box: tuple[int, int]) -> Image:
    """The scene from above, in at most `box` = (width, height) pixels. A scene that is longer than wide is turned, see
    `Scene.lies_down`."""
    x, y, z = np.eye(3)
    right, up = (y, -x) if scene.lies_down else (x, y)
    corners = np.stack([scene.low, scene.high])
    low, high = np.sort(np.stack([corners @ right, corners @ up]), axis=1).T
    return _image(scene, _Camera(right, up, z, low, high - low), box)


def from_corner(scene: Scene, box: tuple[int, int]) -> Image:
    """The scene from that corner from which least is hidden: the one whose far half is highest compared with its near
    half. In rooms the walls in front are left out, and so is the ceiling that is cut away in the view from above.

    box: largest (width, height) in pixels.
    """
    visible = scene.sample[scene.sample[:, 2] <= scene.cut]
    tilt = np.radians(TILT)
    width, height = (scene.high - scene.low)[:2]
    turn = TURN if height <= width else 90 - TURN
    least, toward = np.inf, np.zeros(3)
    for around in (270 - turn, 270 + turn, 90 - turn, 90 + turn):
        flat = np.radians(around)
        way = np.array([np.cos(tilt) * np.cos(flat), np.cos(tilt) * np.sin(flat), np.sin(tilt)])
        along = visible[:, :2] @ way[:2]
        nearer = along > np.median(along)
        ahead = float(visible[nearer, 2].mean() - visible[~nearer, 2].mean()) if nearer.any() else 0.0
        # Of corners that are equally good the first is taken, whatever rounding says.
        if ahead < least - 1e-3 * float(np.ptp(scene.sample[:, 2])) - 1e-9:
            least, toward = ahead, way
    right = np.cross([0.0, 0.0, 1.0], toward)
    right /= np.linalg.norm(right)
    up = np.cross(toward, right)
    near = _front_walls(visible, toward[:2], scene) if scene.roof else None
    if near is not None:
        visible = visible[~near(visible)]
    projected = np.stack([visible @ right, visible @ up])
    low, high = projected.min(axis=1), projected.max(axis=1)
    margin = 0.01 * float((high - low).max())
    return _image(scene, _Camera(right, up, toward, low - margin, high - low + 2 * margin, near), box)


def _within(xyz: NDArray[np.floating], low: NDArray[np.float64], high: NDArray[np.float64]) -> NDArray[np.bool_]:
    return np.asarray(((xyz >= low) & (xyz <= high)).all(axis=1))


def _step(scene: Scene) -> float:
    """Distance between neighbouring points as seen from above."""
    span = float((scene.high - scene.low)[:2].max())
    if not span:
        return 0.0
    edge = span / MAX_POINTS_ALONG
    columns, rows = ((scene.high - scene.low)[:2] / edge).astype(int) + 1
    has = np.zeros(columns * rows, bool)
    for block in scene.blocks():
        xyz = np.asarray(block, np.float64)
        xyz = xyz[_within(xyz, scene.low, scene.high) & (xyz[:, 2] <= scene.cut)]
        column, row = ((xyz[:, :2] - scene.low[:2]) / edge).astype(int).T
        has[row * columns + column] = True
    row, column = np.divmod(np.flatnonzero(has), columns)
    place = np.column_stack([column, row]) * edge
    step = spacing(place, span)
    if step > MAX_STEP_RATIO * edge:
        # Where points are dense in one place and sparse in another, the gaps in the sparse places say nothing about the
        # distance between points elsewhere.
        from scipy.spatial import cKDTree

        some = place[:: 1 + len(place) // NEAREST]
        step = min(step, MAX_STEP_RATIO * float(np.median(cKDTree(place).query(some, 2)[0][:, 1])))
    return step


def _image(scene: Scene, camera: _Camera, box: tuple[int, int]) -> Image:
    # A single point, or a line, is drawn as if it were wider.
    size = np.maximum(camera.size, max(0.02 * float(camera.size.max()), 1e-6))
    pixel = float((size / box).max())
    width, height = np.minimum(np.ceil(size / pixel - 1e-9).astype(int), box).tolist()
    fine = pixel / SUPERSAMPLING
    shape = (height * SUPERSAMPLING, width * SUPERSAMPLING)
    # The scene is in the middle of the picture, which is a whole number of pixels.
    corner = camera.corner - (np.array(shape[::-1]) * fine - camera.size) / 2
    front = _DepthBuffer(shape)
    for block in scene.blocks():
        xyz = np.asarray(block, np.float64)
        hidden = ~_within(xyz, scene.low, scene.high) | (xyz[:, 2] > scene.cut)
        if camera.near is not None:
            hidden |= camera.near(xyz)
        column = np.floor((xyz @ camera.right - corner[0]) / fine)
        row = shape[0] - 1 - np.floor((xyz @ camera.up - corner[1]) / fine)
        front.add(row, column, xyz @ camera.toward, hidden)
    place = np.flatnonzero(front.rows != NO_POINT)
    row, column = np.divmod(place, shape[1])
    depth = front.depth[place]
    # Each point covers at least a pixel that is shown.
    step = max(scene.step, pixel)
    owner = splats(row + 0.5, column + 0.5, depth, shape=shape, pixel=fine, step=step)
    rows = np.append(front.rows[place], NO_POINT)[owner]
    far = depth.min(initial=0.0) - fine
    return Image(rows, _light(np.append(depth, far)[owner], rows != NO_POINT, fine, step), pixel)


def _light(depth: NDArray[np.float64], full: NDArray[np.bool_], pixel: float, step: float) -> NDArray[np.float64]:
    """(H, W) brightness in 0..1: pixels are darker beside something that is nearer to the camera, and where the surface
    turns away from the light."""
    from scipy.ndimage import gaussian_filter

    half = max(depth.shape) * pixel / 2
    # Points of one surface differ somewhat in depth: smoothing over about the distance between points removes this.
    sigma = max(1.0, 0.8 * step / pixel)
    weight = gaussian_filter(full.astype(np.float64), sigma)
    smooth = gaussian_filter(np.where(full, depth, 0.0), sigma) / np.maximum(weight, 1e-9)
    down, right = np.gradient(smooth, pixel)
    lit = (SUN[2] - SUN[0] * right + SUN[1] * down) / np.sqrt(right**2 + down**2 + 1)
    return np.asarray(eye_dome(depth, half) * np.clip(0.65 + 0.35 * lit / SUN[2], 0.6, 1.0))


class _DepthBuffer:
    """The nearest point of each pixel, of points that come in blocks. Of equally near points it is the last, so that
    the result does not depend on the size of the blocks."""

    def __init__(self, shape: tuple[int, int]) -> None:
        self._shape = shape
        self.depth = np.full(shape[0] * shape[1], -np.inf)
        self.rows = np.full(shape[0] * shape[1], NO_POINT, np.int64)
        self._last = np.zeros(shape[0] * shape[1], np.int64)
        self._given = 0

    def add(
        self,
        row: NDArray[np.float64],
        column: NDArray[np.float64],
        depth: NDArray[np.float64],
        hidden: NDArray[np.bool_],
    ) -> None:
        """Adds a block of B points. row, column: (B,) whole numbers, which may be outside of the picture; depth: (B,)
        larger is nearer; hidden: (B,) points that are not drawn."""
        height, width = self._shape
        inside = np.flatnonzero(~hidden & (row >= 0) & (row < height) & (column >= 0) & (column < width))
        nearest = inside[np.argsort(depth[inside], kind="stable")]
        place = row[nearest].astype(np.int64) * width + column[nearest].astype(np.int64)
        # If several are written to a pixel, the last one stays.
        self._last[place] = np.arange(len(place))
        won = self._last[place] == np.arange(len(place))
        nearest, place = nearest[won], place[won]
        better = depth[nearest] >= self.depth[place]
        nearest, place = nearest[better], place[better]
        self.depth[place] = depth[nearest]
        self.rows[place] = self._given + nearest
        self._given += len(depth)


def _front_walls(
    below_cut: NDArray[np.float64], toward: NDArray[np.float64], scene: Scene
) -> Callable[[NDArray[np.float64]], NDArray[np.bool_]] | None:
    """A function that tells which of (B, 3) positions belong to the walls between the camera and the room, or to what
    is before these; None if there are no such walls. below_cut: (S, 3) some of the points below the cut; toward: (2,)
    direction to the camera."""
    from scipy.ndimage import median_filter, minimum_filter

    toward = toward / np.linalg.norm(toward)
    aside = np.array([-toward[1], toward[0]])
    height = scene.cut - scene.low[2]
    edge = max(float((scene.high - scene.low)[:2].max()) / 80, 3 * scene.step)
    if height <= 0 or not edge:
        return None
    across, along = below_cut[:, :2] @ aside, below_cut[:, :2] @ toward
    start = across.min(), along.min()
    column, row = ((across - start[0]) / edge).astype(int), ((along - start[1]) / edge).astype(int)
    piece = np.minimum(((below_cut[:, 2] - scene.low[2]) / height * SLICES).astype(int), SLICES - 1)
    has = np.zeros((column.max() + 1, row.max() + 1, SLICES), bool)
    has[column, row, piece] = True
    tall = has.sum(axis=2) >= MIN_WALL_SLICES
    limit = np.full(len(has), np.nan)
    for n in np.flatnonzero(tall.any(axis=1)):
        occupied, walls = np.flatnonzero(has[n].any(axis=1)), np.flatnonzero(tall[n])
        # A wall in the far half is the one at the back, which stays.
        if walls[-1] > (occupied[0] + occupied[-1]) / 2 and occupied[-1] > occupied[0] + 2:
            limit[n] = walls[-1]
    known = np.flatnonzero(~np.isnan(limit))
    if not len(known):
        return None
    # At a window or a door the wall is taken to be where it is beside them. The filters remove what stands out of the
    # wall's line in a few columns only.
    limit = np.interp(np.arange(len(limit)), known, limit[known])
    last = start[1] + edge * (minimum_filter(median_filter(limit, 5, mode="nearest"), 3, mode="nearest") - 1)
    floor = scene.low[2] + 0.08 * height

    def before(xyz: NDArray[np.float64]) -> NDArray[np.bool_]:
        column = ((xyz[:, :2] @ aside - start[0]) / edge).astype(int).clip(0, len(last) - 1)
        return np.asarray((xyz[:, :2] @ toward > last[column]) & (xyz[:, 2] > floor))

    return before
