"""hpal view: a file in the browser."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hpal_cli.commands import options as opt
from hpal_cli.commands.console import Console

NAME = "view"


def command(
    path: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="Scenes, predictions, what was spread, labels, a selection, or a cloud (PLY, LAS, E57 ...).",
            show_default=False,
        ),
    ],
    source: Annotated[
        Path | None,
        typer.Option(metavar="STORE", help="The scenes behind it, if not where it says."),
    ] = None,
    scenes: opt.Scenes = None,
    host: opt.Host = "127.0.0.1",
    port: opt.Port = None,
    no_browser: opt.NoBrowser = False,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = False,
) -> None:
    """Look at points in the browser: coloured by any column, beside the truth, with what is known of each."""
    from hpal_cli.commands.serving import run_page
    from hpal_cli.page.view import open_view

    console = Console(NAME, quiet=quiet, verbose=verbose)
    desk = open_view(path, source=source, scenes=opt.as_list(scenes))
    run_page(console, desk, host=host, port=port, browser=not no_browser)
