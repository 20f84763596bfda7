from itertools import islice
from pathlib import Path

import pytest
import torch
from PIL import Image

from tsic.data.batches import TrainDataset
from tsic.data.classes import IGNORE, UNLABELLED
from tsic.data.dataset import SegmentationDataset
from tsic.data.packed import pack_split
from tsic.data.readers import open_dataset
from tsic.data.sampling import StepBatches
from tsic.data.transforms import TrainTransform
from tsic.data.unlabelled import Joined, JoinedBatches, open_unlabelled, without_copies
from tsic.errors import DataError


@pytest.fixture
def labelled(folder_dataset: Path) -> SegmentationDataset:
    return open_dataset("folder", folder_dataset, "train")


@pytest.fixture
def photos(tmp_path: Path, labelled: SegmentationDataset) -> Path:
    """Two images without labels, one in a folder of its own, and a copy of a labelled one."""
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    for name, shade in (("b.png", 50), ("more/c.png", 200)):
        Image.new("RGB", (80, 40), (shade, 0, 0)).save(folder / name)
    (folder / "a.png").write_bytes(labelled.samples[2].image.read_bytes())
    return folder


def test_no_pixel_has_a_label(photos: Path, labelled: SegmentationDataset) -> None:
    opened = open_unlabelled(photos, labelled.classes)
    assert [sample.name for sample in opened.samples] == ["a.png", "b.png", "more/c.png"]
    image, label = opened.read(1)
    assert image.shape == (3, 40, 80)
    assert torch.equal(label, torch.full((40, 80), UNLABELLED, dtype=torch.uint8))


@pytest.mark.parametrize("is_packed", [False, True])
def test_images_with_labels_are_left_out(
    photos: Path, labelled: SegmentationDataset, tmp_path: Path, is_packed: bool
) -> None:
    if is_packed:
        pack_split(labelled, tmp_path / "packed")
        labelled = open_dataset("packed", tmp_path / "packed", "train")
    kept = without_copies(open_unlabelled(photos, labelled.classes), labelled)
    assert [sample.name for sample in kept.samples] == ["b.png", "more/c.png"]


def test_masks_are_no_images(labelled: SegmentationDataset) -> None:
    with pytest.raises(DataError, match=r"holds masks, first train/masks/000\.png; name a folder"):
        without_copies(open_unlabelled(labelled.root, labelled.classes), labelled)
    (labelled.root / "links").mkdir()
    (labelled.root / "links" / "a.png").symlink_to(labelled.samples[0].mask)
    with pytest.raises(DataError, match=r"links' holds masks, first a\.png"):
        without_copies(open_unlabelled(labelled.root / "links", labelled.classes), labelled)


def test_what_holds_nothing_new_is_refused(photos: Path, labelled: SegmentationDataset) -> None:
    for name in ("b.png", "more/c.png"):
        (photos / name).unlink()
    with pytest.raises(DataError, match=r"every image of .*photos' is one with a label"):
        without_copies(open_unlabelled(photos, labelled.classes), labelled)
    (photos / "a.png").unlink()
    with pytest.raises(DataError, match=r"data\.unlabelled: .*photos' holds no image"):
        open_unlabelled(photos, labelled.classes)
    with pytest.raises(DataError, match=r"data\.unlabelled: .*nowhere' is no folder"):
        open_unlabelled(photos / "nowhere", labelled.classes)


def test_a_damaged_image_is_named(photos: Path, labelled: SegmentationDataset) -> None:
    (photos / "b.png").write_bytes((photos / "b.png").read_bytes()[:60])
    with pytest.raises(DataError, match=r"b\.png"):
        without_copies(open_unlabelled(photos, labelled.classes), labelled)


def test_both_parts_are_read_and_augmented(photos: Path, labelled: SegmentationDataset) -> None:
    joined = Joined(labelled, open_unlabelled(photos, labelled.classes))
    assert len(joined) == 6 + 3
    assert torch.equal(joined.read_label(5), labelled.read_label(5))
    assert torch.equal(joined.read_image(6), labelled.read_image(2))
    crops = TrainDataset(joined, TrainTransform((32, 32), (1, 1)), 0, photometric=False)
    one, other = crops[0, 5], crops[-1, 7]
    assert not isinstance(one, DataError)
    assert not isinstance(other, DataError)
    assert one.label.lt(3).any()
    assert other.label.eq(UNLABELLED).all()
    assert other.name == "b.png"
    padded = TrainDataset(joined, TrainTransform((64, 32), (1, 1)), 0, photometric=False)[-1, 7]
    assert not isinstance(padded, DataError)
    beside = padded.label == IGNORE
    assert beside.sum() == (64 - 40) * 32, "what lies beside an image is not taught"


def test_who_stands_in_for_a_broken_file_is_of_its_kind(
    photos: Path, labelled: SegmentationDataset
) -> None:
    joined = Joined(labelled, open_unlabelled(photos, labelled.classes))
    for broken in (labelled.samples[5].image, photos / "more/c.png"):
        broken.write_bytes(b"")
    images = TrainDataset(
        joined, TrainTransform((32, 32), (1, 1)), 0, photometric=False, on_error="skip"
    )
    names = {}
    for index in (5, 8):
        item = images[0, index]
        assert not isinstance(item, DataError)
        assert len(item.skipped) == 1
        names[index] = item.name
    assert names == {5: labelled.samples[0].name, 8: "a.png"}


def test_every_batch_holds_images_of_both_kinds() -> None:
    batches = list(islice(JoinedBatches(StepBatches(5, 3, 0), StepBatches(7, 2, 0)), 14))
    assert all([index < 5 for _, index in batch] == [True] * 3 + [False] * 2 for batch in batches)
    seen = [index for batch in batches for _, index in batch if index >= 5]
    assert sorted(seen) == sorted(list(range(5, 12)) * 4), "each as often as the others"
    positions = [position for batch in batches for position, _ in batch]
    assert len(set(positions)) == len(positions), "no two are augmented alike"


def test_batches_go_on_where_a_run_was_cut() -> None:
    whole = list(islice(JoinedBatches(StepBatches(5, 3, 0), StepBatches(7, 2, 0)), 9))
    parts = StepBatches(5, 3, 0, start=4), StepBatches(7, 2, 0, start=4)
    assert list(islice(JoinedBatches(*parts), 5)) == whole[4:]
