"""How well coarse masks are refined: a promptable model against classical methods.

    .venv/bin/pip install opencv-contrib-python-headless
    .venv/bin/python benchmarks/refinement.py --camvid DIR --ade20k DIR --json FILE

True masks (a class in an image, or a drawn region) are given one fault and seen at a student's
stride, as in `tsic.pretrain.prompts`; every method gets the same logits and the same image. What
counts is the IoU with the truth at the image's size, mean over masks. Methods: `prompt` (the logits
resized bilinearly), the model (`rounds 2`: asked again with its own answer), the same architecture
with random weights, GrabCut (OpenCV; sure where the prompt's probability is below 0.1 or above 0.9,
five iterations) and the guided filter (OpenCV; radius half the stride, regularisation 1e-2, of the
prompt's probability). Both rivals have the best settings of those tried on such images: margins
of 0.1, 0.02 or a band of half a stride around the edge, one or five iterations; a radius of one or
half a stride, regularisation 1e-4 to 1e-2, probabilities or logits.
"""

import argparse
import json
import platform
import statistics
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tsic.data.readers import open_dataset
from tsic.pictures import panel, save_png, to_pixels
from tsic.pretrain.leaves import draw_leaves
from tsic.pretrain.losses import iou_of
from tsic.pretrain.pictures import tinted
from tsic.pretrain.promptable import Promptable
from tsic.pretrain.prompts import choose_targets, drop, merge, shift, student_logits, swell
from tsic.pretrain.regions import Regions, regions_of_classes
from tsic.pretrain.sources import streets
from tsic.teacher.sam import load_foundation

FAULTS = {fault.__name__: fault for fault in (swell, shift, drop, merge)}
FAULTY = ("none", *FAULTS)
MASKS = 4
Method = Callable[[Tensor, Tensor, int], Tensor]


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="embedded", help="a value of teacher.name")
    parser.add_argument("--camvid", type=Path, help="CamVid; its split val is used")
    parser.add_argument("--ade20k", type=Path, help="folder with images and annotations")
    parser.add_argument("--images", type=int, default=12, help="images of each kind")
    parser.add_argument("--size", type=int, nargs=2, default=[240, 320], help="height and width")
    parser.add_argument("--strides", type=int, nargs="+", default=[8, 16])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--pictures", type=Path, help="prompt, answer and truth of some masks")
    options = parser.parse_args()
    methods = all_methods(options.model)
    found: dict[tuple[str, int, str, str], list[float]] = defaultdict(list)
    tiles = []
    for data, number, regions in images(options):
        rng = np.random.default_rng((number, zlib.crc32(data.encode())))
        targets, others = choose_targets(rng, regions, [False] * MASKS)
        image = torch.from_numpy(regions.image).permute(2, 0, 1)
        for stride in options.strides:
            for fault in FAULTY:
                faulty = [
                    FAULTS[fault](rng, mask.float(), other.float()) if fault != "none" else mask
                    for mask, other in zip(targets, others, strict=True)
                ]
                logits = torch.stack([student_logits(rng, m.float(), stride) for m in faulty])
                for name, method in methods.items():
                    answers = upsampled(method(image, logits, stride), targets.shape[-2:])
                    ious = iou_of(answers, targets.float())
                    found[data, stride, fault, name] += ious[targets.any(2).any(1)].tolist()
                    if name == "model" and stride == 16 and fault == "swell" and number < 2:
                        shown = (logits[0], answers[0], targets[0] * 20.0 - 10)
                        tiles.append([to_pixels(image), *(tinted(image, m) for m in shown)])
    write(options, found)
    if options.pictures:
        save_png(panel(tiles, ["image", "prompt", "answer", "truth"]), options.pictures)


def images(options: argparse.Namespace) -> Iterator[tuple[str, int, Regions]]:
    """Images that the embedded model never saw: their kind, their number, their regions."""
    height, width = options.size
    for i in range(options.images):
        yield "leaves", i, draw_leaves(np.random.default_rng((9, i)), height, width)
        yield "streets", i, streets(np.random.default_rng((9, i)), height, width)
    sets = {"camvid": options.camvid, "ade20k": options.ade20k}
    for name, root in sets.items():
        if root is None:
            continue
        pairs = camvid(root, options.images) if name == "camvid" else ade20k(root)
        for i, (image, labels) in enumerate(pairs):
            small = F.interpolate(
                image[None].float(), (height, width), mode="bilinear", antialias=True
            )
            ids = F.interpolate(labels[None, None].float(), (height, width), mode="nearest-exact")
            pixels = small[0].round().byte().permute(1, 2, 0).numpy()
            yield name, i, regions_of_classes(pixels, ids[0, 0].byte().numpy())


def camvid(root: Path, count: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Images and labels spread over the validation split."""
    dataset = open_dataset("camvid", str(root), "val", None)
    for i in range(0, len(dataset), max(1, len(dataset) // count)):
        yield dataset.read(i)


def ade20k(root: Path) -> Iterator[tuple[Tensor, Tensor]]:
    """All images with SceneParsing's labels; 0 is ignored."""
    for path in sorted((root / "images").rglob("*.jpg")):
        image = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
        mask = next((root / "annotations").rglob(f"{path.stem}.png"))
        labels = cv2.imread(str(mask), cv2.IMREAD_GRAYSCALE)
        labels[labels == 0] = 255
        yield torch.from_numpy(image).permute(2, 0, 1), torch.from_numpy(labels)


def all_methods(model: str) -> dict[str, Method]:
    """Every method by name: image, logits ``(N, h, w)`` and stride to logits ``(N, h', w')``."""
    torch.manual_seed(0)
    trained = Promptable(load_foundation(model)).eval()
    blank = Promptable(load_foundation("tiny-edgetam")).eval()
    return {
        "prompt": lambda image, logits, stride: logits,
        "model": lambda image, logits, stride: ask(trained, image, logits, 1),
        "model, rounds 2": lambda image, logits, stride: ask(trained, image, logits, 2),
        "random weights": lambda image, logits, stride: ask(blank, image, logits, 1),
        "grabcut": grabcut,
        "guided filter": guided,
    }


@torch.inference_mode()
def ask(model: Promptable, image: Tensor, logits: Tensor, rounds: int) -> Tensor:
    """Answers of a promptable model."""
    return model.refine(image[None].float() / 255, logits[None], rounds=rounds)[0]


def grabcut(image: Tensor, logits: Tensor, stride: int) -> Tensor:
    """GrabCut from the prompt's probabilities; masks without both sides stay as they are."""
    pixels = cv2.cvtColor(image.permute(1, 2, 0).contiguous().numpy(), cv2.COLOR_RGB2BGR)
    answers = []
    for logit in upsampled(logits, image.shape[-2:]):
        share = logit.sigmoid().numpy()
        trimap = np.where(share > 0.5, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
        trimap[share > 0.9] = cv2.GC_FGD
        trimap[share < 0.1] = cv2.GC_BGD
        is_front = (trimap == cv2.GC_FGD) | (trimap == cv2.GC_PR_FGD)
        if 10 < is_front.sum() < is_front.size - 10:
            models = np.zeros((1, 65)), np.zeros((1, 65))
            cv2.setRNGSeed(0)
            cv2.grabCut(pixels, trimap, None, *models, 5, cv2.GC_INIT_WITH_MASK)
        front = (trimap == cv2.GC_FGD) | (trimap == cv2.GC_PR_FGD)
        answers.append(torch.from_numpy(front).float() * 20 - 10)
    return torch.stack(answers)


def guided(image: Tensor, logits: Tensor, stride: int) -> Tensor:
    """Guided filter of the prompt's probabilities."""
    guide = image.permute(1, 2, 0).contiguous().numpy().astype(np.float32) / 255
    shares = upsampled(logits, image.shape[-2:]).sigmoid().numpy()
    filtered = [cv2.ximgproc.guidedFilter(guide, share, stride // 2, 1e-2) for share in shares]
    return torch.from_numpy(np.stack(filtered)).clamp(1e-4, 1 - 1e-4).logit()


def upsampled(logits: Tensor, size: tuple[int, ...]) -> Tensor:
    """Resize ``(N, h, w)`` bilinearly."""
    return F.interpolate(logits[None], tuple(size), mode="bilinear", align_corners=False)[0]


def write(options: argparse.Namespace, found: dict[tuple[str, int, str, str], list[float]]) -> None:
    """Print means over faults, write all."""
    rows = [
        {
            "data": data,
            "stride": stride,
            "fault": fault,
            "method": method,
            "masks": len(ious),
            "iou": 100 * statistics.fmean(ious),
        }
        for (data, stride, fault, method), ious in found.items()
    ]
    methods = list(dict.fromkeys(row["method"] for row in rows))
    print(f"{'':20}" + "".join(f"{name:>18}" for name in methods))
    for data, stride in dict.fromkeys((row["data"], row["stride"]) for row in rows):
        cells = [
            statistics.fmean(
                row["iou"]
                for row in rows
                if (row["data"], row["stride"], row["method"]) == (data, stride, method)
            )
            for method in methods
        ]
        print(f"{data:10} stride {stride:2} " + "".join(f"{cell:18.2f}" for cell in cells))
    if options.json:
        written = {
            "machine": platform.machine(),
            "torch": torch.__version__,
            "opencv": cv2.__version__,
            "model": options.model,
            "size": options.size,
            "rows": rows,
        }
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(written, indent=1))


if __name__ == "__main__":
    main()
