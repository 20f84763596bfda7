"""The user's own network, by import path."""

import importlib
import inspect
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from tsic.errors import ConfigError, nearest
from tsic.networks import Maps, Network


def build_imported(path: str, *, num_classes: int, options: Mapping[str, object]) -> Network:
    """Build the user's own network from its import path.

    Args:
        path: ``package.module:Class``; called with ``num_classes`` and ``options``. Its forward
            takes normalised images and returns logits, a dict with ``out`` or ``logits`` (and
            ``features``: maps ``(B, C, h, w)``, coarsest last), or an object with these
            attributes. A class attribute ``size_multiple`` says which image sides it takes; others
            are padded.
        num_classes: Classes ``K``.
        options: Keyword arguments of the class.

    Raises:
        ConfigError: If the path cannot be imported or the class refuses the arguments.
    """
    module_name, _, class_name = path.partition(":")
    if not module_name or module_name.startswith("."):
        raise ConfigError(f"student.name '{path}' must be a whole path, 'package.module:Class'")
    try:
        module = importlib.import_module(module_name)
    except ImportError as e:
        raise ConfigError(
            f"student.name '{path}' cannot be imported: {e}; put its folder on PYTHONPATH"
        ) from e
    if not hasattr(module, class_name):
        classes = [key for key, value in vars(module).items() if inspect.isclass(value)]
        raise ConfigError(
            f"module '{module_name}' has no class '{class_name}'; {nearest(class_name, classes)}"
        )
    try:
        model = getattr(module, class_name)(num_classes=num_classes, **options)
    except (TypeError, ValueError) as e:
        raise ConfigError(f"student '{path}' refuses its arguments: {e}") from e
    if not isinstance(model, nn.Module):
        raise ConfigError(f"student '{path}' must be a torch.nn.Module")
    multiple = int(getattr(model, "size_multiple", 1))
    return Network(model, _read_imported, size_multiple=multiple, options=options)


def require_class(path: str) -> None:
    """Refuse what no file of a student may name unless its user asks for that: a function, say.

    Args:
        path: An import path that a network was built from.

    Raises:
        ConfigError: If it is no class.
    """
    module_name, _, class_name = path.partition(":")
    if not inspect.isclass(getattr(importlib.import_module(module_name), class_name)):
        raise ConfigError(f"student '{path}' must be a class; derive one from torch.nn.Module")


def _read_imported(model: Any, images: Tensor) -> Maps:
    """Run the user's network and find logits and features in what it returns."""
    answer = model(images)
    if isinstance(answer, Tensor):
        return answer, ()
    if isinstance(answer, Mapping):
        logits = answer.get("out", answer.get("logits"))
        features = answer.get("features", ())
    else:
        logits, features = getattr(answer, "logits", None), getattr(answer, "features", ())
    if not isinstance(logits, Tensor):
        raise ConfigError(
            f"student '{type(model).__name__}' must return a tensor, a dict with 'out' or "
            f"'logits', or a StudentOutput, got {type(answer).__name__}"
        )
    if isinstance(features, Tensor):
        return logits, (features,)
    if isinstance(features, Mapping):
        features = features.values()
    return logits, () if features is None else tuple(features)
