"""The machine that a benchmark runs on: what it is, and how fast it multiplies matrices."""

import os
import platform
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from tsic.errors import not_installed
from tsic.machine import total_mib, usable_cores

MATRIX_SIDE = 1024
"""Rows and columns of the matrices whose product is timed."""

_FLAGS = (
    *("avx2", "fma", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16"),
    *("amx_tile", "amx_int8", "amx_bf16", "asimd", "asimddp", "i8mm", "bf16", "sve", "sve2"),
)
_BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})
_PACKAGES = ("tsic", "torch", "onnx", "onnxruntime", "openvino", "nncf")


def describe_machine() -> dict[str, Any]:
    """Tell what decides a network's speed on this machine.

    Returns:
        ``cpu`` (model's name), ``flags`` (vector instructions that matter), ``cores`` (those that
        this process may use), ``memory_gib``, ``system``, ``python`` and ``load`` (mean number of
        busy processes in the last minute; ``None`` where the system does not tell).
    """
    facts, memory_mib = _cpu_facts(), total_mib()
    return {
        "cpu": facts.get("model name") or platform.processor() or platform.machine(),
        "flags": cpu_flags(),
        "cores": usable_cores(),
        "memory_gib": None if memory_mib is None else round(memory_mib / 2**10, 1),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    }


def package_versions() -> dict[str, str | None]:
    """Versions of this package and of the engines; ``None`` for one that is not installed."""
    found: dict[str, str | None] = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def cpu_flags() -> list[str]:
    """Vector instructions of this CPU that decide the speed of float32, bfloat16 and int8."""
    facts = _cpu_facts()
    told = set((facts.get("flags") or facts.get("Features") or "").split())
    return [flag for flag in _FLAGS if flag in told]


def has_bf16() -> bool:
    """Whether this CPU multiplies bfloat16; else engines compute it in float32, or slowly."""
    return not _BF16_FLAGS.isdisjoint(cpu_flags())


def matrix_product(precision: str, threads: int) -> Callable[[], object]:
    """Prepare a product of two square matrices of side `MATRIX_SIDE`.

    Its ``MATRIX_SIDE ** 3`` multiply-adds over its time are the most that a network's layers can
    hope for: both factors stay in the caches, and the kernel is the library's best.

    Args:
        precision: ``fp32`` or ``bf16`` (``torch.mm``), or ``int8`` (uint8 times int8 into int32,
            ONNX Runtime).
        threads: Threads of the product.

    Returns:
        A function that computes the product once.

    Raises:
        ConfigError: If the packages of ``int8`` are not installed.
    """
    if precision == "int8":
        return _integer_product(threads)
    torch.set_num_threads(threads)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    left, right = (torch.rand(MATRIX_SIDE, MATRIX_SIDE).to(dtype) for _ in range(2))
    return lambda: torch.mm(left, right)


def _integer_product(threads: int) -> Callable[[], object]:
    """A graph of one integer product, since PyTorch has a fast one on few CPUs only."""
    try:
        import onnxruntime
        from onnx import TensorProto, helper
    except ImportError as error:
        raise not_installed(error.name, "onnx") from error
    side = [MATRIX_SIDE, MATRIX_SIDE]
    # Small weights: the sums of pairs that CPUs without dot products keep in 16 bits stay exact.
    weights = torch.randint(-63, 64, side, dtype=torch.int8).numpy()
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["left", "right"], ["product"])],
        "product",
        [helper.make_tensor_value_info("left", TensorProto.UINT8, side)],
        [helper.make_tensor_value_info("product", TensorProto.INT32, side)],
        [helper.make_tensor("right", TensorProto.INT8, side, weights.tobytes(), raw=True)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    left = torch.randint(0, 256, side, dtype=torch.uint8).numpy()
    return lambda: session.run(None, {"left": left})


def _cpu_facts() -> dict[str, str]:
    """First processor's lines of Linux's ``/proc/cpuinfo``; nothing elsewhere."""
    file = Path("/proc/cpuinfo")
    if not file.is_file():
        return {}
    lines = (line.partition(":") for line in file.read_text().split("\n\n")[0].splitlines())
    return {name.strip(): value.strip() for name, _, value in lines}
