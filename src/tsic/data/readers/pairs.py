"""Which image belongs to which mask, by their names or by a list file."""

from pathlib import Path, PurePosixPath

from tsic.data.dataset import Problem, Sample
from tsic.data.images import SUFFIXES
from tsic.errors import DataError


def pair_folders(
    root: Path, images: Path, masks: Path
) -> tuple[tuple[Sample, ...], tuple[Problem, ...]]:
    """Pair the files of two folders by their names without the ending.

    Args:
        root: The dataset's folder; sample names are relative to it.
        images: Folder of images.
        masks: Folder of masks.

    Returns:
        Complete pairs sorted by name, and what had to be left out.
    """
    image_files, problems = _by_stem(images)
    mask_files, more = _by_stem(masks)
    problems += more
    for stem in sorted(image_files.keys() - mask_files.keys()):
        problems.append(
            Problem("missing mask", image_files[stem], f"no mask of this name in {masks}")
        )
    for stem in sorted(mask_files.keys() - image_files.keys()):
        problems.append(
            Problem("missing image", mask_files[stem], f"no image of this name in {images}")
        )
    samples = (
        Sample(image_files[stem], mask_files[stem], image_files[stem].relative_to(root).as_posix())
        for stem in sorted(image_files.keys() & mask_files.keys())
    )
    return tuple(samples), tuple(problems)


def _by_stem(folder: Path) -> tuple[dict[str, Path], list[Problem]]:
    """Image files of a folder by name without ending; of two with one name the first counts."""
    files: dict[str, Path] = {}
    problems = []
    for file in sorted(folder.iterdir()) if folder.is_dir() else ():
        if file.name.startswith(".") or file.suffix.lower() not in SUFFIXES:
            continue
        if file.stem in files:
            other = files[file.stem].name
            problems.append(Problem("duplicate", file, f"same name as {other}; remove one"))
        else:
            files[file.stem] = file
    return files, problems


def listed_pairs(root: Path, list_file: Path) -> tuple[tuple[Sample, ...], tuple[Problem, ...]]:
    """Read a list file; a pair with a missing file becomes a problem."""
    samples, problems = [], []
    for number, line in enumerate(list_file.read_text(encoding="utf-8").splitlines(), start=1):
        fields = line.split()
        if not fields:
            continue
        if len(fields) != 2:
            raise DataError(f"{list_file}: line {number} must be 'image mask', got '{line}'")
        image, mask = (_locate(root, field) for field in fields)
        where = f"listed in {list_file.name}, line {number}, but not there"
        if not image.is_file():
            problems.append(Problem("missing image", image, where))
        elif not mask.is_file():
            problems.append(Problem("missing mask", mask, where))
        else:
            samples.append(Sample(image, mask, image.relative_to(root).as_posix()))
    return tuple(samples), tuple(problems)


def _locate(root: Path, listed: str) -> Path:
    """Find a listed file below the root, dropping as little of its path's front as needed."""
    parts = [part for part in PurePosixPath(listed).parts if part != "/"]
    candidates = [root.joinpath(*parts[i:]) for i in range(len(parts))]
    return next((path for path in candidates if path.is_file()), candidates[0])
