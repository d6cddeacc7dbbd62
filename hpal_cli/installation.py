"""Describes the installation: the versions and the hardware on which a result or an error may depend."""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable, Sequence
from importlib import metadata
from typing import Any

import torch

from hpal_cli import __version__, compiled, system, trees, voxels
from hpal_cli.errors import UsageError
from hpal_cli.info import Description
from hpal_cli.network import backend, native
from hpal_cli.parallel import cores
from hpal_cli.predictions import probabilities
from hpal_cli.readers import number_table
from hpal_cli.score import hmmu
from hpal_cli.selection import fds
from hpal_cli.superpoints import around, segmentation
from hpal_cli.training import augment

LIBRARIES = (
    *("torch", "numpy", "scipy", "scikit-learn", "zarr", "numcodecs", "google-crc32c", "obstore", "distributed"),
    *("plyfile", "laspy", "lazrs", "pye57", "matplotlib", "typer", "rich", "starlette", "uvicorn"),
    *("MinkowskiEngine", "triton"),
)
"""Libraries whose versions are told, by the names of their distributions."""

KERNELS: dict[str, tuple[Callable[[], str | None], Sequence[str]]] = {
    "voxels.c": (voxels.missing, compiled.FLAGS),
    "trees.c": (trees.missing, compiled.FLAGS),
    "readers/numbers.c": (number_table.missing, compiled.FLAGS),
    "predictions/probabilities.c": (probabilities.missing, compiled.FLAGS),
    "score/hmmu.c": (hmmu.missing, compiled.FLAGS),
    "selection/greedy.c": (fds.missing, compiled.FLAGS),
    "superpoints/around.c": (around.missing, compiled.FLAGS),
    "superpoints/segmentation.c": (segmentation.missing, compiled.FLAGS),
    "training/augment.c": (augment.missing, compiled.FLAGS),
    "network/pairs.c": (native.missing_pairs, native.FLAGS),
    "network/sparse.c": (native.missing, native.FLAGS),
    "network/sparse_bf16.c": (native.missing_half, native.FLAGS),
}
"""For each C source of this package, a function that says why it cannot be used here (None if it can), and the
compiler's flags."""


def installation() -> Description:
    """Describes the versions of hpal, Python and the libraries, the computer, the backends, and each compiled kernel.

    Kernels that were not compiled yet are compiled, which takes some seconds. A library that is not installed is None.
    """
    facts = {
        "version": __version__,
        "python": f"{platform.python_version()} ({platform.python_implementation()}, {sys.executable})",
        "system": f"{platform.platform()}, {' '.join(platform.libc_ver()).strip() or 'unknown C library'}",
        "processor": _processor(),
        "cores": cores(),
        "memory": system.memory(),
        "gpus": [torch.cuda.get_device_name(n) for n in range(torch.cuda.device_count())],
        "cuda": torch.version.cuda,
        "compiler": compiled.compiler(),
        "libraries": {name: _version(name) for name in LIBRARIES},
        "backends": _backends(),
    }
    table = [_kernel(source, missing(), flags) for source, (missing, flags) in KERNELS.items()]
    return Description("installation", facts, table)


def _kernel(source: str, reason: str | None, flags: Sequence[str]) -> dict[str, Any]:
    return {"kernel": source, "flags": " ".join(flags) if reason is None else None, "not used": reason}


def _backends() -> dict[str, str]:
    """For each backend, what it would compute with on this computer, or why it cannot be used."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    states = {}
    for name in backend.NAMES:
        try:
            states[name] = f"{backend.choose(name, device)}, on {device.type}"
        except UsageError as error:
            states[name] = error.problem
    return states


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    lines = system.processor_lines()
    named = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")
    return f"{named or platform.processor() or 'unknown'} ({platform.machine()})"
