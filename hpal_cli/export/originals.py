"""Writes the original points of a file in their order, each with the result of its grid point, for viewers or as a LAS
file like the one that they came from."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpal_cli.classes import IGNORE
from hpal_cli.errors import HpalError
from hpal_cli.export.clouds import UNLABELLED_COLOR, class_colors, class_comments, predicted
from hpal_cli.predictions.store import PredictionStore
from hpal_cli.readers import copc
from hpal_cli.scene_table import SceneInfo
from hpal_cli.scenes.store import BLOCK, Points, SceneStore, SourceFile
from hpal_cli.store.files import atomic_write
from hpal_cli.stream.viewer_names import PREFIX
from hpal_cli.writers import las
from hpal_cli.writers.cloud import ViewerCloud, write_blocks
from hpal_cli.writers.copc import compress as write_copc

_SCANNED = {"red": "scan_r", "green": "scan_g", "blue": "scan_b"}
"""Names of the 16-bit colours of a LAS file -> names of the fields they are exported as. These do not contain the
colours' names, because CloudCompare takes any field with RED in its name for the red channel."""


@dataclass(frozen=True)
class Part:
    """Rows `start` to `stop` of the original points of a scene: those that came from one file."""

    scene: SceneInfo
    start: int
    stop: int


@dataclass(frozen=True)
class Originals:
    """The points of a file, in the order of the file, from one scene or from several scenes that share the file.

    predictions: the predictions for the points; with None, the field `class` is the label that the point came with.
    """

    store: SceneStore
    predictions: PredictionStore | None
    file: SourceFile
    parts: tuple[Part, ...]

    def suffix(self, format: str, *, uncompressed: bool = False) -> str:
        """The suffix of the file to write. LAZ stays LAZ, unless `uncompressed` is set or the points have waveforms
        (`las.compressible`), and COPC stays COPC."""
        header = self.file.las_header
        laz = format == "las" and not uncompressed and self.file.name.lower().endswith(".laz")
        if laz and (header is None or las.compressible(header)):
            format = "laz"
        octree = format == "laz" and header is not None and copc.info(header) is not None
        return "copc.laz" if octree else format

    @property
    def points(self) -> int:
        """The number of points: fewer than the file has, if some were left out or belong to other scenes."""
        return sum(part.stop - part.start for part in self.parts)

    def blocks(self) -> Iterator[tuple[Points, dict[str, NDArray[Any]]]]:
        """Pairs (points, fields), block by block. If the points came with labels, these are a field, too: `truth` with
        predictions, else `class`. If points of the file are missing, `source_row` is one of the attributes.

        Raises:
            HpalError: the rows of the points in the file are wrong, or an array of the stores is damaged.
        """
        if len(self.parts) > 1:
            yield from self._whole.blocks()
            return
        given = 0
        for points, fields in self._part(self.parts[0]):
            rows = points.attributes.get("source_row")
            whole = self.points == self.file.points
            if rows is not None and whole and np.array_equal(rows, np.arange(given, given + len(rows))):
                del points.attributes["source_row"]
            given += len(points.xyz)
            yield points, fields

    def _part(self, part: Part) -> Iterator[tuple[Points, dict[str, NDArray[Any]]]]:
        of_grid = {} if self.predictions is None else predicted(self.predictions, part.scene)
        (own,) = [f.columns for f in self.store.files(part.scene) if f.name == self.file.name] or [None]
        for points, inverse in self.store.original_blocks(part.scene, label=True, start=part.start, stop=part.stop):
            points.attributes.pop("source_file", None)
            if own is not None:
                kept = {n: v for n, v in points.attributes.items() if n in own or n == "source_row"}
                rgb, label = (points.rgb if "rgb" in own else None), (points.label if "label" in own else None)
                points = replace(points, rgb=rgb, label=label, attributes=kept)
            fields = {name: values[inverse] for name, values in of_grid.items()}
            if points.label is not None:
                fields["class" if self.predictions is None else "truth"] = points.label
            yield points, fields

    @cached_property
    def _whole(self) -> _PutTogether:
        whole = _PutTogether(self.file.points)
        for part in self.parts:
            for points, fields in self._part(part):
                try:
                    whole.add(points, fields)
                except ValueError as error:
                    problem = f"scene {part.scene.name}: rows of {self.file.name} are wrong ({error})"
                    raise HpalError(self.store.path, problem, "run `hpal prep` again") from error
        return whole

    def clouds(self, color: str) -> Iterator[ViewerCloud]:
        """The blocks for a viewer, with every column that was read as a field.

        color: `class`, or `rgb` as scanned (class if there are no colours). If the cloud does not show the scanned
        colours, or they have more than 8 bits, they are fields, too.
        """
        classes = self.store.classes
        codes = las.codes(classes, own=self.store.format == "las")
        for points, fields in self.blocks():
            rgb = points.rgb if color == "rgb" else None
            if points.rgb is not None and rgb is None and "red" not in points.attributes:
                fields |= {name: points.rgb[:, n] for n, name in enumerate(_SCANNED.values())}
            if rgb is None and "class" in fields:
                rgb = class_colors(classes, fields["class"])
            fields |= _named(points.attributes, fields)
            position, digits = points.position, ViewerCloud.digits
            if self.file.las_header is not None:
                subject = f"{self.store.path}: {self.file.name}"
                position, step = las.snapped(self.file.las_header, position, subject)
                digits = max(digits, math.ceil(-math.log10(step)))
            yield ViewerCloud(
                position,
                rgb,
                fields,
                "class" if "class" in fields else None,
                class_comments(classes),
                codes,
                unit=self.store.unit,
                digits=digits,
            )

    def write(
        self, path: Path, color: str = "auto", *, overwrite: bool = False, written: Callable[[int], None]
    ) -> None:
        """Writes .ply, .las, .laz or .csv, by the suffix; a LAS of a file that was LAS is `las.write_like`.

        color: `class`, `rgb` as scanned, or `auto`: class for a PLY of predictions, else rgb.

        Raises:
            HpalError: the file exists, or cannot hold the points.
        """
        if color == "auto":
            color = "class" if self.predictions is not None and path.suffix == ".ply" else "rgb"
        header = self.file.las_header
        if path.suffix not in (".las", ".laz") or header is None:
            write_blocks(lambda: self.clouds(color), self.points, path, overwrite=overwrite, written=written)
            return
        classes = self.store.classes
        write = partial(
            las.write_like,
            header,
            subject=path,
            table=las.codes(classes, own=self.store.format == "las") if self.predictions is not None else None,
            colors=np.vstack([classes.colors, [UNLABELLED_COLOR]]) if color == "class" else None,
            written=written,
        )
        compress = path.suffix == ".laz"
        info = copc.info(header) if compress else None
        with atomic_write(path, overwrite=overwrite) as unfinished, unfinished.open("w+b") as file:
            if info is None:
                write(self.blocks(), file, compress=compress)
                return
            nodes = self._nodes(header)
            with tempfile.TemporaryFile(dir=unfinished.parent) as plain:
                write(self._counted(nodes), plain, compress=False)
                write_copc(plain, info, nodes, file)

    def _nodes(self, header: bytes) -> NDArray[np.void]:
        """The nodes of a COPC, each with the number of points that it had in the file.

        Raises:
            HpalError: they are not those of the file.
        """
        try:
            nodes = copc.stored_nodes(header).copy()
            if nodes["points"].min() < 0 or nodes["points"].sum() != self.file.points:
                raise ValueError("they have other points")
        except ValueError as error:
            problem = f"the octree of {self.file.name} is not that of its points ({error})"
            raise HpalError(self.store.path, problem, "run `hpal prep` again") from error
        return nodes

    def _counted(self, nodes: NDArray[np.void]) -> Iterator[tuple[Points, dict[str, NDArray[Any]]]]:
        """The same as `blocks`. At the end, each node has the number of its points that were in the blocks, since some
        points may have been left out, or belong to other scenes."""
        ends = np.cumsum(nodes["points"], dtype=np.int64)
        nodes["points"] = 0
        given = 0
        for points, fields in self.blocks():
            rows = points.attributes.get("source_row", np.arange(given, given + len(points.xyz)))
            nodes["points"] += np.bincount(np.searchsorted(ends, rows, side="right"), minlength=len(nodes))
            given += len(points.xyz)
            yield points, fields


class _PutTogether:
    """Puts the points of one file, which come from several scenes, back into the order of the file. They are kept on
    disk, because a file may be large."""

    def __init__(self, points: int) -> None:
        self._present = np.zeros(points, bool)
        self._folder = tempfile.TemporaryDirectory(prefix="hpal-")
        self._columns: dict[str, NDArray[Any]] = {}
        self._shared: set[str] = set()
        self._truth: str | None = None

    def add(self, points: Points, fields: dict[str, NDArray[Any]]) -> None:
        """Adds points, which have the attribute `source_row`. Columns that not all added points have are left out in
        the end, except labels.

        Raises:
            ValueError: a row is beyond the end of the file, or was added before.
        """
        rows = points.attributes["source_row"]
        if rows.min() < 0 or rows.max() >= len(self._present):
            raise ValueError("beyond its end")
        if self._present[rows].any() or len(np.unique(rows)) < len(rows):
            raise ValueError("given twice")
        given = {f"field {name}": values for name, values in fields.items() if values is not points.label}
        given |= {f"column {name}": values for name, values in points.attributes.items()}
        given["xyz"] = points.position
        # A tile without a labelled point has no labels.
        given["label"] = np.full(len(rows), IGNORE, np.int32) if points.label is None else points.label
        if points.label is not None:
            self._truth = next(name for name, values in fields.items() if values is points.label)
        if points.rgb is not None:
            given["rgb"] = points.rgb
        self._shared = self._shared & set(given) if self._present.any() else set(given)
        self._present[rows] = True
        for name, values in given.items():
            if name not in self._columns:
                path = Path(self._folder.name) / str(len(self._columns))
                shape = (len(self._present), *values.shape[1:])
                self._columns[name] = np.memmap(path, values.dtype, "w+", shape=shape)
            self._columns[name][rows] = values

    def blocks(self) -> Iterator[tuple[Points, dict[str, NDArray[Any]]]]:
        """The added points from the first row of the file to the last, in the form of `Originals.blocks`."""
        rows = np.flatnonzero(self._present)
        names = self._shared - ({"column source_row"} if len(rows) == len(self._present) else set())
        for start in range(0, len(rows), BLOCK):
            block = {name: np.asarray(self._columns[name][rows[start : start + BLOCK]]) for name in sorted(names)}
            xyz, label, rgb = block.pop("xyz"), block.pop("label"), block.pop("rgb", None)
            fields = {name.removeprefix("field "): v for name, v in block.items() if name.startswith("field ")}
            if self._truth is not None:
                fields[self._truth] = label
            attributes = {name.removeprefix("column "): v for name, v in block.items() if name.startswith("column ")}
            yield Points(xyz, np.zeros(3), rgb, label if self._truth else None, attributes), fields


def _named(attributes: dict[str, NDArray[Any]], taken: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """The columns that were read, renamed where a name is that of a field or would be misunderstood by viewers."""
    own = {name.casefold() for name in taken}
    named: dict[str, NDArray[Any]] = {}
    for name in sorted(attributes, key=lambda name: [*_SCANNED, name].index(name)):
        values = attributes[name]
        bare = name.removeprefix(PREFIX).casefold()
        if name in _SCANNED:
            name = _SCANNED[name]
        elif bare in own or bare == "classification":
            name = f"original_{name.removeprefix(PREFIX)}"
        while name in taken or name in named:
            name += "_"
        named[name] = values
    return named
