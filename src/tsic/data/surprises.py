"""What reading an image file changes, worth knowing before a training."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from PIL import Image

from tsic.data.images import may_turn_png, orientation_of

SurpriseKind = Literal[
    "grey",
    "palette",
    "transparency",
    "CMYK",
    "colour space",
    "16 bits",
    "several pictures",
    "EXIF rotation",
    "no label file",
]
Surprise = tuple[SurpriseKind, str]
"""What sort of surprise, and what reading does about it."""

_MODES: dict[str, Surprise] = {
    "1": ("grey", "black and white; read as RGB with three equal channels"),
    "L": ("grey", "grey; read as RGB with three equal channels"),
    "LA": ("grey", "grey with transparency; read as RGB with three equal channels, all opaque"),
    "P": ("palette", "colours of a palette, as masks often have; read as RGB"),
    "RGBA": ("transparency", "has transparency; read as RGB, all opaque"),
    "CMYK": ("CMYK", "CMYK; turned into RGB without its colour profile"),
}
"""What is said of an image whose Pillow mode is not RGB."""


def image_surprises(file: Path | io.BytesIO) -> Iterator[Surprise]:
    """Tell what reading an image file changes, from its header.

    Args:
        file: An image that can be decoded.

    Yields:
        One surprise after the other.
    """
    content = file.read_bytes() if isinstance(file, Path) else file.getvalue()
    with Image.open(io.BytesIO(content)) as image:
        may_turn = image.format != "PNG" or may_turn_png(content)  # else asking would decode it
        if image.mode != "RGB":
            other = f"has Pillow's mode {image.mode}; turned into RGB"
            yield _MODES.get(image.mode, ("colour space", other))
        if any(";16" in str(tile) for tile in image.tile):  # Pillow reads such colours as 8 bits
            yield "16 bits", "has 16 bits per channel; the lower 8 are dropped"
        if getattr(image, "n_frames", 1) > 1:
            yield "several pictures", "is a file of several pictures; the first is read"
        orientation = orientation_of(image) if may_turn else 1
    if orientation != 1:
        yield (
            "EXIF rotation",
            f"is turned upright (EXIF orientation {orientation}); its mask must fit it upright",
        )
