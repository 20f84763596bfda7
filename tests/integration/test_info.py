"""`tsic info` and `tsic push` as a user runs them."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
import torch
import yaml

from tsic.checkpoint import load_student, save_student
from tsic.data.classes import ClassTable
from tsic.deploy.card import Card, measured
from tsic.student import build_student

Said = Callable[..., tuple[int, str]]

CLASSES = ClassTable.from_names(
    ("ground", "square", "a|b"), palette=((0, 0, 0), (255, 0, 16), (1, 2, 3))
)
TRAINING = {"crop": [32, 48], "steps": 60, "seed": 5, "recipe": "cycle", "teacher": "tiny-sam"}
EVALUATION = {
    "split": "val",
    "images": 3,
    "miou": 51.234,
    "pixel_accuracy": 80.0,
    "per_class_iou": {"ground": 90.126, "square": 12.0, "a|b": None},
    "confusion_matrix": [[1]],
}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The folder of a finished run, as far as these verbs look at it."""
    folder = tmp_path / "run"
    folder.mkdir()
    student = build_student("compact", num_classes=3, options={"width": 0.25})
    facts = {"resize": [64, 96], "training": TRAINING | {"val_miou": 51.234}}
    save_student(folder, student, CLASSES, facts)
    (folder / "evaluation.json").write_text(json.dumps(EVALUATION))
    data = {"name": "folder", "root": "/home/somebody/shapes", "train_split": "train"}
    (folder / "config.yaml").write_text(yaml.safe_dump({"seed": 9, "data": data}))
    return folder


def rows(card: str) -> dict[str, str]:
    """Rows of the card's tables of two columns."""
    cells = [line.strip("| ").split(" | ") for line in card.splitlines() if line.startswith("| ")]
    return {row[0]: row[1] for row in cells if len(row) == 2}


def test_info_tells_a_student(said: Said, run: Path) -> None:
    code, text = said("info", run)
    assert code == 0
    told = dict(line.split("  ", 1) for line in text.split("\n\n")[0].splitlines())
    told = {key: value.strip() for key, value in told.items()}
    student = load_student(run)
    assert told["network"] == "compact"
    assert told["parameters"] == f"{sum(p.numel() for p in student.parameters()):,}"
    assert told["weights file"] == f"{(run / 'student.safetensors').stat().st_size:,} bytes"
    assert told["input"] == "RGB in [0, 1], any size, resized to 64x96 px"
    assert told["mIoU %"] == "51.23"
    assert "seed 5" in told["training"]
    assert "  1  square  #ff0010  12.00" in text
    assert "  2  a|b     #010203      -" in text


def test_info_as_json(said: Said, run: Path) -> None:
    code, text = said("info", run, "--json", "--size", "64", "96")
    assert code == 0
    told = json.loads(text)
    assert told["kind"] == "student"
    assert told["training"]["seed"] == 5
    assert told["scores"] == {key: EVALUATION[key] for key in EVALUATION if "matrix" not in key}
    assert told["multiply_adds"]["size"] == [64, 96]
    count = told["multiply_adds"]["count"]
    assert f"{count:,} at 64x96 px" in said("info", run, "--size", "64", "96")[1]
    # At 64x96 the resize to 64x96 does nothing; four times the cells are four times the work.
    (run / "student.json").write_text(
        json.dumps(json.loads((run / "student.json").read_text()) | {"resize": None})
    )
    _, larger = said("info", run, "--json", "--size", "128", "192")
    ratio = json.loads(larger)["multiply_adds"]["count"] / told["multiply_adds"]["count"]
    assert ratio == pytest.approx(4, rel=0.01)


def test_info_tells_a_student_of_the_first_format(said: Said, run: Path) -> None:
    facts = json.loads((run / "student.json").read_text())
    count = facts["parameters"]
    for key in ("parameters", "weights_sha256", "saved_at"):
        del facts[key]
    (run / "student.json").write_text(json.dumps(facts | {"format": 1}))
    code, text = said("info", run / "student.json")
    assert code == 0
    assert f"{count:,}" in text
    assert "saved             unknown" in text


def test_info_without_facts_says_unknown(said: Said, tmp_path: Path) -> None:
    save_student(tmp_path, build_student(num_classes=3, options={"width": 0.25}), CLASSES, {})
    code, text = said("info", tmp_path)
    assert code == 0
    assert "training          unknown" in text
    assert "mIoU %            unknown" in text
    assert "IoU %\n" not in text.split("\n\n")[1]


def test_info_tells_an_exported_file(said: Said, run: Path, tmp_path: Path) -> None:
    graph = pytest.importorskip("tsic.deploy.export.graph")
    trained = load_student(run)
    traced = graph.DeployGraph(trained, graph.Layout(size=(64, 96)))
    path = tmp_path / "student.pt2"
    extra = {"tsic.json": graph.describe(trained, traced)}
    torch.export.save(traced.capture(), path, extra_files=extra)
    code, text = said("info", path)
    assert code == 0
    for line in ("precision", "fp32", "float, 1 at a time, 64x96 px", "#ff0010", "compact"):
        assert line in text
    told = json.loads(said("info", path, "--json")[1])
    assert told["kind"] == "torch"
    assert told["file_bytes"] == path.stat().st_size
    assert told["weights_sha256"] == trained.facts["weights_sha256"]
    code, text = said("info", path, "--size", "64", "96")
    assert code == 2
    assert "is an exported file; give --size with its student" in text


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["info"], "the following arguments are required: FILE"),
        (["info", "nowhere"], "no student at 'nowhere': there is no such file or folder"),
        (["info", "nowhere.onnx"], "nowhere.onnx"),
        (["info", "hf:name"], "'hf:name' is no name on the hub; write hf:owner/name"),
        (["info", "x", "--size", "0", "5"], "--size must be two numbers from 1, got [0, 5]"),
        (["push", "nowhere", "out"], "no student at 'nowhere'"),
        (["push", "nowhere", "hf:x"], "'hf:x' is no name on the hub"),
        (["push", "nowhere", "out", "--private"], "--private is for a repository of the hub"),
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
    code, text = said(*words)
    assert code == 2
    assert expected in text
    assert len(text.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_push_writes_a_folder_that_loads_again(said: Said, run: Path, tmp_path: Path) -> None:
    exported = {
        *("exported/onnx/student.onnx", "exported/onnx/export.json"),
        *("exported/openvino/student.xml", "exported/openvino/student.bin"),
        "exported/openvino/export.json",
    }
    stale = ("exported/torch/student.pt2", "exported/torch/export.json")
    for name in (*exported, *stale, "unproven/student.onnx", "other.bin"):
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text(name)
    proof = json.dumps({"weights_sha256": load_student(run).facts["weights_sha256"]})
    for kind in ("onnx", "openvino"):
        (run / "exported" / kind / "export.json").write_text(proof)
    target = tmp_path / "hub" / "shapes"
    code, text = said("push", run, target, "--license", "mit", "--data", "Drawn | shapes")
    assert code == 0
    pushed = exported | {"README.md", "student.json", "student.safetensors"}
    files = {str(one.relative_to(target)) for one in target.rglob("*") if one.is_file()}
    assert files == pushed
    assert f"{target}: README.md, exported/onnx/export.json" in text
    assert f"'{run}/exported/torch' is left out, since it was not exported from these" in text
    image = torch.rand(1, 3, 64, 96)
    assert torch.equal(load_student(target)(image), load_student(run)(image))

    card = (target / "README.md").read_text()
    front = yaml.safe_load(card.split("---")[1])
    assert front["library_name"] == "tsic"
    assert front["pipeline_tag"] == "image-segmentation"
    assert front["license"] == "mit"
    told = rows(card)
    assert told["data"] == r"Drawn \| shapes"
    assert (told["seed"], told["steps"], told["recipe"]) == ("5", "60", "cycle")
    assert (told["mIoU"], told["ground"], told[r"a\|b"]) == ("51.23", "90.13", "-")
    assert "| 1 | square | #ff0010 |" in card
    assert "somebody" not in card
    assert str(tmp_path) not in card
    assert 'load_student("shapes")' in card
    assert "`exported/onnx/student.onnx`" in card

    # What another student left there is told of, and not as what was written.
    (target / "exported" / "torch").mkdir()
    (target / "exported" / "torch" / "export.json").write_text("{}")
    code, text = said("push", run, target)
    assert code == 0
    assert f"'{target}/exported/torch' is of another student than the one that is put" in text
    assert "torch/export.json" not in text
    shutil.rmtree(target / "exported" / "torch")

    # Pushed on from the folder, which has no evaluation.json, the scores stay.
    code, _ = said("push", target, tmp_path / "again")
    assert code == 0
    again = (tmp_path / "again" / "README.md").read_text()
    assert rows(again)["ground"] == "90.13"
    assert "license" not in yaml.safe_load(again.split("---")[1])
    assert rows(again)["licence"] == "unknown"


def test_push_never_replaces_another_readme(said: Said, run: Path, tmp_path: Path) -> None:
    target = tmp_path / "project"
    target.mkdir()
    (target / "README.md").write_text("# My project\n")
    code, text = said("push", run, target)
    assert code == 2
    assert "README.md' is not a student's card; push to another folder" in text
    assert [one.name for one in target.iterdir()] == ["README.md"]
    code, text = said("push", run, target / "README.md")
    assert code == 2
    assert "is a file; name a folder or hf:owner/name" in text


def test_a_card_names_the_folder_that_one_stands_in(
    said: Said, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert said("push", run, ".")[0] == 0
    assert f'load_student("{tmp_path.name}")' in (tmp_path / "README.md").read_text()


def test_push_to_the_hub(
    said: Said,
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: dict[str, Any] = {}

    def create_repo(repo_id: str, **options: Any) -> None:
        made.update(options, repo_id=repo_id)

    def upload_folder(
        *, repo_id: str, folder_path: Path, commit_message: str, delete_patterns: str
    ) -> Any:
        assert delete_patterns == "exported/*", "those of the student before"
        shutil.copytree(folder_path, tmp_path / repo_id)
        return SimpleNamespace(commit_url="commit/1")

    monkeypatch.setattr(huggingface_hub, "create_repo", create_repo)
    monkeypatch.setattr(huggingface_hub, "upload_folder", upload_folder)
    code, text = said("push", run, "hf:owner/shapes", "--private")
    assert code == 0
    assert made == {"repo_id": "owner/shapes", "private": True, "exist_ok": True}
    assert text == "hf:owner/shapes: README.md, student.json, student.safetensors\ncommit/1\n"
    assert 'load_student("hf:owner/shapes")' in (tmp_path / "owner/shapes/README.md").read_text()
    assert load_student(tmp_path / "owner/shapes").facts["scores"]["images"] == 3


class TestCard:
    def facts(self, **changes: Any) -> dict[str, Any]:
        spec: dict[str, Any] = {
            "name": "compact",
            "encoder": "resnet18",
            "output_stride": None,
            "options": {},
        }
        return {"spec": spec, "classes": CLASSES.to_dict(), "versions": {}, **changes}

    def test_what_is_not_known_is_said_to_be_unknown(self) -> None:
        card = Card("hf:owner/name", self.facts()).to_markdown()
        told = rows(card)
        for key in ("data", "recipe", "teacher", "seed", "steps", "crop", "licence", "parameters"):
            assert told[key] == "unknown"
        assert "Unknown: no scores came with this student." in card
        assert "\n# name\n" in card

    def test_a_runs_files_fill_in(self) -> None:
        config = {"seed": 7, "recipe": "paper", "data": {"name": "camvid", "crop": [64, 96]}}
        told = rows(Card("x", self.facts(), EVALUATION, config).to_markdown())
        assert (told["seed"], told["recipe"], told["crop"]) == ("7", "paper", "64x96 px")
        assert told["data"] == "tsic's reader `camvid`"
        assert told["mIoU"] == "51.23"

    def test_what_else_it_was_trained_on_and_the_encoder_s_stride_are_told(self) -> None:
        spec: dict[str, Any] = {"name": "fpn", "encoder": "resnet18", "output_stride": 16}
        facts = self.facts(spec=spec, training={"unlabelled_images": 12_345})
        told = rows(Card("x", facts).to_markdown())
        assert told["images without labels"] == "12,345"
        assert told["network"] == "fpn on resnet18, encoder stride 16"
        assert "images without labels" not in rows(Card("x", self.facts()).to_markdown())

    def test_folders_of_a_machine_stay_out(self) -> None:
        spec: dict[str, Any] = {
            "name": "/home/somebody/segformer",
            "encoder": "-",
            "output_stride": None,
        }
        facts = self.facts(spec=spec, training={"teacher": "/data/somebody/sam"})
        card = Card("x", facts).to_markdown()
        assert "somebody" not in card
        assert rows(card)["teacher"] == "sam"

    def test_scores_of_other_weights_are_not_told(self) -> None:
        facts = {"training": {"val_miou": 40.0}}
        assert measured(facts, EVALUATION) == {"miou": 40.0}
        assert measured({"training": {"val_miou": 51.234}}, EVALUATION)["images"] == 3
        assert measured({"scores": {"miou": 1.0}}, EVALUATION) == {"miou": 1.0}
        assert measured({}, {}) == {}
