"""A trained student on disk: weights in safetensors, everything else in JSON beside them."""

import json
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from tsic.data.classes import ClassTable
from tsic.errors import CheckpointError, TsicError
from tsic.files import replacing, write_text
from tsic.grid import Size, resize_images
from tsic.metrics import to_labels
from tsic.student import Student, StudentSpec, build_student

FORMAT = 1


@dataclass(frozen=True)
class StudentFiles:
    """Where a student lies: ``student.safetensors`` and ``student.json`` of one folder."""

    weights: Path
    facts: Path


class TrainedStudent(nn.Module):
    """A student with its classes, ready to answer.

    Args:
        student: Network with trained weights.
        classes: Names and colours of its classes.
        facts: What ``student.json`` says.
    """

    def __init__(self, student: Student, classes: ClassTable, facts: dict[str, Any]) -> None:
        super().__init__()
        self.student = student
        self.classes = classes
        self.facts = facts
        resize = facts.get("resize")
        self.view: Size | None = (resize[0], resize[1]) if resize else None

    def forward(self, images: Tensor) -> Tensor:
        """Class scores ``(B, K, h, w)`` of RGB images in [0, 1], ``(B, 3, H, W)``.

        Images are brought to the size that the training resized them to, if it did.
        """
        return self.student(resize_images(images, self.view)).logits

    @torch.inference_mode()
    def predict(self, image: Tensor) -> Tensor:
        """Label every pixel of one image at its own size.

        Args:
            image: RGB, uint8 or float in [0, 1], ``(3, H, W)``.

        Returns:
            Class ids, int64 ``(H, W)``.
        """
        pixels = image.float() / 255 if image.dtype == torch.uint8 else image
        logits = self(pixels[None].to(next(self.parameters()).device))[0]
        return to_labels(logits, (image.shape[-2], image.shape[-1]))


def save_student(
    folder: Path, student: Student, classes: ClassTable, facts: dict[str, Any]
) -> StudentFiles:
    """Write a student so that it can be rebuilt without any training code.

    Args:
        folder: Where to write ``student.safetensors`` and ``student.json``.
        student: Network; its auxiliary head is left out.
        classes: Its classes.
        facts: More to keep in the JSON: training size, step, scores.

    Returns:
        The two paths.
    """
    files = StudentFiles(folder / "student.safetensors", folder / "student.json")
    described = {
        "format": FORMAT,
        "spec": student.spec.deployed().to_dict(),
        "classes": classes.to_dict(),
        "input": {"channels": "RGB", "range": [0, 1]},
        "mean": student.mean.flatten().tolist(),
        "std": student.std.flatten().tolist(),
        "versions": {name: version(name) for name in ("tsic", "torch")},
        **facts,
    }
    state = {name: value.contiguous() for name, value in student.deploy_state_dict().items()}
    with replacing(files.weights) as part:
        part.write_bytes(save(state))  # save_file would make it readable by its owner alone
    write_text(files.facts, json.dumps(described, indent=1))
    return files


def find_student(path: str | Path) -> StudentFiles:
    """Find a student by a run's folder or by either of its two files.

    Raises:
        CheckpointError: If one of the two files is missing.
    """
    path = Path(path)
    folder = path if path.is_dir() else path.parent
    stem = "student" if path.is_dir() else path.stem
    files = StudentFiles(folder / f"{stem}.safetensors", folder / f"{stem}.json")
    missing = [file for file in (files.weights, files.facts) if not file.is_file()]
    if missing:
        raise CheckpointError(
            f"no student at '{path}': {missing[0].name} is missing; give the folder of a finished "
            "run, or a student.safetensors with its student.json beside it"
        )
    return files


def load_student(path: str | Path) -> TrainedStudent:
    """Load a trained student from a run's folder or from its ``student.safetensors``.

    Args:
        path: Folder or file.

    Returns:
        The student in evaluation mode on the CPU.

    Raises:
        CheckpointError: If a file is missing, damaged, from a newer format, or the weights do not
            fit the architecture.
    """
    files = find_student(path)
    try:
        facts = json.loads(files.facts.read_text())
        if facts["format"] > FORMAT:
            raise CheckpointError(
                f"'{files.facts}' has format {facts['format']}, newer than this tsic reads "
                f"({FORMAT}); upgrade tsic"
            )
        classes = ClassTable.from_dict(facts["classes"])
        student = build_student(
            **StudentSpec.from_dict({**facts["spec"], "weights": "none"}).to_dict()
        )
        student.load_state_dict(load_file(files.weights))
    except TsicError:
        raise
    except (ValueError, KeyError, TypeError, RuntimeError, SafetensorError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(
            f"the student at '{path}' cannot be read ({reason}); copy both files "
            "again or train anew"
        ) from error
    return TrainedStudent(student, classes, facts).eval()
