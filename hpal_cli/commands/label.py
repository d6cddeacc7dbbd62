"""hpal label: answers to the chosen points."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hpal_cli.commands import options as opt
from hpal_cli.commands.console import Console, Output, open_input, require_other
from hpal_cli.commands.history import this_call
from hpal_cli.errors import UsageError

if TYPE_CHECKING:
    from hpal_cli.label.store import LabelStore
    from hpal_cli.stream.rows import Rows

NAME = "label"


def command(
    selection: Annotated[
        Path | None,
        typer.Argument(metavar="SELECTION", help="Selected points (PLY).  [stdin]", show_default=False),
    ] = None,
    oracle: Annotated[
        Path | None,
        typer.Option(metavar="SCENES", help="Scenes store with the truth: answers for the selected points."),
    ] = None,
    table: Annotated[
        Path | None, typer.Option(metavar="CSV", help="Write the queries as a table for a person to fill in.")
    ] = None,
    answered: Annotated[
        Path | None, typer.Option("--from", metavar="CSV", help="Take the answers of a filled-in table.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            metavar="STORE",
            help="Labels store: made if missing, grows if there. A .ply or a pipe gets the points with their labels.",
        ),
    ] = None,
    source: Annotated[
        Path | None,
        typer.Option(
            metavar="STORE", help="Predictions that were scored (--table), or what a first --from belongs to."
        ),
    ] = None,
    overwrite: opt.Overwrite = False,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = False,
) -> None:
    """Answer the selected points, by an oracle or a person."""
    console = Console(NAME, quiet=quiet, verbose=verbose)
    ways = [
        name for name, value in (("--oracle", oracle), ("--table", table), ("--from", answered)) if value is not None
    ]
    if len(ways) != 1:
        found = " and ".join(ways) if ways else "none of --oracle, --table, --from"
        raise UsageError("label", f"{found} given", "choose one: --oracle SCENES, --table CSV or --from CSV")
    to_stream = oracle is not None and (output is None or str(output) == "-" or output.suffix == ".ply")
    if table is None and output is None and (not to_stream or sys.stdout.isatty()):
        raise UsageError("-o", "is missing", "name the labels store: -o labels.zarr")
    unused = [
        name
        for name, given in (
            ("-o", table is not None and output is not None),
            ("SELECTION", answered is not None and selection is not None),
            ("--source", oracle is not None and source is not None),
            ("--overwrite", overwrite and table is None and not to_stream),
        )
        if given
    ]
    if unused:
        raise UsageError(unused[0], f"has no meaning with {ways[0]}", "leave it out")
    if oracle is not None:
        _ask_oracle(console, selection, oracle, output, to_stream=to_stream, overwrite=overwrite)
    elif table is not None:
        _write_table(console, selection, table, source, overwrite)
    elif answered is not None and output is not None:
        _take_answers(console, answered, output, source)


def _ask_oracle(
    console: Console, selection: Path | None, oracle: Path, output: Path | None, *, to_stream: bool, overwrite: bool
) -> None:
    from hpal_cli.label.oracle import answer
    from hpal_cli.label.regions import by_regions
    from hpal_cli.label.store import LabelStore
    from hpal_cli.scenes.store import SceneStore
    from hpal_cli.stream.header import require_columns, require_scenes, require_selected
    from hpal_cli.stream.points import PointReader, write_points
    from hpal_cli.stream.rows import picked, with_column
    from hpal_cli.stream.viewer_names import for_viewers

    store = SceneStore(oracle)
    out = Output(output, "labelled.ply", overwrite=overwrite) if to_stream else None
    with open_input(selection) as (data, subject):
        reader = PointReader(data, subject)
        require_selected(reader.header, subject)
        require_columns(reader.header, ("scene", "index"), subject, "hpal select")
        require_scenes(reader.header, store.table.id, subject, oracle, "give the scenes that were predicted")
        asked = picked(reader.read())
    answers = answer(store, asked, subject)
    by_click = by_regions(asked, answers["label"], reader.header.strategy)
    if by_click is not None:
        answers["label"] = by_click.label
        asked, answers = asked[by_click.mask], answers[by_click.mask]
        console.say(f"{by_click.clicks:,} clicks answer {len(answers):,} of {len(by_click.mask):,} points, by region")
    if out is not None:
        header = reader.header.then("labelled", this_call(NAME))
        rows = with_column(asked, "label", answers["label"])
        with out.open() as stream:
            write_points(stream(), header, rows if out.path is None else for_viewers(rows))
        console.say(f"{len(rows):,} points answered" + (f" -> {out.path}" if out.path else ""))
        return
    assert output is not None
    labels = LabelStore.at(output, store.classes, store.table, unit=store.unit, subject=oracle)
    fresh = labels.without_repeats(answers)
    if len(fresh) < len(answers):
        again = f"{len(answers) - len(fresh):,} of these points were answered before"
        console.warn(f"{again}; score --labels {output} leaves them out")
    if len(fresh):
        _add(console, labels, fresh, f"oracle {oracle}")
    else:
        console.say(f"{labels.path}: nothing new")


def _write_table(console: Console, selection: Path | None, table: Path, source: Path | None, overwrite: bool) -> None:
    from hpal_cli.label.spreadsheet import write_queries
    from hpal_cli.select.selector import find_predictions
    from hpal_cli.stream.header import require_columns, require_scenes, require_selected
    from hpal_cli.stream.points import PointReader
    from hpal_cli.stream.rows import REGION, picked

    with open_input(selection) as (data, subject):
        reader = PointReader(data, subject)
        require_selected(reader.header, subject)
        require_columns(reader.header, ("x", "y", "z", "scene", "index"), subject, "hpal select")
        rows = picked(reader.read())
    require_other(table, [selection], "--table")
    if str(table) == "-":
        raise UsageError("--table", "a table is a file", "name it, like --table queries.csv")
    if REGION in (rows.dtype.names or ()):
        console.warn("these are all points of whole regions, a row each: an oracle answers them by the region")
    predictions = find_predictions(reader.header, source, None if selection is None else selection.parent, needed=False)
    if predictions is not None:
        require_scenes(reader.header, predictions.table.id, subject, predictions.path, "give the store that was scored")
    write_queries(rows, reader.header, table, predictions=predictions, overwrite=overwrite)
    names = "a class" if predictions is None else f"one of {', '.join(predictions.classes.names)}"
    console.say(f"{table}: {len(rows):,} queries; fill in the column `label`: {names}, `unsure`, or nothing")
    where = source or reader.header.source or "predictions.zarr"
    console.say(f"next: hpal label --from {table} --source {where} -o labels.zarr")


def _take_answers(console: Console, answered: Path, output: Path, source: Path | None) -> None:
    from hpal_cli.label.spreadsheet import read_answers
    from hpal_cli.label.store import LabelStore
    from hpal_cli.predictions.store import PredictionStore
    from hpal_cli.scenes.store import SceneStore
    from hpal_cli.store.envelope import kind_of

    scenes: PredictionStore | SceneStore | LabelStore
    if source is not None:
        kind = kind_of(source)
        scenes = PredictionStore(source) if kind == "predictions" else SceneStore(source)
    elif output.exists():
        scenes = LabelStore(output)
    else:
        raise UsageError(
            "--source", f"is missing, and {output} does not exist yet", "name the scenes or predictions store"
        )
    answers, blank = read_answers(answered, scenes.classes, scenes.table)
    if not len(answers):
        console.say(f"{answered}: no answers yet ({blank:,} blank)")
        return
    labels = LabelStore.at(output, scenes.classes, scenes.table, unit=scenes.unit, subject=scenes.path)
    fresh = labels.without_repeats(answers)
    if len(fresh) < len(answers):
        console.say(f"{len(answers) - len(fresh):,} rows say what is known already")
    if not len(fresh):
        return
    _add(console, labels, fresh, f"table {answered}")
    if blank:
        console.say(f"{blank:,} rows of {answered} are still blank")


def _add(console: Console, labels: LabelStore, answers: Rows, source: str) -> None:
    """A new round of answers, and what the store holds then."""
    batch = labels.append(answers, source, this_call(NAME)[0])
    total = int((labels.latest()["label"] >= 0).sum())
    unsure = int((answers["label"] < 0).sum())
    doubt = f" ({unsure:,} unsure)" if unsure else ""
    console.say(
        f"{labels.path}: round {batch.round}, {len(answers):,} answers{doubt}; {total:,} labelled points in all"
    )
