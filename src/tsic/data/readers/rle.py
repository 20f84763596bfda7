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


def encode_counts(counts: npt.ArrayLike) -> str:
    """Pack the lengths of runs into the text that `decode_counts` unpacks.

    Args:
        counts: Lengths of the runs in pixels.

    Returns:
        Characters from ``0`` to ``o``.
    """
    numbers = np.array(counts, np.int64)
    numbers[3:] -= numbers[1:-2].copy()
    pieces = []
    more = np.ones(len(numbers), bool)
    while more.any():
        bits, rest = numbers & 31, numbers >> 5
        wanted, more = more, more & (rest != np.where(bits & 16, -1, 0))
        pieces.append(np.where(wanted, bits + 32 * more + 48, 0).astype(np.uint8))
        numbers = rest
    characters = np.array(pieces, np.uint8).T.ravel()
    return characters[characters > 0].tobytes().decode("ascii")


def labels_to_counts(labels: npt.NDArray[np.integer]) -> dict[int, npt.NDArray[np.int64]]:
    """Find the runs of every class of a label map, column by column, in one pass.

    Args:
        labels: Class ids ``(H, W)``.

    Returns:
        By class id, for those that occur: lengths of the runs in pixels, outside and inside in
        turn, outside first.
    """
    pixels = labels.T.ravel()
    starts = np.flatnonzero(pixels[1:] != pixels[:-1]) + 1
    edges = np.concatenate([[0], starts, [pixels.size]])
    ids = pixels[edges[:-1]]
    counts = {}
    for class_id in np.unique(ids).tolist():
        of_class = np.flatnonzero(ids == class_id)
        inside = np.stack([edges[of_class], edges[of_class + 1]], axis=1).ravel()
        lengths = np.diff(inside, prepend=0, append=pixels.size)
        counts[class_id] = lengths if lengths[-1] else lengths[:-1]
    return counts


def counts_to_box(counts: npt.NDArray[np.int64], height: int) -> tuple[int, int, int, int]:
    """Find the smallest box around a mask.

    Args:
        counts: Lengths of its runs; at least one lies inside.
        height: Height of the mask in pixels.

    Returns:
        Left, top, width and height, in pixels.
    """
    edges = np.cumsum(counts)
    first = edges[0 : len(counts) - 1 : 2]
    last = edges[1::2] - 1
    left, right = first[0] // height, last[-1] // height
    if (first // height != last // height).any():  # a run goes on in the next column
        return int(left), 0, int(right - left + 1), height
    top, bottom = (first % height).min(), (last % height).max()
    return int(left), int(top), int(right - left + 1), int(bottom - top + 1)
