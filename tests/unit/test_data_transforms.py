import colorsys
import re
from typing import Any

import pytest
import torch
import torchvision.transforms.v2.functional as TF
from torch import Tensor

from tsic.data.transforms import (
    PAD_COLOUR,
    EvalTransform,
    TrainTransform,
    _scale_saturation,
    _turn_hue,
    distort_colours,
)
from tsic.errors import ConfigError


def _coordinates(height: int, width: int) -> Tensor:
    """Image uint8 (3, H, W) whose red is its column and whose green is its row."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([columns, rows, rows * 0]).to(torch.uint8)


def _labels(height: int, width: int) -> Tensor:
    """Random label int64 (H, W) of four classes in blocks of 8 pixels."""
    blocks = torch.randint(0, 4, (height // 8, width // 8))
    return blocks.repeat_interleave(8, 0).repeat_interleave(8, 1)


def test_nothing_to_do_changes_nothing() -> None:
    image, label = _coordinates(40, 56), _labels(40, 56)
    transform = TrainTransform((40, 56), scale=(1, 1), flip=0, photometric=False)
    new_image, new_label = transform(image, label)
    assert (new_image.dtype, new_label.dtype) == (torch.float32, torch.int64)
    assert torch.equal(new_image, image / 255)
    assert torch.equal(new_label, label)


def test_flip_mirrors_both() -> None:
    image, label = _coordinates(40, 56), _labels(40, 56)
    transform = TrainTransform((40, 56), scale=(1, 1), flip=1, photometric=False)
    new_image, new_label = transform(image, label)
    assert torch.equal(new_image, image.flip(-1) / 255)
    assert torch.equal(new_label, label.flip(-1))


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("ratio", [0.5, 0.73, 1.0, 1.37, 2.0])
def test_label_stays_registered_to_the_image(axis: int, ratio: float) -> None:
    """Both show the source pixel's coordinate, so their difference is the misregistration."""
    image = _coordinates(200, 240)
    transform = TrainTransform((90, 130), scale=(ratio, ratio), photometric=False)
    shifts = []
    for _ in range(20):
        new_image, new_label = transform(image, image[axis].long())
        seen = new_label != 255
        shift = (new_label - new_image[axis] * 255)[seen]
        assert shift.abs().max() <= 0.5 + 0.5 / ratio + 0.5  # rounding, nearest pixel, border
        shifts.append(shift)
    assert abs(torch.cat(shifts).mean()) < 0.03


def test_padding_is_ignored_and_plain() -> None:
    image, label = torch.zeros(3, 20, 30, dtype=torch.uint8), torch.ones(20, 30, dtype=torch.int64)
    transform = TrainTransform((48, 64), scale=(0.5, 0.5))
    new_image, new_label = transform(image, label)
    assert (new_image.shape, new_label.shape) == ((3, 48, 64), (48, 64))
    inside = new_label != 255
    assert new_label[inside].unique().tolist() == [1]
    assert int(inside.sum()) == 10 * 15
    assert torch.equal(new_image[:, ~inside], torch.tensor(PAD_COLOUR)[:, None].expand(3, 2922))


def test_mixed_crop_pads_only_the_short_side() -> None:
    transform = TrainTransform((48, 16), scale=(1, 1), photometric=False)
    _, label = transform(_coordinates(24, 40), _labels(24, 40))
    assert label.shape == (48, 16)
    assert int((label != 255).sum()) == 24 * 16


def test_ratios_fill_their_range() -> None:
    """A padded crop shows the scaled size: its mean ratio and extremes are the uniform's."""
    transform = TrainTransform((160, 160), photometric=False)
    image, label = _coordinates(64, 64), _labels(64, 64)
    ratios = torch.tensor(
        [(transform(image, label)[1] != 255).sum().sqrt() / 64 for _ in range(300)]
    )
    assert 0.5 <= ratios.min() < 0.52
    assert 1.98 < ratios.max() <= 2.0
    assert 1.2 < ratios.mean() < 1.3


def test_class_share_is_kept_where_possible() -> None:
    label = torch.zeros(64, 256, dtype=torch.int64)
    label[:, 112:144] = 1
    image = _coordinates(64, 256)

    def mixed(share: float) -> int:
        transform = TrainTransform((64, 64), (1, 1), max_class_share=share, photometric=False)
        crops = [transform(image, label)[1] for _ in range(100)]
        return sum(0.25 <= float((crop == 1).float().mean()) <= 0.75 for crop in crops)

    assert mixed(0.75) >= 93  # one throw in three suits: 10 fail with 1.5 %
    assert mixed(1) <= 50


@pytest.mark.parametrize("value", [255, 3])
def test_one_class_or_none_still_gives_a_crop(value: int) -> None:
    label = torch.full((32, 32), value)
    _, new_label = TrainTransform((16, 16), (1, 1))(_coordinates(32, 32), label)
    assert torch.equal(new_label, torch.full((16, 16), value))


@pytest.mark.parametrize(
    ("size", "box", "fitted"),
    [
        ((100, 200), (50, 50), (25, 50)),
        ((100, 200), (40, 30), (20, 40)),
        ((200, 100), (30, 40), (40, 20)),
        ((100, 200), (50, 9999), (50, 100)),
    ],
)
def test_resize_fits_the_box(
    size: tuple[int, int], box: tuple[int, int], fitted: tuple[int, int]
) -> None:
    transform = TrainTransform((120, 120), scale=(1, 1), resize=box)
    _, label = transform(_coordinates(*size), torch.zeros(size, dtype=torch.int64))
    inside = label != 255
    assert (int(inside.any(1).sum()), int(inside.any(0).sum())) == fitted


def test_same_seed_same_view() -> None:
    image, label = _coordinates(64, 96), _labels(64, 96)
    transform = TrainTransform((48, 48))
    views = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        views.append(transform(image, label))
    assert torch.equal(views[0][0], views[1][0])
    assert torch.equal(views[0][1], views[1][1])
    assert not torch.equal(views[0][0], views[2][0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"crop": (0, 5)}, "crop must be (height, width) in pixels, got (0, 5)"),
        ({"crop": (5, 5), "resize": (5,)}, "resize must be (height, width)"),
        ({"crop": (5, 5), "scale": (2, 1)}, "scale must be (smallest, largest) ratio above 0"),
        ({"crop": (5, 5), "max_class_share": 75}, "max_class_share must be from 0 to 1, got 75"),
        ({"crop": (5, 5), "flip": -1}, "flip must be from 0 to 1, got -1"),
    ],
)
def test_wrong_settings_name_the_key(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        TrainTransform(**options)


def test_eval_transform_only_converts() -> None:
    image, label = _coordinates(7, 9), _labels(8, 8)
    new_image, new_label = EvalTransform()(image, label)
    assert torch.equal(new_image, image / 255)
    assert new_label is label


def test_turn_hue_equals_torchvision() -> None:
    image = torch.rand(3, 30, 40)
    image[:, 0] = image[:1, 0]  # greys
    image[:, 1] = torch.tensor([1.0, 0.0, 0.0])[:, None]
    for turns in (-0.05, 0.0, 0.02, 0.3):
        torch.testing.assert_close(
            _turn_hue(image, turns), TF.adjust_hue(image, turns), atol=1e-5, rtol=0
        )


@pytest.mark.parametrize("factor", [0.5, 1.0, 1.5])
def test_scale_saturation_multiplies_that_of_hsv(factor: float) -> None:
    for rgb in ((0.2, 0.5, 0.9), (0.4, 0.4, 0.4), (0.0, 0.0, 0.0), (1.0, 0.6, 0.5)):
        hue, saturation, value = colorsys.rgb_to_hsv(*rgb)
        expected = colorsys.hsv_to_rgb(hue, min(1.0, saturation * factor), value)
        scaled = _scale_saturation(torch.tensor(rgb).view(3, 1, 1), factor)
        torch.testing.assert_close(scaled.flatten(), torch.tensor(expected))


def test_distort_colours_stays_in_range_and_keeps_grey_grey() -> None:
    image = torch.rand(1, 8, 8).repeat(3, 1, 1)
    views = [distort_colours(image) for _ in range(200)]
    assert all(view.min() >= 0 and view.max() <= 1 for view in views)
    assert all(torch.allclose(view[0], view[2], atol=1e-5) for view in views)
    unchanged = sum(torch.allclose(view, image, atol=1e-5) for view in views)
    assert 30 <= unchanged <= 70  # neither brightness nor contrast: a quarter
