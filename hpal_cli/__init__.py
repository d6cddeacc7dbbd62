"""hpal: label 3D scans with next to no labels.

The stages, in the order data flows through them:
readers -> scenes -> network (training) -> predictions -> score -> select -> label -> evaluate.
Every stage is a Python call; `hpal_cli.commands` wraps each as a command and nothing imports it.
"""

__version__ = "0.1.0"
