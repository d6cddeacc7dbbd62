"""Divides scans into tiles, squares on the ground, each of which becomes a scene, whatever files its points are in."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from hpal_cli.errors import HpalError
from hpal_cli.readers.cloud import Cloud
from hpal_cli.scenes.raw import RawFile, RawScene

MAX_TILES = 100_000
"""Largest number of tiles; more are taken to be a mistake in the unit."""


class Tiles:
    """Collects the points of tiles, one file after the other. scenes: the tiles so far, by name."""

    def __init__(self, metres: float, unit: float | None, folder: Path) -> None:
        """metres: edge of a tile; unit: metres in one unit of the coordinates, None for what the first file says;
        folder: where the points are collected."""
        self.scenes: dict[str, RawScene] = {}
        self._metres, self._unit, self._folder = metres, unit, folder

    def add_file(self, file: RawFile, blocks: Iterable[Cloud]) -> None:
        """Distributes the points of a file to tiles. If that fails, none of its points are kept.

        Raises:
            HpalError: the file cannot be read, its colours are in no range that is known, or there are more than
            `MAX_TILES` tiles.
        """
        marks = {name: scene.savepoint() for name, scene in self.scenes.items()}
        try:
            self._distribute(file, blocks)
            file.check()
        except HpalError:
            # Tiles must not hold a part of a file, which would look like a whole one.
            for name, scene in list(self.scenes.items()):
                if name in marks:
                    scene.rollback(marks[name])
                else:
                    self.scenes.pop(name).buffer.close()
            raise

    def _distribute(self, file: RawFile, blocks: Iterable[Cloud]) -> None:
        for cloud in blocks:
            rows = file.update(cloud)
            if self._unit is None:
                self._unit = cloud.unit or 1.0
            edge = self._metres / self._unit
            corner = np.floor(cloud.xyz[:, :2] / edge).astype(np.int64)
            tiles, tile_of = np.unique(corner, axis=0, return_inverse=True)
            order = np.argsort(tile_of.reshape(-1), kind="stable")
            edges = np.cumsum(np.bincount(tile_of.reshape(-1)))
            for tile, here in zip(tiles, np.split(order, edges[:-1]), strict=True):
                self._scene(_name(tile * edge), file.path).add(cloud.take(here), rows[here], file)

    def _scene(self, name: str, path: Path) -> RawScene:
        if name not in self.scenes:
            if len(self.scenes) == MAX_TILES:
                raise HpalError(path, f"covers more than {MAX_TILES:,} tiles", "check the tile's size and --unit")
            # The points are put on disk at once, because all tiles together may be larger than memory.
            self.scenes[name] = RawScene(self._folder / name, kept=0)
        return self.scenes[name]


def _name(corner: np.ndarray) -> str:
    """The name of a tile, from its lower left corner (2,) in the unit of the cloud."""
    x, y = (f"{value:.3f}".rstrip("0").rstrip(".") for value in corner)
    return f"x{x}_y{y}"
