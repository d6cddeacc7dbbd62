"""Clips: a cloud and a picture of each query, from two sides from which it can be seen."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote, urlparse

import numpy as np
import plyfile
import pytest
from conftest import Done, MadeScene, synthetic_predictions, tree
from matplotlib.image import imread

from hpal_cli.export.clips import COLORED_RADIUS, SceneClips, write_clips
from hpal_cli.export.context import HIGHLIGHT_COLOR
from hpal_cli.export.views import MIN_ANGLE, View, draw, two_views
from hpal_cli.label.queries import queries
from hpal_cli.predictions.store import PredictionStore
from hpal_cli.scene_table import SceneInfo
from hpal_cli.scenes.store import Points

Hpal = Callable[..., Done]

STEP = 0.05


def sheet(axis: int, at: float, size: float = 2.0) -> np.ndarray:
    """A square of points across an axis."""
    a, b = np.meshgrid(np.arange(-size, size, STEP), np.arange(-size, size, STEP))
    flat = np.column_stack([a.ravel(), b.ravel()])
    return np.insert(flat, axis, at, axis=1)


def views_of(xyz: np.ndarray, *, roof: bool = False) -> tuple[View, View]:
    return two_views(xyz, step=STEP, reach=1.0, floor=xyz[:, 2].min(), top=xyz[:, 2].max(), roof=roof)


def seen(xyz: np.ndarray, view: View, half: float = 1.0) -> np.ndarray:
    """What a picture shows, the origin (the first row) in red and all else in blue."""
    rgb = np.full((len(xyz), 3), (0, 0, 255), np.uint8)
    rgb[0] = 255, 0, 0
    return draw(xyz, rgb, view, reach=1.0, half=half, pixels=101, step=STEP)


def is_red(image: np.ndarray) -> np.ndarray:
    return (image[..., 0] > 80) & (image[..., 2] < 40)


@pytest.mark.parametrize(
    "around",
    [
        np.empty((0, 3)),
        sheet(2, 0),
        sheet(0, 0),
        np.vstack([sheet(2, 0), sheet(0, 0.3), sheet(1, 0.3)]),
        # In a box without a front: only from one side is it free.
        np.vstack([sheet(2, -0.2), sheet(2, 0.2), sheet(1, 0.2), sheet(0, 0.2), sheet(0, -0.2)]),
    ],
    ids=["alone", "on a floor", "on a wall", "in a corner", "in a box"],
)
def test_the_query_is_seen_from_both_sides(around: np.ndarray) -> None:
    xyz = np.vstack([[[0, 0, 0]], around])
    a, b = views_of(xyz)
    assert a.toward @ b.toward <= np.cos(np.radians(MIN_ANGLE)) + 1e-6
    for view in (a, b):
        np.testing.assert_allclose(np.linalg.norm([view.toward, view.right, view.up], axis=1), 1)
        assert abs(view.toward @ view.right) + abs(view.toward @ view.up) + abs(view.right @ view.up) < 1e-9
        assert is_red(seen(xyz, view))[49:52, 49:52].any()


def test_a_free_way_to_the_camera_is_found() -> None:
    """A small plate is put in the way of either view of a point on a floor: both go elsewhere."""
    xyz = np.vstack([[[0, 0, 0]], sheet(2, 0)])
    for view in views_of(xyz):
        a, b = np.meshgrid(*(np.arange(-0.08, 0.081, STEP / 2),) * 2)
        plate = 0.5 * view.toward + a.reshape(-1, 1) * view.right + b.reshape(-1, 1) * view.up
        xyz = np.vstack([xyz, plate])
    for view in views_of(xyz):
        along = xyz @ view.toward
        aside = np.linalg.norm(xyz - along[:, None] * view.toward, axis=1)
        assert not ((along > 0.1) & (along < 1) & (aside < STEP)).any()
        assert view.near == pytest.approx(1, abs=STEP)


def test_a_wall_is_looked_at_from_inside_of_the_room() -> None:
    """The query is on the left wall of a room that goes to the right."""
    xyz = np.vstack([[[0, 0, 0]], sheet(0, 0), sheet(2, -1) + np.array([2, 0, 0]), sheet(2, 1.5) + np.array([2, 0, 0])])
    for view in views_of(xyz, roof=True):
        assert view.toward[0] > 0.1


def test_the_nearest_point_is_on_top_and_what_hides_the_query_is_cut_away() -> None:
    camera = View(np.array([0.0, -1, 0]), np.array([1.0, 0, 0]), np.array([0.0, 0, 1]), 0.5)
    behind = np.vstack([[[0, 0, 0]], sheet(1, 0.3)])
    assert is_red(seen(behind, camera))[50, 50]
    before = np.vstack([[[0, 0, 0]], sheet(1, -0.3)])
    assert not is_red(seen(before, camera)).any()
    # Nearer to the camera than the cut, or beyond reach and before the query: neither is drawn.
    for far in (sheet(1, -0.6, size=0.5), sheet(1, -0.3, size=0.4) + np.array([1.5, 0, 0])):
        image = seen(np.vstack([[[0, 0, 0]], far]), camera, half=2)
        assert is_red(image)[50, 50]
        assert (image[~is_red(image)] == 255).all()


def test_surfaces_have_no_holes_and_right_is_right() -> None:
    camera = View(np.array([0.0, -1, 0]), np.array([1.0, 0, 0]), np.array([0.0, 0, 1]), 0.5)
    image = seen(np.vstack([[[0.4, 0, 0.6]], sheet(1, 0.3)]), camera)
    assert (image[..., 2] != image[..., 0]).all(), "white shines through"
    row, column = np.argwhere(is_red(image)).mean(axis=0)
    assert column == pytest.approx(50 + 0.4 * 50, abs=1.5)
    assert row == pytest.approx(50 - 0.6 * 50, abs=1.5)


def test_without_colour_height_shows_and_intensity_does_not() -> None:
    """So clips look alike in every round: scenes have intensity, and predictions do not."""
    hill = sheet(2, 0)
    hill[:, 2] = hill[:, 0] / 4
    noise = np.random.default_rng(0).uniform(0, 900, len(hill))
    info = SceneInfo(0, "a", len(hill), len(hill), "train", "")
    plain, noisy = (
        SceneClips(info, Points(hill, np.zeros(3), attributes=columns), 1.0, STEP).colors.astype(int)
        for columns in ({}, {"intensity": noise})
    )
    np.testing.assert_array_equal(plain, noisy)
    low, high = plain[hill[:, 0] < -1.5].mean(axis=0), plain[hill[:, 0] > 1.5].mean(axis=0)
    assert low[2] > low[0]
    assert high[0] > high[2]


def test_the_points_around_the_query_do_not_cover_it() -> None:
    camera = View(np.array([0.0, -1, 0]), np.array([1.0, 0, 0]), np.array([0.0, 0, 1]), 0.5)
    slanted = sheet(1, 0) + STEP / 2
    slanted[:, 1] = slanted[:, 2]
    alone, among = (is_red(seen(np.vstack([[[0, 0, 0]], rest]), camera)) for rest in (slanted[:0], slanted))
    np.testing.assert_array_equal(alone, among)


def test_a_query_in_a_crack_is_no_gap() -> None:
    """Closing the surface at both of its sides must not hide it."""
    camera = View(np.array([0.0, -1, 0]), np.array([1.0, 0, 0]), np.array([0.0, 0, 1]), 0.5)
    a, b = np.meshgrid(np.arange(-1, 1, STEP), np.arange(STEP, 1, STEP))
    side = np.column_stack([b.ravel(), np.full(a.size, -0.3), a.ravel()])
    image = seen(np.vstack([[[0, 0, 0]], side, side * [-1, 1, 1]]), camera)
    assert is_red(image)[50, 50]
    crack = image[20:40, 48:53]
    assert (crack[..., 2] != crack[..., 0]).all(), "the crack is as narrow as other gaps"


@pytest.fixture
def picked(predictions: Path, tmp_path: Path, hpal: Hpal) -> Path:
    scored = hpal("score", predictions, "-q").out
    assert hpal("select", "--budget", "5", "-o", "s.ply", "-q", stdin=scored, cwd=tmp_path).rc == 0
    return tmp_path / "s.ply"


def test_every_row_leads_to_its_picture(
    picked: Path, predictions: Path, scenes: Path, tmp_path: Path, hpal: Hpal
) -> None:
    (tmp_path / "sub").mkdir()
    call = ("label", "s.ply", "--table", "sub/q.csv", "--clips", "clips", "--source")
    done = hpal(*call, predictions, cwd=tmp_path)
    assert done.rc == 0, done.err
    assert done.out == b""
    with (tmp_path / "sub" / "q.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0])[-2:] == ["label", "clip"]
    assert all(row["clip"].startswith("file:///") for row in rows)
    pictures = [Path(unquote(urlparse(row["clip"]).path)) for row in rows]
    assert all(path.is_file() for path in pictures)
    assert len(list((tmp_path / "clips").rglob("*.*"))) == 2 * len(rows) == 10
    names = [path.resolve().relative_to(tmp_path / "clips").as_posix() for path in pictures]
    assert names == sorted(names), "files are in the order of the table"
    store = PredictionStore(predictions)
    for row, picture in zip(rows, pictures, strict=True):
        scene = store.table.by_name[row["scene"]]
        assert picture.parent == tmp_path / "clips" / scene.name.split("/")[0] / scene.name.split("/")[1]
        assert picture.stem.endswith(f"-{row['index']}")
        image = (imread(picture)[..., :3] * 255).round().astype(int)
        loud = (np.abs(image - HIGHLIGHT_COLOR).max(axis=2) < 12).sum()
        assert loud > 300
        points = plyfile.PlyData.read(str(picture.with_suffix(".ply")))["vertex"].data
        query = points[(points["scalar_query"] == 1) & (points["scalar_index"] >= 0)]
        assert len(query) == 1
        assert int(query["scalar_index"][0]) == int(row["index"])
        place = np.column_stack([points[a] for a in "xyz"])
        here = store.points(scene).position[int(row["index"])]
        near = np.linalg.norm(place - here, axis=1) < COLORED_RADIUS
        rgb = np.column_stack([points[c] for c in ("red", "green", "blue")]).astype(int)
        colored = (np.ptp(rgb, axis=1) > 0) & (points["scalar_query"] == 0)
        assert colored[near].any()
        assert not colored[~near].any()
        assert (points["scalar_index"] < 0).sum() > 20, "the star around it"
    # The same bytes again; nothing is replaced unasked, and a failure leaves nothing behind.
    first = tree(tmp_path / "clips")
    assert hpal("label", "s.ply", "--clips", "clips", "--source", predictions, cwd=tmp_path).rc == 1
    assert hpal("label", "s.ply", "--clips", "again", "--source", scenes, cwd=tmp_path).rc == 0
    assert tree(tmp_path / "clips") == first
    assert hpal("label", "s.ply", "--clips", "twice", "--source", predictions, cwd=tmp_path).rc == 0
    assert tree(tmp_path / "twice") == first


def test_clips_of_what_is_not_there(picked: Path, predictions: Path, tmp_path: Path, hpal: Hpal) -> None:
    done = hpal("label", "s.ply", "--clips", "clips", "--source", "absent.zarr", cwd=tmp_path)
    assert done.rc == 1
    assert not (tmp_path / "clips").exists()
    (tmp_path / "clips").write_text("a file")
    done = hpal("label", "s.ply", "--clips", "clips", "--table", "q.csv", "--source", predictions, cwd=tmp_path)
    assert done.rc == 1
    assert "is a file, and a folder is wanted" in done.err
    assert not (tmp_path / "q.csv").exists()


def test_clips_without_colour_in_feet_and_of_a_single_point(tmp_path: Path) -> None:
    foot = 0.3048
    room = np.vstack([sheet(2, 0), sheet(0, 0)]) / foot
    path = synthetic_predictions(
        tmp_path / "p.zarr",
        [MadeScene("one", np.zeros((1, 3)), np.ones((1, 2))), MadeScene("room", room, np.ones((len(room), 2)))],
        unit=foot,
    )
    store = PredictionStore(path)
    asked = np.zeros(2, [("x", "f8"), ("y", "f8"), ("z", "f8"), ("scene", "i4"), ("index", "i4")])
    asked["scene"], asked["index"] = [0, 1], [0, 700]
    found = queries(asked, store)
    pictures = write_clips(found, store, tmp_path / "clips")
    assert [p.name for p in pictures] == ["0001-0.png", "0001-700.png"]
    points = plyfile.PlyData.read(str(pictures[1].with_suffix(".ply")))["vertex"].data
    star = np.column_stack([points[a] for a in "xyz"])[points["scalar_index"] < 0]
    assert np.linalg.norm(star - room[700], axis=1).max() * foot == pytest.approx(0.15, abs=0.01)


def test_a_failure_half_way_leaves_no_clips(picked: Path, predictions: Path, tmp_path: Path) -> None:
    from hpal_cli.errors import HpalError

    store = PredictionStore(predictions)
    asked = np.zeros(2, [("x", "f8"), ("y", "f8"), ("z", "f8"), ("scene", "i4"), ("index", "i4")])
    asked["index"] = [5, 10**6]
    found = queries(asked)
    with pytest.raises(HpalError, match="no point 1000000"):
        write_clips(found, store, tmp_path / "clips")
    assert not [p for p in (tmp_path / "clips").rglob("*") if p.is_file()]
