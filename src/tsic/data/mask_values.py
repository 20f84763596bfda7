"""The class ids or colours that an open mask holds, whatever its file would show of them."""

from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, ImageSequence

from tsic.data.classes import MAX_FILE_VALUE, Colour
from tsic.errors import DataError

_SPREAD = {"L;2": 85, "L;4": 17}
"""By what Pillow multiplies grey values of 2 and 4 bits, which masks mean as they are; an R follows
where a TIFF's bytes begin with their last bit."""

_NEW_SUBFILE_TYPE, _PHOTOMETRIC = 254, 262


def mask_values(image: Image.Image) -> npt.NDArray[Any]:
    """Read the ids or colours of an open mask, as they stand in the file.

    Returns:
        Ids ``(H, W)`` or colours ``(H, W, 3)``.

    Raises:
        DataError: If it is of a kind that does not tell them for sure.
    """
    is_jpeg = image.info.get("compression") in {"jpeg", "tiff_jpeg"}  # within a TIFF
    if is_jpeg or image.format in {"JPEG", "MPO"}:
        raise DataError("mask is a JPEG, which changes ids; save it as PNG from what it came from")
    tiles = getattr(image, "tile", ())
    layout = tiles[0][3] if tiles else ""
    raw = layout if isinstance(layout, str) else str(layout[0])
    if image.mode in {"RGB", "RGBA"} and ";16" in raw:
        raise DataError("mask has colours of 16 bits per channel; save it with 8, or class ids")
    tags = getattr(image, "tag_v2", None)  # a TIFF's; Pillow takes 0 for white where none says
    if tags is not None and not tags.get(_PHOTOMETRIC, 0) and image.mode != "1":
        raise DataError(
            "mask is a TIFF in which 0 is white, of which some programs read the ids and some "
            "their opposite; save it as PNG, or with PhotometricInterpretation 1"
        )
    if getattr(image, "is_animated", False) and (count := _pages(image)) > 1:
        raise DataError(f"mask holds {count} pages or frames; save the one that is meant as PNG")
    ImageOps.exif_transpose(image, in_place=True)  # a TIFF is turned already
    if image.mode in {"RGB", "RGBA"}:
        return np.asarray(image)[..., :3]
    if image.mode not in {"1", "L", "P", "I", "I;16", "I;16L", "I;16B"}:
        raise DataError(
            f"mask is of Pillow's mode {image.mode}; save it with one channel of class ids, or as "
            "RGB colours"
        )
    ids = np.asarray(image)
    if image.mode == "I" and not 0 <= ids.min() <= ids.max() <= MAX_FILE_VALUE:
        raise DataError(f"mask holds ids outside 0 to {MAX_FILE_VALUE}")
    if image.mode == "1":
        return ids.astype(np.uint8)
    return ids // _SPREAD.get(raw.removesuffix("R"), 1)


def palette_of(image: Image.Image) -> dict[int, Colour]:
    """Colours by index, as a file's head has them where it can, so that nothing is decoded."""
    if image.mode != "P" or image.palette is None:
        return {}
    is_plain = image.palette.rawmode == "RGB"
    flat = list((image.palette.palette if is_plain else image.getpalette("RGB")) or ())
    return dict(enumerate(zip(flat[::3], flat[1::3], flat[2::3], strict=True)))


def _pages(image: Image.Image) -> int:
    """Count the pages or frames of an open file; a TIFF's smaller copies and validity are none.

    Source: NewSubfileType in TIFF 6.0, section 8: bit 0 is a copy of less resolution, bit 2 a mask
    of another page's transparency.
    """
    count = 0
    for frame in ImageSequence.Iterator(image):
        tags = getattr(frame, "tag_v2", {})
        count += not tags.get(_NEW_SUBFILE_TYPE, 0) & 0b101
    image.seek(0)
    return count
