import dataclasses
import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from tsic.config import OptimConfig
from tsic.cycle import Cycle
from tsic.options import Objective
from tsic.student import build_student
from tsic.teacher import build_teacher
from tsic.training.optim import adamw, build_optimizer

CONFIG = OptimConfig(lr=1e-3, teacher_lr=1e-4, lora_lr=1e-5, weight_decay=0.02)


def groups_of(cycle: Cycle, optimizer: Optimizer) -> dict[str, list[str]]:
    """Names of the groups that each parameter is in."""
    found: dict[str, list[str]] = {name: [] for name, _ in cycle.named_parameters()}
    names = {id(p): name for name, p in cycle.named_parameters()}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            found[names[id(parameter)]].append(group["name"])
    return found


def test_build_optimizer_puts_what_trains_in_one_group_and_what_is_frozen_in_none(
    tiny_cycle: Cycle,
) -> None:
    optimizer, _ = build_optimizer(tiny_cycle, CONFIG, 10)
    found = groups_of(tiny_cycle, optimizer)
    trains = {name: p.requires_grad for name, p in tiny_cycle.named_parameters()}
    assert not all(trains.values())
    assert {name: len(groups) for name, groups in found.items()} == trains
    parts = {
        name: "lora"
        if name.endswith((".down", ".up_q", ".up_v"))
        else "student"
        if name.startswith("student.")
        else "projections"
        if name.startswith("hint.")
        else "decoders"
        for name, is_on in trains.items()
        if is_on
    }
    assert {name: groups[0].split("/")[0] for name, groups in found.items() if groups} == parts


@pytest.mark.parametrize("name", ["tiny-sam", "tiny-sam2"])
def test_build_optimizer_decays_convolutions_and_projections_only(name: str) -> None:
    student = build_student("compact", num_classes=3, options={"width": 0.25})
    teacher = build_teacher(name, num_classes=3, channels=16, trains_encoder=True)
    cycle = Cycle(student, teacher)
    optimizer, _ = build_optimizer(cycle, CONFIG, 10)
    weighing = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
    decaying = {
        f"{prefix}.weight"
        for prefix, module in cycle.named_modules()
        if isinstance(module, weighing)
    }
    decaying |= {n for n, _ in cycle.named_parameters() if n.endswith((".down", ".up_q", ".up_v"))}
    wrong = {
        name: groups[0]
        for name, groups in groups_of(cycle, optimizer).items()
        # Relative positions are tables that scale inputs: either is right for them.
        if groups and "rel_pos" not in name and (name in decaying) != groups[0].endswith("/decay")
    }
    assert sorted(wrong) == []
    assert {g["weight_decay"] for g in optimizer.param_groups if g["name"].endswith("decay")} == {
        0.02
    }
    assert {g["weight_decay"] for g in optimizer.param_groups if g["name"].endswith("plain")} == {0}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, (1e-3, 1e-5, 1e-4)),
        ({"lora_lr": None}, (1e-3, 1e-4, 1e-4)),
        ({"lora_lr": None, "teacher_lr": None}, (1e-3, 1e-3, 1e-3)),
    ],
)
def test_build_optimizer_gives_each_part_its_learning_rate(
    tiny_cycle: Cycle, changes: dict[str, Any], expected: tuple[float, float, float]
) -> None:
    config = dataclasses.replace(CONFIG, **changes)
    optimizer, _ = build_optimizer(tiny_cycle, config, 10)
    rates = {g["name"].split("/")[0]: g["initial_lr"] for g in optimizer.param_groups}
    parts = dict(zip(("student", "lora", "decoders"), expected, strict=True))
    assert rates == parts | {"projections": CONFIG.lr}


def test_build_optimizer_trains_projections_as_the_student(tiny_cycle: Cycle) -> None:
    cycle = Cycle(tiny_cycle.student, tiny_cycle.teacher, Objective(feature_loss="hint"))
    optimizer, _ = build_optimizer(cycle, CONFIG, 10)
    found = groups_of(cycle, optimizer)
    assert found["hint.weight"] == ["projections/decay"]
    assert found["hint.bias"] == ["projections/plain"]
    rates = {g["name"]: g["initial_lr"] for g in optimizer.param_groups}
    assert rates["projections/decay"] == rates["student/decay"] == CONFIG.lr


def test_build_optimizer_without_teacher_holds_the_student_only(tiny_cycle: Cycle) -> None:
    optimizer, _ = build_optimizer(Cycle(tiny_cycle.student, None), CONFIG, 10)
    assert [g["name"] for g in optimizer.param_groups] == ["student/decay", "student/plain"]


@pytest.mark.parametrize(
    ("warmup", "expected"),
    [
        (0, {0: 1.0, 10: 0.5**0.9, 19: 0.05**0.9, 20: 0.0}),
        (4, {0: 0.2, 1: 0.4 * 0.95**0.9, 4: 0.8**0.9, 10: 0.5**0.9, 20: 0.0, 25: 0.0}),
    ],
)
def test_build_optimizer_schedule_has_the_values_by_hand(
    warmup: int, expected: dict[int, float]
) -> None:
    student = build_student("compact", num_classes=3, options={"width": 0.25})
    config = OptimConfig(lr=0.5, power=0.9, lr_warmup_steps=warmup)
    optimizer, schedule = build_optimizer(Cycle(student, None), config, 20)
    for parameter in student.parameters():
        parameter.grad = torch.zeros_like(parameter)
    rates = []
    for _ in range(26):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert {step: rates[step] for step in expected} == {
        step: pytest.approx(0.5 * factor) for step, factor in expected.items()
    }


def test_adamw_moves_weights_alike_in_every_memory_format() -> None:
    torch.manual_seed(0)
    start = torch.randn(2, 3, 4, 4)
    formats = torch.contiguous_format, torch.channels_last
    ends = []
    for of_weight, of_rest in itertools.product(formats, formats):
        weight = nn.Parameter(start.clone(memory_format=of_weight))
        optimizer, _ = adamw(
            {"all": (0.1, [("weight", weight)])},
            weight_decay=0.0,
            warmup_steps=0,
            power=1.0,
            max_steps=10,
        )
        for step in range(3):
            state = optimizer.state[weight]
            for name in state.keys() & {"exp_avg", "exp_avg_sq"}:  # as a checkpoint may bring them
                state[name] = state[name].contiguous(memory_format=of_rest)
            gradient = (start * (step - 1)).contiguous(memory_format=of_rest)

            def backward(weight: Tensor = weight, gradient: Tensor = gradient) -> float:
                weight.grad = None
                (weight * gradient).sum().backward()
                return 0.0

            optimizer.step(backward)  # as Lightning steps
        ends.append(weight.detach())
    assert not torch.equal(ends[0], start)
    for end in ends[1:]:
        torch.testing.assert_close(end, ends[0])
