"""Draws one picture of a scene, from above and from a corner, in several colourings side by side, with a legend and a
scale bar."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hpal_cli.export.drawing import in_metres, round_length, shortened, text_width
from hpal_cli.export.height_colors import STOPS, height_colors
from hpal_cli.export.scene_views import Image, Scene, from_above, from_corner

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Color = tuple[int, int, int]

DPI = 150
# Sizes in the picture: lengths in inches, text sizes in points.
PANEL, WIDE_PANEL = 4.0, 6.0
"""Width of a view if the colourings stand beside each other, and if they stand one above the other."""
MAX_ASPECT = 1.1
"""Largest height of a view, as a multiple of its width."""
ELONGATED = 1.8
"""If a scene is longer than wide by this factor, its colourings stand one above the other."""
MARGIN, GAP = 0.3, 0.18
LINE = 0.2
TITLE, HEAD, TEXT = 13.0, 11.0, 9.0
SQUARE, RAMP = 0.13, 0.9
BAR = 0.9
MAX_ENTRIES = 40
GREY, DARK = "0.4", "0.1"


@dataclass(frozen=True)
class Layer:
    """One way to colour a scene.

    colors: (K,) rows of points, ascending -> (K, 3) uint8; legend: names of the colours; ramp: instead of a legend, the
    words for the low and the high end of a continuous scale of colours.
    """

    title: str
    colors: Callable[[NDArray[np.int64]], NDArray[np.uint8]]
    legend: Sequence[tuple[str, Color]] = ()
    ramp: tuple[str, str] | None = None


def height_layer(scene: Scene, unit: float) -> Layer:
    """A layer that colours the scene by height, for scans without colour. unit: metres in one unit of its positions."""
    low, high = np.quantile(scene.sample[:, 2], [0.02, 0.98])

    def colors(rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        z, done = np.empty(len(rows)), 0
        for xyz in scene.blocks():
            start, stop = np.searchsorted(rows, [done, done + len(xyz)])
            z[start:stop] = xyz[rows[start:stop] - done, 2]
            done += len(xyz)
        return height_colors(z, float(low), float(high))

    rise = in_metres((high - low) * unit)
    return Layer("by height", colors, ramp=("low", f"{rise} higher"))


def scene_picture(scene: Scene, layers: Sequence[Layer], path: Path, *, title: str, unit: float) -> None:
    """Writes a PNG of a scene in the colours of each layer. unit: metres in one unit of its positions.

    A ceiling is cut away, and in the view from the corner also the walls in front. Memory grows with the size of the
    picture, not with the number of points. The same points give the same bytes.
    """
    from hpal_cli.evaluation.figures import figure_of, save

    span = np.sort((scene.high - scene.low)[:2])
    stacked = bool(span[1] > ELONGATED * span[0])
    across = WIDE_PANEL if stacked else PANEL
    box = (round(across * DPI), round(MAX_ASPECT * across * DPI))
    names = ["from above", "from a corner"]
    if scene.roof:
        names[0] += f", cut {in_metres((scene.cut - scene.low[2]) * unit)} above the floor"
        names[1] += ", without the walls in front"
    views = [from_above(scene, box), from_corner(scene, box)]
    # Rows of panels; each panel is a view in the colours of a layer.
    if stacked:
        table = [[(view, layer) for view in views] for layer in layers]
    else:
        table = [[(view, layer) for layer in layers] for view in views]
    tall = [max(view.shape[0] for view, _ in row) / DPI for row in table]
    below = [LINE if not stacked or n == len(table) - 1 else 0 for n in range(len(table))]
    over = [1.3 * LINE if stacked or n == 0 else 0 for n in range(len(table))]
    width = 2 * MARGIN + len(table[0]) * (across + GAP) - GAP
    facts = _facts(scene, unit)
    width = max(width, 2 * MARGIN + text_width(title, TITLE, "bold"), 2 * MARGIN + text_width(facts, TEXT))
    legend = _in_lines(layers, width - 2 * MARGIN)
    height = 0.7 * MARGIN + 2.2 * LINE + sum(tall) + sum(below) + sum(over) + GAP * len(table)
    height += 1.2 * LINE * len(legend) + 0.5 * MARGIN
    figure, (axes,) = figure_of(width, height, dpi=DPI)
    # One coordinate is one inch, from the lower left corner of the figure.
    figure.set_layout_engine("none")
    axes.set_position((0, 0, 1, 1))
    axes.set_axis_off()

    y = height - 0.7 * MARGIN - 0.8 * LINE
    axes.text(MARGIN, y, title, fontsize=TITLE, fontweight="bold", color=DARK, parse_math=False)
    y -= LINE
    axes.text(MARGIN, y, facts, fontsize=TEXT, color=GREY, parse_math=False)
    y -= 0.4 * LINE
    for n, row in enumerate(table):
        y -= over[n] + tall[n]
        for m, (view, layer) in enumerate(row):
            left = MARGIN + m * (across + GAP)
            if (stacked and m == 0) or (not stacked and n == 0):
                head = y + tall[n] + 0.09
                axes.text(left, head, layer.title, fontsize=HEAD, fontweight="bold", color=DARK, parse_math=False)
            _show(axes, view, layer, left, y, tall[n])
            if (stacked and n == len(table) - 1) or (not stacked and m == 0):
                _caption(axes, left, y - 0.16, names[m if stacked else n], view.pixel * unit)
        y -= below[n] + GAP
    for line in legend:
        y -= 1.2 * LINE
        for x, entry in line:
            _key(axes, MARGIN + x, y + 0.1, entry)
    axes.set_xlim(0, width)
    axes.set_ylim(0, height)
    save(figure, path)


def _facts(scene: Scene, unit: float) -> str:
    """A line of text: how many points the scene has, how large it is, and how many points are not in the picture."""
    size = [in_metres(edge * unit) for edge in scene.high - scene.low]
    facts = [f"{scene.count:,} points", f"{size[0]} x {size[1]}, {size[2]} high"]
    if scene.lies_down:
        facts.append("y to the right")
    if scene.outside:
        facts.append(f"{scene.outside:,} points far away are not in the picture")
    return "  \u00b7  ".join(facts)


def _show(axes: Axes, view: Image, layer: Layer, left: float, bottom: float, height: float) -> None:
    """Draws a view in the colours of a layer, in the upper left corner of its panel."""
    image = view.colored(layer.colors)
    rows, columns = image.shape[:2]
    # The image starts at a whole pixel of the figure: else matplotlib would show some of its pixels twice.
    x = round(left * DPI) / DPI
    y = round((bottom + height - rows / DPI) * DPI) / DPI
    axes.imshow(image, extent=(x, x + columns / DPI, y, y + rows / DPI), interpolation="nearest")


def _caption(axes: Axes, x: float, y: float, text: str, pixel: float) -> None:
    """Draws a bar of a round length, and writes its length and the name of the view beside it. pixel: edge of a pixel
    in metres."""
    metres = round_length(BAR * DPI * pixel)
    end = x + metres / pixel / DPI
    axes.plot([x, x, x, end, end, end], [y + 0.04, y - 0.04, y, y, y + 0.04, y - 0.04], color=DARK, linewidth=1.3)
    axes.text(end + 0.08, y, f"{in_metres(metres)}   {text}", fontsize=TEXT, color=GREY, va="center", parse_math=False)


@dataclass(frozen=True)
class _Entry:
    text: str
    color: Color | None = None
    low: str | None = None
    """For a ramp, the word for its low end; `text` is then the word for its high end."""

    @property
    def width(self) -> float:
        own = text_width(self.text, TEXT) + (SQUARE + 0.07 if self.color is not None else 0)
        return own if self.low is None else own + RAMP + 0.14 + text_width(self.low, TEXT)


def _in_lines(layers: Sequence[Layer], width: float) -> list[list[tuple[float, _Entry]]]:
    """Arranges the legends of all layers in lines; each entry comes with its inches from the left.

    The legend of a layer starts a new line, but an entry that an earlier layer has is not repeated, and if fewer than
    half of a layer's entries are new, they continue the line of the layer before.
    """
    lines: list[list[tuple[float, _Entry]]] = []
    listed: set[tuple[str, Color]] = set()
    x = np.inf
    for layer in layers:
        entries = [_Entry(layer.ramp[1], low=layer.ramp[0])] if layer.ramp else []
        new = [key for key in layer.legend if key not in listed]
        listed |= set(new)
        entries += [_Entry(shortened(name), color) for name, color in new[:MAX_ENTRIES]]
        if len(new) > MAX_ENTRIES:
            entries.append(_Entry(f"and {len(new) - MAX_ENTRIES} more classes"))
        if 2 * len(new) >= len(layer.legend):
            x = np.inf
        for entry in entries:
            if x + entry.width > width:
                lines.append([])
                x = 0.0
            lines[-1].append((x, entry))
            x += entry.width + 0.22
    return lines


def _key(axes: Axes, x: float, y: float, entry: _Entry) -> None:
    if entry.low is not None:
        axes.text(x, y, entry.low, fontsize=TEXT, color=DARK, va="center", parse_math=False)
        x += text_width(entry.low, TEXT) + 0.07
        ramp = np.array(STOPS, np.float64) / 255
        steps = np.linspace(0, len(ramp) - 1, 64)
        shown = np.stack([np.interp(steps, np.arange(len(ramp)), channel) for channel in ramp.T], axis=1)[None]
        half = SQUARE / 2
        axes.imshow(shown, extent=(x, x + RAMP, y - half, y + half), aspect="auto", interpolation="nearest")
        x += RAMP + 0.07
    if entry.color is not None:
        from matplotlib.patches import Rectangle

        face = "#{:02x}{:02x}{:02x}".format(*entry.color)
        half = SQUARE / 2
        axes.add_patch(Rectangle((x, y - half), SQUARE, SQUARE, facecolor=face, edgecolor="0.3", linewidth=0.4))
        x += SQUARE + 0.07
    axes.text(x, y, entry.text, fontsize=TEXT, color=DARK, va="center", parse_math=False)
