"""Thin and small things beside the road: poles, lamps, signs, traffic lights, fences."""

import math

from tsic.data.scenes.houses import SHOUTING
from tsic.data.scenes.stage import RGB, SUPERSAMPLING, Dice, Stage, scaled
from tsic.data.scenes.surfaces import Surface

_METAL: tuple[RGB, ...] = (
    (0.34, 0.35, 0.36), (0.55, 0.56, 0.57), (0.16, 0.18, 0.18), (0.20, 0.28, 0.24),
    (0.72, 0.72, 0.70), (0.42, 0.34, 0.27),
)  # fmt: skip
_RED: RGB = (0.76, 0.09, 0.09)
_WHITE: RGB = (0.92, 0.92, 0.90)
_BLUE: RGB = (0.10, 0.28, 0.64)


def _pole(stage: Stage, x: float, z: float, height: float, radius: float, metal: RGB) -> None:
    """Draw an upright pole, at least one pixel wide in the finished picture."""
    scale = stage.view.focal / z
    half = max(0.5 * SUPERSAMPLING, radius * scale)
    px, foot = stage.view.point(x, 0.0, z)
    top = stage.view.row(height, z)
    light = stage.light
    stage.canvas.rectangle(
        px - half, top, px + half, foot, light.shade(metal, z, 0.4), Surface.POLE
    )
    side = 1.0 if light.direction[0] > 0 else -1.0
    bright = light.shade(scaled(metal, 1.35), z, 0.9, alpha=0.6)
    stage.canvas.rectangle(px + side * 0.1 * half, top, px + side * 0.8 * half, foot, bright)
    if light.shadow > 0.3:
        tip_x, tip_z = stage.shadow_of(x, z, min(height, 5.0))
        tx, ty = stage.view.point(tip_x, 0.0, tip_z)
        stage.shadow(((px - half, foot), (px + half, foot), (tx + 0.6 * half, ty),
                      (tx - 0.6 * half, ty)), 0.8)  # fmt: skip


def draw_lamp(stage: Stage, x: float, z: float) -> None:
    """Draw a street lamp whose arm reaches over the road."""
    dice, view = stage.dice, stage.view
    height, metal = dice.between(4.0, 8.5), dice.pick(_METAL)
    _pole(stage, x, z, height, 0.075, metal)
    scale = view.focal / z
    px, top = view.point(x, height, z)
    reach = -math.copysign(dice.between(0.8, 2.2), x) * scale if height > 5.5 else 0.0
    ink = stage.light.shade(metal, z, 0.4)
    if reach:
        arm = (px, top), (px + 0.4 * reach, top - 0.35 * scale), (px + reach, top - 0.4 * scale)
        stage.canvas.line(arm, ink, max(SUPERSAMPLING, 0.1 * scale), Surface.POLE)
        px, top = px + reach, top - 0.4 * scale
        head = 0.42 * scale
        stage.canvas.rectangle(px - head, top - 0.08 * scale, px + head, top + 0.12 * scale, ink,
                               Surface.POLE)  # fmt: skip
    else:
        ink = stage.light.shade((0.86, 0.86, 0.80), z, 0.6)
        stage.canvas.ellipse(px, top, 0.22 * scale, 0.28 * scale, ink, Surface.POLE)
    if stage.light.night > 0.5:
        radius = max(2.0 * SUPERSAMPLING, 0.9 * scale)
        stage.glow(px, top, radius, (1.0, 0.82, 0.52), ink)


def draw_mast(stage: Stage, x: float, z: float) -> None:
    """Draw a wooden mast with wires that lead on along the street."""
    height = stage.dice.between(6.5, 9.0)
    _pole(stage, x, z, height, 0.11, (0.36, 0.28, 0.20))
    scale = stage.view.focal / z
    px, top = stage.view.point(x, height - 0.5, z)
    ink = stage.light.shade((0.30, 0.24, 0.18), z, 0.4)
    stage.canvas.rectangle(px - 0.9 * scale, top, px + 0.9 * scale, top + 0.14 * scale, ink,
                           Surface.POLE)  # fmt: skip
    wire = stage.light.shade((0.10, 0.10, 0.11), z + 20.0, 0.3, alpha=0.8)
    for offset in (-0.8, 0.8):
        run = [stage.view.point(x + offset, height - 0.45 - 1.6 * t * (1 - t), z + 30.0 * t)
               for t in (0.0, 0.25, 0.5, 0.75, 1.0)]  # fmt: skip
        stage.canvas.line(run, wire, 1)


def draw_bollards(stage: Stage, x: float, z: float) -> None:
    """Draw a short row of bollards along the kerb."""
    metal = stage.dice.pick((*_METAL, _WHITE, _RED))
    for number in range(stage.dice.count(2, 4), -1, -1):
        _pole(stage, x, z + 1.6 * number, 0.95, 0.07, metal)


def draw_sign(stage: Stage, x: float, z: float) -> None:
    """Draw a traffic sign on its pole; some turn their grey backs."""
    dice, canvas, shade = stage.dice, stage.canvas, stage.light.shade
    height, size = dice.between(2.1, 2.9), dice.between(0.30, 0.42)
    _pole(stage, x, z, height, 0.04, dice.pick(_METAL[:5]))
    scale = stage.view.focal / z
    px, py = stage.view.point(x, height, z)
    r = max(1.2 * SUPERSAMPLING, size * scale)
    kind = dice.pick(("limit", "limit", "warning", "stop", "parking", "arrow", "back"))
    facing = stage.light.facing(0.0, 0.0, -1.0) * 0.6 + 0.3
    red, white, blue = (shade(dice.tint(c, 0.12), z, facing) for c in (_RED, _WHITE, _BLUE))
    if kind == "limit":
        canvas.ellipse(px, py, r, r, red, Surface.SIGN)
        canvas.ellipse(px, py, 0.72 * r, 0.72 * r, white)
        digits = shade((0.08, 0.08, 0.09), z, 0.5)
        for offset in (-0.28, 0.12):
            canvas.rectangle(px + offset * r, py - 0.3 * r, px + (offset + 0.2) * r, py + 0.3 * r,
                             digits)  # fmt: skip
    elif kind == "warning":
        for reach, ink, surface in ((1.15, red, Surface.SIGN), (0.68, white, None)):
            corners = [(px + reach * r * math.sin(t), py - reach * r * math.cos(t))
                       for t in (0.0, math.tau / 3, 2 * math.tau / 3)]  # fmt: skip
            canvas.polygon(corners, ink, surface)
    elif kind == "stop":
        corners = [(px + r * math.cos(t), py + r * math.sin(t))
                   for t in (math.tau * (i + 0.5) / 8 for i in range(8))]  # fmt: skip
        canvas.polygon(corners, red, Surface.SIGN)
        canvas.rectangle(px - 0.6 * r, py - 0.2 * r, px + 0.6 * r, py + 0.2 * r, white)
    elif kind == "back":
        canvas.ellipse(px, py, r, r, shade((0.52, 0.53, 0.54), z, facing), Surface.SIGN)
    else:
        canvas.rectangle(px - 0.9 * r, py - 0.9 * r, px + 0.9 * r, py + 0.9 * r, blue, Surface.SIGN)
        canvas.rectangle(px - 0.35 * r, py - 0.55 * r, px - 0.1 * r, py + 0.55 * r, white)
        if kind == "parking":
            canvas.ellipse(px + 0.05 * r, py - 0.25 * r, 0.4 * r, 0.33 * r, white)


def draw_traffic_light(stage: Stage, x: float, z: float) -> None:
    """Draw a traffic light; the box counts as a sign."""
    dice, canvas = stage.dice, stage.canvas
    height = dice.between(2.6, 3.6)
    _pole(stage, x, z, height, 0.06, dice.pick(_METAL[:4]))
    scale = stage.view.focal / z
    px, top = stage.view.point(x, height + 0.5, z)
    half = max(SUPERSAMPLING, 0.17 * scale)
    tall = max(2.6 * SUPERSAMPLING, 0.95 * scale)
    dark = stage.light.shade((0.09, 0.10, 0.09), z, 0.4)
    canvas.rectangle(px - half, top, px + half, top + tall, dark, Surface.SIGN)
    lit = dice.count(0, 2)
    lamps: tuple[RGB, ...] = ((1.0, 0.16, 0.10), (1.0, 0.72, 0.14), (0.18, 0.95, 0.50))
    for index, colour in enumerate(lamps):
        strength = 250 if index == lit else 60
        ink = (int(colour[0] * strength), int(colour[1] * strength), int(colour[2] * strength), 255)
        py = top + tall * (0.19 + 0.31 * index)
        canvas.ellipse(px, py, 0.6 * half, min(0.6 * half, 0.13 * tall), ink)
        if index == lit:
            stage.glow(px, py, 1.6 * half, scaled(colour, 0.5), ink)


def draw_gantry(stage: Stage, x0: float, x1: float, z: float) -> None:
    """Draw a bridge of poles over the road that carries big direction boards."""
    dice, light = stage.dice, stage.light
    metal = dice.pick(_METAL[:2])
    scale = stage.view.focal / z
    for x in (x0, x1):
        _pole(stage, x, z, 6.2, 0.14, metal)
    left, right = stage.view.column(x0, z), stage.view.column(x1, z)
    beam = stage.view.row(6.0, z)
    half = max(0.5 * SUPERSAMPLING, 0.16 * scale)
    stage.canvas.rectangle(left, beam - half, right, beam + half, light.shade(metal, z, 0.4),
                           Surface.POLE)  # fmt: skip
    board = dice.pick((_BLUE, (0.08, 0.40, 0.24), _WHITE))
    letters = scaled(_WHITE, 0.2) if board == _WHITE else _WHITE
    for share in (0.32, 0.7) if dice.chance(0.6) else (0.55,):
        px = left + share * (right - left)
        wide, tall = 1.5 * scale, 0.9 * scale
        canvas = stage.canvas
        canvas.rectangle(px - wide, beam - tall, px + wide, beam + tall, light.shade(board, z, 0.5),
                         Surface.SIGN)  # fmt: skip
        ink = light.shade(letters, z, 0.5)
        for row in (-0.45, 0.15):
            canvas.rectangle(px - 0.7 * wide, beam + row * tall, px + dice.between(0.0, 0.7) * wide,
                             beam + (row + 0.25) * tall, ink)  # fmt: skip


def choose_fence(dice: Dice) -> tuple[str, RGB]:
    """Choose the kind and the colour of a fence."""
    kind = dice.pick(("rails", "pickets", "mesh", "guard"))
    painted = scaled(dice.pick(SHOUTING), 0.7)
    return kind, dice.pick((*_METAL, _WHITE, (0.44, 0.32, 0.20), painted))


def draw_fence(stage: Stage, x: float, z0: float, z1: float, look: tuple[str, RGB]) -> None:
    """Draw a fence along the street; what is seen through it counts as fence.

    Args:
        stage: Where to draw.
        x: Its place, metres right of the camera.
        z0: Where it begins.
        z1: Where it ends.
        look: Kind and colour, from `choose_fence`.
    """
    view, light, canvas = stage.view, stage.light, stage.canvas
    kind, colour = look
    height = {"rails": 1.05, "pickets": 1.2, "mesh": 1.9, "guard": 0.75}[kind]
    bottom = 0.4 if kind == "guard" else 0.0
    z = z1
    while z > z0:
        near = max(z0, z - max(1.5, 0.18 * z))
        panel = [view.point(x, y, d) for y, d in
                 ((bottom, near), (bottom, z), (height, z), (height, near))]  # fmt: skip
        veil = {"rails": 0.22, "pickets": 0.55, "mesh": 0.30, "guard": 1.0}[kind]
        canvas.polygon(panel, light.shade(colour, z, 0.4, alpha=veil), Surface.FENCE)
        ink = light.shade(colour, z, 0.5)
        for y in (0.5 * height, height) if kind != "guard" else (0.58,):
            rail = view.point(x, y, near), view.point(x, y, z)
            tone = ink if kind != "guard" else light.shade(scaled(colour, 0.6), z, 0.3)
            canvas.line(rail, tone, max(1.2, 0.07 * view.focal / z), Surface.FENCE)
        _draw_slats(stage, x, (near, z), height, kind, colour)
        z = near


def _draw_slats(
    stage: Stage, x: float, span: tuple[float, float], height: float, kind: str, colour: RGB
) -> None:
    """Draw the posts or slats of one panel, as dense as can be seen."""
    near, far = span
    view = stage.view
    step = {"rails": 1.5, "pickets": 0.22, "mesh": 0.35, "guard": 2.0}[kind]
    pixels = abs(view.column(x, near) - view.column(x, far))
    count = int(min((far - near) / step, pixels / (1.6 * SUPERSAMPLING)))
    ink = stage.light.shade(scaled(colour, 0.92), near, 0.5)
    for number in range(max(1, count)):
        z = near + (far - near) * number / max(1, count)
        ends = view.point(x, 0.0, z), view.point(x, height + 0.06, z)
        stage.canvas.line(ends, ink, max(1.0, 0.06 * view.focal / z), Surface.FENCE)
