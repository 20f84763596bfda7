"""Pictures of labels, overlays and prompted masks, and panels that set them side by side."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from tsic.data.classes import IGNORE, ClassTable
from tsic.data.images import BAND_PIXELS
from tsic.files import replacing
from tsic.grid import resize

Pixels = NDArray[np.uint8]
Array = NDArray[Any]

VOID_COLOUR = (16, 16, 20)
"""Nearly black: where there is no label, or one that no class has."""

PAPER = (250, 250, 248)
INK = (34, 34, 38)
_GAP = 6


def colour_labels(labels: Tensor | Array, classes: ClassTable) -> Pixels:
    """Paint every class id in its colour.

    Args:
        labels: Class ids from 0 to 255, ``(H, W)``; from ``K`` on they become `VOID_COLOUR`.
        classes: Names and colours of the ``K`` classes.

    Returns:
        RGB picture, uint8 ``(H, W, 3)``.
    """
    table = np.full((IGNORE + 1, 3), VOID_COLOUR, dtype=np.uint8)
    table[: classes.num_classes] = classes.palette
    painted: Pixels = table[np.asarray(labels)]
    return painted


def to_pixels(image: Tensor | Pixels) -> Pixels:
    """RGB bytes ``(H, W, 3)`` of a tensor uint8 ``(3, H, W)``; an array is that already."""
    return image if isinstance(image, np.ndarray) else np.ascontiguousarray(image.permute(1, 2, 0))


def overlay(
    image: Tensor | Pixels,
    labels: Tensor | Array,
    classes: ClassTable,
    alpha: float = 0.5,
) -> Pixels:
    """Lay the colours of labels over an image; pixels without a label stay as they are.

    Args:
        image: As for `to_pixels`, of the labels' height and width.
        labels: As for `colour_labels`.
        classes: Names and colours of the classes.
        alpha: Opacity of the colours, 0 to 1.

    Returns:
        RGB picture, uint8 ``(H, W, 3)``.
    """
    pixels, colours = to_pixels(image), colour_labels(labels, classes)
    is_labelled = (np.asarray(labels) < classes.num_classes)[..., None]
    mixed = np.rint((1.0 - alpha) * pixels + alpha * colours).astype(np.uint8)
    return np.where(is_labelled, mixed, pixels)


def overlay_picture(
    image: Tensor, labels: Tensor | Array, classes: ClassTable, alpha: float = 0.5
) -> Image.Image:
    """Lay the colours of labels over an image of any size, in bands of rows.

    Args:
        image: RGB uint8 ``(3, H, W)``.
        labels: As for `overlay`.
        classes: As for `overlay`.
        alpha: As for `overlay`.

    Returns:
        RGB picture.
    """
    height, width = labels.shape
    picture = Image.new("RGB", (width, height))
    rows = max(1, BAND_PIXELS // width)
    for top in range(0, height, rows):
        band = slice(top, top + rows)
        painted = overlay(image[:, band], labels[band], classes, alpha)
        picture.paste(Image.fromarray(painted), (0, top))
    return picture


def colour_masks(
    masks: Tensor,
    class_ids: Sequence[int] | Tensor,
    classes: ClassTable,
    size: tuple[int, int],
    image: Tensor | Pixels,
) -> Pixels:
    """Show prompted masks as soft colours, each as opaque as its probability.

    Where masks overlap their colours are averaged by probability; the opacity is that of the
    likeliest mask.

    Args:
        masks: Mask logits, float ``(P, h, w)``; resized bilinearly to ``size``.
        class_ids: Class of each mask, ``P`` ids in ``[0, K)``.
        classes: Names and colours of the classes.
        size: Height and width of the picture.
        image: Shown in grey below the masks, of that height and width; as for `to_pixels`.

    Returns:
        RGB picture, uint8 ``(*size, 3)``.
    """
    ground = to_pixels(image).mean(axis=2, keepdims=True, dtype=np.float32) * np.float32(0.6)
    opacity: NDArray[np.float32] = resize(masks[None], size)[0].sigmoid().numpy()  # (P, H, W)
    colours = np.asarray([classes.palette[int(one)] for one in class_ids], dtype=np.float32)
    total = np.maximum(opacity.sum(axis=0), np.float32(1e-6))[..., None]
    mixed = np.einsum("phw,pc->hwc", opacity, colours) / total
    strongest = opacity.max(axis=0)[..., None]
    shown: Pixels = np.rint(ground * (1.0 - strongest) + mixed * strongest).astype(np.uint8)
    return shown


def panel(
    rows: Sequence[Sequence[Image.Image | Pixels]],
    titles: Sequence[str],
    legend: ClassTable | None = None,
    *,
    tile_width: int | None = None,
) -> Image.Image:
    """Set pictures side by side, one row per image, with titles above and colours below.

    Args:
        rows: Pictures, as many in each row as there are titles; scaled to one width, their
            height following.
        titles: Text above each column.
        legend: Classes whose colours and names are listed below; none without it.
        tile_width: Width of each picture; that of the first one when left out.

    Returns:
        RGB picture.
    """
    width = tile_width or _to_image(rows[0][0]).width
    tiles = [[fit_width(_to_image(picture), width) for picture in row] for row in rows]
    font_size = int(min(22, max(11, width * 0.062)))
    lines = _wrap_titles(titles, width, font_size)
    title_height = len(lines[0]) * int(1.3 * font_size) + _GAP
    total = len(titles) * (width + _GAP) + _GAP
    entries = place_legend(legend, total, font_size) if legend is not None else []
    heights = [max(tile.height for tile in row) for row in tiles]
    legend_height = (entries[-1][1] + int(1.9 * font_size)) if entries else 0
    height = title_height + sum(heights) + _GAP * (len(rows) + 1) + legend_height
    canvas = Image.new("RGB", (total, height), PAPER)
    draw = ImageDraw.Draw(canvas)
    for column, text_lines in enumerate(lines):
        x = _GAP + column * (width + _GAP)
        for number, line in enumerate(text_lines):
            y = _GAP + number * int(1.3 * font_size)
            font = font_of(line, font_size)
            draw.text((x + width / 2, y), line, font=font, fill=INK, anchor="ma")
    y = title_height + _GAP
    for tile_row, row_height in zip(tiles, heights, strict=True):
        for column, tile in enumerate(tile_row):
            canvas.paste(tile, (_GAP + column * (width + _GAP), y))
        y += row_height + _GAP
    for x, dy, name, colour in entries:
        draw_entry(draw, (x, y + dy), name, colour, font_size)
    return canvas


def save_png(picture: Image.Image, path: Path) -> None:
    """Write a picture as PNG, whole or not at all.

    Args:
        picture: RGB picture.
        path: File to write; its folder is made if need be.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as part:
        picture.save(part, format="PNG")


def _to_image(picture: Image.Image | Pixels) -> Image.Image:
    return picture.convert("RGB") if isinstance(picture, Image.Image) else Image.fromarray(picture)


def fit_width(picture: Image.Image, width: int) -> Image.Image:
    """Scale a picture to a width; enlarged pixels stay visible as squares."""
    if picture.width == width:
        return picture
    height = max(1, round(picture.height * width / picture.width))
    method = Image.Resampling.LANCZOS if width < picture.width else Image.Resampling.NEAREST
    return picture.resize((width, height), method)


def _wrap_titles(titles: Sequence[str], width: int, font_size: int) -> list[list[str]]:
    """Break titles into lines that fit their column, all into equally many."""
    wrapped = []
    for title in titles:
        font = font_of(title, font_size)
        lines = [""]
        for word in title.split():
            longer = f"{lines[-1]} {word}".strip()
            if lines[-1] and font.getlength(longer) > width:
                lines.append(word)
            else:
                lines[-1] = longer
        wrapped.append(lines)
    most = max(len(lines) for lines in wrapped)
    return [[""] * (most - len(lines)) + lines for lines in wrapped]


def font_of(text: str, size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    """A font that has the letters of a text; Pillow's own has those of ASCII.

    Matplotlib's, which is not imported for it, has those of Latin, Greek, Cyrillic and Arabic.
    """
    home = None if text.isascii() else find_spec("matplotlib")
    file = Path((home and home.origin) or "").parent / "mpl-data/fonts/ttf/DejaVuSans.ttf"
    return ImageFont.truetype(file, size) if file.is_file() else ImageFont.load_default(size)


def place_legend(
    legend: ClassTable, width: int, font_size: int
) -> list[tuple[int, int, str, tuple[int, int, int]]]:
    """Find a place for each class in rows: column, row, name, colour."""
    entries = []
    x, y = _GAP, 0
    for name, colour in zip(legend.names, legend.palette, strict=True):
        needed = int(1.5 * font_size + font_of(name, font_size).getlength(name) + 1.2 * font_size)
        if x > _GAP and x + needed > width:
            x, y = _GAP, y + int(1.6 * font_size)
        entries.append((x, y, name, colour))
        x += needed
    return entries


def draw_entry(
    draw: ImageDraw.ImageDraw, at: tuple[int, int], name: str, colour: tuple[int, int, int],
    font_size: int,
) -> None:  # fmt: skip
    """Draw one colour of the legend with its name."""
    x, y = at
    box = (x, y + 0.25 * font_size, x + font_size, y + 1.25 * font_size)
    draw.rounded_rectangle(box, radius=0.2 * font_size, fill=colour, outline=(120, 120, 124))
    font = font_of(name, font_size)
    draw.text((x + 1.4 * font_size, y + 0.75 * font_size), name, font=font, fill=INK, anchor="lm")
