"""The module that is exported: a student with what surrounds it on a device."""

import json
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tsic.checkpoint import TrainedStudent
from tsic.errors import CheckpointError, ConfigError, nearest
from tsic.grid import Size, fit_to_image, size_of

METADATA_FORMAT = 1
"""Version of the metadata that exported files carry."""

_KEYS = frozenset(
    {
        *("classes", "palette", "input", "mean", "std", "size", "batch"),
        *("multiple", "minimum", "resize", "output", "precision"),
    }
)
"""What metadata must say for a file to be used."""

InputKind = Literal["float", "uint8", "normalised"]
"""RGB in [0, 1], RGB bytes, or RGB with the mean taken off and divided by the deviation."""

OutputKind = Literal["scores", "labels"]
"""Class scores, float32 ``(B, K, h, w)``, or class ids of every pixel, uint8 ``(B, H, W)``."""


@dataclass(frozen=True)
class Layout:
    """What an exported graph takes and gives.

    Args:
        size: Height and width of its images, in pixels; ``None`` leaves them free.
        batch: Images at a time; ``None`` leaves their number free.
        input: What its images hold.
        resize: Height and width that the graph resizes its images to for the network; ``None``
            for the size that the training resized them to, or none if it did not.
        output: What it answers with.

    Raises:
        ConfigError: If a number is not positive or a word is unknown.
    """

    size: Size | None = None
    batch: int | None = 1
    input: InputKind = "float"
    resize: Size | None = None
    output: OutputKind = "scores"

    def __post_init__(self) -> None:
        for key, side in (("size", self.size), ("resize", self.resize)):
            if side is not None and (isinstance(side, int) or len(side) != 2 or min(side) < 1):
                raise ConfigError(f"{key} must be two numbers of at least 1, got {side}")
        if self.batch is not None and self.batch < 1:
            raise ConfigError(f"batch must be at least 1, or free, got {self.batch}")
        for key, value, kinds in (
            ("input", self.input, get_args(InputKind)),
            ("output", self.output, get_args(OutputKind)),
        ):
            if value not in kinds:
                raise ConfigError(f"{key} '{value}' is unknown; {nearest(value, kinds)}")


class DeployGraph(nn.Module):
    """A student as one function from a batch of images to scores or labels.

    Where height and width are free, its images' sides must be multiples of `multiple` and at
    least `minimum`: whoever calls pads them with the mean colour and cuts the answer. A fixed
    size is padded inside, as `Student` does, and so is what the graph resizes to.

    Args:
        trained: The student.
        layout: What the graph takes and gives.

    Attributes:
        resize: Height and width that images are resized to for the network, inside unless they
            have that size; ``None`` for none.
        multiple: Sides must be multiples of it where they are free, in pixels.
        minimum: Smallest side where they are free, in pixels.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, trained: TrainedStudent, layout: Layout) -> None:
        super().__init__()
        student = trained.student
        self.layout = layout
        self.resize = layout.resize or trained.resize
        self.network = student.network
        self.register_buffer("mean", student.mean.clone())
        self.register_buffer("std", student.std.clone())
        multiple, minimum = student.network.size_multiple, student.network.minimum_px
        self._shown = self.resize or layout.size
        self._padded: Size | None = None
        if self._shown is not None:
            rows, columns = (max(-(-side // multiple) * multiple, minimum) for side in self._shown)
            self._padded = (rows, columns)
            multiple = minimum = 1
        self.multiple = multiple
        self.minimum = max(-(-minimum // multiple) * multiple, multiple)
        self.eval()

    def forward(self, image: Tensor) -> Tensor:
        """Score a batch.

        Args:
            image: ``(B, 3, H, W)``, uint8 or float32 as the layout says.

        Returns:
            Scores, float32 ``(B, K, h, w)`` on a grid that covers the images, or labels, uint8
            ``(B, H, W)``.
        """
        size = size_of(image)
        if self.layout.input == "uint8":
            image = image.float() / 255
        shown = image
        if self.resize and self.resize != self.layout.size:
            shown = F.interpolate(
                image, size=self.resize, mode="bilinear", align_corners=False, antialias=True
            )
        if self.layout.input != "normalised":
            shown = (shown - self.mean) / self.std
        scores = self._scores(shown)
        if self.layout.output == "scores":
            return scores
        scores = F.interpolate(scores, size=size, mode="bilinear", align_corners=False)
        return scores.argmax(1).to(torch.uint8)

    def _scores(self, normalised: Tensor) -> Tensor:
        """Run the network; a size that is known here is padded and cut."""
        if self._padded is None or self._shown is None:
            return self.network(normalised)[0]
        below, right = (p - s for p, s in zip(self._padded, self._shown, strict=True))
        if below or right:
            normalised = F.pad(normalised, (0, right, 0, below))
        return fit_to_image(self.network(normalised)[0], self._padded, self._shown)

    def capture(self) -> torch.export.ExportedProgram:
        """Trace the graph with torch.export, with the layout's free dimensions."""
        free = {"image": self._free_dimensions()}
        with torch.no_grad():
            return torch.export.export(self, (self._example(),), dynamic_shapes=free)

    def _example(self) -> Tensor:
        """An image batch that the graph takes, to trace it with."""
        # No free side is 1 and no two are equal, so that the tracer takes none for a constant.
        batch = self.layout.batch or 2
        cells = -(-max(self.minimum, 32) // self.multiple)
        sides = self.layout.size or ((cells + 1) * self.multiple, (cells + 2) * self.multiple)
        dtype = torch.uint8 if self.layout.input == "uint8" else torch.float32
        return torch.zeros(batch, 3, *sides, dtype=dtype)

    def _free_dimensions(self) -> dict[int, Any]:
        """Axes of its images that are free, as torch.export names them."""
        free: dict[int, Any] = {}
        if self.layout.batch is None:
            free[0] = torch.export.Dim("batch", min=1)
        if self.layout.size is None:
            least = self.minimum // self.multiple
            for axis, name in ((2, "rows"), (3, "columns")):
                free[axis] = self.multiple * torch.export.Dim(name, min=least)
        return free


def describe(trained: TrainedStudent, graph: DeployGraph) -> str:
    """Metadata of a float32 file: all that a program needs to use it, as JSON.

    Args:
        trained: The student.
        graph: Its graph.

    Returns:
        A JSON object with the keys that ``docs/export.md`` lists.
    """
    return json.dumps(
        {
            "format": METADATA_FORMAT,
            "version": version("tsic"),
            "classes": list(trained.classes.names),
            "palette": [list(colour) for colour in trained.classes.palette],
            "input": graph.layout.input,
            "mean": graph.mean.flatten().tolist(),
            "std": graph.std.flatten().tolist(),
            "size": graph.layout.size,
            "batch": graph.layout.batch,
            "multiple": graph.multiple,
            "minimum": graph.minimum,
            "resize": graph.resize,
            "output": graph.layout.output,
            "precision": "fp32",
            "spec": trained.student.spec.deployed().to_dict(),
            "weights_sha256": trained.facts.get("weights_sha256"),
        }
    )


def read_metadata(path: Path, text: str | None) -> dict[str, Any]:
    """Read what `describe` wrote into a file.

    Args:
        path: The file, for messages.
        text: Its metadata; ``None`` if it has none of ours.

    Returns:
        The JSON object.

    Raises:
        CheckpointError: If it is missing, damaged or of a newer format.
    """
    if text is None:
        raise CheckpointError(
            f"'{path}' holds no metadata of tsic; open only files that tsic export wrote"
        )
    try:
        metadata: dict[str, Any] = json.loads(text)
        newer = metadata["format"] > METADATA_FORMAT
        missing = () if newer else _KEYS - metadata.keys()
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"'{path}' holds damaged metadata; export the student again"
        ) from error
    if newer:
        raise CheckpointError(
            f"'{path}' has format {metadata['format']}, newer than this tsic reads "
            f"({METADATA_FORMAT}); upgrade tsic"
        )
    if missing:
        raise CheckpointError(
            f"'{path}' holds damaged metadata ({min(missing)} is missing); export the student again"
        )
    return metadata
