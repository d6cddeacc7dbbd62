"""Shows the chosen points in their surroundings: a cloud with the scene in grey, and a picture from above."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hpal_cli.classes import ClassTable
from hpal_cli.export.clouds import class_colors, class_comments
from hpal_cli.export.drawing import in_metres, round_length, shortened, text_width
from hpal_cli.export.splats import spacing
from hpal_cli.export.top_view import SHOWN_HEIGHT, cut_height, roofed, top_view
from hpal_cli.scene_table import SceneInfo
from hpal_cli.scenes.store import Points
from hpal_cli.writers.cloud import ViewerCloud, identity

if TYPE_CHECKING:
    from matplotlib.axes import Axes

HIGHLIGHT_COLOR = (255, 0, 128)
"""Colour of a pick for which nothing was predicted, and of the query in a clip."""

LIGHT_GREY = 222
"""Grey level that the surroundings are blended with: light enough that every class stands out, but not white, which is
the background."""
BLEND = 0.65
"""Weight of `LIGHT_GREY` in that blend."""

LUMINANCE = np.array([0.299, 0.587, 0.114])

# Sizes in the picture: lengths in inches, text sizes and line widths in points.
MAX_SIZE = (7.4, 6.6)
"""Width and height of the scene, at most."""
MAX_PIXELS = 800
"""Pixels along the longer side of the scene, at most: about as many as the figure has for it."""
MIN_WIDTH = 5.2
MARGIN = 0.3
RIM = 0.2
"""Space around the scene for rings at its border."""
LINE = 0.19
TITLE, TEXT = 11.0, 9.0
RING, STROKE, HALO = 9.5, 1.9, 3.3
BAR = 1.2
MIN_CIRCLE, MAX_CIRCLE = 0.02, 0.75
"""The FDS radius is drawn as a circle if the radius of the circle on paper is between these."""
MAX_NUMBERS = 10
MAX_ENTRIES = 30

Color = tuple[int, int, int]
Box = tuple[float, float, float, float]
"""Left, bottom, right, top."""


def context_cloud(
    points: Points,
    picks: NDArray[np.integer],
    rank: NDArray[np.integer],
    score: NDArray[np.floating],
    guess: NDArray[np.integer] | None,
    classes: ClassTable,
    scene: SceneInfo,
) -> ViewerCloud:
    """The N points of a scene: the K picks in the colour of their predicted class, all others grey.

    picks: (K,) rows of `points`; rank: (K,) 1 = best; score: (K,); guess: (K,) class ids, -1 for none, or None.
    Fields: scene, index, rank (0 = not picked), score (0 for points that were not picked, whose score is not known).
    """
    fields: dict[str, NDArray[np.generic]] = {
        **identity(scene, np.arange(len(points.xyz))),
        "rank": _spread(rank, picks, len(points.xyz), np.int32),
        "score": _spread(score, picks, len(points.xyz), np.float32),
    }
    rgb = greyed(points)
    rgb[picks] = class_colors(classes, np.full(len(picks), -1) if guess is None else guess, HIGHLIGHT_COLOR)
    comments = (
        f"scene {scene.number} {scene.points} {scene.name}",
        *class_comments(classes),
        "rank 0: not picked, score not known",
    )
    return ViewerCloud(points.position, rgb, fields, comments=comments)


def greyed(points: Points) -> NDArray[np.uint8]:
    """(N, 3) greys: each point's luminance, blended with light grey; the same grey for all if the cloud has no
    colour."""
    if points.rgb is None:
        return _grey(np.full(len(points.xyz), LIGHT_GREY))
    return _grey(points.rgb @ LUMINANCE)


def nearest_pick(xyz: NDArray[np.floating]) -> NDArray[np.float64]:
    """(K, 3) positions -> (K,) the distance of each to the nearest other one, in their unit; infinite if there is only
    one."""
    from scipy.spatial import cKDTree

    distance: NDArray[np.float64] = cKDTree(xyz).query(xyz, 2)[0][:, 1]
    return distance


def overview(
    points: Points,
    picks: NDArray[np.integer],
    rank: NDArray[np.integer],
    guess: NDArray[np.integer] | None,
    classes: ClassTable,
    path: Path,
    *,
    title: str,
    unit: float,
    radius: float | None = None,
) -> None:
    """Writes a PNG of the scene from above in greys, with each of the K picks ringed in the colour of its predicted
    class.

    picks: (K,) rows of `points`; rank: (K,) 1 = best; guess: (K,) class ids, -1 for none, or None; unit: metres in
    one unit of `points`; radius: FDS r in metres, drawn once to scale.

    A ceiling is cut away, and picks in it get dashed rings. The best picks get their rank as a number where there is
    space for it. The same input gives the same bytes.
    """
    from hpal_cli.evaluation.figures import figure_of, save

    best_first = np.lexsort((picks, rank))
    picks, rank = picks[best_first], rank[best_first]
    guess = np.full(len(picks), -1) if guess is None else guess[best_first]
    plan = _Plan.from_points(points, unit)
    place = points.xyz[picks].astype(np.float64)
    hidden = place[:, 2] > plan.cut
    width = max(MIN_WIDTH, plan.width + 2 * MARGIN)
    inner = width - 2 * MARGIN
    left = (width - plan.width) / 2
    at = plan.on_paper(place)
    frame = (0.02 - left, -RIM, width - 0.02 - left, plan.height + RIM)
    numbers = _numbers(at, rank, frame) if len(picks) > 1 else []

    legend = _legend(guess, classes)
    if hidden.any():
        text = f"dashed ({hidden.sum():,}): in the top quarter, cut away to look inside"
        legend.append(_Entry(text, (90, 90, 90), True))
    if numbers:
        legend.append(_Entry("numbers: ranks of the best picks", None, True))
    if (guess >= 0).any():
        legend.append(_Entry("colours: the predicted class", None, True))
    rows = _in_rows(legend, inner)
    head = _wrapped(title, TITLE, "bold", inner)
    facts = [
        line for fact in _facts(nearest_pick(place) * unit, radius) for line in _wrapped(fact, TEXT, "normal", inner)
    ]

    circle = _circle(radius, unit, plan.scale)
    strip = max(0.5, 2 * circle + 0.1)
    keys = LINE * 1.25 * len(rows) + MARGIN / 2
    bottom = keys + strip + RIM
    height = bottom + plan.height + RIM + LINE * (len(head) * TITLE / TEXT + len(facts)) + MARGIN / 2
    figure, (axes,) = figure_of(width, height)
    # One coordinate is one inch, from the lower left corner of the figure.
    figure.set_layout_engine("none")
    axes.set_position((0, 0, 1, 1))
    axes.set_axis_off()

    y = height - MARGIN / 2
    for lines, size, weight in ((head, TITLE, "bold"), (facts, TEXT, "normal")):
        for line in lines:
            y -= LINE * size / TEXT
            axes.text(MARGIN, y, line, fontsize=size, fontweight=weight, va="bottom", parse_math=False)
    axes.imshow(plan.image, extent=(left, left + plan.width, bottom, bottom + plan.height), interpolation="nearest")
    corner = np.array([left, bottom])
    _rings(axes, (at + corner)[::-1], class_colors(classes, guess, HIGHLIGHT_COLOR)[::-1], hidden[::-1])
    _write_numbers(axes, numbers, corner)
    _scale_bar(axes, MARGIN, keys + strip / 2, plan.scale / unit, radius, circle)
    _write_legend(axes, rows, keys)
    axes.set_xlim(0, width)
    axes.set_ylim(0, height)
    save(figure, path)


@dataclass(frozen=True)
class _Plan:
    """The scene as drawn. image: (H, W, 3); width, height: its size in inches; scale: inches in one unit of the
    scene; cut: z above which nothing is shown; low: (3,) the least coordinates of the scene."""

    image: NDArray[np.uint8]
    width: float
    height: float
    scale: float
    cut: float
    low: NDArray[np.float64]

    @classmethod
    def from_points(cls, points: Points, unit: float) -> _Plan:
        xyz = points.xyz.astype(np.float64)
        below = SHOWN_HEIGHT if roofed(xyz, unit=unit) else 1.0
        cut = cut_height(xyz, below)
        low = xyz.min(axis=0)
        # A single point is drawn as if it were alone in a square of one unit.
        span = float((xyz.max(axis=0) - low)[:2].max()) or 1.0
        step = spacing(xyz[xyz[:, 2] <= cut, :2], span)
        # Finer pixels would show nothing more, because the points lie farther apart.
        pixel = max(span / MAX_PIXELS, step / 4)
        rgb = greyed(points) if points.rgb is not None else _grey(_height_tone(xyz[:, 2], cut))
        image = top_view(xyz, rgb, pixel=pixel, step=step, below=below, shaded=True)
        height, width = image.shape[:2]
        scale = min(MAX_SIZE[0] / max(width * pixel, span), MAX_SIZE[1] / max(height * pixel, 0.2 * span))
        return cls(image, width * pixel * scale, height * pixel * scale, scale, cut, low)

    def on_paper(self, place: NDArray[np.float64]) -> NDArray[np.float64]:
        """(K, 3) positions -> (K, 2) inches from the image's lower left corner."""
        return (place - self.low)[:, :2] * self.scale


def _grey(brightness: NDArray[np.floating]) -> NDArray[np.uint8]:
    """(N,) brightness in 0..255 -> (N, 3) greys, blended with `LIGHT_GREY`."""
    grey = np.rint(brightness + BLEND * (LIGHT_GREY - brightness)).astype(np.uint8)
    return np.repeat(grey[:, None], 3, axis=1)


def _height_tone(z: NDArray[np.float64], top: float) -> NDArray[np.float64]:
    """(N,) brightness in 0..255 that grows with the height up to `top`: it shows shapes from above in scenes without
    colours."""
    low = z.min()
    return 255 * np.clip((z - low) / (top - low), 0, 1) if top > low else np.full(len(z), LIGHT_GREY)


def _spread(values: NDArray[np.generic], rows: NDArray[np.integer], count: int, kind: type) -> NDArray[np.generic]:
    full: NDArray[np.generic] = np.zeros(count, kind)
    full[rows] = values
    return full


@dataclass(frozen=True)
class _Entry:
    text: str
    color: Color | None
    note: bool = False
    """Whether the entry stands on a line of its own, with a dashed ring."""


def _legend(guess: NDArray[np.integer], classes: ClassTable) -> list[_Entry]:
    """An entry for each class that was picked, the most frequent first."""
    count = np.bincount(np.maximum(guess, -1) + 1, minlength=len(classes) + 1)
    entries = [
        _Entry(f"{shortened(classes[n].name)} ({count[n + 1]:,})", classes[n].color)
        for n in np.argsort(-count[1:], kind="stable")
        if count[n + 1]
    ]
    if len(entries) > MAX_ENTRIES:
        entries[MAX_ENTRIES:] = [_Entry(f"and {len(entries) - MAX_ENTRIES} more classes", None)]
    return entries + ([_Entry(f"nothing predicted ({count[0]:,})", HIGHLIGHT_COLOR)] if count[0] else [])


def _facts(nearest: NDArray[np.float64], radius: float | None) -> list[str]:
    count = len(nearest)
    if count < 2:
        return ["1 pick" if count else "no picks"]
    median = float(np.median(nearest))
    facts = [f"{count:,} picks; median distance of a pick to its nearest other pick: {in_metres(median)}"]
    if radius is not None:
        facts.append(
            f"picks that have another one within the FDS radius of {in_metres(radius, 6)}: {(nearest < radius).sum():,}"
        )
    return facts


def _wrapped(text: str, size: float, weight: str, width: float) -> list[str]:
    # A tenth more, because a line may consist of letters that are wider than the mean.
    letter = 1.1 * text_width(text, size, weight) / max(len(text), 1)
    return textwrap.wrap(text, max(8, int(width / max(letter, 0.01))))


def _in_rows(entries: Sequence[_Entry], width: float) -> list[list[tuple[float, _Entry]]]:
    """Arranges the entries in columns of equal width; each comes with its inches from the left."""
    widest = max((text_width(e.text, TEXT) for e in entries if not e.note), default=0.0) + 0.45
    columns = max(1, int(width / widest))
    plain = [e for e in entries if not e.note]
    rows = [
        [(n * width / columns, e) for n, e in enumerate(plain[start : start + columns])]
        for start in range(0, len(plain), columns)
    ]
    return rows + [[(0.0, e)] for e in entries if e.note]


def _circle(radius: float | None, unit: float, scale: float) -> float:
    """Radius in inches of the circle that shows the FDS radius; 0 if it would be a dot or too large for the margin."""
    inches = 0.0 if radius is None else radius / unit * scale
    return inches if MIN_CIRCLE <= inches <= MAX_CIRCLE else 0.0


def _write_legend(axes: Axes, rows: Sequence[Sequence[tuple[float, _Entry]]], y: float) -> None:
    """Draws the rows of entries, the first below `y` and each further one below the one before."""
    for row in rows:
        y -= LINE * 1.25
        for x, entry in row:
            x += MARGIN
            if entry.color is not None:
                _rings(axes, np.array([[x + 0.09, y + 0.1]]), np.array([entry.color]), np.array([entry.note]))
                x += 0.24
            axes.text(x, y + 0.1, entry.text, fontsize=TEXT, va="center", parse_math=False)


def _rings(axes: Axes, at: NDArray[np.float64], colors: NDArray[np.integer], dashed: NDArray[np.bool_]) -> None:
    """Draws rings at (K, 2) places, later ones on top. Each ring lies on a halo that is dark where the ring is light
    and light where it is dark, so that it can be seen on any background."""
    if not len(at):
        return
    dark = (colors @ LUMINANCE < 110)[:, None]
    edges = np.stack([np.where(dark, [255] * 3, [25] * 3), colors], axis=1).reshape(-1, 3) / 255
    styles = [s for d in dashed for s in (_dashes(HALO, 0.7) if d else "solid", _dashes(STROKE, 0) if d else "solid")]
    x, y = np.repeat(at, 2, axis=0).T
    axes.scatter(
        x,
        y,
        s=RING**2,
        facecolors="none",
        edgecolors=[(r, g, b) for r, g, b in edges.tolist()],
        linewidths=[HALO, STROKE] * len(at),
        linestyles=styles,
        clip_on=False,
        zorder=3,
    )


@dataclass(frozen=True)
class _Number:
    """The number of a rank as drawn. line_from: (2,) where the line to it starts, if it stands apart from its ring."""

    text: str
    box: Box
    middle: NDArray[np.float64]
    line_from: NDArray[np.float64] | None


def _dashes(width: float, longer: float) -> tuple[float, tuple[float, float]]:
    """The dash pattern of a ring with six dashes, in matplotlib's form (units of the line's width): each dash is
    lengthened at both ends by `longer` points, so that a halo shows beyond the dashes that lie on it."""
    period = np.pi * RING / 6
    on = 0.55 * period + 2 * longer
    return longer / width, (on / width, (period - on) / width)


def _numbers(at: NDArray[np.float64], rank: NDArray[np.integer], frame: Box) -> list[_Number]:
    """Places the numbers of the best ranks as near to their rings as possible without covering another ring or number;
    a rank for which no such place is free gets no number."""
    ring = (RING + HALO) / 144
    numbers: list[_Number] = []
    for row, place in enumerate(at[:MAX_NUMBERS]):
        text = str(rank[row])
        half = np.array([0.035 * len(text) + 0.012, 0.055])
        others = np.delete(at, row, axis=0)
        for reach, angle in ((r, a) for r in (0.0, 0.16, 0.32, 0.48) for a in np.arange(16) * np.pi / 8):
            way = np.array([np.cos(angle), np.sin(angle)])
            middle = place + way * (ring + reach + half * np.abs(way).round(6))
            box = (*(middle - half), *(middle + half))
            gap = np.hypot(*np.maximum(np.abs(others - middle) - half, 0).T)
            inside = (middle - half >= frame[:2]).all() and (middle + half <= frame[2:]).all()
            # A number without a line to its ring must not be near another ring.
            clear = (gap > ring + (0 if reach else 0.04)).all()
            if inside and clear and not any(_overlap(box, number.box) for number in numbers):
                numbers.append(_Number(text, box, middle, place + way * ring if reach else None))
                break
    return numbers


def _write_numbers(axes: Axes, numbers: Sequence[_Number], corner: NDArray[np.float64]) -> None:
    from matplotlib.patheffects import withStroke

    stroke = [withStroke(linewidth=2.4, foreground="white")]
    for number in numbers:
        x, y = (number.middle + corner).tolist()
        if number.line_from is not None:
            start_x, start_y = (number.line_from + corner).tolist()
            axes.plot([start_x, x], [start_y, y], color="0.1", linewidth=0.9, path_effects=stroke, zorder=3.5)
        axes.text(
            x,
            y,
            number.text,
            fontsize=8,
            fontweight="bold",
            ha="center",
            va="center_baseline",
            path_effects=stroke,
            zorder=4,
        )


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _scale_bar(axes: Axes, x: float, y: float, per_metre: float, radius: float | None, circle: float) -> None:
    """Draws a bar of a round length and beside it the FDS radius. per_metre: inches in one metre; y: their middle;
    circle: radius of the circle in inches, 0 to write only."""
    metres = round_length(BAR / per_metre)
    end = x + metres * per_metre
    ends = ([x, x, x, end, end, end], [y + 0.05, y - 0.05, y, y, y + 0.05, y - 0.05])
    axes.plot(*ends, color="0.1", linewidth=1.5, solid_capstyle="butt")
    axes.text((x + end) / 2, y + 0.08, in_metres(metres), fontsize=TEXT, ha="center", va="bottom")
    if radius is None:
        return
    x += BAR + MARGIN
    text = f"FDS radius {in_metres(radius, 6)}"
    if circle:
        from matplotlib.patches import Circle

        axes.add_patch(Circle((x + circle, y), circle, facecolor="0.9", edgecolor="0.1", linewidth=1.2))
        axes.plot([x + circle, x + 2 * circle], [y, y], color="0.1", linewidth=1.2)
    else:
        text += ": a dot at this scale" if radius * per_metre < MIN_CIRCLE else ": too large to draw here"
    axes.text(x + 2 * circle + 0.1, y, text, fontsize=TEXT, va="center")
