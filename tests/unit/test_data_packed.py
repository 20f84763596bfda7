"""Packed data: the same batches, and nothing that could be mixed up."""

import json
import os
import pickle
from dataclasses import replace
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from tsic.data.batches import RawBatch, TrainDataset
from tsic.data.check import check_dataset
from tsic.data.datamodule import SegmentationData
from tsic.data.dataset import SegmentationDataset
from tsic.data.packed import fingerprint, pack_split
from tsic.data.readers import open_dataset
from tsic.data.transforms import TrainTransform
from tsic.errors import CheckpointError, ConfigError, DataError
from tsic.files import alone_in


@pytest.fixture
def source(folder_dataset: Path) -> SegmentationDataset:
    """Six pairs of which one is larger than the others."""
    for kind in ("images", "masks"):
        path = folder_dataset / "train" / kind / "002.png"
        picture = Image.open(path)
        picture.resize((150, 70), Image.Resampling.NEAREST).save(path)
    return open_dataset("folder", folder_dataset, "train")


@pytest.fixture
def packed(source: SegmentationDataset, tmp_path: Path) -> SegmentationDataset:
    assert pack_split(source, tmp_path / "pack")
    return open_dataset("packed", tmp_path / "pack", "train")


def test_packed_pairs_are_the_sources(
    source: SegmentationDataset, packed: SegmentationDataset
) -> None:
    assert packed.classes.names == source.classes.names
    assert packed.classes.palette == source.classes.palette
    assert [s.name for s in packed.samples] == [s.name for s in source.samples]
    for index in range(len(source)):
        for one, other in zip(source.read(index), packed.read(index), strict=True):
            assert one.dtype == other.dtype == torch.uint8
            assert torch.equal(one, other)
        assert torch.equal(source.count_pixels(index), packed.count_pixels(index))
    assert check_dataset(packed)[0] == []


def test_packed_and_unpacked_batches_are_the_same(
    source: SegmentationDataset, packed: SegmentationDataset
) -> None:
    def batches(dataset: SegmentationDataset, workers: int) -> list[RawBatch]:
        transform = TrainTransform((48, 64), rare_crop=0.5)
        train = TrainDataset(dataset, transform, 5)
        data = SegmentationData(train, None, batch_size=4, workers=workers)
        return list(islice(data.train_dataloader(), 4))

    for one, other in zip(batches(source, 0), batches(packed, 2), strict=True):
        assert one["names"] == other["names"]
        assert torch.equal(one["images"], other["images"])
        assert torch.equal(one["labels"], other["labels"])


def test_packed_dataset_goes_to_another_process(packed: SegmentationDataset) -> None:
    copy: SegmentationDataset = pickle.loads(pickle.dumps(packed))
    assert torch.equal(copy.read(3)[0], packed.read(3)[0])
    assert len(pickle.dumps(packed)) < 5000


def test_labels_cannot_be_written_through(packed: SegmentationDataset) -> None:
    packed.read(0)[1].fill_(7)
    packed.read(0)[0].fill_(7)
    for kind in ("images", "masks"):
        first = np.fromfile(packed.root / f"train.{kind}", np.uint8)[: 64 * 96]
        assert not (first == 7).all()


def test_packing_again_writes_nothing(source: SegmentationDataset, tmp_path: Path) -> None:
    assert pack_split(source, tmp_path / "pack")
    before = (tmp_path / "pack" / "train.images").stat().st_mtime_ns
    assert not pack_split(source, tmp_path / "pack")
    assert (tmp_path / "pack" / "train.images").stat().st_mtime_ns == before


def test_changed_source_is_refused(packed: SegmentationDataset, folder_dataset: Path) -> None:
    os.utime(folder_dataset / "train" / "masks" / "001.png", ns=(1, 1))
    with pytest.raises(DataError, match=r"whose split 'train' or class table has changed since"):
        open_dataset("packed", packed.root, "train")
    source = open_dataset("folder", folder_dataset, "train")
    with pytest.raises(DataError, match="holds another pack of the split 'train'"):
        pack_split(source, packed.root)


def test_other_classes_are_not_mixed(packed: SegmentationDataset, folder_dataset: Path) -> None:
    table = folder_dataset / "two.yaml"
    table.write_text("classes: [{name: ground, id: 0}, {name: thing, id: [1, 2]}]")
    source = open_dataset("folder", folder_dataset, "train", table)
    with pytest.raises(DataError, match="other classes"):
        pack_split(source, packed.root)
    with pytest.raises(DataError, match="give the class table when packing"):
        open_dataset("packed", packed.root, "train", table)


def test_changed_class_table_is_refused(
    folder_dataset: Path, tmp_path: Path, packed: SegmentationDataset
) -> None:
    own, other = folder_dataset / "classes.yaml", folder_dataset / "other.yaml"
    other.write_text("classes: [{name: ground, id: 0}, {name: thing, id: [1, 2]}]")
    source = open_dataset("folder", folder_dataset, "train", other)
    assert pack_split(source, tmp_path / "two", other)
    assert open_dataset("packed", tmp_path / "two", "train").classes == source.classes
    for table, pack in ((own, packed.root), (other, tmp_path / "two")):
        table.write_text("classes: [{name: ground, id: [0, 1]}, {name: thing, id: 2}]")
        with pytest.raises(DataError, match="or class table has changed since"):
            open_dataset("packed", pack, "train")


def test_damaged_pack_is_written_anew(
    source: SegmentationDataset, packed: SegmentationDataset
) -> None:
    for name in ("train.images", "train.json"):
        with (packed.root / name).open("r+b") as file:
            file.truncate(100)
        assert pack_split(source, packed.root)
        again = open_dataset("packed", packed.root, "train")
        assert torch.equal(again.read(5)[0], source.read(5)[0])


def test_annotations_of_that_name_are_not_overwritten(
    source: SegmentationDataset, tmp_path: Path
) -> None:
    labels = tmp_path / "train.json"
    labels.write_text('{"images": [], "annotations": [], "categories": []}')
    with pytest.raises(DataError, match=r"train\.json is no pack's, and would be overwritten"):
        pack_split(source, tmp_path)
    assert "annotations" in labels.read_text()


def test_a_pack_behind_a_link_is_compared_with_its_source(
    source: SegmentationDataset, tmp_path: Path
) -> None:
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "deep" / "er")
    pack_split(source, tmp_path / "link")
    open_dataset("packed", tmp_path / "link", "train")
    os.utime(source.samples[0].mask, (1, 1))
    with pytest.raises(DataError, match="has changed since"):
        open_dataset("packed", tmp_path / "link", "train")


def test_pack_deleted_during_a_run_is_named(packed: SegmentationDataset) -> None:
    (packed.root / "train.images").unlink()
    with pytest.raises(DataError, match=r"train\.images: cannot be read"):
        packed.read(0)


def test_pack_stands_alone(packed: SegmentationDataset, folder_dataset: Path) -> None:
    folder_dataset.rename(folder_dataset.with_name("away"))
    assert len(open_dataset("packed", packed.root, "train")) == 6


def test_a_pack_that_was_replaced_is_read_anew(
    source: SegmentationDataset, packed: SegmentationDataset
) -> None:
    """By another process, say, while this one has its files mapped."""
    before = packed.read(0)[0].clone()
    mirrored = Image.open(source.samples[0].image).transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    mirrored.save(source.samples[0].image)
    (packed.root / "train.json").unlink()
    assert pack_split(source, packed.root)
    assert torch.equal(open_dataset("packed", packed.root, "train").read(0)[0], before.flip(2))


def test_pixels_of_another_shape_are_another_image(
    source: SegmentationDataset, packed: SegmentationDataset, tmp_path: Path
) -> None:
    for kind in ("images", "masks"):
        for sample, size in zip(source.samples, ((96, 64), (64, 96), (96, 64)), strict=False):
            Image.new("RGB" if kind == "images" else "L", size).save(getattr(sample, kind[:-1]))
    pack_split(source, tmp_path / "other")
    digests = check_dataset(open_dataset("packed", tmp_path / "other", "train"))[2]
    assert digests[0] == digests[2] != digests[1]


def test_a_source_of_another_size_is_another_however_old(
    packed: SegmentationDataset, folder_dataset: Path
) -> None:
    mask = folder_dataset / "train" / "masks" / "001.png"
    time = mask.stat().st_mtime_ns
    Image.open(mask).convert("RGB").save(mask)
    os.utime(mask, ns=(time, time))
    with pytest.raises(DataError, match="has changed since"):
        open_dataset("packed", packed.root, "train")


def test_files_that_hold_all_samples_count_as_well(
    source: SegmentationDataset, tmp_path: Path
) -> None:
    """As those of the library `datasets`, whose rows have no files of their own."""
    table = tmp_path / "rows.arrow"
    table.write_bytes(b"rows")
    rows = replace(source, files=(table,))
    before = fingerprint(rows)
    assert before == fingerprint(rows) != fingerprint(source)
    os.utime(table, ns=(1, 1))
    assert fingerprint(rows) != before


def test_a_full_disk_is_told_before_it_is_full(
    source: SegmentationDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = (64 << 20) + 64 * 96 * 4 - 1  # one byte too few for the first pair beside the spare
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=free))
    with pytest.raises(DataError, match="only 64 MiB of the disk are free; pack elsewhere"):
        pack_split(source, tmp_path / "pack")
    assert not files_in(tmp_path / "pack")


def test_interrupted_packing_leaves_no_pack(source: SegmentationDataset, tmp_path: Path) -> None:
    source.samples[4].mask.write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"masks/004\.png: cannot be decoded"):
        pack_split(source, tmp_path / "pack")
    assert not files_in(tmp_path / "pack")
    with pytest.raises(DataError, match="no packed split 'train'"):
        open_dataset("packed", tmp_path / "pack", "train")


def test_what_a_killed_packing_left_is_taken_away(
    source: SegmentationDataset, tmp_path: Path
) -> None:
    pack = tmp_path / "pack"
    pack.mkdir()
    left = [pack / f"{name}.0123abcd.part" for name in ("train.images", "train.masks")]
    for file in (*left, pack / "val.images.0123abcd.part"):
        file.write_bytes(b"pixels")
    with (
        alone_in(pack, "packs"),
        pytest.raises(ConfigError, match=r"another process packs in .*, or choose another folder"),
    ):
        pack_split(source, pack)
    assert all(file.is_file() for file in left), "they may be the other process's"
    assert pack_split(source, pack)
    kept = {"train.images", "train.masks", "train.json", "val.images.0123abcd.part"}
    assert files_in(pack) == kept


def files_in(folder: Path) -> set[str]:
    """Names of all files but the lock, which filelock leaves or takes away by its version."""
    return {one.name for one in folder.iterdir()} - {".lock"}


@pytest.mark.parametrize(("kind", "channels"), [("images", 3), ("masks", 1)])
def test_a_flipped_byte_is_found_by_the_check(
    packed: SegmentationDataset, kind: str, channels: int
) -> None:
    content = bytearray((packed.root / f"train.{kind}").read_bytes())
    content[(64 + 10) * 96 * channels] ^= 1  # of the second pair, ground
    (packed.root / f"train.{kind}").write_bytes(content)
    found = check_dataset(packed)[0]
    assert [(p.kind, "001.png" in p.detail) for p in found] == [("unreadable", True)]


def test_damaged_packs_are_refused(packed: SegmentationDataset) -> None:
    described = packed.root / "train.json"
    held = json.loads(described.read_text())
    described.write_text(json.dumps({**held, "format": 99}))
    with pytest.raises(CheckpointError, match="has format 99, this tsic reads 1; pack again"):
        open_dataset("packed", packed.root, "train")
    described.write_text("{")
    with pytest.raises(CheckpointError, match=r"train\.json is damaged"):
        open_dataset("packed", packed.root, "train")
    wrong = ({**held["entries"][0], **one} for one in ({"height": "48"}, {"start": -5}))
    for key, value in (("entries", []), *(("entries", [one]) for one in wrong), ("source", {})):
        described.write_text(json.dumps({**held, key: value}))
        with pytest.raises(CheckpointError, match=r"train\.json is damaged"):
            open_dataset("packed", packed.root, "train")
    described.write_text(json.dumps(held))
    for size in (100, (packed.root / "train.masks").stat().st_size + 1):
        with (packed.root / "train.masks").open("r+b") as file:
            file.truncate(size)
        with pytest.raises(DataError, match=r"train\.masks is missing or cut short; pack again"):
            open_dataset("packed", packed.root, "train")
