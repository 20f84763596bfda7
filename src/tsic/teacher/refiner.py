"""Redraws the masks of a small promptable model along the edges that it sees."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tsic.grid import size_of


class Refiner(nn.Module):
    """Compares every cell of an image with what lies inside and outside of a mask around it.

    SAM's mask decoder joins prompt and image at stride 16 and ends in one product of a vector per
    mask with the image's features: a model of a few million parameters learns edges only slowly
    that way. Here each mask gets a few convolutions of its own at stride 4. They see prompt, answer
    and *contrasts*: how much more a cell's features are like their mean inside of the mask than
    like that outside, within 24 and 96 px and in the whole image. A share of the prompt, ``keep``,
    is left in the answer: what looks unlike the rest of its object is then not lost so easily.

    Args:
        shallow: Channels of the encoder's first map.
        dim: Channels of the neck's maps.
        width: Channels of features and convolutions.

    Source:
        The contrast is that of a linear discriminant with GrabCut's two colour models (Rother et
        al., SIGGRAPH 2004) as its classes, of learned features and of several neighbourhoods.
    """

    def __init__(self, shallow: int, dim: int, width: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(shallow + dim, 4 * width, 1),
            nn.GELU(),
            nn.Conv2d(4 * width, width, 3, padding=1),
        )
        self.brief = nn.Conv2d(width, width // 2, 1)
        self.stem = nn.Conv2d(3 + width // 2 + HEADS * len(SCALES), width, 3, padding=1)
        self.layers = nn.ModuleList(
            nn.Conv2d(width, width, 3, padding=dilation, dilation=dilation)
            for dilation in (2, 4, 1)
        )
        self.change = nn.Conv2d(width, 1, 1)
        self.keep = nn.Parameter(torch.zeros(()))

    def look(self, shallow: Tensor, fine: Tensor) -> Tensor:
        """What is compared, computed once for all masks of an image.

        Args:
            shallow: The encoder's first map ``(B, shallow, h, w)``.
            fine: The neck's map at the same stride ``(B, dim, h, w)``.

        Returns:
            Features ``(B, width, h, w)``.
        """
        return self.features(torch.cat([shallow, fine], dim=1))

    def forward(self, seen: Tensor, prompts: Tensor, answers: Tensor) -> Tensor:
        """Redraw masks.

        Args:
            seen: Features of each prompt's image ``(P, width, h, w)``.
            prompts: Mask prompts, logits ``(P, 1, h, w)``; 0 where there is none.
            answers: The mask decoder's logits ``(P, M, h, w)``.

        Returns:
            Logits ``(P, M, h, w)``.
        """
        count, several = answers.shape[:2]
        seen, prompts = (maps.repeat_interleave(several, 0) for maps in (seen, prompts))
        drafts = answers.flatten(0, 1)[:, None]
        shares = (prompts + drafts).sigmoid()
        told = [prompts / LOGITS, drafts / LOGITS, shares, self.brief(seen)]
        contrasts = [contrast(seen, shares, scale) for scale in SCALES]
        hidden = F.gelu(self.stem(torch.cat([*told, *contrasts], dim=1)))
        for layer in self.layers:
            hidden = hidden + F.gelu(layer(hidden))
        redrawn = drafts + self.change(hidden) + self.keep * prompts
        return redrawn[:, 0].unflatten(0, (count, several))


def contrast(features: Tensor, shares: Tensor, scale: int | None) -> Tensor:
    """How much more like the inside of a mask than like its outside each cell is.

    Args:
        features: ``(P, C, h, w)``.
        shares: How far each cell is in the mask, in [0, 1], ``(P, 1, h, w)``.
        scale: Inside and outside are those within about ``3 * 2**scale`` cells; ``None``: all.

    Returns:
        ``(P, HEADS, h, w)``, each head of its own part of the channels, 0 halfway.
    """

    def around(maps: Tensor) -> Tensor:
        if scale is None:
            return maps.mean((-2, -1), keepdim=True)
        coarse = F.avg_pool2d(maps, 2**scale, ceil_mode=True)
        return F.avg_pool2d(coarse, 3, 1, 1, count_include_pad=False)

    def heads(maps: Tensor) -> Tensor:
        return maps.unflatten(1, (HEADS, -1)).sum(2)

    mean, covered, weight = around(features), around(features * shares), around(shares)
    inside = (covered + LEAST * mean) / (weight + LEAST)
    outside = (mean - covered + LEAST * mean) / (1 - weight + LEAST)
    toward, halfway = inside - outside, (inside + outside) / 2
    offset = heads(toward * halfway)
    if scale is not None:
        toward, offset = (
            F.interpolate(maps, size_of(features), mode="bilinear", align_corners=False)
            for maps in (toward, offset)
        )
    return (heads(features * toward) - offset) * (HEADS / features.shape[1]) ** 0.5


HEADS = 8
SCALES = (1, 3, None)
LOGITS = 8.0  # brings logits to the size of the other inputs
LEAST = 1e-2  # a side that is not there has the mean of the other, and so no contrast
