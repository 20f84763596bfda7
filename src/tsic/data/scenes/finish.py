"""From the drawn canvas to a photograph: grain of surfaces, reflections, lamps, lens, sensor."""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from tsic.data.scenes.stage import SUPERSAMPLING, Stage
from tsic.data.scenes.surfaces import GRAIN, GROUND, LABEL_OF, Surface
from tsic.data.scenes.weather import smooth_noise

Picture = NDArray[np.float32]
Codes = NDArray[np.uint8]


def finish(stage: Stage) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Turn the canvas into a picture and its labels.

    Args:
        stage: A scene whose things are all drawn.

    Returns:
        RGB picture uint8 ``(H, W, 3)`` and class ids uint8 ``(H, W)``, 255 for what has no class.
    """
    centre = SUPERSAMPLING // 2
    codes = np.asarray(stage.canvas.codes)[centre::SUPERSAMPLING, centre::SUPERSAMPLING]
    small = stage.canvas.colours.reduce(SUPERSAMPLING)
    picture = np.asarray(small).astype(np.float32) / np.float32(255.0)
    picture = _add_grain(stage, picture, codes)
    picture = _add_reflections(stage, picture, codes)
    picture = _add_glows(stage, picture)
    return _develop(stage, picture), LABEL_OF[codes]


def _add_grain(stage: Stage, picture: Picture, codes: Codes) -> Picture:
    """Roughen every surface in its own way."""
    height, width = codes.shape
    generator = stage.dice.generator
    fine_table, patchy_table = np.zeros((2, len(Surface)), dtype=np.float32)
    for surface, (fine_share, patchy_share) in GRAIN.items():
        fine_table[surface], patchy_table[surface] = fine_share, patchy_share
    fine = generator.standard_normal((height, width), dtype=np.float32)
    patchy = smooth_noise(generator, height, width, (6, 24, 60))
    is_ground = np.isin(codes, GROUND)
    if is_ground.any():
        fine, patchy = _lay_flat(stage, fine, patchy, is_ground)
    factor = 1.0 + fine_table[codes] * fine + patchy_table[codes] * patchy
    is_brick = codes == Surface.BRICK
    if is_brick.any():
        rows = np.sin(np.arange(height, dtype=np.float32) * np.float32(2.2))[:, None]
        factor += np.where(is_brick, 0.04 * rows, 0.0)
    return picture * factor[..., None].astype(np.float32)


def _lay_flat(
    stage: Stage, fine: Picture, patchy: Picture, is_ground: NDArray[np.bool_]
) -> tuple[Picture, Picture]:
    """Replace noise on the ground by noise that lies on it, so that it shrinks with distance."""
    view = stage.view
    rows, columns = np.nonzero(is_ground)
    below = np.maximum((rows + 0.5) * SUPERSAMPLING - view.horizon_y, 1.0)
    z = view.focal * view.eye_m / below
    x = ((columns + 0.5) * SUPERSAMPLING - view.centre_x) * z / view.focal
    tile = stage.dice.generator.standard_normal((128, 128), dtype=np.float32)
    blotches = smooth_noise(stage.dice.generator, 128, 128, (5, 11, 29))

    def look_up(field: Picture, per_metre_x: float, per_metre_z: float) -> Picture:
        # Beyond its edge the tile is mirrored, so that no seam shows.
        along = (z * per_metre_z).astype(np.int32) & 255
        across = np.floor(x * per_metre_x).astype(np.int32) & 255
        flat: Picture = field[np.minimum(along, 255 - along), np.minimum(across, 255 - across)]
        return flat

    fine, patchy = fine.copy(), patchy.copy()
    fine[rows, columns] = look_up(tile, 22.0, 9.0) * np.clip(12.0 / z, 0.15, 1.0)
    patchy[rows, columns] = look_up(blotches, 9.0, 2.5) * np.clip(30.0 / z, 0.2, 1.0)
    return fine, patchy


def _add_reflections(stage: Stage, picture: Picture, codes: Codes) -> Picture:
    """Let a wet road mirror what stands behind it."""
    if stage.light.wet < 0.3:
        return picture
    height, width = codes.shape
    horizon = stage.view.horizon_y / SUPERSAMPLING
    mirrored_rows = np.clip(2.0 * horizon - np.arange(height), 0, height - 1).astype(np.int64)
    mirrored = picture[mirrored_rows]
    mirrored = (mirrored + np.roll(mirrored, 2, axis=0) + np.roll(mirrored, 4, axis=0)) / 3.0
    puddles = smooth_noise(stage.dice.generator, height, width, (3, 9, 21))
    share = np.clip(0.25 + 0.25 * puddles, 0.0, 0.75) * stage.light.wet
    share = np.where(np.isin(codes, (Surface.ROAD, Surface.PAVEMENT)), share, 0.0)[..., None]
    blended: Picture = (picture * (1.0 - share) + mirrored * share).astype(np.float32)
    return blended


def _add_glows(stage: Stage, picture: Picture) -> Picture:
    """Add the light that lamps send into the lens."""
    height, width, _ = picture.shape
    drawn = stage.canvas.colours
    for glow in stage.glows:
        at = int(glow.x), int(glow.y)
        if not (0 <= at[0] < drawn.width and 0 <= at[1] < drawn.height):
            continue
        if drawn.getpixel(at) != glow.ink[:3]:
            continue
        colour = np.asarray(glow.colour, dtype=np.float32)
        x, y, radius = (v / SUPERSAMPLING for v in (glow.x, glow.y, glow.radius))
        reach = int(3 * radius) + 1
        left, right = max(0, int(x) - reach), min(width, int(x) + reach + 1)
        top, bottom = max(0, int(y) - reach), min(height, int(y) + reach + 1)
        if left >= right or top >= bottom:
            continue
        dy = np.arange(top, bottom, dtype=np.float32)[:, None] - np.float32(y)
        dx = np.arange(left, right, dtype=np.float32)[None, :] - np.float32(x)
        strength = np.exp(-(dx * dx + dy * dy) / np.float32(radius * radius)) * np.float32(0.7)
        picture[top:bottom, left:right] += strength[..., None] * colour
    return picture


def _develop(stage: Stage, picture: Picture) -> NDArray[np.uint8]:
    """Take the photograph: exposure, tint, falling-off to the corners, blur, noise, compression."""
    dice, hard = stage.dice, stage.difficulty
    height, width, _ = picture.shape
    tint = np.asarray([dice.between(1 - 0.09 * hard, 1 + 0.09 * hard) for _ in "rgb"], np.float32)
    wanted = 0.46 - 0.14 * stage.light.night  # a camera's automatic exposure gets near this
    exposure = (wanted / max(0.05, float(picture.mean()))) ** 0.7
    exposure *= dice.between(1.0 - 0.3 * hard, 1.0 + 0.3 * hard)
    picture = picture * (tint * np.float32(exposure))
    grey = picture.mean(axis=2, keepdims=True)
    picture = grey + (picture - grey) * np.float32(dice.between(1.0 - 0.5 * hard, 1.0 + 0.3 * hard))
    gamma = dice.between(1.0 - 0.2 * hard, 1.0 + 0.2 * hard)
    rows = np.linspace(-1.0, 1.0, height, dtype=np.float32)[:, None]
    columns = np.linspace(-1.0, 1.0, width, dtype=np.float32)[None, :]
    falling = 1.0 - np.float32(dice.between(0.0, 0.22)) * (rows**2 + columns**2) / 2.0
    curve = np.linspace(0.0, 1.0, 1024, dtype=np.float32) ** np.float32(gamma)
    picture = curve[(np.clip(picture * falling[..., None], 0.0, 1.0) * 1023.0).astype(np.int16)]
    blur = dice.between(0.0, 0.9) * hard if dice.chance(0.5) else 0.0
    if blur > 0.15:
        soft = Image.fromarray((picture * 255.0).astype(np.uint8))
        soft = soft.filter(ImageFilter.GaussianBlur(blur * height / 192.0))
        picture = np.asarray(soft).astype(np.float32) / np.float32(255.0)
    noise = dice.between(0.004, 0.010 + 0.024 * hard) * (1.0 + 0.6 * stage.light.night)
    grains = dice.generator.standard_normal(picture.shape, dtype=np.float32)
    picture = picture + grains * np.float32(noise) * np.sqrt(0.15 + picture)
    pixels = (np.clip(picture, 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8)
    if dice.chance(0.5):
        pixels = _compress(pixels, quality=dice.count(int(88 - 40 * hard), 92))
    return pixels


def _compress(pixels: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    """Send a picture through JPEG."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    return np.array(Image.open(buffer))
