"""How an image's colours change: drawn on the CPU, done on the device."""

import torch
from torch import Tensor
from torchvision.transforms import v2


def draw_colours() -> Tensor:
    """Draw how one image's colours change, from torch's global generator.

    Returns:
        Factors of brightness, contrast and saturation, turns of hue, and once more a factor of
        contrast, which comes first or last: float32 ``(5,)``. Neutral, as each is half of the time,
        are 1, and 0 of hue.

    Source:
        Liu et al., SSD, arXiv:1512.02325, section 3.6; torchvision's ranges and draws.
    """
    drawn = _RANGES.make_params([torch.empty(3, 1, 1)])
    brightness, contrast, saturation, hue = (
        neutral if drawn[f"{name}_factor"] is None else drawn[f"{name}_factor"]
        for name, neutral in (("brightness", 1), ("contrast", 1), ("saturation", 1), ("hue", 0))
    )
    first, last = (contrast, 1) if drawn["contrast_before"] else (1, contrast)
    return torch.tensor([brightness, first, saturation, hue, last], dtype=torch.float32)


_RANGES = v2.RandomPhotometricDistort()


def distort_colours(images: Tensor, colours: Tensor) -> Tensor:
    """Change brightness, contrast, saturation and hue of each image of a batch in its own way.

    On a GPU all images at once, since each operation costs a launch; elsewhere one by one, without
    the changes that are neutral.

    Args:
        images: RGB float32 ``(B, 3, H, W)`` in ``[0, 1]``, on any device.
        colours: What to do to each, as ``draw_colours`` gives it, ``(B, 5)``.

    Returns:
        The same shape and range.
    """
    if images.device.type != "cpu":
        return changed(images, colours, skips=False)
    pairs = zip(images.split(1), colours.split(1), strict=True)
    return torch.cat([changed(*pair, skips=True) for pair in pairs])


def changed(images: Tensor, colours: Tensor, *, skips: bool) -> Tensor:
    """See ``distort_colours``; ``skips`` leaves neutral changes of a single image out."""
    changes = (_brighten, _contrast, _saturate, _turn_hue, _contrast)
    for change, strength in zip(changes, colours[..., None, None, None].unbind(1), strict=True):
        if not (skips and strength == (0 if change is _turn_hue else 1)):
            images = change(images, strength)
    return images


def _brighten(images: Tensor, factor: Tensor) -> Tensor:
    return (images * factor).clamp_(0, 1)


def _contrast(images: Tensor, factor: Tensor) -> Tensor:
    return torch.lerp(_grey(images).mean((1, 2, 3), keepdim=True), images, factor).clamp_(0, 1)


def _saturate(images: Tensor, factor: Tensor) -> Tensor:
    return torch.lerp(_grey(images), images, factor).clamp_(0, 1)


def _grey(images: Tensor) -> Tensor:
    red, green, blue = images.split(1, 1)
    return 0.2989 * red + 0.587 * green + 0.114 * blue


def _turn_hue(images: Tensor, turn: Tensor) -> Tensor:
    """Turn the hue by a share of the circle; value and chroma stay.

    Source:
        HSV in closed form: ``channel = V - C max(0, min(k, 4 - k, 1))`` with ``k = (n + hue / 60
        degrees) mod 6`` and ``n`` 5, 3, 1 for red, green and blue.
    """
    red, green, blue = images.split(1, 1)
    least, most = torch.aminmax(images, dim=1, keepdim=True)
    chroma = most - least
    sixth = torch.where(
        most == red,
        green - blue,
        torch.where(most == green, blue - red + 2 * chroma, red - green + 4 * chroma),
    ) / chroma.clamp(min=1e-12)
    sixth = sixth + 6 * turn
    channels = [(sixth + n).remainder_(6) for n in (5, 3, 1)]
    shares = torch.cat([torch.minimum(k, 4 - k).clamp_(0, 1) for k in channels], 1)
    return most - chroma * shares
