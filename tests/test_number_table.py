"""Text to numbers: the compiled parser gives the doubles that Python's `float` gives, and refuses what is no table."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from hpal_cli.errors import HpalError
from hpal_cli.readers import number_table

compiled = pytest.mark.skipif(
    isinstance(number_table.library(), str), reason=f"nothing is compiled here: {number_table.library()}"
)
RNG = random.Random(0)


def blocks(path: Path, text: str | bytes, width: int, **how: object) -> list[np.ndarray]:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    with path.open("rb", buffering=0) as file:
        return list(number_table.blocks(file, width, path, **how))


def in_one_go(path: Path, text: bytes, width: int, finite: bool = False) -> np.ndarray | None:
    """By the compiled parser alone; None where it finds something odd."""
    path.write_bytes(text)
    columns = [np.full(len(text) + 1, np.nan) for _ in range(width)]
    counts = number_table.files_into([str(path)], columns, finite)
    return np.column_stack([column[: counts[0]] for column in columns]) if counts else None


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
def test_every_double_is_the_nearest_one(tmp_path: Path, width: int, longest: int) -> None:
    tokens = [token for token in numbers() if len(token) <= longest]
    tokens = tokens[: len(tokens) // width * width]
    lines = [RNG.choice([" ", "  ", "\t"]).join(tokens[n : n + width]) for n in range(0, len(tokens), width)]
    text = RNG.choice(["", "\n", " \n"]).join(line + RNG.choice(["\n", "\r\n", " \n", "\n\n"]) for line in lines)
    expected = np.array([float(token) for token in tokens]).reshape(-1, width)
    found = in_one_go(tmp_path / "a", text.encode(), width)
    assert found is not None
    np.testing.assert_array_equal(found.view(np.int64), expected.view(np.int64))


@compiled
def test_no_length_of_a_line_or_a_file_is_special(tmp_path: Path) -> None:
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
def test_what_is_no_table_is_odd(tmp_path: Path, text: str, before: int) -> None:
    good = b"10.5 -3\n" * before
    assert in_one_go(tmp_path / "a", good, 2) is not None
    assert in_one_go(tmp_path / "a", good + text.encode("latin-1"), 2) is None
    assert in_one_go(tmp_path / "a", good + text.encode("latin-1") + good, 2) is None


@compiled
def test_finite_refuses_what_is_not(tmp_path: Path) -> None:
    for token in ("nan", "inf", "-Infinity", "1e999"):
        assert in_one_go(tmp_path / "a", f"1 {token}\n".encode(), 2) is not None
        assert in_one_go(tmp_path / "a", f"1 {token}\n".encode(), 2, finite=True) is None


@compiled
def test_bytes_must_fit(tmp_path: Path) -> None:
    path = tmp_path / "a"
    for token, fits in (("255", True), ("0.0", True), ("-0", True), ("256", False), ("-1", False), ("1.5", False)):
        path.write_text(f"{token}\n")
        column = np.zeros(1, np.uint8)
        assert number_table.files_into([str(path)], [column]) == ([1] if fits else []), token
        if fits:
            assert column[0] == abs(float(token))


@compiled
def test_files_stop_before_the_odd_one(tmp_path: Path) -> None:
    names = [str(tmp_path / name) for name in "abcd"]
    for name, text in zip(names, ("1\n2", "", "x", "3"), strict=True):
        Path(name).write_text(text)
    column = np.zeros(9)
    assert number_table.files_into(names, [column]) == [2, 0]
    assert number_table.files_into(names[3:], [column[2:]]) == [1]
    assert column[:3].tolist() == [1, 2, 3]
    assert number_table.files_into([str(tmp_path / "none")], [column]) == []
    assert number_table.files_into([names[0]], [column[:1]]) == [], "more rows than there is room for"


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
    monkeypatch.setattr(number_table, "_LONGEST_LINE", 1000)
    assert blocks(tmp_path / "a", "1 2" + " " * 400 + "3\n", 3)[0].tolist() == [[1, 2, 3]]
    with pytest.raises(HpalError, match="line 2 has no end"):
        blocks(tmp_path / "a", "1 2 3\n" + "1" * 2000 + "\n", 3)


@compiled
def test_no_text_breaks_the_parser(tmp_path: Path) -> None:
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
def test_a_last_line_that_is_cut_is_odd(tmp_path: Path) -> None:
    for before in range(200):
        assert in_one_go(tmp_path / "a", b"1 2 3\n" * before + b"4 5", 3) is None
        assert in_one_go(tmp_path / "a", b"1 2 3\n" * before + b"4 5 6", 3) is not None
