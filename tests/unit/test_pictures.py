from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tsic.data.classes import ClassTable
from tsic.pictures import (
    VOID_COLOUR,
    colour_labels,
    colour_masks,
    font_of,
    overlay,
    panel,
    save_png,
    to_pixels,
)

RED, BLUE = (200, 0, 0), (0, 0, 100)
CLASSES = ClassTable.from_names(("road", "sky"), palette=(RED, BLUE))


def test_colour_labels_paints_classes_and_darkens_the_rest() -> None:
    labels = torch.tensor([[0, 1, 255], [7, 254, 2]])
    picture = colour_labels(labels, CLASSES)
    assert picture.dtype == np.uint8
    assert picture.tolist() == [
        [list(RED), list(BLUE), list(VOID_COLOUR)],
        [list(VOID_COLOUR)] * 3,
    ]
    assert np.array_equal(colour_labels(labels.numpy(), CLASSES), picture)


def test_to_pixels_reads_tensors_as_planar() -> None:
    planar = torch.zeros(3, 3, 3, dtype=torch.uint8)
    planar[0] = 9
    assert to_pixels(planar)[..., 0].tolist() == [[9] * 3] * 3
    assert to_pixels(planar.numpy())[0].tolist() == [[9] * 3] * 3


def test_overlay_mixes_where_there_is_a_label() -> None:
    image = np.full((1, 3, 3), 100, dtype=np.uint8)
    picture = overlay(image, np.array([[0, 255, 9]]), CLASSES, alpha=0.25)
    assert picture.tolist() == [[[125, 75, 75], [100, 100, 100], [100, 100, 100]]]


def test_colour_masks_is_as_opaque_as_the_mask_is_sure() -> None:
    masks = torch.tensor([[[20.0, 0.0, -20.0]]])
    image = np.array([[[30, 60, 90]] * 3], dtype=np.uint8)  # grey 60, dimmed to 36
    picture = colour_masks(masks, [0], CLASSES, (1, 3), image)
    assert picture.tolist() == [[[200, 0, 0], [118, 18, 18], [36, 36, 36]]]


def test_colour_masks_averages_overlapping_colours() -> None:
    masks, black = torch.full((2, 1, 1), 20.0), np.zeros((1, 1, 3), dtype=np.uint8)
    picture = colour_masks(masks, torch.tensor([0, 1]), CLASSES, (1, 1), black)
    assert picture.tolist() == [[[100, 0, 50]]]


def test_colour_masks_resizes_and_takes_bfloat16() -> None:
    masks = torch.full((1, 2, 3), 9.0, dtype=torch.bfloat16)
    picture = colour_masks(masks, [1], CLASSES, (8, 12), np.zeros((8, 12, 3), dtype=np.uint8))
    assert picture.shape == (8, 12, 3)
    assert (picture == BLUE).all()


def test_panel_places_pictures_in_rows_and_columns() -> None:
    red = np.full((20, 60, 3), RED, dtype=np.uint8)
    blue = Image.new("RGB", (60, 20), BLUE)
    picture = panel([[red, blue], [blue, red]], ["one", "two"])
    pixels = np.asarray(picture)
    for colour in (RED, BLUE):
        assert np.sum((pixels == colour).all(axis=2)) == 2 * 20 * 60
    is_red = (pixels == RED).all(axis=2)
    columns = np.flatnonzero(is_red.any(axis=0))
    rows = np.flatnonzero(is_red.any(axis=1))
    assert is_red[rows[0], columns[0]]  # the first row's red lies left
    assert is_red[rows[-1], columns[-1]]
    assert not is_red[rows[0], columns[-1]]
    above = pixels[: rows[0]]
    assert (above.min(axis=(0, 2)) < 100).any()  # there is text


def test_panel_grows_by_a_legend_that_holds_every_colour() -> None:
    tile = np.zeros((40, 120, 3), dtype=np.uint8)
    plain = panel([[tile]], ["image"])
    listed = panel([[tile]], ["image"], CLASSES)
    assert listed.width == plain.width
    assert listed.height > plain.height
    below = np.asarray(listed)[plain.height :]
    for colour in (RED, BLUE):
        assert (below == colour).all(axis=2).sum() > 20


def test_panel_scales_pictures_to_one_width() -> None:
    wide = np.zeros((10, 40, 3), dtype=np.uint8)
    large = np.zeros((100, 80, 3), dtype=np.uint8)
    narrow = panel([[wide, large]], ["a", "b"], tile_width=20)
    wider = panel([[wide, large]], ["a", "b"], tile_width=40)
    assert wider.width - narrow.width == 40
    assert wider.height - narrow.height == 25  # the taller picture goes from 25 to 50 rows


def test_panel_breaks_long_titles_instead_of_overlapping() -> None:
    tile = np.zeros((10, 60, 3), dtype=np.uint8)
    short = panel([[tile, tile]], ["a", "b"])
    long = panel([[tile, tile]], ["several words in a title", "b"])
    assert long.size[0] == short.size[0]
    assert long.size[1] > short.size[1]


@pytest.mark.parametrize("letters", ["ëüéßŁ", "жЩ", "λΩ"])
def test_letters_beyond_ascii_are_drawn(letters: str) -> None:
    """Each by a shape of its own, where a font without them draws one box for all."""
    font = font_of(letters, 16)
    drawn = {bytes(font.getmask(letter)) for letter in (*letters, "\uffff")}
    assert len(drawn) == len(letters) + 1
    image = np.zeros((20, 60, 3), np.uint8)
    pictures = [panel([[image]], [one], ClassTable.from_names((one, "b"))) for one in letters]
    assert len({picture.tobytes() for picture in pictures}) == len(letters)


def test_save_png_makes_the_folder_and_leaves_no_part(tmp_path: Path) -> None:
    file = tmp_path / "samples" / "step_10.png"
    save_png(Image.new("RGB", (3, 2), RED), file)
    assert [path.name for path in file.parent.iterdir()] == ["step_10.png"]
    assert np.asarray(Image.open(file)).tolist() == [[list(RED)] * 3] * 2
