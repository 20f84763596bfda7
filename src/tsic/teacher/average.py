"""The teacher's trained weights averaged over steps: a steadier teacher than the latest."""

from typing import cast

import torch
from torch import Tensor, nn
from torch.func import functional_call

from tsic.teacher.foundation import Seen
from tsic.teacher.teacher import Teacher, TeacherOutput


def decay_at(steps: int, decay: float) -> float:
    """Share of a moving average that stays after so many steps, growing to ``decay``.

    So the first weights, which know nothing, are soon forgotten.

    Source:
        TensorFlow's ``ExponentialMovingAverage``.
    """
    return min(decay, (1 + steps) / (10 + steps))


class AveragedTeacher(nn.Module):
    """Answers as the teacher would with the exponential moving average of its weights.

    Only what trains is held twice; frozen weights are the teacher's own.

    Args:
        teacher: Whose weights are averaged; it is handed over at each call, not held.
        decay: See ``decay_at``.

    Source:
        Mean teacher: Tarvainen and Valpola, arXiv:1703.01780.
    """

    steps: Tensor

    def __init__(self, teacher: Teacher, decay: float) -> None:
        super().__init__()
        self.decay = decay
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        for name, tensor in _changing(teacher).items():
            self.register_buffer(_key(name), tensor.detach().clone())

    @torch.no_grad()
    def update(self, teacher: Teacher) -> None:
        """Take the teacher's weights in, after a step."""
        self.steps += 1
        share = 1 - decay_at(int(self.steps), self.decay)
        for name, tensor in _changing(teacher).items():
            mine = self.get_buffer(_key(name))
            if mine.is_floating_point():
                mine.lerp_(tensor, share)
            else:
                mine.copy_(tensor)

    @torch.no_grad()
    def forward(
        self, teacher: Teacher, images: Tensor, student_logits: Tensor, seen: Seen | None = None
    ) -> TeacherOutput:
        """Answer without gradient; see ``Teacher``.

        What the teacher has ``seen`` stands in for another look if its encoder does not learn.
        """
        if teacher.foundation.encoder_learns:
            seen = None
        own = {name: self.get_buffer(_key(name)) for name in _changing(teacher)}
        was_training = teacher.training
        teacher.eval()
        answer = functional_call(teacher, own, (images, student_logits, seen))
        teacher.train(was_training)
        return cast(TeacherOutput, answer)


def _changing(teacher: Teacher) -> dict[str, Tensor]:
    """Trained weights and the buffers that a checkpoint holds (batch norms' statistics)."""
    parameters = dict(teacher.named_parameters())
    return {
        name: tensor
        for name, tensor in teacher.state_dict(keep_vars=True).items()
        if name not in parameters or parameters[name].requires_grad
    }


def _key(name: str) -> str:
    return name.replace(".", "/")
