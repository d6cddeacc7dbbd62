"""The point stream: what is written comes back, other programs read and write it, and a broken one is refused."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import plyfile
import pytest
from conftest import Done, tree

from hpal_cli.budget import Budget
from hpal_cli.errors import HpalError
from hpal_cli.history import Entry
from hpal_cli.predictions.store import PredictionStore
from hpal_cli.score.scorer import score
from hpal_cli.selection.selector import select
from hpal_cli.stream.header import Header, PoolScene
from hpal_cli.stream.points import PointReader, PointWriter, point_dtype, write_points
from hpal_cli.stream.viewer_names import for_viewers, from_viewers

ODD = Entry(
    "hpal score",
    "0.1.0",
    (
        "a b",
        "new\nline",
        'quo"te',
        "it's",
        "tab\there",
        "\\n",
        "Straße/плита",
        "end_header\nelement vertex 99",
        "",
        "\r",
        "\x1b[1m",
    ),
    3,
)

POOL = (PoolScene(0, "Area_1/office_1", 70), PoolScene(3, "b", 40))

HEAD = Header(
    "scores",
    source='stores/odd "name"\n.zarr',
    scenes="0123456789abcdef",
    unit=0.3048,
    features=96,
    pool=POOL,
    history=(ODD, Entry("someone's scorer", "2", (), None)),
    comments=("made by hand",),
)

EXTRA = (("intensity", "<u2"), ("confidence", "<f4"), ("flag", "i1"), ("when", "<f8"))


def synthetic_rows(points: int = 60, *, color: bool = True, extra: tuple = EXTRA, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    rows = np.zeros(points, point_dtype(color=color, extra=extra))
    for name in rows.dtype.names or ():
        if rows.dtype[name].kind == "f":
            rows[name] = rng.normal(900_000, 1e4, points) if name in "xyz" else rng.random(points)
        else:
            limit = np.iinfo(rows.dtype[name])
            rows[name] = rng.integers(limit.min, limit.max, points)
    rows["scene"] = np.where(np.arange(points) < points // 2, 0, 3)
    rows["index"] = np.concatenate([rng.permutation(points // 2), rng.permutation(points - points // 2)])
    return rows


def packed(rows: np.ndarray, head: Header = HEAD) -> bytes:
    out = io.BytesIO()
    write_points(out, head, rows)
    return out.getvalue()


def read(data: bytes) -> tuple[Header, np.ndarray]:
    reader = PointReader(io.BytesIO(data), "test")
    return reader.header, reader.read()


# ---------------------------------------------------------------- round trips


@pytest.mark.parametrize("color", [True, False])
@pytest.mark.parametrize("extra", [(), EXTRA])
@pytest.mark.parametrize("points", [0, 1, 60])
def test_round_trip(color: bool, extra: tuple, points: int) -> None:
    rows = synthetic_rows(points, color=color, extra=extra)
    header, back = read(packed(rows))
    assert replace(header, dtype=HEAD.dtype, count=0) == HEAD
    assert header.count == points
    assert back.dtype == rows.dtype
    assert back.tobytes() == rows.tobytes()


def test_columns_are_those_of_the_specification() -> None:
    """Names and types of docs/formats.md section 5, as any PLY reader sees them."""
    head = packed(synthetic_rows(1, extra=())).split(b"end_header\n")[0].decode().splitlines()
    assert head[:2] == ["ply", "format binary_little_endian 1.0"]
    assert [line for line in head if line.startswith(("element", "property"))] == [
        "element vertex 1",
        *(f"property double {axis}" for axis in "xyz"),
        *(f"property uchar {color}" for color in ("red", "green", "blue")),
        "property int scene",
        "property int index",
        "property float score",
    ]


def test_history_is_one_line_an_entry() -> None:
    """No argument breaks out of its comment, whatever is in it, and the header stays plain text."""
    head = packed(synthetic_rows(2)).split(b"\nend_header\n")[0]
    lines = head.decode("ascii").split("\n")
    assert sum(line.startswith("comment history ") for line in lines) == 2
    assert sum(line.startswith("element ") for line in lines) == 1
    assert not any(ord(c) < 32 or ord(c) == 127 for c in "".join(lines))


def test_each_stage_adds_its_own_entry() -> None:
    header = HEAD.then("selection", [Entry("hpal select", "0.1.0", ("--budget", "5"), None)])
    assert header.kind == "selection"
    assert [e.program for e in header.history] == ["hpal score", "someone's scorer", "hpal select"]
    assert HEAD.then("selection", []).history == HEAD.history


def test_select_passes_the_rest_through() -> None:
    """Extra columns, colours and what the header says arrive with the picks they belong to."""
    rows = synthetic_rows()
    reader = PointReader(io.BytesIO(packed(rows)), "test")
    chosen = select([reader], budget=Budget.parse("7"), suppression=None, history=[Entry("hpal select", "1", ())])
    assert len(chosen.rows) == 7
    assert chosen.header.history == (*HEAD.history, Entry("hpal select", "1", ()))
    assert (chosen.header.pool, chosen.header.comments, chosen.header.source) == (POOL, HEAD.comments, HEAD.source)
    by_place = {(int(r["scene"]), int(r["index"])): r for r in rows}
    for pick in chosen.rows:
        mine = by_place[int(pick["scene"]), int(pick["index"])]
        for name in rows.dtype.names or ():
            assert pick[name] == mine[name], name
    # And once more through a file: a selection can be selected from again.
    header, again = read(packed(chosen.rows, chosen.header))
    assert again.tobytes() == chosen.rows.tobytes()
    assert header.kind == "selection"


def test_a_writer_that_breaks_its_promise_is_told() -> None:
    writer = PointWriter(io.BytesIO(), replace(HEAD, dtype=synthetic_rows().dtype, count=61))
    writer.write(synthetic_rows())
    with pytest.raises(RuntimeError):
        writer.close()


def test_blocks_are_small_and_whole() -> None:
    """Reading in blocks of 7 gives the same 60 rows; scenes that span blocks come in one piece."""
    rows = synthetic_rows()
    blocks = list(PointReader(io.BytesIO(packed(rows)), "test").blocks(7))
    assert [len(b) for b in blocks] == [7] * 8 + [4]
    assert np.concatenate(blocks).tobytes() == rows.tobytes()


def test_scenes_that_span_blocks() -> None:
    many = np.zeros(150_000, point_dtype(color=False))
    many["scene"] = np.repeat([2, 0, 1], [70_000, 3, 79_997])
    many["index"] = np.arange(150_000)
    found = list(PointReader(io.BytesIO(packed(many)), "test").by_scene())
    assert [(number, len(rows)) for number, rows in found] == [(2, 70_000), (0, 3), (1, 79_997)]
    assert np.concatenate([rows for _, rows in found]).tobytes() == many.tobytes()


class Trickle:
    """A pipe that hands over 1 to 7 bytes at a time."""

    def __init__(self, data: bytes) -> None:
        self._data = io.BytesIO(data)
        self._turn = 0

    def read(self, size: int = -1) -> bytes:
        if size is None or size < 0:
            return self._data.read()
        self._turn += 1
        return self._data.read(min(size, 1 + self._turn % 7))

    def readline(self, size: int = -1) -> bytes:
        return self._data.readline(size)


def test_short_reads_from_a_pipe() -> None:
    rows = synthetic_rows()
    back = PointReader(Trickle(packed(rows)), "test").read()  # type: ignore[arg-type]
    assert back.tobytes() == rows.tobytes()
    with pytest.raises(HpalError, match="ends after 59 of 60 points"):
        PointReader(Trickle(packed(rows)[:-1]), "test").read()  # type: ignore[arg-type]


# ---------------------------------------------------------------- other programs


def same_values(found: np.ndarray, rows: np.ndarray) -> None:
    assert set(found.dtype.names or ()) == set(rows.dtype.names or ())
    for name in rows.dtype.names or ():
        np.testing.assert_array_equal(found[name], rows[name], err_msg=name)


def test_plyfile_reads_it() -> None:
    rows = synthetic_rows()
    ply = plyfile.PlyData.read(io.BytesIO(packed(rows)))
    assert [e.name for e in ply.elements] == ["vertex"]
    assert ply["vertex"].data.tobytes() == rows.tobytes()
    assert any(c.startswith("hpal 1 scores") for c in ply.comments)


def test_open3d_reads_it(tmp_path: Path) -> None:
    o3d = pytest.importorskip("open3d")
    rows = synthetic_rows()
    path = tmp_path / "s.ply"
    path.write_bytes(packed(rows))
    cloud = o3d.t.io.read_point_cloud(str(path))
    np.testing.assert_array_equal(cloud.point.positions.numpy(), np.column_stack([rows[a] for a in "xyz"]))
    np.testing.assert_array_equal(cloud.point["score"].numpy()[:, 0], rows["score"])


@pytest.mark.parametrize("form", ["ascii", "big", "crlf", "faces", "not first"])
def test_other_ply_of_the_same_points(form: str) -> None:
    rows = synthetic_rows()
    data = packed(rows)
    if form == "crlf":
        head, body = data.split(b"end_header\n", 1)
        data = head.replace(b"\n", b"\r\n") + b"end_header\r\n" + body
    else:
        vertex = plyfile.PlyElement.describe(rows, "vertex")
        # Other programs keep faces and cameras in the same file, with lists, before or behind the points.
        faces = np.array([(np.array([0, 1, 2], "i4"),)], [("vertex_indices", "O")])
        face = plyfile.PlyElement.describe(faces, "face", val_types={"vertex_indices": "i4"})
        elements = {"faces": [vertex, face], "not first": [face, vertex]}.get(form, [vertex])
        ply = plyfile.PlyData(
            elements,
            text=form == "ascii",
            byte_order=">" if form == "big" else "<",
            comments=plyfile.PlyData.read(io.BytesIO(data)).comments,
        )
        out = io.BytesIO()
        ply.write(out)
        data = out.getvalue()
        assert (b"format ascii" in data) == (form == "ascii")
    header, back = read(data)
    if form == "ascii":
        # plyfile prints float32 with enough digits, and float64 too.
        for name in rows.dtype.names or ():
            np.testing.assert_allclose(back[name], rows[name], rtol=1e-7, err_msg=name)
    else:
        same_values(back, rows)
    assert header.pool == POOL
    assert header.history == HEAD.history
    assert header.source == HEAD.source
    assert header.count == 60


def test_types_under_their_other_names() -> None:
    """Open3D and others write `float64`, `int32`, `uint8`."""
    rows = synthetic_rows()
    data = packed(rows)
    head, body = data.split(b"end_header\n", 1)
    swap = {
        "double": "float64",
        "uchar": "uint8",
        "int": "int32",
        "float": "float32",
        "ushort": "uint16",
        "char": "int8",
    }
    lines = [line.split(" ") for line in head.decode().splitlines()]
    for line in lines:
        if line[0] == "property":
            line[1] = swap[line[1]]
    other = "\n".join(" ".join(line) for line in lines).encode() + b"\nend_header\n" + body
    assert other != data
    same_values(read(other)[1], rows)


@pytest.mark.parametrize("prefix", ["scalar_", "Scalar_", "SCALAR_"])
def test_viewer_names_come_back(prefix: str) -> None:
    """CloudCompare saves `scalar_index` and the like, as float32."""
    rows = synthetic_rows(extra=())
    names = {"scene": "<f4", "index": "<f4", "score": "<f4"}
    seen = np.zeros(
        len(rows), [(prefix + n if n in names else n, names.get(n, rows.dtype[n].str)) for n in rows.dtype.names]
    )
    for n in rows.dtype.names or ():
        seen[prefix + n if n in names else n] = rows[n]
    header, back = read(packed(seen))
    assert header.dtype == back.dtype == rows.dtype
    assert back.tobytes() == rows.tobytes()


def test_viewer_names_are_undone_exactly() -> None:
    """The score is there a second time, as the one number that MeshLab shows; all else has CloudCompare's prefix."""
    rows = synthetic_rows()
    renamed = for_viewers(rows)
    assert set(renamed.dtype.names) == {
        *("x", "y", "z", "red", "green", "blue", "quality"),
        *(f"scalar_{n}" for n in ("scene", "index", "score", "intensity", "confidence", "flag", "when")),
    }
    np.testing.assert_array_equal(renamed["quality"], rows["score"])
    _, back = read(packed(renamed))
    assert back.dtype.names == (*rows.dtype.names, "quality")
    same_values(back[list(rows.dtype.names)], rows)
    # Seen, saved and seen again, there are still no two columns of one name.
    assert for_viewers(back).dtype == renamed.dtype
    both = np.dtype([("index", "<i4"), ("scalar_index", "<f4")])
    assert from_viewers(both) == both, "two columns must not fall together"


@pytest.mark.parametrize("value", [0.5, np.nan, np.inf])
def test_an_index_that_is_no_number_of_a_point(value: float) -> None:
    rows = synthetic_rows(4, extra=())
    floats = rows.astype([(n, "<f4" if n == "index" else rows.dtype[n]) for n in rows.dtype.names])
    floats["index"][2] = value
    with pytest.raises(HpalError, match="1 values of index"):
        read(packed(floats))


# ---------------------------------------------------------------- broken streams


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("comment hpal 2 scores", "specification 2, this hpal reads 1"),
        ("comment hpal 1", "cannot be read"),
        ("comment scene x 5 a", "cannot be read"),
        ("comment history {broken", "cannot be read"),
        ("comment unit ten", "cannot be read"),
        ("property quad x", "cannot be read"),
    ],
)
def test_headers_that_are_refused(line: str, message: str) -> None:
    data = packed(synthetic_rows(3)).replace(b"comment made by hand", line.encode())
    assert line.encode() in data or line.startswith("property")
    if line.startswith("property"):
        data = data.replace(b"property double x", line.encode())
    with pytest.raises(HpalError, match=message):
        read(data)


def test_what_is_no_stream() -> None:
    for data, message in (
        (b"", "is empty"),
        (b"LASF" * 50, "not a PLY"),
        (b"ply\nformat binary_little_endian 1.0\nelement vertex", "header does not end"),
        (b"ply\n", "header does not end"),
        (b"ply", "header does not end"),
        (packed(synthetic_rows(2)).replace(b"double y", b"double x"), "repeats a property"),
        (packed(synthetic_rows(2)).replace(b"vertex 2", b"vertex -2"), "below zero"),
    ):
        with pytest.raises(HpalError, match=message):
            read(data)


def cut_points(data: bytes, row: int) -> list[int]:
    """In the magic, in a header line, at the header's end, between rows, in a row, one byte short."""
    end = data.index(b"end_header\n") + len(b"end_header\n")
    return [
        3,
        4,
        30,
        end // 2,
        end - 5,
        end - 1,
        end,
        end + row // 2,
        end + row,
        end + 3 * row + 1,
        len(data) - row,
        len(data) - 1,
    ]


@pytest.mark.parametrize("where", range(12))
def test_a_cut_stream_is_an_error_of_its_own(where: int) -> None:
    rows = synthetic_rows()
    data = packed(rows)
    cut = cut_points(data, rows.dtype.itemsize)[where]
    with pytest.raises(HpalError, match=r"header does not end|ends after [0-9]+ of 60 points") as caught:
        read(data[:cut])
    assert "command before it died" in str(caught.value)


@pytest.mark.parametrize("form", ["ascii", "big"])
def test_a_cut_foreign_stream_is_an_error(form: str) -> None:
    out = io.BytesIO()
    vertex = plyfile.PlyElement.describe(synthetic_rows(), "vertex")
    plyfile.PlyData([vertex], text=form == "ascii", byte_order=">" if form == "big" else "<").write(out)
    data = out.getvalue()
    end = data.index(b"end_header\n") + len(b"end_header\n")
    for cut in (end, (end + len(data)) // 2, len(data) - 30):
        with pytest.raises(HpalError):
            read(data[:cut])


@pytest.fixture(scope="module")
def scored(predictions: Path) -> bytes:
    out = io.BytesIO()
    score(predictions, lambda _: out)
    return out.getvalue()


@pytest.fixture(scope="module")
def selected(scored: bytes, predictions: Path) -> bytes:
    chosen = select(
        [PointReader(io.BytesIO(scored), "test")],
        budget=Budget.parse("20"),
        suppression=None,
        predictions=PredictionStore(predictions),
    )
    return packed(chosen.rows, chosen.header)


@pytest.mark.parametrize("where", ["nothing", "header", "end of header", "between rows", "in a row", "last byte"])
def test_nothing_is_written_from_a_cut_stream(
    where: str, scored: bytes, selected: bytes, scenes: Path, hpal: Callable[..., Done], tmp_path: Path
) -> None:
    for command, data in (
        (("select", "--budget", "5", "-o", "x.ply"), scored),
        (("select", "--budget", "5"), scored),
        (("label", "--oracle", scenes, "-o", "x.zarr"), selected),
    ):
        row = read(data)[1].dtype.itemsize
        end = data.index(b"end_header\n") + len(b"end_header\n")
        places = {
            "nothing": 0,
            "header": end // 2,
            "end of header": end,
            "between rows": end + 2 * row,
            "in a row": len(data) - row // 2,
            "last byte": len(data) - 1,
        }
        done = hpal(*command, stdin=data[: places[where]], cwd=tmp_path)
        assert done.rc == 1, done
        assert done.out == b""
        assert len(done.err.splitlines()) == 1, done.err
        assert done.err.startswith(f"hpal {command[0]}: stdin: ")
        assert not any(tmp_path.iterdir())


def test_a_cut_stream_adds_nothing_to_labels(
    selected: bytes, scenes: Path, hpal: Callable[..., Done], tmp_path: Path
) -> None:
    assert hpal("label", "--oracle", scenes, "-o", "l.zarr", stdin=selected, cwd=tmp_path).rc == 0
    before = tree(tmp_path)
    assert hpal("label", "--oracle", scenes, "-o", "l.zarr", stdin=selected[:-3], cwd=tmp_path).rc == 1
    assert tree(tmp_path) == before


def test_an_empty_selection_is_no_error(
    selected: bytes, scenes: Path, hpal: Callable[..., Done], tmp_path: Path
) -> None:
    """Candidates can run out; the loop's next round must go on from there."""
    header, rows = read(selected)
    done = hpal("label", "--oracle", scenes, "-o", "l.zarr", stdin=packed(rows[:0], header), cwd=tmp_path)
    assert done.rc == 0, done.err
    done = hpal("info", "l.zarr", cwd=tmp_path)
    assert done.rc == 0, done.err
