"""Finds the grid points that the answers in a file belong to: by scene and index, by the order of a whole cloud, or by
position."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpal_cli.errors import HpalError
from hpal_cli.label.annotated import NOTHING_TAKEN, UNANSWERED, Annotated
from hpal_cli.label.rounding import looks_rounded
from hpal_cli.labels.store import ANSWER, LabelStore, point_keys, rows_of_scenes
from hpal_cli.predictions.store import PredictionStore
from hpal_cli.scene_table import SceneInfo
from hpal_cli.scenes.store import Points, SceneStore
from hpal_cli.wording import counted

Store = SceneStore | PredictionStore | LabelStore

POSITION_TOLERANCE = 1e-3
"""Metres by which a position may differ from its original point, since some viewers store positions as 32-bit
floats."""

STEP = 0.1
"""Metres by which the position in a row of a table may differ from its point, in scenes without a grid."""


@dataclass
class Matched:
    """rows: (K,) records of `ANSWER`, each point once; notes: messages that say how the points were found."""

    rows: NDArray[np.void]
    notes: list[str] = field(default_factory=list)


def match(found: Annotated, store: Store) -> Matched:
    """The answered points of a file as answers for grid points of a store.

    An answered point with an index belongs to the grid point of that row, in the scene that the point names or else in
    the scene that the file is named after. If all points are original points of one scene, each cell gets the class
    that most of its answered points have, on a tie the class of the smallest id. Any other point belongs to the nearest
    grid point, if that is within half a grid step and no other answered point or scene is as near.

    Raises:
        HpalError: a point belongs to no grid point or to several scenes, its index was rounded, or its answer
            contradicts another one for the same grid point. The message names its row.
    """
    if found.table not in (None, store.table.id):
        raise HpalError(
            found.path, f"holds points of other scenes than {store.path}", "give the store that the answers are for"
        )
    answered = np.flatnonzero(found.label != UNANSWERED)
    if not len(answered):
        return Matched(np.zeros(0, ANSWER))
    if found.index is not None and (found.index[answered] >= 0).any():
        matched = _by_index(found, answered, store)
    elif found.position is None:
        matched = _by_order(found, answered, store)
    else:
        matched = _by_position(found, answered, store)
    if not isinstance(store, LabelStore):
        _place(matched.rows, store)
    return matched


def _place(rows: NDArray[np.void], store: SceneStore | PredictionStore) -> None:
    """Replaces the positions of answers by those of their grid points, since a file may round them or have none."""
    for _, here, points in _scenes_of(rows["scene"], store):
        position = points.position[rows["index"][here]]
        rows["x"][here], rows["y"][here], rows["z"][here] = position.T


def _scenes_of(
    numbers: NDArray[np.integer], store: SceneStore | PredictionStore
) -> Iterator[tuple[SceneInfo, NDArray[np.int64], Points]]:
    """For each scene among the numbers (K,) whose points the store has: the scene, which of the K numbers are its own,
    and its points."""
    for number, here in rows_of_scenes(numbers).items():
        scene = store.table[number]
        if isinstance(store, SceneStore) or store.has(scene):
            yield scene, here, store.points(scene)


def _by_index(found: Annotated, answered: NDArray[np.int64], store: Store) -> Matched:
    assert found.index is not None
    index = found.index[answered]
    scene = np.full(len(answered), -1) if found.scene is None else found.scene[answered]
    if len(found.named) == 1:
        scene = np.where(scene < 0, found.named[0].number, scene)
    _refuse(found, answered, index < 0, "has an answer, but no index")
    _refuse(found, answered, scene < 0, "does not say of which scene it is")
    _refuse(found, answered, scene >= len(store.table), "is of a scene that does not exist")
    points = np.array([s.points for s in store.table])[scene]
    beyond = index >= points
    if beyond.any():
        n = int(beyond.argmax())
        name = store.table[int(scene[n])].name
        _refuse(found, answered, beyond, f"scene {name} has no point {index[n]}", colon=True)
    if found.position is not None and not isinstance(store, LabelStore):
        place = found.position[answered]
        wrong = np.zeros(len(answered), bool)
        for _, here, grid in _scenes_of(scene, store):
            wrong[here] = looks_rounded(
                index[here], place[here], grid.position[index[here]], _step(store, grid.xyz) / 2
            )
        _refuse(found, answered, wrong, "has an index that a viewer rounded (binary PLY keeps it)")
        if found.typed:
            _require_positions(found, answered, scene, index, store)
    return Matched(_answers(found, answered, scene, index))


def _require_positions(
    found: Annotated,
    answered: NDArray[np.int64],
    scene: NDArray[np.integer],
    index: NDArray[np.int64],
    store: SceneStore | PredictionStore,
) -> None:
    """Checks the positions of points that have an index too.

    Raises:
        HpalError: a point lies more than a grid step away from the grid point of its index, and the points are not all
            shifted by the same vector.
    """
    assert found.position is not None
    off = np.full((len(answered), 3), np.nan)
    for _, here, grid in _scenes_of(scene, store):
        off[here] = found.position[answered[here]] - grid.position[index[here]]
    given = np.flatnonzero(np.isfinite(off).all(axis=1))
    off, step = off[given], (store.grid or STEP) / store.unit
    wrong = np.linalg.norm(off, axis=1) > step
    if not wrong.any():
        return
    # A viewer may have shifted all points by the same vector. A single point cannot show that.
    if len(off) > 1 and (np.linalg.norm(off - np.median(off, axis=0), axis=1) <= step).all():
        return
    n = int(given[wrong.argmax()])
    name = store.table[int(scene[n])].name
    more = f" ({counted(int(wrong.sum()), 'such row')})" if wrong.sum() > 1 else ""
    problem = f"does not lie at point {index[n]} of {name}: was one column sorted without the others?{more}"
    remedy = "sort whole rows, or empty x, y and z; nothing of this file was taken"
    raise HpalError(found.path, f"{found.where(int(answered[n]))} {problem}", remedy)


def _by_order(found: Annotated, answered: NDArray[np.int64], store: Store) -> Matched:
    """Matches a file that has only a label for each point, and as many as its scene has grid points or original
    points."""
    (scene,) = found.named
    if len(found.label) != scene.original:
        return Matched(_answers(found, answered, np.full(len(answered), scene.number), answered))
    if not isinstance(store, SceneStore):
        problem = f"has a label for each original point of {scene.name}, which only the scenes store knows"
        raise HpalError(found.path, problem, "give --source scenes.zarr")
    cell = store.original(scene)[1]
    if scene.points == scene.original and not np.array_equal(cell, np.arange(len(cell))):
        problem = f"may have the order of the original points of {scene.name} or that of its grid points"
        raise HpalError(found.path, problem, "answer in a PLY file, which keeps scene and index")
    return _by_majority(found, answered, scene, cell[answered])


def _by_majority(found: Annotated, answered: NDArray[np.int64], scene: SceneInfo, cell: NDArray[np.int64]) -> Matched:
    """Gives each grid point the class of most of its original points. cell: (K,) the grid point of each answered point.
    "Unsure" counts only if no original point of the cell has a class."""
    label = found.label[answered].astype(np.int64)
    # Cell and label in one number, since counting numbers is much faster than counting pairs.
    base = int(label.max()) + 2
    both, count = np.unique(cell * base + label + 1, return_counts=True)
    votes = np.column_stack([both // base, both % base - 1])
    # The last row of each cell then has the most votes, and on a tie the smallest class.
    votes = votes[np.lexsort((-votes[:, 1], count, votes[:, 1] >= 0, votes[:, 0]))]
    votes = votes[np.append(votes[1:, 0] != votes[:-1, 0], True)]
    rows = np.full(len(votes), np.array((scene.number, 0, np.nan, np.nan, np.nan, 0, 0), ANSWER))
    rows["index"], rows["label"] = votes.T
    return Matched(
        rows, [f"{counted(len(label), 'original point')} of {scene.name}: {counted(len(rows), 'grid point')}"]
    )


def _by_position(found: Annotated, answered: NDArray[np.int64], store: Store) -> Matched:
    from scipy.spatial import cKDTree

    assert found.position is not None
    if isinstance(store, LabelStore):
        problem = "has no scene and index, and a labels store does not know where points are"
        raise HpalError(found.path, problem, "give --source, the scenes or predictions store")
    place = found.position[answered]
    _refuse(found, answered, ~np.isfinite(place.sum(axis=1)), "has an answer, but no position")
    if isinstance(store, SceneStore):
        for scene, _, local, inside in _around(found, place, store):
            if inside.all() and (cell := _originals(local, store, scene)) is not None:
                return _by_majority(found, answered, scene, cell)
    scene_number, row = np.full(len(answered), -1), np.zeros(len(answered), np.int64)
    exact, double = np.zeros(len(answered), bool), np.zeros(len(answered), bool)
    for scene, xyz, local, inside in _around(found, place, store):
        reach = _step(store, xyz) / 2
        distance, nearest = cKDTree(xyz).query(local[inside], distance_upper_bound=reach * (1 + 1e-6))
        at = np.flatnonzero(inside)[np.isfinite(distance)]
        distance, nearest = distance[np.isfinite(distance)], nearest[np.isfinite(distance)]
        same = distance <= POSITION_TOLERANCE / store.unit
        # Neighbouring rooms share walls: a point at the same position is preferred to one that is only near.
        matched, better = scene_number[at] >= 0, same & ~exact[at]
        double[at] = np.where(better, False, double[at] | (matched & (same == exact[at])))
        new = ~matched | better
        scene_number[at[new]], row[at[new]], exact[at[new]] = scene.number, nearest[new], same[new]
    _refuse(found, answered, double, "lies in more than one scene")
    _refuse(
        found, answered, scene_number < 0, "has no scene and index, and no grid point is within half a grid step of it"
    )
    key = scene_number.astype(np.int64) << 40 | row
    order = np.argsort(key, kind="stable")
    twice = np.zeros(len(answered), bool)
    twice[order[1:][key[order[1:]] == key[order[:-1]]]] = True
    _refuse(found, answered, twice, "is as near to a grid point as another answered point")
    note = f"{counted(len(answered), 'point')} of {found.path} matched by position"
    return Matched(_answers(found, answered, scene_number, row), [note])


def _around(
    found: Annotated, place: NDArray[np.float64], store: SceneStore | PredictionStore
) -> Iterator[tuple[SceneInfo, NDArray[np.floating], NDArray[np.float64], NDArray[np.bool_]]]:
    """For each scene that some of the positions `place` (K, 3) may belong to: the scene, its grid points (N, 3), the
    positions relative to its offset (K, 3), and whether each of them is within its bounds (K,)."""
    for scene in found.named or store.table:
        if isinstance(store, PredictionStore) and not store.has(scene):
            continue
        points = store.points(scene)
        local = place - points.offset
        edge = np.ptp(points.xyz, axis=0).max() * 1e-6 + 2 * _step(store, points.xyz)
        inside = ((local > points.xyz.min(axis=0) - edge) & (local < points.xyz.max(axis=0) + edge)).all(axis=1)
        if inside.any():
            yield scene, points.xyz, local, inside


def _step(store: SceneStore | PredictionStore, xyz: NDArray[np.floating]) -> float:
    """The grid step in units of the scene; without a grid, the median distance of a point to its nearest neighbour."""
    from scipy.spatial import cKDTree

    if store.grid is not None:
        return store.grid / store.unit
    return float(np.median(cKDTree(xyz).query(xyz, 2)[0][:, 1])) if len(xyz) > 1 else 0.0


def _originals(local: NDArray[np.float64], store: SceneStore, scene: SceneInfo) -> NDArray[np.int64] | None:
    """(K,) the grid points of K positions relative to the scene's offset, if each of them is an original point."""
    from scipy.spatial import cKDTree

    if scene.original == scene.points:
        return None
    points, inverse = store.original(scene)
    same = POSITION_TOLERANCE / store.unit
    if len(local) == len(points.xyz) and np.abs(points.xyz - local).max() <= same:
        return inverse
    distance, nearest = cKDTree(points.xyz).query(local, distance_upper_bound=same)
    return inverse[nearest] if np.isfinite(distance).all() else None


def _answers(
    found: Annotated, rows_of_file: NDArray[np.int64], scene: NDArray[np.integer], index: NDArray[np.integer]
) -> NDArray[np.void]:
    """(K',) records for the points in the rows `rows_of_file` (K,) of a file, each grid point once.

    Raises:
        HpalError: two answers for one grid point contradict each other.
    """
    rows = np.zeros(len(rows_of_file), ANSWER)
    rows["scene"], rows["index"], rows["label"] = scene, index, found.label[rows_of_file]
    position = np.full((len(rows_of_file), 3), np.nan) if found.position is None else found.position[rows_of_file]
    rows["x"], rows["y"], rows["z"] = position.T
    key = point_keys(rows)
    order = np.argsort(key, kind="stable")
    again = np.flatnonzero(key[order[1:]] == key[order[:-1]])
    other = again[rows["label"][order[again + 1]] != rows["label"][order[again]]]
    if len(other):
        first, second = rows_of_file[order[other[0]]], rows_of_file[order[other[0] + 1]]
        problem = f"{found.where(second)} and {found.where(first)} have different answers for the same point"
        raise HpalError(found.path, problem, NOTHING_TAKEN)
    keep = np.ones(len(rows_of_file), bool)
    keep[order[again + 1]] = False
    return rows[keep]


def _refuse(
    found: Annotated, rows_of_file: NDArray[np.int64], bad: NDArray[Any], problem: str, *, colon: bool = False
) -> None:
    """Raises:
    HpalError: some of the rows `rows_of_file` (K,) of a file are bad (K,). The message names the first and counts the
    others.
    """
    if bad.any():
        more = f" ({counted(int(bad.sum()), 'such point')})" if bad.sum() > 1 else ""
        where = found.where(int(rows_of_file[int(bad.argmax())]))
        raise HpalError(found.path, f"{where}{':' if colon else ''} {problem}{more}", NOTHING_TAKEN)
