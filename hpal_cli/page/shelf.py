"""The scenes that a page shows, and what their points can be coloured by."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hpal_cli.classes import ClassTable
from hpal_cli.errors import HpalError
from hpal_cli.page.cloud import Column, DrawnCloud
from hpal_cli.predictions.store import PredictionStore
from hpal_cli.scenes.provenance import store_behind
from hpal_cli.scenes.store import Points, SceneStore
from hpal_cli.scenes.table import SceneInfo
from hpal_cli.score.pointwise import margin

KEPT = 40_000_000
"""Points of scenes that stay in memory, beside the scene that is looked at."""


@dataclass(frozen=True)
class Mark:
    """A point to point at: index: its row; place: (3,) in the coordinates of the source; text: what is known of it;
    label: its class, -1 for none."""

    index: int
    place: NDArray[np.float64]
    text: str
    label: int = -1


@dataclass(frozen=True)
class Shown:
    """A scene to be shown. load: reads it, for as long as it is drawn; marks: of a selection or of answers."""

    number: int
    name: str
    points: int
    load: Callable[[], DrawnCloud] = field(repr=False)
    marks: tuple[Mark, ...] = ()


class Shelf:
    """Scenes by number, read when they are asked for; the latest stay in memory. Calls may come from any thread."""

    def __init__(self, path: Path, scenes: Sequence[Shown], classes: ClassTable | None, truth: bool = False) -> None:
        """truth: the points have a column `truth` to be seen beside the others."""
        self.path, self.classes, self.truth = path, classes, truth
        self.scenes = {scene.number: scene for scene in scenes}
        self._clouds: OrderedDict[int, DrawnCloud] = OrderedDict()
        self._lock = threading.Lock()
        self._loading: dict[int, threading.Lock] = {}

    def cloud(self, number: int) -> DrawnCloud:
        """Raises:
        KeyError: there is no such scene.
        HpalError: it cannot be read.
        """
        scene = self.scenes[number]
        with self._lock:
            if number in self._clouds:
                self._clouds.move_to_end(number)
                return self._clouds[number]
            turn = self._loading.setdefault(number, threading.Lock())
        # Another scene can be asked for while this one is read.
        with turn:
            with self._lock:
                if number in self._clouds:
                    return self._clouds[number]
            cloud = scene.load()
            with self._lock:
                self._clouds[number] = cloud
                while len(self._clouds) > 1 and sum(map(len, self._clouds.values())) > KEPT + len(cloud):
                    self._clouds.popitem(last=False)
            return cloud


def stores_of(
    rooms: PredictionStore | SceneStore, beside: Path | None = None
) -> tuple[SceneStore | None, PredictionStore | None]:
    """The scenes and the predictions that a page can show: `rooms` is one of them; the scenes behind predictions are
    looked for where their history says, then in the folder `beside`."""
    if isinstance(rooms, SceneStore):
        return rooms, None
    path = store_behind(rooms.history, "scenes", rooms.table.id, beside or rooms.path.parent)
    return (None if path is None else SceneStore(path)), rooms


def load(scene: SceneInfo, scenes: SceneStore | None, predictions: PredictionStore | None, truth: bool) -> DrawnCloud:
    """A scene of stores of the same scenes, with all that they know of it. truth: with its labels, too.

    Raises:
        HpalError: it cannot be read.
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
    return DrawnCloud(Points(points.xyz, points.offset), columns, unit=store.unit, grid=store.grid)


def require_there(scene: SceneInfo, store: SceneStore | PredictionStore) -> None:
    """Raises:
    HpalError: the points of a scene of the table are gone.
    """
    there = store.has_column(scene, "xyz") if isinstance(store, SceneStore) else store.has(scene)
    if not there:
        raise HpalError(store.path, f"scene {scene.name} is gone", "restore a copy, or write the store again")


def _value(values: NDArray[np.generic]) -> Callable[[], NDArray[np.generic]]:
    return lambda: values


def _labels(store: SceneStore, scene: SceneInfo) -> NDArray[np.int32]:
    label = store.labels(scene)
    assert label is not None
    return label
