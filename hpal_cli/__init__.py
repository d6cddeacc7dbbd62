"""hpal: a class for every point of 3D scans, from very few labels.

`import hpal_cli as hpal` offers the calls of the loop (hpal_cli/library.py, docs/library.md). Large libraries are only
loaded when one of the calls is used. docs/architecture.md shows the folders in the order in which data flows through
them. `hpal_cli.commands` wraps the library as commands; no other folder imports it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

__all__ = [
    "Evaluation",
    "HpalError",
    "LabelStore",
    "PredictionStore",
    "SceneStore",
    "UsageError",
    "__version__",
    "add_answers",
    "connect",
    "evaluate",
    "hmmu",
    "open_labels",
    "open_predictions",
    "open_scenes",
    "predict",
    "prepare",
    "select",
    "spread",
    "train",
]

if TYPE_CHECKING:
    from hpal_cli.library import (
        Evaluation,
        HpalError,
        LabelStore,
        PredictionStore,
        SceneStore,
        UsageError,
        add_answers,
        connect,
        evaluate,
        hmmu,
        open_labels,
        open_predictions,
        open_scenes,
        predict,
        prepare,
        select,
        spread,
        train,
    )


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(f"{__name__}.library"), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
