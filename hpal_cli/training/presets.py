"""Every value that training depends on, as one table (docs/method.md)."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal


@dataclass(frozen=True)
class Settings:
    """What a training run is made of. Lengths are metres.

    steps: optimiser steps; batch: scenes in a step; max_voxels: voxels of a step at most, each scene's share a crop
    around one of its labelled points (0: whole scenes).
    class_weights: "sqrt" weighs a class by 1 / sqrt(its share of the labels); dropout: share of the last features
    that a step leaves out.
    period: steps between restarts of the cosine, 0 for none; power: exponent of the polynomial decay.
    keep: share of the teacher that stays at each step; confidence: softmax from which a pseudo-label counts.
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
    class_weights: Literal["none", "sqrt"] = "none"
    dropout: float = 0.0
    teacher: bool = True
    keep: float = 0.955
    confidence: float = 0.75
    consistency: Literal["none", "kl"] = "none"
    elastic: bool = True


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
}  # fmt: skip


UNITS = {"voxel": "m", "max_voxels": "voxels a step (0: whole scenes)", "batch": "scenes a step", "period": "steps"}


def described(settings: Settings) -> list[tuple[str, str]]:
    """(name, value and unit) of every value, for a person; the option of a name is --name with dashes."""
    return [
        (field.name, f"{getattr(settings, field.name)} {UNITS.get(field.name, '')}".strip())
        for field in fields(settings)
    ]
