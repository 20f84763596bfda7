"""`tsic benchmark`: measure a student's speed on this machine, in every engine."""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from tsic.command_line import Parser, add_allow_code, make_room
from tsic.errors import ConfigError, nearest

_ENGINES = ("eager", "compile", "onnxruntime", "openvino")
_PRECISIONS = ("fp32", "bf16", "int8")


def _benchmark_parser() -> Parser:
    own = Parser(
        prog="tsic benchmark",
        description="Measure a student's speed on this machine, in engines that take turns.",
    )
    own.add_argument(
        "model",
        metavar="STUDENT",
        help="a run's folder, a student.safetensors, zoo:name, hf:owner/name, or an exported file",
    )
    own.add_argument(
        "--files", nargs="+", type=Path, default=[], metavar="FILE",
        help="exported files that take turns with it",
    )  # fmt: skip
    own.add_argument(
        "--size", nargs=2, type=int, action="append", metavar=("H", "W"),
        help="height and width of the images; may be repeated (default: 512 1024, or the "
        "exported file's)",
    )  # fmt: skip
    own.add_argument(
        "--threads", nargs="+", type=int, metavar="N", help="threads (default: one per core)"
    )
    own.add_argument(
        "--batch", nargs="+", type=int, metavar="N", help="images at a time (default: 1)"
    )
    own.add_argument(
        "--engines", nargs="+", metavar="ENGINE",
        help=f"of {', '.join(_ENGINES)} (default: all)",
    )  # fmt: skip
    own.add_argument(
        "--precision", nargs="+", metavar="PRECISION",
        help=f"of {', '.join(_PRECISIONS)} (default: all)",
    )  # fmt: skip
    own.add_argument("--rounds", type=int, default=5, help="turns of each engine (default: 5)")
    own.add_argument("--seconds", type=float, default=1.0, help="length of a turn (default: 1)")
    own.add_argument(
        "--calibration", type=Path, metavar="DIR",
        help="images that int8 is calibrated on; drawn scenes without it, which do for speed",
    )  # fmt: skip
    add_allow_code(own)
    own.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers as JSON")
    own.add_argument("--markdown", type=Path, metavar="FILE", help="also write the tables")
    return own


def benchmark_command(words: Sequence[str]) -> int:
    """Measure, print the tables, write the files."""
    options = _benchmark_parser().parse_args(list(words))
    _check_words("--engines", options.engines or (), _ENGINES)
    _check_words("--precision", options.precision or (), _PRECISIONS)
    numbers = [*(options.threads or []), *(options.batch or []), options.rounds]
    if min(numbers + [side for size in options.size or [] for side in size]) < 1:
        raise ConfigError("--size, --threads, --batch and --rounds must be at least 1")
    if not 0 < options.seconds <= 60:
        raise ConfigError(f"--seconds must be above 0 and at most 60, got {options.seconds}")
    for file in (options.json, options.markdown):
        if file:
            make_room(file)
    from tsic.deploy.benchmark.plan import Plan, run_plan
    from tsic.deploy.model import is_exported
    from tsic.files import write_json, write_text
    from tsic.machine import usable_cores

    if is_exported(options.model) and (options.engines or options.precision or options.calibration):
        raise ConfigError(
            f"'{options.model}' is measured as it was exported; --engines, --precision and "
            "--calibration are for a student"
        )
    plan = Plan(
        model=options.model,
        files=tuple(options.files),
        sizes=tuple(dict.fromkeys((size[0], size[1]) for size in options.size or [])),
        threads=tuple(dict.fromkeys(options.threads or [usable_cores()])),
        batches=tuple(dict.fromkeys(options.batch or [])),
        engines=tuple(options.engines or _ENGINES),
        precisions=tuple(options.precision or _PRECISIONS),
        rounds=options.rounds,
        seconds=options.seconds,
        calibration=options.calibration,
        allow_code=options.allow_code,
        command=shlex.join(["tsic", "benchmark", *words]),
    )
    report = run_plan(plan)
    sys.stdout.write(report.to_markdown())
    if options.json:
        write_json(options.json, report.to_dict())
    if options.markdown:
        write_text(options.markdown, report.to_markdown())
    return 0


def _check_words(option: str, words: Sequence[str], choices: Sequence[str]) -> None:
    for word in words:
        if word not in choices:
            raise ConfigError(f"{option} '{word}' is unknown; {nearest(word, choices)}")
