"""What the operating system does not say."""

from __future__ import annotations

import getpass
import os
import subprocess
import sys

import pytest
from conftest import environment

from hpal_cli.system import name_user

NAMES = ("LOGNAME", "USER", "LNAME", "USERNAME")
"""The variables that `getpass.getuser` looks at before it asks the system."""


def test_a_user_whom_the_system_does_not_list_has_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    pwd = pytest.importorskip("pwd")

    def absent(number: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {number}")

    monkeypatch.setattr(pwd, "getpwuid", absent)
    for name in NAMES:
        monkeypatch.setenv(name, "x")  # so that the variable is as before when the test has ended
        monkeypatch.delenv(name)
    with pytest.raises((KeyError, OSError)):
        getpass.getuser()
    name_user()
    assert getpass.getuser() == f"uid_{os.getuid()}"
    monkeypatch.setenv("LOGNAME", "anna")
    name_user()
    assert getpass.getuser() == "anna"


@pytest.mark.skipif("sys.platform == 'win32'", reason="the system has no user numbers")
def test_the_program_names_the_user_before_it_runs_a_command() -> None:
    """What `label --serve` does with the name of its user, and torch before 2.13 when it makes an optimiser."""
    code = """
import getpass, os, pwd, sys
def absent(number): raise KeyError(number)
pwd.getpwuid = absent
sys.argv = ["hpal", "info", "--version"]
import atexit; atexit.register(lambda: print("name:", getpass.getuser()))
from hpal_cli.commands.app import main
main()
"""
    env = {name: value for name, value in environment().items() if name not in NAMES}
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.splitlines()[-1] == f"name: uid_{os.getuid()}"
