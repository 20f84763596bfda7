"""What a stopped training forgets: nothing that was decided before."""

import errno
import logging
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from typing_extensions import override

from tsic.errors import CheckpointError
from tsic.training.callbacks import ValidateLast
from tsic.training.keep import KeepBest, KeepLast, WholeCheckpoints, read_checkpoint
from tsic.training.stopping import StopBetweenSteps, heed_late_signal, run_trainer

SCORES = {2: 50.0, 4: 60.0, 5: 65.0, 6: 55.0}


class Scored(LightningModule):
    """Trains one weight; its score at a step stands above."""

    def __init__(
        self,
        stops_at: int | None,
        stops_in_validation: bool,
        number: signal.Signals | None,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.stops_at = stops_at
        self.stops_in_validation = stops_in_validation
        self.number = number
        self.validated: list[int] = []

    @override
    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        if self.global_step == self.stops_at and not self.stops_in_validation:
            self._stop()
        return (self.weight * batch).sum()

    @override
    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        if self.global_step == self.stops_at and self.stops_in_validation:
            self._stop()
        self.validated.append(self.global_step)
        self.log("score", SCORES[self.global_step])

    def _stop(self) -> None:
        if self.number is None:
            raise InterruptedError
        signal.raise_signal(self.number)
        self.stops_at = None  # one signal; the second would stop at once

    @override
    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Numbers(Dataset[Tensor]):
    """Ones; reading one of them may take until a signal comes."""

    def __init__(self, count: int, stops_at: int | None = None) -> None:
        self.count = count
        self.stops_at = stops_at

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Tensor:
        if index == self.stops_at:
            signal.raise_signal(signal.SIGINT)
        return torch.ones(1)


class Ones(LightningDataModule):
    def __init__(self, stops_at: int | None) -> None:
        super().__init__()
        self.stops_at = stops_at

    @override
    def train_dataloader(self) -> DataLoader[Tensor]:
        return DataLoader(Numbers(100, self.stops_at))

    @override
    def val_dataloader(self) -> DataLoader[Tensor]:
        return DataLoader(Numbers(1))


def run(
    folder: Path,
    *,
    stops_at: int | None = None,
    in_validation: bool = False,
    every: int = 2,
    number: signal.Signals | None = None,
    accumulate: int = 1,
    reads_until: int | None = None,
    max_steps: int = 6,
) -> Scored:
    """Steps, a validation after every second and the last; an error or a signal ends them."""
    module = Scored(stops_at, in_validation, number)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    last = folder / "last.ckpt"
    stop = StopBetweenSteps()
    trainer = Trainer(
        accelerator="cpu",
        max_steps=max_steps,
        max_epochs=-1,
        accumulate_grad_batches=accumulate,
        val_check_interval=2 * accumulate,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[
            stop,
            ValidateLast(max_steps),
            KeepBest(folder / "best.ckpt", "score"),
            KeepLast(last, stop, every=every, val_every=2, max_steps=max_steps),
        ],
    )
    run_trainer(trainer, module, Ones(reads_until), last if last.is_file() else None)
    heed_late_signal(trainer)
    return module


def step_of(path: Path) -> int:
    return int(torch.load(path, weights_only=False)["global_step"])


def test_a_checkpoint_that_finds_no_room_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    last, keeper = tmp_path / "new" / "last.ckpt", WholeCheckpoints()
    keeper.save_checkpoint({"global_step": 2}, last)
    last.with_name("last.ckpt.0123abcd.part").write_text("of a process that was killed")
    keeper.save_checkpoint({"global_step": 3}, last)

    def run_out(number: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", run_out)
    with pytest.raises(OSError, match="No space") as caught:
        keeper.save_checkpoint({"global_step": 4}, last)
    assert caught.value.filename == str(last)
    assert step_of(last) == 3
    assert list(last.parent.iterdir()) == [last]


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


def test_a_last_step_of_its_own_is_written_once_it_is_scored(tmp_path: Path) -> None:
    """Else a training that is stopped while it is would go on without its score."""
    with pytest.raises(InterruptedError):
        run(tmp_path, stops_at=5, in_validation=True, every=1, max_steps=5)
    assert step_of(tmp_path / "last.ckpt") == 4
    assert run(tmp_path, every=1, max_steps=5).validated == [5]
    assert step_of(tmp_path / "best.ckpt") == 5


@pytest.fixture
def heeds_ctrl_c() -> Iterator[None]:
    """Tests in a shell's background ignore Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heeds_ctrl_c")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_signal_stops_after_its_step_and_loses_nothing(
    number: signal.Signals, accumulate: int, tmp_path: Path
) -> None:
    handlers = [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(KeyboardInterrupt) as stop:
        run(tmp_path, stops_at=2, every=100, number=number, accumulate=accumulate)
    assert stop.value.args == (number,)
    assert [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert step_of(tmp_path / "last.ckpt") == 3
    assert run(tmp_path, every=6, accumulate=accumulate).validated == [4, 6]
    held = torch.load(tmp_path / "last.ckpt", weights_only=False)
    assert held["global_step"] == 6
    assert held["state_dict"]["weight"].item() == pytest.approx(-0.6)


@pytest.mark.usefixtures("heeds_ctrl_c")
@pytest.mark.parametrize(
    ("accumulate", "item", "stopped_at"),
    [(1, 2, 2), (1, 3, 3), (1, 4, 4), (2, 4, 2), (2, 5, 3), (2, 6, 3), (2, 8, 4)],
)
def test_a_signal_while_data_is_read_loses_nothing(
    accumulate: int, item: int, stopped_at: int, tmp_path: Path
) -> None:
    """The run goes on as if it had not stopped, and can be stopped again."""
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, every=100, accumulate=accumulate, reads_until=item)
    assert step_of(tmp_path / "last.ckpt") == stopped_at
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, every=100, accumulate=accumulate, stops_at=4, number=signal.SIGTERM)
    assert step_of(tmp_path / "last.ckpt") == 5
    assert run(tmp_path, every=6, accumulate=accumulate).validated == [6]
    held = torch.load(tmp_path / "last.ckpt", weights_only=False)
    assert held["state_dict"]["weight"].item() == pytest.approx(-0.6)
    counted = held["loops"]["fit_loop"]["epoch_loop.batch_progress"]["total"]
    assert set(counted.values()) == {6 * accumulate}


@pytest.mark.usefixtures("heeds_ctrl_c")
def test_a_stop_that_nobody_reads_of_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where ``tee`` has had the same Ctrl-C."""
    reading, writing = os.pipe()
    os.close(reading)
    monkeypatch.setattr("tsic.training.stopping._STDERR", writing)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, stops_at=2, every=100, number=signal.SIGINT)
    os.close(writing)
    assert step_of(tmp_path / "last.ckpt") == 3


@pytest.mark.usefixtures("heeds_ctrl_c")
def test_a_signal_in_the_last_step_is_heeded(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, stops_at=5, number=signal.SIGINT)


@pytest.mark.usefixtures("heeds_ctrl_c")
@pytest.mark.parametrize(("stops_at", "in_validation"), [(4, True), (3, False)])
def test_a_signal_waits_for_no_validation(
    stops_at: int, in_validation: bool, tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(
            tmp_path,
            stops_at=stops_at,
            in_validation=in_validation,
            every=1,
            number=signal.SIGINT,
        )
    assert step_of(tmp_path / "last.ckpt") == 3
    assert run(tmp_path, every=1).validated == [4, 6]


def test_a_training_goes_on_where_its_folder_was_moved(tmp_path: Path) -> None:
    with pytest.raises(InterruptedError):
        run(tmp_path / "here", stops_at=5)
    (tmp_path / "here").rename(tmp_path / "there")
    run(tmp_path / "there")
    assert step_of(tmp_path / "there" / "best.ckpt") == 4
    assert not (tmp_path / "here").exists()


def test_a_best_checkpoint_that_was_deleted_is_told_and_replaced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the best of what follows, though that may score less."""
    best = tmp_path / "best.ckpt"
    with pytest.raises(InterruptedError):
        run(tmp_path, stops_at=5, every=1)
    assert step_of(best) == 4
    best.unlink()
    capsys.readouterr()
    run(tmp_path, every=1)
    told = capsys.readouterr().err
    assert f"warning: '{best}', which held the best weights, is gone: the best step" in told
    assert step_of(best) == 6
    run(tmp_path)
    assert "is gone" not in capsys.readouterr().err


@pytest.mark.parametrize("held", [None, {"global_step": 3}, {"state_dict": {}}, [1]])
def test_a_damaged_checkpoint_is_told_with_a_way_out(tmp_path: Path, held: Any) -> None:
    path = tmp_path / "best.ckpt"
    with pytest.raises(CheckpointError, match=r"best\.ckpt' is damaged \(.*\); train again"):
        read_checkpoint(path, "cpu", "train again")
    if held is None:
        path.write_bytes(b"not a checkpoint")
    else:
        torch.save(held, path)
    with pytest.raises(CheckpointError, match=r"best\.ckpt' is damaged \(.*\); train again"):
        read_checkpoint(path, "cpu", "train again")
