import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tsic.errors import ConfigError
from tsic.networks.compact import Compact, SplitBlock


def parameters(module: nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters())


def test_stays_below_one_and_a_half_million_parameters_for_19_classes() -> None:
    assert parameters(Compact(19)) < 1_500_000


@pytest.mark.parametrize("stride", [4, 8])
def test_logits_and_maps_have_the_promised_strides(stride: int) -> None:
    network = Compact(7, width=0.5, logits_stride=stride).eval()
    logits, features = network(torch.rand(2, 3, 64, 96))
    assert logits.shape == (2, 7, 64 // stride, 96 // stride)
    assert [feature.shape[2:] for feature in features] == [(16, 24), (8, 12), (4, 6)]


@pytest.mark.parametrize(("width", "coarsest"), [(0.1, 32), (0.5, 96), (1.0, 192), (1.5, 288)])
def test_width_scales_the_channels(width: float, coarsest: int) -> None:
    network = Compact(3, width=width).eval()
    assert network(torch.rand(1, 3, 32, 32))[1][-1].shape[1] == coarsest


@pytest.mark.parametrize("block", [SplitBlock(32, 32), SplitBlock(32, 32, dilation=2)])
def test_block_starts_as_its_shortcut(block: nn.Module) -> None:
    network = Compact(3)
    network.add_module("block", block)
    network._initialise()
    cells = torch.randn(2, 32, 8, 8)
    torch.testing.assert_close(block(cells), F.relu(cells))


def test_second_half_of_a_split_block_reaches_as_far_as_its_dilation() -> None:
    block = SplitBlock(32, 32, dilation=3).eval()
    cells = torch.rand(1, 32, 9, 9, requires_grad=True)
    block(cells)[0, :, 4, 4].sum().backward()
    assert cells.grad is not None
    touched = cells.grad[0].abs().sum(0) > 0
    rows = touched.nonzero().unique()
    assert rows.tolist() == [1, 3, 4, 5, 7]


def test_last_stage_sees_the_whole_image_through_the_context() -> None:
    torch.manual_seed(0)
    network = Compact(3).eval()
    images = torch.rand(1, 3, 64, 64)
    changed = images.clone()
    changed[:, :, :4, :4] = 0
    before, after = network(images)[0], network(changed)[0]
    assert (before - after)[..., -1, -1].abs().max() > 0


def test_learns_two_halves_of_an_image_in_a_few_steps() -> None:
    torch.manual_seed(0)
    network = Compact(2, width=0.5)
    images = torch.zeros(2, 3, 32, 32)
    images[0, :, :, :16] = 1
    images[1, :, :16] = 1
    labels = (F.avg_pool2d(images[:, 0], 4) > 0.5).long()
    optimiser = torch.optim.AdamW(network.parameters(), lr=3e-3)
    for _ in range(40):
        loss = F.cross_entropy(network(images)[0], labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss.item() < 0.1
    assert (network(images)[0].argmax(1) == labels).float().mean() > 0.97


def test_trains_on_a_single_image() -> None:
    Compact(3, width=0.5)(torch.rand(1, 3, 32, 32))[0].sum().backward()


def test_exports_without_graph_breaks() -> None:
    network = Compact(3, width=0.5).eval()
    images = torch.rand(1, 3, 32, 48)
    exported = torch.export.export(network, (images,)).module()
    torch.testing.assert_close(exported(images)[0], network(images)[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"with": 1.0}, r"options.with is unknown; did you mean 'width'\?"),
        ({"width": 0}, "width must be above 0 and at most 8, got 0"),
        ({"width": "wide"}, "width must be above 0 and at most 8, got wide"),
        ({"logits_stride": 2}, "logits_stride must be 4 or 8, got 2"),
        ({"dilations": []}, r"dilations must be a list .*, got \[\]"),
        ({"dilations": [1, 0]}, r"dilations must be a list .*, got \[1, 0\]"),
    ],
)
def test_wrong_option_is_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Compact.build(num_classes=3, options=options)
