"""Images per second of three loaders, side by side in one run.

    .venv/bin/python benchmarks/loader.py --json benchmarks/results/loader.json

Sources are 2048x1024 PNG pairs drawn here (or a dataset that you name), cropped to 512x1024 with
scale 0.5 to 2 and a horizontal flip, in one process. `straightforward` decodes both files, resizes
both whole, then crops, as a first implementation does; `unpacked` and `packed` are this package's.
Loaders take turns, so that a machine whose speed drifts slows them alike; the median turn counts.
Ratios travel between machines, seconds do not. With `--flat N` a fresh process of each of this
package's loaders reads N samples and tells its own memory (anonymous pages, not the mapped pack's).
"""

import argparse
import json
import multiprocessing
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as TF

from tsic.data.batches import TrainDataset
from tsic.data.class_file import write_classes
from tsic.data.classes import ClassTable
from tsic.data.dataset import SegmentationDataset
from tsic.data.packed import pack_split
from tsic.data.readers import open_dataset
from tsic.data.sampling import sample_order
from tsic.data.scenes import SCENE_CLASSES, draw_scene
from tsic.data.transforms import TrainTransform

Load = Callable[[int], object]


def draw_pairs(root: Path, count: int, height: int, width: int) -> None:
    """Draw scenes at a quarter of the size, enlarge them and add a camera's noise, as PNG pairs."""
    dice = np.random.default_rng(0)
    for kind in ("images", "masks"):
        (root / "train" / kind).mkdir(parents=True)
    for i in range(count):
        image, mask = draw_scene(i, height // 4, width // 4)
        large = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))
        noisy = large + dice.normal(0, 2, large.shape)
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(root / f"train/images/{i}.png")
        Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST).save(
            root / f"train/masks/{i}.png"
        )
    write_classes(root / "classes.yaml", ClassTable.from_names(SCENE_CLASSES.names))


class Straightforward:
    """Decode, resize whole, crop, flip: torchvision's transforms on Pillow's pixels."""

    def __init__(self, dataset: SegmentationDataset, crop: tuple[int, int]) -> None:
        self.dataset = dataset
        self.crop = crop

    def __call__(self, index: int) -> tuple[Tensor, Tensor]:
        """Load and augment one pair."""
        sample = self.dataset.samples[index]
        image = TF.pil_to_tensor(Image.open(sample.image).convert("RGB"))
        mask = torch.from_numpy(np.array(Image.open(sample.mask)))[None]
        ratio = float(torch.empty(1).uniform_(0.5, 2.0))
        size = [round(side * ratio) for side in mask.shape[1:]]
        image = TF.resize(image, size, antialias=True)
        mask = TF.resize(mask, size, TF.InterpolationMode.NEAREST_EXACT)
        top, left = (
            int(torch.randint(0, max(1, side - crop + 1), ()))
            for side, crop in zip(size, self.crop, strict=True)
        )
        image, mask = (TF.crop(part, top, left, *self.crop) for part in (image, mask))
        if torch.rand(()) < 0.5:
            image, mask = TF.horizontal_flip(image), TF.horizontal_flip(mask)
        return image, mask[0]


class Ours:
    """This package's training samples, without the colours, which vary on the device."""

    def __init__(self, dataset: SegmentationDataset, crop: tuple[int, int]) -> None:
        self.samples = TrainDataset(dataset, TrainTransform(crop), seed=0, photometric=False)
        self.position = 0

    def __call__(self, index: int) -> object:
        """Load and augment one pair, each time in another way."""
        self.position += 1
        return self.samples[(self.position, index)]


def run(load: Load, indices: list[int]) -> tuple[float, float]:
    """Wall and CPU seconds per image."""
    wall, cpu = time.perf_counter(), time.process_time()
    for index in indices:
        load(index)
    return (
        (time.perf_counter() - wall) / len(indices),
        (time.process_time() - cpu) / len(indices),
    )


def main() -> None:
    """Measure and print a table; with ``--json`` also write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--pairs", type=int, default=16, help="pairs to draw")
    parser.add_argument("--size", type=int, nargs=2, default=(1024, 2048), help="their size")
    parser.add_argument("--crop", type=int, nargs=2, default=(512, 1024))
    parser.add_argument("--rounds", type=int, default=7, help="turns of each loader")
    parser.add_argument("--images", type=int, default=16, help="images per turn")
    parser.add_argument("--flat", type=int, default=0, help="samples to watch memory over")
    parser.add_argument("--data", nargs=3, metavar=("READER", "ROOT", "SPLIT"), help="real data")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)  # as in a loader's worker
    torch.manual_seed(0)
    crop = (options.crop[0], options.crop[1])
    with tempfile.TemporaryDirectory() as folder:
        if options.data:
            source = open_dataset(*options.data)
        else:
            draw_pairs(Path(folder) / "source", options.pairs, *options.size)
            source = open_dataset("folder", Path(folder) / "source", "train")
        pack_split(source, Path(folder) / "pack")
        packed = open_dataset("packed", Path(folder) / "pack", source.split)
        loaders: dict[str, Load] = {
            "straightforward": Straightforward(source, crop),
            "unpacked": Ours(source, crop),
            "packed": Ours(packed, crop),
        }
        turns: dict[str, list[tuple[float, float]]] = {name: [] for name in loaders}
        for turn in range(options.rounds + 1):  # the first turn fills caches
            picked = sample_order(0, turn, len(source))[: options.images]
            for name, load in loaders.items():
                times = run(load, picked)
                if turn:
                    turns[name].append(times)
        size = list(source.read_label(0).shape)
        memory = {
            name: watch(loaders[name], len(source), options.flat)
            for name in ("unpacked", "packed")
            if options.flat
        }
    rows = []
    for name, measured in turns.items():
        wall = statistics.median(wall for wall, _ in measured)
        base = statistics.median(wall for wall, _ in turns["straightforward"])
        rows.append(
            {
                "loader": name,
                "data": options.data[0] if options.data else "drawn",
                "source_size": size,
                "images_per_s": 1 / wall,
                "cpu_seconds_per_image": statistics.median(cpu for _, cpu in measured),
                "slowest_and_fastest_turn": [1 / max(measured)[0], 1 / min(measured)[0]],
                "over_straightforward": base / wall,
            }
        )
        print(f"{name:16} {1 / wall:7.1f} images/s, {base / wall:5.2f} x straightforward")
    if options.json:
        machine = f"{platform.machine()}, one process, torch {torch.__version__}"
        written = {"machine": machine, "crop": crop, "rows": rows, "memory_mib": memory}
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(written, indent=1))


def watch(load: Load, count: int, samples: int) -> list[float]:
    """Memory of a fresh process, in MiB, at ten points of so many samples."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(read_and_tell, (load, count, samples))


def read_and_tell(load: Load, count: int, samples: int) -> list[float]:
    """Read samples and look at this process's anonymous memory (Linux)."""
    torch.set_num_threads(1)
    told = []
    for i in range(samples):
        load(i % count)
        if (i + 1) % max(1, samples // 10) == 0:
            rollup = Path("/proc/self/smaps_rollup").read_text()
            told.append(int(rollup.split("Anonymous:")[1].split()[0]) / 1024)
    return told


if __name__ == "__main__":
    main()
