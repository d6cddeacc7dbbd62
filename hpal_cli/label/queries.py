"""Makes the queries for a person: one for each point or region, in the order of a short tour through each scene."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hpal_cli.errors import HpalError
from hpal_cli.label.tour import short_tour
from hpal_cli.labels.store import by_scene
from hpal_cli.predictions.store import PredictionStore
from hpal_cli.scene_table import SceneInfo
from hpal_cli.scenes.store import SceneStore
from hpal_cli.selection.selector import scored_store
from hpal_cli.store.envelope import kind_of
from hpal_cli.stream.header import Header, require_scenes
from hpal_cli.stream.rows import REGION, Rows


class Guess(NamedTuple):
    """The two classes with the largest predicted probabilities, and the larger of these probabilities."""

    first: str
    second: str
    confidence: float


@dataclass(frozen=True, eq=False)
class Query:
    """A question to a person: which class does the point `index` of scene `scene` have?

    position: (3,) of the point; number: place of the query in the tour through its scene, from 1; points: (P,) rows of
    the points that get the answer, the point itself among them; rank, score and guess: None if they are not known.
    """

    scene: int
    index: int
    position: NDArray[np.float64]
    number: int
    points: NDArray[np.int64]
    rank: int | None
    score: float | None
    guess: Guess | None


def selection_store(header: Header, source: Path | None, beside: Path | None) -> PredictionStore | SceneStore | None:
    """Opens the store with the points around a selection: `source` if given, else the store that was scored. Returns
    None if that is neither where the header says nor in the folder `beside`.

    Raises:
        HpalError: `source` is no scenes or predictions store, or the store belongs to other scenes than the selection.
    """
    path = source or scored_store(header, beside)
    if path is None or (source is None and not path.exists()):
        return None
    store = SceneStore(path) if kind_of(path) == "scenes" else PredictionStore(path)
    require_scenes(header, store.table.id, "selection", path, "give the store that was scored")
    return store


def asked_scene(
    store: PredictionStore | SceneStore, number: int, index: NDArray[np.integer], subject: object
) -> SceneInfo:
    """The scene with this number, of which a selection asks about the rows `index` (K,). subject: the name of the
    selection for messages.

    Raises:
        HpalError: the store has no such scene or row.
    """
    remedy = "give the store that the selection was made from"
    if not 0 <= number < len(store.table):
        raise HpalError(subject, f"asks about scene {number}, which {store.path} does not have", remedy)
    scene = store.table[number]
    if index.min() < 0 or index.max() >= scene.points:
        raise HpalError(subject, f"asks about a point outside scene {scene.name}", remedy)
    return scene


def queries(asked: Rows, store: PredictionStore | SceneStore | None = None) -> list[Query]:
    """The queries of a selection, scene by scene, each scene in the order of a short tour.

    asked: (K,) records with scene, index, x, y, z, and perhaps rank and score. If they have regions, there is one query
    for each region, at the point that is nearest to the mean position of its asked points (medoid). store: if it has
    predictions, they are the guesses.
    """
    names = asked.dtype.names or ()
    found = []
    for number, here in by_scene(asked).items():
        place = np.column_stack([here[axis] for axis in "xyz"]).astype(np.float64)
        groups = _groups(here)
        middle = np.array([_medoid(place, group) for group in groups], np.int64)
        guesses = _guesses(here["index"][middle].astype(np.int64), number, store)
        for n, at in enumerate(short_tour(place[middle])):
            row = here[middle[at]]
            found.append(
                Query(
                    number,
                    int(row["index"]),
                    place[middle[at]],
                    n + 1,
                    here["index"][groups[at]].astype(np.int64),
                    int(row["rank"]) if "rank" in names else None,
                    float(row["score"]) if "score" in names else None,
                    guesses[at],
                )
            )
    return found


def expand_to_regions(
    asked: Rows, scene: NDArray[np.integer], index: NDArray[np.integer]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Finds the asked points that an answer for one point of their region holds for.

    asked: (K,) records with scene, index and region; scene, index: (A,) the answered points. Returns the rows of
    answers (M,) and the rows of `asked` (M,) that they are for. If a region has several answers, a point gets the one
    for itself, or else the last one.
    """
    region = np.unique(np.column_stack([asked["scene"], asked[REGION]]), axis=0, return_inverse=True)[1].reshape(-1)
    row_of = {
        point: row for row, point in enumerate(zip(asked["scene"].tolist(), asked["index"].tolist(), strict=True))
    }
    rows = [row_of.get(point, -1) for point in zip(scene.tolist(), index.tolist(), strict=True)]
    answer = np.full(region.max(initial=-1) + 1, -1)
    own = np.full(len(asked), -1)
    for number, row in enumerate(rows):
        if row >= 0:
            answer[region[row]] = own[row] = number
    chosen = np.where(own >= 0, own, answer[region])
    return chosen[chosen >= 0], np.flatnonzero(chosen >= 0)


def _groups(rows: Rows) -> list[NDArray[np.int64]]:
    """The rows of each region, or each row by itself if there are no regions."""
    if REGION not in (rows.dtype.names or ()):
        return list(np.arange(len(rows))[:, None])
    order = np.lexsort((rows["index"], rows[REGION]))
    return np.split(order, np.flatnonzero(np.diff(rows[REGION][order])) + 1)


def _medoid(place: NDArray[np.float64], group: NDArray[np.int64]) -> int:
    return int(group[np.linalg.norm(place[group] - place[group].mean(axis=0), axis=1).argmin()])


def _guesses(index: NDArray[np.int64], number: int, store: PredictionStore | SceneStore | None) -> list[Guess | None]:
    if not isinstance(store, PredictionStore) or len(store.classes) < 2:
        return [None] * len(index)
    scene = store.table[number]
    prob = store.probabilities(scene)[index].astype(np.float32)
    order = np.argsort(-prob, axis=1, kind="stable")
    names = store.classes.names
    return [
        Guess(names[o[0]], names[o[1]], float(p[o[0]])) if known else None
        for p, o, known in zip(prob, order, store.predicted(scene)[index] >= 0, strict=True)
    ]
