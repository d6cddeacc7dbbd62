"""Draws the figures of docs/method.md, docs/overview.md and docs/architecture.md into docs/pictures:

    python tests/generate_figures.py

The numbers in the figures of HMMU and FDS are computed from the points that they show, with the formulas of
docs/method.md spelled out, and a test compares them with what hpal computes. Each file has colours for a light and for
a dark page, and a background of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

PICTURES = Path(__file__).parents[1] / "docs" / "pictures"

STYLE = """
  svg { --paper: #ffffff; --ink: #1f2328; --soft: #59636e; --line: #c4cbd2; --box: #f3f5f7;
        --a: #2a6fbb; --b: #d9822b; --c: #4a9a5b; --mark: #c2185b; }
  @media (prefers-color-scheme: dark) {
    svg { --paper: #14181d; --ink: #e6e9ec; --soft: #a2abb5; --line: #47505a; --box: #222931;
          --a: #6aa9ec; --b: #eda65a; --c: #78c489; --mark: #ff6fa3; } }
  text { font-family: system-ui, "Segoe UI", "DejaVu Sans", sans-serif; font-size: 14px; fill: var(--ink); }
  .soft { fill: var(--soft); } .small { font-size: 12px; } .head { font-weight: 600; font-size: 15px; }
  .mark { fill: var(--mark); }
"""

CLASSES = (("table", "a"), ("chair", "b"), ("floor", "c"))
LEVELS = (0.1, 0.5, 1.0)
WEIGHTS = (0.1, 0.01, 0.001)
RADIUS, SIMILARITY = 0.2, 0.8


class Drawing:
    """An SVG of so many pixels, to which lines are added."""

    def __init__(self, width: int, height: int, title: str) -> None:
        self._lines = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
            'role="img">',
            f"<title>{title}</title>",
            f"<style>{STYLE}</style>",
            '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
            'orient="auto-start-reverse"><path d="M0 0L8 4L0 8z" style="fill:var(--soft)"/></marker></defs>',
            f'<rect width="{width}" height="{height}" rx="8" style="fill:var(--paper)"/>',
        ]

    def add(self, shape: str, style: str = "", text: str | None = None, **attributes: object) -> None:
        """One element; numbers are written with a tenth of a pixel. `class_` stands for `class`."""
        words = [shape]
        for name, value in attributes.items():
            said = f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else value
            words.append(f'{name.rstrip("_").replace("_", "-")}="{said}"')
        if style:
            words.append(f'style="{style}"')
        self._lines.append(f"<{' '.join(words)}/>" if text is None else f"<{' '.join(words)}>{text}</{shape}>")

    def text(self, x: float, y: float, text: str, kind: str = "", anchor: str = "start") -> None:
        self.add("text", x=float(x), y=float(y), class_=kind or "ink", text_anchor=anchor, text=text)

    def save(self, path: Path) -> None:
        path.write_text("\n".join([*self._lines, "</svg>"]) + "\n", encoding="utf-8")


# ---------------------------------------------------------------- HMMU


def hmmu_example() -> tuple[NDArray[np.float64], NDArray[np.float64], int]:
    """(xyz (N, 3) in metres, prob (N, 3), the row of the point x): the edge of a table, with a chair before it."""
    # With this seed, sums of the rounded numbers in the figure are the rounded sums.
    rng = np.random.default_rng(17)
    across, along = np.meshgrid(np.arange(0.025, 1, 0.05), np.arange(0.025, 1, 0.05))
    xy = np.column_stack([across.ravel(), along.ravel()]) + rng.uniform(-0.015, 0.015, (400, 2))
    # How much each place looks like a table, a chair and the floor.
    looks = np.column_stack([3 * (0.47 - xy[:, 0]), 1.6 - 5 * np.hypot(xy[:, 0] - 0.6, xy[:, 1] - 0.6), xy[:, 0] - 0.4])
    power = np.exp(2.2 * looks + rng.normal(0, 0.35, (400, 3)))
    prob = power / power.sum(axis=1, keepdims=True)
    x = int(np.argmin(np.hypot(xy[:, 0] - 0.475, xy[:, 1] - 0.575)))
    return np.column_stack([xy, np.zeros(400)]), prob, x


def margin(distribution: NDArray[np.float64]) -> float:
    """p1 - p2, the margin of one distribution (C,)."""
    second, first = np.sort(distribution)[-2:]
    return float(first - second)


def in_voxel(xyz: NDArray[np.float64], x: int, edge: float) -> NDArray[np.bool_]:
    """(N,) which points are in the voxel of point `x`."""
    cell = np.floor(xyz / edge)
    return (cell == cell[x]).all(axis=1)


def hmmu_score(xyz: NDArray[np.float64], prob: NDArray[np.float64], x: int) -> tuple[float, float]:
    """(v, score) of the point `x`, by equations 1 to 4 of docs/method.md."""
    v = margin(prob[x])
    for edge, weight in zip(LEVELS, WEIGHTS, strict=True):
        v += weight * margin(prob[in_voxel(xyz, x, edge)].mean(axis=0))
    return v, 1 - v / (1 + sum(WEIGHTS))


def draw_hmmu(path: Path) -> None:
    """A point in its three voxels, and the distributions whose margins make its score."""
    xyz, prob, x = hmmu_example()
    drawing = Drawing(890, 470, "HMMU: a point, the three voxels that it lies in, and the mean probabilities in each")
    left, top, scale = 24, 54, 340
    drawing.text(left, 32, "Points from above, by predicted class", "head")
    for row, (px, py) in enumerate(xyz[:, :2]):
        first = int(prob[row].argmax())
        sure = 0.25 + 0.75 * margin(prob[row])
        drawing.add(
            "circle",
            f"fill:var(--{CLASSES[first][1]});opacity:{sure:.2f}",
            cx=left + scale * px,
            cy=top + scale * py,
            r=5,
        )
    for edge, width in zip(LEVELS, (2.5, 2, 1.5), strict=True):
        corner = np.floor(xyz[x, :2] / edge) * edge
        drawing.add(
            "rect", f"fill:none;stroke:var(--ink);stroke-width:{width}", x=left + scale * corner[0],
            y=top + scale * corner[1], width=scale * edge, height=scale * edge,
        )  # fmt: skip
        if edge < 1:
            # In the lower left corner of the voxel, or left of one that is too small.
            at, foot = left + scale * corner[0] + 5, top + scale * (corner[1] + edge) - 6
            at -= 52 if edge < 0.2 else 0
            drawing.add("rect", "fill:var(--paper);opacity:.9", x=at - 3, y=foot - 12, width=46, height=16)
            drawing.text(at, foot, f"{100 * edge:.0f} cm", "small")
    drawing.add(
        "circle",
        "fill:none;stroke:var(--mark);stroke-width:3",
        cx=left + scale * xyz[x, 0],
        cy=top + scale * xyz[x, 1],
        r=8,
    )
    drawing.text(left, top + scale + 24, "Pink ring: the point x. Outer square: 100 cm.", "small soft")
    drawing.text(left, top + scale + 42, "The fainter a point, the smaller its own margin.", "small soft")

    right, wide = 404, 200
    drawing.text(right, 32, "Class probabilities, and their margins", "head")
    rows = [("the point x", prob[x], 1.0, "U")]
    for edge, weight, name in zip(LEVELS, WEIGHTS, "123", strict=True):
        here = in_voxel(xyz, x, edge)
        rows.append(
            (f"mean of {here.sum()} points in {100 * edge:.0f} cm", prob[here].mean(axis=0), weight, f"U{name}")
        )
    terms = []
    for n, (name, distribution, weight, symbol) in enumerate(rows):
        y = top + 80 * n
        drawing.text(right, y + 6, name, "small soft")
        at = float(right)
        for share, (_, color) in zip(distribution, CLASSES, strict=True):
            drawing.add("rect", f"fill:var(--{color})", x=at, y=y + 14, width=wide * share, height=22)
            if wide * share > 34:
                drawing.add(
                    "text", "fill:var(--paper);font-size:12px", x=at + wide * share / 2, y=y + 30, text_anchor="middle",
                    text=f"{share:.2f}",
                )  # fmt: skip
            at += wide * share
        second, first = np.sort(distribution)[-2:]
        drawing.text(right + wide + 14, y + 30, f"{symbol} = {first:.3f} − {second:.3f} = {first - second:.3f}")
        terms.append(f"{weight:g} · {first - second:.3f}" if n else f"{first - second:.3f}")
    for n, (label, color) in enumerate(CLASSES):
        drawing.add("rect", f"fill:var(--{color})", x=right + 84 * n, y=top + 302, width=13, height=13)
        drawing.text(right + 84 * n + 19, top + 313, label, "small")
    v, score = hmmu_score(xyz, prob, x)
    drawing.text(right, top + 350, f"v = {' + '.join(terms)} = {v:.3f}")
    drawing.text(right, top + 376, f"score = 1 − {v:.3f} / {1 + sum(WEIGHTS):g} = {score:.2f}", "head")
    drawing.save(path)


# ---------------------------------------------------------------- FDS


def fds_example() -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], int]:
    """(score (N,), xyz (N, 3) in metres, features (N, 2), budget)."""
    rows = [
        # score, x, y, direction of the features in degrees
        (0.97, 0.34, 0.30, 20),
        (0.95, 0.46, 0.36, 35),
        (0.93, 0.24, 0.20, 5),
        (0.90, 0.40, 0.42, 130),
        (0.86, 0.72, 0.52, 120),
        (0.84, 0.85, 0.46, 140),
        (0.82, 0.60, 0.25, 25),
        (0.78, 0.79, 0.66, 105),
        (0.75, 0.22, 0.60, 250),
        (0.70, 0.95, 0.22, 300),
        (0.66, 0.13, 0.50, 265),
    ]  # fmt: skip
    score, x, y, degrees = np.array(rows).T
    angle = np.radians(degrees)
    features = np.column_stack([np.cos(angle), np.sin(angle)])
    return score, np.column_stack([x, y, np.zeros(len(x))]), features, 5


def fds_picks(
    score: NDArray[np.float64], xyz: NDArray[np.float64], features: NDArray[np.float64], budget: int
) -> tuple[list[int], dict[int, int]]:
    """(rows picked, in order; row skipped -> the row that suppresses it), by equations 5 and 6 of docs/method.md."""
    picks: list[int] = []
    skipped: dict[int, int] = {}
    for i in np.argsort(-score, kind="stable").tolist():
        if len(picks) == budget:
            break
        for j in picks:
            near = np.linalg.norm(xyz[i] - xyz[j]) < RADIUS
            alike = features[i] @ features[j] / np.linalg.norm(features[i]) / np.linalg.norm(features[j]) > SIMILARITY
            if near and alike:
                skipped[i] = j
                break
        else:
            picks.append(i)
    return picks, skipped


def draw_fds(path: Path) -> None:
    """Candidates with their scores and the directions of their features, the picks, and the circles around them."""
    score, xyz, features, budget = fds_example()
    picks, skipped = fds_picks(score, xyz, features, budget)
    drawing = Drawing(860, 440, "FDS: candidates, picks, and what each pick suppresses within its radius")
    left, top, scale = 24, 50, 440
    drawing.text(left, 32, f"Candidates from above, and {budget} picks", "head")
    for row in picks:
        drawing.add(
            "circle", "fill:var(--mark);fill-opacity:.07;stroke:var(--mark);stroke-dasharray:5 4",
            cx=left + scale * xyz[row, 0], cy=top + scale * xyz[row, 1], r=scale * RADIUS,
        )  # fmt: skip
    for row in range(len(score)):
        _candidate(drawing, left + scale * xyz[row, 0], top + scale * xyz[row, 1], features[row], row, picks, skipped)
        anchor = "end" if features[row, 0] >= 0 else "start"
        away = -13 if features[row, 0] >= 0 else 13
        drawing.text(
            left + scale * xyz[row, 0] + away, top + scale * xyz[row, 1] + 5, f"{score[row]:.2f}", "small soft", anchor
        )
    bar = left + 290
    drawing.add(
        "path", "fill:none;stroke:var(--ink);stroke-width:1.5",
        d=f"M{bar} 408v8M{bar} 412H{bar + scale * RADIUS:.0f}M{bar + scale * RADIUS:.0f} 408v8",
    )  # fmt: skip
    drawing.text(bar + scale * RADIUS + 10, 417, f"r = {100 * RADIUS:.0f} cm", "small")

    right = 520
    drawing.text(right, 32, "From the highest score down", "head")
    y = 64
    one = np.array([1.0, 0.0])
    for rows, where, said in (
        ([0], {}, ["picked; the number is the order"]),
        ([], {1: 0}, ["skipped: nearer than r to a pick, and its", "features point in a similar direction"]),
        ([], {}, ["not reached: the budget is spent"]),
    ):
        _candidate(drawing, right + 12, y, one, 0 if rows else 1, rows, where)
        for n, line in enumerate(said):
            drawing.text(right + 48, y + 5 + 19 * n, line, "small")
        y += 30 + 19 * (len(said) - 1)
    degrees = np.degrees(np.arccos(SIMILARITY))
    drawing.text(right, y + 12, "An arrow is the direction of the features. Two", "small soft")
    drawing.text(right, y + 30, f"are alike if cos &gt; {SIMILARITY:g}: less than {degrees:.0f}° apart.", "small soft")
    y += 66
    for i in np.argsort(-score, kind="stable").tolist():
        if i in skipped:
            j = skipped[i]
            away = 100 * np.linalg.norm(xyz[i] - xyz[j])
            said = f"skipped: {away:.0f} cm from pick {picks.index(j) + 1}, cos {_cosine(features[i] @ features[j])}"
        elif i in picks:
            said = f"pick {picks.index(i) + 1}"
            nearest = [j for j in picks[: picks.index(i)] if np.linalg.norm(xyz[i] - xyz[j]) < RADIUS]
            if nearest:
                j = nearest[0]
                away = 100 * np.linalg.norm(xyz[i] - xyz[j])
                said += f": {away:.0f} cm from pick {picks.index(j) + 1}, but cos {_cosine(features[i] @ features[j])}"
        else:
            continue
        drawing.text(right, y, f"{score[i]:.2f}", "small soft")
        drawing.text(right + 48, y, said, "small mark" if i in picks else "small")
        y += 21
    drawing.save(path)


def _cosine(value: float) -> str:
    return f"{value:.2f}".replace("-", "\N{MINUS SIGN}")


def _candidate(
    drawing: Drawing,
    x: float,
    y: float,
    features: NDArray[np.float64],
    row: int,
    picks: Sequence[int],
    skipped: dict[int, int],
) -> None:
    end = np.array([x, y]) + 27 * features
    drawing.add(
        "line",
        "stroke:var(--soft);stroke-width:1.6",
        x1=x,
        y1=y,
        x2=float(end[0]),
        y2=float(end[1]),
        marker_end="url(#tip)",
    )
    if row in picks:
        drawing.add("circle", "fill:var(--mark)", cx=x, cy=y, r=10)
        drawing.add(
            "text", "fill:var(--paper);font-size:12px;font-weight:600", x=x, y=y + 4, text_anchor="middle",
            text=str(picks.index(row) + 1),
        )  # fmt: skip
        return
    drawing.add("circle", "fill:var(--paper);stroke:var(--ink);stroke-width:1.6", cx=x, cy=y, r=7)
    if row in skipped:
        drawing.add("path", "stroke:var(--ink);stroke-width:1.6", d=f"M{x - 4:.1f} {y - 4:.1f}l8 8m0 -8l-8 8")


# ---------------------------------------------------------------- what flows where

Place = tuple[float, float]
FLOW: dict[str, Place] = {
    "raw clouds": (0, 0),
    "scenes.zarr": (1, 0),
    "scored points": (2, 0),
    "selected points": (3, 0),
    "labels.zarr": (4, 0),
    "spread.zarr": (3, 1),
    "model.pt": (4, 2),
    "preds.zarr": (2, 2),
    "mIoU, your files": (1, 2),
}
COMMANDS = [
    ("raw clouds", "scenes.zarr", "prep"),
    ("scenes.zarr", "scored points", "score"),
    ("scored points", "selected points", "select"),
    ("selected points", "labels.zarr", "label"),
    ("labels.zarr", "spread.zarr", "spread"),
    ("spread.zarr", "scored points", "score"),
    ("labels.zarr", "model.pt", "train"),
    ("spread.zarr", "model.pt", "train"),
    ("model.pt", "preds.zarr", "predict"),
    ("preds.zarr", "scored points", "score"),
    ("preds.zarr", "mIoU, your files", "eval, export"),
]
"""Of docs/overview.md: files, and the commands that make one from another."""

FOLDERS: dict[str, Place] = {
    "readers": (0, 0),
    "scenes": (1, 0),
    "superpoints": (2, 0),
    "forest": (3, 0),
    "network, training": (2, 1),
    "predictions": (4, 1),
    "evaluation, export": (4, 0),
    "score": (4, 2),
    "selection": (3, 2),
    "label": (2, 2),
    "page": (1, 2),
    "a person": (0, 2),
    "spreading": (3, 3),
}
FILES = [
    ("readers", "scenes", "clouds"),
    ("scenes", "superpoints", "scenes.zarr"),
    ("superpoints", "forest", ""),
    ("scenes", "network, training", "scenes.zarr"),
    ("forest", "predictions", "model.pt"),
    ("network, training", "predictions", "model.pt"),
    ("predictions", "evaluation, export", "preds.zarr"),
    ("predictions", "score", "preds.zarr"),
    ("score", "selection", "PLY"),
    ("selection", "label", "PLY"),
    ("a person", "page", "answers"),
    ("page", "label", "answers"),
    ("label", "spreading", "labels.zarr"),
    ("spreading", "score", "spread.zarr"),
]
"""Of docs/architecture.md: folders of hpal_cli, and what one hands to the other."""


def draw_flow(places: dict[str, Place], arrows: Sequence[tuple[str, str, str]], title: str, path: Path) -> None:
    """Boxes at their places, and arrows between them with a word on each."""
    box, across, down = (128, 36), 208, 84
    rows = max(y for _, y in places.values())
    drawing = Drawing(4 * across + box[0] + 40, int(down * rows) + box[1] + 40, title)
    middle = {
        name: np.array([20 + box[0] / 2 + across * x, 20 + box[1] / 2 + down * y]) for name, (x, y) in places.items()
    }
    half = np.array(box) / 2
    for start, end, word in arrows:
        way = middle[end] - middle[start]
        # From one box's edge to the other's.
        out = min(h / abs(w) for h, w in zip(half, way, strict=True) if w)
        from_, to = middle[start] + out * way, middle[end] - (out + 3 / np.linalg.norm(way)) * way
        drawing.add(
            "line", "stroke:var(--soft);stroke-width:1.6", x1=float(from_[0]), y1=float(from_[1]), x2=float(to[0]),
            y2=float(to[1]), marker_end="url(#tip)",
        )  # fmt: skip
        if word:
            x, y = (from_ + to) / 2
            flat = way[1] == 0
            wide = 6.6 * len(word) + 6
            y += -7 if flat else 4
            drawing.add("rect", "fill:var(--paper)", x=x - wide / 2, y=y - 12, width=wide, height=15)
            drawing.text(x, y, word, "small soft", "middle")
    for name, (x, y) in middle.items():
        drawing.add(
            "rect", "fill:var(--box);stroke:var(--line)", x=float(x - half[0]), y=float(y - half[1]), width=box[0],
            height=box[1], rx=6,
        )  # fmt: skip
        drawing.text(x, y + 5, name, anchor="middle")
    drawing.save(path)


def draw_all(folder: Path) -> None:
    """All figures, into `folder`."""
    draw_hmmu(folder / "hmmu.svg")
    draw_fds(folder / "fds.svg")
    draw_flow(FLOW, COMMANDS, "Files, and the commands that make one from another", folder / "flow.svg")
    draw_flow(FOLDERS, FILES, "The folders of hpal_cli, and what one hands to the other", folder / "architecture.svg")


if __name__ == "__main__":
    draw_all(PICTURES)
