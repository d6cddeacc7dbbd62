"""Opens any file of hpal, or any point cloud, to be viewed on the page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hpal_cli import readers
from hpal_cli.classes import UNSURE
from hpal_cli.errors import HpalError, UsageError
from hpal_cli.labels.store import LabelStore
from hpal_cli.page.api import PageApi
from hpal_cli.page.cloud import Column, Source
from hpal_cli.page.scene_cache import Marker, SceneCache, SceneEntry, require_points, source_of, stores_of
from hpal_cli.predictions.store import PredictionStore
from hpal_cli.readers.remote import looked_for
from hpal_cli.scene_table import SceneInfo
from hpal_cli.scenes.store import Points, SceneStore
from hpal_cli.store.envelope import attributes_of, kind_of
from hpal_cli.stream.header import parse, read_text
from hpal_cli.stream.points import PointReader


def open_view(path: Path, *, source: Path | None = None, scenes: Sequence[str] = ()) -> PageApi:
    """A page that shows scenes, predictions or spread answers, labels, a selection, or a point cloud.

    source: the scenes store that the file belongs to, if it is not where the file says; scenes: patterns of the names
    of the scenes to show, none for all.

    Raises:
        HpalError: there is nothing to show, or the scenes store is missing or does not fit.
    """
    if not path.exists():
        raise HpalError(path, "does not exist", "check the name")
    if attributes_of(path) is not None:
        return PageApi(_of_store(path, source, scenes), title=path.name)
    if path.is_file() and _is_selection(path):
        return PageApi(_of_selection(path, source, scenes), title=path.name)
    if source is not None:
        raise UsageError("--source", f"has no meaning with {path}", "leave it out")
    return PageApi(_of_file(path), title=path.name)


def _of_store(path: Path, source: Path | None, globs: Sequence[str]) -> SceneCache:
    kind = kind_of(path)
    if kind == "scenes":
        return _scene_cache(path, SceneStore(path), None, globs)
    if kind == "predictions":
        predictions = PredictionStore(path)
        behind = stores_of(predictions)[0] if source is None else _scenes(source, predictions.table.id, path)
        return _scene_cache(path, behind, predictions, globs)
    if kind == "labels":
        labels = LabelStore(path)
        behind = _behind(labels, source)
        latest = labels.latest()
        marks: dict[int, list[Marker]] = {}
        for row in latest[np.lexsort((latest["index"], latest["scene"]))]:
            label = int(row["label"])
            name = UNSURE if label < 0 else labels.classes[label].name
            marks.setdefault(int(row["scene"]), []).append(Marker(int(row["index"]), name, label))
        return _scene_cache(path, behind, None, globs, marks)
    raise HpalError(path, f"is a {kind} store, which has no points to show", "give scenes, predictions or labels")


def _of_selection(path: Path, source: Path | None, globs: Sequence[str]) -> SceneCache:
    from hpal_cli.label.queries import selection_store

    with path.open("rb") as file:
        reader = PointReader(file, path)
        rows, header = reader.read(), reader.header
    store = selection_store(header, source, path.parent)
    if store is None:
        problem = f"is missing, and the scenes that {path} belongs to were not found"
        raise UsageError("--source", problem, "name their store")
    names = rows.dtype.names or ()
    marks: dict[int, list[Marker]] = {}
    order = np.argsort(rows["rank"], kind="stable") if "rank" in names else np.argsort(-rows["score"], kind="stable")
    for row in rows[order[:5000]]:
        rank = f"rank {int(row['rank'])}" if "rank" in names else f"point {int(row['index'])}"
        score = f", score {float(row['score']):.3f}" if "score" in names else ""
        marks.setdefault(int(row["scene"]), []).append(Marker(int(row["index"]), rank + score))
    scenes, predictions = stores_of(store, path.parent)
    return _scene_cache(path, scenes, predictions, globs, marks)


def _scene_cache(
    path: Path,
    scenes: SceneStore | None,
    predictions: PredictionStore | None,
    globs: Sequence[str],
    marks: dict[int, list[Marker]] | None = None,
) -> SceneCache:
    """marks: the marks by scene number; if given, only scenes with marks are shown."""
    store = predictions or scenes
    assert store is not None
    chosen: list[SceneInfo] = store.choose("all", globs)
    if marks is not None:
        chosen = [scene for scene in chosen if scene.number in marks]
        if not chosen:
            raise HpalError(path, "holds no point of these scenes", "choose others with --scenes")
    for scene in chosen:
        require_points(scene, store)
        if any(not 0 <= mark.index < scene.points for mark in (marks or {}).get(scene.number, ())):
            raise HpalError(
                path, f"names a point outside scene {scene.name}", "give the store that the file was made from"
            )

    def entry(scene: SceneInfo) -> SceneEntry:
        mine = tuple((marks or {}).get(scene.number, ()))
        return SceneEntry(
            scene.number, scene.name, scene.points, lambda: source_of(scene, scenes, predictions, True), mine
        )

    truth = scenes is not None and any(scenes.has_labels(scene) for scene in chosen)
    return SceneCache(path, [entry(scene) for scene in chosen], store.classes, truth)


def _behind(labels: LabelStore, source: Path | None) -> SceneStore:
    from hpal_cli.scenes.provenance import find_source_store

    history = [*labels.history, *(batch.entry for batch in labels.batches())]
    path = source or find_source_store(history, "scenes", labels.table.id, labels.path.parent)
    if path is None:
        # Answers to a selection do not name the scenes store, but it is mostly in the same folder.
        beside = [other for other in sorted(labels.path.parent.glob("*.zarr")) if kind_of(other) == "scenes"]
        path = next((other for other in beside if SceneStore(other).table.id == labels.table.id), None)
    if path is None:
        problem = f"is missing, and the scenes that {labels.path} belongs to were not found"
        raise UsageError("--source", problem, "name their store")
    return _scenes(path, labels.table.id, labels.path)


def _scenes(path: Path, table: str, subject: Path) -> SceneStore:
    store = SceneStore(path)
    if store.table.id != table:
        raise HpalError(path, f"belongs to other scenes than {subject}", "give the scenes that it was made from")
    return store


def _is_selection(path: Path) -> bool:
    """Whether a file holds selected or scored points of scenes, and is not a cloud by itself."""
    with path.open("rb") as file:
        if file.read(3) != b"ply":
            return False
        file.seek(0)
        names = parse(read_text(file, path), path).dtype.names or ()
    plain = {name.lower().removeprefix("scalar_") for name in names}
    return {"scene", "index"} <= plain and ("rank" in plain or "score" in plain) and "class" not in plain


def _of_file(path: Path) -> SceneCache:
    with looked_for(path) as scans:
        reader, sources = readers.find(scans.path)
        clouds = [(source, reader) for source in scans.sources(sources)]

    def entry(number: int) -> SceneEntry:
        source, own = clouds[number]

        def read() -> Source:
            cloud = readers.read(own, source)
            offset = np.floor(cloud.xyz.min(axis=0))
            columns = []
            if cloud.rgb is not None:
                rgb = np.asarray(cloud.rgb, np.uint8)
                columns.append(Column("rgb", "rgb", lambda: rgb))
            values = {**({} if cloud.label is None else {"label": cloud.label}), **cloud.attributes, **cloud.carried}
            for name, column in sorted(values.items(), key=_interesting):
                columns.append(Column(name, "number", lambda column=column: column))  # type: ignore[misc]
            xyz = (cloud.xyz - offset).astype(np.float32)
            return Source(Points(xyz, offset), columns, cloud.unit or 1.0)

        return SceneEntry(number, source.name, 0, read)

    return SceneCache(path, [entry(number) for number in range(len(clouds))], None)


def _interesting(item: tuple[str, object]) -> tuple[bool, str]:
    """Sorts (name, values) of columns: first those by which a cloud is mostly coloured, then the others, by name."""
    first = ("class", "classification", "label", "intensity", "confidence", "uncertainty")
    return item[0].lower() not in first, item[0]
