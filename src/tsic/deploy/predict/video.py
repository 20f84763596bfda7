"""Videos with the colours of their classes, streamed frame by frame."""

from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from tsic.data.classes import ClassTable
from tsic.errors import NO_ROOM, DataError, not_installed
from tsic.files import replacing
from tsic.pictures import PAPER, Pixels, draw_entry, overlay, place_legend
from tsic.progress import OnProgress

LabelFrames = Callable[[Tensor], Tensor]
"""From frames, RGB uint8 ``(B, 3, H, W)``, to class ids, uint8 ``(B, H, W)``."""

QUALITY = {"crf": "20", "preset": "veryfast"}
"""Of x264: hardly visible loss, at a speed that does not hold up a light student."""

_BT709 = 1
_LIMITED = 1

FALLBACK_RATE = Fraction(25)
"""Frames per second of a video that does not say."""


def require_av() -> ModuleType:
    """Import PyAV.

    Raises:
        ConfigError: If it is not installed.
    """
    try:
        import av
    except ImportError as error:
        raise not_installed("av, which videos need,", "video") from error
    return av


def label_video(
    source: Path,
    target: Path,
    label: LabelFrames,
    classes: ClassTable,
    *,
    opacity: float = 0.5,
    batch: int = 1,
    on_progress: OnProgress | None = None,
) -> int:
    """Write a video with the colours of its classes and a legend below.

    Frames keep their times; sound is left out. Memory does not grow with the length.

    Args:
        source: The video.
        target: MP4 to write, whole or not at all; its folder exists.
        label: Labels the frames of a batch.
        classes: Names and colours of the classes.
        opacity: Of the colours, 0 to 1.
        batch: Frames labelled at a time.
        on_progress: Called with frames done and in all, as far as the file tells.

    Returns:
        Number of frames.

    Raises:
        DataError: If the video cannot be decoded, or breaks off.
    """
    av = require_av()
    try:
        # `file:` keeps a colon in a name from being read as a protocol.
        with (
            av.open(f"file:{source}", options={"protocol_whitelist": "file"}) as reading,
            replacing(target) as part,
            av.open(f"file:{part}", "w", format="mp4") as writing,
        ):
            if not reading.streams.video:
                raise DataError(f"{source}: no pictures in it")
            stream = reading.streams.video[0]
            done = 0
            painter = _Painter(av, writing, stream, classes, opacity)
            for frames in _batches(_upright_frames(reading, stream, source), batch):
                pixels = torch.from_numpy(np.stack([picture for picture, _ in frames]))
                found = label(pixels.permute(0, 3, 1, 2)).numpy()
                for (picture, time), labels in zip(frames, found, strict=True):
                    painter.add(picture, labels, time)
                done += len(frames)
                if on_progress:
                    on_progress(done, max(done, stream.frames))
            if not done:
                raise DataError(f"{source}: no pictures in it")
            painter.finish()
    except av.FFmpegError as error:
        if error.errno in NO_ROOM:
            raise OSError(error.errno, error.strerror, str(target)) from error
        raise DataError(
            f"{source}: cannot be decoded ({error.strerror}); replace the file"
        ) from error
    return done


Frame = tuple[Pixels, int]
"""RGB ``(H, W, 3)`` and when it is shown, in ticks of the stream."""


def _batches(frames: Iterator[Frame], size: int) -> Iterator[list[Frame]]:
    """As many frames at a time."""
    while gathered := list(islice(frames, size)):
        yield gathered


def _upright_frames(container: Any, stream: Any, source: Path) -> Iterator[Frame]:
    """Frames, turned as the camera was held, each later than the one before.

    Raises:
        DataError: If frames differ in size, or the video ends well before it says.
    """
    stream.thread_type = "AUTO"
    tick = 1 / ((stream.average_rate or FALLBACK_RATE) * stream.time_base)
    shape, time = None, -1
    for frame in container.decode(stream):
        turned = np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90))
        picture = np.ascontiguousarray(turned)
        if picture.shape != (shape or picture.shape):
            raise DataError(f"{source}: its frames change size; split it where they do")
        shape = picture.shape
        expected = time + max(1, round(tick)) if time >= 0 else 0
        time = frame.pts if frame.pts is not None and frame.pts > time else expected
        yield picture, time
    _require_end(container, stream, time, source)


def _require_end(container: Any, stream: Any, time: int, source: Path) -> None:
    """Refuse a video that lacks more than a second and a tenth of what it promises."""
    promised = float((stream.duration or 0) * stream.time_base)
    if not promised and len(container.streams) == 1:
        promised = (container.duration or 0) / 1e6
    seconds = float((time - (stream.start_time or 0)) * stream.time_base)
    if seconds < min(0.9 * promised, promised - 1):
        raise DataError(
            f"{source}: breaks off after {seconds:.1f} of {promised:.1f} s; replace the file"
        )


class _Painter:
    """Encodes frames with colours over them and a legend below."""

    def __init__(
        self, av: ModuleType, container: Any, stream: Any, classes: ClassTable, opacity: float
    ) -> None:
        self._av, self._container, self._source = av, container, stream
        self._classes, self._opacity = classes, opacity
        self._stream: Any = None
        self._legend: Pixels = np.zeros((0, 0, 3), np.uint8)

    def add(self, picture: Pixels, labels: Any, time: int) -> None:
        """Encode a frame ``(H, W, 3)`` with its labels ``(H, W)``."""
        painted = overlay(picture, labels, self._classes, self._opacity)
        if self._stream is None:
            self._start(painted)
        whole = np.concatenate([painted, self._legend])
        odd = [(0, side % 2) for side in whole.shape[:2]]  # the encoder halves the colours' grid
        drawn = self._av.VideoFrame.from_ndarray(np.pad(whole, (*odd, (0, 0)), mode="edge"))
        frame = drawn.reformat(format="yuv420p", dst_colorspace="ITU709")
        frame.pts, frame.time_base = time, self._source.time_base
        self._container.mux(self._stream.encode(frame))

    def finish(self) -> None:
        """Encode what the encoder still holds."""
        self._container.mux(self._stream.encode())

    def _start(self, painted: Pixels) -> None:
        """Open the encoder, now that the size is known."""
        height, width = painted.shape[:2]
        self._legend = legend_strip(self._classes, width)
        height += len(self._legend)
        self._stream = self._container.add_stream(
            "libx264" if "libx264" in self._av.codecs_available else "mpeg4",
            rate=self._source.average_rate or FALLBACK_RATE,
            time_base=self._source.time_base,
            width=width + width % 2,
            height=height + height % 2,
            options=QUALITY,
        )
        self._stream.codec_context.colorspace = _BT709  # else players guess by the size
        self._stream.codec_context.color_range = _LIMITED


def legend_strip(classes: ClassTable, width: int) -> Pixels:
    """Draw all classes' colours with their names.

    Args:
        classes: Names and colours.
        width: Width of the strip in pixels; its height follows.

    Returns:
        RGB picture, uint8 ``(h, width, 3)``.
    """
    font_size = min(22, max(11, width // 40))
    entries = place_legend(classes, width, font_size)
    picture = Image.new("RGB", (width, entries[-1][1] + 2 * font_size), PAPER)
    draw = ImageDraw.Draw(picture)
    for x, y, name, colour in entries:
        draw_entry(draw, (x, y + font_size // 4), name, colour, font_size)
    return np.asarray(picture)
