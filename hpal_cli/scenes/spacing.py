"""Measures how far apart the points of raw clouds lie (docs/method.md, "Scale")."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from hpal_cli import readers
from hpal_cli.errors import HpalError
from hpal_cli.progress import Monitor
from hpal_cli.readers import Reader
from hpal_cli.readers.cloud import Options, Source

NEAREST = 8
"""The distance to the nearest point says little where scan lines are dense and lie far apart, or where two scans
overlap; that to the eighth says how many points there are on so much surface."""

SAMPLE = 1_000
"""Points of a file whose surroundings are looked at."""

LEAST = 100
"""Points of a file that say something of how far apart points lie."""

PIECE = 1 << 20
"""Points of a file that are looked at in one go."""

ENOUGH, STEADY = 1 << 24, 0.01
"""Points of a file after which reading ends once a further piece changes the spacing by a smaller share than this.
(Files of an octree begin with a few points of the whole.)"""


def point_spacing(blocks: Iterable[NDArray[np.floating]]) -> float | None:
    """How far apart points on a surface lie: the edge of the square that each has to itself, by the median distance d
    to the eighth nearest point, for a circle of radius d holds eight of them: d sqrt(pi / 8). None of fewer than
    `LEAST` points, or of points that are mostly the same.

    blocks: of (N, 3) positions of one cloud; the result is in their unit. The sample is taken from the first of them
    at even steps, so the same cloud has the same spacing always.
    """
    seen, spacing = 0, None
    centres: NDArray[np.float64] | None = None
    for xyz in _pieces(blocks):
        if centres is None:
            if len(xyz) < LEAST:
                return None
            centres = xyz[np.linspace(0, len(xyz) - 1, min(SAMPLE, len(xyz))).astype(np.int64)]
            nearest = np.empty((len(centres), 0))
        found = cKDTree(xyz, balanced_tree=False, compact_nodes=False).query(centres, NEAREST + 1)[0]
        # The nearest point of the first piece is the centre itself.
        nearest = np.sort(np.column_stack([nearest, found]), axis=1)[:, : NEAREST + 1]
        before, spacing = spacing, float(np.median(nearest[:, NEAREST])) * math.sqrt(math.pi / NEAREST)
        seen += len(xyz)
        if seen >= ENOUGH and before is not None and before - spacing <= STEADY * before:
            break
    return spacing if spacing else None


def _pieces(blocks: Iterable[NDArray[np.floating]]) -> Iterator[NDArray[np.float64]]:
    """The same points, about `PIECE` at a time."""
    waiting: list[NDArray[np.float64]] = []
    count = 0
    for block in blocks:
        for start in range(0, len(block), PIECE):
            waiting.append(np.asarray(block[start : start + PIECE], np.float64))
            count += len(waiting[-1])
            if count >= PIECE:
                yield np.concatenate(waiting)
                waiting, count = [], 0
    if waiting:
        yield np.concatenate(waiting)


class Measured(NamedTuple):
    """Metres: how far apart the points of scenes lie, and the longest edge of the boxes around the scenes."""

    spacing: float
    edge: float


def measured_spacing(
    reader: Reader, sources: Sequence[Source], options: Options, unit: float | None, monitor: Monitor
) -> Measured | None:
    """Of some raw scenes, the first, the middle and the last that can be read: the median spacing and the longest edge;
    None where nothing can be said. unit: metres in one unit of the coordinates, None: as the files say."""
    chosen = [sources[n] for n in sorted({0, len(sources) // 2, len(sources) - 1})]
    found: list[Measured] = []
    with monitor.task("measuring how far apart points lie", len(chosen)) as task:
        for source in chosen:
            units: list[float] = []
            corners: list[NDArray[np.float64]] = []

            def positions(
                source: Source = source, units: list[float] = units, corners: list[NDArray[np.float64]] = corners
            ) -> Iterator[NDArray[np.float64]]:
                for cloud in readers.blocks(reader, source, options):
                    units.append(unit or cloud.unit or 1.0)
                    if len(cloud.xyz):
                        corners += [cloud.xyz.min(axis=0), cloud.xyz.max(axis=0)]
                    yield cloud.xyz

            # One that cannot be read is told of when it is to be written.
            with contextlib.suppress(HpalError):
                spacing = point_spacing(positions())
                if spacing is not None:
                    found.append(Measured(spacing * units[0], float(np.ptp(corners, axis=0).max()) * units[0]))
            task.advance(1, source.name)
    if not found:
        return None
    return Measured(float(np.median([one.spacing for one in found])), max(one.edge for one in found))
