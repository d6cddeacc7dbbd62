"""A terrestrial laser scanner: first-hit ray casting of upright solids, and the colour of what it hit.

Every solid is an upright prism (a box turned about z, or a cylinder), so a hit test separates into
one interval for each column of rays (azimuth) and one for each row (elevation). A room of hundreds of
solids is therefore fast enough without an acceleration structure.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

MIN_ELEVATION, MAX_ELEVATION = float(np.radians(-74)), float(np.radians(89))  # the tripod hides what is straight below
NEAR = 1.6  # m; at smaller distances the density of points no longer grows
RANGE_NOISE = 0.002  # m, at the scanner, doubling every NOISE_DOUBLES
NOISE_DOUBLES = 5.0  # m
STRAY, STRAY_NOISE = 0.02, 0.012  # share of returns with a large range error, and the scale of that error in m
EDGE, MIXED = 0.08, 0.12  # m of depth from which a step is an edge; share of returns there that fall in between
GHOST = 0.15  # share of glass returns that are reflections from behind the pane
AMBIENT = 0.5  # light without lamps, relative to a lamp of strength 1 at its foot
EXPOSED = 0.8  # share of a scan with less light than the camera is exposed for, so that it looks darker than its paint
GRAZING = 4.0  # cosine of incidence times this is the chance of a return


@dataclass(frozen=True)
class Surface:
    """What a solid is made of. rgb: 0..255. texture: a name in TEXTURES. keep: share of rays that return
    (dark and glossy things return fewer). through: share of rays that pass through (glass)."""

    rgb: tuple[float, float, float]
    texture: str = "plain"
    keep: float = 0.97
    through: float = 0.0


@dataclass(frozen=True)
class Solid:
    """An upright box, or a cylinder of diameter `w` if `round`. Metres and radians: (x, y) is the
    middle of the footprint, z the underside; w, d and h the sizes along its own x, its own y and z;
    yaw turns its own x from the x axis."""

    x: float
    y: float
    z: float
    w: float
    d: float
    h: float
    surface: Surface
    yaw: float = 0.0
    round: bool = False


@dataclass(frozen=True)
class Scan:
    """N returns. xyz (N, 3) m; solid (N,) index of the solid hit; normal (N, 3) unit vectors, outwards;
    uv (N, 2) m, place on the face hit; distance (N,) m from the scanner; weight (N,) in 0..1, to which the
    chance that `thin` keeps a return is proportional. It makes the density of points constant up to the distance NEAR,
    beyond which the density falls with the square of the distance."""

    xyz: Floats
    solid: NDArray[np.int64]
    normal: Floats
    uv: Floats
    distance: Floats
    weight: Floats

    def __getitem__(self, rows: NDArray[np.int64] | NDArray[np.bool_]) -> Scan:
        return Scan(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))


def cast(
    solids: Sequence[Solid],
    origin: Floats,
    azimuth: Floats,
    elevation: Floats,
    rng: np.random.Generator,
) -> tuple[Floats, NDArray[np.int64]]:
    """First hits of the R x C rays of elevation (R,) and azimuth (C,), radians, from origin (3,) m.

    Returns the horizontal distance (R, C) in m, inf where nothing is hit, and the index of the solid
    hit (R, C), -1 for none. A solid that holds the origin is not seen.
    """
    ox, oy, oz = (float(v) for v in origin)
    cos, sin, slope = np.cos(azimuth), np.sin(azimuth), _nonzero(np.tan(elevation))
    best = np.full((len(elevation), len(azimuth)), np.inf)
    which = np.full(best.shape, -1, np.int64)
    for index, s in enumerate(solids):
        dx, dy = s.x - ox, s.y - oy
        if s.round:
            along = dx * cos + dy * sin
            inside = (s.w / 2) ** 2 - (dx**2 + dy**2) + along**2
            chord = np.sqrt(np.maximum(inside, 0))
            near, far = along - chord, along + chord
        else:
            c, n = np.cos(s.yaw), np.sin(s.yaw)
            near_x, far_x = _slab(c * dx + n * dy, s.w, _nonzero(c * cos + n * sin))
            near_y, far_y = _slab(c * dy - n * dx, s.d, _nonzero(c * sin - n * cos))
            near, far = np.maximum(near_x, near_y), np.minimum(far_x, far_y)
        cols = np.flatnonzero((far > near) & (far > 0))
        if not cols.size:
            continue
        low, high = _slab(s.z + s.h / 2 - oz, s.h, slope)
        rows = np.flatnonzero((high > max(near[cols].min(), 0)) & (low < far[cols].max()))
        if not rows.size:
            continue
        cell = np.ix_(rows, cols)
        enter = np.maximum(low[rows, None], near[cols])
        hit = (enter > 0) & (enter < np.minimum(high[rows, None], far[cols])) & (enter < best[cell])
        if s.surface.through:
            hit &= rng.random(hit.shape) >= s.surface.through
        best[cell] = np.where(hit, enter, best[cell])
        which[cell] = np.where(hit, index, which[cell])
    return best, which


def scan(solids: Sequence[Solid], origin: Floats, rays: int, rng: np.random.Generator) -> Scan:
    """All returns of about `rays` rays at uniform angular steps from origin (3,) m, with range noise,
    mixed returns at edges, and the losses of dark, glossy, glass and grazed surfaces."""
    rows = max(8, round(np.sqrt(rays * (MAX_ELEVATION - MIN_ELEVATION) / (2 * np.pi))))
    columns = max(8, rays // rows)
    elevation = MIN_ELEVATION + (np.arange(rows) + rng.random()) * ((MAX_ELEVATION - MIN_ELEVATION) / rows)
    azimuth = (np.arange(columns) + rng.random()) * (2 * np.pi / columns)
    flat, which = cast(solids, origin, azimuth, elevation, rng)

    reach = flat / np.cos(elevation)[:, None]
    beside = np.roll(reach, -1, axis=1)
    ok = which >= 0
    jump = np.where(ok & np.isfinite(beside), np.where(ok, beside, 0) - np.where(ok, reach, 0), 0.0)[ok]
    r, c = np.nonzero(ok)
    index, reach = which[ok], reach[ok]
    ray = np.stack([np.cos(elevation[r]) * np.cos(azimuth[c]), np.cos(elevation[r]) * np.sin(azimuth[c])], 1)
    ray = np.column_stack([ray, np.sin(elevation[r])])
    normal, uv = _faces(solids, index, origin + ray * reach[:, None])
    incidence = -(ray * normal).sum(1)
    weight = np.cos(elevation[r]) * np.minimum(1, (reach / NEAR) ** 2)

    keep = np.array([s.surface.keep for s in solids])[index]
    glass = np.array([s.surface.through > 0 for s in solids])[index]
    n = len(index)
    noise = rng.standard_normal(n) * RANGE_NOISE * 2 ** (reach / NOISE_DOUBLES)
    noise += np.where(rng.random(n) < STRAY, rng.laplace(0, STRAY_NOISE, n), 0)
    mixed = (jump > EDGE) & (rng.random(n) < MIXED)
    noise += np.where(mixed, rng.random(n) * np.minimum(jump, 0.6), 0)
    noise += np.where(glass & (rng.random(n) < GHOST), rng.uniform(0.05, 0.8, n), 0)
    kept = rng.random(n) < keep * np.minimum(1, GRAZING * incidence)
    xyz = origin + ray * (reach + noise)[:, None]
    return Scan(xyz, index, normal, uv, reach, weight)[kept]


def thin(found: Scan, target: int, rng: np.random.Generator) -> Scan:
    """About `target` of the returns, drawn by weight."""
    chance = found.weight * (target / max(found.weight.sum(), 1e-9))
    return found[rng.random(len(chance)) < chance]


def shade(
    found: Scan,
    solids: Sequence[Solid],
    lamps: Floats,
    gain: Floats,
    rng: np.random.Generator,
) -> NDArray[np.uint8]:
    """Colours (N, 3) of a scan: textures under lamps (L, 4), each x, y, z in m and strength, then the
    camera's gain (3,) (white balance times exposure) and its noise."""
    if not len(found.solid):
        return np.zeros((0, 3), np.uint8)
    rgb = np.array([s.surface.rgb for s in solids], np.float64)[found.solid]
    names = np.array([s.surface.texture for s in solids])[found.solid]
    for name in np.unique(names):
        at = np.flatnonzero(names == name)
        phase = np.asarray(found.solid[at] * 0.618, np.float64)
        rgb[at] = TEXTURES[str(name)](rgb[at], found.uv[at, 0], found.uv[at, 1], phase)
    light = np.full(len(rgb), AMBIENT)
    for lamp in lamps:
        towards = lamp[:3] - found.xyz
        away = np.linalg.norm(towards, axis=1) + 1e-6
        facing = (towards * found.normal).sum(1) / away
        light += lamp[3] * (0.35 + 0.65 * np.maximum(facing, 0)) / (1 + (away / 2.5) ** 2)
    rgb = rgb * (light / np.quantile(light, EXPOSED))[:, None] * gain
    rgb *= 1 + 0.03 * rng.standard_normal((len(rgb), 1))
    return np.clip(np.rint(rgb + rng.normal(0, 3, rgb.shape)), 0, 255).astype(np.uint8)


def _nonzero(v: Floats) -> Floats:
    return np.where(np.abs(v) < 1e-9, 1e-9, v)


def _slab(middle: float, size: float, speed: Floats) -> tuple[Floats, Floats]:
    """The distances at which rays enter and leave a slab, along one axis. middle: of the slab, from the rays'
    origin; size: its thickness; speed: change of the coordinate per unit of distance."""
    a, b = (middle - size / 2) / speed, (middle + size / 2) / speed
    return np.minimum(a, b), np.maximum(a, b)


def _faces(solids: Sequence[Solid], index: NDArray[np.int64], xyz: Floats) -> tuple[Floats, Floats]:
    """Outward normals (N, 3) and face coordinates (N, 2) of exact hits xyz (N, 3)."""
    table = np.array([(s.x, s.y, s.z + s.h / 2, s.w, s.d, s.h, s.yaw, s.round) for s in solids])[index]
    yaw, rounded = table[:, 6], table[:, 7] > 0
    away = xyz - table[:, :3]
    c, n = np.cos(yaw), np.sin(yaw)
    local = np.stack([c * away[:, 0] + n * away[:, 1], c * away[:, 1] - n * away[:, 0], away[:, 2]], 1)
    share = np.abs(local) / (table[:, 3:6] / 2)
    radial = np.hypot(local[:, 0], local[:, 1]) / (table[:, 3] / 2)
    share[:, 0] = np.where(rounded, radial, share[:, 0])
    share[:, 1] = np.where(rounded, 0, share[:, 1])
    axis = share.argmax(1)
    normal = np.eye(3)[axis] * np.sign(np.take_along_axis(local, axis[:, None], 1))
    side = rounded & (axis == 0)
    normal[side] = local[side] * [1, 1, 0] / np.maximum(table[side, 3:4] / 2, 1e-9)
    turned = np.stack([c * normal[:, 0] - n * normal[:, 1], n * normal[:, 0] + c * normal[:, 1]], 1)
    around = np.arctan2(local[:, 1], local[:, 0]) * table[:, 3] / 2
    u = np.where(side, around, np.where(axis == 0, local[:, 1], local[:, 0]))
    v = np.where(axis == 2, local[:, 1], local[:, 2])
    return np.column_stack([turned, normal[:, 2]]), np.stack([u, v], 1)


Texture = Callable[[Floats, Floats, Floats, Floats], Floats]


def _hash(i: Floats, j: Floats, salt: Floats | float) -> Floats:
    """A pseudo-random number in 0..1 for each cell (i, j), which is always the same."""
    return np.modf(np.abs(np.sin(np.floor(i) * 12.9898 + np.floor(j) * 78.233 + salt) * 43758.5453))[0]


def _grain(rgb: Floats, u: Floats, v: Floats, phase: Floats) -> Floats:
    rings = np.sin(2 * np.pi * (14 * v + 0.7 * np.sin(2.1 * u + phase)) + phase)
    return rgb * (1 + 0.09 * rings + 0.06 * (_hash(u / 0.4, v / 0.012, phase) - 0.5))[:, None]


def _planks(rgb: Floats, u: Floats, v: Floats, phase: Floats) -> Floats:
    board = 0.85 + 0.3 * _hash(u / 1.2 + 0.5 * np.floor(v / 0.13), v / 0.13, phase)
    return _grain(rgb * board[:, None], u, v, phase)


def _speckle(rgb: Floats, u: Floats, v: Floats, phase: Floats) -> Floats:
    return rgb * (0.88 + 0.24 * _hash(u / 0.02, v / 0.02, phase))[:, None]


def _tiles(rgb: Floats, u: Floats, v: Floats, phase: Floats) -> Floats:
    joint = (np.mod(u, 0.6) < 0.015) | (np.mod(v, 0.6) < 0.015)
    return rgb * np.where(joint, 0.7, 0.96 + 0.06 * _hash(u / 0.6, v / 0.6, phase))[:, None]


def _bricks(rgb: Floats, u: Floats, v: Floats, phase: Floats) -> Floats:
    row = np.floor(v / 0.075)
    joint = (np.mod(v, 0.075) < 0.01) | (np.mod(u + 0.12 * np.mod(row, 2), 0.24) < 0.01)
    tone = 0.8 + 0.35 * _hash((u + 0.12 * np.mod(row, 2)) / 0.24, row, phase)
    return np.where(joint[:, None], 190.0, rgb * tone[:, None])


def _books(rgb: Floats, u: Floats, v: Floats, phase: Floats) -> Floats:
    spine = u / 0.035 + 0.3 * np.sin(u * 40)
    hue = np.stack([_hash(spine, 0 * u, phase + salt) for salt in (0.1, 1.7, 3.1)], 1)
    band = np.where(_hash(spine, v / 0.03, phase) > 0.85, 1.35, 1.0)
    return (0.25 * rgb + 0.75 * (35 + 190 * hue**1.3)) * band[:, None]


def _print(rgb: Floats, u: Floats, v: Floats, phase: Floats) -> Floats:
    patch = np.stack([_hash(u / 0.13, v / 0.11, phase + salt) for salt in (0.3, 2.2, 4.9)], 1)
    return rgb * (0.55 + 0.6 * patch)


TEXTURES: dict[str, Texture] = {
    "plain": lambda rgb, u, v, phase: rgb,
    "grain": _grain,
    "planks": _planks,
    "speckle": _speckle,
    "tiles": _tiles,
    "bricks": _bricks,
    "books": _books,
    "print": _print,
}
