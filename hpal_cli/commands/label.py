"""hpal label: collect the labels of the chosen points."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hpal_cli.commands import options as opt
from hpal_cli.commands.console import Console, Output, free_name, open_input, require_other, typed
from hpal_cli.commands.history import this_call
from hpal_cli.errors import UsageError
from hpal_cli.wording import counted

if TYPE_CHECKING:
    from hpal_cli.label.matching import Store
    from hpal_cli.labels.store import Batch, LabelStore
    from hpal_cli.stream.header import Header
    from hpal_cli.stream.rows import Rows

NAME = "label"

_MEANT_FOR = {
    "-o": ("--oracle", "--table", "--from", "--log", "--undo", "--serve"),
    "--source": ("--table", "--clips", "--from", "--serve", "--html"),
    "--noise": ("--oracle",),
    "--cost": ("--oracle", "--from"),
    "--overwrite": ("--oracle", "--table", "--clips", "--html"),
    "--host": ("--serve",),
    "--port": ("--serve",),
    "--name": ("--serve",),
    "--overlap": ("--serve",),
    "--no-browser": ("--serve",),
    "--json": ("--oracle", "--html", "--table", "--clips", "--from", "--log", "--undo"),
}
"""For each option that not every action has, the actions that have it."""


def command(
    selection: Annotated[
        Path | None,
        typer.Argument(
            metavar="SELECTION",
            help="Selected points from `hpal select` (PLY). With --log and --undo, the labels store.  [stdin]",
            show_default=False,
        ),
    ] = None,
    oracle: Annotated[
        Path | None,
        typer.Option(
            metavar="STORE",
            help="Take the answers from the labels of this scenes store, in place of a person, to study strategies.",
        ),
    ] = None,
    serve: Annotated[
        bool,
        typer.Option(
            "--serve",
            help="Ask a person: serve a page for the browser that shows one selected point after another in 3D.",
        ),
    ] = False,
    html: Annotated[
        Path | None,
        typer.Option(
            "--html",
            metavar="FILE",
            help="Write the page of --serve as one file, which can be sent to a person who has no hpal. The page "
            "saves the answers as a CSV for --from.",
        ),
    ] = None,
    table: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write a table with a row for each query, in which a person fills in the column `label`.",
        ),
    ] = None,
    clips: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Write a PLY and a PNG for each query to this folder, which show the point and the scene around it.",
        ),
    ] = None,
    answered: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="FILE",
            help="Read answers that a person gave: a filled-in table, a PLY or LAS file, or the folder that "
            "labelCloud writes.",
        ),
    ] = None,
    log: Annotated[
        bool, typer.Option("--log", help="List the rounds of answers in a labels store. With -v, list every answer.")
    ] = False,
    undo: Annotated[
        int | None,
        typer.Option(
            "--undo",
            metavar="ROUND",
            min=0,
            help="Withdraw the answers of this round (--log lists them). Nothing is deleted, so this can be undone "
            "too.",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            metavar="STORE",
            help="Labels store to write. If it exists, the answers are added to it. With --oracle, a .ply or a "
            "pipe gets the points with their labels instead. With --table, the store records what was asked.",
        ),
    ] = None,
    source: Annotated[
        Path | None,
        typer.Option(
            metavar="STORE",
            help="Scenes or predictions store that the points belong to. `--from` needs it for a labels store that "
            "does not exist yet, since a table does not name its store. Otherwise give it only if the store was moved.",
        ),
    ] = None,
    host: opt.Host = "127.0.0.1",
    port: opt.Port = None,
    no_browser: opt.NoBrowser = False,
    name: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Name of the person, which is stored with each answer. Further people enter theirs on the page.  "
            "[your user name]",
        ),
    ] = None,
    overlap: Annotated[
        str | None,
        typer.Option(
            metavar="SHARE",
            help="Share of the queries that is asked twice, of two people, such as 10%. `hpal info` then says how "
            "far they agree.  [0]",
        ),
    ] = None,
    noise: Annotated[
        str | None,
        typer.Option(
            metavar="SHARE",
            help="Share of wrong answers that the oracle gives on purpose, such as 5% or 0.05, to study mistakes.  [0]",
        ),
    ] = None,
    seed: opt.Seed = 0,
    cost: Annotated[
        bool, typer.Option("--cost", help="Print the number of clicks and the labelled area in square metres.")
    ] = False,
    overwrite: opt.Overwrite = False,
    json_output: opt.Json = False,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = False,
) -> None:
    """Collect labels for the selected points. A person gives them, on a page in the browser, in a table or in a viewer;
    for studies, an oracle takes them from the labels that the scenes came with."""
    console = Console(NAME, quiet=quiet, verbose=verbose, as_json=json_output)
    given = {
        "--oracle": oracle is not None,
        "--serve": serve,
        "--html": html is not None,
        "--table": table is not None,
        "--clips": clips is not None and table is None,
        "--from": answered is not None,
        "--log": log,
        "--undo": undo is not None,
    }
    actions = [name for name, is_given in given.items() if is_given]
    if len(actions) != 1:
        remedy = (
            "choose one: --serve, --html FILE, --oracle STORE, --table FILE, --clips DIR, --from FILE, --log or "
            "--undo ROUND"
        )
        if actions:
            raise UsageError(" and ".join(actions), "do not go together", remedy)
        raise UsageError("what to do", "is missing", remedy)
    (action,) = actions
    to_stream = oracle is not None and (output is None or str(output) == "-" or output.suffix == ".ply")
    extra = {
        "-o": output is not None,
        "--source": source is not None,
        "--noise": noise is not None,
        "--cost": cost,
        "--overwrite": overwrite,
        "--host": host != "127.0.0.1",
        "--port": port is not None,
        "--name": name is not None,
        "--overlap": overlap is not None,
        "--no-browser": no_browser,
        "--json": json_output,
    }
    unused = [name for name, is_given in extra.items() if is_given and action not in _MEANT_FOR[name]]
    if overwrite and oracle is not None and not to_stream:
        unused.append("--overwrite")
    if unused:
        raise UsageError(unused[0], f"has no meaning with {action}", "leave it out")
    if action in ("--oracle", "--from", "--serve") and output is None and (not to_stream or sys.stdout.isatty()):
        raise UsageError("-o", "is missing", "name the labels store: -o labels.zarr")
    if str(output) == "-" and not to_stream:
        raise UsageError("-o", "is a labels store here, not stdout", "name it: -o labels.zarr")
    if oracle is not None:
        _ask_oracle(
            console,
            selection,
            oracle,
            output,
            to_stream=to_stream,
            overwrite=overwrite,
            noise=noise,
            seed=seed,
            cost=cost,
            as_json=json_output,
        )
    elif serve:
        assert output is not None
        _serve(
            console, selection, output, source, host=host, port=port, browser=not no_browser, name=name, overlap=overlap
        )
    elif html is not None:
        _write_page(console, selection, html, source, overwrite=overwrite)
    elif answered is not None:
        assert output is not None
        _take_answers(console, selection, answered, output, source, cost=cost)
    elif log or undo is not None:
        _log_or_undo(console, selection, output, undo, as_json=json_output)
    else:
        _ask_person(console, selection, table, clips, output, source, overwrite=overwrite)


def _ask_oracle(
    console: Console,
    selection: Path | None,
    oracle: Path,
    output: Path | None,
    *,
    to_stream: bool,
    overwrite: bool,
    noise: str | None,
    seed: int,
    cost: bool,
    as_json: bool,
) -> None:
    from hpal_cli.label.cost import Cost
    from hpal_cli.label.oracle import answer, parse_noise, with_noise
    from hpal_cli.label.regions import by_regions
    from hpal_cli.labels.store import LabelStore
    from hpal_cli.scenes.store import SceneStore
    from hpal_cli.stream.header import require_scenes
    from hpal_cli.stream.points import write_points
    from hpal_cli.stream.rows import with_column
    from hpal_cli.stream.viewer_names import for_viewers

    share = 0.0 if noise is None else parse_noise(noise)
    store = SceneStore(oracle)
    out = Output(output, "labelled.ply", overwrite=overwrite, as_json=as_json) if to_stream else None
    asked, header, subject = _selected(selection, ("scene", "index"))
    require_scenes(header, store.table.id, subject, oracle, "give the scenes that were predicted")
    answers = answer(store, asked, subject)
    clicks, who = len(answers), answers
    by_click = by_regions(asked, answers["label"], header.strategy)
    if by_click is not None:
        answers["label"] = by_click.label
        # A wrong click gives all of its points the same wrong class, so the noise is drawn for one of them.
        who = answers[by_click.representative(asked["index"])]
        clicks = by_click.clicks
    if share:
        right = answers["label"].copy()
        answers["label"] = with_noise(
            right, who["scene"], who["index"], share=share, classes=len(store.classes), seed=seed
        )
        console.say(f"{counted(int((answers['label'] != right).sum()), 'answer')} made wrong on purpose")
    if by_click is not None:
        asked, answers = asked[by_click.mask], answers[by_click.mask]
        of = f"{len(answers):,} of {counted(len(by_click.mask), 'point')}"
        console.say(f"{counted(clicks, 'click')} answer{'s' * (clicks == 1)} {of}, by region")
    spent = Cost.from_answers(answers, clicks, store.grid)
    if out is not None:
        header = header.then("labelled", this_call(NAME, seed=seed if share else None))
        rows = with_column(asked, "label", answers["label"])
        with out.open() as stream:
            write_points(stream(), header, rows if out.path is None else for_viewers(rows))
        console.say(f"{counted(len(rows), 'point')} answered" + (f" -> {out.path}" if out.path else ""))
        if cost:
            console.say(str(spent))
        console.report({"done": "stream", "output": str(out.path), "cost": spent.to_json()})
        return
    assert output is not None
    labels = LabelStore.at(output, store.classes, store.table, unit=store.unit, subject=oracle)
    wrong = f", noise {100 * share:g}%" if share else ""
    call = this_call(NAME, seed=seed if share else None)[0]
    batch = labels.append_new(answers, f"oracle {oracle}{wrong}", call)
    if known := len(answers) - (0 if batch is None else len(batch.rows)):
        again = f"{known:,} of these points {'was' if known == 1 else 'were'} answered before"
        console.warn(f"{again}; score --labels {output} leaves them out")
    if batch is not None:
        _say_added(console, labels, batch)
    else:
        console.say(f"{labels.path}: nothing new")
    if cost:
        console.say(str(spent))
    console.report({"done": "answers", **_added(output, labels, batch), "known_before": known, "cost": spent.to_json()})


def _serve(
    console: Console,
    selection: Path | None,
    output: Path,
    source: Path | None,
    *,
    host: str,
    port: int | None,
    browser: bool,
    name: str | None,
    overlap: str | None,
) -> None:
    import getpass

    from hpal_cli.commands.serving import run_page
    from hpal_cli.page.label import open_label_page, parse_overlap, queries_asked

    share = 0.0 if overlap is None else parse_overlap(overlap)
    rows, header, subject = _selected(selection, ("x", "y", "z", "scene", "index"))
    asked = queries_asked(rows, header, subject, source=source, beside=None if selection is None else selection.parent)
    who = (name or getpass.getuser()).strip()[:40]
    page_api = open_label_page(
        asked, output, this_call(NAME)[0], name=who, title=str(subject), overlap=share, monitor=console
    )
    session = page_api.session
    assert session is not None
    done, total = session.counts()
    console.say(f"{counted(total, 'query', 'queries')}, {done:,} answered; answers go to {output} as they are given")
    before = len(session.labels.batches())
    run_page(console, page_api, host=host, port=port, browser=browser)
    given = [batch for batch in session.labels.batches()[before:] if len(batch.rows) and batch.stands]
    unsure = sum(int(batch.rows["label"][0] < 0) for batch in given)
    seconds = sum(batch.seconds or 0.0 for batch in given)
    people = ", ".join(dict.fromkeys(batch.source for batch in given))
    pace = f" by {people}, {seconds / len(given):.1f} s each" if given else ""
    console.say(f"{counted(len(given), 'answer')} ({unsure:,} unsure){pace}")
    session.refresh()
    done, total = session.counts()
    if done < total:
        console.say(
            f"{total - done:,} of {counted(total, 'query', 'queries')} left: the same command continues with them"
        )
    if asked.scenes is not None and (given or done):
        console.say(
            f"next: {typed('hpal', 'spread', output, asked.scenes.path, '--alike', '-o', free_name('spread.zarr'))}"
        )


def _write_page(console: Console, selection: Path | None, html: Path, source: Path | None, *, overwrite: bool) -> None:
    from hpal_cli.page.label import queries_asked
    from hpal_cli.page.offline import write_page

    rows, header, subject = _selected(selection, ("x", "y", "z", "scene", "index"))
    require_other(html, [selection], "--html")
    asked = queries_asked(rows, header, subject, source=source, beside=None if selection is None else selection.parent)
    size = write_page(asked, html, title=str(subject), overwrite=overwrite, monitor=console)
    console.say(f"{html}: {counted(len(asked.found), 'query', 'queries')}, {size / 1e6:.1f} MB, opens in any browser")
    whole = [selection or Path("SELECTION")] if any(len(query.points) > 1 for query in asked.found) else []
    back = ["--from", html.with_suffix(".csv"), "--source", asked.store.path, "-o", "labels.zarr"]
    console.say(f"next, with the CSV that it saves: {typed('hpal', 'label', *whole, *back)}")
    console.report({"done": "page", "page": str(html), "queries": len(asked.found), "points": len(rows)})


def _ask_person(
    console: Console,
    selection: Path | None,
    table: Path | None,
    clips: Path | None,
    output: Path | None,
    source: Path | None,
    *,
    overwrite: bool,
) -> None:
    import numpy as np

    from hpal_cli.label.queries import queries, selection_store
    from hpal_cli.label.spreadsheet import require_unanswered, write_queries
    from hpal_cli.labels.store import QUERY, LabelStore
    from hpal_cli.store.files import require_absent

    asked, header, subject = _selected(selection, ("x", "y", "z", "scene", "index"))
    store = selection_store(header, source, None if selection is None else selection.parent)
    if table is not None:
        require_other(table, [selection], "--table")
        if str(table) == "-":
            raise UsageError("--table", "cannot be written to stdout", "name a file, like --table queries.csv")
        require_unanswered(table)
        require_absent(table, overwrite=overwrite)
    if store is None and (clips is not None or (output is not None and not output.exists())):
        option = "--clips" if clips is not None else "-o"
        raise UsageError(option, f"needs the scenes that {subject} belongs to", "name their store with --source")
    labels = None
    if output is not None:
        labels = (
            LabelStore(output)
            if store is None
            else LabelStore.at(output, store.classes, store.table, unit=store.unit, subject=store.path)
        )
        if header.scenes is not None:
            labels.require_scenes(header.scenes, subject)
    found = queries(asked, store)
    pictures = None
    if clips is not None and store is not None:
        from hpal_cli.export.clips import write_clips

        pictures = write_clips(found, store, clips, overwrite=overwrite, monitor=console)
        console.say(f"{clips}/: a PLY and a PNG for each of {counted(len(found), 'query', 'queries')}")
    made = {"clips": None if clips is None else str(clips), "queries": len(found), "points": len(asked)}
    if table is None:
        console.report({"done": "queries", "table": None, **made})
        return
    # As addresses, which a spreadsheet shows as links.
    where = None if pictures is None else [path.resolve().as_uri() for path in pictures]
    write_queries(found, {s.number: s.name for s in header.pool}, table, clips=where, overwrite=overwrite)
    if labels is not None:
        labels.ask(np.array([(q.scene, q.index) for q in found], QUERY), f"table {table}", this_call(NAME)[0])
    names = "a class" if store is None else f"one of {', '.join(store.classes.names)}"
    whole = any(len(query.points) > 1 for query in found)
    what = counted(len(found), "query", "queries") + (f", one for each region of {len(asked):,} points" * whole)
    console.say(f"{table}: {what}; fill in the column `label`: {names}, `unsure`, or nothing")
    console.report({"done": "queries", "table": str(table), **made})
    _say_next(console, (selection or Path("SELECTION")) if whole else None, header, store, table, output)


def _say_next(
    console: Console,
    selection: Path | None,
    header: Header,
    store: Store | None,
    table: Path,
    output: Path | None,
) -> None:
    """Prints the command that reads the filled-in table. selection: given if the answers are for regions, since the
    table does not say which points belong to a region."""
    from hpal_cli.predictions.store import PredictionStore
    from hpal_cli.scenes.provenance import find_source_store

    source = header.source if store is None else store.path
    check = isinstance(store, PredictionStore) and header.strategy is not None and header.strategy.startswith("random")
    labels = output
    if labels is None and check:
        labels = table.with_suffix(".zarr")
    elif labels is None and store is not None:
        labels = find_source_store(header.history, "labels", store.table.id, store.path.parent)
    labels = labels or Path("labels.zarr")
    words = ["--from", table, "--source", source or "STORE", "-o", labels]
    console.say(f"next: {typed('hpal', 'label', *([selection] if selection else []), *words)}")
    if source is None:
        console.say("STORE is the scenes or predictions store that the points belong to")
    if check and output is None:
        console.say(
            "the points were drawn at random: their answers measure the predictions, unless a model learns from them: "
            f"{typed('hpal', 'eval', source, '--truth', labels)}"
        )


def _take_answers(
    console: Console, selection: Path | None, answered: Path, output: Path, source: Path | None, *, cost: bool
) -> None:
    from hpal_cli.label.answers import import_answers, open_scenes
    from hpal_cli.label.cost import Cost
    from hpal_cli.label.queries import selection_store
    from hpal_cli.labels.store import LabelStore

    asked = None
    store: Store | None = None
    if selection is not None:
        asked, header, _ = _selected(selection, ("scene", "index"))
        store = selection_store(header, source, selection.parent)
    if store is None:
        if source is None and not output.exists():
            problem = f"is missing, and {output} does not exist yet"
            raise UsageError("--source", problem, "name the scenes or predictions store")
        store = open_scenes(source or output)
    known = LabelStore(output) if output.exists() else None
    imported = import_answers(answered, store, asked=asked, labels=known)
    for note in imported.notes:
        console.say(note)
    if not imported.given:
        console.say(f"{answered}: no answers yet ({imported.blank:,} blank)")
        console.report({"done": "answers", **_added(output, known, None), "known_before": 0, "cost": None})
        return
    if imported.unasked:
        console.say(f"{counted(imported.unasked, 'answer')} for points that were never asked about; they are kept too")
    labels = LabelStore.at(output, store.classes, store.table, unit=store.unit, subject=store.path)
    batch = labels.append_new(imported.rows, imported.source, this_call(NAME)[0])
    if again := len(imported.rows) - (0 if batch is None else len(batch.rows)):
        console.say(f"{counted(again, 'answer')} known already")
    if batch is not None:
        _say_added(console, labels, batch)
    if imported.blank:
        console.say(f"{counted(imported.blank, imported.word)} of {answered} still blank")
    spent = Cost.from_answers(imported.rows, imported.given, None if isinstance(store, LabelStore) else store.grid)
    if cost:
        console.say(str(spent))
    console.report({"done": "answers", **_added(output, labels, batch), "known_before": again, "cost": spent.to_json()})


def _log_or_undo(console: Console, store: Path | None, output: Path | None, undo: int | None, *, as_json: bool) -> None:
    """Lists the rounds of a labels store, or withdraws the answers of round `undo`."""
    from hpal_cli.labels.store import LabelStore

    path = store or output
    if path is None or (store is not None and output is not None):
        raise UsageError("STORE", "is missing or given twice", "name one labels store")
    labels = LabelStore(path)
    if undo is None and as_json:
        from hpal_cli.label.log import read_log

        log = read_log(labels)
        answers = {"answers": log.answers_to_json(labels)} if console.verbose else {}
        console.report({"done": "log", "labels": str(path), "batches": log.to_json(), **answers})
        return
    if undo is None:
        _show_log(console, labels)
        return
    batch = labels.undo(undo, "hpal label --undo", this_call(NAME)[0])
    total = counted(int((labels.latest()["label"] >= 0).sum()), "labelled point")
    console.say(f"{path}: round {batch.round} undoes round {undo}; {total} left")
    console.say(f"to take that back: {typed('hpal', 'label', '--undo', batch.round, path)}")
    console.report({"done": "undo", **_added(path, labels, batch), "undoes": undo})


def _show_log(console: Console, labels: LabelStore) -> None:
    """Prints a table with a row for each batch on stdout, and with -v a line for each answer, its columns separated by
    tabs."""
    from hpal_cli.label.log import read_log, utc

    log = read_log(labels)
    rows: list[tuple[str, ...]] = []
    for batch, unsure, changed, counting in log.batches:
        state = [
            *([f"asks {len(batch.asked):,}"] if len(batch.asked) else []),
            *([f"undoes {', '.join(map(str, batch.undoes))}"] if batch.undoes else []),
            *([] if batch.stands else ["undone"]),
        ]
        counts = (f"{n:,}" for n in (len(batch.rows), unsure, changed, counting))
        number = str(batch.round) if len(batch.rows) or batch.undoes else "-"
        rows.append((number, utc(batch.time), *counts, "; ".join(state), batch.source))
    headers = ["round", "time", "answers", "unsure", "changed", "counting", "state", "source"]
    if any(logged.batch.seconds is not None for logged in log.batches):
        headers.append("seconds")
        durations = (logged.batch.seconds for logged in log.batches)
        rows = [
            (*row, "" if seconds is None else f"{seconds:.1f}") for row, seconds in zip(rows, durations, strict=True)
        ]
    console.table(headers, rows, data=True)
    if not console.verbose:
        return
    print("\nround\tscene\tindex\tlabel\tcounts")
    for row, counts_today in zip(log.rows, log.counts, strict=True):
        label = labels.classes[int(row["label"])].name if row["label"] >= 0 else "unsure"
        scene = labels.table[int(row["scene"])].name
        print(row["round"], scene, row["index"], label, "yes" if counts_today else "no", sep="\t")


def _selected(selection: Path | None, columns: tuple[str, ...]) -> tuple[Rows, Header, str]:
    """Reads the picks of a selection. Returns them, the header, and the name of the selection for messages.

    Raises:
        HpalError: the file is no selection, or lacks one of the columns.
    """
    from hpal_cli.stream.header import require_columns, require_selected
    from hpal_cli.stream.points import PointReader
    from hpal_cli.stream.rows import picked_rows

    with open_input(selection) as (data, subject):
        reader = PointReader(data, subject)
        require_selected(reader.header, subject)
        require_columns(reader.header, columns, subject, "hpal select")
        return picked_rows(reader.read()), reader.header, subject


def _added(path: Path, labels: LabelStore | None, batch: Batch | None) -> dict[str, Any]:
    """The members that every report on a labels store has. labels: None if there is no store; batch: None if no answer
    was new."""
    rows = () if batch is None else batch.rows["label"].tolist()
    return {
        "labels": str(path),
        "round": None if batch is None else batch.round,
        "answers": len(rows),
        "unsure": sum(label < 0 for label in rows),
        "labelled_points": int((labels.latest()["label"] >= 0).sum()) if labels else 0,
    }


def _say_added(console: Console, labels: LabelStore, batch: Batch) -> None:
    """Prints how many answers a new round has, and how many labelled points the store has with it."""
    total = int((labels.latest()["label"] >= 0).sum())
    unsure = int((batch.rows["label"] < 0).sum())
    doubt = f" ({unsure:,} unsure)" if unsure else ""
    console.say(
        f"{labels.path}: round {batch.round}, {counted(len(batch.rows), 'answer')}{doubt}; "
        f"{counted(total, 'labelled point')} in all"
    )
