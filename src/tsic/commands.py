"""The verbs: each parses its words and calls one function."""

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tsic.command_line import Parser, name_of, require_least
from tsic.config import RunConfig
from tsic.config_file import RUN, Schema, load_config, parser, read_config, with_values
from tsic.required import require_foundation, require_offline, require_root

# PyTorch, Lightning and transformers are imported inside the verbs, once the words are right.


def _training_parser(verb: str) -> Parser:
    own = Parser(prog=verb, add_help=False, allow_abbrev=False)
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
    own = _training_parser(RUN.verb)
    own.add_argument(
        "--dry-run", action="store_true", help="tell what it would cost on this machine, and stop"
    )
    own.add_argument(
        "--batch",
        metavar="N",
        help="short for --data.batch_size; auto takes the largest that fits into memory",
    )
    if _wants_help(words):
        _write_help(own, RUN)
        return 0
    known, overrides = own.parse_known_args(list(words))
    finds_batch = known.batch == "auto"
    if known.batch and not finds_batch:
        overrides += ["--data.batch_size", known.batch]
    config = load_config(known.config, overrides, own)
    require_root(config.data.name, Path(config.data.root))
    if config.teacher.name != "none":
        require_foundation(config.teacher.name)
    if config.distill.method != "none" and config.distill.teacher is not None:
        require_offline(config.distill.teacher)
    name = name_of(known, "run")
    if finds_batch:
        config = _with_largest_batch(
            config, known.out / name, goes_on=known.resume == "auto", writes=not known.dry_run
        )
    if known.dry_run:
        from tsic.training.dry_run import rehearse

        sys.stdout.write(f"{rehearse(config).to_text()}\n")
        return 0
    from tsic.training.run import train

    result = train(config, known.out / name, resume=known.resume == "auto", label=name)
    sys.stdout.write(f"{result.student.to_table()}\n")
    teacher = f", teacher {result.teacher.miou:.2f}" if result.teacher else ""
    sys.stdout.write(
        f"\nval mIoU: student {result.student.miou:.2f}{teacher}; {result.seconds:.0f} s; "
        f"everything is in {result.folder.path}\n"
    )
    return 0


def _with_largest_batch(
    config: RunConfig, folder: Path, *, goes_on: bool, writes: bool
) -> RunConfig:
    """The configuration with the largest batch that fits; a run that goes on keeps its own."""
    from tsic.training.changes import changes
    from tsic.training.folder import RunFolder
    from tsic.training.loop import is_main, refuse_other_run

    begun = RunFolder(folder).config
    # Other ranks find what the main process has settled.
    if (goes_on or not is_main()) and begun.is_file():
        size = load_config(begun).data.batch_size
    else:
        from tsic.training.batch_size import largest_batch

        if writes:
            refuse_other_run(RUN, config, RunFolder(folder), resume=False, changes=changes)
        size = largest_batch(config)
    sys.stdout.write(f"data.batch_size: {size}\n")
    return with_values(RUN, config, {"data.batch_size": size})


def pretrain_command(words: Sequence[str]) -> int:
    """Train a promptable model; any key of the configuration can follow as ``--key value``."""
    from tsic.pretrain.config import PRETRAIN

    own = _training_parser(PRETRAIN.verb)
    own.add_argument("--images", metavar="DIR", help="short for --source.images")
    if _wants_help(words):
        _write_help(own, PRETRAIN)
        return 0
    known, overrides = own.parse_known_args(list(words))
    if known.images is not None:
        overrides += ["--source.images", known.images]
    config = read_config(PRETRAIN, known.config, overrides, own)
    name = name_of(known, "pretrain")
    from tsic.evaluation.scores import percent
    from tsic.pretrain.run import pretrain

    result = pretrain(config, known.out / name, resume=known.resume == "auto", label=name)
    scores = {name: percent(one) for name, one in result.scores.items()}
    sys.stdout.write(
        f"\nheld-out IoU: prompt {scores['prompt_iou']}, answer {scores['answer_iou']}, "
        f"asked again {scores['second_iou']}, points and boxes {scores['point_iou']}; "
        f"{result.seconds:.0f} s\ntrain with it: teacher.name: {result.folder.path}\n"
    )
    return 0


def _wants_help(words: Sequence[str]) -> bool:
    return any(word in ("-h", "--help") for word in words)


def _write_help(own: Parser, schema: Schema[Any]) -> None:
    sys.stdout.write(own.format_help())
    sys.stdout.write("\nEvery key of the configuration, in --config or as --key value:\n\n")
    # What jsonargparse adds of its own is not taken: usage, --print_config, a file per section.
    keys = parser(schema).format_help().split("\n\n", 2)[2]
    sys.stdout.write(re.sub(r" +--\w+ CONFIG\s+Path to a configuration file\.\n", "", keys))


def demo_command(words: Sequence[str]) -> int:
    """Draw scenes, train alone and in the cycle, report."""
    own = Parser(prog="tsic demo", description="The cycle on drawn street scenes, end to end.")
    own.add_argument("--out", type=Path, default=Path("runs/demo"), help="folder of the demo")
    own.add_argument("--steps", type=int, default=540, help="optimiser steps of each student")
    own.add_argument("--scenes", type=int, default=400, help="training scenes to draw")
    own.add_argument("--seed", type=int, default=0, help="of scenes, weights and batches")
    options = own.parse_args(list(words))
    require_least(options, 1, "steps", "scenes")
    require_least(options, 0, "seed")
    from tsic.demo import run_demo

    sys.stdout.write(
        run_demo(options.out, steps=options.steps, scenes=options.scenes, seed=options.seed)
    )
    return 0
