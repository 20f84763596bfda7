"""Which precision this machine trains fastest in, found by measuring."""

import statistics
import time

import torch
from torch import nn

from tsic.config import LoopConfig, Precision, TrainerConfig
from tsic.errors import ConfigError

# bf16 must win by this much: it loses mantissa bits, and a timing has noise.
_WORTH = 1.3


def resolve_precision(options: LoopConfig) -> Precision:
    """Replace ``auto`` by the precision to train in; any other is returned as it is.

    Raises:
        ConfigError: If what is asked for needs more GPUs than there are, or cannot be a CUDA graph.
    """
    precision, accelerator = options.precision, options.accelerator
    has_cuda = torch.cuda.is_available()
    gpus = torch.cuda.device_count() if has_cuda else int(torch.backends.mps.is_available())
    if accelerator == "gpu" and not gpus:
        raise ConfigError("trainer.accelerator gpu: PyTorch finds no GPU here; take cpu or auto")
    if accelerator != "cpu" and 0 < gpus < options.devices:
        raise ConfigError(
            f"trainer.devices must be at most the {gpus} GPUs that PyTorch finds here, got "
            f"{options.devices}"
        )
    graph = isinstance(options, TrainerConfig) and options.graph
    compiles = isinstance(options, TrainerConfig) and options.compile
    for key, is_set in (("graph", graph), ("compile", compiles)):
        if is_set and (accelerator == "cpu" or not has_cuda):
            raise ConfigError(f"trainer.{key} needs an NVIDIA GPU; set trainer.{key}: false")
    if precision == "auto":
        precision = _fastest(accelerator)
    if graph and precision == "16-mixed":
        raise ConfigError(
            "trainer.graph: gradients of 16-mixed are scaled outside of the graph; take another "
            "trainer.precision, or set trainer.graph: false"
        )
    return precision


def _fastest(accelerator: str) -> Precision:
    if accelerator != "cpu" and torch.cuda.is_available():
        # Older GPUs emulate bf16, more slowly than they compute in fp16.
        has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        return "bf16-mixed" if has_bf16 else "16-mixed"
    # Without AVX-512 bf16 is emulated, 40 times as slow: to time that would take ten seconds.
    if accelerator not in ("auto", "cpu") or torch.backends.cpu.get_cpu_capability() == "AVX2":
        return "32-true"
    return "bf16-mixed" if _times_as_fast() > _WORTH else "32-true"


def _times_as_fast() -> float:
    """How many times as fast as in float32 a small training step in bf16 is on the CPU.

    The median of steps in pairs, on one thread: where other programs run beside, threads wait for
    each other longer than either step takes, and the fastest of each kind are a matter of luck.
    """
    network = nn.Sequential(
        nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 64, 3, padding=1, groups=4)
    )
    images = torch.ones(2, 32, 64, 96)

    def seconds(*, mixed: bool) -> float:
        start = time.perf_counter()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=mixed):
            loss = network(images).float().square().mean()
        loss.backward()
        return time.perf_counter() - start

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    times = [seconds(mixed=False) / seconds(mixed=True) for _ in range(9)]
    torch.set_num_threads(threads)
    return statistics.median(times)
