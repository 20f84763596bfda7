"""Joint augmentation: one random view of an image and, pixel for pixel, of its label."""

import torch
import torch.nn.functional as F
from torch import Tensor

from tsic.data.classes import IGNORE
from tsic.errors import ConfigError

PAD_COLOUR = (0.485, 0.456, 0.406)
"""RGB beside the image: ImageNet's mean, which normalisation turns into zero."""

CROP_ATTEMPTS = 10
"""How often a crop of nearly one class is thrown again, as in mmsegmentation's RandomCrop."""


class TrainTransform:
    """Scale, crop, flip and recolour at random, the recipe of mmsegmentation's configurations.

    The crop's window is chosen in the scaled image but cut from the source, and only that part is
    resized: the pixels outside the crop are never computed, which saves over a third of the time.
    It differs from resizing first only in that the window's edges fall on whole source pixels, so
    that the ratio may be off by less than one pixel in a crop; image and label share the window
    and stay registered. All randomness comes from torch's global generator, which the caller seeds.

    Args:
        crop: Height and width of what comes out, in pixels. Where the scaled image is smaller it
            is padded, the label with 255.
        scale: Smallest and largest resize ratio, drawn uniformly.
        max_class_share: A crop in which one class has more than this share of the labelled pixels,
            or all of them, is thrown again, up to 10 times; 1 takes the first crop.
        flip: Probability of a horizontal flip.
        photometric: Whether brightness, contrast, saturation and hue vary (`distort_colours`).
        resize: Sides of a box (either orientation) that the image is first scaled to fit,
            proportions kept, before the random ratio; left out, the image's own size counts.

    Raises:
        ConfigError: If a size, ratio or probability is out of range.
    """

    def __init__(
        self,
        crop: tuple[int, int],
        scale: tuple[float, float] = (0.5, 2.0),
        max_class_share: float = 0.75,
        flip: float = 0.5,
        photometric: bool = True,
        resize: tuple[int, int] | None = None,
    ) -> None:
        for key, size in (("crop", crop), ("resize", resize or (1, 1))):
            if len(size) != 2 or min(size) < 1:
                raise ConfigError(f"{key} must be (height, width) in pixels, got {size}")
        if len(scale) != 2 or not 0 < scale[0] <= scale[1]:
            raise ConfigError(f"scale must be (smallest, largest) ratio above 0, got {scale}")
        for key, share in (("max_class_share", max_class_share), ("flip", flip)):
            if not 0 <= share <= 1:
                raise ConfigError(f"{key} must be from 0 to 1, got {share}")
        self.crop = (crop[0], crop[1])
        self.scale = scale
        self.max_class_share = max_class_share
        self.flip = flip
        self.photometric = photometric
        self.resize = resize

    def __call__(self, image: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        """Augment one pair.

        Args:
            image: RGB uint8 ``(3, H, W)``.
            label: int64 ``(H, W)``, train ids or 255.

        Returns:
            Image, float32 ``(3, *crop)`` in ``[0, 1]``, and label, int64 ``(*crop)``.
        """
        label = label.to(torch.uint8)  # ids fit, and everything below moves an eighth of the bytes
        ratio = uniform(*self.scale) * self._base_ratio(label.shape)
        scaled = tuple(max(1, round(side * ratio)) for side in label.shape)
        corner = self._choose_corner(label, scaled)
        image, label = self._cut(image, label, scaled, corner)
        if chance(self.flip):
            image, label = image.flip(-1), label.flip(-1)
        image = image / 255
        if self.photometric:
            image = distort_colours(image)
        return self._pad(image, label.long(), corner)

    def _base_ratio(self, size: torch.Size) -> float:
        """Ratio that fits the image into the box ``resize``."""
        if self.resize is None:
            return 1.0
        return min(max(self.resize) / max(size), min(self.resize) / min(size))

    def _choose_corner(self, label: Tensor, scaled: tuple[int, ...]) -> tuple[int, int]:
        """Draw the crop's top left corner in the scaled image; negative where it is padded."""
        for _ in range(CROP_ATTEMPTS):
            top, left = (
                _integer(min(0, side - crop), max(0, side - crop))
                for side, crop in zip(scaled, self.crop, strict=True)
            )
            rows, columns = self._source_box(label.shape, scaled, (top, left))
            if self.max_class_share == 1 or self._is_mixed(label[slice(*rows), slice(*columns)]):
                break
        return top, left

    def _source_box(
        self, size: torch.Size, scaled: tuple[int, ...], corner: tuple[int, int]
    ) -> tuple[tuple[int, int], tuple[int, int]]:
        """Rows and columns, (start, stop), of the source image that the crop shows."""
        spans = []
        for side, scaled_side, start, crop in zip(size, scaled, corner, self.crop, strict=True):
            first = round(max(0, start) * side / scaled_side)
            last = round(min(scaled_side, start + crop) * side / scaled_side)
            first = min(first, side - 1)
            spans.append((first, max(last, first + 1)))
        rows, columns = spans
        return rows, columns

    def _is_mixed(self, label: Tensor) -> bool:
        """Whether at least two classes are there and none has more than its share."""
        counts = torch.bincount(label.flatten(), minlength=IGNORE + 1)[:IGNORE]
        largest, labelled = int(counts.max()), int(counts.sum())
        return labelled > largest and largest <= self.max_class_share * labelled

    def _cut(
        self, image: Tensor, label: Tensor, scaled: tuple[int, ...], corner: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """Cut what the crop shows from the source and resize it."""
        rows, columns = self._source_box(label.shape, scaled, corner)
        size = [
            min(side, start + crop) - max(0, start)
            for side, start, crop in zip(scaled, corner, self.crop, strict=True)
        ]
        image = image[None, :, slice(*rows), slice(*columns)]
        image = F.interpolate(image, size, mode="bilinear", antialias=True)[0]
        # "nearest" would sit half a source pixel off the bilinear image, "nearest-exact" does not.
        label = label[None, None, slice(*rows), slice(*columns)]
        return image, F.interpolate(label, size, mode="nearest-exact")[0, 0]

    def _pad(self, image: Tensor, label: Tensor, corner: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Fill up to the crop's size, the image with a plain colour and the label with 255."""
        if label.shape == self.crop:
            return image, label
        inside = tuple(
            slice(max(0, -start), max(0, -start) + side)
            for start, side in zip(corner, label.shape, strict=True)
        )
        padded_image = torch.tensor(PAD_COLOUR).view(3, 1, 1).repeat(1, *self.crop)
        padded_label = torch.full(self.crop, IGNORE)
        padded_image[:, *inside] = image
        padded_label[inside] = label
        return padded_image, padded_label


class EvalTransform:
    """Leave everything as it is but for the image's type."""

    def __call__(self, image: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        """Convert one pair.

        Args:
            image: RGB uint8 ``(3, H, W)``.
            label: int64 ``(H, W)``.

        Returns:
            Image, float32 ``(3, H, W)`` in ``[0, 1]``, and the same label.
        """
        return image / 255, label


def distort_colours(image: Tensor) -> Tensor:
    """Vary brightness, contrast, saturation and hue, each with probability one half.

    Brightness moves by up to 32/255; contrast and saturation are multiplied by 0.5 to 1.5; hue
    turns by up to 18 degrees. Contrast comes before saturation and hue or after them, evenly.
    torchvision's RandomPhotometricDistort also permutes the channels, which this must not.

    Args:
        image: RGB float32 ``(3, H, W)`` in ``[0, 1]``.

    Returns:
        The same shape and range.

    Source:
        Liu et al., SSD, arXiv:1512.02325, section 3.6, with the numbers of the authors' code.
    """
    contrast_first = chance(0.5)
    if chance(0.5):
        image = (image + uniform(-32 / 255, 32 / 255)).clamp(0, 1)
    if contrast_first:
        image = _vary_contrast(image)
    if chance(0.5):
        image = _scale_saturation(image, uniform(0.5, 1.5))
    if chance(0.5):
        image = _turn_hue(image, uniform(-18 / 360, 18 / 360))
    return image if contrast_first else _vary_contrast(image)


def _vary_contrast(image: Tensor) -> Tensor:
    """Multiply all values by 0.5 to 1.5, or not."""
    return (image * uniform(0.5, 1.5)).clamp(0, 1) if chance(0.5) else image


def _scale_saturation(image: Tensor, factor: float) -> Tensor:
    """Multiply the saturation of HSV, keeping hue and value; it cannot exceed 1."""
    value = image.amax(0, keepdim=True)
    distance = value - image
    largest = (value - image.amin(0, keepdim=True)).clamp(min=1e-6)
    return value - distance * (value / largest).clamp(max=factor)


def _turn_hue(image: Tensor, turns: float) -> Tensor:
    """Add to the hue of HSV, keeping saturation and value; three times as fast as torchvision."""
    red, green, blue = image
    value = image.amax(0)
    chroma = value - image.amin(0)
    divisor = chroma.clamp(min=1e-6)
    hue = torch.where(
        value == red,
        (green - blue) / divisor,
        torch.where(value == green, 2 + (blue - red) / divisor, 4 + (red - green) / divisor),
    )  # in sixths of a turn
    hue = (hue + 6 * turns) % 6
    weights = torch.stack(((hue - 3).abs() - 1, 2 - (hue - 2).abs(), 2 - (hue - 4).abs()))
    return value - chroma * (1 - weights.clamp(0, 1))


def uniform(low: float, high: float) -> float:
    """Draw from ``[low, high)`` with torch's global generator."""
    return low + (high - low) * float(torch.rand(()))


def chance(probability: float) -> bool:
    """Say yes with this probability, drawn from torch's global generator."""
    return float(torch.rand(())) < probability


def _integer(low: int, high: int) -> int:
    """Draw from ``low`` to ``high``, both included."""
    return int(torch.randint(low, high + 1, ()))
