"""One run from configuration to a folder with the trained student."""

import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from tsic.checkpoint import save_student
from tsic.config import DataConfig, RunConfig
from tsic.config_file import RUN
from tsic.config_rules import micro_batch, unlabelled_images
from tsic.data.batches import TrainDataset
from tsic.data.check import count_pixels, require_clean, require_one_table
from tsic.data.datamodule import SegmentationData
from tsic.data.dataset import SegmentationDataset
from tsic.data.hints import StoredHints
from tsic.data.readers import open_split
from tsic.data.transforms import TrainTransform
from tsic.data.unlabelled import Joined, TrainImages, open_unlabelled, without_copies
from tsic.deploy.card import SCORES
from tsic.deploy.consent import names_code
from tsic.errors import ConfigError
from tsic.evaluation.confusions import Confusions
from tsic.evaluation.evaluate import Report, ScorerModel, evaluate
from tsic.files import public_name, write_json
from tsic.grid import Size, size_of
from tsic.losses import balanced_class_weights
from tsic.networks.imported import require_class
from tsic.progress import progress
from tsic.streams import tell
from tsic.training.build import build_module, load_weights, scorers
from tsic.training.callbacks import Panels
from tsic.training.changes import changes, material_of, read_material
from tsic.training.cost import Cost
from tsic.training.embed import embed_missing, stored_hints
from tsic.training.folder import RunFolder
from tsic.training.loop import begun, fit, is_main, make_trainer, refuse_other_run, resolve
from tsic.training.module import CycleModule
from tsic.training.report import RunResult, write_run_report
from tsic.training.watch import Watch


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
    config = resolve(RUN, config, files)
    refuse_other_run(RUN, config, files, resume=resume, changes=changes)
    if config.distill.teacher and config.distill.method == "none" and is_main():
        tell("tsic: warning: distill.teacher teaches nothing without distill.method\n")
    resumes = resume and files.last.is_file()
    train_set, val_set = _open_data(config)
    material = material_of(config.data, train_set, val_set)
    if resumes and is_main():
        _require_same_classes(files, material)
    images = training_images(config, train_set, apart_from=(train_set, val_set))
    module = build_module(config, train_set.classes, _class_weights(config, train_set))
    if names_code(module.student.spec) and not resumes:
        require_class(config.student.name)
    encoder = module.cycle.encoder
    hints = stored_hints(config, encoder, images)
    with begun(RUN, config, files, resume=resume, changes=changes):
        if is_main() and not resumes:
            write_json(files.material, material)
        cost = Cost()
        if is_main() and hints is not None and encoder is not None:
            cost.embedding_seconds = embed_missing(hints, config, encoder, images)
        data = segmentation_data(config, images, val_set, hints)
        trainer = make_trainer(
            config.trainer,
            files,
            label,
            max_steps=config.max_steps,
            monitor="val/student_miou",
            callbacks=[cost, Watch(), Panels(files.samples, val_set, config.trainer.pictures)],
            leaves_unused=_leaves_unused(config, module),
            resumes=resumes,
        )
        fit(trainer, module, data, files, resumes=resumes)
        student, teacher = _finish(
            config, files, module, val_set, cost, len(images) - len(train_set)
        )
        result = RunResult(files, student, teacher, time.monotonic() - start)
        write_run_report(config, result, val_set.classes, label)
        return result


def _class_weights(config: RunConfig, train_set: SegmentationDataset) -> Tensor | None:
    balance = config.objective.class_balance
    return balanced_class_weights(count_pixels(train_set), balance) if balance else None


def _open_data(config: RunConfig) -> tuple[SegmentationDataset, SegmentationDataset]:
    """Both splits, checked."""
    data = config.data
    train_set = open_split(data, data.train_split)
    val_set = open_split(data, data.val_split)
    require_one_table([train_set, val_set])
    if is_main():
        with progress("check the data") as on_progress:
            require_clean(train_set, val_set, trained_on=train_set, on_progress=on_progress)
        image = size_of(train_set.read_image(0))
        if data.resize:
            _warn_of_stretching(image, data.resize)
        _warn_of_padding(data.resize or image, data)
    if len(val_set) < config.trainer.devices:
        raise ConfigError(
            f"trainer.devices must be at most the {len(val_set)} images of split "
            f"{data.val_split}, got {config.trainer.devices}"
        )
    return train_set, val_set


def _require_same_classes(files: RunFolder, material: Mapping[str, Any]) -> None:
    """Never go on with classes that mean something else; other files are told of."""
    held = read_material(files)
    if held is None:
        return
    names = [", ".join(one["classes"]) for one in (held, material)]
    if names[0] != names[1] or held["meanings"] != material["meanings"]:
        told = " -> ".join(names) if names[0] != names[1] else "their ids or colours have changed"
        raise ConfigError(
            f"cannot resume '{files.path}' with other classes ({told}); put them back, or choose "
            "another --name"
        )
    if held["files"] != material["files"]:
        tell(
            f"tsic: warning: the images or masks are others than when '{files.path}' began; it "
            "goes on with those that are there now\n"
        )


def training_images(
    config: RunConfig,
    train_set: SegmentationDataset,
    *,
    apart_from: Sequence[SegmentationDataset] = (),
) -> TrainImages:
    """What a run trains on: the labelled images, and those of ``data.unlabelled`` if it has some.

    Args:
        config: The run.
        train_set: Its labelled images.
        apart_from: Datasets whose images are left out, should they lie among the unlabelled.

    Raises:
        DataError: If there are none, or one to be compared cannot be decoded.
    """
    if config.data.unlabelled is None:
        return train_set
    unlabelled = found = open_unlabelled(Path(config.data.unlabelled), train_set.classes)
    if apart_from:
        with progress("look for labelled images among the others") as on_progress:
            unlabelled = without_copies(found, *apart_from, on_progress=on_progress)
        if is_main():
            copies = len(found) - len(unlabelled)
            more = f", {copies} more left out, which have labels" if copies else ""
            tell(f"unlabelled: {len(unlabelled)} images{more}\n")
    return Joined(train_set, unlabelled)


def _warn_of_stretching(image: Size, resize: Size) -> None:
    """Say so where ``data.resize`` has not the proportions of the images."""
    ratio = (resize[0] / image[0]) / (resize[1] / image[1])
    if max(ratio, 1 / ratio) > 1.1:
        kept = [round(side * math.sqrt(math.prod(resize) / math.prod(image))) for side in image]
        tell(
            f"tsic: warning: data.resize {list(resize)} stretches images of {list(image)} pixels, "
            f"here and wherever the student is used; {kept} keeps their proportions\n"
        )


def _warn_of_padding(image: Size, data: DataConfig) -> None:
    """Say so where a crop is mostly padding, however large an image gets."""
    largest = [math.floor(side * data.scale[1]) for side in image]
    shown = math.prod(min(pair) for pair in zip(largest, data.crop, strict=True))
    if 2 * shown < math.prod(data.crop):
        tell(
            f"tsic: warning: crops of {list(data.crop)} pixels are mostly padding: the first "
            f"image, of {list(image)}, gets no larger than {largest}; set data.crop smaller\n"
        )


def _leaves_unused(config: RunConfig, module: CycleModule) -> bool:
    """Whether trained weights have no gradient in some steps, which several devices must know.

    The teacher's while it warms up and for prompts that it does not use; some encoders' always.
    """
    cycle = module.cycle
    return config.trainer.devices > 1 and (cycle.teaches or bool(cycle.student.idle_weights()))


def segmentation_data(
    config: RunConfig,
    images: TrainImages,
    val_set: SegmentationDataset | None,
    hints: StoredHints | None = None,
) -> SegmentationData:
    """Batches of a run; no validation split leaves validation out."""
    data = config.data
    transform = TrainTransform(
        data.crop,
        scale=data.scale,
        max_class_share=data.max_class_share,
        rare_crop=data.rare_crop,
        flip=data.flip,
        resize=data.resize,
    )
    train = TrainDataset(
        images,
        transform,
        config.seed,
        photometric=data.photometric,
        on_error=data.on_error,
        hints=hints,
    )
    return SegmentationData(
        train,
        val_set,
        batch_size=micro_batch(config),
        workers=data.workers,
        accumulate=config.trainer.accumulate,
        unlabelled=unlabelled_images(config),
    )


def _finish(
    config: RunConfig,
    files: RunFolder,
    module: CycleModule,
    val_set: SegmentationDataset,
    cost: Cost,
    unlabelled: int,
) -> tuple[Report, Report | None]:
    """Write the best student and its scores."""
    device = module.device
    # Built anew: what mixed precision rounded for good has no part in scores.
    module = build_module(config, val_set.classes).to(device).eval()
    load_weights(module, files.best if files.best.is_file() else files.last)
    confusions = Confusions(val_set.classes.num_classes)
    reports = {
        role: evaluate(
            ScorerModel(score, val_set, device, config.data.resize),
            val_set,
            on_image=confusions.add if role == "student" else None,
        )
        for role, score in scorers(module).items()
    }
    confusions.save(files.confusions)
    written = {
        "split": config.data.val_split,
        **reports["student"].to_dict(),
        "teacher": reports["teacher"].to_dict() if "teacher" in reports else None,
        "training_seconds": cost.seconds,
        "waiting_seconds": cost.waiting_seconds,
        "embedding_seconds": cost.embedding_seconds,
        "peak_memory_mib": cost.memory_mib,
    }
    write_json(files.evaluation, written)
    facts: dict[str, Any] = {
        "resize": list(config.data.resize) if config.data.resize else None,
        "training": {
            "data": config.data.name,
            "train_split": config.data.train_split,
            "val_split": config.data.val_split,
            "unlabelled_images": unlabelled,
            "crop": list(config.data.crop),
            "steps": config.max_steps,
            "seed": config.seed,
            "recipe": config.method,
            "teacher": public_name(config.distill.teacher or config.teacher.name),
            "val_miou": reports["student"].miou,
        },
        "scores": {key: written[key] for key in SCORES},
    }
    save_student(files.path, module.student, val_set.classes, facts)
    return reports["student"], reports.get("teacher")
