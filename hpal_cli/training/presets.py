"""All values that training depends on, with the presets, in one table (docs/method.md, "Network and training")."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, get_args, get_type_hints

from hpal_cli.errors import UsageError


@dataclass(frozen=True)
class Settings:
    """What a training run is made of. Lengths are metres.

    inputs: what a voxel is given: "points" is colour and position, "superpoints" adds the likeness of its superpoint;
    or names of columns (`network.point_inputs.InputSpec`).
    steps: optimiser steps; minutes: if above 0, training ends after so long instead, and the schedule, then without
    restarts, follows the share of the time.
    batch: scenes in a step; max_voxels: voxels of a step at most, each scene's share a crop around one of the points
    that teach (0: whole scenes); even_crops: share of the crops around a point of a class that is drawn evenly.
    class_weights: exponent p by which a class weighs share^-p, of its share of the labels (0: all weigh 1); dropout:
    share of the last features that a step leaves out.
    period: steps between restarts of the cosine, 0 for none; power: exponent of the polynomial decay.
    teacher: whether the student's average guesses at unlabelled points; keep: share of the teacher that stays at each
    step; confidence: softmax from which a pseudo-label counts; teacher_after: share of the training from which they do.
    average: whether what is saved is an average of the weights of the steps.
    elastic: whether the student's rooms are distorted.
    """

    size: str
    voxel: float
    steps: int
    batch: int
    max_voxels: int
    optimizer: Literal["sgd", "adamw"]
    lr: float
    momentum: float
    dampening: float
    weight_decay: float
    schedule: Literal["cosine", "polynomial"]
    period: int
    power: float
    class_weights: float = 0.0
    dropout: float = 0.0
    teacher: bool = True
    keep: float = 0.955
    confidence: float = 0.75
    consistency: Literal["none", "kl"] = "none"
    elastic: bool = True
    inputs: str = "points"
    minutes: float = 0.0
    even_crops: float = 0.0
    teacher_after: float = 0.0
    average: bool = False


# Whole rooms: two million voxels are more than any four rooms of S3DIS have, and a bound for scenes of any size.
PRESETS = {
    "s3dis": Settings(
        size="full", voxel=0.05, steps=60_000, batch=4, max_voxels=2_000_000, optimizer="sgd", lr=0.1, momentum=0.9,
        dampening=0.1, weight_decay=1e-4, schedule="cosine", period=5_000, power=0.9,
    ),
    "scannet": Settings(
        size="full", voxel=0.02, steps=30_000, batch=4, max_voxels=2_000_000, optimizer="sgd", lr=0.1, momentum=0.9,
        dampening=0.1, weight_decay=1e-4, schedule="polynomial", period=5_000, power=0.9,
    ),
    # Minutes on two cores: many small crops teach more than a few whole rooms, and a run this short does not
    # get over elastic distortion.
    "small": Settings(
        size="small", voxel=0.05, steps=1_500, batch=2, max_voxels=12_000, optimizer="adamw", lr=0.01, momentum=0.9,
        dampening=0.0, weight_decay=1e-2, schedule="cosine", period=0, power=0.9, elastic=False,
    ),
    # What a few hundred answers teach once they are spread: every point of a crop teaches, so no teacher is needed, and
    # rare classes need a share of the crops. Superpoints say at once what the network would take hours to see.
    "few": Settings(
        size="small", voxel=0.05, steps=4_000, batch=2, max_voxels=12_000, optimizer="adamw", lr=0.01, momentum=0.9,
        dampening=0.0, weight_decay=1e-2, schedule="cosine", period=0, power=0.9, elastic=False, teacher=False,
        inputs="superpoints", class_weights=0.3, even_crops=0.3, average=True,
    ),
}  # fmt: skip


def preset_of(settings: Settings) -> str:
    """The preset that a run was of: the one from which the fewest of its values differ."""
    return min(
        PRESETS,
        key=lambda name: sum(getattr(PRESETS[name], f.name) != getattr(settings, f.name) for f in fields(Settings)),
    )


def default_preset(*, cuda: bool, spread: bool, init: Settings | None) -> str:
    """The preset of a run that names none: that of the checkpoint it continues from, else what suits the machine and
    whether the answers were spread."""
    if init is not None:
        return preset_of(init)
    return "s3dis" if cuda else "few" if spread else "small"


def settings_of(
    preset: str, given: Mapping[str, Any], *, init: Settings | None = None, scale: float | None = None
) -> Settings:
    """The values of a preset with those of `given` that are not None in their place.

    init: of the checkpoint that the run continues from, whose network keeps its shape; scale: of the scenes, by which
    the preset's voxel is multiplied otherwise.

    Raises:
        UsageError: a preset, a value's name or a value that there is not.
    """
    kinds = get_type_hints(Settings)
    for key in given:
        if key not in kinds:
            raise UsageError(f"--{key.replace('_', '-')}", "is no value of training", f"choose from {', '.join(kinds)}")
    # Here, so that `hpal train --help` loads no torch.
    from hpal_cli.network.minkunet import SIZES
    from hpal_cli.network.point_inputs import InputSpec

    choices = {key: get_args(kind) for key, kind in kinds.items()} | {"preset": tuple(PRESETS), "size": tuple(SIZES)}
    for key, value in {"preset": preset, **given}.items():
        if value is not None and choices[key] and value not in choices[key]:
            raise UsageError(
                f"--{key.replace('_', '-')}", f"{value!r} is unknown", f"choose from {', '.join(choices[key])}"
            )
    if given.get("inputs") is not None:
        InputSpec.parse(given["inputs"])
    base = PRESETS[preset]
    if init is not None:
        # Another network could not take its weights.
        base = replace(base, size=init.size, voxel=init.voxel, inputs=init.inputs)
    else:
        base = replace(base, voxel=base.voxel * (scale or 1.0))
    return replace(base, **{key: value for key, value in given.items() if value is not None})


def teacher_of(after: float | None, *, spread: bool) -> bool | None:
    """Whether there is a teacher, unless more is said; None: as the preset says. Where every point teaches, none is
    needed, unless it is asked for by saying after what share of the training it begins."""
    if after is not None:
        return True
    return False if spread else None


UNITS = {
    "voxel": "m",
    "max_voxels": "voxels a step (0: whole scenes)",
    "batch": "scenes a step",
    "period": "steps",
    "minutes": "min (0: as many steps as are asked for)",
    "even_crops": "of the crops",
    "teacher_after": "of the training",
}


def describe_settings(settings: Settings) -> list[tuple[str, str]]:
    """(name, value and unit) of every value, for a person; the option of a name is --name with dashes."""
    return [
        (field.name, f"{getattr(settings, field.name)} {UNITS.get(field.name, '')}".strip())
        for field in fields(settings)
    ]
