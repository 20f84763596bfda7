"""What an encoder saw of whole images lies where the crop shows it."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import ExifTags, Image
from torch import Tensor

from tsic.config import RunConfig, TeacherConfig
from tsic.data.classes import ClassTable
from tsic.data.dataset import Sample, SegmentationDataset
from tsic.data.hints import StoredHints, cells_of
from tsic.data.transforms import TrainTransform, View, seeded
from tsic.errors import DataError
from tsic.teacher import build_hint_encoder
from tsic.training.embed import stored_hints

HEIGHT, WIDTH = 120, 160
CLASSES = ClassTable(("a",), ((0, 0, 0),), {0: 0})


def coordinates() -> Tensor:
    """Image ``(3, H, W)`` whose red is its column and whose green is its row."""
    rows, columns = torch.meshgrid(torch.arange(HEIGHT), torch.arange(WIDTH), indexing="ij")
    return torch.stack([columns, rows, rows * 0])


def two_images(folder: Path, *grey: int) -> SegmentationDataset:
    """A dataset of two images that are grey all over."""
    folder.mkdir(exist_ok=True)
    samples = []
    for name, value in zip(("one.bmp", "two.bmp"), grey, strict=True):
        Image.new("RGB", (8, 6), (value,) * 3).save(folder / name)
        samples.append(Sample(folder / name, folder / name, name))
    return SegmentationDataset("folder", folder, "train", CLASSES, tuple(samples))


@pytest.fixture
def hints(tmp_path: Path) -> StoredHints:
    """An "encoder" that sees a cell's mean column and row, in an image and its mirror image."""
    stored = StoredHints(tmp_path / "hints", two_images(tmp_path / "here", 1, 2))
    image = coordinates().float()
    stored.write(1, F.avg_pool2d(torch.stack([image, image.flip(2)]), 4))
    return stored


@pytest.mark.parametrize("crop", [(64, 96), (90, 70), (150, 208)])
def test_a_crop_is_hinted_at_what_it_shows(hints: StoredHints, crop: tuple[int, int]) -> None:
    transform = TrainTransform(crop, scale=(0.6, 1.6), max_class_share=1)
    image, label = coordinates().to(torch.uint8), torch.zeros(HEIGHT, WIDTH, dtype=torch.uint8)
    mirrored = padded = 0
    for seed in range(40):
        with seeded(seed):
            view = transform.draw(label)
        shown, known = transform.cut(image, label, view)
        hint = hints.crop(1, view)
        rows, columns = cells_of(view)
        assert hint.shape == (3, rows, columns)
        # The cells cover exactly the crop.
        mean = F.adaptive_avg_pool2d(shown.float(), (rows, columns))
        whole = F.adaptive_avg_pool2d((known != 255).float()[None], (rows, columns))[0] == 1
        assert (hint.float() - mean)[:2, whole].abs().max() < 2.5, "pixels"
        mirrored += view.mirrored
        padded += not bool(whole.all())
    assert 5 < mirrored < 35
    assert (padded > 0) == (crop != (64, 96))


def test_hints_of_a_padded_mirrored_crop_stay_beside_the_padding(hints: StoredHints) -> None:
    view = View(scaled=(120, 160), corner=(0, -48), crop=(120, 208), mirrored=True)
    columns = hints.crop(1, view)[0].float().mean(0)
    assert columns[:3].min() > 155, "the mirror image begins with the last column"
    assert columns[3] > columns[-1]


WHOLE = View((120, 160), (0, 0), (64, 64), mirrored=False)


def test_missing_images_are_known(hints: StoredHints) -> None:
    assert hints.missing() == [0]
    with pytest.raises(DataError, match=r"\.npy: no embedding of one\.bmp .*delete it"):
        hints.crop(0, WHOLE)


def test_a_damaged_file_is_named(hints: StoredHints) -> None:
    hints.files[1].write_bytes(hints.files[1].read_bytes()[:200])
    with pytest.raises(DataError, match=r"\.npy: no embedding of two\.bmp"):
        hints.crop(1, WHOLE)


@pytest.mark.parametrize("shape", [(3,), (2, 4), (3, 4, 5, 6)])
def test_a_strange_file_is_named(hints: StoredHints, shape: tuple[int, ...]) -> None:
    np.save(hints.files[1], np.zeros(shape, np.float16))
    with pytest.raises(DataError, match=r"no embedding of two\.bmp .*its array is \("):
        hints.crop(1, WHOLE)


def test_an_image_is_known_by_its_pixels(hints: StoredHints, tmp_path: Path) -> None:
    folder = hints.files[1].parent
    moved = StoredHints(folder, two_images(tmp_path / "moved", 2, 1))
    assert moved.missing() == [1], "the same images elsewhere, by another name"
    others = StoredHints(folder, two_images(tmp_path / "others", 1, 3))
    assert others.missing() == [0, 1], "of the same names and sizes in bytes"


def test_a_palette_and_a_turn_make_another_image(tmp_path: Path) -> None:
    """Of equal bytes where Pillow gives them."""
    grey = Image.new("L", (8, 6), 7)
    turned, colours = Image.Exif(), [Image.new("P", (8, 6), 7) for _ in range(2)]
    turned[ExifTags.Base.Orientation] = 3
    colours[0].putpalette([9] * 768)
    colours[1].putpalette([8] * 768)
    files = [tmp_path / f"{number}.png" for number in range(4)]
    for image, file in zip((grey, *colours), files, strict=False):
        image.save(file)
    grey.save(files[3], exif=turned)
    samples = tuple(Sample(file, file, file.name) for file in files)
    dataset = SegmentationDataset("folder", tmp_path, "train", CLASSES, samples)
    assert len(set(StoredHints(tmp_path / "hints", dataset).files)) == 4


def test_an_encoder_s_settings_and_weights_name_the_folder(tmp_path: Path) -> None:
    config = RunConfig(teacher=TeacherConfig("tiny-sam", hints_only=True, hint_cache=str(tmp_path)))
    dataset = two_images(tmp_path / "images", 1, 2)
    folders = []
    for epsilon, change in ((1e-6, 0.0), (1e-6, 0.0), (1e-3, 0.0), (1e-6, 1.0)):
        encoder = build_hint_encoder("tiny-sam")
        encoder.foundation.model.config.vision_config.layer_norm_eps = epsilon
        next(encoder.foundation.encoder.parameters()).data += change
        stored = stored_hints(config, encoder, dataset)
        assert stored is not None
        folders.append(stored.files[0].parent)
    assert folders[0] == folders[1]
    assert len(set(folders)) == 3
