"""What is made again in the backward pass is not kept, and teaches as if it were."""

import weakref

import torch
from torch import Tensor

from tsic.teacher.recompute import recomputed


def test_gradients_are_those_of_what_is_kept() -> None:
    maps, weight = (torch.randn(5, dtype=torch.float64, requires_grad=True) for _ in range(2))

    def make(maps: Tensor, weight: Tensor, power: int) -> Tensor:
        return ((maps * weight).sin() ** power).exp()

    plain, again = make(maps, weight, 3), recomputed(make, maps, weight, 3)
    torch.testing.assert_close(again, plain, rtol=0, atol=0)
    for one, other in zip(
        torch.autograd.grad(again.sum(), (maps, weight)),
        torch.autograd.grad(plain.sum(), (maps, weight)),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_nothing_inside_lives_until_the_backward_pass() -> None:
    inside: list[weakref.ref[Tensor]] = []

    def make(maps: Tensor) -> Tensor:
        middle = maps.sin()
        inside.append(weakref.ref(middle))
        return middle.exp().sum()

    maps = torch.randn(5, requires_grad=True)
    answer = recomputed(make, maps)
    assert [middle() for middle in inside] == [None]
    answer.backward()
    assert len(inside) == 2
    torch.testing.assert_close(maps.grad, maps.sin().exp().mul(maps.cos()))
