"""Tells whether the superpoints of a scene are described by colour, by intensity or by shape alone. Only scenes that
are described in the same way can be compared."""

from __future__ import annotations

from collections.abc import Sequence

from hpal_cli.errors import HpalError
from hpal_cli.scene_table import SceneInfo
from hpal_cli.scenes.store import SceneStore


def appearance_of(store: SceneStore, scene: SceneInfo) -> str:
    """`colour`, `intensity` or `nothing`: what a scene has beside positions, in the order of preference."""
    if store.has_color(scene):
        return "colour"
    return "intensity" if store.has_column(scene, "intensity") else "nothing"


def require_appearance(store: SceneStore, scenes: Sequence[SceneInfo], wanted: str, why: str, remedy: str) -> None:
    """Checks that the appearance of all scenes is `wanted`. why, remedy: parts of the error message.

    Raises:
        HpalError: the appearance of a scene is another one.
    """
    for scene in scenes:
        found = appearance_of(store, scene)
        if found != wanted:
            raise HpalError(
                store.path,
                f"scene {scene.name} has {found} beside its positions, and {why}: its superpoints cannot be compared",
                remedy,
            )
