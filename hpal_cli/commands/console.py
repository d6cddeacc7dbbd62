"""Prints what a person reads on stderr, and opens the files and streams that data comes from and goes to."""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import shlex
import stat
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, ClassVar

from hpal_cli.commands.reports import Events, report
from hpal_cli.errors import HpalError, UsageError
from hpal_cli.progress import Task
from hpal_cli.store.remote import RemotePath
from hpal_cli.wording import printable, shortened

if TYPE_CHECKING:
    from rich.progress import Progress


class Console:
    """The Monitor of a command. It draws progress bars only at a terminal, and in a pipeline only those of the last
    command, since two bars at once would overwrite each other. It prints on stderr, because stdout is for data."""

    as_events: ClassVar[bool] = False
    """Whether this process was called with `--progress json`."""

    def __init__(self, command: str, *, quiet: bool = False, verbose: bool = False, as_json: bool = False) -> None:
        """as_json: print the report of the method `report` on stdout."""
        self.command = command
        self.quiet = quiet
        self.verbose = verbose
        self._as_json = as_json
        self._warnings: list[str] = []
        self._events = Events(command) if self.as_events else None
        self._progress: Progress | None = None

    def say(self, text: str) -> None:
        """A line of summary, on stderr."""
        if not self.quiet:
            self._line(text)

    def note(self, text: str) -> None:
        self.say(text)

    def warn(self, text: str) -> None:
        self._warnings.append(text)
        if self._events is None:
            self.say(shortened(f"hpal {self.command}: warning: {text}"))
        elif not self.quiet:
            self._events.warning(text)

    def report(self, members: Mapping[str, Any]) -> None:
        """With --json, prints on stdout what the command found or did. A command calls it once, at its end."""
        if self._as_json:
            print(report(self.command, members, warnings=self._warnings))

    def debug(self, text: str) -> None:
        """A line on stderr that is printed only with -v."""
        if self.verbose and not self.quiet:
            self._line(text)

    @contextlib.contextmanager
    def task(self, what: str, total: int) -> Iterator[Task]:
        if self._events is not None and not self.quiet:
            yield self._events.task(what, total)
            return
        if self.quiet or not sys.stderr.isatty() or is_pipe(sys.stdout):
            # The last command of the pipeline draws the bar: two at once would overwrite each other.
            yield _Lines(self, what, total)
            return
        import rich.console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        with Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[status]}", markup=False),
            console=rich.console.Console(file=sys.stderr),
            transient=True,
        ) as progress:
            self._progress = progress
            try:
                yield _Bar(progress, what, total)
            finally:
                self._progress = None

    def table(self, headers: Sequence[str], rows: Sequence[Sequence[str]], *, data: bool = False) -> None:
        """An aligned table, on stderr. data: the table is what the command was asked for, and goes to stdout."""
        if self.quiet and not data:
            return
        if self._events is not None and not data:
            self._events.table(headers, rows)
            return
        from rich import box
        from rich.console import Console as RichConsole
        from rich.table import Table
        from rich.text import Text

        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
        for n, header in enumerate(headers):
            table.add_column(Text(printable(header)), justify="left" if n == 0 else "right", no_wrap=True)
        for row in rows:
            # As a Text, since rich takes `[red]` in a string for a colour.
            table.add_row(*(Text(printable(cell)) for cell in row))
        # Rich draws into a string: if it wrote to a broken pipe, it would end the process with a status of its own.
        text = io.StringIO()
        RichConsole(file=text, width=200, highlight=False).print(table)
        lines = "\n".join(line.rstrip() for line in text.getvalue().splitlines())
        print(lines, file=sys.stdout if data else sys.stderr)

    def data(self, text: str) -> None:
        """A line on stdout, which is part of what the command was asked for."""
        print(printable(text))

    def _line(self, text: str) -> None:
        if self._events is not None:
            self._events.note(text.strip())
            return
        # A text may begin with an empty line, which separates two parts of a report.
        begin = "\n" if text.startswith("\n") else ""
        text = begin + printable(text.removeprefix("\n"))
        if self._progress is not None:
            self._progress.console.print(text, highlight=False, markup=False, soft_wrap=True)
        else:
            print(text, file=sys.stderr, flush=True)


PROGRESS_SECONDS = 60.0
"""Seconds between two lines of progress where stderr is no terminal."""


class _Bar:
    def __init__(self, progress: Progress, what: str, total: int) -> None:
        self._progress = progress
        self._task = progress.add_task(what, total=total, status="")

    def advance(self, amount: int = 1, status: str = "") -> None:
        self._progress.update(self._task, advance=amount, status=printable(status))


class _Lines:
    """Progress where stderr is no terminal: a line a minute, or with -v a line for each step."""

    def __init__(self, console: Console, what: str, total: int) -> None:
        self._console, self._what, self._total, self._done = console, what, total, 0
        self._said = time.monotonic()
        self._alone = not is_pipe(sys.stdout)

    def advance(self, amount: int = 1, status: str = "") -> None:
        self._done += amount
        line = f"{self._what} {self._done:,} of {self._total:,}  {status}"
        if self._console.verbose:
            if status:
                self._console.debug(line)
        elif self._alone and time.monotonic() - self._said > PROGRESS_SECONDS:
            # In a log, a line a minute shows that the command still works.
            self._said = time.monotonic()
            self._console.say(line)


@contextlib.contextmanager
def open_input(path: Path | None) -> Iterator[tuple[IO[bytes], str]]:
    """Opens a point stream and yields it with its name for messages. None and `-` stand for stdin.

    Raises:
        UsageError: nothing was given and stdin is a terminal.
        HpalError: the file cannot be read.
    """
    if path is None or str(path) == "-":
        if path is None and sys.stdin.isatty():
            raise UsageError("input", "is missing", "pipe the command before it into it, or name a file")
        yield sys.stdin.buffer, "stdin"
        return
    if path.is_dir():
        raise HpalError(
            path,
            "is a folder, expected a point stream (PLY)",
            "give the output of `hpal score` or `hpal select`",
        )
    try:
        file = path.open("rb")
    except OSError as error:
        raise HpalError(path, f"cannot be read ({error.strerror})", "check the name") from error
    with file:
        yield file, str(path)


def require_other(output: Path | None, inputs: Sequence[Path | None], option: str) -> None:
    """Checks that a command does not write over its own input.

    Raises:
        UsageError: the output is one of the inputs.
    """
    if output is None or not output.exists():
        return
    if any(path is not None and path.exists() and _same(path, output) for path in inputs):
        raise UsageError(option, f"{output} is the input", "give another name")


def _same(path: Path, other: Path) -> bool:
    if isinstance(path, RemotePath) or isinstance(other, RemotePath):
        return path == other
    return path.samefile(other)


def free_name(usual: str | Path) -> Path:
    """The usual name of an output, or if it exists already, the first free one of `selection-2.ply`, `-3`, ..."""
    path = Path(usual)
    if not os.path.lexists(path):
        return path
    others = (path.with_name(f"{path.stem}-{n}{path.suffix}") for n in itertools.count(2))
    return next(other for other in others if not os.path.lexists(other))


def name_for_predictions(model: Path) -> Path:
    """A free name for the predictions of a model: `preds-2.zarr` for `model-2.pt`, else `preds.zarr`."""
    stem = f"preds{model.stem.removeprefix('model')}" if model.stem.startswith("model") else "preds"
    return free_name(f"{stem}.zarr")


def typed(*words: object) -> str:
    """The words as a command line, quoted so that a shell reads them as they are."""
    return shlex.join(map(str, words))


class Output:
    """The output of a point stream: the file of `-o FILE`, stdout if it is a pipe or a file, or, at a terminal, a file
    with the default name."""

    def __init__(
        self, path: Path | None, default: str, *, overwrite: bool, fixed: bool = False, as_json: bool = False
    ) -> None:
        """fixed: keep the default name even if it exists, since the next command looks for a series of such names.
        as_json: the report goes to stdout, so the points need a file.

        Raises:
            UsageError: binary data would go to a terminal, or to the stdout that the report goes to.
        """
        to_terminal = sys.stdout.isatty()
        if str(path) == "-" and to_terminal:
            raise UsageError("-o", "binary data is not written to a terminal", f"name a file, like -o {default}")
        guessed = path is None and to_terminal
        if guessed:
            path = Path(default) if overwrite or fixed else free_name(default)
        self.path = None if path is None or str(path) == "-" else path
        if as_json and self.path is None:
            raise UsageError("--json", "takes stdout", f"name a file for the points, like -o {default}")
        self._overwrite = overwrite
        self.guessed = guessed

    @contextlib.contextmanager
    def open(self) -> Iterator[Callable[[], IO[bytes]]]:
        """Yields a function that opens the stream, for a command to call when its first byte is ready. The file gets
        its name when the block ends without an error."""
        if self.path is None:
            yield lambda: sys.stdout.buffer
            sys.stdout.buffer.flush()
            return
        from hpal_cli.store.files import atomic_write

        with (
            atomic_write(self.path, overwrite=self._overwrite) as partial,
            contextlib.ExitStack() as files,
        ):
            yield lambda: files.enter_context(partial.open("wb"))


def is_pipe(stream: IO[str]) -> bool:
    """Whether the stream is a pipe, at whose other end another command reads or writes."""
    try:
        return stat.S_ISFIFO(os.fstat(stream.fileno()).st_mode)
    except (OSError, ValueError, AttributeError):
        return False
