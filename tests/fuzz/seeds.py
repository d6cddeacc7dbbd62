"""Inputs to begin with: `python seeds.py KERNEL FOLDER`. Tables of numbers are too long to be found by chance."""

import random
import sys
from pathlib import Path

name, folder = sys.argv[1], Path(sys.argv[2])
rng = random.Random(0)


def token() -> str:
    """A number as scanners, spreadsheets and people write them."""
    value = rng.uniform(-100, 100) * 10 ** rng.choice([0, 0, 0, 4, -8])
    plain = [f"{value:.3f}", str(int(value)), f"{value:.12f}", f"{value:e}", f"+{abs(value):g}", repr(value)]
    return rng.choice([*plain, "0", "-0", "nan", "1e400", "255"])


def table(width: int, lines: int, plain: bool, separator: str) -> bytes:
    rows = [[f"{rng.uniform(-99, 99):.3f}" if plain else token() for _ in range(width)] for _ in range(lines)]
    return "\n".join(separator.join(row) for row in rows).encode()


if name == "numbers":
    for width in (1, 3, 6, 9):
        for lines in (1, 40, 300):
            for plain in (True, False):
                which = rng.randrange(3)
                head = bytes([which, rng.randrange(2), 0, width - 1, 0, 1])
                body = table(width, lines, plain, " ,;"[which])
                (folder / f"seed-{width}-{lines}-{plain}").write_bytes(head + body)
else:
    for n in range(20):
        (folder / f"seed-{n}").write_bytes(bytes(rng.randrange(256) for _ in range(200 * n + 20)))
