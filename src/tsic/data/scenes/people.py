"""People on foot and on bicycles."""

import math

from tsic.data.scenes.houses import SHOUTING
from tsic.data.scenes.stage import RGB, Dice, Ink, Point, Stage, scaled
from tsic.data.scenes.surfaces import Surface

_SKIN: tuple[RGB, ...] = (
    (0.88, 0.68, 0.56), (0.76, 0.54, 0.40), (0.52, 0.34, 0.24), (0.34, 0.22, 0.16),
)  # fmt: skip
_HAIR: tuple[RGB, ...] = (
    (0.10, 0.08, 0.07), (0.28, 0.18, 0.10), (0.60, 0.46, 0.24), (0.62, 0.60, 0.58),
)  # fmt: skip
_DULL: tuple[RGB, ...] = (
    (0.14, 0.16, 0.24), (0.20, 0.20, 0.22), (0.40, 0.38, 0.34), (0.50, 0.44, 0.36),
    (0.26, 0.30, 0.40), (0.62, 0.62, 0.62), (0.34, 0.36, 0.26), (0.44, 0.28, 0.22),
)  # fmt: skip


def _cloth(dice: Dice) -> RGB:
    """Choose the colour of a garment; most are dull."""
    return dice.tint(dice.pick(SHOUTING if dice.chance(0.35) else _DULL), 0.2)


class _Figure:
    """Draws limbs of one body: places in metres from its foot, sideways and up."""

    def __init__(self, stage: Stage, x: float, z: float, surface: Surface) -> None:
        self.stage, self.z, self.surface = stage, z, surface
        self.px, self.foot = stage.view.point(x, 0.0, z)
        self.scale = stage.view.focal / z

    def at(self, u: float, y: float) -> Point:
        return self.px + u * self.scale, self.foot - y * self.scale

    def ink(self, colour: RGB, facing: float = 0.5) -> Ink:
        return self.stage.light.shade(colour, self.z, facing)

    def limb(self, start: Point, end: Point, w0: float, w1: float, ink: Ink) -> None:
        """Draw a limb that tapers from one width to another."""
        (x0, y0), (x1, y1) = self.at(*start), self.at(*end)
        length = math.hypot(x1 - x0, y1 - y0) or 1.0
        nx, ny = -(y1 - y0) / length * 0.5 * self.scale, (x1 - x0) / length * 0.5 * self.scale
        self.stage.canvas.polygon(
            ((x0 + nx * w0, y0 + ny * w0), (x1 + nx * w1, y1 + ny * w1),
             (x1 - nx * w1, y1 - ny * w1), (x0 - nx * w0, y0 - ny * w0)),
            ink, self.surface,
        )  # fmt: skip

    def shape(self, points: tuple[Point, ...], ink: Ink) -> None:
        self.stage.canvas.polygon([self.at(*p) for p in points], ink, self.surface)

    def disc(self, u: float, y: float, ru: float, ry: float, ink: Ink) -> None:
        px, py = self.at(u, y)
        self.stage.canvas.ellipse(px, py, ru * self.scale, ry * self.scale, ink, self.surface)


def _cast_shadow(stage: Stage, x: float, z: float, height: float) -> None:
    """Darken the ground where a thin upright body takes the light."""
    px, py = stage.view.point(x, 0.0, z)
    scale = stage.view.focal / z
    flat = 0.3 * scale * stage.view.eye_m / z
    stage.canvas.ellipse(px, py, 0.34 * scale, flat, (10, 10, 16, 110))
    if stage.light.shadow > 0.3:
        tip_x, tip_z = stage.shadow_of(x, z, height)
        tx, ty = stage.view.point(tip_x, 0.0, tip_z)
        wide, thin = 0.2 * scale, 0.14 * stage.view.focal / tip_z
        stage.shadow(((px - wide, py), (px + wide, py), (tx + thin, ty), (tx - thin, ty)), 0.9)


def draw_person(stage: Stage, x: float, z: float) -> None:
    """Draw somebody standing or walking: grown up or a child, in trousers, skirt or coat."""
    dice = stage.dice
    tall = dice.between(1.0, 1.35) if dice.chance(0.14) else dice.between(1.55, 1.9)
    _cast_shadow(stage, x, z, tall)
    body = _Figure(stage, x, z, Surface.PERSON)
    h = tall / 1.75
    stride = dice.between(-0.28, 0.28)
    skin, hair = dice.tint(dice.pick(_SKIN), 0.12), dice.pick(_HAIR)
    shirt, trousers = _cloth(dice), _cloth(dice)
    style = dice.pick(("trousers", "trousers", "skirt", "coat"))
    legs = skin if style == "skirt" else trousers
    lean = 0.04 * stride
    for sign, tone in ((-1.0, 0.8), (1.0, 1.0)):
        knee, foot = (
            (sign * (0.07 + 0.5 * stride) * h, 0.46 * h),
            (sign * (0.08 + stride) * h, 0.06),
        )
        body.limb(
            (0.07 * sign * h, 0.9 * h), knee, 0.19 * h, 0.15 * h, body.ink(scaled(legs, tone))
        )
        body.limb(knee, foot, 0.15 * h, 0.10 * h, body.ink(scaled(legs, tone)))
        body.disc(foot[0] + 0.04, 0.05, 0.11 * h, 0.055 * h, body.ink((0.12, 0.10, 0.09)))
    hem = {"trousers": 0.82, "skirt": 0.52, "coat": 0.58}[style]
    if style != "trousers":
        lower = trousers if style == "skirt" else shirt
        body.shape(((-0.2 * h, hem * h), (0.2 * h, hem * h), (0.14 * h, 1.02 * h),
                    (-0.14 * h, 1.02 * h)), body.ink(lower))  # fmt: skip
    body.shape(((-0.16 * h, 0.84 * h), (0.16 * h, 0.84 * h), (0.21 * h + lean, 1.40 * h),
                (0.10 * h + lean, 1.48 * h), (-0.10 * h + lean, 1.48 * h),
                (-0.21 * h + lean, 1.40 * h)), body.ink(shirt, 0.6))  # fmt: skip
    for sign, tone in ((-1.0, 0.82), (1.0, 0.92)):
        swing = -sign * stride * 0.7
        elbow = (sign * 0.25 * h + 0.5 * swing * h, 1.12 * h)
        hand = (sign * 0.25 * h + 1.1 * swing * h, 0.88 * h)
        body.limb((sign * 0.2 * h, 1.38 * h), elbow, 0.12 * h, 0.10 * h,
                  body.ink(scaled(shirt, tone)))  # fmt: skip
        body.limb(elbow, hand, 0.10 * h, 0.08 * h, body.ink(scaled(shirt, tone)))
        body.disc(hand[0], hand[1] - 0.03 * h, 0.05 * h, 0.06 * h, body.ink(skin))
    body.limb((lean, 1.42 * h), (lean, 1.54 * h), 0.11 * h, 0.10 * h, body.ink(scaled(skin, 0.9)))
    _draw_head(body, lean, 1.62 * h, h, skin, hair)
    _draw_extras(body, h)


def _draw_head(body: _Figure, u: float, y: float, h: float, skin: RGB, hair: RGB) -> None:
    """Draw a head with hair, seen from the front, the side or behind."""
    turn = body.stage.dice.pick((-0.05, 0.0, 0.05, 0.3))
    body.disc(u, y + 0.01 * h, 0.105 * h, 0.135 * h, body.ink(hair))
    if turn < 0.2:
        body.disc(u + turn * h, y - 0.02 * h, 0.08 * h, 0.105 * h, body.ink(skin, 0.6))


def _draw_extras(body: _Figure, h: float) -> None:
    """Draw a bag, a rucksack or an umbrella, now and then."""
    dice = body.stage.dice
    if dice.chance(0.2):
        bag = body.ink(_cloth(dice))
        body.shape(((0.2 * h, 0.62 * h), (0.42 * h, 0.62 * h), (0.40 * h, 0.88 * h),
                    (0.23 * h, 0.88 * h)), bag)  # fmt: skip
    elif dice.chance(0.15):
        body.disc(0.0, 1.16 * h, 0.17 * h, 0.22 * h, body.ink(_cloth(dice)))
    if dice.chance(0.05 + 0.5 * body.stage.light.wet):
        body.limb((0.18 * h, 1.0 * h), (0.12 * h, 1.95 * h), 0.04, 0.04, body.ink((0.2, 0.2, 0.2)))
        arc = [(0.12 + 0.56 * math.cos(t), 1.78 + 0.34 * math.sin(t))
               for t in (math.pi * i / 8 for i in range(9))]  # fmt: skip
        body.shape(tuple((u * h, y * h) for u, y in arc), body.ink(_cloth(dice), 0.8))


def draw_cyclist(stage: Stage, x: float, z: float, *, across: bool) -> None:
    """Draw somebody on a bicycle, from the side (``across``) or from behind."""
    _cast_shadow(stage, x, z, 1.5)
    body = _Figure(stage, x, z, Surface.CYCLIST)
    shirt, trousers, skin = _cloth(stage.dice), _cloth(stage.dice), stage.dice.pick(_SKIN)
    frame = body.ink(stage.dice.tint(stage.dice.pick(SHOUTING), 0.2))
    if across:
        _draw_from_side(body, stage.dice.pick((-1.0, 1.0)), shirt, trousers, skin, frame)
    else:
        _draw_from_behind(body, shirt, trousers, skin, frame)


def _draw_from_side(
    body: _Figure, d: float, shirt: RGB, trousers: RGB, skin: RGB, frame: Ink
) -> None:
    """Draw a cyclist who rides to the right (``d`` 1) or to the left (-1)."""
    rubber = body.ink((0.08, 0.08, 0.09))
    for u in (-0.52, 0.52):
        px, py = body.at(u, 0.34)
        r = 0.34 * body.scale
        body.stage.canvas.ellipse(px, py, r, r, (*rubber[:3], 70), Surface.CYCLIST)
        ring = [(px + r * math.cos(t), py + r * math.sin(t))
                for t in (math.tau * i / 16 for i in range(17))]  # fmt: skip
        body.stage.canvas.line(ring, rubber, max(1.5, 0.06 * body.scale), Surface.CYCLIST)
    hub, saddle, crank = (-0.52, 0.34), (-0.2, 0.9), (0.0, 0.32)
    head, bar = (0.4, 0.82), (0.38, 1.02)
    bones = ((hub, saddle), (hub, crank), (crank, saddle), (crank, head), (saddle, head),
             ((0.52, 0.34), bar), (bar, (0.5, 1.04)))  # fmt: skip
    for (u0, y0), (u1, y1) in bones:
        body.limb((d * u0, y0), (d * u1, y1), 0.05, 0.05, frame)
    for lift, tone in ((0.24, 0.75), (0.0, 1.0)):
        knee = (d * (0.16 - 0.1 * lift), 0.68 + lift)
        body.limb((-0.18 * d, 0.96), knee, 0.18, 0.14, body.ink(scaled(trousers, tone)))
        body.limb(knee, (0.02 * d, 0.22 + lift), 0.14, 0.10, body.ink(scaled(trousers, tone)))
    body.limb((-0.2 * d, 0.94), (0.06 * d, 1.46), 0.30, 0.34, body.ink(shirt, 0.6))
    body.limb((0.06 * d, 1.40), (0.42 * d, 1.06), 0.11, 0.08, body.ink(scaled(shirt, 0.85)))
    _draw_rider_head(body, 0.17 * d, 1.62, skin)


def _draw_from_behind(body: _Figure, shirt: RGB, trousers: RGB, skin: RGB, frame: Ink) -> None:
    """Draw a cyclist who rides ahead or comes near."""
    rubber = body.ink((0.08, 0.08, 0.09))
    body.limb((0.0, 0.0), (0.0, 0.68), 0.07, 0.07, rubber)
    body.limb((-0.28, 1.02), (0.28, 1.02), 0.05, 0.05, frame)
    for sign, lift in ((-1.0, 0.2), (1.0, 0.0)):
        knee = (sign * 0.16, 0.62 + lift)
        body.limb((sign * 0.1, 0.95), knee, 0.18, 0.14, body.ink(trousers))
        body.limb(knee, (sign * 0.12, 0.18 + lift), 0.13, 0.10, body.ink(scaled(trousers, 0.85)))
    body.shape(((-0.19, 0.88), (0.19, 0.88), (0.23, 1.42), (0.09, 1.50), (-0.09, 1.50),
                (-0.23, 1.42)), body.ink(shirt, 0.6))  # fmt: skip
    for sign in (-1.0, 1.0):
        body.limb((sign * 0.21, 1.38), (sign * 0.29, 1.04), 0.11, 0.08,
                  body.ink(scaled(shirt, 0.85)))  # fmt: skip
    _draw_rider_head(body, 0.0, 1.62, skin)


def _draw_rider_head(body: _Figure, u: float, y: float, skin: RGB) -> None:
    """Draw a head, most often under a helmet."""
    body.disc(u, y, 0.10, 0.13, body.ink(skin, 0.6))
    dice = body.stage.dice
    cover = dice.pick(SHOUTING) if dice.chance(0.65) else dice.pick(_HAIR)
    arc = [(u + 0.125 * math.cos(t), y + 0.02 + 0.14 * math.sin(t))
           for t in (math.pi * i / 6 for i in range(7))]  # fmt: skip
    body.shape(tuple(arc), body.ink(cover, 0.7))
