"""hpal eval: how good predictions are."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hpal_cli.commands import options as opt
from hpal_cli.commands.console import Console

NAME = "eval"


def command(
    predictions: Annotated[Path, typer.Argument(metavar="STORE", help="Predictions store.")],
    truth: Annotated[Path, typer.Option(metavar="SCENES", help="Scenes store with labels.")],
    labels: Annotated[
        Path | None,
        typer.Option(metavar="STORE", help="Count the labelled points of this store.  [those in the predictions]"),
    ] = None,
    split: Annotated[str, typer.Option(help="train, val, test or all.")] = "val",
    scenes: opt.Scenes = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
    figures: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Write the confusion matrix and the IoU by class as PNG."),
    ] = None,
    overwrite: opt.Overwrite = False,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = False,
) -> None:
    """Compare predictions with the truth. IoU, mIoU, accuracy, and what share of the points was labelled."""
    import json

    from hpal_cli.evaluate.evaluation import evaluate
    from hpal_cli.label.store import LabelStore
    from hpal_cli.predictions.store import PredictionStore
    from hpal_cli.scenes.store import SceneStore

    console = Console(NAME, quiet=quiet, verbose=verbose)
    result = evaluate(
        PredictionStore(predictions),
        SceneStore(truth),
        labels=None if labels is None else LabelStore(labels),
        split=split,
        scenes=opt.as_list(scenes),
        monitor=console,
    )
    if figures is not None:
        _draw(console, result, figures, overwrite)
    if json_output:
        print(json.dumps(result.to_json(), indent=2))
        return
    true, said = result.grid.confusion.sum(axis=1), result.grid.confusion.sum(axis=0)
    rows = [
        (
            c.name,
            _percent(result.grid.iou[c.id]),
            _percent(result.original.iou[c.id]),
            f"{true[c.id]:,}",
            f"{said[c.id]:,}",
        )
        for c in result.classes
    ]
    console.table(("class", "IoU %", "IoU % original", "true points", "predicted"), rows, data=True)
    kept, grid, original = result.labelled, result.grid, result.original
    print()
    print(f"{split}: {len(result.scenes)} scenes, {grid.points:,} grid points, {original.points:,} original points")
    print(f"mIoU      {_percent(grid.miou)} %   original {_percent(original.miou)} %")
    print(f"accuracy  {_percent(grid.accuracy)} %   original {_percent(original.accuracy)} %", end="   ")
    print(f"mean of classes {_percent(grid.class_accuracy)} %")
    print(f"labelled  {kept.points:,} points: {100 * kept.of_train:.4f} % of train", end=", ")
    print(f"{100 * kept.of_train_and_val:.4f} % of train + val")
    if labels is None and kept.points:
        print('          (with the answers that were "unsure"; --labels STORE leaves them out)')


def _percent(value: float) -> str:
    return "-" if value != value else f"{100 * value:.2f}"


def _draw(console: Console, result, folder: Path, overwrite: bool) -> None:  # type: ignore[no-untyped-def]
    from hpal_cli.evaluate.figures import confusion_figure, iou_figure
    from hpal_cli.store.files import replace_when_whole

    folder.mkdir(parents=True, exist_ok=True)
    for name, draw in (("confusion.png", confusion_figure), ("iou.png", iou_figure)):
        with replace_when_whole(folder / name, overwrite=overwrite) as partial:
            draw(result, partial)
        console.say(f"{folder / name}")
