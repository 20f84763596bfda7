"""What torch.compile may change of a training step: nothing but its speed."""

import copy
from collections.abc import Iterator

import pytest
import torch

from tsic.cycle import Cycle
from tsic.distilled import Distilled, Peer
from tsic.errors import ConfigError
from tsic.options import Objective
from tsic.rivals import Sizes, rival_class
from tsic.student import build_student
from tsic.teacher import build_teacher
from tsic.training.fusion import Fusion
from tsic.training.graph import EAGER_STEPS, StepGraph

CLASSES = 3
SMALL = {"width": 0.25, "dilations": [1, 2]}
"""Each kind of block is there, and is compiled once or twice instead of eight times."""
pytestmark = pytest.mark.filterwarnings("default")  # tracing touches what warns, and swallows it


@pytest.fixture(autouse=True)
def _anew() -> Iterator[None]:
    """Compilers keep what they made for a function; the next test's networks are others."""
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def cycle_of(teacher: str, ema: float | None = None) -> Cycle:
    torch.manual_seed(0)
    student = build_student("compact", num_classes=CLASSES, options=SMALL)
    asked = build_teacher(teacher, num_classes=CLASSES, channels=16)
    return Cycle(student, asked, Objective(feature_weight=1.0), teacher_ema=ema)


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    return torch.rand(2, 3, 64, 96), torch.randint(CLASSES, (2, 64, 96))


def check_step(plain: Cycle, backend: str = "aot_eager") -> None:
    """Compare losses and gradients of one step with those of a compiled twin."""
    twin = copy.deepcopy(plain)
    with Fusion(twin, backend):
        found = twin(*batch())
    found.total.backward()
    expected = plain(*batch())
    expected.total.backward()
    torch.testing.assert_close(found.losses, expected.losses)
    for (name, one), other in zip(twin.named_parameters(), plain.parameters(), strict=True):
        assert (one.grad is None) == (other.grad is None), name
        if one.grad is not None:
            torch.testing.assert_close(one.grad, other.grad, msg=name, rtol=1e-4, atol=1e-5)


def test_a_compiled_step_is_the_same_step() -> None:
    check_step(cycle_of("tiny-sam2", ema=0.9))


def test_a_compiled_step_of_two_students_is_the_same_step() -> None:
    torch.manual_seed(0)
    both = [build_student("compact", num_classes=CLASSES, options=SMALL) for _ in "ab"]
    channels = both[0].feature_channels[-1]
    method = rival_class("mutual")(Sizes(CLASSES, channels, channels))
    check_step(Distilled(both[0], Peer(both[1]), method), "eager")


def test_only_what_runs_within_is_compiled() -> None:
    cycle = cycle_of("tiny-mobile-sam")
    calls: list[int] = []

    def backend(graph: torch.fx.GraphModule, _: object) -> object:
        def run(*inputs: object) -> object:
            calls.append(1)
            return graph(*inputs)

        return run

    with Fusion(cycle, backend=backend):  # type: ignore[arg-type] # a compiler may be a function
        cycle(*batch())
        assert len(calls) == 3, "the student, the mask decoder and the mapping decoder"
    cycle.eval()
    with torch.no_grad():
        cycle(*batch())
    assert len(calls) == 3
    assert not [m for m in cycle.modules() if "forward" in vars(m) or "decode_masks" in vars(m)]


def test_what_cannot_be_compiled_is_told_in_a_sentence() -> None:
    def backend(*_: object) -> object:
        raise RuntimeError("no compiler here\n\nat all")

    cycle = Cycle(build_student("compact", num_classes=CLASSES, options=SMALL), None)
    told = r"trainer\.compile: this step cannot be compiled \(.*no compiler here\); set"
    with pytest.raises(ConfigError, match=told), Fusion(cycle, backend=backend):  # type: ignore[arg-type]
        cycle(*batch())
    assert "forward" not in vars(cycle.student.network)


@pytest.mark.gpu
def test_a_compiled_step_on_a_gpu_is_recorded_and_the_same() -> None:
    plain = cycle_of("tiny-mobile-sam").cuda()
    twin = copy.deepcopy(plain)
    images, labels = (one.cuda() for one in batch())
    expected = plain(images, labels)
    step = StepGraph(twin, None)
    with Fusion(twin):
        for _ in range(EAGER_STEPS + 2):
            found = step(images, labels, with_teacher=True, teaching=1.0)
    torch.testing.assert_close(found.losses, expected.losses, rtol=1e-3, atol=1e-3)
