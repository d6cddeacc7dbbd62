"""Select: the best candidates that do not say the same thing twice, within a budget."""

import sys

from hpal_cli.callable_package import CallablePackage

sys.modules[__name__].__class__ = CallablePackage
