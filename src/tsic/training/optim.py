"""AdamW with one parameter group per part of the cycle, and a polynomial schedule."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from tsic.config import OptimConfig
from tsic.cycle import Cycle
from tsic.distilled import Peer
from tsic.teacher.average import decay_at

_LORA = (".down", ".up", ".up_q", ".up_v")  # how the names of its weights end


def build_optimizer(
    cycle: Cycle, config: OptimConfig, max_steps: int, *, fused: bool = True
) -> tuple[Optimizer, LambdaLR]:
    """Group what trains: student, peer, LoRA, decoders, projections; with and without decay.

    Args:
        cycle: Student and, if there is one, teacher.
        config: Learning rates and decay.
        max_steps: Step at which the polynomial decay reaches 0.
        fused: See ``adamw``.

    Returns:
        Optimiser and the schedule to step once per optimiser step.
    """
    teacher_lr = config.lr if config.teacher_lr is None else config.teacher_lr
    lora_lr = teacher_lr if config.lora_lr is None else config.lora_lr
    parts = {"student": (config.lr, trainable(cycle.student))}
    if isinstance(cycle.teacher, Peer):
        parts["peer"] = (config.lr, trainable(cycle.teacher))
    elif cycle.teacher is not None:
        named = trainable(cycle.teacher)
        parts["lora"] = (lora_lr, [one for one in named if one[0].endswith(_LORA)])
        parts["decoders"] = (teacher_lr, [one for one in named if not one[0].endswith(_LORA)])
    own = ("student.", "teacher.")
    rest = [one for one in trainable(cycle) if not one[0].startswith(own)]
    parts["projections"] = (config.lr, rest)  # of the student's features, for a loss alone
    return adamw(
        parts,
        weight_decay=config.weight_decay,
        warmup_steps=config.lr_warmup_steps,
        power=config.power,
        max_steps=max_steps,
        fused=fused,
    )


def adamw(
    parts: Mapping[str, tuple[float, list[tuple[str, nn.Parameter]]]],
    *,
    weight_decay: float,
    warmup_steps: int,
    power: float,
    max_steps: int,
    fused: bool = True,
) -> tuple[Optimizer, LambdaLR]:
    """AdamW with a polynomial schedule.

    Args:
        parts: Learning rate and named parameters of each part; parts without any vanish.
        weight_decay: Of all but norms, biases, position and token embeddings and scalar gains.
        warmup_steps: Steps of linear rise.
        power: Exponent of the decay.
        max_steps: Step at which the decay reaches 0.
        fused: One pass over all weights, on a CPU four times as fast. Not for ``16-mixed``, where
            gradients would be clipped before they are unscaled.

    Returns:
        Optimiser and the schedule to step once per optimiser step.
    """
    groups: dict[str, dict[str, Any]] = {}
    for part, (lr, named_parameters) in parts.items():
        for name, parameter in named_parameters:
            decays = parameter.ndim > 1 and not _is_table(name)
            key = f"{part}/{'decay' if decays else 'plain'}"
            decay = weight_decay if decays else 0.0
            group = groups.setdefault(
                key, {"name": key, "lr": lr, "weight_decay": decay, "params": []}
            )
            group["params"].append(parameter)
    optimizer = AdamW(list(groups.values()), fused=fused)
    optimizer.register_step_pre_hook(_lay_out_alike)

    def factor(step: int) -> float:
        rise = min(1.0, (step + 1) / (warmup_steps + 1))
        return rise * max(0.0, 1 - step / max_steps) ** power

    return optimizer, LambdaLR(optimizer, factor)


def _lay_out_alike(optimizer: Optimizer, *_: Any) -> None:
    """Lay moments out as their weights: on a CPU the fused kernel trusts they are.

    They are not if a checkpoint has another memory format. (Gradients are: autograd sees to it.)
    """
    for weight, state in optimizer.state.items():
        for name, moment in state.items():
            if moment.shape == weight.shape and moment.stride() != weight.stride():
                state[name] = torch.empty_like(weight).copy_(moment)


def _is_table(name: str) -> bool:
    """Whether a parameter is a table of positions, tokens or point embeddings."""
    parts = [part for part in name.split(".") if not part.isdigit()]
    owner = parts[-2] if parts[-1] == "weight" and len(parts) > 1 else parts[-1]
    return owner.endswith(("embed", "embedding", "token", "tokens")) or "pos" in owner


def trainable(module: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """Named parameters that train."""
    return [(name, p) for name, p in module.named_parameters() if p.requires_grad]


def moving_average(network: nn.Module, decay: float) -> AveragedModel:
    """A copy of a network that holds the exponential moving average of its weights and buffers.

    Its decay grows with the steps, see ``decay_at``.
    """

    def take(averaged: Any, latest: Any, taken: Any) -> None:
        get_ema_multi_avg_fn(decay_at(int(taken), decay))(averaged, latest, taken)

    average = AveragedModel(network, multi_avg_fn=take, use_buffers=True)
    return average.requires_grad_(requires_grad=False)
