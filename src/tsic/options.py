"""Choices inside the cycle; light to import, so that help and error messages are quick."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from tsic.errors import ConfigError, nearest

Average = Literal["valid", "all"]
KlAverage = Literal["pixels", "elements"]
KlWhere = Literal["everywhere", "better"]
FeatureLoss = Literal["attention", "hint", "mean_mse"]
PromptKind = Literal["none", "index", "class"]
Gradient = Literal["through", "stop"]
MappingKind = Literal["light", "uper", "uper-released"]
MaskStride = Literal[16, 4]
Attention = Literal["released", "repaired"]
Role = Literal["student", "teacher"]

DATASETS = (
    "ade20k",
    "camvid",
    "cityscapes",
    "coco",
    "coco_stuff",
    "folder",
    "hub",
    "packed",
    "voc",
    "yolo",
)
"""Names of the readers of datasets."""

TINY_MODELS = ("tiny-sam", "tiny-sam2", "tiny-edgetam", "tiny-mobile-sam")
"""Names of promptable models of random weights."""

MAPPING_WIDTHS: Mapping[MappingKind, int] = {"light": 128, "uper": 512, "uper-released": 512}
"""Channels of a mapping decoder whose width is not said."""

# Each is one file; listed without importing them.
RIVALS = tuple(sorted(one.stem for one in Path(__file__).parent.glob("rivals/[a-z]*.py")))
"""Names of the published methods that can stand in the cycle's place."""


def require_choice(key: str, value: object, kind: Any) -> None:
    """Refuse a value that a ``Literal`` does not list.

    Raises:
        ConfigError: Naming the key and the choices.
    """
    if value not in get_args(kind):
        told = nearest(str(value), map(str, get_args(kind)))
        raise ConfigError(f"{key} cannot be {value!r}; {told}")


@dataclass(frozen=True)
class Objective:
    """Weights and rules of the cycle's losses; the defaults are the ``cycle`` recipe.

    Raises:
        ConfigError: If a word is none of the choices.
    """

    auxiliary_weight: float = 0.4
    """Cross-entropy of the student's auxiliary head, where it has one (paper: 0.4)."""
    teacher_weight: float = 1.0
    """L_seg, the teacher's cross-entropy (paper: 1)."""
    mask_weight: float = 1.0
    """Cross-entropy and Dice of each class-prompted mask (ours; the paper has none)."""
    kl_weight: float = 2.0
    """L_kd-p, teacher to student at every pixel (public code: 5, with `kl_average: elements`)."""
    ensemble_weight: float = 0.0
    """Inner-loop ensemble: mean of both logits to teacher (public code: 1)."""
    feature_weight: float = 3.0
    """L_kd-f, teacher's features to student's (public code: 1)."""
    temperature: float = 1.0
    """Softening of both KL terms (public code: 5)."""
    kl_where: KlWhere = "better"
    """L_kd-p at each pixel in proportion to how much more probability the teacher gives the true
    class than the student does (`better`), or `everywhere` alike (paper, public code)."""
    kl_average: KlAverage = "pixels"
    """Sum over classes and average labelled pixels, or average all `elements` (public code)."""
    feature_loss: FeatureLoss = "hint"
    """A `hint`: the student's coarsest features, projected, are what the teacher's encoder sees, in
    full from the step at which it joins; or distance of unit-length `attention` maps, or of channel
    means (public code: `mean_mse`)."""
    detach_teacher: bool = True
    """Whether the teacher stands still in L_kd-p and L_kd-f (public code: false)."""
    detach_ensemble: bool = True
    """Whether the mean of both logits stands still as the target (public code: false)."""
    class_balance: float = 0.0
    """Exponent with which rare classes weigh more, in cross-entropies and in L_kd-p where it is
    `better` (`frequency ** -exponent`):
    0 not at all, 1 all classes alike in total. Try 0.5 where rare classes matter."""
    ohem: bool = False
    """Cross-entropy on hard pixels only (public code: true)."""
    ohem_threshold: float | None = 0.7
    """Pixels whose class has less than this probability are hard (public code: 0.7)."""
    ohem_min_kept: int = 100_000
    """At least this many pixels per image are kept (public code: 100,000)."""
    average: Average = "valid"
    """Divide cross-entropies by the pixels that count, or by `all` (public code)."""

    def __post_init__(self) -> None:
        require_choice("objective.kl_where", self.kl_where, KlWhere)
        require_choice("objective.kl_average", self.kl_average, KlAverage)
        require_choice("objective.feature_loss", self.feature_loss, FeatureLoss)
        require_choice("objective.average", self.average, Average)
