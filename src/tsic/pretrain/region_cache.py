"""Proposed regions of image files, found once and kept."""

import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from hashlib import blake2b
from multiprocessing.connection import wait
from pathlib import Path
from threading import Thread

import numpy as np
from PIL import Image

from tsic.data.images import read_image, read_mask
from tsic.errors import DataError
from tsic.files import replacing
from tsic.machine import usable_cores
from tsic.pretrain.proposals import PROPOSALS_VERSION, Pixels, Regions, propose_regions
from tsic.progress import OnProgress


class RegionCache:
    """Regions of image files, kept in a folder from one run to the next.

    Args:
        folder: Where they are kept; made when missing.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def regions(self, path: Path, image: Callable[[], Pixels]) -> Regions:
        """Regions of an image file, found now unless they are known.

        Args:
            path: Image file; a file that was changed since is another one.
            image: Reads it, RGB ``(H, W, 3)``; called only where its regions are not known.

        Returns:
            ``(H, W)`` as `propose_regions` returns it.

        Raises:
            DataError: If there is no such file, or what ``image`` raises.
        """
        cached = self.file(path)
        try:
            return read_mask(cached).astype(np.uint16)
        except DataError:  # missing or damaged
            regions = propose_regions(image())
        self.folder.mkdir(parents=True, exist_ok=True)
        with replacing(cached) as part:
            Image.fromarray(regions).save(part, format="PNG")
        return regions

    def known(self, path: Path) -> Regions:
        """Regions of an image file, read only if they are not known; see `regions`."""
        return self.regions(path, lambda: read_image(path).permute(1, 2, 0).numpy())

    def file(self, path: Path) -> Path:
        """Where the regions of an image file are kept.

        Args:
            path: Image file.

        Returns:
            A file of the folder, which need not exist.

        Raises:
            DataError: If there is no such image file.
        """
        try:
            found = path.stat()
        except OSError as error:
            raise DataError(f"{path}: cannot be read: {error.strerror}") from error
        key = (str(path.resolve()), found.st_size, found.st_mtime_ns, PROPOSALS_VERSION)
        return self.folder / f"{blake2b(repr(key).encode(), digest_size=16).hexdigest()}.png"


def propose_all(
    paths: Sequence[Path], cache: RegionCache, on_progress: OnProgress | None = None
) -> None:
    """Find the regions of all images that a cache does not have, one process per core.

    Args:
        paths: Image files.
        cache: What is filled.
        on_progress: Called with (images done, images in all) after each image.

    Raises:
        DataError: If an image cannot be read; names it.
    """
    distinct = {cache.file(path): path for path in paths}
    missing = [path for cached, path in distinct.items() if not cached.exists()]
    if not missing:
        return
    workers = min(usable_cores(), len(missing))
    context = multiprocessing.get_context("spawn")  # a fork would inherit torch's threads
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_end_with_parent) as pool:
        known = len(distinct) - len(missing)
        for done, _ in enumerate(pool.map(partial(_fill, cache), missing), start=known + 1):
            if on_progress is not None:
                on_progress(done, len(distinct))


def _end_with_parent() -> None:
    """Let no worker outlive a process that is killed: it would wait for work for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    Thread(target=watch, daemon=True).start()


def _fill(cache: RegionCache, path: Path) -> None:
    """Put the regions of one image file into a cache."""
    cache.known(path)
