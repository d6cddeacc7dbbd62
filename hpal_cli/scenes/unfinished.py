"""Records which scenes a running `prep` has written, with which settings and from which files, so that an interrupted
one can be resumed."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hpal_cli.errors import HpalError
from hpal_cli.scene_table import SceneInfo, SceneTable
from hpal_cli.store.remote import RemoteFile
from hpal_cli.store.tasks import BUFFERS

FILE = "prep.jsonl"


@dataclass(frozen=True)
class DoneScene:
    """A scene that was written: its row of the scene table (whose number and split are set later), metres in one unit,
    and the notes for the user."""

    info: SceneInfo
    unit: float
    notes: tuple[str, ...] = ()


class Unfinished:
    """The record of a store that is being written: a file in the store's folder with one line for each scene, which is
    removed when the store is complete."""

    def __init__(self, folder: Path, settings: dict[str, Any], *, resume: bool) -> None:
        """Reads the record in `folder` if `resume` is set and there is one; else begins a new one.

        Raises:
            HpalError: the record belongs to other settings, or is damaged.
        """
        self._path = folder / FILE
        self._done: dict[str, tuple[str, DoneScene]] = {}
        shutil.rmtree(folder / BUFFERS, ignore_errors=True)
        for left in folder.rglob("*.partial"):
            # A file that Zarr was writing when the process was killed. A scene may have such a name too, as a folder.
            if left.is_file():
                left.unlink()
        if resume and self._path.exists():
            try:
                self._read(settings)
            except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
                problem = f"the record of the unfinished store is damaged ({error!r})"
                raise HpalError("--resume", problem, "leave it out to begin anew") from error
        else:
            self._write({"settings": settings})

    def find(self, name: str, signature: str) -> DoneScene | None:
        """The scene of this name, if it was written from files with this signature."""
        known, done = self._done.get(name, ("", None))
        return done if known == signature else None

    def add(self, name: str, signature: str, done: DoneScene) -> None:
        """Records that a scene was written."""
        self._write({"scene": name, "signature": signature, **asdict(done)})

    def end(self) -> None:
        """Removes the record, when the store is complete."""
        self._path.unlink()

    def _read(self, settings: dict[str, Any]) -> None:
        data = self._path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        # If a power cut left half of a line, its scene counts as not written.
        rows = [json.loads(line) for line in whole.splitlines()]
        recorded = rows[0]["settings"] if rows else {}
        wrong = sorted(key for key in {*recorded, *settings} if recorded.get(key) != settings.get(key))
        if wrong:
            raise HpalError(
                "--resume", f"the unfinished store was begun with another {wrong[0]}", "leave it out to begin anew"
            )
        for row in rows[1:]:
            (info,) = SceneTable.from_json([{**row["info"], "number": 0}])
            if info.name != row["scene"]:
                raise ValueError(f"scene {row['scene']} is said to be {info.name}")
            done = DoneScene(info, float(row["unit"]), tuple(map(str, row["notes"])))
            self._done[info.name] = str(row["signature"]), done
        # The half line is cut off in one step, so that a process that is killed here does not lose the other lines.
        os.truncate(self._path, len(whole))

    def _write(self, row: dict[str, Any]) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


def settings_of(folder: Path) -> dict[str, Any]:
    """The settings of the unfinished store in a folder; {} if there is none, or its record cannot be read."""
    try:
        with (folder / FILE).open(encoding="utf-8") as file:
            settings = json.loads(file.readline())["settings"]
    except (OSError, KeyError, TypeError, ValueError):
        return {}
    return settings if isinstance(settings, dict) else {}


def has_finished_scenes(folder: Path) -> bool:
    """Whether a folder holds an unfinished store with at least one scene that is written."""
    try:
        return (folder / FILE).read_bytes().count(b"\n") > 1
    except OSError:
        return False


def signature(paths: Iterable[Path | RemoteFile]) -> str:
    """A digest of the names, sizes and times of change of the files (for a folder, of all files in it; for an object,
    its version): it changes when one of them does."""
    digest = hashlib.sha256()
    for path in paths:
        if isinstance(path, RemoteFile):
            digest.update(f"{path.path}\0{path.size}\0{path.version}\n".encode("utf-8", "surrogateescape"))
            continue
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            # A broken link is skipped here; its reader reports it.
            if file.exists():
                about = file.stat()
                digest.update(f"{file}\0{about.st_size}\0{about.st_mtime_ns}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:16]
