"""Names on the hub, and what is said when it does not give what was asked for; no network."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub import errors

from tsic.checkpoint import load_student, save_student
from tsic.data.classes import ClassTable
from tsic.deploy.hub import ZOO, HubAddress, fetch_student, is_hub, parse_address, send_folder
from tsic.deploy.model import is_exported
from tsic.errors import CheckpointError, ConfigError
from tsic.student import build_student

CLASSES = ClassTable.from_names(("ground", "square", "disc"))


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that plays the hub; its repositories lie in it by owner and name."""
    root = tmp_path / "hub"

    def create_repo(repo_id: str, *, private: bool | None, exist_ok: bool) -> None:
        (root / repo_id).mkdir(parents=True, exist_ok=exist_ok)
        (root / "private.json").write_text(json.dumps(private))

    def upload_folder(*, repo_id: str, folder_path: Path, **_: object) -> Any:
        shutil.copytree(folder_path, root / repo_id, dirs_exist_ok=True)
        return SimpleNamespace(commit_url=f"hub/{repo_id}/commit/1")

    def snapshot_download(repo_id: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        cache = tmp_path / "cache" / repo_id / (revision or "main")
        cache.mkdir(parents=True, exist_ok=True)
        for name in allow_patterns:
            if (root / repo_id / name).is_file():
                shutil.copy(root / repo_id / name, cache)
        return str(cache)

    for function in (create_repo, upload_folder, snapshot_download):
        monkeypatch.setattr(huggingface_hub, function.__name__, function)
    return root


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    student = build_student("compact", num_classes=3, options={"width": 0.25})
    save_student(tmp_path, student, CLASSES, {"training": {"seed": 5}})
    sent = tmp_path / "sent"
    sent.mkdir()
    for name in ("student.json", "student.safetensors"):
        shutil.move(tmp_path / name, sent / name)
    return sent


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("hf:owner/name", HubAddress("owner/name")),
        ("hf:an-owner/na.me_2@v1.0", HubAddress("an-owner/na.me_2", "v1.0")),
        ("hf:owner/name@refs/pr/1", HubAddress("owner/name", "refs/pr/1")),
    ],
)
def test_addresses_are_read_and_written(text: str, address: HubAddress) -> None:
    assert parse_address(text) == address
    assert parse_address(Path(text)) == address  # what a command line's path makes of it
    assert str(address) == text


@pytest.mark.parametrize(
    "text", ["hf:", "hf:name", "hf:a/b/c", "hf:a/b@", "hf:a b/c", "a/b", "hf:../x"]
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="is no name on the hub; write hf:owner/name"):
        parse_address(text)


def test_only_names_with_the_prefix_are_on_the_hub() -> None:
    assert is_hub("hf:owner/name")
    assert is_hub(Path("hf:owner/name"))
    assert not is_hub("owner/name")
    assert not is_hub("runs/hf:x")
    assert is_exported("runs/hf:x/student.onnx")
    assert not is_exported("hf:owner/student.onnx"), "a name, whatever its end"


def test_what_was_sent_is_loaded_again(hub: Path, folder: Path) -> None:
    (folder / "README.md").write_text("card")
    assert send_folder(folder, "hf:owner/name", private=True) == "hub/owner/name/commit/1"
    assert json.loads((hub / "private.json").read_text()) is True
    assert (hub / "owner/name/README.md").read_text() == "card"
    image = torch.rand(1, 3, 32, 48)
    expected = load_student(folder)(image)
    for text in ("hf:owner/name", Path("hf:owner/name"), "hf:owner/name@v1"):
        loaded = load_student(text)
        assert torch.equal(loaded(image), expected)
        assert loaded.facts["training"]["seed"] == 5


def test_only_the_two_files_are_fetched(hub: Path, folder: Path) -> None:
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04")
    send_folder(folder, "hf:owner/name")
    assert json.loads((hub / "private.json").read_text()) is None, "as the owner has set it"
    fetched = fetch_student("hf:owner/name")
    assert sorted(one.name for one in fetched.iterdir()) == ["student.json", "student.safetensors"]


def test_a_repository_without_a_student_says_so(hub: Path) -> None:
    message = "'hf:owner/name' holds no student.safetensors; give a repository that `tsic push`"
    with pytest.raises(CheckpointError, match=message):
        load_student("hf:owner/name")


def test_a_student_of_the_hub_names_no_code(
    hub: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def imported(name: str) -> None:
        raise AssertionError(f"{name} was imported")

    facts = json.loads((folder / "student.json").read_text())
    facts["spec"]["name"] = "my_networks:Tiny"
    (folder / "student.json").write_text(json.dumps(facts))
    send_folder(folder, "hf:owner/name")
    monkeypatch.setattr("importlib.import_module", imported)
    message = "from the hub names the class 'my_networks:Tiny', whose code would run; read that"
    with pytest.raises(CheckpointError, match=message):
        load_student("hf:owner/name")


def test_a_student_of_the_zoo_is_loaded_by_name(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.rename(tmp_path / "small")
    monkeypatch.setattr("tsic.deploy.hub.ZOO", tmp_path)
    assert load_student("zoo:small").facts["training"] == {"seed": 5}
    with pytest.raises(ConfigError, match="did you mean 'small'"):
        load_student("zoo:smal")


@pytest.mark.parametrize("name", sorted(file.parent.name for file in ZOO.glob("*/student.json")))
def test_what_ships_is_small_and_whole(name: str) -> None:
    sizes = {file.name: file.stat().st_size for file in (ZOO / name).iterdir()}
    assert set(sizes) == {
        "README.md",
        "config.yaml",
        "metrics.csv",
        "student.json",
        "student.safetensors",
    }
    assert sum(sizes.values()) <= 8 * 2**20
    assert f"zoo:{name}" in (ZOO / name / "README.md").read_text()
    student = load_student(f"zoo:{name}")
    labels = student.predict(torch.zeros(3, 48, 64, dtype=torch.uint8))
    assert labels.shape == (48, 64)


def test_a_push_goes_to_the_main_branch(hub: Path, folder: Path) -> None:
    with pytest.raises(ConfigError, match="names a revision; push to hf:owner/name"):
        send_folder(folder, "hf:owner/name@v1")


def answer(status: int) -> Any:
    return SimpleNamespace(status_code=status, headers={}, request=None)


REFUSALS = [
    (errors.OfflineModeIsEnabled("no"), "the hub is out of reach"),
    (errors.LocalEntryNotFoundError("no\nno"), "the hub is out of reach"),
    (ConnectionResetError("no"), "the hub is out of reach"),
    (errors.RevisionNotFoundError("no", response=answer(404)), "no such revision"),
    (errors.RepositoryNotFoundError("no", response=answer(404)), "no such repository that you may"),
    (errors.GatedRepoError("no", response=answer(403)), "owner has to grant access"),
    (errors.HfHubHTTPError("no", response=answer(401)), "log in with `hf auth login`"),
    (errors.HfHubHTTPError("busy\nlater", response=answer(500)), r"\(busy\); check the name"),
]


@pytest.mark.parametrize(("error", "said"), REFUSALS, ids=lambda one: type(one).__name__)
def test_every_refusal_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, folder: Path, error: Exception, said: str
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    monkeypatch.setattr(huggingface_hub, "create_repo", refuse)
    with pytest.raises(CheckpointError, match=said) as caught:
        load_student("hf:owner/name@v2")
    assert "'hf:owner/name@v2' cannot be fetched" in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(CheckpointError, match=said) as caught:
        send_folder(folder, "hf:owner/name")
    assert "nothing was pushed to 'hf:owner/name'" in str(caught.value)


def test_without_a_connection_the_real_client_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tests run with HF_HUB_OFFLINE; the cache is empty."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(CheckpointError, match="the hub is out of reach and its cache does not"):
        load_student("hf:owner/name")
