"""Formats and measures the texts of pictures."""

from __future__ import annotations


def in_metres(value: float, digits: int = 2) -> str:
    """A length in metres as text: below 100 m with `digits` significant digits, else in whole metres. The space before
    the unit is a non-breaking one, so that number and unit stay on one line."""
    return f"{value:,.0f}\u00a0m" if value >= 100 else f"{value:.{digits}g}\u00a0m"


def round_length(most: float) -> float:
    """The largest number of the form 1, 2 or 5 times a power of ten that is not above `most`; 0 if there is none."""
    return max((m * 10.0**e for e in range(-9, 10) for m in (1, 2, 5) if m * 10.0**e <= most), default=0.0)


def text_width(text: str, size: float, weight: str = "normal") -> float:
    """Width of a text in inches, measured without a renderer. size: of the letters, in points."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextPath

    if not text.strip():
        return 0.0
    # matplotlib would read a dollar as the start of a formula.
    path = TextPath((0, 0), text.replace("$", "S"), prop=FontProperties(weight=weight, size=size))
    return float(path.get_extents().width) / 72


def shortened(name: str, letters: int = 28) -> str:
    """Shortens a name to at most `letters` letters. Its middle is replaced by dots, so that names that only differ at
    their ends stay different."""
    if len(name) <= letters:
        return name
    end = (letters - 3) * 11 // 25
    return f"{name[: letters - 3 - end]}...{name[-end:]}"
