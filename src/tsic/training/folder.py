"""The files that every training leaves in its folder."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class TrainingFolder:
    """The files of one training."""

    path: Path

    @property
    def config(self) -> Path:
        """The fully resolved configuration."""
        return self.path / "config.yaml"

    @property
    def last(self) -> Path:
        """Where an interrupted training goes on from."""
        return self.path / "checkpoints" / "last.ckpt"

    @property
    def best(self) -> Path:
        """The checkpoint of the best validation score."""
        return self.path / "checkpoints" / "best.ckpt"

    @property
    def report(self) -> Path:
        """Scores, curves and pictures on one page."""
        return self.path / "report.html"

    @property
    def metrics(self) -> Path:
        """Every logged number."""
        return self.path / "metrics.csv"

    @property
    def samples(self) -> Path:
        """Panels of pictures."""
        return self.path / "samples"

    @property
    def evaluation(self) -> Path:
        """Scores of what was trained."""
        return self.path / "evaluation.json"


@dataclass(frozen=True)
class RunFolder(TrainingFolder):
    """The files of one run."""

    @property
    def student(self) -> Path:
        """What the student that ships is; its weights lie beside it."""
        return self.path / "student.json"

    @property
    def material(self) -> Path:
        """What it was trained on: classes, and a digest of the files."""
        return self.path / "data.json"

    @property
    def confusions(self) -> Path:
        """The student's pixel counts on every validation image."""
        return self.path / "confusions.npz"
