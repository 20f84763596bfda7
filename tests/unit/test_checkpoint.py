import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tsic.checkpoint import FORMAT, StudentFiles, find_student, load_student, save_student
from tsic.data.classes import ClassTable
from tsic.errors import CheckpointError
from tsic.grid import resize_images
from tsic.student import Student, build_student

CLASSES = ClassTable.from_names(("ground", "square", "disc"))
STUDENTS: dict[str, dict[str, Any]] = {
    "compact": {"name": "compact", "options": {"width": 0.25}},
    "fpn": {"name": "fpn", "encoder": "test_resnet", "auxiliary": True},
}


@pytest.fixture(params=list(STUDENTS))
def student(request: pytest.FixtureRequest) -> Student:
    """A student that has seen a batch, so that its batch statistics are its own."""
    built = build_student(num_classes=3, **STUDENTS[request.param])
    built(torch.rand(2, 3, 64, 64))
    return built


@pytest.fixture
def saved(tmp_path: Path) -> StudentFiles:
    built = build_student(num_classes=3, **STUDENTS["compact"])
    return save_student(tmp_path, built, CLASSES, {"step": 7})


def change(files: StudentFiles, **changes: object) -> None:
    files.facts.write_text(json.dumps(json.loads(files.facts.read_text()) | changes))


def test_load_student_answers_as_the_saved_one_bit_for_bit(
    student: Student, tmp_path: Path
) -> None:
    save_student(tmp_path, student, CLASSES, {"step": 7, "miou": 51.5})
    images = torch.rand(1, 3, 65, 97)
    loaded = load_student(tmp_path)
    assert torch.equal(loaded(images), student.eval()(images).logits)
    assert loaded.classes == CLASSES
    assert (loaded.facts["step"], loaded.facts["miou"]) == (7, 51.5)
    assert loaded.student.spec == student.spec.deployed()
    assert loaded.student.auxiliary_head is None


def test_load_student_gives_evaluation_mode(saved: StudentFiles) -> None:
    training = [name for name, m in load_student(saved.weights).named_modules() if m.training]
    assert training == []


def test_save_student_writes_two_files_and_says_what_a_user_needs(
    student: Student, tmp_path: Path
) -> None:
    files = save_student(tmp_path, student, CLASSES, {"step": 7})
    assert sorted(tmp_path.iterdir()) == sorted([files.weights, files.facts])
    facts = json.loads(files.facts.read_text())
    assert facts["format"] == FORMAT
    assert facts["classes"]["names"] == ["ground", "square", "disc"]
    assert facts["input"] == {"channels": "RGB", "range": [0, 1]}
    assert facts["mean"] == student.mean.flatten().tolist()
    assert facts["std"] == student.std.flatten().tolist()
    assert set(facts["versions"]) == {"tsic", "torch"}


def test_load_student_takes_the_folder_or_either_file(saved: StudentFiles) -> None:
    for path in (saved.weights.parent, saved.weights, saved.facts, str(saved.weights)):
        assert load_student(path).facts["step"] == 7


def test_trained_student_predicts_at_the_images_own_size(saved: StudentFiles) -> None:
    loaded = load_student(saved.weights)
    image = torch.randint(0, 256, (3, 45, 61), dtype=torch.uint8)
    labels = loaded.predict(image)
    assert labels.shape == (45, 61)
    assert labels.dtype == torch.int64
    assert torch.equal(loaded.predict(image.float() / 255), labels)


def test_trained_student_sees_images_at_the_size_it_was_trained_on(saved: StudentFiles) -> None:
    plain = load_student(saved.weights)
    change(saved, resize=[32, 48])
    resized = load_student(saved.weights)
    images = torch.rand(1, 3, 90, 120)
    assert torch.equal(resized(images), plain(resize_images(images, (32, 48))))
    assert resized.predict(images[0]).shape == (90, 120)


@pytest.mark.parametrize("missing", ["student.safetensors", "student.json"])
def test_find_student_names_the_missing_file(saved: StudentFiles, missing: str) -> None:
    (saved.weights.parent / missing).unlink()
    with pytest.raises(CheckpointError, match=rf"no student at '.*': {missing} is missing; give"):
        find_student(saved.weights.parent)


def test_find_student_of_a_path_that_is_not_there_says_so(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no student at '.*nowhere': nowhere.safetensors is"):
        load_student(tmp_path / "nowhere")


def test_load_student_refuses_a_newer_format(saved: StudentFiles) -> None:
    change(saved, format=FORMAT + 1)
    message = rf"has format {FORMAT + 1}, newer than this tsic reads \({FORMAT}\); upgrade tsic"
    with pytest.raises(CheckpointError, match=message):
        load_student(saved.weights)


def cut_weights(files: StudentFiles) -> None:
    files.weights.write_bytes(files.weights.read_bytes()[:-100])


def empty_weights(files: StudentFiles) -> None:
    files.weights.write_bytes(b"")


def other_width(files: StudentFiles) -> None:
    spec = json.loads(files.facts.read_text())["spec"]
    change(files, spec=spec | {"options": {"width": 0.5}})


def cut_facts(files: StudentFiles) -> None:
    files.facts.write_text(files.facts.read_text()[:-100])


def no_format(files: StudentFiles) -> None:
    files.facts.write_text("{}")


def listed_facts(files: StudentFiles) -> None:
    files.facts.write_text("[]")


@pytest.mark.parametrize(
    "damage", [cut_weights, empty_weights, other_width, cut_facts, no_format, listed_facts]
)
def test_load_student_says_what_is_damaged_in_one_line(saved: StudentFiles, damage: Any) -> None:
    damage(saved)
    message = r"^the student at '.*' cannot be read \(.+\); copy both files again or train anew$"
    with pytest.raises(CheckpointError, match=message) as caught:
        load_student(saved.weights)
    assert "\n" not in str(caught.value)


def test_load_student_needs_no_training_library(saved: StudentFiles) -> None:
    code = (
        "import sys; from tsic.checkpoint import load_student; import torch;"
        f"load_student({str(saved.weights)!r}).predict(torch.rand(3, 32, 32));"
        "print([n for n in ('transformers', 'lightning', 'peft') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
