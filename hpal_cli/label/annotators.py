"""Computes how many answers each person gave, how fast, and how far two people agree."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from hpal_cli.labels.store import Batch


class Annotator(NamedTuple):
    """What one person did. answers: number of answers that were not withdrawn; hours: time spent on them; seconds: the
    median time of an answer."""

    name: str
    answers: int
    hours: float
    seconds: float

    @property
    def per_hour(self) -> float:
        return self.answers / self.hours if self.hours else 0.0


class Agreement(NamedTuple):
    """How far two people agree on the queries that both answered. same: share of queries with the same answer, 0 to 1;
    kappa: Cohen's kappa (1960), None if both gave the same answer to every query."""

    first: str
    second: str
    queries: int
    same: float
    kappa: float | None


def annotators(batches: Sequence[Batch]) -> list[Annotator]:
    """The people whose time was measured, in the order of their first answers. An answer for a region counts once."""
    times: dict[str, list[float]] = {}
    for batch in _timed(batches):
        times.setdefault(batch.source, []).append(batch.seconds or 0.0)
    return [
        Annotator(name, len(seconds), sum(seconds) / 3600, float(np.median(seconds))) for name, seconds in times.items()
    ]


def agreements(batches: Sequence[Batch]) -> list[Agreement]:
    """The agreement of every two people who answered some of the same queries. Unsure counts as a class."""
    given: dict[str, dict[tuple[int, int], int]] = {}
    for batch in _timed(batches):
        scene, index, label = batch.rows[["scene", "index", "label"]][0].tolist()
        given.setdefault(batch.source, {})[scene, index] = label
    found = []
    for first, second in itertools.combinations(given, 2):
        both = [(given[first][point], given[second][point]) for point in given[first] if point in given[second]]
        if both:
            a, b = np.array(both).T
            found.append(Agreement(first, second, len(both), float((a == b).mean()), kappa(a, b)))
    return found


def kappa(a: np.ndarray, b: np.ndarray) -> float | None:
    """Cohen's kappa of the answers a and b (K,) of two people: (p - e) / (1 - e), where p is the share of equal answers
    and e the share to expect by chance from how often each person gave each answer. None if e is 1."""
    labels, codes = np.unique(np.concatenate([a, b]), return_inverse=True)
    left, right = (np.bincount(part, minlength=len(labels)) / len(a) for part in np.split(codes, 2))
    chance = float(left @ right)
    return None if chance >= 1 else (float((a == b).mean()) - chance) / (1 - chance)


def _timed(batches: Sequence[Batch]) -> list[Batch]:
    return [batch for batch in batches if batch.stands and batch.seconds is not None and len(batch.rows)]
