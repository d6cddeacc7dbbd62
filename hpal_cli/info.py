"""Describes a file of hpal by its kind, counts, classes and history, and checks that it is complete and consistent."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from hpal_cli.classes import ClassTable
from hpal_cli.errors import HpalError
from hpal_cli.evaluation.bound import superpoint_bound
from hpal_cli.forest.model import is_forest
from hpal_cli.forest.model import load as load_forest
from hpal_cli.history import Entry
from hpal_cli.label.annotators import agreements, annotators
from hpal_cli.label.log import read_log
from hpal_cli.labels.store import LabelStore
from hpal_cli.lengths import format_length
from hpal_cli.predictions.store import PredictionStore
from hpal_cli.progress import Monitor, Silent
from hpal_cli.scene_table import SPLITS, SceneTable, fingerprint
from hpal_cli.scenes.store import SceneStore
from hpal_cli.store.envelope import attributes_of, kind_of
from hpal_cli.store.files import is_special
from hpal_cli.stream.points import PointReader
from hpal_cli.superpoints.store import SuperpointStore, scenes_of
from hpal_cli.wording import counted


@dataclass
class Description:
    """The description of a file. Lengths are in metres, and None stands for what is missing or not known.

    facts: in the order in which they are printed; table: rows with the same columns, among them a row of the class None
    for points without a class (without a label, or unsure); history: the oldest command first.
    """

    kind: str
    facts: dict[str, Any]
    table: Sequence[dict[str, Any]] = ()
    history: Sequence[Entry] = ()

    def to_json(self) -> dict[str, Any]:
        """The report of `hpal info --json`, whose members docs/commands.md describes."""
        return {
            "kind": self.kind,
            **self.facts,
            "table": list(self.table),
            "history": [e.to_json() for e in self.history],
        }

    def lines(self) -> Iterator[tuple[str, str]]:
        """The facts as text for a person: pairs of a name and a value."""
        for key, value in self.facts.items():
            if key == "rounds":
                yield from _round_lines(value)
            elif key == "people":
                for one in value:
                    pace = f"{one['per_hour']:,.0f} an hour, {one['seconds']:.1f} s in the median"
                    yield one["name"], f"{counted(one['answers'], 'answer')}, {pace}"
            elif key == "agreement":
                for one in value:
                    kappa = "not defined" if one["kappa"] is None else f"{one['kappa']:.2f}"
                    both = f"{one['first']} and {one['second']}"
                    asked = counted(one["queries"], "query", "queries")
                    yield "agreement", f"{both}: {one['same']:.0%} of {asked}, Cohen's kappa {kappa}"
            elif key == "libraries":
                yield from ((name, found or "not installed") for name, found in value.items())
            elif key == "backends":
                yield from ((f"backend {name}", state) for name, state in value.items())
            elif (key in _OPTIONAL and value is None) or (key in _COUNTS and not value):
                continue
            elif key == "classes":
                yield key, f"{len(value):,}" if self.table else ", ".join(value)
            else:
                what = "open queries" if key == "queries" else key.replace("_", " ")
                yield what, _WORDS[key](value) if key in _WORDS else _cell(value)

    def cells(self) -> tuple[list[str], list[list[str]]]:
        """The table as text for a person: headers and rows, without the splits that have no scene."""
        empty = [split for split in SPLITS if not self.facts.get("scenes", {}).get(split)]
        headers = [key for key in (self.table[0] if self.table else ()) if key not in empty]
        nothing = {"labels": "(unsure)", "scenes": "(none)", "installation": ""}.get(self.kind, "?")
        return headers, [[nothing if row[key] is None else _cell(row[key]) for key in headers] for row in self.table]


_OPTIONAL = ("scored_by", "part", "spread_from", "bound", "scale")
_COUNTS = ("spread_to_points", "points_without_class")
"""Facts that are not printed for a person if they are None or 0."""


def _cell(value: int | str) -> str:
    return f"{value:,}" if isinstance(value, int) else value


def _splits(scenes: dict[str, int]) -> str:
    return f"{scenes['total']:,} ({', '.join(f'{scenes[split]:,} {split}' for split in SPLITS if scenes[split])})"


def _channels(names: Sequence[str]) -> str:
    """The input channels as text, with the many columns of superpoints shortened to the first and the last."""
    numbered = [name for name in names if name.startswith("likeness_")]
    short = [name for name in names if name not in numbered[1:-1]]
    return " ".join(f"{name} to" if name == numbered[0] else name for name in short) if numbered else " ".join(names)


def _spread_from(source: dict[str, Any]) -> str:
    others = ["surfaces that look alike"] * bool(source["alike"]) + list(source["predictions"])
    return ", with ".join(part for part in (source["labels"], " and ".join(others)) if part)


_WORDS: dict[str, Callable[[Any], str]] = {
    "scenes": _splits,
    "grid": lambda edge: "none" if edge is None else format_length(edge),
    "unit": lambda metres: f"{metres:g} m",
    "queries": lambda n: f"{n['open']:,} of {n['asked']:,}" if n["asked"] else "none known",
    "properties": ", ".join,
    "source": lambda store: store or "unknown",
    "pool": lambda n: f"{counted(n['scenes'], 'scene')}, {counted(n['points'], 'point')}",
    "part": lambda n: f"{n['number']} of {n['of']}",
    "channels": _channels,
    "voxel": format_length,
    "memory": lambda size: "unknown" if size is None else f"{size / 2**30:.1f} GiB",
    "gpus": lambda names: ", ".join(names) or "none",
    "cuda": lambda version: version or "torch was built without it",
    "compiler": lambda version: version or "none",
    "teacher": lambda has: "yes" if has else "no",
    "scale": lambda times: f"{times:g}",
    "spread_from": _spread_from,
    "bound": lambda m: f"mIoU {m['miou']:.3f}, accuracy {m['accuracy']:.3f} with one class a superpoint",
}
"""Functions that turn a fact into text, for facts that are neither a number nor a word."""


def _round_lines(rounds: Sequence[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    """A line for each round, in which successive single answers from the same source share a line, and then a line for
    each source."""
    sources: dict[str, int] = {}
    for _, together in itertools.groupby(rounds, key=_kind_of_round):
        first, *others = alike = list(together)
        last = alike[-1]
        for one in alike:
            if one["answers"]:
                sources[one["source"]] = sources.get(one["source"], 0) + one["counting"]
        if first["answers"]:
            given = sum(one["answers"] for one in alike)
            text = f"{counted(given, 'answer')} from {first['source']}" + (", undone" if first["undone"] else "")
            yield f"rounds {first['round']} to {last['round']}" if others else f"round {first['round']}", text
        else:
            undoes = ", ".join(map(str, first["undoes"]))
            text = f"undoes round {undoes}" + (", undone itself" if first["undone"] else "")
            yield f"round {first['round']}", text
    for source, counting in sources.items():
        yield f"from {source}", f"{counted(counting, 'answer')} that count"


def _kind_of_round(one: dict[str, Any]) -> tuple[Any, ...]:
    """A key that is equal for rounds which share a line: those of single answers, as the labelling page gives them."""
    return (one["source"], one["undone"]) if one["answers"] == 1 else (one["round"],)


def describe(path: Path, *, check: bool = False, monitor: Monitor | None = None) -> Description:
    """Describes a store, a checkpoint or a point stream.

    check: read everything, and compare it with the tables of the file.

    Raises:
        HpalError: it is no file of hpal, or it is damaged or inconsistent.
    """
    monitor = monitor or Silent()
    if path.is_dir():
        kind = kind_of(path)
        if kind == "predictions":
            return _predictions(PredictionStore(path), check, monitor)
        if kind == "labels":
            return _labels(LabelStore(path), check)
        if kind == "superpoints":
            return _superpoints(SuperpointStore(path), check, monitor)
        return _scenes(SceneStore(path), check, monitor)
    if not path.exists():
        raise HpalError(path, "does not exist", "check the name")
    if is_special(path):
        # A pipe, such as that of `<(...)`, can be read only once, so it is taken for a point stream.
        with path.open("rb") as file:
            return describe_stream(file, path)
    with path.open("rb") as file:
        start = file.read(4)
    if start[:3] == b"ply":
        with path.open("rb") as file:
            return describe_stream(file, path)
    if start == b"PK\x03\x04":
        return _forest(path) if is_forest(path) else _checkpoint(path)
    raise HpalError(path, "is no file of hpal", "give a store, a checkpoint or a point stream (PLY)")


def _scenes(store: SceneStore, check: bool, monitor: Monitor) -> Description:
    if check:
        store.check()
        _require_id(store.path, store.table)
    counts = {split: np.zeros(len(store.classes) + 1, np.int64) for split in SPLITS}
    with monitor.task("reading", len(store.table)) as task:
        for scene in store.table:
            label = store.labels(scene)
            if label is None:
                counts[scene.split][0] += scene.points
            else:
                counts[scene.split] += np.bincount(label + 1, minlength=len(store.classes) + 1)
            if check:
                points = store.points(scene)
                _, inverse = store.original(scene)
                sizes = len(inverse) == scene.original
                inside = len(inverse) == 0 or (inverse.min() >= 0 and inverse.max() < scene.points)
                same = fingerprint(points.offset, np.asarray(points.xyz, np.float32)) == scene.fingerprint
                _require(store.path, scene.name, sizes and bool(inside) and same)
            task.advance(1, scene.name)
    table = [
        {"class": name, **{split: int(counts[split][row]) for split in SPLITS}}
        for name, row in _class_rows(store.classes)
    ]
    facts = {
        **_table_facts(store.table, store.classes),
        "original_points": sum(s.original for s in store.table),
        "grid": store.grid,
        "scale": store.scale,
        "unit": store.unit,
        "format": store.format,
    }
    return Description("scenes", facts, table, store.history)


def _predictions(store: PredictionStore, check: bool, monitor: Monitor) -> Description:
    if check:
        store.check()
        _require_id(store.path, store.table)
    scenes = store.choose("all")
    counts = np.zeros(len(store.classes), np.int64)
    answered = without = 0
    with monitor.task("reading", len(scenes)) as task:
        for scene in scenes:
            pred = store.predicted(scene)
            counts += np.bincount(pred[pred >= 0], minlength=len(store.classes))
            without += int((pred < 0).sum())
            labelled = store.labelled(scene)
            answered += len(labelled)
            if check:
                store.probabilities(scene)
                store.superpoints(scene)
                if store.feature_count(scene):
                    store.features(scene).check()
                points = store.points(scene)
                same = fingerprint(points.offset, points.xyz.astype(np.float32)) == scene.fingerprint
                inside = not len(labelled) or (labelled.min() >= 0 and labelled.max() < scene.points)
                _require(store.path, scene.name, len(pred) == scene.points and same and bool(inside))
            task.advance(1, scene.name)
    table = [{"class": c.name, "predicted": int(counts[c.id])} for c in store.classes]
    facts = {
        **_table_facts(store.table, store.classes),
        "predicted_scenes": len(scenes),
        "features": store.feature_count(scenes[0]),
        "answered_points": answered,
        "points_without_class": without,
        "spread_from": store.spread_from,
    }
    return Description("predictions", facts, table, store.history)


def _superpoints(store: SuperpointStore, check: bool, monitor: Monitor) -> Description:
    if check:
        store.check()
        _require_id(store.path, store.table)
    count, columns = 0, 0
    with monitor.task("reading", len(store.table)) as task:
        for scene in store.table:
            found = store.read(scene)
            count, columns = count + len(found), found.feature.shape[1]
            if check:
                store.check_scene(scene)
            task.advance(1, scene.name)
    facts = {
        **_table_facts(store.table, store.classes),
        "superpoints": count,
        "columns": columns,
        "scale": store.scale,
        "bound": _bound(store),
    }
    return Description("superpoints", facts, history=store.history)


def _bound(store: SuperpointStore) -> dict[str, float] | None:
    """The best mIoU and accuracy that are possible with one class for each superpoint. None if the scenes are not
    beside the store, or have no labels."""
    path = scenes_of(store.path)
    if path is None or kind_of(path) != "scenes":
        return None
    scenes = SceneStore(path)
    if scenes.table.id != store.table.id:
        return None
    found = superpoint_bound(
        (
            (store.partition(scene), label)
            for scene in store.table
            if (label := scenes.labels(scene)) is not None and len(label) == scene.points
        ),
        len(scenes.classes),
    )
    return {"miou": round(found.miou, 6), "accuracy": round(found.accuracy, 6)} if found.points else None


def _labels(store: LabelStore, check: bool) -> Description:
    if check:
        store.check()
        _require_id(store.path, store.table)
    log = read_log(store)
    batches = [logged.batch for logged in log.batches]
    latest = log.rows[log.counts]["label"]
    counts = np.bincount(latest + 1, minlength=len(store.classes) + 1)
    table = [{"class": name, "labelled": int(counts[row])} for name, row in _class_rows(store.classes)]
    facts: dict[str, Any] = {
        **_table_facts(store.table, store.classes),
        "labelled_points": int((latest >= 0).sum()),
        "answers_given": len(log.rows),
        "queries": {"asked": len(store.asked()), "open": len(store.unanswered())},
        "people": [
            {"name": p.name, "answers": p.answers, "per_hour": round(p.per_hour, 1), "seconds": round(p.seconds, 2)}
            for p in annotators(batches)
        ],
        "agreement": [one._asdict() for one in agreements(batches)],
        # A batch that only records what was asked about is no round.
        "rounds": [
            {
                "round": batch.round,
                "source": batch.source,
                "answers": len(batch.rows),
                "counting": counting,
                "undoes": list(batch.undoes),
                "undone": not batch.stands,
            }
            for batch, _, _, counting in log.batches
            if len(batch.rows) or batch.undoes
        ],
    }
    return Description("labels", facts, table, [logged.batch.entry for logged in log.batches])


def describe_stream(file: IO[bytes], name: str | Path) -> Description:
    """Describes an open point stream. name: of the stream, for messages.

    Raises:
        HpalError: the stream is damaged or ends early.
    """
    reader = PointReader(file, name)
    rows = reader.read()
    header = reader.header
    names = {s.number: s.name for s in header.pool}
    columns = header.dtype.names or ()
    facts: dict[str, Any] = {
        "points": len(rows),
        "properties": list(columns),
        "source": header.source,
        "pool": {"scenes": len(header.pool), "points": sum(s.points for s in header.pool)},
        "scored_by": header.strategy,
        "part": None if header.shard is None else dict(zip(("number", "of"), header.shard, strict=True)),
    }
    table = []
    if "scene" in columns:
        numbers, counts = np.unique(rows["scene"], return_counts=True)
        table = [
            {"scene": names.get(n), "number": n, "points": count}
            for n, count in zip(numbers.tolist(), counts.tolist(), strict=True)
        ]
    return Description(header.kind, facts, table, header.history)


def _checkpoint(path: Path) -> Description:
    # Imported here, since only a checkpoint needs torch, which takes a second to load.
    from hpal_cli.training import checkpoint

    model = checkpoint.load(path)
    facts: dict[str, Any] = {
        "network": model.settings.size,
        "parameters": sum(p.numel() for p in model.network().parameters()),
        "channels": list(model.channels),
        "voxel": model.settings.voxel,
        "scale": None if model.scale == 1 else model.scale,
        "steps": model.step,
        "teacher": model.settings.teacher,
        "labelled_points": model.labelled,
        "spread_to_points": model.spread,
        "classes": list(model.classes.names),
    }
    return Description("checkpoint", facts, history=model.history)


def _forest(path: Path) -> Description:
    forest = load_forest(path)
    every = [*forest.stages.trees, forest.stages.boosted]
    facts: dict[str, Any] = {
        "stages": len(forest.stages.trees),
        "trees": sum(len(one.root) for one in every),
        "nodes": sum(len(one.column) for one in every),
        "columns": forest.columns,
        "appearance": forest.appearance,
        "scale": forest.scale,
        "labelled_points": forest.labelled,
        "classes": list(forest.classes.names),
    }
    return Description("forest", facts, history=forest.history)


def _table_facts(table: SceneTable, classes: ClassTable) -> dict[str, Any]:
    scenes = {split: sum(s.split == split for s in table) for split in SPLITS}
    return {
        "scenes": {"total": len(table), **scenes},
        "points": sum(s.points for s in table),
        "classes": list(classes.names),
        "id": table.id,
    }


def _class_rows(classes: ClassTable) -> list[tuple[str | None, int]]:
    """The name of each class and its index in counts of (label + 1); last the points without a class, index 0."""
    return [*((c.name, c.id + 1) for c in classes), (None, 0)]


def _require_id(path: Path, table: SceneTable) -> None:
    stated = (attributes_of(path) or {}).get("id")
    if stated not in (None, table.id):
        raise HpalError(path, f"its id is {stated}, but its scenes are {table.id}", "write the store again")


def _require(path: Path, scene: str, consistent: bool) -> None:
    if not consistent:
        raise HpalError(path, f"scene {scene} is not what the store's table says", "write the store again")
