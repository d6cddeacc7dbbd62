"""hpal select: choose the points to ask about."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hpal_cli.commands import options as opt
from hpal_cli.commands.console import Console, Output, free_name, open_input, require_other, typed
from hpal_cli.commands.history import this_call
from hpal_cli.errors import HpalError, UsageError
from hpal_cli.wording import counted

if TYPE_CHECKING:
    from hpal_cli.predictions.store import PredictionStore
    from hpal_cli.scenes.store import SceneStore
    from hpal_cli.selection.report import ClassReport, SceneReport
    from hpal_cli.selection.selector import Selection
    from hpal_cli.stream.header import Header

NAME = "select"


def command(
    scores: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="SCORES",
            help="Scored points from `hpal score` (PLY), in one file or several.  [stdin]",
            show_default=False,
        ),
    ] = None,
    budget: Annotated[
        str,
        typer.Option(
            metavar="BUDGET",
            help="How many points to choose: a share of the pool (0.02%), a number (2600), or either of these "
            "for each scene (0.02%/scene, 20/scene).",
        ),
    ] = "0.02%",
    fds_r: Annotated[
        str | None,
        typer.Option(
            metavar="LENGTH",
            help="Radius of FDS, in metres or with a unit. A point this near to a chosen one is skipped if it also "
            "looks like it (--fds-tau). A larger radius spreads the picks more.  [0.2, times the scale of the "
            "scenes]",
        ),
    ] = None,
    fds_tau: Annotated[
        float | None,
        typer.Option(
            metavar="COSINE",
            help="Cosine similarity of two points' features, -1 to 1, above which FDS decides that the points look "
            "alike. A smaller value skips more points.  [0.8]",
        ),
    ] = None,
    no_fds: Annotated[
        bool, typer.Option("--no-fds", help="Choose the highest scores without FDS, even if they lie side by side.")
    ] = False,
    suppress_labelled: Annotated[
        bool,
        typer.Option(
            "--suppress-labelled",
            help="Let FDS also skip a point if it is near and similar to one that was labelled in an earlier round.",
        ),
    ] = False,
    max_per_scene: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Choose at most N points in each scene, so that the picks are in more scenes.  [no limit]",
        ),
    ] = None,
    source: Annotated[
        Path | None,
        typer.Option(
            metavar="STORE",
            help="Predictions store that was scored, if it was moved since; the scored points name the place where "
            "it was.",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            metavar="FILE",
            help="File for the chosen points.  [stdout; selection.ply at a terminal]",
        ),
    ] = None,
    context: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Also write to this folder a PLY and a PNG for each scene with chosen points. Both show these "
            "points in colour and the rest of the scene in grey; the PNG shows the scene from above.",
        ),
    ] = None,
    labels: opt.Answered = None,
    no_history: opt.NoHistory = False,
    overwrite: opt.Overwrite = False,
    json_output: opt.Json = False,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = False,
) -> None:
    """Select points within a budget. The highest scores are chosen first. A point that is near to a chosen one and has
    similar features is skipped, because its label would say the same (feature-distance suppression, FDS)."""
    from dataclasses import replace

    from hpal_cli.budget import Budget
    from hpal_cli.export.selection import write_context
    from hpal_cli.labels.store import LabelStore
    from hpal_cli.lengths import parse_length
    from hpal_cli.selection.fds import RADIUS, SIMILARITY, Suppression, missing
    from hpal_cli.selection.selector import SCORED, find_predictions, select
    from hpal_cli.stream.header import require_columns
    from hpal_cli.stream.points import PointReader, write_points
    from hpal_cli.stream.rows import REGION
    from hpal_cli.stream.viewer_names import for_viewers

    console = Console(NAME, quiet=quiet, verbose=verbose, as_json=json_output)
    asked = fds_r is not None or fds_tau is not None or suppress_labelled
    if no_fds and asked:
        raise UsageError("--no-fds", "contradicts --fds-r, --fds-tau and --suppress-labelled", "drop one of them")
    radius = RADIUS if fds_r is None else parse_length(fds_r, "--fds-r", bare="m")
    suppression = None if no_fds else Suppression(radius, SIMILARITY if fds_tau is None else fds_tau)
    limit = Budget.parse(budget)
    paths: Sequence[Path | None] = scores or [None]
    with contextlib.ExitStack() as files:
        inputs = [files.enter_context(open_input(path)) for path in paths]
        out = Output(output, "selection.ply", overwrite=overwrite, as_json=json_output)
        require_other(out.path, paths, "-o")
        stream = files.enter_context(out.open())
        readers = [PointReader(*source) for source in inputs]
        for reader in readers:
            require_columns(reader.header, SCORED, reader.subject, "hpal score")
        header, subject = readers[0].header, readers[0].subject
        beside = scores[0].parent if scores else None
        if REGION in (header.dtype.names or ()):
            if asked:
                raise UsageError(
                    "FDS", "has no meaning for regions", "leave out --fds-r, --fds-tau, --suppress-labelled"
                )
            suppression = None
        predictions = find_predictions(header, source, beside, needed=suppression is not None)
        if suppression is not None and predictions is None:
            where = header.source or "an unnamed source"
            if asked or header.features is None:
                raise HpalError(
                    subject,
                    f"was scored from {where}, which has no features",
                    "add --no-fds, or name them with --source",
                )
            console.say(f"{where} has no features yet, so FDS is off: the highest scores are chosen")
            suppression = None
        if suppression is not None and predictions is not None and predictions.scale is not None and fds_r is None:
            suppression = replace(suppression, radius=RADIUS * predictions.scale)
        if suppression is not None and missing():
            console.say(f"{missing()}: FDS by NumPy alone, which takes several times as long")
        if suppression is not None and fds_r is not None and radius > _LARGE_RADIUS:
            console.warn(
                f"--fds-r {radius:g}m is a large radius: a number without a unit is in metres; the paper's is 20cm"
            )
        name, _, settings = (header.strategy or "").partition(" ")
        scored_for, _, _ = settings.partition(" ")
        if name in ("ssdr", "diverse") and scored_for and scored_for != str(limit):
            console.warn(f"the points were scored for --budget {scored_for}, and {name} planned for that many picks")
        around = _store_around(header, predictions, beside) if context is not None else None
        selection = select(
            readers,
            budget=limit,
            suppression=suppression,
            predictions=predictions,
            labels=None if labels is None else LabelStore(labels),
            suppress_labelled=suppress_labelled,
            max_per_scene=max_per_scene,
            history=None if no_history else this_call(NAME),
            monitor=console,
        )
        # The picks are written before the pictures, which would be of no use without them.
        write_points(stream(), selection.header, selection.rows if out.path is None else for_viewers(selection.rows))
        if context is not None and around is not None:
            seen = None if suppression is None else suppression.radius
            write_context(selection, around, context, radius=seen, overwrite=overwrite, monitor=console)
    _summary(console, selection, max_per_scene)
    if context is not None:
        console.say(f"{context}/: a PLY and a PNG for each scene with picks")
    if out.path:
        console.say(f"{out.path}: open it in CloudCompare or MeshLab")
    console.report(
        {"output": str(out.path), "context": None if context is None else str(context), **selection.to_json()}
    )
    if out.path and out.guessed:
        console.say(f"next: {_next(selection, out.path, beside)}")


def _next(selection: Selection, picks: Path, beside: Path | None) -> str:
    """The command to type next: `hpal label` with an oracle if the scenes of the picks have labels, else with a
    person."""
    from hpal_cli.scenes.provenance import find_source_store
    from hpal_cli.scenes.store import SceneStore
    from hpal_cli.selection.selector import scored_store
    from hpal_cli.store.envelope import kind_of

    header = selection.header
    scenes = scored_store(header, beside)
    if scenes is None or kind_of(scenes) != "scenes":
        scenes = find_source_store(header.history, "scenes", header.scenes, None if scenes is None else scenes.parent)
    if scenes is None:
        return typed("hpal", "label", picks, "--table", free_name("queries.csv"))
    store = SceneStore(scenes)
    labels = find_source_store(header.history, "labels", store.table.id, scenes.parent) or free_name("labels.zarr")
    ask = typed("hpal", "label", picks, "--serve", "-o", labels)
    if not all(store.has_labels(store.table[number]) for number in {int(n) for n in selection.rows["scene"]}):
        return ask
    return f"{typed('hpal', 'label', picks, '--oracle', scenes, '-o', labels)}  (a person answers: {ask})"


def _store_around(
    header: Header, predictions: PredictionStore | None, beside: Path | None
) -> PredictionStore | SceneStore:
    """The store with the points around the picks.

    Raises:
        UsageError: the header names no store.
        HpalError: the store that it names does not exist.
    """
    from hpal_cli.scenes.store import SceneStore
    from hpal_cli.selection.selector import scored_store

    if predictions is not None:
        return predictions
    path = scored_store(header, beside)
    if path is None:
        raise UsageError("--context", "needs the points around the picks", "name their store with --source")
    if not path.exists():
        raise HpalError(path, "the store that was scored was not found", "name its new place with --source")
    return SceneStore(path)


def _why(selection: Selection, max_per_scene: int | None) -> str:
    """Why a selection ended before its budget was used."""
    from hpal_cli.stream.rows import SUPERPOINT

    if any(scene.chosen == max_per_scene for scene in selection.scenes):
        return f"with at most {max_per_scene} a scene"
    if any(scene.suppressed for scene in selection.scenes):
        return "every other candidate looks like a pick near it (a smaller --fds-r or larger --fds-tau allows more)"
    if SUPERPOINT in (selection.rows.dtype.names or ()):
        return "no superpoint is left (without --per superpoint, hpal score makes every point a candidate)"
    return "there are no more candidates"


_MAX_SCENES_SHOWN = 30
"""Scenes up to which the summary has a row for each of them."""

_LARGE_RADIUS = 10.0
"""Radius of FDS in metres from which a warning tells that the unit may be wrong."""


def _summary(console: Console, selection: Selection, max_per_scene: int | None) -> None:
    """How many candidates were visited, suppressed and chosen: in all, by scene and by predicted class."""
    import numpy as np

    from hpal_cli.stream.rows import REGION

    scenes, chosen, pool = selection.scenes, len(selection.rows), selection.pool
    hit = sum(s.chosen > 0 for s in scenes)
    share = f" ({100 * chosen / pool:.3g} % of {pool:,})" if pool else ""
    rows = selection.rows
    of = f" of {len(np.unique(rows[['scene', REGION]])):,} regions" if REGION in (rows.dtype.names or ()) else ""
    where = f"{hit:,} of {counted(len(selection.header.pool) or len(scenes), 'scene')}"
    visited, suppressed = sum(s.visited for s in scenes), sum(s.suppressed for s in scenes)
    console.say(
        f"selected {counted(chosen, 'point')}{of}{share} in {where}; "
        f"{counted(visited, 'candidate')} visited, {suppressed:,} suppressed"
    )
    if selection.exhausted:
        console.say(f"exhausted: {chosen:,} of {selection.budget:,}, {_why(selection, max_per_scene)}")
    columns = ("visited", "suppressed", "chosen")

    def counts(report: SceneReport | ClassReport) -> list[str]:
        return [f"{getattr(report, column):,}" for column in columns]

    if console.verbose or len(scenes) <= _MAX_SCENES_SHOWN:
        console.say("")
        shown = [s for s in scenes if s.visited or console.verbose]
        table = [(s.name, *counts(s), "yes" if s.exhausted else "") for s in shown]
        console.table(("scene", *columns, "exhausted"), table)
    else:
        console.say(f"-v prints these counts for each of the {len(scenes)} scenes")
    if selection.classes:
        console.say("")
        console.table(("predicted class", *columns), [(c.name, *counts(c)) for c in selection.classes])
