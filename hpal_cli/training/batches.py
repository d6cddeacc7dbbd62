"""Makes the batch of a training step: some scenes with their labels, each as it is (for the teacher) and augmented (for
the student)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

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
from hpal_cli.training.labels import NO_LABELS, SceneLabels, Spread
from hpal_cli.training.presets import Settings
from hpal_cli.voxels import first_of_each, group_positions

UNKNOWN = -1
NO_CLASS = -2
"""Labels in a batch: `UNKNOWN` for a point that nobody was asked about, which may get a pseudo-label; `NO_CLASS` for a
point that is known to have no class (the answer was unsure, or the class is ignored), which gets none."""

CACHE_BYTES = 1 << 30
"""Bytes of scenes that each process keeps in memory between steps; a scene that is larger is read again each time."""


@dataclass
class SoftLabels:
    """Soft labels of N points. target: (N, C) float32, rows that sum to 1; weight: (N,) float32, 0 to 1, 0 for a point
    of which nothing is known, whose target has no meaning."""

    target: Tensor
    weight: Tensor

    def to(self, device: torch.device) -> SoftLabels:
        return SoftLabels(self.target.to(device, non_blocking=True), self.weight.to(device, non_blocking=True))

    def pin_memory(self) -> SoftLabels:
        return SoftLabels(self.target.pin_memory(), self.weight.pin_memory())


@dataclass
class Batch:
    """N points of some scenes. student, teacher: the inputs of the student and of the teacher (None without a teacher).

    label: (N,) int32 class ids, `UNKNOWN` or `NO_CLASS`; soft: soft labels if answers were spread, else None; labelled:
    number of points with a label, or with a soft one. The rows of all of these match.
    """

    scenes: list[str]
    student: NetworkInput
    teacher: NetworkInput | None
    label: Tensor
    labelled: int
    soft: SoftLabels | None = None

    def pin_memory(self) -> Batch:
        """The same in pinned memory, from which a GPU copies while the program continues."""
        teacher = None if self.teacher is None else self.teacher.pin_memory()
        soft = None if self.soft is None else self.soft.pin_memory()
        return Batch(self.scenes, self.student.pin_memory(), teacher, self.label.pin_memory(), self.labelled, soft)


class BatchDataset:
    """The batches of all steps. Each depends only on (seed, step), so that a resumed run gets the same batches as one
    that was not interrupted. Of `world_size` processes, number `rank` gets every `world_size`-th scene of each batch.
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
        world_size: int = 1,
    ) -> None:
        """color: whether the network gets colours; further: returns the columns of a scene that the network gets beside
        colour and position; scale: lengths are divided by it, so that the network sees scenes of the size of rooms."""
        self._scenes = list(scenes)
        self._labels = labels
        self._settings = settings
        self._seed = seed
        self._spread = spread
        self._slots = range(rank, settings.batch, world_size)
        self._voxel = settings.voxel / scale
        self._cache = _SceneCache(store, color, labels, spread, further, store.unit / scale, self._voxel)
        self._scenes_of_class = _scenes_by_class(self._scenes, labels, spread) if settings.even_crops else []

    def __getitem__(self, step: int) -> Batch:
        settings, spread = self._settings, self._spread
        scenes, students, teachers, groups, labels, soft = [], [], [], [], [], []
        for slot in self._slots:
            rng = np.random.default_rng([self._seed, 2, step, slot])
            scene, centre_class = self._scene(step * settings.batch + slot), None
            if self._scenes_of_class and rng.random() < settings.even_crops:
                centre_class, candidates = self._scenes_of_class[rng.integers(len(self._scenes_of_class))]
                scene = candidates[rng.integers(len(candidates))]
            cached = self._cache[scene]
            rows, ids = self._labels.get(scene.name, NO_LABELS)
            if cached.likely is None:
                centres = rows[ids >= 0 if centre_class is None else ids == centre_class]
            else:
                centres = np.flatnonzero(cached.likely >= 0 if centre_class is None else cached.likely == centre_class)
            # 0 stands for no bound, and a share of a bound is therefore never 0.
            most = max(1, settings.max_voxels // settings.batch) if settings.max_voxels else 0
            keep = crop(cached.xyz, centres, most, self._voxel, rng)
            # Without a crop, a slice gives a view and no copy.
            kept = keep if len(keep) < len(cached.xyz) else slice(None)
            xyz, color = cached.xyz[kept], None if cached.color is None else cached.color[kept]
            more = None if cached.columns is None else cached.columns(kept)
            augmented_xyz = augment_position(xyz, rng, distort=settings.elastic)
            augmented_color = None if color is None else augment_color(color, rng)
            students.append(
                (augmented_xyz, concatenated(augmented_color, None if more is None else augment(more, rng)))
            )
            if settings.teacher:
                teachers.append((xyz, concatenated(color, more)))
                groups.append(cached.voxel_groups if len(keep) == len(cached.xyz) else None)
            labels.append(cached.label[kept])
            if spread is not None and cached.prob is not None:
                soft.append(spread.soft_labels(scene, cached.prob, keep))
            scenes.append(scene.name)
        label = np.concatenate(labels)
        soft_label = None
        if soft:
            target, weight = (torch.from_numpy(np.concatenate(part)) for part in zip(*soft, strict=True))
            soft_label = SoftLabels(target, weight)
        return Batch(
            scenes,
            voxelise(students, self._voxel),
            voxelise(teachers, self._voxel, groups) if settings.teacher else None,
            torch.from_numpy(label),
            int(np.count_nonzero(label >= 0)) if soft_label is None else int((soft_label.weight > 0).sum()),
            soft_label,
        )

    def _scene(self, n: int) -> SceneInfo:
        """The n-th scene of an endless sequence, in which all scenes come once, in random order, before they come
        again."""
        epoch, place = divmod(n, len(self._scenes))
        order = np.random.default_rng([self._seed, 1, epoch]).permutation(len(self._scenes))
        return self._scenes[order[place]]


def crop(
    xyz: NDArray[np.float32], labelled: NDArray[np.int64], most: int, voxel: float, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Crops a scene, xyz (N, 3) in metres, to the points that are nearest in x and y to a centre and fill `most`
    voxels. Returns their rows, ascending.

    labelled: rows, one of which is drawn as the centre (any row, if there are none); most: 0 keeps all points; voxel:
    edge in metres. Voxels are counted before augmentation.
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


def _label_of_each(points: int, rows: NDArray[np.int64], ids: NDArray[np.int32]) -> NDArray[np.int32]:
    """(points,) the labels of the points of a scene. rows, ids: (L,) the rows that have labels, and these."""
    label = np.full(points, UNKNOWN, np.int32)
    label[rows] = np.where(ids >= 0, ids, NO_CLASS)
    return label


def _scenes_by_class(
    scenes: Sequence[SceneInfo], labels: Mapping[str, SceneLabels], spread: Spread | None
) -> list[tuple[int, list[SceneInfo]]]:
    """For each class that occurs a pair of the class and the scenes that have a point of it, sorted by class."""
    found: dict[int, list[SceneInfo]] = {}
    for scene in scenes:
        if spread is not None:
            classes = np.flatnonzero(spread.classes[scene.name])
        else:
            ids = labels.get(scene.name, NO_LABELS)[1]
            classes = np.unique(ids[ids >= 0])
        for one in classes.tolist():
            found.setdefault(one, []).append(scene)
    return sorted(found.items())


@dataclass(frozen=True)
class _CachedScene:
    """A scene in memory. xyz: (N, 3) metres; label: (N,) as in a `Batch`; color: (N, 3); columns: further ones; prob:
    (N, C) the probabilities of the spread answers, and likely: (N,) the most likely class, both None without spread
    answers; voxel: edge in metres of the voxels."""

    xyz: NDArray[np.float32]
    label: NDArray[np.int32]
    color: NDArray[np.float32] | None
    columns: ExtraColumns | None
    prob: NDArray[np.float16] | None
    likely: NDArray[np.int32] | None
    voxel: float

    @cached_property
    def voxel_groups(self) -> tuple[NDArray[np.int32], int]:
        """The row of each point's voxel (N,), and the number of voxels (`group_positions`). The teacher sees the same
        voxels in every step."""
        group, count = group_positions(self.xyz, self.voxel)
        return group.astype(np.int32), count

    @property
    def bytes(self) -> int:
        arrays = (self.xyz, self.color, self.prob, self.likely, self.columns)
        # `label`, and `voxel_groups` once they are needed.
        return 2 * self.label.nbytes + sum(array.nbytes for array in arrays if array is not None)


class _SceneCache:
    """Reads the scenes that batches need, and keeps the ones that were used last in memory."""

    def __init__(
        self,
        store: SceneStore,
        color: bool,
        labels: Mapping[str, SceneLabels],
        spread: Spread | None,
        further: Callable[[SceneInfo, Points], ExtraColumns | None] | None,
        unit: float,
        voxel: float,
    ) -> None:
        """unit: metres in one unit of the positions, divided by the scale of the scenes; voxel: edge in metres."""
        self._store = store
        self._labels = labels
        self._unit = unit
        self._voxel = voxel
        self._color = color
        self._spread = spread
        self._further = further
        self._kept: OrderedDict[int, _CachedScene] = OrderedDict()

    def __getitem__(self, scene: SceneInfo) -> _CachedScene:
        if scene.number in self._kept:
            self._kept.move_to_end(scene.number)
            return self._kept[scene.number]
        cached = self._read(scene)
        self._kept[scene.number] = cached
        while self._kept and sum(kept.bytes for kept in self._kept.values()) > CACHE_BYTES:
            self._kept.popitem(last=False)
        return cached

    def _read(self, scene: SceneInfo) -> _CachedScene:
        points, spread = self._store.points(scene), self._spread
        prob = None if spread is None else spread.probabilities(scene)
        return _CachedScene(
            scene_origin(points.xyz, self._unit),
            _label_of_each(len(points.xyz), *self._labels.get(scene.name, NO_LABELS)),
            unit_color(points.rgb) if self._color else None,
            None if self._further is None else self._further(scene, points),
            prob,
            None if spread is None or prob is None else spread.likely_class(scene, prob),
            self._voxel,
        )
