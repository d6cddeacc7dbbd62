"""The program `hpal`: its list of commands, and the exit status and error line with which each of them ends."""

from __future__ import annotations

import contextlib
import copy
import functools
import os
import signal
import sys
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, NoReturn, TextIO, get_type_hints

import typer
from typer.completion import completion_init
from typer.core import TyperGroup
from typer.exceptions import TyperException
from typer.models import OptionInfo

from hpal_cli import __version__
from hpal_cli.commands import (
    demo,
    evaluate,
    export,
    info,
    label,
    predict,
    prep,
    score,
    select,
    spread,
    superpoints,
    train,
    view,
)
from hpal_cli.commands.console import Console, is_pipe
from hpal_cli.commands.reports import Events, Failure, report
from hpal_cli.errors import HpalError, UsageError
from hpal_cli.parallel import allow_processes
from hpal_cli.store.remote import located
from hpal_cli.system import ENDING, name_user
from hpal_cli.wording import printable, shortened

INTERRUPTED = 130
TERMINATED = 143
BROKEN_PIPE = 141

COMPLETE = "_HPAL_COMPLETE"
"""The environment variable that the scripts of completions/ set to ask for completions."""

_EPILOG = """
Exit status: 0 done, 1 failed (data or disk), 2 wrong usage, 130 interrupted, 141 broken pipe, 143 terminated.
Every command also takes `--debug`, which shows the traceback of an error, and `--progress json`, which writes its
messages on stderr as JSON for programs.
"""


class Group(TyperGroup):
    """Lists the commands in the order of the loop, and ends a command whose output nobody reads with `BROKEN_PIPE`."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(self.commands)

    def make_context(self, *arguments: Any, **options: Any) -> Any:
        with _ending_at_broken_pipe():  # --help and --version print here
            return super().make_context(*arguments, **options)

    def invoke(self, ctx: Any) -> Any:
        with _ending_at_broken_pipe():
            return super().invoke(ctx)


@contextlib.contextmanager
def _ending_at_broken_pipe() -> Iterator[None]:
    """Ends the command with `BROKEN_PIPE` if nobody reads its output. Typer itself would end it with the status 1."""
    try:
        yield
    except BrokenPipeError:
        _discard(sys.stdout)
        raise SystemExit(BROKEN_PIPE) from None


app = typer.Typer(
    cls=Group,
    name="hpal",
    help="Label 3D scans with very few labels: find the points whose labels a model would learn most from, label "
    "these, and get a class for every point.",
    epilog=_EPILOG,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _with_addresses(command: Callable[..., None]) -> Callable[..., None]:
    """The same command, except that its paths may be addresses on object storage (`s3://bucket/name`)."""

    @functools.wraps(command)
    def call(**values: Any) -> None:
        _require_names(command, values)
        command(**{name: _as_addresses(value) for name, value in values.items()})

    return call


_STREAMING = (score.command, select.command, label.command)
"""The commands whose `-o -` is stdout."""


def _require_names(command: Callable[..., None], values: dict[str, Any]) -> None:
    """Checks that `-` was given only where it means stdin or stdout. Otherwise a file called `-` would be written.

    Raises:
        UsageError: an option that takes the name of a file or a folder got `-`.
    """
    if Path("-") not in values.values():
        return
    hints = get_type_hints(command, include_extras=True)
    for option, value in values.items():
        about = next((one for one in getattr(hints[option], "__metadata__", ()) if isinstance(one, OptionInfo)), None)
        streams = option == "output" and command in _STREAMING
        if value == Path("-") and about is not None and not streams:
            # Typer keeps the first of an option's names as its default.
            names = (about.default, *(about.param_decls or ()), f"--{option}")
            typed = next(name for name in names if str(name).startswith("-"))
            raise UsageError(typed, "takes no stdin or stdout here", "name a file or a folder")


def _as_addresses(value: Any) -> Any:
    if isinstance(value, list):
        return [_as_addresses(one) for one in value]
    return located(value) if isinstance(value, Path) else value


def _first_sentence(command: Callable[..., None]) -> str:
    return " ".join((command.__doc__ or "").split()).partition(". ")[0].rstrip(".") + "."


for module in (prep, train, predict, score, select, label, spread, evaluate, superpoints, info, view, export, demo):
    # Without a short help, a completion would show the first 45 letters of the help.
    app.command(module.NAME, short_help=_first_sentence(module.command))(_with_addresses(module.command))


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"hpal {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version and stop.", callback=_show_version, is_eager=True),
    ] = False,
) -> None:
    pass


def main() -> NoReturn:
    """Runs the command line of this process and exits with its status."""
    if COMPLETE in os.environ:
        # As Typer's `add_completion`, but without its two options in the help.
        completion_init()
    _reopen_closed_streams()
    debug = "--debug" in sys.argv
    sys.argv = [argument for argument in sys.argv if argument != "--debug"]
    how = _take_progress()
    if len(sys.argv) == 1:
        sys.argv.append("--help")
    for number in ENDING:
        signal.signal(number, _terminate)
    # GNU OpenMP reads this when torch is loaded. By default its threads spin for milliseconds at every barrier. If
    # another program runs too, a spinning thread keeps the core from the thread that it waits for, and a training step
    # takes twenty times as long.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    name_user()
    allow_processes()
    Console.as_events = how == "json"
    status, failure = _run(debug, how)
    if Console.as_events:
        with contextlib.suppress(OSError):
            Events(_command()).end(failure)
    # Python would end with a status of its own if it could not write what is left in the buffer.
    _discard(sys.stderr)
    if status in (INTERRUPTED, TERMINATED):
        # Without waiting for the threads: one may wait for ever to write to a pipe that nobody reads.
        os._exit(status)
    sys.exit(status)


def _take_progress() -> str:
    """Takes `--progress` out of the arguments and returns its last value. Every command has this option, and the
    history of a file does not record it."""
    how, kept, arguments = "auto", [], iter(sys.argv)
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if name == "--progress":
            how = value if equals else next(arguments, "")
        else:
            kept.append(argument)
    sys.argv = kept
    return how


def _reopen_closed_streams() -> None:
    """Opens /dev/null in place of each standard stream that the shell closed (`>&-`), since the next file that is
    opened would otherwise become that stream. Such a stdin is empty, writing to such a stdout fails, and what is
    written to such a stderr is lost."""
    ways = (("stdin", os.O_RDONLY, "r"), ("stdout", os.O_RDONLY, "w"), ("stderr", os.O_WRONLY, "w"))
    for number, (name, flags, mode) in enumerate(ways):
        if getattr(sys, name) is None:
            opened = os.open(os.devnull, flags)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            setattr(sys, name, open(number, mode))  # noqa: SIM115


def _run(debug: bool, progress: str) -> tuple[int, Failure | None]:
    """Runs the command. Returns the exit status, and what went wrong, which has been printed already."""
    try:
        if progress not in ("auto", "json"):
            raise UsageError("--progress", f"{progress!r} is unknown", "choose from auto, json")
        _require_words()
        with _ending_at_broken_pipe():  # completions are printed outside of a command
            status = _called()(prog_name="hpal", standalone_mode=False)
            if status != INTERRUPTED:
                # Otherwise a disk that is too full for the rest of the buffer would look like success.
                sys.stdout.flush()
                return (status if isinstance(status, int) else 0), None
        # Typer turns an interrupt into a status of its own.
        failure = Failure("interrupted", INTERRUPTED)
    except SystemExit as error:
        # At a terminal no message is printed for these.
        words = {BROKEN_PIPE: "nobody reads the output any more", TERMINATED: "terminated"}
        code = error.code if isinstance(error.code, int) else 1
        return code, Failure(words.get(code, "ended"), code)
    except TyperException as error:
        if debug:
            raise
        failure = Failure(f"{error.format_message()} (see `{_program()} --help`)", error.exit_code)
    except HpalError as error:
        if debug:
            raise
        failure = Failure.from_error(error)
    except OSError as error:
        if debug:
            raise
        subject, problem = str(error.filename or "output"), error.strerror or str(error)
        failure = Failure(problem, 1, subject=subject, remedy="check the disk and the name")
    except MemoryError:
        if debug:
            raise
        remedy = "close other programs, or give less at once (--jobs, --max-voxels, --scenes)"
        failure = Failure("out of memory", 1, remedy=remedy)
    except Exception as error:
        if debug:
            raise
        problem = f"unexpected {type(error).__name__}: {error}"
        failure = Failure(problem, 1, remedy="please report it with --debug")
    _fail(failure)
    return failure.status, failure


def _called() -> typer.Typer:
    """The app, without the commands that are not called if the first word is one of them: Typer builds the options of
    every command that an app has, which takes longer than all else that a short command does."""
    called = [command for command in app.registered_commands if [command.name] == sys.argv[1:2]]
    if not called or COMPLETE in os.environ:
        return app
    one = copy.copy(app)
    one.registered_commands = called
    return one


def _require_words() -> None:
    """Checks that no word of the call is empty. As a path, an empty word would mean the current folder.

    Raises:
        UsageError: one is.
    """
    for before, word in pairwise(sys.argv):
        option, _, value = word.partition("=")
        if not word or (word.startswith("--") and option != word and not value):
            subject = option or (before if before.startswith("-") else "an argument")
            raise UsageError(subject, "is empty", "give a value; a variable of the shell may be unset")


def _command() -> str | None:
    """The name of the command that was called, such as `select`."""
    names = [a for a in sys.argv[1:] if not a.startswith("-")]
    return names[0] if names and names[0] in {c.name for c in app.registered_commands} else None


def _program() -> str:
    return " ".join(["hpal", _command() or ""]).strip()


def _fail(failure: Failure) -> None:
    if not Console.as_events:
        # The progress bar of another command of the pipeline may be on the terminal's current line.
        piped = is_pipe(sys.stdout) or is_pipe(sys.stdin)
        clear = "\x1b[2K\x1b[G" if piped and sys.stderr.isatty() else ""
        with contextlib.suppress(OSError):
            sys.stderr.write(f"{clear}{_program()}: {shortened(printable(str(failure)))}\n")
            sys.stderr.flush()
    if "--json" in sys.argv:
        with contextlib.suppress(OSError):
            print(report(_command(), {}, error=failure), flush=True)
    if failure.status != INTERRUPTED:
        # The rest of an output that failed must not be written.
        _discard(sys.stdout)


def _discard(stream: TextIO) -> None:
    """Drops what is left in the buffer of a stream that cannot be written to any more."""
    try:
        stream.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    # An exception, so that the blocks that it passes through remove their half-written files.
    raise SystemExit(TERMINATED)
