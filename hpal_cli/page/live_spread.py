"""Spreads the answers given so far over a scene, in the background while a person answers on the page."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hpal_cli.errors import HpalError
from hpal_cli.progress import Monitor, Silent
from hpal_cli.scene_table import SceneInfo
from hpal_cli.scenes.store import SceneStore
from hpal_cli.spreading.spread import spread_scene
from hpal_cli.superpoints.build import Superpoints
from hpal_cli.superpoints.store import SuperpointStore, open_superpoints, superpoints_path

LEARNED = np.dtype([("label", "<i2"), ("sure", "u1"), ("_", "u1")])
"""The result for a superpoint: its class, -1 if it is not known, and the probability of that class in 255ths."""

MAX_POINTS = 3_000_000
"""Points of a scenes store up to which the superpoints are computed while the page is open. For more, that would take
minutes."""

CACHED_SCENES = 4
"""Scenes whose superpoints stay in memory."""


@dataclass
class _Spread:
    """A task to spread the answers of one scene. version: of the answers; begun: whether the answers have been read."""

    version: int
    begun: bool = False
    found: Future[NDArray[np.void]] = field(default_factory=Future)


class LiveSpread:
    """Spreads the answers of one scene at a time, in a thread of its own, so that the page does not wait for it."""

    def __init__(self, store: SceneStore, monitor: Monitor | None = None) -> None:
        self._store, self._monitor = store, monitor or Silent()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="spread")
        self._lock = threading.Lock()
        self._known: dict[int, Superpoints] = {}
        self._found: SuperpointStore | None = None
        self._maker: BaseProcess | None = None
        self._closed = False
        self._last: dict[int, _Spread] = {}

    def superpoints(self, scene: SceneInfo) -> NDArray[np.int32]:
        """(N,) the superpoint of each point of a scene.

        Raises:
            HpalError: the superpoints cannot be computed or read.
        """
        return self._pool.submit(self._superpoints, scene).result().superpoint

    def learned(
        self,
        scene: SceneInfo,
        version: int,
        answers: Callable[[], tuple[NDArray[np.int64], NDArray[np.int32]]],
        classes: int,
    ) -> Future[NDArray[np.void]]:
        """(S,) the class of each superpoint of a scene, as records of `LEARNED`, after its answers are spread.

        version: of the answers. Each version is computed once. If a task has not begun when a newer version is asked
        for, it computes the newer version.
        """
        with self._lock:
            last = self._last.get(scene.number)
            if last is None or (last.begun and last.version != version):
                last = self._last[scene.number] = _Spread(version)
                self._pool.submit(self._run, last, scene, answers, classes)
            last.version = version
            return last.found

    def close(self) -> None:
        """Ends the threads, and the process that computes superpoints."""
        self._closed = True
        self._pool.shutdown(wait=False, cancel_futures=True)
        if self._maker is not None and self._maker.is_alive():
            self._maker.terminate()

    def _superpoints(self, scene: SceneInfo) -> Superpoints:
        # Called only in the single thread of the pool, so it needs no lock.
        if self._found is None:
            self._found = self._open()
        if scene.number not in self._known:
            while len(self._known) >= CACHED_SCENES:
                del self._known[next(iter(self._known))]
            self._known[scene.number] = self._found.read(scene)
        return self._known[scene.number]

    def _open(self) -> SuperpointStore:
        if not superpoints_path(self._store.path).exists():
            points = sum(one.points for one in self._store.table)
            if points > MAX_POINTS:
                problem = f"has {points:,} points, whose superpoints would take minutes"
                raise HpalError(self._store.path, problem, "find them once with `hpal superpoints`")
            # In a process of low priority, so that the page does not become slow meanwhile.
            self._maker = multiprocessing.get_context("spawn").Process(
                target=_make, args=(self._store.path,), daemon=True
            )
            self._maker.start()
            self._maker.join()
            if self._closed:
                raise HpalError(self._store.path, "its superpoints were not finished", "start again")
        return open_superpoints(self._store, jobs=1, monitor=self._monitor)

    def _run(
        self,
        job: _Spread,
        scene: SceneInfo,
        answers: Callable[[], tuple[NDArray[np.int64], NDArray[np.int32]]],
        classes: int,
    ) -> None:
        try:
            superpoints = self._superpoints(scene)
            with self._lock:
                job.begun = True
            job.found.set_result(self._spread(superpoints, *answers(), classes))
        except BaseException as error:
            job.begun = True
            job.found.set_exception(error)

    def _spread(
        self, superpoints: Superpoints, index: NDArray[np.int64], label: NDArray[np.int32], classes: int
    ) -> NDArray[np.void]:
        out = np.zeros(len(superpoints), LEARNED)
        out["label"] = -1
        if (label >= 0).any():
            spread = spread_scene(superpoints, index, label, classes)
            out["label"] = np.where(spread.known, spread.prob.argmax(axis=1), -1)
            out["sure"] = np.rint(255 * np.clip(spread.prob.max(axis=1), 0, 1))
        return out


def _make(path: Path) -> None:
    os.nice(10)
    open_superpoints(SceneStore(path), jobs=1)
