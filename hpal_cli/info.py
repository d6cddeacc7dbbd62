"""What a file of hpal is: kind, counts, classes, history; and whether it is whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hpal_cli.errors import HpalError
from hpal_cli.history import Entry
from hpal_cli.label.log import read_log
from hpal_cli.label.store import LabelStore
from hpal_cli.lengths import format_length
from hpal_cli.predictions.store import PredictionStore
from hpal_cli.progress import Monitor, Silent
from hpal_cli.scenes.classes import ClassTable
from hpal_cli.scenes.store import SceneStore
from hpal_cli.scenes.table import SPLITS, SceneTable, fingerprint
from hpal_cli.store.envelope import attributes_of, kind_of
from hpal_cli.stream.points import PointReader
from hpal_cli.wording import counted


@dataclass
class Description:
    """facts: what to say, in order; table: headers and rows, or nothing; history: oldest command first."""

    kind: str
    facts: dict[str, Any]
    headers: tuple[str, ...] = ()
    rows: Sequence[tuple[str, ...]] = field(default_factory=tuple)
    history: Sequence[Entry] = ()

    def to_json(self) -> dict[str, Any]:
        table = [dict(zip(self.headers, row, strict=True)) for row in self.rows]
        return {
            "kind": self.kind,
            **self.facts,
            "table": table,
            "history": [e.to_json() for e in self.history],
        }


def describe(path: Path, *, check: bool = False, monitor: Monitor | None = None) -> Description:
    """Any store, checkpoint or point stream.

    check: read everything, and compare it with what the tables say.

    Raises:
        HpalError: no file of hpal, or one that is damaged or inconsistent.
    """
    monitor = monitor or Silent()
    if path.is_dir():
        kind = kind_of(path)
        if kind == "predictions":
            return _predictions(PredictionStore(path), check, monitor)
        if kind == "labels":
            return _labels(LabelStore(path), check)
        return _scenes(SceneStore(path), check, monitor)
    if not path.exists():
        raise HpalError(path, "does not exist", "check the name")
    with path.open("rb") as file:
        start = file.read(4)
    if start[:3] == b"ply":
        return _points(path)
    if start == b"PK\x03\x04":
        return _checkpoint(path)
    raise HpalError(path, "is no file of hpal", "give a store, a checkpoint or a point stream (PLY)")


def _scenes(store: SceneStore, check: bool, monitor: Monitor) -> Description:
    if check:
        _require_id(store.path, store.table)
    counts = {split: np.zeros(len(store.classes) + 1, np.int64) for split in SPLITS}
    with monitor.task("reading", len(store.table)) as task:
        for scene in store.table:
            label = store.labels(scene)
            if label is None:
                label = np.full(scene.points, -1, np.int32)
            counts[scene.split] += np.bincount(label + 1, minlength=len(store.classes) + 1)
            if check:
                points = store.points(scene)
                original, inverse = store.original(scene)
                sizes = (
                    len(points.xyz) == len(label) == scene.points
                    and len(original.xyz) == len(inverse) == scene.original
                )
                inside = len(inverse) == 0 or (inverse.min() >= 0 and inverse.max() < scene.points)
                same = fingerprint(points.offset, np.asarray(points.xyz, np.float32)) == scene.fingerprint
                _require(store.path, scene.name, sizes and bool(inside) and same)
            task.advance(1, scene.name)
    present = [split for split in SPLITS if any(s.split == split for s in store.table)]
    rows = [
        (c.name, *(f"{counts[s][c.id + 1]:,}" for s in present)) for c in store.classes
    ] + [("(none)", *(f"{counts[s][0]:,}" for s in present))]  # fmt: skip
    facts = {
        **_table_facts(store.table, store.classes),
        "original points": sum(s.original for s in store.table),
        "grid": "none" if store.grid is None else format_length(store.grid),
        "unit": f"{store.unit:g} m",
        "format": store.format,
    }
    return Description("scenes", facts, ("class", *present), rows, store.history)


def _predictions(store: PredictionStore, check: bool, monitor: Monitor) -> Description:
    if check:
        _require_id(store.path, store.table)
    scenes = store.choose("all")
    counts = np.zeros(len(store.classes), np.int64)
    answered = 0
    with monitor.task("reading", len(scenes)) as task:
        for scene in scenes:
            pred = store.predicted(scene)
            counts += np.bincount(pred, minlength=len(store.classes))
            labelled = store.labelled(scene)
            answered += len(labelled)
            if check:
                store.probabilities(scene)
                if store.feature_count(scene):
                    store.features(scene).check()
                points = store.points(scene)
                same = fingerprint(points.offset, points.xyz.astype(np.float32)) == scene.fingerprint
                inside = not len(labelled) or (labelled.min() >= 0 and labelled.max() < scene.points)
                _require(store.path, scene.name, len(pred) == scene.points and same and bool(inside))
            task.advance(1, scene.name)
    rows = [(c.name, f"{counts[c.id]:,}") for c in store.classes]
    facts = {
        **_table_facts(store.table, store.classes),
        "predicted scenes": len(scenes),
        "features": store.feature_count(scenes[0]),
        "answered points": answered,
    }
    return Description("predictions", facts, ("class", "predicted"), rows, store.history)


def _labels(store: LabelStore, check: bool) -> Description:
    if check:
        store.check()
        _require_id(store.path, store.table)
    log = read_log(store)
    latest = log.rows[log.counts]["label"]
    counts = np.bincount(latest + 1, minlength=len(store.classes) + 1)
    rows = [(c.name, f"{counts[c.id + 1]:,}") for c in store.classes] + [("(unsure)", f"{counts[0]:,}")]
    asked = len(store.asked())
    facts: dict[str, Any] = {
        **_table_facts(store.table, store.classes),
        "labelled points": int((latest >= 0).sum()),
        "answers given": len(log.rows),
        "open queries": f"{len(store.open()):,} of {asked:,}" if asked else "none known",
    }
    sources: dict[str, int] = {}
    for batch, _, _, counting in log.batches:
        if len(batch.rows):
            text = f"{counted(len(batch.rows), 'answer')} from {batch.source}"
            facts[f"round {batch.round}"] = text + ("" if batch.stands else ", undone")
            sources[batch.source] = sources.get(batch.source, 0) + counting
        elif batch.undoes:
            undone = f"undoes round {', '.join(map(str, batch.undoes))}"
            facts[f"round {batch.round}"] = undone + ("" if batch.stands else ", undone itself")
    for source, counting in sources.items():
        facts[f"from {source}"] = f"{counted(counting, 'answer')} that count"
    return Description("labels", facts, ("class", "labelled"), rows, [logged.batch.entry for logged in log.batches])


def _points(path: Path) -> Description:
    with path.open("rb") as file:
        reader = PointReader(file, path)
        rows = reader.read()
    header = reader.header
    names = {s.number: s.name for s in header.pool}
    facts: dict[str, Any] = {
        "points": len(rows),
        "properties": ", ".join(header.dtype.names or ()),
        "source": header.source or "unknown",
        "pool": f"{len(header.pool)} scenes, {sum(s.points for s in header.pool):,} points",
    }
    if header.strategy is not None:
        facts["scored by"] = header.strategy
    if header.shard is not None:
        facts["part"] = "{} of {}".format(*header.shard)
    table = []
    if "scene" in (header.dtype.names or ()):
        numbers, counts = np.unique(rows["scene"], return_counts=True)
        table = [(names.get(int(n), "?"), str(n), f"{c:,}") for n, c in zip(numbers, counts, strict=True)]
    return Description(header.kind, facts, ("scene", "number", "points"), table, header.history)


def _checkpoint(path: Path) -> Description:
    # torch takes a second to import, and no store needs it.
    from hpal_cli.training import checkpoint

    model = checkpoint.load(path)
    facts: dict[str, Any] = {
        "network": model.settings.size,
        "parameters": sum(p.numel() for p in model.network().parameters()),
        "channels": " ".join(model.channels),
        "voxel": format_length(model.settings.voxel),
        "steps": model.step,
        "teacher": "yes" if model.settings.teacher else "no",
        "labelled points": model.labelled,
        "classes": ", ".join(model.classes.names),
    }
    return Description("checkpoint", facts, history=model.history)


def _table_facts(table: SceneTable, classes: ClassTable) -> dict[str, Any]:
    splits = ", ".join(f"{n} {split}" for split in SPLITS if (n := sum(s.split == split for s in table)))
    return {
        "scenes": f"{len(table)} ({splits})",
        "points": sum(s.points for s in table),
        "classes": len(classes),
        "id": table.id,
    }


def _require_id(path: Path, table: SceneTable) -> None:
    stated = (attributes_of(path) or {}).get("id")
    if stated not in (None, table.id):
        raise HpalError(path, f"its id is {stated}, but its scenes are {table.id}", "write the store again")


def _require(path: Path, scene: str, consistent: bool) -> None:
    if not consistent:
        raise HpalError(path, f"scene {scene} is not what the store's table says", "write the store again")
