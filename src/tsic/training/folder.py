"""The files that every training leaves in its folder."""

from pathlib import Path


class TrainingFolder:
    """The files of one training.

    Attributes:
        path: The folder.
        config: The fully resolved configuration.
        last: The checkpoint that an interrupted training goes on from.
        best: The checkpoint of the best validation score.
        report: Scores, curves and pictures on one page.
        metrics: Every logged number.
        samples: Folder of panels of pictures.
        evaluation: Scores of what was trained.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.yaml"
        self.last = path / "checkpoints" / "last.ckpt"
        self.best = path / "checkpoints" / "best.ckpt"
        self.report = path / "report.html"
        self.metrics = path / "metrics.csv"
        self.samples = path / "samples"
        self.evaluation = path / "evaluation.json"


class RunFolder(TrainingFolder):
    """The files of one run.

    Attributes:
        student: What the student that ships is; its weights lie beside it.
        material: What it was trained on: classes, and a digest of the files.
        confusions: The student's pixel counts on every validation image.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.student = path / "student.json"
        self.material = path / "data.json"
        self.confusions = path / "confusions.npz"
