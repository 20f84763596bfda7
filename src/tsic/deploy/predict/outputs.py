"""Files that a prediction writes, each whole or not at all."""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self, TextIO

import numpy as np
import numpy.typing as npt
from PIL import Image
from torch import Tensor

from tsic.data.classes import IGNORE, ClassTable
from tsic.data.images import read_mask
from tsic.data.readers.rle import counts_to_box, encode_counts, labels_to_counts
from tsic.deploy.predict.inputs import Input
from tsic.errors import ConfigError, DataError
from tsic.files import replacing
from tsic.grid import Size
from tsic.pictures import VOID_COLOUR, overlay_picture

Labels = npt.NDArray[np.uint8]
Probabilities = npt.NDArray[np.float16]
OverlayFormat = Literal["jpg", "png"]

JPEG_QUALITY = 90
JPEG_SIDE = 65_500
"""Most pixels of a side that libjpeg writes."""


@dataclass(frozen=True)
class Wanted:
    """What is written of every input.

    Args:
        out: Folder of all results.
        overlay: Format of the image with the classes' colours; none without it.
        opacity: Of the colours over images and videos, 0 to 1.
        probabilities: Whether the classes' probabilities are written.
    """

    out: Path
    overlay: OverlayFormat | None = None
    opacity: float = 0.5
    probabilities: bool = False


@dataclass(frozen=True)
class ImageFiles:
    """Where the results of one image go; ``None`` for what is not written.

    Args:
        labels: Class ids, PNG.
        overlay: Image with the classes' colours.
        probabilities: The classes' probabilities, ``.npz``.
    """

    labels: Path
    overlay: Path | None
    probabilities: Path | None


def files_of(one: Input, wanted: Wanted) -> ImageFiles:
    """Name the files of an image: the structure is kept, the ending changes."""
    kind = wanted.overlay
    return ImageFiles(
        labels=_place(one, wanted, ".png"),
        overlay=_place(one, wanted, f".overlay.{kind}") if kind else None,
        probabilities=_place(one, wanted, ".npz") if wanted.probabilities else None,
    )


def video_file(one: Input, wanted: Wanted) -> Path:
    """Name the video that is written of a video."""
    return _place(one, wanted, ".mp4")


def all_files(one: Input, wanted: Wanted) -> list[Path]:
    """Every file that is written of an input."""
    if one.is_video:
        return [video_file(one, wanted)]
    files = files_of(one, wanted)
    return [file for file in (files.labels, files.overlay, files.probabilities) if file]


def _place(one: Input, wanted: Wanted, ending: str) -> Path:
    return (wanted.out / one.name).with_name(one.name.stem + ending)


def check_files(inputs: Iterable[Input], wanted: Wanted, coco: Path | None = None) -> None:
    """Refuse results that would overwrite an input or each other.

    Raises:
        ConfigError: If two inputs have one result, or a result is an input.
    """
    inputs = list(inputs)
    sources = {os.path.realpath(one.source): one.source for one in inputs}
    owners: dict[str, str] = {os.path.realpath(coco): "--coco"} if coco else {}
    for one in inputs:
        for file in all_files(one, wanted):
            real = os.path.realpath(file)
            if real in owners:
                raise ConfigError(
                    f"'{owners[real]}' and '{one.source}' would both be written to '{file}'; "
                    "rename one, or predict them apart with another --out"
                )
            owners[real] = str(one.source)
    for real, owner in owners.items():
        if real in sources:
            raise ConfigError(
                f"the result of '{owner}' would overwrite the input '{sources[real]}'; choose "
                "another --out"
            )


def write_image(
    one: Input,
    wanted: Wanted,
    classes: ClassTable,
    image: Tensor,
    labels: Labels,
    probabilities: Probabilities | None = None,
) -> None:
    """Write all that is wanted of an image.

    Args:
        one: The image's input.
        wanted: What is written, and where.
        classes: Names and colours of the ``K`` classes.
        image: RGB uint8 ``(3, H, W)``.
        labels: Class ids ``(H, W)``.
        probabilities: Of the classes, ``(K, H, W)``, if they are wanted.
    """
    files = files_of(one, wanted)
    files.labels.parent.mkdir(parents=True, exist_ok=True)
    write_labels(files.labels, labels, classes)
    if files.overlay:
        write_overlay(files.overlay, image, labels, classes, wanted.opacity)
    if files.probabilities and probabilities is not None:
        write_probabilities(files.probabilities, probabilities, classes)


def write_labels(file: Path, labels: Labels, classes: ClassTable) -> None:
    """Write class ids as a PNG of 8-bit palette indices.

    Args:
        file: The PNG.
        labels: Class ids ``(H, W)``.
        classes: Their colours; what is no class is nearly black.
    """
    picture = Image.fromarray(labels)
    unused = [VOID_COLOUR] * (IGNORE + 1 - classes.num_classes)
    picture.putpalette([channel for c in (*classes.palette, *unused) for channel in c])
    with replacing(file) as part:
        picture.save(part, format="PNG")


def read_labels(file: Path, size: Size, classes: ClassTable) -> Labels | None:
    """Read what `write_labels` wrote of an image.

    Args:
        file: The PNG.
        size: Height and width of the image.
        classes: Whose ids it should hold.

    Returns:
        Class ids ``(H, W)``; ``None`` of any other file.
    """
    try:
        labels = read_mask(file)
    except DataError:
        return None
    is_own = labels.dtype == np.uint8 and labels.shape == size
    return labels if is_own and labels.max() < classes.num_classes else None


def write_overlay(
    file: Path, image: Tensor, labels: Labels, classes: ClassTable, opacity: float
) -> None:
    """Write an image with the colours of its classes.

    Args:
        file: JPEG or PNG, by its ending.
        image: RGB uint8 ``(3, H, W)``.
        labels: Class ids ``(H, W)``.
        classes: Their colours.
        opacity: Of the colours, 0 to 1.

    Raises:
        DataError: If it is too large for a JPEG.
    """
    if file.suffix == ".jpg" and max(labels.shape) > JPEG_SIDE:
        raise DataError(
            f"overlay: a JPEG holds at most {JPEG_SIDE} pixels a side; say --overlay-format png"
        )
    picture = overlay_picture(image, labels, classes, opacity)
    with replacing(file) as part:
        if file.suffix == ".jpg":
            picture.save(part, format="JPEG", quality=JPEG_QUALITY)
        else:
            picture.save(part, format="PNG")


def write_probabilities(file: Path, probabilities: Probabilities, classes: ClassTable) -> None:
    """Write ``probabilities`` ``(K, H, W)`` and the ``classes``' names, uncompressed."""
    with replacing(file) as part, part.open("wb") as stream:
        np.savez(stream, probabilities=probabilities, classes=np.array(classes.names))


@dataclass(frozen=True)
class CocoImage:
    """One image of a COCO file.

    Args:
        name: Path of the image below the folder that was given.
        size: Height and width.
        runs: Lengths of the runs of each class that occurs.
    """

    name: Path
    size: tuple[int, int]
    runs: Mapping[int, npt.NDArray[np.int64]]

    @classmethod
    def of(cls, name: Path, labels: Labels) -> Self:
        """Find the runs of a label map ``(H, W)``."""
        return cls(name, (labels.shape[0], labels.shape[1]), labels_to_counts(labels))


class CocoWriter:
    """Writes the annotations of one image after the other.

    Args:
        stream: COCO's JSON, open where annotations stand.
    """

    def __init__(self, stream: TextIO) -> None:
        self.images: list[dict[str, Any]] = []
        self._stream = stream
        self._annotations = 0

    def add(self, image: CocoImage) -> None:
        """Write one annotation for each class of an image."""
        height, width = image.size
        number = len(self.images) + 1
        self.images.append(
            {"id": number, "file_name": image.name.as_posix(), "height": height, "width": width}
        )
        for class_id, counts in image.runs.items():
            self._stream.write(",\n" if self._annotations else "\n")
            self._annotations += 1
            annotation = {
                "id": self._annotations,
                "image_id": number,
                "category_id": class_id + 1,
                "segmentation": {"size": [height, width], "counts": encode_counts(counts)},
                "area": int(counts[1::2].sum()),
                "bbox": counts_to_box(counts, height),
                "iscrowd": 0,
            }
            self._stream.write(json.dumps(annotation))


@contextmanager
def coco_file(file: Path, classes: ClassTable) -> Iterator[CocoWriter]:
    """Write COCO's JSON image by image; it takes its place when all went well.

    Each class of an image is one annotation with compressed RLE; a category's id is the class id
    plus 1, since COCO's begin with 1.

    Source: "Data format" of the COCO dataset, https://cocodataset.org/#format-data.

    Args:
        file: The JSON.
        classes: Names of the classes.

    Yields:
        What takes the images.
    """
    categories = [
        {"id": i, "name": name, "supercategory": ""} for i, name in enumerate(classes.names, 1)
    ]
    with replacing(file) as part, part.open("w", encoding="utf-8") as stream:
        stream.write(f'{{"categories": {json.dumps(categories)},\n"annotations": [')
        writer = CocoWriter(stream)
        yield writer
        stream.write(f'\n],\n"images": {json.dumps(writer.images)}}}\n')
