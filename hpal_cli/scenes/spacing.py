"""Measures how far apart the points of raw clouds lie (docs/method.md, "Scale")."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hpal_cli import readers
from hpal_cli.errors import HpalError
from hpal_cli.progress import Monitor
from hpal_cli.readers import Reader
from hpal_cli.readers.cloud import Options, Source

NEAREST = 8
"""The spacing is measured by the distance to the eighth nearest point, which tells how many points lie on an area. The
distance to the nearest one does not, where points are dense along scan lines that lie far apart, or where two scans
overlap."""

SAMPLE = 1_000
"""Points of a file at which the spacing is measured, at most."""

MIN_POINTS = 100
"""Points of a file for which a spacing is given, at least."""

PIECE_POINTS = 1 << 20
"""Points of a file that are searched at once."""

MIN_POINTS_READ, MIN_DECREASE = 1 << 24, 0.01
"""Reading ends when at least `MIN_POINTS_READ` points of a file were read and the last piece has lowered the spacing by
at most the share `MIN_DECREASE`. The first piece alone is not enough: files of an octree begin with few points of the
whole scene."""


def point_spacing(blocks: Iterable[NDArray[np.floating]]) -> float | None:
    """Distance between neighbouring points on a surface, in the unit of the positions: d sqrt(pi / 8), with d the
    median distance to the eighth nearest point. (A circle of radius d holds eight points, so each has an area of pi d^2
    / 8 to itself; the spacing is the edge of a square of this area.) None for fewer than `MIN_POINTS` points, or if
    most points are the same.

    blocks: (N, 3) positions of one cloud. d is measured at points that are taken at even steps from the first blocks,
    so that the same cloud always has the same spacing.
    """
    from scipy.spatial import cKDTree

    seen, spacing = 0, None
    centres: NDArray[np.float64] | None = None
    for xyz in _pieces(blocks):
        if centres is None:
            if len(xyz) < MIN_POINTS:
                return None
            centres = xyz[np.linspace(0, len(xyz) - 1, min(SAMPLE, len(xyz))).astype(np.int64)]
            nearest = np.empty((len(centres), 0))
        found = cKDTree(xyz, balanced_tree=False, compact_nodes=False).query(centres, NEAREST + 1)[0]
        # The nearest point of the first piece is the centre itself.
        nearest = np.sort(np.column_stack([nearest, found]), axis=1)[:, : NEAREST + 1]
        before, spacing = spacing, float(np.median(nearest[:, NEAREST])) * math.sqrt(math.pi / NEAREST)
        seen += len(xyz)
        if seen >= MIN_POINTS_READ and before is not None and before - spacing <= MIN_DECREASE * before:
            break
    return spacing if spacing else None


def _pieces(blocks: Iterable[NDArray[np.floating]]) -> Iterator[NDArray[np.float64]]:
    """The same points in pieces of about `PIECE_POINTS`, however many points the blocks of a reader have."""
    waiting: list[NDArray[np.float64]] = []
    count = 0
    for block in blocks:
        for start in range(0, len(block), PIECE_POINTS):
            waiting.append(np.asarray(block[start : start + PIECE_POINTS], np.float64))
            count += len(waiting[-1])
            if count >= PIECE_POINTS:
                yield np.concatenate(waiting)
                waiting, count = [], 0
    if waiting:
        yield np.concatenate(waiting)


class Measured(NamedTuple):
    """The spacing of the points of some scenes, and the longest edge of their bounding boxes, both in metres."""

    spacing: float
    edge: float


def measured_spacing(
    reader: Reader, sources: Sequence[Source], options: Options, unit: float | None, monitor: Monitor
) -> Measured | None:
    """The median spacing and the longest edge of those of three raw scenes, the first, the middle and the last, that
    can be read and have a spacing; None if there are none. unit: metres in one unit of the coordinates; None: what the
    files say."""
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

            # A scene that cannot be read is reported later, when it is prepared.
            with contextlib.suppress(HpalError):
                spacing = point_spacing(positions())
                if spacing is not None:
                    found.append(Measured(spacing * units[0], float(np.ptp(corners, axis=0).max()) * units[0]))
            task.advance(1, source.name)
    if not found:
        return None
    return Measured(float(np.median([one.spacing for one in found])), max(one.edge for one in found))
