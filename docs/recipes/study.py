"""What study.sh measures, as lines of a table, and what they say together.

    python3 study.py report RESULTS [--csv-only]

writes RESULTS/study.csv from what every campaign there left, RESULTS/table.md (mean and standard deviation over the
seeds after the last round) and RESULTS/curves.png (the same over the rounds, as curves with bands). It can be called
while a study runs. Only the picture needs more than Python: matplotlib, which hpal brings.

    python3 study.py add FILE KEY=VALUE... --eval VAL.json [--labels TRAIN.json | --after ROUNDS.csv]

is what study.sh calls after each measurement: a line for FILE. --labels: `hpal eval --split train` of what was
spread; --after: what is not given is as in the last line of ROUNDS.csv, to whose minutes the given ones are added.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import statistics
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

COLUMNS = (
    "strategy", "per", "model", "seed", "budget", "round", "points", "clicks", "area", "mIoU", "accuracy",
    "label mIoU", "per class", "minutes",
)  # fmt: skip
KEY = ("strategy", "per", "model", "budget")

Line = dict[str, str]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    adding = commands.add_parser("add")
    adding.add_argument("file", type=Path)
    adding.add_argument("--eval", type=Path, required=True)
    adding.add_argument("--labels", type=Path)
    adding.add_argument("--after", type=Path)
    adding.add_argument("given", nargs="*")
    reporting = commands.add_parser("report")
    reporting.add_argument("results", type=Path)
    reporting.add_argument("--csv-only", action="store_true")
    args = parser.parse_args()
    if args.command == "add":
        given = dict(word.split("=", 1) for word in args.given)
        add(args.file, given, args.eval, args.labels, args.after)
    else:
        report(args.results, csv_only=args.csv_only)


def add(file: Path, given: Line, measured: Path, labels: Path | None, after: Path | None) -> None:
    """Appends a line to `file`, which has no heading."""
    result = json.loads(measured.read_text(encoding="utf-8"))
    line = dict.fromkeys(COLUMNS, "")
    if after is not None and after.exists():
        # Predictions of the validation rooms know of no answers.
        line = read([after])[-1]
        given = given | {"minutes": f"{float(line['minutes']) + float(given['minutes']):.2f}"}
    line |= {"points": line["points"] or str(result["labelled"]["points"])} | given
    line["mIoU"], line["accuracy"] = (f"{result['grid'][name]:.4f}" for name in ("miou", "accuracy"))
    iou = result["grid"]["iou"]
    line["per class"] = "; ".join(f"{name} {value:.4f}" for name, value in iou.items() if value is not None)
    if labels is not None:
        line["label mIoU"] = f"{json.loads(labels.read_text(encoding='utf-8'))['grid']['miou']:.4f}"
    with file.open("a", encoding="utf-8", newline="") as out:
        csv.DictWriter(out, COLUMNS, lineterminator="\n").writerow(line)


def report(results: Path, *, csv_only: bool) -> None:
    lines = collect(results)
    with replaced(results / "study.csv").open("w", encoding="utf-8", newline="") as out:
        writer = csv.DictWriter(out, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)
    done(results / "study.csv")
    if csv_only:
        return
    text = table(lines)
    replaced(results / "table.md").write_text(text, encoding="utf-8")
    done(results / "table.md")
    print(text, end="")
    if any(line["model"] == "spread" for line in lines):
        draw(lines, replaced(results / "curves.png"))
        done(results / "curves.png")


def collect(results: Path) -> list[Line]:
    """Of the campaigns that are whole, in an order that does not depend on when they ran."""
    files = [f for f in results.glob("rows/*/*/seed-*/*.csv") if ".unfinished-" not in f.parent.name]
    lines = read(files)
    return sorted(
        lines,
        key=lambda line: (
            int(line["budget"]), line["strategy"], line["per"], int(line["seed"]), line["model"] != "spread",
            line["model"], int(line["round"] or 0),
        ),
    )  # fmt: skip


def read(files: Iterable[Path]) -> list[Line]:
    lines: list[Line] = []
    for file in files:
        with file.open(encoding="utf-8", newline="") as text:
            lines += csv.DictReader(text, COLUMNS)
    return lines


def last_rounds(lines: Sequence[Line]) -> dict[tuple[str, ...], list[Line]]:
    """For each campaign and model the last line of each seed."""
    found: dict[tuple[str, ...], dict[str, Line]] = {}
    for line in lines:
        found.setdefault(tuple(line[name] for name in KEY), {})[line["seed"]] = line
    return {key: list(seeds.values()) for key, seeds in found.items()}


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float | None]:
    """The deviation is that of a sample; None of a single value."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


def table(lines: Sequence[Line]) -> str:
    """The best first, within a budget and a model."""
    heading = (
        "budget", "model", "strategy", "per", "seeds", "points", "clicks", "area m2", "mIoU %", "accuracy %",
        "labels, mIoU %", "minutes",
    )  # fmt: skip
    rows = []
    for (strategy, per, model, budget), seeds in last_rounds(lines).items():
        score = statistics.fmean(float(line["mIoU"]) for line in seeds)
        cells = [
            budget, model, strategy, per, str(len(seeds)), *(mean(seeds, name, digits) for name, digits in (
                ("points", 0), ("clicks", 0), ("area", 2))),
            *(percent(seeds, name) for name in ("mIoU", "accuracy", "label mIoU")), mean(seeds, "minutes", 1),
        ]  # fmt: skip
        rows.append(((int(budget), model == "spread", model, -score), cells))
    ranked = [cells for _, cells in sorted(rows)]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (heading, ["---"] * len(heading), *ranked))


def mean(lines: Sequence[Line], name: str, digits: int) -> str:
    values = [float(line[name]) for line in lines if line[name]]
    return f"{statistics.fmean(values):,.{digits}f}" if values else ""


def percent(lines: Sequence[Line], name: str) -> str:
    values = [100 * float(line[name]) for line in lines if line[name]]
    if not values:
        return ""
    middle, deviation = mean_and_deviation(values)
    return f"{middle:.1f}" + ("" if deviation is None else f" ± {deviation:.1f}")


def draw(lines: Sequence[Line], path: Path) -> None:
    """mIoU over the clicks, of the largest budget: above on the validation rooms, below of the answered rooms; on the
    left the campaigns that ask for superpoints, on the right the others. A band is one standard deviation."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        sys.exit("study.py: this python3 has no matplotlib for curves.png; put the one that has hpal first on the PATH")
    rounds = [line for line in lines if line["model"] == "spread"]
    budget = max((line["budget"] for line in rounds), key=int)
    rounds = [line for line in rounds if line["budget"] == budget]
    strategies = sorted({line["strategy"].removesuffix("+fds") for line in rounds})
    colour = {strategy: f"C{number % 10}" for number, strategy in enumerate(strategies)}
    figure = Figure(figsize=(11, 8), dpi=90, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, 2, sharex="col", sharey="row")
    for column, superpoint in enumerate((True, False)):
        curves = sorted({(x["strategy"], x["per"]) for x in rounds if (x["per"] == "superpoint") == superpoint})
        for row, name in enumerate(("mIoU", "label mIoU")):
            for strategy, per in curves:
                mine = [x for x in rounds if (x["strategy"], x["per"]) == (strategy, per) and x[name]]
                steps = sorted({int(x["round"]) for x in mine})
                at = [[x for x in mine if int(x["round"]) == step] for step in steps]
                clicks = [statistics.fmean(float(x["clicks"]) for x in some) for some in at]
                found = [mean_and_deviation([100 * float(x[name]) for x in some]) for some in at]
                style = {
                    "color": colour[strategy.removesuffix("+fds")],
                    "linestyle": "--" if strategy.endswith("+fds") else "-",
                }
                axes[row, column].plot(clicks, [m for m, _ in found], marker=".", label=strategy, **style)
                low, high = ([m + sign * (d or 0) for m, d in found] for sign in (-1, 1))
                axes[row, column].fill_between(clicks, low, high, alpha=0.15, linewidth=0, color=style["color"])
            axes[row, column].grid(alpha=0.3)
        axes[0, column].set_title("an answer for a superpoint" if superpoint else "an answer for a point or region")
        axes[1, column].set_xlabel("clicks")
        if curves:
            axes[1, column].legend(fontsize=8, ncols=2, loc="lower right")
    axes[0, 0].set_ylabel("mIoU %, validation rooms")
    axes[1, 0].set_ylabel("mIoU %, labels of the answered rooms")
    figure.savefig(path, format="png", metadata={"Software": None})


def replaced(path: Path) -> Path:
    """Where a file is written before it takes the place of `path`: what is read there is always whole."""
    return path.with_name(f"{path.name}.{os.getpid()}")


def done(path: Path) -> None:
    replaced(path).replace(path)


if __name__ == "__main__":
    main()
