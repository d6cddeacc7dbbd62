"""Dask as the engine: a scheduler and two workers in processes of their own do what one process does."""

from __future__ import annotations

import io
import json
import os
import pickle
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import GRID, VAL, Done, environment, fake_predictions, tree
from s3_server import s3_server, use_new_bucket
from synthetic_scenes import Campaign, Noted, rooms, synthetic_scenes

from hpal_cli import __version__
from hpal_cli.errors import HpalError, UsageError
from hpal_cli.evaluation.evaluate import evaluate
from hpal_cli.export.files import export
from hpal_cli.export.pictures import write_pictures
from hpal_cli.forest.predict import predict_forest
from hpal_cli.forest.train import train_forest
from hpal_cli.inference.predict import predict, predict_on
from hpal_cli.parallel import cluster as clusters
from hpal_cli.parallel.cluster import Cluster, connect, packed, run_task, unpacked
from hpal_cli.predictions.store import PredictionStore
from hpal_cli.progress import Silent
from hpal_cli.scenes.prepare import prepare
from hpal_cli.score.scorer import ScoreSettings, Strategy, score
from hpal_cli.store import objects
from hpal_cli.store.remote import RemotePath, located
from hpal_cli.store.tasks import beside
from hpal_cli.superpoints.store import make_superpoints

ROOT = Path(__file__).parents[1]

# ---------------------------------------------------------------- a cluster of this computer


def ours() -> dict[str, str]:
    """The environment of a process that imports this hpal."""
    return {**environment(), "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}


class Workers:
    """A scheduler and its workers, each a process. They run in another folder than the tests."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.file = folder, folder / "scheduler.json"
        self.processes: list[subprocess.Popen[bytes]] = []
        self._scheduler = self._start("scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard")
        until = time.monotonic() + 120
        while not self.file.exists():
            # On a busy machine it may take longer than a command waits for it.
            assert time.monotonic() < until, "the scheduler does not start"
            time.sleep(0.05)

    def _start(self, kind: str, *options: str) -> subprocess.Popen[bytes]:
        log = self.folder / f"{kind}-{len(self.processes)}.log"
        words = [sys.executable, "-m", f"distributed.cli.dask_{kind}", "--scheduler-file", str(self.file), *options]
        with log.open("wb") as file:
            return subprocess.Popen(words, cwd=self.folder, env=ours(), stdout=file, stderr=file)

    def add(self, *options: str) -> subprocess.Popen[bytes]:
        """A further worker, with one thread."""
        self.processes.append(self._start("worker", "--no-nanny", "--nthreads", "1", "--no-dashboard", *options))
        return self.processes[-1]

    def kill(self, process: subprocess.Popen[bytes]) -> None:
        process.kill()
        process.wait()
        self.processes.remove(process)

    def close(self) -> None:
        for process in [*self.processes, self._scheduler]:
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def bucket() -> Iterator[RemotePath]:
    """A bucket of a local server that speaks S3. The workers find it in their environment."""
    with s3_server() as server, pytest.MonkeyPatch.context() as patch:
        use_new_bucket(server, "dask", patch)
        found = located("s3://dask")
        assert isinstance(found, RemotePath)
        yield found


@pytest.fixture(scope="module")
def workers(tmp_path_factory: pytest.TempPathFactory, bucket: RemotePath) -> Iterator[Workers]:
    made = Workers(tmp_path_factory.mktemp("dask"))
    for _ in range(2):
        made.add()
    yield made
    made.close()


@pytest.fixture(scope="module")
def cluster(workers: Workers) -> Iterator[Cluster]:
    with connect(f"file:{workers.file}") as found:
        found.client.wait_for_workers(2, timeout=120)
        yield found


@pytest.fixture(scope="module")
def campaign(tmp_path_factory: pytest.TempPathFactory) -> Campaign:
    return Campaign(tmp_path_factory.mktemp("campaign"))


@pytest.fixture
def no_arrays(monkeypatch: pytest.MonkeyPatch) -> None:
    """A task that carries an array is an error."""
    submit = Cluster._submit

    def checked(self: Cluster, name: str, function: Callable[[Any], Any], item: object) -> Any:
        class Pickler(pickle.Pickler):
            def reducer_override(self, value: object) -> Any:
                assert not isinstance(value, np.ndarray), f"a task of {name} carries an array"
                return NotImplemented

        Pickler(io.BytesIO()).dump((function, item))
        return submit(self, name, function, item)

    monkeypatch.setattr(Cluster, "_submit", checked)


def hidden(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("."))


# ---------------------------------------------------------------- the same bytes


@pytest.mark.usefixtures("no_arrays")
def test_prep(cluster: Cluster, office: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # What is typed is relative to a folder in which the workers are not.
    monkeypatch.chdir(tmp_path)
    os.symlink(office, "office")
    for name, jobs in (("one.zarr", 1), ("many.zarr", cluster)):
        prepare(Path("office"), Path(name), val=[VAL], grid=GRID, jobs=jobs)
    assert tree(tmp_path / "one.zarr") == tree(tmp_path / "many.zarr")
    assert hidden(tmp_path) == []


def test_tiles(cluster: Cluster, office: Path, tmp_path: Path) -> None:
    for name, jobs in (("one.zarr", 1), ("many.zarr", cluster)):
        prepare(office, tmp_path / name, scene_per=3.0, grid=GRID, jobs=jobs)
    assert tree(tmp_path / "one.zarr") == tree(tmp_path / "many.zarr")


@pytest.mark.usefixtures("no_arrays")
@pytest.mark.parametrize("alike", [False, True])
def test_spread(cluster: Cluster, campaign: Campaign, tmp_path: Path, alike: bool) -> None:
    campaign.spread(tmp_path / "one.zarr", alike=alike)
    campaign.spread(tmp_path / "many.zarr", alike=alike, jobs=cluster)
    assert tree(tmp_path / "one.zarr") == tree(tmp_path / "many.zarr")
    assert hidden(tmp_path) == []


@pytest.mark.usefixtures("no_arrays")
def test_object_storage(cluster: Cluster, campaign: Campaign, bucket: RemotePath, tmp_path: Path) -> None:
    campaign.spread(tmp_path / "spread.zarr")
    campaign.spread(bucket / "spread.zarr", jobs=cluster)
    prefix = "spread.zarr/"
    found = {one["path"]: one for batch in bucket.objects.list() for one in batch}
    there = {name.removeprefix(prefix): (bucket / name).read_bytes() for name in found}
    assert there == tree(tmp_path / "spread.zarr")
    # What is read may be there too.
    for name, jobs in (("one", 1), ("many", cluster)):
        written = export(bucket / "spread.zarr", tmp_path / name, jobs=jobs)
        assert len(written.paths) == 1
    assert tree(tmp_path / "one") == tree(tmp_path / "many")


@pytest.mark.usefixtures("no_arrays")
def test_names_in_folders(cluster: Cluster, tmp_path: Path) -> None:
    made = rooms(3)
    for room, name in zip(made, ("floor/a", "hall/a", "hall/b/c"), strict=True):
        room.name = name
    store = synthetic_scenes(tmp_path / "rooms.zarr", made)
    for name, jobs in (("one", 1), ("many", cluster)):
        make_superpoints(store, tmp_path / f"{name}.zarr", jobs=jobs)
        ply = tmp_path / name
        with (tmp_path / f"{name}.ply").open("wb") as file:
            score(store.path, lambda _, file=file: file, RANDOM, split="all", ply=ply, jobs=jobs)  # type: ignore[misc]
    assert tree(tmp_path / "one.zarr") == tree(tmp_path / "many.zarr")
    assert tree(tmp_path / "one") == tree(tmp_path / "many")
    assert len(tree(tmp_path / "many")) == 3


RANDOM = ScoreSettings(Strategy.RANDOM)


@pytest.mark.usefixtures("no_arrays")
def test_predict_by_a_forest(cluster: Cluster, campaign: Campaign, tmp_path: Path) -> None:
    forest = train_forest(campaign.store, campaign.labels, seed=0)
    for name, jobs in (("one.zarr", 1), ("many.zarr", cluster)):
        assert len(list(predict_forest(forest, campaign.store, tmp_path / name, jobs=jobs))) == 4
    assert tree(tmp_path / "one.zarr") == tree(tmp_path / "many.zarr")


@pytest.mark.usefixtures("no_arrays")
def test_predict_by_a_network(cluster: Cluster, campaign: Campaign, tmp_path: Path) -> None:
    from hpal_cli.training.presets import PRESETS
    from hpal_cli.training.train import train

    settings = replace(PRESETS["small"], voxel=0.12, steps=2, batch=1, max_voxels=2000, period=2, teacher=False)
    model = train(campaign.store, campaign.labels, settings)
    options: dict[str, Any] = {"smooth": True, "max_voxels": 400}
    told = Noted(), Noted()
    for _ in predict(model, campaign.store, tmp_path / "one.zarr", monitor=told[0], **options):
        pass
    found = predict_on(cluster, model, campaign.store, tmp_path / "many.zarr", device="cpu", monitor=told[1], **options)
    assert [scene.name for scene in found] == ["a", "b", "c", "d"]
    assert tree(tmp_path / "one.zarr") == tree(tmp_path / "many.zarr")
    assert told[0].said == told[1].said


@pytest.mark.usefixtures("no_arrays")
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"per_superpoint": True},
        {"strategy": Strategy.RANDOM},
        {"strategy": Strategy.REDAL},
        {"strategy": Strategy.DIVERSE},
    ],
    ids=str,
)
def test_score(cluster: Cluster, campaign: Campaign, tmp_path: Path, options: dict[str, Any]) -> None:
    source = campaign.store.path
    if options.get("strategy") is not Strategy.DIVERSE:
        source = fake_predictions(campaign.store.path, tmp_path / "preds.zarr")
    found = []
    for name, jobs in (("one", 1), ("many", cluster)):
        with (tmp_path / name).open("wb") as file:
            score(
                source,
                lambda _, file=file: file,  # type: ignore[misc]
                ScoreSettings(**options),
                labels=campaign.labels,
                ply=tmp_path / f"{name}-clouds",
                jobs=jobs,
            )
        found.append(((tmp_path / name).read_bytes(), tree(tmp_path / f"{name}-clouds")))
    assert found[0] == found[1]
    assert len(found[0][1]) == 3


@pytest.mark.usefixtures("no_arrays")
def test_export_eval_and_pictures(cluster: Cluster, campaign: Campaign, tmp_path: Path) -> None:
    preds = PredictionStore(fake_predictions(campaign.store.path, tmp_path / "preds.zarr"))
    results = []
    for name, jobs in (("one", 1), ("many", cluster)):
        export(preds.path, tmp_path / name / "grid", jobs=jobs)
        export(preds.path, tmp_path / name / "original", "csv", original=campaign.store.path, jobs=jobs)
        write_pictures(preds, [preds.table[0]], tmp_path / name / "pictures", truth=campaign.store, jobs=jobs)
        results.append(
            evaluate(
                preds, campaign.store, split="all", labels=campaign.labels, without_answers=True, jobs=jobs
            ).to_json()
        )
    assert results[0] == results[1]
    assert tree(tmp_path / "one") == tree(tmp_path / "many")
    assert len(tree(tmp_path / "many")) == 9


def test_a_cluster_of_this_computer(hpal: Callable[..., Done], campaign: Campaign, tmp_path: Path) -> None:
    preds = fake_predictions(campaign.store.path, tmp_path / "preds.zarr")
    for name, options in (("one", []), ("many", ["--scheduler", "local:2"])):
        done = hpal("export", preds, "-o", tmp_path / name, *options)
        assert (done.rc, done.err) == (0, f"{tmp_path / name}/: 4 PLY files, {sum_of(preds):,} points\n")
    assert tree(tmp_path / "one") == tree(tmp_path / "many")


def sum_of(preds: Path) -> int:
    return sum(scene.points for scene in PredictionStore(preds).table)


# ---------------------------------------------------------------- workers that die, tasks that run twice


class After(Silent):
    """A monitor that does something after the first scene."""

    def __init__(self, act: Callable[[], None]) -> None:
        self._act: Callable[[], None] | None = act

    def advance(self, amount: int = 1, status: str = "") -> None:
        act, self._act = self._act, None
        if act is not None:
            act()


def test_a_worker_that_is_killed(cluster: Cluster, workers: Workers, tmp_path: Path) -> None:
    store = synthetic_scenes(tmp_path / "rooms.zarr", rooms(8))
    victim = workers.processes[0]

    def kill() -> None:
        # While it has tasks, and results that nobody has taken.
        until = time.monotonic() + 30
        while not all(cluster.client.processing().values()) and time.monotonic() < until:
            time.sleep(0.01)
        workers.kill(victim)

    make_superpoints(store, tmp_path / "one.zarr", jobs=1)
    make_superpoints(store, tmp_path / "many.zarr", jobs=cluster, monitor=After(kill))
    assert victim.returncode == -signal.SIGKILL
    assert len(cluster.client.nthreads()) == len(workers.processes)
    assert tree(tmp_path / "one.zarr") == tree(tmp_path / "many.zarr")
    assert hidden(tmp_path) == []


def test_workers_that_die_again_and_again() -> None:
    from distributed import KilledWorker

    expected = "--scheduler: 4 workers ended while they did one of the tasks; see their logs"
    with pytest.raises(HpalError, match=expected), clusters._problems():
        raise KilledWorker("task", None, 3)  # type: ignore[arg-type]


def test_a_scene_is_written_once(cluster: Cluster, tmp_path: Path) -> None:
    folder = tmp_path / "unfinished"
    folder.mkdir()
    calls: list[str] = []

    def write(root: Any, _: Path) -> int:
        calls.append("scene")
        root.require_group("scenes/a/b").attrs["x"] = len(calls)
        return len(calls)

    with beside(tmp_path / "x.zarr", cluster) as tasks:
        place = tasks.place(tmp_path / "x.zarr", folder)
        assert place.write("a/b", write) == 1
        before = tree(folder)
        assert place.write("a/b", write) == 1
        assert (len(calls), tree(folder)) == (1, before)
        # A worker that dies between the two steps has recorded the result of a scene that is not there.
        (folder / "scenes" / "a" / "b").rename(tmp_path / "gone")
        assert place.write("a/b", write) == 2
        file, other = tmp_path / "file", tmp_path / "other"

        def put(again: bool) -> None:
            calls.append(f"file {again}")
            file.touch()

        tasks.once(file, put)
        tasks.once(file, put)
        assert calls[2:] == ["file False"]

        def fail(again: bool) -> None:
            calls.append(f"fails {again}")
            raise HpalError("x", "y", "z")

        for _ in range(2):
            with pytest.raises(HpalError):
                tasks.once(other, fail)
        # What the first attempt has left may be replaced by the second one.
        assert calls[3:] == ["fails False", "fails True"]
    # After the command has ended, a worker that nobody waits for any more leaves nothing.
    with pytest.raises(FileNotFoundError):
        place.write("c", write)
    with pytest.raises(FileNotFoundError):
        tasks.once(other, lambda again: other.touch())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "gone", "unfinished"]


def test_of_two_attempts_the_faster_one_stays(cluster: Cluster, tmp_path: Path) -> None:
    folder = tmp_path / "unfinished"
    folder.mkdir()
    with beside(tmp_path / "x.zarr", cluster) as tasks:
        place = tasks.place(tmp_path / "x.zarr", folder)

        def slow(root: Any, _: Path) -> str:
            root.require_group("scenes/a")
            place.write("a", lambda root, _: str(root.require_group("scenes/a")) and "fast")
            return "slow"

        assert place.write("a", slow) == "slow"
        assert [path.name for path in (folder / "scenes").iterdir()] == ["a"]


def test_an_error_of_a_task_leaves_nothing(cluster: Cluster, office: Path, tmp_path: Path) -> None:
    broken = tmp_path / "scans"
    broken.mkdir()
    for n in range(3):
        (broken / f"{n}.txt").write_text("1 2 3 0 0 0\n" * 9 + ("x y z\n" if n == 1 else ""))
    with pytest.raises(HpalError, match=r"1\.txt"):
        prepare(
            broken, tmp_path / "x.zarr", grid=None, scale=0.04, columns=["x", "y", "z", "r", "g", "b"], jobs=cluster
        )
    assert not (tmp_path / "x.zarr").exists()
    assert not [name for name in hidden(tmp_path) if name != ".x.zarr.partial"]


def test_ctrl_c_cancels(cluster: Cluster, workers: Workers, tmp_path: Path) -> None:
    store = synthetic_scenes(tmp_path / "rooms.zarr", rooms(26))
    preds = fake_predictions(store.path, tmp_path / "preds.zarr")
    command = subprocess.Popen(
        [sys.executable, "-m", "hpal_cli", "export", preds, "-o", "out", "-v", "--scheduler", f"file:{workers.file}"],
        cwd=tmp_path,
        env=ours(),
        stderr=subprocess.PIPE,
        text=True,
        # A shell starts what runs in its background with SIGINT ignored, the tests too.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert command.stderr is not None
    try:
        assert "writing" in command.stderr.readline()
        # They finish nothing more, however fast they are.
        for process in workers.processes:
            process.send_signal(signal.SIGSTOP)
        assert tasks_of(cluster) > 0
        command.send_signal(signal.SIGINT)
        assert command.wait(60) == 130
        assert command.stderr.read().splitlines()[-1].endswith("interrupted")
        until = time.monotonic() + 30
        while tasks_of(cluster) and time.monotonic() < until:
            time.sleep(0.1)
        assert tasks_of(cluster) == 0
    finally:
        command.kill()
        command.stderr.close()
        for process in workers.processes:
            process.send_signal(signal.SIGCONT)
    # The workers are free for others again.
    assert list(cluster.map_in_order(abs, range(-20, 0))) == list(range(20, 0, -1))
    # What they were at when they were stopped was for nobody.
    assert not list(tmp_path.glob("out/*.ply"))


def test_a_command_that_is_killed(
    cluster: Cluster, workers: Workers, bucket: RemotePath, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a killed command has left on object storage is removed by the next command."""
    store = synthetic_scenes(tmp_path / "rooms.zarr", rooms(26))
    scheduler = f"file:{workers.file}"
    command = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "hpal_cli",
            "export",
            store.path,
            "-o",
            str(bucket / "out"),
            "-v",
            "--scheduler",
            scheduler,
        ],
        env=ours(),
        stderr=subprocess.PIPE,
        text=True,
    )
    assert command.stderr is not None
    try:
        assert "writing" in command.stderr.readline()
    finally:
        command.kill()
        command.wait()
        command.stderr.close()
    assert [path.name for path in bucket.iterdir() if path.name.endswith(".tasks")]
    until = time.monotonic() + 60
    while tasks_of(cluster) and time.monotonic() < until:
        time.sleep(0.1)
    monkeypatch.setattr(objects, "STALE", 0.0)
    assert len(export(store.path, bucket / "out", overwrite=True, jobs=cluster).paths) == 26
    assert not [path.name for path in bucket.iterdir() if path.name.startswith(".")]
    export(store.path, tmp_path / "one")
    found = [one["path"] for batch in bucket.objects.list("out/") for one in batch]
    assert {name.removeprefix("out/"): (bucket / name).read_bytes() for name in found} == tree(tmp_path / "one")


def tasks_of(cluster: Cluster) -> int:
    """Tasks that the scheduler knows."""
    return int(
        cluster.client.run_on_scheduler(
            eval, "sum(len(one.tasks) for one in __import__('distributed').Scheduler._instances)"
        )
    )


# ---------------------------------------------------------------- workers with a GPU


def test_workers_with_a_gpu_are_used_where_there_are_any(cluster: Cluster, workers: Workers) -> None:
    assert not cluster.on_gpus().gpu
    before = len(cluster.client.nthreads())
    with_gpu = workers.add("--resources", "GPU=1")
    try:
        cluster.client.wait_for_workers(before + 1, timeout=120)
        assert set(cluster.on_gpus().map_in_order(eval, ["__import__('os').getpid()"] * 8)) == {with_gpu.pid}
    finally:
        workers.kill(with_gpu)


# ---------------------------------------------------------------- what cannot work


def test_a_scheduler_that_dies_and_has_no_workers(tmp_path: Path) -> None:
    alone, told = Workers(tmp_path), Noted()
    try:
        with connect(f"file:{alone.file}", told) as cluster:
            assert told.said == [f"file:{alone.file} has no worker yet: waiting for one"]
            killer = threading.Timer(0.5, alone.close)
            killer.start()
            with pytest.raises(
                HpalError, match="--scheduler: the scheduler is gone, or has cancelled the tasks; start"
            ):
                list(cluster.map_in_order(abs, [1]))
            killer.join()
    finally:
        alone.close()


def test_another_version_of_hpal(cluster: Cluster, workers: Workers, tmp_path: Path) -> None:
    (tmp_path / "older.py").write_text("import hpal_cli\nhpal_cli.__version__ = '0.0.1'\n")
    older = workers.add("--preload", str(tmp_path / "older.py"))
    try:
        cluster.client.wait_for_workers(len(workers.processes), timeout=120)
        expected = rf"worker tcp://\S+: has hpal 0\.0\.1, and this is hpal {re.escape(__version__)}; install hpal"
        with pytest.raises(HpalError, match=expected), connect(f"file:{workers.file}"):
            pass
        # It may also come when the work has begun.
        with pytest.raises(HpalError, match=rf"has hpal 0\.0\.1, and the command is hpal {re.escape(__version__)}"):
            list(cluster.map_in_order(abs, list(range(50))))
    finally:
        workers.kill(older)


def test_a_worker_without_hpal(monkeypatch: pytest.MonkeyPatch) -> None:
    class Client:
        def run(self, *_: object, **__: object) -> dict[str, object]:
            return {"tcp://a:1": __version__, "tcp://b:1": ModuleNotFoundError("hpal_cli")}

    with pytest.raises(HpalError, match="worker tcp://b:1: has no hpal, and this is hpal"):
        clusters._require_same_version(Client())


def test_a_path_that_workers_cannot_see(
    cluster: Cluster, campaign: Campaign, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The folder in which a process runs is another one for the workers.
    monkeypatch.chdir(tmp_path)
    preds = Path("/proc/self/cwd/preds.zarr")
    fake_predictions(campaign.store.path, preds)
    with pytest.raises(
        HpalError, match=r"/proc/self/cwd/preds\.zarr: worker tcp://\S+ cannot see it; put it on a disk"
    ):
        export(preds, tmp_path / "out", jobs=cluster)
    assert not (tmp_path / "out").exists()
    with pytest.raises(HpalError, match=r"/proc/self/cwd/\.s\.zarr.*: worker tcp://\S+ cannot see it"):
        campaign.spread(Path("/proc/self/cwd/s.zarr"), jobs=cluster)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["preds.zarr"]


def test_a_scheduler_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert clusters.CONNECT_TIMEOUT == 10
    monkeypatch.setattr(clusters, "CONNECT_TIMEOUT", 0.5)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{silent.getsockname()[1]}"
        expected = f"{address}: no scheduler answers at {address} within 0.5 s; start one with `dask scheduler`"
        assert refusal(address).startswith(expected)
        # Something else may listen there.
        silent.listen()
        assert refusal(address).startswith(expected)
    (tmp_path / "x.json").write_text("{}")
    assert "x.json: holds no address of a scheduler" in refusal(f"file:{tmp_path / 'x.json'}")
    (tmp_path / "x.json").write_text(json.dumps({"address": address}))
    assert f"no scheduler answers at {address}" in refusal(f"file:{tmp_path / 'x.json'}")
    assert "y.json: no scheduler has written it within 0.5 s" in refusal(f"file:{tmp_path / 'y.json'}")


def refusal(scheduler: str) -> str:
    began = time.monotonic()
    with pytest.raises(HpalError) as found, connect(scheduler):
        pass
    assert time.monotonic() - began < 10
    assert "\n" not in str(found.value)
    return str(found.value)


@pytest.mark.parametrize(
    "scheduler", ["", "local", "local:0", "local:-1", "local:many", "host:8786", "http://x:1", "file:"]
)
def test_what_is_no_scheduler(scheduler: str) -> None:
    with (
        pytest.raises(UsageError, match=r"names none; give tcp://HOST:8786, local:8 or file:scheduler\.json"),
        connect(scheduler),
    ):
        pass


def test_dask_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with (
        pytest.raises(UsageError, match=r"needs Dask, which is not installed; pip install 'hpal\[dask\]'"),
        connect("local:2"),
    ):
        pass


@pytest.mark.parametrize("jobs", [["--jobs", "1"], ["--jobs=4"]])
def test_a_scheduler_and_processes(hpal: Callable[..., Done], scenes: Path, jobs: Sequence[str]) -> None:
    done = hpal("prep", scenes, "-o", "x.zarr", "--scheduler", "local:2", *jobs)
    assert done.rc == 2
    assert done.err == "hpal prep: --scheduler: takes the place of --jobs; leave one of them out\n"


def test_tiles_on_object_storage(cluster: Cluster, office: Path) -> None:
    with pytest.raises(UsageError, match="cannot write tiles to object storage"):
        prepare(office, located("s3://b/x.zarr"), scene_per=3.0, jobs=cluster)


def test_a_task_that_another_version_sends() -> None:
    with pytest.raises(HpalError, match=r"the command is hpal 0\.0\.1"):
        run_task(packed((abs, -1)), "0.0.1", "run")
    assert run_task(packed((abs, -1)), __version__, "run") == 1


def test_packed_paths_are_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").touch()
    data = packed([Path("there"), Path("missing")])
    assert unpacked(data) == [tmp_path / "there", tmp_path / "missing"]
    (tmp_path / "there").unlink()
    with pytest.raises(HpalError, match=r"there: process \d+ cannot see it"):
        unpacked(data)
