"""Renders a scene from above and from a corner: finds the point that each pixel shows. Points are read in blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from hpal_cli.export.splats import FINEST, NO_POINT, eye_dome, spacing, splats
from hpal_cli.export.top_view import BELOW, cut_height, roofed

Blocks = Callable[[], Iterator[NDArray[np.floating]]]
"""Gives the positions of a scene, (B, 3) block by block in the order of its rows, each time anew."""

SAMPLE = 200_000
"""Points, evenly spread over the rows, by which a scene is framed and looked at from its best corner."""

STRAY, BEYOND = 0.001, 0.15
"""That share of the points at each end of an axis may make the picture longer by that share of its length; what lies
farther away is left out: what a scanner sees through a window, or birds."""

TILT, TURN = 38, 30
"""Degrees: the corner's camera above the horizon, and from the scene's shorter axis, so that the longer one is seen at
its length."""

LONG = 1.25
"""A scene longer than wide by this factor lies down."""

FINE = 2
"""Pixels drawn for one that is shown, along each axis: their mean has smooth edges."""

NEAREST, UNEVEN = 5000, 4
"""Points whose nearest other one is looked for, and how many such distances lie between points at most."""

SLICES, TALL = 8, 5
"""A wall is where points are in so many of the slices of the height up to the cut."""

SUN = np.array([-0.5, 0.6, 0.8]) / np.linalg.norm([-0.5, 0.6, 0.8])
"""Where light comes from, in the picture: from the upper left."""


@dataclass(frozen=True)
class Scene:
    """What is drawn of a scene of `count` points, in its unit.

    low, high: (3,) the box of the picture; cut: nothing above this z is shown; step: how far points lie apart; roof:
    whether a ceiling is cut away; outside: points beyond the box; sample: (S, 3) some of those within.
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
        return bool(height > LONG * width)


@dataclass(frozen=True)
class Image:
    """Which row of the scene each fine pixel shows, (H, W), or `NO_POINT`; its light, (H, W) in 0..1; and the edge of a
    pixel that is shown, in the unit of the scene."""

    rows: NDArray[np.int64]
    light: NDArray[np.float64]
    pixel: float

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in pixels that are shown."""
        return self.rows.shape[0] // FINE, self.rows.shape[1] // FINE

    @cached_property
    def _seen(self) -> tuple[NDArray[np.int64], NDArray[np.intp]]:
        """The rows that are shown, ascending, and for each pixel that shows one its place among them."""
        seen, place = np.unique(self.rows[self.rows != NO_POINT], return_inverse=True)
        return seen, place.reshape(-1)

    def colored(self, colors: Callable[[NDArray[np.int64]], NDArray[np.uint8]]) -> NDArray[np.uint8]:
        """(h, w, 3) on white. colors: (K,) rows, ascending -> (K, 3)."""
        seen, place = self._seen
        full = self.rows != NO_POINT
        fine = np.full((*self.rows.shape, 3), 255.0, np.float32)
        fine[full] = colors(seen)[place] * self.light[full][:, None]
        height, width = self.shape
        return np.rint(fine.reshape(height, FINE, width, FINE, 3).mean(axis=(1, 3))).astype(np.uint8)


@dataclass(frozen=True)
class _Camera:
    """right, up, toward: (3,) unit vectors; corner: (2,) the least (right, up) that is seen, and size: (2,) how much,
    in the unit of the scene; near: which of (B, 3) positions are left out to look behind them, or None."""

    right: NDArray[np.float64]
    up: NDArray[np.float64]
    toward: NDArray[np.float64]
    corner: NDArray[np.float64]
    size: NDArray[np.float64]
    near: Callable[[NDArray[np.float64]], NDArray[np.bool_]] | None = None


def framed(blocks: Blocks, count: int, *, unit: float, grid: float | None = None) -> Scene:
    """A scene of `count` points, at least one. unit: metres in one unit of their positions; grid: metres that they lie
    apart at least, None if that is not known."""
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
    cut = cut_height(sample, BELOW) if roof else float(high[2])
    scene = Scene(blocks, count, low, high, cut, (grid or 0.0) / unit, roof, outside, sample)
    # Scans can be thinner than the grid.
    return replace(scene, step=max(scene.step, _step(scene)))


def from_above(scene: Scene, box: tuple[int, int]) -> Image:
    """box: (width, height) in pixels that it fits into. What is longer than wide lies down: `Scene.lies_down`."""
    x, y, z = np.eye(3)
    right, up = (y, -x) if scene.lies_down else (x, y)
    corners = np.stack([scene.low, scene.high])
    low, high = np.sort(np.stack([corners @ right, corners @ up]), axis=1).T
    return _image(scene, _Camera(right, up, z, low, high - low), box)


def from_corner(scene: Scene, box: tuple[int, int]) -> Image:
    """From the corner from which least is hidden: where what is high lies behind. Of rooms the walls in front are left
    out, and what was cut away from above."""
    shown = scene.sample[scene.sample[:, 2] <= scene.cut]
    tilt = np.radians(TILT)
    width, height = (scene.high - scene.low)[:2]
    turn = TURN if height <= width else 90 - TURN
    least, toward = np.inf, np.zeros(3)
    for around in (270 - turn, 270 + turn, 90 - turn, 90 + turn):
        flat = np.radians(around)
        way = np.array([np.cos(tilt) * np.cos(flat), np.cos(tilt) * np.sin(flat), np.sin(tilt)])
        along = shown[:, :2] @ way[:2]
        nearer = along > np.median(along)
        ahead = float(shown[nearer, 2].mean() - shown[~nearer, 2].mean()) if nearer.any() else 0.0
        # A tie must not depend on rounding.
        if ahead < least - 1e-3 * float(np.ptp(scene.sample[:, 2])) - 1e-9:
            least, toward = ahead, way
    right = np.cross([0.0, 0.0, 1.0], toward)
    right /= np.linalg.norm(right)
    up = np.cross(toward, right)
    near = _front_walls(shown, toward[:2], scene) if scene.roof else None
    if near is not None:
        shown = shown[~near(shown)]
    seen = np.stack([shown @ right, shown @ up])
    low, high = seen.min(axis=1), seen.max(axis=1)
    margin = 0.01 * float((high - low).max())
    return _image(scene, _Camera(right, up, toward, low - margin, high - low + 2 * margin, near), box)


def _within(xyz: NDArray[np.floating], low: NDArray[np.float64], high: NDArray[np.float64]) -> NDArray[np.bool_]:
    return np.asarray(((xyz >= low) & (xyz <= high)).all(axis=1))


def _step(scene: Scene) -> float:
    """How far points lie apart as seen from above."""
    span = float((scene.high - scene.low)[:2].max())
    if not span:
        return 0.0
    edge = span / FINEST
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
    if step > UNEVEN * edge:
        # Where points are dense in one place and thin in another, gaps between the thin ones are no spacing.
        from scipy.spatial import cKDTree

        some = place[:: 1 + len(place) // NEAREST]
        step = min(step, UNEVEN * float(np.median(cKDTree(place).query(some, 2)[0][:, 1])))
    return step


def _image(scene: Scene, camera: _Camera, box: tuple[int, int]) -> Image:
    # A single point, or a line, is drawn as if it were wider.
    size = np.maximum(camera.size, max(0.02 * float(camera.size.max()), 1e-6))
    pixel = float((size / box).max())
    width, height = np.minimum(np.ceil(size / pixel - 1e-9).astype(int), box).tolist()
    fine = pixel / FINE
    shape = (height * FINE, width * FINE)
    # In the middle of the pixels that there are.
    corner = camera.corner - (np.array(shape[::-1]) * fine - camera.size) / 2
    front = _Front(shape)
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
    # Nothing is smaller than a pixel that is shown.
    step = max(scene.step, pixel)
    owner = splats(row + 0.5, column + 0.5, depth, shape=shape, pixel=fine, step=step)
    rows = np.append(front.rows[place], NO_POINT)[owner]
    far = depth.min(initial=0.0) - fine
    return Image(rows, _light(np.append(depth, far)[owner], rows != NO_POINT, fine, step), pixel)


def _light(depth: NDArray[np.float64], full: NDArray[np.bool_], pixel: float, step: float) -> NDArray[np.float64]:
    """(H, W) in 0..1: darker beside what is nearer, and where the surface turns away from the light."""
    from scipy.ndimage import gaussian_filter

    half = max(depth.shape) * pixel / 2
    # Points of one surface lie at somewhat different depths: only what is larger is a shape.
    sigma = max(1.0, 0.8 * step / pixel)
    weight = gaussian_filter(full.astype(np.float64), sigma)
    smooth = gaussian_filter(np.where(full, depth, 0.0), sigma) / np.maximum(weight, 1e-9)
    down, right = np.gradient(smooth, pixel)
    lit = (SUN[2] - SUN[0] * right + SUN[1] * down) / np.sqrt(right**2 + down**2 + 1)
    return np.asarray(eye_dome(depth, half) * np.clip(0.65 + 0.35 * lit / SUN[2], 0.6, 1.0))


class _Front:
    """The nearest point of each pixel, of points that come by blocks. Of equally near ones it is the last, so that the
    blocks' size makes no difference."""

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
        """Each (B,); row, column: whole numbers, in the picture or not."""
        height, width = self._shape
        inside = np.flatnonzero(~hidden & (row >= 0) & (row < height) & (column >= 0) & (column < width))
        nearest = inside[np.argsort(depth[inside], kind="stable")]
        place = row[nearest].astype(np.int64) * width + column[nearest].astype(np.int64)
        # Of several written to a pixel the last one stays.
        self._last[place] = np.arange(len(place))
        won = self._last[place] == np.arange(len(place))
        nearest, place = nearest[won], place[won]
        better = depth[nearest] >= self.depth[place]
        nearest, place = nearest[better], place[better]
        self.depth[place] = depth[nearest]
        self.rows[place] = self._given + nearest
        self._given += len(depth)


def _front_walls(
    shown: NDArray[np.float64], toward: NDArray[np.float64], scene: Scene
) -> Callable[[NDArray[np.float64]], NDArray[np.bool_]] | None:
    """Which points are of the walls that stand before a camera in the direction `toward` (2,); None if there are none.
    shown: (S, 3) some of the points below the cut."""
    from scipy.ndimage import median_filter, minimum_filter

    toward = toward / np.linalg.norm(toward)
    aside = np.array([-toward[1], toward[0]])
    height = scene.cut - scene.low[2]
    edge = max(float((scene.high - scene.low)[:2].max()) / 80, 3 * scene.step)
    if height <= 0 or not edge:
        return None
    across, along = shown[:, :2] @ aside, shown[:, :2] @ toward
    start = across.min(), along.min()
    column, row = ((across - start[0]) / edge).astype(int), ((along - start[1]) / edge).astype(int)
    piece = np.minimum(((shown[:, 2] - scene.low[2]) / height * SLICES).astype(int), SLICES - 1)
    has = np.zeros((column.max() + 1, row.max() + 1, SLICES), bool)
    has[column, row, piece] = True
    tall = has.sum(axis=2) >= TALL
    limit = np.full(len(has), np.nan)
    for n in np.flatnonzero(tall.any(axis=1)):
        there, walls = np.flatnonzero(has[n].any(axis=1)), np.flatnonzero(tall[n])
        # The wall at the back is none of them.
        if walls[-1] > (there[0] + there[-1]) / 2 and there[-1] > there[0] + 2:
            limit[n] = walls[-1]
    known = np.flatnonzero(~np.isnan(limit))
    if not len(known):
        return None
    # Before a window or a door the wall is where it is beside them; what leads away is in several cells of a column.
    limit = np.interp(np.arange(len(limit)), known, limit[known])
    last = start[1] + edge * (minimum_filter(median_filter(limit, 5, mode="nearest"), 3, mode="nearest") - 1)
    floor = scene.low[2] + 0.08 * height

    def before(xyz: NDArray[np.float64]) -> NDArray[np.bool_]:
        column = ((xyz[:, :2] @ aside - start[0]) / edge).astype(int).clip(0, len(last) - 1)
        return np.asarray((xyz[:, :2] @ toward > last[column]) & (xyz[:, 2] > floor))

    return before
