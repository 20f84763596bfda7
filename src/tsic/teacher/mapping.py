"""Mapping decoders: encoder features guided by prompted masks become class scores."""

import math
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import Conv2dNormActivation as Conv  # the public code's ConvModule

from tsic.options import Attention
from tsic.teacher.foundation import Embedding
from tsic.teacher.norms import GroupNorm
from tsic.teacher.recompute import recomputed


@dataclass(frozen=True)
class PromptedMasks:
    """What the mask decoder answered, ready for a mapping decoder.

    Attributes:
        logits: Decoded masks ``(B, N, h, w)``.
        guide: What a mapping decoder reads ``(B, M, h, w)``: all ``K`` classes' mask logits for
            class prompts, the multimask outputs for an index prompt.
        class_ids: Class of each decoded mask, int64 ``(B, N)``, or ``None``.
    """

    logits: Tensor
    guide: Tensor
    class_ids: Tensor | None


LEVELS = (4, 8, 16, 32)
"""Strides in pixels that UPerNet's neck brings as many maps to."""


class Mapping(Protocol):
    """What the teacher asks of a mapping decoder."""

    needs_levels: bool

    def __call__(
        self, images: Tensor, embedding: Embedding, masks: PromptedMasks | None
    ) -> tuple[Tensor, Tensor]:
        """Map to logits ``(B, K, H/4, W/4)`` and the features that distillation compares."""
        ...


def _resize(maps: Tensor, like: Tensor) -> Tensor:
    if maps.shape[-2:] == like.shape[-2:]:
        return maps
    return F.interpolate(maps, like.shape[-2:], mode="bilinear", align_corners=False)


class UperMapping(nn.Module):
    """The public code's mapping decoder: four-scale neck, UPerNet, attention by the masks.

    The ``released`` attention subtracts the energies from their maximum over an axis of size one
    and takes the softmax over that same axis, so it is 1 everywhere and the masks change nothing.
    ``repaired`` takes the softmax over channels of the features' mean agreement with the masks,
    scaled by ``C`` so that an indifferent answer is 1, and adds the result to the features.

    Args:
        dim: Channels of ``Embedding.levels``.
        strides: Stride of each level in pixels; the neck brings them to 4, 8, 16 and 32.
        num_classes: Classes ``K``.
        neck_channels: Channels after the neck.
        channels: Channels of UPerNet.
        attention: Which attention.
        dropout: Channel dropout before the classifier.

    Source:
        UPerNet: Xiao et al., arXiv:1807.10221. Neck, attention and numbers: the authors' public
        code as described in ``docs/paper.md``.
    """

    needs_levels = True

    def __init__(
        self,
        dim: int,
        strides: tuple[int, ...],
        num_classes: int,
        *,
        neck_channels: int = 768,
        channels: int = 512,
        attention: Attention = "repaired",
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.attention = attention
        self.scales = [stride / target for stride, target in zip(strides, LEVELS, strict=True)]
        self.neck_lateral = nn.ModuleList(nn.Conv2d(dim, neck_channels, 1) for _ in strides)
        self.neck_out = nn.ModuleList(
            nn.Conv2d(neck_channels, neck_channels, 3, padding=1) for _ in strides
        )
        self.pools = nn.ModuleDict(
            {str(size): Conv(neck_channels, channels, 1) for size in (1, 2, 3, 6)}
        )
        self.pooled = Conv(neck_channels + 4 * channels, channels, 3)
        self.lateral = nn.ModuleList(Conv(neck_channels, channels, 1) for _ in strides[:-1])
        self.smooth = nn.ModuleList(Conv(channels, channels, 3) for _ in strides[:-1])
        self.fuse = Conv(len(strides) * channels, channels, 3)
        self.query = Conv(channels, channels, 1)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(channels, num_classes, 1)

    def neck(self, levels: tuple[Tensor, ...]) -> list[Tensor]:
        """Bring levels of ``D`` channels to strides 4, 8, 16 and 32."""
        maps = []
        layers = zip(levels, self.scales, self.neck_lateral, self.neck_out, strict=True)
        for level, scale, lateral, out in layers:
            # By a factor, as the public code does, a map of odd sides would lose its last cells.
            by: dict[str, Any] = {"scale_factor": scale}
            if self.attention == "repaired":
                by = {"size": [math.ceil(side * scale) for side in level.shape[-2:]]}
            maps.append(
                out(F.interpolate(lateral(level), **by, mode="bilinear", align_corners=False))
            )
        return maps

    def decode(self, maps: list[Tensor]) -> Tensor:
        """UPerNet: pooled context at the coarsest map, added downwards, all maps fused."""
        last = maps[-1]
        pooled = [
            _resize(conv(F.adaptive_avg_pool2d(last, int(size))), last)
            for size, conv in self.pools.items()
        ]
        path = [lateral(m) for lateral, m in zip(self.lateral, maps[:-1], strict=True)]
        path.append(self.pooled(torch.cat([last, *pooled], dim=1)))
        for finer in range(len(path) - 2, -1, -1):
            path[finer] = path[finer] + _resize(path[finer + 1], path[finer])
        smoothed = [conv(m) for conv, m in zip(self.smooth, path[:-1], strict=True)]
        return self.fuse(
            torch.cat(
                [smoothed[0], *(_resize(m, path[0]) for m in (*smoothed[1:], path[-1]))], dim=1
            )
        )

    def attend(self, features: Tensor, masks: Tensor) -> Tensor:
        """Weigh channels by their agreement with the pixelwise maximum of the masks."""
        guide = _resize(masks, features).amax(1).flatten(1)[:, :, None]  # (B, hw, 1)
        query = self.query(features).flatten(2)
        with torch.autocast(features.device.type, enabled=False):
            energy = torch.bmm(query.float(), guide.float())  # (B, C, 1), too large for float16
        if self.attention == "released":
            energy = energy.amax(-1, keepdim=True) - energy
            return features * energy.softmax(-1)[..., None]
        channels, pixels = features.shape[1], guide.shape[1]
        weights = channels * (energy / pixels).softmax(1)
        return features + features * weights[..., None]

    def forward(
        self, images: Tensor, embedding: Embedding, masks: PromptedMasks | None
    ) -> tuple[Tensor, Tensor]:
        """See ``Mapping``; the features are SAM's last map."""
        features = self.decode(self.neck(embedding.levels))
        if masks is not None:
            features = self.attend(features, masks.guide)
        return self.classifier(self.dropout(features)), embedding.image


class LightMapping(nn.Module):
    """A light top-down decoder that starts as if there were no prompt and learns to use it.

    Encoder maps of one stride are projected and added; strides that the encoder lacks (SAM has
    only 16) come from a small convolutional stem on the image, which sees the edges a stride-16
    patch cannot. Masks enter twice, both times through weights that start at zero: as a guide
    added to the finest features, and class by class on the scores.

    Args:
        hidden_channels: Channels of each encoder map.
        hidden_strides: Stride of each encoder map in pixels.
        num_classes: Classes ``K``.
        mask_channels: Channels ``M`` of the guide; 0 when there is no prompt.
        is_per_class: Whether channel ``k`` of the guide is class ``k``.
        channels: Width of the decoder.
    """

    needs_levels = False

    def __init__(
        self,
        hidden_channels: tuple[int, ...],
        hidden_strides: tuple[int, ...],
        num_classes: int,
        *,
        mask_channels: int,
        is_per_class: bool,
        channels: int = 128,
    ) -> None:
        super().__init__()
        self.strides = hidden_strides
        self.lateral = nn.ModuleList(
            nn.Conv2d(inputs, channels, 1, bias=False) for inputs in hidden_channels
        )
        self.stem: Stem | None = None if 4 in hidden_strides else Stem(channels)
        steps = sorted({4, 8, *hidden_strides}, reverse=True)
        self.refine = nn.ModuleDict({str(stride): _separable(channels) for stride in steps})
        self.norm = nn.ModuleDict({str(stride): GroupNorm(8, channels) for stride in steps})
        self.guide = nn.Conv2d(mask_channels, channels, 1) if mask_channels else None
        self.class_gain = nn.Parameter(torch.zeros(num_classes)) if is_per_class else None
        self.classifier = nn.Sequential(_separable(channels), nn.Conv2d(channels, num_classes, 1))
        if self.guide is not None:
            for parameter in self.guide.parameters():
                nn.init.zeros_(parameter)

    def forward(
        self, images: Tensor, embedding: Embedding, masks: PromptedMasks | None
    ) -> tuple[Tensor, Tensor]:
        """See ``Mapping``; the features are the decoder's at stride 8."""
        maps: dict[int, Tensor] = {} if self.stem is None else self.stem(images)
        for lateral, hidden, stride in zip(
            self.lateral, embedding.hidden, self.strides, strict=True
        ):
            projected = lateral(hidden)
            maps[stride] = maps[stride] + projected if stride in maps else projected
        features, kept = self._top_down(maps)
        if masks is None or self.guide is None:
            return recomputed(self.classifier, features), kept
        logits = recomputed(self._classify, features, masks.guide)
        if self.class_gain is not None:
            logits = logits + recomputed(_gained, self.class_gain, masks.guide, features)
        return logits, kept

    def _classify(self, features: Tensor, guide: Tensor) -> Tensor:
        assert self.guide is not None
        return self.classifier(features + self.guide(_resize(guide, features).sigmoid()))

    def _top_down(self, maps: dict[int, Tensor]) -> tuple[Tensor, Tensor]:
        """Add coarse to fine; returns the maps at stride 4 and at stride 8."""
        path: dict[int, Tensor] = {}
        below: Tensor | None = None
        for stride in sorted(maps, reverse=True):
            here = maps[stride]
            if below is not None:
                here = here + _resize(below, here)
            norm, refine = self.norm[str(stride)], self.refine[str(stride)]
            below = path[stride] = recomputed(nn.Sequential(norm, refine), here)
        return path[4], path[8]


def _gained(gain: Tensor, guide: Tensor, like: Tensor) -> Tensor:
    """Mask logits ``(B, K, h, w)`` times each class's gain, on another map's grid."""
    return gain[:, None, None] * _resize(guide, like).clamp(-10, 10)


class Stem(nn.Module):
    """Three strided convolutions on the image: maps at strides 4 and 8."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Sequential(
            nn.Conv2d(3, 32, 3, stride=2, padding=1, bias=False),
            GroupNorm(8, 32),
            nn.ReLU(inplace=True),
            nn.Conv2d(32, channels, 3, stride=2, padding=1, bias=False),
        )
        self.second = nn.Sequential(
            GroupNorm(8, channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 3, stride=2, padding=1, groups=8, bias=False),
        )

    def forward(self, images: Tensor) -> dict[int, Tensor]:
        """Map normalised ``(B, 3, H, W)`` images to maps keyed by stride."""
        fine = self.first(images)
        return {4: fine, 8: recomputed(self.second, fine)}


def _separable(channels: int) -> nn.Sequential:
    """Depthwise then pointwise convolution, norm and ReLU."""
    return nn.Sequential(
        nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False),
        nn.Conv2d(channels, channels, 1, bias=False),
        GroupNorm(8, channels),
        nn.ReLU(inplace=True),
    )
