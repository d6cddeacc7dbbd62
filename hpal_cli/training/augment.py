"""Augments a scene for the student (docs/method.md, "Teacher and student"). No point is removed, and the order stays
the same."""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hpal_cli import compiled
from hpal_cli.voxels import bounds

ELASTIC = ((0.2, 0.4), (0.8, 1.6))
"""(granularity, magnitude) in metres of the elastic distortions, which are applied one after the other."""


MAX_LATTICE_POINTS = 1 << 24
"""Points of the lattice of an elastic distortion, at most. They take 200 MB, and are enough for a cube with an edge of
50 m at the finest granularity."""


def augment_position(
    xyz: NDArray[np.float32], rng: np.random.Generator, *, distort: bool = True
) -> NDArray[np.float32]:
    """(N, 3) metres from the scene's origin -> the same points distorted, turned and scaled about that origin.

    The origin is the middle of the scene. So a scene that is not turned has coordinates like those that the network
    sees in the training (`network.inputs.origin_of`).
    """
    if distort and rng.random() < 0.95:
        for granularity, magnitude in ELASTIC:
            xyz = elastic(xyz, granularity, magnitude, rng)
    turn = _rotation(2, rng.uniform(0, 2 * np.pi))
    if rng.random() < 0.95:
        tilt = rng.uniform(-np.pi / 64, np.pi / 64, 2)
        turn = _rotation(0, tilt[0]) @ _rotation(1, tilt[1]) @ turn
    if rng.random() < 0.95:
        turn = np.diag(rng.uniform(0.9, 1.1, 3)) @ turn
    return xyz @ turn.T.astype(np.float32)


def augment_color(rgb: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """(N, 3) in [0, 1] -> the same: contrast stretched, shifted, with noise."""
    # The initial values change no bit. An operation that is not drawn keeps them.
    blend, low, span = np.float32(0), np.zeros(3, np.float32), np.ones(3, np.float32)
    shift, share, noise = np.zeros(3, np.float32), np.float32(0), rgb
    if rng.random() < 0.2:
        low, high = bounds(rgb)
        span = np.maximum(high - low, np.float32(1 / 255))
        blend = np.float32(rng.random())
    if rng.random() < 0.95:
        shift = rng.uniform(-0.1, 0.1, 3).astype(np.float32)
    if rng.random() < 0.95:
        share, noise = np.float32(0.05), rng.standard_normal(rgb.shape, np.float32)
    keep, native = 1 - blend, _library()
    if isinstance(native, str):
        return np.clip(keep * rgb + blend * (rgb - low) / span + shift + share * noise, 0, 1)
    rgb, noise = np.ascontiguousarray(rgb, np.float32), np.ascontiguousarray(noise, np.float32)
    out = np.empty(rgb.shape, np.float32)
    native.hpal_tint(
        rgb.ctypes.data, len(rgb), keep, blend, low.ctypes.data, span.ctypes.data,
        shift.ctypes.data, share, noise.ctypes.data, out.ctypes.data,
    )  # fmt: skip
    return out


def elastic(
    xyz: NDArray[np.float32], granularity: float, magnitude: float, rng: np.random.Generator
) -> NDArray[np.float32]:
    """(N, 3) metres -> the same, moved by a smooth random field: normal noise on a lattice, blurred twice by a box of
    3 x 3 x 3, interpolated linearly, times `magnitude`. granularity: metres between lattice points, doubled until the
    lattice around the points has at most `MAX_LATTICE_POINTS`, since one stray point could need a lattice of any
    size."""
    low, high = bounds(xyz)
    while np.prod((high - low).astype(np.float64) / granularity + 3) > MAX_LATTICE_POINTS:
        granularity *= 2
    cells = ((high - low) / granularity).astype(np.int64) + 3
    field = rng.standard_normal((*cells, 3), np.float32)
    native = _library()
    if isinstance(native, str):
        return _bent(xyz, low, granularity, magnitude, field)
    xyz, out = np.ascontiguousarray(xyz, np.float32), np.empty(xyz.shape, np.float32)
    # One number more than the field has, since the C code reads vectors of four numbers, of which it uses three.
    blurred, other = np.zeros((2, field.size + 1), np.float32)
    blurred[:-1] = field.reshape(-1)
    for _ in range(2):
        for axis in range(3):
            outer, inner = int(cells[:axis].prod()), 3 * int(cells[axis + 1 :].prod())
            native.hpal_blur(blurred.ctypes.data, other.ctypes.data, outer, int(cells[axis]), inner)
            blurred, other = other, blurred
    native.hpal_bend(
        xyz.ctypes.data, len(xyz), low.ctypes.data, granularity, magnitude,
        blurred.ctypes.data, cells.ctypes.data, out.ctypes.data,
    )  # fmt: skip
    return out


def _bent(
    xyz: NDArray[np.float32], low: NDArray[np.float32], granularity: float, magnitude: float, field: NDArray[np.float32]
) -> NDArray[np.float32]:
    """What the functions of augment.c do to the positions, computed by NumPy with the same bits."""
    for _ in range(2):
        for axis in range(3):
            field = _blur(field, axis)
    cells = np.array(field.shape[:3])
    at = (xyz - low) / np.float32(granularity) + 1
    base = np.minimum(at.astype(int), cells - 2)
    part = at - base
    # Computed column by column, since NumPy takes three times as long with arrays (N, 3) whose columns are used singly.
    sides = [((1 - part[:, axis]).astype(np.float32), part[:, axis].astype(np.float32)) for axis in range(3)]
    place = (base[:, 0] * cells[1] + base[:, 1]) * cells[2] + base[:, 2]
    values = field.reshape(-1, 3)
    moved = np.zeros_like(xyz)
    for i, j, k in np.ndindex(2, 2, 2):
        weight = sides[0][i] * sides[1][j] * sides[2][k]
        moved += weight[:, None] * values.take(place + (i * cells[1] + j) * cells[2] + k, axis=0)
    return xyz + np.float32(magnitude) * moved


def _blur(field: NDArray[np.float32], axis: int) -> NDArray[np.float32]:
    """Mean of three neighbours along an axis, zero outside."""
    field = np.moveaxis(field, axis, 0)
    out = field.copy()
    out[1:] += field[:-1]
    out[:-1] += field[1:]
    return np.moveaxis(out / np.float32(3), 0, axis)


def missing() -> str | None:
    """Why the compiled library cannot be used here, None if it can."""
    return compiled.reason(_library())


@compiled.library_or_reason
def _library() -> ctypes.CDLL:
    pointer, long, real = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float
    library = compiled.load(Path(__file__).with_suffix(".c"))
    library.hpal_blur.argtypes, library.hpal_blur.restype = [pointer, pointer, long, long, long], None
    library.hpal_bend.argtypes = [pointer, long, pointer, real, real, pointer, pointer, pointer]
    library.hpal_bend.restype = None
    library.hpal_tint.argtypes = [pointer, long, real, real, *[pointer] * 3, real, pointer, pointer]
    library.hpal_tint.restype = None
    return library


def _rotation(axis: int, angle: float) -> NDArray[np.float64]:
    turn = np.eye(3)
    i, j = [a for a in range(3) if a != axis]
    turn[i, i] = turn[j, j] = np.cos(angle)
    turn[i, j], turn[j, i] = -np.sin(angle), np.sin(angle)
    return turn
