"""Trains a network on scenes of which some points have labels."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hpal_cli.errors import HpalError, UsageError
from hpal_cli.history import Entry
from hpal_cli.labels.store import LabelStore
from hpal_cli.network.backend import Backend, choose
from hpal_cli.network.device import full_precision
from hpal_cli.network.minkunet import SIZES, MinkUNet
from hpal_cli.network.point_inputs import ExtraColumnsReader, InputSpec, PointInputs
from hpal_cli.network.superpoint_inputs import SuperpointInputs
from hpal_cli.predictions.store import PredictionStore
from hpal_cli.progress import Monitor, Silent
from hpal_cli.scene_table import SceneInfo
from hpal_cli.scenes.store import SceneStore
from hpal_cli.store.objects import put
from hpal_cli.store.remote import RemotePath, require_writable
from hpal_cli.superpoints.build import Superpoints
from hpal_cli.superpoints.store import open_superpoints
from hpal_cli.training.batches import BatchDataset
from hpal_cli.training.checkpoint import Checkpoint, channel_names, load
from hpal_cli.training.distributed import Processes, local_device, process_group
from hpal_cli.training.labels import SceneLabels, Spread, known_labels, with_minimum_share
from hpal_cli.training.losses import Loss, class_weights, objective, update_ema
from hpal_cli.training.prefetch import DeviceBatch, NetworkBatch, default_workers, prefetch_batches
from hpal_cli.training.presets import Settings
from hpal_cli.training.schedule import RunProgress
from hpal_cli.training.signals import defer_signals

SAVE_EVERY = 200
"""Steps between two saved states of an unfinished run."""

AVERAGE_DECAY = 0.99
"""Share of the running average of the weights that is kept at each step, except in the first steps."""

TIMED_SHARE = 0.05
"""Share of the time of a run with `minutes` after which the number of its steps is estimated."""

UNBOUNDED_STEPS = 1 << 40
"""A number of steps that no timed run reaches."""


def train(
    store: SceneStore,
    labels: LabelStore | None,
    settings: Settings,
    *,
    spread: PredictionStore | None = None,
    old_spread: bool = False,
    init: Checkpoint | None = None,
    device: torch.device | None = None,
    backend: Backend | None = None,
    workers: int | None = None,
    seed: int = 0,
    run: Path | None = None,
    save_every: int = SAVE_EVERY,
    resume: bool = False,
    overwrite: bool = False,
    history: Sequence[Entry] = (),
    monitor: Monitor | None = None,
) -> Checkpoint:
    """Trains a network on the train split of `store`, together with the processes that `torchrun` started, if there are
    any.

    Args:
        labels: the answered points; None: every label of the store (fully supervised).
        old_spread: whether a spread of other answers than those of `labels` is accepted.
        spread: the predictions store that `hpal spread` or a model wrote. Every point of which it knows something is
            then learned from, with its probabilities as the target (docs/method.md, "Training from spread answers").
        init: a checkpoint whose student weights the network starts from; None: random weights.
        backend: the library that computes the convolutions; None: what `auto` chooses. A run may be resumed with
            another.
        workers: number of processes that make batches, on which no result depends; 0: this process makes them; None: as
            many as the cores allow on a GPU, and 0 on a CPU.
        run: the path of the checkpoint. Metrics, and every `save_every` steps the state of the unfinished run, are
            written beside it.
        resume: whether to continue from that state; overwrite: whether `run` is replaced.

    A run with `settings.minutes` ends by the clock and does not repeat to the bit; all other runs do.

    Raises:
        HpalError: the labels or the spread do not fit the scenes, `init` has another shape, superpoints cannot be
            compared, or the loss is not finite.
    """
    device = local_device(device or torch.device("cpu"))
    backend = backend or choose("auto", device)
    if isinstance(run, RemotePath):
        require_writable(run)
    unfinished = None if run is None else _unfinished(run)
    if unfinished is not None and not resume and unfinished.exists():
        # Checked before scenes and labels are read, which can take long.
        raise HpalError(
            unfinished, "is left from an interrupted run", "continue it with --resume, or remove it to start over"
        )
    with process_group(device) as processes, full_precision():
        if settings.batch < processes.world_size:
            raise UsageError(
                "--batch",
                f"{settings.batch} scenes for {processes.world_size} processes",
                "give at least one scene for each process",
            )
        monitor = (monitor if processes.first else None) or Silent()
        run_of = _Run(
            store,
            labels,
            spread,
            old_spread,
            settings,
            init,
            device,
            backend,
            seed,
            processes,
            list(history),
            monitor,
            default_workers(device) if workers is None else workers,
        )
        return run_of.fit(run, save_every=save_every, resume=resume, overwrite=overwrite)


class _Run:
    """The state of a training run: the student, the teacher and the average if there are any, the optimiser, and the
    number of steps done."""

    def __init__(
        self,
        store: SceneStore,
        labels: LabelStore | None,
        spread: PredictionStore | None,
        old_spread: bool,
        settings: Settings,
        init: Checkpoint | None,
        device: torch.device,
        backend: Backend,
        seed: int,
        processes: Processes,
        history: list[Entry],
        monitor: Monitor,
        workers: int,
    ) -> None:
        self.store, self.settings, self.seed, self.history = store, settings, seed, history
        self.device, self.backend, self.processes, self.monitor = device, backend, processes, monitor
        self.workers = workers
        self.all_labelled = labels is None
        known, self.answered = known_labels(store, labels)
        outside = sum(len(rows) for name, rows in self.answered.items() if name not in known)
        if outside:
            monitor.warn(f"{outside} answers are for scenes outside the train split: not trained on")
        without = [scene.name for scene in store.table if not store.has_color(scene)]
        wanted = InputSpec.parse(settings.inputs)
        if wanted.color and without:
            problem = f"scene {without[0]} has no colour, which --inputs names"
            raise HpalError(store.path, problem, "leave rgb out of it")
        self.color = wanted.color is not False and not without
        if wanted.color is None and without and len(without) < len(store.table):
            monitor.warn(
                f"colour is left out, since {without[0]} has none ({len(without)} of {len(store.table)} scenes)"
            )
        if spread is not None and labels is None:
            raise UsageError(
                "--spread",
                "is of no use with `--labels all`, since every point with a label has it already",
                "leave it out, or give a labels store",
            )
        self.spread = (
            None
            if spread is None or labels is None
            else Spread(spread, store, labels, known, self.answered, old=old_spread)
        )
        self.scale = (store.scale or 1.0) if init is None else init.scale
        train_scenes = store.table.choose("train")
        self.columns = None if init is None else init.columns
        if self.columns is not None:
            self.columns.require(store, train_scenes)
        elif wanted.columns:
            self.columns = PointInputs.from_store(store, train_scenes, wanted.columns, self.scale)
        self.superpoints, read = self._superpoints(wanted, train_scenes, init)
        torch.manual_seed(seed)
        self.student = self._network()
        if init is not None:
            _start_from(self.student, init, store, channel_names(self.color, self.columns, self.superpoints), settings)
        self.student = self.student.to(device).train()
        self.teacher: MinkUNet | None = None
        if settings.teacher:
            self.teacher = self._network().to(device).eval()
            self.teacher.load_state_dict(self.student.state_dict())
        self.average: MinkUNet | None = None
        if settings.average:
            self.average = self._network().to(device).eval()
            self.average.load_state_dict(self.student.state_dict())
        self.optimizer = _optimizer(self.student, settings)
        # In fp16, small gradients would be 0, so the loss is multiplied by the largest power of 2 with which no
        # gradient is infinite.
        self.scaler = torch.amp.GradScaler(device.type, enabled=backend.precision == "fp16")
        self.overflowed = 0
        self.digest = _digest(known, init, self.spread, self.superpoints, self.columns)
        counts = np.bincount(np.concatenate([ids[ids >= 0] for _, ids in known.values()]), minlength=len(store.classes))
        self.labelled = int(counts.sum())
        self.weight = None
        if settings.class_weights:
            mass = torch.from_numpy(counts if self.spread is None else with_minimum_share(self.spread.mass))
            self.weight = class_weights(mass, settings.class_weights).to(device)

        self.batches = BatchDataset(
            store,
            train_scenes,
            known,
            settings,
            color=self.color,
            seed=seed,
            spread=self.spread,
            further=ExtraColumnsReader(store, self.columns, self.superpoints, read, self.scale),
            scale=self.scale,
            rank=processes.rank,
            world_size=processes.world_size,
        )
        self.step, self.skipped, self.seconds, self.share = 0, 0, 0.0, 0.0
        self._losses: list[tuple[int, list[str], Tensor]] = []

    def _superpoints(
        self, wanted: InputSpec, scenes: Sequence[SceneInfo], init: Checkpoint | None
    ) -> tuple[SuperpointInputs | None, Callable[[SceneInfo], Superpoints] | None]:
        """How superpoints become inputs, and a function that reads those of a scene; None if they are no input."""
        if not wanted.superpoints:
            return None, None
        if not self.processes.first:
            # The first process computes the superpoints if they are missing, and the others wait and then read them.
            self.processes.all_reduce_ints(0)
        read = open_superpoints(self.store, monitor=self.monitor).read
        inputs = init.superpoints if init is not None else None
        if inputs is None:
            inputs = SuperpointInputs.from_store(self.store, scenes, read)
        if self.processes.first:
            self.processes.all_reduce_ints(0)
        inputs.require(self.store, scenes)
        return inputs, read

    def _network(self) -> MinkUNet:
        channels = len(channel_names(self.color, self.columns, self.superpoints))
        size = SIZES[self.settings.size]
        return MinkUNet(channels, len(self.store.classes), size, dropout=self.settings.dropout)

    def fit(self, run: Path | None, *, save_every: int, resume: bool, overwrite: bool) -> Checkpoint:
        """Trains until the end of the run. If `run` is given, saves the state every `save_every` steps and writes the
        checkpoint at the end."""
        settings, monitor = self.settings, self.monitor
        unfinished = None if run is None else _unfinished(run)
        if unfinished is not None and resume and not unfinished.exists():
            monitor.note(f"{unfinished} does not exist: there is nothing to resume, so training starts from step 1")
        elif unfinished is not None and resume:
            self._load(unfinished)
            monitor.note(f"{unfinished}: continuing after step {self.step}")
        # No process may write before all have checked which files exist.
        self.processes.all_reduce_ints(0)
        if not self.processes.first:
            run = unfinished = None
        metrics = None if run is None else MetricsLog(run.with_name(f"{run.name}.metrics.jsonl"), self.step)
        saved = unfinished if self.step else None
        progress = RunProgress(settings, self.seconds)
        reached, estimated = progress.reached(self.step), not progress.timed
        work = monitor.task("training, seconds" if progress.timed else "training", progress.total)
        with defer_signals() as interruption, work as task:
            task.advance(reached)
            steps = range(self.step, UNBOUNDED_STEPS if progress.timed else settings.steps)
            batches = prefetch_batches(self.batches, steps, self.device, self.backend.geometry, workers=self.workers)
            for ready in batches:
                # All processes use the time of the first one, so that they end at the same step.
                clock = int(1000 * progress.seconds()) if self.processes.first else 0
                labelled, clock = self.processes.all_reduce_ints(ready.labelled, clock)
                self.seconds = clock / 1000
                self.share = progress.share(self.step, self.seconds)
                if self.share >= 1:
                    break
                rate = progress.rate(self.step, self.share)
                if not labelled:
                    self.skipped += 1
                loss = self._step(ready, rate) if labelled else None
                self.step += 1
                (stop,) = self.processes.all_reduce_ints(int(interruption.number is not None))
                last = not progress.timed and self.step == settings.steps
                save = self.step % save_every == 0 and not last
                before, reached = reached, progress.reached(self.step)
                # Losses are not read at every step, since reading one makes the host wait for the GPU.
                if self.device.type == "cpu" or self.step % 10 == 0 or save or stop or last:
                    value = self._read_losses(saved)
                    status = "no labelled point in this batch: skipped"
                    if loss is not None and value is not None:
                        confident = float(loss.confident)
                        sure = f"  sure {confident:4.0%}" if self._uses_pseudo_labels() else ""
                        status = f"loss {value:6.3f}  lr {rate:.4f}{sure}"
                        if metrics is not None and (self.step % 10 == 0 or last):
                            metrics.add(self.step, value, rate, labelled, confident)
                    task.advance(reached - before, status)
                else:
                    task.advance(reached - before)
                if not estimated and self.share >= TIMED_SHARE:
                    estimated = True
                    estimate = f"about {(self.step - 1) / self.share:,.0f} steps in {settings.minutes:g} minutes"
                    monitor.note(f"{estimate} at this speed; a run that ends by the clock does not repeat to the bit")
                if unfinished is not None and (save or stop):
                    self._checkpoint(finished=False).save(unfinished, overwrite=True)
                    saved = unfinished
                    if metrics is not None:
                        metrics.flush()
                if stop:
                    if unfinished is not None:
                        monitor.note(
                            f"stopped after step {self.step}; the same command with --resume goes on from there"
                        )
                    break
            self._read_losses(saved)
        if self.skipped:
            monitor.warn(f"{self.skipped} of {self.step} batches held no labelled point and were skipped")
        if self.overflowed:
            monitor.note(f"{self.overflowed} of {self.step} steps were left out: a gradient was too large for fp16")
        done = self._checkpoint(finished=True)
        if metrics is not None:
            metrics.flush()
        if run is not None and unfinished is not None:
            # The state is removed only after the checkpoint is saved, so that a full disk does not cost the run.
            done.save(run, overwrite=overwrite)
            unfinished.unlink(missing_ok=True)
        return done

    def _uses_pseudo_labels(self) -> bool:
        """Whether the teacher's pseudo-labels are used at this step."""
        return self.teacher is not None and self.share >= self.settings.teacher_after

    def _step(self, ready: DeviceBatch, rate: float) -> Loss:
        """Does one optimiser step. Nothing here makes the host wait for a GPU."""
        settings, processes = self.settings, self.processes
        guess = None
        if self.teacher is not None and ready.teacher is not None and self._uses_pseudo_labels():
            with torch.no_grad():
                guess = point_logits(self.teacher, ready.teacher)
        if settings.dropout:
            # Seeded by the step, so that a resumed run drops the same features.
            torch.manual_seed((self.seed * 1_000_003 + self.step) * 1_009 + processes.rank)
        answer = point_logits(self.student, ready.student)
        loss = objective(
            answer, guess, ready.label, settings, soft=ready.soft, weight=self.weight, all_reduce=processes.sum
        )
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss.total).backward()
        processes.all_reduce_gradients(self.student.parameters())
        self._losses.append((self.step, ready.scenes, processes.sum(loss.total.detach())))
        if not self._stepped():
            return loss
        if self.teacher is not None:
            update_ema(self.teacher, self.student, settings.keep)
        if self.average is not None:
            # The share that is kept grows from small values, so that the first steps are soon forgotten.
            count = self.step + 1
            update_ema(self.average, self.student, min(AVERAGE_DECAY, count / (count + 10)))
        return loss

    def _stepped(self) -> bool:
        """Lets the optimiser do its step. Returns False if it was skipped, which happens in fp16 if a gradient is
        infinite. Only fp16 makes the host wait for the GPU here."""
        self.scaler.step(self.optimizer)
        if not self.scaler.is_enabled():
            return True
        before = self.scaler.get_scale()
        self.scaler.update()
        left_out = self.scaler.get_scale() < before
        self.overflowed += left_out
        return not left_out

    def _read_losses(self, saved: Path | None) -> float | None:
        """Reads the losses of the steps since the last call, and returns the last of them, or None if there is none.
        saved: the state before these steps, for the message.

        Raises:
            HpalError: a loss is not finite.
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
                "average": {} if self.average is None else self.average.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "skipped": self.skipped,
                "seconds": self.seconds,
            }
            if self.scaler.is_enabled():
                state["scaler"] = self.scaler.state_dict()
        network = self.average if finished and self.average is not None else self.student
        return Checkpoint(
            settings=self.settings,
            classes=self.store.classes,
            color=self.color,
            scenes=self.store.table.id,
            step=self.step,
            seed=self.seed,
            student={name: value.detach().cpu() for name, value in network.state_dict().items()},
            labels=self.digest,
            labelled=self.labelled,
            answered=self.answered,
            all_labelled=self.all_labelled,
            superpoints=self.superpoints,
            columns=self.columns,
            spread=0 if self.spread is None else self.spread.points,
            scale=self.scale,
            history=self.history,
            state=state,
        )

    def _load(self, unfinished: Path) -> None:
        """Loads the saved state of an interrupted run.

        Raises:
            HpalError: the state belongs to a run with other data or options.
        """
        saved, now = load(unfinished), self._checkpoint(finished=True)
        for what in ("settings", "classes", "color", "scenes", "scale", "seed", "labels"):
            if getattr(saved, what) != getattr(now, what):
                raise HpalError(
                    unfinished,
                    f"was started with other {what}",
                    "resume with the same options and inputs, or remove it to start over",
                )
        self.student.load_state_dict(saved.student)
        if self.teacher is not None:
            self.teacher.load_state_dict(saved.state["teacher"])
        if self.average is not None:
            self.average.load_state_dict(saved.state["average"])
        self.optimizer.load_state_dict(saved.state["optimizer"])
        self.step, self.skipped = saved.step, saved.state["skipped"]
        self.seconds = saved.state.get("seconds", 0.0)
        if self.scaler.is_enabled() and saved.state.get("scaler"):
            # If the run had another precision before, there is no saved scale, and fp16 begins with the default one.
            self.scaler.load_state_dict(saved.state["scaler"])


def _unfinished(run: Path) -> Path:
    return run.with_name(f"{run.name}.unfinished")


class MetricsLog:
    """The file of metrics beside a checkpoint: one line of JSON for every ten steps, written during the run. On object
    storage nothing can be added to an object, so there `flush` writes all lines."""

    def __init__(self, path: Path, first: int) -> None:
        """first: the step after which the run continues. Lines of later steps are removed."""
        self._path = path
        lines = path.read_text(encoding="utf-8").splitlines() if first and path.exists() else []
        self._kept = [f"{line}\n" for line in lines if json.loads(line)["step"] <= first]
        self._begun = False

    def add(self, step: int, loss: float, rate: float, labelled: int, confident: float) -> None:
        """Adds the line of a step. rate: learning rate; labelled: number of labelled points in the batch; confident:
        share of its other points with a pseudo-label."""
        row = {"step": step, "loss": round(loss, 5), "lr": rate, "labelled": labelled, "confident": round(confident, 4)}
        line = f"{json.dumps(row)}\n"
        if isinstance(self._path, RemotePath):
            self._kept.append(line)
            return
        self._begin()
        with self._path.open("a", encoding="utf-8") as file:
            file.write(line)

    def flush(self) -> None:
        """Writes what is not written yet."""
        if isinstance(self._path, RemotePath):
            put(self._path, "".join(self._kept).encode())
        else:
            self._begin()

    def _begin(self) -> None:
        # Not before there is something to write: a run that fails at its first step leaves no file, and the metrics
        # of an earlier model of that name stay.
        if not self._begun:
            self._path.write_text("".join(self._kept), encoding="utf-8")
            self._begun = True


def _digest(
    known: Mapping[str, SceneLabels],
    init: Checkpoint | None,
    spread: Spread | None,
    superpoints: SuperpointInputs | None,
    columns: PointInputs | None,
) -> str:
    """A digest of all that a run learns from: it is equal for runs with the same labels, inputs and initial weights."""
    digest = hashlib.sha256()
    for name, (rows, ids) in sorted(known.items()):
        digest.update(name.encode() + rows.astype("<i8").tobytes() + ids.astype("<i4").tobytes())
    for tensor in init.student.values() if init is not None else ():
        digest.update(tensor.numpy().tobytes())
    if spread is not None:
        digest.update(spread.digest.encode())
    for table in vars(superpoints.likeness).values() if superpoints is not None else ():
        digest.update(np.ascontiguousarray(table).tobytes())
    if columns is not None:
        digest.update(json.dumps(columns.to_json()).encode())
    return digest.hexdigest()[:16]


def point_logits(network: MinkUNet, view: NetworkBatch) -> Tensor:
    """(N, C) the logits of every point of a batch, which are those of its voxel."""
    logits, _ = network(view.features, view.geometry)
    return logits[view.inverse]


def _start_from(
    student: MinkUNet, init: Checkpoint, store: SceneStore, channels: tuple[str, ...], settings: Settings
) -> None:
    problems: Mapping[str, tuple[Any, Any]] = {
        "size": (init.settings.size, settings.size),
        "classes": (init.classes.names, store.classes.names),
        "inputs": (init.settings.inputs, settings.inputs),
        "channels": (list(init.channels), list(channels)),
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
        return torch.optim.AdamW(network.parameters(), lr=settings.lr, weight_decay=settings.weight_decay, fused=True)
    return torch.optim.SGD(
        network.parameters(),
        lr=settings.lr,
        momentum=settings.momentum,
        dampening=settings.dampening,
        weight_decay=settings.weight_decay,
    )
