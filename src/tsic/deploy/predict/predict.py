"""Label images and videos: read, label and write at the same time, in bounded memory."""

from collections import deque
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from PIL import Image
from torch import Tensor

from tsic.data.images import read_image, read_size
from tsic.deploy.labelling import label_batch, label_with_probabilities
from tsic.deploy.model import Model
from tsic.deploy.predict.inputs import Input
from tsic.deploy.predict.outputs import (
    CocoImage,
    CocoWriter,
    Probabilities,
    files_of,
    read_labels,
    video_file,
    write_image,
)
from tsic.deploy.predict.plan import Outcome, Plan
from tsic.deploy.predict.video import label_video
from tsic.errors import TsicError
from tsic.progress import OnProgress, progress

PIXELS_IN_FLIGHT = 2**25
"""Pixels of all images between reading and writing; a larger image is alone."""

IMAGES_IN_FLIGHT = 64
"""Most images between reading and writing."""

THREADS = 2
"""That read, and as many that write; inference has its own."""


def predict_videos(model: Model, inputs: Iterable[Input], plan: Plan, outcome: Outcome) -> None:
    """Label videos one after the other, each with its own bar.

    Args:
        model: Who scores.
        inputs: Videos.
        plan: What to do with each.
        outcome: Told what became of each.

    Raises:
        OSError: If the disk is full.
    """
    for one in inputs:
        target = video_file(one, plan.wanted)
        try:
            if plan.skips(one):
                outcome.skipped += 1
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            with progress(one.source.name) as on_progress:
                label_video(
                    one.source,
                    target,
                    lambda frames: label_batch(model, frames, plan.view),
                    model.classes,
                    opacity=plan.wanted.opacity,
                    batch=plan.batch,
                    on_progress=on_progress,
                )
            outcome.videos += 1
        except (TsicError, OSError, RuntimeError) as error:
            outcome.fail(one, error)


def predict_images(
    model: Model,
    inputs: Sequence[Input],
    plan: Plan,
    outcome: Outcome,
    *,
    coco: CocoWriter | None = None,
    on_progress: OnProgress | None = None,
) -> None:
    """Label images: some threads read ahead, this one labels, others write.

    Args:
        model: Who scores.
        inputs: Images.
        plan: What to do with each.
        outcome: Told what became of each.
        coco: Also takes the labels of every image, in the order of the inputs.
        on_progress: Called with inputs done and in all.

    Raises:
        OSError: If the disk is full.
    """
    with (
        ThreadPoolExecutor(THREADS, "read") as readers,
        ThreadPoolExecutor(THREADS, "write") as writers,
    ):
        try:
            _Pipeline(model, plan, outcome, coco, readers, writers).run(inputs, on_progress)
        except BaseException:  # Ctrl-C, too: what is being written is finished, no more
            for threads in (readers, writers):
                threads.shutdown(wait=False, cancel_futures=True)
            raise


class _Reading(NamedTuple):
    """An image that a thread reads; of one that is skipped, it gives what COCO's file needs."""

    one: Input
    pixels: int
    image: "Future[Tensor | CocoImage | None]"


class _Writing(NamedTuple):
    """An image whose results a thread writes; it gives what COCO's file needs."""

    one: Input
    pixels: int
    written: "Future[CocoImage | None]"
    is_new: bool = True


class _Pipeline:
    """Images between reading and writing, bounded in number and in pixels."""

    def __init__(
        self,
        model: Model,
        plan: Plan,
        outcome: Outcome,
        coco: CocoWriter | None,
        readers: ThreadPoolExecutor,
        writers: ThreadPoolExecutor,
    ) -> None:
        self._model, self._plan, self._outcome, self._coco = model, plan, outcome, coco
        self._readers, self._writers = readers, writers
        self._reading: deque[_Reading] = deque()
        self._group: list[tuple[Input, int, Tensor]] = []  # of one size, to be labelled together
        self._writing: deque[_Writing] = deque()
        self._images = self._pixels = 0  # in flight

    def run(self, inputs: Sequence[Input], on_progress: OnProgress | None) -> None:
        """Bring every image through, in order."""
        remaining = deque(inputs)
        while remaining or self._images:
            while remaining and self._start(remaining[0]):
                remaining.popleft()
            if self._reading:
                self._take(self._reading.popleft())
            elif self._group:
                self._label()
            elif self._writing:
                self._finish(self._writing.popleft())
            while self._writing and self._writing[0].written.done():
                self._finish(self._writing.popleft())
            if on_progress:
                on_progress(len(inputs) - len(remaining) - self._images, len(inputs))

    def _start(self, one: Input) -> bool:
        """Begin to read an image, if there is room."""
        pixels = _count_pixels(one.source)
        is_full = self._pixels + pixels > PIXELS_IN_FLIGHT or self._images == IMAGES_IN_FLIGHT
        if self._images and is_full:
            return False
        self._pixels += pixels
        self._images += 1
        self._reading.append(_Reading(one, pixels, self._readers.submit(self._read, one)))
        return True

    def _leave(self, pixels: int) -> None:
        """Make room."""
        self._pixels -= pixels
        self._images -= 1

    def _fail(self, one: Input, pixels: int, error: Exception) -> None:
        self._outcome.fail(one, error)
        self._leave(pixels)

    def _read(self, one: Input) -> Tensor | CocoImage | None:
        """In a thread: RGB uint8 ``(3, H, W)``, or of one that is skipped what COCO needs."""
        if self._plan.skips(one):
            if not self._coco:
                return None
            file = files_of(one, self._plan.wanted).labels
            labels = read_labels(file, read_size(one.source), self._model.classes)
            if labels is not None:  # else it is another's file, or damaged
                return CocoImage.of(one.name, labels)
        return read_image(one.source)

    def _take(self, reading: _Reading) -> None:
        """Put an image to others of its size, and label them when they make a batch."""
        one, pixels, future = reading
        try:
            image = future.result()
        except (TsicError, OSError) as error:
            self._fail(one, pixels, error)
            return
        shape = image.shape if isinstance(image, Tensor) else None
        if self._group and shape != self._group[0][2].shape:
            self._label()
        if not isinstance(image, Tensor):
            self._skip(one, pixels, image)
            return
        self._group.append((one, pixels, image))
        if len(self._group) == self._plan.batch:
            self._label()

    def _skip(self, one: Input, pixels: int, coco_image: CocoImage | None) -> None:
        """Leave an image's results alone; COCO's file, which is made anew, takes its labels."""
        self._outcome.skipped += 1
        written: Future[CocoImage | None] = Future()
        written.set_result(coco_image)
        self._writing.append(_Writing(one, pixels, written, is_new=False))  # in its turn

    def _label(self) -> None:
        """Label the images of a batch, and let threads write them."""
        group, self._group = self._group, []
        images, view = [image for _, _, image in group], self._plan.view
        labelled: list[tuple[Tensor, Probabilities | None]]
        try:
            if self._plan.wanted.probabilities:
                labelled = [label_with_probabilities(self._model, image, view) for image in images]
            else:
                labelled = [(labels, None) for labels in label_batch(self._model, images, view)]
        except (TsicError, RuntimeError) as error:
            for one, pixels, _ in group:
                self._fail(one, pixels, error)
            return
        for (one, pixels, image), (labels, likely) in zip(group, labelled, strict=True):
            written = self._writers.submit(self._write, one, image, labels, likely)
            self._writing.append(_Writing(one, pixels, written))

    def _write(
        self, one: Input, image: Tensor, labels: Tensor, probabilities: Probabilities | None
    ) -> CocoImage | None:
        """In a thread: write all that is wanted of an image."""
        ids, classes = labels.numpy(), self._model.classes
        write_image(one, self._plan.wanted, classes, image, ids, probabilities)
        return CocoImage.of(one.name, ids) if self._coco else None

    def _finish(self, writing: _Writing) -> None:
        """Wait until an image is written."""
        try:
            coco_image = writing.written.result()
        except (TsicError, OSError, ValueError) as error:
            self._fail(writing.one, writing.pixels, error)
            return
        if self._coco and coco_image:
            self._coco.add(coco_image)
        self._outcome.images += writing.is_new
        self._leave(writing.pixels)


def _count_pixels(file: Path) -> int:
    """Pixels of an image by its header; none of a broken one, which its reader will report."""
    try:
        with Image.open(file) as image:
            return image.width * image.height
    except Exception:  # Pillow's decoders raise many kinds on damaged files
        return 0
