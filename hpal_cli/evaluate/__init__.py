"""Compares predictions with the truth, at the grid points and at the original points."""

import sys

from hpal_cli.callable_package import CallablePackage

sys.modules[__name__].__class__ = CallablePackage
