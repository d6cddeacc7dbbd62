"""The stores that a file came from, as its history names them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hpal_cli.history import Entry
from hpal_cli.scene_table import SceneTable
from hpal_cli.store.envelope import attributes_of


def find_source_store(
    history: Sequence[Entry], kind: str, scenes: str | None, beside: Path | None = None
) -> Path | None:
    """The store of that kind, about the scenes of that id, that the newest command of a history was called with.

    It is looked for from here, then from the folder `beside`; None if none of them is there any more.
    """
    for entry in reversed(history):
        for arg in entry.args:
            word = arg.partition("=")[2] if arg.startswith("-") else arg
            for path in (Path(word), beside / word if beside is not None else Path(word)) if word else ():
                about = attributes_of(path)
                if about is not None and about.get("kind") == kind and scenes in (None, _id(about)):
                    return path
    return None


def _id(about: dict[str, object]) -> str | None:
    given = about.get("id")
    if isinstance(given, str):
        return given
    rows = about.get("scenes")
    return SceneTable.from_json(rows).id if isinstance(rows, list) else None
