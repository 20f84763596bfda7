import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from torch import Tensor

from tsic.data.dataset import SegmentationDataset
from tsic.data.readers import open_dataset
from tsic.errors import DataError
from tsic.evaluation import Report, evaluate

Array = npt.NDArray[Any]
WEIGHTS = np.array([[1.0, 0.5, 1.0], [2.0, 0.2, 0.1], [0.2, 0.3, 1.9]])
STRIDE = 4


def score(images: Tensor) -> Tensor:
    """A linear network on averages of 4x4 pixels."""
    pooled = torch.nn.functional.avg_pool2d(images, STRIDE)
    return torch.einsum("kc,bchw->bkhw", torch.tensor(WEIGHTS, dtype=torch.float32), pooled)


def enlarged(scores: Array, axis: int) -> Array:
    """Bilinear by 4 along one axis: cell centres, borders repeated."""
    at = ((np.arange(scores.shape[axis] * STRIDE) + 0.5) / STRIDE - 0.5).clip(
        0, scores.shape[axis] - 1
    )
    low = np.floor(at).astype(int)
    high = np.minimum(low + 1, scores.shape[axis] - 1)
    weight = (at - low).reshape([-1 if d == axis else 1 for d in range(3)])
    return scores.take(low, axis) * (1 - weight) + scores.take(high, axis) * weight


def by_hand(root: Path, split: str) -> dict[str, Any]:
    """The same network and its scores in NumPy, from the files."""
    inter, union, right, seen = np.zeros(3), np.zeros(3), 0, 0
    for file in sorted((root / split / "images").iterdir()):
        image = np.asarray(Image.open(file)).astype(float) / 255
        mask = np.asarray(Image.open(root / split / "masks" / file.name))
        pooled = image.reshape(16, STRIDE, 24, STRIDE, 3).mean((1, 3))
        scores = enlarged(enlarged(pooled @ WEIGHTS.T, 0), 1)
        predicted, valid = scores.argmax(-1), mask != 255
        for k in range(3):
            inter[k] += ((predicted == k) & (mask == k)).sum()
            union[k] += (((predicted == k) | (mask == k)) & valid).sum()
        right += (predicted == mask).sum()
        seen += valid.sum()
    return {
        "miou": 100 * (inter / union).mean(),
        "pixel_accuracy": 100 * right / seen,
        "per_class_iou": dict(zip(("ground", "square", "disc"), 100 * inter / union, strict=True)),
    }


@pytest.fixture
def dataset(folder_dataset: Path) -> SegmentationDataset:
    return open_dataset("folder", folder_dataset, "train")


def test_evaluate_equals_an_independent_computation(
    dataset: SegmentationDataset, folder_dataset: Path
) -> None:
    expected = by_hand(folder_dataset, "train")
    report = evaluate(score, dataset)
    assert 20 < expected["miou"] < 95
    assert report.miou == pytest.approx(expected["miou"])
    assert report.pixel_accuracy == pytest.approx(expected["pixel_accuracy"])
    assert report.per_class_iou == pytest.approx(expected["per_class_iou"])
    assert report.images == 6
    assert report.confusion.sum() == 6 * 63 * 96


def test_evaluate_shows_one_image_at_a_time_without_gradient(dataset: SegmentationDataset) -> None:
    seen: list[tuple[int, ...]] = []
    progress: list[tuple[int, int]] = []

    def watching(images: Tensor) -> Tensor:
        assert torch.is_inference_mode_enabled()
        assert images.dtype == torch.float32
        assert 0.5 < images.max() <= 1
        seen.append(tuple(images.shape))
        return score(images)

    evaluate(watching, dataset, on_progress=lambda done, total: progress.append((done, total)))
    assert seen == [(1, 3, 64, 96)] * 6
    assert progress == [(done, 6) for done in range(1, 7)]
    assert not torch.is_inference_mode_enabled()


@pytest.mark.parametrize("classes", [2, 4])
def test_evaluate_refuses_a_network_of_other_classes(
    dataset: SegmentationDataset, classes: int
) -> None:
    message = rf"the network knows {classes} classes, but .*shapes has 3; evaluate on data with"
    with pytest.raises(DataError, match=message):
        evaluate(lambda images: torch.zeros(1, classes, 4, 4), dataset)


REPORT = Report(("road", "car", "tram"), torch.tensor([[6, 2, 0], [0, 2, 0], [0, 0, 0]]), 5)


def test_report_to_dict_holds_percent_by_name_and_null_for_absent_classes(tmp_path: Path) -> None:
    expected = {
        "miou": pytest.approx(62.5),
        "pixel_accuracy": pytest.approx(80.0),
        "per_class_iou": {"road": pytest.approx(75.0), "car": pytest.approx(50.0), "tram": None},
        "confusion_matrix": [[6, 2, 0], [0, 2, 0], [0, 0, 0]],
        "images": 5,
    }
    assert REPORT.to_dict() == expected
    REPORT.write_json(tmp_path / "evaluation.json")
    assert json.loads((tmp_path / "evaluation.json").read_text()) == expected


def test_report_to_table_has_a_row_per_class_and_the_means() -> None:
    assert REPORT.to_table().splitlines() == [
        "| class          | IoU % |",
        "|----------------|------:|",
        "| road           | 75.00 |",
        "| car            | 50.00 |",
        "| tram           |     - |",
        "| mean           | 62.50 |",
        "| pixel accuracy | 80.00 |",
    ]
