import pytest
import torch
import torch.nn.functional as F

from tsic.grid import (
    even_parts,
    fit_to_image,
    resize,
    resize_images,
    resize_labels,
    resize_part,
    sample_axis,
    size_of,
)


def test_size_of_takes_the_last_two() -> None:
    assert size_of(torch.zeros(2, 3, 5, 7)) == (5, 7)
    assert size_of(torch.zeros(5, 7)) == (5, 7)


@pytest.mark.parametrize("size", [(5, 7), (10, 3), (3, 4)])
def test_resize_is_bilinear_in_float32(size: tuple[int, int]) -> None:
    maps = torch.randn(2, 3, 5, 7).bfloat16()
    expected = F.interpolate(maps.float(), size, mode="bilinear", align_corners=False)
    resized = resize(maps, size)
    assert resized.dtype == torch.float32
    assert torch.equal(resized, expected)


def test_resize_labels_takes_the_label_at_each_cells_centre() -> None:
    labels = torch.arange(6 * 9).view(1, 6, 9)
    assert resize_labels(labels, (2, 3)).tolist() == [[[10, 13, 16], [37, 40, 43]]]
    assert resize_labels(labels, (6, 9)) is labels


def test_resize_labels_keeps_ids_and_ignored_exact() -> None:
    labels = torch.tensor([[[0, 255], [254, 18]]])
    enlarged = resize_labels(labels, (4, 4))
    assert enlarged.dtype == torch.int64
    assert torch.equal(enlarged, labels.repeat_interleave(2, 1).repeat_interleave(2, 2))


def test_resize_images_is_antialiased_and_leaves_alone_what_fits() -> None:
    images = torch.rand(1, 3, 32, 48)
    assert resize_images(images, None) is images
    assert resize_images(images, (32, 48)) is images
    stripes = (torch.arange(48) % 4 == 0).float()  # which samples at the cells' centres miss
    small = resize_images(stripes.expand(1, 3, 32, 48), (8, 12))
    inner = small[..., 1:-1]
    torch.testing.assert_close(inner, torch.full_like(inner, 0.25), rtol=0, atol=0.05)


@pytest.mark.parametrize(
    ("at", "expected"),
    [(0.0, 10.0), (0.25, 12.5), (1.75, 35.0), (2.0, 40.0), (-3.0, 10.0), (9.0, 40.0)],
)
def test_sample_axis_is_linear_between_cells_and_flat_beyond(at: float, expected: float) -> None:
    cells = torch.tensor([10.0, 20.0, 40.0])
    for dim, shape in ((0, (3, 1)), (1, (1, 3))):
        sampled = sample_axis(cells.view(shape), dim, torch.tensor([at]))
        assert sampled.item() == pytest.approx(expected)


@pytest.mark.parametrize("side", [17, 24, 25, 31, 32])
@pytest.mark.parametrize("axis", [2, 3])
def test_fit_to_image_samples_a_ramp_where_the_image_is(side: int, axis: int) -> None:
    """Cells hold their own position in pixels, so what comes back is where it was taken."""
    ramp = torch.arange(4.0) * 8 + 4
    cells = ramp.view(1, 1, -1, 1) if axis == 2 else ramp.view(1, 1, 1, -1)
    size, padded = ((side, 8), (32, 8)) if axis == 2 else ((8, side), (8, 32))
    fitted = fit_to_image(cells, padded, size).flatten()
    count = -(-side // 8)
    centres = (torch.arange(count) + 0.5) * side / count
    torch.testing.assert_close(fitted, centres.clamp(4, 28))


def test_fit_to_image_crops_bit_for_bit_where_the_stride_divides() -> None:
    cells = torch.randn(2, 3, 6, 8)
    assert torch.equal(fit_to_image(cells, (48, 64), (40, 56)), cells[:, :, :5, :7])
    assert fit_to_image(cells, (48, 64), (48, 64)) is cells


@pytest.mark.parametrize("size", [(12, 16), (48, 64), (45, 61), (97, 30), (7, 5)])
def test_resize_part_is_a_part_of_the_whole_resize(size: tuple[int, int]) -> None:
    maps = torch.randn(5, 12, 16)
    whole = F.interpolate(maps[None], size, mode="bilinear", align_corners=False)[0]
    parts = [(range(size[0]), range(size[1])), (range(6, 7), range(5)), (range(2, 5), range(3, 5))]
    for rows, columns in parts:
        part = resize_part(maps, size, rows, columns)
        expected = whole[:, rows.start : rows.stop, columns.start : columns.stop]
        torch.testing.assert_close(part, expected)


@pytest.mark.parametrize("size", [(7, 10), (12, 5), (4, 4), (1, 9)])
def test_even_parts_cover_an_image_once(size: tuple[int, int]) -> None:
    seen = torch.zeros(size)
    shapes = []
    for rows, columns in even_parts(size, 4):
        seen[rows, columns] += 1
        shapes.append(seen[rows, columns].shape)
    assert bool((seen == 1).all())
    assert len(shapes) == -(-size[0] // 4) * -(-size[1] // 4)
    for sides in zip(*shapes, strict=True):
        assert max(sides) <= 4
        assert max(sides) - min(sides) <= 1
