"""Says once, while there is time to stop, that a cycle is not alive."""

from collections.abc import Mapping

from lightning.pytorch import Callback, LightningModule, Trainer
from typing_extensions import override

from tsic.streams import tell
from tsic.teacher import Teacher
from tsic.training.module import CycleModule

PATIENCE = 3
"""Validations in a row after which a sign counts."""
STILL = 0.1
"""Percent of pixels; fewer that change with the prompt are none."""


class Watch(Callback):
    """Warns when the teacher never joins, is worse than its student, or does not need prompts."""

    def __init__(self) -> None:
        self._in_a_row: dict[str, int] = {}

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, CycleModule)
        idle = pl_module.warmup_steps >= pl_module.max_steps
        if pl_module.cycle.teaches and idle and trainer.is_global_zero:
            tell(
                "tsic: warning: the teacher takes no part: teacher.warmup_steps "
                f"{pl_module.warmup_steps} is not below max_steps {pl_module.max_steps}\n"
            )

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, CycleModule)
        if not isinstance(pl_module.cycle.teacher, Teacher):
            return  # the advice is of no use to mutual's second student
        scores = {name: float(value) for name, value in trainer.callback_metrics.items()}
        for message, is_bad in signs(scores).items():
            count = self._in_a_row.get(message, 0) + 1 if is_bad else 0
            self._in_a_row[message] = count
            if count == PATIENCE and trainer.is_global_zero:
                tell(f"tsic: warning: {message} (step {trainer.global_step})\n")


def signs(scores: Mapping[str, float]) -> dict[str, bool]:
    """What may be wrong, and whether it is at this validation.

    Args:
        scores: Logged numbers by name.
    """
    found = {}
    if "val/prompt_sensitivity" in scores:
        found[
            "the prompt has no effect: the teacher answers the same without it; look at "
            "teacher.mapping and teacher.prompt"
        ] = scores["val/prompt_sensitivity"] < STILL
    if "val/teacher_miou" in scores:
        found[
            "the teacher has been worse than its student for several validations: raise "
            "optim.teacher_lr or teacher.lora_rank, or give it better weights (teacher.name)"
        ] = scores["val/teacher_miou"] < scores["val/student_miou"]
    return found
