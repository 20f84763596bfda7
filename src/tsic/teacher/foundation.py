"""What the teacher asks of a promptable foundation model."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

# ImageNet's statistics: SAM and SAM 2 were trained on images normalised with them.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Embedding:
    """What the image encoder saw, on the canvas grid.

    Attributes:
        image: What the mask decoder reads, ``(B, D, h, w)`` at stride 16.
        hidden: Encoder outputs at several depths, shallow first, ``(B, C_i, h_i, w_i)``.
        levels: Maps of ``D`` channels at the same depths, for the public code's neck.
        fine: SAM 2's maps for the mask decoder at strides 4 and 8; empty for SAM.
    """

    image: Tensor
    hidden: tuple[Tensor, ...]
    levels: tuple[Tensor, ...]
    fine: tuple[Tensor, ...] = ()


class Foundation(nn.Module, ABC):
    """A promptable segmenter: embed an image once, decode many mask prompts.

    Attributes:
        multiple: Image sides must be multiples of this many pixels.
        dim: Channels ``D`` of the image embedding.
        hidden_channels: Channels of each of ``Embedding.hidden``.
        hidden_strides: Pixels per cell of each of ``Embedding.hidden``.
        recompute: Run encoder blocks again in the backward pass instead of keeping their insides.
    """

    multiple: int
    dim: int
    hidden_channels: tuple[int, ...]
    hidden_strides: tuple[int, ...]
    recompute: bool = False

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    @property
    @abstractmethod
    def encoder(self) -> nn.Module:
        """The image encoder, whose own weights stay frozen."""

    @abstractmethod
    def encode(self, images: Tensor, *, with_levels: bool) -> Embedding:
        """Embed normalised images ``(B, 3, H, W)``, sides multiples of ``multiple``."""

    @abstractmethod
    def decode(
        self,
        image: Tensor,
        dense: Tensor,
        sparse: Tensor | None,
        fine: tuple[Tensor, ...],
        *,
        multimask: bool,
    ) -> Tensor:
        """Decode one prompt per row into mask logits.

        Args:
            image: Image embedding ``(P, D, h, w)``, one row per prompt.
            dense: Embedded mask prompts ``(P, D, h, w)``.
            sparse: Prompt tokens ``(P, T, D)`` or ``None``.
            fine: SAM 2's maps, one row per prompt.
            multimask: Answer with the outputs for an ambiguous prompt instead of the single one.

        Returns:
            Mask logits ``(P, M, 4h, 4w)``, ``M`` 1 or the model's number of multimask outputs.
        """

    def encoder_gradient(self) -> AbstractContextManager[None]:
        """Context in which the encoder runs: without gradient if nothing in it learns."""
        learns = any(parameter.requires_grad for parameter in self.encoder.parameters())
        return torch.set_grad_enabled(learns and torch.is_grad_enabled())

    def positions(self, height: int, width: int) -> Tensor:
        """Positional encoding ``(1, D, height, width)`` of a grid that covers the canvas."""
        encoded = self.model.shared_image_embedding(self._grid(height, width))
        return encoded.permute(2, 0, 1)[None]

    def embed_masks(self, masks: Tensor) -> Tensor:
        """Embed mask logits ``(P, 1, 4h, 4w)`` to dense prompts ``(P, D, h, w)``."""
        return self.model.prompt_encoder.mask_embed(masks)

    def blank_token(self) -> Tensor:
        """The token ``(D,)`` that stands for "no point here"."""
        return self.model.prompt_encoder.not_a_point_embed.weight[0]

    def _run(self, block: Callable[[Tensor], Tensor], hidden: Tensor) -> Tensor:
        if self.recompute and torch.is_grad_enabled() and self.training:
            return checkpoint(block, hidden, use_reentrant=False)
        return block(hidden)

    def _grid(self, height: int, width: int) -> Tensor:
        """Centres of a grid's cells, x then y, each in [0, 1]: ``(height, width, 2)``."""
        device = self.blank_token().device
        y = (torch.arange(height, device=device) + 0.5) / height
        x = (torch.arange(width, device=device) + 0.5) / width
        return torch.stack(torch.meshgrid(y, x, indexing="ij")[::-1], dim=-1)
