from typing import Any

import pytest
import torch
from torch import Tensor, nn
from typing_extensions import override

from tsic.cutmix import AREA, CELL, draw_boxes, exchange
from tsic.cycle import Cycle, CycleOutput
from tsic.options import Objective
from tsic.student import StudentOutput, build_student


def pair_of(index: int, count: int) -> int:
    return count - 1 - index


def test_pairs_share_a_box_on_the_cells_of_features() -> None:
    boxes = draw_boxes(torch.rand(400, 3, 160, 224), 1.0)
    assert boxes.shape == (400, 1, 160, 224)
    for index in (0, 7, 199):
        assert torch.equal(boxes[index], boxes[pair_of(index, 400)])
    cells = boxes[..., ::CELL, ::CELL]
    assert torch.equal(cells.repeat_interleave(CELL, 2).repeat_interleave(CELL, 3), boxes)
    rows, columns = boxes.any(3).sum(2), boxes.any(2).sum(2)
    assert torch.equal(rows * columns, boxes.sum((2, 3)))  # one box each
    shares = boxes.float().mean((1, 2, 3))
    assert shares.mean().item() == pytest.approx(sum(AREA) / 2, abs=0.02)
    assert len(shares.unique()) > 10
    assert boxes.any(0).all()  # anywhere
    taller = (rows / 160 > columns / 224).float().mean().item()
    assert 0.3 < taller < 0.7


@pytest.mark.parametrize(("share", "least", "most"), [(0.0, 0, 0), (0.5, 0.4, 0.6), (1.0, 1, 1)])
def test_so_many_pairs_exchange(share: float, least: float, most: float) -> None:
    exchanged = draw_boxes(torch.rand(800, 3, 32, 32), share).any(3).any(2).float().mean()
    assert least <= exchanged.item() <= most


@pytest.mark.parametrize("size", [(160, 224), (100, 75), (16, 16)])
def test_a_second_exchange_undoes_the_first(size: tuple[int, int]) -> None:
    images = torch.rand(5, 3, *size)
    boxes = draw_boxes(images, 1.0)
    mixed = exchange(images, boxes)
    assert torch.equal(mixed[2], images[2])  # it has no partner
    for index in (0, 1):
        inside = boxes[index, 0]
        assert inside.any()
        other = images[pair_of(index, 5)]
        assert torch.equal(mixed[index][:, inside], other[:, inside])
        assert torch.equal(mixed[index][:, ~inside], images[index][:, ~inside])
    for maps in (images, torch.rand(5, 2, -(-size[0] // 16), -(-size[1] // 16))):
        assert torch.equal(exchange(exchange(maps, boxes), boxes), maps)


def test_a_cell_is_its_partners_where_its_centre_is() -> None:
    boxes = draw_boxes(torch.rand(2, 3, 100, 75), 1.0)
    maps = torch.stack([torch.zeros(1, 7, 5), torch.ones(1, 7, 5)])
    rows, columns = ((torch.arange(n) + 0.5) * side / n for n, side in ((7, 100), (5, 75)))
    expected = boxes[0, 0][rows.long()][:, columns.long()]
    assert torch.equal(exchange(maps, boxes)[0, 0], expected.float())


class Pointwise(nn.Module):
    """A student that looks at one pixel at a time."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.classify = nn.Conv2d(3, num_classes, 1)

    @override
    def forward(self, images: Tensor) -> StudentOutput:
        logits = self.classify(images)
        return StudentOutput(logits, (logits[..., ::16, ::16],), logits[..., ::8, ::8])


def step(cycle: Cycle, cutmix: float) -> CycleOutput:
    torch.manual_seed(1)
    images, labels = torch.rand(4, 3, 64, 96), torch.randint(0, 3, (4, 64, 96))
    cycle.cutmix = cutmix
    return cycle(images, labels)


def test_who_looks_at_one_pixel_at_a_time_does_not_notice() -> None:
    """So what the student says is put back where it belongs, and labels stay with their pixels."""
    pointwise: Any = Pointwise(3)
    plain, mixed = (step(Cycle(pointwise, None), share) for share in (0.0, 1.0))
    torch.testing.assert_close(vars(mixed.student), vars(plain.student))
    torch.testing.assert_close(mixed.losses, plain.losses)


def test_the_student_sees_boxes_of_others_and_the_teacher_does_not(tiny_cycle: Cycle) -> None:
    shown: dict[str, list[Tensor]] = {"student": [], "teacher": []}
    for name, images in shown.items():
        network = tiny_cycle.get_submodule(name)
        network.register_forward_pre_hook(lambda _, given, images=images: images.append(given[0]))
    plain, mixed = step(tiny_cycle, 0.0), step(tiny_cycle, 1.0)
    assert not torch.equal(*shown["student"])
    assert torch.equal(*shown["teacher"])
    assert not torch.equal(plain.student.logits, mixed.student.logits)
    mixed.total.backward()
    assert all(p.grad is not None for p in tiny_cycle.student.parameters())


def test_nothing_is_exchanged_once_it_is_trained() -> None:
    cycle = Cycle(build_student(num_classes=3), None, Objective()).eval()
    torch.testing.assert_close(step(cycle, 1.0).student.logits, step(cycle, 0.0).student.logits)
