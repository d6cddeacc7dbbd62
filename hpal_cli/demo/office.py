"""A seeded synthetic office in the S3DIS folder layout: furnished rooms, scanned by `scanner`.

Colours come from a few palettes that all classes share (one room's door has another room's wall paint),
so that a class can be recognised by shape and context, and not by colour or height alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hpal_cli.demo.scanner import Floats, Solid, Surface, scan, shade, thin

CLASSES = (
    "ceiling", "floor", "wall", "beam", "column", "window", "door",
    "table", "chair", "sofa", "bookcase", "board", "clutter",
)  # fmt: skip
"""The 13 classes of S3DIS; a class id is an index into this tuple."""

RGB = tuple[float, float, float]
PAINT: list[RGB] = [
    (236, 234, 228), (226, 222, 212), (222, 214, 196), (205, 210, 212), (188, 202, 212), (214, 202, 160),
    (186, 200, 178), (172, 166, 160), (206, 172, 144), (120, 135, 150), (96, 104, 108), (160, 96, 82),
]  # fmt: skip
WOOD: list[RGB] = [(196, 160, 112), (162, 112, 72), (108, 74, 50), (215, 190, 150), (140, 122, 102)]
FABRIC: list[RGB] = [
    (60, 65, 75), (42, 42, 44), (92, 100, 120), (122, 62, 56), (95, 110, 86), (150, 140, 125),
    (172, 167, 160), (110, 85, 62), (44, 70, 112), (200, 190, 170),
]  # fmt: skip
METAL: list[RGB] = [(176, 178, 180), (112, 114, 118), (44, 44, 46), (205, 205, 202)]

GLASS = Surface((88, 104, 112), keep=0.5, through=0.45)
WALL = 0.14  # m, thickness of walls: openings show it at their sides
ROOM_SPACING = 14.0  # m from room to room on the floor plan
MID_ROOM = 27.0  # m2, floor area of the room that gets the number of points asked for
RAYS = 4  # rays cast per point that is kept, so that thinning can choose among returns
SCAN_AREA, SCAN_LENGTH = 14.0, 3.1  # m2 of floor, and m of a hallway, per scanner position
MUST_TRIES = 30  # sizes tried for a thing that a room must have
TRIES = 60  # places tried for a thing before the room counts as full

KINDS: dict[str, tuple[tuple[float, float], tuple[float, float], dict[str, tuple[int, int]]]] = {
    # kind: width and depth in m (lowest, highest), then how many of each thing (fewest, most)
    "office": ((4.4, 6.4), (3.8, 5.2), {
        "door": (1, 2), "window": (0, 2), "column": (0, 1), "beam": (0, 1), "board": (0, 2),
        "sofa": (0, 1), "bookcase": (0, 2), "desk": (1, 4), "round": (0, 1), "cabinet": (0, 2),
        "picture": (0, 2), "loose": (2, 6),
    }),
    "conferenceRoom": ((5.4, 7.5), (4.4, 6.0), {
        "door": (1, 2), "window": (0, 2), "column": (0, 2), "beam": (0, 2), "board": (1, 2),
        "bookcase": (0, 1), "meeting": (1, 1), "cabinet": (0, 1), "picture": (0, 1), "loose": (1, 4),
    }),
    "hallway": ((8.5, 11.5), (2.3, 3.2), {
        "door": (3, 6), "window": (0, 1), "column": (1, 3), "beam": (1, 3), "board": (0, 2),
        "sofa": (0, 1), "bookcase": (0, 1), "cabinet": (0, 2), "picture": (1, 3), "loose": (1, 4),
    }),
    "pantry": ((4.2, 5.6), (3.6, 4.8), {
        "door": (1, 1), "window": (0, 1), "column": (0, 1), "beam": (0, 1), "board": (0, 1),
        "sofa": (0, 1), "bookcase": (0, 1), "counter": (1, 2), "bar": (0, 1), "round": (0, 1),
        "cabinet": (1, 2), "picture": (0, 1), "loose": (2, 4),
    }),
    "lounge": ((5.0, 7.0), (4.4, 6.0), {
        "door": (1, 2), "window": (0, 2), "column": (0, 2), "beam": (0, 2), "board": (0, 1),
        "sofa": (2, 4), "bookcase": (0, 2), "round": (1, 2), "coffee": (1, 1), "picture": (0, 2),
        "loose": (2, 5),
    }),
}  # fmt: skip
# The ten rooms of a building; further rooms repeat them. Each comes with the things of which it has at least one
# whatever the random numbers say, so that every class is in several of the first seven rooms and of the last three.
BUILDING: list[tuple[str, str]] = [
    ("office", "window column beam board bookcase sofa"),
    ("conferenceRoom", "window column beam bookcase"),
    ("hallway", "board sofa"),
    ("office", "board bookcase"),
    ("pantry", "window sofa round"),
    ("lounge", "window bookcase board beam"),
    ("office", "column window"),
    ("conferenceRoom", "column beam board window"),
    ("office", "sofa bookcase window beam"),
    ("pantry", "round board bookcase"),
]


@dataclass(frozen=True)
class Room:
    """One scanned room of N points.

    name: such as `office_3`. xyz: (N, 3) float64 m, in the building's frame. rgb: (N, 3) uint8.
    label: (N,) int64, indices into CLASSES. instance: (N,) int64, the number of the point's object; objects of all
    classes are numbered together.
    """

    name: str
    xyz: Floats
    rgb: NDArray[np.uint8]
    label: NDArray[np.int64]
    instance: NDArray[np.int64]


def make_office(
    folder: Path,
    *,
    rooms: int = 10,
    seed: int = 0,
    points: int = 30_000,
    on_room: Callable[[str], None] | None = None,
) -> list[Path]:
    """Write `folder/Area_1/office_1/Annotations/ceiling_1.txt` and so on, with lines `x y z r g b` in metres
    and 0..255. The last 30 % of the rooms go to Area_2, for validation.

    points: about how many a room of medium size gets. on_room: called with the name of each room
    (`Area_1/office_1`) after it is written. A room depends only on `seed`, `points` and its number.

    Returns the room folders, in order.

    Raises:
        OSError: a file cannot be written.
    """
    held_out = max(round(rooms * 0.3), 1) if rooms > 1 else 0
    folders = []
    for number in range(rooms):
        room = make_room(number, seed=seed, points=points)
        area = "Area_2" if number >= rooms - held_out else "Area_1"
        target = Path(folder) / area / room.name
        (target / "Annotations").mkdir(parents=True, exist_ok=True)
        seen = dict.fromkeys(CLASSES, 0)
        columns = np.column_stack([room.xyz, room.rgb])
        for instance in np.unique(room.instance):
            rows = np.flatnonzero(room.instance == instance)
            name = CLASSES[room.label[rows[0]]]
            seen[name] += 1
            # One format of the whole file: many times faster than np.savetxt.
            text = ("%.3f %.3f %.3f %d %d %d\n" * len(rows)) % tuple(columns[rows].ravel().tolist())
            file = target / "Annotations" / f"{name}_{seen[name]}.txt"
            file.write_text(text, encoding="ascii", newline="\n")
        folders.append(target)
        if on_room is not None:
            on_room(f"{area}/{room.name}")
    return folders


def make_room(number: int, *, seed: int = 0, points: int = 30_000) -> Room:
    """Makes room `number` (from 0) of the building with this seed, in memory. points: as for `make_office`."""
    rng = np.random.default_rng([seed, number])
    kind, musts = BUILDING[number % len(BUILDING)]
    kinds = [BUILDING[n % len(BUILDING)][0] for n in range(number + 1)]
    site = _furnish(kind, set(musts.split()), rng)

    area = site.width * site.depth
    scans = round(max(area / SCAN_AREA, site.width / SCAN_LENGTH))
    stations = _stations(site, min(max(scans, 1 + (site.notch is not None)), 3))
    target = round(points * float(np.clip(area / MID_ROOM, 0.6, 1.5)) / len(stations))
    white = rng.normal(1, 0.05, 3)
    xyz, rgb, solid = [], [], []
    for station in stations:
        found = thin(scan(site.solids, station, target * RAYS, rng), target, rng)
        xyz.append(found.xyz)
        rgb.append(shade(found, site.solids, np.array(site.lamps), white * rng.uniform(0.8, 1.1), rng))
        solid.append(found.solid)

    # Most rooms follow the building's axes, as real ones do.
    yaw = rng.choice([0, 0, np.pi / 2, np.pi, float(rng.uniform(-0.5, 0.5))])
    c, n = np.cos(yaw), np.sin(yaw)
    at = np.concatenate(xyz) - [site.width / 2, site.depth / 2, 0]
    place = np.array([number % 5, number // 5]) * ROOM_SPACING + rng.uniform(-1, 1, 2)
    floor = rng.choice([0.0, rng.uniform(-0.3, 0.3)])
    at = np.stack([c * at[:, 0] - n * at[:, 1], n * at[:, 0] + c * at[:, 1], at[:, 2]], 1)
    at += np.array([*place, floor])
    which = np.concatenate(solid)
    label, instance = np.array(site.label)[which], np.array(site.instance)[which]
    return Room(f"{kind}_{kinds.count(kind)}", at, np.concatenate(rgb), label, instance)


class _Full(Exception):
    """The room has no place left for a thing."""


class _Spot(NamedTuple):
    """A place for a thing, in m and rad. At a wall it is the middle of the thing's back edge, with +y into the room."""

    x: float
    y: float
    yaw: float


@dataclass
class _Side:
    """One wall, seen from inside. (x, y): its left end; yaw: its direction; used, holes: rectangles
    (u0, u1, z0, z1) in m along the wall and upwards that things occupy, and that are cut out of it."""

    x: float
    y: float
    yaw: float
    length: float
    used: list[tuple[float, float, float, float]] = field(default_factory=list)
    holes: list[tuple[float, float, float, float]] = field(default_factory=list)


@dataclass
class _Site:
    """A room that is being furnished, in its own frame, whose origin is a corner of the floor. taken: rectangles
    (x0, y0, x1, y1) of the floor that are occupied; solids, label, instance: one entry for each part of a thing."""

    rng: np.random.Generator
    width: float
    depth: float
    height: float
    notch: tuple[float, float] | None
    sides: list[_Side] = field(default_factory=list)
    taken: list[tuple[float, float, float, float]] = field(default_factory=list)
    solids: list[Solid] = field(default_factory=list)
    label: list[int] = field(default_factory=list)
    instance: list[int] = field(default_factory=list)
    lamps: list[tuple[float, float, float, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.paint = self.look(PAINT, PAINT[:6])

    def put(
        self,
        name: str,
        parts: list[Solid],
        at: _Spot,
        u: float = 0,
        v: float = 0,
        turn: float = 0,
        z: float = 0,
    ) -> None:
        """Add one object. parts: in the object's own frame, which is at u along and v ahead of `at`, turned by `turn`
        and raised by z."""
        self.solids += _moved(_moved(parts, u, v, turn, z), *at)
        self.instance += [self.instance[-1] + 1 if self.instance else 0] * len(parts)
        self.label += [CLASSES.index(name)] * len(parts)

    def claim(self, at: _Spot, w: float, d0: float, d1: float) -> bool:
        """Occupy the floor w wide from d0 to d1 ahead of `at`; False if a part of it is not free."""
        c, n = np.cos(at.yaw), np.sin(at.yaw)
        corners = [(at.x + c * u - n * v, at.y + n * u + c * v) for u in (-w / 2, w / 2) for v in (d0, d1)]
        (x0, y0), (x1, y1) = np.min(corners, axis=0) + 0.001, np.max(corners, axis=0) - 0.001
        if x0 < 0 or y0 < 0 or x1 > self.width or y1 > self.depth:
            return False
        if any(x0 < b[2] and b[0] < x1 and y0 < b[3] and b[1] < y1 for b in self.taken):
            return False
        self.taken.append((x0, y0, x1, y1))
        return True

    def at_wall(self, w: float, d: float, z0: float, z1: float, hole: float | None = None) -> _Spot:
        """A free place at a wall for a thing w wide and d deep (0: the floor stays free) from z0 to z1. hole: None, or
        the width of the rim that stays when the place is cut out of the wall.

        Raises:
            _Full: no free place was found.
        """
        lengths = np.array([s.length for s in self.sides])
        for _ in range(TRIES):
            side = self.sides[self.rng.choice(len(self.sides), p=lengths / lengths.sum())]
            u = self.between(w / 2 + 0.05, max(side.length - w / 2 - 0.05, w / 2 + 0.06))
            u0, u1 = u - w / 2, u + w / 2
            clash = any(u0 < b[1] and b[0] < u1 and z0 < b[3] and b[2] < z1 for b in side.used)
            if clash or u1 > side.length:
                continue
            at = _Spot(side.x + u * float(np.cos(side.yaw)), side.y + u * float(np.sin(side.yaw)), side.yaw)
            if d and not self.claim(at, w, 0, d):
                continue
            side.used.append((u0, u1, z0, z1))
            if hole is not None:
                side.holes.append((u0 + hole, u1 - hole, z0 and z0 + hole, z1 - hole))
            return at
        raise _Full

    def on_floor(self, size: float, yaw: float | None = None) -> _Spot:
        """The middle of a free square of floor, at the angle `yaw`, by default a random one.

        Raises:
            _Full: no free place was found.
        """
        for _ in range(TRIES):
            at = _Spot(self.between(0, self.width), self.between(0, self.depth), 0)
            if self.claim(at, size, -size / 2, size / 2):
                return at._replace(yaw=self.between(0, 2 * np.pi) if yaw is None else yaw)
        raise _Full

    def between(self, low: float, high: float) -> float:
        return float(self.rng.uniform(low, high))

    def maybe(self, chance: float) -> bool:
        return bool(self.rng.random() < chance)

    def look(self, *palettes: list[RGB], texture: str = "plain", keep: float = 0.97) -> Surface:
        """A surface in a colour near one of a palette. Wood gets a grain, and dark surfaces return fewer rays."""
        palette = palettes[self.rng.integers(len(palettes))]
        rgb = np.array(palette[self.rng.integers(len(palette))]) * self.rng.normal(1, 0.04)
        red, green, blue = (float(v) for v in rgb + self.rng.normal(0, 4, 3))
        if palette is WOOD and texture == "plain":
            texture = "grain"
        return Surface((red, green, blue), texture, keep - 0.25 * max(0.0, 1 - green / 90))


def _moved(parts: list[Solid], x: float, y: float, yaw: float = 0, z: float = 0) -> list[Solid]:
    c, n = float(np.cos(yaw)), float(np.sin(yaw))
    return [replace(p, x=x + c * p.x - n * p.y, y=y + n * p.x + c * p.y, z=p.z + z, yaw=p.yaw + yaw) for p in parts]


def _furnish(kind: str, musts: set[str], rng: np.random.Generator) -> _Site:
    (w0, w1), (d0, d1), counts = KINDS[kind]
    width, depth, height = (float(rng.uniform(a, b)) for a, b in ((w0, w1), (d0, d1), (2.5, 3.2)))
    notch = None
    if kind != "hallway" and rng.random() < 0.35:
        notch = (float(rng.uniform(0.8, 1.6)), float(rng.uniform(0.8, 1.4)))
    site = _Site(rng, width, depth, height, notch)
    corners = [(0.0, 0.0), (width, 0.0), (width, depth), (0.0, depth)]
    if notch:
        x, y = width - notch[0], depth - notch[1]
        corners[2:3] = [(width, y), (x, y), (x, depth)]
        site.taken.append((x, y, width, depth))
    for (ax, ay), (bx, by) in pairwise([*corners, corners[0]]):
        turn, length = float(np.arctan2(by - ay, bx - ax)), float(np.hypot(bx - ax, by - ay))
        site.sides.append(_Side(ax, ay, turn, length))

    # Things that a room must have come first, while there is space; after them, large things come before small ones.
    plan = [name for name in BUILDERS if name in musts or counts.get(name, (0, 0))[0]]
    firsts = len(plan)
    for name in BUILDERS:
        low, high = counts.get(name, (0, 0))
        plan += [name] * (int(rng.integers(low, high + 1)) - (name in plan))
    for place, name in enumerate(plan):
        for _ in range(MUST_TRIES if place < firsts else 1):
            try:
                BUILDERS[name](site)
                break
            except _Full:  # the next try has another random size
                continue
    _shell(site)
    return site


def _shell(site: _Site) -> None:
    """Floor, ceiling with lamps and pipes, and walls with their openings."""
    w, d, h, here = site.width, site.depth, site.height, _Spot(0, 0, 0)
    palette, texture = [(FABRIC, "speckle"), (WOOD, "planks"), (PAINT[2:], "tiles")][site.rng.integers(3)]
    lid = site.look(PAINT[:4], texture=["plain", "tiles"][site.rng.integers(2)])
    size = w + 2 * WALL, d + 2 * WALL
    site.put("floor", [Solid(w / 2, d / 2, -0.1, *size, 0.1, site.look(palette, texture=texture))], here)
    site.put("ceiling", [Solid(w / 2, d / 2, h, *size, 0.1, lid)], here)

    accent = site.look(PAINT, WOOD, PAINT[-1:])
    if accent.texture == "plain" and accent.rgb[0] > 1.4 * accent.rgb[1]:
        accent = replace(accent, texture="bricks")
    odd = site.rng.integers(len(site.sides)) if site.maybe(0.45) else -1
    for i, side in enumerate(site.sides):
        # Walls meet at outer corners; at the inner corner of an L nothing may stick out.
        start, end = (0.0 if site.notch and i == inner else WALL for inner in (3, 2))
        edges = sorted({-start, side.length + end, *(u for hole in side.holes for u in hole[:2])})
        parts = []
        for a, b in pairwise(edges):
            level = 0.0
            cut = sorted((z0, z1) for u0, u1, z0, z1 in side.holes if u0 < (a + b) / 2 < u1)
            for z0, z1 in [*cut, (h, h)]:
                if z0 > level:
                    piece = Solid((a + b) / 2, -WALL / 2, level, b - a, WALL, z0 - level, site.paint)
                    parts.append(replace(piece, surface=accent) if i == odd else piece)
                level = z1
        site.put("wall", parts, _Spot(side.x, side.y, side.yaw))

    rows, tube, drop = max(1, round(w / 3)), site.maybe(0.5), site.between(0.02, 0.5)
    for i in range(rows):
        x, y = w * (i + 0.5) / rows, d * 0.45
        site.lamps.append((x, y, h - 0.15, site.between(0.35, 0.9)))
        bright = Surface((255, 252, 240))
        lamp = [Solid(0, 0, -0.05, 0.6, 0.6, 0.05, bright)]
        if tube:
            lamp = [Solid(0, 0, -0.06 - drop, 0.16, 1.2, 0.06, bright)]
            lamp += [Solid(0, v, -drop, 0.02, 0.02, drop, site.look(METAL), round=True) for v in (-0.4, 0.4)]
        site.put("clutter", lamp, _Spot(x, y, 0), z=h)
    for _ in range(site.rng.integers(0, 3)):
        size_, gap = site.between(0.06, 0.28), site.between(0.03, 0.15)
        pipe = Solid(w / 2, 0, h - size_ - gap, w, size_, size_ * 0.7, site.look(METAL, PAINT[:4]))
        site.put("clutter", [pipe], here, v=site.between(0.3, d - 0.3))


def _door(site: _Site) -> None:
    w, h = site.between(0.8, 1.05), site.between(1.98, 2.15)
    at = site.at_wall(w + 0.2, 0.9, 0, h + 0.1, hole=0.1)
    look = [site.paint, site.look(WOOD), site.look(PAINT), site.look(PAINT[:4])][site.rng.integers(4)]
    frame = look if site.maybe(0.5) else site.look(METAL, PAINT)
    f = 0.05
    casing = [Solid(e * (w - f) / 2, -WALL / 2 + 0.01, 0, f, WALL + 0.02, h, frame) for e in (-1, 1)]
    casing.append(Solid(0, -WALL / 2 + 0.01, h - f, w, WALL + 0.02, f, frame))
    long, tall, handle = w - 2 * f, h - f - 0.01, Surface((150, 150, 150), keep=0.7)
    leaf = [Solid(long / 2, 0, 0.005, long, 0.04, tall, look)]
    if site.maybe(0.35):  # the upper half glazed
        leaf[0] = replace(leaf[0], h=1.0)
        leaf += [Solid(u, 0, 1.005, 0.14, 0.04, tall - 1, look) for u in (0.07, long - 0.07)]
        leaf.append(Solid(long / 2, 0, tall - 0.15, long, 0.04, 0.15, look))
        leaf.append(Solid(long / 2, 0, 1.0, long - 0.28, 0.01, tall - 1.15, GLASS))
    leaf += [Solid(long - 0.08, v, 1.02, 0.12, 0.03, 0.025, handle) for v in (-0.05, 0.05)]
    swing = site.between(0.3, 1.7) if site.maybe(0.35) else 0.0
    site.put("door", casing + _moved(leaf, -long / 2, -site.between(0.02, WALL - 0.04), swing), at)


def _window(site: _Site) -> None:
    sill, top = site.between(0.3, 1.05), min(site.height - 0.15, site.between(2.0, 2.5))
    w, h = site.between(1.0, 2.4), top - sill
    at = site.at_wall(w + 0.1, 0, sill - 0.05, top + 0.05, hole=0.05)
    frame, f, out = site.look(PAINT[:4], METAL, WOOD), 0.07, -WALL + 0.04
    posts = np.linspace(-(w - f) / 2, (w - f) / 2, 2 + int(w > 1.3))
    parts = [Solid(float(u), out, sill, f, 0.07, h, frame) for u in posts]
    parts += [Solid(0, out, z, w, 0.07, f, frame) for z in (sill, top - f)]
    parts.append(Solid(0, -WALL / 2 + 0.05, sill, w + 0.06, WALL + 0.1, 0.03, frame))
    parts.append(Solid(0, out, sill + f, w - f, 0.01, h - 2 * f, GLASS))
    # Outside: a parapet that some rays reach through the glass.
    parapet = site.look(PAINT, FABRIC, keep=0.4)
    parts.append(Solid(0, -1.2, sill - 0.6, w * 1.5, 0.2, site.between(0.7, 1.5), parapet))
    site.put("window", parts, at)
    inside = _moved([Solid(0, 0.3, 0, 0, 0, 0, frame)], *at)[0]
    site.lamps.append((inside.x, inside.y, (sill + top) / 2, site.between(0.2, 1.0)))
    if sill > 0.6 and site.maybe(0.6):
        body = site.look(PAINT[:4], METAL)
        fin, half = Solid(0, 0.06, 0.12, 0.045, 0.08, sill - 0.25, body), int(5 * w)
        fins = [replace(fin, x=0.07 * k) for k in range(-half, half)]
        site.put("clutter", fins, at)


def _column(site: _Site) -> None:
    w, d, h = site.between(0.3, 0.55), site.between(0.25, 0.55), site.height
    look = site.paint if site.maybe(0.6) else site.look(PAINT)
    if site.maybe(0.35):
        at = site.on_floor(w + 0.5, yaw=0)
        site.put("column", [Solid(0, 0, 0, w, w, h, look, round=site.maybe(0.6))], at)
    else:
        site.put("column", [Solid(0, d / 2, 0, w, d, h, look)], site.at_wall(w, d, 0, h))


def _beam(site: _Site) -> None:
    w, h = site.between(0.18, 0.4), site.between(0.16, min(0.45, site.height - 2.25))
    look = [site.paint, site.look(PAINT[:4]), site.look(PAINT[:4]), site.look(WOOD)][site.rng.integers(4)]
    across = site.maybe(0.6)
    room, long = (site.width, site.depth) if across else (site.depth, site.width)
    at = site.between(w / 2, room - w / 2)
    part = Solid(at, long / 2, 0, w, long, h, look) if across else Solid(long / 2, at, 0, long, w, h, look)
    site.put("beam", [part], _Spot(0, 0, 0), z=site.height - h)


def _board(site: _Site) -> None:
    w, h, z = site.between(1.2, 2.6), site.between(0.85, 1.25), site.between(0.75, 1.0)
    at = site.at_wall(w + 0.1, 0, z - 0.1, z + h + 0.05)
    white, pinned = Surface((238, 240, 240), keep=0.85), site.look(WOOD, FABRIC, texture="speckle")
    look = [white, white, site.paint, pinned, Surface((52, 78, 64))][site.rng.integers(5)]
    rim, out = site.look(METAL, WOOD), site.between(0.02, 0.04)
    parts = [Solid(0, out, z, w, 0.02, h, look)]
    if site.maybe(0.6):
        parts += [Solid(0, out, z + v, w, 0.035, 0.03, rim) for v in (-0.03, h)]
        parts += [Solid(e * w / 2, out, z - 0.03, 0.03, 0.035, h + 0.06, rim) for e in (-1, 1)]
    if site.maybe(0.6):
        parts.append(Solid(0, out + 0.04, z - 0.04, 0.6 * w, 0.08, 0.015, rim))
    site.put("board", parts, at)


def _bookcase(site: _Site) -> None:
    w, d, h = site.between(0.8, 1.7), site.between(0.27, 0.4), site.between(0.75, 2.15)
    at = site.at_wall(w + 0.05, d + 0.35, 0, h)
    look, t, foot = site.look(WOOD, WOOD, PAINT, METAL), 0.025, 0.06
    shelves = max(2, round(h / site.between(0.29, 0.4)))
    gap = (h - t - foot) / shelves
    parts = [Solid(e * (w - t) / 2, d / 2, 0, t, d, h, look) for e in (-1, 1)]
    parts += [Solid(0, d / 2, foot + k * gap, w, d, t, look) for k in range(shelves + 1)]
    parts.append(Solid(0, 0.015, 0, w, 0.02, h, look))
    closed = 2 if h > 1.4 and site.maybe(0.5) else 0
    if closed:
        parts.append(Solid(0, d - 0.01, foot, w, 0.03, closed * gap, look))
    for k in range(closed, shelves):
        u = -w / 2 + t
        while u < w / 2 - 0.15:
            long = min(site.between(0.12, 0.5), w / 2 - t - u)
            if site.maybe(0.8):
                tall, deep = gap * site.between(0.55, 0.88), d * site.between(0.5, 0.85)
                books, z = site.look(FABRIC, PAINT, texture="books", keep=0.92), foot + t + k * gap
                parts.append(Solid(u + long / 2, 0.025 + deep / 2, z, long, deep, tall, books))
            u += long
    site.put("bookcase", parts, at)
    if h < 1.6 and site.maybe(0.6):
        site.put("clutter", _trinket(site), at, site.between(-w / 3, w / 3), d / 2, z=h)


def _table(site: _Site, w: float, d: float, h: float) -> list[Solid]:
    """A table with its middle at the origin, on legs, side panels, or one or two feet."""
    look, t = site.look(WOOD, WOOD, PAINT), site.between(0.02, 0.045)
    under = look if site.maybe(0.5) else site.look(METAL)
    disc, style = w == d and site.maybe(0.7), site.rng.integers(4)
    top = [Solid(0, 0, h - t, w, d, t, look, round=disc)]
    if disc or style == 0:
        foot = [Solid(0, 0, 0, *(0.5 * min(w, d),) * 2, 0.03, under, round=True)]
        foot.append(Solid(0, 0, 0, 0.11, 0.11, h - t, under, round=True))
        pair = w > 1.6
        return top + [p for u in ((-w / 3, w / 3) if pair else (0.0,)) for p in _moved(foot, u, 0)]
    if style == 1:
        sides = [Solid(e * (w / 2 - 0.02), 0, 0, 0.03, 0.92 * d, h - t, look) for e in (-1, 1)]
        return [*top, *sides, Solid(0, -0.3 * d, 0.3, w - 0.06, 0.02, h - t - 0.3, look)]
    leg = site.between(0.04, 0.08)
    feet = [(e * (w / 2 - leg), f * (d / 2 - leg)) for e in (-1, 1) for f in (-1, 1)]
    return top + [Solid(x, y, 0, leg, leg, h - t, under, round=style == 2) for x, y in feet]


def _chair(site: _Site, high: float = 0.0) -> list[Solid]:
    """A chair that faces +y, its seat above the origin; `high` lifts the seat of a bar stool."""
    look, steel = site.look(FABRIC, FABRIC, WOOD, PAINT), site.look(METAL)
    s, seat, stool = site.between(0.4, 0.5), site.between(0.42, 0.5) + high, high > 0
    under = seat - 0.05
    parts = [Solid(0, 0, under, s, s, site.between(0.04, 0.09), look, round=stool)]
    if not stool or site.maybe(0.4):
        lift, tall = site.between(0.03, 0.18), 0.2 if stool else site.between(0.3, 0.6)
        parts.append(Solid(0, -s / 2, seat + lift, 0.9 * s, 0.04, tall, look))
        parts += [Solid(u * s, -s / 2 - 0.02, under, 0.03, 0.02, lift + 0.1, steel) for u in (-0.25, 0.25)]
    if stool:
        parts += [Solid(0, 0, 0, 0.05, 0.05, under, steel, round=True), Solid(0, 0, 0, 0.4, 0.4, 0.02, steel)]
    elif site.maybe(0.5):
        parts.append(Solid(0, 0, 0.1, 0.06, 0.06, under - 0.1, steel, round=True))
        spoke = [Solid(0.15, 0, 0.05, 0.3, 0.04, 0.05, steel)]
        parts += [p for k in range(5) for p in _moved(spoke, 0, 0, 2 * np.pi * k / 5)]
    else:
        legs = [(e * (s / 2 - 0.03), f * (s / 2 - 0.03)) for e in (-1, 1) for f in (-1, 1)]
        parts += [Solid(x, y, 0, 0.035, 0.035, under, steel, round=True) for x, y in legs]
    if not stool and site.maybe(0.4):
        for x in (-s / 2 - 0.02, s / 2 + 0.02):
            parts.append(Solid(x, 0.02, seat + 0.2, 0.05, 0.7 * s, 0.03, steel))
            parts.append(Solid(x, 0.02, under, 0.03, 0.03, 0.25, steel))
    return parts


def _desk(site: _Site) -> None:
    w, d, h = site.between(1.2, 1.8), site.between(0.65, 0.85), site.between(0.68, 0.78)
    at = site.at_wall(w + 0.1, d + 0.6, 0, h)
    site.put("table", _table(site, w, d, h), at, 0, d / 2 + 0.02)
    turn = np.pi + site.rng.normal(0, 0.4)
    site.put("chair", _chair(site), at, site.between(-0.3, 0.3), d + site.between(0.15, 0.4), turn)
    black = site.look(METAL[2:], METAL, keep=0.7)
    for u in (-0.3, 0.3) if site.maybe(0.4) else (site.between(-0.2, 0.2),):
        size = site.between(0.22, 0.28)
        glow = Surface((30, 32, 36), "print" if site.maybe(0.4) else "plain", keep=0.6)
        screen = [
            Solid(0, 0, 0.1, 2 * size, 0.03, 1.2 * size, black),
            Solid(0, 0.017, 0.12, 1.9 * size, 0.006, 1.1 * size, glow),
            Solid(0, -0.03, 0, 0.05, 0.03, 0.3, black),
            Solid(0, 0, 0, 0.22, 0.18, 0.015, black),
        ]
        site.put("clutter", screen, at, u, 0.25, site.rng.normal(0, 0.15), h)
    keys = [Solid(0, 0, 0, 0.44, 0.14, 0.02, site.look(METAL))]
    site.put("clutter", keys, at, site.between(-0.2, 0.2), d - 0.2, 0, h)
    for _ in range(site.rng.integers(1, 4)):
        u, v = site.between(0.15 - w / 2, w / 2 - 0.15), site.between(0.15, d - 0.15)
        site.put("clutter", _trinket(site), at, u, v, 0.3, h)
    if site.maybe(0.6):  # a drawer unit or a computer below
        size = site.between(0.2, 0.42)
        body = [Solid(0, 0, 0.02, size, 0.45, 0.5, site.look(WOOD, PAINT, METAL))]
        site.put("clutter", body, at, (w / 2 - size / 2 - 0.1) * site.rng.choice([-1, 1]), 0.35)


def _trinket(site: _Site) -> list[Solid]:
    """A small thing, standing at the origin: paper, a box, a mug, a lamp, a row of files, a plant."""
    look, kind = site.look(FABRIC, PAINT, WOOD, METAL), site.rng.integers(6)
    if kind == 0:
        return [Solid(0, 0, 0, 0.21, 0.3, site.between(0.01, 0.1), site.look(PAINT[:3]))]
    if kind == 1:
        size = site.between(0.12, 0.3), site.between(0.1, 0.25), site.between(0.06, 0.25)
        return [Solid(0, 0, 0, *size, look)]
    if kind == 2:
        return [Solid(0, 0, 0, 0.09, 0.09, 0.12, look, round=True)]
    if kind == 3:
        lamp = [Solid(0, 0, z, w, w, h, look, round=True) for z, w, h in ((0, 0.16, 0.02), (0, 0.02, 0.3))]
        return [*lamp, Solid(0, 0, 0.3, 0.22, 0.22, 0.16, site.look(PAINT, FABRIC), round=True)]
    if kind == 4:
        return [Solid(0, 0, 0, site.between(0.15, 0.35), 0.22, 0.28, site.look(FABRIC, texture="books"))]
    return _plant(site, 0.3)


def _plant(site: _Site, tall: float) -> list[Solid]:
    pot, leaf = site.look(PAINT, WOOD), Surface((70, 98, 58), "speckle", keep=0.75)
    parts = [Solid(0, 0, 0, 0.4 * tall, 0.4 * tall, 0.35 * tall, pot, round=True)]
    for _ in range(9):
        x, y = (float(v) for v in site.rng.normal(0, 0.17 * tall, 2))
        z, yaw = tall * site.between(0.35, 0.95), site.between(0, np.pi)
        parts.append(Solid(x, y, z, 0.3 * tall, 0.02, 0.2 * tall, leaf, yaw))
    return parts


def _meeting(site: _Site) -> None:
    """A long table in the middle of the room, and its chairs."""
    h, d = site.between(0.7, 0.78), site.between(1.0, 1.4)
    cut_x, cut_y = site.notch or (0.0, 0.0)
    w = min(site.between(2.2, 3.4), site.width - cut_x - 2.4)
    at = _Spot((site.width - cut_x) / 2, (site.depth - 0.3 * cut_y) / 2, 0)
    if not site.claim(at, w + 0.6, -d / 2 - 0.4, d / 2 + 0.4):
        raise _Full
    site.put("table", _table(site, w, d, h), at)
    model = _chair(site)
    for u in np.arange(-w / 2 + 0.4, w / 2 - 0.2, 0.75):
        for f in (-1, 1):
            if site.maybe(0.85):
                turn = site.rng.normal(0, 0.25) + (np.pi if f > 0 else 0)
                out = d / 2 + site.between(0, 0.3)
                site.put("chair", model, at, u + site.rng.normal(0, 0.04), f * out, turn)
    for _ in range(site.rng.integers(0, 5)):
        u, v = site.between(-w / 2.5, w / 2.5), site.between(-d / 3, d / 3)
        site.put("clutter", _trinket(site), at, u, v, 0.2, h)


def _sofa(site: _Site) -> None:
    seats, arm, d = int(site.rng.integers(1, 4)), site.between(0.12, 0.22), site.between(0.75, 0.92)
    seat, back, w = site.between(0.38, 0.46), site.between(0.66, 0.88), 0.62 * seats + 2 * arm
    off = site.between(0.01, 0.12)
    at = site.at_wall(w, d + 0.25, 0, back)
    look = site.look(FABRIC, texture=["plain", "speckle"][site.rng.integers(2)])
    parts = [Solid(0, off + d / 2, 0.08, w, d, seat - 0.2, look)]
    parts.append(Solid(0, off + 0.1, 0.08, w, 0.2, back - 0.08, look))
    parts += [Solid(e * (w - arm) / 2, off + d / 2, 0.08, arm, d, seat + 0.1, look) for e in (-1, 1)]
    for k in range(seats):
        u, sag = (k - (seats - 1) / 2) * 0.62, site.between(0, 0.1)
        parts.append(Solid(u, off + d / 2 + 0.08, seat - 0.12, 0.6, d - 0.18, 0.12, look))
        parts.append(Solid(u, off + 0.26, seat, 0.56, 0.13, back - seat - sag, look))
    feet = [(e * (w / 2 - 0.08), off + v) for e in (-1, 1) for v in (0.08, d - 0.08)]
    parts += [Solid(x, y, 0, 0.05, 0.05, 0.08, look) for x, y in feet]
    site.put("sofa", parts, at)
    if site.maybe(0.5):
        pillow = [Solid(0, 0, 0, 0.4, 0.14, 0.36, site.look(FABRIC, PAINT))]
        site.put("clutter", pillow, at, 0.2 * (seats - 1), off + 0.42, 0.3, seat)


def _round(site: _Site) -> None:
    """A small table with chairs around it."""
    w, h = site.between(0.7, 0.9), site.between(0.68, 0.78)
    at = site.on_floor(w + site.between(0.2, 0.7))
    site.put("table", _table(site, w, w, h), at)
    model = _chair(site)
    for k in range(site.rng.integers(1, 4)):
        a = 2 * np.pi * k / 3
        u, v = 0.55 * np.cos(a), 0.55 * np.sin(a)
        spot = _moved([Solid(u, v, 0, 0, 0, 0, site.paint)], *at)[0]
        if 0.3 < spot.x < site.width - 0.3 and 0.3 < spot.y < site.depth - 0.3:
            site.put("chair", model, at, u, v, a + np.pi / 2 + site.rng.normal(0, 0.3))
    site.put("clutter", _trinket(site), at, z=h)


def _bar(site: _Site) -> None:
    """A high table with stools."""
    w, h = site.between(1.2, 1.8), site.between(0.95, 1.1)
    at = site.on_floor(w + 0.3)
    site.put("table", _table(site, w, 0.6, h), at)
    model = _chair(site, high=h - 0.75)
    for u in (-0.35, 0.35):
        f = site.rng.choice([-1, 1])
        site.put("chair", model, at, u, 0.4 * f, np.pi if f > 0 else 0)


def _counter(site: _Site) -> None:
    """A kitchen counter: a table in the shape of a cabinet."""
    w, d, h = site.between(1.2, 2.6), site.between(0.55, 0.65), site.between(0.86, 0.98)
    at = site.at_wall(w, d + 0.4, 0, 1.3)
    front = Solid(0, d / 2 - 0.02, 0.1, w - 0.02, d - 0.05, h - 0.14, site.look(WOOD, PAINT))
    site.put("table", [Solid(0, d / 2, h - 0.04, w, d, 0.04, site.look(WOOD, PAINT, METAL)), front], at)
    for _ in range(site.rng.integers(1, 4)):
        u, v = site.between(-w / 2.5, w / 2.5), site.between(0.2, d - 0.15)
        site.put("clutter", _trinket(site), at, u, v, z=h)


def _coffee(site: _Site) -> None:
    w, d, h = site.between(0.8, 1.2), site.between(0.5, 0.7), site.between(0.38, 0.5)
    at = site.on_floor(w + 0.1, yaw=float(site.rng.choice([0, np.pi / 2])))
    site.put("table", _table(site, w, d, h), at)
    site.put("clutter", _trinket(site), at, turn=0.5, z=h)


def _cabinet(site: _Site) -> None:
    """A closed cabinet, fridge or copier: clutter, in the shape of a bookcase."""
    w, d, h = site.between(0.5, 1.3), site.between(0.35, 0.65), site.between(0.7, 2.0)
    at = site.at_wall(w, d + 0.4, 0, h)
    parts = [Solid(0, d / 2 + 0.02, 0.04, w, d, h - 0.04, site.look(WOOD, PAINT, METAL))]
    parts += [Solid(u, d + 0.03, h * 0.5, 0.02, 0.03, 0.16, Surface((120, 120, 120))) for u in (-0.05, 0.05)]
    site.put("clutter", parts, at)
    if h < 1.4:
        site.put("clutter", _trinket(site), at, site.between(-w / 4, w / 4), d / 2, z=h)


def _picture(site: _Site) -> None:
    """A poster, a cable duct or a switch: clutter, thin like a board."""
    kind, thick = site.rng.integers(3), site.between(0.01, 0.04)
    w, h, z = [
        (site.between(0.4, 1.4), site.between(0.4, 1.0), site.between(0.9, 1.4)),
        (site.between(1.0, 2.0), 0.08, site.between(0.25, 1.1)),
        (0.09, 0.12, 1.1),
    ][kind]
    at = site.at_wall(w + 0.06, 0, z, z + h)
    poster = site.look(PAINT, texture="print" if site.maybe(0.6) else "plain")
    look = poster if kind == 0 else site.look(PAINT[:4], METAL)
    site.put("clutter", [Solid(0, thick / 2, z, w, thick, h, look)], at)


def _loose(site: _Site) -> None:
    """Something on the floor: a bin, cartons, a plant, a coat stand, a bag, a cable, a spare chair."""
    at, kind, look = site.on_floor(0.45), site.rng.integers(7), site.look(FABRIC, PAINT, METAL, WOOD)
    if kind == 0:
        parts = [Solid(0, 0, 0, 0.3, 0.3, site.between(0.3, 0.65), look, round=site.maybe(0.6))]
    elif kind == 1:
        w, n = site.between(0.3, 0.45), site.rng.integers(1, 4)
        parts = [Solid(0, 0, 0.32 * k, w, 0.8 * w, 0.31, look, yaw=0.2 * k) for k in range(n)]
    elif kind == 2:
        parts = _plant(site, site.between(0.6, 1.3))
    elif kind == 3:
        parts = [Solid(0, 0, 0, w, w, h, look, round=True) for w, h in ((0.4, 0.03), (0.05, 1.7))]
        coat = [Solid(0, 0.08, 1.2, 0.35, 0.06, 0.4, site.look(FABRIC))]
        parts += [p for k in range(3) for p in _moved(coat, 0, 0, 2.1 * k)]
    elif kind == 4:
        parts = [Solid(0, 0, 0, 0.35, 0.18, 0.4, site.look(FABRIC))]
    elif kind == 5:
        runs = [(0.3 * k, 0.07 * (-1) ** k, 0.5 * (-1) ** k) for k in range(5)]
        parts = [Solid(x, y, 0, 0.34, 0.02, 0.015, look, yaw) for x, y, yaw in runs]
    else:
        parts = _chair(site)
    site.put("chair" if kind == 6 else "clutter", parts, at)


BUILDERS: dict[str, Callable[[_Site], None]] = {
    "door": _door, "window": _window, "column": _column, "beam": _beam, "meeting": _meeting, "board": _board,
    "sofa": _sofa, "bookcase": _bookcase, "desk": _desk, "counter": _counter, "round": _round, "bar": _bar,
    "coffee": _coffee, "cabinet": _cabinet, "picture": _picture, "loose": _loose,
}  # fmt: skip


def _stations(site: _Site, count: int) -> list[Floats]:
    """Scanner positions, each (3,) in m: on free floor, and each the farthest from the earlier ones among some random
    tries."""
    spots: list[Floats] = []
    for _ in range(count):
        tries = site.rng.uniform([0.4, 0.4, 1.3], [site.width - 0.4, site.depth - 0.4, 1.75], (TRIES, 3))
        x0, y0, x1, y1 = np.array(site.taken).reshape(-1, 4).T
        x, y = tries[:, :1], tries[:, 1:2]
        clear = np.maximum.reduce([x0 - x, x - x1, y0 - y, y - y1]).min(1)
        apart = [np.linalg.norm(tries - spot, axis=1) for spot in spots] or [np.zeros(TRIES)]
        # A distance of 0.2 m from furniture counts more than any distance from other positions.
        spots.append(tries[np.argmax(np.min(apart, axis=0) + 100 * np.minimum(clear, 0.2))])
    return spots
