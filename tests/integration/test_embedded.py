"""The model that ships with the package."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml

from tsic.pretrain.leaves import draw_leaves
from tsic.pretrain.losses import iou_of
from tsic.pretrain.promptable import Promptable
from tsic.pretrain.prompts import choose_targets, coarse_masks
from tsic.pretrain.sources import Source, streets
from tsic.teacher import build_teacher
from tsic.teacher.sam import EMBEDDED, load_foundation


@pytest.fixture(scope="module")
def embedded() -> Promptable:
    return Promptable(load_foundation("embedded")).eval()


def test_it_is_small(embedded: Promptable) -> None:
    assert sum(parameter.numel() for parameter in embedded.parameters()) <= 6_000_000
    assert sum(file.stat().st_size for file in EMBEDDED.iterdir()) <= 12 * 2**20


def test_it_is_of_the_architecture_that_pretraining_starts_from(embedded: Promptable) -> None:
    fresh = load_foundation("tiny-edgetam")
    shapes = {name: tensor.shape for name, tensor in fresh.state_dict().items()}
    shipped = embedded.foundation.state_dict()
    assert {name: tensor.shape for name, tensor in shipped.items()} == shapes
    prefix = "model.shared_image_embedding", "model.prompt_encoder.shared_embedding"
    tables = [shipped[f"{one}.positional_embedding"] for one in prefix]
    assert torch.equal(*tables)
    assert all(tensor.isfinite().all() for tensor in shipped.values())


@pytest.mark.parametrize("source", [draw_leaves, streets])
@torch.no_grad()
def test_its_answers_are_better_than_their_prompts(embedded: Promptable, source: Source) -> None:
    """On drawn images that neither training nor validation saw."""
    gains = []
    for seed in range(16):
        rng = np.random.default_rng((11, seed))
        regions = source(rng, 160, 192)
        targets, others = choose_targets(rng, regions, [True, False, False, False])
        prompts = coarse_masks(rng, targets, others)
        image = torch.from_numpy(regions.image).permute(2, 0, 1).float() / 255
        answers = embedded.refine(image[None], prompts[None])[0]
        ious = [
            iou_of(F.interpolate(m[None], (160, 192), mode="bilinear")[0], targets.float())
            for m in (prompts, answers)
        ]
        gains += (ious[1] - ious[0])[targets.any(2).any(1)].tolist()
    assert np.mean(gains) > 0.02, np.mean(gains)


def test_it_teaches() -> None:
    teacher = build_teacher("embedded", num_classes=3, channels=16).eval()
    with torch.no_grad():
        answer = teacher(torch.rand(1, 3, 50, 60), torch.randn(1, 3, 7, 8))
    assert answer.logits.shape[:2] == (1, 3)
    assert answer.masks is not None


def test_its_card_says_what_made_it() -> None:
    card = (EMBEDDED / "README.md").read_text()
    config = Path(__file__).parents[2] / "configs" / "pretrain" / "embedded.yaml"
    assert f"{yaml.safe_load(config.read_text())['max_steps']} steps" in card.replace(",", "")
    assert "tsic pretrain --config configs/pretrain/embedded.yaml" in card
