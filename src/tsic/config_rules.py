"""What the types of a configuration do not express."""

import math
from collections.abc import Iterator
from operator import attrgetter
from pathlib import Path

from tsic.config import LoopConfig, RunConfig
from tsic.errors import nearest
from tsic.options import RIVALS
from tsic.recipes import RECIPES

Broken = Iterator[str]
"""What to say of each rule that does not hold."""

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
    "data.cutmix": (0, 1),
    "data.unlabelled_share": (0, 1),
    "objective.ohem_min_kept": (1, None),
    "objective.class_balance": (0, 1),
}


def outside(config: object, bounds: Bounds) -> Broken:
    """Numbers that are out of their bounds."""
    for key, (low, high) in bounds.items():
        value = attrgetter(key)(config)
        if not low <= value <= (math.inf if high is None else high):
            rule = f"be >= {low}" if high is None else f"lie in [{low}, {high}]"
            yield f"{key} must {rule}, got {value}"


def broken_in_loop(config: object, trainer: LoopConfig, batch_key: str) -> Broken:
    """Rules of whatever is trained in steps."""
    yield from outside(config, _LOOP)
    per_step = trainer.accumulate * trainer.devices
    batch_size = attrgetter(batch_key)(config)
    if per_step < 1 or batch_size < 1 or batch_size % per_step:
        yield (
            f"{batch_key} must be a multiple of trainer.devices x trainer.accumulate = "
            f"{per_step}, got {batch_size}"
        )


def broken_in_run(config: RunConfig) -> Broken:
    """Rules of a run that `tsic train` trains."""
    trainer, objective = config.trainer, config.objective
    weights = [f"objective.{name}" for name in vars(objective) if name.endswith("_weight")]
    yield from broken_in_loop(config, trainer, "data.batch_size")
    yield from outside(config, _RUN | dict.fromkeys(weights, (0, None)))
    if trainer.graph and trainer.devices * trainer.accumulate != 1:
        yield "trainer.graph needs trainer.devices: 1 and trainer.accumulate: 1"
    if trainer.compile and trainer.devices != 1:
        yield "trainer.compile needs trainer.devices: 1"
    yield from _broken_in_recipe(config)
    yield from _broken_in_data(config)
    yield from _broken_in_teacher(config)
    yield from broken_in_optim(config.optim)
    yield from _broken_in_distill(config)
    yield from _broken_without_labels(config)
    if not objective.temperature > 0:
        yield "objective.temperature must be > 0"
    threshold = objective.ohem_threshold
    if threshold is not None and not 0 <= threshold <= 1:
        yield f"objective.ohem_threshold is a probability from 0 to 1, got {threshold}"


def _broken_in_recipe(config: RunConfig) -> Broken:
    """A recipe that is named alone, as where the configuration is built in Python."""
    for section, preset in RECIPES.get(config.method, {}).items():
        values = vars(getattr(config, section))
        usual = vars(getattr(RunConfig(), section))
        if not any(values[key] == preset[key] != usual[key] for key in preset):
            yield (
                f"recipe: {config.recipe} is named, but nothing that it presets in {section} is "
                f"there; begin with tsic.config_file.load_config(None, ['--recipe', "
                f"'{config.recipe}']), or take recipe: cycle"
            )


def _broken_in_data(config: RunConfig) -> Broken:
    data = config.data
    if not 16 <= min(data.crop) <= max(data.crop) <= 16384:
        yield f"data.crop must be at least 16 x 16 and at most 16384 a side, got {data.crop}"
    if not 0.01 <= data.scale[0] <= data.scale[1] <= 100:
        yield f"data.scale must be two rising ratios from 0.01 to 100, got {data.scale}"
    if data.resize is not None and min(data.resize) < 1:
        yield f"data.resize must be height and width in pixels, got {data.resize}"
    if data.cutmix and micro_batch(config) < 2:
        yield (
            "data.cutmix exchanges boxes between the images that a device sees at a time: "
            "data.batch_size must be at least 2 x trainer.devices x trainer.accumulate"
        )


def _broken_in_teacher(config: RunConfig) -> Broken:
    teacher, objective = config.teacher, config.objective
    if teacher.channels is not None and (teacher.channels < 1 or teacher.channels % 8):
        yield f"teacher.channels must be a multiple of 8, got {teacher.channels}"
    if teacher.name != "none" and teacher.mapping != "light":
        yield from _broken_in_uper(config)
    has_hints = objective.feature_loss == "hint" and objective.feature_weight > 0
    if teacher.hints_only and (teacher.name == "none" or not has_hints):
        yield (
            "teacher.hints_only needs a teacher.name, objective.feature_loss: hint and an "
            "objective.feature_weight above 0"
        )
    if teacher.hint_cache is not None and not teacher.hints_only:
        yield (
            "teacher.hint_cache needs teacher.hints_only: true, since an encoder that learns sees "
            "an image anew in each step"
        )
    if teacher.hint_cache is not None and not _may_be_folder(Path(teacher.hint_cache)):
        yield f"teacher.hint_cache must name a folder, got '{teacher.hint_cache}', a file"
    if teacher.hint_cache is not None and teacher.scale != 1:
        yield (
            "teacher.scale has no part in teacher.hint_cache, for which teacher.hint_side says how "
            "large the encoder sees an image; leave it out"
        )
    if teacher.ema is not None and not 0 < teacher.ema < 1:
        yield f"teacher.ema must lie between 0 and 1, got {teacher.ema}"


def _may_be_folder(path: Path) -> bool:
    """Whether no file stands where a folder or one around it is to be."""
    return not any(one.is_file() for one in (path, *path.parents))


def _broken_in_uper(config: RunConfig) -> Broken:
    mapping, crop = config.teacher.mapping, config.data.crop
    if micro_batch(config) < 2:
        yield (
            f"teacher.mapping {mapping} normalises over the images of a device: "
            "data.batch_size must be at least 2 x trainer.devices x trainer.accumulate"
        )
    if min(crop) * config.teacher.scale < 32:
        yield (
            f"teacher.mapping {mapping} halves the encoder's maps: data.crop must be at least "
            f"32 x 32 at teacher.scale, got {crop} at {config.teacher.scale}"
        )


def micro_batch(config: RunConfig) -> int:
    """How many images a device sees at a time."""
    return config.data.batch_size // max(1, config.trainer.devices * config.trainer.accumulate)


def unlabelled_images(config: RunConfig) -> int:
    """How many of them have no labels."""
    share = config.data.unlabelled_share if config.data.unlabelled else 0.0
    return round(share * micro_batch(config)) if 0 <= share <= 1 else 0


def broken_in_optim(optim: object) -> Broken:
    """Rules of an optimiser; ``None`` leaves a number out."""
    bounds = {
        "lr": "> 0",
        "clip": "> 0, or null for no limit",
        **dict.fromkeys(
            ("teacher_lr", "lora_lr", "weight_decay", "lr_warmup_steps", "power"), ">= 0"
        ),
    }
    numbers = {name: value for name, value in vars(optim).items() if value is not None}
    for name, rule in bounds.items():
        number = numbers.get(name, 1)
        if not (number >= 0 if rule == ">= 0" else number > 0):
            yield f"optim.{name} must be {rule}, got {number}"
    if not 0 < numbers.get("ema", 0.5) < 1:
        yield f"optim.ema must lie between 0 and 1, got {numbers['ema']}"


def has_peer(method: str) -> bool:
    """Whether a published method's teacher learns beside the student."""
    from tsic.rivals import rival_class  # which imports PyTorch

    return rival_class(method).teacher == "peer"


def _broken_in_distill(config: RunConfig) -> Broken:
    distill = config.distill
    if distill.method == "none":
        return
    if distill.method not in RIVALS:
        told = nearest(distill.method, RIVALS)
        yield f"distill.method: '{distill.method}' is no method; {told}"
        return
    if config.teacher.name != "none":
        yield f"distill.method {distill.method} stands in the cycle's place: set teacher.name: none"
    has_own = has_peer(distill.method)
    if has_own and distill.teacher is not None:
        yield (
            f"distill.teacher: method {distill.method} has none, its teacher learns beside the "
            "student"
        )
    if not has_own and distill.teacher is None:
        yield "distill.teacher must name the folder of a finished run, which teaches"
    if not distill.weight > 0:
        yield f"distill.weight must be > 0, got {distill.weight}"


def _broken_without_labels(config: RunConfig) -> Broken:
    data, objective = config.data, config.objective
    if data.unlabelled is None:
        return
    if not data.unlabelled:
        yield "data.unlabelled must name a folder; null for none"
    if not 0 < unlabelled_images(config) < micro_batch(config):
        yield (
            f"data.unlabelled_share {data.unlabelled_share} leaves no image with labels, or none "
            f"without, among the {micro_batch(config)} that a device sees at a time; change it, or "
            "data.batch_size"
        )
    if config.distill.method != "none":
        return
    if config.teacher.name == "none":
        yield "data.unlabelled needs a teacher: set teacher.name or distill.method"
    if not (objective.kl_weight > 0 or objective.feature_weight > 0):
        yield (
            "data.unlabelled needs something that teaches there: set objective.kl_weight or "
            "objective.feature_weight above 0"
        )
    asks_labels = objective.kl_weight != 0 and objective.kl_where != "everywhere"
    if asks_labels and not config.teacher.hints_only:
        yield (
            "data.unlabelled needs objective.kl_where: everywhere, since no label tells where the "
            "teacher is better"
        )
