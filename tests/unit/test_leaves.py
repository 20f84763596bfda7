"""Drawn dead leaves: pictures and the regions in them."""

import numpy as np
import pytest

from tsic.pretrain.leaves import draw_leaves
from tsic.pretrain.regions import Regions, regions_of_classes


def drawn(seed: int, height: int = 64, width: int = 96) -> Regions:
    return draw_leaves(np.random.default_rng(seed), height, width)


def test_same_seed_draws_the_same_and_another_seed_another_picture() -> None:
    one, again, other = drawn(3), drawn(3), drawn(4)
    assert np.array_equal(one.image, again.image)
    assert np.array_equal(one.ids, again.ids)
    assert np.array_equal(one.kinds, again.kinds)
    assert not np.array_equal(one.image, other.image)


@pytest.mark.parametrize("size", [(32, 32), (96, 160), (33, 47)])
def test_every_pixel_has_a_region_and_every_region_a_kind(size: tuple[int, int]) -> None:
    for seed in range(10):
        regions = drawn(seed, *size)
        assert regions.image.shape == (*size, 3)
        assert regions.image.dtype == np.uint8
        assert regions.ids.shape == size
        assert regions.ids.min() >= 1
        assert regions.ids.max() < len(regions.kinds)
        assert regions.kinds[0] == 0
        assert (regions.kinds[1:] > 0).all()


def test_pictures_change_where_regions_do() -> None:
    """Neighbours of different regions differ more than neighbours of one."""
    ratios = []
    for seed in range(30):
        regions = drawn(seed)
        grey = regions.image.astype(float).mean(2)
        step = np.abs(np.diff(grey, axis=1))
        border = np.diff(regions.ids, axis=1) != 0
        ratios.append(step[border].mean() / max(step[~border].mean(), 1e-6))
    assert np.median(ratios) > 1.5


def test_shapes_of_one_kind_look_alike() -> None:
    """Regions of one kind differ less in colour than regions of different kinds."""
    same: list[float] = []
    other: list[float] = []
    for seed in range(30):
        regions = drawn(seed)
        colours = {
            i: regions.image[regions.ids == i].mean(0)
            for i in range(1, len(regions.kinds))
            if (regions.ids == i).sum() > 20
        }
        for i, j in zip(colours, list(colours)[1:], strict=False):
            pair = same if regions.kinds[i] == regions.kinds[j] else other
            pair.append(np.abs(colours[i] - colours[j]).mean())
    assert np.mean(same) < 0.75 * np.mean(other)


def test_regions_of_classes_are_the_connected_parts_of_classes() -> None:
    labels = np.array(
        [[2, 2, 0, 2], [0, 0, 0, 2], [255, 255, 0, 2], [7, 255, 0, 0]], dtype=np.uint8
    )
    image = np.zeros((4, 4, 3), np.uint8)
    regions = regions_of_classes(image, labels)
    assert regions.image is image
    assert len(regions.kinds) == 5  # two parts of class 2, one of 0, one of 7, and nothing
    assert (regions.ids == 0).sum() == 3
    assert np.array_equal(regions.ids == 0, labels == 255)
    assert np.array_equal(regions.kinds[regions.ids], np.where(labels == 255, 0, labels + 1))
    assert regions.ids[0, 0] == regions.ids[0, 1] != regions.ids[0, 3] == regions.ids[2, 3]
