"""The labelling page in a real browser: Debian's Chromium, by its driver Playwright, drawing without a GPU.

Without a browser the tests are skipped; HPAL_REQUIRE_TOOLS=chromium makes its absence a failure.
"""

from __future__ import annotations

import csv
import io
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import environment, fake_predictions
from PIL import Image
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright
from test_page_server import HOSTILE, asked_of, selection

from hpal_cli.demo.office import make_room
from hpal_cli.label.answers import import_answers
from hpal_cli.labels.store import LabelStore
from hpal_cli.page.offline import write_page
from hpal_cli.predictions.store import PredictionStore
from hpal_cli.scenes.store import SceneStore
from hpal_cli.stream.points import write_points

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
REQUIRED = bool({"chromium", "1"} & set(os.environ.get("HPAL_REQUIRE_TOOLS", "").split(",")))

pytestmark = pytest.mark.skipif(CHROMIUM is None and not REQUIRED, reason="chromium is not installed")

LOUD = np.array([255, 0, 128])
QUERIES = 24


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    flags = ["--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--no-sandbox", "--disable-dev-shm-usage"]
    with sync_playwright() as driver:
        running = driver.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield running
        running.close()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> SceneStore:
    """A room of some 11,000 points, one of whose classes has a name that would be a picture in HTML."""
    from synthetic_scenes import Room, synthetic_scenes

    found = make_room(0, points=12_000)
    label = np.minimum(found.label, 11)
    names = ["floor", "wall", HOSTILE, *(f"class {n}" for n in range(3, 12))]
    one = Room("a", found.xyz, label, found.rgb)
    return synthetic_scenes(tmp_path_factory.mktemp("made") / "scenes.zarr", [one], grid=0.08, classes=names)


class Server:
    """`hpal` with a page, started and killed."""

    def __init__(self, folder: Path, *args: str) -> None:
        self.folder, self.args = folder, args
        self.start()

    def start(self) -> None:
        env = {k: v for k, v in environment().items() if k not in ("DISPLAY", "WAYLAND_DISPLAY")}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "hpal_cli", *self.args], cwd=self.folder, env=env, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        assert self.process.stdout is not None
        self.address = self.process.stdout.readline().strip()
        assert self.address.startswith("http://127.0.0.1:")

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()

    @property
    def answers(self) -> np.ndarray:
        return LabelStore(self.folder / "labels.zarr").latest()


@pytest.fixture
def serve(made: SceneStore, tmp_path: Path) -> Iterator[Callable[..., Server]]:
    rows, header = selection(made, {0: list(range(0, made.table[0].points, 400))[:QUERIES]})
    with (tmp_path / "round.ply").open("wb") as file:
        write_points(file, header, rows)
    running = []

    def run(*more: str) -> Server:
        running.append(Server(tmp_path, "label", "round.ply", "--serve", "-o", "labels.zarr", "--name", "anna", *more))
        return running[-1]

    yield run
    for one in running:
        one.kill()


def until(condition: Callable[[], Any], what: str, seconds: float = 60) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.05)
    raise AssertionError(what)


def opened(context: BrowserContext, address: str) -> Page:
    """The page when its first picture is there. Whatever it reports as an error fails the test."""
    page = context.new_page()
    page.set_default_timeout(60_000)
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda line: errors.append(line.text) if line.type == "error" else None)
    page.on("dialog", lambda dialog: dialog.accept())
    page.goto(address)
    drawn = "Boolean(globalThis.hpalPage?.view?.statistics.points > 0 && document.getElementById('veil').hidden)"
    until(lambda: page.evaluate(drawn) or errors, "no picture")
    assert not errors
    return page


def query(page: Page) -> int | None:
    return page.evaluate("hpalPage.query ? hpalPage.query.id : null")


def press(page: Page, key: str) -> None:
    """A key, and then the next query."""
    # A key that comes before the query is shown in full is not for it, and the page does not take it.
    until(lambda: not page.evaluate("hpalPage.busy"), "the page stays busy")
    before = query(page)
    page.keyboard.press(key)
    until(lambda: query(page) != before, f"nothing happened at {key}")


def pixels(page: Page) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(page.screenshot())).convert("RGB")).astype(int)


def loud(picture: np.ndarray) -> np.ndarray:
    """(K, 2) column and row of the pixels in the query's colour."""
    row, column = np.nonzero((np.abs(picture - LOUD) < 40).all(axis=2))
    return np.column_stack([column, row])


def test_twenty_queries_by_keyboard_with_an_undo_and_a_reload(serve: Callable[..., Server], browser: Browser) -> None:
    server = serve()
    context = browser.new_context()
    page = opened(context, server.address)
    # The token does not stay where a screenshot or a bookmark would show it.
    assert "token" not in page.url
    for number in range(10):
        assert query(page) == number
        press(page, str(1 + number % 9))
    assert len(server.answers) == 10
    page.keyboard.press("Control+z")
    until(lambda: query(page) == 9, "not taken back")
    assert len(server.answers) == 9
    page.reload()
    until(lambda: page.evaluate("Boolean(globalThis.hpalPage?.query)"), "not there after a reload")
    assert query(page) == 9
    press(page, "u")
    press(page, "s")
    for key in "ab123456789":
        press(page, key)
    assert len(server.answers) == 21
    # Keys by place in the list of classes; `a` and `b` are the tenth and the eleventh.
    by_query = {(row["index"]): row["label"] for row in server.answers}
    assert sorted(by_query.values()).count(-1) == 1
    assert {9, 10} <= set(by_query.values())
    page.keyboard.press("Backspace")
    until(lambda: page.locator("#message").is_visible(), "not back")
    assert "Answered" in page.locator("#message").inner_text()
    shown = query(page)
    press(page, "1")
    assert len(server.answers) == 21
    assert page.evaluate("hpalPage.query.id") != shown
    context.close()


def test_a_killed_server_loses_nothing_and_says_so(serve: Callable[..., Server], browser: Browser) -> None:
    server = serve()
    context = browser.new_context()
    page = opened(context, server.address)
    for _ in range(3):
        press(page, "2")
    server.kill()
    assert len(server.answers) == 3
    page.keyboard.press("3")
    until(lambda: "does not answer" in page.locator("#message").inner_text(), "nothing was said")
    assert page.evaluate("hpalPage.query.label") is None
    server.start()
    again = opened(context, server.address)
    assert query(again) == 3
    assert "3 of 24 answered" in again.locator("#counted").inner_text()
    page.close()
    again.locator("#end").click()
    until(lambda: "Ended" in again.locator("#veil").inner_text(), "it does not end")
    assert server.process.wait(20) == 0
    context.close()


def test_two_people_at_once_get_different_queries(serve: Callable[..., Server], browser: Browser) -> None:
    server = serve()
    contexts = [browser.new_context(), browser.new_context()]
    pages = [opened(context, server.address) for context in contexts]
    pages[1].locator("#name").fill("ben")
    pages[1].locator("#name").blur()
    until(lambda: query(pages[1]) not in (None, query(pages[0])), "both have the same query")
    for _ in range(4):
        for page in pages:
            press(page, "1")
            assert query(pages[0]) != query(pages[1])
    batches = LabelStore(server.folder / "labels.zarr").batches()
    given = [batch for batch in batches if len(batch.rows)]
    assert sorted(batch.source for batch in given) == ["anna"] * 4 + ["ben"] * 4
    assert all(batch.seconds is not None and 0 < batch.seconds < 60 for batch in given)
    assert len(server.answers) == 8
    for context in contexts:
        context.close()


@pytest.mark.parametrize(
    ("scheme", "width"), [("light", 1280), ("dark", 1280), ("light", 400)], ids=["light", "dark", "narrow"]
)
def test_the_query_is_seen_in_every_layout(
    serve: Callable[..., Server], browser: Browser, scheme: Any, width: int
) -> None:
    context = browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 760})
    page = opened(context, serve().address)
    for _ in range(3):
        until(lambda: page.evaluate("hpalPage.view.loading === 0"), "still loading")
        time.sleep(0.3)
        box = page.locator("#holder").bounding_box()
        assert box is not None
        picture = pixels(page)
        stage = picture[: int(box["height"]), : int(box["width"])]
        found = loud(stage)
        # A ring in a colour that the scene does not have, in the middle of the picture and not cut.
        assert len(found) > 150
        middle = (found.min(axis=0) + found.max(axis=0)) / 2
        assert np.abs(middle - [box["width"] / 2, box["height"] / 2]).max() < 12
        # In the middle of the ring is the point itself, which the ring leaves free.
        paper = stage[5, int(box["width"]) - 5]
        x, y = np.rint(middle).astype(int)
        inside = stage[y - 2 : y + 3, x - 2 : x + 3].reshape(-1, 3)
        assert (np.abs(inside - paper).sum(axis=1) > 24).mean() > 0.5
        press(page, "4")
    # Nothing of the page is out of reach, whatever the window.
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    for button in page.locator("#classes button, #others button, #end").all():
        button.scroll_into_view_if_needed()
        assert button.is_visible()
        place = button.bounding_box()
        assert place is not None
        assert place["x"] >= 0
        assert place["x"] + place["width"] <= width + 1
    ink, ground = (
        page.evaluate(f"getComputedStyle(document.querySelector('{one}')).{what}")
        for one, what in (("#question", "color"), ("#panel", "backgroundColor"))
    )
    bright = [sum(map(int, re.findall(r"\d+", color)[:3])) / 3 for color in (ink, ground)]
    assert (bright[0] < bright[1]) == (scheme == "light")
    assert abs(bright[0] - bright[1]) > 150
    context.close()


def test_names_are_text_and_the_keyboard_reaches_everything(serve: Callable[..., Server], browser: Browser) -> None:
    server = serve()
    context = browser.new_context()
    page = opened(context, server.address)
    assert page.locator("img").count() == 0
    assert HOSTILE in page.locator("#classes").inner_text()
    assert page.get_by_role("button", name="Unsure").get_attribute("aria-keyshortcuts") == "u"
    for role, name in (
        ("searchbox", "Find a class"),
        ("button", "Skip"),
        ("group", "Classes"),
        ("progressbar", "Answered"),
    ):
        assert page.get_by_role(role, name=re.compile(name)).count() == 1  # type: ignore[arg-type]
    nameless = "[...document.querySelectorAll('button, input, canvas')].filter((one) => !one.closest('[hidden]') && "
    nameless += "!(one.getAttribute('aria-label') || one.textContent.trim() || one.labels?.length)).map((o) => o.id)"
    assert page.evaluate(nameless) == []
    # Tab reaches every control, in order, and Enter presses it.
    reached = set()
    page.locator("#cloud").focus()
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id || document.activeElement.dataset.label || 'other'"))
    assert {*map(str, range(12)), "find", "unsure", "skip", "undo", "name", "end", "reach"} <= reached
    page.locator("#classes button").nth(4).focus()
    press(page, "Enter")
    assert server.answers["label"].tolist() == [4]
    # Type to find one.
    page.keyboard.press("/")
    page.keyboard.type("CLASS 11")
    assert page.locator("#classes button:visible").count() == 1
    press(page, "Enter")
    assert sorted(server.answers["label"].tolist()) == [4, 11]
    page.keyboard.press("?")
    assert page.locator("#help").is_visible()
    page.keyboard.press("Escape")
    # Turning and zooming by keys, and back.
    camera = "hpalPage.view.camera.position.toArray()"
    begin = page.evaluate(camera)
    for key in ("ArrowLeft", "ArrowUp", "+", "Shift+Digit2"):
        page.keyboard.press(key)
    assert np.abs(np.subtract(page.evaluate(camera), begin)).max() > 0.1
    until(lambda: page.evaluate("hpalPage.view.mode") == "height", "colours do not change")
    until(lambda: page.locator("#legend").inner_text(), "the legend does not appear")
    page.keyboard.press("Home")
    assert np.allclose(page.evaluate(camera), begin)
    context.close()


def test_the_room_learns_while_the_next_query_is_there(serve: Callable[..., Server], browser: Browser) -> None:
    server = serve()
    context = browser.new_context()
    page = opened(context, server.address)
    for _ in range(6):
        press(page, "2")
    tinted = "hpalPage.view.tiles.reduce((sum, tile) => { const a = tile.points.geometry.attributes.tint.array; "
    tinted += "for (let n = 3; n < 4 * tile.loaded; n += 4) sum += a[n] > 0; return sum; }, 0)"
    until(lambda: page.evaluate(tinted) > 3000, "the room does not learn")
    context.close()


def test_the_first_picture_waits_for_few_bytes(serve: Callable[..., Server], browser: Browser) -> None:
    server = serve()
    # A server that is still reading the scene sends the page without it, so that the page can show its frame.
    with browser.new_context() as earlier:
        opened(earlier, server.address)
    context = browser.new_context()
    page = opened(context, server.address)
    before = "performance.getEntriesByType('resource').filter((one) => one.startTime < hpalPage.times.first)"
    asked = page.evaluate(f"{before}.map((one) => [new URL(one.name).pathname, one.encodedBodySize])")
    # One answer has all that it takes: the query, the scene, and some points with coordinates and colours.
    calls = [(path, size) for path, size in asked if path.startswith("/api/")]
    assert [path for path, _ in calls] == ["/api/start"]
    assert 15_000 < calls[0][1] <= 30_000 * 15
    assert page.evaluate("hpalPage.view.tiles.reduce((sum, tile) => sum + tile.loaded, 0)") > 1000
    # It is asked for before the larger scripts.
    started = "performance.getEntriesByType('resource').map((one) => new URL(one.name).pathname)"
    order = page.evaluate(started)
    assert order.index("/files/remote.js") < order.index("/files/three.min.js")
    context.close()


def test_quick_pictures_look_like_those_that_stand(serve: Callable[..., Server], browser: Browser) -> None:
    server = serve()
    context = browser.new_context(viewport={"width": 800, "height": 400})
    page = opened(context, server.address)
    until(lambda: page.evaluate("hpalPage.view.loading === 0 && !hpalPage.view.quick"), "no picture that stands")
    read = """(moved) => {
      const { view } = hpalPage, gl = view.renderer.getContext();
      view.moved = moved ? performance.now() : -1e9;
      view.draw();
      const [wide, high] = [gl.drawingBufferWidth, gl.drawingBufferHeight], bytes = new Uint8Array(4 * wide * high);
      gl.readPixels(0, 0, wide, high, gl.RGBA, gl.UNSIGNED_BYTE, bytes);
      return [wide, high, Array.from(bytes)];
    }"""
    pictures = []
    for moved in (True, False):
        wide, high, values = page.evaluate(read, moved)
        pictures.append(np.array(values).reshape(high, wide, 4)[..., :3])
    quick, still = pictures
    box = page.locator("#holder").bounding_box()
    assert box is not None
    assert still.shape[:2] == (int(box["height"]), int(box["width"]))
    assert quick.shape[:2] == (still.shape[0] // 2, still.shape[1] // 2)
    # The paper is the same, and the rest is: shading makes a picture darker, in few places.
    assert np.array_equal(quick[-3, -3], still[-6, -6])
    small = still[: 2 * quick.shape[0], : 2 * quick.shape[1]].reshape(quick.shape[0], 2, quick.shape[1], 2, 3)
    assert np.median(np.abs(small.mean(axis=(1, 3)) - quick)) < 12
    context.close()


def test_nothing_is_done_twice(serve: Callable[..., Server], browser: Browser) -> None:
    server = serve()
    context = browser.new_context()
    page = opened(context, server.address)
    asked: list[str] = []
    press(page, "2")
    until(lambda: page.evaluate("hpalPage.times.learn.length"), "the room does not learn")
    settled = "hpalPage.view.loading === 0 && hpalPage.view.tiles.every((tile) => tile.loaded === tile.count)"
    until(lambda: page.evaluate(settled), "still loading")
    time.sleep(2)
    # Where nothing moves nothing is drawn.
    pictures = "hpalPage.view.statistics.pictures"
    before = page.evaluate(pictures)
    time.sleep(1)
    assert page.evaluate(pictures) == before
    page.on("request", lambda request: asked.append(request.url.split("/api/")[1].split("?")[0]))
    # The scene stays where it is, and what did not change is not asked for.
    press(page, "s")
    time.sleep(1)
    assert asked == ["skip"]
    press(page, "1")
    until(lambda: page.evaluate("hpalPage.times.learn.length > 1"), "the room does not learn again")
    assert asked == ["skip", "answer", "scene/0/learned"]
    context.close()


def test_the_next_scene_is_there_before_it_is_asked_for(browser: Browser, tmp_path: Path) -> None:
    from synthetic_scenes import rooms, synthetic_scenes

    store = synthetic_scenes(tmp_path / "scenes.zarr", rooms(2, 0))
    rows, header = selection(store, {0: [3], 1: [5, 9]})
    with (tmp_path / "round.ply").open("wb") as file:
        write_points(file, header, rows)
    server = Server(tmp_path, "label", "round.ply", "--serve", "-o", "labels.zarr", "--name", "anna")
    try:
        context = browser.new_context()
        page = opened(context, server.address)
        asked: list[str] = []
        until(lambda: page.evaluate("hpalPage.view.kept.has(1) && hpalPage.view.loading === 0"), "not prepared")
        time.sleep(1)
        page.on("request", lambda request: asked.append(request.url.split("/api/")[1].split("?")[0]))
        press(page, "1")
        until(lambda: page.evaluate("hpalPage.view.about.number") == 1, "the other scene is not shown")
        time.sleep(1)
        assert [one for one in asked if one in ("scene/1", "scene/0")] == []
        # Somebody else's query is still counted when another number of answers was shown.
        other = opened(browser.new_context(), server.address)
        other.locator("#name").fill("ben")
        other.locator("#name").blur()
        until(lambda: query(other) not in (None, query(page)), "both have the same query")
        page.keyboard.press("Backspace")
        until(lambda: "1 held by others" in page.locator("#counted").inner_text(), "nobody holds one")
        other.context.close()
        context.close()
    finally:
        server.kill()


def test_a_view_side_by_side_tells_of_a_point(scenes: Path, browser: Browser, tmp_path: Path) -> None:
    fake_predictions(scenes, tmp_path / "preds.zarr", labelled=0)
    server = Server(tmp_path, "view", "preds.zarr", "--source", str(scenes))
    try:
        context = browser.new_context()
        page = opened(context, server.address)
        assert not page.locator("#ask").is_visible()
        page.keyboard.press("t")
        until(lambda: page.evaluate("hpalPage.view.split"), "not side by side")
        page.keyboard.press("Shift+Digit3")
        until(lambda: page.evaluate("hpalPage.view.mode") == "class", "not by class")
        assert "truth" in page.locator("#sides").inner_text()
        box = page.locator("#holder").bounding_box()
        assert box is not None
        for step in range(40):
            page.mouse.click(box["width"] * (0.15 + 0.005 * step), box["height"] * (0.4 + 0.006 * step))
            if page.evaluate("hpalPage.view.home !== null"):
                break
        until(lambda: page.locator("#picked").is_visible(), "no point is told of")
        words = page.locator("#picked").inner_text()
        assert {"scene", "index", "class", "uncertainty", "truth"} <= set(words.split())
        store = PredictionStore(tmp_path / "preds.zarr")
        index = int(re.search(r"index\s+(\d+)", words)[1])  # type: ignore[index]
        scene = store.table[page.evaluate("hpalPage.view.about.number")]
        assert store.classes[int(store.predicted(scene)[index])].name in words
        context.close()
    finally:
        server.kill()


def test_a_region_is_lit_and_answered_at_once(made: SceneStore, browser: Browser, tmp_path: Path) -> None:
    near = np.argsort(np.linalg.norm(made.points(made.table[0]).xyz - made.points(made.table[0]).xyz[900], axis=1))
    rows, header = selection(made, {0: sorted(near[:60].tolist())}, region=True)
    with (tmp_path / "round.ply").open("wb") as file:
        write_points(file, header, rows)
    server = Server(tmp_path, "label", "round.ply", "--serve", "-o", "labels.zarr")
    try:
        context = browser.new_context()
        page = opened(context, server.address)
        until(lambda: page.evaluate("hpalPage.view.lit.children.length"), "the region is not lit")
        lit = "hpalPage.view.lit.children[0].geometry.attributes.position.count"
        assert page.evaluate(lit) == 60
        assert "60 points" in page.locator("#question").inner_text()
        until(lambda: page.evaluate("hpalPage.view.loading === 0 && !hpalPage.view.quick"), "no picture that stands")
        box = page.locator("#holder").bounding_box()
        assert box is not None
        with_region = len(loud(pixels(page)[: int(box["height"]), : int(box["width"])]))
        page.evaluate("hpalPage.view.setRegion(null), hpalPage.view.draw()")
        assert with_region > 1.2 * len(loud(pixels(page)[: int(box["height"]), : int(box["width"])]))
        press(page, "3")
        assert server.answers["label"].tolist() == [2] * 60
        context.close()
    finally:
        server.kill()


def test_a_page_in_one_file_works_without_a_server(made: SceneStore, browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "round.html"
    write_page(asked_of(made, {0: [5, 900, 4000]}), path)
    context = browser.new_context(accept_downloads=True, offline=True)
    page = opened(context, path.as_uri())
    for key in ("3", "u"):
        press(page, key)
    page.reload()
    until(lambda: page.evaluate("Boolean(globalThis.hpalPage?.query)"), "not there after a reload")
    assert "2 of 3 answered" in page.locator("#counted").inner_text()
    press(page, "2")
    assert query(page) is None
    with page.expect_download() as download:
        page.locator("#save").click()
    table = tmp_path / download.value.suggested_filename
    download.value.save_as(table)
    assert table.name == "round.csv"
    assert [row["label"] for row in csv.DictReader(table.open())] == [HOSTILE, "unsure", "wall"]
    taken = import_answers(table, made)
    assert sorted(taken.rows["label"].tolist()) == [-1, 1, 2]
    fetched = "performance.getEntriesByType('resource').map((one) => one.name)"
    assert [name for name in page.evaluate(fetched) if not name.startswith(("data:", "blob:"))] == []
    context.close()
