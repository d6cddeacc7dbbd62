"""Finds the stores from which a file was made, by the commands in its history."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

from hpal_cli.errors import HpalError
from hpal_cli.history import Entry
from hpal_cli.scene_table import SceneTable
from hpal_cli.store.envelope import attributes_of
from hpal_cli.store.remote import RemotePath, located


def find_source_store(
    history: Sequence[Entry], kind: str, scenes: str | None, beside: Path | None = None
) -> Path | None:
    """The path of the store of this kind that the newest command of a history was called with; None if no such store
    exists any more.

    scenes: id of the scene table that the store must have, None for any; beside: folder against which relative paths
    are resolved if they do not exist from the working directory.
    """
    for entry in reversed(history):
        for arg in entry.args:
            word = arg.partition("=")[2] if arg.startswith("-") else arg
            for path in _places(word, beside) if word else ():
                # If a bucket does not exist any more, or this user may not read it, its store counts as missing.
                with contextlib.suppress(HpalError):
                    about = attributes_of(path)
                    if about is not None and about.get("kind") == kind and scenes in (None, _id(about)):
                        return path
    return None


def _places(word: str, beside: Path | None) -> tuple[Path, ...]:
    found = located(word)
    return (found,) if beside is None or isinstance(found, RemotePath) else (found, beside / word)


def _id(about: dict[str, object]) -> str | None:
    given = about.get("id")
    if isinstance(given, str):
        return given
    rows = about.get("scenes")
    return SceneTable.from_json(rows).id if isinstance(rows, list) else None
