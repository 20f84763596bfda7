"""Is the cycle alive? What student and teacher know of each other's, and what the prompt does."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric
from typing_extensions import override

from tsic.evaluation.metrics import confusion_matrix, mean_iou, to_labels
from tsic.grid import size_of

PROBES = 16
"""Validation images on which the teacher is asked again with other prompts."""


class Contest(Metric):
    """Who is right where, summed over ranks: pixels by true class and by who is right.

    Args:
        class_names: Names of the ``K`` classes.
    """

    full_state_update = False
    confusions: Tensor
    right: Tensor
    agreed: Tensor

    def __init__(self, class_names: tuple[str, ...]) -> None:
        super().__init__()
        self.class_names = class_names
        self.num_classes = num_classes = len(class_names)
        for name, shape in (
            ("confusions", (2, num_classes, num_classes)),
            ("right", (num_classes, 2, 2)),
            ("agreed", ()),
        ):
            self.add_state(name, torch.zeros(shape, dtype=torch.int64), dist_reduce_fx="sum")

    @override
    def update(self, student: Tensor, teacher: Tensor | None, labels: Tensor) -> None:
        """Count a batch.

        Args:
            student: Class scores ``(B, K, h, w)``.
            teacher: Likewise; ``None`` where it is not asked.
            labels: Class ids ``(B, H, W)``.
        """
        for i, truth in enumerate(labels):
            seen = to_labels(student[i], size_of(truth))
            self.confusions[0] += confusion_matrix(seen, truth, self.num_classes)
            if teacher is None:
                continue
            taught = to_labels(teacher[i], size_of(truth))
            self.confusions[1] += confusion_matrix(taught, truth, self.num_classes)
            valid = (truth >= 0) & (truth < self.num_classes)
            cell = 2 * (seen == truth).long() + (taught == truth).long()
            counts = torch.bincount((4 * truth + cell)[valid], minlength=4 * self.num_classes)
            self.right += counts.view(-1, 2, 2)
            self.agreed += ((seen == taught) & valid).sum()

    @override
    def compute(self) -> dict[str, float]:
        """Scores in percent by name; the teacher's, in all and per class, only if it was asked."""
        scores = {"student_miou": mean_iou(self.confusions[0])}
        total = self.right.sum()
        if not total:
            return scores
        scores["teacher_miou"] = mean_iou(self.confusions[1])
        scores["agreement"] = (100 * self.agreed / total).item()
        parts = {"": self.right.sum(0)}
        parts |= {f"/{name}": one for name, one in zip(self.class_names, self.right, strict=True)}
        for part, right in parts.items():
            if right.any():
                share = 100 * right / right.sum()
                scores[f"only_student_right{part}"] = share[1, 0].item()
                scores[f"only_teacher_right{part}"] = share[0, 1].item()
        return scores


class PromptProbe(Metric):
    """What the teacher's answer owes to its prompt, summed over ranks.

    Args:
        num_classes: Classes ``K``.
    """

    full_state_update = False
    confusions: Tensor
    changed: Tensor

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        zeros = torch.zeros(3, num_classes, num_classes, dtype=torch.int64)
        self.add_state("confusions", zeros, dist_reduce_fx="sum")
        self.add_state("changed", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    @override
    def update(self, prompted: Tensor, blank: Tensor, told: Tensor, labels: Tensor) -> None:
        """Count a batch.

        Args:
            prompted: The teacher's class scores ``(B, K, h, w)``, prompted by the student.
            blank: Likewise, by a prompt without place.
            told: Likewise, by the labels.
            labels: Class ids ``(B, H, W)``.
        """
        for i, truth in enumerate(labels):
            size = size_of(truth)
            seen, unseen, known = (to_labels(one[i], size) for one in (prompted, blank, told))
            for confusion, predicted in zip(self.confusions, (seen, unseen, known), strict=True):
                confusion += confusion_matrix(predicted, truth, self.num_classes)
            valid = (truth >= 0) & (truth < self.num_classes)
            self.changed += ((seen != unseen) & valid).sum()

    @override
    def compute(self) -> dict[str, float]:
        """``prompt_sensitivity``, ``prompt_gain`` and ``oracle_gap`` in percent.

        The first is the share of pixels whose class changes with a prompt without place, the second
        the teacher's mean IoU less that with such a prompt, the third what it would gain from a
        perfect one.
        """
        pixels = self.confusions[0].sum().clamp(min=1)
        prompted, blank, told = (mean_iou(one) for one in self.confusions)
        return {
            "prompt_sensitivity": (100 * self.changed / pixels).item(),
            "prompt_gain": prompted - blank,
            "oracle_gap": told - prompted,
        }


def blank_prompt(logits: Tensor) -> Tensor:
    """Class scores like ``(B, K, h, w)`` that say how much there is of each class, but not where.

    So the same classes are prompted, with masks that show nothing.
    """
    shares = logits.float().softmax(1).mean((2, 3), keepdim=True)
    return shares.clamp(min=1e-12).log().expand_as(logits)


def perfect_prompt(logits: Tensor, labels: Tensor) -> Tensor:
    """Class scores on the grid of ``(B, K, h, w)`` that say what the labels ``(B, H, W)`` do."""
    count = logits.shape[1]
    # Shares of a cell, sharpened: as sure as SAM's masks are, and unsure where nothing is labelled.
    shares = [
        F.adaptive_avg_pool2d((labels == number).float(), size_of(logits))
        for number in range(count)  # one at a time: all together would fill a GPU
    ]
    return 20 * torch.stack(shares, 1)
