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
    """Candidates that were predicted to be of one class: those that the selection came to, those that FDS dropped, and
    those that were chosen."""

    name: str
    visited: int
    suppressed: int
    chosen: int


@dataclass(frozen=True)
class SceneReport:
    """The same for one scene; exhausted: whether it had no candidate left while more would have been taken."""

    name: str
    visited: int
    suppressed: int
    chosen: int
    exhausted: bool


@dataclass
class _Visited:
    """One scene's candidates in the order of its selection, which may have gone further than the merged one."""

    score: NDArray[np.floating]
    chosen: NDArray[np.bool_]
    guess: NDArray[np.integer] | None
    exhausted: bool

    def first(self, count: int) -> _Visited:
        # Copied: a part of an array keeps all of it in memory.
        guess = None if self.guess is None else self.guess[:count].copy()
        whole = count == len(self.score)
        return _Visited(self.score[:count].copy(), self.chosen[:count].copy(), guess, self.exhausted and whole)


_MANY = 1 << 20


class SelectionCounter:
    """Collects the selections of the scenes; what they did beyond the last pick of all is left out in the end.

    together: whether there is one budget for all scenes; else each selection is counted as it comes, and nothing is
    kept.
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
        all_able: bool,
    ) -> None:
        """score, guess: (V,) of the visited candidates; all_able: whether the selection was given every candidate."""
        visited = _Visited(score, found.chosen, guess, found.exhausted and all_able)
        if self._together:
            self._scenes[scene] = visited
            self._size += len(score)
        else:
            self._count(scene, visited)

    def drop_below(self, least: float) -> None:
        """Forgets what scored less than a full selection asks for, once there is much of it."""
        if self._size < _MANY:
            return
        for scene, visited in self._scenes.items():
            self._scenes[scene] = visited.first(int((visited.score >= least).sum()))
        self._size = sum(len(v.score) for v in self._scenes.values())

    def reports(self, picks: Rows, *, full: bool) -> tuple[list[SceneReport], list[ClassReport]]:
        """picks: all of them, best first; full: whether the last of them ended the selection."""
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
    """How many of a scene's candidates come before the last pick in the order of score, scene, index."""
    last = picks[-1]
    if scene == last["scene"]:
        chosen = int((picks["scene"] == scene).sum())
        return int(np.flatnonzero(visited.chosen)[chosen - 1]) + 1
    before = visited.score > last["score"]
    if scene < last["scene"]:
        before |= visited.score == last["score"]
    return int(before.sum())
