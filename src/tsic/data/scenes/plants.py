"""Trees, hedges and far woods."""

import math

import numpy as np

from tsic.data.scenes.stage import RGB, SUPERSAMPLING, Dice, Point, Stage, mix, scaled
from tsic.data.scenes.surfaces import Surface

_LEAVES: tuple[RGB, ...] = (
    (0.24, 0.38, 0.14),
    (0.18, 0.32, 0.16),
    (0.30, 0.44, 0.16),
    (0.36, 0.42, 0.20),
    (0.28, 0.36, 0.26),
)
_AUTUMN: tuple[RGB, ...] = (
    (0.66, 0.40, 0.14),
    (0.56, 0.24, 0.14),
    (0.72, 0.58, 0.20),
    (0.46, 0.32, 0.20),
    (0.76, 0.58, 0.62),
)
_BARK: RGB = (0.34, 0.26, 0.20)


def choose_leaves(dice: Dice, difficulty: float) -> RGB:
    """Choose the colour of leaves: mostly greens, at times that of bricks or blossom."""
    autumn = dice.chance(0.05 + 0.25 * difficulty)
    return dice.tint(dice.pick(_AUTUMN if autumn else _LEAVES), 0.22)


def _ragged_outlines() -> dict[int, tuple[tuple[Point, ...], ...]]:
    """Prepare ragged round outlines of radius about 1, several for each number of corners."""
    generator = np.random.default_rng(7)
    outlines: dict[int, tuple[tuple[Point, ...], ...]] = {}
    for corners in (5, 8, 12):
        turns = generator.uniform(0.0, math.tau, (24, 1)) + math.tau * np.arange(corners) / corners
        reach = generator.uniform(0.72, 1.12, turns.shape)
        xs, ys = (reach * np.cos(turns)).tolist(), (reach * np.sin(turns)).tolist()
        outlines[corners] = tuple(
            tuple(zip(x, y, strict=True)) for x, y in zip(xs, ys, strict=True)
        )
    return outlines


def _spread_points() -> tuple[Point, ...]:
    """Prepare points spread evenly over the disc of radius 1."""
    generator = np.random.default_rng(8)
    angle, reach = generator.uniform(0.0, math.tau, 512), np.sqrt(generator.uniform(0.0, 1.0, 512))
    xs, ys = (reach * np.cos(angle)).tolist(), (reach * np.sin(angle)).tolist()
    return tuple(zip(xs, ys, strict=True))


_OUTLINES = _ragged_outlines()
_DISC = _spread_points()


def _blob(dice: Dice, x: float, y: float, rx: float, ry: float, corners: int) -> list[Point]:
    """Outline a ragged round patch of leaves with 5, 8 or 12 corners."""
    return [(x + rx * u, y + ry * v) for u, v in dice.pick(_OUTLINES[corners])]


def draw_leaves(
    stage: Stage, x: float, y: float, rx: float, ry: float, leaves: RGB, z: float
) -> None:
    """Draw a cloud of leaves: dark patches below, bright ones towards the sun.

    Args:
        stage: Where to draw.
        x: Column of the middle, drawn pixels.
        y: Row of the middle.
        rx: Half the width.
        ry: Half the height.
        leaves: Colour of the leaves.
        z: Distance in metres.
    """
    dice, light, canvas = stage.dice, stage.light, stage.canvas
    if x + rx < 0 or x - rx > stage.view.width:
        return
    size = math.sqrt(rx * ry) / SUPERSAMPLING
    count = int(min(18, 2 + 0.35 * size))
    canvas.polygon(_blob(dice, x, y, 0.9 * rx, 0.9 * ry, 12),
                   light.shade(scaled(leaves, 0.62), z, 0.3), Surface.FOLIAGE)  # fmt: skip
    side = 0.35 * light.direction[0] if light.shadow > 0.3 else 0.0
    for layer, (bright, facing) in enumerate(((0.7, 0.3), (0.95, 0.6), (1.2, 0.9))):
        ink = light.shade(scaled(leaves, bright), z, facing)
        spread, radius = (0.72, 0.36) if layer == 0 else (0.62, 0.26)
        for _ in range(count):
            u, v = dice.pick(_DISC)
            bx = x + rx * (spread * u + side * 0.5 * layer)
            by = y + ry * (spread * v + 0.14 - 0.16 * layer)
            r = radius * dice.between(0.6, 1.2) * (1.0 if count < 14 else 0.8)
            points = _blob(dice, bx, by, rx * r, ry * r, 8)
            canvas.polygon(points, ink, Surface.FOLIAGE)
    if size < 12:
        return
    for _ in range(int(min(40, 1.1 * size))):
        u, v = dice.pick(_DISC)
        bright = dice.between(0.5, 1.5) * (1.0 - 0.2 * v)
        ink = light.shade(scaled(leaves, bright), z, 0.5, alpha=0.7)
        r = dice.between(1.0, 2.4) * SUPERSAMPLING * max(1.0, size / 40)
        canvas.polygon(_blob(dice, x + 0.85 * rx * u, y + 0.85 * ry * v, r, 0.7 * r, 5), ink)


def draw_tree(stage: Stage, x: float, z: float, height: float, leaves: RGB, kind: str) -> None:
    """Draw a tree on its trunk.

    Args:
        stage: Where to draw.
        x: Place, metres right of the camera.
        z: Distance.
        height: Height in metres.
        leaves: Colour of the leaves.
        kind: ``round``, ``poplar``, ``fir`` or ``bare``.
    """
    view, light, canvas, dice = stage.view, stage.light, stage.canvas, stage.dice
    scale = view.focal / z
    px, foot = view.point(x, 0, z)
    if abs(px - 0.5 * view.width) > 0.5 * view.width + 0.5 * height * scale:
        return
    top = view.row(height, z)
    bark = light.shade(dice.tint(_BARK, 0.2), z, 0.4)
    girth = max(2.2, scale * height * 0.028)
    lean = dice.between(-0.04, 0.04) * height * scale
    fork = foot + (top - foot) * 0.55
    trunk = ((px - girth, foot), (px + girth, foot), (px + lean + 0.5 * girth, fork),
             (px + lean - 0.5 * girth, fork))  # fmt: skip
    canvas.polygon(trunk, bark, Surface.FOLIAGE)
    bright = light.shade(scaled(_BARK, 1.25), z, 0.7, alpha=0.6)
    strip = 0.5 if light.direction[0] > 0 else -0.9
    canvas.polygon(((px + strip * girth, foot), (px + (strip + 0.4) * girth, foot),
                    (px + lean + strip * 0.5 * girth, fork)), bright)  # fmt: skip
    if kind == "bare":
        _draw_branches(stage, px + lean, fork, (foot - top) * 0.42, girth, z)
        return
    if kind == "fir":
        _draw_fir(stage, px, foot, top, leaves, z)
        return
    half = (foot - top) * (0.14 if kind == "poplar" else dice.between(0.27, 0.36))
    tall = (foot - top) * (0.44 if kind == "poplar" else dice.between(0.28, 0.34))
    for angle in (-0.5, 0.1, 0.6):
        branch = (px + lean, fork), (px + lean + angle * half, fork - 0.7 * tall)
        canvas.line(branch, bark, 0.5 * girth, Surface.FOLIAGE)
    middle = top + tall
    if kind == "round" and half > 9 * SUPERSAMPLING:
        for _ in range(3):
            draw_leaves(stage, px + lean + dice.between(-0.45, 0.45) * half,
                        middle + dice.between(0.0, 0.5) * tall, 0.62 * half, 0.6 * tall,
                        scaled(leaves, 0.85), z)  # fmt: skip
    draw_leaves(stage, px + lean, middle, half, tall, leaves, z)


def _draw_fir(stage: Stage, px: float, foot: float, top: float, leaves: RGB, z: float) -> None:
    """Draw the tiers of a fir from the lowest to the highest."""
    tall = foot - top
    dark = mix(leaves, (0.10, 0.22, 0.16), 0.5)
    for tier in range(6):
        low = foot - tall * (0.12 + 0.14 * tier)
        half = tall * 0.22 * (1.0 - tier / 6.6)
        peak = max(top, low - 0.32 * tall)
        edge = [(px, peak)]
        edge += [
            (px + half * (1 - 2 * i / 8), low + stage.dice.between(-0.02, 0.03) * tall)
            for i in range(9)
        ]
        ink = stage.light.shade(scaled(dark, 0.75 + 0.1 * tier), z, 0.4 + 0.05 * tier)
        stage.canvas.polygon(edge, ink, Surface.FOLIAGE)


def _draw_branches(stage: Stage, x: float, y: float, length: float, girth: float, z: float) -> None:
    """Draw a crown without leaves; its twigs are as thin as they look."""
    ink = stage.light.shade(scaled(_BARK, 0.8), z, 0.4)
    tips = [(x, y, -math.pi / 2, length, girth)]
    for _ in range(3 if length > 8 * SUPERSAMPLING else 2):
        grown = []
        for bx, by, angle, reach, width in tips:
            for turn in (-0.55, 0.05, 0.6):
                heading = angle + turn + stage.dice.between(-0.2, 0.2)
                ex, ey = bx + reach * math.cos(heading), by + reach * math.sin(heading)
                stage.canvas.line(((bx, by), (ex, ey)), ink, max(1.5, width), Surface.FOLIAGE)
                grown.append((ex, ey, heading, 0.62 * reach, 0.5 * width))
        tips = grown


def draw_hedge(stage: Stage, x: float, z0: float, z1: float, height: float, leaves: RGB) -> None:
    """Draw a hedge along the street, as patches of leaves from far to near."""
    z = z1
    while z > z0:
        scale = stage.view.focal / z
        half = 0.55 * height * scale
        px, py = stage.view.point(x, 0.5 * height, z)
        if -2 * half < px < stage.view.width + 2 * half:
            canvas_points = _blob(stage.dice, px, py, 1.15 * half, half, 12)
            tone = stage.dice.tint(leaves, 0.14)
            stage.canvas.polygon(canvas_points, stage.light.shade(tone, z, 0.4), Surface.FOLIAGE)
            crown = _blob(stage.dice, px, py - 0.45 * half, half, 0.45 * half, 8)
            stage.canvas.polygon(crown, stage.light.shade(scaled(tone, 1.25), z, 0.7))
        z -= max(0.4, 0.5 * height * (0.7 + z / 25))


def draw_wood(stage: Stage, x0: float, x1: float, z: float, height: float, leaves: RGB) -> None:
    """Draw the edge of a far wood."""
    scale = stage.view.focal / z
    foot = stage.view.row(0.0, z)
    left, right = stage.view.column(x0, z), stage.view.column(x1, z)
    step = max(4.0 * SUPERSAMPLING, 0.35 * height * scale)
    px = left
    while px < right:
        tall = height * scale * stage.dice.between(0.6, 1.1)
        tone = stage.light.shade(stage.dice.tint(leaves, 0.2), z, 0.4)
        crown = _blob(stage.dice, px, foot - 0.55 * tall, 0.8 * step, 0.5 * tall, 8)
        stage.canvas.polygon(crown, tone, Surface.FOLIAGE)
        stage.canvas.rectangle(px - step, foot - 0.4 * tall, px + step, foot, tone, Surface.FOLIAGE)
        px += step
