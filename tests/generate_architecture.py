"""Which folder of the library imports which, read from the source. As a script, it draws docs/architecture.md anew."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "hpal_cli"
PAGE = Path(__file__).parents[1] / "docs" / "architecture.md"

BEGIN = "<!-- begin: tests/generate_architecture.py draws this -->\n"
END = "<!-- end -->\n"

ORDER = (
    # Single modules that any folder may use.
    *("errors", "wording", "lengths", "budget", "cells", "voxels", "parallel", "compiled", "progress", "system"),
    *("classes", "history"),
    # Raw clouds become scenes, and points pass through pipes and into files.
    *("store", "readers", "scenes", "stream", "writers"),
    # What is known of a scene's points.
    *("superpoints", "network", "predictions", "trees", "labels"),
    # From the answers for a few points to classes for all of them.
    *("spread", "training", "forest", "inference"),
    # Which points to ask for next, the answers, and how good the result is.
    *("score", "select", "label", "evaluate", "export", "page"),
    # The loop as a whole.
    *("demo", "info", "library", "commands", "__main__"),
)
"""The folders and single modules of `hpal_cli`: each may import those before it, and none after it."""

CALLABLE = "callable_package"
"""A folder that is a call too looks that call up in `library`, when it is called."""


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
                if target not in (source, CALLABLE) and source not in ("__init__", CALLABLE):
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
        return any(a == start and (b == goal or reaches(b, goal)) for a, b in run)

    return {
        (a, c): typing
        for (a, c), typing in seen.items()
        if typing or not any(x == a and b != c and reaches(b, c) for x, b in run)
    }


def drawing() -> str:
    """The graph for Mermaid; dotted: for types alone."""
    drawn = sorted(reduced(edges(imports())).items(), key=lambda one: tuple(map(ORDER.index, one[0])))
    lines = [f"  {a} {'-.->' if typing else '-->'} {b}" for (a, b), typing in drawn]
    return "\n".join(["```mermaid", "flowchart BT", *lines, "```", ""])


def page(text: str) -> str:
    """The page with the drawing as it is now between its two marks."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    assert begin, f"{PAGE} has no line {BEGIN!r}"
    assert end, f"{PAGE} has no line {END!r}"
    return f"{before}{begin}{drawing()}{end}{after}"


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
