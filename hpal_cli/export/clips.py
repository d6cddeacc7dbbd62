"""Writes a cloud and a picture of each query: the point and its surroundings in colour, the rest of the scene in
grey."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hpal_cli.classes import ClassTable
from hpal_cli.errors import HpalError
from hpal_cli.export.context import HIGHLIGHT_COLOR, greyed
from hpal_cli.export.height_colors import height_colors
from hpal_cli.export.top_view import SHOWN_HEIGHT, roofed, top_view
from hpal_cli.export.views import View, draw, two_views
from hpal_cli.label.queries import Query
from hpal_cli.lengths import rounded_length
from hpal_cli.predictions.store import PredictionStore
from hpal_cli.progress import Monitor, Silent
from hpal_cli.scene_table import SceneInfo
from hpal_cli.scenes.store import Points, SceneStore
from hpal_cli.score.regions import neighbours
from hpal_cli.store.files import atomic_write, remove_new_on_error
from hpal_cli.superpoints.surface import principal_axes
from hpal_cli.writers.cloud import ViewerCloud, identity, scene_path, write

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLORED_RADIUS = 1.0
"""Metres: points within this distance of the query keep their colour."""

PICTURE_HALF = 1.3
"""Metres that a picture shows on each side of the query."""

# Inches: the edge of a view, the width of the text column, the margins, and the whole picture.
SIDE, COLUMN, MARGIN = 4.2, 2.3, 0.12
WIDTH, HEIGHT = 2 * SIDE + COLUMN + 4 * MARGIN, SIDE + 2 * MARGIN + 0.4

PIXELS = 504
"""Edge of a rendered view: as many pixels as the figure has for it."""

PLAN_PIXELS = 400
"""Pixels along the longer side of the scene as seen from above: more than the figure has for it."""

RING_RADIUS = 0.1
"""Metres: radius of the ring around the query."""

FAR_STEP = 0.12
"""Metres: the least distance between the grey points of a clip's cloud."""

DRAWN_RADIUS = 4.0
"""Metres: a picture draws the points that lie within this distance of the query along each axis."""

LIGHT_DIRECTION = np.array([0.48, 0.36, 0.8])
"""Direction from which clouds without colour are lit."""

STAR_RADIUS = 0.15
"""Metres from the query to the tips of the star around it in a clip's cloud; more where points lie far apart."""


def write_clips(
    queries: Sequence[Query],
    store: PredictionStore | SceneStore,
    folder: Path,
    *,
    overwrite: bool = False,
    monitor: Monitor | None = None,
) -> list[Path]:
    """Writes `folder/<scene>/0001-4711.ply` and `.png` for each query; the two numbers are its place in the order in
    which the queries of the scene are asked, and the index of its point.

    Returns the paths of the pictures, one per query, in the order of `queries`.

    Raises:
        HpalError: a file exists and `overwrite` is not given, or the store does not have the point of a query.
    """
    monitor = monitor or Silent()
    most = max((query.number for query in queries), default=0)
    stems = [
        f"{store.table[query.scene].name}/{query.number:0{max(4, len(str(most)))}d}-{query.index}"
        if 0 <= query.scene < len(store.table)
        else ""
        for query in queries
    ]
    if "" in stems:
        raise HpalError(store.path, f"has no scene {queries[stems.index('')].scene}", "give the store that was scored")
    clouds, pictures = ([scene_path(folder, stem, suffix) for stem in stems] for suffix in ("ply", "png"))
    clips = None
    with remove_new_on_error([*clouds, *pictures], overwrite=overwrite), monitor.task("drawing", len(queries)) as task:
        for query, cloud, picture in zip(queries, clouds, pictures, strict=True):
            scene = store.table[query.scene]
            if clips is None or clips.scene is not scene:
                clips = SceneClips(scene, store.points(scene), store.unit, store.grid, store.scale or 1.0)
            if not 0 <= query.index < scene.points:
                raise HpalError(
                    store.path,
                    f"scene {scene.name} has no point {query.index}",
                    "give the store that the queries are for",
                )
            write(clips.cloud(query), cloud, overwrite=overwrite)
            with atomic_write(picture, overwrite=overwrite) as partial:
                clips.picture(query, partial, classes=store.classes)
            task.advance(1, scene.name)
    return pictures


class SceneClips:
    """Makes the clips of one scene; what they have in common is computed once."""

    def __init__(self, scene: SceneInfo, points: Points, unit: float, grid: float | None, scale: float = 1.0) -> None:
        """unit: metres in one unit of `points`; grid: metres between points, None if not known; scale: the lengths of
        a clip, which are set for rooms, are multiplied by this."""
        from scipy.spatial import cKDTree

        self.scene, self._points, self._unit, self._scale = scene, points, unit / scale, scale
        # From here on lengths are metres divided by `scale`.
        self._metres = points.xyz.astype(np.float64) * self._unit
        self._tree = cKDTree(self._metres)
        # The points of a scan can lie farther apart than the grid says.
        self._step = max((grid or 0.0) / scale, self._spacing())
        self.colors = points.rgb if points.rgb is not None else _shades(self._metres)
        self._grey = greyed(Points(points.xyz, points.offset, self.colors))
        self._roof = roofed(self._metres)
        self._thin = self._one_per_cell(max(FAR_STEP, 2 * self._step))
        self._plan: NDArray[np.uint8] | None = None

    def cloud(self, query: Query) -> ViewerCloud:
        """The query and a star around it in `HIGHLIGHT_COLOR`, the points within `COLORED_RADIUS` in their own colours,
        the rest thinned out and grey.

        Fields: scene; index, -1 for the star; query, 1 for the point and 2 for others that share its answer.
        """
        near = self._tree.query_ball_point(self._metres[query.index], COLORED_RADIUS)
        rows = np.union1d(near, self._thin)
        away = np.linalg.norm(self._metres[rows] - self._metres[query.index], axis=1) > COLORED_RADIUS
        role = np.where(np.isin(rows, query.points), 2, 0)
        role[rows == query.index] = 1
        rgb = self._painted(query, rows, away)
        position = self._points.position
        star = position[query.index] + _star(self._step) / self._unit
        fields: dict[str, NDArray[np.generic]] = {
            **identity(self.scene, np.append(rows, np.full(len(star), -1))),
            "query": np.append(role, np.ones(len(star))).astype(np.int32),
        }
        return ViewerCloud(
            np.vstack([position[rows], star]),
            np.vstack([rgb, np.tile(HIGHLIGHT_COLOR, (len(star), 1))]).astype(np.uint8),
            fields,
            comments=(f"scene {self.scene.number} {self.scene.points} {self.scene.name}", *_facts(query)),
        )

    def picture(self, query: Query, path: Path, *, classes: ClassTable) -> None:
        """Writes a PNG: the query seen from two sides, and its place in the scene as seen from above."""
        from hpal_cli.evaluation.figures import figure_of, save

        here = self._metres[query.index]
        rows = np.flatnonzero((np.abs(self._metres - here) < DRAWN_RADIUS).all(axis=1))
        local = self._metres[rows] - here
        floor, top = self._metres[:, 2].min() - here[2], self._metres[:, 2].max() - here[2]
        views = two_views(local, step=self._step, reach=COLORED_RADIUS, floor=floor, top=top, roof=self._roof)
        away = np.linalg.norm(local, axis=1) > COLORED_RADIUS
        rgb = self._painted(query, rows, away)
        figure, axes = figure_of(WIDTH, HEIGHT, columns=3)
        figure.set_layout_engine("none")
        for n, (place, view) in enumerate(zip(axes[:2], views, strict=True)):
            place.set_position(_box(MARGIN + n * (SIDE + MARGIN), MARGIN, SIDE, SIDE))
            image = draw(local, rgb, view, reach=COLORED_RADIUS, half=PICTURE_HALF, pixels=PIXELS, step=self._step)
            place.imshow(
                image, extent=(-PICTURE_HALF, PICTURE_HALF, -PICTURE_HALF, PICTURE_HALF), interpolation="nearest"
            )
            place.set(xticks=[], yticks=[])
            _mark(place)
            _scale(place, "AB"[n], self._scale)
        left = 3 * MARGIN + 2 * SIDE
        self._locate(axes[2], query, views, (left, MARGIN, COLUMN, 0.62 * SIDE))
        title = f"{self.scene.name}, query {query.number}"
        figure.text(MARGIN / WIDTH, 1 - 0.32 / HEIGHT, title, fontsize=13, fontweight="bold", parse_math=False)
        _write(figure, query, classes, left)
        save(figure, path)

    def _painted(self, query: Query, rows: NDArray[np.int64], away: NDArray[np.bool_]) -> NDArray[np.uint8]:
        """(R, 3) colours of the points `rows` (R,) in a clip; away: (R,) which of them are grey."""
        rgb = np.where(away[:, None], self._grey[rows], self.colors[rows])
        group = np.isin(rows, query.points)
        # About half of the way to the highlight colour.
        rgb[group] = np.rint(0.55 * rgb[group] + 0.45 * np.array(HIGHLIGHT_COLOR))
        rgb[rows == query.index] = HIGHLIGHT_COLOR
        return rgb

    def _locate(self, axes: Axes, query: Query, views: Sequence[View], box: tuple[float, float, float, float]) -> None:
        """Draws the scene from above, with the query and the two directions from which the views look at it."""
        xyz = self._metres
        low = xyz.min(axis=0)
        span = float((xyz.max(axis=0) - low)[:2].max()) or 1.0
        pixel = max(span / PLAN_PIXELS, self._step / 4)
        if self._plan is None:
            self._plan = top_view(
                xyz, self.colors, pixel=pixel, step=self._step, below=SHOWN_HEIGHT if self._roof else 1.0
            )
        axes.set_position(_box(*box))
        axes.set_anchor("S")
        axes.set_axis_off()
        high = low[:2] + pixel * np.array(self._plan.shape[1::-1])
        axes.imshow(self._plan, extent=(low[0], high[0], low[1], high[1]), interpolation="nearest", alpha=0.6)
        here = xyz[query.index, :2]
        arm = 0.16 * float((high - low[:2]).max())
        highlight = "#{:02x}{:02x}{:02x}".format(*HIGHLIGHT_COLOR)
        axes.plot(
            [here[0]],
            [here[1]],
            "o",
            color=highlight,
            markersize=7,
            markeredgecolor="white",
            markeredgewidth=1.2,
            zorder=5,
        )
        # Seen from above, both views may look from the same side: then the second letter stands farther out.
        first, second = (_away(view.toward[:2]) for view in views)
        second *= 1.6 if np.linalg.norm(second - first) < 0.6 else 1.0
        for name, way in (("A", first), ("B", second)):
            tip = here + way * arm
            axes.plot(*np.stack([here, tip]).T, color="0.1", linewidth=1.2, zorder=4)
            axes.text(
                float(tip[0]),
                float(tip[1]),
                name,
                fontsize=9,
                fontweight="bold",
                ha="center",
                va="center",
                zorder=6,
                bbox=_PAPER,
            )
        # In a small scene the letters stand outside of it.
        axes.set_xlim(min(low[0], here[0] - 1.8 * arm), max(high[0], here[0] + 1.8 * arm))
        axes.set_ylim(min(low[1], here[1] - 1.8 * arm), max(high[1], here[1] + 1.8 * arm))

    def _spacing(self) -> float:
        if len(self._metres) < 2:
            return 0.05
        some = self._metres[:: 1 + len(self._metres) // 10_000]
        return max(float(np.median(self._tree.query(some, 2)[0][:, 1])), 1e-3)

    def _one_per_cell(self, edge: float) -> NDArray[np.int64]:
        """The row of the first point in each cell of a grid with this edge."""
        cells = np.floor(self._metres / edge).astype(np.int64)
        return np.unique(cells, axis=0, return_index=True)[1]


_PAPER = {"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": "0.1", "linewidth": 0.8}


def _box(left: float, bottom: float, width: float, height: float) -> tuple[float, float, float, float]:
    """A box in inches -> the same box in fractions of the figure, as matplotlib wants it."""
    return left / WIDTH, bottom / HEIGHT, width / WIDTH, height / HEIGHT


def _away(flat: NDArray[np.float64]) -> NDArray[np.float64]:
    """Lengthens the horizontal part (2,) of a view's direction if it is so short, because the view looks down steeply,
    that the letter at its tip would cover the query."""
    return flat * max(1.0, 0.7 / max(float(np.linalg.norm(flat)), 1e-9))


def _mark(axes: Axes) -> None:
    """Draws a ring and four strokes around the middle, on a white halo, so that they do not cover the query."""
    from matplotlib.patches import Circle
    from matplotlib.patheffects import withStroke

    highlight = "#{:02x}{:02x}{:02x}".format(*HIGHLIGHT_COLOR)
    halo = [withStroke(linewidth=4.5, foreground="white")]
    axes.add_patch(
        Circle((0, 0), RING_RADIUS, fill=False, edgecolor=highlight, linewidth=2.2, path_effects=halo, zorder=3)
    )
    for x, y in ((1, 0), (-1, 0), (0, 1), (0, -1)):
        ends = np.array([RING_RADIUS, 2 * RING_RADIUS])
        axes.plot(
            x * ends, y * ends, color=highlight, linewidth=2.2, path_effects=halo, solid_capstyle="butt", zorder=3
        )


def _scale(axes: Axes, name: str, times: float) -> None:
    """Draws a bar of half a metre times the scene's scale, labelled with its true length, and the letter of the
    view."""
    x, y = -0.92 * PICTURE_HALF, -0.9 * PICTURE_HALF
    axes.plot([x, x + 0.5], [y, y], color="0.05", linewidth=2.5, solid_capstyle="butt", zorder=4)
    text = "50 cm" if times == 1 else rounded_length(0.5 * times)
    axes.text(x + 0.25, y + 0.03, text, fontsize=9, ha="center", va="bottom", zorder=4, bbox=_BARE)
    axes.text(
        x, 0.9 * PICTURE_HALF, name, fontsize=12, fontweight="bold", ha="center", va="center", zorder=4, bbox=_PAPER
    )


_BARE = {"boxstyle": "round,pad=0.1", "facecolor": "white", "edgecolor": "none", "alpha": 0.7}


def _write(figure: Figure, query: Query, classes: ClassTable, left: float) -> None:
    """Writes what is known of a query into the column on the right."""
    y = MARGIN + SIDE
    colors = {c.name: "#{:02x}{:02x}{:02x}".format(*c.color) for c in classes}

    def line(text: str, size: float, *, color: str | None = None, bold: bool = False) -> None:
        nonlocal y
        y -= size / 72 * 1.5
        x = left
        if color is not None:
            figure.text(x / WIDTH, y / HEIGHT, "\u25a0", fontsize=size + 2, color=color)
            x += 0.24
        weight = "bold" if bold else "normal"
        figure.text(x / WIDTH, y / HEIGHT, text, fontsize=size, fontweight=weight, color="0.1", parse_math=False)

    if query.guess is not None:
        first, second, confidence = query.guess
        line(f"{first}?", 13, color=colors.get(first), bold=True)
        line(f"confidence {confidence:.2f}", 9.5)
        line(f"or {second}?", 11, color=colors.get(second))
    known = [f"point {query.index}"]
    known += [] if query.rank is None else [f"rank {query.rank}"]
    line(", ".join(known), 9.5)
    if len(query.points) > 1:
        line(f"answers for {len(query.points):,} points, tinted", 9.5)


def _facts(query: Query) -> tuple[str, ...]:
    """What is known of a query, as comments of a cloud."""
    known = [] if query.rank is None else [f"rank {query.rank}"]
    if query.guess is not None:
        first, second, confidence = query.guess
        known += [f"predicted {first} {confidence:.3f}", f"second {second}"]
    return tuple(known)


def _shades(metres: NDArray[np.float64]) -> NDArray[np.uint8]:
    """(N, 3) colours of a cloud that has none: by height, shaded as if lit from the side. Intensity is not used, even
    where there is one, because it varies too much from point to point to show shapes."""
    light = np.ones(len(metres))
    for rows, near in neighbours(metres, 10):
        normal = principal_axes(metres, near)[1][:, :, 0]
        light[rows] = 0.5 + 0.5 * np.abs(normal @ LIGHT_DIRECTION)
    return np.rint(height_colors(metres[:, 2]) * light[:, None]).astype(np.uint8)


def _star(step: float) -> NDArray[np.float64]:
    """(S, 3) metres: points on six rays around the query, which begin at some distance so that they do not cover it."""
    tip = max(STAR_RADIUS, 2 * step)
    ray = np.arange(0.4 * tip, tip + 1e-9, 0.005)
    return np.vstack([np.outer(ray, axis) for axis in np.vstack([np.eye(3), -np.eye(3)])])
