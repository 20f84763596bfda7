"""Writes drawn scenes as a plain folder of images and masks."""

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tsic.data.class_file import write_classes
from tsic.data.scenes.compose import SCENES_VERSION, draw_scene
from tsic.data.scenes.surfaces import SCENE_CLASSES
from tsic.errors import DataError
from tsic.files import replacing, write_text

_SPLITS = ("train", "val")
_SPLIT_BITS = 24
"""Scenes per split are numbered in this many bits, so that no two splits share a seed."""


def scene_seed(seed: int, split: str, index: int) -> int:
    """Give the seed of one scene of a data set; no other split, index or data set has it.

    Args:
        seed: Seed of the data set, at least 0.
        split: ``train`` or ``val``.
        index: Number of the scene within its split, less than 2**24.

    Returns:
        Seed for `draw_scene`.

    Raises:
        ValueError: If an argument is out of its range.
    """
    if split not in _SPLITS:
        raise ValueError(f"split must be 'train' or 'val', got '{split}'")
    if seed < 0 or not 0 <= index < 2**_SPLIT_BITS:
        raise ValueError(
            f"seed must be at least 0 and index in [0, 2**{_SPLIT_BITS}), "
            f"got seed {seed} and index {index}"
        )
    return ((seed * len(_SPLITS) + _SPLITS.index(split)) << _SPLIT_BITS) | index


def write_scenes(
    root: Path,
    *,
    train: int,
    val: int,
    height: int,
    width: int,
    seed: int,
    difficulty: float = 0.5,
) -> None:
    """Write a data set of drawn scenes in the layout of the ``folder`` reader.

    Makes ``<split>/images/0000.png``, ``<split>/masks/0000.png`` for the splits ``train`` and
    ``val``, ``classes.yaml``, and ``scenes.json`` with the arguments. Each file appears whole or
    not at all. Called again with the same arguments it draws only what is missing.

    Args:
        root: Folder of the data set; new, empty, or written by an earlier call.
        train: Number of scenes to train on.
        val: Number of scenes to evaluate on; none of them is among the former.
        height: Rows of each picture.
        width: Columns of each picture.
        seed: Seed of the data set.
        difficulty: As in `draw_scene`.

    Raises:
        DataError: If the folder holds something else, or scenes of other arguments.
        ValueError: If an argument is out of its range.
    """
    settings = {
        "version": SCENES_VERSION,
        "train": train,
        "val": val,
        "height": height,
        "width": width,
        "seed": seed,
        "difficulty": difficulty,
    }
    _claim(root, settings)
    for split, count in (("train", train), ("val", val)):
        images, masks = root / split / "images", root / split / "masks"
        images.mkdir(parents=True, exist_ok=True)
        masks.mkdir(parents=True, exist_ok=True)
        for index in range(count):
            image_file, mask_file = images / f"{index:04d}.png", masks / f"{index:04d}.png"
            if not (image_file.exists() and mask_file.exists()):
                scene = scene_seed(seed, split, index)
                image, label = draw_scene(scene, height, width, difficulty)
                _write_png(image_file, image)
                _write_png(mask_file, label)
    if not _read_settings(root).get("complete"):
        _write_settings(root, {**settings, "complete": True})


def _claim(root: Path, settings: dict[str, int | float]) -> None:
    """Check that a folder may be written to, and note in it what it will hold."""
    if (root / "scenes.json").exists():
        held = _read_settings(root)
        differing = sorted(key for key in settings if held.get(key) != settings[key])
        if differing:
            raise DataError(
                f"{root} holds scenes drawn with another {', '.join(differing)}; "
                "choose another folder or delete it"
            )
    elif root.exists() and any(root.iterdir()):
        raise DataError(f"{root} is not empty and holds no drawn scenes; choose another folder")
    else:
        root.mkdir(parents=True, exist_ok=True)
        _write_settings(root, {**settings, "complete": False})
    classes = root / "classes.yaml"
    if not classes.exists():
        write_classes(classes, SCENE_CLASSES)


def _read_settings(root: Path) -> dict[str, object]:
    """Read the record of a data set."""
    record = root / "scenes.json"
    try:
        found = json.loads(record.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{record} cannot be read; delete the folder {root}") from error
    if not isinstance(found, dict):
        raise DataError(f"{record} holds no settings; delete the folder {root}")
    return found


def _write_settings(root: Path, settings: dict[str, int | float]) -> None:
    write_text(root / "scenes.json", json.dumps(settings, indent=2) + "\n")


def _write_png(path: Path, pixels: NDArray[np.uint8]) -> None:
    with replacing(path) as part:
        Image.fromarray(pixels).save(part, format="PNG", compress_level=3)
