"""Selects the candidates with the highest scores within a budget, without those that say the same as a chosen one."""

import sys

from hpal_cli.callable_package import CallablePackage

sys.modules[__name__].__class__ = CallablePackage
