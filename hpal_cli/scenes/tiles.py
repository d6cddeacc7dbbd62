"""Cuts scans into square tiles seen from above, each of which becomes a scene, whatever files its points are in."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from hpal_cli.errors import HpalError
from hpal_cli.readers.cloud import Cloud
from hpal_cli.scenes.raw import RawFile, RawScene

MOST = 100_000
"""Tiles; more are a slip of the unit."""


class Tiles:
    """Scenes by name, filled from one file after the other."""

    def __init__(self, metres: float, unit: float | None, folder: Path) -> None:
        """metres: a tile's edge; unit: metres in one unit of the clouds, None: as the first file says."""
        self.scenes: dict[str, RawScene] = {}
        self._metres, self._unit, self._folder = metres, unit, folder

    def add_file(self, file: RawFile, blocks: Iterable[Cloud]) -> None:
        """Deals out the points of a file.

        Raises:
            HpalError: what reading raises; colours that make no sense; tiles without number.
        """
        marks = {name: scene.savepoint() for name, scene in self.scenes.items()}
        try:
            self._deal(file, blocks)
            file.check()
        except HpalError:
            # Half a file is worse than none.
            for name, scene in list(self.scenes.items()):
                if name in marks:
                    scene.rollback(marks[name])
                else:
                    self.scenes.pop(name).buffer.close()
            raise

    def _deal(self, file: RawFile, blocks: Iterable[Cloud]) -> None:
        for cloud in blocks:
            rows = file.see(cloud)
            if self._unit is None:
                self._unit = cloud.unit or 1.0
            edge = self._metres / self._unit
            corner = np.floor(cloud.xyz[:, :2] / edge).astype(np.int64)
            tiles, home = np.unique(corner, axis=0, return_inverse=True)
            order = np.argsort(home.reshape(-1), kind="stable")
            edges = np.cumsum(np.bincount(home.reshape(-1)))
            for tile, here in zip(tiles, np.split(order, edges[:-1]), strict=True):
                self._scene(_name(tile * edge), file.path).add(cloud.take(here), rows[here], file)

    def _scene(self, name: str, path: Path) -> RawScene:
        if name not in self.scenes:
            if len(self.scenes) == MOST:
                raise HpalError(path, f"covers more than {MOST:,} tiles", "check the tile's size and --unit")
            # On disk at once: together they may be larger than memory.
            self.scenes[name] = RawScene(self._folder / name, kept=0)
        return self.scenes[name]


def _name(corner: np.ndarray) -> str:
    """By its lower left corner, in the cloud's unit."""
    x, y = (f"{value:.3f}".rstrip("0").rstrip(".") for value in corner)
    return f"x{x}_y{y}"
