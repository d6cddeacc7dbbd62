"""`import hpal_cli as hpal`: its calls check their arguments, do what the commands do, and load nothing before they are
asked for; docs/library.md shows them as they are."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import environment, run_hpal, softmax
from test_docs import DOCS, files_of

import hpal_cli as hpal
from hpal_cli import library
from hpal_cli.selection.fds import Suppression, greedy_select

HEAVY = {"numpy", "torch", "zarr", "scipy", "sklearn", "matplotlib", "plyfile", "laspy"}


def python(*arguments: str, cwd: Path | None = None) -> str:
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, cwd=cwd, env=environment(), check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def cloud() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(prob, xyz, features) of 400 points in a room of 4 m; features in a few directions."""
    rng = np.random.default_rng(1)
    prob = softmax(rng.normal(0, 2, (400, 5)))
    directions = rng.random((3, 8))
    return prob, rng.random((400, 3)) * 4, directions[rng.integers(3, size=400)]


# ---------------------------------------------------------------- what is there


def test_all_names_are_there_and_documented() -> None:
    assert set(hpal.__all__) == {"__version__", *library.CALLS, *library.TYPES}
    for name in (*library.CALLS, *library.TYPES):
        assert getattr(hpal, name).__doc__, name
        assert name in dir(hpal)
    with pytest.raises(AttributeError, match="no attribute 'selects'"):
        hpal.selects  # noqa: B018


def test_the_calls_are_those_of_the_library() -> None:
    for name in library.CALLS:
        assert getattr(hpal, name) is getattr(library, name)


def test_the_import_loads_nothing_heavy() -> None:
    loaded = python("-c", "import sys; import hpal_cli as hpal; print(*(n.split('.')[0] for n in sys.modules))")
    assert "hpal_cli" in loaded.split()
    assert not HEAVY & set(loaded.split())


def test_scores_and_picks_load_no_torch() -> None:
    program = (
        "import sys; import numpy as np; import hpal_cli as hpal\n"
        "xyz = np.arange(12.0).reshape(4, 3)\n"
        "score = hpal.hmmu(np.tile([0.6, 0.4], (4, 1)), xyz)\n"
        "print(len(hpal.select(score, xyz, None, 2)), 'torch' in sys.modules)"
    )
    assert python("-c", program) == "2 False\n"


def test_no_processes_are_started_unasked_but_by_the_program() -> None:
    program = (
        "import sys; from hpal_cli import parallel; parallel.cores = lambda: 4; print(parallel.default_jobs())\n"
        "from hpal_cli.__main__ import main; sys.argv = ['hpal', '--version']\n"
        "try: main()\nexcept SystemExit: print(parallel.default_jobs())"
    )
    assert python("-c", program) == f"1\nhpal {hpal.__version__}\n4\n"


# ---------------------------------------------------------------- plain arrays


def test_hmmu_is_the_papers(cloud: tuple) -> None:
    """Eq. 1 to 4, spelled out for one level."""
    prob, xyz, _ = cloud

    def gap(row: np.ndarray) -> float:
        second, first = np.sort(row)[-2:]
        return first - second

    cell = np.floor(xyz / 0.5).astype(int)
    expected = []
    for row, mine in zip(prob, cell):
        mean = prob[(cell == mine).all(axis=1)].mean(axis=0)
        expected.append(1 - (gap(row) + 0.1 * gap(mean)) / 1.1)
    assert hpal.hmmu(prob, xyz, levels=[0.5]) == pytest.approx(np.array(expected), abs=1e-9)
    assert hpal.hmmu(prob.tolist(), (xyz * 1000).tolist(), levels=[0.5], unit=0.001) == pytest.approx(expected)
    assert hpal.hmmu(np.zeros((0, 5)), np.zeros((0, 3))).shape == (0,)


def test_select_suppresses_what_is_near_and_alike(cloud: tuple) -> None:
    prob, xyz, feat = cloud
    score = hpal.hmmu(prob, xyz)
    # Each candidate, best first, against all picks before it.
    unit = feat / np.linalg.norm(feat, axis=1, keepdims=True)
    expected: list[int] = []
    for row in np.argsort(-score, kind="stable"):
        near = [p for p in expected if np.linalg.norm(xyz[p] - xyz[row]) < 0.8 and unit[p] @ unit[row] > 0.9]
        if not near:
            expected.append(int(row))
    assert 20 < len(expected) < 400
    assert hpal.select(score, xyz, feat, 400, radius=0.8, similarity=0.9).tolist() == expected
    assert hpal.select(score, xyz, lambda rows: feat[rows], 7, radius=0.8, similarity=0.9).tolist() == expected[:7]
    assert hpal.select(score, xyz, None, "1%").tolist() == np.argsort(-score, kind="stable")[:4].tolist()
    for wrong in (
        lambda rows: feat[rows[:-1]],
        lambda rows: feat[rows][:, : 1 + len(rows) % 3],
        lambda rows: feat[rows, 0],
    ):
        with pytest.raises(hpal.UsageError, match="features"):
            hpal.select(score, xyz, wrong, 400, radius=0.8, similarity=0.9)
    answered = expected[:3]
    assert not set(answered) & set(hpal.select(score, xyz, feat, 400, answered=answered))


def test_points_of_different_scenes_do_not_suppress_each_other() -> None:
    xyz, feat = np.zeros((4, 3)), np.ones((4, 2))
    score = np.array([0.1, 0.4, 0.3, 0.2])
    assert hpal.select(score, xyz, feat, 4).tolist() == [1]
    assert hpal.select(score, xyz, feat, 4, scene=[0, 0, 1, 1]).tolist() == [1, 2]
    assert hpal.select(score, xyz, feat, 1, scene=[0, 0, 1, 1]).tolist() == [1]
    assert hpal.select([], np.zeros((0, 3)), None, 5).tolist() == []


def test_a_selection_is_the_commands(predictions: Path, tmp_path: Path) -> None:
    import plyfile

    scored = run_hpal("score", predictions, "-q").out
    done = run_hpal("select", "--budget", 40, "--source", predictions, "--fds-r", 0.4, "-q", stdin=scored)
    assert done.rc == 0, done.err
    (tmp_path / "picks.ply").write_bytes(done.out)
    rows = plyfile.PlyData.read(str(tmp_path / "picks.ply"))["vertex"].data
    store = hpal.open_predictions(str(predictions))
    train = store.choose("train")
    parts = []
    for scene in train:
        points = store.points(scene)
        # A stream's scores are float32.
        score = hpal.hmmu(store.probabilities(scene), points.xyz).astype(np.float32)
        index = np.arange(scene.points)
        taken = np.isin(index, store.labelled(scene))
        feat = store.features(scene)(index)
        parts.append((score, points.position, feat, np.full(scene.points, scene.number), index, taken))
    score, xyz, feat, number, index, taken = (np.concatenate(part) for part in zip(*parts, strict=True))
    picks = hpal.select(score, xyz, feat, 40, radius=0.4, scene=number, answered=np.flatnonzero(taken))
    assert len(picks) == 40
    assert list(zip(number[picks], index[picks])) == list(zip(rows["scene"], rows["index"]))


# ---------------------------------------------------------------- one-line errors

BAD_PROBABILITIES = [
    (lambda p: np.log(p), "holds numbers below zero, so they are logarithms or logits"),
    (lambda p: 2 * p, "do not sum to 1"),
    (lambda p: np.where(p == p[0, 0], np.nan, p), "1 of 400 rows do not sum to 1 (first: row 0, nan)"),
    (lambda p: p[:, 0], "has the shape (400,)"),
    (lambda p: lambda: p, "is a function; give an array"),
    (lambda p: [["a"]], "is no array of numbers"),
]


@pytest.mark.parametrize(("change", "words"), BAD_PROBABILITIES, ids=[words for _, words in BAD_PROBABILITIES])
def test_what_are_no_probabilities_are_told(cloud: tuple, change: object, words: str) -> None:
    prob, xyz, _ = cloud
    with pytest.raises(hpal.UsageError) as error:
        hpal.hmmu(change(prob), xyz)  # type: ignore[operator]
    assert words in str(error.value)
    assert str(error.value).startswith("prob: ")
    assert "\n" not in str(error.value)


def test_arrays_that_do_not_fit_are_told(cloud: tuple) -> None:
    prob, xyz, feat = cloud
    score = hpal.hmmu(prob, xyz)
    lost = xyz.copy()
    lost[3, 1] = np.inf
    calls = {
        "xyz: has 399 rows, and prob has 400": lambda: hpal.hmmu(prob, xyz[1:]),
        "xyz: has 2 columns": lambda: hpal.hmmu(prob, xyz[:, :2]),
        "xyz: 1 of its numbers are not finite": lambda: hpal.hmmu(prob, lost),
        "unit: 0 is not above zero": lambda: hpal.hmmu(prob, xyz, unit=0),
        "2 weights for 1 levels": lambda: hpal.hmmu(prob, xyz, levels=[0.1], weights=[1, 2]),
        "xyz: has 399 rows, and score has 400": lambda: hpal.select(score, xyz[1:], feat, 5),
        "features: has 399 rows, and score has 400": lambda: hpal.select(score, xyz, feat[1:], 5),
        "score: 1 of its numbers are not finite": lambda: hpal.select([np.nan], [[0, 0, 0]], None, 1),
        "0' is no number of points": lambda: hpal.select(score, xyz, feat, 0),
        "'3/scene' is for each scene": lambda: hpal.select(score, xyz, feat, "3/scene"),
        "answered: names a row that does not exist": lambda: hpal.select(score, xyz, feat, 5, answered=[400]),
        "scene: is no list of whole numbers": lambda: hpal.select(score, xyz, feat, 5, scene=score),
        "2 is no cosine": lambda: hpal.select(score, xyz, feat, 5, similarity=2),
    }
    for words, call in calls.items():
        with pytest.raises(hpal.UsageError, match=r"^[^\n]*$") as error:
            call()
        assert words in str(error.value)


def test_a_bare_array_where_a_function_is_wanted_is_told_on_any_data(cloud: tuple) -> None:
    _, xyz, feat = cloud
    # So far apart that no feature would ever be fetched.
    for position in (xyz, 1000 * xyz):
        with pytest.raises(hpal.UsageError, match="features: is ndarray, not a function; give a function of rows"):
            greedy_select(np.ones(400), np.arange(400), position, 400, Suppression(), feat)  # type: ignore[arg-type]


def test_a_wrong_kind_of_argument_is_told(scenes: Path, predictions: Path, tmp_path: Path) -> None:
    calls = {
        "is of type list, not a path": lambda: hpal.open_scenes([scenes]),  # type: ignore[arg-type]
        "is of type ndarray, not a path": lambda: hpal.evaluate(np.zeros((3, 2)), scenes),  # type: ignore[arg-type]
        "give a list of patterns, like ['Area_2/*']": lambda: hpal.prepare("a", "b", val="Area_2/*"),
        "give a list of stores": lambda: hpal.spread(None, scenes, tmp_path / "s", predictions=predictions),
        "'tree' is unknown": lambda: hpal.train(scenes, "all", tmp_path / "m", model="tree"),  # type: ignore[arg-type]
        "steps: is for the network": lambda: hpal.train(scenes, "all", tmp_path / "m", model="forest", steps=3),
        "step: is no option of training": lambda: hpal.train(scenes, "all", tmp_path / "m", step=3),
        "'adam' is unknown": lambda: hpal.train(scenes, "all", tmp_path / "m", optimizer="adam"),
        "has no scene 'kitchen'": lambda: hpal.add_answers(tmp_path / "l", scenes, {"kitchen": ([1], [1])}),
        "row -1 is not in scene": lambda: hpal.add_answers(tmp_path / "l", scenes, {first: ([-1], [1])}),
        "an answer for": lambda: hpal.add_answers(tmp_path / "l", scenes, {first: ([1], [13])}),
        "class ids: has 1 rows, and rows has 2": lambda: hpal.add_answers(
            tmp_path / "l", scenes, {first: ([1, 2], [1])}
        ),
        "answers: is empty": lambda: hpal.add_answers(tmp_path / "l", scenes, {}),
    }
    first = hpal.open_scenes(scenes).table[0].name
    for words, call in calls.items():
        with pytest.raises(hpal.HpalError, match=r"^[^\n]*$") as error:
            call()
        assert words in str(error.value)
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------- stores


def test_answers_are_one_round_and_the_last_counts(scenes: Path, tmp_path: Path) -> None:
    store = hpal.open_scenes(str(scenes))
    one, two = store.choose("train")[:2]
    path = str(tmp_path / "labels.zarr")
    hpal.add_answers(path, store, {one.name: ([5, 3], [1, -1]), two.name: (np.array([0]), np.array([2]))})
    labels = hpal.add_answers(path, scenes, {one.name: ([5], [4])}, source="me")
    assert [(a["scene"], a["index"], a["label"]) for a in labels.latest()] == [
        (one.number, 3, -1),
        (one.number, 5, 4),
        (two.number, 0, 2),
    ]
    batches = hpal.open_labels(path).batches()
    assert [(b.round, b.source, b.entry.program) for b in batches] == [
        (0, "python", "hpal_cli.add_answers"),
        (1, "me", "hpal_cli.add_answers"),
    ]
    rows = batches[0].rows
    position = store.points(one).position[rows["index"][:2]]
    assert np.column_stack([rows["x"], rows["y"], rows["z"]])[:2].tolist() == position.tolist()


def test_a_network_trains_and_predicts_when_called(scenes: Path, tmp_path: Path) -> None:
    store = hpal.open_scenes(scenes)
    values = {"preset": "small", "device": "cpu", "steps": 2, "voxel": 0.3, "max_voxels": 500, "teacher": False}
    model = hpal.train(store, "all", tmp_path / "model.pt", **values)  # type: ignore[arg-type]
    assert (model.step, model.settings.voxel) == (2, 0.3)
    # Nobody iterates over what it returns, and the store is there all the same.
    preds = hpal.predict(tmp_path / "model.pt", scenes, tmp_path / "preds.zarr", split="val", device="cpu")
    assert [scene.name for scene in store.table if preds.has(scene)] == [s.name for s in store.choose("val")]
    found = hpal.predict(model, store, str(tmp_path / "again.zarr"), names=["Area_2/*"], features=False, device="cpu")
    (scene,) = store.choose("val")
    assert np.array_equal(found.probabilities(scene), preds.probabilities(scene))
    assert (found.feature_count(scene), preds.feature_count(scene) > 0) == (0, True)
    assert preds.history[-1].program == "hpal_cli.predict"
    labels = hpal.add_answers(tmp_path / "labels.zarr", store, {store.choose("train")[0].name: ([1], [1])})
    with pytest.raises(hpal.HpalError, match="few learns from spread answers"):
        hpal.train(store, labels, tmp_path / "few.pt", preset="few", device="cpu")


def test_prepare_writes_what_the_command_writes(office: Path, tmp_path: Path) -> None:
    store = hpal.prepare(str(office), str(tmp_path / "scenes.zarr"), grid=0.3, val=["Area_2/*"])
    done = run_hpal("prep", office, "-o", tmp_path / "other.zarr", "--grid", "30cm", "--val", "Area_2/*", "-q")
    assert done.rc == 0, done.err
    assert store.table.to_json() == hpal.open_scenes(tmp_path / "other.zarr").table.to_json()
    assert [entry.program for entry in store.history] == ["hpal_cli.prepare"]


# ---------------------------------------------------------------- the page


def test_the_loop_of_the_page_runs_and_learns(tmp_path: Path) -> None:
    files = files_of(DOCS / "library.md")
    assert list(files) == ["loop.py"]
    # As a file, which a spawned process would run again: the calls start none.
    (tmp_path / "loop.py").write_text(files["loop.py"], encoding="utf-8")
    said = python("loop.py", cwd=tmp_path)
    rounds = [float(x) for x in re.findall(r"round \d: mIoU (\S+) %", said)]
    (other,) = (float(x) for x in re.findall(r"mIoU (\S+) % in the other rooms", said))
    assert len(rounds) == 3
    assert rounds[-1] > rounds[0] > 20
    assert other > 20
    labels = hpal.open_labels(tmp_path / "labels.zarr")
    # 12 first answers and 4 in each of two rounds, for each of the train rooms, none twice.
    train = len(hpal.open_scenes(tmp_path / "scenes.zarr").choose("train"))
    assert len(labels.latest()) == train * 20


def test_the_notebook_runs_and_learns(tmp_path: Path) -> None:
    notebook = json.loads((DOCS / "loop.ipynb").read_text(encoding="utf-8"))
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert not any(cell["outputs"] for cell in cells)
    program = "\n".join("".join(cell["source"]) for cell in cells)
    (tmp_path / "loop.py").write_text("import matplotlib\n\nmatplotlib.use('agg')\n" + program, encoding="utf-8")
    said = python("loop.py", cwd=tmp_path)
    before, after = re.findall(r"(\S+) % before, (\S+) % now", said)[0]
    assert 20 < float(before) < float(after)
    assert float(re.findall(r"mIoU in the other room: (\S+) %", said)[0]) > 20


def test_the_reference_lists_every_call_and_type() -> None:
    text = (DOCS / "api.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\.\. auto(?:function|class|exception):: (\w+)", text, re.MULTILINE)
    assert sorted(listed) == sorted([*library.CALLS, *library.TYPES])
    for call in library.CALLS:
        assert f"`{call}`" in (DOCS / "library.md").read_text(encoding="utf-8"), call
