"""`tsic pretrain` from the command line to a teacher."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from tsic.cli import main
from tsic.data.class_file import write_classes
from tsic.data.scenes import SCENE_CLASSES, draw_scene
from tsic.errors import CheckpointError
from tsic.pretrain.config import PretrainConfig, PretrainOptimConfig
from tsic.pretrain.data import PromptedBatch
from tsic.pretrain.losses import answer_loss
from tsic.pretrain.module import SCORES, PretrainModule
from tsic.pretrain.promptable import Promptable, PromptBatch
from tsic.pretrain.prompts import NO_POINT, POSITIVE
from tsic.pretrain.run import _held_out
from tsic.teacher import build_teacher
from tsic.teacher.sam import load_foundation

TINY = {
    "init": "tiny-sam2",
    "crops": [[32, 32], [32, 64]],
    "batch_size": 2,
    "prompts": 3,
    "val_images": 2,
    "workers": 0,
    "trainer": {
        "accelerator": "cpu",
        "precision": "32-true",
        "val_every": 2,
        "save_every": 2,
        "log_every": 1,
        "pictures": 1,
    },
}


def run(folder: Path, *words: str, steps: int = 4, **changes: object) -> int:
    """Pretrain into ``folder / name`` with the tiny configuration."""
    file = folder / "tiny.yaml"
    file.write_text(yaml.safe_dump({**TINY, **changes}))
    out = ["--config", str(file), "--out", str(folder), "--max_steps", str(steps)]
    return main(["pretrain", *out, *words])


def weights(folder: Path) -> dict[str, torch.Tensor]:
    held = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=False)
    state: dict[str, torch.Tensor] = held["state_dict"]
    return state


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pretraining of four steps on drawn images."""
    folder = tmp_path_factory.mktemp("pretrain")
    assert run(folder, "--name", "whole") == 0
    return folder / "whole"


def test_it_leaves_scores_pictures_and_a_model_that_teaches(whole: Path) -> None:
    scores = json.loads((whole / "evaluation.json").read_text())
    assert 0 < scores["prompt_iou"] <= 100
    assert (whole / "report.html").is_file()
    with Image.open(whole / "samples" / "step_000004.png") as picture:
        assert picture.width > 100
    teacher = build_teacher(str(whole), num_classes=3, lora_rank=2)
    out = teacher(torch.rand(1, 3, 40, 56), torch.randn(1, 3, 5, 7))
    assert out.logits.shape == (1, 3, 10, 14)


def test_it_goes_on_from_mobile_sam_in_mixed_precision(tmp_path: Path) -> None:
    assert run(tmp_path, "--init", "tiny-mobile-sam", "--trainer.precision", "bf16-mixed") == 0
    name = str(tmp_path / "tiny")
    assert load_foundation(name).model.config.model_type == "mobile_sam"
    out = build_teacher(name, num_classes=3)(torch.rand(1, 3, 40, 56), torch.randn(1, 3, 5, 7))
    assert out.logits.isfinite().all()


def test_the_shipped_configuration_trains_when_scaled_down(tmp_path: Path) -> None:
    file = Path(__file__).parents[2] / "configs" / "pretrain" / "embedded.yaml"
    small = ["--crops", "[[32, 32]]", "--batch_size", "1", "--prompts", "2", "--val_images", "1"]
    alone = ["--trainer.devices", "1", "--workers", "0"]
    short = ["--max_steps", "1", *alone, "--out", str(tmp_path), *small]
    assert main(["pretrain", "--config", str(file), *short]) == 0
    assert load_foundation(str(tmp_path / "embedded")).refiner is not None


def test_a_tenth_is_held_out_and_not_trained_on() -> None:
    assert _held_out(25, 64) == ([0, 10, 20], [i for i in range(25) if i not in (0, 10, 20)])
    held, kept = _held_out(100, 4)
    assert held == [0, 25, 50, 75]
    assert sorted(held + kept) == list(range(100))


Answer = tuple[torch.Tensor, torch.Tensor]


@pytest.fixture
def module() -> PretrainModule:
    """One that is asked for what a test says; its images have nothing to see."""
    config = PretrainConfig(optim=PretrainOptimConfig(ema=None))
    module = PretrainModule(Promptable(load_foundation("tiny-sam2")), config, ["a", "b"])
    module.promptable.embed = lambda images: None  # type: ignore[assignment, method-assign, return-value]
    return module


def columns(*counts: int) -> torch.Tensor:
    """Masks ``(P, 8, 8)``, true in so many columns from the left."""
    return torch.arange(8).expand(len(counts), 8, 8) < torch.tensor(counts)[:, None, None]


def test_scores_are_means_over_the_prompts_of_their_kind(module: PretrainModule) -> None:
    """Prompts by a mask, by a mask and a point, by a point, and by a mask of nothing."""
    given = [columns(2, 8, 3, 8), columns(3, 8, 8, 8)]  # to the prompts, and when asked again

    def answer(*_: object) -> Answer:
        return 20 * given.pop(0)[:, None].float() - 10, torch.zeros(4, 1)

    module.promptable.answer = answer  # type: ignore[assignment, method-assign]
    labels = torch.full((1, 4, 2), NO_POINT)
    labels[0, [1, 2], 0] = POSITIVE
    batch: PromptedBatch = {
        "images": torch.zeros(1, 3, 8, 8, dtype=torch.uint8),
        "targets": columns(4, 4, 4, 0)[None],
        "masks": 20 * columns(1, 8, 0, 8)[None].float() - 10,
        "has_mask": torch.tensor([[True, True, False, True]]),
        "points": torch.zeros(1, 4, 2, 2),
        "point_labels": labels,
    }
    module.validation_step(batch, 0, 1)
    found = dict(zip(SCORES, module.means.compute()[len(SCORES) :].tolist(), strict=True))
    expected = {"prompt_iou": 1 / 4, "answer_iou": 2 / 4, "second_iou": 3 / 4, "point_iou": 3 / 4}
    assert found == pytest.approx(expected)
    assert module.means.compute()[: len(SCORES)].isnan().all(), "the other source"


def test_a_lone_point_is_answered_once_more_with_several_masks(module: PretrainModule) -> None:
    single, several = torch.randn(4, 1, 8, 8), torch.randn(1, 3, 8, 8)
    asked = []

    def answer(_: object, prompts: PromptBatch, *, multimask: bool = False) -> Answer:
        asked.append(prompts.owners.tolist())
        logits = several if multimask else single
        return logits, torch.full(logits.shape[:2], 0.3)

    module.promptable.answer = answer  # type: ignore[assignment, method-assign]
    labels = torch.tensor(
        [[NO_POINT, NO_POINT], [POSITIVE, NO_POINT], [2, 3], [POSITIVE, NO_POINT]]
    )
    has_mask = torch.tensor([True, False, False, True])
    prompts = PromptBatch(
        torch.arange(4), torch.zeros(4, 1, 8, 8), has_mask, torch.zeros(4, 2, 2), labels
    )
    targets = torch.rand(4, 16, 16) > 0.5
    logits, *found = module._round(None, prompts, targets)  # type: ignore[arg-type]
    assert asked == [[0, 1, 2, 3], [1]]
    assert torch.equal(logits, single[:, 0])
    once = answer_loss(single, torch.full((4, 1), 0.3), targets)
    more = answer_loss(several, torch.full((1, 3), 0.3), targets[1:2])
    torch.testing.assert_close(found, [a + b / 4 for a, b in zip(once, more, strict=True)])


def test_it_learns_from_what_it_is_shown(whole: Path) -> None:
    from tsic.teacher.sam import load_foundation

    start, end = load_foundation("tiny-sam2").model.state_dict(), weights(whole)
    prefix = "promptable.foundation.model."
    moved = {name for name in start if not torch.equal(start[name], end[prefix + name])}
    for part in (
        "vision_encoder.backbone",
        "mask_embed",
        "mask_decoder.transformer",
        "iou_prediction_head",
        "point_embed",
    ):
        assert any(part in name for name in moved), part
    assert not any("shared_" in name for name in moved)


def test_the_moving_average_is_what_is_saved(whole: Path, tmp_path: Path) -> None:
    held = torch.load(whole / "checkpoints" / "best.ckpt", weights_only=False)["state_dict"]
    saved = load_foundation(str(whole)).model.state_dict()
    far = 0.0
    for name, value in saved.items():
        average = held[f"averaged.module.foundation.model.{name}"]
        torch.testing.assert_close(value, average, rtol=1e-3, atol=1e-4)
        far += float((held[f"promptable.foundation.model.{name}"] - average).abs().sum())
    assert far > 1
    assert run(tmp_path, "--name", "plain", "--optim.ema", "null", steps=2) == 0
    held = torch.load(tmp_path / "plain" / "checkpoints" / "best.ckpt", weights_only=False)
    for name, value in load_foundation(str(tmp_path / "plain")).model.state_dict().items():
        last = held["state_dict"][f"promptable.foundation.model.{name}"]
        torch.testing.assert_close(value, last, rtol=1e-3, atol=1e-4)


def test_what_no_held_out_mask_tells_is_left_open(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = {"batch_size": 1, "prompts": 1, "val_images": 1, "rounds": 1}
    assert run(tmp_path, "--name", "one", steps=1, **one) == 0
    assert ", points and boxes -; " in capsys.readouterr().out
    text = (tmp_path / "one" / "evaluation.json").read_text()
    assert json.loads(text, parse_constant=pytest.fail)["point_iou"] is None


def test_a_cut_run_goes_on_to_the_same_weights(whole: Path, tmp_path: Path) -> None:
    assert run(tmp_path, "--name", "cut", "--workers", "1", steps=4) == 0
    expected = weights(whole)
    for name, value in weights(tmp_path / "cut").items():
        assert torch.equal(value, expected[name]), name  # the number of workers changes nothing
    shutil.rmtree(tmp_path / "cut")
    stop_after(2, tmp_path)
    assert run(tmp_path, "--name", "cut", "--resume", "auto", steps=4) == 0
    for name, value in weights(tmp_path / "cut").items():
        assert torch.equal(value, expected[name]), name


def stop_after(steps: int, folder: Path) -> None:
    """Run as if power were lost after some steps."""
    from lightning.pytorch import Callback

    from tsic.pretrain import run as run_module

    class PowerLostError(Exception):
        """No checkpoint is written on it."""

    class Stop(Callback):
        def __init__(self, *args: object) -> None:
            pass

        def on_train_batch_end(self, trainer: object, *args: object) -> None:
            if trainer.global_step == steps + 1:  # type: ignore[attr-defined]
                raise PowerLostError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_module, "Answers", Stop)
        with pytest.raises(PowerLostError):
            run(folder, "--name", "cut")


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """Unlabelled pictures of large, plain shapes, in a subfolder too."""
    for i in range(5):
        pixels = np.full((60, 80, 3), 60 + 20 * i, np.uint8)
        pixels[10:40, 20 + i : 60] = (200, 30 * i, 90)
        pixels[45:, :30] = (20, 200, 120)
        file = tmp_path / "photos" / ("sub" if i % 2 else ".") / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(file)
    return tmp_path / "photos"


def test_unlabelled_images_of_the_user_s_continue_a_model(
    whole: Path, photographs: Path, tmp_path: Path
) -> None:
    words = ["--images", str(photographs), "--init", str(whole), "--name", "own"]
    assert run(tmp_path, *words, source={"leaves": 0, "streets": 0}) == 0
    rows = (tmp_path / "own" / "metrics.csv").read_text()
    assert "images/answer_iou" in rows
    assert "leaves/answer_iou" not in rows
    assert len(list((tmp_path / "own" / "regions").glob("*.png"))) == 5
    build_teacher(str(tmp_path / "own"), num_classes=2)


def test_images_without_anything_in_them_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for i in range(2):
        Image.new("L", (64, 64), 90 + i).save(tmp_path / f"{i}.png")
    assert run(tmp_path, "--images", str(tmp_path), "--name", "flat") == 2
    assert "no region was found in the images" in capsys.readouterr().err


def test_a_run_that_has_not_finished_does_not_teach(tmp_path: Path) -> None:
    stop_after(2, tmp_path)
    for _ in range(2):
        with pytest.raises(CheckpointError, match="has not finished"):
            load_foundation(str(tmp_path / "cut"))
        shutil.rmtree(tmp_path / "cut" / "checkpoints", ignore_errors=True)


def test_labelled_regions_are_a_source(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for split in ("images", "masks"):
        (tmp_path / "data" / "train" / split).mkdir(parents=True)
    for i in range(3):
        image, labels = draw_scene(i, 64, 80)
        for kind, pixels in (("images", image), ("masks", labels)):
            Image.fromarray(pixels).save(tmp_path / "data" / "train" / kind / f"{i}.png")
    write_classes(tmp_path / "data" / "classes.yaml", SCENE_CLASSES)
    source = {"leaves": 0, "streets": 0, "name": "folder", "root": str(tmp_path / "data")}
    assert run(tmp_path, "--name", "labelled", steps=2, source=source) == 0
    assert "labelled/answer_iou" in (tmp_path / "labelled" / "metrics.csv").read_text()
    for path in (tmp_path / "data" / "train").glob("*/[12].png"):
        path.unlink()
    assert run(tmp_path, "--name", "single", steps=2, source=source) == 2
    assert "holds 1 image; at least 2 are needed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--crops", "[[30,30]]"], "crops must be pairs of multiples of 32"),
        (["--images", "nowhere"], "source.images 'nowhere' is not a folder"),
        (["--init", "tiny-sma"], "tiny-sam"),
        (["--source.leaves", "0", "--source.streets", "0"], "shares"),
        (["--promts", "3"], "did you mean 'prompts'"),
        (["--prompts", "0"], "prompts must be >= 1"),
        (["--optim.ema", "1"], "optim.ema must lie between 0 and 1"),
        (["--optim.clip", "0"], "optim.clip must be > 0, or null for no limit, got 0"),
    ],
)
def test_mistakes_are_told_before_anything_is_written(
    words: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, "--name", "wrong", *words) == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1
    assert not (tmp_path / "wrong").exists()


def test_it_never_writes_over_another_run(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(whole.parent, "--name", "whole") == 2
    assert "holds a run already" in capsys.readouterr().err
    assert run(whole.parent, "--name", "whole", "--resume", "auto", "--seed", "3") == 2
    assert "seed: 0 -> 3" in capsys.readouterr().err


def test_help_names_every_key(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pretrain", "--help"]) == 0
    told = capsys.readouterr().out
    for key in ("--images", "--source.leaves", "--crops", "--optim.lr", "--trainer.val_every"):
        assert key in told
