"""Labels of images of any size: windows, flips and scales, against a plain computation."""

import math
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tsic.data.classes import ClassTable
from tsic.deploy.inference import WHOLE, View, label_image, label_images, score_image
from tsic.deploy.model import Gives
from tsic.deploy.windows import window_starts
from tsic.errors import ConfigError
from tsic.grid import Size

CLASSES = ClassTable.from_names(("road", "car", "sky", "tree"))
STRIDE = 4


class Painter:
    """Scores averages of 4x4 pixels, less the mean of all it sees: a window's border matters."""

    classes = CLASSES
    device = torch.device("cpu")

    def __init__(
        self,
        gives: Gives = "scores",
        only_size: Size | None = None,
        only_batch: int | None = None,
    ) -> None:
        self.gives = gives
        self.only_size = only_size
        self.only_batch = only_batch
        self.resize: Size | None = None
        self.weights = torch.randn(4, 3, generator=torch.Generator().manual_seed(1)) * 5
        self.seen: list[tuple[int, ...]] = []

    def __call__(self, images: Tensor) -> Tensor:
        assert torch.is_inference_mode_enabled()
        assert images.dtype == torch.float32
        assert 0 <= images.min() <= images.max() <= 1
        assert self.only_size in (None, tuple(images.shape[2:]))
        assert self.only_batch in (None, len(images))
        self.seen.append(tuple(images.shape))
        pooled = F.avg_pool2d(images, STRIDE, ceil_mode=True) - images.mean((2, 3), keepdim=True)
        scores = torch.einsum("kc,bchw->bkhw", self.weights, pooled)
        # What lies left and right of a pixel counts, or a mirrored image would score the same.
        scores[:, 0, :, 1:] += 3 * pooled[:, 0, :, :-1]
        if self.gives == "scores":
            return scores
        return resized(scores, (images.shape[2], images.shape[3])).argmax(1)


def resized(scores: Tensor, size: Size) -> Tensor:
    return F.interpolate(scores, size, mode="bilinear", align_corners=False)


def draw(height: int, width: int) -> Tensor:
    """A smooth random picture, uint8 ``(3, H, W)``."""
    coarse = torch.rand(1, 3, height // 6 + 2, width // 6 + 2)
    return (255 * resized(coarse, (height, width))[0]).to(torch.uint8)


@torch.inference_mode()
def whole_scores(model: Painter, image: Tensor, size: Size) -> Tensor:
    """Scores of the whole image at a size, ``(K, *size)``."""
    return resized(model(image[None].float() / 255), size)[0]


@torch.inference_mode()
def window_scores(model: Painter, image: Tensor, crop: Size, stride: Size, size: Size) -> Tensor:
    """Every window's scores at full size in one array, divided by how often a pixel was seen."""
    height, width = image.shape[1:]
    total, count = torch.zeros(4, height, width), torch.zeros(height, width)
    rows = math.ceil(max(height - crop[0], 0) / stride[0]) + 1
    columns = math.ceil(max(width - crop[1], 0) / stride[1]) + 1
    for row, column in product(range(rows), range(columns)):
        bottom = min(row * stride[0] + crop[0], height)
        right = min(column * stride[1] + crop[1], width)
        here = slice(max(bottom - crop[0], 0), bottom), slice(max(right - crop[1], 0), right)
        part = image[:, here[0], here[1]]
        total[:, here[0], here[1]] += whole_scores(model, part, (part.shape[1], part.shape[2]))
        count[here] += 1
    return resized((total / count)[None], size)[0]


def by_hand(model: Painter, image: Tensor, view: View) -> Tensor:
    """Mean probabilities ``(K, H, W)``, everything at full size at once."""
    size = (image.shape[1], image.shape[2])
    answers = []
    for ratio, is_mirrored in product(view.scales, (False, True) if view.flip else (False,)):
        shown = image
        if ratio != 1:
            to = (round(size[0] * ratio), round(size[1] * ratio))
            shown = F.interpolate(
                image[None].float(), to, mode="bilinear", align_corners=False, antialias=True
            )[0]
            shown = shown.round()
        shown = shown.flip(2) if is_mirrored else shown
        if view.crop is None:
            scores = whole_scores(model, shown, size)
        else:
            assert view.step is not None
            scores = window_scores(model, shown, view.crop, view.step, size)
        answers.append((scores.flip(2) if is_mirrored else scores).softmax(0))
    return torch.stack(answers).mean(0)


VIEWS = {
    "whole": WHOLE,
    "flip": View(flip=True),
    "smaller": View(scales=(0.5,)),
    "scales and flip": View(scales=(0.5, 1.0, 1.5), flip=True),
    "windows": View(crop=(32, 40)),
    "windows, own stride": View(crop=(32, 40), stride=(32, 13)),
    "high windows": View(crop=(200, 24)),
    "one window": View(crop=(500, 500)),
    "all": View(crop=(32, 40), stride=(20, 30), scales=(0.75, 1.25), flip=True),
}


@pytest.mark.parametrize("name", VIEWS)
@pytest.mark.parametrize("size", [(64, 96), (75, 101)])
def test_scores_and_labels_equal_a_computation_at_full_size(size: Size, name: str) -> None:
    image = draw(*size)
    expected = by_hand(Painter(), image, VIEWS[name])
    # Resized images are rounded to bytes: by a resize of bytes, or after one of floats.
    tolerance = 1e-5 if VIEWS[name].scales == (1.0,) else 2e-2
    probabilities = score_image(Painter(), image, VIEWS[name])
    assert probabilities.dtype == torch.float32
    torch.testing.assert_close(probabilities, expected, atol=tolerance, rtol=0)
    labels = label_image(Painter(), image, VIEWS[name])
    assert labels.dtype == torch.uint8
    assert labels.unique().numel() > 2
    assert torch.equal(labels, probabilities.argmax(0).to(torch.uint8))


@pytest.mark.parametrize("name", ["scales and flip", "windows", "windows, own stride", "all"])
@pytest.mark.parametrize(("budget", "size"), [(1, (35, 61)), (40_000, (70, 130))])
def test_blocks_change_nothing(
    monkeypatch: pytest.MonkeyPatch, name: str, budget: int, size: Size
) -> None:
    image = draw(*size)
    expected = label_image(Painter(), image, VIEWS[name])
    monkeypatch.setattr("tsic.deploy.inference.SCORE_BYTES", budget)
    assert torch.equal(label_image(Painter(), image, VIEWS[name]), expected)
    scores = score_image(Painter(), image, VIEWS[name])
    together = score_image(Painter(), image, VIEWS[name])
    torch.testing.assert_close(scores, together, atol=1e-6, rtol=0)  # softmax rounds by its place


def test_every_window_is_scored_once_where_the_budget_allows() -> None:
    view = View(crop=(32, 32), stride=(16, 16))
    model = Painter()
    label_image(model, draw(160, 64), view)
    assert sum(shape[0] for shape in model.seen) == 9 * 3
    assert {shape[2:] for shape in model.seen} == {(32, 32)}


def test_windows_go_to_the_model_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tsic.deploy.windows.BATCH_PIXELS", 3 * 32 * 32)
    model = Painter()
    label_image(model, draw(96, 96), View(crop=(32, 32), stride=(32, 32)))
    assert [shape[0] for shape in model.seen] == [1, 3, 3, 2]  # the first tells the grid
    assert {shape[2:] for shape in model.seen} == {(32, 32)}


def test_windows_are_forgotten_once_they_are_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    from tsic.deploy.windows import SlidingWindows

    kept: list[int] = []
    join = SlidingWindows._join

    def watch(self: SlidingWindows, rows: range, columns: range) -> Tensor:
        joined = join(self, rows, columns)
        kept.append(sum(scores.nbytes for scores in self._kept.values()))
        for scores in self._kept.values():  # and none keeps its whole batch
            assert scores.untyped_storage().nbytes() == scores.nbytes
        return joined

    monkeypatch.setattr(SlidingWindows, "_join", watch)
    budget = 20 * 4 * 8 * 8 * 4  # twenty windows
    monkeypatch.setattr("tsic.deploy.inference.SCORE_BYTES", budget)
    label_image(Painter(), draw(96, 320), View(crop=(32, 32), stride=(16, 16)))
    assert 0 < max(kept) <= budget


def test_bytes_of_a_strip_are_those_of_its_windows() -> None:
    """An image shown at twice its size: a strip of 40 columns has 80 of the shown ones."""
    from tsic.deploy.windows import SlidingWindows

    with torch.inference_mode():
        shown = SlidingWindows(Painter(), draw(96, 320), (32, 32), (16, 16))
    window = 4 * 8 * 8 * 4  # four classes on a grid of 8x8, float32
    # 80 columns meet seven windows at most, 40 of them five, and one that is shifted back; the
    # rows of a stride meet three, and one likewise.
    assert shown.kept_bytes((48, 160), 40) == 8 * 4 * window
    assert shown.kept_bytes((96, 320), 40) == 6 * 4 * window
    assert shown.kept_bytes((96, 320), 320) == 19 * 4 * window, "all columns there are"


@pytest.mark.parametrize(
    ("side", "crop", "stride", "expected"),
    [
        (100, 40, 25, [0, 25, 50, 60]),
        (90, 40, 25, [0, 25, 50]),
        (40, 40, 25, [0]),
        (41, 40, 25, [0, 1]),
        (30, 40, 25, [0]),
        (80, 40, 40, [0, 40]),
    ],
)
def test_windows_end_at_the_border(side: int, crop: int, stride: int, expected: list[int]) -> None:
    assert window_starts(side, crop, stride) == expected


def test_the_usual_stride_is_two_thirds_of_the_crop() -> None:
    assert View(crop=(769, 512)).step == (513, 341)
    assert View(crop=(1, 3)).step == (1, 2)
    assert WHOLE.step is None


def test_a_flip_makes_mirrored_images_answer_alike() -> None:
    image = draw(48, 80)
    view = View(flip=True)
    straight = score_image(Painter(), image, view)
    mirrored = score_image(Painter(), image.flip(2), view)
    torch.testing.assert_close(straight, mirrored.flip(2))
    assert not torch.allclose(straight, score_image(Painter(), image))


def test_images_of_one_size_go_to_the_model_together() -> None:
    images = torch.stack([draw(40, 56) for _ in range(5)])
    model = Painter()
    labels = label_images(model, images)
    assert model.seen == [(5, 3, 40, 56)]
    assert labels.dtype == torch.uint8
    for image, own in zip(images, labels, strict=True):
        assert torch.equal(label_image(Painter(), image), own)
    view = View(crop=(24, 24))
    assert torch.equal(label_images(model, images, view)[3], label_image(model, images[3], view))


@pytest.mark.parametrize("gives", ["scores", "labels"])
def test_a_fixed_batch_is_filled_up_and_cut(gives: Gives) -> None:
    images = torch.stack([draw(40, 56) for _ in range(5)])
    fixed = Painter(gives, only_size=(40, 56), only_batch=3)
    assert torch.equal(label_images(fixed, images), label_images(Painter(), images))
    assert fixed.seen == [(3, 3, 40, 56)] * 2


@pytest.mark.parametrize("only_batch", [None, 4])
def test_a_model_of_one_size_labels_images_of_any_size(only_batch: int | None) -> None:
    view = View(crop=(32, 40))
    for size in ((32, 40), (77, 90)):
        image = draw(*size)
        fixed = Painter(only_size=(32, 40), only_batch=only_batch)
        assert torch.equal(label_image(fixed, image, view), label_image(Painter(), image, view))


def test_small_images_are_padded_with_the_colour_of_training() -> None:
    image = draw(20, 30)
    padded = torch.tensor((124, 116, 104), dtype=torch.uint8).view(3, 1, 1).repeat(1, 32, 40)
    padded[:, :20, :30] = image
    expected = label_image(Painter(), padded)[:20, :30]
    labels = label_image(Painter(only_size=(32, 40)), image, View(crop=(32, 40)))
    assert torch.equal(labels, expected)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"crop": (0, 10)}, "crop must be a height and a width above 0"),
        ({"crop": 10}, "crop must be a height and a width"),
        ({"crop": (10,)}, "crop must be a height and a width"),
        ({"stride": (5, 5)}, "say crop, too"),
        ({"crop": (8, 8), "stride": (4, 9)}, r"stride \(4, 9\) is larger than crop \(8, 8\)"),
        ({"scales": ()}, "scales must be ratios above 0"),
        ({"scales": (1.0, 0.0)}, "scales must be ratios above 0"),
        ({"scales": (math.nan,)}, "scales must be ratios above 0"),
    ],
)
def test_views_that_cannot_be(arguments: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        View(**arguments)


def test_views_that_a_model_cannot_take() -> None:
    image = draw(40, 56)
    for view in (View(crop=(16, 16)), View(flip=True), View(scales=(1.0, 2.0))):
        with pytest.raises(ConfigError, match="answers with labels, which cannot be averaged"):
            label_image(Painter("labels"), image, view)
    with pytest.raises(ConfigError, match="answers with labels alone"):
        score_image(Painter("labels"), image)
    resizes = Painter()
    resizes.resize = (24, 24)
    with pytest.raises(ConfigError, match="to one size itself, so that scales change nothing"):
        label_image(resizes, image, View(scales=(0.5, 1.0)))
    label_image(resizes, image, View(crop=(16, 16), scales=(0.5, 1.0)))  # windows show parts
    fixed = Painter(only_size=(32, 64))
    with pytest.raises(ConfigError, match=r"32 64 pixels alone .*not of 40 56; say --crop 32 64"):
        label_image(fixed, image)
    with pytest.raises(ConfigError, match="not windows of 16 16; say --crop 32 64"):
        label_image(fixed, image, View(crop=(16, 16)))
    with pytest.raises(ConfigError, match="not of 16 32; say --crop 32 64"):
        label_image(fixed, draw(32, 64), View(scales=(1.0, 0.5)))
