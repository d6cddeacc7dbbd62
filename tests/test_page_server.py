"""The labelling page's server over HTTP: who may ask, what is taken, and that it stays."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.request import url2pathname

import httpx2
import numpy as np
import pytest
from conftest import environment, fake_predictions, run_hpal
from starlette.testclient import TestClient
from synthetic_scenes import room, rooms, synthetic_scenes

from hpal_cli.commands.console import Console
from hpal_cli.commands.serving import run_page
from hpal_cli.errors import HpalError, UsageError
from hpal_cli.history import call
from hpal_cli.info import describe
from hpal_cli.label.annotators import agreements, annotators, kappa
from hpal_cli.label.answers import import_answers
from hpal_cli.labels.store import LabelStore
from hpal_cli.page.api import PageApi
from hpal_cli.page.cloud import Column, DrawnCloud, Source
from hpal_cli.page.label import Asked, open_label_page, parse_overlap, queries_asked
from hpal_cli.page.live_spread import LiveSpread
from hpal_cli.page.offline import write_page
from hpal_cli.page.server import MAX_BODY_BYTES, allowed_hosts, free_socket, make_app, policy, read_file
from hpal_cli.page.view import open_view
from hpal_cli.predictions.store import PredictionStore
from hpal_cli.scenes.store import Points, SceneStore
from hpal_cli.spreading.spread import spread_scene
from hpal_cli.stream.header import Header, PoolScene

TOKEN = "a-token-for-the-tests"
ADDRESS = "http://127.0.0.1:8042"
ME = {"client": "browser-one", "name": "anna"}
HOSTILE = "<img src=x onerror=alert(1)>"


def selection(
    store: SceneStore | PredictionStore, points: dict[int, list[int]], region: bool = False
) -> tuple[Any, Header]:
    """Rows and header of a selection of these rows of these scenes."""
    names = [("x", "f8"), ("y", "f8"), ("z", "f8"), ("scene", "i4"), ("index", "i4"), ("score", "f4"), ("rank", "i4")]
    rows = np.zeros(sum(map(len, points.values())), names + [("region", "i4")] * region)
    at = 0
    for scene, indices in points.items():
        position = store.points(store.table[scene]).position
        for index in indices:
            row = rows[at]
            row["x"], row["y"], row["z"] = position[index]
            row["scene"], row["index"], row["score"], row["rank"] = scene, index, 0.5, at + 1
            at += 1
    header = Header(
        "selection",
        source=str(store.path),
        scenes=store.table.id,
        pool=tuple(map(PoolScene.from_info, store.table)),
        strategy="hmmu",
    )
    return rows, header


def asked_of(store: SceneStore | PredictionStore, points: dict[int, list[int]], **how: bool) -> Asked:
    rows, header = selection(store, points, **how)
    return queries_asked(rows, header, "round.ply", source=None, beside=None)


@pytest.fixture
def store(tmp_path: Path) -> SceneStore:
    return synthetic_scenes(tmp_path / "scenes.zarr", rooms(2, 0), classes=("floor", "wall", HOSTILE, "board"))


class At(NamedTuple):
    """A page_api and whoever talks to its server."""

    page_api: PageApi
    http: TestClient
    labels: Path

    def post(self, path: str, **said: Any) -> httpx2.Response:
        return self.http.post(f"/api/{path}", json={**ME, **said})

    def next(self, **who: str) -> Any:
        return self.http.get("/api/next", params={**ME, **who}).json()["query"]


def at(asked: Asked, labels: Path, **how: Any) -> At:
    page_api = open_label_page(asked, labels, call("label", "--serve"), **how)
    app = make_app(page_api, token=TOKEN, hosts=allowed_hosts("127.0.0.1"), stop=lambda: None)
    bearer = {"Authorization": f"Bearer {TOKEN}"}
    return At(page_api, TestClient(app, base_url=ADDRESS, headers=bearer, client=("127.0.0.1", 50000)), labels)


@pytest.fixture
def page(store: SceneStore, tmp_path: Path) -> Iterator[At]:
    found = at(asked_of(store, {0: [3, 400, 900, 1200], 1: [5, 700]}), tmp_path / "labels.zarr")
    yield found
    found.page_api.close()


def begun_of(http: TestClient, **who: str) -> tuple[dict[str, Any], bytes]:
    """What a page begins with, and the values of the first points of its scene."""
    content = http.get("/api/start", params=who).content
    end = 4 + int.from_bytes(content[:4], "little")
    return json.loads(content[4:end]), content[end:]


def test_a_page_begins_with_one_answer(page: At, monkeypatch: pytest.MonkeyPatch) -> None:
    page.page_api.scene_cache.cloud(0)
    monkeypatch.setattr("hpal_cli.page.api.FIRST_POINTS", 300)
    begun, values = begun_of(page.http, client=ME["client"])
    assert begun["name"] == "someone"
    assert [scene["points"] for scene in begun["about"]["scenes"]] == [
        scene.points for scene in page.page_api.scene_cache.scenes.values()
    ]
    assert begun["said"]["query"]["id"] == 0
    first = begun["scene"].pop("first")
    assert begun["scene"] == page.http.get("/api/scene/0").json()
    assert 300 <= sum(first["counts"]) < 300 + len(first["counts"])
    parts = ",".join(f"{tile}:0:{count}" for tile, count in enumerate(first["counts"]))
    for name, length in first["columns"]:
        alone = page.http.get("/api/scene/0/points", params={"column": name, "parts": parts}).content
        assert values[:length] == alone
        values = values[length:]
    assert [name for name, _ in first["columns"]] == ["xyz", "rgb"]
    assert not values
    assert page.http.get("/api/start").status_code == 400
    # A page shows itself while its scene is read, and does not wait for that.
    monkeypatch.setattr(page.page_api.scene_cache, "loaded", lambda number: None)
    begun, values = begun_of(page.http, **ME)
    assert begun["name"] == "anna"
    assert (begun["said"], begun["scene"], values) == (None, None, b"")
    assert page.next()["id"] == 0


def test_a_page_begins_although_its_scene_cannot_be_read(store: SceneStore) -> None:
    chunk = next(path for path in (store.path / "scenes" / "a" / "xyz" / "c").rglob("*") if path.is_file())
    chunk.write_bytes(chunk.read_bytes()[:9])
    scene_cache = open_view(store.path).scene_cache
    with pytest.raises(HpalError):
        scene_cache.cloud(0)
    app = make_app(PageApi(scene_cache), token=TOKEN, hosts=allowed_hosts("127.0.0.1"), stop=lambda: None)
    http = TestClient(app, base_url=ADDRESS, headers={"Authorization": f"Bearer {TOKEN}"})
    assert begun_of(http, **ME)[0]["scene"] is None
    assert http.get("/api/scene/0").status_code == 409


def test_the_next_query_is_prepared_after_this_one_is_shown(page: At, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[int] = []
    usual = page.page_api._view
    monkeypatch.setattr(page.page_api, "_view", lambda number: (looked.append(number), usual(number))[1])
    monkeypatch.setattr("hpal_cli.page.api.DELAY", 0.3)
    begin = time.monotonic()
    assert page.post("skip", query=0).json()["prefetch"] is not None
    shown = list(looked)
    if time.monotonic() - begin < 0.3:
        assert len(shown) <= 1
    end = time.monotonic() + 20
    while len(looked) < 3 and time.monotonic() < end:
        time.sleep(0.01)
    # And the one after it, but not the one in a scene that would have to be read first.
    time.sleep(0.1)
    assert looked == [1, 2, 3]
    assert page.page_api.session is not None
    assert page.page_api.session.likely_next(ME["client"], "anna", after=1) == [2, 3, 4]


# ---------------------------------------------------------------- who may ask


@pytest.mark.parametrize("token", [None, "", "wrong", TOKEN[:-1], TOKEN + "x", "\xe9"])
def test_the_api_wants_the_token(page: At, token: str | None) -> None:
    headers = {} if token is None else {"Authorization": f"Bearer {token}".encode("latin-1")}
    bare = TestClient(page.http.app, base_url=ADDRESS)
    for path in ("start", "next", "scene/0", "scene/0/points", "query/0", "state"):
        answer = bare.get(f"/api/{path}", headers=headers)
        assert answer.status_code == 401
        assert "token" in answer.json()["error"]
    assert bare.post("/api/answer", headers=headers, json={**ME, "query": 0, "label": 0}).status_code == 401
    assert not len(LabelStore(page.labels).latest())


@pytest.mark.parametrize(
    ("host", "fine"),
    [
        ("127.0.0.1:8042", True),
        ("localhost:8042", True),
        ("[::1]:8042", True),
        ("evil.example:8042", False),
        ("127.0.0.1.evil.example", False),
        ("", False),
        ("192.168.1.7:8042", False),
        ("localhost:8042@evil.example", False),
    ],
)
def test_only_its_own_names_are_served(page: At, host: str, fine: bool) -> None:
    assert page.http.get("/api/start", params=ME, headers={"Host": host}).status_code == (200 if fine else 421)
    assert page.http.get("/", headers={"Host": host}).status_code == (200 if fine else 421)


def test_a_wider_host_takes_addresses_in_digits_and_its_own_name_only() -> None:
    hosts = allowed_hosts("0.0.0.0")
    assert hosts("192.168.1.7")
    assert hosts(socket.gethostname())
    assert not hosts("evil.example")
    assert not allowed_hosts("localhost")("192.168.1.7")
    assert allowed_hosts("127.0.0.2")("127.0.0.2")
    assert not allowed_hosts("127.0.0.2")("127.0.0.3")


@pytest.mark.parametrize("after", ["\u00b2", "9" * 5000, "-1", "x"])
def test_what_is_no_number_of_a_query_is_none(page: At, after: str) -> None:
    for path, name in (("/api/next", "after"), ("/api/state", "query")):
        assert page.http.get(path, params={**ME, name: after}).status_code == 200


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "https://127.0.0.1:8042", "http://127.0.0.1:8043"])
def test_scripts_of_other_pages_are_refused(page: At, origin: str) -> None:
    for answer in (
        page.http.get("/api/start", params=ME, headers={"Origin": origin}),
        page.http.post("/api/answer", headers={"Origin": origin}, json={**ME, "query": 0, "label": 0}),
    ):
        assert answer.status_code == 403
    assert page.http.get("/api/start", params=ME, headers={"Origin": ADDRESS}).status_code == 200
    assert not len(LabelStore(page.labels).latest())


def test_nothing_comes_from_elsewhere(page: At) -> None:
    for path in ("/", "/files/page.js", "/api/start?client=browser-one", "/nothing"):
        headers = page.http.get(path).headers
        rules = dict(rule.strip().split(" ", 1) for rule in headers["content-security-policy"].split(";"))
        assert rules["default-src"] == "'none'"
        assert re.fullmatch(r"'self' 'sha256-[A-Za-z0-9+/]{43}='", rules["script-src"])
        assert rules["connect-src"] == rules["style-src"] == "'self'"
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert "access-control-allow-origin" not in headers
    page_text = page.http.get("/").text
    own = [*re.findall(r'(?:src|href)="([^"]+)"', page_text), *re.findall(r'"(/files/[^"]+)"', page_text)]
    assert {name for name in own if not name.startswith(("/files/", "data:,"))} == set()
    assert all(page.http.get(name).status_code == 200 for name in own if name.startswith("/files/"))
    ours = [
        read_file(name).decode() for name in ("page.js", "cloud.js", "plan.js", "remote.js", "words.js", "page.css")
    ]
    assert not [
        text
        for text in ours
        if re.search(r"https?://|innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", text)
    ]
    assert policy(read_file("index.html").decode()) == page.http.get("/").headers["content-security-policy"]


def test_files_are_those_of_the_page_alone(page: At) -> None:
    for name in ("../server.py", "..%2fserver.py", "README.md", "three.LICENSE", "", "page.js/.."):
        assert page.http.get(f"/files/{name}").status_code == 404


def test_three_is_the_one_that_was_named() -> None:
    about = read_file("README.md").decode()
    assert hashlib.sha256(read_file("three.min.js")).hexdigest() in about
    assert b"MIT" in read_file("three.LICENSE")
    exported = re.findall(r"^export \{(.+?)\}", about, re.DOTALL | re.MULTILINE)
    names = {name.strip() for text in exported for name in text.split(",") if name.strip()}
    imported = re.search(r"import \{(.+?)\} from \"three\"", read_file("cloud.js").decode(), re.DOTALL)
    assert imported is not None
    assert {name.strip() for name in imported[1].split(",") if name.strip()} == names


# ---------------------------------------------------------------- what is taken


def test_an_answer_is_in_the_store_when_it_is_said_to_be(page: At) -> None:
    query = page.next()
    answer = page.post("answer", query=query["id"], label=1, seconds=2.5)
    assert answer.status_code == 200
    (row,) = LabelStore(page.labels).latest().tolist()
    session = page.page_api.session
    assert session is not None
    expected = session.queries[query["id"]]
    assert row[:2] == (expected.scene, expected.index)
    assert np.allclose(row[2:5], expected.position)
    assert row[5] == 1
    batch = LabelStore(page.labels).batches()[-1]
    assert (batch.source, batch.seconds) == ("anna", 2.5)
    following = answer.json()
    assert following["query"]["id"] != query["id"]
    assert (following["done"], following["total"]) == (1, 6)


def test_all_queries_come_once_in_the_order_of_the_walk(page: At) -> None:
    seen = []
    query = page.next()
    while query is not None:
        seen.append(query["id"])
        query = page.post("answer", query=query["id"], label=len(seen) % 4).json()["query"]
    assert seen == list(range(6))
    assert len(LabelStore(page.labels).latest()) == 6


def test_undo_takes_the_last_answer_back_and_asks_again(page: At) -> None:
    first = page.next()["id"]
    second = page.post("answer", query=first, label=0).json()["query"]["id"]
    page.post("answer", query=second, label=1)
    assert page.post("undo").json()["query"]["id"] == second
    assert LabelStore(page.labels).latest()["label"].tolist() == [0]
    assert page.post("undo").json()["query"]["id"] == first
    assert page.post("undo").json()["query"] is None
    assert not len(LabelStore(page.labels).latest())
    # Somebody else's answer is not one's own to take back.
    page.post("answer", query=first, label=0, name="ben")
    assert page.post("undo").json()["query"] is None


def test_an_answer_is_changed_by_answering_again(page: At) -> None:
    query = page.next()["id"]
    page.post("answer", query=query, label=0)
    assert page.http.get(f"/api/query/{query}", params=ME).json()["query"]["label"] == 0
    page.post("answer", query=query, label=-1)
    assert page.http.get(f"/api/query/{query}", params=ME).json()["query"]["label"] == -1
    assert LabelStore(page.labels).latest()["label"].tolist() == [-1]


def test_skipped_queries_come_last(page: At) -> None:
    first = page.next()["id"]
    order = [page.post("skip", query=first).json()["query"]["id"]]
    while len(order) < 6:
        order.append(page.post("answer", query=order[-1], label=0).json()["query"]["id"])
    assert order == [*range(1, 6), first]


@pytest.mark.parametrize(
    "said",
    [
        {"query": 99, "label": 0},
        {"query": -1, "label": 0},
        {"query": True, "label": 0},
        {"query": "0", "label": 0},
        {"query": 0, "label": 4},
        {"query": 0, "label": -2},
        {"query": 0, "label": 1.0},
        {"query": 0, "label": None},
        {"query": 0},
        {"query": 0, "label": 0, "seconds": -1},
        {"query": 0, "label": 0, "seconds": "long"},
        {"query": 0, "label": 0, "name": ""},
        {"query": 0, "label": 0, "name": "a" * 41},
        {"query": 0, "label": 0, "name": "a\x1b[31m"},
        {"query": 0, "label": 0, "name": 7},
        {"query": 0, "label": 0, "client": "x"},
        {"query": 0, "label": 0, "client": "../../etc"},
    ],
)
def test_answers_that_cannot_be_are_refused(page: At, said: dict[str, Any]) -> None:
    answer = page.post("answer", **said)
    assert answer.status_code in (400, 409)
    assert answer.json()["error"]
    assert not len(LabelStore(page.labels).latest())


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"null", b"[" * 3000, b'"text"', b"\xff"])
def test_bodies_that_are_no_object_are_refused(page: At, body: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    assert page.http.post("/api/answer", content=body, headers=headers).status_code == 400
    good = json.dumps({**ME, "query": 0, "label": 0}).encode()
    # A form of another page could send plain text without being asked.
    assert page.http.post("/api/answer", content=good, headers={"Content-Type": "text/plain"}).status_code == 400


def test_large_bodies_are_refused_whether_their_size_is_said_or_not(page: At) -> None:
    headers = {"Content-Type": "application/json"}
    body = json.dumps({**ME, "query": 0, "label": 0, "more": "x" * MAX_BODY_BYTES}).encode()
    assert page.http.post("/api/answer", content=body, headers=headers).status_code == 413
    assert page.http.post("/api/answer", content=iter([body[:100], body[100:]]), headers=headers).status_code == 413
    assert page.http.post("/api/answer", content=b"{}", headers={**headers, "Content-Length": "-5"}).status_code == 413
    assert not len(LabelStore(page.labels).latest())


def test_what_is_not_there_is_not_found(page: At) -> None:
    for path in (
        "scene/7", "scene/0/points?parts=9:0:1", "scene/0/points?parts=0:5:2", "scene/0/points?parts=0:0:99999999",
        "scene/0/points?column=truth&parts=0:0:1", "scene/0/points?column=../xyz&parts=0:0:1", "query/6",
        "query/6/region", "scene/0/point/999999", "scene/0/range?column=label", "scene/-1",
    ):  # fmt: skip
        assert page.http.get(f"/api/{path}", params=ME if "query" in path else None).status_code == 404, path
    for parts in ("", "a", "0:0", "0:0:1;", "0:-1:1", "0:0:1," * 3):
        assert page.http.get("/api/scene/0/points", params={"parts": parts}).status_code == 400, parts


def test_the_truth_is_not_shown_to_who_answers(page: At) -> None:
    about = page.http.get("/api/scene/0").json()
    assert [column["name"] for column in about["columns"]] == ["rgb"]


# ---------------------------------------------------------------- points


def test_points_come_as_they_lie_in_memory(page: At, store: SceneStore) -> None:
    about = page.http.get("/api/scene/0").json()
    points = store.points(store.table[0])
    parts = ",".join(f"{n}:0:{tile[0]}" for n, tile in enumerate(about["tiles"]))
    data = {
        name: page.http.get("/api/scene/0/points", params={"column": name, "parts": parts}).content
        for name in ("xyz", "rgb", "index")
    }
    index = np.frombuffer(data["index"], "<i4")
    assert np.array_equal(np.sort(index), np.arange(len(points.xyz)))
    assert np.array_equal(np.frombuffer(data["xyz"], "<f4").reshape(-1, 3), points.xyz[index].astype(np.float32))
    assert points.rgb is not None
    assert np.array_equal(np.frombuffer(data["rgb"], "u1").reshape(-1, 3), points.rgb[index])


def test_the_first_points_of_tiles_are_the_scene_thinned() -> None:
    rng = np.random.default_rng(0)
    xyz = (rng.random((300_000, 3)) * [40, 20, 3]).astype(np.float32)
    values = np.arange(len(xyz))
    cloud = DrawnCloud(Source(Points(xyz, np.zeros(3)), [Column("n", "number", lambda: values)], grid=0.05))
    assert sum(tile.count for tile in cloud.tiles) == len(xyz)
    assert len(cloud.tiles) >= 4
    assert np.array_equal(np.sort(cloud.order), np.arange(len(xyz)))
    assert np.array_equal(cloud.column("n"), cloud.order.astype(np.float32))
    for tile in cloud.tiles:
        part = cloud.xyz[tile.first : tile.first + tile.count]
        assert np.array_equal(part.min(axis=0), tile.low)
        assert np.array_equal(part.max(axis=0), tile.high)
        # A tenth of a tile lies in all of it.
        tenth = part[: len(part) // 10]
        for axis in range(3):
            share = np.histogram(tenth[:, axis], 4, (tile.low[axis], tile.high[axis]))[0] / len(tenth)
            whole = np.histogram(part[:, axis], 4, (tile.low[axis], tile.high[axis]))[0] / len(part)
            assert np.abs(share - whole).max() < 0.03


@pytest.mark.parametrize(("grid", "reach"), [(0.04, 1.0), (0.25, 20.0), (0.1, 5.0)])
def test_as_much_is_seen_as_suits_the_scene(grid: float, reach: float) -> None:
    cloud = DrawnCloud(Source(Points(room().xyz.astype(np.float32) * 40, np.zeros(3))))
    assert cloud.step == pytest.approx(0.08 * 40, rel=0.3)
    flat = np.stack(np.meshgrid(*[np.arange(40) * grid] * 2), axis=-1).reshape(-1, 2)
    xyz = np.column_stack([flat, np.zeros(len(flat))]).astype(np.float32)
    cloud = DrawnCloud(Source(Points(xyz, np.zeros(3))))
    assert cloud.step == pytest.approx(grid, rel=0.01)
    assert cloud.reach == reach


def test_units_are_metres_for_the_page(tmp_path: Path) -> None:
    one = room()
    one.xyz = one.xyz / 0.3048
    store = synthetic_scenes(tmp_path / "feet.zarr", [one], unit=0.3048)
    page = at(asked_of(store, {0: [10]}), tmp_path / "labels.zarr")
    query = page.next()
    position = store.points(store.table[0]).position[10]
    assert np.allclose(query["place"], position * 0.3048, atol=1e-4)
    page.post("answer", query=0, label=0)
    row = LabelStore(page.labels).latest()[0]
    assert np.allclose([row["x"], row["y"], row["z"]], position)
    page.page_api.close()


def test_the_room_learns_what_is_around_an_answer(page: At, store: SceneStore) -> None:
    nothing = np.frombuffer(
        page.http.get("/api/scene/0/learned").content, [("label", "<i2"), ("sure", "u1"), ("_", "u1")]
    )
    assert (nothing["label"] == -1).all()
    label = store.labels(store.table[0])
    assert label is not None
    for query in page.http.get("/api/scene/0/queries").json():
        session = page.page_api.session
        assert session is not None
        page.post("answer", query=query["id"], label=int(label[session.queries[query["id"]].index]))
    begin = time.perf_counter()
    found = np.frombuffer(page.http.get("/api/scene/0/learned").content, nothing.dtype)
    assert time.perf_counter() - begin < 2
    parts = {
        "column": "superpoint",
        "parts": ",".join(f"{n}:0:{t[0]}" for n, t in enumerate(page.http.get("/api/scene/0").json()["tiles"])),
    }
    of = np.frombuffer(page.http.get("/api/scene/0/points", params=parts).content, "<i4")
    index = page.page_api.scene_cache.cloud(0).order
    known = found["label"][of] >= 0
    assert known.mean() > 0.9
    answered = np.isin(label[index], np.unique(found["label"][found["label"] >= 0]))
    assert (found["label"][of] == label[index])[known & answered].mean() > 0.85


def test_answers_are_put_in_order_once_for_each_change(page: At, monkeypatch: pytest.MonkeyPatch) -> None:
    from hpal_cli.labels.store import latest_of

    ordered = []
    monkeypatch.setattr("hpal_cli.page.session.latest_of", lambda batches: (ordered.append(1), latest_of(batches))[1])
    session = page.page_api.session
    assert session is not None
    page.post("answer", query=0, label=2)
    page.post("answer", query=4, label=1)
    for _ in range(3):
        assert [column.tolist() for column in session.answers_of(0)] == [[session.queries[0].index], [2]]
        assert [column.tolist() for column in session.answers_of(1)] == [[session.queries[4].index], [1]]
    assert len(ordered) == 1
    # Another program's answer counts, and so does what is taken back.
    other = LabelStore(page.labels)
    other.append(other.latest(), "ben", call("label"))
    page.post("undo")
    for scene in (0, 1):
        index, label = session.answers_of(scene)
        latest = LabelStore(page.labels).latest()
        here = latest[latest["scene"] == scene]
        assert (index.tolist(), label.tolist()) == (here["index"].tolist(), here["label"].tolist())
    assert len(ordered) == 2


def test_spreads_that_wait_become_one(store: SceneStore, monkeypatch: pytest.MonkeyPatch) -> None:
    learner = LiveSpread(store)
    learner.superpoints(store.table[0])
    begun, go_on, seen = threading.Event(), threading.Event(), []
    usual = spread_scene

    def slow(superpoints: Any, index: Any, label: Any, classes: int) -> Any:
        seen.append(index.tolist())
        begun.set()
        assert go_on.wait(30)
        return usual(superpoints, index, label, classes)

    monkeypatch.setattr("hpal_cli.page.live_spread.spread_scene", slow)
    given = [3]

    def ask(version: int) -> Any:
        return learner.learned(store.table[0], version, lambda: (np.array(given), np.zeros(len(given), np.int32)), 4)

    first = ask(1)
    assert begun.wait(30)
    given.append(400)
    second = ask(2)
    given.append(900)
    third = ask(3)
    assert second is third is not first
    assert ask(3) is third
    go_on.set()
    assert (third.result(30)["label"] == 0).any()
    assert first.done()
    assert seen == [[3], [3, 400, 900]]
    learner.close()


def test_a_large_scene_is_coarse_at_first(store: SceneStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hpal_cli.page.scene_cache.COARSE_FROM_POINTS", 100)
    monkeypatch.setattr("hpal_cli.page.cloud.COARSE", 300)
    ready = threading.Event()
    usual = DrawnCloud.__init__

    def slow(self: DrawnCloud, source: Source, *, coarse: bool = False) -> None:
        assert coarse or ready.wait(30)
        usual(self, source, coarse=coarse)

    monkeypatch.setattr(DrawnCloud, "__init__", slow)
    scene_cache = open_view(store.path).scene_cache
    http = TestClient(
        make_app(PageApi(scene_cache), token=TOKEN, hosts=allowed_hosts("127.0.0.1"), stop=lambda: None),
        base_url=ADDRESS, headers={"Authorization": f"Bearer {TOKEN}"},
    )  # fmt: skip
    first = http.get("/api/scene/0").json()
    assert first["whole"] is False
    assert first["points"] == store.table[0].points
    parts = ",".join(f"{n}:0:{tile[0]}" for n, tile in enumerate(first["tiles"]))

    def values(column: str, kind: str) -> Any:
        params = {"column": column, "parts": parts, "whole": "0"}
        return np.frombuffer(http.get("/api/scene/0/points", params=params).content, kind)

    index, xyz = values("index", "<i4"), values("xyz", "<f4").reshape(-1, 3)
    points = store.points(store.table[0])
    assert len(index) == 300
    assert np.array_equal(xyz, points.xyz[index].astype(np.float32))
    coarse = scene_cache.first(0)
    # What surrounds a query is known in full, so that it is looked at from the same side.
    place = xyz[7].astype(float)
    near = coarse.around(place, 0.5)
    ready.set()
    whole = http.get("/api/scene/0", params={"whole": "1"}).json()
    assert whole["whole"] is True
    assert {key: whole[key] for key in ("points", "step", "reach", "floor", "top", "cut", "roof")} == {
        key: first[key] for key in ("points", "step", "reach", "floor", "top", "cut", "roof")
    }
    assert sum(tile[0] for tile in whole["tiles"]) == store.table[0].points
    assert len(near) == len(scene_cache.cloud(0).around(place, 0.5)) > 1
    # A page that has the coarse level may go on with it until it has the other.
    assert np.array_equal(values("index", "<i4"), index)
    assert http.get("/api/scene/0").json()["whole"] is True


def test_a_region_is_one_question(store: SceneStore, tmp_path: Path) -> None:
    page = at(asked_of(store, {0: [3, 400, 900, 1200]}, region=True), tmp_path / "labels.zarr")
    query = page.next()
    assert query["points"] == 4
    lit = np.frombuffer(page.http.get("/api/query/0/region").content, "<f4").reshape(-1, 3)
    assert np.allclose(np.sort(lit, axis=0), np.sort(store.points(store.table[0]).xyz[[3, 400, 900, 1200]], axis=0))
    assert page.post("answer", query=0, label=2).json()["query"] is None
    latest = LabelStore(page.labels).latest()
    assert latest["index"].tolist() == [3, 400, 900, 1200]
    assert latest["label"].tolist() == [2] * 4
    assert page.http.get("/api/scene/0/queries").json()[0]["label"] == 2
    assert annotators(LabelStore(page.labels).batches()) == []
    page.page_api.close()


def test_predictions_bring_guesses_and_colours(scenes: Path, tmp_path: Path) -> None:
    predictions = PredictionStore(fake_predictions(scenes, tmp_path / "preds.zarr", labelled=0))
    page = at(asked_of(predictions, {0: [1, 2]}), tmp_path / "labels.zarr")
    guess = page.next()["guess"]
    session = page.page_api.session
    assert session is not None
    prob = predictions.probabilities(predictions.table[0])[session.queries[0].index].astype(float)
    assert [guess["first"], guess["second"]] == np.argsort(-prob, kind="stable")[:2].tolist()
    columns = {column["name"]: column["kind"] for column in page.http.get("/api/scene/0").json()["columns"]}
    assert columns["class"] == "class"
    assert columns["uncertainty"] == "number"
    assert "truth" not in columns
    page.page_api.close()


# ---------------------------------------------------------------- several people


def test_a_query_that_somebody_holds_is_given_to_nobody_else(page: At) -> None:
    mine = page.next()["id"]
    theirs = page.next(client="browser-two", name="ben")["id"]
    assert mine != theirs
    assert page.next()["id"] == mine
    given = {page.next(client=f"browser-{n:02d}", name=f"person {n}")["id"] for n in range(4)}
    assert given == set(range(6)) - {mine, theirs}
    assert page.next(client="browser-seven", name="gus") is None
    assert page.http.get("/api/query/0", params={"client": "browser-seven", "name": "gus"}).json()["taken"] is True
    page.post("answer", query=mine, label=0)
    assert page.http.get("/api/state", params=ME).json()["done"] == 1


def test_a_lease_ends_when_nobody_is_there_any_more(page: At, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = page.next()["id"]
    now = time.time()
    monkeypatch.setattr("hpal_cli.page.leases.time.time", lambda: now + 301)
    assert page.next(client="browser-two", name="ben")["id"] == mine


def test_servers_of_one_store_never_give_the_same_query(page: At, store: SceneStore) -> None:
    other = at(asked_of(store, {0: [3, 400, 900, 1200], 1: [5, 700]}), page.labels)
    mine, theirs = page.next()["id"], other.next(client="browser-two", name="ben")["id"]
    assert mine != theirs
    held = other.http.get("/api/state", params={"client": "browser-two", "name": "ben"}).json()["held"]
    assert held == 1
    answer = page.http.get(f"/api/query/{theirs}", params=ME).json()
    assert answer["taken"] is True
    assert answer["held"] == 1
    given = [page.post("answer", query=mine, label=0).json()["query"]["id"]]
    given.append(other.post("answer", query=theirs, label=1, client="browser-two", name="ben").json()["query"]["id"])
    assert len({mine, theirs, *given}) == 4
    # Who ends gives back.
    other.page_api.close()
    free = [page.next(client=f"browser-{n:02d}", name=f"person {n}")["id"] for n in range(3)]
    assert given[1] in free
    page.page_api.close()
    assert not page.labels.with_name(".labels.zarr.held").exists()


def test_the_leases_of_a_killed_server_are_void(page: At, tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from hpal_cli.page.leases import Leases\n"
        "held = Leases(Path(sys.argv[1]))\nwith held.exclusive(): print(held.take((0, 3), 'them'), flush=True)\n"
        "time.sleep(60)"
    )
    words = [sys.executable, "-c", program, str(page.labels)]
    server = subprocess.Popen(words, env=environment(), stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    assert server.stdout.readline() == "True\n"
    session = page.page_api.session
    assert session is not None
    number = next(n for n, query in enumerate(session.queries) if (query.scene, query.index) == (0, 3))
    assert not session.hold(number, "us")
    server.kill()
    server.communicate()
    assert session.hold(number, "us")
    # Nothing of it is left.
    assert len([name for name in os.listdir(page.labels.with_name(".labels.zarr.held")) if name.endswith(".json")]) == 1


def test_answers_of_other_programs_are_noticed(page: At) -> None:
    other = LabelStore(page.labels)
    session = page.page_api.session
    assert session is not None
    first = session.queries[0]
    rows = np.zeros(1, other.latest().dtype)
    rows["scene"], rows["index"], rows["label"] = first.scene, first.index, 3
    other.append(rows, "oracle", call("label"))
    assert page.next()["id"] == 1


def test_two_people_are_asked_the_share_that_overlaps(store: SceneStore, tmp_path: Path) -> None:
    indices = list(range(0, 1600, 40))
    page = at(asked_of(store, {0: indices}), tmp_path / "none.zarr")
    assert page.page_api.session is not None
    assert not page.page_api.session.overlaps
    page.page_api.close()
    page = at(asked_of(store, {0: indices}), tmp_path / "labels.zarr", overlap=0.25)
    session = page.page_api.session
    assert session is not None
    twice = [n for n in range(40) if session.people_needed(n) == 2]
    assert 4 <= len(twice) <= 16
    for name in ("anna", "ben"):
        query, seen = page.next(name=name), []
        while query is not None:
            # Nobody sees what the other said.
            assert query["label"] is None
            seen.append(query["id"])
            label = query["id"] % 2 if name == "anna" or query["id"] != twice[0] else 3
            query = page.post("answer", query=query["id"], label=label, name=name, seconds=3.0).json()["query"]
        assert seen == (list(range(40)) if name == "anna" else twice)
    batches = LabelStore(page.labels).batches()
    (found,) = agreements(batches)
    assert (found.first, found.second, found.queries) == ("anna", "ben", len(twice))
    assert found.same == pytest.approx(1 - 1 / len(twice))
    assert [(p.name, p.answers, p.seconds) for p in annotators(batches)] == [
        ("anna", 40, 3.0),
        ("ben", len(twice), 3.0),
    ]
    assert annotators(batches)[0].per_hour == pytest.approx(1200)
    lines = dict(describe(page.labels).lines())
    assert lines["anna"] == "40 answers, 1,200 an hour, 3.0 s in the median"
    assert "Cohen's kappa" in lines["agreement"]
    page.page_api.close()


def test_kappa_is_what_cohen_computed() -> None:
    # Cohen (1960), table 1: proportions of two judges, kappa .492 without rounding.
    table = np.array([[0.25, 0.13, 0.12], [0.12, 0.02, 0.16], [0.03, 0.15, 0.02]])
    counts = np.rint(table * 100).astype(int)
    a, b = (np.repeat(axis.ravel(), counts.ravel()) for axis in np.indices((3, 3)))
    expected = ((a == b).mean() - (chance := counts.sum(1) @ counts.sum(0) / 1e4)) / (1 - chance)
    assert kappa(a, b) == pytest.approx(expected)
    assert kappa(np.array([0, 1, 2]), np.array([0, 1, 2])) == 1
    assert kappa(np.array([1, 1]), np.array([1, 1])) is None
    assert kappa(np.array([0, 1]), np.array([1, 0])) == -1


# ---------------------------------------------------------------- before a page is shown


def test_bad_input_is_one_line_before_a_page_is_shown(store: SceneStore, tmp_path: Path) -> None:
    rows, header = selection(store, {0: [3]})
    with pytest.raises(HpalError, match="is empty"):
        queries_asked(rows[:0], header, "s.ply", source=None, beside=None)
    other = synthetic_scenes(tmp_path / "other.zarr", [room(seed=7)])
    with pytest.raises(HpalError, match="other scenes"):
        queries_asked(rows, header, "s.ply", source=other.path, beside=None)
    gone = Header("selection", source="nowhere.zarr", scenes=store.table.id)
    with pytest.raises(UsageError, match="--source"):
        queries_asked(rows, gone, "s.ply", source=None, beside=None)
    rows["index"] = 10**6
    with pytest.raises(HpalError, match="outside scene"):
        queries_asked(rows, header, "s.ply", source=None, beside=None)
    rows["index"], rows["scene"] = 3, 5
    with pytest.raises(HpalError, match="does not have"):
        queries_asked(rows, header, "s.ply", source=None, beside=None)
    rows["scene"] = 0
    synthetic_scenes(tmp_path / "labels.zarr", [room(seed=7)])
    with pytest.raises(HpalError, match=r"labels\.zarr"):
        open_label_page(asked_of(store, {0: [3]}), tmp_path / "labels.zarr", call("label"))
    import shutil

    shutil.rmtree(store.path / "scenes" / "a" / "xyz")
    with pytest.raises(HpalError, match="scene a is gone"):
        queries_asked(rows, header, "s.ply", source=None, beside=None)


def test_the_command_says_bad_input_in_one_line_and_serves_nothing(store: SceneStore, tmp_path: Path) -> None:
    import shutil

    from hpal_cli.stream.points import write_points

    rows, header = selection(store, {0: [3]})
    gone = Header("selection", source="nowhere.zarr", scenes=store.table.id, pool=header.pool)
    # Not beside the scenes, which would be found there.
    folder = tmp_path / "work"
    folder.mkdir()
    for name, (these, what) in {
        "round": (rows, header), "empty": (rows[:0], header), "gone": (rows, gone),
    }.items():  # fmt: skip
        with (folder / f"{name}.ply").open("wb") as file:
            write_points(file, what, these)
    other = synthetic_scenes(folder / "other.zarr", [room(seed=7)])
    LabelStore.create(folder / "theirs.zarr", other.classes, other.table)
    shutil.copytree(store.path, folder / "hollow.zarr")
    shutil.rmtree(folder / "hollow.zarr" / "scenes" / "a")
    (folder / "nothing").mkdir()
    for words, problem in (
        (["label", "empty.ply", "--serve", "-o", "labels.zarr"], "empty.ply: is empty, so there is nothing to ask"),
        (["label", "none.ply", "--serve", "-o", "labels.zarr"], "none.ply"),
        (["label", "gone.ply", "--serve", "-o", "labels.zarr"], "--source: is missing"),
        (["label", "round.ply", "--serve", "-o", "labels.zarr", "--source", "other.zarr"], "other scenes"),
        (["label", "round.ply", "--serve", "-o", "theirs.zarr"], "theirs.zarr: holds labels of other scenes"),
        (["label", "round.ply", "--serve", "-o", "labels.zarr", "--source", "hollow.zarr"], "hollow.zarr"),
        (["label", "round.ply", "--serve", "-o", "nowhere/labels.zarr"], "nowhere"),
        (["label", "round.ply", "--serve", "-o", "labels.zarr", "--host", "no.such.host.invalid"], "--host"),
        (["label", "round.ply", "--serve"], "-o: is missing"),
        (["view", "none.zarr"], "none.zarr: does not exist"),
        (["view", "hollow.zarr"], "hollow.zarr: scene a is gone"),
        (["view", "nothing"], "nothing"),
    ):
        done = run_hpal(*words, cwd=folder)
        said = done.err.strip().splitlines()
        assert done.rc in (1, 2), (words, done)
        assert done.out == b"", words
        errors = [line for line in said if line.startswith("hpal ")]
        assert len(errors) == 1, (words, said)
        assert problem in errors[0], (words, said)
        assert "; " in errors[0], (words, said)
        assert "Traceback" not in done.err


def test_what_an_open_host_means_is_said(
    store: SceneStore, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def served_once(app: Any, listening: socket.socket, on_ready: Any) -> None:
        on_ready(lambda: None)
        listening.close()

    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setattr("hpal_cli.page.server.serve", served_once)
    taken, number, _ = free_socket("127.0.0.1", None)
    run_page(Console("view"), open_view(store.path), host="127.0.0.1", port=number, browser=True)
    at_home = capsys.readouterr()
    taken.close()
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/#token=[\w-]{43}\n", at_home.out)
    assert f"port {number} is in use: {int(at_home.out.split(':')[2].split('/')[0])} is taken instead" in at_home.err
    assert "open this address in a browser" in at_home.err
    assert "network that you trust" not in at_home.err
    run_page(Console("view"), open_view(store.path), host="0.0.0.0", port=None, browser=False)
    abroad = capsys.readouterr()
    assert "can see these scenes and answer; what is sent is not encrypted" in " ".join(abroad.err.split())
    assert socket.gethostname() in abroad.out


def test_a_labels_store_that_cannot_be_written_is_refused(
    store: SceneStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = tmp_path / "labels.zarr"
    LabelStore.create(labels, store.classes, store.table)
    usual = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "answers" and usual(path, mode))
    with pytest.raises(HpalError, match="cannot be written"):
        open_label_page(asked_of(store, {0: [3]}), labels, call("label"))


@pytest.mark.parametrize("text", ["many", "120%", "-1", "1.5", "nan"])
def test_an_overlap_is_a_share(text: str) -> None:
    with pytest.raises(UsageError, match="--overlap"):
        parse_overlap(text)
    assert parse_overlap("10%") == parse_overlap("0.1") == pytest.approx(0.1)


def test_a_port_in_use_is_passed_over() -> None:
    first, number, own = free_socket("127.0.0.1", None)
    second, another, free = free_socket("127.0.0.1", number)
    assert another > number
    assert not free
    first.close()
    second.close()
    assert own or number > 8042
    with pytest.raises(HpalError, match="--host"):
        free_socket("no.such.host.invalid", None)


def test_ports_that_cannot_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(number: int) -> Callable[..., None]:
        def bind(*_: object) -> None:
            raise OSError(number, os.strerror(number))

        return bind

    monkeypatch.setattr(socket.socket, "bind", refuse(errno.EACCES))
    with pytest.raises(HpalError, match="--port: 80 is reserved"):
        free_socket("127.0.0.1", 80)
    monkeypatch.setattr(socket.socket, "bind", refuse(errno.EADDRINUSE))
    with pytest.raises(HpalError, match="the ports 65530 to 65535 are in use"):
        free_socket("127.0.0.1", 65530)


class Served(NamedTuple):
    process: subprocess.Popen[str]
    address: str
    token: str

    def get(self, path: str) -> Any:
        request = urllib.request.Request(f"{self.address}{path}", headers={"Authorization": f"Bearer {self.token}"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    def post(self, path: str, **said: Any) -> Any:
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
        body = json.dumps({**ME, **said}).encode()
        request = urllib.request.Request(f"{self.address}{path}", data=body, headers=headers)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)


def served(folder: Path, *args: str) -> Served:
    env = {key: value for key, value in environment().items() if key not in ("DISPLAY", "WAYLAND_DISPLAY")}
    process = subprocess.Popen(
        [sys.executable, "-m", "hpal_cli", *args],
        cwd=folder,
        env=env,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    line = process.stdout.readline().strip()
    found = re.fullmatch(r"(http://127\.0\.0\.1:\d+)/#token=([\w-]{43})", line)
    if not found:
        process.kill()
        raise AssertionError(process.communicate())
    return Served(process, found[1], found[2])


def test_the_command_serves_is_killed_goes_on_and_says_what_next(store: SceneStore, tmp_path: Path) -> None:
    from hpal_cli.stream.points import write_points

    rows, header = selection(store, {0: [3, 400, 900]})
    with (tmp_path / "round.ply").open("wb") as file:
        write_points(file, header, rows)
    call_it = ("label", "round.ply", "--serve", "-o", "labels.zarr", "--name", "anna")
    first = served(tmp_path, *call_it)
    for number in (0, 1):
        assert first.post("/api/answer", query=number, label=1, seconds=1.0)["round"] == number
    first.process.kill()
    first.process.communicate()
    assert len(LabelStore(tmp_path / "labels.zarr").latest()) == 2
    second = served(tmp_path, *call_it)
    query = second.get("/api/next?client=browser-one&name=anna")["query"]
    assert query["id"] == 2
    with pytest.raises(urllib.error.HTTPError):
        Served(second.process, second.address, first.token).get("/api/start?client=browser-one")
    second.post("/api/answer", query=2, label=-1, seconds=2.0)
    second.process.send_signal(signal.SIGINT)
    _, said = second.process.communicate(timeout=30)
    assert second.process.returncode == 0
    assert "1 answer (1 unsure) by anna, 2.0 s each" in said
    assert f"next: hpal spread labels.zarr {store.path} --alike -o spread.zarr" in said
    assert second.token not in said
    third = served(tmp_path, *call_it)
    assert third.post("/api/end") == {"ended": True}
    _, said = third.process.communicate(timeout=30)
    assert third.process.returncode == 0
    assert "0 answers" in said


def test_the_token_is_not_among_the_words_of_the_browser(store: SceneStore, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = {}

    def browser(address: str) -> bool:
        path = Path(url2pathname(urllib.parse.urlsplit(address).path))
        opened.update(address=address, path=path, mode=path.stat().st_mode & 0o777, text=path.read_text())
        opened["folder"] = path.parent.stat().st_mode & 0o777
        return True

    def served_once(app: Any, listening: socket.socket, on_ready: Any) -> None:
        on_ready(lambda: None)
        listening.close()

    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr("webbrowser.open", browser)
    monkeypatch.setattr("hpal_cli.page.server.serve", served_once)
    monkeypatch.setattr("hpal_cli.page.server.new_token", lambda: TOKEN)
    run_page(Console("view", quiet=True), open_view(store.path), host="127.0.0.1", port=None, browser=True)
    assert TOKEN not in opened["address"]
    assert f"/#token={TOKEN}" in opened["text"]
    assert (opened["mode"], opened["folder"]) == (0o600, 0o700)
    assert not opened["path"].exists()


# ---------------------------------------------------------------- looking, and without a server


def test_a_view_shows_and_takes_nothing(scenes: Path, tmp_path: Path) -> None:
    predictions = fake_predictions(scenes, tmp_path / "preds.zarr", labelled=0)
    page_api = open_view(predictions, source=scenes)
    app = make_app(page_api, token=TOKEN, hosts=allowed_hosts("127.0.0.1"), stop=lambda: None)
    http = TestClient(app, base_url=ADDRESS, headers={"Authorization": f"Bearer {TOKEN}"})
    about = begun_of(http, **ME)[0]["about"]
    assert about["mode"] == "view"
    assert about["truth"] is True
    number = about["scenes"][0]["number"]
    columns = {column["name"] for column in http.get(f"/api/scene/{number}").json()["columns"]}
    assert {"rgb", "class", "uncertainty", "truth"} <= columns
    point = http.get(f"/api/scene/{number}/point/7").json()
    store = SceneStore(scenes)
    row = point["index"]
    truth = store.labels(store.table[number])
    assert truth is not None
    assert point["values"]["truth"] == ("none" if truth[row] < 0 else store.classes[truth[row]].name)
    assert [float(axis) for axis in point["position"]] == pytest.approx(
        store.points(store.table[number]).position[row].tolist(), abs=0.001
    )
    for path in ("answer", "skip", "undo"):
        assert http.post(f"/api/{path}", json={**ME, "query": 0, "label": 0}).status_code in (404, 409)
    assert http.get("/api/next", params=ME).status_code == 404
    page_api.close()


def test_what_can_be_viewed(scenes: Path, store: SceneStore, tmp_path: Path) -> None:
    from hpal_cli.stream.points import write_points

    rows, header = selection(store, {0: [3, 400], 1: [9]})
    with (tmp_path / "round.ply").open("wb") as file:
        write_points(file, header, rows)
    scene_cache = open_view(tmp_path / "round.ply").scene_cache
    assert [[mark.index for mark in scene.marks] for scene in scene_cache.scenes.values()] == [[3, 400], [9]]
    page = at(asked_of(store, {0: [3, 400]}), tmp_path / "labels.zarr")
    page.post("answer", query=0, label=2)
    page.page_api.close()
    (mark,) = open_view(tmp_path / "labels.zarr", source=store.path).scene_cache.scenes[0].marks
    assert (mark.text, mark.label) == (HOSTILE, 2)
    plain = tmp_path / "cloud.ply"
    plain.write_text(
        "ply\nformat ascii 1.0\nelement vertex 2\nproperty double x\nproperty double y\nproperty double z\n"
        "property float heat\nend_header\n900000.5 1 2 0.5\n900001.5 2 3 0.7\n"
    )
    cloud = open_view(plain).scene_cache.cloud(0)
    assert cloud.offset.tolist() == [900000, 1, 2]
    assert sorted(cloud.column("heat").tolist()) == pytest.approx([0.5, 0.7])
    import laspy

    las = laspy.create(point_format=3)
    las.x, las.y, las.z = np.array([[900000.5, 1, 2], [900001.5, 2, 3]]).T
    las.classification, las.intensity = [2, 6], [100, 300]
    las.write(tmp_path / "cloud.las")
    cloud = open_view(tmp_path / "cloud.las").scene_cache.cloud(0)
    assert cloud.offset.tolist() == [900000, 1, 2]
    assert sorted(cloud.column("intensity").tolist()) == [100, 300]
    with pytest.raises(HpalError, match="does not exist"):
        open_view(tmp_path / "nothing.ply")


def test_a_page_in_one_file_gives_a_table_that_is_taken(store: SceneStore, tmp_path: Path) -> None:
    asked = asked_of(store, {0: [3, 400], 1: [9]})
    path = tmp_path / "round.html"
    size = write_page(asked, path, title="</script><script>alert(1)</script>")
    text = path.read_text()
    assert size == len(text.encode()) < 2_000_000
    assert text.count("<script") == 3
    assert "default-src 'none'" in text
    assert not re.search(r'(src|href)="(?!data:)', text.split('<script type="application/json"')[0])
    data = json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1])  # type: ignore[index]
    assert [query["index"] for query in data["queries"]] == [query.index for query in asked.found]
    assert [c["name"] for c in data["classes"]] == store.classes.names
    with pytest.raises(HpalError, match="exists"):
        write_page(asked, path)
    table = tmp_path / "round.csv"
    lines = ["scene,index,x,y,z,label"]
    for query, label in zip(data["queries"], ("wall", "unsure", ""), strict=True):
        lines.append(
            ",".join([query["name"], str(query["index"]), *(f"{axis:.5f}" for axis in query["position"]), label])
        )
    table.write_text("\n".join(lines) + "\n")
    taken = import_answers(table, store)
    assert sorted(taken.rows["label"].tolist()) == [-1, 1]
