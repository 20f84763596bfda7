"""Dead leaves: images of occluding shapes with a photograph's statistics, drawn by program."""

import io
import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter

from tsic.pretrain.regions import Regions

_FINE = 2
"""Outlines are drawn on a grid finer by this factor, so that edges mix colours as a lens does."""
_TEXTURES = 5
_SLOPES = (0.2, 0.8, 1.3, 1.8)

Floats = npt.NDArray[np.float32]
Points = list[tuple[float, float]]


@dataclass(frozen=True)
class _Look:
    """Colours ``(n, 3)`` and weights of the textures ``(n, T)`` of materials or of regions."""

    colours: Floats
    weights: Floats


def draw_leaves(rng: np.random.Generator, height: int, width: int) -> Regions:
    """Draw shapes of many sizes and outlines, each over what was drawn before.

    Shapes of one material look alike and form a kind. Shapes carry decals (parts of another colour
    that belong to them), soft shadows fall over everything, and light, lens, sensor and
    compression do to the picture what they do to a photograph, so that neither colour nor contrast
    alone tells where a region ends.

    Args:
        rng: Decides everything.
        height: Rows of the picture.
        width: Columns of the picture.

    Returns:
        The picture with one region per shape. Regions may be split by what lies over them.

    Source:
        The dead-leaves model: Lee, Mumford and Huang, "Occlusion models for natural images", IJCV
        2001; that networks learn from it: Baradad et al., arXiv:2106.05963.
    """
    materials = _choose_materials(rng)
    ids, parts, material_of = _draw_shapes(rng, height, width, len(materials.colours))
    look = _vary(rng, materials, material_of)
    picture = _paint(rng, ids, parts, look)
    centre = np.ascontiguousarray(ids[_FINE // 2 :: _FINE, _FINE // 2 :: _FINE], dtype=np.int32)
    kinds = np.concatenate([[0], material_of + 1]).astype(np.int32)
    return Regions(_photograph(rng, picture), centre, kinds)


def _choose_materials(rng: np.random.Generator) -> _Look:
    """Materials of one picture: all over the colours, or close to one another."""
    count = int(rng.integers(3, 10))
    spread = rng.choice([0.08, 0.2, 0.35], p=[0.25, 0.35, 0.4])
    light = rng.uniform(0.25, 0.7) + spread * rng.normal(size=(count, 1))
    # Photographs vary along blue-yellow more than along green-magenta.
    chroma = spread * rng.normal(size=(count, 2)) * (0.5, 0.25)
    tones = np.concatenate([light, chroma], axis=1)
    to_rgb = np.array([[1.0, 1.0, 1.0], [0.7, 0.2, -0.9], [0.5, -0.6, 0.4]])
    strength = rng.uniform(0.1, 0.6) * rng.random((count, 1)) ** 1.5
    weights = strength * rng.dirichlet(np.full(_TEXTURES, 0.5), count)
    return _Look((tones @ to_rgb).astype(np.float32), weights.astype(np.float32))


def _vary(rng: np.random.Generator, materials: _Look, of: npt.NDArray[np.int64]) -> _Look:
    """Looks of single regions: their material's, each a little different."""
    colours = materials.colours[of] + rng.normal(0, 0.03, (len(of), 1))
    colours += rng.normal(0, 0.01, (len(of), 3))
    weights = materials.weights[of] * rng.uniform(0.6, 1.4, (len(of), 1))
    return _Look(colours.astype(np.float32), weights.astype(np.float32))


def _draw_shapes(
    rng: np.random.Generator, height: int, width: int, materials: int
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Regions from 1, decals (0, or the region they belong to) and the material of each region."""
    high, wide = height * _FINE, width * _FINE
    side = min(high, wide)
    count = int(np.exp(rng.uniform(math.log(10), math.log(70))))
    least = rng.uniform(0.03, 0.1) * side
    most = rng.uniform(0.4, 1.0) * side
    regions = Image.new("L", (wide, high), 1)
    decals = Image.new("L", (wide, high), 0)
    on_regions, on_decals = ImageDraw.Draw(regions), ImageDraw.Draw(decals)
    # Sizes of a power law, as objects at all distances have; the large ones rather behind.
    power = rng.random(count)
    radii = least * most / (most - power * (most - least))
    radii = radii[np.argsort(-radii * rng.uniform(0.5, 2.0, count))]
    shape = int(rng.integers(len(_OUTLINES) + 2))  # some pictures have one kind of outline
    of = rng.integers(materials, size=count + 1)
    for number, radius in enumerate(radii, start=2):
        x, y = rng.uniform(0, wide), rng.uniform(0, high)
        one = shape if shape < len(_OUTLINES) else int(rng.integers(len(_OUTLINES)))
        for points in _OUTLINES[one](rng, x, y, float(radius)):
            on_regions.polygon(points, fill=number)
            on_decals.polygon(points, fill=0)
        if radius > 0.06 * side and rng.random() < 0.4:
            _draw_decals(rng, on_decals, (x, y, float(radius)), number)
    return np.asarray(regions), np.asarray(decals), of


def _draw_decals(
    rng: np.random.Generator, on: ImageDraw.ImageDraw, place: tuple[float, float, float], fill: int
) -> None:
    """Windows in a row, or a few spots, over a shape; they count where the shape itself is seen."""
    x, y, radius = place
    if rng.random() < 0.5:
        step = radius * rng.uniform(0.2, 0.6)
        size = step * rng.uniform(0.3, 0.7)
        for down in np.arange(-radius, radius, step):
            for right in np.arange(-radius, radius, step):
                on.rectangle([x + right, y + down, x + right + size, y + down + size], fill=fill)
    else:
        for _ in range(int(rng.integers(1, 6))):
            dx, dy = rng.normal(0, 0.5 * radius, 2)
            for points in _blob(rng, x + dx, y + dy, radius * rng.uniform(0.1, 0.35)):
                on.polygon(points, fill=fill)


def _turned(x: float, y: float, angle: float, points: npt.NDArray[np.float64]) -> Points:
    c, s = math.cos(angle), math.sin(angle)
    turned = points @ np.array([[c, s], [-s, c]]) + (x, y)
    return [tuple(point) for point in turned.tolist()]


_ANGLES = np.linspace(0, 2 * np.pi, 32, endpoint=False)
_CIRCLE = np.stack([np.cos(_ANGLES), np.sin(_ANGLES)], axis=1)
_WAVES = np.cos(np.outer(_ANGLES, np.arange(2, 9))), np.sin(np.outer(_ANGLES, np.arange(2, 9)))


def _blob(rng: np.random.Generator, x: float, y: float, radius: float) -> list[Points]:
    """A round shape whose radius swings, from an ellipse to a splash."""
    size = rng.uniform(0.0, 0.5) * rng.normal(size=(2, 7)) / np.arange(2, 9)
    swing = _WAVES[0] @ size[0] + _WAVES[1] @ size[1]
    outline = _CIRCLE * np.maximum(0.2, 1 + swing)[:, None] * radius
    return [_turned(x, y, rng.uniform(0, np.pi), outline * (1, rng.uniform(0.3, 1.0)))]


def _polygon(rng: np.random.Generator, x: float, y: float, radius: float) -> list[Points]:
    """Three to nine corners."""
    corners = int(rng.integers(3, 10))
    t = np.sort(rng.uniform(0, 2 * np.pi, corners))
    outline = np.stack([np.cos(t), np.sin(t)], axis=1) * rng.uniform(0.4, 1.0, (corners, 1))
    return [_turned(x, y, 0.0, outline * radius)]


def _box(rng: np.random.Generator, x: float, y: float, radius: float) -> list[Points]:
    """A rectangle, upright as often as not."""
    sides = radius * np.array([rng.uniform(0.5, 1.3), rng.uniform(0.3, 1.0)])
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * sides
    angle = rng.uniform(0, np.pi) if rng.random() < 0.5 else float(rng.choice([0.0, np.pi / 2]))
    return [_turned(x, y, angle, corners)]


def _strip(rng: np.random.Generator, x: float, y: float, radius: float) -> list[Points]:
    """A pole, a wire or a road: long, narrow, straight or bent."""
    length = radius * rng.uniform(1.5, 4.0)
    half = max(1.2, radius * rng.uniform(0.02, 0.12))
    along = np.linspace(-length, length, 16)
    bend = rng.normal(0, 0.25) * along**2 / length if rng.random() < 0.5 else np.zeros(16)
    upper = np.stack([along, bend - half], axis=1)
    lower = np.stack([along, bend + half], axis=1)[::-1]
    angle = rng.uniform(0, np.pi) if rng.random() < 0.5 else np.pi / 2
    return [_turned(x, y, angle, np.concatenate([upper, lower]))]


def _cluster(rng: np.random.Generator, x: float, y: float, radius: float) -> list[Points]:
    """A crown of leaves: many small blobs around a place, with gaps."""
    count = int(rng.integers(6, 22))
    places = rng.normal(0, 0.45 * radius, (count, 2))
    sizes = radius * rng.uniform(0.15, 0.4, count)
    return [
        _turned(x + dx, y + dy, 0.0, _CIRCLE[::3] * (size, size * rng.uniform(0.5, 1.0)))
        for (dx, dy), size in zip(places, sizes, strict=True)
    ]


def _figure(rng: np.random.Generator, x: float, y: float, radius: float) -> list[Points]:
    """A thing of a few boxes and blobs grown together, as a person, a chair or a cyclist is."""
    parts: list[Points] = []
    for _ in range(int(rng.integers(2, 6))):
        dx, dy = rng.normal(0, 0.4 * radius, 2)
        outline = _OUTLINES[int(rng.integers(3))]
        parts += outline(rng, x + dx, y + dy, radius * rng.uniform(0.2, 0.6))
    return parts


_OUTLINES = (_blob, _polygon, _box, _strip, _cluster, _figure)


def _paint(
    rng: np.random.Generator,
    ids: npt.NDArray[np.uint8],
    parts: npt.NDArray[np.uint8],
    look: _Look,
) -> Floats:
    """Colours ``(H, W, 3)`` of regions, decals, textures, shadows and light."""
    of_region = np.concatenate([look.colours, look.weights], axis=1)
    blank = np.zeros((1, of_region.shape[1]), np.float32)
    # A decal looks like some other region of the picture.
    of_decal = of_region[rng.permutation(len(of_region))]
    table = np.concatenate([blank, of_region, of_decal])
    rows = ids.astype(np.int64) + (parts == ids) * len(of_region)
    mixed = sum(
        table.take(rows[down::_FINE, right::_FINE], axis=0)
        for down in range(_FINE)
        for right in range(_FINE)
    ) / np.float32(_FINE**2)
    colours, weights = mixed[..., :3], mixed[..., 3:]
    fields = _noises(rng, *mixed.shape[:2])
    texture = np.einsum("hwt,thw->hw", weights, _textures(rng, fields))
    light = 0.25 * rng.random() * fields[-1] + _shadows(rng, *mixed.shape[:2])
    return colours * np.exp(np.clip(texture + light, -2.0, 1.2))[..., None]


def _textures(rng: np.random.Generator, noises: Floats) -> Floats:
    """Fields ``(T, H, W)`` of zero mean and about unit spread: three noises, stripes, a grid."""
    high, wide = noises.shape[1:]
    y, x = np.arange(high, dtype=np.float32)[:, None], np.arange(wide, dtype=np.float32)
    angle, wave, brick = rng.uniform(0, np.pi), rng.uniform(3, 14), rng.uniform(4, 16)
    along = x * math.cos(angle) + y * math.sin(angle) + 2 * noises[-1]
    stripes = 1.4 * np.sin(along * np.float32(2 * np.pi / wave))
    grid = np.sign(np.sin(x * 2 * np.pi / brick)) * np.sign(np.sin(y * np.pi / brick))
    return np.concatenate([noises[:3], stripes[None], grid[None]]).astype(np.float32)


def _noises(rng: np.random.Generator, high: int, wide: int) -> Floats:
    """Noises ``(4, H, W)`` whose amplitude falls ever steeper with frequency; unit spread."""
    frequency = np.hypot(np.fft.fftfreq(high)[:, None], np.fft.rfftfreq(wide)).astype(np.float32)
    frequency[0, 0] = np.inf
    white = np.fft.rfft2(rng.standard_normal((2, high, wide), dtype=np.float32))
    slopes = np.array(_SLOPES, np.float32)[:, None, None]
    fields = np.fft.irfft2(np.concatenate([white, white]) * frequency**-slopes, (high, wide))
    return (fields / fields.std((1, 2), keepdims=True)).astype(np.float32)


def _shadows(rng: np.random.Generator, high: int, wide: int) -> Floats:
    """Logarithm of the light that soft shadows leave."""
    shade = Image.new("L", (wide, high), 0)
    draw = ImageDraw.Draw(shade)
    for _ in range(int(rng.integers(0, 4))):
        x, y = rng.uniform(0, wide), rng.uniform(0, high)
        outline = _OUTLINES[int(rng.integers(4))]  # of one piece
        for points in outline(rng, x, y, rng.uniform(0.1, 0.5) * min(high, wide)):
            draw.polygon(points, fill=255)
    soft = shade.filter(ImageFilter.GaussianBlur(rng.uniform(0.5, 5.0)))
    return np.asarray(soft, np.float32) * np.float32(-rng.uniform(0.2, 1.0) / 255)


def _photograph(rng: np.random.Generator, picture: Floats) -> npt.NDArray[np.uint8]:
    """Exposure, lens, sensor and compression."""
    picture = np.clip(picture * rng.uniform(0.7, 1.3) + rng.normal(0, 0.03), 0, 1)
    picture = picture ** rng.uniform(0.7, 1.4)
    if rng.random() < 0.15:  # thermal, X-ray, microscope: one channel
        picture = np.repeat(picture @ rng.dirichlet(np.ones(3)).astype(np.float32), 3).reshape(
            picture.shape
        )
    image = Image.fromarray(np.uint8(picture * 255))
    if rng.random() < 0.6:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 1.1)))
    pixels = np.asarray(image, np.float32)
    if rng.random() < 0.7:
        grain = rng.normal(size=pixels.shape).astype(np.float32)
        pixels = pixels + grain * rng.uniform(0.5, 9.0)
    image = Image.fromarray(np.uint8(np.clip(pixels, 0, 255)))
    if rng.random() < 0.5:
        stream = io.BytesIO()
        image.save(stream, "JPEG", quality=int(rng.integers(30, 96)))
        image = Image.open(stream)
    return np.array(image)
