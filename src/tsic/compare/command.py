"""``tsic compare``."""

import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tsic.command_line import Parser, name_of, require_least
from tsic.compare.plan import (
    ABLATIONS,
    ALONE,
    METHODS,
    OWN,
    Job,
    ablations,
    jobs,
    methods,
    run_name,
    trains_teacher,
    without_cycle,
)
from tsic.config import RunConfig
from tsic.config_file import RUN, load_config, read_config
from tsic.config_words import words_of
from tsic.data.classes import ClassTable
from tsic.errors import ConfigError
from tsic.files import alone_in
from tsic.options import Role
from tsic.required import require_foundation
from tsic.training.folder import RunFolder


def compare_command(words: Sequence[str]) -> int:
    """Train what a comparison lacks, then compare; any key can follow as ``--key value``."""
    parser = _parser()
    options, overrides = parser.parse_known_args(list(words))
    require_least(options, 1, "seeds", "processes")
    if options.ablate and (options.methods or options.offline):
        raise ConfigError("--ablate varies the cycle alone: it goes without --methods, --offline")
    base = load_config(options.config, overrides, parser)
    if options.config is None:
        raise ConfigError(
            "--config FILE is missing: the YAML file of a run; see tsic compare --help"
        )
    folder: Path = options.out / name_of(options)
    runs = folder / "runs"
    shared = words_of(("data", "trainer"), overrides, but=OWN)
    offline, first = _offline(options.offline, runs, shared, base.distill.role)
    variants = (
        ablations(base, options.ablate)
        if options.ablate
        else methods(base, options.methods or [ALONE, "mutual", "cycle"], offline)
    )
    if offline and not any(one.config.distill.teacher == str(offline) for one in variants):
        raise ConfigError("--offline: none of the --methods has an offline teacher; leave it out")
    from tsic.compare.runner import Places, missing, run_all, warnings_of
    from tsic.training.precision import resolve_precision

    planned = [*_settled(first, runs), *_settled(jobs(variants, options.seeds), runs)]
    unfinished = missing(planned, runs)
    if offline and any(job.config.distill.teacher for job in unfinished):
        _try(offline, first, base)
    _require_teachers(unfinished, loads=not options.dry_run)
    _require_photos(unfinished)
    devices = _devices(options.devices)
    if options.dry_run:
        sys.stdout.write(_plan(planned, unfinished))
        return 0
    _require_whole(planned, unfinished, runs)
    for options_of in {job.config.trainer for job in unfinished}:
        resolve_precision(options_of)
    places = Places(options.processes, devices)
    with alone_in(folder, "compares"):
        failed = run_all(unfinished, runs, places, sys.stdout)
        warned = warnings_of(planned, runs)
        command = shlex.join(["tsic", "compare", *words])
        page = _write(folder, variants, options.seeds, failed, warned, command)
    sys.stdout.write(f"{page}\neverything is in {folder}\n")
    return 1 if failed else 0


def _require_teachers(unfinished: Sequence[Job], *, loads: bool) -> None:
    """Refuse foundation models that are not there, or do not fit a recipe.

    Args:
        unfinished: Runs to train.
        loads: Whether to load them, too.
    """
    asked = [job.config.teacher for job in unfinished if job.config.teacher.name != "none"]
    if not asked:
        return
    from tsic.teacher.sam import load_foundation
    from tsic.teacher.teacher import require_levels

    for name in sorted({one.name for one in asked}):
        require_foundation(name)
        kinds = {one.mapping for one in asked if one.name == name and not one.hints_only}
        if loads:
            foundation = load_foundation(name)
            for kind in kinds:
                require_levels(foundation, kind, name)


def _require_whole(planned: Sequence[Job], unfinished: Sequence[Job], runs: Path) -> None:
    """Refuse finished runs that could not be summed up, before others are trained."""
    from tsic.compare.statistics import read_outcome

    names = {"offline", *(job.name for job in unfinished)}
    for job in planned:
        if job.name not in names:
            read_outcome(runs / job.name)


def _devices(asked: Sequence[str]) -> Sequence[str]:
    """GPUs that runs are spread over: those asked for, else all that this process may use."""
    import torch

    told = os.environ.get("CUDA_VISIBLE_DEVICES")
    numbers = range(torch.cuda.device_count())
    named = map(str, numbers) if told is None else told.replace(" ", "").split(",")
    visible = [name for _, name in zip(numbers, named, strict=False)]
    if unknown := [one for one in asked if one not in visible]:
        raise ConfigError(
            f"--devices: there is no GPU {', '.join(unknown)} here; there are "
            f"{', '.join(visible) or 'none'}"
        )
    return asked or visible


def _require_photos(unfinished: Sequence[Job]) -> None:
    """Refuse folders of images without labels that are not there."""
    if folders := {Path(one) for job in unfinished if (one := job.config.data.unlabelled)}:
        from tsic.data.unlabelled import unlabelled_names

        for photos in folders:
            unlabelled_names(photos)


def _plan(planned: Sequence[Job], unfinished: Sequence[Job]) -> str:
    """What would be trained."""
    names = {job.name for job in unfinished}
    lines = [
        f"{job.name}: {f'{job.config.max_steps} steps' if job.name in names else 'finished'}\n"
        for job in planned
    ]
    steps = sum(job.config.max_steps for job in unfinished)
    return (
        f"{''.join(lines)}{len(unfinished)} of {len(planned)} runs to train, {steps} steps in all; "
        "tsic train --dry-run measures what a step takes\n"
    )


def _settled(planned: Sequence[Job], runs: Path) -> list[Job]:
    """One precision for all runs that do not name theirs: each would measure for itself.

    It is the one that earlier runs of this comparison have, if there are any.
    """
    from tsic.training.precision import resolve_precision

    if all(job.config.trainer.precision != "auto" for job in planned):
        return list(planned)
    files = [RunFolder(runs / job.name).config for job in planned]
    held = [read_config(RUN, file).trainer.precision for file in files if file.is_file()]
    # Whether a GPU can do what else is asked of it shows where something is trained.
    trainer = replace(planned[0].config.trainer, graph=False, compile=False)
    precision = held[0] if held else resolve_precision(trainer)
    trainers = [replace(job.config.trainer, precision=precision) for job in planned]
    return [
        replace(job, config=replace(job.config, trainer=trainer))
        for job, trainer in zip(planned, trainers, strict=True)
    ]


def _parser() -> Parser:
    parser = Parser(
        prog="tsic compare",
        description="The student alone, published methods and the cycle under one recipe. Runs "
        "that are finished stay, those cut short go on. Any key of the configuration can follow "
        "as --key value.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--config", type=Path, help="YAML file of the cycle's run, as of train (always needed)"
    )
    parser.add_argument(
        "--methods",
        nargs="+",
        help=f"any of {', '.join(METHODS)} (default: alone mutual cycle); alone is always there; "
        "NAME:TIMES trains so many times as long, as alone:3",
    )
    parser.add_argument(
        "--ablate",
        nargs="+",
        help="instead of methods, vary the cycle one switch at a time: "
        f"{', '.join(ABLATIONS)}, or KEY=VALUE[,VALUE...] of a key of the cycle's own",
    )
    parser.add_argument("--seeds", type=int, default=3, help="runs of each method (default: 3)")
    parser.add_argument(
        "--offline",
        type=Path,
        help="who teaches the methods with an offline teacher: folder of a run, or YAML file of "
        "one, which is then trained first; keys of data and trainer hold for it, too",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="only list the runs that would be trained"
    )
    parser.add_argument("--name", help="the comparison's; by default the configuration file's")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/compare"), help="folder of comparisons"
    )
    parser.add_argument("--processes", type=int, default=1, help="runs at a time (default: 1)")
    parser.add_argument(
        "--devices",
        nargs="+",
        default=[],
        help="numbers of the GPUs, of which each run takes the least used",
    )
    return parser


def _offline(
    given: Path | None, runs: Path, overrides: Sequence[str], role: Role
) -> tuple[Path | None, list[Job]]:
    """The folder of the offline teacher, and the run that makes it if it has to be trained.

    Args:
        given: What ``--offline`` says.
        runs: Folder of the runs' folders.
        overrides: What holds for that run, too: it sees the same data on the same machine.
        role: Which of its networks teaches.
    """
    if given is None:
        return None, []
    if given.suffix not in (".yaml", ".yml"):
        return given.resolve(), []
    config = load_config(given, overrides)
    if role == "teacher" and not trains_teacher(config):
        raise ConfigError(
            f"distill.role teacher: '{given}' trains no teacher; give a configuration of the "
            "cycle, or leave the role out"
        )
    job = Job("offline", without_cycle(config) if config.method == ALONE else config)
    return (runs / job.name).resolve(), [job]


def _try(offline: Path, first: Sequence[Job], base: RunConfig) -> None:
    """Tell what is wrong with who teaches, or is to teach, before anything trains."""
    from tsic.training.build import load_offline

    classes = _classes(base)
    if not first:
        load_offline(str(offline), base.distill.role, classes)
    elif any(_classes(job.config).names != classes.names for job in first):
        raise ConfigError(
            "--offline: its configuration's data has other classes than --config's; --data.root "
            "on the command line gives both the same"
        )


def _classes(config: RunConfig) -> ClassTable:
    from tsic.data.readers import open_split

    return open_split(config.data, config.data.train_split).classes


def _write(
    folder: Path,
    variants: Sequence[Job],
    seeds: int,
    failed: Mapping[str, str],
    warned: Mapping[str, Sequence[str]],
    command: str,
) -> str:
    """Sum up what is finished."""
    from tsic.compare.report import write_comparison
    from tsic.compare.statistics import read_outcome, require_same_images, summarise

    outcomes = {
        one.name: {
            seed: read_outcome(folder / "runs" / run_name(one.name, seed))
            for seed in range(one.config.seed, one.config.seed + seeds)
            if run_name(one.name, seed) not in failed
        }
        for one in variants
    }
    alone = outcomes[ALONE]
    if not alone:
        told = "; ".join(f"{name} {why}" for name, why in failed.items())
        raise ConfigError(f"no run of the student alone finished: {told}")
    for name, finished_runs in outcomes.items():
        for seed in finished_runs.keys() & alone.keys():
            require_same_images(run_name(name, seed), finished_runs[seed], alone[seed])
    summaries = {
        name: summarise(runs, None if name == ALONE else alone)
        for name, runs in outcomes.items()
        if runs
    }
    evaluation = next(iter(alone.values())).evaluation
    config = variants[0].config
    facts = {
        "split": evaluation["split"],
        "images": evaluation["images"],
        "steps": config.max_steps,
        "unlabelled": any(one.config.data.unlabelled for one in variants),
        "student": _inference_cost(folder / "runs" / run_name(ALONE, min(alone)), config),
        "machine": _machine(),
        "command": command,
    }
    return write_comparison(folder, summaries, facts, failed, warned)


def _inference_cost(folder: Path, config: RunConfig) -> dict[str, Any]:
    from tsic.deploy.info import describe

    size = config.data.resize or config.data.crop
    told = describe(str(folder), size=size)
    return {
        "parameters": told["parameters"],
        "multiply_adds": told["multiply_adds"]["count"],
        "size": list(size),
    }


def _machine() -> dict[str, Any]:
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {"cpus": os.cpu_count(), "gpu": gpu, "torch": torch.__version__}
