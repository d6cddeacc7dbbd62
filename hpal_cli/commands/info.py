"""hpal info: describe a file of hpal."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path
from typing import Annotated

import typer

from hpal_cli.commands import options as opt
from hpal_cli.commands.console import Console, open_input
from hpal_cli.errors import UsageError

NAME = "info"


def command(
    path: Annotated[
        Path | None,
        typer.Argument(metavar="FILE", help="A store, a checkpoint or a point stream.  [a stream from stdin]"),
    ] = None,
    check: Annotated[
        bool,
        typer.Option("--check", help="Read the whole file and check that it is complete, undamaged and consistent."),
    ] = False,
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            help="Describe the installation instead of a file: the versions of hpal, Python and the libraries, the "
            "machine, the backends and the compiled kernels.",
        ),
    ] = False,
    json_output: opt.Json = False,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = False,
) -> None:
    """Describe a file: its kind, counts, classes and history."""
    from hpal_cli.info import describe, describe_stream

    console = Console(NAME, quiet=quiet, verbose=verbose, as_json=json_output)
    if version:
        if path is not None or check:
            raise UsageError("--version", "describes no file", "leave out the file and --check")
        from hpal_cli.installation import installation

        name, found = "hpal", installation()
    elif path is None or str(path) == "-":
        with open_input(path) as (file, name):
            found = describe_stream(file, name)
    else:
        name, found = str(path), describe(path, check=check, monitor=console)
    if json_output:
        console.report(found.to_json())
        return
    console.data(f"{name}: {found.kind}")
    lines = list(found.lines())
    width = max((len(what) for what, _ in lines), default=0)
    for what, text in lines:
        console.data(f"  {what:<{width}}  {text}")
    if found.table:
        print()
        console.table(*found.cells(), data=True)
    if found.history:
        print("\nhistory")
        # Each answer that is given on the labelling page is an entry, so equal ones in a row are counted.
        for line, equal in groupby(map(str, found.history)):
            count = sum(1 for _ in equal)
            console.data(f"  {line}" + (f"  ({count} times)" if count > 1 else ""))
    if check:
        print("\nwhole and consistent")
