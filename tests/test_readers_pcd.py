"""PCD: what is written in any of its three forms comes back, and damage is one line that names the file."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from conftest import run_hpal
from test_readers import read, write

from hpal_cli import readers
from hpal_cli.errors import HpalError
from hpal_cli.readers import number_table, pcd
from hpal_cli.readers.cloud import Options, Source

ENCODINGS = ("ascii", "binary", "binary_compressed")
XYZ = np.array([[1.5, 2.0, -3.25], [4.0, 5.0, 6.0], [0.1, 0.2, 0.3], [1e6, -1e-6, 7.0]], "f4")
COLOURS = [[1, 2, 3], [255, 128, 0], [64, 64, 64], [0, 0, 9]]
PACKED = np.array([red << 16 | green << 8 | blue for red, green, blue in COLOURS], "u4")


def literal(data: bytes) -> bytes:
    """LZF without a copy."""
    parts = [data[n : n + 32] for n in range(0, len(data), 32)]
    return b"".join(bytes([len(part) - 1]) + part for part in parts)


def squeezed(data: bytes) -> bytes:
    """LZF with a copy for each run of one byte."""
    out, at = b"", 0
    while at < len(data):
        run = 1
        while at + run < len(data) and data[at + run] == data[at] and run < 265:
            run += 1
        out += bytes([0, data[at]])
        copied = run - 1
        if copied >= 3:
            out += bytes([min(copied - 2, 7) << 5]) + (bytes([copied - 9]) if copied >= 9 else b"") + b"\0"
            at += run
        else:
            at += 1
    return out


def write_pcd(
    path: Path, fields: dict[str, np.ndarray], encoding: str = "ascii", *, more: str = "", packer=squeezed
) -> Path:
    count = len(next(iter(fields.values())))
    columns = {name: values.reshape(count, -1) for name, values in fields.items()}
    lines = [
        "# .PCD v0.7 - Point Cloud Data file format",
        "VERSION 0.7",
        f"FIELDS {' '.join(columns)}",
        f"SIZE {' '.join(str(v.dtype.itemsize) for v in columns.values())}",
        f"TYPE {' '.join(v.dtype.kind.upper() for v in columns.values())}",
        f"COUNT {' '.join(str(v.shape[1]) for v in columns.values())}",
        f"WIDTH {count}",
        "HEIGHT 1",
        more or "VIEWPOINT 0 0 0 1 0 0 0",
        f"POINTS {count}",
        f"DATA {encoding}",
    ]
    head = ("\n".join(lines) + "\n").encode()
    if encoding == "ascii":
        rows = [" ".join(repr(x) for v in columns.values() for x in v[n].tolist()) for n in range(count)]
        return write(path, head + "".join(row + "\n" for row in rows).encode())
    if encoding == "binary":
        rows = b"".join(v[n].tobytes() for n in range(count) for v in columns.values())
        return write(path, head + rows)
    plain = b"".join(v.tobytes() for v in columns.values())
    packed = packer(plain)
    return write(path, head + struct.pack("<II", len(packed), len(plain)) + packed)


def some() -> dict[str, np.ndarray]:
    return {
        **{axis: XYZ[:, n] for n, axis in enumerate("xyz")},
        "rgb": PACKED.view("f4"),
        "normal_x": np.array([0, 0, 1, 0], "f8"),
        "label": np.array([3, 0, 7, 1], "u4"),
        "ring": np.array([-1, 2, 3, 4], "i2"),
        "fpfh": np.arange(8, dtype="f4").reshape(4, 2),
        "_": np.zeros((4, 3), "u1"),
    }


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("rgb", ["float", "uint", "rgba"])
def test_every_form_comes_back(tmp_path: Path, encoding: str, rgb: str) -> None:
    fields = some()
    if rgb != "float":
        fields["rgb"] = PACKED | np.uint32(0xFF000000)
    if rgb == "rgba":
        fields = {{"rgb": "rgba"}.get(name, name): values for name, values in fields.items()}
    write_pcd(tmp_path / "sub" / "a.PCD", fields, encoding)
    reader, (source,) = readers.find(tmp_path)
    assert reader is pcd
    assert source.name == "sub/a"
    assert pcd.count(source) == 4
    cloud = readers.read(reader, source)
    np.testing.assert_array_equal(cloud.xyz, XYZ.astype("f8"))
    assert cloud.rgb is not None
    assert cloud.rgb.tolist() == COLOURS
    assert cloud.label is not None
    assert cloud.label.tolist() == [3, 0, 7, 1]
    assert {name: values.tolist() for name, values in cloud.attributes.items()} == {
        "nx": [0, 0, 1, 0],
        "ring": [-1, 2, 3, 4],
        "fpfh_0": [0, 2, 4, 6],
        "fpfh_1": [1, 3, 5, 7],
    }
    assert cloud.notes == []


def test_the_packed_number_itself_as_the_library_s_tutorial_has_it(tmp_path: Path) -> None:
    head = (
        "VERSION .7\nFIELDS x y z rgb\nSIZE 4 4 4 4\nTYPE F F F F\nWIDTH 2\nHEIGHT 2\n"
        "VIEWPOINT 0 0 0 1 0 0 0\nDATA ascii\n"
    )
    body = "0.5 1 2 4210752\n1 1 1 4.2108e+06\n2 2 2 2.3418052e-38\nnan nan nan nan\n"
    cloud = read(write(tmp_path / "a.pcd", head + body))
    assert cloud.rgb is not None
    assert cloud.rgb.tolist() == [[64, 64, 64], [64, 64, 112], [255, 0, 0]]
    assert cloud.notes == ["left out 1 of 4 points, whose coordinates are NaN or infinite"]


@pytest.mark.parametrize(
    "body", ["1.5,2,-3\n4,5.25,6\n", "1.5, 2, -3\r\n4, 5.25, 6\r\n", "1.5;2;-3\n4;5.25;6\n", "1,5 2 -3\n4 5,25 6\n"]
)
def test_numbers_between_commas(tmp_path: Path, body: str) -> None:
    head = "VERSION .7\nFIELDS x y z\nSIZE 4 4 4\nTYPE F F F\nWIDTH 2\nHEIGHT 1\nPOINTS 2\nDATA ascii\n"
    assert read(write(tmp_path / "a.pcd", head + body)).xyz.tolist() == [[1.5, 2, -3], [4, 5.25, 6]]


@pytest.mark.parametrize("first", ["", "# .PCD v.7\n\n", "VERSION .5\n"])
@pytest.mark.parametrize("names", ["FIELDS", "COLUMNS", "fields"])
def test_a_header_need_not_give_its_version(tmp_path: Path, first: str, names: str) -> None:
    head = f"{first}{names} x y z\nSIZE 4 4 4\nTYPE F F F\nPOINTS 2\nDATA ascii\n"
    assert read(write(tmp_path / "a.pcd", head + "1 2 3\n4 5 6\n")).xyz.tolist() == [[1, 2, 3], [4, 5, 6]]


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_blocks_join(tmp_path: Path, encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(number_table, "ROWS", 100)
    monkeypatch.setattr(number_table, "_PIECE", 256)
    steps = np.arange(450, dtype="f4")
    path = write_pcd(tmp_path / "a.pcd", {"x": steps, "y": steps + 1, "z": steps * 0, "w": steps}, encoding)
    parts = list(pcd.read(Source("a", path), Options()))
    assert max(len(part.xyz) for part in parts) <= 100
    cloud = read(path)
    np.testing.assert_array_equal(cloud.xyz, np.column_stack([steps, steps + 1, steps * 0]))
    np.testing.assert_array_equal(cloud.attributes["w"], steps)


def test_the_viewpoint_is_told_once(tmp_path: Path) -> None:
    path = write_pcd(tmp_path / "a.pcd", some(), "binary", more="VIEWPOINT 1 2 3 1 0 0 0")
    assert read(path).notes == ["its VIEWPOINT is 1 2 3 1 0 0 0: not applied, the points stay where they are written"]


@pytest.mark.parametrize("packer", [literal, squeezed])
@pytest.mark.parametrize(
    "data", [b"", b"a", b"abc" * 30, b"\0" * 1000, bytes(range(256)) + b"\7" * 12, b"aab" * 5 + b"c" * 9]
)
def test_lzf(packer, data: bytes) -> None:
    assert pcd.decompressed(packer(data), len(data)) == data


def test_lzf_copies_from_further_back() -> None:
    # "abcd", then five bytes from four before, then three from nine before.
    assert pcd.decompressed(b"\x03abcd" + bytes([3 << 5, 3]) + bytes([1 << 5, 8]), 12) == b"abcdabcdaabc"
    far = bytes(range(250)) * 4
    assert pcd.decompressed(literal(far) + bytes([1 << 5 | 3, 0xE7]), 1003) == far + far[:3]


@pytest.mark.parametrize(
    ("data", "size", "message"),
    [
        (b"\x03ab", 4, "it comes to 2 bytes, expected 4"),
        (b"\x01ab", 4, "comes to 2 bytes"),
        (b"\x01ab\x20\x05", 5, "copies from before the beginning"),
        (b"\x01ab\xe0", 20, "ends within a copy"),
        (b"\x01ab\x20", 5, "ends within a copy"),
        (b"\x01ab", 10**9, "3 bytes cannot become 1000000000"),
    ],
)
def test_lzf_that_is_damaged(data: bytes, size: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pcd.decompressed(data, size)


HEAD = "VERSION 0.7\nFIELDS x y z\nSIZE 4 4 4\nTYPE F F F\nCOUNT 1 1 1\nWIDTH %d\nHEIGHT 1\nPOINTS %d\nDATA %s\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not a PCD file"),
        (b"hello\n" * 9, "is not a PCD file"),
        (b"VERSION 0.7\nFIELDS x y z\nDATA ascii\n1 2 3\n", r"the PCD header \(3 lines\) cannot be understood"),
        ((HEAD % (1, 1, "zip")).encode(), "cannot be understood"),
        ((HEAD % (1, -1, "ascii")).encode(), "cannot be understood"),
        ((HEAD % (1, 1, "ascii")).replace("x y z", "x y w").encode() + b"1 2 3\n", "the points have no z"),
        ((HEAD % (2, 2, "ascii")).encode() + b"1 2 3\n" + b" " * 9 + b"\n", "holds 1 of its 2 points"),
        ((HEAD % (2, 2, "ascii")).encode() + b"1 2 3\n1 x 3\n", "line 11: 'x' is not a number"),
        ((HEAD % (2, 10**12, "ascii")).encode() + b"1 2 3\n", "promises 1000000000000 points"),
        ((HEAD % (2, 10**12, "binary")).encode() + b"1 2 3\n", "promises 1000000000000 points"),
        ((HEAD % (2, 2, "binary")).encode() + b"\0" * 23, "promises 2 points, more than its 23 bytes"),
        ((HEAD % (2, 10**12, "binary_compressed")).encode() + b"\0" * 9, "the compressed data 0 bytes"),
        ((HEAD % (2, 2, "binary_compressed")).encode() + struct.pack("<II", 9, 24) + b"\0", "holds 1 of its 9 compr"),
        ((HEAD % (2, 2, "binary_compressed")).encode() + struct.pack("<II", 2, 24) + b"\0a", "data is damaged"),
        ((HEAD % (0, 0, "binary")).encode(), "has no points"),
    ],
)
def test_what_is_damaged_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(HpalError, match=rf"a\.pcd: .*{message}"):
        read(write(tmp_path / "a.pcd", content))


def test_a_whole_number_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    path = write_pcd(tmp_path / "a.pcd", some())
    path.write_text(path.read_text().replace(" -1 0.0 1.0", " 99999 0.0 1.0"))
    with pytest.raises(HpalError, match="field ring holds values that are no int16"):
        read(path)


def test_prep_reads_pcd(tmp_path: Path) -> None:
    for encoding in ENCODINGS:
        write_pcd(tmp_path / "scans" / f"{encoding}.pcd", some(), encoding)
    done = run_hpal("prep", tmp_path / "scans", "-o", tmp_path / "s.zarr")
    assert done.rc == 0, done.err
    assert "3 scenes (3 train), 12 points" in done.err
    assert "read as pcd" in done.err
