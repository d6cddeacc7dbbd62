"""Text to numbers: the compiled parser gives the doubles that Python's `float` gives, and refuses what is no table."""

from __future__ import annotations

import platform
import random
import subprocess
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from hpal_cli.errors import HpalError
from hpal_cli.readers import number_files, number_table
from hpal_cli.readers.number_files import Rows, TextFile

compiled = pytest.mark.skipif(
    isinstance(number_table.library(), str), reason=f"nothing is compiled here: {number_table.library()}"
)
RNG = random.Random(0)
ANY_PROCESSOR = ("-O2", "-march=x86-64" if platform.machine() == "x86_64" else "-O2", "-fPIC", "-std=gnu11")


@pytest.fixture(params=["this processor", "any processor"])
def build(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The parser for this processor, and the one without its special instructions."""
    if request.param == "any processor":
        other = number_table.load(ANY_PROCESSOR)
        monkeypatch.setattr(number_table, "library", lambda: other)
    return str(request.param)


def blocks(path: Path, text: str | bytes, width: int, **how: object) -> list[np.ndarray]:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    with path.open("rb", buffering=0) as file:
        return list(number_table.blocks(file, width, path, **how))


def in_one_go(path: Path, text: bytes, width: int, finite: bool = False) -> np.ndarray | None:
    """By the compiled parser alone; None where it finds something odd."""
    path.write_bytes(text)
    parts = number_files.read([TextFile(str(path), len(text), 0)], width, finite=finite)
    return None if any(isinstance(part, TextFile) for part in parts) else joined(parts, width)[0]


def joined(parts: list[Rows | TextFile], doubles: int, bytes: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rows = [part for part in parts if isinstance(part, Rows)]
    none = Rows(np.empty((0, doubles)), np.empty((0, bytes), np.uint8), np.empty(0, np.int64))
    return (
        np.concatenate([none.doubles, *(part.doubles for part in rows)]),
        np.concatenate([none.bytes, *(part.bytes for part in rows)]),
        np.concatenate([none.numbers, *(part.numbers for part in rows)]),
    )


def digits(count: int) -> str:
    return "".join(RNG.choices("0123456789", k=count))


def numbers() -> list[str]:
    made = [
        "0",
        "-0",
        "0.",
        ".0",
        "-.5",
        "+1",
        "1e5",
        "1E-5",
        "1.5e+300",
        "1e400",
        "-1e-400",
        "4.9e-324",
        "nan",
        "-INF",
    ]
    made += ["Infinity", "9007199254740993", "4503599627370496", "4503599627370495", "0.1", "99999999", "1234567.8"]
    made += ["-9999999", "9" * 16, "9" * 17, "0." + "0" * 30 + "1", "1" * 400, "-1.000000000000000000e+00"]
    for _ in range(20000):
        before, after = RNG.randrange(9), RNG.randrange(9)
        if before + after == 0:
            continue
        point = "." if after or RNG.random() < 0.1 else ""
        exponent = f"e{RNG.randrange(-30, 30)}" if RNG.random() < 0.02 else ""
        made.append(RNG.choice(["", "", "-", "-", "+"]) + digits(before) + point + digits(after) + exponent)
    return made


@compiled
@pytest.mark.parametrize("width", [1, 2, 3, 6, 7, 128])
@pytest.mark.parametrize("longest", [8, 16, 500])
def test_every_double_is_the_nearest_one(tmp_path: Path, width: int, longest: int, build: str) -> None:
    tokens = [token for token in numbers() if len(token) <= longest]
    tokens = tokens[: len(tokens) // width * width]
    lines = [RNG.choice([" ", "  ", "\t"]).join(tokens[n : n + width]) for n in range(0, len(tokens), width)]
    text = RNG.choice(["", "\n", " \n"]).join(line + RNG.choice(["\n", "\r\n", " \n", "\n\n"]) for line in lines)
    expected = np.array([float(token) for token in tokens]).reshape(-1, width)
    found = in_one_go(tmp_path / "a", text.encode(), width)
    assert found is not None
    np.testing.assert_array_equal(found.view(np.int64), expected.view(np.int64))


@compiled
def test_no_length_of_a_line_or_a_file_is_special(tmp_path: Path, build: str) -> None:
    for size in range(1, 140):
        for end in (b"", b"\n", b" ", b" \n", b"\r\n"):
            text = (digits(size % 15 + 1) + " " * (1 + size - size % 15) + "7").encode()
            found = in_one_go(tmp_path / "a", text + end + b"\n1 2" + end, 2)
            assert found is not None
            assert found.tolist() == [[float(n) for n in text.split()], [1, 2]], (text, end)


@compiled
@pytest.mark.parametrize(
    "text",
    [
        "1 2\n3\n",
        "1 2 3\n",
        "1\n2\n",
        "1 2\n3 4 5 6\n",
        "1\n2 3 4\n",
        "1 2\n3 x\n",
        "1 2\n3 --4\n",
        "1 2\n3 .\n",
        "1 -\n",
        "1 1.2.3\n",
        "1 1.2345.6789\n",
        "1 0x10\n",
        "1 1_0\n",
        "1 1,5\n",
        "1 \x00\n",
        "1 2\x0b\n",
        "1 1e\n",
        "1 12345-6\n",
        "1 nano\n",
        "1 " + "1" * 20 + "x\n",
        "1 \xff\n",
        "1 1-2\n",
        "1 123456789:\n",
        "1 /\n",
        "1 5-\n",
        "1 2\x10.5\n",
    ],
)
@pytest.mark.parametrize("before", [0, 1, 341, 600])
def test_what_is_no_table_is_odd(tmp_path: Path, text: str, before: int, build: str) -> None:
    good = b"10.5 -3\n" * before
    assert in_one_go(tmp_path / "a", good, 2) is not None
    assert in_one_go(tmp_path / "a", good + text.encode("latin-1"), 2) is None
    assert in_one_go(tmp_path / "a", good + text.encode("latin-1") + good, 2) is None


@compiled
@pytest.mark.parametrize("rest", ["-", ".", "-.", "5-", "5-5", "--5", "1.5.", "x", "5x", "5.5.5", "1 -", "-5 -"])
def test_what_stands_anywhere_behind_a_whole_line_is_odd(tmp_path: Path, rest: str, build: str) -> None:
    """Also where the parser looks at 64 bytes, and at the next 64 only afterwards."""
    texts = [
        before + "1 2".ljust(place) + rest + end
        for before in ("", "1 2\n" * 500)
        for place in range(4, 140)
        for end in ("", "\n", "\n3 4\n", " \n3 4", "\r\n")
    ]
    files = [TextFile(str(tmp_path / str(n)), len(text), n) for n, text in enumerate(texts)]
    for file, text in zip(files, texts, strict=True):
        Path(file.path).write_bytes(text.encode())
    # In one call, since each call takes as long as hundreds of such files.
    taken = [part for part in number_files.read(files, 2) if isinstance(part, Rows)]
    assert not taken, [texts[number] for part in taken for number in part.numbers]


@compiled
def test_finite_refuses_what_is_not(tmp_path: Path, build: str) -> None:
    for token in ("nan", "inf", "-Infinity", "1e999"):
        assert in_one_go(tmp_path / "a", f"1 {token}\n".encode(), 2) is not None
        assert in_one_go(tmp_path / "a", f"1 {token}\n".encode(), 2, finite=True) is None


def plain_number(most: int) -> str:
    count = RNG.randrange(1, most + 1)
    behind = RNG.choice([0, 0, RNG.randrange(count + 1)])
    number = digits(count)
    return RNG.choice(["", "-"]) + (
        f"{number[: count - behind] or '0'}.{number[count - behind :]}" if behind else number
    )


@compiled
@pytest.mark.parametrize("width", [1, 2, 3, 6, 8, 9, 20, 128])
@pytest.mark.parametrize("most", [7, 8, 9, 15, 16])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_tables_of_nothing_but_short_numbers(tmp_path: Path, width: int, most: int, newline: str, build: str) -> None:
    for rows in (1, 7, 64, 1000):
        tokens = [plain_number(most) for _ in range(rows * width)]
        lines = [" ".join(tokens[n : n + width]) for n in range(0, len(tokens), width)]
        for separate in (False, True):
            text = newline.join(lines) + newline * (rows % 2)
            if separate:  # each column an array of its own
                columns = [np.full(rows, np.nan) for _ in range(width)]
                (tmp_path / "a").write_text(text, newline="")
                at = 0
                with (tmp_path / "a").open("rb", buffering=0) as file:
                    pieces = number_table.Lines()
                    for _ in pieces.pieces(file, tmp_path / "a"):
                        at += pieces.into([column[at:] for column in columns]) or 0
                found = np.column_stack(columns)
            else:
                table = in_one_go(tmp_path / "a", text.encode(), width)
                assert table is not None
                found = table
            expected = np.array([float(token) for token in tokens]).reshape(-1, width)
            np.testing.assert_array_equal(found.view(np.int64), expected.view(np.int64))


@compiled
@pytest.mark.parametrize("places", range(9))
def test_each_short_number_is_divided_once(tmp_path: Path, places: int) -> None:
    """With each number of digits behind the point, numbers of all sizes."""
    whole = np.unique(np.concatenate([[0], 10 ** np.random.default_rng(places).uniform(0, 8, 30000)]).astype(np.int64))
    tokens = [f"{n:0{places + 1}d}" for n in whole]
    tokens = [f"{t[: len(t) - places]}.{t[len(t) - places :]}" if places else t for t in tokens]
    tokens = [token for token in (t.removeprefix("0") if len(t) > 1 else t for t in tokens) if token != "."]
    found = in_one_go(tmp_path / "a", "\n".join(tokens).encode(), 1)
    assert found is not None
    assert found[:, 0].tolist() == [float(token) for token in tokens]


@compiled
@pytest.mark.parametrize("doubles", [0, 1, 3, 7, 9])
@pytest.mark.parametrize("number", ["9", "1234.5678", "1e3"])
def test_bytes_must_fit(tmp_path: Path, doubles: int, number: str, build: str) -> None:
    path = tmp_path / "a"
    before = [" ".join([number] * doubles) + " 7\n"] * 50
    for token, fits in (("255", True), ("0.0", True), ("-0", True), ("256", False), ("-1", False), ("1.5", False)):
        path.write_text("".join([*before, " ".join([number] * doubles + [token]), "\n", *before]))
        file = TextFile(str(path), path.stat().st_size, 0)
        parts = number_files.read([file], doubles, 1)
        assert [isinstance(part, Rows) for part in parts] == [fits], token
        if fits:
            values, whole, _ = joined(parts, doubles, 1)
            assert (values == float(number)).all()
            assert whole[:, 0].tolist() == [7] * 50 + [abs(int(float(token)))] + [7] * 50


@compiled
@pytest.mark.parametrize("part", [1, 13, 64, 1000, 1 << 17])
@pytest.mark.parametrize("threads", [1, 2, 5])
def test_files_are_shared_out_and_come_back_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: int, threads: int
) -> None:
    """However many parts and threads there are: lines that lie across parts are read once, odd files stand apart."""
    monkeypatch.setattr(number_files, "_PART", part)
    monkeypatch.setattr(number_files, "_MIN_PARTS", 1)
    monkeypatch.setattr(number_files, "cores", lambda: threads)
    pool = ThreadPoolExecutor(max(1, threads - 1))
    monkeypatch.setattr(number_files, "_pool", lambda: pool)
    random = np.random.default_rng(part)
    files: list[TextFile] = []
    expected: list[tuple[int, np.ndarray]] = []
    odd = []
    for n in range(40):
        path = tmp_path / f"{n}.txt"
        xyz, rgb = (
            random.normal(scale=10.0 ** random.integers(5), size=(random.integers(30), 3)),
            random.integers(256, size=3),
        )
        lines = [" ".join([*(f"{v:.3f}" for v in row), *map(str, rgb)]) for row in xyz]
        text = "\n".join(lines) + ("\n" if n % 3 else "")
        if n % 7 == 3:
            text += "\n1 2 3 4 5 x\n"
        path.write_text(text)
        files.append(TextFile(str(path), len(text), n))
        if n % 7 == 3:
            odd.append(files[-1])
        elif lines:
            expected.append((n, np.array([[float(word) for word in line.split()] for line in lines])))
    files.insert(10, TextFile(str(tmp_path / "none"), 100, 99))
    odd.insert(sum(file.number < 10 for file in odd), files[10])
    found = number_files.read(files, 3, 3)
    assert [one for one in found if isinstance(one, TextFile)] == odd
    # Odd files lie between the same others as before.
    flat = [n for one in found for n in ([one.number] if isinstance(one, TextFile) else one.numbers.tolist())]
    order = {file.number: place for place, file in enumerate(files)}
    assert [order[n] for n in flat] == sorted(order[n] for n in flat)
    values, whole, numbers = joined(found, 3, 3)
    table = np.concatenate([rows for _, rows in expected])
    np.testing.assert_array_equal(np.column_stack([values, whole]), table)
    assert numbers.tolist() == [n for n, rows in expected for _ in rows]


@compiled
def test_one_thread_does_it_all_if_no_other_can_be_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class NoThreads(ThreadPoolExecutor):
        def submit(self, *args: object, **kwargs: object) -> Future[object]:
            raise RuntimeError("can't start new thread")

    pool = NoThreads(1)
    monkeypatch.setattr(number_files, "_PART", 10)
    monkeypatch.setattr(number_files, "cores", lambda: 3)
    monkeypatch.setattr(number_files, "_pool", lambda: pool)
    (tmp_path / "a").write_text("".join(f"{n} 2\n" for n in range(1000)))
    found = number_files.read([TextFile(str(tmp_path / "a"), (tmp_path / "a").stat().st_size, 0)], 2)
    assert joined(found, 2)[0][:, 0].tolist() == list(range(1000))


@compiled
def test_a_forked_process_reads_on(tmp_path: Path) -> None:
    """The threads that its parent began do not exist in it."""
    (tmp_path / "a").write_text("1 2\n" * 1000)
    program = f"""
import os
from hpal_cli.readers import number_files
number_files._PART, number_files.cores = 10, lambda: 3
file = number_files.TextFile({str(tmp_path / "a")!r}, 4000, 0)
def count(): return sum(len(rows.numbers) for rows in number_files.read([file], 2))
assert count() == 1000
child = os.fork()
if child == 0: os._exit(count() != 1000)
assert os.waitpid(child, 0)[1] == 0
"""
    done = subprocess.run([sys.executable, "-c", program], timeout=60, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@compiled
def test_a_line_longer_than_a_part_belongs_to_where_it_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(number_files, "_PART", 100)
    path = tmp_path / "a"
    for blanks, fits in ((1000, True), (5000, False)):
        path.write_text("1 2\n3" + " " * blanks + "4\n5 6\n")
        file = TextFile(str(path), path.stat().st_size, 0)
        found = number_files.read([file], 2)
        if fits:
            assert joined(found, 2)[0].tolist() == [[1, 2], [3, 4], [5, 6]]
        else:
            assert found == [file]


@compiled
def test_a_file_that_shrank_or_grew_meanwhile_ends_with_a_line(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("1 2\n3 4\n")
    assert joined(number_files.read([TextFile(str(path), 1000, 0)], 2), 2)[0].tolist() == [[1, 2], [3, 4]]
    assert joined(number_files.read([TextFile(str(path), 2, 0)], 2), 2)[0].tolist() == [[1, 2]]
    assert number_files.read([TextFile(str(tmp_path), 1000, 0)], 2) == [TextFile(str(tmp_path), 1000, 0)]
    assert number_files.read([], 2) == []


def test_blocks_join_to_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(number_table, "ROWS", 100)
    monkeypatch.setattr(number_table, "_PIECE", 256)
    table = np.round(np.random.default_rng(0).normal(size=(1234, 3)) * 1e4, 3)
    text = "\n".join(" ".join(map(str, row)) for row in table)
    for ending in ("", "\n"):
        parts = blocks(tmp_path / "a", text + ending, 3)
        assert max(map(len, parts)) <= 100
        np.testing.assert_array_equal(np.concatenate(parts), table)
    np.testing.assert_array_equal(np.concatenate(blocks(tmp_path / "a", text + "\n3 0 1\n", 3, most=1234)), table)
    with pytest.raises(HpalError, match="line 1242: 'x' is not a number"):
        blocks(tmp_path / "a", text + "\n\n1 2 x\n", 3, first_line=7)
    assert blocks(tmp_path / "a", "\n \n", 3) == []


def test_blocks_stay_small_behind_a_long_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(number_table, "ROWS", 100)
    monkeypatch.setattr(number_table, "_PIECE", 64)
    for rest in ("1 2 3\n" * 1234, "\n" * 2000 + "1 2 3\n" * 50):
        text = "1 2 3\n1" + " " * 3000 + "2 3\n" + rest
        parts = blocks(tmp_path / "a", text, 3)
        assert all(0 < len(part) <= 100 for part in parts)
        assert np.concatenate(parts).tolist() == [[1, 2, 3]] * (2 + rest.count("1"))


def test_without_a_compiler_it_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "1,2.50,-3e1\r\n\n4, 5,6"
    expected = [[1, 2.5, -30], [4, 5, 6]]
    assert blocks(tmp_path / "a", text, 3, separator=",")[0].tolist() == expected
    assert blocks(tmp_path / "a", "1;2,5;-3e1\n4;5;6", 3, separator=";")[0].tolist() == expected
    monkeypatch.setattr(number_table, "library", lambda: "not wanted")
    assert blocks(tmp_path / "a", text, 3, separator=",")[0].tolist() == expected
    assert blocks(tmp_path / "a", "1;2,5;-3e1\n4;5;6", 3, separator=";")[0].tolist() == expected
    with pytest.raises(HpalError, match="line 2 has 2 columns, expected 3"):
        blocks(tmp_path / "a", "1 2 3\n4 5\n", 3)


def test_a_line_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(number_table, "_PIECE", 64)
    monkeypatch.setattr(number_table, "_MAX_LINE", 1000)
    assert blocks(tmp_path / "a", "1 2" + " " * 400 + "3\n", 3)[0].tolist() == [[1, 2, 3]]
    with pytest.raises(HpalError, match="line 2 has no end"):
        blocks(tmp_path / "a", "1 2 3\n" + "1" * 2000 + "\n", 3)


@compiled
def test_no_text_breaks_the_parser(tmp_path: Path, build: str) -> None:
    """Any bytes, and tables that end in the middle: a table that `float` reads too, or odd; never a crash."""
    path = tmp_path / "a"
    for _ in range(500):
        width = RNG.choice([1, 2, 3, 7, 128])
        if RNG.random() < 0.5:
            data = bytes(RNG.choices(b"0123456789.-e \n\t\r,x", k=RNG.randrange(3000)))
        else:
            count = RNG.randrange(1, 900)
            data = "".join(RNG.choice(["1", "-2.5", "7.123456789"]) + RNG.choice(" \n") for _ in range(count)).encode()
            data = b"1 2 3 4 5 6 7\n" * RNG.randrange(300) + data.rstrip() if width == 7 else data.rstrip()
        found = in_one_go(path, data, width)
        lines = [line.split() for line in data.split(b"\n") if line.split()]
        if found is not None:
            assert found.tolist() == [[float(word) for word in line] for line in lines]
        else:
            whole = all(len(line) == width for line in lines)
            assert not whole or any(set(word) & set(b",x-.e") for line in lines for word in line)


@compiled
def test_a_last_line_that_is_cut_is_odd(tmp_path: Path, build: str) -> None:
    for before in range(200):
        assert in_one_go(tmp_path / "a", b"1 2 3\n" * before + b"4 5", 3) is None
        assert in_one_go(tmp_path / "a", b"1 2 3\n" * before + b"4 5 6", 3) is not None
