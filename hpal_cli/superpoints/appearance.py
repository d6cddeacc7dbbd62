"""Records which properties besides positions describe the superpoints of a scene. Only scenes with the same ones can be
compared."""

from __future__ import annotations

from collections.abc import Sequence

from hpal_cli.errors import HpalError
from hpal_cli.scene_table import SceneInfo
from hpal_cli.scenes.store import SceneStore


def appearance_of(store: SceneStore, scene: SceneInfo) -> str:
    """`colour`, `intensity` or `nothing` (as `superpoints.build.appearance` takes them)."""
    if store.has_color(scene):
        return "colour"
    return "intensity" if store.has_column(scene, "intensity") else "nothing"


def require_appearance(store: SceneStore, scenes: Sequence[SceneInfo], wanted: str, why: str, remedy: str) -> None:
    """Raises:
    HpalError: a scene has something else than is `wanted`; why: who wants it.
    """
    for scene in scenes:
        found = appearance_of(store, scene)
        if found != wanted:
            raise HpalError(
                store.path,
                f"scene {scene.name} has {found} beside its positions, and {why}: its superpoints cannot be compared",
                remedy,
            )
