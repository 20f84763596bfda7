"""What a frozen encoder saw of whole images, stored, and cut to what a crop shows."""

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tsic.data.transforms import View
from tsic.errors import ConfigError, DataError
from tsic.files import write_text

_STRIDE = 16


def cells_of(view: View) -> list[int]:
    """Rows and columns of the hints of a crop: a cell for every 16 pixels."""
    return [-(-side // _STRIDE) for side in view.crop]


class StoredHints:
    """A folder with a file for each image: its embedding, and that of its mirror image.

    Args:
        folder: Where.
        names: Of the images, in the dataset's order.
        encoder: What tells the encoder and the size of its images from others.

    Raises:
        ConfigError: If the folder holds embeddings of other images, or by another encoder.
    """

    def __init__(self, folder: Path, names: Sequence[str], encoder: str) -> None:
        self.folder = folder
        self.names = tuple(names)
        self.about = {
            "encoder": encoder,
            "images": hashlib.sha256("\n".join(names).encode()).hexdigest(),
        }
        try:
            held = json.loads(self._note.read_text()) if self._note.is_file() else self.about
            differs = [key for key in self.about if held.get(key) != self.about[key]]
        except (ValueError, AttributeError):  # no JSON, or no object
            differs = list(self.about)
        if differs:
            raise ConfigError(
                f"teacher.hint_cache '{folder}' was made with other {' and '.join(differs)} than "
                "this run has; choose another folder"
            )

    @property
    def _note(self) -> Path:
        return self.folder / "about.json"

    def _file(self, index: int) -> Path:
        return self.folder / f"{index:06d}.npy"

    def has(self, index: int) -> bool:
        """Whether an image has its embedding."""
        return self._file(index).is_file()

    def missing(self) -> list[int]:
        """Images that have none yet."""
        return [index for index in range(len(self.names)) if not self.has(index)]

    def write(self, index: int, embeddings: Tensor) -> None:
        """Store ``(2, D, h, w)`` of an image and of its mirror image; they cover both exactly."""
        if not self._note.is_file():
            self.folder.mkdir(parents=True, exist_ok=True)
            write_text(self._note, json.dumps(self.about, indent=1))
        # Runs side by side may make the same file: each in a place of its own.
        own = self._file(index).with_suffix(f".{os.getpid()}")
        try:
            with own.open("wb") as file:
                np.save(file, embeddings.half().cpu().numpy())
            own.replace(self._file(index))
        finally:
            own.unlink(missing_ok=True)

    def crop(self, index: int, view: View) -> Tensor:
        """What the encoder saw of an image, where a crop lies.

        Where the crop is padded, the image's border goes on.

        Returns:
            Float16 ``(D, ceil(H / 16), ceil(W / 16))`` for a crop of ``H x W``.

        Raises:
            DataError: If the image's file is missing or damaged.
        """
        try:
            stored = np.load(self._file(index), mmap_mode="r")[int(view.mirrored)]
        except (OSError, ValueError, IndexError, EOFError) as error:
            raise DataError(
                f"{self._file(index)}: no embedding of {self.names[index]} can be read from it "
                f"({error}); delete it, then --resume auto"
            ) from error
        maps = torch.from_numpy(stored.astype(np.float32))[None]
        cells = cells_of(view)
        # As many samples a cell as the embedding has cells there: none is passed over.
        finer = max(
            1,
            *(
                round(have * side / whole / cell)
                for have, side, whole, cell in zip(
                    maps.shape[2:], view.crop, view.scaled, cells, strict=True
                )
            ),
        )
        size = [1, 1, *(finer * cell for cell in cells)]
        places = F.affine_grid(view.affine()[None], size, align_corners=False)
        seen = F.grid_sample(maps, places, padding_mode="border", align_corners=False)
        return F.avg_pool2d(seen, finer)[0].half()
