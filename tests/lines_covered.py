"""A plug-in of pytest that counts which lines of hpal run: `HPAL_COVERAGE=FOLDER pytest -p lines_covered`.

Counted are the processes of the tests themselves and those of fork_server.py, which are most calls of `hpal`. Programs
that a test starts from nothing, and processes that those or `--jobs` start, are not.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path


def begin() -> Callable[[], None]:
    """Counts from now on, if it is asked for. What it returns writes down what was counted."""
    folder = os.environ.get("HPAL_COVERAGE")
    if not folder:
        return lambda: None
    # Here, since few count.
    import coverage

    package = Path(__file__).parents[1] / "hpal_cli"
    counted = coverage.Coverage(data_file=f"{folder}/lines", data_suffix=True, source=[str(package)])
    # Where nothing was run there is nothing to say.
    counted.set_option("run:disable_warnings", ["no-data-collected", "module-not-imported"])
    counted.start()

    def end() -> None:
        counted.stop()
        counted.save()

    return end


_ends: list[Callable[[], None]] = []


def pytest_load_initial_conftests() -> None:
    # Before conftest.py imports hpal, whose lines outside of functions count too.
    _ends.append(begin())


def pytest_unconfigure() -> None:
    while _ends:
        _ends.pop()()
