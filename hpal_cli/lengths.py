"""Parses lengths as users type them: `10`, `10cm`, `0.5m`, `20mm`, `3ft`."""

from __future__ import annotations

import math
import re
from decimal import Decimal

from hpal_cli.errors import UsageError

METRES = {
    "mm": Decimal("0.001"),
    "cm": Decimal("0.01"),
    "m": Decimal(1),
    "km": Decimal(1000),
    "in": Decimal("0.0254"),
    "ft": Decimal("0.3048"),
    "ftus": Decimal(1200) / Decimal(3937),
}

MIN_LENGTH, MAX_LENGTH = 1e-6, 1e7
"""Metres, within which every length must be."""

_LENGTH = re.compile(r"\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*([a-zA-Z]*)\s*")


def parse_length(text: str, option: str, *, bare: str) -> float:
    """A positive length in metres; a number without a suffix is in the unit `bare`.

    Decimal arithmetic, so that `10cm` is exactly the float 0.1.

    Raises:
        UsageError: not a number, an unknown unit, or not positive.
    """
    match = _LENGTH.fullmatch(text)
    unit = (match.group(2).lower() or bare) if match else ""
    if not match or unit not in METRES:
        raise UsageError(
            option,
            f"{text!r} is not a length",
            f"give a number ({bare}) or one with {', '.join(METRES)}, like 10cm",
        )
    metres = float(Decimal(match.group(1)) * METRES[unit])
    if not 0 < metres < float("inf"):
        raise UsageError(option, f"{text!r} is not above zero", "give a positive length, like 10cm")
    if not MIN_LENGTH <= metres <= MAX_LENGTH:
        raise UsageError(option, f"{text!r} is no length in a scan", "give a length like 10cm, and mind its unit")
    return metres


def parse_unit(text: str) -> float:
    """Metres in one unit of a cloud: `m`, `ft`, `mm`, ... or a number of metres."""
    if text.lower() in METRES:
        return float(METRES[text.lower()])
    return parse_length(text, "--unit", bare="m")


def format_length(metres: float) -> str:
    """The shortest usual spelling: 0.1 -> '10cm', 0.005 -> '5mm', 2.0 -> '2m'."""
    for unit in ("m", "cm", "mm"):
        value = Decimal(repr(round(metres, 9))) / METRES[unit]
        if value >= 1 or unit == "mm":
            return f"{value.normalize():f}{unit}"
    raise AssertionError("the last unit always returns")


def rounded_length(metres: float) -> str:
    """`format_length` of a measured length, rounded to two significant digits: 0.2473 -> '25cm'."""
    return format_length(float(f"{metres:.2g}"))


def nearest_round(metres: float) -> float:
    """The number of the form 1, 2 or 5 times a power of ten whose ratio to a length is nearest to 1."""
    power = math.floor(math.log10(metres))
    choices = [float(f"{step}e{n}") for n in (power, power + 1) for step in (1, 2, 5)]
    return min(choices, key=lambda one: abs(math.log(one / metres)))
