"""Reads what an interrupted `prep` left: which scenes are done, with which settings, from which files."""

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
from hpal_cli.scene_table import SceneInfo

FILE = "prep.jsonl"
BUFFERS = "spools"


@dataclass(frozen=True)
class DoneScene:
    """A scene that was read: its row of the table (number and split are not settled yet), metres in one unit, and
    what a person was told of it."""

    info: SceneInfo
    unit: float
    notes: tuple[str, ...] = ()


class Unfinished:
    """The record of a store that is being written, a line a scene, in the store's own folder until it is whole."""

    def __init__(self, folder: Path, settings: dict[str, Any], *, resume: bool) -> None:
        """Goes on with what is there, or begins.

        Raises:
            HpalError: what is there was begun with other settings, or its record is damaged.
        """
        self._path = folder / FILE
        self._done: dict[str, tuple[str, DoneScene]] = {}
        shutil.rmtree(folder / BUFFERS, ignore_errors=True)
        for left in folder.rglob("*.partial"):
            # What Zarr was writing when the process was killed. A scene of such a name is a folder.
            if left.is_file():
                left.unlink()
        if resume and self._path.exists():
            try:
                self._read(settings)
            except (KeyError, TypeError, ValueError) as error:
                problem = f"the record of the unfinished store is damaged ({error!r})"
                raise HpalError("--resume", problem, "leave it out to begin anew") from error
        else:
            self._write({"settings": settings})

    def find(self, name: str, signature: str) -> DoneScene | None:
        """The scene, if it was done from files with this signature."""
        known, done = self._done.get(name, ("", None))
        return done if known == signature else None

    def add(self, name: str, signature: str, done: DoneScene) -> None:
        self._write({"scene": name, "signature": signature, **asdict(done)})

    def end(self) -> None:
        """Removes the record: what is left is the store."""
        self._path.unlink()

    def _read(self, settings: dict[str, Any]) -> None:
        data = self._path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        # A line that a power cut left half is a scene that is not done.
        rows = [json.loads(line) for line in whole.splitlines()]
        begun = rows[0]["settings"] if rows else {}
        wrong = sorted(key for key in {*begun, *settings} if begun.get(key) != settings.get(key))
        if wrong:
            raise HpalError(
                "--resume", f"the unfinished store was begun with another {wrong[0]}", "leave it out to begin anew"
            )
        for row in rows[1:]:
            done = DoneScene(SceneInfo(**row["info"]), row["unit"], tuple(row["notes"]))
            self._done[row["scene"]] = row["signature"], done
        # In one step: a kill must not take what is known of the others.
        os.truncate(self._path, len(whole))

    def _write(self, row: dict[str, Any]) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


def settings_of(folder: Path) -> dict[str, Any]:
    """What the unfinished store in a folder was begun with; {} where there is none, or its record cannot be read."""
    try:
        with (folder / FILE).open(encoding="utf-8") as file:
            settings = json.loads(file.readline())["settings"]
    except (OSError, KeyError, TypeError, ValueError):
        return {}
    return settings if isinstance(settings, dict) else {}


def has_finished_scenes(folder: Path) -> bool:
    """Whether a folder holds at least one scene to go on with."""
    try:
        return (folder / FILE).read_bytes().count(b"\n") > 1
    except OSError:
        return False


def signature(paths: Iterable[Path]) -> str:
    """Changes when one of the files (or a file in one of the folders) does: names, sizes, times of change."""
    digest = hashlib.sha256()
    for path in paths:
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            # A link to nowhere: who reads it will say so.
            if file.exists():
                about = file.stat()
                digest.update(f"{file}\0{about.st_size}\0{about.st_mtime_ns}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:16]
