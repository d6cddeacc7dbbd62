"""Reads and writes the root members by which every store describes its scenes: classes, table, unit and history."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from hpal_cli import history
from hpal_cli.classes import ClassTable
from hpal_cli.errors import HpalError
from hpal_cli.history import Entry
from hpal_cli.scene_table import SceneTable
from hpal_cli.scenes.scale import as_attribute

if TYPE_CHECKING:
    from hpal_cli.scenes.store import SceneStore


class Metadata(NamedTuple):
    """The class table, the scene table, metres in one unit of the coordinates, and the commands that led to the
    store."""

    classes: ClassTable
    table: SceneTable
    unit: float
    history: list[Entry]


def read_metadata(attributes: Mapping[str, Any], path: Path) -> Metadata:
    """Reads the metadata from a store's root members. path: of the store, for messages.

    Raises:
        HpalError: the attributes are not as docs/formats.md says.
    """
    try:
        return Metadata(
            ClassTable.from_json(attributes["classes"], path),
            SceneTable.from_json(attributes["scenes"]),
            length_of({"unit": 1.0, **attributes}, "unit", path) or 1.0,
            history.from_json(attributes.get("history", [])),
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise HpalError(
            path, f"its root members are damaged ({error!r})", "write the store again, or restore a copy"
        ) from error


def metadata_of(store: SceneStore) -> dict[str, Any]:
    """The root members by which a predictions store tells which scenes it belongs to."""
    return {
        "id": store.table.id,
        "classes": store.classes.to_json(),
        "unit": store.unit,
        "grid": store.grid,
        **as_attribute(store.scale),
    }


def length_of(attributes: Mapping[str, Any], name: str, path: Path) -> float | None:
    """The root member `name`, in metres; None if it is null or missing.

    Raises:
        HpalError: it is no length.
    """
    value = attributes.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise HpalError(path, f"its root member {name} is {value!r}, and no length", "write the store again")
    return float(value)
