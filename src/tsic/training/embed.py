"""Let a frozen encoder look at whole training images once, before the first step."""

import hashlib
import json
import random
import time
from pathlib import Path

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as TF

from tsic.config import RunConfig
from tsic.data.hints import StoredHints
from tsic.data.unlabelled import TrainImages
from tsic.errors import DataError
from tsic.progress import progress
from tsic.streams import tell
from tsic.teacher import HintEncoder


def stored_hints(
    config: RunConfig, encoder: HintEncoder | None, dataset: TrainImages
) -> StoredHints | None:
    """Where the hints of a run lie, or are to lie; ``None`` where each step makes its own.

    Call it before mixed precision rounds the encoder's weights: they name the folder.
    """
    if config.teacher.hint_cache is None or encoder is None:
        return None
    kind = str(product_kind(config)).removeprefix("torch.")
    folder = f"{_digest(encoder)}-{config.teacher.hint_side}-{kind}"
    return StoredHints(Path(config.teacher.hint_cache) / folder, dataset)


def _device(config: RunConfig) -> torch.device:
    here = torch.accelerator.current_accelerator(check_available=True)
    return torch.device("cpu") if config.trainer.accelerator == "cpu" or here is None else here


def product_kind(config: RunConfig) -> torch.dtype:
    """What products are computed in."""
    if config.trainer.precision == "32-true":
        return torch.float32
    is_half = config.trainer.precision == "16-mixed" and _device(config).type != "cpu"
    return torch.float16 if is_half else torch.bfloat16


def _digest(encoder: HintEncoder) -> str:
    """Tell an encoder, its settings and weights, from others."""
    settings = encoder.foundation.model.config.vision_config.to_diff_dict()
    del settings["transformers_version"]
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for name, tensor in sorted(encoder.foundation.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.float().cpu().contiguous().numpy().data)
    return digest.hexdigest()[:16]


def embed_missing(
    hints: StoredHints, config: RunConfig, encoder: HintEncoder, dataset: TrainImages
) -> float:
    """Embed the images that have no file yet.

    Several runs may do so at once: each takes the images in an order of its own and passes over
    those that another has done.

    Returns:
        Seconds that it took.

    Raises:
        DataError: If an image cannot be read and ``data.on_error`` is ``stop``.
    """
    start = time.monotonic()
    missing = hints.missing()
    if not missing:
        return 0.0
    tell(f"embedding {len(missing)} images once, into '{config.teacher.hint_cache}'\n")
    random.SystemRandom().shuffle(missing)
    with progress("embed the images") as on_progress:
        for done, index in enumerate(missing):
            if not hints.has(index):
                try:
                    hints.write(index, embed(encoder, dataset.read_image(index), config))
                except DataError:
                    if config.data.on_error == "stop":
                        raise
            on_progress(done + 1, len(missing))
    return time.monotonic() - start


@torch.no_grad()
def embed(encoder: HintEncoder, image: Tensor, config: RunConfig) -> Tensor:
    """Embed an image, uint8 ``(3, H, W)``, and its mirror image: ``(2, D, h, w)`` on the CPU."""
    device, kind = _device(config), product_kind(config)
    ratio = config.teacher.hint_side / max(image.shape[1:])
    size = [max(1, round(side * ratio)) for side in image.shape[1:]]
    scaled = TF.resize(image.to(device), size, antialias=True).float() / 255
    with torch.autocast(device.type, kind, enabled=kind != torch.float32):
        seen: Tensor = encoder.to(device)(torch.stack([scaled, scaled.flip(2)]))
    return seen.cpu()
