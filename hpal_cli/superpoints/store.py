"""The store of superpoints beside a scenes store (docs/formats.md section 7)."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr
from numpy.typing import NDArray

from hpal_cli.errors import HpalError
from hpal_cli.history import Entry, to_json
from hpal_cli.parallel import at_most, default_jobs, map_in_order, threads_of
from hpal_cli.progress import Monitor, Silent
from hpal_cli.scene_table import SceneInfo
from hpal_cli.scenes.metadata import read_metadata
from hpal_cli.scenes.store import SceneStore
from hpal_cli.store import envelope
from hpal_cli.store.remote import may_write
from hpal_cli.store.tasks import Place, beside
from hpal_cli.superpoints.build import Superpoints, build, scale_of
from hpal_cli.superpoints.graph import Graph
from hpal_cli.superpoints.likeness import Likeness

if TYPE_CHECKING:
    from hpal_cli.parallel import Cluster

METHOD = 2
"""The version of the method. Superpoints that another version found are computed again."""

_OF_ONE, _OF_TWO = ("size", "medoid", "centre", "feature"), ("pair", "contact", "weight")
"""Arrays with a row for each superpoint, and arrays with a row for each pair of superpoints that touch."""

_LIKENESS = ("quantile", "middle", "axis", "deviation")


class SuperpointStore:
    """An open superpoints store, which reads a scene when it is asked for one."""

    def __init__(self, path: Path) -> None:
        """Raises:
        HpalError: there is no complete superpoints store at `path`, or only a newer version can read it.
        """
        self.path = path
        self._root, attributes = envelope.open_store(path, "superpoints")
        self.classes, self.table, self.unit, self.history = read_metadata(attributes, path)
        self.method = attributes.get("method")
        self.scale = float(attributes.get("scale", 1.0))
        # A temporary folder with this store, which is removed when the store is closed.
        self.folder: tempfile.TemporaryDirectory[str] | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return envelope.reopened, (SuperpointStore, self.path, self.table.id)

    def read(self, scene: SceneInfo) -> Superpoints:
        """The superpoints of one scene with their descriptions and graph.

        Raises:
            HpalError: an array is damaged, or the arrays do not fit each other.
        """
        superpoint = self.partition(scene)
        names = (*_OF_ONE, *_OF_TWO)
        read = envelope.read_arrays(self._root, [f"scenes/{scene.name}/{name}" for name in names], self.path)
        found = dict(zip(names, read, strict=True))
        size, pair = found["size"], found["pair"]
        count, pairs = len(size), len(pair)
        self._require(
            scene,
            (not len(superpoint) or int(superpoint.max()) == count - 1)
            and all(len(found[name]) == count for name in _OF_ONE)
            and all(len(found[name]) == pairs for name in _OF_TWO)
            and found["centre"].shape == (count, 3)
            and found["feature"].ndim == 2
            and pair.shape == (pairs, 2)
            and (not pairs or 0 <= pair.min() <= pair.max() < count),
        )
        joined = Graph(pair, found["contact"], found["weight"])
        return Superpoints(superpoint, size, found["medoid"], found["centre"], found["feature"], joined)

    def partition(self, scene: SceneInfo) -> NDArray[np.int32]:
        """(N,) superpoint of each point, 0 to S - 1.

        Raises:
            HpalError: the array does not have a superpoint for each point, or there are gaps in their numbers.
        """
        superpoint = self._array(scene, "of")
        self._require(
            scene,
            superpoint.shape == (scene.points,)
            and superpoint.dtype == np.int32
            and superpoint.min() >= 0
            and bool(np.bincount(superpoint).all()),
        )
        return superpoint

    def likeness(self) -> Likeness:
        """The components by which superpoints are compared, computed from the train scenes, or from all if there are
        none."""
        return Likeness(*(envelope.read_array(self._root, f"likeness/{name}", self.path) for name in _LIKENESS))

    def check(self) -> None:
        """Reads every chunk of every array.

        Raises:
            HpalError: a chunk is damaged or missing.
        """
        envelope.check_store(self._root, self.path)

    def check_scene(self, scene: SceneInfo) -> None:
        """Reads all arrays of a scene and checks that they are consistent.

        Raises:
            HpalError: an array is damaged, or the arrays contradict each other.
        """
        found, likeness = self.read(scene), self.likeness()
        pair, weight = found.graph.pair.astype(np.int64), found.graph.weight
        key = pair[:, 0] * len(found) + pair[:, 1]
        self._require(
            scene,
            np.array_equal(found.size, np.bincount(found.superpoint))
            and bool(((found.medoid >= 0) & (found.medoid < scene.points)).all())
            and np.array_equal(found.superpoint[found.medoid], np.arange(len(found)))
            and bool(np.isfinite(found.centre).all() and np.isfinite(found.feature).all())
            and bool((pair[:, 0] < pair[:, 1]).all() and (np.diff(key) > 0).all())
            and bool((found.graph.contact > 0).all() and np.isfinite(weight).all() and (weight > 0).all())
            and likeness.fits(found.feature.shape[1]),
        )

    def _require(self, scene: SceneInfo, consistent: bool) -> None:
        if not consistent:
            raise HpalError(
                self.path,
                f"scene {scene.name}: its superpoints do not fit together",
                "remove the store; the next command that needs it writes it again",
            )

    def _array(self, scene: SceneInfo, name: str) -> NDArray[Any]:
        return envelope.read_array(self._root, f"scenes/{scene.name}/{name}", self.path)


def superpoints_path(path: Path) -> Path:
    """The path of the superpoints of the scenes store at `path`: `scenes.superpoints.zarr` beside `scenes.zarr`."""
    return path.with_name(f"{path.stem}.superpoints{path.suffix}")


def scenes_of(path: Path) -> Path | None:
    """The path of the scenes store whose superpoints are at `path`; None if `superpoints_path` gives no such name."""
    found = path.with_name(path.name.replace(".superpoints", "", 1))
    return found if found != path and superpoints_path(found) == path else None


def open_superpoints(
    store: SceneStore,
    *,
    jobs: int | Cluster | None = None,
    history: Sequence[Entry] = (),
    monitor: Monitor | None = None,
) -> SuperpointStore:
    """Opens the superpoints of a scenes store, which are in the store beside it. If that store is missing or does not
    fit, the superpoints are computed and written there, or to a temporary folder if that place is not writable.

    jobs: number of processes (None: `default_jobs`), or a cluster; the result does not depend on it.

    Raises:
        HpalError: a store of another kind is in that place, or a store cannot be read or written.
    """
    monitor = monitor or Silent()
    path = superpoints_path(store.path)
    if path.exists():
        kind = envelope.kind_of(path)
        if kind != "superpoints":
            raise HpalError(
                path, "has the name that the superpoints store needs", "move it away, or rename the scenes store"
            )
        with contextlib.suppress(HpalError):
            found = SuperpointStore(path)
            same = found.table.id == store.table.id and found.method == METHOD
            # Without a grid, the scale need not be computed again, as the points are the same.
            if same and ((store.scale is None and store.grid is None) or found.scale == store_scale(store)):
                return found
    if not may_write(path.parent):
        folder = tempfile.TemporaryDirectory(prefix="hpal-")
        monitor.note(f"{path.parent} cannot be written to: the superpoints are not kept for the next command")
        made = make_superpoints(store, Path(folder.name) / path.name, jobs=jobs, history=history, monitor=monitor)
        made.folder = folder
        return made
    return make_superpoints(store, path, jobs=jobs, overwrite=True, history=history, monitor=monitor)


def make_superpoints(
    store: SceneStore,
    out: Path,
    *,
    jobs: int | Cluster | None = None,
    overwrite: bool = False,
    history: Sequence[Entry] = (),
    monitor: Monitor | None = None,
) -> SuperpointStore:
    """Finds the superpoints of every scene and writes the store `out`.

    Raises:
        HpalError: there are no scenes, or `out` cannot be written, or it exists and `overwrite` is not set.
    """
    monitor = monitor or Silent()
    scenes = list(store.table)
    if not scenes:
        raise HpalError(store.path, "has no scenes", "run `hpal prep` on a folder that holds some")
    jobs = at_most(default_jobs() if jobs is None else jobs, len(scenes))
    scale = store_scale(store)
    attributes = {
        "id": store.table.id,
        "classes": store.classes.to_json(),
        "unit": store.unit,
        "scenes": store.table.to_json(),
        "method": METHOD,
        "scale": scale,
        "history": to_json([*store.history, *history]),
    }
    train = any(scene.split == "train" for scene in scenes)
    described = []
    with (
        envelope.create(out, "superpoints", attributes, overwrite=overwrite) as (root, folder),
        beside(out, jobs) as tasks,
        monitor.task("superpoints", len(scenes)) as task,
    ):
        place = tasks.place(out, folder)
        work = [_Work(store, scene, scale, threads_of(jobs), place) for scene in scenes]
        with contextlib.closing(map_in_order(_build, work, jobs)) as results:
            for scene, feature in zip(scenes, results, strict=True):
                place.finish(root, scene.name)
                if scene.split == "train" or not train:
                    described.append(feature)
                task.advance(1, f"{scene.name}  {len(feature):,} superpoints")
        likeness, group = Likeness.fit(described), root.require_group("likeness")
        for name in _LIKENESS:
            envelope.write_array(group, name, getattr(likeness, name))
    return SuperpointStore(out)


def store_scale(store: SceneStore) -> float:
    """The scale that the store records, or else `scale_of` its scenes. All scenes have the same scale, so that their
    descriptions can be compared."""
    if store.scale is not None:
        return store.scale
    if store.grid is not None:
        return scale_of(np.zeros((0, 3)), store.grid, store.unit)
    return max(scale_of(store.points(scene).xyz, None, store.unit) for scene in list(store.table)[:_MEASURED])


_MEASURED = 5
"""Number of scenes from which the scale is computed if there is no grid."""


@dataclass(frozen=True)
class _Work:
    """One scene to compute the superpoints of, as a task for a worker process."""

    store: SceneStore
    scene: SceneInfo
    scale: float
    threads: int
    place: Place


def _build(work: _Work) -> NDArray[np.floating]:
    """Writes the superpoints of a scene. Returns their descriptions (S, K), from which the likeness is learned."""
    return work.place.write(work.scene.name, partial(_write_built, work))


def _write_built(work: _Work, root: zarr.Group, _: Path) -> NDArray[np.floating]:
    found = build(work.store.points(work.scene), scale=work.scale, unit=work.store.unit, threads=work.threads)
    _write(root.require_group(f"scenes/{work.scene.name}"), found)
    return found.feature


def _write(group: zarr.Group, found: Superpoints) -> None:
    envelope.write_array(group, "of", found.superpoint)
    for name in _OF_ONE:
        envelope.write_array(group, name, getattr(found, name))
    for name in _OF_TWO:
        envelope.write_array(group, name, getattr(found.graph, name))
