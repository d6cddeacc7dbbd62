"""How long the labelling page lets a person wait: python benchmarks/page.py POINTS [--folder DIR]
or, for a scene of a store: python benchmarks/page.py STORE --scene NAME

A scene is served, a made one of so many points on a grid or one of a store, and opened in Chromium, which draws without
a GPU here. Prints the time to the address, to the first picture, from an answer to the picture of the next query, and
until the scene has the colours that the answer gave it; and of pictures while the camera turns: how many a second,
their draw calls and points. Each picture is waited for until it is drawn, not only asked for. Beside the time that
passed is that of the processor, of server and browser together, which other programs on the machine hardly change.
"""

from __future__ import annotations

import argparse
import json
import os
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
from hpal_cli.scene_table import SceneInfo, SceneTable, fingerprint
from hpal_cli.scenes.store import SceneStore
from hpal_cli.store import envelope
from hpal_cli.stream.header import Header, PoolScene
from hpal_cli.stream.points import write_points
from hpal_cli.superpoints.store import superpoints_path

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
    select(folder, info, table, xyz, rng)


def select(folder: Path, info: SceneInfo, table: SceneTable, xyz: np.ndarray, rng: np.random.Generator) -> None:
    """A selection of 40 points, which belongs to scenes.zarr in the folder."""
    names = [("x", "f8"), ("y", "f8"), ("z", "f8"), ("scene", "i4"), ("index", "i4"), ("score", "f4"), ("rank", "i4")]
    rows = np.zeros(40, names)
    rows["scene"] = info.number
    rows["index"] = rng.choice(len(xyz), 40, replace=False)
    rows["x"], rows["y"], rows["z"] = xyz[rows["index"]].T
    rows["rank"] = np.arange(1, 41)
    header = Header("selection", source="scenes.zarr", scenes=table.id, pool=(PoolScene.from_info(info),))
    with (folder / "first.ply").open("wb") as file:
        write_points(file, header, rows)


def take(folder: Path, path: Path, name: str) -> int:
    """A selection of a scene of a store; the store, and its superpoints if there are any, are linked to. Its points."""
    store = SceneStore(path)
    (info,) = store.choose("all", [name])
    for one in (path, superpoints_path(path)):
        if one.exists():
            (folder / one.name.replace(path.stem, "scenes", 1)).symlink_to(one.resolve())
    select(folder, info, store.table, store.points(info).position, np.random.default_rng(0))
    return info.points


def wait(page: Page, what: str, seconds: float = 300) -> None:
    end = time.perf_counter() + seconds
    while not page.evaluate(what):
        if time.perf_counter() > end:
            raise SystemExit(f"never: {what}")
        time.sleep(0.02)


def used() -> float:
    """Seconds of processor time of all programs that this one started: server, browser and its GPU process."""
    parent, spent = {}, {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            words = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        number = int(path.parent.name)
        parent[number], spent[number] = int(words[1]), int(words[11]) + int(words[12])
    mine = {os.getpid()}
    while more := {one for one, other in parent.items() if other in mine} - mine:
        mine |= more
    return sum(spent[one] for one in mine - {os.getpid()}) / os.sysconf("SC_CLK_TCK")


ANSWER = """async (key) => {
  const count = hpalPage.times.answer.length;
  document.body.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
  while (hpalPage.times.answer.length === count) await new Promise((done) => setTimeout(done, 5));
}"""

LEARNT = (
    "!hpalPage.learns() || hpalPage.times.learn.length >= hpalPage.times.answer.length && hpalPage.view.loading === 0"
)

TURN = """async () => {
  const view = hpalPage.view, points = [];
  const frame = () => new Promise((done) => requestAnimationFrame(done));
  for (let n = 0; n < 60; n++) { view.turn(3, 0); await frame(); }
  const begin = performance.now();
  for (let n = 0; n < 60; n++) { view.turn(3, 0); await frame(); points.push(view.statistics.points); }
  return JSON.stringify([60000 / (performance.now() - begin), Math.max(...points), view.statistics.draws]);
}"""


def say(what: str, took: list[float], processor: list[float]) -> None:
    """took: milliseconds each; processor: seconds each."""
    if took:
        middle, longest, own = statistics.median(took), max(took), 1000 * statistics.median(processor)
        print(
            f"  {what}: median {middle:.0f} ms, longest {longest:.0f} ms of {len(took)}; processor {own:.0f} ms",
            flush=True,
        )


def measure(folder: Path, count: int) -> None:
    words = [sys.executable, "-m", "hpal_cli", "label", "first.ply", "--serve", "-o", "labels.zarr", "--no-browser"]
    begin, before = time.perf_counter(), used()
    server = subprocess.Popen(words, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert server.stdout is not None
        address = server.stdout.readline().strip()
        took, spent = time.perf_counter() - begin, used() - before
        print(f"{count:,} points: {took:.2f} s to the address, processor {spent:.2f} s", flush=True)
        with sync_playwright() as driver:
            flags = ["--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--no-sandbox"]
            browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=flags)
            page = browser.new_page(viewport={"width": 1280, "height": 800})
            page.set_default_timeout(300_000)
            page.add_init_script("globalThis.hpalMeasure = true")
            for what in ("opened", "reloaded"):
                before = used()
                page.goto(address) if what == "opened" else page.reload()
                wait(page, "Boolean(globalThis.hpalPage?.times.first)")
                first, spent = page.evaluate("hpalPage.times.first") / 1000, used() - before
                print(f"  first picture {first:.2f} s after the address is {what}, processor {spent:.2f} s", flush=True)
            wait(page, "hpalPage.view.about.whole && hpalPage.view.loading === 0")
            took, spent = time.perf_counter() - begin, used()
            print(f"  all of the scene: {took:.1f} s after the command, processor of all {spent:.1f} s", flush=True)
            time.sleep(2)
            asked, learned = [], []
            for number in range(15):
                before = used()
                page.evaluate(ANSWER, "123"[number % 3])
                drawn = used()
                asked.append(drawn - before)
                if page.evaluate("hpalPage.learns()"):
                    wait(page, LEARNT)
                    learned.append(used() - drawn)
                time.sleep(1)
            say("answer to the picture of the next query", page.evaluate("hpalPage.times.answer"), asked)
            say("from there to the colours of what was learned", page.evaluate("hpalPage.times.learn"), learned)
            for what, act in (("at a query", "0"), ("the whole scene", "hpalPage.view.turn(0, 25, 40)")):
                page.evaluate(act)
                time.sleep(4)
                still = page.evaluate("hpalPage.view.statistics")
                before = used()
                rate, points, draws = json.loads(page.evaluate(TURN))
                # Half of the pictures are there to find out how many points this machine draws.
                each = 1000 * (used() - before) / 120
                turning = f"{rate:.0f} pictures a second, processor {each:.0f} ms each, {draws} draw calls"
                turning += f", {points:,} points a picture"
                print(f"  turning, {what}: {turning}; standing: {still['draws']} and {still['points']:,}", flush=True)
            time.sleep(2)
            pictures = page.evaluate("hpalPage.view.statistics.pictures")
            time.sleep(3)
            print(
                f"  pictures in 3 s without a movement: {page.evaluate('hpalPage.view.statistics.pictures') - pictures}"
            )
            browser.close()
        base, token = address.split("/#token=")
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        waited: list[float] = []
        spent_each: list[float] = []
        for number in range(20, 35):
            body = {"client": "benchmark", "name": "benchmark", "query": number, "label": 1, "seconds": 1}
            begin, before = time.perf_counter(), used()
            request = urllib.request.Request(f"{base}/api/answer", json.dumps(body).encode(), headers)
            urllib.request.urlopen(request).read()
            waited.append(1000 * (time.perf_counter() - begin))
            spent_each.append(used() - before)
            time.sleep(0.5)
        say("the server's part of an answer", waited, spent_each)
    finally:
        server.kill()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", metavar="POINTS|STORE")
    parser.add_argument("--scene", help="of a store")
    parser.add_argument("--folder", type=Path, help="where a made scene stays, to be measured again")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = given.folder or Path(name)
        if given.scene:
            count = take(folder, Path(given.what), given.scene)
        else:
            count = int(given.what)
            folder.mkdir(exist_ok=True)
            if not (folder / "scenes.zarr").exists():
                make(folder, count)
            shutil.rmtree(folder / "labels.zarr", ignore_errors=True)
        measure(folder, count)


main()
