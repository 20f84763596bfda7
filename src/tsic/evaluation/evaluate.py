"""Score a student, a teacher or an exported file on a labelled split, in constant memory."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from os import PathLike
from typing import cast

import torch
from torch import Tensor

from tsic.data.classes import ClassTable
from tsic.data.dataset import SegmentationDataset
from tsic.deploy.inference import WHOLE, View, fitting_view, label_image
from tsic.deploy.model import Gives, Model, require_evaluation_mode
from tsic.errors import ConfigError, DataError, ShapeError
from tsic.evaluation.boundary import boundary_counts, trimap_labels
from tsic.evaluation.metrics import confusion_matrix
from tsic.evaluation.scores import Report, Trimap
from tsic.grid import Size, size_of
from tsic.progress import OnProgress

__all__ = ["Report", "Scorer", "ScorerModel", "Trimap", "evaluate"]

Scorer = Callable[[Tensor], Tensor]
"""RGB ``(1, 3, H, W)`` in [0, 1] to class scores ``(1, K, h, w)`` on any grid."""


class ScorerModel:
    """A function that scores images, as a `tsic.deploy.model.Model`.

    Args:
        score: The function.
        dataset: Whose classes it should know.
        device: Where it wants its images.
        resize: Size that it brings every image to; ``None`` if it does not.
    """

    gives: Gives = "scores"
    only_size: Size | None = None
    only_batch: int | None = None

    def __init__(
        self,
        score: Scorer,
        dataset: SegmentationDataset,
        device: torch.device | str,
        resize: Size | None = None,
    ) -> None:
        self._score = score
        self._dataset = dataset
        self.classes = dataset.classes
        self.device = torch.device(device)
        self.resize = resize

    def __call__(self, images: Tensor) -> Tensor:
        """Score a batch.

        Raises:
            ShapeError: If the function answers with anything but scores.
            DataError: If it knows another number of classes.
        """
        scores = self._score(images)
        if not isinstance(scores, Tensor) or scores.ndim != 4:
            raise ShapeError(
                f"the function must answer images {tuple(images.shape)} with scores (1, K, h, w), "
                f"got {_shape_of(scores)}; of a network that answers with more take its logits"
            )
        count = self.classes.num_classes
        if scores.shape[1] != count:
            raise DataError(
                f"the network knows {scores.shape[1]} classes, but {self._dataset.root} has "
                f"{count}; evaluate on data with the classes it was trained on"
            )
        return scores


def evaluate(
    model: Model | Scorer,
    dataset: SegmentationDataset,
    *,
    device: torch.device | str = "cpu",
    view: View | None = None,
    boundary: bool = False,
    trimap: int | None = None,
    on_progress: OnProgress | None = None,
    on_image: Callable[[Tensor], None] | None = None,
) -> Report:
    """Score a network at the images' own size, in constant memory.

    Args:
        model: Who is scored; or a function from RGB ``(1, 3, H, W)`` in [0, 1] to class scores
            ``(1, K, h, w)`` on any grid.
        dataset: Labelled images.
        device: Where a function runs; a model says so itself.
        view: How images are shown: whole, in windows, mirrored, at several scales; see
            ``fitting_view``: by default as `tsic predict` does, large ones by windows.
        boundary: Whether boundary IoU is computed, too.
        trimap: Pixels from a border of the labels up to which IoU is computed once more.
        on_progress: Called with images done and in all.
        on_image: Called with the confusion matrix ``(K, K)`` of each image, in order.

    Returns:
        The scores.

    Raises:
        DataError: If the model has other classes than the dataset, or a file is bad.
        ConfigError: If the model does not take images so, is none or in training mode, or
            ``trimap`` is below 1.
        ShapeError: If a function answers with anything but scores.
    """
    for one, way in ((model, "tsic.open_model"), (dataset, "tsic.data.readers.open_dataset")):
        if isinstance(one, str | PathLike):
            raise ConfigError(f"'{one}' is a path; open it with {way}")
    if trimap is not None and trimap < 1:
        raise ConfigError(f"trimap must be at least 1 pixel, got {trimap}")
    require_evaluation_mode(model)
    shown = _as_model(model, dataset, device)
    num_classes = dataset.classes.num_classes
    confusion, near = (torch.zeros(num_classes, num_classes, dtype=torch.int64) for _ in range(2))
    borders = torch.zeros(2, num_classes, dtype=torch.int64)
    used = view or WHOLE
    for done, (image, labels) in enumerate(_read_ahead(dataset), start=1):
        how = fitting_view(shown, view, size_of(image))
        used = how if how.crop else used
        predicted = label_image(shown, image, how)
        counts = confusion_matrix(predicted, labels, num_classes)
        confusion += counts
        if on_image:
            on_image(counts)
        if boundary:
            borders += boundary_counts(predicted, labels, num_classes)
        if trimap is not None:
            near += confusion_matrix(predicted, trimap_labels(labels, trimap), num_classes)
        if on_progress:
            on_progress(done, len(dataset))
    return Report(
        dataset.classes.names,
        confusion,
        len(dataset),
        used,
        borders if boundary else None,
        None if trimap is None else Trimap(trimap, near),
    )


def _as_model(
    model: Model | Scorer, dataset: SegmentationDataset, device: torch.device | str
) -> Model:
    """A model of the dataset's classes."""
    if not hasattr(model, "gives"):
        return ScorerModel(model, dataset, device)
    found = cast(Model, model)
    require_same_classes("the model", found.classes, dataset)
    return found


def require_same_classes(who: str, classes: ClassTable, dataset: SegmentationDataset) -> None:
    """Refuse a model whose classes are not the dataset's, in the same order.

    Raises:
        DataError: With both lists.
    """
    if classes.names != dataset.classes.names:
        raise DataError(
            f"{who} knows the classes {', '.join(classes.names)}, but '{dataset.root}' has "
            f"{', '.join(dataset.classes.names)}; evaluate on the same classes"
        )


def _shape_of(answer: object) -> str:
    return f"{tuple(answer.shape)}" if isinstance(answer, Tensor) else type(answer).__name__


def _read_ahead(dataset: SegmentationDataset) -> Iterator[tuple[Tensor, Tensor]]:
    """Image and labels of each sample, the next one being read meanwhile."""
    with ThreadPoolExecutor(max_workers=1) as reader:
        coming = reader.submit(dataset.read, 0)
        for following in range(1, len(dataset) + 1):
            sample = coming.result()
            if following < len(dataset):
                coming = reader.submit(dataset.read, following)
            yield sample
