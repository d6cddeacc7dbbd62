"""Selects points over all scenes, from streams of scored points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpal_cli.budget import Budget
from hpal_cli.errors import HpalError
from hpal_cli.history import Entry
from hpal_cli.labels.store import LabelStore
from hpal_cli.predictions.store import PredictionStore
from hpal_cli.progress import Monitor, Silent
from hpal_cli.scene_table import SceneInfo
from hpal_cli.selection import regions
from hpal_cli.selection.fds import GreedySelection, Suppression, Suppressors, greedy_select
from hpal_cli.selection.report import ClassReport, SceneReport, SelectionCounter
from hpal_cli.store.envelope import kind_of
from hpal_cli.store.remote import RemotePath, located
from hpal_cli.stream.header import Header, PoolScene, require_columns, require_scenes
from hpal_cli.stream.merge import merged_header, scenes_of
from hpal_cli.stream.points import PointReader
from hpal_cli.stream.rows import REGION, SUPERPOINT, Rows, with_column


def find_predictions(
    header: Header, source: Path | None, beside: Path | None, *, needed: bool = True
) -> PredictionStore | None:
    """Opens the predictions that a stream was scored from: `source` if given, else the store that the header names.
    Returns None if the stream was scored from a scenes store, or if the store is missing and not `needed`.

    beside: the folder of the stream's file, in which the named store is looked for too.

    Raises:
        HpalError: the store is missing and needed.
    """
    if source is not None:
        return PredictionStore(source)
    path = scored_store(header, beside)
    if path is None or not path.exists():
        if path is not None and needed and header.features != 0:
            raise HpalError(
                path,
                "the predictions that were scored were not found",
                "name their new place with --source, or add --no-fds",
            )
        return None
    return PredictionStore(path) if kind_of(path) != "scenes" else None


def scored_store(header: Header, beside: Path | None) -> Path | None:
    """The path of the store that the header of a stream names as its source, in the current folder or else in the
    folder `beside`, in which the stream's file is. None if the header names no store."""
    if header.source is None:
        return None
    path = located(header.source)
    if isinstance(path, RemotePath) or beside is None or path.exists() or not (beside / path).exists():
        return path
    return beside / path


SCORED = ("x", "y", "z", "scene", "index", "score")
"""The columns that a selection needs."""


@dataclass
class Selection:
    """The result of a selection: the chosen points, best first, with their `rank` from 1; the budget; and the counts
    for each scene and each predicted class (none if there were no predictions)."""

    header: Header
    rows: Rows
    budget: int
    pool: int
    scenes: list[SceneReport]
    classes: list[ClassReport]

    @property
    def exhausted(self) -> bool:
        """Whether candidates ran out before the budget did."""
        return len(self.rows) < self.budget

    def to_json(self) -> dict[str, Any]:
        """The report of `hpal select --json`, whose members docs/commands.md describes."""
        return {
            "selected": len(self.rows),
            "budget": self.budget,
            "pool": self.pool,
            "exhausted": self.exhausted,
            "scenes": [asdict(scene) for scene in self.scenes],
            "classes": [asdict(one) for one in self.classes],
        }


def select(
    readers: Sequence[PointReader],
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
    """Selects the points with the highest scores over all scenes, within a budget.

    Args:
        readers: one stream of scores, or several of different scenes.
        budget: a number or a share of the pool, which is every point of the scored scenes, whether in the stream or
            not.
        suppression: radius and similarity of FDS, which reads features from `predictions`; None: the highest scores are
            chosen without FDS.
        labels: a labels store; points with an answer in it are no candidates, like those with an answer in the
            predictions.
        suppress_labelled: whether points that are labelled already also suppress candidates.

    The picks of each scene are selected by themselves, up to the budget, and then merged by score. Since no point
    suppresses points of another scene, the result is that of one greedy selection over all scenes. If the stream has
    regions, they are chosen whole, so the last one may exceed the budget, and FDS must be off. Memory is needed for one
    scene and for the picks that can still be chosen.

    Raises:
        HpalError: a stream ends early, repeats a scene, has a score that is no number, or does not fit the stores.
    """
    monitor = monitor or Silent()
    first = readers[0].subject
    header = _header(readers, predictions)
    whole = REGION in (header.dtype.names or ())
    _require_possible(header, first, budget, suppression, max_per_scene, whole=whole)
    answered = {} if labels is None else labels.answered(header.scenes or labels.table.id, first)
    names = {s.number: s.name for s in header.pool}
    sizes = {s.number: s.points for s in header.pool}
    pool = sum(sizes.values())
    total = None if budget.per_scene else budget.count(pool)
    counter = SelectionCounter(
        names, () if predictions is None else predictions.classes.names, together=total is not None
    )
    kept, new = np.zeros(0, header.dtype), []
    # A scene without candidates, which is not in the stream, has a share of the budget too.
    budgets = sum(map(budget.count, sizes.values()))
    following = dict(pairwise(scene.number for scene in header.pool))
    with monitor.task("selecting", header.count) as task:
        for number, rows, subject in scenes_of(readers):
            after = following.get(number, -1)
            if predictions is not None and 0 <= after < len(predictions.table):
                predictions.read_ahead(predictions.table[after], "labelled", "pred")
            streamed = len(rows)
            _check_rows(rows, names.get(number, str(number)), sizes.get(number), subject)
            scene = _scene(predictions, number)
            # A foreign scorer may not know which points have an answer already.
            done = answered.get(number, np.zeros(0, np.int64))
            if predictions is not None and scene is not None:
                done = np.union1d(done, predictions.labelled(scene))
            if len(done):
                rows = rows[~np.isin(rows["index"], done)]
            if SUPERPOINT in (rows.dtype.names or ()):
                superpoint = None if predictions is None or scene is None else predictions.superpoints(scene)
                rows = _one_a_superpoint(rows, None if superpoint is None else superpoint[done])
            limit = budget.count(sizes.get(number, len(rows))) if total is None else total
            budgets += limit if number not in sizes else 0
            limit = min(limit, max_per_scene or limit)
            # A candidate that scores less than the last pick of a full selection cannot be chosen any more.
            full = total is not None and len(kept) >= total
            able = rows[rows["score"] >= kept["score"][-1]] if full else rows
            if whole:
                found = regions.select_regions(able, limit, subject)
            else:
                suppressors = done if suppress_labelled else done[:0]
                found = _select_in_scene(able, predictions, scene, suppression, suppressors, limit, header.unit or 1.0)
            guess = None
            if predictions is not None and scene is not None:
                guess = predictions.predicted(scene)[able["index"][found.order]].astype(np.int32)
            counter.add(number, found, able["score"][found.order], guess, all_candidates=len(able) == len(rows))
            new.append(able[found.picks])
            # If there are many picks, they are not merged after every scene, since sorting them takes too long.
            if len(kept) < _SORTED_EACH_TIME or 2 * sum(map(len, new)) > len(kept):
                kept, new = _merged(kept, new, total, whole=whole), []
                if total is not None and len(kept) >= total:
                    counter.drop_below(float(kept["score"][-1]))
            task.advance(streamed, names.get(number, str(number)))
    kept = _merged(kept, new, total, whole=whole)
    ranked = with_column(kept, "rank", np.arange(1, len(kept) + 1))
    by_scene, by_class = counter.reports(ranked, full=total is not None and len(ranked) >= total)
    out = replace(header.then("selection", history), dtype=ranked.dtype, count=len(ranked))
    return Selection(out, ranked, budgets if total is None else total, pool, by_scene, by_class)


_SORTED_EACH_TIME = 1 << 16
"""Picks up to which they are merged and sorted after every scene."""


def _merged(kept: Rows, new: list[Rows], total: int | None, *, whole: bool) -> Rows:
    """All picks so far, best first, cut at `total` (None: not cut). whole: whether regions are kept whole."""
    rows = np.concatenate([kept, *new])
    rows = rows[regions.best_first(rows) if whole else _best_first(rows)]
    if total is None:
        return rows
    return rows[: regions.cut(rows, total) if whole else total]


def _header(readers: Sequence[PointReader], predictions: PredictionStore | None) -> Header:
    """The merged header of the streams. What they do not say about their source is taken from the predictions, whose
    train split is then the pool.

    Raises:
        HpalError: a stream holds no scores, or the streams or the predictions do not belong together.
    """
    for reader in readers:
        if reader.header.kind in ("selection", "labelled"):
            raise HpalError(reader.subject, "is a selection already", "give the output of `hpal score`")
        require_columns(reader.header, SCORED, reader.subject, "hpal score")
    header = merged_header(readers)
    if predictions is None:
        return header
    first = readers[0].subject
    require_scenes(header, predictions.table.id, first, predictions.path, "give the store that was scored")
    train = [s for s in predictions.table if s.split == "train" and predictions.has(s)]
    return replace(
        header,
        source=header.source or str(predictions.path),
        scenes=header.scenes or predictions.table.id,
        unit=header.unit or predictions.unit,
        pool=header.pool or tuple(PoolScene.from_info(s) for s in train),
    )


def _require_possible(
    header: Header,
    subject: object,
    budget: Budget,
    suppression: Suppression | None,
    max_per_scene: int | None,
    *,
    whole: bool,
) -> None:
    """Raises:
    HpalError: the streams lack what these settings need. whole: the streams have regions.
    """
    if suppression is not None and header.features == 0:
        raise HpalError(header.source or subject, "has no features", "add --no-fds, or predict with them")
    if not header.pool and budget.percent:
        raise HpalError(
            subject, "has no table of scenes, so a share of them is unknown", "give --budget as a number of points"
        )
    if whole and suppression is not None:
        raise HpalError(subject, "holds regions, and FDS is for points", "add --no-fds")
    if whole and max_per_scene is not None:
        raise HpalError(
            subject,
            "holds regions, which are always selected whole",
            "leave --max-per-scene out, or give --budget N/scene",
        )


def _select_in_scene(
    rows: Rows,
    predictions: PredictionStore | None,
    scene: SceneInfo | None,
    suppression: Suppression | None,
    suppressors: NDArray[np.int64],
    limit: int,
    unit: float,
) -> GreedySelection:
    """Selects in one scene. suppressors: (L,) rows of points that suppress from the beginning; unit: metres."""
    xyz = np.column_stack([rows["x"], rows["y"], rows["z"]])
    if suppression is None:
        return greedy_select(rows["score"], rows["index"], xyz, limit)
    assert predictions is not None
    assert scene is not None
    placed = Suppressors(suppressors, predictions.points(scene).position[suppressors]) if len(suppressors) else None
    features = predictions.features(scene)
    return greedy_select(rows["score"], rows["index"], xyz, limit, suppression, features, unit=unit, suppressors=placed)


def _one_a_superpoint(rows: Rows, answered: NDArray[np.integer] | None) -> Rows:
    """Of each superpoint the row of the highest score, on a tie that of the smallest index, in the order of the rows.
    answered: superpoints that are left out."""
    order = np.lexsort((rows["index"], -rows["score"].astype(np.float64)))
    best = order[np.unique(rows[SUPERPOINT][order], return_index=True)[1]]
    if answered is not None:
        best = best[~np.isin(rows[SUPERPOINT][best], answered)]
    return rows[np.sort(best)]


def _check_rows(rows: Rows, name: str, points: int | None, subject: object) -> None:
    bad = ~np.isfinite(rows["score"])
    if bad.any():
        raise HpalError(
            subject,
            f"scene {name}: {int(bad.sum())} scores are no numbers",
            "repair the command that scored them",
        )
    lost = ~(np.isfinite(rows["x"]) & np.isfinite(rows["y"]) & np.isfinite(rows["z"]))
    if lost.any():
        raise HpalError(
            subject,
            f"scene {name}: {int(lost.sum())} points have no finite position",
            "repair the command that scored them",
        )
    index = rows["index"]
    if not (index[1:] > index[:-1]).all():
        index = np.sort(index)
    if index[0] < 0 or (points is not None and index[-1] >= points):
        raise HpalError(
            subject,
            f"scene {name} has no point {index[0] if index[0] < 0 else index[-1]}",
            "give the scores and the store that they were computed from",
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


def _best_first(rows: Rows) -> NDArray[np.int64]:
    """(N,) the order of rows (N,) by score, the highest first, then by scene (whose numbers follow its name) and
    index."""
    return np.lexsort((rows["index"], rows["scene"], -rows["score"].astype(np.float64)))
