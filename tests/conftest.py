"""Fixtures that every test may use: fixed seeds, no network, data sets and small networks."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"

import gc
import random
from collections.abc import Callable, Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from PIL import Image

from tsic.data.class_file import write_classes
from tsic.data.classes import ClassTable

if TYPE_CHECKING:
    from tsic.cycle import Cycle

CAMVID = Path(__file__).parents[2] / "shared" / "data" / "camvid"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out what needs a GPU where there is none."""
    skip = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(skip)


def pytest_collection_finish() -> None:
    """Collect garbage seldom, and never among what imports made: it took a third of exports."""
    gc.set_threshold(10_000, 20, 20)
    gc.collect()
    gc.freeze()


def pytest_sessionfinish() -> None:
    """Else libraries report as leaked what stays."""
    gc.unfreeze()


@pytest.fixture(autouse=True)
def _fixed_seed() -> None:
    """Start every test from the same random state."""
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - libraries still draw from the legacy state


@pytest.fixture(scope="session")
def camvid_root() -> Path:
    """Root of the real CamVid, where it lies beside the repository."""
    if not CAMVID.is_dir():
        pytest.skip("CamVid is not at ../shared/data/camvid")
    return CAMVID


@pytest.fixture
def fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """An empty hub cache: given a repository, the folder in it where its files lie once fetched."""
    cache = tmp_path / "hub"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))

    def files_of(repository: str) -> Path:
        folder = cache / f"models--{repository.replace('/', '--')}"
        files = folder / "snapshots" / ("0" * 40)
        for one in (files, folder / "refs"):
            one.mkdir(parents=True)
        (folder / "refs" / "main").write_text(files.name)
        return files

    return files_of


@pytest.fixture
def folder_dataset(tmp_path: Path) -> Path:
    """Root of a plain folder: 6 train and 3 val images, 64x96, with a square and a disc each.

    Classes 0 ground, 1 square, 2 disc; the first row of every mask is 255.
    """
    root = tmp_path / "shapes"
    dice = np.random.default_rng(7)
    for split, count in (("train", 6), ("val", 3)):
        for kind in ("images", "masks"):
            (root / split / kind).mkdir(parents=True)
        for i in range(count):
            image, mask = _draw_shapes(dice)
            Image.fromarray(image).save(root / split / "images" / f"{i:03}.png")
            Image.fromarray(mask).save(root / split / "masks" / f"{i:03}.png")
    write_classes(root / "classes.yaml", ClassTable.from_names(("ground", "square", "disc")))
    return root


def _draw_shapes(dice: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Image uint8 (64, 96, 3) and mask uint8 (64, 96) of one square and one disc."""
    rows, columns = np.mgrid[:64, :96]
    mask = np.zeros((64, 96), np.uint8)
    top, left = dice.integers(4, 36), dice.integers(4, 20)
    mask[top : top + 24, left : left + 24] = 1
    row, column = dice.integers(16, 48), dice.integers(62, 80)
    mask[(rows - row) ** 2 + (columns - column) ** 2 <= 144] = 2
    colours = np.array([[90, 120, 90], [200, 60, 50], [50, 80, 210]])
    image = colours[mask] + dice.normal(0, 12, (64, 96, 3))
    mask[0] = 255
    return image.clip(0, 255).astype(np.uint8), mask


@pytest.fixture(scope="session")
def segformer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small SegFormer of 3 classes as transformers stores it."""
    from transformers import SegformerConfig, SegformerForSemanticSegmentation
    from transformers.utils import logging

    config = SegformerConfig(
        num_labels=3,
        hidden_sizes=[8, 16, 24, 32],
        depths=[1, 1, 1, 1],
        num_attention_heads=[1, 1, 1, 1],
        decoder_hidden_size=16,
    )
    folder = tmp_path_factory.mktemp("segformer")
    logging.disable_progress_bar()
    torch.manual_seed(1)
    SegformerForSemanticSegmentation(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def onnx_operators() -> Iterator[None]:
    """Operators of ONNX, read once: each export parses all their sources for half a second."""
    library = import_module("torch.onnx._internal._lazy_import").onnxscript_apis
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(library, "get_torchlib_ops", cache(library.get_torchlib_ops))
        yield


@pytest.fixture
def tiny_cycle() -> "Cycle":
    """Smallest cycle of 3 classes: a short compact student and `tiny-sam`, the default recipe."""
    # Imported here, so that tests of data and pictures need not wait for transformers.
    from tsic.cycle import Cycle
    from tsic.student import build_student
    from tsic.teacher import build_teacher

    options = {"width": 0.25, "dilations": [1, 2]}
    student = build_student("compact", num_classes=3, options=options)
    return Cycle(student, build_teacher("tiny-sam", num_classes=3, channels=16))
