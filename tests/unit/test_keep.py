"""What a stopped training forgets: nothing that was decided before."""

import logging
import warnings
from pathlib import Path

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from typing_extensions import override

from tsic.keep import KeepBest, KeepLast

SCORES = {2: 50.0, 4: 60.0, 6: 55.0}


class Scored(LightningModule):
    """Trains one weight; its score at a step stands above."""

    def __init__(self, stops_at: int | None, stops_in_validation: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.stops_at = stops_at
        self.stops_in_validation = stops_in_validation
        self.validated: list[int] = []

    @override
    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        if self.global_step == self.stops_at and not self.stops_in_validation:
            raise InterruptedError
        return (self.weight * batch[0]).sum()

    @override
    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        if self.global_step == self.stops_at and self.stops_in_validation:
            raise InterruptedError
        self.validated.append(self.global_step)
        self.log("score", SCORES[self.global_step])

    @override
    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def run(
    folder: Path, *, stops_at: int | None = None, in_validation: bool = False, every: int = 2
) -> Scored:
    """Six steps, a validation after every second."""
    module = Scored(stops_at, in_validation)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    last = folder / "last.ckpt"
    trainer = Trainer(
        accelerator="cpu",
        max_steps=6,
        max_epochs=-1,
        val_check_interval=2,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[
            KeepBest(folder / "best.ckpt", "score"),
            KeepLast(last, every=every, val_every=2, max_steps=6),
        ],
    )
    numbers = DataLoader(TensorDataset(torch.ones(100)))
    images = DataLoader(TensorDataset(torch.ones(1)))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore")
        went_on = last if last.is_file() else None
        trainer.fit(module, numbers, images, ckpt_path=went_on, weights_only=False)
    return module


def step_of(path: Path) -> int:
    return int(torch.load(path, weights_only=False)["global_step"])


def test_the_best_of_an_uninterrupted_training_is_kept(tmp_path: Path) -> None:
    assert run(tmp_path).validated == [2, 4, 6]
    assert step_of(tmp_path / "best.ckpt") == 4
    assert step_of(tmp_path / "last.ckpt") == 6


@pytest.mark.parametrize("every", [1, 2])
@pytest.mark.parametrize(
    ("stops_at", "in_validation", "again"),
    [(5, False, [6]), (4, False, [6]), (4, True, [4, 6]), (6, True, [6]), (3, False, [4, 6])],
)
def test_a_stopped_training_keeps_the_same_best(
    every: int, stops_at: int, in_validation: bool, again: list[int], tmp_path: Path
) -> None:
    with pytest.raises(InterruptedError):
        run(tmp_path, stops_at=stops_at, in_validation=in_validation, every=every)
    assert run(tmp_path, every=every).validated == again
    assert step_of(tmp_path / "best.ckpt") == 4
    assert step_of(tmp_path / "last.ckpt") == 6


def test_a_training_goes_on_where_its_folder_was_moved(tmp_path: Path) -> None:
    with pytest.raises(InterruptedError):
        run(tmp_path / "here", stops_at=5)
    (tmp_path / "here").rename(tmp_path / "there")
    run(tmp_path / "there")
    assert step_of(tmp_path / "there" / "best.ckpt") == 4
    assert not (tmp_path / "here").exists()
