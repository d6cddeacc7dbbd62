"""The data that the server gives to a page: scenes and their points, queries, and the spread answers."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hpal_cli.errors import HpalError
from hpal_cli.label.queries import Query
from hpal_cli.page.cloud import DrawnCloud
from hpal_cli.page.live_spread import LiveSpread
from hpal_cli.page.scene_cache import SceneCache
from hpal_cli.page.session import Session
from hpal_cli.page.viewpoint import best_view
from hpal_cli.scene_table import SceneTable

MAX_POINTS = 4_000_000
"""Points in one response to a page, at most."""

FIRST_POINTS = 25_000
"""About how many points of a scene a page gets together with its description, to draw the first picture from."""

DELAY = 0.5
"""Seconds after which the next queries are prepared, so that the picture of the present query need not wait."""


class QueryView(NamedTuple):
    """The view of a query. toward: (3,) unit vector from the point to the camera; height: of the point in metres above
    the ground."""

    toward: list[float]
    height: float


class PageApi:
    """All data that the server gives to a page. `session` is None on a page on which nothing is answered."""

    def __init__(
        self,
        scene_cache: SceneCache,
        *,
        session: Session | None = None,
        table: SceneTable | None = None,
        live_spread: LiveSpread | None = None,
        name: str = "",
        title: str = "",
    ) -> None:
        """live_spread: spreads answers as they come, or None; table: the scene table of the stores, which it needs;
        name: of the person who is asked, until the page sends another one; title: of the page."""
        self.scene_cache, self.session, self.live_spread = scene_cache, session, live_spread
        self.name, self._table, self._title = name, table, title
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="views")
        self._views: dict[int, Future[QueryView]] = {}
        self._lock = threading.Lock()
        self._soon: threading.Timer | None = None
        # The first picture must not wait for the disk.
        if scene_cache.scenes:
            scene_cache.start(next(iter(scene_cache.scenes)))
        if session is not None and session.queries:
            self._start_view(0)

    def close(self) -> None:
        """Ends the threads, and releases the queries that are held."""
        if self.session is not None:
            self.session.close()
        if self._soon is not None:
            self._soon.cancel()
        self._pool.shutdown(wait=False, cancel_futures=True)
        if self.live_spread is not None:
            self.live_spread.close()

    def about(self) -> dict[str, Any]:
        """What a page needs first: its mode, the classes and the scenes."""
        classes = self.scene_cache.classes
        return {
            "mode": "view" if self.session is None else "label",
            "title": self._title,
            "name": self.name,
            "classes": [] if classes is None else [{"name": c.name, "color": list(c.color)} for c in classes],
            "scenes": [
                {"number": s.number, "name": s.name, "points": s.points, "marks": len(s.marks)}
                for s in self.scene_cache.scenes.values()
            ],
            "learns": self.live_spread is not None,
            "truth": self.scene_cache.truth,
            "overlap": self.session is not None and self.session.overlaps,
        }

    def scene(self, number: int, whole: bool = False) -> dict[str, Any]:
        """What a page needs to know about a scene before it reads the points.

        whole: of the whole scene; without it, of the coarse level if the scene is large and not read yet.

        Raises:
            KeyError: there is no such scene.
            HpalError: the scene cannot be read.
        """
        cloud = self.scene_cache.cloud(number) if whole else self.scene_cache.first(number)
        entry = self.scene_cache.scenes[number]
        # A marked point that the coarse level lacks gets its mark with the whole scene.
        places = [(int(cloud.place_of[mark.index]), mark) for mark in entry.marks]
        return {
            **scene_json(number, entry.name, cloud),
            "marks": [
                {"index": m.index, "place": cloud.xyz[place].tolist(), "text": m.text, "label": m.label}
                for place, m in places
                if place >= 0
            ],
        }

    def first_points(self, number: int, whole: bool) -> tuple[dict[str, Any], bytes]:
        """The first points of a scene, and what they are: `counts`, how many of each tile; `columns`, the name of each
        column and its length in bytes. The values are little-endian, one column after the other. whole: as in `points`.

        Raises:
            KeyError: there is no such scene.
            HpalError: the scene cannot be read.
        """
        cloud = self._level(number, whole)
        share = FIRST_POINTS / max(len(cloud), 1)
        counts = [min(tile.count, int(np.ceil(share * tile.count))) for tile in cloud.tiles]
        parts = [(n, 0, count) for n, count in enumerate(counts)]
        names = ["xyz", *(name for name in cloud.columns if name == "rgb")]
        values = [self.points(number, name, parts, whole) for name in names]
        columns = [[name, len(part)] for name, part in zip(names, values, strict=True)]
        return {"counts": counts, "columns": columns}, b"".join(values)

    def points(self, number: int, column: str, parts: list[tuple[int, int, int]], whole: bool = True) -> bytes:
        """The values of a column for some points, as little-endian bytes. parts: (tile, from, to) of each part; whole:
        whether the tiles are those of the whole scene, as `scene` said.

        Raises:
            KeyError: there is no such scene, column or tile, or the points are too many.
        """
        cloud = self._level(number, whole)
        slices = [slice(0, 0)]
        for tile, begin, end in parts:
            if not (0 <= tile < len(cloud.tiles) and 0 <= begin <= end <= cloud.tiles[tile].count):
                raise KeyError(f"{tile}:{begin}:{end}")
            first = cloud.tiles[tile].first
            slices.append(slice(first + begin, first + end))
        if sum(one.stop - one.start for one in slices) > MAX_POINTS:
            raise KeyError("too many points")
        if column == "superpoint":
            superpoint = self._superpoints(number)
            joined = np.concatenate([superpoint[cloud.order[one]] for one in slices])
        else:
            values = cloud.column(column)
            joined = np.concatenate([values[one] for one in slices])
        return np.ascontiguousarray(joined, joined.dtype.newbyteorder("<")).tobytes()

    def range(self, number: int, column: str) -> tuple[float, float]:
        """The 1st and the 99th percentile of the values of a column."""
        values = self.scene_cache.first(number).column(column)
        some = np.asarray(values[:: 1 + len(values) // 100_000], np.float64)
        some = some[np.isfinite(some)]
        if not len(some):
            return 0.0, 1.0
        low, high = np.percentile(some, [1, 99])
        return float(low), float(high)

    def point(self, number: int, row: int, whole: bool = True) -> dict[str, Any]:
        """All values of the point that is drawn as number `row`.

        Raises:
            KeyError: there is no such scene or point.
        """
        cloud, entry = self._level(number, whole), self.scene_cache.scenes[number]
        if not 0 <= row < len(cloud):
            raise KeyError(row)
        position = cloud.offset + cloud.xyz[row].astype(np.float64) / cloud.unit
        values: dict[str, Any] = {}
        for name, column in cloud.columns.items():
            value = cloud.column(name)[row]
            if column.kind == "class":
                values[name] = self._class_name(int(value))
            elif column.kind == "rgb":
                values[name] = " ".join(map(str, value.tolist()))
            else:
                values[name] = f"{float(value):.6g}"
        return {
            "scene": entry.name,
            "index": int(cloud.order[row]),
            "position": [f"{axis:.3f}" for axis in position],
            "values": values,
        }

    def learned(self, number: int) -> Future[NDArray[np.void]]:
        """(S,) the class of each superpoint of a scene, as records of `LEARNED`, after the answers so far are spread.

        Raises:
            KeyError: this page does not spread answers.
        """
        if self.live_spread is None or self.session is None or self._table is None or self.scene_cache.classes is None:
            raise KeyError("learned")
        session, scene = self.session, self._table[self.scene_cache.scenes[number].number]
        session.refresh()
        return self.live_spread.learned(
            scene, session.changes, lambda: session.answers_of(number), len(self.scene_cache.classes)
        )

    def queries(self, number: int) -> list[dict[str, Any]]:
        """The queries of a scene with their positions and answers, for the map of the scene."""
        session = self._asks()
        session.refresh()
        cloud = self.scene_cache.first(number)
        found = []
        for n, query in enumerate(session.queries):
            if query.scene == number:
                given = session.answer_to(n)
                label = None if given is None else given.label
                found.append({"id": n, "place": local_position(cloud, query.position), "label": label})
        return found

    def query(self, number: int, name: str) -> dict[str, Any]:
        """All that a page needs to show a query. name: of the person who is asked."""
        session = self._asks()
        query = session.queries[number]
        own, given = session.answer_to(number, name), session.answer_to(number)
        # If two people are asked, neither may see the answer of the other.
        shown = own if session.people_needed(number) > 1 else own or given
        name, classes = self.scene_cache.scenes[query.scene].name, self.scene_cache.classes
        names = [] if classes is None else classes.names
        asked = query_json(
            number, query, self.scene_cache.first(query.scene), name, names, self._start_view(number).result()
        )
        return {**asked, "label": None if shown is None else shown.label}

    def prepare(self, numbers: Sequence[int]) -> dict[str, Any]:
        """Computes the views of the queries that a person will most likely be asked next, after `DELAY`, so that the
        query that is shown now comes first. Returns the scene and position of the first of them, so that the page can
        load the points around it."""
        query = self._asks().queries[numbers[0]]
        soon = threading.Timer(DELAY, self._start_soon, [numbers])
        soon.daemon = True
        with self._lock:
            if self._soon is not None:
                self._soon.cancel()
            self._soon = soon
        soon.start()
        cloud = self.scene_cache.loaded(query.scene)
        return {"scene": query.scene, "place": None if cloud is None else local_position(cloud, query.position)}

    def region(self, number: int) -> bytes:
        """The positions (P, 3) of the points that get the answer to a query, as little-endian float32."""
        query = self._asks().queries[number]
        cloud = self.scene_cache.cloud(query.scene)
        return cloud.xyz[cloud.place_of[query.points]].astype("<f4").tobytes()

    def state(self, client: str) -> dict[str, Any]:
        """How many queries there are and how many are done, and how many of the others other people are answering."""
        session = self._asks()
        done, total = session.counts()
        return {"done": done, "total": total, "held": session.held_by_others(client), "changes": session.changes}

    def _asks(self) -> Session:
        if self.session is None:
            raise KeyError("nothing is asked here")
        return self.session

    def _level(self, number: int, whole: bool) -> DrawnCloud:
        return self.scene_cache.cloud(number) if whole else self.scene_cache.coarse(number)

    def _start_view(self, number: int) -> Future[QueryView]:
        with self._lock:
            view = self._views.get(number)
            if view is None or (view.done() and view.exception() is not None):
                view = self._views[number] = self._pool.submit(self._view, number)
            return view

    def _start_soon(self, numbers: Sequence[int]) -> None:
        # The pool of threads refuses work once the page has ended.
        with contextlib.suppress(RuntimeError):
            for number in numbers:
                # A scene is read for the first of these queries only.
                if number == numbers[0] or self._is_loaded(number):
                    self._start_view(number)

    def _is_loaded(self, number: int) -> bool:
        try:
            return self.scene_cache.loaded(self._asks().queries[number].scene) is not None
        except HpalError:
            return False

    def _view(self, number: int) -> QueryView:
        query = self._asks().queries[number]
        return query_view(self.scene_cache.first(query.scene), query)

    def _superpoints(self, number: int) -> NDArray[np.int32]:
        if self.live_spread is None or self._table is None:
            raise KeyError("superpoint")
        return self.live_spread.superpoints(self._table[number])

    def _class_name(self, label: int) -> str:
        if label < 0 or self.scene_cache.classes is None:
            return "none" if label < 0 else str(label)
        return self.scene_cache.classes[label].name


def local_position(cloud: DrawnCloud, position: NDArray[np.floating]) -> list[float]:
    """A position (3,) in the coordinates of the source, converted to metres relative to the scene's offset."""
    return ((np.asarray(position, np.float64) - cloud.offset) * cloud.unit).tolist()


def scene_json(number: int, name: str, cloud: DrawnCloud) -> dict[str, Any]:
    """The description of a scene for a page, without its points."""
    return {
        "number": number,
        "name": name,
        "points": cloud.total,
        "whole": cloud.whole,
        "step": cloud.step,
        "reach": cloud.reach,
        "floor": cloud.floor,
        "top": cloud.top,
        "cut": cloud.cut,
        "roof": cloud.roof,
        "offset": cloud.offset.tolist(),
        "unit": cloud.unit,
        "tiles": [[tile.count, *map(float, tile.low), *map(float, tile.high)] for tile in cloud.tiles],
        "columns": [{"name": column.name, "kind": column.kind} for column in cloud.columns.values()],
    }


def query_view(cloud: DrawnCloud, query: Query) -> QueryView:
    """Computes the view of a query, which takes some tenths of a second."""
    place = np.array(local_position(cloud, query.position))
    return QueryView(best_view(cloud, place).tolist(), float(place[2] - cloud.ground(place)))


def query_json(
    number: int, query: Query, cloud: DrawnCloud, name: str, names: list[str], view: QueryView
) -> dict[str, Any]:
    """The description of a query for a page. number: index of the query; name: of its scene; names: of the classes."""
    guess = query.guess
    return {
        "id": number,
        "number": query.number,
        "scene": query.scene,
        "name": name,
        "index": query.index,
        "place": local_position(cloud, query.position),
        "toward": view.toward,
        "height": view.height,
        "points": len(query.points),
        "guess": None
        if guess is None
        else {
            "first": names.index(guess.first),
            "second": names.index(guess.second),
            "confidence": guess.confidence,
        },
    }


def require_answer(page_api: PageApi, number: object, label: object) -> tuple[int, int]:
    """Checks the query and the class of an answer that a page sent, and returns them.

    Raises:
        HpalError: there is no such query or class.
    """
    session = page_api.session
    queries = 0 if session is None else len(session.queries)
    classes = 0 if page_api.scene_cache.classes is None else len(page_api.scene_cache.classes)
    if type(number) is not int or not 0 <= number < queries:
        raise HpalError("answer", "is for a query that does not exist", "reload the page")
    if type(label) is not int or not -1 <= label < classes:
        raise HpalError("answer", "is a class that does not exist", "reload the page")
    return number, label
