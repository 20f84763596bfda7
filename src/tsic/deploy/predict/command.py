"""`tsic predict`: label images, folders and videos."""

import argparse
import errno
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from tsic.command_line import Parser, add_allow_code, make_room, require_least
from tsic.errors import ConfigError
from tsic.progress import progress
from tsic.streams import tell

if TYPE_CHECKING:
    from tsic.deploy.model import Model
    from tsic.deploy.predict.inputs import Input
    from tsic.deploy.predict.plan import Outcome, Plan

# PyTorch is imported inside the functions, once the words are right.


def _parser() -> Parser:
    own = Parser(
        prog="tsic predict",
        description="Label images and videos. NAME.jpg becomes OUT/NAME.png, a palette PNG of "
        "class ids as large as the upright image; NAME.mov becomes OUT/NAME.mp4, with the classes' "
        "colours and a legend. Folders keep their structure.",
        epilog="Exit codes: 0 all is labelled, 1 some files could not be, 2 a mistake in the "
        "command.",
    )
    own.add_argument("model", help="a run's folder, a student.safetensors, zoo:name, hf:owner/name,"
                     " or an exported .onnx, .xml, .pt2, .pte, .tflite")  # fmt: skip
    own.add_argument("inputs", nargs="+", metavar="INPUT", help="image, video, folder, pattern "
                     "such as 'photos/**/*.jpg', or - for a list of paths on stdin")  # fmt: skip
    own.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write")
    own.add_argument("--overlay", action="store_true", help="also OUT/NAME.overlay.jpg, the image "
                     "with the classes' colours")  # fmt: skip
    own.add_argument("--overlay-format", choices=["jpg", "png"], default="jpg", help="of --overlay")
    own.add_argument("--opacity", type=float, default=0.5, help="of the colours, 0 to 1")
    own.add_argument("--probabilities", action="store_true", help="also OUT/NAME.npz, float16 "
                     "probabilities (K, H, W)")  # fmt: skip
    own.add_argument("--coco", type=Path, metavar="FILE", help="also one JSON in COCO's format, a "
                     "compressed RLE for each class of each image")  # fmt: skip
    own.add_argument("--crop", type=int, nargs=2, metavar=("H", "W"), help="label by sliding "
                     "windows of this size; by default images above 4.2 megapixels, by 1024 1024 "
                     "every 768 768")  # fmt: skip
    own.add_argument("--stride", type=int, nargs=2, metavar=("H", "W"), help="pixels from window "
                     "to window; by default two thirds of --crop")  # fmt: skip
    own.add_argument("--batch", type=int, default=1, metavar="N", help="images of one size, or "
                     "frames, labelled at a time")  # fmt: skip
    own.add_argument("--skip-existing", action="store_true", help="leave inputs alone whose "
                     "results are all there, as after Ctrl-C")  # fmt: skip
    own.add_argument("--device", help="by default the GPU if there is one")
    add_allow_code(own)
    own.add_argument("--threads", type=int, metavar="N", help="of the CPU; by default all")
    return own


def predict_command(words: Sequence[str]) -> int:
    """Label every input; exit code 1 if some could not be."""
    options = _parser().parse_args(list(words))
    _check(options)
    start = time.monotonic()
    from tsic.deploy.inference import require_view
    from tsic.deploy.predict.plan import Outcome

    inputs, plan = _plan(options)
    model = _open(options)
    if plan.view is not None:
        require_view(model, plan.view)
    make_room(options.out / "NAME.png")
    if options.coco:
        make_room(options.coco)
    outcome = Outcome()
    try:
        _run(model, inputs, plan, outcome, options.coco)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise ConfigError(
            f"the disk of '{options.out}' is full; free some space, then the same command with "
            "--skip-existing goes on"
        ) from error
    return _report(outcome, len(inputs), time.monotonic() - start, options.out)


def _check(options: argparse.Namespace) -> None:
    """Refuse numbers that cannot work."""
    require_least(options, 1, "batch", "threads")
    if not 0 <= options.opacity <= 1:
        raise ConfigError(f"--opacity must be from 0 to 1, got {options.opacity:g}")
    if options.out.exists() and not options.out.is_dir():
        raise ConfigError(f"--out '{options.out}' is a file; name a folder")


def _plan(options: argparse.Namespace) -> "tuple[list[Input], Plan]":
    """Inputs, and what to do with each."""
    from tsic.deploy.inference import View
    from tsic.deploy.predict.inputs import STDIN, find_inputs
    from tsic.deploy.predict.outputs import Wanted, check_files
    from tsic.deploy.predict.plan import Plan
    from tsic.deploy.predict.video import require_av

    is_asked = options.crop or options.stride
    view = View(crop=options.crop, stride=options.stride) if is_asked else None
    listed = sys.stdin.buffer.read() if STDIN in options.inputs else b""
    inputs = find_inputs(options.inputs, options.out, listed)
    wanted = Wanted(
        options.out,
        overlay=options.overlay_format if options.overlay else None,
        opacity=options.opacity,
        probabilities=options.probabilities,
    )
    check_files(inputs, wanted, options.coco)
    videos = [one for one in inputs if one.is_video]
    if videos:
        require_av()
        for given, name in ((options.probabilities, "--probabilities"), (options.coco, "--coco")):
            if given:
                raise ConfigError(
                    f"{name} is for images, but '{videos[0].source}' is a video; leave one out"
                )
    return inputs, Plan(wanted, view, options.batch, options.skip_existing)


def _open(options: argparse.Namespace) -> "Model":
    """The model, on its device."""
    import torch

    from tsic.deploy.opening import open_model

    if options.threads:
        torch.set_num_threads(options.threads)
    model = open_model(
        options.model,
        device=options.device,
        threads=options.threads,
        allow_code=options.allow_code,
    )
    if options.probabilities and model.gives == "labels":
        raise ConfigError(
            f"'{options.model}' answers with labels alone; leave --probabilities out, or export "
            "it with --output scores"
        )
    return model


def _run(
    model: "Model", inputs: "list[Input]", plan: "Plan", outcome: "Outcome", coco: Path | None
) -> None:
    """Label images, then videos."""
    from tsic.deploy.predict.outputs import coco_file
    from tsic.deploy.predict.predict import predict_images, predict_videos

    images = [one for one in inputs if not one.is_video]
    with (
        progress("predict") as on_progress,
        coco_file(coco, model.classes) if coco else nullcontext() as writer,
    ):
        if images:
            predict_images(model, images, plan, outcome, coco=writer, on_progress=on_progress)
    predict_videos(model, [one for one in inputs if one.is_video], plan, outcome)


def _report(outcome: "Outcome", inputs: int, seconds: float, out: Path) -> int:
    """Say what became of the inputs; exit code 1 if some failed."""
    done = f"{outcome.images} image{'s' * (outcome.images != 1)}"
    if outcome.videos:
        done += f", {outcome.videos} video{'s' * (outcome.videos != 1)}"
    if outcome.skipped:
        done += f", {outcome.skipped} skipped"
    sys.stdout.write(f"{done} in {seconds:.1f} s: {out}\n")
    if outcome.failures:
        failed = "".join(f"  {failure}\n" for failure in outcome.failures)
        tell(f"tsic: {len(outcome.failures)} of {inputs} inputs could not be labelled:\n{failed}")
    return 1 if outcome.failures else 0
