"""What every teacher promises, whichever foundation model, prompt and mapping decoder it has."""

import copy
import math
from collections.abc import Iterator
from functools import lru_cache, partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tsic.config import OptimConfig
from tsic.cycle import Cycle, CycleOutput
from tsic.errors import ConfigError, ShapeError
from tsic.options import Objective
from tsic.prompt import LOGIT_RANGE, class_log_odds, class_prompts, index_prompt
from tsic.recipes import network_of
from tsic.student import build_student
from tsic.teacher import Teacher, build_teacher
from tsic.teacher import teacher as teacher_module
from tsic.teacher.mapping import LightMapping, PromptedMasks, UperMapping
from tsic.teacher.sam import _resized as resize_positions
from tsic.training.optim import build_optimizer

NAMES = ("tiny-sam", "tiny-sam2", "tiny-edgetam", "tiny-mobile-sam")
KINDS = [
    *((prompt, mapping) for prompt in ("none", "index", "class") for mapping in ("light", "uper")),
    ("index", "uper-released"),
]
CLASSES = 3
SIZES = [(90, 120), (65, 97), (48, 64)]

names = pytest.mark.parametrize("name", NAMES)


def teachers(*kinds: tuple[str, str]) -> pytest.MarkDecorator:
    """Every name with every kind that it can be; MobileSAM has no maps for UPerNet."""
    cases = [
        (name, *kind)
        for name in NAMES
        for kind in kinds
        if name != "tiny-mobile-sam" or kind[1] == "light"
    ]
    return pytest.mark.parametrize(("name", "prompt", "mapping"), cases)


@pytest.fixture(autouse=True, scope="module")
def _narrow_neck() -> Iterator[None]:
    """UPerNet with a neck of 16 instead of 768 channels."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(teacher_module, "UperMapping", partial(UperMapping, neck_channels=16))
        yield


def built(name: str, **kwargs: Any) -> Teacher:
    """A small teacher in training mode whose random weights depend on the arguments alone.

    Its prompt and mask decoders are drawn at torch's scale: transformers' (0.02 everywhere, for
    weights that get loaded) gives masks of 1e-4, in which no prompt can be seen.
    """
    torch.manual_seed(0)
    teacher = build_teacher(name, **{"num_classes": CLASSES, "channels": 16} | kwargs)
    torch.manual_seed(1)
    model = teacher.foundation.model
    for module in (*model.prompt_encoder.mask_embed.modules(), *model.mask_decoder.modules()):
        if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            module.reset_parameters()
    return teacher


@lru_cache
def shared(name: str, prompt: Any, mapping: Any) -> Teacher:
    """A teacher in evaluation mode that no test changes."""
    return built(name, prompt=prompt, mapping=mapping).eval()


def scores(height: int = 48, width: int = 64, classes: int = CLASSES) -> Tensor:
    """A student's logits at stride 4, decided enough that the masks matter."""
    return 4 * torch.randn(2, classes, -(-height // 4), -(-width // 4))


def wake(teacher: Teacher) -> Teacher:
    """Set the fusion weights, which start at zero, as if training had found the masks useful."""
    assert isinstance(teacher.mapping, LightMapping)
    assert teacher.mapping.guide is not None
    nn.init.normal_(teacher.mapping.guide.weight)
    if teacher.mapping.class_gain is not None:
        nn.init.constant_(teacher.mapping.class_gain, 0.5)
    return teacher


# --- Shapes and registration --------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
@teachers(*KINDS)
def test_maps_cover_the_image(name: str, prompt: str, mapping: str, size: tuple[int, int]) -> None:
    teacher = shared(name, prompt, mapping)
    with torch.no_grad():
        out = teacher(torch.rand(2, 3, *size), scores(*size))

    def grid(stride: int) -> tuple[int, int]:
        return -(-size[0] // stride), -(-size[1] // stride)

    assert out.logits.shape == (2, CLASSES, *grid(4))
    light = mapping == "light"
    dim = teacher.foundation.dim
    assert out.features.shape == (2, 16 if light else dim, *grid(8 if light else 16))
    assert out.logits.isfinite().all()
    assert out.features.isfinite().all()
    if prompt == "none":
        assert out.masks is None
    else:
        assert out.masks is not None
        assert out.masks.shape == (2, 3, *grid(4))
    if prompt == "class":
        assert out.class_ids is not None
        assert out.class_ids.sort(1).values.tolist() == [[0, 1, 2]] * 2
    else:
        assert out.class_ids is None


@pytest.mark.parametrize("mapping", ["light", "uper"])
def test_a_mapping_decoder_is_as_wide_as_asked(mapping: str) -> None:
    teacher = built("tiny-sam", mapping=mapping, channels=24)
    *_, last = (one for one in teacher.modules() if isinstance(one, nn.Conv2d))
    assert (last.in_channels, last.out_channels) == (24, CLASSES)


@names
def test_masks_lie_at_the_public_codes_stride_where_asked(name: str) -> None:
    out = built(name, prompt="index", mask_stride=4)(torch.rand(1, 3, 33, 50), scores(33, 50)[:1])
    assert out.masks is not None
    assert out.masks.shape == (1, 3, 33, 50)


@pytest.mark.parametrize(("classes", "expected"), [(3, 3), (19, 8)])
@names
def test_class_prompts_number_at_most_max_classes(name: str, classes: int, expected: int) -> None:
    teacher = wake(built(name, num_classes=classes))
    logits = scores(classes=classes)
    out = teacher(torch.rand(2, 3, 48, 64), logits)
    assert out.logits.shape == (2, classes, 12, 16)
    assert out.masks is not None
    assert out.masks.shape == (2, expected, 12, 16)
    chosen = class_prompts(logits, 8, has_gradient=False).class_ids
    assert out.class_ids is not None
    assert chosen is not None
    assert torch.equal(out.class_ids, chosen)


@pytest.mark.parametrize("prompt", ["none", "index", "class"])
@names
def test_image_that_needs_padding_is_registered_as_if_padded_by_hand(
    name: str, prompt: str
) -> None:
    """40x56 of a canvas of 48x64 or 64x64: the parts one by one, on a canvas made here."""
    teacher = shared(name, prompt, "light")
    if prompt != "none":
        teacher = wake(copy.deepcopy(teacher))
    foundation = teacher.foundation
    images, logits = torch.rand(1, 3, 40, 56), scores(40, 56)[:1]
    below, right = -40 % foundation.multiple, -56 % foundation.multiple
    masks = None
    with torch.no_grad():
        out = teacher(images, logits)
        padded = F.pad((images - foundation.mean) / foundation.std, (0, right, 0, below))
        embedding = foundation.encode(padded, with_levels=False)

        def decoded(prompts: Tensor, fill: float, *, multimask: bool) -> Tensor:
            """Masks of ``(1, N, 10, 14)`` prompts, one at a time."""
            placed = F.pad(prompts, (0, right // 4, 0, below // 4), value=fill)
            answers = [
                foundation.answer(
                    embedding,
                    one[:, None],
                    None if multimask else foundation.blank_token().expand(1, 1, -1),
                    multimask=multimask,
                )[0]
                for one in placed.unbind(1)
            ]
            return torch.cat(answers, 1)

        if prompt == "index":
            three = decoded(index_prompt(logits).masks, 0.0, multimask=True)
            masks = PromptedMasks(three, three, None)
        elif prompt == "class":
            each = decoded(class_log_odds(logits), -LOGIT_RANGE, multimask=False)
            masks = PromptedMasks(each, each, torch.arange(CLASSES)[None])
        whole, features = teacher.mapping(padded, embedding, masks)
    torch.testing.assert_close(out.logits, whole[:, :, :10, :14], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(out.features, features[:, :, :5, :7], rtol=1e-4, atol=1e-5)
    if masks is not None:
        assert out.masks is not None
        expected = masks.logits
        if out.class_ids is not None:
            expected = expected[:, out.class_ids[0]]
        torch.testing.assert_close(out.masks, expected[:, :, :10, :14], rtol=1e-4, atol=1e-5)


@names
def test_classes_without_a_prompt_are_nowhere_beside_the_image(name: str) -> None:
    """40x56 of a larger canvas; one of three classes is prompted."""
    teacher, logits = built(name, max_classes=1), scores(40, 56)[:1]
    with torch.no_grad():
        canvas, padded = teacher.foundation.place(torch.rand(1, 3, 40, 56))
        masks = teacher.decode_masks(teacher.embed(padded), logits, canvas)
    assert masks is not None
    assert masks.class_ids is not None
    rest = [k for k in range(CLASSES) if k != masks.class_ids.item()]
    bare = masks.guide[0, rest]
    torch.testing.assert_close(bare[:, :10, :14], class_log_odds(logits)[0, rest])
    beside = torch.ones_like(bare, dtype=torch.bool)
    beside[:, :10, :14] = False
    assert beside.any()
    assert (bare[beside] == -LOGIT_RANGE).all()


# --- Who influences whom ------------------------------------------------------------------------


@pytest.mark.parametrize("prompt", ["index", "class"])
@names
def test_light_teacher_starts_without_prompt_and_then_listens_to_the_student(
    name: str, prompt: str
) -> None:
    teacher = shared(name, prompt, "light")
    images, one, other = torch.rand(2, 3, 48, 64), scores(), scores()
    with torch.no_grad():
        start = teacher(images, one).logits
        assert torch.equal(teacher(images, other).logits, start)
        without = copy.copy(teacher)
        without.prompt = "none"
        assert torch.equal(without(images, one).logits, start)
        teacher = wake(copy.deepcopy(teacher))
        change = teacher(images, one).logits - teacher(images, other).logits
    assert change.abs().max() > 1e-3


@names
def test_cycle_teacher_listens_after_one_optimiser_step(name: str) -> None:
    cycle = cycle_of(name)
    train(cycle, 1)
    assert cycle.teacher is not None
    teacher = cycle.teacher.eval()
    images, one, other = torch.rand(2, 3, 48, 64), scores(), scores()
    with torch.no_grad():
        change = teacher(images, one).logits - teacher(images, other).logits
    assert change.abs().max() > 1e-6


@pytest.mark.parametrize("recipe", ["paper", "release"])
@pytest.mark.parametrize("name", NAMES[:3])
def test_uper_teacher_listens_if_and_only_if_repaired(name: str, recipe: str) -> None:
    # In training mode, where batch norm keeps features at scale 1.
    teacher = built(name, **network_of(recipe))
    assert isinstance(teacher.mapping, UperMapping)
    teacher.mapping.dropout.p = 0.0
    images, one, other = torch.rand(2, 3, 48, 64), scores(), scores()
    with torch.no_grad():
        change = teacher(images, one).logits - teacher(images, other).logits
    if recipe == "paper":
        assert change.abs().max() > 1e-5
    else:
        assert not change.any()


@pytest.mark.parametrize("prompt", ["index", "class"])
@names
def test_rounds_change_the_masks(name: str, prompt: str) -> None:
    images, logits = torch.rand(2, 3, 48, 64), scores()
    with torch.no_grad():
        once, twice = (
            built(name, prompt=prompt, rounds=rounds).eval()(images, logits).masks
            for rounds in (1, 2)
        )
    assert once is not None
    assert twice is not None
    assert once.shape == twice.shape
    assert (once - twice).abs().max() > 1e-4


@pytest.mark.parametrize("prompt", ["index", "class"])
def test_each_round_prompts_with_the_answer_before(
    prompt: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher = built("tiny-sam", prompt=prompt, rounds=3).eval()
    asked, answered = [], []
    decode = teacher.foundation.answer

    def answer(embedding: Any, masks: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        logits, ious = decode(embedding, masks, *args, **kwargs)
        asked.append(masks)
        answered.append(1000 * logits)
        return answered[-1], ious

    monkeypatch.setattr(teacher.foundation, "answer", answer)
    with torch.no_grad():
        teacher(torch.rand(2, 3, 48, 64), scores())
    assert len(asked) == 3
    for before, after in zip(answered[:-1], asked[1:], strict=True):
        best = before.amax(1, keepdim=True)  # an index prompt has three answers
        assert best.abs().max() > LOGIT_RANGE
        assert torch.equal(after, best.clamp(-LOGIT_RANGE, LOGIT_RANGE))


def test_classes_without_a_prompt_are_guided_by_what_the_student_says() -> None:
    teacher = built("tiny-sam", max_classes=1).eval()
    assert isinstance(teacher.mapping, LightMapping)
    guides: list[Tensor] = []
    teacher.mapping.register_forward_pre_hook(lambda _, given: guides.append(given[2].guide))
    logits = scores()
    with torch.no_grad():
        out = teacher(torch.rand(2, 3, 48, 64), logits)
    expected = class_log_odds(logits)
    for image, number in enumerate(out.class_ids[:, 0]):
        expected[image, number] = out.masks[image, 0]
    torch.testing.assert_close(guides[0], expected)


@names
def test_class_tokens_start_as_no_point_and_tell_classes_apart(name: str) -> None:
    teacher = built(name).eval()
    images, logits = torch.rand(1, 3, 48, 64), scores()[:1]
    assert teacher.class_tokens is not None
    with torch.no_grad():
        before = teacher(images, logits)
        teacher.class_tokens.weight[1] = 5.0
        after = teacher(images, logits)
    changed = (before.masks - after.masks).abs().amax((2, 3))[0] > 0
    assert torch.equal(changed, before.class_ids[0] == 1)


# --- What trains --------------------------------------------------------------------------------


def cycle_of(name: str, objective: Objective | None = None, **kwargs: Any) -> Cycle:
    teacher = built(name, **kwargs)
    student = build_student("compact", num_classes=CLASSES, options={"width": 0.25})
    return Cycle(student, teacher, objective)


def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    labels = torch.randint(0, CLASSES, (2, 6, 8), generator=generator)
    labels = labels.repeat_interleave(8, 1).repeat_interleave(8, 2)
    labels[:, :3] = 255
    return torch.rand(2, 3, 48, 64, generator=generator), labels


def train(cycle: Cycle, steps: int) -> CycleOutput:
    """Some optimiser steps; the gradients of the last are kept."""
    optimizer, _ = build_optimizer(cycle, OptimConfig(lr=1e-3), 100)
    for _ in range(steps):
        optimizer.zero_grad()
        out: CycleOutput = cycle(*batch())
        out.total.backward()
        optimizer.step()
    return out


def learning(module: nn.Module) -> dict[str, bool]:
    """Whether each trainable parameter has a gradient that is not all zero."""
    return {
        name: p.grad is not None and bool(p.grad.any())
        for name, p in module.named_parameters()
        if p.requires_grad
    }


@names
def test_one_step_reaches_every_part_and_leaves_frozen_weights_bit_identical(name: str) -> None:
    cycle = cycle_of(name)
    teacher = cycle.teacher
    assert teacher is not None
    frozen = {n: p.clone() for n, p in cycle.named_parameters() if not p.requires_grad}
    encoder = {n for n, _ in teacher.foundation.encoder.named_parameters()}
    assert {n.split("encoder.", 1)[1] for n in frozen if "vision_encoder" in n} == {
        n for n in encoder if not n.endswith((".down", ".up", ".up_q", ".up_v"))
    }
    model = teacher.foundation.model

    train(cycle, 1)
    assert all(learning(model.prompt_encoder.mask_embed).values())
    # A class prompt asks for one mask and for no quality or presence score.
    others = (
        "iou_prediction_head",
        "pred_obj_score_head",
        *(f"output_hypernetworks_mlps.{n}" for n in (1, 2, 3)),
    )
    idle = {n for n, learns in learning(model.mask_decoder).items() if not learns}
    assert idle == {n for n in learning(model.mask_decoder) if n.startswith(others)}
    assert isinstance(teacher.mapping, nn.Module)
    assert all(learning(teacher.mapping).values())
    lora = learning(teacher.foundation.encoder)
    ups = {"up"} if name == "tiny-edgetam" else {"up_q", "up_v"}
    assert {n.rsplit(".")[-1] for n in lora} == {"down", *ups}
    assert {n.rsplit(".")[-1] for n, learns in lora.items() if learns} == ups

    train(cycle, 1)
    lora = learning(teacher.foundation.encoder)
    assert all(lora.values())
    now = dict(cycle.named_parameters())
    assert all(torch.equal(now[n], before) for n, before in frozen.items())
    assert all(p.grad is None for p in now.values() if not p.requires_grad)


@names
def test_the_embedding_covers_the_image_and_hints_reach_the_student(name: str) -> None:
    cycle = cycle_of(name, Objective(feature_loss="hint"))
    images, labels = batch()
    out: CycleOutput = cycle(images[:, :, :40, :56], labels[:, :40, :56])
    assert out.teacher is not None
    assert out.teacher.embedding is not None
    assert out.teacher.embedding.shape[-2:] == (3, 4)
    out.losses["feature"].backward()
    assert cycle.hint is not None
    assert all(learning(cycle.hint).values())
    assert any(learning(cycle.student).values())
    assert cycle.teacher is not None
    assert not any(learning(cycle.teacher).values())


@pytest.mark.parametrize("gradient", ["through", "stop"])
@pytest.mark.parametrize("term", ["mask", "teacher_ce"])
@names
def test_gradient_reaches_the_student_through_the_prompt_if_and_only_if_asked(
    name: str, gradient: str, term: str
) -> None:
    objective = Objective(kl_weight=0, feature_weight=0, ensemble_weight=0)
    cycle = cycle_of(name, objective, gradient=gradient)
    assert cycle.teacher is not None
    wake(cycle.teacher)
    out: CycleOutput = cycle(*batch())
    weights = list(cycle.student.parameters())
    alone = torch.autograd.grad(out.losses["student_ce"], weights, retain_graph=True)
    both = torch.autograd.grad(out.losses["student_ce"] + out.losses[term], weights)
    change = sum((one - other).abs().sum().item() for one, other in zip(alone, both, strict=True))
    assert (change > 1e-6) if gradient == "through" else change == 0


@names
def test_index_prompt_sends_the_student_no_gradient(name: str) -> None:
    logits = scores().requires_grad_()
    out = wake(built(name, prompt="index"))(torch.rand(2, 3, 48, 64), logits)
    assert out.masks is not None
    (gradient,) = torch.autograd.grad(out.logits.sum() + out.masks.sum(), logits, allow_unused=True)
    assert gradient is None


# --- The encoder --------------------------------------------------------------------------------


@names
def test_lora_starts_as_the_frozen_encoder_bit_for_bit(name: str) -> None:
    images, logits = torch.rand(2, 3, 48, 64), scores()
    with torch.no_grad():  # with gradient, attention runs another kernel
        adapted, frozen = (built(name, lora_rank=rank)(images, logits) for rank in (4, 0))
    assert torch.equal(adapted.logits, frozen.logits)
    assert torch.equal(adapted.masks, frozen.masks)


def test_frozen_positions_are_resized_once_and_follow_their_table(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sizes = []

    def resized(table: Tensor, size: tuple[int, int]) -> Tensor:
        sizes.append(size)
        return resize_positions(table, size)

    monkeypatch.setattr("tsic.teacher.sam._resized", resized)
    foundation = built("tiny-sam", lora_rank=0).foundation
    table = foundation.model.vision_encoder.pos_embed
    images = torch.rand(1, 3, 32, 48)
    first, again = (foundation.encode(images, with_levels=False).image for _ in range(2))
    assert torch.equal(first, again)
    assert sizes == [(2, 3)]
    nn.init.normal_(table)
    assert not torch.equal(foundation.encode(images, with_levels=False).image, first)
    foundation.encode(images.mT, with_levels=False)
    assert sizes == [(2, 3), (2, 3), (3, 2)]
    foundation.requires_grad_(True)
    foundation.encode(images, with_levels=False).image.square().sum().backward()
    assert table.grad is not None
    assert table.grad.abs().sum() > 0


@names
def test_rank_0_runs_the_encoder_without_gradient(name: str) -> None:
    images = torch.rand(1, 3, 64, 64)
    for rank in (0, 1):
        teacher = built(name, lora_rank=rank)
        adapters = [n for n, p in teacher.foundation.encoder.named_parameters() if p.requires_grad]
        assert bool(adapters) == (rank > 0)
        assert teacher.embed(images).hidden[-1].requires_grad == (rank > 0)


@names
def test_rank_0_still_trains_all_that_the_decoders_own(name: str) -> None:
    """What LoRA at rank 4 trains outside the encoder, rank 0 trains too."""

    def trained(rank: int) -> set[str]:
        cycle = cycle_of(name, lora_rank=rank)
        train(cycle, 1)
        return {n for n, learns in learning(cycle).items() if learns and "vision_encoder" not in n}

    assert trained(0) == trained(4)


@names
def test_trains_encoder_trains_its_own_weights(name: str) -> None:
    cycle = cycle_of(name, trains_encoder=True, lora_rank=0)
    train(cycle, 1)
    assert cycle.teacher is not None
    assert sum(learning(cycle.teacher.foundation.encoder).values()) > 50


@pytest.mark.parametrize("prompt", ["none", "class"])
@names
def test_teacher_without_prompt_trains_lora_and_mapping_only(name: str, prompt: str) -> None:
    teacher = built(name, prompt=prompt)
    parts = {n.split(".")[0] for n, p in teacher.named_parameters() if p.requires_grad}
    inner = {
        n.split(".")[2]
        for n, p in teacher.named_parameters()
        if p.requires_grad and n.startswith("foundation.")
    }
    if prompt == "none":
        assert parts == {"foundation", "mapping"}
        assert inner == {"vision_encoder"}
    else:
        assert parts == {"foundation", "mapping", "class_tokens"}
        assert inner >= {"vision_encoder", "prompt_encoder", "mask_decoder"}
        assert "shared_image_embedding" not in inner


@teachers(("class", "light"), ("index", "uper"))
def test_a_teacher_may_see_images_larger_than_its_student(
    name: str, prompt: Any, mapping: Any
) -> None:
    usual = built(name, prompt=prompt, mapping=mapping).eval()
    larger = built(name, prompt=prompt, mapping=mapping, scale=1.5).eval()
    images, logits = torch.rand(2, 3, 48, 70), scores(48, 70)
    enlarged = F.interpolate(images, (72, 105), mode="bilinear", align_corners=False)
    with torch.no_grad():
        answer, expected = larger(images, logits), usual(enlarged, logits)
    assert answer.logits.shape[-2:] == (18, 27), "stride 4 of what it sees"
    torch.testing.assert_close(answer.logits, expected.logits, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(answer.embedding, expected.embedding)


def test_losses_of_a_teacher_that_sees_images_larger_reach_both() -> None:
    cycle = cycle_of("tiny-sam", scale=2.0)
    out = train(cycle, 1)
    assert out.teacher is not None
    assert out.teacher.logits.shape[-2] > 1.5 * out.student.logits.shape[-2]
    for network in (cycle.student, cycle.teacher):
        assert network is not None
        gradients = [p.grad for p in network.parameters() if p.grad is not None]
        assert gradients
        assert all(gradient.isfinite().all() for gradient in gradients)


@names
def test_recompute_encoder_gives_the_same_loss_and_gradients(name: str) -> None:
    kept, again = (cycle_of(name, recompute_encoder=recompute) for recompute in (False, True))
    calls: list[int] = []
    blocks = [
        m
        for n, m in again.named_modules()
        if n.endswith(("layers.7", "blocks.7", "layer4", "stages.3"))
    ]
    blocks[0].register_forward_pre_hook(lambda *_: calls.append(1))
    losses = [train(cycle, 1).total for cycle in (kept, again)]
    assert len(calls) == 2
    assert torch.equal(losses[0], losses[1])
    for (n, one), other in zip(kept.named_parameters(), again.parameters(), strict=True):
        assert (one.grad is None) == (other.grad is None), n
        if one.grad is not None and other.grad is not None:
            torch.testing.assert_close(other.grad, one.grad)


@pytest.mark.parametrize("name", ["tiny-sam", "tiny-sam2"])
def test_an_encoder_that_learns_whole_is_recomputed_off_a_cpu_too(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tsic.teacher.attention._SPARING", [])
    cycles = [
        cycle_of(name, recompute_encoder=recompute, trains_encoder=True)
        for recompute in (False, True)
    ]
    for cycle in cycles:
        train(cycle, 1)
    kept, again = ([one.grad for one in cycle.parameters()] for cycle in cycles)
    for one, other in zip(kept, again, strict=True):
        torch.testing.assert_close(other, one)


def test_recompute_encoder_refuses_norms_that_would_count_a_step_twice() -> None:
    cycle_of("tiny-sam", recompute_encoder=True, trains_encoder=True)
    with pytest.raises(ConfigError, match=r"recompute_encoder: this encoder's norms count"):
        cycle_of("tiny-mobile-sam", recompute_encoder=True, trains_encoder=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mapping": "uperr"}, r"teacher.mapping cannot be 'uperr'; did you mean 'uper'"),
        ({"prompt": "clas"}, r"teacher.prompt cannot be 'clas'; did you mean 'class'"),
        ({"gradient": "throguh"}, r"teacher.gradient cannot be 'throguh'; did you mean 'through'"),
        ({"mask_stride": 8}, r"teacher.mask_stride cannot be 8; choices: 16, 4"),
        ({"max_classes": 0}, r"teacher.max_classes must be at least 1, got 0"),
        ({"rounds": 0}, r"teacher.rounds must be at least 1, got 0"),
        ({"scale": 0.0}, r"teacher.scale must be above 0, got 0.0"),
        ({"scale": math.nan}, r"teacher.scale must be above 0, got nan"),
        ({"lora_rank": -1}, r"teacher.lora_rank must be at least 0, got -1"),
        ({"name": "none"}, r"'none' is no teacher to build; a Cycle takes None instead"),
    ],
)
def test_mistakes_are_told(arguments: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {"name": "tiny-sam", "num_classes": 3}
    with pytest.raises(ConfigError, match=message):
        build_teacher(**given | arguments)


@pytest.mark.parametrize("images", [torch.zeros(1, 3, 8, 8).byte(), torch.rand(3, 8, 8)])
def test_images_of_another_kind_are_refused(images: Tensor) -> None:
    teacher = build_teacher("tiny-sam", num_classes=3)
    with pytest.raises(ShapeError, match=r"teacher images must be float RGB \(B, 3, H, W\)"):
        teacher(images, torch.zeros(1, 3, 2, 2))


@teachers(("class", "light"), ("index", "uper"))
def test_bfloat16_autocast_gives_finite_losses_and_gradients(
    name: str, prompt: str, mapping: str
) -> None:
    cycle = cycle_of(name, Objective(ensemble_weight=1), prompt=prompt, mapping=mapping)
    for module in cycle.modules():
        if isinstance(module, nn.Dropout2d):
            module.p = 0.0
    exact = cycle(*batch()).losses
    with torch.autocast("cpu", torch.bfloat16):
        out: CycleOutput = cycle(*batch())
    out.total.backward()
    for loss_name, loss in out.losses.items():
        assert loss.dtype == torch.float32
        assert loss.item() == pytest.approx(exact[loss_name].item(), rel=0.1), loss_name
    gradients = [p.grad for p in cycle.parameters() if p.grad is not None]
    assert len(gradients) > 100
    assert all(gradient.isfinite().all() for gradient in gradients)


@names
def test_building_draws_the_same_foundation_and_leaves_the_seed_alone(name: str) -> None:
    torch.manual_seed(1)
    one = build_teacher(name, num_classes=CLASSES, channels=16)
    torch.manual_seed(2)
    other = build_teacher(name, num_classes=CLASSES, channels=16)
    pairs = zip(one.foundation.model.parameters(), other.foundation.model.parameters(), strict=True)
    # LoRA's `down` is drawn from the run's seed, what stands for a checkpoint is not.
    named = [n for n, _ in one.foundation.model.named_parameters()]
    unlike = {
        n.rsplit(".")[-1] for n, pair in zip(named, pairs, strict=True) if not torch.equal(*pair)
    }
    assert unlike == {"down"}
