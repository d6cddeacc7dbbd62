"""Things to look at: what the clouds say at each point, and that the picture shows each pick where it is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import plyfile
import pytest
from PIL import Image

from hpal_cli.classes import ClassTable
from hpal_cli.export.context import HIGHLIGHT_COLOR, LIGHT_GREY, context_cloud, greyed, nearest_pick, overview
from hpal_cli.export.top_view import roofed, top_view
from hpal_cli.scene_table import SceneInfo
from hpal_cli.scenes.store import Points
from hpal_cli.score.uncertainty import ANSWERED_COLOR, score_colors, uncertainty_cloud
from hpal_cli.writers.cloud import ViewerCloud, write

CLASSES = ClassTable.from_json(
    [
        {"id": 0, "name": "wall", "color": [10, 200, 60]},
        {"id": 1, "name": "floor", "color": [20, 30, 220]},
        {"id": 2, "name": "a $ign", "color": [250, 240, 10]},
    ]
)
EAST = np.array([900_000.0, 6_500_000.0, 100.0])
MISTAKEN = ("RED", "GREEN", "BLUE", "NX", "NY", "NZ", "INTENSITY", "GRAY")


def some_room(points: int = 500, *, color: bool = True) -> Points:
    rng = np.random.default_rng(0)
    rgb = rng.integers(0, 256, (points, 3)).astype(np.uint8) if color else None
    return Points(rng.uniform(0, 3, (points, 3)).astype(np.float32), EAST, rgb)


def scene_of(points: Points) -> SceneInfo:
    return SceneInfo(7, "Area_1/office_2", len(points.xyz), len(points.xyz), "train", "0" * 16)


def floor(width: float = 4.0, depth: float = 3.0, step: float = 0.01) -> Points:
    """Uncoloured and level: the picture has one grey."""
    x, y = np.meshgrid(np.arange(0, width, step), np.arange(0, depth, step))
    return Points(np.column_stack([x.ravel(), y.ravel(), np.zeros(x.size)]).astype(np.float32), EAST)


def box_room() -> Points:
    """A floor and a ceiling, 3 m apart."""
    low = floor()
    return Points(np.concatenate([low.xyz, low.xyz + np.float32([0, 0, 3])]), EAST)


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def ground(image: np.ndarray) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of the level floor in the picture."""
    grey = (image == LIGHT_GREY).all(axis=2)
    # Letters have a few pixels of it at their edges.
    rows, columns = np.flatnonzero(grey.sum(axis=1) > 100), np.flatnonzero(grey.sum(axis=0) > 100)
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def place_of(position: np.ndarray, points: Points, image: np.ndarray) -> tuple[float, float]:
    left, top, right, bottom = ground(image)
    low, high = points.xyz.min(axis=0), points.xyz.max(axis=0)
    share = (position - low)[:2] / (high - low)[:2]
    return left + share[0] * (right - left), bottom - share[1] * (bottom - top)


def hits_of_ring(image: np.ndarray, color: tuple[int, ...], at: tuple[float, float]) -> int:
    """In how many of 24 directions the colour is met between 4 and 12 pixels from a place."""
    found = 0
    for angle in np.arange(24) * np.pi / 12:
        reach = np.arange(4, 12.5, 0.5)
        column = np.rint(at[0] + reach * np.cos(angle)).astype(int)
        row = np.rint(at[1] + reach * np.sin(angle)).astype(int)
        found += bool((np.abs(image[row, column] - color).max(axis=1) < 30).any())
    return found


def read_back(cloud: ViewerCloud, path: Path) -> plyfile.PlyData:
    write(cloud, path, overwrite=False)
    return plyfile.PlyData.read(path)


def test_context_colours_the_picks_and_greys_the_rest() -> None:
    points = some_room()
    picks = np.array([400, 3, 77])
    cloud = context_cloud(
        points, picks, np.array([2, 1, 3]), np.array([0.5, 0.9, 0.25]), np.array([1, -1, 2]), CLASSES, scene_of(points)
    )
    assert list(cloud.fields) == ["scene", "index", "rank", "score"]
    assert (cloud.fields["scene"] == 7).all()
    np.testing.assert_array_equal(cloud.fields["index"], np.arange(500))
    rank, score = np.zeros(500), np.zeros(500)
    rank[[3, 400, 77]], score[[3, 400, 77]] = [1, 2, 3], [0.9, 0.5, 0.25]
    np.testing.assert_array_equal(cloud.fields["rank"], rank)
    np.testing.assert_array_equal(cloud.fields["score"], score.astype(np.float32))
    assert cloud.rgb is not None
    assert cloud.rgb[picks].tolist() == [[20, 30, 220], list(HIGHLIGHT_COLOR), [250, 240, 10]]
    others = np.delete(cloud.rgb, picks, axis=0).astype(int)
    assert (others == others[:, :1]).all()
    brightness = np.delete(points.rgb @ np.array([0.299, 0.587, 0.114]), picks)
    assert (np.diff(others[np.argsort(brightness), 0]) >= 0).all()
    assert others.min() >= 140
    assert 60 < np.ptp(others) < np.ptp(brightness)


def test_context_without_colours_and_predictions() -> None:
    points = some_room(color=False)
    cloud = context_cloud(points, np.array([9]), np.array([1]), np.array([0.5]), None, CLASSES, scene_of(points))
    assert cloud.rgb is not None
    assert cloud.rgb[9].tolist() == list(HIGHLIGHT_COLOR)
    assert np.unique(np.delete(cloud.rgb, 9, axis=0)).tolist() == [LIGHT_GREY]
    np.testing.assert_array_equal(greyed(points)[[0, 9]], [[LIGHT_GREY] * 3] * 2)


def test_context_comes_back_from_a_ply_to_the_bit(tmp_path: Path) -> None:
    points = some_room()
    cloud = context_cloud(points, np.array([9]), np.array([1]), np.array([0.7]), None, CLASSES, scene_of(points))
    ply = read_back(cloud, tmp_path / "a.ply")
    vertex = ply["vertex"]
    for axis, name in enumerate("xyz"):
        np.testing.assert_array_equal(vertex[name], EAST[axis] + points.xyz[:, axis])
    # 900 km east, float32 has steps of 6 cm.
    assert len(np.unique(vertex["x"])) == len(np.unique(points.xyz[:, 0]))
    (row,) = np.flatnonzero(vertex["scalar_rank"])
    assert (vertex["scalar_scene"][row], vertex["scalar_index"][row]) == (7, 9)
    assert vertex["scalar_score"][row] == np.float32(0.7)
    assert "scene 7 500 Area_1/office_2" in ply.comments
    assert "class 2 a $ign" in ply.comments


def test_uncertainty_has_one_scale_for_all_rooms(tmp_path: Path) -> None:
    points = some_room()
    score = np.linspace(0, 1, 500)
    shares = {"share_point": 0.9 * score, "share_10cm": 0.1 * score}
    answered = np.array([4, 250])
    cloud = uncertainty_cloud(points, score, shares, answered, scene_of(points))
    vertex = (ply := read_back(cloud, tmp_path / "a.ply"))["vertex"]
    expected = ["scalar_scene", "scalar_index", "scalar_score", "scalar_share_point", "scalar_share_10cm"]
    assert [p.name for p in vertex.properties if p.name.startswith("scalar_")] == expected
    np.testing.assert_array_equal(vertex["scalar_score"], score.astype(np.float32))
    total = vertex["scalar_share_point"].astype(float) + vertex["scalar_share_10cm"]
    np.testing.assert_allclose(total, vertex["scalar_score"], atol=1e-6)
    np.testing.assert_array_equal(vertex["x"], points.position[:, 0])
    assert any("0 (dark) to 1 (bright)" in c for c in ply.comments)

    assert cloud.rgb is not None
    assert cloud.rgb[answered].tolist() == [list(ANSWERED_COLOR)] * 2
    others = np.delete(np.arange(500), answered)
    np.testing.assert_array_equal(cloud.rgb[others], score_colors(score)[others])
    assert len(np.unique(cloud.rgb[others], axis=0)) > 200
    assert (np.diff(cloud.rgb[others] @ np.array([0.2126, 0.7152, 0.0722])) > -1.5).all()
    # A room that is sure everywhere stays dark.
    sure = uncertainty_cloud(points, 0.05 * score, {}, np.zeros(500, bool), scene_of(points))
    assert sure.rgb is not None
    assert (np.abs(sure.rgb.astype(int) - sure.rgb[0]) < 20).all()
    mask = np.isin(np.arange(500), answered)
    np.testing.assert_array_equal(uncertainty_cloud(points, score, {}, mask, scene_of(points)).rgb, cloud.rgb)


def test_uncertainty_takes_no_column_that_does_not_fit() -> None:
    points = some_room(5)
    none = np.zeros(5, bool)
    with pytest.raises(ValueError, match="may not be called index"):
        uncertainty_cloud(points, np.zeros(5), {"index": np.zeros(5)}, none, scene_of(points))
    with pytest.raises(ValueError, match="share_1m has the shape"):
        uncertainty_cloud(points, np.zeros(5), {"share_1m": np.zeros(4)}, none, scene_of(points))


def test_no_field_is_mistaken_for_colour_or_normals() -> None:
    points = some_room(5)
    zero = np.zeros(5)
    shares = dict.fromkeys(("share_point", "share_10cm", "share_50cm", "share_1m"), zero)
    clouds = [
        uncertainty_cloud(points, zero, shares, np.zeros(5, bool), scene_of(points)),
        context_cloud(points, np.array([1]), np.array([1]), np.array([1.0]), None, CLASSES, scene_of(points)),
    ]
    names = [name for cloud in clouds for name in cloud.fields]
    assert len(names) == 11
    assert not [name for name in names if any(word in name.upper() for word in MISTAKEN)]


def test_nearest_pick_is_the_nearest_of_all_others() -> None:
    xyz = np.random.default_rng(0).uniform(0, 5, (600, 3))
    table = np.linalg.norm(xyz[:, None] - xyz[None], axis=2) + np.diag(np.full(600, np.inf))
    np.testing.assert_allclose(nearest_pick(xyz), table.min(axis=1))
    assert nearest_pick(np.array([[1.0, 2, 3], [1, 2, 3], [1, 2, 5]])).tolist() == [0, 0, 2]
    assert nearest_pick(xyz[:1]).tolist() == [np.inf]
    assert len(nearest_pick(xyz[:0])) == 0


@pytest.mark.parametrize("unit", [1.0, 0.3048])
def test_every_pick_has_a_ring_of_its_class_where_it_is(tmp_path: Path, unit: float) -> None:
    points = floor()
    corner = len(points.xyz) - 1
    picks = np.array([30_150, 60_340, 90_070, corner, 0])
    guess = np.array([0, 1, 2, -1, 1])
    overview(points, picks, np.arange(5) + 1, guess, CLASSES, tmp_path / "a.png", title="room", unit=unit)
    image = pixels(tmp_path / "a.png")
    colors = [*CLASSES.colors.tolist(), HIGHLIGHT_COLOR]
    for pick, color in zip(picks, guess, strict=True):
        at = place_of(points.xyz[pick], points, image)
        for other in range(-1, 3):
            hits = hits_of_ring(image, colors[other], at)
            assert hits == 24 if other == color else hits == 0, (pick, color, other, hits)
    # And nowhere else.
    left, top, right, bottom = ground(image)
    bare = points.xyz[50_050]
    at = place_of(bare, points, image)
    assert (image[int(at[1]) - 12 : int(at[1]) + 12, int(at[0]) - 12 : int(at[0]) + 12] == LIGHT_GREY).all()
    assert right - left > 600
    assert abs((right - left) / (bottom - top) - 4 / 3) < 0.02


def test_a_pick_in_the_ceiling_has_a_dashed_ring(tmp_path: Path) -> None:
    points = box_room()
    half = len(points.xyz) // 2
    overview(points, np.array([30_150, half + 60_250]), np.array([1, 2]), np.array([0, 0]), CLASSES, tmp_path / "a.png",
             title="", unit=1.0)  # fmt: skip
    image = pixels(tmp_path / "a.png")
    # The floor is the lowest, so the darkest grey of a cloud without colours.
    grey = image[200, 300]
    image = np.where((image == grey).all(axis=2, keepdims=True), LIGHT_GREY, image)
    whole, dashed = (
        hits_of_ring(image, CLASSES[0].color, place_of(points.xyz[row], points, image))
        for row in (30_150, half + 60_250)
    )
    assert whole == 24
    assert 8 <= dashed <= 20


def test_a_ceiling_is_cut_but_no_hill() -> None:
    assert roofed(box_room().xyz)
    assert roofed(box_room().xyz[::7])
    hill = floor()
    hill.xyz[:, 2] = 5 - np.hypot(hill.xyz[:, 0] - 2, hill.xyz[:, 1] - 1.5)
    assert not roofed(hill.xyz)
    assert not roofed(floor().xyz)
    plateau = floor()
    plateau.xyz[plateau.xyz[:, 0] > 1, 2] = 5
    assert not roofed(plateau.xyz)
    rgb = np.zeros((len(hill.xyz), 3), np.uint8)
    assert (top_view(hill.xyz, rgb, pixel=0.05, step=0.01, below=1.0) == 0).all()


def of_a_grid(x: float, y: float, z: float, *, step: float = 0.04, missing: float = 0.0) -> np.ndarray:
    """A level sheet at height z: a point anywhere in each cell, but for a share of the cells."""
    rng = np.random.default_rng(0)
    cells = np.stack(np.meshgrid(np.arange(0, x, step), np.arange(0, y, step)), axis=-1).reshape(-1, 2)
    cells = cells[rng.random(len(cells)) >= missing]
    return np.column_stack([cells + rng.uniform(0, step, cells.shape), np.full(len(cells), z)])


@pytest.mark.parametrize("missing", [0.0, 0.1])
@pytest.mark.parametrize("pixel", [0.006, 0.01, 0.013, 0.04])
def test_a_sheet_is_closed_where_points_are_as_dense_as_the_grid(pixel: float, missing: float) -> None:
    """What lies under the sheet does not shine through."""
    sheet, under = of_a_grid(4, 3, 0.7, missing=missing), of_a_grid(4, 3, 0, step=0.02)
    for xyz, grey in ((sheet, 50), (np.vstack([sheet, under]), 50)):
        rgb = np.zeros((len(xyz), 3), np.uint8)
        rgb[: len(sheet)] = grey
        image = top_view(xyz, rgb, pixel=pixel, step=0.04, below=1.0)
        # Its outermost points lie a little inside of the sheet.
        rim = int(0.06 / pixel) + 1
        inner = image[rim:-rim, rim:-rim, 0]
        assert (inner == grey).mean() >= 0.999


def test_thin_things_stay_thin_and_doors_stay_open() -> None:
    post = np.column_stack([np.zeros(50), np.full(50, 1.5), np.linspace(0.1, 1, 50)])
    wire = np.column_stack([np.arange(0, 4, 0.04), np.full(100, 2.0), np.full(100, 1.0)])
    door = of_a_grid(4, 3, 0)
    door = door[(np.abs(door[:, 0] - 2) > 0.4) | (door[:, 1] > 1)]
    post[:, 0] += 3
    xyz = np.vstack([door, post, wire])
    rgb = np.full((len(xyz), 3), 200, np.uint8)
    rgb[len(door) :] = 0
    image = top_view(xyz, rgb, pixel=0.01, step=0.04, below=1.0)[::-1, :, 0]
    assert 3 <= (image[120:180, 280:320] == 0).any(axis=0).sum() <= 6
    assert 3 <= (image[190:210, 50:250] == 0).sum(axis=0).mean() <= 6
    opening = (image[:100] == 255).sum(axis=1) * 0.01
    assert 0.7 < opening[10:90].mean() < 0.85


def test_an_overview_of_a_grid_has_no_specks(tmp_path: Path) -> None:
    xyz = of_a_grid(6, 4, 0, missing=0.1)
    points = Points(xyz.astype(np.float32), EAST)
    overview(points, np.array([0]), np.array([1]), None, CLASSES, tmp_path / "a.png", title="", unit=1.0)
    image = pixels(tmp_path / "a.png")
    left, top, right, bottom = ground(image)
    inner = image[top + 12 : bottom - 12, left + 12 : right - 12]
    assert (inner == LIGHT_GREY).all(axis=2).mean() >= 0.999


def test_the_same_picks_make_the_same_bytes(tmp_path: Path) -> None:
    points = some_room(5000)
    rng = np.random.default_rng(1)
    picks, guess = rng.choice(5000, 60, replace=False), rng.integers(-1, 3, 60)
    rank = rng.permutation(60) + 1
    other = rng.permutation(60)
    overview(points, picks, rank, guess, CLASSES, tmp_path / "a.png", title="a", unit=1.0, radius=0.2)
    overview(points, picks, rank, guess, CLASSES, tmp_path / "b.png", title="a", unit=1.0, radius=0.2)
    overview(
        points, picks[other], rank[other], guess[other], CLASSES, tmp_path / "c.png", title="a", unit=1.0, radius=0.2
    )
    overview(points, picks[:-1], rank[:-1], guess[:-1], CLASSES, tmp_path / "d.png", title="a", unit=1.0, radius=0.2)
    a, b, c, d = ((tmp_path / f"{name}.png").read_bytes() for name in "abcd")
    assert a == b == c
    assert a != d


def test_the_radius_is_drawn_to_scale(tmp_path: Path) -> None:
    points = floor()
    pick = (points, np.array([30_150]), np.array([1]), np.array([0]), CLASSES)
    circle = (round(0.9 * 255),) * 3
    widths = []
    for radius in (0.1, 0.2, 0.001, 50.0):
        overview(*pick, tmp_path / "a.png", title="", unit=1.0, radius=radius)
        image = pixels(tmp_path / "a.png")
        # The tallest column of it; letters have a few pixels of the same grey.
        tall = int((image == circle).all(axis=2).sum(axis=0).max())
        widths.append(tall if tall > 10 else 0)
        left, _, right, _ = ground(image)
    metre = (right - left) / 4
    assert widths == [pytest.approx(0.2 * metre, abs=5), pytest.approx(0.4 * metre, abs=5), 0, 0]


@pytest.mark.parametrize("unit", [1.0, 0.3048, 250.0])
def test_the_scale_bar_has_a_round_length(tmp_path: Path, unit: float) -> None:
    points = floor()
    overview(points, np.array([30_150]), np.array([1]), np.array([0]), CLASSES, tmp_path / "a.png", title="", unit=unit)
    image = pixels(tmp_path / "a.png")
    left, _, right, bottom = ground(image)
    bar = int((image[bottom + 10 :] < 60).all(axis=2).sum(axis=1).max())
    # The strokes at its ends are 2.5 pixels wide and centred on them.
    metres = (bar - 2.5) / (right - left) * 4 * unit
    assert 50 < bar <= 148
    assert min(abs(metres / (m * 10.0**e) - 1) for m in (1, 2, 5) for e in range(-3, 4)) < 0.03


@pytest.mark.parametrize("picked", [0, 1, 2])
@pytest.mark.parametrize("color", [True, False])
@pytest.mark.parametrize(
    "xyz",
    [
        np.zeros((1, 3)),
        np.zeros((9, 3)),
        np.column_stack([np.arange(9), np.zeros(9), np.zeros(9)]),
        np.column_stack([np.zeros(9), np.arange(9) * 1000, np.zeros(9)]),
        np.column_stack([np.zeros(9), np.zeros(9), np.arange(9)]),
        np.column_stack([np.arange(9) % 3, np.arange(9) // 3, np.full(9, 5)]) * 1e-3,
    ],
    ids=["point", "one place", "line", "far line", "pole", "millimetres"],
)
def test_no_scene_is_too_strange(tmp_path: Path, xyz: np.ndarray, color: bool, picked: int) -> None:
    rgb = np.full((len(xyz), 3), 100, np.uint8) if color else None
    points = Points(xyz.astype(np.float32), EAST, rgb)
    picks = np.arange(min(picked, len(xyz)))
    overview(points, picks, picks + 1, picks * 0, CLASSES, tmp_path / "a.png", title="$x", unit=1.0, radius=0.2)
    image = pixels(tmp_path / "a.png")
    assert 60 < image.shape[0] < 1300
    assert 600 <= image.shape[1] < 1100
    shown = (np.abs(image - CLASSES[0].color).max(axis=2) < 30).any()
    assert shown == bool(picked)
    cloud = context_cloud(points, picks, picks + 1, np.ones(len(picks)), None, CLASSES, scene_of(points))
    assert cloud.rgb is not None
    assert ((cloud.rgb == HIGHLIGHT_COLOR).all(axis=1)).sum() == len(picks)


def test_long_names_and_many_classes_stay_on_the_paper(tmp_path: Path) -> None:
    classes = ClassTable.from_names([f"a class of a very long ${n}$ name {n}" for n in range(60)])
    points = floor(1.0, 8.0, 0.05)
    rng = np.random.default_rng(0)
    picks = rng.choice(len(points.xyz), 300, replace=False)
    title = "Building_" + "0123456789" * 9 + ": picks of round-3.ply and their surroundings"
    overview(points, picks, np.arange(300) + 1, picks % 60, classes, tmp_path / "a.png", title=title, unit=1.0)
    image = pixels(tmp_path / "a.png")
    frame = np.concatenate([image[:5].reshape(-1, 3), image[-5:].reshape(-1, 3), image[:, -12:].reshape(-1, 3)])
    assert (frame == 255).all()
