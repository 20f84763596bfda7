"""Everything that determines a pretraining, as frozen dataclasses; each field says what it does."""

from dataclasses import dataclass, field

from tsic.config import LoopConfig
from tsic.config_file import Schema
from tsic.config_rules import Bounds, Broken, broken_in_loop, broken_in_optim, outside


@dataclass(frozen=True)
class SourceConfig:
    """Where images with regions come from; shares are weights of what a step draws."""

    leaves: float = 0.75
    """Share of drawn dead leaves: shapes of all sizes over one another, as a camera sees them."""
    streets: float = 0.25
    """Share of the demo's drawn street scenes."""
    images: str | None = None
    """Folder of unlabelled images, subfolders included; regions are proposed in them."""
    images_share: float = 1.0
    """Share of these images, if there is a folder."""
    name: str = "none"
    """Reader of a labelled dataset, as `data.name` of `tsic train`; its classes' connected parts
    are regions. `none` for no such dataset."""
    root: str = "."
    """The labelled dataset's folder."""
    classes: str | None = None
    """Classes YAML of a `folder`; by default `classes.yaml` in its root."""
    split: str = "train"
    """Split of the labelled dataset."""
    labelled_share: float = 1.0
    """Share of the labelled dataset, if there is one."""


@dataclass(frozen=True)
class PretrainOptimConfig:
    """AdamW with a polynomial schedule."""

    lr: float = 1e-3
    """Learning rate."""
    weight_decay: float = 0.01
    """Decoupled decay; none on norms, biases and tables of embeddings."""
    lr_warmup_steps: int = 200
    """Steps of linear rise from 0 to the learning rate."""
    power: float = 0.9
    """Exponent of the polynomial decay to 0 at `max_steps`."""
    clip: float | None = 1.0
    """Largest norm of the gradient; `null` for no limit."""
    ema: float | None = 0.999
    """Decay of an exponential moving average of the weights, which is what is scored and saved;
    `null` for none."""


@dataclass(frozen=True)
class PretrainConfig:
    """Everything that determines a pretraining."""

    seed: int = 0
    """Determines images, masks and prompts of every step."""
    max_steps: int = 20_000
    """Optimiser steps."""
    init: str = "tiny-edgetam"
    """Where weights come from: any value of `teacher.name`. `tiny-edgetam` (random, the embedded
    model's architecture), `embedded`, a Hugging Face id or folder, a pretraining's folder."""
    crops: tuple[tuple[int, int], ...] = (
        (96, 96),
        (96, 128),
        (128, 96),
        (128, 128),
        (128, 160),
        (192, 256),
    )
    """Heights and widths in pixels, multiples of 32; each step sees one of them. Held-out images
    have the last."""
    scale: tuple[float, float] = (0.5, 1.5)
    """Range of the random resize ratio of images that are not drawn."""
    batch_size: int = 8
    """Images per optimiser step, over all devices and accumulated batches."""
    prompts: int = 8
    """Masks asked for in each image."""
    rounds: int = 2
    """How often masks are asked for; in each further round a quarter of those of the round before,
    with the answer as the prompt and, for half of them, a point where it is wrong."""
    val_images: int = 64
    """Images of each source that are held out to score it; of a folder at most a tenth."""
    workers: int = 2
    """Processes that draw and read images; 0 does it in the training process."""
    source: SourceConfig = field(default_factory=SourceConfig)
    """Where images with regions come from."""
    optim: PretrainOptimConfig = field(default_factory=PretrainOptimConfig)
    """AdamW with a polynomial schedule."""
    trainer: LoopConfig = field(default_factory=LoopConfig)
    """Machine, precision, and how often to look."""


_BOUNDS: Bounds = {
    "prompts": (1, None),
    "rounds": (1, None),
    "val_images": (1, None),
    "workers": (0, None),
}


def _broken(config: PretrainConfig) -> Broken:
    source, sides = config.source, [side for crop in config.crops for side in crop]
    yield from broken_in_loop(config, config.trainer, "batch_size")
    yield from outside(config, _BOUNDS)
    if not config.crops or any(side < 32 or side % 32 for side in sides):
        yield f"crops must be pairs of multiples of 32, got {config.crops}"
    if not 0.01 <= config.scale[0] <= config.scale[1] <= 100:
        yield f"scale must be two rising ratios from 0.01 to 100, got {config.scale}"
    yield from broken_in_optim(config.optim)
    all_shares = (source.leaves, source.streets, source.images_share, source.labelled_share)
    shares = [source.leaves, source.streets]
    shares += [source.images_share] if source.images else []
    shares += [source.labelled_share] if source.name != "none" else []
    if not (min(all_shares) >= 0 and sum(shares) > 0):
        yield "the shares of `source` must be >= 0, and one of the sources there are must have more"


_GONE = {"trainer.graph": False, "trainer.compile": False}

PRETRAIN = Schema(PretrainConfig, "tsic pretrain", _broken, {}, _GONE)
