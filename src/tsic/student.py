"""Light segmentation networks of any origin that answer with one type, `StudentOutput`."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tsic.data.classes import MAX_CLASSES
from tsic.errors import ConfigError, ShapeError, first_line, nearest
from tsic.grid import fit_to_image, require_images, size_of
from tsic.networks import Network
from tsic.networks.compact import Compact
from tsic.networks.hugging_face import build_hugging_face
from tsic.networks.imported import build_imported
from tsic.networks.smp import SMP_NAMES, build_smp
from tsic.options import require_choice

Weights = Literal["imagenet", "none"]
_AUXILIARY = "auxiliary_head."


@dataclass
class StudentOutput:
    """What a student says about a batch of images, at the strides of its own maps."""

    logits: Tensor
    """Unnormalised class scores, float ``(B, K, h, w)``, covering exactly the image."""
    features: tuple[Tensor, ...]
    """The encoder's maps from the pass that made the logits, coarsest last."""
    auxiliary: Tensor | None = None
    """The auxiliary head's class scores ``(B, K, h', w')``; only in training mode."""

    @property
    def coarsest(self) -> Tensor:
        """The last of the features; the logits of a network that gives none."""
        return self.features[-1] if self.features else self.logits


@dataclass(frozen=True)
class StudentSpec:
    """The arguments of `build_student`, kept beside a student so that it can be rebuilt."""

    name: str
    num_classes: int
    encoder: str = "resnet18"
    weights: Weights = "none"
    output_stride: int | None = None
    auxiliary: bool = False
    options: Mapping[str, object] = field(default_factory=dict)

    @property
    def is_hugging_face(self) -> bool:
        """Whether it is a model of transformers: a hub id, a folder, or a held configuration."""
        if self.name == "compact" or self.name in SMP_NAMES:
            return False
        holds_one = ":" not in self.name and isinstance(self.options.get("config"), Mapping)
        return "/" in self.name or holds_one or Path(self.name).is_dir()

    def to_dict(self) -> dict[str, Any]:
        """Return the arguments as plain values that JSON can hold."""
        return asdict(self) | {"options": dict(self.options)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "StudentSpec":
        """Read back what `to_dict` wrote.

        Raises:
            ConfigError: If a key is unknown, or ``name`` or ``num_classes`` is missing.
        """
        known = [one.name for one in fields(cls)]
        for key in values:
            if key not in known:
                raise ConfigError(f"student.{key} is unknown; {nearest(key, known)}")
        for key in ("name", "num_classes"):
            if key not in values:
                raise ConfigError(f"student.{key} is missing")
        return cls(**values)

    def deployed(self) -> "StudentSpec":
        """Describe the network that ships: no auxiliary head, and no weights to be fetched."""
        name = self.name
        if self.is_hugging_face and Path(name).is_dir():  # of somebody's machine
            name = f"transformers/{Path(name).resolve().name}"
        return replace(self, name=name, auxiliary=False, weights="none")


class Student(nn.Module):
    """A segmentation network for un-normalised RGB images of any height and width.

    Images are normalised with the network's own mean and standard deviation and padded with
    zeros, at the right and at the bottom, to sides that the network takes; what it returns is
    cut back so that every map covers exactly the image: cell ``(0, 0)`` starts at the image's
    corner and the last cell ends at the opposite one.

    Args:
        network: Normalised images in, logits and features out.
        spec: The arguments that built it.

    Attributes:
        logits_stride: Image pixels per cell of the logits.
        feature_strides: Likewise for each feature map.
        feature_channels: Channels of each feature map.

    Raises:
        ConfigError: If the network does not give ``num_classes`` logits on a regular grid, or
            the auxiliary head has no inner stage to stand on.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: Network, spec: StudentSpec) -> None:
        super().__init__()
        self.spec = replace(spec, options=network.options)
        self.network = network
        self.register_buffer("mean", torch.tensor(network.mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(network.std).view(1, 3, 1, 1))
        self.logits_stride, self.feature_strides, self.feature_channels = self._probe()
        self.auxiliary_head: nn.Module | None = None
        if spec.auxiliary:
            if len(self.feature_channels) < 2:
                raise ConfigError(
                    f"student.auxiliary needs two feature maps, '{spec.name}' gives "
                    f"{len(self.feature_channels)}; set student.auxiliary to false"
                )
            self.auxiliary_head = _fcn_head(self.feature_channels[-2], spec.num_classes)
        self.train()

    def forward(self, images: Tensor) -> StudentOutput:
        """Segment a batch in one pass.

        Args:
            images: RGB, float ``(B, 3, H, W)`` in [0, 1]; its type need not be the weights'.

        Returns:
            Logits, features and, in training mode, auxiliary logits. A map of stride ``s`` has
            ``ceil(H / s)`` rows and ``ceil(W / s)`` columns.

        Raises:
            ShapeError: If ``images`` is not such a batch, or is a single image in training mode
                and the network pools to one cell before a batch norm.
        """
        require_images(images, "student")
        size = size_of(images)
        padded = (self._padded(size[0]), self._padded(size[1]))
        normalised = ((images - self.mean) / self.std).to(self.mean.dtype)
        normalised = F.pad(normalised, (0, padded[1] - size[1], 0, padded[0] - size[0]))
        auxiliary = None
        try:
            logits, features = self.network(normalised)
            if self.training and self.auxiliary_head is not None:
                auxiliary = fit_to_image(self.auxiliary_head(features[-2]), padded, size)
        except ValueError as error:
            if "Expected more than 1 value per channel" not in str(error):
                raise
            raise ShapeError(
                f"student '{self.spec.name}' normalises a single value per channel on a batch "
                "of one image; train with at least 2 images per device, or call eval()"
            ) from error
        return StudentOutput(
            logits=fit_to_image(logits, padded, size),
            features=tuple(fit_to_image(feature, padded, size) for feature in features),
            auxiliary=auxiliary,
        )

    def deploy_state_dict(self) -> dict[str, Tensor]:
        """Return the weights that ship: all but the auxiliary head's.

        ``build_student(**spec.deployed().to_dict())`` loads them.
        """
        return {
            key: value for key, value in self.state_dict().items() if not key.startswith(_AUXILIARY)
        }

    def _padded(self, side: int) -> int:
        """Return the side of the image as the network gets it."""
        multiple = self.network.size_multiple
        return max(-(-side // multiple) * multiple, self.network.minimum_px)

    def idle_weights(self) -> list[str]:
        """Names of the network's trained weights that have no part in the logits."""
        was_training = self.training
        self.eval()  # batch statistics stay untouched
        trained = [
            (name, one) for name, one in self.network.named_parameters() if one.requires_grad
        ]
        empty = torch.zeros(1, 3, self._probe_side, self._probe_side, device=self.mean.device)
        logits, _ = self.network(empty)
        gradients = torch.autograd.grad(
            logits.sum(), [one for _, one in trained], allow_unused=True
        )
        self.train(was_training)
        return [name for (name, _), one in zip(trained, gradients, strict=True) if one is None]

    @property
    def _probe_side(self) -> int:
        return self._padded(max(2 * self.network.size_multiple, 64))

    @torch.no_grad()
    def _probe(self) -> tuple[int, tuple[int, ...], tuple[int, ...]]:
        """Learn strides and channels from one empty image; batch statistics stay untouched."""
        side = self._probe_side
        self.eval()
        try:
            logits, features = self.network(torch.zeros(1, 3, side, side))
        except RuntimeError as error:
            raise ConfigError(
                f"student '{self.spec.name}' cannot be run ({first_line(error)}); check it and "
                "student.options"
            ) from error
        except AssertionError as error:  # timm's way to refuse a size
            raise ConfigError(
                f"student '{self.spec.name}' with encoder '{self.spec.encoder}' does not take "
                f"{side}x{side} pixels ({error}); choose an encoder that takes any size"
            ) from error
        if logits.ndim != 4 or logits.shape[1] != self.spec.num_classes:
            raise ConfigError(
                f"student '{self.spec.name}' must return logits (B, {self.spec.num_classes}, h, w),"
                f" got {tuple(logits.shape)}"
            )
        if any(not isinstance(one, Tensor) or one.ndim != 4 for one in features):
            raise ConfigError(f"student '{self.spec.name}' must return features (B, C, h, w) each")
        maps = (logits, *features)
        for one in maps:
            if one.shape[2] != one.shape[3] or side % one.shape[2]:
                raise ConfigError(
                    f"student '{self.spec.name}' turns {side}x{side} pixels into "
                    f"{one.shape[2]}x{one.shape[3]} cells; each must cover the same whole number"
                )
        strides = [side // one.shape[2] for one in maps]
        if sorted(strides[1:]) != strides[1:]:
            raise ConfigError(
                f"student '{self.spec.name}' must return its coarsest features last, got strides "
                f"{strides[1:]}"
            )
        return strides[0], tuple(strides[1:]), tuple(one.shape[1] for one in features)


def build_student(
    name: str = "compact",
    *,
    num_classes: int,
    encoder: str = "resnet18",
    weights: Weights = "none",
    output_stride: int | None = None,
    auxiliary: bool = False,
    options: Mapping[str, object] | None = None,
) -> Student:
    """Build a student by name.

    Args:
        name: ``compact``; an architecture of segmentation_models_pytorch in lower case, such as
            ``deeplabv3``; a Hugging Face id (``org/name``) or local folder; or the import path
            of your own class (``package.module:Class``).
        num_classes: Classes ``K``, 2 to 254.
        encoder: Encoder of a segmentation_models_pytorch architecture: the library's own or any
            timm network. The other students ignore it.
        weights: ``imagenet`` fetches the encoder's ImageNet weights, or for a Hugging Face
            model the weights stored with it; ``none`` starts from random ones.
        output_stride: Stride of the encoder's last stage; None for the architecture's usual one.
        auxiliary: Whether a second head on the stage before last is trained along (the paper
            weighs its loss with 0.4). It is no part of the deployed model.
        options: Further arguments of the network's class.

    Returns:
        The student, in training mode.

    Raises:
        ConfigError: If the name or an argument is wrong; the message lists what is possible.
        CheckpointError: If weights cannot be read or fetched.

    Example:
        >>> student = build_student("compact", num_classes=11)
        >>> student(torch.zeros(2, 3, 90, 120)).logits.shape
        torch.Size([2, 11, 23, 30])
    """
    if not 2 <= num_classes <= MAX_CLASSES:
        raise ConfigError(f"student.num_classes must be 2 to {MAX_CLASSES}, got {num_classes}")
    require_choice("student.weights", weights, Weights)
    spec = StudentSpec(
        name, num_classes, encoder, weights, output_stride, auxiliary, dict(options or {})
    )
    return Student(_build_network(spec), spec)


def _build_network(spec: StudentSpec) -> Network:
    """Find the builder that a name belongs to."""
    if spec.name in SMP_NAMES:
        return build_smp(
            spec.name,
            num_classes=spec.num_classes,
            encoder=spec.encoder,
            weights=spec.weights,
            output_stride=spec.output_stride,
            options=spec.options,
        )
    if spec.output_stride is not None:
        raise ConfigError(
            f"student.output_stride is fixed for '{spec.name}'; leave it out, or choose an "
            "architecture of segmentation_models_pytorch"
        )
    if spec.is_hugging_face:
        return build_hugging_face(
            spec.name, num_classes=spec.num_classes, weights=spec.weights, options=spec.options
        )
    if spec.name != "compact" and ":" not in spec.name:
        raise ConfigError(
            f"student.name '{spec.name}' is unknown; {nearest(spec.name, ['compact', *SMP_NAMES])};"
            " or a Hugging Face id 'org/name', a folder, or an import path 'package.module:Class'"
        )
    if spec.weights == "imagenet":
        raise ConfigError(f"student '{spec.name}' has no ImageNet weights; set weights to none")
    if spec.name == "compact":
        return Compact.build(num_classes=spec.num_classes, options=spec.options)
    return build_imported(spec.name, num_classes=spec.num_classes, options=spec.options)


def _fcn_head(channels: int, num_classes: int) -> nn.Sequential:
    """Build the fully convolutional head that stands on an inner stage during training."""
    width = max(channels // 4, 32)
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Dropout2d(0.1),
        nn.Conv2d(width, num_classes, 1),
    )
