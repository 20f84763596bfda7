"""Class scores of one image, shown whole or in windows, of which any part can be asked for."""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from tsic.data.images import PAD_COLOUR
from tsic.deploy.model import Model
from tsic.grid import Size, cells_under, resize_axis, resize_part, size_of

BATCH_PIXELS = 2**20
"""Pixels of the windows that are shown to a model at a time: four of 512x512."""


def ask(model: Model, images: Tensor) -> Tensor:
    """Show images to a model, in batches of its size if it takes no other.

    Args:
        model: Who answers.
        images: RGB uint8 ``(B, 3, H, W)``.

    Returns:
        Its answers, ``B`` of them.
    """
    pixels = images.to(model.device).float().div_(255)
    if model.only_batch is None:
        return model(pixels)
    answers = []
    for part in pixels.split(model.only_batch):
        missing = part[-1:].expand(model.only_batch - len(part), -1, -1, -1)
        answers.append(model(torch.cat([part, missing]))[: len(part)])
    return torch.cat(answers)


class WholeImage:
    """Scores of an image that is shown as a whole, kept on the network's own grid.

    Args:
        model: Who scores.
        image: RGB uint8 ``(3, H, W)``.
    """

    def __init__(self, model: Model, image: Tensor) -> None:
        self._scores = ask(model, image[None])[0].float()
        self.num_classes = len(self._scores)

    def part(self, size: Size, rows: range, columns: range) -> Tensor:
        """Scores of a part of the image.

        Args:
            size: Height and width that the image's scores are resized to.
            rows: The part's rows in it.
            columns: The part's columns in it.

        Returns:
            Float32 ``(K, rows, columns)``.
        """
        return resize_part(self._scores, size, rows, columns)


class Corner(NamedTuple):
    """Top left pixel of a window."""

    top: int
    left: int


class SlidingWindows:
    """Scores of an image that is shown in windows; where they overlap, scores are averaged.

    Windows are scored when a part asks for them, and kept, on the network's own grid, until a part
    no longer does. Parts that follow one another downwards need each window once.

    Args:
        model: Who scores.
        image: RGB uint8 ``(3, H, W)``.
        crop: Height and width of a window. A smaller image is one window, padded to ``only_size``
            if the model takes no other.
        stride: Rows and columns from a window to the next.

    Source:
        Positions and averaging: ``slide_inference`` of mmsegmentation.
    """

    def __init__(self, model: Model, image: Tensor, crop: Size, stride: Size) -> None:
        self._model = model
        self._image = image
        self._size = size_of(image)
        self._stride = stride
        self._window = (min(crop[0], self._size[0]), min(crop[1], self._size[1]))
        self._shown = model.only_size or self._window
        self._tops = window_starts(self._size[0], crop[0], stride[0])
        self._lefts = window_starts(self._size[1], crop[1], stride[1])
        self._kept: dict[Corner, Tensor] = {}
        self._keep([Corner(0, 0)])
        first = self._kept[Corner(0, 0)]
        self._bytes = first.nbytes
        self.device = first.device
        self.num_classes = len(first)

    def part(self, size: Size, rows: range, columns: range) -> Tensor:
        """Scores of a part of the image; see `WholeImage.part`."""
        under_rows = cells_under(rows, self._size[0], size[0])
        under_columns = cells_under(columns, self._size[1], size[1])
        joined = self._join(under_rows, under_columns)
        joined = resize_axis(joined, 2, columns, self._size[1], size[1])
        return resize_axis(joined, 1, rows, self._size[0], size[0])

    def kept_bytes(self, size: Size, width: int) -> int:
        """Bytes of scores that are kept while a vertical strip is gone through.

        Args:
            size: Height and width that the image's scores are resized to.
            width: Columns of the strip.
        """
        columns = -(-width * self._size[1] // size[1])
        in_a_row = min(_reaching(columns, self._window[1], self._stride[1]), len(self._lefts))
        # Parts are bands of a few rows; a stride is more than enough.
        in_a_column = _reaching(self._stride[0], self._window[0], self._stride[0])
        return in_a_row * min(in_a_column, len(self._tops)) * self._bytes

    def _join(self, rows: range, columns: range) -> Tensor:
        """Average the windows' scores ``(K, rows, columns)`` of a part at the shown size."""
        corners = [
            Corner(top, left)
            for top in self._tops
            if top < rows.stop and top + self._window[0] > rows.start
            for left in self._lefts
            if left < columns.stop and left + self._window[1] > columns.start
        ]
        self._keep(corners)
        total = torch.zeros(self.num_classes, len(rows), len(columns), device=self.device)
        count = torch.zeros(len(rows), len(columns), device=self.device)
        for corner in corners:
            own_rows = _overlap(corner.top, self._window[0], rows)
            own_columns = _overlap(corner.left, self._window[1], columns)
            scores = resize_part(
                self._kept[corner],
                self._shown,
                _moved(own_rows, -corner.top),
                _moved(own_columns, -corner.left),
            )
            at_rows = as_slice(_moved(own_rows, -rows.start))
            at_columns = as_slice(_moved(own_columns, -columns.start))
            total[:, at_rows, at_columns] += scores
            count[at_rows, at_columns] += 1
        return total.div_(count)

    def _keep(self, corners: Iterable[Corner]) -> None:
        """Keep the scores of these windows and no others."""
        self._kept = {corner: self._kept[corner] for corner in corners if corner in self._kept}
        missing = [corner for corner in corners if corner not in self._kept]
        count = max(1, BATCH_PIXELS // (self._shown[0] * self._shown[1]))
        for start in range(0, len(missing), self._model.only_batch or count):
            batch = missing[start : start + (self._model.only_batch or count)]
            answers = ask(self._model, torch.stack([self._cut(corner) for corner in batch]))
            # Clones, so that one window kept does not keep its whole batch.
            scores = [one.float().clone() for one in answers]
            self._kept.update(zip(batch, scores, strict=True))

    def _cut(self, corner: Corner) -> Tensor:
        """Pixels of a window, uint8 ``(3, h, w)``, padded if the image is smaller than it."""
        rows = slice(corner.top, corner.top + self._window[0])
        columns = slice(corner.left, corner.left + self._window[1])
        return pad_image(self._image[:, rows, columns], self._shown)


Shown = WholeImage | SlidingWindows
"""An image that was, or will be, shown to a model."""


def window_starts(side: int, crop: int, stride: int) -> list[int]:
    """First pixel of each window along one side; the last ends where the image does.

    Example:
        >>> window_starts(100, 40, 25)
        [0, 25, 50, 60]
    """
    last = max(side - crop, 0)
    return [min(i * stride, last) for i in range(-(-last // stride) + 1)]


def _reaching(part: int, window: int, stride: int) -> int:
    """Most windows that a part of one side meets; one more for the last, which is shifted back."""
    return (part + window - 2) // stride + 2


def pad_image(image: Tensor, size: Size) -> Tensor:
    """Pad an image ``(3, h, w)`` at the right and at the bottom, with the colour of training."""
    height, width = size_of(image)
    if (height, width) == size:
        return image
    padded = image.new_tensor(PAD_COLOUR).view(3, 1, 1).expand(3, *size).contiguous()
    padded[:, :height, :width] = image
    return padded


def _overlap(start: int, length: int, part: range) -> range:
    return range(max(start, part.start), min(start + length, part.stop))


def _moved(part: range, by: int) -> range:
    return range(part.start + by, part.stop + by)


def as_slice(part: range) -> slice:
    """What indexes a tensor as a range does."""
    return slice(part.start, part.stop)
