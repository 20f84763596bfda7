"""A frozen image encoder by itself, from which a student takes hints."""

import torch
from torch import Tensor, nn

from tsic.teacher.foundation import Foundation
from tsic.teacher.norms import fold_norms
from tsic.teacher.sam import load_foundation


class HintEncoder(nn.Module):
    """What a promptable segmenter's encoder, as it was published, sees of an image.

    Args:
        foundation: The segmenter; its decoders are not used.
        scale: Ratio at which it sees the images.
    """

    def __init__(self, foundation: Foundation, scale: float = 1.0) -> None:
        super().__init__()
        foundation.scale = scale
        fold_norms(foundation.encoder)
        self.foundation = foundation.requires_grad_(requires_grad=False)
        self.foundation.train(self.training)  # what is frozen now also stands still

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Embed RGB images in [0, 1], ``(B, 3, H, W)``: ``(B, D, h, w)`` that covers them."""
        canvas, padded = self.foundation.place(images)
        return canvas.crop(self.foundation.encode(padded, with_levels=False).image)


def build_hint_encoder(name: str, scale: float = 1.0) -> HintEncoder:
    """Load a foundation model for its encoder; see ``build_teacher`` for names and errors."""
    return HintEncoder(load_foundation(name), scale)
