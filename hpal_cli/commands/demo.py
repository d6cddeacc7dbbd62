"""hpal demo: a small campaign on synthetic rooms."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hpal_cli.commands import options as opt
from hpal_cli.commands.console import Console

NAME = "demo"


def command(
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="DIR", help="Folder for all files of the demo.")
    ] = Path("hpal-demo"),
    rooms: Annotated[
        int,
        typer.Option(min=2, max=40, metavar="N", help="Number of synthetic rooms. Three in ten are for validation."),
    ] = 10,
    points: Annotated[
        int, typer.Option(min=500, metavar="N", help="Number of points in a room of average size.")
    ] = 100_000,
    answers: Annotated[
        int | None,
        typer.Option(
            min=2,
            metavar="N",
            help="Number of answers in all rounds together; the first round takes half of them.  [one for each "
            "thousand grid points of the training rooms, but at least 100]",
            show_default=False,
        ),
    ] = None,
    rounds: Annotated[int, typer.Option(min=0, metavar="N", help="Number of rounds after the first answers.")] = 4,
    seed: opt.Seed = 0,
    overwrite: opt.Overwrite = False,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = False,
) -> None:
    """Run a small campaign on synthetic rooms. It goes through all steps, from scans to a learning curve and pictures,
    and leaves the files of each step to look at."""
    from hpal_cli.commands.demo_campaign import Campaign

    campaign = Campaign(
        Console(NAME, quiet=quiet, verbose=verbose),
        output,
        rooms=rooms,
        points=points,
        answers=answers,
        rounds=rounds,
        seed=seed,
    )
    campaign.run(overwrite=overwrite)
