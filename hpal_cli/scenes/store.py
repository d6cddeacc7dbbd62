"""The scenes store: clouds on a grid, with labels, splits and the original points (docs/formats.md section 2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from hpal_cli.errors import HpalError
from hpal_cli.scenes.about import about
from hpal_cli.scenes.table import SceneInfo
from hpal_cli.store import envelope


@dataclass
class Points:
    """N points of one scene.

    xyz: (N, 3), relative to `offset`; offset: (3,) float64, whole units; rgb: (N, 3) uint8 or None;
    label: (N,) int32 class ids, -1 for none, or None; attributes: further columns, each (N,).
    """

    xyz: NDArray[np.floating]
    offset: NDArray[np.float64]
    rgb: NDArray[np.uint8] | None = None
    label: NDArray[np.int32] | None = None
    attributes: dict[str, NDArray[np.generic]] = field(default_factory=dict)

    @property
    def position(self) -> NDArray[np.float64]:
        """(N, 3) float64 in the coordinates of the source."""
        return self.offset + self.xyz


class SceneStore:
    """An opened scenes store; nothing but the tables is read until asked for."""

    def __init__(self, path: Path) -> None:
        """Raises:
        HpalError: not a complete scenes store that this version reads.
        """
        self.path = path
        self._root, attributes = envelope.open_store(path, "scenes")
        self.classes, self.table, self.unit, self.history = about(attributes, path)
        self.grid: float | None = attributes.get("grid")
        self.format = str(attributes.get("format", "unknown"))

    def choose(self, split: str | None, globs: Sequence[str] = ()) -> list[SceneInfo]:
        """`SceneTable.choose`: a scenes store holds all of its table."""
        return self.table.choose(split, globs)

    def labelled(self, scene: SceneInfo) -> NDArray[np.int64]:
        """Rows that have an answer: none is known here."""
        return np.zeros(0, np.int64)

    def feature_count(self, scene: SceneInfo) -> int:
        """Columns of features: scenes have none."""
        return 0

    def points(self, scene: SceneInfo, *, label: bool = False) -> Points:
        """The grid points; the labels only if asked for, so that a stage that must not see them cannot."""
        return self._read(f"scenes/{scene.name}", scene, label)

    def original(self, scene: SceneInfo, *, label: bool = False) -> tuple[Points, NDArray[np.int64]]:
        """The points as they were read, and for each the row of its grid point (N,)."""
        group = f"scenes/{scene.name}/original"
        return self._read(group, scene, label), self._array(f"{group}/inverse")

    def files(self, scene: SceneInfo) -> list[dict[str, Any]]:
        """The files that a scene was read from: `name`, and `points` in it, those that were left out too."""
        group = self._find(f"scenes/{scene.name}/original")
        files: Any = group.attrs.get("files", []) if isinstance(group, zarr.Group) else []
        return [dict(file) for file in files]

    def labels(self, scene: SceneInfo) -> NDArray[np.int32] | None:
        """(N,) class ids of the grid points, -1 for none; None if the scene came without labels."""
        name = f"scenes/{scene.name}/label"
        return self._array(name) if self._find(name) is not None else None

    def has_color(self, scene: SceneInfo) -> bool:
        return self._find(f"scenes/{scene.name}/rgb") is not None

    def _find(self, name: str) -> zarr.Array | zarr.Group | None:
        return envelope.find(self._root, name, self.path)

    def _array(self, name: str) -> NDArray[Any]:
        return envelope.read_array(self._root, name, self.path)

    def _read(self, name: str, scene: SceneInfo, label: bool) -> Points:
        group = self._find(name)
        home = self._find(f"scenes/{scene.name}")
        if not isinstance(group, zarr.Group) or not isinstance(home, zarr.Group):
            raise HpalError(self.path, f"scene {scene.name} is missing", "run `hpal prep` again")
        columns = [key for key in group.array_keys() if key not in ("xyz", "rgb", "label", "inverse")]
        return Points(
            xyz=self._array(f"{name}/xyz"),
            offset=np.array(home.attrs["offset"], np.float64),
            rgb=self._array(f"{name}/rgb") if "rgb" in group else None,
            label=self._array(f"{name}/label") if label and "label" in group else None,
            attributes={key: self._array(f"{name}/{key}") for key in sorted(columns)},
        )
