"""Published ways to teach a student, each in one file, under the same recipe as the cycle.

A file ``NAME.py`` here makes ``distill.method: NAME``: it holds the loss as a pure function and one
subclass of ``Rival`` that weighs it.
"""

import inspect
from importlib import import_module

from tsic.errors import ConfigError, nearest
from tsic.options import RIVALS
from tsic.rivals._rival import Rival, Signals, Sizes

__all__ = ["RIVALS", "Rival", "Signals", "Sizes", "rival_class"]


def rival_class(name: str) -> type[Rival]:
    """Find a method's class.

    Raises:
        ConfigError: If there is no such method, or its file does not hold it.
    """
    if name not in RIVALS:
        raise ConfigError(f"distill.method: '{name}' is no method; {nearest(name, RIVALS)}")
    module = import_module(f"{__name__}.{name}")
    found = [
        one
        for one in vars(module).values()
        if inspect.isclass(one) and issubclass(one, Rival) and one.__module__ == module.__name__
    ]
    if len(found) != 1:
        names = ", ".join(one.__name__ for one in found) or "none"
        raise ConfigError(f"rivals/{name}.py must hold one class derived from Rival, holds {names}")
    return found[0]
