"""Train a small segmentation network in a cycle with a prompted foundation model.

Public names are imported when they are first used, so that ``import tsic`` is quick and using a
trained student never imports what only training needs.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tsic.checkpoint import load_student
    from tsic.cycle import Cycle
    from tsic.deploy.export.export import export
    from tsic.deploy.opening import open_model
    from tsic.evaluation.evaluate import evaluate
    from tsic.student import build_student
    from tsic.teacher import build_teacher

__version__ = version("tsic")
__all__ = [
    "Cycle",
    "build_student",
    "build_teacher",
    "evaluate",
    "export",
    "load_student",
    "open_model",
]

_HOMES = {
    "Cycle": "tsic.cycle",
    "build_student": "tsic.student",
    "build_teacher": "tsic.teacher",
    "evaluate": "tsic.evaluation.evaluate",
    "export": "tsic.deploy.export.export",
    "load_student": "tsic.checkpoint",
    "open_model": "tsic.deploy.opening",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'tsic' has no attribute '{name}'")
