"""A process of its own for one engine, which loads a model and is then asked turn by turn."""

import contextlib
import gc
import importlib
import os
import shutil
import signal
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from tsic.deploy.benchmark.machine import matrix_product
from tsic.errors import ConfigError, TsicError, one_line
from tsic.grid import Size
from tsic.machine import peak_resident_mib, status_mib

Run = Callable[[], object]

MATRIX_PRODUCT = "matrix product"
"""Name of the task that measures what the machine can do, in an engine's place."""

_SETTLE_S = 0.2  # idle threads of the engine before this one spin for tens of milliseconds


@dataclass(frozen=True)
class Task:
    """What one process measures.

    Args:
        engine: ``eager``, ``compile``, ``onnxruntime``, another `ExportedModel`'s, or
            `MATRIX_PRODUCT`.
        precision: ``fp32``, ``bf16`` or ``int8``.
        path: A student for ``eager`` and ``compile``, else an exported file.
        size: Height and width of the images, in pixels.
        threads: Threads of the engine.
        batch: Images at a time.
        allow_code: As of `tsic.checkpoint.load_student`.
        file: The exported file of the user's that it is, if it is one.
    """

    engine: str
    precision: str
    path: str
    size: Size
    threads: int
    batch: int
    allow_code: bool = False
    file: str | None = None


@dataclass(frozen=True)
class Turn:
    """Latencies of one turn, in seconds."""

    network: tuple[float, ...]
    processed: tuple[float, ...]
    peak_memory_mib: float | None


@dataclass(frozen=True)
class Failure:
    """Why a task cannot be measured."""

    reason: str


def failure_of(error: Exception) -> Failure:
    """One line of what may be pages."""
    text = one_line(error)
    return Failure(text if isinstance(error, TsicError) else f"{type(error).__name__}: {text}")


@dataclass(frozen=True)
class Loaded:
    """The network alone, and with what comes before and after it."""

    network: Run
    processed: Run | None


def serve(connection: Connection, task: Task) -> None:
    """Load a model, then answer every number of seconds with a `Turn`, until the pipe closes.

    The first answer is ``None``, or a `Failure` after which the process ends.

    Args:
        connection: The other end of the parent's pipe.
        task: What to measure.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, which closes the pipe
    _silence()
    try:
        with torch.inference_mode():
            base_mib, loaded = _load(task)
            loaded.network()  # compiles and plans memory
            connection.send(None)
            while True:
                connection.send(_take_turn(loaded, connection.recv(), base_mib))
    except (EOFError, BrokenPipeError):
        return
    except Exception as error:  # an engine may raise anything; the others go on
        connection.send(failure_of(error))


def timed_runs(run: Run, seconds: float) -> tuple[float, ...]:
    """Measure run after run until the time is over, at least once.

    Args:
        run: What is measured.
        seconds: How long to go on.

    Returns:
        Latency of each run, in seconds.
    """
    latencies: list[float] = []
    end = time.perf_counter() + seconds
    while not latencies or time.perf_counter() < end:
        start = time.perf_counter()
        run()
        latencies.append(time.perf_counter() - start)
    return tuple(latencies)


def _take_turn(loaded: Loaded, seconds: float, base_mib: float | None) -> Turn:
    """Half of the time goes to the network alone, half to the whole way."""
    time.sleep(_SETTLE_S)
    loaded.network()  # fills the caches that the engine before emptied
    network = timed_runs(loaded.network, seconds / 2)
    processed = timed_runs(loaded.processed, seconds / 2) if loaded.processed else ()
    peak_mib = peak_resident_mib()
    if base_mib is None or peak_mib is None:
        return Turn(network, processed, None)
    return Turn(network, processed, peak_mib - base_mib)


def _load(task: Task) -> tuple[float | None, Loaded]:
    """Import, note the memory, then load: what is above it is the model's."""
    torch.set_num_threads(task.threads)
    torch.manual_seed(0)
    if task.engine == MATRIX_PRODUCT:
        return None, Loaded(matrix_product(task.precision, task.threads), None)
    images = torch.randint(0, 256, (task.batch, 3, *task.size), dtype=torch.uint8)
    if task.engine in ("eager", "compile"):
        return _load_student(task, images)
    return _load_exported(task, images)


def _load_student(task: Task, images: Tensor) -> tuple[float | None, Loaded]:
    from tsic.checkpoint import load_student
    from tsic.deploy.inference import label_images

    load_student(
        task.path, allow_code=task.allow_code
    )  # for its imports alone, which depend on the architecture
    base_mib = _restart_peak()
    model: Any = load_student(task.path, allow_code=task.allow_code)
    model = _compiled(model) if task.engine == "compile" else model
    scaled = images.float() / 255
    return base_mib, Loaded(lambda: model(scaled), lambda: label_images(model, images))


def _load_exported(task: Task, images: Tensor) -> tuple[float | None, Loaded]:
    from tsic.deploy.export.engines import open_exported
    from tsic.deploy.inference import label_images

    if task.engine != "torch":
        with contextlib.suppress(ImportError):  # the engine itself says what to install
            importlib.import_module(task.engine)
    base_mib = _restart_peak()
    precision: Literal["bf16", "f32"] = "bf16" if task.precision == "bf16" else "f32"
    model = open_exported(Path(task.path), threads=task.threads, precision=precision)
    array = model.prepare(images.float() / 255)
    return base_mib, Loaded(lambda: model.run(array), lambda: label_images(model, images))


def _compiled(model: torch.nn.Module) -> Any:
    """torch.compile of a model whose weights will not change any more."""
    if not any(shutil.which(name) for name in (os.environ.get("CXX", "c++"), "g++", "clang++")):
        raise ConfigError("torch.compile needs a C++ compiler; install g++")
    from torch._inductor import config

    config.compile_threads = 1  # no pool of processes beside the other engines
    config.freezing = True
    return torch.compile(model)


def _restart_peak() -> float | None:
    """Resident memory now, from where on the peak is counted anew."""
    gc.collect()
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:  # not Linux, or not allowed: then the peak counts from the start
        return peak_resident_mib()
    return status_mib("VmRSS")


def _silence() -> None:
    """Engines print and warn in the middle of the parent's table."""
    warnings.simplefilter("ignore")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nowhere, stream)
