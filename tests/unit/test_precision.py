"""Which precision a machine trains in."""

import itertools
from contextlib import nullcontext
from typing import Literal

import pytest
import torch

from tsic.config import Precision, TrainerConfig
from tsic.errors import ConfigError
from tsic.training.precision import resolve_precision


@pytest.mark.parametrize(("computes_bf16", "found"), [(True, "bf16-mixed"), (False, "16-mixed")])
def test_a_gpu_that_only_emulates_bf16_trains_in_fp16(
    computes_bf16: bool, found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def supported(including_emulation: bool = True) -> bool:
        return including_emulation or computes_bf16

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    assert resolve_precision(TrainerConfig()) == found
    assert resolve_precision(TrainerConfig("32-true")) == "32-true"


@pytest.mark.parametrize(("float32", "found"), [(1.5, "bf16-mixed"), (1.1, "32-true")])
def test_other_programs_that_interrupt_some_steps_do_not_decide(
    float32: float, found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = [float32, 1.0] * 30
    taken[0] = taken[4] = taken[7] = taken[9] = taken[11] = 9.0
    ticks = itertools.chain.from_iterable((0.0, seconds) for seconds in taken)
    monkeypatch.setattr("tsic.training.precision.time.perf_counter", lambda: next(ticks))
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # slow where emulated
    threads = torch.get_num_threads()
    assert resolve_precision(TrainerConfig(accelerator="cpu")) == found
    assert torch.get_num_threads() == threads


def test_what_a_cpu_only_emulates_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    monkeypatch.setattr("tsic.training.precision._times_as_fast", pytest.fail)
    assert resolve_precision(TrainerConfig(accelerator="cpu")) == "32-true"


@pytest.mark.parametrize(
    ("has_gpu", "accelerator", "precision", "told"),
    [
        (False, "auto", "32-true", "needs an NVIDIA GPU"),
        (True, "cpu", "32-true", "needs an NVIDIA GPU"),
        (True, "auto", "16-mixed", "scaled outside of the graph"),
        (True, "auto", "auto", "scaled outside of the graph"),  # what it finds on an older GPU
    ],
)
def test_graphs_are_refused_where_they_cannot_be(
    has_gpu: bool,
    accelerator: Literal["auto", "cpu"],
    precision: Precision,
    told: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    with pytest.raises(ConfigError, match=f"trainer.graph.* {told}"):
        resolve_precision(TrainerConfig(precision, accelerator, graph=True))


def test_graphs_leave_the_precision_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert resolve_precision(TrainerConfig("bf16-mixed", graph=True)) == "bf16-mixed"


@pytest.mark.parametrize(("has_gpu", "accelerator"), [(False, "auto"), (True, "cpu")])
def test_compiling_needs_a_gpu(
    has_gpu: bool, accelerator: Literal["auto", "cpu"], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    with pytest.raises(ConfigError, match=r"trainer\.compile needs an NVIDIA GPU"):
        resolve_precision(TrainerConfig("32-true", accelerator, compile=True))


def test_more_devices_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ConfigError, match=r"trainer\.devices must be at most the 1 GPUs .* got 2"):
        resolve_precision(TrainerConfig("32-true", devices=2))
    assert resolve_precision(TrainerConfig("32-true", "cpu", devices=2)) == "32-true"
