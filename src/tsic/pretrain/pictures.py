"""Pictures of prompts, answers and the truth, side by side."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from typing_extensions import override

from tsic.errors import DataError
from tsic.grid import resize, size_of
from tsic.pictures import Pixels, panel, save_png, to_pixels
from tsic.pretrain.data import PromptedImages, collate
from tsic.pretrain.module import PretrainModule

_TINT = np.array([230.0, 60.0, 40.0])


class Answers(Callback):
    """After each validation, a panel of held-out images: prompt, answer, truth.

    Args:
        folder: Where ``step_N.png`` goes.
        images: Held-out images of each source.
        count: Images of each.
    """

    def __init__(self, folder: Path, images: Mapping[str, PromptedImages], count: int) -> None:
        self.folder = folder
        self.images = images
        self.count = count

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, PretrainModule)
        if not trainer.is_global_zero or not self.count:
            return
        rows = [
            answer_tiles(pl_module, images, position)
            for images in self.images.values()
            for position in range(self.count)
        ]
        if rows := [row for row in rows if row]:
            picture = panel(rows, ["image", "prompt", "answer", "truth"])
            save_png(picture, self.folder / f"step_{trainer.global_step:06d}.png")


@torch.inference_mode()
def answer_tiles(module: PretrainModule, images: PromptedImages, position: int) -> list[Pixels]:
    """Image, first mask prompt, the answer to it, the truth; nothing without such a prompt."""
    sample = images[position, 0]
    batch = collate([sample])
    if isinstance(sample, DataError) or isinstance(batch, DataError):
        raise DataError(str(sample))
    asked = (sample.has_mask & sample.targets.flatten(1).any(1)).nonzero()[:, 0]
    if not len(asked):
        return []
    moved = {k: v.to(module.device) if isinstance(v, Tensor) else v for k, v in batch.items()}
    which = int(asked[0])
    answers = module.answers(moved)[which]  # type: ignore[arg-type]
    shown = [to_pixels(sample.image)]
    for mask in (sample.masks[which], answers.cpu(), 20 * sample.targets[which].float() - 10):
        shown.append(tinted(sample.image, mask))
    return shown


def tinted(image: Tensor, logits: Tensor) -> Pixels:
    """Show a mask over its darkened image.

    Args:
        image: RGB uint8 ``(3, H, W)``.
        logits: Mask logits ``(h, w)``.
    """
    share = resize(logits[None, None], size_of(image))[0, 0].sigmoid().numpy()[..., None]
    grey = to_pixels(image).mean(2, keepdims=True) * 0.6
    return ((1 - 0.75 * share) * grey + 0.75 * share * _TINT).astype(np.uint8)
