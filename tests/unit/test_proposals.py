import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from skimage.measure import label

from tsic.errors import DataError
from tsic.pretrain import region_cache
from tsic.pretrain.proposals import MIN_PIXELS, propose_regions
from tsic.pretrain.region_cache import RegionCache, propose_all

Pixels = npt.NDArray[np.uint8]

LEFT = np.s_[20:70, 10:60]
RIGHT = np.s_[60:110, 90:150]


def rectangles(ground: int = 90, left: int = 30, right: int = 200) -> Pixels:
    """Two rectangles of 2500 and 3000 pixels on a ground of 71 %, grey ``(120, 160, 3)``."""
    image = np.full((120, 160, 3), ground, np.uint8)
    image[LEFT], image[RIGHT] = left, right
    return image


def expected() -> npt.NDArray[np.uint16]:
    regions = np.zeros((120, 160), np.uint16)
    regions[LEFT], regions[RIGHT] = 2, 1
    return regions


def scene() -> Pixels:
    """Fading sky, ground and three blobs under noise, RGB ``(150, 200, 3)``."""
    dice = np.random.default_rng(1)
    image = np.zeros((150, 200, 3))
    image[:70] = np.linspace(150, 220, 70)[:, None, None] * (0.8, 0.9, 1)
    image[70:] = (90, 80, 60)
    for top, left in ((30, 30), (80, 100), (100, 20)):
        image[top : top + 40, left : left + 50] = dice.integers(0, 255, 3)
    return np.clip(image + dice.normal(0, 4, image.shape), 0, 255).astype(np.uint8)


def iou(one: npt.NDArray[np.bool_], other: npt.NDArray[np.bool_]) -> float:
    return float((one & other).sum() / (one | other).sum())


class TestProposeRegions:
    def test_finds_flat_rectangles_exactly_but_not_the_large_ground(self) -> None:
        regions = propose_regions(rectangles())
        assert regions.dtype == np.uint16
        np.testing.assert_array_equal(regions, expected())

    def test_finds_coloured_rectangles_of_one_lightness(self) -> None:
        image = rectangles()
        image[LEFT], image[RIGHT], image[image == 90] = (200, 30, 30), (30, 30, 200), 70
        np.testing.assert_array_equal(propose_regions(image), expected())

    def test_low_contrast_grey_under_noise(self) -> None:
        noise = np.random.default_rng(2).normal(0, 0.5, (120, 160, 1))
        image = np.rint(rectangles(100, 94, 107) + noise).astype(np.uint8)
        regions = propose_regions(image)
        for box in (LEFT, RIGHT):
            truth = np.zeros((120, 160), bool)
            truth[box] = True
            number = np.bincount(regions[box].ravel()).argmax()
            assert number > 0
            assert iou(regions == number, truth) > 0.95

    def test_fading_light_does_not_split_a_surface(self) -> None:
        image = np.zeros((150, 200, 3), np.uint8)
        image[:90] = np.linspace(150, 220, 90)[:, None, None]
        image[90:] = 40
        regions = propose_regions(image)
        assert regions.max() == 2
        assert (regions[:90] == 1).mean() > 0.99

    @pytest.mark.parametrize("deviation", [3, 40])
    def test_noise_has_hardly_a_region(self, deviation: int) -> None:
        noise = np.random.default_rng(3).normal(128, deviation, (120, 160, 3))
        regions = propose_regions(np.clip(noise, 0, 255).astype(np.uint8))
        assert (regions > 0).mean() < 0.05

    @pytest.mark.parametrize("size", [(1, 1), (1, 60), (20, 20), (3, 900)])
    def test_flat_image_of_any_size_has_none(self, size: tuple[int, int]) -> None:
        regions = propose_regions(np.full((*size, 3), 77, np.uint8))
        assert regions.shape == size
        assert not regions.any()

    def test_regions_are_connected_and_numbered_by_area(self) -> None:
        regions = propose_regions(scene())
        count = int(regions.max())
        assert count >= 4
        assert label(regions, background=0, connectivity=1).max() == count
        areas = np.bincount(regions.ravel())[1:]
        assert (np.diff(areas) <= 0).all()
        assert areas.min() >= MIN_PIXELS

    def test_is_deterministic_and_leaves_the_image_alone(self) -> None:
        image = scene()
        first = propose_regions(image)
        np.testing.assert_array_equal(propose_regions(image), first)
        np.testing.assert_array_equal(image, scene())

    def test_large_image_has_the_regions_of_its_copy(self) -> None:
        large = rectangles().repeat(3, axis=0).repeat(3, axis=1)
        regions = propose_regions(large)
        assert regions.shape == (360, 480)
        truth = expected().repeat(3, axis=0).repeat(3, axis=1)
        for number in (1, 2):
            assert iou(regions == number, truth == number) > 0.97


class Reader:
    """Reads an image file and counts how often."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.reads = 0

    def __call__(self) -> Pixels:
        self.reads += 1
        return np.asarray(Image.open(self.path))


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    Image.fromarray(rectangles()).save(path)
    return path


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:60])


def empty(path: Path) -> None:
    path.write_bytes(b"")


class TestRegionCache:
    def test_second_time_does_not_read_the_image(self, tmp_path: Path, photo: Path) -> None:
        read = Reader(photo)
        folder = tmp_path / "new" / "cache"
        first = RegionCache(folder).regions(photo, read)
        again = RegionCache(folder).regions(photo, read)
        assert read.reads == 1
        assert again.dtype == first.dtype == np.uint16
        np.testing.assert_array_equal(again, expected())
        assert [path.suffix for path in folder.iterdir()] == [".png"]

    def test_keeps_numbers_above_255(
        self, tmp_path: Path, photo: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        many = np.arange(600, dtype=np.uint16).reshape(20, 30)
        monkeypatch.setattr(region_cache, "propose_regions", lambda image: many)
        cache = RegionCache(tmp_path / "cache")
        cache.regions(photo, Reader(photo))
        np.testing.assert_array_equal(cache.regions(photo, Reader(photo)), many)

    def test_changed_image_is_another(self, tmp_path: Path, photo: Path) -> None:
        read = Reader(photo)
        cache = RegionCache(tmp_path / "cache")
        cache.regions(photo, read)
        Image.fromarray(np.full((120, 160, 3), 9, np.uint8)).save(photo)
        assert not cache.regions(photo, read).any()
        assert read.reads == 2

    def test_touched_image_and_new_version_are_others(
        self, tmp_path: Path, photo: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        cache = RegionCache(tmp_path / "cache")
        names = {cache.file(photo)}
        os.utime(photo, ns=(1, 1))
        names.add(cache.file(photo))
        monkeypatch.setattr(region_cache, "PROPOSALS_VERSION", -1)
        names.add(cache.file(photo))
        assert len(names) == 3

    @pytest.mark.parametrize("damage", [truncate, empty])
    def test_damaged_file_is_computed_again(
        self, tmp_path: Path, photo: Path, damage: Callable[[Path], None]
    ) -> None:
        read = Reader(photo)
        cache = RegionCache(tmp_path / "cache")
        cache.regions(photo, read)
        damage(cache.file(photo))
        for _ in range(2):
            np.testing.assert_array_equal(cache.regions(photo, read), expected())
        assert read.reads == 2

    def test_missing_image_is_named(self, tmp_path: Path) -> None:
        path = tmp_path / "gone.png"
        with pytest.raises(DataError, match=r"gone\.png: cannot be read: No such file"):
            RegionCache(tmp_path / "cache").regions(path, Reader(path))


class TestProposeAll:
    def test_fills_what_is_missing_and_names_what_cannot_be_read(
        self, tmp_path: Path, photo: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(
            region_cache, "usable_cores", lambda: 1
        )  # each process imports torch, for seconds
        other, broken = tmp_path / "other.png", tmp_path / "broken.jpg"
        Image.fromarray(scene()).save(other)
        cache = RegionCache(tmp_path / "cache")
        cache.regions(photo, Reader(photo))
        broken.write_bytes(b"no picture")
        told: list[tuple[int, int]] = []
        with pytest.raises(DataError, match=r"broken\.jpg: cannot be decoded"):
            propose_all(
                [photo, other, photo, broken], cache, lambda done, total: told.append((done, total))
            )
        assert told == [(2, 3)]
        read = Reader(other)
        np.testing.assert_array_equal(cache.regions(other, read), propose_regions(scene()))
        assert read.reads == 0

    def test_full_cache_starts_no_process(
        self, tmp_path: Path, photo: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        cache = RegionCache(tmp_path / "cache")
        cache.regions(photo, Reader(photo))
        monkeypatch.delattr(region_cache, "ProcessPoolExecutor")
        propose_all([photo], cache)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_processes_that_propose_end_with_one_that_is_killed(tmp_path: Path) -> None:
    for i in range(40):
        Image.fromarray(rectangles(left=i)).save(tmp_path / f"{i}.png")
    file = tmp_path / "main.py"
    file.write_text(
        "import multiprocessing, os, pathlib, signal, sys\n"
        "from tsic.pretrain.region_cache import RegionCache, propose_all\n"
        "def killed(done, total):\n"
        "    print(*(one.pid for one in multiprocessing.active_children()), flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "if __name__ == '__main__':\n"
        "    folder = pathlib.Path(sys.argv[1])\n"
        "    propose_all(sorted(folder.glob('*.png')), RegionCache(folder / 'cache'), killed)\n"
    )
    words = [sys.executable, str(file), str(tmp_path)]
    killed = subprocess.run(words, stdout=subprocess.PIPE, check=False)
    workers = [Path(f"/proc/{number}/stat") for number in killed.stdout.decode().split()]
    assert workers

    def lives(worker: Path) -> bool:
        try:
            return worker.read_text().rpartition(")")[2].split()[0] != "Z"
        except OSError:
            return False

    for _ in range(100):
        if not any(map(lives, workers)):
            return
        time.sleep(0.1)
    raise AssertionError("they outlived the process that started them")
