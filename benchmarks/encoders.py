"""Which small encoder learns to refine masks best in the same CPU time.

    .venv/bin/python benchmarks/encoders.py --seconds 900 --json FILE

Each candidate gets the same prompt encoder and mask decoder (128 channels), the same seed, the same
drawn images (dead leaves, 128x128, 8 images of 8 prompts a step) and the same CPU seconds of
training on one thread; drawing does not count. The learning rate rises over 100 steps and falls
linearly to 0. Scored is the mean IoU on 96 held-out images: of the prompts, of the answers to mask
prompts, of those to points and boxes.
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers.models.edgetam.modeling_edgetam import EdgeTamModel
from transformers.models.sam.modeling_sam import SamModel
from transformers.models.sam2.modeling_sam2 import Sam2Model

from tsic.pretrain.data import PromptedBatch, PromptedImages, collate
from tsic.pretrain.leaves import draw_leaves
from tsic.pretrain.losses import answer_loss
from tsic.pretrain.module import iou_on
from tsic.pretrain.promptable import Promptable, PromptBatch
from tsic.teacher.foundation import Foundation
from tsic.teacher.refiner import Refiner
from tsic.teacher.sam import EdgeTam, Sam, Sam2
from tsic.teacher.small import prepare

DIM, SIZE, BATCH = 128, 128, 8
DECODER = {"hidden_size": DIM, "mlp_dim": 512, "iou_head_hidden_dim": DIM}


def main() -> None:
    """Train one after another."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=900, help="CPU seconds for each")
    parser.add_argument("--encoders", nargs="+", default=list(ENCODERS), choices=ENCODERS)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for name in options.encoders:
        torch.manual_seed(0)
        rows.append({"encoder": name, **train(ENCODERS[name](), options.seconds)})
        print(rows[-1], flush=True)
        if options.json:
            about = {"machine": platform.machine(), "torch": torch.__version__}
            options.json.parent.mkdir(parents=True, exist_ok=True)
            options.json.write_text(
                json.dumps({**about, **vars(options), "rows": rows}, indent=1, default=str)
            )


def train(foundation: Foundation, seconds: float, lr: float = 1e-3) -> dict[str, float]:
    """Train for so many CPU seconds."""
    model = Promptable(foundation).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.01)
    shown = images("train")
    used, step = 0.0, 0
    while used < seconds:
        batch = load(shown, step * BATCH)
        start = time.process_time()
        for group in optimizer.param_groups:
            group["lr"] = lr * min(1, (step + 1) / 100) * (1 - used / seconds)
        logits, ious, targets, _ = ask(model, batch)
        mask, error = answer_loss(logits, ious, targets)
        optimizer.zero_grad()
        (mask + error).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        used, step = used + time.process_time() - start, step + 1
    millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    return {"parameters_m": millions, "steps": step, **score(model.eval())}


@torch.no_grad()
def score(model: Promptable) -> dict[str, float]:
    """Mean IoU on held-out images, in percent."""
    found: dict[str, list[float]] = {"prompt": [], "answer": [], "point": []}
    for first in range(0, 96, BATCH):
        logits, _, targets, prompts = ask(model, load(images("val"), first))
        there = targets.flatten(1).any(1)
        masks, points = there & prompts.has_mask, there & ~prompts.has_mask
        found["prompt"] += iou_on(prompts.masks[:, 0], targets)[masks].tolist()
        found["answer"] += iou_on(logits[:, 0], targets)[masks].tolist()
        found["point"] += iou_on(logits[:, 0], targets)[points].tolist()
    return {f"{name}_iou": 100 * statistics.fmean(ious) for name, ious in found.items()}


def ask(
    model: Promptable, batch: PromptedBatch
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, PromptBatch]:
    """Answers, expected IoUs, targets and prompts."""
    count, each = batch["masks"].shape[:2]
    prompts = PromptBatch(
        torch.arange(count).repeat_interleave(each),
        batch["masks"].flatten(0, 1)[:, None],
        batch["has_mask"].flatten(0, 1),
        batch["points"].flatten(0, 1),
        batch["point_labels"].flatten(0, 1),
    )
    logits, ious = model.answer(model.embed(batch["images"].float() / 255), prompts)
    return logits, ious, batch["targets"].flatten(0, 1), prompts


def images(purpose: str) -> PromptedImages:
    """Dead leaves."""
    sizes = [(SIZE, SIZE)]
    return PromptedImages([(draw_leaves, 1.0)], 0, purpose, sizes=sizes, per_step=BATCH, prompts=8)


def load(shown: PromptedImages, first: int) -> PromptedBatch:
    """One batch."""
    batch: Any = collate([shown[first + i, 0] for i in range(BATCH)])
    return batch


def parts(vision: Any, prompt: Any, decoder: Any) -> dict[str, Any]:
    """The three configurations of a SAM-family model."""
    return {
        "vision_config": vision,
        "prompt_encoder_config": prompt,
        "mask_decoder_config": decoder,
    }


def vit() -> Foundation:
    """A plain ViT as SAM's: eight blocks of 192 channels, every second one global."""
    vision = transformers.SamVisionConfig(
        hidden_size=192,
        output_channels=DIM,
        num_hidden_layers=8,
        num_attention_heads=4,
        image_size=SIZE,
        window_size=4,
        global_attn_indexes=[1, 3, 5, 7],
        num_pos_feats=DIM // 2,
        initializer_range=0.02,
    )
    prompt = transformers.SamPromptEncoderConfig(hidden_size=DIM, image_size=SIZE)
    decoder = transformers.SamMaskDecoderConfig(**DECODER)
    return Sam(prepare(SamModel(transformers.SamConfig(**parts(vision, prompt, decoder)))))


def hiera() -> Foundation:
    """A hierarchical encoder as SAM 2's: 32 to 256 channels, nine blocks."""
    backbone = transformers.Sam2HieraDetConfig(
        hidden_size=32,
        blocks_per_stage=[1, 2, 5, 1],
        embed_dim_per_stage=[32, 64, 128, 256],
        num_attention_heads_per_stage=[1, 2, 4, 8],
        window_size_per_stage=[8, 4, 8, 8],
        global_attention_blocks=[5, 7],
    )
    vision = transformers.Sam2VisionConfig(
        backbone_config=backbone,
        backbone_channel_list=[256, 128, 64, 32],
        fpn_hidden_size=DIM,
        fpn_top_down_levels=[0, 1, 2, 3],
    )
    prompt = transformers.Sam2PromptEncoderConfig(hidden_size=DIM)
    decoder = transformers.Sam2MaskDecoderConfig(**DECODER)
    return Sam2(prepare(Sam2Model(transformers.Sam2Config(**parts(vision, prompt, decoder)))))


def convolutional(architecture: str, widths: list[int], **options: Any) -> Foundation:
    """A convolutional encoder as EdgeTAM's, of timm."""
    backbone = transformers.TimmWrapperConfig(
        architecture=architecture, model_args={"features_only": True, **options}
    )
    vision = transformers.EdgeTamVisionConfig(
        backbone_config=backbone,
        backbone_channel_list=widths[::-1],
        fpn_hidden_size=DIM,
        fpn_top_down_levels=[0, 1, 2, 3],
    )
    prompt = transformers.EdgeTamPromptEncoderConfig(hidden_size=DIM)
    decoder = transformers.EdgeTamMaskDecoderConfig(**DECODER)
    return EdgeTam(
        prepare(EdgeTamModel(transformers.EdgeTamConfig(**parts(vision, prompt, decoder))))
    )


def resnet() -> Foundation:
    """ResNet-18 with 32 to 256 channels and group norm."""
    widths = [32, 64, 160, 256]
    options = {"channels": widths, "norm_layer": "groupnorm", "out_indices": [1, 2, 3, 4]}
    return convolutional("resnet18", widths, **options)


def convnext() -> Foundation:
    """ConvNeXt-Atto."""
    return convolutional("convnext_atto", [40, 80, 160, 320], out_indices=[0, 1, 2, 3])


def refined() -> Foundation:
    """The same with a refiner: the embedded model's."""
    foundation = resnet()
    foundation.refiner = Refiner(foundation.hidden_channels[0], DIM, width=16)
    return foundation


ENCODERS: dict[str, Callable[[], Foundation]] = {
    "resnet18 32-256": resnet,
    "resnet18 32-256, refiner": refined,
    "convnext_atto": convnext,
    "hiera 32-256": hiera,
    "vit 192x8": vit,
}

if __name__ == "__main__":
    main()
