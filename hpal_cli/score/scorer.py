"""score: the candidates of a predictions store (or, at random, of a scenes store) as a point stream."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from hpal_cli.errors import HpalError
from hpal_cli.history import Entry
from hpal_cli.label.store import LabelStore
from hpal_cli.lengths import format_length
from hpal_cli.parallel import map_in_order
from hpal_cli.predictions.store import PredictionStore
from hpal_cli.progress import Monitor, Silent
from hpal_cli.scenes.store import Points, SceneStore
from hpal_cli.scenes.table import SceneInfo
from hpal_cli.score import pointwise
from hpal_cli.score.hmmu import Hierarchy, hmmu
from hpal_cli.store.envelope import kind_of
from hpal_cli.stream.header import Header, PoolScene
from hpal_cli.stream.points import PointWriter, point_dtype
from hpal_cli.stream.rows import Rows
from hpal_cli.voxels import group_voxels, voxel_coordinates


class Strategy(StrEnum):
    """What makes a point worth its label."""

    HMMU = "hmmu"
    MMU = "mmu"
    LC = "lc"
    ENTROPY = "entropy"
    RANDOM = "random"


POINTWISE: dict[Strategy, Callable[..., pointwise.Scores]] = {
    Strategy.MMU: pointwise.minimum_margin,
    Strategy.LC: pointwise.least_confidence,
    Strategy.ENTROPY: pointwise.entropy,
}


def open_source(path: Path, strategy: Strategy) -> PredictionStore | SceneStore:
    """Predictions, or scenes where a random score asks for nothing more.

    Raises:
        HpalError: a store that this strategy cannot be computed from.
    """
    if kind_of(path) == "scenes":
        if strategy is Strategy.RANDOM:
            return SceneStore(path)
        raise HpalError(
            path,
            f"is a scenes store, and {strategy} needs predictions",
            "give the output of `hpal predict`, or --strategy random for a first round",
        )
    return PredictionStore(path)


def score_scene(
    store: PredictionStore | SceneStore, scene: SceneInfo, strategy: Strategy, hierarchy: Hierarchy, seed: int
) -> tuple[Points, pointwise.Scores]:
    """One scene's points and all their scores (N,)."""
    points = store.points(scene)
    if strategy is Strategy.RANDOM or isinstance(store, SceneStore):
        scores = pointwise.random(scene.points, seed, scene.number)
    elif strategy is Strategy.HMMU:
        scores = hmmu(store.probabilities(scene), points.xyz, hierarchy, store.unit)
    else:
        scores = POINTWISE[strategy](store.probabilities(scene))
    return points, scores


def score(
    path: Path,
    out: Callable[[Header], IO[bytes]],
    *,
    strategy: Strategy = Strategy.HMMU,
    hierarchy: Hierarchy | None = None,
    split: str | None = "train",
    scenes: Sequence[str] = (),
    labels: LabelStore | None = None,
    seed: int = 0,
    jobs: int = 1,
    history: Sequence[Entry] | None = (),
    monitor: Monitor | None = None,
) -> Header:
    """Scores every candidate of the store at `path` and writes the stream.

    Candidates are the points that nobody has answered for: neither when the network was trained, nor in `labels`.

    history: what to add to the store's; None to write none at all.
    out: called once, when the first scene has been scored without an error, for the stream to write to.

    Raises:
        HpalError: a store that does not fit the strategy, or probabilities that are none.
    """
    monitor = monitor or Silent()
    hierarchy = hierarchy or Hierarchy()
    store = open_source(path, strategy)
    chosen = store.choose(split, scenes)
    answered = {} if labels is None else labels.answered(store.table.id, path)
    taken = {s.number: np.union1d(store.labelled(s), answered.get(s.number, _NONE)) for s in chosen}
    header = Header(
        kind="scores",
        source=str(path),
        scenes=store.table.id,
        unit=store.unit,
        features=store.feature_count(chosen[0]),
        pool=tuple(PoolScene.of(s) for s in chosen),
        history=() if history is None else (*store.history, *history),
        dtype=point_dtype(color=all(store.has_color(s) for s in chosen)),
        count=sum(s.points - len(taken[s.number]) for s in chosen),
    )
    writer: PointWriter | None = None
    work = [(path, scene, strategy, hierarchy, seed, header.dtype, taken[scene.number]) for scene in chosen]
    with monitor.task("scoring", header.count) as task:
        for rows, warning in map_in_order(_score_rows, work, jobs):
            if warning:
                monitor.warn(warning)
            writer = writer or PointWriter(out(header), header)
            writer.write(rows)
            task.advance(len(rows))
    assert writer is not None
    writer.close()
    return header


_NONE = np.zeros(0, np.int64)


def _score_rows(
    work: tuple[Path, SceneInfo, Strategy, Hierarchy, int, np.dtype[np.void], NDArray[np.int64]],
) -> tuple[Rows, str]:
    """The stream's rows of one scene, and a warning or nothing; a process of its own may compute them."""
    path, scene, strategy, hierarchy, seed, dtype, taken = work
    store = open_source(path, strategy)
    points, scores = score_scene(store, scene, strategy, hierarchy, seed)
    free = np.delete(np.arange(scene.points), taken)
    rows = np.zeros(len(free), dtype)
    rows["x"], rows["y"], rows["z"] = points.position[free].T
    if points.rgb is not None and "red" in (dtype.names or ()):
        rows["red"], rows["green"], rows["blue"] = points.rgb[free].T
    rows["scene"], rows["index"], rows["score"] = scene.number, free, scores[free]
    warning = _absurd_levels(points, hierarchy, store.unit, scene) if strategy is Strategy.HMMU else ""
    return rows, warning


def _absurd_levels(points: Points, hierarchy: Hierarchy, unit: float, scene: SceneInfo) -> str:
    """A warning if a level is beyond the scene or holds fewer than two points a voxel."""
    if not len(points.xyz) or not hierarchy.levels:
        return ""
    extent = float(np.ptp(points.xyz, axis=0).max()) * unit
    coarse = max(hierarchy.levels)
    if coarse > extent > 0:
        size = format_length(extent)
        return f"{scene.name}: level {format_length(coarse)} is larger than the scene ({size}): is its unit right?"
    fine = min(hierarchy.levels)
    count = len(group_voxels(voxel_coordinates(points.xyz, fine / unit))[1])
    if len(points.xyz) < 2 * count:
        return (
            f"{scene.name}: level {format_length(fine)} holds {len(points.xyz) / count:.1f} points a voxel, "
            "fewer than two: is its unit right?"
        )
    return ""
