"""Writes completions/ anew, or says how it would be: the scripts that Typer makes for bash, zsh and fish, mended."""

from __future__ import annotations

from pathlib import Path

from typer.completion import get_completion_script

FOLDER = Path(__file__).parents[1] / "completions"

SCRIPTS = {"bash": "hpal.bash", "zsh": "_hpal", "fish": "hpal.fish"}

# hpal completes the value of `--split=tr`. bash makes three words of that, the second of which is "=".
_ASKED_IN_BASH = """\
    COMPREPLY=( $( env COMP_WORDS="${COMP_WORDS[*]}" \\
                   COMP_CWORD=$COMP_CWORD \\
"""
_JOINED_IN_BASH = """\
    local words=() before= cword=$COMP_CWORD i
    for (( i = 0; i < ${#COMP_WORDS[@]}; i++ )); do
        if [[ ${COMP_WORDS[i]} == = && $before == --* ]]; then
            (( i >= COMP_CWORD )) || (( cword-- ))
        else
            words+=("${COMP_WORDS[i]}")
        fi
        before=${COMP_WORDS[i]}
    done
    COMPREPLY=( $( env COMP_WORDS="${words[*]}" \\
                   COMP_CWORD=$cword \\
"""

# zsh and fish compare each completion with the whole of `--split=tr`.
_ASKED_IN_ZSH = "  eval $(env "
_VALUE_IN_ZSH = "  compset -P '--[a-z-]*='\n" + _ASKED_IN_ZSH
_ASKED_IN_FISH = '_TYPER_COMPLETE_ARGS=(commandline -cp) hpal)" --condition'
_VALUE_IN_FISH = (
    "_TYPER_COMPLETE_ARGS=(commandline -cp) hpal"
    " | string replace -r -- '^' (string match -r -- '^--[a-z-]*=' (commandline -ct); or echo '')"
    ')" --condition'
)

_REGISTERED = "compdef _hpal_completion hpal"
_IN_ZSH = f"""\
if [[ $funcstack[1] == _hpal ]]; then
  # zsh has loaded this file as a function, at the first Tab, and wants completions now.
  _hpal_completion "$@"
else
  {_REGISTERED}
fi"""

_MENDED = {
    "bash": {_ASKED_IN_BASH: _JOINED_IN_BASH},
    # Typer's only registers itself when it is loaded, so that the first Tab of a session does nothing.
    "zsh": {_ASKED_IN_ZSH: _VALUE_IN_ZSH, _REGISTERED: _IN_ZSH},
    "fish": {_ASKED_IN_FISH: _VALUE_IN_FISH},
}


def script(shell: str) -> str:
    made = get_completion_script(prog_name="hpal", complete_var="_HPAL_COMPLETE", shell=shell) + "\n"
    for old, new in _MENDED[shell].items():
        assert made.count(old) == 1
        made = made.replace(old, new)
    return made


if __name__ == "__main__":
    for shell, name in SCRIPTS.items():
        (FOLDER / name).write_text(script(shell), encoding="utf-8")
