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
from hpal_cli.label.queries import Query, asked_scene, queries, selection_store
from hpal_cli.labels.store import QUERY, LabelStore, by_scene
from hpal_cli.page.api import PageApi
from hpal_cli.page.cloud import Source
from hpal_cli.page.live_spread import LiveSpread
from hpal_cli.page.scene_cache import COARSE_FROM_POINTS, SceneCache, SceneEntry, require_points, source_of, stores_of
from hpal_cli.page.session import Session
from hpal_cli.predictions.store import PredictionStore
from hpal_cli.progress import Monitor, Silent
from hpal_cli.scenes.store import SceneStore
from hpal_cli.store.remote import RemotePath
from hpal_cli.stream.header import Header
from hpal_cli.stream.rows import Rows


@dataclass(frozen=True)
class Asked:
    """The queries of a selection and the stores that they are from. store: the store of the selection, which is one of
    the two others; scenes, predictions: None if there is no such store."""

    found: list[Query]
    store: PredictionStore | SceneStore
    scenes: SceneStore | None
    predictions: PredictionStore | None

    def scene_cache(self) -> SceneCache:
        """The scenes with queries, in the order of the tour. They do not show the true labels."""
        numbers = dict.fromkeys(query.scene for query in self.found)
        entries = [self._shown(number) for number in numbers]
        return SceneCache(self.store.path, entries, self.store.classes)

    def source(self, number: int) -> Source:
        """The data from which a scene is drawn.

        Raises:
            HpalError: the scene cannot be read.
        """
        return source_of(self.store.table[number], self.scenes, self.predictions, False)

    def _shown(self, number: int) -> SceneEntry:
        scene = self.store.table[number]
        return SceneEntry(number, scene.name, scene.points, lambda: self.source(number))


def queries_asked(asked: Rows, header: Header, subject: object, *, source: Path | None, beside: Path | None) -> Asked:
    """The queries of a selection (K,) with x, y, z, scene and index.

    source: the store of the points, if it is not where the header says; beside: the folder of the selection, in which
    the store is looked for too.

    Raises:
        HpalError: the selection is empty, the store is missing or does not fit, or it has no such point.
    """
    if not len(asked):
        raise HpalError(subject, "is empty, so there is nothing to ask", "select some points with `hpal select`")
    store = selection_store(header, source, beside)
    if store is None:
        problem = f"is missing, and the scenes that {subject} belongs to were not found"
        raise UsageError("--source", problem, "name their store")
    for number, rows in by_scene(asked).items():
        require_points(asked_scene(store, number, rows["index"], subject), store)
    scenes, predictions = stores_of(store, beside)
    return Asked(queries(asked, store), store, scenes, predictions)


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
    """Opens the labels store, creates it if it does not exist, records in it which points are asked about, and returns
    the API for `make_app`.

    name: of the person who answers, until the page sends another one; title: of the page; overlap: share of the
    queries, 0 to 1, that two people are asked.

    Raises:
        HpalError: the labels store belongs to other scenes or classes, or it cannot be written, or is on object
            storage.
    """
    monitor = monitor or Silent()
    rooms = asked.store
    if isinstance(output, RemotePath):
        problem = "is on object storage, and the page records on a disk who has which query"
        raise HpalError(output, problem, "name a labels store on a disk, or answer with --html and then --from")
    _require_writable(output.parent, output.parent)
    labels = LabelStore.at(output, rooms.classes, rooms.table, unit=rooms.unit, subject=rooms.path)
    _require_writable(output / "answers", output)
    new = np.array([(query.scene, query.index) for query in asked.found], QUERY)
    new = new[~np.isin(new, labels.asked())]
    if len(new):
        labels.ask(new, "page", entry)
    session = Session(asked.found, labels, entry, overlap=overlap)
    live_spread = None
    if asked.scenes is not None:
        live_spread = LiveSpread(asked.scenes, monitor)
    else:
        monitor.note(f"the scenes of {rooms.path} were not found: the page does not spread your answers")
    scene_cache = asked.scene_cache()
    first = next(iter(scene_cache.scenes.values()))
    if first.points < COARSE_FROM_POINTS:
        # If the scene cannot be read, the command fails before a page is shown. Reading a large scene takes too long to
        # wait for, so the page shows that error.
        scene_cache.require_readable(first.number)
    return PageApi(scene_cache, session=session, table=rooms.table, live_spread=live_spread, name=name, title=title)


def parse_overlap(text: str) -> float:
    """A share of the queries, `10%` or `0.1`, as a number from 0 to 1.

    Raises:
        UsageError: the text is no share.
    """
    return parse_share(text, "--overlap", "queries", "10% or 0.1")


def _require_writable(folder: Path, subject: Path) -> None:
    """Raises:
    HpalError: no file can be created in `folder`.
    """
    try:
        if not os.access(folder, os.W_OK):
            raise PermissionError(13, "Permission denied")
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        problem = f"cannot be written ({error.strerror})"
        raise HpalError(subject, problem, "give another -o, or make it writable") from error
