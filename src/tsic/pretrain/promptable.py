"""A promptable foundation model asked with masks, points and boxes, more than once if need be."""

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor, nn

from tsic.grid import resize, size_of
from tsic.pretrain.prompts import NEGATIVE, NO_POINT, POINTS, POSITIVE
from tsic.prompt import LOGIT_RANGE
from tsic.teacher.foundation import Embedding, Foundation


@dataclass(frozen=True)
class PromptBatch:
    """What is asked about a batch of images.

    Attributes:
        owners: Image of each prompt, int64 ``(P,)``.
        masks: Mask prompts, logits ``(P, 1, h, w)`` that cover the canvas on four times the grid
            that the mask decoder runs on.
        has_mask: Which prompts have one, bool ``(P,)``.
        points: ``(P, T, 2)``, x then y, in [0, 1] of the canvas.
        point_labels: What each is, int64 ``(P, T)``, as in ``Foundation.embed_points``.
    """

    owners: Tensor
    masks: Tensor
    has_mask: Tensor
    points: Tensor
    point_labels: Tensor

    def __getitem__(self, rows: Tensor) -> "PromptBatch":
        """Some of the prompts, by a mask or their numbers."""
        return PromptBatch(*(getattr(self, item.name)[rows] for item in fields(self)))


class Promptable(nn.Module):
    """Asks a foundation model on images of any size.

    Args:
        foundation: The model.
    """

    def __init__(self, foundation: Foundation) -> None:
        super().__init__()
        self.foundation = foundation

    def embed(self, images: Tensor) -> Embedding:
        """Embed images ``(B, 3, H, W)``, RGB in [0, 1], on their canvas."""
        _, padded = self.foundation.place(images)
        return self.foundation.encode(padded, with_levels=False)

    def answer(
        self, embedding: Embedding, prompts: PromptBatch, *, multimask: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Answer every prompt.

        Args:
            embedding: Of ``B`` images.
            prompts: Any number ``P`` of them.
            multimask: Whether to give several answers, for prompts that may mean several things.

        Returns:
            Mask logits ``(P, M, h, w)`` and the IoU expected of each ``(P, M)``.
        """
        return self.foundation.answer(
            embedding,
            prompts.masks,
            self.foundation.embed_points(prompts.points, prompts.point_labels),
            multimask=multimask,
            owners=prompts.owners,
            has_mask=prompts.has_mask,
        )

    def refine(self, images: Tensor, masks: Tensor, *, rounds: int = 1) -> Tensor:
        """Turn coarse masks into masks that follow the image.

        Args:
            images: RGB in [0, 1], float ``(B, 3, H, W)``, any size.
            masks: Mask logits ``(B, N, h, w)`` that cover the images, on any grid.
            rounds: How often; from the second time on the answer is the prompt.

        Returns:
            Mask logits ``(B, N, ceil(H/4), ceil(W/4))``.
        """
        canvas, padded = self.foundation.place(images)
        embedding = self.foundation.encode(padded, with_levels=False)
        batch, count = masks.shape[:2]
        owners = torch.arange(batch, device=masks.device).repeat_interleave(count)
        blank = torch.full((batch * count, POINTS), NO_POINT, device=masks.device)
        logits = canvas.place(masks.clamp(-LOGIT_RANGE, LOGIT_RANGE), 4, fill=-LOGIT_RANGE)
        for _ in range(rounds):
            prompts = PromptBatch(
                owners,
                logits.flatten(0, 1)[:, None].clamp(-LOGIT_RANGE, LOGIT_RANGE),
                torch.ones(batch * count, dtype=torch.bool, device=masks.device),
                torch.zeros(batch * count, POINTS, 2, device=masks.device),
                blank,
            )
            logits = self.answer(embedding, prompts)[0].unflatten(0, (batch, count))[:, :, 0]
        return canvas.crop(logits)


def corrected(
    prompts: PromptBatch, answers: Tensor, targets: Tensor, generator: torch.Generator
) -> PromptBatch:
    """Prompt again with the answers, half of them with a point where the answer is wrong.

    Args:
        prompts: What was asked.
        answers: Mask logits ``(P, h, w)`` on the grid of mask prompts; no gradient passes.
        targets: True masks, bool ``(P, H, W)``.
        generator: Draws the points, on the CPU.

    Returns:
        Mask prompts with one point each, or none.

    Source:
        Iterative prompting as in SAM (Kirillov et al., arXiv:2304.02643, appendix A): the earlier
        answer's unthresholded logits and a point drawn from the error region.
    """
    logits = answers.detach().float().clamp(-LOGIT_RANGE, LOGIT_RANGE)[:, None]
    size = size_of(targets)
    shown = resize(logits, size)[:, 0] > 0
    wrong = (shown != targets).flatten(1)
    # A draw from the wrong pixels: the largest of random numbers that are zero elsewhere.
    draw = torch.rand(wrong.shape, generator=generator).to(wrong.device) * wrong
    best, pixel = draw.max(1)
    points = torch.zeros_like(prompts.points)
    points[:, 0, 0] = (pixel % size[1] + 0.5) / size[1]
    points[:, 0, 1] = (pixel // size[1] + 0.5) / size[0]
    truth = targets.flatten(1).gather(1, pixel[:, None])[:, 0]
    told = torch.rand(len(wrong), generator=generator).to(wrong.device) < 0.5
    labels = torch.full_like(prompts.point_labels, NO_POINT)
    labels[:, 0] = torch.where(truth, POSITIVE, NEGATIVE)
    labels[:, 0] = torch.where((best > 0) & told, labels[:, 0], NO_POINT)
    assert labels.shape[1] == POINTS
    return replace(
        prompts,
        masks=logits,
        has_mask=torch.ones_like(prompts.has_mask),
        points=points,
        point_labels=labels,
    )
