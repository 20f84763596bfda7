"""What a training would cost, told before it starts."""

import gc
import weakref
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml

from tsic.cli import main
from tsic.config_file import load_config
from tsic.errors import ConfigError, ShapeError
from tsic.training import batch_size
from tsic.training.batch_size import largest_batch
from tsic.training.dry_run import _duration, _seconds, rehearse
from tsic.training.module import CycleModule

Settings = dict[str, Any]
MODULE = SimpleNamespace(device=torch.device("cpu"))


def test_dry_run_tells_the_cost_and_writes_nothing(
    config_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(tmp_path.rglob("*"))
    assert main(["train", "--config", str(config_file), "--out", str(tmp_path), "--dry-run"]) == 0
    told = capsys.readouterr().out
    assert "teacher's encoder" in told
    assert "4 images of 32x48" in told
    assert "6 steps" in told
    assert sorted(tmp_path.rglob("*")) == before


def test_parts_and_total_add_up(config_file: Path) -> None:
    found = rehearse(load_config(config_file, ["--optim.ema", "0.9"]), steps=2)
    student, encoder, decoders = found.parts
    assert student.trained == student.parameters
    assert 0 < encoder.trained < encoder.parameters, "LoRA alone"
    assert min(part.multiply_adds for part in (student, encoder, decoders)) > 0
    # Two of six steps without the teacher; validated at steps 3 and 6 and once at the end.
    expected = 2 * found.alone_seconds + 4 * found.step_seconds + 3 * 3 * found.image_seconds
    assert found.total_seconds == pytest.approx(expected)


def test_the_student_alone_has_one_part(config_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer, halves = CycleModule.answer, []

    def timed(*arguments: Any, **options: Any) -> Any:
        halves.append(torch.is_autocast_enabled("cpu"))
        return answer(*arguments, **options)

    monkeypatch.setattr(CycleModule, "answer", timed)
    words = ["--teacher.name", "none", "--trainer.precision", "bf16-mixed"]
    found = rehearse(load_config(config_file, words), steps=1)
    assert halves == [True, True], "as validation runs"
    assert [part.name for part in found.parts] == ["student"]
    assert found.alone_seconds == found.step_seconds


def test_a_published_method_has_no_steps_alone(config_file: Path) -> None:
    words = ["--teacher.name", "none", "--distill.method", "mutual"]
    found = rehearse(load_config(config_file, words), steps=1)
    assert found.alone_seconds == found.step_seconds


def test_work_of_a_gpu_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes 3 seconds of what lies before, and 3 of what is timed."""
    clock = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: clock.append(clock.pop() + 3))
    assert _seconds(lambda: None) == 3


@pytest.mark.parametrize("most", [1, 2, 3, 5, 6, 40])
def test_largest_batch_is_the_last_that_fits(
    most: int, config_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pace(config: Any, module: CycleModule, steps: int) -> float:
        if config.data.batch_size > most:
            raise torch.OutOfMemoryError
        return 1.0

    monkeypatch.setattr(batch_size, "pace", pace)
    monkeypatch.setattr(batch_size, "untrained", lambda *args, **kwargs: MODULE)
    assert largest_batch(load_config(config_file)) == min(most, 6), "six training images"


@pytest.mark.parametrize("most", [2, 6])
def test_networks_of_a_try_are_gone_in_the_next(
    most: int, config_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:

    class Module:
        device = torch.device("cpu")

        def __init__(self) -> None:
            self.trainer = SimpleNamespace(module=self)  # as Lightning's does

    tries: list[weakref.ref[Module]] = []

    def untrained(*args: Any, **kwargs: Any) -> Module:
        assert [one() for one in tries] == [None] * len(tries)
        module = Module()
        tries.append(weakref.ref(module))
        return module

    def pace(config: Any, module: Module, steps: int) -> float:
        if config.data.batch_size > most:
            raise torch.OutOfMemoryError
        return 1.0

    monkeypatch.setattr(batch_size, "pace", pace)
    monkeypatch.setattr(batch_size, "untrained", untrained)
    config = load_config(config_file)
    gc.disable()  # else it may run by chance
    try:
        assert largest_batch(config) == most
    finally:
        gc.enable()
    assert len(tries) > 2


def test_no_batch_fits(config_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def pace(*args: Any, **kwargs: Any) -> float:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(batch_size, "pace", pace)
    with pytest.raises(ConfigError, match=r"smaller data\.crop"):
        largest_batch(load_config(config_file))


def test_the_processor_foretells_what_would_not_fit(
    config_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten MiB an image of 100 that are free: eight images were measured, more are foretold."""
    tried: list[int] = []

    def pace(config: Any, *args: Any, **kwargs: Any) -> float:
        tried.append(config.data.batch_size)
        return 1.0

    monkeypatch.setattr(batch_size, "pace", pace)
    monkeypatch.setattr(batch_size, "untrained", lambda *args, **kwargs: MODULE)
    monkeypatch.setattr(batch_size, "peak_mib", lambda device: 500 + 10.0 * tried[-1])
    monkeypatch.setattr(batch_size, "available_mib", lambda: 10.0)
    assert largest_batch(load_config(config_file)) == 2
    assert tried == [1, 2], "four images would take 20 MiB more than two"


@pytest.mark.parametrize(("images", "found"), [(3, 3), (1, 0)])
def test_a_network_that_wants_two_images_is_asked_with_two(
    images: int, found: int, config_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory takes three images; batch norm of a single value takes no single one."""

    def fits(config: Any, batch_size: int, *args: Any) -> bool:
        if batch_size == 1:
            raise ShapeError("normalises a single value per channel")
        return batch_size <= images

    monkeypatch.setattr(batch_size, "_fits", fits)
    if found:
        assert largest_batch(load_config(config_file)) == found
    else:
        with pytest.raises(ConfigError, match="not even 2 images per device fit"):
            largest_batch(load_config(config_file))


def test_batch_auto_is_what_the_run_trains_with(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump({**settings, "max_steps": 1, "teacher": {"name": "none"}}))
    monkeypatch.setattr(batch_size, "largest_batch", lambda config: 3)
    words = ["train", "--config", str(path), "--out", str(tmp_path), "--name", "run"]
    assert main([*words, "--batch", "auto"]) == 0
    assert load_config(tmp_path / "run" / "config.yaml").data.batch_size == 3
    monkeypatch.setattr(batch_size, "largest_batch", lambda config: 5)
    assert main([*words, "--batch", "auto", "--resume", "auto"]) == 0, "it keeps its own"


def test_no_batch_is_looked_for_where_a_run_is(
    config_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "runs" / "tiny"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(config_file.read_text())
    words = ["train", "--config", str(config_file), "--out", str(folder.parent), "--batch", "auto"]
    assert main(words) == 2
    told = capsys.readouterr()
    assert "holds a run already" in told.err
    assert told.out == ""


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(3, "1 min"), (3590, "1 h 0 min"), (7190, "2 h 0 min"), (3700, "1 h 2 min")],
)
def test_minutes_of_an_estimate_are_below_sixty(seconds: float, said: str) -> None:
    assert _duration(seconds) == said
