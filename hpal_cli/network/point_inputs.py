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
"""The input that is computed as the height of a point above the ground. All other names are those of columns."""

TRUTH = ("label", "label_", "classification")
"""Columns that may hold the true classes, which cannot be inputs."""

QUANTILES = (5, 50, 95)
"""Percentiles by which a column is normalised: the middle one becomes 0, and the outer two are then 2 apart."""

MAX_MAGNITUDE = 3.0
"""Normalised values are clipped to this magnitude, since intensities of mirrors and water are a hundred times those of
other surfaces."""

SAMPLE = 50_000
"""Points of a scene from which percentiles are computed, at most."""


@dataclass(frozen=True)
class InputSpec:
    """The inputs that the setting `inputs` names, beside the position, which is always one. color: whether the colour
    is an input; None: only if all scenes have it; columns: names of further columns of the points; superpoints:
    whether the likeness of a point's superpoint is an input."""

    color: bool | None
    columns: tuple[str, ...]
    superpoints: bool

    @classmethod
    def parse(cls, text: str) -> InputSpec:
        """The inputs that a text such as `points`, `superpoints,intensity` or `x,y,z,rgb,intensity,height` names.
        `points` stands for position and, if all scenes have it, colour; `superpoints` for these and the likeness.

        Raises:
            UsageError: a name is empty, comes twice, or may hold the true classes.
        """
        names = [name.strip() for name in text.split(",")]
        for name in names:
            if not name or names.count(name) > 1:
                problem = f"{text!r} names {name} twice" if name else f"{text!r} holds an empty name"
                raise UsageError("--inputs", problem, "give names like x,y,z,rgb,intensity,height, each once")
            if name in TRUTH:
                raise UsageError("--inputs", f"{name} holds what the network shall learn", "leave it out")
        whole = "points" in names or "superpoints" in names
        known = ("points", "superpoints", "x", "y", "z", "rgb")
        return cls(
            True if "rgb" in names else None if whole else False,
            tuple(name for name in names if name not in known),
            "superpoints" in names,
        )


@dataclass(frozen=True, eq=False)
class PointColumns:
    """The normalised further columns of N points. value: (N, K)."""

    value: NDArray[np.float32]

    def __call__(self, rows: NDArray[np.int64] | slice) -> NDArray[np.float32]:
        """(R, K) the columns of R rows."""
        return self.value[rows]

    @property
    def nbytes(self) -> int:
        return self.value.nbytes


@dataclass(frozen=True, eq=False)
class PointInputs:
    """How further columns of points become inputs of a network. It is fixed when the network is trained.

    names: (K,) of the columns; middle, spread: (K,) float64; the input is (value - middle) / spread. Heights are in
    metres divided by the scale of the scenes.
    """

    names: tuple[str, ...]
    middle: NDArray[np.float64]
    spread: NDArray[np.float64]

    @classmethod
    def from_store(
        cls, store: SceneStore, scenes: Sequence[SceneInfo], names: Sequence[str], scale: float
    ) -> PointInputs:
        """Computes `middle` and `spread` from some scenes: the median, and half the distance between the 5th and the
        95th percentile, or the standard deviation if that is 0.

        Raises:
            HpalError: a scene lacks one of the columns.
        """
        _require(store, scenes, names, "which --inputs names", "leave it out")
        samples: dict[str, list[NDArray[np.float64]]] = {name: [] for name in names}
        for scene in scenes:
            # Only the height needs the points; all other columns are read by their names.
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
        """The columns as a checkpoint stores them (docs/formats.md section 6.1)."""
        rows = zip(self.names, self.middle.tolist(), self.spread.tolist(), strict=True)
        return [{"name": name, "middle": middle, "spread": spread} for name, middle, spread in rows]

    @classmethod
    def from_json(cls, rows: Sequence[Mapping[str, Any]]) -> PointInputs:
        """Raises:
        KeyError, TypeError, ValueError: the rows are not those that `to_json` returns.
        """
        middle, spread = (np.array([float(row[key]) for row in rows]) for key in ("middle", "spread"))
        if not (np.isfinite(middle).all() and np.isfinite(spread).all() and (spread > 0).all()):
            raise ValueError("a column is not normalised by finite numbers")
        return cls(tuple(str(row["name"]) for row in rows), middle, spread)

    def require(self, store: SceneStore, scenes: Sequence[SceneInfo]) -> None:
        """Raises:
        HpalError: a scene lacks one of the columns.
        """
        _require(store, scenes, self.names, "which the model needs", "give scenes that have it")

    def columns(self, store: SceneStore, scene: SceneInfo, points: Points, scale: float) -> PointColumns:
        """The normalised columns of a scene, 0 where a value is not finite.

        Raises:
            HpalError: the scene lacks one of the columns.
        """
        value = np.empty((scene.points, len(self.names)), np.float32)
        for n, name in enumerate(self.names):
            normal = (_values(store, scene, points, name, scale) - self.middle[n]) / self.spread[n]
            value[:, n] = np.nan_to_num(np.clip(normal, -MAX_MAGNITUDE, MAX_MAGNITUDE), nan=0.0)
        return PointColumns(value)


@dataclass(frozen=True, eq=False)
class ConcatenatedColumns:
    """The columns of points and those of their superpoints, side by side."""

    points: PointColumns
    superpoints: SuperpointColumns

    def __call__(self, rows: NDArray[np.int64] | slice) -> NDArray[np.float32]:
        """(R, K) the columns of R rows."""
        return np.concatenate([self.points(rows), self.superpoints(rows)], axis=1)

    @property
    def nbytes(self) -> int:
        return self.points.nbytes + self.superpoints.nbytes


ExtraColumns = SuperpointColumns | PointColumns | ConcatenatedColumns
"""A function from rows of a scene (R,) to their inputs (R, K) beside colour and position."""


@dataclass(frozen=True, eq=False)
class ExtraColumnsReader:
    """Reads the inputs of the points of a scene beside colour and position. It can be sent to a worker process.

    own: the further columns; likeness: the inputs from superpoints; read: reads the superpoints of a scene, if the call
    does not give them; scale: of the scenes.
    """

    store: SceneStore
    own: PointInputs | None
    likeness: SuperpointInputs | None
    read: SuperpointReader | None
    scale: float

    def __call__(self, scene: SceneInfo, points: Points, superpoints: Superpoints | None = None) -> ExtraColumns | None:
        """The inputs of a scene, None if there are none.

        Raises:
            HpalError: the scene lacks a column, or its superpoints have another description than the model's.
        """
        if superpoints is None and self.read is not None:
            superpoints = self.read(scene)
        first = None if self.own is None else self.own.columns(self.store, scene, points, self.scale)
        if self.likeness is None or superpoints is None:
            return first
        second = self.likeness.columns(self.store, scene, superpoints)
        return second if first is None else ConcatenatedColumns(first, second)


def _values(store: SceneStore, scene: SceneInfo, points: Points | None, name: str, scale: float) -> NDArray[np.float64]:
    """(N,) the values of a column, from the store or, for the height, computed from `points`."""
    if name != HEIGHT or points is None:
        return store.column(scene, name)
    xyz = np.asarray(points.xyz, np.float64) * (store.unit / scale)
    return xyz[:, 2] - ground_height(xyz)


def _require(store: SceneStore, scenes: Sequence[SceneInfo], names: Sequence[str], why: str, remedy: str) -> None:
    for scene in scenes:
        for name in names:
            if name != HEIGHT and not store.has_scalar(scene, name):
                available = ", ".join([*store.scalars(scene), HEIGHT])
                raise HpalError(
                    store.path, f"scene {scene.name} has no column {name}, {why}; it has {available}", remedy
                )
