"""A trained student on disk: weights in safetensors, everything else in JSON beside them."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from tsic.data.classes import ClassTable
from tsic.deploy.consent import require_safe
from tsic.deploy.hub import fetch_student, is_hub, is_name, zoo_names
from tsic.deploy.model import EXPORTED_SUFFIXES, Gives
from tsic.errors import CheckpointError, one_line
from tsic.files import replacing, write_text
from tsic.grid import Size, resize_images
from tsic.model_file import AGAIN, StudentFacts, read_facts
from tsic.student import Student, build_student

if TYPE_CHECKING:
    from tsic.deploy.labelling import AnyImage


@dataclass(frozen=True)
class StudentFiles:
    """Where a student lies: ``student.safetensors`` and ``student.json`` of one folder."""

    weights: Path
    facts: Path


class TrainedStudent(nn.Module):
    """A student with its classes, ready to answer: a `tsic.deploy.model.Model`.

    Args:
        student: Network with trained weights.
        classes: Names and colours of its classes.
        facts: What ``student.json`` says.
    """

    gives: Gives = "scores"
    only_size: Size | None = None
    only_batch: int | None = None

    def __init__(self, student: Student, classes: ClassTable, facts: dict[str, Any]) -> None:
        super().__init__()
        self.student = student
        self.classes = classes
        self.facts = facts
        resize = facts.get("resize")
        self.resize: Size | None = (resize[0], resize[1]) if resize else None

    @property
    def device(self) -> torch.device:
        """Where it wants its images."""
        return next(self.parameters()).device

    def forward(self, images: Tensor) -> Tensor:
        """Class scores ``(B, K, h, w)`` of RGB images in [0, 1], ``(B, 3, H, W)``.

        Images are brought to the size that the training resized them to, if it did.
        """
        return self.student(resize_images(images, self.resize)).logits

    @overload
    def predict(self, images: "AnyImage") -> Tensor: ...
    @overload
    def predict(self, images: list[Any]) -> list[Tensor]: ...
    @torch.inference_mode()
    def predict(self, images: "AnyImage | list[Any]") -> Tensor | list[Tensor]:
        """Label every pixel of one image at its own size, or of each of some; see `label`.

        Args:
            images: A file, a Pillow image, an array RGB uint8 ``(H, W, 3)``, or a tensor RGB, uint8
                or float in [0, 1], ``(3, H, W)``; or a list of these.

        Returns:
            Class ids, int64 ``(H, W)``; a list for a list.
        """
        from tsic.deploy.labelling import label  # which imports what decodes images

        return label(self, images)


def save_student(
    folder: Path, student: Student, classes: ClassTable, facts: dict[str, Any]
) -> StudentFiles:
    """Write a student so that it can be rebuilt without any training code.

    Args:
        folder: Where to write ``student.safetensors`` and ``student.json``.
        student: Network; its auxiliary head is left out.
        classes: Its classes.
        facts: More to keep in the JSON: ``resize``, ``training``, ``scores``, and the caller's own.

    Returns:
        The two paths.

    Raises:
        CheckpointError: If a fact is of the wrong type, or one that the student says itself.
    """
    files = StudentFiles(folder / "student.safetensors", folder / "student.json")
    state = {name: value.contiguous() for name, value in student.deploy_state_dict().items()}
    weights = save(state)  # save_file would make it readable by its owner alone
    described = StudentFacts(
        spec=student.spec.deployed(),
        classes=classes,
        mean=tuple(student.mean.flatten().tolist()),
        std=tuple(student.std.flatten().tolist()),
        versions={name: version(name) for name in ("tsic", "torch")},
        parameters=sum(value.numel() for key, value in student.named_parameters() if key in state),
        weights_sha256=sha256(weights).hexdigest(),
        saved_at=datetime.now(UTC).isoformat(timespec="seconds"),
        more=facts,
    )
    text = json.dumps(described.to_dict(), indent=1)
    StudentFacts.from_dict(json.loads(text))  # what could not be loaded is not written
    with replacing(files.weights) as part:
        part.write_bytes(weights)
    write_text(files.facts, text)
    return files


def find_student(path: str | Path) -> StudentFiles:
    """Find a student by a run's folder, by either of its two files, or by name.

    Args:
        path: Folder, file, ``zoo:name``, or ``hf:owner/name`` (``hf:owner/name@revision``).

    Raises:
        CheckpointError: If it is another kind of file, one of the two files is missing, or the hub
            does not give them.
    """
    path = fetch_student(path) if is_name(path) else Path(path)
    folder = path if path.is_dir() else path.parent
    stem = "student" if path.is_dir() else path.stem
    files = StudentFiles(folder / f"{stem}.safetensors", folder / f"{stem}.json")
    missing = [file for file in (files.weights, files.facts) if not file.is_file()]
    mistaken = _mistaken(path)
    if not mistaken and missing:
        mistaken = (
            f"{missing[0].name} is missing; give the folder of a finished run, or a "
            "student.safetensors with its student.json beside it"
        )
    if mistaken:
        raise CheckpointError(f"no student at '{path}': {mistaken}")
    return files


def _mistaken(path: Path) -> str | None:
    """Say what a path is taken for, if that can be told, and the way out."""
    if not path.exists() and str(path) in zoo_names():
        return f"there is no such path; did you mean 'zoo:{path}'?"
    if not path.exists():
        return "there is no such file or folder"
    suffix = path.suffix.lower()
    if not path.is_file() or suffix in (".safetensors", ".json"):
        return None
    if suffix in EXPORTED_SUFFIXES:
        return "it is an exported file; give the student that it was exported from"
    if suffix == ".ckpt":
        return "it is a checkpoint of a training; give the run's folder, in which it lies"
    return "it is another kind of file; name the model first, then what it is to work on"


def read_weights(files: StudentFiles, facts: StudentFacts) -> tuple[dict[str, Tensor], str]:
    """Read a student's weights without building its network.

    Args:
        files: Its two files.
        facts: What the JSON says.

    Returns:
        The tensors by name, and the SHA-256 of their file.

    Raises:
        CheckpointError: If the file is damaged, or another than the JSON was saved with.
    """
    try:
        content = files.weights.read_bytes()
    except OSError as error:
        raise CheckpointError(f"'{files.weights}' cannot be read: {error.strerror}") from error
    digest = sha256(content).hexdigest()
    if facts.weights_sha256 not in (None, digest):
        raise CheckpointError(
            f"'{files.weights}' is not the file that {files.facts.name} was saved with (another "
            f"SHA-256); {AGAIN}"
        )
    try:
        return load(content), digest
    except SafetensorError as error:
        raise CheckpointError(
            f"'{files.weights}' is no safetensors file ({one_line(error)}); {AGAIN}"
        ) from error


def load_student(path: str | Path, *, allow_code: bool = False) -> TrainedStudent:
    """Load a trained student from a run's folder, its ``student.safetensors`` or the hub.

    Nothing in the files is executed: weights are safetensors, the rest is JSON.

    Args:
        path: Folder, file, ``zoo:name``, or ``hf:owner/name`` (``hf:owner/name@revision``).
        allow_code: Whether the network may be any class whose import path the file names. Without
            it, a local file may name a class of your own that derives from ``torch.nn.Module``,
            and one from the hub none.

    Returns:
        The student in evaluation mode on the CPU, in float32.

    Raises:
        CheckpointError: If a file is missing, damaged, from a newer format or would run code, or
            the weights do not fit the architecture.
    """
    files = find_student(path)
    facts = read_facts(files.facts)
    require_safe(facts.spec, files.facts.parent, is_local=not is_hub(path), allow_code=allow_code)
    tensors, digest = read_weights(files, facts)
    try:
        student = build_student(**facts.spec.to_dict()).float()  # whatever PyTorch's default type
    except (AttributeError, LookupError, OSError, RuntimeError, TypeError, ValueError) as error:
        # A class that is not on the path says so itself.
        more = "" if isinstance(error.__cause__, ImportError) else f"; {AGAIN}"
        raise CheckpointError(
            f"the network that '{files.facts}' describes cannot be built ({one_line(error)}){more}"
        ) from error
    misfit = _misfit(student.state_dict(), tensors, facts)
    if misfit:
        raise CheckpointError(
            f"'{files.weights}' does not fit the network that {files.facts.name} describes: "
            f"{misfit}; {AGAIN}"
        )
    student.load_state_dict(tensors)
    count = sum(value.numel() for value in student.parameters())
    complete = replace(facts, parameters=count, weights_sha256=digest)
    return TrainedStudent(student, facts.classes, complete.to_dict()).eval()


def _misfit(
    expected: Mapping[str, Tensor], found: Mapping[str, Tensor], facts: StudentFacts
) -> str | None:
    """Say which tensor is the first that does not fit, or that the two files do not."""
    for name, tensor in expected.items():
        if name not in found:
            return f"tensor '{name}' is missing"
        if found[name].shape != tensor.shape:
            return f"tensor '{name}' is {_shape(found[name])}, not {_shape(tensor)}"
    for name in found:
        if name not in expected:
            return f"tensor '{name}' is not in the network"
    for name, said in (("mean", facts.mean), ("std", facts.std)):
        told = torch.tensor(said, dtype=torch.float32)
        if not torch.allclose(found[name].flatten().float(), told):
            return f"'{name}' is {found[name].flatten().tolist()}, not {list(said)}"
    return None


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "one number"
