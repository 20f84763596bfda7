"""From an image of any size to its labels, in bounded memory."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from tsic.deploy.model import Model
from tsic.deploy.windows import Shown, SlidingWindows, WholeImage, as_slice, ask
from tsic.errors import ConfigError
from tsic.evaluation.metrics import band_rows, best_class, to_labels
from tsic.grid import Size, size_of

SCORE_BYTES = 256 * 2**20
"""Bytes of windows' scores that are kept at a time, but at least those around a strip of a window's
width. Labels and scores do not depend on it."""


@dataclass(frozen=True)
class View:
    """How an image is shown to a model.

    Args:
        crop: Height and width of sliding windows, in pixels; ``None`` shows the whole image.
        stride: Rows and columns between windows; two thirds of the crop when left out.
        flip: Whether the mirrored image is scored, too.
        scales: Ratios at which the image is scored, averaged.

    Raises:
        ConfigError: If a size or a ratio cannot be.
    """

    crop: Size | None = None
    stride: Size | None = None
    flip: bool = False
    scales: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        object.__setattr__(self, "scales", tuple(self.scales))
        for key, size in (("crop", self.crop), ("stride", self.stride)):
            if size is None:
                continue
            if isinstance(size, int) or len(size) != 2 or min(size) < 1:
                raise ConfigError(f"{key} must be a height and a width above 0, got {size}")
            object.__setattr__(self, key, (int(size[0]), int(size[1])))
        self._check_stride()
        if not self.scales or not all(math.isfinite(ratio) and ratio > 0 for ratio in self.scales):
            raise ConfigError(f"scales must be ratios above 0, got {self.scales}")

    def _check_stride(self) -> None:
        """Windows must leave out no pixel."""
        if self.stride is None:
            return
        if self.crop is None:
            raise ConfigError("stride is the way from one window to the next; say crop, too")
        if self.stride[0] > self.crop[0] or self.stride[1] > self.crop[1]:
            raise ConfigError(
                f"stride {self.stride} is larger than crop {self.crop}, so that pixels would be "
                "left out; make it smaller"
            )

    @property
    def is_plain(self) -> bool:
        """Whether the whole image is shown once, as it is."""
        return self.crop is None and not self.flip and self.scales == (1.0,)

    @property
    def is_averaged(self) -> bool:
        """Whether the image is shown more than once, mirrored or at several scales."""
        return self.flip or len(self.scales) > 1

    @property
    def step(self) -> Size | None:
        """Rows and columns between windows; ``None`` without windows."""
        if self.crop is None or self.stride is not None:
            return self.stride
        return max(1, round(self.crop[0] * 2 / 3)), max(1, round(self.crop[1] * 2 / 3))

    def to_dict(self) -> dict[str, Any]:
        """Plain values that JSON can hold."""
        return {
            "crop": list(self.crop) if self.crop else None,
            "stride": list(self.step) if self.step else None,
            "flip": self.flip,
            "scales": list(self.scales),
        }


WHOLE = View()

WHOLE_PIXELS = 2048 * 2048
"""Images of more pixels go by windows, unless the user says how."""

WINDOWS = View(crop=(1024, 1024), stride=(768, 768))
"""How large images are shown; neighbouring windows share a quarter."""


def is_large(size: Size) -> bool:
    """Whether an image of this height and width is not shown as a whole unasked."""
    return math.prod(size) > WHOLE_PIXELS


def fitting_view(model: Model, asked: View | None, size: Size) -> View:
    """Choose how an image is shown.

    Args:
        model: Who scores.
        asked: What the user asked for, if anything.
        size: Height and width of the image.

    Returns:
        What was asked for, if that is ``WHOLE`` or says how large windows are; else the whole
        image, or windows of one that is large or that the model does not take as a whole, with the
        flips and scales that were asked for.
    """
    if asked is not None and (asked.is_plain or asked.crop is not None):
        return asked
    fitting = WHOLE
    if model.only_size is not None and size != model.only_size:
        fitting = View(crop=model.only_size)
    elif model.only_size is None and is_large(size):
        fitting = WINDOWS
    if model.gives == "labels" or model.resize:
        fitting = WHOLE
    if asked is None:
        return fitting
    return replace(asked, crop=fitting.crop, stride=fitting.stride)


@torch.inference_mode()
def label_images(model: Model, images: Tensor, view: View = WHOLE) -> Tensor:
    """Label every pixel of some images of one size.

    Args:
        model: Who scores.
        images: RGB uint8 ``(B, 3, H, W)``, on any device. Whole images go to the model together.
        view: How they are shown.

    Returns:
        Class ids, uint8 ``(B, H, W)`` on the CPU.

    Raises:
        ConfigError: If the model does not take images so.
    """
    if not view.is_plain:
        return torch.stack([label_image(model, image, view) for image in images])
    size = size_of(images)
    _require_fit(model, size, view)
    answers = ask(model, images)
    if model.gives == "scores":
        answers = torch.stack([to_labels(one, size) for one in answers])
    return answers.to("cpu", torch.uint8)


@torch.inference_mode()
def label_image(model: Model, image: Tensor, view: View = WHOLE) -> Tensor:
    """Label every pixel of one image of any size, in bounded memory.

    Every pixel takes the best class of `score_image`, of which only a block exists at a time.

    Args:
        model: Who scores.
        image: RGB uint8 ``(3, H, W)``, on any device.
        view: How it is shown.

    Returns:
        Class ids, uint8 ``(H, W)`` on the CPU.

    Raises:
        ConfigError: If the model does not take images so.
    """
    if view.is_plain:
        return label_images(model, image[None])[0]
    labels = torch.empty(size_of(image), dtype=torch.uint8)
    for rows, columns, scores in _blocks(model, image, view):
        labels[as_slice(rows), as_slice(columns)] = best_class(scores).to("cpu", torch.uint8)
    return labels


@torch.inference_mode()
def score_image(model: Model, image: Tensor, view: View = WHOLE) -> Tensor:
    """Tell the probability of each class at every pixel of one image of any size.

    Scores of overlapping windows are averaged before the softmax, flips and scales after it.

    Args:
        model: Who scores.
        image: RGB uint8 ``(3, H, W)``, on any device.
        view: How it is shown.

    Returns:
        Probabilities ``(K, H, W)`` on the CPU, which sum to 1 over the classes.

    Raises:
        ConfigError: If the model does not take images so, or answers with labels.

    Source:
        The order of averages: ``slide_inference`` and ``SegTTAModel`` of mmsegmentation.
    """
    if model.gives == "labels":
        raise ConfigError("this model answers with labels alone; export it with --output scores")
    probabilities = torch.empty(model.classes.num_classes, *size_of(image))
    for rows, columns, scores in _blocks(model, image, view):
        part = scores if view.is_averaged else scores.softmax(0)
        probabilities[:, as_slice(rows), as_slice(columns)] = part.to("cpu", torch.float32)
    return probabilities


def _blocks(model: Model, image: Tensor, view: View) -> Iterator[tuple[range, range, Tensor]]:
    """Rows, columns and averaged scores ``(K, rows, columns)`` of each block of an image.

    Blocks follow one another downwards, strip by strip, so that windows can be forgotten.
    """
    size = size_of(image)
    _require_fit(model, size, view)
    showings = list(_showings(model, image, view))
    width = _strip_width([shown for shown, _ in showings], size, view)
    num_classes = showings[0][0].num_classes
    for columns in _split(size[1], width):
        for rows in _split(size[0], band_rows(num_classes, len(columns), SCORE_BYTES // 8)):
            total: Tensor | None = None
            for shown, is_mirrored in showings:
                scores = _part(shown, size, rows, columns, is_mirrored=is_mirrored)
                if view.is_averaged:
                    scores = scores.softmax(0).div_(len(showings))
                total = scores if total is None else total.add_(scores)
            assert total is not None
            yield rows, columns, total


def _strip_width(showings: Sequence[Shown], size: Size, view: View) -> int:
    """Columns scored from top to bottom at a time: all, or as many as ``SCORE_BYTES`` allow.

    Strips narrower than a window would score most windows many times and save little.
    """
    width = size[1]
    windows = [one for one in showings if isinstance(one, SlidingWindows)]
    while view.crop and width > view.crop[1]:
        if sum(one.kept_bytes(size, width) for one in windows) <= SCORE_BYTES:
            break
        width = -(-width // 2)
    return width


def _showings(model: Model, image: Tensor, view: View) -> Iterator[tuple[Shown, bool]]:
    """The image at each scale, as it is and, if asked for, mirrored; and whether it is."""
    for ratio in view.scales:
        scaled = _resized(image, scaled_size(size_of(image), ratio))
        for is_mirrored in (False, True) if view.flip else (False,):
            pixels = scaled.flip(2) if is_mirrored else scaled
            if view.crop and view.step:
                yield SlidingWindows(model, pixels, view.crop, view.step), is_mirrored
            else:
                yield WholeImage(model, pixels), is_mirrored


def scaled_size(size: Size, ratio: float) -> Size:
    """Height and width of an image at a ratio."""
    return max(1, round(size[0] * ratio)), max(1, round(size[1] * ratio))


def _resized(image: Tensor, size: Size) -> Tensor:
    """Antialiased resize of one image, rounded to bytes as an image file would be."""
    if size_of(image) == size:
        return image
    pixels = image[None].cpu()  # where bytes are resized without a float copy
    return F.interpolate(pixels, size, mode="bilinear", align_corners=False, antialias=True)[0]


def _part(shown: Shown, size: Size, rows: range, columns: range, *, is_mirrored: bool) -> Tensor:
    """A part's scores in the coordinates of the image as it is."""
    if not is_mirrored:
        return shown.part(size, rows, columns)
    mirrored = range(size[1] - columns.stop, size[1] - columns.start)
    return shown.part(size, rows, mirrored).flip(2)


def require_view(model: Model, view: View) -> None:
    """Refuse a view that the model cannot take, whatever the image.

    Raises:
        ConfigError: Saying which would do.
    """
    if view.crop is None and view.scales != (1.0,) and model.resize:
        raise ConfigError(
            "this model brings every image to one size itself, so that scales change nothing; "
            "leave out --scales"
        )
    if model.gives == "labels" and not view.is_plain:
        raise ConfigError(
            "this model answers with labels, which cannot be averaged; leave out --crop, --flip "
            "and --scales, or export it with --output scores"
        )
    if view.crop is not None and model.only_size not in (None, view.crop):
        only = "{} {}".format(*model.only_size)
        raise ConfigError(
            f"this model takes images of {only} pixels alone, not windows of "
            f"{view.crop[0]} {view.crop[1]}; say --crop {only}"
        )


def _require_fit(model: Model, size: Size, view: View) -> None:
    """Refuse a view that the model cannot take of an image."""
    require_view(model, view)
    if model.only_size is None or view.crop is not None:
        return
    only = "{} {}".format(*model.only_size)
    wrong = [s for s in (scaled_size(size, r) for r in view.scales) if s != model.only_size]
    if wrong:
        way_out = (
            f"say --crop {only}"
            if model.gives == "scores"
            else "bring the images to that size, or export it without --size"
        )
        raise ConfigError(
            f"this model takes images of {only} pixels alone (height and width), not of "
            f"{wrong[0][0]} {wrong[0][1]}; {way_out}"
        )


def _split(side: int, length: int) -> list[range]:
    """Ranges of at most a length that make up a side."""
    return [range(start, min(start + length, side)) for start in range(0, side, length)]
