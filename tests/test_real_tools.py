"""What CloudCompare, PDAL, MeshLab and Open3D make of hpal's files, and hpal of what they give back.

What needs a tool that is not here is skipped. HPAL_REQUIRE_TOOLS names the tools whose absence is a failure, as in
`HPAL_REQUIRE_TOOLS=cloudcompare,meshlab,open3d`; 1 means all. docs/viewers.md says with which versions this was run.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import laspy
import numpy as np
import plyfile
import pytest
from conftest import Done, environment, run_hpal
from laspy.vlrs.known import WktCoordinateSystemVlr

from hpal_cli.demo.office import CLASSES, make_room
from hpal_cli.labels.store import LabelStore
from hpal_cli.predictions.store import PredictionStore

ORIGIN = np.array([900_000.0, 6_500_000.0, 100.0])
"""About where Lambert-93 has Lyon."""

MILLIMETRE = 0.001

LAMBERT_93 = (
    'PROJCS["RGF93 / Lambert-93",GEOGCS["RGF93",DATUM["Reseau_Geodesique_Francais_1993",'
    'SPHEROID["GRS 1980",6378137,298.257222101,AUTHORITY["EPSG","7019"]],AUTHORITY["EPSG","6171"]],'
    'PRIMEM["Greenwich",0,AUTHORITY["EPSG","8901"]],UNIT["degree",0.0174532925199433,AUTHORITY["EPSG","9122"]],'
    'AUTHORITY["EPSG","4171"]],PROJECTION["Lambert_Conformal_Conic_2SP"],PARAMETER["latitude_of_origin",46.5],'
    'PARAMETER["central_meridian",3],PARAMETER["standard_parallel_1",49],PARAMETER["standard_parallel_2",44],'
    'PARAMETER["false_easting",700000],PARAMETER["false_northing",6600000],UNIT["metre",1,AUTHORITY["EPSG","9001"]],'
    'AXIS["Easting",EAST],AXIS["Northing",NORTH],AUTHORITY["EPSG","2154"]]'
)

PYTHON = os.environ.get("HPAL_TOOLS_PYTHON", sys.executable)
"""The Python that has Open3D: its many requirements need not be where hpal is."""

_PROGRAMS = {"cloudcompare": "CloudCompare", "pdal": "pdal", "meshlab": "meshlabserver"}
_MODULES = ("open3d", "pymeshlab")


def _here(tool: str) -> bool:
    if tool in _PROGRAMS:
        return shutil.which(_PROGRAMS[tool]) is not None
    found = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({tool!r}) is None)"
    return subprocess.run([PYTHON, "-c", found], check=False).returncode == 0


@cache
def needs(tool: str) -> pytest.MarkDecorator:
    required = set(filter(None, os.environ.get("HPAL_REQUIRE_TOOLS", "").split(",")))
    if required == {"1"}:
        required = {*_PROGRAMS, "open3d"}
    # The browser is for test_page_browser.py.
    assert required <= {*_PROGRAMS, *_MODULES, "chromium"}, f"HPAL_REQUIRE_TOOLS: no such tools: {required}"
    return pytest.mark.skipif(tool not in required and not _here(tool), reason=f"{tool} is not installed")


# ---------------------------------------------------------------- the tools

Columns = dict[str, np.ndarray]


def columns(path: Path) -> Columns:
    """The vertices of a PLY by plain name, and position as one (N, 3) array.

    A field that would then be called as a colour is, like the scanner's `scalar_red` beside the shown `red`, keeps
    its long name.
    """
    data = plyfile.PlyData.read(path)["vertex"].data
    names = {name: name.removeprefix("scalar_") for name in data.dtype.names}
    seen = {long if long != short and short in names else short: data[long] for long, short in names.items()}
    return {**seen, "position": np.column_stack([data["x"], data["y"], data["z"]]).astype(np.float64)}


def call(*words: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """A program without a screen and without the settings of whoever runs the tests."""
    done = subprocess.run(
        [str(word) for word in words],
        cwd=cwd,
        env={**environment(), "QT_QPA_PLATFORM": "offscreen", "HOME": str(cwd), "XDG_RUNTIME_DIR": str(cwd)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"
    return done


def cloud_compare(*words: object, cwd: Path, encoding: str = "BINARY_LE") -> str:
    """What CloudCompare says while it does these things."""
    manners = ("-SILENT", "-AUTO_SAVE", "OFF", "-C_EXPORT_FMT", "PLY", "-PLY_EXPORT_FMT", encoding)
    return call("CloudCompare", *manners, *words, cwd=cwd).stdout


def resaved(path: Path, folder: Path, *, shift: bool = True, encoding: str = "BINARY_LE") -> Path:
    """`path`, loaded in CloudCompare and saved."""
    out = folder / "resaved.ply"
    opened = ("-O", "-GLOBAL_SHIFT", "AUTO", path) if shift else ("-O", path)
    cloud_compare(*opened, "-SAVE_CLOUDS", "FILE", out, cwd=folder, encoding=encoding)
    return out


def pdal_info(path: Path, *what: str) -> Any:
    """What `pdal info` tells; not a word of warning on the way."""
    done = call("pdal", "info", *what, path, cwd=path.parent)
    assert done.stderr == ""
    return json.loads(done.stdout)


def pdal_columns(path: Path, folder: Path) -> Columns:
    """All that PDAL read, by the names of its dimensions in small letters."""
    out = folder / "translated.ply"
    done = call("pdal", "translate", path, out, "--writers.ply.storage_mode=little endian", cwd=folder)
    assert done.stderr == ""
    return columns(out)


OPEN3D = """
import sys
import numpy as np
import open3d as o3d
o3d.utility.set_verbosity_level(o3d.utility.VerbosityLevel.Warning)
point = o3d.t.io.read_point_cloud(sys.argv[1]).point
np.savez(sys.argv[2], **{name: point[name].numpy() for name in point})
"""

PYMESHLAB = """
import sys
import pymeshlab
meshes = pymeshlab.MeshSet()
meshes.load_new_mesh(sys.argv[1])
meshes.save_current_mesh(sys.argv[2])
"""


def open3d_columns(path: Path, folder: Path) -> Columns:
    """In a process of its own, for Open3D and torch each bring their own threads."""
    done = call(PYTHON, "-c", OPEN3D, path, folder / "seen.npz", cwd=folder)
    assert "WARNING" not in done.stdout + done.stderr
    seen = dict(np.load(folder / "seen.npz"))
    return {name: v[:, 0] if v.shape[1] == 1 else v for name, v in seen.items()}


def meshlab_columns(tool: str, path: Path, folder: Path) -> Columns:
    out = folder / "meshed.ply"
    if tool == "meshlab":
        # It draws nothing, yet does not start without OpenGL.
        screen = ["xvfb-run", "-a"] if shutil.which("xvfb-run") else []
        call(*screen, "meshlabserver", "-i", path, "-o", out, "-m", "vc", "vq", cwd=folder)
    else:
        call(PYTHON, "-c", PYMESHLAB, path, out, cwd=folder)
    return columns(out)


# ---------------------------------------------------------------- the files


def said(done: Done) -> Done:
    assert done.rc == 0, done.err
    return done


class Survey(NamedTuple):
    """Two georeferenced LAS files and what was made of them in `folder`."""

    folder: Path
    raw: dict[str, laspy.LasData]


@pytest.fixture(scope="module")
def survey(tmp_path_factory: pytest.TempPathFactory) -> Survey:
    folder = tmp_path_factory.mktemp("survey")
    (folder / "raw").mkdir()
    raw = {}
    for number, name in enumerate(("north", "south")):
        room = make_room(number, points=1500)
        rng = np.random.default_rng(number)
        header = laspy.LasHeader(version="1.4", point_format=7)
        header.offsets, header.scales = ORIGIN, np.full(3, MILLIMETRE)
        header.file_source_id = 7
        header.global_encoding.wkt = True
        header.vlrs.append(WktCoordinateSystemVlr(LAMBERT_93))
        header.add_extra_dims(
            [
                laspy.ExtraBytesParams("deviation", "float32", "of the pulse's shape"),
                laspy.ExtraBytesParams("amplitude", "uint16"),
            ]
        )
        las = laspy.LasData(header)
        las.xyz = room.xyz - room.xyz.min(axis=0) + ORIGIN + [100 * number, 0, 0]
        las.red, las.green, las.blue = room.rgb.T.astype(np.uint16) * 257
        las.classification = room.label + 64
        las.intensity = rng.integers(0, 60_000, len(room.xyz))
        las.return_number[:] = las.number_of_returns[:] = 1
        las.gps_time = np.sort(rng.uniform(3e8, 3.1e8, len(room.xyz)))
        las.deviation = rng.random(len(room.xyz)).astype(np.float32)
        las.amplitude = rng.integers(0, 60_000, len(room.xyz))
        las.write(folder / "raw" / f"{name}.las")
        raw[name] = las
    table = [{"id": n, "name": name, "code": n + 64} for n, name in enumerate(CLASSES)]
    (folder / "classes.json").write_text(json.dumps(table))
    for line in (
        "prep raw -o scenes.zarr --grid 0.15 --classes classes.json",
        "score scenes.zarr --strategy random -o random.ply",
        "select random.ply --no-fds --budget 30 -o first.ply",
        "label first.ply --oracle scenes.zarr -o labels.zarr",
        "train scenes.zarr --labels labels.zarr --preset small --steps 1 --device cpu -o model.pt",
        "predict model.pt scenes.zarr --device cpu -o preds.zarr --ply result --las result",
        "export scenes.zarr -o scenes",
        "export scenes.zarr -o scenes --format las",
        "export preds.zarr -o preds",
        "export preds.zarr -o preds --format las",
        "score preds.zarr --levels 50,100 -o scores.ply",
        "select scores.ply --budget 40 -o selection.ply",
    ):
        said(run_hpal(*line.split(), cwd=folder))
    return Survey(folder, raw)


@pytest.fixture(scope="module")
def bench(scenes: Path, predictions: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the office's stores, a selection of 60 points and all that `export` makes of them."""
    folder = tmp_path_factory.mktemp("tools")
    shutil.copytree(scenes, folder / "scenes.zarr")
    shutil.copytree(predictions, folder / "preds.zarr")
    for line in (
        "score preds.zarr --levels 50,100 -o scores.ply",
        "select scores.ply --budget 60 -o selection.ply",
        "label selection.ply --oracle scenes.zarr -o labels.zarr",
        "export scenes.zarr -o scenes",
        "export scenes.zarr -o scenes --format las",
        "export preds.zarr -o preds",
        "export preds.zarr -o preds --format las",
        "export labels.zarr -o labels",
        "export labels.zarr -o labels --format las",
    ):
        said(run_hpal(*line.split(), cwd=folder))
    return folder


@pytest.fixture
def place(request: pytest.FixtureRequest) -> Path:
    """A file as (fixture of its folder, name in it)."""
    where, name = request.param
    made = request.getfixturevalue(where)
    return (made.folder if isinstance(made, Survey) else made) / name


OF_THE_OFFICE = ("selection", "scenes/Area_1/office_1", "preds/Area_2/hallway_1", "labels/Area_1/office_1")
OF_THE_SURVEY = ("selection", "scenes/north", "preds/north", "result/south")
PLACES = [*(("bench", name) for name in OF_THE_OFFICE), *(("survey", name) for name in OF_THE_SURVEY)]
PLYS = pytest.mark.parametrize(
    "place", [(where, f"{name}.ply") for where, name in PLACES], ids=lambda p: "-".join(p), indirect=True
)
LASES = pytest.mark.parametrize(
    "place",
    [(where, f"{name}.las") for where, name in PLACES if name != "selection"],
    ids=lambda p: "-".join(p),
    indirect=True,
)
FIELDS = {
    "selection": {"scene", "index", "score", "rank"},
    "scenes": {"index", "class"},
    "preds": {"index", "class", "confidence", "uncertainty", "answered"},
    "labels": {"index", "class", "round"},
    "result": {"class", "confidence", "uncertainty", "intensity", "deviation", "amplitude"},
}


def fields_of(path: Path) -> tuple[Columns, list[str]]:
    """What hpal wrote in a PLY, and the names of its scalar fields, among them those that docs/viewers.md promises."""
    wrote = columns(path)
    names = sorted(wrote.keys() - {"x", "y", "z", "red", "green", "blue", "quality", "position"})
    kind = next(part for part in (path.stem, path.parent.name, path.parents[1].name) if part in FIELDS)
    assert FIELDS[kind] <= set(names)
    assert len(wrote["x"]) >= 10
    return wrote, names


def long(name: str) -> str:
    """As a field is called in the file."""
    return name if name.startswith("scalar_") else f"scalar_{name}"


def same_colours(seen: Columns, wrote: Columns, factor: int = 1) -> None:
    for name in ("red", "green", "blue"):
        np.testing.assert_array_equal(seen[name], wrote[name].astype(np.int64) * factor)
    assert len(np.unique(wrote["red"])) > 1


# ---------------------------------------------------------------- CloudCompare


@needs("cloudcompare")
@PLYS
def test_cloudcompare_keeps_points_colours_and_fields(place: Path, tmp_path: Path) -> None:
    wrote, names = fields_of(place)
    seen = columns(resaved(place, tmp_path))
    assert seen.keys() == {"x", "y", "z", "red", "green", "blue", "position", *names}
    same_colours(seen, wrote)
    for name in names:
        np.testing.assert_array_equal(seen[name], wrote[name].astype(np.float32), err_msg=name)
    # Coordinates are 32-bit floats of what is left after the shift.
    assert np.abs(seen["position"] - wrote["position"]).max() < MILLIMETRE / 10


@needs("cloudcompare")
def test_cloudcompare_gives_a_georeferenced_result_back_to_the_millimetre(survey: Survey, tmp_path: Path) -> None:
    for name, las in survey.raw.items():
        seen = columns(resaved(survey.folder / f"result/{name}.ply", tmp_path))
        assert np.abs(seen["position"] - np.asarray(las.xyz)).max() < MILLIMETRE
        np.testing.assert_array_equal(seen["intensity"], las.intensity)


@needs("cloudcompare")
def test_cloudcompare_says_that_it_shifts_and_what_is_lost_without(survey: Survey, tmp_path: Path) -> None:
    path = survey.folder / "result/north.ply"
    opened = cloud_compare("-O", "-GLOBAL_SHIFT", "AUTO", path, cwd=tmp_path)
    assert "recentered" in opened
    moved = columns(resaved(path, tmp_path, shift=False))["position"] - columns(path)["position"]
    assert 0.1 < np.abs(moved).max() < 0.5


@needs("cloudcompare")
def test_cloudcompare_takes_some_names_for_colours_and_normals(tmp_path: Path) -> None:
    # The warning of docs/viewers.md. hpal's own `answered` is such a name: its files always have colours.
    def fields_after(colours: tuple[str, ...], *fields: str) -> set[str]:
        names = ["x", "y", "z", *colours, *(f"scalar_{n}" for n in fields)]
        rows = np.zeros(5, [(n, "u1" if n in colours else "<f4") for n in names])
        rows["x"] = np.arange(5)
        made = plyfile.PlyData([plyfile.PlyElement.describe(rows, "vertex")], byte_order="<")
        made.write(str(tmp_path / "named.ply"))
        saved = plyfile.PlyData.read(resaved(tmp_path / "named.ply", tmp_path))["vertex"].data.dtype.names
        return {name.removeprefix("scalar_") for name in saved if name.startswith("scalar_")}

    rgb = ("red", "green", "blue")
    assert fields_after((), "answered", "evergreen", "bluetooth", "class") == {"class"}
    assert fields_after(rgb, "answered", "evergreen", "bluetooth") == {"answered", "evergreen", "bluetooth"}
    assert fields_after(rgb, "nx", "class") == {"class"}
    assert fields_after((), "intensity", "gray") == {"intensity", "gray"}


@needs("cloudcompare")
def test_cloudcompare_writes_six_digits_as_ascii(tmp_path: Path) -> None:
    # Why docs/viewers.md says to save as binary.
    rows = np.zeros(2, [("x", "<f8"), ("y", "<f8"), ("z", "<f8"), ("scalar_index", "<i4")])
    rows["scalar_index"] = 1_234_567, 16_777_216
    plyfile.PlyData([plyfile.PlyElement.describe(rows, "vertex")], byte_order="<").write(str(tmp_path / "far.ply"))
    assert columns(resaved(tmp_path / "far.ply", tmp_path))["index"].tolist() == [1_234_567, 16_777_216]
    (tmp_path / "resaved.ply").unlink()
    ascii_index = columns(resaved(tmp_path / "far.ply", tmp_path, encoding="ASCII"))["index"]
    assert ascii_index.tolist() == [1_234_570, 16_777_200]


# ---------------------------------------------------------------- there and back: CloudCompare and `hpal label`


def answers(path: Path) -> dict[tuple[int, int], tuple[int, float, float, float]]:
    """(scene, index) -> (label, x, y, z), the latest of each."""
    rows = LabelStore(path).latest()
    return {
        (int(r["scene"]), int(r["index"])): (int(r["label"]), float(r["x"]), float(r["y"]), float(r["z"])) for r in rows
    }


def there_and_back(way: str, path: Path, folder: Path) -> Path:
    """A selection as CloudCompare gives it back."""
    if way == "binary":
        return resaved(path, folder)
    if way == "ASCII":
        return resaved(path, folder, encoding="ASCII")
    if way == "shift refused":
        return resaved(path, folder, shift=False)
    assert way == "cut and merged"
    opened = ("-O", "-GLOBAL_SHIFT", "AUTO")
    names = plyfile.PlyData.read(path)["vertex"].data.dtype.names
    order = [name for name in names if name.startswith("scalar_")]
    for name, low, high in (("late", 21, "MAX"), ("early", "MIN", 20)):
        cut = ("-SET_ACTIVE_SF", order.index("scalar_rank"), "-FILTER_SF", low, high)
        cloud_compare(*opened, path, *cut, "-SAVE_CLOUDS", "FILE", folder / f"{name}.ply", cwd=folder)
    both = (*opened, folder / "late.ply", *opened, folder / "early.ply")
    out = folder / "resaved.ply"
    cloud_compare(*both, "-MERGE_CLOUDS", "-SAVE_CLOUDS", "FILE", out, cwd=folder)
    ranks = columns(out)["rank"]
    assert ranks[0] > 20 >= ranks[-1]
    return out


WAYS = pytest.mark.parametrize("way", ["binary", "ASCII", "shift refused", "cut and merged"])
CAMPAIGNS = pytest.mark.parametrize("place", [("bench", ""), ("survey", "")], ids=["office", "survey"], indirect=True)


@needs("cloudcompare")
@WAYS
@CAMPAIGNS
def test_a_selection_from_cloudcompare_asks_for_the_same_points(place: Path, way: str, tmp_path: Path) -> None:
    back = there_and_back(way, place / "selection.ply", tmp_path)
    for selection, store in ((place / "selection.ply", "direct.zarr"), (back, "back.zarr")):
        said(run_hpal("label", selection, "--oracle", place / "scenes.zarr", "-o", store, cwd=tmp_path))
    direct = answers(tmp_path / "direct.zarr")
    assert len(direct) >= 20
    assert answers(tmp_path / "back.zarr") == direct


def a_person_answers(selection: Path, annotated: Path, classes: int) -> dict[tuple[int, int], int]:
    """Writes the selection with a class for two of three points; returns (scene, index) -> class."""
    read = plyfile.PlyData.read(selection)
    rows = read["vertex"].data
    rng = np.random.default_rng(5)
    answer = rng.integers(0, classes, len(rows)).astype(np.float32)
    answer[::3] = np.nan
    wider = np.zeros(len(rows), [*((n, rows.dtype[n]) for n in rows.dtype.names), ("scalar_class", "<f4")])
    for name in rows.dtype.names:
        wider[name] = rows[name]
    wider["scalar_class"] = answer
    made = plyfile.PlyData([plyfile.PlyElement.describe(wider, "vertex")], byte_order="<", comments=read.comments)
    made.write(str(annotated))
    given = {(int(r["scalar_scene"]), int(r["scalar_index"])): int(a) for r, a in zip(rows, answer) if not np.isnan(a)}
    assert len(given) == np.isfinite(answer).sum() >= 20
    assert len(set(given.values())) > 3
    return given


@needs("cloudcompare")
@WAYS
@CAMPAIGNS
def test_every_answer_given_in_cloudcompare_arrives(place: Path, way: str, tmp_path: Path) -> None:
    store = PredictionStore(place / "preds.zarr")
    given = a_person_answers(place / "selection.ply", tmp_path / "annotated.ply", len(store.classes))
    back = there_and_back(way, tmp_path / "annotated.ply", tmp_path)
    said(run_hpal("label", "--from", back, "--source", place / "preds.zarr", "-o", "labels.zarr", cwd=tmp_path))
    taken = answers(tmp_path / "labels.zarr")
    assert {key: row[0] for key, row in taken.items()} == given
    # The store knows where its points are; the file has them in 32 bits.
    for (scene, index), (_, *position) in taken.items():
        np.testing.assert_allclose(position, store.points(store.table[scene]).position[index], rtol=0, atol=1e-9)


@needs("cloudcompare")
def test_points_of_a_merged_room_are_no_answers(bench: Path, tmp_path: Path) -> None:
    store = PredictionStore(bench / "preds.zarr")
    given = a_person_answers(bench / "selection.ply", tmp_path / "annotated.ply", len(store.classes))
    # The fields of a stream have plain names, which CloudCompare drops: all that is merged gets NaN.
    room, out = bench / "scores.ply", tmp_path / "merged.ply"
    cloud_compare(
        "-O", tmp_path / "annotated.ply", "-O", room, "-MERGE_CLOUDS", "-SAVE_CLOUDS", "FILE", out, cwd=tmp_path
    )
    assert np.isnan(columns(out)["class"]).sum() > 1000
    done = run_hpal("label", "--from", out, "--source", bench / "preds.zarr", "-o", "labels.zarr", cwd=tmp_path)
    assert done.rc == 0, done.err
    assert {key: row[0] for key, row in answers(tmp_path / "labels.zarr").items()} == given


# ---------------------------------------------------------------- PDAL


@needs("pdal")
@PLYS
def test_pdal_reads_all_of_a_ply(place: Path, tmp_path: Path) -> None:
    wrote, names = fields_of(place)
    types = {d["name"]: (d["type"], d["size"]) for d in pdal_info(place, "--schema")["schema"]["dimensions"]}
    assert types["X"] == types["Y"] == types["Z"] == ("floating", 8)
    seen = pdal_columns(place, tmp_path)
    np.testing.assert_array_equal(seen["position"], wrote["position"])
    same_colours(seen, wrote)
    for name in names:
        assert long(name) in types
        np.testing.assert_array_equal(seen[name], wrote[name], err_msg=name)


@needs("pdal")
@LASES
def test_pdal_reads_all_of_a_las(place: Path, tmp_path: Path) -> None:
    wrote, names = fields_of(place.with_suffix(".ply"))
    summary = pdal_info(place, "--summary")["summary"]
    assert summary["num_points"] == len(wrote["x"])
    bounds = [[summary["bounds"][f"{end}{axis}"] for axis in "xyz"] for end in ("min", "max")]
    np.testing.assert_allclose(
        bounds, [wrote["position"].min(axis=0), wrote["position"].max(axis=0)], rtol=0, atol=MILLIMETRE
    )
    seen = pdal_columns(place, tmp_path)
    assert np.abs(seen["position"] - wrote["position"]).max() < MILLIMETRE
    if place.parent.name != "result":  # There the LAS keeps its own colours: the test of its header below.
        same_colours(seen, wrote, factor=257)
    np.testing.assert_array_equal(seen["classification"], np.where(wrote["class"] >= 0, wrote["class"] + 64, 1))
    result = place.parent.name == "result"
    for name in FIELDS["result"] - {"class"} if result else {*names} - {"class"}:
        field = name.replace("_", "") if name in ("return_number", "number_of_returns") else name
        # LAS has whole numbers for what is a mean over a grid point here: rounded, or beside it as it is.
        beside = f"{name}_2" in seen
        rounded = seen[field].dtype.kind == "u" and not beside
        np.testing.assert_array_equal(
            seen[f"{name}_2" if beside else field], np.rint(wrote[name]) if rounded else wrote[name], err_msg=name
        )


@needs("pdal")
def test_pdal_finds_extra_bytes_of_the_right_types(bench: Path) -> None:
    dimensions = pdal_info(bench / "preds/Area_2/hallway_1.las", "--schema")["schema"]["dimensions"]
    types = {d["name"]: (d["type"], d["size"]) for d in dimensions}
    assert types["index"] == types["scene"] == ("signed", 4)
    assert types["confidence"] == types["uncertainty"] == ("floating", 4)
    assert types["answered"] == ("unsigned", 1)


@needs("pdal")
def test_pdal_finds_the_header_and_crs_of_the_original_in_the_result(survey: Survey, tmp_path: Path) -> None:
    for name, las in survey.raw.items():
        path = survey.folder / f"result/{name}.las"
        header = pdal_info(path, "--metadata")["metadata"]
        original = pdal_info(survey.folder / f"raw/{name}.las", "--metadata")["metadata"]
        assert 'AUTHORITY["EPSG","2154"]' in header["srs"]["horizontal"]
        assert header["srs"]["units"]["horizontal"] == "metre"
        for key in (
            *("major_version", "minor_version", "dataformat_id", "filesource_id", "global_encoding", "count"),
            *("scale_x", "scale_y", "scale_z", "offset_x", "offset_y", "offset_z"),
            *("minx", "miny", "minz", "maxx", "maxy", "maxz"),
        ):
            assert header[key] == original[key], key
        seen = pdal_columns(path, tmp_path)
        np.testing.assert_array_equal(
            np.rint((seen["position"] - ORIGIN) / MILLIMETRE), np.column_stack([las.X, las.Y, las.Z])
        )
        for color in ("red", "green", "blue"):
            np.testing.assert_array_equal(seen[color], las[color])
        np.testing.assert_array_equal(seen["gpstime"], las.gps_time)
        np.testing.assert_array_equal(seen["intensity"], las.intensity)
        np.testing.assert_array_equal(seen["deviation"], las.deviation)
        np.testing.assert_array_equal(seen["amplitude"], las.amplitude)


# ---------------------------------------------------------------- MeshLab


@pytest.mark.parametrize("tool", [pytest.param(t, marks=needs(t)) for t in ("meshlab", "pymeshlab")])
@PLYS
def test_meshlab_shows_colours_and_one_quality(tool: str, place: Path, tmp_path: Path) -> None:
    wrote, names = fields_of(place)
    seen = meshlab_columns(tool, place, tmp_path)
    same_colours(seen, wrote)
    # MeshLab of 2020 has 32-bit coordinates.
    error = np.abs(seen["position"] - wrote["position"]) / np.abs(wrote["position"]).max()
    assert error.max() < (1e-7 if tool == "meshlab" else 1e-15)
    score = {"uncertainty", "score"} & set(names)
    for name in score:
        np.testing.assert_array_equal(seen["quality"].astype(np.float32), wrote[name])
    # All else is dropped: so a file that MeshLab saved cannot be labelled from.
    assert not set(names) & seen.keys()


# ---------------------------------------------------------------- Open3D


@needs("open3d")
@PLYS
def test_open3d_reads_all_of_a_ply(place: Path, tmp_path: Path) -> None:
    wrote, names = fields_of(place)
    seen = open3d_columns(place, tmp_path)
    assert seen.keys() == {
        *("positions", "colors"),
        *map(long, names),
        *({"quality"} & wrote.keys()),
    }
    np.testing.assert_array_equal(seen["positions"], wrote["position"])
    assert seen["positions"].dtype == np.float64
    np.testing.assert_array_equal(seen["colors"], np.column_stack([wrote[n] for n in ("red", "green", "blue")]))
    for name in names:
        np.testing.assert_array_equal(seen[long(name)], wrote[name], err_msg=name)
        assert seen[long(name)].dtype == wrote[name].dtype
