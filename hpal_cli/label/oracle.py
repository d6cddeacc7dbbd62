"""An oracle, which answers in a person's place with the true labels of a scenes store."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hpal_cli.budget import parse_share
from hpal_cli.errors import HpalError, UsageError
from hpal_cli.label.queries import asked_scene
from hpal_cli.label.rounding import looks_rounded
from hpal_cli.labels.store import ANSWER, rows_of_scenes
from hpal_cli.scenes.store import SceneStore
from hpal_cli.stream.rows import Rows

POSITION_TOLERANCE = 0.02
"""Metres by which the position of an asked point may differ from that of its index: half a step of the usual grid."""

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def answer(store: SceneStore, asked: Rows, subject: object) -> Rows:
    """(K,) records of `ANSWER` with the true labels of K points; -1 ("unsure") for points without a true label.

    asked: (K,) records with `scene` and `index`. If they have x, y and z too, an index that a viewer rounded is
    detected. subject: the name of the selection for messages.

    Raises:
        HpalError: a scene has no labels, the store has no such scene or row, or an index was rounded.
    """
    answers = np.zeros(len(asked), ANSWER)
    answers["scene"], answers["index"] = asked["scene"], asked["index"]
    for number, here in rows_of_scenes(asked["scene"]).items():
        index = asked["index"][here]
        scene = asked_scene(store, number, index, subject)
        truth = store.labels(scene)
        if truth is None:
            raise HpalError(store.path, f"scene {scene.name} has no labels to answer from", "use `hpal label --table`")
        answers["label"][here] = truth[index]
        position = store.points(scene).position[index]
        if {"x", "y", "z"} <= set(asked.dtype.names or ()):
            given = np.column_stack([asked[axis][here] for axis in "xyz"]).astype(np.float64)
            wrong = looks_rounded(index, given, position, POSITION_TOLERANCE / store.unit)
            if wrong.any():
                problem = (
                    f"the index {index[int(wrong.argmax())]} in {scene.name} was rounded: another point lies there"
                )
                raise HpalError(subject, problem, "save the points as binary PLY")
        answers["x"][here], answers["y"][here], answers["z"][here] = position.T
    return answers


def parse_noise(text: str) -> float:
    """A share of the answers, `5%` or `0.05`, as a number from 0 to 1.

    Raises:
        UsageError: the text is no share.
    """
    return parse_share(text, "--noise", "answers", "5% or 0.05")


def with_noise(
    label: NDArray[np.int32],
    scene: NDArray[np.integer],
    index: NDArray[np.integer],
    *,
    share: float,
    classes: int,
    seed: int,
) -> NDArray[np.int32]:
    """(K,) the class ids `label` (K,), of which about a `share` is replaced by another class, all others being equally
    likely; -1 stays.

    scene, index: (K,) the points. The noise of a point depends only on the point and the seed, so it does not matter
    which other points are asked about.

    Raises:
        UsageError: there is only one class.
    """
    if share and classes < 2:
        raise UsageError("--noise", "needs another class to answer with, and there is one", "leave it out")
    draw = _mixed(
        _mixed(_mixed(np.full(len(label), seed, np.uint64)) ^ scene.astype(np.uint64)) ^ index.astype(np.uint64)
    )
    flipped = (draw >> np.uint64(11)) * 2.0**-53 < share
    flipped &= label >= 0
    other = (_mixed(draw) % np.uint64(max(classes - 1, 1))).astype(np.int32)
    return np.where(flipped, other + (other >= label), label).astype(np.int32)


def _mixed(state: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """(K,) random numbers for K numbers, by SplitMix64 (Steele et al. 2014): the same number always gives the same."""
    with np.errstate(over="ignore"):
        state = state + _GOLDEN
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))
