"""Count what a training step on a GPU would move through memory and keep there, without a GPU.

    .venv/bin/python benchmarks/traffic.py --json traffic.json

The steps of `step.py` run forward and backward on tensors without data, on which the networks take
the ways that they take on a GPU; products are brought to bfloat16, as autocast does there. Counted
are the bytes that each operation reads and writes, as if each did so once; attention's own kernel,
which differs between GPUs, is left out. So this tells what was saved, not how long a step takes.

Memory is the most that tensors take at a time, weights, their gradients and AdamW's state included;
libraries' own buffers are not, nor what OHEM sorts.
"""

import argparse
import json
import shlex
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import transformers
from torch import Tensor

import tsic
from step import MODELS, SIZES, Row, Step
from traces import Living, Traffic

PRODUCTS = (
    (F, ("conv2d", "conv_transpose2d", "linear")),
    (torch, ("addmm", "bmm", "einsum", "matmul")),
    (Tensor, ("__matmul__", "matmul")),
)
LEARNS = 18
"""Bytes of a weight that learns: in float32, and rounded; its gradient, and AdamW's two means."""

STANDS = 2
"""Bytes of one that is frozen, in bfloat16."""


class _Attention(torch.autograd.Function):
    """In the place of attention's kernel: nothing but tensors of the right shapes."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        answer = _laid_out(query, value.shape[-1])
        sums = query.new_empty(query.shape[:3], dtype=torch.float32)
        ctx.save_for_backward(query, key, value, answer, sums)
        return answer

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        return tuple(_laid_out(one, one.shape[-1]) for one in ctx.saved_tensors[:3])


def _laid_out(like: Tensor, width: int) -> Tensor:
    """``(N, heads, L, width)`` as a fused kernel leaves it: a cell's heads lie together."""
    count, heads, length, _ = like.shape
    return like.new_empty(count, length, heads, width).transpose(1, 2)


@contextmanager
def as_on_a_gpu() -> Iterator[None]:
    """Let products take bfloat16 wherever autocast is on, on a device that has none."""
    is_on = [True]

    @contextmanager
    def autocast(*_: Any, enabled: bool = True, **__: Any) -> Iterator[None]:
        is_on.append(enabled)
        yield
        is_on.pop()

    def rounded(value: Any) -> Any:
        is_float = isinstance(value, Tensor) and value.is_floating_point()
        return value.to(torch.bfloat16) if is_float and is_on[-1] else value

    def rounding(product: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            return product(*map(rounded, args), **{key: rounded(kwargs[key]) for key in kwargs})

        return call

    def attention(query: Tensor, key: Tensor, value: Tensor, **_: Any) -> Any:
        return _Attention.apply(*map(rounded, (query, key, value)))

    changed = [(torch, "autocast", autocast), (F, "scaled_dot_product_attention", attention)]
    changed += [
        (owner, name, rounding(getattr(owner, name))) for owner, names in PRODUCTS for name in names
    ]
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in changed]
    for owner, name, ours in changed:
        setattr(owner, name, ours)
    try:
        yield
    finally:
        for owner, name, theirs in before:
            setattr(owner, name, theirs)


def count(row: Row, folder: Path) -> dict[str, Any]:
    """Count one step; its weights are bfloat16, and OHEM, which looks at the data, is off."""
    step = Step(replace(row, batch=2), folder, "32-true")
    cycle = step.cycle.to("meta", torch.bfloat16)
    cycle.objective = replace(cycle.objective, ohem=False)
    images = torch.empty(row.batch, 3, row.height, row.width, device="meta", dtype=torch.bfloat16)
    images = images.contiguous(memory_format=torch.channels_last)
    labels = torch.zeros(row.batch, row.height, row.width, device="meta", dtype=torch.int64)
    teaching = torch.ones((), device="meta")
    moved, living = Traffic(), Living()
    with as_on_a_gpu():
        cycle(images, labels, teaching=teaching)  # makes constants
        for mode in (moved, living):
            with mode:
                cycle(images, labels, teaching=teaching).total.backward()
    learns = sum(one.numel() for one in cycle.parameters() if one.requires_grad)
    stands = sum(one.numel() for one in cycle.parameters() if not one.requires_grad)
    return {
        **asdict(row),
        "operations": moved.operations,
        "gigabytes": moved.bytes.total() / 1e9,
        "peak_memory_mib": (living.most + LEARNS * learns + STANDS * stands) / 2**20,
        "of": {name: size / 1e9 for name, size in moved.bytes.most_common(12)},
    }


def main() -> None:
    """Count, print; with ``--json`` also write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--batch", type=int, default=16, help="images of a step")
    parser.add_argument("--json", type=Path, help="file for everything")
    options = parser.parse_args()
    rows = []
    for height, width, classes in SIZES:
        alone = Row("alone", "", height, width, classes, options.batch)
        rows += [alone] + [
            replace(alone, recipe=recipe, teacher=teacher)
            for teacher in MODELS
            for recipe in ("release", "cycle", "recomputed", "frozen")
        ]
    found = []
    with tempfile.TemporaryDirectory() as name:
        for model, make in MODELS.items():
            make().save_pretrained(Path(name) / model)
        for row in rows:
            found.append(count(row, Path(name)))
            print(
                f"{row.recipe:10} {row.teacher:18} {row.height}x{row.width} {row.classes:3}",
                f"{found[-1]['gigabytes']:6.1f} GB {found[-1]['operations']:5} operations",
                f"{found[-1]['peak_memory_mib']:6.0f} MiB",
                flush=True,
            )
    report = {
        "date": datetime.now(UTC).date().isoformat(),
        "versions": {
            package.__name__: package.__version__ for package in (tsic, torch, transformers)
        },
        "command": shlex.join(["python", "benchmarks/traffic.py", *sys.argv[1:]]),
        "rows": found,
    }
    if options.json:
        options.json.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
