"""train: a network from scenes and the labels of some of their points."""

from __future__ import annotations

import hashlib
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
from hpal_cli.network.backend import Backend, choose
from hpal_cli.network.device import full_precision
from hpal_cli.network.inputs import COLOR, POSITION, NetworkInput
from hpal_cli.network.minkunet import SIZES, MinkUNet
from hpal_cli.progress import Monitor, Silent
from hpal_cli.scenes.store import SceneStore
from hpal_cli.training.batches import Batch, Batches, SceneLabels
from hpal_cli.training.checkpoint import Checkpoint, load
from hpal_cli.training.interruption import between_steps
from hpal_cli.training.losses import follow, objective
from hpal_cli.training.presets import Settings
from hpal_cli.training.schedule import learning_rate

SAVE_EVERY = 200


def known_labels(
    store: SceneStore, labels: LabelStore | None
) -> tuple[dict[str, SceneLabels], dict[str, NDArray[np.int64]]]:
    """What is known of each train scene, and the rows that were answered for in any scene. Both hold unsure answers
    (-1), which no loss may touch.

    Without a labels store every labelled point of the train split is known, and none counts as asked.

    Raises:
        HpalError: the labels are of other scenes, or name a row or class that is not there, or none can be trained on.
    """
    if labels is None:
        known = {}
        for scene in store.table.choose("train"):
            truth = store.labels(scene)
            if truth is not None and (truth >= 0).any():
                known[scene.name] = (np.arange(scene.points), truth)
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
            known[scene.name] = (index, label)
    if not any((ids >= 0).any() for _, ids in known.values()):
        raise HpalError(labels.path, "holds no label of a train scene", "answer some points with `hpal label` first")
    return known, answered


def train(
    store: SceneStore,
    labels: LabelStore | None,
    settings: Settings,
    *,
    init: Checkpoint | None = None,
    device: torch.device | None = None,
    backend: Backend | None = None,
    seed: int = 0,
    run: Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    history: Sequence[Entry] = (),
    monitor: Monitor | None = None,
) -> Checkpoint:
    """Trains on the train split of `store`.

    Args:
        labels: the answered points, or None to use every label of the store (fully supervised).
        init: continue from these student weights; without it the network starts from random ones.
        backend: whose convolution to use, None for what `auto` takes; no part of the run: it may resume on another.
        run: where to save the checkpoint; metrics and the state of an unfinished run are kept beside it.
        resume: go on from that state; overwrite: `run` may exist.

    Raises:
        HpalError: labels that do not fit, an `init` of another shape, or a loss that is not finite.
    """
    monitor = monitor or Silent()
    device = device or torch.device("cpu")
    backend = backend or choose("auto", device)
    known, answered = known_labels(store, labels)
    scenes = store.table.choose("train")
    outside = sum(len(rows) for name, rows in answered.items() if name not in known)
    if outside:
        monitor.warn(f"{outside} answers are for scenes outside the train split: not trained on")
    without = [scene.name for scene in store.table if not store.has_color(scene)]
    color = not without
    if without and len(without) < len(store.table):
        monitor.warn(f"colour is left out, since {without[0]} has none ({len(without)} of {len(store.table)} scenes)")
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
    digest = _digest(known, init)
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
            labels=digest,
            labelled=sum(int((ids >= 0).sum()) for _, ids in known.values()),
            answered=answered,
            all_labelled=labels is None,
            history=list(history),
            state=state,
        )

    first, skipped = 0, 0
    unfinished = None if run is None else run.with_name(f"{run.name}.unfinished")
    if unfinished is not None and resume and not unfinished.exists():
        monitor.note(f"{unfinished} is not there: nothing to resume, starting from step 1")
    elif unfinished is not None and resume:
        saved = _load_unfinished(unfinished, checkpoint(0, {}))
        student.load_state_dict(saved.student)
        if teacher is not None:
            teacher.load_state_dict(saved.state["teacher"])
        optimizer.load_state_dict(saved.state["optimizer"])
        first, skipped = saved.step, saved.state["skipped"]
        monitor.note(f"{unfinished}: going on after step {first}")
    elif unfinished is not None and unfinished.exists():
        raise HpalError(
            unfinished, "is left from an interrupted run", "go on with --resume, or remove it to start over"
        )
    metrics = None if run is None else Metrics(run.with_name(f"{run.name}.metrics.jsonl"), first)

    def save_unfinished(step: int) -> None:
        state = {
            "teacher": {} if teacher is None else teacher.state_dict(),
            "optimizer": optimizer.state_dict(),
            "skipped": skipped,
        }
        assert unfinished is not None
        checkpoint(step, state).save(unfinished, overwrite=True)

    with between_steps() as interruption, full_precision(), monitor.task("training", settings.steps) as task:
        task.advance(first)
        for step in range(first, settings.steps):
            if unfinished is not None and step > first and step % SAVE_EVERY == 0:
                save_unfinished(step)
            batch = batches[step]
            rate = learning_rate(settings, step)
            loss = _step(student, teacher, optimizer, batch, settings, rate, step, device, backend)
            if loss is None:
                skipped += 1
                task.advance(1, "no labelled point in this batch: skipped")
            else:
                value, labelled, confident = loss
                sure = f"  sure {confident:4.0%}" if teacher is not None else ""
                task.advance(1, f"loss {value:6.3f}  lr {rate:.4f}{sure}")
                if metrics is not None and (step % 10 == 9 or step == settings.steps - 1):
                    metrics.add(step + 1, value, rate, labelled, confident)
            if interruption.number is not None:
                if unfinished is not None:
                    save_unfinished(step + 1)
                    monitor.note(f"stopped after step {step + 1}; the same command with --resume goes on from there")
                break
    if skipped:
        monitor.warn(f"{skipped} of {settings.steps} batches held no labelled point and were skipped")
    done = checkpoint(settings.steps, {})
    if run is not None and unfinished is not None:
        # Saved before the state that could repeat it goes: a full disk must not cost the run.
        done.save(run, overwrite=overwrite)
        unfinished.unlink(missing_ok=True)
    return done


class Metrics:
    """A file beside the checkpoint, one line of JSON every ten steps, written as they come."""

    def __init__(self, path: Path, first: int) -> None:
        """Keeps the lines of steps up to `first`, those of a run that goes on."""
        self._path = path
        lines = path.read_text(encoding="utf-8").splitlines() if first and path.exists() else []
        kept = [line for line in lines if json.loads(line)["step"] <= first]
        path.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")

    def add(self, step: int, loss: float, rate: float, labelled: int, confident: float) -> None:
        """labelled: points of the batch; confident: share of its other points with a sure pseudo-label."""
        row = {"step": step, "loss": round(loss, 5), "lr": rate, "labelled": labelled, "confident": round(confident, 4)}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(f"{json.dumps(row)}\n")


def _step(
    student: MinkUNet,
    teacher: MinkUNet | None,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    settings: Settings,
    rate: float,
    step: int,
    device: torch.device,
    backend: Backend,
) -> tuple[float, int, float] | None:
    """One optimiser step: (loss, labelled points, share of confident pseudo-labels), None if nothing was known."""
    guess = None
    if teacher is not None and batch.teacher is not None:
        with torch.no_grad():
            guess = at_points(teacher, batch.teacher, device, backend)
    loss = objective(at_points(student, batch.student, device, backend), guess, batch.label.to(device), settings)
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


def _digest(known: Mapping[str, SceneLabels], init: Checkpoint | None) -> str:
    """The same for runs that learn the same from the same start."""
    digest = hashlib.sha256()
    for name, (rows, ids) in sorted(known.items()):
        digest.update(name.encode() + rows.astype("<i8").tobytes() + ids.astype("<i4").tobytes())
    for tensor in init.student.values() if init is not None else ():
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()[:16]


def _load_unfinished(path: Path, now: Checkpoint) -> Checkpoint:
    """The state of an interrupted run.

    Raises:
        HpalError: it is of a run with other data or options.
    """
    saved = load(path)
    for what in ("settings", "classes", "color", "scenes", "seed", "labels"):
        if getattr(saved, what) != getattr(now, what):
            raise HpalError(path, f"was started with other {what}", "resume with the same, or remove it to start over")
    return saved


def at_points(network: MinkUNet, inputs: NetworkInput, device: torch.device, backend: Backend) -> Tensor:
    """(N, C) logits of every point of a batch: those of its voxel."""
    inputs = inputs.to(device)
    logits, _ = network(inputs.features, backend.geometry(inputs.voxel))
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
