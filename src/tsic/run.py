"""One run from configuration to a folder with the trained student."""

import json
import logging
import os
import time
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor

from tsic.build import RunFolder, build_module, load_weights, scorers
from tsic.callbacks import CsvLog, Panels, ShowProgress
from tsic.checkpoint import save_student
from tsic.config import RunConfig
from tsic.config_file import differences, load_config, save_config
from tsic.data.check import count_pixels, require_clean
from tsic.data.datamodule import SegmentationData
from tsic.data.dataset import SegmentationDataset
from tsic.data.readers import open_dataset
from tsic.data.transforms import TrainTransform
from tsic.device import resolve_precision
from tsic.errors import CheckpointError, ConfigError
from tsic.evaluation import Report, evaluate
from tsic.files import write_text
from tsic.losses import balanced_class_weights
from tsic.progress import progress
from tsic.run_report import RunResult, write_run_report
from tsic.training import CycleModule

# Keys that may change between the parts of a resumed run: none of them changes its weights.
_FREE = ("data.workers", "trainer.log_every", "trainer.save_every", "trainer.pictures", "data.root")


def train(
    config: RunConfig, folder: str | Path, *, resume: bool = False, label: str = "train"
) -> RunResult:
    """Train what a configuration says, into a folder.

    Args:
        config: Everything that determines the run.
        folder: The run's folder, made if need be.
        resume: Go on from ``checkpoints/last.ckpt`` if the folder has one.
        label: What the progress bar calls it.

    Returns:
        The files and scores.

    Raises:
        ConfigError: If the folder holds another run, or the configuration cannot work.
        DataError: If the data would hurt the training.
        NonFiniteLossError: If a loss is NaN or infinite.
    """
    start = time.monotonic()
    files = RunFolder(Path(folder))
    # Everything that a mistake of the user's could stop comes before the first file is written.
    config = _resolve(config, files)
    _refuse_other_run(config, files, resume=resume)
    resumes = resume and files.last.is_file()
    train_set, val_set = _open_data(config)
    module = build_module(config, train_set.classes, _class_weights(config, train_set))
    if _is_main():
        files.samples.mkdir(parents=True, exist_ok=True)
        save_config(config, files.config)
    data = _data(config, train_set, val_set)
    trainer = _trainer(config, files, val_set, label, resumes=resumes)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning")
        trainer.fit(module, data, ckpt_path=files.last if resumes else None, weights_only=False)
    trainer.save_checkpoint(files.last)
    if not trainer.is_global_zero:
        raise SystemExit(0)  # the other ranks, which Lightning started, have done their part
    module.to(trainer.strategy.root_device)  # Lightning leaves it on the CPU
    student, teacher = _finish(config, files, module, val_set)
    result = RunResult(files, student, teacher, time.monotonic() - start)
    write_run_report(config, result, val_set.classes, label)
    return result


def _class_weights(config: RunConfig, train_set: SegmentationDataset) -> Tensor | None:
    balance = config.objective.class_balance
    return balanced_class_weights(count_pixels(train_set), balance) if balance else None


def _is_main() -> bool:
    """Whether this is the process that the user started; Lightning starts the other ranks."""
    return "LOCAL_RANK" not in os.environ


def _resolve(config: RunConfig, files: RunFolder) -> RunConfig:
    """Settle what ``auto`` means; other ranks read what the main one settled."""
    if not _is_main():
        return load_config(files.config)
    precision = config.trainer.precision
    if precision == "auto" and files.config.is_file():
        # A second timing could come out otherwise: a resumed run keeps what it began with.
        precision = load_config(files.config).trainer.precision
    precision = resolve_precision(precision, config.trainer.accelerator)
    return replace(config, trainer=replace(config.trainer, precision=precision))


def _refuse_other_run(config: RunConfig, files: RunFolder, *, resume: bool) -> None:
    """Never write over a run, nor go on with it in another way than it began."""
    if not _is_main() or not files.config.is_file():
        return
    if not resume:
        raise ConfigError(
            f"'{files.path}' holds a run already; go on with --resume auto, or choose "
            "another --name"
        )
    changed = [
        change
        for change in differences(load_config(files.config), config)
        if not change.startswith(_FREE)
    ]
    if changed and files.last.is_file():
        raise ConfigError(
            f"cannot resume '{files.path}' with another configuration ({'; '.join(changed)}); "
            "use its own config.yaml or choose another --name"
        )


def _open_data(config: RunConfig) -> tuple[SegmentationDataset, SegmentationDataset]:
    """Both splits, checked."""
    data = config.data
    train_set = open_dataset(data.name, data.root, data.train_split, data.classes)
    val_set = open_dataset(data.name, data.root, data.val_split, data.classes)
    if _is_main():
        with progress("check the data") as on_progress:
            require_clean(train_set, val_set, on_progress=on_progress)
    return train_set, val_set


def _data(
    config: RunConfig, train_set: SegmentationDataset, val_set: SegmentationDataset
) -> SegmentationData:
    data = config.data
    transform = TrainTransform(
        data.crop,
        scale=data.scale,
        max_class_share=data.max_class_share,
        rare_crop=data.rare_crop,
        flip=data.flip,
        resize=data.resize,
    )
    micro_batch = data.batch_size // (config.trainer.devices * config.trainer.accumulate)
    return SegmentationData(
        train_set,
        val_set,
        transform,
        batch_size=micro_batch,
        seed=config.seed,
        workers=data.workers,
        accumulate=config.trainer.accumulate,
        photometric=data.photometric,
        on_error=data.on_error,
    )


def _trainer(
    config: RunConfig, files: RunFolder, val_set: SegmentationDataset, label: str, *, resumes: bool
) -> Trainer:
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    options = config.trainer
    step = _step_of(files.last) if resumes else 0
    loggers = [TensorBoardLogger(files.path, name="", version="tensorboard")]
    callbacks: list[Callback] = [
        ModelCheckpoint(
            files.last.parent,
            filename="last",
            every_n_train_steps=options.save_every,
            enable_version_counter=False,
            save_on_train_epoch_end=False,
        ),
        ModelCheckpoint(
            files.best.parent,
            filename="best",
            monitor="val/student_miou",
            mode="max",
            enable_version_counter=False,
        ),
        ShowProgress(config.max_steps, label, options.log_every),
        Panels(files.samples, val_set, options.pictures),
    ]
    uses_ddp = options.devices > 1
    return Trainer(
        accelerator=options.accelerator,
        devices=options.devices,
        # While the teacher warms up, and for prompts it does not use, weights have no gradient.
        strategy=DDPStrategy(find_unused_parameters=config.teacher.name != "none")
        if uses_ddp
        else "auto",
        precision=options.precision,
        accumulate_grad_batches=options.accumulate,
        gradient_clip_val=config.optim.clip,
        max_steps=config.max_steps,
        max_epochs=-1,
        val_check_interval=min(options.val_every, config.max_steps) * options.accumulate,
        check_val_every_n_epoch=None,
        log_every_n_steps=options.log_every,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        logger=[*loggers, CsvLog(files.metrics, step)] if _is_main() else loggers,
        callbacks=callbacks,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def _step_of(checkpoint: Path) -> int:
    """Optimiser step at which a checkpoint was written."""
    try:
        return int(torch.load(checkpoint, map_location="meta", weights_only=False)["global_step"])
    except (OSError, RuntimeError, KeyError, EOFError) as error:
        raise CheckpointError(
            f"'{checkpoint}' is damaged ({error}); delete it to start this run again"
        ) from error


def _finish(
    config: RunConfig,
    files: RunFolder,
    module: CycleModule,
    val_set: SegmentationDataset,
) -> tuple[Report, Report | None]:
    """Write the best student and its scores."""
    if files.best.is_file():
        load_weights(module, files.best)
    module.eval()
    reports = {
        role: evaluate(score, val_set, device=module.device)
        for role, score in scorers(module).items()
    }
    written = {
        "split": config.data.val_split,
        **reports["student"].to_dict(),
        "teacher": reports["teacher"].to_dict() if "teacher" in reports else None,
    }
    write_text(files.evaluation, json.dumps(written, indent=1))
    facts: dict[str, Any] = {
        "resize": list(config.data.resize) if config.data.resize else None,
        "training": {
            "data": config.data.name,
            "train_split": config.data.train_split,
            "val_split": config.data.val_split,
            "crop": list(config.data.crop),
            "steps": config.max_steps,
            "seed": config.seed,
            "recipe": config.recipe,
            "teacher": config.teacher.name,
            "val_miou": reports["student"].miou,
        },
        "scores": {"split": config.data.val_split, **_scores(reports["student"])},
    }
    save_student(files.path, module.student, val_set.classes, facts)
    return reports["student"], reports.get("teacher")


def _scores(report: Report) -> dict[str, Any]:
    """The scores that travel with the student."""
    keys = ("images", "miou", "pixel_accuracy", "per_class_iou")
    return {key: report.to_dict()[key] for key in keys}
