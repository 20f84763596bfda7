"""What a training says of its time."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import Dataset

from tsic.data.batches import Item, collate
from tsic.data.loader import Loader
from tsic.errors import DataError
from tsic.training.cost import Cost

CPU = torch.device("cpu")


class Machine:
    """What a trainer tells."""

    is_global_zero = True

    def __init__(self, loader: Loader) -> None:
        self.train_dataloader = loader


@pytest.mark.parametrize(("slow", "told"), [(40.0, True), (5.0, False)])
def test_a_loader_that_keeps_the_steps_waiting_is_told_of(
    slow: float, told: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Three batches that take so long to come, and 100 seconds of steps with each."""
    clock = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    item = Item(torch.zeros(3, 2, 2), torch.zeros(2, 2), None, "name")

    class Slow(Dataset[Item | DataError]):
        def __len__(self) -> int:
            return 3

        def __getitem__(self, index: int) -> Item:
            clock[0] += slow
            return item

    loader = Loader(Slow(), collate_fn=collate, generator=torch.Generator())
    cost: Any = Cost()
    trainer, module = Machine(loader), nn.Linear(1, 1)
    module.device = CPU  # type: ignore[assignment]
    loader.waited = 900.0  # for the first batch, before the training starts
    cost.on_train_start(trainer, module)
    for _ in loader:
        clock[0] += 100
        cost.on_train_batch_end(trainer, module)
    cost.on_train_end(trainer, module)
    assert cost.waiting_seconds == pytest.approx(3 * slow)
    assert cost.seconds == pytest.approx(3 * (slow + 100))
    later = Cost()
    later.load_state_dict(cost.state_dict())
    assert later.waiting_seconds == cost.waiting_seconds
    warning = "29% of the training's time went into waiting for images; raise data.workers"
    assert (warning in capsys.readouterr().err) == told


def test_seconds_are_those_of_steps_alone_and_add_up_over_parts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    trainer: Any = SimpleNamespace(train_dataloader=None, is_global_zero=True)
    module: Any = SimpleNamespace(device=CPU)
    first, second = Cost(), Cost()

    def after(seconds: float, happens: Callable[..., object]) -> None:
        clock[0] += seconds
        happens(trainer, module)

    first.on_train_start(trainer, module)
    after(5, first.on_validation_start)
    after(70, first.on_train_batch_start)
    clock[0] += 3
    second.load_state_dict(first.state_dict())  # it is killed, and goes on much later
    after(900, second.on_train_start)
    after(4, second.on_train_end)
    assert second.seconds == 5 + 3 + 4
