"""The verbs of `tsic data`: each parses its words and calls one function."""

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tsic.command_line import Parser, make_room, require_least
from tsic.config import DataConfig
from tsic.config_file import load_config
from tsic.errors import ConfigError, EmptySplitError, SplitError, nearest
from tsic.files import write_json
from tsic.progress import progress
from tsic.streams import tell

if TYPE_CHECKING:
    from tsic.data.dataset import SegmentationDataset
    from tsic.data.survey import Finding

# PyTorch is imported inside the verbs, once the words are right.

USAGE = """usage: tsic data VERB [OPTIONS]

verbs:
  check      find what would hurt a training: missing, damaged or doubled files, wrong labels
  preview    draw some images with their labels and a legend
  pack       write the pixels as they are, for fast training

`tsic data VERB --help` documents every option. Exit codes: 0 done, 1 the check found what would
hurt a training, 2 a mistake in the command.
"""

USUAL_SPLITS = (("train",), ("val", "valid", "validation"), ("test",))
"""Splits that are checked, where they are there, when none is named; of several the first."""


def data_command(words: Sequence[str]) -> int:
    """Run one verb of `tsic data`."""
    if not words or words[0] in ("-h", "--help", "help"):
        sys.stdout.write(USAGE)
        return 0
    if words[0] not in VERBS:
        raise ConfigError(f"'{words[0]}' is no verb of tsic data; {nearest(words[0], VERBS)}")
    return VERBS[words[0]](words[1:])


def check_command(words: Sequence[str]) -> int:
    """Look at every file of a dataset; exit code 1 if a training would be hurt."""
    own = _parser("check", "Find what would hurt a training before it starts.")
    _add_splits(own)
    own.add_argument("--json", type=Path, metavar="FILE", help="also write all findings as JSON")
    own.add_argument("--max-listed", type=int, default=10, help="files listed of each kind")
    options = own.parse_args(list(words))
    require_least(options, 0, "max-listed")
    config = _data_config(options)
    if options.json:
        make_room(options.json)
    from tsic.data.survey import survey

    datasets, left_out = _open_splits(options, config, takes_empty=True)
    names = [dataset.split for dataset in datasets]
    trained_on = {s for s in names if s == config.train_split or s.startswith("train")}
    with progress("check") as on_progress:
        found = survey(
            datasets,
            trained_on=trained_on,
            scored_on={config.val_split},
            problems=[one for one in left_out if one.split != "test"],
            notes=[one for one in left_out if one.split == "test"],
            on_progress=on_progress,
        )
    sys.stdout.write(f"{found.to_text(options.max_listed)}\n")
    if options.json:
        write_json(options.json, found.to_dict())
    return 1 if found.problems else 0


def preview_command(words: Sequence[str]) -> int:
    """Draw some images of a split with their labels and a legend."""
    own = _parser("preview", "Draw some images with their labels and a legend.")
    own.add_argument("out", type=Path, metavar="OUT.png", help="picture to write")
    own.add_argument("--split", help="by default the training split")
    own.add_argument("--count", type=int, default=12, help="images on the picture")
    own.add_argument("--seed", type=int, default=0, help="decides which images")
    options = own.parse_args(list(words))
    require_least(options, 1, "count")
    if options.out.suffix.lower() != ".png":
        raise ConfigError(f"'{options.out}' must end in .png")
    config = _data_config(options)
    make_room(options.out)
    from tsic.data.preview import contact_sheet
    from tsic.data.readers import open_split
    from tsic.pictures import save_png

    split = options.split or config.train_split
    dataset = open_split(config, split)
    save_png(contact_sheet(dataset, count=options.count, seed=options.seed), options.out)
    shown = min(options.count, len(dataset))
    sys.stdout.write(f"{options.out}: {shown} of the {len(dataset)} images of split '{split}'\n")
    return 0


def pack_command(words: Sequence[str]) -> int:
    """Write splits as raw bytes, from which a worker reads only what a crop shows."""
    own = _parser("pack", "Write the pixels as they are: fast to read, 4 bytes a pixel.")
    own.add_argument("out", type=Path, metavar="OUT", help="folder to write, `data.root` of runs")
    _add_splits(own)
    options = own.parse_args(list(words))
    config = _data_config(options)
    make_room(options.out / "train.json")
    from tsic.data.check import require_clean
    from tsic.data.packed import pack_split, require_room

    datasets, left_out = _open_splits(options, config)
    for dataset in datasets:
        require_room(options.out, dataset.split)
    for one in left_out:
        tell(f"tsic: warning: not packed: {one.problem}\n")
    with progress("check") as on_progress:
        require_clean(*datasets, on_progress=on_progress)
    for dataset in datasets:
        with progress(f"pack {dataset.split}") as on_progress:
            is_new = pack_split(dataset, options.out, config.classes, on_progress=on_progress)
        what = f"{len(dataset)} pairs" if is_new else "is there already"
        sys.stdout.write(f"{options.out}: split '{dataset.split}', {what}\n")
    words = f"--data.name packed --data.root {options.out}"
    words += " --data.classes null" if config.classes else ""  # masks are mapped already
    sys.stdout.write(f"train on it with {words}\n")
    return 0


def _parser(verb: str, description: str) -> Parser:
    """What every verb takes: a dataset and how to read it."""
    own = Parser(prog=f"tsic data {verb}", description=description)
    own.add_argument(
        "dataset", metavar="DATASET", help="the dataset's folder, or a run's configuration (YAML)"
    )
    own.add_argument(
        "--name",
        "--data.name",
        help="reader, as `data.name` of a run; by default the configuration's, or `folder`",
    )
    own.add_argument(
        "--classes", "--data.classes", metavar="FILE", help="classes YAML to use instead"
    )
    return own


def _add_splits(own: Parser) -> None:
    own.add_argument(
        "--splits",
        nargs="+",
        metavar="SPLIT",
        help="by default those of train, val and test, or a configuration's two",
    )


def _data_config(options: argparse.Namespace) -> DataConfig:
    """Which data is meant; what was not said is as in the configuration."""
    path = options.dataset
    said = load_config(path).data if _is_configuration(path) else DataConfig(root=path)
    return replace(said, name=options.name or said.name, classes=options.classes or said.classes)


def _is_configuration(dataset: str) -> bool:
    return dataset.endswith((".yaml", ".yml"))


def _open_splits(
    options: argparse.Namespace, config: DataConfig, *, takes_empty: bool = False
) -> "tuple[list[SegmentationDataset], list[Finding]]":
    """The splits that were named; or those of a folder that are there, and what was left out."""
    from tsic.data.check import require_one_table
    from tsic.data.readers import open_split
    from tsic.data.survey import Finding

    splits = options.splits
    if not splits and _is_configuration(options.dataset):
        splits = [config.train_split, config.val_split]
    if splits:
        found = [open_split(config, split) for split in dict.fromkeys(splits)], list[Finding]()
    else:
        found = _open_usual(partial(open_split, config), Path(config.root), takes_empty=takes_empty)
    require_one_table(found[0])
    return found


def _open_usual(
    open_split: "Callable[[str], SegmentationDataset]", root: Path, *, takes_empty: bool
) -> "tuple[list[SegmentationDataset], list[Finding]]":
    """The usual splits that a folder has; a `test` may be without masks, as many are."""
    from tsic.data.dataset import Problem
    from tsic.data.survey import Finding

    def open_first(names: Sequence[str]) -> "SegmentationDataset | SplitError":
        errors = []
        for split in names:
            try:
                return open_split(split)
            except SplitError as error:
                if isinstance(error, EmptySplitError) and split != "test" and not takes_empty:
                    raise
                errors.append(error)
        return next((one for one in errors if isinstance(one, EmptySplitError)), errors[0])

    opened: list[SegmentationDataset] = []
    left_out, errors = [], []
    for names in USUAL_SPLITS:
        found = open_first(names)
        if isinstance(found, SplitError):
            errors.append(found)
            detail = str(found).removeprefix(f"{root}: ")
            if names[0] == "val":
                detail += "; add it, or name another as data.val_split"
            left_out.append(Finding(names[0], Problem("split left out", root, detail)))
        elif names[0] == "test" and opened and found.classes.names != opened[0].classes.names:
            detail = f"split 'test' has other classes: {', '.join(found.classes.names)}"
            left_out.append(Finding("test", Problem("split left out", root, detail)))
        else:
            opened.append(found)
    if not opened:
        raise errors[0]
    return opened, left_out


VERBS: dict[str, Callable[[Sequence[str]], int]] = {
    "check": check_command,
    "preview": preview_command,
    "pack": pack_command,
}
