"""A frozen image encoder by itself, from which a student takes hints."""

import torch
from torch import Tensor, nn

from tsic.teacher.canvas import Canvas
from tsic.teacher.foundation import MEAN, STD, Foundation
from tsic.teacher.sam import load_foundation


class HintEncoder(nn.Module):
    """What a promptable segmenter's encoder, as it was published, sees of an image.

    Args:
        foundation: The segmenter; its decoders are not used.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, foundation: Foundation) -> None:
        super().__init__()
        self.foundation = foundation.requires_grad_(requires_grad=False)
        self.foundation.train(self.training)  # what is frozen now also stands still
        self.register_buffer("mean", torch.tensor(MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(3, 1, 1), persistent=False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Embed RGB images in [0, 1], ``(B, 3, H, W)``: ``(B, D, h, w)`` that covers them."""
        canvas = Canvas(images.shape[-2], images.shape[-1], self.foundation.multiple)
        padded = canvas.pad((images - self.mean) / self.std)
        return canvas.crop(self.foundation.encode(padded, with_levels=False).image)


def build_hint_encoder(name: str) -> HintEncoder:
    """Load a foundation model for its encoder; see ``build_teacher`` for names and errors."""
    return HintEncoder(load_foundation(name))
