"""The entry point of the program `hpal`, and of `python -m hpal_cli`."""

import sys
from typing import NoReturn


def main() -> NoReturn:
    """Runs the command line of this process and exits with its status."""
    try:
        # Imported here, so that an interrupt during the import ends the program as at any other time.
        from hpal_cli.commands.app import main as run

        run()
    except KeyboardInterrupt:
        sys.stderr.write("hpal: interrupted\n")
        sys.exit(130)


if __name__ == "__main__":
    main()
