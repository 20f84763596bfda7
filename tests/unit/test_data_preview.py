import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tsic.data.preview import TILE_WIDTH, contact_sheet
from tsic.data.readers import open_dataset
from tsic.errors import DataError

GAP = 6
CAPTION = 18


def pixels_of(root: Path, **options: int) -> np.ndarray:
    return np.asarray(contact_sheet(open_dataset("folder", root, "train"), **options))


def has(pixels: np.ndarray, colour: tuple[int, ...]) -> bool:
    return bool((pixels == colour).all(axis=2).any())


def test_sheet_has_two_pairs_a_row(folder_dataset: Path) -> None:
    one, two, three, six = (pixels_of(folder_dataset, count=n).shape for n in (1, 2, 3, 6))
    tile = CAPTION + round(64 * TILE_WIDTH / 96)
    assert one[1] == 2 * (TILE_WIDTH + GAP) + GAP
    assert two[1] == three[1] == six[1] == 4 * (TILE_WIDTH + GAP) + GAP
    assert one[0] == two[0]
    assert three[0] - two[0] == tile + GAP
    assert six[0] - two[0] == 2 * (tile + GAP)
    assert pixels_of(folder_dataset, count=99).shape == six


def test_overlay_mixes_the_label_into_the_image(tmp_path: Path) -> None:
    for kind in ("images", "masks"):
        (tmp_path / "train" / kind).mkdir(parents=True)
    Image.new("RGB", (40, 30), (100, 100, 100)).save(tmp_path / "train/images/a.png")
    mask = np.full((30, 40), 255, np.uint8)
    mask[:, :20] = 1
    Image.fromarray(mask).save(tmp_path / "train/masks/a.png")
    (tmp_path / "classes.yaml").write_text(
        "classes: [{name: x, color: [0, 255, 0]}, {name: y, color: [200, 0, 50]}]"
    )
    sheet = pixels_of(tmp_path)
    left, right = sheet[:, : TILE_WIDTH + GAP], sheet[:, TILE_WIDTH + GAP :]
    mixed = (160, 40, 70)  # 0.4 of the image's 100 and 0.6 of the class's colour
    assert has(right, mixed)
    assert has(right, (100, 100, 100))  # ignored pixels stay
    assert not has(left, mixed)
    assert has(sheet, (200, 0, 50))  # the legend holds the class that is there,
    assert not has(sheet, (0, 255, 0))  # and no other


def test_sheet_without_any_label_has_no_legend(folder_dataset: Path) -> None:
    for mask in (folder_dataset / "train/masks").iterdir():
        Image.new("L", (96, 64), 255).save(mask)
    palette = open_dataset("folder", folder_dataset, "train").classes.palette
    sheet = pixels_of(folder_dataset, count=2)
    assert not any(has(sheet, colour) for colour in palette)


def test_seed_chooses_the_images(folder_dataset: Path) -> None:
    first = pixels_of(folder_dataset, count=2, seed=1)
    assert (first == pixels_of(folder_dataset, count=2, seed=1)).all()
    others = [pixels_of(folder_dataset, count=2, seed=seed) for seed in range(2, 6)]
    assert not all(other.shape == first.shape and (other == first).all() for other in others)


def test_unreadable_file_is_named(folder_dataset: Path) -> None:
    (folder_dataset / "train/masks/003.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"masks/003\.png: cannot be decoded"):
        pixels_of(folder_dataset)


def test_a_large_image_is_coloured_in_bands(folder_dataset: Path) -> None:
    for kind, mode in (("images", "RGB"), ("masks", "L")):
        Image.new(mode, (2000, 2000)).save(folder_dataset / f"train/{kind}/000.png")
    dataset = open_dataset("folder", folder_dataset, "train")
    dataset = replace(dataset, samples=dataset.samples[:1])
    tracemalloc.start()
    contact_sheet(dataset, count=1)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 30 * 2000 * 2000  # mixed as a whole, in floats, it took 56 bytes a pixel
