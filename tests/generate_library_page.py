"""Writes the reference of docs/library.md anew, or says how it would be: the calls and types of the library, from their
signatures and docstrings."""

from __future__ import annotations

import inspect
import re
import textwrap
from pathlib import Path
from typing import Any

from hpal_cli import library

PAGE = Path(__file__).parents[1] / "docs" / "library.md"

MARK = "<!-- from here on, tests/generate_library_page.py writes this page -->\n"


def page(text: str) -> str:
    """The page, whose part after the mark is made from the docstrings."""
    written, mark, _ = text.partition(MARK)
    assert mark, f"{PAGE} has no line {MARK!r}"
    calls = "\n".join(_call(name) for name in library.CALLS)
    types = "\n".join(_type(name) for name in library.TYPES)
    return f"{written}{MARK}\n## Calls\n\n{calls}\n## Types\n\n{types}".rstrip() + "\n"


def _call(name: str) -> str:
    found = getattr(library, name)
    return f"### {name}\n\n```python\n{_signature(name, found)}\n```\n\n{_prose(found)}\n"


def _type(name: str) -> str:
    """A class: what it is, and what can be asked of it."""
    found = getattr(library, name)
    lines = [f"### {name}\n\n{_prose(found)}\n"]
    members = {key: one for key, one in vars(found).items() if not key.startswith("_")}
    for key, one in members.items():
        if not inspect.isfunction(one) or (inspect.getdoc(one) or "Raises:").startswith("Raises:"):
            continue
        parameters = list(inspect.signature(one).parameters.values())[1:]
        words = ", ".join(_parameter(parameter, types=False) for parameter in _starred(parameters))
        summary = re.split(r"\n\n|(?<=\.)\s", _doc(one))[0].replace("\n", " ")
        lines.append(f"- `{key}({words})`: {summary}")
    return "\n".join([*lines, ""]) if len(lines) > 1 else lines[0]


def _starred(parameters: list[inspect.Parameter]) -> list[inspect.Parameter | None]:
    """The parameters, with None where those that have names only begin."""
    listed: list[inspect.Parameter | None] = []
    for parameter in parameters:
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY and None not in listed:
            listed.append(None)
        listed.append(parameter)
    return listed


def _parameter(parameter: inspect.Parameter | None, *, types: bool = True) -> str:
    if parameter is None:
        return "*"
    text = "**" * (parameter.kind is inspect.Parameter.VAR_KEYWORD) + parameter.name
    if types:
        text += f": {parameter.annotation}"
    if parameter.default is inspect.Parameter.empty:
        return text
    return f"{text} = {parameter.default!r}" if types else f"{text}={parameter.default!r}"


def _signature(name: str, found: Any) -> str:
    signature = inspect.signature(found)
    words = [_parameter(parameter) for parameter in _starred(list(signature.parameters.values()))]
    result = f" -> {signature.return_annotation}"
    line = f"{name}({', '.join(words)}){result}"
    return line if len(line) <= 100 else "\n".join([f"{name}(", *(f"    {word}," for word in words), f"){result}"])


def _doc(found: Any) -> str:
    text = inspect.getdoc(found)
    assert text, found
    return text


def _prose(found: Any) -> str:
    """The docstring as Markdown: arguments and errors as lists."""
    parts = re.split(r"^(Args|Raises):\n", _doc(found), flags=re.MULTILINE)
    titles = {"Args": "Arguments", "Raises": "Errors"}
    text = parts[0].strip()
    for title, body in zip(parts[1::2], parts[2::2], strict=True):
        entries = re.split(r"\n(?=\S)", textwrap.dedent(body).strip())
        listed = []
        for entry in entries:
            name, _, said = entry.partition(": ")
            listed.append(f"- `{name}`: {' '.join(said.split())}")
        text += f"\n\n{titles[title]}:\n\n" + "\n".join(listed)
    return text


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
