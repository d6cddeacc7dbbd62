"""hpal info: what a file is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hpal_cli.commands import options as opt
from hpal_cli.commands.console import Console

NAME = "info"


def command(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="A store, a checkpoint or a point stream.")],
    check: Annotated[bool, typer.Option("--check", help="Read everything: is it whole and consistent?")] = False,
    json_output: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = False,
) -> None:
    """Say what a file is: kind, counts, classes, history."""
    import json

    from hpal_cli.info import describe

    console = Console(NAME, quiet=quiet, verbose=verbose)
    found = describe(path, check=check, monitor=console)
    if json_output:
        print(json.dumps(found.to_json(), indent=2))
        return
    print(f"{path}: {found.kind}")
    lines = list(found.lines())
    width = max((len(what) for what, _ in lines), default=0)
    for what, text in lines:
        print(f"  {what:<{width}}  {text}")
    if found.table:
        print()
        console.table(*found.cells(), data=True)
    if found.history:
        print("\nhistory")
        for entry in found.history:
            print(f"  {entry}")
    if check:
        print("\nwhole and consistent")
