"""A student's model card: the README of its folder on the Hugging Face hub."""

import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tsic.deploy.hub import is_hub
from tsic.files import public_name
from tsic.networks.smp import SMP_NAMES

Json = Mapping[str, Any]

SCORES = ("split", "images", "miou", "pixel_accuracy", "per_class_iou")
"""What is told of an evaluation; scores in percent."""

UNKNOWN = "unknown"
"""What stands where nothing is known."""


@dataclass(frozen=True)
class Card:
    """What a card is made of; what is left out is said to be unknown.

    Args:
        address: What `load_student` is given: ``hf:owner/name`` or a folder.
        facts: What ``student.json`` says.
        evaluation: The run's ``evaluation.json``.
        config: The run's ``config.yaml``.
        licence: Identifier of a licence, as the hub lists them.
        data: The user's words on the data.
        exported: Names of exported files in the folder.
    """

    address: str
    facts: Json
    evaluation: Json = field(default_factory=dict)
    config: Json = field(default_factory=dict)
    licence: str | None = None
    data: str | None = None
    exported: Sequence[str] = ()

    @property
    def name(self) -> str:
        """What the card is headed with."""
        return self.address.partition("/")[2] if is_hub(self.address) else Path(self.address).name

    def to_markdown(self) -> str:
        """Write the card: YAML front matter, then Markdown."""
        sections = [self._head(), self._model(), self._training(), self._scores(), self._use()]
        return f"{self._front_matter()}\n" + "\n\n".join(sections) + "\n"

    def _front_matter(self) -> str:
        """What the hub lists the model by."""
        spec = self.facts["spec"]
        values: dict[str, Any] = {
            "library_name": "tsic",
            "pipeline_tag": "image-segmentation",
            "tags": ["semantic-segmentation", "tsic", public_name(spec["name"])],
        }
        if self.licence:
            values["license"] = self.licence
        return f"---\n{yaml.safe_dump(values, sort_keys=False, allow_unicode=True)}---"

    def _head(self) -> str:
        count = len(self.facts["classes"]["names"])
        return (
            f"# {_plain(self.name)}\n\nA light network that gives every pixel of an image one of "
            f"{count} classes."
        )

    def _model(self) -> str:
        spec, classes = self.facts["spec"], self.facts["classes"]
        resize = self.facts.get("resize")
        rows = {
            "network": architecture(spec),
            "parameters": _counted(self.facts.get("parameters")),
            "input": "RGB in [0, 1], any height and width; the network normalises for itself",
            "resized inside to": f"{by(resize)} px" if resize else "its own size",
            "saved": self.facts.get("saved_at") or UNKNOWN,
            "versions": ", ".join(f"{k} {v}" for k, v in self.facts["versions"].items()),
            "SHA-256 of the weights": self.facts.get("weights_sha256") or UNKNOWN,
            "licence": self.licence or UNKNOWN,
        }
        colours = [hex_colour(colour) for colour in classes["palette"]]
        names = [
            f"| {i} | {_plain(name)} | {colour} |"
            for i, (name, colour) in enumerate(zip(classes["names"], colours, strict=True))
        ]
        table = ["| id | class | colour |", "|---:|---|---|", *names]
        return "\n".join(["## Model", "", *_table(rows), "", *table])

    def _training(self) -> str:
        training = self.facts.get("training") or {}
        data = mapping(self.config.get("data"))
        teacher = training.get("teacher") or mapping(self.config.get("teacher")).get("name")
        crop = training.get("crop") or data.get("crop")
        unlabelled = training.get("unlabelled_images")
        rows = {
            "data": self.data or _first(training.get("data"), _reader(data)),
            "training split": _first(training.get("train_split"), data.get("train_split")),
            **({"images without labels": f"{unlabelled:,}"} if unlabelled else {}),
            "recipe": _first(training.get("recipe"), self.config.get("recipe")),
            "teacher": public_name(teacher) if teacher else UNKNOWN,
            "seed": _first(training.get("seed"), self.config.get("seed")),
            "steps": _first(training.get("steps"), self.config.get("max_steps")),
            "images per step": _first(data.get("batch_size")),
            "crop": f"{by(crop)} px" if crop else UNKNOWN,
        }
        return "\n".join(["## Training", "", *_table(rows)])

    def _scores(self) -> str:
        scores = measured(self.facts, self.evaluation)
        if not scores:
            return "## Measured\n\nUnknown: no scores came with this student."
        rows = {
            "split": _first(scores.get("split")),
            "images": _first(scores.get("images")),
            "mIoU": percent(scores.get("miou")),
            "pixel accuracy": percent(scores.get("pixel_accuracy")),
        }
        told = "In percent, of this one student: other seeds give other numbers."
        lines = ["## Measured", "", told, "", *_table(rows)]
        per_class = scores.get("per_class_iou")
        if not per_class:
            return "\n".join([*lines, "", "IoU of each class: unknown."])
        ious = [f"| {_plain(name)} | {percent(iou, '-')} |" for name, iou in per_class.items()]
        return "\n".join([*lines, "", "| class | IoU % |", "|---|---:|", *ious])

    def _use(self) -> str:
        lines = [
            "## Use",
            "",
            "```python",
            "import tsic",
            "",
            f'student = tsic.load_student("{self.address}")',
            'labels = student.predict("image.jpg")  # class ids, (height, width)',
            "```",
            "",
            f"    tsic predict {shlex.quote(self.address)} image.jpg --out labels",
        ]
        if self.exported:
            lines += ["", f"Exported files: {', '.join(f'`{name}`' for name in self.exported)}."]
        return "\n".join(lines)


def measured(facts: Json, evaluation: Json) -> dict[str, Any]:
    """The student's scores: its own, or those of its run if they are of the same weights.

    Args:
        facts: What ``student.json`` says.
        evaluation: What the run's ``evaluation.json`` says.

    Returns:
        ``split``, ``images``, ``miou``, ``pixel_accuracy``, ``per_class_iou``, as far as known;
        percent.
    """
    told = mapping(facts.get("training")).get("val_miou")
    found: Json = mapping(facts.get("scores"))
    if not found and (told is None or told == evaluation.get("miou")):
        found = evaluation
    if not found and told is not None:
        found = {"miou": told}
    return {key: found[key] for key in SCORES if key in found}


def read_run(folder: Path) -> tuple[Json, Json]:
    """The run's ``evaluation.json`` and ``config.yaml``; empty where there is no readable one.

    Args:
        folder: Where the student lies.
    """
    found = []
    parsers: tuple[tuple[str, Callable[[str], object]], ...] = (
        ("evaluation.json", json.loads),
        ("config.yaml", yaml.safe_load),
    )
    for name, parse in parsers:
        try:
            found.append(mapping(parse((folder / name).read_text(encoding="utf-8"))))
        except (OSError, ValueError, yaml.YAMLError):
            found.append({})
    return found[0], found[1]


def architecture(spec: Json) -> str:
    """The network in a few words."""
    name = public_name(spec["name"])
    stride = f", encoder stride {spec['output_stride']}" if spec["output_stride"] else ""
    return f"{name} on {spec['encoder']}{stride}" if spec["name"] in SMP_NAMES else name


def _reader(data: Json) -> str | None:
    return f"tsic's reader `{data['name']}`" if data.get("name") else None


def _table(rows: Mapping[str, object]) -> list[str]:
    return ["| | |", "|---|---|", *(f"| {key} | {_plain(value)} |" for key, value in rows.items())]


def _plain(value: object) -> str:
    """A value that stays in its cell."""
    return " ".join(str(value).split()).replace("|", "\\|")


def _first(*values: object) -> object:
    """The first that is known."""
    return next((value for value in values if value is not None), UNKNOWN)


def mapping(value: object) -> dict[str, Any]:
    """What a user's file holds, or nothing where it holds something else."""
    return value if isinstance(value, dict) else {}


def percent(value: object, missing: str = UNKNOWN) -> str:
    """A score, if it is known."""
    return f"{value:.2f}" if isinstance(value, int | float) else missing


def _counted(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else UNKNOWN


def by(size: Sequence[int]) -> str:
    """Height and width, ``180x240``."""
    return "x".join(map(str, size))


def hex_colour(colour: Sequence[int]) -> str:
    """Red, green and blue, ``#804080``."""
    return "#{:02x}{:02x}{:02x}".format(*colour)
