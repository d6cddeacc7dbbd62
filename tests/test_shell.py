"""What a person's shell sees: each folder of tests/shell is a case, run by a real bash with pipefail.

`cmd` is the script; `stdout`, `stderr` and `status` are what must come of it, byte for byte, and where one of them is
missing it is empty, or 0. A case that names $JOBS is run with 1 and with 2 and must come to the same. One whose name
begins with `terminal` has a pseudo-terminal for its three streams, and all that appeared on it is `stdout`.
The script runs in a folder of its own with a few small stores and files, in which it may do as it likes.

`HPAL_UPDATE_SHELL=1 pytest tests/test_shell.py` writes what comes of the cases now; read the difference.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from conftest import VAL, Done, at_a_terminal, environment, fake_predictions, put_hpal, run_hpal

from hpal_cli.demo.office import make_office
from hpal_cli.scenes.prepare import prepare

FOLDER = Path(__file__).parent / "shell"
CASES = sorted(path.parent.name for path in FOLDER.glob("*/cmd"))


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the scripts find; `hpal` is in bin/."""
    folder = tmp_path_factory.mktemp("shell")
    put_hpal(folder)
    bench = folder / "bench"
    bench.mkdir()
    make_office(folder / "office", rooms=3, seed=0, points=400)
    prepare(folder / "office", bench / "scenes.zarr", val=[VAL], grid=0.15)
    fake_predictions(bench / "scenes.zarr", bench / "preds.zarr")
    for args in (
        ("score", "preds.zarr", "-o", "scores.ply"),
        ("score", "preds.zarr", "--no-history", "-o", "plain.ply"),
        ("score", "preds.zarr", "--scenes", "*/office_1", "--strategy", "mmu", "-o", "small.ply"),
        ("select", "scores.ply", "--budget", "5", "-o", "picks.ply"),
        ("label", "picks.ply", "--oracle", "scenes.zarr", "-o", "answered.zarr"),
    ):
        done = run_hpal(*args, "-q", cwd=bench)
        assert done.rc == 0, done.err
    return folder


def call_of(script: str, inputs: Path, jobs: str) -> tuple[list[str], dict[str, str]]:
    """The words of a bash that runs a script, and its environment."""
    env = {**environment(), "JOBS": jobs, "TERM": "xterm", "PATH": f"{inputs / 'bin'}:{os.environ['PATH']}"}
    return ["bash", "--noprofile", "--norc", "-o", "pipefail", "-c", script], env


def start(script: str, inputs: Path, cwd: Path, jobs: str, **streams: int) -> subprocess.Popen[bytes]:
    call, env = call_of(script, inputs, jobs)
    return subprocess.Popen(call, cwd=cwd, env=env, start_new_session=True, **streams)


def run_at_a_terminal(script: str, inputs: Path, cwd: Path, jobs: str) -> Done:
    call, env = call_of(script, inputs, jobs)
    done = at_a_terminal(call, cwd, env)
    return done._replace(out=on_the_screen(done.out))


def on_the_screen(written: bytes) -> bytes:
    """What stands on an endless terminal in the end. Escape sequences that it does not know, as of colours, stay."""
    lines, row = [""], 0
    for part in re.split(r"(\r\n|\n|\r|\x1b\[\??\d*[A-Za-z])", written.decode()):
        if part in ("\r\n", "\n"):
            row += 1
            lines += [""] * (row == len(lines))
        elif part == "\x1b[1A":
            row -= 1
        elif part in ("\r", "\x1b[2K", "\x1b[G"):
            # Whoever goes to the start of a line erases it.
            lines[row] = ""
        elif part not in ("\x1b[?25l", "\x1b[?25h"):
            lines[row] += part
    return "\n".join(lines).encode()


def run(script: str, inputs: Path, cwd: Path, jobs: str) -> Done:
    process = start(script, inputs, cwd, jobs, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    out, err = process.communicate(timeout=120)
    return Done(process.returncode, out, err.decode())


def expected(case: Path) -> Done:
    def read(name: str) -> bytes:
        return (case / name).read_bytes() if (case / name).exists() else b""

    return Done(int(read("status") or 0), read("stdout"), read("stderr").decode())


def note(case: Path, done: Done) -> None:
    for name, content in (
        ("stdout", done.out),
        ("stderr", done.err.encode()),
        ("status", f"{done.rc}\n".encode() if done.rc else b""),
    ):
        (case / name).unlink(missing_ok=True)
        if content:
            (case / name).write_bytes(content)


@pytest.mark.parametrize("name", CASES)
def test_case(inputs: Path, tmp_path: Path, name: str) -> None:
    case = FOLDER / name
    script = (case / "cmd").read_text()
    if "/dev/full" in script and not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    for jobs in ("1", "2") if "$JOBS" in script else ("1",):
        cwd = tmp_path / jobs
        shutil.copytree(inputs / "bench", cwd)
        done = (run_at_a_terminal if name.startswith("terminal") else run)(script, inputs, cwd, jobs)
        if os.environ.get("HPAL_UPDATE_SHELL") and jobs == "1":
            note(case, done)
        assert done == expected(case), f"--jobs {jobs}"


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_ctrl_c_ends_a_command_whose_reader_does_not_read(predictions: Path, inputs: Path, jobs: str) -> None:
    """130 although the pipe is full, one line, and no process of its group is left."""
    script = 'exec hpal score "$STORE" -q --jobs $JOBS'
    env = {**environment(), "JOBS": jobs, "STORE": str(predictions), "PATH": f"{inputs / 'bin'}:{os.environ['PATH']}"}
    process = subprocess.Popen(
        ["bash", "-c", script], env=env, start_new_session=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        # A runner in the background may have had the signal ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.read(3) == b"ply", "it writes"
    # As a terminal does: to the whole group, when the pipe is full and the command waits.
    time.sleep(1)
    assert process.poll() is None, "the stream must be larger than a pipe"
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(timeout=20) == 130
    assert process.stderr.read() == b"hpal score: interrupted\n"
    end = time.monotonic() + 10
    while group_is_there(process.pid):
        assert time.monotonic() < end, "a child is left"
        time.sleep(0.05)
    process.stdout.close()
    process.stderr.close()


def group_is_there(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True
