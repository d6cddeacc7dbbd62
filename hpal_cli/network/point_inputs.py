"""Inputs of the network beside position and colour: columns of the scans, and the height above ground."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpal_cli.errors import HpalError, UsageError
from hpal_cli.network.superpoint_inputs import SuperpointColumns, SuperpointInputs, SuperpointReader
from hpal_cli.scene_table import SceneInfo
from hpal_cli.scenes.store import Points, SceneStore
from hpal_cli.superpoints.build import Superpoints
from hpal_cli.superpoints.description import ground_height

HEIGHT = "height"
"""Of a point above the ground below it: computed, where other names are of columns."""

TRUTH = ("label", "label_", "classification")
"""Columns that say what is to be learned."""

QUANTILES = (5, 50, 95)
"""Percentiles: the middle one becomes 0, and the outer two lie 2 apart."""

LIMIT = 3.0
"""Beyond it a normalised value is cut off: intensities of mirrors and water are a hundred times what all others are."""

SAMPLE = 50_000
"""Points of a scene from which percentiles are taken."""


@dataclass(frozen=True)
class InputSpec:
    """What the setting `inputs` names. color: True, False, or None for where all scenes have it; columns: names of
    further columns of the points; superpoints: whether the likeness of a point's superpoint is given."""

    color: bool | None
    columns: tuple[str, ...]
    superpoints: bool

    @classmethod
    def parse(cls, text: str) -> InputSpec:
        """`points`, `superpoints`, `x,y,z,rgb,intensity,height`, `superpoints,intensity`, ...: `points` is position and
        colour, where all scenes have one; `superpoints` is that and the likeness. Position is always there.

        Raises:
            UsageError: an empty name, one that comes twice, or one that is the truth.
        """
        names = [name.strip() for name in text.split(",")]
        for name in names:
            if not name or names.count(name) > 1:
                problem = f"{text!r} names {name} twice" if name else f"{text!r} holds an empty name"
                raise UsageError("--inputs", problem, "give names like x,y,z,rgb,intensity,height, each once")
            if name in TRUTH:
                raise UsageError("--inputs", f"{name} is what is to be learned", "leave it out")
        whole = "points" in names or "superpoints" in names
        known = ("points", "superpoints", "x", "y", "z", "rgb")
        return cls(
            True if "rgb" in names else None if whole else False,
            tuple(name for name in names if name not in known),
            "superpoints" in names,
        )


@dataclass(frozen=True, eq=False)
class PointColumns:
    """value: (N, K) the further columns of N points, normalised."""

    value: NDArray[np.float32]

    def __call__(self, rows: NDArray[np.int64] | slice) -> NDArray[np.float32]:
        """(number of rows, K)."""
        return self.value[rows]

    @property
    def nbytes(self) -> int:
        return self.value.nbytes


@dataclass(frozen=True, eq=False)
class PointInputs:
    """Further columns of points as inputs of a network, as they were when the network was trained.

    names: (K,) of the columns; middle, spread: (K,) float64, what a value is lessened by and then divided by. Heights
    are in metres, divided by the scale of the scenes.
    """

    names: tuple[str, ...]
    middle: NDArray[np.float64]
    spread: NDArray[np.float64]

    @classmethod
    def of(cls, store: SceneStore, scenes: Sequence[SceneInfo], names: Sequence[str], scale: float) -> PointInputs:
        """Learned from these scenes: the median, and half of what lies between the 5th and the 95th percentile (the
        standard deviation where that is nothing).

        Raises:
            HpalError: a scene has no such column.
        """
        _require(store, scenes, names, "which --inputs names", "leave it out")
        samples: dict[str, list[NDArray[np.float64]]] = {name: [] for name in names}
        for scene in scenes:
            # Of the points only the height asks; all other columns are read by name.
            points = store.points(scene) if HEIGHT in names else None
            rows = np.linspace(0, scene.points - 1, min(SAMPLE, scene.points)).astype(np.int64)
            for name in names:
                samples[name].append(_values(store, scene, points, name, scale)[rows])
        middles, spreads = [], []
        for parts in samples.values():
            values = np.concatenate(parts)
            values = values[np.isfinite(values)]
            low, middle, high = np.percentile(values, QUANTILES) if len(values) else (0.0, 0.0, 0.0)
            spread = (high - low) / 2 or (float(values.std()) if len(values) else 0.0)
            middles.append(float(middle))
            spreads.append(float(spread) or 1.0)
        return cls(tuple(names), np.array(middles), np.array(spreads))

    def to_json(self) -> list[dict[str, str | float]]:
        """As a checkpoint keeps them (docs/formats.md section 6.1)."""
        rows = zip(self.names, self.middle.tolist(), self.spread.tolist(), strict=True)
        return [{"name": name, "middle": middle, "spread": spread} for name, middle, spread in rows]

    @classmethod
    def from_json(cls, rows: Sequence[Mapping[str, Any]]) -> PointInputs:
        """Raises:
        KeyError, TypeError, ValueError: what is there was not written by `to_json`.
        """
        middle, spread = (np.array([float(row[key]) for row in rows]) for key in ("middle", "spread"))
        if not (np.isfinite(middle).all() and np.isfinite(spread).all() and (spread > 0).all()):
            raise ValueError("a column is not normalised by finite numbers")
        return cls(tuple(str(row["name"]) for row in rows), middle, spread)

    def require(self, store: SceneStore, scenes: Sequence[SceneInfo]) -> None:
        """Raises:
        HpalError: a scene lacks a column.
        """
        _require(store, scenes, self.names, "which the model needs", "predict scenes that have it")

    def columns(self, store: SceneStore, scene: SceneInfo, points: Points, scale: float) -> PointColumns:
        """Those of a scene: 0 where a value is not finite.

        Raises:
            HpalError: it lacks one.
        """
        value = np.empty((scene.points, len(self.names)), np.float32)
        for n, name in enumerate(self.names):
            normal = (_values(store, scene, points, name, scale) - self.middle[n]) / self.spread[n]
            value[:, n] = np.nan_to_num(np.clip(normal, -LIMIT, LIMIT), nan=0.0)
        return PointColumns(value)


@dataclass(frozen=True, eq=False)
class ConcatenatedColumns:
    """Columns of points and those of their superpoints, as one."""

    points: PointColumns
    superpoints: SuperpointColumns

    def __call__(self, rows: NDArray[np.int64] | slice) -> NDArray[np.float32]:
        """(number of rows, K)."""
        return np.concatenate([self.points(rows), self.superpoints(rows)], axis=1)

    @property
    def nbytes(self) -> int:
        return self.points.nbytes + self.superpoints.nbytes


ExtraColumns = SuperpointColumns | PointColumns | ConcatenatedColumns
"""Gives the (K, F) columns beside colour and position of K rows of a scene."""


@dataclass(frozen=True, eq=False)
class ExtraColumnsReader:
    """What a network is given of the points of a scene beside colour and position; None if that is nothing. It can be
    sent to a process of its own.

    own: further columns; likeness: of superpoints; read: gives those of a scene, where the call does not.
    """

    store: SceneStore
    own: PointInputs | None
    likeness: SuperpointInputs | None
    read: SuperpointReader | None
    scale: float

    def __call__(self, scene: SceneInfo, points: Points, superpoints: Superpoints | None = None) -> ExtraColumns | None:
        """Raises:
        HpalError: the scene lacks a column, or its superpoints are described otherwise.
        """
        if superpoints is None and self.read is not None:
            superpoints = self.read(scene)
        first = None if self.own is None else self.own.columns(self.store, scene, points, self.scale)
        if self.likeness is None or superpoints is None:
            return first
        second = self.likeness.columns(self.store, scene, superpoints)
        return second if first is None else ConcatenatedColumns(first, second)


def _values(store: SceneStore, scene: SceneInfo, points: Points | None, name: str, scale: float) -> NDArray[np.float64]:
    """(N,) as they are in the store, or computed from `points`."""
    if name != HEIGHT or points is None:
        return store.column(scene, name)
    xyz = np.asarray(points.xyz, np.float64) * (store.unit / scale)
    return xyz[:, 2] - ground_height(xyz)


def _require(store: SceneStore, scenes: Sequence[SceneInfo], names: Sequence[str], why: str, remedy: str) -> None:
    for scene in scenes:
        for name in names:
            if name != HEIGHT and not store.has_scalar(scene, name):
                there = ", ".join([*store.scalars(scene), HEIGHT])
                raise HpalError(store.path, f"scene {scene.name} has no column {name}, {why}; it has {there}", remedy)
