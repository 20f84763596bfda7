"""Which runs a comparison needs, each as a configuration of its own."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tsic.config import DistillConfig, RunConfig, TeacherConfig
from tsic.config_file import RUN, known_keys, with_values
from tsic.config_rules import broken_in_run, has_peer, micro_batch, unlabelled_images
from tsic.errors import ConfigError, nearest
from tsic.options import MAPPING_WIDTHS, RIVALS, Objective
from tsic.recipes import RECIPES

ALONE = "alone"
METHODS = (ALONE, *RIVALS, *RECIPES)
"""The student alone, the published methods, the cycle's recipes."""

ABLATIONS: Mapping[str, Sequence[Mapping[str, Any]]] = {
    "prompt": [{"teacher.prompt": kind} for kind in ("none", "index", "class")],
    "gradient": [{"teacher.gradient": kind} for kind in ("through", "stop")],
    "rounds": [{"teacher.rounds": count} for count in (1, 2)],
    "lora": [{"teacher.lora_rank": rank} for rank in (0, 4, 16)],
    "losses": [{f"objective.{name}_weight": 0.0} for name in ("kl", "ensemble", "feature", "mask")],
    "features": [
        {"objective.feature_loss": "hint"},
        {"objective.feature_loss": "attention", "objective.feature_weight": 1.0},
        {"objective.feature_loss": "mean_mse", "objective.feature_weight": 1.0},
    ],
    "hints": [{"teacher.hints_only": True, "objective.feature_loss": "hint"}],
    "scale": [{"teacher.scale": ratio} for ratio in (1.0, 2.0)],
    "warmup": [{"teacher.warmup_steps": 0}],
    "size": [{"teacher.channels": width} for width in (32, 64, 128)],
    "ramp": [{"teacher.ramp": share} for share in (0.0, 0.5)],
    "ema": [{"teacher.ema": decay} for decay in (None, 0.98)],
}
"""Switches of the cycle that ``--ablate`` varies, one at a time."""

OWN = (
    "data.unlabelled",
    "teacher.",
    "optim.teacher_lr",
    "optim.lora_lr",
    *(
        f"objective.{name}"
        for name in ("detach_", "ensemble_", "feature_", "kl_", "mask_", "teacher_", "temperature")
    ),
)
"""Beginnings of keys that the student alone has no use for; all others all rows must share."""


@dataclass(frozen=True)
class Job:
    """One run, or one row of the comparison, whose runs differ in the seed.

    Attributes:
        name: Of its folder, or as it stands in the table.
        config: Everything that determines it.
    """

    name: str
    config: RunConfig


def methods(base: RunConfig, names: Sequence[str], offline: Path | None) -> list[Job]:
    """The methods by name, the student alone first: all else is measured against it.

    Args:
        base: What all runs share; its teacher is the cycle's.
        names: Some of ``METHODS``, each also as ``NAME:TIMES``: trained so many times as long.
        offline: Folder of the run that teaches the methods with an offline teacher.

    Raises:
        ConfigError: If a name is unknown, or a method lacks its teacher.
    """
    variants = []
    for name in dict.fromkeys([ALONE, *names]):
        config = _method(_of_length(base, name), name.partition(":")[0], offline)
        if broken := list(broken_in_run(config)):
            raise ConfigError(f"method {name}: {'; '.join(broken)}")
        variants.append(Job(name, config))
    return variants


def _of_length(base: RunConfig, name: str) -> RunConfig:
    """The recipe at a method's own length, validated as often: more looks choose better."""
    _, colon, said = name.partition(":")
    if not colon:
        return base
    if not re.fullmatch(r"\d{1,4}(\.\d{1,4})?", said) or not float(said):
        raise ConfigError(
            f"--methods: '{name}' must end in a number above 0, as alone:3 for three times the "
            "steps"
        )
    steps, val_every = (
        max(1, round(float(said) * count)) for count in (base.max_steps, base.trainer.val_every)
    )
    return replace(base, max_steps=steps, trainer=replace(base.trainer, val_every=val_every))


def _method(base: RunConfig, name: str, offline: Path | None) -> RunConfig:
    if name not in METHODS:
        raise ConfigError(f"--methods: '{name}' is no method; {nearest(name, METHODS)}")
    if name in RECIPES:
        _require_cycle(base, f"method {name}")
        return _recipe(base, name)
    alone = without_cycle(base)
    if name == ALONE:
        return alone
    if not has_peer(name) and offline is None:
        raise ConfigError(
            f"method {name} needs a teacher that was trained before: add --offline with the folder "
            "of a run, or with the configuration of one, which is then trained first"
        )
    teacher = None if has_peer(name) else str(offline)
    distill = replace(base.distill, method=name, teacher=teacher)
    return replace(alone, distill=distill, data=base.data)  # it can teach on images without labels


def as_read(config: RunConfig) -> RunConfig:
    """The same run, whatever stands in keys of `distill` that its method does not read."""
    distill = config.distill
    if distill.method == "none":
        return replace(config, distill=DistillConfig())
    if has_peer(distill.method):
        distill = replace(distill, role=DistillConfig().role)
    return replace(config, distill=distill)


def without_cycle(base: RunConfig) -> RunConfig:
    """The run of whoever has no prompted teacher, whatever the cycle's own keys say."""
    unsaid = ["data.unlabelled", "data.unlabelled_share", "optim.teacher_lr", "optim.lora_lr"]
    config = _unsaid(base, [*unsaid, *_own(base.objective)])
    return replace(config, teacher=TeacherConfig(), distill=DistillConfig())


def _require_cycle(base: RunConfig, who: str) -> None:
    """Refuse to call a student alone a cycle."""
    if base.teacher.name == "none":
        raise ConfigError(f"{who} needs a teacher: set teacher.name in the config")
    if base.teacher.warmup_steps >= base.max_steps:
        raise ConfigError(
            f"{who}: teacher.warmup_steps {base.teacher.warmup_steps} leaves the teacher none of "
            f"max_steps {base.max_steps}; lower it"
        )


def trains_teacher(config: RunConfig) -> bool:
    """Whether a run leaves a prompted teacher that has learned."""
    teacher = config.teacher
    has_one = teacher.name != "none" and not teacher.hints_only
    return has_one and teacher.warmup_steps < config.max_steps


def _recipe(base: RunConfig, name: str) -> RunConfig:
    """The cycle as configured; another recipe changes all that it presets but the schedule."""
    if name == base.recipe:
        return base
    if base.recipe != "cycle":
        raise ConfigError(
            f"method {name} beside a configuration of recipe {base.recipe}: what that one presets "
            "would stay; give a configuration of recipe cycle"
        )
    teacher = {
        **RECIPES[name].get("teacher", {}),
        "warmup_steps": base.teacher.warmup_steps,
        "hints_only": False,
        "hint_cache": None,
        "scale": 1.0,
    }
    objective = RECIPES[name].get("objective", {})
    return replace(
        base,
        recipe=name,  # type: ignore[arg-type]
        teacher=replace(base.teacher, **teacher),
        objective=replace(base.objective, **objective),
    )


def ablations(base: RunConfig, names: Sequence[str]) -> list[Job]:
    """The student alone, the cycle as it is configured, and one variant per other value.

    Args:
        base: The cycle's configuration.
        names: Names of ``ABLATIONS``, or ``key=value[,value]`` of any key of the cycle's own.

    Raises:
        ConfigError: If a name or key is unknown, a value is wrong or a switch changes nothing.
    """
    _require_cycle(base, "--ablate")
    variants = [Job(ALONE, _method(base, ALONE, None)), Job("cycle", base)]
    known = [_as_read(base)]
    for name in names:
        varied = [_varied(base, name, values) for values in _values(name)]
        if all(_as_read(one.config) == known[0] for one in varied):
            raise ConfigError(
                f"--ablate {name}: none of its values makes a run that differs from the cycle's; "
                "leave it out, or look whether anything reads it (weights of 0, teacher.hints_only)"
            )
        for one in varied:
            if (read := _as_read(one.config)) not in known:
                known.append(read)
                variants.append(one)
    return variants


def _varied(base: RunConfig, name: str, values: Mapping[str, Any]) -> Job:
    """The cycle with some keys at other values."""
    try:
        config = with_values(RUN, base, values)
    except ConfigError as error:
        raise ConfigError(f"--ablate {name}: {error}") from error
    shown = ", ".join(f"{key} {value}" for key, value in values.items())
    _require_cycle(config, f"--ablate {shown}")
    return Job(shown, config)


def _as_read(config: RunConfig) -> RunConfig:
    """The same run, whatever stands in keys that it does not read or leaves to a default."""
    config = _unsaid(config, [key for holds, keys in _idle(config) if holds for key in keys])
    optim, teacher = config.optim, config.teacher
    rate = optim.lr if optim.teacher_lr is None else optim.teacher_lr
    share = unlabelled_images(config) / micro_batch(config)
    return replace(
        config,
        data=replace(config.data, unlabelled_share=share),
        teacher=replace(teacher, channels=teacher.channels or MAPPING_WIDTHS[teacher.mapping]),
        optim=replace(
            optim, teacher_lr=rate, lora_lr=rate if optim.lora_lr is None else optim.lora_lr
        ),
    )


def _idle(config: RunConfig) -> Iterator[tuple[bool, Sequence[str]]]:
    """Keys that a run of the cycle does not read, each with whether that holds."""
    teacher, objective = config.teacher, config.objective
    no_kl, no_features = not objective.kl_weight, not objective.feature_weight
    no_ensemble, has_hints = not objective.ensemble_weight, objective.feature_loss == "hint"
    if teacher.hints_only:
        read = ("name", "hints_only", "hint_cache", "hint_side", "scale", "warmup_steps")
        yield True, [f"teacher.{key}" for key in vars(teacher) if key not in read]
        yield True, [key for key in _own(objective) if not key.startswith("objective.feature_")]
        yield True, ["optim.teacher_lr", "optim.lora_lr"]
    by_class = ("gradient", "max_classes", "class_tokens")
    yield teacher.prompt != "class", [f"teacher.{key}" for key in by_class]
    yield teacher.prompt != "class", ["objective.mask_weight"]
    yield teacher.prompt == "none", ["teacher.rounds", "teacher.mask_stride"]
    yield teacher.hint_cache is None, ["teacher.hint_side"]
    yield not teacher.lora_rank, ["optim.lora_lr"]
    yield no_kl, ["objective.kl_where"]
    yield no_ensemble, ["objective.detach_ensemble"]
    yield no_kl and no_ensemble, ["objective.kl_average", "objective.temperature"]
    yield no_features, ["objective.feature_loss"]
    yield no_kl and (no_features or has_hints), ["teacher.ramp"]
    yield no_kl and no_features, ["teacher.ema", "objective.detach_teacher"]


def _own(objective: Objective) -> list[str]:
    """Keys of the cycle's own among those of the losses."""
    return [key for name in vars(objective) if (key := f"objective.{name}").startswith(OWN)]


def _unsaid(config: RunConfig, keys: Sequence[str]) -> RunConfig:
    """A configuration with some keys at their defaults."""
    default = RunConfig()
    for section, name in (key.split(".") for key in keys):
        value = getattr(getattr(default, section), name)
        changed = replace(getattr(config, section), **{name: value})
        config = replace(config, **{section: changed})
    return config


def _values(name: str) -> Sequence[Mapping[str, Any]]:
    key, is_own, values = name.partition("=")
    if key in known_keys(RunConfig) and not key.startswith(OWN):
        raise ConfigError(
            f"--ablate: {key} is none of the cycle's own keys, so a gain over the student alone "
            "would say nothing of it; compare two configurations instead"
        )
    if is_own:
        return [{key: value} for value in values.split(",")]
    if name not in ABLATIONS:
        raise ConfigError(f"--ablate: '{name}' is no switch; {nearest(name, ABLATIONS)}")
    return ABLATIONS[name]


def jobs(variants: Sequence[Job], seeds: int) -> list[Job]:
    """One run per variant and seed, seed by seed, so that an early look is a fair one."""
    return [
        Job(run_name(one.name, one.config.seed + i), replace(one.config, seed=one.config.seed + i))
        for i in range(seeds)
        for one in variants
    ]


def run_name(variant: str, seed: int) -> str:
    """Name of a run's folder."""
    return re.sub(r", |[ /\\\\:]", "_", f"{variant}-seed{seed}")
