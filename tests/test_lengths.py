"""Lengths as people type them."""

from __future__ import annotations

import pytest

from hpal_cli.errors import UsageError
from hpal_cli.lengths import format_length, parse_length, parse_unit


@pytest.mark.parametrize(
    ("text", "bare", "metres"),
    [
        ("10", "cm", 0.1),
        ("50", "cm", 0.5),
        ("100", "cm", 1.0),
        ("7", "cm", 0.07),
        ("0.2", "m", 0.2),
        (".2", "m", 0.2),
        ("2.", "m", 2.0),
        ("1e-1", "m", 0.1),
        ("10cm", "m", 0.1),
        ("10 cm", "m", 0.1),
        (" 10CM ", "m", 0.1),
        ("20mm", "cm", 0.02),
        ("0.5m", "cm", 0.5),
        ("0.001km", "cm", 1.0),
        ("3ft", "cm", 0.9144),
        ("1in", "m", 0.0254),
        ("3937ftUS", "m", 1200.0),
        ("+4cm", "m", 0.04),
    ],
)
def test_spellings(text: str, bare: str, metres: float) -> None:
    """Exactly the float a person means: 7 cm is 0.07, not 0.07000000000000001."""
    assert parse_length(text, "--levels", bare=bare) == metres


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ten",
        "10 apples",
        "0",
        "0cm",
        "-1",
        "-10cm",
        "1,5m",
        "10cm20",
        "nan",
        "inf",
        "1e999",
        "0x10",
        "--",
        "cm",
        "1e-999",
    ],
)
def test_what_is_no_length(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_length(text, "--levels", bare="cm")
    assert caught.value.exit_status == 2
    assert caught.value.subject == "--levels"
    assert repr(text) in caught.value.problem


@pytest.mark.parametrize(
    ("text", "metres"), [("m", 1.0), ("mm", 0.001), ("FT", 0.3048), ("0.3048", 0.3048), ("25.4mm", 0.0254)]
)
def test_units(text: str, metres: float) -> None:
    assert parse_unit(text) == metres


def test_the_survey_foot_is_not_the_foot() -> None:
    assert parse_unit("ftUS") == 1200 / 3937
    assert parse_unit("ftUS") != parse_unit("ft")


@pytest.mark.parametrize(
    ("metres", "text"),
    [
        (0.1, "10cm"),
        (0.04, "4cm"),
        (0.005, "5mm"),
        (2.0, "2m"),
        (1.0, "1m"),
        (0.055, "5.5cm"),
        (12.5, "12.5m"),
        (100.0, "100m"),
    ],
)
def test_format(metres: float, text: str) -> None:
    assert format_length(metres) == text
    assert parse_length(text, "x", bare="m") == metres
