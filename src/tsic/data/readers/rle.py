"""COCO's run-length code of masks.

Source: "Mask API" of the COCO dataset, https://cocodataset.org/#format-data.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from tsic.errors import DataError


def decode_counts(text: str) -> list[int]:
    """Unpack the lengths of runs from a compressed text.

    A character stands for six bits, its code less 48: five bits of a number, lowest first, and
    bit 32 where more follow. The last five are signed. From the fourth number on it is the
    difference to the last but one.

    Args:
        text: Characters from ``0`` to ``o``.

    Returns:
        Lengths of the runs.

    Raises:
        DataError: If the text breaks off or holds other characters.
    """
    counts: list[int] = []
    number = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64:
            raise DataError(f"compressed RLE holds the character {character!r}")
        number |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            number -= 1 << shift
        counts.append(number + counts[-2] if len(counts) > 2 else number)
        number = shift = 0
    if shift:
        raise DataError("compressed RLE breaks off")
    return counts


def check_counts(counts: Sequence[int], height: int, width: int) -> None:
    """Refuse runs that do not cover a mask exactly.

    Args:
        counts: Lengths of the runs in pixels.
        height: Height of the mask in pixels.
        width: Width of the mask in pixels.

    Raises:
        DataError: If they cover more or less, or a length is negative.
    """
    if min(counts, default=0) < 0:
        raise DataError(f"RLE has a run of {min(counts)} pixels")
    if sum(counts) != height * width:
        raise DataError(f"RLE covers {sum(counts)} pixels, but the image has {height * width}")


def counts_to_mask(counts: Sequence[int], height: int, width: int) -> npt.NDArray[np.bool_]:
    """Lay runs out into a mask, column by column.

    Args:
        counts: Lengths of the runs in pixels, outside and inside in turn; they cover the mask.
        height: Height in pixels, ``H``.
        width: Width in pixels, ``W``.

    Returns:
        Whether a pixel lies inside, ``(H, W)``.
    """
    inside = np.repeat(np.arange(len(counts)) % 2 == 1, np.asarray(counts, np.int64))
    return inside.reshape(width, height).T
