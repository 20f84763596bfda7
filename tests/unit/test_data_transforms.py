import pytest
import torch
from torch import Tensor
from torchvision.transforms import v2

from tsic.data.colours import changed, distort_colours, draw_colours
from tsic.data.images import PAD_COLOUR
from tsic.data.transforms import TrainTransform, _pixel_of, seeded
from tsic.grid import resize_images


def _coordinates(height: int, width: int) -> Tensor:
    """Image uint8 (3, H, W) whose red is its column and whose green is its row."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([columns, rows, rows * 0]).to(torch.uint8)


def _labels(height: int, width: int) -> Tensor:
    """Random label uint8 (H, W) of four classes in blocks of 8 pixels."""
    blocks = torch.randint(0, 4, (height // 8, width // 8), dtype=torch.uint8)
    return blocks.repeat_interleave(8, 0).repeat_interleave(8, 1)


def test_nothing_to_do_changes_nothing() -> None:
    image, label = _coordinates(40, 56), _labels(40, 56)
    transform = TrainTransform((40, 56), scale=(1, 1), flip=0)
    new_image, new_label = transform(image, label)
    assert (new_image.dtype, new_label.dtype) == (torch.uint8, torch.uint8)
    assert torch.equal(new_image, image)
    assert torch.equal(new_label, label)


def test_flip_mirrors_both() -> None:
    image, label = _coordinates(40, 56), _labels(40, 56)
    transform = TrainTransform((40, 56), scale=(1, 1), flip=1)
    new_image, new_label = transform(image, label)
    assert torch.equal(new_image, image.flip(-1))
    assert torch.equal(new_label, label.flip(-1))


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("ratio", [0.5, 0.73, 1.0, 1.37, 2.0])
def test_label_stays_registered_to_the_image(axis: int, ratio: float) -> None:
    """Both show the source pixel's coordinate, so their difference is the misregistration."""
    image = _coordinates(200, 240)
    transform = TrainTransform((90, 130), scale=(ratio, ratio))
    shifts = []
    for _ in range(20):
        new_image, new_label = transform(image, image[axis])
        seen = new_label != 255
        shift = (new_label.float() - new_image[axis].float())[seen]
        assert shift.abs().max() <= 1.0 + 0.5 / ratio + 0.5  # rounding, nearest pixel, border
        shifts.append(shift)
    assert abs(torch.cat(shifts).mean()) < 0.03


def test_padding_is_ignored_and_plain() -> None:
    image, label = torch.zeros(3, 20, 30, dtype=torch.uint8), torch.ones(20, 30, dtype=torch.uint8)
    transform = TrainTransform((48, 64), scale=(0.5, 0.5))
    new_image, new_label = transform(image, label)
    assert (new_image.shape, new_label.shape) == ((3, 48, 64), (48, 64))
    inside = new_label != 255
    assert new_label[inside].unique().tolist() == [1]
    assert int(inside.sum()) == 10 * 15
    assert torch.equal(
        new_image[:, ~inside],
        torch.tensor(PAD_COLOUR, dtype=torch.uint8)[:, None].expand(3, 2922),
    )


def test_mixed_crop_pads_only_the_short_side() -> None:
    transform = TrainTransform((48, 16), scale=(1, 1))
    _, label = transform(_coordinates(24, 40), _labels(24, 40))
    assert label.shape == (48, 16)
    assert int((label != 255).sum()) == 24 * 16


def test_ratios_fill_their_range() -> None:
    """A padded crop shows the scaled size: its mean ratio and extremes are the uniform's."""
    transform = TrainTransform((160, 160))
    image, label = _coordinates(64, 64), _labels(64, 64)
    ratios = torch.tensor(
        [(transform(image, label)[1] != 255).sum().sqrt() / 64 for _ in range(300)]
    )
    assert 0.5 <= ratios.min() < 0.52
    assert 1.98 < ratios.max() <= 2.0
    assert 1.2 < ratios.mean() < 1.3


def test_class_share_is_kept_where_possible() -> None:
    label = torch.zeros(64, 256, dtype=torch.uint8)
    label[:, 112:144] = 1
    image = _coordinates(64, 256)

    def mixed(share: float) -> int:
        transform = TrainTransform((64, 64), (1, 1), max_class_share=share)
        crops = [transform(image, label)[1] for _ in range(100)]
        return sum(0.25 <= float((crop == 1).float().mean()) <= 0.75 for crop in crops)

    assert mixed(0.75) >= 93  # one throw in three suits: 10 fail with 1.5 %
    assert mixed(1) <= 50


@pytest.mark.parametrize(
    ("label", "is_mixed"),
    [
        ([0, 0, 0, 1], True),  # three of four are no more than its share
        ([0, 0, 0, 0, 1], False),
        ([0, 1] + [255] * 8, True),  # ignored pixels are no class
        ([255, 255], False),
        ([0, 0, 255], False),
    ],
)
def test_a_crop_is_mixed_by_what_is_labelled(label: list[int], is_mixed: bool) -> None:
    transform = TrainTransform((1, 1), max_class_share=0.75)
    assert transform._is_mixed(torch.tensor([label], dtype=torch.uint8)) is is_mixed


def test_flips_are_as_frequent_as_asked() -> None:
    transform, label = TrainTransform((8, 8), flip=0.7), _labels(16, 16)
    share = sum(transform.draw(label).mirrored for _ in range(400)) / 400
    assert 0.6 < share < 0.8


@pytest.mark.parametrize("value", [255, 3])
def test_one_class_or_none_still_gives_a_crop(value: int) -> None:
    label = torch.full((32, 32), value, dtype=torch.uint8)
    _, new_label = TrainTransform((16, 16), (1, 1))(_coordinates(32, 32), label)
    assert torch.equal(new_label, torch.full((16, 16), value, dtype=torch.uint8))


@pytest.mark.parametrize("size", [(100, 200), (200, 100), (90, 120)])
def test_resize_shows_what_validation_shows(size: tuple[int, int]) -> None:
    """The whole image at that size, whatever its proportions."""
    image = torch.randint(256, (3, *size), dtype=torch.uint8)
    transform = TrainTransform((48, 64), scale=(1, 1), max_class_share=1, flip=0, resize=(48, 64))
    seen, _ = transform(image, torch.zeros(size, dtype=torch.uint8))
    validated = resize_images(image[None] / 255, (48, 64))[0]
    assert (seen / 255 - validated).abs().max() < 1.01 / 255


def test_resize_comes_before_the_random_ratio() -> None:
    transform = TrainTransform((120, 120), scale=(0.5, 0.5), resize=(60, 100))
    _, label = transform(_coordinates(200, 100), torch.zeros((200, 100), dtype=torch.uint8))
    inside = label != 255
    assert (int(inside.any(1).sum()), int(inside.any(0).sum())) == (30, 50)


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


@pytest.mark.parametrize("crop", [(24, 24), (300, 40)])
def test_rare_crop_shows_every_class_of_the_image(crop: tuple[int, int]) -> None:
    label = torch.zeros(200, 200, dtype=torch.uint8)
    label[190, 3], label[7, 120], label[50:100] = 1, 2, 255
    image = _coordinates(200, 200)
    seen = torch.zeros(3)
    transform = TrainTransform(crop, scale=(1, 1), rare_crop=1, max_class_share=1)
    for _ in range(300):
        _, crop_label = transform(image, label)
        seen += torch.tensor([int((crop_label == k).any()) for k in range(3)])
    assert (seen[1:] >= 75).all()  # each is chosen in a third of the crops
    plain = TrainTransform((24, 24), scale=(1, 1), max_class_share=1)
    assert sum(int((plain(image, label)[1] == 1).any()) for _ in range(100)) <= 10


def test_rare_crop_always_shows_what_it_is_laid_around() -> None:
    label = torch.full((40, 50), 255, dtype=torch.uint8)
    label[23, 31] = 2
    transform = TrainTransform((4, 4), scale=(1, 1), rare_crop=1)
    for _ in range(100):
        _, crop = transform(_coordinates(40, 50), label)
        assert (crop == 2).any()


def test_a_pixel_of_a_class_is_drawn_evenly_without_a_list_of_all() -> None:
    label = torch.tensor([[1, 0, 0, 1], [0, 0, 0, 0], [1, 1, 0, 0]], dtype=torch.uint8)
    drawn = [_pixel_of(1, label) for _ in range(200)]
    assert set(drawn) == {(0, 0), (0, 3), (2, 0), (2, 1)}
    assert min(drawn.count(pixel) for pixel in set(drawn)) > 25


def test_rare_crop_of_an_unlabelled_image_is_any_crop() -> None:
    label = torch.full((40, 40), 255, dtype=torch.uint8)
    _, crop = TrainTransform((16, 16), rare_crop=1)(_coordinates(40, 40), label)
    assert crop.shape == (16, 16)


def _colours(count: int) -> Tensor:
    drawn = []
    for seed in range(count):
        with seeded(seed):
            drawn.append(draw_colours())
    return torch.stack(drawn)


def test_distort_colours_changes_each_image_in_its_own_way() -> None:
    images = torch.rand(1, 3, 8, 8).repeat(40, 1, 1, 1)
    before = torch.get_rng_state()
    colours = _colours(40)
    assert torch.equal(before, torch.get_rng_state())
    views = distort_colours(images, colours)
    assert 0 <= views.min() <= views.max() <= 1
    assert 30 <= len(views.unique(dim=0)) < 40  # one in 16 keeps its colours
    assert torch.allclose(distort_colours(images[:1], colours[7:8])[0], views[7], atol=1e-6)


def test_distort_colours_is_torchvision_s_distortion_of_each_image() -> None:
    images = torch.rand(60, 3, 8, 8)
    images[:, :, :2] = images[:, :1, :2]  # grey
    images[:, :, 2] = 0
    theirs = v2.RandomPhotometricDistort()
    views = distort_colours(images, _colours(60))
    for seed, (image, ours) in enumerate(zip(images, views, strict=True)):
        with seeded(seed):
            drawn = theirs.make_params([image]) | {"channel_permutation": None}
        assert torch.allclose(ours, theirs.transform(image, drawn), atol=1e-5)


def test_a_batch_in_one_piece_as_on_a_gpu_is_changed_as_image_by_image() -> None:
    images, colours = torch.rand(40, 3, 8, 8), _colours(40)
    images[:, :, :2] = images[:, :1, :2]  # grey
    whole = changed(images, colours, skips=False)
    assert torch.allclose(whole, distort_colours(images, colours), atol=1e-6)


def test_distort_colours_keeps_grey_grey_and_channels_in_place() -> None:
    grey = torch.rand(1, 1, 8, 8).repeat(60, 3, 1, 1)
    views = distort_colours(grey, _colours(60))
    assert torch.allclose(views[:, 0], views[:, 2], atol=1e-5)
    red = torch.tensor([0.9, 0.1, 0.1]).view(1, 3, 1, 1).repeat(200, 1, 4, 4)
    assert (distort_colours(red, _colours(200)).argmax(1) == 0).all()
