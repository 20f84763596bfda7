"""Where pretraining's images come from."""

import multiprocessing
import os
import signal
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from tsic.data.sampling import position_seed
from tsic.data.scenes import scene_seed
from tsic.errors import ConfigError, DataError
from tsic.pretrain import sources
from tsic.pretrain.data import PretrainData, PromptedImages, collate
from tsic.pretrain.leaves import draw_leaves
from tsic.pretrain.prompts import PromptedSample
from tsic.pretrain.region_cache import RegionCache, propose_all
from tsic.pretrain.regions import Regions
from tsic.pretrain.sources import Source, find_images, random_crop, streets


@pytest.mark.parametrize("size", [(40, 60), (200, 300), (31, 500)])
def test_crop_keeps_image_and_map_aligned(size: tuple[int, int]) -> None:
    """Drawn so that the map can be told from the image, in any light."""
    rng = np.random.default_rng(0)
    ids = np.zeros(size, np.int32)
    ids[:, size[1] // 3 :] = 1
    ids[size[0] // 2 :] = 2
    image = np.array([[250, 5, 5], [5, 250, 5], [5, 5, 250]], np.uint8)[ids]
    flips = set()
    for _ in range(30):
        picture, cut = random_crop(rng, image, ids, (64, 96), (0.5, 2.0))
        assert picture.shape == (64, 96, 3)
        assert cut.shape == (64, 96)
        if len(np.unique(cut)) < 3:
            continue
        flips.add(bool(cut[0, 0] > cut[0, -1]))
        means = np.stack([picture[cut == i].mean(0) for i in range(3)])
        nearest = np.abs(picture[:, :, None].astype(float) - means).sum(-1).argmin(-1)
        assert (nearest == cut).mean() > 0.95
    assert flips == {True, False}


def test_crop_takes_the_pixel_nearest_to_each_cell_s_centre() -> None:
    """Of a window of the whole map, 9x6 to 3x2: the middle of each three."""
    ids = np.arange(54, dtype=np.int32).reshape(9, 6)
    _, cut = random_crop(
        np.random.default_rng(0), np.zeros((9, 6, 3), np.uint8), ids, (3, 2), (0.01, 0.01)
    )
    assert np.sort(cut, axis=1).tolist() == [[7, 10], [25, 28], [43, 46]]


def test_crop_enlarged_by_more_than_its_side_shows_one_pixel() -> None:
    ids = np.arange(60, dtype=np.int32).reshape(6, 10)
    picture, cut = random_crop(
        np.random.default_rng(0), np.zeros((6, 10, 3), np.uint8), ids, (32, 64), (90, 90)
    )
    assert picture.shape == (32, 64, 3)
    assert cut.shape == (32, 64)
    assert len(np.unique(cut)) == 1


def test_crop_s_ratios_lie_evenly_on_a_logarithmic_scale() -> None:
    """Half of them from 1/4 to 1, half from 1 to 4: as often larger as smaller."""
    ids = np.arange(400)[None].repeat(400, 0)
    image = np.zeros((400, 400, 3), np.uint8)
    widths = [
        int(np.ptp(random_crop(np.random.default_rng(i), image, ids, (8, 64), (0.25, 4))[1]))
        for i in range(100)
    ]
    assert 40 <= sum(width < 64 for width in widths) <= 60


def test_streets_are_none_of_the_demo_s(monkeypatch: pytest.MonkeyPatch) -> None:
    seeds = []

    def note(seed: int, height: int, width: int, difficulty: float) -> tuple[np.ndarray, ...]:
        seeds.append(seed)
        return np.zeros((height, width, 3), np.uint8), np.zeros((height, width), np.uint8)

    monkeypatch.setattr(sources, "draw_scene", note)
    for i in range(50):
        streets(np.random.default_rng(i), 32, 32)
    assert min(seeds) > scene_seed(2**32, "val", 2**24 - 1)
    assert len(set(seeds)) == 50


def test_find_images_looks_into_subfolders_and_refuses_what_holds_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere' is not a folder"):
        find_images(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="holds 0 images"):
        find_images(tmp_path)
    for name in ("b.png", "sub/a.JPG", "notes.txt", "._b.png", ".thumbs/b.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "folder.png").mkdir()
    assert [path.name for path in find_images(tmp_path)] == ["b.png", "a.JPG"]


def prompted(seed: int = 0, purpose: str = "train") -> PromptedImages:
    sizes = [(32, 32), (32, 64), (64, 32)]
    mix = [(draw_leaves, 0.5), (streets, 0.5)]
    return PromptedImages(mix, seed, purpose, sizes=sizes, per_step=3, prompts=2)


def test_a_position_decides_its_sample_and_seed_and_purpose_change_it() -> None:
    def image(images: PromptedImages, position: int) -> torch.Tensor:
        sample = images[position, 0]
        assert isinstance(sample, PromptedSample)
        return sample.image

    assert torch.equal(image(prompted(), 7), image(prompted(), 7))
    others = [image(prompted(), 8), image(prompted(1), 7), image(prompted(0, "val"), 7)]
    for other in others:
        assert other.shape != image(prompted(), 7).shape or not torch.equal(
            other, image(prompted(), 7)
        )


def test_a_step_s_images_have_one_size_and_steps_differ() -> None:
    sizes = []
    for step in range(6):
        batch = collate([prompted()[step * 3 + i, 0] for i in range(3)])
        assert not isinstance(batch, DataError)
        sizes.append(tuple(batch["images"].shape[2:]))
    assert len(set(sizes)) > 1
    assert position_seed(0, 0, "size") != position_seed(0, 1, "size")


def test_sources_are_drawn_by_their_shares() -> None:
    drawn = []

    def source(name: str) -> Source:
        def draw(rng: np.random.Generator, height: int, width: int) -> Regions:
            drawn.append(name)
            raise DataError("only counted")

        return draw

    mix = [(source("a"), 3.0), (source("b"), 1.0)]
    images = PromptedImages(mix, 0, "train", sizes=[(32, 32)], per_step=1, prompts=1)
    for position in range(400):
        images[position, 0]
    assert 270 <= drawn.count("a") <= 330


def test_held_out_images_are_shared_out_to_ranks() -> None:
    images = prompted(purpose="val")
    options = {"batch_size": 2, "val_images": 5, "workers": 0, "accumulate": 1}
    data = PretrainData(prompted(), {"drawn": images}, **options)
    seen = []
    for rank in (0, 1):
        data.trainer = SimpleNamespace(
            global_rank=rank,
            world_size=2,
            strategy=SimpleNamespace(root_device=torch.device("cpu")),
        )
        (loader,) = data.val_dataloader()
        seen.append([place for place, _ in loader.sampler])
    assert seen == [[0, 2, 4], [1, 3]]


def test_a_broken_file_is_handed_on() -> None:
    def broken(rng: np.random.Generator, height: int, width: int) -> Regions:
        raise DataError("x.png: cannot be decoded")

    images = PromptedImages([(broken, 1.0)], 0, "train", sizes=[(32, 32)], per_step=1, prompts=1)
    found = collate([images[0, 0]])
    assert isinstance(found, DataError)
    assert "x.png" in str(found)


def test_workers_outlive_the_signals_that_a_stopping_step_outlives() -> None:
    options = {"batch_size": 3, "val_images": 1, "workers": 1, "accumulate": 1}
    before = set(multiprocessing.active_children())
    batches = iter(PretrainData(prompted(), {}, **options).train_dataloader())
    next(batches)
    (worker,) = set(multiprocessing.active_children()) - before
    assert worker.pid is not None
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(worker.pid, number)
    sizes = [len(next(batches)["images"]) for _ in range(4)]  # more than are loaded ahead
    assert sizes == [3] * 4
    assert worker.is_alive()


def test_unlabelled_image_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no image")
    Image.new("RGB", (40, 40)).save(tmp_path / "b.png")
    with pytest.raises(DataError, match=r"a\.png"):
        propose_all(find_images(tmp_path), RegionCache(tmp_path / "regions"), lambda *_: None)
