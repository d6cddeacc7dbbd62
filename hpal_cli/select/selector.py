"""select: the picks of one call, over all scenes, from a stream of scored points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hpal_cli.errors import HpalError
from hpal_cli.history import Entry
from hpal_cli.label.store import LabelStore
from hpal_cli.predictions.store import PredictionStore
from hpal_cli.progress import Monitor, Silent
from hpal_cli.scenes.table import SceneInfo
from hpal_cli.select.budget import Budget
from hpal_cli.select.fds import Suppression, Walk, is_alike, walk
from hpal_cli.select.neighbours import Neighbours
from hpal_cli.store.envelope import kind_of
from hpal_cli.stream.header import Header, PoolScene, require_columns, require_scenes
from hpal_cli.stream.points import PointReader
from hpal_cli.stream.rows import Rows, with_column


def find_predictions(
    header: Header, source: Path | None, beside: Path | None, *, needed: bool = True
) -> PredictionStore | None:
    """The predictions that a stream was scored from: `source` if given, else what its header names, looked for from
    here and from the folder of the stream's file. None if the header says that it was scored from scenes, and if
    they are not there but not `needed` either.

    Raises:
        HpalError: they are not there.
    """
    if source is not None:
        return PredictionStore(source)
    if header.features == 0 or header.source is None:
        return None
    path = Path(header.source)
    if not path.exists() and beside is not None and (beside / path).exists():
        path = beside / path
    if not path.exists() and not needed:
        return None
    if not path.exists():
        raise HpalError(path, "the scored predictions are not there", "say where with --source, or add --no-fds")
    return PredictionStore(path) if kind_of(path) != "scenes" else None


SCORED = ("x", "y", "z", "scene", "index", "score")
"""The columns that a selection needs."""


@dataclass
class SceneReport:
    """What the walk through one scene did; `chosen` counts what survived the merge with the other scenes."""

    name: str
    visited: int
    suppressed: int
    chosen: int
    exhausted: bool


@dataclass
class Selection:
    """The picks, best first, with their `rank` from 1; the budget they were chosen within; what happened a scene."""

    header: Header
    rows: Rows
    budget: int
    pool: int
    scenes: list[SceneReport]

    @property
    def exhausted(self) -> bool:
        """Whether candidates ran out before the budget did."""
        return len(self.rows) < self.budget


def select(
    reader: PointReader,
    *,
    budget: Budget,
    suppression: Suppression | None,
    predictions: PredictionStore | None = None,
    labels: LabelStore | None = None,
    suppress_labelled: bool = False,
    max_per_scene: int | None = None,
    history: Sequence[Entry] | None = (),
    monitor: Monitor | None = None,
) -> Selection:
    """Walks each scene's candidates from the highest score and merges the scenes' picks by score.

    Args:
        budget: of the pool, which is every point of the scored scenes, streamed or not.
        suppression: FDS, which needs `predictions` for its features; None for the plain top of the list.
        labels: points with an answer there are no candidates, as are those that the predictions know of.
        suppress_labelled: points that are labelled already suppress too.

    One list a scene, cut at the budget and merged, is the global greedy answer, for suppression never crosses scenes.

    Raises:
        HpalError: a stream that ends early, repeats a scene, holds a score that is no number, or is of other scenes.
    """
    monitor = monitor or Silent()
    header = reader.header
    if header.kind in ("selection", "labelled"):
        raise HpalError(reader.subject, "is a selection already", "give the output of `hpal score`")
    require_columns(header, SCORED, reader.subject, "hpal score")
    if predictions is not None:
        require_scenes(header, predictions.table.id, reader.subject, predictions.path, "give the store that was scored")
        header = _completed(header, predictions)
    answered = {} if labels is None else labels.answered(header.scenes or labels.table.id, reader.subject)
    names = {s.number: s.name for s in header.pool}
    sizes = {s.number: s.points for s in header.pool}
    if not header.pool and budget.percent:
        raise HpalError(
            reader.subject,
            "has no table of scenes, so a share of them is unknown",
            "give --budget as a number of points",
        )
    pool = sum(sizes.values())
    total = None if budget.per_scene else budget.of(pool)
    kept: list[Rows] = []
    walks: dict[int, tuple[int, int, bool]] = {}
    budgets = 0
    least = -np.inf
    with monitor.task("selecting", header.count) as task:
        for number, rows in reader.by_scene():
            name = names.get(number, str(number))
            _check_rows(rows, name, sizes.get(number), reader.subject)
            scene = _scene(predictions, number)
            if predictions is not None and scene is not None:
                # A foreign scorer may not know which points have an answer already.
                rows = rows[~np.isin(rows["index"], predictions.labelled(scene))]
            rows = rows[~np.isin(rows["index"], answered.get(number, ()))]
            limit = budget.of(sizes.get(number, len(rows))) if total is None else total
            budgets += limit
            limit = min(limit, max_per_scene or limit)
            result = _walk_scene(
                rows, predictions, scene, suppression, suppress_labelled, limit, header.unit or 1.0, least
            )
            walks[number] = (result.visited, result.suppressed, result.exhausted)
            kept.append(rows[result.chosen])
            if total is not None and sum(map(len, kept)) >= total:
                kept = [_best(np.concatenate(kept))[:total]]
                least = float(kept[0]["score"][-1])
            task.advance(len(rows), name)
    picks = _best(np.concatenate(kept)) if kept else np.zeros(0, header.dtype)
    ranked = with_column(picks, "rank", np.arange(1, len(picks) + 1))
    reports = [
        SceneReport(names.get(n, str(n)), visited, suppressed, int((ranked["scene"] == n).sum()), exhausted)
        for n, (visited, suppressed, exhausted) in sorted(walks.items())
    ]
    out = replace(header.then("selection", history), dtype=ranked.dtype, count=len(ranked))
    return Selection(out, ranked, budgets if total is None else total, pool, reports)


def _completed(header: Header, predictions: PredictionStore) -> Header:
    """What the stream does not say of its origin, from the store itself; the pool is its train split then."""
    train = [s for s in predictions.table if s.split == "train" and predictions.has(s)]
    return replace(
        header,
        source=header.source or str(predictions.path),
        scenes=header.scenes or predictions.table.id,
        unit=header.unit or predictions.unit,
        pool=header.pool or tuple(PoolScene.of(s) for s in train),
    )


def _walk_scene(
    rows: Rows,
    predictions: PredictionStore | None,
    scene: SceneInfo | None,
    suppression: Suppression | None,
    suppress_labelled: bool,
    limit: int,
    unit: float,
    least: float,
) -> Walk:
    xyz = np.column_stack([rows["x"], rows["y"], rows["z"]])
    index = rows["index"]
    if suppression is None:
        return walk(rows["score"], index, xyz, None, limit, None, least=least)
    assert predictions is not None
    assert scene is not None
    feat = predictions.features(scene)
    blocked = None
    if suppress_labelled:
        labelled = predictions.labelled(scene)
        blocked = _near_labelled(
            xyz, feat[index], predictions.points(scene).position[labelled], feat[labelled], suppression, unit
        )
    return walk(
        rows["score"],
        index,
        xyz,
        lambda n: feat[index[n]],
        limit,
        suppression,
        unit,
        least=least,
        blocked=blocked,
    )


def _near_labelled(
    xyz: NDArray[np.float64],
    feat: NDArray[np.floating],
    labelled_xyz: NDArray[np.float64],
    labelled_feat: NDArray[np.floating],
    suppression: Suppression,
    unit: float,
) -> NDArray[np.bool_]:
    blocked = np.zeros(len(xyz), bool)
    neighbours = Neighbours(xyz, suppression.radius / unit)
    for position, mine in zip(labelled_xyz, labelled_feat, strict=True):
        near = neighbours.within(position)
        blocked[near] |= is_alike(mine.astype(np.float64), feat[near].astype(np.float64), suppression.similarity)
    return blocked


def _check_rows(rows: Rows, name: str, points: int | None, subject: object) -> None:
    bad = ~np.isfinite(rows["score"])
    if bad.any():
        raise HpalError(
            subject,
            f"scene {name}: {int(bad.sum())} scores are no numbers",
            "repair the command that scored them",
        )
    index = np.sort(rows["index"])
    if index[0] < 0 or (points is not None and index[-1] >= points):
        raise HpalError(
            subject,
            f"scene {name} has no point {index[0] if index[0] < 0 else index[-1]}",
            "give matching files",
        )
    if (index[1:] == index[:-1]).any():
        raise HpalError(subject, f"scene {name}: a point comes twice", "repair the command that scored them")


def _scene(predictions: PredictionStore | None, number: int) -> SceneInfo | None:
    if predictions is None:
        return None
    if not 0 <= number < len(predictions.table):
        raise HpalError(predictions.path, f"has no scene {number}", "give the store that was scored")
    scene: SceneInfo = predictions.table[number]
    return scene


def _best(rows: Rows) -> Rows:
    """Highest score first; ties by scene (numbers are in the order of names), then index."""
    return rows[np.lexsort((rows["index"], rows["scene"], -rows["score"].astype(np.float64)))]
