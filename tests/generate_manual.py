"""Writes man/ anew, or says how it would be: hpal(1) and a page for each command, from the texts of --help."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer
import typer.main

from hpal_cli import __version__
from hpal_cli.commands.app import app

FOLDER = Path(__file__).parents[1] / "man"


def pages() -> dict[str, str]:
    """The text of each page, by its file name."""
    group: Any = typer.main.get_command(app)
    root = typer.Context(group, info_name="hpal")
    made = {"hpal.1": _page(group, root, group.commands)}
    for name, command in group.commands.items():
        made[f"hpal-{name}.1"] = _page(command, typer.Context(command, info_name=name, parent=root), ())
    return made


def _page(command: Any, ctx: Any, commands: Any) -> str:
    name = ctx.command_path.replace(" ", "-")
    summary, _, rest = command.help.replace("\n", " ").strip().partition(". ")
    lines = [
        f'.TH {name.upper()} 1 "" "hpal {__version__}" "hpal"',
        *(".SH NAME", rf"{_roff(name)} \- {_roff(summary.rstrip('.'))}"),
        *(
            ".SH SYNOPSIS",
            f".B {_roff(ctx.command_path)}",
            *(_roff(part) for part in command.collect_usage_pieces(ctx)),
        ),
        *(".SH DESCRIPTION", _roff(f"{summary.rstrip('.')}. {rest}".strip())),
    ]
    if commands:
        lines.append(".SH COMMANDS")
        for other, one in commands.items():
            lines += [".TP", rf"\fB{_roff(other)}\fR", f"{_roff(one.get_short_help_str(200))}"]
    for title, kind in (("ARGUMENTS", "argument"), ("OPTIONS", "option")):
        records = [p.get_help_record(ctx) for p in command.get_params(ctx) if p.param_type_name == kind]
        if records := [record for record in records if record]:
            lines.append(f".SH {title}")
            for words, text in records:
                lines += [".TP", rf"\fB{_roff(words)}\fR", _roff(" ".join(text.split()))]
    if command.epilog:
        status, _, more = " ".join(command.epilog.split()).removeprefix("Exit status: ").partition(". ")
        lines += [".SH EXIT STATUS", _roff(f"{status}."), ".SH ANYWHERE IN A CALL", _roff(more)]
    others = [rf"\fB{_roff(f'hpal-{other}')}\fR(1)" for other in commands] or [r"\fBhpal\fR(1)"]
    lines += [".SH SEE ALSO", ",\n".join(others)]
    return "\n".join(line for line in lines if line) + "\n"


def _roff(text: str) -> str:
    """Plain text as roff has it: no character steers, and a hyphen can be copied as one."""
    escaped = text.replace("\\", r"\e").replace("-", r"\-")
    return rf"\&{escaped}" if escaped.startswith((".", "'")) else escaped


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, text in pages().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
