"""The labels of one image, however it is given."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageOps
from torch import Tensor

from tsic.data.images import read_image, rgb_pixels
from tsic.deploy.inference import (
    WHOLE,
    View,
    fitting_view,
    label_image,
    label_images,
    score_image,
)
from tsic.deploy.model import Model, require_evaluation_mode
from tsic.errors import DataError, ShapeError, one_line
from tsic.evaluation.metrics import best_class, to_labels
from tsic.grid import size_of

FLOAT_SLACK = 0.01
"""How far floats may lie beyond [0, 1], as after a resize that overshoots."""

AnyImage = str | Path | Image.Image | npt.NDArray[np.uint8] | Tensor
"""What counts as an image in Python."""


def label_batch(model: Model, images: Sequence[Tensor] | Tensor, view: View | None) -> Tensor:
    """Label images of one size.

    Args:
        model: Who scores.
        images: RGB uint8, ``B`` times ``(3, H, W)``.
        view: How they are shown; `fitting_view` when left out.

    Returns:
        Class ids, uint8 ``(B, H, W)`` on the CPU.
    """
    fitting = fitting_view(model, view, size_of(images[0]))
    if fitting.crop is not None:
        labels = [label_image(model, image, fitting) for image in images]
        return torch.stack(labels) if len(labels) > 1 else labels[0][None]
    stacked = images if isinstance(images, Tensor) else torch.stack(list(images))
    return label_images(model, stacked, fitting)


def label_with_probabilities(
    model: Model, image: Tensor, view: View | None
) -> tuple[Tensor, npt.NDArray[np.float16]]:
    """Label an image, and tell how likely each class is.

    Args:
        model: Who scores.
        image: RGB uint8 ``(3, H, W)``.
        view: How it is shown; `fitting_view` when left out.

    Returns:
        Class ids, uint8 ``(H, W)``, and probabilities ``(K, H, W)``, both on the CPU.
    """
    probabilities = score_image(model, image, fitting_view(model, view, size_of(image)))
    return best_class(probabilities).to(torch.uint8), probabilities.half().numpy()


def label(model: Model, images: AnyImage | list[Any]) -> Tensor | list[Tensor]:
    """Label every pixel of one image, or of each of some.

    Args:
        model: Who scores.
        images: A file, a Pillow image (turned upright, if it says how), an array RGB uint8
            ``(H, W, 3)``, or a tensor RGB, uint8 or float in [0, 1], ``(3, H, W)``; or a list.

    Returns:
        Class ids, int64 ``(H, W)`` on the model's device; a list for a list.

    Raises:
        ShapeError: If an image is empty, or of another shape, type or range.
        DataError: If a file or a Pillow image cannot be decoded, or has more than 8 bits per
            channel.
        ConfigError: If the model is in training mode.
    """
    require_evaluation_mode(model)
    if isinstance(images, list):
        return [_predict_one(model, image) for image in images]
    return _predict_one(model, images)


def _predict_one(model: Model, image: Any) -> Tensor:
    """Class ids, int64 ``(H, W)``."""
    pixels = _to_tensor(image)
    size = size_of(pixels)
    view = fitting_view(model, None, size)
    if view is WHOLE and model.gives == "scores":
        floats = pixels.float() / 255 if pixels.dtype == torch.uint8 else pixels
        return to_labels(model(floats[None].to(model.device))[0], size)
    if pixels.dtype != torch.uint8:
        pixels = (pixels.clamp(0, 1) * 255).round().to(torch.uint8)
    return label_image(model, pixels, view).to(model.device, torch.int64)


def _to_tensor(image: Any) -> Tensor:
    """RGB ``(3, H, W)``, uint8 or float32."""
    pixels = _pixels(image)
    if not pixels.numel():
        raise ShapeError("an image must have pixels, got {}x{}".format(*size_of(pixels)))
    if pixels.dtype == torch.uint8:
        return pixels
    pixels = pixels.float()
    low, high = (float(end) for end in pixels.aminmax())
    if not -FLOAT_SLACK <= low <= high <= 1 + FLOAT_SLACK:  # nor if either is NaN
        raise ShapeError(
            f"floats must lie in [0, 1], got {low:g} to {high:g}; divide by 255 or pass uint8"
        )
    return pixels


def _pixels(image: Any) -> Tensor:
    """RGB ``(3, H, W)``, as it was given."""
    if isinstance(image, str | Path):
        return read_image(Path(image))
    if isinstance(image, Image.Image):
        image = _decoded(image)
    if isinstance(image, np.ndarray):
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise ShapeError(
                f"an array must be RGB uint8 (H, W, 3), got {image.dtype} {image.shape}; pass "
                "(3, H, W) or floats as a tensor"
            )
        return torch.from_numpy(np.require(image, requirements=["C", "W"])).permute(2, 0, 1)
    if not isinstance(image, Tensor):
        raise ShapeError(
            f"an image must be a path, a Pillow image, an array or a tensor, got "
            f"{type(image).__name__}"
        )
    if image.ndim != 3 or image.shape[0] != 3:
        raise ShapeError(
            f"a tensor must be RGB (3, H, W), got {tuple(image.shape)}; pass several images as a "
            "list"
        )
    if image.dtype != torch.uint8 and not image.dtype.is_floating_point:
        raise ShapeError(f"a tensor must be uint8, or float in [0, 1], got {image.dtype}")
    return image


def _decoded(image: Image.Image) -> npt.NDArray[np.uint8]:
    """RGB ``(H, W, 3)`` of a Pillow image, which decodes its file only when it is asked for it."""
    try:
        return rgb_pixels(ImageOps.exif_transpose(image))  # a copy
    except DataError:
        raise
    except Exception as error:  # Pillow's decoders raise many kinds on damaged files
        raise DataError(
            f"the Pillow image cannot be decoded ({one_line(error)}); replace what it was opened "
            "from, and predict before you close it"
        ) from error
