"""How long the labelling page lets a person wait: python benchmarks/page.py POINTS

A made scene of so many points on a grid is served and opened in Chromium, which draws without a GPU here. Prints the
time to the address, to the first picture and from an answer to the next query; and of pictures while the camera turns:
how many a second, their draw calls and points.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import numpy as np
from playwright.sync_api import Page, sync_playwright

from hpal_cli.classes import ClassTable
from hpal_cli.scenes.table import SceneInfo, SceneTable, fingerprint
from hpal_cli.store import envelope
from hpal_cli.stream.header import Header, PoolScene
from hpal_cli.stream.points import write_points

GRID = 0.1


def make(folder: Path, count: int) -> None:
    """A hilly square with blocks on it, a point a cell of the grid, and a selection of 40 of them."""
    rng = np.random.default_rng(0)
    side = int(np.ceil(np.sqrt(count)))
    cells = np.arange(count)
    x, y = (cells % side) * GRID, (cells // side) * GRID
    blocks = rng.integers(0, 12, (int(side * GRID / 12) + 1,) * 2) * (
        rng.random((int(side * GRID / 12) + 1,) * 2) > 0.6
    )
    inside = (x % 12 > 2) & (y % 12 > 2)
    z = 2 * np.sin(x / 40) * np.cos(y / 55) + inside * blocks[(x / 12).astype(int), (y / 12).astype(int)]
    xyz = np.column_stack([x, y, z]).astype(np.float32) + rng.normal(0, 0.01, (count, 3)).astype(np.float32)
    rgb = np.clip(90 + 12 * z[:, None] + rng.normal(0, 6, (count, 3)) + [20, 10, 0], 0, 255).astype(np.uint8)
    info = SceneInfo(0, "town", count, count, "train", fingerprint(np.zeros(3), xyz))
    table, classes = SceneTable([info]), ClassTable.from_names(["ground", "building", "other"])
    attributes = {
        "id": table.id, "classes": classes.to_json(), "grid": GRID, "unit": 1.0, "format": "made",
        "scenes": table.to_json(), "history": [],
    }  # fmt: skip
    with envelope.create(folder / "scenes.zarr", "scenes", attributes, overwrite=False) as (root, _):
        group = root.require_group("scenes/town")
        group.attrs["offset"] = [0.0, 0.0, 0.0]
        envelope.write_array(group, "xyz", xyz)
        envelope.write_array(group, "rgb", rgb)
    names = [("x", "f8"), ("y", "f8"), ("z", "f8"), ("scene", "i4"), ("index", "i4"), ("score", "f4"), ("rank", "i4")]
    rows = np.zeros(40, names)
    rows["index"] = rng.choice(count, 40, replace=False)
    rows["x"], rows["y"], rows["z"] = xyz[rows["index"]].T
    rows["rank"] = np.arange(1, 41)
    header = Header("selection", source="scenes.zarr", scenes=table.id, pool=(PoolScene.of(info),))
    with (folder / "first.ply").open("wb") as file:
        write_points(file, header, rows)


def wait(page: Page, what: str, seconds: float = 120) -> None:
    end = time.perf_counter() + seconds
    while not page.evaluate(what):
        if time.perf_counter() > end:
            raise SystemExit(f"never: {what}")
        time.sleep(0.01)


TURN = """async () => {
  const view = hpalPage.view, took = [], points = [];
  for (let n = 0; n < 40; n++) {
    await new Promise((done) => requestAnimationFrame(done));
    const begin = performance.now();
    view.measure = true;
    view.turn(4, 0);
    view.draw();
    took.push(performance.now() - begin);
    points.push(view.statistics.points);
  }
  return JSON.stringify([took, points, view.statistics.draws]);
}"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("points", type=int)
    count = parser.parse_args().points
    with tempfile.TemporaryDirectory() as name, sync_playwright() as driver:
        folder = Path(name)
        make(folder, count)
        words = [sys.executable, "-m", "hpal_cli", "label", "first.ply", "--serve", "-o", "labels.zarr", "--no-browser"]
        begin = time.perf_counter()
        server = subprocess.Popen(words, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        try:
            assert server.stdout is not None
            address = server.stdout.readline().strip()
            print(f"{count:,} points: {time.perf_counter() - begin:.2f} s to the address")
            browser = driver.chromium.launch(
                executable_path=shutil.which("chromium"),
                args=["--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--no-sandbox"],
            )
            page = browser.new_page(viewport={"width": 1280, "height": 800})
            page.goto(address)
            wait(page, "Boolean(globalThis.hpalPage?.view?.statistics.points > 0)")
            first = page.evaluate("hpalPage.times.first")
            page.reload()
            wait(page, "Boolean(globalThis.hpalPage?.view?.statistics.points > 0)")
            again = page.evaluate("hpalPage.times.first")
            print(
                f"  first picture {first / 1000:.2f} s after the address is opened, {again / 1000:.2f} s when reloaded"
            )
            time.sleep(3)
            for key in "123123123123":
                before = page.evaluate("hpalPage.query.id")
                page.keyboard.press(key)
                wait(page, f"hpalPage.query.id !== {before}")
                time.sleep(0.7)
            times = page.evaluate("hpalPage.times.answer")
            print(f"  answer to next query: median {statistics.median(times):.0f} ms, longest {max(times):.0f} ms")
            for what, act in (("at a query", ""), ("the whole scene", "hpalPage.view.turn(0, 25, 40)")):
                page.evaluate(act or "0")
                time.sleep(6)
                took, points, draws = json.loads(page.evaluate(TURN))
                rate = 1000 / statistics.median(took)
                print(f"  {what}: {rate:.0f} pictures a second, {draws} draw calls, {max(points):,} points a picture")
            browser.close()
            base, token = address.split("/#token=")
            took = []
            for number in range(20, 40):
                body = json.dumps(
                    {"client": "benchmark", "name": "benchmark", "query": number, "label": 1, "seconds": 1}
                )
                headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
                begin = time.perf_counter()
                urllib.request.urlopen(urllib.request.Request(f"{base}/api/answer", body.encode(), headers)).read()
                took.append(1000 * (time.perf_counter() - begin))
            print(f"  the server's part of it: median {statistics.median(took):.0f} ms, longest {max(took):.0f} ms")
        finally:
            server.kill()


main()
