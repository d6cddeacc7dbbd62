"""Delays Ctrl-C and SIGTERM until the end of a training step, since a run cannot be resumed within a step."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType


@dataclass
class PendingSignal:
    """number: of the signal that was received, None if there was none."""

    number: int | None = None


@contextlib.contextmanager
def defer_signals() -> Iterator[PendingSignal]:
    """Within the block, SIGINT and SIGTERM are only recorded. The block should then end soon, and the signal is raised
    again after it. A second signal is handled at once. In a thread that cannot handle signals, nothing is changed.
    """
    state = PendingSignal()
    if threading.current_thread() is not threading.main_thread():
        yield state
        return

    def note(number: int, frame: FrameType | None) -> None:
        if state.number is not None:
            restore()
            signal.raise_signal(number)
        state.number = number

    usual = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in usual.items():
            signal.signal(number, handler)

    try:
        yield state
    finally:
        restore()
    if state.number is not None:
        signal.raise_signal(state.number)
