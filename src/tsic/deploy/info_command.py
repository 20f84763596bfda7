"""`tsic info` and `tsic push`: what a model file is, and a student where others find it."""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tsic.command_line import Parser, add_allow_code
from tsic.errors import ConfigError
from tsic.files import read_text
from tsic.streams import tell

# PyTorch is imported inside the verbs, once the words are right.


def info_command(words: Sequence[str]) -> int:
    """Tell what a student or an exported file is."""
    own = Parser(prog="tsic info", description="Tell what a student or an exported file is.")
    own.add_argument(
        "file",
        metavar="FILE",
        help="a run's folder, student.safetensors, zoo:name, hf:owner/name, or export",
    )
    own.add_argument(
        "--size", type=int, nargs=2, metavar=("H", "W"), help="also count multiply-adds at H x W px"
    )
    own.add_argument("--json", action="store_true", help="print JSON")
    add_allow_code(own)
    options = own.parse_args(list(words))
    if options.size and min(options.size) < 1:
        raise ConfigError(f"--size must be two numbers from 1, got {options.size}")
    from tsic.deploy.info import describe, to_text

    size = (options.size[0], options.size[1]) if options.size else None
    described = describe(options.file, size=size, allow_code=options.allow_code)
    text = json.dumps(described, indent=1) if options.json else to_text(described)
    sys.stdout.write(f"{text}\n")
    return 0


def push_command(words: Sequence[str]) -> int:
    """Put a student with its model card into a folder or on the hub."""
    options = _push_parser().parse_args(list(words))
    from tsic.deploy.hub import is_hub, parse_address, send_folder

    if is_hub(options.target):
        parse_address(options.target)
    elif options.private:
        raise ConfigError("--private is for a repository of the hub; push to hf:owner/name")
    elif Path(options.target).is_file():
        raise ConfigError(f"'{options.target}' is a file; name a folder or hf:owner/name")
    if not is_hub(options.target):
        names = _write(options, Path(options.target))
        sys.stdout.write(f"{options.target}: {', '.join(names)}\n")
        return 0
    with tempfile.TemporaryDirectory() as folder:
        names = _write(options, Path(folder))
        commit = send_folder(Path(folder), options.target, private=options.private)
    sys.stdout.write(f"{options.target}: {', '.join(names)}\n{commit}\n")
    return 0


def _push_parser() -> Parser:
    own = Parser(
        prog="tsic push",
        description="Put a student with its model card into a folder or on the Hugging Face hub.",
    )
    own.add_argument(
        "student", help="a run's folder, a student.safetensors, zoo:name, or hf:owner/name"
    )
    own.add_argument("target", help="hf:owner/name, with the hub's own login, or a local folder")
    own.add_argument(
        "--private", action="store_true", help="if the repository is new, for you only"
    )
    own.add_argument("--license", help="identifier for the card, such as apache-2.0")
    own.add_argument("--data", help="what the card says of the training data, in your words")
    add_allow_code(own)
    return own


def _write(options: argparse.Namespace, folder: Path) -> list[str]:
    """Write the student, its card and its exported files; return their names."""
    from tsic.checkpoint import find_student, load_student
    from tsic.deploy.card import Card, measured, read_run
    from tsic.deploy.hub import CARD_FILE, STUDENT_FILES, is_hub, write_folder

    facts = dict(load_student(options.student, allow_code=options.allow_code).facts)
    files = find_student(options.student)
    home = files.weights.parent
    beside = exported_beside(home, facts["weights_sha256"])
    exported = {str(file.relative_to(home)): file for file in beside}
    evaluation, config = read_run(home)
    # A repository has no evaluation.json: what it says goes with the student.
    facts |= {"scores": measured(facts, evaluation)}
    card = Card(
        address=options.target if is_hub(options.target) else Path(options.target).resolve().name,
        facts=facts,
        evaluation=evaluation,
        config=config,
        licence=options.license,
        data=options.data,
        exported=[name for name in exported if not name.endswith(".json")],
    )
    for proof in folder.glob("exported/*/export.json"):
        if str(proof.relative_to(folder)) not in exported and not _is_of(
            proof, facts["weights_sha256"]
        ):
            tell(
                f"tsic: warning: '{proof.parent}' is of another student than the one that is put "
                "beside it; remove it, or export this one there\n"
            )
    write_folder(
        folder,
        weights=files.weights,
        facts=json.dumps(facts, indent=1),
        card=card.to_markdown(),
        exported=exported,
    )
    return sorted([CARD_FILE, *STUDENT_FILES, *exported])


def _is_of(proof: Path, weights_sha256: str) -> bool:
    """Whether an ``export.json`` names the weights as those that its file was made of."""
    return weights_sha256 in read_text(proof)


def exported_beside(folder: Path, weights_sha256: str) -> list[Path]:
    """What `tsic export` proved and put beside a student, each format with its ``export.json``.

    Files of other weights are left out, and standard error says so.
    """
    found: list[Path] = []
    for proof in sorted(folder.glob("exported/*/export.json")):
        if _is_of(proof, weights_sha256):
            found += [file for file in sorted(proof.parent.iterdir()) if file.is_file()]
        else:
            tell(
                f"tsic: warning: '{proof.parent}' is left out, since it was not exported from "
                "these weights; export the student again\n"
            )
    return found
