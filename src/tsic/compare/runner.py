"""Trains what is missing, several runs at a time, each in a process of its own."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, TextIO

from tsic.compare.plan import Job, as_read
from tsic.config import DataConfig, RunConfig
from tsic.config_file import RUN, read_config, save_config
from tsic.data.readers import open_split
from tsic.errors import ConfigError, TsicError
from tsic.machine import usable_cores
from tsic.training.changes import changes, material_of, read_material
from tsic.training.folder import RunFolder

_POLL_SECONDS = 0.5
_WARNING = "tsic: warning: "


@dataclass(frozen=True)
class Places:
    """Where runs are trained.

    Attributes:
        processes: Runs at a time.
        devices: GPUs by number; a run of one device takes the least used, and several may share
            one.
    """

    processes: int = 1
    devices: Sequence[str] = ()


def missing(jobs: Sequence[Job], runs: Path) -> list[Job]:
    """Those of some runs that are not finished.

    Args:
        jobs: All runs.
        runs: Folder of their folders.

    Raises:
        ConfigError: If a folder holds a run of another configuration, or one whose teacher is gone.
    """
    unfinished: list[Job] = []
    finished: list[Job] = []
    material = cache(_material)
    for job in jobs:
        files = RunFolder(runs / job.name)
        if files.config.is_file():
            job = _as_begun(job, files, material)
        is_finished = files.evaluation.is_file() and files.student.is_file()
        (finished if is_finished else unfinished).append(job)
    to_train = {(runs / job.name).resolve() for job in unfinished}
    for job in finished:
        if _teacher(job.config) in to_train:
            raise ConfigError(
                f"'{runs / job.name}' was taught by a run that is not there any more and would be "
                "trained anew; remove that folder, too, or choose another --name"
            )
    return unfinished


def _as_begun(job: Job, files: RunFolder, material: Callable[[DataConfig], Any]) -> Job:
    """The run as its folder has it, which says the same; its teacher's path may be another."""
    held, asked = read_config(RUN, files.config), job.config
    if _teacher(held) == _teacher(asked):
        asked = replace(asked, distill=replace(asked.distill, teacher=held.distill.teacher))
    way_out = "choose another --name, or remove that folder and those of runs that it taught"
    if changed := changes(as_read(held), as_read(asked)):
        raise ConfigError(
            f"'{files.path}' holds a run of another configuration ({'; '.join(changed)}); {way_out}"
        )
    has_begun = files.last.is_file() or files.evaluation.is_file()
    was = read_material(files) if has_begun else None
    if was is not None and material(asked.data) not in (None, was):
        raise ConfigError(
            f"'{files.path}' was trained on other images, masks or classes than "
            f"'{asked.data.root}' holds now; {way_out}"
        )
    return replace(job, config=asked)


def _material(data: DataConfig) -> Mapping[str, Any] | None:
    """What would be trained on now; ``None`` if it is there no more."""
    try:
        splits = (open_split(data, split) for split in (data.train_split, data.val_split))
        return material_of(data, *splits)
    except TsicError:
        return None


def _teacher(config: RunConfig) -> Path | None:
    """Folder of who teaches offline."""
    taught_by = config.distill.teacher
    return None if taught_by is None else Path(taught_by).resolve()


def run_all(jobs: Sequence[Job], runs: Path, places: Places, out: TextIO) -> dict[str, str]:
    """Train runs, going on with those that were cut short.

    A run that another one teaches waits for it, and fails with it; otherwise one that fails stops
    no other.

    Args:
        jobs: What to train, in order.
        runs: Folder of their folders; configurations and logs go beside it.
        places: Where.
        out: Where to say what happens.

    Returns:
        Why each run that failed did, by name.
    """
    waiting = list(enumerate(jobs))
    unfinished = {(runs / job.name).resolve() for job in jobs}
    running: dict[subprocess.Popen[bytes], tuple[Job, str | None, float]] = {}
    failed: dict[str, str] = {}
    with _ending(running):
        while waiting or running:
            ready = [one for one in waiting if _teacher(one[1].config) not in unfinished]
            for number, job in ready[: places.processes - len(running)]:
                waiting.remove((number, job))
                taken = [device for _, device, _ in running.values()]
                device = min(places.devices, key=taken.count, default=None)
                running[_start(job, device, runs, places)] = (job, device, time.monotonic())
                out.write(f"{job.name}: started ({number + 1} of {len(jobs)})\n")
                out.flush()
            time.sleep(_POLL_SECONDS)
            for process in [one for one in running if one.poll() is not None]:
                job, _, since = running.pop(process)
                end = f"finished in {time.monotonic() - since:.0f} s"
                folder = (runs / job.name).resolve()
                if process.returncode:
                    failed[job.name] = end = f"failed: {_last_line(_log(job, runs))}"
                    taught = [one for one in waiting if _teacher(one[1].config) == folder]
                    failed |= {one.name: f"its teacher {job.name} failed" for _, one in taught}
                    waiting = [one for one in waiting if one not in taught]
                else:
                    unfinished.discard(folder)
                out.write(f"{job.name}: {end}\n")
                out.flush()
    return failed


@contextmanager
def _ending(running: Iterable[subprocess.Popen[bytes]]) -> Iterator[None]:
    """Let no run outlive this process, whether it is interrupted, told to end, or fails."""

    def end(number: int, _: object) -> None:
        raise KeyboardInterrupt(number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.wait()
        signal.signal(signal.SIGTERM, before)


def _start(job: Job, device: str | None, runs: Path, places: Places) -> subprocess.Popen[bytes]:
    """Start ``tsic train`` in a process of its own, which Linux ends with this one."""
    config = runs.parent / "configs" / f"{job.name}.yaml"
    for folder in (config.parent, runs, _log(job, runs).parent):
        folder.mkdir(parents=True, exist_ok=True)
    save_config(job.config, config)
    environment = dict(os.environ)
    trainer = job.config.trainer
    if device and trainer.devices == 1 and trainer.accelerator != "cpu":
        environment["CUDA_VISIBLE_DEVICES"] = device
    if places.processes > 1:
        # Runs side by side must not fight for the same cores.
        threads = max(1, usable_cores() // places.processes)
        environment.setdefault("OMP_NUM_THREADS", str(threads))
    words = ["train", "--config", config, "--out", runs, "--name", job.name, "--resume", "auto"]
    goes_on = RunFolder(runs / job.name).config.is_file()
    with _log(job, runs).open("ab" if goes_on else "wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "tsic.compare.child", *map(str, words)],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )


def warnings_of(jobs: Sequence[Job], runs: Path) -> dict[str, list[str]]:
    """What runs warned of, by name, as their logs have it."""
    found = {}
    for job in jobs:
        log = _log(job, runs)
        lines = log.read_text(errors="replace").splitlines() if log.is_file() else []
        said = [line.partition(_WARNING)[2] for line in lines if line.startswith(_WARNING)]
        if said:
            found[job.name] = list(dict.fromkeys(said))
    return found


def _log(job: Job, runs: Path) -> Path:
    return runs.parent / "logs" / f"{job.name}.log"


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return f"{lines[-1] if lines else 'without a word'} (see {log})"
