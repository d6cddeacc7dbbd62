"""Makes a folder of the library callable, so that `hpal.select(...)` works although `hpal_cli.select` is a folder."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any


class CallablePackage(ModuleType):
    """A package that shares its name with a call of `hpal_cli.library`, and is that call too.

    The import system binds a package in its parent as soon as anything of it is imported, and would hide a function of
    the same name there.
    """

    @property
    def __wrapped__(self) -> Callable[..., Any]:
        """The call, under the name by which `inspect.signature` looks for it."""
        from hpal_cli import library

        call: Callable[..., Any] = getattr(library, self.__name__.rpartition(".")[2])
        return call

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.__wrapped__(*args, **kwargs)
