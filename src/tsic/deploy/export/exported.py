"""What all exported files have in common: metadata, and what an image is brought to."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from tsic.data.classes import ClassTable
from tsic.deploy.export.graph import read_metadata
from tsic.deploy.model import Gives
from tsic.errors import CheckpointError, ShapeError, not_installed, one_line
from tsic.grid import Size, fit_to_image, require_images, resize_images, resize_labels, size_of

Array = NDArray[Any]

Batches = Sequence[Array]
"""Images as a graph's own input, ``(B, 3, H, W)`` each."""


class ExportedModel(ABC):
    """An exported file, ready to score: a `tsic.deploy.model.Model`.

    Args:
        path: The file.
        text: Its metadata, JSON.

    Attributes:
        path: The file.
        metadata: What the file says of itself; ``docs/export.md`` lists the keys.
        size: The one height and width that its graph takes; ``None`` where they are free.

    Raises:
        CheckpointError: If the metadata is missing, damaged or of a newer format.
    """

    device = torch.device("cpu")
    engine = ""

    def __init__(self, path: Path, text: str | None) -> None:
        self.path = path
        self.metadata = read_metadata(path, text)
        self.classes = ClassTable.from_names(
            self.metadata["classes"],
            palette=[(r, g, b) for r, g, b in self.metadata["palette"]],
        )
        size = self.metadata["size"]
        self.gives: Gives = self.metadata["output"]
        self.size: Size | None = (size[0], size[1]) if size else None
        self.only_batch: int | None = self.metadata["batch"]
        resize = self.metadata["resize"]
        self.resize: Size | None = (resize[0], resize[1]) if resize else None
        # A student that saw whole images, resized, takes any: they are resized here, too.
        self.only_size = None if self.resize else self.size

    @abstractmethod
    def run(self, array: Array) -> Array:
        """Run the graph on its own input.

        Args:
            array: ``(B, 3, H, W)``, uint8 or float32 as the metadata's ``input`` says, with sides
                that the graph takes.

        Returns:
            Scores, float32 ``(B, K, h, w)``, or labels, uint8 ``(B, H, W)``.
        """

    def prepare(self, images: Tensor) -> Array:
        """Turn images into the graph's input; a free size is padded with the mean colour.

        Args:
            images: RGB, float ``(B, 3, H, W)`` in [0, 1].

        Returns:
            ``(B, 3, H', W')`` as `run` takes it.

        Raises:
            ShapeError: If the graph takes another size or number of images.
        """
        size = (images.shape[2], images.shape[3])
        if self.size not in (None, size):
            height, width = self.size or size
            raise ShapeError(
                f"'{self.path}' takes images of {height}x{width}, got {size[0]}x{size[1]}; "
                "resize them, or export without --size"
            )
        if self.only_batch not in (None, images.shape[0]):
            raise ShapeError(
                f"'{self.path}' takes {self.only_batch} images at a time, got {images.shape[0]}; "
                "export with --batch free"
            )
        images = self._padded(images.to("cpu", torch.float32))
        kind = self.metadata["input"]
        if kind == "uint8":
            images = (images * 255).round().to(torch.uint8)
        elif kind == "normalised":
            images = (images - self._column("mean")) / self._column("std")
        return images.contiguous().numpy()

    def __call__(self, images: Tensor) -> Tensor:
        """Score RGB images in [0, 1], float ``(B, 3, H, W)``.

        If the student was trained on resized images, they are brought to the graph's only size.

        Returns:
            Scores, float32 ``(B, K, h, w)`` on a grid that covers the images, or labels, uint8
            ``(B, H, W)``.

        Raises:
            ShapeError: As `prepare`, or if they are no such images.
            CheckpointError: If the engine fails on them.
        """
        require_images(images, f"'{self.path}':")
        shown = resize_images(images, self.size if self.resize else None)
        array = self.prepare(shown)
        size = size_of(shown)
        try:
            answer = torch.from_numpy(self.run(array))
        except Exception as error:  # each engine raises kinds of its own
            raise CheckpointError(
                f"'{self.path}' fails on an image of {size[0]}x{size[1]} in {self.engine} "
                f"({one_line(error)}); export it with another --size, or try another format"
            ) from error
        if self.gives == "labels":
            return resize_labels(answer[:, : size[0], : size[1]], size_of(images))
        return fit_to_image(answer, (array.shape[2], array.shape[3]), size)

    def _padded(self, images: Tensor) -> Tensor:
        """Pad images at the right and the bottom to sides that the graph takes."""
        if self.size:
            return images
        multiple, minimum = self.metadata["multiple"], self.metadata["minimum"]
        height, width = (max(-(-side // multiple) * multiple, minimum) for side in images.shape[2:])
        if (height, width) == tuple(images.shape[2:]):
            return images
        padded = self._column("mean").expand(images.shape[0], 3, height, width).clone()
        padded[:, :, : images.shape[2], : images.shape[3]] = images
        return padded

    def _column(self, key: str) -> Tensor:
        return torch.tensor(self.metadata[key]).view(1, 3, 1, 1)


def import_engine(name: str, extra: str) -> Any:
    """Import an engine's package.

    Args:
        name: The package.
        extra: The extra of tsic that installs it.

    Raises:
        ConfigError: If it is not installed.
    """
    try:
        return import_module(name)
    except ImportError as error:
        raise not_installed(error.name, extra) from error


def parts_of(path: Path) -> list[Path]:
    """List the files that make up an exported file, itself last."""
    suffix = path.suffix.lower()
    if suffix == ".xml":
        return [path.with_suffix(".bin"), path]
    if suffix in (".pte", ".tflite"):
        return [metadata_beside(path), path]
    return [path]


def metadata_beside(path: Path) -> Path:
    """Name the file that holds the metadata of a format that has no place for it."""
    return path.with_name(f"{path.name}.json")
