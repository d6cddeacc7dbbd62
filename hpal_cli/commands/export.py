"""hpal export: any store as files for viewers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hpal_cli.commands import options as opt
from hpal_cli.commands.console import Console
from hpal_cli.errors import UsageError

NAME = "export"


def command(
    store: Annotated[Path, typer.Argument(metavar="STORE", help="Scenes, predictions or labels store.")],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="DIR", help="Folder for the files, one a scene.")],
    format: Annotated[str, typer.Option(help="ply, las or csv.")] = "ply",
    color: Annotated[str, typer.Option(help="rgb as scanned, class, or auto.")] = "auto",
    split: Annotated[str, typer.Option(help="train, val, test or all.")] = "all",
    scenes: opt.Scenes = None,
    overwrite: opt.Overwrite = False,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = False,
) -> None:
    """Write a store as PLY, LAS or CSV, a file a scene."""
    from hpal_cli.export.clouds import clouds
    from hpal_cli.export.writers import FORMATS, scene_path, write
    from hpal_cli.store.envelope import kind_of

    console = Console(NAME, quiet=quiet, verbose=verbose)
    for option, value, known in (("--format", format, FORMATS), ("--color", color, ("auto", "rgb", "class"))):
        if value not in known:
            raise UsageError(option, f"{value!r} is unknown", f"choose from {', '.join(known)}")
    if scenes is not None and kind_of(store) == "labels":
        raise UsageError("--scenes", "has no meaning for a labels store", "leave it out")
    files = 0
    for name, cloud in clouds(store, split, tuple(opt.as_list(scenes)), color=color):
        path = scene_path(output, name, format)
        write(cloud, path, overwrite=overwrite)
        console.debug(f"{path}: {len(cloud.position):,} points")
        files += 1
    console.say(f"{output}/: {files} {format.upper()} files")
