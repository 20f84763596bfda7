"""`tsic evaluate`: score a model on labelled images."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tsic.command_line import Parser, add_allow_code, make_room, require_least
from tsic.config_file import load_config
from tsic.errors import ConfigError
from tsic.files import write_json, write_text
from tsic.progress import progress

if TYPE_CHECKING:
    from tsic.data.dataset import SegmentationDataset
    from tsic.deploy.model import Model


def _evaluate_parser() -> Parser:
    own = Parser(
        prog="tsic evaluate",
        description="Score a student, a run's teacher or an exported file on labelled images.",
    )
    own.add_argument(
        "model",
        type=Path,
        help="a run's folder, a student.safetensors, zoo:name, hf:owner/name, or an exported file",
    )
    own.add_argument("--role", choices=["student", "teacher"], default="student", help="who")
    own.add_argument("--checkpoint", choices=["best", "last"], default="best", help="teacher's")
    data = own.add_argument_group("data")
    data.add_argument("--data.name", dest="name", help="reader; by default the run's")
    data.add_argument("--data.root", dest="root", help="the dataset's folder; by default the run's")
    data.add_argument("--data.split", dest="split", help="split; by default the run's val split")
    data.add_argument("--data.classes", dest="classes", help="classes YAML of a `folder` dataset")
    view = own.add_argument_group("how images are shown; by default once")
    view.add_argument("--crop", type=int, nargs=2, metavar=("H", "W"), help="sliding windows of "
                      "this size; by default of images above 4.2 megapixels, 1024 1024 every "
                      "768 768")  # fmt: skip
    view.add_argument(
        "--stride", type=int, nargs=2, metavar=("H", "W"), help="by default two thirds of the crop"
    )
    view.add_argument("--flip", action="store_true", help="average with the mirrored image's")
    view.add_argument(
        "--scales", type=float, nargs="+", default=[1.0], metavar="RATIO", help="averaged ratios"
    )
    scores = own.add_argument_group("scores")
    scores.add_argument("--boundary", action="store_true", help="also boundary IoU")
    scores.add_argument("--trimap", type=int, metavar="PX", help="also IoU within PX of borders")
    scores.add_argument("--json", type=Path, metavar="FILE", help="also write the scores as JSON")
    scores.add_argument("--markdown", type=Path, metavar="FILE", help="also write the table")
    own.add_argument("--device", help="by default the GPU if there is one; exported files: cpu")
    own.add_argument("--threads", type=int, metavar="N", help="CPU threads")
    add_allow_code(own)
    return own


def evaluate_command(words: Sequence[str]) -> int:
    """Score a student, a teacher or an exported file at the images' own size."""
    options = _evaluate_parser().parse_args(list(words))
    require_least(options, 1, "threads", "trimap")
    import torch

    from tsic.data.check import require_clean
    from tsic.deploy.inference import WHOLE, View
    from tsic.evaluation.evaluate import evaluate

    asked = View(options.crop, options.stride, options.flip, options.scales)
    view = None if asked == WHOLE else asked
    if options.threads:
        torch.set_num_threads(options.threads)
    for file in filter(None, (options.json, options.markdown)):
        make_room(file)
    dataset = _evaluation_data(options)
    model = _teacher(options, dataset) if options.role == "teacher" else _open(options, dataset)
    with progress("check the data") as on_progress:
        require_clean(dataset, on_progress=on_progress)
    with progress(f"evaluate {dataset.split}") as on_progress:
        report = evaluate(
            model,
            dataset,
            view=view,
            boundary=options.boundary,
            trimap=options.trimap,
            on_progress=on_progress,
        )
    if options.json:
        write_json(options.json, report.to_dict())
    if options.markdown:
        write_text(options.markdown, f"{report.to_table()}\n")
    sys.stdout.write(f"{report.to_table()}\n")
    return 0


def _evaluation_data(options: argparse.Namespace) -> "SegmentationDataset":
    """The dataset that was asked for; what was not said is as in the run."""
    from tsic.data.readers import open_dataset
    from tsic.deploy.hub import is_name, zoo_names

    is_path = not is_name(options.model)
    if is_path and not options.model.exists():
        meant = f"zoo:{options.model}, " if str(options.model) in zoo_names() else ""
        raise ConfigError(
            f"'{options.model}' does not exist; give {meant}a run's folder, a student.safetensors, "
            "zoo:name, hf:owner/name or an exported file"
        )
    folder = options.model if options.model.is_dir() else options.model.parent
    config = folder / "config.yaml"
    said = load_config(config).data if is_path and config.is_file() else None
    name = options.name or (said.name if said else None)
    root = options.root or (said.root if said else None)
    if name is None or root is None:
        from tsic.deploy.opening import open_model

        open_model(options.model, allow_code=options.allow_code)  # or it says what is wrong with it
        missing = [
            key for key, value in (("--data.name", name), ("--data.root", root)) if value is None
        ]
        raise ConfigError(
            f"'{options.model}' has no config.yaml beside it that tells its data; say "
            f"{' and '.join(missing)}"
        )
    same = said is not None and options.name is None and options.root is None
    classes = options.classes or (said.classes if same and said else None)
    return open_dataset(name, root, options.split or (said.val_split if said else "val"), classes)


def _open(options: argparse.Namespace, dataset: "SegmentationDataset") -> "Model":
    """A student or an exported file that knows the dataset's classes."""
    from tsic.deploy.opening import open_model
    from tsic.evaluation.evaluate import require_same_classes

    model = open_model(
        options.model,
        device=options.device,
        threads=options.threads,
        allow_code=options.allow_code,
    )
    require_same_classes(f"'{options.model}'", model.classes, dataset)
    return model


def _teacher(options: argparse.Namespace, dataset: "SegmentationDataset") -> "Model":
    """A run's teacher that knows the dataset's classes."""
    from tsic.deploy.opening import on_device
    from tsic.evaluation.evaluate import ScorerModel, require_same_classes
    from tsic.training.build import load_run, scorers

    if not options.model.is_dir():
        raise ConfigError(f"--role teacher needs a run's folder, got the file '{options.model}'")
    module, classes = load_run(options.model, options.checkpoint)
    if module.cycle.teacher is None:
        raise ConfigError(f"the run '{options.model}' has no teacher; leave --role out")
    if "teacher" not in scorers(module):
        raise ConfigError(
            f"the {options.checkpoint} checkpoint of '{options.model}' is from before its teacher "
            "joined; try --checkpoint last, or leave --role out"
        )
    require_same_classes(f"'{options.model}'", classes, dataset)
    module = on_device(module, options.device)
    return ScorerModel(scorers(module)["teacher"], dataset, module.device, module.resize)
