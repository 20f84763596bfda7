"""The command line: what it says of mistakes, and the verbs end to end."""

import contextlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tsic.cli import VERBS, main
from tsic.config_file import load_config
from tsic.training.run import train

Said = Callable[..., tuple[int, str]]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["trian"], "'trian' is no verb; did you mean 'train'?"),
        (["train", "--nmae", "x"], "unknown key 'nmae' (did you mean 'name'?)"),
        (["train", "--studnet.encoder", "x"], "did you mean 'student.encoder'?"),
        (["train", "--optim.learning_rate", "1"], "(did you mean 'optim.lr'?)"),
        (["train", "--max_step", "3", "--data.rot", "d"], "'data.rot' (did you mean 'data.root'?)"),
        (["train", "--max_steps", "many"], "max_steps must be of type int, got 'many'"),
        (["train", "--teacher.prompt", "clas"], "teacher.prompt must be one of none, index, class"),
        (["train", "--recipe", "papre"], "recipe 'papre' is unknown; did you mean 'paper'?"),
        (["train", "--data.name", "camvit"], "did you mean 'camvid'?"),
        (["train", "--config", "configs/camvid/nothing.yaml"], "does not exist"),
        (["train", "--config", "."], "configuration '.' is a folder; name a YAML file"),
        (["train", "--data.crop", "64,64"], "data.crop must be a list of 2 int, quoted on the"),
        (["train", "--optim.clip", "none"], "optim.clip must be of type float, or null, got"),
        (["data", "check", "~/none"], "a-home/none: no such folder"),
        (["train", "--data.root=~/none"], "a-home/none: no such folder"),
        (["evaluate", "zoo:nope"], "the zoo has no student 'nope'; choices: camvid-compact"),
        (["train", "--max_steps"], "--max_steps must be followed by a value"),
        (["train", "--data.batch_size", "3", "--trainer.accumulate", "2"], "must be a multiple of"),
        (["train", "--resume", "maybe"], "invalid choice: 'maybe'"),
        (["evaluate", "nowhere"], "'nowhere' does not exist; give a run's folder"),
        (["evaluate", "camvid-compact"], "does not exist; give zoo:camvid-compact, a run's folder"),
        (["evaluate"], "the following arguments are required: model"),
        (["compare", "--methd", "alone"], "unknown key 'methd' (did you mean 'methods'?)"),
        (["compare", "--methods", "alone"], "--config FILE is missing: the YAML file of a run"),
        (["demo", "--steps", "0"], "--steps must be at least 1, got 0"),
        (["demo", "--seed", "-1"], "--seed must be at least 0, got -1"),
        (["demo", "--step", "x"], "--step"),
        (
            ["train", "--distill.method", "kd", "--distill.teacher", "runs/nope"],
            "distill.teacher 'runs/nope': no such file or folder; train it first",
        ),
        (["train", "--name", "/runs/a"], "--name '/runs/a' must be a name; --out takes the folder"),
        (["pretrain", "--name", "../a"], "--name '../a' must be a name"),
    ],
)
def test_mistakes_get_one_sentence(
    said: Said,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    expected: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/a-home")
    code, text = said(*words)
    assert code == 2
    assert expected in text
    assert len(text.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="has no such pipes")
@pytest.mark.parametrize("words", [["info", "zoo:camvid-compact"], ["help"]])
def test_output_that_nobody_reads_is_no_stack_trace(words: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as pipe:
        done = subprocess.run(
            [sys.executable, "-m", "tsic", *words], stdout=pipe, stderr=subprocess.PIPE
        )
    assert (done.returncode, done.stderr) == (141, b"")


def test_wrong_names_inside_a_run_name_the_nearest(
    said: Said, config_file: Path, tmp_path: Path
) -> None:
    for words, expected in (
        (["--student.name", "compct"], "did you mean 'compact'?"),
        (["--student.name", "fpn", "--student.encoder", "resnet81"], "resnet"),
        (["--teacher.name", "tiny-sm"], "did you mean 'tiny-sam'?"),
        (["--data.val_split", "vall"], "did you mean 'val'?"),
        (["--data.root", str(tmp_path / "shaps")], "did you mean 'shapes'?"),
    ):
        run = f"run_{len(expected)}_{words[1][-4:]}"
        code, text = said("train", "--config", config_file, "--out", tmp_path / run, *words)
        assert code == 2, text
        assert expected in text


@pytest.mark.parametrize(
    "verb", [*sorted(set(VERBS) - {"train", "data"}), "data check", "data preview", "data pack"]
)
def test_help_documents_every_option(capsys: pytest.CaptureFixture[str], verb: str) -> None:
    with contextlib.suppress(SystemExit):  # argparse leaves so
        assert main([*verb.split(), "--help"]) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"usage: tsic {verb}")
    options = re.findall(r"^  (?:-\w, )?(--[\w.-]+)(.*)\n(.*)", text, re.MULTILINE)
    for option, rest, below in options:
        # The explanation stands behind the option, or below it if that is long.
        assert re.search(r"  \S", rest) or below.startswith(" " * 20), f"{option} is not explained"


def test_help_of_train_documents_every_key(said: Said) -> None:
    code, text = said("train", "--help")
    assert code == 0
    for option in ("--resume", "--data.root", "--teacher.prompt", "--objective.kl_weight"):
        assert option in text
    assert "public code: 5, with `kl_average: elements`" in " ".join(text.split())


def test_evaluate_scores_student_and_teacher_of_a_run(
    capsys: pytest.CaptureFixture[str],
    said: Said,
    config_file: Path,
    folder_dataset: Path,
    tmp_path: Path,
) -> None:
    result = train(load_config(config_file), tmp_path / "run")
    assert result.teacher is not None
    scores = tmp_path / "scores.json"
    for role, report in (("student", result.student), ("teacher", result.teacher)):
        code, text = said("evaluate", tmp_path / "run", "--role", role, "--json", scores)
        assert code == 0
        written = json.loads(scores.read_text())
        assert set(written) == {
            "miou",
            "mean_accuracy",
            "pixel_accuracy",
            "per_class_iou",
            "per_class_accuracy",
            "confusion_matrix",
            "images",
            "view",
        }
        assert written["miou"] == pytest.approx(report.miou, abs=1e-6)
        assert f"{report.miou:.2f}" in text

        code, text = said("evaluate", tmp_path / "run", "--role", role, "--device", "banana")
        assert code == 2
        assert "device 'banana' cannot be used" in text

    # Other data, by a student file alone.
    words: list[str | Path] = [
        "--data.name",
        "folder",
        "--data.root",
        folder_dataset,
        "--data.split",
        "train",
    ]
    code, _ = said("evaluate", tmp_path / "run/student.safetensors", *words, "--json", scores)
    assert code == 0
    assert json.loads(scores.read_text())["images"] == 6

    (folder_dataset / "classes.yaml").write_text("classes: [ground, square, ring]\nignore: [255]\n")
    for role in ("student", "teacher"):
        code, text = said("evaluate", tmp_path / "run", "--role", role)
        assert code == 2
        assert "knows the classes ground, square, disc, but" in text
        assert "evaluate on the same classes" in text
    code, text = said("evaluate", tmp_path / "runs")
    assert code == 2
    assert "runs' does not exist" in text
    code, text = said("evaluate", tmp_path / "run/student.json", "--role", "teacher")
    assert code == 2
    assert "--role teacher needs a run's folder" in text


def test_demo_replaces_no_run_of_yours(said: Said, tmp_path: Path) -> None:
    own = tmp_path / "cycle" / "config.yaml"
    own.parent.mkdir()
    own.write_text("data:\n  root: photos\n")
    code, text = said("demo", "--out", tmp_path, "--steps", "1", "--scenes", "4")
    assert code == 2
    assert f"'{own.parent}' holds a run that is none of a demo's; change --out" in text
    assert own.is_file()


def test_demo_compares_and_reports(
    said: Said, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tsic.demo._VAL_SCENES", 8)
    out = tmp_path / "demo"
    for name in ("alone", "cycle"):  # an earlier demo's, to be replaced
        (out / name).mkdir(parents=True)
        (out / name / "config.yaml").write_text("data: {root: a/data/seed0_4}")
    code, text = said("demo", "--out", out, "--steps", "4", "--scenes", "4")
    assert code == 0
    metrics = json.loads((out / "metrics.json").read_text())
    assert set(metrics) == {
        "student_alone_miou",
        "cycle_student_miou",
        "teacher_miou",
        "steps",
        "seed",
        "seconds",
    }
    gain = metrics["cycle_student_miou"] - metrics["student_alone_miou"]
    assert f"({gain:+.2f})" in text
    page = (out / "report.html").read_text()
    lines = ("alone student", "cycle student_ce", "cycle kl")
    for piece in ("student alone", "cycle student", *lines, "data:image/png;base64"):
        assert piece in page
    assert (out / "samples" / "panel.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("verb", "goes_on"),
    [
        ("train", "; --resume auto goes on"),
        ("compare", "; run it again, and it goes on"),
        ("export", ""),
    ],
)
def test_ctrl_c_tells_how_to_go_on(
    said: Said, monkeypatch: pytest.MonkeyPatch, verb: str, goes_on: str
) -> None:
    def interrupted(words: list[str]) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(VERBS[verb].replace(":", "."), interrupted)
    assert said(verb) == (130, f"tsic: interrupted; what was written is whole{goes_on}\n")


def test_a_reading_process_that_was_killed_is_told(
    said: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(words: list[str]) -> int:
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")

    monkeypatch.setattr("tsic.commands.train_command", killed)
    code, text = said("train")
    assert code == 2
    assert text.startswith("tsic: a process that loads images was killed from outside, mostly for")


@pytest.mark.parametrize(
    ("error", "wanted"),
    [
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.50 GiB. "),
            " (2.50 GiB more were asked for)",
        ),
        (None, f" ({4 * 10**15} bytes more were asked for)"),  # PyTorch's own, on this CPU
        (MemoryError(), ""),
    ],
)
def test_too_little_memory_is_told_in_one_sentence(
    error: Exception | None,
    wanted: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(verb: str, words: object) -> int:
        if error is not None:
            raise error
        torch.empty(10**15)
        return 0

    monkeypatch.setattr("tsic.cli._run", fail)
    assert main(["train"]) == 2
    text = capsys.readouterr().err
    assert text.startswith(f"tsic: out of memory{wanted}; ask for less at a time: trainer.accum")
    assert len(text.splitlines()) == 1


def test_other_errors_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(verb: str, words: object) -> int:
        raise RuntimeError("a mistake of ours")

    monkeypatch.setattr("tsic.cli._run", fail)
    with pytest.raises(RuntimeError, match="a mistake of ours"):
        main(["train"])


def test_what_is_missing_is_told_before_anything_large_is_imported() -> None:
    wrong = [
        (["--data.root", "nowhere"], "nowhere: no such folder"),
        (["--data.root", "nowhere", "--data.name", "camvd"], "dataset 'camvd'; did you mean 'camv"),
        (["--teacher.name", "mobile_sam.pt"], "teacher.name 'mobile_sam.pt': no such file"),
    ]
    script = (
        "import sys; from tsic.cli import main\n"
        f"for words in {[words for words, _ in wrong]}:\n"
        "    assert main(['train', *words]) == 2\n"
        "assert not set(sys.modules) & {'torch', 'lightning', 'transformers'}"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    for line, (_, told) in zip(done.stderr.splitlines(), wrong, strict=True):
        assert told in line
