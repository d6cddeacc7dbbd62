"""All values that training depends on, with the presets, in one table (docs/method.md, "Network and training")."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, get_args, get_type_hints

from hpal_cli.errors import UsageError


@dataclass(frozen=True)
class Settings:
    """The values of all training options. Lengths are in metres.

    size: of the network (`SIZES`); voxel: edge of its voxels; inputs: names of its inputs, such as "points" (position
    and colour) or "superpoints" (also the likeness of the superpoint; see `network.point_inputs.InputSpec`).
    steps: number of optimiser steps; minutes: if above 0, training ends after this time instead, and the schedule
    follows the share of the time, without restarts.
    batch: number of scenes in a step; max_voxels: number of voxels in a step, at most; each scene is cropped to its
    share around a labelled point (0: whole scenes); even_crops: share of the crops whose centre is drawn by class
    first. class_weights: exponent p of the weight share^-p of a class (0: all classes have the weight 1); dropout:
    share of the last features that each step drops. period: number of steps between restarts of the cosine schedule, 0
    for none; power: exponent of the polynomial schedule. teacher: whether there is a teacher; keep: share of its
    weights that the teacher keeps at each step; confidence: least probability of a pseudo-label; teacher_after: share
    of the training after which pseudo-labels are used. consistency: further loss between student and teacher; average:
    whether the saved weights are a running average; elastic: whether the student's scenes are distorted elastically.
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


# Four rooms of S3DIS always have less than two million voxels, so that rooms are not cropped, but larger scenes are.
PRESETS = {
    "s3dis": Settings(
        size="full", voxel=0.05, steps=60_000, batch=4, max_voxels=2_000_000, optimizer="sgd", lr=0.1, momentum=0.9,
        dampening=0.1, weight_decay=1e-4, schedule="cosine", period=5_000, power=0.9,
    ),
    "scannet": Settings(
        size="full", voxel=0.02, steps=30_000, batch=4, max_voxels=2_000_000, optimizer="sgd", lr=0.1, momentum=0.9,
        dampening=0.1, weight_decay=1e-4, schedule="polynomial", period=5_000, power=0.9,
    ),
    # For minutes on two cores: a model learns more from many small crops than from a few whole rooms, and a run that is
    # this short is worse with elastic distortion.
    "small": Settings(
        size="small", voxel=0.05, steps=1_500, batch=2, max_voxels=12_000, optimizer="adamw", lr=0.01, momentum=0.9,
        dampening=0.0, weight_decay=1e-2, schedule="cosine", period=0, power=0.9, elastic=False,
    ),
    # For a few hundred answers that are spread: every point of a crop has a label, so no teacher is needed, but rare
    # classes need a share of the crops. The network would need hours to learn what superpoints tell it at once.
    "few": Settings(
        size="small", voxel=0.05, steps=4_000, batch=2, max_voxels=12_000, optimizer="adamw", lr=0.01, momentum=0.9,
        dampening=0.0, weight_decay=1e-2, schedule="cosine", period=0, power=0.9, elastic=False, teacher=False,
        inputs="superpoints", class_weights=0.3, even_crops=0.3, average=True,
    ),
}  # fmt: skip


def preset_of(settings: Settings) -> str:
    """The preset from which a run was probably made: the one from which the fewest of its values differ."""
    return min(
        PRESETS,
        key=lambda name: sum(getattr(PRESETS[name], f.name) != getattr(settings, f.name) for f in fields(Settings)),
    )


def default_preset(*, cuda: bool, spread: bool, init: Settings | None) -> str:
    """The default preset: that of the checkpoint `init` from which a run starts, else s3dis with CUDA, few if the
    answers were spread, and small otherwise."""
    if init is not None:
        return preset_of(init)
    return "s3dis" if cuda else "few" if spread else "small"


def settings_of(
    preset: str, given: Mapping[str, Any], *, init: Settings | None = None, scale: float | None = None
) -> Settings:
    """The values of a preset, replaced by those of `given` that are not None.

    init: of the checkpoint from which the run starts, whose size, voxel and inputs are kept; scale: of the scenes, by
    which the voxel of the preset is multiplied if there is no `init`.

    Raises:
        UsageError: there is no such preset, name or value.
    """
    kinds = get_type_hints(Settings)
    for key in given:
        if key not in kinds:
            raise UsageError(
                f"--{key.replace('_', '-')}", "is no option of training", f"choose from {', '.join(kinds)}"
            )
    # Imported here, so that `hpal train --help` does not load torch.
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
        # A network of another shape could not take the weights.
        base = replace(base, size=init.size, voxel=init.voxel, inputs=init.inputs)
    else:
        base = replace(base, voxel=base.voxel * (scale or 1.0))
    return replace(base, **{key: value for key, value in given.items() if value is not None})


def teacher_of(after: float | None, *, spread: bool) -> bool | None:
    """The default of `Settings.teacher`; None for that of the preset. With spread answers every point has a label, so
    there is no teacher unless `after`, the share of the training after which it begins, is given."""
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
    """Pairs (name, value with unit) of all values, as text for a person. The option of a name is --name with dashes."""
    return [
        (field.name, f"{getattr(settings, field.name)} {UNITS.get(field.name, '')}".strip())
        for field in fields(settings)
    ]
