"""A plug-in of pytest that counts which lines of hpal run: `HPAL_COVERAGE=FOLDER pytest -p lines_covered`. With
HPAL_COUNTED="hmmu prep" only while test_hmmu.py and test_prep.py are tested.

Counted are the processes of the tests themselves and those of fork_server.py, which are most calls of `hpal`. Programs
that a test starts from nothing, and processes that those or `--jobs` start, are not.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from coverage import Coverage


def begin() -> Callable[[], None]:
    """Counts from now on, if HPAL_COVERAGE is set. Returns a function that writes down what was counted."""
    counter = _counter()
    if counter is None:
        return lambda: None
    counter.start()

    def end() -> None:
        counter.stop()
        counter.save()

    return end


def _counter() -> Coverage | None:
    folder = os.environ.get("HPAL_COVERAGE")
    if not folder:
        return None
    # Here, since few count.
    import coverage

    package = Path(__file__).parents[1] / "hpal_cli"
    counter = coverage.Coverage(data_file=f"{folder}/lines", data_suffix=True, source=[str(package)])
    # Where nothing was run there is nothing to say.
    counter.set_option("run:disable_warnings", ["no-data-collected", "module-not-imported"])
    return counter


class _Plugin:
    def __init__(self, counter: Coverage) -> None:
        self._counter = counter
        self._folder = os.environ["HPAL_COVERAGE"]
        self._files = {f"test_{name}.py" for name in os.environ.get("HPAL_COUNTED", "").split()}
        counter.start()

    def pytest_collection_finish(self) -> None:
        # The lines of modules have run; no test is counted yet.
        self._pause()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        if self._files and item.path.name not in self._files:
            return (yield)
        os.environ["HPAL_COVERAGE"] = self._folder
        self._counter.start()
        try:
            return (yield)
        finally:
            self._pause()

    def _pause(self) -> None:
        self._counter.stop()
        # The processes that a test starts ask for it.
        os.environ.pop("HPAL_COVERAGE", None)

    def pytest_unconfigure(self) -> None:
        self._counter.save()


def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    # Before conftest.py imports hpal, whose lines outside of functions count too.
    counter = _counter()
    if counter is not None:
        early_config.pluginmanager.register(_Plugin(counter))
