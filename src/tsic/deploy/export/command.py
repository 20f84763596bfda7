"""`tsic export`: write a student for other engines, each file proven."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tsic.command_line import Parser, add_allow_code, make_room, require_least
from tsic.config_file import load_config
from tsic.errors import ConfigError, TsicError
from tsic.progress import progress
from tsic.streams import tell

if TYPE_CHECKING:
    from tsic.checkpoint import TrainedStudent
    from tsic.data.dataset import SegmentationDataset
    from tsic.deploy.export.proof import Images

# PyTorch is imported inside the verb, once the words are right.

CALIBRATION_IMAGES = 128
"""Most images that int8 ranges are chosen on."""

DRAWN_SIZE = (256, 512)
"""Height and width of drawn scenes, in pixels, where no size is fixed."""


def _parser() -> Parser:
    own = Parser(
        prog="tsic export",
        description="Write a student for other engines; each file is loaded again and compared "
        "with PyTorch on real images before it is kept.",
    )
    own.add_argument(
        "student",
        metavar="STUDENT",
        help="a run's folder, a student.safetensors, zoo:name, or hf:owner/name",
    )
    own.add_argument(
        "--format", nargs="+", dest="formats", default=["onnx"], metavar="FORMAT",
        help="any of onnx, openvino, torch, executorch, litert; by default onnx",
    )  # fmt: skip
    own.add_argument("--out", type=Path, metavar="DIR", help="by default `exported` beside it")
    add_allow_code(own)
    graph = own.add_argument_group("the graph")
    graph.add_argument(
        "--size", nargs=2, type=int, metavar=("H", "W"),
        help="fix height and width; by default they are free",
    )  # fmt: skip
    graph.add_argument("--batch", default="1", metavar="N", help="images at a time, or `free`")
    graph.add_argument(
        "--input", default="float", metavar="KIND",
        help="float (RGB in [0, 1]), uint8 (RGB bytes) or normalised; by default float",
    )  # fmt: skip
    graph.add_argument(
        "--resize",
        nargs=2,
        type=int,
        metavar=("H", "W"),
        help="resize inside the graph; by default as the training did",
    )
    graph.add_argument(
        "--output", default="scores", metavar="KIND",
        help="scores, or labels (class ids at the images' size); by default scores",
    )  # fmt: skip
    _add_proof(own.add_argument_group("the proof"))
    int8 = own.add_argument_group("int8")
    int8.add_argument("--int8", action="store_true", help="also write onnx and openvino in int8")
    int8.add_argument(
        "--calibration", type=Path, metavar="DIR", help="images to choose int8 ranges on"
    )
    int8.add_argument(
        "--max-drop", type=float, default=1.0, metavar="POINTS",
        help="mIoU that int8 may lose (label agreement without labels); by default 1.0",
    )  # fmt: skip
    return own


def _add_proof(group: Any) -> None:
    """What to compare on, and how exactly."""
    group.add_argument("--images", type=Path, metavar="DIR", help="your images, without labels")
    group.add_argument("--data.name", dest="name", help="reader of labelled images")
    group.add_argument("--data.root", dest="root", help="folder of labelled images")
    group.add_argument("--data.split", dest="split", help="split; by default the run's, or val")
    group.add_argument("--data.classes", dest="classes", help="classes YAML of a `folder` dataset")
    group.add_argument("--max-images", type=int, default=100, metavar="N", help="by default 100")
    group.add_argument(
        "--tolerance", type=float, default=1e-3, metavar="SHARE",
        help="largest difference of float scores, of the largest score; by default 0.001",
    )  # fmt: skip


def export_command(words: Sequence[str]) -> int:
    """Export a student and print how far each file agrees with PyTorch."""
    options = _parser().parse_args(list(words))
    _check(options)
    from tsic.checkpoint import find_student, load_student
    from tsic.deploy.export.export import Limits, export
    from tsic.deploy.export.graph import Layout
    from tsic.deploy.export.proof import images_in

    trained = load_student(options.student, allow_code=options.allow_code)
    home = find_student(options.student).weights.parent
    layout = Layout(
        size=tuple(options.size) if options.size else None,
        batch=_batch(options.batch),
        input=options.input,
        resize=tuple(options.resize) if options.resize else None,
        output=options.output,
    )
    out = _out(options, home)
    images = _images(options, trained, home, layout.size or DRAWN_SIZE)
    calibration = images_in(options.calibration, CALIBRATION_IMAGES) if options.int8 else None
    with progress("export") as on_progress:
        written = export(
            trained,
            out,
            list(dict.fromkeys(options.formats)),
            layout,
            images,
            calibration=calibration,
            limits=Limits(options.tolerance, max_drop=options.max_drop),
            on_progress=on_progress,
        )
    sys.stdout.write(f"compared with PyTorch on {images.count} images: {images.source}\n")
    for one in written:
        sys.stdout.write(f"{one.path}: {one.agreement}\n")
    return 0


def _check(options: argparse.Namespace) -> None:
    """Refuse words that do not go together."""
    if options.int8 and options.calibration is None:
        raise ConfigError("--int8 needs images like those it will see; give --calibration DIR")
    if options.calibration and not options.int8:
        raise ConfigError("--calibration is for --int8; add it or leave --calibration out")
    if options.images and (options.name or options.root or options.split or options.classes):
        raise ConfigError("--images and --data.root contradict each other; give one of them")
    if (options.root is None) != (options.name is None):
        raise ConfigError("--data.name and --data.root belong together; give both or none")
    if options.classes and options.root is None:
        raise ConfigError("--data.classes is for --data.root; add it or leave the classes out")
    _check_numbers(options)
    for folder, word in ((options.images, "--images"), (options.calibration, "--calibration")):
        if folder and not folder.is_dir():
            raise ConfigError(f"{word} '{folder}' is no folder; name a folder with images")


def _check_numbers(options: argparse.Namespace) -> None:
    """Refuse numbers that cannot be."""
    require_least(options, 1, "max-images")
    for value, word in ((options.tolerance, "--tolerance"), (options.max_drop, "--max-drop")):
        if not value >= 0:
            raise ConfigError(f"{word} must be 0 or more, got {value}")


def _out(options: argparse.Namespace, home: Path) -> Path:
    """Where to write: beside the student, if it is the user's own folder."""
    from tsic.deploy.hub import is_name

    if options.out is None and is_name(options.student):
        raise ConfigError(
            f"'{options.student}' has no folder of yours; say where to write with --out"
        )
    out: Path = options.out or home / "exported"
    make_room(out / "export.json")
    return out


def _batch(word: str) -> int | None:
    if word == "free":
        return None
    try:
        return int(word)
    except ValueError:
        raise ConfigError(f"--batch must be a number or `free`, got '{word}'") from None


def _images(
    options: argparse.Namespace, trained: "TrainedStudent", home: Path, size: tuple[int, int]
) -> "Images":
    """What to compare on: what was said, else the run's validation data, else drawn scenes."""
    from tsic.data.readers import open_dataset
    from tsic.deploy.export.proof import drawn_images, images_in, labelled_images

    if options.images:
        return images_in(options.images, options.max_images)
    if options.root:
        split = options.split or "val"
        dataset = open_dataset(options.name, options.root, split, options.classes)
        if dataset.classes.names != trained.classes.names:
            raise ConfigError(
                f"'{options.root}' has the classes {', '.join(dataset.classes.names)}, but the "
                f"student knows {', '.join(trained.classes.names)}; compare on the same classes"
            )
        return labelled_images(dataset, options.max_images)
    validation = _run_data(home, options.split)
    if validation is not None and validation.classes.names == trained.classes.names:
        return labelled_images(validation, options.max_images)
    if options.split:
        raise ConfigError(
            f"--data.split {options.split} needs --data.root: '{home}' tells of no data of the "
            "student's classes"
        )
    return drawn_images(size, min(options.max_images, 8))


def _run_data(home: Path, split: str | None) -> "SegmentationDataset | None":
    """The run's validation data, if the student lies in a run whose data is at hand."""
    from tsic.data.readers import open_split

    config = home / "config.yaml"
    if not config.is_file():
        return None
    try:
        data = load_config(config).data
    except TsicError as error:
        if split is not None:
            raise
        tell(f"tsic: warning: {error}; so the run's own images are not used\n")
        return None
    try:
        return open_split(data, split or data.val_split)
    except TsicError:
        if split is not None:
            raise
        return None  # moved or deleted since: other images will do
