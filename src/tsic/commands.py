"""The verbs: each parses its words and calls one function."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from typing_extensions import override

from tsic.config_file import load_config, parser
from tsic.errors import ConfigError
from tsic.progress import progress

if TYPE_CHECKING:
    from tsic.data.classes import ClassTable
    from tsic.data.dataset import SegmentationDataset
    from tsic.evaluation import Scorer

# PyTorch, Lightning and transformers are imported inside the verbs, once the words are right.


class Parser(argparse.ArgumentParser):
    """argparse whose mistakes are ours: one sentence, nearest right option."""

    @override
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; see {self.prog} --help")


def _train_parser() -> Parser:
    own = Parser(prog="tsic train", add_help=False, allow_abbrev=False)
    own.add_argument("--config", type=Path, help="YAML file of differences from the defaults")
    own.add_argument("--name", help="the run's name; by default the configuration file's")
    own.add_argument("--out", type=Path, default=Path("runs"), help="folder of runs")
    own.add_argument(
        "--resume",
        choices=["auto", "never"],
        default="never",
        help="auto: go on from the run's last checkpoint if there is one",
    )
    return own


def train_command(words: Sequence[str]) -> int:
    """Train a student; any key of the configuration can follow as ``--key value``."""
    own = _train_parser()
    if any(word in ("-h", "--help") for word in words):
        sys.stdout.write(own.format_help())
        sys.stdout.write("\nEvery key of the configuration, in --config or as --key value:\n\n")
        sys.stdout.write(parser().format_help().split("\n\n", 1)[1])
        return 0
    known, overrides = own.parse_known_args(list(words))
    config = load_config(known.config, overrides)
    name = known.name or (known.config.stem if known.config else "run")
    from tsic.run import train

    result = train(config, known.out / name, resume=known.resume == "auto", label=name)
    sys.stdout.write(f"{result.student.to_table()}\n")
    teacher = f", teacher {result.teacher.miou:.2f}" if result.teacher else ""
    sys.stdout.write(
        f"\nval mIoU: student {result.student.miou:.2f}{teacher}; {result.seconds:.0f} s; "
        f"everything is in {result.folder.path}\n"
    )
    return 0


def _evaluate_parser() -> Parser:
    own = Parser(prog="tsic evaluate", description="Score a student or a run's teacher.")
    own.add_argument("model", type=Path, help="a run's folder, or a student.safetensors")
    own.add_argument("--role", choices=["student", "teacher"], default="student", help="who")
    own.add_argument("--data.name", dest="name", help="reader; by default the run's")
    own.add_argument("--data.root", dest="root", help="the dataset's folder; by default the run's")
    own.add_argument("--data.split", dest="split", help="split; by default the run's val split")
    own.add_argument("--data.classes", dest="classes", help="classes YAML of a `folder` dataset")
    own.add_argument("--checkpoint", choices=["best", "last"], default="best", help="teacher's")
    own.add_argument("--device", help="by default the GPU if there is one")
    own.add_argument("--json", type=Path, metavar="FILE", help="also write the scores as JSON")
    return own


def evaluate_command(words: Sequence[str]) -> int:
    """Score a student or a teacher at the images' own size."""
    options = _evaluate_parser().parse_args(list(words))
    import torch

    from tsic.data.check import require_clean
    from tsic.evaluation import evaluate

    options.device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if options.json:
        make_room(options.json)
    dataset = _evaluation_data(options)
    with progress("check the data") as on_progress:
        require_clean(dataset, on_progress=on_progress)
    score, classes = (_teacher if options.role == "teacher" else _student)(options)
    if classes.names != dataset.classes.names:
        raise ConfigError(
            f"'{options.model}' knows the classes {', '.join(classes.names)}, but "
            f"'{dataset.root}' has {', '.join(dataset.classes.names)}; evaluate on the same classes"
        )
    with progress(f"evaluate {dataset.split}") as on_progress:
        report = evaluate(score, dataset, device=options.device, on_progress=on_progress)
    sys.stdout.write(f"{report.to_table()}\n")
    if options.json:
        report.write_json(options.json)
    return 0


def _evaluation_data(options: argparse.Namespace) -> "SegmentationDataset":
    """The dataset that was asked for; what was not said is as in the run."""
    from tsic.data.readers import open_dataset

    if not options.model.exists():
        raise ConfigError(
            f"'{options.model}' does not exist; give a run's folder or a student.safetensors"
        )
    folder = options.model if options.model.is_dir() else options.model.parent
    config = folder / "config.yaml"
    said = load_config(config).data if config.is_file() else None
    name = options.name or (said.name if said else None)
    root = options.root or (said.root if said else None)
    if name is None or root is None:
        raise ConfigError(f"'{folder}' holds no config.yaml; say --data.name and --data.root")
    same = said is not None and options.name is None and options.root is None
    classes = options.classes or (said.classes if same and said else None)
    return open_dataset(name, root, options.split or (said.val_split if said else "val"), classes)


def _student(options: argparse.Namespace) -> "tuple[Scorer, ClassTable]":
    from tsic.checkpoint import load_student

    trained = load_student(options.model).to(options.device)
    return trained, trained.classes


def _teacher(options: argparse.Namespace) -> "tuple[Scorer, ClassTable]":
    from tsic.build import load_run, scorers

    if not options.model.is_dir():
        raise ConfigError(f"--role teacher needs a run's folder, got the file '{options.model}'")
    module, classes = load_run(options.model, options.checkpoint)
    if module.cycle.teacher is None:
        raise ConfigError(f"the run '{options.model}' has no teacher; leave --role out")
    return scorers(module.to(options.device))["teacher"], classes


def make_room(file: Path) -> None:
    """Make a file's folder before the work starts.

    Raises:
        ConfigError: If it cannot be written there.
    """
    if file.is_dir():
        raise ConfigError(f"'{file}' is a folder; name a file to write")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        reason = None if os.access(file.parent, os.W_OK) else "no permission"
    except OSError as error:
        reason = error.strerror
    if reason:
        raise ConfigError(f"'{file}' cannot be written ({reason}); choose another place")


def demo_command(words: Sequence[str]) -> int:
    """Draw scenes, train alone and in the cycle, report."""
    own = Parser(prog="tsic demo", description="The cycle on drawn street scenes, end to end.")
    own.add_argument("--out", type=Path, default=Path("runs/demo"), help="folder of the demo")
    own.add_argument("--steps", type=int, default=540, help="optimiser steps of each student")
    own.add_argument("--scenes", type=int, default=400, help="training scenes to draw")
    own.add_argument("--seed", type=int, default=0, help="of scenes, weights and batches")
    options = own.parse_args(list(words))
    for name in ("steps", "scenes"):
        if getattr(options, name) < 1:
            raise ConfigError(f"--{name} must be at least 1, got {getattr(options, name)}")
    from tsic.demo import run_demo

    sys.stdout.write(
        run_demo(options.out, steps=options.steps, scenes=options.scenes, seed=options.seed)
    )
    return 0
