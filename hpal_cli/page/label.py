"""A page on which the queries of a selection are answered."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hpal_cli.budget import parse_share
from hpal_cli.errors import HpalError, UsageError
from hpal_cli.history import Entry
from hpal_cli.label.queries import Query, queries, rooms_of
from hpal_cli.labels.store import QUERY, LabelStore
from hpal_cli.page.api import PageApi
from hpal_cli.page.cloud import Source
from hpal_cli.page.live_spread import LiveSpread
from hpal_cli.page.scene_cache import LARGE, SceneCache, SceneEntry, require_there, source_of, stores_of
from hpal_cli.page.session import Session
from hpal_cli.predictions.store import PredictionStore
from hpal_cli.progress import Monitor, Silent
from hpal_cli.scenes.store import SceneStore
from hpal_cli.stream.header import Header
from hpal_cli.stream.rows import Rows


@dataclass(frozen=True)
class Asked:
    """The queries of a selection and what is around them. scenes: None where only predictions are there."""

    found: list[Query]
    rooms: PredictionStore | SceneStore
    scenes: SceneStore | None
    predictions: PredictionStore | None

    def scene_cache(self) -> SceneCache:
        """The scenes with queries, in the order of the tour. The truth is not among what they show."""
        numbers = dict.fromkeys(query.scene for query in self.found)
        shown = [self._shown(number) for number in numbers]
        return SceneCache(self.rooms.path, shown, self.rooms.classes)

    def source(self, number: int) -> Source:
        """What a scene is drawn from.

        Raises:
            HpalError: it cannot be read.
        """
        return source_of(self.rooms.table[number], self.scenes, self.predictions, False)

    def _shown(self, number: int) -> SceneEntry:
        scene = self.rooms.table[number]
        return SceneEntry(number, scene.name, scene.points, lambda: self.source(number))


def queries_asked(asked: Rows, header: Header, subject: object, *, source: Path | None, beside: Path | None) -> Asked:
    """The queries of a selection (K,) with x, y, z, scene and index.

    source: the scenes or predictions that they are of, if not where the header says; beside: the folder of the
    selection, from where that is looked for, too.

    Raises:
        HpalError: there is nothing to ask, the scenes are not there or are others, or a point is none of theirs.
    """
    if not len(asked):
        raise HpalError(subject, "asks for nothing: it is empty", "select some points with `hpal select`")
    rooms = rooms_of(header, source, beside)
    if rooms is None:
        raise UsageError("--source", f"is missing: the scenes that {subject} is of are not there", "name their store")
    for number in np.unique(asked["scene"]).tolist():
        here = asked["index"][asked["scene"] == number]
        if not 0 <= number < len(rooms.table):
            raise HpalError(
                subject, f"asks about scene {number}, which {rooms.path} does not have", "use matching files"
            )
        scene = rooms.table[number]
        if here.min() < 0 or here.max() >= scene.points:
            raise HpalError(subject, f"asks about a point outside scene {scene.name}", "use matching files")
        require_there(scene, rooms)
    scenes, predictions = stores_of(rooms, beside)
    return Asked(queries(asked, rooms), rooms, scenes, predictions)


def open_label_page(
    asked: Asked,
    output: Path,
    entry: Entry,
    *,
    name: str = "",
    title: str = "",
    overlap: float = 0.0,
    monitor: Monitor | None = None,
) -> PageApi:
    """The API for `make_app`; the labels store is made if it is not there, and notes what is asked.

    name: of who answers, until the page says otherwise; overlap: share of the queries that two people are asked.

    Raises:
        HpalError: the labels store is of other scenes or classes, or cannot be written.
    """
    monitor = monitor or Silent()
    rooms = asked.rooms
    _require_writable(output.parent, output.parent)
    labels = LabelStore.at(output, rooms.classes, rooms.table, unit=rooms.unit, subject=rooms.path)
    _require_writable(output / "answers", output)
    new = np.array([(query.scene, query.index) for query in asked.found], QUERY)
    new = new[~np.isin(new, labels.asked())]
    if len(new):
        labels.ask(new, "page", entry)
    session = Session(asked.found, labels, entry, overlap=overlap)
    learner = None
    if asked.scenes is not None:
        learner = LiveSpread(asked.scenes, monitor)
    else:
        monitor.note(f"the scenes behind {rooms.path} are not there: the room does not learn while you look")
    scene_cache = asked.scene_cache()
    first = next(iter(scene_cache.scenes.values()))
    if first.points < LARGE:
        # A scene that cannot be read is said before a page is shown; of a large one the page tells.
        scene_cache.require_readable(first.number)
    return PageApi(scene_cache, session=session, table=rooms.table, learner=learner, name=name, title=title)


def parse_overlap(text: str) -> float:
    """`10%` or 0.1 as 0.1.

    Raises:
        UsageError: no share.
    """
    return parse_share(text, "--overlap", "queries", "10% or 0.1")


def _require_writable(folder: Path, subject: Path) -> None:
    """Raises:
    HpalError: nothing can be made in `folder`.
    """
    try:
        if not os.access(folder, os.W_OK):
            raise PermissionError(13, "Permission denied")
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        problem = f"cannot be written ({error.strerror})"
        raise HpalError(subject, problem, "give another -o, or make it writable") from error
