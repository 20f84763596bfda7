"""One pretraining from configuration to a folder that `teacher.name` takes."""

import time
from dataclasses import dataclass
from pathlib import Path

from tsic.config_file import differences
from tsic.data.readers import open_dataset
from tsic.errors import ConfigError
from tsic.evaluation.scores import percent
from tsic.files import write_json
from tsic.pretrain.config import PRETRAIN, PretrainConfig, SourceConfig
from tsic.pretrain.data import PretrainData, PromptedImages
from tsic.pretrain.leaves import draw_leaves
from tsic.pretrain.module import SCORES, PretrainModule
from tsic.pretrain.pictures import Answers
from tsic.pretrain.promptable import Promptable
from tsic.pretrain.region_cache import RegionCache, propose_all
from tsic.pretrain.sources import (
    LabelledImages,
    Source,
    UnlabelledImages,
    find_images,
    streets,
)
from tsic.progress import progress
from tsic.report import Curves, write_report
from tsic.teacher.sam import load_foundation, save_foundation
from tsic.training.callbacks import read_metrics
from tsic.training.changes import Labelled, moved
from tsic.training.folder import TrainingFolder
from tsic.training.keep import read_checkpoint
from tsic.training.loop import begun, fit, make_trainer, refuse_other_run, resolve

_FREE = ("workers", "trainer.log_every", "trainer.save_every", "trainer.pictures", "source.root")


def _changes(held: PretrainConfig, asked: PretrainConfig) -> list[str]:
    changed = [one for one in differences(held, asked) if not one.startswith(_FREE)]
    if asked.source.name == "none":
        return changed
    return changed + moved("source.root", *(_labelled(one.source) for one in (held, asked)))


def _labelled(source: SourceConfig) -> Labelled:
    return Labelled(source.name, source.root, source.classes, (source.split,))


@dataclass(frozen=True)
class PretrainResult:
    """What a finished pretraining leaves.

    Attributes:
        folder: Its files; the folder itself is what ``teacher.name`` takes.
        scores: Scores of the best checkpoint, by the names of ``tsic.pretrain.module.SCORES``.
        seconds: Wall time of this part of the training.
    """

    folder: TrainingFolder
    scores: dict[str, float]
    seconds: float


def pretrain(
    config: PretrainConfig, folder: str | Path, *, resume: bool = False, label: str = "pretrain"
) -> PretrainResult:
    """Train a promptable model what a configuration says, into a folder.

    The folder then holds ``config.json`` and ``model.safetensors`` (float16) in the hub's own
    format.

    Args:
        config: Everything that determines the training.
        folder: Made if need be.
        resume: Go on from ``checkpoints/last.ckpt`` if the folder has one.
        label: What the progress bar calls it.

    Returns:
        Files and scores.

    Raises:
        ConfigError: If the folder holds another training, or the configuration cannot work.
        DataError: If an image cannot be read.
        NonFiniteLossError: If a loss is NaN or infinite.
    """
    start = time.monotonic()
    files = TrainingFolder(Path(folder))
    config = resolve(PRETRAIN, config, files)
    refuse_other_run(PRETRAIN, config, files, resume=resume, changes=_changes)
    resumes = resume and files.last.is_file()
    train, val = _sources(config, files)
    module = PretrainModule(Promptable(load_foundation(config.init, "init")), config, list(val))
    with begun(PRETRAIN, config, files, resume=resume, changes=_changes):
        data = PretrainData(
            _images(config, train, "train"),
            {name: _images(config, [(source, 1.0)], "val") for name, source in val.items()},
            batch_size=config.batch_size // (config.trainer.devices * config.trainer.accumulate),
            val_images=config.val_images,
            workers=config.workers,
            accumulate=config.trainer.accumulate,
        )
        trainer = make_trainer(
            config.trainer,
            files,
            label,
            max_steps=config.max_steps,
            monitor="val/answer_iou",
            callbacks=[Answers(files.samples, data.val, config.trainer.pictures)],
            leaves_unused=True,  # a batch without lone points leaves the ambiguous outputs alone
            resumes=resumes,
        )
        fit(trainer, module, data, files, resumes=resumes)
        return _finish(config, files, module, label, start)


def _sources(
    config: PretrainConfig, files: TrainingFolder
) -> tuple[list[tuple[Source, float]], dict[str, Source]]:
    """What to train on, with shares, and what to score on."""
    source = config.source
    train: list[tuple[Source, float]] = [(draw_leaves, source.leaves), (streets, source.streets)]
    val: dict[str, Source] = {}
    if source.leaves:
        val["leaves"] = draw_leaves
    if source.streets:
        val["streets"] = streets
    if source.images:
        paths = find_images(Path(source.images))
        with progress("propose regions") as on_progress:
            cache = RegionCache(files.path / "regions")
            propose_all(paths, cache, on_progress)
        if not any(cache.known(path).any() for path in paths[:: max(1, len(paths) // 100)]):
            raise ConfigError(
                f"no region was found in the images of source.images '{source.images}': nothing in "
                "them has an edge around it; give images with things in them"
            )
        held, kept = _held_out(len(paths), config.val_images)
        shown = UnlabelledImages([paths[i] for i in kept], cache, config.scale)
        train.append((shown, source.images_share))
        val["images"] = UnlabelledImages([paths[i] for i in held], cache, config.scale)
    if source.name != "none":
        dataset = open_dataset(source.name, source.root, source.split, source.classes)
        if len(dataset) < 2:
            raise ConfigError(
                f"split '{source.split}' of source.root '{source.root}' holds {len(dataset)} "
                "image; at least 2 are needed, one to train on and one held out"
            )
        held, kept = _held_out(len(dataset), config.val_images)
        train.append((LabelledImages(dataset, kept, config.scale), source.labelled_share))
        val["labelled"] = LabelledImages(dataset, held, config.scale)
    return [(one, share) for one, share in train if share], val


def _held_out(count: int, most: int) -> tuple[list[int], list[int]]:
    """Indices to score on, a tenth spread over all, and the others."""
    step = max(10, -(-count // most))
    held = list(range(0, count, step))
    return held, [i for i in range(count) if i % step]


def _images(
    config: PretrainConfig, sources: list[tuple[Source, float]], purpose: str
) -> PromptedImages:
    return PromptedImages(
        sources,
        config.seed,
        purpose,
        sizes=config.crops if purpose == "train" else config.crops[-1:],
        per_step=config.batch_size,
        prompts=config.prompts,
    )


def _finish(
    config: PretrainConfig, files: TrainingFolder, module: PretrainModule, label: str, start: float
) -> PretrainResult:
    """Write the best model, its scores and the report."""
    step, state = read_checkpoint(files.best, module.device, "train again")
    module.load_state_dict(state)
    save_foundation(module.scored.foundation, files.path)
    # Finished steps, which the file of metrics counts, too.
    logged = {name: value for at, name, value in read_metrics(files.metrics) if at == step}
    scores = {name: logged[f"val/{name}"] for name in SCORES}
    write_json(files.evaluation, {"step": step, **scores})
    seconds = time.monotonic() - start
    write_report(
        files.report,
        title=label,
        intro=(
            "A promptable segmenter, asked for masks with faulty ones, points and boxes. Scores "
            f"are those of the best checkpoint (step {step}) on held-out images, which also chose "
            "it: mean IoU with the truth, in percent."
        ),
        summary=[
            ("prompted masks", percent(scores["prompt_iou"])),
            ("answers to them", percent(scores["answer_iou"])),
            ("answers when asked again", percent(scores["second_iou"])),
            ("answers to points and boxes", percent(scores["point_iou"])),
            ("steps", f"{config.max_steps}"),
            ("seed", f"{config.seed}"),
            ("seconds", f"{seconds:.0f}"),
        ],
        curves=_curves(files),
        pictures=[("After the last step", path) for path in sorted(files.samples.glob("*"))[-1:]],
    )
    return PretrainResult(files, scores, seconds)


def _curves(files: TrainingFolder) -> Curves:
    plots: dict[str, dict[str, list[tuple[int, float]]]] = {}
    for step, name, value in read_metrics(files.metrics):
        group, line = name.split("/")
        title = {"val": "held-out IoU, %", "train": "losses"}.get(
            group, f"held-out IoU on {group}, %"
        )
        plots.setdefault(title, {}).setdefault(line, []).append((step, value))
    return plots
