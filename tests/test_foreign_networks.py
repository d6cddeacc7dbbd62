"""docs/foreign-networks.md: its program as it stands, between a scenes store and what a foreign network writes."""

from __future__ import annotations

import ast
import json
import re
import runpy
import shlex
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from conftest import run_hpal, softmax
from test_docs import _RUN, DOCS, bash, files_of

from hpal_cli.demo.office import make_office
from hpal_cli.labels.store import LabelStore
from hpal_cli.predictions.store import PredictionStore
from hpal_cli.scenes.prepare import prepare
from hpal_cli.scenes.store import SceneStore

PAGE = DOCS / "foreign-networks.md"
OUT, BACK = _RUN.findall(PAGE.read_text(encoding="utf-8"))
FEATURES = 7


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("program") / "foreign.py"
    path.write_text(files_of(PAGE)["foreign.py"], encoding="utf-8")
    return path


@pytest.fixture
def foreign(program: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Runs `foreign.py ARGS` in this process; what it refuses with, "" if nothing."""

    def run(*args: object) -> str:
        monkeypatch.setattr(sys, "argv", ["foreign.py", *map(str, args)])
        try:
            runpy.run_path(str(program), run_name="__main__")
        except SystemExit as stop:
            return str(stop.code)
        return ""

    return run


def save(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, values)


def results(scenes: Path, folder: Path, rows: str = "grid", *, columns: int = 13) -> dict[str, dict[str, np.ndarray]]:
    """Logits and features of a foreign network, in `folder` and by scene name."""
    rng = np.random.default_rng(3)
    made = {}
    for scene in SceneStore(scenes).table:
        count = scene.points if rows == "grid" else scene.original
        logits = rng.normal(0, 40, (count, columns)).astype("f4")
        made[scene.name] = {"logits": logits, "feat": rng.normal(size=(count, FEATURES)).astype("f4")}
        for what, values in made[scene.name].items():
            save(folder / f"{scene.name.replace('/', '-')}_{what}.npy", values)
    return made


def patterns(folder: Path, *what: str) -> list[str]:
    return [word for one in what for word in (f"--{one}", f"{folder}/{{flat}}_{one}.npy")]


def lines(script: str) -> list[list[str]]:
    return [shlex.split(line) for line in script.splitlines()]


def test_it_needs_numpy_and_zarr_alone() -> None:
    tree = ast.parse(files_of(PAGE)["foreign.py"])
    plain = {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert plain - set(sys.stdlib_module_names) == {"numpy", "zarr"}


def test_the_page_from_its_first_command_to_its_last(program: Path, tmp_path: Path) -> None:
    """Original points go out, a network that is nearly right answers for them, picks come back and get labels."""
    make_office(tmp_path / "office", points=2000, rooms=3)
    (tmp_path / "foreign.py").write_text(program.read_text(encoding="utf-8"), encoding="utf-8")
    bash(OUT, tmp_path)

    store, labels = SceneStore(tmp_path / "scenes.zarr"), LabelStore(tmp_path / "labels.zarr")
    rng = np.random.default_rng(0)
    expected = {}
    for scene in store.table:
        name = f"{scene.split}/{scene.name.replace('/', '-')}"
        points, inverse = store.original(scene)
        folder = tmp_path / "rooms" / name
        np.testing.assert_allclose(np.load(folder / "coord.npy"), points.xyz, atol=1e-6)
        assert (np.load(folder / "color.npy") == points.rgb).all()
        truth = store.labels(scene)
        assert truth is not None
        segment = np.load(folder / "segment.npy")
        if scene.split == "train":
            answered = {int(a["index"]): int(a["label"]) for a in labels.latest() if a["scene"] == scene.number}
            assert segment.tolist() == [answered.get(int(row), -1) for row in inverse]
            assert 0 < (segment >= 0).sum() < len(segment) / 4
        else:
            assert (segment >= 0).any()

        prob = softmax(rng.normal(0, 1, (len(inverse), 13)) + 3 * np.eye(13)[truth[inverse]])
        feat = rng.normal(size=(len(inverse), FEATURES))
        save(tmp_path / "out" / f"{name}_prob.npy", (20 * prob).astype("f4"))  # the sum of 20 passes
        save(tmp_path / "out" / f"{name}_feat.npy", feat)
        means = {}
        for what, values in {"prob": prob, "feat": feat}.items():
            total = np.zeros((scene.points, values.shape[1]))
            np.add.at(total, inverse, values)
            means[what] = total / np.bincount(inverse)[:, None]
        expected[scene.name] = means
    assert len(np.unique(inverse)) < len(inverse)

    bash(BACK, tmp_path)
    said = PredictionStore(tmp_path / "preds.zarr")
    before, after = (zarr.open_group(str(tmp_path / f"labels.zarr/answers/{n:06d}"), mode="r") for n in (0, 1))
    for scene in said.choose("all"):
        prob, means = said.probabilities(scene), expected[scene.name]
        np.testing.assert_allclose(prob, means["prob"], atol=1e-3)
        rows = np.arange(scene.points)
        np.testing.assert_allclose(said.features(scene)(rows), means["feat"], atol=5e-3)
        assert (said.predicted(scene) == means["prob"].argmax(axis=1)).mean() > 0.999
        mine = before["index"][:][before["scene"][:] == scene.number]
        assert said.labelled(scene).tolist() == sorted(mine.tolist())
    assert said.history[-1].program == "foreign.py"
    assert after["index"].shape == (20,)
    pairs = [set(zip(b["scene"][:].tolist(), b["index"][:].tolist())) for b in (before, after)]
    assert not pairs[0] & pairs[1]
    measured = json.loads(bash("hpal eval preds.zarr --truth scenes.zarr --split val --json", tmp_path).stdout)["grid"]
    (val,) = (scene for scene in store.table if scene.split == "val")
    truth = store.labels(val)
    right = expected[val.name]["prob"].argmax(axis=1) == truth
    assert measured["accuracy"] == pytest.approx(right[truth >= 0].mean(), abs=1e-3)


def test_alike_neighbours_suppress_each_other(foreign: Callable[..., str], scenes: Path, tmp_path: Path) -> None:
    """With the same features everywhere, no pick is nearer than the radius to another; without FDS some are."""
    made = results(scenes, tmp_path / "out")
    for name, one in made.items():
        save(tmp_path / "out" / f"{name.replace('/', '-')}_feat.npy", np.ones_like(one["feat"]))
    preds = tmp_path / "preds.zarr"
    assert foreign("predictions", scenes, preds, "--rows", "grid", *patterns(tmp_path / "out", "logits", "feat")) == ""
    scored = run_hpal("score", preds).out
    nearest = {}
    for how in ("--fds-r=0.5", "--no-fds"):
        done = run_hpal("select", how, "--budget", "30", "-o", tmp_path / f"{how}.ply", stdin=scored, cwd=tmp_path)
        assert done.rc == 0, done.err
        import plyfile

        picks = plyfile.PlyData.read(str(tmp_path / f"{how}.ply"))["vertex"].data
        xyz = np.column_stack([picks[axis] for axis in "xyz"])
        apart = np.linalg.norm(xyz[:, None] - xyz[None], axis=2)
        apart[picks["scalar_scene"][:, None] != picks["scalar_scene"][None]] = np.inf
        np.fill_diagonal(apart, np.inf)
        nearest[how] = apart.min()
    assert nearest["--no-fds"] < 0.5 <= nearest["--fds-r=0.5"]


def test_logits_of_grid_points_become_their_softmax(foreign: Callable[..., str], scenes: Path, tmp_path: Path) -> None:
    made = results(scenes, tmp_path)
    for one in made.values():
        one["logits"][0] = 1e4 * np.arange(13)  # exp overflows
        one["feat"][0] = 1e6
    for name, one in made.items():
        for what, values in one.items():
            save(tmp_path / f"{name.replace('/', '-')}_{what}.npy", values)
    preds = tmp_path / "preds.zarr"
    assert foreign("predictions", scenes, preds, "--rows", "grid", *patterns(tmp_path, "logits", "feat")) == ""
    said, store = PredictionStore(preds), SceneStore(scenes)
    assert b"whole and consistent" in run_hpal("info", "--check", preds).out
    for scene in said.choose("all"):
        one = made[scene.name]
        np.testing.assert_allclose(said.probabilities(scene), softmax(one["logits"].astype("f8")), atol=1e-3)
        assert (said.predicted(scene) == one["logits"].argmax(axis=1)).all()
        feat = said.features(scene)(np.arange(scene.points))
        np.testing.assert_allclose(feat, np.clip(one["feat"], -65504, 65504), rtol=1e-3, atol=1e-3)
        assert (feat[0] == 65504).all()
        assert len(said.labelled(scene)) == 0
        points = store.points(scene)
        assert (said.points(scene).xyz == points.xyz).all()
        assert (said.points(scene).rgb == points.rgb).all()


def test_more_rows_than_a_block(foreign: Callable[..., str], program: Path, tmp_path: Path, scenes: Path) -> None:
    """Blocks of 50 rows, so that cells begin in one and end in the next, give what one block gives."""
    made = results(scenes, tmp_path / "out", "original")
    small = tmp_path / "small.py"
    small.write_text(re.sub(r"^BLOCK = .*$", "BLOCK = 50", program.read_text(encoding="utf-8"), flags=re.MULTILINE))
    words = ["--rows", "original", *patterns(tmp_path / "out", "logits", "feat")]
    assert foreign("predictions", scenes, tmp_path / "large.zarr", *words) == ""
    bash(shlex.join([sys.executable, "small.py", "predictions", str(scenes), "small.zarr", *words]), tmp_path)
    large, small_ones = PredictionStore(tmp_path / "large.zarr"), PredictionStore(tmp_path / "small.zarr")
    for scene in large.choose("all"):
        np.testing.assert_allclose(small_ones.probabilities(scene), large.probabilities(scene), atol=1e-3)
        inverse = SceneStore(scenes).original(scene)[1]
        total = np.zeros((scene.points, 13))
        np.add.at(total, inverse, softmax(made[scene.name]["logits"].astype("f8")))
        np.testing.assert_allclose(small_ones.probabilities(scene), total / np.bincount(inverse)[:, None], atol=1e-3)


def test_columns_are_sorted_into_the_classes(foreign: Callable[..., str], scenes: Path, tmp_path: Path) -> None:
    """Another order, a column of no class, and two columns of one class."""
    made = results(scenes, tmp_path, columns=15)
    names = SceneStore(scenes).classes.names
    foreign_names = ["-", *[name.upper() for name in reversed(names)], names[4]]
    preds = tmp_path / "preds.zarr"
    words = ["--rows", "grid", "--classes", *foreign_names]
    assert foreign("predictions", scenes, preds, *patterns(tmp_path, "logits"), *words) == ""
    for scene in PredictionStore(preds).choose("all"):
        shares = softmax(made[scene.name]["logits"][:, 1:].astype("f8"))
        expected = shares[:, 12::-1].copy()
        expected[:, 4] += shares[:, 13]
        np.testing.assert_allclose(PredictionStore(preds).probabilities(scene), expected, atol=1e-3)
        assert PredictionStore(preds).feature_count(scene) == 0
    done = run_hpal("select", "--no-fds", "--budget", "5", stdin=run_hpal("score", preds).out)
    assert done.rc == 0, done.err


def test_a_store_of_some_scenes(foreign: Callable[..., str], scenes: Path, tmp_path: Path) -> None:
    results(scenes, tmp_path)
    gone, *rest = SceneStore(scenes).table
    (tmp_path / f"{gone.name.replace('/', '-')}_logits.npy").unlink()
    preds = tmp_path / "preds.zarr"
    words = ["predictions", scenes, preds, "--rows", "grid", *patterns(tmp_path, "logits")]
    refused = foreign(*words)
    assert gone.name in refused
    assert "--skip-missing" in refused
    assert foreign(*words, "--skip-missing") == ""
    assert [s.name for s in PredictionStore(preds).choose("all")] == [s.name for s in rest]
    assert run_hpal("info", "--check", preds).rc == 0


def test_undone_and_later_answers(foreign: Callable[..., str], scenes: Path, tmp_path: Path) -> None:
    """As LabelStore reads them: the latest that stands counts, and "unsure" is an answer that teaches nothing."""
    labels = tmp_path / "labels.zarr"
    name = SceneStore(scenes).table[0].name
    pick = tmp_path / "pick.csv"
    for rows in ("7,wall\n8,floor\n9,unsure", "7,floor\n10,chair", "11,door"):
        body = "\n".join(f"{name},{row}" for row in rows.splitlines())
        pick.write_text(f"scene,index,label\n{body}\n", encoding="utf-8")
        done = run_hpal("label", "--from", pick, "--source", scenes, "-o", labels)
        assert done.rc == 0, done.err
    assert run_hpal("label", "--undo", "2", "-o", labels).rc == 0
    batch = zarr.open_group(str(labels / "answers" / "000004"), mode="w-", zarr_format=3)
    for column, values, kind in (("scene", [0, 0], "i4"), ("index", [8, 8], "i8"), ("label", [4, 6], "i4")):
        batch.create_array(column, data=np.array(values, kind), config={"write_empty_chunks": True})
    batch.create_array("xyz", data=np.full((2, 3), np.nan))
    batch.attrs.update(round=4, source="twice", time=0.0, history=[{}])
    latest = {int(a["index"]): int(a["label"]) for a in LabelStore(labels).latest()}
    assert sorted(latest) == [7, 8, 9, 10]
    assert latest[8] == 6
    assert foreign("folders", scenes, tmp_path / "rooms", "--rows", "grid", "--labels", labels) == ""
    segment = np.load(tmp_path / "rooms" / "train" / name.replace("/", "-") / "segment.npy")
    assert {int(row): int(segment[row]) for row in np.flatnonzero(segment >= 0)} == {
        row: label for row, label in latest.items() if label >= 0
    }
    results(scenes, tmp_path / "out")
    words = ["--rows", "grid", "--labels", labels, *patterns(tmp_path / "out", "logits")]
    assert foreign("predictions", scenes, tmp_path / "preds.zarr", *words) == ""
    said = PredictionStore(tmp_path / "preds.zarr")
    assert said.labelled(said.table[0]).tolist() == [7, 8, 9, 10]


def test_folders_are_what_prep_reads(foreign: Callable[..., str], tmp_path: Path) -> None:
    """Attributes get their Pointcept names, lengths are metres, and hpal reads the folders as the same cloud."""
    rng = np.random.default_rng(1)
    raw = tmp_path / "raw" / "hall"
    count = 300
    normal = rng.normal(size=(count, 3)).astype("f4")
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    columns = {
        "coord": 1000 + 20 * rng.random((count, 3)),
        "color": rng.integers(0, 256, (count, 3), dtype="u1"),
        "normal": normal,
        "intensity": rng.random(count).astype("f4"),
        "segment": rng.integers(-1, 13, count),
    }
    for name, values in columns.items():
        save(raw / f"{name}.npy", values)
    prepare(tmp_path / "raw", tmp_path / "feet.zarr", grid=1.0, unit=0.3048)
    assert foreign("folders", tmp_path / "feet.zarr", tmp_path / "rooms", "--rows", "original") == ""
    folder = tmp_path / "rooms" / "train" / "hall"
    assert sorted(p.name for p in folder.iterdir()) == ["color.npy", "coord.npy", "normal.npy", "strength.npy"]
    read = {p.stem: np.load(p) for p in folder.iterdir()}
    offset = np.floor(columns["coord"].min(axis=0))
    np.testing.assert_allclose(read["coord"], (columns["coord"] - offset) * 0.3048, atol=1e-4)
    assert (read["color"] == columns["color"]).all()
    np.testing.assert_allclose(read["normal"], normal, atol=1e-5)
    np.testing.assert_allclose(read["strength"][:, 0], columns["intensity"], atol=1e-6)

    save(folder / "segment.npy", columns["segment"])
    prepare(tmp_path / "rooms", tmp_path / "again.zarr", grid=None)
    again = SceneStore(tmp_path / "again.zarr")
    points, _ = again.original(again.table[0])
    np.testing.assert_allclose(points.xyz + points.offset, read["coord"], atol=1e-5)
    assert "exists" in foreign("folders", tmp_path / "feet.zarr", tmp_path / "rooms", "--rows", "original")
    assert foreign("folders", tmp_path / "feet.zarr", tmp_path / "grid", "--rows", "grid") == ""
    lengths = np.linalg.norm(np.load(tmp_path / "grid" / "train" / "hall" / "normal.npy"), axis=1)
    np.testing.assert_allclose(lengths, 1, atol=1e-5)


def _set(row: int, value: float) -> Callable[[np.ndarray], np.ndarray]:
    def change(values: np.ndarray) -> np.ndarray:
        values[row, 1] = value
        return values

    return change


@pytest.mark.parametrize(
    ("what", "change", "said"),
    [
        ("logits", lambda v: v[:-1], r"has \d+ rows, but .* --rows grid needs \d+"),
        ("logits", lambda v: v[:, :5], "has 5 columns, but there are 13 classes"),
        ("logits", _set(17, np.nan), "row 17: holds NaN or infinity"),
        ("logits", _set(3, -np.inf), "row 3: holds NaN or infinity"),
        ("logits", lambda v: v.argmax(axis=1), r"holds int64 \(\d+,\); .* not class numbers"),
        ("logits", lambda v: np.argsort(v, axis=1), "not class numbers"),
        ("logits", lambda v: softmax(v), "holds probabilities; give them with --prob"),
        ("prob", lambda v: v, "row 0: a probability is negative; give logits with --logits"),
        ("prob", lambda v: abs(v) * (np.arange(len(v)) != 21)[:, None], "row 21: all probabilities are 0"),
        ("feat", lambda v: v[1:], r"has \d+ rows, but"),
        ("feat", lambda v: v[:, 1:], "has 6 columns, but there are 7 features in the scenes before"),
        ("feat", _set(5, np.inf), "row 5: a feature is NaN or infinite"),
        ("feat", None, "No such file"),
        ("logits", b"nonsense", "cannot be read .* numpy.save"),
        ("logits", b"", "cannot be read .* numpy.save"),
    ],
)
def test_a_bad_file_is_refused_in_one_line(
    foreign: Callable[..., str], scenes: Path, tmp_path: Path, what: str, change: Any, said: str
) -> None:
    """Of the last scene, when the first is written already: nothing of it stays."""
    results(scenes, tmp_path / "out")
    last = list(SceneStore(scenes).table)[-1]
    path = tmp_path / "out" / f"{last.name.replace('/', '-')}_{what}.npy"
    if what == "prob":
        for logits in (tmp_path / "out").glob("*_logits.npy"):
            save(logits.with_name(logits.name.replace("logits", "prob")), abs(np.load(logits)))
        values = np.load(tmp_path / "out" / f"{last.name.replace('/', '-')}_logits.npy")
        values[0, 0] = -1
    elif change is not None:
        values = np.load(path)
    if change is None:
        path.unlink()
    elif isinstance(change, bytes):
        path.write_bytes(change)
    else:
        save(path, change(values))
    words = patterns(tmp_path / "out", "prob" if what == "prob" else "logits", "feat")
    refused = foreign("predictions", scenes, tmp_path / "preds.zarr", "--rows", "grid", *words)
    assert re.search(said, refused), refused
    assert refused.startswith(f"foreign.py: {path}: ")
    assert "\n" not in refused
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_what_else_is_refused(
    foreign: Callable[..., str], scenes: Path, other_scenes: Path, predictions: Path, tmp_path: Path
) -> None:
    results(scenes, tmp_path / "out")
    stream = run_hpal("select", "--budget", "3", stdin=run_hpal("score", other_scenes, "--strategy", "random").out).out
    other = tmp_path / "other.zarr"
    assert run_hpal("label", "--oracle", other_scenes, "-o", other, stdin=stream).rc == 0
    logits = patterns(tmp_path / "out", "logits")
    names = SceneStore(scenes).classes.names
    out = tmp_path / "preds.zarr"
    for words, said in {
        (scenes, out, *logits, "--labels", other): "other scenes",
        (scenes, out, *logits, "--labels", scenes): "no complete labels store",
        (scenes, out, *logits, "--labels", tmp_path): "no store of hpal",
        (predictions, out, *logits): "no complete scenes store",
        (scenes, other, *logits): "exists",
        (scenes, out, "--logits", tmp_path / "out" / "{split}.npy"): "the file of two scenes",
        (scenes, out, "--logits", tmp_path / "{flat}.npy", "--skip-missing"): "no file for any scene",
        (scenes, out, *logits, "--classes", *names[:-1], "sky"): "'sky' is no class of the store",
        (scenes, out, *logits, "--classes", *names[:-1], "-"): f"no column is '{names[-1]}'",
        (scenes, out, *logits, "--classes", *names, "-"): "has 13 columns, but there are 14 classes",
    }.items():
        refused = foreign("predictions", *words, "--rows", "grid")
        assert said in refused, refused
        assert "\n" not in refused
        assert not out.exists()
    assert not list(tmp_path.glob(".*"))


def test_the_program_for_pointcept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """save_scores.py with a stand-in for Pointcept: fragments that overlap, a thinned scene, a `module.`."""
    import torch

    class Said(torch.nn.Module):
        """Logits and features that tell which point they are of."""

        def __init__(self) -> None:
            super().__init__()
            self.scale = torch.nn.Parameter(torch.zeros(1))

        def forward(self, batch: dict[str, Any], return_point: bool = False) -> dict[str, Any]:
            assert return_point
            assert not self.training
            feat = batch["coord"] * self.scale
            point = types.SimpleNamespace(feat=feat)
            return {"seg_logits": torch.cat([feat, -feat], dim=1), "point": point}

    coord = torch.arange(30, dtype=torch.float32).reshape(10, 3) / 10

    class Data:
        data_list = (str(tmp_path / "rooms/train/a-b"), str(tmp_path / "rooms/val/c"))

        def __getitem__(self, number: int) -> dict[str, Any]:
            parts = [torch.arange(0, 10, 2), torch.arange(1, 10, 2), torch.arange(10)]
            fragments = [{"index": rows, "coord": coord[rows] + number, "name": "x"} for rows in parts]
            scene = {"segment": np.zeros(10, int), "name": "x", "fragment_list": fragments}
            return scene if number == 0 else {**scene, "inverse": np.array([3, 3, 0])}

    config = types.SimpleNamespace(
        model="model", data=types.SimpleNamespace(test=types.SimpleNamespace(data_root=str(tmp_path / "rooms")))
    )
    fakes = {
        "pointcept": {},
        "pointcept.utils": {},
        "pointcept.datasets": {"build_dataset": lambda c: Data(), "collate_fn": lambda parts: dict(parts[0])},
        "pointcept.models": {"build_model": lambda model: Said()},
        "pointcept.utils.config": {"Config": types.SimpleNamespace(fromfile=lambda path: config)},
    }
    for name, members in fakes.items():
        module = types.ModuleType(name)
        vars(module).update(members)
        monkeypatch.setitem(sys.modules, name, module)
    torch.save({"state_dict": {"module.scale": torch.full((1,), 2.0)}}, tmp_path / "model.pth")
    (tmp_path / "save_scores.py").write_text(files_of(PAGE)["save_scores.py"], encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["save_scores.py", "c.py", str(tmp_path / "model.pth"), str(tmp_path / "out")])
    runpy.run_path(str(tmp_path / "save_scores.py"), run_name="__main__")
    for name, rows, shift in (("train/a-b", np.arange(10), 0), ("val/c", np.array([3, 3, 0]), 1)):
        feat = 2 * (coord.numpy() + shift)[rows]
        np.testing.assert_allclose(np.load(tmp_path / f"out/{name}_feat.npy"), feat, rtol=1e-6)
        prob = softmax(np.concatenate([feat, -feat], axis=1))
        np.testing.assert_allclose(np.load(tmp_path / f"out/{name}_prob.npy"), prob, rtol=1e-5)


def test_zeros_are_written(foreign: Callable[..., str], scenes: Path, tmp_path: Path) -> None:
    """An answer for point 0, class 0 for every point, features of nothing: no chunk is left out, and hpal reads all."""
    labels, pick = tmp_path / "labels.zarr", tmp_path / "pick.csv"
    pick.write_text(f"scene,index,label\n{SceneStore(scenes).table[0].name},0,wall\n", encoding="utf-8")
    assert run_hpal("label", "--from", pick, "--source", scenes, "-o", labels).rc == 0
    for name, one in results(scenes, tmp_path).items():
        one["logits"][:] = np.eye(13)[0]
        for what, values in {"logits": 50 * one["logits"], "feat": 0 * one["feat"]}.items():
            save(tmp_path / f"{name.replace('/', '-')}_{what}.npy", values)
    preds = tmp_path / "preds.zarr"
    words = ["--rows", "grid", "--labels", labels, *patterns(tmp_path, "logits", "feat")]
    assert foreign("predictions", scenes, preds, *words) == ""
    done = run_hpal("info", "--check", preds)
    assert done.rc == 0, done.err
    said = PredictionStore(preds)
    assert said.labelled(said.table[0]).tolist() == [0]
    assert not any(said.predicted(scene).any() for scene in said.choose("all"))
