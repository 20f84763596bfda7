"""Scores of a whole split: computed from counts of pixels, and written as JSON or Markdown."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from tsic.deploy.inference import WHOLE, View
from tsic.evaluation.metrics import class_accuracy, class_iou, mean_iou
from tsic.markdown import to_markdown

ByName = dict[str, float | None]
"""Percent of each class by its name; ``None`` where there is nothing to score."""


@dataclass(frozen=True)
class Trimap:
    """Scores of the pixels near borders of the labels.

    Attributes:
        distance: How far from a border, in pixels.
        confusion: Pixel counts, int64 ``(K, K)``, true classes in rows.
    """

    distance: int
    confusion: Tensor

    @property
    def miou(self) -> float:
        """Mean IoU over the classes that occur near borders, in percent."""
        return mean_iou(self.confusion)

    def per_class_iou(self, names: Sequence[str]) -> ByName:
        """IoU of each class in percent; ``None`` where the class occurs near no border."""
        return _by_name(names, class_iou(self.confusion))


@dataclass(frozen=True)
class Report:
    """Dataset-level scores, all computed from counts of pixels.

    Attributes:
        class_names: Names of the ``K`` classes.
        confusion: Pixel counts, int64 ``(K, K)``, true classes in rows.
        images: Images that were scored.
        view: How they were shown, the large ones if not all alike.
        boundary: Pixel counts of boundary IoU, int64 ``(2, K)``: intersections and unions.
        trimap: The band around the labels' borders.
    """

    class_names: tuple[str, ...]
    confusion: Tensor
    images: int
    view: View = WHOLE
    boundary: Tensor | None = None
    trimap: Trimap | None = None

    @property
    def miou(self) -> float:
        """Mean IoU over the classes that occur, in percent."""
        return mean_iou(self.confusion)

    @property
    def mean_accuracy(self) -> float:
        """Mean, over the classes that the labels hold, of the share that is right, in percent."""
        return 100 * class_accuracy(self.confusion).nanmean().item()

    @property
    def pixel_accuracy(self) -> float:
        """Share of labelled pixels that are right, in percent."""
        return 100 * (self.confusion.diagonal().sum() / self.confusion.sum()).item()

    @property
    def per_class_iou(self) -> ByName:
        """IoU of each class in percent; ``None`` where the class occurs nowhere."""
        return _by_name(self.class_names, class_iou(self.confusion))

    @property
    def per_class_accuracy(self) -> ByName:
        """Share of each class that is right, in percent; ``None`` where no label holds it."""
        return _by_name(self.class_names, class_accuracy(self.confusion))

    @property
    def boundary_iou(self) -> float | None:
        """Mean boundary IoU over the classes that occur, in percent, if it was asked for."""
        if self.boundary is None:
            return None
        return 100 * (self.boundary[0].double() / self.boundary[1]).nanmean().item()

    @property
    def per_class_boundary_iou(self) -> ByName | None:
        """Boundary IoU of each class in percent, if it was asked for."""
        if self.boundary is None:
            return None
        return _by_name(self.class_names, self.boundary[0].double() / self.boundary[1])

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as in ``evaluation.json``; scores in percent."""
        scores: dict[str, Any] = {
            "miou": _known(self.miou),
            "mean_accuracy": _known(self.mean_accuracy),
            "pixel_accuracy": _known(self.pixel_accuracy),
            "per_class_iou": self.per_class_iou,
            "per_class_accuracy": self.per_class_accuracy,
        }
        if self.boundary is not None:
            scores["boundary_iou"] = _known(self.boundary_iou)
            scores["per_class_boundary_iou"] = self.per_class_boundary_iou
        if self.trimap is not None:
            scores["trimap_px"] = self.trimap.distance
            scores["trimap_iou"] = _known(self.trimap.miou)
            scores["per_class_trimap_iou"] = self.trimap.per_class_iou(self.class_names)
        return scores | {
            "confusion_matrix": self.confusion.tolist(),
            "images": self.images,
            "view": self.view.to_dict(),
        }

    def to_table(self) -> str:
        """The scores as a Markdown table, one class a row."""
        columns: dict[str, tuple[ByName, float]] = {
            "IoU %": (self.per_class_iou, self.miou),
            "accuracy %": (self.per_class_accuracy, self.mean_accuracy),
        }
        if self.per_class_boundary_iou is not None and self.boundary_iou is not None:
            columns["boundary IoU %"] = (self.per_class_boundary_iou, self.boundary_iou)
        if self.trimap is not None:
            title = f"IoU % within {self.trimap.distance} px"
            columns[title] = (self.trimap.per_class_iou(self.class_names), self.trimap.miou)
        rows = [["class", *columns]]
        for name in self.class_names:
            rows.append([name, *(percent(values[name]) for values, _ in columns.values())])
        rows.append(["mean", *(percent(mean) for _, mean in columns.values())])
        rows.append(["pixel accuracy", "", percent(self.pixel_accuracy)] + [""] * len(columns))
        return to_markdown([row[: len(columns) + 1] for row in rows])


def _by_name(names: Sequence[str], shares: Tensor) -> ByName:
    """Shares ``(K,)`` in percent; ``None`` for NaN."""
    values = (100 * shares).tolist()
    return {name: _known(value) for name, value in zip(names, values, strict=True)}


def _known(value: float | None) -> float | None:
    """``None`` for NaN, which JSON does not have."""
    return None if value is None or math.isnan(value) else value


def percent(value: float | None) -> str:
    """A score for people to read."""
    return "-" if _known(value) is None else f"{value:.2f}"
