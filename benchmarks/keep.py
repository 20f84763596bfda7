"""How much of its prompt a refiner should keep (`Refiner.keep`), chosen on photographs.

    .venv/bin/python benchmarks/keep.py --json FILE

The photographs ship with scikit-image; regions proposed in them stand for the truth. No image that
results are reported on takes part. Prompts are those of pretraining and faultless ones at strides
8 and 16; what counts is the mean IoU at 192x256.
"""

import argparse
import json
import platform
import statistics
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import skimage
import torch
import torch.nn.functional as F
from torch import Tensor

from tsic.data.images import read_image
from tsic.pretrain.losses import iou_of
from tsic.pretrain.promptable import Promptable
from tsic.pretrain.prompts import choose_targets, coarse_masks, student_logits
from tsic.pretrain.proposals import propose_regions
from tsic.pretrain.regions import Regions
from tsic.pretrain.sources import random_crop
from tsic.teacher.sam import load_foundation

PHOTOGRAPHS = (
    *("astronaut.png", "camera.png", "cell.png", "chelsea.png", "coffee.png", "coins.png"),
    *("motorcycle_left.png", "rocket.jpg", "ihc.png", "moon.png", "clock_motion.png", "retina.jpg"),
)
SIZE = (192, 256)
MASKS = 6


@torch.inference_mode()
def main() -> None:
    """Measure every share."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="embedded", help="a value of teacher.name")
    parser.add_argument(
        "--shares", type=float, nargs="+", default=[0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.75, 1]
    )
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    foundation = load_foundation(options.model)
    assert foundation.refiner is not None
    model = Promptable(foundation).eval()
    found: dict[str, list[float]] = defaultdict(list)
    for image, targets, prompts in cases():
        answers = {"prompt": prompts}
        for share in options.shares:
            foundation.refiner.keep.fill_(share)
            answers[f"{share:g}"] = model.refine(image[None], prompts[None])[0]
        there = targets.any(2).any(1)
        for name, masks in answers.items():
            sized = F.interpolate(masks[None], SIZE, mode="bilinear", align_corners=False)[0]
            found[name] += iou_of(sized, targets.float())[there].tolist()
    means = {name: 100 * statistics.fmean(ious) for name, ious in found.items()}
    for name, mean in means.items():
        print(f"{name:8} {mean:6.2f}")
    if options.json:
        about = {"machine": platform.machine(), "torch": torch.__version__}
        written = {**about, "model": options.model, "masks": len(found["prompt"]), "iou": means}
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(written, indent=1))


def cases() -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """An image ``(3, H, W)`` in [0, 1], true masks and prompts for them."""
    folder = Path(skimage.__file__).parent / "data"
    for number, name in enumerate(PHOTOGRAPHS):
        pixels = read_image(folder / name).permute(1, 2, 0).numpy()
        ids = propose_regions(pixels)
        rng = np.random.default_rng(number)
        for _ in range(2):
            crop, cut = random_crop(rng, pixels, ids, SIZE, (0.5, 0.9))
            regions = Regions(crop, cut.astype(np.int32), np.zeros(int(cut.max()) + 1, np.int32))
            targets, others = choose_targets(rng, regions, [True] * MASKS)
            image = torch.from_numpy(crop).permute(2, 0, 1).float() / 255
            yield image, targets, coarse_masks(rng, targets, others)
            for stride in (8, 16):
                logits = [student_logits(rng, mask.float(), stride) for mask in targets]
                yield image, targets, torch.stack(logits)


if __name__ == "__main__":
    main()
