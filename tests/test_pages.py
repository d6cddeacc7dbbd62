"""README.md, docs/airborne.md, rooms.md and driving.md, followed from the first command to the last, with a program in
the person's place."""

from __future__ import annotations

import csv
from pathlib import Path

import laspy
import numpy as np
import pytest
from test_docs import DOCS, ROOT, bash, commands_of, files_of
from test_own_scans import run

from hpal_cli.demo.office import make_office
from hpal_cli.labels.store import LabelStore
from hpal_cli.predictions.store import PredictionStore
from hpal_cli.scenes.store import SceneStore

SMALLER = {
    "rooms=4, points=120_000": "rooms=3, points=3000",
    "np.arange(0, 360, 0.4)": "np.arange(0, 360, 2.0)",
    "range(6)": "range(3)",
    "number < 5": "number < 2",
    "--budget 60": "--budget 20",
    "--budget 40": "--budget 12",
    "--budget 30": "--budget 10",
}
"""The pages' own numbers, and those that the test follows them with."""


def smaller(text: str) -> str:
    for large, small in SMALLER.items():
        text = text.replace(large, small)
    return text


def follow(page: Path, folder: Path) -> None:
    """Every program and every block of commands, in their order; tables are filled in as soon as they are there."""
    for name, text in files_of(page).items():
        (folder / name).write_text(smaller(text), encoding="utf-8")
    for block in commands_of(page):
        for line in smaller(block).replace("\\\n", " ").splitlines():
            if line.startswith("python "):
                bash(line, folder)
            else:
                run(line, folder)
            for table in folder.glob("*.csv"):
                fill_in(table, folder)


def fill_in(table: Path, folder: Path) -> None:
    """A class for every line without one; unsure where the scan has no label."""
    store = SceneStore(folder / "scenes.zarr")
    with table.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        label = store.labels(store.table.by_name[row["scene"]])
        assert label is not None
        known = int(label[int(row["index"])])
        row["label"] = store.classes.names[known] if known >= 0 else "unsure"
    with table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)


def accuracy(folder: Path, predictions: str, split: str) -> float:
    store, said = SceneStore(folder / "scenes.zarr"), PredictionStore(folder / predictions)
    right = []
    for scene in said.choose(split):
        label = store.labels(scene)
        assert label is not None
        right.append((label == said.predicted(scene))[label >= 0])
    return float(np.concatenate(right).mean())


def tile(path: Path, seed: int) -> None:
    """20 x 20 m from above: a floor, a house and three trees, in Lambert-93."""
    rng = np.random.default_rng(seed)
    xy = rng.uniform(0, 20, (9000, 2))
    house = (np.abs(xy - [6, 6 + 4 * rng.random()]) < [4, 3]).all(axis=1)
    z, code = np.where(house, 8.0, 0.0), np.where(house, 6, 2)
    crowns = []
    for _ in range(3):
        middle = rng.uniform([12, 2], [18, 18])
        ball = rng.normal(0, 1, (700, 3))
        crowns.append(np.append(middle, 5) + 2.2 * ball / np.linalg.norm(ball, axis=1)[:, None])
    xyz = np.vstack([np.column_stack([xy, z]), *crowns]) + rng.normal(0, 0.02, (9000 + 2100, 3))
    header = laspy.LasHeader(point_format=6, version="1.4")
    header.offsets, header.scales = np.array([770_500, 6_277_550, 0]), np.full(3, 0.001)
    las = laspy.LasData(header)
    las.xyz = xyz + np.array([770_500, 6_277_550, 40])
    las.classification = np.append(code, np.full(2100, 5)).astype(np.uint8)
    las.intensity = rng.integers(100, 900, len(xyz)).astype(np.uint16)
    path.parent.mkdir(exist_ok=True)
    las.write(str(path))


@pytest.mark.parametrize("page", ["airborne", "rooms", "driving"])
def test_the_page_does_what_it_says(page: str, tmp_path: Path) -> None:
    if page == "airborne":
        for number, folder in enumerate(["tiles", "tiles", "further"]):
            tile(tmp_path / folder / f"tile_{number}.laz", number)
    follow(DOCS / f"{page}.md", tmp_path)
    split = "all" if page == "airborne" else "train"
    assert accuracy(tmp_path, "spread-2.zarr", split) > 0.6
    for folder in ("pictures-1", "pictures-2", "check"):
        scenes = SceneStore(tmp_path / "scenes.zarr").choose(split)
        assert {f"{scene.name}.png" for scene in scenes} <= {
            path.relative_to(tmp_path / folder).as_posix() for path in (tmp_path / folder).rglob("*.png")
        }
    if page == "airborne":
        given, got = (laspy.read(tmp_path / folder / "tile_0.laz") for folder in ("tiles", "result"))
        np.testing.assert_array_equal(given.xyz, got.xyz)
        assert set(np.unique(got.classification)) <= {2, 3, 6, 67}
        assert len(laspy.read(tmp_path / "further-result/tile_2.laz").points)
    elif page == "driving":
        frames = sorted((tmp_path / "result").rglob("*.label"))
        assert frames
        assert set(np.fromfile(frames[0], "<u4").tolist()) <= {10, 40, 48, 50, 71, 80}
    else:
        assert sorted((tmp_path / "new-rooms").rglob("*.ply"))


IN_THE_README = {
    " --classes classes.json": "",
    "label round-0.ply --serve": "label round-0.ply --oracle scenes.zarr",
    "label round-1.ply --serve": "label round-1.ply --oracle scenes.zarr",
    "hpal view spread-1.zarr": "hpal info spread-1.zarr",
}
"""What the test does in place of a person who writes a class table, answers on the page and looks at the result: its
scans are in the layout of S3DIS, whose classes hpal knows, and their labels answer."""


def test_the_commands_of_the_readme_run(tmp_path: Path) -> None:
    make_office(tmp_path / "scans", rooms=3, points=3000)
    blocks = commands_of(ROOT / "README.md")
    for its, ours in IN_THE_README.items():
        assert any(its in block for block in blocks), its
        blocks = [block.replace(its, ours) for block in blocks]
    for block in blocks:
        run(block, tmp_path)
    assert len(LabelStore(tmp_path / "labels.zarr").latest()) == 80 + 20
    assert len(list((tmp_path / "result").rglob("*.ply"))) == 3
    assert accuracy(tmp_path, "spread-1.zarr", "train") > 0.6
