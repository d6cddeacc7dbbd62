"""Makes the batch of a training step: some scenes, each as it is and augmented, with labels."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hpal_cli.network.inputs import NetworkInput, concatenated, scene_origin, unit_color, voxelise
from hpal_cli.network.point_inputs import ExtraColumns
from hpal_cli.network.superpoint_inputs import augment
from hpal_cli.scene_table import SceneInfo
from hpal_cli.scenes.store import Points, SceneStore
from hpal_cli.training.augment import augment_color, augment_position
from hpal_cli.training.labels import NO_LABELS, SceneLabels, Spread, places
from hpal_cli.training.presets import Settings
from hpal_cli.voxels import first_of_each, group_positions

UNKNOWN = -1
NO_CLASS = -2
"""In a batch: a point that nobody was asked about, which a pseudo-label may teach, and one that is known to be of no
class (unsure, ignored), which nothing may."""

CACHE_BYTES = 1 << 30
"""Scenes kept in memory between steps; one that is larger is read again each time."""


@dataclass
class SoftLabels:
    """What every one of N points teaches. target: (N, C) float32, rows that sum to 1; weight: (N,) float32, 0 to 1,
    0 where nothing is known, whatever the target."""

    target: Tensor
    weight: Tensor

    def to(self, device: torch.device) -> SoftLabels:
        return SoftLabels(self.target.to(device, non_blocking=True), self.weight.to(device, non_blocking=True))

    def pin_memory(self) -> SoftLabels:
        return SoftLabels(self.target.pin_memory(), self.weight.pin_memory())


@dataclass
class Batch:
    """N points of some scenes, as the student and as the teacher sees them (None where none is wanted).

    label: (N,) int32, `UNKNOWN` or `NO_CLASS` where it is no class id; soft: what the points teach where answers were
    spread, None elsewhere; labelled: how many points have a label, or a soft one. The rows of all match.
    """

    scenes: list[str]
    student: NetworkInput
    teacher: NetworkInput | None
    label: Tensor
    labelled: int
    soft: SoftLabels | None = None

    def pin_memory(self) -> Batch:
        """In memory from which a GPU copies without making anyone wait."""
        teacher = None if self.teacher is None else self.teacher.pin_memory()
        soft = None if self.soft is None else self.soft.pin_memory()
        return Batch(self.scenes, self.student.pin_memory(), teacher, self.label.pin_memory(), self.labelled, soft)


class BatchDataset:
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
        spread: Spread | None = None,
        further: Callable[[SceneInfo, Points], ExtraColumns | None] | None = None,
        scale: float = 1.0,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        """color: whether the network is given colours; further: gives what it is given of a scene
        beside colour and position; scale: lengths are divided by it, so that the network sees a room."""
        self._scenes = list(scenes)
        self._labels = labels
        self._settings = settings
        self._seed = seed
        self._spread = spread
        self._places = range(rank, settings.batch, world)
        self._voxel = settings.voxel / scale
        self._rooms = _SceneCache(store, color, spread, further, store.unit / scale)
        self._homes = _scenes_by_class(self._scenes, labels, spread) if settings.even_crops else []

    def __getitem__(self, step: int) -> Batch:
        settings, spread = self._settings, self._spread
        scenes, students, teachers, labels, soft = [], [], [], [], []
        for place in self._places:
            rng = np.random.default_rng([self._seed, 2, step, place])
            scene, wanted = self._scene(step * settings.batch + place), None
            if self._homes and rng.random() < settings.even_crops:
                wanted, homes = self._homes[rng.integers(len(self._homes))]
                scene = homes[rng.integers(len(homes))]
            room = self._rooms[scene]
            rows, ids = self._labels.get(scene.name, NO_LABELS)
            if room.likely is None:
                centres = rows[ids >= 0 if wanted is None else ids == wanted]
            else:
                centres = np.flatnonzero(room.likely >= 0 if wanted is None else room.likely == wanted)
            keep = crop(room.xyz, centres, settings.max_voxels // settings.batch, self._voxel, rng)
            # A whole room is looked at where it lies, not copied.
            kept = keep if len(keep) < len(room.xyz) else slice(None)
            xyz, color = room.xyz[kept], None if room.color is None else room.color[kept]
            more = None if room.columns is None else room.columns(kept)
            seen = augment_position(xyz, rng, distort=settings.elastic)
            shown = None if color is None else augment_color(color, rng)
            students.append((seen, concatenated(shown, None if more is None else augment(more, rng))))
            teachers.append((xyz, concatenated(color, more)))
            labels.append(_labels_of(keep, rows, ids))
            if spread is not None and room.prob is not None:
                soft.append(spread.soft_labels(scene, room.prob, keep))
            scenes.append(scene.name)
        label = np.concatenate(labels)
        taught = None
        if soft:
            target, weight = (torch.from_numpy(np.concatenate(part)) for part in zip(*soft, strict=True))
            taught = SoftLabels(target, weight)
        return Batch(
            scenes,
            voxelise(students, self._voxel),
            voxelise(teachers, self._voxel) if settings.teacher else None,
            torch.from_numpy(label),
            int(np.count_nonzero(label >= 0)) if taught is None else int((taught.weight > 0).sum()),
            taught,
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
    # Column by column: sums along an axis of two take several times as long.
    distance = (xyz[:, 0] - centre[0]) ** 2 + (xyz[:, 1] - centre[1]) ** 2
    count = min(4 * most, len(xyz))
    while True:
        near = np.argpartition(distance, count - 1)[:count] if count < len(xyz) else np.arange(len(xyz))
        near = near[np.argsort(distance[near], kind="stable")]
        first = np.sort(first_of_each(*group_positions(xyz[near], voxel)))
        if len(first) > most:
            return np.sort(near[: first[most]])
        if count == len(xyz):
            return np.arange(len(xyz))
        count = min(2 * count, len(xyz))


def _labels_of(keep: NDArray[np.int64], rows: NDArray[np.int64], ids: NDArray[np.int32]) -> NDArray[np.int32]:
    """(K,) label of the kept rows (ascending)."""
    label = np.full(len(keep), UNKNOWN, np.int32)
    at, ids = places(keep, rows, ids)
    label[at] = np.where(ids >= 0, ids, NO_CLASS)
    return label


def _scenes_by_class(
    scenes: Sequence[SceneInfo], labels: Mapping[str, SceneLabels], spread: Spread | None
) -> list[tuple[int, list[SceneInfo]]]:
    """(class, the scenes that have a point of it) for every class that some scene has."""
    found: dict[int, list[SceneInfo]] = {}
    for scene in scenes:
        if spread is not None:
            there = np.flatnonzero(spread.classes[scene.name])
        else:
            ids = labels.get(scene.name, NO_LABELS)[1]
            there = np.unique(ids[ids >= 0])
        for one in there.tolist():
            found.setdefault(one, []).append(scene)
    return sorted(found.items())


@dataclass(frozen=True)
class _CachedScene:
    """xyz, color: (N, 3); columns: beside those; prob (N, C) and likely (N,): what was spread, and to which class."""

    xyz: NDArray[np.float32]
    color: NDArray[np.float32] | None
    columns: ExtraColumns | None
    prob: NDArray[np.float16] | None
    likely: NDArray[np.int32] | None

    @property
    def bytes(self) -> int:
        arrays = (self.xyz, self.color, self.prob, self.likely, self.columns)
        return sum(array.nbytes for array in arrays if array is not None)


class _SceneCache:
    """Reads a scene when a batch wants it, and keeps the last ones."""

    def __init__(
        self,
        store: SceneStore,
        color: bool,
        spread: Spread | None,
        further: Callable[[SceneInfo, Points], ExtraColumns | None] | None,
        unit: float,
    ) -> None:
        """unit: metres of a room in one unit of the positions."""
        self._store = store
        self._unit = unit
        self._color = color
        self._spread = spread
        self._further = further
        self._kept: OrderedDict[int, _CachedScene] = OrderedDict()

    def __getitem__(self, scene: SceneInfo) -> _CachedScene:
        if scene.number in self._kept:
            self._kept.move_to_end(scene.number)
            return self._kept[scene.number]
        room = self._read(scene)
        self._kept[scene.number] = room
        while self._kept and sum(kept.bytes for kept in self._kept.values()) > CACHE_BYTES:
            self._kept.popitem(last=False)
        return room

    def _read(self, scene: SceneInfo) -> _CachedScene:
        points, spread = self._store.points(scene), self._spread
        prob = None if spread is None else spread.probabilities(scene)
        return _CachedScene(
            scene_origin(points.xyz, self._unit),
            unit_color(points.rgb) if self._color else None,
            None if self._further is None else self._further(scene, points),
            prob,
            None if spread is None or prob is None else spread.likely_class(scene, prob),
        )
