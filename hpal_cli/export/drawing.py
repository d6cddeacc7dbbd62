"""Text and lengths on pictures."""

from __future__ import annotations


def in_metres(value: float, digits: int = 2) -> str:
    """A length for people; the space keeps number and unit on one line."""
    return f"{value:,.0f}\u00a0m" if value >= 100 else f"{value:.{digits}g}\u00a0m"


def round_length(most: float) -> float:
    """The longest of 1, 2 and 5 times a power of ten that is not longer than `most`; 0 where there is none."""
    return max((m * 10.0**e for e in range(-9, 10) for m in (1, 2, 5) if m * 10.0**e <= most), default=0.0)


def text_width(text: str, size: float, weight: str = "normal") -> float:
    """Inches of a text of so many points, without a renderer."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextPath

    if not text.strip():
        return 0.0
    # A dollar would be read as the start of a formula.
    path = TextPath((0, 0), text.replace("$", "S"), prop=FontProperties(weight=weight, size=size))
    return float(path.get_extents().width) / 72


def shortened(name: str, letters: int = 28) -> str:
    """Names that only differ at their end stay apart."""
    if len(name) <= letters:
        return name
    end = (letters - 3) * 11 // 25
    return f"{name[: letters - 3 - end]}...{name[-end:]}"
