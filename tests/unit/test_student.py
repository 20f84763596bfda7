import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from tsic.errors import CheckpointError, ConfigError
from tsic.grid import fit_to_image
from tsic.networks import IMAGENET_MEAN
from tsic.networks.imported import require_class
from tsic.student import Student, StudentOutput, StudentSpec, Weights, build_student


class Blocks(nn.Module):
    """Averages 8x8 pixels, so that the place of every answer is known; logits in any wrapping."""

    size_multiple = 16

    def __init__(self, num_classes: int, returns: str = "output", stride: int = 8) -> None:
        super().__init__()
        if not stride:
            raise ValueError("no stride")
        self.num_classes = num_classes
        self.returns = returns
        self.stride = stride

    def forward(self, images: Tensor) -> Any:
        means = F.avg_pool2d(images, self.stride)
        logits = means[:, :1].expand(-1, self.num_classes, -1, -1)
        if self.returns == "tensor":
            return logits
        if self.returns in {"out", "logits"}:
            return {self.returns: logits, "features": [means]}
        if (maps := self._odd(means)) is not None:
            return {"out": logits, "features": maps}
        if self.returns == "broken":
            raise RuntimeError("no such shape")
        if self.returns == "list":
            return [logits]
        return StudentOutput(logits, (means, F.avg_pool2d(images, 16)))

    def _odd(self, means: Tensor) -> Any:
        """Features in other wrappings, or none that could be used."""
        coarse = F.avg_pool2d(means, 2)
        return {
            "one map": means,
            "named maps": {"fine": means, "coarse": coarse},
            "reversed": [coarse, means],
            "flat": [means.mean((2, 3))],
        }.get(self.returns)


def no_network(*_: object, **__: object) -> None:
    raise OSError("no network in tests")


BLOCKS = f"{__name__}:Blocks"


def student_of_blocks(**options: object) -> Any:
    student = build_student(BLOCKS, num_classes=3, options=options).eval()
    student.mean.zero_()
    student.std.fill_(1.0)
    return student


class TestFitToImage:
    def test_crops_where_the_stride_divides(self) -> None:
        cells = torch.arange(12.0).view(1, 1, 3, 4)
        assert fit_to_image(cells, (24, 32), (16, 24)).tolist() == [[[[0, 1, 2], [4, 5, 6]]]]

    def test_returns_the_same_map_when_nothing_was_padded(self) -> None:
        cells = torch.rand(2, 3, 4, 5)
        assert torch.equal(fit_to_image(cells, (32, 40), (32, 40)), cells)

    def test_samples_at_centres_of_even_cells(self) -> None:
        """20 px in 3 cells: centres 10/3, 10 and 50/3 px; a cell's centre is at 8 i + 4 px."""
        cells = torch.arange(4.0).view(1, 1, 1, 4)
        fitted = fit_to_image(cells, (8, 32), (8, 20)).flatten()
        expected = torch.tensor([0.0, 10 / 8 - 0.5, 50 / 24 - 0.5])  # the first lies at the rim
        torch.testing.assert_close(fitted, expected)

    @pytest.mark.parametrize("side", range(1, 65))
    def test_every_side_gives_the_rounded_up_number_of_cells(self, side: int) -> None:
        padded = -(-side // 32) * 32
        for stride in (1, 4, 8, 16, 32):
            cells = torch.zeros(1, 1, padded // stride, padded // stride)
            assert (
                fit_to_image(cells, (padded,) * 2, (side,) * 2).shape[2:]
                == (-(-side // stride),) * 2
            )


class TestStudent:
    def test_ramp_keeps_its_place_at_an_odd_size(self) -> None:
        """A horizontal ramp of one unit per pixel must read its own position at each centre."""
        student = student_of_blocks()
        width = 100  # 12.5 cells of 8 px -> 13 cells of 100 / 13 px
        ramp = (torch.arange(width) + 0.5).expand(1, 3, 64, width) / 255
        logits = student(ramp).logits
        centres = (torch.arange(13) + 0.5) * width / 13
        # Past the 12th cell the average holds padding.
        torch.testing.assert_close(logits[0, 0, 0, :12] * 255, centres[:12], atol=0.2, rtol=0)

    def test_square_stays_where_it_is(self) -> None:
        student = student_of_blocks()
        images = torch.zeros(1, 3, 72, 90)
        images[:, :, 40:48, 16:24] = 1.0
        logits = student(images).logits[0, 0]
        assert logits.shape == (9, 12)
        row, column = divmod(int(logits.argmax()), 12)
        assert row == 5
        assert column == int(20 / (90 / 12))

    def test_normalises_with_its_own_mean_and_std(self) -> None:
        student = build_student(BLOCKS, num_classes=2).eval()
        grey = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1).expand(1, 3, 16, 16)
        assert student(grey).logits.abs().max() < 1e-6
        assert student(grey + 0.229).logits[0, 0, 0, 0].item() == pytest.approx(1.0)

    def test_auxiliary_head_answers_in_training_only(self) -> None:
        student = build_student("compact", num_classes=4, auxiliary=True)
        images = torch.rand(2, 3, 64, 64)
        assert student(images).auxiliary is not None
        student.eval()
        assert student(images).auxiliary is None

    def test_auxiliary_head_on_resnet18_has_the_size_of_the_paper(self) -> None:
        student = build_student(
            "deeplabv3", num_classes=11, auxiliary=True, options={"decoder_channels": 32}
        )
        assert student.auxiliary_head is not None
        assert sum(weight.numel() for weight in student.auxiliary_head.parameters()) == 148_299

    def test_bfloat16_autocast_gives_finite_logits(self) -> None:
        student = build_student("compact", num_classes=4)
        with torch.autocast("cpu", torch.bfloat16):
            logits = student(torch.rand(2, 3, 65, 97)).logits
        assert logits.isfinite().all()

    @pytest.mark.parametrize("kinds", [("float64", "float32"), ("float32", "bfloat16")])
    def test_images_may_be_of_another_type_than_the_weights(self, kinds: tuple[str, str]) -> None:
        shown, held = (getattr(torch, kind) for kind in kinds)
        student = build_student("compact", num_classes=4, options={"width": 0.25}).eval()
        images = torch.rand(2, 3, 65, 97)
        expected = student(images).logits
        found = student.to(held)(images.to(shown)).logits
        torch.testing.assert_close(found.float(), expected, rtol=0, atol=0.02)


class TestBuildStudent:
    @pytest.mark.parametrize("returns", ["output", "out", "logits", "tensor"])
    def test_own_network_may_return_any_of_four_types(self, returns: str) -> None:
        output = student_of_blocks(returns=returns)(torch.rand(1, 3, 20, 30))
        assert output.logits.shape == (1, 3, 3, 4)
        assert len(output.features) == {"output": 2, "tensor": 0}.get(returns, 1)

    @pytest.mark.parametrize(("returns", "strides"), [("one map", (8,)), ("named maps", (8, 16))])
    def test_own_network_s_features_are_one_map_or_several(
        self, returns: str, strides: tuple[int, ...]
    ) -> None:
        student = student_of_blocks(returns=returns)
        assert student.feature_strides == strides
        features = student(torch.rand(2, 3, 32, 64)).features
        assert [one.shape[-1] for one in features] == [64 // stride for stride in strides]

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"name": "deeplab"}, r"'deeplab' is unknown; did you mean 'deeplabv3'\?"),
            ({"name": "nowhere:Net"}, "cannot be imported: No module named 'nowhere'.*PYTHONPATH"),
            ({"name": ":Net"}, "':Net' must be a whole path"),
            ({"name": ".nets:Net"}, "'.nets:Net' must be a whole path"),
            ({"name": BLOCKS, "options": {"stride": 0}}, "refuses its arguments: no stride"),
            ({"name": BLOCKS + "s"}, r"has no class 'Blockss'; did you mean 'Blocks'\?"),
            ({"name": BLOCKS, "options": {"width": 1}}, "refuses its arguments: .*'width'"),
            ({"name": BLOCKS, "options": {"returns": "list"}}, "must return a tensor, .* got list"),
            (
                {"name": BLOCKS, "options": {"returns": "flat"}},
                r"return features \(B, C, h, w\) each",
            ),
            ({"name": BLOCKS, "options": {"returns": "reversed"}}, r"last, got strides \[16, 8\]"),
            ({"name": BLOCKS, "options": {"stride": 7}}, "into 9x9 cells; each must cover"),
            ({"name": "tests_none/none:Net"}, "could not be read or fetched"),
            ({"num_classes": 1}, "num_classes must be 2 to 254, got 1"),
            ({"num_classes": 255}, "num_classes must be 2 to 254, got 255"),
            ({"weights": "imagnet"}, r"weights cannot be 'imagnet'; did you mean 'imagenet'\?"),
            ({"weights": None}, "student.weights cannot be None; did you mean 'none'"),
            ({"weights": "imagenet"}, "'compact' has no ImageNet weights; set weights to none"),
            ({"output_stride": 8}, "output_stride is fixed for 'compact'"),
            ({"options": {"widht": 2.0}}, r"options.widht is unknown; did you mean 'width'\?"),
            ({"name": "fpn", "output_stride": 8}, "of 'fpn' must be one of 32, got 8"),
            ({"name": "deeplabv3", "output_stride": 32}, "must be one of 8, 16, got 32"),
            (
                {"name": "deeplabv3", "encoder": "vgg11"},
                "on encoder 'vgg11': .*dilated.* works at 8, 16, and at 32 any encoder",
            ),
            (
                {"name": "deeplabv3", "encoder": "swin_tiny_patch4_window7_224"},
                # The second is what the oldest supported timm stumbles over first.
                "unexpected keyword argument 'output_stride'; output_stride was 8|takes any size",
            ),
            ({"name": "fpn", "encoder": "resnet81"}, "'resnet81' is neither .* did you mean"),
            (
                {"name": "fpn", "options": {"decoder_chanels": 3}},
                "options.decoder_chanels is not an option of 'fpn'; did you mean 'decoder_",
            ),
            ({"name": "fpn", "options": {"classes": 3}}, "options.classes is not an option"),
            (
                {"name": "fpn", "options": {"encoder_depth": 2}},
                "cannot be built .* choose another encoder or correct student.options",
            ),
            (
                {"name": BLOCKS, "options": {"returns": "broken"}},
                r"Blocks' cannot be run \(no such shape\); check it and student.options",
            ),
            (
                {"name": BLOCKS, "options": {"returns": "tensor"}, "auxiliary": True},
                "auxiliary needs two feature maps, .* gives 0",
            ),
        ],
    )
    def test_mistake_is_told_with_a_way_out(
        self, arguments: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        with pytest.raises((ConfigError, CheckpointError), match=message):
            build_student(**{"num_classes": 3} | arguments)

    @pytest.mark.parametrize("encoder", ["resnet18", "resnet10t"])
    def test_weights_that_cannot_be_fetched_name_the_way_out(
        self, encoder: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
        monkeypatch.setattr("socket.getaddrinfo", no_network)
        message = (
            f"ImageNet weights of '(tu-)?{encoder}' could not be .*; check .*"
            "student.weights to none to train"
        )
        with pytest.raises(CheckpointError, match=message):
            build_student("fpn", num_classes=3, encoder=encoder, weights="imagenet")

    def test_imagenet_weights_come_from_the_hub(
        self, fetched: Callable[[str], Path], caplog: pytest.LogCaptureFixture
    ) -> None:
        """Its classifier is left out without a word, and images are normalised as it saw them."""
        trained = timm.create_model("test_efficientnet_gn")
        files = fetched("timm/test_efficientnet_gn.r160_in1k")
        save_file(trained.state_dict(), files / "model.safetensors")
        student = build_student(
            "fpn", num_classes=3, encoder="test_efficientnet_gn", weights="imagenet"
        )
        network: Any = student.network.model
        loaded = network.encoder.model.state_dict()
        assert loaded
        for name, tensor in trained.state_dict().items():
            if name.startswith(("conv_stem", "blocks")):
                assert torch.equal(loaded[name], tensor), name
        assert student.mean.flatten().tolist() == [0.5, 0.5, 0.5]
        assert not caplog.records

    def test_weights_of_an_own_network_are_its_own_affair(self) -> None:
        with pytest.raises(ConfigError, match="has no ImageNet weights"):
            build_student(BLOCKS, num_classes=3, weights="imagenet")

    def test_trained_students_need_only_their_own_library(self) -> None:
        code = """
import sys, torch
from tsic.student import build_student

def use(name):
    build_student(name, num_classes=3).eval()(torch.zeros(1, 3, 64, 64))

use("compact")
unwanted = {"segmentation_models_pytorch", "timm"} & set(sys.modules)
use("fpn")
unwanted |= {"transformers", "lightning"} & set(sys.modules)
sys.exit(", ".join(unwanted) or 0)
"""
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert (run.returncode, run.stderr) == (0, "")


class TestStudentSpec:
    def test_round_trip(self) -> None:
        spec = StudentSpec("fpn", 7, options={"decoder_dropout": 0.1})
        assert StudentSpec.from_dict(spec.to_dict()) == spec

    def test_deployed_has_no_auxiliary_head_and_fetches_nothing(self) -> None:
        spec = StudentSpec("fpn", 7, weights="imagenet", auxiliary=True).deployed()
        assert (spec.auxiliary, spec.weights) == (False, "none")

    def test_unknown_key_is_named(self) -> None:
        with pytest.raises(ConfigError, match=r"student.encodr is unknown; did you mean 'encoder'"):
            StudentSpec.from_dict({"name": "fpn", "num_classes": 3, "encodr": "resnet18"})

    def test_missing_key_is_named(self) -> None:
        with pytest.raises(ConfigError, match=r"student.num_classes is missing"):
            StudentSpec.from_dict({"name": "fpn"})


def stored_weights(folder: Path) -> dict[str, Tensor]:
    from transformers import SegformerForSemanticSegmentation

    weights: dict[str, Tensor] = SegformerForSemanticSegmentation.from_pretrained(
        folder
    ).state_dict()
    return weights


class TestHuggingFace:
    def test_only_the_classifier_starts_afresh(self, segformer: Path) -> None:
        student = build_student(str(segformer), num_classes=7, weights="imagenet")
        stored = stored_weights(segformer)
        ours = student.network.model.state_dict()
        changed = {
            key
            for key, value in stored.items()
            if value.shape != ours[key].shape or not torch.equal(value, ours[key])
        }
        assert changed == {"decode_head.classifier.weight", "decode_head.classifier.bias"}
        assert student(torch.rand(2, 3, 64, 64)).logits.shape == (2, 7, 16, 16)

    def test_weights_none_starts_everything_afresh(self, segformer: Path) -> None:
        ours = build_student(str(segformer), num_classes=3).network.model.state_dict()
        stored = stored_weights(segformer)
        matrices = [key for key, value in stored.items() if value.ndim > 1]
        assert not any(torch.equal(stored[key], ours[key]) for key in matrices)

    def test_spec_rebuilds_without_the_folder(self, segformer: Path) -> None:
        student = build_student(str(segformer), num_classes=7)
        values = student.spec.deployed().to_dict() | {"name": "gone/away"}
        rebuilt = build_student(**values)
        rebuilt.load_state_dict(student.deploy_state_dict())

    def test_a_folder_s_name_is_no_path_and_needs_no_folder(
        self, segformer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(segformer.parent)
        for name in (str(segformer), segformer.name, f"./{segformer.name}"):
            student = build_student(name, num_classes=7)
            assert student.spec.deployed().name == f"transformers/{segformer.name}"
        monkeypatch.chdir(tmp_path)
        as_written_before = f"transformers/{segformer.name}", segformer.name
        for name in as_written_before:
            spec = StudentSpec(name, 7, options=student.spec.options)
            assert spec.is_hugging_face
            rebuilt = build_student(**spec.to_dict())
            rebuilt.load_state_dict(student.deploy_state_dict())

    def test_options_change_the_stored_configuration(self, segformer: Path) -> None:
        student = build_student(str(segformer), num_classes=7, options={"decoder_hidden_size": 24})
        weights = student.state_dict()
        assert weights["network.model.decode_head.classifier.weight"].shape[:2] == (7, 24)
        again = student.spec.deployed().to_dict()
        again["options"] = again["options"] | {"decoder_hidden_size": 32}
        weights = build_student(**again).state_dict()
        assert weights["network.model.decode_head.classifier.weight"].shape[:2] == (7, 32)

    def test_encoder_of_another_size_is_refused(self, segformer: Path) -> None:
        with pytest.raises(CheckpointError, match=r"do not fit its encoder \(segformer\."):
            build_student(
                str(segformer),
                num_classes=3,
                weights="imagenet",
                options={"hidden_sizes": [8, 16, 24, 64]},
            )

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"hidden_sizs": [8]}, r"'segformer' has no hidden_sizs; did you mean 'hidden_sizes'"),
            ({"hidden_sizes": [8]}, r"cannot be built \(IndexError: .*\); check student.options"),
        ],
    )
    @pytest.mark.parametrize("weights", ["none", "imagenet"])
    def test_options_that_cannot_be_are_refused(
        self, segformer: Path, options: dict[str, Any], message: str, weights: Weights
    ) -> None:
        if weights == "imagenet" and "hidden_sizes" in options:
            message = "the weights of .* could not be read"
        with pytest.raises((ConfigError, CheckpointError), match=message):
            build_student(str(segformer), num_classes=3, weights=weights, options=options)

    def test_stored_weights_get_images_as_they_were_trained(
        self, segformer: Path, tmp_path: Path
    ) -> None:
        """Normalised or not, and blue first, until the weights take red first."""
        from transformers import MobileViTImageProcessor

        shutil.copytree(segformer, tmp_path, dirs_exist_ok=True)
        said = tmp_path / "preprocessor_config.json"

        def built(text: str) -> Student:
            said.write_text(text)
            return build_student(str(tmp_path), num_classes=3, weights="imagenet").eval()

        kind = '"image_processor_type": "SegformerImageProcessor"'
        student = built(f'{{{kind}, "image_mean": [0.5, 0.5, 0.5], "image_std": 0.25}}')
        assert student.mean.unique().tolist() == [0.5]
        assert student.std.unique().tolist() == [0.25]
        for said_of_mean in ("", ', "image_mean": null'):
            usual = built(f"{{{kind}{said_of_mean}}}").mean.flatten().tolist()
            assert usual == pytest.approx(IMAGENET_MEAN)
        plain = built(f'{{{kind}, "do_normalize": false}}')
        assert (plain.mean.unique().item(), plain.std.unique().item()) == (0, 1)
        MobileViTImageProcessor().save_pretrained(tmp_path)
        swapped = built(said.read_text())
        assert (swapped.mean.unique().item(), swapped.std.unique().item()) == (0, 1)
        image = torch.rand(1, 3, 64, 64)
        found, expected = swapped(image).features, plain(image.flip(1)).features
        torch.testing.assert_close(found, expected)
        rebuilt = build_student(**swapped.spec.deployed().to_dict()).eval()
        rebuilt.load_state_dict(swapped.deploy_state_dict())
        torch.testing.assert_close(rebuilt(image).features, expected)

    def test_model_for_something_else_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "config.json").write_text('{"model_type": "bert"}')
        with pytest.raises(ConfigError, match="is no semantic-segmentation model"):
            build_student(str(tmp_path), num_classes=3)


class Bare(nn.Module):
    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes

    def forward(self, images: Tensor) -> dict[str, Any]:
        return {"out": images[:, :1].repeat(1, self.num_classes, 1, 1), "features": None}


def bare(num_classes: int) -> Bare:
    return Bare(num_classes)


def test_a_network_of_ones_own_may_say_that_it_has_no_features() -> None:
    assert build_student(f"{__name__}:Bare", num_classes=3).feature_channels == ()


def test_a_function_is_no_network_to_begin_with() -> None:
    require_class(f"{__name__}:Bare")
    with pytest.raises(ConfigError, match=r"must be a class; derive one from torch.nn.Module"):
        require_class(f"{__name__}:bare")
    build_student(f"{__name__}:bare", num_classes=3)  # as earlier versions trained it


def test_weights_that_no_answer_reads_are_told() -> None:
    """Several devices wait for the gradient of each that they are not told of."""
    student = build_student("fpn", num_classes=3, encoder="efficientnet-b0")
    assert student.idle_weights() == [
        "model.encoder._conv_head.weight",
        "model.encoder._bn1.weight",
        "model.encoder._bn1.bias",
    ]
