"""Compare an exported file with eager PyTorch on real images, before it is kept."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import torch
from numpy.typing import NDArray
from torch import Tensor

from tsic.checkpoint import TrainedStudent
from tsic.data.dataset import SegmentationDataset
from tsic.data.images import image_names, read_image
from tsic.data.sampling import spread
from tsic.data.scenes import draw_scene
from tsic.deploy.export.exported import ExportedModel
from tsic.errors import DataError
from tsic.evaluation.metrics import confusion_matrix, mean_iou, to_labels
from tsic.files import public_name
from tsic.grid import Size, resize_images, resize_labels, size_of

ReadImage = Callable[[int], tuple[Tensor, Tensor | None]]
"""Image, RGB uint8 ``(3, H, W)``, and its label, uint8 ``(H, W)``, where there is one."""


@dataclass(frozen=True)
class Images:
    """Images to try an exported file on.

    Args:
        source: What they are, in words that others may read.
        count: How many.
        read: Reads one of them by its number.
    """

    source: str
    count: int
    read: ReadImage

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Read them one after the other."""
        return (self.read(index) for index in range(self.count))


def images_in(folder: str | Path, most: int) -> Images:
    """Take the images of a folder, without labels.

    Args:
        folder: Folder with images at any depth.
        most: How many are used, evenly spread over all.

    Raises:
        DataError: If there is none, or a folder cannot be listed.
    """
    folder = Path(folder)
    files = sorted(folder / name for name in image_names(folder))
    if not files:
        raise DataError(f"'{folder}' holds no image; name a folder with images")
    chosen = spread(len(files), most)
    source = public_name(str(folder))
    return Images(source, len(chosen), lambda index: (read_image(files[chosen[index]]), None))


def labelled_images(dataset: SegmentationDataset, most: int) -> Images:
    """Take the images of a dataset, with their labels.

    Args:
        dataset: One split.
        most: How many are used, evenly spread over all.
    """
    chosen = spread(len(dataset), most)
    source = f"split '{dataset.split}' of {public_name(str(dataset.root))}"
    return Images(source, len(chosen), lambda index: dataset.read(chosen[index]))


def drawn_images(size: Size, count: int) -> Images:
    """Draw street scenes, without labels: what is left where nothing real is at hand.

    Args:
        size: Height and width, in pixels.
        count: How many.
    """

    def draw(index: int) -> tuple[Tensor, None]:
        pixels, _ = draw_scene(index, *size)
        return torch.from_numpy(pixels).permute(2, 0, 1), None

    return Images("drawn street scenes", count, draw)


@dataclass(frozen=True)
class Agreement:
    """How far an exported file agrees with eager PyTorch.

    Args:
        max_abs_diff: Largest absolute difference of two scores; ``None`` where the file answers
            with labels.
        largest_score: Largest absolute score of eager PyTorch.
        label_agreement: Share of pixels with equal labels, 0 to 1.
        miou_eager: Mean IoU of eager PyTorch in percent; ``None`` without labels.
        miou_exported: Mean IoU of the exported file, likewise.
    """

    max_abs_diff: float | None
    largest_score: float
    label_agreement: float
    miou_eager: float | None
    miou_exported: float | None

    def to_dict(self) -> dict[str, Any]:
        """What ``export.json`` keeps: no mean IoU without labels."""
        has_labels = self.miou_eager is not None
        return {k: v for k, v in vars(self).items() if has_labels or not k.startswith("miou")}

    @property
    def drop(self) -> float:
        """Points lost: of mean IoU where there are labels, else of label agreement."""
        if self.miou_eager is None or self.miou_exported is None:
            return 100 * (1 - self.label_agreement)
        return self.miou_eager - self.miou_exported

    def within(self, tolerance: float, least_agreement: float) -> bool:
        """Whether scores and labels agree; not if any score is no number.

        Args:
            tolerance: Largest difference of scores, as a share of the largest score.
            least_agreement: Smallest share of pixels with equal labels.
        """
        close = self.max_abs_diff is None or self.max_abs_diff <= tolerance * self.largest_score
        return close and self.label_agreement >= least_agreement

    def __str__(self) -> str:
        parts = []
        if self.max_abs_diff is not None:
            parts.append(
                f"largest difference {self.max_abs_diff:.2g} of scores up to "
                f"{self.largest_score:.3g}"
            )
        parts.append(f"labels equal on {100 * self.label_agreement:.3f}% of pixels")
        if self.miou_eager is not None:
            parts.append(f"mIoU {self.miou_exported:.2f} ({self.miou_eager:.2f} in PyTorch)")
        return ", ".join(parts)


@torch.inference_mode()
def compare(trained: TrainedStudent, exported: ExportedModel, images: Images) -> Agreement:
    """Compare an exported file with the student that it was made from, image by image.

    Both see the same pixels: a fixed size is resized to. Where padding cannot be exact (a free
    size with bytes in or labels out), images are cut to sides that need none. Of a free size, two
    sizes are tried at least.

    Args:
        trained: The student, on the CPU.
        exported: The file.
        images: What to compare on.

    Returns:
        The differences, over all images.
    """
    differences, largest = [torch.zeros(())], [torch.zeros(())]
    equal = pixels = 0
    confusions = torch.zeros(2, exported.classes.num_classes, exported.classes.num_classes)
    confusions = confusions.long()
    for image, label in _shown(images, exported):
        fitted, label = fit(image, label, exported)
        ours, theirs = _eager(trained, exported, fitted), exported(fitted)
        largest.append(ours.abs().max())
        if exported.gives == "scores":
            differences.append((ours - theirs).abs().max())
        size = size_of(fitted)
        eager_labels, labels = (_labels(one[0], size) for one in (ours, theirs))
        equal += int((eager_labels == labels).sum())
        pixels += labels.numel()
        if label is not None:
            own = size_of(label)
            for confusion, one in zip(confusions, (ours, theirs), strict=True):
                confusion += confusion_matrix(
                    _labels(one[0], own), label, exported.classes.num_classes
                )
    known = bool(confusions.sum())
    return Agreement(
        float(torch.stack(differences).max()) if exported.gives == "scores" else None,
        float(torch.stack(largest).max()),
        equal / pixels,
        mean_iou(confusions[0]) if known else None,
        mean_iou(confusions[1]) if known else None,
    )


def _shown(images: Images, exported: ExportedModel) -> Iterator[tuple[Tensor, Tensor | None]]:
    """The images, and where the size is free a part of the first one, without its label."""
    for index, (image, label) in enumerate(images):
        yield image, label
        if index == 0 and exported.size is None:
            rows, columns = (max(1, side * 2 // 3) for side in image.shape[1:])
            yield image[:, :rows, :columns], None


def fit(
    image: Tensor, label: Tensor | None, exported: ExportedModel
) -> tuple[Tensor, Tensor | None]:
    """Bring an image to what an exported file takes.

    Args:
        image: RGB uint8 ``(3, H, W)``.
        label: uint8 ``(H, W)``.
        exported: The file.

    Returns:
        Float32 ``(B, 3, h, w)`` in [0, 1], each a whole number of 255ths, the image repeated
        where the file takes several; and the label, cut as the image was.
    """
    images = image[None].float() / 255
    if exported.size:
        images = resize_images(images, exported.size)
    elif exported.metadata["input"] == "uint8" or exported.gives == "labels":
        multiple, minimum = exported.metadata["multiple"], exported.metadata["minimum"]
        height, width = (max(side // multiple * multiple, minimum) for side in image.shape[1:])
        if height > image.shape[1] or width > image.shape[2]:
            images = resize_images(images, (height, width))
        else:
            images = images[:, :, :height, :width]
            label = label if label is None else label[:height, :width]
    images = (images * 255).round().clamp(0, 255) / 255
    return images.expand(exported.only_batch or 1, -1, -1, -1), label


class CalibrationBatches(Sequence[NDArray[Any]]):
    """Images as the graph's own input, read when asked for.

    Args:
        exported: The file whose input they are brought to.
        images: The images.
    """

    def __init__(self, exported: ExportedModel, images: Images) -> None:
        self._exported = exported
        self._images = images

    def __len__(self) -> int:
        """Number of batches: one for each image."""
        return self._images.count

    @overload
    def __getitem__(self, index: int) -> NDArray[Any]: ...
    @overload
    def __getitem__(self, index: slice) -> list[NDArray[Any]]: ...
    def __getitem__(self, index: int | slice) -> NDArray[Any] | list[NDArray[Any]]:
        """Read one batch, ``(B, 3, H, W)``, or several."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        image, _ = self._images.read(index % len(self))
        return self._exported.prepare(fit(image, None, self._exported)[0])


def _eager(trained: TrainedStudent, exported: ExportedModel, images: Tensor) -> Tensor:
    """Scores of the student; it sees its images at the size that the graph shows them at."""
    seen = exported.resize or exported.size
    return trained.student(resize_images(images, seen)).logits


def _labels(answer: Tensor, size: Size) -> Tensor:
    """Labels, int64 ``(H, W)``, of scores ``(K, h, w)`` or labels ``(h, w)``."""
    if answer.ndim == 3:
        return to_labels(answer, size)
    return resize_labels(answer[None].long(), size)[0]
