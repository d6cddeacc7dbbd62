"""Scores the candidates of a predictions store, or of a scenes store by `random` and `diverse`, and writes them as a
point stream."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field, replace
from enum import StrEnum
from itertools import repeat
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hpal_cli.budget import DEFAULT, Budget
from hpal_cli.errors import HpalError, UsageError
from hpal_cli.history import Entry
from hpal_cli.labels.store import LabelStore
from hpal_cli.lengths import format_length, rounded_length
from hpal_cli.parallel import at_most, map_in_order, threads_of
from hpal_cli.predictions.store import PredictionStore
from hpal_cli.progress import Monitor, Silent
from hpal_cli.scene_table import SceneInfo
from hpal_cli.scenes.scale import MAX_ROOM_SCALE, ROOM_GRID, fitting_grid, stored_scale
from hpal_cli.scenes.spacing import point_spacing
from hpal_cli.scenes.store import Points, SceneStore
from hpal_cli.score import hmmu, pointwise
from hpal_cli.score.diverse import diverse
from hpal_cli.score.hmmu import Hierarchy
from hpal_cli.score.superpoints import SuperpointValue, unanswered_superpoints
from hpal_cli.shard import Shard
from hpal_cli.store.envelope import attributes_of, kind_of
from hpal_cli.store.files import remove_new_on_error
from hpal_cli.store.remote import for_each
from hpal_cli.store.tasks import Tasks, beside
from hpal_cli.stream.header import Header, PoolScene
from hpal_cli.stream.points import PointWriter, point_dtype
from hpal_cli.stream.rows import GUESS, REGION, SUPERPOINT, Rows
from hpal_cli.superpoints.build import medoids, partition, scale_of
from hpal_cli.superpoints.store import SuperpointStore, open_superpoints
from hpal_cli.wording import counted
from hpal_cli.writers.cloud import scene_path, write

if TYPE_CHECKING:
    from hpal_cli.parallel import Cluster


class Strategy(StrEnum):
    """How candidates are scored. `redal` and `ssdr` ask about all points of a superpoint, `diverse` about its
    medoid."""

    HMMU = "hmmu"
    MMU = "mmu"
    LC = "lc"
    ENTROPY = "entropy"
    RANDOM = "random"
    DIVERSE = "diverse"
    REDAL = "redal"
    SSDR = "ssdr"


POINTWISE: dict[Strategy, Callable[..., pointwise.Scores]] = {
    Strategy.MMU: pointwise.minimum_margin,
    Strategy.LC: pointwise.least_confidence,
    Strategy.ENTROPY: pointwise.entropy,
}

REGIONAL = (Strategy.REDAL, Strategy.SSDR)

WITHOUT_MODEL = (Strategy.RANDOM, Strategy.DIVERSE)
"""Strategies that need no predictions, for the first round."""


@dataclass(frozen=True)
class ScoreSettings:
    """How candidates are scored.

    strategy: how a candidate is scored; hierarchy: the levels of HMMU; seed: the seed of random draws; device: where
    HMMU is computed, `cpu` or torch's name of a GPU; budget: the number of picks that `ssdr` and `diverse` plan for;
    per_superpoint: whether a candidate is a whole superpoint, which is asked about at its medoid and gets a score from
    those of its points.
    """

    strategy: Strategy = Strategy.HMMU
    hierarchy: Hierarchy = field(default_factory=Hierarchy)
    seed: int = 0
    device: str = "cpu"
    budget: Budget = field(default_factory=lambda: Budget.parse(DEFAULT))
    per_superpoint: bool = False

    def __post_init__(self) -> None:
        # `diverse` compares superpoints, and so it always asks about them.
        if self.strategy is Strategy.DIVERSE:
            object.__setattr__(self, "per_superpoint", True)

    def __str__(self) -> str:
        """The strategy and the settings that its scores depend on. Streams can be merged only if these are equal."""
        settings: list[object] = []
        if self.strategy is Strategy.HMMU:
            kind = "nested" if self.hierarchy.nested else "flat"
            settings = [kind, *map(_listed, (self.hierarchy.levels, self.hierarchy.weights))]
        elif self.strategy in (Strategy.RANDOM, Strategy.REDAL):
            settings = ["seed", self.seed]
        elif self.strategy is Strategy.SSDR:
            settings = [self.budget]
        elif self.strategy is Strategy.DIVERSE:
            settings = [self.budget, "seed", self.seed]
        if self.per_superpoint:
            settings.append("per superpoint")
        return " ".join(map(str, (self.strategy, *settings)))


def _listed(numbers: Sequence[float]) -> str:
    return ",".join(f"{number:g}" for number in numbers) or "none"


def default_levels(path: Path, *, per_superpoint: bool) -> tuple[float, ...]:
    """The default edges of HMMU's voxels in metres: those of the paper times the scale of the store at `path`. If the
    store has no scale, the scale is 1, or for superpoints derived from the grid if that is too wide for a room."""
    attributes = attributes_of(path)
    scale = stored_scale(attributes, path)
    if scale is None:
        grid = (attributes or {}).get("grid")
        scale = float(grid) / ROOM_GRID if per_superpoint and isinstance(grid, int | float) else 1.0
        scale = scale if scale > MAX_ROOM_SCALE else 1.0
    return tuple(edge * scale for edge in hmmu.LEVELS)


def open_source(path: Path, strategy: Strategy) -> PredictionStore | SceneStore:
    """Opens the store to score: predictions, or scenes if the strategy needs no predictions.

    Raises:
        HpalError: the strategy cannot be computed from this store.
    """
    kind = kind_of(path)
    if strategy in WITHOUT_MODEL and (kind == "scenes" or not path.exists()):
        return SceneStore(path)
    if kind == "scenes":
        raise HpalError(
            path,
            f"is a scenes store, and {strategy} needs predictions",
            "give the output of `hpal predict` or `hpal spread`, or --strategy diverse for a first round",
        )
    if strategy is Strategy.DIVERSE:
        raise HpalError(path, "is no scenes store, which the strategy diverse needs", "give the output of `hpal prep`")
    return PredictionStore(path)


def score(
    path: Path,
    out: Callable[[Header], IO[bytes]],
    settings: ScoreSettings | None = None,
    *,
    split: str | None = "train",
    scenes: Sequence[str] = (),
    shard: Shard | None = None,
    labels: LabelStore | None = None,
    jobs: int | Cluster = 1,
    ply: Path | None = None,
    overwrite: bool = False,
    history: Sequence[Entry] | None = (),
    monitor: Monitor | None = None,
) -> Header:
    """Scores every candidate of the store at `path` and writes the point stream.

    The candidates are the points that have an answer neither in the predictions store nor in `labels`.

    out: a function that is given the header and returns the file for the stream. It is called once, after the first
    scene was scored without an error. split, scenes: which scenes are the pool, the latter as patterns of names.
    shard: the part of the scenes to score; jobs: number of processes, or a cluster; the output does not depend on it.
    ply: a folder for the points of each scene, coloured by score; overwrite: whether files in it are replaced.
    history: entries to add to the history of the store; None: the stream gets no history.

    Raises:
        HpalError: the store does not fit the strategy, or it has values that are no probabilities.
        UsageError: the strategy compares all scenes, and `shard` is only a part of them.
    """
    monitor, settings, shard = monitor or Silent(), settings or ScoreSettings(), shard or Shard()
    regional = settings.strategy in REGIONAL
    if (regional or settings.strategy is Strategy.DIVERSE) and shard.parts > 1:
        what = "regions" if regional else "superpoints"
        raise UsageError(
            "--shard", f"{settings.strategy} compares the {what} of all scenes", "score them in one run: --shard 1/1"
        )
    if regional and settings.per_superpoint:
        raise UsageError("--per", f"{settings.strategy} always asks about whole superpoints", "leave --per out")
    store = open_source(path, settings.strategy)
    pool = store.choose(split, scenes)
    chosen = shard.of(pool)
    if settings.strategy is Strategy.HMMU and settings.device == "cpu" and isinstance(store, PredictionStore):
        stored = store.probability_type(pool[0])
        if stored != np.float16 and not hmmu.missing():
            monitor.note(f"{path} has {stored} probabilities: scored by NumPy, ten times as slow as float16")
    uncertain = settings.strategy is Strategy.HMMU or settings.strategy in POINTWISE
    if uncertain and not settings.per_superpoint and isinstance(store, PredictionStore) and store.spread_from:
        monitor.note(
            f"{path} gives all points of a superpoint the same probabilities, so the most uncertain points lie side by "
            "side; --per superpoint asks about each superpoint once"
        )
    if labels is not None:
        # Tasks read them again, and must find the same.
        labels = labels.as_of_now()
    answered = {} if labels is None else labels.answered(store.table.id, path)
    clouds = [] if ply is None else [scene_path(ply, scene.name, "ply") for scene in chosen]
    known_rows = for_each(store.path, lambda scene: _answered_rows(store, scene, answered), chosen)
    answered_rows = {scene.number: rows for scene, rows in zip(chosen, known_rows, strict=True)}
    extra = {Strategy.REDAL: (REGION,), Strategy.SSDR: (REGION, GUESS)}.get(settings.strategy, ())
    groups: dict[int, NDArray[np.int32]] = {}
    value_of: SuperpointValue | None = None
    if settings.per_superpoint or regional:
        groups = _superpoints(store, pool, jobs, monitor)
    if settings.per_superpoint:
        extra = (SUPERPOINT,)
        # The rarity of a class is that in the whole pool, also if only a part of the pool is scored here.
        value_of = SuperpointValue.from_pool(
            store, pool, settings.strategy, max(int(np.bincount(superpoint).max()) for superpoint in groups.values())
        )
    header = Header(
        kind="scores",
        source=str(path),
        scenes=store.table.id,
        unit=store.unit,
        features=store.feature_count(pool[0]),
        strategy=str(settings),
        shard=(shard.part, shard.parts) if shard.parts > 1 else None,
        pool=tuple(PoolScene.from_info(s) for s in chosen),
        history=() if history is None else (*store.history, *history),
        dtype=point_dtype(
            color=all(for_each(store.path, store.has_color, pool)), extra=tuple((n, "<i4") for n in extra)
        ),
        count=sum(
            len(unanswered_superpoints(groups[s.number], answered_rows[s.number]))
            if settings.per_superpoint
            else s.points - len(answered_rows[s.number])
            for s in chosen
        ),
    )
    jobs = at_most(jobs, len(chosen))
    ranks: dict[int, NDArray[np.float64]] = {}
    if settings.strategy is Strategy.DIVERSE:
        ranks = _diverse(store, chosen, groups, answered_rows, settings, monitor)
        # All that is left is to write the rows.
        jobs = jobs if isinstance(jobs, int) else 1
    elif settings.device != "cpu" and not isinstance(jobs, int):
        jobs = jobs.on_gpus()
    warnings: list[tuple[SceneInfo, _LevelProblem]] = []
    writer: PointWriter | None = None
    # A thread writes the stream, so that the next scene is scored while another command reads from the pipe.
    with ExitStack() as opened:
        opened.enter_context(remove_new_on_error(clouds, overwrite=overwrite))
        tasks = Tasks(None) if ply is None or isinstance(jobs, int) else opened.enter_context(beside(ply, jobs))
        here = [
            _Work(
                store, s, settings, header.dtype, answered_rows[s.number], threads_of(jobs), ply, overwrite,
                groups.get(s.number), value_of, ranks.get(s.number), tasks, following=following,
            )
            for s, following in zip(chosen, (*chosen[1:], None) if jobs == 1 else repeat(None), strict=False)
        ]  # fmt: skip
        work = here
        if not isinstance(jobs, int):
            # The tasks of a cluster hold no arrays.
            known = open_superpoints(store) if isinstance(store, SceneStore) and settings.per_superpoint else None
            work = [replace(one, answered_rows=_NONE, superpoint=None, labels=labels, known=known) for one in here]
        task = opened.enter_context(monitor.task("scoring", header.count))
        output = opened.enter_context(_thread())
        results = _regions_in_order(here, work, jobs) if regional else map_in_order(_score_scene, work, jobs)
        # Closed on an error too, so that no worker process remains.
        opened.enter_context(closing(results))
        waiting: deque[Future[None]] = deque()
        block: list[Rows] = []
        for one, (rows, warning) in zip(here, results, strict=True):
            warnings += [(one.scene, warning)] if warning else []
            writer = writer or PointWriter(out(header), header)
            block.append(rows)
            # The first scene is written at once, so that the next command gets the header while the others are scored.
            if sum(part.nbytes for part in block) >= _BLOCK or one is here[0] or one is here[-1]:
                waiting.append(output.submit(_write, writer, block))
                block = []
            if len(waiting) > _MAX_WAITING:
                waiting.popleft().result()
            task.advance(len(rows))
        for written in waiting:
            written.result()
    if warnings:
        # One warning for the first scene is enough, since all scenes have the same levels.
        (scene, found), others = warnings[0], len(warnings) - 1
        also = f" and {counted(others, 'scene')} more" if others else ""
        # Only computed for the scene that is named, since it needs the neighbours of all its points.
        remedy = found.remedy or _fitting_levels(store.points(scene), settings.hierarchy, store.unit)
        monitor.warn(f"{scene.name}{also}: {found.problem}{remedy}")
    # If there are more parts than scenes, this part has none, and the stream is empty.
    writer = writer or PointWriter(out(header), header)
    writer.close()
    return header


@contextmanager
def _thread() -> Iterator[ThreadPoolExecutor]:
    """A pool of one thread. On an error the block does not wait for the thread, which may be waiting for ever to write
    to a pipe that nobody reads."""
    pool = ThreadPoolExecutor(1)
    try:
        yield pool
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    pool.shutdown()


def _write(writer: PointWriter, block: Sequence[Rows]) -> None:
    for rows in block:
        writer.write(rows)


_MAX_WAITING = 4
"""Blocks of scored scenes that may wait to be written, which bounds the memory."""

_BLOCK = 1 << 16
"""Bytes that are handed to the writing thread at once, unless a scene has more: with thousands of tiny scenes, the two
threads would otherwise wait for each other once for every scene."""


@dataclass(frozen=True)
class _Work:
    """One scene to score, as a task for a worker process.

    answered_rows: (T,) rows with an answer, which are no candidates; superpoint: (N,) of each point, if the strategy
    needs it; value_of: turns the scores of points into those of superpoints; ranked: (S,) scores of the superpoints, if
    all scenes were already compared; tasks: of the files in `ply`; following: the scene that the same process scores
    after this one, if that is known.
    On a cluster, a task has no arrays. It reads them (`_with_arrays`) from `labels`, and from the store or `known`, the
    superpoints of scenes.
    """

    store: PredictionStore | SceneStore
    scene: SceneInfo
    settings: ScoreSettings
    dtype: np.dtype[np.void]
    answered_rows: NDArray[np.int64]
    threads: int
    ply: Path | None
    overwrite: bool
    superpoint: NDArray[np.int32] | None = None
    value_of: SuperpointValue | None = None
    ranked: NDArray[np.float64] | None = None
    tasks: Tasks = field(default_factory=lambda: Tasks(None))
    labels: LabelStore | None = None
    known: SuperpointStore | None = None
    following: SceneInfo | None = None


_NONE: Any = None
"""In the place of the rows with an answer, which a task on a cluster reads for itself."""


def _with_arrays(work: _Work) -> _Work:
    """The same task with the arrays that a task on a cluster does not carry."""
    store, scene = work.store, work.scene
    if work.answered_rows is not _NONE:
        return work
    answered = {} if work.labels is None else work.labels.answered(store.table.id, store.path)
    superpoint = None
    if work.settings.per_superpoint or work.settings.strategy in REGIONAL:
        if work.known is not None:
            superpoint = work.known.partition(scene)
        elif isinstance(store, PredictionStore):
            superpoint = store.superpoints(scene)
            superpoint = _partition(_Partition(store, scene)) if superpoint is None else superpoint
    return replace(work, answered_rows=_answered_rows(store, scene, answered), superpoint=superpoint)


def _answered_rows(
    store: PredictionStore | SceneStore, scene: SceneInfo, answered: Mapping[int, NDArray[np.int64]]
) -> NDArray[np.int64]:
    return np.union1d(store.labelled(scene), answered.get(scene.number, ())).astype(np.int64)


class _LevelProblem(NamedTuple):
    """What is wrong with the levels, and what to do about it; None if that needs the positions of the points."""

    problem: str
    remedy: str | None


def _score_scene(work: _Work) -> tuple[Rows, _LevelProblem | None]:
    """The stream's rows of one scene, and what is wrong with the levels there, if anything."""
    if work.following is not None and isinstance(work.store, PredictionStore):
        colour = ("rgb",) if "red" in (work.dtype.names or ()) else ()
        work.store.read_ahead(work.following, "xyz", "prob", *colour)
    work = _with_arrays(work)
    store, scene, settings = work.store, work.scene, work.settings
    points = store.points(scene)
    shares: dict[str, NDArray[np.floating]] = {}
    warning: _LevelProblem | None = None
    prob: NDArray[np.floating] | None = None
    if isinstance(store, PredictionStore) and settings.strategy is not Strategy.RANDOM:
        prob = store.probabilities(scene)
    if work.ranked is not None and work.superpoint is not None:
        scores = work.ranked[work.superpoint]
    elif prob is None:
        scores = pointwise.random(scene.points, settings.seed, scene.number)
    elif settings.strategy is Strategy.HMMU:
        measured = _measure(work, prob, points.xyz, store.unit)
        scores = measured.score(settings.hierarchy)
        warning = _level_problem(points, settings.hierarchy, measured.voxels, store.unit)
        if work.ply is not None:
            names = ["point", *map(format_length, settings.hierarchy.levels)]
            # If a level is given twice, each has a field of its own.
            names = [n if names.count(n) == 1 else f"{n}_{place}" for place, n in enumerate(names)]
            shares = {f"share_{n}": part for n, part in zip(names, measured.shares(settings.hierarchy), strict=True)}
    else:
        scores = POINTWISE[settings.strategy](prob)
    if work.value_of is not None and work.superpoint is not None and work.ranked is None:
        superpoint = work.superpoint
        scores = work.value_of(scores, prob, superpoint)[superpoint]
        # The score of a superpoint is linear in those of its points, so the shares still sum to the score.
        shares = {
            name: work.value_of(part.astype(np.float64), prob, superpoint)[superpoint] for name, part in shares.items()
        }
    return _rows(work, points, scores, shares), warning


def _measure(work: _Work, prob: NDArray[np.floating], xyz: NDArray[np.floating], unit: float) -> hmmu.HmmuResult:
    hierarchy, margins = work.settings.hierarchy, work.ply is not None
    if work.settings.device == "cpu":
        return hmmu.measure(prob, xyz, hierarchy, unit, threads=work.threads, margins=margins)
    # Imported here, since only a GPU needs torch, which takes a second to load.
    import torch

    from hpal_cli.score.hmmu_torch import measure_on

    return measure_on(torch.device(work.settings.device), prob, xyz, hierarchy, unit, margins=margins)


def _regions_in_order(
    here: Sequence[_Work], work: Sequence[_Work], jobs: int | Cluster
) -> Generator[tuple[Rows, _LevelProblem | None], None, None]:
    """The rows of one scene after the other. First the regions of all scenes are compared.

    here: the scenes with their arrays; work: as they are sent to where regions are measured.
    """
    from hpal_cli.score import redal, ssdr

    settings = work[0].settings
    measured: list[Any] = list(map_in_order(_measure_regions, work, jobs))
    if settings.strategy is Strategy.REDAL:
        final = redal.rank_regions(measured, settings.seed)
    else:
        sizes = [one.scene.points for one in work]
        points = (
            sum(map(settings.budget.count, sizes)) if settings.budget.per_scene else settings.budget.count(sum(sizes))
        )
        final = ssdr.rank_regions(measured, budget_points=points)
    for one, regions, scores in zip(here, measured, final, strict=True):
        assert isinstance(one.store, PredictionStore)
        extra: dict[str, NDArray[np.integer]] = {REGION: regions.region}
        if GUESS in (one.dtype.names or ()):
            extra[GUESS] = one.store.predicted(one.scene)
        yield _rows(one, one.store.points(one.scene), scores[regions.region], {}, extra), None


def _measure_regions(work: _Work) -> Any:
    from hpal_cli.score import redal, ssdr

    work = _with_arrays(work)
    store, scene = work.store, work.scene
    assert isinstance(store, PredictionStore)
    points = store.points(scene)
    features = store.features(scene)(np.arange(scene.points))
    prob, superpoint = store.probabilities(scene), work.superpoint
    assert superpoint is not None
    if work.settings.strategy is Strategy.REDAL:
        return redal.measure(prob, points.xyz, points.rgb, features, work.answered_rows, superpoint)
    # The lengths of SSDR-AL are those of rooms, so they are scaled.
    return ssdr.measure(prob, points.xyz, features, work.answered_rows, superpoint, store.unit / (store.scale or 1.0))


def _rows(
    work: _Work,
    points: Points,
    scores: pointwise.Scores,
    shares: dict[str, NDArray[np.floating]],
    extra: dict[str, NDArray[np.integer]] | None = None,
) -> Rows:
    """The candidates of a scene as rows of the stream. With --ply, also writes all points of the scene to a file."""
    if work.ply is not None:
        from hpal_cli.score.uncertainty import uncertainty_cloud

        cloud = uncertainty_cloud(points, scores, shares, work.answered_rows, work.scene)
        path = scene_path(work.ply, work.scene.name, "ply")
        work.tasks.once(path, lambda again: write(cloud, path, overwrite=work.overwrite or again))
    free: NDArray[np.int64] = np.arange(work.scene.points)
    if work.settings.per_superpoint:
        assert work.superpoint is not None
        free = np.sort(
            medoids(work.superpoint, points.xyz)[unanswered_superpoints(work.superpoint, work.answered_rows)]
        )
        extra = {SUPERPOINT: work.superpoint}
    elif len(work.answered_rows):
        free = np.delete(free, work.answered_rows)
    rows = np.zeros(len(free), work.dtype)
    rows["x"], rows["y"], rows["z"] = points.position[free].T
    if points.rgb is not None and "red" in (work.dtype.names or ()):
        rows["red"], rows["green"], rows["blue"] = points.rgb[free].T
    rows["scene"], rows["index"], rows["score"] = work.scene.number, free, scores[free]
    for name, values in (extra or {}).items():
        rows[name] = values[free]
    return rows


def _superpoints(
    store: PredictionStore | SceneStore, pool: Sequence[SceneInfo], jobs: int | Cluster, monitor: Monitor
) -> dict[int, NDArray[np.int32]]:
    """Scene number -> (N,) superpoint of each point. They are read from the predictions, or from the store beside the
    scenes, or else computed from positions and colours."""
    if isinstance(store, SceneStore):
        known = open_superpoints(store, jobs=jobs if not isinstance(jobs, int) else None, monitor=monitor)
        return {scene.number: known.partition(scene) for scene in pool}
    found = {scene.number: of for scene in pool if (of := store.superpoints(scene)) is not None}
    missing = [_Partition(store, scene) for scene in pool if scene.number not in found]
    with monitor.task("superpoints", len(missing)) as task:
        for one, of in zip(missing, map_in_order(_partition, missing, jobs), strict=True):
            found[one.scene.number] = of
            task.advance(1, one.scene.name)
    return found


@dataclass(frozen=True)
class _Partition:
    store: PredictionStore
    scene: SceneInfo


def _partition(work: _Partition) -> NDArray[np.int32]:
    store, points = work.store, work.store.points(work.scene)
    scale = store.scale or scale_of(points.xyz, store.grid, store.unit)
    return partition(points, scale=scale, unit=store.unit)


def _diverse(
    store: PredictionStore | SceneStore,
    chosen: Sequence[SceneInfo],
    groups: Mapping[int, NDArray[np.int32]],
    answered_rows: Mapping[int, NDArray[np.int64]],
    settings: ScoreSettings,
    monitor: Monitor,
) -> dict[int, NDArray[np.float64]]:
    """Scene number -> (S,) score of its superpoints under `diverse`."""
    assert isinstance(store, SceneStore)
    known = open_superpoints(store, monitor=monitor)
    likeness = known.likeness()
    scenes = [known.read(scene) for scene in chosen]
    free = []
    for scene, one in zip(chosen, scenes, strict=True):
        open_ = np.zeros(len(one), bool)
        open_[unanswered_superpoints(groups[scene.number], answered_rows[scene.number])] = True
        free.append(open_)
    points = sum(scene.points for scene in chosen)
    count = (
        sum(settings.budget.count(scene.points) for scene in chosen)
        if settings.budget.per_scene
        else settings.budget.count(points)
    )
    scores = diverse(
        [likeness(one.feature) for one in scenes], likeness.deviation, [one.size for one in scenes], free,
        count, settings.seed,
    )  # fmt: skip
    return {scene.number: score for scene, score in zip(chosen, scores, strict=True)}


def _level_problem(
    points: Points, hierarchy: Hierarchy, voxels: NDArray[np.int64], unit: float
) -> _LevelProblem | None:
    """What is wrong with the levels, if one is larger than the scene or has fewer than two points in a voxel."""
    if not len(points.xyz) or not hierarchy.levels:
        return None
    extent = float(np.ptp(points.xyz, axis=0).max()) * unit
    fine, coarse = int(np.argmin(hierarchy.levels)), max(hierarchy.levels)
    if coarse > extent > 0:
        size = format_length(round(extent, 2) or extent)
        problem, remedy = f"level {format_length(coarse)} is larger than the scene ({size})", "give shorter --levels"
        if hierarchy.levels[fine] > extent:
            remedy = "a bare level is in centimetres; if the scene is larger, prepare it again with its --unit"
        return _LevelProblem(problem, f"; {remedy}")
    held = len(points.xyz) / voxels[fine]
    if held >= 2:
        return None
    return _LevelProblem(
        f"level {format_length(hierarchy.levels[fine])} holds {held:.1f} points a voxel, fewer than two", None
    )


def _fitting_levels(points: Points, hierarchy: Hierarchy, unit: float) -> str:
    """The remedy if a level has fewer than two points in a voxel: levels that fit the distances of the points."""
    finest = min(hierarchy.levels)
    spacing = point_spacing([points.xyz])
    if spacing is None:
        return "; give longer --levels"
    times = fitting_grid(spacing * unit) / ROOM_GRID
    fit = [edge * times for edge in hmmu.LEVELS]
    if min(fit) <= finest:
        fit = [edge for edge in sorted(hierarchy.levels) if edge > finest] or [2 * edge for edge in fit]
    text = ",".join(f"{100 * edge:g}" for edge in fit)
    return f": its points lie {rounded_length(spacing * unit)} apart; --levels {text} fit them"
