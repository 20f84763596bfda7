"""Polygons in the text files of Ultralytics YOLO, drawn to masks.

Source: "Instance Segmentation Datasets", https://docs.ultralytics.com/datasets/segment/.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from typing_extensions import override

from tsic.data.class_file import read_classes
from tsic.data.classes import ClassTable
from tsic.data.dataset import Problem, Sample, SegmentationDataset, Store, Values
from tsic.data.images import read_size
from tsic.data.readers.pairs import files_by_stem, locate
from tsic.data.readers.polygons import (
    Points,
    check_polygon,
    fill_polygon,
    polygon_area,
    table_with_background,
)
from tsic.data.surprises import Surprise
from tsic.errors import DataError, SplitError, no_split, one_line
from tsic.files import read_text
from tsic.yaml_text import load_yaml

SPLITS = ("train", "val", "test")
"""Keys of ``data.yaml`` that name splits."""

TOLERANCE = 1e-3
"""How far a coordinate may lie outside ``[0, 1]``; exporters round."""


@dataclass(frozen=True)
class YoloStore(Store):
    """Draws the polygons of a label file.

    Args:
        ids: Mask ids that the class table knows.
    """

    ids: frozenset[int]

    @override
    def surprises(self, sample: Sample) -> Iterator[Surprise]:
        yield from super().surprises(sample)
        if not sample.mask.exists():
            yield "no label file", f"has no label file {sample.mask}; all of it is background"

    @override
    def mask(self, sample: Sample) -> Values:
        """Draw the mask: ids ``(H, W)``, smaller objects on top of larger ones."""
        height, width = read_size(sample.image)
        shapes = list(self._shapes(sample.mask, height, width))
        mask = np.zeros((height, width), np.uint16)
        for value, points in sorted(shapes, key=lambda shape: -polygon_area(shape[1])):
            fill_polygon(mask, points, value)
        return mask

    def _shapes(self, file: Path, height: int, width: int) -> Iterator[tuple[int, Points]]:
        """Id and corners in pixels of each line; none where there is no file."""
        lines = read_text(file, "label").splitlines() if file.exists() else []
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                value, points = _parse_line(line)
                if value not in self.ids:
                    raise DataError(
                        f"class {value - 1}, id {value} in masks, is not in the class table; "
                        "add it there or correct the line"
                    )
            except DataError as error:
                raise DataError(f"{file}: line {number}: {error}") from None
            yield value, points * (width, height)


def _parse_line(line: str) -> tuple[int, Points]:
    """Mask id and corners, in parts of the image's width and height, of one line."""
    try:
        first, *rest = (float(field) for field in line.split())
    except ValueError:
        raise DataError("holds something other than numbers") from None
    if not first.is_integer() or first < 0:
        raise DataError(f"class must be 0, 1, 2, ..., got {line.split()[0]}")
    if len(rest) == 4:
        raise DataError("is the box of a detection; segmentation needs a polygon")
    coordinates = np.array(rest)
    check_polygon(coordinates)
    outside = coordinates[(coordinates < -TOLERANCE) | (coordinates > 1 + TOLERANCE)]
    if outside.size:
        raise DataError(f"coordinate {outside[0]:g} is not in [0, 1], parts of width and height")
    return int(first) + 1, coordinates.reshape(-1, 2)


def open_yolo(root: Path, split: str, classes: ClassTable | None = None) -> SegmentationDataset:
    """Open polygons in the text files of Ultralytics YOLO as a dataset of classes.

    With ``data.yaml`` in the root, its keys ``train``, ``val`` and ``test`` name folders of images
    or list files, or lists of them, relative to its ``path``, which is relative to the file. A
    path that is not there, such as one of another machine, is looked for beside ``data.yaml``
    with as little of its front dropped as needed. Without ``data.yaml`` the images lie in
    ``images/<split>`` and the class table in ``classes.yaml``, ``background`` first.

    The labels of ``.../images/.../a.jpg`` lie in ``.../labels/.../a.txt``; a line is
    ``class x1 y1 x2 y2 ...`` in parts of the image's width and height. An image with an empty
    label file or with none is background only, as Ultralytics has it. YOLO's class k is k + 1
    here, since 0 is ``background``; a class table of one's own refers to these numbers. Where
    objects overlap, the smaller lies on top.

    Args:
        root: The dataset's folder.
        split: Name of the split.
        classes: Another class table than ``data.yaml``'s names.

    Returns:
        The dataset; label files without an image are left out.

    Raises:
        DataError: If the split is not there or has no label file at all.
        ConfigError: If the names make no class table.
    """
    file = root / "data.yaml"
    if file.is_file():
        settings = _read_settings(file)
        sources = _sources(file, settings, split)
        classes = classes or table_with_background(_names(file, settings), file)
    else:
        sources = [_inner_folder(root, split)]
        classes = classes or read_classes(root / "classes.yaml")
    images, problems = _images(root, sources)
    samples = [Sample(image, _label(image), _name(image, root)) for image in images]
    if samples and not any(sample.mask.is_file() for sample in samples):
        raise DataError(
            f"{root}: split '{split}' has no label file, not even {samples[0].mask}; labels of "
            "images/... must lie in labels/..."
        )
    return SegmentationDataset(
        "yolo",
        root,
        split,
        classes,
        tuple(sorted(samples, key=lambda sample: sample.name)),
        tuple(problems),
        YoloStore(frozenset(classes.label_map)),
    )


def _read_settings(file: Path) -> dict[str, Any]:
    """Content of ``data.yaml``."""
    try:
        settings = load_yaml(read_text(file))
    except yaml.YAMLError as error:
        raise DataError(f"{file}: not valid YAML: {one_line(error)}") from error
    if not isinstance(settings, dict):
        raise DataError(f"{file}: must hold the keys train, val and names")
    return settings


def _names(file: Path, settings: Mapping[str, Any]) -> list[str]:
    """Class names in the order of YOLO's numbers."""
    names = settings.get("names")
    if isinstance(names, dict):
        if set(names) != set(range(len(names))):
            raise DataError(f"{file}: names must be numbered 0 to {len(names) - 1} without a gap")
        names = [names[number] for number in range(len(names))]
    if not isinstance(names, list) or not names:
        raise DataError(f"{file}: key names must hold the class names, got {names!r}")
    for number, name in enumerate(names):
        if not isinstance(name, str) or not name.strip():
            raise DataError(
                f"{file}: names[{number}] must be a name, got {name!r}; put it in quotes"
            )
    return names


def _sources(file: Path, settings: Mapping[str, Any], split: str) -> list[Path]:
    """Folders of images and list files of a split, as far as they can be found."""
    splits = {key for key in SPLITS if settings.get(key)}
    if split not in splits:
        raise no_split(file, split, splits)
    missing = SplitError if split == "test" else DataError  # Roboflow names one that it lacks
    sources = []
    for as_written, source in _found(file, settings, split):
        if not source.exists():
            paths = " and ".join(dict.fromkeys(map(str, (as_written, source))))
            raise missing(f"{file}: {split}: {paths} not there; correct the path")
        others = [path for key in splits - {split} for _, path in _found(file, settings, key)]
        if source != as_written and any(path.is_relative_to(source) for path in others):
            raise missing(
                f"{file}: {split}: {as_written} is not there, and {source} holds another split as "
                "well; correct the path"
            )
        sources.append(source)
    return sources


def _found(file: Path, settings: Mapping[str, Any], split: str) -> list[tuple[Path, Path]]:
    """Each path of a split as it is written, and where it is."""
    value = settings[split]
    paths = []
    for one in value if isinstance(value, list) else [value]:
        listed = str(one).replace("\\", "/")
        as_written = file.parent / str(settings.get("path") or "") / listed
        is_there = as_written.exists()
        paths.append((as_written, as_written if is_there else locate(file.parent, listed)))
    return paths


def _inner_folder(root: Path, split: str) -> Path:
    """Folder ``images/<split>`` of a root without ``data.yaml``."""
    splits = {path.name for path in root.glob("images/[!.]*") if path.is_dir()}
    if not splits:
        raise DataError(f"{root}: expected data.yaml, or images/{split} and labels/{split}")
    if split not in splits:
        raise no_split(root, split, splits)
    return root / "images" / split


def _images(root: Path, sources: list[Path]) -> tuple[list[Path], list[Problem]]:
    """Images of a split, each once, and files without a partner."""
    images: list[Path] = []
    problems: list[Problem] = []
    for source in sources:
        if source.is_dir():
            files, more = files_by_stem(source)
            found = list(files.values())
            more += _lonely_labels(source, found)
        else:
            found, more = _listed_images(root, source)
            for folder in _outermost({image.parent for image in found}):
                more += _lonely_labels(folder, list(files_by_stem(folder)[0].values()))
        images += found
        problems += more
    return list(dict.fromkeys(images)), problems


def _outermost(folders: set[Path]) -> list[Path]:
    """Folders that lie in no other of them, and whose labels lie elsewhere."""
    outer = sorted(one for one in folders if not folders.intersection(one.parents))
    return [one for one in outer if _label(one / "any.png").parent != one]


def _listed_images(root: Path, list_file: Path) -> tuple[list[Path], list[Problem]]:
    """Images that a list file names by their paths relative to itself or to the root."""
    lines = read_text(list_file, "list").splitlines()
    images, problems = [], []
    for number, line in enumerate(lines, start=1):
        listed = line.strip().replace("\\", "/")
        if not listed:
            continue
        folder = list_file.parent
        candidates = [folder / listed, locate(folder, listed), locate(root, listed)]
        image = next((path for path in candidates if path.is_file()), None)
        if image is None:
            where = f"listed in {list_file.name}, line {number}, but not there"
            problems.append(Problem("missing image", candidates[0], where))
        else:
            images.append(image)
    return images, problems


def _lonely_labels(folder: Path, images: list[Path]) -> list[Problem]:
    """Label files of a folder of images that belong to none of them."""
    labels = _label(folder / "any.png").parent
    expected = {_label(image) for image in images}
    return [
        Problem("missing image", file, f"no image of this name in {folder}")
        for file in sorted(labels.rglob("[!.]*"))
        if file.suffix.lower() == ".txt" and file not in expected and file.name != "classes.txt"
    ]


def _label(image: Path) -> Path:
    """Label file of an image: the last folder ``images`` becomes ``labels``."""
    *folders, _ = image.parts
    if "images" in folders:
        last = len(folders) - 1 - folders[::-1].index("images")
        folders[last] = "labels"
    return Path(*folders, f"{image.stem}.txt")


def _name(image: Path, root: Path) -> str:
    """The image's path relative to the root, where it lies in it."""
    return (image.relative_to(root) if image.is_relative_to(root) else image).as_posix()
