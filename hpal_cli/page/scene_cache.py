"""Reads the scenes that a page shows, with the columns by which their points can be coloured, and keeps the latest."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hpal_cli.classes import ClassTable
from hpal_cli.errors import HpalError
from hpal_cli.page.cloud import Column, DrawnCloud, Source
from hpal_cli.predictions.store import PredictionStore
from hpal_cli.scene_table import SceneInfo
from hpal_cli.scenes.provenance import find_source_store
from hpal_cli.scenes.store import Points, SceneStore
from hpal_cli.score.pointwise import margin

CACHE_POINTS = 40_000_000
"""Points of scenes that stay in memory, not counting the scene that is shown."""


COARSE_FROM_POINTS = 3_000_000
"""Points of a scene from which on a coarse level is made first, since the whole scene takes more than a second."""


@dataclass(frozen=True)
class Marker:
    """A point that the page marks. index: its row; text: beside the mark; label: its class, -1 for none."""

    index: int
    text: str
    label: int = -1


@dataclass(frozen=True)
class SceneEntry:
    """A scene that a page can show. read: reads the scene; marks: the points of a selection, or the answered points."""

    number: int
    name: str
    points: int
    read: Callable[[], Source] = field(repr=False)
    marks: tuple[Marker, ...] = ()


@dataclass(frozen=True)
class _Load:
    """The reading of a scene. read: done when its points are in memory; first: a cloud as soon as anything of the scene
    can be drawn; whole: the cloud of the whole scene."""

    read: Future[None] = field(default_factory=Future)
    first: Future[DrawnCloud] = field(default_factory=Future)
    whole: Future[DrawnCloud] = field(default_factory=Future)


class SceneCache:
    """Scenes by number. Each is read in a thread of its own, and the latest stay in memory. Any thread may call."""

    def __init__(
        self, path: Path, scenes: Sequence[SceneEntry], classes: ClassTable | None, truth: bool = False
    ) -> None:
        """truth: whether the scenes have a column `truth` with their true labels."""
        self.path, self.classes, self.truth = path, classes, truth
        self.scenes = {scene.number: scene for scene in scenes}
        self._loads: OrderedDict[int, _Load] = OrderedDict()
        self._lock = threading.Lock()

    def first(self, number: int) -> DrawnCloud:
        """The whole scene if it has been read, else the coarse level if the scene is large.

        Raises:
            KeyError: there is no such scene.
            HpalError: the scene cannot be read.
        """
        load = self.start(number)
        return load.whole.result() if load.whole.done() else load.first.result()

    def coarse(self, number: int) -> DrawnCloud:
        """The coarse level of a large scene, or the whole of another one. Raises the errors of `first`."""
        return self.start(number).first.result()

    def cloud(self, number: int) -> DrawnCloud:
        """The whole scene. Raises the errors of `first`."""
        return self.start(number).whole.result()

    def loaded(self, number: int) -> DrawnCloud | None:
        """What `first` gives if nobody has to wait for it, else None. Does not begin to read.

        Raises:
            KeyError: there is no such scene.
            HpalError: the scene could not be read.
        """
        with self._lock:
            load = self._loads.get(self.scenes[number].number)
        if load is None or not load.first.done():
            return None
        return load.whole.result() if load.whole.done() else load.first.result()

    def require_readable(self, number: int) -> None:
        """Waits until the points of a scene are in memory, not until they can be drawn. Raises: as `first`."""
        self.start(number).read.result()

    def start(self, number: int) -> _Load:
        """Begins to read a scene, unless it has been read already.

        Raises:
            KeyError: there is no such scene.
        """
        scene = self.scenes[number]
        with self._lock:
            load = self._loads.get(number)
            if load is None:
                load = self._loads[number] = _Load()
                # A daemon thread, so that the end of the program does not wait for it.
                threading.Thread(target=self._load, args=(scene, load), name=f"scene {number}", daemon=True).start()
            self._loads.move_to_end(number)
            return load

    def _load(self, scene: SceneEntry, load: _Load) -> None:
        try:
            source = scene.read()
            load.read.set_result(None)
            if len(source.points.xyz) >= COARSE_FROM_POINTS:
                load.first.set_result(DrawnCloud(source, coarse=True))
            cloud = DrawnCloud(source)
        except BaseException as error:
            with self._lock:
                # The next call reads the scene again, as it may have been restored by then.
                del self._loads[scene.number]
            for future in (load.read, load.first, load.whole):
                if not future.done():
                    future.set_exception(error)
            return
        load.whole.set_result(cloud)
        if load.first.done():
            load.first.result().release()
        else:
            load.first.set_result(cloud)
        with self._lock:
            complete = [n for n, one in self._loads.items() if one.whole.done()]
            points = {n: len(self._loads[n].whole.result()) for n in complete}
            for number in complete:
                if number != scene.number and sum(points.values()) > CACHE_POINTS + len(cloud):
                    del self._loads[number], points[number]


def stores_of(
    store: PredictionStore | SceneStore, beside: Path | None = None
) -> tuple[SceneStore | None, PredictionStore | None]:
    """The scenes store and the predictions store that a page can show, of which `store` is one. The scenes that
    predictions are for are looked for where their history says, then in the folder `beside`."""
    if isinstance(store, SceneStore):
        return store, None
    path = find_source_store(store.history, "scenes", store.table.id, beside or store.path.parent)
    return (None if path is None else SceneStore(path)), store


def source_of(scene: SceneInfo, scenes: SceneStore | None, predictions: PredictionStore | None, truth: bool) -> Source:
    """The data from which a scene is drawn, with the columns of both stores, which must be of the same scenes. truth:
    whether to include the true labels.

    Raises:
        HpalError: the scene cannot be read.
    """
    store = scenes or predictions
    assert store is not None
    points = store.points(scene)
    columns = []
    if points.rgb is not None:
        columns.append(Column("rgb", "rgb", _value(points.rgb)))
    if predictions is not None and predictions.has(scene):
        columns.append(Column("class", "class", lambda: predictions.predicted(scene)))
        columns.append(Column("uncertainty", "number", lambda: 1 - margin(predictions.probabilities(scene))))
    if truth and scenes is not None and scenes.has_labels(scene):
        columns.append(Column("truth", "class", lambda: _labels(scenes, scene)))
    columns += [Column(name, "number", _value(values)) for name, values in sorted(points.attributes.items())]
    return Source(Points(points.xyz, points.offset), columns, store.unit, store.grid)


def require_points(scene: SceneInfo, store: SceneStore | PredictionStore) -> None:
    """Raises:
    HpalError: the store has no points of a scene that is in its table.
    """
    found = store.has_column(scene, "xyz") if isinstance(store, SceneStore) else store.has(scene)
    if not found:
        raise HpalError(store.path, f"scene {scene.name} is gone", "restore a copy, or write the store again")


def _value(values: NDArray[np.generic]) -> Callable[[], NDArray[np.generic]]:
    return lambda: values


def _labels(store: SceneStore, scene: SceneInfo) -> NDArray[np.int32]:
    label = store.labels(scene)
    assert label is not None
    return label
