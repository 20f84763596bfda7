"""From a configuration to a module: what it says is what is trained."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tsic.config import (
    DataConfig,
    DistillConfig,
    OptimConfig,
    RunConfig,
    StudentConfig,
    TeacherConfig,
    TrainerConfig,
)
from tsic.data.batches import SKIPS
from tsic.data.classes import ClassTable
from tsic.data.readers import open_dataset
from tsic.distilled import Distilled, Offline, Peer
from tsic.errors import CheckpointError
from tsic.options import Objective
from tsic.rivals import Sizes, rival_class
from tsic.training.build import build_module, load_offline, load_weights
from tsic.training.module import CycleModule
from tsic.training.run import segmentation_data

CLASSES = ClassTable.from_names(("a", "b", "c"))
WEIGHTS = torch.tensor([1.0, 2.0, 3.0])
BASE = RunConfig(
    seed=5,
    max_steps=10,
    data=DataConfig(cutmix=0.25, resize=(48, 64)),
    student=StudentConfig(options={"width": 0.25}),
    objective=Objective(feature_loss="hint", auxiliary_weight=0.3),
)
CYCLE = replace(
    BASE, teacher=TeacherConfig("tiny-sam", channels=16, ema=0.9, warmup_steps=4, ramp=0.5)
)
MUTUAL = replace(BASE, distill=DistillConfig("mutual", weight=7.0))


@pytest.mark.parametrize("config", [CYCLE, MUTUAL], ids=["cycle", "mutual"])
def test_data_and_objective_reach_every_kind_of_training(config: RunConfig) -> None:
    module = build_module(config, CLASSES, WEIGHTS)
    cycle = module.cycle
    assert cycle.objective == config.objective
    assert cycle.cutmix == 0.25
    assert cycle.class_weights is not None
    assert torch.equal(cycle.class_weights, WEIGHTS)
    assert (module.seed, module.max_steps, module.resize) == (5, 10, (48, 64))


def test_when_and_how_the_teacher_joins_is_the_configurations() -> None:
    module = build_module(CYCLE, CLASSES)
    assert (module.warmup_steps, module.ramp_steps) == (4, 3)
    assert module.cycle.averaged is not None
    assert module.cycle.averaged.decay == 0.9
    hints = replace(CYCLE.teacher, hints_only=True, scale=2.0)
    encoder = build_module(replace(CYCLE, teacher=hints), CLASSES).cycle.encoder
    assert encoder is not None
    assert encoder.foundation.scale == 2.0


def test_peers_start_apart_and_learn_from_each_other_as_much_as_is_said() -> None:
    cycle = build_module(MUTUAL, CLASSES).cycle
    assert isinstance(cycle, Distilled)
    assert isinstance(cycle.teacher, Peer)
    assert cycle.weight == 7.0
    pairs = zip(cycle.student.parameters(), cycle.teacher.student.parameters(), strict=True)
    assert any(not torch.equal(*pair) for pair in pairs)


def test_all_methods_start_from_the_same_student() -> None:
    students = [
        build_module(config, CLASSES).cycle.student.state_dict() for config in (BASE, CYCLE, MUTUAL)
    ]
    for name, weight in students[0].items():
        assert all(torch.equal(weight, other[name]) for other in students[1:])


def test_who_teaches_offline_is_prompted_by_the_student_that_its_run_scored(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = build_module(replace(CYCLE, optim=OptimConfig(ema=0.9)), CLASSES)
    module.loaded_step = 10
    monkeypatch.setattr("tsic.training.build.load_run", lambda _: (module, CLASSES))
    offline = load_offline("run", "teacher", CLASSES)
    assert offline.teacher is module.cycle.teacher
    assert offline.student is module.student
    assert offline.student is not module.cycle.student


def test_validation_asks_no_teacher_that_stands_still(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CycleModule, "global_step", 0)
    student = build_module(BASE, CLASSES).cycle.student
    teacher = Offline(student)
    teacher.register_forward_pre_hook(lambda *_: pytest.fail("it was asked"))
    sizes = Sizes(3, student.feature_channels[-1], student.feature_channels[-1])
    module = CycleModule(
        Distilled(student, teacher, rival_class("kd")(sizes)),
        OptimConfig(),
        class_names=CLASSES.names,
        max_steps=1,
        warmup_steps=0,
        seed=0,
    )
    images, labels = torch.rand(1, 3, 32, 48), torch.zeros(1, 32, 48, dtype=torch.int64)
    module.eval().validation_step(
        {"images": images, "labels": labels, "names": [""], "hints": None}, 0
    )


def test_what_is_said_of_the_data_reaches_its_batches(folder_dataset: Path) -> None:
    said: dict[str, Any] = {
        "crop": (32, 48),
        "scale": (0.75, 1.5),
        "max_class_share": 0.5,
        "rare_crop": 0.25,
        "flip": 0.125,
        "resize": (48, 64),
    }
    photos = DataConfig(unlabelled=str(folder_dataset), unlabelled_share=0.75, batch_size=16)
    config = replace(
        BASE,
        data=replace(photos, **said, photometric=False, on_error="skip", workers=3),
        trainer=TrainerConfig(accumulate=2),
    )
    data = segmentation_data(config, open_dataset("folder", folder_dataset, "train"), None)
    assert {name: vars(data.train.transform)[name] for name in said} == said
    assert (data.train.seed, data.train.photometric, data.train.tries) == (5, False, 1 + SKIPS)
    assert (data.batch_size, data.unlabelled, data.workers, data.accumulate) == (8, 6, 3, 2)


def test_checkpoints_of_before_norms_were_folded_are_read(tmp_path: Path) -> None:
    """They hold statistics of norms that stood still, which are the foundation model's own."""
    module = build_module(replace(CYCLE, teacher=TeacherConfig("tiny-mobile-sam")), CLASSES)
    kept = {k: v for k, v in module.state_dict().items() if k not in module.frozen_names()}
    norm = "cycle.teacher.foundation.model.vision_encoder.backbone.patch_embed.conv1.bn"
    kept[f"{norm}.running_mean"] = torch.zeros(8)
    torch.save({"global_step": 3, "state_dict": kept}, tmp_path / "best.ckpt")
    load_weights(module, tmp_path / "best.ckpt")
    assert module.loaded_step == 3
    torch.save(
        {"global_step": 3, "state_dict": kept | {f"{norm}.weight": torch.ones(8)}},
        tmp_path / "best.ckpt",
    )
    with pytest.raises(CheckpointError, match=r"1 weights .* first .*bn\.weight"):
        load_weights(module, tmp_path / "best.ckpt")
