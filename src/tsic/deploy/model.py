"""Whatever scores images: a student, a teacher, or an exported file."""

from pathlib import Path
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from tsic.data.classes import ClassTable
from tsic.deploy.hub import is_name
from tsic.errors import ConfigError
from tsic.grid import Size

Gives = Literal["scores", "labels"]
"""Class scores ``(B, K, h, w)`` on any grid that covers the image, or labels ``(B, H, W)``."""


EXPORTED_SUFFIXES = frozenset({".onnx", ".xml", ".pt2", ".pte", ".tflite"})
"""Endings of exported files: ONNX, OpenVINO, torch.export, ExecuTorch, LiteRT."""


def is_exported(path: str | Path) -> bool:
    """Whether a path, and not a student's name, is one of an exported file."""
    return not is_name(path) and Path(path).suffix.lower() in EXPORTED_SUFFIXES


class Model(Protocol):
    """Scores RGB images ``(B, 3, H, W)``, float32 in [0, 1] on its device.

    Attributes:
        classes: The classes that it knows.
        device: Where it wants its images.
        gives: What it answers with.
        only_size: The one height and width that it takes; ``None`` for any.
        resize: Height and width that it brings every image to itself, as its training did; ``None``
            for none. It has no ``only_size`` then.
        only_batch: The one number of images that it takes at a time; ``None`` for any.
    """

    classes: ClassTable
    gives: Gives
    only_size: Size | None
    only_batch: int | None
    resize: Size | None

    @property
    def device(self) -> torch.device:
        """Where it wants its images."""

    def __call__(self, images: Tensor) -> Tensor:
        """Score a batch."""


def require_evaluation_mode(model: object) -> None:
    """Refuse a network whose batch norms would take their statistics from what it is shown.

    Raises:
        ConfigError: If it, or a part of it, is in training mode.
    """
    if isinstance(model, nn.Module) and any(one.training for one in model.modules()):
        raise ConfigError(
            "the network is in training mode, in which it answers otherwise and learns from what "
            "it is shown; call its eval() first"
        )
