"""Arrays that are read without Zarr: the same numbers, or none."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import zarr
from conftest import synthetic_predictions
from synthetic_scenes import rooms, synthetic_scenes

from hpal_cli.errors import HpalError
from hpal_cli.predictions.store import PredictionStore
from hpal_cli.scenes.store import SceneStore
from hpal_cli.store import envelope
from hpal_cli.store.plain import NotPlain, PlainArray, read_metadata

RNG = np.random.default_rng(0)


def plain(folder: Path) -> PlainArray:
    return PlainArray(folder, read_metadata(folder))


@pytest.fixture
def group(tmp_path: Path) -> zarr.Group:
    return zarr.open_group(str(tmp_path), mode="w", zarr_format=3)


@pytest.mark.parametrize(
    "dtype", ["bool", "int8", "uint8", "int16", "uint16", "int32", "int64", "float16", "float32", "float64"]
)
@pytest.mark.parametrize("shape", [(1,), (7,), (10, 3), (9, 2, 2)])
def test_what_this_program_writes_is_plain(
    group: zarr.Group, tmp_path: Path, dtype: str, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(envelope, "CHUNK_ROWS", 4)
    values = (RNG.random(shape) * 100).astype(dtype)
    envelope.write_array(group, "x", values)
    array = plain(tmp_path / "x")
    read = array.block(0, shape[0])
    assert (read.dtype, read.shape, read.flags.writeable) == (values.dtype, shape, True)
    for start in range(shape[0]):
        for stop in range(start + 1, shape[0] + 3):
            np.testing.assert_array_equal(array.block(start, stop), values[start:stop])
    np.testing.assert_array_equal(envelope.read_array(group, "x", tmp_path), group["x"][...])
    rows = RNG.integers(shape[0], size=20)
    np.testing.assert_array_equal(envelope.RowReader(group, "x", tmp_path)(rows), values[rows])


@pytest.mark.parametrize(
    "options",
    [
        {"compressors": None},
        {"compressors": [zarr.codecs.ZstdCodec()]},
        {"chunks": (4, 2)},
        {"shards": (8, 4)},
        {"serializer": zarr.codecs.BytesCodec(endian="big")},
        {"filters": [zarr.codecs.TransposeCodec(order=(1, 0))]},
        {"chunk_key_encoding": {"name": "v2", "separator": "."}},
    ],
)
def test_what_others_write_is_left_to_zarr(group: zarr.Group, tmp_path: Path, options: dict[str, object]) -> None:
    values = RNG.random((8, 4))
    made = {"chunks": (4, 4), "compressors": [zarr.codecs.BloscCodec(), zarr.codecs.Crc32cCodec()], **options}
    group.create_array("x", data=values, **made)
    with pytest.raises(NotPlain):
        plain(tmp_path / "x")
    np.testing.assert_array_equal(envelope.read_array(group, "x", tmp_path), values)
    np.testing.assert_array_equal(envelope.RowReader(group, "x", tmp_path)(np.array([5, 1])), values[[5, 1]])


def test_every_flipped_bit_of_a_chunk_is_left_to_zarr(group: zarr.Group, tmp_path: Path) -> None:
    envelope.write_array(group, "x", np.arange(40))
    chunk = tmp_path / "x" / "c" / "0"
    whole = chunk.read_bytes()
    for place in range(len(whole)):
        chunk.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :])
        with pytest.raises(NotPlain):
            plain(tmp_path / "x").block(0, 40)
    chunk.write_bytes(whole[:-1])
    with pytest.raises(HpalError, match="its array x/c/0 is damaged"):
        envelope.read_array(group, "x", tmp_path)
    chunk.unlink()
    with pytest.raises(HpalError, match="its x is missing or damaged"):
        envelope.read_array(group, "x", tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        lambda about: about.update(node_type="group"),
        lambda about: about.update(shape=[10**12]),
        lambda about: about.update(shape=["x"]),
        lambda about: about.update(shape=[-1]),
        lambda about: about.update(shape=[]),
        lambda about: about.update(data_type="complex64"),
        lambda about: about.update(codecs=[]),
        lambda about: about.update(codecs="bytes"),
        lambda about: about.update(something={"must_understand": True}),
        lambda about: about.pop("chunk_grid"),
        lambda about: about["chunk_grid"]["configuration"].update(chunk_shape=[10**12]),
    ],
)
def test_metadata_that_lies_is_left_to_zarr(
    group: zarr.Group, tmp_path: Path, change: Callable[[dict[str, object]], object]
) -> None:
    envelope.write_array(group, "x", np.arange(40))
    metadata = tmp_path / "x" / "zarr.json"
    about = json.loads(metadata.read_text())
    change(about)
    metadata.write_text(json.dumps(about))
    with pytest.raises(NotPlain):
        plain(tmp_path / "x").block(0, 1 << 50)


def test_a_store_is_sent_to_a_process_without_its_table(tmp_path: Path) -> None:
    store = synthetic_scenes(tmp_path / "scenes.zarr", rooms(3))
    assert len(pickle.dumps(store)) < 300
    again = pickle.loads(pickle.dumps(store))
    assert isinstance(again, SceneStore)
    assert again.table.id == store.table.id
    made = synthetic_predictions(tmp_path / "p.zarr", [])
    assert isinstance(pickle.loads(pickle.dumps(PredictionStore(made))), PredictionStore)
    # Another store stands in its place.
    sent = pickle.dumps(store)
    envelope._reopened.cache_clear()
    (tmp_path / "scenes.zarr").rename(tmp_path / "old.zarr")
    synthetic_scenes(tmp_path / "scenes.zarr", rooms(2))
    with pytest.raises(HpalError, match="was replaced while it was read"):
        pickle.loads(sent)
