"""Whole runs on a tiny drawn folder: what they leave, and what they survive."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from torchvision.transforms.v2 import functional as TF

from tsic.checkpoint import load_student
from tsic.cli import main
from tsic.config import StudentConfig
from tsic.config_file import load_config, read_config
from tsic.data.check import count_pixels
from tsic.data.class_file import write_classes
from tsic.data.classes import ClassTable
from tsic.data.packed import pack_split
from tsic.data.readers import open_dataset
from tsic.deploy import inference
from tsic.deploy.inference import View
from tsic.errors import CheckpointError, ConfigError, NonFiniteLossError
from tsic.files import alone_in
from tsic.pretrain.config import PRETRAIN
from tsic.teacher import HintEncoder, build_hint_encoder
from tsic.training import module as training_module
from tsic.training.build import load_run
from tsic.training.callbacks import read_metrics
from tsic.training.dry_run import rehearse
from tsic.training.embed import embed
from tsic.training.module import CycleModule
from tsic.training.run import train

Settings = dict[str, Any]
SWAPPED = {0: 0, 1: 2, 2: 1, 255: 255}
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def state_of(folder: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = torch.load(
        folder / "checkpoints" / "last.ckpt", map_location="cpu", weights_only=False
    )
    return loaded


def assert_same_run(one: Path, other: Path) -> None:
    """Weights, optimiser moments and step, bit for bit."""
    left, right = state_of(one), state_of(other)
    assert left["global_step"] == right["global_step"]
    assert left["state_dict"].keys() == right["state_dict"].keys()
    for name, value in left["state_dict"].items():
        assert torch.equal(value, right["state_dict"][name]), name
    moments = left["optimizer_states"][0]["state"]
    for index, entry in moments.items():
        other_entry = right["optimizer_states"][0]["state"][index]
        assert all(torch.equal(entry[key], other_entry[key]) for key in entry)


def test_train_leaves_the_folder_that_the_design_promises(
    config_file: Path, tmp_path: Path
) -> None:
    result = train(load_config(config_file), tmp_path / "run")
    folder = result.folder.path
    for name in ("config.yaml", "metrics.csv", "student.safetensors", "student.json"):
        assert (folder / name).stat().st_size > 0
    assert {path.name for path in (folder / "checkpoints").iterdir()} == {"last.ckpt", "best.ckpt"}
    assert sorted(path.name for path in (folder / "samples").iterdir()) == [
        "step_000003.png",
        "step_000006.png",
    ]
    assert list((folder / "tensorboard").glob("events*"))
    page = (folder / "report.html").read_text()
    assert all(
        f"{report.miou:.2f}" in page for report in (result.student, result.teacher) if report
    )
    assert page.count("<svg") == 5
    scores = json.loads((folder / "evaluation.json").read_text())
    assert scores["miou"] == pytest.approx(result.student.miou)
    assert set(scores["teacher"]["per_class_iou"]) == {"ground", "square", "disc"}
    # The resolved configuration trains again, and means the same.
    assert load_config(folder / "config.yaml") == replace(load_config(config_file))

    rates = [group["lr"] for group in state_of(folder)["optimizer_states"][0]["param_groups"]]
    assert max(rates) == 0, "they fall to 0 within the run"

    rows = read_metrics(folder / "metrics.csv")
    steps_of = {name: [step for step, key, _ in rows if key == name] for _, name, _ in rows}
    assert steps_of["train/student_ce"] == [1, 2, 3, 4, 5, 6]
    assert steps_of["train/kl"] == steps_of["train/mask"] == [3, 4, 5, 6]
    assert steps_of["val/student_miou"] == [3, 6]
    # What ships scores what was reported, without any training code.
    loaded = load_student(folder)
    assert loaded.facts["training"]["val_miou"] == pytest.approx(result.student.miou)


def test_train_checkpoint_holds_only_what_was_trained(config_file: Path, tmp_path: Path) -> None:
    train(load_config(config_file), tmp_path / "run")
    names = set(state_of(tmp_path / "run")["state_dict"])
    assert any(name.endswith("attn.qkv.up_q") for name in names)
    assert any("mask_decoder" in name for name in names)
    encoder = [
        n for n in names if "vision_encoder" in n and "qkv.down" not in n and ".up_" not in n
    ]
    assert encoder == []


def test_load_run_refuses_weights_of_another_network(config_file: Path, tmp_path: Path) -> None:
    folder = train(load_config(config_file, ["--max_steps", "1"]), tmp_path / "run").folder
    state = state_of(folder.path)
    name = next(n for n in state["state_dict"] if "mask_decoder" in n)
    state["state_dict"]["another"] = state["state_dict"].pop(name)
    torch.save(state, folder.best)
    with pytest.raises(
        CheckpointError, match=r"best.ckpt' does not fit .*2 weights .*first another"
    ):
        load_run(folder.path)


def test_a_run_that_ctrl_c_stops_says_how_to_go_on(config_file: Path, tmp_path: Path) -> None:
    """SIGTERM comes with it where it stops a comparison, which tells its runs to end."""
    numbers = signal.SIGINT, signal.SIGTERM
    words = ["train", "--config", config_file, "--out", tmp_path, "--name", "run"]
    words += ["--trainer.val_every", "100000", "--trainer.save_every", "100000"]
    words += ["--data.workers", "2"]
    # Tests in a shell's background ignore Ctrl-C, and so would the run.
    before = {number: signal.signal(number, signal.default_int_handler) for number in numbers}
    run = subprocess.Popen(
        [sys.executable, "-m", "tsic", *map(str, words), "--max_steps", "100000"],
        env=ENVIRONMENT,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    for number in numbers:
        signal.signal(number, before[number])
    metrics = tmp_path / "run" / "metrics.csv"
    while not (metrics.is_file() and metrics.stat().st_size > 100):
        assert run.poll() is None
        time.sleep(0.1)
    for number in numbers:
        os.killpg(run.pid, number)  # a terminal and a scheduler tell the workers, too
        time.sleep(0.01)
    _, said = run.communicate(timeout=60)
    # Within a backward pass, an interrupt made the process crash when it exited.
    assert run.returncode == 128 + numbers[0]
    assert (
        state_step(tmp_path / "run" / "checkpoints" / "last.ckpt") == read_metrics(metrics)[-1][0]
    )
    assert "--resume auto" in said.splitlines()[-1]
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["--data.unlabelled", "x", "--teacher.name", "none"],
            "set teacher.name or distill.method",
        ),
        (["--data.unlabelled", "x"], "data.unlabelled needs objective.kl_where: everywhere"),
        (["--data.unlabelled", ""], "data.unlabelled must name a folder; null for none"),
        (["--data.unlabelled_share", ".nan"], "data.unlabelled_share must lie in .*got nan"),
        (
            ["--data.unlabelled=x", "--objective.kl_weight=0", "--objective.feature_weight=0"],
            "data.unlabelled needs something that teaches there",
        ),
        (
            ["--data.unlabelled", "x", "--data.unlabelled_share", "0.9"],
            "leaves no image with labels, or none without, among the 4 that a device sees",
        ),
        (["--teacher.channels", "12"], "teacher.channels must be a multiple of 8, got 12"),
        (["--recipe", "paper", "--data.batch_size", "1"], "normalises over the images of a device"),
        (
            ["--recipe", "paper", "--data.crop", "[16,32]"],
            "must be at least 32 x 32 at teacher.sca",
        ),
        (
            ["--recipe", "release", "--data.crop", "[32,48]", "--teacher.scale", "0.5"],
            "must be at least 32 x 32 at teacher.scale, got .32, 48. at 0.5",
        ),
        (["--data.cutmix", "1.5"], r"data.cutmix must lie in \[0, 1\], got 1.5"),
        (["--data.cutmix", "1", "--data.batch_size", "1"], "data.batch_size must be at least 2 x"),
        (["--optim.lr", "-1"], "optim.lr must be > 0, got -1"),
        (["--optim.teacher_lr", "-1"], "optim.teacher_lr must be >= 0, got -1"),
        (["--optim.weight_decay", "-1"], "optim.weight_decay must be >= 0, got -1"),
        (["--optim.lr_warmup_steps", "-1"], "optim.lr_warmup_steps must be >= 0, got -1"),
        (["--optim.power", "-1"], "optim.power must be >= 0, got -1"),
        (["--optim.clip", "0"], "optim.clip must be > 0, or null for no limit, got 0"),
        (["--objective.ohem_threshold", "70"], "ohem_threshold is a probability from 0 to 1"),
        (["--objective.ohem_min_kept", "-5"], "objective.ohem_min_kept must be >= 1, got -5"),
        (["--optim.lr", "null"], "optim.lr must be of type float, got 'null'"),
        (["--data.workers", "-1"], "data.workers must be >= 0, got -1"),
        (["--data.scale", "[0.5, .inf]"], "data.scale must be two rising ratios from 0.01 to 100"),
        (["--data.resize", "[0, 5]"], "data.resize must be height and width in pixels, got"),
        (["--seed", "99999999999999999999"], r"seed must lie in \[0, 4294967295\], got 9999999999"),
        (["--trainer.pictures", "-3"], "trainer.pictures must be >= 0, got -3"),
        (["--data.crop", "[1000000, 64]"], "data.crop must be at least 16 x 16 and at most 16384"),
        (["--teacher.name", "weights/sam.pt"], "'weights/sam.pt': no such file or folder"),
        (["--objective.kl_weight", "-3"], "objective.kl_weight must be >= 0, got -3"),
        (["--teacher.warmup_steps", "-3"], "teacher.warmup_steps must be >= 0"),
        (["--data.flip", "3"], r"data.flip must lie in \[0, 1\], got 3"),
        (["--trainer.val_every", "0"], "trainer.val_every must be >= 1, got 0"),
        (["--trainer.accelerator", "gpuu"], "trainer.accelerator"),
        (["--trainer.devices", "4"], "at most the 3 images of split val, got 4"),
    ],
)
def test_what_would_fail_later_is_refused_at_once(
    words: list[str], said: str, config_file: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=said):
        train(load_config(config_file, words), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_empty_section_says_nothing(config_file: Path) -> None:
    expected = load_config(config_file)
    config_file.write_text(f"{config_file.read_text()}optim:\nobjective: null\n")
    assert load_config(config_file) == expected
    above = config_file.with_name("above.yaml")
    above.write_text(f"base: {config_file.name}\nteacher:\n")
    assert load_config(above) == expected
    for text, said in (
        ("optimm:\n", "did you mean 'optim'"),
        ("max_steps:\n", "max_steps must be of type int, got None"),
        ("recipe:\n", "recipe 'None' is unknown"),
        ("recipe: [paper]\n", r"recipe '\['paper'\]' is unknown; did you mean 'paper'"),
    ):
        config_file.write_text(text)
        with pytest.raises(ConfigError, match=said):
            load_config(config_file)
    for text, said in (
        ("base: 5\n", "base must name one file, got 5"),
        ("data: [1, 2]\n", r"^data must hold keys and values, got \[1, 2\]"),
        ("data: {root: 2020-01-01, crop: x}\n", "^data.crop must be a list of 2 int, .* got 'x'$"),
        ("seed: 1\noptim: {lr: 1}\nseed: 2\n", "key seed stands twice, in lines 1 and 3"),
        ("optim: {lr: 1}\noptim.lr: 2\n", "key optim.lr stands twice"),
    ):
        config_file.write_text(text)
        with pytest.raises(ConfigError, match=said):
            load_config(config_file)


def test_keys_with_dots_are_keys_of_sections(config_file: Path) -> None:
    config_file.write_text("optim.lr: 0.5\nstudent.options.width: 0.5\nstudent.name: compact\n")
    above = config_file.with_name("above.yaml")
    above.write_text(f"base: {config_file.name}\noptim: {{lr: 0.25}}\n")
    config = load_config(above)
    assert config.optim.lr == 0.25
    assert config.student.options == {"width": 0.5}


def test_paths_in_the_users_folder_are_found(
    config_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(config_file.parent))
    above = config_file.with_name("above.yaml")
    text = "data: {root: ~/shapes}\nteacher.name: ~/b.pt\n"
    above.write_text(f"base: ~/{config_file.name}\n{text}")
    config = load_config(above)
    assert config.data.root == str(config_file.parent / "shapes")
    assert config.teacher.name == str(config_file.parent / "b.pt")


def test_checkpoints_do_not_go_through_the_temporary_folder(
    config_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That may be on another disk, from which they would be copied over those before."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "absent"))
    files = train(load_config(config_file), tmp_path / "run").folder
    assert files.last.is_file()
    assert files.best.is_file()


def test_a_teacher_that_never_joins_is_warned_of_and_not_scored(
    config_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = train(load_config(config_file, ["--max_steps", "2"]), tmp_path / "run")
    assert result.teacher is None
    said = capsys.readouterr().err
    assert "warning: the teacher takes no part: teacher.warmup_steps 2 is not below" in said


def test_rare_classes_weigh_more_as_the_training_split_counts_them(
    config_file: Path, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Tensor | None] = []

    def build(config: object, classes: object, weights: Tensor | None) -> None:
        given.append(weights)
        raise InterruptedError

    monkeypatch.setattr("tsic.training.run.build_module", build)
    for balance in ("0", "1"):
        config = load_config(config_file, ["--objective.class_balance", balance])
        with pytest.raises(InterruptedError):
            train(config, tmp_path / "run")
    pixels = count_pixels(open_dataset("folder", Path(settings["data"]["root"]), "train"))
    assert given[0] is None
    assert given[1] is not None
    torch.testing.assert_close(given[1] * pixels, (pixels.sum() / 3).expand(3).float())


@pytest.mark.parametrize("resize", [None, [64, 96]])
def test_large_images_are_cut_and_scored_by_windows(
    config_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, resize: list[int] | None
) -> None:
    """But for a student that sees whole images always."""
    for owner, name, value in (
        (training_module, "LONGEST", 50),
        (inference, "WHOLE_PIXELS", 64 * 96 - 1),
        (inference, "WINDOWS", View(crop=(32, 48), stride=(24, 36))),
    ):
        monkeypatch.setattr(owner, name, value)
    words = ["--max_steps", "3", "--data.resize", str(resize or "null")]
    config = load_config(config_file, words)
    shown: list[torch.Size] = []
    answer = CycleModule.answer

    def seen(self: CycleModule, images: Tensor, **options: Any) -> Any:
        shown.append(images.shape[2:])
        return answer(self, images, **options)

    monkeypatch.setattr(CycleModule, "answer", seen)
    rehearse(config, steps=1)
    assert set(shown) == {(64, 96) if resize else (32, 48)}
    shown.clear()
    folder = train(config, tmp_path / "run").folder
    assert set(shown) == {(64, 96) if resize else (32, 48)}, "panels and last scores, too"
    view = {"crop": None, "stride": None, "flip": False, "scales": [1.0]}
    if resize is None:
        view |= {"crop": [32, 48], "stride": [24, 36]}
    written = json.loads(folder.evaluation.read_text())
    assert written["view"] == written["teacher"]["view"] == view
    for role, scores in (("student", written), ("teacher", written["teacher"])):
        file = tmp_path / f"{role}.json"
        assert main(["evaluate", str(folder.path), "--role", role, "--json", str(file)]) == 0
        again = json.loads(file.read_text())
        assert again["view"] == view
        assert again["miou"] == pytest.approx(scores["miou"], abs=0.01)
    assert main(["evaluate", str(folder.path), "--flip", "--json", str(file)]) == 0
    assert json.loads(file.read_text())["view"] == {**view, "flip": True}


def test_a_checkpoint_that_is_none_is_told(config_file: Path, tmp_path: Path) -> None:
    config = load_config(config_file, ["--max_steps", "1"])
    folder = train(config, tmp_path / "run").folder
    for path in (folder.best, folder.last):
        path.write_bytes(b"not a checkpoint")
    with pytest.raises(CheckpointError, match=r"best\.ckpt' is damaged"):
        load_run(folder.path)
    with pytest.raises(CheckpointError, match=r"last\.ckpt' is damaged"):
        train(config, folder.path, resume=True)


def test_one_process_trains_in_a_folder(
    config_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tsic.training.loop._LOCK_SECONDS", 0.1)
    config, run = load_config(config_file), tmp_path / "run"
    files = train(config, run).folder
    kept = files.metrics.read_text()
    files.evaluation.unlink()
    with (
        alone_in(run, "trains"),
        pytest.raises(ConfigError, match=r"another process trains in '.*run'; wait for"),
    ):
        train(config, run, resume=True)
    assert files.metrics.read_text() == kept
    assert not files.evaluation.exists()
    train(config, run, resume=True)
    assert files.evaluation.is_file()


@pytest.fixture
def one_thread() -> Iterator[None]:
    """As in `ENVIRONMENT`: sums of another number of threads differ."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_thread", "late_sigterm")
def test_resume_after_kill_equals_an_uninterrupted_run(
    config_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train", "--config", str(config_file), "--out", str(tmp_path), "--max_steps", "24"]
    words += ["--trainer.val_every", "12"]
    # Dropout, boxes that are exchanged, moving averages and a projection.
    words += ["--optim.ema", "0.9", "--student.auxiliary", "true"]
    words += ["--teacher.ema", "0.9", "--teacher.ramp", "1", "--data.cutmix", "0.5"]
    assert main([*words, "--name", "whole"]) == 0
    words += ["--resume", "auto"]
    last = tmp_path / "killed" / "checkpoints" / "last.ckpt"

    def end(process: int, number: signal.Signals, least: int) -> None:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and not (last.is_file() and state_step(last) >= least):
            time.sleep(0.05)
        os.kill(process, number)

    killed = subprocess.Popen(
        [sys.executable, "-m", "tsic", *words, "--name", "killed"],
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    end(killed.pid, signal.SIGKILL, 6)
    killed.wait()
    kill = state_step(last)
    told = threading.Thread(target=end, args=(os.getpid(), signal.SIGTERM, kill + 1))
    told.start()
    code = main([*words, "--name", "killed"])
    told.join()
    assert code == 128 + signal.SIGTERM
    assert "--resume auto" in capsys.readouterr().err.splitlines()[-1]
    stop = state_step(last)
    assert 6 <= kill < stop < 24, "stopped too late to test anything"
    assert stop == read_metrics(tmp_path / "killed" / "metrics.csv")[-1][0]

    assert main([*words, "--name", "killed"]) == 0
    assert_same_run(tmp_path / "whole", tmp_path / "killed")
    students = [load_file(tmp_path / n / "student.safetensors") for n in ("whole", "killed")]
    assert all(torch.equal(value, students[1][name]) for name, value in students[0].items())
    logs = [sorted(read_metrics(tmp_path / n / "metrics.csv")) for n in ("whole", "killed")]
    # Lightning logs a step after its checkpoint: SIGKILL between the two loses that step's rows.
    kept = [[row for row in log if row[0] != kill] for log in logs]
    assert kept[0] == kept[1]
    assert set(logs[1]) <= set(logs[0])
    assert capsys.readouterr().out.count("val mIoU") == 1


def state_step(path: Path) -> int:
    """Step of a checkpoint that another process may be replacing."""
    try:
        return int(torch.load(path, map_location="cpu", weights_only=False)["global_step"])
    except (OSError, RuntimeError, EOFError):
        return -1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--data.resize", "[32,48]"], ""),  # as the images are, 64x96
        (
            ["--data.resize", "[40,40]"],
            "tsic: warning: data.resize [40, 40] stretches images of [64, 96] pixels, here and "
            "wherever the student is used; [33, 49] keeps their proportions\n",
        ),
        (
            ["--distill.teacher", "runs/alone"],
            "tsic: warning: distill.teacher teaches nothing without distill.method\n",
        ),
        (
            ["--data.crop", "[192,192]", "--data.scale", "[0.5,1.5]"],
            "tsic: warning: crops of [192, 192] pixels are mostly padding: the first image, "
            "of [64, 96], gets no larger than [96, 144]; set data.crop smaller\n",
        ),
    ],
)
def test_what_cannot_be_meant_is_warned_of(
    config_file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    said: str,
) -> None:
    words = ["--max_steps", "1", "--teacher.name", "none", *words]
    train(load_config(config_file, words), tmp_path / "run")
    told = capsys.readouterr().err
    assert [line for line in told.splitlines(keepends=True) if "warning" in line] == (
        [said] if said else []
    )


def test_keys_that_earlier_versions_wrote_are_read_over(tmp_path: Path) -> None:
    """Else no run of theirs could be resumed."""
    held = tmp_path / "config.yaml"
    held.write_text("objective: {ignore_index: 255, kl_weight: 3.0}\n")
    assert load_config(held).objective.kl_weight == 3.0
    held.write_text("objective: {ignore_index: 0}\n")
    with pytest.raises(ConfigError, match=r"unknown key 'objective\.ignore_index'"):
        load_config(held)
    held.write_text("trainer: {graph: false, compile: false, log_every: 7}\n")
    assert read_config(PRETRAIN, held).trainer.log_every == 7


def test_resume_refuses_another_configuration(config_file: Path, tmp_path: Path) -> None:
    config = load_config(config_file, ["--max_steps", "2"])
    train(config, tmp_path / "run")
    with pytest.raises(ConfigError, match=r"holds a run already; go on with --resume auto"):
        train(config, tmp_path / "run")
    other = load_config(config_file, ["--max_steps", "2", "--optim.lr", "0.5"])
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    for is_there in (True, False):  # deleted for its size, it leaves a run that is worth keeping
        if not is_there:
            last.rename(last.with_name("away"))
        with pytest.raises(ConfigError, match=r"cannot resume .*\(optim.lr: 0.001 -> 0.5\)"):
            train(other, tmp_path / "run", resume=True)
    last.with_name("away").rename(last)
    held = Path(config.data.root)
    more = shutil.copytree(held, tmp_path / "more")
    extra = sorted((more / "val" / "images").iterdir())[0]
    for kind in ("images", "masks"):
        shutil.copy(more / "val" / kind / extra.name, more / "val" / kind / f"more{extra.suffix}")
    other = replace(config, data=replace(config.data, root=str(more)))
    with pytest.raises(ConfigError, match=f"data.root: {held} -> {more}, which holds other files"):
        train(other, tmp_path / "run", resume=True)
    (tmp_path / "run" / "config.yaml").unlink()
    message = r"holds a training but no config.yaml, which says"
    for left in ("checkpoints/last.ckpt", "checkpoints/best.ckpt", "evaluation.json"):
        for resume in (True, False):
            with pytest.raises(ConfigError, match=message):
                train(other, tmp_path / "run", resume=resume)
        (tmp_path / "run" / left).unlink()


def test_resume_with_other_classes_or_files(
    config_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = load_config(config_file, ["--max_steps", "1", "--teacher.name", "none"])
    train(config, tmp_path / "run")
    root = Path(config.data.root)
    for file in root.glob("train/*/005.png"):  # a bad image may be taken out
        file.unlink()
    capsys.readouterr()
    train(config, tmp_path / "run", resume=True)
    assert "images or masks are others than when" in capsys.readouterr().err
    write_classes(root / "classes.yaml", ClassTable.from_names(("ground", "disc", "square")))
    message = "with other classes .ground, square, disc -> ground, disc, square.; put them back"
    with pytest.raises(ConfigError, match=message):
        train(config, tmp_path / "run", resume=True)
    swapped = ClassTable(("ground", "square", "disc"), ((1, 1, 1), (2, 2, 2), (3, 3, 3)), SWAPPED)
    write_classes(root / "classes.yaml", swapped)
    with pytest.raises(ConfigError, match=r"with other classes .their ids or colours have changed"):
        train(config, tmp_path / "run", resume=True)
    (tmp_path / "run" / "data.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"data\.json' is damaged"):
        train(config, tmp_path / "run", resume=True)


def test_splits_of_other_classes_are_refused(
    config_file: Path, settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Packed one by one, with another table each, and moved away from their source."""
    root, packed = Path(settings["data"]["root"]), tmp_path / "packed"
    pack_split(open_dataset("folder", root, "train"), packed)
    write_classes(root / "classes.yaml", ClassTable.from_names(("ground", "disc", "square")))
    pack_split(open_dataset("folder", root, "val"), packed)
    shutil.rmtree(root)
    data = ["--data.name", "packed", "--data.root", str(packed)]
    said = (
        "split 'val' has the classes ground, disc, square, but split 'train' ground, square, disc"
    )
    for words in (
        ["train", "--config", str(config_file), *data, "--out", str(tmp_path / "runs")],
        ["data", "check", str(packed), "--name", "packed"],
    ):
        assert main(words) == 2
        assert said in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_a_configuration_made_in_python_has_to_work(config_file: Path, tmp_path: Path) -> None:
    config = load_config(config_file)
    data = replace(config.data, unlabelled=config.data.root)
    with pytest.raises(ConfigError, match=r"needs objective\.kl_where: everywhere"):
        train(replace(config, data=data), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_teacher_off_is_plain_training(config_file: Path, tmp_path: Path) -> None:
    """A teacher that never starts, or is absent, leaves the very same student."""
    absent = load_config(config_file, ["--teacher.name", "none"])
    waiting = load_config(config_file, ["--teacher.warmup_steps", "6"])
    students = []
    for name, config in (("absent", absent), ("waiting", waiting)):
        train(config, tmp_path / name)
        students.append(load_file(tmp_path / name / "student.safetensors"))
    assert all(torch.equal(value, students[1][name]) for name, value in students[0].items())


def test_a_teacher_that_teaches_nothing_leaves_the_student_alone(
    config_file: Path, tmp_path: Path
) -> None:
    """What the teacher gives goes through L_kd-p, L_kd-f and the prompt, and nowhere else."""
    silent = ["--objective.kl_weight", "0", "--objective.feature_weight", "0"]
    silent += ["--teacher.gradient", "stop", "--optim.clip", "0.1", "--student.auxiliary", "true"]
    students = {}
    for name, words in (
        ("alone", [*silent, "--teacher.name", "none"]),
        ("silent", silent),
        ("through", [*silent, "--teacher.gradient", "through"]),
    ):
        train(load_config(config_file, words), tmp_path / name)
        students[name] = state_of(tmp_path / name)["state_dict"]
    names = [name for name in students["alone"] if name.startswith("cycle.student.")]
    assert all(torch.equal(students["alone"][name], students["silent"][name]) for name in names)
    assert any(
        not torch.equal(students["alone"][name], students["through"][name]) for name in names
    )


def test_a_run_with_hints_alone_has_no_teacher_to_score(config_file: Path, tmp_path: Path) -> None:
    hints = ["--teacher.hints_only", "true"]
    with pytest.raises(ConfigError, match=r"teacher\.hints_only needs .*feature_loss: hint"):
        load_config(config_file, [*hints, "--objective.feature_loss", "attention"])
    result = train(load_config(config_file, hints), tmp_path / "hints")
    assert result.teacher is None
    assert "with hints of tiny-sam" in result.folder.report.read_text()
    rows = read_metrics(result.folder.metrics)
    names = {name for _, name, _ in rows}
    assert "train/feature" in names
    assert not any("teacher" in name or "prompt" in name for name in names)
    assert min(step for step, name, _ in rows if name == "train/feature") > 1, "none in warm-up"
    held = state_of(result.folder.path)["state_dict"]
    assert {name.split(".")[1] for name in held} == {"student", "hint"}
    module, _ = load_run(result.folder.path)
    assert module.cycle.encoder is not None
    assert main(["evaluate", str(result.folder.path), "--role", "teacher"]) == 2


def test_the_teacher_teaches_on_images_without_labels(
    config_file: Path, settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = Path(settings["data"]["root"])
    photos = shutil.copytree(root / "train" / "images", tmp_path / "photos")
    Image.new("RGB", (96, 64), (90, 120, 90)).save(photos / "new.png")
    shutil.copy(root / "val" / "images" / "000.png", photos / "seen.png")
    words = ["--data.unlabelled", str(photos), "--objective.kl_where", "everywhere"]
    words += ["--teacher.warmup_steps", "0", "--max_steps", "2"]
    result = train(load_config(config_file, words), tmp_path / "run")
    assert "unlabelled: 1 images, 7 more left out, which have labels" in capsys.readouterr().err
    assert load_student(result.folder.path).facts["training"]["unlabelled_images"] == 1
    assert main(["push", str(result.folder.path), str(tmp_path / "card")]) == 0
    assert "| images without labels | 1 |" in (tmp_path / "card" / "README.md").read_text()
    assert [name for _, name, _ in read_metrics(result.folder.metrics)].count("train/kl") == 2
    rehearse(load_config(config_file, words), steps=1)

    words += ["--teacher.hints_only", "true", "--teacher.hint_cache", str(tmp_path / "cache")]
    words += ["--teacher.hint_side", "128"]
    train(load_config(config_file, words), tmp_path / "hints")
    assert len(list((tmp_path / "cache").glob("*/*.npy"))) == 6 + 1


def test_a_folder_with_a_colon_in_its_path_is_no_import_path(
    config_file: Path, tmp_path: Path, segformer: Path
) -> None:
    folder = shutil.copytree(segformer, tmp_path / "models:v2" / "segformer")
    config = load_config(config_file, ["--teacher.name", "none", "--max_steps", "1"])
    result = train(replace(config, student=StudentConfig(str(folder))), tmp_path / "run")
    assert load_student(result.folder.path).predict(torch.zeros(3, 32, 48)).shape == (32, 48)


def test_hints_are_made_once_for_all_runs(
    config_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    words = ["--teacher.hint_cache", str(cache)]
    with pytest.raises(ConfigError, match=r"hint_cache needs teacher\.hints_only: true"):
        load_config(config_file, words)
    words += ["--teacher.hints_only", "true", "--teacher.hint_side", "128"]
    words += ["--teacher.warmup_steps", "0"]
    rehearsed = rehearse(load_config(config_file, words), steps=1)
    assert not cache.exists(), "a rehearsal writes nothing"
    looks: list[torch.Size] = []
    look = HintEncoder.forward

    def counted(self: HintEncoder, images: Tensor) -> Tensor:
        looks.append(images.shape)
        return look(self, images)

    monkeypatch.setattr(HintEncoder, "forward", counted)
    first = train(load_config(config_file, words), tmp_path / "first")
    count = len(list(cache.glob("*/*.npy")))
    assert rehearsed.embeddings == count
    assert f"{count} images, once" in rehearsed.to_text()
    # Each image and its mirror image, at that size, and none in the steps.
    assert [shape[0] for shape in looks] == [2] * count
    assert {max(shape[2:]) for shape in looks} == {128}
    losses = [value for _, name, value in read_metrics(first.folder.metrics) if "feature" in name]
    assert len(losses) == 6
    assert json.loads(first.folder.evaluation.read_text())["embedding_seconds"] > 0

    next(cache.glob("*/*.npy")).unlink()
    again = train(load_config(config_file, words), tmp_path / "again")
    assert len(looks) == count + 1, "what is there is not made again"
    students = [load_file(run.folder.path / "student.safetensors") for run in (first, again)]
    assert all(torch.equal(value, students[1][name]) for name, value in students[0].items())
    mixed = load_config(config_file, [*words, "--trainer.precision", "bf16-mixed"])
    assert rehearse(mixed, steps=1).embeddings == count, "in another precision, too"
    other = load_config(config_file, [*words, "--teacher.hint_side", "64"])
    assert rehearse(other, steps=1).embeddings == count, "at another size it sees something else"


def test_a_mirror_image_is_embedded_beside_its_image(config_file: Path) -> None:
    config = load_config(config_file, ["--teacher.hint_side", "96"])
    encoder = build_hint_encoder("tiny-sam")
    image = torch.randint(0, 256, (3, 60, 80), dtype=torch.uint8)
    seen, other = embed(encoder, image, config), embed(encoder, image.flip(2), config)
    torch.testing.assert_close(seen, other.flip(0))
    assert not torch.allclose(seen[0], seen[1])
    assert seen.shape[2:] == (5, 6), "72 x 96 pixels, in cells of 16"
    scaled = TF.resize(image, [72, 96], antialias=True)[None].float() / 255
    torch.testing.assert_close(seen[:1], encoder(scaled), msg="the image itself is the first")


def test_either_network_of_a_run_teaches_offline(
    config_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(load_config(config_file), tmp_path / "first")
    words = ["--teacher.name", "none"]
    taught = [*words, "--distill.method", "kd", "--distill.teacher", str(tmp_path / "first")]
    for name, extra in (
        ("alone", words),
        ("student", taught),
        ("teacher", [*taught, "--distill.role", "teacher"]),
    ):
        train(load_config(config_file, extra), tmp_path / name)
    student, teacher, alone = (
        load_file(tmp_path / name / "student.safetensors")
        for name in ("student", "teacher", "alone")
    )
    key = next(name for name in alone if "classifier" in name)
    assert not torch.equal(student[key], alone[key])
    assert not torch.equal(teacher[key], alone[key])
    assert not torch.equal(teacher[key], student[key])
    told = json.loads((tmp_path / "student" / "student.json").read_text())
    assert told["training"]["teacher"] == "first"  # not where it lies here
    methods = {
        name: load_student(tmp_path / name).facts["training"]["recipe"]
        for name in ("first", "alone", "student")
    }
    assert methods == {"first": "cycle", "alone": "alone", "student": "kd"}
    manners = {
        "first": "in the cycle with tiny-sam",
        "alone": "alone",
        "student": "by kd from first",
    }
    for name, manner in manners.items():
        assert f"trained {manner}. Scores" in (tmp_path / name / "report.html").read_text()
    refused = [*taught, "--distill.role", "teacher", "--distill.teacher", str(tmp_path / "alone")]
    with pytest.raises(ConfigError, match=r"distill\.role: .*alone' was trained without a teacher"):
        train(load_config(config_file, refused), tmp_path / "refused")
    # As if the best checkpoint were from before its teacher joined.
    late = tmp_path / "first" / "config.yaml"
    config = yaml.safe_load(late.read_text())
    config["teacher"]["warmup_steps"] = config["max_steps"]
    late.write_text(yaml.safe_dump(config))
    with pytest.raises(ConfigError, match=r"best checkpoint of .*first' is from before"):
        train(load_config(config_file, [*taught, "--distill.role", "teacher"]), tmp_path / "late")
    assert main(["evaluate", str(tmp_path / "first"), "--role", "teacher"]) == 2
    assert "is from before its teacher joined" in capsys.readouterr().err


def test_last_weights_are_validated_though_val_every_misses_them(
    config_file: Path, tmp_path: Path
) -> None:
    result = train(load_config(config_file, ["--max_steps", "5"]), tmp_path / "run")
    rows = read_metrics(result.folder.metrics)
    scores = {step: value for step, name, value in rows if name == "val/student_miou"}
    assert list(scores) == [3, 5]
    assert result.student.miou == pytest.approx(max(scores.values()), abs=1e-3)
    held = state_of(result.folder.path)
    assert held["global_step"] == 5, "whatever save_every is"
    (best,) = (kept for name, kept in held["callbacks"].items() if name.startswith("KeepBest"))
    assert best["best_model_score"] == max(scores.values())


class NormFree(torch.nn.Module):
    """A network in which no image knows of the others in its batch."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(8, num_classes, 1)
        )

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.layers(images)
        return logits


def test_accumulation_1x4_equals_4x1(config_file: Path, tmp_path: Path) -> None:
    """After a first step AdamW's first moment is a tenth of the gradient.

    The crop is the whole image, so that every image has as many labelled pixels.
    """
    words = ["--student.name", f"{__name__}:NormFree", "--student.options", "{}"]
    words += ["--teacher.name", "none", "--max_steps", "1"]
    words += ["--data.crop", "[64, 96]", "--data.scale", "[1, 1]"]
    gradients = []
    for accumulate in ("1", "4"):
        config = load_config(config_file, [*words, "--trainer.accumulate", accumulate])
        train(config, tmp_path / accumulate)
        moments = state_of(tmp_path / accumulate)["optimizer_states"][0]["state"]
        gradients.append([entry["exp_avg"] * 10 for entry in moments.values()])
    for whole, parts in zip(*gradients, strict=True):
        assert whole.abs().max() > 1e-4
        torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-6)


def test_non_finite_loss_stops_and_names_step_and_images(config_file: Path, tmp_path: Path) -> None:
    config = load_config(config_file, ["--optim.lr", "1e30", "--teacher.name", "none"])
    with pytest.raises(
        NonFiniteLossError, match=r"loss student_ce is not finite at step [1-5] on images train/"
    ):
        train(config, tmp_path / "run")


class Flat(NormFree):
    """Its gradient is infinite where its loss is finite."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.root = torch.nn.Parameter(torch.zeros(()))

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images) + self.root.sqrt()


def test_a_gradient_that_is_not_finite_leaves_weights_that_are(
    config_file: Path, tmp_path: Path
) -> None:
    words = ["--student.name", f"{__name__}:Flat", "--student.options", "{}"]
    words += ["--teacher.name", "none", "--optim.clip", "1", "--trainer.save_every", "1"]
    with pytest.raises(
        NonFiniteLossError,
        match="the norm of the gradient of the student is not finite at step 0 on images",
    ):
        train(load_config(config_file, words), tmp_path / "run")
    assert not (tmp_path / "run" / "checkpoints" / "last.ckpt").exists()


def test_two_processes_train_as_one(config_file: Path, tmp_path: Path) -> None:
    words = ["train", "--config", str(config_file), "--out", str(tmp_path)]
    words += ["--trainer.devices", "2", "--name", "ddp"]
    command = [sys.executable, "-m", "tsic", *words]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "val mIoU" in done.stdout
    rows = read_metrics(tmp_path / "ddp" / "metrics.csv")
    assert [step for step, name, _ in rows if name == "train/kl"] == [3, 4, 5, 6]
    assert all(value > 0 for _, name, value in rows if name == "train/kl")


def test_data_problems_stop_before_training(
    config_file: Path, settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = Path(settings["data"]["root"])
    mask = next(iter(sorted(root.rglob("masks/*"))), None) or next(
        path for path in sorted(root.rglob("*.png")) if "mask" in str(path)
    )
    mask.write_bytes(b"no picture")
    assert main(["train", "--config", str(config_file), "--out", str(tmp_path)]) == 2
    assert mask.name in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "tiny" / "checkpoints").exists()


@pytest.mark.parametrize(
    "path",
    sorted((Path(__file__).parents[2] / "configs" / "camvid").glob("*.yaml")),
    ids=lambda path: path.stem,
)
def test_every_shipped_config_trains_past_each_switch(
    path: Path, folder_dataset: Path, tmp_path: Path
) -> None:
    """Scaled down: the drawn folder, tiny teachers, and the teacher joining at step 1."""
    written = load_config(path)
    teacher = written.teacher.name
    tiny = {"none": "none"}.get(teacher, "tiny-sam2" if "sam2" in teacher else "tiny-sam")
    small = {
        "--max_steps": 2,
        "--data.name": "folder",
        "--data.root": folder_dataset,
        "--data.crop": "[32, 48]",
        "--data.resize": "null",
        "--data.batch_size": 2,
        "--data.workers": 0,
        "--student.weights": "none",
        "--teacher.name": tiny,
        "--teacher.channels": 16,
        "--teacher.warmup_steps": 1,
        "--trainer.precision": "32-true",
        "--trainer.accelerator": "cpu",
        "--trainer.devices": 1,
        "--trainer.accumulate": 1,
        "--trainer.graph": "false",
        "--trainer.val_every": 2,
        "--trainer.log_every": 1,
    }
    if written.teacher.hint_cache:
        small |= {"--teacher.hint_cache": tmp_path / "hints", "--teacher.hint_side": 128}
    words = [str(word) for pair in small.items() for word in pair]
    result = train(load_config(path, words), tmp_path / "run")
    assert (result.teacher is None) == (tiny == "none" or written.teacher.hints_only)
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["max_steps"] == 2
