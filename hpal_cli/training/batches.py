"""What a training step is given: some rooms, once as they are and once augmented, with their labels."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hpal_cli.network.inputs import NetworkInput, scene_origin, unit_color, voxelise
from hpal_cli.scenes.store import SceneStore
from hpal_cli.scenes.table import SceneInfo
from hpal_cli.training.augment import augment_color, augment_position
from hpal_cli.training.presets import Settings
from hpal_cli.voxels import group_voxels

SceneLabels = tuple[NDArray[np.int64], NDArray[np.int32]]
"""(rows (L,), class ids (L,)): what is known of a scene; -1 is known to be no class."""

UNKNOWN = -1
NO_CLASS = -2
"""In a batch: a point that nobody was asked about, which a pseudo-label may teach, and one that is known to be of no
class (unsure, ignored), which nothing may."""

CACHE_BYTES = 1 << 30
"""Scenes kept in memory between steps; one that is larger is read again each time."""


@dataclass
class Batch:
    """N points of some scenes, as the student and as the teacher sees them (None where none is wanted).

    label: (N,) int64, `UNKNOWN` or `NO_CLASS` where it is no class id; labelled: how many are one.
    The rows of all three match.
    """

    scenes: list[str]
    student: NetworkInput
    teacher: NetworkInput | None
    label: Tensor
    labelled: int

    def pinned(self) -> Batch:
        """In memory from which a GPU copies without making anyone wait."""
        teacher = None if self.teacher is None else self.teacher.pinned()
        return Batch(self.scenes, self.student.pinned(), teacher, self.label.pin_memory(), self.labelled)


class Batches:
    """Every batch is a function of (seed, step) alone, so a resumed run sees what the uninterrupted one would.

    Of several processes, number `rank` of `world` is given every world-th scene of each batch.
    """

    def __init__(
        self,
        store: SceneStore,
        scenes: Sequence[SceneInfo],
        labels: Mapping[str, SceneLabels],
        settings: Settings,
        *,
        color: bool,
        seed: int,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self._scenes = list(scenes)
        self._labels = labels
        self._settings = settings
        self._color = color
        self._seed = seed
        self._places = range(rank, settings.batch, world)
        self._rooms = _Rooms(store, color)

    def __getitem__(self, step: int) -> Batch:
        settings = self._settings
        scenes, students, teachers, labels = [], [], [], []
        for place in self._places:
            rng = np.random.default_rng([self._seed, 2, step, place])
            scene = self._scene(step * settings.batch + place)
            room = self._rooms[scene]
            rows, ids = self._labels.get(scene.name, _NOTHING)
            keep = crop(room.xyz, rows[ids >= 0], settings.max_voxels // settings.batch, settings.voxel, rng)
            xyz, color = room.xyz[keep], None if room.color is None else room.color[keep]
            seen = augment_position(xyz, rng, distort=settings.elastic)
            students.append((seen, None if color is None else augment_color(color, rng)))
            teachers.append((xyz, color))
            labels.append(_labels_of(keep, rows, ids))
            scenes.append(scene.name)
        label = np.concatenate(labels)
        return Batch(
            scenes,
            voxelise(students, settings.voxel),
            voxelise(teachers, settings.voxel) if settings.teacher else None,
            torch.from_numpy(label),
            int((label >= 0).sum()),
        )

    def _scene(self, n: int) -> SceneInfo:
        """The n-th scene of an endless row in which every scene comes once before any comes again."""
        epoch, place = divmod(n, len(self._scenes))
        order = np.random.default_rng([self._seed, 1, epoch]).permutation(len(self._scenes))
        return self._scenes[order[place]]


def crop(
    xyz: NDArray[np.float32], labelled: NDArray[np.int64], most: int, voxel: float, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Rows, ascending, of the points nearest in plan to a labelled one (to any, if none is) that fill `most` voxels.

    0 keeps all. Voxels are counted before augmentation.
    """
    if most <= 0 or len(xyz) <= most:
        return np.arange(len(xyz))
    centre = xyz[rng.choice(labelled) if len(labelled) else rng.integers(len(xyz)), :2]
    distance = ((xyz[:, :2] - centre) ** 2).sum(axis=1)
    count = min(4 * most, len(xyz))
    while True:
        near = np.argpartition(distance, count - 1)[:count] if count < len(xyz) else np.arange(len(xyz))
        near = near[np.argsort(distance[near], kind="stable")]
        group, _ = group_voxels(np.floor(xyz[near] / np.float32(voxel)).astype(np.int64))
        first = np.sort(np.unique(group, return_index=True)[1])
        if len(first) > most:
            return np.sort(near[: first[most]])
        if count == len(xyz):
            return np.arange(len(xyz))
        count = min(2 * count, len(xyz))


def _labels_of(keep: NDArray[np.int64], rows: NDArray[np.int64], ids: NDArray[np.int32]) -> NDArray[np.int64]:
    """(K,) label of the kept rows (ascending)."""
    label = np.full(len(keep), UNKNOWN, np.int64)
    at = np.searchsorted(keep, rows)
    inside = at < len(keep)
    inside[inside] = keep[at[inside]] == rows[inside]
    label[at[inside]] = np.where(ids >= 0, ids, NO_CLASS)[inside]
    return label


_NOTHING: SceneLabels = (np.zeros(0, np.int64), np.zeros(0, np.int32))


@dataclass(frozen=True)
class _Room:
    xyz: NDArray[np.float32]
    color: NDArray[np.float32] | None

    @property
    def bytes(self) -> int:
        return self.xyz.nbytes + (0 if self.color is None else self.color.nbytes)


class _Rooms:
    """Reads a scene when a batch wants it, and keeps the last ones."""

    def __init__(self, store: SceneStore, color: bool) -> None:
        self._store = store
        self._color = color
        self._kept: OrderedDict[int, _Room] = OrderedDict()

    def __getitem__(self, scene: SceneInfo) -> _Room:
        if scene.number in self._kept:
            self._kept.move_to_end(scene.number)
            return self._kept[scene.number]
        points = self._store.points(scene)
        xyz = scene_origin(points.xyz, self._store.unit)
        room = _Room(xyz, unit_color(points.rgb) if self._color else None)
        self._kept[scene.number] = room
        while self._kept and sum(kept.bytes for kept in self._kept.values()) > CACHE_BYTES:
            self._kept.popitem(last=False)
        return room
