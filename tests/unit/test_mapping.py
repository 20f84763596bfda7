import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tsic.options import Attention
from tsic.teacher.foundation import Embedding
from tsic.teacher.mapping import LightMapping, PromptedMasks, UperMapping

SAM = (16, 16, 16, 16)
SAM2 = (4, 8, 16, 32)
SIZE = (64, 96)


def embedding_of(strides: tuple[int, ...], channels: int = 12) -> Embedding:
    maps = tuple(torch.randn(2, channels, SIZE[0] // s, SIZE[1] // s) for s in strides)
    return Embedding(torch.randn(2, channels, 4, 6), maps, maps)


def masks_of(guide: Tensor) -> PromptedMasks:
    return PromptedMasks(guide, guide, None)


def light(strides: tuple[int, ...] = SAM, mask_channels: int = 5) -> LightMapping:
    return LightMapping(
        (12,) * 4,
        strides,
        5,
        mask_channels=mask_channels,
        is_per_class=mask_channels == 5,
        channels=16,
    )


def uper(strides: tuple[int, ...] = SAM, attention: Attention = "repaired") -> UperMapping:
    return UperMapping(12, strides, 5, neck_channels=8, channels=8, attention=attention)


IMAGES = torch.rand(2, 3, *SIZE)
GUIDE = torch.randn(2, 5, 16, 24)


@pytest.mark.parametrize("strides", [SAM, SAM2])
@pytest.mark.parametrize("mask_channels", [5, 3, 0])
def test_light_gives_logits_at_stride_4_and_features_at_8(
    strides: tuple[int, ...], mask_channels: int
) -> None:
    masks = masks_of(GUIDE[:, :mask_channels]) if mask_channels else None
    logits, features = light(strides, mask_channels)(IMAGES, embedding_of(strides), masks)
    assert logits.shape == (2, 5, 16, 24)
    assert features.shape == (2, 16, 8, 12)


def test_uper_s_levels_stay_registered_where_sides_are_odd() -> None:
    """The place of each cell, kept by layers that change nothing."""
    mapping = uper()
    for level in range(4):
        mapping.neck_lateral[level] = mapping.neck_out[level] = nn.Identity()
    cells = torch.arange(23.0).view(1, 1, 23, 1).expand(1, 12, 23, 31)
    for found in mapping.neck((cells,) * 4):
        back = F.interpolate(found, (23, 31), mode="bilinear", align_corners=False)
        torch.testing.assert_close(back[..., 2:-2, :], cells[..., 2:-2, :])


def test_uper_takes_images_of_a_single_cell() -> None:
    maps = uper().neck((torch.rand(1, 12, 1, 1),) * 4)
    assert [one.shape[-1] for one in maps] == [4, 2, 1, 1]


@pytest.mark.parametrize("strides", [SAM, SAM2])
def test_light_starts_as_if_there_were_no_prompt(strides: tuple[int, ...]) -> None:
    mapping, embedding = light(strides), embedding_of(strides)
    without, _ = mapping(IMAGES, embedding, None)
    assert torch.equal(mapping(IMAGES, embedding, masks_of(GUIDE))[0], without)


def test_light_gain_adds_a_class_its_own_mask() -> None:
    mapping, embedding = light(), embedding_of(SAM)
    without, _ = mapping(IMAGES, embedding, None)
    assert mapping.class_gain is not None
    mapping.class_gain.data[1] = 0.5
    logits, _ = mapping(IMAGES, embedding, masks_of(20 * GUIDE))
    expected = torch.zeros_like(without)
    expected[:, 1] = 0.5 * (20 * GUIDE[:, 1]).clamp(-10, 10)
    torch.testing.assert_close(logits - without, expected, rtol=1e-4, atol=1e-5)


def test_light_guide_changes_the_answer_where_a_mask_changes() -> None:
    mapping, embedding = light(), embedding_of(SAM)
    assert mapping.guide is not None
    torch.nn.init.normal_(mapping.guide.weight)
    other = GUIDE.clone()
    other[0, 2, :4, :4] += 5
    change = (
        mapping(IMAGES, embedding, masks_of(other))[0]
        - mapping(IMAGES, embedding, masks_of(GUIDE))[0]
    )
    assert change[0].abs().max() > 1e-3
    assert not change[1].any()


def test_light_features_tell_what_the_encoder_saw() -> None:
    mapping = light()
    (_, one), (_, other) = (mapping(IMAGES, embedding_of(SAM), None) for _ in range(2))
    assert (one - other).abs().mean() > 0.1


def test_light_guide_is_added_as_probabilities() -> None:
    mapping, embedding = light(mask_channels=3), embedding_of(SAM)
    assert mapping.guide is not None
    nn.init.normal_(mapping.guide.weight)
    mapping.classifier = nn.Sequential()  # leaves what it is given
    guide = 3 * GUIDE[:, :3]
    with_guide, without = (
        mapping(IMAGES, embedding, masks)[0] for masks in (masks_of(guide), None)
    )
    expected = torch.einsum("ck,bkhw->bchw", mapping.guide.weight[:, :, 0, 0], guide.sigmoid())
    torch.testing.assert_close(with_guide - without, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("strides", [SAM, SAM2])
def test_light_gives_every_weight_a_gradient_at_the_first_step(strides: tuple[int, ...]) -> None:
    mapping = light(strides)
    mapping(IMAGES, embedding_of(strides), masks_of(GUIDE))[0].square().sum().backward()
    silent = [n for n, p in mapping.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []


@pytest.mark.parametrize("attention", ["released", "repaired"])
@pytest.mark.parametrize("strides", [SAM, SAM2])
def test_uper_gives_logits_at_stride_4_and_sams_map(
    strides: tuple[int, ...], attention: Attention
) -> None:
    mapping, embedding = uper(strides, attention), embedding_of(strides)
    sides = [tuple(level.shape[-2:]) for level in mapping.neck(embedding.levels)]
    assert sides == [(64 // s, 96 // s) for s in SAM2]
    logits, features = mapping(IMAGES, embedding, masks_of(GUIDE[:, :3]))
    assert logits.shape == (2, 5, 16, 24)
    assert features is embedding.image


@pytest.mark.parametrize("attention", ["released", "repaired"])
def test_uper_attention_stands_large_sums_in_float16(attention: Attention) -> None:
    mapping = uper(attention=attention)
    features = 10 + torch.rand(1, 8, 128, 256)
    with torch.autocast("cpu", dtype=torch.float16):
        attended = mapping.attend(features, torch.full((1, 3, 128, 256), 30.0))
    assert attended.isfinite().all()


def test_uper_drops_channels_in_training_alone() -> None:
    mapping, embedding = uper(), embedding_of(SAM)
    assert mapping.dropout.p == 0.1
    mapping.dropout.p = 1.0
    dropped, _ = mapping(IMAGES, embedding, None)
    assert mapping.classifier.bias is not None
    assert torch.equal(dropped, mapping.classifier.bias[:, None, None].expand_as(dropped))
    assert mapping.eval()(IMAGES, embedding, None)[0].std() > 1e-3


def test_uper_released_attention_is_one() -> None:
    features = torch.randn(2, 8, 16, 24)
    assert torch.equal(uper(attention="released").attend(features, 1e3 * GUIDE), features)


def test_uper_repaired_attention_is_a_softmax_over_channels_by_hand() -> None:
    mapping = uper().eval()
    features, masks = torch.randn(2, 8, 16, 24), 5 * torch.randn(2, 3, 32, 48)
    query = mapping.query(features)
    guide = F.interpolate(masks, (16, 24), mode="bilinear").max(1, keepdim=True).values
    agreement = (query * guide).mean((2, 3)).exp()
    weights = 8 * agreement / agreement.sum(1, keepdim=True)
    assert weights.std() > 1e-3
    expected = features * (1 + weights[:, :, None, None])
    torch.testing.assert_close(mapping.attend(features, masks), expected)


def test_uper_repaired_attention_of_indifferent_masks_doubles_the_features() -> None:
    features = torch.randn(2, 8, 16, 24)
    torch.testing.assert_close(uper().attend(features, torch.zeros(2, 3, 16, 24)), 2 * features)


@pytest.mark.parametrize("attention", ["released", "repaired"])
def test_uper_masks_get_gradient_if_and_only_if_repaired(attention: Attention) -> None:
    guide = GUIDE.clone().requires_grad_()
    mapping = uper(attention=attention)
    logits, _ = mapping(IMAGES, embedding_of(SAM), masks_of(guide))
    (gradient,) = torch.autograd.grad(logits.square().sum(), guide)
    assert gradient.any().item() == (attention == "repaired")


def test_uper_has_the_public_codes_number_of_parameters() -> None:
    """Neck 22,026,240 and head 32,524,811 at 11 classes; see docs/paper.md."""
    with torch.device("meta"):
        mapping = UperMapping(256, SAM, 11)
    counts = {True: 0, False: 0}
    for name, parameter in mapping.named_parameters():
        counts[name.startswith("neck_")] += parameter.numel()
    assert counts == {True: 22_026_240, False: 32_524_811}
