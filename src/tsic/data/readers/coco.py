"""Polygons and run lengths in COCO's JSON, drawn to masks.

Source: "Data format" of the COCO dataset, https://cocodataset.org/#format-data.
"""

import json
import pickle
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from tsic.data.classes import ClassTable
from tsic.data.dataset import Problem, Sample, SegmentationDataset, Store, Values
from tsic.data.readers.pairs import locate
from tsic.data.readers.polygons import (
    check_polygon,
    fill_polygon,
    polygon_area,
    require_places,
    table_with_background,
)
from tsic.data.readers.rle import check_counts, counts_to_mask, decode_counts
from tsic.errors import DataError, no_split
from tsic.files import read_text

YEARS = ("", "2017", "2014")
"""What COCO appends to the name of a split."""

MAX_SIDE = 1 << 17
"""Pixels; more is taken for a mistake in the file."""

FORMS: tuple[Literal["NFC", "NFD"], ...] = ("NFC", "NFD")

ROBOFLOW = "_annotations.coco.json"
"""Name of the file that Roboflow puts beside the images of a split."""


@dataclass(frozen=True, slots=True)
class Annotation:
    """One object in one image.

    Args:
        number: The annotation's id in the file, for messages.
        value: Id in the mask.
        polygons: Its parts, each x and y in turn, in pixels.
        counts: Its run lengths, packed in a text or not, where it has no polygons.
        size: Height and width that the run lengths cover.
    """

    number: object
    value: int
    polygons: tuple[npt.NDArray[np.float64], ...] = ()
    counts: str | tuple[int, ...] = ()
    size: tuple[int, int] = (0, 0)


class Shelf:
    """Annotations of one image after the other, as one block of bytes.

    Worker processes share the block: to read Python's objects would count references in them, and
    copy their memory into each worker.

    Args:
        annotations: Annotations of each image.
    """

    def __init__(self, annotations: Iterable[Sequence[Annotation]]) -> None:
        packed = [pickle.dumps(of_image) for of_image in annotations]
        self._ends = np.cumsum([0, *map(len, packed)])
        self._block = b"".join(packed)

    def __getitem__(self, place: int) -> Sequence[Annotation]:
        found: Sequence[Annotation] = pickle.loads(
            self._block[self._ends[place] : self._ends[place + 1]]
        )
        return found


@dataclass(frozen=True)
class CocoStore(Store):
    """Draws the annotations of an image.

    Args:
        sizes: Height and width by sample name, as the JSON has them.
        annotations: Annotations in the same order.
    """

    sizes: Mapping[str, tuple[int, int]]
    annotations: Shelf

    @cached_property
    def _places(self) -> dict[str, int]:
        return {name: place for place, name in enumerate(self.sizes)}

    def mask(self, sample: Sample) -> Values:
        """Draw the mask: ids ``(H, W)``, smaller objects on top of larger ones."""
        height, width = self.sizes[sample.name]
        drawn: list[tuple[float, Annotation, Sequence[int]]] = []
        for annotation in self.annotations[self._places[sample.name]]:
            try:
                counts = _counts(annotation, height, width)
            except DataError as error:
                raise DataError(
                    f"{sample.mask}: annotation {annotation.number} of {sample.name}: {error}"
                ) from None
            area = sum(polygon_area(part.reshape(-1, 2)) for part in annotation.polygons)
            drawn.append((area + sum(counts[1::2]), annotation, counts))
        mask = np.zeros((height, width), np.uint16)
        for _, annotation, counts in sorted(drawn, key=lambda one: -one[0]):
            for part in annotation.polygons:
                fill_polygon(mask, part.reshape(-1, 2), annotation.value)
            if counts:
                mask[counts_to_mask(counts, height, width)] = annotation.value
        return mask


def _counts(annotation: Annotation, height: int, width: int) -> Sequence[int]:
    """Run lengths of an annotation that can be drawn; none where it has polygons."""
    for part in annotation.polygons:
        check_polygon(part)
    if annotation.polygons:
        return ()
    if not annotation.counts:
        raise DataError("it has neither a polygon nor RLE; a box alone is no mask")
    if annotation.size != (height, width):
        raise DataError(f"RLE is of size {annotation.size}, but the image of {height, width}")
    counts = annotation.counts
    unpacked = decode_counts(counts) if isinstance(counts, str) else counts
    check_counts(unpacked, height, width)
    return unpacked


def open_coco(root: Path, split: str, classes: ClassTable | None = None) -> SegmentationDataset:
    """Open instances labelled in COCO's JSON as a dataset of classes.

    The labels lie in ``annotations/instances_<split>.json``, ``annotations/<split>.json``,
    ``<split>.json``, or Roboflow's ``<split>/_annotations.coco.json``; the images in ``<split>``,
    ``images/<split>``, ``images``, or beside Roboflow's file. ``<split>`` may be written with
    COCO's year: ``train`` finds ``train2017`` and ``train2014``.

    Pixels of no annotation, and images without one, are class 0, ``background``. The categories
    follow in the order of their ids and are numbered from 1, gaps or not; a class table of one's
    own refers to these numbers. A category called background is class 0 too. Roboflow's heading,
    which has the supercategory "none", names that of others and has no annotation, is not counted.
    Where objects overlap, the smaller lies on top; crowds are drawn as any object is.

    Args:
        root: The dataset's folder.
        split: Name of the split.
        classes: Another class table than the file's own categories.

    Returns:
        The dataset; images that are listed but not there are left out.

    Raises:
        DataError: If the split is not there, or its file is not in COCO's format.
        ConfigError: If the categories make no class table.
    """
    file, name = _find_file(root, split)
    content = _load(file)
    values, names = _categories(file, content)
    if classes is None:
        classes = table_with_background(names, file)
    else:
        require_places(names, classes, file)
    folders = [root / name, root / "images" / name, root / "images" / split, root / "images"]
    folders = [folder for folder in folders if folder.is_dir()]
    if file.name == ROBOFLOW:
        folders.insert(0, file.parent)
    samples, sizes, problems = _images(root, file, content, folders)
    by_name, more = _annotations(file, content, values, {i: s.name for i, s in samples.items()})
    return SegmentationDataset(
        "coco",
        root,
        split,
        classes,
        tuple(sorted(samples.values(), key=lambda sample: sample.name)),
        (*problems, *more),
        CocoStore(sizes, Shelf(by_name.get(name, ()) for name in sizes)),
    )


def _find_file(root: Path, split: str) -> tuple[Path, str]:
    """The split's file, and the split's name as it is written there."""
    for name in (split + year for year in YEARS):
        for file in (
            root / "annotations" / f"instances_{name}.json",
            root / "annotations" / f"{name}.json",
            root / f"{name}.json",
            root / name / ROBOFLOW,
        ):
            if file.is_file():
                return file, name
    instances = {file.stem for file in root.glob("annotations/instances_*.json")}
    others = {file.stem for file in (*root.glob("annotations/*.json"), *root.glob("*.json"))}
    found = {stem.removeprefix("instances_") for stem in instances or others}
    found |= {file.parent.name for file in root.glob(f"*/{ROBOFLOW}")}
    expected = f"expected annotations/instances_{split}.json, {split}.json or {split}/{ROBOFLOW}"
    raise no_split(root, split, found, expected=expected)


def _load(file: Path) -> dict[str, list[Any]]:
    """The three lists of a COCO file."""
    text = read_text(file)
    try:
        content = json.loads(text)
    except ValueError as error:
        raise DataError(f"{file}: not valid JSON: {error}") from error
    for key in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise DataError(f"{file}: not in COCO's format: it has no list '{key}'")
    if any(isinstance(one, dict) and "segments_info" in one for one in content["annotations"][:1]):
        raise DataError(
            f"{file}: is in COCO's panoptic format, whose segments lie in PNG files; give its "
            "instances_*.json, or masks of class ids to the reader 'folder'"
        )
    return content


def _categories(file: Path, content: Mapping[str, list[Any]]) -> tuple[dict[int, int], list[str]]:
    """Id in the mask by category id, and the names in that order."""
    try:
        found = sorted(
            (int(one["id"]), str(one["name"]), str(one.get("supercategory")))
            for one in content["categories"]
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise DataError(f"{file}: categories must have an id (a number) and a name") from error
    entries = (one for one in content["annotations"] if isinstance(one, dict))
    used = [one.get("category_id") for one in entries]
    headings = {
        number
        for number, name, above in found
        if above == "none"
        and any(other[2] == name for other in found if other[0] != number)
        and number not in used
    }
    kept = [(number, name) for number, name, _ in found if number not in headings]
    if len({number for number, _ in kept}) < len(kept):
        raise DataError(f"{file}: two categories have the same id")
    return {number: i for i, (number, _) in enumerate(kept, 1)}, [name for _, name in kept]


def _images(
    root: Path, file: Path, content: Mapping[str, list[Any]], folders: Sequence[Path]
) -> tuple[dict[Any, Sample], dict[str, tuple[int, int]], list[Problem]]:
    """Samples by image id, sizes by sample name, and images that are not there."""
    samples, sizes, problems = {}, {}, []
    for i, entry in enumerate(content["images"]):
        try:
            number, listed = entry["id"], entry["file_name"].replace("\\", "/")
            size = int(entry["height"]), int(entry["width"])
            if not 1 <= min(size) <= max(size) <= MAX_SIDE:
                raise ValueError(size)
            is_known = number in samples
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise DataError(
                f"{file}: images[{i}] must have id, file_name, height and width, up to {MAX_SIDE}"
            ) from error
        if is_known:
            raise DataError(f"{file}: images[{i}] has the id {number!r} of another image")
        image = _find_image((*folders, root), listed)
        if image is None:
            where = f"listed in {file.name}, but not there"
            expected = (folders or [root])[0] / listed.lstrip("/")
            problems.append(Problem("missing image", expected, where))
            continue
        name = image.relative_to(root).as_posix()
        if name in sizes:
            problems.append(Problem("duplicate", image, f"listed twice in {file.name}; remove one"))
            continue
        sizes[name] = size
        samples[number] = Sample(image, file, name)
    return samples, sizes, problems


def _find_image(folders: Sequence[Path], listed: str) -> Path | None:
    """Where an image lies; of a path of another machine the end counts."""
    is_absolute = listed.startswith("/") or listed[1:3] == ":/"
    # A file system may take an accent apart from its letter, or put them together.
    forms = dict.fromkeys([listed, *(unicodedata.normalize(form, listed) for form in FORMS)])
    for folder in folders:
        for name in forms:
            file = locate(folder, name) if is_absolute else folder / name
            if file.is_file():
                return file
    return None


def _annotations(
    file: Path,
    content: Mapping[str, list[Any]],
    values: Mapping[int, int],
    names: Mapping[Any, str],
) -> tuple[dict[str, list[Annotation]], list[Problem]]:
    """Annotations by sample name, and a problem for each of an unknown image."""
    listed = {entry["id"] for entry in content["images"]}
    by_name: dict[str, list[Annotation]] = {}
    problems = []
    for i, entry in enumerate(content["annotations"]):
        try:
            image, category = entry["image_id"], entry["category_id"]
            number = entry.get("id", i)
            if image in names and category in values:
                annotation = _annotation(number, values[category], entry.get("segmentation"))
                by_name.setdefault(names[image], []).append(annotation)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise DataError(
                f"{file}: annotations[{i}] must have image_id, category_id and, as segmentation, "
                "lists of numbers or RLE"
            ) from error
        if category not in values:
            raise DataError(
                f"{file}: annotation {number} has category {category!r}, which is no class there; "
                "add it to categories"
            )
        if image not in listed:
            detail = f"annotation {number} belongs to image {image!r}, which is not listed"
            problems.append(Problem("missing image", file, detail))
    return by_name, problems


def _annotation(number: object, value: int, segmentation: Any) -> Annotation:
    """Take an annotation's shape apart; whether it can be drawn shows when it is."""
    if isinstance(segmentation, dict):
        counts = segmentation["counts"]
        height, width = segmentation["size"]
        if not isinstance(counts, str):
            counts = tuple(int(count) for count in counts)
        return Annotation(number, value, counts=counts, size=(int(height), int(width)))
    polygons = tuple(np.asarray(part, np.float64) for part in segmentation or ())
    return Annotation(number, value, polygons)
