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
"""Standard deviation of the shift of a column, and the share of columns that are blank, in what the student sees."""

SuperpointReader = Callable[[SceneInfo], Superpoints]
"""Gives the superpoints of a scene."""


_REMEDY = "use scenes that have the same, or --inputs points"


@dataclass(frozen=True, eq=False)
class SuperpointColumns:
    """The columns of N points in S superpoints. of: (N,) superpoint of each point; value: (S, K)."""

    of: NDArray[np.int32]
    value: NDArray[np.float32]

    def __call__(self, rows: NDArray[np.int64] | slice) -> NDArray[np.float32]:
        """(number of rows, K)."""
        return self.value[self.of[rows]]

    @property
    def nbytes(self) -> int:
        return self.of.nbytes + self.value.nbytes


@dataclass(frozen=True, eq=False)
class SuperpointInputs:
    """How superpoints become columns of the network's input, as it was when the network was trained.

    likeness: from descriptions to columns; appearance: what the descriptions had beside positions: "colour",
    "intensity" or "nothing".
    """

    likeness: Likeness
    appearance: str

    @classmethod
    def of(cls, store: SceneStore, scenes: Sequence[SceneInfo], read: SuperpointReader) -> SuperpointInputs:
        """Learned from these scenes.

        Raises:
            HpalError: some have colour or intensity, and others do not.
        """
        appearance = appearance_of(store, scenes[0])
        require_appearance(store, scenes, appearance, f"scene {scenes[0].name} has {appearance}", _REMEDY)
        return cls(Likeness.of([read(scene).feature for scene in scenes]), appearance)

    @property
    def names(self) -> tuple[str, ...]:
        """One for each column."""
        return tuple(f"likeness_{n}" for n in range(1, self.likeness.axis.shape[1] + 1))

    def require(self, store: SceneStore, scenes: Sequence[SceneInfo]) -> None:
        """Raises:
        HpalError: a scene has other than what the model's scenes had beside positions.
        """
        require_appearance(store, scenes, self.appearance, f"the model's scenes had {self.appearance}", _REMEDY)

    def columns(self, store: SceneStore, scene: SceneInfo, superpoints: Superpoints) -> SuperpointColumns:
        """Those of a scene.

        Raises:
            HpalError: its superpoints are described otherwise: a room's are by its walls and ceiling, a street's not.
        """
        theirs, ours = superpoints.feature.shape[1], self.likeness.quantile.shape[1]
        if theirs != ours:
            raise HpalError(
                store.path,
                f"scene {scene.name} has superpoints of {theirs} numbers each, and the model knows those of {ours}: "
                "the scenes that it was trained on are of another scale",
                "train on scenes of this scale, or with --inputs points",
            )
        return SuperpointColumns(superpoints.of, self.likeness(superpoints.feature))


def augment(columns: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """(N, K) -> the same: each column shifted as a whole, some blank, so that no network relies on one of them."""
    count = columns.shape[1]
    shift = SHIFT * rng.standard_normal(count, np.float32)
    kept = rng.random(count) >= BLANK
    return (columns + shift) * kept
