"""Writes completions/ anew, or says how it would be: the scripts that Typer makes for bash, zsh and fish."""

from __future__ import annotations

from pathlib import Path

from typer.completion import get_completion_script

FOLDER = Path(__file__).parents[1] / "completions"

SCRIPTS = {"bash": "hpal.bash", "zsh": "_hpal", "fish": "hpal.fish"}


def script(shell: str) -> str:
    return get_completion_script(prog_name="hpal", complete_var="_HPAL_COMPLETE", shell=shell) + "\n"


if __name__ == "__main__":
    for shell, name in SCRIPTS.items():
        (FOLDER / name).write_text(script(shell), encoding="utf-8")
