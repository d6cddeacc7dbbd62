"""Scenes stores of synthetic points, and small rooms whose surfaces are known: what superpoints are tested on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from conftest import prediction_attributes

from hpal_cli.classes import ClassTable
from hpal_cli.history import call
from hpal_cli.labels.store import ANSWER, LabelStore
from hpal_cli.predictions.store import PredictionStore, write_scene
from hpal_cli.progress import Silent
from hpal_cli.scene_table import SceneInfo, SceneTable, fingerprint
from hpal_cli.scenes.scale import as_attribute
from hpal_cli.scenes.store import Points, SceneStore
from hpal_cli.spreading.spread import spread
from hpal_cli.store import envelope
from hpal_cli.superpoints.store import make_superpoints, superpoints_path

CLASSES = ("floor", "wall", "table", "board")
FLOOR, WALL, TABLE, BOARD = range(4)
_COLORS = np.array([[90, 80, 70], [210, 205, 195], [150, 90, 40], [30, 110, 60]])
STEP = 0.08


def face(origin: Sequence[float], along: Sequence[float], up: Sequence[float], step: float = STEP) -> np.ndarray:
    """(M, 3) points of a rectangle, `step` apart: from `origin`, along two edges."""
    sides = [np.asarray(side, float) for side in (along, up)]
    steps = [np.arange(0, np.linalg.norm(side), step) / np.linalg.norm(side) for side in sides]
    a, b = (grid.reshape(-1, 1) for grid in np.meshgrid(*steps, indexing="ij"))
    return np.asarray(origin, float) + a * sides[0] + b * sides[1]


@dataclass
class Room:
    """A scene to be stored: xyz (N, 3) in the store's unit, label (N,), rgb (N, 3) or None, further columns."""

    name: str
    xyz: np.ndarray
    label: np.ndarray
    rgb: np.ndarray | None = None
    attributes: dict[str, np.ndarray] = field(default_factory=dict)
    split: str = "train"

    @property
    def points(self) -> Points:
        xyz = np.asarray(self.xyz, np.float64)
        return Points(xyz, np.zeros(3), self.rgb, self.label.astype(np.int32), dict(self.attributes))


def room(name: str = "a", seed: int = 0, *, split: str = "train", step: float = STEP, noise: float = 0.004) -> Room:
    """A floor, two walls, a table and a board that stands 4 cm before a wall: some 1,700 points in a random order."""
    rng = np.random.default_rng(seed)
    wide, deep, high = 2.4 + 0.2 * rng.random(), 2.0 + 0.2 * rng.random(), 1.6
    left, front = 0.5 + 0.6 * rng.random(), 0.5 + 0.5 * rng.random()
    parts = [
        (FLOOR, face((0, 0, 0), (wide, 0, 0), (0, deep, 0), step)),
        (WALL, face((0, 0, 0), (wide, 0, 0), (0, 0, high), step)),
        (WALL, face((0, 0, 0), (0, deep, 0), (0, 0, high), step)),
        (TABLE, face((left, front, 0.7), (0.9, 0, 0), (0, 0.7, 0), step)),
        (BOARD, face((0.6, 0.04, 0.6), (1.0, 0, 0), (0, 0, 0.6), step)),
    ]
    xyz = np.concatenate([points for _, points in parts])
    label = np.repeat([which for which, _ in parts], [len(points) for _, points in parts])
    order = rng.permutation(len(xyz))
    xyz, label = xyz[order] + rng.normal(0, noise, xyz.shape), label[order]
    rgb = np.clip(_COLORS[label] + rng.normal(0, 3, xyz.shape), 0, 255).astype(np.uint8)
    return Room(name, xyz, label, rgb, split=split)


def rooms(count: int = 3, val: int = 1) -> list[Room]:
    """The last `val` are to validate on."""
    return [room(chr(ord("a") + n), n, split="val" if n >= count - val else "train") for n in range(count)]


def synthetic_scenes(
    path: Path,
    made: Sequence[Room],
    *,
    grid: float | None = STEP,
    unit: float = 1.0,
    scale: float | None = None,
    classes: Sequence[str] = CLASSES,
    labels: bool = True,
) -> SceneStore:
    """A scenes store of exactly these points, which are their own original points."""
    table = ClassTable.from_names(list(classes))
    infos = []
    for number, one in enumerate(made):
        xyz = np.asarray(one.xyz, np.float32)
        infos.append(SceneInfo(number, one.name, len(xyz), len(xyz), one.split, fingerprint(np.zeros(3), xyz)))
    scenes = SceneTable(infos)
    attributes = {
        "id": scenes.id,
        "classes": table.to_json(),
        "grid": grid,
        **as_attribute(scale),
        "unit": unit,
        "format": "made",
        "scenes": scenes.to_json(),
        "history": [],
    }
    with envelope.create(path, "scenes", attributes, overwrite=False) as (root, _):
        for one in made:
            group = root.require_group(f"scenes/{one.name}")
            group.attrs["offset"] = [0.0, 0.0, 0.0]
            columns = {"xyz": np.asarray(one.xyz, np.float32), **one.attributes}
            if one.rgb is not None:
                columns["rgb"] = one.rgb
            if labels:
                columns["label"] = one.label.astype(np.int32)
            for name, values in columns.items():
                envelope.write_array(group, name, values)
            original = group.create_group("original")
            for name, values in {**columns, "inverse": np.arange(len(one.xyz))}.items():
                envelope.write_array(original, name, values)
    return SceneStore(path)


def answers(path: Path, store: SceneStore, given: dict[str, Sequence[tuple[int, int]]]) -> LabelStore:
    """More answers: scene name -> (row, class; -1 for unsure) each. The store is made if it is not there."""
    labels = LabelStore.at(path, store.classes, store.table, unit=store.unit, subject=store.path)
    flat = [(store.table.by_name[name].number, row, which) for name, pairs in given.items() for row, which in pairs]
    rows = np.zeros(len(flat), ANSWER)
    rows["scene"], rows["index"], rows["label"] = np.array(flat, np.int64).reshape(-1, 3).T
    labels.append(rows, "test", call("label"))
    return LabelStore(path)


def first_of_each(one: Room, classes: Sequence[int] = range(len(CLASSES))) -> list[tuple[int, int]]:
    """An answer for the first point of each class."""
    return [(int(np.flatnonzero(one.label == which)[0]), which) for which in classes]


class Noted(Silent):
    """A monitor that keeps the messages that a person would see."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def note(self, text: str) -> None:
        self.said.append(text)

    warn = note


class Campaign:
    """Scenes a, b, c to learn from and d to validate on; answers for a of every class, for c an unsure one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rooms = rooms(4)
        self.store = synthetic_scenes(folder / "rooms.zarr", self.rooms)
        make_superpoints(self.store, superpoints_path(self.store.path), jobs=1)
        self.labels = answers(folder / "labels.zarr", self.store, {"a": first_of_each(self.rooms[0]), "c": [(5, -1)]})

    def spread(self, out: Path, labels: LabelStore | None = None, **options: object) -> PredictionStore:
        for _ in spread(labels or self.labels, self.store, out, **options):  # type: ignore[arg-type]
            pass
        return PredictionStore(out)


def certain(store: SceneStore, path: Path, which: int, only: tuple[str, ...] = ()) -> PredictionStore:
    """A model that says the same of every point of some scenes."""
    attributes = prediction_attributes(store)
    with envelope.create(path, "predictions", attributes, overwrite=False) as (root, _):
        for scene in store.table:
            if not only or scene.name in only:
                prob = np.tile(np.eye(len(store.classes))[which], (scene.points, 1))
                write_scene(root, scene, store.points(scene), prob, None, np.zeros(0, np.int64))
    return PredictionStore(path)
