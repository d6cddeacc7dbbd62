"""train: a network from scenes and the labels of some of their points."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hpal_cli.errors import HpalError, UsageError
from hpal_cli.history import Entry
from hpal_cli.label.store import LabelStore
from hpal_cli.network.device import full_precision
from hpal_cli.network.geometry import Geometry
from hpal_cli.network.inputs import COLOR, POSITION, NetworkInput
from hpal_cli.network.minkunet import SIZES, MinkUNet
from hpal_cli.progress import Monitor, Silent
from hpal_cli.scenes.store import SceneStore
from hpal_cli.training.batches import Batch, Batches, SceneLabels
from hpal_cli.training.checkpoint import Checkpoint, load
from hpal_cli.training.losses import follow, objective
from hpal_cli.training.presets import Settings
from hpal_cli.training.schedule import learning_rate

SAVE_EVERY = 500


def known_labels(
    store: SceneStore, labels: LabelStore | None
) -> tuple[dict[str, SceneLabels], dict[str, NDArray[np.int64]]]:
    """What training may use of each train scene, and the rows that were answered for (unsure ones too).

    Without a labels store every labelled point of the train split is known, and none counts as asked.

    Raises:
        HpalError: the labels are of other scenes, or name a row or class that is not there, or none can be trained on.
    """
    if labels is None:
        known = {}
        for scene in store.table.choose("train"):
            truth = store.labels(scene)
            if truth is not None and (truth >= 0).any():
                rows = np.flatnonzero(truth >= 0)
                known[scene.name] = (rows, truth[rows])
        if not known:
            raise HpalError(store.path, "its train scenes hold no labels", "label some points with `hpal label`")
        return known, {}
    labels.require_scenes(store.table.id, store.path)
    answers = labels.latest()
    known, answered = {}, {}
    for scene in store.table:
        mine = answers[answers["scene"] == scene.number]
        if not len(mine):
            continue
        index, label = mine["index"].astype(np.int64), mine["label"].astype(np.int32)
        if index.min() < 0 or index.max() >= scene.points or label.max() >= len(store.classes):
            raise HpalError(
                labels.path,
                f"points outside scene {scene.name} or its classes",
                "check it with `hpal info --check`",
            )
        answered[scene.name] = index
        if scene.split == "train":
            known[scene.name] = (index[label >= 0], label[label >= 0])
    if not any(len(rows) for rows, _ in known.values()):
        raise HpalError(labels.path, "holds no label of a train scene", "answer some points with `hpal label` first")
    return known, answered


def train(
    store: SceneStore,
    labels: LabelStore | None,
    settings: Settings,
    *,
    init: Checkpoint | None = None,
    device: torch.device | None = None,
    seed: int = 0,
    run: Path | None = None,
    resume: bool = False,
    history: Sequence[Entry] = (),
    monitor: Monitor | None = None,
) -> Checkpoint:
    """Trains on the train split of `store`.

    Args:
        labels: the answered points, or None to use every label of the store (fully supervised).
        init: continue from these student weights; without it the network starts from random ones.
        run: where the checkpoint will go; metrics (one line of JSON every ten steps) and the state of an unfinished
            run are kept beside it.
        resume: go on from that state, if there is one.

    Raises:
        HpalError: labels that do not fit, an `init` of another shape, or a loss that is not finite.
    """
    monitor = monitor or Silent()
    device = device or torch.device("cpu")
    known, answered = known_labels(store, labels)
    scenes = store.table.choose("train")
    color = all(store.has_color(scene) for scene in scenes)
    torch.manual_seed(seed)
    channels = len(POSITION) + (len(COLOR) if color else 0)
    student = MinkUNet(channels, len(store.classes), SIZES[settings.size])
    if init is not None:
        _start_from(student, init, store, color, settings)
    student = student.to(device).train()
    teacher = None
    if settings.teacher:
        teacher = MinkUNet(channels, len(store.classes), SIZES[settings.size]).to(device).eval()
        teacher.load_state_dict(student.state_dict())
    optimizer = _optimizer(student, settings)
    batches = Batches(store, scenes, known, settings, color=color, seed=seed)

    def checkpoint(step: int, state: dict[str, Any]) -> Checkpoint:
        return Checkpoint(
            settings=settings,
            classes=store.classes,
            color=color,
            scenes=store.table.id,
            step=step,
            seed=seed,
            student={name: value.detach().cpu() for name, value in student.state_dict().items()},
            answered=answered,
            all_labelled=labels is None,
            history=list(history),
            state=state,
        )

    first, skipped = 0, 0
    lines: list[str] = []
    unfinished = None if run is None else run.with_name(f"{run.name}.unfinished")
    if resume and unfinished is not None and unfinished.exists():
        saved = load(unfinished)
        _require_same_run(saved, checkpoint(0, {}), unfinished)
        student.load_state_dict(saved.student)
        if teacher is not None:
            teacher.load_state_dict(saved.state["teacher"])
        optimizer.load_state_dict(saved.state["optimizer"])
        first, skipped, lines = saved.step, saved.state["skipped"], saved.state["metrics"].splitlines()
        monitor.note(f"{unfinished}: going on after step {first}")
    with full_precision(), monitor.task("training", settings.steps) as task:
        task.advance(first)
        for step in range(first, settings.steps):
            if unfinished is not None and step > first and step % SAVE_EVERY == 0:
                state = {
                    "teacher": {} if teacher is None else teacher.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "skipped": skipped,
                    "metrics": "\n".join(lines),
                }
                checkpoint(step, state).save(unfinished, overwrite=True)
            batch = batches[step]
            rate = learning_rate(settings, step)
            loss = _step(student, teacher, optimizer, batch, settings, rate, step, device)
            if loss is None:
                skipped += 1
                task.advance(1, "no labelled point in this batch: skipped")
                continue
            value, labelled, confident = loss
            task.advance(
                1,
                f"loss {value:6.3f}  lr {rate:.4f}" + (f"  sure {confident:4.0%}" if teacher is not None else ""),
            )
            if step % 10 == 9 or step == settings.steps - 1:
                row = {
                    "step": step + 1,
                    "loss": round(value, 5),
                    "lr": rate,
                    "labelled": labelled,
                    "confident": round(confident, 4),
                }
                lines.append(json.dumps(row))
    if run is not None and unfinished is not None:
        run.with_suffix(".metrics.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        unfinished.unlink(missing_ok=True)
    if skipped:
        monitor.warn(f"{skipped} of {settings.steps} batches held no labelled point and were skipped")
    return checkpoint(settings.steps, {})


def _step(
    student: MinkUNet,
    teacher: MinkUNet | None,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    settings: Settings,
    rate: float,
    step: int,
    device: torch.device,
) -> tuple[float, int, float] | None:
    """One optimiser step: (loss, labelled points, share of confident pseudo-labels), None if nothing was known."""
    guess = None
    if teacher is not None and batch.teacher is not None:
        with torch.no_grad():
            guess = at_points(teacher, batch.teacher, device)
    loss = objective(at_points(student, batch.student, device), guess, batch.label.to(device), settings)
    if loss.total is None:
        return None
    value = loss.total.item()
    if not math.isfinite(value):
        raise HpalError(
            f"step {step + 1}",
            f"the loss is {value} on {', '.join(batch.scenes)}",
            "lower --lr, or look at these scenes with `hpal info --check`",
        )
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.zero_grad(set_to_none=True)
    loss.total.backward()
    optimizer.step()
    if teacher is not None:
        follow(teacher, student, settings.keep)
    return value, loss.labelled, loss.confident


def _require_same_run(saved: Checkpoint, now: Checkpoint, path: Path) -> None:
    for what in ("settings", "classes", "color", "scenes", "seed", "all_labelled"):
        if getattr(saved, what) != getattr(now, what):
            raise HpalError(
                path,
                f"was started with other {what}",
                "resume with the same options, or remove it to start over",
            )
    same = saved.answered.keys() == now.answered.keys()
    if not same or any((rows != now.answered[name]).any() for name, rows in saved.answered.items()):
        raise HpalError(
            path, "was started with other labels", "resume with the same labels, or remove it to start over"
        )


def at_points(network: MinkUNet, inputs: NetworkInput, device: torch.device) -> Tensor:
    """(N, C) logits of every point of a batch: those of its voxel."""
    inputs = inputs.to(device)
    logits, _ = network(inputs.features, Geometry(inputs.voxel))
    return logits[inputs.inverse]


def _start_from(student: MinkUNet, init: Checkpoint, store: SceneStore, color: bool, settings: Settings) -> None:
    problems: Mapping[str, tuple[Any, Any]] = {
        "size": (init.settings.size, settings.size),
        "classes": (init.classes.names, store.classes.names),
        "channels": (list(init.channels), list((*COLOR, *POSITION) if color else POSITION)),
        "voxel": (init.settings.voxel, settings.voxel),
    }
    for what, (theirs, ours) in problems.items():
        if theirs != ours:
            raise UsageError(
                "--init",
                f"its {what} is {theirs}, this run's is {ours}",
                "train from scratch, or make them equal",
            )
    student.load_state_dict(init.student)


def _optimizer(network: MinkUNet, settings: Settings) -> torch.optim.Optimizer:
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(network.parameters(), lr=settings.lr, weight_decay=settings.weight_decay)
    return torch.optim.SGD(
        network.parameters(),
        lr=settings.lr,
        momentum=settings.momentum,
        dampening=settings.dampening,
        weight_decay=settings.weight_decay,
    )
