"""What is made again in the backward pass is not kept, and teaches as if it were."""

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


def test_nothing_made_inside_is_kept_for_the_backward_pass() -> None:
    kept, made = [], []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor.data_ptr())
        return tensor

    def make(maps: Tensor) -> Tensor:
        made.append(maps.sin().exp())  # whose gradient reads the answer
        return made[-1].sum()

    maps = torch.randn(5, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        make(maps)
        answer = recomputed(make, maps)
    plain, again = (tensor.data_ptr() for tensor in made)
    assert plain in kept
    assert again not in kept
    answer.backward()
    torch.testing.assert_close(maps.grad, maps.sin().exp() * maps.cos())
