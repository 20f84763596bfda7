import io
import itertools
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from rich.console import Console
from torch import nn
from torch.nn.utils import get_total_norm

from tsic.config import OptimConfig, RunConfig, TrainerConfig
from tsic.config_file import RUN, save_config
from tsic.cycle import Cycle, CycleOutput
from tsic.data.classes import ClassTable
from tsic.deploy import inference
from tsic.errors import ConfigError, NonFiniteLossError, TsicError
from tsic.evaluation.metrics import to_labels
from tsic.grid import resize_images
from tsic.pretrain.config import PretrainConfig, PretrainOptimConfig
from tsic.pretrain.module import PretrainModule
from tsic.pretrain.promptable import Promptable
from tsic.student import StudentOutput
from tsic.teacher.sam import load_foundation, save_foundation
from tsic.training import loop
from tsic.training import module as training_module
from tsic.training.callbacks import CsvLog, ShowProgress, read_metrics, tiles
from tsic.training.finite import limit_gradients
from tsic.training.folder import TrainingFolder
from tsic.training.module import CycleModule
from tsic.training.optim import moving_average


def module_of(cycle: Cycle, optim: OptimConfig | None = None, **settings: Any) -> CycleModule:
    told = {"max_steps": 2, "warmup_steps": 0, "seed": 0, **settings}
    return CycleModule(cycle, optim or OptimConfig(), class_names=("a", "b", "c"), **told)


def test_clipping_of_the_teacher_leaves_the_student_alone(tiny_cycle: Cycle) -> None:
    optim = OptimConfig(clip=1.0)
    module = module_of(tiny_cycle, optim, max_steps=1)
    module.trainer = Trainer(barebones=True, accelerator="cpu")
    optimizer = torch.optim.SGD(module.parameters())
    assert tiny_cycle.teacher is not None
    student = list(tiny_cycle.student.parameters())
    teacher = [p for p in tiny_cycle.teacher.parameters() if p.requires_grad]
    for parameter in student:
        parameter.grad = torch.full_like(parameter, 1e-5)
    for parameter in teacher:
        parameter.grad = torch.full_like(parameter, 7.0)
    module.on_before_optimizer_step(optimizer)
    assert all(torch.equal(p.grad, torch.full_like(p, 1e-5)) for p in student if p.grad is not None)
    norm = get_total_norm([p.grad for p in teacher if p.grad is not None])
    assert norm.item() == pytest.approx(1.0, rel=1e-3)


def test_projections_for_a_loss_are_not_clipped(tiny_cycle: Cycle) -> None:
    optim = OptimConfig(clip=1.0)
    module = module_of(tiny_cycle, optim, max_steps=1)
    module.trainer = Trainer(barebones=True, accelerator="cpu")
    assert tiny_cycle.hint is not None
    weight = tiny_cycle.hint.weight
    weight.grad = torch.full_like(weight, 7.0)
    module.on_before_optimizer_step(torch.optim.SGD(module.parameters()))
    assert torch.equal(weight.grad, torch.full_like(weight, 7.0))


def test_each_micro_batch_of_each_process_and_run_draws_for_itself(
    tiny_cycle: Cycle, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = []

    def step(*_: object, **__: object) -> CycleOutput:
        drawn.append(torch.rand(()).item())
        answer = StudentOutput(torch.zeros(1, 3, 4, 4), ())
        return CycleOutput({"student_ce": torch.zeros(())}, answer, None)

    monkeypatch.setattr(Cycle, "forward", step)
    monkeypatch.setattr(CycleModule, "log_dict", lambda *_, **__: None)
    trainer = SimpleNamespace(accumulate_grad_batches=2, world_size=2)
    monkeypatch.setattr(CycleModule, "trainer", trainer)
    batch = {"images": torch.zeros(1), "labels": torch.zeros(1), "names": [""], "hints": None}
    for seed, rank, index in itertools.product(range(2), range(2), range(4)):
        module = module_of(tiny_cycle, seed=seed)
        monkeypatch.setattr(CycleModule, "global_rank", rank)
        monkeypatch.setattr(CycleModule, "global_step", index // 2)
        module.training_step(batch, index)  # type: ignore[arg-type]
    assert len(set(drawn)) == 2 * 2 * 4


def test_each_validation_scores_itself_alone(
    tiny_cycle: Cycle, monkeypatch: pytest.MonkeyPatch
) -> None:
    logged: list[dict[str, float]] = []
    monkeypatch.setattr(CycleModule, "log_dict", lambda _, scores: logged.append(scores))
    monkeypatch.setattr(Trainer, "num_val_batches", [1])
    module = module_of(tiny_cycle).eval()
    module.trainer = Trainer(barebones=True, accelerator="cpu")
    images = torch.rand(1, 3, 32, 48)
    said = to_labels(tiny_cycle.student(images).logits[0], (32, 48))[None]
    for labels in (said, (said + 1) % 3):
        module.on_validation_epoch_start()
        module.validation_step(
            {"images": images, "labels": labels, "names": [""], "hints": None}, 0
        )
        module.on_validation_epoch_end()
    assert [scores["val/student_miou"] for scores in logged] == [100, 0]
    assert module.probe.confusions.sum().item() == 3 * 32 * 48


def test_pretraining_trains_every_part_wherever_it_comes_from(tmp_path: Path) -> None:
    """What is read from a folder comes in evaluation mode, in which batch norms learn nothing."""
    save_foundation(load_foundation("tiny-mobile-sam"), tmp_path)
    promptable = Promptable(load_foundation(str(tmp_path)))
    assert not promptable.foundation.model.training
    module = PretrainModule(promptable, PretrainConfig(), [])
    assert all(part.training for part in module.modules())


def test_pretraining_clips_what_trains() -> None:
    promptable = Promptable(load_foundation("tiny-sam2"))
    module = PretrainModule(promptable, PretrainConfig(optim=PretrainOptimConfig(clip=0.5)), [])
    module.trainer = Trainer(barebones=True, accelerator="cpu")
    learns = [p for p in promptable.parameters() if p.requires_grad]
    for parameter in learns:
        parameter.grad = torch.full_like(parameter, 7.0)
    module.on_before_optimizer_step(torch.optim.SGD(learns))
    norm = get_total_norm([p.grad for p in learns if p.grad is not None])
    assert norm.item() == pytest.approx(0.5, rel=1e-3)


def test_a_gradient_that_is_not_finite_is_told_before_it_changes_a_weight() -> None:
    """Clipped by an infinite norm every gradient would be NaN or 0."""
    good, bad = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2))
    good.grad, bad.grad = torch.tensor([3.0, 4.0]), torch.tensor([1.0, float("inf")])
    parts = {"student": ([good], 1.0), "teacher": ([bad], None)}
    told = "norm of the gradient of the teacher is not finite at step 7 on images a.png, b.png;"
    with pytest.raises(NonFiniteLossError, match=told):
        limit_gradients(parts, 7, ["a.png", "b.png"])
    torch.testing.assert_close(good.grad, torch.tensor([0.6, 0.8]), rtol=1e-5, atol=0)
    limit_gradients(parts, 7, scale=65536.0)  # the scale falls, and the step is left out
    with pytest.raises(NonFiniteLossError, match=told.replace(" on images a.png, b.png", "")):
        limit_gradients(parts, 7, scale=0.5)
    limit_gradients({"student": ([nn.Parameter(torch.zeros(2))], 1.0)}, 7)


def test_moving_average_follows_the_student(tiny_cycle: Cycle) -> None:
    optim = OptimConfig(ema=0.5)
    module = module_of(tiny_cycle, optim)
    assert module.student is not tiny_cycle.student
    assert module.averaged is not None
    weight = next(tiny_cycle.student.parameters())
    first = weight.detach().clone()
    module.averaged.update_parameters(tiny_cycle.student)
    weight.data += 2
    module.averaged.update_parameters(tiny_cycle.student)
    # After one step 2 / 11 of an average stay, however slow it will be.
    torch.testing.assert_close(next(module.student.parameters()), first + 2 * (1 - 2 / 11))


def test_averages_take_in_every_step_and_the_teachers_those_that_it_learns_in(
    tiny_cycle: Cycle, monkeypatch: pytest.MonkeyPatch
) -> None:
    cycle = Cycle(tiny_cycle.student, tiny_cycle.teacher, teacher_ema=0.9)
    module = module_of(cycle, OptimConfig(ema=0.9), max_steps=3, warmup_steps=1)
    module.trainer = Trainer(barebones=True, accelerator="cpu")
    assert module.averaged is not None
    assert cycle.averaged is not None
    optimizer, taken = torch.optim.SGD(cycle.parameters(), lr=0.0), []
    for step in range(3):
        monkeypatch.setattr(CycleModule, "global_step", step)
        module.optimizer_step(0, step, optimizer, lambda: None)
        taken.append((int(module.averaged.n_averaged), int(cycle.averaged.steps)))
    assert taken == [(1, 0), (2, 1), (3, 2)]


def test_the_average_answers_and_prompts_at_the_size_of_training(tiny_cycle: Cycle) -> None:
    module = module_of(tiny_cycle, OptimConfig(ema=0.9), resize=(32, 48)).eval()
    assert module.averaged is not None
    assert tiny_cycle.teacher is not None
    for weight in tiny_cycle.student.parameters():
        weight.data.add_(1.0)  # a step that the average has not taken in
    images = torch.rand(1, 3, 64, 96)
    logits, teacher = module.answer(images, with_teacher=True)
    shown = resize_images(images, (32, 48))
    torch.testing.assert_close(logits, module.averaged(shown).logits)
    assert teacher is not None
    torch.testing.assert_close(teacher.logits, tiny_cycle.teacher(shown, logits).logits)


def test_a_prompt_that_has_no_effect_is_told_at_any_size(tiny_cycle: Cycle) -> None:
    """A teacher that has not learned yet answers as if there were no prompt."""
    module = module_of(tiny_cycle, resize=(32, 48)).eval()
    module.trainer = Trainer(barebones=True, accelerator="cpu")
    module._probed = {0}
    images, labels = torch.rand(1, 3, 64, 96), torch.randint(3, (1, 64, 96))
    looks: list[int] = []
    assert tiny_cycle.teacher is not None
    first = tiny_cycle.teacher.foundation.model.vision_encoder.patch_embed
    first.projection.register_forward_hook(lambda *_: looks.append(1))
    module.validation_step({"images": images, "labels": labels, "names": [""], "hints": None}, 0)
    assert module.probe.compute()["prompt_sensitivity"] == 0
    assert len(looks) == 1, "one look serves all prompts"


@pytest.mark.parametrize("resize", [None, (32, 48)])
def test_validation_cuts_large_images(
    tiny_cycle: Cycle, monkeypatch: pytest.MonkeyPatch, resize: tuple[int, int] | None
) -> None:
    monkeypatch.setattr(inference, "WHOLE_PIXELS", 64 * 96 - 1)
    monkeypatch.setattr(training_module, "LONGEST", 48)
    module = module_of(tiny_cycle, resize=resize).eval()
    module.trainer = Trainer(barebones=True, accelerator="cpu")
    shown: list[tuple[int, ...]] = []
    tiny_cycle.student.register_forward_pre_hook(lambda _, given: shown.append(given[0].shape[2:]))
    labels = torch.randint(3, (1, 64, 96))
    labels[:, 0] = 255
    batch: Any = {"images": torch.rand(1, 3, 64, 96), "labels": labels, "names": [""]}
    module.validation_step({**batch, "hints": None}, 0)
    assert [tuple(size) for size in shown] == ([(32, 48)] * 4 if resize is None else [resize])
    assert module.contest.confusions[0].sum() == 63 * 96, "every labelled pixel once"


def test_a_picture_of_a_large_image_is_of_its_middle(
    tiny_cycle: Cycle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inference, "WHOLE_PIXELS", 32 * 64 - 1)
    monkeypatch.setattr(training_module, "LONGEST", 16)
    module = module_of(tiny_cycle).eval()
    image = torch.arange(64, dtype=torch.uint8).expand(3, 32, 64)
    labels, classes = torch.zeros(32, 64).long(), ClassTable.from_names(("a", "b", "c"))
    shown = tiles(module, image, labels, classes, with_teacher=True)
    assert {picture.shape[:2] for picture in shown.values()} == {(16, 16)}
    assert shown["image"][0, 0, 0] == 32


def test_a_checkpoint_holds_the_average_and_nothing_that_is_frozen(tiny_cycle: Cycle) -> None:
    module = module_of(tiny_cycle, OptimConfig(ema=0.9))
    checkpoint = {"state_dict": module.state_dict()}
    module.on_save_checkpoint(checkpoint)
    held = checkpoint["state_dict"].keys()
    assert module.averaged is not None
    assert {f"averaged.{name}" for name in module.averaged.state_dict()} <= held
    frozen = {name for name, p in tiny_cycle.named_parameters() if not p.requires_grad}
    assert frozen
    assert not {f"cycle.{name}" for name in frozen} & held


def test_moving_average_takes_buffers_in_as_weights() -> None:
    network = nn.BatchNorm1d(1)
    average = moving_average(network, 0.5)
    average.update_parameters(network)
    assert network.running_mean is not None
    network.running_mean += 11.0
    average.update_parameters(network)  # 2 / 11 of what it was stays
    torch.testing.assert_close(average.module.running_mean, torch.tensor([9.0]))


def test_moving_average_soon_forgets_the_first_weights() -> None:
    network = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(network.weight)
    average = moving_average(network, 0.999)
    average.update_parameters(network)
    nn.init.ones_(network.weight)
    for _ in range(200):
        average.update_parameters(network)
    assert average(torch.ones(1)).item() > 0.99


@pytest.mark.parametrize(
    ("ramp", "shares"),
    [(0.0, [1, 1, 1, 1]), (0.5, [0.25, 0.5, 1, 1]), (1.0, [0.125, 0.25, 0.5, 1])],
)
def test_teaching_rises_once_the_teacher_has_joined(
    tiny_cycle: Cycle, ramp: float, shares: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    module = module_of(tiny_cycle, max_steps=10, warmup_steps=2, ramp=ramp)
    found = []
    for step in (2, 3, 5, 9):
        monkeypatch.setattr(CycleModule, "global_step", step)
        found.append(module.teaching)
    assert found == shares


@pytest.mark.parametrize(("code", "raised"), [(2, TsicError), (0, RuntimeError)])
def test_whoever_loses_another_process_points_at_its_message(
    code: int, raised: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "_LAST_WORDS_SECONDS", 1)

    def fit(*_: object, **__: object) -> None:
        raise RuntimeError("Connection closed by peer")

    other = subprocess.Popen([sys.executable, "-c", f"raise SystemExit({code})"])
    launcher = SimpleNamespace(procs=[other])
    trainer: Any = SimpleNamespace(fit=fit, strategy=SimpleNamespace(launcher=launcher))
    files, nothing = TrainingFolder(tmp_path), SimpleNamespace()
    with pytest.raises(raised) as error:
        loop.fit(trainer, nothing, nothing, files, resumes=False)
    assert ("see its message above" in str(error.value)) == (raised is TsicError)


def test_every_device_has_a_process_whatever_a_cluster_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A SLURM job of one task that has two GPUs would train on one, with half of the batch."""
    for name in ("JOB_ID", "PROCID", "LOCALID", "NODEID"):
        monkeypatch.setenv(f"SLURM_{name}", "0")
    monkeypatch.setenv("SLURM_JOB_NAME", "train")
    monkeypatch.setenv("SLURM_NTASKS", "1")
    options = TrainerConfig("32-true", "cpu", devices=2)
    files = TrainingFolder(tmp_path)
    trainer = loop.make_trainer(options, files, "x", max_steps=4, monitor="val/student_miou")
    assert trainer.world_size == 2


def test_micro_batches_are_no_steps(tmp_path: Path) -> None:
    options = TrainerConfig("32-true", "cpu", accumulate=4, val_every=3)
    files = TrainingFolder(tmp_path)
    trainer = loop.make_trainer(options, files, "x", max_steps=9, monitor="val/student_miou")
    assert trainer.accumulate_grad_batches == 4
    assert trainer.val_check_interval == 12, "Lightning counts batches"


def test_the_first_process_is_the_users_own_whatever_its_rank_is_called(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Lightning calls it 0 from the first training of several devices on."""
    for rank, is_main in ((None, True), ("0", True), ("1", False)):
        monkeypatch.delenv("LOCAL_RANK", raising=False)
        if rank is not None:
            monkeypatch.setenv("LOCAL_RANK", rank)
        assert loop.is_main() is is_main


@pytest.mark.parametrize("rank", ["1", "0x", "-1"])
@pytest.mark.parametrize("begun", [True, False])
def test_a_rank_left_in_the_environment_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rank: str, begun: bool
) -> None:
    config, files = RunConfig(), TrainingFolder(tmp_path)
    if begun:
        save_config(config, files.config)
    monkeypatch.setenv("LOCAL_RANK", rank)
    with pytest.raises(ConfigError, match=f"LOCAL_RANK is '{rank}' in .*; unset LOCAL_RANK"):
        loop.resolve(RUN, config, files)


def test_the_first_of_several_devices_is_not_started_as_one_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lightning would start no others, and it would wait for them."""
    monkeypatch.setenv("LOCAL_RANK", "0")
    one = RunConfig(trainer=TrainerConfig(precision="32-true"))
    assert loop.resolve(RUN, one, TrainingFolder(tmp_path)) == one
    two = replace(one, trainer=replace(one.trainer, devices=2))
    with pytest.raises(ConfigError, match=r"LOCAL_RANK is '0' in .*; unset LOCAL_RANK"):
        loop.resolve(RUN, two, TrainingFolder(tmp_path))


def test_a_helper_of_several_devices_reads_what_the_first_process_settled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, files = RunConfig(trainer=TrainerConfig(devices=2)), TrainingFolder(tmp_path)
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(ConfigError, match="LOCAL_RANK is '1'"):
        loop.resolve(RUN, config, files)
    settled = replace(config, trainer=replace(config.trainer, precision="32-true"))
    save_config(settled, files.config)
    with pytest.raises(ConfigError, match="LOCAL_RANK is '1'"):  # nobody waits for it
        loop.resolve(RUN, config, files)
    monkeypatch.setenv("MASTER_PORT", "29500")
    assert loop.resolve(RUN, config, files) == settled


@pytest.mark.parametrize("given", ["my.yaml", Path("my.yaml"), {"max_steps": 1}, None])
def test_what_is_no_configuration_is_refused(tmp_path: Path, given: Any) -> None:
    with pytest.raises(ConfigError, match=r"takes a RunConfig, got a .*config_file\.load_config"):
        loop.resolve(RUN, given, TrainingFolder(tmp_path))


def test_a_process_that_fails_ends_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise NonFiniteLossError("loss kl is not finite")

    monkeypatch.setattr(loop, "run_trainer", fail)
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as other:
        trainer: Any = SimpleNamespace(
            strategy=SimpleNamespace(launcher=SimpleNamespace(procs=[other]))
        )
        nothing: Any = SimpleNamespace(last=None)
        with pytest.raises(NonFiniteLossError):
            loop.fit(trainer, nothing, nothing, nothing, resumes=False)
        assert other.wait(30) == -signal.SIGKILL


@pytest.mark.parametrize("name", ["lr{0.1}", "a[red]b", "[/z]"])
def test_a_bar_shows_any_name(name: str, tiny_cycle: Cycle) -> None:
    trainer: Any = SimpleNamespace(global_step=0, is_global_zero=True)
    shown, text = ShowProgress(2, name, 1), io.StringIO()
    shown.console = Console(file=text, force_terminal=True, width=99)
    shown.on_train_start(trainer, module_of(tiny_cycle))
    shown.on_train_end(trainer, module_of(tiny_cycle))
    assert name in text.getvalue()


def test_numbers_outlive_what_a_crash_left_among_them(tmp_path: Path) -> None:
    file = tmp_path / "metrics.csv"
    CsvLog(file).log_metrics({"train/total": 1.5}, 0)
    with file.open("ab") as stream:
        stream.write(b'\xff\xfe\0,"\n2,train/total,1.2\n3,train/to')
    CsvLog(file, 2).log_metrics({"train/total": 1.0}, 2)
    assert read_metrics(file) == [(i, "train/total", v) for i, v in ((1, 1.5), (2, 1.2), (3, 1.0))]


def test_a_log_that_goes_on_keeps_what_was_logged(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    name = 'val/only_student_right/"building", edifice'
    CsvLog(path).log_metrics({name: 1.5, "train/kl": 2.0}, step=4)
    with path.open("a") as file:
        file.write("6,train/k")
    CsvLog(path, step=5)
    assert read_metrics(path) == [(5, name, 1.5), (5, "train/kl", 2.0)]
