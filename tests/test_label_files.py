"""Answers in files that a person made: tables, PLY, LAS, labelCloud; what belongs where, and what is refused."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

import laspy
import numpy as np
import plyfile
import pytest
from conftest import Done, tree

from hpal_cli.classes import ClassTable
from hpal_cli.errors import HpalError
from hpal_cli.export.clouds import answers_cloud, prediction_cloud
from hpal_cli.label.answers import import_answers, open_scenes
from hpal_cli.labels.store import ANSWER, LabelStore
from hpal_cli.predictions.store import PredictionStore
from hpal_cli.scenes.prepare import prepare
from hpal_cli.scenes.store import SceneStore
from hpal_cli.stream.points import PointReader
from hpal_cli.writers.cloud import write

Hpal = Callable[..., Done]

NAN = np.nan


@pytest.fixture
def store(scenes: Path) -> SceneStore:
    return SceneStore(scenes)


def position_of(store: SceneStore, scene: int, index: list[int]) -> np.ndarray:
    return store.points(store.table[scene]).position[index]


def write_ply(
    path: Path, position: np.ndarray, fields: dict[str, object], *, kind: str = "<f4", text: bool = False
) -> Path:
    """As CloudCompare saves it: every scalar field as a 32-bit float, in an order of its own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = np.zeros(len(position), [(a, "<f8") for a in "xyz"] + [(name, kind) for name in fields])
    rows["x"], rows["y"], rows["z"] = position.T
    for name, values in fields.items():
        rows[name] = values
    plyfile.PlyData([plyfile.PlyElement.describe(rows, "vertex")], text=text).write(str(path))
    return path


def found_in(path: Path, store: SceneStore) -> list[tuple[int, int, int]]:
    rows = import_answers(path, store).rows
    return sorted((int(r["scene"]), int(r["index"]), int(r["label"])) for r in rows)


def refusal(path: Path, store: SceneStore) -> str:
    with pytest.raises(HpalError) as error:
        import_answers(path, store)
    return str(error.value)


# ---------------------------------------------------------------- by scene and index


@pytest.mark.parametrize(
    "name",
    ["scalar_class", "class", "label", "Classification", "scalar_label", "scalar_Classification", "SCALAR_Label"],
)
@pytest.mark.parametrize("text", [False, True])
def test_answers_come_back_from_cloudcompare(name: str, text: bool, store: SceneStore, tmp_path: Path) -> None:
    """Floats, shuffled, shifted, with a point of another cloud merged in: scene and index alone say what is what."""
    fields = {"scalar_scene": [2, 0, NAN, 0, 1], "scalar_index": [7, 3, NAN, 4, 5], name: [3, 0, NAN, -1, NAN]}
    path = write_ply(tmp_path / "a.ply", np.full((5, 3), 1e6), fields, text=text)
    assert found_in(path, store) == [(0, 3, 0), (0, 4, -1), (2, 7, 3)]
    taken = import_answers(path, store)
    assert (taken.given, taken.blank, taken.source) == (3, 2, f"cloud {path}")


def test_files_of_one_scene_are_named_after_it(store: SceneStore, tmp_path: Path) -> None:
    name = store.table[1].name
    fields = {"index": [3, 9], "label": [2, 1]}
    for path in (tmp_path / f"{name}.ply", tmp_path / f"{name.replace('/', '_')}.ply", tmp_path / "office_1.ply"):
        assert found_in(write_ply(path, np.zeros((2, 3)), fields), store) == [(1, 3, 2), (1, 9, 1)]
    other = write_ply(tmp_path / "cloud.ply", np.zeros((2, 3)), fields)
    assert "point 0 does not say of which scene it is (2 such points)" in refusal(other, store)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"scene": [0, 0], "index": [1, 2], "label": [1, 3.4]}, "point 1: 3.4 is no class number"),
        ({"scene": [0, 0], "index": [1, 2], "label": [1, 13]}, "point 1: 13 is none of the 13 classes"),
        ({"scene": [0, 0], "index": [1, 10**6], "label": [1, 1]}, "point 1: scene .* has no point 1000000"),
        ({"scene": [0, 3], "index": [1, 2], "label": [1, 1]}, "point 1 is of a scene that does not exist"),
        ({"scene": [0, 0], "index": [1, NAN], "label": [1, 1]}, "point 1 has an answer, but no index"),
        ({"scene": [0, 0.5], "index": [1, 2], "label": [1, 1]}, "point 1 does not say of which scene"),
        ({"scene": [0, 0], "index": [1, 1], "label": [1, 2]}, "point 1 and point 0 have different answers"),
        ({"scene": [0, 0], "index": [1, 2], "note": [1, 2]}, "no field label, class, classification"),
        (
            {"index": [1, 2], "class": [1, 2], "confidence": [1, 1], "uncertainty": [0, 0]},
            "holds predictions, not answers",
        ),
    ],
)
def test_clouds_that_are_refused(
    fields: dict[str, object], words: str, store: SceneStore, scenes: Path, tmp_path: Path, hpal: Hpal
) -> None:
    path = write_ply(tmp_path / "a.ply", np.zeros((2, 3)), fields)
    with pytest.raises(HpalError, match=words):
        import_answers(path, store)
    LabelStore.create(tmp_path / "l.zarr", store.classes, store.table)
    before = tree(tmp_path)
    done = hpal("label", "--from", path, "--source", scenes, "-o", "l.zarr", cwd=tmp_path)
    assert done.rc == 1, done
    assert done.err.count("\n") == 1
    assert tree(tmp_path) == before


def test_the_same_answer_twice_is_one(store: SceneStore, tmp_path: Path) -> None:
    path = write_ply(tmp_path / "a.ply", np.zeros((3, 3)), {"scene": [0] * 3, "index": [5, 5, 6], "label": [2, 2, 1]})
    assert found_in(path, store) == [(0, 5, 2), (0, 6, 1)]


def test_a_field_of_the_persons_own_goes_before_the_prediction(
    predictions: Path, store: SceneStore, tmp_path: Path
) -> None:
    source = PredictionStore(predictions)
    cloud = prediction_cloud(source, source.table[0])
    path = tmp_path / "pred.ply"
    write(cloud, path, overwrite=False)
    assert "holds predictions, not answers" in refusal(path, store)
    label = np.full(len(cloud.position), NAN)
    label[[4, 8]] = 2, -1
    cloud.fields["label"] = label
    write(cloud, path, overwrite=True)
    assert found_in(path, store) == [(0, 4, 2), (0, 8, -1)]


def test_a_selection_goes_round_through_a_viewer(
    predictions: Path, store: SceneStore, tmp_path: Path, hpal: Hpal
) -> None:
    scored = hpal("score", predictions, "-q").out
    assert hpal("select", "--budget", "9", "-o", "s.ply", "-q", stdin=scored, cwd=tmp_path).rc == 0
    rows = plyfile.PlyData.read(str(tmp_path / "s.ply"))["vertex"].data
    fields = {name: rows[name] for name in rows.dtype.names if name.startswith("scalar_")}
    answers = np.array([0, 1, 2, -1, NAN, NAN, 5, 6, 7])
    # As CloudCompare saves it, with the comments lost.
    position = np.column_stack([rows[a] for a in "xyz"])
    write_ply(tmp_path / "done.ply", position, {**fields, "scalar_class": answers})
    done = hpal("label", "--from", "done.ply", "--source", predictions, "-o", "l.zarr", cwd=tmp_path)
    assert done.rc == 0, done.err
    assert "7 answers (1 unsure); 6 labelled points in all" in done.err
    assert "2 points of done.ply still blank" in done.err
    found = {(int(r["scene"]), int(r["index"])): int(r["label"]) for r in LabelStore(tmp_path / "l.zarr").latest()}
    expected = zip(rows["scalar_scene"].tolist(), rows["scalar_index"].tolist(), answers, strict=True)
    assert found == {(s, i): int(a) for s, i, a in expected if not np.isnan(a)}


def test_comments_that_name_other_scenes_are_heeded(
    predictions: Path, other_scenes: Path, tmp_path: Path, hpal: Hpal
) -> None:
    scored = hpal("score", predictions, "-q").out
    picked = hpal("select", "--budget", "3", "-q", stdin=scored).out
    (tmp_path / "labelled.ply").write_bytes(picked.replace(b"property int rank", b"property int label"))
    assert "other scenes" in refusal(tmp_path / "labelled.ply", SceneStore(other_scenes))


# ---------------------------------------------------------------- by position


def test_positions_find_their_points(store: SceneStore, predictions: Path, tmp_path: Path) -> None:
    """Within half a grid step, in any order and scene; the ones without an answer may lie anywhere."""
    rng = np.random.default_rng(0)
    at = np.vstack([position_of(store, 0, [5, 900]), position_of(store, 2, [11])])
    away = rng.normal(size=at.shape)
    away *= 0.01 / np.linalg.norm(away, axis=1)[:, None]
    place = np.vstack([at + away, [[0, 0, 900]]])
    path = write_ply(tmp_path / "a.ply", place, {"label": [3, -1, 2, NAN]})
    for source in (store, open_scenes(predictions)):
        taken = import_answers(path, source)
        assert sorted(taken.rows[["scene", "index", "label"]].tolist()) == [(0, 5, 3), (0, 900, -1), (2, 11, 2)]
        assert taken.notes == [f"3 points of {path} matched by position"]
    np.testing.assert_allclose(np.column_stack([taken.rows[a] for a in "xyz"]), at, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("moved", "words"),
    [
        ([[0, 0, 0], [0, 0, 50]], "point 1 has no scene and index, and no grid point is within half a grid step"),
        ([[0, 0, 0.01], [0, 0, 0.02]], "point 1 is as near to a grid point as another answered point"),
        ([[0, 0, 0], [NAN, 0, 0]], "point 1 has an answer, but no position"),
    ],
)
def test_positions_that_belong_nowhere(moved: list[list[float]], words: str, store: SceneStore, tmp_path: Path) -> None:
    place = position_of(store, 1, [7]) + np.array(moved)
    assert words in refusal(write_ply(tmp_path / "a.ply", place, {"label": [3, 3]}), store)


def test_half_a_grid_step_is_the_limit(store: SceneStore, tmp_path: Path) -> None:
    place = store.points(store.table[1]).position
    lowest = place[[place[:, 2].argmin()]]
    step = np.array([0, 0, 0.15])
    assert len(found_in(write_ply(tmp_path / "a.ply", lowest - 0.49 * step, {"label": [1]}), store)) == 1
    below = write_ply(tmp_path / "b.ply", lowest - 0.51 * step, {"label": [1]})
    assert "no grid point is within half a grid step" in refusal(below, store)


def test_a_class_goes_before_unsure_in_a_cell(store: SceneStore, tmp_path: Path) -> None:
    points, inverse = store.original(store.table[1])
    cell = int(np.bincount(inverse).argmax())
    rows = np.flatnonzero(inverse == cell)[:3]
    assert len(rows) == 3
    path = write_ply(tmp_path / "a.ply", points.position[rows], {"label": [-1, -1, 4]})
    assert found_in(path, store) == [(1, cell, 4)]
    path = write_ply(tmp_path / "b.ply", points.position[rows], {"label": [-1, -1, NAN]})
    assert found_in(path, store) == [(1, cell, -1)]


def test_a_point_in_two_scenes_is_refused_unless_the_file_is_named(tmp_path: Path) -> None:
    position = np.random.default_rng(0).random((40, 3)) * 3
    for name in ("a", "b"):
        write_ply(tmp_path / "raw" / f"{name}.ply", position, {"label": np.zeros(40)})
    (tmp_path / "c.json").write_text(json.dumps([{"id": 0, "name": "x"}, {"id": 1, "name": "y"}]))
    prepare(tmp_path / "raw", tmp_path / "s.zarr", classes=ClassTable.from_names(["x", "y"]), grid=0.05)
    store = SceneStore(tmp_path / "s.zarr")
    place = position_of(store, 0, [3])
    assert "point 0 lies in more than one scene" in refusal(write_ply(tmp_path / "p.ply", place, {"label": [1]}), store)
    assert found_in(write_ply(tmp_path / "b.ply", place, {"label": [1]}), store) == [(1, 3, 1)]


@pytest.mark.parametrize("whole", ["grid", "original", "some"])
def test_rooms_that_share_a_wall(whole: str, tmp_path: Path) -> None:
    """The points of two scenes lie among each other, and each answer goes to the right scene."""
    rng = np.random.default_rng(0)
    for name in "ab":
        write_ply(tmp_path / "raw" / f"{name}.ply", rng.random((400, 3)) * [0.5, 0.5, 0.02], {"label": np.zeros(400)})
    prepare(tmp_path / "raw", tmp_path / "s.zarr", classes=ClassTable.from_names(["x", "y"]), grid=0.05)
    store = SceneStore(tmp_path / "s.zarr")
    for number in (0, 1):
        count = store.table[number].points
        assert store.table[number].original > count
        place = position_of(store, number, [5, 9]) if whole == "some" else store.points(store.table[number]).position
        if whole == "original":
            place = store.original(store.table[number])[0].position
        path = write_ply(tmp_path / f"p{number}.ply", place, {"label": np.ones(len(place))})
        rows = [5, 9] if whole == "some" else range(count)
        assert found_in(path, store) == [(number, row, 1) for row in rows]


def test_a_labels_store_knows_no_positions(store: SceneStore, tmp_path: Path, hpal: Hpal) -> None:
    LabelStore.create(tmp_path / "l.zarr", store.classes, store.table)
    write_ply(tmp_path / "a.ply", position_of(store, 1, [7]), {"label": [3]})
    done = hpal("label", "--from", "a.ply", "-o", "l.zarr", cwd=tmp_path)
    assert done.rc == 1
    assert "give --source" in done.err


# ---------------------------------------------------------------- dense clouds


@pytest.mark.parametrize("how", ["as it was", "mixed", "a piece", "32-bit floats"])
def test_a_labelled_original_cloud_labels_its_cells(how: str, store: SceneStore, tmp_path: Path) -> None:
    scene = store.table[1]
    points, inverse = store.original(scene, label=True)
    assert points.label is not None
    assert scene.original > scene.points
    label = points.label.astype(float)
    label[:5] = NAN
    label[label < 0] = NAN
    order = np.arange(len(label))
    if how == "mixed":
        order = np.random.default_rng(0).permutation(len(label))
    if how == "a piece":
        order = np.flatnonzero(points.xyz[:, 0] > np.median(points.xyz[:, 0]))
    place = points.position[order]
    if how == "32-bit floats":
        place = place.astype(np.float32)
    path = write_ply(tmp_path / "mine.ply", place, {"label": label[order]})
    expected = {}
    for cell in np.unique(inverse[order]):
        votes = label[order][(inverse[order] == cell) & ~np.isnan(label[order])].astype(int)
        if len(votes):
            expected[int(cell)] = int(np.bincount(votes).argmax())
    taken = import_answers(path, store)
    assert {int(r["index"]): int(r["label"]) for r in taken.rows} == expected
    assert set(taken.rows["scene"]) == {1}
    (note,) = taken.notes
    assert note.startswith(f"{int((~np.isnan(label[order])).sum()):,} original points of {scene.name}: ")
    np.testing.assert_allclose(taken.rows["x"], store.points(scene).position[taken.rows["index"], 0])


def test_a_labelled_grid_cloud_labels_all_its_points(store: SceneStore, tmp_path: Path) -> None:
    scene = store.table[2]
    points = store.points(scene, label=True)
    assert points.label is not None
    path = write_ply(tmp_path / "grid.ply", points.position, {"class": np.where(points.label < 0, NAN, points.label)})
    rows = np.flatnonzero(points.label >= 0)
    assert found_in(path, store) == [(2, int(i), int(points.label[i])) for i in rows]


def test_codes_of_a_foreign_cloud_are_read_as_prep_reads_them(tmp_path: Path) -> None:
    position = np.random.default_rng(0).random((40, 3)) * 3
    write_ply(tmp_path / "raw" / "a.ply", position, {"label": np.where(np.arange(40) % 2, 17, 40)})
    classes = ClassTable.from_json([{"id": 0, "name": "x", "code": 40}, {"id": 1, "name": "y", "code": 17}])
    prepare(tmp_path / "raw", tmp_path / "s.zarr", classes=classes, grid=0.05)
    store = SceneStore(tmp_path / "s.zarr")
    taken = import_answers(tmp_path / "raw" / "a.ply", store)
    truth = store.labels(store.table[0])
    assert truth is not None
    np.testing.assert_array_equal(np.sort(taken.rows, order="index")["label"], truth)
    assert any("codes of the class table" in note for note in taken.notes)
    # With an index it is a cloud of hpal, which holds ids.
    path = write_ply(tmp_path / "a.ply", position[:2], {"index": [0, 1], "class": [0, 1]})
    assert found_in(path, store) == [(0, 0, 0), (0, 1, 1)]


# ---------------------------------------------------------------- LAS


def write_las(path: Path, position: np.ndarray, classification: list[int], extra: dict[str, list[float]]) -> Path:
    header = laspy.LasHeader(version="1.4", point_format=7)
    header.offsets, header.scales = np.floor(position.min(axis=0)), np.full(3, 1e-4)
    for name in extra:
        header.add_extra_dim(laspy.ExtraBytesParams(name=name, type=np.float32))
    las = laspy.LasData(header)
    las.x, las.y, las.z = position.T
    las.classification = np.array(classification, np.uint8)
    for name, values in extra.items():
        las[name] = np.array(values, np.float32)
    las.write(str(path))
    return path


@pytest.mark.parametrize("suffix", ["las", "laz"])
def test_las_numbers_classes_from_64(suffix: str, store: SceneStore, tmp_path: Path) -> None:
    extra = {"scene": [0.0, 0, 1, 2, 2], "index": [1.0, 2, 3, 4, 5]}
    path = write_las(tmp_path / f"a.{suffix}", np.zeros((5, 3)), [64, 76, 1, 0, 3], extra)
    # 3 is below the numbers of users: the code of a class, which in this table is its id.
    assert found_in(path, store) == [(0, 1, 0), (0, 2, 12), (2, 5, 3)]
    assert import_answers(path, store).blank == 2
    bad = write_las(tmp_path / f"b.{suffix}", np.zeros((2, 3)), [64, 77], {"scene": [0, 0], "index": [1, 2]})
    assert "point 1: 77 is none of the 13 classes" in refusal(bad, store)


def test_las_without_index_is_matched_by_position(store: SceneStore, tmp_path: Path) -> None:
    path = write_las(tmp_path / "a.las", position_of(store, 0, [5, 9, 30]), [64, 1, 66], {})
    assert found_in(path, store) == [(0, 5, 0), (0, 30, 2)]
    extra = write_las(tmp_path / "b.las", position_of(store, 0, [5, 9, 30]), [2, 2, 2], {"label": [NAN, -1, 4]})
    assert found_in(extra, store) == [(0, 9, -1), (0, 30, 4)]


def test_las_with_the_codes_of_a_survey(store: SceneStore, tmp_path: Path) -> None:
    classes = ClassTable.from_json(
        [
            {"id": 0, "name": "ground", "code": 2},
            {"id": 1, "name": "building", "code": 6},
            {"id": 2, "name": "x", "code": 9},
        ]
    )
    labels = LabelStore.create(tmp_path / "l.zarr", classes, store.table)
    extra = {"scene": [0.0, 0, 0], "index": [1.0, 2, 3]}
    path = write_las(tmp_path / "a.las", np.zeros((3, 3)), [2, 65, 6], extra)
    rows = import_answers(path, labels).rows
    assert rows["label"].tolist() == [0, 1, 1]
    with pytest.raises(HpalError, match="point 1: 5 is none"):
        import_answers(write_las(tmp_path / "b.las", np.zeros((3, 3)), [2, 5, 1], extra), labels)


def test_las_codes_of_the_class_table_go_first(store: SceneStore, tmp_path: Path) -> None:
    """A class with a LAS number of its own is written with it, the others with id + 64."""
    rows = [{"id": 0, "name": "a", "code": 5, "las": 66}, {"id": 1, "name": "b", "las": 2}]
    labels = LabelStore.create(tmp_path / "l.zarr", ClassTable.from_json(rows), store.table)
    extra = {"scene": [0.0, 0, 0], "index": [1.0, 2, 3]}
    path = write_las(tmp_path / "a.las", np.zeros((3, 3)), [66, 2, 64], extra)
    assert import_answers(path, labels).rows["label"].tolist() == [0, 1, 0]
    with pytest.raises(HpalError, match="point 1: 5 is none"):
        import_answers(write_las(tmp_path / "b.las", np.zeros((3, 3)), [2, 5, 1], extra), labels)


def test_several_numbers_of_a_class_are_all_answers(store: SceneStore, tmp_path: Path) -> None:
    rows = [
        {"id": 0, "name": "ground", "las": 2, "code": 1},
        {"id": 1, "name": "vegetation", "las": 3, "las_codes": [3, 4, 5], "code": 7, "codes": [7, 8]},
        {"id": 2, "name": "other", "code": 2, "codes": []},
    ]
    labels = LabelStore.create(tmp_path / "l.zarr", ClassTable.from_json(rows), store.table)
    labels = LabelStore(labels.path)
    extra = {"scene": [0.0] * 5, "index": [1.0, 2, 3, 4, 5]}
    path = write_las(tmp_path / "a.las", np.zeros((5, 3)), [2, 3, 5, 66, 1], extra)
    assert import_answers(path, labels).rows["label"].tolist() == [0, 1, 1, 2]
    with pytest.raises(HpalError, match="point 2: 6 is none of the 3 classes"):
        import_answers(write_las(tmp_path / "b.las", np.zeros((5, 3)), [2, 3, 6, 66, 1], extra), labels)


def test_exports_of_labels_come_back(store: SceneStore, tmp_path: Path) -> None:
    """`hpal export labels.zarr` in each format is a file that `hpal label --from` reads."""
    labels = LabelStore.create(tmp_path / "l.zarr", store.classes, store.table)
    rows = np.zeros(4, ANSWER)
    rows["scene"], rows["index"], rows["label"] = 1, [3, 4, 9, 30], [0, 5, 12, 1]
    rows["x"], rows["y"], rows["z"] = position_of(store, 1, [3, 4, 9, 30]).T
    from hpal_cli.history import Entry

    labels.append(rows, "test", Entry("test", "0", ()))
    cloud = answers_cloud(labels, store.table[1], labels.latest())
    for suffix in ("ply", "las", "laz"):
        path = tmp_path / f"office_1.{suffix}"
        write(cloud, path, overwrite=False)
        assert found_in(path, store) == [(1, 3, 0), (1, 4, 5), (1, 9, 12), (1, 30, 1)], suffix


def test_a_damaged_las_is_one_line(store: SceneStore, tmp_path: Path) -> None:
    path = write_las(tmp_path / "a.laz", np.random.default_rng(0).random((500, 3)), [64] * 500, {})
    data = path.read_bytes()
    path.write_bytes(data[:-300])
    assert "\n" not in refusal(path, store)
    path.write_bytes(b"LASF")
    assert "not a LAS" in refusal(path, store)


# ---------------------------------------------------------------- labelCloud


def label_cloud(folder: Path, names: list[str], files: dict[str, np.ndarray], default: int = 0) -> Path:
    home = folder / "labels"
    (home / "segmentation").mkdir(parents=True)
    classes = [{"name": name, "id": n, "color": "#ff0000"} for n, name in enumerate(names)]
    about = {"classes": classes, "default": default, "type": "semantic_segmentation", "format": "binary"}
    (home / "_classes.json").write_text(json.dumps(about))
    for name, values in files.items():
        np.asarray(values, np.int8).tofile(home / "segmentation" / f"{name}.bin")
    return folder


def test_labelcloud_in_the_order_of_either_cloud(store: SceneStore, predictions: Path, tmp_path: Path) -> None:
    names = ["unassigned", "Chair", "unsure", "wall"]
    chair, wall = store.classes.names.index("chair"), store.classes.names.index("wall")
    grid = np.zeros(store.table[1].points)
    grid[[3, 4, 8]] = 1, 2, 3
    folder = label_cloud(tmp_path / "grid", names, {"office_1": grid})
    expected = [(1, 3, chair), (1, 4, -1), (1, 8, wall)]
    for given in (folder, folder / "labels"):
        assert found_in(given, store) == expected
    assert found_in(folder, open_scenes(predictions)) == expected  # type: ignore[arg-type]
    assert import_answers(folder, store).source == f"labelCloud {folder}"

    inverse = store.original(store.table[0])[1]
    full = np.zeros(len(inverse))
    full[100:104] = 1
    folder = label_cloud(tmp_path / "full", names, {"conferenceRoom_1": full, "office_1": grid})
    cells = np.unique(inverse[100:104])
    assert found_in(folder, store) == [*((0, int(cell), chair) for cell in cells), *expected]
    with pytest.raises(HpalError, match="only the scenes store knows"):
        import_answers(folder, open_scenes(predictions))


@pytest.mark.parametrize(
    ("names", "files", "words"),
    [
        (["unassigned", "bus"], {"office_1": 10}, "'bus' is no class"),
        (["unassigned", "wall"], {"office_1": 10}, "has 10 labels, but Area_1/office_1 has"),
        (["unassigned", "wall"], {"garage": 10}, "has the name of no scene"),
        (["unassigned", "wall"], {}, "has no segmentation"),
        ([f"n{n}" for n in range(129)], {"office_1": 10}, "'n1' is no class"),
    ],
)
def test_labelcloud_that_is_refused(
    names: list[str], files: dict[str, int], words: str, store: SceneStore, tmp_path: Path
) -> None:
    folder = label_cloud(tmp_path / "p", names, {name: np.ones(count) for name, count in files.items()})
    assert words in refusal(folder, store)


def test_labelcloud_numbers_outside_its_classes(store: SceneStore, tmp_path: Path) -> None:
    values = np.zeros(store.table[1].points)
    values[17] = -4
    folder = label_cloud(tmp_path / "p", ["unassigned", "wall"], {"office_1": values})
    assert "point 17: -4 is no class" in refusal(folder, store)
    assert "no labels/_classes.json" in refusal(tmp_path, store)


# ---------------------------------------------------------------- tables


HEAD = "scene,index,x,y,z,rank,score,predicted,second,confidence,label"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (",,,,,,,,,,chair", "row 3: has the label 'chair', but no scene and index"),
        ("Area_1/office_1,,,,,,,,,,chair", "row 3 has an answer, but no index"),
        (",4,,,,,,,,,chair", "row 3 does not say of which scene it is"),
        ("chair", "row 3: ends before the column label"),
        ("Area_1/office_1,4,1,5,2,5,3,5,1,,wall,,chair", "row 3: has 'chair' beyond the last column"),
        ("Area_1/office_1,4,,,,,,,,,bus", "row 3: 'bus' is no class"),
        ("Area_1/office_1,4,,,,,,,,,13", "row 3: '13' is no class"),
        ("Area_9/office_1,4,,,,,,,,,chair", "row 3: no scene is called 'Area_9/office_1'"),
        ("Area_1/office_1,4.5,,,,,,,,,chair", "row 3: index '4.5' is no row"),
        ("Area_1/office_1,inf,,,,,,,,,chair", "row 3: index 'inf' is no row"),
        ("Area_1/office_1,-1,,,,,,,,,chair", "row 3: there is no point -1"),
        ("Area_1/office_1,1000000,,,,,,,,,chair", "row 3: scene Area_1/office_1 has no point 1000000"),
        (",,one,2,3,,,,,,chair", "row 3: could not convert"),
        ("Area_1/office_1,3,,,,,,,,,chair", "row 3 and row 2 have different answers"),
    ],
)
def test_rows_that_are_refused(
    line: str, words: str, store: SceneStore, scenes: Path, tmp_path: Path, hpal: Hpal
) -> None:
    path = tmp_path / "q.csv"
    path.write_text(f"{HEAD}\nArea_1/office_1,3,,,,,,,,,wall\n{line}\n")
    assert words in refusal(path, store)
    LabelStore.create(tmp_path / "l.zarr", store.classes, store.table)
    before = tree(tmp_path)
    done = hpal("label", "--from", path, "--source", scenes, "-o", "l.zarr", cwd=tmp_path)
    assert done.rc == 1
    assert words in done.err
    assert tree(tmp_path) == before, "nothing of it is taken"


def test_rows_that_say_nothing_are_blank(store: SceneStore, tmp_path: Path) -> None:
    path = tmp_path / "q.tsv"
    lines = [HEAD, ",,,,,,,,,,", "nowhere,x,,,,,,,,,", "", "Area_1/office_1,3.0,,,,,,,,,Unsure", "0,7,,,,,,,,, CHAIR "]
    path.write_text("\n".join(lines).replace(",", "\t"))
    taken = import_answers(path, store)
    assert taken.blank == 2
    chair = store.classes.names.index("chair")
    assert found_in(path, store) == [(0, 7, chair), (1, 3, -1)]


def test_a_table_of_positions(store: SceneStore, tmp_path: Path) -> None:
    path = tmp_path / "q.csv"
    (place,) = position_of(store, 2, [40])
    path.write_text("x,y,z,label\n{},{},{},3\n1,2,3,\n".format(*place))
    assert found_in(path, store) == [(2, 40, 3)]
    path.write_text("x,y,label\n1,2,3\n")
    assert "no column scene, index" in refusal(path, store)


def test_a_table_with_decimal_commas(store: SceneStore, tmp_path: Path) -> None:
    path = tmp_path / "q.csv"
    (place,) = position_of(store, 2, [40])
    numbers = ";".join(f"{value:.5f}" for value in place)
    path.write_text(f"x;y;z;label\n{numbers.replace('.', ',')};3\n")
    assert found_in(path, store) == [(2, 40, 3)]
    path.write_text(f"x;y;z;label\n{numbers};3\n")
    assert found_in(path, store) == [(2, 40, 3)]
    lines = [f"2;40;{numbers.replace('.', ',')};3", "2;42;1 234,5;?;#####;3"]
    path.write_text("\n".join(["scene;index;x;y;z;label", *lines]))
    assert found_in(path, store) == [(2, 40, 3), (2, 42, 3)]
    path.write_text("\n".join(["scene;index;label", "2;41,0;3"]))
    assert found_in(path, store) == [(2, 41, 3)]


@pytest.mark.parametrize(("parted", "label"), [(",", "1.0"), (",", "1"), (";", "1,0"), ("\t", "1.000")])
def test_a_label_that_became_a_float(parted: str, label: str, store: SceneStore, tmp_path: Path) -> None:
    path = tmp_path / "q.csv"
    path.write_text(f"scene{parted}index{parted}label\n0{parted}7{parted}{label}\n0{parted}8{parted}\n")
    assert found_in(path, store) == [(0, 7, 1)]
    for bad in ("1.5", "13.0", "1e0", "-1.0"):
        path.write_text(f"scene{parted}index{parted}label\n0{parted}7{parted}{bad}\n")
        assert f"row 2: '{bad}' is no class" in refusal(path, store)


def test_two_columns_of_answers(store: SceneStore, tmp_path: Path) -> None:
    path = tmp_path / "q.csv"
    path.write_text("scene,index,label,label\n0,7,1,\n")
    assert "has two columns called label" in refusal(path, store)


def test_columns_that_were_sorted_apart(store: SceneStore, predictions: Path, tmp_path: Path) -> None:
    path = tmp_path / "q.csv"
    name = store.table[1].name
    index = [26, 900, 400]
    place = position_of(store, 1, index)

    def table(place: np.ndarray, index: list[int], *, labels: list[str] | None = None) -> Path:
        rows = zip(index, place, labels or ["1"] * len(index), strict=True)
        path.write_text(
            "scene,index,x,y,z,label\n" + "".join(f"{name},{n},{x},{y},{z},{a}\n" for n, (x, y, z), a in rows)
        )
        return path

    taken = [(1, n, 1) for n in sorted(index)]
    assert found_in(table(place, index), store) == taken
    assert found_in(table(place.round(1), index), store) == taken, "a spreadsheet may round"
    assert found_in(table(place + np.array([5e3, -2, 0]), index), store) == taken, "other axes"
    assert found_in(table(place * NAN, index), store) == taken
    for source in (store, open_scenes(predictions)):
        apart = table(place[[1, 0, 2]], index)
        with pytest.raises(HpalError, match=rf"row 2 does not lie at point 26 of {name}: was one column sorted"):
            import_answers(apart, source)
    assert "row 4 does not lie at point 400 of" in refusal(table(place[[0, 1, 0]], index), store)
    assert "row 2 does not lie at" in refusal(table(place[:0:-1], index[:2], labels=["1", ""]), store), "one row"
    labels = LabelStore.create(tmp_path / "l.zarr", store.classes, store.table)
    assert len(import_answers(apart, labels).rows), "it knows no positions"


# ---------------------------------------------------------------- asked and not asked


def test_open_queries_and_answers_nobody_asked_for(predictions: Path, tmp_path: Path, hpal: Hpal) -> None:
    picked = hpal("select", "--budget", "6", "-q", stdin=hpal("score", predictions, "-q").out).out
    asked = PointReader(io.BytesIO(picked), "s").read()
    (tmp_path / "s.ply").write_bytes(picked)
    done = hpal("label", "s.ply", "--table", "q.csv", "--source", predictions, "-o", "l.zarr", cwd=tmp_path)
    assert done.rc == 0, done.err
    labels = LabelStore(tmp_path / "l.zarr")
    assert len(labels.unanswered()) == 6
    assert sorted(labels.unanswered().tolist()) == sorted(asked[["scene", "index"]].tolist())
    with (tmp_path / "q.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    rows[0]["label"], rows[1]["label"] = "wall", "unsure"
    other = {"index": str((int(rows[2]["index"]) + 1) % 1000), "x": "", "y": "", "z": "", "label": "chair"}
    rows.append({**rows[2], **other})
    with (tmp_path / "q.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    done = hpal("label", "--from", "q.csv", "-o", "l.zarr", cwd=tmp_path)
    assert done.rc == 0, done.err
    assert "1 answer for points that were never asked about; they are kept too" in done.err
    assert "round 0, 3 answers (1 unsure); 2 labelled points in all" in done.err
    assert len(labels.unanswered()) == 4
    assert "open queries" in hpal("info", "l.zarr", cwd=tmp_path).out.decode()
    # Against a selection too, in a store that knows of no queries.
    done = hpal("label", "s.ply", "--from", "q.csv", "--source", predictions, "-o", "new.zarr", cwd=tmp_path)
    assert "1 answer for points that were never asked about" in done.err
    assert len(LabelStore(tmp_path / "new.zarr").latest()) == 3


def test_a_table_that_is_refused_asks_nothing(predictions: Path, tmp_path: Path, hpal: Hpal) -> None:
    picked = hpal("select", "--budget", "6", "-q", stdin=hpal("score", predictions, "-q").out).out
    (tmp_path / "q.csv").write_text("taken\n")
    before = tree(tmp_path)
    done = hpal("label", "--table", "q.csv", "-o", "l.zarr", stdin=picked, cwd=tmp_path)
    assert done.rc == 1
    assert "exists already" in done.err
    assert tree(tmp_path) == before
