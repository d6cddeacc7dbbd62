"""The server that starts `hpal` for the tests does as a shell would."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

from conftest import Call, environment, put_quick_hpal, run_hpal
from test_shell import group_is_there


def begin(predictions: Path, cwd: Path) -> tuple[Call, int]:
    """A call that waits, since nobody reads more than the start of its output; and the pipe."""
    read, write = os.pipe()
    with open(os.devnull, "r+b") as nothing:
        call = Call(["score", predictions, "-q"], cwd, environment(), [nothing.fileno(), write, nothing.fileno()])
    os.close(write)
    assert os.read(read, 3) == b"ply"
    return call, read


def test_how_a_call_ends(predictions: Path, tmp_path: Path) -> None:
    assert run_hpal("info", predictions).rc == 0
    assert run_hpal("info", "absent").rc == 1
    assert run_hpal("frobnicate").rc == 2
    call, read = begin(predictions, tmp_path)
    os.killpg(call.pid, signal.SIGKILL)
    assert call.wait() == -signal.SIGKILL
    os.close(read)


def test_who_hangs_up_kills_the_call(predictions: Path, tmp_path: Path) -> None:
    whole = len(run_hpal("score", predictions, "-q").out)
    call, read = begin(predictions, tmp_path)
    call.hang_up()
    end = time.monotonic() + 30
    while group_is_there(call.pid):
        assert time.monotonic() < end, "it goes on"
        time.sleep(0.01)
    with open(read, "rb") as pipe:
        assert len(pipe.read()) < whole - 3, "it wrote all of it"


def test_a_script_has_the_streams_of_its_shell(predictions: Path, tmp_path: Path) -> None:
    env = {**environment(), "PATH": f"{put_quick_hpal(tmp_path).parent}:{os.environ['PATH']}", "P": str(predictions)}
    script = (
        'hpal score "$P" -q | hpal select - --budget 3 -q > picks.ply; hpal info picks.ply | head -n 1; hpal info no'
    )
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.splitlines()) == (1, ["picks.ply: selection"])
    assert done.stderr.startswith("hpal info: no: ")
