"""A scene at its original points, in their order, with what is known of each: for viewers and as the LAS it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpal_cli.export import las
from hpal_cli.export.clouds import UNLABELLED_COLOR, class_colors, class_comments
from hpal_cli.export.writers import ViewerCloud, write_blocks
from hpal_cli.scenes.store import Points, SceneStore
from hpal_cli.scenes.table import SceneInfo
from hpal_cli.store.files import replace_when_whole
from hpal_cli.stream.viewer_names import PREFIX

_SCANNED = {"red": "scan_r", "green": "scan_g", "blue": "scan_b"}
"""The colours that a LAS file has, of 16 bits, and what they are called as fields: CloudCompare takes any name with
RED in it for the red channel."""


@dataclass(frozen=True)
class Originals:
    """The original points of a scene.

    of_grid: field -> (N,) of the grid points, for every original point to have that of its own: `predicted`, or
    nothing, and then `class` is the label that a point came with.
    """

    store: SceneStore
    scene: SceneInfo
    of_grid: dict[str, NDArray[Any]]

    def blocks(self) -> Iterator[tuple[Points, dict[str, NDArray[Any]]]]:
        """(points, fields) block by block; where the scene came with labels they are a field: `truth` beside
        predictions, else `class`."""
        for points, inverse in self.store.original_blocks(self.scene, label=True):
            fields = {name: values[inverse] for name, values in self.of_grid.items()}
            if points.label is not None:
                fields["truth" if self.of_grid else "class"] = points.label
            yield points, fields

    @cached_property
    def las_header(self) -> bytes | None:
        return self.store.las_header(self.scene)

    def clouds(self, color: str) -> Iterator[ViewerCloud]:
        """The blocks for a viewer, with every column that was read as a field.

        color: `class`, or `rgb` as scanned where it was (else class). The scanned colours are fields too where they
        are not the cloud's, or have more than 8 bits.
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
            position = (
                points.position
                if self.las_header is None
                else las.snapped(self.las_header, points.position, f"{self.store.path}: scene {self.scene.name}")
            )
            yield ViewerCloud(
                position,
                rgb,
                fields,
                "class" if "class" in fields else None,
                class_comments(classes),
                codes,
                unit=self.store.unit,
            )

    def write(
        self, path: Path, color: str = "auto", *, overwrite: bool = False, written: Callable[[int], None]
    ) -> None:
        """Writes .ply, .las, .laz or .csv, by the suffix; a LAS of a scene that was LAS is `las.write_like`.

        color: `class`, `rgb` as scanned, or `auto`: class for a PLY of predictions, else rgb.

        Raises:
            HpalError: the file exists, or cannot hold the points.
        """
        if color == "auto":
            color = "class" if self.of_grid and path.suffix == ".ply" else "rgb"
        header = self.las_header
        if path.suffix != ".las" or header is None:
            write_blocks(lambda: self.clouds(color), self.scene.original, path, overwrite=overwrite, written=written)
            return
        classes = self.store.classes
        with replace_when_whole(path, overwrite=overwrite) as partial, partial.open("wb") as file:
            las.write_like(
                header,
                self.blocks(),
                file,
                path,
                table=las.codes(classes, own=self.store.format == "las") if self.of_grid else None,
                colors=np.vstack([classes.colors, [UNLABELLED_COLOR]]) if color == "class" else None,
                written=written,
            )


def _named(attributes: dict[str, NDArray[Any]], taken: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """The columns that were read, under names that say whose they are and that no field has."""
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
