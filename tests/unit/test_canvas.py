import pytest
import torch
from torch import Tensor

from tsic.teacher.canvas import Canvas

SIZES = [(360, 480), (90, 120), (65, 97), (48, 64), (33, 31)]


def positions(height: int, width: int, stride: float) -> Tensor:
    """Centre of each cell in pixels, y then x, ``(1, 2, height, width)``."""
    y = (torch.arange(height) + 0.5) * stride
    x = (torch.arange(width) + 0.5) * stride
    return torch.stack(torch.meshgrid(y, x, indexing="ij"))[None]


@pytest.mark.parametrize("multiple", [16, 32])
@pytest.mark.parametrize("size", SIZES)
def test_canvas_is_the_smallest_that_holds_the_image(size: tuple[int, int], multiple: int) -> None:
    canvas = Canvas(*size, multiple)
    for side, canvas_side in zip(size, (canvas.height, canvas.width), strict=True):
        assert canvas_side % multiple == 0
        assert 0 <= canvas_side - side < multiple


def test_pad_puts_zeros_at_the_right_and_the_bottom() -> None:
    images = torch.rand(2, 3, 40, 56)
    padded = Canvas(40, 56, 16).pad(images)
    assert padded.shape == (2, 3, 48, 64)
    assert torch.equal(padded[:, :, :40, :56], images)
    assert not padded[:, :, 40:].any()
    assert not padded[:, :, :, 56:].any()


@pytest.mark.parametrize("stride", [1, 4, 16])
@pytest.mark.parametrize("size", SIZES)
def test_place_samples_a_ramp_where_the_image_is(size: tuple[int, int], stride: int) -> None:
    """The map's cells hold their position in the image; a twentieth of a cell is the bound."""
    height, width = 24, 20
    ramp = positions(height, width, 1) * torch.tensor([size[0] / height, size[1] / width]).view(
        1, 2, 1, 1
    )
    canvas = Canvas(*size, 16)
    placed = canvas.place(ramp, stride, fill=-9.0)
    where = positions(canvas.height // stride, canvas.width // stride, stride)
    assert placed.shape == where.shape
    inside = (where[0, 0] < size[0]) & (where[0, 1] < size[1])
    assert (placed[0, :, ~inside] == -9).all()
    for axis, (side, cells) in enumerate(zip(size, (height, width), strict=True)):
        border = side / cells / 2  # beyond the outermost centres the border's value counts
        expected = where[0, axis].clamp(border, side - border)
        assert (placed[0, axis] - expected)[inside].abs().max() < 0.05 * stride


def test_place_passes_a_map_of_its_own_grid_through() -> None:
    maps = torch.randn(1, 3, 10, 14)
    placed = Canvas(40, 56, 16).place(maps, 4, fill=-32.0)
    assert torch.equal(placed[:, :, :10, :14], maps)
    assert (placed[:, :, 10:] == -32).all()
    assert (placed[:, :, :, 14:] == -32).all()


def test_place_gives_float32_and_passes_gradient() -> None:
    maps = torch.randn(1, 2, 9, 13, dtype=torch.bfloat16, requires_grad=True)
    placed = Canvas(40, 56, 16).place(maps, 4, fill=0.0)
    assert placed.dtype == torch.float32
    (gradient,) = torch.autograd.grad(placed.sum(), maps)
    assert (gradient > 0).all()


@pytest.mark.parametrize("stride", [1, 4, 8, 16])
@pytest.mark.parametrize("size", SIZES)
def test_crop_keeps_maps_registered_to_the_image(size: tuple[int, int], stride: int) -> None:
    canvas = Canvas(*size, 16)
    cropped = canvas.crop(positions(canvas.height // stride, canvas.width // stride, stride))
    rows, columns = (-(-side // stride) for side in size)
    assert cropped.shape == (1, 2, rows, columns)
    for axis, (side, cells) in enumerate(zip(size, (rows, columns), strict=True)):
        expected = (torch.arange(cells) + 0.5) * side / cells
        expected = expected.clamp(stride / 2, canvas.height - stride / 2 if axis == 0 else None)
        actual = cropped[0, axis, :, 0] if axis == 0 else cropped[0, axis, 0]
        torch.testing.assert_close(actual, expected)


def test_place_then_crop_leaves_a_bright_square_where_it_was() -> None:
    """A square of rows 20 to 40 and columns 60 to 90 of a 65x97 image, at stride 4."""
    image = torch.zeros(1, 1, 65, 97)
    image[:, :, 20:40, 60:90] = 1
    canvas = Canvas(65, 97, 16)
    back = canvas.crop(canvas.place(image, 4, fill=0.0))
    assert back.shape == (1, 1, 17, 25)
    mass = back[0, 0] / back.sum()
    for axis, (side, cells, centre) in enumerate([(65, 17, 30.0), (97, 25, 75.0)]):
        at = (torch.arange(cells) + 0.5) * side / cells
        assert (mass.sum(1 - axis) * at).sum().item() == pytest.approx(centre, abs=1)
