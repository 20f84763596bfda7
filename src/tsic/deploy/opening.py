"""Open a student or an exported file, whichever a path names."""

from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from tsic.checkpoint import load_student
from tsic.deploy.model import Model, is_exported
from tsic.errors import ConfigError, one_line

Network = TypeVar("Network", bound=nn.Module)


def open_model(
    path: str | Path,
    *,
    device: str | None = None,
    threads: int | None = None,
    allow_code: bool = False,
) -> Model:
    """Open a student or an exported file, whatever the path names.

    Args:
        path: A run's folder, a ``student.safetensors``, ``zoo:name``, ``hf:owner/name``, or an
            exported file (`tsic.deploy.model.EXPORTED_SUFFIXES`).
        device: Where it runs; by default the GPU if there is one. Exported files run on the CPU.
        threads: Threads of an exported file's engine; by default the engine's own choice.
        allow_code: Whether a student may name any class by its import path.

    Returns:
        The model, ready to score.

    Raises:
        CheckpointError: If there is none, or it is damaged.
        ConfigError: If its engine is not installed, or it cannot run on that device.
    """
    if is_exported(path):
        if device not in (None, "cpu"):
            raise ConfigError(f"exported files run on the CPU, not on '{device}'; leave it out")
        from tsic.deploy.export.engines import open_exported

        return open_exported(Path(path), threads=threads)
    return on_device(load_student(path, allow_code=allow_code), device)


def on_device(module: Network, device: str | None) -> Network:
    """Move a network to a device, by default the GPU if there is one.

    Raises:
        ConfigError: If there is no such device.
    """
    try:
        return module.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            f"device '{device}' cannot be used ({one_line(error)}); choose cpu, or cuda where "
            "there is a GPU"
        ) from error
