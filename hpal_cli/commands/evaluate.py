"""hpal eval: compare predictions with the truth."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hpal_cli.commands import completion
from hpal_cli.commands import options as opt
from hpal_cli.commands.console import Console
from hpal_cli.wording import counted

if TYPE_CHECKING:
    from hpal_cli.classes import ClassTable
    from hpal_cli.evaluation.evaluate import Evaluation
    from hpal_cli.evaluation.metrics import Metrics
    from hpal_cli.evaluation.sample import Sample

NAME = "eval"


def command(
    context: typer.Context,
    predictions: Annotated[
        Path, typer.Argument(metavar="STORE", help="Predictions store from `hpal predict` or `hpal spread`.")
    ],
    truth: Annotated[
        Path,
        typer.Option(
            metavar="STORE",
            help="Scenes store with true labels; or, where there are none, a labels store with answers for points "
            "drawn at random.",
        ),
    ],
    labels: Annotated[
        Path | None,
        typer.Option(
            metavar="STORE",
            help="Labels store whose points are counted as labelled in the report.  [those that the predictions "
            "record]",
        ),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Split that is compared: train, val, test or all.  [val; all for a labels store]",
            show_default=False,
            autocompletion=completion.splits,
        ),
    ] = None,
    scenes: opt.Scenes = None,
    without_answers: Annotated[
        bool,
        typer.Option(
            "--without-answers",
            help="Do not count answered points. With --split train, this measures how right the labels of all "
            "other points of the answered scenes are.",
        ),
    ] = False,
    json_output: opt.Json = False,
    figures: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Write the confusion matrix and the IoU of each class as PNG files to this folder."
        ),
    ] = None,
    pictures: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Draw each scene as a PNG in this folder, from above and from a corner: as scanned, by true "
            "class, by predicted class, and where these differ.",
        ),
    ] = None,
    overwrite: opt.Overwrite = False,
    jobs: opt.PictureJobs = 1,
    scheduler: opt.Scheduler = None,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = False,
) -> None:
    """Compare predictions with the truth. The report has the IoU of each class, the mIoU, the accuracy, and the share
    of points that was labelled."""
    from hpal_cli.errors import UsageError
    from hpal_cli.evaluation.evaluate import evaluate
    from hpal_cli.evaluation.sample import Sample, evaluate_sample
    from hpal_cli.labels.store import LabelStore
    from hpal_cli.predictions.store import PredictionStore
    from hpal_cli.scenes.store import SceneStore
    from hpal_cli.store import envelope

    console = Console(NAME, quiet=quiet, verbose=verbose, as_json=json_output)
    with opt.workers(context, jobs, scheduler, console) as workers:
        store, names = PredictionStore(predictions), opt.as_list(scenes)
        result: Sample | Evaluation
        if envelope.kind_of(truth) == "labels":
            if labels is not None:
                raise UsageError("--labels", "needs a scenes store as --truth", "leave it out")
            if without_answers:
                raise UsageError(
                    "--without-answers",
                    "needs a scenes store as --truth",
                    "leave it out: answers that the model learned from are never counted here",
                )
            result = evaluate_sample(store, LabelStore(truth), split=split or "all", scenes=names, monitor=console)
            metrics = result.metrics
        else:
            kept = None if labels is None else LabelStore(labels)
            result = evaluate(
                store,
                SceneStore(truth),
                labels=kept,
                split=split or "val",
                scenes=names,
                without_answers=without_answers,
                jobs=workers if scheduler is not None else 1,
                monitor=console,
            )
            metrics = result.grid
        if figures is not None:
            _draw(
                console,
                metrics,
                result.classes,
                f"{result.split}, {counted(len(result.scenes), 'scene')}",
                figures,
                overwrite,
            )
        if pictures is not None:
            from hpal_cli.export.pictures import write_pictures

            drawn = write_pictures(
                store,
                [store.table.by_name[name] for name in result.scenes],
                pictures,
                truth=None if isinstance(result, Sample) else SceneStore(truth),
                jobs=workers,
                overwrite=overwrite,
                monitor=console,
            )
            console.say(f"{pictures}/: {counted(len(drawn), 'picture')}")
    if json_output:
        console.report(result.to_json())
    elif isinstance(result, Sample):
        _print_sample(console, result)
    else:
        _print_evaluation(console, result)


def _print_evaluation(console: Console, result: Evaluation) -> None:
    kept, grid, original = result.labelled, result.grid, result.original
    true, predicted = grid.confusion.sum(axis=1), grid.confusion.sum(axis=0)
    rows = [
        (c.name, _percent(grid.iou[c.id]), _percent(original.iou[c.id]), f"{true[c.id]:,}", f"{predicted[c.id]:,}")
        for c in result.classes
    ]
    console.table(("class", "IoU %", "IoU % original", "true points", "predicted"), rows, data=True)
    print()
    print(
        f"{result.split}: {counted(len(result.scenes), 'scene')}, {grid.points:,} grid points, "
        f"{original.points:,} original points"
    )
    if result.left_out is not None:
        print(f"without   {counted(result.left_out, 'answered point')}")
    print(f"mIoU      {_percent(grid.miou)} %   original {_percent(original.miou)} %")
    print(f"accuracy  {_percent(grid.accuracy)} %   original {_percent(original.accuracy)} %", end="   ")
    print(f"mean of classes {_percent(grid.class_accuracy)} %")
    if grid.without_class:
        print(f"without   {counted(grid.without_class, 'grid point')} that nothing is known of: counted as wrong")
    print(f"labelled  {counted(kept.points, 'point')}: {100 * kept.of_train:.4f} % of train", end=", ")
    print(f"{100 * kept.of_train_and_val:.4f} % of train + val")
    if kept.with_unsure and kept.points:
        print('          (with the answers that were "unsure"; --labels STORE leaves them out)')


def _print_sample(console: Console, result: Sample) -> None:
    from hpal_cli.evaluation.sample import CONFIDENCE

    metrics = result.metrics
    true, predicted = metrics.confusion.sum(axis=1), metrics.confusion.sum(axis=0)
    right = metrics.confusion.diagonal()
    rows = [
        (c.name, _percent(metrics.iou[c.id]), f"{true[c.id]:,}", f"{predicted[c.id]:,}", f"{right[c.id]:,}")
        for c in result.classes
    ]
    console.table(("class", "IoU %", "answered", "predicted", "right"), rows, data=True)
    low, high = result.accuracy_interval
    print()
    where = f"{len(result.answered):,} of {counted(len(result.scenes), 'scene')}"
    print(f"{result.split}: {counted(metrics.points, 'answer')} in {where}", end="")
    print(f", {result.unsure:,} more unsure" if result.unsure else "")
    print(f"accuracy  {_percent(metrics.accuracy)} %: of all points {_percent(low)} to {_percent(high)} %", end="")
    print(f", with {100 * CONFIDENCE:g} % confidence, if these were drawn at random")
    print(f"mIoU      {_percent(metrics.miou)} %")


def _percent(value: float) -> str:
    return "-" if value != value else f"{100 * value:.2f}"


def _draw(console: Console, metrics: Metrics, classes: ClassTable, title: str, folder: Path, overwrite: bool) -> None:
    from hpal_cli.evaluation.figures import confusion_figure, iou_figure
    from hpal_cli.store.files import atomic_write, remove_new_on_error

    drawings = {folder / "confusion.png": confusion_figure, folder / "iou.png": iou_figure}
    with remove_new_on_error(list(drawings), overwrite=overwrite):
        for path, draw in drawings.items():
            with atomic_write(path, overwrite=overwrite) as partial:
                draw(metrics, classes, partial, title)
            console.say(f"{path}")
