"""Checkpoints of networks: plain tensors and JSON, so that loading one can never run code (docs/formats.md section
6.1)."""

from __future__ import annotations

import io
import json
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hpal_cli import archives, history
from hpal_cli.classes import ClassTable
from hpal_cli.errors import HpalError
from hpal_cli.history import Entry
from hpal_cli.network.inputs import COLOR, POSITION
from hpal_cli.network.minkunet import SIZES, MinkUNet
from hpal_cli.network.point_inputs import PointInputs
from hpal_cli.network.superpoint_inputs import SuperpointInputs
from hpal_cli.specification import check_specification
from hpal_cli.store.files import atomic_write
from hpal_cli.store.remote import local_copy
from hpal_cli.superpoints.likeness import Likeness
from hpal_cli.training.presets import Settings
from hpal_cli.wording import first_line

SPEC = 3
"""The version of the specification that this program writes, and the newest that it reads. Since version 2, superpoints
can be inputs, and class weights are a power. Since version 3, scenes can have a scale, and further columns of points
can be inputs."""


@dataclass
class Checkpoint:
    """A trained network and all that is needed to use it.

    student: the weights of the network, which are an average over the steps if the settings say so and the run is
    finished; state: what only an unfinished run needs, such as the teacher and the optimiser; step: number of steps
    done; color: whether colours are an input; superpoints, columns: how superpoints and further columns become inputs,
    None if they are none; scale: lengths are divided by it before they are inputs; 1 for rooms.
    scenes: id of the scenes store; labels: digest of what it learned from; labelled: number of labelled points; spread:
    number of points that it learned from because an answer was spread to them; answered: from scene names to rows
    (int64) that have an answer, a class or unsure, which must not be asked about again; all_labelled: whether it
    learned from every label of the scenes.
    """

    settings: Settings
    classes: ClassTable
    color: bool
    scenes: str
    step: int
    seed: int
    labels: str
    labelled: int
    student: dict[str, Tensor]
    answered: dict[str, NDArray[np.int64]]
    all_labelled: bool = False
    superpoints: SuperpointInputs | None = None
    spread: int = 0
    scale: float = 1.0
    columns: PointInputs | None = None
    history: list[Entry] = field(default_factory=list)
    state: dict[str, Any] = field(default_factory=dict)

    @property
    def channels(self) -> tuple[str, ...]:
        """The names of the network's input channels, in their order."""
        return channel_names(self.color, self.columns, self.superpoints)

    @property
    def spec(self) -> int:
        """The lowest version of the specification that describes this checkpoint, so that older programs can read
        it."""
        return 2 if self.scale == 1 and self.columns is None else SPEC

    def network(self) -> MinkUNet:
        """The network with these weights, in evaluation mode."""
        network = MinkUNet(len(self.channels), len(self.classes), SIZES[self.settings.size])
        network.load_state_dict(self.student)
        return network.eval()

    def save(self, path: Path, *, overwrite: bool) -> None:
        """Writes the checkpoint.

        Raises:
            HpalError: `path` exists and `overwrite` is not set, or it cannot be written.
        """
        meta = {
            "spec": self.spec,
            "settings": asdict(self.settings),
            "classes": self.classes.to_json(),
            "channels": list(self.channels),
            "scenes": self.scenes,
            "step": self.step,
            "seed": self.seed,
            "labels": self.labels,
            "labelled": self.labelled,
            "all_labelled": self.all_labelled,
            "spread": self.spread,
            "appearance": None if self.superpoints is None else self.superpoints.appearance,
            "history": history.to_json(self.history),
        }
        if self.scale != 1:
            meta["scale"] = self.scale
        if self.columns is not None:
            meta["columns"] = self.columns.to_json()
        content = {
            "hpal": json.dumps(meta),
            "student": self.student,
            "answered": {name: torch.from_numpy(rows) for name, rows in self.answered.items()},
            "likeness": {} if self.superpoints is None else _tensors(self.superpoints.likeness),
            "state": self.state,
        }
        # torch writes to memory first: given a file name, it writes the name into the archive, and on a full disk it
        # raises no error.
        buffer = io.BytesIO()
        torch.save(content, buffer)
        with atomic_write(path, overwrite=overwrite) as partial, partial.open("wb") as file:
            file.write(buffer.getbuffer())


def load(path: Path) -> Checkpoint:
    """Reads a checkpoint.

    Raises:
        HpalError: there is no complete checkpoint of hpal, it is damaged, or its specification is newer.
    """
    remedy = "give a model made by `hpal train`"
    if not path.exists():
        raise HpalError(path, "does not exist", "make it with `hpal train`, or check the name")
    if path.is_dir():
        raise HpalError(path, "is a folder, expected a checkpoint", "the model comes first: hpal predict MODEL SCENES")
    try:
        # torch does not check the checksums that it writes.
        file = local_copy(path)
        with archives.opened(file) as archive:
            promised = sum(member.file_size for member in archive.infolist())
            if promised > file.stat().st_size:
                # torch does not compress, so such an archive is damaged and must not make torch allocate memory.
                raise zipfile.BadZipFile(f"it promises {promised:,} bytes")
            altered = archive.testzip()
        if altered is not None:
            raise HpalError(path, f"was altered after it was written ({altered})", remedy)
        with warnings.catch_warnings():
            # torch warns if a damaged pickle names a protocol that no writer uses. The HpalError below suffices.
            warnings.simplefilter("ignore")
            content = torch.load(file, map_location="cpu", weights_only=True)
        meta: Mapping[str, Any] = json.loads(content["hpal"])
    except HpalError:
        raise
    except Exception as error:  # of damaged data torch's unpickler raises errors of many classes
        raise HpalError(path, f"is not a whole hpal checkpoint ({first_line(error)})", remedy) from error
    check_specification(path, meta.get("spec"), SPEC)
    try:
        checkpoint = Checkpoint(
            _settings(meta),
            ClassTable.from_json(meta["classes"], path),
            COLOR[0] in meta["channels"],
            meta["scenes"],
            meta["step"],
            meta["seed"],
            meta["labels"],
            meta["labelled"],
            content["student"],
            {name: _rows(rows) for name, rows in content["answered"].items()},
            meta["all_labelled"],
            _superpoints(meta, content.get("likeness")),
            meta.get("spread", 0),
            float(meta.get("scale", 1.0)),
            PointInputs.from_json(meta["columns"]) if "columns" in meta else None,
            history.from_json(meta["history"]),
            content["state"],
        )
        _require_weights(checkpoint, file.stat().st_size)
        checkpoint.network()
    except (LookupError, ArithmeticError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise HpalError(path, f"is damaged ({first_line(error)})", remedy) from error
    return checkpoint


def _rows(rows: Tensor) -> NDArray[np.int64]:
    """Raises:
    ValueError: they are not the numbers of rows, one after the other in the file.
    """
    if rows.dtype != torch.int64 or rows.ndim != 1 or not rows.is_contiguous():
        raise ValueError("answered rows are whole numbers")
    array: NDArray[np.int64] = rows.numpy()
    return array


def _require_weights(checkpoint: Checkpoint, held: int) -> None:
    """Compares the weights with the network before memory is allocated for it. held: bytes of the file.

    Raises:
        ValueError: the network has other weights, or they promise more than the file holds.
    """
    with torch.device("meta"):
        network = MinkUNet(len(checkpoint.channels), len(checkpoint.classes), SIZES[checkpoint.settings.size])
    wanted = {name: weight.shape for name, weight in network.state_dict().items()}
    if wanted != {name: weight.shape for name, weight in checkpoint.student.items()}:
        raise ValueError(f"its weights are not those of a network with {len(checkpoint.channels)} inputs")
    # Tensors of a file can share what is stored, so that a small file has many numbers.
    if sum(weight.numel() * weight.element_size() for weight in checkpoint.student.values()) > held:
        raise ValueError("its weights promise more than it holds")


def channel_names(color: bool, columns: PointInputs | None, superpoints: SuperpointInputs | None) -> tuple[str, ...]:
    """The names of a network's input channels, in their order."""
    own = () if columns is None else columns.names
    return (*(COLOR if color else ()), *own, *(() if superpoints is None else superpoints.names), *POSITION)


def _settings(meta: Mapping[str, Any]) -> Settings:
    values = dict(meta["settings"])
    if meta["spec"] < 2:
        values["class_weights"] = {"none": 0.0, "sqrt": 0.5}[values["class_weights"]]
    return Settings(**values)


def _tensors(likeness: Likeness) -> dict[str, Tensor]:
    return {f.name: torch.from_numpy(np.ascontiguousarray(getattr(likeness, f.name))) for f in fields(Likeness)}


def _superpoints(meta: Mapping[str, Any], tensors: Mapping[str, Tensor] | None) -> SuperpointInputs | None:
    if not tensors:
        return None
    likeness = Likeness(**{name: tensor.numpy() for name, tensor in tensors.items()})
    if likeness.middle.ndim != 1 or not likeness.fits(len(likeness.middle)):
        raise ValueError("its tables of superpoints do not fit together")
    return SuperpointInputs(likeness, str(meta["appearance"]))
