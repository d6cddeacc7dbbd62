"""hpal demo: a small campaign on made rooms."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hpal_cli.commands import options as opt
from hpal_cli.commands.console import Console

NAME = "demo"


def command(
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="DIR", help="Folder for everything the demo makes.")
    ] = Path("hpal-demo"),
    rooms: Annotated[
        int, typer.Option(min=2, max=40, metavar="N", help="Rooms of the office; three in ten are for validation.")
    ] = 10,
    points: Annotated[int, typer.Option(min=500, metavar="N", help="Points of a middling room.")] = 100_000,
    rounds: Annotated[int, typer.Option(min=1, metavar="N", help="Rounds of train, select and label.")] = 3,
    steps: Annotated[int, typer.Option(min=1, metavar="N", help="Training steps a round.")] = 300,
    seed: opt.Seed = 0,
    overwrite: opt.Overwrite = False,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = False,
) -> None:
    """Run a small campaign on rooms that hpal makes. The files it leaves are there to be looked at."""
    from hpal_cli.commands.demo_campaign import Campaign

    campaign = Campaign(
        Console(NAME, quiet=quiet, verbose=verbose),
        output,
        rooms=rooms,
        points=points,
        rounds=rounds,
        steps=steps,
        seed=seed,
    )
    campaign.run(overwrite=overwrite)
