import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import accuracy_score, balanced_accuracy_score, jaccard_score, recall_score
from sklearn.metrics import confusion_matrix as sklearn_confusion
from torch import Tensor

from tsic.evaluation.metrics import (
    class_accuracy,
    class_iou,
    confusion_matrix,
    mean_iou,
    to_labels,
)
from tsic.evaluation.scores import Report

CLASSES = 7


@pytest.fixture
def pair() -> tuple[Tensor, Tensor]:
    """Predictions and labels; a fifth is ignored, class 5 only predicted, class 6 nowhere."""
    predicted = torch.randint(0, 6, (2, 30, 40))
    labels = torch.where(torch.rand(2, 30, 40) < 0.5, predicted, torch.randint(0, 5, (2, 30, 40)))
    labels[labels == 5] = 0
    labels[torch.rand(2, 30, 40) < 0.2] = 255
    return predicted, labels


def test_confusion_matrix_equals_scikit_learn(pair: tuple[Tensor, Tensor]) -> None:
    predicted, labels = pair
    valid = labels != 255
    expected = sklearn_confusion(labels[valid], predicted[valid], labels=range(CLASSES))
    matrix = confusion_matrix(predicted, labels, CLASSES)
    assert matrix.dtype == torch.int64
    np.testing.assert_array_equal(matrix.numpy(), expected)


def test_confusion_matrix_has_true_classes_in_rows() -> None:
    predicted, labels = torch.tensor([1, 1, 0]), torch.tensor([0, 0, 255])
    assert confusion_matrix(predicted, labels, 2).tolist() == [[0, 2], [0, 0]]


@pytest.mark.parametrize("outside", [-1, CLASSES, 255])
def test_confusion_matrix_leaves_out_labels_that_are_no_class(outside: int) -> None:
    matrix = confusion_matrix(torch.zeros(4).long(), torch.full((4,), outside), CLASSES)
    assert matrix.shape == (CLASSES, CLASSES)
    assert matrix.sum() == 0


def test_scores_equal_scikit_learn(pair: tuple[Tensor, Tensor]) -> None:
    predicted, labels = pair
    valid = labels != 255
    matrix = confusion_matrix(predicted, labels, CLASSES)
    truth, guess = labels[valid].numpy(), predicted[valid].numpy()
    expected = jaccard_score(truth, guess, labels=range(6), average=None)
    iou = class_iou(matrix)
    np.testing.assert_allclose(iou[:6].numpy(), expected)
    assert iou[5] == 0
    assert math.isnan(iou[6])
    assert mean_iou(matrix) == pytest.approx(100 * expected.mean())
    assert Report((), matrix, 1).pixel_accuracy == pytest.approx(100 * accuracy_score(truth, guess))


def test_accuracies_equal_scikit_learn(pair: tuple[Tensor, Tensor]) -> None:
    predicted, labels = pair
    predicted[predicted == 5] = 4  # scikit-learn warns of a class that is predicted alone
    valid = labels != 255
    matrix = confusion_matrix(predicted, labels, CLASSES)
    truth, guess = labels[valid].numpy(), predicted[valid].numpy()
    accuracy = class_accuracy(matrix)
    expected = recall_score(truth, guess, labels=range(5), average=None)
    np.testing.assert_allclose(accuracy[:5].numpy(), expected)
    assert accuracy[5:].isnan().all()
    assert Report((), matrix, 1).mean_accuracy == pytest.approx(
        100 * balanced_accuracy_score(truth, guess)
    )


def test_class_iou_is_exact_for_large_counts() -> None:
    big = 2**53 // 4  # float32 would round the ones away
    iou = class_iou(torch.tensor([[big, 1], [1, big]]))
    assert iou.dtype == torch.float64
    assert iou[0].item() == big / (big + 2)


def test_scores_are_nan_when_nothing_was_scored() -> None:
    nothing = Report((), torch.zeros(3, 3, dtype=torch.int64), 0)
    assert math.isnan(nothing.miou)
    assert math.isnan(nothing.mean_accuracy)
    assert math.isnan(nothing.pixel_accuracy)


@pytest.mark.parametrize("band", [None, 1, 7, 16, 256])
@pytest.mark.parametrize("size", [(12, 16), (48, 64), (45, 61), (97, 30), (7, 5)])
def test_to_labels_equals_the_whole_resize(size: tuple[int, int], band: int | None) -> None:
    logits = torch.randn(5, 12, 16)
    whole = F.interpolate(logits[None], size, mode="bilinear", align_corners=False)
    labels = to_labels(logits, size, band=band)
    assert labels.dtype == torch.int64
    assert torch.equal(labels, whole[0].argmax(0))
