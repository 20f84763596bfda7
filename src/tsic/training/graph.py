"""A training step recorded once and launched as a whole: CUDA graphs."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from tsic.cycle import Cycle
from tsic.errors import ConfigError

EAGER_STEPS = 3
"""Steps before one is recorded: libraries choose their kernels, constants are made."""


class Answer(NamedTuple):
    """What a step gives; tensors of a recorded one are written anew by the next.

    Attributes:
        losses: By name.
        total: Their sum.
        gradients: Of each trainable parameter, ``None`` where it has no part.
    """

    losses: dict[str, Tensor]
    total: Tensor
    gradients: tuple[Tensor | None, ...]


class StepGraph:
    """Forward and backward pass of a cycle, after a few steps replayed as one launch.

    A step of a small student is hundreds of kernels of microseconds, and a GPU waits for most of
    them to be launched. The cycle must neither wait for the GPU nor depend on values in Python:
    what a recorded step reads are the tensors given, the weights, and the state of the random
    generator.

    Args:
        cycle: On its GPU.
        precision: What autocast brings products to; ``None`` for none.
    """

    def __init__(self, cycle: Cycle, precision: torch.dtype | None) -> None:
        self.cycle = cycle
        self.precision = precision
        self.parameters = [one for one in cycle.parameters() if one.requires_grad]
        self.forget()

    def forget(self) -> None:
        """Free the memory of a whole step, which a recorded one holds; the next are eager again."""
        self._kind: object = None
        self._steps = 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._given: dict[str, Tensor] = {}
        self._answer: Answer | None = None

    def __call__(
        self,
        images: Tensor,
        labels: Tensor,
        *,
        with_teacher: bool,
        teaching: float,
        **seen: Tensor,
    ) -> Answer:
        """Run one step; see ``Cycle``. Gradients are given back, not written to parameters.

        Raises:
            ConfigError: If the step cannot be recorded.
        """
        given = {
            "images": images,
            "labels": labels,
            "teaching": torch.full((), teaching, device=images.device),
            **seen,
        }
        kind = (with_teacher, images.shape)
        if kind != self._kind:
            self.forget()
            self._kind = kind
        self._steps += 1
        if self._steps <= EAGER_STEPS:
            return self._run(given, with_teacher)
        if self._graph is None:
            self._given = {name: tensor.clone() for name, tensor in given.items()}
            self._record(with_teacher)
        for name, tensor in given.items():
            self._given[name].copy_(tensor)
        assert self._graph is not None
        assert self._answer is not None
        self._graph.replay()
        return self._answer

    def _record(self, with_teacher: bool) -> None:
        self._graph = torch.cuda.CUDAGraph()
        try:
            # Threads that pin memory for loaders go on with that.
            with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
                self._answer = self._run(self._given, with_teacher)
        except RuntimeError as error:
            cause = error.__context__ or error  # to end the recording fails, too
            if isinstance(cause, torch.OutOfMemoryError):
                raise cause from None
            told = f"{cause}".partition("\n")[0]
            raise ConfigError(
                f"trainer.graph: this step cannot be recorded as a CUDA graph ({told}); set "
                "trainer.graph: false, then --resume auto"
            ) from error

    def _run(self, given: Mapping[str, Tensor], with_teacher: bool) -> Answer:
        device = given["images"].device.type
        # Without autocast's own copies of weights, which a recorded step would keep forever.
        with torch.autocast(
            device, self.precision, enabled=self.precision is not None, cache_enabled=False
        ):
            out = self.cycle(**given, with_teacher=with_teacher)
        total = out.total
        # Whoever calls may autocast, in which a backward pass has no part.
        with torch.autocast(device, enabled=False):
            gradients = torch.autograd.grad(total, self.parameters, allow_unused=True)
        losses = {name: loss.detach() for name, loss in out.losses.items()}
        return Answer(losses, total.detach(), tuple(_own(gradients, self.parameters)))


def _own(
    gradients: Sequence[Tensor | None], parameters: Sequence[nn.Parameter]
) -> Iterator[Tensor | None]:
    """Give each parameter a gradient of its own, laid out alike, as ``backward`` would."""
    given = set()
    for gradient, parameter in zip(gradients, parameters, strict=True):
        if gradient is None:
            yield None
            continue
        if gradient.stride() != parameter.stride() or gradient.data_ptr() in given:
            gradient = torch.empty_like(parameter).copy_(gradient)
        given.add(gradient.data_ptr())
        yield gradient
