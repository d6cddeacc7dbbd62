"""`hpal` and `python -m hpal_cli`."""

import sys
from typing import NoReturn


def main() -> NoReturn:
    """Runs the command line of this process and exits with its status."""
    try:
        # Here, so that an interrupt while this loads ends like any other.
        from hpal_cli.commands.app import main as run

        run()
    except KeyboardInterrupt:
        sys.stderr.write("hpal: interrupted\n")
        sys.exit(130)


if __name__ == "__main__":
    main()
