"""Writes completions/ anew, or says how it would be: the scripts that Typer makes for bash, zsh and fish, with the one
for zsh mended."""

from __future__ import annotations

from pathlib import Path

from typer.completion import get_completion_script

FOLDER = Path(__file__).parents[1] / "completions"

SCRIPTS = {"bash": "hpal.bash", "zsh": "_hpal", "fish": "hpal.fish"}


_REGISTERED = "compdef _hpal_completion hpal"
_IN_ZSH = f"""\
if [[ $funcstack[1] == _hpal ]]; then
  # zsh has loaded this file as a function, at the first Tab, and wants completions now.
  _hpal_completion "$@"
else
  {_REGISTERED}
fi"""


def script(shell: str) -> str:
    made = get_completion_script(prog_name="hpal", complete_var="_HPAL_COMPLETE", shell=shell) + "\n"
    if shell == "zsh":
        assert made.count(_REGISTERED) == 1
        # Typer's only registers itself when it is loaded, so that the first Tab of a session does nothing.
        made = made.replace(_REGISTERED, _IN_ZSH)
    return made


if __name__ == "__main__":
    for shell, name in SCRIPTS.items():
        (FOLDER / name).write_text(script(shell), encoding="utf-8")
