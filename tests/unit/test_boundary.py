"""Borders of labels, against erosions by SciPy and by hand."""

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from tsic.evaluation.boundary import boundary_counts, boundary_width, near_border, trimap_labels

CLASSES = 5
SQUARE = np.ones((3, 3), bool)


def draw(height: int = 90, width: int = 130) -> tuple[Tensor, Tensor]:
    """A prediction and labels of patches; the labels ignore some; class 4 is never true."""
    labels = torch.randint(0, 4, (height // 10 + 1, width // 10 + 1), dtype=torch.uint8)
    labels = labels.repeat_interleave(10, 0).repeat_interleave(10, 1)[:height, :width].clone()
    predicted = labels.roll((2, 3), (0, 1))
    predicted[torch.rand(height, width) < 0.01] = 4
    labels[30:45, 50:80] = 255
    labels[torch.rand(height, width) < 0.005] = 255
    return predicted, labels


def eroded_boundary(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """The paper's: what erosions take from a mask that nothing surrounds."""
    width = max(1, round(0.02 * np.sqrt(mask.shape[0] ** 2 + mask.shape[1] ** 2)))
    kept = ndimage.binary_erosion(mask, SQUARE, iterations=width, border_value=0)
    return mask & ~kept


@pytest.mark.parametrize("size", [(90, 130), (300, 260), (12, 20)])
def test_boundary_counts_equal_erosions_of_each_class(size: tuple[int, int]) -> None:
    predicted, labels = draw(*size)
    counts = boundary_counts(predicted, labels, CLASSES)
    valid = (labels != 255).numpy()
    for k in range(CLASSES):
        true = eroded_boundary((labels == k).numpy())
        guessed = eroded_boundary((predicted == k).numpy() & valid)
        assert counts[0, k] == (true & guessed).sum()
        assert counts[1, k] == (true | guessed).sum()
    assert counts[0].sum() > 0
    assert counts[0].sum() < counts[1].sum()


def test_a_perfect_prediction_has_the_boundaries_of_the_labels() -> None:
    _, labels = draw()
    predicted = labels.where(labels != 255, torch.tensor(2, dtype=torch.uint8))
    counts = boundary_counts(predicted, labels, CLASSES)
    assert torch.equal(counts[0], counts[1])
    assert counts[0].sum() > 0


def test_boundary_counts_of_one_square_by_hand() -> None:
    labels = torch.zeros(60, 80, dtype=torch.uint8)  # diagonal 100: a band of 2 pixels
    labels[20:30, 20:30] = 1
    predicted = labels.clone()
    predicted[20:30, 30] = 1  # a column too wide
    rings = {"true": 100 - 36, "guessed": 110 - 42}  # 10x10 less 6x6, 10x11 less 6x7
    common = 100 - 36 - 6  # of the true ring, rows 22 to 27 of column 28 lie inside the wide one
    counts = boundary_counts(predicted, labels, 2)
    assert counts[:, 1].tolist() == [common, rings["true"] + rings["guessed"] - common]


def test_boundary_width_is_a_share_of_the_diagonal() -> None:
    assert boundary_width(60, 80) == 2
    assert boundary_width(1024, 2048) == 46
    assert boundary_width(3, 4) == 1


@pytest.mark.parametrize("distance", [1, 2, 3, 7, 200])
@pytest.mark.parametrize("edge_counts", [True, False])
def test_near_border_equals_the_distance_to_the_next_class(
    distance: int, edge_counts: bool
) -> None:
    _, labels = draw(50, 70)
    expected = np.zeros((50, 70), bool)
    for k in labels.unique():
        mask = (labels == k).numpy()
        kept = ndimage.binary_erosion(
            mask, SQUARE, iterations=distance, border_value=0 if edge_counts else 1
        )
        expected |= mask & ~kept
    np.testing.assert_array_equal(
        near_border(labels, distance, edge_counts=edge_counts).numpy(), expected
    )


def test_trimap_keeps_labels_near_borders_alone() -> None:
    labels = torch.zeros(6, 12, dtype=torch.uint8)
    labels[:, 5:] = 1
    labels[:, 11] = 255
    kept = trimap_labels(labels, 2)
    assert kept[0].tolist() == [255, 255, 255, 0, 0, 1, 1, 255, 255, 1, 1, 255]
    assert torch.equal(kept, kept[:1].expand(6, 12))
