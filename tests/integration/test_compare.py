"""Comparisons on a tiny drawn folder: trained once, paired, and honest about failures."""

import io
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from tsic.checkpoint import load_student
from tsic.cli import main
from tsic.compare import runner
from tsic.compare.command import _devices, _offline
from tsic.compare.plan import Job
from tsic.config import RunConfig, TrainerConfig
from tsic.config_file import load_config
from tsic.errors import ConfigError
from tsic.files import alone_in
from tsic.training.callbacks import read_metrics
from tsic.training.changes import Labelled, moved
from tsic.training.run import train

Settings = dict[str, Any]


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Train in this process, which saves the imports; the names of the runs, as they start."""
    started: list[str] = []

    class Done:
        returncode = 0

        def poll(self) -> int:
            return self.returncode

    def start(job: Job, number: int, runs: Path, places: runner.Places) -> Done:
        started.append(job.name)
        train(job.config, runs / job.name, resume=True)
        return Done()

    monkeypatch.setattr(runner, "_start", start)
    return started


def test_a_comparison_trains_what_is_missing_and_sums_up(
    config_file: Path, tmp_path: Path, in_process: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["compare", "--config", str(config_file), "--out", str(tmp_path), "--name", "c"]
    assert main([*words, "--methods", "cycle", "--seeds", "1"]) == 0
    assert in_process == ["alone-seed0", "cycle-seed0"]
    capsys.readouterr()
    assert main([*words, "--methods", "cycle", "mutual", "--seeds", "1", "--dry-run"]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[1:3] == ["cycle-seed0: finished", "mutual-seed0: 6 steps"]
    assert told[3].startswith("1 of 3 runs to train, 6 steps in all")
    assert main([*words, "--methods", "cycle", "mutual", "--seeds", "2"]) == 0
    assert in_process[2:] == ["mutual-seed0", "alone-seed1", "cycle-seed1", "mutual-seed1"]

    written = json.loads((tmp_path / "c" / "comparison.json").read_text())
    found = written["methods"]
    assert set(found) == {"alone", "cycle", "mutual"}
    scores: dict[str, dict[str, float]] = {}
    for name, summary in found.items():
        scores[name] = summary["seeds"]
        for seed, miou in summary["seeds"].items():
            run = tmp_path / "c" / "runs" / f"{name}-seed{seed}"
            assert miou == json.loads((run / "evaluation.json").read_text())["miou"]
        assert summary["miou"] == pytest.approx(sum(scores[name].values()) / 2)
        assert summary["train_seconds"] > 0
        assert summary["peak_memory_mib"] > 10
    gains = [scores["cycle"][seed] - scores["alone"][seed] for seed in ("0", "1")]
    assert found["cycle"]["delta"] == pytest.approx(sum(gains) / 2)
    low, high = found["cycle"]["delta_ci95"]
    assert low <= high
    assert not math.isnan(low + high)
    assert found["alone"]["delta"] is None
    assert found["cycle"]["teacher_miou"] > 0
    page = (tmp_path / "c" / "comparison.md").read_text()
    assert page in capsys.readouterr().out
    assert f"{found['cycle']['miou']:.2f}" in page
    assert (tmp_path / "c" / "comparison.png").stat().st_size > 1000

    changed = [*words, "--methods", "cycle", "mutual", "--seeds", "1", "--objective.kl_weight", "1"]
    assert main(changed) == 2
    assert "cycle-seed0' holds a run of another configuration" in capsys.readouterr().err
    shutil.rmtree(tmp_path / "c" / "runs" / "cycle-seed0")
    assert main(changed) == 0
    assert in_process[6:] == ["cycle-seed0"], "the others do not read that key"


def test_an_offline_teacher_is_trained_first(
    config_file: Path,
    settings: Settings,
    tmp_path: Path,
    in_process: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    teacher = tmp_path / "teacher.yaml"
    wider = {**settings, "teacher": {"name": "none"}, "student": {"name": "compact"}}
    teacher.write_text(yaml.safe_dump({**wider, "data": {**wider["data"], "root": "elsewhere"}}))
    names = ["cwd_features", "cirkd", "mutual"]  # all train weights of their own
    words = ["compare", "--config", str(config_file), "--out", str(tmp_path), "--name", "c"]
    words += ["--max_steps", "2", "--offline", str(teacher), "--seeds", "1", "--processes", "3"]
    words += ["--data.root", settings["data"]["root"], "--trainer.log-every=2"]
    photos = tmp_path / "photos"
    photos.mkdir()
    Image.new("RGB", (96, 64), (90, 120, 90)).save(photos / "new.png")
    words += ["--data.unlabelled", str(photos), "--objective.kl_where", "everywhere"]
    assert main([*words, "--methods", *names]) == 0
    held = yaml.safe_load((tmp_path / "c" / "runs" / "offline" / "config.yaml").read_text())
    assert (held["max_steps"], held["trainer"]["log_every"]) == (6, 2)
    beside = ["offline", "alone-seed0", "mutual-seed0"]  # who needs no teacher does not wait
    assert in_process == [*beside, "cwd_features-seed0", "cirkd-seed0"]
    found = json.loads((tmp_path / "c" / "comparison.json").read_text())["methods"]
    assert set(found) == {"alone", *names}
    logged = (tmp_path / "c" / "runs" / "cwd_features-seed0" / "metrics.csv").read_text()
    assert "train/cwd_features" in logged
    cards = {
        name: load_student(tmp_path / "c" / "runs" / name).facts["training"]
        for name in ("offline", "alone-seed0", "mutual-seed0", "cirkd-seed0")
    }
    photographs = {name: card["unlabelled_images"] for name, card in cards.items()}
    assert photographs == dict(zip(cards, (0, 0, 1, 1), strict=True))
    assert main([*words, "--methods", "mutual"]) == 2
    assert "none of the --methods has an offline teacher" in capsys.readouterr().err


def test_an_offline_file_s_data_must_have_the_same_classes(
    config_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = shutil.copytree(load_config(config_file).data.root, tmp_path / "other")
    (data / "classes.yaml").write_text("classes: [ground, disc, square]\n")
    other = tmp_path / "other.yaml"
    other.write_text(f"base: {config_file.name}\ndata: {{root: {data}}}\n")
    words = ["compare", "--config", str(config_file), "--methods", "kd", "--offline", str(other)]
    assert main([*words, "--out", str(tmp_path / "out"), "--dry-run"]) == 2
    assert "data has other classes than --config's" in capsys.readouterr().err


def test_an_offline_file_s_own_method_is_kept(config_file: Path, tmp_path: Path) -> None:
    file = tmp_path / "peers.yaml"
    file.write_text(
        f"base: {config_file.name}\nteacher: {{name: none}}\ndistill: {{method: mutual}}\n"
    )
    _, (job,) = _offline(file, tmp_path, [], "student")
    assert job.config.distill.method == "mutual"


@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
def test_a_teacher_or_folder_that_is_not_there_is_told_before_anything_trains(
    config_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], dry: list[str]
) -> None:
    words = ["compare", "--config", str(config_file), "--out", str(tmp_path / "out"), *dry]
    assert main([*words, "--methods", "cycle", "--teacher.name", "weights/mobile_sam.pt"]) == 2
    assert "'weights/mobile_sam.pt': no such file or folder" in capsys.readouterr().err
    if not dry:
        other = ["--methods", "release", "--teacher.name", "tiny-mobile-sam"]
        assert main([*words, *other]) == 2
        assert "at 4 depths, of which 'tiny-mobile-sam' has 0; use light" in capsys.readouterr().err
        (tmp_path / "sam.pt").write_bytes(b"no model")
        assert main([*words, "--methods", "cycle", "--teacher.name", str(tmp_path / "sam.pt")]) == 2
        assert "sam.pt'" in capsys.readouterr().err
    plain = tmp_path / "plain.yaml"
    plain.write_text("base: tiny.yaml\nteacher: {name: none}\n")
    taught = ["--methods", "kd", "--offline", str(plain), "--distill.role", "teacher"]
    assert main([*words, *taught]) == 2
    assert "plain.yaml' trains no teacher" in capsys.readouterr().err
    photos = ["--data.unlabelled", str(tmp_path / "photos"), "--objective.kl_where", "everywhere"]
    assert main([*words, "--methods", "cycle", *photos]) == 2
    assert "photos' is no folder" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_run_that_fails_stops_no_other_and_is_named(
    settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings["data"]["root"] = str(tmp_path / "nowhere")
    bad = tmp_path / "bad.yaml"
    bad.write_text(yaml.safe_dump(settings))
    job = Job("bad-seed0", load_config(bad))
    runs = tmp_path / "c" / "runs"
    distill = replace(job.config.distill, method="kd", teacher=str(runs / job.name))
    taught = Job("kd-seed0", replace(job.config, distill=distill))
    failed = runner.run_all([job, taught], runs, runner.Places(processes=2), io.StringIO())
    assert list(failed) == ["bad-seed0", "kd-seed0"]
    assert "nowhere" in failed["bad-seed0"]
    assert failed["kd-seed0"] == "its teacher bad-seed0 failed"


def test_ablations_reach_the_trainer_and_keep_one_precision(
    config_file: Path, tmp_path: Path, in_process: list[str]
) -> None:
    words = ["compare", "--config", str(config_file), "--out", str(tmp_path), "--name", "c"]
    words += ["--max_steps", "3", "--seeds", "1", "--ablate", "teacher.lora_rank=1"]
    assert main([*words, "--seed", "4"]) == 0
    assert in_process == ["alone-seed4", "cycle-seed4", "teacher.lora_rank_1-seed4"]
    found = [load_config(tmp_path / "c" / "runs" / name / "config.yaml") for name in in_process]
    assert [one.teacher.lora_rank for one in found[1:]] == [2, 1]


@pytest.mark.usefixtures("late_sigterm")
def test_runs_end_with_a_comparison_that_is_told_to(config_file: Path, tmp_path: Path) -> None:
    words = ["compare", "--config", str(config_file), "--out", str(tmp_path), "--name", "c"]
    words += ["--methods", "alone", "--max_steps", "100000", "--seeds", "1"]
    metrics = tmp_path / "c" / "runs" / "alone-seed0" / "metrics.csv"

    def end() -> None:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and not (metrics.is_file() and read_metrics(metrics)):
            time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGTERM)

    told = threading.Thread(target=end)
    told.start()
    code = main(words)
    told.join()
    assert code == 128 + signal.SIGTERM
    size = metrics.stat().st_size
    time.sleep(1)
    assert metrics.stat().st_size == size


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the runs go on")
def test_runs_end_with_a_comparison_that_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[list[str]] = []
    with monkeypatch.context() as patch:
        patch.setattr(subprocess, "Popen", lambda words, **_: started.append(words))
        runner._start(Job("a", RunConfig()), None, tmp_path / "runs", runner.Places())
    module = started[0][2]
    trains = "print('trains', flush=True), time.sleep(60)"
    run = f"import runpy, time, tsic.cli; tsic.cli.main = lambda: ({trains}); "
    run += f"runpy.run_module('{module}', run_name='__main__')"
    compares = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {run!r}])"
    comparison = subprocess.Popen([sys.executable, "-c", compares], stdout=subprocess.PIPE)
    with comparison:
        assert comparison.stdout is not None
        assert comparison.stdout.readline() == b"trains\n"
        began = time.monotonic()
        comparison.kill()
        assert comparison.stdout.read() == b"", "it is closed when the run has ended, too"
        assert time.monotonic() - began < 30


def test_another_configuration_under_the_same_name_is_refused(
    config_file: Path, tmp_path: Path, in_process: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["compare", "--config", str(config_file), "--out", str(tmp_path), "--methods", "alone"]
    assert main([*words, "--seeds", "1", "--max_steps", "1"]) == 0
    assert main([*words, "--seeds", "1", "--max_steps", "2"]) == 2
    assert "max_steps: 1 -> 2" in capsys.readouterr().err
    assert in_process == ["alone-seed0"]


def test_runs_of_other_data_or_precision_are_no_part_of_it(
    config_file: Path,
    settings: Settings,
    tmp_path: Path,
    in_process: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["compare", "--config", str(config_file), "--out", str(tmp_path), "--name", "c"]
    words += ["--seeds", "1", "--max_steps", "3", "--methods"]
    assert main([*words, "alone"]) == 0
    auto = ["--trainer.precision", "auto", "--dry-run"]
    assert main([*words, "alone", "mutual", *auto]) == 0, "as the first run has it"
    assert main([*words, "alone", "--trainer.precision", "bf16-mixed", "--dry-run"]) == 2
    assert "trainer.precision: 32-true -> bf16-mixed" in capsys.readouterr().err
    here = Path(settings["data"]["root"])
    there = shutil.copytree(here, tmp_path / "there")
    moved = ["--data.root", str(there)]
    assert main([*words, "alone", *moved, "--dry-run"]) == 0, "it is a copy"
    for file in sorted(there.glob("val/*/*"))[::3]:
        file.unlink()
    assert main([*words, "alone", *moved, "--dry-run"]) == 2
    assert f"data.root: {here} -> {there}" in capsys.readouterr().err
    away = here.rename(tmp_path / "away")
    assert main([*words, "alone", *moved, "--dry-run"]) == 2, "here is no more to compare with"
    assert "was trained on other images, masks or classes than" in capsys.readouterr().err
    assert main([*words, "alone", "--data.root", str(away), "--dry-run"]) == 0, "it has moved"
    (tmp_path / "c" / "runs" / "alone-seed0" / "data.json").unlink()  # as earlier versions left it
    assert main([*words, "mutual", *moved]) == 2
    assert "run mutual-seed0 was scored on other images" in capsys.readouterr().err
    assert in_process == ["alone-seed0", "mutual-seed0"]


def test_data_or_scores_that_changed_in_place_are_no_part_of_it(
    config_file: Path,
    settings: Settings,
    tmp_path: Path,
    in_process: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["compare", "--config", str(config_file), "--out", str(tmp_path), "--name", "c"]
    words += ["--seeds", "1", "--max_steps", "1"]
    assert main([*words, "--methods", "alone"]) == 0
    root = Path(settings["data"]["root"])
    for file in root.glob("train/*/005.png"):
        file.unlink()
    assert main([*words, "--methods", "alone", "mutual"]) == 2
    told = capsys.readouterr().err
    assert f"was trained on other images, masks or classes than '{root}' holds now" in told
    (tmp_path / "c" / "runs" / "alone-seed0" / "data.json").unlink()
    scores = tmp_path / "c" / "runs" / "alone-seed0" / "confusions.npz"
    whole = scores.read_bytes()
    scores.write_bytes(whole[:50])
    assert main([*words, "--methods", "alone", "mutual"]) == 2
    assert "compare again: the run is then scored anew" in capsys.readouterr().err
    scores.write_bytes(whole)
    assert in_process == ["alone-seed0"]
    shutil.rmtree(root)
    assert main([*words, "--methods", "alone"]) == 0, "what is finished is summed up all the same"


def test_one_process_compares_in_a_folder(
    config_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "one"
    words = ["compare", "--config", str(config_file), "--out", str(tmp_path), "--name", "one"]
    with alone_in(folder, "compares"):
        assert main(words) == 2
        assert "another process compares in" in capsys.readouterr().err
        assert [one.name for one in folder.iterdir()] == [".lock"]
        assert main([*words, "--dry-run"]) == 0


def test_a_run_begun_anew_has_a_new_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "true")
    job, runs = Job("a", RunConfig()), tmp_path / "runs"
    for goes_on in (False, True):
        runner._start(job, None, runs, runner.Places()).wait()
        log = tmp_path / "logs" / "a.log"
        assert log.read_text() == ("tsic: warning: old\n" if goes_on else "")
        log.write_text("tsic: warning: old\n")
        assert runner.warnings_of([job], runs) == {"a": ["old"]}
        (runs / "a").mkdir(exist_ok=True)
        (runs / "a" / "config.yaml").touch()


def test_runs_are_spread_over_the_gpus_that_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 3)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert _devices([]) == ["0", "1", "2"]
    assert _devices(["2"]) == ["2"]
    with pytest.raises(ConfigError, match="there is no GPU 7 here; there are 0, 1, 2"):
        _devices(["7"])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", " 4, 6,7")
    assert _devices([]) == ["4", "6", "7"]
    with pytest.raises(ConfigError, match="there is no GPU 0 here; there are 4, 6, 7"):
        _devices(["0"])


def test_a_run_of_several_devices_sees_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str | None] = []
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(
        subprocess,
        "Popen",
        lambda words, *, env, **_: seen.append(env.get("CUDA_VISIBLE_DEVICES")),
    )
    for trainer in (TrainerConfig(), TrainerConfig(devices=2), TrainerConfig(accelerator="cpu")):
        job = Job("a", RunConfig(trainer=trainer))
        runner._start(job, "4", tmp_path / "runs", runner.Places(2, ["4", "6"]))
    assert seen == ["4", None, None]


def test_a_run_takes_the_gpu_that_is_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, str] = {}
    asked = dict.fromkeys("abc", 0)

    class Run:
        """The second run ends long before the first."""

        returncode = 0

        def __init__(self, words: list[Any], *, env: dict[str, str], **_: Any) -> None:
            self.name = words[words.index("--name") + 1]
            seen[self.name] = env["CUDA_VISIBLE_DEVICES"]

        def poll(self) -> int | None:
            asked[self.name] += 1
            return 0 if asked[self.name] > {"a": 20, "b": 2, "c": 2}[self.name] else None

        def terminate(self) -> None: ...

        wait = terminate

    monkeypatch.setattr(runner, "_POLL_SECONDS", 0)
    monkeypatch.setattr(subprocess, "Popen", Run)
    jobs = [Job(name, RunConfig()) for name in "abc"]
    runner.run_all(jobs, tmp_path / "runs", runner.Places(2, ["4", "6"]), io.StringIO())
    assert seen == {"a": "4", "b": "6", "c": "6"}


def test_another_set_of_the_hub_is_other_data(tmp_path: Path) -> None:
    """Rows are all called alike there."""
    (tmp_path / "one").mkdir()
    held = Labelled("hub", str(tmp_path / "one"), None, ("train",))
    assert moved("data.root", held, held._replace(root=str(tmp_path / "other")))
    assert not moved("data.root", held, held._replace(root=f"{tmp_path}/./one"))
    assert moved("data.root", held._replace(root="a/one"), held._replace(root="a/other"))


def test_runs_whose_teacher_is_gone_are_not_finished(
    config_file: Path,
    settings: Settings,
    tmp_path: Path,
    in_process: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    teacher = tmp_path / "teacher.yaml"
    teacher.write_text(yaml.safe_dump({**settings, "teacher": {"name": "none"}}))
    words = ["compare", "--config", str(config_file), "--name", "c", "--seeds", "1"]
    words += ["--max_steps", "2", "--methods", "kd", "--offline", str(teacher)]
    assert main([*words, "--out", str(tmp_path)]) == 0
    monkeypatch.chdir(tmp_path)
    assert main([*words, "--out", "."]) == 0, "the same folder by another path"
    assert in_process == ["offline", "alone-seed0", "kd-seed0"]
    capsys.readouterr()
    shutil.rmtree(tmp_path / "c" / "runs" / "offline")
    assert main([*words, "--out", "."]) == 2
    assert "kd-seed0' was taught by a run that is not there any more" in capsys.readouterr().err
    role = ["--distill.role", "teacher", "--offline", str(tmp_path / "c/runs/alone-seed0")]
    assert main([*words[:-2], *role, "--name", "d"]) == 2
    assert "trained without a teacher" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--methods", "kd"], "--offline"),
        (["--methods", "cwwd"], "did you mean 'cwd'"),
        (["--seeds", "0"], "--seeds"),
        (["--methd", "kd"], "did you mean 'methods'?); see tsic compare --help"),
        (["--name", "../c"], "--name '../c' must be a name"),
        (["--ablate", "promt"], "did you mean 'prompt'"),
        (["--ablate", "student.name=unet"], "none of the cycle's own"),
        (["--ablate", "prompt", "--methods", "kd"], "goes without --methods"),
        (["--ablate", "prompt", "--teacher.name", "none"], "needs a teacher"),
        (["--methods", "cycle", "--max_steps", "2"], "leaves the teacher none of max_steps 2"),
        (["--methods", "kd", "--offline", "nowhere"], "no student at '"),
    ],
)
def test_mistakes_are_told_before_anything_trains(
    words: list[str], said: str, config_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", "--config", str(config_file), *words]) == 2
    assert said in capsys.readouterr().err
