"""What the teacher asks of a promptable foundation model."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from typing_extensions import override

from tsic.grid import require_images, resize_images, size_of
from tsic.networks import IMAGENET_MEAN, IMAGENET_STD
from tsic.teacher.attention import fuse_attention
from tsic.teacher.canvas import Canvas
from tsic.teacher.decoder import decode_masks
from tsic.teacher.norms import keep_types
from tsic.teacher.recompute import recomputed
from tsic.teacher.refiner import Refiner


@dataclass(frozen=True)
class Seen:
    """What the image encoder made of images, before anything of the decoders' side.

    Attributes:
        stages: Its maps at several depths, shallow first, ``(B, h_i, w_i, C_i)``.
        neck: What its neck made of them, ``(B, D, h_j, w_j)``.
    """

    stages: tuple[Tensor, ...]
    neck: tuple[Tensor, ...]


@dataclass(frozen=True)
class Embedding:
    """What the decoders read, on the canvas grid.

    Attributes:
        image: What the mask decoder reads, ``(B, D, h, w)`` at stride 16.
        hidden: Encoder outputs at several depths, shallow first, ``(B, C_i, h_i, w_i)``.
        levels: Maps of ``D`` channels at the same depths, for the public code's neck.
        fine: SAM 2's maps for the mask decoder at strides 4 and 8; empty for SAM.
        look: What the refiner compares, at stride 4; ``None`` without one.
    """

    image: Tensor
    hidden: tuple[Tensor, ...]
    levels: tuple[Tensor, ...]
    fine: tuple[Tensor, ...] = ()
    look: Tensor | None = None


class Foundation(nn.Module, ABC):
    """A promptable segmenter: embed an image once, decode many mask prompts.

    Attributes:
        multiple: Image sides must be multiples of this many pixels.
        dim: Channels ``D`` of the image embedding.
        hidden_channels: Channels of each of ``Embedding.hidden``.
        hidden_strides: Pixels per cell of each of ``Embedding.hidden``.
        scale: Ratio that images are resized by before anything else.
        recompute: Run encoder blocks again in the backward pass instead of keeping their insides.
        empty_points: Points that stand for none.
        has_levels: Whether it can give ``Embedding.levels``.
        refiner: Redraws the mask decoder's answers; SAM and its kin have none.
    """

    multiple: int
    dim: int
    hidden_channels: tuple[int, ...]
    hidden_strides: tuple[int, ...]
    scale: float = 1.0
    recompute: bool = False
    empty_points: ClassVar[int] = 0
    has_levels: ClassVar[bool] = True
    refiner: Refiner | None
    mean: Tensor
    std: Tensor

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        # SAM and its kin were trained on images normalised so.
        for name, values in (("mean", IMAGENET_MEAN), ("std", IMAGENET_STD)):
            self.register_buffer(name, torch.tensor(values).view(3, 1, 1), persistent=False)
        fuse_attention(model)
        keep_types(model)
        self.refiner = None

    @property
    def encoder(self) -> nn.Module:
        """The image encoder, whose own weights stay frozen."""
        return self.model.vision_encoder

    def place(self, images: Tensor) -> tuple[Canvas, Tensor]:
        """Resize images ``(B, 3, H, W)``, RGB in [0, 1], normalise them and pad to whole patches.

        Raises:
            ShapeError: If they are none.
        """
        require_images(images, "teacher")
        if self.scale != 1:
            height, width = (max(1, round(side * self.scale)) for side in size_of(images))
            images = resize_images(images, (height, width))
        canvas = Canvas(images.shape[-2], images.shape[-1], self.multiple)
        return canvas, canvas.pad(((images - self.mean) / self.std).to(self.mean.dtype))

    def encode(self, images: Tensor, *, with_levels: bool) -> Embedding:
        """Embed normalised images ``(B, 3, H, W)``, sides multiples of ``multiple``."""
        return self.read(self.see(images), with_levels=with_levels)

    @abstractmethod
    def see(self, images: Tensor) -> Seen:
        """Run the image encoder on normalised images."""

    @abstractmethod
    def read(self, seen: Seen, *, with_levels: bool) -> Embedding:
        """Make ready for the decoders what the encoder saw."""

    def decode(
        self,
        image: Tensor,
        dense: Tensor,
        sparse: Tensor | None,
        fine: tuple[Tensor, ...],
        owners: Tensor | None = None,
        *,
        multimask: bool,
    ) -> tuple[Tensor, Tensor]:
        """Decode prompts on the grid of the embedded ones; see ``decode_masks``."""
        if sparse is None and self.empty_points:
            sparse = self.blank_token().expand(len(dense), self.empty_points, -1)
        positions = self.positions(*image.shape[-2:])
        decoder = self.model.mask_decoder
        return decode_masks(
            decoder, image, positions, dense, sparse, fine, owners, multimask=multimask
        )

    def answer(
        self,
        embedding: Embedding,
        masks: Tensor,
        sparse: Tensor | None,
        *,
        multimask: bool,
        owners: Tensor | None = None,
        has_mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Decode as many prompts per image as there are.

        Args:
            embedding: Of ``B`` images; it is resized to the grid of the embedded prompts.
            masks: Mask prompts, logits ``(P, 1, 4h, 4w)``; 0 where there is none.
            sparse: Prompt tokens ``(P, T, D)`` or ``None``.
            multimask: See ``decode_masks``.
            owners: See ``decode_masks``.
            has_mask: Which prompts have a mask, bool ``(P,)``; by default all.

        Returns:
            See ``decode_masks``.
        """
        dense = self.embed_masks(masks)
        height, width = dense.shape[-2:]
        if has_mask is not None:
            dense = dense.where(has_mask[:, None, None, None], self.embed_no_mask(height, width))

        def on_grid(maps: Tensor, scale: int) -> Tensor:
            size = (scale * height, scale * width)
            if maps.shape[-2:] == size:
                return maps
            return F.interpolate(maps, size, mode="bilinear", align_corners=False)

        image = on_grid(embedding.image, 1)
        fine = tuple(on_grid(maps, s) for maps, s in zip(embedding.fine, (4, 2), strict=False))
        logits, ious = self.decode(image, dense, sparse, fine, owners, multimask=multimask)
        if self.refiner is not None and embedding.look is not None:
            look = on_grid(embedding.look, 4)
            if owners is None:
                look = look.repeat_interleave(len(dense) // len(look), 0)
            else:
                look = look[owners]
            logits = self.refiner(look, masks, logits)
        return logits, ious

    @override
    def train(self, mode: bool = True) -> Self:
        """Switch to training; a frozen encoder's batch norms keep the statistics they came with."""
        super().train(mode)
        for module in self.encoder.modules():
            if isinstance(module, _BatchNorm) and not any(
                p.requires_grad for p in module.parameters()
            ):
                module.eval()
        return self

    @property
    def encoder_learns(self) -> bool:
        """Whether any weight of the encoder, or any adapter of it, trains."""
        return any(parameter.requires_grad for parameter in self.encoder.parameters())

    def encoder_gradient(self) -> AbstractContextManager[None]:
        """Context in which the encoder runs: without gradient if nothing in it learns."""
        return torch.set_grad_enabled(self.encoder_learns and torch.is_grad_enabled())

    def positions(self, height: int, width: int) -> Tensor:
        """Positional encoding ``(1, D, height, width)`` of a grid that covers the canvas."""
        encoded = self.model.shared_image_embedding(self._grid(height, width))
        return encoded.permute(2, 0, 1)[None]

    def embed_masks(self, masks: Tensor) -> Tensor:
        """Embed mask logits ``(P, 1, 4h, 4w)`` to dense prompts ``(P, D, h, w)``."""
        return self.model.prompt_encoder.mask_embed(masks)

    def embed_no_mask(self, height: int, width: int) -> Tensor:
        """Dense prompt ``(1, D, height, width)`` that stands for "no mask here"."""
        blank = self.model.prompt_encoder.no_mask_embed.weight
        return blank[..., None, None].expand(1, -1, height, width)

    def embed_points(self, points: Tensor, labels: Tensor) -> Tensor:
        """Embed points and the corners of boxes.

        Args:
            points: ``(P, T, 2)``, x then y, each in [0, 1] of the canvas.
            labels: What each is, int64 ``(P, T)``: 0 not in the mask, 1 in it, 2 and 3 the top left
                and bottom right corner of a box, -1 no point.

        Returns:
            Prompt tokens ``(P, T, D)``.
        """
        table = self.model.prompt_encoder.point_embed
        kinds = table.weight if isinstance(table, nn.Embedding) else [e.weight[0] for e in table]
        tokens = self.model.shared_image_embedding(points[None])[0]
        tokens = tokens + torch.stack([*kinds])[labels.clamp(min=0)]
        return torch.where(labels[..., None] < 0, self.blank_token(), tokens)

    def blank_token(self) -> Tensor:
        """The token ``(D,)`` that stands for "no point here"."""
        return self.model.prompt_encoder.not_a_point_embed.weight[0]

    def _run(self, block: Callable[[Tensor], Any], hidden: Tensor) -> Any:
        if self.recompute and torch.is_grad_enabled() and self.training:
            return recomputed(block, hidden)
        return block(hidden)

    def _grid(self, height: int, width: int) -> Tensor:
        """Centres of a grid's cells, x then y, each in [0, 1]: ``(height, width, 2)``."""
        device = self.blank_token().device
        y = (torch.arange(height, device=device) + 0.5) / height
        x = (torch.arange(width, device=device) + 0.5) / width
        return torch.stack(torch.meshgrid(y, x, indexing="ij")[::-1], dim=-1)
