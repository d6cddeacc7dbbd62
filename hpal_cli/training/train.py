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
from hpal_cli.network.inputs import COLOR, POSITION
from hpal_cli.network.minkunet import SIZES, MinkUNet
from hpal_cli.progress import Monitor, Silent
from hpal_cli.scenes.store import SceneStore
from hpal_cli.training.ahead import Ready, View, ready_batches
from hpal_cli.training.batches import Batches, SceneLabels
from hpal_cli.training.checkpoint import Checkpoint, load
from hpal_cli.training.interruption import between_steps
from hpal_cli.training.losses import Loss, class_weights, follow, objective
from hpal_cli.training.presets import Settings
from hpal_cli.training.processes import Processes, joined, own_device
from hpal_cli.training.schedule import learning_rate

SAVE_EVERY = 200
"""Steps between two saved states of an unfinished run."""


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
    save_every: int = SAVE_EVERY,
    resume: bool = False,
    overwrite: bool = False,
    history: Sequence[Entry] = (),
    monitor: Monitor | None = None,
) -> Checkpoint:
    """Trains on the train split of `store`; with the processes that `torchrun` started, if it did.

    Args:
        labels: the answered points, or None to use every label of the store (fully supervised).
        init: continue from these student weights; without it the network starts from random ones.
        backend: whose convolution to use, None for what `auto` takes; no part of the run: it may resume on another.
        run: where to save the checkpoint; metrics and the state of an unfinished run, saved every `save_every` steps,
            are kept beside it.
        resume: go on from that state; overwrite: `run` may exist.

    Raises:
        HpalError: labels that do not fit, an `init` of another shape, or a loss that is not finite.
    """
    device = own_device(device or torch.device("cpu"))
    backend = backend or choose("auto", device)
    with joined(device) as processes, full_precision():
        if settings.batch < processes.world:
            raise UsageError("--batch", f"{settings.batch} scenes for {processes.world} processes", "give each one")
        monitor = (monitor if processes.first else None) or Silent()
        run_of = _Run(store, labels, settings, init, device, backend, seed, processes, list(history), monitor)
        return run_of.go(run, save_every=save_every, resume=resume, overwrite=overwrite)


class _Run:
    """The state of one training run: two networks, an optimiser, and where it stands."""

    def __init__(
        self,
        store: SceneStore,
        labels: LabelStore | None,
        settings: Settings,
        init: Checkpoint | None,
        device: torch.device,
        backend: Backend,
        seed: int,
        processes: Processes,
        history: list[Entry],
        monitor: Monitor,
    ) -> None:
        self.store, self.settings, self.seed, self.history = store, settings, seed, history
        self.device, self.backend, self.processes, self.monitor = device, backend, processes, monitor
        self.all_labelled = labels is None
        known, self.answered = known_labels(store, labels)
        outside = sum(len(rows) for name, rows in self.answered.items() if name not in known)
        if outside:
            monitor.warn(f"{outside} answers are for scenes outside the train split: not trained on")
        without = [scene.name for scene in store.table if not store.has_color(scene)]
        self.color = not without
        if without and len(without) < len(store.table):
            monitor.warn(
                f"colour is left out, since {without[0]} has none ({len(without)} of {len(store.table)} scenes)"
            )
        torch.manual_seed(seed)
        self.student = self._network()
        if init is not None:
            _start_from(self.student, init, store, self.color, settings)
        self.student = self.student.to(device).train()
        self.teacher: MinkUNet | None = None
        if settings.teacher:
            self.teacher = self._network().to(device).eval()
            self.teacher.load_state_dict(self.student.state_dict())
        self.optimizer = _optimizer(self.student, settings)
        self.digest = _digest(known, init)
        counts = np.bincount(np.concatenate([ids[ids >= 0] for _, ids in known.values()]), minlength=len(store.classes))
        self.labelled = int(counts.sum())
        self.weight = None
        if settings.class_weights == "sqrt":
            self.weight = class_weights(torch.from_numpy(counts)).to(device)
        self.batches = Batches(
            store,
            store.table.choose("train"),
            known,
            settings,
            color=self.color,
            seed=seed,
            rank=processes.rank,
            world=processes.world,
        )
        self.step, self.skipped = 0, 0
        self._losses: list[tuple[int, list[str], Tensor]] = []

    def _network(self) -> MinkUNet:
        channels = len(POSITION) + (len(COLOR) if self.color else 0)
        size = SIZES[self.settings.size]
        return MinkUNet(channels, len(self.store.classes), size, dropout=self.settings.dropout)

    def go(self, run: Path | None, *, save_every: int, resume: bool, overwrite: bool) -> Checkpoint:
        """Trains to the last step, and saves as it goes if `run` is given."""
        settings, monitor = self.settings, self.monitor
        unfinished = None if run is None else run.with_name(f"{run.name}.unfinished")
        if unfinished is not None and resume and not unfinished.exists():
            monitor.note(f"{unfinished} is not there: nothing to resume, starting from step 1")
        elif unfinished is not None and resume:
            self._load(unfinished)
            monitor.note(f"{unfinished}: going on after step {self.step}")
        elif unfinished is not None and unfinished.exists():
            raise HpalError(
                unfinished, "is left from an interrupted run", "go on with --resume, or remove it to start over"
            )
        # Nobody may write before everybody has looked.
        self.processes.agree(0)
        if not self.processes.first:
            run = unfinished = None
        metrics = None if run is None else Metrics(run.with_name(f"{run.name}.metrics.jsonl"), self.step)
        saved = unfinished if self.step else None
        first, geometry = self.step, self.backend.geometry
        with between_steps() as interruption, monitor.task("training", settings.steps) as task:
            task.advance(first)
            steps = range(first, settings.steps)
            for ready in ready_batches(self.batches, steps, self.device, geometry):
                rate = learning_rate(settings, self.step)
                (labelled,) = self.processes.agree(ready.labelled)
                if not labelled:
                    self.skipped += 1
                loss = self._learn(ready, rate) if labelled else None
                self.step += 1
                (stop,) = self.processes.agree(int(interruption.number is not None))
                save = self.step % save_every == 0 and self.step < settings.steps
                # Reading a loss makes the host wait for a GPU.
                if self.device.type == "cpu" or self.step % 10 == 0 or save or stop or self.step == settings.steps:
                    value = self._look_at_losses(saved)
                    status = "no labelled point in this batch: skipped"
                    if loss is not None and value is not None:
                        confident = float(loss.confident)
                        sure = f"  sure {confident:4.0%}" if self.teacher is not None else ""
                        status = f"loss {value:6.3f}  lr {rate:.4f}{sure}"
                        if metrics is not None and (self.step % 10 == 0 or self.step == settings.steps):
                            metrics.add(self.step, value, rate, labelled, confident)
                    task.advance(1, status)
                else:
                    task.advance(1)
                if unfinished is not None and (save or stop):
                    self._checkpoint(finished=False).save(unfinished, overwrite=True)
                    saved = unfinished
                if stop:
                    if unfinished is not None:
                        monitor.note(
                            f"stopped after step {self.step}; the same command with --resume goes on from there"
                        )
                    break
        if self.skipped:
            monitor.warn(f"{self.skipped} of {settings.steps} batches held no labelled point and were skipped")
        done = self._checkpoint(finished=True)
        if run is not None and unfinished is not None:
            # Saved before the state that could repeat it goes: a full disk must not cost the run.
            done.save(run, overwrite=overwrite)
            unfinished.unlink(missing_ok=True)
        return done

    def _learn(self, ready: Ready, rate: float) -> Loss:
        """One optimiser step. Nothing here asks a GPU for a number."""
        settings, processes = self.settings, self.processes
        guess = None
        if self.teacher is not None and ready.teacher is not None:
            with torch.no_grad():
                guess = at_points(self.teacher, ready.teacher)
        if settings.dropout:
            # A resumed run leaves out the same features.
            torch.manual_seed((self.seed * 1_000_003 + self.step) * 1_009 + processes.rank)
        answer = at_points(self.student, ready.student)
        loss = objective(answer, guess, ready.label, settings, weight=self.weight, across=processes.sum)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        loss.total.backward()
        processes.add_gradients(self.student.parameters())
        self._losses.append((self.step, ready.scenes, processes.sum(loss.total.detach())))
        self.optimizer.step()
        if self.teacher is not None:
            follow(self.teacher, self.student, settings.keep)
        return loss

    def _look_at_losses(self, saved: Path | None) -> float | None:
        """The last loss of those that nobody has looked at yet, None if there is none.

        Raises:
            HpalError: one is not finite.
        """
        value = None
        for (step, scenes, _), value in zip(
            self._losses, torch.stack([loss for *_, loss in self._losses]).tolist() if self._losses else []
        ):
            if not math.isfinite(value):
                state = f"the state before is in {saved}" if saved else "no state was saved before"
                raise HpalError(
                    f"step {step + 1}",
                    f"the loss is {value} on {', '.join(scenes)} ({state})",
                    "lower --lr, or look at these scenes with `hpal info --check`",
                )
        self._losses.clear()
        return value

    def _checkpoint(self, *, finished: bool) -> Checkpoint:
        state: dict[str, Any] = {}
        if not finished:
            state = {
                "teacher": {} if self.teacher is None else self.teacher.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "skipped": self.skipped,
            }
        return Checkpoint(
            settings=self.settings,
            classes=self.store.classes,
            color=self.color,
            scenes=self.store.table.id,
            step=self.step,
            seed=self.seed,
            student={name: value.detach().cpu() for name, value in self.student.state_dict().items()},
            labels=self.digest,
            labelled=self.labelled,
            answered=self.answered,
            all_labelled=self.all_labelled,
            history=self.history,
            state=state,
        )

    def _load(self, unfinished: Path) -> None:
        """Goes on from a saved state.

        Raises:
            HpalError: it is of a run with other data or options.
        """
        saved, now = load(unfinished), self._checkpoint(finished=True)
        for what in ("settings", "classes", "color", "scenes", "seed", "labels"):
            if getattr(saved, what) != getattr(now, what):
                raise HpalError(
                    unfinished, f"was started with other {what}", "resume with the same, or remove it to start over"
                )
        self.student.load_state_dict(saved.student)
        if self.teacher is not None:
            self.teacher.load_state_dict(saved.state["teacher"])
        self.optimizer.load_state_dict(saved.state["optimizer"])
        self.step, self.skipped = saved.step, saved.state["skipped"]


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


def _digest(known: Mapping[str, SceneLabels], init: Checkpoint | None) -> str:
    """The same for runs that learn the same from the same start."""
    digest = hashlib.sha256()
    for name, (rows, ids) in sorted(known.items()):
        digest.update(name.encode() + rows.astype("<i8").tobytes() + ids.astype("<i4").tobytes())
    for tensor in init.student.values() if init is not None else ():
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()[:16]


def at_points(network: MinkUNet, view: View) -> Tensor:
    """(N, C) logits of every point of a batch: those of its voxel."""
    logits, _ = network(view.features, view.geometry)
    return logits[view.inverse]


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
