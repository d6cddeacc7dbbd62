"""Chooses the device on which the network is computed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from hpal_cli.errors import UsageError


def choose(name: str) -> torch.device:
    """The device `cpu`, `cuda`, `cuda:N`, or with `auto` CUDA if there is any.

    Raises:
        UsageError: there is no such device.
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
        raise UsageError("--device", f"{name} does not exist ({found} CUDA devices found)", "choose --device cpu")
    return device


@contextlib.contextmanager
def full_precision() -> Iterator[None]:
    """Within the block, products of float32 are computed in float32. In TF32, results of two GPUs would differ in the
    third digit."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
