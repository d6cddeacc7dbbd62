"""HMMU and FDS as the equations stand, for whole stores: slow, in float64, sharing nothing with the code they check."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import zarr

LEVELS = ((0.1, 0.1), (0.5, 0.01), (1.0, 0.001))
"""Edge and weight."""


def plain_scores(prob: np.ndarray, xyz: np.ndarray, unit: float) -> list[float]:
    """Computes HMMU for one point after the other; voxels are dictionaries."""
    rows = [[float(v) for v in row] for row in prob]
    total = [gap(row) for row in rows]
    for level, weight in LEVELS:
        homes = [tuple(math.floor(float(c) / (level / unit)) for c in place) for place in xyz]
        sums: dict[tuple, list[float]] = {}
        counts: dict[tuple, int] = {}
        for home, row in zip(homes, rows):
            counts[home] = counts.get(home, 0) + 1
            before = sums.get(home)
            sums[home] = row if before is None else [a + b for a, b in zip(before, row)]
        margins = {home: gap([v / counts[home] for v in values]) for home, values in sums.items()}
        total = [v + weight * margins[home] for v, home in zip(total, homes)]
    return [1 - v / (1 + sum(weight for _, weight in LEVELS)) for v in total]


def gap(values: list[float]) -> float:
    first, second = sorted(values, reverse=True)[:2]
    return first - second


def plain_selection(store: Path, scores: dict[str, np.ndarray], budget: int, radius: float, tau: float) -> list[tuple]:
    """(scene, row) of the picks: all candidates of all scenes in one list, each asked about every pick of its scene.

    scores: by scene name, the float32 of the stream.
    """
    root = zarr.open_group(str(store), mode="r")
    scenes = {name: root[f"scenes/{name}"] for name in scores}
    place = {n: s["xyz"][:].astype(np.float64) + np.array(s.attrs["offset"]) for n, s in scenes.items()}
    feature = {n: s["feat"][:].astype(np.float64) for n, s in scenes.items()}
    labelled = {n: set(s["labelled"][:].tolist()) for n, s in scenes.items()}
    order = sorted(
        (-float(score), name, row)
        for name, of in scores.items()
        for row, score in enumerate(of)
        if row not in labelled[name]
    )
    picks: list[tuple] = []
    rows: dict[str, list[int]] = {name: [] for name in scores}
    for _, name, row in order:
        if len(picks) == budget:
            break
        here = rows[name]
        near = np.sqrt(((place[name][here] - place[name][row]) ** 2).sum(axis=1)) < radius
        mine, theirs = feature[name][row], feature[name][here][near]
        lengths = (theirs**2).sum(axis=1) * (mine**2).sum()
        if ((theirs @ mine > tau * np.sqrt(lengths)) & (lengths > 0)).any():
            continue
        here.append(row)
        picks.append((name, row))
    return picks


def compare(store: Path, names: list[str], budget: int, radius: float = 0.2, tau: float = 0.8) -> int:
    """Scores and picks of `hpal score` and `hpal select` for these scenes against the plain readings; returns how many
    candidates were suppressed."""
    import io

    from hpal_cli.budget import Budget
    from hpal_cli.predictions.store import PredictionStore
    from hpal_cli.score.scorer import score
    from hpal_cli.selection.fds import Suppression
    from hpal_cli.selection.selector import select
    from hpal_cli.stream.points import PointReader

    out = io.BytesIO()
    score(store, lambda _: out, split="all", scenes=names)
    predictions = PredictionStore(store)
    root = zarr.open_group(str(store), mode="r")
    streamed: dict[str, np.ndarray] = {}
    for number, rows in PointReader(io.BytesIO(out.getvalue()), "test").by_scene():
        name = predictions.table[number].name
        scene = root[f"scenes/{name}"]
        expected = plain_scores(scene["prob"][:], scene["xyz"][:], predictions.unit)
        streamed[name] = np.array(expected, np.float32)
        np.testing.assert_allclose(rows["score"], np.array(expected)[rows["index"]], rtol=0, atol=1e-6)
        # Ties and the order of picks are those of the stream's float32.
        streamed[name][rows["index"]] = rows["score"]
    assert sorted(streamed) == sorted(names)
    found = select(
        [PointReader(io.BytesIO(out.getvalue()), "test")],
        budget=Budget.parse(str(budget)),
        suppression=Suppression(radius, tau),
        predictions=predictions,
    )
    picks = [(predictions.table[int(r["scene"])].name, int(r["index"])) for r in found.rows]
    assert picks == plain_selection(store, streamed, budget, radius, tau)
    return sum(s.suppressed for s in found.scenes)
