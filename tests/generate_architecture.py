"""Which folder of the library imports which, read from the source. As a script, it draws imports.svg anew."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "hpal_cli"
PICTURE = Path(__file__).parents[1] / "docs" / "pictures" / "imports.svg"

ORDER = (
    # Single modules that any folder may use.
    *("errors", "wording", "lengths", "budget", "csv_cells", "progress", "parallel", "system", "compiled", "voxels"),
    *("archives", "classes", "history", "scene_table", "shard", "specification"),
    # Raw clouds become scenes, and points pass through pipes and into files.
    *("store", "readers", "scenes", "stream", "writers"),
    # What is known of a scene's points.
    *("superpoints", "network", "predictions", "trees", "labels"),
    # From the answers for a few points to classes for all of them.
    *("spreading", "training", "forest", "inference"),
    # Which points to ask for next, the answers, and how good the result is.
    *("score", "selection", "label", "evaluation", "export", "page"),
    # The loop as a whole.
    *("demo", "info", "installation", "library", "commands", "__main__"),
)
"""The folders and single modules of `hpal_cli`: each may import those before it, and none after it."""


@dataclass(frozen=True)
class Import:
    """`source`, a folder or single module of the package, imports `target` in line `line` of `path`.

    typing: under TYPE_CHECKING, so that it never runs.
    """

    source: str
    target: str
    path: Path
    line: int
    typing: bool

    def __str__(self) -> str:
        return f"{self.path.relative_to(PACKAGE.parent)}:{self.line}"


def imports() -> list[Import]:
    """All imports from one folder of the package into another, at module level and inside functions."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        source = path.relative_to(PACKAGE).with_suffix("").parts[0]
        for node, typing in _imports_in(ast.parse(path.read_text(encoding="utf-8")), typing=False):
            for target in _targets(node):
                if target != source != "__init__":
                    found.append(Import(source, target, path, node.lineno, typing))
    return found


def _imports_in(tree: ast.AST, *, typing: bool) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool]]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node, typing
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            for child in node.body:
                yield from _imports_in(ast.Module([child], []), typing=True)
            for child in node.orelse:
                yield from _imports_in(ast.Module([child], []), typing=typing)
        else:
            yield from _imports_in(node, typing=typing)


def _targets(node: ast.Import | ast.ImportFrom) -> set[str]:
    """The folders and single modules of the package that a statement imports. `__version__` is none of them."""
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    else:
        assert node.level == 0, f"line {node.lineno}: a relative import; name the whole path, as everywhere else"
        names = [f"{node.module}.{alias.name}" for alias in node.names]
    parts = [name.split(".") for name in names]
    return {part[1] for part in parts if part[0] == PACKAGE.name and len(part) > 1 and part[1] != "__version__"}


def edges(found: list[Import]) -> dict[tuple[str, str], bool]:
    """(folder, imported folder) -> whether only types are imported; single modules are left out, since any may use
    them."""
    folders = {path.name for path in PACKAGE.iterdir() if path.is_dir()}
    seen: dict[tuple[str, str], bool] = {}
    for one in found:
        if {one.source, one.target} <= folders:
            pair = one.source, one.target
            seen[pair] = seen.get(pair, True) and one.typing
    return seen


def reduced(seen: dict[tuple[str, str], bool]) -> dict[tuple[str, str], bool]:
    """Without the arrows that follow from others: where a imports b and b imports c, none from a to c is drawn."""
    run = {pair for pair, typing in seen.items() if not typing}

    def reaches(start: str, goal: str) -> bool:
        found, todo = set[str](), [start]
        while todo:
            new = {b for a, b in run if a == todo[-1]} - found
            todo[-1:] = new
            found |= new
        return goal in found

    return {
        (a, c): typing
        for (a, c), typing in seen.items()
        if typing or not any(x == a and b != c and reaches(b, c) for x, b in run)
    }


def layers(seen: dict[tuple[str, str], bool]) -> list[list[str]]:
    """The folders in rows, the lowest first: each one row above the highest that it imports."""
    names = sorted({name for pair in seen for name in pair}, key=ORDER.index)
    row: dict[str, int] = {}
    for name in names:
        row[name] = 1 + max((row[b] for a, b in seen if a == name and b in row), default=-1)
    rows: list[list[str]] = [[] for _ in range(1 + max(row.values()))]
    for name in names:
        rows[row[name]].append(name)
    # Each beside what it imports, so that few arrows cross.
    place = {name: float(n) for n, name in enumerate(rows[0])}
    for above in rows[1:]:
        middle = {name: [place[b] for a, b in seen if a == name] for name in above}
        above.sort(key=lambda name: (sum(middle[name]) / len(middle[name]) if middle[name] else 0.0, name))
        place |= {name: n - (len(above) - 1) / 2 for n, name in enumerate(above)}
    return rows


BOX, ROW, COLUMN = (104, 30), 66, 124
"""Width and height of a box, and from one row or column to the next, in pixels."""


def drawing() -> str:
    """The graph as an SVG."""
    seen = reduced(edges(imports()))
    rows = layers(seen)
    width, height = COLUMN * max(map(len, rows)), ROW * len(rows)
    at = {
        name: (width / 2 + COLUMN * (n - (len(row) - 1) / 2), height - ROW * (level + 0.5))
        for level, row in enumerate(rows)
        for n, name in enumerate(row)
    }
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">',
        '<defs><marker id="head" markerWidth="8" markerHeight="8" refX="7" refY="4" orient="auto">'
        '<path d="M0,1 L7,4 L0,7 z" fill="#5a6572"/></marker></defs>',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
    ]
    for (a, b), typing in sorted(seen.items()):
        (x, y), (u, v) = at[a], at[b]
        y, v = y + BOX[1] / 2, v - BOX[1] / 2
        bend = (v - y) / 2
        dashes = ' stroke-dasharray="4 3"' if typing else ""
        lines.append(
            f'<path d="M{x:g},{y:g} C{x:g},{y + bend:g} {u:g},{v - bend:g} {u:g},{v:g}" fill="none" stroke="#5a6572" '
            f'stroke-width="1.2" marker-end="url(#head)"{dashes}/>'
        )
    for name, (x, y) in at.items():
        corner = f'x="{x - BOX[0] / 2:g}" y="{y - BOX[1] / 2:g}"'
        lines.append(f'<rect {corner} width="{BOX[0]}" height="{BOX[1]}" rx="5" fill="#eef3f8" stroke="#5a6572"/>')
        lines.append(
            f'<text x="{x:g}" y="{y + 5:g}" text-anchor="middle" font-family="sans-serif" font-size="14">{name}</text>'
        )
    return "\n".join([*lines, "</svg>", ""])


if __name__ == "__main__":
    PICTURE.write_text(drawing(), encoding="utf-8")
