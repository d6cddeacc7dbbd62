"""Draws the confusion matrix, the IoU of each class, and the learning curve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hpal_cli.classes import ClassTable
from hpal_cli.evaluation.metrics import Metrics

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def confusion_figure(metrics: Metrics, classes: ClassTable, path: Path, title: str) -> None:
    """Draws the confusion matrix as a PNG, with each row (true class) in percent."""
    matrix = metrics.confusion
    names = classes.names
    total = matrix.sum(axis=1, keepdims=True)
    share = np.divide(100.0 * matrix, total, out=np.zeros(matrix.shape), where=total > 0)
    side = 3 + 0.45 * len(names)
    figure, (axes,) = figure_of(side + 1, side)
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=100)
    for row, column in np.ndindex(*share.shape):
        if share[row, column] >= 0.5:
            color = "white" if share[row, column] > 55 else "black"
            axes.text(column, row, f"{share[row, column]:.0f}", ha="center", va="center", color=color, fontsize=8)
    axes.set_xticks(range(len(names)), names, rotation=60, ha="right")
    axes.set_yticks(range(len(names)), names)
    for row in np.flatnonzero(total[:, 0] == 0):
        axes.get_yticklabels()[row].set_color("0.6")
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    axes.set_title(f"{title}: mIoU {100 * metrics.miou:.1f} %")
    figure.colorbar(image, ax=axes, shrink=0.8, label="% of the true class")
    save(figure, path)


def iou_figure(metrics: Metrics, classes: ClassTable, path: Path, title: str) -> None:
    """Draws the IoU of each class as bars in the colours of the classes, with the mean, as a PNG."""
    figure, (axes,) = figure_of(7, 1.5 + 0.3 * len(classes))
    iou = 100 * np.nan_to_num(metrics.iou)
    rows = np.arange(len(classes))[::-1]
    axes.barh(rows, iou, color=classes.colors / 255, edgecolor="0.3", linewidth=0.5)
    # A label may lie on the line of the mean, which would cross its digits.
    ground = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}
    for row, value, known in zip(rows, iou, ~np.isnan(metrics.iou), strict=True):
        text = f"{value:.1f}" if known else "does not occur"
        axes.text(value + 1, row, text, va="center", fontsize=8, bbox=ground)
    axes.set_yticks(rows, classes.names)
    axes.axvline(100 * metrics.miou, color="black", linestyle="--", linewidth=1)
    axes.set_xlim(0, 108)
    axes.set_xlabel(f"IoU %, mean {100 * metrics.miou:.1f} (dashed)")
    axes.set_title(title)
    save(figure, path)


def learning_curve(curves: Mapping[str, Sequence[tuple[int, float, float]]], path: Path, title: str) -> None:
    """Draws mIoU over the number of answers, as a PNG. curves: from each name to rows of (answers, their percentage of
    the train points, mIoU from 0 to 1)."""
    figure, (axes,) = figure_of(6.5, 4.2)
    long = [rows for rows in curves.values() if len(rows) > 1]
    lowest = min(long, key=lambda rows: sum(r[2] for r in rows)) if len(long) > 1 else None
    for rows in curves.values():
        (line,) = axes.plot([r[0] for r in rows], [100 * r[2] for r in rows], marker="o", linewidth=2)
        # The text of a single point is beside it, since the end of a curve may be above it; that of the lowest curve is
        # below it.
        above = (0, -14 if rows is lowest else 7)
        away, align = (above, "center") if len(rows) > 1 else ((8, -3), "left")
        for count, _, value in rows:
            axes.annotate(
                f"{100 * value:.1f}",
                (count, 100 * value),
                away,
                textcoords="offset points",
                ha=align,
                fontsize=8,
                color=line.get_color(),
            )
    axes.legend(axes.get_lines(), list(curves), loc="best", frameon=False)
    every = [row for rows in curves.values() for row in rows]
    low, high = min(100 * r[2] for r in every), max(100 * r[2] for r in every)
    margin = max(4.0, 0.25 * (high - low))
    axes.set_ylim(max(0.0, low - margin), min(100.0, high + margin))
    axes.margins(x=0.08)
    axes.set_xticks(*zip(*sorted({(count, f"{count:,}\n{percent:.2f} %") for count, percent, _ in every}), strict=True))
    axes.set_xlabel("answers, and their share of the points of the rooms that they are in")
    axes.set_ylabel("mIoU %")
    axes.set_title(title)
    axes.grid(alpha=0.3)
    save(figure, path)


def figure_of(width: float, height: float, *, columns: int = 1, dpi: int = 120) -> tuple[Figure, list[Axes]]:
    """A figure of width and height in inches, with `columns` axes side by side."""
    # Made without pyplot, which would look for a display and keep every figure in memory.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=dpi, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, [figure.add_subplot(1, columns, n + 1) for n in range(columns)]


def save(figure: Figure, path: Path) -> None:
    """Writes a figure as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    # `figure.savefig` draws every figure twice, but only a layout that depends on what was drawn needs that.
    if isinstance(figure.get_layout_engine(), ConstrainedLayoutEngine):
        figure.draw_without_rendering()
    # Without the program's version in it, the same numbers make the same bytes.
    FigureCanvasAgg(figure).print_png(path, metadata={"Software": None})
