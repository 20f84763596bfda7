"""The verbs: each parses its words and calls one function."""

import sys
from collections.abc import Sequence
from pathlib import Path

from tsic.command_line import Parser
from tsic.config_file import load_config, parser
from tsic.errors import ConfigError

# PyTorch, Lightning and transformers are imported inside the verbs, once the words are right.


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
