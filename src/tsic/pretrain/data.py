"""Batches of prompted images, each a pure function of seed and position (Lightning)."""

from collections.abc import Mapping, Sequence
from typing import TypedDict

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from tsic.data.loader import Loader, StepData
from tsic.data.sampling import position_seed
from tsic.errors import DataError
from tsic.pretrain.prompts import PromptedSample, prompted_sample
from tsic.pretrain.sources import Source


class PromptedBatch(TypedDict):
    """Samples of ``tsic.pretrain.prompts.PromptedSample``, stacked.

    Args:
        images: RGB uint8 ``(B, 3, H, W)``.
        targets: bool ``(B, N, H, W)``.
        masks: float32 ``(B, N, H/4, W/4)``.
        has_mask: bool ``(B, N)``.
        points: float32 ``(B, N, 2, 2)``.
        point_labels: int64 ``(B, N, 2)``.
    """

    images: Tensor
    targets: Tensor
    masks: Tensor
    has_mask: Tensor
    points: Tensor
    point_labels: Tensor


class PromptedImages(Dataset[PromptedSample | DataError]):
    """Prompted images addressed by ``(position, index)``; the position alone decides everything.

    Args:
        sources: Sources and their shares.
        seed: The training's seed.
        purpose: ``train`` or ``val``: what is drawn for the one is never drawn for the other.
        sizes: Heights and widths, of which each batch has one.
        per_step: Images per step of all ranks, which the size changes with.
        prompts: Masks asked for in each image.
    """

    def __init__(
        self,
        sources: Sequence[tuple[Source, float]],
        seed: int,
        purpose: str,
        *,
        sizes: Sequence[tuple[int, int]],
        per_step: int,
        prompts: int,
    ) -> None:
        self.sources = [source for source, _ in sources]
        shares = np.array([share for _, share in sources])
        self.shares = shares / shares.sum()
        self.seed = seed
        self.purpose = purpose
        self.sizes = sizes
        self.per_step = per_step
        self.prompts = prompts

    def __getitem__(self, key: tuple[int, int]) -> PromptedSample | DataError:
        position = key[0]
        step_seed = position_seed(self.seed, position // self.per_step, "size")
        size = self.sizes[step_seed % len(self.sizes)]
        rng = np.random.default_rng(position_seed(self.seed, position, f"pretrain {self.purpose}"))
        source = self.sources[int(rng.choice(len(self.sources), p=self.shares))]
        try:
            return prompted_sample(rng, source(rng, *size), self.prompts)
        except DataError as error:
            return error


def collate(samples: list[PromptedSample | DataError]) -> PromptedBatch | DataError:
    """Stack samples, or hand on the first error among them."""
    good = []
    for sample in samples:
        if isinstance(sample, DataError):
            return sample
        good.append(sample)
    return {
        "images": torch.stack([one.image for one in good]),
        "targets": torch.stack([one.targets for one in good]),
        "masks": torch.stack([one.masks for one in good]),
        "has_mask": torch.stack([one.has_mask for one in good]),
        "points": torch.stack([one.points for one in good]),
        "point_labels": torch.stack([one.point_labels for one in good]),
    }


class PretrainData(StepData):
    """Endless training batches and a fixed set of held-out ones from each source.

    Args:
        train: Images to train on.
        val: Held-out images by the name of their source.
        batch_size: Images per micro-batch on one device.
        val_images: Held-out images per source.
        workers: Processes that draw and read.
        accumulate: Micro-batches per optimiser step.
    """

    def __init__(
        self,
        train: PromptedImages,
        val: Mapping[str, PromptedImages],
        *,
        batch_size: int,
        val_images: int,
        workers: int,
        accumulate: int,
    ) -> None:
        super().__init__(
            batch_size=batch_size, seed=train.seed, workers=workers, accumulate=accumulate
        )
        self.train = train
        self.val = val
        self.val_images = val_images

    def train_dataloader(self) -> Loader:
        """Load endless training batches, from the micro-batch after the trainer's last step."""
        batches = self.batches(1, self.batch_size, self.seed)
        return self.loader(self.train, collate, batch_sampler=batches)

    def val_dataloader(self) -> list[Loader]:
        """Load this rank's share of each source's held-out images, in the order of ``val``."""
        rank, world_size = self.place
        keys = [(i, 0) for i in range(rank, self.val_images, world_size)]
        return [
            self.loader(images, collate, sampler=keys, batch_size=self.batch_size)
            for images in self.val.values()
        ]
