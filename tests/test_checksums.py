"""One flipped bit in any chunk of any store is noticed by `info --check`, and by the command that reads the chunk."""

from __future__ import annotations

import io
import json
import os
import random
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import zarr
import zarr.codecs
from conftest import fake_predictions, run_hpal

from hpal_cli.demo.office import make_office
from hpal_cli.errors import HpalError
from hpal_cli.evaluation.evaluate import evaluate
from hpal_cli.export.files import export
from hpal_cli.history import Entry
from hpal_cli.info import describe
from hpal_cli.labels.store import ANSWER, QUERY, LabelStore
from hpal_cli.predictions.store import PredictionStore
from hpal_cli.scenes.prepare import prepare
from hpal_cli.scenes.store import SceneStore
from hpal_cli.score.scorer import score
from hpal_cli.store import envelope
from hpal_cli.superpoints.store import superpoints_path

FLIPS = int(os.environ.get("HPAL_FUZZ", "25"))

BY = Entry("test", "0", ())


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small ones of each kind, whose larger arrays have several chunks."""
    folder = tmp_path_factory.mktemp("stores")
    make_office(folder / "office", rooms=2, seed=0, points=700)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(envelope, "CHUNK_ROWS", 1 << 9)
        prepare(folder / "office", folder / "scenes.zarr", grid=0.15, val=["Area_2/*"])
        fake_predictions(folder / "scenes.zarr", folder / "predictions.zarr")
    made = SceneStore(folder / "scenes.zarr")
    labels = LabelStore.create(folder / "labels.zarr", made.classes, made.table)
    rows = np.zeros(3, ANSWER)
    rows["index"] = 3, 4, 5
    labels.ask(np.array([(0, 1), (0, 2)], QUERY), "table", BY)
    labels.append(rows, "x", BY)
    assert run_hpal("superpoints", folder / "scenes.zarr", "-q").rc == 0
    return folder


def read_scenes(folder: Path, store: Path) -> None:
    """`hpal export`, of the grid and of the original points."""
    export(store, folder / "out", "csv", overwrite=True)
    export(store, folder / "out", "csv", original=store, overwrite=True)


def read_predictions(folder: Path, store: Path) -> None:
    """`hpal score` and what FDS reads, `hpal eval`, `hpal export --color rgb`."""
    opened = PredictionStore(store)
    score(store, lambda header: io.BytesIO(), split="all")
    for scene in opened.table:
        opened.features(scene).check()
    evaluate(opened, SceneStore(folder / "scenes.zarr"))
    export(store, folder / "out", "csv", color="rgb", overwrite=True)


def read_labels(folder: Path, store: Path) -> None:
    """`hpal label`, `hpal train`, `hpal eval --labels`."""
    LabelStore(store).latest()


READ = {"scenes": read_scenes, "predictions": read_predictions, "labels": read_labels}


def chunks(store: Path) -> list[Path]:
    return sorted(path for path in store.rglob("*") if path.is_file() and path.name != "zarr.json")


@pytest.mark.parametrize("kind", READ)
def test_every_flipped_bit_is_noticed(stores: Path, tmp_path: Path, kind: str) -> None:
    copy = Path(shutil.copytree(stores / f"{kind}.zarr", tmp_path / f"{kind}.zarr"))
    shutil.copytree(stores / "scenes.zarr", tmp_path / "scenes.zarr", dirs_exist_ok=True)
    rng = random.Random(0)
    found = chunks(copy)
    assert len(found) >= {"scenes": 25, "predictions": 15, "labels": 6}[kind]
    ways: list[Callable[[], object]] = [lambda: describe(copy, check=True), lambda: READ[kind](tmp_path, copy)]
    for way in ways:
        way()
    for chunk in found:
        whole = chunk.read_bytes()
        data = bytearray(whole)
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        chunk.write_bytes(data)
        name = chunk.relative_to(copy).as_posix()
        for way in ways:
            with pytest.raises(HpalError) as caught:
                way()
            text = str(caught.value)
            # The store, the scene, the array and the chunk.
            assert text.startswith(f"{copy}: its array {name} is damaged ("), text
            assert "\n" not in text
        chunk.write_bytes(whole)
    for way in ways:
        way()


def test_every_bit_of_a_chunk(tmp_path: Path) -> None:
    values = np.arange(40, dtype=np.float32).reshape(20, 2)
    with envelope.create(tmp_path / "s.zarr", "labels", {}, overwrite=False) as (root, _):
        envelope.write_array(root, "a", values)
    root, _ = envelope.open_store(tmp_path / "s.zarr", "labels")
    np.testing.assert_array_equal(envelope.read_array(root, "a", tmp_path), values)
    (chunk,) = chunks(tmp_path / "s.zarr")
    whole = chunk.read_bytes()
    for bit in range(8 * len(whole)):
        data = bytearray(whole)
        data[bit // 8] ^= 1 << bit % 8
        chunk.write_bytes(data)
        with pytest.raises(HpalError, match=r"its array a/c/0/0 is damaged \(.*checksum"):
            envelope.read_array(root, "a", tmp_path)


def test_through_the_commands(stores: Path, tmp_path: Path) -> None:
    """The error is one line with the store and the scene, and nothing is written."""
    copy = Path(shutil.copytree(stores / "predictions.zarr", tmp_path / "p.zarr"))
    name = PredictionStore(copy).table[0].name
    chunk = copy / "scenes" / name / "prob" / "c" / "1" / "0"
    data = bytearray(chunk.read_bytes())
    data[-20] ^= 4
    chunk.write_bytes(data)
    for args in (("score", "p.zarr", "-q", "-o", "s.ply"), ("info", "--check", "p.zarr")):
        done = run_hpal(*args, cwd=tmp_path)
        assert (done.rc, done.out) == (1, b"")
        (line,) = done.err.splitlines()
        assert line.startswith(f"hpal {args[0]}: p.zarr: its array scenes/{name}/prob/c/1/0 is damaged")
    assert [path.name for path in tmp_path.iterdir()] == ["p.zarr"]


def test_an_array_that_no_table_knows(stores: Path, tmp_path: Path) -> None:
    """`info --check` reads what other programs added, too."""
    copy = Path(shutil.copytree(stores / "predictions.zarr", tmp_path / "p.zarr"))
    name = PredictionStore(copy).table[0].name
    group = zarr.open_group(str(copy), mode="a")[f"scenes/{name}"]
    assert isinstance(group, zarr.Group)
    envelope.write_array(group, "ours", np.arange(9))
    describe(copy, check=True)
    (chunk,) = chunks(copy / "scenes" / name / "ours")
    data = bytearray(chunk.read_bytes())
    data[3] ^= 1
    chunk.write_bytes(data)
    describe(copy)
    with pytest.raises(HpalError, match="ours/c/0 is damaged"):
        describe(copy, check=True)


@pytest.mark.parametrize("kind", READ)
def test_stores_without_checksums_are_read(
    stores: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Earlier versions wrote no checksums."""

    def without(group: zarr.Group, name: str, shape: tuple[int, ...], dtype: np.dtype) -> zarr.Array:
        codec = zarr.codecs.BloscCodec(typesize=dtype.itemsize, cname="zstd", clevel=1, shuffle="shuffle")
        chunks = (max(1, min(1 << 9, shape[0])), *shape[1:])
        kept = {"write_empty_chunks": True}
        return group.create_array(name, shape=shape, dtype=dtype, chunks=chunks, compressors=codec, config=kept)

    monkeypatch.setattr(envelope, "create_array", without)
    # Small arrays are written with a checksum by `write_group`, unless there is no library for it.
    monkeypatch.setattr(envelope, "crc32c", None)
    prepare(stores / "office", tmp_path / "scenes.zarr", grid=0.15, val=["Area_2/*"])
    made = SceneStore(tmp_path / "scenes.zarr")
    fake_predictions(tmp_path / "scenes.zarr", tmp_path / "predictions.zarr")
    labels = LabelStore.create(tmp_path / "labels.zarr", made.classes, made.table)
    rows = np.zeros(3, ANSWER)
    rows["index"] = 3, 4, 5
    labels.append(rows, "x", BY)
    store = tmp_path / f"{kind}.zarr"
    for path in store.rglob("zarr.json"):
        assert "crc32c" not in path.read_text()
    describe(store, check=True)
    READ[kind](tmp_path, store)
    # The next answers have checksums beside those that have none.
    if kind == "labels":
        monkeypatch.undo()
        LabelStore(store).append(rows, "x", BY)
        assert len(LabelStore(store).batches()) == 2


def test_chunks_of_other_shapes(tmp_path: Path) -> None:
    """Other programs write shards of several chunks, and chunks without all columns. The error names the array."""
    values = np.arange(4000, dtype=np.float64).reshape(1000, 4)
    with envelope.create(tmp_path / "s.zarr", "labels", {}, overwrite=False) as (root, _):
        for name, how in (("shards", {"chunks": (50, 4), "shards": (500, 4)}), ("columns", {"chunks": (500, 2)})):
            # Zarr 3.1.2 loses chunks of shards if `create_array` is given the data.
            codecs = [zarr.codecs.Crc32cCodec()]
            made = root.create_array(name, shape=values.shape, dtype=values.dtype, compressors=codecs, **how)
            made[...] = values
    root, _ = envelope.open_store(tmp_path / "s.zarr", "labels")
    for name, said in (("shards", "shards/c/1/0"), ("columns", "columns")):
        np.testing.assert_array_equal(envelope.read_array(root, name, tmp_path), values)
        chunk = tmp_path / "s.zarr" / name / "c" / "1" / "0"
        data = bytearray(chunk.read_bytes())
        data[100] ^= 1
        chunk.write_bytes(data)
        with pytest.raises(HpalError, match=rf"its array {said} is damaged \("):
            envelope.read_array(root, name, tmp_path)
        with pytest.raises(HpalError, match=rf"its array {said} is damaged \("):
            envelope.RowReader(root, name, tmp_path)(np.array([503]))
        assert envelope.RowReader(root, name, tmp_path)(np.array([7])).tolist() == [values[7].tolist()]


# ---------------------------------------------------------------- zarr.json


def content(store: Path) -> dict[str, object]:
    """What a reader finds: the attributes of each group, and the numbers of each array."""
    root = zarr.open_group(str(store), mode="r", use_consolidated=False)
    found: dict[str, object] = {"": root.attrs.asdict()}
    for name, node in root.members(max_depth=None):
        found[name] = node.attrs.asdict() if isinstance(node, zarr.Group) else node[...].tobytes()
    return found


def differs(store: Path, whole: dict[str, object]) -> bool:
    """Whether something that was there is gone or another. An attribute more changes nothing, as readers ignore it."""
    now = content(store)
    for name, before in whole.items():
        if isinstance(before, dict):
            after = now.get(name)
            kept = {key: value for key, value in before.items() if key != envelope.CHECKSUM}
            if not isinstance(after, dict) or any(key not in after or after[key] != kept[key] for key in kept):
                return True
        elif now.get(name) != before:
            return True
    return False


@pytest.mark.parametrize("kind", [*READ, "superpoints"])
def test_a_flipped_bit_of_metadata_is_noticed_or_changes_nothing(stores: Path, tmp_path: Path, kind: str) -> None:
    store = superpoints_path(stores / "scenes.zarr") if kind == "superpoints" else stores / f"{kind}.zarr"
    copy = Path(shutil.copytree(store, tmp_path / store.name))
    whole = content(copy)
    rng = random.Random(0)
    files = sorted(copy.rglob("zarr.json"))
    noticed = 0
    for _ in range(FLIPS):
        file = rng.choice(files)
        data = bytearray(before := file.read_bytes())
        at, bit = rng.randrange(len(data)), rng.randrange(8)
        data[at] ^= 1 << bit
        file.write_bytes(data)
        try:
            describe(copy, check=True)
        except HpalError:
            noticed += 1
        else:
            where = file.relative_to(copy)
            assert not differs(copy, whole), f"bit {bit} of byte {at} of {where}: {data[max(0, at - 40) : at + 20]!r}"
        file.write_bytes(before)
    print(f"{kind}: {noticed} of {FLIPS} flipped bits noticed; the others change nothing")
    assert noticed > FLIPS // 2


@pytest.mark.parametrize("kind", [*READ, "superpoints"])
def test_attributes_that_were_altered(stores: Path, tmp_path: Path, kind: str) -> None:
    """`info --check` names the group; whoever means it removes the checksum. Other programs need not write any."""
    store = superpoints_path(stores / "scenes.zarr") if kind == "superpoints" else stores / f"{kind}.zarr"
    copy = Path(shutil.copytree(store, tmp_path / store.name))
    for file in sorted(copy.rglob("zarr.json")):
        metadata = json.loads(before := file.read_text())
        if metadata["node_type"] != "group" or not metadata["attributes"]:
            continue
        metadata["attributes"]["ours"] = 1
        file.write_text(json.dumps(metadata))
        name = file.relative_to(copy).as_posix()
        with pytest.raises(HpalError, match=f"the attributes in its {name} were altered .*remove hpal_crc32"):
            describe(copy, check=True)
        describe(copy)
        del metadata["attributes"][envelope.CHECKSUM]
        file.write_text(json.dumps(metadata))
        describe(copy, check=True)
        file.write_text(before)


def test_an_optional_array_does_not_vanish(stores: Path, tmp_path: Path) -> None:
    """Zarr passes over an array whose metadata lacks a member, when it lists a group."""
    copy = Path(shutil.copytree(stores / "scenes.zarr", tmp_path / "scenes.zarr"))
    name = f"scenes/{SceneStore(copy).table[0].name}/label"
    file = copy / name / "zarr.json"
    file.write_text(file.read_text().replace("fill_value", "fill_valte"))
    with pytest.raises(HpalError, match=f"its {name} is missing or damaged"):
        describe(copy, check=True)


def test_the_checksum_of_the_specification(tmp_path: Path) -> None:
    """The example of docs/formats.md has the checksum that it shows."""
    group = zarr.open_group(str(tmp_path), mode="w", zarr_format=3)
    envelope.write_attributes(group, {"offset": [1.0, -2.5], "a": {"ä": True}})
    text = '{"a":{"ä":true},"offset":["1.0","-2.5"]}'
    specification = (Path(__file__).parents[1] / "docs" / "formats.md").read_text(encoding="utf-8")
    assert f"`{text}`, and its checksum `{group.attrs[envelope.CHECKSUM]}`" in specification
    assert group.attrs[envelope.CHECKSUM] == f"{zlib.crc32(text.encode()):08x}"
    # A second call has a checksum of all.
    envelope.write_attributes(group, {"b": [1, None, 1e-07, "\n"]})
    text = '{"a":{"ä":true},"b":["1",null,"1e-07","\\n"],"offset":["1.0","-2.5"]}'
    assert group.attrs[envelope.CHECKSUM] == f"{zlib.crc32(text.encode()):08x}"
