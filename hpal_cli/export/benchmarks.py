"""Writes the files that the benchmark servers of ScanNet and SemanticKITTI accept: a class for every point of the raw
file, in the order of that file."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hpal_cli.errors import HpalError
from hpal_cli.export.originals import Originals
from hpal_cli.scenes.store import BLOCK
from hpal_cli.store.files import atomic_write

NAMES = {"scannet": "ScanNet", "semantickitti": "SemanticKITTI"}
FORMATS = tuple(NAMES)

_SCANNET = re.compile(r"scene\d{4}_\d{2}")
_KITTI = re.compile(r"(\d{2})/(\d{6})")

UNLABELLED = 0
"""In both benchmarks, the code of points that have no class, or that were left out when the scene was read."""


def file_name(scene: str, format: str, subject: object) -> str:
    """The path at which the server looks for a scene: `scene0707_00.txt`, `sequences/08/predictions/000123.label`.

    Raises:
        HpalError: the scene's name is not one of the benchmark's.
    """
    if format == "scannet" and _SCANNET.fullmatch(scene):
        return f"{scene}.txt"
    if format == "semantickitti" and (found := _KITTI.fullmatch(scene)):
        return f"sequences/{found[1]}/predictions/{found[2]}.label"
    shape = "scene0707_00" if format == "scannet" else "08/000123"
    raise HpalError(
        subject, f"scene {scene} is not one of {format}'s, which are named like {shape}", "leave it out with --scenes"
    )


def write(
    originals: Originals, path: Path, format: str, *, overwrite: bool = False, written: Callable[[int], None]
) -> None:
    """Writes one scene: for ScanNet a text file with one number per line, for SemanticKITTI one uint32 per point. The
    numbers are the `code` of each point's class.

    Raises:
        HpalError: the file exists, or has fewer points than the store says, or a class has no code.
    """
    without = next((c.name for c in originals.store.classes if c.code is None), None)
    if without is not None:
        raise HpalError(path, f"the class {without!r} has no code, so {format} does not know it", "check --classes")
    # The last entry is the code of points without a class (index -1).
    table = np.array([*(c.code for c in originals.store.classes), UNLABELLED], np.int64)
    if table.min() < 0 or table.max() > np.iinfo(np.uint16).max:
        raise HpalError(
            path, f"{format} has no class {table.min() if table.min() < 0 else table.max()}", "check --classes"
        )
    codes = _in_file_order(originals, table, path, written)
    with atomic_write(path, overwrite=overwrite) as partial, partial.open("wb") as file:
        for start in range(0, len(codes), BLOCK):
            block = codes[start : start + BLOCK]
            if format == "scannet":
                file.write(("\n".join(map(str, block.tolist())) + "\n").encode())
            else:
                file.write(block.astype("<u4").data)


def _in_file_order(
    originals: Originals, table: NDArray[np.int64], path: Path, written: Callable[[int], None]
) -> NDArray[np.uint16]:
    """(N0,) the code of every point of the raw file, 0 for points that were left out. table: (C + 1,) the code of each
    class, and last that of points without a class."""
    codes = np.full(originals.file.points, UNLABELLED, np.uint16)
    given = 0
    for points, fields in originals.blocks():
        rows = points.attributes.get("source_row")
        if rows is None:
            rows = np.arange(given, given + len(points.xyz))
        if rows.min() < 0 or rows.max() >= len(codes):
            problem = f"the store has more points of {originals.file.name} than the file had"
            raise HpalError(path, problem, "run `hpal prep` again")
        codes[rows] = table[fields["class"]]
        given += len(rows)
        written(len(rows))
    return codes
