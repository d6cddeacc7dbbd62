"""Coverage-guided fuzzing of what is Python: `python tests/fuzz/parsers.py TARGET [-runs=N ...]`, which takes atheris.

Whatever a file holds, it is read or refused with an HpalError. Anything else that is raised, a hang (-timeout) and too
much memory (-rss_limit_mb) end the run, and the input is written to a file. Without arguments: the targets. What this
finds becomes a case of tests/test_fuzz.py or tests/test_hostile.py.
"""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import atheris
import numpy as np
import zarr

with atheris.instrument_imports(include=["hpal_cli", "plyfile", "laspy", "zarr.core.metadata", "zarr.core.group"]):
    from hpal_cli import readers
    from hpal_cli.classes import ClassTable
    from hpal_cli.errors import HpalError
    from hpal_cli.info import describe
    from hpal_cli.label.annotated import read_las, read_ply
    from hpal_cli.label.labelcloud import read_folder
    from hpal_cli.label.spreadsheet import read_table
    from hpal_cli.scenes.prepare import prepare
    from hpal_cli.scenes.store import SceneStore
    from hpal_cli.scenes.unfinished import DoneScene, Unfinished
    from hpal_cli.store import envelope
    from hpal_cli.store.plain import NotPlain, PlainArray, group_attributes
    from hpal_cli.stream.points import PointReader

sys.path.insert(0, str(Path(__file__).parents[1]))
from conftest import GRID, VAL, fake_predictions, run_hpal
from test_fuzz import CLOUDS, checked_again, with_member
from test_laz import a_copc
from test_readers import scannet_scene
from test_readers_formats import COLOURED, scan, write_e57
from test_readers_scanners import a_data_set

from hpal_cli.demo.office import make_office
from hpal_cli.readers import scannet
from hpal_cli.superpoints.store import superpoints_path

Target = tuple[Callable[[bytes], object], list[bytes]]
"""What reads an input, and whole inputs to begin with."""


def reader(name: str, folder: Path) -> Target:
    path = folder / name

    def read(data: bytes) -> None:
        path.write_bytes(data)
        kind, sources = readers.find(path)
        for source in sources:
            readers.read(kind, source)

    return read, [CLOUDS[name]]


def office(folder: Path) -> Path:
    """A scenes store, small."""
    make_office(folder / "office", rooms=3, seed=0, points=300)
    prepare(folder / "office", folder / "scenes.zarr", val=[VAL], grid=GRID)
    return folder / "scenes.zarr"


def stream(folder: Path) -> Target:
    predictions = fake_predictions(office(folder), folder / "preds.zarr")
    scores = run_hpal("score", predictions, "-q", "--scenes", "Area_1/office_1").out
    some = [run_hpal("select", "-q", "--no-fds", "--budget", budget, stdin=scores).out for budget in (2, 20)]
    return lambda data: PointReader(io.BytesIO(data), "s").read(), some


def one_of(path: Path, read: Callable[[], object], only: str = "*") -> Target:
    """Damages one file of a folder at a time: the first byte says which, the others are its content."""
    files = [one for one in sorted(path.rglob(only)) if one.is_file()][:256]
    whole = [one.read_bytes() for one in files]

    def read_damaged(data: bytes) -> None:
        if not data:
            return
        n = data[0] % len(files)
        files[n].write_bytes(data[1:])
        try:
            read()
        finally:
            files[n].write_bytes(whole[n])

    return read_damaged, [bytes([n]) + content for n, content in enumerate(whole)]


def data_set(path: Path) -> Target:
    """A folder with one scene, and whatever belongs to it."""

    def read() -> None:
        # ScanNet's table of categories is read once in a process.
        scannet._table.cache_clear()
        kind, sources = readers.find(path)
        for source in sources:
            readers.read(kind, source)

    return one_of(path, read)


def s3dis(folder: Path) -> Target:
    room = folder / "Area_1" / "office_1"
    (room / "Annotations").mkdir(parents=True)
    for name in ("wall_1", "clutter_2"):
        (room / "Annotations" / f"{name}.txt").write_text("1.5 2 3 4 5 6\n-1 2e2 3 255 0 6\n")
    (room / "office_1.txt").write_text("1.5 2 3 4 5 6\n-1 2e2 3 255 0 6\n" * 2)
    return data_set(folder)


def scannet_rooms(folder: Path) -> Target:
    # One with the mesh of labels, and one with objects and segments.
    scannet_scene(folder / "scans", codes=np.array([1, 2, 3], "u2"))
    (mesh,) = (folder / "scans").rglob("*_vh_clean_2.ply")
    other = folder / "scans" / "scene0001_00" / "scene0001_00_vh_clean_2.ply"
    other.parent.mkdir(parents=True)
    shutil.copyfile(mesh, other)
    segments = {"segIndices": [4, 4, 5]}
    other.with_name("scene0001_00_vh_clean_2.0.010000.segs.json").write_text(json.dumps(segments))
    objects = {"segGroups": [{"label": "chair", "segments": [4]}, {"label": "wall", "segments": [5]}]}
    other.with_name("scene0001_00.aggregation.json").write_text(json.dumps(objects))
    table = "id\traw_category\tnyu40id\n2\tchair\t5\n1\twall\t1\n"
    (folder / "scans" / "scannetv2-labels.combined.tsv").write_text(table)
    return data_set(folder)


def kitti(folder: Path) -> Target:
    sweep = folder / "sequences" / "00" / "velodyne" / "000000.bin"
    labels = folder / "sequences" / "00" / "labels" / "000000.label"
    sweep.parent.mkdir(parents=True)
    labels.parent.mkdir(parents=True)
    sweep.write_bytes(np.random.default_rng(0).random((120, 4), np.float32).tobytes())
    labels.write_bytes(np.arange(120, dtype="<u4").tobytes())
    return data_set(folder)


def ept(folder: Path) -> Target:
    (folder / "ept-data").mkdir()
    (folder / "ept-data" / "0-0-0-0.laz").write_bytes(CLOUDS["cloud-1.4.laz"])
    about = {"points": 40, "dataType": "laszip", "srs": {"wkt": 'LOCAL_CS["ours",UNIT["metre",1]]'}, "version": "1.0.0"}
    (folder / "ept.json").write_text(json.dumps(about))
    return data_set(folder)


def file_of(path: Path) -> Target:
    """A file that a test has made."""
    whole = path.read_bytes()

    def read(data: bytes) -> None:
        path.write_bytes(data)
        kind, sources = readers.find(path)
        for source in sources:
            readers.read(kind, source)

    return read, [whole]


def stores(folder: Path) -> dict[str, Path]:
    """A store of each kind."""
    scenes = office(folder)
    made = {"scenes": scenes, "predictions": fake_predictions(scenes, folder / "preds.zarr")}
    calls = {
        "labels": ("label", "--oracle", scenes, "-o", folder / "labels.zarr"),
        "superpoints": ("superpoints", scenes),
    }
    scores = run_hpal("score", made["predictions"], "-q").out
    chosen = run_hpal("select", "-q", "--no-fds", "--budget", 20, stdin=scores).out
    for call in calls.values():
        done = run_hpal(*call, "-q", stdin=chosen)
        assert done.rc == 0, done.err
    return {**made, "labels": folder / "labels.zarr", "superpoints": superpoints_path(scenes)}


def store(folder: Path, kind: str) -> Target:
    path = stores(folder)[kind]
    return one_of(path, lambda: describe(path, check=True))


def plain(folder: Path) -> Target:
    """Arrays without Zarr: what is read has the shape that was asked for."""
    group = zarr.open_group(str(folder / "plain"), mode="w", zarr_format=3)
    for name, values in {"f": np.arange(12.0).reshape(4, 3), "h": np.ones((5, 2, 2), "f2"), "n": np.arange(7)}.items():
        envelope.write_array(group, name, values)
    arrays = [one.parent for one in sorted((folder / "plain").glob("*/zarr.json"))]

    def read() -> None:
        for one in arrays:
            with contextlib.suppress(NotPlain):
                array = PlainArray(one)
                assert array.block(0, array.shape[0]).shape == array.shape
                assert array.block(1, 3).shape[1:] == array.shape[1:]
            with contextlib.suppress(NotPlain):
                group_attributes(one)

    return one_of(folder / "plain", read)


def annotated(folder: Path, name: str) -> Target:
    """A cloud that a viewer has saved, with answers."""
    made = SceneStore(office(folder))
    path = folder / name
    read_answers = read_ply if name.endswith(".ply") else read_las

    def read(data: bytes) -> None:
        path.write_bytes(data)
        read_answers(path, made.classes, made.table)

    return read, [CLOUDS[name]]


def unfinished(folder: Path) -> Target:
    """The record of a `prep` that was killed."""
    info = SceneStore(office(folder)).table[0]
    record = folder / "unfinished"
    record.mkdir()
    made = Unfinished(record, {"grid": GRID}, resume=False)
    made.add("a", "signature", DoneScene(info, 1.0, ("a note",)))
    return one_of(record, lambda: Unfinished(record, {"grid": GRID}, resume=True).find("a", "signature"))


def model(folder: Path, *how: str) -> Target:
    """A checkpoint, as bytes: nearly all damage is found by the archive's checksums."""
    path = folder / "model.pt"
    done = run_hpal("train", office(folder), "--labels", "all", *how, "-o", path, "-q")
    assert done.rc == 0, done.err

    def read(data: bytes) -> None:
        path.write_bytes(data)
        describe(path, check=True)

    return read, [path.read_bytes()]


def members(folder: Path, *how: str) -> Target:
    """A checkpoint with right checksums, one member of which is damaged: the first byte says which."""
    read, (whole,) = model(folder, *how)
    with zipfile.ZipFile(folder / "model.pt") as archive:
        contents = {name: archive.read(name) for name in archive.namelist()[:256]}
    names = list(contents)

    def read_damaged(data: bytes) -> None:
        if data:
            read(with_member(whole, names[data[0] % len(names)], data[1:]))

    # The longest are weights.
    seeds = [bytes([n]) + contents[name] for n, name in enumerate(names) if len(contents[name]) < 1 << 14]
    return read_damaged, seeds


def e57(folder: Path) -> Target:
    """Pages with right checksums."""
    read, (whole,) = file_of(write_e57(folder / "scan.e57", scan(**COLOURED)))
    return lambda data: read(checked_again(data)), [whole]


def pointcept(folder: Path) -> Target:
    rng = np.random.default_rng(0)
    (folder / "room").mkdir()
    for name, values in {"coord": rng.random((9, 3)), "color": np.ones((9, 3), "u1"), "segment": np.arange(9)}.items():
        np.save(folder / "room" / f"{name}.npy", values)
    return data_set(folder)


def classes(folder: Path, name: str, whole: str) -> Target:
    path = folder / name

    def read(data: bytes) -> None:
        path.write_bytes(data)
        ClassTable.from_file(path)

    return read, [whole.encode()]


def answers(folder: Path) -> Target:
    made = SceneStore(office(folder))
    path, name = folder / "answers.csv", made.table[0].name
    lines = ["scene,index,x,y,z,rank,score,predicted,second,confidence,label"]
    lines += [f"{name},{n},0,0,0,{n},0.5,wall,floor,0.5,{'wall' if n % 2 else 'unsure'}" for n in range(6)]

    def read(data: bytes) -> None:
        path.write_bytes(data)
        read_table(path, made.classes, made.table)

    return read, ["\n".join(lines).encode(), "\n".join(lines).replace(",", ";").encode()]


def labelcloud(folder: Path) -> Target:
    made = SceneStore(office(folder))
    labels = folder / "labels"
    (labels / "segmentation").mkdir(parents=True)
    scene = made.table[0]
    (labels / "segmentation" / f"{Path(scene.name).name}.bin").write_bytes(bytes(scene.original))

    def read(data: bytes) -> None:
        (labels / "_classes.json").write_bytes(data)
        read_folder(labels, made.classes, made.table)

    named = [{"name": one.name, "id": one.id, "color": "#ffffff"} for one in made.classes]
    return read, [json.dumps({"classes": named}).encode()]


JSON = json.dumps(
    [{"id": n, "name": name, "color": [n, n, n], "code": n + 5} for n, name in enumerate(("wall", "floor"))]
)
TOML = '[[classes]]\nid = 0\nname = "wall"\ncolor = [1, 2, 3]\n[[classes]]\nid = 1\nname = "floor"\n'

STORES = ("scenes", "predictions", "labels", "superpoints")
FOREST = ("--model", "forest")
NETWORK = ("--steps", "1", "--max-voxels", "300", "--supervised-only")

TARGETS: dict[str, Callable[[Path], Target]] = {
    **{name: lambda folder, name=name: reader(name, folder) for name in CLOUDS},
    "copc.laz": lambda folder: file_of(a_copc(folder / "copc.laz")),
    "scan.e57": lambda folder: file_of(write_e57(folder / "scan.e57", scan(**COLOURED))),
    "checked scan.e57": e57,
    "pointcept": pointcept,
    "s3dis": s3dis,
    "scannet": scannet_rooms,
    "kitti": kitti,
    "nuscenes": lambda folder: data_set(a_data_set(folder, [17, 31, 24]).parents[2]),
    "ept": ept,
    "stream": stream,
    **{kind: lambda folder, kind=kind: store(folder, kind) for kind in STORES},
    "plain": plain,
    "unfinished": unfinished,
    **{
        f"answers in {name}": lambda folder, name=name: annotated(folder, name)
        for name in ("little.ply", "cloud-1.2.las")
    },
    "forest": lambda folder: model(folder, *FOREST),
    "network": lambda folder: model(folder, *NETWORK),
    "members of a forest": lambda folder: members(folder, *FOREST),
    "members of a network": lambda folder: members(folder, *NETWORK),
    "classes.json": lambda folder: classes(folder, "classes.json", JSON),
    "classes.toml": lambda folder: classes(folder, "classes.toml", TOML),
    "answers": answers,
    "labelcloud": labelcloud,
}


def main() -> None:
    if len(sys.argv) < 2 or sys.argv[1] not in TARGETS:
        print("\n".join(TARGETS))
        return
    folder = Path(tempfile.mkdtemp(prefix="hpal-fuzz-"))
    work, corpus = folder / "work", folder / "corpus"
    work.mkdir()
    corpus.mkdir()
    read, seeds = TARGETS[sys.argv[1]](work)
    for n, seed in enumerate(seeds):
        (corpus / str(n)).write_bytes(seed)
        read(seed)

    def once(data: bytes) -> None:
        with contextlib.suppress(HpalError):
            read(data)

    limits = ["-timeout=20", "-rss_limit_mb=3000", f"-artifact_prefix={sys.argv[1]}-"]
    atheris.Setup([sys.argv[0], *limits, *sys.argv[2:], str(corpus)], once)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
