"""What the types of a configuration do not express."""

from collections.abc import Iterator, Sequence
from operator import attrgetter

from tsic.config import LoopConfig, RunConfig
from tsic.errors import nearest
from tsic.options import RIVALS

Rules = Sequence[tuple[bool, str]]
"""Whether each rule holds, and what to say where it does not."""


Bounds = dict[str, tuple[float, float | None]]
"""By key, the least value and the largest; ``None`` where there is none."""

_LOOP: Bounds = {
    "max_steps": (1, None),
    "trainer.devices": (1, None),
    "trainer.accumulate": (1, None),
    "trainer.val_every": (1, None),
    "trainer.save_every": (1, None),
    "trainer.log_every": (1, None),
    "trainer.pictures": (0, None),
    "seed": (0, 2**32 - 1),
}
_RUN: Bounds = {
    "teacher.rounds": (1, None),
    "teacher.max_classes": (1, None),
    "teacher.lora_rank": (0, None),
    "teacher.ramp": (0, 1),
    "teacher.hint_side": (64, None),
    "teacher.scale": (0.1, 10),
    "teacher.warmup_steps": (0, None),
    "data.workers": (0, None),
    "data.flip": (0, 1),
    "data.rare_crop": (0, 1),
    "data.max_class_share": (0, 1),
    "data.unlabelled_share": (0, 1),
    "objective.ohem_min_kept": (1, None),
    "objective.class_balance": (0, 1),
}


def within(config: object, bounds: Bounds) -> Iterator[tuple[bool, str]]:
    """Rules of numbers that have bounds."""
    for key, (low, high) in bounds.items():
        value = attrgetter(key)(config)
        rule = f"be >= {low}" if high is None else f"lie in [{low}, {high}]"
        holds = value >= low and (high is None or value <= high)
        yield holds, f"{key} must {rule}, got {value}"


def loop_rules(config: object, trainer: LoopConfig, batch_key: str) -> list[tuple[bool, str]]:
    """Rules of whatever is trained in steps."""
    per_step = trainer.accumulate * trainer.devices
    batch_size = attrgetter(batch_key)(config)
    return [
        *within(config, _LOOP),
        (
            per_step >= 1 and batch_size >= 1 and batch_size % max(per_step, 1) == 0,
            f"{batch_key} must be a multiple of trainer.devices x trainer.accumulate = "
            f"{per_step}, got {batch_size}",
        ),
    ]


def run_rules(config: RunConfig) -> Rules:
    """Rules of a run that `tsic train` trains."""
    weights = [f"objective.{name}" for name in vars(config.objective) if name.endswith("_weight")]
    return [
        *loop_rules(config, config.trainer, "data.batch_size"),
        *within(config, _RUN | dict.fromkeys(weights, (0, None))),
        (
            not config.trainer.graph or config.trainer.devices * config.trainer.accumulate == 1,
            "trainer.graph needs trainer.devices: 1 and trainer.accumulate: 1",
        ),
        (
            not config.trainer.compile or config.trainer.devices == 1,
            "trainer.compile needs trainer.devices: 1",
        ),
        (
            16 <= min(config.data.crop) <= max(config.data.crop) <= 16384,
            f"data.crop must be at least 16 x 16 and at most 16384 a side, got {config.data.crop}",
        ),
        (
            0.01 <= config.data.scale[0] <= config.data.scale[1] <= 100,
            f"data.scale must be two rising ratios from 0.01 to 100, got {config.data.scale}",
        ),
        (
            config.data.resize is None or min(config.data.resize) >= 1,
            f"data.resize must be height and width in pixels, got {config.data.resize}",
        ),
        (
            config.teacher.channels is None
            or (config.teacher.channels > 0 and config.teacher.channels % 8 == 0),
            f"teacher.channels must be a multiple of 8, got {config.teacher.channels}",
        ),
        (
            config.teacher.name == "none"
            or config.teacher.mapping == "light"
            or micro_batch(config) > 1,
            f"teacher.mapping {config.teacher.mapping} normalises over the images of a device: "
            "data.batch_size must be at least 2 x trainer.devices x trainer.accumulate",
        ),
        (
            config.teacher.name == "none"
            or config.teacher.mapping == "light"
            or min(config.data.crop) >= 32,
            f"teacher.mapping {config.teacher.mapping} halves the encoder's maps: data.crop must "
            f"be at least 32 x 32, got {config.data.crop}",
        ),
        (
            not config.teacher.hints_only
            or (
                config.teacher.name != "none"
                and config.objective.feature_loss == "hint"
                and config.objective.feature_weight > 0
            ),
            "teacher.hints_only needs a teacher.name, objective.feature_loss: hint and an "
            "objective.feature_weight above 0",
        ),
        (
            config.teacher.hint_cache is None or config.teacher.hints_only,
            "teacher.hint_cache needs teacher.hints_only: true, since an encoder that learns sees "
            "an image anew in each step",
        ),
        (
            config.teacher.hint_cache is None or config.teacher.scale == 1,
            "teacher.scale has no part in teacher.hint_cache, for which teacher.hint_side says how "
            "large the encoder sees an image; leave it out",
        ),
        *optim_rules(config.optim),
        *_distill_rules(config),
        *_unlabelled_rules(config),
        (config.objective.temperature > 0, "objective.temperature must be > 0"),
        (
            config.objective.ohem_threshold is None or 0 <= config.objective.ohem_threshold <= 1,
            "objective.ohem_threshold is a probability from 0 to 1, got "
            f"{config.objective.ohem_threshold}",
        ),
        (
            config.teacher.ema is None or 0 < config.teacher.ema < 1,
            f"teacher.ema must lie between 0 and 1, got {config.teacher.ema}",
        ),
    ]


def micro_batch(config: RunConfig) -> int:
    """How many images a device sees at a time."""
    return config.data.batch_size // max(1, config.trainer.devices * config.trainer.accumulate)


def unlabelled_images(config: RunConfig) -> int:
    """How many of them have no labels."""
    share = config.data.unlabelled_share if config.data.unlabelled else 0.0
    return round(share * micro_batch(config)) if 0 <= share <= 1 else 0


def optim_rules(optim: object) -> list[tuple[bool, str]]:
    """Rules of any optimiser's numbers, a dataclass of which not each has all."""
    numbers = {name: value for name, value in vars(optim).items() if value is not None}
    bounds = {
        "lr": "> 0",
        "clip": "> 0, or null for no limit",
        **dict.fromkeys(
            ("teacher_lr", "lora_lr", "weight_decay", "lr_warmup_steps", "power"), ">= 0"
        ),
    }
    return [
        *(
            (
                numbers[name] >= 0 if bound == ">= 0" else numbers[name] > 0,
                f"optim.{name} must be {bound}, got {numbers[name]}",
            )
            for name, bound in bounds.items()
            if name in numbers
        ),
        (
            0 < numbers.get("ema", 0.5) < 1,
            f"optim.ema must lie between 0 and 1, got {numbers.get('ema')}",
        ),
    ]


def has_peer(method: str) -> bool:
    """Whether a published method's teacher learns beside the student."""
    from tsic.rivals import rival_class  # which imports PyTorch

    return rival_class(method).teacher == "peer"


def _distill_rules(config: RunConfig) -> Rules:
    distill = config.distill
    if distill.method == "none":
        return []
    if distill.method not in RIVALS:
        told = nearest(distill.method, RIVALS)
        return [(False, f"distill.method: '{distill.method}' is no method; {told}")]
    has_own = has_peer(distill.method)
    return [
        (
            config.teacher.name == "none",
            f"distill.method {distill.method} stands in the cycle's place: set teacher.name: none",
        ),
        (
            (distill.teacher is None) == has_own,
            f"distill.teacher: method {distill.method} has none, its teacher learns beside the "
            "student"
            if has_own
            else "distill.teacher must name the folder of a finished run, which teaches",
        ),
        (distill.weight > 0, f"distill.weight must be > 0, got {distill.weight}"),
    ]


def _unlabelled_rules(config: RunConfig) -> Rules:
    data, objective = config.data, config.objective
    if data.unlabelled is None:
        return []
    rules = [
        (data.unlabelled != "", "data.unlabelled must name a folder; null for none"),
        (
            0 < unlabelled_images(config) < micro_batch(config),
            f"data.unlabelled_share {data.unlabelled_share} leaves no image with labels, or none "
            f"without, among the {micro_batch(config)} that a device sees at a time; change it, or "
            "data.batch_size",
        ),
    ]
    if config.distill.method != "none":
        return rules
    return [
        *rules,
        (
            config.teacher.name != "none",
            "data.unlabelled needs a teacher: set teacher.name or distill.method",
        ),
        (
            objective.kl_weight > 0 or objective.feature_weight > 0,
            "data.unlabelled needs something that teaches there: set objective.kl_weight or "
            "objective.feature_weight above 0",
        ),
        (
            config.teacher.hints_only
            or objective.kl_weight == 0
            or objective.kl_where == "everywhere",
            "data.unlabelled needs objective.kl_where: everywhere, since no label tells where the "
            "teacher is better",
        ),
    ]
