"""Delays Ctrl-C and SIGTERM to the end of a training step, since half a step could not be resumed."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType


@dataclass
class PendingSignal:
    """The signal that has come, if one has."""

    number: int | None = None


@contextlib.contextmanager
def defer_signals() -> Iterator[PendingSignal]:
    """Inside, SIGINT and SIGTERM only take note; the block should end soon, and then the signal takes its usual way.

    A second one takes it at once. In a thread that cannot handle signals nothing changes.
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
