"""The labels store: an append-only table of answers (docs/formats.md section 4)."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpal_cli import history
from hpal_cli.classes import ClassTable
from hpal_cli.errors import HpalError
from hpal_cli.history import Entry
from hpal_cli.scene_table import SceneTable
from hpal_cli.scenes.metadata import read_metadata
from hpal_cli.store import envelope
from hpal_cli.store.files import sync, unfinished_folder
from hpal_cli.store.remote import RemotePath, in_flight

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
"""One answer. The label -1 is "unsure": the point is not asked about again, and no model learns from it."""

QUERY = np.dtype([("scene", "<i4"), ("index", "<i8")])
"""One point that a person was asked about."""


@dataclass(frozen=True)
class Batch:
    """What was added to the store at once: answers, points that were asked about, or rounds that are withdrawn.

    round: the number of the round; a batch that only records questions has that of the batch before it, or -1; source:
    who or what gave the answers; time: seconds since 1970; rows: (K,) records of `ANSWER`; asked: (Q,) records of
    `QUERY`; undoes: the rounds that it withdraws; stands: False if a later batch withdraws it; entry: the history entry
    of the command; seconds: how long a person looked before answering, None if that was not measured.
    """

    round: int
    source: str
    time: float
    rows: NDArray[np.void]
    asked: NDArray[np.void]
    undoes: tuple[int, ...]
    stands: bool
    entry: Entry
    seconds: float | None = None


def rows_of_scenes(number: NDArray[np.integer]) -> dict[int, NDArray[np.int64]]:
    """For each scene among the scene numbers of K rows, ascending, the places of its rows, also ascending. The numbers
    are sorted once, since to look for each scene among all rows would take scenes times rows comparisons."""
    order = np.argsort(number, kind="stable")
    numbers, first = np.unique(number[order], return_index=True)
    return dict(zip(numbers.tolist(), np.split(order, first[1:]), strict=False))


def by_scene(rows: NDArray[np.void]) -> dict[int, NDArray[np.void]]:
    """For each scene number that is among `rows` (K,) its rows, in their order."""
    return {number: rows[here] for number, here in rows_of_scenes(rows["scene"]).items()}


class LabelStore:
    """An opened labels store: all answers that were ever given, in the order in which they came.

    Answers are records of `ANSWER`: scene number, row, class id (-1 for "unsure"), round, and position. Nothing is ever
    removed: a later answer for a point takes the place of an earlier one, and `undo` is recorded like an answer.
    """

    def __init__(self, path: Path, last: str | None = None) -> None:
        """last: the name of the last batch that is read; None: all are, also those that are added later.

        Raises:
            HpalError: there is no complete labels store at `path`, or only a newer version can read it.
        """
        self.path = path
        self._root, attributes = envelope.open_store(path, "labels")
        self.classes, self.table, self.unit, self.history = read_metadata(attributes, path)
        # A batch never changes after it was written (docs/formats.md section 4.3), so each is read only once.
        self._read: dict[str, Batch | None] = {}
        self._last = last
        self._answered: dict[int, NDArray[np.int64]] | None = None

    def as_of_now(self) -> LabelStore:
        """The same store without any answer that is added later, to be read by several processes."""
        names = self._names()
        return LabelStore(self.path, names[-1] if names else "")

    def __reduce__(self) -> tuple[Any, ...]:
        assert self._last is not None, "as_of_now() can be sent to another process"
        return envelope.reopened, (LabelStore, self.path, self.table.id, self._last)

    @classmethod
    def create(cls, path: Path, classes: ClassTable, table: SceneTable, *, unit: float = 1.0) -> LabelStore:
        """Creates an empty store for these scenes.

        Raises:
            HpalError: `path` exists, or cannot be written.
        """
        attributes = {"id": table.id, "classes": classes.to_json(), "unit": unit, "scenes": table.to_json()}
        with envelope.create(path, "labels", attributes, overwrite=False) as (root, _):
            root.create_group("answers")
        sync(path)
        sync(path.parent, below=False)
        return cls(path)

    @classmethod
    def at(cls, path: Path, classes: ClassTable, table: SceneTable, *, unit: float, subject: object) -> LabelStore:
        """Opens the store at `path`, and creates it if it does not exist.

        Raises:
            HpalError: the store exists, but is for other scenes or classes than those of `subject`.
        """
        if not _exists(path):
            try:
                return cls.create(path, classes, table, unit=unit)
            except HpalError:
                # Another process created it meanwhile, and both can add answers to it.
                if not _exists(path):
                    raise
        store = cls(path)
        store.require_scenes(table.id, subject, "use the labels made from these scenes, or a new -o")
        if store.classes.names != classes.names:
            raise HpalError(path, f"has other classes than {subject}", "use a new -o for another class table")
        return store

    def require_scenes(
        self, scenes: str, other: object, remedy: str = "give the labels made from these scenes"
    ) -> None:
        """Checks that this store belongs to the scenes with the id `scenes`.

        Raises:
            HpalError: it belongs to other scenes than `other`, which names them in the message.
        """
        if self.table.id != scenes:
            raise HpalError(
                self.path,
                f"holds labels of other scenes than {other}",
                remedy,
            )

    def batches(self) -> list[Batch]:
        """All batches that were ever added, the oldest first."""
        return self._batches(self._names())

    def _batches(self, names: list[str]) -> list[Batch]:
        undone: set[int] = set()
        batches = []
        if isinstance(self.path, RemotePath):
            in_flight(self._batch, [name for name in names if name not in self._read])
        # From the newest to the oldest, since a batch that withdraws another may itself be withdrawn by a later one.
        for name in reversed(names):
            batch = self._batch(name)
            if batch is None:
                continue
            batch = replace(batch, stands=batch.round not in undone)
            if batch.stands:
                undone.update(batch.undoes)
            batches.append(batch)
        return batches[::-1]

    def check(self) -> None:
        """Reads every chunk of every array.

        Raises:
            HpalError: a chunk is damaged or missing, or an answer is for a scene, row or class that does not exist.
        """
        void = [f"answers/{name}" for name in self._names() if self._batch(name) is None]
        envelope.check_store(self._root, self.path, without=void)
        for batch in self.batches():
            self._check(batch.rows)

    def latest(self) -> NDArray[np.void]:
        """The answers that count, one for each answered point, sorted by scene and row: the last one that was given and
        not undone."""
        return latest_of(self.batches())

    def asked(self) -> NDArray[np.void]:
        """The points that somebody was asked about, whether answered since or not, each once, as records of `QUERY`."""
        return np.unique(np.concatenate([np.zeros(0, QUERY), *(batch.asked for batch in self.batches())]))

    def unanswered(self) -> NDArray[np.void]:
        """The points that somebody was asked about and that have no answer yet."""
        asked = self.asked()
        return asked[~np.isin(point_keys(asked), point_keys(self.latest()))]

    def answered(self, scenes: str, other: object) -> dict[int, NDArray[np.int64]]:
        """For each scene number the rows of the points that have an answer, "unsure" included.

        Raises:
            HpalError: this store is for other scenes than `other`, whose scenes have the id `scenes`.
        """
        self.require_scenes(scenes, other)
        if self._answered is not None:
            return self._answered
        answered = {number: rows["index"] for number, rows in by_scene(self.latest()).items()}
        if self._last is not None:
            # No answers are added to what is read here, and the tasks of all scenes ask for them.
            self._answered = answered
        return answered

    def append(self, rows: NDArray[np.void], source: str, entry: Entry, *, seconds: float | None = None) -> Batch:
        """Adds answers as the next round; the field `round` of `rows` is ignored. If two programs add at the same time,
        both succeed.

        seconds: how long a person looked before giving the answers.

        Raises:
            HpalError: a scene, row or class id does not exist. No answer is added then.
        """
        self._check(rows)
        batch = self._commit(rows.astype(ANSWER), source, entry, seconds=seconds)
        assert batch is not None
        return batch

    def append_new(self, rows: NDArray[np.void], source: str, entry: Entry) -> Batch | None:
        """Adds as `append` does, but only the answers that the store does not have yet, not even from another program
        that adds at the same time. Returns None if there are none.

        Raises:
            HpalError: as `append`.
        """
        self._check(rows)
        return self._commit(rows.astype(ANSWER), source, entry, only_new=True)

    def ask(self, points: NDArray[np.void], source: str, entry: Entry) -> Batch:
        """Records that these points, given with `scene` and `index`, were asked about. This does not count as a round.

        Raises:
            HpalError: a scene or row does not exist. Nothing is added then.
        """
        self._check_points(points)
        asked = np.zeros(len(points), QUERY)
        asked["scene"], asked["index"] = points["scene"], points["index"]
        batch = self._commit(np.zeros(0, ANSWER), source, entry, asked=asked)
        assert batch is not None
        return batch

    def undo(self, number: int, source: str, entry: Entry) -> Batch:
        """Adds a round that withdraws the answers of round `number`; earlier answers for the same points then count
        again. Such a round can be undone too, which restores the answers.

        Raises:
            HpalError: there is no such round, or it is undone already.
        """
        undoing = self._commit(np.zeros(0, ANSWER), source, entry, undoes=number)
        assert undoing is not None
        return undoing

    def _require_standing(self, number: int, batches: list[Batch]) -> None:
        standing: dict[int, bool] = {}
        for batch in batches:
            if len(batch.rows) or batch.undoes:
                standing[batch.round] = standing.get(batch.round, False) or batch.stands
        if number not in standing:
            have = ", ".join(map(str, standing)) or "none yet"
            raise HpalError(self.path, f"has no round {number}", f"choose one of its rounds: {have}")
        if not standing[number]:
            raise HpalError(self.path, f"round {number} is undone already", "look at `hpal label --log`")

    def _commit(
        self,
        given: NDArray[np.void],
        source: str,
        entry: Entry,
        *,
        asked: NDArray[np.void] | None = None,
        undoes: int | None = None,
        only_new: bool = False,
        seconds: float | None = None,
    ) -> Batch | None:
        stamp = float(os.environ.get("SOURCE_DATE_EPOCH", time.time()))
        folder = self.path / "answers"
        while True:
            names = self._names()
            # Another process may have added batches. What is new, and which rounds stand, depends on them, and the name
            # below is only free if `names` has all batches.
            if undoes is not None:
                self._require_standing(undoes, self._batches(names))
            rows = _new(given, latest_of(self._batches(names))) if only_new else given
            if only_new and not len(rows):
                return None
            # The number of the round follows that of the last one, and not the number of batches.
            number = max((self._round(name) for name in names), default=-1) + (asked is None)
            rows["round"] = number
            name = f"{1 + int(names[-1]) if names else 0:06d}"
            try:
                # Written beside the store and not in it, so that a list of the batches has only complete ones.
                with _beside(self.path) as partial:
                    columns = {column: rows[column] for column in ("scene", "index", "label")}
                    columns["xyz"] = np.column_stack([rows["x"], rows["y"], rows["z"]])
                    if asked is not None:
                        columns |= {"open_scene": asked["scene"], "open_index": asked["index"]}
                    attributes = {"round": number, "source": source, "time": stamp}
                    attributes["history"] = history.to_json([entry])
                    if undoes is not None:
                        attributes["undoes"] = [undoes]
                    if seconds is not None:
                        attributes["seconds"] = seconds
                    envelope.write_group(partial, attributes, columns)
                    renamed = _rename(partial, folder / name)
            except OSError as error:
                raise HpalError(
                    self.path, f"cannot be written ({error.strerror})", "check the disk and try again"
                ) from error
            if not renamed:
                continue
            try:
                sync(folder, below=False)
            except OSError as error:
                problem = f"has the answers, but the disk does not say that they will stay ({error.strerror})"
                raise HpalError(self.path, problem, "check the disk, and `hpal label --log`") from error
            # Kept as it was written, so that it need not be read again before the next question.
            batch = Batch(
                number,
                source,
                stamp,
                rows.copy(),
                np.zeros(0, QUERY) if asked is None else asked,
                () if undoes is None else (undoes,),
                True,
                entry,
                seconds,
            )
            self._read[name] = batch
            return batch

    def _check(self, rows: NDArray[np.void]) -> None:
        self._check_points(rows)
        bad_label = (rows["label"] < -1) | (rows["label"] >= len(self.classes))
        if bad_label.any():
            raise HpalError(
                self.path,
                f"class number {rows['label'][bad_label][0]} is not in the table of {len(self.classes)} classes",
                "give classes of the table, or -1 for unsure",
            )

    def _check_points(self, rows: NDArray[np.void]) -> None:
        points = np.array([scene.points for scene in self.table], np.int64)
        bad_scene = (rows["scene"] < 0) | (rows["scene"] >= len(points))
        if bad_scene.any():
            raise HpalError(self.path, f"has no scene {rows['scene'][bad_scene][0]}", "give points of these scenes")
        bad_row = (rows["index"] < 0) | (rows["index"] >= points[rows["scene"]])
        if bad_row.any():
            row = rows[bad_row][0]
            name = self.table[int(row["scene"])].name
            raise HpalError(self.path, f"scene {name} has no point {row['index']}", "give points of these scenes")

    def _names(self) -> list[str]:
        folder = self.path / "answers"
        names = sorted(p.name for p in folder.iterdir() if p.name.isdecimal()) if folder.is_dir() else []
        if self._last is not None:
            return [name for name in names if name <= self._last]
        if isinstance(folder, RemotePath) and names and names[-1] not in self._read:
            # Another process may still be writing the last batch, which then does not count yet.
            names = names if (folder / names[-1] / "zarr.json").exists() else names[:-1]
        return names

    def _round(self, name: str) -> int:
        if name not in self._read:
            attributes = envelope.read_attributes(self._root, f"answers/{name}", self.path)
            with self._attributes_of(name):
                return -1 if attributes.get("void") is True else int(attributes["round"])
        batch = self._read[name]
        return -1 if batch is None else batch.round

    @contextlib.contextmanager
    def _attributes_of(self, name: str) -> Iterator[None]:
        try:
            yield
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            problem = f"the attributes of its answers/{name} are damaged ({error!r})"
            raise HpalError(self.path, problem, "restore a copy of it") from error

    def _batch(self, name: str) -> Batch | None:
        """The batch of this name; None if its writer died before it was complete (only on object storage)."""
        if name not in self._read:
            self._read[name] = self._read_batch(name)
        return self._read[name]

    def _read_batch(self, name: str) -> Batch | None:
        attributes = envelope.read_attributes(self._root, f"answers/{name}", self.path)
        if attributes.get("void") is True:
            return None

        def columns(*arrays: str) -> list[NDArray[Any]]:
            return envelope.read_arrays(self._root, [f"answers/{name}/{array}" for array in arrays], self.path)

        scene, index, label, xyz = columns("scene", "index", "label", "xyz")
        self._require_rows(name, len(scene), index, label, xyz)
        rows = np.zeros(len(scene), ANSWER)
        rows["scene"], rows["index"], rows["label"] = scene, index, label
        rows["x"], rows["y"], rows["z"] = xyz.T
        asked = np.zeros(0, QUERY)
        if envelope.has(self._root, f"answers/{name}/open_scene", self.path):
            scene, index = columns("open_scene", "open_index")
            self._require_rows(name, len(scene), index)
            asked = np.zeros(len(scene), QUERY)
            asked["scene"], asked["index"] = scene, index
        with self._attributes_of(name):
            number, stamp = int(attributes["round"]), float(attributes["time"])
            (entry,) = history.from_json(attributes["history"])
            undoes = tuple(int(one) for one in attributes.get("undoes", ()))
            source = str(attributes["source"])
            seconds = float(attributes["seconds"]) if "seconds" in attributes else None
        rows["round"] = number
        return Batch(number, source, stamp, rows, asked, undoes, True, entry, seconds)

    def _require_rows(self, name: str, count: int, *columns: NDArray[Any]) -> None:
        if any(column.shape not in ((count,), (count, 3)) for column in columns):
            raise HpalError(self.path, f"the columns of its answers/{name} differ in length", "restore a copy of it")


def _exists(path: Path) -> bool:
    """Whether there is a store at `path`. On object storage this waits for one that another process is creating."""
    if not isinstance(path, RemotePath):
        return path.exists()
    until = time.monotonic() + _CREATE_TIMEOUT
    while True:
        about = envelope.attributes_of(path)
        if about is None:
            if not path.exists():
                return False
            # Another process may have created the store between the two checks. If not, what is there is no store, and
            # opening it will say so.
            about = envelope.attributes_of(path)
            if about is None:
                return True
        if about.get("complete") is True:
            return True
        if time.monotonic() > until:
            # Its writer may be dead, which is found out when the store is created again.
            return False
        time.sleep(0.2)


_CREATE_TIMEOUT = 5.0
"""Seconds that an empty labels store on object storage may take to be created."""


def _beside(path: Path) -> contextlib.AbstractContextManager[Path]:
    """Yields a temporary folder to which a batch for the store at `path` is written. It is removed at the end."""
    return _scratch() if isinstance(path, RemotePath) else unfinished_folder(path)


@contextlib.contextmanager
def _scratch() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="hpal-") as folder:
        yield Path(folder) / "batch"


def _rename(partial: Path, name: Path) -> bool:
    """Renames a batch from its temporary name. Returns False if another process has used the name already.

    Raises:
        OSError: the batch cannot be renamed.
    """
    if isinstance(name, RemotePath):
        from hpal_cli.store.objects import add_batch

        return add_batch(partial, name)
    # A person who was told that the answer is stored may not remember it, so it must survive a power cut.
    sync(partial)
    try:
        os.rename(partial, name)
    except OSError:
        if name.exists():
            return False
        raise
    return True


def latest_of(batches: list[Batch]) -> NDArray[np.void]:
    """The answers that count among those of some batches (the oldest first), as `LabelStore.latest` returns them."""
    every = np.concatenate([np.zeros(0, ANSWER), *(batch.rows for batch in batches if batch.stands)])
    every = every[np.lexsort((np.arange(len(every)), every["index"], every["scene"]))]
    return every[~same_as_next(every)]


def _new(rows: NDArray[np.void], known: NDArray[np.void]) -> NDArray[np.void]:
    """Those of the answers `rows` (K,) that the answers `known`, of `latest_of`, do not have yet."""
    if not len(known):
        return rows
    have, asked = point_keys(known), point_keys(rows)
    at = np.minimum(np.searchsorted(have, asked), len(known) - 1)
    return rows[(have[at] != asked) | (known["label"][at] != rows["label"])]


def answers_digest(latest: NDArray[np.void]) -> str:
    """A digest of answers: 16 hex digits of the SHA-256 of their scenes, indices and labels, in order."""
    digest = hashlib.sha256()
    for name, kind in (("scene", "<i8"), ("index", "<i8"), ("label", "<i8")):
        digest.update(latest[name].astype(kind).tobytes())
    return digest.hexdigest()[:16]


def point_keys(points: NDArray[np.void]) -> NDArray[np.int64]:
    """(N,) a number for each pair of scene and index, for scenes of less than 2^40 points."""
    return points["scene"].astype(np.int64) << 40 | points["index"].astype(np.int64)


def same_as_next(rows: NDArray[np.void]) -> NDArray[np.bool_]:
    """(N,) whether the next row is for the same point. The rows must be sorted by scene and index."""
    same = np.zeros(len(rows), bool)
    same[:-1] = (rows["scene"][1:] == rows["scene"][:-1]) & (rows["index"][1:] == rows["index"][:-1])
    return same
