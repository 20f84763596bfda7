"""Score a student or a teacher on a labelled split, one image's logits at a time."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tsic.data.dataset import SegmentationDataset
from tsic.errors import DataError
from tsic.files import write_text
from tsic.metrics import class_iou, confusion_matrix, mean_iou, pixel_accuracy, to_labels
from tsic.progress import OnProgress

Scorer = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Report:
    """Dataset-level scores, all computed from one confusion matrix.

    Attributes:
        class_names: Names of the ``K`` classes.
        confusion: Pixel counts, int64 ``(K, K)``, true classes in rows.
        images: Images that were scored.
    """

    class_names: tuple[str, ...]
    confusion: Tensor
    images: int

    @property
    def miou(self) -> float:
        """Mean IoU over the classes that occur, in percent."""
        return mean_iou(self.confusion)

    @property
    def pixel_accuracy(self) -> float:
        """Share of labelled pixels that are right, in percent."""
        return pixel_accuracy(self.confusion)

    @property
    def per_class_iou(self) -> dict[str, float | None]:
        """IoU of each class in percent; ``None`` where the class occurs nowhere."""
        values = (100 * class_iou(self.confusion)).tolist()
        return {
            name: None if value != value else value  # NaN is not equal to itself
            for name, value in zip(self.class_names, values, strict=True)
        }

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as in ``evaluation.json``; scores in percent."""
        return {
            "miou": self.miou,
            "pixel_accuracy": self.pixel_accuracy,
            "per_class_iou": self.per_class_iou,
            "confusion_matrix": self.confusion.tolist(),
            "images": self.images,
        }

    def to_table(self) -> str:
        """The scores as a Markdown table, one class a row."""
        width = max(len(name) for name in (*self.class_names, "pixel accuracy"))
        rows = [f"| {'class':<{width}} | IoU % |", f"|{'-' * (width + 2)}|------:|"]
        for name, value in self.per_class_iou.items():
            rows.append(f"| {name:<{width}} | {'-' if value is None else f'{value:.2f}':>5} |")
        rows.append(f"| {'mean':<{width}} | {self.miou:5.2f} |")
        rows.append(f"| {'pixel accuracy':<{width}} | {self.pixel_accuracy:5.2f} |")
        return "\n".join(rows)

    def write_json(self, path: Path) -> None:
        """Write ``to_dict`` to a file."""
        write_text(path, json.dumps(self.to_dict(), indent=1))


def evaluate(
    score: Scorer,
    dataset: SegmentationDataset,
    *,
    device: torch.device | str = "cpu",
    on_progress: OnProgress | None = None,
) -> Report:
    """Score a network at the images' own size, in constant memory.

    Args:
        score: RGB ``(1, 3, H, W)`` in [0, 1] to class scores ``(1, K, h, w)`` on any grid.
        dataset: Labelled images.
        device: Where ``score`` runs.
        on_progress: Called with images done and in all.

    Returns:
        The scores.

    Raises:
        DataError: If ``score`` has another number of classes than the dataset, or a file is bad.
    """
    num_classes = dataset.classes.num_classes
    confusion = torch.zeros(num_classes, num_classes, dtype=torch.int64)
    for done, (logits, labels) in enumerate(_scored(score, dataset, device), start=1):
        if logits.shape[0] != num_classes:
            raise DataError(
                f"the network knows {logits.shape[0]} classes, but {dataset.root} has "
                f"{num_classes}; evaluate on data with the classes it was trained on"
            )
        size = (labels.shape[-2], labels.shape[-1])
        predicted = to_labels(logits, size).cpu()
        confusion += confusion_matrix(predicted, labels, num_classes)
        if on_progress:
            on_progress(done, len(dataset))
    return Report(dataset.classes.names, confusion, len(dataset))


@torch.inference_mode()
def _scored(
    score: Scorer, dataset: SegmentationDataset, device: torch.device | str
) -> Iterator[tuple[Tensor, Tensor]]:
    """Class scores ``(K, h, w)`` and labels ``(H, W)`` of each image in turn."""
    for index in range(len(dataset)):
        image, labels = dataset.read(index)
        yield score(image[None].to(device).float() / 255)[0], labels
