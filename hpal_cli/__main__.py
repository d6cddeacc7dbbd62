"""`hpal` and `python -m hpal_cli`."""

from hpal_cli.commands.app import main

if __name__ == "__main__":
    main()
