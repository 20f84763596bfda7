"""Light, sky and air: noon, golden hour, clouds, fog, rain, dusk."""

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tsic.data.scenes.stage import SUPERSAMPLING, Dice, Light, View

_UP = (0.0, 1.0, 0.0)

_KINDS: tuple[tuple[float, Light], ...] = (
    # share, sun, ambient, zenith, horizon, direction, visibility, clouds, shadow, night, wet
    (0.32, Light((0.88, 0.84, 0.76), (0.52, 0.55, 0.62), (0.26, 0.50, 0.84), (0.78, 0.87, 0.95),
                 _UP, 420.0, 0.35, 0.52, 0.0, 0.0)),
    (0.17, Light((1.10, 0.74, 0.42), (0.44, 0.43, 0.52), (0.40, 0.54, 0.78), (1.00, 0.82, 0.60),
                 _UP, 260.0, 0.30, 0.45, 0.15, 0.0)),
    (0.23, Light((0.12, 0.12, 0.12), (0.90, 0.92, 0.94), (0.70, 0.74, 0.79), (0.90, 0.91, 0.92),
                 _UP, 240.0, 0.85, 0.22, 0.0, 0.0)),
    (0.08, Light((0.04, 0.04, 0.04), (0.84, 0.86, 0.88), (0.77, 0.79, 0.81), (0.85, 0.86, 0.87),
                 _UP, 58.0, 0.20, 0.14, 0.10, 0.1)),
    (0.10, Light((0.03, 0.03, 0.03), (0.68, 0.72, 0.78), (0.48, 0.52, 0.58), (0.72, 0.75, 0.79),
                 _UP, 130.0, 0.90, 0.20, 0.35, 0.8)),
    (0.10, Light((0.10, 0.07, 0.08), (0.42, 0.43, 0.56), (0.15, 0.20, 0.40), (0.80, 0.55, 0.50),
                 _UP, 200.0, 0.40, 0.20, 1.0, 0.2)),
)  # fmt: skip


def choose_light(dice: Dice) -> Light:
    """Choose the light of a scene: a kind of weather, then how strong it is and from where."""
    throw, kind = dice.between(0.0, 1.0), _KINDS[-1][1]
    for share, candidate in _KINDS:
        throw -= share
        if throw < 0.0:
            kind = candidate
            break
    low_sun = kind.sun[0] - kind.sun[2] > 0.25
    elevation = math.radians(dice.between(14, 28) if low_sun else dice.between(32, 68))
    azimuth = dice.pick((-1.0, 1.0)) * dice.between(0.15, 2.6)
    flat = math.cos(elevation)
    direction = (flat * math.sin(azimuth), math.sin(elevation), flat * math.cos(azimuth))
    power = dice.between(0.8, 1.12)
    return replace(
        kind,
        sun=dice.tint((kind.sun[0] * power, kind.sun[1] * power, kind.sun[2] * power), 0.10),
        ambient=dice.tint(kind.ambient, 0.12),
        zenith=dice.tint(kind.zenith, 0.18),
        horizon=dice.tint(kind.horizon, 0.08),
        direction=direction,
        visibility_m=kind.visibility_m * dice.between(0.7, 1.5),
        clouds=min(1.0, kind.clouds * dice.between(0.2, 1.7)),
        shadow=kind.shadow * dice.between(0.8, 1.15),
    )


def smooth_noise(
    generator: np.random.Generator, height: int, width: int, cells: tuple[int, ...]
) -> NDArray[np.float32]:
    """Make cloudy noise: the sum of ever finer random fields, each half as strong.

    Args:
        generator: Source of chance.
        height: Rows of the field.
        width: Columns of the field.
        cells: Random values per row and column of each octave, coarsest first.

    Returns:
        Noise of mean about 0 and spread about 1, float32 ``(height, width)``.
    """
    total = np.zeros((height, width), dtype=np.float32)
    strength = 1.0
    for cell in cells:
        values = generator.standard_normal((cell, cell), dtype=np.float32)
        octave = Image.fromarray(values).resize((width, height), Image.Resampling.BICUBIC)
        total += strength * np.asarray(octave)
        strength *= 0.5
    return total


def paint_sky(dice: Dice, light: Light, view: View) -> Image.Image:
    """Paint the sky over the whole canvas: gradient, clouds, and the sun's glow.

    Args:
        dice: Source of chance.
        light: Colours and clouds.
        view: Camera; gives the size in drawn pixels and the horizon.

    Returns:
        RGB picture of the canvas' size.
    """
    height, width = view.height // SUPERSAMPLING, view.width // SUPERSAMPLING
    horizon = view.horizon_y / SUPERSAMPLING
    rows = np.arange(height, dtype=np.float32)[:, None]
    columns = np.arange(width, dtype=np.float32)[None, :]
    up = np.clip(1.0 - rows / horizon, 0.0, 1.0)  # 0 at the horizon, 1 at the top edge
    blend = np.power(up, 0.7)[..., None] * np.ones((1, width, 1), dtype=np.float32)
    zenith, haze, sun = (
        np.asarray(c, np.float32) for c in (light.zenith, light.horizon, light.sun)
    )
    sky = haze + (zenith - haze) * blend

    if light.clouds > 0.02:
        noise = smooth_noise(dice.generator, height, width, (4, 9, 20, 45))
        cover = np.clip((noise + 3.2 * light.clouds - 1.9) * 0.9, 0.0, 1.0)
        cover *= 0.35 + 0.65 * np.clip(up * 3.0, 0.0, 1.0)
        bright = haze * np.float32(1.04)
        relief = (1.0 - 0.22 * np.clip(noise * 0.7 - 0.2, 0.0, 1.0))[..., None]
        sky = sky + (bright * relief - sky) * (0.9 * cover[..., None])

    if light.direction[2] > 0.2:
        sun_x = width / 2 + width * light.direction[0] / light.direction[2]
        sun_y = horizon * (1.0 - 1.4 * light.direction[1])
        distance = np.hypot(columns - sun_x, rows - sun_y) / height
        glow = np.exp(-4.0 * distance)[..., None] * sun
        sky = sky + glow * np.float32(0.7 * (1.0 - 0.6 * light.clouds))
    pixels = (np.clip(sky, 0.0, 1.0) * 255.0).astype(np.uint8)
    return Image.fromarray(pixels).resize((view.width, view.height), Image.Resampling.NEAREST)
