"""hpal export: write a store as files for viewers and other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hpal_cli.commands import options as opt
from hpal_cli.commands.console import Console

NAME = "export"


def command(
    context: typer.Context,
    store: Annotated[Path, typer.Argument(metavar="STORE", help="Scenes, predictions or labels store.")],
    output: Annotated[
        Path,
        typer.Option(
            "-o",
            "--output",
            metavar="DIR",
            help="Folder for the files: one for each scene, or with --original one for each file that was read.",
        ),
    ],
    original: Annotated[
        Path | None,
        typer.Option(
            metavar="STORE",
            help="Scenes store. Write all points as they were read into it, each with the result of its grid "
            "point, instead of the grid points.",
        ),
    ] = None,
    format: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Format of the files: ply, las, laz or csv. With --original, predictions can also be written in "
            "the formats of two benchmarks, scannet and semantickitti.",
        ),
    ] = "ply",
    uncompressed: opt.Uncompressed = False,
    color: opt.Color = "auto",
    split: opt.Split = "all",
    scenes: opt.Scenes = None,
    scheduler: opt.Scheduler = None,
    overwrite: opt.Overwrite = False,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = False,
) -> None:
    """Write a store as files for viewers. Each scene becomes one PLY, LAS, LAZ or CSV file."""
    from hpal_cli.export.benchmarks import NAMES
    from hpal_cli.export.files import export
    from hpal_cli.wording import counted

    console = Console(NAME, quiet=quiet, verbose=verbose)
    with opt.workers(context, 1, scheduler, console) as workers:
        done = export(
            store,
            output,
            format,
            original=original,
            color=color,
            uncompressed=uncompressed,
            split=split,
            scenes=opt.as_list(scenes),
            overwrite=overwrite,
            jobs=workers,
            monitor=console,
        )
    kind = NAMES.get(format, format.upper())
    what = "original point" if original is not None else "point"
    console.say(f"{output}/: {counted(len(done.paths), f'{kind} file')}, {counted(done.points, what)}")
