"""Measures what answers cost: the clicks, and the area of the labelled surface (docs/method.md, "Oracles: noise and
cost")."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hpal_cli.labels.store import point_keys
from hpal_cli.wording import counted


@dataclass(frozen=True)
class Cost:
    """The cost of some answers. clicks: decisions of the annotator; points: labelled grid points; area: square metres
    of labelled surface, None if the points are on no grid."""

    clicks: int
    points: int
    area: float | None

    @classmethod
    def from_answers(cls, answers: NDArray[np.void], clicks: int, grid: float | None) -> Cost:
        """answers: (K,) records with `scene`, `index` and `label`, also unsure ones; grid: edge of a cell in metres."""
        points = len(np.unique(point_keys(answers[answers["label"] >= 0])))
        return cls(clicks, points, None if grid is None else points * grid**2)

    def to_json(self) -> dict[str, float | None]:
        return {"clicks": self.clicks, "points": self.points, "area": self.area}

    def __str__(self) -> str:
        area = "area unknown (no grid is known)" if self.area is None else f"{self.area:.4g} m2"
        return f"cost: {counted(self.clicks, 'click')}, {counted(self.points, 'point')} labelled, {area}"
