import copy
import json
import shutil
import sys
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, save

from tsic.checkpoint import StudentFiles, find_student, load_student, save_student
from tsic.data.classes import ClassTable
from tsic.errors import CheckpointError, ConfigError
from tsic.grid import resize_images
from tsic.model_file import FORMAT
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


def test_a_student_in_training_mode_predicts_nothing(saved: StudentFiles) -> None:
    loaded = load_student(saved.weights)
    loaded.student.train()  # as a training of one's own does; the wrapper itself stays as it was
    before = copy.deepcopy(loaded.state_dict())
    with pytest.raises(ConfigError, match=r"in training mode, .*call its eval\(\) first"):
        loaded.predict(torch.rand(3, 45, 61))
    assert all(torch.equal(value, before[name]) for name, value in loaded.state_dict().items())


@pytest.mark.parametrize("default", [torch.float64, torch.bfloat16])
def test_a_student_is_the_same_whatever_the_default_type(
    saved: StudentFiles, default: torch.dtype
) -> None:
    image = torch.rand(3, 45, 61)
    expected = load_student(saved.weights).state_dict(), load_student(saved.weights).predict(image)
    torch.set_default_dtype(default)
    try:
        loaded = load_student(saved.weights)
        found = loaded.state_dict(), loaded.predict(image)
    finally:
        torch.set_default_dtype(torch.float32)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


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


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("student.onnx", "is an exported file; give the student that it was exported from"),
        ("last.ckpt", "is a checkpoint of a training; give the run's folder"),
        ("a.JPG", "is another kind of file; name the model first"),
    ],
)
def test_a_file_of_another_kind_is_no_student(saved: StudentFiles, name: str, said: str) -> None:
    """Not even beside one."""
    file = saved.weights.with_name(name)
    file.touch()
    with pytest.raises(CheckpointError, match=rf"no student at '.*{name}': it {said}"):
        find_student(file)


def test_a_name_of_the_zoo_without_its_prefix_is_recognised() -> None:
    with pytest.raises(CheckpointError, match="did you mean 'zoo:camvid-compact'"):
        find_student("camvid-compact")


def test_find_student_of_a_path_that_is_not_there_says_so(tmp_path: Path) -> None:
    for name in ("nowhere", "student.json"):
        with pytest.raises(CheckpointError, match=f"no student at '.*{name}': there is no such"):
            load_student(tmp_path / name)


def test_load_student_refuses_a_newer_format(saved: StudentFiles) -> None:
    change(saved, format=FORMAT + 1)
    message = rf"has format {FORMAT + 1}, newer than this tsic reads \({FORMAT}\); upgrade tsic"
    with pytest.raises(CheckpointError, match=message):
        load_student(saved.weights)


def test_load_student_reads_what_the_first_format_wrote(saved: StudentFiles) -> None:
    image = torch.rand(1, 3, 64, 96)
    expected = load_student(saved.weights)
    facts = json.loads(saved.facts.read_text())
    for key in ("parameters", "weights_sha256", "saved_at"):
        del facts[key]
    saved.facts.write_text(json.dumps(facts | {"format": 1}))
    old = load_student(saved.weights)
    assert torch.equal(old(image), expected(image))
    assert old.facts == expected.facts | {"saved_at": None}


def test_facts_tell_parameters_and_digest(student: Student, tmp_path: Path) -> None:
    files = save_student(tmp_path, student, CLASSES, {})
    facts = json.loads(files.facts.read_text())
    shipped = [value for name, value in student.named_parameters() if "auxiliary_head" not in name]
    assert facts["parameters"] == sum(value.numel() for value in shipped)
    assert facts["weights_sha256"] == sha256(files.weights.read_bytes()).hexdigest()
    saved_at = datetime.fromisoformat(facts["saved_at"])
    assert abs((datetime.now(UTC) - saved_at).total_seconds()) < 60


@pytest.mark.parametrize("facts", [{"mean": [0, 0, 0]}, {"training": {"steps": "many"}}])
def test_save_student_refuses_facts_that_could_not_be_loaded(
    student: Student, tmp_path: Path, facts: dict[str, Any]
) -> None:
    with pytest.raises(CheckpointError, match=r"'mean' is said by|'training.steps' must be"):
        save_student(tmp_path, student, CLASSES, facts)
    assert list(tmp_path.iterdir()) == []


def cut_weights(files: StudentFiles) -> str:
    files.weights.write_bytes(files.weights.read_bytes()[:-100])
    return "student.safetensors' is not the file that student.json was saved with (another SHA-256"


def empty_weights(files: StudentFiles) -> str:
    rewrite_weights(files, b"")
    return "student.safetensors' is no safetensors file ("


def pickled_weights(files: StudentFiles) -> str:
    torch.save(load_student(files.weights).student.state_dict(), files.weights)
    rewrite_weights(files, files.weights.read_bytes())
    return "student.safetensors' is no safetensors file ("


def other_width(files: StudentFiles) -> str:
    spec = json.loads(files.facts.read_text())["spec"]
    change(files, spec=spec | {"options": {"width": 0.5}})
    return "does not fit the network that student.json describes: tensor 'network.model.stem.0.weig"


def wrong_option(files: StudentFiles) -> str:
    spec = json.loads(files.facts.read_text())["spec"]
    change(files, spec=spec | {"options": {"depht": 3}})
    return "student.json' describes cannot be built (student.options.depht"


def missing_tensor(files: StudentFiles) -> str:
    tensors = load(files.weights.read_bytes())
    del tensors["network.model.stem.0.weight"]
    rewrite_weights(files, save(tensors))
    return "tensor 'network.model.stem.0.weight' is missing"


def unexpected_tensor(files: StudentFiles) -> str:
    tensors = load(files.weights.read_bytes())
    rewrite_weights(files, save(tensors | {"network.extra": torch.zeros(2)}))
    return "tensor 'network.extra' is not in the network"


def other_mean(files: StudentFiles) -> str:
    change(files, mean=[0.5, 0.5, 0.5])
    return "not [0.5, 0.5, 0.5]"


def rewrite_weights(files: StudentFiles, content: bytes) -> None:
    """Replace the weights and their digest."""
    files.weights.write_bytes(content)
    change(files, weights_sha256=sha256(content).hexdigest())


def cut_facts(files: StudentFiles) -> str:
    files.facts.write_text(files.facts.read_text()[:-100])
    return "student.json' is no JSON ("


def no_format(files: StudentFiles) -> str:
    files.facts.write_text("{}")
    return "student.json' is damaged: key 'format' is missing"


@pytest.mark.parametrize(
    "damage",
    [
        cut_weights,
        empty_weights,
        pickled_weights,
        other_width,
        wrong_option,
        missing_tensor,
        unexpected_tensor,
        other_mean,
        cut_facts,
        no_format,
    ],
)
def test_load_student_says_what_is_damaged_in_one_line(saved: StudentFiles, damage: Any) -> None:
    said = damage(saved)
    with pytest.raises(CheckpointError) as caught:
        load_student(saved.weights)
    assert said in str(caught.value)
    assert str(caught.value).endswith("; copy both files again or train anew")
    assert "\n" not in str(caught.value)


class TestCode:
    """What a student's description names is run only where the user has chosen it."""

    @staticmethod
    def own_network(folder: Path, monkeypatch: pytest.MonkeyPatch) -> StudentFiles:
        """Save a student of a class that lies in `code`, on the path."""
        (folder / "code").mkdir()
        (folder / "code" / "own_networks.py").write_text(
            "from torch import nn\n"
            "class Tiny(nn.Conv2d):\n"
            "    def __init__(self, num_classes):\n"
            "        super().__init__(3, num_classes, 1)\n"
            "def make(num_classes):\n"
            "    raise AssertionError('it ran')\n"
        )
        monkeypatch.syspath_prepend(str(folder / "code"))
        monkeypatch.delitem(sys.modules, "own_networks", raising=False)
        student = build_student("own_networks:Tiny", num_classes=3)
        (folder / "run").mkdir()
        return save_student(folder / "run", student, CLASSES, {})

    def test_a_local_student_may_name_a_class_of_the_users_own(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        files = self.own_network(tmp_path, monkeypatch)
        assert load_student(files.weights)(torch.rand(1, 3, 8, 8)).shape == (1, 3, 8, 8)

    def test_code_in_the_students_folder_needs_consent(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        files = self.own_network(tmp_path, monkeypatch)
        for file in (files.weights, files.facts):
            shutil.copy(file, tmp_path / "code")
        monkeypatch.delitem(sys.modules, "own_networks")
        with pytest.raises(CheckpointError, match="whose code lies in its own folder; read that"):
            load_student(tmp_path / "code")
        assert "own_networks" not in sys.modules
        assert load_student(tmp_path / "code", allow_code=True).facts["parameters"] == 12

    @pytest.mark.parametrize("name", ["own_networks:make", "torch.hub:load", "os:system"])
    def test_only_network_classes_are_called(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        files = self.own_network(tmp_path, monkeypatch)
        spec = json.loads(files.facts.read_text())["spec"]
        change(files, spec=spec | {"name": name})
        with pytest.raises(CheckpointError, match=f"names '{name}', which is no class derived"):
            load_student(files.weights)

    def test_a_class_that_is_not_there_is_named(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        files = self.own_network(tmp_path, monkeypatch)
        spec = json.loads(files.facts.read_text())["spec"]
        ways_out = {
            "nowhere_at_all:Tiny": r"put its folder on PYTHONPATH\)$",
            "own_networks:Tini": "or train anew$",
        }
        for name, way_out in ways_out.items():
            change(files, spec=spec | {"name": name})
            told = rf"cannot be built \((student|module).*{way_out}"
            with pytest.raises(CheckpointError, match=told):
                load_student(files.weights)

    def test_a_transformers_student_needs_only_its_two_files(self, tmp_path: Path) -> None:
        sizes = {"hidden_sizes": [8, 8, 8, 8], "decoder_hidden_size": 8, "depths": [1, 1, 1, 1]}
        config = {"model_type": "segformer", **sizes, "num_attention_heads": [1, 1, 1, 1]}
        student = build_student("owner/model", num_classes=3, options={"config": config}).eval()
        files = save_student(tmp_path, student, CLASSES, {})
        images = torch.rand(1, 3, 32, 64)
        assert torch.equal(load_student(files.weights)(images), student(images).logits)

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            ({}, "does not hold its configuration alone"),
            ({"trust_remote_code": True}, "does not hold its configuration alone"),
            ({"config": {}, "trust_remote_code": True}, "does not hold its configuration alone"),
            ({"config": {"auto_map": {"AutoConfig": "x.Y"}}}, "'auto_map', with which transform"),
            ({"config": {"backbone": [{"trust_remote_code": 1}]}}, "'trust_remote_code', with"),
            ({"config": {"attn_implementation": "owner/kernel"}}, "'attn_implementation', with"),
        ],
    )
    def test_transformers_fetches_no_code(
        self, saved: StudentFiles, options: dict[str, Any], said: str
    ) -> None:
        spec = json.loads(saved.facts.read_text())["spec"]
        change(saved, spec=spec | {"name": "owner/model", "options": options})
        with pytest.raises(CheckpointError, match=said):
            load_student(saved.weights, allow_code=True)
