"""Inputs of the network that describe the superpoint of a point (docs/method.md, "Further inputs")."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hpal_cli.errors import HpalError
from hpal_cli.scene_table import SceneInfo
from hpal_cli.scenes.store import SceneStore
from hpal_cli.superpoints.appearance import appearance_of, require_appearance
from hpal_cli.superpoints.build import Superpoints
from hpal_cli.superpoints.likeness import Likeness

SHIFT, BLANK = 0.15, 0.1
"""Augmentation of the student's inputs: standard deviation of the shift of a column, and share of columns that are set
to 0."""

SuperpointReader = Callable[[SceneInfo], Superpoints]
"""A function that returns the superpoints of a scene."""


_REMEDY = "use scenes that have the same, or --inputs points"


@dataclass(frozen=True, eq=False)
class SuperpointColumns:
    """The inputs of N points in S superpoints. superpoint: (N,) of each point; value: (S, K) of each superpoint."""

    superpoint: NDArray[np.int32]
    value: NDArray[np.float32]

    def __call__(self, rows: NDArray[np.int64] | slice) -> NDArray[np.float32]:
        """(R, K) the inputs of R rows."""
        return self.value[self.superpoint[rows]]

    @property
    def nbytes(self) -> int:
        return self.superpoint.nbytes + self.value.nbytes


@dataclass(frozen=True, eq=False)
class SuperpointInputs:
    """How superpoints become inputs of a network. It is fixed when the network is trained.

    likeness: from descriptions to inputs; appearance: "colour", "intensity" or "nothing" (`appearance_of`).
    """

    likeness: Likeness
    appearance: str

    @classmethod
    def from_store(cls, store: SceneStore, scenes: Sequence[SceneInfo], read: SuperpointReader) -> SuperpointInputs:
        """Computes the likeness from some scenes.

        Raises:
            HpalError: the scenes have different appearances.
        """
        appearance = appearance_of(store, scenes[0])
        require_appearance(store, scenes, appearance, f"scene {scenes[0].name} has {appearance}", _REMEDY)
        return cls(Likeness.fit([read(scene).feature for scene in scenes]), appearance)

    @property
    def names(self) -> tuple[str, ...]:
        """(K,) the names of the inputs."""
        return tuple(f"likeness_{n}" for n in range(1, self.likeness.axis.shape[1] + 1))

    def require(self, store: SceneStore, scenes: Sequence[SceneInfo]) -> None:
        """Raises:
        HpalError: a scene has another appearance than the scenes that the model learned from.
        """
        require_appearance(store, scenes, self.appearance, f"the model's scenes had {self.appearance}", _REMEDY)

    def columns(self, store: SceneStore, scene: SceneInfo, superpoints: Superpoints) -> SuperpointColumns:
        """The inputs of a scene.

        Raises:
            HpalError: its superpoints have another description, since only those of rooms describe walls and ceiling.
        """
        theirs, ours = superpoints.feature.shape[1], self.likeness.quantile.shape[1]
        if theirs != ours:
            raise HpalError(
                store.path,
                f"scene {scene.name} has superpoints of {theirs} numbers each, and the model needs {ours}: "
                "it was trained on scenes of another scale",
                "train on scenes of this scale, or with --inputs points",
            )
        return SuperpointColumns(superpoints.superpoint, self.likeness(superpoints.feature))


def augment(columns: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """(N, K) inputs -> (N, K) augmented: each column is shifted as a whole, and some are set to 0, so that the network
    does not rely on a single column."""
    count = columns.shape[1]
    shift = SHIFT * rng.standard_normal(count, np.float32)
    kept = rng.random(count) >= BLANK
    return (columns + shift) * kept
