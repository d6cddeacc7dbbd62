"""The scenes store: clouds on a grid, with labels, splits and the original points (docs/formats.md section 2)."""

from __future__ import annotations

import base64
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hpal_cli.errors import HpalError
from hpal_cli.scene_table import SceneInfo, require_scene_name
from hpal_cli.scenes.metadata import length_of, read_metadata
from hpal_cli.scenes.scale import stored_scale
from hpal_cli.store import envelope
from hpal_cli.store.envelope import RowReader

BLOCK = 1 << 18
"""Number of original points that are read at once."""


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


class SourceFile(NamedTuple):
    """A file that original points were read from. name: its path below the folder that was read, made safe; points:
    how many it has, including those that were left out; las_header: an empty LAS file with its header and records;
    columns: which of the scene's columns are its own, None for all."""

    name: str
    points: int
    las_header: bytes | None = None
    columns: tuple[str, ...] | None = None


_NO_SCALARS = frozenset({"xyz", "rgb", "label", "inverse", "source_row", "source_file"})
"""Arrays of a scene that `SceneStore.column` does not give: they are not one number per point, or are the truth."""


def _groups(scene: SceneInfo) -> tuple[str, str]:
    """The group with the columns of the grid points, and that with the columns of the original points."""
    return f"scenes/{scene.name}", f"scenes/{scene.name}/original"


class SceneStore:
    """An opened scenes store: scans on a grid, and the points as they were read.

    Its `table` lists the scenes, `classes` is the class table, `unit` is the number of metres in one unit of the
    coordinates, `grid` the edge of a grid cell in metres, and `history` the calls that led to the store. Points are
    read when a method is called that returns them. In the methods, `scene` is a row of `table`, and N is its number of
    grid points.
    """

    def __init__(self, path: Path) -> None:
        """Opens the store at `path`; points are not read yet.

        Raises:
            HpalError: `path` is not a complete scenes store, or of a format version that is not supported.
        """
        self.path = path
        self._root, attributes = envelope.open_store(path, "scenes")
        self.classes, self.table, self.unit, self.history = read_metadata(attributes, path)
        self.grid = length_of(attributes, "grid", path)
        self.scale = stored_scale(attributes, path)
        self.format = str(attributes.get("format", "unknown"))

    def __reduce__(self) -> tuple[Any, ...]:
        # The table of all scenes would otherwise be sent with each of them.
        return envelope.reopened, (SceneStore, self.path, self.table.id)

    def check(self) -> None:
        """Reads every chunk of every array.

        Raises:
            HpalError: a chunk is damaged or missing.
        """
        envelope.check_store(self._root, self.path)

    def choose(self, split: str | None, globs: Sequence[str] = ()) -> list[SceneInfo]:
        """The scenes of a split, or of all splits for None or `"all"`, whose names match one of the patterns `globs`,
        if there are any."""
        return self.table.choose(split, globs)

    def labelled(self, scene: SceneInfo) -> NDArray[np.int64]:
        """Always empty: a scenes store holds no answers. Predictions stores have a method of this name too."""
        return np.zeros(0, np.int64)

    def feature_count(self, scene: SceneInfo) -> int:
        """Always 0: a scenes store holds no features. Predictions stores have a method of this name too."""
        return 0

    def points(self, scene: SceneInfo, *, label: bool = False) -> Points:
        """The N grid points: positions, colours and further columns. The labels are read only with `label`, so that a
        stage which must not see them does not.

        Raises:
            HpalError: an array is missing, damaged, or of another length than the scene.
        """
        return self._read(f"scenes/{scene.name}", scene, scene.points, label)

    def original(self, scene: SceneInfo, *, label: bool = False) -> tuple[Points, NDArray[np.int64]]:
        """The M points as they were read, and (M,) the row of the grid point that each belongs to.

        Raises:
            HpalError: an array is missing, damaged, or of another length than the scene.
        """
        group = f"scenes/{scene.name}/original"
        return self._read(group, scene, scene.original, label), self._array(f"{group}/inverse")

    def original_blocks(
        self, scene: SceneInfo, *, label: bool = False, start: int = 0, stop: int | None = None
    ) -> Iterator[tuple[Points, NDArray[np.int64]]]:
        """What `original` returns, from row `start` to `stop` and `BLOCK` points at a time, since a scan may be larger
        than the memory.

        Raises:
            HpalError: columns of another length than the scene, or a grid point that does not exist.
        """
        name = f"scenes/{scene.name}/original"
        offset, names = self._columns(name, scene)
        names = [n for n in names if label or n != "label"]
        columns = {n: RowReader(self._root, f"{name}/{n}", self.path) for n in [*names, "inverse"]}
        for column, reader in columns.items():
            if reader.shape[0] != scene.original:
                problem = f"scene {scene.name}: {column} has {reader.shape[0]} rows, expected {scene.original}"
                raise HpalError(self.path, problem, "run `hpal prep` again")
        end = scene.original if stop is None else stop
        for row in range(start, end, BLOCK):
            read = {column: reader.block(row, min(row + BLOCK, end)) for column, reader in columns.items()}
            inverse = read.pop("inverse")
            self._require_rows(scene, inverse, len(inverse))
            yield Points(read.pop("xyz"), offset, read.pop("rgb", None), read.pop("label", None), read), inverse

    def files(self, scene: SceneInfo) -> list[SourceFile]:
        """The files that the original points were read from; empty if the store does not record them.

        Raises:
            HpalError: the record is damaged.
        """
        _, attributes = envelope.read_group(self._root, f"scenes/{scene.name}/original", self.path)
        rows: Any = attributes.get("files", [])
        try:
            return [
                SourceFile(
                    require_scene_name(str(row["name"])),
                    int(row["points"]),
                    base64.b64decode(row["las_header"], validate=True) if "las_header" in row else None,
                    tuple(map(str, row["columns"])) if "columns" in row else None,
                )
                for row in rows
            ]
        except (TypeError, KeyError, ValueError) as error:
            raise HpalError(
                self.path, f"scene {scene.name}: files cannot be read ({error!r})", "run `hpal prep` again"
            ) from error

    def rows_of_files(self, scene: SceneInfo) -> list[tuple[int, int]]:
        """For each of `files`, the first row of its original points, and the row after its last one.

        Raises:
            HpalError: the store does not record it, or the points of several files are mixed.
        """
        files, name = self.files(scene), f"scenes/{scene.name}/original/source_file"
        if not self._has(name):
            if len(files) > 1:
                problem = f"scene {scene.name}: the store does not say from which file each point was read"
                raise HpalError(self.path, problem, "run `hpal prep` again")
            return [(0, scene.original)] * len(files)
        numbers = self._array(name)
        if (np.diff(numbers) < 0).any():
            problem = f"scene {scene.name}: its points are not in the order of its files"
            raise HpalError(self.path, problem, "run `hpal prep` again")
        edges = np.searchsorted(numbers, np.arange(len(files) + 1)).tolist()
        return list(itertools.pairwise(edges))

    def labels(self, scene: SceneInfo) -> NDArray[np.int32] | None:
        """(N,) the true class ids of the grid points, -1 for a point without one; None if the scene has no labels.

        Raises:
            HpalError: there is not one label for each point, or a class id is not in the class table.
        """
        name = f"scenes/{scene.name}/label"
        if not self._has(name):
            return None
        label = self._array(name)
        inside = label.dtype.kind in "iu" and (not label.size or -1 <= label.min() <= label.max() < len(self.classes))
        if label.shape != (scene.points,) or not inside:
            problem = f"scene {scene.name}: label does not have one class id for each point"
            raise HpalError(self.path, problem, "run `hpal prep` again")
        return label

    def has_labels(self, scene: SceneInfo) -> bool:
        """Whether the scene came with labels."""
        return self._has(f"scenes/{scene.name}/label")

    def has_color(self, scene: SceneInfo) -> bool:
        """Whether the scene has colours."""
        return self.has_column(scene, "rgb")

    def has_column(self, scene: SceneInfo, name: str) -> bool:
        """Whether the grid points have the column `name`, such as `rgb` or `intensity`."""
        return self._has(f"scenes/{scene.name}/{name}")

    def scalars(self, scene: SceneInfo) -> list[str]:
        """The names, sorted, of the columns that `column` can return."""
        grid, original = (self._columns(group, scene)[1] for group in _groups(scene))
        return sorted({*grid, *original} - _NO_SCALARS)

    def has_scalar(self, scene: SceneInfo, name: str) -> bool:
        """Whether `column` can return a column of this name."""
        return name not in _NO_SCALARS and any(self._has(f"{group}/{name}") for group in _groups(scene))

    def column(self, scene: SceneInfo, name: str) -> NDArray[np.float64]:
        """(N,) a column of numbers for the grid points. If only the original points have the column, each grid point
        gets the mean over its original points.

        Raises:
            HpalError: there is no such column, or it does not have one value for each point.
        """
        grid, original = _groups(scene)
        for group, rows in ((grid, scene.points), (original, scene.original)):
            if name in _NO_SCALARS or not self._has(f"{group}/{name}"):
                continue
            values = self._array(f"{group}/{name}")
            if values.shape != (rows,) or values.dtype.kind not in "fiub":
                problem = f"scene {scene.name}: {name} of {group} does not have one number for each point"
                raise HpalError(self.path, problem, "run `hpal prep` again")
            if group == grid:
                return values.astype(np.float64)
            inverse = self._array(f"{group}/inverse")
            self._require_rows(scene, inverse, rows)
            count = np.bincount(inverse, minlength=scene.points)
            sums = np.bincount(inverse, np.asarray(values, np.float64), minlength=scene.points)
            return sums / np.maximum(count, 1)
        raise HpalError(
            self.path, f"scene {scene.name} has no column {name}", f"it has {', '.join(self.scalars(scene)) or 'none'}"
        )

    def _require_rows(self, scene: SceneInfo, inverse: NDArray[np.integer], count: int) -> None:
        """Requires of `inverse` that it has `count` rows, each of an existing grid point.

        Raises:
            HpalError: it has not.
        """
        if inverse.shape != (count,) or inverse.min() < 0 or inverse.max() >= scene.points:
            problem = f"scene {scene.name}: inverse names a row that does not exist"
            raise HpalError(self.path, problem, "run `hpal prep` again")

    def _has(self, name: str) -> bool:
        return envelope.has(self._root, name, self.path)

    def _array(self, name: str) -> NDArray[Any]:
        return envelope.read_array(self._root, name, self.path)

    def _columns(self, name: str, scene: SceneInfo) -> tuple[NDArray[np.float64], list[str]]:
        """The scene's offset, and the columns of its group `name` in order of name, xyz first."""
        attributes = envelope.read_attributes(self._root, f"scenes/{scene.name}", self.path)
        names = [n for n in envelope.array_names(self._root, name, self.path) if n not in ("xyz", "inverse")]
        return offset_of(attributes, scene, self.path), ["xyz", *names]

    def _read(self, name: str, scene: SceneInfo, rows: int, label: bool) -> Points:
        offset, names = self._columns(name, scene)
        names = [key for key in names if label or key != "label"]
        columns = dict(zip(names, envelope.read_arrays(self._root, [f"{name}/{key}" for key in names], self.path)))
        for key, values in columns.items():
            if values.shape != ((rows, 3) if key in ("xyz", "rgb") else (rows,)):
                shape = " x ".join(map(str, values.shape))
                problem = f"scene {scene.name}: {key} of {name} is {shape}, for {rows} points"
                raise HpalError(self.path, problem, "run `hpal prep` again")
        return Points(
            columns.pop("xyz"), offset, columns.pop("rgb", None), columns.pop("label", None), attributes=columns
        )


def offset_of(attributes: Mapping[str, Any], scene: SceneInfo, path: Path) -> NDArray[np.float64]:
    """(3,) the offset of a scene, from the attributes of its group. path: of the store, for messages.

    Raises:
        HpalError: it is missing, or not three finite numbers.
    """
    try:
        offset = np.array(attributes["offset"], np.float64)
        if offset.shape != (3,) or not np.isfinite(offset).all():
            raise ValueError("not three finite numbers")
    except (KeyError, TypeError, ValueError) as error:
        problem = f"scene {scene.name}: its offset is missing or damaged ({error})"
        raise HpalError(path, problem, "restore a copy, or write it again") from error
    return offset
