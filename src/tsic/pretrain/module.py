"""Pretraining as a LightningModule: ask, be corrected, ask again."""

from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel
from torchmetrics import Metric
from typing_extensions import override

from tsic.data.sampling import position_seed
from tsic.grid import resize, size_of
from tsic.pretrain.config import PretrainConfig
from tsic.pretrain.data import PromptedBatch
from tsic.pretrain.losses import answer_loss, iou_of
from tsic.pretrain.promptable import Promptable, PromptBatch, corrected
from tsic.pretrain.prompts import POSITIVE
from tsic.teacher.foundation import Embedding
from tsic.training.finite import limit_gradients, require_finite, scale_of
from tsic.training.optim import adamw, moving_average, trainable


class Means(Metric):
    """Means of several scores, summed over ranks.

    Args:
        count: How many ``S``.
    """

    full_state_update = False
    totals: Tensor
    counts: Tensor

    def __init__(self, count: int) -> None:
        super().__init__()
        for name in ("totals", "counts"):
            self.add_state(name, torch.zeros(count, dtype=torch.float64), dist_reduce_fx="sum")

    @override
    def update(self, which: int, values: Tensor) -> None:
        self.totals[which] += values.sum()
        self.counts[which] += values.numel()

    @override
    def compute(self) -> Tensor:
        return (self.totals / self.counts).float()


class PretrainModule(LightningModule):
    """Trains all of a promptable model but its table of positions.

    Args:
        promptable: The model.
        config: What to train, how.
        sources: Names of the validation loaders' sources.
    """

    def __init__(self, promptable: Promptable, config: PretrainConfig, sources: list[str]) -> None:
        super().__init__()
        self.promptable = promptable
        self.config = config
        self.sources = sources
        model = promptable.foundation.model
        promptable.requires_grad_(True)
        promptable.train()  # a model read from a folder comes in evaluation mode
        model.shared_image_embedding.requires_grad_(False)
        model.prompt_encoder.shared_embedding.requires_grad_(False)
        self.averaged: AveragedModel | None = None
        if config.optim.ema is not None:
            self.averaged = moving_average(promptable, config.optim.ema)
        self.means = Means(len(sources) * len(SCORES))

    @property
    def scored(self) -> Promptable:
        """The model that is scored and saved: the moving average if there is one."""
        if self.averaged is None:
            return self.promptable
        averaged = self.averaged.module
        assert isinstance(averaged, Promptable)
        return averaged

    @override
    def training_step(self, batch: PromptedBatch, batch_idx: int) -> Tensor:
        # What is random inside a step depends on seed, step and rank alone.
        accumulate = self.trainer.accumulate_grad_batches
        micro_batch = self.global_step * accumulate + batch_idx % accumulate
        place = micro_batch * self.trainer.world_size + self.global_rank
        generator = torch.Generator().manual_seed(position_seed(self.config.seed, place, "correct"))
        embedding, prompts, targets = self._ask(self.promptable, batch)
        logits, mask, iou = self._round(embedding, prompts, targets)
        named = {"mask_1": mask, "iou_1": iou}
        for number in range(2, self.config.rounds + 1):
            some = torch.arange(0, len(targets), AGAIN, device=self.device)
            targets = targets[some]
            prompts = corrected(prompts[some], logits[some], targets, generator)
            logits, mask, iou = self._round(embedding, prompts, targets)
            named |= {f"mask_{number}": mask, f"iou_{number}": iou}
        total = torch.stack(list(named.values())).sum()
        require_finite(named, total, self.global_step)
        rows = {f"train/{name}": loss.detach() for name, loss in named.items()}
        self.log_dict({**rows, "train/total": total.detach()}, batch_size=len(batch["images"]))
        return total

    def answers(self, batch: PromptedBatch) -> Tensor:
        """Answer a batch's prompts with mask logits ``(B * N, h, w)``."""
        embedding, prompts, _ = self._ask(self.scored, batch)
        return self.scored.answer(embedding, prompts)[0][:, 0]

    @override
    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        parts = {"model": (self.promptable.parameters(), self.config.optim.clip)}
        scale = scale_of(self.trainer.precision_plugin)
        limit_gradients(parts, self.global_step, scale=scale)

    @override
    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        if self.averaged is not None:
            self.averaged.update_parameters(self.promptable)

    def _ask(
        self, model: Promptable, batch: PromptedBatch
    ) -> tuple[Embedding, PromptBatch, Tensor]:
        """Embed the images; prompts and targets as ``B * N`` rows."""
        embedding = model.embed(batch["images"].float() / 255)
        count, each = batch["masks"].shape[:2]
        prompts = PromptBatch(
            torch.arange(count, device=self.device).repeat_interleave(each),
            batch["masks"].flatten(0, 1)[:, None],
            batch["has_mask"].flatten(0, 1),
            batch["points"].flatten(0, 1),
            batch["point_labels"].flatten(0, 1),
        )
        return embedding, prompts, batch["targets"].flatten(0, 1)

    def _round(
        self, embedding: Embedding, prompts: PromptBatch, targets: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One round: answers ``(P, h, w)``, their mask loss and their IoU loss.

        A lone point may mean a thing or its part: such prompts are also answered with several
        masks, of which the best learns (SAM's way to train its ambiguous outputs).
        """
        logits, ious = self.promptable.answer(embedding, prompts)
        mask, iou = answer_loss(logits, ious, targets)
        lone = ~prompts.has_mask & (prompts.point_labels == POSITIVE).any(1)
        if lone.any():
            several = self.promptable.answer(embedding, prompts[lone], multimask=True)
            more = answer_loss(*several, targets[lone])
            share = lone.float().mean()
            mask, iou = mask + share * more[0], iou + share * more[1]
        return logits[:, 0], mask, iou

    @override
    def validation_step(
        self, batch: PromptedBatch, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        model = self.scored
        embedding, prompts, targets = self._ask(model, batch)
        logits, _ = model.answer(embedding, prompts)
        # Where to point the second time is drawn alike in every validation.
        generator = torch.Generator().manual_seed(batch_idx)
        again = corrected(prompts, logits[:, 0], targets, generator)
        second, _ = model.answer(embedding, again)
        counted = targets.flatten(1).any(1)
        by_mask = counted & prompts.has_mask & (prompts.point_labels < 0).all(1)
        by_point = counted & ~prompts.has_mask
        first = dataloader_idx * len(SCORES)
        found = ((prompts.masks, by_mask), (logits, by_mask), (second, by_mask), (logits, by_point))
        for number, (shown, rows) in enumerate(found):
            self.means.update(first + number, iou_on(shown[:, 0], targets)[rows])

    @override
    def on_validation_epoch_end(self) -> None:
        values = 100 * self.means.compute().view(len(self.sources), len(SCORES))
        self.means.reset()
        scores = {f"val/{what}": v for what, v in zip(SCORES, values.nanmean(0), strict=True)}
        for source, row in zip(self.sources, values, strict=True):
            scores |= {f"{source}/{what}": v for what, v in zip(SCORES, row, strict=True)}
        self.log_dict(scores)

    @override
    def configure_optimizers(self) -> Any:
        config = self.config.optim
        optimizer, schedule = adamw(
            {"model": (config.lr, trainable(self.promptable))},
            weight_decay=config.weight_decay,
            warmup_steps=config.lr_warmup_steps,
            power=config.power,
            max_steps=self.config.max_steps,
            fused=self.trainer.precision != "16-mixed",
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


AGAIN = 4
"""One in so many prompts is asked again in the next round."""

SCORES = ("prompt_iou", "answer_iou", "second_iou", "point_iou")
"""Mean IoU with the truth, in percent: of mask prompts, of the answers to them, of the answers
when asked again, and of the answers to points and boxes."""


def iou_on(logits: Tensor, targets: Tensor) -> Tensor:
    """IoU ``(P,)`` of masks ``(P, h, w)``, resized bilinearly, with truth ``(P, H, W)``."""
    return iou_of(resize(logits[:, None], size_of(targets))[:, 0], targets.float())
