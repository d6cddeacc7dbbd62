"""What the processes of fork_server.py have imported: all of hpal, and what hpal imports when it needs it.

Imports are nine tenths of a short command. A process that is forked from one that did them shares their memory with it.
"""

from __future__ import annotations

import gc
import importlib
import pkgutil

import hpal_cli

ON_DEMAND = (
    "PIL.GifImagePlugin",
    "PIL.JpegImagePlugin",
    "laspy",
    "lazrs",
    "matplotlib.backends.backend_agg",
    "matplotlib.figure",
    "matplotlib.patheffects",
    "multiprocessing.synchronize",
    "pydantic.functional_validators",
    "pydantic.type_adapter",
    "pytest",
    "rich.progress",
    "rich.table",
    "sklearn.tree",
    "torch._dynamo",
    "torch.distributed.nn.functional",
    "torch.utils.serialization.config",
    "typer._adapters",
)
"""Modules of others that are imported inside functions."""

OPTIONAL = tuple(f"hpal_cli.network.{name}" for name in ("minkowski", "implicit_gemm", "fused_norm", "tables"))
"""Modules that need a package which few have."""


def preload() -> None:
    found = [module.name for module in pkgutil.walk_packages(hpal_cli.__path__, "hpal_cli.")]
    for name in (*found, *ON_DEMAND):
        if name not in OPTIONAL and not name.endswith("__main__"):
            importlib.import_module(name)
    # Else each process looks through all that was imported for garbage, and its pages are no longer shared.
    gc.collect()
    gc.freeze()
