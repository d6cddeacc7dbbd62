"""hpal view: show a file in the browser."""

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
            help="What to show: a scenes, predictions or labels store, the output of `hpal spread`, a selection, "
            "or a point cloud (PLY, LAS, E57 and others).",
            show_default=False,
        ),
    ],
    source: Annotated[
        Path | None,
        typer.Option(
            metavar="STORE",
            help="Scenes store that the file belongs to, if it was moved since; the file names the place where it was.",
        ),
    ] = None,
    scenes: opt.Scenes = None,
    host: opt.Host = "127.0.0.1",
    port: opt.Port = None,
    no_browser: opt.NoBrowser = False,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = False,
) -> None:
    """Look at points in the browser. The page colours them by any column, shows the truth beside them where there is
    any, and tells what is known of each point."""
    from hpal_cli.commands.serving import run_page
    from hpal_cli.page.view import open_view

    console = Console(NAME, quiet=quiet, verbose=verbose)
    page_api = open_view(path, source=source, scenes=opt.as_list(scenes))
    run_page(console, page_api, host=host, port=port, browser=not no_browser)
