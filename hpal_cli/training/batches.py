"""What a training step is given: some rooms, once as they are and once augmented, with their labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hpal_cli.network.inputs import NetworkInput, corner_origin, unit_color, voxelise
from hpal_cli.scenes.store import SceneStore
from hpal_cli.scenes.table import SceneInfo
from hpal_cli.training.augment import augment_color, augment_position
from hpal_cli.training.presets import Settings

SceneLabels = tuple[NDArray[np.int64], NDArray[np.int32]]
"""(rows (L,), class ids (L,)): what is known of a scene; -1 is known to be no class."""

UNKNOWN = -1
NO_CLASS = -2
"""In a batch: a point that nobody was asked about, which a pseudo-label may teach, and one that is known to be of no
class (unsure, ignored), which nothing may."""


@dataclass
class Batch:
    """N points of some scenes, as the student and as the teacher sees them (None where none is wanted).

    label: (N,) int64, `UNKNOWN` or `NO_CLASS` where it is no class id. The rows of all three match.
    """

    scenes: list[str]
    student: NetworkInput
    teacher: NetworkInput | None
    label: Tensor


class Batches:
    """Every batch is a function of (seed, step) alone, so a resumed run sees what the uninterrupted one would."""

    def __init__(
        self,
        store: SceneStore,
        scenes: Sequence[SceneInfo],
        labels: Mapping[str, SceneLabels],
        settings: Settings,
        *,
        color: bool,
        seed: int,
    ) -> None:
        self._scenes = list(scenes)
        self._labels = labels
        self._settings = settings
        self._color = color
        self._seed = seed
        self._load: Callable[[SceneInfo], _Room] = lru_cache(maxsize=64)(lambda scene: _load(store, scene, color))

    def __getitem__(self, step: int) -> Batch:
        rng = np.random.default_rng([self._seed, 2, step])
        scenes = [self._scene(step * self._settings.batch + n) for n in range(self._settings.batch)]
        students, teachers, labels = [], [], []
        for scene in scenes:
            room = self._load(scene)
            label = np.full(len(room.xyz), UNKNOWN, np.int64)
            rows, ids = self._labels.get(scene.name, _NOTHING)
            label[rows] = np.where(ids >= 0, ids, NO_CLASS)
            seen = augment_position(room.xyz, rng, distort=self._settings.elastic)
            color = None if room.color is None else augment_color(room.color, rng)
            keep = crop(room.xyz, rows[ids >= 0], self._settings.max_points, rng)
            students.append((seen[keep], None if color is None else color[keep]))
            teachers.append((room.xyz[keep], None if room.color is None else room.color[keep]))
            labels.append(label[keep])
        voxel = self._settings.voxel
        return Batch(
            [s.name for s in scenes],
            voxelise(students, voxel),
            voxelise(teachers, voxel) if self._settings.teacher else None,
            torch.from_numpy(np.concatenate(labels)),
        )

    def _scene(self, n: int) -> SceneInfo:
        """The n-th scene of an endless row in which every scene comes once before any comes again."""
        epoch, place = divmod(n, len(self._scenes))
        order = np.random.default_rng([self._seed, 1, epoch]).permutation(len(self._scenes))
        return self._scenes[order[place]]


def crop(
    xyz: NDArray[np.float32], labelled: NDArray[np.int64], most: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Rows, ascending, of the `most` points nearest in plan to a labelled one (to any, if none is); 0 keeps all."""
    if most <= 0 or len(xyz) <= most:
        return np.arange(len(xyz))
    centre = xyz[rng.choice(labelled) if len(labelled) else rng.integers(len(xyz)), :2]
    distance = ((xyz[:, :2] - centre) ** 2).sum(axis=1)
    return np.sort(np.argpartition(distance, most)[:most])


_NOTHING: SceneLabels = (np.zeros(0, np.int64), np.zeros(0, np.int32))


@dataclass(frozen=True)
class _Room:
    xyz: NDArray[np.float32]
    color: NDArray[np.float32] | None


def _load(store: SceneStore, scene: SceneInfo, color: bool) -> _Room:
    points = store.points(scene)
    return _Room(corner_origin(points.xyz, store.unit), unit_color(points.rgb) if color else None)
