"""Pictures of whole scenes: what they show, in which colour, and that nothing but the scene decides their bytes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from conftest import Done, tree
from matplotlib.image import imread
from synthetic_scenes import FLOOR, Campaign, Room, answers, face, first_of_each, room, synthetic_scenes

from hpal_cli.classes import ClassTable
from hpal_cli.errors import HpalError
from hpal_cli.export.pictures import NO_CLASS, RIGHT, WRONG, class_layer, error_layer, write_pictures
from hpal_cli.export.scene_picture import Layer, height_layer, scene_picture
from hpal_cli.export.scene_views import NO_POINT, Scene, framed, from_above, from_corner
from hpal_cli.predictions import store as prediction_store
from hpal_cli.predictions.store import PredictionStore
from hpal_cli.scenes.store import SceneStore

Hpal = Callable[..., Done]

BOX = (400, 400)


def scene_of(xyz: np.ndarray, *, unit: float = 1.0, grid: float | None = None, block: int = 10**9) -> Scene:
    def blocks():  # type: ignore[no-untyped-def]
        for start in range(0, len(xyz), block):
            yield np.asarray(xyz[start : start + block], np.float32)

    return framed(blocks, len(xyz), unit=unit, grid=grid)


def closed_room(step: float = 0.05) -> tuple[np.ndarray, np.ndarray]:
    """5 x 4 x 2.6 m with a table in it, and of each point whether it is the table's."""
    parts = [
        face((0, 0, z), (5, 0, 0), (0, 4, 0), step) for z in (0, 2.6)
    ] + [
        face((0, 0, 0), (5, 0, 0), (0, 0, 2.6), step),
        face((0, 4, 0), (5, 0, 0), (0, 0, 2.6), step),
        face((0, 0, 0), (0, 4, 0), (0, 0, 2.6), step),
        face((5, 0, 0), (0, 4, 0), (0, 0, 2.6), step),
        face((2, 1.5, 0.7), (1, 0, 0), (0, 1, 0), step),
    ]  # fmt: skip
    is_table = np.repeat(np.arange(len(parts)) == len(parts) - 1, [len(part) for part in parts])
    return np.concatenate(parts), is_table


def test_a_room_is_seen_into_from_above_and_from_the_corner() -> None:
    """Neither the ceiling nor a wall hides the table; nearly all of it shows, at its true size."""
    xyz, is_table = closed_room()
    scene = scene_of(xyz, grid=0.05)
    assert scene.roof
    above = from_above(scene, BOX)
    shown = above.rows[above.rows != NO_POINT]
    assert xyz[shown, 2].max() <= scene.cut < 2.6
    fine = above.pixel / 2
    assert is_table[shown].sum() * fine**2 == pytest.approx(1.0, rel=0.15)
    assert above.shape[1] * above.pixel == pytest.approx(5, rel=0.02)
    corner = from_corner(scene, BOX)
    tables = np.unique(corner.rows[(corner.rows != NO_POINT)])
    assert np.isin(np.flatnonzero(is_table), tables).mean() > 0.95
    # Of the four walls those at the back are there.
    back = xyz[tables][(xyz[tables, 2] > 1) & ~is_table[tables]]
    assert len(np.unique(np.round(back[:, 0], 2))) > 20
    assert (
        0 < sum(((np.abs(back[:, axis] - at) < 0.01).sum() > 200) for axis, at in ((0, 0), (0, 5), (1, 0), (1, 4))) < 4
    )


@pytest.mark.parametrize("height", [4.0, 25.0])
def test_a_wood_or_a_street_is_no_room(height: float) -> None:
    """Crowns of trees above ground, and roofs with nothing below, are not cut away."""
    rng = np.random.default_rng(0)
    ground = np.column_stack([rng.uniform(0, 50, (30_000, 2)), np.zeros(30_000)])
    roof = np.column_stack([rng.uniform(0, 50, (30_000, 2)), np.full(30_000, height)])
    house = roof[:, 0] > 20
    street = np.vstack([ground[ground[:, 0] < 20], roof[house]])
    assert not scene_of(street).roof
    if height < 6:
        return
    crowns = np.column_stack([rng.uniform(0, 50, (30_000, 2)), np.zeros(30_000)])
    # Domes 5 m across, which reach the height in their middle.
    top = height * (0.75 + 0.25 * np.cos(crowns[:, 0] * 0.63) * np.cos(crowns[:, 1] * 0.63))
    crowns[:, 2] = top - rng.uniform(0, 0.2 * height, 30_000)
    assert not scene_of(np.vstack([ground, crowns])).roof


def test_colours_are_the_classes_own_and_errors_are_loud(tmp_path: Path) -> None:
    """On a floor, which no shadow darkens, each half has exactly its colour over its half of the area."""
    xyz = face((0, 0, 0), (4, 0, 0), (0, 2, 0), 0.02)
    half = xyz[:, 0] < 2
    scene = scene_of(xyz, grid=0.02)
    table = ClassTable.from_names(["left", "right"])
    label = np.where(half, 0, 1)
    said = np.where(half, 0, 0)
    truth = label.copy()
    truth[xyz[:, 1] < 0.5] = -1
    layers = [class_layer("truth", table, truth), class_layer("said", table, said), error_layer(truth, said)]
    shown = [from_above(scene, BOX).colored(layer.colors) for layer in layers]
    area = shown[0].shape[0] * shown[0].shape[1]

    def share(image: np.ndarray, color: tuple[int, int, int]) -> float:
        return float((image == color).all(axis=2).sum() / area)

    assert share(shown[0], table[0].color) == pytest.approx(0.375, abs=0.02)
    assert share(shown[0], table[1].color) == pytest.approx(0.375, abs=0.02)
    assert share(shown[0], NO_CLASS) == pytest.approx(0.25, abs=0.02)
    assert share(shown[1], table[0].color) == pytest.approx(1, abs=0.02)
    assert share(shown[2], RIGHT) == pytest.approx(0.375, abs=0.02)
    assert share(shown[2], WRONG) == pytest.approx(0.375, abs=0.02)
    assert share(shown[2], NO_CLASS) == pytest.approx(0.25, abs=0.02)
    assert layers[2].title == "errors: 50.0 % of the points"
    # What is right and left, up and down, is so in the picture.
    assert (shown[0][5, 5] == table[0].color).all()
    assert (shown[0][5, -5] == table[1].color).all()
    assert (shown[0][-5, 5] == NO_CLASS).all()
    assert [name for name, _ in layers[0].legend] == ["left", "right", "no label"]
    assert [name for name, _ in layers[1].legend] == ["left"]
    assert error_layer(np.full(3, -1), np.zeros(3, int)).title == "errors: no point has a label"
    scene_picture(scene, layers, tmp_path / "a.png", title="a $ of _x_", unit=1.0)
    image = (imread(tmp_path / "a.png")[..., :3] * 255).round().astype(int)
    assert (image == WRONG).all(axis=2).sum() > 10_000


def test_heights_run_from_low_to_high() -> None:
    xyz = face((0, 0, 0), (4, 0, 0), (0, 2, 0), 0.02)
    xyz[:, 2] = xyz[:, 0]
    scene = scene_of(xyz, grid=0.02, block=777)
    layer = height_layer(scene, 0.5)
    colors = layer.colors(np.arange(len(xyz))).astype(int)
    order = np.argsort(xyz[:, 2], kind="stable")
    assert (np.diff(colors[order] @ [1, 2, -1]) >= -4).all()  # they are rounded
    assert layer.ramp == ("low", "1.9\u00a0m higher")


@pytest.mark.parametrize("block", [1, 999, 4096])
def test_blocks_make_no_difference(block: int, tmp_path: Path) -> None:
    """The size of the blocks does not change the picture, even if points lie at equal depth."""
    xyz = np.round(room(noise=0.0).xyz, 2)
    xyz = np.vstack([xyz, xyz])
    layer = Layer("rows", lambda rows: np.stack([rows % 256, rows // 256, 0 * rows], axis=1).astype(np.uint8))
    for name, size in (("a", 10**9), ("b", block)):
        scene = scene_of(xyz, block=size)
        scene_picture(scene, [layer, height_layer(scene, 1.0)], tmp_path / name, title="x", unit=1.0)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize(
    "xyz",
    [
        np.zeros((1, 3)),
        np.zeros((50, 3)),
        np.linspace(0, 1, 50)[:, None] * [0, 0, 1.0],
        face((0, 0, 5), (9, 0, 0), (0, 0.1, 0)),
    ],
    ids=["a point", "the same point", "a pole", "a strip"],
)
def test_small_and_flat_scenes_have_pictures(xyz: np.ndarray, tmp_path: Path) -> None:
    scene = scene_of(xyz)
    layer = Layer("red", lambda rows: np.tile(np.array([255, 0, 0], np.uint8), (len(rows), 1)))
    scene_picture(scene, [layer], tmp_path / "a.png", title="x", unit=1.0)
    image = imread(tmp_path / "a.png")[..., :3]
    # Where a disc has few pixels, all of them are mixed with the paper.
    assert ((image[..., 0] > 0.5) & (image[..., 1] < 0.3)).any()


def test_a_scan_thinner_than_its_grid_has_no_holes() -> None:
    rng = np.random.default_rng(0)
    xyz = face((0, 0, 0), (20, 0, 0), (0, 20, 0), 0.25) + rng.uniform(0, 0.1, (6400, 3)) * [1, 1, 0]
    image = from_above(scene_of(xyz, grid=0.04), BOX)
    assert (image.rows[10:-10, 10:-10] != NO_POINT).mean() > 0.99


def test_what_strays_far_away_does_not_make_the_scene_small() -> None:
    xyz = np.vstack([room().xyz, [[300, 0, 0], [0, 0, 90]]])
    scene = scene_of(xyz)
    assert scene.outside == 2
    assert (scene.high - scene.low < 4).all()
    assert scene_of(room().xyz).outside == 0


def test_eval_draws_the_truth_and_the_errors(hpal: Hpal, tmp_path: Path) -> None:
    made = Campaign(tmp_path)
    made.spread(tmp_path / "spread.zarr", alike=True)
    command = ("eval", tmp_path / "spread.zarr", "--truth", tmp_path / "rooms.zarr", "--split", "all", "--pictures")
    done = hpal(*command, tmp_path / "one", "--json")
    assert done.rc == 0, done.err
    assert "one/: 4 pictures" in done.err
    assert done.out.startswith(b"{")
    assert hpal(*command, tmp_path / "two", "--jobs", 2).rc == 0
    assert tree(tmp_path / "one") == tree(tmp_path / "two")
    assert sorted(tree(tmp_path / "one")) == ["a.png", "b.png", "c.png", "d.png"]
    again = hpal(*command, tmp_path / "one")
    assert again.rc == 1
    assert "--overwrite" in again.err


def test_eval_with_random_answers_draws_what_was_predicted(hpal: Hpal, tmp_path: Path) -> None:
    """There is no truth to draw, and the answers say nothing of the other points."""
    made = Campaign(tmp_path)
    made.spread(tmp_path / "spread.zarr", alike=True)
    answers(tmp_path / "check.zarr", made.store, {"b": [(3, 0), (9, 1)]})
    command = ("eval", tmp_path / "spread.zarr", "--truth")
    assert hpal(*command, tmp_path / "check.zarr", "--scenes", "b", "--pictures", tmp_path / "some").rc == 0
    assert hpal(*command, made.store.path, "--split", "all", "--scenes", "b", "--pictures", tmp_path / "all").rc == 0
    some, whole = (imread(tmp_path / folder / "b.png") for folder in ("some", "all"))
    assert some.shape[1] < whole.shape[1]


def test_spread_draws_without_any_truth_or_colour(hpal: Hpal, tmp_path: Path) -> None:
    """Nothing is known of some of the points, and their unit is not the metre."""
    one = room("north/a")
    one = Room(one.name, one.xyz * 1000, one.label)
    far = face((9000, 0, 0), (500, 0, 0), (0, 500, 0), 40)
    one = Room(one.name, np.vstack([one.xyz, far]), np.append(one.label, np.full(len(far), FLOOR)))
    store = synthetic_scenes(tmp_path / "rooms.zarr", [one], unit=0.001, labels=False)
    answers(tmp_path / "labels.zarr", store, {one.name: first_of_each(one)})
    words = ("spread", tmp_path / "labels.zarr", tmp_path / "rooms.zarr", "-o", tmp_path / "s.zarr")
    done = hpal(*words, "--pictures", tmp_path / "out")
    assert done.rc == 0, done.err
    assert list(tree(tmp_path / "out")) == ["north/a.png"]
    said = PredictionStore(tmp_path / "s.zarr").predicted(store.table[0])
    assert (said == -1).any()
    image = (imread(tmp_path / "out/north/a.png")[..., :3] * 255).round().astype(int)
    assert (image == NO_CLASS).all(axis=2).sum() > 500
    # What would be refused at the end is refused before anything is computed.
    again = hpal(*words[:-1], tmp_path / "t.zarr", "--pictures", tmp_path / "out")
    assert again.rc == 1
    assert "exists already" in again.err
    assert not (tmp_path / "t.zarr").exists()


def test_predict_draws_too(hpal: Hpal, tmp_path: Path) -> None:
    made = Campaign(tmp_path)
    made.spread(tmp_path / "spread.zarr", alike=True)
    learned = ("--labels", tmp_path / "labels.zarr", "--spread", tmp_path / "spread.zarr")
    done = hpal("train", tmp_path / "rooms.zarr", *learned, "--model", "forest", "-o", tmp_path / "f.pt")
    assert done.rc == 0, done.err
    predict = ("predict", tmp_path / "f.pt", tmp_path / "rooms.zarr", "-o", tmp_path / "p.zarr", "--split", "val")
    into_store = hpal(*predict, "--pictures", tmp_path / "p.zarr")
    assert into_store.rc == 2
    assert "--pictures" in into_store.err
    done = hpal(*predict, "--pictures", tmp_path / "out")
    assert done.rc == 0, done.err
    assert list(tree(tmp_path / "out")) == ["d.png"]


def test_a_store_is_read_by_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Campaign(tmp_path)
    said = made.spread(tmp_path / "spread.zarr")
    truth = SceneStore(tmp_path / "rooms.zarr")
    (first,) = write_pictures(said, said.table.choose("all", ["a"]), tmp_path / "one", truth=truth)
    monkeypatch.setattr(prediction_store, "BLOCK", 100)
    (second,) = write_pictures(said, said.table.choose("all", ["a"]), tmp_path / "two", truth=truth)
    assert first.read_bytes() == second.read_bytes()
    assert len(list(said.xyz_blocks(said.table[0]))) == -(-said.table[0].points // 100)


def test_other_scenes_are_refused(tmp_path: Path) -> None:
    made = Campaign(tmp_path)
    said = made.spread(tmp_path / "spread.zarr")
    other = synthetic_scenes(tmp_path / "other.zarr", [room("a", 9)])
    draw = partial(write_pictures, said, said.choose("train"), tmp_path / "out", truth=other)
    with pytest.raises(HpalError, match="holds other scenes than"):
        draw()
    assert not (tmp_path / "out").exists()
