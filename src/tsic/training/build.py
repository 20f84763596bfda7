"""From a configuration, or a run's folder, to student, teacher and losses."""

import json
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from tsic.checkpoint import load_student
from tsic.config import RunConfig, TeacherConfig
from tsic.config_file import load_config
from tsic.cycle import Cycle
from tsic.data.classes import ClassTable
from tsic.data.readers import open_split
from tsic.distilled import Distilled, Offline, Peer
from tsic.errors import CheckpointError, ConfigError
from tsic.options import Role
from tsic.rivals import Sizes, rival_class
from tsic.student import Student, build_student
from tsic.teacher import Teacher, TeacherOutput, build_hint_encoder, build_teacher
from tsic.training.folder import RunFolder
from tsic.training.keep import read_checkpoint
from tsic.training.module import CycleModule

_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
_OF_A_RUN = ("hints_only", "hint_cache", "hint_side", "ema", "warmup_steps", "ramp")
"""What a teacher's configuration says that is not of the network itself."""


def build_module(
    config: RunConfig, classes: ClassTable, class_weights: Tensor | None = None
) -> CycleModule:
    """Build student, teacher and losses with the initial weights that the seed gives.

    The student's initial weights depend on the seed and the student alone, so that runs with and
    without a teacher start from the same one.

    Args:
        config: The run's configuration.
        classes: Classes of its data.
        class_weights: Weights of the classes in cross-entropies, float ``(K,)``; only training
            needs them.
    """
    torch.manual_seed(config.seed)
    student = build_student(**vars(config.student), num_classes=classes.num_classes)
    torch.manual_seed(config.seed)  # a teacher's start is the same whatever the student drew
    warmup_steps, ramp = 0, 0.0
    if config.distill.method == "none":
        warmup_steps, ramp = config.teacher.warmup_steps, config.teacher.ramp
        teacher, encoder = None, None
        if config.teacher.hints_only:
            encoder = build_hint_encoder(config.teacher.name, config.teacher.scale)
        else:
            teacher = build_configured_teacher(config.teacher, classes.num_classes)
        ema = config.teacher.ema
        cycle = Cycle(
            student, teacher, config.objective, class_weights, ema, encoder, config.data.cutmix
        )
    else:
        cycle = _build_distilled(config, student, classes, class_weights)
    return CycleModule(
        cycle,
        config.optim,
        class_names=classes.names,
        max_steps=config.max_steps,
        warmup_steps=warmup_steps,
        ramp=ramp,
        seed=config.seed,
        resize=config.data.resize,
        records=config.trainer.graph,
        fuses=config.trainer.compile,
    )


def _build_distilled(
    config: RunConfig, student: Student, classes: ClassTable, class_weights: Tensor | None
) -> Distilled:
    """Build the student, its teacher and a published method."""
    distill = config.distill
    kind = rival_class(distill.method)
    teacher: Offline | Peer
    if kind.teacher == "peer":
        torch.manual_seed(config.seed + 1)
        teacher = Peer(build_student(**vars(config.student), num_classes=classes.num_classes))
    else:
        assert distill.teacher is not None
        teacher = load_offline(distill.teacher, distill.role, classes)
    torch.manual_seed(config.seed)
    sizes = Sizes(
        classes.num_classes,
        [classes.num_classes, *student.feature_channels][-1],
        _feature_channels(teacher, classes),
    )
    return Distilled(
        student,
        teacher,
        kind(sizes),
        weight=distill.weight,
        objective=config.objective,
        class_weights=class_weights,
        cutmix=config.data.cutmix,
    )


def load_offline(folder: str, role: Role, classes: ClassTable) -> Offline:
    """Load who teaches from a run's folder or a student's.

    Raises:
        CheckpointError: If it cannot be read.
        ConfigError: If it knows other classes, or has no such network.
    """
    if role == "student":
        trained = load_student(folder)
        known, offline = trained.classes, Offline(trained.student)
    else:
        module, known = load_run(folder)
        if not isinstance(module.cycle.teacher, Teacher):
            raise ConfigError(f"distill.role: '{folder}' was trained without a teacher")
        if "teacher" not in scorers(module):
            raise ConfigError(
                f"distill.role: the best checkpoint of '{folder}' is from before its teacher "
                "joined; train it for longer, or with less teacher.warmup_steps"
            )
        offline = Offline(module.student, module.cycle.teacher)
    if known.names != classes.names:
        raise ConfigError(
            f"distill.teacher: '{folder}' knows other classes than the data; train one on this data"
        )
    return offline


@torch.no_grad()
def _feature_channels(teacher: Offline | Peer, classes: ClassTable) -> int:
    """Channels of the features that a teacher gives."""
    was_training = teacher.training
    blank = torch.zeros(1, 3, 64, 64)
    answer: TeacherOutput = teacher.eval()(blank, torch.zeros(1, classes.num_classes, 16, 16))
    teacher.train(was_training)
    return answer.features.shape[1]


def build_configured_teacher(config: TeacherConfig, num_classes: int) -> Teacher | None:
    """Build the teacher that a configuration names; ``None`` for ``none``."""
    if config.name == "none":
        return None
    options = {key: value for key, value in vars(config).items() if key not in _OF_A_RUN}
    return build_teacher(num_classes=num_classes, **options)


def load_run(folder: str | Path, which: str = "best") -> tuple[CycleModule, ClassTable]:
    """Rebuild student and teacher of a run from its configuration and a checkpoint.

    Args:
        folder: The run's folder.
        which: ``best`` or ``last``.

    Returns:
        The module in evaluation mode and its classes.

    Raises:
        CheckpointError: If the folder holds no such checkpoint, or it cannot be read.
    """
    files = RunFolder(Path(folder))
    path = files.best if which == "best" and files.best.is_file() else files.last
    if not files.config.is_file() or not path.is_file():
        raise CheckpointError(
            f"'{folder}' holds no trained run: config.yaml or {path.name} is missing"
        )
    config = load_config(files.config)
    classes = _classes_of(files, config)
    module = build_module(config, classes)
    load_weights(module, path)
    return module.eval(), classes


def _classes_of(files: RunFolder, config: RunConfig) -> ClassTable:
    """Classes of a run; one that did not finish has no student yet to tell them."""
    if files.student.is_file():
        try:
            return ClassTable.from_dict(json.loads(files.student.read_text())["classes"])
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"'{files.student}' is damaged ({error})") from error
    return open_split(config.data, config.data.val_split).classes


def scorers(module: CycleModule) -> dict[str, Callable[[Tensor], Tensor]]:
    """How each role of a module scores whole images.

    Returns:
        ``student`` and, if there is one and it has learned, ``teacher``.
    """

    def student(images: Tensor) -> Tensor:
        return module.answer(images, with_teacher=False)[0]

    def teacher(images: Tensor) -> Tensor:
        answer = module.answer(images, with_teacher=True)[1]
        assert answer is not None
        return answer.logits

    roles: dict[str, Callable[[Tensor], Tensor]] = {"student": student}
    if module.cycle.teacher is not None and module.loaded_step > module.warmup_steps:
        roles["teacher"] = teacher
    return roles


def load_weights(module: CycleModule, path: Path) -> None:
    """Load what a checkpoint holds into a module; frozen weights stay as they were built.

    Raises:
        CheckpointError: If the file cannot be read, or holds other weights than the module trains.
    """
    module.loaded_step, state = read_checkpoint(
        path, "cpu", "delete it, so that the run's other checkpoint is taken"
    )
    kept = module.state_dict().keys() - module.frozen_names()
    # Checkpoints of before norms that stand still were folded hold statistics of them.
    state = {
        name: tensor
        for name, tensor in state.items()
        if name in kept or not (".foundation." in name and name.endswith(_STATISTICS))
    }
    strangers = sorted(state.keys() ^ kept)
    if strangers:
        raise CheckpointError(
            f"'{path}' does not fit its run: {len(strangers)} weights are missing or too many, "
            f"first {strangers[0]}; the run's config.yaml or the foundation model has changed"
        )
    module.load_state_dict(state, strict=False)
