"""Cross-image relational distillation: similarities across a batch, and with a memory."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from tsic.rivals._rival import Rival, Signals, Sizes, pixel_kd

BATCH_WEIGHT = 1.0
MEMORY_WEIGHT = 0.1
TEMPERATURE = 0.1
PIXEL_ENTRIES, REGION_ENTRIES = 4096, 1024
PIXELS_PER_CLASS = 16
# The public code keeps 20,000 and 2000: over 100 MB in every checkpoint, filled after 1250 images.
PIXEL_QUEUE, REGION_QUEUE = 2000, 200


def cross_image(features: Tensor, target: Tensor, labels: Tensor) -> Tensor:
    """KL divergence of each cell's similarities with the cells of every image of the batch.

    Args:
        features: ``(B, C, h, w)``.
        target: ``(B, D, h, w)``; gets no gradient.
        labels: Class ids ``(B, h, w)``; cells of 255 neither ask nor answer.

    Returns:
        Mean over labelled cells and the images with labels that they are compared with, float32
        ``()``.

    Source:
        Yang et al., arXiv:2204.06986, equations 3 to 5.
    """
    counted = (labels != 255).flatten(1)
    logs = []
    for one in (features, target.detach()):
        cells = F.normalize(one.flatten(2), dim=1)
        with torch.autocast(cells.device.type, enabled=False):
            alike = torch.einsum("icp,jcq->ipjq", cells, cells) / TEMPERATURE
        logs.append(alike.masked_fill(~counted, -1e4).log_softmax(3))
    divergence = (logs[1].exp() * (logs[1] - logs[0]) * counted).sum(3)  # (B, hw, B)
    told = counted.any(1).sum().clamp(min=1)
    return (divergence.sum(2) * counted).sum() / told / counted.sum().clamp(min=1)


def to_memory(
    embeddings: Tensor, target: Tensor, counted: Tensor, entries: Tensor, filled: Tensor
) -> Tensor:
    """KL divergence of cells' similarities with remembered embeddings.

    Args:
        embeddings: The student's, of unit length, ``(M, D)``.
        target: The teacher's likewise; gets no gradient.
        counted: Which cells ask, bool ``(M,)``.
        entries: What is remembered, of unit length, ``(E, D)``.
        filled: Which entries are, bool ``(E,)``.

    Returns:
        Mean over cells that ask, float32 ``()``; 0 without such cells or entries.

    Source:
        Yang et al., arXiv:2204.06986, equations 8 to 11.
    """
    with torch.autocast(entries.device.type, enabled=False):
        blank = entries.new_zeros(len(entries)).masked_fill(~filled, -1e4)
        here, there = (
            torch.addmm(blank, one, entries.T, alpha=1 / TEMPERATURE).log_softmax(1)
            for one in (embeddings, target.detach())
        )
    divergence = (there.exp() * (there - here)).sum(1) * (counted & filled.any())
    return divergence.sum() / counted.sum().clamp(min=1)


class Queue(nn.Module):
    """The latest embeddings of each class, as many of each as have come so far.

    Nothing in it is of a size that depends on data, so that a step can be recorded.

    Args:
        num_classes: ``K``.
        length: Of each class's ring.
        dim: ``D``.
    """

    entries: Tensor
    put_so_far: Tensor

    def __init__(self, num_classes: int, length: int, dim: int) -> None:
        super().__init__()
        self.length = length
        # The last place of each ring takes what is not kept.
        self.register_buffer("entries", torch.zeros(num_classes, length + 1, dim))
        self.register_buffer("put_so_far", torch.zeros(num_classes, dtype=torch.int64))

    def put(self, embeddings: Tensor, classes: Tensor, kept: Tensor) -> None:
        """Add those of the embeddings ``(N, D)`` of classes ``(N,)`` that are ``kept``, bool.

        They are added in their order, each over the oldest.
        """
        num_classes = len(self.entries)
        groups = classes.where(kept, num_classes)
        counts = _counts(groups, num_classes + 1)
        turn = _turn(groups)
        last = kept & (turn >= (counts - self.length)[groups])  # no place is written twice
        classes = classes.where(kept, 0)
        places = ((self.put_so_far[classes] + turn) % self.length).where(last, self.length)
        self.entries[classes, places] = embeddings
        self.put_so_far += counts[:-1]

    def draw(self, count: int) -> tuple[Tensor, Tensor]:
        """At most ``count`` random entries of each class, none twice.

        Returns:
            Entries ``(E, D)``, and which of them are any, bool ``(E,)``.
        """
        places = torch.arange(self.length, device=self.entries.device)
        filled = places < self.put_so_far[:, None]
        order = torch.rand(filled.shape, device=filled.device).masked_fill(~filled, 2.0)
        places = order.argsort(1)[:, :count]
        chosen = self.entries.gather(1, places[..., None].expand(-1, -1, self.entries.shape[2]))
        return chosen.flatten(0, 1), filled.gather(1, places).flatten()


def _counts(groups: Tensor, num_groups: int) -> Tensor:
    """Members of each group; PyTorch's ``bincount`` waits for a GPU."""
    counts = groups.new_zeros(num_groups)
    return counts.scatter_add_(0, groups, torch.ones_like(groups))


def _turn(groups: Tensor) -> Tensor:
    """How many of the same group come before each member, int64 ``(N,)``."""
    ordered, order = groups.sort(stable=True)
    turn = torch.empty_like(order)
    turn[order] = torch.arange(len(order), device=order.device) - torch.searchsorted(
        ordered, ordered
    )
    return turn


class Cirkd(Rival):
    """Pixel distillation, similarities across the batch and with both memories.

    Weights, temperatures and counts as in the public code. Unlike there, memories start empty, and
    no embeddings are gathered from other processes: before each step DDP gives all the first one's.
    """

    def __init__(self, sizes: Sizes) -> None:
        super().__init__(sizes)
        dim = sizes.teacher
        self.project = nn.Sequential(
            nn.Conv2d(sizes.student, dim, 1, bias=False),
            nn.BatchNorm2d(dim),
            nn.ReLU(),
            nn.Conv2d(dim, dim, 1, bias=False),
        )
        self.pixels = Queue(sizes.classes, PIXEL_QUEUE, dim)
        self.regions = Queue(sizes.classes, REGION_QUEUE, dim)

    @override
    def forward(self, signals: Signals) -> dict[str, Tensor]:
        labels, target = signals.feature_labels, signals.teacher_features
        here, there = (
            F.normalize(one, dim=1).movedim(1, 3)
            for one in (self.project(signals.student_features).float(), target.detach())
        )
        if self.training:
            self._remember(there, labels)
        asked = here.flatten(0, 2), there.flatten(0, 2), (labels != 255).flatten()
        pixels = self.pixels.draw(PIXEL_ENTRIES // self.sizes.classes + 1)
        regions = self.regions.draw(REGION_ENTRIES // self.sizes.classes + 1)
        batch = cross_image(signals.student_features, target, labels)
        return pixel_kd(signals) | {
            "cirkd_batch": BATCH_WEIGHT * batch,
            "cirkd_pixels": MEMORY_WEIGHT * to_memory(*asked, *pixels),
            "cirkd_regions": MEMORY_WEIGHT * to_memory(*asked, *regions),
        }

    @torch.no_grad()
    def _remember(self, embeddings: Tensor, labels: Tensor) -> None:
        """Keep some cells and the mean of each class in each image; embeddings ``(B, h, w, D)``."""
        images, classes = len(labels), self.sizes.classes
        order = torch.rand(labels.numel(), device=labels.device).argsort()
        cells, ids = embeddings.flatten(0, 2)[order], labels.flatten()[order]
        image = order // labels[0].numel()
        counted = ids != 255
        groups = (image * classes + ids).where(counted, images * classes)
        self.pixels.put(cells, ids, counted & (_turn(groups) < PIXELS_PER_CLASS))
        sums = cells.new_zeros(images * classes + 1, cells.shape[1]).index_add_(0, groups, cells)
        present = _counts(groups, len(sums)) > 0
        member_of = torch.arange(len(sums) - 1, device=sums.device) % classes
        self.regions.put(F.normalize(sums[:-1], dim=1), member_of, present[:-1])
