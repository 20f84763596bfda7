"""Decode one image or mask file, or say in one line what is wrong with it."""

import io
import os
import struct
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from tsic.data.classes import Colour
from tsic.data.mask_values import mask_values, palette_of
from tsic.errors import DataError, TsicError

Image.MAX_IMAGE_PIXELS = None  # the user's own files are large, not bombs

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"})
"""File name endings, in lower case, that count as images or masks."""

PAD_COLOUR = (124, 116, 104)
"""RGB beside the image: ImageNet's mean, which normalisation turns into nearly zero."""

BAND_PIXELS = 2**20
"""Pixels of a large picture that are worked on at a time, so that copies stay small."""

T = TypeVar("T")


class Verified(NamedTuple):
    """An image that can be decoded.

    Args:
        size: Height and width, upright.
        digest: Equal for files of one kind (JPEG or not) that hold the same pixels and turn them
            alike.
    """

    size: tuple[int, int]
    digest: bytes


def image_names(
    folder: Path,
    endings: Collection[str] = SUFFIXES,
    *,
    left_out: Collection[str] = (),
    error: type[TsicError] = DataError,
) -> list[str]:
    """Find the image files of a folder and of all folders in it, links followed.

    Hidden files and folders are skipped. A folder that a link puts into itself is not entered
    again.

    Args:
        folder: Where to look; one that is missing holds none.
        endings: What their names end in, in lower case.
        left_out: Real paths of folders that are not entered.
        error: What to raise.

    Returns:
        Their paths in the folder, in no order.

    Raises:
        TsicError: If a folder cannot be listed.
    """

    def fail(cause: OSError) -> None:
        raise error(f"{cause.filename}: folder cannot be listed: {cause.strerror}") from cause

    if not folder.is_dir():
        return []
    files: list[str] = []
    for here, folders, names in os.walk(folder, onerror=fail, followlinks=True):
        path = Path(os.path.abspath(here))  # noqa: PTH100 - Path.absolute leaves `..` in
        known = {os.path.realpath(parent) for parent in (path, *path.parents)}.union(left_out)
        folders[:] = [
            name
            for name in folders
            if not name.startswith(".") and os.path.realpath(path / name) not in known
        ]
        inner = Path(here).relative_to(folder).as_posix()
        files += [
            name if inner == "." else f"{inner}/{name}"
            for name in names
            if not name.startswith(".") and name.lower().endswith(tuple(endings))
        ]
    return files


def read_image(path: Path, rows: int | None = None) -> Tensor:
    """Read an image of any colour mode, upright.

    Args:
        path: Image file.
        rows: How many rows from the top are needed; all when left out. Only of PNG files fewer are
            decoded, which saves the time of the others.

    Returns:
        RGB uint8 ``(3, H, W)``, EXIF orientation applied; at least the rows that are needed.

    Raises:
        DataError: If the file cannot be decoded or is grey of more than 8 bits.
    """
    pixels = _decode(path, rgb_pixels, rows)
    return torch.from_numpy(pixels).permute(2, 0, 1)


def read_mask(path: Path) -> npt.NDArray[Any]:
    """Read the class ids or colours of a mask as they stand in the file.

    Args:
        path: Mask file: grey of 1 to 16 bits, palette indices, or RGB; EXIF orientation is applied.

    Returns:
        Ids, uint8, uint16 or int32 ``(H, W)``, from 0 to 65535; or colours, uint8 ``(H, W, 3)``,
        without their transparency.

    Raises:
        DataError: If the file cannot be decoded, holds other values or several pictures.
    """
    return _decode(path, mask_values)


def read_palette(path: Path) -> dict[int, Colour]:
    """Colours of a palette mask by index; empty for any other mask.

    Raises:
        DataError: If the file is no image.
    """
    return _decode(path, palette_of)


def verify_image(path: Path) -> Verified:
    """Decode an image as cheaply as finds a damaged file.

    JPEG is decoded at an eighth of its size, which still walks through the whole file.

    Args:
        path: Image file.

    Returns:
        Its size as `read_image` would return it, and what tells it from other images.

    Raises:
        DataError: As `read_image`.
    """
    return _decode(path, _verified)


def read_size(path: Path) -> tuple[int, int]:
    """Read an image's size from its header, without decoding it where that can be told.

    Args:
        path: Image file.

    Returns:
        Height and width of the upright image.

    Raises:
        DataError: If the file is no image.
    """
    return _decode(path, lambda image: _upright_size(image, path))


def _decode(path: Path, extract: Callable[[Image.Image], T], rows: int | None = None) -> T:
    """Open an image file and turn whatever goes wrong into one error that names it."""
    is_tiff = isinstance(path, Path) and path.suffix.lower() in (".tif", ".tiff")
    try:
        source: Path | io.BytesIO = path
        if rows is not None and path.suffix.lower() == ".png":
            source = io.BytesIO(_cut_png(path.read_bytes(), rows))
        elif is_tiff:
            # Pillow maps such a file, and mistakes its rows where it turns it by a quarter.
            source = io.BytesIO(path.read_bytes())
        with Image.open(source) as image:
            return extract(image)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except IsADirectoryError as error:
        raise DataError(f"{path}: is a folder; name a file in it") from error
    except Exception as error:  # Pillow's decoders raise many kinds on damaged files
        unknown = isinstance(error, UnidentifiedImageError)  # its message shows Python's objects
        if unknown and is_tiff:
            raise DataError(
                f"{path}: a TIFF whose bands or bits are of no kind that is read, or damaged; save "
                "an image as RGB with 8 bits, a mask with one channel of class ids"
            ) from error
        reason = (
            "cannot identify image file" if unknown else str(error).replace(f" {str(path)!r}", "")
        )
        raise DataError(f"{path}: cannot be decoded ({reason}); replace the file") from error


def _cut_png(content: bytes, rows: int) -> bytes:
    """Let a PNG file say that it has fewer rows: decoders stop where its last row is complete.

    The file stays as it is if its rows do not follow one another (interlaced, or turned by EXIF).

    Source:
        Layout of the header chunk: PNG specification, third edition, section 11.2.1.
    """
    is_png = content[12:16] == b"IHDR" and len(content) > 33
    if not is_png or content[28] != 0 or may_turn_png(content):
        return content
    if any(kind == b"acTL" for kind, _ in _png_chunks(content)):  # its frames tell their size
        return content
    width, height = struct.unpack(">II", content[16:24])
    header = b"IHDR" + struct.pack(">II", width, min(rows, height)) + content[24:29]
    return content[:12] + header + struct.pack(">I", zlib.crc32(header)) + content[33:]


def may_turn_png(content: bytes) -> bool:
    """Whether a PNG file says anything that Pillow might read an EXIF orientation from."""
    keywords = (b"Raw profile type exif", b"XML:com.adobe.xmp")
    for kind, at in _png_chunks(content):
        is_text = kind in {b"tEXt", b"zTXt", b"iTXt"}
        if kind == b"eXIf" or (is_text and content.startswith(keywords, at)):
            return True
    return False


def _png_chunks(content: bytes) -> Iterator[tuple[bytes, int]]:
    """Kind of each chunk of a PNG file, and where its data begin."""
    at = 8
    while at + 8 <= len(content):
        length, kind = struct.unpack_from(">I4s", content, at)
        yield kind, at + 8
        at += 12 + length


def rgb_pixels(image: Image.Image) -> npt.NDArray[np.uint8]:
    """Turn an open image upright, in place, and read it.

    Returns:
        RGB, uint8 ``(H, W, 3)``.

    Raises:
        DataError: If it has more than 8 bits per channel.
    """
    _check_depth(image)
    ImageOps.exif_transpose(image, in_place=True)
    if image.mode == "P":  # Pillow wants transparency resolved before it drops it
        image = image.convert("RGBA")
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    for top, band in _bands(image):
        rgb = band if band.mode == "RGB" else band.convert("RGB")
        pixels[top : top + band.height] = np.asarray(rgb)
    return pixels


def _bands(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """Bands of rows and where each begins: Pillow's copies of a whole image are what is large."""
    rows = max(1, BAND_PIXELS // max(1, image.width))
    for top in range(0, image.height, rows):
        yield top, image.crop((0, top, image.width, min(top + rows, image.height)))


def _verified(image: Image.Image) -> Verified:
    """Decode an image, JPEG at an eighth of its size."""
    _check_depth(image)
    width, height = size = image.size
    image.draft("RGB", (max(1, width // 8), max(1, height // 8)))
    image.load()
    # Asked for after loading, since Pillow itself turns TIFF (size and all) and then forgets it.
    facts = f"{size} {image.mode} {orientation_of(image)}".encode()
    digest = blake2b(facts + bytes(image.getpalette() or ()), digest_size=16)
    for _, band in _bands(image):
        digest.update(band.tobytes())
    return Verified(_upright(image, size), digest.digest())


def _upright_size(image: Image.Image, path: Path) -> tuple[int, int]:
    """Height and width of the upright image, from its header where that is all there is."""
    size = image.size
    if image.format == "PNG" and not may_turn_png(path.read_bytes()):
        return size[1], size[0]  # to ask for its orientation would decode it
    if image.format == "TIFF":
        image.load()
    return _upright(image, size)


def _upright(image: Image.Image, size: tuple[int, int]) -> tuple[int, int]:
    """Height and width after the EXIF turn, of a width and height before it."""
    quarter_turned = orientation_of(image) >= 5
    return size if quarter_turned else (size[1], size[0])


def orientation_of(image: Image.Image) -> int:
    """EXIF's number of how an image lies, 1 where it says nothing or what it does not know."""
    orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    return orientation if orientation in range(2, 9) else 1


def _check_depth(image: Image.Image) -> None:
    """Refuse grey values that do not fit into 8 bits."""
    if image.mode.startswith(("I", "F")):
        raise DataError("image has more than 8 bits per channel; save it with 8")


def size_mismatch(image_size: Iterable[int], mask_size: Iterable[int]) -> str:
    """Say that an image and its mask differ in size, both as (height, width)."""
    image, mask = ("x".join(map(str, size)) for size in (image_size, mask_size))
    return f"image is {image} but its mask is {mask} (height x width); they must be equal"
