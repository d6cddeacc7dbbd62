"""Writes a scene coloured by score, with fields that say how much each level adds to the score."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from hpal_cli.scene_table import SceneInfo
from hpal_cli.scenes.store import Points
from hpal_cli.writers.cloud import ViewerCloud, identity

COLOR_MAP = "viridis"
"""Equal steps of the score look equal in this colour map, also in print and to colour-blind people."""

ANSWERED_COLOR = (190, 190, 190)


def uncertainty_cloud(
    points: Points,
    score: NDArray[np.floating],
    shares: Mapping[str, NDArray[np.floating]],
    answered: NDArray[np.bool_] | NDArray[np.integer],
    scene: SceneInfo,
) -> ViewerCloud:
    """The N points of a scene in the colours of their scores. Points with an answer are grey.

    score: (N,) in [0, 1]; shares: field name -> (N,), the parts that add up to the score; answered: (N,) bool, or
    the rows (A,) of the points that have an answer.
    Fields: scene, index, score, and the shares under the names given.

    The colours always run from 0 (dark) to 1 (bright), so they mean the same in every scene and every round. For more
    contrast, colour the points by the field `score`, whose range CloudCompare adapts to the cloud.

    Raises:
        ValueError: a column does not have N values, or a share is called scene, index or score.
    """
    own = {**identity(scene, np.arange(len(points.xyz))), "score": np.asarray(score, np.float32)}
    if clash := sorted(own.keys() & shares.keys()):
        raise ValueError(f"a share may not be called {clash[0]}")
    fields = {**own, **{name: np.asarray(values, np.float32) for name, values in shares.items()}}
    for name, values in fields.items():
        if values.shape != (len(points.xyz),):
            raise ValueError(f"{name} has the shape {values.shape}, for {len(points.xyz)} points")
    rgb = score_colors(score)
    rgb[answered] = ANSWERED_COLOR
    grey = ", ".join(map(str, ANSWERED_COLOR))
    comments = (
        f"scene {scene.number} {scene.points} {scene.name}",
        f"colour {COLOR_MAP}, score 0 (dark) to 1 (bright); answered points {grey}",
    )
    return ViewerCloud(points.position, rgb, fields, comments=comments)


def score_colors(score: NDArray[np.floating]) -> NDArray[np.uint8]:
    """(N,) scores in [0, 1] -> (N, 3) red, green and blue, from a table of 256 colours."""
    from matplotlib import colormaps

    table = colormaps[COLOR_MAP](np.arange(256), bytes=True)[:, :3]
    return table[np.rint(255 * np.clip(score, 0, 1)).astype(np.intp)]
