"""A dataset as raw bytes, from which a worker reads only the pixels that a crop needs."""

import glob
import json
import os
import re
import shutil
import zlib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, astuple, dataclass
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from typing import Any, BinaryIO, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from typing_extensions import override

from tsic.data.dataset import Sample, SegmentationDataset, Store, Values
from tsic.data.images import Verified
from tsic.errors import CheckpointError, DataError
from tsic.files import alone_in, replacing, write_json
from tsic.progress import OnProgress

FORMAT = 1
"""Counts up whenever the files' layout changes."""

SOURCE = ("reader", "root", "classes", "fingerprint")
"""What a pack knows of where it comes from."""


@dataclass(frozen=True)
class Entry:
    """Where one pair lies in a packed split.

    Args:
        name: Path of the image relative to its dataset's root.
        height: Rows.
        width: Columns.
        start: First of its pixels, counted in pixels from the start of the files.
        image_crc: CRC-32 of its image's bytes.
        mask_crc: CRC-32 of its mask's bytes.
    """

    name: str
    height: int
    width: int
    start: int
    image_crc: int
    mask_crc: int


@dataclass(frozen=True)
class Pack:
    """One packed split: ``SPLIT.images`` and ``SPLIT.masks`` hold pixels, ``SPLIT.json`` the rest.

    Images are RGB bytes, row by row; masks are train ids, 255 ignored, one byte a pixel.

    Args:
        source: Reader, root and class table (paths relative to the pack, the table's empty where
            it was the reader's own) and fingerprint of what was packed.
        classes: The class table as its dictionary.
        entries: Every pair, in the order of the source.
    """

    source: Mapping[str, str]
    classes: Mapping[str, Any]
    entries: tuple[Entry, ...]

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read ``SPLIT.json``.

        Raises:
            CheckpointError: If it is damaged or of another format.
        """
        try:
            held = json.loads(path.read_text(encoding="utf-8"))
            if held["format"] != FORMAT:
                raise CheckpointError(
                    f"{path} has format {held['format']}, this tsic reads {FORMAT}; pack again"
                )
            entries = tuple(Entry(**entry) for entry in held["entries"])
            source = {key: held["source"][key] for key in SOURCE}
            numbers = [number for entry in entries for number in astuple(entry)[1:]]
            if not entries or not all(isinstance(one, int) and one >= 0 for one in numbers):
                raise ValueError("entries are no pairs")
            return cls(source, held["classes"], entries)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{path} is damaged ({error}); pack again") from error

    def write(self, path: Path) -> None:
        """Write ``SPLIT.json``, whole or not at all."""
        held = {"format": FORMAT, "source": self.source, "classes": self.classes}
        entries = [asdict(entry) for entry in self.entries]
        write_json(path, {**held, "entries": entries})

    def cut_short(self, folder: Path, split: str) -> Path | None:
        """The first of the two files that is missing or not as long as the pairs ask for."""
        last = self.entries[-1]
        pixels = last.start + last.height * last.width
        for kind, channels in (("images", 3), ("masks", 1)):
            file = folder / f"{split}.{kind}"
            if not file.is_file() or file.stat().st_size != pixels * channels:
                return file
        return None


class PackedStore(Store):
    """Reads pairs of a packed split as views of the mapped files: nothing is decoded or copied.

    Args:
        folder: Where the pack lies.
        split: Which split.
        entries: Its pairs.
    """

    holds_train_ids = True

    def __init__(self, folder: Path, split: str, entries: tuple[Entry, ...]) -> None:
        self.folder = folder
        self.split = split
        self.entries = {entry.name: entry for entry in entries}

    @override
    def image(self, sample: Sample, rows: int | None = None) -> Tensor:
        pixels = torch.from_numpy(self._pixels(sample, "images", 3))
        return pixels.permute(2, 0, 1)

    @override
    def verify(self, sample: Sample) -> Verified:
        entry = self.entries[sample.name]
        for kind, channels, crc in (("images", 3, entry.image_crc), ("masks", 1, entry.mask_crc)):
            if zlib.crc32(self._pixels(sample, kind, channels).data) != crc:
                raise DataError(
                    f"bytes of {sample.name} have changed; delete {self.folder} and pack again"
                )
        size = entry.height, entry.width
        digest = blake2b(self._pixels(sample, "images", 3).data, digest_size=16)
        digest.update(str(size).encode())
        return Verified(size, digest.digest())

    @override
    def surprises(self, sample: Sample) -> tuple[()]:
        return ()

    @override
    def mask(self, sample: Sample) -> Values:
        return self._pixels(sample, "masks", 1)[..., 0]

    def _pixels(self, sample: Sample, kind: str, channels: int) -> npt.NDArray[np.uint8]:
        """View of one pair's pixels, ``(H, W, channels)``."""
        entry = self.entries[sample.name]
        count = entry.height * entry.width * channels
        start = entry.start * channels
        file = self.folder / f"{self.split}.{kind}"
        try:
            flat = _mapped(file, file.stat().st_ino)[start : start + count]
            return flat.reshape(entry.height, entry.width, channels)
        except (OSError, ValueError) as error:
            raise DataError(f"{file}: cannot be read ({error}); pack again") from error


@lru_cache(maxsize=16)
def _mapped(path: Path, inode: int) -> npt.NDArray[np.uint8]:
    """Map a file into memory, once per process; writes would not reach the file."""
    return np.memmap(path, np.uint8, mode="c")


def pack_split(
    dataset: SegmentationDataset,
    out: Path,
    classes: str | Path | None = None,
    *,
    on_progress: OnProgress | None = None,
) -> bool:
    """Pack one split; an interruption leaves no pack, and one that is there and fits is kept.

    Args:
        dataset: What to pack; check it first, since the first bad file stops the packing.
        out: Folder to write to, made if need be.
        classes: Class table (YAML) that the dataset was opened with, if any.
        on_progress: Called with (pairs done, pairs in all) after each pair.

    Returns:
        Whether it was written; ``False`` if the same source had been packed there before.

    Raises:
        ConfigError: If another process packs there.
        DataError: If a pair cannot be read, the disk is too small, or another source or what is no
            pack lies there.
    """
    out.mkdir(parents=True, exist_ok=True)
    source = {
        "reader": dataset.name,
        "root": _from(out, dataset.root),  # so that both can move together
        "classes": _from(out, classes) if classes else "",
        "fingerprint": fingerprint(dataset),
    }
    held = _whole_pack(out, dataset.split)
    if held is not None:
        if held.source["fingerprint"] == source["fingerprint"]:
            return False
        raise DataError(
            f"{out} holds another pack of the split '{dataset.split}', of other files, other "
            "classes, or from before the files changed; choose another folder or delete it"
        )
    files = [out / f"{dataset.split}.{kind}" for kind in ("images", "masks")]
    with alone_in(out, "packs", other="folder"):
        for file in files:
            for left in out.glob(f"{glob.escape(file.name)}.*.part"):
                left.unlink(missing_ok=True)  # by a packing that was killed
        with (
            replacing(files[0]) as images,
            replacing(files[1]) as masks,
            images.open("wb") as image_file,
            masks.open("wb") as mask_file,
        ):
            entries = tuple(_write_pairs(dataset, out, image_file, mask_file, on_progress))
        Pack(source, dataset.classes.to_dict(), entries).write(out / f"{dataset.split}.json")
    return True


def require_room(out: Path, split: str) -> None:
    """Refuse to write over a file that is no pack's: `coco` has annotations of this name.

    Raises:
        DataError: If there is one.
    """
    file = out / f"{split}.json"
    if file.is_file() and not re.match(rb'\s*(\{\s*"format": \d|$)', file.read_bytes()):
        raise DataError(f"{file} is no pack's, and would be overwritten; choose another folder")


def _whole_pack(out: Path, split: str) -> Pack | None:
    """The pack that lies there; ``None`` where a part is missing or damaged."""
    require_room(out, split)
    try:
        pack = Pack.read(out / f"{split}.json")
    except CheckpointError:
        return None
    return pack if not pack.cut_short(out, split) else None


def _write_pairs(
    dataset: SegmentationDataset,
    out: Path,
    image_file: BinaryIO,
    mask_file: BinaryIO,
    on_progress: OnProgress | None,
) -> Iterator[Entry]:
    """Append every pair to the two files, decoding a few ahead on threads."""
    start = 0
    with ThreadPoolExecutor() as pool:
        for index in range(len(dataset)):
            if index % _AHEAD == 0:
                ahead = pool.map(dataset.read, range(index, min(index + _AHEAD, len(dataset))))
            image, label = next(ahead)
            height, width = label.shape
            pixels = image.permute(1, 2, 0).contiguous().numpy().data
            ids = label.numpy().data
            _require_space(out, pixels.nbytes + ids.nbytes)
            image_file.write(pixels)
            mask_file.write(ids)
            name = dataset.samples[index].name
            yield Entry(name, height, width, start, zlib.crc32(pixels), zlib.crc32(ids))
            start += height * width
            if on_progress is not None:
                on_progress(index + 1, len(dataset))


def _from(folder: Path, path: str | Path) -> str:
    """A path as the system finds it from a folder, which may be a link."""
    return os.path.relpath(Path(path).resolve(), folder.resolve())


_AHEAD = 8
_SPARE = 64 << 20  # bytes that stay free on the disk


def _require_space(folder: Path, needed: int) -> None:
    """Stop before the disk is full, where the message can still be written."""
    free = shutil.disk_usage(folder).free
    if free < needed + _SPARE:
        raise DataError(f"{folder}: only {free >> 20} MiB of the disk are free; pack elsewhere")


def fingerprint(dataset: SegmentationDataset) -> str:
    """Tell one state of a split from another: its files' names, sizes and times, and its classes.

    Args:
        dataset: The split; its files are looked at, not read.

    Returns:
        Hexadecimal digest.
    """
    digest = blake2b(json.dumps(dataset.classes.to_dict()).encode(), digest_size=16)
    files = [(s.name, file) for s in dataset.samples for file in (s.image, s.mask)]
    files += [(file.name, file) for file in dataset.files]
    for name, file in files:
        facts = file.stat() if file.exists() else None  # a sample may have no file of its own
        told = f"{name} {facts.st_size} {facts.st_mtime_ns}" if facts else name
        digest.update(f"{told}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()
