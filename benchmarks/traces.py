"""Where a training step's time goes: kernels traced on a GPU, bytes counted anywhere."""

import math
import re
import time
import weakref
from collections import Counter
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile, record_function
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from typing_extensions import override

from tsic.teacher import Teacher

KINDS = {
    "attention": r"flash|fmha|attention|sdpa",
    "convolution": r"conv|cudnn|implicit|dgrad|wgrad|fprop",
    "matrix product": r"gemm|cutlass|xmma|nvjet|splitK",
    "optimiser": r"adam|Adam|multi_tensor",
    "norm": r"norm|welford|bn_",
    "softmax": r"softmax",
    "copy": r"copy|Cat|cat_|Memcpy|transpose|nchw|nhwc|pad",
    "reduction": r"reduce|sum",
    "resize": r"upsample|interpol|index",
    "elementwise": r"elementwise|vectorized|fill|Memset",
}
"""What a kernel's name tells; the first that fits."""

STEPS = 3


class Traced(Protocol):
    """A training step."""

    cycle: Any

    def run(self) -> float:
        """Do it."""


class Traffic(TorchDispatchMode):
    """Counts operations, and the bytes that each reads and writes, as if once; no views."""

    def __init__(self) -> None:
        super().__init__()
        self.operations = 0
        self.bytes: Counter[str] = Counter()

    @override
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.__name__.partition(".")[0]
        if func.is_view or "empty" in name or name == "_unsafe_view":
            return result
        read = [] if name.startswith(("new_", "zeros", "ones")) else tree_leaves((args, kwargs))
        if name in ("copy_", "fill_", "zero_"):
            read = read[1:]  # what is written over is not read
        self.operations += 1
        self.bytes[name] += sum(map(_size, (*read, *tree_leaves(result))))
        return result


class Living(TorchDispatchMode):
    """Counts the bytes of tensors that live at a time; what was made before it does not count.

    Attributes:
        most: Bytes at the peak.
    """

    def __init__(self) -> None:
        super().__init__()
        self.most = 0
        self._now = 0
        self._watched: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    @override
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        there = _storages((args, kwargs))
        for place, storage in _storages(result).items():
            if place not in there and place not in self._watched:
                self._watch(place, storage)
        return result

    def _watch(self, place: int, storage: torch.UntypedStorage) -> None:
        size = storage.nbytes()
        self._now += size
        self.most = max(self.most, self._now)

        def forget(_: object) -> None:
            self._now -= size
            del self._watched[place]

        self._watched[place] = weakref.ref(storage, forget)


def _storages(values: object) -> dict[int, torch.UntypedStorage]:
    """Where the tensors among some values lie in memory, each place once."""
    tensors = [one for one in tree_leaves(values) if isinstance(one, Tensor)]
    return {one.untyped_storage()._cdata: one.untyped_storage() for one in tensors}


def _size(value: object) -> int:
    """Bytes of a tensor in memory, where what is expanded lies once."""
    if not isinstance(value, Tensor):
        return 0
    sides = zip(value.shape, value.stride(), strict=True)
    return value.element_size() * math.prod(side for side, stride in sides if stride)


def copy_peak() -> float:
    """Bytes per second, read and written, of the fastest of some large copies."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    source = torch.rand(2**28 if device == "cuda" else 2**25, device=device)
    target = torch.empty_like(source)
    fastest = float("inf")
    for _ in range(10):
        start = time.perf_counter()
        target.copy_(source)
        if device == "cuda":
            torch.cuda.synchronize()
        fastest = min(fastest, time.perf_counter() - start)
    return 2 * source.numel() * source.element_size() / fastest


def trace(step: Traced) -> dict[str, Any]:
    """Trace some steps on a GPU.

    Returns:
        Per step: number of kernels, milliseconds in which one runs and in all (the profiler slows
        what is not a graph), shares of the kinds of kernels, the longest kernels, and milliseconds
        of what each part's forward pass launched (not of a graph, which is launched as a whole).
    """
    teacher = step.cycle.teacher
    parts = {"student": (step.cycle.student, "forward")}
    if isinstance(teacher, Teacher):
        parts |= {
            "encoder": (teacher.foundation, "see"),
            "mask decoder": (teacher, "decode_masks"),
            "mapping decoder": (teacher.mapping, "forward"),
        }
    for name, (owner, method) in parts.items():
        setattr(owner, method, _marked(name, getattr(owner, method)))
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        for _ in range(STEPS):
            with record_function("part whole step"):
                step.run()
    for owner, method in parts.values():
        delattr(owner, method)
    assert profiler.profiler is not None
    kernels = sorted(
        (event.start_ns(), event.duration_ns(), event.name())
        for event in profiler.profiler.kineto_results.events()
        if event.device_type() == torch.autograd.DeviceType.CUDA
        and event.duration_ns()
        and not event.name().startswith("part ")
    )
    kinds: Counter[str] = Counter()
    names: Counter[str] = Counter()
    busy, until = 0, 0
    for start, duration, name in kernels:
        kinds[_kind_of(name)] += duration
        names[name[:90]] += duration
        busy += max(0, start + duration - max(until, start))
        until = max(until, start + duration)
    total = sum(kinds.values())
    return {
        "kernels": len(kernels) // STEPS,
        "busy_milliseconds": busy / 1e6 / STEPS,
        "traced_milliseconds": (until - kernels[0][0]) / 1e6 / STEPS,
        "kinds": {kind: duration / total for kind, duration in kinds.most_common()},
        "longest": {name: duration / total for name, duration in names.most_common(12)},
        "parts_milliseconds": {
            event.key.removeprefix("part "): event.device_time_total / 1e3 / STEPS
            for event in profiler.key_averages()
            if event.key.startswith("part ") and event.device_time_total
        },
    }


def _marked(name: str, method: Any) -> Any:
    def call(*args: Any, **kwargs: Any) -> Any:
        with record_function(f"part {name}"):
            return method(*args, **kwargs)

    return call


def _kind_of(kernel: str) -> str:
    return next((kind for kind, names in KINDS.items() if re.search(names, kernel)), "other")
