"""The compact student: a small encoder-decoder of plain operations, meant to train from scratch."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tsic.errors import ConfigError, nearest
from tsic.networks import Maps, Network

_GROUP_WIDTH = 16
_DILATIONS = (1, 2, 2, 4, 4, 4, 4, 4)
_OPTIONS = ("width", "logits_stride", "dilations")


class Compact(nn.Module):
    """Residual stages at strides 4, 8 and 16 and a light decoder that adds them up again.

    Every block is a grouped 3x3 convolution between two 1x1 ones. Most weights lie in the last
    stage, where half of each 3x3 convolution is dilated, so that the network sees far without
    halving the map once more. A global average adds what the whole image is about. Only
    convolution, batch norm, ReLU, averages and bilinear resizing occur, so that it exports and
    quantises everywhere.

    Args:
        num_classes: Classes ``K``.
        width: Factor on the channels of every layer, above 0.
        logits_stride: Image pixels per cell of the logits, 4 or 8.
        dilations: Dilation of each block of the last stage; the first block halves the map.

    Source:
        Splitting a grouped convolution over two dilations: the D block of RegSeg, Gao,
        arXiv:2111.09957, which is trained from scratch, too.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        width: float = 1.0,
        logits_stride: int = 4,
        dilations: Sequence[int] = _DILATIONS,
    ) -> None:
        super().__init__()
        stem, fine, middle, coarse, decoder = (
            max(round(channels * width / step) * step, step)
            for channels, step in ((32, 8), (48, 16), (96, 16), (192, 32), (64, 8))
        )
        self.stem = _conv(3, stem, 3, stride=2)
        self.stages = nn.ModuleList(
            [
                _stage(stem, fine, (1,)),
                _stage(fine, middle, (1, 1, 1)),
                _stage(middle, coarse, dilations),
            ]
        )
        self.context = nn.Conv2d(coarse, decoder, 1)  # no batch norm: it sees one cell per image
        self.coarse_lateral = _conv(coarse, decoder, 1, relu=False)
        self.coarse_fusion = _conv(decoder, decoder, 3)
        self.middle_lateral = _conv(middle, decoder, 1, relu=False)
        self.middle_fusion = _conv(decoder, decoder, 3)
        self.fine_lateral: nn.Module | None = None
        self.fine_fusion: nn.Module | None = None
        if logits_stride == 4:
            self.fine_lateral = _conv(fine, stem, 1)
            self.fine_fusion = _conv(decoder + stem, decoder, 3)
        self.classifier = nn.Conv2d(decoder, num_classes, 1)
        self._initialise()

    @classmethod
    def build(cls, *, num_classes: int, options: Mapping[str, object]) -> Network:
        """Build the network from a configuration's options.

        Args:
            num_classes: Classes ``K``.
            options: ``width``, ``logits_stride`` and ``dilations``, each may be left out.

        Returns:
            The network; its features are the maps at strides 4, 8 and 16.

        Raises:
            ConfigError: If an option is unknown or out of range.
        """
        for key in options:
            if key not in _OPTIONS:
                raise ConfigError(f"student.options.{key} is unknown; {nearest(key, _OPTIONS)}")
        width = options.get("width", 1.0)
        if not isinstance(width, (int, float)) or not 0 < width <= 8:
            raise ConfigError(f"student.options.width must be above 0 and at most 8, got {width}")
        stride = options.get("logits_stride", 4)
        if stride not in (4, 8):
            raise ConfigError(f"student.options.logits_stride must be 4 or 8, got {stride}")
        dilations = options.get("dilations", _DILATIONS)
        if (
            not isinstance(dilations, (list, tuple))
            or not dilations
            or not all(isinstance(one, int) and one > 0 for one in dilations)
        ):
            raise ConfigError(
                f"student.options.dilations must be a list of integers above 0, got {dilations!r}"
            )
        model = cls(num_classes, width=width, logits_stride=int(str(stride)), dilations=dilations)
        return Network(model, _read, size_multiple=16, options=options)

    def forward(self, images: Tensor) -> Maps:
        """Segment normalised images.

        Args:
            images: Float ``(B, 3, H, W)`` with sides that are multiples of 16.

        Returns:
            Logits ``(B, K, H / s, W / s)`` with ``s`` the logits' stride, and the maps at
            strides 4, 8 and 16.
        """
        features = []
        cells = self.stem(images)
        for stage in self.stages:
            cells = stage(cells)
            features.append(cells)
        fine, middle, coarse = features
        context = self.context(coarse.mean((2, 3), keepdim=True))
        decoded = self.coarse_fusion(F.relu(self.coarse_lateral(coarse) + context))
        decoded = F.relu(self.middle_lateral(middle) + _doubled(decoded))
        decoded = self.middle_fusion(decoded)
        if self.fine_lateral is not None and self.fine_fusion is not None:
            decoded = torch.cat([self.fine_lateral(fine), _doubled(decoded)], dim=1)
            decoded = self.fine_fusion(decoded)
        return self.classifier(decoded), (fine, middle, coarse)

    def _initialise(self) -> None:
        """Start from He's distribution, with every residual branch silent."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        for module in self.modules():
            if isinstance(module, SplitBlock):
                nn.init.zeros_(module.last_norm.weight)
        for head in (self.classifier, self.context):
            nn.init.normal_(head.weight, std=0.01)
            if head.bias is not None:
                nn.init.zeros_(head.bias)


class SplitBlock(nn.Module):
    """A grouped 3x3 convolution, half of it dilated, between two 1x1 ones, beside a shortcut.

    Args:
        channels: Channels of the input.
        width: Channels of the output: a multiple of 16, or of 32 where dilated.
        stride: 1, or 2 to halve the map.
        dilation: Spacing of the second half's taps; 1 leaves the convolution in one piece.
    """

    def __init__(self, channels: int, width: int, stride: int = 1, dilation: int = 1) -> None:
        super().__init__()
        spacings = (1, dilation) if dilation > 1 else (1,)
        part = width // len(spacings)
        self.first = _conv(channels, width, 1)
        self.parts = nn.ModuleList(
            nn.Conv2d(
                part,
                part,
                3,
                stride=stride,
                padding=spacing,
                dilation=spacing,
                groups=part // _GROUP_WIDTH,
                bias=False,
            )
            for spacing in spacings
        )
        self.norm = nn.BatchNorm2d(width)
        self.second = nn.Conv2d(width, width, 1, bias=False)
        self.last_norm = nn.BatchNorm2d(width)
        self.shortcut = _shortcut(channels, width, stride)

    def forward(self, cells: Tensor) -> Tensor:
        """Return the block's map, ``(B, width, h / stride, w / stride)``."""
        pieces = _pieces(self.first(cells), len(self.parts))
        mixed = torch.cat([part(piece) for part, piece in zip(self.parts, pieces, strict=True)], 1)
        branch = self.last_norm(self.second(F.relu(self.norm(mixed))))
        return F.relu(branch + self.shortcut(cells))


def _read(model: nn.Module, images: Tensor) -> Maps:
    """Call the network; it returns what `Network` promises."""
    return model(images)


def _stage(channels: int, width: int, dilations: Sequence[int]) -> nn.Sequential:
    """Build one block per dilation; the first halves the map."""
    blocks = [SplitBlock(channels, width, 2, dilations[0])]
    blocks += [SplitBlock(width, width, 1, dilation) for dilation in dilations[1:]]
    return nn.Sequential(*blocks)


def _conv(
    channels: int, width: int, kernel: int, *, stride: int = 1, relu: bool = True
) -> nn.Sequential:
    """Build convolution, batch norm and, unless something is added first, ReLU."""
    layers: list[nn.Module] = [
        nn.Conv2d(channels, width, kernel, stride=stride, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(width),
    ]
    if relu:
        layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)


def _shortcut(channels: int, width: int, stride: int) -> nn.Module:
    """Build the path beside a block: nothing, or an average and a 1x1 convolution."""
    if stride == 1 and channels == width:
        return nn.Identity()
    pool = nn.AvgPool2d(stride) if stride > 1 else nn.Identity()
    return nn.Sequential(pool, _conv(channels, width, 1, relu=False))


def _doubled(cells: Tensor) -> Tensor:
    """Double a map's sides bilinearly."""
    return F.interpolate(cells, scale_factor=2.0, mode="bilinear", align_corners=False)


def _pieces(cells: Tensor, count: int) -> tuple[Tensor, ...]:
    """Split the channels; one piece needs no operator, which some exporters stumble over."""
    return (cells,) if count == 1 else cells.chunk(count, dim=1)
