"""What a frozen encoder saw of whole images, stored, and cut to what a crop shows."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tsic.data.check import on_threads
from tsic.data.transforms import View
from tsic.data.unlabelled import TrainImages
from tsic.errors import DataError
from tsic.files import replacing

STRIDE = 16
"""Pixels of a crop per cell of its hints; an encoder's of its own image are as many."""


def cells_of(view: View) -> list[int]:
    """Rows and columns of the hints of a crop: a cell for every 16 pixels."""
    return [-(-side // STRIDE) for side in view.crop]


class StoredHints:
    """A folder with a file for each image: its embedding, and that of its mirror image.

    A file is named by its image's pixels, wherever that lies. So datasets may share a folder, and
    an image that changes is another.

    Args:
        folder: Where one encoder's embeddings lie.
        dataset: The images, which are decoded as cheaply as tells them apart.

    Raises:
        DataError: If an image cannot be decoded.
    """

    def __init__(self, folder: Path, dataset: TrainImages) -> None:
        self.names = [sample.name for sample in dataset.samples]
        digests = on_threads(dataset.verify, range(len(dataset)))
        self.files = [folder / f"{image.digest.hex()}.npy" for image in digests]

    def has(self, index: int) -> bool:
        """Whether an image has its embedding."""
        return self.files[index].is_file()

    def missing(self) -> list[int]:
        """Images that have none yet."""
        return [index for index in range(len(self.files)) if not self.has(index)]

    def write(self, index: int, embeddings: Tensor) -> None:
        """Store ``(2, D, h, w)`` of an image and of its mirror image; they cover both exactly."""
        file = self.files[index]
        file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(file) as part, part.open("wb") as stream:
            np.save(stream, embeddings.half().numpy())

    def crop(self, index: int, view: View) -> Tensor:
        """What the encoder saw of an image, where a crop lies.

        Where the crop is padded, the image's border goes on.

        Returns:
            Float16 ``(D, ceil(H / 16), ceil(W / 16))`` for a crop of ``H x W``.

        Raises:
            DataError: If the image's file is missing or damaged.
        """
        maps = self._read(index, mirrored=view.mirrored)
        rows, columns = (
            _shares(count, *span, have)
            for count, span, have in zip(cells_of(view), view.spans(), maps.shape[1:], strict=True)
        )
        return (rows @ (maps @ columns.T)).half()

    def _read(self, index: int, *, mirrored: bool) -> Tensor:
        """Embedding of an image, or of its mirror image: float32 ``(D, h, w)``."""
        file = self.files[index]
        try:
            stored = np.load(file, mmap_mode="r")
            if stored.ndim != 4 or len(stored) != 2:
                raise ValueError(f"its array is {stored.shape}")
        except (OSError, ValueError, EOFError) as error:
            raise DataError(
                f"{file}: no embedding of {self.names[index]} can be read from it ({error}); "
                "delete it, then --resume auto"
            ) from error
        return torch.from_numpy(np.array(stored[int(mirrored)])).float()


def _shares(cells: int, start: float, stop: float, have: int) -> Tensor:
    """What share each of ``have`` stored cells has in each cell of a crop: ``(cells, have)``.

    A cell is the mean of values between stored ones, as many as it covers: none is passed over.
    """
    finer = max(1, round(have * (stop - start) / cells))
    at = start + (stop - start) * (torch.arange(cells * finer) + 0.5) / (cells * finer)
    at = (at * have - 0.5).clamp(0, have - 1)
    shares = (1 - (at[:, None] - torch.arange(have)).abs()).clamp(min=0)
    return shares.unflatten(0, (cells, finer)).mean(1)
