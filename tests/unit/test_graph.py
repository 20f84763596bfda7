"""A step that can be recorded, and what replays it. No GPU: a stand-in computes at each replay."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from typing_extensions import override

from tsic.config import OptimConfig
from tsic.cycle import Cycle, CycleOutput
from tsic.distilled import Distilled, Offline, Peer
from tsic.errors import ConfigError
from tsic.options import RIVALS, Objective
from tsic.rivals import Sizes, rival_class
from tsic.student import Student, build_student
from tsic.teacher import build_hint_encoder, build_teacher
from tsic.training.graph import EAGER_STEPS, Answer, StepGraph
from tsic.training.module import CycleModule

CLASSES = 3
TEACHERS = ("embedded", "tiny-sam", "tiny-sam2", "tiny-edgetam", "tiny-mobile-sam")
HINTS = Objective(feature_loss="hint", class_balance=0.5)


class Waits(TorchDispatchMode):
    """Collects the operations for which a GPU and its CPU would wait for one another."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    @override
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        tensors = [one for one in tree_leaves((args, kwargs, result)) if isinstance(one, Tensor)]
        reads = "local_scalar" in func.__name__ or "nonzero" in func.__name__
        if reads or len({one.device for one in tensors}) > 1:
            self.found.append(func.__name__)
        return result


def small_student() -> Student:
    """Each kind of block is there; the default has twelve of them."""
    options = {"width": 0.25, "dilations": [1, 2]}
    return build_student("compact", num_classes=CLASSES, options=options)


@contextmanager
def device_without_memory() -> Iterator[None]:
    """That device, on which steps are rehearsed, knows no autocast.

    Tensors made there of numbers wait, too, but tell no dispatcher.
    """

    def refuse(make: Any) -> Any:
        def made(*args: Any, **kwargs: Any) -> Tensor:
            result: Tensor = make(*args, **kwargs)
            assert result.device.type == "cpu", "copied from the CPU"
            return result

        return made

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "autocast", lambda *args, **kwargs: nullcontext())
        for owner, name in ((torch, "tensor"), (torch, "as_tensor"), (Tensor, "new_tensor")):
            patch.setattr(owner, name, refuse(getattr(owner, name)))
        yield


def waits_of(cycle: Cycle) -> list[str]:
    """What a second step, forward and backward, would wait for on a device of its own."""
    cycle = cycle.to("meta")
    images = torch.rand(2, 3, 64, 96, device="meta")
    labels = torch.zeros(2, 64, 96, dtype=torch.int64, device="meta")
    waits = Waits()
    with device_without_memory():
        cycle(images, labels, teaching=torch.ones((), device="meta"))  # makes constants
        with waits:
            cycle(images, labels, teaching=torch.ones((), device="meta")).total.backward()
    return waits.found


@pytest.mark.parametrize(
    ("name", "ema"), [*((name, None) for name in TEACHERS), ("tiny-mobile-sam", 0.9)]
)
def test_a_step_of_the_cycle_waits_for_nothing(name: str, ema: float | None) -> None:
    student = small_student()
    teacher = build_teacher(name, num_classes=CLASSES, rounds=2)
    cycle = Cycle(student, teacher, HINTS, torch.ones(CLASSES), ema)
    assert cycle.is_static
    assert waits_of(cycle) == []


def test_a_step_with_hints_alone_waits_for_nothing() -> None:
    student = small_student()
    encoder = build_hint_encoder("tiny-mobile-sam")
    assert waits_of(Cycle(student, None, HINTS, torch.ones(CLASSES), encoder=encoder)) == []


def test_a_step_whose_images_exchange_boxes_waits_for_nothing() -> None:
    student = small_student()
    assert waits_of(Cycle(student, None, cutmix=1.0)) == []


def distilled(method: str) -> Distilled:
    student = small_student()
    other = small_student()
    kind = rival_class(method)
    channels = student.feature_channels[-1]
    teacher = Peer(other) if kind.teacher == "peer" else Offline(other)
    return Distilled(student, teacher, kind(Sizes(CLASSES, channels, channels)))


@pytest.mark.parametrize("method", RIVALS)
def test_steps_of_methods_wait_for_nothing(method: str) -> None:
    assert waits_of(distilled(method)) == []


def test_what_counts_pixels_is_never_recorded() -> None:
    student = small_student()
    assert Cycle(student, None).is_static
    assert not Cycle(student, None, Objective(ohem=True)).is_static


class Replays:
    """Stands for a CUDA graph: writes what its step computes from its inputs at each replay."""

    recordings = 0
    now: "Replays"

    def __init__(self) -> None:
        Replays.now = self
        self.step: StepGraph | None = None
        self.kind: Any = None

    def replay(self) -> None:
        assert self.step is not None
        assert self.step._answer is not None
        for old, new in zip(
            _tensors(self.step._answer),
            _tensors(self.step._run(self.step._given, self.kind[0])),
            strict=True,
        ):
            old.copy_(new)


def _tensors(answer: Answer) -> list[Tensor]:
    return [one.detach() for one in tree_leaves(tuple(answer)) if isinstance(one, Tensor)]


@pytest.fixture
def _on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Record on a CPU: running the step stands for recording it, its buffers put back."""
    run = StepGraph._run

    @contextmanager
    def record(graph: Replays, **options: Any) -> Iterator[None]:
        Replays.recordings += 1
        yield

    def kept(self: StepGraph, *args: Any) -> Answer:
        if self._graph is None or self._answer is not None:
            return run(self, *args)
        Replays.now.step, Replays.now.kind = self, self._kind
        before = {name: buffer.clone() for name, buffer in self.cycle.named_buffers()}
        state = torch.get_rng_state()
        answer = run(self, *args)
        for name, buffer in self.cycle.named_buffers():
            buffer.copy_(before[name])
        torch.set_rng_state(state)
        return answer

    Replays.recordings = 0
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Replays)
    monkeypatch.setattr(torch.cuda, "graph", record)
    monkeypatch.setattr(StepGraph, "_run", kept)


def _batch(seed: int, count: int = 2) -> tuple[Tensor, Tensor]:
    dice = torch.Generator().manual_seed(seed)
    images = torch.rand(count, 3, 64, 64, generator=dice)
    return images, torch.randint(CLASSES, (count, 64, 64), generator=dice)


@pytest.mark.usefixtures("_on_cpu")
def test_a_replayed_step_is_that_of_its_own_batch(tiny_cycle: Cycle) -> None:
    """Gradients are those of a plain backward pass: of these images, this share of teaching."""
    step = StepGraph(tiny_cycle, None)
    for number in range(EAGER_STEPS + 3):
        images, labels = _batch(number)
        teaching = 1 / (number + 1)
        found = step(images, labels, with_teacher=True, teaching=teaching)
        assert Replays.recordings == int(number >= EAGER_STEPS)
        gradients = [None if one is None else one.clone() for one in found.gradients]
        tiny_cycle.zero_grad()
        out = tiny_cycle(images, labels, teaching=teaching)
        out.total.backward()
        torch.testing.assert_close(found.total, out.total)
        torch.testing.assert_close(found.losses, {k: v.detach() for k, v in out.losses.items()})
        assert any(one is not None for one in gradients)
        for parameter, gradient in zip(step.parameters, gradients, strict=True):
            if parameter.grad is None or gradient is None:
                assert parameter.grad is gradient
            else:
                torch.testing.assert_close(gradient, parameter.grad)
                assert gradient.stride() == parameter.stride()


def test_gradients_are_those_of_a_backward_pass_outside_of_autocast() -> None:
    """Lightning runs the step in autocast, and the backward pass not."""
    cycle = distilled("skd")
    images, labels = torch.rand(2, 3, 64, 64), torch.randint(CLASSES, (2, 64, 64))
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
        total = cycle(images, labels).total
    total.backward()
    with torch.autocast("cpu", torch.bfloat16):
        step = StepGraph(cycle, torch.bfloat16)
        found = step(images, labels, with_teacher=True, teaching=1.0)
    for parameter, gradient in zip(step.parameters, found.gradients, strict=True):
        assert gradient is not None
        assert parameter.grad is not None
        torch.testing.assert_close(gradient, parameter.grad, rtol=0, atol=0)


def test_parameters_that_are_added_have_gradients_of_their_own() -> None:
    """Clipping scales each in place: one held by two would be scaled twice."""

    class Sum(nn.Module):
        is_static = True

        def __init__(self) -> None:
            super().__init__()
            self.one, self.other = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))

        def forward(self, images: Tensor, **_: Any) -> CycleOutput:
            loss = ((self.one + self.other) * images).sum()
            return CycleOutput({"loss": loss}, None, None)  # type: ignore[arg-type]

    found = StepGraph(Sum(), None)(  # type: ignore[arg-type]
        torch.arange(3.0), torch.zeros(1), with_teacher=True, teaching=1.0
    )
    one, other = found.gradients
    assert one is not None
    assert other is not None
    assert torch.equal(one, torch.arange(3.0))
    assert torch.equal(other, one)
    assert one.data_ptr() != other.data_ptr()


@pytest.mark.usefixtures("_on_cpu")
def test_a_step_that_cannot_be_recorded_says_so(
    tiny_cycle: Cycle, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = StepGraph(tiny_cycle, None)
    for _ in range(EAGER_STEPS):
        step(*_batch(0), with_teacher=True, teaching=1.0)

    @contextmanager
    def fails(*_: Any, **__: Any) -> Iterator[None]:
        try:
            yield
        finally:
            raise RuntimeError("invalidated")

    def broken(*_: Any) -> Answer:
        raise error

    monkeypatch.setattr(torch.cuda, "graph", fails)
    monkeypatch.setattr(StepGraph, "_run", broken)
    error: RuntimeError = RuntimeError("it waits\nfor the CPU")
    with pytest.raises(ConfigError, match=r"recorded as a CUDA graph \(it waits\); set"):
        step(*_batch(0), with_teacher=True, teaching=1.0)
    step._graph = None
    error = torch.OutOfMemoryError("no memory")
    with pytest.raises(torch.OutOfMemoryError):
        step(*_batch(0), with_teacher=True, teaching=1.0)


@pytest.mark.usefixtures("_on_cpu")
def test_what_is_forgotten_is_recorded_anew(tiny_cycle: Cycle) -> None:
    step = StepGraph(tiny_cycle, None)
    for count in (1, 2):
        for _ in range(EAGER_STEPS + 1):
            step(*_batch(0), with_teacher=True, teaching=1.0)
        assert Replays.recordings == count
        step.forget()


@pytest.mark.usefixtures("_on_cpu")
def test_a_replayed_step_takes_the_hints_of_its_own_batch() -> None:
    torch.manual_seed(0)
    student = small_student()
    encoder = build_hint_encoder("tiny-sam")
    cycle = Cycle(student, None, HINTS, encoder=encoder)
    graph = StepGraph(cycle, None)
    images, labels = _batch(0)
    seen = [torch.randn(len(images), encoder.foundation.dim, 3, 4) for _ in range(EAGER_STEPS + 2)]
    for hints in seen:
        student_before = copy.deepcopy(cycle)
        found = graph(images, labels, with_teacher=True, teaching=1.0, hints=hints).total.clone()
        expected = student_before(images, labels, hints=hints).total
        torch.testing.assert_close(found, expected.detach())
        assert not torch.isclose(found, student_before(images, labels).total)
    assert Replays.recordings == 1


@pytest.mark.usefixtures("_on_cpu")
def test_another_kind_of_step_is_recorded_anew(tiny_cycle: Cycle) -> None:
    """When the teacher joins, and where a batch has another size."""
    step = StepGraph(tiny_cycle, None)
    for kind, (with_teacher, count) in enumerate(((False, 2), (True, 2), (True, 3))):
        for _ in range(EAGER_STEPS + 2):
            answer = step(*_batch(0, count), with_teacher=with_teacher, teaching=1.0)
        assert Replays.recordings == kind + 1
        assert ("teacher_ce" in answer.losses) == with_teacher


@pytest.mark.usefixtures("_on_cpu")
def test_optimiser_steps_from_a_graph_are_those_without(
    tiny_cycle: Cycle, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Machine:
        precision = "32-true"
        accumulate_grad_batches = 1
        world_size = 1

    def train(*, records: bool) -> list[Tensor]:
        module = CycleModule(
            copy.deepcopy(tiny_cycle),
            OptimConfig(),
            class_names=("a", "b", "c"),
            max_steps=9,
            warmup_steps=0,
            ramp=0.5,
            seed=0,
            records=records,
        )
        module.setup("fit")
        assert (module.graph is not None) == records
        optimizer = torch.optim.SGD(module.parameters(), lr=1e-3)
        for number in range(EAGER_STEPS + 3):
            monkeypatch.setattr(CycleModule, "global_step", number)
            images, labels = _batch(number)
            batch = {"images": images, "labels": labels, "names": ["a", "b"], "hints": None}
            loss = module.training_step(batch, number)  # type: ignore[arg-type]
            optimizer.zero_grad()
            module.backward(loss)
            optimizer.step()
        return [one.detach().clone() for one in module.parameters()]

    monkeypatch.setattr(CycleModule, "trainer", Machine())
    monkeypatch.setattr(CycleModule, "global_rank", 0)
    monkeypatch.setattr(CycleModule, "log_dict", lambda *args, **kwargs: None)
    for mine, other in zip(train(records=True), train(records=False), strict=True):
        torch.testing.assert_close(mine, other)
    assert Replays.recordings == 1


@pytest.mark.gpu
@pytest.mark.parametrize("name", TEACHERS)
def test_a_graph_on_a_gpu_trains_as_steps_without(name: str) -> None:
    student = build_student("compact", num_classes=CLASSES)
    teacher = build_teacher(name, num_classes=CLASSES)
    cycle = Cycle(student, teacher, HINTS, torch.ones(CLASSES)).cuda()
    plain, other = copy.deepcopy(cycle), StepGraph(cycle, None)
    optimizers = [torch.optim.SGD(one.parameters(), lr=1e-3) for one in (cycle, plain)]
    for number in range(EAGER_STEPS + 3):
        images, labels = (one.cuda() for one in _batch(number))
        found = other(images, labels, with_teacher=True, teaching=1.0)
        for parameter, gradient in zip(other.parameters, found.gradients, strict=True):
            parameter.grad = gradient
        out = plain(images, labels)
        optimizers[1].zero_grad()
        out.total.backward()
        torch.testing.assert_close(found.total, out.total, rtol=1e-3, atol=1e-3)
        for optimizer in optimizers:
            optimizer.step()
    assert other._graph is not None


@pytest.mark.gpu
def test_a_replay_on_a_gpu_draws_boxes_of_its_own() -> None:
    cycle = Cycle(build_student("compact", num_classes=CLASSES), None, cutmix=1.0).cuda()
    plain, step = copy.deepcopy(cycle), StepGraph(cycle, None)
    images, labels = (one.cuda() for one in _batch(0))
    totals = []
    for seed in range(EAGER_STEPS + 4):
        torch.manual_seed(seed)
        found = step(images, labels, with_teacher=False, teaching=1.0).total.clone()
        torch.manual_seed(seed)
        expected = plain(images, labels, with_teacher=False).total.detach()
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
        totals.append(found.item())
    assert len(set(totals[EAGER_STEPS:])) > 1
