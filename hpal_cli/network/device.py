"""Chooses the device that computes the network."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from hpal_cli.errors import UsageError


def choose(name: str) -> torch.device:
    """`auto` (CUDA where there is one), `cpu`, `cuda` or `cuda:N`.

    Raises:
        UsageError: no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError("--device", f"{name!r} is no device", "choose auto, cpu, cuda or cuda:N") from error
    if device.type not in ("cpu", "cuda"):
        raise UsageError("--device", f"{name!r} is not supported", "choose auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        found = torch.cuda.device_count()
        raise UsageError("--device", f"{name} is not there ({found} CUDA devices found)", "choose --device cpu")
    return device


@contextlib.contextmanager
def full_precision() -> Iterator[None]:
    """float32 products in float32: TF32 would make two GPUs disagree in the third digit."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
