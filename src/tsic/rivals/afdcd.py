"""Af-DCD: masked features are completed, and told apart from others of the same patch."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from tsic.rivals._rival import Rival, Signals, Sizes, pixel_kd
from tsic.rivals.fitnet import hint

# The public script for CamVid weighs sums over 45x45 cells and all channels by 8e-6.
COMPLETION_WEIGHT = 8e-6 * 45 * 45  # for each channel
CONTRAST_WEIGHT = 0.01
MASKED = 0.75
TEMPERATURE = 0.07
GROUPS, PATCH = 16, 4


def omni_contrast(
    features: Tensor, target: Tensor, labels: Tensor, groups: int = GROUPS, patch: int = PATCH
) -> Tensor:
    """Tell a cell's group of channels from the other groups of all cells of its patch.

    Channels are divided into groups in their order, those left over are not compared. The teacher's
    same group of the same cell is what to find; alike are vectors of small L1 distance.

    Args:
        features: ``(B, D, h, w)``.
        target: ``(B, D, h, w)``; gets no gradient.
        labels: Class ids ``(B, h, w)``; cells of 255 neither ask nor answer.
        groups: Of channels.
        patch: Cells along a side of the square patches; at the far borders they may be cut off.

    Returns:
        InfoNCE, summed over groups, mean over labelled cells, float32 ``()``.

    Source:
        Fan et al., NeurIPS 2023 (arXiv:2312.04168), as in their public code, which drops the cells
        of patches that are cut off.
    """
    counted = labels != 255
    cells = _patches(counted[:, None].float(), 1, patch)[..., 0].bool().repeat(1, groups)
    here, there = (_patches(one.float(), groups, patch) for one in (features, target.detach()))
    with torch.autocast(here.device.type, enabled=False):
        alike = -torch.cdist(here, there, p=1) / TEMPERATURE
    group = torch.arange(groups, device=here.device).repeat_interleave(patch**2)
    is_same = torch.eye(len(group), dtype=torch.bool, device=here.device)
    rest = (group[:, None] != group) & cells[:, None]
    among = alike.masked_fill(~(is_same | rest), -torch.inf).logsumexp(2)
    loss = among - alike.diagonal(dim1=1, dim2=2)
    return (loss * cells).sum() / counted.sum().clamp(min=1)


def _patches(maps: Tensor, groups: int, patch: int) -> Tensor:
    """Vectors of each patch, group by group: ``(B * patches, groups * patch**2, D // groups)``."""
    height, width = maps.shape[-2:]
    whole = F.pad(maps, (0, -width % patch, 0, -height % patch))
    depth = maps.shape[1] // groups
    cut = F.unfold(whole[:, : groups * depth], patch, stride=patch)
    vectors = cut.unflatten(1, (groups, depth, patch**2)).permute(0, 4, 1, 3, 2)
    return vectors.flatten(2, 3).flatten(0, 1)


class AfDcd(Rival):
    """Completion of masked features and contrast beside pixel distillation.

    What is completed is compared as in FitNets (after MGD, Yang et al., arXiv:2205.01529). Weights
    as in the public script for CamVid. Unlabelled cells are masked like those drawn; where the
    teacher has fewer channels than groups, each is a group.
    """

    def __init__(self, sizes: Sizes) -> None:
        super().__init__(sizes)
        dim = sizes.teacher
        self.project = nn.Conv2d(sizes.student, dim, 1)
        self.complete = nn.Sequential(
            nn.Conv2d(dim, dim, 3, padding=1), nn.ReLU(), nn.Conv2d(dim, dim, 3, padding=1)
        )

    @override
    def forward(self, signals: Signals) -> dict[str, Tensor]:
        labels, target = signals.feature_labels, signals.teacher_features
        seen = labels != 255
        if self.training:
            seen = seen & (torch.rand(labels.shape, device=labels.device) >= MASKED)
        completed = self.complete(self.project(signals.student_features) * seen[:, None])
        contrast = omni_contrast(completed, target, labels, min(GROUPS, self.sizes.teacher))
        weight = COMPLETION_WEIGHT * self.sizes.teacher
        return pixel_kd(signals) | {
            "afdcd_completion": weight * hint(completed, target, labels),
            "afdcd_contrast": CONTRAST_WEIGHT * contrast,
        }
