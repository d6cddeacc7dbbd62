"""Counts by scene and by predicted class how many candidates were visited, suppressed and chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hpal_cli.selection.fds import GreedySelection
from hpal_cli.stream.rows import Rows


@dataclass(frozen=True)
class ClassReport:
    """How many candidates of one predicted class the selection visited, suppressed (by FDS) and chose."""

    name: str
    visited: int
    suppressed: int
    chosen: int


@dataclass(frozen=True)
class SceneReport:
    """How many candidates of one scene the selection visited, suppressed and chose. exhausted: whether all candidates
    were visited while the scene could still have had more picks."""

    name: str
    visited: int
    suppressed: int
    chosen: int
    exhausted: bool


@dataclass
class _Visited:
    """The candidates that the selection in one scene visited, in its order: score, chosen and predicted class (V,). It
    may have visited more than the selection over all scenes needs."""

    score: NDArray[np.floating]
    chosen: NDArray[np.bool_]
    guess: NDArray[np.integer] | None
    exhausted: bool

    def first(self, count: int) -> _Visited:
        # Copies, since a view would keep the whole array in memory.
        guess = None if self.guess is None else self.guess[:count].copy()
        whole = count == len(self.score)
        return _Visited(self.score[:count].copy(), self.chosen[:count].copy(), guess, self.exhausted and whole)


_PRUNE_FROM = 1 << 20
"""Visited candidates from which on those that can no longer be chosen are dropped."""


class SelectionCounter:
    """Counts what was visited in all scenes. With one budget for all scenes, candidates that score less than the last
    pick of all are not counted in the end.

    together: whether there is one budget for all scenes. Without one, each scene is counted as it comes.
    """

    def __init__(self, names: Mapping[int, str], classes: Sequence[str], *, together: bool) -> None:
        self._names, self._classes, self._together = names, classes, together
        self._scenes: dict[int, _Visited] = {}
        self._size = 0
        self._reports: dict[int, SceneReport] = {}
        self._by_class = np.zeros((3, len(classes)), np.int64)

    def add(
        self,
        scene: int,
        found: GreedySelection,
        score: NDArray[np.floating],
        guess: NDArray[np.integer] | None,
        *,
        all_candidates: bool,
    ) -> None:
        """Adds the selection in one scene. score, guess: (V,) score and predicted class of the visited candidates;
        all_candidates: whether the selection was given every candidate of the scene."""
        visited = _Visited(score, found.chosen, guess, found.exhausted and all_candidates)
        if self._together:
            self._scenes[scene] = visited
            self._size += len(score)
        else:
            self._count(scene, visited)

    def drop_below(self, least: float) -> None:
        """Drops the candidates with scores below `least`, which can no longer be chosen, if there are many."""
        if self._size < _PRUNE_FROM:
            return
        for scene, visited in self._scenes.items():
            self._scenes[scene] = visited.first(int((visited.score >= least).sum()))
        self._size = sum(len(v.score) for v in self._scenes.values())

    def reports(self, picks: Rows, *, full: bool) -> tuple[list[SceneReport], list[ClassReport]]:
        """The counts by scene and by class. picks: of all scenes, best first; full: whether they use the whole
        budget."""
        for scene, visited in self._scenes.items():
            self._count(scene, visited.first(_reached(visited, scene, picks) if full else len(visited.score)))
        classes = [
            ClassReport(name, *map(int, counts))
            for name, counts in zip(self._classes, self._by_class.T, strict=True)
            if counts[0]
        ]
        return [report for _, report in sorted(self._reports.items())], classes

    def _count(self, scene: int, reached: _Visited) -> None:
        dropped = ~reached.chosen
        counts = len(dropped), int(dropped.sum()), int(reached.chosen.sum())
        self._reports[scene] = SceneReport(self._names.get(scene, str(scene)), *counts, reached.exhausted)
        if reached.guess is not None:
            for row, these in enumerate((dropped | reached.chosen, dropped, reached.chosen)):
                known = reached.guess[these]
                self._by_class[row] += np.bincount(known[known >= 0], minlength=len(self._classes))


def _reached(visited: _Visited, scene: int, picks: Rows) -> int:
    """How many of a scene's visited candidates come before the last pick of all scenes, or are that pick."""
    last = picks[-1]
    if scene == last["scene"]:
        chosen = int((picks["scene"] == scene).sum())
        return int(np.flatnonzero(visited.chosen)[chosen - 1]) + 1
    before = visited.score > last["score"]
    if scene < last["scene"]:
        before |= visited.score == last["score"]
    return int(before.sum())
