"""Parts of a training step whose small operations torch.compile fuses."""

from collections.abc import Iterator
from textwrap import shorten
from types import TracebackType
from typing import Any

import torch
from torch._dynamo.exc import TorchDynamoException

from tsic.cycle import Cycle
from tsic.errors import ConfigError
from tsic.student import Student
from tsic.teacher import Teacher


class Fusion:
    """Within it, students and the teacher's decoders run as torch.compile makes them.

    A training's steps are of one size, and what is compiled holds for that; whole images of any
    size come outside of it, and are never compiled. The encoder is left out: it takes as long to
    compile as all others, and gains a third of what they do.

    Args:
        cycle: On its device.
        backend: Of torch.compile.
    """

    def __init__(self, cycle: Cycle, backend: str = "inductor") -> None:
        options: dict[str, Any] = {}
        if backend == "inductor":
            # Dropout as it is drawn without, so that a run may go on either way.
            options = {"fallback_random": True}
        self._parts = [
            (
                owner,
                name,
                torch.compile(
                    getattr(owner, name), dynamic=False, backend=backend, options=options
                ),
            )
            for owner, name in _parts(cycle)
        ]

    def __enter__(self) -> None:
        for owner, name, compiled in self._parts:
            setattr(owner, name, compiled)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for owner, name, _ in self._parts:
            delattr(owner, name)
        if isinstance(error, TorchDynamoException):
            told = shorten(f"{error}".partition("\n\n")[0], 300)
            raise ConfigError(
                f"trainer.compile: this step cannot be compiled ({told}); set "
                "trainer.compile: false, then --resume auto"
            ) from error


def _parts(cycle: Cycle) -> Iterator[tuple[Any, str]]:
    """Owners and names of the methods that are compiled."""
    for module in cycle.modules():
        if isinstance(module, Student):
            yield module.network, "forward"
        if isinstance(module, Teacher):
            yield module, "decode_masks"
            yield module.mapping, "forward"
