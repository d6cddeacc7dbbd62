"""Draws docs/pictures/loop.png, the picture of the README, from the files of `hpal demo`:

    hpal demo -o hpal-demo
    python tests/generate_readme_picture.py hpal-demo docs/pictures/loop.png

The same files make the same picture.
"""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path

import numpy as np
import plyfile
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from hpal_cli.evaluation.figures import figure_of, save
from hpal_cli.export.clouds import class_colors
from hpal_cli.export.context import greyed
from hpal_cli.export.pictures import NO_CLASS
from hpal_cli.export.scene_views import NO_POINT, SUPERSAMPLING, Image, framed, from_corner
from hpal_cli.predictions.store import PredictionStore
from hpal_cli.scenes.store import SceneStore

ROUNDS = (0, 1, 2, 3, 4)
"""The rounds whose results the learning curve has; the picture shows those of 1 and 3."""
ROOM = "Area_1/lounge_1"
"""The room that is shown: of those with answers, the one with most questions in round 1."""
DPI, WIDTH, HEIGHT = 140, 11.0, 7.0
PANEL = (3.5, 2.75)
"""Inches of a view; GitHub shows the picture at some six tenths of its pixels, so type is large."""
TITLE, TEXT = 14, 12
SEEN = 0.1
"""A pick within so many metres of a visible point is ringed; others are on the ceiling or behind a wall."""
PINK = "#e6007e"


def draw(demo: Path, path: Path) -> None:
    """The loop in one of the demo's rooms: where its result is uncertain, what is asked next, and what that brings."""
    truth = SceneStore(demo / "scenes.zarr")
    spread = [PredictionStore(demo / f"spread-{n}.zarr") for n in ROUNDS]
    picks = plyfile.PlyData.read(str(demo / "round-1.ply"))["vertex"].data
    scene = truth.table.by_name[ROOM]
    label = truth.labels(scene)
    assert label is not None
    points = truth.points(scene)
    frame = framed(lambda: iter([points.xyz]), scene.points, unit=truth.unit, grid=truth.grid)
    view = from_corner(frame, (round(PANEL[0] * DPI), round(PANEL[1] * DPI)))

    figure, (axes,) = figure_of(WIDTH, HEIGHT, dpi=DPI)
    figure.set_layout_engine("none")
    axes.set_position((0, 0, 1, 1))
    axes.set_axis_off()

    def panel(column: int, row: int, title: str, colors: NDArray[np.uint8]) -> tuple[float, float]:
        """A view, coloured by point (N, 3); its upper left corner in inches."""
        image = view.colored(lambda rows: colors[rows])
        tall, wide = image.shape[0] / DPI, image.shape[1] / DPI
        left, top = 0.15 + 3.65 * column, HEIGHT - 0.45 - 3.15 * row
        axes.text(left, top + 0.12, title, fontsize=TITLE, fontweight="bold", color="0.1")
        axes.imshow(image, extent=(left, left + wide, top - tall, top), interpolation="nearest", zorder=0)
        return left, top

    prob = np.sort(spread[0].probabilities(scene).astype(np.float64), axis=1)
    uncertainty = 1 - (prob[:, -1] - prob[:, -2])
    panel(0, 0, "1  Uncertain after round 0", ramp(uncertainty))
    mine = picks["index"][picks["scene"] == scene.number].astype(np.int64)
    left, top = panel(1, 0, "2  Asked in round 1", greyed(points))
    at = pixels_of(view, points.xyz, points.xyz[mine], truth.unit)
    axes.plot(left + at[:, 0] / DPI, top - at[:, 1] / DPI, "o", ms=10, mfc="none", mec="white", mew=4)
    axes.plot(left + at[:, 0] / DPI, top - at[:, 1] / DPI, "o", ms=10, mfc="none", mec=PINK, mew=2.2)
    colors = partial(class_colors, truth.classes, none=NO_CLASS)
    for column, n in enumerate((1, 3)):
        right = 100 * np.mean((spread[n].predicted(scene) == label)[label >= 0])
        panel(column, 1, f"{3 + column}  After round {n}: {right:.0f} % right", colors(spread[n].predicted(scene)))
    panel(2, 1, "The true classes", colors(label))
    curve(figure.add_axes((7.85 / WIDTH, 4.4 / HEIGHT, 2.95 / WIDTH, 2.15 / HEIGHT)), demo)
    axes.set_xlim(0, WIDTH)
    axes.set_ylim(0, HEIGHT)
    legend(axes, truth, label)
    save(figure, path)


def ramp(value: NDArray[np.float64]) -> NDArray[np.uint8]:
    """(N,) from 0, sure, to 1, uncertain -> (N, 3): from light grey to dark red."""
    low, high = np.array([226, 230, 234.0]), np.array([176, 0, 32.0])
    return np.rint(low + np.clip(value, 0, 1)[:, None] ** 0.8 * (high - low)).astype(np.uint8)


def pixels_of(view: Image, xyz: NDArray[np.floating], picks: NDArray[np.floating], unit: float) -> NDArray[np.float64]:
    """Where the picks (K, 3) are in the picture, (J, 2) in pixels from its upper left corner: at the point that is seen
    nearest to each. Those that nothing is seen near are left out."""
    row, column = np.nonzero(view.rows != NO_POINT)
    away, nearest = cKDTree(xyz[view.rows[row, column]]).query(picks)
    nearest = nearest[away * unit < SEEN]
    return np.column_stack([column[nearest], row[nearest]]) / SUPERSAMPLING


def curve(axes: Axes, demo: Path) -> None:
    """mIoU over answers, in the rooms with answers and in the others, and that of the forest after the last round."""
    first = [json.loads((demo / f"answered-rooms-{n}.json").read_text(encoding="utf-8")) for n in ROUNDS]
    answers = [result["labelled"]["points"] for result in first]
    for name, text, color, above in (
        ("answered-rooms", "rooms with answers", "#1f5fa8", 7),
        ("new-rooms", "other rooms", "#777777", -17),
    ):
        results = [json.loads((demo / f"{name}-{n}.json").read_text(encoding="utf-8")) for n in ROUNDS]
        miou = [100 * result["grid"]["miou"] for result in results]
        axes.plot(answers, miou, "o-", color=color, lw=2.5, ms=6, label=text)
        for end in (0, -1):
            place = (answers[end], miou[end])
            say = f"{miou[end]:.0f} %"
            axes.annotate(say, place, (0, above), textcoords="offset points", ha="center", fontsize=11, color=color)
    forest = json.loads((demo / "new-rooms-forest.json").read_text(encoding="utf-8"))
    place = (answers[-1], 100 * forest["grid"]["miou"])
    axes.plot(*place, "D", color="#777777", mfc="white", mew=2, ms=7, label="other rooms, forest")
    say = f"{place[1]:.0f} %"
    axes.annotate(say, place, (0, 8), textcoords="offset points", ha="center", fontsize=11, color="#777777")
    axes.legend(loc="lower right", frameon=False, fontsize=10, borderaxespad=0.1)
    axes.set_title("mIoU, by number of answers", fontsize=TITLE, fontweight="bold", color="0.1", loc="left", x=-0.12)
    axes.set_xticks(answers)
    axes.tick_params(labelsize=10)
    axes.margins(x=0.14, y=0.3)
    axes.set_xlabel(f"of {first[0]['labelled']['train_points']:,} points", fontsize=11)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def legend(axes: Axes, truth: SceneStore, label: NDArray[np.integer]) -> None:
    """The classes of the room, the most frequent first, in as many lines as they need."""
    count = np.bincount(label[label >= 0], minlength=len(truth.classes))
    x, y = 0.15, 0.45
    for n in np.argsort(-count, kind="stable")[: np.count_nonzero(count)]:
        drawn = axes.text(x + 0.24, y, truth.classes[n].name, fontsize=TEXT, va="center", color="0.1")
        wide = 0.24 + drawn.get_window_extent().width / DPI
        if x + wide > WIDTH:
            x, y = 0.15, y - 0.28
            drawn.set_position((x + 0.24, y))
        color = np.array(truth.classes[n].color) / 255
        axes.add_patch(Rectangle((x, y - 0.085), 0.17, 0.17, facecolor=color, edgecolor="0.3", linewidth=0.5))
        x += wide + 0.2


if __name__ == "__main__":
    draw(Path(sys.argv[1]), Path(sys.argv[2]))
