"""hpal score: how much each point's label would teach."""

from __future__ import annotations

from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated

import typer

from hpal_cli.commands import options as opt
from hpal_cli.commands.console import Console, Output
from hpal_cli.commands.history import this_call
from hpal_cli.errors import UsageError

if TYPE_CHECKING:
    from hpal_cli.stream.header import Header

NAME = "score"

STRATEGIES = ("hmmu", "mmu", "lc", "entropy", "random")


def command(
    predictions: Annotated[
        Path, typer.Argument(metavar="STORE", help="Predictions store (or scenes store, for `random`).")
    ],
    strategy: Annotated[
        str, typer.Option(help=f"{', '.join(STRATEGIES)}.", autocompletion=lambda: list(STRATEGIES))
    ] = "hmmu",
    levels: Annotated[
        list[str] | None,
        typer.Option(metavar="LENGTHS", help="Voxel edges of HMMU (bare: centimetres).  [10,50,100]"),
    ] = None,
    weights: Annotated[
        list[str] | None, typer.Option(metavar="NUMBERS", help="One weight a level.  [0.1,0.01,0.001]")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="FILE", help="Where the points go.  [stdout; scores.ply at a terminal]"),
    ] = None,
    split: Annotated[str, typer.Option(help="The pool: train, val, test or all.")] = "train",
    scenes: opt.Scenes = None,
    labels: opt.Answered = None,
    seed: opt.Seed = 0,
    jobs: opt.Jobs = 1,
    no_history: opt.NoHistory = False,
    overwrite: opt.Overwrite = False,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = False,
) -> None:
    """Score every unlabelled point. The higher the score, the more the point's label would teach."""
    if strategy not in STRATEGIES:
        raise UsageError("--strategy", f"{strategy!r} is unknown", f"choose from {', '.join(STRATEGIES)}")
    from hpal_cli.label.store import LabelStore
    from hpal_cli.lengths import format_length, parse_length
    from hpal_cli.score.hmmu import LEVELS, Hierarchy, default_weights
    from hpal_cli.score.scorer import Strategy, score

    console = Console(NAME, quiet=quiet, verbose=verbose)
    edges = tuple(parse_length(text, "--levels", bare="cm") for text in opt.as_list(levels)) or LEVELS
    hierarchy = Hierarchy(edges, tuple(opt.as_numbers(weights, "--weights")) or default_weights(edges))
    out = Output(output, "scores.ply", overwrite=overwrite)
    how = f"hmmu at {', '.join(map(format_length, edges))}" if strategy == "hmmu" else strategy

    def begin(header: Header) -> IO[bytes]:
        # Before the first byte: whoever reads from the pipe draws its bar from then on.
        to = f" -> {out.path}" if out.path else ""
        console.say(f"scoring {header.count:,} points of {len(header.pool)} scenes ({how}){to}")
        return stream()

    with out.open() as stream:
        score(
            predictions,
            begin,
            strategy=Strategy(strategy),
            hierarchy=hierarchy,
            split=split,
            scenes=opt.as_list(scenes),
            labels=None if labels is None else LabelStore(labels),
            seed=seed,
            jobs=jobs,
            history=None if no_history else this_call(NAME, seed=seed if strategy == "random" else None),
            monitor=console,
        )
    if out.path and out.guessed:
        console.say(f"next: hpal select {out.path}")
