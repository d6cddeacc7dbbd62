"""Writes a raw scene to its group of the store: the original points block by block, the grid points slab by slab."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from hpal_cli.scenes.column_buffer import BLOCK, MAX_BUFFER_BYTES, ColumnBuffer, Columns
from hpal_cli.scenes.grid import subsample
from hpal_cli.scenes.raw import RawFile, RawScene
from hpal_cli.store import envelope
from hpal_cli.voxels import voxel_coordinates

SLAB = 1 << 21
"""Points that are put on the grid at once, which takes about 400 MB."""

SCALES = slice(131, 155)
"""The bytes of a LAS header that hold the scale factors of x, y, z."""

SAMPLE = 16
"""The limits of the slabs are computed from every `SAMPLE`-th point."""

MAX_ERROR = 1e-5
"""Largest rounding error, in the unit of the coordinates, with which original positions are stored in 32 bits."""


ToIds = Callable[[NDArray[np.int64], Path], NDArray[np.int32]]
"""Turns the class numbers (N,) of a file into class ids (N,), as `ClassTable.from_codes` does."""


def write_scene(
    group: zarr.Group, raw: RawScene, ids: ToIds, edge: float | None, folder: Path, *, slab: int = SLAB
) -> tuple[int, int, str]:
    """Writes the arrays of docs/formats.md section 2.2; returns the number of grid points, the number of original
    points, and the fingerprint.

    edge: of a grid cell, in the unit of the coordinates; None keeps every point. folder: for what does not fit into
    memory. The offset is the lowest corner, rounded down to whole units, so that, if the edge divides one unit, the
    cells of all scenes belong to one common grid. Scenes of more than `slab` points are put on the grid in slabs along
    x, which end between cells; this gives the same bits as all at once.

    Raises:
        HpalError: a label is not in the table.
    """
    offset = np.floor(raw.low)
    envelope.write_attributes(group, {"offset": offset.tolist()})
    below = group.create_group("original")
    envelope.write_attributes(below, {"files": [_about(file, several=len(raw.files) > 1) for file in raw.files]})
    grid = None if edge is None else _Grid(raw, offset, edge, folder, slab)
    originals = _Arrays(below, len(raw))
    exact = _position_type(raw, offset)
    for columns in _converted(raw, ids, offset):
        if grid is not None:
            grid.add(columns)
        originals.append({**columns, "xyz": columns["xyz"].astype(exact)})
    digest = hashlib.sha256(np.ascontiguousarray(offset, "<f8").tobytes())
    count = len(raw) if grid is None else grid.finish()
    arrays = _Arrays(group, count)
    for columns in _ungridded(raw, ids, offset) if grid is None else grid.cells.blocks():
        digest.update(np.ascontiguousarray(columns["xyz"], "<f4").tobytes())
        arrays.append(columns)
    for start in range(0, len(raw), BLOCK):
        stop = min(start + BLOCK, len(raw))
        rows = np.arange(start, stop) if grid is None else grid.inverse[start:stop].astype(np.int64)
        originals.append({"inverse": rows}, start)
    return count, len(raw), digest.hexdigest()[:16]


def _about(file: RawFile, *, several: bool) -> dict[str, Any]:
    about: dict[str, Any] = {"name": file.name, "points": file.points}
    if several:
        about["columns"] = sorted(file.columns)
    if file.las_header is not None:
        about["las_header"] = base64.b64encode(file.las_header).decode("ascii")
    return about


def _position_type(raw: RawScene, offset: NDArray[np.float64]) -> type[np.floating]:
    """The type for the original positions: float32 if it rounds by at most `MAX_ERROR` and by at most a quarter of a
    LAS file's scale factor, else float64, as for large tiles."""
    error = float(np.spacing(np.float32((raw.high - offset).max()))) / 2
    headers = [file.las_header for file in raw.files if file.las_header is not None]
    steps = [float(step) for header in headers for step in np.frombuffer(header[SCALES], "<f8")]
    return np.float32 if error <= min([MAX_ERROR, *(step / 4 for step in steps)]) else np.float64


def _converted(raw: RawScene, ids: ToIds, offset: NDArray[np.float64]) -> Iterator[Columns]:
    """The blocks of a raw scene with colours in bytes and labels as class ids; xyz stay float64, relative to the
    offset."""
    whole = len(raw.files) == 1 and len(raw) == raw.files[0].points
    coloured = not all(file.colours.black for file in raw.files)
    for columns in raw.buffer.blocks():
        file, row = columns.pop("source_file"), columns.pop("source_row")
        columns["xyz"] = columns["xyz"] - offset
        if "rgb" in columns:
            rgb = columns.pop("rgb")
            if coloured:
                columns["rgb"] = np.empty(rgb.shape, np.uint8)
                for number in np.unique(file):
                    here = file == number
                    columns["rgb"][here] = raw.files[number].colours.to_bytes(rgb[here])
        if "label" in columns:
            codes = columns.pop("label")
            if raw.labelled:
                columns["label"] = np.empty(len(codes), np.int32)
                for number in np.unique(file):
                    here = file == number
                    columns["label"][here] = ids(codes[here], raw.files[number].path)
        if not whole:
            columns["source_file"], columns["source_row"] = file, row
        yield columns


def _ungridded(raw: RawScene, ids: ToIds, offset: NDArray[np.float64]) -> Iterator[Columns]:
    names = {"xyz", "rgb", "label", *raw.attributes}
    for columns in _converted(raw, ids, offset):
        kept = {name: values for name, values in columns.items() if name in names}
        yield {**kept, "xyz": columns["xyz"].astype(np.float32)}


class _Arrays:
    """The arrays of a group, which are made with the first block and filled block by block."""

    def __init__(self, group: zarr.Group, rows: int) -> None:
        self._group, self._rows = group, rows
        self._arrays: dict[str, zarr.Array] = {}
        self._next = 0

    def append(self, columns: Columns, start: int | None = None) -> None:
        begin = self._next if start is None else start
        for name in sorted(columns):
            values = columns[name]
            if name not in self._arrays:
                shape = (self._rows, *values.shape[1:])
                self._arrays[name] = envelope.create_array(self._group, name, shape, values.dtype)
            self._arrays[name][begin : begin + len(values)] = values
        self._next = begin + len(values)


class _Grid:
    """The grid points of a scene: points are distributed to slabs of cells along x, and each slab is subsampled by
    itself. Since cells are ordered by x first, the cells of one slab after the other are the cells of the whole scene
    in their order.
    """

    def __init__(self, raw: RawScene, offset: NDArray[np.float64], edge: float, folder: Path, slab: int) -> None:
        self._edge, self._attributes = edge, raw.attributes
        self._cuts = _cuts(raw.buffer, offset[0], edge, slab)
        # All slabs are filled at the same time, and share the memory that one buffer may take.
        kept = MAX_BUFFER_BYTES // (len(self._cuts) + 1)
        self._slabs = [ColumnBuffer(folder / f"slab-{n}", kept) for n in range(len(self._cuts) + 1)]
        self._seen = 0
        self.cells = ColumnBuffer(folder / "cells")
        # Four bytes are enough for a row: 2^31 grid points would take 100 GB.
        self.inverse = np.empty(len(raw), np.int32)

    def add(self, columns: Columns) -> None:
        """Distributes the next block to the slabs; its xyz are relative to the offset."""
        count = len(columns["xyz"])
        names = ("xyz", "rgb", "label", *self._attributes)
        block: Columns = {name: columns[name] for name in names if name in columns}
        block["row"] = np.arange(self._seen, self._seen + count)
        self._seen += count
        if not len(self._cuts):
            self._slabs[0].append(block)
            return
        cell = voxel_coordinates(columns["xyz"][:, :1], self._edge)[:, 0]
        slab_of = np.searchsorted(self._cuts, cell, side="right")
        for number in np.unique(slab_of):
            here = slab_of == number
            self._slabs[number].append({name: values[here] for name, values in block.items()})

    def finish(self) -> int:
        """Subsamples all slabs, which fills `cells` (xyz in float32) and `inverse`; returns the number of grid
        points."""
        for slab in self._slabs:
            if not len(slab):
                continue
            columns: dict[str, Any] = slab.read(0, len(slab))
            slab.close()
            attributes = {name: columns[name] for name in self._attributes}
            made = subsample(columns["xyz"], columns.get("rgb"), columns.get("label"), attributes, self._edge)
            self.inverse[columns["row"]] = len(self.cells) + made.inverse
            cells = {"xyz": made.xyz.astype(np.float32), "rgb": made.rgb, "label": made.label, **made.attributes}
            self.cells.append({name: values for name, values in cells.items() if values is not None})
        return len(self.cells)


def _cuts(buffer: ColumnBuffer, origin: float, edge: float, slab: int) -> NDArray[np.int64]:
    """The cells along x at which slabs of about `slab` points begin, ascending, without the beginning of the first
    slab."""
    slabs = -(-len(buffer) // slab)
    if slabs < 2:
        return np.zeros(0, np.int64)
    # The sample is copied, because a view would keep its whole block in memory.
    sample = (
        np.sort(np.concatenate([columns["xyz"][::SAMPLE, 0].copy() for columns in buffer.blocks(["xyz"])])) - origin
    )
    places = np.arange(1, slabs) * len(sample) // slabs
    return np.unique(voxel_coordinates(sample[places][:, None], edge)[:, 0])
