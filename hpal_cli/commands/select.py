"""hpal select: the points to ask about."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hpal_cli.commands import options as opt
from hpal_cli.commands.console import Console, Output, open_input
from hpal_cli.commands.history import this_call
from hpal_cli.errors import HpalError

NAME = "select"


def command(
    scores: Annotated[
        Path | None,
        typer.Argument(metavar="SCORES", help="Scored points (PLY).  [stdin]", show_default=False),
    ] = None,
    budget: Annotated[str, typer.Option(help="0.02% of the pool, 2600 points, or 20/scene.")] = "0.02%",
    fds_r: Annotated[
        str | None,
        typer.Option(metavar="LENGTH", help="Radius in which alike points suppress (bare: metres).  [0.2]"),
    ] = None,
    fds_tau: Annotated[
        float | None, typer.Option(metavar="COSINE", help="Similarity above which points are alike.  [0.8]")
    ] = None,
    no_fds: Annotated[bool, typer.Option("--no-fds", help="The plain top of the list.")] = False,
    suppress_labelled: Annotated[
        bool, typer.Option("--suppress-labelled", help="Points labelled before suppress too.")
    ] = False,
    max_per_scene: Annotated[int | None, typer.Option(min=1, metavar="N", help="At most this many a scene.")] = None,
    source: Annotated[
        Path | None,
        typer.Option(metavar="STORE", help="Predictions that were scored, if not where the stream says."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            metavar="FILE",
            help="Where the picks go.  [stdout; selection.ply at a terminal]",
        ),
    ] = None,
    labels: opt.Answered = None,
    no_history: opt.NoHistory = False,
    overwrite: opt.Overwrite = False,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = False,
) -> None:
    """Select points within a budget. The highest scores win, but none near a pick that looks alike (FDS)."""
    from hpal_cli.errors import UsageError
    from hpal_cli.label.store import LabelStore
    from hpal_cli.lengths import parse_length
    from hpal_cli.select.budget import Budget
    from hpal_cli.select.fds import RADIUS, SIMILARITY, Suppression
    from hpal_cli.select.selector import SCORED, find_predictions, select
    from hpal_cli.stream.header import require_columns
    from hpal_cli.stream.points import PointReader, write_points
    from hpal_cli.stream.viewer_names import for_viewers

    console = Console(NAME, quiet=quiet, verbose=verbose)
    asked = fds_r is not None or fds_tau is not None or suppress_labelled
    if no_fds and asked:
        raise UsageError("--no-fds", "contradicts --fds-r, --fds-tau and --suppress-labelled", "drop one of them")
    radius = RADIUS if fds_r is None else parse_length(fds_r, "--fds-r", bare="m")
    suppression = None if no_fds else Suppression(radius, SIMILARITY if fds_tau is None else fds_tau)
    limit = Budget.parse(budget)
    with (
        open_input(scores) as (data, subject),
        (out := Output(output, "selection.ply", overwrite=overwrite)).open() as stream,
    ):
        reader = PointReader(data, subject)
        require_columns(reader.header, SCORED, subject, "hpal score")
        beside = None if scores is None else scores.parent
        predictions = find_predictions(reader.header, source, beside, needed=suppression is not None)
        if suppression is not None and predictions is None:
            where = reader.header.source or "an unnamed source"
            if asked or reader.header.features is None:
                raise HpalError(
                    subject,
                    f"was scored from {where}, which has no features",
                    "add --no-fds, or name them with --source",
                )
            console.say(f"{where} holds no features yet, so no FDS: the highest scores are taken")
            suppression = None
        selection = select(
            reader,
            budget=limit,
            suppression=suppression,
            predictions=predictions,
            labels=None if labels is None else LabelStore(labels),
            suppress_labelled=suppress_labelled,
            max_per_scene=max_per_scene,
            history=None if no_history else this_call(NAME),
            monitor=console,
        )
        rows = selection.rows if out.path is None else for_viewers(selection.rows)
        write_points(stream(), selection.header, rows)
    _summary(console, selection.scenes, len(selection.rows), selection.budget, selection.pool)
    if selection.exhausted:
        console.say(
            f"exhausted: {len(selection.rows):,} of {selection.budget:,}, "
            + ("every other candidate is like a pick near it" if suppression else "there are no more candidates")
            + (f" (at most {max_per_scene} a scene)" if max_per_scene else "")
        )
    if out.path:
        console.say(f"{out.path}: open it in CloudCompare or MeshLab")
    if out.path and out.guessed:
        console.say(
            f"next: hpal label {out.path} --oracle scenes.zarr -o labels.zarr  (or: --table queries.csv for a person)"
        )


def _summary(console: Console, scenes: list, chosen: int, budget: int, pool: int) -> None:
    suppressed = sum(s.suppressed for s in scenes)
    hit = sum(s.chosen > 0 for s in scenes)
    share = f" ({100 * chosen / pool:.3g} % of {pool:,})" if pool else ""
    console.say(
        f"selected {chosen:,} points{share} in {hit} of {len(scenes)} scenes; "
        f"{suppressed:,} candidates suppressed on the way"
    )
    if console.verbose:
        rows = [
            (s.name, f"{s.visited:,}", f"{s.suppressed:,}", f"{s.chosen:,}", "yes" if s.exhausted else "")
            for s in scenes
        ]
        console.table(("scene", "visited", "suppressed", "chosen", "exhausted"), rows)
