"""A contact sheet of a split: images, their labels laid over them, and a legend."""

import random
from collections.abc import Sequence

import torch
from PIL import Image, ImageDraw, ImageFont

from tsic.data.classes import IGNORE, ClassTable
from tsic.data.dataset import SegmentationDataset
from tsic.pictures import INK, PAPER, fit_width, font_of, overlay_picture, panel, to_pixels

TILE_WIDTH = 320
"""Width of each picture on the sheet, in pixels."""

PAIRS_PER_ROW = 2
"""Images, each with its overlay, side by side."""

_CAPTION = 18  # height in pixels of an image's name above it


def contact_sheet(dataset: SegmentationDataset, *, count: int = 12, seed: int = 0) -> Image.Image:
    """Show some images of a split beside their labels.

    Args:
        dataset: What to show.
        count: How many images; all of them where there are fewer.
        seed: Decides which.

    Returns:
        RGB picture: two pairs a row in the split's order, then the classes that are on it.

    Raises:
        DataError: If a chosen image or its mask cannot be read; the message names the file.
    """
    chosen = sorted(random.Random(seed).sample(range(len(dataset)), min(count, len(dataset))))
    tiles: list[Image.Image] = []
    present: set[int] = set()
    for index in chosen:
        image, label = dataset.read(index)
        # Sorted, as unique would, 64 million pixels take seconds and several copies.
        present |= set(torch.bincount(label.flatten()).nonzero().flatten().tolist())
        coloured = overlay_picture(image, label, dataset.classes, alpha=0.6)
        tiles.append(_tile(Image.fromarray(to_pixels(image)), dataset.samples[index].name))
        tiles.append(_tile(coloured, ""))
    per_row = min(PAIRS_PER_ROW, len(chosen))
    blank = Image.new("RGB", (TILE_WIDTH, 1), PAPER)
    tiles += [blank] * (-len(tiles) % (2 * per_row))
    rows = [tiles[start : start + 2 * per_row] for start in range(0, len(tiles), 2 * per_row)]
    legend = _only(dataset.classes, sorted(present - {IGNORE}))
    return panel(rows, ["image", "label over image"] * per_row, legend, tile_width=TILE_WIDTH)


def _tile(picture: Image.Image, caption: str) -> Image.Image:
    """Scale a picture to the width of a tile and write a caption above it."""
    picture = fit_width(picture, TILE_WIDTH)
    tile = Image.new("RGB", (TILE_WIDTH, _CAPTION + picture.height), PAPER)
    tile.paste(picture, (0, _CAPTION))
    draw = ImageDraw.Draw(tile)
    font = font_of(caption, 11)
    draw.text((1, _CAPTION / 2), _shortened(caption, font), font=font, fill=INK, anchor="lm")
    return tile


def _shortened(name: str, font: ImageFont.ImageFont | ImageFont.FreeTypeFont) -> str:
    """The end of a path, as much of it as fits on a tile."""
    if font.getlength(name) <= TILE_WIDTH:
        return name
    while font.getlength(f"...{name}") > TILE_WIDTH:
        name = name[1:]
    return f"...{name}"


def _only(classes: ClassTable, present: Sequence[int]) -> ClassTable | None:
    """The table of some classes alone; ``None`` where there are none."""
    if not present:
        return None
    names = [classes.names[train_id] for train_id in present]
    return ClassTable.from_names(names, palette=[classes.palette[i] for i in present])
