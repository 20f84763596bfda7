import multiprocessing
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn

from tsic.data.batches import Item, RawBatch, TrainDataset, collate, to_batch
from tsic.data.classes import UNLABELLED
from tsic.data.colours import draw_colours
from tsic.data.datamodule import SegmentationData
from tsic.data.dataset import SegmentationDataset
from tsic.data.readers import open_dataset
from tsic.data.sampling import position_seed, sample_order
from tsic.data.transforms import TrainTransform, seeded
from tsic.data.unlabelled import Joined, TrainImages, open_unlabelled
from tsic.errors import DataError


@pytest.fixture
def train(folder_dataset: Path) -> SegmentationDataset:
    return open_dataset("folder", folder_dataset, "train")


@pytest.fixture
def val(folder_dataset: Path) -> SegmentationDataset:
    return open_dataset("folder", folder_dataset, "val")


def _data(
    train: TrainImages, val: SegmentationDataset | None = None, **options: Any
) -> SegmentationData:
    seed = options.pop("seed", 3)
    own = {key: options.pop(key) for key in ("photometric", "on_error", "hints") if key in options}
    images = TrainDataset(train, TrainTransform((32, 48)), seed, **own)
    return SegmentationData(images, val, **({"batch_size": 4} | options))


def _at(data: SegmentationData, step: int = 0, rank: int = 0, world_size: int = 1) -> None:
    """Act as if a trainer on CPU stood at this step and place."""
    data.trainer = SimpleNamespace(
        global_step=step,
        global_rank=rank,
        world_size=world_size,
        strategy=SimpleNamespace(root_device=torch.device("cpu")),
    )


def _take(data: SegmentationData, count: int) -> list[RawBatch]:
    return list(islice(data.train_dataloader(), count))


def _drawn(batch: RawBatch) -> Tensor:
    assert batch["colours"] is not None
    return batch["colours"]


def _samples(batches: list[RawBatch]) -> list[Item | DataError]:
    return [
        Item(*sample)
        for batch in batches
        for sample in zip(
            batch["images"], batch["labels"], _drawn(batch), batch["names"], strict=True
        )
    ]


def _assert_equal(some: list[RawBatch], others: list[RawBatch]) -> None:
    """Same names, images and labels in the same order, however they are batched."""
    one, other = (collate(_samples(batches)) for batches in (some, others))
    assert not isinstance(one, DataError)
    assert not isinstance(other, DataError)
    assert one["names"] == other["names"]
    assert torch.equal(one["images"], other["images"])
    assert torch.equal(one["labels"], other["labels"])
    assert torch.equal(_drawn(one), _drawn(other))


def test_batches_hold_what_the_contract_says(train: SegmentationDataset) -> None:
    raw = _take(_data(train), 1)[0]
    assert (raw["images"].dtype, raw["labels"].dtype) == (torch.uint8, torch.uint8)
    batch = to_batch(raw)
    assert batch.keys() == {"images", "labels", "names", "hints"}
    assert batch["hints"] is None
    assert (batch["images"].shape, batch["images"].dtype) == ((4, 3, 32, 48), torch.float32)
    assert (batch["labels"].shape, batch["labels"].dtype) == ((4, 32, 48), torch.int64)
    assert batch["names"][0].startswith("train/images/")
    assert batch["images"].amin() >= 0
    assert 0.5 < batch["images"].amax() <= 1
    assert set(batch["labels"].unique().tolist()) <= {0, 1, 2, 255}


@pytest.mark.parametrize("start", [0, 3])
def test_workers_do_not_change_the_batches(train: SegmentationDataset, start: int) -> None:
    batches = []
    for workers in (0, 1, 2):
        data = _data(train, workers=workers)
        _at(data, start)
        batches.append(_take(data, 4))
    _assert_equal(batches[0], batches[1])
    _assert_equal(batches[0], batches[2])


def test_one_sample_is_augmented_differently_each_time(train: SegmentationDataset) -> None:
    batches = _take(_data(train, batch_size=6), 2)
    place = batches[1]["names"].index(batches[0]["names"][0])
    assert not torch.equal(batches[0]["images"][0], batches[1]["images"][place])


def test_colours_vary_with_the_place_in_the_run(train: SegmentationDataset) -> None:
    transform = TrainTransform((64, 96), (1, 1), max_class_share=1, flip=0)
    one, other = (TrainDataset(train, transform, 3)[position, 0] for position in (0, 1))
    assert isinstance(one, Item)
    assert isinstance(other, Item)
    assert torch.equal(one.image, other.image)
    assert one.colours is not None
    assert other.colours is not None
    assert not torch.equal(one.colours, other.colours)
    with seeded(position_seed(3, 0, "colours")):
        assert torch.equal(one.colours, draw_colours()), "of draws of their own"
    plain = TrainDataset(train, transform, 3, photometric=False)[0, 0]
    assert isinstance(plain, Item)
    assert plain.colours is None


@pytest.mark.parametrize("accumulate", [1, 2])
def test_resume_sees_what_the_uninterrupted_run_sees(
    train: SegmentationDataset, accumulate: int
) -> None:
    whole = _take(_data(train, accumulate=accumulate), 5 * accumulate)
    resumed = _data(train, accumulate=accumulate)
    _at(resumed, step=3)
    _assert_equal(whole[3 * accumulate :], _take(resumed, 2 * accumulate))


@pytest.mark.parametrize("start", [0, 2])
def test_two_ranks_see_what_one_sees(train: SegmentationDataset, start: int) -> None:
    one = _data(train)
    _at(one, start)
    ranks = []
    for rank in (0, 1):
        data = _data(train, batch_size=2)
        _at(data, start, rank, world_size=2)
        ranks.append(_take(data, 3))
    _assert_equal(_take(one, 3), [batch for pair in zip(*ranks, strict=True) for batch in pair])


@pytest.mark.parametrize("start", [0, 5])
def test_images_without_labels_take_their_part_wherever_a_run_is_cut(
    train: SegmentationDataset, folder_dataset: Path, start: int
) -> None:
    joined = Joined(train, open_unlabelled(folder_dataset / "val" / "images", train.classes))
    whole, rest = (_data(joined, unlabelled=2) for _ in range(2))
    _at(rest, step=start)
    batches = _take(whole, start + 4)
    _assert_equal(_take(rest, 4), batches[start:])
    for batch in batches:
        has_none = (batch["labels"] >= UNLABELLED).flatten(1).all(1)
        assert has_none.tolist() == [False, False, True, True]
    ranks = [_data(joined, batch_size=2, unlabelled=1) for _ in (0, 1)]
    for rank, data in enumerate(ranks):
        _at(data, step=start, rank=rank, world_size=2)
    both = [
        [name for one in place for name in one["names"]]
        for place in zip(*(_take(data, 4) for data in ranks), strict=True)
    ]
    assert [sorted(names) for names in both] == [sorted(one["names"]) for one in batches[start:]]


def test_images_without_labels_come_in_an_order_of_their_own(
    train: SegmentationDataset, folder_dataset: Path
) -> None:
    """As many in either part, so that one seed would put both in the same order."""
    joined = Joined(train, open_unlabelled(folder_dataset / "train" / "images", train.classes))
    for seed in (3, 4):
        (batch,) = _take(_data(joined, batch_size=12, unlabelled=6, seed=seed), 1)
        numbers = [int(Path(name).stem) for name in batch["names"]]
        assert numbers == sample_order(seed, 0, 6) + sample_order(-1 - seed, 0, 6)
        assert numbers[:6] != numbers[6:]


def test_loading_leaves_the_global_generator_alone(
    train: SegmentationDataset, val: SegmentationDataset
) -> None:
    before = torch.get_rng_state()
    data = _data(train, val)
    _take(data, 3)
    list(data.val_dataloader())
    assert torch.equal(torch.get_rng_state(), before)


def test_val_gives_each_image_once_over_the_ranks(val: SegmentationDataset) -> None:
    names = []
    for rank in (0, 1):
        data = _data(val, val)
        _at(data, rank=rank, world_size=2)
        batches: list[Any] = list(data.val_dataloader())
        assert all(batch["images"].shape == (1, 3, 64, 96) for batch in batches)
        names.append([name for batch in batches for name in batch["names"]])
    assert names == [
        ["val/images/000.png", "val/images/002.png"],
        ["val/images/001.png"],
    ]


def test_val_image_is_the_file(val: SegmentationDataset) -> None:
    batch: Any = next(iter(_data(val, val).val_dataloader()))
    image, label = val.read(0)
    assert torch.equal(batch["images"][0], image)
    assert torch.equal(to_batch(batch)["images"][0], image / 255)
    assert torch.equal(batch["labels"][0], label)


def test_no_validation_split_gives_no_loader(train: SegmentationDataset) -> None:
    assert _data(train).val_dataloader() == []


@pytest.mark.parametrize("workers", [0, 1])
def test_failing_read_surfaces_with_its_own_message(
    train: SegmentationDataset, workers: int
) -> None:
    broken = train.samples[2].mask
    broken.write_bytes(b"no mask")
    data = _data(train, train, workers=workers, batch_size=6)
    message = rf"^{broken}: cannot be decoded \(cannot identify image file\); replace the file$"
    with pytest.raises(DataError, match=message):
        _take(data, 1)
    with pytest.raises(DataError, match=message):
        list(data.val_dataloader())


def test_collate_hands_on_the_first_error() -> None:
    error = DataError("a")
    item = Item(torch.zeros(3, 2, 2), torch.zeros(2, 2), None, "x")
    assert collate([item, error, DataError("b")]) is error


def test_workers_stop_with_their_loader(train: SegmentationDataset) -> None:
    before = set(multiprocessing.active_children())
    loader = _data(train, workers=2).train_dataloader()
    batches: Iterator[RawBatch] = iter(loader)
    next(batches)
    assert len(set(multiprocessing.active_children()) - before) == 2
    del batches, loader
    assert set(multiprocessing.active_children()) <= before


class _Recorder(LightningModule):
    """Learns next to nothing, but notes which images it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, 3, 1)
        self.seen: list[str] = []
        self.validated: list[str] = []

    def training_step(self, batch: RawBatch, _: int) -> Tensor:
        self.seen += batch["names"]
        return self.head(batch["images"]).square().mean()

    def validation_step(self, batch: RawBatch, _: int) -> None:
        self.validated += batch["names"]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


# Lightning speaks up about small loaders, its own use of torch's pytree (2.6 on torch 2.15) and
# a resumed run that writes its checkpoints elsewhere.
@pytest.mark.filterwarnings("ignore:.*does not have many workers")
@pytest.mark.filterwarnings("ignore:.*LeafSpec.*deprecated")
@pytest.mark.filterwarnings("ignore:The dirpath has changed")
def test_lightning_takes_the_loader_as_endless_and_resumes(
    train: SegmentationDataset, val: SegmentationDataset, tmp_path: Path
) -> None:
    def fit(run: str, steps: int, resume: Path | None = None) -> _Recorder:
        trainer = Trainer(
            max_steps=steps,
            accumulate_grad_batches=2,
            val_check_interval=4,
            check_val_every_n_epoch=None,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
            accelerator="cpu",
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=tmp_path,
            callbacks=[ModelCheckpoint(tmp_path / run, every_n_train_steps=3, save_last=True)],
        )
        recorder = _Recorder()
        data = _data(train, val, accumulate=2)
        trainer.fit(recorder, datamodule=data, ckpt_path=resume)
        assert trainer.num_training_batches == float("inf")
        return recorder

    whole, first = fit("whole", 5), fit("first", 3)
    rest = fit("rest", 5, tmp_path / "first" / "last.ckpt")
    assert len(whole.seen) == 5 * 2 * 4
    assert whole.seen == first.seen + rest.seen
    assert whole.validated == ["val/images/000.png", "val/images/001.png", "val/images/002.png"] * 2


@pytest.mark.parametrize("workers", [0, 1])
def test_unreadable_files_are_skipped_on_request(
    train: SegmentationDataset, workers: int, capsys: pytest.CaptureFixture[str]
) -> None:
    options: Any = {"workers": workers, "batch_size": 6}
    before = _take(_data(train, **options), 1)[0]
    train.samples[2].image.write_bytes(b"")
    with pytest.raises(DataError, match=r"002\.png"):
        _take(_data(train, **options), 1)
    for _ in range(2):
        batch = _take(_data(train, **options, on_error="skip"), 3)[0]
    place = before["names"].index(train.samples[2].name)
    assert batch["names"][place] == train.samples[3].name
    others = [i for i in range(6) if i != place]
    assert torch.equal(batch["images"][others], before["images"][others])
    told = capsys.readouterr().err
    assert told.count("skipped ") == 2  # once per loader, though three batches hold it
    assert "002.png: cannot be decoded" in told


def test_several_unreadable_files_in_a_row_are_skipped(train: SegmentationDataset) -> None:
    for sample in train.samples[:5]:
        sample.image.write_bytes(b"")
    item = TrainDataset(train, TrainTransform((32, 48)), 3, on_error="skip")[0, 0]
    assert isinstance(item, Item)
    assert item.name == train.samples[5].name
    assert [f"00{i}.png" in said for i, said in enumerate(item.skipped)] == [True] * 5


def test_a_dataset_of_unreadable_files_stops_all_the_same(train: SegmentationDataset) -> None:
    for sample in train.samples:
        sample.image.write_bytes(b"")
    with pytest.raises(DataError, match="cannot be decoded"):
        _take(_data(train, on_error="skip"), 1)


def test_a_training_that_is_stopped_leaves_no_process_that_reads(
    train: SegmentationDataset,
) -> None:
    """Python waits for each when it ends, and they outlive one SIGTERM."""
    before = multiprocessing.active_children()
    data = _data(train, workers=1)
    loader = data.train_dataloader()
    batches = iter(loader)
    next(batches)
    (worker,) = (one for one in multiprocessing.active_children() if one not in before)
    data.on_exception(KeyboardInterrupt())
    worker.join(30)
    assert worker.exitcode is not None
    data.on_exception(KeyboardInterrupt())
