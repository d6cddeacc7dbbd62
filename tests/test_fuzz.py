"""Whatever a file holds, it is read, or refused in one line, and takes little memory.

Hypothesis damages files that are whole: bits, bytes cut out, put in or doubled, ends cut off, numbers of a header made
extreme. What it finds it makes small, and remembers. `HPAL_FUZZ=10000` draws so many cases of each kind.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import struct
import time
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import laspy
import numpy as np
import plyfile
import pytest
from conftest import run_hpal
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_readers_formats import COLOURED, scan, write_e57
from test_readers_pcd import squeezed

from hpal_cli import readers
from hpal_cli.classes import ClassTable
from hpal_cli.errors import HpalError
from hpal_cli.history import Entry
from hpal_cli.info import describe
from hpal_cli.label.labelcloud import read_folder
from hpal_cli.label.spreadsheet import read_table
from hpal_cli.labels.store import ANSWER, QUERY, LabelStore
from hpal_cli.scenes.store import SceneStore
from hpal_cli.store.plain import crc32c
from hpal_cli.stream.points import PointReader
from hpal_cli.superpoints.store import superpoints_path

CASES = int(os.environ.get("HPAL_FUZZ", "40"))
MEMORY = 64 << 20
"""Bytes that a damaged file of a few kilobytes may take."""
SECONDS = 20

SETTINGS = settings(
    max_examples=CASES,
    deadline=None,
    # The same cases in every run; more of them come with HPAL_FUZZ.
    derandomize="HPAL_FUZZ" not in os.environ,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

EXTREME = (b"0", b"-1", b"1e400", b"nan", b"2147483648", b"9223372036854775807", b"99999999999999999999", b"\xff" * 4)

Edit = tuple[str, int, bytes]
EDITS = st.lists(
    st.tuples(
        st.sampled_from(["flip", "flip", "cut", "put", "double", "end", "number"]),
        st.integers(0, 1 << 16),
        st.one_of(st.binary(min_size=1, max_size=8), st.sampled_from(EXTREME)),
    ),
    min_size=1,
    max_size=4,
)


def damaged(data: bytes, edits: list[Edit]) -> bytes:
    changed = bytearray(data)
    for kind, where, with_ in edits:
        at = where % max(1, len(changed))
        if kind == "flip" and changed:
            changed[at] ^= 1 << (with_[0] % 8)
        elif kind == "cut":
            del changed[at : at + with_[0] + 1]
        elif kind == "put":
            changed[at:at] = with_
        elif kind == "double":
            changed[at:at] = changed[at : at + 64]
        elif kind == "end":
            del changed[at:]
        elif kind == "number":
            # The next number of a text becomes another one.
            digits = next((n for n in range(at, len(changed)) if 48 <= changed[n] < 58), len(changed))
            changed[digits : digits + 1] = with_
    return bytes(changed)


def survives(work: Callable[[], object], more: int = 0) -> None:
    """It ends well or as an error of hpal's, within its memory and its time, which is the processor's: on a computer
    that is busy, anything may take long."""
    began = time.process_time()
    tracemalloc.start()
    try:
        work()
        said = ""
    except HpalError as error:
        said = str(error)
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert "\n" not in said
    assert peak < MEMORY + more, f"{peak:,} bytes"
    assert time.process_time() - began < SECONDS


# ---------------------------------------------------------------- files to read


def clouds() -> dict[str, bytes]:
    """A small whole file of each kind, by name."""
    rng = np.random.default_rng(0)
    xyz = rng.random((40, 3))
    made: dict[str, bytes] = {}
    rows = np.zeros(40, [("x", "f4"), ("y", "f4"), ("z", "f4"), ("red", "u1"), ("label", "i4")])
    for column, name in enumerate("xyz"):
        rows[name] = xyz[:, column]
    for name, text, order in (("ascii", True, "="), ("little", False, "<"), ("big", False, ">")):
        file = io.BytesIO()
        plyfile.PlyData([plyfile.PlyElement.describe(rows, "vertex")], text=text, byte_order=order).write(file)
        made[f"{name}.ply"] = file.getvalue()
    for version, point_format, compress in (("1.2", 3, False), ("1.4", 7, True)):
        las = laspy.LasData(laspy.LasHeader(version=version, point_format=point_format))
        las.x, las.y, las.z = xyz.T
        file = io.BytesIO()
        las.write(file, do_compress=compress)
        made[f"cloud-{version}.{'laz' if compress else 'las'}"] = file.getvalue()
    file = io.BytesIO()
    np.savez_compressed(file, xyz=xyz, label=np.arange(40) % 3)
    made["cloud.npz"] = file.getvalue()
    file = io.BytesIO()
    np.save(file, xyz)
    made["cloud.npy"] = file.getvalue()
    lines = [" ".join(f"{value:.3f}" for value in row) + " 7 8 9" for row in xyz]
    made["cloud.xyz"] = "\n".join(lines).encode()
    made["cloud.csv"] = "\n".join(["x,y,z,label", *(f"{x},{y},{z},1" for x, y, z in xyz)]).encode()
    head = (
        "VERSION .7\nFIELDS x y z\nSIZE 4 4 4\nTYPE F F F\nCOUNT 1 1 1\nWIDTH 40\nHEIGHT 1\nVIEWPOINT 0 0 0 1 0 0 0\n"
    )
    made["binary.pcd"] = f"{head}POINTS 40\nDATA binary\n".encode() + xyz.astype("f4").tobytes()
    packed = squeezed(plain := xyz.T.astype("f4").tobytes())
    sizes = struct.pack("<II", len(packed), len(plain))
    made["squeezed.pcd"] = f"{head}POINTS 40\nDATA binary_compressed\n".encode() + sizes + packed
    made["ascii.pcd"] = "\n".join([f"{head}POINTS 40\nDATA ascii", *(line[:17] for line in lines)]).encode()
    made["cloud.pts"] = "\n".join(["20", *(f"{line[:17]} -9 7 8 9" for line in lines[:20])] * 2).encode()
    scanner = ["40", "1", "0 0 0", "1 0 0", "0 1 0", "0 0 1", "1 0 0 0", "0 1 0 0", "0 0 1 0", "0 0 0 1"]
    made["scan.ptx"] = "\n".join([*scanner, *(f"{line[:17]} 0.5" for line in lines)]).encode()
    return made


CLOUDS = clouds()


def read(path: Path) -> None:
    reader, sources = readers.find(path)
    for source in sources:
        readers.read(reader, source)


@pytest.mark.parametrize("name", CLOUDS)
def test_readers(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(CLOUDS[name])
    read(path)

    @SETTINGS
    @given(EDITS)
    def fuzz(edits: list[Edit]) -> None:
        path.write_bytes(damaged(CLOUDS[name], edits))
        # Text is read into a block of 2^20 lines, of which the system gives only what is filled.
        survives(lambda: read(path), 1 << 27 if name.endswith(("pts", "xyz", "csv")) else 0)

    fuzz()


def checked_again(data: bytes) -> bytes:
    """An E57 file whose pages of 1,020 bytes have the checksums of what is in them. Otherwise nearly all damage would
    be found at the first page, and nothing behind it would be tried."""
    pages = (data[at : at + 1020] for at in range(0, len(data), 1024))
    return b"".join(page + crc32c(page).to_bytes(4, "big") for page in pages if len(page) == 1020)


@pytest.mark.parametrize("checked", [True, False])
def test_e57(tmp_path: Path, checked: bool) -> None:
    if crc32c is None:
        pytest.skip("google-crc32c, which newer versions of Zarr bring, is not here")
    path = write_e57(tmp_path / "scan.e57", scan(**COLOURED))
    whole = path.read_bytes()
    assert checked_again(whole) == whole

    @SETTINGS
    @given(EDITS)
    def fuzz(edits: list[Edit]) -> None:
        bad = damaged(whole, edits)
        path.write_bytes(checked_again(bad) if checked else bad)
        survives(lambda: read(path))

    fuzz()


# ---------------------------------------------------------------- the stream


@pytest.fixture(scope="module")
def stream(predictions: Path) -> bytes:
    done = run_hpal("score", predictions, "-q", "--scenes", "Area_1/office_1")
    assert done.rc == 0
    return done.out[:4000]


def test_the_stream(stream: bytes) -> None:
    start = stream.index(b"end_header")

    @SETTINGS
    @given(EDITS, st.booleans())
    def fuzz(edits: list[Edit], in_header: bool) -> None:
        # Rows have no form that could be broken; most of what can go wrong is in the header.
        bad = damaged(stream[:start], edits) + stream[start:] if in_header else damaged(stream, edits)
        survives(lambda: PointReader(io.BytesIO(bad), "s").read())

    fuzz()


# ---------------------------------------------------------------- stores and checkpoints


@pytest.fixture(scope="module")
def labels(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = SceneStore(scenes)
    path = tmp_path_factory.mktemp("labels") / "labels.zarr"
    store, by = LabelStore.create(path, made.classes, made.table), Entry("test", "0", ())
    rows = np.zeros(3, ANSWER)
    rows["index"] = 3, 4, 5
    store.ask(np.array([(0, 1), (0, 2)], QUERY), "table", by)
    store.append(rows, "x", by)
    return path


@pytest.fixture(scope="module")
def superpoints(scenes: Path) -> Path:
    assert run_hpal("superpoints", scenes, "-q").rc == 0
    return superpoints_path(scenes)


def test_stores(scenes: Path, predictions: Path, labels: Path, superpoints: Path, tmp_path: Path) -> None:
    """One file of a store is damaged: `info --check` reads all of it. It may only pass as whole where nothing changed
    that counts, which tests/test_checksums.py looks after."""
    copies = [
        Path(shutil.copytree(store, tmp_path / store.name)) for store in (scenes, predictions, labels, superpoints)
    ]
    files = [path for copy in copies for path in sorted(copy.rglob("*")) if path.is_file()]

    @settings(SETTINGS, max_examples=3 * CASES)
    @given(st.integers(0, len(files) - 1), EDITS)
    def fuzz(which: int, edits: list[Edit]) -> None:
        file = files[which]
        (store,) = [copy for copy in copies if file.is_relative_to(copy)]
        whole = file.read_bytes()
        file.write_bytes(damaged(whole, edits))
        try:
            survives(lambda: describe(store, check=True))
        finally:
            file.write_bytes(whole)

    fuzz()


def with_member(archive: bytes, name: str, content: bytes) -> bytes:
    """The archive with another content of one member, and right checksums: what a person who means harm can write."""
    changed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as old, zipfile.ZipFile(changed, "w") as new:
        for member in old.infolist():
            new.writestr(member, content if member.filename == name else old.read(member))
    return changed.getvalue()


@pytest.mark.parametrize("model", ["forest", "network"])
def test_models(scenes: Path, tmp_path: Path, model: str) -> None:
    how = {"forest": ["--model", "forest"], "network": ["--steps", "1", "--max-voxels", "300", "--supervised-only"]}
    path = tmp_path / "model.pt"
    done = run_hpal("train", scenes, "--labels", "all", *how[model], "-o", path, "-q")
    assert done.rc == 0, done.err
    whole = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        # The weights are one member each; the others say how to read them.
        told = [name for name in archive.namelist() if "/data/" not in name]
        member = {name: archive.read(name) for name in told}
    path.write_bytes(with_member(whole, told[0], member[told[0]]))
    describe(path, check=True)

    # A third of the cases in the last kilobytes, where an archive says what it holds, and a third in a member.
    @settings(SETTINGS, max_examples=max(10, CASES // 2))
    @given(EDITS, st.sampled_from(["anywhere", "end", "member"]), st.integers(0, len(told) - 1))
    def fuzz(edits: list[Edit], where: str, which: int) -> None:
        name = told[which]
        path.write_bytes(
            {
                "anywhere": lambda: damaged(whole, edits),
                "end": lambda: whole[:-4096] + damaged(whole[-4096:], edits),
                "member": lambda: with_member(whole, name, damaged(member[name], edits)),
            }[where]()
        )
        survives(lambda: describe(path, check=True), 2 * len(whole))

    fuzz()


# ---------------------------------------------------------------- tables


def test_class_tables(tmp_path: Path) -> None:
    rows = [{"id": n, "name": name, "color": [n, n, n], "code": n + 5} for n, name in enumerate(("wall", "floor"))]
    text = {
        "classes.json": json.dumps(rows),
        "classes.toml": '[[classes]]\nid = 0\nname = "wall"\ncolor = [1, 2, 3]\n[[classes]]\nid = 1\nname = "floor"\n',
    }

    @SETTINGS
    @given(st.sampled_from(sorted(text)), EDITS)
    def fuzz(name: str, edits: list[Edit]) -> None:
        path = tmp_path / name
        path.write_bytes(damaged(text[name].encode(), edits))
        survives(lambda: ClassTable.from_file(path))

    fuzz()


def test_answered_tables(scenes: Path, tmp_path: Path) -> None:
    store = SceneStore(scenes)
    name = store.table[0].name
    lines = ["scene,index,x,y,z,rank,score,predicted,second,confidence,label"]
    lines += [f"{name},{n},0,0,0,{n},0.5,wall,floor,0.5,{'wall' if n % 2 else 'unsure'}" for n in range(6)]
    whole = "\n".join(lines).encode()
    path = tmp_path / "answers.csv"

    @SETTINGS
    @given(EDITS)
    def fuzz(edits: list[Edit]) -> None:
        path.write_bytes(damaged(whole, edits))
        survives(lambda: read_table(path, store.classes, store.table))

    fuzz()


def test_a_project_of_labelcloud(scenes: Path, tmp_path: Path) -> None:
    store = SceneStore(scenes)
    folder = tmp_path / "labels"
    (folder / "segmentation").mkdir(parents=True)
    scene = store.table[0]
    (folder / "segmentation" / f"{Path(scene.name).name}.bin").write_bytes(bytes(scene.original))
    classes = json.dumps({"classes": [{"name": c.name, "id": c.id, "color": "#ffffff"} for c in store.classes]})
    path = folder / "_classes.json"
    path.write_text(classes)
    assert len(read_folder(folder, store.classes, store.table)) == 1

    @SETTINGS
    @given(EDITS)
    def fuzz(edits: list[Edit]) -> None:
        path.write_bytes(damaged(classes.encode(), edits))
        survives(lambda: read_folder(folder, store.classes, store.table))

    fuzz()
