"""The labels store: an append-only table of answers (docs/formats.md section 4)."""

from __future__ import annotations

import os
import shutil
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from hpal_cli import history
from hpal_cli.errors import HpalError
from hpal_cli.history import Entry
from hpal_cli.scenes.about import about
from hpal_cli.scenes.classes import ClassTable
from hpal_cli.scenes.table import SceneTable
from hpal_cli.store import envelope

ANSWER = np.dtype(
    [
        ("scene", "<i4"),
        ("index", "<i8"),
        ("x", "<f8"),
        ("y", "<f8"),
        ("z", "<f8"),
        ("label", "<i4"),
        ("round", "<i4"),
    ]
)
"""One answer; label -1 is "unsure": never asked again, never trained on."""


@dataclass(frozen=True)
class Batch:
    """Answers that came in one go: their round, who or what gave them, when (seconds since 1970), by which command."""

    round: int
    source: str
    time: float
    rows: NDArray[np.void]
    entry: Entry


class LabelStore:
    """An opened labels store."""

    def __init__(self, path: Path) -> None:
        """Raises:
        HpalError: not a complete labels store that this version reads.
        """
        self.path = path
        self._root, attributes = envelope.open_store(path, "labels")
        self.classes, self.table, self.unit, self.history = about(attributes, path)

    @classmethod
    def create(cls, path: Path, classes: ClassTable, table: SceneTable, *, unit: float = 1.0) -> LabelStore:
        """A new, empty store for these scenes."""
        attributes = {"id": table.id, "classes": classes.to_json(), "unit": unit, "scenes": table.to_json()}
        with envelope.create(path, "labels", attributes, overwrite=False) as (root, _):
            root.create_group("answers")
        return cls(path)

    @classmethod
    def at(cls, path: Path, classes: ClassTable, table: SceneTable, *, unit: float, subject: object) -> LabelStore:
        """The store at `path`, made if it is not there.

        Raises:
            HpalError: it is there, for other scenes or classes than those of `subject`.
        """
        if not path.exists():
            try:
                return cls.create(path, classes, table, unit=unit)
            except HpalError:
                # Somebody else made it meanwhile: both answers go there.
                if not path.exists():
                    raise
        store = cls(path)
        store.require_scenes(table.id, subject)
        if store.classes.names != classes.names:
            raise HpalError(path, f"has other classes than {subject}", "use a new -o for another class table")
        return store

    def require_scenes(self, scenes: str, other: object) -> None:
        """Raises:
        HpalError: `scenes`, the id of the scenes that `other` is about, is not this store's.
        """
        if self.table.id != scenes:
            raise HpalError(
                self.path,
                f"holds labels of other scenes than {other}",
                "use the labels made from these scenes, or a new -o",
            )

    def batches(self) -> list[Batch]:
        """All answers ever given, oldest first."""
        return [self._batch(name) for name in self._names()]

    def check(self) -> None:
        """Raises:
        HpalError: an answer for a scene, row or class that does not exist.
        """
        for batch in self.batches():
            self._check(batch.rows)

    def latest(self) -> NDArray[np.void]:
        """The answers that count: for each (scene, index) the last one given, sorted by scene and index."""
        rows = [batch.rows for batch in self.batches()]
        every = np.concatenate(rows) if rows else np.zeros(0, ANSWER)
        order = np.lexsort((np.arange(len(every)), every["index"], every["scene"]))
        every = every[order]
        last = np.ones(len(every), bool)
        last[:-1] = (every["scene"][1:] != every["scene"][:-1]) | (every["index"][1:] != every["index"][:-1])
        return every[last]

    def answered(self, scenes: str, other: object) -> dict[int, NDArray[np.int64]]:
        """Scene number -> rows that have an answer, unsure ones too.

        Raises:
            HpalError: `other`, whose scenes have the id `scenes`, is about other scenes.
        """
        self.require_scenes(scenes, other)
        latest = self.latest()
        return {int(n): latest["index"][latest["scene"] == n] for n in np.unique(latest["scene"])}

    def without_repeats(self, rows: NDArray[np.void]) -> NDArray[np.void]:
        """The answers that are new, or other than the one that counts."""
        known = self.latest()
        if not len(known):
            return rows
        have, asked = (r["scene"].astype(np.int64) << 40 | r["index"] for r in (known, rows))
        # `latest` is sorted by both.
        at = np.minimum(np.searchsorted(have, asked), len(known) - 1)
        return rows[(have[at] != asked) | (known["label"][at] != rows["label"])]

    def append(self, rows: NDArray[np.void], source: str, entry: Entry) -> Batch:
        """Adds answers as the next round; the rows' own `round` is overwritten. Two who add at once lose nothing.

        Raises:
            HpalError: a scene, row or class that does not exist; nothing is added then.
        """
        self._check(rows)
        stamp = float(os.environ.get("SOURCE_DATE_EPOCH", time.time()))
        folder = self.path / "answers"
        while True:
            names = self._names()
            # A round is a pass of the loop: it goes on from the last, whatever the number of batches.
            number = 1 + max((self._round(name) for name in names), default=-1)
            rows = rows.astype(ANSWER)
            rows["round"] = number
            name = f"{1 + int(names[-1]) if names else 0:06d}"
            # Beside the store, not in it: whoever lists the batches sees only whole ones.
            partial = self.path.with_name(f".{self.path.name}.{uuid.uuid4().hex[:8]}.partial")
            try:
                group = zarr.open_group(str(partial), mode="w-", zarr_format=3)
                for column in ("scene", "index", "label"):
                    envelope.write_array(group, column, rows[column])
                envelope.write_array(group, "xyz", np.column_stack([rows["x"], rows["y"], rows["z"]]))
                group.attrs.update(
                    {"round": number, "source": source, "time": stamp, "history": history.to_json([entry])}
                )
                # The name is taken by the rename or not at all: whoever comes second tries the next number.
                os.rename(partial, folder / name)
                return self._batch(name)
            except OSError as error:
                if not (folder / name).exists():
                    raise HpalError(
                        self.path, f"cannot be written ({error.strerror})", "check the disk and try again"
                    ) from error
            finally:
                shutil.rmtree(partial, ignore_errors=True)

    def _check(self, rows: NDArray[np.void]) -> None:
        points = np.array([scene.points for scene in self.table], np.int64)
        bad_scene = (rows["scene"] < 0) | (rows["scene"] >= len(points))
        if bad_scene.any():
            raise HpalError(self.path, f"has no scene {rows['scene'][bad_scene][0]}", "give points of these scenes")
        bad_row = (rows["index"] < 0) | (rows["index"] >= points[rows["scene"]])
        if bad_row.any():
            row = rows[bad_row][0]
            name = self.table[int(row["scene"])].name
            raise HpalError(self.path, f"scene {name} has no point {row['index']}", "give points of these scenes")
        bad_label = (rows["label"] < -1) | (rows["label"] >= len(self.classes))
        if bad_label.any():
            raise HpalError(
                self.path,
                f"class number {rows['label'][bad_label][0]} is not in the table of {len(self.classes)} classes",
                "give classes of the table, or -1 for unsure",
            )

    def _names(self) -> list[str]:
        folder = self.path / "answers"
        return sorted(p.name for p in folder.iterdir() if p.name.isdecimal()) if folder.is_dir() else []

    def _round(self, name: str) -> int:
        return int(str(self._root[f"answers/{name}"].attrs["round"]))

    def _batch(self, name: str) -> Batch:
        group = self._root[f"answers/{name}"]
        columns = {
            c: envelope.read_array(self._root, f"answers/{name}/{c}", self.path)
            for c in ("scene", "index", "label", "xyz")
        }
        rows = np.zeros(len(columns["scene"]), ANSWER)
        for column in ("scene", "index", "label"):
            rows[column] = columns[column]
        rows["x"], rows["y"], rows["z"] = columns["xyz"].T
        attributes: dict[str, Any] = dict(group.attrs)
        rows["round"] = attributes["round"]
        (entry,) = history.from_json(attributes["history"])
        return Batch(int(attributes["round"]), str(attributes["source"]), float(attributes["time"]), rows, entry)
